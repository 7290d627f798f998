//! Numbers that one thread writes and others read.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

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

/// Numbers each of which carries the step it belongs to: who finds the one has the other too, and
/// need not wait for a second line of the cache that says so.
#[derive(Debug)]
pub(super) struct Stamped(Vec<AtomicU64>);

impl Stamped {
    /// So many zeros, of the step 0.
    pub(super) fn new(count: usize) -> Self {
        Self((0..count).map(|_| AtomicU64::new(0)).collect())
    }

    /// Writes the numbers of a step from the place `first` on, as their bits.
    pub(super) fn write(&self, first: usize, numbers: impl IntoIterator<Item = u32>, step: u32) {
        for (place, number) in self.0[first..].iter().zip(numbers) {
            place.store(u64::from(step) << 32 | u64::from(number), Ordering::Relaxed);
        }
    }

    /// The bits of a number of this step, if it is there.
    #[inline(always)]
    pub(super) fn get(&self, place: usize, step: u32) -> Option<u32> {
        let stamped = self.0[place].load(Ordering::Relaxed);
        (stamped >> 32 == u64::from(step)).then_some(stamped as u32)
    }

    /// Reads the numbers of a step from the place `first` on, the last ones first, but for those
    /// that are `known`; returns how many are known then: those behind the last that is not there.
    ///
    /// The last ones are written last. Who looked for the first ones would take the cache line
    /// away from who is about to write the next ones to it.
    pub(super) fn read(&self, first: usize, to: &mut [f32], known: usize, step: u32) -> usize {
        let count = to.len();
        for (index, to) in to.iter_mut().enumerate().rev().skip(known) {
            match self.get(first + index, step) {
                Some(bits) => *to = f32::from_bits(bits),
                None => return count - 1 - index,
            }
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_another_step_are_not_there() {
        let stamped = Stamped::new(6);
        let bits = |numbers: &[f32]| numbers.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let mut row = [0.0; 4];
        stamped.write(1, bits(&[1.0, -2.0, f32::NAN, 4.0]), 7);
        assert_eq!(stamped.read(1, &mut row, 0, 8), 0);
        stamped.write(3, bits(&[3.0, 4.5]), 8);
        assert_eq!(stamped.read(1, &mut row, 0, 8), 2);
        assert_eq!(stamped.read(1, &mut row, 2, 8), 2);
        stamped.write(1, bits(&[-1.0, 2.0]), 8);
        assert_eq!(stamped.read(1, &mut row, 2, 8), 4);
        assert_eq!(row, [-1.0, 2.0, 3.0, 4.5]);
        assert_eq!(stamped.get(5, 8), None);
    }
}
