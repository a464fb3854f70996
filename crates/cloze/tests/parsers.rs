//! The parsers of the fuzz targets on mutants of sound files, and on files that claim more than they hold: none panics, none fills the memory.

#[path = "../../../fuzz/src/parsers.rs"]
#[allow(unreachable_pub, dead_code)]
mod parsers;

use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use cloze::tensor::random::{Key, Stream};
use cloze::text::{MANIFEST, Manifest, PrepareOptions, Tokenizer, prepare};
use cloze::train::checkpoint::Checkpoints;

/// Mutants of each parser's sound file; with those of the other tests more than ten thousand.
const MUTANTS: u32 = 400;
/// Most memory for a damaged file: this, and twice its length.
const MEMORY: u64 = 64 << 20;

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

const CONLL: &str = "1\tEU\t_\tPROPN\t_\t_\t0\troot\t_\tB-ORG\n2\trejects\t_\tVERB\t_\t_\t1\tx\t_\tO\n\n# a\n1-2\tx\t_\t_\t_\t_\t_\t_\t_\t_\n1\t欧\t_\tX\t_\t_\t0\troot\t_\tO\n";
const SQUAD: &str = r#"{"version": "v2.0", "data": [{"title": "T", "paragraphs": [{"context": "a cat 猫", "qas": [{"id": "1", "question": "who?", "answers": [{"text": "猫", "answer_start": 6}], "is_impossible": false}, {"id": "2", "question": "why?", "answers": []}]}]}, {"context_text": "上下文", "qas": [{"query_id": "Q", "query_text": "问", "answers": ["上"]}]}]}"#;
const SETTINGS: &str = r#"{"task": "sentence-embedding", "pooling": "cls", "normalize": false, "dimensions": [16, 8], "query_prefix": "q: ", "max_length": 64}"#;

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
        ("table_conll", CONLL.into()),
        ("table_json", SQUAD.into()),
        ("adapter_config", other("adapters/bert/adapter_config.json")),
        ("adapter_weights", other("adapters/bert/adapter_model.safetensors")),
        ("task_settings", SETTINGS.into()),
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

/// A line of the process's status, in bytes.
fn status(key: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(key))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? << 10)
}

/// How far the memory of the process rose above what it was before; `None` where the system does not tell. It is the whole process's: nothing else
/// may run beside it, so this file has one test.
fn rise(run: impl FnOnce()) -> Option<u64> {
    let told = std::fs::write("/proc/self/clear_refs", "5").is_ok(); // the peak begins anew (proc(5))
    let before = status("VmRSS:").filter(|_| told);
    run();
    Some(status("VmHWM:")?.saturating_sub(before?))
}

/// Headers that claim much and hold little.
fn claims() -> Vec<(&'static str, Vec<u8>)> {
    let header = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let changed = |name: &str, from: &str, to: &str| String::from_utf8(fixture(name)).unwrap().replacen(from, to, 1).into_bytes();
    // blocks of one repeated byte: 128 KiB each out of four bytes (RFC 8878, section 3.1.1.2)
    let frame: Vec<u8> = [0x28, 0xb5, 0x2f, 0xfd, 0, 0x38].into_iter().chain([0x02, 0x00, 0x10, b'x'].repeat(2000)).collect();
    vec![
        ("safetensors", 99_999_999u64.to_le_bytes().to_vec()),
        ("safetensors", header(r#"{"a": {"dtype": "F32", "shape": [17179869184], "data_offsets": [0, 68719476736]}}"#)),
        ("safetensors", header(&"[".repeat(1 << 20))),
        ("model_config", changed("config.json", "\"vocab_size\": 109", "\"vocab_size\": 1099511627775")),
        ("model_config", changed("config.json", "\"hidden_size\": 32", "\"hidden_size\": 1073741824")),
        ("model_config", changed("config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1099511627775")),
        ("model_config", changed("config.json", "\"max_position_embeddings\": 64", "\"max_position_embeddings\": 1099511627775")),
        ("tokenizer_json", changed("tokenizer.json", "\"[MASK]\": 4", "\"[MASK]\": 4294967295")),
        ("tokenizer_json", b"[".repeat(1 << 20)),
        ("vocab_json", br#"{"a": 4294967295, "b": 4294967294, "c": 0}"#.to_vec()),
        ("spiece_model", vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x07, 0x0a, 0xff, 0xff, 0xff, 0xff, 0x07]),
        ("pytorch_old", b"\x80\x02X\xff\xff\xff\x7fx.".to_vec()),
        ("pytorch_old", [b"\x80\x02".as_slice(), &b"]".repeat(1 << 20), b"."].concat()),
        ("documents_zst", frame),
        ("table_json", b"[".repeat(1 << 20)),
        (
            "adapter_weights",
            header(r#"{"base_model.model.x.lora_A.weight": {"dtype": "F32", "shape": [4, 4611686018427387904], "data_offsets": [0, 0]}}"#),
        ),
    ]
}

/// Mutants of sound files, and files that claim more than they hold: no parser panics, and none takes more memory than the file justifies.
#[test]
fn damaged_files_neither_panic_nor_fill_the_memory() {
    // Panics of libraries that the parsers turn into errors print nothing: what is printed, debug information above all, takes memory.
    std::panic::set_hook(Box::new(|_| ()));
    let sound = sound_files();
    assert_eq!(
        sound.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
        parsers::PARSERS.map(|(name, _)| name),
        "each parser has a sound file"
    );
    let mut wrong = String::new();
    let mut tried = 0;
    let mut run = |name: &str, what: &str, bytes: &[u8]| {
        tried += 1;
        let mut done = Ok(());
        let rose = rise(|| done = std::panic::catch_unwind(|| parsers::run(name, bytes)));
        let most = MEMORY + 2 * bytes.len() as u64;
        let fault = match (done, rose) {
            (Err(_), _) => "panics".to_owned(),
            (Ok(()), Some(rose)) if rose > most => format!("takes {rose} bytes, more than {most}"),
            _ => return,
        };
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(1000)]).into_owned();
        wrong += &format!("{name}: {what} {fault}: {shown:?}\n");
    };
    for (place, (name, sound)) in sound.into_iter().enumerate() {
        run(name, "the sound file", &sound);
        run(name, "nothing", b"");
        for number in 0..MUTANTS {
            run(name, &format!("mutant {number}"), &mutant(&sound, place as u32, number));
        }
    }
    for (number, (name, bytes)) in claims().iter().enumerate() {
        run(name, &format!("claim {number}"), bytes);
    }
    let _ = std::panic::take_hook();
    assert!(wrong.is_empty(), "{wrong}");
    assert!(tried > 10_000, "{tried}");
    if rise(|| ()).is_none() {
        println!("skipped: this system does not tell the peak of the memory");
    }
}
