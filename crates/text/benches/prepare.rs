//! Speed and memory of `prepare`, end to end, on real text: zstd in, checked shards out.
//!
//!     CLOZE_DATA=… cargo bench -p cloze-text --bench prepare
//!
//! `CLOZE_DATA` is a folder with `text/en_books.txt.zst`, `text/zh_tech_articles.txt.zst` and
//! `vocab/bert-base-uncased.vocab.txt.zst` (Chinese: `vocab/bert-base-chinese.vocab.txt.zst`). Every size runs in a
//! process of its own, so that peak memory is that of the one run.

use std::io::Read;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use cloze_text::{Dataset, Limits, Masking, ObjectiveConfig, PrepareOptions, Sampler, Split, Tokenizer, Vocabulary, prepare};

fn unpack(path: &Path) -> String {
    let file = std::fs::File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut text = String::new();
    ruzstd::decoding::StreamingDecoder::new(file).expect("a zstd file").read_to_string(&mut text).expect("UTF-8");
    text
}

/// Peak resident memory of this process, in 10^6 bytes.
fn peak_memory() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or("VmHWM: 0 kB");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) * 1024.0 / 1e6
}

/// Processor time of this process so far, all threads, in seconds: what a busy machine does not disturb.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Fields 14 and 15, in ticks of 1/100 s; the name in field 2 may hold blanks.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    after_name.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn one(input: &str, vocabulary: &str, out: &str) {
    let tokenizer = Tokenizer::load(vocabulary).expect("a vocabulary");
    let options = PrepareOptions { inputs: vec![input.into()], out: PathBuf::from(out), overwrite: true, ..PrepareOptions::default() };
    let report = prepare(&options, &tokenizer, &mut |_| ControlFlow::Continue(())).expect("prepared");
    let speed = report.bytes as f64 / 1e6 / report.seconds;
    println!(
        "{:>7.1} MB  {:>6.2} s  {speed:>6.2} MB/s  {:>6.2} MB/s a core  {:>6.2} M tokens/s  peak {:>4.0} MB  ({} documents)",
        report.bytes as f64 / 1e6,
        report.seconds,
        report.bytes as f64 / 1e6 / processor_seconds(),
        report.tokens as f64 / 1e6 / report.seconds,
        peak_memory(),
        report.documents
    );
    // What training then takes from it: every sample of an epoch, masked by whole words.
    let dataset = Arc::new(Dataset::open(out, Split::Train).expect("a corpus"));
    let config = ObjectiveConfig { masking: Masking::WholeWord, ..ObjectiveConfig::default() };
    let vocabulary = Vocabulary::of(&tokenizer).expect("special tokens");
    let sampler = Sampler::new(dataset, config, vocabulary, 1).expect("a sampler");
    let start = Instant::now();
    let samples = sampler.samples(128).expect("samples");
    let table = start.elapsed().as_secs_f64();
    let (mut cursor, mut tokens, start) = (0, 0, Instant::now());
    while cursor < samples {
        let (batch, next) = sampler.batch(cursor, Limits { tokens: 8192, sequence_length: 128 }).expect("a batch");
        (cursor, tokens) = (next, tokens + batch.tokens());
    }
    let speed = tokens as f64 / 1e6 / start.elapsed().as_secs_f64();
    println!("    {samples} samples of 128 found in {:.1} ms; batches at {speed:.2} M tokens/s on one core", 1e3 * table);
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|a| a == "--one") {
        return one(&arguments[at + 1], &arguments[at + 2], &arguments[at + 3]);
    }
    let Ok(data) = std::env::var("CLOZE_DATA") else {
        println!("skipped: CLOZE_DATA is not set");
        return;
    };
    let data = Path::new(&data);
    let work = tempfile::tempdir().expect("a temporary folder");
    let this = std::env::current_exe().expect("this program");
    for (name, text, vocabulary) in
        [("English", "en_books", "bert-base-uncased.vocab"), ("Chinese", "zh_tech_articles", "bert-base-chinese.vocab")]
    {
        let vocab_path = work.path().join(format!("{vocabulary}.txt"));
        std::fs::write(&vocab_path, unpack(&data.join(format!("vocab/{vocabulary}.txt.zst")))).expect("written");
        let packed = data.join(format!("text/{text}.txt.zst"));
        let plain = unpack(&packed);
        let four = work.path().join(format!("{text}-4.txt"));
        // Every copy gets a first line of its own, or its documents would be dropped as repeated.
        let copies: Vec<String> = (0..4)
            .map(|copy| {
                let documents: Vec<String> =
                    plain.split("\n\n").enumerate().map(|(i, d)| format!("Copy {copy} of {i}.\n{}", d.trim())).collect();
                documents.join("\n\n")
            })
            .collect();
        std::fs::write(&four, copies.join("\n\n")).expect("written");
        let rounds = if arguments.iter().any(|a| a == "--quick") { 1 } else { 3 };
        for (size, input) in [("1x", &packed), ("4x", &four)] {
            for _ in 0..rounds {
                print!("{name} {size} ");
                let out = work.path().join("corpus");
                let output = Command::new(&this).arg("--one").args([input.as_path(), &vocab_path, &out]).output().expect("run");
                print!("{}", String::from_utf8_lossy(&output.stdout));
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            }
        }
    }
}
