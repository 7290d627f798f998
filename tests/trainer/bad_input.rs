use crate::program::{CPU, Done, Folder, TRAIN, text, tiny, with};

/// Runs, expects the exit code and the words, and that no run was made.
fn refused(folder: &Folder, arguments: &[&str], code: i32, words: &[&str]) -> Done {
    let before = folder.files();
    let done = folder.run(arguments);
    assert_eq!(done.code, code, "{arguments:?}: {}", done.stderr);
    for word in words {
        assert!(done.stderr.contains(word), "{arguments:?}: {word:?} is not in {}", done.stderr);
    }
    assert!(folder.files() == before, "{arguments:?}: something was written");
    done
}

fn set(folder: &Folder, assignment: &str, words: &[&str]) {
    refused(folder, &with(&TRAIN, &["--set", assignment]), 2, words);
}

#[test]
fn texts() {
    let folder = tiny();
    folder.write("empty", "");
    folder.write("invalid", b"abc\xffd");
    folder.write("short", "abcdefgh");
    folder.write("same", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
    let text = |name: &str, words: &[&str]| {
        refused(&folder, &with(&TRAIN, &["--text", name]), 2, &[&[name], words].concat());
    };
    text("missing", &["cannot be read", "No such file"]);
    text(".", &["it is a folder"]);
    text("empty", &["is empty"]);
    text("invalid", &["not valid UTF-8 at byte 3"]);
    text("same", &["one distinct symbol only, 'a'"]);
    refused(
        &folder,
        &with(&TRAIN, &["--text", "short"]),
        2,
        &["the train part", "too few for 2 lanes of 16-character chunks, which need 48"],
    );
}

#[test]
fn configurations() {
    let folder = tiny();
    refused(&folder, &["train", "--config", "none.toml"], 2, &["none.toml", "No such file"]);
    let config = |text: &str, words: &[&str]| {
        folder.write("bad.toml", text);
        let words = [&["bad.toml"], words].concat();
        refused(&folder, &["train", "--config", "bad.toml"], 2, &words);
    };
    config("[data]\nbacth = 3", &["unknown key data.bacth", "did you mean data.batch?"]);
    config("[modle]\nhidden = 3", &["unknown key modle", "did you mean model?"]);
    config("[train]\nhidden = 3", &["unknown key train.hidden", "did you mean model.hidden?"]);
    config("[data]\nbatch = \"3\"", &["data.batch: expected a whole number, got a text \"3\""]);
    config("data = 3", &["data: expected a section"]);
    config("[data\nbatch = 3", &["not valid TOML", "line 1"]);

    set(&folder, "data.batch=0", &["data.batch: expected a whole number of at least 1, got 0"]);
    set(&folder, "data.batch=-1", &["data.batch: expected a whole number of at least 0"]);
    set(&folder, "data.sequence=0", &["data.sequence", "at least 1"]);
    set(&folder, "data.batch=1000", &["too few for 1000 lanes", "which need 16016"]);
    set(&folder, "data.test=1.5", &["data.test: expected a share"]);
    set(&folder, "data.units=word", &["data.units", "word"]);
    set(&folder, "model.hidden=0", &["model.hidden"]);
    set(&folder, "model.dropout=1", &["model.dropout: expected a probability"]);
    refused(
        &folder,
        &with(&TRAIN, &["--set", "average.kind=triggered", "--set", "data.valid=0"]),
        2,
        &["average.kind", "data.valid is 0"],
    );
    refused(
        &folder,
        &with(&TRAIN, &["--set", "model.residual=true", "--set", "model.layer_norm=true"]),
        2,
        &["model.residual", "model.layer_norm"],
    );
    set(&folder, "average.decay=1", &["average.decay: expected a probability"]);
    set(&folder, "model.activation=-1", &["model.activation: expected a number of at least 0"]);
    set(
        &folder,
        "optimizer.learning_rate=0",
        &["optimizer.learning_rate: expected a number above 0"],
    );
    set(&folder, "optimizer.learning_rate=nan", &["optimizer.learning_rate"]);
    set(&folder, "schedule.kind=cosin", &["schedule.kind", "cosin"]);
    set(
        &folder,
        "model.hidden=99999999999",
        &["model: expected a model of at most", "model.hidden = 99999999999"],
    );
    set(&folder, "train.threads=100000", &["train.threads"]);
    set(&folder, "train.half=true", &["train.half: expected false: this device reads no 16-bit"]);
    set(&folder, "train.epochs=10000000000", &["train.epochs"]);
    set(&folder, "data.test=0", &["data.test: expected a share above 0"]);
    set(&folder, "data.test=0.0005", &["the test part", "1 characters are too few to score"]);
    let no_validation = ["--set", "data.valid=0", "--set", "train.patience=3"];
    refused(&folder, &with(&TRAIN, &no_validation), 2, &["train.patience", "data.valid is 0"]);
    set(&folder, "hidden=3", &["expected section.key=value"]);
    set(&folder, "model.hiden=3", &["did you mean model.hidden?"]);
}

#[test]
fn run_folders() {
    let folder = tiny();
    folder.ok(&TRAIN);
    let model = folder.read("runs/tiny/model.safetensors");
    refused(&folder, &TRAIN, 2, &["the run runs/tiny exists", "--force", "--run"]);
    assert_eq!(folder.read("runs/tiny/model.safetensors"), model);
    // A replacement that is refused for another reason leaves the old run alone.
    refused(&folder, &with(&TRAIN, &["--force", "--set", "data.batch=0"]), 2, &["data.batch"]);
    refused(&folder, &with(&TRAIN, &["--force", "--text", "none"]), 2, &["none"]);
    assert_eq!(folder.read("runs/tiny/model.safetensors"), model);
    folder.ok(&with(&TRAIN, &["--force", "--set", "train.seed=9"]));
    assert_ne!(folder.read("runs/tiny/model.safetensors"), model);

    // What is no run is never replaced.
    std::fs::create_dir(folder.join("mine")).unwrap();
    folder.write("mine/precious", "data");
    let into = |name: &str| with(&TRAIN, &["--force", "--run", name]).join(" ");
    for name in ["./mine", "./text.txt"] {
        let arguments = into(name);
        let arguments: Vec<&str> = arguments.split(' ').collect();
        refused(&folder, &arguments, 2, &["is not a run folder"]);
    }
    // Nor is what merely has files of the same names, or a run that somebody keeps a file in.
    folder.write("mine/config.toml", "");
    folder.write("mine/vocabulary.json", "");
    folder.write("runs/tiny/text.txt", text(2_000));
    for (name, file) in [("./mine", "precious"), ("runs/tiny", "text.txt")] {
        let arguments = with(&TRAIN, &["--force", "--run", name]);
        refused(&folder, &arguments, 2, &["is not a run folder: it holds", file]);
    }
    refused(&folder, &with(&TRAIN, &["--force", "--run", ""]), 2, &["--run: expected the name"]);
    assert_eq!(folder.read("mine/precious"), b"data");
    std::fs::remove_file(folder.join("runs/tiny/text.txt")).unwrap();

    // The run that is replaced stays until the new one has ended well, and no other run has a part in it.
    let model = folder.read("runs/tiny/model.safetensors");
    let diverging =
        ["--force", "--set", "optimizer.learning_rate=1e38", "--set", "optimizer.clip=0"];
    let done = folder.run(&with(&TRAIN, &diverging));
    assert_eq!(done.code, 1, "{}", done.stderr);
    assert!(done.stderr.contains("training diverged at step"), "{}", done.stderr);
    let aside = "runs/tiny is set aside as runs/tiny.replaced";
    assert!(done.stderr.contains(aside), "{}", done.stderr);
    assert_eq!(folder.read("runs/tiny.replaced/model.safetensors"), model);
    let done = folder.ok(&with(&TRAIN, &["--force"]));
    assert!(done.stderr.contains("runs/tiny.replaced is removed"), "{}", done.stderr);
    assert!(!folder.join("runs/tiny.replaced").exists());
    assert!(!folder.join("runs/tiny.replaced.2").exists());
    assert!(!folder.join("runs/tiny/replaces.json").exists());
    folder.run(&with(&TRAIN, &diverging));
    std::fs::remove_dir_all(folder.join("runs/tiny")).unwrap();
    folder.ok(&TRAIN);
    assert!(folder.join("runs/tiny.replaced/model.safetensors").exists());
    std::fs::remove_dir_all(folder.join("runs/tiny.replaced")).unwrap();
    // A replacement that was interrupted still knows what it replaces.
    folder.run(&with(&TRAIN, &diverging));
    let rate = ["--set", "optimizer.learning_rate=0.004"];
    folder.ok(&with(&["resume", "tiny", "--device", CPU], &rate));
    assert!(!folder.join("runs/tiny.replaced").exists());

    for (name, reason) in [
        ("nothing", "nothing is not a run folder: there is nothing there"),
        ("mine", "mine is not a run folder: it has no model yet"),
        ("./text.txt", "./text.txt is damaged: its checksum is not that of its content"),
    ] {
        for command in ["evaluate", "generate"] {
            refused(&folder, &[command, name], 2, &[reason]);
        }
    }
    refused(&folder, &["resume", "./text.txt"], 2, &["is not a run folder: it is a file"]);
}

#[test]
fn a_dashboard_needs_a_terminal() {
    refused(&tiny(), &with(&TRAIN, &["--tui"]), 2, &["--tui: expected a terminal"]);
}

#[test]
fn damaged_models() {
    let folder = tiny();
    folder.ok(&TRAIN);
    let model = folder.read("runs/tiny/model.safetensors");
    let broken: [Vec<u8>; 4] = [
        Vec::new(),
        b"not a model".to_vec(),
        model[..model.len() / 2].to_vec(),
        [&u64::MAX.to_le_bytes()[..], &model[8..]].concat(),
    ];
    for bytes in broken {
        folder.write("runs/tiny/model.safetensors", bytes);
        refused(&folder, &["evaluate", "tiny", "--device", CPU], 2, &["model.safetensors"]);
    }
}

#[test]
fn prompts_and_options() {
    let folder = tiny();
    folder.ok(&TRAIN);
    let generate = |more: &[&str], words: &[&str]| {
        refused(&folder, &with(&["generate", "tiny", "--device", CPU], more), 2, words);
    };
    generate(&["--prompt", "le Zut"], &["'Z' (U+005A) at position 3", "--unknown skip"]);
    generate(&["--prompt", ""], &["the prompt has no character that the model knows"]);
    generate(&["--prompt", "Z", "--unknown", "skip"], &["the prompt has no character"]);
    generate(&["--temperature", "-1"], &["--temperature"]);
    generate(&["--temperature=-0.5"], &["--temperature: expected a number of at least 0"]);
    generate(&["--length", "x"], &["--length"]);
    generate(&["--texts", "0"], &["--texts: expected a whole number from 1 to 65,535, got 0"]);
    generate(&["--texts", "99999"], &["--texts: expected", "got 99999"]);
    generate(&["--texts", "-1"], &["--texts"]);
    let evaluate = |more: &[&str], words: &[&str]| {
        refused(&folder, &with(&["evaluate", "tiny", "--device", CPU], more), 2, words);
    };
    evaluate(&["--dynamic", "--set", "data.take=0"], &["--set: expected a key", "data.take=0"]);
    std::fs::rename(folder.join("text.txt"), folder.join("moved.txt")).unwrap();
    let gone = ["text.txt, which the run was trained on, cannot be read", "with --text"];
    evaluate(&[], &gone);
    refused(&folder, &["resume", "tiny", "--epochs", "3"], 2, &gone);
    std::fs::rename(folder.join("moved.txt"), folder.join("text.txt")).unwrap();
    refused(&folder, &["bench", "--threads", "5000"], 2, &["--threads"]);
    folder.write("strange.txt", text(100) + "Ω");
    refused(
        &folder,
        &["evaluate", "tiny", "--device", CPU, "--text", "strange.txt", "--split", "all"],
        2,
        &["strange.txt", "'Ω' (U+03A9) at position 100", "--unknown skip"],
    );
    let skip = ["evaluate", "tiny", "--device", CPU, "--text", "strange.txt", "--unknown", "skip"];
    let done = folder.ok(&skip);
    assert!(done.stderr.contains("left out of strange.txt"), "{}", done.stderr);
    assert!(done.stdout.contains("over 99 characters"), "{}", done.stdout);
    folder.ok(&with(&TRAIN, &["--force", "--set", "data.valid=0"]));
    refused(
        &folder,
        &["evaluate", "tiny", "--device", CPU, "--split", "valid"],
        2,
        &["no valid part"],
    );
}

#[test]
#[cfg(target_os = "linux")]
fn folders_that_cannot_be_written() {
    let folder = tiny();
    // A file system that nobody can write to, not even root.
    refused(&folder, &with(&TRAIN, &["--run", "/proc/runs/x"]), 1, &["cannot write /proc/runs/x"]);
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_fails_the_run_and_keeps_what_is_whole() {
    use std::process::Command;

    let folder = tiny();
    std::fs::create_dir(folder.join("small")).unwrap();
    let program = env!("CARGO_BIN_EXE_poquelin");
    let script = format!(
        "mount -t tmpfs -o size=64k none small || exit 99\n\
         {program} train --config tiny.toml --device {CPU} --run small/run \
         --set sample.length=0\n\
         code=$?\nls small/run small/run/checkpoints\nexit $code"
    );
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
        .current_dir(folder.path())
        .output();
    let Ok(output) = output else {
        eprintln!("SKIPPED: the full disk, for there is no unshare");
        return;
    };
    let stderr = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(99) || stderr.contains("unshare") {
        eprintln!("SKIPPED: the full disk, for this system lets nobody mount one: {stderr}");
        return;
    }
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("cannot write small/run"), "{stderr}");
    assert!(stderr.contains("No space left"), "{stderr}");
    let listing = String::from_utf8_lossy(&output.stdout);
    assert!(!listing.contains("unfinished"), "{listing}");
}
