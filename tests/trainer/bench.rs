use serde_json::Value;

use crate::program::{CPU, Folder};

const BENCH: [&str; 8] = [
    "bench",
    "--device",
    CPU,
    "--row",
    "generate-1-h128",
    "--implementation",
    "fused",
    "--threads=1",
];

#[test]
fn a_row_is_measured_and_set_beside_others() {
    let folder = Folder::new();
    let measured = folder.ok(&[&BENCH[..], &["--json"]].concat()).stdout;
    let line: Value = serde_json::from_str(measured.trim()).expect("one line of JSON");
    assert_eq!(line["row"], "generate-1-h128");
    assert_eq!(line["implementation"], "fused");
    assert_eq!(line["backend"], CPU);
    let number = |key: &str| line[key].as_f64().unwrap();
    let product = number("chars_per_second") * number("milliseconds");
    assert!((product / 1e3 - 1.0).abs() < 1e-6, "a step of one lane is one character");
    assert!((0.0..1.5).contains(&number("gemm_fraction")));

    let half = number("chars_per_second") / 2.0;
    let other = format!(
        r#"{{"row":"generate-1-h128","implementation":"pytorch","backend":"1 thread",
            "chars_per_second":{half},"milliseconds":{},"gemm_fraction":null}}"#,
        1e3 / half
    );
    folder.write("others.jsonl", other.replace('\n', ""));
    let table = folder.ok(&[&BENCH[..], &["--against", "others.jsonl"]].concat()).stdout;
    let row = table.lines().find(|line| line.contains("pytorch")).expect("the other's row");
    assert!(row.starts_with("generate-1-h128"), "{table}");
    assert!(row.ends_with('×'), "{table}");
}

#[test]
fn bad_input() {
    let folder = Folder::new();
    let refused = |more: &[&str], expected: &str| {
        let done = folder.run(&[&["bench", "--device", CPU], more].concat());
        assert_eq!(done.code, 2, "{more:?}");
        assert!(done.stderr.contains(expected), "{}", done.stderr);
    };
    refused(&["--row", "step-b2"], "step-b1-h128");
    refused(&["--implementation", "torch"], "burn-nn");
    refused(&["--against", "none.jsonl"], "none.jsonl");
    folder.write("bad.jsonl", "\n{\"row\":3}\n");
    refused(&["--against", "bad.jsonl"], "bad.jsonl, line 2");
}
