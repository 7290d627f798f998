//! Randomness drawn on the host from (seed, purpose, step), and from nothing else.
//!
//! Burn's own generators are global per backend: two backends draw different numbers, and nobody
//! can save where they stand. Here every draw starts from a [`Seed`] derived for one purpose at
//! one step, so that the same seed gives the same weights and masks everywhere and a run that
//! resumes at step `n` needs to know only `n`.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// A seed, and the root of all seeds derived from it.
///
/// ```
/// use poquelin_model::Seed;
///
/// let run = Seed::new(42);
/// let masks = run.derive("dropout", 17); // the masks of training step 17
/// assert_eq!(masks, Seed::new(42).derive("dropout", 17));
/// assert_ne!(masks, run.derive("dropout", 18));
/// assert_ne!(masks, run.derive("sampling", 17));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Seed(u64);

impl Seed {
    /// The seed of a whole run.
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The seed for `purpose` at `step`.
    pub fn derive(self, purpose: &str, step: u64) -> Self {
        let mut state = self.0;
        for byte in purpose.bytes() {
            state = mix(state ^ u64::from(byte));
        }
        // The length separates a purpose from its extension by a zero byte.
        Self(mix(mix(state ^ purpose.len() as u64) ^ step))
    }

    /// The seed as a number, for generators of other crates.
    pub const fn value(self) -> u64 {
        self.0
    }

    /// A fresh generator. Its output is the same on every platform and in every version of
    /// `rand_chacha`, which promises it.
    pub fn generator(self) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(self.0)
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014, <https://doi.org/10.1145/2714064.2660195>)
/// after its increment: a bijection in which every input bit reaches every output bit.
const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngExt;

    #[test]
    fn the_stream_of_a_seed_is_pinned() {
        // A change here changes every run that anyone has ever seeded.
        const PINNED: (u64, u64) = (11_365_937_879_534_860_431, 3_665_669_440_377_053_107);
        let seed = Seed::new(0).derive("weights", 0);
        assert_eq!((seed.value(), seed.generator().random::<u64>()), PINNED);
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf, "SplitMix64's first output from state 0");
    }

    #[test]
    fn purposes_do_not_run_into_each_other() {
        let seed = Seed::new(7);
        assert_ne!(seed.derive("ab", 0), seed.derive("a", 0).derive("b", 0));
        assert_ne!(seed.derive("a", 0), seed.derive("a\0", 0));
    }
}
