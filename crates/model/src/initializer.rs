//! Initial weights, drawn on the host.

use burn::tensor::TensorData;
use pulp::Arch;
use rand::{Rng, RngExt};
use rand_distr::{Distribution, StandardNormal};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::Seed;

/// How a weight matrix is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Initializer {
    /// All zeros.
    Zeros,
    /// U(−bound, bound).
    Uniform {
        /// Half the width of the interval.
        bound: f64,
    },
    /// N(0, std²).
    Normal {
        /// The standard deviation.
        std: f64,
    },
    /// U(−a, a) with a = √(6 / (fan in + fan out)), Glorot and Bengio 2010,
    /// <https://proceedings.mlr.press/v9/glorot10a.html>.
    XavierUniform,
    /// Orthonormal columns (rows, where there are fewer of those), Saxe et al. 2013,
    /// <https://arxiv.org/abs/1312.6120>.
    Orthogonal,
}

impl Initializer {
    /// Draws a matrix `[rows, blocks · columns]` made of `blocks` matrices `[rows, columns]` that
    /// stand side by side and are each initialised by themselves: one per gate.
    pub(crate) fn draw(self, [rows, columns]: [usize; 2], blocks: usize, seed: Seed) -> TensorData {
        let values = self.draw_values(rows, columns, blocks, seed);
        TensorData::new(values, [rows, blocks * columns])
    }

    /// Draws `blocks` vectors of `length`, one behind the other, as rows of one.
    pub(crate) fn draw_vector(self, length: usize, blocks: usize, seed: Seed) -> Vec<f32> {
        self.draw_values(1, length, blocks, seed)
    }

    fn draw_values(self, rows: usize, columns: usize, blocks: usize, seed: Seed) -> Vec<f32> {
        let mut generator = seed.generator();
        // One after the other from one generator; what is made of the numbers takes longer than to draw them.
        let drawn: Vec<Vec<f64>> =
            (0..blocks).map(|_| self.draw_block(rows, columns, &mut generator)).collect();
        let drawn: Vec<Vec<f32>> = drawn
            .into_par_iter()
            .map(|numbers| match self {
                Self::Orthogonal => {
                    Arch::new().dispatch(|| orthonormalised(rows, columns, &numbers))
                }
                _ => numbers.into_iter().map(|number| number as f32).collect(),
            })
            .collect();
        let width = blocks * columns;
        let mut values = vec![0.0; rows * width];
        for (block, drawn) in drawn.iter().enumerate() {
            for (row, source) in drawn.chunks_exact(columns).enumerate() {
                let start = row * width + block * columns;
                values[start..start + columns].copy_from_slice(source);
            }
        }
        values
    }

    fn draw_block(self, rows: usize, columns: usize, generator: &mut impl Rng) -> Vec<f64> {
        let count = rows * columns;
        match self {
            Self::Zeros => vec![0.0; count],
            Self::Uniform { bound } => uniform(count, bound, generator),
            Self::Normal { std } => {
                normal(count, generator).into_iter().map(|value| value * std).collect()
            }
            Self::XavierUniform => {
                let bound = (6.0 / (rows + columns) as f64).sqrt();
                uniform(count, bound, generator)
            }
            Self::Orthogonal => normal(count, generator),
        }
    }
}

fn uniform(count: usize, bound: f64, generator: &mut impl Rng) -> Vec<f64> {
    (0..count).map(|_| (2.0 * generator.random::<f64>() - 1.0) * bound).collect()
}

fn normal(count: usize, generator: &mut impl Rng) -> Vec<f64> {
    (0..count).map(|_| StandardNormal.sample(generator)).collect()
}

/// Orthonormalises as many normal vectors as the shorter side has, by Gram and Schmidt's method
/// done twice, which leaves them orthogonal to rounding.
#[inline(always)]
fn orthonormalised(rows: usize, columns: usize, numbers: &[f64]) -> Vec<f32> {
    /// Vectors that are taken together: those before are read once for all of them.
    const TOGETHER: usize = 8;
    let (vectors, length) = (rows.min(columns), rows.max(columns));
    let mut basis: Vec<Vec<f64>> = Vec::with_capacity(vectors);
    for numbers in numbers.chunks(TOGETHER * length) {
        let mut together: Vec<Vec<f64>> =
            numbers.chunks_exact(length).map(<[f64]>::to_vec).collect();
        for earlier in basis.iter().chain(&basis) {
            together.iter_mut().for_each(|vector| take_away(vector, earlier));
        }
        let before = basis.len();
        for mut vector in together {
            let others = &basis[before..];
            others.iter().chain(others).for_each(|earlier| take_away(&mut vector, earlier));
            let norm = dot(&vector, &vector).sqrt();
            vector.iter_mut().for_each(|value| *value /= norm);
            basis.push(vector);
        }
    }
    let element = |row: usize, column: usize| {
        if columns <= rows { basis[column][row] as f32 } else { basis[row][column] as f32 }
    };
    (0..rows)
        .flat_map(|row| (0..columns).map(move |column| (row, column)))
        .map(|(row, column)| element(row, column))
        .collect()
}

/// Takes away what a vector has of a direction, of length 1.
#[inline(always)]
fn take_away(vector: &mut [f64], direction: &[f64]) {
    let overlap = dot(vector, direction);
    for (value, direction) in vector.iter_mut().zip(direction) {
        *value -= overlap * direction;
    }
}

#[inline(always)]
fn dot(a: &[f64], b: &[f64]) -> f64 {
    /// As many sums side by side: one waits for itself.
    const SUMS: usize = 16;
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<SUMS>(), b.as_chunks::<SUMS>());
    let mut sums = [0.0; SUMS];
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(data: TensorData) -> Vec<f32> {
        data.try_to_vec().expect("the data were made as f32")
    }

    #[test]
    fn every_gate_is_orthogonal_by_itself() {
        let (h, blocks) = (17, 4);
        let w = values(Initializer::Orthogonal.draw([h, h], blocks, Seed::new(3)));
        for block in 0..blocks {
            let column = |j: usize| (0..h).map(move |row| row * blocks * h + block * h + j);
            for a in 0..h {
                for b in 0..h {
                    let product: f32 = column(a).zip(column(b)).map(|(x, y)| w[x] * w[y]).sum();
                    let expected = if a == b { 1.0 } else { 0.0 };
                    assert!((product - expected).abs() < 1e-5, "{block} {a} {b} {product}");
                }
            }
        }
    }

    #[test]
    fn a_wide_matrix_has_orthonormal_rows() {
        let w = values(Initializer::Orthogonal.draw([3, 8], 1, Seed::new(4)));
        for (a, row) in w.chunks(8).enumerate() {
            for (b, other) in w.chunks(8).enumerate() {
                let product: f32 = row.iter().zip(other).map(|(x, y)| x * y).sum();
                assert!((product - f32::from(a == b)).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn moments_are_the_stated_ones() {
        let n = 200;
        let std = |initializer: Initializer| {
            let w = values(initializer.draw([n, n], 1, Seed::new(5)));
            let mean = w.iter().sum::<f32>() / w.len() as f32;
            (w.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / w.len() as f32).sqrt()
        };
        // The relative error of a deviation estimated from 40,000 draws is about 0.4%.
        let near = |got: f32, expected: f32| (got / expected - 1.0).abs() < 0.02;
        assert!(near(std(Initializer::Normal { std: 2.0 }), 2.0));
        assert!(near(std(Initializer::Uniform { bound: 3.0 }), 3.0_f32.sqrt()));
        let xavier = (6.0 / (2 * n) as f32).sqrt() / 3.0_f32.sqrt();
        assert!(near(std(Initializer::XavierUniform), xavier));
        assert_eq!(std(Initializer::Zeros), 0.0);
    }
}
