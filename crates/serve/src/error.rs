//! What a request can meet, and the one place where it becomes a status.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// Seconds after which a refused client may come again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// Why a request is not answered with 200.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ApiError {
    /// A list or text without content.
    #[error("`{field}` cannot be empty")]
    Empty {
        /// The field.
        field: &'static str,
    },
    /// No key, or a wrong one.
    #[error("this server wants an API key: send the header `Authorization: Bearer KEY`")]
    Unauthorized,
    /// A path that is not served.
    #[error("there is no route {path}; GET /docs lists all routes")]
    NoRoute {
        /// The path.
        path: String,
    },
    /// A route that does not know the method.
    #[error("{path} does not take {method}; GET /docs lists all routes")]
    Method {
        /// The path.
        path: String,
        /// The method.
        method: String,
    },
    /// A body over the limit.
    #[error("the body is longer than {limit} bytes; send fewer or shorter inputs, or raise --payload-limit")]
    Payload {
        /// The limit in bytes.
        limit: usize,
    },
    /// A body that did not arrive in time.
    #[error("the body did not arrive within {seconds} s")]
    SlowBody {
        /// The limit in seconds.
        seconds: u64,
    },
    /// A body that broke off.
    #[error("the body could not be read: {problem}")]
    Body {
        /// What happened.
        problem: String,
    },
    /// A body that is not the JSON of the route.
    #[error("the body is not the JSON that this route takes: {problem}")]
    Json {
        /// The parser's words, with line and column.
        problem: String,
    },
    /// JSON nested too deeply.
    #[error("the JSON is nested more than {limit} levels deep")]
    Depth {
        /// The limit.
        limit: usize,
    },
    /// More inputs than one request may carry.
    #[error("batch size {found} > maximum allowed batch size {limit}; split the request, or raise --max-client-batch-size")]
    BatchSize {
        /// Inputs of the request.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// An input longer than the model takes, where cutting is not allowed.
    #[error("`inputs` must have at most {limit} tokens, found {found}; set `truncate` to true to have it cut")]
    TooLong {
        /// Its tokens.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// A value that makes no sense.
    #[error("`{field}`: {problem}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What is wrong and what to do.
        problem: String,
    },
    /// What a task says of its input.
    #[error("{problem}")]
    Task {
        /// Its words.
        problem: String,
    },
    /// The tokenizer.
    #[error("the text cannot be cut into tokens: {problem}")]
    Tokenizer {
        /// Its words.
        problem: String,
    },
    /// A model that is not loaded.
    #[error("there is no model \"{name}\"; this server has {}", known.join(", "))]
    NoModel {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// A model that cannot do what the route does.
    #[error("model \"{model}\" has no {wants}; {remedy}")]
    NotServed {
        /// The model.
        model: String,
        /// What the route needs.
        wants: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// The model failed.
    #[error("inference failed: {problem}")]
    Backend {
        /// What happened.
        problem: String,
    },
    /// No room.
    #[error("the model is overloaded: {full}; try again in a second")]
    Overloaded {
        /// What is full.
        full: &'static str,
    },
    /// The model does not answer at present.
    #[error("unhealthy: {problem}")]
    Unhealthy {
        /// Why.
        problem: &'static str,
    },
}

impl ApiError {
    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Empty { .. } | Self::Body { .. } => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::NoRoute { .. } | Self::NoModel { .. } => StatusCode::NOT_FOUND,
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::SlowBody { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::Payload { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Json { .. }
            | Self::Depth { .. }
            | Self::BatchSize { .. }
            | Self::TooLong { .. }
            | Self::Invalid { .. }
            | Self::Task { .. }
            | Self::Tokenizer { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::NotServed { .. } | Self::Backend { .. } => StatusCode::FAILED_DEPENDENCY,
            Self::Overloaded { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Unhealthy { .. } => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// `error_type` of text-embeddings-inference.
    pub fn error_type(&self) -> &'static str {
        match self {
            Self::Empty { .. } => "Empty",
            Self::Tokenizer { .. } => "Tokenizer",
            Self::NotServed { .. } | Self::Backend { .. } => "Backend",
            Self::Overloaded { .. } => "Overloaded",
            Self::Unhealthy { .. } => "Unhealthy",
            Self::Unauthorized => "Unauthorized",
            _ => "Validation",
        }
    }

    /// The value of `err` in `te_request_failure`.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Empty { .. } => "empty",
            Self::Unauthorized => "unauthorized",
            Self::NoRoute { .. } | Self::Method { .. } => "route",
            Self::Payload { .. } => "payload",
            Self::SlowBody { .. } | Self::Body { .. } => "body",
            Self::Json { .. } | Self::Depth { .. } => "json",
            Self::BatchSize { .. } => "batch_size",
            Self::TooLong { .. } | Self::Invalid { .. } | Self::Task { .. } => "validation",
            Self::Tokenizer { .. } => "tokenization",
            Self::NoModel { .. } | Self::NotServed { .. } => "model_type",
            Self::Backend { .. } => "inference",
            Self::Overloaded { .. } => "overloaded",
            Self::Unhealthy { .. } => "unhealthy",
        }
    }

    /// What the log says of it: its words, or its label where the words may hold what the client sent.
    pub(crate) fn logged(&self) -> String {
        match self {
            Self::Json { .. } | Self::Invalid { .. } | Self::Task { .. } | Self::Tokenizer { .. } | Self::NoModel { .. } => {
                self.label().to_owned()
            }
            _ => self.to_string(),
        }
    }

    /// The body as text-embeddings-inference has it.
    pub fn plain(&self) -> Value {
        json!({"error": self.to_string(), "error_type": self.error_type()})
    }

    /// The body as OpenAI has it.
    pub fn nested(&self) -> Value {
        let (kind, code) = match self {
            Self::Unauthorized => ("invalid_request_error", Some("invalid_api_key")),
            Self::NoModel { .. } => ("invalid_request_error", Some("model_not_found")),
            Self::Overloaded { .. } => ("rate_limit_error", Some("rate_limit_exceeded")),
            Self::Unhealthy { .. } | Self::Backend { .. } => ("server_error", None),
            _ => ("invalid_request_error", None),
        };
        let param = match self {
            Self::Empty { field } | Self::Invalid { field, .. } => Some(*field),
            Self::NoModel { .. } | Self::NotServed { .. } => Some("model"),
            Self::BatchSize { .. } | Self::TooLong { .. } => Some("input"),
            _ => None,
        };
        json!({"error": {"message": self.to_string(), "type": kind, "param": param, "code": code}})
    }
}

impl IntoResponse for ApiError {
    /// The answer in the plain dialect; the error rides along for whoever speaks another one.
    fn into_response(self) -> Response {
        let mut response = crate::response::json(self.status(), &self.plain());
        match self.status() {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
            }
            StatusCode::UNAUTHORIZED => {
                let challenge = HeaderValue::from_static("Basic realm=\"cloze\", Bearer");
                response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
            }
            _ => (),
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// Why a server does not start, or does not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A model.
    #[error("model \"{name}\": {source}")]
    Model {
        /// Its name.
        name: String,
        /// What is wrong.
        source: cloze::Error,
    },
    /// Two models of one name.
    #[error("two models are called \"{name}\"; give each its own name: --model name=DIR")]
    Twice {
        /// The name.
        name: String,
    },
    /// No model.
    #[error("no model to serve; give one with --model DIR")]
    NoModel,
    /// A flag whose value makes no sense.
    #[error("--{flag} {found}: {problem}")]
    Flag {
        /// The flag.
        flag: &'static str,
        /// Its value.
        found: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// A file of the configuration.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The address.
    #[error("cannot listen on {address}: {source}; is another server there? choose another with --port")]
    Listen {
        /// The address.
        address: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Threads, signals.
    #[error("cannot start {what}: {source}")]
    Start {
        /// What.
        what: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Requests that were still open at the deadline.
    #[error("{open} connections were still open after {seconds} s of shutdown; they were cut")]
    Deadline {
        /// How many.
        open: usize,
        /// The deadline.
        seconds: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_has_no_words_of_a_client() {
        let words = || "unknown field `my secret`".to_owned();
        for error in [
            ApiError::Json { problem: words() },
            ApiError::Task { problem: words() },
            ApiError::Invalid { field: "parameters", problem: words() },
            ApiError::Tokenizer { problem: words() },
            ApiError::NoModel { name: words(), known: Vec::new() },
        ] {
            assert!(error.to_string().contains("secret") && error.logged() == error.label(), "{error}");
        }
        assert!(ApiError::Overloaded { full: "its queue is full" }.logged().contains("its queue is full"));
    }
}
