//! Going a share of the way from some numbers to others.

use pulp::{Arch, Simd, WithSimd};

use super::parallel::{for_each, piece_length};

/// What a number is worth in elementary operations: it waits for the memory.
const WORK: usize = 8;

/// Moves every number of `from` a share of the way to that of `to`.
///
/// # Panics
///
/// Where the lengths differ.
pub(crate) fn lerp(from: &mut [f32], to: &[f32], share: f32) {
    let count = from.len();
    assert_eq!(to.len(), count, "the lengths of what is moved and where to");
    let length = piece_length(count, WORK * count).next_multiple_of(16);
    let pieces = from.chunks_mut(length).zip(to.chunks(length));
    let pieces = pieces.map(|(from, to)| Lerp { from, to, share }).collect();
    let arch = Arch::new();
    for_each(pieces, WORK * count, |piece| arch.dispatch(piece));
}

struct Lerp<'a> {
    from: &'a mut [f32],
    to: &'a [f32],
    share: f32,
}

impl WithSimd for Lerp<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { from, to, share } = self;
        let shares = simd.splat_f32s(share);
        let moved = |a, b| simd.mul_add_e_f32s(simd.sub_f32s(b, a), shares, a);
        let (from, from_tail) = S::as_mut_simd_f32s(from);
        let (to, to_tail) = S::as_simd_f32s(to);
        from.iter_mut().zip(to).for_each(|(a, &b)| *a = moved(*a, b));
        let last = moved(simd.partial_load_f32s(from_tail), simd.partial_load_f32s(to_tail));
        simd.partial_store_f32s(from_tail, last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_the_share() {
        for count in [0, 1, 15, 16, 17, 100, 100_003] {
            let from: Vec<f32> = (0..count).map(|k| (k as f32 * 0.37).sin()).collect();
            let to: Vec<f32> = (0..count).map(|k| (k as f32 * 0.73).cos()).collect();
            let mut got = from.clone();
            lerp(&mut got, &to, 0.25);
            for ((got, a), b) in got.iter().zip(&from).zip(&to) {
                assert!((got - (0.75 * a + 0.25 * b)).abs() < 1e-6);
            }
            lerp(&mut got, &to, 1.0);
            assert!(got.iter().zip(&to).all(|(got, to)| (got - to).abs() < 1e-6));
        }
    }
}
