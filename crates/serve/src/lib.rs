//! A model folder as an HTTP server.
//!
//! ```text
//! connection ─limits, key→ handler ─tokenizing threads→ sequences ─bounded queue→ batcher (one thread, packed batches) → rows → answer
//! ```
//!
//! The routes are those of text-embeddings-inference, of OpenAI's embeddings, and one for each task. What the compute side must do is the
//! trait [`Engine`]; nothing here knows a device. A sequence's answer has the same bits whatever its neighbours in a batch.

mod app;
mod batcher;
mod engine;
mod error;
mod limits;
mod log;
mod metrics;
mod models;
mod queue;
mod response;
mod routes;
mod server;
mod settings;
mod tokenizing;
mod trace;
mod work;

pub use app::App;
pub use engine::{Card, Engine, PipelineEngine};
pub use error::{ApiError, ServeError};
pub use models::{Loader, Models, Served};
pub use server::{Server, Stopper};
pub use settings::{LogFormat, Settings};
