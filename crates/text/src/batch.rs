//! What a training step or a prediction consumes: packed sequences and their targets.

use cloze_tensor::Sequences;

/// A packed batch: T tokens of S sequences on one axis, without padding, and M masked positions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Token ids. `[T]`
    pub input_ids: Vec<u32>,
    /// Segment of each token: 0 for the first, 1 for the second. `[T]`
    pub token_type_ids: Vec<u32>,
    /// Where each sequence starts. `[S + 1]`
    pub sequences: Sequences,
    /// Token indices of the masked positions, ascending; empty for tasks without masks. `[M]`
    pub masked_rows: Vec<u32>,
    /// The ids that stood at `masked_rows`. `[M]`
    pub masked_labels: Vec<u32>,
    /// One label per sequence for sentence objectives and classification, or empty. `[S]`
    pub sequence_labels: Vec<u32>,
}

impl Batch {
    /// The number of tokens, T.
    pub fn tokens(&self) -> usize {
        self.input_ids.len()
    }

    /// Append one sequence; `token_type_ids` is as long as `input_ids`.
    pub fn push(&mut self, input_ids: &[u32], token_type_ids: &[u32]) {
        assert_eq!(input_ids.len(), token_type_ids.len(), "batch: input_ids and token_type_ids differ in length");
        self.input_ids.extend_from_slice(input_ids);
        self.token_type_ids.extend_from_slice(token_type_ids);
        self.sequences.push(input_ids.len());
    }
}

/// How large a batch may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tokens of the whole batch. One sequence is always taken, whatever its length.
    pub tokens: usize,
    /// Tokens of one sequence, special tokens included.
    pub sequence_length: usize,
}
