//! Heads that are off, against PyTorch with hooks (`fixtures/ablation.py`), and against models that never had them.

use std::path::{Path, PathBuf};

use cloze::attention::{AblationError, HeadPlace, Measure};
use cloze::model::Model;
use cloze::task::Options;
use cloze::tensor::Operands;
use cloze::train::run::Precision;
use cloze::{Device, DeviceChoice, Form, Pipeline};
use serde_json::Value;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// The classifier of the fixtures with the tokenizer that belongs to it.
fn classifier() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (from, names) in [
        ("bert-tiny-classifier", &["config.json", "model.safetensors"][..]),
        ("bert-tiny", &["tokenizer.json", "tokenizer_config.json", "vocab.txt"]),
    ] {
        for name in names {
            std::fs::copy(fixture(from).join(name), folder.path().join(name)).unwrap();
        }
    }
    folder
}

#[test]
fn heads_that_are_off_change_answers_as_in_pytorch() {
    let golden: Value = serde_json::from_slice(&std::fs::read(fixture("ablation.json")).unwrap()).unwrap();
    let device = Device::open(DeviceChoice::Cpu, Some(1)).unwrap();
    let labels = classifier();
    for (task, case) in golden.as_object().unwrap() {
        let (folder, measure) = match task.as_str() {
            "text-classification" => (labels.path().to_owned(), Measure::Probability),
            "sentence-embedding" => (fixture("bert-tiny"), Measure::Cosine),
            _ => (fixture("bert-tiny"), Measure::Loss),
        };
        let pipeline = Pipeline::load(&device, &folder, Precision::F32, None).unwrap();
        let off: Vec<HeadPlace> = serde_json::from_value(case["off"].clone()).unwrap();
        let named = pipeline.require(Some(task)).unwrap();
        let found = pipeline.ablation(named, &case["text"], &Options::default(), &off, true).unwrap();
        assert_eq!((found.measure, found.task), (measure, task.as_str()));
        let near = |found: f64, wanted: &Value, what: &str| {
            let wanted = wanted.as_f64().unwrap();
            assert!((found - wanted).abs() < 1e-5 * wanted.abs().max(1.0), "{task}, {what}: {found}, PyTorch says {wanted}");
        };
        near(found.whole, &case["whole"], "all heads");
        near(found.value.unwrap(), &case["value"], "two heads off");
        assert_eq!((found.each.len(), found.each[0].len()), (2, 4));
        for (l, row) in found.each.iter().enumerate() {
            for (h, value) in row.iter().enumerate() {
                near(*value, &case["each"][l][h], &format!("without {l}.{h}"));
                assert_ne!(*value, found.whole, "every head of these models does something");
            }
        }
        assert_ne!(Some(&found.answer), found.answer_without.as_ref());
        let ranked = found.ranked();
        assert!(ranked.len() == 8 && ranked.windows(2).all(|w| w[0].1 >= w[1].1));
    }
}

/// A head is off when the columns of the output projection that read it are zero: the same bits, in every precision.
#[test]
fn a_head_that_is_off_is_a_head_that_nobody_reads() {
    let device = Device::open(DeviceChoice::Cpu, Some(1)).unwrap();
    let text = Value::String("We like the [MASK] book.".into());
    let loaded = cloze::model::load(&fixture("bert-tiny")).unwrap();
    let (model, mut values): (Model, Vec<f32>) = (loaded.model, loaded.values);
    let spec = model.table().specs().iter().find(|s| s.name == "layer.1.attention.out.weight").unwrap();
    let (hidden, d) = (spec.param.cols, spec.param.cols / 4);
    for row in values[spec.param.range()].chunks_exact_mut(hidden) {
        row[2 * d..3 * d].fill(0.0);
    }
    let deaf = tempfile::tempdir().unwrap();
    cloze::model::save(deaf.path(), &model, &values, &[("pad_token_id", 0)]).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json", "vocab.txt"] {
        std::fs::copy(fixture("bert-tiny").join(name), deaf.path().join(name)).unwrap();
    }
    let off = [HeadPlace { layer: 1, head: 2 }];
    let mut losses = Vec::new();
    for operands in [Operands::F32, Operands::Bf16, Operands::Int8] {
        let open = |folder: &Path| Pipeline::with_form(&device, folder, &Form::whole(operands), None).unwrap();
        let whole = open(&fixture("bert-tiny"));
        let task = whole.require(Some("fill-mask")).unwrap();
        let without = whole.ablation(task, &text, &Options::default(), &off, false).unwrap();
        losses.push(without.value.unwrap());
        if operands != Operands::Int8 {
            let answer = open(deaf.path()).answer(task, std::slice::from_ref(&text), &Options::default()).unwrap();
            assert_eq!(without.answer_without.as_ref(), answer.first(), "{operands:?}");
        }
    }
    assert!(losses.iter().all(|l| (l - losses[0]).abs() < 0.1), "precisions agree: {losses:?}");
}

#[test]
fn what_cannot_be_switched_off_is_refused_by_name() {
    let device = Device::open(DeviceChoice::Cpu, Some(1)).unwrap();
    let pipeline = Pipeline::load(&device, &fixture("bert-tiny"), Precision::F32, None).unwrap();
    let text = Value::String("the good book".into());
    assert_eq!(pipeline.ablation_task("the [MASK]").unwrap().name(), "fill-mask");
    let task = pipeline.ablation_task("the good book").unwrap();
    assert_eq!(task.name(), "masked-lm-scoring");
    let refused = |layer, head| {
        let found = pipeline.ablation(task, &text, &Options::default(), &[HeadPlace { layer, head }], false);
        match found.unwrap_err() {
            cloze::Error::Ablation(e) => e,
            other => panic!("{other}"),
        }
    };
    assert!(refused(2, 0).to_string().contains("2.0") && refused(0, 4).to_string().contains("heads 0 to 3"));
    let nothing = pipeline.ablation(task, &Value::String(String::new()), &Options::default(), &[], false).unwrap_err();
    assert!(matches!(nothing, cloze::Error::Ablation(AblationError::Nothing)), "{nothing}");
}
