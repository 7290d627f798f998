//! Memory of one training step, kept for the next.
//!
//! What a layer keeps for its way back are megabytes. From the system they come as pages that it has to
//! find and to fill with zeros, which takes up to a tenth of a step.

use std::sync::{Mutex, PoisonError};

static SPARE: Mutex<Spare> = Mutex::new(Spare { buffers: Vec::new(), takes: 0 });

/// Buffers that nobody uses.
struct Spare {
    /// The one given last at the end; each with the number of takes before it was given.
    buffers: Vec<(u64, Vec<f32>)>,
    takes: u64,
}

/// Takes for which a buffer is kept that serves none of them: those of a step, with many threads and
/// layers.
const PATIENCE: u64 = 512;

impl Spare {
    fn take(&mut self, length: usize) -> Option<Vec<f32>> {
        self.takes += 1;
        let takes = self.takes;
        self.buffers.retain(|(given, _)| given + PATIENCE >= takes);
        // By what it has room for: lengths differ from step to step where the sequence's does.
        let fits = |buffer: &Vec<f32>| (length..=2 * length).contains(&buffer.capacity());
        let index = self.buffers.iter().rposition(|(_, buffer)| fits(buffer))?;
        let (_, mut buffer) = self.buffers.remove(index);
        buffer.resize(length, 0.0);
        Some(buffer)
    }

    fn give(&mut self, buffer: Vec<f32>) {
        self.buffers.push((self.takes, buffer));
    }
}

/// So many numbers: zeros, or what was left in them. Whoever takes them writes each before it reads it.
pub(super) fn take(length: usize) -> Vec<f32> {
    let spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner).take(length);
    spare.unwrap_or_else(|| vec![0.0; length])
}

/// So many zeros.
pub(super) fn zeros(length: usize) -> Vec<f32> {
    let mut buffer = take(length);
    buffer.fill(0.0);
    buffer
}

/// Gives back what is not needed any more.
pub(super) fn give(buffer: Vec<f32>) {
    /// Numbers from which on it is worth keeping: less is what every allocator has at hand.
    const LARGE: usize = 1 << 15;
    if buffer.capacity() < LARGE {
        return;
    }
    SPARE.lock().unwrap_or_else(PoisonError::into_inner).give(buffer);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_serves_again_where_it_fits_and_not_forever() {
        let mut spare = Spare { buffers: Vec::new(), takes: 0 };
        assert!(spare.take(100).is_none());
        spare.give(vec![1.0; 100]);
        assert!(spare.take(101).is_none(), "it is too short");
        assert!(spare.take(49).is_none(), "half of it would lie idle");
        let taken = spare.take(60).expect("it has room");
        assert_eq!(taken, vec![1.0; 60]);
        assert!(spare.take(60).is_none(), "somebody has it");
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
}
