//! The CPU kernels: an LSTM layer over a whole sequence, forward and backward, on slices.
//!
//! They know no Burn type. All arrays are row major, time first: `products` and `gates` are
//! `[T, B, 4H]`, `outputs` and `cells` `[T, B, H]`, the recurrent weight is `[H, 4H]`, and the
//! gates stand in the order i, f, g, o.
//!
//! Vectors are [pulp](https://docs.rs/pulp)'s: the same code is compiled for AVX-512, AVX2 with
//! FMA, NEON and plain machines, and one of them is picked at run time.

mod activation;
pub(crate) mod adamw;
pub(crate) mod adapt;
mod advance;
mod cell;
mod columns;
mod crew;
pub(crate) mod cross_entropy;
pub(crate) mod decoding;
mod exchange;
pub(crate) mod lerp;
pub(crate) mod linear;
pub(crate) mod mask;
mod matrix;
pub(crate) mod norm;
mod outer;
mod packing;
mod pairs;
mod parallel;
mod prefetch;
mod product;
mod rows;
pub(crate) mod sequence;
pub(crate) mod spare;
mod standing;
mod step;
pub(crate) mod tokens;
mod transpose;

/// What the kernels compute with on this machine, in words: on another kind sums are rounded otherwise.
pub(crate) fn arithmetic() -> String {
    struct Lanes;

    impl pulp::WithSimd for Lanes {
        type Output = usize;

        fn with_simd<S: pulp::Simd>(self, _simd: S) -> usize {
            S::F32_LANES
        }
    }

    let lanes = pulp::Arch::new().dispatch(Lanes);
    let pairs = if pairs::adds_beside_multiplying() { ", products by pairs" } else { "" };
    format!("{} with vectors of {lanes}{pairs}", std::env::consts::ARCH)
}

/// What an operation gives with plain instructions and with each set of vectors that this machine
/// has, by name.
#[cfg(test)]
fn on_every_machine<Op: pulp::WithSimd>(make: impl Fn() -> Op) -> Vec<(&'static str, Op::Output)> {
    let mut results = vec![
        ("plain", make().with_simd(pulp::Scalar::new())),
        ("best", pulp::Arch::new().dispatch(make())),
    ];
    #[cfg(target_arch = "x86_64")]
    if let Some(avx2) = pulp::x86::V3::try_new() {
        results.push(("AVX2", pulp::Simd::vectorize(avx2, make())));
    }
    results
}
