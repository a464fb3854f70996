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
