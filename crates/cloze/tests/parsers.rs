//! The parsers of the fuzz targets on mutants of sound files: none panics, whatever the bytes are.

#[path = "../../../fuzz/src/parsers.rs"]
#[allow(unreachable_pub, dead_code)]
mod parsers;

use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use cloze::tensor::random::{Key, Stream};
use cloze::text::{MANIFEST, Manifest, PrepareOptions, Tokenizer, prepare};
use cloze::train::checkpoint::Checkpoints;

const MUTANTS: u32 = 200;

/// Some bytes are others; parts are cut out, doubled, or cut off. Most changes hit the head, where the structure is.
fn mutant(sound: &[u8], place: u32, number: u32) -> Vec<u8> {
    let key = Key::new(23, Stream::Sampling, u64::from(place), number);
    let mut bytes = sound.to_vec();
    for i in 0..=u64::from(key.below(0, 6)) {
        let within = if key.below(5 * i + 1, 4) > 0 { bytes.len().min(2000) } else { bytes.len() };
        let at = key.below(5 * i + 2, within.max(1) as u32) as usize;
        let end = (at + key.below(5 * i + 3, 30) as usize).min(bytes.len());
        match key.below(5 * i + 4, 10) {
            0 if at < end => drop(bytes.drain(at..end)),
            1 if at < end => {
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            2 => bytes.truncate(end),
            3 if at < bytes.len() => bytes[at] = [0, 0xff, b'9', b'"', b'-', b'\n', b'{', b'\\'][key.below(5 * i + 5, 8) as usize],
            4 => bytes.splice(at.min(bytes.len())..at.min(bytes.len()), *b"99999999").for_each(drop),
            _ if at < bytes.len() => bytes[at] = key.below(5 * i + 5, 256) as u8,
            _ => {}
        }
    }
    bytes
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/bert-tiny").join(name)).unwrap()
}

fn other(path: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(path)).unwrap()
}

const RECIPE: &str = r#"
out = "run"
seed = 4
data.dir = "corpus"
model = { size = "tiny", max_position_embeddings = 64, dropout = 0.1 }
objective = { masking = "whole_word", mask_probability = 0.2 }
train = { budget = "1h30m", batch_tokens = { from = 150, to = 400, until = 0.7 }, sequence_length = [[0.0, 16], [0.4, 32]] }
optimizer = { rule = "muon", lr = 1e-3, ema = 0.9 }
schedule = { kind = "one-cycle", warmup = 0.3 }
evaluation = { every = "10%", tokens = 1000 }
"#;

const TEXT: &str = "The cat sat. It slept!\n\n\u{feff}猫坐着。 它睡了。\n\nA \"third\" one, with 3 words\n";
const CSV: &str = "text,label\n\"a \"\"good\"\" one, truly\",good\nbad,bad\n\"two\nlines\",good\n";
const JSONL: &str = "{\"text\": \"a \\u00e9 good one\", \"label\": \"good\"}\n\n{\"text\": \"bad\", \"label\": 0, \"more\": [1, {}]}\n";

/// A sound file for each parser, and its name.
fn sound_files() -> Vec<(&'static str, Vec<u8>)> {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.txt");
    std::fs::write(&text, TEXT.repeat(3)).unwrap();
    let tokenizer = folder.path().join("vocab.txt");
    std::fs::write(&tokenizer, fixture("vocab.txt")).unwrap();
    let corpus = folder.path().join("corpus");
    let options = PrepareOptions { inputs: vec![text.display().to_string()], out: corpus.clone(), ..PrepareOptions::default() };
    prepare(&options, &Tokenizer::load(&tokenizer).unwrap(), &mut |_| ControlFlow::Continue(())).unwrap();
    let shard = corpus.join(&Manifest::read(&corpus).unwrap().shards[0].file);

    let mut checkpoints = Checkpoints::open(&folder.path().join("checkpoints"), 2).unwrap();
    let saved = checkpoints.save(3, "pretrain", |out| out.write("weights.f32", |file| file.write_all(&[0; 64]))).unwrap();

    let log = folder.path().join("log.jsonl");
    let step = r#"{"event":"step","step":1,"progress":0.1,"epoch":0.1,"tokens":64,"loss":4.5,"parts":{"mlm":4.5},"accuracy":0.1,"perplexity":90.0,"learning_rate":0.001,"grad_norm":1.5,"tokens_per_second":100.0,"share_of_peak":0.5,"memory_mb":10.0,"memory_peak_mb":11.0,"seconds":0.5,"eta_seconds":4.5}"#;
    let eval = r#"{"event":"eval","step":2,"seconds":0.6,"name":"dev","metrics":{"mlm_loss":4.4},"best":true}"#;
    writeln!(std::fs::File::create(&log).unwrap(), "{step}\n{eval}\n{step}").unwrap();

    let read = |path: &Path| std::fs::read(path).unwrap();
    let tsv = CSV.replace(',', "\t");
    vec![
        ("safetensors", fixture("model.safetensors")),
        ("model_config", fixture("config.json")),
        ("tokenizer_json", fixture("tokenizer.json")),
        ("vocab_txt", fixture("vocab.txt")),
        ("shard", read(&shard)),
        ("corpus_manifest", read(&corpus.join(MANIFEST))),
        ("checkpoint_manifest", read(&saved.path.join("manifest.json"))),
        ("recipe", RECIPE.into()),
        ("table_csv", CSV.into()),
        ("table_tsv", tsv.into()),
        ("table_jsonl", JSONL.into()),
        ("documents_txt", TEXT.into()),
        ("documents_gz", GZ.into()),
        ("documents_zst", ZST.into()),
        ("log", read(&log)),
        ("safetensors_index", other("containers/sharded/model.safetensors.index.json")),
        ("pytorch_zip", other("containers/zip/pytorch_model.bin")),
        ("pytorch_old", other("containers/old/pytorch_model.bin")),
        ("tensorflow_index", other("containers/tf/bert_model.ckpt.index")),
        ("modules_json", other("containers/sentence/modules.json")),
        ("spiece_model", other("tokenizers/unigram/spiece.model")),
        ("vocab_json", other("tokenizers/bytes/vocab.json")),
        ("merges_txt", other("tokenizers/bytes/merges.txt")),
    ]
}

/// "The cat sat. It slept!" twice, as gzip and zstd write it.
const GZ: &[u8] = &[
    0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x03, 0x0b, 0xc9, 0x48, 0x55, 0x48, 0x4e, 0x2c, 0x51, 0x28, 0x4e, 0x2c, 0xd1,
    0x53, 0xf0, 0x04, 0xd2, 0x39, 0xa9, 0x05, 0x25, 0x8a, 0x5c, 0x5c, 0x21, 0x38, 0xc4, 0x01, 0x0d, 0xd7, 0x11, 0x28, 0x30, 0x00, 0x00,
    0x00,
];
const ZST: &[u8] = &[
    0x28, 0xb5, 0x2f, 0xfd, 0x04, 0x58, 0xf5, 0x00, 0x00, 0xc0, 0x54, 0x68, 0x65, 0x20, 0x63, 0x61, 0x74, 0x20, 0x73, 0x61, 0x74, 0x2e,
    0x20, 0x49, 0x74, 0x20, 0x73, 0x6c, 0x65, 0x70, 0x74, 0x21, 0x0a, 0x0a, 0x01, 0x00, 0x2c, 0x38, 0xc7, 0xfb, 0xdc, 0x7f, 0x6f,
];

#[test]
fn every_parser_has_a_sound_file() {
    let names: Vec<&str> = sound_files().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, parsers::PARSERS.map(|(name, _)| name));
}

#[test]
fn mutants_never_panic() {
    for (place, (name, sound)) in sound_files().into_iter().enumerate() {
        parsers::run(name, &sound);
        parsers::run(name, b"");
        for number in 0..MUTANTS {
            let bytes = mutant(&sound, place as u32, number);
            let done = std::panic::catch_unwind(|| parsers::run(name, &bytes));
            assert!(done.is_ok(), "{name}: mutant {number} panics: {:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(3000)]));
        }
    }
}
