//! WordPiece: greedy longest match of pieces, as BERT does it.

use std::collections::HashMap;
use std::path::Path;

use super::encoding::{Encoding, NO_WORD};
use super::error::TokenizerError;
use super::normalize::{Normalization, Scratch, Splitter, Word};
use super::trie::{Root, Trie};

/// The mark of pieces that continue a word.
pub const CONTINUATION: &str = "##";

/// Where the pieces of a text go.
trait Sink {
    fn piece(&mut self, id: u32, start: u32, end: u32, word: u32);
    fn len(&self) -> usize;
    fn truncate(&mut self, len: usize);
}

impl Sink for Encoding {
    #[inline(always)]
    fn piece(&mut self, id: u32, start: u32, end: u32, word: u32) {
        self.ids.push(id);
        self.offsets.push((start, end));
        self.word_ids.push(word);
    }

    fn len(&self) -> usize {
        self.ids.len()
    }

    fn truncate(&mut self, len: usize) {
        self.ids.truncate(len);
        self.offsets.truncate(len);
        self.word_ids.truncate(len);
    }
}

impl Sink for Vec<u32> {
    #[inline(always)]
    fn piece(&mut self, id: u32, _start: u32, _end: u32, _word: u32) {
        self.push(id);
    }

    fn len(&self) -> usize {
        Vec::len(self)
    }

    fn truncate(&mut self, len: usize) {
        Vec::truncate(self, len);
    }
}

/// What a WordPiece tokenizer is made of besides its vocabulary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WordPieceOptions {
    /// Cleaning and splitting.
    pub normalization: Normalization,
    /// Words of more characters become the unknown token.
    pub max_word_chars: usize,
    /// The token of words that no pieces cover.
    pub unk_token: String,
    /// The tokens around a text: before the first, after each. `None` adds nothing.
    pub template: Option<(String, String)>,
    /// Tokens that are recognised inside texts and never split; those that the vocabulary lacks are
    /// appended to it. Each with whether it is special (skipped when decoding).
    pub added: Vec<(String, bool)>,
    /// Whether decoding removes the spaces before punctuation.
    pub cleanup: bool,
}

impl Default for WordPieceOptions {
    /// BERT's uncased models.
    fn default() -> Self {
        Self {
            normalization: Normalization::default(),
            max_word_chars: 100,
            unk_token: "[UNK]".into(),
            template: Some(("[CLS]".into(), "[SEP]".into())),
            added: ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(|t| (t.to_string(), true)).to_vec(),
            cleanup: true,
        }
    }
}

/// A WordPiece tokenizer. Ids and offsets equal those of Hugging Face's `BertNormalizer`,
/// `BertPreTokenizer`, `WordPiece` and `BertProcessing`.
#[derive(Clone)]
pub struct WordPiece {
    pieces: Vec<String>,
    ids: HashMap<String, u32>,
    /// How many of the pieces belong to the vocabulary itself; the others are added tokens.
    own: usize,
    trie: Trie,
    splitter: Splitter,
    unk: u32,
    template: Option<(u32, u32)>,
    added: Added,
    continuation: Vec<bool>,
    special: Vec<bool>,
    options: WordPieceOptions,
}

impl std::fmt::Debug for WordPiece {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WordPiece").field("pieces", &self.pieces.len()).field("options", &self.options).finish()
    }
}

impl WordPiece {
    /// A tokenizer of these pieces; the place of a piece is its id. `source` names the vocabulary in errors.
    ///
    /// # Errors
    /// When a piece is repeated, or the unknown token or a token of the template is missing.
    pub fn new(pieces: Vec<String>, options: WordPieceOptions, source: &Path) -> Result<Self, TokenizerError> {
        let missing = |token: &str, role| TokenizerError::MissingToken { path: source.to_path_buf(), token: token.to_string(), role };
        if pieces.is_empty() {
            return Err(TokenizerError::EmptyVocabulary { path: source.to_path_buf() });
        }
        let own = pieces.len();
        let mut ids: HashMap<String, u32> = HashMap::with_capacity(own);
        for (id, piece) in pieces.iter().enumerate() {
            if let Some(first) = ids.insert(piece.clone(), id as u32) {
                return Err(TokenizerError::RepeatedPiece {
                    path: source.to_path_buf(),
                    line: id + 1,
                    first: first as usize + 1,
                    piece: piece.clone(),
                });
            }
        }
        let unk = *ids.get(&options.unk_token).ok_or_else(|| missing(&options.unk_token, "the unknown token"))?;

        let mut word = Vec::with_capacity(own);
        let mut continuation = Vec::with_capacity(own);
        for (id, piece) in pieces.iter().enumerate() {
            match piece.strip_prefix(CONTINUATION) {
                Some(rest) if !rest.is_empty() => continuation.push((rest.as_bytes(), id as u32)),
                _ if piece.is_empty() => {}
                _ => word.push((piece.as_bytes(), id as u32)),
            }
        }
        let trie = Trie::new(word, continuation);

        let mut pieces = pieces;
        let mut special = vec![false; own];
        let mut added = Vec::new();
        for (token, is_special) in &options.added {
            if token.is_empty() {
                continue;
            }
            let id = *ids.entry(token.clone()).or_insert_with(|| {
                pieces.push(token.clone());
                special.push(false);
                (pieces.len() - 1) as u32
            });
            special[id as usize] |= is_special;
            added.push((token.clone().into_bytes(), id));
        }
        let template = match &options.template {
            None => None,
            Some((cls, sep)) => Some((
                *ids.get(cls).ok_or_else(|| missing(cls, "put before every text"))?,
                *ids.get(sep).ok_or_else(|| missing(sep, "put after every text"))?,
            )),
        };
        let continuation = pieces
            .iter()
            .enumerate()
            .map(|(id, piece)| !special[id] && piece.len() > CONTINUATION.len() && piece.starts_with(CONTINUATION))
            .collect();
        Ok(Self {
            splitter: Splitter::new(options.normalization, options.max_word_chars),
            added: Added::new(added),
            pieces,
            ids,
            own,
            trie,
            unk,
            template,
            continuation,
            special,
            options,
        })
    }

    /// The options it was made with.
    pub fn options(&self) -> &WordPieceOptions {
        &self.options
    }

    /// All pieces by id, added tokens last.
    pub fn pieces(&self) -> &[String] {
        &self.pieces
    }

    /// The pieces of the vocabulary file: all but tokens added behind it.
    pub(crate) fn own_pieces(&self) -> &[String] {
        &self.pieces[..self.own]
    }

    /// The id of a piece.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.ids.get(token).copied()
    }

    /// Whether the piece continues a word (`##…`).
    pub fn is_continuation(&self, id: u32) -> bool {
        self.continuation.get(id as usize).copied().unwrap_or(false)
    }

    /// The id of the unknown token.
    pub fn unk(&self) -> u32 {
        self.unk
    }

    /// The ids put before the first text and after each text.
    pub fn template(&self) -> Option<(u32, u32)> {
        self.template
    }

    /// Tokens of a text of at most `u32::MAX` bytes, with `[CLS]` and `[SEP]` if `add_special`.
    pub fn encode(&self, text: &str, add_special: bool) -> Encoding {
        let mut encoding = Encoding::default();
        self.encode_into(text, add_special, &mut encoding);
        encoding
    }

    /// As [`encode`](Self::encode), into the memory of an encoding that is no longer needed.
    pub fn encode_into(&self, text: &str, add_special: bool, encoding: &mut Encoding) {
        encoding.clear();
        let template = self.template.filter(|_| add_special);
        let guess = text.len() / 4 + 8;
        encoding.ids.reserve(guess);
        encoding.offsets.reserve(guess);
        encoding.word_ids.reserve(guess);
        if let Some((cls, _)) = template {
            encoding.piece(cls, 0, 0, NO_WORD);
        }
        let start = encoding.ids.len();
        self.text(text, encoding);
        let end = encoding.ids.len();
        if let Some((_, sep)) = template {
            encoding.piece(sep, 0, 0, NO_WORD);
        }
        let len = encoding.ids.len();
        encoding.special.resize(len, false);
        encoding.special[..start].fill(true);
        encoding.special[end..].fill(true);
        encoding.token_type_ids.resize(len, 0);
        encoding.parts = [start..end, end..end];
    }

    /// Appends the ids of the text, without special tokens around it: the fastest way.
    pub fn append_ids(&self, text: &str, ids: &mut Vec<u32>) {
        self.text(text, ids);
    }

    fn text(&self, text: &str, sink: &mut impl Sink) {
        let mut scratch = Scratch::default();
        let mut words = 0;
        let mut from = 0;
        while let Some((start, end, id)) = self.added.find(text.as_bytes(), from) {
            self.stretch(text, from, start, &mut scratch, &mut words, sink);
            sink.piece(id, start as u32, end as u32, words);
            words += 1;
            from = end;
        }
        self.stretch(text, from, text.len(), &mut scratch, &mut words, sink);
    }

    fn stretch(&self, text: &str, from: usize, to: usize, scratch: &mut Scratch, words: &mut u32, sink: &mut impl Sink) {
        if from == to {
            return;
        }
        self.splitter.words(text, from, to, scratch, |word| {
            self.word(&word, *words, sink);
            *words += 1;
        });
    }

    #[inline]
    fn word(&self, word: &Word<'_>, index: u32, sink: &mut impl Sink) {
        if word.overlong {
            sink.piece(self.unk, word.start, word.end, index);
            return;
        }
        let before = sink.len();
        let mut at = 0;
        let mut root = Root::Word;
        while at < word.bytes.len() {
            let Some((length, id)) = self.trie.longest(root, &word.bytes[at..]) else {
                sink.truncate(before);
                sink.piece(self.unk, word.start, word.end, index);
                return;
            };
            let (start, end) = word.source(at, at + length);
            sink.piece(id, start, end, index);
            at += length;
            root = Root::Continuation;
        }
    }

    /// The text of these ids: pieces joined, words spaced, unknown ids left out.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut out = String::new();
        let mut first = true;
        for &id in ids {
            let Some(piece) = self.pieces.get(id as usize) else { continue };
            if skip_special && self.special[id as usize] {
                continue;
            }
            let piece = match piece.strip_prefix(CONTINUATION) {
                Some(rest) if !first => rest.to_string(),
                _ if first => piece.clone(),
                _ => format!(" {piece}"),
            };
            first = false;
            if self.options.cleanup {
                out.push_str(&clean(piece));
            } else {
                out.push_str(&piece);
            }
        }
        out
    }
}

/// The spaces that word splitting leaves around punctuation and English contractions, taken back.
fn clean(piece: String) -> String {
    const REPAIRS: [(&str, &str); 11] = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" do not", " don't"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    REPAIRS.iter().fold(piece, |piece, (from, to)| if piece.contains(from) { piece.replace(from, to) } else { piece })
}

/// Tokens that are found in the raw text before anything else happens to it.
#[derive(Clone, Default)]
struct Added {
    /// Longest first.
    tokens: Vec<(Vec<u8>, u32)>,
    first_bytes: Vec<u8>,
    starts: Vec<bool>,
}

impl Added {
    fn new(mut tokens: Vec<(Vec<u8>, u32)>) -> Self {
        tokens.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.0.cmp(&b.0)));
        tokens.dedup();
        let mut first_bytes: Vec<u8> = tokens.iter().map(|(token, _)| token[0]).collect();
        first_bytes.sort_unstable();
        first_bytes.dedup();
        let mut starts = vec![false; 256];
        for &byte in &first_bytes {
            starts[usize::from(byte)] = true;
        }
        Self { tokens, first_bytes, starts }
    }

    /// The first added token at or after `from`, the longest where several start.
    fn find(&self, text: &[u8], from: usize) -> Option<(usize, usize, u32)> {
        let mut at = from;
        loop {
            let rest = &text[at..];
            let step = match self.first_bytes[..] {
                [] => None,
                [a] => memchr::memchr(a, rest),
                [a, b] => memchr::memchr2(a, b, rest),
                [a, b, c] => memchr::memchr3(a, b, c, rest),
                _ => rest.iter().position(|&b| self.starts[usize::from(b)]),
            }?;
            at += step;
            if let Some((token, id)) = self.tokens.iter().find(|(token, _)| text[at..].starts_with(token)) {
                return Some((at, at + token.len(), *id));
            }
            at += 1;
        }
    }
}
