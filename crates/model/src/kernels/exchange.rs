//! Numbers that one thread writes and others read.

use std::sync::atomic::{AtomicU32, Ordering};

/// Numbers shared by parts that go in lockstep. Each place has one writer per step; what it wrote
/// is read in the step after, once a [`Team`](super::parallel::Team) has let all parts
/// pass. That gives the order: the accesses themselves ask for none, and cost what plain
/// ones do.
#[derive(Debug, Default)]
pub(super) struct Exchange(Vec<AtomicU32>);

impl Exchange {
    /// So many zeros.
    pub(super) fn new(count: usize) -> Self {
        Self((0..count).map(|_| AtomicU32::new(0)).collect())
    }

    /// Writes numbers from the place `first` on.
    pub(super) fn write(&self, first: usize, numbers: &[f32]) {
        for (place, number) in self.0[first..][..numbers.len()].iter().zip(numbers) {
            place.store(number.to_bits(), Ordering::Relaxed);
        }
    }

    /// Reads numbers from the place `first` on.
    pub(super) fn read(&self, first: usize, to: &mut [f32]) {
        for (to, place) in to.iter_mut().zip(&self.0[first..]) {
            *to = f32::from_bits(place.load(Ordering::Relaxed));
        }
    }

    /// Adds what stands from the place `first` on.
    pub(super) fn add_to(&self, first: usize, to: &mut [f32]) {
        for (to, place) in to.iter_mut().zip(&self.0[first..]) {
            *to += f32::from_bits(place.load(Ordering::Relaxed));
        }
    }
}
