//! Sigmoid and hyperbolic tangent of vectors.
//!
//! The exponential reduces its argument by multiples of ln 2 and takes a polynomial of the
//! Cephes library (Moshier, <https://www.netlib.org/cephes/>).

use pulp::Simd;

/// eˣ − 1 = s p + (s − 1) for x in [−87, 88], as p = eʳ − 1 and s, a power of two: (p, s).
#[inline(always)]
fn split_exp<S: Simd>(simd: S, x: S::f32s) -> (S::f32s, S::f32s) {
    // Adding this rounds to a whole number and leaves it in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let splat = |value: f32| simd.splat_f32s(value);
    let shifted = simd.mul_add_e_f32s(x, splat(std::f32::consts::LOG2_E), splat(ROUND));
    let whole = simd.sub_f32s(shifted, splat(ROUND));
    let r = simd.mul_add_e_f32s(whole, splat(-0.693_359_4), x);
    let r = simd.mul_add_e_f32s(whole, splat(2.121_944_4e-4), r);
    let mut p = splat(1.987_569_2e-4);
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_58e-2, 0.166_666_65, 0.5] {
        p = simd.mul_add_e_f32s(p, r, splat(coefficient));
    }
    let p = simd.mul_add_e_f32s(p, simd.mul_f32s(r, r), r);
    let bias = simd.splat_u32s(127_u32.wrapping_sub(ROUND.to_bits()));
    let power = simd.add_u32s(simd.transmute_u32s_f32s(shifted), bias);
    let power = simd.wrapping_dyn_shl_u32s(power, simd.splat_u32s(23));
    (p, simd.transmute_f32s_u32s(power))
}

/// eˣ for x in [−87, 88], to 2 ulp.
#[inline(always)]
pub(super) fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let (p, power) = split_exp(simd, x);
    simd.mul_add_e_f32s(p, power, power)
}

/// The smaller of two; x where x is no number.
#[inline(always)]
fn at_most<S: Simd>(simd: S, limit: f32, x: S::f32s) -> S::f32s {
    let limit = simd.splat_f32s(limit);
    match S::IS_SCALAR {
        // Plain Rust's minimum is the number of the two.
        true => simd.select_f32s(simd.less_than_f32s(limit, x), limit, x),
        // The instructions give the second, or what is no number.
        false => simd.min_f32s(limit, x),
    }
}

/// The larger of two; x where x is no number.
#[inline(always)]
pub(super) fn at_least<S: Simd>(simd: S, limit: f32, x: S::f32s) -> S::f32s {
    let limit = simd.splat_f32s(limit);
    match S::IS_SCALAR {
        true => simd.select_f32s(simd.less_than_f32s(x, limit), limit, x),
        false => simd.max_f32s(limit, x),
    }
}

/// 1 / (1 + e⁻ˣ), to 4 ulp.
#[inline(always)]
pub(super) fn sigmoid<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let one = simd.splat_f32s(1.0);
    let minus = at_most(simd, 87.0, at_least(simd, -87.0, simd.neg_f32s(x)));
    simd.div_f32s(one, simd.add_f32s(one, exp(simd, minus)))
}

/// tanh x = (e²ˣ − 1) / (e²ˣ − 1 + 2), to 4 ulp.
#[inline(always)]
pub(super) fn tanh<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let splat = |value: f32| simd.splat_f32s(value);
    let size = at_most(simd, 10.0, simd.abs_f32s(x));
    let (p, power) = split_exp(simd, simd.add_f32s(size, size));
    // Near zero the power is 1, and nothing is lost by subtracting one.
    let less = simd.mul_add_e_f32s(p, power, simd.sub_f32s(power, splat(1.0)));
    let value = simd.div_f32s(less, simd.add_f32s(less, splat(2.0)));
    let sign = simd.and_u32s(simd.transmute_u32s_f32s(x), simd.splat_u32s(1 << 31));
    simd.transmute_f32s_u32s(simd.or_u32s(simd.transmute_u32s_f32s(value), sign))
}

#[cfg(test)]
mod tests {
    use pulp::WithSimd;

    use super::*;
    use crate::kernels::on_every_machine;

    #[derive(Clone, Copy)]
    enum Function {
        Sigmoid,
        Tanh,
    }

    struct Apply<'a>(&'a [f32], Function);

    impl WithSimd for Apply<'_> {
        type Output = Vec<f32>;

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
            let mut values = self.0.to_vec();
            for values in values.chunks_mut(S::F32_LANES) {
                let x = simd.partial_load_f32s(values);
                let y = match self.1 {
                    Function::Sigmoid => sigmoid(simd, x),
                    Function::Tanh => tanh(simd, x),
                };
                simd.partial_store_f32s(values, y);
            }
            values
        }
    }

    fn values(arguments: &[f32], function: Function) -> Vec<Vec<f32>> {
        let results = on_every_machine(|| Apply(arguments, function));
        results.into_iter().map(|(_, values)| values).collect()
    }

    /// The distance between two numbers in units of the last place of the exact one.
    fn ulps(got: f32, exact: f64) -> f64 {
        let nearest = (exact as f32).abs();
        (f64::from(got) - exact).abs() / f64::from(nearest.next_up() - nearest)
    }

    fn assert_within_4_ulps(function: Function, exact: impl Fn(f64) -> f64) {
        let arguments: Vec<f32> = (-200_000..=200_000)
            .map(|k| k as f32 * 1e-4)
            .chain((0..100).map(|k| 2.0_f32.powi(-k)))
            .chain((0..100).map(|k| -(2.0_f32.powi(-k))))
            .collect();
        for values in values(&arguments, function) {
            for (&got, &x) in values.iter().zip(&arguments) {
                let error = ulps(got, exact(f64::from(x)));
                assert!(error <= 4.0, "at {x}: {got}, {error} ulp");
            }
        }
    }

    #[test]
    fn sigmoid_is_right_to_4_ulp() {
        assert_within_4_ulps(Function::Sigmoid, |x| 1.0 / (1.0 + (-x).exp()));
    }

    #[test]
    fn tanh_is_right_to_4_ulp() {
        assert_within_4_ulps(Function::Tanh, f64::tanh);
    }

    #[test]
    fn far_out_they_saturate_and_let_what_is_no_number_pass() {
        let arguments = [50.0, 1e10, f32::INFINITY, -50.0, -1e10, f32::NEG_INFINITY, f32::NAN];
        for values in values(&arguments, Function::Sigmoid) {
            assert_eq!(values[..3], [1.0; 3]);
            assert!(values[3..6].iter().all(|&value| (0.0..1e-20).contains(&value)));
            assert!(values[6].is_nan());
        }
        for values in values(&arguments, Function::Tanh) {
            assert_eq!(values[..6], [1.0, 1.0, 1.0, -1.0, -1.0, -1.0]);
            assert!(values[6].is_nan());
        }
    }
}
