//! `/openapi.json` and `/docs`: the routes described, from the list of them.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use cloze::task::TASKS;
use serde_json::{Map, Value, json};

use super::Route;
use crate::app::App;

/// The schemas of requests and answers.
const SCHEMAS: &str = include_str!("../../assets/schemas.json");

/// The OpenAPI 3.1 description.
pub(crate) fn describe(routes: &[Route]) -> Value {
    let mut paths = Map::new();
    let mut schemas: Value = serde_json::from_str(SCHEMAS).expect("the file is a part of the program, and a test reads it");
    schemas["TaskRequest"]["properties"] = task_fields();
    for route in routes {
        let mut operation = json!({
            "summary": route.about,
            "tags": [route.group],
            "operationId": format!("{}{}", route.method, route.path.replace(['/', '{', '}'], "_")),
            "responses": responses(route),
        });
        let mut parameters = Vec::new();
        if route.path.contains("{name}") {
            parameters.push(json!({"name": "name", "in": "path", "required": true, "schema": {"type": "string"}}));
        } else if route.request.is_some() || route.path == "/info" {
            let about = "which model of this server is asked; the first one by default";
            parameters.push(json!({"name": "model", "in": "query", "required": false, "description": about, "schema": {"type": "string"}}));
        }
        if !parameters.is_empty() {
            operation["parameters"] = parameters.into();
        }
        if let Some(request) = &route.request {
            let mut content = json!({"schema": reference(request)});
            if let Some(sample) = &route.sample {
                content["example"] = sample.clone();
            }
            operation["requestBody"] = json!({"required": true, "content": {"application/json": content}});
        }
        let entry = paths.entry(route.path.clone()).or_insert_with(|| json!({}));
        entry[route.method] = operation;
    }
    let about = "A BERT model behind the routes of text-embeddings-inference and of OpenAI's embeddings, and a route for each task.";
    json!({
        "openapi": "3.1.0",
        "info": {"title": "Cloze", "version": env!("CARGO_PKG_VERSION"), "description": about},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"key": []}],
    })
}

/// The fields of all tasks' inputs, and the two that hold several inputs and what is asked.
fn task_fields() -> Value {
    let mut fields = Map::new();
    for (task, field) in TASKS.iter().flat_map(|task| task.fields().iter().map(move |field| (task, field))) {
        let about = format!("{}: {}", task.name(), field.about);
        let entry = fields.entry(field.name).or_insert_with(|| json!({"description": ""}));
        let sofar = entry["description"].as_str().unwrap_or_default();
        entry["description"] = if sofar.is_empty() { about.into() } else { format!("{sofar}; {about}").into() };
    }
    fields.insert("inputs".into(), json!({"description": "an input, or a list of inputs"}));
    fields.insert("parameters".into(), json!({"type": "object", "description": "what is asked, such as top_k"}));
    Value::Object(fields)
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn responses(route: &Route) -> Value {
    let mut all = Map::new();
    let mut good = json!({"description": "the answer"});
    if let Some(response) = &route.response {
        good["content"] = json!({"application/json": {"schema": reference(response)}});
    }
    all.insert("200".into(), good);
    let error = reference(if route.path.starts_with("/v1/") { "OpenAiError" } else { "Error" });
    let reasons: &[(&str, &str)] = match route.method {
        "post" => &[
            ("400", "an input is empty"),
            ("401", "the API key is missing or wrong"),
            ("413", "the body is too long"),
            ("422", "the body is not what the route takes, or an input is too long"),
            ("424", "the model cannot do this, or it failed"),
            ("429", "overloaded: try again after Retry-After"),
            ("503", "shutting down"),
        ],
        _ => &[("401", "the API key is missing or wrong"), ("503", "not ready")],
    };
    for (status, reason) in reasons {
        all.insert((*status).into(), json!({"description": reason, "content": {"application/json": {"schema": error}}}));
    }
    Value::Object(all)
}

pub(crate) async fn openapi(State(app): State<Arc<App>>) -> Response {
    crate::response::json(StatusCode::OK, &describe(&super::all(&app)))
}

/// The description as one page that loads nothing from elsewhere: every route, its example, and a way to send it.
pub(crate) async fn page() -> Response {
    ([(header::CACHE_CONTROL, "no-cache")], Html(include_str!("../../assets/docs.html"))).into_response()
}
