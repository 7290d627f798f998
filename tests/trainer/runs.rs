use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::essence::assert_same;
use crate::program::{CPU, Folder, TRAIN, done, text, tiny, with};

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn last_json(stdout: &str) -> Value {
    serde_json::from_str(stdout.lines().last().unwrap()).unwrap()
}

#[test]
fn a_run_leaves_what_it_promises() {
    let folder = tiny();
    let run = folder.ok(&with(&TRAIN, &["--json"]));
    let summary = last_json(&run.stdout);
    let expected = [
        "backend",
        "chars_per_second",
        "epochs",
        "parameters",
        "run",
        "seconds",
        "steps",
        "test",
        "train",
        "valid",
    ];
    let mut names = keys(&summary);
    names.sort_unstable();
    assert_eq!(names, expected);
    assert_eq!(summary["run"], "runs/tiny");
    assert_eq!(summary["backend"], CPU);
    assert_eq!(summary["epochs"], 2);
    assert_eq!(summary["valid"]["chars"], 199);
    assert_eq!(summary["test"]["chars"], 199);
    for part in ["train", "valid", "test"] {
        let number = |name: &str| summary[part][name].as_f64().unwrap();
        let nats = number("nats_per_char");
        assert!((number("bits_per_char") - nats / 2f64.ln()).abs() < 1e-12);
        assert!((number("perplexity") - nats.exp()).abs() < 1e-9);
    }
    assert_eq!(folder.json("runs/tiny/summary.json"), summary);

    let metrics = String::from_utf8(folder.read("runs/tiny/metrics.jsonl")).unwrap();
    let lines: Vec<Value> =
        metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let places: Vec<_> =
        lines.iter().map(|line| (line["epoch"].as_u64().unwrap(), &line["split"])).collect();
    assert_eq!(places.len(), 4);
    assert_eq!(places[0].1, "train");
    assert_eq!(places[1].1, "valid");
    assert_eq!((places[3].0, places[3].1.as_str()), (2, Some("valid")));
    assert!(lines[2]["nats_per_char"].as_f64() < lines[0]["nats_per_char"].as_f64());
    for name in ["config.toml", "vocabulary.json", "corpus.json", "model.safetensors"] {
        assert!(!folder.read(&format!("runs/tiny/{name}")).is_empty());
    }
    assert!(folder.join("runs/tiny/checkpoints/best.safetensors").is_file());
    let names = std::fs::read_dir(folder.join("runs/tiny/checkpoints")).unwrap().count();
    assert_eq!(names, 3, "two checkpoints and the best");
}

#[test]
fn the_same_seed_gives_the_same_files() {
    let folder = tiny();
    for name in ["a", "b"] {
        folder.ok(&with(&TRAIN, &["--run", name]));
    }
    folder.ok(&with(&TRAIN, &["--run", "c", "--set", "train.seed=4"]));
    assert_same(&folder.join("runs/a"), &folder.join("runs/b"));
    for name in ["model.safetensors", "checkpoints/best.safetensors"] {
        let file = |run: &str| folder.read(&format!("runs/{run}/{name}"));
        assert_ne!(file("a"), file("c"), "{name}");
    }
}

#[test]
fn evaluation_agrees_with_training_and_with_itself() {
    let folder = tiny();
    let summary = last_json(&folder.ok(&with(&TRAIN, &["--json"])).stdout);
    let evaluate = |more: &[&str]| {
        let arguments = with(&["evaluate", "tiny", "--device", CPU, "--json"], more);
        last_json(&folder.ok(&arguments).stdout)
    };
    for split in ["valid", "test"] {
        let evaluated = evaluate(&["--split", split]);
        assert_eq!(
            keys(&evaluated).len(),
            5,
            "split, chars, nats_per_char, bits_per_char, perplexity: {evaluated}"
        );
        assert_eq!(evaluated["split"], split);
        assert_eq!(evaluated["nats_per_char"], summary[split]["nats_per_char"]);
        assert_eq!(evaluated["chars"], summary[split]["chars"]);
    }
    assert_eq!(evaluate(&["--split", "train"])["chars"], 1_599);
    assert_eq!(evaluate(&["--split", "all"])["chars"], 1_999);
    assert_eq!(evaluate(&["--text", "text.txt"]), evaluate(&[]));

    // Another text is scored whole, or the part that is asked for; nothing is compared.
    folder.write("other.txt", text(3_000));
    let other = evaluate(&["--text", "other.txt"]);
    assert_eq!((other["split"].as_str(), other["chars"].as_u64()), (Some("all"), Some(2_999)));
    assert_eq!(evaluate(&["--text", "other.txt", "--split", "test"])["chars"], 299);
    // Of its own text a run may take a piece; of another all is scored.
    folder.ok(&with(&TRAIN, &["--run", "piece", "--set", "data.take=1500"]));
    let piece = |more: &[&str]| {
        let arguments = with(&["evaluate", "piece", "--device", CPU, "--json"], more);
        last_json(&folder.ok(&arguments).stdout)
    };
    folder.write("third.txt", format!("madame\n{}", text(2_993)));
    assert_eq!(piece(&["--text", "third.txt"])["chars"], 2_999);
    assert_eq!(piece(&["--text", "text.txt"]), piece(&[]));
    // The run's own text must be what it was.
    folder.write("text.txt", text(3_000));
    let changed = folder.run(&["evaluate", "tiny", "--device", CPU]);
    assert_eq!(changed.code, 2);
    assert!(changed.stderr.contains("it has 3000 characters, not 2000"), "{}", changed.stderr);
}

#[test]
fn a_model_can_learn_from_what_it_is_scored_on() {
    let folder = tiny();
    folder.ok(&TRAIN);
    let evaluate = |more: &[&str]| {
        let done = folder.ok(&with(&["evaluate", "tiny", "--device", CPU, "--json"], more));
        last_json(&done.stdout)
    };
    let nats = |value: &Value| value["nats_per_char"].as_f64().unwrap();
    let fixed = evaluate(&[]);
    let dynamic = evaluate(&["--dynamic"]);
    assert_eq!(dynamic["dynamic"], true);
    assert_eq!(dynamic["chars"], fixed["chars"], "every character but the first, once");
    assert!(nats(&dynamic) < nats(&fixed), "{dynamic} {fixed}");
    // A model that does not move scores as it does without.
    let still = evaluate(&["--dynamic", "--set", "dynamic.rate=0", "--set", "dynamic.decay=0"]);
    assert!((nats(&still) - nats(&fixed)).abs() < 1e-5, "{still} {fixed}");
    // Nothing is learnt ahead of its score: pieces as long as the text change nothing.
    let whole = evaluate(&["--dynamic", "--set", "dynamic.characters=100000"]);
    assert!((nats(&whole) - nats(&fixed)).abs() < 1e-5, "{whole} {fixed}");
    let refused = folder.run(&["evaluate", "tiny", "--set", "dynamic.rate=0", "--device", CPU]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    // Settings are looked for on validation text, and what they are said to score they score.
    let tune = ["evaluate", "tiny", "--dynamic", "--tune", "--json", "--device", CPU];
    let tried: Vec<Value> =
        folder.ok(&tune).stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(tried.len() > 6, "every key goes up and down: {tried:?}");
    let best = tried.iter().min_by(|a, b| nats(a).total_cmp(&nats(b))).unwrap();
    let set = |key: &str| format!("dynamic.{key}={}", best[key]);
    let [characters, rate, decay] = ["characters", "rate", "decay"].map(set);
    let settings = ["--split", "valid", "--set", &characters, "--set", &rate, "--set", &decay];
    assert_eq!(nats(&evaluate(&with(&["--dynamic"], &settings))), nats(best));
    assert!(nats(best) < nats(&tried[0]), "{tried:?}");
}

#[test]
fn a_stored_configuration_trains_again() {
    let folder = tiny();
    folder.ok(&TRAIN);
    folder.ok(&["train", "--config", "runs/tiny/config.toml", "--device", CPU, "--run", "again"]);
    let model = |name: &str| folder.read(&format!("runs/{name}/model.safetensors"));
    assert_eq!(model("tiny"), model("again"));
}

#[test]
fn a_text_without_the_usual_prompt_can_be_continued() {
    let folder = tiny();
    folder.write("text.txt", text(2_000).replace('\n', " "));
    let run = folder.ok(&TRAIN);
    assert!(!run.stdout.contains("TOINON"), "the vocabulary has no capitals");
    folder.ok(&["generate", "tiny", "--device", CPU, "--length", "5"]);
}

#[test]
fn generation_follows_from_its_seed() {
    let folder = tiny();
    folder.ok(&TRAIN);
    let generate = |more: &[&str]| {
        let base = ["generate", "tiny", "--device", CPU, "--prompt", "le temps", "--length", "60"];
        folder.ok(&with(&base, more)).stdout
    };
    let first = generate(&["--seed", "1"]);
    assert!(first.starts_with("le temps"));
    assert_eq!(first.chars().count(), 8 + 60 + 1, "the prompt, the text and a newline");
    assert_eq!(first, generate(&["--seed", "1"]));
    assert_ne!(first, generate(&["--seed", "2"]));
    let coldest = generate(&["--temperature", "0", "--seed", "1"]);
    assert_eq!(coldest, generate(&["--temperature", "0", "--seed", "2"]));

    let skipped = folder.ok(&[
        "generate",
        "runs/tiny",
        "--device",
        CPU,
        "--prompt",
        "le Ztempsß",
        "--unknown",
        "skip",
        "--length",
        "0",
    ]);
    assert_eq!(skipped.stdout, "le temps\n");

    // Several at a time: the first is the single one.
    let texts = generate(&["--seed", "1", "--texts", "2"]);
    let (head, second) = texts.split_once("\n==> 2 of 2 <==\n").unwrap();
    assert_eq!(format!("{head}\n"), format!("==> 1 of 2 <==\n{first}"));
    assert!(second.starts_with("le temps") && second != first);
    let lines = generate(&["--seed", "1", "--texts", "2", "--json"]);
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    for (index, (line, text)) in lines.iter().zip([first.as_str(), second]).enumerate() {
        assert_eq!((&line["text"], &line["prompt"]), (&json!(index + 1), &json!("le temps")));
        assert_eq!(format!("le temps{}\n", line["written"].as_str().unwrap()), text);
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let folder = tiny();
    folder.ok(&TRAIN);
    let mut child = folder
        .command(&["generate", "tiny", "--device", CPU, "--length", "5000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut start = [0; 5];
    child.stdout.take().unwrap().read_exact(&mut start).unwrap();
    let end = done(child.wait_with_output().unwrap());
    assert_eq!((end.code, end.stderr.as_str()), (0, ""));
}

#[test]
fn training_outlives_its_reader() {
    let folder = tiny();
    let mut child = folder
        .command(&with(&TRAIN, &["--set", "train.epochs=4"]))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(done(child.wait_with_output().unwrap()).code, 0);
    assert_eq!(folder.json("runs/tiny/summary.json")["epochs"], 4);
}

#[test]
fn a_newcomers_command_needs_nothing() {
    let folder = Folder::new();
    let arguments = [
        "train",
        "--device",
        CPU,
        "--set",
        "train.epochs=1",
        "--set",
        "data.take=6000",
        "--set",
        "model.hidden=16",
    ];
    let run = folder.ok(&arguments);
    assert!(run.stdout.contains("now try"), "{}", run.stdout);
    assert!(run.stdout.contains("bits/char"));
    assert!(run.stderr.contains("comedie.txt (built in): 6,000 characters"), "{}", run.stderr);
    // The two commands it ends with work as they stand.
    let commands: Vec<&str> = run.stdout.lines().rev().take(2).map(str::trim).collect();
    for command in commands {
        let status =
            Command::new("sh").args(["-c", command]).current_dir(folder.path()).output().unwrap();
        assert!(status.status.success(), "{command}: {}", String::from_utf8_lossy(&status.stderr));
    }
}

#[test]
fn a_run_is_found_from_another_folder() {
    let folder = tiny();
    folder.ok(&TRAIN);
    let elsewhere = Folder::new();
    let path = folder.join("runs/tiny");
    elsewhere.ok(&["evaluate", path.to_str().unwrap(), "--device", CPU]);
}

#[test]
fn bytes_are_units_too() {
    let folder = tiny();
    folder.write("text.txt", [text(1_000).as_bytes(), &[0xff, 0xfe, 0]].concat());
    let refused = folder.run(&TRAIN);
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("data.units = \"byte\""), "{}", refused.stderr);
    folder.ok(&with(&TRAIN, &["--set", "data.units=byte"]));
    let prompt = ["generate", "tiny", "--device", CPU, "--prompt", "où", "--length", "30"];
    assert!(folder.command(&prompt).output().unwrap().status.success());
    // What is written is bytes, whether they are characters or not.
    folder.write("text.txt", [0xe9, 0xe8].repeat(1_000));
    folder.ok(&with(&TRAIN, &["--force", "--set", "data.units=byte"]));
    for texts in ["1", "2"] {
        let mut command = folder.command(&["generate", "tiny", "--device", CPU, "--length", "30"]);
        let output = command.args(["--texts", texts]).output().unwrap();
        assert!(output.status.success());
        let count = output.stdout.iter().filter(|&&byte| byte == 0xe9 || byte == 0xe8).count();
        assert_eq!(count, 30 * texts.parse::<usize>().unwrap());
    }
}

#[test]
fn corpus_stats_count() {
    let folder = tiny();
    let stats = folder.ok(&["corpus", "stats", "text.txt", "--config", "tiny.toml", "--json"]);
    let stats = last_json(&stats.stdout);
    assert_eq!(stats["characters"], 2_000);
    assert_eq!(stats["train"], 1_600);
    assert_eq!(stats["lanes"], 2);
    assert_eq!(stats["chunks"], 49, "(1600 - 1) / 2 / 16");
    let table = folder.ok(&["corpus", "stats", "text.txt", "--config", "tiny.toml"]).stdout;
    assert!(table.contains("2,000") && table.contains("chunks of 16 per lane"), "{table}");
    assert!(table.contains("distinct characters"), "{table}");
    let bytes =
        ["corpus", "stats", "text.txt", "--config", "tiny.toml", "--set", "data.units=byte"];
    let table = folder.ok(&bytes).stdout;
    assert!(table.contains("distinct bytes") && !table.contains("characters"), "{table}");
    let stats = folder.ok(&with(&bytes, &["--json"])).stdout;
    assert_eq!(last_json(&stats)["units"], "byte");
}

/// A run that only a signal ends, its standard error in a pipe.
fn train_for_ever(folder: &Folder) -> Child {
    let arguments = with(&TRAIN, &["--set", "train.epochs=100000", "--set", "sample.length=0"]);
    let mut command = folder.command(&arguments);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn without_a_terminal_lines_come_every_few_seconds() {
    let folder = tiny();
    let began = Instant::now();
    let mut child = train_for_ever(&folder);
    let mut times = Vec::new();
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        let line = line.unwrap();
        if line.ends_with("left") {
            for part in ["loss", "nats/char", "bits/char", "chars/s"] {
                assert!(line.contains(part), "{line}");
            }
            times.push(began.elapsed());
        }
        if times.len() == 3 {
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // The promise is five seconds; a busy machine may be late by half of one.
    let limit = Duration::from_millis(5_500);
    assert!(times[0] < limit && times[1] - times[0] < limit && times[2] - times[1] < limit);
}

#[test]
#[cfg(unix)]
fn an_interrupt_saves_and_says_so() {
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 143)] {
        let folder = tiny();
        let mut child = train_for_ever(&folder);
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.starts_with("epoch 2/") {
            line.clear();
            assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "it ended early");
        }
        let id = child.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &id]).status().unwrap().success());
        let mut rest = String::new();
        stderr.read_to_string(&mut rest).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code), "{signal}: {rest}");
        assert!(rest.contains("the run is saved in runs/tiny"), "{signal}: {rest}");
        folder.ok(&["evaluate", "tiny", "--device", CPU]);
    }
}

#[test]
fn two_processes_do_not_write_one_run() {
    let folder = tiny();
    let mut child = train_for_ever(&folder);
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("epoch 2/") {
        line.clear();
        assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "it ended early");
    }
    let refused = folder.run(&with(&TRAIN, &["--force"]));
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("another process is training in runs/tiny"));
    let refused = folder.run(&["resume", "tiny"]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("another process is training in runs/tiny"));
    assert!(child.try_wait().unwrap().is_none(), "the first goes on");
    // Reading is no writing.
    let arguments = ["generate", "tiny", "--device", CPU, "--prompt", "m", "--length", "5"];
    folder.ok(&arguments);

    // A process that is killed leaves no lock behind.
    child.kill().unwrap();
    child.wait().unwrap();
    folder.ok(&with(&TRAIN, &["--force"]));
}

#[test]
fn early_stopping_keeps_the_best() {
    let folder = tiny();
    // A rate this high cannot go on getting better.
    let summary = folder.ok(&with(
        &TRAIN,
        &[
            "--json",
            "--set",
            "train.epochs=60",
            "--set",
            "train.patience=2",
            "--set",
            "optimizer.learning_rate=0.3",
            "--set",
            "schedule.kind=constant",
            "--set",
            "sample.length=0",
        ],
    ));
    let summary = last_json(&summary.stdout);
    let epochs = summary["epochs"].as_u64().unwrap();
    assert!(epochs < 60, "it never stopped");
    let metrics = String::from_utf8(folder.read("runs/tiny/metrics.jsonl")).unwrap();
    let valid: Vec<f64> = metrics
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|line| line["split"] == "valid")
        .map(|line| line["nats_per_char"].as_f64().unwrap())
        .collect();
    assert_eq!(valid.len() as u64, epochs);
    let best = valid.iter().copied().fold(f64::INFINITY, f64::min);
    assert_eq!(summary["valid"]["nats_per_char"].as_f64(), Some(best));
    assert_eq!(valid[valid.len() - 3], best, "two epochs of patience");
}
