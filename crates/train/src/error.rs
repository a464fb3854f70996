//! What can stop a run.

use std::path::PathBuf;

use crate::checkpoint::CheckpointError;
use crate::files::FileError;
use crate::schedule::ScheduleError;

/// Why a run does not start or does not go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The recipe cannot be read as one.
    #[error("{}: {problem}", path.display())]
    Recipe {
        /// The file.
        path: PathBuf,
        /// What the parser says, with line and key.
        problem: String,
    },
    /// A `--set` that is no `key=value`, or a key or value that the recipe does not take.
    #[error("--set {given}: {problem}")]
    Set {
        /// What was given.
        given: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A value of the recipe that is out of range, or does not go with another.
    #[error("{key} = {found}: expected {expected}")]
    Value {
        /// The key, dotted.
        key: &'static str,
        /// What stands there.
        found: String,
        /// What would do.
        expected: String,
    },
    /// A schedule, a budget or a ramp.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// A file could not be written or read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A checkpoint could not be written or read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The corpus, the tokenizer or a table.
    #[error(transparent)]
    Text(#[from] cloze_text::Error),
    /// The tokenizer's files.
    #[error(transparent)]
    Tokenizer(#[from] cloze_text::TokenizerError),
    /// The model's files.
    #[error(transparent)]
    Model(#[from] cloze_model::ModelError),
    /// The task's data.
    #[error(transparent)]
    Task(#[from] cloze_task::TaskError),
    /// A teacher does not answer the task.
    #[error("{} cannot teach {task}: it has no trained {head}; give a folder that `cloze predict --task {task}` answers with", folder.display())]
    TeacherHead {
        /// The teacher.
        folder: PathBuf,
        /// What the task reads.
        head: &'static str,
        /// The task.
        task: &'static str,
    },
    /// A teacher answers in other labels.
    #[error("{} cannot teach this model: {what} {found}, those of the training rows {expected}", folder.display())]
    TeacherLabels {
        /// The teacher.
        folder: PathBuf,
        /// What differs.
        what: &'static str,
        /// The teacher's.
        found: String,
        /// The student's.
        expected: String,
    },
    /// A teacher cuts text into other tokens, and the task's answers are by token.
    #[error(
        "{} cannot teach {task}, whose answers are by token: {}, line {line} has other tokens there than for this model; take a teacher with the same tokenizer",
        folder.display(),
        path.display()
    )]
    TeacherTokens {
        /// The teacher.
        folder: PathBuf,
        /// The rows.
        path: PathBuf,
        /// The first row that differs.
        line: u64,
        /// The task.
        task: &'static str,
    },
    /// A loss or a gradient is not a number; the weights were not touched.
    #[error(
        "step {step}: {what} is not finite (micro-batch {micro_batch} of the step). The weights were not updated; the last checkpoint is sound. \
         Lower optimizer.lr or optimizer.clip, or train in f32 (train.precision = \"f32\")"
    )]
    NotFinite {
        /// The step, from 1.
        step: u64,
        /// Which micro-batch of the step, from 1.
        micro_batch: usize,
        /// The loss, or the tensor whose gradient it is.
        what: String,
    },
    /// After the first step some parameters had received no gradient at all: the model would not learn them.
    #[error("no gradient reached {}: the model and its objective do not belong together", parameters.join(", "))]
    NoGradient {
        /// Their names.
        parameters: Vec<String>,
    },
    /// The run's folder holds another run.
    #[error("{} holds a run already; add --resume to go on with it, or choose another `out`", folder.display())]
    Occupied {
        /// The folder.
        folder: PathBuf,
    },
    /// There is nothing to resume.
    #[error("{} holds no complete checkpoint to resume{}", folder.display(), if skipped.is_empty() { String::new() } else { format!(" ({})", skipped.join("; ")) })]
    NothingToResume {
        /// The folder.
        folder: PathBuf,
        /// Damaged ones that were skipped, and why.
        skipped: Vec<String>,
    },
    /// A checkpoint of another model or recipe.
    #[error("{} does not belong to this run: {what} is {found}, the recipe gives {expected}", path.display())]
    OtherRun {
        /// The checkpoint.
        path: PathBuf,
        /// What differs.
        what: &'static str,
        /// In the checkpoint.
        found: String,
        /// In the recipe.
        expected: String,
    },
}
