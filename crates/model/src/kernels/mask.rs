//! Masks of dropout, drawn by a generator that counts: a number follows from its place alone, so
//! that many are drawn at once, on every thread.
//!
//! Philox4x32-10 (Salmon et al. 2011, <https://doi.org/10.1145/2063384.2063405>).

use pulp::{Arch, Simd, WithSimd};

use super::parallel::{Piece, for_each, piece_length};

/// Blocks of the generator that are worked on side by side.
const BLOCKS: usize = 16;
/// The numbers of so many blocks. Those of one block stand BLOCKS apart, which is part of what a
/// seed means.
const TILE: usize = 4 * BLOCKS;
/// What a number is worth in elementary operations.
const WORK: usize = 8;
const ROUNDS: usize = 10;
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Zeros with probability `rate`, and 1 / (1 − rate) otherwise.
pub(crate) fn draw(count: usize, rate: f64, key: u64) -> Vec<f32> {
    let threshold = (rate * (u64::from(u32::MAX) + 1) as f64) as u32;
    let kept = (1.0 / (1.0 - rate)) as f32;
    let mut mask = vec![0.0; count];
    let length = piece_length(count, WORK * count).next_multiple_of(TILE);
    let pieces = Piece::all(count, length).zip(mask.chunks_mut(length));
    let draws = pieces.map(|(piece, mask)| Draw {
        mask,
        first: (piece.start / TILE) as u64,
        key,
        threshold,
        kept,
    });
    let arch = Arch::new();
    for_each(draws.collect(), WORK * count, |draw| arch.dispatch(draw));
    mask
}

/// A part of a mask that begins with a tile.
struct Draw<'a> {
    mask: &'a mut [f32],
    first: u64,
    key: u64,
    threshold: u32,
    kept: f32,
}

impl WithSimd for Draw<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { mask, first, key, threshold, kept } = self;
        for (tile, mask) in (first..).zip(mask.chunks_mut(TILE)) {
            let numbers = tile_of(tile, key);
            for (value, number) in mask.iter_mut().zip(numbers.as_flattened()) {
                *value = if *number < threshold { 0.0 } else { kept };
            }
        }
    }
}

/// The numbers of the blocks BLOCKS · `tile` and on.
#[inline(always)]
fn tile_of(tile: u64, key: u64) -> [[u32; BLOCKS]; 4] {
    let mut words = [[0; BLOCKS]; 4];
    let [low, high, ..] = &mut words;
    for (counter, (low, high)) in (tile * BLOCKS as u64..).zip(low.iter_mut().zip(high)) {
        [*low, *high] = halves(counter);
    }
    rounds(words, halves(key))
}

#[inline(always)]
fn rounds(words: [[u32; BLOCKS]; 4], mut key: [u32; 2]) -> [[u32; BLOCKS]; 4] {
    let [mut a, mut b, mut c, mut d] = words;
    for _ in 0..ROUNDS {
        for block in 0..BLOCKS {
            let [low_a, high_a] = halves(u64::from(MULTIPLIERS[0]) * u64::from(a[block]));
            let [low_c, high_c] = halves(u64::from(MULTIPLIERS[1]) * u64::from(c[block]));
            a[block] = high_c ^ b[block] ^ key[0];
            b[block] = low_c;
            c[block] = high_a ^ d[block] ^ key[1];
            d[block] = low_a;
        }
        key = [key[0].wrapping_add(KEY_STEPS[0]), key[1].wrapping_add(KEY_STEPS[1])];
    }
    [a, b, c, d]
}

/// The low and the high half of a number.
#[inline(always)]
const fn halves(number: u64) -> [u32; 2] {
    [number as u32, (number >> 32) as u32]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_philox() {
        // The known answers of the paper's own library (Random123, philox4x32-10): counter, key, result.
        let known = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in known {
            let result = rounds(counter.map(|word| [word; BLOCKS]), key);
            assert_eq!(result, expected.map(|word: u32| [word; BLOCKS]));
        }
    }

    #[test]
    fn a_mask_keeps_its_share_and_the_expectation() {
        let mask = draw(100_000, 0.3, 1);
        let dropped = mask.iter().filter(|&&value| value == 0.0).count() as f64 / 1e5;
        assert!((dropped - 0.3).abs() < 0.01, "dropped {dropped}");
        let mean = mask.iter().map(|&value| f64::from(value)).sum::<f64>() / 1e5;
        assert!((mean - 1.0).abs() < 0.01, "mean {mean}");
    }

    #[test]
    fn a_number_follows_from_its_place_alone() {
        let long = draw(1 << 20, 0.5, 7);
        for count in [0, 1, 63, 64, 65, 1_000] {
            assert_eq!(draw(count, 0.5, 7), long[..count]);
        }
        let alone = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            pool.expect("a pool").install(|| draw(1 << 20, 0.5, 7))
        };
        assert!(alone(1) == long && alone(3) == long);
        assert!(draw(1 << 20, 0.5, 8) != long);
        let pieces = super::super::on_every_machine(|| Probe);
        assert!(pieces.windows(2).all(|pair| pair[0].1 == pair[1].1));
    }

    /// Some tiles, to be drawn with every set of vectors.
    struct Probe;

    impl WithSimd for Probe {
        type Output = Vec<f32>;

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
            let mut mask = vec![0.0; 1_000];
            Draw { mask: &mut mask, first: 5, key: 9, threshold: 1 << 31, kept: 2.0 }
                .with_simd(simd);
            mask
        }
    }
}
