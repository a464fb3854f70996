//! Text to packed batches: reading files, sentences, tokens, shards, objectives, batches.
//!
//! ```text
//! files ─read→ documents ─sentence, tokenizer→ token ids ─shard→ Dataset ─sampler, objective→ Batch
//! ```
//!
//! Everything that is random is a function of a seed and a position, so batches depend neither on the number of
//! threads nor on what was read before.

mod batch;
mod corpus;
mod dataset;
mod error;
pub mod learn;
mod masks;
mod mmap;
pub mod objective;
mod pack;
mod prefetch;
pub mod read;
mod report;
mod sampler;
mod segment;
pub mod sentence;
pub mod shard;
pub mod tokenizer;

pub use batch::{Batch, Limits};
pub use corpus::{PrepareOptions, Progress, prepare};
pub use dataset::{Dataset, MANIFEST, Manifest, ShardEntry, Split};
pub use error::{Error, Fault, FaultKind, Result, ShardFault};
pub use masks::{MaskedExample, MaskedPiece, Replacement, show_masks};
pub use objective::{Masking, Objective, ObjectiveConfig, SentenceObjective, Vocabulary};
pub use pack::{PackedBatch, pack, pack_lengths};
pub use prefetch::Prefetch;
pub use report::{Dropped, FileReport, LengthBin, Report};
pub use sampler::Sampler;
pub use segment::normalize;
pub use tokenizer::{Encoding, SpecialTokens, Tokenizer, TokenizerError};
