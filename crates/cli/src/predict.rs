//! `cloze predict`: answers for arguments, a file, or standard input, as a stream.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;

use anyhow::Context;
use cloze::Pipeline;
use cloze::task::text_classification::{Columns, Examples, TextInput};
use cloze::train::run::Precision;

use crate::options::Options;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The model's folder
    #[arg(long)]
    model: PathBuf,
    /// text-classification or fill-mask; what the model is for by default
    #[arg(long)]
    task: Option<String>,
    /// Texts; without any, and without --input, lines of standard input
    text: Vec<String>,
    /// A file: csv, tsv or jsonl with a text column, or plain lines of text (.txt)
    #[arg(long, conflicts_with = "text")]
    input: Option<PathBuf>,
    /// The column of the text, or of the first of a pair; found by name otherwise
    #[arg(long, requires = "input")]
    text_column: Option<String>,
    /// The column of the second text of a pair
    #[arg(long, requires = "input")]
    pair_column: Option<String>,
    /// How many candidates (fill-mask) or labels (classification, with --json) are shown
    #[arg(long, default_value_t = 5)]
    top_k: usize,
    /// Compute in auto, f32 or bf16
    #[arg(long, default_value = "f32", value_parser = parse_precision)]
    precision: Precision,
    /// Longer texts are cut to this many tokens
    #[arg(long)]
    max_length: Option<usize>,
}

pub(crate) fn parse_precision(text: &str) -> Result<Precision, String> {
    serde_json::from_value(serde_json::json!(text)).map_err(|_| "auto, f32 or bf16".to_owned())
}

/// Answers some texts on standard output.
type Answer<'a> = Box<dyn FnMut(&[TextInput]) -> anyhow::Result<()> + 'a>;

/// Texts answered together.
const CHUNK: usize = 512;

pub(crate) fn run(args: Args, options: &Options) -> anyhow::Result<u8> {
    let device = options.open();
    let pipeline = Pipeline::load(&device, &args.model, args.precision, args.max_length)?;
    let served = pipeline.task();
    let task = args
        .task
        .as_deref()
        .or(served)
        .with_context(|| format!("{}: the model has no head that answers; fine-tune it first", args.model.display()))?;
    for name in pipeline.newly_initialised() {
        options.say(format!("warning: {name} is in no file and was newly initialised"));
    }
    let mut answer: Answer = match task {
        "text-classification" if pipeline.model().classifier().is_some() => {
            Box::new(|inputs| classify(&pipeline, inputs, args.top_k, options))
        }
        "fill-mask" if pipeline.model().masked_lm().is_some() => Box::new(|inputs| fill(&pipeline, inputs, args.top_k, options)),
        "text-classification" => anyhow::bail!("{}: the model has no classifier; make one with `cloze finetune`", args.model.display()),
        "fill-mask" => anyhow::bail!("{}: the model has no masked-LM head; give a pre-trained model", args.model.display()),
        other => anyhow::bail!("--task {other}: text-classification or fill-mask"),
    };
    if let Some(path) = &args.input {
        if path.extension().is_some_and(|e| e == "txt") {
            let file = std::fs::File::open(path).with_context(|| format!("{}: cannot read", path.display()))?;
            return lines(file, &mut answer);
        }
        let columns = Columns { text: args.text_column, pair: args.pair_column, label: None };
        let mut examples = Examples::open(path, &columns, false)?;
        loop {
            let chunk: Vec<TextInput> = examples.by_ref().take(CHUNK).map(|e| e.map(|e| e.input)).collect::<Result<_, _>>()?;
            if chunk.is_empty() {
                return Ok(0);
            }
            answer(&chunk)?;
        }
    }
    if args.text.is_empty() {
        return lines(std::io::stdin(), &mut answer);
    }
    let inputs: Vec<TextInput> = args.text.iter().map(|t| TextInput { first: t.clone(), second: None }).collect();
    answer(&inputs)?;
    Ok(0)
}

/// Answer every line as it comes: whoever types gets an answer at once, a file is answered in chunks.
fn lines<R: Read>(from: R, answer: &mut dyn FnMut(&[TextInput]) -> anyhow::Result<()>) -> anyhow::Result<u8> {
    let mut from = BufReader::with_capacity(1 << 18, from);
    let (mut chunk, mut line) = (Vec::new(), Vec::new());
    for number in 1.. {
        line.clear();
        if from.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let text = std::str::from_utf8(&line).with_context(|| format!("line {number}: not UTF-8"))?.trim_end_matches(['\r', '\n']);
        chunk.push(TextInput { first: text.to_owned(), second: None });
        if chunk.len() == CHUNK || !from.buffer().contains(&b'\n') {
            answer(&chunk)?;
            chunk.clear();
        }
    }
    if !chunk.is_empty() {
        answer(&chunk)?;
    }
    Ok(0)
}

fn classify(pipeline: &Pipeline, inputs: &[TextInput], top_k: usize, options: &Options) -> anyhow::Result<()> {
    let answers = pipeline.classify(inputs)?;
    let mut out = std::io::stdout().lock();
    for (input, answer) in inputs.iter().zip(answers) {
        if options.json {
            let scores: Vec<_> =
                answer.scores.iter().take(top_k).map(|(label, score)| serde_json::json!({"label": label, "score": score})).collect();
            let line = serde_json::json!({"text": input.first, "pair": input.second, "label": answer.label, "score": answer.score, "scores": scores});
            writeln!(out, "{line}")?;
        } else {
            let text = input.second.as_ref().map_or_else(|| input.first.clone(), |second| format!("{} | {second}", input.first));
            writeln!(out, "{:<12} {:>6.1}%  {text}", answer.label, 100.0 * answer.score)?;
        }
    }
    out.flush()?;
    Ok(())
}

fn fill(pipeline: &Pipeline, inputs: &[TextInput], top_k: usize, options: &Options) -> anyhow::Result<()> {
    for input in inputs {
        let answer = pipeline.fill_mask(&input.first, top_k)?;
        let mut out = std::io::stdout().lock();
        if options.json {
            writeln!(out, "{}", serde_json::json!({"text": input.first, "masks": answer}))?;
            continue;
        }
        writeln!(out, "{}", input.first)?;
        for (i, candidates) in answer.iter().enumerate() {
            if answer.len() > 1 {
                writeln!(out, "  mask {}:", i + 1)?;
            }
            for candidate in candidates {
                writeln!(out, "  {:>6.1}%  {:<14} {}", 100.0 * candidate.score, candidate.token_str, candidate.sequence)?;
            }
        }
        out.flush()?;
    }
    Ok(())
}
