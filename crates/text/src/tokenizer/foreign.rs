//! Any other `tokenizer.json`, through the `tokenizers` crate.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use tokenizers::utils::truncation::{TruncationParams, truncate_encodings};
use tokenizers::{PostProcessor, Tokenizer as Library};

use super::byte_bpe;
use super::encoding::{Encoding, NO_WORD};
use super::error::TokenizerError;

/// How pieces show that they continue a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    /// WordPiece: the piece itself is marked.
    Continuation,
    /// Byte-level BPE and SentencePiece: pieces that start a word begin with this character.
    Start(char),
    /// Nothing is known.
    None,
}

#[derive(Clone)]
pub(crate) struct Foreign {
    inner: Library,
    /// The file as it was read, so that it is saved as it was.
    pub(crate) json: String,
    mark: Mark,
    prefix: String,
    special: Vec<u32>,
}

/// The library's panics on broken files become errors like any other.
fn guarded<T>(work: impl FnOnce() -> Result<T, tokenizers::Error>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string()),
        Err(panic) => Err(panic
            .downcast_ref::<&str>()
            .map(|s| (*s).to_string())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "the tokenizers library failed".into())),
    }
}

/// Whether a table of replacements claims to be longer than it is: it begins with the length of its first part, for which the library takes memory unseen.
fn is_cut_off(normalizer: &serde_json::Value) -> bool {
    use serde_json::Value;
    match normalizer {
        Value::Array(items) => items.iter().any(is_cut_off),
        Value::Object(map) => map.iter().any(|(key, value)| match value {
            Value::String(table) if key == "precompiled_charsmap" => {
                // the first four bytes are in the first six letters of base64, low byte first
                let letter = |c: u8| match c {
                    b'A'..=b'Z' => Some(c - b'A'),
                    b'a'..=b'z' => Some(c - b'a' + 26),
                    b'0'..=b'9' => Some(c - b'0' + 52),
                    b'+' | b'-' => Some(62),
                    b'/' | b'_' => Some(63),
                    _ => None,
                };
                let bits = table.bytes().take(6).filter_map(letter).fold((0u64, 0), |(bits, n), l| (bits << 6 | u64::from(l), n + 1));
                let first = ((bits.0 >> 4) as u32).swap_bytes() as usize;
                bits.1 == 6 && first > table.len() / 4 * 3
            }
            other => is_cut_off(other),
        }),
        _ => false,
    }
}

impl Foreign {
    pub(crate) fn new(json: String, value: &serde_json::Value, path: &Path) -> Result<Self, TokenizerError> {
        if is_cut_off(&value["normalizer"]) {
            let message = "normalizer: the table of replacements (`precompiled_charsmap`) is cut off".into();
            return Err(TokenizerError::Foreign { path: path.to_path_buf(), message });
        }
        let mut library =
            guarded(|| json.parse::<Library>()).map_err(|message| TokenizerError::Foreign { path: path.to_path_buf(), message })?;
        // Cutting is asked for call by call, and batches are packed, never padded.
        guarded(|| library.with_truncation(None).map(|_| ()))
            .map_err(|message| TokenizerError::Foreign { path: path.to_path_buf(), message })?;
        library.with_padding(None);
        let prefix = value["model"]["continuing_subword_prefix"].as_str().unwrap_or("").to_string();
        let mark = if !prefix.is_empty() {
            Mark::Continuation
        } else if mentions(&value["pre_tokenizer"], "ByteLevel") {
            Mark::Start('Ġ')
        } else if mentions(&value["pre_tokenizer"], "Metaspace") || mentions(&value["decoder"], "Metaspace") {
            Mark::Start('▁')
        } else {
            Mark::None
        };
        let special = library.get_added_tokens_decoder().into_iter().filter(|(_, token)| token.special).map(|(id, _)| id).collect();
        Ok(Self { inner: library, json, mark, prefix, special })
    }

    pub(crate) fn encode(&self, text: &str, add_special: bool) -> Result<Encoding, TokenizerError> {
        guarded(|| self.inner.encode(text, add_special))
            .map(|encoding| {
                let mut encoding = convert(encoding);
                self.mend(&mut encoding, [text, ""]);
                encoding
            })
            .map_err(|message| TokenizerError::Encode { bytes: text.len(), message })
    }

    pub(crate) fn encode_cut(&self, first: &str, second: Option<&str>, max_length: Option<usize>) -> Result<Encoding, TokenizerError> {
        let failed = |message| TokenizerError::Encode { bytes: first.len() + second.map_or(0, str::len), message };
        let whole = guarded(|| match second {
            Some(second) => self.inner.encode((first, second), true),
            None => self.inner.encode(first, true),
        })
        .map_err(failed)?;
        let Some(max_length) = max_length.filter(|&max| whole.len() > max) else {
            let mut encoding = convert(whole);
            self.mend(&mut encoding, [first, second.unwrap_or("")]);
            return Ok(encoding);
        };
        let special = self.inner.get_post_processor().map_or(0, |p| p.added_tokens(second.is_some()));
        let room = max_length.checked_sub(special).ok_or(TokenizerError::MaxLength { max_length, special })?;
        let whole_first = first;
        guarded(|| {
            let a = self.inner.encode(first, false)?;
            let b = second.map(|second| self.inner.encode(second, false)).transpose()?;
            let params = TruncationParams { max_length: room, ..TruncationParams::default() };
            let (a, b) = truncate_encodings(a, b, &params)?;
            let first = a.len();
            Ok((self.inner.post_process(a, b, true)?, first))
        })
        .map(|(encoding, first)| {
            let mut encoding = convert(encoding);
            // The library forgets which text is which once one is cut: count instead.
            let text: Vec<usize> = (0..encoding.len()).filter(|&i| !encoding.special[i]).collect();
            let range = |places: &[usize]| match places {
                [] => 0..0,
                [only] => *only..only + 1,
                [start, .., end] => *start..end + 1,
            };
            let (a, b) = text.split_at(first.min(text.len()));
            encoding.parts = [range(a), range(b)];
            self.mend(&mut encoding, [whole_first, second.unwrap_or("")]);
            encoding
        })
        .map_err(failed)
    }

    /// Offsets where the library's are not what the model read: the sign of a space that is put before a text covers none of it, and, of SentencePiece's pieces, marks
    /// that a letter was composed with belong to the letter.
    fn mend(&self, encoding: &mut Encoding, texts: [&str; 2]) {
        let Mark::Start(space) = self.mark else { return };
        for (part, text) in encoding.parts.clone().into_iter().zip(texts) {
            for i in part.start..part.end.saturating_sub(1) {
                let (start, end) = encoding.offsets[i];
                let next = encoding.offsets[i + 1].0;
                if start == next && end > start && self.inner.id_to_token(encoding.ids[i]).is_some_and(|t| t.chars().eq([space])) {
                    encoding.offsets[i].1 = start;
                } else if space == '▁'
                    && let Some(between) = text.get(end as usize..next as usize)
                    && !between.is_empty()
                    && !between.contains(char::is_whitespace)
                {
                    encoding.offsets[i].1 = next;
                }
            }
        }
    }

    pub(crate) fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        guarded(|| self.inner.decode(ids, skip_special)).map_err(|message| TokenizerError::Decode { message })
    }

    pub(crate) fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    pub(crate) fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The token of an id as people write it.
    pub(crate) fn readable(&self, id: u32) -> Option<String> {
        let token = self.inner.id_to_token(id)?;
        let byte_level = self.mark == Mark::Start('Ġ') && !self.special.contains(&id);
        Some(byte_level.then(|| byte_bpe::readable(&token)).flatten().unwrap_or(token))
    }

    /// One more than the highest id, so that every id fits an embedding of this size.
    pub(crate) fn vocab_size(&self) -> usize {
        let vocab = self.inner.get_vocab(true);
        vocab.values().max().map_or(0, |&id| id as usize + 1)
    }

    pub(crate) fn is_continuation(&self, id: u32) -> bool {
        if self.special.contains(&id) {
            return false;
        }
        match (self.mark, self.inner.id_to_token(id)) {
            (Mark::Continuation, Some(piece)) => piece.starts_with(&self.prefix),
            (Mark::Start(mark), Some(piece)) => !piece.starts_with(mark),
            _ => false,
        }
    }
}

/// Whether `value` or a part of it has this `type`.
fn mentions(value: &serde_json::Value, kind: &str) -> bool {
    match value {
        serde_json::Value::Object(map) => map.get("type").and_then(|t| t.as_str()) == Some(kind) || map.values().any(|v| mentions(v, kind)),
        serde_json::Value::Array(items) => items.iter().any(|v| mentions(v, kind)),
        _ => false,
    }
}

fn convert(encoding: tokenizers::Encoding) -> Encoding {
    let sequences = encoding.get_sequence_ids();
    let part = |which: usize| {
        let mut places = (0..sequences.len()).filter(|&i| sequences[i] == Some(which));
        match places.next() {
            None if which == 0 => 0..0,
            None => sequences.len()..sequences.len(),
            Some(first) => first..places.next_back().unwrap_or(first) + 1,
        }
    };
    let clamp = |offset: usize| u32::try_from(offset).unwrap_or(u32::MAX);
    Encoding {
        parts: [part(0), part(1)],
        offsets: encoding.get_offsets().iter().map(|&(start, end)| (clamp(start), clamp(end))).collect(),
        word_ids: encoding.get_word_ids().iter().map(|word| word.unwrap_or(NO_WORD)).collect(),
        special: encoding.get_special_tokens_mask().iter().map(|&s| s != 0).collect(),
        token_type_ids: encoding.get_type_ids().to_vec(),
        ids: encoding.get_ids().to_vec(),
    }
}
