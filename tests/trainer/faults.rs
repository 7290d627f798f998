use std::path::{Path, PathBuf};
use std::process::Command;

use poquelin::model_file::Contents;

use crate::essence::assert_same;
use crate::program::{CPU, Done, Folder, TRAIN, done, tiny, with};

/// Compiles the disk that fails; `None` where there is no C compiler.
fn failing_disk(folder: &Folder) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/trainer/faults.c");
    let library = folder.join("faults.so");
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([&library, &source])
        .args(["-ldl", "-lpthread"])
        .output();
    match compiled {
        Ok(output) if output.status.success() => Some(library),
        Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => {
            eprintln!("SKIPPED: faults of the disk, for there is no C compiler: {error}");
            None
        }
    }
}

struct Disk {
    folder: Folder,
    library: PathBuf,
}

impl Disk {
    fn new() -> Option<Self> {
        let folder = tiny();
        let library = failing_disk(&folder)?;
        folder.ok(&with(&TRAIN, &["--run", "whole", "--set", "train.epochs=3"]));
        Some(Self { folder, library })
    }

    fn train(&self, run: &str, faults: &[(&str, String)], more: &[&str]) -> Done {
        let _ = std::fs::remove_dir_all(self.folder.join(&format!("runs/{run}")));
        let base = with(&TRAIN, &["--run", run, "--set", "train.epochs=3"]);
        let mut command = self.folder.command(&with(&base, more));
        command.env("LD_PRELOAD", &self.library);
        command.envs(faults.iter().map(|(name, value)| (*name, value.as_str())));
        done(command.output().unwrap())
    }

    /// Whatever happened: no file that is in its place is cut short, and what is there becomes the run
    /// that would have been.
    fn check(&self, run: &str, case: &str, ended: &Done) {
        let path = self.folder.join(&format!("runs/{run}"));
        if let Ok(entries) = std::fs::read_dir(path.join("checkpoints")) {
            let files = entries.map(|entry| entry.unwrap().path());
            for file in files.filter(|file| file.extension().unwrap() == "safetensors") {
                Contents::from_bytes(&file, &std::fs::read(&file).unwrap())
                    .unwrap_or_else(|error| panic!("{case}: {error}"));
            }
        }
        match ended.code {
            0 => {}
            1 => {
                assert!(ended.stderr.contains("cannot write"), "{case}: {}", ended.stderr);
                let arguments = match path.join("config.toml").exists() {
                    true => vec!["resume", run, "--device", CPU],
                    false => with(&TRAIN, &["--run", run, "--set", "train.epochs=3"]),
                };
                let again = self.folder.run(&arguments);
                assert_eq!(again.code, 0, "{case}: {}\nthen: {}", ended.stderr, again.stderr);
            }
            code => panic!("{case}: exit code {code}: {}", ended.stderr),
        }
        assert_same(&self.folder.join("runs/whole"), &path);
    }
}

/// The bytes that a run writes, and a step through them that meets every file.
fn places(disk: &Disk) -> impl Iterator<Item = usize> {
    let sizes = |folder: &str| -> u64 {
        std::fs::read_dir(disk.folder.join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap())
            .filter(std::fs::Metadata::is_file)
            .map(|metadata| metadata.len())
            .sum()
    };
    // Beside what is there in the end: two checkpoints more, and the best models before the last.
    let all = 3 * (sizes("runs/whole") + sizes("runs/whole/checkpoints")) as usize;
    let count = std::env::var("POQUELIN_FAULTS").map_or(30, |count| count.parse().unwrap());
    (0..all).step_by(all / count)
}

#[test]
fn writes_fail_once_and_the_run_goes_on() {
    let Some(disk) = Disk::new() else { return };
    let mut survived = 0;
    for place in places(&disk) {
        let ended = disk.train("once", &[("FAULT_BYTE", place.to_string())], &[]);
        survived += usize::from(ended.code == 0);
        disk.check("once", &format!("byte {place}"), &ended);
    }
    assert!(survived > 0, "a failed checkpoint ends no run");
}

#[test]
fn the_disk_fills_up_and_nothing_is_lost() {
    let Some(disk) = Disk::new() else { return };
    for place in places(&disk) {
        let faults = [("FAULT_BYTE", place.to_string()), ("FAULT_FULL", "1".to_owned())];
        let ended = disk.train("full", &faults, &[]);
        disk.check("full", &format!("full at byte {place}"), &ended);
    }
}

#[test]
fn a_run_can_stop_where_it_cannot_be_saved() {
    let Some(disk) = Disk::new() else { return };
    let stop = ["--set", "checkpoint.on_failure=stop"];
    let faults = [("FAULT_BYTE", "20000".to_owned())];
    let ended = disk.train("stop", &faults, &stop);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("No space left"), "{}", ended.stderr);
    assert!(!disk.folder.join("runs/stop/summary.json").exists());
}

#[test]
fn renames_and_syncs_fail() {
    let Some(disk) = Disk::new() else { return };
    for fault in ["FAULT_RENAME", "FAULT_SYNC"] {
        // More than a run of three epochs makes; the last of them find nothing to fail.
        for count in 1..30 {
            let ended = disk.train("fault", &[(fault, count.to_string())], &[]);
            disk.check("fault", &format!("{fault} {count}"), &ended);
        }
    }
}
