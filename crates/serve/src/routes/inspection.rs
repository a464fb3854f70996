//! `/attention`: a look inside the model, for the playground and for people who learn.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::app::{App, Parsed};
use crate::error::ApiError;
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
    let work = Work::begin(&app, served, begin, 1, false)?;
    let (first, second) = match value.inputs {
        OneOrTwo::One(text) => (text, None),
        OneOrTwo::Two([first, second]) => (first, Some(second)),
    };
    if first.is_empty() {
        return Err(ApiError::Empty { field: "inputs" });
    }
    let engine = Arc::clone(&work.served.engine);
    let look = move || engine.attention(&first, second.as_deref(), LONGEST);
    let gone = |e: tokio::task::JoinError| ApiError::Backend { problem: e.to_string() };
    let seen = tokio::task::spawn_blocking(look).await.map_err(gone)?;
    let seen = seen.map_err(|problem| ApiError::Invalid { field: "inputs", problem })?;
    let steps = seen.head(value.layer, value.head).ok_or_else(|| {
        let problem = format!("there is no head {} in layer {}; there are {} layers of {} heads", value.head, value.layer, seen.layers(), seen.heads(0));
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
