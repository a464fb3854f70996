use std::ops::Range;

use super::error::TokenizerError;
use super::pair::longest_first;

/// The word id of tokens that belong to no word (`[CLS]`, `[SEP]`).
pub const NO_WORD: u32 = u32::MAX;

/// A text, or a pair of texts, as tokens. All vectors have one entry per token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoding {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Bytes of the original text that each token covers; `(0, 0)` for added special tokens.
    /// In a pair each text has its own offsets.
    pub offsets: Vec<(u32, u32)>,
    /// Index of the token's word (pre-token) within its text, or [`NO_WORD`].
    pub word_ids: Vec<u32>,
    /// Whether the token was added around the text. A `[MASK]` that the text itself holds is not.
    pub special: Vec<bool>,
    /// Segment of the token: 0 for the first text, 1 for the second.
    pub token_type_ids: Vec<u32>,
    /// Which tokens come from the first and from the second text.
    pub parts: [Range<usize>; 2],
}

impl Encoding {
    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Index of the token's word within its text; `None` for `[CLS]`, `[SEP]`.
    pub fn word_id(&self, token: usize) -> Option<u32> {
        self.word_ids.get(token).copied().filter(|&word| word != NO_WORD)
    }

    /// The offsets in characters (code points) of `text` instead of bytes.
    pub fn char_offsets(&self, text: &str) -> Vec<(u32, u32)> {
        self.char_offsets_pair(text, "")
    }

    /// The offsets of a pair in characters (code points) of `first` and `second`.
    pub fn char_offsets_pair(&self, first: &str, second: &str) -> Vec<(u32, u32)> {
        let mut out = vec![(0, 0); self.len()];
        for (range, text) in self.parts.iter().zip([first, second]) {
            let mut cursor = CharCursor { text: text.as_bytes(), byte: 0, char: 0 };
            for token in range.clone() {
                let (start, end) = self.offsets[token];
                let start = cursor.seek(start);
                out[token] = (start, cursor.peek(end));
            }
        }
        out
    }

    /// Cuts the texts at their beginnings until there are `max_length` tokens, special ones included; of a pair the longer text is cut first.
    pub(super) fn keep_ends(mut self, max_length: usize) -> Result<Self, TokenizerError> {
        let texts = self.parts[0].len() + self.parts[1].len();
        let special = self.len() - texts;
        let room = max_length.checked_sub(special).ok_or(TokenizerError::MaxLength { max_length, special })?;
        let (a, b) = longest_first(self.parts[0].len(), self.parts[1].len(), room);
        for (part, keep) in [(1, b), (0, a)] {
            let whole = self.parts[part].clone();
            self.remove(whole.start..whole.end - keep);
        }
        Ok(self)
    }

    /// Takes tokens out that belong to one text.
    fn remove(&mut self, range: Range<usize>) {
        self.ids.drain(range.clone());
        self.offsets.drain(range.clone());
        self.word_ids.drain(range.clone());
        self.special.drain(range.clone());
        self.token_type_ids.drain(range.clone());
        let moved = |place: usize| if place >= range.end { place - range.len() } else { place.min(range.start) };
        self.parts = self.parts.clone().map(|part| moved(part.start)..moved(part.end));
    }

    /// Empties all vectors and keeps their memory.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.offsets.clear();
        self.word_ids.clear();
        self.special.clear();
        self.token_type_ids.clear();
        self.parts = [0..0, 0..0];
    }
}

/// Counts characters up to rising byte positions, so that a whole encoding is converted in one pass.
struct CharCursor<'a> {
    text: &'a [u8],
    byte: usize,
    char: u32,
}

impl CharCursor<'_> {
    fn seek(&mut self, byte: u32) -> u32 {
        let byte = (byte as usize).min(self.text.len());
        if byte < self.byte {
            (self.byte, self.char) = (0, 0);
        }
        self.char += starts(&self.text[self.byte..byte]);
        self.byte = byte;
        self.char
    }

    fn peek(&self, byte: u32) -> u32 {
        let byte = (byte as usize).min(self.text.len()).max(self.byte);
        self.char + starts(&self.text[self.byte..byte])
    }
}

/// Number of characters that start within `bytes`.
fn starts(bytes: &[u8]) -> u32 {
    bytes.iter().filter(|&&b| (b as i8) >= -0x40).count() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn character_offsets_count_code_points() {
        let encoding =
            Encoding { ids: vec![1, 2, 3, 4], offsets: vec![(0, 0), (0, 3), (3, 5), (0, 0)], parts: [1..3, 3..3], ..Encoding::default() };
        assert_eq!(encoding.char_offsets("中ab"), [(0, 0), (0, 1), (1, 3), (0, 0)]);
    }
}
