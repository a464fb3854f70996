//! `/v1/…`: OpenAI's embeddings, the re-ranking route that its clients' users expect beside it, and the list of models.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize, Serializer};

use super::embedding::{Shape, vectors};
use super::prediction::ranks;
use super::text::{Cut, Direction, Inputs};
use crate::app::{App, Parsed};
use crate::error::ApiError;
use crate::models::Served;
use crate::response::json;
use crate::work::Work;

/// Texts whose vectors are wanted.
#[derive(Debug, Deserialize)]
pub(crate) struct EmbeddingsRequest {
    input: Inputs,
    /// A model of this server. A server with one model answers whatever name is given.
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    encoding_format: EncodingFormat,
    /// Cut vectors to this length; they have length 1 in the end.
    #[serde(default)]
    dimensions: Option<usize>,
    /// Taken for compatibility, not used.
    #[serde(default)]
    #[allow(dead_code)]
    user: Option<String>,
}

/// How vectors are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum EncodingFormat {
    /// A list of numbers.
    #[default]
    Float,
    /// Little-endian f32 in base64.
    Base64,
}

/// Vectors and what they took.
#[derive(Debug, Serialize)]
pub(crate) struct EmbeddingsResponse {
    object: &'static str,
    data: Vec<EmbeddingObject>,
    model: String,
    usage: Usage,
}

#[derive(Debug, Serialize)]
struct EmbeddingObject {
    object: &'static str,
    embedding: Vector,
    index: usize,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Vector {
    Float(Vec<f32>),
    Base64(#[serde(serialize_with = "coded")] Vec<f32>),
}

/// Little-endian f32 in base64.
fn coded<S: Serializer>(vector: &[f32], serializer: S) -> Result<S::Ok, S::Error> {
    let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
    serializer.serialize_str(&BASE64_STANDARD.encode(bytes))
}

/// Tokens that were computed.
#[derive(Debug, Serialize)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

impl Usage {
    fn of(work: &Work) -> Self {
        Self { prompt_tokens: work.times.tokens, total_tokens: work.times.tokens }
    }
}

/// Documents to bring into an order by a query.
#[derive(Debug, Deserialize)]
pub(crate) struct OrderRequest {
    query: String,
    documents: Vec<Document>,
    /// A model of this server. A server with one model answers whatever name is given.
    #[serde(default)]
    model: Option<String>,
    /// How many of the best are wanted; all by default.
    #[serde(default)]
    top_n: Option<usize>,
}

/// A text, alone or as an object.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Document {
    Plain(String),
    Object(DocumentText),
}

/// A text.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct DocumentText {
    text: String,
}

/// The documents, the best first.
#[derive(Debug, Serialize)]
pub(crate) struct OrderResponse {
    id: String,
    model: String,
    usage: Usage,
    results: Vec<OrderResult>,
}

#[derive(Debug, Serialize)]
struct OrderResult {
    index: usize,
    document: DocumentText,
    relevance_score: f32,
}

/// The models of this server.
#[derive(Debug, Serialize)]
pub(crate) struct ModelList {
    object: &'static str,
    data: Vec<ModelObject>,
}

#[derive(Debug, Serialize)]
struct ModelObject {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
}

/// The model of that name; with one model, that one: clients name models that only their maker has.
fn named(app: &App, name: Option<&str>, addressed: Arc<Served>) -> Result<Arc<Served>, ApiError> {
    match (name, app.models.get(name)) {
        (None, _) => Ok(addressed),
        (Some(_), Err(error)) => {
            if app.models.all().len() == 1 {
                Ok(addressed)
            } else {
                Err(error)
            }
        }
        (Some(_), found) => found,
    }
}

pub(crate) async fn embeddings(State(app): State<Arc<App>>, request: Parsed<EmbeddingsRequest>) -> Result<Response, ApiError> {
    let Parsed { value, served, begin } = request;
    let served = named(&app, value.model.as_deref(), served)?;
    let model = served.name.clone();
    let mut work = Work::begin(&app, served, begin, value.input.len(), value.input.is_many())?;
    let cut = Cut::new(&app, None, Direction::Right, None);
    let shape = Shape { normalize: true, dimensions: value.dimensions };
    let vectors = vectors(&mut work, value.input.into_texts(), cut, shape).await?;
    let written = |vector: Vec<f32>| match value.encoding_format {
        EncodingFormat::Float => Vector::Float(vector),
        EncodingFormat::Base64 => Vector::Base64(vector),
    };
    let object = |(index, vector)| EmbeddingObject { object: "embedding", embedding: written(vector), index };
    let data = vectors.into_iter().enumerate().map(object).collect();
    let response = EmbeddingsResponse { object: "list", data, model, usage: Usage::of(&work) };
    work.answer(response).await
}

pub(crate) async fn rerank(State(app): State<Arc<App>>, request: Parsed<OrderRequest>) -> Result<Response, ApiError> {
    let Parsed { value, served, begin } = request;
    let served = named(&app, value.model.as_deref(), served)?;
    if value.documents.is_empty() {
        return Err(ApiError::Empty { field: "documents" });
    }
    let model = served.name.clone();
    let text = |document| match document {
        Document::Plain(text) | Document::Object(DocumentText { text }) => text,
    };
    let texts: Vec<String> = value.documents.into_iter().map(text).collect();
    let mut work = Work::begin(&app, served, begin, texts.len(), true)?;
    let cut = Cut::new(&app, None, Direction::Right, None);
    let ranks = ranks(&mut work, &value.query, &texts, cut, false).await?;
    let result = |rank: &super::prediction::Rank| OrderResult {
        index: rank.index,
        document: DocumentText { text: texts[rank.index].clone() },
        relevance_score: rank.score,
    };
    let results = ranks.iter().take(value.top_n.unwrap_or(usize::MAX)).map(result).collect();
    let id = format!("rerank-{}", app.request_id());
    let response = OrderResponse { id, model, usage: Usage::of(&work), results };
    work.answer(response).await
}

pub(crate) async fn models(State(app): State<Arc<App>>) -> Response {
    let object =
        |served: &Arc<Served>| ModelObject { id: served.name.clone(), object: "model", created: served.created, owned_by: "cloze" };
    json(StatusCode::OK, &ModelList { object: "list", data: app.models.all().iter().map(object).collect() })
}
