//! Two texts in one encoding, and cutting to a length.

use super::encoding::{Encoding, NO_WORD};
use super::error::TokenizerError;
use super::wordpiece::WordPiece;

/// How many tokens of two texts are kept so that they fit in `room`: the longer one is cut first;
/// once both are equally long they share the room, and the odd token goes to the longer one.
pub(crate) fn longest_first(first: usize, second: usize, room: usize) -> (usize, usize) {
    if first + second <= room {
        return (first, second);
    }
    let short = first.min(second).min(room / 2);
    let long = room - short;
    if first > second { (long, short) } else { (short, long) }
}

impl WordPiece {
    /// `[CLS] text [SEP]`, cut at the end to `max_length` tokens.
    ///
    /// # Errors
    /// When `max_length` cannot hold the special tokens.
    pub fn encode_truncated(&self, text: &str, max_length: usize) -> Result<Encoding, TokenizerError> {
        let mut encoding = self.encode(text, true);
        let special = encoding.len() - encoding.parts[0].len();
        if max_length < special {
            return Err(TokenizerError::MaxLength { max_length, special });
        }
        if encoding.len() > max_length {
            let cut = encoding.parts[0].start + (max_length - special)..encoding.parts[0].end;
            encoding.ids.drain(cut.clone());
            encoding.offsets.drain(cut.clone());
            encoding.word_ids.drain(cut.clone());
            encoding.special.drain(cut.clone());
            encoding.token_type_ids.drain(cut.clone());
            encoding.parts = [encoding.parts[0].start..cut.start, cut.start..cut.start];
        }
        Ok(encoding)
    }

    /// `[CLS] first [SEP] second [SEP]` with segments 0 and 1. With `max_length` the longer text is
    /// cut first, at its end.
    ///
    /// # Errors
    /// When `max_length` cannot hold the special tokens.
    pub fn encode_pair(&self, first: &str, second: &str, max_length: Option<usize>) -> Result<Encoding, TokenizerError> {
        let a = self.encode(first, false);
        let b = self.encode(second, false);
        let special = if self.template().is_some() { 3 } else { 0 };
        let room = match max_length {
            None => usize::MAX,
            Some(max_length) => max_length.checked_sub(special).ok_or(TokenizerError::MaxLength { max_length, special })?,
        };
        let (keep_a, keep_b) = longest_first(a.len(), b.len(), room);
        let mut out = Encoding::default();
        let mark = |out: &mut Encoding, id: Option<u32>, segment| {
            if let Some(id) = id {
                out.ids.push(id);
                out.offsets.push((0, 0));
                out.word_ids.push(NO_WORD);
                out.special.push(true);
                out.token_type_ids.push(segment);
            }
        };
        let (cls, sep) = self.template().unzip();
        mark(&mut out, cls, 0);
        for (part, (text, keep)) in [(&a, keep_a), (&b, keep_b)].into_iter().enumerate() {
            let start = out.len();
            out.ids.extend_from_slice(&text.ids[..keep]);
            out.offsets.extend_from_slice(&text.offsets[..keep]);
            out.word_ids.extend_from_slice(&text.word_ids[..keep]);
            out.special.resize(start + keep, false);
            out.token_type_ids.resize(start + keep, part as u32);
            out.parts[part] = start..start + keep;
            mark(&mut out, sep, part as u32);
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::longest_first;

    #[test]
    fn the_longer_text_is_cut_first() {
        assert_eq!(longest_first(3, 4, 10), (3, 4));
        assert_eq!(longest_first(3, 20, 10), (3, 7));
        assert_eq!(longest_first(20, 3, 10), (7, 3));
        assert_eq!(longest_first(20, 20, 11), (5, 6));
        assert_eq!(longest_first(30, 20, 11), (6, 5));
        assert_eq!(longest_first(30, 20, 0), (0, 0));
    }
}
