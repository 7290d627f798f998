//! The distinct tokens of a sequence.
//!
//! A text has far fewer distinct tokens than tokens. Each distinct one is multiplied once, and
//! what comes out is handed to all the places where it stands; going back, the gradients of those
//! places meet before they are multiplied.

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

    /// U, how many there are.
    pub(super) fn count(&self) -> usize {
        self.tokens.len()
    }

    /// For every place, where its token stands among the distinct ones.
    pub(super) fn indices(&self) -> &[u32] {
        &self.indices
    }

    /// The rows of the distinct tokens, one behind the other, `[U, width]`.
    pub(crate) fn rows_of(&self, embedding: &[f32], width: usize) -> Vec<f32> {
        let mut rows = Vec::with_capacity(self.tokens.len() * width);
        for &token in &self.tokens {
            rows.extend_from_slice(&embedding[token as usize * width..][..width]);
        }
        rows
    }

    /// Such rows where their tokens stand in a matrix of so many numbers, zeros elsewhere.
    pub(crate) fn scattered(&self, rows: &[f32], count: usize) -> Vec<f32> {
        let width = rows.len() / self.tokens.len();
        let mut matrix = vec![0.0; count];
        for (&token, row) in self.tokens.iter().zip(rows.chunks_exact(width)) {
            matrix[token as usize * width..][..width].copy_from_slice(row);
        }
        matrix
    }
}
