//! `/attention` and `/ablation`: a look inside the model, for the playground and for people who learn.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use cloze::attention::{Attention, HeadPlace};
use cloze::task::{Context, Options, Task};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;

use crate::app::{App, Parsed};
use crate::error::ApiError;
use crate::models::Served;
use crate::response;
use crate::tokenizing::Caller;
use crate::work::Work;

/// A text or a pair, and the head that is shown step by step.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AttentionRequest {
    inputs: OneOrTwo,
    #[serde(default)]
    layer: usize,
    #[serde(default)]
    head: usize,
    /// Heads that are off, as `[layer, head]`.
    #[serde(default)]
    ablate: Vec<HeadPlace>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrTwo {
    One(String),
    Two([String; 2]),
}

/// Tokens of the longest text that is shown: the weights of all heads grow with its square.
const LONGEST: usize = 64;

pub(crate) async fn attention(State(app): State<Arc<App>>, request: Parsed<AttentionRequest>) -> Result<Response, ApiError> {
    let Parsed { value, served, begin } = request;
    let mut work = Work::begin(&app, served, begin, 1, false)?;
    let (first, second) = match value.inputs {
        OneOrTwo::One(text) => (text, None),
        OneOrTwo::Two([first, second]) => (first, Some(second)),
    };
    if first.is_empty() {
        return Err(ApiError::Empty { field: "inputs" });
    }
    let engine = Arc::clone(&work.served.engine);
    let characters = first.chars().count();
    let encode = move |served: &Served, _: &Caller<'_>| {
        let tokenizer = &served.engine.context().tokenizer;
        let encoding = match second {
            None => tokenizer.encode(&first, true),
            Some(second) => tokenizer.encode_pair(&first, &second, None),
        };
        encoding.map_err(super::text::tokenizer)
    };
    let encoding = work.tokenize(characters, encode).await?;
    let limit = LONGEST.min(engine.context().max_length);
    if encoding.len() > limit {
        return Err(ApiError::TooLong { found: encoding.len(), limit });
    }
    let off = known(&served_heads(&work.served), value.ablate)?;
    let turn = turn(&app, &work).await?;
    let look = move || {
        let _turn = turn;
        let seen = engine.attention(&encoding, &off)?.map_err(|e| ApiError::Backend { problem: e.to_string() });
        Some(seen.and_then(|seen| drawn(&seen, value.layer, value.head)))
    };
    let seen = tokio::task::spawn_blocking(look).await.map_err(|e| ApiError::Backend { problem: e.to_string() })?;
    let remedy = "its attention cannot be looked at";
    let unseen = || ApiError::NotServed { model: work.served.name.clone(), wants: "attention that is shown", remedy };
    let drawn = seen.ok_or_else(unseen)??;
    work.written(drawn)
}

/// The answer of `/attention` as it is written. The weights of all heads are many numbers: the event loop does not wait for them.
fn drawn(seen: &Attention, layer: usize, head: usize) -> Result<Vec<u8>, ApiError> {
    let steps = seen.head(layer, head).ok_or_else(|| {
        let problem = format!("there is no head {head} in layer {layer}; there are {} layers of {} heads", seen.layers(), seen.heads(0));
        ApiError::Invalid { field: "head", problem }
    })?;
    let steps = serde_json::to_value(&steps).map_err(|e| ApiError::Backend { problem: e.to_string() })?;
    // Four digits are what a picture shows.
    response::bytes(&json!({"tokens": seen.tokens, "weights": rounded(json!(seen.weights()), 1e4), "steps": rounded(steps, 1e6)}))
}

/// A turn to look inside. One at a time: it computes beside the batches of everybody else.
async fn turn(app: &App, work: &Work) -> Result<OwnedSemaphorePermit, ApiError> {
    let turn = tokio::time::timeout(work.time_left(), Arc::clone(&app.inspecting).acquire_owned()).await;
    let busy = ApiError::Overloaded { full: "other looks inside take their time" };
    turn.map_err(|_| busy.clone())?.map_err(|_| busy)
}

/// Layers and heads of a layer.
fn served_heads(served: &Served) -> [usize; 2] {
    [served.engine.card().layers, served.engine.card().heads]
}

/// Heads that the model has, each once.
fn known([layers, heads]: &[usize; 2], mut off: Vec<HeadPlace>) -> Result<Vec<HeadPlace>, ApiError> {
    if let Some(place) = off.iter().find(|p| p.layer >= *layers || p.head >= *heads) {
        let problem = format!("there is no head {place}; there are {layers} layers of {heads} heads, both counted from 0");
        return Err(ApiError::Invalid { field: "ablate", problem });
    }
    off.sort();
    off.dedup();
    Ok(off)
}

/// A text, a pair, or an object with the values of a task; and the heads that are off.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AblationRequest {
    inputs: Value,
    /// The task whose answer is looked at; by default one that suits a plain text.
    #[serde(default)]
    task: Option<String>,
    #[serde(default)]
    ablate: Vec<HeadPlace>,
    /// Whether each head is tried alone.
    #[serde(default)]
    each: bool,
}

/// Tokens that one request may have computed: those of its input, once for each try.
const MOST_TOKENS: usize = 200_000;

/// What the model's answer is with all heads and without some.
pub(crate) async fn ablation(State(app): State<Arc<App>>, request: Parsed<AblationRequest>) -> Result<Response, ApiError> {
    let Parsed { value, served, begin } = request;
    let work = Work::begin(&app, served, begin, 1, false)?;
    let engine = Arc::clone(&work.served.engine);
    let off = known(&served_heads(&work.served), value.ablate)?;
    let input = match value.inputs {
        Value::String(text) if text.is_empty() => return Err(ApiError::Empty { field: "inputs" }),
        Value::Array(pair) if pair.len() == 2 => json!({"text": pair[0], "pair": pair[1]}),
        other => other,
    };
    let remedy = "its heads cannot be switched off";
    let unseen = || ApiError::NotServed { model: work.served.name.clone(), wants: "answer that heads could change", remedy };
    let task: &'static dyn Task = match &value.task {
        Some(name) => cloze::task::require(name).map_err(|e| ApiError::Task { problem: e.to_string() })?,
        None => engine.ablation_task(input.as_str().unwrap_or_default()).ok_or_else(unseen)?,
    };
    super::tasks::known(task, &input)?;
    if !engine.serves(task) {
        return Err(unseen());
    }
    let tries = if value.each { served_heads(&work.served).iter().product::<usize>() } else { 0 } + 2;
    let turn = turn(&app, &work).await?;
    let look = move || {
        let _turn = turn;
        let tokens = tokens(task, engine.context(), &input)?;
        if tokens > LONGEST * LONGEST || tokens * tries > MOST_TOKENS {
            let problem = format!(
                "{tries} tries of {tokens} tokens are too much for a server; give a shorter text, or use `cloze attention --ablate`"
            );
            return Err(ApiError::Invalid { field: "inputs", problem });
        }
        Ok(engine.ablation(task, &input, &off, value.each))
    };
    let found = tokio::task::spawn_blocking(look).await.map_err(|e| ApiError::Backend { problem: e.to_string() })??;
    let found = found.ok_or_else(unseen)?.map_err(|e| ApiError::Task { problem: e.to_string() })?;
    work.answer(found).await
}

/// Tokens of the sequences that an input becomes.
fn tokens(task: &dyn Task, context: &Arc<Context>, input: &Value) -> Result<usize, ApiError> {
    let job = task.encode(context, input, &Options::default()).map_err(|e| ApiError::Task { problem: e.to_string() })?;
    Ok(job.tokens())
}

/// Every fraction rounded to 1/`places`.
fn rounded(value: Value, places: f64) -> Value {
    match value {
        Value::Array(list) => list.into_iter().map(|v| rounded(v, places)).collect(),
        Value::Object(map) => map.into_iter().map(|(k, v)| (k, rounded(v, places))).collect(),
        Value::Number(n) if n.is_f64() => json!((n.as_f64().unwrap_or(0.0) * places).round() / places),
        other => other,
    }
}
