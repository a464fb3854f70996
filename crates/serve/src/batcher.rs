//! The one thread that computes: continuous batching over the queue.
//!
//! It never waits for a batch to fill: what is there runs at once, and what arrives meanwhile is the next batch. A batch is bounded by
//! tokens, and by the time it may take at the speed that was last seen, so that one long batch does not keep short requests waiting.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cloze::task::{Output, Sequence};

use crate::error::{ApiError, ServeError};
use crate::metrics::Metrics;
use crate::queue::{Batch, Queue};

/// Whether the last batch ran through. A panic flips it, the next batch that runs through flips it back.
#[derive(Debug)]
pub(crate) struct Health(AtomicBool);

impl Default for Health {
    fn default() -> Self {
        Self(AtomicBool::new(true))
    }
}

impl Health {
    /// Whether the worker is well.
    pub(crate) fn is_well(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    fn set(&self, well: bool) {
        self.0.store(well, Ordering::SeqCst);
    }
}

/// Batches are not cut below this many tokens to meet the target: the products run at full speed from here on.
const LEAST_TOKENS: usize = 256;

/// How fast batches have run.
struct Pace {
    seconds_per_token: Option<f64>,
    target: Duration,
    most: usize,
}

impl Pace {
    /// Tokens of the next batch.
    fn tokens(&self) -> usize {
        match self.seconds_per_token {
            Some(pace) if !self.target.is_zero() => {
                ((self.target.as_secs_f64() / pace) as usize).clamp(LEAST_TOKENS.min(self.most), self.most)
            }
            _ => self.most,
        }
    }

    /// A batch has run. Small ones are ruled by overhead and say little.
    fn saw(&mut self, tokens: usize, took: Duration) {
        if tokens >= LEAST_TOKENS {
            let now = took.as_secs_f64() / tokens as f64;
            self.seconds_per_token = Some(self.seconds_per_token.map_or(now, |before| 0.8 * before + 0.2 * now).max(1e-12));
        }
    }
}

/// Start the thread; it ends when the queue is closed and empty.
pub(crate) fn start(
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    max_batch_tokens: usize,
    target: Duration,
) -> Result<JoinHandle<()>, ServeError> {
    let mut pace = Pace { seconds_per_token: None, target, most: max_batch_tokens };
    let work = move || {
        while let Some(batch) = queue.next(pace.tokens()) {
            metrics.batch(batch.entries.len(), batch.tokens);
            let (tokens, begin) = (batch.tokens, Instant::now());
            run(batch, &health);
            pace.saw(tokens, begin.elapsed());
        }
    };
    let source = |source| ServeError::Start { what: "the compute thread", source };
    std::thread::Builder::new().name("cloze-batcher".into()).spawn(work).map_err(source)
}

/// Run a batch and answer its sequences. Whatever happens, each is answered.
fn run(batch: Batch, health: &Health) {
    let begin = Instant::now();
    batch.entries.iter().for_each(|entry| entry.group.start(begin));
    let sequences: Vec<&Sequence> = batch.entries.iter().map(|entry| &entry.sequence).collect();
    let ran = catch_unwind(AssertUnwindSafe(|| batch.engine.run(&sequences)));
    let outputs = match ran {
        Ok(Ok(outputs)) if outputs.len() == sequences.len() => outputs,
        Ok(Ok(outputs)) => return fail(&batch, &format!("{} outputs for {} sequences", outputs.len(), sequences.len())),
        Ok(Err(problem)) => return fail(&batch, &problem),
        Err(_) => {
            health.set(false);
            return fail(&batch, "the compute worker panicked");
        }
    };
    health.set(true);
    for (entry, output) in batch.entries.iter().zip(outputs) {
        if finite(&output) {
            entry.group.put(entry.slot, output);
        } else {
            entry.group.fail(ApiError::Backend { problem: "the model's output is not finite".into() });
        }
    }
}

fn fail(batch: &Batch, problem: &str) {
    batch.entries.iter().for_each(|entry| entry.group.fail(ApiError::Backend { problem: problem.to_owned() }));
}

fn finite(output: &Output) -> bool {
    // Likelihoods of ids that the model rules out are −∞, which is a number's rightful logarithm.
    match output {
        Output::Rows { values, .. } => values.iter().all(|v| v.is_finite()),
        Output::Likelihoods(values) => values.iter().all(|v| !v.is_nan()),
        Output::Candidates(rows) => rows.iter().flatten().all(|(_, p)| !p.is_nan()),
    }
}
