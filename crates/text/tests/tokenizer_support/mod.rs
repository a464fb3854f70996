//! What the tokenizer tests share: vocabularies, the library as oracle, the comparison.
#![allow(dead_code, unreachable_pub)] // each test file uses a part

use std::path::PathBuf;
use std::sync::OnceLock;

use cloze_text::tokenizer::{Encoding, Normalization, Tokenizer, WordPieceOptions};

/// A tokenizer of ours beside the library's, loaded from the files that ours saved.
pub struct Twins {
    pub ours: Tokenizer,
    pub oracle: tokenizers::Tokenizer,
}

pub const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// Single characters from many scripts, alone and as continuations, some longer pieces, and gaps so
/// that unknown words occur.
pub fn pieces() -> Vec<String> {
    let mut out: Vec<String> = SPECIAL.map(String::from).to_vec();
    let ranges: [(u32, u32); 24] = [
        (0x21, 0x250),
        (0x2b0, 0x370),
        (0x370, 0x530),
        (0x590, 0x600),
        (0x610, 0x6d0),
        (0x900, 0x9ff),
        (0xe00, 0xe4f),
        (0xf40, 0xf85),
        (0x1100, 0x1112),
        (0x1161, 0x1176),
        (0x11a8, 0x11c3),
        (0x1e00, 0x2000),
        (0x2010, 0x2070),
        (0x2100, 0x2150),
        (0x2200, 0x2210),
        (0x3001, 0x3100),
        (0x4e00, 0x4e60),
        (0xac00, 0xac20),
        (0xf900, 0xf910),
        (0xff01, 0xff60),
        (0x1d157, 0x1d173),
        (0x1f3fb, 0x1f400),
        (0x1f600, 0x1f640),
        (0x20000, 0x20020),
    ];
    for (from, to) in ranges {
        for c in (from..to).filter_map(char::from_u32).filter(|c| u32::from(*c) % 11 != 5) {
            out.push(c.to_string());
            out.push(format!("##{c}"));
        }
    }
    let words = "the of and ##ing ##ed ##er un ##able in ##to hello world café ##tion ab abc abcd ##cd ##bcd ß ss \
                 ##ss straße strasse 각 ##각 中国 ##中国 don ##' i̇ ##i̇ str";
    for word in words.split_whitespace() {
        if !out.iter().any(|piece| piece == word) {
            out.push(word.to_string());
        }
    }
    let mut seen = std::collections::HashSet::new();
    out.retain(|piece| seen.insert(piece.clone()));
    out
}

pub fn normalization(index: usize) -> Normalization {
    Normalization {
        clean_text: index & 1 == 0,
        split_cjk: index & 2 == 0,
        lowercase: index & 4 == 0,
        strip_accents: [None, Some(true), Some(false)][index / 8 % 3],
    }
}

pub const NORMALIZATIONS: usize = 24;

pub fn twins(pieces: Vec<String>, options: WordPieceOptions) -> Twins {
    let ours = Tokenizer::from_pieces(pieces, options).unwrap();
    let folder = tempfile::tempdir().unwrap();
    ours.save(folder.path()).unwrap();
    let library = tokenizers::Tokenizer::from_file(folder.path().join("tokenizer.json")).unwrap();
    let ours = Tokenizer::load(folder.path()).unwrap();
    assert!(ours.wordpiece().is_some());
    Twins { ours, oracle: library }
}

/// Twins for each way of normalising, over [`pieces`].
pub fn all_twins() -> &'static [Twins] {
    static ALL: OnceLock<Vec<Twins>> = OnceLock::new();
    ALL.get_or_init(|| {
        (0..NORMALIZATIONS)
            .map(|i| {
                let options = WordPieceOptions { normalization: normalization(i), ..WordPieceOptions::default() };
                twins(pieces(), options)
            })
            .collect()
    })
}

/// The folder of real data, if the environment names one.
pub fn data() -> Option<PathBuf> {
    let folder = std::env::var_os("CLOZE_DATA").map(PathBuf::from);
    if folder.is_none() {
        println!("skipped: CLOZE_DATA is not set");
    }
    folder
}

pub fn unpack(path: &std::path::Path) -> Vec<u8> {
    use std::io::Read;
    let file = std::fs::File::open(path).unwrap();
    let mut bytes = Vec::new();
    ruzstd::decoding::StreamingDecoder::new(file).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

pub fn same(ours: &Encoding, library: &tokenizers::Encoding, text: &str) -> Result<(), String> {
    let context = |what: &str, a: &dyn std::fmt::Debug, b: &dyn std::fmt::Debug| {
        let shown: String = text.chars().take(200).collect();
        format!("{what} of {shown:?}\n   ours {a:?}\nlibrary {b:?}\n tokens {:?}", library.get_tokens())
    };
    if ours.ids != library.get_ids() {
        return Err(context("ids", &ours.ids, &library.get_ids()));
    }
    let offsets: Vec<(u32, u32)> = library.get_offsets().iter().map(|&(s, e)| (s as u32, e as u32)).collect();
    if ours.offsets != offsets {
        return Err(context("offsets", &ours.offsets, &offsets));
    }
    let words: Vec<Option<u32>> = (0..ours.len()).map(|i| ours.word_id(i)).collect();
    if words != library.get_word_ids() {
        return Err(context("word ids", &words, &library.get_word_ids()));
    }
    let special: Vec<u32> = ours.special.iter().map(|&s| u32::from(s)).collect();
    if special != library.get_special_tokens_mask() {
        return Err(context("special mask", &special, &library.get_special_tokens_mask()));
    }
    if ours.token_type_ids != library.get_type_ids() {
        return Err(context("type ids", &ours.token_type_ids, &library.get_type_ids()));
    }
    Ok(())
}

impl Twins {
    /// Compares everything about the encoding of a text.
    pub fn compare(&self, text: &str) -> Result<(), String> {
        for add_special in [true, false] {
            let ours = self.ours.encode(text, add_special).unwrap();
            let library = self.oracle.encode(text, add_special).unwrap();
            same(&ours, &library, text)?;
            let mut ids = Vec::new();
            self.ours.append_ids(text, &mut ids).unwrap();
            if !add_special && ids != ours.ids {
                return Err(format!("append_ids differs from encode on {text:?}"));
            }
        }
        let ours = self.ours.encode(text, true).unwrap();
        let library = self.oracle.encode_char_offsets(text, true).unwrap();
        let chars: Vec<(u32, u32)> = library.get_offsets().iter().map(|&(s, e)| (s as u32, e as u32)).collect();
        if ours.char_offsets(text) != chars {
            return Err(format!("character offsets of {text:?}: {:?} / {chars:?}", ours.char_offsets(text)));
        }
        for skip in [true, false] {
            let (a, b) = (self.ours.decode(&ours.ids, skip).unwrap(), self.oracle.decode(&ours.ids, skip).unwrap());
            if a != b {
                return Err(format!("decoded {a:?} / {b:?}"));
            }
        }
        Ok(())
    }
}
