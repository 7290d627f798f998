use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use poquelin::model_file::Contents;
use poquelin::weights::from_safetensors;
use serde_json::Value;

/// All of a run that must not depend on what happened to its processes: the bytes of the finished and
/// the best model, of the newest checkpoint every tensor and all that is no time, metrics and summary
/// without times.
pub fn essence(run: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut parts = BTreeMap::new();
    let read = |path: &Path| {
        std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    for name in ["model.safetensors", "checkpoints/best.safetensors"] {
        parts.insert(name.to_owned(), read(&run.join(name)));
    }
    let newest = checkpoints(run).pop().expect("a run has a checkpoint");
    let bytes = read(&newest);
    Contents::from_bytes(&newest, &bytes).unwrap();
    let (tensors, notes) = from_safetensors(&bytes).unwrap();
    for (name, data) in tensors.into_iter().filter(|(name, _)| name != "sha256") {
        parts.insert(format!("checkpoint {name}"), data.as_bytes().to_vec());
    }
    let mut header: Value = serde_json::from_str(&notes["poquelin"]).unwrap();
    let ledger = &mut header["training"]["ledger"];
    let lines = timeless_lines(ledger["metrics"].as_str().unwrap());
    ledger["metrics"] = lines.into();
    parts.insert("checkpoint".to_owned(), timeless(header).to_string().into());
    let metrics = String::from_utf8(read(&run.join("metrics.jsonl"))).unwrap();
    parts.insert("metrics.jsonl".to_owned(), timeless_lines(&metrics).into());
    let summary = serde_json::from_slice(&read(&run.join("summary.json"))).unwrap();
    parts.insert("summary.json".to_owned(), timeless(summary).to_string().into());
    parts
}

/// The checkpoints of steps, the newest last.
pub fn checkpoints(run: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(run.join("checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("step-"))
        .filter(|path| path.extension().unwrap() == "safetensors")
        .collect();
    paths.sort();
    paths
}

/// Asserts that two runs are the same, naming what is not.
pub fn assert_same(a: &Path, b: &Path) {
    let (a, b) = (essence(a), essence(b));
    let names = |parts: &BTreeMap<String, Vec<u8>>| parts.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&a), names(&b));
    for (name, bytes) in &a {
        if *bytes != b[name] {
            let text = |bytes: &[u8]| {
                String::from_utf8_lossy(&bytes[..bytes.len().min(3_000)]).into_owned()
            };
            panic!("{name} differs:\n{}\n{}", text(bytes), text(&b[name]));
        }
    }
}

fn timeless_lines(lines: &str) -> String {
    let line = |line| timeless(serde_json::from_str(line).unwrap()).to_string();
    lines.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// Without times, and without the folder's name.
fn timeless(mut value: Value) -> Value {
    match &mut value {
        Value::Object(members) => {
            for name in ["seconds", "train_seconds", "chars_per_second", "run"] {
                members.remove(name);
            }
            members.values_mut().for_each(|member| *member = timeless(member.take()));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| *item = timeless(item.take())),
        _ => {}
    }
    value
}
