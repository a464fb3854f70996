//! SentencePiece models and byte-level BPE files that are not what they should be: an error that names the file and the cause, never a panic.

use std::path::Path;

use cloze_text::Tokenizer;

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tokenizers").join(name)).unwrap()
}

/// The error of loading a folder of these files; it must name `named`.
fn error(files: &[(&str, &[u8])], named: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    let error = Tokenizer::load(folder.path()).err().map_or_else(|| "it loaded".to_owned(), |e| e.to_string());
    assert!(error.contains(named), "{named} is not named in: {error}");
    error
}

/// A message of protocol buffers: (number, bytes) with a length.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut n = bytes.len();
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    out.extend_from_slice(bytes);
    out
}

fn piece(text: &str, score: f32, kind: u8) -> Vec<u8> {
    let mut inner = field(1, text.as_bytes());
    inner.push(2 << 3 | 5);
    inner.extend(score.to_le_bytes());
    inner.extend([3 << 3, kind]);
    field(1, &inner)
}

/// A small sound model, then what `more` adds.
fn model(more: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes =
        [piece("<unk>", 0.0, 2), piece("<s>", 0.0, 3), piece("</s>", 0.0, 3), piece("▁a", -1.0, 1), piece("b", -2.0, 1)].concat();
    bytes.extend(more.concat());
    bytes
}

#[test]
fn sentencepiece_models() {
    let sound = fixture("unigram/spiece.model");
    let open = |bytes: &[u8]| error(&[("spiece.model", bytes)], "spiece.model");
    let trainer = |inner: &[u8]| open(&model(&[field(2, inner)]));
    let normalizer = |inner: &[u8]| open(&model(&[field(3, inner)]));
    let config = |text: &str, bytes: &[u8]| error(&[("spiece.model", bytes), ("tokenizer_config.json", text.as_bytes())], "");
    let mut cases = vec![
        ("0 pieces", open(b"")),
        ("", open(b"\xff")),
        ("", open(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")),
        ("", open(b"version https://git-lfs.github.com/spec/v1\n")),
        ("", open(b"<!doctype html>")),
        ("", open(b"{\"model\": {}}")),
        ("", open(b"PK\x03\x04")),
        ("", open(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f])),
        ("", open(&[0x0a, 5, 0x0a, 3, 0xff, 0xfe, 0xfd])),
        ("1 pieces", open(&piece("<unk>", 0.0, 2))),
        ("3 pieces", open(&[piece("<unk>", 0.0, 2), piece("a", 0.0, 1), piece("b", 0.0, 1)].concat())),
        ("piece 5", open(&model(&[piece("", 0.0, 1)]))),
        ("piece 5", open(&model(&[piece("x", f32::NAN, 1)]))),
        ("piece 5", open(&model(&[piece("x", f32::INFINITY, 1)]))),
        ("both", open(&model(&[piece("b", 0.0, 1)]))),
        ("both", open(&model(&[piece("<s>", 0.0, 3)]))),
        ("unknown", open(&[piece("a", 0.0, 1), piece("b", 0.0, 1), piece("c", 0.0, 1), piece("d", 0.0, 1)].concat())),
        ("kind is 3", trainer(&[3 << 3, 3])),
        ("kind is 4", trainer(&[3 << 3, 4])),
        ("kind is 77", trainer(&[3 << 3, 77])),
        ("ends of words", trainer(&[0xc0, 1, 1])),
        ("cut off", normalizer(&field(2, b"\x01\x02\x03"))),
        ("cut off", normalizer(&field(2, &[0xff; 64]))),
        ("cut off", normalizer(&field(2, &[0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4]))),
        ("cannot be read", normalizer(&field(2, &[4, 0, 0, 0, 1, 2, 3, 4, 0xff, 0xfe]))),
        ("spaces", normalizer(&[5 << 3, 0])),
        ("[CLS]", config("{\"tokenizer_class\": \"AlbertTokenizer\"}", &model(&[]))),
        ("<sep>", config("{\"tokenizer_class\": \"XLNetTokenizer\"}", &model(&[]))),
        ("tokenizer_config.json", config("{", &sound)),
        ("tokenizer_config.json", config("[]", &sound)),
        ("cls_token", config("{\"cls_token\": 3}", &sound)),
    ];
    for cut in [1, 2, 3, 7, 100, sound.len() / 2, sound.len() - 1] {
        cases.push(("", open(&sound[..cut])));
    }
    let refused = cases.iter().filter(|(_, error)| error != "it loaded").count();
    // A cut between two fields may leave a smaller sound model; anything else is refused.
    assert!(refused >= 32, "{refused} of {}: {cases:#?}", cases.len());
    for (said, error) in &cases {
        assert!(error == "it loaded" || error.contains(said), "\"{said}\" is not said in: {error}");
    }
    assert_eq!(error(&[("spiece.model", &model(&[]))], ""), "it loaded");
}

#[test]
fn byte_level_bpe_files() {
    let (vocab, merges) = (fixture("bytes/vocab.json"), fixture("bytes/merges.txt"));
    let v = |bytes: &[u8]| error(&[("vocab.json", bytes), ("merges.txt", &merges)], "vocab.json");
    let m = |bytes: &[u8]| error(&[("vocab.json", &vocab), ("merges.txt", bytes)], "merges.txt");
    let more = |name: &str, text: &str| error(&[("vocab.json", &vocab), ("merges.txt", &merges), (name, text.as_bytes())], name);
    let cases = [
        ("1:", v(b"")),
        ("1:", v(b"{")),
        ("1:", v(b"{} x")),
        ("an object", v(b"[]")),
        ("an object", v(b"null")),
        ("an object", v(b"3")),
        ("an object", v(b"\"x\"")),
        ("empty", v(b"{}")),
        ("an id", v(b"{\"a\": null}")),
        ("an id", v(b"{\"a\": \"0\"}")),
        ("an id", v(b"{\"a\": -1}")),
        ("an id", v(b"{\"a\": 1.5}")),
        ("an id", v(b"{\"a\": [0]}")),
        ("an id", v(b"{\"a\": 99999999999}")),
        ("of its own", v(b"{\"a\": 0, \"b\": 0}")),
        ("UTF-8", v(b"{\"\xff\": 0}")),
        ("1:", v(b"version https://git-lfs.github.com/spec/v1\n")),
        ("1:", v("[".repeat(5000).as_bytes())),
        (":1:", m(b"a")),
        (":1:", m(b"a b c")),
        (":2:", m(b"#version: 0.2\na")),
        (":1:", m(b"a  b")),
        ("not in vocab.json", m("t zz".as_bytes())),
        ("not in vocab.json", m("zz t".as_bytes())),
        ("not in vocab.json", m("z q".as_bytes())),
        ("UTF-8", m(b"\xff \xfe")),
        (":1:", m(b"version https://git-lfs.github.com/spec/v1\n")),
        (":1:", m(b"<!doctype html>")),
        ("1:", more("tokenizer_config.json", "{")),
        ("add_prefix_space", more("tokenizer_config.json", "{\"add_prefix_space\": \"yes\"}")),
        ("truncation_side", more("tokenizer_config.json", "{\"truncation_side\": 3}")),
        ("an object", more("added_tokens.json", "[]")),
        ("an id", more("added_tokens.json", "{\"x\": -1}")),
        ("1:", more("special_tokens_map.json", "x")),
    ];
    for (said, error) in &cases {
        assert!(error.contains(said), "\"{said}\" is not said in: {error}");
    }
    assert!(cases.len() >= 30);
    assert!(error(&[("vocab.json", &vocab)], "").contains("merges.txt"), "half of it is none");
}
