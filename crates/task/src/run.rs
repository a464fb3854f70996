//! A packed run: the body once, then every head that some sequence wants.

use std::ops::Range;

use cloze_model::head::pooling::Pooling;
use cloze_model::{Blueprint, Input, Model};
use cloze_tensor::{Backend, Dtype, Tape, Var, Weights};
use cloze_text::{Batch, pack_lengths};

use crate::error::TaskError;
use crate::job::{Output, Runner, Sequence, Want};

/// A model on a device that runs sequences packed.
pub struct Packed<'a, B: Backend> {
    /// The device.
    pub backend: &'a B,
    /// The model.
    pub model: &'a Model,
    /// Its weights.
    pub weights: &'a Weights<B>,
    /// Element kind of activations.
    pub dtype: Dtype,
    /// Tokens of one run.
    pub batch_tokens: usize,
    /// How embeddings are pooled.
    pub pooling: Pooling,
    /// Attention heads (layer, head) whose output is taken as zero; usually none.
    pub off: &'a [(usize, usize)],
}

impl<B: Backend> Runner for Packed<'_, B> {
    fn run(&self, sequences: &[&Sequence]) -> Result<Vec<Output>, TaskError> {
        sequences.iter().try_for_each(|s| has_rows(&self.model.blueprint, &s.ids, &s.segments))?;
        let lengths: Vec<usize> = sequences.iter().map(|s| s.len()).collect();
        let tokens = self.batch_tokens.max(lengths.iter().copied().max().unwrap_or(0));
        let mut outputs: Vec<Option<Output>> = vec![None; sequences.len()];
        for order in pack_lengths(&lengths, tokens)? {
            let chosen: Vec<&Sequence> = order.iter().map(|&i| sequences[i]).collect();
            for (output, &place) in self.batch(&chosen).into_iter().zip(&order) {
                outputs[place] = Some(output);
            }
        }
        Ok(outputs.into_iter().map(|o| o.unwrap_or(Output::Likelihoods(Vec::new()))).collect())
    }
}

/// Whether the tables of a model have a row for every id. A tokenizer may have more tokens than the model, and two texts may be of two
/// segments where the model knows one.
///
/// # Errors
/// [`TaskError::NoRow`] names the first that is outside.
pub fn has_rows(blueprint: &Blueprint, ids: &[u32], segments: &[u32]) -> Result<(), TaskError> {
    let (tokens, kinds) = (blueprint.vocab_size, blueprint.type_vocab_size);
    let outside = |ids: &[u32], rows: usize| ids.iter().copied().find(|&id| id as usize >= rows);
    if let Some(id) = outside(ids, tokens) {
        return Err(TaskError::NoRow { what: "token", id, key: "vocab_size", rows: tokens });
    }
    // Without a table nobody looks at segments.
    match outside(segments, kinds).filter(|_| kinds > 0) {
        Some(id) => Err(TaskError::NoRow { what: "segment", id, key: "type_vocab_size", rows: kinds }),
        None => Ok(()),
    }
}

/// Rows of the vocabulary's logits that are held at once.
const VOCABULARY_ROWS: usize = 256;

impl<B: Backend> Packed<'_, B> {
    /// Run one packed batch: the only place where a pipeline meets the model. Outputs stand in the order of `sequences`.
    pub fn batch(&self, sequences: &[&Sequence]) -> Vec<Output> {
        let mut batch = Batch::default();
        sequences.iter().for_each(|s| batch.push(&s.ids, &s.segments));
        let input = Input::new(self.backend, &batch.input_ids, &batch.token_type_ids, batch.sequences.clone());
        let mut tape = Tape::inference(self.backend, self.weights, self.dtype);
        tape.switch_off(self.off);
        let hidden = self.model.hidden(&mut tape, &input, false);
        let places: Vec<Range<usize>> = batch.sequences.ranges().collect();
        let mut outputs: Vec<Output> = vec![Output::Likelihoods(Vec::new()); sequences.len()];
        for kind in [Kind::Labels, Kind::Tokens, Kind::Embedding, Kind::Hidden] {
            let chosen: Vec<usize> = (0..sequences.len()).filter(|&s| Kind::of(&sequences[s].want) == kind).collect();
            if chosen.is_empty() {
                continue;
            }
            let wants: Vec<(&Want, Range<usize>)> = chosen.iter().map(|&s| (&sequences[s].want, places[s].clone())).collect();
            let Some(rows) = rows(&mut tape, self.model, self.pooling, &hidden, &input, kind, &wants) else { continue };
            let (values, width) = (rows.to_host(self.backend), rows.cols());
            let mut at = 0;
            for (s, (want, place)) in chosen.into_iter().zip(wants) {
                // pooled rows are computed for all sequences of the batch
                let taken = match kind {
                    Kind::Labels | Kind::Embedding => s..s + 1,
                    _ => at..at + kind.rows(want, &place),
                };
                at = taken.end;
                outputs[s] = Output::Rows { width, values: values[taken.start * width..taken.end * width].to_vec() };
            }
        }
        self.vocabulary(&mut tape, &hidden, sequences, &places, &mut outputs);
        outputs
    }

    /// Candidates and likelihoods, some rows at a time.
    fn vocabulary<'t>(
        &'t self,
        tape: &mut Tape<'t, B>,
        hidden: &Var<B>,
        sequences: &[&Sequence],
        places: &[Range<usize>],
        outputs: &mut [Output],
    ) {
        let Some(head) = self.model.masked_lm() else { return };
        let mut wanted: Vec<(usize, u32, usize)> = Vec::new(); // (sequence, row, which of its rows)
        for (s, sequence) in sequences.iter().enumerate() {
            let rows = match &sequence.want {
                Want::Candidates { rows, .. } => {
                    outputs[s] = Output::Candidates(Vec::with_capacity(rows.len()));
                    rows
                }
                Want::Likelihoods { rows, .. } => rows,
                _ => continue,
            };
            wanted.extend(rows.iter().enumerate().map(|(i, &r)| (s, places[s].start as u32 + r, i)));
        }
        for chunk in wanted.chunks(VOCABULARY_ROWS) {
            let rows: Vec<u32> = chunk.iter().map(|w| w.1).collect();
            let taken = tape.gather(hidden, &self.backend.indices(&rows), rows.len());
            let logits = head.logits(tape, &taken);
            let host = logits.to_host(self.backend);
            for (row, &(s, _, i)) in host.chunks_exact(logits.cols()).zip(chunk) {
                match (&sequences[s].want, &mut outputs[s]) {
                    (Want::Candidates { top, only, .. }, Output::Candidates(all)) => all.push(candidates(row, *top, only)),
                    (Want::Likelihoods { ids, .. }, Output::Likelihoods(all)) => {
                        all.push(ids.get(i).and_then(|&id| row.get(id as usize)).map_or(f32::NEG_INFINITY, |l| l - log_sum(row)));
                    }
                    _ => {}
                }
            }
        }
    }
}

/// ln Σ exp.
fn log_sum(row: &[f32]) -> f32 {
    let max = row.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
    let sum: f64 = row.iter().map(|l| f64::from(l - max).exp()).sum();
    (f64::from(max) + sum.ln()) as f32
}

/// The `top` likeliest ids (of `only`, when it is not empty) with their ln p.
fn candidates(row: &[f32], top: usize, only: &[u32]) -> Vec<(u32, f32)> {
    let sum = log_sum(row);
    let mut order: Vec<u32> = match only {
        [] => (0..row.len() as u32).collect(),
        some => some.iter().copied().filter(|&id| (id as usize) < row.len()).collect(),
    };
    let better = |a: &u32, b: &u32| row[*b as usize].total_cmp(&row[*a as usize]).then(a.cmp(b));
    if top < order.len() {
        order.select_nth_unstable_by(top, better);
        order.truncate(top);
    }
    order.sort_unstable_by(better);
    order.into_iter().map(|id| (id, row[id as usize] - sum)).collect()
}

/// The outputs that are rows of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// [`Want::Labels`].
    Labels,
    /// [`Want::Tokens`].
    Tokens,
    /// [`Want::Embedding`].
    Embedding,
    /// [`Want::Hidden`].
    Hidden,
    /// Those of the vocabulary, which are no rows.
    Vocabulary,
}

impl Kind {
    /// The kind of a want.
    pub fn of(want: &Want) -> Self {
        match want {
            Want::Labels => Kind::Labels,
            Want::Tokens { .. } => Kind::Tokens,
            Want::Embedding => Kind::Embedding,
            Want::Hidden => Kind::Hidden,
            Want::Candidates { .. } | Want::Likelihoods { .. } => Kind::Vocabulary,
        }
    }

    /// Rows that a sequence at `place` gets.
    pub fn rows(self, want: &Want, place: &Range<usize>) -> usize {
        match want {
            Want::Tokens { rows } => rows.len(),
            Want::Hidden => place.len(),
            _ => 1,
        }
    }
}

/// The rows of one kind, on any tape: [`Kind::Labels`] and [`Kind::Embedding`] for all sequences of the batch (`[S, …]`), the
/// others for `wants` alone, one after the other. `None` when the model does not have the head.
pub fn rows<B: Backend>(
    tape: &mut Tape<'_, B>,
    model: &Model,
    pooling: Pooling,
    hidden: &Var<B>,
    input: &Input<B>,
    kind: Kind,
    wants: &[(&Want, Range<usize>)],
) -> Option<Var<B>> {
    let backend = tape.backend();
    let take = |tape: &mut Tape<'_, B>, rows: &[u32]| tape.gather(hidden, &backend.indices(rows), rows.len());
    let dropout = model.blueprint.classifier_dropout;
    let dropped = |tape: &mut Tape<'_, B>, x: &Var<B>| {
        let dropout = tape.dropout_at(dropout);
        tape.dropout(x, dropout)
    };
    match kind {
        Kind::Labels => {
            let pooled = model.pooled(tape, hidden, input)?;
            let pooled = dropped(tape, &pooled);
            match (model.classifier(), model.multiple_choice()) {
                (Some(head), _) => Some(head.logits(tape, &pooled)),
                (None, Some(head)) => Some(head.logits(tape, &pooled)),
                (None, None) => None,
            }
        }
        Kind::Tokens => {
            let rows: Vec<u32> = wants
                .iter()
                .flat_map(|(want, place)| match want {
                    Want::Tokens { rows } => rows.iter().map(|r| place.start as u32 + r).collect(),
                    _ => Vec::new(),
                })
                .collect();
            let taken = take(tape, &rows);
            match (model.token_classifier(), model.question_answering()) {
                (Some(head), _) => {
                    let taken = dropped(tape, &taken);
                    Some(head.logits(tape, &taken))
                }
                (None, Some(head)) => Some(head.logits(tape, &taken)),
                (None, None) => None,
            }
        }
        Kind::Embedding => Some(pooling.rows(tape, hidden, &input.layout)),
        Kind::Hidden => {
            let rows: Vec<u32> = wants.iter().flat_map(|(_, place)| place.start as u32..place.end as u32).collect();
            Some(take(tape, &rows))
        }
        Kind::Vocabulary => None,
    }
}
