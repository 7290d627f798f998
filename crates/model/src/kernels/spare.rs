//! Memory of one training step, kept for the next.
//!
//! What a layer keeps for its way back are megabytes, and so are gradients. From the system they come as
//! pages that it has to find and to fill with zeros, which takes up to a tenth of a step.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What buffers are made of: numbers.
pub(crate) trait Numbers: Copy + 'static {
    /// Such numbers.
    fn all(number: f32) -> Self;

    /// The buffers of this kind.
    fn spare() -> &'static Mutex<Spare<Self>>;
}

impl Numbers for f32 {
    fn all(number: f32) -> Self {
        number
    }

    fn spare() -> &'static Mutex<Spare<Self>> {
        static SPARE: Mutex<Spare<f32>> = Mutex::new(Spare::NOTHING);
        &SPARE
    }
}

/// Buffers that nobody uses, and what is known of those that somebody does.
pub(crate) struct Spare<T> {
    /// The one given last at the end; each with the number of takes before it was given.
    buffers: Vec<(u64, Vec<T>)>,
    /// The capacities of buffers that are out, the longest first. Only as many come back as went out,
    /// whatever else is given.
    lent: VecDeque<usize>,
    takes: u64,
}

/// Bytes from which on a buffer is worth keeping: less is what every allocator has at hand.
const LARGE: usize = 1 << 15;
/// Takes of its kind for which a buffer is kept that serves none of them: those of a step, with many
/// threads and layers; those of many steps where a layer takes one or two.
const PATIENCE: u64 = 512;
/// Buffers that are waited for: those of a step, many times over. Some never come back.
const MOST_LENT: usize = 1 << 12;

impl<T> Spare<T> {
    pub(super) const NOTHING: Self = Self { buffers: Vec::new(), lent: VecDeque::new(), takes: 0 };

    /// The tightest that has room for so many numbers, as it was given: lengths differ from step to
    /// step where the sequence's does.
    fn take(&mut self, length: usize) -> Option<Vec<T>> {
        self.takes += 1;
        let takes = self.takes;
        self.buffers.retain(|(given, _)| given + PATIENCE >= takes);
        let capacity = |index: &usize| self.buffers[*index].1.capacity();
        let fits = |index: &usize| (length..=length + length / 2).contains(&capacity(index));
        let found = (0..self.buffers.len()).rev().filter(fits).min_by_key(capacity);
        let buffer = found.map(|index| self.buffers.remove(index).1);
        if self.lent.len() == MOST_LENT {
            self.lent.pop_front();
        }
        self.lent.push_back(buffer.as_ref().map_or(length, Vec::capacity));
        buffer
    }

    fn give(&mut self, buffer: Vec<T>) {
        if let Some(index) = self.lent.iter().position(|&lent| lent == buffer.capacity()) {
            self.lent.remove(index);
            self.buffers.push((self.takes, buffer));
        }
    }
}

/// So many: zeros, or what was left in them. Whoever takes them writes each before it reads it; in
/// builds with debug assertions they are no numbers, so that it shows where somebody does not.
pub(super) fn take<T: Numbers>(length: usize) -> Vec<T> {
    let mut buffer = find(length).unwrap_or_else(|| vec![T::all(0.0); length]);
    if cfg!(debug_assertions) {
        buffer.fill(T::all(f32::NAN));
    }
    buffer
}

/// So many zeros.
pub(super) fn zeros(length: usize) -> Vec<f32> {
    match find(length) {
        Some(mut buffer) => {
            buffer.fill(0.0);
            buffer
        }
        None => vec![0.0; length],
    }
}

/// Gives back what is not needed any more.
pub(crate) fn give<T: Numbers>(buffer: Vec<T>) {
    if is_large::<T>(buffer.capacity()) {
        lock().give(buffer);
    }
}

/// A buffer of so many, if there is one.
fn find<T: Numbers>(length: usize) -> Option<Vec<T>> {
    if !is_large::<T>(length) {
        return None;
    }
    let mut buffer = lock().take(length)?;
    buffer.resize(length, T::all(0.0));
    Some(buffer)
}

fn is_large<T>(length: usize) -> bool {
    length * size_of::<T>() >= LARGE
}

fn lock<T: Numbers>() -> MutexGuard<'static, Spare<T>> {
    T::spare().lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_serves_again_where_it_fits_and_not_forever() {
        let mut spare = Spare::<f32>::NOTHING;
        assert!(spare.take(100).is_none());
        spare.give(vec![1.0; 100]);
        assert!(spare.take(101).is_none(), "it is too short");
        assert!(spare.take(66).is_none(), "a third of it would lie idle");
        let taken = spare.take(67).expect("it has room");
        assert_eq!(taken, vec![1.0; 100], "as it was given");
        assert!(spare.take(67).is_none(), "somebody has it");
        spare.give(taken);
        let taken = spare.take(100).expect("it has the room it had");
        assert_eq!(taken.len(), 100);
        spare.give(taken);
        for _ in 0..PATIENCE {
            assert!(spare.take(1).is_none());
        }
        assert!(spare.take(100).is_none(), "nobody has wanted it for long");
        assert!(spare.buffers.is_empty());
    }

    #[test]
    fn the_tightest_serves_and_of_several_the_latest() {
        let mut spare = Spare::<f32>::NOTHING;
        for length in [120, 100, 100, 110] {
            assert!(spare.take(length).is_none());
        }
        for (length, number) in [(100, 1.0), (120, 2.0), (100, 3.0), (110, 4.0)] {
            spare.give(vec![number; length]);
        }
        for number in [3.0, 1.0, 4.0, 2.0] {
            assert_eq!(spare.take(90).expect("there are four")[0], number);
        }
    }

    #[test]
    fn no_more_is_kept_than_was_taken() {
        let mut spare = Spare::<f32>::NOTHING;
        for _ in 0..5 {
            let _ = spare.take(100);
            spare.give(vec![0.0; 100]);
            spare.give(vec![0.0; 100]);
            spare.give(vec![0.0; 90]);
        }
        assert_eq!(spare.buffers.len(), 1);
    }

    #[test]
    fn what_is_out_for_long_comes_back_all_the_same() {
        let mut spare = Spare::<f32>::NOTHING;
        assert!(spare.take(100).is_none());
        for _ in 0..2 * PATIENCE {
            assert!(spare.take(1).is_none());
        }
        spare.give(vec![1.0; 100]);
        assert!(spare.take(100).is_some());
        for _ in 0..2 * MOST_LENT {
            assert!(spare.take(1).is_none());
        }
        assert_eq!(spare.lent.len(), MOST_LENT, "what never comes back is forgotten");
    }
}
