//! A document's text to token ids with the boundaries of its words and sentences.

use std::borrow::Cow;
use std::sync::LazyLock;

use jieba_rs::Jieba;
use unicode_normalization::{UnicodeNormalization, is_nfc};

use crate::sentence::{is_han, sentences};
use crate::shard::EncodedDocument;
use crate::tokenizer::{Encoding, NO_WORD, Tokenizer, TokenizerError};

/// The dictionary is unpacked once, when the first Chinese sentence comes.
static JIEBA: LazyLock<Jieba> = LazyLock::new(Jieba::new);

/// Text in composed form (NFC), without control and zero-width characters, white space as single blanks, lines trimmed
/// and none of them empty.
pub fn normalize(text: &str) -> Cow<'_, str> {
    if is_normal(text) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    for line in text.split(['\n', '\r', '\u{2028}', '\u{2029}', '\u{b}', '\u{c}']) {
        let start = out.len();
        let mut blank = false;
        let mut keep = |c: char| {
            if c.is_whitespace() {
                blank = true;
            } else if !is_dropped(c) {
                if blank && out.len() > start {
                    out.push(' ');
                }
                blank = false;
                out.push(c);
            }
        };
        if line.is_ascii() || (is_nfc(line) && !line.contains(is_dropped)) {
            line.chars().for_each(&mut keep)
        } else {
            // What is dropped goes first: behind it stands what may compose with what is before it.
            line.chars().filter(|&c| c.is_whitespace() || !is_dropped(c)).nfc().for_each(&mut keep)
        }
        if out.len() > start {
            out.push('\n');
        }
    }
    out.pop();
    Cow::Owned(out)
}

fn is_dropped(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200b}' | '\u{2060}' | '\u{feff}' | '\u{ad}' | '\u{fffd}')
}

/// Whether [`normalize`] would change nothing; decided without allocating.
fn is_normal(text: &str) -> bool {
    let mut before = b'\n';
    let mut ascii = true;
    for &b in text.as_bytes() {
        let space = b == b' ' || b == b'\n';
        if (b < b' ' && b != b'\n') || b == 0x7f || (space && (before == b' ' || before == b'\n')) || (b == b'\n' && before == b' ') {
            return false;
        }
        ascii &= b < 0x80;
        before = b;
    }
    let trimmed = before != b' ' && before != b'\n';
    trimmed && (ascii || text.chars().all(|c| c.is_ascii() || !c.is_whitespace() && !is_dropped(c)) && is_nfc(text))
}

/// Turns normalised documents into ids; one per thread.
pub(crate) struct Segmenter<'t> {
    tokenizer: &'t Tokenizer,
    chinese_words: bool,
    encoding: Encoding,
}

impl<'t> Segmenter<'t> {
    pub(crate) fn new(tokenizer: &'t Tokenizer, chinese_words: bool) -> Self {
        Self { tokenizer, chinese_words, encoding: Encoding::default() }
    }

    /// The ids of `text`, sentence by sentence; sentences without a token are left out.
    pub(crate) fn encode(&mut self, text: &str) -> Result<EncodedDocument, TokenizerError> {
        let mut document = EncodedDocument::default();
        for range in sentences(text) {
            let sentence = &text[range];
            self.tokenizer.encode_into(sentence, false, &mut self.encoding)?;
            let encoding = &self.encoding;
            if encoding.ids.is_empty() {
                continue;
            }
            let base = document.ids.len();
            document.ids.extend_from_slice(&encoding.ids);
            let words = &encoding.word_ids;
            document.continues.extend((0..words.len()).map(|i| i > 0 && words[i] != NO_WORD && words[i] == words[i - 1]));
            if sentence.chars().any(is_han) {
                part_chinese(sentence, &encoding.offsets, &mut document.continues[base..]);
                if self.chinese_words {
                    join_chinese_words(sentence, &encoding.offsets, &mut document.continues[base..]);
                }
            }
            document.sentence_ends.push(document.ids.len() as u32);
        }
        Ok(document)
    }
}

/// A token of Chinese begins a word, and so does the token after it, until segmentation says otherwise: to the patterns of BPE and Unigram a
/// whole clause is one word. Byte-level pieces of one character stay together.
fn part_chinese(sentence: &str, offsets: &[(u32, u32)], continues: &mut [bool]) {
    let (mut after_han, mut before) = (false, None);
    for (&(start, end), continues) in offsets.iter().zip(continues) {
        let token = sentence.get(start as usize..end as usize).unwrap_or_default();
        if token.is_empty() {
            continue;
        }
        if before == Some(start) {
            *continues = true;
        } else {
            *continues &= !after_han && !token.starts_with(is_han);
        }
        (after_han, before) = (token.ends_with(is_han), Some(start));
    }
}

/// The words of a run of Chinese, by segmentation.
pub(crate) fn chinese_words(run: &str) -> Vec<&str> {
    JIEBA.cut(run, true)
}

/// Mark the tokens that start inside a segmented word that has a Han character: 模型 is one word of two tokens.
///
/// Words without Han characters keep the tokenizer's own boundaries.
fn join_chinese_words(sentence: &str, offsets: &[(u32, u32)], continues: &mut [bool]) {
    let (mut token, mut start) = (0, 0u32);
    for word in JIEBA.cut(sentence, true) {
        let end = start + word.len() as u32;
        while token < offsets.len() && offsets[token].0 <= start {
            token += 1;
        }
        // One character alone has nothing to join; a word of several bytes may still be one token.
        if word.len() > 3 && word.chars().any(is_han) {
            while token < offsets.len() && offsets[token].0 < end {
                continues[token] = token > 0;
                token += 1;
            }
        }
        start = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::WordPieceOptions;

    #[test]
    fn normalization() {
        assert!(matches!(normalize("plain text\nsecond line"), Cow::Borrowed(_)));
        assert!(matches!(normalize("中文，没有空格。"), Cow::Borrowed(_)));
        assert_eq!(normalize("  a \t b\r\n\r\n\u{feff}c\u{3000}d\u{200b}e \n"), "a b\nc d".to_owned() + "e");
        assert_eq!(normalize("e\u{301}te\u{301}"), "été");
        assert_eq!(normalize("e\u{200b}\u{301}"), "é", "what a dropped character kept apart");
        assert_eq!(normalize(" \n\u{0} \t"), "");
        for text in ["a  b", " a", "a ", "a\n", "\na", "a \nb", "a\n b", "a\u{a0}b", "x\u{7f}y", "e\u{301}", "e\u{200b}\u{301}"] {
            let once = normalize(text).into_owned();
            assert!(is_normal(&once) || once.is_empty(), "{text:?} became {once:?}");
            assert_eq!(normalize(&once), once);
        }
    }

    fn words(text: &str, pieces: &str) -> Vec<Vec<String>> {
        let pieces: Vec<String> = "[PAD] [UNK] [CLS] [SEP] [MASK]".split(' ').chain(pieces.split(' ')).map(String::from).collect();
        let tokenizer = Tokenizer::from_pieces(pieces, WordPieceOptions::default()).unwrap();
        let document = Segmenter::new(&tokenizer, true).encode(text).unwrap();
        let mut out: Vec<Vec<String>> = Vec::new();
        for (&id, &continues) in document.ids.iter().zip(&document.continues) {
            let piece = tokenizer.id_to_token(id).unwrap();
            match out.last_mut() {
                Some(word) if continues => word.push(piece),
                _ => out.push(vec![piece]),
            }
        }
        out
    }

    #[test]
    fn chinese_words_are_joined_and_english_ones_kept() {
        let found = words("我们使用语言模型playing games。", "我 们 使 用 语 言 模 型 play ##ing game ##s 。");
        let shown: Vec<String> = found.iter().map(|word| word.join(" ")).collect();
        assert_eq!(shown, ["我 们", "使 用", "语 言", "模 型", "play ##ing", "game ##s", "。"]);
    }

    /// To the patterns of BPE and Unigram a clause is one word; masked as one it would leave nothing to guess from.
    #[test]
    fn a_clause_of_other_tokenizers_is_parted_into_words() {
        use crate::learn::{LearnOptions, VocabularyKind, learn};
        let text = "我们使用语言模型playing games。";
        for kind in [VocabularyKind::Unigram, VocabularyKind::ByteBpe] {
            let options = LearnOptions { kind, vocab_size: 290, min_frequency: 1000, ..LearnOptions::default() };
            let tokenizer = learn(std::iter::once(text.to_string()), &options, |_| {}).unwrap().tokenizer().unwrap();
            let document = Segmenter::new(&tokenizer, true).encode(text).unwrap();
            let mut words: Vec<Vec<u32>> = Vec::new();
            for (&id, &continues) in document.ids.iter().zip(&document.continues) {
                match words.last_mut() {
                    Some(word) if continues => word.push(id),
                    _ => words.push(vec![id]),
                }
            }
            let shown: Vec<String> = words.iter().map(|word| tokenizer.decode(word, false).unwrap().trim().to_string()).collect();
            let shown: Vec<&str> = shown.iter().map(String::as_str).filter(|word| !word.is_empty()).collect();
            assert_eq!(shown, ["我们", "使用", "语言", "模型", "playing", "games", "。"], "{kind:?}");
        }
    }

    #[test]
    fn unknown_characters_stay_inside_their_word() {
        let found = words("我们使用语言模型。", "我 使 用 语 模 型 。");
        let shown: Vec<String> = found.iter().map(|word| word.join(" ")).collect();
        assert_eq!(shown, ["我 [UNK]", "使 用", "语 [UNK]", "模 型", "。"]);
    }
}
