//! Encoding and vocabulary training: ours and the `tokenizers` crate in turn on the same text.
//!
//! `CLOZE_DATA=… cargo bench -p cloze-text --bench tokenizer`

use std::hint::black_box;
use std::io::Read;
use std::time::Instant;

use cloze_text::learn::{LearnOptions, Learned, learn};
use cloze_text::tokenizer::{Encoding, Tokenizer};
use tokenizers::decoders::DecoderWrapper;
use tokenizers::models::wordpiece::{WordPiece, WordPieceTrainer};
use tokenizers::normalizers::bert::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::{AddedToken, TokenizerBuilder};

const ROUNDS: usize = 3;

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let Some(data) = std::env::var_os("CLOZE_DATA").map(std::path::PathBuf::from) else {
        println!("skipped: CLOZE_DATA is not set");
        return Ok(());
    };
    let train = !std::env::args().any(|a| a == "--encode-only");
    let english = text(&data.join("text/en_books.txt.zst"))?;
    let chinese = text(&data.join("text/zh_tech_articles.txt.zst"))?;
    let mut learned = None;
    for threads in [1, 2] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        learned = Some(pool.install(|| training(&english, threads, train))?);
    }
    let folder = tempfile::tempdir()?;
    let vocabulary = learned.ok_or("no thread count")?;
    vocabulary.tokenizer()?.save(folder.path())?;
    let (our_time, ours) = least(ROUNDS, || Tokenizer::load(folder.path()));
    let (their_time, theirs) = least(ROUNDS, || tokenizers::Tokenizer::from_file(folder.path().join("tokenizer.json")));
    let (ours, theirs) = (ours?, theirs?);
    println!("load tokenizer.json: ours {:.0} ms, tokenizers crate {:.0} ms", our_time * 1e3, their_time * 1e3);
    for (name, text) in [("English", &english), ("Chinese (English vocabulary)", &chinese)] {
        for threads in [1, 2] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
            pool.install(|| encoding(name, text, threads, &ours, &theirs))?;
        }
    }
    Ok(())
}

fn text(path: &std::path::Path) -> Result<Vec<String>, Box<dyn std::error::Error + Send + Sync>> {
    let mut text = String::new();
    ruzstd::decoding::StreamingDecoder::new(std::fs::File::open(path)?)?.read_to_string(&mut text)?;
    Ok(text.lines().map(String::from).collect())
}

fn megabytes(lines: &[String]) -> f64 {
    lines.iter().map(|line| line.len()).sum::<usize>() as f64 / 1e6
}

/// The shortest of a few runs, in seconds.
fn least<T>(rounds: usize, mut work: impl FnMut() -> T) -> (f64, T) {
    let mut best = f64::INFINITY;
    let mut run = || {
        let started = Instant::now();
        let result = black_box(work());
        best = best.min(started.elapsed().as_secs_f64());
        result
    };
    for _ in 1..rounds {
        run();
    }
    let result = run();
    (best, result)
}

fn training(lines: &[String], threads: usize, compare: bool) -> Result<Learned, Box<dyn std::error::Error + Send + Sync>> {
    let options = LearnOptions::default();
    let (ours, learned) = least(ROUNDS, || learn(lines.iter().cloned(), &options, |_| {}));
    let learned = learned?;
    println!(
        "vocabulary of {} from {:.1} MB, {threads} threads: ours {ours:.2} s ({:.1} MB/s)",
        learned.pieces.len(),
        megabytes(lines),
        megabytes(lines) / ours
    );
    if compare {
        let special: Vec<AddedToken> = options.special_tokens.iter().map(|t| AddedToken::from(t.as_str(), true)).collect();
        let (theirs, pieces) = least(1, || {
            let mut trainer = WordPieceTrainer::builder()
                .vocab_size(options.vocab_size)
                .min_frequency(options.min_frequency)
                .special_tokens(Vec::clone(&special))
                .show_progress(false)
                .build();
            let mut tokenizer = TokenizerBuilder::<_, _, _, PostProcessorWrapper, DecoderWrapper>::new()
                .with_model(WordPiece::default())
                .with_normalizer(Some(BertNormalizer::default()))
                .with_pre_tokenizer(Some(BertPreTokenizer))
                .build()?;
            tokenizer.train(&mut trainer, lines.iter())?;
            Ok::<_, tokenizers::Error>(tokenizer.get_vocab(true))
        });
        let pieces = pieces?;
        let shared = learned.pieces.iter().filter(|piece| pieces.contains_key(*piece)).count();
        println!("    tokenizers crate {theirs:.2} s: ours is {:.1} × as fast; {shared} of {} pieces shared", theirs / ours, pieces.len());
    }
    Ok(learned)
}

fn encoding(
    name: &str,
    lines: &[String],
    threads: usize,
    ours: &Tokenizer,
    theirs: &tokenizers::Tokenizer,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let megabytes = megabytes(lines);
    let (our_time, tokens) = if threads == 1 {
        let mut encoding = Encoding::default();
        least(ROUNDS, || {
            let mut tokens = 0;
            for line in lines {
                ours.encode_into(line, true, &mut encoding)?;
                tokens += encoding.len();
            }
            Ok::<_, cloze_text::TokenizerError>(tokens)
        })
    } else {
        least(ROUNDS, || Ok(ours.encode_batch(lines, true)?.iter().map(Encoding::len).sum()))
    };
    let tokens = tokens?;
    let (ids_time, _) = least(ROUNDS, || {
        let mut ids = Vec::new();
        let mut total = 0;
        for line in lines {
            ids.clear();
            let _ = ours.append_ids(line, &mut ids);
            total += ids.len();
        }
        total
    });
    let (their_time, their_tokens) = if threads == 1 {
        least(1, || {
            let encoded = lines.iter().map(|line| theirs.encode(line.as_str(), true).map(|e| e.len()));
            encoded.sum::<Result<usize, _>>()
        })
    } else {
        let inputs: Vec<&str> = lines.iter().map(String::as_str).collect();
        least(1, || Ok(theirs.encode_batch(inputs.clone(), true)?.iter().map(|e| e.len()).sum()))
    };
    assert_eq!(tokens, their_tokens?);
    println!(
        "encode {name}, {threads} threads: ours {:.1} MB/s ({:.1} M tokens/s; ids only, 1 thread: {:.1} MB/s), \
         tokenizers crate {:.2} MB/s: ours is {:.1} × as fast",
        megabytes / our_time,
        tokens as f64 / our_time / 1e6,
        megabytes / ids_time,
        megabytes / their_time,
        their_time / our_time
    );
    Ok(())
}
