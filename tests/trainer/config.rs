use std::path::{Path, PathBuf};

use poquelin::config::{Config, ScheduleKind};

use crate::program::{CPU, Folder, TINY};

fn shipped() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn every_shipped_file_has_every_key() {
    let files = shipped();
    assert!(files.len() >= 2);
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        Config::parse(&path.display().to_string(), &text).unwrap();
        let keys = |text: &str| -> Vec<String> {
            let table: toml::Table = text.parse().unwrap();
            let sections = table.iter().flat_map(|(section, keys)| {
                let keys = keys.as_table().unwrap().keys();
                keys.map(move |key| format!("{section}.{key}"))
            });
            sections.collect()
        };
        assert_eq!(keys(&text), keys(include_str!("../../configs/quickstart.toml")));
    }
}

/// Model files and checkpoints hold the configuration of their time.
#[test]
fn keys_that_older_files_lack_are_as_things_were() {
    let config = Config::load(None, &[]).unwrap();
    let mut json = serde_json::to_value(&config).unwrap();
    assert!(json["train"].as_object_mut().unwrap().remove("half").is_some());
    assert_eq!(serde_json::from_value::<Config>(json).unwrap(), config);
}

#[test]
fn every_key_of_the_quickstart_is_explained() {
    let text = include_str!("../../configs/quickstart.toml");
    let mut commented = false;
    for line in text.lines() {
        match line.chars().next() {
            Some('#') => commented = true,
            Some(_) if line.contains('=') => {
                let of_a_group = ["beta_2", "epsilon"].iter().any(|key| line.starts_with(key));
                assert!(commented || of_a_group, "no comment above {line}");
                commented = false;
            }
            _ => commented = false,
        }
    }
}

#[test]
fn the_quickstart_is_the_default() {
    let quickstart = Config::parse("quickstart", include_str!("../../configs/quickstart.toml"));
    assert_eq!(Config::load(None, &[]).unwrap(), quickstart.unwrap());
}

#[test]
fn files_lie_over_the_default_and_assignments_over_files() {
    let folder = Folder::new();
    folder.write("tiny.toml", TINY);
    let load = |assignments: &[&str]| {
        let assignments: Vec<String> = assignments.iter().map(|&text| text.to_owned()).collect();
        Config::load(Some(&folder.join("tiny.toml")), &assignments).unwrap()
    };
    let config = load(&[]);
    assert_eq!((config.model.hidden, config.data.batch), (12, 2));
    assert_eq!(config.optimizer, Config::load(None, &[]).unwrap().optimizer);
    let config = load(&[
        "model.hidden=32",
        "optimizer.learning_rate=1",
        "schedule.kind=\"constant\"",
        "data.text=1984",
        "train.test_every_epoch=true",
    ]);
    assert_eq!(config.model.hidden, 32);
    assert_eq!(config.optimizer.learning_rate, 1.0);
    assert_eq!(config.schedule.kind, ScheduleKind::Constant);
    assert_eq!(config.data.text, "1984");
    assert!(config.train.test_every_epoch);
}

#[test]
fn a_stored_configuration_comes_back() {
    let config = Config::load(None, &["sample.prompt=\"«\\n\"".to_owned()]).unwrap();
    assert_eq!(Config::parse("stored", &config.to_toml()).unwrap(), config);
}

#[test]
fn help_names_the_commands_and_nothing_asks_for_a_device() {
    let folder = Folder::new();
    let help = folder.ok(&["--help"]).stdout;
    for command in ["train", "evaluate", "generate", "corpus"] {
        assert!(help.contains(command));
    }
    assert_eq!(folder.run(&[]).code, 2);
    assert_eq!(folder.run(&["train", "--device", CPU, "--nonsense"]).code, 2);
}
