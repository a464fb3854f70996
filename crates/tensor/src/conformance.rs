//! One suite for all backends: every op case runs on a backend and on [`Plain`], values and gradients are compared
//! with a normalised bound; and [`Plain`]'s backward halves are compared with finite differences.

use crate::backend::Backend;
use crate::dtype::Dtype;
use crate::ops::optimizer::{Adam, Group, Muon, Scale};
use crate::ops::{attention, cross_entropy, elementwise, embedding, gated, linear, norm, pool, rows};
use crate::plain::Plain;
use crate::random::{Key, Stream};
use crate::tape::{Tape, Var};
use crate::tensor::{Param, Tensor, Weights};

/// A case of an op: its parameters, its inputs, and how the tape runs it.
pub trait Case: std::fmt::Debug {
    /// Shapes of the parameters.
    fn params(&self) -> Vec<(usize, usize)>;
    /// Shapes of the inputs that get gradients.
    fn inputs(&self) -> Vec<(usize, usize)>;
    /// For losses: the objective is this times the sum of the first column of the first output; no gradient is seeded.
    fn loss_scale(&self) -> Option<f32> {
        None
    }
    /// Run forward and return the outputs.
    fn run<'a, B: Backend>(&self, tape: &mut Tape<'a, B>, inputs: &Inputs<B>) -> Vec<Var<B>>;
}

/// What a case works on.
pub struct Inputs<B: Backend> {
    /// Handles of the parameters.
    pub params: Vec<Param>,
    /// The inputs.
    pub vars: Vec<Var<B>>,
}

/// The error bound of a dtype: largest difference over the largest value of the reference.
pub fn bound(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F32 => 2e-5,
        Dtype::Bf16 => 2.5e-2,
    }
}

/// Random values in the range of activations, rounded to `dtype` so that both sides start from the same numbers.
fn values(dtype: Dtype, place: u32, len: usize) -> Vec<f32> {
    let key = Key::new(11, Stream::Sampling, 0, place);
    (0..len as u64)
        .map(|i| {
            let v = 0.6 * key.normal(i);
            if dtype == Dtype::Bf16 { half::bf16::from_f32(v).to_f32() } else { v }
        })
        .collect()
}

fn layout(case: &impl Case) -> (Vec<Param>, usize) {
    let mut offset = 0;
    let mut place = |&(rows, cols): &(usize, usize)| {
        let p = Param { offset, rows, cols };
        offset += rows * cols;
        p
    };
    let params = case.params().iter().map(&mut place).collect();
    (params, offset)
}

/// What a run gave, by name.
type Results = Vec<(String, Vec<f32>)>;

fn run<B: Backend>(case: &impl Case, backend: &B, dtype: Dtype) -> Results {
    let (params, len) = layout(case);
    let weights = Weights::from_host(backend, &values(dtype, 0, len));
    let mut gradients = backend.zeros(Dtype::F32, len);
    let mut results = Vec::new();
    let mut tape = Tape::training(backend, &weights, dtype, &mut gradients, None);
    let inputs = tensors(case, dtype).into_iter().map(|(r, c, v)| {
        let t = Tensor::from_host(backend, dtype, r, c, &v);
        tape.var(t)
    });
    let inputs = Inputs { vars: inputs.collect(), params };
    let outputs = case.run(&mut tape, &inputs);
    for (i, y) in outputs.iter().enumerate() {
        results.push((format!("output {i}"), y.to_host(backend)));
        if case.loss_scale().is_none() {
            tape.seed(y, Tensor::from_host(backend, dtype, y.rows(), y.cols(), &values(dtype, 500 + i as u32, y.rows() * y.cols())));
        }
    }
    let wanted: Vec<&Var<B>> = inputs.vars.iter().collect();
    for (i, d) in tape.backward_to(&wanted).into_iter().enumerate() {
        results.push((format!("gradient of input {i}"), d.map_or(vec![], |d| d.to_host(backend))));
    }
    for (i, p) in inputs.params.iter().enumerate() {
        results.push((format!("gradient of parameter {i}"), backend.read(&gradients, p.range())));
    }
    // Inference runs other code (nothing is kept): it must give the same bits.
    let mut tape = Tape::inference(backend, &weights, dtype);
    let vars = tensors(case, dtype).into_iter().map(|(r, c, v)| {
        let t = Tensor::from_host(backend, dtype, r, c, &v);
        tape.var(t)
    });
    let again = Inputs { vars: vars.collect(), params: inputs.params.clone() };
    for (i, y) in case.run(&mut tape, &again).iter().enumerate() {
        let inference = y.to_host(backend);
        assert_eq!(bits(&inference), bits(&results[i].1), "{case:?}: output {i} differs between training and inference");
    }
    results
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|v| v.to_bits()).collect()
}

fn tensors(case: &impl Case, dtype: Dtype) -> Vec<(usize, usize, Vec<f32>)> {
    let shapes = case.inputs().into_iter().enumerate();
    shapes.map(|(i, (r, c))| (r, c, values(dtype, 100 + i as u32, r * c))).collect()
}

fn check<B: Backend>(case: &impl Case, backend: &B, dtype: Dtype, wrong: &mut Vec<String>) {
    let (ours, reference) = (run(case, backend, dtype), run(case, &Plain, dtype));
    for ((name, ours), (_, reference)) in ours.iter().zip(&reference) {
        compare(&format!("{case:?} {dtype:?}: {name}"), ours, reference, bound(dtype), wrong);
    }
}

fn compare(name: &str, ours: &[f32], reference: &[f32], bound: f64, wrong: &mut Vec<String>) {
    if ours.len() != reference.len() {
        wrong.push(format!("{name}: {} values instead of {}", ours.len(), reference.len()));
        return;
    }
    let largest = reference.iter().fold(0.0f64, |a, &b| a.max(f64::from(b.abs())));
    for (i, (a, b)) in ours.iter().zip(reference).enumerate() {
        let error = f64::from((a - b).abs()) / (largest + 1e-6);
        if error.is_nan() || error > bound {
            wrong.push(format!("{name}[{i}] is {a}, the reference {b}: normalised error {error:.1e} over {bound:.1e}"));
            return;
        }
    }
}

/// Compare every case of every op with the reference; returns what is wrong, nothing when all is well.
pub fn compare_all<B: Backend>(backend: &B, dtype: Dtype) -> Vec<String> {
    let mut wrong = Vec::new();
    macro_rules! ops {
        ($($op:ident),*) => { $( for case in $op::cases() { check(&case, backend, dtype, &mut wrong); } )* };
    }
    ops!(linear, norm, attention, embedding, gated, rows, pool, cross_entropy, elementwise);
    wrong
}

/// Compare the optimizers' steps with the reference (f32), five steps each.
pub fn compare_optimizers<B: Backend>(backend: &B) -> Vec<String> {
    let mut wrong = Vec::new();
    let shapes = [(33, 20), (1, 70), (16, 48), (7, 7)];
    for which in ["adamw", "lamb", "muon", "moving average"] {
        let ours = optimize(backend, which, &shapes);
        let reference = optimize(&Plain, which, &shapes);
        // Muon's Newton–Schulz steps amplify rounding of small singular values.
        let bound = if which == "muon" { 2e-3 } else { 1e-5 };
        compare(which, &ours, &reference, bound, &mut wrong);
    }
    for len in [0, 1, 33, 5000, 100_003] {
        let x = values(Dtype::F32, 7, len);
        let expected: f64 = x.iter().map(|&v| f64::from(v).powi(2)).sum();
        let mut buffer = backend.zeros(Dtype::F32, len);
        backend.write(&mut buffer, 0, &x);
        let sum = backend.sum_of_squares(&buffer, 0..len);
        if (sum - expected).abs() > 1e-6 * expected {
            wrong.push(format!("sum of {len} squares is {sum}, the reference {expected}"));
        }
        if len > 0 {
            backend.write(&mut buffer, len / 2, &[f32::NAN]);
            if backend.sum_of_squares(&buffer, 0..len).is_finite() {
                wrong.push(format!("sum of {len} squares hides a NaN"));
            }
        }
    }
    wrong
}

fn optimize<B: Backend>(backend: &B, which: &str, shapes: &[(usize, usize)]) -> Vec<f32> {
    let mut offset = 0;
    let params: Vec<Param> = shapes
        .iter()
        .map(|&(rows, cols)| {
            offset += rows * cols;
            Param { offset: offset - rows * cols, rows, cols }
        })
        .collect();
    let make = |values: &[f32]| {
        let mut b = backend.zeros(Dtype::F32, values.len());
        backend.write(&mut b, 0, values);
        b
    };
    let mut weights = make(&values(Dtype::F32, 1, offset));
    let (mut first, mut second) = (make(&vec![0.0; offset]), make(&vec![0.0; offset]));
    let group = |(i, p): (usize, &Param)| Group { range: p.range(), weight_decay: [0.1, 0.0][i % 2], lr_scale: [1.0, 0.5][i / 2] };
    let groups: Vec<Group> = params.iter().enumerate().map(group).collect();
    for step in 1..=5 {
        let gradients = make(&values(Dtype::F32, 20 + step, offset));
        let op = Adam { lr: 0.01, beta1: 0.9, beta2: 0.98, eps: 1e-6, step: u64::from(step), gradient_scale: Scale::Known(0.5) };
        match which {
            "adamw" => backend.adamw(&op, &groups, &mut weights, &gradients, &mut first, &mut second),
            "lamb" => backend.lamb(&op, &groups, &mut weights, &gradients, &mut first, &mut second),
            "muon" => {
                let op = Muon { lr: 0.01, momentum: 0.95, weight_decay: 0.1, gradient_scale: Scale::Known(0.5), products: Dtype::F32 };
                backend.muon(&op, &params, &mut weights, &gradients, &mut first);
            }
            _ => backend.moving_average(0.9, &gradients, &mut weights, None),
        }
    }
    let mut all = backend.read(&weights, 0..offset);
    all.extend(backend.read(&first, 0..offset));
    all
}

/// Compare the backward halves of [`Plain`] with central differences; returns what is wrong.
pub fn differences() -> Vec<String> {
    let mut wrong = Vec::new();
    macro_rules! ops {
        ($($op:ident),*) => { $( for case in $op::cases() { difference(&case, &mut wrong); } )* };
    }
    ops!(linear, norm, attention, embedding, gated, rows, pool, cross_entropy, elementwise);
    wrong
}

/// The scalar that a case's gradients belong to, with one element (of an input or of the weights) moved.
fn objective(case: &impl Case, moved: Option<(Option<usize>, usize, f64)>) -> f64 {
    let (params, len) = layout(case);
    let mut weights = Weights::from_host(&Plain, &values(Dtype::F32, 0, len));
    let mut inputs: Vec<Tensor<Plain>> =
        tensors(case, Dtype::F32).into_iter().map(|(r, c, v)| Tensor::from_host(&Plain, Dtype::F32, r, c, &v)).collect();
    match moved {
        Some((Some(input), at, by)) => inputs[input].view_mut().buffer[at] += by,
        Some((None, at, by)) => weights.flat_mut()[at] += by,
        None => {}
    }
    let mut tape = Tape::inference(&Plain, &weights, Dtype::F32);
    let vars = inputs.into_iter().map(|t| tape.var(t)).collect();
    let outputs = case.run(&mut tape, &Inputs { params, vars });
    if let Some(scale) = case.loss_scale() {
        return outputs[0].view().buffer.chunks(2).map(|row| f64::from(scale) * row[0]).sum();
    }
    let seeded = |(i, y): (usize, &Var<Plain>)| {
        let seed = values(Dtype::F32, 500 + i as u32, y.rows() * y.cols());
        y.view().buffer.iter().zip(seed).map(|(y, s)| y * f64::from(s)).sum::<f64>()
    };
    outputs.iter().enumerate().map(seeded).sum()
}

fn difference(case: &impl Case, wrong: &mut Vec<String>) {
    let results = run(case, &Plain, Dtype::F32);
    let of = |name: String| &results.iter().find(|(n, _)| *n == name).expect("every gradient is reported").1;
    let mut targets: Vec<(String, Option<usize>, usize, &Vec<f32>)> = Vec::new();
    for i in 0..case.inputs().len() {
        let name = format!("gradient of input {i}");
        targets.push((name.clone(), Some(i), 0, of(name)));
    }
    for (i, p) in layout(case).0.iter().enumerate() {
        let name = format!("gradient of parameter {i}");
        targets.push((name.clone(), None, p.offset, of(name)));
    }
    const STEP: f64 = 1e-5;
    let key = Key::new(1, Stream::Sampling, 1, 1);
    for (name, input, offset, gradient) in targets {
        let largest = gradient.iter().fold(0.0f64, |a, &b| a.max(f64::from(b.abs())));
        // Some elements of each tensor, chosen by draw: all would be quadratic.
        for probe in 0..gradient.len().min(6) {
            let at = key.below(probe as u64, gradient.len() as u32) as usize;
            let up = objective(case, Some((input, offset + at, STEP)));
            let down = objective(case, Some((input, offset + at, -STEP)));
            let (numeric, analytic) = ((up - down) / (2.0 * STEP), f64::from(gradient[at]));
            if (numeric - analytic).abs() > 1e-4 * (largest + 1e-2) {
                wrong.push(format!("{case:?}: {name}[{at}] is {analytic}, differences say {numeric}"));
            }
        }
    }
}

/// Freed and recomputed activations give the same gradients as kept ones, bit for bit.
pub fn recompute_equals_stored<B: Backend>(backend: &B, dtype: Dtype) -> Vec<String> {
    use crate::ops::linear::Linear;
    use crate::ops::norm::{Norm, NormKind};
    let (tokens, hidden) = (23, 40);
    let w = [0, 1].map(|i| Param { offset: i * hidden * hidden, rows: hidden, cols: hidden });
    let gain = Param { offset: 2 * hidden * hidden, rows: 1, cols: hidden };
    let weights = Weights::from_host(backend, &values(dtype, 0, gain.offset + hidden));
    let gradients_of = |again: bool| {
        let mut gradients = backend.zeros(Dtype::F32, weights.len());
        let mut tape = Tape::training(backend, &weights, dtype, &mut gradients, Some((3, 4)));
        let x = tape.var(Tensor::from_host(backend, dtype, tokens, hidden, &values(dtype, 1, tokens * hidden)));
        let segment = move |tape: &mut Tape<'_, B>, x: &Var<B>| {
            let h = tape.linear(x, Linear { weight: w[0], bias: None, activation: Some(crate::ops::activation::Activation::Gelu) });
            let dropout = tape.dropout_at(0.2);
            let norm = Norm { kind: NormKind::LayerNorm, gain, bias: None, eps: 1e-5, dropout };
            let h = tape.norm_residual(&h, x, norm);
            tape.linear(&h, Linear { weight: w[1], bias: None, activation: None })
        };
        let (mut y, twice) = (x.clone(), 2);
        for _ in 0..twice {
            y = if again { tape.recompute(&y, segment) } else { segment(&mut tape, &y) };
        }
        tape.seed(&y, Tensor::from_host(backend, dtype, tokens, hidden, &values(dtype, 2, tokens * hidden)));
        let dx = tape.backward_to(&[&x]).remove(0).map(|d| d.to_host(backend)).unwrap_or_default();
        (dx, backend.read(&gradients, 0..weights.len()))
    };
    let (stored, recomputed) = (gradients_of(false), gradients_of(true));
    let mut wrong = Vec::new();
    if bits(&stored.0) != bits(&recomputed.0) || bits(&stored.1) != bits(&recomputed.1) || stored.0.is_empty() {
        wrong.push(format!("{dtype:?}: recomputed gradients differ from stored ones"));
    }
    wrong
}

/// Parameters behind the end of the gradient buffer get no gradient, and the others get the same as with a whole one, bit
/// for bit. Nothing to say of a backend that does not leave them out.
pub fn frozen_is_left_out<B: Backend>(backend: &B, dtype: Dtype) -> Vec<String> {
    use crate::ops::cross_entropy::CrossEntropy;
    use crate::ops::embedding::Embedding;
    use crate::ops::linear::Linear;
    use crate::ops::norm::{Norm, NormKind};
    if !backend.leaves_out_frozen() {
        return Vec::new();
    }
    let (hidden, rows, labels) = (24, 11, 5);
    let mut offset = 0;
    let mut place = |rows, cols| {
        offset += rows * cols;
        Param { offset: offset - rows * cols, rows, cols }
    };
    let own = place(hidden, hidden);
    let whole = [place(rows, hidden), place(40, hidden), place(2, hidden), place(1, hidden), place(1, hidden)];
    let [word, position, segment, gain, shift] = whole;
    let [matrix, bias, head, head_bias] = [place(hidden, hidden), place(1, hidden), place(labels, hidden), place(1, labels)];
    let weights = Weights::from_host(backend, &values(dtype, 0, offset));
    let gradients_of = |len: usize| {
        let mut gradients = backend.zeros(Dtype::F32, len);
        let mut tape = Tape::training(backend, &weights, dtype, &mut gradients, None);
        let layout = crate::backend::Packed::new(backend, crate::sequences::Sequences::from_lengths([7, 12]));
        let ids = backend.indices(&(0..19).map(|t| t * t % 11).collect::<Vec<_>>());
        let segments = backend.indices(&(0..19).map(|t| t % 2).collect::<Vec<_>>());
        let op = Embedding { word, position: Some(position), position_offset: 1, segment: Some(segment) };
        let x = tape.embedding(&ids, Some(&segments), &layout, op);
        let x = tape.linear(&x, Linear { weight: own, bias: None, activation: None });
        let x = tape.norm(&x, Norm { kind: NormKind::LayerNorm, gain, bias: Some(shift), eps: 1e-5, dropout: None });
        let f = Some(crate::ops::activation::Activation::Gelu);
        let x = tape.linear(&x, Linear { weight: matrix, bias: Some(bias), activation: f });
        let op = CrossEntropy { weight: head, bias: Some(head_bias), label_smoothing: 0.0 };
        tape.cross_entropy(&x, &backend.indices(&(0..19).map(|t| t % 5).collect::<Vec<_>>()), 0.1, op);
        tape.backward();
        backend.read(&gradients, 0..len)
    };
    let (all, first) = (gradients_of(offset), gradients_of(own.len()));
    let mut wrong = Vec::new();
    if bits(&all[..own.len()]) != bits(&first) || first.iter().all(|g| *g == 0.0) {
        wrong.push(format!("{dtype:?}: gradients differ where frozen ones are left out"));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none(wrong: Vec<String>) {
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn backward_halves_agree_with_differences() {
        none(differences());
    }

    #[test]
    fn the_reference_leaves_out_what_is_frozen() {
        none(frozen_is_left_out(&Plain, Dtype::F32));
    }

    #[test]
    fn the_reference_recomputes() {
        none(recompute_equals_stored(&Plain, Dtype::F32));
    }

    #[test]
    fn a_wrong_value_is_seen() {
        let mut wrong = Vec::new();
        compare("x", &[1.0, 2.1], &[1.0, 2.0], 1e-3, &mut wrong);
        compare("y", &[f32::NAN], &[1.0], 1e-3, &mut wrong);
        compare("z", &[1.0], &[1.0, 2.0], 1e-3, &mut wrong);
        assert_eq!(wrong.len(), 3);
    }
}
