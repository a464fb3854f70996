//! Checkpoints of other programs become folders of ours; the doctor says what is odd about one, and where two part.

use std::path::{Path, PathBuf};

use cloze::convert::{ConvertOptions, convert};
use cloze::doctor::{Weight, compare, examine};
use cloze::model::files::container::{Dtype, Origin};
use cloze::model::files::safetensors::{OutTensor, OutValues, TensorFiles, write};
use cloze::quantize::{Quantization, quantize};
use cloze::task::Options as TaskOptions;
use cloze::task::sentence_embedding::SentenceEmbedding;
use cloze::tensor::Operands;
use cloze::text::Tokenizer;
use cloze::train::run::Precision;
use cloze::{Device, DeviceChoice, Form, Pipeline};
use serde_json::{Value, json};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/containers").join(name)
}

/// A folder with a fixture's files and more.
fn folder_of(files: &[(PathBuf, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (from, to) in files {
        let to = folder.path().join(to);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(from, to).unwrap();
    }
    folder
}

fn reference() -> tempfile::TempDir {
    folder_of(&["config.json", "model.safetensors", "vocab.txt"].map(|name| (fixture(name), name)))
}

fn options(from: &Path, out: &Path) -> ConvertOptions {
    ConvertOptions { from: from.to_owned(), out: out.to_owned(), dtype: None, gelu_tanh: false }
}

const TEXT: &str = "the cat sat 猫";

fn states(folder: &Path) -> Vec<f32> {
    let device = Device::open(DeviceChoice::Cpu, Some(1)).unwrap();
    let pipeline = Pipeline::load(&device, folder, Precision::F32, None).unwrap();
    assert!(pipeline.newly_initialised().is_empty(), "{:?}", pipeline.newly_initialised());
    pipeline.states(TEXT).unwrap().1.logits.unwrap()
}

#[test]
fn pytorch_and_tensorflow_become_folders_with_the_same_numbers() {
    let reference = reference();
    let expected = states(reference.path());
    let torch = |file: &str| {
        folder_of(&[(fixture(file), "pytorch_model.bin"), (fixture("config.json"), "config.json"), (fixture("vocab.txt"), "vocab.txt")])
    };
    let tensorflow = folder_of(
        &["bert_config.json", "bert_model.ckpt.index", "bert_model.ckpt.data-00000-of-00001", "vocab.txt"]
            .map(|name| (fixture("tf").join(name), name)),
    );
    for (from, origin) in [
        (torch("zip/pytorch_model.bin"), Origin::PyTorch),
        (torch("old/pytorch_model.bin"), Origin::PyTorch),
        (torch("loop/model.pt"), Origin::PyTorch),
        (tensorflow, Origin::TensorFlow),
    ] {
        let out = tempfile::tempdir().unwrap();
        let folder = out.path().join("model");
        let done = convert(&options(from.path(), &folder)).unwrap();
        assert_eq!(done.origin, origin);
        assert_eq!(states(&folder), expected, "{:?}", done.notes);
        assert_eq!(Tokenizer::load(&folder).unwrap().encode(TEXT, true).unwrap().ids.len(), 6);
        let files = ["config.json", "model.safetensors", "tokenizer.json", "vocab.txt"];
        assert!(files.iter().all(|f| done.files.iter().any(|d| d == f) && folder.join(f).exists()), "{:?}", done.files);
        let config: Value = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
        assert_eq!((config["model_type"].as_str(), config["architectures"][0].as_str()), (Some("bert"), Some("BertForPreTraining")));
        assert_eq!(done.notes.iter().any(|n| n.contains("tanh")), origin == Origin::TensorFlow, "{:?}", done.notes);
        // never over a model that is there
        let error = convert(&options(from.path(), &folder)).unwrap_err().to_string();
        assert!(error.contains("holds a model already"), "{error}");
    }
}

#[test]
fn a_conversion_may_change_the_type_and_the_gelu() {
    let out = tempfile::tempdir().unwrap();
    let folder = out.path().join("half");
    convert(&ConvertOptions { dtype: Some(Dtype::BF16), gelu_tanh: true, ..options(&fixture("tf"), &folder) }).unwrap();
    let files = TensorFiles::of_folder(&folder).unwrap();
    assert!(files.names().iter().all(|n| files.describe(n).unwrap().1 == "BF16"));
    let config: Value = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
    assert_eq!((config["hidden_act"].as_str(), config["torch_dtype"].as_str()), (Some("gelu_new"), Some("bfloat16")));
    let found = examine(&folder);
    assert!(found.iter().any(|f| f.text.contains("tanh approximation")), "{found:?}");
}

#[test]
fn modules_of_sentence_transformers_come_along() {
    let out = tempfile::tempdir().unwrap();
    let folder = out.path().join("sentence");
    convert(&options(&fixture("sentence"), &folder)).unwrap();
    let read = |folder: &Path| cloze::model::files::sentence::SentenceModel::read(folder).unwrap().unwrap().model;
    assert_eq!(read(&folder), read(&fixture("sentence")));
    let device = Device::open(DeviceChoice::Cpu, Some(1)).unwrap();
    let pipeline = Pipeline::load(&device, &folder, Precision::F32, None).unwrap();
    assert_eq!(pipeline.context().max_length, 12);
    assert_eq!(pipeline.context().settings.dense.len(), 2);
    assert_eq!(pipeline.context().settings.query_prefix, "the cat ");
    assert_eq!(pipeline.context().settings.default_prefix, "");
}

/// What older folders and Cloze itself say of a model stands in files of other names.
#[test]
fn settings_beside_a_model_come_along() {
    let folder = reference();
    let settings = r#"{"task": "sentence-embedding", "pooling": "cls", "normalize": false, "query_prefix": "q: "}"#;
    std::fs::write(folder.path().join("cloze_task.json"), settings).unwrap();
    std::fs::write(folder.path().join("sentence_roberta_config.json"), r#"{"max_seq_length": 7}"#).unwrap();
    let out = tempfile::tempdir().unwrap();
    let copy = out.path().join("copy");
    let done = convert(&options(folder.path(), &copy)).unwrap();
    for name in ["cloze_task.json", "sentence_roberta_config.json"] {
        assert!(done.files.iter().any(|f| f == name), "{name}: {:?}", done.files);
        assert_eq!(std::fs::read(copy.join(name)).unwrap(), std::fs::read(folder.path().join(name)).unwrap());
    }
}

/// The prompt of no name stands before every text that is not asked for under another, as sentence-transformers has it.
#[test]
fn the_default_prompt_of_sentence_transformers_stands_before_a_lone_text() {
    let names = ["modules.json", "config.json", "model.safetensors", "sentence_bert_config.json", "1_Pooling/config.json"];
    let more = ["2_Dense/config.json", "2_Dense/model.safetensors", "3_Dense/config.json", "3_Dense/model.safetensors", "vocab.txt"];
    let files: Vec<_> = names.into_iter().chain(more).filter(|f| fixture("sentence").join(f).exists()).collect();
    let folder = folder_of(&files.iter().map(|name| (fixture("sentence").join(name), *name)).collect::<Vec<_>>());
    let prompts = |text: Value| std::fs::write(folder.path().join("config_sentence_transformers.json"), text.to_string()).unwrap();
    let read = || {
        let settings = cloze::task::Settings::read(folder.path()).unwrap();
        [settings.default_prefix, settings.query_prefix, settings.passage_prefix]
    };
    prompts(json!({"prompts": {"query": "q ", "corpus": "c "}, "default_prompt_name": null}));
    assert_eq!(read(), ["", "q ", "c "]);
    prompts(json!({"prompts": {"query": "q ", "all": "a "}, "default_prompt_name": "all"}));
    assert_eq!(read(), ["a ", "q ", "a "]);
}

/// Rows without labels are compared by hidden states, which is said; rows with a faulty label are the user's to mend.
#[test]
fn quantizing_tells_rows_without_labels_from_faulty_ones() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    let classifier = ["config.json", "model.safetensors"].map(|name| (models.join("bert-tiny-classifier").join(name), name));
    let words = ["vocab.txt", "tokenizer.json"].map(|name| (models.join("bert-tiny").join(name), name));
    let folder = folder_of(&[classifier, words].concat());
    let device = Device::open(DeviceChoice::Cpu, Some(1)).unwrap();
    let work = tempfile::tempdir().unwrap();
    let label = cloze::model::load(folder.path()).unwrap().model.heads.labels[0].clone();
    let with = |rows: &str, out: &str| {
        let dev = work.path().join("dev.csv");
        std::fs::write(&dev, rows).unwrap();
        let what = Quantization {
            model: folder.path().to_owned(),
            out: work.path().join(out),
            operands: Operands::Bf16,
            dev,
            task: Some("text-classification".into()),
            columns: cloze::task::Columns::default(),
            options: TaskOptions::default(),
            tolerance: 0.0,
            samples: 2,
        };
        quantize(&device, &what, &mut |_, _, _| ())
    };
    let labelled = with(&format!("text,label\nthe cat,{label}\na dog,{label}\n"), "labelled").unwrap();
    assert!(labelled.unlabelled.is_none() && labelled.figure.is_some());
    let bare = with("text,source\nthe cat,x\na dog,y\n", "bare").unwrap();
    assert!(bare.unlabelled.is_some_and(|why| why.contains("`label`")) && bare.figure.is_none());
    let error = with(&format!("text,label\nthe cat,{label}\na dog,\n"), "faulty").unwrap_err().to_string();
    assert!(error.contains("line 3") && error.contains("label"), "{error}");
    assert!(!work.path().join("faulty").exists());
}

/// A tokenizer of more tokens than the model, and a second text for a model of one segment, are told of and do not end the program.
#[test]
fn ids_without_a_row_are_told() {
    let folder = reference();
    let vocabulary = std::fs::read_to_string(folder.path().join("vocab.txt")).unwrap();
    std::fs::write(folder.path().join("vocab.txt"), format!("{}\nzebra\n", vocabulary.trim_end())).unwrap();
    let device = Device::open(DeviceChoice::Cpu, Some(1)).unwrap();
    let pipeline = Pipeline::load(&device, folder.path(), Precision::F32, None).unwrap();
    let ask = |input: Value| pipeline.answer(&SentenceEmbedding, &[input], &TaskOptions::default());
    assert!(ask(json!("the cat")).is_ok());
    let rows = pipeline.model().blueprint.vocab_size;
    let error = ask(json!("the zebra")).unwrap_err().to_string();
    assert!(["token id", "vocab_size", &rows.to_string()].iter().all(|part| error.contains(part)), "{error}");
    assert!(pipeline.states("the zebra").is_err());
    assert!(pipeline.attention(&pipeline.tokenizer().encode("the zebra", true).unwrap()).is_err());
    let mut blueprint = pipeline.model().blueprint.clone();
    let segments = |blueprint: &cloze::model::Blueprint| cloze::task::run::has_rows(blueprint, &[1, 2], &[0, 1]);
    assert!(segments(&blueprint).is_ok());
    blueprint.type_vocab_size = 1;
    let error = segments(&blueprint).unwrap_err().to_string();
    assert!(error.contains("segment id 1") && error.contains("type_vocab_size 1"), "{error}");
    blueprint.type_vocab_size = 0;
    assert!(segments(&blueprint).is_ok());
}

/// The vectors are sentence-transformers' own; the last text has distances beyond all buckets. Saved and loaded again, and in bf16, too.
#[test]
fn an_mpnet_of_sentence_transformers_gives_its_vectors() {
    let folder = fixture("sentence-mpnet");
    let long = "the cat walked away and a dog ran in the park ".repeat(20);
    let texts = ["the cat sat on the mat", "a", "Unknown zzqq, the cat slept!", "", &long].map(|text| json!({ "text": text }));
    let (shape, golden) = TensorFiles::open(vec![folder.join("golden.safetensors")]).unwrap().read("embeddings").unwrap().unwrap();
    assert_eq!(shape, [texts.len(), 8]);
    let out = tempfile::tempdir().unwrap();
    let copy = out.path().join("copy");
    convert(&options(&folder, &copy)).unwrap();
    let device = Device::open(DeviceChoice::Cpu, Some(1)).unwrap();
    let (f32, bf16, int8) = (Operands::F32, Operands::Bf16, Operands::Int8);
    for (folder, form, bound) in [(&folder, f32, 1e-5), (&copy, f32, 1e-5), (&folder, bf16, 3e-2), (&folder, int8, 5e-2)] {
        let pipeline = Pipeline::with_form(&device, folder, &Form::whole(form), None).unwrap();
        let found = pipeline.answer(&SentenceEmbedding, &texts, &TaskOptions::default()).unwrap();
        for (text, (found, golden)) in texts.iter().zip(found.iter().zip(golden.chunks(8))) {
            let vector: Vec<f32> = serde_json::from_value(found.clone()).unwrap();
            let error = vector.iter().zip(golden).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(vector.len() == 8 && error < bound, "{form:?} {text}: {vector:?}, {golden:?}");
        }
    }
}

/// Change one tensor of a folder.
fn change(folder: &Path, name: &str, by: impl Fn(&mut [f32])) {
    let files = TensorFiles::of_folder(folder).unwrap();
    let mut all: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
    for n in files.names() {
        let (shape, mut values) = files.read(n).unwrap().unwrap();
        if n == name {
            by(&mut values);
        }
        all.push((n.clone(), shape, values));
    }
    drop(files);
    let tensors: Vec<OutTensor> =
        all.iter().map(|(n, s, v)| OutTensor { name: n.clone(), shape: s.clone(), values: OutValues::F32(v) }).collect();
    write(&folder.join("model.safetensors"), &tensors, &[]).unwrap();
}

#[test]
fn the_doctor_finds_what_is_odd() {
    let says = |folder: &Path, weight: Weight, part: &str| {
        let found = examine(folder);
        assert!(found.iter().any(|f| f.weight == weight && f.text.contains(part)), "{part}: {found:#?}");
    };
    let sound = reference();
    assert!(examine(sound.path()).iter().all(|f| f.weight == Weight::Note), "{:#?}", examine(sound.path()));
    says(sound.path(), Weight::Note, "GELU by erf");
    says(sound.path(), Weight::Note, "tied to bert.embeddings.word_embeddings.weight");

    let broken = reference();
    change(broken.path(), "bert.encoder.layer.0.output.dense.weight", |v| v[3] = f32::NAN);
    says(broken.path(), Weight::Fault, "bert.encoder.layer.0.output.dense.weight (1 of 96)");
    let flat = reference();
    change(flat.path(), "bert.pooler.dense.weight", |v| v.fill(0.0));
    says(flat.path(), Weight::Warning, "bert.pooler.dense.weight");

    let long = reference();
    let vocabulary = std::fs::read_to_string(fixture("vocab.txt")).unwrap() + "more\nstill\n";
    std::fs::write(long.path().join("vocab.txt"), vocabulary).unwrap();
    says(long.path(), Weight::Fault, "26 ids, the model 24 rows");
    std::fs::remove_file(long.path().join("vocab.txt")).unwrap();
    says(long.path(), Weight::Warning, "no tokenizer");

    let config = |change: &dyn Fn(&mut Value)| {
        let folder = reference();
        let path = folder.path().join("config.json");
        let mut value: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        std::fs::write(path, value.to_string()).unwrap();
        folder
    };
    says(config(&|c| c["pad_token_id"] = json!(3)).path(), Weight::Warning, "pad_token_id 3");
    says(config(&|c| c["hidden_size"] = json!(16)).path(), Weight::Fault, "[24, 8]");
    says(config(&|c| c["architectures"] = json!(["BertModel"])).path(), Weight::Note, "cls.predictions.bias");
    let missing = reference();
    let files = TensorFiles::of_folder(missing.path()).unwrap();
    let kept: Vec<(String, Vec<usize>, Vec<f32>)> = files
        .names()
        .iter()
        .filter(|n| !n.contains("layer.1.attention.output.dense"))
        .map(|n| files.read(n).unwrap().map(|(s, v)| (n.clone(), s, v)).unwrap())
        .collect();
    drop(files);
    let tensors: Vec<OutTensor> =
        kept.iter().map(|(n, s, v)| OutTensor { name: n.clone(), shape: s.clone(), values: OutValues::F32(v) }).collect();
    write(&missing.path().join("model.safetensors"), &tensors, &[]).unwrap();
    says(missing.path(), Weight::Fault, "layer.1.attention.out.weight");
}

#[test]
fn two_models_part_where_they_differ() {
    let device = Device::open(DeviceChoice::Cpu, Some(1)).unwrap();
    let (a, b) = (reference(), reference());
    let texts = [TEXT.to_owned(), "a b c".to_owned()];
    let same = compare(&device, a.path(), b.path(), &texts).unwrap();
    assert!(same.weights.is_empty() && same.config.is_empty() && same.not_run.is_none() && same.equal > 30);
    assert!(same.texts.iter().all(|t| t.same_tokens && t.first_difference.is_none() && t.layers.len() == 4), "{same:?}");

    change(b.path(), "bert.encoder.layer.1.attention.self.value.weight", |v| v[5] += 0.5);
    let c = compare(&device, a.path(), b.path(), &texts).unwrap();
    assert_eq!(c.weights.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(), ["bert.encoder.layer.1.attention.self.value.weight"]);
    assert!((c.weights[0].largest - 0.5).abs() < 1e-6);
    for text in &c.texts {
        assert_eq!(text.first_difference.as_deref(), Some("layer 1"), "{text:?}");
        assert_eq!(text.layers[1].largest, 0.0, "what stands before is equal to the bit");
    }
    change(b.path(), "bert.embeddings.LayerNorm.bias", |v| v[0] += 1.0);
    let c = compare(&device, a.path(), b.path(), &texts).unwrap();
    assert_eq!(c.texts[0].first_difference.as_deref(), Some("embeddings"));
    assert_eq!(c.weights.len(), 2);
    // a bare body against all of it
    let c = compare(&device, &fixture("sentence"), a.path(), &texts).unwrap();
    assert!(c.only_second.iter().any(|n| n == "cls.predictions.bias") && c.config.iter().any(|(key, ..)| key == "architectures"), "{c:?}");
    assert!(c.only_first.is_empty() && c.equal + c.weights.len() > 30, "names are compared without the body's prefix: {c:?}");
}
