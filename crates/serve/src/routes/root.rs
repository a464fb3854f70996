//! `POST /`: what the model is for, as text-embeddings-inference has it and as clients that know no routes ask.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{embedding, prediction};
use crate::app::{App, Parsed};
use crate::error::ApiError;

pub(crate) async fn answer(app: State<Arc<App>>, request: Parsed<Map<String, Value>>) -> Result<Response, ApiError> {
    let sentences = request.value.get("inputs").is_some_and(|inputs| inputs.get("source_sentence").is_some());
    let labels = request.served.engine.context().labels.len();
    match request.served.engine.card().classifies {
        _ if sentences => embedding::similarity(app, typed(request)?).await,
        true if labels == 1 => prediction::rerank(app, typed(request)?).await,
        true => prediction::predict(app, typed(request)?).await,
        false => embedding::embed(app, typed(request)?).await,
    }
}

fn typed<T: DeserializeOwned>(request: Parsed<Map<String, Value>>) -> Result<Parsed<T>, ApiError> {
    let value = serde_json::from_value(Value::Object(request.value)).map_err(|e| ApiError::Json { problem: e.to_string() })?;
    Ok(Parsed { value, served: request.served, begin: request.begin })
}
