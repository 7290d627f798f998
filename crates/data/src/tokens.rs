//! Tokens packed into the narrowest integer that holds the vocabulary.

use std::ops::Range;

/// A vector of token ids, one byte each while fewer than 257 ids are in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PackedTokens {
    U8(Vec<u8>),
    U16(Vec<u16>),
    U32(Vec<u32>),
}

impl PackedTokens {
    /// Room for `capacity` tokens of one byte. Untouched room takes no memory.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self::U8(Vec::with_capacity(capacity))
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::U8(ids) => ids.len(),
            Self::U16(ids) => ids.len(),
            Self::U32(ids) => ids.len(),
        }
    }

    pub(crate) fn push(&mut self, id: u32) {
        match self {
            Self::U8(ids) => match u8::try_from(id) {
                Ok(id) => ids.push(id),
                Err(_) => self.widen_and_push(id),
            },
            Self::U16(ids) => match u16::try_from(id) {
                Ok(id) => ids.push(id),
                Err(_) => self.widen_and_push(id),
            },
            Self::U32(ids) => ids.push(id),
        }
    }

    #[cold]
    fn widen_and_push(&mut self, id: u32) {
        *self = match self {
            Self::U8(ids) => Self::U16(ids.iter().map(|&id| u16::from(id)).collect()),
            Self::U16(ids) => Self::U32(ids.iter().map(|&id| u32::from(id)).collect()),
            Self::U32(_) => unreachable!("every id fits u32"),
        };
        self.push(id);
    }

    /// Replaces every id by what `table` has at its place.
    pub(crate) fn renumber(&mut self, table: &[u32]) {
        // The ids in use are the indices of `table`, before and after: none outgrows its width.
        match self {
            Self::U8(ids) => ids.iter_mut().for_each(|id| *id = table[usize::from(*id)] as u8),
            Self::U16(ids) => ids.iter_mut().for_each(|id| *id = table[usize::from(*id)] as u16),
            Self::U32(ids) => ids.iter_mut().for_each(|id| *id = table[*id as usize]),
        }
    }

    pub(crate) fn shrink(&mut self) {
        match self {
            Self::U8(ids) => ids.shrink_to_fit(),
            Self::U16(ids) => ids.shrink_to_fit(),
            Self::U32(ids) => ids.shrink_to_fit(),
        }
    }

    /// Appends the ids in `range` to `destination`, widened to Burn's 32-bit integers.
    pub(crate) fn extend_into(&self, range: Range<usize>, destination: &mut Vec<i32>) {
        match self {
            Self::U8(ids) => destination.extend(ids[range].iter().map(|&id| i32::from(id))),
            Self::U16(ids) => destination.extend(ids[range].iter().map(|&id| i32::from(id))),
            Self::U32(ids) => destination.extend(ids[range].iter().map(|&id| id as i32)),
        }
    }

    pub(crate) fn get(&self, index: usize) -> u32 {
        match self {
            Self::U8(ids) => u32::from(ids[index]),
            Self::U16(ids) => u32::from(ids[index]),
            Self::U32(ids) => ids[index],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_widen_when_an_id_outgrows_them() {
        let mut tokens = PackedTokens::with_capacity(0);
        let ids = [0, 255, 256, 65_535, 65_536, 3];
        for (count, &id) in ids.iter().enumerate() {
            tokens.push(id);
            assert_eq!(tokens.len(), count + 1);
        }
        assert!(matches!(tokens, PackedTokens::U32(_)));
        let mut out = Vec::new();
        tokens.extend_into(0..ids.len(), &mut out);
        assert_eq!(out, [0, 255, 256, 65_535, 65_536, 3]);
    }
}
