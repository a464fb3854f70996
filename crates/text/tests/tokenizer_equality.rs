//! Ids, offsets, word ids and masks equal those of the `tokenizers` crate, on every kind of text.

mod tokenizer_support;

use cloze_text::tokenizer::{Tokenizer, WordPieceOptions};
use proptest::prelude::*;
use tokenizer_support::{NORMALIZATIONS, all_twins, data, pieces, same, twins, unpack};
use tokenizers::utils::truncation::{TruncationParams, truncate_encodings};

const TEXTS: &[&str] = &[
    "",
    " ",
    "Hello, World! The unable ones.",
    "hello\tworld\r\nnew  line\u{a0}nbsp\u{3000}wide\u{2028}sep\u{85}nel",
    "naïve café Ünïcödé ÀÉÎ ǅ ß ẞ STRASSE straße",
    "e\u{301}\u{323} a\u{323}\u{301} é\u{323} ệ \u{301}start",
    "İstanbul ı I i\u{307} ΑΣ ΌΣΟΣ ὈΔΥΣΣΕΎΣ ΐ ΰ",
    "中国人 hello中国world 丽 𠀀𠀁 \u{f900}\u{2f800} 㐀",
    "各國 각각 가나다 한글 \u{1100}\u{1161}\u{11a8}",
    "ｆｕｌｌ　ｗｉｄｔｈ １２３ ！？",
    "emoji 😀😃👩‍👩‍👧‍👦 🇩🇪 👍🏽 ❤️ ☺",
    "zero\u{200b}width\u{200d}join\u{ad}soft\u{feff}bom \u{0}nul \u{fffd} repl \u{7f}del \u{1}\u{2}",
    "private \u{e000}\u{f8ff}\u{f0000} unassigned \u{378}\u{e0fff}",
    "[MASK] a[MASK]b [mask] [CLS][SEP] [PAD]x [UNK] [MASK",
    "[[MASK]] ##ing # ## hello##world @-@ <unk> a.b.c U.S.A. don't",
    "x\u{302e}\u{302f}\u{301}y \u{302e}z 中\u{302e}\u{323} 中\u{301}\u{302e}",
    "𝅗𝅥 𝅘𝅥𝅮 \u{1d15e}\u{1d165}\u{301} \u{1d157}\u{301}\u{1d165}\u{323}\u{1d16d} é\u{1d165}\u{323}w",
    "\u{f73}\u{f75}\u{f81}\u{f71}\u{f72}\u{f40}\u{f73}\u{302e} \u{344}\u{302e}",
    "क़ ग़ নো அ ไทย ภาษา שָׁלוֹם السَّلَامُ",
    "≠ ≮ ≯ \u{37e} \u{1fef} \u{212a} \u{212b} \u{2126} ﬁ ﬃ ½ ²",
    "\u{2000}\u{2001}\u{2002}\u{1680}\u{180e}\u{205f}a\u{2009}b",
    "a\u{200b}\u{301}b\u{200b} c\u{200b}",
    "\u{301}\u{302}",
    "\u{200b}\u{200c}",
    "tiếng Việt Nguyễn được",
    "ab\u{301}cd abcd unabling hellohello",
];

#[test]
fn texts_of_every_kind() {
    for (i, twins) in all_twins().iter().enumerate() {
        for text in TEXTS {
            twins.compare(text).unwrap_or_else(|difference| panic!("normalization {i}: {difference}"));
        }
        twins.compare(&TEXTS.concat()).unwrap();
        twins.compare(&TEXTS.join(" [MASK] ")).unwrap();
    }
}

#[test]
fn every_character_in_the_middle_of_a_word() {
    for twins in [&all_twins()[0], &all_twins()[3], &all_twins()[4], &all_twins()[8], &all_twins()[13]] {
        let mut text = String::new();
        for code in (0..0x3_1000).chain(0xe_0000..0xe_0200).filter_map(char::from_u32) {
            text.extend(['a', code, 'b', ' ']);
            if text.len() > 4000 {
                twins.compare(&text).unwrap();
                text.clear();
            }
        }
    }
}

#[test]
fn words_at_the_length_limit() {
    for twins in &all_twins()[..8] {
        for n in [98, 99, 100, 101, 102, 250] {
            for unit in ["a", "A", "é", "e\u{301}", "a\u{200b}", "中", "각", "😀", "\u{301}", "\u{302e}", "İ", "!"] {
                let run = unit.repeat(n);
                twins.compare(&run).unwrap();
                twins.compare(&format!("x {run}y z")).unwrap();
                twins.compare(&format!("{run}.{run}")).unwrap();
            }
        }
    }
}

#[test]
fn a_megabyte_of_one_character_is_linear() {
    for unit in ["a", "A", "#", "[", " ", "é", "中", "\u{301}", "\u{302e}", "\u{f73}", "😀", "[MASK]"] {
        let long = unit.repeat(1_000_000 / unit.len());
        let started = std::time::Instant::now();
        for twins in [&all_twins()[0], &all_twins()[4]] {
            let encoding = twins.ours.encode(&long, true).unwrap();
            assert!(encoding.len() >= 2);
        }
        assert!(started.elapsed().as_secs() < 5, "{unit:?} took {:?}", started.elapsed());
        // The library is compared on a part: its own time grows faster.
        all_twins()[0].compare(&unit.repeat(3000)).unwrap();
    }
}

#[test]
fn pairs_and_truncation() {
    let texts =
        ["", "hello", "hello world the unable ones", "中国人 of the world and the abcd in the un", "a b c d e f g h i j k l m n o p q"];
    let twin = twins(pieces(), WordPieceOptions::default());
    // The library's own truncating encode stops reading early, which changes which text counts as
    // the longer one; its truncation of whole encodings is the rule.
    let library = |first: &str, second: Option<&str>, max_length: Option<usize>| {
        let whole = |text: &str| twin.oracle.encode(text, false).unwrap();
        let (mut a, mut b) = (whole(first), second.map(whole));
        if let Some(max_length) = max_length {
            let room = max_length - if second.is_some() { 3 } else { 2 };
            let params = TruncationParams { max_length: room, ..Default::default() };
            (a, b) = truncate_encodings(a, b, &params).unwrap();
        }
        twin.oracle.post_process(a, b, true).unwrap()
    };
    for max_length in [None, Some(3), Some(4), Some(5), Some(8), Some(11), Some(20), Some(60)] {
        for first in texts {
            let ours = match max_length {
                Some(max_length) => twin.ours.encode_truncated(first, max_length).unwrap(),
                None => twin.ours.encode(first, true).unwrap(),
            };
            same(&ours, &library(first, None, max_length), first).unwrap();
            for second in texts {
                let ours = twin.ours.encode_pair(first, second, max_length).unwrap();
                let library = library(first, Some(second), max_length);
                same(&ours, &library, &format!("{first} | {second} | {max_length:?}")).unwrap();
                let sequences: Vec<Option<usize>> = (0..ours.len()).map(|i| (0..2).find(|&part| ours.parts[part].contains(&i))).collect();
                if max_length.is_none() && !first.is_empty() && !second.is_empty() {
                    assert_eq!(sequences, twin.oracle.encode((first, second), true).unwrap().get_sequence_ids());
                }
            }
        }
    }
    assert!(twin.ours.encode_pair("a", "b", Some(2)).is_err());
    assert!(twin.ours.encode_truncated("a", 1).is_err());
}

#[test]
fn a_batch_is_its_texts() {
    let tokenizer = &all_twins()[0].ours;
    let texts: Vec<&str> = TEXTS.iter().cycle().take(500).copied().collect();
    let batch = tokenizer.encode_batch(&texts, true).unwrap();
    for (text, encoding) in texts.iter().zip(batch) {
        assert_eq!(encoding, tokenizer.encode(text, true).unwrap());
    }
}

#[test]
fn added_tokens_beyond_the_vocabulary() {
    let mut options = WordPieceOptions::default();
    for token in ["[E1]", "[E11]", "<s>", "the", "ab", "中国"] {
        options.added.push((token.into(), token.starts_with('[')));
    }
    let twins = twins(pieces(), options);
    for text in TEXTS.iter().chain(&["[E1][E11]x[E1 ] <s>THE the other abab[E1]1] 中国 中国人"]) {
        twins.compare(text).unwrap();
    }
    assert_eq!(twins.ours.vocab_size(), twins.oracle.get_vocab_size(true));
}

#[test]
fn real_vocabularies() {
    let Some(data) = data() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut loaded = Vec::new();
    for (name, cased) in [("bert-base-cased", true), ("bert-base-uncased", false), ("bert-base-chinese", true)] {
        let vocab = folder.path().join(name);
        std::fs::create_dir_all(&vocab).unwrap();
        std::fs::write(vocab.join("vocab.txt"), unpack(&data.join(format!("vocab/{name}.vocab.txt.zst")))).unwrap();
        let config = format!("{{\"do_lower_case\": {}}}", !cased);
        std::fs::write(vocab.join("tokenizer_config.json"), config).unwrap();
        let ours = Tokenizer::load(&vocab).unwrap();
        ours.save(&vocab).unwrap();
        let library = tokenizers::Tokenizer::from_file(vocab.join("tokenizer.json")).unwrap();
        loaded.push(tokenizer_support::Twins { ours, oracle: library });
    }
    let json = folder.path().join("tokenizer.json");
    std::fs::write(&json, unpack(&data.join("vocab/bert-base-uncased.tokenizer.json.zst"))).unwrap();
    let ours = Tokenizer::load(&json).unwrap();
    assert!(ours.wordpiece().is_some(), "the original tokenizer.json of BERT takes the fast way");
    assert_eq!(ours.special(), loaded[1].ours.special());
    let mut library = tokenizers::Tokenizer::from_file(&json).unwrap();
    library.with_truncation(None).unwrap();
    library.with_padding(None);
    loaded.push(tokenizer_support::Twins { ours, oracle: library });
    for file in ["en_wikitext2_valid", "zh_news_web", "zh_tech_articles", "en_factbook"] {
        let text = String::from_utf8(unpack(&data.join(format!("text/{file}.txt.zst")))).unwrap();
        for twins in &loaded {
            for line in text.lines().take(400) {
                twins.compare(line).unwrap();
            }
        }
    }
}

/// Characters that interact: marks of several classes, decompositions, removed and spaced ones.
fn troublesome() -> impl Strategy<Value = char> {
    let some = "aAbcdzé中国각#[]!.,' \t\n\u{301}\u{323}\u{302e}\u{302f}\u{f73}\u{f71}\u{f72}\u{344}\u{1d165}\u{1d15e}\
                \u{1d16d}\u{1d16e}\u{200b}\u{0}\u{fffd}\u{ad}\u{3000}İßﬁΣǅ\u{f900}😀\u{20d0}\u{488}\u{9cb}\u{958}\u{f81}\u{1fc1}";
    prop_oneof![
        6 => proptest::sample::select(some.chars().collect::<Vec<_>>()),
        1 => any::<char>(),
        1 => (0x300u32..0x370).prop_map(|c| char::from_u32(c).unwrap()),
        1 => (0x1d150u32..0x1d1c0).prop_map(|c| char::from_u32(c).unwrap()),
        1 => (0x590u32..0xfff).prop_map(|c| char::from_u32(c).unwrap()),
        1 => (0x1e00u32..0x3100).prop_map(|c| char::from_u32(c).unwrap()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text(text in any::<String>(), which in 0..NORMALIZATIONS) {
        all_twins()[which].compare(&text).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn troublesome_text(chars in proptest::collection::vec(troublesome(), 0..40), which in 0..NORMALIZATIONS) {
        let text: String = chars.into_iter().collect();
        all_twins()[which].compare(&text).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn text_with_added_tokens(parts in proptest::collection::vec("(\\[MASK\\]|\\[SEP\\]|\\[|MASK|\\]|[a-d]{1,4}|é| |中)", 0..20),
            which in 0..NORMALIZATIONS) {
        all_twins()[which].compare(&parts.concat()).map_err(TestCaseError::fail)?;
    }
}
