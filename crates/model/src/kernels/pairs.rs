//! Products by pairs, for machines that add beside multiplying.
//!
//! x₁y₁ + x₂y₂ = (x₁ + y₂)(x₂ + y₁) − x₁x₂ − y₁y₂ (Winograd 1968,
//! <https://doi.org/10.1109/TC.1968.227420>): two products by one multiplication and two additions. The x₁x₂ of a
//! row serve all columns, and the y₁y₂ of a column all rows: their factors, formed once. Where adders stand beside
//! the multipliers, both are busy when two products in three are formed so and the third as always: three in
//! the time of two.
//!
//! The sums are nearly as exact as others where x and y are of a size, so columns are multiplied with powers of
//! two and their sums with the inverse; and where factors are small, so every other four pairs are formed
//! as (x₁ − y₂)(y₁ − x₂): their factors have the opposite sign, and those of numbers of one sign do not add up.

use std::borrow::BorrowMut;
use std::sync::LazyLock;

use pulp::Simd;

use super::parallel::Piece;
use super::product::{Onto, put_down};
use super::step::{GateRow, UNITS, WIDTH};

/// Depths that lie together. Loops over that many, which the compiler knows, keep the sums in registers.
pub(super) const BLOCK: usize = 8;
/// Those of them whose factors have the one sign, and then those that have the other.
pub(super) const HALF: usize = BLOCK / 2;
/// The exponent of the power of two that columns are brought to, by the root of their mean square: hidden states,
/// which are not scaled, are taken to be of that size.
const SIZE: i32 = -1;

/// Whether this machine has adders beside its multipliers and registers for a large tile: AMD's with AVX-512
/// have, from Zen 4 on.
pub(super) fn adds_beside_multiplying() -> bool {
    // To ask the processor takes a microsecond or more where it is a virtual one.
    static ANSWER: LazyLock<bool> = LazyLock::new(|| {
        #[cfg(target_arch = "x86_64")]
        {
            let name = std::arch::x86_64::__cpuid(0);
            let name = [name.ebx, name.edx, name.ecx].map(u32::to_le_bytes);
            name.as_flattened() == b"AuthenticAMD" && pulp::x86::V4::is_available()
        }
        #[cfg(not(target_arch = "x86_64"))]
        false
    });
    *ANSWER
}

/// What sums of products by pairs begin and end with, for each of some columns.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(super) struct ColumnFactors<const N: usize> {
    /// Minus the factors.
    pub(super) minus: [f32; N],
    /// What the sums are multiplied with.
    pub(super) scales: [f32; N],
}

impl<const N: usize> ColumnFactors<N> {
    /// Scales columns in place, so that all are of a size; returns their factors.
    #[inline(always)]
    pub(super) fn scaling(rows: &mut [impl BorrowMut<[f32; N]>]) -> Self {
        let mut squares = [0.0; N];
        for row in &*rows {
            for (sum, &number) in squares.iter_mut().zip(row.borrow()) {
                *sum += f64::from(number) * f64::from(number);
            }
        }
        let (mut ups, mut scales) = ([0.0; N], [0.0; N]);
        for ((up, down), squares) in ups.iter_mut().zip(&mut scales).zip(squares) {
            (*up, *down) = powers(squares / rows.len() as f64);
        }
        for row in &mut *rows {
            for (number, up) in row.borrow_mut().iter_mut().zip(ups) {
                *number *= up;
            }
        }
        let mut minus = [0.0; N];
        let [first, second, _] = thirds(rows).map(<[_]>::as_flattened);
        for (depth, (first, second)) in first.iter().zip(second).enumerate() {
            let sign = if depth % BLOCK < HALF { -1.0 } else { 1.0 };
            let columns = first.borrow().iter().zip(second.borrow());
            for (sum, (first, second)) in minus.iter_mut().zip(columns) {
                *sum += sign * first * second;
            }
        }
        Self { minus, scales }
    }
}

/// Some columns of a right factor, and of the result.
#[derive(Clone, Copy)]
pub(super) struct Strip<'a> {
    pub(super) panel: &'a [GateRow],
    pub(super) factors: &'a ColumnFactors<WIDTH>,
    pub(super) columns: Piece,
    /// How many the result has in all.
    pub(super) pitch: usize,
    /// What the sums of these columns are added to.
    pub(super) onto: Onto<'a>,
}

impl Strip<'_> {
    /// Puts down the sums of a tile: of some rows, as many as there are, a vector of each quarter of the panel.
    #[inline(always)]
    pub(super) fn put_down<S: Simd, const ROWS: usize>(
        self,
        simd: S,
        sums: [[S::f32s; 4]; ROWS],
        part: usize,
        to: &mut [f32],
    ) {
        let Self { columns, pitch, onto, .. } = self;
        // Where all are whole and side by side, in a loop of its own: the sums stay in registers.
        if (columns.length, S::F32_LANES) == (WIDTH, UNITS) {
            for (sums, to) in sums.into_iter().zip(to.chunks_mut(pitch)) {
                put_down(simd, sums, onto, &mut to[columns.start..][..WIDTH]);
            }
            return;
        }
        for (sums, to) in sums.into_iter().zip(to.chunks_mut(pitch)) {
            let to = &mut to[columns.start..][..columns.length];
            for (sum, first) in sums.into_iter().zip((part..).step_by(UNITS)) {
                let width = S::F32_LANES.min(to.len().saturating_sub(first));
                if width > 0 {
                    put_down(simd, [sum], onto.from(first), &mut to[first..][..width]);
                }
            }
        }
    }
}

/// The power of two that brings numbers of this mean square to their size, and its inverse, or 0 where all numbers
/// are 0: so are their sums then.
#[inline(always)]
pub(super) fn powers(mean: f64) -> (f32, f32) {
    // The root's exponent, to the nearest, is half of the mean's, which 1023 is added to there.
    let root = ((mean.to_bits() >> 52) as i32 - 1022) >> 1;
    // As far as both powers are normal numbers.
    let exponent = (SIZE - root).clamp(-126, 126);
    let power = |exponent: i32| f32::from_bits(((127 + exponent) as u32) << 23);
    (power(exponent), if mean == 0.0 { 0.0 } else { power(-exponent) })
}

/// Depths in three pieces of as many whole blocks, and without what is left over: those of the first are paired
/// with those of the second.
#[inline(always)]
pub(super) fn thirds<T>(numbers: &[T]) -> [&[[T; BLOCK]]; 3] {
    let blocks = numbers.as_chunks().0;
    let third = blocks.len() / 3;
    let ((first, second), single) = (blocks.split_at(third), &blocks[2 * third..3 * third]);
    [first, &second[..third], single]
}

/// The factor of a row.
#[inline(always)]
pub(super) fn row_factor(row: &[f32]) -> f32 {
    let [first, second, _] = thirds(row);
    let mut sums = [0.0; BLOCK];
    for (first, second) in first.iter().zip(second) {
        for (sum, (first, second)) in sums.iter_mut().zip(first.iter().zip(second)) {
            *sum += first * second;
        }
    }
    let (some, opposite) = sums.split_at(HALF);
    some.iter().sum::<f32>() - opposite.iter().sum::<f32>()
}

/// Adds what a pair of depths contributes, and its factors: minus those where they are the `OPPOSITE` ones.
#[inline(always)]
pub(super) fn add_pair<S: Simd, const ROWS: usize, const OPPOSITE: bool>(
    simd: S,
    sums: &mut [[S::f32s; 4]; ROWS],
    [firsts, seconds]: [[f32; ROWS]; 2],
    [one, two]: [[S::f32s; 4]; 2],
) {
    for ((sums, first), second) in sums.iter_mut().zip(firsts).zip(seconds) {
        let (first, second) = (simd.splat_f32s(first), simd.splat_f32s(second));
        for ((sum, one), two) in sums.iter_mut().zip(one).zip(two) {
            let (left, right) = match OPPOSITE {
                false => (simd.add_f32s(first, two), simd.add_f32s(second, one)),
                true => (simd.sub_f32s(first, two), simd.sub_f32s(one, second)),
            };
            *sum = simd.mul_add_e_f32s(left, right, *sum);
        }
    }
}

#[cfg(test)]
pub(super) mod testing {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// Numbers from −1 to 1.
    pub(in crate::kernels) fn drawn(seed: u64, count: usize) -> Vec<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
    }
}
