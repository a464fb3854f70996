//! What the operator decides. The command line, the environment and a configuration file fill it in.

use std::time::Duration;

/// Limits and manners of a server.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Requests that may be under way at once; more are answered 429.
    pub max_concurrent_requests: usize,
    /// Tokens of one packed batch.
    pub max_batch_tokens: usize,
    /// Tokens that may wait in the queue; requests beyond are answered 429.
    pub max_queue_tokens: usize,
    /// Inputs of one request.
    pub max_client_batch_size: usize,
    /// Bytes of one body.
    pub payload_limit: usize,
    /// Bytes of all bodies that are held at once, until their texts are tokens.
    pub body_memory: usize,
    /// Bytes of all long answers that wait to be read.
    pub answer_memory: usize,
    /// Whether inputs that are too long are cut when the request does not say.
    pub auto_truncate: bool,
    /// Threads that cut text into tokens.
    pub tokenization_workers: usize,
    /// How long one batch should take at most; smaller batches answer short requests sooner.
    pub batch_target: Duration,
    /// Keys that open the server; empty: it is open.
    pub api_keys: Vec<String>,
    /// Origins whose pages may call; empty: none, `*`: all.
    pub cors_allow_origin: Vec<String>,
    /// Open connections; more wait to be accepted.
    pub max_connections: usize,
    /// For the head of a request to arrive, and for an idle connection to be kept.
    pub header_timeout: Duration,
    /// For the body of a request to arrive, and for a client to take a part of its answer.
    pub body_timeout: Duration,
    /// For a request to wait and to be computed.
    pub request_timeout: Duration,
    /// Between readiness turning 503 and no more connections being accepted.
    pub shutdown_delay: Duration,
    /// For accepted requests to be answered after that.
    pub shutdown_deadline: Duration,
    /// Levels of JSON.
    pub json_depth: usize,
    /// What is written about each request.
    pub log: LogFormat,
    /// Whether the playground page is served at `/`.
    pub playground: bool,
    /// Folder of training runs whose curves the training page shows.
    pub runs: Option<std::path::PathBuf>,
    /// Where OpenTelemetry traces go; needs the feature `otlp`.
    pub otlp_endpoint: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_concurrent_requests: 512,
            max_batch_tokens: 16384,
            max_queue_tokens: 1 << 19,
            max_client_batch_size: 32,
            payload_limit: 2_000_000,
            body_memory: 256 << 20,
            answer_memory: 256 << 20,
            auto_truncate: true,
            tokenization_workers: 2,
            batch_target: Duration::from_millis(100),
            api_keys: Vec::new(),
            cors_allow_origin: Vec::new(),
            max_connections: 4096,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(60),
            shutdown_delay: Duration::from_millis(500),
            shutdown_deadline: Duration::from_secs(30),
            json_depth: 32,
            log: LogFormat::Off,
            playground: true,
            runs: None,
            otlp_endpoint: None,
        }
    }
}

/// What is written to standard error about each request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// A line for people.
    Text,
    /// Nothing.
    #[default]
    Off,
}

impl std::str::FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text),
            "off" => Ok(Self::Off),
            _ => Err("json, text or off"),
        }
    }
}
