//! The command line: one file per command, no logic of its own.

mod attention;
mod bench;
mod config;
mod convert;
mod dashboard;
mod evaluate;
mod export;
mod finetune;
mod inspect;
mod options;
mod predict;
mod prepare;
mod pretrain;
mod progress;
mod quantize;
mod quickstart;
mod search;
mod serve;
mod signals;
mod tasks;
mod tokenizer;

use std::path::PathBuf;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use options::Options;

/// Raw text to a served BERT model, in one program.
///
/// Start with `cloze quickstart`: it makes a small world of text, trains a vocabulary, pre-trains a tiny BERT, fine-tunes it
/// as a classifier, and shows what pre-training was worth. Then the same with your own text:
///
///   cloze tokenizer train --input corpus.txt --vocab-size 8192 --out vocabulary
///   cloze prepare --input corpus.txt --tokenizer vocabulary --out corpus
///   cloze pretrain recipes/english-mini.toml --set data.dir=corpus
///   cloze finetune --model runs/english-mini/model --train train.tsv --dev dev.tsv --out runs/classifier
///   cloze predict --model runs/classifier/model "a text to classify"
///   cloze serve --model runs/classifier/model
///
/// Exit codes: 0 done; 1 it could not be done, and the last line says why; 2 the command line is wrong; 130 and 143 a training
/// run was interrupted and has saved its state.
#[derive(Parser)]
#[command(name = "cloze", version, max_term_width = 110, verbatim_doc_comment)]
struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The main job from end to end, on generated or on your own text
    Quickstart(quickstart::Args),
    /// Train a vocabulary, or look at how a text is cut
    #[command(subcommand)]
    Tokenizer(tokenizer::Command),
    /// Turn raw text into a corpus to pre-train on
    Prepare(prepare::Args),
    /// Pre-train a model from a recipe
    Pretrain(pretrain::Args),
    /// Fine-tune a pre-trained model on labelled rows
    Finetune(finetune::Args),
    /// Figures of a model on labelled rows
    Evaluate(evaluate::Args),
    /// Answers for texts given as arguments, in a file or on standard input
    Predict(predict::Args),
    /// A checkpoint of PyTorch or TensorFlow as a Hugging Face folder
    Convert(convert::Args),
    /// A model for other runtimes, as ONNX
    Export(export::Args),
    /// A model in a quarter of its size, checked on your rows
    Quantize(quantize::Args),
    /// Index a file by meaning, and ask it
    #[command(subcommand)]
    Search(search::Command),
    /// An HTTP server for a model: text-embeddings-inference, OpenAI embeddings, every task, and a page
    Serve(Box<serve::Args>),
    /// Which token looks at which, in every head
    Attention(attention::Args),
    /// What a model, a corpus or a tokenizer folder holds
    Inspect(inspect::Args),
    /// Time the training step
    #[command(subcommand)]
    Bench(bench::Command),
}

/// The command line, over the values of a configuration file where one is named.
fn arguments() -> Result<Cli, config::ConfigError> {
    let mut matches = Cli::command().get_matches();
    if let Some(("serve", serve)) = matches.subcommand()
        && let Some(path) = serve.get_one::<PathBuf>("config")
    {
        matches = config::with_file(&Cli::command, "serve", path)?.get_matches();
    }
    Ok(Cli::from_arg_matches(&matches).unwrap_or_else(|e| e.exit()))
}

fn main() -> std::process::ExitCode {
    let cli = match arguments() {
        Ok(cli) => cli,
        Err(error) => {
            eprintln!("error: {error}");
            return 2.into();
        }
    };
    let options = &cli.options;
    let done = match cli.command {
        Command::Quickstart(args) => quickstart::run(args, options),
        Command::Tokenizer(command) => tokenizer::run(command, options),
        Command::Prepare(args) => prepare::run(args, options),
        Command::Pretrain(args) => pretrain::run(args, options),
        Command::Finetune(args) => finetune::run(args, options),
        Command::Evaluate(args) => evaluate::run(args, options),
        Command::Predict(args) => predict::run(args, options),
        Command::Convert(args) => convert::run(args, options),
        Command::Export(args) => export::run(args, options),
        Command::Quantize(args) => quantize::run(args, options),
        Command::Search(command) => search::run(command, options),
        Command::Serve(args) => serve::run(*args, options),
        Command::Attention(args) => attention::run(args, options),
        Command::Inspect(args) => inspect::run(args, options),
        Command::Bench(command) => bench::run(command, options),
    };
    match done {
        Ok(code) => code.into(),
        // A closed pipe (`cloze predict … | head`) is the reader's wish, not a fault.
        Err(error) if closed_pipe(&error) => 0.into(),
        Err(error) => {
            eprintln!("error: {}", told(&error));
            1.into()
        }
    }
}

/// The error and its causes; a cause that is told already is not told twice.
pub(crate) fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            let between = if text.is_empty() { "" } else { ": " };
            text = format!("{text}{between}{cause}");
        }
    }
    text
}

fn closed_pipe(error: &anyhow::Error) -> bool {
    // serde_json keeps the cause of its own error to itself, and tells its kind.
    let kind = |e: &(dyn std::error::Error + 'static)| match e.downcast_ref::<std::io::Error>() {
        Some(error) => Some(error.kind()),
        None => e.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind),
    };
    error.chain().any(|e| kind(e) == Some(std::io::ErrorKind::BrokenPipe))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn a_pipe_that_closes_within_a_line_of_json_is_no_fault() {
        struct Closed;
        impl std::io::Write for Closed {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let error = serde_json::to_writer(Closed, &[1, 2]).unwrap_err();
        assert!(closed_pipe(&error.into()));
        assert!(!closed_pipe(&serde_json::from_str::<u8>("x").unwrap_err().into()));
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
