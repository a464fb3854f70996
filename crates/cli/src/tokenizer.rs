//! `cloze tokenizer`: train a vocabulary, look at how a text is cut.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use cloze::text::learn::{LearnOptions, LearnProgress, VocabularyKind, try_learn};
use cloze::text::read::{Documents, OnBad, ReadOptions, expand};
use cloze::text::tokenizer::Normalization;
use cloze::text::{Error, Tokenizer, normalize};
use cloze::train::figures::grouped;
use indicatif::{ProgressBar, ProgressStyle};

use crate::options::{Options, print_json, print_line};

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Train a vocabulary; writes tokenizer.json and its configuration, and for WordPiece vocab.txt
    Train(Train),
    /// Show the pieces of texts, with their ids and places
    Encode(Encode),
}

#[derive(clap::Args)]
pub(crate) struct Train {
    /// Files, folders, patterns, or - for standard input; txt, jsonl, csv, tsv, also .gz and .zst
    #[arg(long, required = true, num_args = 1..)]
    input: Vec<String>,
    /// Pieces in all. Small models want small vocabularies: 8192 for a mini, 30000 for a base
    #[arg(long, default_value_t = 8192)]
    vocab_size: usize,
    /// The folder to write
    #[arg(long)]
    out: PathBuf,
    /// Which kind of pieces
    #[arg(long, value_enum, default_value_t = Kind::Wordpiece)]
    kind: Kind,
    /// Keep upper and lower case apart; accents stay, too
    #[arg(long)]
    cased: bool,
    /// Pairs rarer than this are not merged (wordpiece, bpe)
    #[arg(long, default_value_t = 2)]
    min_frequency: u64,
    /// The field or column that holds the text (jsonl, csv, tsv); found by name otherwise
    #[arg(long)]
    text_field: Option<String>,
    /// Pass over bad rows and lines instead of stopping at the first
    #[arg(long)]
    skip_bad: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Kind {
    /// BERT's: words in pieces, each Chinese character a word; the fastest to cut with
    Wordpiece,
    /// GPT-2's and RoBERTa's, byte-level: no text is unknown
    Bpe,
    /// ALBERT's, XLNet's and XLM-RoBERTa's: the most probable pieces; Chinese words are pieces, too
    Unigram,
}

#[derive(clap::Args)]
pub(crate) struct Encode {
    /// A folder with a tokenizer (a model, a corpus's tokenizer/, the output of `tokenizer train`)
    #[arg(long)]
    model: PathBuf,
    /// The texts
    #[arg(required = true)]
    text: Vec<String>,
}

pub(crate) fn run(command: Command, options: &Options) -> anyhow::Result<u8> {
    match command {
        Command::Train(args) => train(&args, options),
        Command::Encode(args) => encode(&args, options),
    }
}

fn train(args: &Train, options: &Options) -> anyhow::Result<u8> {
    let on_bad = if args.skip_bad { OnBad::SkipAndCount } else { OnBad::Fail };
    let read = ReadOptions { text_field: args.text_field.clone(), on_bad, ..ReadOptions::default() };
    let sources = expand(&args.input)?;
    // Before the work and not after it: a folder that cannot be made.
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot make the folder {}", args.out.display()))?;
    let skipped = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&skipped);
    let texts = sources.into_iter().flat_map(move |source| -> Box<dyn Iterator<Item = Result<String, Error>> + Send> {
        match Documents::open(&source, &read, Default::default()) {
            Ok(mut documents) => {
                let (count, mut before) = (Arc::clone(&count), 0);
                Box::new(std::iter::from_fn(move || {
                    let next = documents.next();
                    let bad = documents.faults().1.values().sum::<u64>();
                    count.fetch_add(bad - before, Ordering::Relaxed);
                    before = bad;
                    // As `prepare` does it: a vocabulary must know the characters that a corpus will have.
                    next.map(|d| d.map(|d| normalize(&d.text).into_owned()))
                }))
            }
            Err(error) => Box::new(std::iter::once(Err(error))),
        }
    });
    let mut normalization = Normalization::default();
    if args.cased {
        normalization = Normalization { lowercase: false, strip_accents: Some(false), ..normalization };
    }
    let kind = match args.kind {
        Kind::Wordpiece => VocabularyKind::WordPiece,
        Kind::Bpe => VocabularyKind::ByteBpe,
        Kind::Unigram => VocabularyKind::Unigram,
    };
    let learn =
        LearnOptions { kind, vocab_size: args.vocab_size, normalization, min_frequency: args.min_frequency, ..LearnOptions::default() };
    let bar = if options.quiet { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
    bar.set_style(ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()));
    let learned = try_learn(texts, &learn, |progress| {
        bar.set_message(match progress {
            LearnProgress::Counting { documents, bytes, distinct_words } => {
                format!("reading: {} documents, {:.1} MB, {} words", grouped(documents), bytes as f64 / 1e6, grouped(distinct_words as u64))
            }
            LearnProgress::Merging { pieces, vocab_size } => {
                format!("learning: {} pieces, {} wanted", grouped(pieces as u64), grouped(vocab_size as u64))
            }
        });
        bar.tick();
    })?;
    bar.finish_and_clear();
    let tokenizer = learned.tokenizer()?;
    tokenizer.save(&args.out)?;
    let report = &learned.report;
    let skipped = skipped.load(Ordering::Relaxed);
    if options.json {
        let mut value = serde_json::to_value(report)?;
        value["bad"] = skipped.into();
        print_json(&value)?;
    } else {
        options.say(format!(
            "{} pieces from {} documents ({:.1} MB, {} distinct words); written to {}",
            grouped(report.pieces as u64),
            grouped(report.documents),
            report.bytes as f64 / 1e6,
            grouped(report.distinct_words as u64),
            args.out.display()
        ));
        if skipped > 0 {
            options.say(format!("{} bad lines or rows were passed over", grouped(skipped)));
        }
        if report.pieces < args.vocab_size {
            let often =
                if matches!(args.kind, Kind::Unigram) { String::new() } else { format!(" that occur {} times", args.min_frequency) };
            options.say(format!("the text held no more than {} pieces{often}", grouped(report.pieces as u64)));
        }
    }
    Ok(0)
}

fn encode(args: &Encode, options: &Options) -> anyhow::Result<u8> {
    let tokenizer = Tokenizer::load(options.model(&args.model)?)?;
    for text in &args.text {
        let encoding = tokenizer.encode(text, true)?;
        let offsets = encoding.char_offsets(text);
        let token = |id: u32| if options.json { tokenizer.id_to_token(id) } else { tokenizer.readable(id) };
        let tokens: Vec<String> = encoding.ids.iter().map(|&id| token(id).unwrap_or_default()).collect();
        if options.json {
            print_json(&serde_json::json!({"text": text, "ids": encoding.ids, "tokens": tokens, "offsets": offsets}))?;
        } else {
            print_line(text)?;
            for ((token, id), (start, end)) in tokens.iter().zip(&encoding.ids).zip(&offsets) {
                print_line(format_args!("  {id:>6}  {start:>4}..{end:<4}  {token}"))?;
            }
        }
    }
    Ok(0)
}
