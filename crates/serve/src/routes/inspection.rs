//! `/attention`: a look inside the model, for the playground and for people who learn.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::app::{App, Parsed};
use crate::error::ApiError;
use crate::models::Served;
use crate::work::Work;

/// A text or a pair, and the head that is shown step by step.
#[derive(Debug, Deserialize)]
pub(crate) struct AttentionRequest {
    inputs: OneOrTwo,
    #[serde(default)]
    layer: usize,
    #[serde(default)]
    head: usize,
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
    let encode = move |served: &Served| {
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
    let look = tokio::task::spawn_blocking(move || engine.attention(&encoding));
    let seen = look.await.map_err(|e| ApiError::Backend { problem: e.to_string() })?;
    let remedy = "its attention cannot be looked at";
    let unseen = || ApiError::NotServed { model: work.served.name.clone(), wants: "attention that is shown", remedy };
    let seen = seen.ok_or_else(unseen)?;
    let steps = seen.head(value.layer, value.head).ok_or_else(|| {
        let problem = format!(
            "there is no head {} in layer {}; there are {} layers of {} heads",
            value.head,
            value.layer,
            seen.layers(),
            seen.heads(0)
        );
        ApiError::Invalid { field: "head", problem }
    })?;
    let steps = serde_json::to_value(&steps).map_err(|e| ApiError::Backend { problem: e.to_string() })?;
    // Four digits are what a picture shows.
    work.answer(&json!({"tokens": seen.tokens, "weights": rounded(json!(seen.weights()), 1e4), "steps": rounded(steps, 1e6)}))
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
