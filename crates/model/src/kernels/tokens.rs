//! The products of the distinct tokens of a sequence with a matrix.
//!
//! A text has far fewer distinct tokens than tokens. Each distinct one is multiplied once, and
//! what comes out is handed to all the places where it stands; going back, the gradients of those
//! places meet before they are multiplied.

use super::{linear, spare};

/// The distinct tokens of a sequence.
#[derive(Clone, Debug)]
pub(crate) struct Distinct {
    /// In the order of their first appearance.
    tokens: Vec<u32>,
    /// For every place, where its token stands in `tokens`.
    indices: Vec<u32>,
}

impl Distinct {
    /// Looks through the tokens of a vocabulary of so many.
    ///
    /// # Panics
    ///
    /// Where a token is not below `vocabulary`.
    pub(crate) fn new(places: &[u32], vocabulary: usize) -> Self {
        const ABSENT: u32 = u32::MAX;
        let mut index_of = vec![ABSENT; vocabulary];
        let mut tokens = Vec::new();
        let mut indices = Vec::with_capacity(places.len());
        for &token in places {
            let Some(index) = index_of.get_mut(token as usize) else {
                panic!("token {token} is not below the vocabulary's {vocabulary}");
            };
            if *index == ABSENT {
                *index = tokens.len() as u32;
                tokens.push(token);
            }
            indices.push(*index);
        }
        Self { tokens, indices }
    }

    /// For every place, where its token stands among the distinct ones.
    pub(super) fn indices(&self) -> &[u32] {
        &self.indices
    }

    /// The rows of the distinct tokens, one behind the other.
    fn rows_of(&self, embedding: &[f32], width: usize) -> Vec<f32> {
        let mut rows = Vec::with_capacity(self.tokens.len() * width);
        for &token in &self.tokens {
            rows.extend_from_slice(&embedding[token as usize * width..][..width]);
        }
        rows
    }
}

/// The distinct embedded tokens times the weight, plus the bias: `[U, M]`.
///
/// `embedding` is `[V, E]`, `weight` `[E, M]`, `bias` `[M]`.
pub(crate) fn table(
    distinct: &Distinct,
    embedding: &[f32],
    weight: &[f32],
    bias: &[f32],
) -> Vec<f32> {
    let rows = distinct.rows_of(embedding, weight.len() / bias.len());
    linear::forward(&rows, weight, bias)
}

/// Gradients with respect to what went in.
pub(crate) struct Gradients {
    /// `[V, E]`.
    pub(crate) embedding: Vec<f32>,
    /// `[E, M]`.
    pub(crate) weight: Vec<f32>,
    /// `[M]`.
    pub(crate) bias: Vec<f32>,
}

/// Goes back from the gradient of the table.
pub(crate) fn backward(
    distinct: &Distinct,
    embedding: &[f32],
    weight: &[f32],
    table: &[f32],
) -> Gradients {
    let width = table.len() / distinct.tokens.len();
    let d_embedding = weight.len() / width;
    let rows = distinct.rows_of(embedding, d_embedding);
    let grad_rows = linear::grad_input(weight, table, width);
    let mut grad_embedding = vec![0.0; embedding.len()];
    for (&token, grad) in distinct.tokens.iter().zip(grad_rows.chunks_exact(d_embedding)) {
        grad_embedding[token as usize * d_embedding..][..d_embedding].copy_from_slice(grad);
    }
    spare::give(grad_rows);
    Gradients {
        embedding: grad_embedding,
        weight: linear::grad_weight(&rows, table, width),
        bias: linear::grad_bias(table, width),
    }
}
