use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use poquelin::model_file::seal;

use crate::essence::{assert_same, checkpoints};
use crate::program::{CPU, Done, Folder, TRAIN, files, text, tiny, with};

/// What is on disk afterwards.
#[derive(Clone, Copy, PartialEq)]
enum After {
    /// No run was made.
    Nothing,
    /// Every byte of the run as it was.
    Untouched,
    /// The run as it would have been.
    Finished,
    /// A run that `resume` makes what it would have been.
    Resumable,
}

impl After {
    fn text(self) -> &'static str {
        match self {
            Self::Nothing => "no run was made",
            Self::Untouched => "the run, every byte as it was",
            Self::Finished => "the run, as it would have been",
            Self::Resumable => "the run; `resume` makes it what it would have been",
        }
    }
}

/// A row of the table in docs/keeping.md, and how to bring it about.
struct Row {
    wrong: &'static str,
    message: &'static str,
    code: i32,
    after: After,
    /// What goes wrong with `runs/tiny`, a finished run of two epochs; it is not there where nothing is
    /// to be there afterwards.
    prepare: fn(&Folder),
    /// What somebody calls then.
    call: fn(&Folder) -> Done,
}

const CONSTANT: [&str; 7] =
    ["train", "--config", "tiny.toml", "--device", CPU, "--set", "schedule.kind=constant"];
const MORE: [&str; 4] = ["resume", "tiny", "--epochs", "4"];
const MANY: [&str; 4] = ["resume", "tiny", "--epochs", "60"];

fn train(folder: &Folder, more: &[&str]) -> Done {
    folder.run(&with(&TRAIN, more))
}

fn more(folder: &Folder, also: &[&str]) -> Done {
    folder.run(&with(&MORE, also))
}

fn run(folder: &Folder) -> PathBuf {
    folder.join("runs/tiny")
}

/// Changes the newest checkpoint.
fn newest(folder: &Folder, change: impl Fn(Vec<u8>) -> Vec<u8>) {
    let path = checkpoints(&run(folder)).pop().unwrap();
    std::fs::write(&path, change(std::fs::read(&path).unwrap())).unwrap();
}

/// Changes all checkpoints.
fn all(folder: &Folder, change: impl Fn(Vec<u8>) -> Vec<u8>) {
    for path in checkpoints(&run(folder)) {
        std::fs::write(&path, change(std::fs::read(&path).unwrap())).unwrap();
    }
}

fn half(bytes: Vec<u8>) -> Vec<u8> {
    bytes[..bytes.len() / 2].to_vec()
}

/// Replaces words of the same length, and makes the checksum right again.
fn with_words(bytes: Vec<u8>, from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = bytes;
    let place = bytes.windows(from.len()).position(|window| window == from.as_bytes());
    let place = place.expect("the words are there");
    bytes[place..place + to.len()].copy_from_slice(to.as_bytes());
    seal(&mut bytes);
    bytes
}

/// Sends signals to a run that goes on, once it says so.
fn signalled(folder: &Folder, signals: &[&str]) -> Done {
    let mut command = folder.command(&MANY);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut reader = BufReader::new(child.stderr.take().unwrap());
    let mut stderr = String::new();
    while !stderr.contains("goes on behind step") {
        assert_ne!(reader.read_line(&mut stderr).unwrap(), 0, "{stderr}");
    }
    let id = child.id().to_string();
    for signal in signals {
        std::process::Command::new("kill").args(["-s", signal, &id]).status().unwrap();
    }
    reader.read_to_string(&mut stderr).unwrap();
    let code = child.wait().unwrap().code().expect("it was not killed");
    Done { code, stdout: String::new(), stderr }
}

const fn nothing(_: &Folder) {}

const ROWS: &[Row] = &[
    Row {
        wrong: "a text that is not there",
        message: "the text none.txt cannot be read: No such file",
        code: 2,
        after: After::Nothing,
        prepare: nothing,
        call: |folder| train(folder, &["--text", "none.txt"]),
    },
    Row {
        wrong: "an empty text",
        message: "the text empty.txt is empty",
        code: 2,
        after: After::Nothing,
        prepare: |folder| folder.write("empty.txt", ""),
        call: |folder| train(folder, &["--text", "empty.txt"]),
    },
    Row {
        wrong: "a text that is not UTF-8",
        message: "is not valid UTF-8 at byte 3",
        code: 2,
        after: After::Nothing,
        prepare: |folder| folder.write("bytes.txt", b"abc\xffd"),
        call: |folder| train(folder, &["--text", "bytes.txt"]),
    },
    Row {
        wrong: "an unknown key",
        message: "unknown key model.hiden; did you mean model.hidden?",
        code: 2,
        after: After::Nothing,
        prepare: nothing,
        call: |folder| train(folder, &["--set", "model.hiden=3"]),
    },
    Row {
        wrong: "a value out of range",
        message: "data.batch: expected a whole number of at least 1, got 0",
        code: 2,
        after: After::Nothing,
        prepare: nothing,
        call: |folder| train(folder, &["--set", "data.batch=0"]),
    },
    Row {
        wrong: "a text too short for its lanes",
        message: "too few for 999 lanes of 16-character chunks",
        code: 2,
        after: After::Nothing,
        prepare: nothing,
        call: |folder| train(folder, &["--set", "data.batch=999"]),
    },
    Row {
        wrong: "a device that the build does not have",
        message: "this program was built without that backend",
        code: 2,
        after: After::Nothing,
        prepare: nothing,
        call: |folder| folder.run(&["train", "--config", "tiny.toml", "--device", "metal"]),
    },
    Row {
        wrong: "a run of that name",
        message: "the run runs/tiny exists; replace it with --force",
        code: 2,
        after: After::Untouched,
        prepare: nothing,
        call: |folder| train(folder, &[]),
    },
    Row {
        wrong: "no run of that name",
        message: "runs/nothing is not a run folder: there is nothing there",
        code: 2,
        after: After::Untouched,
        prepare: nothing,
        call: |folder| folder.run(&["resume", "nothing"]),
    },
    Row {
        wrong: "another model",
        message: "model.hidden: was 12, now 16",
        code: 2,
        after: After::Untouched,
        prepare: nothing,
        call: |folder| more(folder, &["--set", "model.hidden=16"]),
    },
    Row {
        wrong: "another text",
        message: "it has 1999 characters, not 2000",
        code: 2,
        after: After::Untouched,
        prepare: |folder| folder.write("other.txt", text(1_999)),
        call: |folder| more(folder, &["--text", "other.txt"]),
    },
    Row {
        wrong: "fewer epochs than are done",
        message: "the run runs/tiny has done 2 already, got 1",
        code: 2,
        after: After::Untouched,
        prepare: nothing,
        call: |folder| folder.run(&["resume", "tiny", "--epochs", "1"]),
    },
    Row {
        wrong: "a typing error in the run's configuration",
        message: "config.toml: unknown key train.epoch; did you mean train.epochs?",
        code: 2,
        after: After::Untouched,
        prepare: |folder| {
            let config = String::from_utf8(folder.read("runs/tiny/config.toml")).unwrap();
            folder.write("runs/tiny/config.toml", config.replace("epochs =", "epoch ="));
        },
        call: |folder| more(folder, &[]),
    },
    Row {
        wrong: "the newest checkpoint is damaged",
        message: "its checksum is not that of its content",
        code: 0,
        after: After::Finished,
        prepare: |folder| newest(folder, half),
        call: |folder| more(folder, &[]),
    },
    Row {
        wrong: "every checkpoint is damaged",
        message: "its checksum is not that of its content",
        code: 2,
        after: After::Untouched,
        prepare: |folder| all(folder, half),
        call: |folder| more(folder, &[]),
    },
    Row {
        wrong: "the newest checkpoint is of another version",
        message: "its format is \"poquelin-9\"",
        code: 2,
        after: After::Untouched,
        prepare: |folder| newest(folder, |bytes| with_words(bytes, "poquelin-3", "poquelin-9")),
        call: |folder| more(folder, &[]),
    },
    Row {
        wrong: "the newest checkpoint cannot be read",
        message: "step-00000999.safetensors: Is a directory",
        code: 2,
        after: After::Untouched,
        prepare: |folder| {
            std::fs::create_dir(run(folder).join("checkpoints/step-00000999.safetensors")).unwrap();
        },
        call: |folder| more(folder, &[]),
    },
    Row {
        wrong: "a checkpoint without a part of the optimizer's state",
        message: "the tensor moment_1.embedding is missing",
        code: 2,
        after: After::Untouched,
        prepare: |folder| {
            all(folder, |bytes| with_words(bytes, "moment_1.embedding", "moment_3.embedding"))
        },
        call: |folder| more(folder, &[]),
    },
    Row {
        wrong: "the best model is damaged",
        message: "the best model is lost",
        code: 0,
        after: After::Finished,
        prepare: |folder| {
            // The next epoch is better, and its model is kept again.
            let best = folder.read("runs/tiny/checkpoints/best.safetensors");
            folder.write("runs/tiny/checkpoints/best.safetensors", half(best));
        },
        call: |folder| more(folder, &[]),
    },
    Row {
        wrong: "the finished model is damaged",
        message: "model.safetensors is damaged: its checksum is not that of its content",
        code: 2,
        after: After::Untouched,
        prepare: |folder| {
            let model = folder.read("runs/tiny/model.safetensors");
            folder.write("runs/tiny/model.safetensors", half(model));
        },
        call: |folder| folder.run(&["evaluate", "tiny", "--device", CPU]),
    },
    Row {
        wrong: "the files that describe the run are gone",
        message: "the same bits as without a break",
        code: 0,
        after: After::Finished,
        prepare: |folder| {
            for name in ["vocabulary.json", "corpus.json", "metrics.jsonl", "summary.json"] {
                std::fs::remove_file(run(folder).join(name)).unwrap();
            }
        },
        call: |folder| more(folder, &[]),
    },
    Row {
        wrong: "Ctrl-C",
        message: "interrupted by Ctrl-C; the run is saved in runs/tiny as of step",
        code: 130,
        after: After::Resumable,
        prepare: nothing,
        call: |folder| signalled(folder, &["INT"]),
    },
    Row {
        wrong: "a request to terminate",
        message: "interrupted by a request to terminate; the run is saved in runs/tiny",
        code: 143,
        after: After::Resumable,
        prepare: nothing,
        call: |folder| signalled(folder, &["TERM"]),
    },
    Row {
        wrong: "the session ends",
        message: "interrupted by a request to terminate; the run is saved in runs/tiny",
        code: 143,
        after: After::Resumable,
        prepare: nothing,
        call: |folder| signalled(folder, &["TERM", "HUP"]),
    },
    Row {
        wrong: "the terminal goes away",
        message: "interrupted by a request to terminate; the run is saved in runs/tiny",
        code: 143,
        after: After::Resumable,
        prepare: nothing,
        call: |folder| signalled(folder, &["HUP", "HUP"]),
    },
];

#[test]
fn every_row_of_the_table_is_true() {
    let [short, long] = ["4", "60"].map(|epochs| {
        let folder = tiny();
        folder.ok(&with(&CONSTANT, &["--epochs", epochs]));
        folder
    });
    for Row { wrong, message, code, after, prepare, call } in ROWS {
        let folder = tiny();
        if *after != After::Nothing {
            folder.ok(&CONSTANT);
        }
        prepare(&folder);
        let before = files(&folder.join("runs"));
        let done = call(&folder);
        assert_eq!(done.code, *code, "{wrong}: {}", done.stderr);
        assert!(done.stderr.contains(message), "{wrong}: {}", done.stderr);
        match after {
            After::Nothing | After::Untouched => {
                assert!(files(&folder.join("runs")) == before, "{wrong}: something was written");
            }
            After::Finished => assert_same(&run(&short), &run(&folder)),
            After::Resumable => {
                folder.ok(&MANY);
                assert_same(&run(&long), &run(&folder));
            }
        }
    }
}

#[test]
fn the_documentation_has_this_table() {
    let mut table = "| what is wrong | what is said | exit code | what is on disk then |\n\
                     |---|---|---|---|\n"
        .to_owned();
    for Row { wrong, message, code, after, .. } in ROWS {
        table += &format!("| {wrong} | `{message}` | {code} | {} |\n", after.text());
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/keeping.md");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(&table), "{} should have\n{table}", path.display());
}
