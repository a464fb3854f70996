//! Texts as requests carry them, and the way to tokens: prompts, cutting at either end, refusing what is too long.

use cloze::text::Encoding;
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::error::ApiError;
use crate::models::Served;

/// One input or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Inputs {
    One(Text),
    Many(Vec<Text>),
}

/// A text, or the token ids of one.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Text {
    Text(String),
    Ids(Vec<u32>),
}

impl Inputs {
    pub(crate) fn len(&self) -> usize {
        match self {
            Inputs::One(_) => 1,
            Inputs::Many(texts) => texts.len(),
        }
    }

    pub(crate) fn is_many(&self) -> bool {
        // An empty list says nothing of what it is a list of.
        matches!(self, Inputs::Many(_)) || matches!(self, Inputs::One(Text::Ids(ids)) if ids.is_empty())
    }

    pub(crate) fn into_texts(self) -> Vec<Text> {
        match self {
            Inputs::One(text) => vec![text],
            Inputs::Many(texts) => texts,
        }
    }
}

impl Text {
    pub(crate) fn characters(&self) -> usize {
        match self {
            Text::Text(text) => text.chars().count(),
            Text::Ids(_) => 0,
        }
    }
}

/// Which end of a text is cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) enum Direction {
    /// Its beginning.
    #[serde(alias = "left")]
    Left,
    /// Its end.
    #[default]
    #[serde(alias = "right")]
    Right,
}

/// How texts become tokens.
#[derive(Clone, Debug)]
pub(crate) struct Cut {
    truncate: bool,
    direction: Direction,
    prompt: Option<String>,
}

impl Cut {
    pub(crate) fn new(app: &App, truncate: Option<bool>, direction: Direction, prompt: Option<String>) -> Self {
        Self { truncate: truncate.unwrap_or(app.settings.auto_truncate), direction, prompt }
    }
}

/// What is put before a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prompt {
    /// The prompt that the request names, else the model's own.
    Default,
    /// Nothing.
    None,
}

/// Tokens of texts; fails when there is none, or one is empty.
pub(crate) fn encode_all(served: &Served, texts: &[Text], cut: &Cut, prompt: Prompt) -> Result<Vec<Encoding>, ApiError> {
    if texts.is_empty() {
        return Err(ApiError::Empty { field: "inputs" });
    }
    let prompt = if prompt == Prompt::Default { prompt_of(served, cut.prompt.as_deref())? } else { "" };
    texts.iter().map(|text| encode(served, text, prompt, cut)).collect()
}

fn prompt_of<'s>(served: &'s Served, name: Option<&str>) -> Result<&'s str, ApiError> {
    let card = served.engine.card();
    let Some(name) = name else { return Ok(&served.engine.context().settings.default_prefix) };
    card.prompts.get(name).map(String::as_str).ok_or_else(|| {
        let known: Vec<&str> = card.prompts.keys().map(String::as_str).collect();
        let known = if known.is_empty() { "the model has none".to_owned() } else { format!("the model has {}", known.join(", ")) };
        ApiError::Invalid { field: "prompt_name", problem: format!("there is no prompt \"{name}\"; {known}") }
    })
}

fn encode(served: &Served, text: &Text, prompt: &str, cut: &Cut) -> Result<Encoding, ApiError> {
    let decoded;
    let text = match text {
        Text::Text(text) => text,
        Text::Ids(ids) => {
            decoded = self::decode(served, ids, true)?;
            &decoded
        }
    };
    if text.is_empty() {
        return Err(ApiError::Empty { field: "inputs" });
    }
    let prompted;
    let text = if prompt.is_empty() {
        text
    } else {
        prompted = format!("{prompt}{text}");
        &prompted
    };
    let encoding = served.engine.context().tokenizer.encode(text, true).map_err(tokenizer)?;
    fitting(encoding, served.engine.context().max_length, cut)
}

/// Tokens of a pair; the longer text is cut first.
pub(crate) fn encode_pair(served: &Served, first: &str, second: &str, cut: &Cut) -> Result<Encoding, ApiError> {
    let limit = served.engine.context().max_length;
    let tokenizer = &served.engine.context().tokenizer;
    if cut.truncate && cut.direction == Direction::Right {
        return tokenizer.encode_pair(first, second, Some(limit)).map_err(self::tokenizer);
    }
    let encoding = tokenizer.encode_pair(first, second, None).map_err(self::tokenizer)?;
    if encoding.len() > limit && cut.truncate {
        let problem = "pairs are cut at the end of the longer text; leave it out, or say Right".to_owned();
        return Err(ApiError::Invalid { field: "truncation_direction", problem });
    }
    fitting(encoding, limit, cut)
}

/// An encoding within the limit, cut at the wanted end if it may be.
fn fitting(mut encoding: Encoding, limit: usize, cut: &Cut) -> Result<Encoding, ApiError> {
    let found = encoding.len();
    if found <= limit {
        return Ok(encoding);
    }
    if !cut.truncate {
        return Err(ApiError::TooLong { found, limit });
    }
    let text = encoding.parts[0].clone();
    let keep = limit.saturating_sub(found - text.len());
    let gone = match cut.direction {
        Direction::Right => text.start + keep..text.end,
        Direction::Left => text.start..text.end - keep,
    };
    encoding.ids.drain(gone.clone());
    encoding.offsets.drain(gone.clone());
    encoding.word_ids.drain(gone.clone());
    encoding.special.drain(gone.clone());
    encoding.token_type_ids.drain(gone);
    let end = text.start + keep;
    encoding.parts = [text.start..end, end..end];
    Ok(encoding)
}

/// The text of ids.
pub(crate) fn decode(served: &Served, ids: &[u32], skip_special: bool) -> Result<String, ApiError> {
    let tokenizer = &served.engine.context().tokenizer;
    let size = tokenizer.vocab_size();
    if let Some(id) = ids.iter().find(|&&id| id as usize >= size) {
        return Err(ApiError::Invalid { field: "ids", problem: format!("{id} is no token; the vocabulary has {size}") });
    }
    tokenizer.decode(ids, skip_special).map_err(self::tokenizer)
}

pub(crate) fn tokenizer(error: cloze::text::TokenizerError) -> ApiError {
    ApiError::Tokenizer { problem: error.to_string() }
}
