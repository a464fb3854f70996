//! The list of routes. The router, the OpenAPI description and the page that shows it derive from it.

mod documentation;
mod embedding;
mod inspection;
mod openai;
mod operation;
mod page;
mod prediction;
mod root;
mod tasks;
mod text;
mod tokens;

use std::sync::Arc;

use axum::routing::{MethodRouter, get, post};
use cloze::task::{TASKS, Task};
use serde_json::Value;

use crate::app::App;
use crate::models::Served;

/// A route as it is served and documented.
pub(crate) struct Route {
    pub(crate) path: String,
    pub(crate) method: &'static str,
    pub(crate) group: &'static str,
    pub(crate) about: &'static str,
    pub(crate) request: Option<&'static str>,
    pub(crate) response: Option<&'static str>,
    /// A request's body to try it with.
    pub(crate) sample: Option<Value>,
    pub(crate) handler: Box<dyn Fn() -> MethodRouter<Arc<App>>>,
}

impl Route {
    fn get(path: &str, group: &'static str, about: &'static str, handler: impl Fn() -> MethodRouter<Arc<App>> + 'static) -> Self {
        Self { path: path.to_owned(), method: "get", group, about, request: None, response: None, sample: None, handler: Box::new(handler) }
    }

    /// `schemas`: the names of the request's and the answer's schema.
    fn post(
        path: &str,
        group: &'static str,
        about: &'static str,
        schemas: [&'static str; 2],
        sample: &str,
        handler: impl Fn() -> MethodRouter<Arc<App>> + 'static,
    ) -> Self {
        let [request, response] = schemas;
        let route = Self::get(path, group, about, handler);
        Self { method: "post", request: Some(request), response: Some(response), sample: serde_json::from_str(sample).ok(), ..route }
    }

    fn answers(self, schema: &'static str) -> Self {
        Self { response: Some(schema), ..self }
    }
}

const TEI: &str = "text-embeddings-inference";
const OPENAI: &str = "OpenAI";
const TASK: &str = "tasks";
const INSIDE: &str = "inside";
const OPERATION: &str = "operation";

/// All routes.
pub(crate) fn all(app: &App) -> Vec<Route> {
    let mut routes = vec![
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
            "/",
            TEI,
            "What the model is for: vectors, labels or ranks",
            ["EmbedRequest", "EmbedResponse"],
            r#"{"inputs": "The cat sat on the mat"}"#,
            || post(root::answer),
        ),
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
        Route::post(
            "/ablation",
            INSIDE,
            "What the answer loses without some heads, or without each",
            ["AblationRequest", "AblationResponse"],
            r#"{"inputs": "The cat sat on the mat", "ablate": [[0, 0]], "each": false}"#,
            || post(inspection::ablation),
        ),
        Route::get("/v1/models", OPENAI, "The models of this server", || get(openai::models)).answers("ModelList"),
        Route::get("/info", OPERATION, "The model and the limits", || get(operation::info)).answers("Info"),
        Route::get("/health", OPERATION, "Whether requests are welcome", || get(operation::ready)),
        Route::get("/health/ready", OPERATION, "The same: for a load balancer", || get(operation::ready)),
        Route::get("/health/live", OPERATION, "Whether the process answers: for whoever restarts it", || get(operation::live)),
        Route::get("/metrics", OPERATION, "Figures for Prometheus", || get(operation::metrics)),
        Route {
            method: "post",
            ..Route::get("/models/{name}/reload", OPERATION, "Load a model's folder anew", || post(operation::reload))
        },
        Route::get("/openapi.json", OPERATION, "This description", || get(documentation::openapi)),
        Route::get("/docs", OPERATION, "This description as a page", || get(documentation::page)),
    ];
    if app.settings.playground {
        routes.push(Route::get("/", INSIDE, "The playground", || get(page::playground)));
        routes.push(Route::get("/runs", INSIDE, "Training runs whose curves can be shown", || get(page::runs)));
        routes.push(Route::get("/runs/log", INSIDE, "Events of a run's log from a byte on", || get(page::log)));
    }
    for task in TASKS {
        let path = format!("/{}", task.route());
        // A task that text-embeddings-inference has a route for is served by that one.
        if routes.iter().all(|route| route.path != path) {
            let schemas = ["TaskRequest", "TaskResponse"];
            let route =
                Route::post(&path, TASK, task.about(), schemas, "{}", move || post(move |app, request| tasks::answer(task, app, request)));
            routes.push(Route { sample: Some(task.sample()), ..route });
        }
    }
    routes
}

/// The routes that a model can answer, for /info and the page.
pub(crate) fn served_by(served: &Served) -> Vec<String> {
    let mut routes = vec!["/embed", "/embed_all", "/similarity", "/tokenize", "/decode", "/v1/embeddings", "/attention", "/ablation"];
    if served.engine.card().classifies {
        routes.push("/predict");
        if served.engine.context().labels.len() == 1 {
            routes.extend(["/rerank", "/v1/rerank"]);
        }
    }
    // A task whose path is one of text-embeddings-inference's is served by that one, and stands above if the model answers it.
    let other = |task: &&&dyn Task| !["embed", "rerank", "similarity"].contains(&task.route());
    let context = served.engine.context();
    let can = |task: &&&dyn Task| served.engine.serves(**task) && task.suits(context);
    let tasks = TASKS.iter().filter(other).filter(can).map(|task| format!("/{}", task.route()));
    routes.into_iter().map(str::to_owned).chain(tasks).collect()
}
