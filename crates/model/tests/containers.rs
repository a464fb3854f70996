//! One micro BERT in every container (fixtures/make_containers.py): the numbers are the reference's, whatever they came in.

use std::path::{Path, PathBuf};

use cloze_model::files::container::{Container, Dtype, Origin};
use cloze_model::files::safetensors::TensorFiles;
use cloze_model::files::sentence::{SentenceModel, SentencePooling};
use cloze_model::load;
use cloze_tensor::ops::activation::Activation;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/containers").join(name)
}

fn reference() -> TensorFiles {
    TensorFiles::open(vec![fixture("model.safetensors")]).unwrap()
}

/// Every tensor of the reference is there with its numbers.
fn equals_the_reference(what: &str, container: &Container) {
    let reference = reference();
    for name in reference.names() {
        let (shape, values) = reference.read(name).unwrap().unwrap();
        let (found, _) = container.describe(name).unwrap_or_else(|| panic!("{what}: no {name}"));
        assert_eq!(found, shape, "{what}: {name}");
        assert_eq!(container.f32(name).unwrap(), values, "{what}: {name}");
    }
}

#[test]
fn pytorch_files_of_every_age() {
    for path in ["zip", "zip/pytorch_model.bin", "old", "loop/model.pt", "sharded-bin"] {
        let container = Container::open(&fixture(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
        assert_eq!(container.origin(), Origin::PyTorch);
        equals_the_reference(path, &container);
    }
    // The copies of tied weights are known by their place.
    let copies = ["cls.predictions.decoder.bias", "cls.predictions.decoder.weight"];
    assert_eq!(Container::open(&fixture("zip")).unwrap().copies(), copies);
    assert_eq!(Container::open(&fixture("old")).unwrap().copies(), copies);
    assert!(Container::open(&fixture("loop/model.pt")).unwrap().copies().is_empty());
    assert!(Container::open(&fixture("loop")).unwrap_err().to_string().contains("pytorch_model.bin"));
}

#[test]
fn a_tensorflow_checkpoint() {
    for path in ["tf", "tf/bert_model.ckpt", "tf/bert_model.ckpt.index"] {
        let container = Container::open(&fixture(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
        assert_eq!(container.origin(), Origin::TensorFlow);
        equals_the_reference(path, &container);
        assert_eq!(container.names().count(), reference().names().len(), "moments and the step are no tensors of the model");
        assert!(container.notes().iter().any(|n| n.contains("2 variables")), "{:?}", container.notes());
    }
}

#[test]
fn what_is_written_reads_back() {
    for path in ["zip", "old", "sharded-bin", "sharded", "tf", "f64", ""] {
        let container = Container::open(&fixture(path)).unwrap();
        for dtype in [None, Some(Dtype::F32), Some(Dtype::BF16), Some(Dtype::F16)] {
            let folder = tempfile::tempdir().unwrap();
            container.write(&folder.path().join("model.safetensors"), dtype).unwrap();
            std::fs::copy(fixture("config.json"), folder.path().join("config.json")).unwrap();
            let (ours, theirs) = (load(folder.path()).unwrap(), load(&fixture("")).unwrap());
            assert!(ours.report.new.is_empty() && ours.report.unused.is_empty(), "{path}: {:?}", ours.report);
            let bound = match dtype {
                Some(Dtype::BF16) => 1.0 / 256.0,
                Some(Dtype::F16) => 1.0 / 2048.0,
                _ => 1e-7,
            };
            for (a, b) in ours.values.iter().zip(&theirs.values) {
                assert!((a - b).abs() <= bound * b.abs() + 1e-6 * f32::from(u8::from(dtype == Some(Dtype::F16))), "{path}: {a} {b}");
            }
        }
    }
}

#[test]
fn shards_and_other_types_load() {
    let theirs = load(&fixture("")).unwrap();
    for (path, bound) in [("sharded", 0.0), ("f64", 0.0), ("bf16", 1.0 / 256.0), ("f16", 1.0 / 2048.0)] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(fixture("config.json"), folder.path().join("config.json")).unwrap();
        for entry in std::fs::read_dir(fixture(path)).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
        let ours = load(folder.path()).unwrap_or_else(|e| panic!("{path}: {e}"));
        assert!(ours.report.new.is_empty());
        for (a, b) in ours.values.iter().zip(&theirs.values) {
            assert!((a - b).abs() <= bound * b.abs() + bound * 1e-3, "{path}: {a} {b}");
        }
    }
}

#[test]
fn a_pickle_is_not_read_but_named_outside_of_convert() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(fixture("config.json"), folder.path().join("config.json")).unwrap();
    std::fs::copy(fixture("zip/pytorch_model.bin"), folder.path().join("pytorch_model.bin")).unwrap();
    let error = load(folder.path()).unwrap_err().to_string();
    assert!(error.contains("cloze convert"), "{error}");
}

#[test]
fn a_sentence_folder_in_its_new_form() {
    let found = SentenceModel::read(&fixture("sentence")).unwrap().unwrap();
    assert_eq!(found.encoder, fixture("sentence"));
    let m = &found.model;
    assert_eq!((m.pooling, m.normalize, m.max_seq_length), (SentencePooling::Mean, true, Some(12)));
    assert_eq!(
        m.dense.iter().map(|d| (d.in_features, d.out_features, d.activation, d.bias.is_some())).collect::<Vec<_>>(),
        [(8, 6, Some(Activation::Tanh), true), (6, 4, None, false)]
    );
    assert_eq!(m.width(8), 4);
    assert_eq!(m.prompts.get("query").map(String::as_str), Some("the cat "));
}

/// As all-mpnet-base-v2 is published: config.json names the class that the body came from.
#[test]
fn a_sentence_folder_without_the_head_that_it_announces_is_a_body() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["modules.json", "model.safetensors"] {
        std::fs::copy(fixture("sentence-mpnet").join(file), folder.path().join(file)).unwrap();
    }
    let config = std::fs::read_to_string(fixture("sentence-mpnet/config.json")).unwrap();
    std::fs::write(folder.path().join("config.json"), config.replace("MPNetModel", "MPNetForMaskedLM")).unwrap();
    let loaded = load(folder.path()).unwrap();
    assert!(!loaded.model.heads.masked_lm && loaded.model.heads.summary, "{:?}", loaded.model.heads);
    assert!(loaded.report.new.is_empty() && loaded.report.unused.is_empty(), "{:?}", loaded.report);
    // Elsewhere a head that is announced and missing is named.
    std::fs::remove_file(folder.path().join("modules.json")).unwrap();
    let loaded = load(folder.path()).unwrap();
    assert!(loaded.model.heads.masked_lm && loaded.report.new.iter().any(|n| n == "mlm.dense.weight"), "{:?}", loaded.report);
}

#[test]
fn a_sentence_folder_reads_back() {
    let mut model = SentenceModel::read(&fixture("sentence")).unwrap().unwrap().model;
    for pooling in SentencePooling::ALL {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(fixture("config.json"), folder.path().join("config.json")).unwrap();
        model.pooling = pooling;
        model.write(folder.path(), 8).unwrap();
        assert_eq!(SentenceModel::read(folder.path()).unwrap().unwrap().model, model);
        // the new form says the same
        let new = format!("{{\"embedding_dimension\": 8, \"pooling_mode\": \"{}\"}}", pooling.name());
        std::fs::write(folder.path().join("1_Pooling/config.json"), new).unwrap();
        assert_eq!(SentenceModel::read(folder.path()).unwrap().unwrap().model, model);
    }
    assert_eq!(SentenceModel::read(&fixture("")).unwrap(), None);
}
