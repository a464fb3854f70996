//! A graph under construction: nodes are appended in the order of the computation, values are known by their names.

use std::collections::HashSet;

use super::proto::{AttributeProto, Dimension, Extent, GraphProto, NodeProto, TensorProto, TensorShape, TensorType, TypeProto, ValueInfo};

pub(super) const F32: i32 = 1;
pub(super) const I64: i32 = 7;

/// An extent of an input or output.
#[derive(Clone, Debug)]
pub(super) enum Axis {
    Named(&'static str),
    Fixed(usize),
}

#[derive(Default)]
pub(super) struct Graph {
    proto: GraphProto,
    constants: HashSet<String>,
    count: usize,
}

impl Graph {
    pub(super) fn finish(mut self, name: &str) -> GraphProto {
        self.proto.name = name.into();
        self.proto
    }

    /// A node with one output; the output's name.
    pub(super) fn node(&mut self, op: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> String {
        self.nodes(op, inputs, attributes, 1).remove(0)
    }

    /// A node with several outputs.
    pub(super) fn nodes(&mut self, op: &str, inputs: &[&str], attributes: Vec<AttributeProto>, outputs: usize) -> Vec<String> {
        let name = format!("{op}_{}", self.count);
        self.count += 1;
        let output: Vec<String> = (0..outputs).map(|i| if outputs == 1 { format!("{name}_y") } else { format!("{name}_y{i}") }).collect();
        self.proto.node.push(NodeProto {
            input: inputs.iter().map(|i| (*i).to_owned()).collect(),
            output: output.clone(),
            name,
            op_type: op.into(),
            attribute: attributes,
        });
        output
    }

    /// A constant of weights. // `f32 dims`
    pub(super) fn weights(&mut self, name: &str, dims: &[usize], values: impl IntoIterator<Item = f32>) -> String {
        if self.constants.insert(name.to_owned()) {
            let raw: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
            assert_eq!(raw.len(), 4 * dims.iter().product::<usize>(), "onnx: {name} is no {dims:?}");
            self.constant(name, F32, dims, raw);
        }
        name.to_owned()
    }

    /// One number, as a scalar.
    pub(super) fn scalar(&mut self, value: f32) -> String {
        self.weights(&format!("scalar_{value:e}"), &[], [value])
    }

    /// Whole numbers, as a vector.
    pub(super) fn ints(&mut self, values: &[i64]) -> String {
        let name = format!("ints_{}", values.iter().map(ToString::to_string).collect::<Vec<_>>().join("_"));
        if self.constants.insert(name.clone()) {
            let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            self.constant(&name, I64, &[values.len()], raw);
        }
        name
    }

    /// One whole number, as a scalar.
    pub(super) fn int(&mut self, value: i64) -> String {
        let name = format!("int_{value}");
        if self.constants.insert(name.clone()) {
            self.constant(&name, I64, &[], value.to_le_bytes().to_vec());
        }
        name
    }

    fn constant(&mut self, name: &str, data_type: i32, dims: &[usize], raw_data: Vec<u8>) {
        let dims = dims.iter().map(|&d| d as i64).collect();
        self.proto.initializer.push(TensorProto { dims, data_type, name: name.into(), raw_data, ..TensorProto::default() });
    }

    pub(super) fn input(&mut self, name: &str, kind: i32, axes: &[Axis]) {
        self.proto.input.push(info(name, kind, axes));
    }

    /// Make a value an output under a name of its own.
    pub(super) fn output(&mut self, name: &str, value: &str, kind: i32, axes: &[Axis]) {
        self.proto.node.push(NodeProto {
            input: vec![value.into()],
            output: vec![name.into()],
            name: format!("output_{name}"),
            op_type: "Identity".into(),
            attribute: vec![],
        });
        self.proto.output.push(info(name, kind, axes));
    }
}

fn info(name: &str, kind: i32, axes: &[Axis]) -> ValueInfo {
    let dim = axes.iter().map(|axis| Dimension {
        extent: Some(match axis {
            Axis::Named(name) => Extent::Param((*name).into()),
            Axis::Fixed(n) => Extent::Value(*n as i64),
        }),
    });
    let shape = TensorShape { dim: dim.collect() };
    let tensor_type = Some(TensorType { elem_type: kind, shape: Some(shape) });
    ValueInfo { name: name.into(), kind: Some(TypeProto { tensor_type }) }
}

pub(super) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: name.into(), i: value, kind: 2, ..AttributeProto::default() }
}

pub(super) fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { name: name.into(), f: value, kind: 1, ..AttributeProto::default() }
}

pub(super) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { name: name.into(), ints: values.to_vec(), kind: 7, ..AttributeProto::default() }
}
