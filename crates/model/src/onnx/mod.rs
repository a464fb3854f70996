//! ONNX export: the graph of a model in standard operators (opset 17), in f32, for batches with padding as ONNX's users have them.
//!
//! Inputs are `input_ids`, `attention_mask` and, where the model has segments, `token_type_ids`, each int64 `[batch, sequence]`; both axes are free.
//! Outputs are `last_hidden_state` `[batch, sequence, H]`, and what the heads give: `logits` of the vocabulary, of labels, of tokens or of spans, `pooler_output`,
//! `sentence_embedding`. A token that the mask hides is seen by none.

mod encoder;
mod graph;
mod proto;

use std::io::Write;
use std::path::Path;

use prost::Message;

use crate::error::ModelError;
use crate::files::sentence::SentenceModel;
use crate::model::Model;
use proto::{ModelProto, OperatorSetId, StringPair};

/// Weights above this go into a file of their own: a message of protocol buffers ends at 2 GiB.
const EXTERNAL: usize = 1_500_000_000;
/// Constants of fewer bytes than this stay in the model, so that shapes can be inferred without the other file.
const SMALL: usize = 1024;

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Names of the outputs.
    pub outputs: Vec<String>,
    /// Operators.
    pub nodes: usize,
    /// Bytes of constants.
    pub bytes: usize,
    /// The name of the second file, where the weights have one.
    pub external: Option<String>,
}

/// Write `model` with its `values` (flat, as its table says) as `path`; `sentence` adds its embedding as an output. `external`: weights in
/// a file of their own whatever their size.
///
/// # Errors
/// [`ModelError::Export`] when the model has a part that the export does not know, and when a file cannot be written.
pub fn export(
    path: &Path,
    model: &Model,
    values: &[f32],
    sentence: Option<&SentenceModel>,
    external: bool,
) -> Result<Exported, ModelError> {
    assert_eq!(values.len(), model.table().flat_len(), "values of another model");
    let mut graph = encoder::graph(model, values, sentence)?;
    let outputs = graph.output.iter().map(|o| o.name.clone()).collect();
    let nodes = graph.node.len();
    let bytes = graph.initializer.iter().map(|t| t.raw_data.len()).sum();
    let mut second = None;
    if external || bytes > EXTERNAL {
        let name = format!("{}.data", path.file_name().map_or_else(|| "model.onnx".into(), |n| n.to_string_lossy()));
        let data = path.with_file_name(&name);
        let mut file = std::io::BufWriter::new(std::fs::File::create(&data).map_err(ModelError::io(&data, "write"))?);
        let mut offset = 0;
        for tensor in graph.initializer.iter_mut().filter(|t| t.raw_data.len() >= SMALL) {
            let raw = std::mem::take(&mut tensor.raw_data);
            let pair = |key: &str, value: String| StringPair { key: key.into(), value };
            tensor.external_data =
                vec![pair("location", name.clone()), pair("offset", offset.to_string()), pair("length", raw.len().to_string())];
            tensor.data_location = 1;
            file.write_all(&raw).map_err(ModelError::io(&data, "write"))?;
            offset += raw.len();
        }
        file.flush().map_err(ModelError::io(&data, "write"))?;
        second = Some(name);
    }
    let proto = ModelProto {
        ir_version: 8,
        producer_name: "cloze".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        graph: Some(graph),
        opset_import: vec![OperatorSetId { domain: String::new(), version: 17 }],
        metadata_props: vec![StringPair { key: "model_type".into(), value: model.family.into() }],
    };
    let part = path.with_extension("onnx.part");
    std::fs::write(&part, proto.encode_to_vec()).map_err(ModelError::io(&part, "write"))?;
    std::fs::rename(&part, path).map_err(ModelError::io(path, "rename into"))?;
    Ok(Exported { outputs, nodes, bytes, external: second })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::path::PathBuf;

    use super::*;
    use crate::files::config::Config;
    use crate::model::Heads;
    use crate::registry::FAMILIES;

    fn fixtures() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
    }

    /// Every input of a node is a constant, an input of the graph, or the output of a node before it; no name is given twice.
    fn is_sound(what: &str, graph: &proto::GraphProto) {
        let mut known: HashSet<&str> = graph.input.iter().map(|i| i.name.as_str()).collect();
        known.insert("");
        for tensor in &graph.initializer {
            assert!(known.insert(&tensor.name), "{what}: {} is there twice", tensor.name);
        }
        for node in &graph.node {
            for input in &node.input {
                assert!(known.contains(input.as_str()), "{what}: {} reads {input}, which nothing gives", node.name);
            }
            for output in &node.output {
                assert!(known.insert(output), "{what}: {output} is given twice");
            }
        }
        for output in &graph.output {
            assert!(known.contains(output.name.as_str()), "{what}: nothing gives {}", output.name);
        }
    }

    #[test]
    fn every_family_and_head_gives_a_sound_graph() {
        let labels = || vec!["a".to_owned(), "b".to_owned(), "c".to_owned()];
        let heads = [
            (Heads::body(), "last_hidden_state"),
            (Heads::pretraining(false), "logits"),
            (Heads::classification(labels()), "logits"),
            (Heads::token_classification(labels()), "logits"),
            (Heads::question_answering(), "start_logits"),
            (Heads::multiple_choice(), "logits"),
        ];
        let mut seen = 0;
        for family in FAMILIES {
            let path = fixtures().join("families").join(family.model_type).join("config.json");
            let Ok(config) = Config::read(&path) else { continue };
            let blueprint = (family.blueprint)(&config).unwrap();
            for (heads, output) in &heads {
                let model = Model::new(family.model_type, blueprint.clone(), heads.clone());
                let values = model.table().init(1);
                let what = format!("{} {heads:?}", family.model_type);
                match encoder::graph(&model, &values, Some(&SentenceModel::default())) {
                    Ok(graph) => {
                        is_sound(&what, &graph);
                        // A table that is added twice gives a sound graph of another model.
                        for table in graph.initializer.iter().filter(|t| t.name.starts_with("embeddings.") && !t.name.contains("word")) {
                            let readers = graph.node.iter().filter(|n| n.input.contains(&table.name)).count();
                            assert_eq!(readers, 1, "{what}: {} is read {readers} times", table.name);
                        }
                        let names: Vec<&str> = graph.output.iter().map(|o| o.name.as_str()).collect();
                        assert!(names.contains(output) && names.contains(&"sentence_embedding"), "{what}: {names:?}");
                        seen += 1;
                    }
                    // A part that the operators here do not cover is named, not left out.
                    Err(ModelError::Export { what: part, .. }) => assert!(!part.is_empty()),
                    Err(other) => panic!("{what}: {other}"),
                }
            }
        }
        assert_eq!(seen, FAMILIES.len() * heads.len(), "graphs of families × heads");
    }

    #[test]
    fn large_weights_lie_in_a_file_of_their_own() {
        let loaded = crate::load(&fixtures().join("bert-tiny")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, external| export(&folder.path().join(name), &loaded.model, &loaded.values, None, external).unwrap();
        let (inside, beside) = (write("a.onnx", false), write("b.onnx", true));
        assert_eq!((inside.external, beside.external.as_deref()), (None, Some("b.onnx.data")));
        assert_eq!((inside.nodes, inside.bytes), (beside.nodes, beside.bytes));
        let size = |name: &str| std::fs::metadata(folder.path().join(name)).unwrap().len() as usize;
        assert!(size("a.onnx") > inside.bytes && size("b.onnx") + size("b.onnx.data") > inside.bytes && size("b.onnx") < inside.bytes / 2);
        // What was written is a message that reads back to the same.
        let read = |name: &str| ModelProto::decode(&std::fs::read(folder.path().join(name)).unwrap()[..]).unwrap();
        let (a, b) = (read("a.onnx").graph.unwrap(), read("b.onnx").graph.unwrap());
        is_sound("bert-tiny", &a);
        let data = std::fs::read(folder.path().join("b.onnx.data")).unwrap();
        for (x, y) in a.initializer.iter().zip(&b.initializer).filter(|(_, y)| y.data_location == 1) {
            let number = |key: &str| y.external_data.iter().find(|p| p.key == key).unwrap().value.parse::<usize>().unwrap();
            assert_eq!(x.raw_data, data[number("offset")..number("offset") + number("length")], "{}", x.name);
        }
    }
}
