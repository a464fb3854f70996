//! `/embed`, `/embed_all`, `/similarity`: vectors of texts.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use cloze::task::{Output, Sequence, Want};
use serde::{Deserialize, Serialize, Serializer};

use super::text::{Cut, Direction, Inputs, Prompt, Text, encode_all};
use crate::app::{App, Parsed};
use crate::error::ApiError;
use crate::models::Served;
use crate::tokenizing::Caller;
use crate::work::Work;

/// Texts, and how their vectors are wanted.
#[derive(Debug, Deserialize)]
pub(crate) struct EmbedRequest {
    pub(crate) inputs: Inputs,
    /// Cut inputs that are too long; the server's setting by default.
    #[serde(default)]
    pub(crate) truncate: Option<bool>,
    #[serde(default)]
    pub(crate) truncation_direction: Direction,
    /// A prompt of the model that is put before each text.
    #[serde(default)]
    pub(crate) prompt_name: Option<String>,
    /// Bring vectors to length 1.
    #[serde(default = "yes")]
    pub(crate) normalize: bool,
    /// Cut vectors to this length, before they are brought to length 1.
    #[serde(default)]
    pub(crate) dimensions: Option<usize>,
}

/// Texts whose token vectors are wanted.
#[derive(Debug, Deserialize)]
pub(crate) struct EmbedAllRequest {
    inputs: Inputs,
    /// Cut inputs that are too long; the server's setting by default.
    #[serde(default)]
    truncate: Option<bool>,
    #[serde(default)]
    truncation_direction: Direction,
    /// A prompt of the model that is put before each text.
    #[serde(default)]
    prompt_name: Option<String>,
}

/// One sentence against others.
#[derive(Debug, Deserialize)]
pub(crate) struct SimilarityRequest {
    inputs: SimilarityInputs,
    #[serde(default)]
    parameters: SimilarityParameters,
}

/// The sentences.
#[derive(Debug, Deserialize)]
struct SimilarityInputs {
    /// The one.
    source_sentence: String,
    /// The others.
    sentences: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
struct SimilarityParameters {
    /// Cut inputs that are too long; the server's setting by default.
    #[serde(default)]
    truncate: Option<bool>,
    #[serde(default)]
    truncation_direction: Direction,
    /// A prompt of the model that is put before each text.
    #[serde(default)]
    prompt_name: Option<String>,
}

/// A vector for each input.
#[derive(Serialize)]
pub(crate) struct EmbedResponse(Vec<Vec<f32>>);

/// A vector for each token of each input.
pub(crate) struct EmbedAllResponse(Vec<Output>);

impl Serialize for EmbedAllResponse {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(Rows))
    }
}

/// The rows of an output as lists.
struct Rows<'a>(&'a Output);

impl Serialize for Rows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.rows())
    }
}

/// The cosine of each sentence's vector with the source's.
#[derive(Serialize)]
pub(crate) struct SimilarityResponse(Vec<f32>);

pub(crate) fn yes() -> bool {
    true
}

pub(crate) async fn embed(State(app): State<Arc<App>>, request: Parsed<EmbedRequest>) -> Result<Response, ApiError> {
    let Parsed { value, served, begin } = request;
    let mut work = Work::begin(&app, served, begin, value.inputs.len(), value.inputs.is_many())?;
    let shape = Shape { normalize: value.normalize, dimensions: value.dimensions };
    let cut = Cut::new(&app, value.truncate, value.truncation_direction, value.prompt_name);
    let vectors = vectors(&mut work, value.inputs.into_texts(), cut, shape).await?;
    work.answer(EmbedResponse(vectors)).await
}

pub(crate) async fn embed_all(State(app): State<Arc<App>>, request: Parsed<EmbedAllRequest>) -> Result<Response, ApiError> {
    let Parsed { value, served, begin } = request;
    let mut work = Work::begin(&app, served, begin, value.inputs.len(), value.inputs.is_many())?;
    let cut = Cut::new(&app, value.truncate, value.truncation_direction, value.prompt_name);
    let outputs = outputs(&mut work, value.inputs.into_texts(), cut, Want::Hidden).await?;
    work.answer(EmbedAllResponse(outputs)).await
}

pub(crate) async fn similarity(State(app): State<Arc<App>>, request: Parsed<SimilarityRequest>) -> Result<Response, ApiError> {
    let Parsed { value, served, begin } = request;
    let SimilarityInputs { source_sentence, sentences } = value.inputs;
    if sentences.is_empty() {
        return Err(ApiError::Empty { field: "sentences" });
    }
    let mut work = Work::begin(&app, served, begin, sentences.len(), true)?;
    let parameters = value.parameters;
    let cut = Cut::new(&app, parameters.truncate, parameters.truncation_direction, parameters.prompt_name);
    let texts = std::iter::once(source_sentence).chain(sentences).map(Text::Text).collect();
    let vectors = vectors(&mut work, texts, cut, Shape { normalize: true, dimensions: None }).await?;
    let (source, others) = vectors.split_first().ok_or(ApiError::Empty { field: "inputs" })?;
    let cosine = |v: &Vec<f32>| source.iter().zip(v).map(|(a, b)| a * b).sum();
    work.answer(SimilarityResponse(others.iter().map(cosine).collect())).await
}

/// How a vector leaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) normalize: bool,
    pub(crate) dimensions: Option<usize>,
}

impl Shape {
    /// The first components (Kusupati et al. 2022), then brought to length 1 if wanted.
    fn of(self, vector: &[f32]) -> Vec<f32> {
        let mut vector = vector[..self.dimensions.unwrap_or(vector.len()).min(vector.len())].to_vec();
        if self.normalize {
            let width = vector.len();
            cloze::model::head::pooling::normalize(&mut vector, width);
        }
        vector
    }
}

/// The vectors of texts.
pub(crate) async fn vectors(work: &mut Work, texts: Vec<Text>, cut: Cut, shape: Shape) -> Result<Vec<Vec<f32>>, ApiError> {
    let width = work.served.engine.card().embedding_size;
    if let Some(wanted) = shape.dimensions
        && !(1..=width).contains(&wanted)
    {
        let problem = format!("{wanted}; this model's vectors have {width} components, so give 1 to {width}");
        return Err(ApiError::Invalid { field: "dimensions", problem });
    }
    let outputs = outputs(work, texts, cut, Want::Embedding).await?;
    Ok(outputs.iter().map(|output| shape.of(output.values())).collect())
}

async fn outputs(work: &mut Work, texts: Vec<Text>, cut: Cut, want: Want) -> Result<Vec<Output>, ApiError> {
    let characters = texts.iter().map(Text::characters).sum();
    let encode = move |served: &Served, caller: &Caller<'_>| encode_all(served, &texts, &cut, Prompt::Default, caller);
    let encodings = work.tokenize(characters, encode).await?;
    work.run(encodings.iter().map(|e| Sequence::new(e, want.clone())).collect()).await
}
