//! What the parts of a layer have, put together.

use crate::kernels::spare;

/// The sums of what all parts have for the same places.
pub(super) fn added(mut parts: Vec<Vec<f32>>) -> Vec<f32> {
    let mut sums = parts.remove(0);
    for part in parts {
        sums.iter_mut().zip(&part).for_each(|(sum, number)| *sum += number);
        spare::give(part);
    }
    sums
}

/// What each part has of every step.
pub(super) fn step_by_step(parts: Vec<Vec<f32>>, steps: usize) -> Vec<f32> {
    let lengths: Vec<usize> = parts.iter().map(|part| part.len() / steps).collect();
    side_by_side(parts, &lengths)
}

/// So many numbers of each part in turns.
pub(super) fn side_by_side(parts: Vec<Vec<f32>>, lengths: &[usize]) -> Vec<f32> {
    let mut numbers = spare::take(parts.iter().map(Vec::len).sum());
    let mut rest = numbers.as_mut_slice();
    for turn in 0..parts[0].len() / lengths[0] {
        for (part, &length) in parts.iter().zip(lengths) {
            let (to, behind) = rest.split_at_mut(length);
            to.copy_from_slice(&part[turn * length..][..length]);
            rest = behind;
        }
    }
    assert!(rest.is_empty(), "the parts have as many numbers in each turn");
    parts.into_iter().for_each(spare::give);
    numbers
}
