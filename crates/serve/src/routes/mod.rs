//! The list of routes. The router, the OpenAPI description and the page that shows it derive from it.

mod documentation;
mod embedding;
mod inspection;
mod openai;
mod operation;
mod prediction;
mod text;
mod tokens;

use std::sync::Arc;

use axum::routing::{MethodRouter, get, post};

use crate::app::App;
use crate::engine::Card;

/// A route as it is served and documented.
pub(crate) struct Route {
    pub(crate) path: &'static str,
    pub(crate) method: &'static str,
    pub(crate) group: &'static str,
    pub(crate) about: &'static str,
    pub(crate) request: Option<&'static str>,
    pub(crate) response: Option<&'static str>,
    /// A request's body to try it with.
    pub(crate) sample: Option<&'static str>,
    pub(crate) handler: Box<dyn Fn() -> MethodRouter<Arc<App>>>,
}

impl Route {
    fn get(path: &'static str, group: &'static str, about: &'static str, handler: impl Fn() -> MethodRouter<Arc<App>> + 'static) -> Self {
        Self { path, method: "get", group, about, request: None, response: None, sample: None, handler: Box::new(handler) }
    }

    /// `schemas`: the names of the request's and the answer's schema.
    fn post(
        path: &'static str,
        group: &'static str,
        about: &'static str,
        schemas: [&'static str; 2],
        sample: &'static str,
        handler: impl Fn() -> MethodRouter<Arc<App>> + 'static,
    ) -> Self {
        let [request, response] = schemas;
        let route = Self::get(path, group, about, handler);
        Self { method: "post", request: Some(request), response: Some(response), sample: Some(sample), ..route }
    }

    fn answers(self, schema: &'static str) -> Self {
        Self { response: Some(schema), ..self }
    }
}

const TEI: &str = "text-embeddings-inference";
const OPENAI: &str = "OpenAI";
const INSIDE: &str = "inside";
const OPERATION: &str = "operation";

/// All routes.
pub(crate) fn all(_app: &App) -> Vec<Route> {
    vec![
        Route::post(
            "/embed",
            TEI,
            "A vector for each text",
            ["EmbedRequest", "EmbedResponse"],
            r#"{"inputs": ["The cat sat on the mat", "猫坐在垫子上"]}"#,
            || post(embedding::embed),
        ),
        Route::post(
            "/embed_all",
            TEI,
            "A vector for each token",
            ["EmbedAllRequest", "EmbedAllResponse"],
            r#"{"inputs": "The cat sat on the mat"}"#,
            || post(embedding::embed_all),
        ),
        Route::post(
            "/similarity",
            TEI,
            "How near sentences are to one",
            ["SimilarityRequest", "SimilarityResponse"],
            r#"{"inputs": {"source_sentence": "The cat sat on the mat", "sentences": ["A cat sits on a rug", "It will rain"]}}"#,
            || post(embedding::similarity),
        ),
        Route::post(
            "/predict",
            TEI,
            "Labels of texts or pairs",
            ["PredictRequest", "PredictResponse"],
            r#"{"inputs": "I like this very much"}"#,
            || post(prediction::predict),
        ),
        Route::post(
            "/rerank",
            TEI,
            "Texts in the order of their fit to a query",
            ["RerankRequest", "RerankResponse"],
            r#"{"query": "where do cats sleep", "texts": ["Cats sleep in boxes", "Rain falls"]}"#,
            || post(prediction::rerank),
        ),
        Route::post(
            "/tokenize",
            TEI,
            "Text to tokens",
            ["TokenizeRequest", "TokenizeResponse"],
            r#"{"inputs": "The cat sat on the mat"}"#,
            || post(tokens::tokenize),
        ),
        Route::post("/decode", TEI, "Tokens to text", ["DecodeRequest", "DecodeResponse"], r#"{"ids": [2, 5, 3]}"#, || {
            post(tokens::detokenize)
        }),
        Route::post(
            "/v1/embeddings",
            OPENAI,
            "A vector for each text",
            ["EmbeddingsRequest", "EmbeddingsResponse"],
            r#"{"input": "The cat sat on the mat"}"#,
            || post(openai::embeddings),
        ),
        Route::post(
            "/v1/rerank",
            OPENAI,
            "Documents in the order of their fit to a query",
            ["OrderRequest", "OrderResponse"],
            r#"{"query": "where do cats sleep", "documents": ["Cats sleep in boxes", "Rain falls"]}"#,
            || post(openai::rerank),
        ),
        Route::post(
            "/attention",
            INSIDE,
            "What every head looks at, and one head step by step",
            ["AttentionRequest", "AttentionResponse"],
            r#"{"inputs": "The cat sat on the mat", "layer": 0, "head": 0}"#,
            || post(inspection::attention),
        ),
        Route::get("/v1/models", OPENAI, "The models of this server", || get(openai::models)).answers("ModelList"),
        Route::get("/info", OPERATION, "The model and the limits", || get(operation::info)).answers("Info"),
        Route::get("/health", OPERATION, "Whether requests are welcome", || get(operation::ready)),
        Route::get("/health/ready", OPERATION, "The same: for a load balancer", || get(operation::ready)),
        Route::get("/health/live", OPERATION, "Whether the process answers: for whoever restarts it", || get(operation::live)),
        Route::get("/metrics", OPERATION, "Figures for Prometheus", || get(operation::metrics)),
        Route { method: "post", ..Route::get("/models/{name}/reload", OPERATION, "Load a model's folder anew", || post(operation::reload)) },
        Route::get("/openapi.json", OPERATION, "This description", || get(documentation::openapi)),
        Route::get("/docs", OPERATION, "This description as a page", || get(documentation::page)),
    ]
}

/// The routes that a model can answer, for /info and the page.
pub(crate) fn served_by(card: &Card) -> Vec<&'static str> {
    let mut routes = vec!["/embed", "/embed_all", "/similarity", "/tokenize", "/decode", "/v1/embeddings"];
    match card.labels.len() {
        0 => (),
        1 => routes.extend(["/predict", "/rerank", "/v1/rerank"]),
        _ => routes.push("/predict"),
    }
    routes
}
