//! A small vocabulary and small texts for the tests of corpus, shards and batches.
#![allow(dead_code, unreachable_pub)] // each test uses its part

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use cloze_tensor::random::{Key, Stream};
use cloze_text::tokenizer::WordPieceOptions;
use cloze_text::{PrepareOptions, Report, Tokenizer, prepare};

const ENGLISH: [&str; 16] = [
    "the",
    "old",
    "sailor",
    "walked",
    "slowly",
    "towards",
    "harbour",
    "lights",
    "and",
    "remembered",
    "unbelievable",
    "storms",
    "of",
    "winter",
    "nights",
    "playing",
];
const CHINESE: [&str; 14] = ["我们", "使用", "语言", "模型", "今天", "天气", "非常", "好", "学习", "北京", "大学", "的", "研究", "人员"];

/// Letters as pieces, so that every word of several letters has several; Han characters but one; some whole words.
pub fn tokenizer() -> Tokenizer {
    let mut pieces: Vec<String> =
        "[PAD] [UNK] [CLS] [SEP] [MASK] the of and play ##ing ##ed ##er . , ! ? 。 ， ！".split(' ').map(String::from).collect();
    for letter in 'a'..='z' {
        pieces.push(letter.to_string());
        pieces.push(format!("##{letter}"));
    }
    let mut han: Vec<char> = CHINESE.iter().flat_map(|word| word.chars()).collect();
    han.sort_unstable();
    han.dedup();
    pieces.extend(han.into_iter().filter(|&c| c != '型').map(String::from)); // 型 is unknown
    Tokenizer::from_pieces(pieces, WordPieceOptions::default()).unwrap()
}

/// `documents` distinct documents of a few sentences, English, Chinese and mixed in turn.
pub fn texts(documents: usize) -> Vec<String> {
    (0..documents)
        .map(|d| {
            let key = Key::new(11, Stream::World, d as u64, 0);
            let mut draw = 0;
            let mut below = |n: usize| {
                draw += 1;
                key.below(draw, n as u32) as usize
            };
            let mut text = String::new();
            for sentence in 0..3 + below(5) {
                if sentence == 2 {
                    text.push('\n');
                }
                let chinese = match d % 3 {
                    0 => false,
                    1 => true,
                    _ => sentence % 2 == 0,
                };
                for word in 0..4 + below(9) {
                    if !chinese && word == 0 {
                        let first = ENGLISH[below(ENGLISH.len())];
                        text.push_str(&first[..1].to_uppercase());
                        text.push_str(&first[1..]);
                        text.push(' ');
                    } else if chinese {
                        text.push_str(CHINESE[below(CHINESE.len())]);
                    } else {
                        text.push_str(ENGLISH[below(ENGLISH.len())]);
                        text.push(' ');
                    }
                }
                text.push_str(if chinese { "。" } else { ". " });
            }
            text.trim().to_owned()
        })
        .collect()
}

pub fn write(path: &Path, bytes: impl AsRef<[u8]>) -> String {
    std::fs::write(path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

pub fn options(inputs: &[String], out: &Path) -> PrepareOptions {
    PrepareOptions { inputs: inputs.to_vec(), out: out.to_path_buf(), ..PrepareOptions::default() }
}

pub fn run(options: &PrepareOptions) -> cloze_text::Result<Report> {
    prepare(options, &tokenizer(), &mut |_| ControlFlow::Continue(()))
}

/// A corpus of `documents` documents in a temporary folder.
pub fn corpus(documents: usize, change: impl FnOnce(&mut PrepareOptions)) -> (tempfile::TempDir, PathBuf, Report) {
    let folder = tempfile::tempdir().unwrap();
    let input = write(&folder.path().join("in.txt"), texts(documents).join("\n\n"));
    let out = folder.path().join("corpus");
    let mut options = options(&[input], &out);
    change(&mut options);
    let report = run(&options).unwrap();
    (folder, out, report)
}
