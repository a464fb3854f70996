//! `prepare`: input files to a corpus folder that training reads.
//!
//! ```text
//! one reader:  files → documents → normalise → drop duplicates ─┐ chunks, numbered
//! n workers:   sentences → token ids, word boundaries ──────────┤
//! one writer:  back in order → train and held-out shards ───────┘ report, manifest, rename
//! ```
//!
//! The result does not depend on the number of workers. Memory is bounded by the chunks in flight and one index per
//! open shard; only the 16-byte hashes of the documents seen grow with the input.

mod folder;
mod output;

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::dataset::Split;
use crate::error::{Error, Result};
use crate::read::{Documents, ReadOptions, Source, expand};
use crate::report::{FileReport, Report};
use crate::segment::{Segmenter, normalize};
use crate::sentence::{Language, language};
use crate::shard::EncodedDocument;
use crate::tokenizer::Tokenizer;
use folder::Folder;
use output::Output;

/// Text handed to a worker at once, in bytes.
const CHUNK: usize = 128 << 10;

/// What `prepare` reads, and how it writes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PrepareOptions {
    /// Files, folders, patterns, or `-` for standard input.
    pub inputs: Vec<String>,
    /// The corpus folder to make.
    pub out: PathBuf,
    /// How inputs are read.
    pub read: ReadOptions,
    /// Share of the documents held out for evaluation, 0 to 1; with two documents or more at least one, unless 0.
    pub holdout: f64,
    /// Documents of fewer tokens are dropped.
    pub min_tokens: usize,
    /// Join the characters of Chinese words, for whole-word and span masking.
    pub chinese_words: bool,
    /// Tokens of a shard.
    pub shard_tokens: u64,
    /// Worker threads; 0 is one per core.
    pub threads: usize,
    /// Replace a corpus that is already in `out`.
    pub overwrite: bool,
}

impl Default for PrepareOptions {
    fn default() -> Self {
        Self {
            inputs: Vec::new(),
            out: PathBuf::new(),
            read: ReadOptions::default(),
            holdout: 0.005,
            min_tokens: 4,
            chinese_words: true,
            shard_tokens: 32 << 20,
            threads: 0,
            overwrite: false,
        }
    }
}

/// How far `prepare` is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Bytes taken from the input files, before decompression.
    pub bytes_done: u64,
    /// Their total; `None` with standard input.
    pub bytes_total: Option<u64>,
    /// Documents written.
    pub documents: u64,
    /// Bytes of normalised text written.
    pub text_bytes: u64,
    /// Tokens written.
    pub tokens: u64,
    /// Seconds since the start.
    pub seconds: f64,
}

impl Progress {
    /// Text per second, in units of 10^6 bytes.
    pub fn mb_per_second(&self) -> f64 {
        if self.seconds > 0.0 { self.text_bytes as f64 / 1e6 / self.seconds } else { 0.0 }
    }
}

struct Text {
    file: usize,
    line: u64,
    hash: u128,
    text: String,
}

struct Chunk {
    number: u64,
    texts: Vec<Text>,
}

/// A document on its way to a shard.
struct Ready {
    file: usize,
    hash: u128,
    bytes: u64,
    characters: u64,
    language: Language,
    unknown: u64,
    document: EncodedDocument,
}

/// Make a corpus folder of the inputs.
///
/// `progress` is called about ten times a second; when it breaks, everything written is removed and the result is
/// [`Error::Interrupted`]. Until the last step nothing stands under the name `out`: the folder is written beside it and
/// renamed when it is complete and on the disk. What a killed run left is removed by the next.
pub fn prepare(options: &PrepareOptions, tokenizer: &Tokenizer, progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>) -> Result<Report> {
    if !(0.0..=1.0).contains(&options.holdout) {
        return Err(Error::Setting { key: "holdout", found: options.holdout.to_string(), expected: "a share from 0 to 1" });
    }
    if options.shard_tokens == 0 || options.shard_tokens > u64::from(u32::MAX) / 2 {
        return Err(Error::Setting { key: "shard_tokens", found: options.shard_tokens.to_string(), expected: "1 to 2^31 tokens" });
    }
    let sources = expand(&options.inputs)?;
    if sources.is_empty() {
        return Err(Error::NoInput { pattern: "no path at all".to_owned() });
    }
    for source in &sources {
        source.format(options.read.format)?;
    }
    let folder = Folder::create(&options.out, options.overwrite)?;
    let output = Output::new(folder.path(), tokenizer.vocab_size() as u64, options.holdout, options.shard_tokens);
    let (mut report, output) = run(options, tokenizer, &sources, output, progress)?;
    if report.documents == 0 {
        return Err(Error::NoDocuments { files: sources.len(), dropped: report.dropped.to_string() });
    }
    let manifest = output.finish(&mut report)?;
    let seconds = std::mem::take(&mut report.seconds);
    folder.complete(tokenizer, &report, &manifest)?;
    report.seconds = seconds;
    Ok(report)
}

fn run(
    options: &PrepareOptions,
    tokenizer: &Tokenizer,
    sources: &[Source],
    output: Output,
    progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<(Report, Output)> {
    let threads = match options.threads {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        n => n,
    };
    let bytes_read = Arc::new(AtomicU64::new(0));
    let window = 4 * threads + 4;
    let (chunk_sender, chunks) = sync_channel::<Chunk>(window);
    let chunks = Mutex::new(chunks);
    let (ready_sender, ready) = sync_channel::<(u64, Result<Vec<Ready>>)>(window);
    // The reader takes a credit per chunk and the writer gives it back, so that one slow chunk cannot let others pile up.
    let (credit_giver, credits) = sync_channel::<()>(window);
    for _ in 0..window {
        let _ = credit_giver.send(());
    }
    std::thread::scope(|scope| {
        let count = Arc::clone(&bytes_read);
        let reader = scope.spawn(move || read(options, sources, &count, &chunk_sender, &credits));
        for _ in 0..threads {
            let (chunks, ready_sender) = (&chunks, ready_sender.clone());
            scope.spawn(move || work(options, tokenizer, sources, chunks, &ready_sender));
        }
        drop(ready_sender);
        let mut writer = Writer { options, output, report: Report::default(), start: Instant::now(), bytes_read, sources };
        let written = writer.write(&ready, &credit_giver, progress);
        // Both ends go now: a reader or worker that still waits on them stops.
        drop((ready, credit_giver));
        let read = reader.join().map_err(|_| Error::Worker { place: "reading" })?;
        // A writer that stops early makes the reader stop too: its own fault is the first.
        written?;
        let Reading { files, bad_kinds, bad_places } = read?;
        let mut report = writer.report;
        for (into, from) in report.files.iter_mut().zip(files) {
            into.path = from.path;
            into.dropped.duplicate = from.dropped.duplicate;
            into.dropped.empty = from.dropped.empty;
            into.dropped.bad = from.dropped.bad;
        }
        for file in &report.files {
            report.dropped.duplicate += file.dropped.duplicate;
            report.dropped.empty += file.dropped.empty;
            report.dropped.bad += file.dropped.bad;
            report.dropped.too_short += file.dropped.too_short;
        }
        (report.bad_kinds, report.bad_places) = (bad_kinds, bad_places);
        report.seconds = writer.start.elapsed().as_secs_f64();
        Ok((report, writer.output))
    })
}

#[derive(Default)]
struct Reading {
    files: Vec<FileReport>,
    bad_kinds: BTreeMap<String, u64>,
    bad_places: Vec<String>,
}

/// Read, normalise and drop repeated documents, and hand out numbered chunks. Stops early when the writer is gone.
fn read(
    options: &PrepareOptions,
    sources: &[Source],
    bytes_read: &Arc<AtomicU64>,
    chunks: &SyncSender<Chunk>,
    credits: &Receiver<()>,
) -> Result<Reading> {
    let mut reading = Reading::default();
    let mut seen: HashSet<u128> = HashSet::new();
    let mut chunk = Chunk { number: 0, texts: Vec::new() };
    let mut size = 0;
    // False when nobody listens any more.
    let send = |chunk: &mut Chunk| {
        let next = Chunk { number: chunk.number + 1, texts: Vec::new() };
        credits.recv().is_ok() && chunks.send(std::mem::replace(chunk, next)).is_ok()
    };
    for (file, source) in sources.iter().enumerate() {
        let mut report = FileReport { path: source.path().display().to_string(), ..FileReport::default() };
        let mut documents = Documents::open(source, &options.read, Arc::clone(bytes_read))?;
        for document in &mut documents {
            let document = document?;
            let text = normalize(&document.text);
            if text.is_empty() {
                report.dropped.empty += 1;
                continue;
            }
            let hash = xxh3_128(text.as_bytes());
            if !seen.insert(hash) {
                report.dropped.duplicate += 1;
                continue;
            }
            size += text.len();
            let text = text.into_owned();
            chunk.texts.push(Text { file, line: document.line, hash, text });
            if size >= CHUNK {
                size = 0;
                if !send(&mut chunk) {
                    return Ok(reading);
                }
            }
        }
        let (faults, kinds) = documents.faults();
        report.dropped.bad = kinds.values().sum();
        for (kind, count) in kinds {
            *reading.bad_kinds.entry((*kind).to_owned()).or_default() += count;
        }
        let room = 20usize.saturating_sub(reading.bad_places.len());
        reading.bad_places.extend(faults.iter().take(room).map(ToString::to_string));
        reading.files.push(report);
    }
    if !chunk.texts.is_empty() {
        send(&mut chunk);
    }
    Ok(reading)
}

/// Encode chunks until there are none left.
fn work(
    options: &PrepareOptions,
    tokenizer: &Tokenizer,
    sources: &[Source],
    chunks: &Mutex<Receiver<Chunk>>,
    ready: &SyncSender<(u64, Result<Vec<Ready>>)>,
) {
    let mut segmenter = Segmenter::new(tokenizer, options.chinese_words);
    let unk = tokenizer.special().unk;
    loop {
        let Ok(chunk) = chunks.lock().unwrap_or_else(PoisonError::into_inner).recv() else { return };
        let encode = |text: Text| {
            let document = segmenter.encode(&text.text).map_err(|source| Error::Encode {
                path: sources[text.file].path().to_path_buf(),
                line: text.line,
                source: Box::new(source),
            })?;
            Ok(Ready {
                file: text.file,
                hash: text.hash,
                bytes: text.text.len() as u64,
                characters: text.text.chars().count() as u64,
                language: language(&text.text),
                unknown: document.ids.iter().filter(|&&id| Some(id) == unk).count() as u64,
                document,
            })
        };
        // A panic must reach the writer as an error: it would wait for this chunk for ever.
        let number = chunk.number;
        let documents = catch_unwind(AssertUnwindSafe(|| chunk.texts.into_iter().map(encode).collect()));
        if ready.send((number, documents.unwrap_or(Err(Error::Worker { place: "encoding" })))).is_err() {
            return;
        }
    }
}

struct Writer<'a> {
    options: &'a PrepareOptions,
    output: Output,
    report: Report,
    start: Instant,
    bytes_read: Arc<AtomicU64>,
    sources: &'a [Source],
}

impl Writer<'_> {
    /// Write chunks in their order until the workers are done.
    fn write(
        &mut self,
        ready: &Receiver<(u64, Result<Vec<Ready>>)>,
        credits: &SyncSender<()>,
        progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<()> {
        let total = self.sources.iter().map(Source::bytes).sum::<Option<u64>>();
        self.report.files = vec![FileReport::default(); self.sources.len()];
        let mut waiting: BTreeMap<u64, Vec<Ready>> = BTreeMap::new();
        let (mut next, mut told) = (0u64, Instant::now());
        let pause = Duration::from_millis(100);
        loop {
            let ended = match ready.recv_timeout(pause) {
                Ok((number, documents)) => {
                    waiting.insert(number, documents?);
                    false
                }
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => true,
            };
            while let Some(documents) = waiting.remove(&next) {
                for document in documents {
                    self.push(document)?;
                }
                next += 1;
                let _ = credits.try_send(());
            }
            if ended || told.elapsed() >= pause {
                told = Instant::now();
                let now = Progress {
                    bytes_done: self.bytes_read.load(Ordering::Relaxed),
                    bytes_total: total,
                    documents: self.report.documents,
                    text_bytes: self.report.bytes,
                    tokens: self.report.tokens,
                    seconds: self.start.elapsed().as_secs_f64(),
                };
                if progress(&now).is_break() {
                    return Err(Error::Interrupted);
                }
            }
            if ended {
                return Ok(());
            }
        }
    }

    fn push(&mut self, ready: Ready) -> Result<()> {
        let report = &mut self.report;
        let file = &mut report.files[ready.file];
        let tokens = ready.document.ids.len() as u64;
        if ready.document.ids.len() < self.options.min_tokens.max(1) {
            file.dropped.too_short += 1;
            return Ok(());
        }
        file.documents += 1;
        file.characters += ready.characters;
        file.tokens += tokens;
        report.documents += 1;
        report.sentences += ready.document.sentence_ends.len() as u64;
        report.tokens += tokens;
        report.characters += ready.characters;
        report.bytes += ready.bytes;
        report.unknown_tokens += ready.unknown;
        *report.languages.entry(ready.language).or_default() += 1;
        report.count_length(tokens);
        self.output.push(ready.hash, ready.document)
    }
}

/// Which split a document belongs to, by its content alone.
fn split_of(hash: u128, holdout: f64) -> Split {
    // The upper half of the hash as a fraction of 2^64.
    let place = (hash >> 64) as u64 as f64 / 18_446_744_073_709_551_616.0;
    if place < holdout { Split::Heldout } else { Split::Train }
}
