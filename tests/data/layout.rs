use poquelin_data::{Layout, LayoutError, Splits};

#[test]
fn the_notebooks_split() {
    let splits = Splits::cut(100_000, 0.1, 0.0);
    assert_eq!(
        (splits.train, splits.valid, splits.test),
        (0..90_000, 90_000..90_000, 90_000..100_000)
    );
    let splits = Splits::cut(1_687_290, 0.1, 0.0);
    assert_eq!(splits.test, 1_518_561..1_687_290);
}

#[test]
fn parts_follow_one_another_without_a_gap() {
    for length in [2, 3, 10, 11, 99, 12_345] {
        for (test, valid) in [(0.1, 0.0), (0.1, 0.05), (0.0, 0.3), (0.5, 0.4)] {
            let splits = Splits::cut(length, test, valid);
            assert_eq!(splits.train.start, 0);
            assert_eq!(splits.train.end, splits.valid.start);
            assert_eq!(splits.valid.end, splits.test.start);
            assert_eq!(splits.test.end, length);
        }
    }
}

#[test]
fn one_lane_gives_the_notebooks_chunks() {
    // while start + T + 1 <= len: one chunk, start += T
    for offset in 0..100 {
        let layout = Layout::training(0..90_000, 1, 100, offset).unwrap();
        let expected = (0..).take_while(|k| offset + k * 100 + 101 <= 90_000).count();
        assert_eq!(layout.chunks(), expected);
        assert_eq!(layout.inputs(3, 0), offset + 300..offset + 400);
    }
}

#[test]
fn lanes_are_contiguous_equal_and_apart() {
    for (length, batch, sequence) in [(100, 3, 7), (1_000, 8, 16), (64, 4, 12), (57, 7, 5)] {
        for offset in 0..sequence {
            let range = 10..10 + length;
            let Ok(layout) = Layout::training(range.clone(), batch, sequence, offset) else {
                assert!(length < batch * sequence + sequence);
                continue;
            };
            assert!(layout.chunks() > 0);
            let mut read = vec![false; length];
            for lane in 0..batch {
                for chunk in 0..layout.chunks() {
                    let inputs = layout.inputs(chunk, lane);
                    assert_eq!(inputs.len(), sequence);
                    if chunk > 0 {
                        assert_eq!(layout.inputs(chunk - 1, lane).end, inputs.start);
                    }
                    assert!(inputs.start >= range.start + offset && inputs.end < range.end);
                    for position in inputs {
                        assert!(!std::mem::replace(&mut read[position - range.start], true));
                    }
                }
            }
            // Less than a chunk is left behind in every lane, and less than a lane at the end.
            let missed = length - offset - read.iter().filter(|&&read| read).count();
            assert!(missed < batch * sequence + batch + 1, "missed {missed}");
        }
    }
}

#[test]
fn evaluation_scores_every_character_but_the_first_once() {
    for length in [2, 3, 255, 256, 257, 258, 1_000] {
        let layout = Layout::evaluation(5..5 + length, 256).unwrap();
        let mut targets = vec![0; length];
        for chunk in 0..layout.chunks() {
            layout.inputs(chunk, 0).for_each(|position| targets[position + 1 - 5] += 1);
        }
        assert_eq!(targets[0], 0);
        assert!(targets[1..].iter().all(|&count| count == 1), "{length}: {targets:?}");
    }
}

#[test]
fn what_does_not_fit_is_refused_with_what_would() {
    let error =
        |length, batch, sequence| Layout::training(0..length, batch, sequence, 0).unwrap_err();
    assert_eq!(error(100, 0, 5), LayoutError::Zero { batch: 0, sequence: 5 });
    assert_eq!(error(100, 5, 0), LayoutError::Zero { batch: 5, sequence: 0 });
    let too_short = |available, needed, batch, sequence| LayoutError::TooShort {
        available,
        needed,
        batch,
        sequence,
    };
    assert_eq!(error(100, 1, 51), too_short(100, 102, 1, 51));
    assert!(Layout::training(0..102, 1, 51, 50).is_ok());
    assert!(matches!(error(100, usize::MAX, 2), LayoutError::TooShort { .. }));
    let nothing = LayoutError::NothingToScore { available: 1 };
    assert_eq!(Layout::evaluation(7..8, 256), Err(nothing));
}
