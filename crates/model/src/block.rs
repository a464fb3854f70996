//! One encoder layer: self-attention and feed-forward, each with its norm and residual connection.

use cloze_tensor::ops::activation::Activation;
use cloze_tensor::ops::attention::{Attention, Visibility};
use cloze_tensor::ops::elementwise::Columns;
use cloze_tensor::ops::linear::Linear;
use cloze_tensor::ops::norm::Norm;
use cloze_tensor::{Backend, Packed, Param, Tape, Var};

use crate::adaptation::{Adaptation, LowRank, Update};
use crate::blueprint::{Blueprint, Mlp, NormPlacement};
use crate::params::{Init, ParamTable, Role};
use crate::registry::Family;
use crate::relative::Distances;

/// W and b of a linear map, with what is added to parts of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Dense {
    pub(crate) weight: Param,
    pub(crate) bias: Option<Param>,
    /// Low-rank updates of the matrices that stand in W; none in a model that is not adapted.
    updates: [Option<LowRank>; 3],
}

impl Dense {
    /// f(x·Wᵀ + b), with scale · dropout(x)·Aᵀ·Bᵀ added to the columns of each updated matrix before f. // [T, in] → [T, out]
    pub(crate) fn run<B: Backend>(&self, tape: &mut Tape<'_, B>, x: &Var<B>, activation: Option<Activation>) -> Var<B> {
        if self.updates[0].is_none() {
            return tape.linear(x, Linear { activation, ..self.plain() });
        }
        let mut y = tape.linear(x, self.plain());
        for update in self.updates.iter().flatten() {
            let dropout = tape.dropout_at(update.dropout);
            let dropped = tape.dropout(x, dropout);
            let low = tape.linear(&dropped, Linear { weight: update.a, bias: None, activation: None }); // [T, r]
            let part = tape.linear(&low, Linear { weight: update.b, bias: None, activation: None });
            y = tape.add_columns(y, &part, Columns { first: update.first, scale: update.scale });
        }
        match activation {
            Some(f) => tape.activate(&y, f),
            None => y,
        }
    }

    pub(crate) fn plain(self) -> Linear {
        Linear { weight: self.weight, bias: self.bias, activation: None }
    }

    pub(crate) fn with(self, activation: Activation) -> Linear {
        Linear { activation: Some(activation), ..self.plain() }
    }
}

/// Gain and bias of a norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Scale {
    pub(crate) gain: Param,
    pub(crate) bias: Option<Param>,
}

/// Adds the parts of a model to its table, as the blueprint says.
pub(crate) struct Builder<'a> {
    pub(crate) blueprint: &'a Blueprint,
    pub(crate) table: &'a mut ParamTable,
    /// Which knows the matrices by name.
    pub(crate) family: Option<&'static Family>,
    pub(crate) adaptation: &'a Adaptation,
    /// The updates so far.
    pub(crate) updates: Vec<Update>,
}

impl Builder<'_> {
    /// A linear map `[out, inner]` under `name`.
    pub(crate) fn dense(&mut self, name: &str, out: usize, inner: usize, bias: bool, role: Role) -> Dense {
        let init = Init::Normal(self.blueprint.initializer_range);
        let weight = self.table.add(format!("{name}.weight"), out, inner, init, role);
        let bias = bias.then(|| self.table.add(format!("{name}.bias"), 1, out, Init::Zeros, Role::Vector));
        Dense { weight, bias, updates: self.low_rank(name, weight, role) }
    }

    /// The low-rank updates of the matrices in a weight. They are the model's own, whatever they are added to.
    fn low_rank(&mut self, name: &str, weight: Param, role: Role) -> [Option<LowRank>; 3] {
        let mut updates = [None; 3];
        let Some(family) = self.family.filter(|_| !self.adaptation.is_empty()) else { return updates };
        let spec = crate::params::Spec { name: format!("{name}.weight"), param: weight, init: Init::Zeros, role };
        let chosen = (family.names)(&spec, self.blueprint).into_iter().filter_map(|part| Some((self.adaptation.rank(&part.name)?, part)));
        for (i, (rank, part)) in chosen.enumerate().take(updates.len()) {
            let was = self.table.body_part(false);
            // As the paper's own code starts them: uniform within 1 / √in, and zeros, so that training starts at W.
            let init = Init::Uniform(1.0 / (weight.cols as f32).sqrt());
            let a = self.table.add(format!("{name}.lora.{i}.a"), rank.rank, weight.cols, init, Role::Table);
            let b = self.table.add(format!("{name}.lora.{i}.b"), part.rows(), rank.rank, Init::Zeros, Role::Table);
            self.table.body_part(was);
            let update = Update::new(part, weight, LowRank { a, b, first: 0, scale: rank.scale, dropout: self.adaptation.dropout });
            updates[i] = Some(update.low_rank);
            self.updates.push(update);
        }
        updates
    }

    /// A norm of `width` under `name`.
    pub(crate) fn scale(&mut self, name: &str, width: usize) -> Scale {
        let gain = self.table.add(format!("{name}.weight"), 1, width, Init::Ones, Role::Vector);
        let bias = self.blueprint.norm_bias.then(|| self.table.add(format!("{name}.bias"), 1, width, Init::Zeros, Role::Vector));
        Scale { gain, bias }
    }

    /// The op of a norm, without dropout.
    pub(crate) fn norm(&self, scale: Scale) -> Norm {
        let b = self.blueprint;
        Norm { kind: b.norm, gain: scale.gain, bias: scale.bias, eps: b.layer_norm_eps, dropout: None }
    }
}

/// One encoder layer. Its handles are plain numbers, so it is copied freely (into recomputed segments, too).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    /// Absent in the first layer of a pre-norm body whose embeddings arrive normalised.
    attention_norm: Option<Scale>,
    qkv: Dense,
    out: Dense,
    mlp_norm: Scale,
    up: Dense,
    down: Dense,
    rules: Rules,
}

/// What of the blueprint a layer needs while it runs.
#[derive(Clone, Copy, Debug)]
struct Rules {
    placement: NormPlacement,
    norm: cloze_tensor::ops::norm::NormKind,
    eps: f32,
    mlp: Mlp,
    act: Activation,
    heads: usize,
    head_dim: usize,
    visibility: Visibility,
    rotary: Option<f32>,
    hidden_dropout: f32,
    attention_dropout: f32,
}

/// The activations between two layers: the residual stream, and in a pre-norm body the last sublayer's output, which the
/// next norm adds to the stream in the same pass.
pub(crate) struct Stream<B: Backend> {
    pub(crate) residual: Var<B>,
    pub(crate) pending: Option<Var<B>>,
}

impl<B: Backend> Clone for Stream<B> {
    fn clone(&self) -> Self {
        Self { residual: self.residual.clone(), pending: self.pending.clone() }
    }
}

impl Block {
    /// The layer at `index` of a body, with weights of its own.
    pub(crate) fn new(b: &mut Builder, index: usize) -> Self {
        let blueprint = b.blueprint;
        let (h, i, bias) = (blueprint.hidden_size, blueprint.intermediate_size, blueprint.linear_bias);
        let name = |part: &str| format!("layer.{index}.{part}");
        let first_pre = index == 0 && blueprint.norm_placement == NormPlacement::Pre && blueprint.embedding_norm;
        let up = if blueprint.mlp == Mlp::Gated { 2 * i } else { i };
        let qkv = b.dense(&name("attention.qkv"), 3 * h, h, bias, Role::Hidden { parts: 3 });
        let out = b.dense(&name("attention.out"), h, h, bias, Role::Hidden { parts: 1 });
        let attention_norm = (!first_pre).then(|| b.scale(&name("attention.norm"), h));
        let up = b.dense(&name("mlp.up"), up, h, blueprint.up_bias, Role::Hidden { parts: up / i });
        let down = b.dense(&name("mlp.down"), h, i, bias, Role::Hidden { parts: 1 });
        let mlp_norm = b.scale(&name("mlp.norm"), h);
        let (visibility, rotary) = blueprint.attention_of(index);
        let rules = Rules {
            placement: blueprint.norm_placement,
            norm: blueprint.norm,
            eps: blueprint.layer_norm_eps,
            mlp: blueprint.mlp,
            act: blueprint.hidden_act,
            heads: blueprint.num_attention_heads,
            head_dim: blueprint.head_dim(),
            visibility,
            rotary,
            hidden_dropout: blueprint.hidden_dropout,
            attention_dropout: blueprint.attention_dropout,
        };
        Self { attention_norm, qkv, out, mlp_norm, up, down, rules }
    }

    /// The weight matrices that inference multiplies by.
    pub(crate) fn matrices(&self) -> [Param; 4] {
        [self.qkv.weight, self.out.weight, self.up.weight, self.down.weight]
    }

    /// Attention of x [T, H] → [T, H], before the residual sum.
    fn attend<B: Backend>(&self, tape: &mut Tape<'_, B>, x: &Var<B>, layout: &Packed<B>, distances: Option<&Distances<B>>) -> Var<B> {
        let qkv = self.qkv.run(tape, x, None); // [T, 3H]
        let op = Attention {
            heads: self.rules.heads,
            visibility: self.rules.visibility,
            rotary: self.rules.rotary,
            scale: 1.0 / (self.rules.head_dim as f32).sqrt(),
            dropout: tape.dropout_at(self.rules.attention_dropout),
        };
        let bias = distances.map(|d| d.bias(tape));
        let context = tape.attention(&qkv, bias.as_ref(), layout, op); // [T, H]
        self.out.run(tape, &context, None)
    }

    /// Feed-forward of x [T, H] → [T, H], before the residual sum.
    fn feed<B: Backend>(&self, tape: &mut Tape<'_, B>, x: &Var<B>) -> Var<B> {
        let inner = match self.rules.mlp {
            Mlp::Plain => self.up.run(tape, x, Some(self.rules.act)), // [T, I]
            Mlp::Gated => {
                let both = self.up.run(tape, x, None); // [T, 2I]
                tape.gated(&both, self.rules.act)
            }
        };
        self.down.run(tape, &inner, None)
    }

    fn norm<B: Backend>(&self, tape: &mut Tape<'_, B>, scale: Scale) -> Norm {
        Norm { dropout: tape.dropout_at(self.rules.hidden_dropout), ..self.norm_without_dropout(scale) }
    }

    fn norm_without_dropout(&self, scale: Scale) -> Norm {
        Norm { kind: self.rules.norm, gain: scale.gain, bias: scale.bias, eps: self.rules.eps, dropout: None }
    }

    /// The layer on one tensor, the last sublayer's output added in. // [T, H] → [T, H]
    pub(crate) fn forward_whole<B: Backend>(
        &self,
        tape: &mut Tape<'_, B>,
        x: &Var<B>,
        layout: &Packed<B>,
        distances: Option<&Distances<B>>,
    ) -> Var<B> {
        let y = self.forward(tape, &Stream { residual: x.clone(), pending: None }, layout, distances);
        let Some(pending) = &y.pending else { return y.residual };
        let dropout = tape.dropout_at(self.rules.hidden_dropout);
        let pending = tape.dropout(pending, dropout);
        tape.add(&y.residual, &pending)
    }

    /// The layer on a stream.
    pub(crate) fn forward<B: Backend>(
        &self,
        tape: &mut Tape<'_, B>,
        x: &Stream<B>,
        layout: &Packed<B>,
        distances: Option<&Distances<B>>,
    ) -> Stream<B> {
        match self.rules.placement {
            NormPlacement::Post => {
                let attended = self.attend(tape, &x.residual, layout, distances);
                let op = self.norm(tape, self.attention_norm.expect("post-norm layers have both norms"));
                let middle = tape.norm_residual(&attended, &x.residual, op);
                let fed = self.feed(tape, &middle);
                let op = self.norm(tape, self.mlp_norm);
                Stream { residual: tape.norm_residual(&fed, &middle, op), pending: None }
            }
            NormPlacement::Pre => {
                let (normed, residual) = match (&x.pending, self.attention_norm) {
                    (Some(pending), Some(scale)) => {
                        let op = self.norm(tape, scale);
                        tape.norm_residual_sum(pending, &x.residual, op)
                    }
                    (None, Some(scale)) => {
                        // No draw is taken here: a recomputed layer has applied its own dropout at its end.
                        (tape.norm(&x.residual, self.norm_without_dropout(scale)), x.residual.clone())
                    }
                    (_, None) => (x.residual.clone(), x.residual.clone()),
                };
                let attended = self.attend(tape, &normed, layout, distances);
                let op = self.norm(tape, self.mlp_norm);
                let (normed, residual) = tape.norm_residual_sum(&attended, &residual, op);
                let fed = self.feed(tape, &normed);
                Stream { residual, pending: Some(fed) }
            }
        }
    }
}
