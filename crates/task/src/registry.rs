//! The list of tasks.

use crate::error::TaskError;
use crate::task::Task;

/// All tasks.
pub static TASKS: [&dyn Task; 12] = [
    &crate::text_classification::TextClassification,
    &crate::token_classification::TokenClassification,
    &crate::question_answering::QuestionAnswering,
    &crate::sentence_embedding::SentenceEmbedding,
    &crate::sentence_similarity::SentenceSimilarity,
    &crate::rerank::Rerank,
    &crate::multiple_choice::MultipleChoice,
    &crate::zero_shot::ZeroShot,
    &crate::fill_mask::FillMask,
    &crate::masked_lm_scoring::MaskedLmScoring,
    &crate::extractive_summarization::ExtractiveSummarization,
    &crate::recommendation::Recommendation,
];

/// The task of that name.
pub fn task(name: &str) -> Option<&'static dyn Task> {
    TASKS.into_iter().find(|t| t.name() == name)
}

/// The task of that name, or an error that lists them.
pub fn require(name: &str) -> Result<&'static dyn Task, TaskError> {
    let known = || TASKS.map(|t| t.name()).join(", ");
    task(name).ok_or_else(|| TaskError::UnknownTask { found: name.to_owned(), known: known() })
}
