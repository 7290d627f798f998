//! The contiguous parts of a corpus.

use std::ops::Range;

/// Ranges of positions: the training part first, then validation, then test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Splits {
    /// What the model learns from.
    pub train: Range<usize>,
    /// What decides when to stop and which model is best; cut from the end of the training part,
    /// possibly empty.
    pub valid: Range<usize>,
    /// What is scored at the end, the last part of the corpus.
    pub test: Range<usize>,
}

impl Splits {
    /// Cuts `length` positions. The test part is what is left behind the first
    /// ⌊(1 − test) · length⌋, as in the notebook; the validation part takes
    /// ⌊valid · length⌋ from the end of what is before it.
    ///
    /// # Panics
    ///
    /// Where a fraction is negative, or both together reach 1.
    pub fn cut(length: usize, test: f64, valid: f64) -> Self {
        assert!(
            test >= 0.0 && valid >= 0.0 && test + valid < 1.0,
            "fractions of a corpus: expected test and valid of at least 0 and less than 1 \
             together, got {test} and {valid}"
        );
        let test_start = ((1.0 - test) * length as f64) as usize;
        let valid_length = (valid * length as f64) as usize;
        let valid_start = test_start.saturating_sub(valid_length);
        Self { train: 0..valid_start, valid: valid_start..test_start, test: test_start..length }
    }
}
