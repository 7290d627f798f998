use crate::program::{Folder, TRAIN, tiny, with};

fn svg(folder: &Folder, name: &str) -> String {
    let text = String::from_utf8(folder.read(name)).unwrap();
    assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"), "{text}");
    for word in ["NaN", "inf"] {
        assert!(!text.contains(word), "{word} in {text}");
    }
    text
}

/// How many texts of the figure are this one.
fn texts(svg: &str, text: &str) -> usize {
    svg.lines().filter(|line| *line == text).count()
}

#[test]
fn curves_of_two_runs_stand_in_one_figure() {
    let folder = tiny();
    let epochs = with(&TRAIN, &["--set", "sample.length=0", "--run"]);
    folder.ok(&with(&epochs, &["first"]));
    folder.ok(&with(&epochs, &["second", "--set", "train.test_every_epoch=true"]));

    let done = folder.ok(&["plot", "first", "second"]);
    assert_eq!(done.stdout, "runs/first/curves.svg\n");
    let both = svg(&folder, "runs/first/curves.svg");
    assert!(both.contains("width=\"800\" height=\"500\""));
    for text in ["epoch", "nats per character", "first", "second", "train", "valid", "test"] {
        assert_eq!(texts(&both, text), 1, "{text} in {both}");
    }
    assert!(both.contains("in epoch 2"), "the lowest: {both}");

    // A run without the figure's other parts says nothing of them.
    folder.ok(&["plot", "first", "--out", "one.svg", "--from", "0", "--to", "5"]);
    let one = svg(&folder, "one.svg");
    assert_eq!((texts(&one, "valid"), texts(&one, "test"), texts(&one, "second")), (1, 0, 0));
    assert_eq!((texts(&one, "0"), texts(&one, "5")), (1, 1), "the ends of the axis: {one}");
    // The figure is a file of the run, which may be replaced with it.
    folder.ok(&with(&epochs, &["first", "--force"]));
    assert!(!folder.join("runs/first/curves.svg").exists());
}

#[test]
fn one_epoch_without_validation_is_a_point() {
    let folder = tiny();
    folder.ok(&with(&TRAIN, &["--set", "train.epochs=1", "--set", "data.valid=0"]));
    folder.ok(&["plot", "tiny"]);
    let curves = svg(&folder, "runs/tiny/curves.svg");
    assert!(curves.contains("<circle"), "{curves}");
    assert_eq!((texts(&curves, "1"), texts(&curves, "valid")), (1, 0), "{curves}");
}

#[test]
fn what_cannot_be_drawn_is_told() {
    let folder = tiny();
    let refused = |arguments: &[&str], words: &[&str]| {
        let done = folder.run(&with(&["plot"], arguments));
        assert_eq!(done.code, 2, "{arguments:?}: {}", done.stderr);
        for word in words {
            assert!(
                done.stderr.contains(word),
                "{arguments:?}: {word:?} is not in {}",
                done.stderr
            );
        }
    };
    refused(&["nothing"], &["runs/nothing is not a run folder: there is nothing there"]);
    // It diverges in its first epoch.
    let wild = ["--set", "optimizer.learning_rate=1e38", "--set", "optimizer.clip=0"];
    assert_eq!(folder.run(&with(&TRAIN, &wild)).code, 1);
    refused(&["tiny"], &["the run runs/tiny has no finished epoch yet", "poquelin resume"]);
    refused(&["tiny", "--from", "2", "--to", "1"], &["--from", "below that of --to"]);
    refused(&["tiny", "--to", "inf"], &["--to: expected a number"]);
    assert!(!folder.join("runs/tiny/curves.svg").exists());
}
