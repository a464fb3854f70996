//! Byte-level BPE and Unigram: learned vocabularies beside those of the `tokenizers` crate's trainers, their files in that library, their texts.

mod tokenizer_support;

use std::collections::HashSet;

use cloze_text::Tokenizer;
use cloze_text::learn::{LearnOptions, Learned, VocabularyKind, learn};
use cloze_text::tokenizer::{Normalization, TokenizerError};
use tokenizer_support::SPECIAL;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::models::unigram::{Unigram, UnigramTrainer};
use tokenizers::{AddedToken, ModelWrapper};

const KINDS: [VocabularyKind; 2] = [VocabularyKind::ByteBpe, VocabularyKind::Unigram];

/// Sentences of invented words with a rich-get-richer spread of frequencies, and Chinese ones.
fn corpus(lines: usize) -> Vec<String> {
    let mut state = 17u64;
    let mut random = |n: u64| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % n
    };
    let syllables = ["ka", "lo", "mi", "ner", "est", "ing", "pré", "un", "sta", "12", "ß", "Qu", "tion", "x"];
    let chinese = ["我们", "喜欢", "苹果", "和", "北京", "的", "天气", "，", "今天", "很好", "。"];
    let mut words: Vec<String> = Vec::new();
    (0..lines)
        .map(|i| {
            let mut line = String::new();
            for _ in 0..12 {
                if i % 4 == 3 {
                    line.push_str(chinese[random(11) as usize]);
                    continue;
                }
                if words.is_empty() || random(10) == 0 {
                    words.push((0..1 + random(4)).map(|_| syllables[random(14) as usize]).collect());
                }
                let top = random(words.len() as u64) + 1;
                line.push_str(&words[random(top) as usize]);
                line.push_str(if random(9) == 0 { ", " } else { " " });
            }
            line
        })
        .collect()
}

fn options(kind: VocabularyKind, vocab_size: usize) -> LearnOptions {
    LearnOptions { kind, vocab_size, ..LearnOptions::default() }
}

fn learned(lines: &[String], options: &LearnOptions) -> Learned {
    learn(lines.iter().cloned(), options, |_| {}).unwrap()
}

/// The library's form of a tokenizer of ours, through its files.
fn library(tokenizer: &Tokenizer) -> tokenizers::Tokenizer {
    let folder = tempfile::tempdir().unwrap();
    tokenizer.save(folder.path()).unwrap();
    tokenizers::Tokenizer::from_file(folder.path().join("tokenizer.json")).unwrap()
}

#[test]
fn merges_are_those_of_the_library() {
    let lines: Vec<String> = corpus(3000).into_iter().filter(|line| line.is_ascii()).collect();
    let ours = learned(&lines, &options(VocabularyKind::ByteBpe, 700));
    // The same splitting of texts, another model, trained by the library.
    let mut theirs = library(&ours.tokenizer().unwrap());
    let alphabet = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
    theirs.with_model(ModelWrapper::BPE(BPE::default()));
    let special = SPECIAL.map(|token| AddedToken::from(token, true)).to_vec();
    let trainer =
        BpeTrainer::builder().vocab_size(700).min_frequency(2).special_tokens(special).initial_alphabet(alphabet.into_iter().collect());
    let mut trainer: TrainerWrapper = trainer.show_progress(false).build().into();
    theirs.train(&mut trainer, lines.iter()).unwrap();
    let theirs: HashSet<String> = theirs.get_vocab(true).into_keys().collect();
    let shared = ours.pieces.iter().filter(|piece| theirs.contains(*piece)).count();
    // Equally frequent pairs may be merged in another order.
    assert_eq!(ours.pieces.len(), theirs.len());
    assert!(shared * 100 >= theirs.len() * 98, "{shared} of {}", theirs.len());
}

/// The better vocabulary makes the same texts more probable: the sum of its pieces' scores is higher.
#[test]
fn unigram_is_no_worse_than_the_librarys() {
    let lines = corpus(3000);
    let ours = learned(&lines, &options(VocabularyKind::Unigram, 300)).tokenizer().unwrap();
    let mut theirs = library(&ours);
    theirs.with_model(ModelWrapper::Unigram(Unigram::default()));
    let mut trainer = UnigramTrainer::default();
    (trainer.vocab_size, trainer.show_progress, trainer.unk_token) = (300, false, Some("[UNK]".into()));
    trainer.special_tokens = SPECIAL.map(|token| AddedToken::from(token, true)).to_vec();
    theirs.train(&mut TrainerWrapper::from(trainer), lines.iter()).unwrap();
    let ours = library(&ours);
    let score = |tokenizer: &tokenizers::Tokenizer| {
        let ModelWrapper::Unigram(model) = tokenizer.get_model() else { panic!("Unigram") };
        let scores: Vec<f64> = model.iter().map(|(_, score)| *score).collect();
        let ids = lines.iter().flat_map(|line| tokenizer.encode(line.as_str(), false).unwrap().get_ids().to_vec());
        ids.fold((0.0, 0), |(sum, n), id| (sum + scores[id as usize], n + 1))
    };
    let ((our_score, our_tokens), (their_score, their_tokens)) = (score(&ours), score(&theirs));
    assert!(our_score > their_score * 1.01, "ours {our_score} in {our_tokens} tokens, the library's {their_score} in {their_tokens}");
}

#[test]
fn texts_come_back_and_the_library_agrees() {
    let lines = corpus(2000);
    for kind in KINDS {
        for cased in [false, true] {
            let normalization = if cased { Normalization::cased() } else { Normalization::default() };
            let tokenizer = learned(&lines, &LearnOptions { normalization, ..options(kind, 800) }).tokenizer().unwrap();
            let folder = tempfile::tempdir().unwrap();
            tokenizer.save(folder.path()).unwrap();
            let again = Tokenizer::load(folder.path()).unwrap();
            assert_eq!(again.config().model_max_length, Some(512));
            let library = tokenizers::Tokenizer::from_file(folder.path().join("tokenizer.json")).unwrap();
            let special = again.special();
            assert_eq!([special.pad, special.unk, special.cls, special.sep, special.mask], [0, 1, 2, 3, 4].map(Some));
            for line in &lines[..100] {
                let line = line.trim();
                let encoding = again.encode(line, true).unwrap();
                assert_eq!(encoding.ids, library.encode(line, true).unwrap().get_ids());
                assert_eq!((encoding.ids[0], encoding.ids.last()), (2, Some(&3)));
                assert!(!encoding.ids.contains(&1), "{kind:?}: a text it was learned from has no unknown words: {line}");
                let decoded = again.decode(&encoding.ids, true).unwrap();
                let expected = match (cased, kind) {
                    (true, _) => line.to_string(),
                    (false, VocabularyKind::Unigram) => line.to_lowercase().replace('é', "e"),
                    (false, _) => line.to_lowercase(),
                };
                // Unigram brings Chinese commas to one form, as NFKC has it.
                assert_eq!(
                    decoded.trim().replace(", ", ","),
                    expected.replace('，', if kind == VocabularyKind::Unigram { "," } else { "，" }).replace(", ", ",")
                );
            }
        }
    }
}

#[test]
fn bytes_leave_nothing_unknown() {
    let tokenizer = learned(&corpus(200), &options(VocabularyKind::ByteBpe, 300)).tokenizer().unwrap();
    for text in ["žluťoučký 🦀 кот", "a\u{0}b\tc\n\nd", "龘"] {
        let ids = tokenizer.encode(text, true).unwrap().ids;
        assert!(!ids.contains(&1), "{text:?} {ids:?}");
        assert_eq!(tokenizer.decode(&ids, true).unwrap().trim_start(), text);
    }
}

#[test]
fn pieces_of_bytes_can_be_read() {
    let tokenizer = learned(&corpus(2000), &options(VocabularyKind::ByteBpe, 1000)).tokenizer().unwrap();
    let shown = |text: &str| -> Vec<String> {
        tokenizer.encode(text, true).unwrap().ids.iter().map(|&id| tokenizer.readable(id).unwrap()).collect()
    };
    assert_eq!(shown("北京"), ["[CLS]", "Ġ", "北京", "[SEP]"]);
    assert_eq!(shown("🦀").len(), 3 + 4, "parts of a character stay bytes");
}

#[test]
fn offsets_are_those_of_the_words() {
    for kind in KINDS {
        let tokenizer = learned(&corpus(2000), &options(kind, 1000)).tokenizer().unwrap();
        let text = "kalo 我们喜欢 mika";
        let encoding = tokenizer.encode(text, false).unwrap();
        let found: Vec<&str> = encoding.offsets.iter().map(|&(start, end)| &text[start as usize..end as usize]).collect();
        assert_eq!(found.concat(), "kalo我们喜欢mika", "{kind:?} {found:?}");
        let first = tokenizer.encode("我们", false).unwrap().offsets[0];
        assert_eq!(first, (0, 0), "{kind:?}: the sign of a space before the text covers none of it");
        assert!(found.contains(&"喜欢"), "{kind:?} {found:?}");
    }
}

#[test]
fn threads_make_no_difference() {
    let lines = corpus(5000);
    for kind in KINDS {
        let outcomes: Vec<Learned> = [1, 3]
            .map(|threads| {
                rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| learned(&lines, &options(kind, 600)))
            })
            .to_vec();
        assert_eq!(outcomes[0], outcomes[1]);
    }
}

#[test]
fn pairs_are_framed_as_bert_has_it() {
    for kind in KINDS {
        let tokenizer = learned(&corpus(500), &options(kind, 400)).tokenizer().unwrap();
        let encoding = tokenizer.encode_pair("kalo", "mika", None).unwrap();
        let second = encoding.ids.iter().position(|&id| id == 3).unwrap() + 1;
        assert_eq!(encoding.token_type_ids[..second].iter().max(), Some(&0));
        assert_eq!(encoding.token_type_ids[second..].iter().min(), Some(&1));
    }
}

#[test]
fn a_vocabulary_of_bytes_has_room_for_them() {
    let error = learn(std::iter::once("a".to_string()), &options(VocabularyKind::ByteBpe, 200), |_| {}).unwrap_err();
    assert!(matches!(error, TokenizerError::VocabularyTooSmall { least: 261, .. }), "{error}");
    // Unigram keeps the most frequent characters where not all have room; a rare one is unknown.
    let lines = ["aaaa bbbb cccc".repeat(20), "z".to_string()];
    let learned = learned(&lines, &options(VocabularyKind::Unigram, 10));
    assert!(learned.report.alphabet_dropped > 0 && learned.pieces.len() <= 10);
    assert!(learned.tokenizer().unwrap().encode("z", false).unwrap().ids.contains(&1));
}
