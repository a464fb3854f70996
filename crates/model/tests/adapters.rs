//! Adapters that peft saved (fixtures/adapters.py): read onto their base they give peft's logits, merged and beside their matrices; the
//! gradients of A, B and the head are PyTorch's; what is written is read back bit for bit; what is broken is told.

mod golden_support;

use std::path::{Path, PathBuf};

use cloze_model::adaptation::{Adaptation, Rank};
use cloze_model::files::adapter::{ADAPTER_CONFIG, ADAPTER_WEIGHTS, Adapted, Adapter, AdapterCard, is_adapter, save_adapter};
use cloze_model::files::safetensors::{HostTensor, OutTensor, OutValues, TensorFiles, write};
use cloze_model::registry::{Class, family};
use cloze_model::{Input, Model};
use cloze_tensor::plain::Plain;
use cloze_tensor::{Backend, Dtype, Sequences, Tape, Var, Weights};
use golden_support::{close, cpus, fixture};
use serde_json::{Value, json};

const FAMILIES: [&str; 3] = ["bert", "distilbert", "modernbert"];

/// The base of an adapter: a family's body with its classifier.
fn base(name: &str, folder: &Path) -> PathBuf {
    let at = fixture("families").join(name);
    let body = TensorFiles::open(vec![at.join("body.safetensors")]).unwrap();
    let head = TensorFiles::open(vec![at.join("ForSequenceClassification.safetensors")]).unwrap();
    let mut tensors: Vec<(String, HostTensor)> = body.names().iter().map(|n| (n.clone(), body.read(n).unwrap().unwrap())).collect();
    let own = head.names().iter().filter_map(|n| Some((n.strip_prefix("weight.")?.to_owned(), head.read(n).unwrap().unwrap())));
    tensors.extend(own);
    let out: Vec<OutTensor> = tensors
        .iter()
        .map(|(name, (shape, v))| OutTensor { name: name.clone(), shape: shape.clone(), values: OutValues::F32(v) })
        .collect();
    let base = folder.join(name);
    std::fs::create_dir(&base).unwrap();
    write(&base.join("model.safetensors"), &out, &[]).unwrap();
    let mut config: Value = serde_json::from_slice(&std::fs::read(at.join("config.json")).unwrap()).unwrap();
    let class = family(name).unwrap().class;
    config["architectures"] = json!([format!("{class}ForSequenceClassification")]);
    config["num_labels"] = json!(3);
    std::fs::write(base.join("config.json"), config.to_string()).unwrap();
    base
}

struct Golden(TensorFiles);

impl Golden {
    fn of(name: &str) -> Self {
        Self(TensorFiles::open(vec![fixture("adapters").join(name).join("golden.safetensors")]).unwrap())
    }

    fn f32(&self, name: &str) -> Vec<f32> {
        self.0.read(name).unwrap().unwrap_or_else(|| panic!("no {name}")).1
    }

    fn u32(&self, name: &str) -> Vec<u32> {
        self.0.read_u32(name).unwrap_or_else(|| panic!("no {name}"))
    }

    fn input<B: Backend>(&self, backend: &B) -> Input<B> {
        let starts = self.u32("starts");
        let sequences = Sequences::from_lengths(starts.windows(2).map(|w| (w[1] - w[0]) as usize));
        Input::new(backend, &self.u32("input_ids"), &self.u32("token_type_ids"), sequences)
    }
}

fn logits<B: Backend>(model: &Model, tape: &mut Tape<'_, B>, input: &Input<B>, recompute: bool) -> (Var<B>, Var<B>) {
    let hidden = model.hidden(tape, input, recompute);
    let pooled = model.pooled(tape, &hidden, input).unwrap();
    (model.classifier().unwrap().logits(tape, &pooled), pooled)
}

#[test]
fn logits_are_pefts() {
    for name in FAMILIES {
        let folder = tempfile::tempdir().unwrap();
        let base = base(name, folder.path());
        let (at, golden) = (fixture("adapters").join(name), Golden::of(name));
        assert!(is_adapter(&at) && !is_adapter(&base));
        let adapted = Adapted::open(&base, Some(Adapter::read(&at).unwrap()), None, 0).unwrap();
        assert!(adapted.report.new.is_empty() && adapted.model.heads.labels.len() == 3, "{name}: {:?}", adapted.report);
        let beside = adapted.beside().unwrap();
        assert!(!beside.model.updates().is_empty() && adapted.model.updates().is_empty());
        let all = [(&adapted.model, adapted.values().unwrap()), (&beside.model, beside.values().unwrap())];
        for (model, values) in &all {
            for cpu in cpus() {
                let weights = model.frozen(&cpu, values, Dtype::F32);
                let mut tape = Tape::inference(&cpu, &weights, Dtype::F32);
                let (logits, _) = logits(model, &mut tape, &golden.input(&cpu), false);
                close(&format!("{name}: logits"), &logits.to_host(&cpu), &golden.f32("logits"), 1e-4);
            }
        }
        // Without the adapter the answers are others: the comparison can fail.
        let plain = Adapted::open(&base, None, None, 0).unwrap();
        let cpu = cpus().next().unwrap();
        let weights = plain.model.frozen(&cpu, &plain.values().unwrap(), Dtype::F32);
        let mut tape = Tape::inference(&cpu, &weights, Dtype::F32);
        let other = logits(&plain.model, &mut tape, &golden.input(&cpu), false).0.to_host(&cpu);
        assert!(other.iter().zip(golden.f32("logits")).any(|(a, b)| (a - b).abs() > 0.05), "{name}: the adapter changes nothing");
    }
}

/// Every family, also those whose matrices stand in other orders in files than here: products beside the matrices are products in them.
#[test]
fn merged_and_beside_are_one_model_in_every_family() {
    for family in cloze_model::registry::FAMILIES.iter().filter(|f| f.classes.contains(&Class::Sequence)) {
        let (name, folder) = (family.model_type, tempfile::tempdir().unwrap());
        let base = base(name, folder.path());
        let plain = cloze_model::load(&base).unwrap();
        let rank = Rank { rank: 3, scale: 1.5 };
        let mut all = Adaptation::new(&plain.model, &["all-linear".into()], rank, 0.0).unwrap();
        // No layer's, but the body's: ELECTRA, ALBERT and RoFormer bring narrow embeddings to the width of their layers.
        if let Some(projection) = plain.model.table().get("embeddings.projection.weight") {
            let parts = (family.names)(projection, &plain.model.blueprint);
            all.modules.extend(parts.iter().map(|part| (part.name.strip_suffix(".weight").unwrap().to_owned(), rank)));
        }
        let model = Model::adapted(plain.model.family, plain.model.blueprint.clone(), plain.model.heads.clone(), &all);
        let mut values = plain.model.moved(&plain.values, &model);
        for param in model.updates().iter().flat_map(|u| u.params()) {
            values[param.range()].iter_mut().enumerate().for_each(|(i, v)| *v = ((i * 13 + param.offset) % 17) as f32 / 20.0 - 0.4);
        }
        let (merged, merged_values) = model.merged(&values);
        // written under the names of files and read again
        let out = folder.path().join("written");
        std::fs::create_dir(&out).unwrap();
        let (text, targets) = (base.display().to_string(), ["all-linear".to_owned()]);
        let card = AdapterCard { base: &text, rank: 3, alpha: 4.5, dropout: 0.0, targets: &targets };
        save_adapter(&out, &model, &values, &card, &[]).unwrap();
        let read = Adapted::open(&base, Some(Adapter::read(&out).unwrap()), None, 0).unwrap();
        assert!(read.values().unwrap() == merged_values, "{name}: what is read is not what was merged");
        let cpu = cpus().last().unwrap();
        let answers = |model: &Model, values: &[f32]| {
            let weights = model.frozen(&cpu, values, Dtype::F32);
            let mut tape = Tape::inference(&cpu, &weights, Dtype::F32);
            let input = Input::new(&cpu, &[2, 7, 9, 3, 2, 30, 11, 12, 3], &[0; 9], Sequences::from_lengths([4, 5]));
            logits(model, &mut tape, &input, false).0.to_host(&cpu)
        };
        let (beside, inside) = (answers(&model, &values), answers(&merged, &merged_values));
        close(&format!("{name}: beside and merged"), &beside, &inside, 1e-4);
        let again = read.beside().unwrap();
        let read = answers(&again.model, &again.values().unwrap());
        close(&format!("{name}: read, beside and merged"), &read, &inside, 1e-4);
        let other = answers(&plain.model, &plain.values);
        assert!(other.iter().zip(&inside).any(|(a, b)| (a - b).abs() > 0.05), "{name}: the products change nothing");
    }
}

fn gradients<B: Backend>(name: &str, backend: &B, bound: f32, recompute: bool) {
    let folder = tempfile::tempdir().unwrap();
    let base = base(name, folder.path());
    let (at, golden) = (fixture("adapters").join(name), Golden::of(name));
    let adapted = Adapted::open(&base, Some(Adapter::read(&at).unwrap()), None, 0).unwrap();
    let beside = adapted.beside().unwrap();
    let model = &beside.model;
    let weights = Weights::from_host(backend, &beside.values().unwrap());
    // Frozen parameters stand behind the end: no room for their gradients is needed.
    let own = model.table().own_len();
    let mut gradients = backend.zeros(Dtype::F32, own);
    let mut tape = Tape::training(backend, &weights, Dtype::F32, &mut gradients, None);
    let (_, pooled) = logits(model, &mut tape, &golden.input(backend), recompute);
    let labels = golden.u32("labels");
    let losses = model.classifier().unwrap().loss(&mut tape, &pooled, &backend.indices(&labels), 1.0 / labels.len() as f32, 0.0);
    let mean = losses.to_host(backend).chunks(2).map(|row| row[0]).sum::<f32>() / labels.len() as f32;
    close(&format!("{name}: loss"), &[mean], &golden.f32("loss"), bound);
    tape.backward();
    let found = backend.read(&gradients, 0..own);
    let mut compared = 0;
    for update in model.updates() {
        for (which, ours) in [("A", update.a(&found).to_vec()), ("B", update.b(&found))] {
            let tensor = format!("base_model.model.{}.lora_{which}.weight", update.module);
            close(&format!("{name}: {tensor}"), &ours, &golden.f32(&format!("grad.{tensor}")), bound);
            compared += 1;
        }
    }
    let head = model.table().get("classifier.weight").unwrap();
    let tensor = &(family(name).unwrap().names)(head, &model.blueprint)[0].name;
    close(name, &found[head.param.range()], &golden.f32(&format!("grad.base_model.model.{tensor}")), bound);
    assert!(compared >= 4, "{name}: {compared}");
}

#[test]
fn gradients_are_pytorchs() {
    for name in FAMILIES {
        gradients(name, &Plain, 1e-5, false);
        gradients(name, &Plain, 1e-5, true);
        for cpu in cpus() {
            gradients(name, &cpu, 2e-4, false);
        }
    }
}

#[test]
fn a_written_adapter_is_read_bit_for_bit() {
    for name in FAMILIES {
        let folder = tempfile::tempdir().unwrap();
        let base = base(name, folder.path());
        let adapted = Adapted::open(&base, Some(Adapter::read(&fixture("adapters").join(name)).unwrap()), None, 0).unwrap();
        let beside = adapted.beside().unwrap();
        let values = beside.values().unwrap();
        let out = folder.path().join("written");
        std::fs::create_dir(&out).unwrap();
        let text = base.display().to_string();
        let (rank, scale) = (beside.model.updates()[0].rank(), beside.model.updates()[0].scale());
        let targets = ["nothing".to_owned()];
        let card = AdapterCard { base: &text, rank, alpha: scale * rank as f32, dropout: 0.05, targets: &targets };
        save_adapter(&out, &beside.model, &values, &card, &[("pad_token_id", 0)]).unwrap();
        let config: Value = serde_json::from_slice(&std::fs::read(out.join(ADAPTER_CONFIG)).unwrap()).unwrap();
        let targets: Vec<&str> = config["target_modules"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
        let meant =
            |module: &str| targets.iter().any(|t| module.strip_suffix(t).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')));
        assert!(targets.len() < beside.model.updates().len(), "{name}: {targets:?}");
        assert!(beside.model.updates().iter().all(|u| meant(&u.module)) && !meant("bert.pooler.dense"), "{name}: {targets:?}");
        let written = Adapter::read(&out).unwrap();
        assert_eq!(written.base().unwrap(), base);
        let again = Adapted::open(&base, Some(written), None, 0).unwrap();
        assert_eq!(again.model.heads, adapted.model.heads);
        let again = again.beside().unwrap();
        for (a, b) in again.model.updates().iter().zip(beside.model.updates()) {
            assert_eq!((&a.module, a.rank()), (&b.module, b.rank()));
            assert!((a.scale() - b.scale()).abs() < 1e-5, "{}: {} and {}", a.module, a.scale(), b.scale());
        }
        let read = again.values().unwrap();
        assert!(read.iter().zip(&values).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}");
    }
}

/// A change of an adapter's configuration.
type Change = Box<dyn Fn(&mut Value)>;

#[test]
fn what_is_broken_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let base = base("bert", folder.path());
    let at = fixture("adapters").join("bert");
    let copy = folder.path().join("copy");
    std::fs::create_dir(&copy).unwrap();
    let error = |config: &Value, tensors: &[OutTensor]| {
        std::fs::write(copy.join(ADAPTER_CONFIG), config.to_string()).unwrap();
        write(&copy.join(ADAPTER_WEIGHTS), tensors, &[]).unwrap();
        let opened = Adapter::read(&copy).and_then(|a| Adapted::open(&base, Some(a), None, 0)).and_then(|a| a.values());
        opened.err().map(|e| e.to_string()).unwrap_or_default()
    };
    let whole = TensorFiles::open(vec![at.join(ADAPTER_WEIGHTS)]).unwrap();
    let held: Vec<(String, HostTensor)> = whole.names().iter().map(|n| (n.clone(), whole.read(n).unwrap().unwrap())).collect();
    let out =
        |name: &str, shape: &[usize], v: &'static [f32]| OutTensor { name: name.into(), shape: shape.into(), values: OutValues::F32(v) };
    let all = || -> Vec<OutTensor> {
        held.iter().map(|(name, (shape, v))| OutTensor { name: name.clone(), shape: shape.clone(), values: OutValues::F32(v) }).collect()
    };
    let config: Value = serde_json::from_slice(&std::fs::read(at.join(ADAPTER_CONFIG)).unwrap()).unwrap();
    assert_eq!(error(&config, &all()), "");
    let changes: [(&str, Change); 19] = [
        ("peft_type", Box::new(|c| c["peft_type"] = Value::Null)),
        ("peft_type", Box::new(|c| c["peft_type"] = json!(["LORA"]))),
        ("`peft_type` is \"lora\"", Box::new(|c| c["peft_type"] = json!("lora"))),
        ("use_dora", Box::new(|c| c["use_dora"] = json!("no"))),
        ("lora_bias", Box::new(|c| c["lora_bias"] = json!(true))),
        ("use_qalora", Box::new(|c| c["use_qalora"] = json!(true))),
        ("use_rslora", Box::new(|c| c["use_rslora"] = json!("yes"))),
        ("lora_alpha", Box::new(|c| c["lora_alpha"] = json!(-1))),
        ("lora_alpha", Box::new(|c| c["lora_alpha"] = json!(1e300))),
        ("revision", Box::new(|c| c["revision"] = json!(7))),
        ("task_type", Box::new(|c| c["task_type"] = json!(["SEQ_CLS"]))),
        ("alpha_pattern", Box::new(|c| c["alpha_pattern"] = json!([1]))),
        ("alpha_pattern", Box::new(|c| c["alpha_pattern"] = json!({"query": "much", "key": "much", "value": "much", "dense": "much"}))),
        ("`peft_type` is \"IA3\"", Box::new(|c| c["peft_type"] = json!("IA3"))),
        ("use_dora", Box::new(|c| c["use_dora"] = json!(true))),
        ("fan_in_fan_out", Box::new(|c| c["fan_in_fan_out"] = json!(true))),
        ("lora_alpha", Box::new(|c| c["lora_alpha"] = json!("much"))),
        ("alpha_pattern", Box::new(|c| c["alpha_pattern"] = json!({"layer.(0|1)": 3}))),
        ("base_model_name_or_path", Box::new(|c| c["base_model_name_or_path"] = json!(7))),
    ];
    for (says, change) in changes {
        let mut config = config.clone();
        change(&mut config);
        let error = error(&config, &all());
        assert!(error.contains(says) && error.contains(ADAPTER_CONFIG), "{error:?} does not say {says:?}");
    }
    static FOUR: [f32; 64] = [0.5; 64];
    let module = "base_model.model.bert.encoder.layer.0.attention.self.key";
    let pair = |a: &[usize], b: &[usize]| {
        let (a, b) = (
            out(&format!("{module}.lora_A.weight"), a, &FOUR[..a[0] * a[1]]),
            out(&format!("{module}.lora_B.weight"), b, &FOUR[..b[0] * b[1]]),
        );
        all().into_iter().chain([a, b]).collect::<Vec<_>>()
    };
    let with = |more: OutTensor<'static>| -> Vec<OutTensor> { all().into_iter().chain([more]).collect() };
    let cases: Vec<(&str, Vec<OutTensor>)> = vec![
        ("A is of rank 4, B of rank 2", pair(&[4, 16], &[16, 2])),
        ("the configuration says [16, 16]", pair(&[4, 16], &[8, 4])),
        ("has no lora_B", with(out(&format!("{module}.lora_A.weight"), &[4, 16], &FOUR))),
        ("is no matrix", with(out(&format!("{module}.lora_A.weight"), &[64], &FOUR))),
        ("a kind of LoRA", with(out(&format!("{module}.lora_magnitude_vector"), &[16], &FOUR[..16]))),
        ("as PEFT names them", with(out("bert.pooler", &[4, 16], &FOUR))),
        ("has no place in a bert model", with(out("base_model.model.bert.other.weight", &[4, 16], &FOUR))),
    ];
    for (says, tensors) in cases {
        let error = error(&config, &tensors);
        assert!(error.contains(says) && error.contains(ADAPTER_WEIGHTS), "{error:?} does not say {says:?}");
    }
    let mut nameless = config.clone();
    nameless["base_model_name_or_path"] = Value::Null;
    assert_eq!(error(&nameless, &all()), "");
    let says = Adapter::read(&copy).unwrap().base().unwrap_err().to_string();
    assert!(says.contains("--model BASE --adapter"), "{says}");
    let says = cloze_model::load(&copy).unwrap_err().to_string();
    assert!(says.contains("cloze convert --from"), "{says}");
    let sound = std::fs::read(at.join(ADAPTER_WEIGHTS)).unwrap();
    let told = || Adapter::read(&copy).err().map(|e| e.to_string()).unwrap_or_default();
    let cut = |n: usize| sound[..n].to_vec();
    let of_length = |n: u64| [&n.to_le_bytes(), &sound[8..]].concat();
    let damaged =
        [vec![], b"{}".to_vec(), vec![0xff; 40], cut(7), cut(200), cut(sound.len() - 1), of_length(u64::MAX), of_length(9), of_length(0)];
    for damaged in damaged {
        std::fs::write(copy.join(ADAPTER_WEIGHTS), &damaged).unwrap();
        let error = told();
        assert!(error.contains(ADAPTER_WEIGHTS) && error.contains("not a sound safetensors file"), "{error}");
    }
    std::fs::write(copy.join(ADAPTER_WEIGHTS), &sound).unwrap();
    for (damaged, says) in [
        (b"".as_slice(), "line 1"),
        (b"[]", "an object"),
        (b"null", "an object"),
        (b"{\"peft_type\": \"LORA\"", "line 1"),
        (b"\xff{}", "line 1"),
    ] {
        std::fs::write(copy.join(ADAPTER_CONFIG), damaged).unwrap();
        let error = told();
        assert!(error.contains(ADAPTER_CONFIG) && error.contains(says), "{error}");
    }
    std::fs::write(copy.join(ADAPTER_CONFIG), config.to_string()).unwrap();
    std::fs::remove_file(copy.join(ADAPTER_WEIGHTS)).unwrap();
    assert!(told().contains(ADAPTER_WEIGHTS));
}
