//! `cloze inspect`: what a folder holds.

use std::path::{Path, PathBuf};

use anyhow::Context;
use cloze::doctor::{BOUND, compare, examine};
use cloze::model::files::adapter::{Adapter, is_adapter};
use cloze::model::files::container::Container;
use cloze::model::files::safetensors::TensorFiles;
use cloze::text::{MANIFEST, Manifest, Tokenizer};
use cloze::train::figures::{format_bytes, grouped};
use cloze::train::run::Precision;
use cloze::{Pipeline, model};
use serde_json::{Value, json};

use crate::options::{Options, print_json, print_line};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A model (a folder, or org/name[@revision] on the hub), a corpus (from `prepare`), a tokenizer, or a run's folder
    folder: PathBuf,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// Write what the model computes for these texts (hidden states of every layer, logits) to a safetensors file, for
    /// comparison with another implementation
    #[arg(long, value_name = "FILE", requires = "text")]
    dump: Option<PathBuf>,
    /// A text for --dump or --against; may be given many times
    #[arg(long)]
    text: Vec<String>,
    /// Compare with another model: configuration, weights tensor by tensor, and both on the same text layer by layer
    #[arg(long, value_name = "FOLDER")]
    against: Option<PathBuf>,
}

pub(crate) fn run(args: Args, options: &Options) -> anyhow::Result<u8> {
    // A run's folder holds its model.
    let folder = model_in(options.model(&args.folder)?);
    if let Some(other) = &args.against {
        let other = model_in(options.model(other)?);
        return against(&folder, &other, &args.text, options);
    }
    let mut report = serde_json::Map::new();
    report.insert("folder".into(), json!(folder));
    if is_adapter(&folder) {
        report.insert("adapter".into(), describe_adapter(&folder)?);
    } else if ["config.json", "bert_config.json", "model.safetensors", "pytorch_model.bin", "bert_model.ckpt.index"]
        .iter()
        .any(|f| folder.join(f).exists())
    {
        // A model that does not load is what the doctor is for.
        let model = describe_model(&folder, args.tensors).or_else(|_| describe_files(&folder, args.tensors));
        report.insert("model".into(), model.unwrap_or_else(|_| json!({"loads": false})));
        report.insert("findings".into(), json!(examine(&folder)));
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

/// The model of a run's folder, or the folder itself.
fn model_in(folder: PathBuf) -> PathBuf {
    let inner = folder.join("model");
    if !folder.join("config.json").exists() && inner.join("config.json").exists() { inner } else { folder }
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
    // Of a model whose scores have a bias by distance, that too.
    let relative = b.relative.map(|r| format!(", distances in {} buckets up to {}", r.buckets, r.max_distance)).unwrap_or_default();
    let mut value = json!({
        "family": m.family,
        "architecture": format!("{} layers × {} hidden, {} heads of {}, feed-forward {}", b.num_hidden_layers, b.hidden_size, b.num_attention_heads, b.head_dim(), b.intermediate_size),
        "norm": format!("{}, {:?}, eps {:e}", format!("{:?}", b.norm_placement).to_lowercase(), b.norm, b.layer_norm_eps),
        "position": position(b.position) + &relative,
        "feed_forward": format!("{}, {}", format!("{:?}", b.mlp).to_lowercase(), activation(b.hidden_act)),
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

fn position(position: model::blueprint::Position) -> String {
    use model::blueprint::Position;
    match position {
        Position::Learned { max, offset: 0 } => format!("learned, {max} places"),
        Position::Learned { max, offset } => format!("learned, {} places from row {offset} on", max.saturating_sub(offset)),
        Position::Rotary { max, theta } => format!("rotary, {max} places, base {theta}"),
    }
}

fn activation(activation: cloze::tensor::ops::activation::Activation) -> String {
    use cloze::tensor::ops::activation::Activation;
    match activation {
        Activation::Gelu => "gelu (by erf)".into(),
        Activation::GeluTanh => "gelu (by its tanh approximation)".into(),
        other => format!("{other:?}").to_lowercase(),
    }
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

fn describe_adapter(folder: &Path) -> anyhow::Result<Value> {
    let adapter = Adapter::read(folder)?;
    let mut ranks: Vec<usize> = adapter.updates().values().map(|update| update.rank).collect();
    ranks.sort_unstable();
    ranks.dedup();
    Ok(json!({
        "base": adapter.base().map_or_else(|e| e.to_string(), |base| base.display().to_string()),
        "matrices": adapter.updates().len(),
        "ranks": ranks,
        "modules": adapter.updates().keys().collect::<Vec<_>>(),
        "saved_whole": adapter.whole().collect::<Vec<_>>(),
    }))
}

/// The weights of a folder whose model cannot be loaded.
fn describe_files(folder: &Path, tensors: bool) -> anyhow::Result<Value> {
    let container = Container::of_safetensors(folder)?;
    let mut list = serde_json::Map::new();
    let mut values = 0;
    for name in container.names() {
        if let Some((shape, dtype)) = container.describe(name) {
            values += shape.iter().product::<usize>();
            list.insert(name.to_owned(), json!(format!("{dtype:?} {shape:?}")));
        }
    }
    let mut value = json!({"loads": false, "origin": format!("{:?}", container.origin()), "tensors_in_files": list.len(), "values": grouped(values as u64)});
    if tensors && let Some(map) = value.as_object_mut() {
        map.insert("tensors".into(), Value::Object(list));
    }
    Ok(value)
}

/// Tensors that a comparison lists.
const SHOWN: usize = 12;
/// Texts for a comparison when none is given.
const TEXTS: [&str; 2] = ["The cat sat on the mat.", "猫坐在垫子上。"];

fn against(folder: &Path, other: &Path, texts: &[String], options: &Options) -> anyhow::Result<u8> {
    let texts = if texts.is_empty() { TEXTS.map(str::to_owned).to_vec() } else { texts.to_vec() };
    let device = options.open()?;
    let c = compare(&device, folder, other, &texts)?;
    if options.json {
        print_json(&c)?;
        return Ok(0);
    }
    print_line(format_args!("{}\nagainst {}", folder.display(), other.display()))?;
    for (key, a, b) in &c.config {
        print_line(format_args!("  config  {key}: {a} and {b}"))?;
    }
    for (names, whose) in [(&c.only_first, "first"), (&c.only_second, "second")] {
        if !names.is_empty() {
            let more = if names.len() > SHOWN { format!(", and {} more; --json lists all", names.len() - SHOWN) } else { String::new() };
            print_line(format_args!("  only in the {whose}: {}{more}", names[..names.len().min(SHOWN)].join(", ")))?;
        }
    }
    for shapes in &c.shapes {
        print_line(format_args!("  shapes  {shapes}"))?;
    }
    print_line(format_args!("  weights  {} tensors equal, {} different", c.equal, c.weights.len()))?;
    for d in c.weights.iter().take(SHOWN) {
        print_line(format_args!("    {:<60} by {:.3e} ({:.2e} of the largest value)", d.name, d.largest, d.relative))?;
    }
    if c.weights.len() > SHOWN {
        print_line(format_args!("    and {} more; --json lists all", c.weights.len() - SHOWN))?;
    }
    if let Some(why) = &c.not_run {
        print_line(format_args!("  not run side by side: {why}"))?;
    }
    for t in &c.texts {
        print_line(format_args!("  {}", t.text))?;
        if !t.same_tokens {
            print_line("    the tokenizers cut it differently; both models get the first one's tokens")?;
        }
        for d in &t.layers {
            let mark = if t.first_difference.as_ref() == Some(&d.name) { "  ← the first that differs" } else { "" };
            print_line(format_args!("    {:<26} by {:.3e} ({:.2e} of the largest value){mark}", d.name, d.largest, d.relative))?;
        }
        if t.first_difference.is_none() {
            print_line(format_args!("    no layer differs by more than {BOUND:e}"))?;
        }
    }
    Ok(0)
}

fn dump(folder: &Path, file: &Path, texts: &[String], options: &Options) -> anyhow::Result<()> {
    use cloze::model::files::safetensors::{OutTensor, OutValues, write};
    let device = options.open()?;
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
            Value::Array(list) if list.iter().all(Value::is_object) => {
                print_line(format_args!("{indent}{key}"))?;
                for item in list {
                    let parts: Vec<String> = item.as_object().into_iter().flat_map(|m| m.values()).map(plain).collect();
                    print_line(format_args!("{indent}  {}", parts.join(": ")))?;
                }
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
