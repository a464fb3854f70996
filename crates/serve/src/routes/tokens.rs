//! `/tokenize` and `/decode`: text to tokens and back.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::embedding::yes;
use super::text::{decode, tokenizer};
use crate::app::{App, Parsed};
use crate::error::ApiError;
use crate::models::Served;
use crate::tokenizing::Caller;
use crate::work::Work;

/// Texts to cut into tokens.
#[derive(Debug, Deserialize)]
pub(crate) struct TokenizeRequest {
    inputs: Strings,
    /// With the tokens that stand around a text.
    #[serde(default = "yes")]
    add_special_tokens: bool,
}

/// A text or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Strings {
    One(String),
    Many(Vec<String>),
}

/// A token. Offsets are in characters of the input; special tokens have none.
#[derive(Debug, Serialize)]
pub(crate) struct Token {
    id: u32,
    /// What it covers of the input; of special tokens the token itself.
    text: String,
    special: bool,
    start: Option<u32>,
    stop: Option<u32>,
}

/// The tokens of each text.
#[derive(Debug, Serialize)]
pub(crate) struct TokenizeResponse(Vec<Vec<Token>>);

/// Token ids of one text or of several.
#[derive(Debug, Deserialize)]
pub(crate) struct DecodeRequest {
    ids: IdLists,
    /// Leave special tokens out.
    #[serde(default = "yes")]
    skip_special_tokens: bool,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum IdLists {
    One(Vec<u32>),
    Many(Vec<Vec<u32>>),
}

/// The texts.
#[derive(Debug, Serialize)]
pub(crate) struct DecodeResponse(Vec<String>);

pub(crate) async fn tokenize(State(app): State<Arc<App>>, request: Parsed<TokenizeRequest>) -> Result<Response, ApiError> {
    let Parsed { value, served, begin } = request;
    let (texts, many) = match value.inputs {
        Strings::One(text) => (vec![text], false),
        Strings::Many(texts) => (texts, true),
    };
    if texts.is_empty() {
        return Err(ApiError::Empty { field: "inputs" });
    }
    let mut work = Work::begin(&app, served, begin, texts.len(), many)?;
    let characters = texts.iter().map(|text| text.chars().count()).sum();
    let add = value.add_special_tokens;
    let cut = move |served: &Served, caller: &Caller<'_>| {
        texts.iter().map(|text| caller.waits().and_then(|()| tokens(served, text, add))).collect::<Result<Vec<_>, _>>()
    };
    let answer = work.tokenize(characters, cut).await?;
    work.answer(TokenizeResponse(answer)).await
}

fn tokens(served: &Served, text: &str, add_special_tokens: bool) -> Result<Vec<Token>, ApiError> {
    let vocabulary = &served.engine.context().tokenizer;
    let encoding = vocabulary.encode(text, add_special_tokens).map_err(tokenizer)?;
    let characters = encoding.char_offsets(text);
    let token = |t: usize| {
        let (special, id) = (encoding.special[t], encoding.ids[t]);
        let (start, end) = encoding.offsets[t];
        let covered = text.get(start as usize..end as usize).unwrap_or_default();
        let text = if special { vocabulary.id_to_token(id).unwrap_or_default() } else { covered.to_owned() };
        let offset = |character: u32| (!special).then_some(character);
        Token { id, text, special, start: offset(characters[t].0), stop: offset(characters[t].1) }
    };
    Ok((0..encoding.len()).map(token).collect())
}

pub(crate) async fn detokenize(State(app): State<Arc<App>>, request: Parsed<DecodeRequest>) -> Result<Response, ApiError> {
    let Parsed { value, served, begin } = request;
    let (lists, many) = match value.ids {
        IdLists::One(ids) => (vec![ids], false),
        IdLists::Many(lists) => (lists, true),
    };
    if lists.is_empty() {
        return Err(ApiError::Empty { field: "ids" });
    }
    let mut work = Work::begin(&app, served, begin, lists.len(), many)?;
    let skip = value.skip_special_tokens;
    let join = move |served: &Served, caller: &Caller<'_>| {
        lists.iter().map(|ids| caller.waits().and_then(|()| decode(served, ids, skip))).collect::<Result<Vec<_>, _>>()
    };
    let texts = work.tokenize(0, join).await?;
    work.answer(DecodeResponse(texts)).await
}
