//! Which optimizer, as a recipe says it, and which parameters it treats how.

use cloze_model::params::{ParamTable, Role, Spec};
use cloze_tensor::Param;
use cloze_tensor::ops::optimizer::Group;
use serde::{Deserialize, Serialize};

use crate::error::TrainError;

/// The rule of the update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Adam with decoupled weight decay (Loshchilov and Hutter 2019).
    #[default]
    Adamw,
    /// Layer-wise trust ratios, for large batches (You et al. 2020).
    Lamb,
    /// Orthogonalised momentum for the hidden matrices (Jordan et al. 2024), AdamW for everything else.
    Muon,
}

/// The `[optimizer]` table of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// `adamw`, `lamb` or `muon`.
    pub rule: Rule,
    /// The peak learning rate; the schedule multiplies it.
    pub lr: f64,
    /// With `muon`: the hidden matrices' learning rate, as a multiple of `lr`.
    pub muon_lr_scale: f64,
    /// With `muon`: its momentum.
    pub momentum: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay of matrices and tables; vectors (biases, norms) have none.
    pub weight_decay: f64,
    /// The global gradient norm is cut to this; 0 turns clipping off.
    pub clip: f64,
    /// Decay of the moving average of the weights; 0 turns it off. Evaluation and the saved model use the average.
    pub ema: f64,
    /// The learning rate of each layer as a share of that of the layer above; heads have the whole (Howard and Ruder 2018).
    pub layer_decay: f64,
    /// Embeddings and this many of the first layers keep their weights; 0: nothing is frozen.
    pub freeze_layers: usize,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            rule: Rule::Adamw,
            lr: 1e-3,
            muon_lr_scale: 1.0,
            momentum: 0.95,
            beta1: 0.9,
            beta2: 0.98,
            eps: 1e-6,
            weight_decay: 0.01,
            clip: 1.0,
            ema: 0.0,
            layer_decay: 1.0,
            freeze_layers: 0,
        }
    }
}

impl OptimizerConfig {
    /// Refuse values out of range.
    pub fn check(&self) -> Result<(), TrainError> {
        let refuse = |key, found: f64, expected: &str| Err(TrainError::Value { key, found: found.to_string(), expected: expected.into() });
        let share = |v: f64| (0.0..1.0).contains(&v);
        let positive = |v: f64| v.is_finite() && v > 0.0;
        let not_negative = |v: f64| v.is_finite() && v >= 0.0;
        match self {
            c if !positive(c.lr) => refuse("optimizer.lr", c.lr, "a number above 0"),
            c if !positive(c.muon_lr_scale) => refuse("optimizer.muon_lr_scale", c.muon_lr_scale, "a number above 0"),
            c if !share(c.momentum) => refuse("optimizer.momentum", c.momentum, "a number from 0 to below 1"),
            c if !share(c.beta1) => refuse("optimizer.beta1", c.beta1, "a number from 0 to below 1"),
            c if !share(c.beta2) => refuse("optimizer.beta2", c.beta2, "a number from 0 to below 1"),
            c if !positive(c.eps) => refuse("optimizer.eps", c.eps, "a number above 0"),
            c if !not_negative(c.weight_decay) => refuse("optimizer.weight_decay", c.weight_decay, "a number of at least 0"),
            c if !not_negative(c.clip) => refuse("optimizer.clip", c.clip, "a number of at least 0"),
            c if !(positive(c.layer_decay) && c.layer_decay <= 1.0) => {
                refuse("optimizer.layer_decay", c.layer_decay, "a number above 0, at most 1")
            }
            c if !share(c.ema) => refuse("optimizer.ema", c.ema, "a number from 0 to below 1"),
            _ => Ok(()),
        }
    }

    /// Which parameters the rule treats how.
    pub(crate) fn plan(&self, table: &ParamTable) -> Plan {
        let layers = table.specs().iter().filter_map(|s| depth(&s.name)).max().unwrap_or(0);
        let mut plan = Plan::default();
        for spec in table.specs().iter().filter(|s| table.is_own(s.param)) {
            let scale = self.scale(spec, layers);
            match (self.rule, spec.role) {
                (Rule::Muon, Role::Hidden { .. }) if scale == 0.0 => {} // frozen
                (Rule::Muon, Role::Hidden { parts }) => plan.add(scale, parts_of(spec.param, parts)),
                _ => {
                    let weight_decay = if spec.role == Role::Vector { 0.0 } else { self.weight_decay as f32 };
                    plan.groups.push(Group { range: spec.param.range(), weight_decay, lr_scale: scale as f32 });
                }
            }
        }
        plan
    }

    /// What a parameter's learning rate is multiplied by: `layer_decay` for each layer above it, 0 where it is frozen.
    fn scale(&self, spec: &Spec, layers: usize) -> f64 {
        match depth(&spec.name) {
            Some(depth) if self.freeze_layers > 0 && depth <= self.freeze_layers => 0.0,
            Some(depth) => self.layer_decay.powi((layers + 1 - depth) as i32),
            None => 1.0,
        }
    }
}

/// 0 for embeddings, 1 for the first layer and so on; `None` for what stands above the layers.
fn depth(name: &str) -> Option<usize> {
    if name.starts_with("embeddings.") {
        return Some(0);
    }
    name.strip_prefix("layer.")?.split('.').next()?.parse::<usize>().ok().map(|i| i + 1)
}

/// The parameters by treatment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    /// Adam's.
    pub(crate) groups: Vec<Group>,
    /// Muon's.
    pub(crate) matrices: Vec<Matrices>,
}

/// Matrices with one learning rate.
#[derive(Clone, Debug)]
pub(crate) struct Matrices {
    /// Multiplies the learning rate.
    pub(crate) lr_scale: f64,
    pub(crate) params: Vec<Param>,
}

impl Plan {
    fn add(&mut self, lr_scale: f64, params: impl Iterator<Item = Param>) {
        match self.matrices.iter_mut().find(|m| m.lr_scale == lr_scale) {
            Some(matrices) => matrices.params.extend(params),
            None => self.matrices.push(Matrices { lr_scale, params: params.collect() }),
        }
    }
}

/// The matrices stacked in a parameter.
fn parts_of(param: Param, parts: usize) -> impl Iterator<Item = Param> {
    let rows = param.rows / parts;
    (0..parts).map(move |i| Param { offset: param.offset + i * rows * param.cols, rows, cols: param.cols })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cloze_model::params::Init;

    #[test]
    fn every_parameter_is_treated_once() {
        let mut table = ParamTable::default();
        table.add("qkv", 12, 4, Init::Zeros, Role::Hidden { parts: 3 });
        table.add("bias", 1, 12, Init::Zeros, Role::Vector);
        table.add("word", 9, 4, Init::Zeros, Role::Table);
        for rule in [Rule::Adamw, Rule::Lamb, Rule::Muon] {
            let config = OptimizerConfig { rule, ..Default::default() };
            let plan = config.plan(&table);
            let matrices: Vec<Param> = plan.matrices.iter().flat_map(|m| m.params.clone()).collect();
            let count: usize = plan.groups.iter().map(|g| g.range.len()).sum::<usize>() + matrices.iter().map(Param::len).sum::<usize>();
            assert_eq!(count, table.count());
            assert_eq!(matrices.len(), if rule == Rule::Muon { 3 } else { 0 });
            assert_eq!(plan.groups.iter().filter(|g| g.weight_decay == 0.0).count(), 1);
        }
    }

    #[test]
    fn lower_layers_learn_slower_or_not_at_all() {
        let mut table = ParamTable::default();
        for name in ["embeddings.word.weight", "layer.0.mlp.up.weight", "layer.1.mlp.up.weight", "classifier.weight"] {
            table.add(name, 2, 2, Init::Zeros, Role::Table);
        }
        let scales = |config: OptimizerConfig| config.plan(&table).groups.iter().map(|g| g.lr_scale).collect::<Vec<_>>();
        assert_eq!(scales(OptimizerConfig { layer_decay: 0.5, ..Default::default() }), [0.125, 0.25, 0.5, 1.0]);
        assert_eq!(scales(OptimizerConfig { freeze_layers: 1, ..Default::default() }), [0.0, 0.0, 1.0, 1.0]);
        assert_eq!(scales(OptimizerConfig::default()), [1.0; 4]);
    }

    #[test]
    fn values_out_of_range_are_named() {
        let config = OptimizerConfig { beta2: 1.0, ..Default::default() };
        assert!(config.check().unwrap_err().to_string().starts_with("optimizer.beta2 = 1:"));
        assert!(OptimizerConfig { lr: f64::NAN, ..Default::default() }.check().is_err());
        assert!(OptimizerConfig::default().check().is_ok());
    }
}
