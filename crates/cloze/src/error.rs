//! One error for all that the library does.

/// Why something could not be done; each variant carries the full story of its crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Text, corpora, tables.
    #[error(transparent)]
    Text(#[from] cloze_text::Error),
    /// Tokenizers.
    #[error(transparent)]
    Tokenizer(#[from] cloze_text::TokenizerError),
    /// Model files.
    #[error(transparent)]
    Model(#[from] cloze_model::ModelError),
    /// A task's data.
    #[error(transparent)]
    Task(#[from] cloze_task::TaskError),
    /// One of several inputs cannot be answered.
    #[error("input {}: {source}", place + 1)]
    Input {
        /// Which of them, from 0.
        place: usize,
        /// Why.
        source: cloze_task::TaskError,
    },
    /// A row of a file cannot be answered.
    #[error("{}: line {line}: {source}", path.display())]
    Row {
        /// The file.
        path: std::path::PathBuf,
        /// Its line, from 1; in a parquet or json file its number.
        line: u64,
        /// Why.
        source: cloze_task::TaskError,
    },
    /// Training.
    #[error(transparent)]
    Train(#[from] cloze_train::TrainError),
    /// A model by name.
    #[error(transparent)]
    Hub(#[from] crate::hub::HubError),
    /// A device that is not known.
    #[error("device \"{found}\" is not known; there are auto, cpu, cuda and cuda:<number>")]
    Device {
        /// What was asked for.
        found: String,
    },
    /// A GPU that cannot be used.
    #[error(transparent)]
    Cuda(#[from] cloze_cuda::CudaError),
    /// Heads that cannot be switched off.
    #[error(transparent)]
    Ablation(#[from] crate::attention::AblationError),
    /// An index that cannot be searched.
    #[error(transparent)]
    Search(#[from] crate::search::SearchError),
    /// The generated world.
    #[error(transparent)]
    World(#[from] crate::world::WorldError),
    /// A file of the program's own could not be written.
    #[error(transparent)]
    File(#[from] cloze_train::files::FileError),
}
