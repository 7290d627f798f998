use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use crate::essence::{assert_same, checkpoints};
use crate::program::{CPU, Folder, TRAIN, text, tiny, with};

/// A run of a few seconds that is saved all the time: two layers, every regulariser, chunks of random
/// lengths, validation, an average that waits for it, a schedule.
const LONG: [&str; 35] = [
    "train",
    "--config",
    "tiny.toml",
    "--set",
    "train.epochs=40",
    "--set",
    "checkpoint.every_seconds=0.02",
    "--set",
    "data.sequence=8",
    "--set",
    "model.hidden=24",
    "--set",
    "model.tied=true",
    "--set",
    "model.dropconnect=0.2",
    "--set",
    "model.dropout_embedding=0.1",
    "--set",
    "model.activation=0.1",
    "--set",
    "model.temporal_activation=0.1",
    "--set",
    "model.label_smoothing=0.05",
    "--set",
    "data.vary_sequence=true",
    "--set",
    "average.kind=triggered",
    "--set",
    "average.patience=2",
    "--set",
    "train.patience=30",
    "--set",
    "train.test_every_epoch=true",
    "--device",
    CPU,
];

fn long() -> Folder {
    let folder = tiny();
    folder.write("text.txt", text(6_000));
    folder
}

/// Numbers that are different at every run: the harness looks for moments nobody thought of.
struct Moments(u64);

impl Moments {
    fn new() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        Self(now.as_nanos() as u64 | 1)
    }

    fn millis(&mut self, below: u64) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        Duration::from_micros(self.0 % (below * 1_000))
    }
}

fn spawn(folder: &Folder, arguments: &[&str]) -> Child {
    let mut command = folder.command(arguments);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// How many times the harness interrupts a run: a dozen, or what POQUELIN_KILLS says.
fn kills() -> usize {
    std::env::var("POQUELIN_KILLS").map_or(12, |count| count.parse().unwrap())
}

/// What to call next: the run may have been killed before it was one.
fn next<'a>(folder: &Folder, run: &'a str) -> Vec<&'a str> {
    match folder.join(&format!("runs/{run}/config.toml")).exists() {
        true => vec!["resume", run],
        false => with(&LONG, &["--run", run]),
    }
}

#[test]
fn killed_at_any_moment_it_becomes_the_run_it_would_have_been() {
    let folder = long();
    let whole = folder.ok(&with(&LONG, &["--run", "whole"]));
    assert!(whole.stderr.contains("on the weights are averaged"), "{}", whole.stderr);
    let (mut moments, kills) = (Moments::new(), kills());
    let (mut done, mut runs) = (0, 0);
    while done < kills {
        runs += 1;
        let name = format!("killed-{runs}");
        loop {
            let mut child = spawn(&folder, &next(&folder, &name));
            sleep(moments.millis(400));
            child.kill().unwrap();
            let status = child.wait().unwrap();
            if status.success() {
                break;
            }
            assert_eq!(status.code(), None, "{name}: it ended by itself, with {status}");
            done += 1;
            if done == kills {
                folder.ok(&next(&folder, &name));
                break;
            }
        }
        assert_same(&folder.join("runs/whole"), &folder.join(&format!("runs/{name}")));
    }
    eprintln!("{done} kills in {runs} runs");
}

#[test]
#[cfg(unix)]
fn asked_to_stop_at_any_moment_it_saves_the_step_in_flight() {
    let folder = long();
    let exponential = with(&LONG, &["--set", "average.kind=exponential"]);
    folder.ok(&with(&exponential, &["--run", "whole"]));
    let mut moments = Moments::new();
    let (mut done, mut runs) = (0, 0);
    while done < kills() {
        runs += 1;
        let name = format!("asked-{runs}");
        let mut arguments = with(&exponential, &["--run", &name]);
        loop {
            let mut child = spawn(&folder, &arguments);
            let mut stderr = BufReader::new(child.stderr.take().unwrap());
            // From the first line on signals are watched.
            let mut lines = String::new();
            stderr.read_line(&mut lines).unwrap();
            sleep(moments.millis(300));
            let (signal, code) = [("INT", 130), ("TERM", 143), ("HUP", 143)][done % 3];
            let kill = ["-s", signal, &child.id().to_string()];
            std::process::Command::new("kill").args(kill).status().unwrap();
            stderr.read_to_string(&mut lines).unwrap();
            let status = child.wait().unwrap();
            if status.success() {
                break;
            }
            assert_eq!(status.code(), Some(code), "{lines}");
            done += 1;
            if lines.contains("before training began; nothing was written") {
                continue;
            }
            // "... the run is saved in runs/asked-1 as of step 17; go on with ..."
            let (_, rest) = lines.split_once(" as of step ").unwrap_or_else(|| panic!("{lines}"));
            let step: u64 = rest.split(';').next().unwrap().parse().unwrap();
            let newest = checkpoints(&folder.join(&format!("runs/{name}"))).pop().unwrap();
            assert!(newest.ends_with(format!("step-{step:08}.safetensors")), "{lines}");
            arguments = vec!["resume", &name];
        }
        assert_same(&folder.join("runs/whole"), &folder.join(&format!("runs/{name}")));
    }
}

#[test]
fn a_finished_run_can_be_given_more_epochs() {
    let folder = tiny();
    let constant = with(&TRAIN, &["--set", "schedule.kind=constant"]);
    folder.ok(&with(&constant, &["--run", "a", "--epochs", "5"]));
    folder.ok(&with(&constant, &["--run", "b", "--epochs", "2"]));
    // Nothing is left to do, and nothing is done.
    let again = folder.ok(&["resume", "b", "--json"]);
    assert!(again.stderr.contains("is finished, with 2 epochs"), "{}", again.stderr);
    let summary: Value = serde_json::from_str(again.stdout.trim()).unwrap();
    assert_eq!(summary, folder.json("runs/b/summary.json"));

    let more = folder.ok(&["resume", "b", "--epochs", "5"]);
    assert!(more.stderr.contains("changed: train.epochs: was 2, now 5"), "{}", more.stderr);
    assert!(more.stderr.contains("the same bits as without a break"), "{}", more.stderr);
    assert_same(&folder.join("runs/a"), &folder.join("runs/b"));
    // `train --resume` is the same command.
    folder.ok(&with(&constant, &["--run", "c", "--epochs", "2"]));
    folder.ok(&with(&constant, &["--resume", "c", "--epochs", "5"]));
    assert_same(&folder.join("runs/a"), &folder.join("runs/c"));
}

#[test]
fn the_rest_of_a_run_may_compute_otherwise() {
    let folder = tiny();
    folder.ok(&with(&TRAIN, &["--run", "a", "--epochs", "4"]));
    folder.ok(&with(&TRAIN, &["--run", "b", "--epochs", "4"]));
    let set = ["--set", "train.threads=2", "--set", "checkpoint.keep=3", "--epochs", "5"];
    let done = folder.ok(&with(&["resume", "b"], &set));
    assert!(done.stderr.contains("changed: checkpoint.keep: was 2, now 3"), "{}", done.stderr);
    assert!(done.stderr.contains("the same run to rounding"), "{}", done.stderr);
    assert_eq!(folder.json("runs/b/summary.json")["epochs"], 5);
    let config = String::from_utf8(folder.read("runs/b/config.toml")).unwrap();
    assert!(config.contains("keep = 3") && config.contains("epochs = 5"), "{config}");
}

#[test]
fn damaged_files_cost_no_more_than_themselves() {
    let folder = tiny();
    folder.ok(&with(&TRAIN, &["--run", "whole", "--epochs", "4"]));
    folder.ok(&with(&TRAIN, &["--run", "hurt", "--epochs", "4"]));
    // As if it had been stopped behind its last epoch, with the newest checkpoint half on disk.
    let run = folder.join("runs/hurt");
    let newest = checkpoints(&run).pop().unwrap();
    let bytes = std::fs::read(&newest).unwrap();
    std::fs::write(&newest, &bytes[..bytes.len() / 2]).unwrap();
    for name in ["summary.json", "vocabulary.json", "corpus.json", "metrics.jsonl"] {
        std::fs::remove_file(run.join(name)).unwrap();
    }
    std::fs::write(run.join("checkpoints/best.safetensors.unfinished"), b"half").unwrap();
    let done = folder.ok(&["resume", "hurt"]);
    assert!(done.stderr.contains("its checksum is not that of its content"), "{}", done.stderr);
    assert!(done.stderr.contains("the checkpoint before it is taken"), "{}", done.stderr);
    assert_same(&folder.join("runs/whole"), &run);
    assert!(!run.join("checkpoints/best.safetensors.unfinished").exists());
    assert!(newest.with_extension("safetensors.damaged").exists(), "nothing is thrown away");

    // Without its configuration, the text must be named.
    std::fs::remove_file(run.join("config.toml")).unwrap();
    std::fs::remove_file(run.join("summary.json")).unwrap();
    folder.ok(&["resume", "hurt", "--text", "text.txt"]);
    assert_same(&folder.join("runs/whole"), &run);
}

#[test]
fn a_run_goes_on_only_as_what_it_is() {
    let folder = tiny();
    folder.ok(&TRAIN);
    let model = folder.read("runs/tiny/model.safetensors");
    let refused = |more: &[&str], words: &[&str]| {
        let done = folder.run(&with(&["resume", "tiny", "--epochs", "3"], more));
        assert_eq!(done.code, 2, "{more:?}: {}", done.stderr);
        for word in words {
            assert!(done.stderr.contains(word), "{more:?}: {word:?} is not in {}", done.stderr);
        }
        assert_eq!(folder.read("runs/tiny/model.safetensors"), model);
        assert_eq!(folder.json("runs/tiny/summary.json")["epochs"], 2);
    };
    refused(
        &["--set", "model.hidden=16", "--set", "data.batch=4"],
        &["data.batch: was 2, now 4", "model.hidden: was 12, now 16"],
    );
    refused(&["--set", "train.seed=8"], &["train.seed: was 3, now 8"]);
    refused(&["--epochs", "1"], &["cannot be used multiple times"]);
    let done = folder.run(&["resume", "tiny", "--epochs", "1"]);
    assert!(done.stderr.contains("has done 2 already, got 1"), "{}", done.stderr);
    folder.write("other.txt", text(2_000).replace("temps", "Ωemps"));
    refused(&["--text", "other.txt"], &["other.txt", "'Ω' (U+03A9) is new"]);
    folder.write("other.txt", text(1_999));
    refused(&["--text", "other.txt"], &["it has 1999 characters, not 2000"]);
    refused(&["--text", "none.txt"], &["none.txt", "No such file"]);
    // The configuration it was trained with is no change, another is.
    folder.ok(&with(&TRAIN, &["--resume", "tiny"]));
    folder.write("tiny.toml", crate::program::TINY.replace("layers = 2", "layers = 1"));
    let done = folder.run(&with(&TRAIN, &["--resume", "tiny"]));
    assert!(done.stderr.contains("model.layers: was 2, now 1"), "{}", done.stderr);
}

#[test]
#[cfg(unix)]
fn a_second_interrupt_leaves_at_once_and_the_checkpoint_stands() {
    let folder = long();
    // Behind the first signal there is a long step to finish.
    let arguments = with(
        &LONG,
        &["--run", "twice", "--set", "model.hidden=1024", "--set", "data.sequence=200"],
    );
    let mut child = spawn(&folder, &arguments);
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    while checkpoints_of(&folder, "twice") == 0 {
        sleep(Duration::from_millis(5));
    }
    let id = child.id().to_string();
    let interrupt = || {
        std::process::Command::new("kill").args(["-s", "INT", &id]).status().unwrap();
    };
    // More than two: the system makes one of those that come before the first is heard.
    while child.try_wait().unwrap().is_none() {
        interrupt();
        sleep(Duration::from_millis(1));
    }
    assert_eq!(child.wait().unwrap().code(), Some(1), "130 is that of an interrupt that saved");
    folder.ok(&["generate", "twice", "--prompt", "m", "--length", "3"]);
}

fn checkpoints_of(folder: &Folder, run: &str) -> usize {
    let run = folder.join(&format!("runs/{run}"));
    if run.join("checkpoints").is_dir() { checkpoints(&run).len() } else { 0 }
}

#[test]
fn the_same_seed_gives_the_same_bits_twenty_times() {
    let devices = if cfg!(all(feature = "ndarray", feature = "flex")) {
        vec!["ndarray", "flex"]
    } else {
        vec![CPU]
    };
    for device in devices {
        for threads in ["train.threads=1", "train.threads=2"] {
            let folder = tiny();
            let models: Vec<Vec<u8>> = (0..20)
                .map(|_| {
                    let base = ["train", "--config", "tiny.toml", "--device", device, "--force"];
                    // Batches that two threads share.
                    let wide =
                        ["--set", threads, "--set", "data.batch=16", "--set", "model.hidden=32"];
                    folder.ok(&with(&with(&base, &wide), &["--set", "data.sequence=32"]));
                    folder.read("runs/tiny/model.safetensors")
                })
                .collect();
            assert!(models.iter().all(|model| *model == models[0]), "{device}, {threads}");
        }
    }
}

#[test]
fn a_model_file_stands_alone() {
    let folder = tiny();
    folder.ok(&TRAIN);
    std::fs::rename(folder.join("runs/tiny/model.safetensors"), folder.join("mine.safetensors"))
        .unwrap();
    let generate = ["--device", CPU, "--prompt", "le temps", "--length", "20"];
    folder.ok(&with(&["generate", "mine.safetensors"], &generate));
    let scored = folder.ok(&[
        "evaluate",
        "mine.safetensors",
        "--text",
        "text.txt",
        "--device",
        CPU,
        "--json",
    ]);
    let scored: Value = serde_json::from_str(scored.stdout.trim()).unwrap();
    let summary = folder.json("runs/tiny/summary.json");
    assert_eq!(scored["nats_per_char"], summary["test"]["nats_per_char"]);
}

#[test]
#[cfg(target_os = "linux")]
fn a_run_under_nohup_outlives_its_terminal() {
    let folder = tiny();
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_poquelin")]);
    command.args(with(&TRAIN, &["--epochs", "60"])).current_dir(folder.path());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("epoch 1/") {
        line.clear();
        assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "it ended early");
    }
    let id = child.id().to_string();
    std::process::Command::new("kill").args(["-s", "HUP", &id]).status().unwrap();
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{rest}");
    assert!(rest.contains("epoch 60/60"), "{rest}");
}

#[test]
#[cfg(unix)]
fn a_run_that_is_given_more_is_asked_for_its_best_model() {
    let folder = long();
    folder.ok(&with(&LONG, &["--set", "train.epochs=1"]));
    let arguments = ["resume", "tiny", "--epochs", "400", "--set", "optimizer.learning_rate=0.01"];
    let mut child = spawn(&folder, &arguments);
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("epoch 6/") {
        line.clear();
        assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "it ended early");
    }
    let id = child.id().to_string();
    std::process::Command::new("kill").args(["-s", "INT", &id]).status().unwrap();
    stderr.read_to_string(&mut line).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{line}");
    let done = folder.ok(&["evaluate", "tiny", "--device", CPU]);
    let best = "the run is not finished: its model is runs/tiny/checkpoints/best.safetensors";
    assert!(done.stderr.contains(best), "{}", done.stderr);
}
