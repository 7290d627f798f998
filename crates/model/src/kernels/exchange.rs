//! Numbers that one thread writes and others read.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

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
    #[inline(always)]
    pub(super) fn write(&self, first: usize, numbers: &[f32]) {
        for (place, number) in self.0[first..][..numbers.len()].iter().zip(numbers) {
            place.store(number.to_bits(), Ordering::Relaxed);
        }
    }

    /// Reads numbers from the place `first` on.
    #[inline(always)]
    pub(super) fn read(&self, first: usize, to: &mut [f32]) {
        for (to, place) in to.iter_mut().zip(&self.0[first..]) {
            *to = f32::from_bits(place.load(Ordering::Relaxed));
        }
    }

    /// Adds what stands from the place `first` on.
    #[inline(always)]
    pub(super) fn add_to(&self, first: usize, to: &mut [f32]) {
        for (to, place) in to.iter_mut().zip(&self.0[first..]) {
            *to += f32::from_bits(place.load(Ordering::Relaxed));
        }
    }
}

/// Words of a line of the cache.
const WORDS: usize = 8;
/// Numbers of a line, two in each word: half as many accesses.
const OF_LINE: usize = 2 * WORDS;

/// A line of the cache.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Line([AtomicU64; WORDS]);

/// Numbers each of which carries the step it belongs to: who finds the one has the other too, and
/// need not wait for a second line of the cache that says so.
#[derive(Debug)]
pub(super) struct Stamped(Vec<Line>);

impl Stamped {
    /// So many zeros, of the step 0.
    pub(super) fn new(count: usize) -> Self {
        Self((0..count.div_ceil(WORDS)).map(|_| Line::default()).collect())
    }

    /// Writes the numbers of a step from the place `first` on, as their bits.
    pub(super) fn write(&self, first: usize, numbers: impl IntoIterator<Item = u32>, step: u32) {
        for (place, number) in (first..).zip(numbers) {
            self.word(place).store(u64::from(step) << 32 | u64::from(number), Ordering::Relaxed);
        }
    }

    /// The bits of a number of this step, if it is there.
    #[inline(always)]
    pub(super) fn get(&self, place: usize, step: u32) -> Option<u32> {
        let stamped = self.word(place).load(Ordering::Relaxed);
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

    #[inline(always)]
    fn word(&self, place: usize) -> &AtomicU64 {
        &self.0[place / WORDS].0[place % WORDS]
    }
}

/// Rows of numbers that one thread hands to the others, those of one step at a time. Who writes a
/// step's has read what the others made of those two steps before.
#[derive(Debug)]
pub(super) struct Outbox {
    /// Of even and odd steps.
    halves: [Half; 2],
    width: usize,
}

#[derive(Debug)]
struct Half {
    /// Whose numbers are here. On lines of the cache of its own: the others look at it again and again, and
    /// would take away the line that is about to be written.
    step: CachePadded<AtomicU32>,
    lines: Vec<Line>,
}

impl Outbox {
    /// Of so many rows, with the numbers of no step in it but 0.
    pub(super) fn new(rows: usize, width: usize) -> Self {
        let half = || Half {
            step: CachePadded::default(),
            lines: (0..rows * width.div_ceil(OF_LINE)).map(|_| Line::default()).collect(),
        };
        Self { halves: [half(), half()], width }
    }

    /// Puts a row of a step in.
    #[inline(always)]
    pub(super) fn put(&self, row: usize, numbers: &[f32], step: u32) {
        for (line, numbers) in self.row(row, step).iter().zip(numbers.chunks(OF_LINE)) {
            let (pairs, rest) = numbers.as_chunks();
            for (word, &[first, second]) in line.0.iter().zip(pairs) {
                word.store(pack(first, second), Ordering::Relaxed);
            }
            if let [last] = rest {
                line.0[pairs.len()].store(pack(*last, 0.0), Ordering::Relaxed);
            }
        }
    }

    /// Hands the rows of a step over: all have been put in.
    #[inline(always)]
    pub(super) fn hand_over(&self, step: u32) {
        self.half(step).step.store(step, Ordering::Release);
    }

    /// Whether the numbers of a step are there.
    #[inline(always)]
    pub(super) fn has(&self, step: u32) -> bool {
        self.half(step).step.load(Ordering::Acquire) == step
    }

    /// Takes a row of a step that is there.
    #[inline(always)]
    pub(super) fn read(&self, row: usize, to: &mut [f32], step: u32) {
        for (line, numbers) in self.row(row, step).iter().zip(to.chunks_mut(OF_LINE)) {
            let (pairs, rest) = numbers.as_chunks_mut();
            let count = pairs.len();
            for (word, pair) in line.0.iter().zip(pairs) {
                *pair = unpack(word.load(Ordering::Relaxed));
            }
            if let [last] = rest {
                [*last, _] = unpack(line.0[count].load(Ordering::Relaxed));
            }
        }
    }

    #[inline(always)]
    fn row(&self, row: usize, step: u32) -> &[Line] {
        let of_row = self.width.div_ceil(OF_LINE);
        &self.half(step).lines[row * of_row..][..of_row]
    }

    fn half(&self, step: u32) -> &Half {
        &self.halves[step as usize % 2]
    }
}

fn pack(first: f32, second: f32) -> u64 {
    u64::from(second.to_bits()) << 32 | u64::from(first.to_bits())
}

fn unpack(word: u64) -> [f32; 2] {
    [f32::from_bits(word as u32), f32::from_bits((word >> 32) as u32)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_out_as_they_were_put_in() {
        for width in [0, 1, 2, 15, 16, 17, 80] {
            let outbox = Outbox::new(3, width);
            assert!(!outbox.has(1) && !outbox.has(2));
            let numbers = |step: u32| -> Vec<f32> {
                (0..3 * width).map(|k| step as f32 + k as f32 / 7.0).collect()
            };
            for step in 1..5 {
                assert!(!outbox.has(step));
                for row in 0..3 {
                    outbox.put(row, &numbers(step)[row * width..][..width], step);
                }
                outbox.hand_over(step);
                // Those of the step before are still there, those of the one before that are not.
                assert!(outbox.has(step) && !outbox.has(step + 1));
                assert!(step < 3 || !outbox.has(step - 2));
                for step in step.saturating_sub(1).max(1)..=step {
                    let mut got = vec![0.0; 3 * width];
                    for row in 0..3 {
                        outbox.read(row, &mut got[row * width..][..width], step);
                    }
                    assert_eq!(got, numbers(step), "width {width}, step {step}");
                }
            }
        }
    }

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
