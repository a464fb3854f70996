//! A model: a body, its heads, and the table of all their parameters.

use cloze_tensor::{Backend, Param, Tape, Var};

use crate::adaptation::{Adaptation, Update};
use crate::block::Builder;
use crate::blueprint::{self, Blueprint};
use crate::head::choice::MultipleChoice;
use crate::head::classifier::{Classifier, Summary};
use crate::head::masked_lm::{MaskedLm, Transform};
use crate::head::next_sentence::NextSentence;
use crate::head::replaced_token::ReplacedToken;
use crate::head::span::QuestionAnswering;
use crate::head::tokens::TokenClassifier;
use crate::params::ParamTable;
use crate::transformer::{Input, Transformer};

/// What a fine-tuned model answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// Nothing: a body, or a model as pre-training leaves it.
    #[default]
    None,
    /// Labels, or numbers, of a sequence.
    Sequence,
    /// A label of each token.
    Tokens,
    /// Where an answer starts and ends.
    Span,
    /// The score of one of several choices.
    Choice,
}

/// What the logits of a sequence classifier mean; `problem_type` of config.json.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Problem {
    /// One of the labels.
    #[default]
    SingleLabel,
    /// Any of the labels.
    MultiLabel,
    /// Numbers.
    Regression,
}

/// Which heads a model has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heads {
    /// The summary of a sequence (pooler).
    pub summary: bool,
    /// The prediction head over the vocabulary.
    pub masked_lm: bool,
    /// Next sentence or sentence order.
    pub next_sentence: bool,
    /// Replaced token detection.
    pub replaced_token: bool,
    /// What it answers after fine-tuning.
    pub output: Output,
    /// What the logits of a sequence mean.
    pub problem: Problem,
    /// The labels of a sequence or token classifier, in the order of their ids; empty: none.
    pub labels: Vec<String>,
}

impl Heads {
    /// What pre-training needs.
    pub fn pretraining(next_sentence: bool) -> Self {
        Self { summary: next_sentence, masked_lm: true, next_sentence, ..Self::default() }
    }

    /// What sequence classification needs.
    pub fn classification(labels: Vec<String>) -> Self {
        Self { summary: true, output: Output::Sequence, labels, ..Self::default() }
    }

    /// What classification with any number of labels a sequence needs.
    pub fn multi_label(labels: Vec<String>) -> Self {
        Self { problem: Problem::MultiLabel, ..Self::classification(labels) }
    }

    /// What predicting a number of each sequence needs.
    pub fn regression(label: impl Into<String>) -> Self {
        Self { problem: Problem::Regression, ..Self::classification(vec![label.into()]) }
    }

    /// What token classification needs.
    pub fn token_classification(labels: Vec<String>) -> Self {
        Self { output: Output::Tokens, labels, ..Self::default() }
    }

    /// What extractive question answering needs.
    pub fn question_answering() -> Self {
        Self { output: Output::Span, ..Self::default() }
    }

    /// What multiple choice needs.
    pub fn multiple_choice() -> Self {
        Self { summary: true, output: Output::Choice, ..Self::default() }
    }

    /// A bare body, with its pooler where the family has one: what sentence embeddings need.
    pub fn body() -> Self {
        Self { summary: true, ..Self::default() }
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
    updates: Vec<Update>,
    body: Transformer,
    summary: Option<Summary>,
    masked_lm: Option<MaskedLm>,
    next_sentence: Option<NextSentence>,
    replaced_token: Option<ReplacedToken>,
    classifier: Option<Classifier>,
    token_classifier: Option<TokenClassifier>,
    question_answering: Option<QuestionAnswering>,
    multiple_choice: Option<MultipleChoice>,
}

impl Model {
    /// Lay out a model. The blueprint must be sound ([`Blueprint::fault`] is `None`).
    pub fn new(family: &'static str, blueprint: Blueprint, heads: Heads) -> Self {
        Self::laid_out(family, blueprint, heads, &Adaptation::default(), ParamTable::default())
    }

    /// Lay out a model with low-rank updates of its body's matrices. Its table has two parts: the updates and heads, then the body.
    pub fn adapted(family: &'static str, blueprint: Blueprint, heads: Heads, adaptation: &Adaptation) -> Self {
        // Once to see how long the first part is, once with the second behind it.
        let first = Self::laid_out(family, blueprint.clone(), heads.clone(), adaptation, ParamTable::parted(0));
        Self::laid_out(family, blueprint, heads, adaptation, ParamTable::parted(first.table.own_len()))
    }

    fn laid_out(family: &'static str, blueprint: Blueprint, heads: Heads, adaptation: &Adaptation, mut table: ParamTable) -> Self {
        let names = crate::registry::family(family);
        let mut b = Builder { blueprint: &blueprint, table: &mut table, family: names, adaptation, updates: Vec::new() };
        b.table.body_part(true);
        let body = Transformer::new(&mut b);
        b.table.body_part(false);
        // Where labels are read behind the prediction head's transform, it is there without the rest of that head.
        let labelled = heads.output != Output::None;
        let by_transform = labelled && blueprint.summary == blueprint::Summary::PredictionHead;
        let transform = (heads.masked_lm || by_transform).then(|| Transform::new(&mut b));
        let shared = transform.filter(|_| by_transform);
        let summary = match heads.output {
            Output::Sequence => Some(Summary::of_labels(&mut b, "summary", shared)),
            Output::Choice if !blueprint.pooler => Some(Summary::of_labels(&mut b, "choice.summary", shared)),
            Output::Choice => Some(Summary::pooler(&mut b)),
            _ => ((heads.summary || heads.next_sentence) && blueprint.pooler).then(|| Summary::pooler(&mut b)),
        };
        let masked_lm = transform.filter(|_| heads.masked_lm).map(|t| MaskedLm::new(&mut b, body.word_embedding(), t));
        let next_sentence = heads.next_sentence.then(|| NextSentence::new(&mut b));
        let replaced_token = heads.replaced_token.then(|| ReplacedToken::new(&mut b));
        let labels = heads.labels.len();
        let classifier = (heads.output == Output::Sequence).then(|| Classifier::new(&mut b, labels));
        let token_classifier = (heads.output == Output::Tokens).then(|| TokenClassifier::new(&mut b, labels, shared));
        let question_answering = (heads.output == Output::Span).then(|| QuestionAnswering::new(&mut b, shared));
        let multiple_choice = (heads.output == Output::Choice).then(|| MultipleChoice::new(&mut b));
        let updates = b.updates;
        Self {
            family,
            blueprint,
            heads,
            table,
            updates,
            body,
            summary,
            masked_lm,
            next_sentence,
            replaced_token,
            classifier,
            token_classifier,
            question_answering,
            multiple_choice,
        }
    }

    /// The table of the parameters.
    pub fn table(&self) -> &ParamTable {
        &self.table
    }

    /// The low-rank updates of its body's matrices; none unless it was adapted.
    pub fn updates(&self) -> &[Update] {
        &self.updates
    }

    /// Parameters that no loss depends on: each is added to all scores of a softmax alike. But for rounding their gradient is zero.
    pub fn shifts(&self) -> impl Iterator<Item = Param> {
        let choice = self.multiple_choice.as_ref().and_then(MultipleChoice::shift);
        let span = self.question_answering.as_ref().and_then(QuestionAnswering::shift);
        choice.into_iter().chain(span)
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

    /// The detector of replaced tokens.
    pub fn replaced_token(&self) -> Option<&ReplacedToken> {
        self.replaced_token.as_ref()
    }

    /// The sequence classifier.
    pub fn classifier(&self) -> Option<&Classifier> {
        self.classifier.as_ref()
    }

    /// The token classifier.
    pub fn token_classifier(&self) -> Option<&TokenClassifier> {
        self.token_classifier.as_ref()
    }

    /// The head that finds where an answer starts and ends.
    pub fn question_answering(&self) -> Option<&QuestionAnswering> {
        self.question_answering.as_ref()
    }

    /// The head that scores choices.
    pub fn multiple_choice(&self) -> Option<&MultipleChoice> {
        self.multiple_choice.as_ref()
    }
}
