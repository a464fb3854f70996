//! What can be wrong with model files.

use std::path::PathBuf;

/// A fault of a model folder or of one of its files. Each says which file, what is wrong, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file could not be read or written.
    #[error("{path}: cannot {action}: {cause}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        cause: std::io::Error,
    },
    /// The folder does not hold a model.
    #[error(
        "{folder} is not a model folder: it has no {missing}; give a folder written by `cloze pretrain`, `cloze finetune` or save_pretrained"
    )]
    NotAModel {
        /// The folder.
        folder: PathBuf,
        /// The file that is not there.
        missing: &'static str,
    },
    /// A JSON file does not parse.
    #[error("{path}: line {line}, column {column}: not valid JSON: {problem}")]
    Json {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What the parser says.
        problem: String,
    },
    /// A key of the configuration is missing or has a value of another kind.
    #[error("{path}: key `{key}`: expected {expected}, found {found}")]
    Key {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What should stand there.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// The configuration names something that Cloze does not have.
    #[error("{path}: `{key}` is \"{found}\"; Cloze reads {known}")]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What stands there.
        found: String,
        /// What would do.
        known: String,
    },
    /// Sizes do not fit together.
    #[error("{path}: the sizes do not fit together: {fault}")]
    Sizes {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        fault: String,
    },
    /// A tensor file is damaged.
    #[error("{path}: not a sound safetensors file: {fault}; get the file again")]
    Tensors {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        fault: String,
    },
    /// A tensor has another shape than the configuration says.
    #[error(
        "{path}: tensor `{name}` has shape {found:?}, the configuration says {expected:?}; config.json and weights do not belong together"
    )]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The shape in the file.
        found: Vec<usize>,
        /// The shape that the configuration gives.
        expected: Vec<usize>,
    },
    /// A tensor is of an element kind that holds no weights.
    #[error("{path}: tensor `{name}` is of type {found}; weights are F32, F16, BF16 or F64")]
    TensorType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        found: String,
    },
    /// A path in a file (a shard index, modules.json) leaves the folder.
    #[error("{path}: `{name}` points to \"{target}\", outside of the folder; refused")]
    Escapes {
        /// The file that says so.
        path: PathBuf,
        /// The tensor or the key.
        name: String,
        /// Where it points.
        target: String,
    },
    /// The weights are a PyTorch pickle.
    #[error(
        "{folder} holds its weights as pytorch_model.bin, a program in Python's pickle format; `cloze convert --from {folder} --out NEW` reads it without running anything and writes safetensors"
    )]
    Unconverted {
        /// The folder.
        folder: PathBuf,
    },
    /// A shard lacks a tensor that the index promises.
    #[error("{path}: `{name}` should be in {shard}, which does not hold it; get the shard again")]
    NotInShard {
        /// The index.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Where it should be.
        shard: PathBuf,
    },
    /// A file is longer than any sound one.
    #[error("{path}: {bytes} bytes, above the limit of {limit} for a file of its kind")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// The longest that is read.
        limit: u64,
    },
    /// A container of another framework is damaged or of a kind that is not read.
    #[error("{path}: not a sound {format}: {fault}")]
    Container {
        /// The file.
        path: PathBuf,
        /// What it should be.
        format: &'static str,
        /// What is wrong, and where.
        fault: String,
    },
    /// A pickle wants to do more than describe tensors.
    #[error("{path}: the pickle asks for `{what}`, which describes no tensor; refused, and nothing of it was run")]
    Refused {
        /// The file.
        path: PathBuf,
        /// The function or operation.
        what: String,
    },
    /// A part of a model that the ONNX export does not know.
    #[error("this {family} model cannot be exported: the export does not know {what}")]
    Export {
        /// Its family.
        family: &'static str,
        /// The part.
        what: String,
    },
    /// A target of a low-rank adaptation means no matrix of the model.
    #[error("no matrix of this {family} model is called \"{target}\"; its layers have {known}, or all-linear for all of them")]
    Target {
        /// What was asked for.
        target: String,
        /// The model's family.
        family: &'static str,
        /// What its layers have.
        known: String,
    },
    /// A model folder was expected, and this is an adapter's.
    #[error("{folder} is an adapter (it has {file}), not a model; `cloze convert --from {folder} --out NEW` merges it into its base")]
    IsAdapter {
        /// The folder.
        folder: PathBuf,
        /// What says so.
        file: &'static str,
    },
    /// An adapter does not say what it was made for.
    #[error("{path}: `base_model_name_or_path` names no model; give the base with --model BASE --adapter {}", path.parent().unwrap_or(path).display())]
    NoBase {
        /// Its configuration.
        path: PathBuf,
    },
    /// A tensor of an adapter has no place in the model.
    #[error("{path}: tensor `{name}` has no place in a {family} model with {heads}; the adapter was made for another model")]
    NotOfBase {
        /// The adapter's file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The base's family.
        family: &'static str,
        /// What was laid out.
        heads: String,
    },
    /// A description of sentence-transformers modules is broken.
    #[error("{path}: {fault}")]
    Modules {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        fault: String,
    },
}

impl ModelError {
    pub(crate) fn io(path: &std::path::Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |cause| ModelError::Io { path: path.to_owned(), action, cause }
    }
}
