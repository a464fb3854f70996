//! `cloze predict`: answers for arguments, a file, or standard input, as a stream.

use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::path::PathBuf;

use anyhow::Context;
use cloze::Pipeline;
use cloze::task::paint::Paint;
use cloze::task::{Options as TaskOptions, Rows, Task};
use cloze::train::run::Precision;
use serde_json::{Map, Value};

use crate::options::Options;
use crate::tasks::{AskArgs, ColumnArgs, task_names};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The model's folder, or an adapter's, which finds its base
    #[arg(long)]
    model: PathBuf,
    /// An adapter's folder, put on the model
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// The task; what the model is for by default
    #[arg(long, value_parser = task_names())]
    task: Option<String>,
    /// Texts, or JSON objects with the values of the task; without any, and without --input, lines of standard input
    text: Vec<String>,
    /// A file: csv, tsv, jsonl, json or conll with the values of the task, or plain lines of text (.txt); also .gz and .zst
    #[arg(long, conflicts_with = "text")]
    input: Option<PathBuf>,
    #[command(flatten)]
    columns: ColumnArgs,
    #[command(flatten)]
    ask: AskArgs,
    /// Write to this file instead of standard output; if it is there, go on behind its last whole line
    #[arg(long, requires = "input")]
    out: Option<PathBuf>,
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

/// Inputs answered together.
const CHUNK: usize = 512;

/// Whoever answers inputs in order.
struct Answering<'a> {
    pipeline: &'a Pipeline<'a>,
    task: &'static dyn Task,
    ask: TaskOptions,
    json: bool,
    paint: Paint,
    out: Option<std::fs::File>,
    /// What inputs come from, for messages.
    source: String,
    /// Inputs that were longer than the model reads.
    cut: usize,
}

impl Answering<'_> {
    /// Answer inputs, each with its line or number.
    fn answer(&mut self, inputs: &[Value], lines: &[u64]) -> anyhow::Result<()> {
        let answers = match self.pipeline.answer_counting(self.task, inputs, &self.ask) {
            Ok((answers, cut)) => {
                self.cut += cut;
                answers
            }
            Err(cloze::Error::Input { place, source }) => {
                // Those before it have their answers, so that a run can go on behind them.
                if place > 0 {
                    self.answer(&inputs[..place], &lines[..place])?;
                }
                anyhow::bail!("{} {}: {source}", self.source, lines[place]);
            }
            Err(error) => return Err(error.into()),
        };
        let mut text = String::new();
        for (input, answer) in inputs.iter().zip(answers) {
            if self.json {
                let mut line = input.as_object().cloned().unwrap_or_default();
                line.retain(|_, value| !value.is_null());
                line.insert("answer".into(), answer);
                text += &Value::Object(line).to_string();
            } else {
                text += &self.task.text(self.pipeline.context(), input, &answer, self.paint);
            }
            text.push('\n');
        }
        match &mut self.out {
            Some(file) => file.write_all(text.as_bytes())?,
            None => {
                let mut out = std::io::stdout().lock();
                out.write_all(text.as_bytes())?;
                out.flush()?;
            }
        }
        Ok(())
    }

    /// An input out of a line: a JSON object, or a text.
    fn input(&self, line: &str) -> Value {
        if line.starts_with('{')
            && let Ok(object @ Value::Object(_)) = serde_json::from_str(line)
        {
            return object;
        }
        let name = self.task.fields().first().map_or("text", |f| f.name);
        Value::Object(Map::from_iter([(name.to_owned(), Value::String(line.to_owned()))]))
    }

    /// Answer every line as it comes: whoever types gets an answer at once, a file is answered in chunks.
    fn lines<R: Read>(&mut self, from: R, skip: u64) -> anyhow::Result<()> {
        let mut from = BufReader::with_capacity(1 << 18, from);
        let (mut chunk, mut numbers, mut line) = (Vec::new(), Vec::new(), Vec::new());
        for number in 1u64.. {
            line.clear();
            if from.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            if number <= skip {
                continue;
            }
            let text = std::str::from_utf8(&line).with_context(|| format!("{} {number}: not UTF-8", self.source))?;
            // Some editors and shells begin a file with a mark of its encoding.
            let text = if number == 1 { text.trim_start_matches('\u{feff}') } else { text }.trim_end_matches(['\r', '\n']);
            chunk.push(self.input(text));
            numbers.push(number);
            if chunk.len() == CHUNK || !from.buffer().contains(&b'\n') {
                self.answer(&chunk, &numbers)?;
                chunk.clear();
                numbers.clear();
            }
        }
        if !chunk.is_empty() {
            self.answer(&chunk, &numbers)?;
        }
        Ok(())
    }
}

pub(crate) fn run(args: Args, options: &Options) -> anyhow::Result<u8> {
    let device = options.open()?;
    let pipeline = match &args.adapter {
        Some(adapter) => Pipeline::load_adapted(&device, &args.model, adapter, args.precision, args.max_length)?,
        None => Pipeline::load(&device, &args.model, args.precision, args.max_length)?,
    };
    let task = pipeline.require(args.task.as_deref()).with_context(|| args.model.display().to_string())?;
    for name in pipeline.newly_initialised() {
        options.say(format!("warning: {name} is in no file and was newly initialised"));
    }
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() && args.out.is_none();
    let (out, done) = match &args.out {
        None => (None, 0),
        Some(path) => {
            let (file, lines) = resumed(path)?;
            (Some(file), lines)
        }
    };
    let json = options.json || args.out.is_some();
    let mut answering = Answering {
        pipeline: &pipeline,
        task,
        ask: args.ask.options()?,
        json,
        paint: Paint { colour },
        out,
        source: String::new(),
        cut: 0,
    };
    if done > 0 {
        options.say(format!("{done} answers are there already; going on behind them"));
    }
    all(&args, &mut answering, done)?;
    if answering.cut > 0 {
        let read = pipeline.context().max_length;
        options.say(format!("{} of the inputs were cut to the {read} tokens that the model reads", answering.cut));
    }
    Ok(0)
}

/// Answer everything that is given, but for what was answered by an earlier run.
fn all(args: &Args, answering: &mut Answering<'_>, done: u64) -> anyhow::Result<()> {
    let task = answering.task;
    if let Some(path) = &args.input {
        answering.source = format!("{}: line", path.display());
        if path.extension().is_some_and(|e| e == "txt") {
            let file = std::fs::File::open(path).with_context(|| format!("{}: cannot read", path.display()))?;
            return answering.lines(file, done);
        }
        let rows = Rows::open(path, task.fields(), &args.columns.columns(), false)?;
        let mut rows = rows.skip(usize::try_from(done).unwrap_or(usize::MAX));
        loop {
            let (mut chunk, mut lines, mut fault) = (Vec::new(), Vec::new(), None);
            for row in rows.by_ref().take(CHUNK) {
                match row {
                    Ok(row) => {
                        lines.push(row.line);
                        chunk.push(row.value);
                    }
                    // What stands before it is answered first.
                    Err(error) => {
                        fault = Some(error);
                        break;
                    }
                }
            }
            if !chunk.is_empty() {
                answering.answer(&chunk, &lines)?;
            }
            match fault {
                Some(error) => return Err(error.into()),
                None if chunk.is_empty() => return Ok(()),
                None => {}
            }
        }
    }
    if args.text.is_empty() {
        answering.source = "standard input: line".into();
        return answering.lines(std::io::stdin(), 0);
    }
    let inputs: Vec<Value> = args.text.iter().map(|t| answering.input(t)).collect();
    answering.source = "text".into();
    answering.answer(&inputs, &(1..=inputs.len() as u64).collect::<Vec<_>>())
}

/// The file of answers, cut behind its last whole line, and how many lines it has.
fn resumed(path: &std::path::Path) -> anyhow::Result<(std::fs::File, u64)> {
    use std::io::{Seek, SeekFrom};
    let cannot = || format!("{}: cannot write", path.display());
    let file = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).with_context(cannot)?;
    let (mut whole, mut lines) = (0u64, 0u64);
    let mut reader = BufReader::with_capacity(1 << 18, &file);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        if line.ends_with(b"\n") {
            whole += line.len() as u64;
            lines += 1;
        }
        line.clear();
    }
    let mut file = file;
    file.set_len(whole).with_context(cannot)?;
    file.seek(SeekFrom::Start(whole))?;
    Ok((file, lines))
}
