//! Low-rank adaptation (LoRA; Hu et al. 2021, section 4.1): a matrix W of a frozen body stays as it is, and a product of two thin
//! matrices is learned beside it: y = x·Wᵀ + scale · dropout(x)·Aᵀ·Bᵀ, with A [r, in], B [out, r] and scale = alpha / r. Added up,
//! W + scale·B·A is an ordinary matrix again.

use std::collections::BTreeMap;

use cloze_tensor::Param;

use crate::error::ModelError;
use crate::model::Model;
use crate::params::{Role, Spec};
use crate::registry::{TensorName, family};

/// Which matrices of a body get a low-rank update, by the names of their modules (`bert.encoder.layer.0.attention.self.query`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Adaptation {
    /// Dropout before A.
    pub dropout: f32,
    /// The updated modules.
    pub modules: BTreeMap<String, Rank>,
}

/// The size of an update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rank {
    /// r.
    pub rank: usize,
    /// What the product is multiplied by.
    pub scale: f32,
}

/// All matrices of the body's layers, as PEFT calls them.
const ALL: &str = "all-linear";

impl Adaptation {
    /// The matrices of a model's layers that `targets` mean: the end of a module's name (`query`, `attention.output.dense`), its whole
    /// name, or `all-linear`.
    ///
    /// # Errors
    /// [`ModelError::Target`] for a target that means none of them.
    pub fn new(model: &Model, targets: &[String], rank: Rank, dropout: f32) -> Result<Self, ModelError> {
        let known = modules(model, |spec| matches!(spec.role, Role::Hidden { .. }));
        let mut chosen = BTreeMap::new();
        for target in targets {
            let meant: Vec<&String> = known.iter().filter(|name| target == ALL || means(target, name)).collect();
            if meant.is_empty() {
                let mut ends: Vec<&str> = known.iter().map(|name| end(name)).collect();
                ends.sort_unstable();
                ends.dedup();
                return Err(ModelError::Target { target: target.clone(), family: model.family, known: ends.join(", ") });
            }
            chosen.extend(meant.into_iter().map(|name| (name.clone(), rank)));
        }
        Ok(Self { dropout, modules: chosen })
    }

    /// Whether nothing is updated.
    pub fn is_empty(&self) -> bool {
        self.modules.is_empty()
    }

    /// The update of the module that a tensor is the weight of.
    pub(crate) fn rank(&self, tensor: &str) -> Option<Rank> {
        self.modules.get(tensor.strip_suffix(".weight")?).copied()
    }
}

/// Whether a target means a module, by PEFT's rule for lists of names.
pub(crate) fn means(target: &str, module: &str) -> bool {
    module.strip_suffix(target).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// What of a module's name tells it from others of its layer: all behind the layer's number.
pub(crate) fn end(module: &str) -> &str {
    let parts: Vec<&str> = module.split('.').collect();
    let number = parts.iter().rposition(|part| part.bytes().all(|b| b.is_ascii_digit()));
    let behind = number.map_or(0, |n| parts[..=n].iter().map(|part| part.len() + 1).sum());
    module.get(behind..).unwrap_or(module)
}

/// The modules of a model whose weights are matrices, by the names of its family.
pub(crate) fn modules(model: &Model, chosen: impl Fn(&Spec) -> bool) -> Vec<String> {
    let Some(family) = family(model.family) else { return Vec::new() };
    let matrices = model.table().specs().iter().filter(|spec| spec.role != Role::Vector && chosen(spec));
    let names = matrices.flat_map(|spec| (family.names)(spec, &model.blueprint));
    names.filter_map(|part| part.name.strip_suffix(".weight").map(str::to_owned)).collect()
}

/// A low-rank update of one matrix that stands in a weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LowRank {
    /// A. // [r, in]
    pub(crate) a: Param,
    /// B. // [rows, r]
    pub(crate) b: Param,
    /// The first row of the weight that it is about.
    pub(crate) first: usize,
    /// What the product is multiplied by.
    pub(crate) scale: f32,
    /// Dropout before A.
    pub(crate) dropout: f32,
}

/// An update as a model has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// The module that it is about.
    pub module: String,
    /// The weight in which the module's matrix stands.
    pub weight: Param,
    /// Which rows of B stand where in the module's own order, counted from the update's first row.
    order: TensorName,
    pub(crate) low_rank: LowRank,
}

impl Update {
    /// The update of the matrix that `part` of a weight holds.
    pub(crate) fn new(part: TensorName, weight: Param, low_rank: LowRank) -> Self {
        let first = part.pieces.iter().map(|piece| piece.start).min().unwrap_or(0);
        let last = part.pieces.iter().map(|piece| piece.end).max().unwrap_or(0);
        assert_eq!(last - first, part.rows(), "{}: its rows do not stand together", part.name);
        let pieces = part.pieces.iter().map(|piece| piece.start - first..piece.end - first).collect();
        let module = part.name.strip_suffix(".weight").unwrap_or(&part.name).to_owned();
        Self { module, weight, order: TensorName { name: part.name, pieces }, low_rank: LowRank { first, ..low_rank } }
    }

    /// r.
    pub fn rank(&self) -> usize {
        self.low_rank.a.rows
    }

    /// What the product is multiplied by.
    pub fn scale(&self) -> f32 {
        self.low_rank.scale
    }

    /// A as the module's file has it. // [r, in]
    pub fn a<'v>(&self, values: &'v [f32]) -> &'v [f32] {
        &values[self.low_rank.a.range()]
    }

    /// B as the module's file has it. // [out, r]
    pub fn b(&self, values: &[f32]) -> Vec<f32> {
        self.order.take(&values[self.low_rank.b.range()], self.rank())
    }

    /// The places of A and B in the flat buffers.
    pub fn params(&self) -> [Param; 2] {
        [self.low_rank.a, self.low_rank.b]
    }

    /// B in the order of the weight, from B as a file has it. // [out, r]
    pub(crate) fn own_b(&self, b: &[f32]) -> Vec<f32> {
        let mut own = vec![0.0; self.low_rank.b.len()];
        self.order.put(b, &mut own, self.rank());
        own
    }

    /// W += scale · B·A for the rows that the update is about. // `weight` [rows, in], all of it
    pub fn merge(&self, values: &[f32], weight: &mut [f32]) {
        let LowRank { a, b, first, scale, .. } = self.low_rank;
        add_product(a.rows, &values[a.range()], &values[b.range()], scale, &mut weight[first * a.cols..(first + b.rows) * a.cols]);
    }
}

/// W += scale · B·A, summed in f64. // a [r, in], b [out, r], w [out, in]
pub(crate) fn add_product(rank: usize, a: &[f32], b: &[f32], scale: f32, w: &mut [f32]) {
    let inner = (a.len() / rank.max(1)).max(1);
    let mut sums = vec![0.0f64; inner];
    for (b, w) in b.chunks_exact(rank.max(1)).zip(w.chunks_exact_mut(inner)) {
        sums.fill(0.0);
        for (&b, a) in b.iter().zip(a.chunks_exact(inner)) {
            sums.iter_mut().zip(a).for_each(|(sum, &a)| *sum += f64::from(b) * f64::from(a));
        }
        w.iter_mut().zip(&sums).for_each(|(w, sum)| *w = (f64::from(*w) + f64::from(scale) * sum) as f32);
    }
}

impl Model {
    /// The same model without updates: its body's matrices with the products added. `values` are those of this model.
    /// // `f32 [flat_len]` of each
    pub fn merged(&self, values: &[f32]) -> (Model, Vec<f32>) {
        let plain = Model::new(self.family, self.blueprint.clone(), self.heads.clone());
        let mut all = self.moved(values, &plain);
        for update in self.updates() {
            let name = self.table().specs().iter().find(|s| s.param == update.weight).map_or("", |s| s.name.as_str());
            if let Some(spec) = plain.table().get(name) {
                update.merge(values, &mut all[spec.param.range()]);
            }
        }
        (plain, all)
    }

    /// The values of this model's parameters at their places in another's; what this one lacks is 0 there.
    pub fn moved(&self, values: &[f32], other: &Model) -> Vec<f32> {
        let mut all = vec![0.0; other.table().flat_len()];
        for spec in other.table().specs() {
            if let Some(own) = self.table().get(&spec.name) {
                all[spec.param.range()].copy_from_slice(&values[own.param.range()]);
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blueprint::Blueprint;
    use crate::model::Heads;

    #[test]
    fn targets_are_the_ends_of_names() {
        assert!(means("query", "bert.encoder.layer.0.attention.self.query") && means("a.b", "a.b"));
        assert!(!means("query", "bert.layer.0.subquery") && !means("b", "a.bb"));
        assert_eq!(end("bert.encoder.layer.11.attention.output.dense"), "attention.output.dense");
        let model = Model::new("bert", Blueprint::bert(40, 2, 16, 2, 32), Heads::classification(vec!["a".into(), "b".into()]));
        let rank = Rank { rank: 4, scale: 2.0 };
        let of = |targets: &[&str]| Adaptation::new(&model, &targets.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>(), rank, 0.0);
        assert_eq!(of(&["query", "value"]).unwrap().modules.len(), 4);
        assert_eq!(of(&["all-linear"]).unwrap().modules.len(), 12);
        assert_eq!(of(&["dense"]).unwrap().modules.len(), 6);
        let error = of(&["query", "q_proj"]).unwrap_err().to_string();
        assert!(error.contains("q_proj") && error.contains("attention.self.query") && error.contains("bert"), "{error}");
    }

    #[test]
    fn merging_adds_the_product_where_the_matrix_stands() {
        let model = Model::new("bert", Blueprint::bert(40, 1, 16, 2, 32), Heads::classification(vec!["a".into(), "b".into()]));
        let adaptation = Adaptation::new(&model, &["value".into()], Rank { rank: 2, scale: 0.5 }, 0.0).unwrap();
        let adapted = Model::adapted("bert", model.blueprint.clone(), model.heads.clone(), &adaptation);
        assert!(adapted.table().own_len() < adapted.table().flat_len() && adapted.updates().len() == 1);
        let mut values = adapted.table().init(1);
        let [a, b] = adapted.updates()[0].params();
        for (i, v) in values[b.range()].iter_mut().enumerate() {
            *v = i as f32;
        }
        let (plain, merged) = adapted.merged(&values);
        let name = "layer.0.attention.qkv.weight";
        let (was, is) = (adapted.table().get(name).unwrap().param.range(), plain.table().get(name).unwrap().param.range());
        for (i, (w, m)) in values[was].iter().zip(&merged[is]).enumerate() {
            let (row, column) = (i / 16, i % 16);
            let product = |r: usize| values[b.offset + 2 * (row - 32) + r] * values[a.offset + r * 16 + column];
            let wanted = if row < 32 { *w } else { w + 0.5 * (product(0) + product(1)) };
            assert!((wanted - m).abs() < 1e-5, "[{row}, {column}] is {m}, expected {wanted}");
        }
    }
}
