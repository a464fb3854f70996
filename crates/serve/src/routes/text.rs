//! Texts as requests carry them, and the way to tokens: prompts, cutting at either end, refusing what is too long.

use cloze::text::Encoding;
use cloze::text::tokenizer::NO_WORD;
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::error::ApiError;
use crate::models::Served;
use crate::tokenizing::Caller;

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
pub(crate) fn encode_all(
    served: &Served,
    texts: &[Text],
    cut: &Cut,
    prompt: Prompt,
    caller: &Caller<'_>,
) -> Result<Vec<Encoding>, ApiError> {
    if texts.is_empty() {
        return Err(ApiError::Empty { field: "inputs" });
    }
    let prompt = if prompt == Prompt::Default { prompt_of(served, cut.prompt.as_deref())? } else { "" };
    texts.iter().map(|text| caller.waits().and_then(|()| encode(served, text, prompt, cut))).collect()
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
    let text = match text {
        Text::Text(text) => text,
        Text::Ids(ids) => return fitting(given(served, ids, prompt)?, served.engine.context().max_length, cut),
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

/// Token ids as they are: decoding and encoding them again would lose what is not in the vocabulary. As in text-embeddings-inference
/// nothing is put around them.
fn given(served: &Served, ids: &[u32], prompt: &str) -> Result<Encoding, ApiError> {
    if ids.is_empty() {
        return Err(ApiError::Empty { field: "inputs" });
    }
    if !prompt.is_empty() {
        let problem = "a prompt goes before texts; of token ids, put its ids in the front".to_owned();
        return Err(ApiError::Invalid { field: "prompt_name", problem });
    }
    known(served, ids)?;
    let special = served.engine.context().tokenizer.special();
    let start = usize::from(special.cls.is_some_and(|cls| ids[0] == cls));
    let end = ids.len() - usize::from(ids.len() > start && special.sep.is_some_and(|sep| ids.last() == Some(&sep)));
    Ok(Encoding {
        ids: ids.to_vec(),
        offsets: vec![(0, 0); ids.len()],
        word_ids: vec![NO_WORD; ids.len()],
        special: (0..ids.len()).map(|t| !(start..end).contains(&t)).collect(),
        token_type_ids: vec![0; ids.len()],
        parts: [start..end, end..end],
    })
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
    known(served, ids)?;
    served.engine.context().tokenizer.decode(ids, skip_special).map_err(self::tokenizer)
}

/// Refuse ids that are no tokens.
fn known(served: &Served, ids: &[u32]) -> Result<(), ApiError> {
    let size = served.engine.context().tokenizer.vocab_size();
    match ids.iter().find(|&&id| id as usize >= size) {
        Some(id) => Err(ApiError::Invalid { field: "ids", problem: format!("{id} is no token; the vocabulary has {size}") }),
        None => Ok(()),
    }
}

pub(crate) fn tokenizer(error: cloze::text::TokenizerError) -> ApiError {
    ApiError::Tokenizer { problem: error.to_string() }
}
