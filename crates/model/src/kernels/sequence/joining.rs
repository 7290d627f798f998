//! What the parts of a layer have, put together.

use crate::kernels::parallel::{for_each, piece_length};
use crate::kernels::spare;

/// What a number is worth in elementary operations: it waits for the memory.
const WORK: usize = 24;

/// The sums of what all parts have for the same places.
pub(super) fn added(mut parts: Vec<Vec<f32>>) -> Vec<f32> {
    let mut sums = parts.remove(0);
    let work = WORK * sums.len() * parts.len();
    let length = piece_length(sums.len(), work);
    for_each(sums.chunks_mut(length).enumerate().collect(), work, |(index, sums)| {
        for part in &parts {
            let numbers = &part[index * length..];
            sums.iter_mut().zip(numbers).for_each(|(sum, number)| *sum += number);
        }
    });
    parts.into_iter().for_each(spare::give);
    sums
}

/// What each part has of every step.
pub(super) fn step_by_step(parts: Vec<Vec<f32>>, steps: usize) -> Vec<f32> {
    let lengths: Vec<usize> = parts.iter().map(|part| part.len() / steps).collect();
    side_by_side(parts, &lengths)
}

/// So many numbers of each part in turns.
pub(super) fn side_by_side(parts: Vec<Vec<f32>>, lengths: &[usize]) -> Vec<f32> {
    let (width, turns) = (lengths.iter().sum(), parts[0].len() / lengths[0]);
    let fits = |(part, length): (&Vec<f32>, &usize)| part.len() == turns * length;
    assert!(parts.iter().zip(lengths).all(fits), "the parts have as many numbers in each turn");
    let mut numbers = spare::take(turns * width);
    let work = WORK * numbers.len();
    let many = piece_length(turns, work);
    for_each(numbers.chunks_mut(many * width).enumerate().collect(), work, |(index, numbers)| {
        for (turn, row) in numbers.chunks_exact_mut(width).enumerate() {
            let turn = index * many + turn;
            let mut rest = row;
            for (part, &length) in parts.iter().zip(lengths) {
                let (to, behind) = rest.split_at_mut(length);
                to.copy_from_slice(&part[turn * length..][..length]);
                rest = behind;
            }
        }
    });
    parts.into_iter().for_each(spare::give);
    numbers
}
