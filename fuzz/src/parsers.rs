//! One function for each parser of bytes from outside: whatever the bytes are, it answers with a value or an error.
//!
//! The fuzz targets call these, and so do ordinary tests with mutants of sound files (`crates/cloze/tests/parsers.rs`).

use std::path::Path;

use cloze::model::files::adapter::{ADAPTER_CONFIG, ADAPTER_WEIGHTS, Adapted, Adapter};
use cloze::model::files::container::Container;
use cloze::model::files::safetensors::TensorFiles;
use cloze::model::files::sentence::SentenceModel;
use cloze::task::context::SETTINGS_FILE;
use cloze::task::{Columns, Rows, Settings, TASKS};
use cloze::text::read::{Documents, ReadOptions, expand};
use cloze::text::shard::Shard;
use cloze::text::{Dataset, MANIFEST, Manifest, Split, Tokenizer};
use cloze::train::checkpoint::Checkpoint;
use cloze::train::finetune::FinetuneRun;
use cloze::train::pretrain::PretrainRun;

/// A parser by name: the name of its fuzz target.
pub type Parser = (&'static str, fn(&[u8]));

/// All of them.
pub const PARSERS: [Parser; 28] = [
    ("safetensors", safetensors),
    ("model_config", model_config),
    ("tokenizer_json", tokenizer_json),
    ("vocab_txt", vocab_txt),
    ("shard", shard),
    ("corpus_manifest", corpus_manifest),
    ("checkpoint_manifest", checkpoint_manifest),
    ("recipe", recipe),
    ("table_csv", |bytes| table("table.csv", bytes)),
    ("table_tsv", |bytes| table("table.tsv", bytes)),
    ("table_jsonl", |bytes| table("table.jsonl", bytes)),
    ("documents_txt", |bytes| documents("text.txt", bytes)),
    ("documents_gz", |bytes| documents("text.txt.gz", bytes)),
    ("documents_zst", |bytes| documents("text.txt.zst", bytes)),
    ("log", log),
    ("safetensors_index", safetensors_index),
    ("pytorch_zip", |bytes| container("pytorch_model.bin", bytes, &[])),
    ("pytorch_old", |bytes| container("pytorch_model.bin", bytes, &[])),
    ("tensorflow_index", |bytes| container("bert_model.ckpt.index", bytes, &[("bert_model.ckpt.data-00000-of-00001", DATA)])),
    ("modules_json", modules_json),
    ("spiece_model", |bytes| tokenizer_files(&[("spiece.model", bytes)])),
    ("vocab_json", |bytes| tokenizer_files(&[("vocab.json", bytes), ("merges.txt", MERGES)])),
    ("merges_txt", |bytes| tokenizer_files(&[("vocab.json", VOCAB), ("merges.txt", bytes)])),
    ("table_conll", |bytes| ["table.conll", "table.conllu"].into_iter().for_each(|name| table(name, bytes))),
    ("table_json", |bytes| table("table.json", bytes)),
    ("adapter_config", |bytes| adapter(bytes, ADAPTER_TENSORS)),
    ("adapter_weights", |bytes| adapter(ADAPTER, bytes)),
    ("task_settings", task_settings),
];

/// Run the parser of that name.
pub fn run(name: &str, bytes: &[u8]) {
    let parser = PARSERS.iter().find(|(known, _)| *known == name).expect("a parser of the list");
    parser.1(bytes);
}

/// A folder that holds the bytes under a name, given to `use_it` with the file's path.
fn file(name: &str, bytes: &[u8], use_it: impl FnOnce(&Path, &Path)) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).expect("a temporary file");
    use_it(folder.path(), &path);
}

const CONFIG: &[u8] = include_bytes!("../../fixtures/bert-tiny/config.json");
const WEIGHTS: &[u8] = include_bytes!("../../fixtures/bert-tiny/model.safetensors");

fn safetensors(bytes: &[u8]) {
    file("model.safetensors", bytes, |folder, path| {
        if let Ok(files) = TensorFiles::open(vec![path.to_owned()]) {
            for name in files.names() {
                let _ = (files.describe(name), files.read(name), files.read_u32(name));
            }
        }
        std::fs::write(folder.join("config.json"), CONFIG).expect("a temporary file");
        let _ = cloze::model::load(folder);
    });
}

fn model_config(bytes: &[u8]) {
    file("config.json", bytes, |folder, _| {
        std::fs::write(folder.join("model.safetensors"), WEIGHTS).expect("a temporary file");
        let _ = cloze::model::load(folder);
    });
}

fn encode(tokenizer: &Tokenizer) {
    for text in ["", "The cat [MASK] 猫 é\u{301} ﬁ 12 a-b", "[CLS]\u{0}\u{fffd}\n\t"] {
        if let Ok(encoding) = tokenizer.encode(text, true) {
            let _ = (encoding.char_offsets(text), tokenizer.decode(&encoding.ids, false));
        }
    }
}

fn tokenizer_json(bytes: &[u8]) {
    file("tokenizer.json", bytes, |_, path| {
        if let Ok(tokenizer) = Tokenizer::load(path) {
            encode(&tokenizer);
        }
    });
}

fn vocab_txt(bytes: &[u8]) {
    file("vocab.txt", bytes, |folder, _| {
        if let Ok(tokenizer) = Tokenizer::load(folder) {
            encode(&tokenizer);
        }
    });
}

fn shard(bytes: &[u8]) {
    file("shard", bytes, |_, path| {
        if let Ok(shard) = Shard::open(path) {
            let _ = shard.verify();
            let starts = shard.sentence_starts();
            for i in 1..starts.count() {
                if let Ok(tokens) = shard.token_range(starts.get(i - 1)..starts.get(i)) {
                    let _ = tokens.ids().count();
                }
            }
        }
    });
}

fn corpus_manifest(bytes: &[u8]) {
    file(MANIFEST, bytes, |folder, _| {
        let _ = Manifest::read(folder);
        let _ = (Dataset::open(folder, Split::Train), Dataset::open(folder, Split::Heldout));
    });
}

fn checkpoint_manifest(bytes: &[u8]) {
    file("manifest.json", bytes, |folder, _| {
        if let Ok(checkpoint) = Checkpoint::open(folder) {
            for name in checkpoint.names() {
                let _ = checkpoint.read(name);
            }
        }
    });
}

fn recipe(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(run) = cloze::train::run::parse::<PretrainRun>(text) {
        let _ = run.check();
        let _ = run.blueprint(8192);
    }
    let _ = cloze::train::run::parse::<FinetuneRun>(text);
}

fn table(name: &str, bytes: &[u8]) {
    file(name, bytes, |_, path| {
        for (task, labelled) in TASKS.iter().flat_map(|task| [(task, false), (task, true)]) {
            if let Ok(rows) = Rows::open(path, task.fields(), &Columns::default(), labelled) {
                let _ = rows.take(10_000).count();
            }
        }
    });
}

fn documents(name: &str, bytes: &[u8]) {
    file(name, bytes, |_, path| {
        for source in expand(&[path.display().to_string()]).into_iter().flatten() {
            if let Ok(documents) = Documents::open(&source, &ReadOptions::default(), Default::default()) {
                let _ = documents.take(10_000).count();
            }
        }
    });
}

fn log(bytes: &[u8]) {
    file("log.jsonl", bytes, |folder, path| {
        let _ = cloze::train::log::read_log(path);
        let _ = cloze::train::log::JsonlLog::resume(path, 3);
        let _ = cloze::train::curve::Curve::from_log(path, &folder.join("curve.svg"));
    });
}

const SHARD: &[u8] = include_bytes!("../../fixtures/containers/sharded/model-00001-of-00002.safetensors");
const DATA: &[u8] = include_bytes!("../../fixtures/containers/tf/bert_model.ckpt.data-00000-of-00001");
const VOCAB: &[u8] = include_bytes!("../../fixtures/tokenizers/bytes/vocab.json");
const MERGES: &[u8] = include_bytes!("../../fixtures/tokenizers/bytes/merges.txt");

fn safetensors_index(bytes: &[u8]) {
    file("model.safetensors.index.json", bytes, |folder, _| {
        for name in ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] {
            std::fs::write(folder.join(name), SHARD).expect("a temporary file");
        }
        let _ = TensorFiles::of_folder(folder);
    });
}

/// A container of weights that is read whole, and written as safetensors.
fn container(name: &str, bytes: &[u8], others: &[(&str, &[u8])]) {
    file(name, bytes, |folder, _| {
        for (other, bytes) in others {
            std::fs::write(folder.join(other), bytes).expect("a temporary file");
        }
        if let Ok(container) = Container::open(folder) {
            let _ = (container.copies(), container.write(&folder.join("out.safetensors"), None));
        }
    });
}

fn modules_json(bytes: &[u8]) {
    file("modules.json", bytes, |folder, _| {
        std::fs::write(folder.join("config.json"), CONFIG).expect("a temporary file");
        std::fs::create_dir_all(folder.join("1_Pooling")).expect("a temporary folder");
        std::fs::write(folder.join("1_Pooling/config.json"), bytes).expect("a temporary file");
        std::fs::write(folder.join("config_sentence_transformers.json"), bytes).expect("a temporary file");
        let _ = SentenceModel::read(folder);
    });
}

fn tokenizer_files(files: &[(&str, &[u8])]) {
    let [(name, bytes), others @ ..] = files else { return };
    file(name, bytes, |folder, _| {
        for (other, bytes) in others {
            std::fs::write(folder.join(other), bytes).expect("a temporary file");
        }
        if let Ok(tokenizer) = Tokenizer::load(folder) {
            encode(&tokenizer);
        }
    });
}

const ADAPTER: &[u8] = include_bytes!("../../fixtures/adapters/bert/adapter_config.json");
const ADAPTER_TENSORS: &[u8] = include_bytes!("../../fixtures/adapters/bert/adapter_model.safetensors");
const BASE: &[u8] = include_bytes!("../../fixtures/families/bert/config.json");
const BODY: &[u8] = include_bytes!("../../fixtures/families/bert/body.safetensors");

/// An adapter that is put on a base, its products added up.
fn adapter(config: &[u8], tensors: &[u8]) {
    file(ADAPTER_CONFIG, config, |folder, _| {
        std::fs::write(folder.join(ADAPTER_WEIGHTS), tensors).expect("a temporary file");
        let Ok(adapter) = Adapter::read(folder) else { return };
        file("config.json", BASE, |base, _| {
            std::fs::write(base.join("model.safetensors"), BODY).expect("a temporary file");
            let _ = Adapted::open(base, Some(adapter), None, 0).and_then(|adapted| adapted.values());
        });
    });
}

fn task_settings(bytes: &[u8]) {
    file(SETTINGS_FILE, bytes, |folder, _| {
        let _ = Settings::read(folder);
    });
}
