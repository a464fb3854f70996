//! `cloze inspect`: what a folder holds.

use std::path::{Path, PathBuf};

use anyhow::Context;
use cloze::model::files::safetensors::TensorFiles;
use cloze::text::{MANIFEST, Manifest, Tokenizer};
use cloze::train::figures::{format_bytes, grouped};
use cloze::train::run::Precision;
use cloze::{Pipeline, model};
use serde_json::{Value, json};

use crate::options::{Options, print_json, print_line};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A model, a corpus (from `prepare`), a tokenizer, or a run's folder
    folder: PathBuf,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// Write what the model computes for these texts (hidden states of every layer, logits) to a safetensors file, for
    /// comparison with another implementation
    #[arg(long, value_name = "FILE", requires = "text")]
    dump: Option<PathBuf>,
    /// A text for --dump; may be given many times
    #[arg(long)]
    text: Vec<String>,
}

pub(crate) fn run(args: Args, options: &Options) -> anyhow::Result<u8> {
    // A run's folder holds its model.
    let folder = if !args.folder.join("config.json").exists() && args.folder.join("model/config.json").exists() {
        args.folder.join("model")
    } else {
        args.folder.clone()
    };
    let mut report = serde_json::Map::new();
    report.insert("folder".into(), json!(folder));
    if folder.join("config.json").exists() {
        report.insert("model".into(), describe_model(&folder, args.tensors)?);
    }
    if folder.join(MANIFEST).exists() {
        report.insert("corpus".into(), describe_corpus(&folder)?);
    }
    let tokenizer =
        [folder.clone(), folder.join("tokenizer")].into_iter().find(|f| f.join("tokenizer.json").exists() || f.join("vocab.txt").exists());
    if let Some(tokenizer) = tokenizer {
        report.insert("tokenizer".into(), describe_tokenizer(&Tokenizer::load(tokenizer)?));
    }
    if report.len() == 1 {
        anyhow::bail!("{}: no config.json, no {MANIFEST}, no tokenizer.json or vocab.txt: nothing that Cloze knows", folder.display());
    }
    check_vocabulary(&mut report);
    if let Some(file) = &args.dump {
        dump(&folder, file, &args.text, options)?;
    }
    if options.json {
        print_json(&Value::Object(report))?;
    } else {
        print_tree(&Value::Object(report), 0)?;
    }
    Ok(0)
}

fn describe_model(folder: &Path, tensors: bool) -> anyhow::Result<Value> {
    let loaded = model::load(folder)?;
    let (m, b) = (&loaded.model, &loaded.model.blueprint);
    let files = TensorFiles::of_folder(folder)?;
    let mut dtypes = std::collections::BTreeMap::<String, usize>::new();
    let mut list = serde_json::Map::new();
    for name in files.names() {
        if let Some((shape, dtype)) = files.describe(name) {
            *dtypes.entry(dtype.clone()).or_default() += shape.iter().product::<usize>();
            list.insert(name.clone(), json!(format!("{dtype} {shape:?}")));
        }
    }
    let mut value = json!({
        "family": m.family,
        "architecture": format!("{} layers × {} hidden, {} heads of {}, feed-forward {}", b.num_hidden_layers, b.hidden_size, b.num_attention_heads, b.head_dim(), b.intermediate_size),
        "norm": format!("{:?}, {:?}, eps {}", b.norm_placement, b.norm, b.layer_norm_eps),
        "position": format!("{:?}", b.position),
        "feed_forward": format!("{:?}, {:?}", b.mlp, b.hidden_act),
        "biases": b.linear_bias,
        "vocabulary": b.vocab_size,
        "tied_embeddings": b.tie_word_embeddings,
        "heads": heads(&m.heads),
        "labels": m.heads.labels,
        "parameters": grouped(m.table().count() as u64),
        "stored_as": dtypes.iter().map(|(k, v)| format!("{k}: {} values", grouped(*v as u64))).collect::<Vec<_>>(),
        "newly_initialised": loaded.report.new,
        "not_used": loaded.report.unused,
    });
    if tensors && let Some(map) = value.as_object_mut() {
        map.insert("tensors".into(), Value::Object(list));
    }
    Ok(value)
}

fn heads(heads: &model::Heads) -> Vec<&'static str> {
    let mut names = Vec::new();
    for (there, name) in [
        (heads.summary, "summary"),
        (heads.masked_lm, "masked LM"),
        (heads.next_sentence, "sentence pairs"),
        (!heads.labels.is_empty(), "classifier"),
    ] {
        if there {
            names.push(name);
        }
    }
    names
}

fn describe_corpus(folder: &Path) -> anyhow::Result<Value> {
    let manifest = Manifest::read(folder)?;
    let sum = |f: fn(&cloze::text::ShardEntry) -> u64| manifest.shards.iter().map(f).sum::<u64>();
    let report = std::fs::read(folder.join("report.json")).ok().and_then(|b| serde_json::from_slice::<Value>(&b).ok());
    Ok(json!({
        "documents": grouped(sum(|s| s.documents)),
        "sentences": grouped(sum(|s| s.sentences)),
        "tokens": grouped(sum(|s| s.tokens)),
        "shards": manifest.shards.iter().map(|s| format!("{} ({}, {} tokens, {})", s.file, s.split.name(), grouped(s.tokens), format_bytes(s.bytes))).collect::<Vec<_>>(),
        "vocabulary": manifest.vocab_size,
        "report": report,
    }))
}

fn describe_tokenizer(tokenizer: &Tokenizer) -> Value {
    let s = tokenizer.special();
    let token = |id: Option<u32>| {
        id.and_then(|id| tokenizer.id_to_token(id)).map_or("none".into(), |t| format!("{t} = {}", id.unwrap_or_default()))
    };
    json!({
        "vocabulary": tokenizer.vocab_size(),
        "kind": if tokenizer.wordpiece().is_some() { "WordPiece" } else { "from tokenizer.json" },
        "special": [token(s.pad), token(s.unk), token(s.cls), token(s.sep), token(s.mask)],
    })
}

/// A tokenizer that knows more ids than the model has rows reads beyond the table.
fn check_vocabulary(report: &mut serde_json::Map<String, Value>) {
    let of = |key: &str| report.get(key).and_then(|v| v.get("vocabulary")).and_then(Value::as_u64);
    if let (Some(model), Some(tokenizer)) = (of("model"), of("tokenizer"))
        && tokenizer > model
    {
        report.insert(
            "fault".into(),
            json!(format!("the tokenizer has {tokenizer} ids, the model {model} rows: they do not belong together")),
        );
    }
}

fn dump(folder: &Path, file: &Path, texts: &[String], options: &Options) -> anyhow::Result<()> {
    use cloze::model::files::safetensors::{OutTensor, OutValues, write};
    let device = options.open();
    let pipeline = Pipeline::load(&device, folder, Precision::F32, None)?;
    let hidden = pipeline.model().blueprint.hidden_size;
    let (mut ids, mut values) = (Vec::new(), Vec::new());
    for (n, text) in texts.iter().enumerate() {
        let (encoding, states) = pipeline.states(text)?;
        let len = encoding.len();
        let wide = |ids: &[u32]| ids.iter().map(|&i| i64::from(i)).collect::<Vec<i64>>();
        ids.push((format!("input_ids.{n}"), wide(&encoding.ids)));
        ids.push((format!("token_type_ids.{n}"), wide(&encoding.token_type_ids)));
        for (layer, state) in states.hidden.iter().enumerate() {
            values.push((format!("hidden.{layer}.{n}"), vec![len, hidden], state.clone()));
        }
        values.extend(states.hidden.last().map(|last| (format!("hidden.{n}"), vec![len, hidden], last.clone())));
        values.extend(states.logits.map(|l| (format!("logits.{n}"), vec![len, l.len() / len], l)));
        values.extend(states.class_logits.map(|l| (format!("logits.{n}"), vec![l.len()], l)));
    }
    let mut tensors: Vec<OutTensor> = Vec::new();
    for (name, ids) in &ids {
        tensors.push(OutTensor { name: name.clone(), shape: vec![ids.len()], values: OutValues::I64(ids) });
    }
    for (name, shape, values) in &values {
        tensors.push(OutTensor { name: name.clone(), shape: shape.clone(), values: OutValues::F32(values) });
    }
    write(file, &tensors, &[]).with_context(|| format!("cannot write {}", file.display()))
}

/// A JSON value as an indented list.
fn print_tree(value: &Value, depth: usize) -> anyhow::Result<()> {
    let indent = "  ".repeat(depth);
    let Value::Object(map) = value else { return Ok(()) };
    for (key, value) in map {
        match value {
            Value::Object(inner) if inner.is_empty() => {}
            Value::Array(list) if list.is_empty() => {}
            Value::Null => {}
            Value::Object(_) => {
                print_line(format_args!("{indent}{key}"))?;
                print_tree(value, depth + 1)?;
            }
            Value::Array(list) => {
                let separator = if list.len() > 6 { ",\n                       " } else { ", " };
                let items = list.iter().map(plain).collect::<Vec<_>>().join(separator);
                print_line(format_args!("{indent}{key:<18} {items}"))?;
            }
            other => print_line(format_args!("{indent}{key:<18} {}", plain(other)))?,
        }
    }
    Ok(())
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
