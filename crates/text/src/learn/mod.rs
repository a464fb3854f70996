//! Learning a vocabulary from texts: WordPiece, byte-level BPE or Unigram.
//!
//! Words are counted on all cores while the next texts are read; only distinct words are kept, and
//! of those no more than [`LearnOptions::max_words`], so memory does not grow with the input. The
//! vocabulary is a function of the texts and the options: neither the number of threads nor the
//! way the texts are cut into items beyond their order has an influence.

mod count;
mod kind;
mod merge;
mod unigram;

use crate::tokenizer::{BYTES, CONTINUATION, Normalization, Splitter, Tokenizer, TokenizerError, WordPieceOptions};
use count::{WordCounts, Words};
use kind::Pretokens;
pub use kind::VocabularyKind;
use merge::{Alphabet, merge};

/// Texts are counted in batches of about this many bytes.
const BATCH: usize = 8 << 20;

/// What vocabulary to learn.
#[derive(Clone, Debug, PartialEq)]
pub struct LearnOptions {
    /// Which kind of pieces.
    pub kind: VocabularyKind,
    /// Pieces in all, special tokens included. Fewer come out of texts that do not hold as many.
    pub vocab_size: usize,
    /// How texts are cleaned and split; the tokenizer gets the same. The other kinds take from it only whether text is lowercased (and, of
    /// Unigram, stripped of its accents).
    pub normalization: Normalization,
    /// Pairs rarer than this are not merged. Unigram has no use for it.
    pub min_frequency: u64,
    /// The first ids.
    pub special_tokens: Vec<String>,
    /// Most characters that get pieces of their own, the most frequent ones. `None` keeps all that
    /// fit in nine tenths of the vocabulary. Byte-level BPE has the 256 bytes.
    pub alphabet_limit: Option<usize>,
    /// Most distinct words kept while counting; beyond, the rarest are forgotten.
    pub max_words: usize,
    /// Words of more characters are left out, as the tokenizer does not split them either; for the other kinds, whose tokenizers do, they are cut.
    pub max_word_chars: usize,
}

impl Default for LearnOptions {
    fn default() -> Self {
        let pieces = WordPieceOptions::default();
        Self {
            kind: VocabularyKind::WordPiece,
            vocab_size: 30_000,
            normalization: pieces.normalization,
            min_frequency: 2,
            special_tokens: pieces.added.into_iter().map(|(token, _)| token).collect(),
            alphabet_limit: None,
            max_words: 4_000_000,
            max_word_chars: pieces.max_word_chars,
        }
    }
}

/// How far learning has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LearnProgress {
    /// Texts are being read.
    Counting {
        /// Texts so far.
        documents: u64,
        /// Bytes so far.
        bytes: u64,
        /// Distinct words in memory.
        distinct_words: usize,
    },
    /// Pieces are being made.
    Merging {
        /// Pieces so far.
        pieces: usize,
        /// Pieces wanted.
        vocab_size: usize,
    },
}

/// What was seen and left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct LearnReport {
    /// Texts read.
    pub documents: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Words read.
    pub words: u64,
    /// Distinct words that the vocabulary was learned from.
    pub distinct_words: usize,
    /// Words left out for their length.
    pub overlong_words: u64,
    /// Distinct words forgotten to stay within `max_words`.
    pub pruned_words: u64,
    /// Occurrences of the words forgotten.
    pub pruned_occurrences: u64,
    /// Characters with pieces of their own.
    pub alphabet: usize,
    /// Characters left out of the alphabet.
    pub alphabet_dropped: usize,
    /// Merges made.
    pub merges: usize,
    /// Occurrences of the last pair merged.
    pub least_frequency: u64,
    /// Pieces in the vocabulary.
    pub pieces: usize,
}

/// What a kind knows of its pieces besides.
#[derive(Clone, Debug, PartialEq)]
enum Found {
    /// Nothing: the longest piece is taken.
    Pieces,
    /// Ids of the pairs that were merged, in order.
    Merges(Vec<(u32, u32)>),
    /// Logarithms of the pieces' probabilities.
    Scores(Vec<f64>),
}

/// A vocabulary.
#[derive(Clone, Debug, PartialEq)]
pub struct Learned {
    /// The pieces; the place is the id.
    pub pieces: Vec<String>,
    found: Found,
    /// What was seen and left out.
    pub report: LearnReport,
    options: LearnOptions,
}

impl Learned {
    /// The tokenizer of this vocabulary, ready to save.
    ///
    /// # Errors
    /// When the special tokens lack `[UNK]`.
    pub fn tokenizer(&self) -> Result<Tokenizer, TokenizerError> {
        let (special, cased) = (&self.options.special_tokens, !self.options.normalization.lowercase);
        match &self.found {
            Found::Pieces => {}
            Found::Merges(merges) => return kind::byte_bpe(&self.pieces, merges, special, cased),
            Found::Scores(scores) => {
                let pieces: Vec<(String, f64)> = self.pieces.iter().cloned().zip(scores.iter().copied()).collect();
                return kind::unigram(&pieces, special, cased);
            }
        }
        let has = |token: &str| self.options.special_tokens.iter().any(|t| t == token);
        let template = has("[CLS]") && has("[SEP]");
        Tokenizer::from_pieces(
            self.pieces.clone(),
            WordPieceOptions {
                normalization: self.options.normalization,
                max_word_chars: self.options.max_word_chars,
                template: WordPieceOptions::default().template.filter(|_| template),
                added: self.options.special_tokens.iter().map(|token| (token.clone(), true)).collect(),
                ..WordPieceOptions::default()
            },
        )
    }
}

/// Learns a vocabulary from texts (lines, paragraphs or documents; words do not cross their ends).
///
/// # Errors
/// When the options make no sense, or the texts hold no words.
///
/// ```
/// use cloze_text::learn::{LearnOptions, learn};
///
/// let texts = ["the low lower lowest", "the new newer newest"].map(String::from);
/// let options = LearnOptions { vocab_size: 40, ..LearnOptions::default() };
/// let learned = learn(texts.into_iter(), &options, |_| {})?;
/// let tokenizer = learned.tokenizer()?;
/// assert_eq!(tokenizer.encode("the lowest", false)?.len(), 3);
/// # Ok::<(), cloze_text::tokenizer::TokenizerError>(())
/// ```
pub fn learn<I>(texts: I, options: &LearnOptions, progress: impl FnMut(LearnProgress)) -> Result<Learned, TokenizerError>
where
    I: Iterator<Item = String> + Send,
{
    try_learn(texts.map(Ok::<String, std::convert::Infallible>), options, progress)
}

/// As [`learn`], from a reader that may fail.
///
/// # Errors
/// As [`learn`], and the first error of the reader.
pub fn try_learn<I, E>(mut texts: I, options: &LearnOptions, mut progress: impl FnMut(LearnProgress)) -> Result<Learned, TokenizerError>
where
    I: Iterator<Item = Result<String, E>> + Send,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    check(options)?;
    let mut report = LearnReport::default();
    let splitter: Box<dyn Words> = match options.kind {
        VocabularyKind::WordPiece => Box::new(Splitter::new(options.normalization, options.max_word_chars)),
        other => Box::new(Pretokens::new(other, !options.normalization.lowercase, options.max_word_chars)?),
    };
    let mut counts = WordCounts::new(splitter, options.max_words);
    let failed = |error: E| TokenizerError::Texts(error.into());
    let mut batch = read(&mut texts).map_err(failed)?;
    while !batch.is_empty() {
        let (next, counted) = rayon::join(|| read(&mut texts), || counts.add(&batch));
        counted?;
        report.documents += batch.len() as u64;
        report.bytes += batch.iter().map(|text| text.len() as u64).sum::<u64>();
        progress(LearnProgress::Counting { documents: report.documents, bytes: report.bytes, distinct_words: counts.distinct() });
        batch = next.map_err(failed)?;
    }
    if counts.distinct() == 0 {
        return Err(TokenizerError::NoWords { documents: report.documents, bytes: report.bytes });
    }
    report.words = counts.words;
    report.distinct_words = counts.distinct();
    report.overlong_words = counts.overlong;
    (report.pruned_words, report.pruned_occurrences) = counts.pruned;

    // Normalised words are whole characters, so none is lost here.
    let words = || counts.iter().filter_map(|(word, count)| Some((std::str::from_utf8(word).ok()?, count)));
    let vocab_size = options.vocab_size;
    let room = vocab_size - options.special_tokens.len();
    let alphabet = match (options.kind, options.alphabet_limit) {
        (VocabularyKind::ByteBpe, _) => Alphabet::fixed(BYTES.to_vec()),
        (_, Some(limit)) => Alphabet::new(words(), limit, room),
        (_, None) => Alphabet::new(words(), usize::MAX, (room - room / 10).max(2)),
    };
    report.alphabet = alphabet.kept.len();
    report.alphabet_dropped = alphabet.dropped;
    let (pieces, found) = if options.kind == VocabularyKind::Unigram {
        progress(LearnProgress::Merging { pieces: report.alphabet, vocab_size });
        let known: std::collections::HashSet<char> = alphabet.kept.iter().copied().collect();
        // In order, so that the hash table has no influence. A character without a piece parts its word.
        let mut sorted: Vec<(&str, u64)> = words().collect();
        sorted.sort_unstable();
        let parts = sorted.into_iter().flat_map(|(word, count)| word.split(|c| !known.contains(&c)).map(move |part| (part, count)));
        let parts: Vec<unigram::Word> =
            parts.filter(|(part, _)| !part.is_empty()).map(|(part, count)| unigram::Word::new(part, count)).collect();
        let likely = unigram::pieces(&parts, room, |pieces| progress(LearnProgress::Merging { pieces, vocab_size }));
        let mut pieces = options.special_tokens.clone();
        let mut scores = vec![0.0; pieces.len()];
        for (piece, score) in likely.into_iter().filter(|(piece, _)| !options.special_tokens.contains(piece)) {
            pieces.push(piece);
            scores.push(score);
        }
        (pieces, Found::Scores(scores))
    } else {
        let continuation = if options.kind == VocabularyKind::WordPiece { CONTINUATION } else { "" };
        let merged = merge(words(), &options.special_tokens, continuation, &alphabet, vocab_size, options.min_frequency, |pieces| {
            progress(LearnProgress::Merging { pieces, vocab_size });
        });
        report.merges = merged.merges.len();
        report.least_frequency = merged.least;
        let found = if options.kind == VocabularyKind::WordPiece { Found::Pieces } else { Found::Merges(merged.merges) };
        (merged.pieces, found)
    };
    report.pieces = pieces.len();
    progress(LearnProgress::Merging { pieces: report.pieces, vocab_size });
    Ok(Learned { pieces, found, report, options: options.clone() })
}

fn check(options: &LearnOptions) -> Result<(), TokenizerError> {
    let special = options.special_tokens.len();
    let least = special + if options.kind == VocabularyKind::ByteBpe { 256 } else { 2 };
    if options.vocab_size < least || u32::try_from(options.vocab_size).is_err() {
        return Err(TokenizerError::VocabularyTooSmall { vocab_size: options.vocab_size, special, least });
    }
    let mut seen = std::collections::HashSet::new();
    if let Some(token) = options.special_tokens.iter().find(|token| token.is_empty() || !seen.insert(token.as_str())) {
        let message = format!("{token:?} is empty or stands there twice; leave it out");
        return Err(TokenizerError::Option { option: "special_tokens", message });
    }
    if options.max_words < 1000 {
        let message = format!("{} words are too few to learn from; use 1000 or more", options.max_words);
        return Err(TokenizerError::Option { option: "max_words", message });
    }
    if u32::try_from(options.max_words).is_err() {
        let message = format!("{} words are more than can be numbered; use at most {}", options.max_words, u32::MAX);
        return Err(TokenizerError::Option { option: "max_words", message });
    }
    if options.max_word_chars == 0 || options.max_word_chars > 10_000 {
        let message = format!("{} is outside 1 to 10000; BERT has 100", options.max_word_chars);
        return Err(TokenizerError::Option { option: "max_word_chars", message });
    }
    if options.alphabet_limit == Some(0) {
        let message = "0 leaves no characters; leave it out to keep all that fit".to_string();
        return Err(TokenizerError::Option { option: "alphabet_limit", message });
    }
    Ok(())
}

/// The next texts, about [`BATCH`] bytes of them; none at the end.
fn read<E>(texts: &mut impl Iterator<Item = Result<String, E>>) -> Result<Vec<String>, E> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    while bytes < BATCH {
        let Some(text) = texts.next().transpose()? else { break };
        // Empty texts count too, so that a batch of them is not taken for the end.
        bytes += text.len() + 1;
        batch.push(text);
    }
    Ok(batch)
}
