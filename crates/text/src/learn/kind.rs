//! Byte-level BPE and Unigram: how texts are split for them, and the `tokenizer.json` of what was learned.
//!
//! Both run through the `tokenizers` crate, so learning splits texts with the very normalizer and pre-tokenizer that the tokenizer will have.

use std::path::Path;

use serde_json::{Value, json};
use tokenizers::{
    NormalizedString, Normalizer, NormalizerWrapper, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, PreTokenizerWrapper,
};

use super::count::Words;
use crate::segment::chinese_words;
use crate::sentence::is_han;
use crate::tokenizer::{BYTES, Tokenizer, TokenizerError};

/// Which kind of pieces a vocabulary has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VocabularyKind {
    /// BERT's: words in pieces of which those after the first carry `##`; each Chinese character is a word (Wu et al. 2016).
    #[default]
    WordPiece,
    /// GPT-2's and RoBERTa's: bytes, and what frequent neighbours were merged to (Sennrich et al. 2016; Radford et al. 2019). No text is unknown.
    ByteBpe,
    /// ALBERT's, XLNet's and XLM-RoBERTa's: pieces with probabilities, a text cut into the most probable ones (Kudo 2018). Chinese words are pieces, too.
    Unigram,
}

/// GPT-2's pattern: contractions, letters, digits and other signs with the space before them.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// SentencePiece's sign for a space.
const SPACE: char = '▁';

/// Splits texts as the `tokenizer.json` of a kind does.
pub(crate) struct Pretokens {
    kind: VocabularyKind,
    normalizer: NormalizerWrapper,
    pre_tokenizer: PreTokenizerWrapper,
    /// Longer ones are cut into parts of so many characters.
    max_word_chars: usize,
}

impl Pretokens {
    pub(crate) fn new(kind: VocabularyKind, cased: bool, max_word_chars: usize) -> Result<Self, TokenizerError> {
        let made = |part: &str, error: serde_json::Error| TokenizerError::Encode { bytes: 0, message: format!("{part}: {error}") };
        let normalizer = serde_json::from_value(normalizer(kind, cased)).map_err(|e| made("normalizer", e))?;
        let pre_tokenizer = serde_json::from_value(splitting(kind)).map_err(|e| made("pre-tokenizer", e))?;
        Ok(Self { kind, normalizer, pre_tokenizer, max_word_chars })
    }

    fn line(&self, line: &str, sink: &mut dyn FnMut(&str)) -> Result<(), tokenizers::Error> {
        let mut normalized = NormalizedString::from(line);
        self.normalizer.normalize(&mut normalized)?;
        let mut split = PreTokenizedString::from(normalized);
        self.pre_tokenizer.pre_tokenize(&mut split)?;
        for (word, _, _) in split.get_splits(OffsetReferential::Original, OffsetType::Byte) {
            // A line of Chinese is one long word to a pattern. Cut by segmentation, pieces become words, and few distinct ones are counted.
            if word.chars().any(is_han) {
                chinese_words(word).into_iter().for_each(&mut *sink);
            } else {
                sink(word);
            }
        }
        Ok(())
    }
}

impl Words for Pretokens {
    fn each(&self, text: &str, sink: &mut dyn FnMut(&[u8])) -> Result<u64, TokenizerError> {
        let mut written = String::new();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            self.line(line, &mut |word| {
                written.clear();
                match self.kind {
                    VocabularyKind::ByteBpe => written.extend(word.bytes().map(|byte| BYTES[byte as usize])),
                    _ => written.push_str(word),
                }
                let mut rest = written.as_str();
                while !rest.is_empty() {
                    let end = rest.char_indices().nth(self.max_word_chars).map_or(rest.len(), |(at, _)| at);
                    sink(&rest.as_bytes()[..end]);
                    rest = &rest[end..];
                }
            })
            .map_err(|error| TokenizerError::Encode { bytes: line.len(), message: error.to_string() })?;
        }
        Ok(0)
    }
}

fn normalizer(kind: VocabularyKind, cased: bool) -> Value {
    let steps: &[Value] = match (kind, cased) {
        // The space before a text makes its first word the same as one in its middle.
        (VocabularyKind::ByteBpe, true) => &[json!({"type": "NFC"}), json!({"type": "Prepend", "prepend": " "})],
        (VocabularyKind::ByteBpe, false) => {
            &[json!({"type": "NFC"}), json!({"type": "Lowercase"}), json!({"type": "Prepend", "prepend": " "})]
        }
        (_, true) => &[json!({"type": "NFKC"})],
        // Composed again at the end, or Korean syllables would stay in parts.
        (_, false) => &[json!({"type": "NFKD"}), json!({"type": "StripAccents"}), json!({"type": "Lowercase"}), json!({"type": "NFC"})],
    };
    json!({"type": "Sequence", "normalizers": steps})
}

/// The steps of the pre-tokenizer that part words; byte-level BPE then writes bytes as characters.
fn splitting(kind: VocabularyKind) -> Value {
    let steps = match kind {
        VocabularyKind::ByteBpe => vec![json!({"type": "Split", "pattern": {"Regex": GPT2}, "behavior": "Isolated", "invert": false})],
        _ => vec![
            json!({"type": "WhitespaceSplit"}),
            json!({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": true}),
            // Han apart from all else, also from the sign of the space: or a word at the start of a text were another piece.
            json!({"type": "Split", "pattern": {"Regex": r"\p{Han}+"}, "behavior": "Isolated", "invert": false}),
            json!({"type": "Punctuation", "behavior": "Isolated"}),
            json!({"type": "Digits", "individual_digits": true}),
        ],
    };
    json!({"type": "Sequence", "pretokenizers": steps})
}

/// `[CLS] A [SEP]` and `[CLS] A [SEP] B [SEP]`, as BERT has it.
fn template(special: &[String]) -> Option<Value> {
    let id = |token: &str| special.iter().position(|t| t == token);
    let (cls, sep) = (id("[CLS]")?, id("[SEP]")?);
    let token = |name: &str, segment: u8| json!({"SpecialToken": {"id": name, "type_id": segment}});
    let text = |name: &str, segment: u8| json!({"Sequence": {"id": name, "type_id": segment}});
    Some(json!({
        "type": "TemplateProcessing",
        "single": [token("[CLS]", 0), text("A", 0), token("[SEP]", 0)],
        "pair": [token("[CLS]", 0), text("A", 0), token("[SEP]", 0), text("B", 1), token("[SEP]", 1)],
        "special_tokens": {
            "[CLS]": {"id": "[CLS]", "ids": [cls], "tokens": ["[CLS]"]},
            "[SEP]": {"id": "[SEP]", "ids": [sep], "tokens": ["[SEP]"]},
        },
    }))
}

/// The tokenizer of these pieces. `model` is the part of `tokenizer.json` that differs.
fn assemble(kind: VocabularyKind, cased: bool, special: &[String], model: &Value) -> Result<Tokenizer, TokenizerError> {
    let mut pre_tokenizer = splitting(kind);
    let (decoder, trim) = match kind {
        VocabularyKind::ByteBpe => {
            let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
            if let Some(steps) = pre_tokenizer["pretokenizers"].as_array_mut() {
                steps.push(bytes.clone());
            }
            // `add_prefix_space` makes this step leave the offsets of a first word alone: the space before it is none of the text's.
            (bytes.clone(), Some(json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": false})))
        }
        _ => (json!({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": true}), None),
    };
    let processors: Vec<Value> = trim.into_iter().chain(template(special)).collect();
    let added: Vec<Value> = special
        .iter()
        .enumerate()
        .map(|(id, token)| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    let value = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added,
        "normalizer": normalizer(kind, cased),
        "pre_tokenizer": pre_tokenizer,
        "post_processor": {"type": "Sequence", "processors": processors},
        "decoder": decoder,
        "model": model,
    });
    Tokenizer::from_json(value, Path::new("vocabulary"))
}

/// The tokenizer of merges. `merges` holds ids of `pieces`, the first pair merged first.
pub(crate) fn byte_bpe(pieces: &[String], merges: &[(u32, u32)], special: &[String], cased: bool) -> Result<Tokenizer, TokenizerError> {
    let vocab: serde_json::Map<String, Value> = pieces.iter().enumerate().map(|(id, piece)| (piece.clone(), id.into())).collect();
    let merges: Vec<[&String; 2]> = merges.iter().map(|&(a, b)| [&pieces[a as usize], &pieces[b as usize]]).collect();
    let model = json!({"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
        "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": merges});
    assemble(VocabularyKind::ByteBpe, cased, special, &model)
}

/// The tokenizer of pieces with their logarithmic probabilities, special tokens (0) first.
pub(crate) fn unigram(pieces: &[(String, f64)], special: &[String], cased: bool) -> Result<Tokenizer, TokenizerError> {
    let unk = special.iter().position(|token| token == "[UNK]");
    let model = json!({"type": "Unigram", "unk_id": unk, "vocab": pieces, "byte_fallback": false});
    assemble(VocabularyKind::Unigram, cased, special, &model)
}
