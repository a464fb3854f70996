//! What operators ask: `/info`, `/health`, `/metrics`, and to load a model anew.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use cloze::task::{Sequence, Want};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::app::{Address, App, query};
use crate::error::ApiError;
use crate::models::Served;
use crate::response::json;

/// A model and the server's limits.
#[derive(Debug, Serialize)]
pub(crate) struct Info {
    model_id: String,
    model_sha: Option<String>,
    model_dtype: &'static str,
    /// `{"embedding": {"pooling": …}}`, `{"classifier": {"id2label": …, "label2id": …}}` or `{"reranker": {…}}`
    model_type: Value,
    max_concurrent_requests: usize,
    max_input_length: usize,
    max_batch_tokens: usize,
    max_batch_requests: Option<usize>,
    max_client_batch_size: usize,
    auto_truncate: bool,
    tokenization_workers: usize,
    version: &'static str,
    /// Routes of this server that the model answers.
    routes: Vec<String>,
    /// The token that stands where a word is to be found.
    mask_token: Option<String>,
    /// The architecture's family.
    family: String,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    parameters: usize,
    /// Names of all models of this server.
    models: Vec<String>,
    /// Sequences that wait.
    queue_size: usize,
    uptime_seconds: f64,
}

fn model_type(served: &Served) -> Value {
    let context = served.engine.context();
    if !served.engine.card().classifies {
        return json!({"embedding": {"pooling": context.settings.pooling.name()}});
    }
    let labels: Map<String, Value> = context.labels.iter().enumerate().map(|(i, l)| (i.to_string(), json!(l))).collect();
    let ids: Map<String, Value> = context.labels.iter().enumerate().map(|(i, l)| (l.clone(), json!(i))).collect();
    let kind = if labels.len() == 1 { "reranker" } else { "classifier" };
    json!({kind: {"id2label": labels, "label2id": ids}})
}

pub(crate) async fn info(State(app): State<Arc<App>>, uri: Uri) -> Result<Response, ApiError> {
    let address: Address = query(&uri)?;
    let served = app.models.get(address.model.as_deref())?;
    let (card, settings, tokenizer) = (served.engine.card(), &app.settings, &served.engine.context().tokenizer);
    let info = Info {
        model_id: served.name.clone(),
        model_sha: None,
        model_dtype: card.dtype,
        model_type: model_type(&served),
        max_concurrent_requests: settings.max_concurrent_requests,
        max_input_length: served.engine.context().max_length,
        max_batch_tokens: settings.max_batch_tokens,
        max_batch_requests: None,
        max_client_batch_size: settings.max_client_batch_size,
        auto_truncate: settings.auto_truncate,
        tokenization_workers: settings.tokenization_workers,
        version: env!("CARGO_PKG_VERSION"),
        routes: super::served_by(&served),
        mask_token: tokenizer.special().mask.and_then(|id| tokenizer.id_to_token(id)),
        family: card.family.clone(),
        hidden_size: card.hidden_size,
        num_hidden_layers: card.layers,
        num_attention_heads: card.heads,
        parameters: card.parameters,
        models: app.models.all().iter().map(|s| s.name.clone()).collect(),
        queue_size: app.queue.len(),
        uptime_seconds: app.uptime(),
    };
    Ok(json(StatusCode::OK, &info))
}

/// 200 while the process answers at all.
pub(crate) async fn live() -> Response {
    json(StatusCode::OK, &json!({"status": "live"}))
}

/// How long a model may take over the probe that says whether it is well again.
const PROBE: Duration = Duration::from_secs(5);

/// 200 when requests are welcome. After a failure one sequence is run to see whether the model is well again.
pub(crate) async fn ready(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    if app.is_draining() {
        return Err(ApiError::Unhealthy { problem: "the server is shutting down" });
    }
    if !app.health.is_well() {
        let served = app.models.get(None)?;
        let special = served.engine.context().tokenizer.special();
        let ids: Vec<u32> = [special.cls, special.sep].into_iter().flatten().collect();
        let ids = if ids.is_empty() { vec![0] } else { ids };
        let probe = Sequence { segments: vec![0; ids.len()], ids, want: Want::Hidden };
        let reply = app.queue.push(&served.engine, vec![probe])?;
        tokio::time::timeout(PROBE, reply).await.ok();
        if !app.health.is_well() {
            return Err(ApiError::Unhealthy { problem: "the compute worker failed and has not recovered" });
        }
    }
    Ok(json(StatusCode::OK, &json!({"status": "ready"})))
}

pub(crate) async fn metrics(State(app): State<Arc<App>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], app.metrics.render()).into_response()
}

/// Load a model's folder anew; requests under way are answered by the old one.
pub(crate) async fn reload(State(app): State<Arc<App>>, Path(name): Path<String>) -> Result<Response, ApiError> {
    // What is loaded is as large as the model that it replaces: one at a time, and none that waits with a thread in its hands.
    let turn = Arc::clone(&app.reloading).try_acquire_owned();
    let turn = turn.map_err(|_| ApiError::Overloaded { full: "another model is being loaded anew" })?;
    let load = move || {
        let _turn = turn;
        app.models.reload(&name)
    };
    let gone = |e: tokio::task::JoinError| ApiError::Backend { problem: e.to_string() };
    let served = tokio::task::spawn_blocking(load).await.map_err(gone)??;
    Ok(json(StatusCode::OK, &json!({"model": served.name, "created": served.created})))
}
