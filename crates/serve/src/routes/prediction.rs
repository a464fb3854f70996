//! `/predict` and `/rerank`: what a sequence classifier says of texts and pairs.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use cloze::task::Options;
use cloze::task::text_classification::{Scored, decode, sigmoid};
use cloze::task::{Output, Sequence, Want};
use serde::{Deserialize, Serialize};

use super::text::{Cut, Direction, Prompt, Text, encode_all, encode_pair};
use crate::app::{App, Parsed};
use crate::error::ApiError;
use crate::models::Served;
use crate::tokenizing::Caller;
use crate::work::Work;

/// Texts or pairs to classify.
#[derive(Debug, Deserialize)]
pub(crate) struct PredictRequest {
    inputs: PredictInputs,
    /// Cut inputs that are too long; the server's setting by default.
    #[serde(default)]
    truncate: Option<bool>,
    #[serde(default)]
    truncation_direction: Direction,
    /// Logits instead of probabilities.
    #[serde(default)]
    raw_scores: bool,
}

/// A text, a pair `[text, text]`, or a batch of `[text]` and `[text, text]`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum PredictInputs {
    Text(String),
    Pair(Vec<String>),
    Batch(Vec<Vec<String>>),
}

/// A label and its score.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Prediction {
    pub(crate) score: f32,
    pub(crate) label: String,
}

/// All labels, the likeliest first; a list of such lists for a batch.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum PredictResponse {
    One(Vec<Prediction>),
    Batch(Vec<Vec<Prediction>>),
}

/// Texts to bring into an order by a query.
#[derive(Debug, Deserialize)]
pub(crate) struct RerankRequest {
    query: String,
    texts: Vec<String>,
    /// Cut inputs that are too long; the server's setting by default.
    #[serde(default)]
    truncate: Option<bool>,
    #[serde(default)]
    truncation_direction: Direction,
    /// Logits instead of probabilities.
    #[serde(default)]
    raw_scores: bool,
    /// Give the texts back.
    #[serde(default)]
    return_text: bool,
}

/// A text's place in the request and its score.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Rank {
    pub(crate) index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<String>,
    pub(crate) score: f32,
}

/// The texts, the best first.
#[derive(Debug, Serialize)]
pub(crate) struct RerankResponse(Vec<Rank>);

pub(crate) async fn predict(State(app): State<Arc<App>>, request: Parsed<PredictRequest>) -> Result<Response, ApiError> {
    let Parsed { value, served, begin } = request;
    let (inputs, many) = match value.inputs {
        PredictInputs::Text(text) => (vec![vec![text]], false),
        PredictInputs::Pair(texts) => (vec![texts], false),
        PredictInputs::Batch(batch) => (batch, true),
    };
    if let Some(wrong) = inputs.iter().find(|texts| texts.is_empty() || texts.len() > 2) {
        let problem = format!("an input of {} texts; give a text, or a pair of texts", wrong.len());
        return Err(ApiError::Invalid { field: "inputs", problem });
    }
    if !served.engine.card().classifies {
        let remedy = "fine-tune it on labelled rows, or serve a classifier";
        return Err(ApiError::NotServed { model: served.name.clone(), wants: "sequence classifier", remedy });
    }
    let mut work = Work::begin(&app, served, begin, inputs.len(), many)?;
    let cut = Cut::new(&app, value.truncate, value.truncation_direction, None);
    let outputs = classify(&mut work, inputs, cut).await?;
    let options = Options { raw_scores: Some(value.raw_scores), ..Options::default() };
    let context = work.served.engine.context();
    let prediction = |Scored { label, score }| Prediction { score, label };
    let answer = |output: &Output| decode(context, output.values(), &options).into_iter().map(prediction).collect();
    let mut all: Vec<Vec<Prediction>> = outputs.iter().map(answer).collect();
    let response = if many { PredictResponse::Batch(all) } else { PredictResponse::One(all.pop().unwrap_or_default()) };
    work.answer(response).await
}

pub(crate) async fn rerank(State(app): State<Arc<App>>, request: Parsed<RerankRequest>) -> Result<Response, ApiError> {
    let Parsed { value, served, begin } = request;
    if value.texts.is_empty() {
        return Err(ApiError::Empty { field: "texts" });
    }
    let mut work = Work::begin(&app, served, begin, value.texts.len(), true)?;
    let cut = Cut::new(&app, value.truncate, value.truncation_direction, None);
    let mut ranks = ranks(&mut work, &value.query, &value.texts, cut, value.raw_scores).await?;
    if value.return_text {
        ranks.iter_mut().for_each(|rank| rank.text = Some(value.texts[rank.index].clone()));
    }
    work.answer(RerankResponse(ranks)).await
}

/// Texts in the order of their scores with a query, the best first; equals stay in their order.
pub(crate) async fn ranks(work: &mut Work, query: &str, texts: &[String], cut: Cut, raw_scores: bool) -> Result<Vec<Rank>, ApiError> {
    if !work.served.engine.card().classifies || work.served.engine.context().labels.len() != 1 {
        let remedy = "a re-ranker is a sequence classifier with one label";
        return Err(ApiError::NotServed { model: work.served.name.clone(), wants: "re-ranking head", remedy });
    }
    let pairs = texts.iter().map(|text| vec![query.to_owned(), text.clone()]).collect();
    let outputs = classify(work, pairs, cut).await?;
    let score = |output: &Output| output.values().first().map_or(0.0, |&x| if raw_scores { x } else { sigmoid(x) });
    let mut ranks: Vec<Rank> = outputs.iter().enumerate().map(|(index, output)| Rank { index, text: None, score: score(output) }).collect();
    ranks.sort_by(|a, b| b.score.total_cmp(&a.score));
    Ok(ranks)
}

/// The classifier's logits of texts and pairs.
async fn classify(work: &mut Work, inputs: Vec<Vec<String>>, cut: Cut) -> Result<Vec<Output>, ApiError> {
    let characters = inputs.iter().flatten().map(|text| text.chars().count()).sum();
    let encode = move |served: &Served, caller: &Caller<'_>| {
        if inputs.is_empty() {
            return Err(ApiError::Empty { field: "inputs" });
        }
        let one = |texts: Vec<String>| {
            caller.waits()?;
            match <[String; 2]>::try_from(texts) {
                Ok([first, second]) => encode_pair(served, &first, &second, &cut),
                Err(texts) => {
                    let texts: Vec<Text> = texts.into_iter().map(Text::Text).collect();
                    encode_all(served, &texts, &cut, Prompt::None, caller)?.pop().ok_or(ApiError::Empty { field: "inputs" })
                }
            }
        };
        inputs.into_iter().map(one).collect::<Result<Vec<_>, _>>()
    };
    let encodings = work.tokenize(characters, encode).await?;
    work.run(encodings.iter().map(|e| Sequence::new(e, Want::Labels)).collect()).await
}
