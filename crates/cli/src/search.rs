//! `cloze search`: index a file by meaning, and ask it.

use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;

use cloze::Pipeline;
use cloze::search::{Index, build};
use cloze::task::paint::Paint;
use cloze::train::run::Precision;
use indicatif::ProgressBar;

use crate::options::{Options, print_json, print_line};
use crate::tasks::ColumnArgs;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Make an index of the texts of a file
    Index(IndexArgs),
    /// Find the texts nearest to questions
    Query(QueryArgs),
}

#[derive(clap::Args)]
pub(crate) struct IndexArgs {
    /// The folder of a model for sentence embeddings
    #[arg(long)]
    model: PathBuf,
    /// The texts: csv, tsv, jsonl, json with a text column, or lines (.txt); also .gz and .zst
    #[arg(long)]
    input: PathBuf,
    /// The folder of the index; an older index there is replaced, other files are not
    #[arg(long)]
    out: PathBuf,
    #[command(flatten)]
    columns: ColumnArgs,
    /// Keep only so many numbers of each vector
    #[arg(long)]
    dimensions: Option<usize>,
}

#[derive(clap::Args)]
pub(crate) struct QueryArgs {
    /// The model that made the index; its own one by default
    #[arg(long)]
    model: Option<PathBuf>,
    /// The folder of the index
    #[arg(long)]
    index: PathBuf,
    /// Questions; without any, lines of standard input
    question: Vec<String>,
    /// How many texts are found
    #[arg(long, default_value_t = 5)]
    top_k: usize,
}

pub(crate) fn run(command: Command, options: &Options) -> anyhow::Result<u8> {
    match command {
        Command::Index(args) => index(&args, options),
        Command::Query(args) => query(&args, options),
    }
}

fn index(args: &IndexArgs, options: &Options) -> anyhow::Result<u8> {
    let device = options.open()?;
    let pipeline = Pipeline::load(&device, &args.model, Precision::F32, None)?;
    let bar = if options.quiet { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
    // A name on the hub stays a name.
    let model = if args.model.exists() { std::path::absolute(&args.model)? } else { args.model.clone() };
    let made = build(&pipeline, &model, &args.input, &args.columns.columns(), args.dimensions, &args.out, &mut |n| {
        bar.set_message(format!("{n} texts"));
        bar.tick();
    })?;
    bar.finish_and_clear();
    if options.json {
        print_json(&made)?;
    }
    options.say(format!("{} texts, vectors of {} numbers: {}", made.count, made.width, args.out.display()));
    if made.cut > 0 {
        let read = pipeline.context().max_length;
        options.say(format!("{} of them are longer than the {read} tokens that are read: what stands behind is not found", made.cut));
    }
    Ok(0)
}

fn query(args: &QueryArgs, options: &Options) -> anyhow::Result<u8> {
    let index = Index::open(&args.index)?;
    let model = args.model.clone().unwrap_or_else(|| PathBuf::from(&index.manifest().model));
    let device = options.open()?;
    let pipeline = Pipeline::load(&device, &model, Precision::F32, None)?;
    let paint = Paint { colour: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() };
    let answer = |question: &str| -> anyhow::Result<()> {
        let hits = index.query(&pipeline, question, args.top_k)?;
        if options.json {
            return print_json(&serde_json::json!({"query": question, "hits": hits}));
        }
        print_line(question)?;
        for hit in hits {
            let text = hit.row.get("text").and_then(serde_json::Value::as_str).unwrap_or_default();
            print_line(format!("  {}  {text}", paint.colour(0, &format!("{:>7.4}", hit.score))))?;
        }
        Ok(())
    };
    if args.question.is_empty() {
        for line in std::io::stdin().lock().lines() {
            answer(line?.trim_end())?;
        }
    }
    for question in &args.question {
        answer(question)?;
    }
    Ok(0)
}
