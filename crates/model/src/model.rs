//! A model: a body, its heads, and the table of all their parameters.

use cloze_tensor::{Backend, Tape, Var};

use crate::block::Builder;
use crate::blueprint::{self, Blueprint};
use crate::head::classifier::{Classifier, Summary};
use crate::head::masked_lm::{self, MaskedLm};
use crate::head::next_sentence::NextSentence;
use crate::params::ParamTable;
use crate::transformer::{Input, Transformer};

/// Which heads a model has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heads {
    /// The summary of a sequence (pooler).
    pub summary: bool,
    /// The prediction head over the vocabulary.
    pub masked_lm: bool,
    /// Next sentence or sentence order.
    pub next_sentence: bool,
    /// The labels of a sequence classifier, in the order of their ids; empty: none.
    pub labels: Vec<String>,
}

impl Heads {
    /// What pre-training needs.
    pub fn pretraining(next_sentence: bool) -> Self {
        Self { summary: next_sentence, masked_lm: true, next_sentence, labels: Vec::new() }
    }

    /// What sequence classification needs.
    pub fn classification(labels: Vec<String>) -> Self {
        Self { summary: true, labels, ..Self::default() }
    }
}

/// A model without its values: they stand in the flat buffers that [`Model::table`] describes.
#[derive(Clone, Debug)]
pub struct Model {
    /// `model_type` of its family.
    pub family: &'static str,
    /// The shape of the body.
    pub blueprint: Blueprint,
    /// Which heads it has.
    pub heads: Heads,
    table: ParamTable,
    body: Transformer,
    summary: Option<Summary>,
    masked_lm: Option<MaskedLm>,
    next_sentence: Option<NextSentence>,
    classifier: Option<Classifier>,
}

impl Model {
    /// Lay out a model. The blueprint must be sound ([`Blueprint::fault`] is `None`).
    pub fn new(family: &'static str, blueprint: Blueprint, heads: Heads) -> Self {
        let mut table = ParamTable::default();
        let mut b = Builder { blueprint: &blueprint, table: &mut table };
        let body = Transformer::new(&mut b);
        let wants_summary = heads.summary || heads.next_sentence || !heads.labels.is_empty();
        let by_prediction_head = wants_summary && blueprint.summary == blueprint::Summary::PredictionHead;
        let transform = (heads.masked_lm || by_prediction_head).then(|| masked_lm::transform(&mut b));
        let summary = wants_summary.then(|| Summary::new(&mut b, transform));
        let masked_lm = heads.masked_lm.then(|| MaskedLm::new(&mut b, body.word_embedding(), transform));
        let next_sentence = heads.next_sentence.then(|| NextSentence::new(&mut b));
        let classifier = (!heads.labels.is_empty()).then(|| Classifier::new(&mut b, heads.labels.len()));
        Self { family, blueprint, heads, table, body, summary, masked_lm, next_sentence, classifier }
    }

    /// The table of the parameters.
    pub fn table(&self) -> &ParamTable {
        &self.table
    }

    /// The body.
    pub fn body(&self) -> &Transformer {
        &self.body
    }

    /// Hidden states of the last layer. // → [T, H]
    pub fn hidden<'a, B: Backend>(&self, tape: &mut Tape<'a, B>, input: &Input<B>, recompute: bool) -> Var<B> {
        self.body.forward(tape, input, recompute)
    }

    /// One row a sequence; `None` without a summary. // [T, H] → [S, H]
    pub fn pooled<B: Backend>(&self, tape: &mut Tape<'_, B>, hidden: &Var<B>, input: &Input<B>) -> Option<Var<B>> {
        Some(self.summary?.pooled(tape, hidden, &input.layout, self.blueprint.pooling))
    }

    /// The prediction head.
    pub fn masked_lm(&self) -> Option<&MaskedLm> {
        self.masked_lm.as_ref()
    }

    /// The sentence head.
    pub fn next_sentence(&self) -> Option<&NextSentence> {
        self.next_sentence.as_ref()
    }

    /// The sequence classifier.
    pub fn classifier(&self) -> Option<&Classifier> {
        self.classifier.as_ref()
    }
}
