use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::program::{CPU, Done, Folder, tiny, with};

/// Four trials, of which the untrained one is the worst.
const GRID: &str = r#"
config = "../tiny.toml"
kind = "grid"
[set]
"checkpoint.every_seconds" = 0.05
[search]
"model.hidden" = [6, 12]
"optimizer.learning_rate" = [1e-9, 0.01]
"#;

fn folder(sweep: &str) -> Folder {
    let folder = tiny();
    std::fs::create_dir(folder.join("sweeps")).unwrap();
    folder.write("sweeps/small.toml", sweep);
    folder
}

const SWEEP: [&str; 4] = ["sweep", "sweeps/small.toml", "--device", CPU];

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn kept(folder: &Folder) -> Vec<Value> {
    lines(&String::from_utf8(folder.read("runs/small/trials.jsonl")).unwrap())
}

/// What must not depend on the machine's speed.
fn scores(folder: &Folder) -> Vec<(String, String, f64, u64)> {
    let score = |line: Value| {
        (
            line["trial"].as_str().unwrap().to_owned(),
            line["set"].to_string(),
            line["valid"].as_f64().unwrap(),
            line["best_epoch"].as_u64().unwrap(),
        )
    };
    kept(folder).into_iter().map(score).collect()
}

#[test]
fn a_grid_is_compared_on_validation_text() {
    let folder = folder(GRID);
    let done = folder.ok(&SWEEP);
    let headings: Vec<&str> =
        done.stderr.lines().filter(|line| line.starts_with("trial ")).collect();
    assert_eq!(headings.len(), 4, "{}", done.stderr);
    assert_eq!(headings[0], "trial 1 of 4: model.hidden=6 optimizer.learning_rate=1e-9");
    assert_eq!(headings[3], "trial 4 of 4: model.hidden=12 optimizer.learning_rate=0.01");

    let rows: Vec<Vec<&str>> =
        done.stdout.lines().take(5).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0][..3], ["trial", "model.hidden", "optimizer.learning_rate"]);
    let losses: Vec<f64> = rows[1..].iter().map(|row| row[3].parse().unwrap()).collect();
    assert!(losses.is_sorted(), "{}", done.stdout);
    for row in &rows[1..3] {
        assert_eq!(row[2], "0.01", "{}", done.stdout);
    }
    for row in &rows[1..] {
        let run = format!("runs/small/{}", row[0]);
        let summary = folder.json(&format!("{run}/summary.json"));
        assert_eq!(summary["test"], Value::Null, "nobody has seen the test part");
        let nats = summary["valid"]["nats_per_char"].as_f64().unwrap();
        assert_eq!(format!("{nats:.4}"), row[3]);
        let metrics = String::from_utf8(folder.read(&format!("{run}/metrics.jsonl"))).unwrap();
        assert!(lines(&metrics).iter().all(|line| line["split"] != "test"));
    }
    assert_eq!(folder.read("runs/small/sweep.toml"), GRID.as_bytes());
    let figure = String::from_utf8(folder.read("runs/small/sweep.svg")).unwrap();
    for text in ["model.hidden", "optimizer.learning_rate", "validation, nats per character"] {
        assert!(figure.lines().any(|line| line == text), "{text} in {figure}");
    }
    assert!(!figure.contains("NaN"));

    // The commands it ends with work as they stand, and the last one trains the best again.
    for command in done.stdout.lines().rev().take(3) {
        let mut shell = Command::new("sh");
        let done = shell.args(["-c", command]).current_dir(folder.path()).output().unwrap();
        assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
    }
    let best = format!("runs/small/{}/summary.json", rows[1][0]);
    let (trial, again) = (folder.json(&best), folder.json("runs/small-best/summary.json"));
    assert_eq!(trial["valid"], again["valid"]);
    assert!(again["test"]["nats_per_char"].is_f64(), "a run of its own is tested");

    // Once more there is nothing to train.
    let again = folder.ok(&with(&SWEEP, &["--json"]));
    assert!(!again.stderr.contains("trial 1 of"), "{}", again.stderr);
    assert!(again.stderr.contains("4 of 4 trials have ended"), "{}", again.stderr);
    assert_eq!(lines(&again.stdout), kept(&folder));
}

#[test]
#[cfg(unix)]
fn an_interrupted_sweep_becomes_the_one_it_would_have_been() {
    let sweep = GRID.replace("[set]", "[set]\ntrain.epochs = 40");
    let (whole, cut) = (folder(&sweep), folder(&sweep));
    whole.ok(&SWEEP);
    for (trial, signal, code) in [(2, "INT", 130), (3, "TERM", 143)] {
        let mut child =
            cut.command(&SWEEP).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let (mut line, mut reached) = (String::new(), false);
        while !(reached && line.starts_with("epoch 3/")) {
            line.clear();
            assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "it ended early");
            reached |= line.starts_with(&format!("trial {trial} of 4"));
        }
        let id = child.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &id]).status().unwrap().success());
        let mut rest = String::new();
        stderr.read_to_string(&mut rest).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code), "{rest}");
        let ended = format!("{} of 4 trials have ended", trial - 1);
        let saved = format!("runs/small/00{trial} is saved as of step");
        let words = [ended.as_str(), &saved, "go on with `", "sweep sweeps/small.toml"];
        assert!(words.iter().all(|word| rest.contains(word)), "{words:?} in {rest}");
    }
    let done = cut.ok(&SWEEP);
    assert!(done.stderr.contains("the same bits as without a break"), "{}", done.stderr);
    assert_eq!(scores(&cut), scores(&whole));
}

#[test]
fn another_sweep_keeps_the_trials_that_it_has_too() {
    let folder = folder(GRID);
    folder.ok(&SWEEP);
    let before = scores(&folder);
    folder.write("sweeps/small.toml", GRID.replace("[6, 12]", "[12, 8]"));
    let done = folder.ok(&SWEEP);
    assert!(done.stderr.contains("2 of its 4 trials are in runs/small already"), "{}", done.stderr);
    assert!(done.stderr.contains("2 of the trials in runs/small have another"), "{}", done.stderr);
    let after = scores(&folder);
    assert_eq!(after.len(), 4);
    let same: Vec<_> = before.iter().filter(|trial| after.contains(trial)).collect();
    assert_eq!(same.len(), 2, "{before:?} {after:?}");
    assert!(same.iter().all(|trial| trial.1.contains("12")), "{same:?}");
}

#[test]
fn draws_follow_from_their_seed_and_divergence_ends_no_sweep() {
    let random = r#"
config = "../tiny.toml"
kind = "random"
trials = 4
seed = 5
[set]
train.epochs = 1
[search]
model.hidden = { from = 4, to = 12 }
optimizer.learning_rate = { from = 1e-4, to = 1e-1, scale = "log" }
optimizer.clip = [0.0]
"#;
    let folder = folder(random);
    let trials = lines(&folder.ok(&with(&SWEEP, &["--json"])).stdout);
    assert_eq!(trials.len(), 4);
    for trial in &trials {
        let set = &trial["set"];
        assert!((4..=12).contains(&set["model.hidden"].as_u64().unwrap()), "{set}");
        let rate = set["optimizer.learning_rate"].as_f64().unwrap();
        assert!((1e-4..=1e-1).contains(&rate), "{set}");
    }
    // More draws begin with the same ones.
    let more = random.replace("trials = 4", "trials = 5");
    folder.write("sweeps/small.toml", &more);
    let done = folder.ok(&SWEEP);
    assert_eq!(done.stderr.lines().filter(|line| line.starts_with("trial ")).count(), 1);

    let wild = more
        .replace("trials = 5", "trials = 12")
        .replace("{ from = 1e-4, to = 1e-1, scale = \"log\" }", "[1e38, 0.01]")
        .replace("{ from = 4, to = 12 }", "[8]");
    folder.write("sweeps/wild.toml", wild);
    let arguments = ["sweep", "sweeps/wild.toml", "--device", CPU];
    let done = folder.ok(&arguments);
    assert!(done.stderr.contains("only 2 of 12 trials are different"), "{}", done.stderr);
    let rows: Vec<&str> = done.stdout.lines().take(3).collect();
    assert!(rows[2].contains("diverged at step"), "{}", done.stdout);
    // Nor does what somebody keeps beside the trials.
    folder.write("runs/wild/.DS_Store", "");
    folder.write("runs/wild/notes.md", "the second is hopeless");
    let again = folder.ok(&arguments);
    assert!(again.stderr.contains("2 of 2 trials have ended"), "{}", again.stderr);
    assert_eq!(again.stdout.lines().take(3).collect::<Vec<_>>(), rows);
}

#[test]
fn bad_sweeps_touch_nothing() {
    let folder = folder(GRID);
    let refused = |sweep: &str, words: &[&str]| -> Done {
        folder.write("sweeps/small.toml", sweep);
        let before = folder.files();
        let done = folder.run(&SWEEP);
        assert_eq!(done.code, 2, "{sweep}: {}", done.stderr);
        for word in words {
            assert!(done.stderr.contains(word), "{word:?} is not in {}", done.stderr);
        }
        assert!(folder.files() == before, "{sweep}: something was written");
        done
    };
    let hidden = |values: &str| GRID.replace("[6, 12]", values);
    refused("kind = \"grid\"\nkinds = 3", &["sweeps/small.toml", "kinds"]);
    refused("kind = \"guess\"", &["guess", "grid"]);
    refused("kind = \"grid\"", &["search: expected at least one key"]);
    refused(&hidden("[]"), &["model.hidden: expected a list with at least one value"]);
    refused(&hidden("12"), &["model.hidden: expected a list of values, or a range, got 12"]);
    refused(&hidden("[6, 0]"), &["model.hidden: expected a whole number of at least 1, got 0"]);
    refused(&hidden("[6, \"x\"]"), &["sweeps/small.toml: model.hidden", "got a text"]);
    refused(&hidden("{ from = 1, to = 2 }"), &["model.hidden", "needs kind = \"random\""]);
    refused(&GRID.replace("model.hidden", "model.hiden"), &["did you mean model.hidden?"]);
    refused(&GRID.replace("checkpoint.every", "checkpoint.evry"), &["checkpoint.evry_seconds"]);
    refused(&GRID.replace("tiny.toml", "none.toml"), &["none.toml"]);
    refused(&GRID.replace("kind", "trials = 3\nkind"), &["trials", "random"]);
    let set = |line: &str| GRID.replace("[set]", &format!("[set]\n{line}"));
    refused(&set("data.valid = 0.0"), &["data.valid: expected a share above 0", "got 0"]);
    refused(&set("data.batch = 1000"), &["too few for 1000 lanes"]);
    refused(&set("model.hidden = 3"), &["model.hidden", "under [set] or under [search]"]);
    for key in ["data.valid", "data.take", "train.threads"] {
        refused(&GRID.replace("model.hidden", key), &[key, "under [set]"]);
    }
    let many: Vec<String> = (1..=32).map(|count| count.to_string()).collect();
    let many = format!("[{}]", many.join(", "));
    refused(&GRID.replace("[6, 12]", &many).replace("[1e-9, 0.01]", &many), &["1000", "got 1024"]);

    let random = |values: &str, trials: &str| {
        hidden(values).replace("\"grid\"", &format!("\"random\"\n{trials}"))
    };
    refused(&random("[6]", ""), &["trials: expected a number of draws"]);
    refused(&random("{ from = 5, to = 4 }", "trials = 2"), &["model.hidden", "goes up"]);
    refused(&random("{ from = 0, to = 4, scale = \"log\" }", "trials = 2"), &["above 0"]);
    refused(&random("{ from = 2, till = 4 }", "trials = 2"), &["model.hidden", "till"]);

    // Nor is anything written among what is no sweep's.
    folder.write("sweeps/small.toml", GRID);
    std::fs::create_dir_all(folder.join("runs/small")).unwrap();
    folder.write("runs/small/precious", "data");
    let done = folder.run(&SWEEP);
    assert_eq!(done.code, 2);
    assert!(done.stderr.contains("runs/small is not the folder of a sweep: it holds precious"));
}

#[test]
fn one_key_at_a_time_begins_with_none() {
    let rates = r#""optimizer.learning_rate" = [1e-9, 0.01]"#;
    let each = GRID.replace("grid", "each").replace(rates, r#""model.layers" = [2, 1]"#);
    let done = folder(&each).ok(&SWEEP);
    let headings: Vec<&str> =
        done.stderr.lines().filter(|line| line.starts_with("trial ")).collect();
    // Two of the values are those to begin with.
    let expected = [
        "trial 1 of 3: model.hidden=12 model.layers=2",
        "trial 2 of 3: model.hidden=6 model.layers=2",
        "trial 3 of 3: model.hidden=12 model.layers=1",
    ];
    assert_eq!(headings, expected, "{}", done.stderr);
}

#[test]
fn a_sweep_outlives_its_terminal_and_a_hopeless_trial() {
    // Of the first the loss is no number; of the second it is so large that its exponential is none.
    let sweep = r#"
config = "../tiny.toml"
kind = "grid"
[set]
optimizer.clip = 0.0
optimizer.weight_decay = 0.0
schedule.kind = "constant"
[search]
optimizer.learning_rate = [1e38, 700.0, 0.01]
"#;
    let folder = folder(sweep);
    let mut child =
        folder.command(&SWEEP).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let hopeless = folder.json("runs/small/002/summary.json");
    assert!(hopeless["train"]["nats_per_char"].as_f64().unwrap() > 709.0, "{hopeless}");
    assert!(hopeless["train"]["perplexity"].is_null(), "{hopeless}");
    let again = folder.ok(&SWEEP);
    assert!(again.stderr.contains("3 of 3 trials have ended"), "{}", again.stderr);
    let finished = folder.ok(&["resume", "runs/small/002", "--device", CPU]);
    assert!(finished.stderr.contains("is finished, with 2 epochs"), "{}", finished.stderr);
    folder.ok(&["evaluate", "runs/small/002", "--device", CPU]);
}
