//! Vocabularies in the files of other libraries: ids and offsets are those that the libraries themselves give (fixtures/make_tokenizers.py).

use std::path::{Path, PathBuf};

use cloze_text::Tokenizer;
use serde_json::Value;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tokenizers").join(name)
}

fn rows(name: &str) -> Vec<Value> {
    let golden: Value = serde_json::from_slice(&std::fs::read(fixture("golden.json")).unwrap()).unwrap();
    golden[name]["rows"].as_array().unwrap_or_else(|| panic!("no {name}")).clone()
}

fn ids(row: &Value) -> Vec<u32> {
    row["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn offsets(row: &Value) -> Vec<(u32, u32)> {
    let pair = |o: &Value| (o[0].as_u64().unwrap() as u32, o[1].as_u64().unwrap() as u32);
    row["offsets"].as_array().unwrap().iter().map(pair).collect()
}

#[test]
fn sentencepiece_unigram_and_bpe() {
    for name in ["unigram", "bpe"] {
        let tokenizer = Tokenizer::load(fixture(name)).unwrap();
        for row in rows(name) {
            let text = row["text"].as_str().unwrap();
            let encoding = tokenizer.encode(text, false).unwrap();
            assert_eq!(encoding.ids, ids(&row), "{name}: {text:?}");
            // SentencePiece counts the spaces before a word to it, all of them; where a ligature ends up in two pieces, it counts it to the second.
            for (&(a, b), (c, d)) in encoding.offsets.iter().zip(offsets(&row)) {
                let (ours, theirs) = (text[a as usize..b as usize].trim(), text[c as usize..d as usize].trim());
                assert!(ours == theirs || (theirs.is_empty() && ours == "ﬁ"), "{name}: {text:?}: {ours:?}, {theirs:?}");
                assert!(b == d || ours == "ﬁ", "{name}: {text:?}: {a}..{b}, {c}..{d}");
            }
            // what the offsets point to in characters is what they point to in bytes
            for ((start, end), (a, b)) in encoding.char_offsets(text).into_iter().zip(&encoding.offsets) {
                let chars: String = text.chars().skip(start as usize).take((end - start) as usize).collect();
                assert_eq!(chars, text[*a as usize..*b as usize]);
            }
        }
    }
}

#[test]
fn sentencepiece_as_xlm_roberta_numbers_it() {
    let tokenizer = Tokenizer::load(fixture("xlmr")).unwrap();
    let special = tokenizer.special();
    assert_eq!((special.cls, special.pad, special.sep, special.unk), (Some(0), Some(1), Some(2), Some(3)));
    assert_eq!(special.mask.map(|id| id as usize + 1), Some(tokenizer.vocab_size()));
    for row in rows("xlmr") {
        let text = row["text"].as_str().unwrap();
        // SentencePiece has <unk> <s> </s> at 0, 1, 2; the model <s> <pad> </s> <unk>, and every other piece one later.
        let moved = ids(&row).into_iter().map(|id| if id == 0 { 3 } else { id + 1 });
        let expected: Vec<u32> = [0].into_iter().chain(moved).chain([2]).collect();
        assert_eq!(tokenizer.encode(text, true).unwrap().ids, expected, "{text:?}");
    }
    let pair = tokenizer.encode_pair("the cat", "sat", None).unwrap();
    assert_eq!(pair.ids.iter().filter(|id| **id == 2).count(), 3, "two separators between the texts, one behind them");
    assert!(pair.token_type_ids.iter().all(|t| *t == 0));
    let masked = tokenizer.encode("the <mask> sat", false).unwrap();
    assert!(masked.ids.contains(&special.mask.unwrap()));
}

#[test]
fn debertas_mask_comes_behind_the_pieces() {
    let tokenizer = Tokenizer::load(fixture("deberta")).unwrap();
    assert_eq!(tokenizer.special().mask.map(|id| id as usize + 1), Some(tokenizer.vocab_size()));
    for row in rows("deberta") {
        let text = row["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text, true).unwrap().ids, ids(&row), "{text:?}");
    }
    let golden: Value = serde_json::from_slice(&std::fs::read(fixture("golden.json")).unwrap()).unwrap();
    let pair = &golden["deberta"]["pair"];
    let ours = tokenizer.encode_pair(pair["first"].as_str().unwrap(), pair["second"].as_str().unwrap(), None).unwrap();
    assert_eq!(ours.ids, ids(pair));
}

#[test]
fn byte_level_bpe_without_a_tokenizer_json() {
    let tokenizer = Tokenizer::load(fixture("bytes")).unwrap();
    for row in rows("bytes") {
        let text = row["text"].as_str().unwrap();
        let encoding = tokenizer.encode(text, true).unwrap();
        assert_eq!(encoding.ids, ids(&row), "{text:?}");
        assert_eq!(encoding.char_offsets(text), offsets(&row), "{text:?}");
    }
    let golden: Value = serde_json::from_slice(&std::fs::read(fixture("golden.json")).unwrap()).unwrap();
    let pair = &golden["bytes"]["pair"];
    let ours = tokenizer.encode_pair(pair["first"].as_str().unwrap(), pair["second"].as_str().unwrap(), None).unwrap();
    assert_eq!(ours.ids, ids(pair));
}

/// With a config that names the class, and with the vocabulary alone.
#[test]
fn wordpiece_between_robertas_special_tokens() {
    let bare = tempfile::tempdir().unwrap();
    std::fs::copy(fixture("mpnet/vocab.txt"), bare.path().join("vocab.txt")).unwrap();
    for folder in [fixture("mpnet"), bare.path().to_owned()] {
        let tokenizer = Tokenizer::load(&folder).unwrap();
        let special = tokenizer.special();
        assert_eq!((special.cls, special.pad, special.sep), (Some(0), Some(1), Some(2)));
        assert_eq!(special.mask.map(|id| id as usize + 1), Some(tokenizer.vocab_size()));
        assert_eq!(special.unk, tokenizer.token_to_id("[UNK]"));
        for row in rows("mpnet") {
            let text = row["text"].as_str().unwrap();
            let encoding = tokenizer.encode(text, true).unwrap();
            assert_eq!(encoding.ids, ids(&row), "{text:?}");
            assert_eq!(encoding.char_offsets(text), offsets(&row), "{text:?}");
        }
        let golden: Value = serde_json::from_slice(&std::fs::read(fixture("golden.json")).unwrap()).unwrap();
        let pair = &golden["mpnet"]["pair"];
        let ours = tokenizer.encode_pair(pair["first"].as_str().unwrap(), pair["second"].as_str().unwrap(), None).unwrap();
        assert_eq!(ours.ids, ids(pair));
        assert!(ours.token_type_ids.iter().all(|t| *t == 0));
    }
}

#[test]
fn what_is_converted_is_saved_and_read_back() {
    for name in ["unigram", "bpe", "xlmr", "bytes", "mpnet", "deberta"] {
        let tokenizer = Tokenizer::load(fixture(name)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        tokenizer.save(folder.path()).unwrap();
        let again = Tokenizer::load(folder.path()).unwrap();
        assert_eq!(again.special(), tokenizer.special(), "{name}");
        for row in rows(name) {
            let text = row["text"].as_str().unwrap();
            assert_eq!(again.encode(text, true).unwrap(), tokenizer.encode(text, true).unwrap(), "{name}: {text:?}");
        }
    }
}

#[test]
fn texts_lose_their_beginning_where_the_config_says_so() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(fixture("../bert-tiny/vocab.txt"), folder.path().join("vocab.txt")).unwrap();
    let right = Tokenizer::load(folder.path()).unwrap();
    std::fs::write(folder.path().join("tokenizer_config.json"), r#"{"truncation_side": "left"}"#).unwrap();
    let left = Tokenizer::load(folder.path()).unwrap();
    let text = "the cat sat on the mat and the dog ran";
    let whole = right.encode(text, true).unwrap();
    let cut = left.encode_truncated(text, 6).unwrap();
    let n = whole.len();
    assert_eq!(cut.ids, [&whole.ids[..1], &whole.ids[n - 5..]].concat());
    assert_eq!((cut.parts[0].clone(), cut.parts[1].clone()), (1..5, 5..5));
    assert_eq!(right.encode_truncated(text, 6).unwrap().ids, [&whole.ids[..5], &whole.ids[n - 1..]].concat());
    let pair = left.encode_pair(text, "the cat", Some(9)).unwrap();
    let all = left.encode_pair(text, "the cat", None).unwrap();
    assert_eq!((pair.len(), pair.parts[0].len() + pair.parts[1].len()), (9, 6));
    assert_eq!(pair.ids[pair.parts[1].clone()], all.ids[all.parts[1].clone()]);
    assert_eq!(pair.ids[pair.parts[0].clone()], all.ids[all.parts[0].end - pair.parts[0].len()..all.parts[0].end]);
    std::fs::write(folder.path().join("tokenizer_config.json"), r#"{"truncation_side": "top"}"#).unwrap();
    assert!(Tokenizer::load(folder.path()).unwrap_err().to_string().contains("truncation_side"));
}

/// A file of the shared data in a folder under the name that tokenizers have there.
fn real(folder: &Path, files: [(&str, &str); 2]) -> bool {
    let Ok(data) = std::env::var("CLOZE_DATA") else {
        println!("skipped: CLOZE_DATA is not set");
        return false;
    };
    for (from, to) in files.into_iter().filter(|(from, _)| !from.is_empty()) {
        let packed = std::fs::File::open(Path::new(&data).join("vocab").join(from)).unwrap();
        let mut plain = Vec::new();
        std::io::Read::read_to_end(&mut ruzstd::decoding::StreamingDecoder::new(packed).unwrap(), &mut plain).unwrap();
        std::fs::write(folder.join(to), plain).unwrap();
    }
    true
}

#[test]
fn a_real_sentencepiece_model() {
    let folder = tempfile::tempdir().unwrap();
    if !real(folder.path(), [("xlnet-chinese.spiece.model.zst", "spiece.model"), ("", "")]) {
        return;
    }
    // As XLNet's tokenizer, accents are dropped and commas kept apart; the pieces of the model itself are had with a class of no such rules.
    std::fs::write(folder.path().join("tokenizer_config.json"), r#"{"tokenizer_class": "T5Tokenizer"}"#).unwrap();
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    for row in rows("xlnet-chinese") {
        let text = row["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text, false).unwrap().ids, ids(&row), "{text:?}");
    }
    std::fs::remove_file(folder.path().join("tokenizer_config.json")).unwrap();
    let xlnet = Tokenizer::load(folder.path()).unwrap();
    let encoding = xlnet.encode("猫坐在垫子上", true).unwrap();
    let last: Vec<String> = encoding.ids[encoding.len() - 2..].iter().map(|id| xlnet.id_to_token(*id).unwrap()).collect();
    assert_eq!(last, ["<sep>", "<cls>"], "XLNet has its special tokens behind the text");
    assert_eq!(encoding.token_type_ids.last(), Some(&2));
}

#[test]
fn a_real_byte_level_bpe() {
    let folder = tempfile::tempdir().unwrap();
    if !real(folder.path(), [("gpt2.encoder.json.zst", "vocab.json"), ("gpt2.vocab.bpe.zst", "merges.txt")]) {
        return;
    }
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    for row in rows("gpt2") {
        let text = row["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text, true).unwrap().ids, ids(&row), "{text:?}");
    }
}
