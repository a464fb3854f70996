//! Model folders that are not what they should be: an error that names the file and the cause, never a panic.

use std::path::{Path, PathBuf};

use cloze_model::files::config::Config;
use cloze_model::files::safetensors::{OutTensor, OutValues, TensorFiles, write};
use cloze_model::load;
use cloze_model::registry::family;
use cloze_tensor::random::{Key, Stream};
use serde_json::{Value, json};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// A copy of a fixture's model, to be broken.
struct Folder {
    folder: tempfile::TempDir,
}

impl Folder {
    fn of(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(fixture(name).join(file), folder.path().join(file)).unwrap();
        }
        Self { folder }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn config(&self, change: impl FnOnce(&mut Value)) {
        let path = self.path("config.json");
        let mut value: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        std::fs::write(&path, value.to_string()).unwrap();
    }

    /// The error of loading it.
    fn error(&self) -> String {
        load(self.folder.path()).err().map_or_else(|| "it loaded".into(), |error| error.to_string())
    }
}

#[test]
fn what_a_blueprint_cannot_say_is_refused_by_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(fixture("families/mpnet/config.json")).unwrap()).unwrap();
    let blueprint = |config: &Value| {
        std::fs::write(&path, config.to_string()).unwrap();
        (family("mpnet").unwrap().blueprint)(&Config::read(&path).unwrap())
    };
    assert!(blueprint(&config).unwrap().relative.is_some());
    config["relative_attention_num_buckets"] = json!(16);
    let error = blueprint(&config).unwrap_err().to_string();
    for part in ["config.json", "relative_attention_num_buckets", "16", "32"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn broken_configurations_name_the_key() {
    let cases: [(&str, Value, &[&str]); 25] = [
        ("model_type", json!("gpt9"), &["model_type", "gpt9", "bert"]),
        ("model_type", Value::Null, &["model_type", "a string", "nothing"]),
        ("model_type", json!(7), &["model_type", "a string", "7"]),
        ("architectures", json!(["BertForEverything"]), &["architectures", "BertForEverything"]),
        ("vocab_size", Value::Null, &["vocab_size", "a whole number", "nothing"]),
        ("vocab_size", json!(-1), &["vocab_size", "-1"]),
        ("vocab_size", json!(0), &["vocab_size is 0"]),
        ("vocab_size", json!(110), &["model.safetensors", "word_embeddings", "109", "110"]),
        ("vocab_size", json!(1u64 << 35), &["vocab_size", "limit"]),
        ("hidden_size", json!("32"), &["hidden_size", "a whole number", "\"32\""]),
        ("hidden_size", json!(32.5), &["hidden_size", "32.5"]),
        ("hidden_size", json!(34), &["hidden_size 34", "num_attention_heads 4"]),
        ("hidden_size", json!(1u64 << 60), &["hidden_size"]),
        ("num_attention_heads", json!(0), &["num_attention_heads is 0"]),
        ("num_hidden_layers", json!(0), &["num_hidden_layers is 0"]),
        ("num_hidden_layers", json!(4096), &["parameters", "hold"]),
        ("intermediate_size", json!(65), &["model.safetensors", "intermediate.dense.weight", "65"]),
        ("max_position_embeddings", json!(0), &["positions"]),
        ("max_position_embeddings", json!(2), &["longest sequence is of 2 tokens", "at least 3"]),
        ("max_position_embeddings", json!(u64::MAX), &["max_position_embeddings"]),
        ("hidden_act", json!("mish"), &["hidden_act", "mish", "gelu"]),
        ("hidden_act", json!([]), &["hidden_act", "a string"]),
        ("layer_norm_eps", json!("small"), &["layer_norm_eps", "a number"]),
        ("hidden_dropout_prob", json!(1.5), &["hidden_dropout_prob", "below 1"]),
        ("is_decoder", json!(true), &["is_decoder", "true", "false"]),
    ];
    for (key, value, said) in cases {
        let folder = Folder::of("bert-tiny");
        folder.config(|config| config[key] = value.clone());
        let error = folder.error();
        for part in said {
            assert!(error.contains(part), "{key} = {value}: \"{part}\" is not said in: {error}");
        }
        let file = if said.contains(&"model.safetensors") { "model.safetensors" } else { "config.json" };
        assert!(error.contains(file), "{key} = {value}: {file} is not named in: {error}");
    }
}

/// What only some families have is refused by key as well.
#[test]
fn broken_configurations_of_other_families_name_the_key() {
    let cases: [(&str, &str, Value, &[&str]); 26] = [
        ("roberta", "position_embedding_type", json!("relative_key"), &["position_embedding_type", "relative_key", "absolute"]),
        ("roberta", "pad_token_id", json!("<pad>"), &["pad_token_id"]),
        ("roberta", "pad_token_id", json!(1u64 << 50), &["pad_token_id"]),
        ("roberta", "max_position_embeddings", json!(1), &["config.json"]),
        ("roberta", "type_vocab_size", json!("1"), &["type_vocab_size"]),
        ("camembert", "add_cross_attention", json!(true), &["add_cross_attention"]),
        ("distilbert", "dim", Value::Null, &["dim", "nothing"]),
        ("distilbert", "n_heads", json!(0), &["0"]),
        ("distilbert", "n_layers", json!(1u64 << 39), &["n_layers"]),
        ("distilbert", "activation", json!("swish2"), &["activation", "swish2"]),
        ("distilbert", "attention_dropout", json!(-0.1), &["attention_dropout"]),
        ("electra", "embedding_size", json!(0), &["embedding_size"]),
        ("electra", "summary_type", json!("last"), &["summary_type", "last"]),
        ("electra", "summary_use_proj", json!(false), &["summary_use_proj"]),
        ("albert", "inner_group_num", json!(2), &["inner_group_num", "2"]),
        ("albert", "num_hidden_groups", json!(0), &["num_hidden_groups"]),
        ("modernbert", "layer_types", json!(["full_attention"]), &["layer_types"]),
        ("modernbert", "local_attention", json!("wide"), &["local_attention"]),
        ("modernbert", "attention_bias", json!(true), &["attention_bias"]),
        ("modernbert", "classifier_pooling", json!("max"), &["classifier_pooling", "max"]),
        ("nomic_bert", "head_dim", json!(7), &["head_dim", "7"]),
        ("nomic_bert", "rotary_scaling_factor", json!(2), &["rotary_scaling_factor", "2", "null"]),
        ("gte", "rope_scaling", json!({"type": "ntk", "factor": 2.0}), &["rope_scaling", "ntk", "default"]),
        ("modernbert", "rope_scaling", json!({"rope_type": "yarn", "factor": 4.0}), &["rope_scaling", "yarn"]),
        ("nomic_bert", "rope_scaling", json!(4), &["rope_scaling", "4"]),
        ("roformer", "rotary_value", json!(true), &["rotary_value"]),
    ];
    let mut wrong = String::new();
    for (family, key, value, said) in cases {
        let folder = tempfile::tempdir().unwrap();
        let at = fixture("families").join(family);
        std::fs::copy(at.join("body.safetensors"), folder.path().join("model.safetensors")).unwrap();
        let mut config: Value = serde_json::from_slice(&std::fs::read(at.join("config.json")).unwrap()).unwrap();
        config[key] = value.clone();
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let error = load(folder.path()).err().map_or_else(|| "it loaded".into(), |e| e.to_string());
        if !error.contains("config.json") || said.iter().any(|part| !error.contains(part)) {
            wrong += &format!("{family}, {key} = {value}: {said:?} is not said in: {error}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn broken_files_are_named() {
    // no folder, no configuration, no weights
    assert!(load(Path::new("no/such/folder")).unwrap_err().to_string().contains("config.json"));
    let folder = Folder::of("bert-tiny");
    std::fs::remove_file(folder.path("model.safetensors")).unwrap();
    assert!(folder.error().contains("model.safetensors"));

    // configurations that are no JSON, or no object
    for (text, said) in [("{\n \"a\": }", "line 2"), ("", "line 1"), ("[1, 2]", "an object"), ("\u{feff}{}", "line 1")] {
        let folder = Folder::of("bert-tiny");
        std::fs::write(folder.path("config.json"), text).unwrap();
        let error = folder.error();
        assert!(error.contains("config.json") && error.contains(said), "{text:?}: {error}");
    }

    // labels with a hole
    let folder = Folder::of("bert-tiny-classifier");
    folder.config(|config| config["id2label"] = json!({"0": "a", "2": "b"}));
    assert!(folder.error().contains("id2label"));
    // more labels than the file has rows
    let folder = Folder::of("bert-tiny-classifier");
    folder.config(|config| config["id2label"] = json!({"0": "a", "1": "b", "2": "c", "3": "d"}));
    let error = folder.error();
    assert!(error.contains("classifier.weight") && error.contains("model.safetensors"), "{error}");
}

#[test]
fn broken_tensor_files_are_named() {
    let sound = std::fs::read(fixture("bert-tiny/model.safetensors")).unwrap();
    let header = u64::from_le_bytes(sound[..8].try_into().unwrap()) as usize;
    let with_length = |length: u64| [&length.to_le_bytes(), &sound[8..]].concat();
    let with_header = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes(), &sound[8 + header..]].concat();
    let text = std::str::from_utf8(&sound[8..8 + header]).unwrap();
    let cases = [
        ("empty", vec![]),
        ("seven bytes", sound[..7].to_vec()),
        ("half of the header", sound[..8 + header / 2].to_vec()),
        ("half of the file", sound[..sound.len() / 2].to_vec()),
        ("a byte short", sound[..sound.len() - 1].to_vec()),
        ("a byte long", [&sound[..], &[0]].concat()),
        ("a header as long as memory", with_length(u64::MAX)),
        ("a header of half the length", with_length(header as u64 / 2)),
        ("a header of no length", with_length(0)),
        ("a header that is no JSON", with_header(&"x".repeat(header))),
        ("an unknown type", with_header(&text.replacen("F32", "F33", 1))),
        ("a place past the end", with_header(&text.replacen("data_offsets\":[", "data_offsets\":[9", 1))),
        ("a shape of other size", with_header(&text.replacen("shape\":[", "shape\":[1", 1))),
        ("a shape that overflows", with_header(&text.replacen("shape\":[", "shape\":[4294967296,4294967296,", 1))),
    ];
    for (what, bytes) in cases {
        let folder = Folder::of("bert-tiny");
        std::fs::write(folder.path("model.safetensors"), bytes).unwrap();
        let error = folder.error();
        assert!(error.contains("model.safetensors") && error.contains("not a sound safetensors file"), "{what}: {error}");
    }

    // sound, but of integers
    let folder = Folder::of("bert-tiny");
    std::fs::write(folder.path("model.safetensors"), with_header(&text.replace("F32", "I32"))).unwrap();
    let error = folder.error();
    assert!(error.contains("I32") && error.contains("F32, F16, BF16 or F64"), "{error}");

    // sound, but of another model
    let folder = Folder::of("bert-tiny");
    let tensor = OutTensor { name: "stranger".into(), shape: vec![2], values: OutValues::F32(&[1.0, 2.0]) };
    write(&folder.path("model.safetensors"), &[tensor], &[]).unwrap();
    let error = folder.error();
    assert!(error.contains("parameters, of which the tensor files hold 0"), "{error}");
}

#[test]
fn an_index_stays_in_its_folder() {
    let cases = [
        (json!({"weight_map": {"a": "../secret"}}), "outside of the folder"),
        (json!({"weight_map": {"a": "/etc/passwd"}}), "outside of the folder"),
        (json!({"weight_map": {"a": ""}}), "outside of the folder"),
        (json!({"weight_map": {"a": 5}}), "weight_map"),
        (json!({"weight_map": []}), "weight_map"),
        (json!({}), "weight_map"),
        (json!({"weight_map": {"a": "missing.safetensors"}}), "missing.safetensors"),
    ];
    for (index, said) in cases {
        let folder = Folder::of("bert-tiny");
        std::fs::remove_file(folder.path("model.safetensors")).unwrap();
        std::fs::write(folder.path("model.safetensors.index.json"), index.to_string()).unwrap();
        let error = folder.error();
        assert!(error.contains(said), "{index}: {error}");
    }
}

/// One to eight bytes of the file are others, somewhere; a part is cut out or doubled at times.
fn mutant(sound: &[u8], number: u32, within: usize) -> Vec<u8> {
    let key = Key::new(17, Stream::Sampling, 0, number);
    let mut bytes = sound.to_vec();
    for i in 0..=u64::from(key.below(0, 8)) {
        let at = key.below(4 * i + 1, within as u32) as usize;
        let end = (at + key.below(4 * i + 2, 40) as usize).min(bytes.len());
        match key.below(4 * i + 3, 8) {
            0 if at < end => drop(bytes.drain(at..end)),
            1 if at < end => {
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            2 => bytes.truncate(end),
            _ if at < bytes.len() => bytes[at] = key.below(4 * i + 4, 256) as u8,
            _ => {}
        }
    }
    bytes
}

/// Whatever the bytes are, loading answers with a model or an error, and takes no more memory than the files justify.
#[test]
fn mutants_never_panic() {
    let (mut sound, mut broken) = (0, 0);
    for (file, rounds) in [("config.json", 600), ("model.safetensors", 600)] {
        let original = std::fs::read(fixture("bert-tiny").join(file)).unwrap();
        // The head of a tensor file holds what can go wrong; its values may be anything.
        let within = original.len().min(6000);
        let folder = Folder::of("bert-tiny");
        for number in 0..rounds {
            std::fs::write(folder.path(file), mutant(&original, number, within)).unwrap();
            match load(folder.folder.path()) {
                Ok(loaded) => {
                    sound += 1;
                    assert!(loaded.values.len() < 1 << 20, "mutant {number} of {file}");
                }
                Err(error) => {
                    broken += 1;
                    assert!(error.to_string().contains(folder.folder.path().to_str().unwrap()), "mutant {number} of {file}: {error}");
                }
            }
            // What only looks at the file must hold out as well.
            if let Ok(files) = TensorFiles::of_folder(folder.folder.path()) {
                for name in files.names() {
                    files.describe(name).unwrap();
                    let _ = (files.read(name), files.read_u32(name));
                }
            }
        }
    }
    assert!(sound > 20 && broken > 200, "{sound} loaded, {broken} refused: the mutants are too mild or too wild");
}
