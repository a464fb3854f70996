//! Tokens that the other files of a folder add to its vocabulary: `added_tokens_decoder` and `additional_special_tokens` of the configs, and
//! `added_tokens.json`. A `tokenizer.json` has them in itself.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::error::TokenizerError;
use super::files::{AGAIN, CONFIG, TokenizerConfig, parse, read_text, wrong};

const ADDED: &str = "added_tokens.json";

/// A token that a folder adds to its vocabulary: its id where the file gives one, the token with its flags, where it stands.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) id: Option<u64>,
    pub(super) token: Value,
    pub(super) path: PathBuf,
    pub(super) place: String,
}

/// The tokens that a folder adds to its vocabulary, as `transformers` finds them: those of `added_tokens_decoder` in
/// `tokenizer_config.json`, or else of `added_tokens.json`; then the special tokens that have no role.
pub(super) fn found_tokens(folder: &Path, config: &TokenizerConfig) -> Result<Vec<Found>, TokenizerError> {
    let (config_path, added_path) = (folder.join(CONFIG), folder.join(ADDED));
    let number = |id: u64| Some(id).filter(|id| *id < 1 << 24);
    let mut found = Vec::new();
    if let Some(decoder) = config.raw().and_then(|raw| raw.get("added_tokens_decoder")).filter(|decoder| !decoder.is_null()) {
        let place = "added_tokens_decoder";
        let Some(tokens) = decoder.as_object() else {
            return Err(wrong(&config_path, place, "an object of ids and tokens", decoder, AGAIN));
        };
        for (id, token) in tokens {
            let place = format!("{place}[{id:?}]");
            let number = id.parse().ok().and_then(number).ok_or_else(|| wrong(&config_path, &place, "an id as its name", token, AGAIN))?;
            found.push(Found { id: Some(number), token: token.clone(), path: config_path.clone(), place });
        }
    } else if added_path.exists() {
        let tokens = parse(&read_text(&added_path)?, &added_path)?;
        let Some(tokens) = tokens.as_object() else {
            return Err(wrong(&added_path, "the file", "an object of tokens and ids", &tokens, AGAIN));
        };
        for (token, id) in tokens {
            let number = id.as_u64().and_then(number).ok_or_else(|| wrong(&added_path, token, "an id", id, AGAIN))?;
            let place = token.clone();
            found.push(Found { id: Some(number), token: json!({ "content": token, "special": false }), path: added_path.clone(), place });
        }
    }
    found.sort_by_key(|token| token.id);
    found.extend(config.additional.iter().cloned());
    Ok(found)
}

/// Puts such tokens into a `tokenizer.json` made from other files.
///
/// # Errors
/// When a token has another id than its place in the vocabulary, or behind it, gives it: a model's rows would be mixed up.
pub(super) fn add_tokens(value: &mut Value, found: Vec<Found>) -> Result<(), TokenizerError> {
    if found.is_empty() {
        return Ok(());
    }
    let mut ids: HashMap<String, u64> = match &value["model"]["vocab"] {
        Value::Object(vocab) => vocab.iter().filter_map(|(piece, id)| Some((piece.clone(), id.as_u64()?))).collect(),
        Value::Array(vocab) => vocab.iter().zip(0..).filter_map(|(piece, id)| Some((piece[0].as_str()?.to_owned(), id))).collect(),
        _ => HashMap::new(),
    };
    let mut entries = value["added_tokens"].as_array().cloned().unwrap_or_default();
    for Found { id, token, path, place } in found {
        let content = token["content"].as_str().filter(|content| !content.is_empty());
        let content = content.ok_or_else(|| wrong(&path, &place, "a token, or an object with its content", &token, AGAIN))?;
        let next = ids.len() as u64;
        let own = *ids.entry(content.to_owned()).or_insert(next);
        if let Some(id) = id.filter(|&id| id != own) {
            let expected = format!("the id {own} for {content:?}, which its place in the vocabulary or behind it gives");
            return Err(wrong(&path, &place, &expected, &id.into(), "fetch the tokenizer's files again: they do not belong together"));
        }
        let flag = |key: &str, usual: bool| token[key].as_bool().unwrap_or(usual);
        let special = flag("special", id.is_none());
        let entry = json!({
            "id": own, "content": content, "single_word": flag("single_word", false), "lstrip": flag("lstrip", false),
            "rstrip": flag("rstrip", false), "normalized": flag("normalized", !special), "special": special,
        });
        match entries.iter_mut().find(|entry| entry["content"] == content) {
            // What a file says without flags does not change a token that has a role.
            Some(known) if token.get("lstrip").is_some() => *known = entry,
            Some(_) => {}
            None => entries.push(entry),
        }
    }
    entries.sort_by_key(|entry| entry["id"].as_u64());
    value["added_tokens"] = entries.into();
    Ok(())
}
