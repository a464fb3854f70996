//! Text to packed batches: reading files, sentences, tokens, shards, objectives, batches.
//!
//! ```text
//! files ─read→ documents ─sentence, tokenizer→ token ids ─shard→ Dataset ─sampler, objective→ Batch
//! ```
//!
//! Everything that is random is a function of a seed and a position, so batches depend neither on the number of
//! threads nor on what was read before.

mod batch;
mod dataset;
mod error;
mod mmap;
pub mod objective;
mod prefetch;
pub mod read;
mod sampler;
pub mod shard;

pub use batch::{Batch, Limits};
pub use dataset::{Dataset, MANIFEST, Manifest, ShardEntry, Split};
pub use error::{Error, Fault, FaultKind, Result, ShardFault};
pub use objective::{Masking, Objective, ObjectiveConfig, SentenceObjective, Vocabulary};
pub use prefetch::Prefetch;
pub use sampler::Sampler;
