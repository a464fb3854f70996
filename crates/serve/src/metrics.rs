//! Figures for Prometheus, under the names of text-embeddings-inference. A server has its own recorder; nothing is global.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram, with_local_recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::error::ApiError;
use crate::work::Times;

/// Counters, gauges and histograms of a server.
pub(crate) struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
}

/// Upper bounds in seconds, by a factor of about two.
const SECONDS: [f64; 16] = [2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Upper bounds of counts.
const COUNTS: [f64; 15] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0];

impl Default for Metrics {
    fn default() -> Self {
        let buckets = |builder: PrometheusBuilder, suffix: &str, bounds: &[f64]| {
            builder.set_buckets_for_metric(Matcher::Suffix(suffix.into()), bounds).expect("the bounds are constants, and not empty")
        };
        let mut builder = PrometheusBuilder::new();
        for (suffix, bounds) in [("_duration", &SECONDS[..]), ("_length", &COUNTS), ("_next_size", &COUNTS), ("_next_tokens", &COUNTS)] {
            builder = buckets(builder, suffix, bounds);
        }
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        let metrics = Self { recorder, handle };
        metrics.describe();
        metrics
    }
}

impl Metrics {
    fn with<T>(&self, record: impl FnOnce() -> T) -> T {
        with_local_recorder(&self.recorder, record)
    }

    fn describe(&self) {
        self.with(|| {
            describe_counter!("te_request_count", "requests, by the kind of their inputs");
            describe_counter!("te_request_success", "requests answered 200");
            describe_counter!("te_request_failure", "requests answered otherwise, by the reason");
            describe_counter!("te_request_dropped_sequences", "sequences dropped before compute because their client had gone");
            describe_histogram!("te_request_duration", Unit::Seconds, "from the head of a request to its answer");
            describe_histogram!("te_request_tokenization_duration", Unit::Seconds, "text to tokens");
            describe_histogram!("te_request_queue_duration", Unit::Seconds, "waiting for a batch");
            describe_histogram!("te_request_inference_duration", Unit::Seconds, "in batches");
            describe_histogram!("te_request_input_length", "tokens of an input");
            describe_histogram!("te_batch_next_size", "sequences of a batch");
            describe_histogram!("te_batch_next_tokens", "tokens of a batch");
            describe_gauge!("te_queue_size", "sequences that wait");
            gauge!("te_queue_size").set(0.0);
            counter!("te_request_dropped_sequences").absolute(0);
        });
    }

    /// A request for one input, or for many.
    pub(crate) fn request(&self, many: bool) {
        let method = if many { "batch" } else { "single" };
        self.with(|| counter!("te_request_count", "method" => method).increment(1));
    }

    /// A request was answered.
    pub(crate) fn success(&self, many: bool, times: &Times, total: Duration) {
        let method = if many { "batch" } else { "single" };
        self.with(|| {
            counter!("te_request_success", "method" => method).increment(1);
            histogram!("te_request_duration").record(total.as_secs_f64());
            histogram!("te_request_tokenization_duration").record(times.tokenization.as_secs_f64());
            histogram!("te_request_queue_duration").record(times.queue.as_secs_f64());
            histogram!("te_request_inference_duration").record(times.inference.as_secs_f64());
        });
    }

    /// A request was refused or failed.
    pub(crate) fn failure(&self, error: &ApiError) {
        self.with(|| counter!("te_request_failure", "err" => error.label()).increment(1));
    }

    /// Tokens of an input.
    pub(crate) fn input_length(&self, tokens: usize) {
        self.with(|| histogram!("te_request_input_length").record(tokens as f64));
    }

    /// A batch starts.
    pub(crate) fn batch(&self, sequences: usize, tokens: usize) {
        self.with(|| {
            histogram!("te_batch_next_size").record(sequences as f64);
            histogram!("te_batch_next_tokens").record(tokens as f64);
        });
    }

    /// Sequences that wait.
    pub(crate) fn queue_size(&self, sequences: usize) {
        self.with(|| gauge!("te_queue_size").set(sequences as f64));
    }

    /// Sequences that were dropped before compute.
    pub(crate) fn dropped(&self, sequences: usize) {
        if sequences > 0 {
            self.with(|| counter!("te_request_dropped_sequences").increment(sequences as u64));
        }
    }

    /// All figures in Prometheus' text format.
    pub(crate) fn render(&self) -> String {
        self.handle.render()
    }

    /// Fold what was recorded into the histograms, so that memory stays flat when nobody asks for the figures.
    pub(crate) fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}
