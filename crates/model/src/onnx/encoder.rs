//! The graph of an encoder and its heads, as the blueprint says. B: batch, S: sequence.

use cloze_tensor::ops::activation::Activation;
use cloze_tensor::ops::attention::Visibility;
use cloze_tensor::ops::norm::NormKind;
use cloze_tensor::ops::pool::Pool;

use super::graph::{Axis, F32, Graph, I64, float, int, ints};
use super::proto::GraphProto;
use crate::blueprint::{Blueprint, Mlp, NormPlacement, Position, Summary};
use crate::error::ModelError;
use crate::files::sentence::{SentenceModel, SentencePooling};
use crate::model::Model;
use crate::params::Spec;
use crate::relative::RelativeBias;

/// Added to the score of a key that the mask hides.
const HIDDEN: f32 = -1e30;

pub(super) fn graph(model: &Model, values: &[f32], sentence: Option<&SentenceModel>) -> Result<GraphProto, ModelError> {
    let mut e = Encoder { model, values, blueprint: &model.blueprint, g: Graph::default() };
    let shape = [Axis::Named("batch"), Axis::Named("sequence")];
    e.g.input("input_ids", I64, &shape);
    e.g.input("attention_mask", I64, &shape);
    if e.has("embeddings.segment.weight") {
        e.g.input("token_type_ids", I64, &shape);
    }
    let hidden = e.body()?;
    let h = e.blueprint.hidden_size;
    let [batch, sequence] = shape;
    e.g.output("last_hidden_state", &hidden, F32, &[batch.clone(), sequence.clone(), Axis::Fixed(h)]);
    e.heads(&hidden, &batch, &sequence)?;
    if let Some(sentence) = sentence {
        let embedding = e.sentence(&hidden, sentence);
        e.g.output("sentence_embedding", &embedding, F32, &[batch, Axis::Fixed(sentence.width(h))]);
    }
    Ok(e.g.finish(model.family))
}

struct Encoder<'a> {
    model: &'a Model,
    values: &'a [f32],
    blueprint: &'a Blueprint,
    g: Graph,
}

impl Encoder<'_> {
    fn spec(&self, name: &str) -> Option<&Spec> {
        self.model.table().get(name)
    }

    fn has(&self, name: &str) -> bool {
        self.spec(name).is_some()
    }

    fn unknown(&self, what: impl Into<String>) -> ModelError {
        ModelError::Export { family: self.model.family, what: what.into() }
    }

    /// A parameter as it stands in the table. // `[rows, cols]`, or `[len]`
    fn param(&mut self, name: &str) -> Result<String, ModelError> {
        let spec = self.spec(name).ok_or_else(|| self.unknown(format!("no parameter {name}")))?;
        let p = spec.param;
        let dims: Vec<usize> =
            if name.ends_with(".bias") || p.rows == 1 && spec.units().1 == 1 { vec![p.len()] } else { vec![p.rows, p.cols] };
        let values = &self.values[p.range()];
        Ok(self.g.weights(name, &dims, values.iter().copied()))
    }

    /// A matrix [out, in] as [in, out].
    fn transposed(&mut self, name: &str) -> Result<String, ModelError> {
        let p = self.spec(name).ok_or_else(|| self.unknown(format!("no parameter {name}")))?.param;
        let values = &self.values[p.range()];
        let turned = (0..p.len()).map(|i| values[(i % p.rows) * p.cols + i / p.rows]);
        Ok(self.g.weights(&format!("{name}.T"), &[p.cols, p.rows], turned))
    }

    /// x Wᵀ + b. // [B, S, in] → [B, S, out]
    fn dense(&mut self, x: &str, name: &str) -> Result<String, ModelError> {
        let weight = self.transposed(&format!("{name}.weight"))?;
        let y = self.g.node("MatMul", &[x, &weight], vec![]);
        let bias = format!("{name}.bias");
        if !self.has(&bias) {
            return Ok(y);
        }
        let bias = self.param(&bias)?;
        Ok(self.g.node("Add", &[&y, &bias], vec![]))
    }

    fn norm(&mut self, x: &str, name: &str) -> Result<String, ModelError> {
        let gain = self.param(&format!("{name}.weight"))?;
        let bias = format!("{name}.bias");
        let bias = if self.has(&bias) { Some(self.param(&bias)?) } else { None };
        let eps = self.blueprint.layer_norm_eps;
        match self.blueprint.norm {
            NormKind::LayerNorm => {
                let mut inputs = vec![x, &gain];
                inputs.extend(bias.as_deref());
                Ok(self.g.node("LayerNormalization", &inputs, vec![int("axis", -1), float("epsilon", eps)]))
            }
            #[allow(unreachable_patterns)]
            _ => {
                let square = self.g.node("Mul", &[x, x], vec![]);
                let mean = self.g.node("ReduceMean", &[&square], vec![ints("axes", &[-1]), int("keepdims", 1)]);
                let eps = self.g.scalar(eps);
                let sum = self.g.node("Add", &[&mean, &eps], vec![]);
                let root = self.g.node("Sqrt", &[&sum], vec![]);
                let normed = self.g.node("Div", &[x, &root], vec![]);
                Ok(self.g.node("Mul", &[&normed, &gain], vec![]))
            }
        }
    }

    fn activation(&mut self, x: &str, f: Activation) -> String {
        match f {
            Activation::Relu => self.g.node("Relu", &[x], vec![]),
            Activation::Tanh => self.g.node("Tanh", &[x], vec![]),
            Activation::Silu => {
                let s = self.g.node("Sigmoid", &[x], vec![]);
                self.g.node("Mul", &[x, &s], vec![])
            }
            // x/2 (1 + erf(x/√2)), in the order of operators that runtimes know to fuse
            Activation::Gelu => {
                let root = self.g.scalar(std::f32::consts::SQRT_2);
                let (one, half) = (self.g.scalar(1.0), self.g.scalar(0.5));
                let scaled = self.g.node("Div", &[x, &root], vec![]);
                let erf = self.g.node("Erf", &[&scaled], vec![]);
                let sum = self.g.node("Add", &[&erf, &one], vec![]);
                let product = self.g.node("Mul", &[x, &sum], vec![]);
                self.g.node("Mul", &[&product, &half], vec![])
            }
            // x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))
            Activation::GeluTanh => {
                let (three, cubic) = (self.g.scalar(3.0), self.g.scalar(0.044_715));
                let root = self.g.scalar((2.0 / std::f32::consts::PI).sqrt());
                let (one, half) = (self.g.scalar(1.0), self.g.scalar(0.5));
                let cube = self.g.node("Pow", &[x, &three], vec![]);
                let scaled = self.g.node("Mul", &[&cube, &cubic], vec![]);
                let sum = self.g.node("Add", &[x, &scaled], vec![]);
                let inner = self.g.node("Mul", &[&sum, &root], vec![]);
                let tanh = self.g.node("Tanh", &[&inner], vec![]);
                let sum = self.g.node("Add", &[&tanh, &one], vec![]);
                let product = self.g.node("Mul", &[x, &sum], vec![]);
                self.g.node("Mul", &[&product, &half], vec![])
            }
        }
    }

    /// The sequence's length, as a scalar.
    fn length(&mut self) -> String {
        let shape = self.g.node("Shape", &["input_ids"], vec![]);
        let one = self.g.int(1);
        self.g.node("Gather", &[&shape, &one], vec![int("axis", 0)])
    }

    /// 0, 1, … S − 1. // i64 [S]
    fn places(&mut self) -> String {
        let (zero, one) = (self.g.int(0), self.g.int(1));
        let length = self.length();
        self.g.node("Range", &[&zero, &length, &one], vec![])
    }

    fn embeddings(&mut self) -> Result<String, ModelError> {
        let word = self.param("embeddings.word.weight")?;
        let mut x = self.g.node("Gather", &[&word, "input_ids"], vec![int("axis", 0)]);
        if let Position::Learned { offset, .. } = self.blueprint.position {
            let table = self.param("embeddings.position.weight")?;
            let places = if offset == 0 {
                self.places()
            } else {
                // Places count the tokens that are there (Liu et al. 2019): the first reads row `offset`, padding row `offset` − 1.
                let (axis, before) = (self.g.int(1), self.g.int(offset as i64 - 1));
                let count = self.g.node("CumSum", &["attention_mask", &axis], vec![]);
                let count = self.g.node("Mul", &[&count, "attention_mask"], vec![]);
                self.g.node("Add", &[&count, &before], vec![])
            };
            let rows = self.g.node("Gather", &[&table, &places], vec![int("axis", 0)]);
            x = self.g.node("Add", &[&x, &rows], vec![]);
        }
        if self.has("embeddings.segment.weight") {
            let table = self.param("embeddings.segment.weight")?;
            let rows = self.g.node("Gather", &[&table, "token_type_ids"], vec![int("axis", 0)]);
            x = self.g.node("Add", &[&x, &rows], vec![]);
        }
        if self.has("embeddings.task.weight") {
            // Every token is of the first kind of task.
            let table = self.param("embeddings.task.weight")?;
            let zero = self.g.int(0);
            let row = self.g.node("Gather", &[&table, &zero], vec![int("axis", 0)]);
            x = self.g.node("Add", &[&x, &row], vec![]);
        }
        if self.has("embeddings.norm.weight") {
            x = self.norm(&x, "embeddings.norm")?;
        }
        if self.has("embeddings.projection.weight") {
            x = self.dense(&x, "embeddings.projection")?;
        }
        Ok(x)
    }

    /// What is added to the scores of keys: 0, or [`HIDDEN`]. // [B, 1, 1, S]
    fn mask(&mut self) -> String {
        let mask = self.g.node("Cast", &["attention_mask"], vec![int("to", F32.into())]);
        let axes = self.g.ints(&[1, 2]);
        let mask = self.g.node("Unsqueeze", &[&mask, &axes], vec![]);
        let (one, hidden) = (self.g.scalar(1.0), self.g.scalar(HIDDEN));
        let off = self.g.node("Sub", &[&one, &mask], vec![]);
        self.g.node("Mul", &[&off, &hidden], vec![])
    }

    /// What is added to the scores besides: a number for each head and distance. // [1, N, S, S]
    fn relative(&mut self, relative: RelativeBias) -> Result<String, ModelError> {
        let p = self.spec("embeddings.relative.weight").ok_or_else(|| self.unknown("no parameter embeddings.relative.weight"))?.param;
        let buckets = relative.all();
        let rows = buckets.iter().flat_map(|&bucket| &self.values[p.offset + bucket as usize * p.cols..][..p.cols]);
        let table = self.g.weights("embeddings.relative.by_distance", &[buckets.len(), p.cols], rows.copied());
        let max = relative.max_distance as i64;
        let places = self.places();
        let (row, column) = (self.g.ints(&[0]), self.g.ints(&[1]));
        let keys = self.g.node("Unsqueeze", &[&places, &row], vec![]);
        let queries = self.g.node("Unsqueeze", &[&places, &column], vec![]);
        let distance = self.g.node("Sub", &[&keys, &queries], vec![]);
        let (low, high) = (self.g.int(-max), self.g.int(max));
        let cut = self.g.node("Clip", &[&distance, &low, &high], vec![]);
        let at = self.g.node("Add", &[&cut, &high], vec![]);
        let bias = self.g.node("Gather", &[&table, &at], vec![int("axis", 0)]); // [S, S, N]
        let bias = self.g.node("Transpose", &[&bias], vec![ints("perm", &[2, 0, 1])]);
        Ok(self.g.node("Unsqueeze", &[&bias, &row], vec![]))
    }

    /// The same for keys more than `window` places away. // [1, 1, S, S]
    fn near(&mut self, mask: &str, window: usize) -> String {
        let places = self.places();
        let (row, column) = (self.g.ints(&[0]), self.g.ints(&[1]));
        let a = self.g.node("Unsqueeze", &[&places, &row], vec![]);
        let b = self.g.node("Unsqueeze", &[&places, &column], vec![]);
        let distance = self.g.node("Sub", &[&a, &b], vec![]);
        let distance = self.g.node("Abs", &[&distance], vec![]);
        let limit = self.g.int(window as i64);
        let far = self.g.node("Greater", &[&distance, &limit], vec![]);
        let far = self.g.node("Cast", &[&far], vec![int("to", F32.into())]);
        let hidden = self.g.scalar(HIDDEN);
        let far = self.g.node("Mul", &[&far, &hidden], vec![]);
        self.g.node("Add", &[mask, &far], vec![])
    }

    /// Cosines and sines of the angles of the sequence's places. // 2 × [S, D]
    fn angles(&mut self, theta: f32) -> [String; 2] {
        let d = self.blueprint.head_dim();
        let max = self.blueprint.position.longest();
        let table = |f: fn(f64) -> f64| {
            (0..max * d).map(move |i| {
                let (place, pair) = (i / d, i % d % (d / 2));
                f(place as f64 * f64::from(theta).powf(-2.0 * pair as f64 / d as f64)) as f32
            })
        };
        let cos = self.g.weights(&format!("rotary_{theta}_cos"), &[max, d], table(f64::cos));
        let sin = self.g.weights(&format!("rotary_{theta}_sin"), &[max, d], table(f64::sin));
        let places = self.places();
        [cos, sin].map(|t| self.g.node("Gather", &[&t, &places], vec![int("axis", 0)]))
    }

    /// x cos + (−x₂, x₁) sin, x₁ and x₂ the halves of a head. // [B, N, S, D]
    fn turned(&mut self, x: &str, [cos, sin]: &[String; 2]) -> String {
        let half = self.blueprint.head_dim() as i64 / 2;
        let sizes = self.g.ints(&[half, half]);
        let halves = self.g.nodes("Split", &[x, &sizes], vec![int("axis", -1)], 2);
        let negative = self.g.node("Neg", &[&halves[1]], vec![]);
        let other = self.g.node("Concat", &[&negative, &halves[0]], vec![int("axis", -1)]);
        let (a, b) = (self.g.node("Mul", &[x, cos], vec![]), self.g.node("Mul", &[&other, sin], vec![]));
        self.g.node("Add", &[&a, &b], vec![])
    }

    fn attention(&mut self, x: &str, layer: &str, mask: &str, angles: Option<&[String; 2]>) -> Result<String, ModelError> {
        let (h, n, d) = (self.blueprint.hidden_size as i64, self.blueprint.num_attention_heads as i64, self.blueprint.head_dim() as i64);
        let qkv = self.dense(x, &format!("{layer}.attention.qkv"))?;
        let sizes = self.g.ints(&[h, h, h]);
        let parts = self.g.nodes("Split", &[&qkv, &sizes], vec![int("axis", -1)], 3);
        let heads = self.g.ints(&[0, 0, n, d]);
        let mut split = |part: &str| {
            let part = self.g.node("Reshape", &[part, &heads], vec![]);
            self.g.node("Transpose", &[&part], vec![ints("perm", &[0, 2, 1, 3])])
        };
        let (mut q, mut k, v) = (split(&parts[0]), split(&parts[1]), split(&parts[2])); // [B, N, S, D]
        if let Some(angles) = angles {
            q = self.turned(&q, angles);
            k = self.turned(&k, angles);
        }
        let k = self.g.node("Transpose", &[&k], vec![ints("perm", &[0, 1, 3, 2])]);
        let scores = self.g.node("MatMul", &[&q, &k], vec![]); // [B, N, S, S]
        let scale = self.g.scalar((d as f32).sqrt());
        let scores = self.g.node("Div", &[&scores, &scale], vec![]);
        let scores = self.g.node("Add", &[&scores, mask], vec![]);
        let probabilities = self.g.node("Softmax", &[&scores], vec![int("axis", -1)]);
        let context = self.g.node("MatMul", &[&probabilities, &v], vec![]);
        let context = self.g.node("Transpose", &[&context], vec![ints("perm", &[0, 2, 1, 3])]);
        let flat = self.g.ints(&[0, 0, h]);
        let context = self.g.node("Reshape", &[&context, &flat], vec![]);
        self.dense(&context, &format!("{layer}.attention.out"))
    }

    fn feed(&mut self, x: &str, layer: &str) -> Result<String, ModelError> {
        let up = self.dense(x, &format!("{layer}.mlp.up"))?;
        let act = self.blueprint.hidden_act;
        let inner = match self.blueprint.mlp {
            Mlp::Plain => self.activation(&up, act),
            Mlp::Gated => {
                let i = self.blueprint.intermediate_size as i64;
                let sizes = self.g.ints(&[i, i]);
                let halves = self.g.nodes("Split", &[&up, &sizes], vec![int("axis", -1)], 2);
                let gate = self.activation(&halves[0], act);
                self.g.node("Mul", &[&gate, &halves[1]], vec![])
            }
        };
        self.dense(&inner, &format!("{layer}.mlp.down"))
    }

    fn body(&mut self) -> Result<String, ModelError> {
        let mut x = self.embeddings()?;
        let mut everything = self.mask();
        if let Some(relative) = self.blueprint.relative {
            let bias = self.relative(relative)?;
            everything = self.g.node("Add", &[&everything, &bias], vec![]);
        }
        let mut masks: Vec<(usize, String)> = Vec::new();
        let mut turns: Vec<(f32, [String; 2])> = Vec::new();
        for index in 0..self.blueprint.num_hidden_layers {
            let (layer, window, theta) = layer_of(self.blueprint, index).map_err(|what| self.unknown(what))?;
            let mask = match window {
                None => everything.clone(),
                Some(w) => match masks.iter().find(|(known, _)| *known == w) {
                    Some((_, mask)) => mask.clone(),
                    None => {
                        let mask = self.near(&everything, w);
                        masks.push((w, mask.clone()));
                        mask
                    }
                },
            };
            let angles = theta.map(|theta| match turns.iter().find(|(known, _)| *known == theta) {
                Some((_, angles)) => angles.clone(),
                None => {
                    let angles = self.angles(theta);
                    turns.push((theta, angles.clone()));
                    angles
                }
            });
            let (attention_norm, mlp_norm) = (format!("{layer}.attention.norm"), format!("{layer}.mlp.norm"));
            match self.blueprint.norm_placement {
                NormPlacement::Post => {
                    let attended = self.attention(&x, &layer, &mask, angles.as_ref())?;
                    let sum = self.g.node("Add", &[&x, &attended], vec![]);
                    x = self.norm(&sum, &attention_norm)?;
                    let fed = self.feed(&x, &layer)?;
                    let sum = self.g.node("Add", &[&x, &fed], vec![]);
                    x = self.norm(&sum, &mlp_norm)?;
                }
                NormPlacement::Pre => {
                    let bare = !self.has(&format!("{attention_norm}.weight"));
                    let normed = if bare { x.clone() } else { self.norm(&x, &attention_norm)? };
                    let attended = self.attention(&normed, &layer, &mask, angles.as_ref())?;
                    x = self.g.node("Add", &[&x, &attended], vec![]);
                    let normed = self.norm(&x, &mlp_norm)?;
                    let fed = self.feed(&normed, &layer)?;
                    x = self.g.node("Add", &[&x, &fed], vec![]);
                }
            }
        }
        if self.has("final_norm.weight") { self.norm(&x, "final_norm") } else { Ok(x) }
    }

    /// The mask as numbers. // f32 [B, S, 1]
    fn ones(&mut self) -> String {
        let mask = self.g.node("Cast", &["attention_mask"], vec![int("to", F32.into())]);
        let axis = self.g.ints(&[2]);
        self.g.node("Unsqueeze", &[&mask, &axis], vec![])
    }

    /// [B, S, H] → [B, H]
    fn first(&mut self, x: &str) -> String {
        let zero = self.g.int(0);
        self.g.node("Gather", &[x, &zero], vec![int("axis", 1)])
    }

    /// The sum over tokens that are there, each times its `weights` [B, S, 1]; and the sum of the weights. // [B, H], [B, 1]
    fn weighted(&mut self, x: &str, weights: &str) -> (String, String) {
        let product = self.g.node("Mul", &[x, weights], vec![]);
        let axis = self.g.ints(&[1]);
        let sum = self.g.node("ReduceSum", &[&product, &axis], vec![int("keepdims", 0)]);
        let count = self.g.node("ReduceSum", &[weights, &axis], vec![int("keepdims", 0)]);
        let least = self.g.scalar(1e-9);
        (sum, self.g.node("Max", &[&count, &least], vec![]))
    }

    fn pool(&mut self, x: &str, pooling: SentencePooling) -> String {
        match pooling {
            SentencePooling::Cls => self.first(x),
            SentencePooling::Mean | SentencePooling::MeanSqrtLen => {
                let ones = self.ones();
                let (sum, count) = self.weighted(x, &ones);
                let by = if pooling == SentencePooling::Mean { count } else { self.g.node("Sqrt", &[&count], vec![]) };
                self.g.node("Div", &[&sum, &by], vec![])
            }
            SentencePooling::WeightedMean => {
                let (places, one) = (self.places(), self.g.int(1));
                let from_one = self.g.node("Add", &[&places, &one], vec![]);
                let from_one = self.g.node("Cast", &[&from_one], vec![int("to", F32.into())]);
                let axes = self.g.ints(&[0, 2]);
                let from_one = self.g.node("Unsqueeze", &[&from_one, &axes], vec![]);
                let ones = self.ones();
                let weights = self.g.node("Mul", &[&ones, &from_one], vec![]);
                let (sum, count) = self.weighted(x, &weights);
                self.g.node("Div", &[&sum, &count], vec![])
            }
            SentencePooling::Max => {
                let ones = self.ones();
                let (one, hidden) = (self.g.scalar(1.0), self.g.scalar(HIDDEN));
                let off = self.g.node("Sub", &[&one, &ones], vec![]);
                let off = self.g.node("Mul", &[&off, &hidden], vec![]);
                let masked = self.g.node("Add", &[x, &off], vec![]);
                self.g.node("ReduceMax", &[&masked], vec![ints("axes", &[1]), int("keepdims", 0)])
            }
            SentencePooling::Last => {
                // The last place that is there: the one with the largest place × mask.
                let places = self.places();
                let masked = self.g.node("Mul", &[&places, "attention_mask"], vec![]);
                let last = self.g.node("ArgMax", &[&masked], vec![int("axis", 1), int("keepdims", 1)]); // [B, 1]
                let batch_axis = self.g.ints(&[1]);
                let last = self.g.node("Unsqueeze", &[&last, &batch_axis], vec![]); // [B, 1, 1]
                let h = self.g.ints(&[1, 1, self.blueprint.hidden_size as i64]);
                let wide = self.g.node("Expand", &[&last, &h], vec![]);
                let row = self.g.node("GatherElements", &[x, &wide], vec![int("axis", 1)]);
                self.g.node("Squeeze", &[&row, &batch_axis], vec![])
            }
        }
    }

    /// The blueprint's own pooling.
    fn row(&mut self, hidden: &str) -> String {
        let pooling = match self.blueprint.pooling {
            Pool::First => SentencePooling::Cls,
            Pool::Mean => SentencePooling::Mean,
            Pool::Max => SentencePooling::Max,
        };
        self.pool(hidden, pooling)
    }

    /// The prediction head's transform. // [.., H] → [.., E]
    fn transform(&mut self, x: &str) -> Result<String, ModelError> {
        let y = self.dense(x, "mlm.dense")?;
        let act = self.blueprint.prediction_act;
        let y = self.activation(&y, act);
        self.norm(&y, "mlm.norm")
    }

    /// tanh, or another activation, of a linear map of one row a sequence. // [B, H] → [B, H]
    fn summary(&mut self, row: &str, name: &str, act: Activation) -> Result<String, ModelError> {
        let y = self.dense(row, name)?;
        Ok(self.activation(&y, act))
    }

    /// What labels of a sequence are read from; `name` where it is a map of its own. // [B, S, H] → [B, H]
    fn read_by_labels(&mut self, hidden: &str, name: &str) -> Result<String, ModelError> {
        let row = self.row(hidden);
        match self.blueprint.summary {
            Summary::Dense { activation, .. } if self.has(&format!("{name}.weight")) => self.summary(&row, name, activation),
            Summary::PredictionHead if self.has("mlm.dense.weight") => self.transform(&row),
            _ => self.summary(&row, "pooler", Activation::Tanh),
        }
    }

    fn heads(&mut self, hidden: &str, batch: &Axis, sequence: &Axis) -> Result<(), ModelError> {
        // Nothing of a model is left out in silence.
        const KNOWN: [&str; 18] = [
            "layer.",
            "embeddings.word.",
            "embeddings.position.",
            "embeddings.relative.",
            "embeddings.segment.",
            "embeddings.task.",
            "embeddings.norm.",
            "embeddings.projection.",
            "final_norm.",
            "mlm.",
            "pooler.",
            "nsp.",
            "classifier.",
            "summary.",
            "choice.",
            "tokens.",
            "span.",
            "replaced.",
        ];
        let known = |name: &str| KNOWN.iter().any(|prefix| name.starts_with(prefix));
        if let Some(spec) = self.model.table().specs().iter().find(|s| !known(&s.name)) {
            return Err(self.unknown(format!("the parameter {}", spec.name)));
        }
        let labels = self.model.heads.labels.len();
        let by_token = [batch.clone(), sequence.clone()];
        let row = |n: usize| [batch.clone(), Axis::Fixed(n)];
        let cell = |n: usize| [batch.clone(), sequence.clone(), Axis::Fixed(n)];
        if self.has("pooler.weight") {
            let first = self.row(hidden);
            let pooled = self.summary(&first, "pooler", Activation::Tanh)?;
            self.g.output("pooler_output", &pooled, F32, &row(self.blueprint.hidden_size));
            if self.has("nsp.weight") {
                let y = self.dense(&pooled, "nsp")?;
                self.g.output("seq_relationship_logits", &y, F32, &row(2));
            }
        }
        if self.has("mlm.bias") {
            let rows = self.transform(hidden)?;
            let own = self.has("mlm.decoder.weight");
            let table = self.transposed(if own { "mlm.decoder.weight" } else { "embeddings.word.weight" })?;
            let bias = self.param("mlm.bias")?;
            let y = self.g.node("MatMul", &[&rows, &table], vec![]);
            let y = self.g.node("Add", &[&y, &bias], vec![]);
            self.g.output("logits", &y, F32, &cell(self.blueprint.vocab_size));
        }
        if self.has("classifier.weight") {
            let read = self.read_by_labels(hidden, "summary")?;
            let y = self.dense(&read, "classifier")?;
            self.g.output("logits", &y, F32, &row(labels));
        }
        if self.has("choice.weight") {
            let read = self.read_by_labels(hidden, "choice.summary")?;
            let y = self.dense(&read, "choice")?;
            self.g.output("logits", &y, F32, &row(1));
        }
        // Labels of tokens and spans are read behind the prediction head's transform where a sequence's are.
        let behind = self.blueprint.summary == Summary::PredictionHead;
        if self.has("tokens.weight") {
            let read = if behind { self.transform(hidden)? } else { hidden.to_owned() };
            let y = self.dense(&read, "tokens")?;
            self.g.output("logits", &y, F32, &cell(labels));
        }
        if self.has("span.weight") {
            let read = if behind { self.transform(hidden)? } else { hidden.to_owned() };
            let y = self.dense(&read, "span")?; // [B, S, 2]
            for (i, name) in [(0, "start_logits"), (1, "end_logits")] {
                let which = self.g.int(i);
                let y = self.g.node("Gather", &[&y, &which], vec![int("axis", 2)]);
                self.g.output(name, &y, F32, &by_token);
            }
        }
        if self.has("replaced.score.weight") {
            let y = self.dense(hidden, "replaced.dense")?;
            let y = self.activation(&y, self.blueprint.hidden_act);
            let y = self.dense(&y, "replaced.score")?;
            let zero = self.g.int(0);
            let y = self.g.node("Gather", &[&y, &zero], vec![int("axis", 2)]);
            self.g.output("logits", &y, F32, &by_token);
        }
        Ok(())
    }

    fn sentence(&mut self, hidden: &str, sentence: &SentenceModel) -> String {
        let mut x = self.pool(hidden, sentence.pooling);
        for (i, dense) in sentence.dense.iter().enumerate() {
            let (a, b) = (dense.in_features, dense.out_features);
            let turned = (0..a * b).map(|j| dense.weight[(j % b) * a + j / b]);
            let weight = self.g.weights(&format!("sentence.{i}.weight.T"), &[a, b], turned);
            x = self.g.node("MatMul", &[&x, &weight], vec![]);
            if let Some(bias) = &dense.bias {
                let bias = self.g.weights(&format!("sentence.{i}.bias"), &[b], bias.iter().copied());
                x = self.g.node("Add", &[&x, &bias], vec![]);
            }
            if let Some(f) = dense.activation {
                x = self.activation(&x, f);
            }
        }
        if sentence.normalize {
            let length = self.g.node("ReduceL2", &[&x], vec![ints("axes", &[-1]), int("keepdims", 1)]);
            let least = self.g.scalar(1e-12);
            let length = self.g.node("Max", &[&length, &least], vec![]);
            x = self.g.node("Div", &[&x, &length], vec![]);
        }
        x
    }
}

/// (name of the layer's parameters, window, base of the rotary angles) of layer `index`.
fn layer_of(blueprint: &Blueprint, index: usize) -> Result<(String, Option<usize>, Option<f32>), String> {
    let (visibility, theta) = blueprint.attention_of(index);
    let window = match visibility {
        Visibility::All => None,
        Visibility::Window(w) => Some(w),
        #[allow(unreachable_patterns)]
        other => return Err(format!("attention that sees {other:?}")),
    };
    Ok((format!("layer.{}", blueprint.group_of(index)), window, theta))
}
