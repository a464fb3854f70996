//! Text to token ids and back.
//!
//! [`Tokenizer`] is what the rest of Cloze uses. BERT's WordPiece runs on our own code
//! ([`WordPiece`]); any other `tokenizer.json` runs through the `tokenizers` crate, and so do byte-level BPE in
//! `vocab.json` and `merges.txt`, and SentencePiece models.
//!
//! ```
//! use cloze_text::tokenizer::{Tokenizer, WordPieceOptions};
//!
//! let pieces = "[PAD] [UNK] [CLS] [SEP] [MASK] un ##aff ##able the sea".split(' ').map(String::from);
//! let tokenizer = Tokenizer::from_pieces(pieces.collect(), WordPieceOptions::default())?;
//! let encoding = tokenizer.encode("The unaffable sea", true)?;
//! assert_eq!(encoding.ids, [2, 8, 5, 6, 7, 9, 3]);
//! assert_eq!(encoding.offsets[2], (4, 6));
//! assert_eq!(tokenizer.decode(&encoding.ids, true)?, "the unaffable sea");
//! # Ok::<(), cloze_text::tokenizer::TokenizerError>(())
//! ```

mod added_tokens;
mod byte_bpe;
mod encoding;
mod error;
mod files;
mod foreign;
mod normalize;
mod pair;
mod sentencepiece;
mod trie;
mod wordpiece;

use std::path::Path;

use rayon::prelude::*;

pub(crate) use byte_bpe::BYTES;
pub use encoding::{Encoding, NO_WORD};
pub use error::TokenizerError;
pub use files::TokenizerConfig;
pub use normalize::{Normalization, is_cjk_ideograph};
pub(crate) use normalize::{Scratch, Splitter};
pub use wordpiece::{CONTINUATION, WordPiece, WordPieceOptions};

use foreign::Foreign;

/// Ids of the tokens that models give a meaning to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Padding.
    pub pad: Option<u32>,
    /// What stands for a word that cannot be written in pieces.
    pub unk: Option<u32>,
    /// Before every text.
    pub cls: Option<u32>,
    /// After every text.
    pub sep: Option<u32>,
    /// What masked tokens become.
    pub mask: Option<u32>,
}

impl SpecialTokens {
    /// Whether the id is one of these.
    pub fn contains(&self, id: u32) -> bool {
        [self.pad, self.unk, self.cls, self.sep, self.mask].contains(&Some(id))
    }
}

#[derive(Clone)]
enum Kind {
    WordPiece(Box<WordPiece>),
    Foreign(Box<Foreign>),
}

/// A tokenizer read from files or made from pieces.
#[derive(Clone)]
pub struct Tokenizer {
    kind: Kind,
    config: TokenizerConfig,
    special: SpecialTokens,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("wordpiece", &self.wordpiece().is_some())
            .field("vocab_size", &self.vocab_size())
            .field("special", &self.special)
            .finish()
    }
}

impl Tokenizer {
    /// A WordPiece tokenizer of these pieces; the place of a piece is its id.
    ///
    /// # Errors
    /// When a piece is repeated, or the unknown token or a token of the template is missing.
    pub fn from_pieces(pieces: Vec<String>, options: WordPieceOptions) -> Result<Self, TokenizerError> {
        let wordpiece = WordPiece::new(pieces, options, Path::new("vocabulary"))?;
        // BERT's usual limit, for a tokenizer that is not of a model yet; one that is read has the limit of its files, or none.
        let mut config = TokenizerConfig::default();
        config.model_max_length = Some(512);
        Ok(Self::of(Kind::WordPiece(Box::new(wordpiece)), config))
    }

    fn of(kind: Kind, config: TokenizerConfig) -> Self {
        let mut tokenizer = Self { kind, config, special: SpecialTokens::default() };
        let find = |named: &Option<String>, usual: [&str; 3]| {
            let named = named.as_deref().and_then(|name| tokenizer.token_to_id(name));
            named.or_else(|| usual.iter().find_map(|name| tokenizer.token_to_id(name)))
        };
        let names = &tokenizer.config;
        let mut special = SpecialTokens {
            pad: find(&names.pad_token, ["[PAD]", "<pad>", "<|padding|>"]),
            unk: find(&names.unk_token, ["[UNK]", "<unk>", "<|unknown|>"]),
            cls: find(&names.cls_token, ["[CLS]", "<s>", "<cls>"]),
            sep: find(&names.sep_token, ["[SEP]", "</s>", "<sep>"]),
            mask: find(&names.mask_token, ["[MASK]", "<mask>", "<|mask|>"]),
        };
        if let Kind::WordPiece(wordpiece) = &tokenizer.kind {
            special.unk = Some(wordpiece.unk());
            if let Some((cls, sep)) = wordpiece.template() {
                (special.cls, special.sep) = (Some(cls), Some(sep));
            }
        }
        tokenizer.special = special;
        tokenizer
    }

    /// The fast WordPiece tokenizer, unless this is one of another kind.
    pub fn wordpiece(&self) -> Option<&WordPiece> {
        match &self.kind {
            Kind::WordPiece(wordpiece) => Some(wordpiece),
            Kind::Foreign(_) => None,
        }
    }

    /// What `tokenizer_config.json` says.
    pub fn config(&self) -> &TokenizerConfig {
        &self.config
    }

    /// Sets the longest input that the model takes, in tokens; it is saved in `tokenizer_config.json`.
    pub fn set_model_max_length(&mut self, tokens: usize) {
        self.config.model_max_length = Some(tokens);
    }

    /// Tokens of a text, with `[CLS]` and `[SEP]` around it if `add_special`. Never cut, never padded.
    ///
    /// # Errors
    /// For texts over 4 GiB; tokenizers of other kinds may fail on a text.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Encoding, TokenizerError> {
        checked(text)?;
        match &self.kind {
            Kind::WordPiece(wordpiece) => Ok(wordpiece.encode(text, add_special)),
            Kind::Foreign(foreign) => foreign.encode(text, add_special),
        }
    }

    /// As [`encode`](Self::encode), into the memory of an encoding that is no longer needed.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_into(&self, text: &str, add_special: bool, encoding: &mut Encoding) -> Result<(), TokenizerError> {
        checked(text)?;
        match &self.kind {
            Kind::WordPiece(wordpiece) => wordpiece.encode_into(text, add_special, encoding),
            Kind::Foreign(foreign) => *encoding = foreign.encode(text, add_special)?,
        }
        Ok(())
    }

    /// Appends the ids of a text, without special tokens around it: the fastest way.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn append_ids(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        checked(text)?;
        match &self.kind {
            Kind::WordPiece(wordpiece) => wordpiece.append_ids(text, ids),
            Kind::Foreign(foreign) => ids.extend_from_slice(&foreign.encode(text, false)?.ids),
        }
        Ok(())
    }

    /// Tokens of a text with special tokens around it, cut to `max_length` in all: at the end, or at the beginning where `tokenizer_config.json` has
    /// `truncation_side` "left".
    ///
    /// # Errors
    /// As [`encode`](Self::encode), and when `max_length` cannot hold the special tokens.
    pub fn encode_truncated(&self, text: &str, max_length: usize) -> Result<Encoding, TokenizerError> {
        checked(text)?;
        if self.config.truncate_left {
            return self.encode(text, true)?.keep_ends(max_length);
        }
        match &self.kind {
            Kind::WordPiece(wordpiece) => wordpiece.encode_truncated(text, max_length),
            Kind::Foreign(foreign) => foreign.encode_cut(text, None, Some(max_length)),
        }
    }

    /// Tokens of a pair of texts with special tokens around them, in segments 0 and 1. With
    /// `max_length` the longer text is cut first, at its end (or its beginning, see [`encode_truncated`](Self::encode_truncated)).
    ///
    /// # Errors
    /// As [`encode`](Self::encode), and when `max_length` cannot hold the special tokens.
    pub fn encode_pair(&self, first: &str, second: &str, max_length: Option<usize>) -> Result<Encoding, TokenizerError> {
        checked(first)?;
        checked(second)?;
        if let (true, Some(max_length)) = (self.config.truncate_left, max_length) {
            return self.encode_pair_whole(first, second)?.keep_ends(max_length);
        }
        match &self.kind {
            Kind::WordPiece(wordpiece) => wordpiece.encode_pair(first, second, max_length),
            Kind::Foreign(foreign) => foreign.encode_cut(first, Some(second), max_length),
        }
    }

    fn encode_pair_whole(&self, first: &str, second: &str) -> Result<Encoding, TokenizerError> {
        match &self.kind {
            Kind::WordPiece(wordpiece) => wordpiece.encode_pair(first, second, None),
            Kind::Foreign(foreign) => foreign.encode_cut(first, Some(second), None),
        }
    }

    /// [`encode`](Self::encode) of many texts on all cores, in their order.
    ///
    /// # Errors
    /// The error of the first text that has one.
    pub fn encode_batch<S: AsRef<str> + Sync>(&self, texts: &[S], add_special: bool) -> Result<Vec<Encoding>, TokenizerError> {
        texts.par_iter().with_min_len(16).map(|text| self.encode(text.as_ref(), add_special)).collect()
    }

    /// The text of these ids; unknown ids are left out, special tokens too if `skip_special`.
    ///
    /// # Errors
    /// Tokenizers of other kinds may fail.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        match &self.kind {
            Kind::WordPiece(wordpiece) => Ok(wordpiece.decode(ids, skip_special)),
            Kind::Foreign(foreign) => foreign.decode(ids, skip_special),
        }
    }

    /// The id of a token.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        match &self.kind {
            Kind::WordPiece(wordpiece) => wordpiece.token_to_id(token),
            Kind::Foreign(foreign) => foreign.token_to_id(token),
        }
    }

    /// The token of an id.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        match &self.kind {
            Kind::WordPiece(wordpiece) => wordpiece.pieces().get(id as usize).cloned(),
            Kind::Foreign(foreign) => foreign.id_to_token(id),
        }
    }

    /// The token of an id as people write it: pieces of bytes as the text that they are, with `Ġ` for a space. For display alone: two ids may look
    /// the same.
    pub fn readable(&self, id: u32) -> Option<String> {
        match &self.kind {
            Kind::WordPiece(_) => self.id_to_token(id),
            Kind::Foreign(foreign) => foreign.readable(id),
        }
    }

    /// Number of ids: all ids are smaller.
    pub fn vocab_size(&self) -> usize {
        match &self.kind {
            Kind::WordPiece(wordpiece) => wordpiece.pieces().len(),
            Kind::Foreign(foreign) => foreign.vocab_size(),
        }
    }

    /// Ids of `[PAD]`, `[UNK]`, `[CLS]`, `[SEP]`, `[MASK]`, or what this tokenizer calls them.
    pub fn special(&self) -> SpecialTokens {
        self.special
    }

    /// Whether the piece continues the word of the piece before it (`##…` in WordPiece).
    pub fn is_continuation(&self, id: u32) -> bool {
        match &self.kind {
            Kind::WordPiece(wordpiece) => wordpiece.is_continuation(id),
            Kind::Foreign(foreign) => foreign.is_continuation(id),
        }
    }
}

/// Offsets are 32 bits wide.
fn checked(text: &str) -> Result<(), TokenizerError> {
    const LIMIT: usize = u32::MAX as usize - 1;
    if text.len() > LIMIT {
        return Err(TokenizerError::TextTooLong { bytes: text.len(), limit: LIMIT });
    }
    Ok(())
}
