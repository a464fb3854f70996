use std::path::PathBuf;

/// What can go wrong with a tokenizer: its files, its vocabulary, its training.
///
/// Every variant about a file names the file and the place in it, and says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A file could not be read.
    #[error("{path}: cannot be read: {source}; check that the path is right and readable")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error("{path}: cannot be written: {source}; check the folder's permissions and the free space")]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A folder holds none of the files a tokenizer is read from.
    #[error(
        "{folder}: holds neither tokenizer.json nor vocab.txt, nor vocab.json with merges.txt, nor a SentencePiece model; name the folder of a saved model or tokenizer"
    )]
    NoTokenizer {
        /// The folder.
        folder: PathBuf,
    },
    /// A text file is not UTF-8.
    #[error("{path}:{line}: is not UTF-8 (byte {byte} of the line); save the file as UTF-8")]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Line, counted from 1.
        line: usize,
        /// Byte within the line, counted from 1.
        byte: usize,
    },
    /// A vocabulary file has no pieces at all.
    #[error("{path}: is empty; expected one piece a line, the line number being its id")]
    EmptyVocabulary {
        /// The file.
        path: PathBuf,
    },
    /// A line of a vocabulary file is empty.
    #[error(
        "{path}:{line}: is empty; every line is a piece whose id is the line number, so put a placeholder such as [unused{line}] there instead of deleting the line"
    )]
    EmptyLine {
        /// The file.
        path: PathBuf,
        /// Line, counted from 1.
        line: usize,
    },
    /// A piece stands in a vocabulary file twice.
    #[error(
        "{path}:{line}: repeats {piece:?} of line {first}; rename one of them to a placeholder such as [unused{line}] (deleting it would shift all ids after it)"
    )]
    RepeatedPiece {
        /// The file.
        path: PathBuf,
        /// The second line, counted from 1.
        line: usize,
        /// The first line, counted from 1.
        first: usize,
        /// The piece.
        piece: String,
    },
    /// A file is not JSON.
    #[error("{path}:{line}:{column}: is not valid JSON: {message}; the file may be cut off or a pointer to large storage: fetch it again")]
    Json {
        /// The file.
        path: PathBuf,
        /// Line, counted from 1.
        line: usize,
        /// Column, counted from 1.
        column: usize,
        /// The parser's words.
        message: String,
    },
    /// A key of a JSON file is missing or holds something else than expected.
    #[error("{path}: {key}: expected {expected}, found {found}; {remedy}")]
    Key {
        /// The file.
        path: PathBuf,
        /// Dotted path of the key.
        key: String,
        /// What should stand there.
        expected: String,
        /// What stands there.
        found: String,
        /// What to do.
        remedy: String,
    },
    /// The vocabulary lacks a token that the tokenizer cannot work without.
    #[error(
        "{path}: the vocabulary lacks {token:?}, which is {role}; add it, or name the token that the vocabulary uses instead in tokenizer_config.json"
    )]
    MissingToken {
        /// The file, or a word for a vocabulary that is not from a file.
        path: PathBuf,
        /// The token.
        token: String,
        /// What it is for.
        role: &'static str,
    },
    /// A tokenizer of another kind could not be read or run.
    #[error(
        "{path}: not a tokenizer that can be read: {message}; compare it with a tokenizer.json saved by a current version of the tokenizers library"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The library's words.
        message: String,
    },
    /// A SentencePiece model is damaged, or of a kind that is not read.
    #[error("{path}: not a SentencePiece model that can be read: {message}")]
    SentencePiece {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A line of merges.txt is broken.
    #[error("{path}:{line}: {message}")]
    Merge {
        /// The file.
        path: PathBuf,
        /// Line, counted from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A tokenizer of another kind failed on a text.
    #[error("the tokenizer failed on a text of {bytes} bytes: {message}")]
    Encode {
        /// Length of the text.
        bytes: usize,
        /// The library's words.
        message: String,
    },
    /// Ids could not be turned into text.
    #[error("the ids cannot be turned into text: {message}")]
    Decode {
        /// The library's words.
        message: String,
    },
    /// A text is longer than offsets can say.
    #[error("a text of {bytes} bytes is longer than the {limit} that offsets can address; split it into documents")]
    TextTooLong {
        /// Length of the text.
        bytes: usize,
        /// The longest possible.
        limit: usize,
    },
    /// `max_length` leaves no room for the special tokens.
    #[error("max_length {max_length} leaves no room beside {special} special tokens; use at least {special}")]
    MaxLength {
        /// The length asked for.
        max_length: usize,
        /// Special tokens of the template.
        special: usize,
    },
    /// The vocabulary size cannot hold what must be in it.
    #[error("a vocabulary of {vocab_size} pieces cannot hold {special} special tokens and an alphabet; use at least {least}")]
    VocabularyTooSmall {
        /// The size asked for.
        vocab_size: usize,
        /// Special tokens asked for.
        special: usize,
        /// The least size that works.
        least: usize,
    },
    /// An option of vocabulary training makes no sense.
    #[error("{option}: {message}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// What is wrong and what to do.
        message: String,
    },
    /// The texts held no word to learn from.
    #[error("no words in {documents} documents ({bytes} bytes); check that the input files hold text")]
    NoWords {
        /// Documents read.
        documents: u64,
        /// Bytes read.
        bytes: u64,
    },
    /// The reader of the texts failed.
    #[error("the texts could not be read: {0}")]
    Texts(#[source] Box<dyn std::error::Error + Send + Sync>),
}
