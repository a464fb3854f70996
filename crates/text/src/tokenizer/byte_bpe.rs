//! Byte-level BPE as GPT-2 and RoBERTa saved it before there was a `tokenizer.json`: `vocab.json` (pieces and ids) and `merges.txt` (pairs, the first
//! merged first), brought to the form of a `tokenizer.json`.

use std::path::Path;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::error::TokenizerError;
use super::files::{AGAIN, TokenizerConfig, optional, parse, read_text, wrong};

/// The printable characters that GPT-2 writes bytes as: printable Latin-1 stands for itself, the other bytes for the characters from U+0100 on.
pub(crate) static BYTES: LazyLock<[char; 256]> = LazyLock::new(|| {
    let mut next = 0x100;
    std::array::from_fn(|byte| match byte as u8 {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => byte as u8 as char,
        _ => {
            next += 1;
            char::from_u32(next - 1).unwrap_or(char::REPLACEMENT_CHARACTER)
        }
    })
});

/// A byte-level piece as people write it: 我 for `æĪĳ`. Spaces stay `Ġ`; pieces that are part of a character, or hold control characters, stay as they are.
pub(super) fn readable(piece: &str) -> Option<String> {
    let bytes: Option<Vec<u8>> = piece.chars().map(|c| BYTES.iter().position(|&b| b == c).map(|byte| byte as u8)).collect();
    let text = String::from_utf8(bytes?).ok()?;
    (!text.chars().any(char::is_control)).then(|| text.replace(' ', "Ġ"))
}

/// `tokenizer.json` for these files. Names of special tokens that the files leave open are filled in.
pub(super) fn convert(vocab_path: &Path, merges_path: &Path, folder: &Path, config: &mut TokenizerConfig) -> Result<Value, TokenizerError> {
    let vocab = parse(&read_text(vocab_path)?, vocab_path)?;
    let Some(map) = vocab.as_object() else { return Err(wrong(vocab_path, "the file", "an object of pieces and ids", &vocab, AGAIN)) };
    if map.is_empty() {
        return Err(TokenizerError::EmptyVocabulary { path: vocab_path.to_path_buf() });
    }
    let mut owners = std::collections::HashMap::with_capacity(map.len());
    for (piece, id) in map {
        let number = id.as_u64().filter(|id| *id < 1 << 24).ok_or_else(|| wrong(vocab_path, piece, "an id", id, AGAIN))?;
        if let Some(other) = owners.insert(number, piece) {
            let expected = format!("an id of its own ({other:?} has it too)");
            return Err(wrong(vocab_path, piece, &expected, id, "give every piece a different id"));
        }
    }
    let merges = merges(merges_path, map)?;

    let usual = [
        ("<s>", &mut config.cls_token),
        ("</s>", &mut config.sep_token),
        ("<unk>", &mut config.unk_token),
        ("<pad>", &mut config.pad_token),
        ("<mask>", &mut config.mask_token),
    ];
    for (name, field) in usual {
        if field.is_none() && map.contains_key(name) {
            *field = Some(name.into());
        }
    }
    let raw = config.raw().cloned().unwrap_or(Value::Null);
    let path = folder.join("tokenizer_config.json");
    let prefix = optional(&raw, "add_prefix_space", "true or false", &path, Value::as_bool)?.unwrap_or(false);
    let id = |token: &Option<String>| token.as_ref().and_then(|t| Some((t.clone(), map.get(t)?.as_u64()?)));
    let mut added: Vec<(u64, String)> = Vec::new();
    for name in [&config.cls_token, &config.sep_token, &config.unk_token, &config.pad_token, &config.mask_token] {
        added.extend(id(name).map(|(token, id)| (id, token)));
    }
    if map.contains_key("<|endoftext|>") {
        added.extend(id(&Some("<|endoftext|>".into())).map(|(token, id)| (id, token)));
    }
    added.sort();
    added.dedup_by(|a, b| a.0 == b.0);
    let added: Vec<Value> = added
        .into_iter()
        .map(|(id, content)| {
            let lstrip = config.mask_token.as_ref() == Some(&content);
            json!({ "id": id, "content": content, "single_word": false, "lstrip": lstrip, "rstrip": false, "normalized": false, "special": true })
        })
        .collect();
    // RoBERTa has texts between <s> and </s>; GPT-2 has nothing around them.
    let post = match (id(&config.cls_token), id(&config.sep_token)) {
        (Some((cls, cls_id)), Some((sep, sep_id))) if cls != sep => {
            json!({ "type": "RobertaProcessing", "sep": [sep, sep_id], "cls": [cls, cls_id], "trim_offsets": true, "add_prefix_space": prefix })
        }
        _ => json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true }),
    };
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": true });
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": post,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "", "end_of_word_suffix": "",
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": merges,
        },
    }))
}

/// The pairs of merges.txt; each side and what comes out must be pieces.
fn merges(path: &Path, vocab: &Map<String, Value>) -> Result<Vec<Value>, TokenizerError> {
    let text = read_text(path)?;
    let mut merges = Vec::new();
    for (i, line) in text.lines().enumerate() {
        if (i == 0 && line.starts_with("#version")) || line.is_empty() {
            continue;
        }
        let fault = |message: String| TokenizerError::Merge { path: path.to_path_buf(), line: i + 1, message };
        let mut parts = line.split(' ');
        let (Some(left), Some(right), None) = (parts.next(), parts.next(), parts.next()) else {
            return Err(fault(format!("{:?}: expected two pieces with a space between them", line.chars().take(40).collect::<String>())));
        };
        let joined = format!("{left}{right}");
        if let Some(missing) = [left, right, joined.as_str()].into_iter().find(|piece| !vocab.contains_key(*piece)) {
            return Err(fault(format!("{missing:?} is not in vocab.json: the files do not belong together")));
        }
        merges.push(json!([left, right]));
    }
    Ok(merges)
}
