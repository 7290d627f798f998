use serde_json::Value;

use crate::essence::checkpoints;
use crate::program::{TRAIN, text, tiny, with};

/// A learning rate that no run survives, and what it takes to see it.
const DIVERGING: [&str; 4] = ["--set", "optimizer.learning_rate=1e38", "--set", "optimizer.clip=0"];

/// What makes a run go on that did not survive it.
const HEALED: [&str; 6] =
    ["resume", "tiny", "--set", "optimizer.learning_rate=0.004", "--set", "optimizer.clip=1"];

#[test]
fn a_run_that_diverges_tells_of_it_and_keeps_what_was_good() {
    let folder = tiny();
    let done = folder.run(&with(&TRAIN, &DIVERGING));
    assert_eq!(done.code, 1, "{}", done.stderr);
    for words in
        ["training diverged at step", "the checkpoint of step 0 stands", "resume runs/tiny"]
    {
        assert!(done.stderr.contains(words), "{words:?} is not in {}", done.stderr);
    }
    let report = folder.json("runs/tiny/divergence.json");
    assert_eq!(report["lanes"].as_array().unwrap().len(), 2);
    let lane = &report["lanes"][1];
    let (start, end) = (lane["start"].as_u64().unwrap(), lane["end"].as_u64().unwrap());
    assert_eq!(end - start, 16);
    let read: String = text(2_000).chars().skip(start as usize).take(16).collect();
    assert_eq!(lane["text"], read);
    let paths: Vec<&str> = report["parameters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|parameter| parameter["path"].as_str().unwrap())
        .collect();
    assert!(paths.contains(&"lstm.layers.1.weight_recurrent"), "{paths:?}");
    assert!(report["parameters"][0]["gradient_norm"].is_string());
    // What it advises helps.
    folder.ok(&HEALED);
}

#[test]
fn a_run_that_diverges_can_go_back_by_itself() {
    let folder = tiny();
    let back = [
        "--set",
        "train.on_divergence=rollback",
        "--set",
        "train.rollback_factor=1e-20",
        "--set",
        "train.epochs=3",
    ];
    let arguments = with(&with(&TRAIN, &DIVERGING), &back);
    let done = folder.ok(&arguments);
    let twice = "(2 of 3 times)";
    assert!(done.stderr.contains(twice), "{}", done.stderr);
    let events = String::from_utf8(folder.read("runs/tiny/events.jsonl")).unwrap();
    let events: Vec<Value> =
        events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let count = |name: &str| events.iter().filter(|event| event["event"] == name).count();
    assert_eq!((count("diverged"), count("rolled back")), (2, 2), "{events:?}");
    let metrics = String::from_utf8(folder.read("runs/tiny/metrics.jsonl")).unwrap();
    let first: Value = serde_json::from_str(metrics.lines().next().unwrap()).unwrap();
    let rate = first["learning_rate"].as_f64().unwrap();
    assert!((0.0..1e-1).contains(&rate), "the rate was lowered: {rate}");

    // Not more often than it may.
    let once = with(&arguments, &["--force", "--set", "train.rollbacks=1"]);
    let done = folder.run(&once);
    assert_eq!(done.code, 1, "{}", done.stderr);
    assert!(done.stderr.contains("(1 of 1 times)"), "{}", done.stderr);
}

#[test]
fn a_rollback_goes_behind_the_step_that_cannot_be_saved() {
    let folder = tiny();
    // A checkpoint behind every step: the newest has the weights that give no number.
    let every_step = [
        "--set",
        "checkpoint.every_seconds=0",
        "--set",
        "train.on_divergence=rollback",
        "--set",
        "train.rollback_factor=1e-20",
    ];
    let done = folder.ok(&with(&with(&TRAIN, &DIVERGING), &every_step));
    assert!(done.stderr.contains("back to the checkpoint of step 0"), "{}", done.stderr);
    assert!(done.stderr.contains("(2 of 3 times)"), "{}", done.stderr);
    let put_away = folder.join("runs/tiny/checkpoints/step-00000001.safetensors.diverged");
    assert!(put_away.exists(), "nothing is thrown away");
}

#[test]
fn a_run_that_diverged_is_resumed_from_before_the_weights_that_failed() {
    let folder = tiny();
    let every_step = ["--set", "checkpoint.every_seconds=0", "--set", "checkpoint.keep=3"];
    let done = folder.run(&with(&with(&TRAIN, &DIVERGING), &every_step));
    assert_eq!(done.code, 1, "{}", done.stderr);
    assert!(done.stderr.contains("the checkpoint of step 0 stands"), "{}", done.stderr);
    folder.ok(&HEALED);
}

#[test]
fn another_kind_of_average_begins_anew() {
    let folder = tiny();
    let averaged = ["--set", "average.kind=exponential"];
    folder.ok(&with(&TRAIN, &averaged));
    let run = folder.join("runs/tiny");
    let has_average = || {
        let bytes = std::fs::read(checkpoints(&run).pop().unwrap()).unwrap();
        let (tensors, _) = poquelin::weights::from_safetensors(&bytes).unwrap();
        tensors.keys().any(|name| name.starts_with("average."))
    };
    assert!(has_average());
    let without = ["resume", "tiny", "--epochs", "4", "--set", "average.kind=none"];
    let done = folder.ok(&without);
    assert!(done.stderr.contains("changed: average.kind: was"), "{}", done.stderr);
    assert!(!has_average(), "no old average is kept as the model");
    folder.ok(&["resume", "tiny", "--epochs", "6", "--set", "average.kind=exponential"]);
    assert!(has_average());
    // Nor does a rollback bring it back.
    let back = ["--set", "train.on_divergence=rollback", "--set", "train.rollback_factor=1e-20"];
    let without = ["resume", "tiny", "--epochs", "8", "--set", "average.kind=none"];
    let done = folder.ok(&with(&with(&without, &DIVERGING), &back));
    assert!(done.stderr.contains("(2 of 3 times)"), "{}", done.stderr);
    assert!(!has_average(), "the average is dropped for good");
}
