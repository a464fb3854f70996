//! Vocabulary training: the pieces of the `tokenizers` crate's trainer, independent of threads,
//! bounded in memory.

mod tokenizer_support;

use std::collections::HashSet;

use cloze_text::learn::{LearnOptions, LearnProgress, Learned, learn, try_learn};
use cloze_text::tokenizer::{Normalization, TokenizerError};
use tokenizer_support::{SPECIAL, data, unpack};
use tokenizers::decoders::DecoderWrapper;
use tokenizers::models::wordpiece::{WordPiece, WordPieceTrainer};
use tokenizers::normalizers::bert::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::{AddedToken, TokenizerBuilder};

/// Sentences of invented words with a rich-get-richer spread of frequencies.
fn corpus(lines: usize, seed: u64) -> Vec<String> {
    let mut state = seed;
    let mut random = |n: u64| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % n
    };
    let syllables = ["ka", "lo", "mi", "ner", "est", "ing", "pré", "un", "sta", "中", "ß", "Qu", "tion", "x"];
    let mut words: Vec<String> = Vec::new();
    (0..lines)
        .map(|_| {
            let mut line = String::new();
            for _ in 0..12 {
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

fn options(vocab_size: usize) -> LearnOptions {
    LearnOptions { vocab_size, ..LearnOptions::default() }
}

fn learned(lines: &[String], options: &LearnOptions) -> Learned {
    learn(lines.iter().cloned(), options, |_| {}).unwrap()
}

/// The pieces that the library's trainer makes.
fn library(lines: &[String], options: &LearnOptions) -> HashSet<String> {
    let normalization = options.normalization;
    let mut trainer = WordPieceTrainer::builder()
        .vocab_size(options.vocab_size)
        .min_frequency(options.min_frequency)
        .special_tokens(options.special_tokens.iter().map(|t| AddedToken::from(t.as_str(), true)).collect())
        .show_progress(false)
        .build();
    let mut tokenizer = TokenizerBuilder::<_, _, _, PostProcessorWrapper, DecoderWrapper>::new()
        .with_model(WordPiece::default())
        .with_normalizer(Some(BertNormalizer::new(
            normalization.clean_text,
            normalization.split_cjk,
            normalization.strip_accents,
            normalization.lowercase,
        )))
        .with_pre_tokenizer(Some(BertPreTokenizer))
        .build()
        .unwrap();
    tokenizer.train(&mut trainer, lines.iter()).unwrap();
    tokenizer.get_vocab(true).into_keys().collect()
}

#[test]
fn the_classic_example_in_full() {
    let lines: Vec<String> =
        ["low low low low low lower lower newest newest newest newest newest newest widest widest widest"].map(String::from).to_vec();
    let learned = learned(&lines, &options(1000));
    let pieces = learned.pieces[5..].join(" ");
    // Alphabet by code point, continuations by code point, then merges: by count, of equal ones by lower ids.
    let expected = "d e i l n o r s t w ##d ##e ##i ##o ##r ##s ##t ##w \
                    ##es ##est lo low ne ##west newest wi ##dest widest ##er lower";
    assert_eq!(pieces, expected);
    assert_eq!(learned.pieces[..5], SPECIAL);
    assert_eq!(learned.report.words, 16);
    assert_eq!(learned.report.distinct_words, 4);
}

#[test]
fn pieces_are_those_of_the_library() {
    let lines = corpus(4000, 3);
    for (normalization, vocab_size, min_frequency) in
        [(Normalization::default(), 600, 2), (Normalization::cased(), 900, 2), (Normalization::default(), 100_000, 20)]
    {
        let options = LearnOptions { normalization, min_frequency, ..options(vocab_size) };
        let ours: HashSet<String> = learned(&lines, &options).pieces.into_iter().collect();
        let library = library(&lines, &options);
        let shared = ours.intersection(&library).count();
        // Ties are broken by ids, and the library numbers continuations in the order of a hash table.
        assert!(shared * 100 >= library.len() * 98, "{shared} of {} / {}", ours.len(), library.len());
        assert!(ours.len().abs_diff(library.len()) * 100 <= library.len());
    }
}

#[test]
fn threads_make_no_difference() {
    let lines = corpus(30_000, 5);
    // A small word table, so that words are forgotten on the way.
    let options = LearnOptions { max_words: 1500, ..options(800) };
    let outcomes: Vec<Learned> = [1, 2, 3, 7]
        .map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| learned(&lines, &options))
        })
        .to_vec();
    assert!(outcomes[0].report.pruned_words > 0);
    for outcome in &outcomes[1..] {
        assert_eq!(outcome, &outcomes[0]);
    }
}

#[test]
fn one_long_text_is_as_good_as_its_lines() {
    let lines = corpus(20_000, 9);
    let whole = learned(&[lines.join("\n")], &options(500));
    assert_eq!(whole.pieces, learned(&lines, &options(500)).pieces);
}

#[test]
fn forgetting_rare_words_is_reported_and_bounded() {
    let lines: Vec<String> = (0..400_000u32).map(|i| format!("the sea {i:x}q")).collect();
    let options = LearnOptions { max_words: 1000, ..options(300) };
    let mut most = 0;
    let learned = learn(lines.into_iter(), &options, |progress| {
        if let LearnProgress::Counting { distinct_words, .. } = progress {
            most = most.max(distinct_words);
        }
    })
    .unwrap();
    assert!(most <= 1000, "{most} words in memory");
    let report = &learned.report;
    assert_eq!(report.words, 1_200_000);
    assert_eq!(report.distinct_words as u64 + report.pruned_words, 400_002);
    assert!(report.pruned_occurrences == report.pruned_words);
    assert!(learned.pieces.iter().any(|p| p == "the") && learned.pieces.iter().any(|p| p == "sea"));
}

#[test]
fn limits_of_the_alphabet() {
    let lines = vec!["aaaa bbb cc d axb".to_string(); 10];
    let learned_with = |limit| learned(&lines, &LearnOptions { alphabet_limit: limit, ..options(200) });
    let all = learned_with(None);
    assert_eq!((all.report.alphabet, all.report.alphabet_dropped), (5, 0));
    let three = learned_with(Some(3));
    assert_eq!((three.report.alphabet, three.report.alphabet_dropped), (3, 2));
    let characters: Vec<&str> = three.pieces[5..8].iter().map(String::as_str).collect();
    assert_eq!(characters, ["a", "b", "c"]);
    assert!(!three.pieces.iter().any(|p| p.contains("ab")), "nothing merges across a character left out");
    let cramped = learned(&lines, &options(11));
    assert!(cramped.report.pieces <= 11 && cramped.report.alphabet_dropped > 0);
}

#[test]
fn chinese_characters_and_case() {
    let lines = vec!["中文 English École 中".to_string(); 5];
    let has =
        |normalization, piece: &str| learned(&lines, &LearnOptions { normalization, ..options(400) }).pieces.iter().any(|p| p == piece);
    let plain = Normalization::default();
    assert!(has(plain, "中") && !has(plain, "中文") && has(plain, "english") && has(plain, "ecole"));
    assert!(has(Normalization { split_cjk: false, ..plain }, "中文"));
    assert!(has(Normalization { strip_accents: Some(false), ..plain }, "école"));
    assert!(has(Normalization::cased(), "École"));
}

#[test]
fn a_learned_tokenizer_encodes_and_saves() {
    let lines = corpus(3000, 11);
    let tokenizer = learned(&lines, &options(400)).tokenizer().unwrap();
    let encoding = tokenizer.encode(&lines[7], true).unwrap();
    let unk = tokenizer.special().unk.unwrap();
    assert!(!encoding.ids.contains(&unk), "a text it was learned from has no unknown words");
    let folder = tempfile::tempdir().unwrap();
    tokenizer.save(folder.path()).unwrap();
    let library = tokenizers::Tokenizer::from_file(folder.path().join("tokenizer.json")).unwrap();
    for line in &lines[..200] {
        tokenizer_support::same(&tokenizer.encode(line, true).unwrap(), &library.encode(line.as_str(), true).unwrap(), line).unwrap();
    }
}

#[test]
fn options_and_texts_that_make_no_sense() {
    let error = |options: LearnOptions, lines: &[&str]| learn(lines.iter().map(|l| l.to_string()), &options, |_| {}).unwrap_err();
    assert!(matches!(error(options(3), &["a"]), TokenizerError::VocabularyTooSmall { least: 7, .. }));
    assert!(matches!(error(options(100), &[]), TokenizerError::NoWords { documents: 0, .. }));
    assert!(matches!(error(options(100), &["", " \n"]), TokenizerError::NoWords { documents: 2, .. }));
    let twice = vec!["[UNK]".to_string(), "[UNK]".to_string()];
    let bad = [
        LearnOptions { special_tokens: twice, ..options(100) },
        LearnOptions { max_words: 5, ..options(100) },
        LearnOptions { max_word_chars: 0, ..options(100) },
        LearnOptions { alphabet_limit: Some(0), ..options(100) },
    ];
    for options in bad {
        assert!(matches!(error(options, &["a"]), TokenizerError::Option { .. }));
    }
    let texts = vec![Ok("a b".to_string()), Err("line 7 is broken")];
    let failed = try_learn(texts.into_iter(), &options(100), |_| {}).unwrap_err();
    assert!(failed.to_string().contains("line 7 is broken"));
    let long = format!("{} ok ok", "a".repeat(1000));
    assert_eq!(learned(&[long], &options(100)).report.overlong_words, 1);
}

#[test]
fn english_books_give_the_pieces_of_the_library() {
    let Some(data) = data() else { return };
    let text = String::from_utf8(unpack(&data.join("text/en_wikitext2_valid.txt.zst"))).unwrap();
    let lines: Vec<String> = text.lines().map(String::from).collect();
    let options = options(8000);
    let ours: HashSet<String> = learned(&lines, &options).pieces.into_iter().collect();
    // The library breaks ties between equal counts in the order of a hash table, so that its vocabulary differs from run to
    // run; ours does not, and must be one of those that it makes.
    let shared = (0..5).map(|_| library(&lines, &options).intersection(&ours).count()).max().unwrap();
    assert!(shared * 1000 >= ours.len() * 995, "{shared} of {}", ours.len());
}
