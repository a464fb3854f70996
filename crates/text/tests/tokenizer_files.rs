//! Tokenizer files: written, read back, read from elsewhere, and broken in every way.

mod tokenizer_support;

use std::path::Path;

use cloze_text::tokenizer::{Normalization, SpecialTokens, Tokenizer, TokenizerError, WordPieceOptions};
use serde_json::{Value, json};
use tokenizer_support::{SPECIAL, data, pieces, unpack};

fn small() -> Vec<String> {
    SPECIAL.iter().chain(&["un", "##aff", "##able", "the", "sea"]).map(|p| p.to_string()).collect()
}

fn write(folder: &Path, name: &str, content: impl AsRef<[u8]>) {
    std::fs::write(folder.join(name), content).unwrap();
}

fn saved(options: WordPieceOptions) -> (tempfile::TempDir, Tokenizer) {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = Tokenizer::from_pieces(small(), options).unwrap();
    tokenizer.save(folder.path()).unwrap();
    (folder, tokenizer)
}

fn json_of(folder: &Path, name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap()
}

#[test]
fn a_saved_tokenizer_is_read_back_the_same() {
    for index in 0..tokenizer_support::NORMALIZATIONS {
        let options = WordPieceOptions {
            normalization: tokenizer_support::normalization(index),
            max_word_chars: 100 + index,
            template: (index % 2 == 0).then(|| ("[CLS]".into(), "[SEP]".into())),
            cleanup: index % 3 == 0,
            ..WordPieceOptions::default()
        };
        let (folder, tokenizer) = saved(options);
        let loaded = Tokenizer::load(folder.path()).unwrap();
        let (a, b) = (tokenizer.wordpiece().unwrap(), loaded.wordpiece().unwrap());
        assert_eq!(a.pieces(), b.pieces());
        assert_eq!(a.options(), b.options());
        assert_eq!(tokenizer.special(), loaded.special());
        let text = "The unaffable SEA é 中 [MASK]";
        assert_eq!(tokenizer.encode(text, true).unwrap(), loaded.encode(text, true).unwrap());
    }
}

#[test]
fn vocab_txt_and_its_config_say_the_same_as_tokenizer_json() {
    for lowercase in [true, false] {
        for strip_accents in [None, Some(true), Some(false)] {
            let normalization = Normalization { lowercase, strip_accents, ..Normalization::default() };
            let (folder, tokenizer) = saved(WordPieceOptions { normalization, ..WordPieceOptions::default() });
            std::fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
            let loaded = Tokenizer::load(folder.path()).unwrap();
            assert_eq!(loaded.wordpiece().unwrap().options(), tokenizer.wordpiece().unwrap().options());
            assert_eq!(loaded.config().model_max_length, Some(512));
        }
    }
}

#[test]
fn the_files_say_what_hugging_face_reads() {
    let (folder, mut tokenizer) = saved(WordPieceOptions::default());
    tokenizer.set_model_max_length(128);
    tokenizer.save(folder.path()).unwrap();
    let config = json_of(folder.path(), "tokenizer_config.json");
    assert_eq!(config["tokenizer_class"], "BertTokenizer");
    assert_eq!(config["do_lower_case"], true);
    assert_eq!(config["model_max_length"], 128);
    assert_eq!(config["mask_token"], "[MASK]");
    let map = json_of(folder.path(), "special_tokens_map.json");
    let expected = json!({"cls_token": "[CLS]", "mask_token": "[MASK]", "pad_token": "[PAD]", "sep_token": "[SEP]",
        "unk_token": "[UNK]"});
    assert_eq!(map, expected);
    assert_eq!(std::fs::read_to_string(folder.path().join("vocab.txt")).unwrap(), small().join("\n") + "\n");
    let json = json_of(folder.path(), "tokenizer.json");
    let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
    let order = ["version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder", "model"];
    assert_eq!(keys, order);
    assert!(std::fs::read_dir(folder.path()).unwrap().count() == 4, "no temporary file is left");
}

/// Texts that are too long go on losing the end that they lost, and a limit that no file names is not made up.
#[test]
fn what_a_wordpiece_config_says_of_length_is_saved_again() {
    let (folder, _) = saved(WordPieceOptions::default());
    let mut config = json_of(folder.path(), "tokenizer_config.json");
    config["truncation_side"] = "left".into();
    config.as_object_mut().unwrap().remove("model_max_length");
    write(folder.path(), "tokenizer_config.json", config.to_string());
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    let again = tempfile::tempdir().unwrap();
    tokenizer.save(again.path()).unwrap();
    let config = json_of(again.path(), "tokenizer_config.json");
    assert_eq!((config["truncation_side"].as_str(), config.get("model_max_length")), (Some("left"), None));
    let loaded = Tokenizer::load(again.path()).unwrap();
    let cut = loaded.encode_truncated("the sea the sea sea", 4).unwrap();
    assert_eq!(cut.ids, tokenizer.encode_truncated("the sea the sea sea", 4).unwrap().ids);
    assert_eq!(cut.ids, [2, 9, 9, 3]);
}

#[test]
fn special_tokens_and_continuations() {
    let (_, tokenizer) = saved(WordPieceOptions::default());
    let expected = SpecialTokens { pad: Some(0), unk: Some(1), cls: Some(2), sep: Some(3), mask: Some(4) };
    assert_eq!(tokenizer.special(), expected);
    assert_eq!(tokenizer.vocab_size(), 10);
    let continuing: Vec<bool> = (0..11).map(|id| tokenizer.is_continuation(id)).collect();
    assert_eq!(continuing.iter().filter(|c| **c).count(), 2);
    assert!(continuing[6] && continuing[7]);
    assert_eq!(tokenizer.id_to_token(6).as_deref(), Some("##aff"));
    assert_eq!(tokenizer.token_to_id("sea"), Some(9));
    assert_eq!((tokenizer.id_to_token(10), tokenizer.token_to_id("no")), (None, None));
    assert_eq!(tokenizer.decode(&[2, 5, 6, 7, 9, 999, 3], true).unwrap(), "unaffable sea");
}

#[test]
fn a_bare_vocabulary_tells_whether_it_is_cased() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "vocab.txt", "\u{feff}[PAD]\r\n[UNK]\r\n[CLS]\r\n[SEP]\r\n[MASK]\r\nsea\r\n\r\n");
    let lower = Tokenizer::load(folder.path()).unwrap();
    assert_eq!(lower.vocab_size(), 6);
    assert_eq!(lower.encode("SEA", false).unwrap().ids, [5]);
    write(folder.path(), "vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nsea\nSea\n");
    let cased = Tokenizer::load(folder.path().join("vocab.txt")).unwrap();
    assert_eq!(cased.encode("Sea SEA", false).unwrap().ids, [6, 1]);
}

#[test]
fn names_of_special_tokens_come_from_the_config() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "vocab.txt", "<p>\n<u>\n<c>\n<e>\n<m>\nsea\n");
    write(
        folder.path(),
        "tokenizer_config.json",
        r#"{"unk_token": "<u>", "cls_token": {"content": "<c>"},
        "model_max_length": 1000000000000000019884624838656}"#,
    );
    write(folder.path(), "special_tokens_map.json", r#"{"pad_token": "<p>", "sep_token": "<e>", "mask_token": "<m>"}"#);
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    let expected = SpecialTokens { pad: Some(0), unk: Some(1), cls: Some(2), sep: Some(3), mask: Some(4) };
    assert_eq!(tokenizer.special(), expected);
    assert_eq!(tokenizer.config().model_max_length, None);
    assert_eq!(tokenizer.encode("sea <m> what", true).unwrap().ids, [2, 5, 4, 1, 3]);
}

#[test]
fn tokens_that_other_files_add_to_a_vocabulary() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tokenizers/golden.json");
    let golden: Value = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
    let vocab = golden["added"]["vocab"].as_str().unwrap();
    let cases = golden["added"]["cases"].as_array().unwrap();
    assert!(cases.len() >= 7);
    for case in cases {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "vocab.txt", vocab);
        for (name, content) in case["files"].as_object().unwrap() {
            write(folder.path(), name, content.to_string());
        }
        let tokenizer = Tokenizer::load(folder.path()).unwrap();
        assert_eq!(json!(tokenizer.vocab_size()), case["size"], "{}", case["files"]);
        let again = tempfile::tempdir().unwrap();
        tokenizer.save(again.path()).unwrap();
        let again = Tokenizer::load(again.path()).unwrap();
        for row in case["rows"].as_array().unwrap() {
            let ids = tokenizer.encode(row["text"].as_str().unwrap(), true).unwrap().ids;
            assert_eq!(json!(ids), row["ids"], "{} of {}", row["text"], case["files"]);
            assert_eq!(json!(tokenizer.decode(&ids, true).unwrap()), row["kept"], "{} of {}", row["text"], case["files"]);
            assert_eq!(again.encode(row["text"].as_str().unwrap(), true).unwrap().ids, ids);
        }
    }

    // A token that has a role keeps it.
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "vocab.txt", vocab);
    write(folder.path(), "added_tokens.json", r#"{"[MASK]": 4, "[ENT]": 15}"#);
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    let ids = tokenizer.encode("the [MASK] [ENT]", false).unwrap().ids;
    assert_eq!((&ids[..], tokenizer.decode(&ids, true).unwrap()), (&[5, 4, 15][..], "the [ent]".into()));

    for (name, content, said) in [
        ("added_tokens.json", r#"{"[ENT]": 20}"#, ["added_tokens.json", "[ENT]", "the id 15"]),
        ("added_tokens.json", r#"{"cat": 15}"#, ["added_tokens.json", "cat", "the id 6"]),
        ("added_tokens.json", r#"{"": 15}"#, ["added_tokens.json", "a token", "content"]),
        ("tokenizer_config.json", r#"{"added_tokens_decoder": []}"#, ["tokenizer_config.json", "added_tokens_decoder", "an array"]),
        ("tokenizer_config.json", r#"{"added_tokens_decoder": {"x": {}}}"#, ["tokenizer_config.json", "added_tokens_decoder", "an id"]),
        ("tokenizer_config.json", r#"{"added_tokens_decoder": {"15": {}}}"#, ["tokenizer_config.json", "\"15\"", "its content"]),
        ("tokenizer_config.json", r#"{"additional_special_tokens": [7]}"#, ["tokenizer_config.json", "tokens[0]", "its content"]),
        (
            "special_tokens_map.json",
            r#"{"extra_special_tokens": ["x", {}]}"#,
            ["special_tokens_map.json", "extra_special_tokens[1]", "its content"],
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "vocab.txt", vocab);
        write(folder.path(), name, content);
        let error = Tokenizer::load(folder.path()).unwrap_err().to_string();
        assert!(said.iter().all(|part| error.contains(part)), "{content}: {error}");
    }
}

/// A byte-level BPE tokenizer: nothing of BERT's.
fn byte_level() -> Value {
    json!({
        "version": "1.0", "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "<pad>"},
        "added_tokens": [
            {"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
            {"id": 1, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
            {"id": 2, "content": "<mask>", "single_word": false, "lstrip": true, "rstrip": false, "normalized": false, "special": true}
        ],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": {"type": "RobertaProcessing", "sep": ["</s>", 1], "cls": ["<s>", 0], "trim_offsets": true,
            "add_prefix_space": false},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "", "end_of_word_suffix": "",
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": {"<s>": 0, "</s>": 1, "<mask>": 2, "a": 3, "b": 4, "c": 5, "Ġ": 6, "ab": 7, "Ġab": 8},
            "merges": [["a", "b"], ["Ġ", "ab"]]}
    })
}

#[test]
fn tokenizers_of_other_kinds_have_the_same_doors() {
    let folder = tempfile::tempdir().unwrap();
    let text = byte_level().to_string();
    write(folder.path(), "tokenizer.json", &text);
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    assert!(tokenizer.wordpiece().is_none());
    assert_eq!(tokenizer.vocab_size(), 9);
    let encoding = tokenizer.encode("abc ab<mask>", true).unwrap();
    assert_eq!(encoding.ids, [0, 7, 5, 8, 2, 1], "neither cut nor padded, whatever the file says");
    assert_eq!(encoding.offsets[3], (4, 6));
    assert_eq!(encoding.parts, [1..5, 6..6]);
    assert_eq!(encoding.special, [true, false, false, false, false, true]);
    let continuing: Vec<bool> = encoding.ids.iter().map(|&id| tokenizer.is_continuation(id)).collect();
    assert_eq!(continuing, [false, true, true, false, false, false]);
    let expected = SpecialTokens { pad: None, unk: None, cls: Some(0), sep: Some(1), mask: Some(2) };
    assert_eq!(tokenizer.special(), expected);
    assert_eq!(tokenizer.decode(&encoding.ids, true).unwrap(), "abc ab");
    let pair = tokenizer.encode_pair("ab ab ab", "c", None).unwrap();
    assert_eq!(pair.ids, [0, 7, 8, 8, 1, 1, 5, 1]);
    assert_eq!(pair.parts, [1..4, 6..7]);
    let cut = tokenizer.encode_pair("ab ab ab", "c", Some(7)).unwrap();
    assert_eq!(cut.ids, [0, 7, 8, 1, 1, 5, 1]);
    assert_eq!(cut.parts, [1..3, 5..6]);
    assert_eq!(tokenizer.encode_truncated("ab ab ab", 4).unwrap().ids, [0, 7, 8, 1]);
    assert!(matches!(tokenizer.encode_pair("a", "b", Some(3)), Err(TokenizerError::MaxLength { special: 4, .. })));
    let mut ids = vec![9];
    tokenizer.append_ids("abc", &mut ids).unwrap();
    assert_eq!(ids, [9, 7, 5]);

    let again = tempfile::tempdir().unwrap();
    tokenizer.save(again.path()).unwrap();
    assert_eq!(std::fs::read_to_string(again.path().join("tokenizer.json")).unwrap(), text);
}

#[test]
fn wordpiece_with_anything_unusual_goes_through_the_library() {
    let (folder, _) = saved(WordPieceOptions::default());
    let plain = json_of(folder.path(), "tokenizer.json");
    type Change = (&'static str, fn(&mut Value));
    let changes: [Change; 8] = [
        ("another prefix", |j| j["model"]["continuing_subword_prefix"] = json!("@@")),
        ("no decoder", |j| j["decoder"] = Value::Null),
        ("a gap in the ids", |j| j["model"]["vocab"]["sea"] = json!(77)),
        ("a normalized added token", |j| j["added_tokens"][4]["normalized"] = json!(true)),
        ("a stripping added token", |j| j["added_tokens"][4]["lstrip"] = json!(true)),
        ("another normalizer", |j| j["normalizer"] = json!({"type": "Lowercase"})),
        ("no specials before", |j| {
            j["post_processor"]["single"].as_array_mut().unwrap().remove(0);
        }),
        ("segment 1 throughout", |j| j["post_processor"]["single"][1]["Sequence"]["type_id"] = json!(1)),
    ];
    for (what, change) in changes {
        let mut json = plain.clone();
        change(&mut json);
        write(folder.path(), "tokenizer.json", json.to_string());
        let tokenizer = Tokenizer::load(folder.path()).unwrap();
        assert!(tokenizer.wordpiece().is_none(), "{what}");
        let library: tokenizers::Tokenizer = json.to_string().parse().unwrap();
        let text = "The unaffable sea [MASK]";
        let expected = library.encode(text, true).unwrap();
        assert_eq!(tokenizer.encode(text, true).unwrap().ids, expected.get_ids(), "{what}");
    }
    let mut json = plain;
    json["post_processor"] = json!({"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]});
    write(folder.path(), "tokenizer.json", json.to_string());
    assert!(Tokenizer::load(folder.path()).unwrap().wordpiece().is_some());
}

#[test]
fn broken_json_files_are_errors_that_name_the_place() {
    let (folder, _) = saved(WordPieceOptions::default());
    let plain = json_of(folder.path(), "tokenizer.json");
    let foreign = byte_level();
    let text = plain.to_string();
    let changed = |base: &Value, change: fn(&mut Value)| {
        let mut json = base.clone();
        change(&mut json);
        json.to_string().into_bytes()
    };
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", Vec::new(), "tokenizer.json:1:0"),
        ("cut off", text.as_bytes()[..text.len() / 2].to_vec(), "JSON"),
        ("a storage pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n".to_vec(), "tokenizer.json:1:1"),
        ("not UTF-8", b"{\"model\": {\n\"a\": \"\xff\"}}".to_vec(), "tokenizer.json:2"),
        ("an array", b"[1, 2]".to_vec(), "the file: expected an object"),
        ("a number", b"7".to_vec(), "the file"),
        ("no model", b"{}".to_vec(), "model: expected an object, found nothing"),
        ("a model that is text", b"{\"model\": \"BERT\"}".to_vec(), "model"),
        ("deep nesting", [b"[".repeat(100_000), b"]".repeat(100_000)].concat(), "JSON"),
        ("an unknown version", changed(&plain, |j| j["version"] = json!("9.9")), "version"),
        ("no vocab", changed(&plain, |j| j["model"]["vocab"] = Value::Null), "model.vocab"),
        ("an empty vocab", changed(&plain, |j| j["model"]["vocab"] = json!({})), "empty"),
        ("an id that is text", changed(&plain, |j| j["model"]["vocab"]["sea"] = json!("9")), "model.vocab[\"sea\"]"),
        ("a negative id", changed(&plain, |j| j["model"]["vocab"]["sea"] = json!(-1)), "model.vocab[\"sea\"]"),
        ("a huge id", changed(&plain, |j| j["model"]["vocab"]["sea"] = json!(1u64 << 40)), "model.vocab[\"sea\"]"),
        ("an id twice", changed(&plain, |j| j["model"]["vocab"]["sea"] = json!(8)), "an id of its own"),
        ("no unknown token", changed(&plain, |j| j["model"]["unk_token"] = json!("[NO]")), "[NO]"),
        ("an unknown token that is a number", changed(&plain, |j| j["model"]["unk_token"] = json!(1)), "model.unk_token"),
        ("a word limit that is text", changed(&plain, |j| j["model"]["max_input_chars_per_word"] = json!("x")), "max_input_chars_per_word"),
        ("a flag that is a number", changed(&plain, |j| j["normalizer"]["lowercase"] = json!(1)), "normalizer.lowercase"),
        ("accents that are text", changed(&plain, |j| j["normalizer"]["strip_accents"] = json!("no")), "strip_accents"),
        ("cleanup missing", changed(&plain, |j| j["decoder"]["cleanup"] = Value::Null), "decoder.cleanup"),
        ("added tokens as an object", changed(&plain, |j| j["added_tokens"] = json!({})), "added_tokens"),
        ("an added token without id", changed(&plain, |j| j["added_tokens"][2]["id"] = Value::Null), "added_tokens[2].id"),
        ("an added token that is text", changed(&plain, |j| j["added_tokens"][1] = json!("[UNK]")), "added_tokens[1]"),
        ("a processor without tokens", changed(&plain, |j| j["post_processor"] = json!({"type": "BertProcessing"})), "post_processor.sep"),
        (
            "a model of no kind",
            changed(&foreign, |j| j["model"]["type"] = json!("Magic")),
            "model.type: expected WordPiece, BPE, Unigram, WordLevel, found \"Magic\"",
        ),
        ("merges of unknown pieces", changed(&foreign, |j| j["model"]["merges"] = json!([["q", "z"]])), "not a tokenizer"),
        ("merges of one part", changed(&foreign, |j| j["model"]["merges"] = json!(["ab"])), "not a tokenizer"),
        (
            "a table of replacements that claims four gigabytes",
            changed(&foreign, |j| {
                j["normalizer"] = json!({"type": "Sequence", "normalizers": [{"type": "Precompiled", "precompiled_charsmap": "/////w=="}]})
            }),
            "precompiled_charsmap",
        ),
        ("a pre-tokenizer of no kind", changed(&foreign, |j| j["pre_tokenizer"] = json!({"type": "Nothing"})), "not a tokenizer"),
        (
            "a broken pattern",
            changed(&foreign, |j| {
                j["pre_tokenizer"] = json!({"type": "Split",
            "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": false})
            }),
            "not a tokenizer",
        ),
    ];
    for (what, bytes, place) in cases {
        write(folder.path(), "tokenizer.json", &bytes);
        match Tokenizer::load(folder.path()) {
            Ok(_) => panic!("{what}: was read"),
            Err(error) => {
                let message = error.to_string();
                assert!(message.contains("tokenizer.json"), "{what}: {message}");
                assert!(message.contains(place), "{what}: {message}");
            }
        }
    }
}

#[test]
fn broken_vocabularies_and_configs_are_errors_that_name_the_place() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(Tokenizer::load(folder.path()), Err(TokenizerError::NoTokenizer { .. })));
    assert!(matches!(Tokenizer::load(folder.path().join("no.json")), Err(TokenizerError::Read { .. })));
    let vocabularies: [(&[u8], &str); 8] = [
        (b"", "is empty"),
        (b"\n\n\n", "is empty"),
        (b"[PAD]\n\n[UNK]\n", "vocab.txt:2"),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nsea\nsea\n", "vocab.txt:7: repeats \"sea\" of line 6"),
        (b"[PAD]\n[UNK]\n\xc3\x28\n", "vocab.txt:3"),
        (b"[PAD]\n[CLS]\n[SEP]\n", "[UNK]"),
        (b"[PAD]\n[UNK]\n[SEP]\n", "[CLS]"),
        (b"[PAD]\n[UNK]\n[CLS]\n", "[SEP]"),
    ];
    for (bytes, place) in vocabularies {
        write(folder.path(), "vocab.txt", bytes);
        let message = Tokenizer::load(folder.path()).unwrap_err().to_string();
        assert!(message.contains("vocab.txt") && message.contains(place), "{message}");
    }
    write(folder.path(), "vocab.txt", small().join("\n"));
    let configs = [
        ("[]", "the file"),
        ("{", "tokenizer_config.json:1"),
        (r#"{"do_lower_case": "yes"}"#, "do_lower_case: expected true or false, found \"yes\""),
        (r#"{"model_max_length": "long"}"#, "model_max_length"),
        (r#"{"mask_token": 4}"#, "mask_token"),
        (r#"{"unk_token": "<unk>"}"#, "<unk>"),
    ];
    for (text, place) in configs {
        write(folder.path(), "tokenizer_config.json", text);
        let message = Tokenizer::load(folder.path()).unwrap_err().to_string();
        assert!(message.contains(place), "{message}");
    }
}

/// A vocabulary alone: whatever stands in a file called vocab.txt is one, or is refused with its line.
#[test]
fn broken_vocabularies_name_the_line() {
    let start = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n";
    let many: String = (0..300).map(|i| format!("w{i}\n")).collect();
    let long = "x".repeat(2 << 20);
    let with = |rest: &str| format!("{start}{rest}").into_bytes();
    let bytes = |rest: &[u8]| [start.as_bytes(), rest].concat();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"".to_vec(), "is empty"),
        (b"\n".to_vec(), "is empty"),
        (b"\r\n\r\n".to_vec(), "is empty"),
        (b"\xef\xbb\xbf".to_vec(), "is empty"),
        (with("\nsea\n"), "vocab.txt:6"),
        (with("sea\n\nice\n"), "vocab.txt:7"),
        (with("sea\n\r\nice\n"), "vocab.txt:7"),
        (with("sea\nsea\n"), "vocab.txt:7: repeats \"sea\" of line 6"),
        (with("sea\nice\nsea\n"), "vocab.txt:8: repeats \"sea\" of line 6"),
        (with("[UNK]\n"), "vocab.txt:6: repeats \"[UNK]\" of line 2"),
        (with("##a\na\n##a\n"), "vocab.txt:8: repeats \"##a\" of line 6"),
        (with(&format!("{many}w7\n")), "vocab.txt:306: repeats \"w7\" of line 13"),
        (bytes(b"\xff\n"), "vocab.txt:6"),
        (bytes(b"sea\n\xc3\x28\n"), "vocab.txt:7"),
        (bytes(b"sea\n\xe4\xb8\n"), "vocab.txt:7"),
        (bytes(b"\xf0\x9f\x98"), "vocab.txt:6"),
        (bytes(b"\xed\xa0\x80\n"), "vocab.txt:6"),
        (b"\xff\xfe[\0P\0A\0D\0]\0\n\0".to_vec(), "vocab.txt:1"),
        (b"[PAD]\n[CLS]\n[SEP]\n[MASK]\n".to_vec(), "[UNK]"),
        (b"[PAD]\n[UNK]\n[SEP]\n[MASK]\n".to_vec(), "[CLS]"),
        (b"[PAD]\n[UNK]\n[CLS]\n[MASK]\n".to_vec(), "[SEP]"),
        (b"<unk>\n<s>\n</s>\nsea\n".to_vec(), "[UNK]"),
        (b"[pad]\n[unk]\n[cls]\n[sep]\n".to_vec(), "[UNK]"),
        (b"[UNK] 0\n[CLS] 1\n[SEP] 2\n".to_vec(), "[UNK]"),
        (b"0\t[UNK]\n1\t[CLS]\n2\t[SEP]\n".to_vec(), "[UNK]"),
        (b"{\"[UNK]\": 0, \"[CLS]\": 1}".to_vec(), "[UNK]"),
        (b"[UNK],[CLS],[SEP]\n".to_vec(), "[UNK]"),
        (b"[UNK]\r[CLS]\r[SEP]\r".to_vec(), "[UNK]"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n".to_vec(), "[UNK]"),
        (b"<!doctype html>\n<html>\n".to_vec(), "[UNK]"),
        (b"PK\x03\x04\x14\0\0\0\x08\0".to_vec(), "[UNK]"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\x03".to_vec(), "vocab.txt:1"),
        (b"\0\0\0\0".to_vec(), "[UNK]"),
        (long.clone().into_bytes(), "[UNK]"),
    ];
    assert!(cases.len() >= 30);
    for (bytes, said) in cases {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "vocab.txt", &bytes);
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
        let error = Tokenizer::load(folder.path()).err().map_or_else(|| "it loaded".into(), |e| e.to_string());
        assert!(error.contains("vocab.txt") && error.contains(said), "{shown:?}: \"{said}\" is not said in: {error}");
        assert!(error.len() < 1000, "an error is no copy of the file: {} characters", error.len());
    }
}

#[test]
fn bytes_changed_at_random_never_panic() {
    let (folder, _) = saved(WordPieceOptions::default());
    let mut state = 7u64;
    let mut random = |n: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % n
    };
    for base in [std::fs::read(folder.path().join("tokenizer.json")).unwrap(), byte_level().to_string().into_bytes()] {
        for _ in 0..400 {
            let mut bytes = base.clone();
            for _ in 0..1 + random(3) {
                let at = random(bytes.len());
                match random(3) {
                    0 => bytes[at] = b"0{}[]\",:-9\xff"[random(11)],
                    1 => drop(bytes.remove(at)),
                    _ => bytes.truncate(at.max(1)),
                }
            }
            write(folder.path(), "tokenizer.json", &bytes);
            if let Ok(tokenizer) = Tokenizer::load(folder.path()) {
                let _ = tokenizer.encode("The sea é 中 ab", true);
            }
        }
    }
}

#[test]
fn the_whole_vocabulary_survives_a_round_trip() {
    let tokenizer = Tokenizer::from_pieces(pieces(), WordPieceOptions::default()).unwrap();
    for id in 0..tokenizer.vocab_size() as u32 {
        assert_eq!(tokenizer.token_to_id(&tokenizer.id_to_token(id).unwrap()), Some(id));
    }
}

#[test]
fn gpt2_files_of_the_real_world() {
    let Some(data) = data() else { return };
    let vocab: Value = serde_json::from_slice(&unpack(&data.join("vocab/gpt2.encoder.json.zst"))).unwrap();
    let merges = String::from_utf8(unpack(&data.join("vocab/gpt2.vocab.bpe.zst"))).unwrap();
    let merges: Vec<&str> = merges.lines().filter(|line| !line.starts_with("#version")).collect();
    let mut json = byte_level();
    json["model"]["vocab"] = vocab;
    json["model"]["merges"] = json!(merges);
    json["added_tokens"] = json!([]);
    json["post_processor"] = Value::Null;
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "tokenizer.json", json.to_string());
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    assert_eq!(tokenizer.vocab_size(), 50257);
    assert_eq!(tokenizer.encode("Hello world", true).unwrap().ids, [15496, 995]);
}
