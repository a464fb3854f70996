//! Losses of tasks on the small outputs of their heads, with their gradients.
//!
//! A head's outputs are a few numbers a sequence, so their losses are computed on the host in f64 and the gradient starts
//! backward from there. That is one place for smoothing, class weights, spans, choices and contrasts, whatever the device.

use std::ops::Range;

/// What is right for an example.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// One label: cross-entropy.
    Class(u32),
    /// Any number of labels, 0 or 1 each: binary cross-entropy, the mean over labels.
    Classes(Vec<f32>),
    /// A number: squared error.
    Value(f32),
    /// A label for each row: cross-entropy.
    Tokens(Vec<u32>),
    /// Two rows of a sequence: the mean of two cross-entropies over its rows (Devlin et al. 2018, section 4.2).
    Span {
        /// The row of the first token.
        start: u32,
        /// The row of the last one.
        end: u32,
    },
    /// One of the example's sequences: cross-entropy over them.
    Choice(u32),
    /// The first sequence belongs to the second, and neither to those after it nor to those of other examples: cross-entropy
    /// over scaled cosines with in-batch negatives (van den Oord et al. 2018; Henderson et al. 2017).
    Contrast,
    /// The cosine of two sequences: squared error.
    Similarity(f32),
}

/// How losses are taken.
#[derive(Clone, Debug, PartialEq)]
pub struct LossOptions {
    /// Share of the target given to all labels (Szegedy et al. 2016).
    pub label_smoothing: f32,
    /// A weight for each label; empty: all 1. The mean is weighted, too, as in PyTorch.
    pub class_weights: Vec<f32>,
    /// Multiplies cosines before their cross-entropy.
    pub scale: f32,
    /// Contrasts and similarities are taken on each of these prefixes, too (Kusupati et al. 2022); empty: on the whole alone.
    pub dimensions: Vec<usize>,
}

impl Default for LossOptions {
    fn default() -> Self {
        Self { label_smoothing: 0.0, class_weights: Vec::new(), scale: 20.0, dimensions: Vec::new() }
    }
}

impl LossOptions {
    fn weight(&self, class: usize) -> f64 {
        self.class_weights.get(class).copied().map_or(1.0, f64::from)
    }

    /// How much an example counts in the mean of a step.
    pub fn units(&self, target: &Target) -> f64 {
        match target {
            Target::Class(class) => self.weight(*class as usize),
            Target::Tokens(labels) => labels.iter().map(|&l| self.weight(l as usize)).sum(),
            _ => 1.0,
        }
    }
}

/// The summed losses of some examples.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loss {
    /// Σ loss, weighted.
    pub loss: f64,
    /// How many targets had the largest score; NaN where they are numbers, which none hits.
    pub hits: f64,
    /// How many targets there were: labels of sequences or tokens, spans, choices, numbers.
    pub targets: f64,
    /// Σ units.
    pub units: f64,
    /// ∂Σ loss / ∂ outputs. // `[rows, width]`
    pub gradient: Vec<f32>,
}

/// An example with the rows of each of its sequences.
pub type Rows<'a> = (&'a Target, Vec<Range<usize>>);

/// The losses of examples on their heads' outputs. // values: `[rows, width]`
pub fn loss(options: &LossOptions, examples: &[Rows], values: &[f32], width: usize) -> Loss {
    let mut sum = Loss { gradient: vec![0.0; values.len()], ..Loss::default() };
    let row = |r: usize| r * width..(r + 1) * width;
    for (target, ranges) in examples {
        sum.units += options.units(target);
        sum.targets += if let Target::Tokens(labels) = target { labels.len() as f64 } else { 1.0 };
        let first = ranges.first().map_or(0, |r| r.start);
        match target {
            Target::Class(class) => {
                let of = row(first);
                class_loss(options, &values[of.clone()], *class as usize, &mut sum.gradient[of], &mut sum.loss, &mut sum.hits);
            }
            Target::Tokens(labels) => {
                for (i, &label) in labels.iter().enumerate() {
                    let of = row(first + i);
                    class_loss(options, &values[of.clone()], label as usize, &mut sum.gradient[of], &mut sum.loss, &mut sum.hits);
                }
            }
            Target::Classes(wanted) => {
                let of = row(first);
                let mut right = true;
                for ((&logit, &y), d) in values[of.clone()].iter().zip(wanted).zip(&mut sum.gradient[of]) {
                    let (z, y) = (f64::from(logit), f64::from(y));
                    // −y ln σ(z) − (1 − y) ln(1 − σ(z)), without overflow
                    sum.loss += (z.max(0.0) - z * y + (-z.abs()).exp().ln_1p()) / width as f64;
                    *d = ((1.0 / (1.0 + (-z).exp()) - y) / width as f64) as f32;
                    right &= (z > 0.0) == (y > 0.5);
                }
                sum.hits += f64::from(u8::from(right));
            }
            Target::Value(wanted) => {
                let difference = f64::from(values[first * width]) - f64::from(*wanted);
                sum.loss += difference * difference;
                sum.gradient[first * width] = (2.0 * difference) as f32;
                sum.hits = f64::NAN;
            }
            Target::Span { start, end } => {
                let rows = ranges[0].clone();
                let mut right = true;
                for (column, at) in [(0, *start as usize), (1, *end as usize)] {
                    let logits: Vec<f64> = rows.clone().map(|r| f64::from(values[r * width + column])).collect();
                    let (value, best, mut gradient) = cross_entropy(&logits, at, 0.0);
                    sum.loss += value / 2.0;
                    right &= best == at;
                    gradient.iter_mut().for_each(|g| *g /= 2.0);
                    rows.clone().zip(gradient).for_each(|(r, g)| sum.gradient[r * width + column] = g as f32);
                }
                sum.hits += f64::from(u8::from(right));
            }
            Target::Choice(right) => {
                let places: Vec<usize> = ranges.iter().map(|r| r.start * width).collect();
                let logits: Vec<f64> = places.iter().map(|&p| f64::from(values[p])).collect();
                let (value, best, gradient) = cross_entropy(&logits, *right as usize, f64::from(options.label_smoothing));
                sum.loss += value;
                sum.hits += f64::from(u8::from(best == *right as usize));
                places.iter().zip(gradient).for_each(|(&p, g)| sum.gradient[p] = g as f32);
            }
            Target::Contrast => {} // taken together below
            Target::Similarity(wanted) => {
                let (a, b) = (ranges[0].start, ranges[1].start);
                for d in prefixes(options, width) {
                    let (left, right) = (Unit::of(&values[row(a)][..d]), Unit::of(&values[row(b)][..d]));
                    let difference = dot(&left.direction, &right.direction) - f64::from(*wanted);
                    sum.loss += difference * difference;
                    sum.hits = f64::NAN;
                    left.back(&right.direction, 2.0 * difference, &mut sum.gradient[row(a)]);
                    right.back(&left.direction, 2.0 * difference, &mut sum.gradient[row(b)]);
                }
            }
        }
    }
    contrasts(options, examples, values, width, &mut sum);
    sum
}

fn class_loss(options: &LossOptions, logits: &[f32], class: usize, gradient: &mut [f32], loss: &mut f64, hits: &mut f64) {
    let logits: Vec<f64> = logits.iter().map(|&l| f64::from(l)).collect();
    let (value, best, slope) = cross_entropy(&logits, class, f64::from(options.label_smoothing));
    let weight = options.weight(class);
    *loss += weight * value;
    *hits += f64::from(u8::from(best == class));
    gradient.iter_mut().zip(slope).for_each(|(g, s)| *g = (weight * s) as f32);
}

/// −Σ q ln p with q = (1 − ε)·[label] + ε / n; the place of the largest logit; the gradient p − q.
fn cross_entropy(logits: &[f64], label: usize, smoothing: f64) -> (f64, usize, Vec<f64>) {
    let best = (0..logits.len()).fold(0, |b, i| if logits[i] > logits[b] { i } else { b });
    let max = logits.get(best).copied().unwrap_or(0.0);
    let sum = max + logits.iter().map(|l| (l - max).exp()).sum::<f64>().ln();
    let q = |i: usize| smoothing / logits.len() as f64 + if i == label { 1.0 - smoothing } else { 0.0 };
    let value = logits.iter().enumerate().map(|(i, l)| q(i) * (sum - l)).sum();
    (value, best, logits.iter().enumerate().map(|(i, l)| (l - sum).exp() - q(i)).collect())
}

/// A vector as direction and length.
pub(crate) struct Unit {
    pub(crate) direction: Vec<f64>,
    length: f64,
}

impl Unit {
    pub(crate) fn of(vector: &[f32]) -> Self {
        let length = vector.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt().max(1e-12);
        Self { direction: vector.iter().map(|&v| f64::from(v) / length).collect(), length }
    }

    /// Add `factor` · ∂(u · other) / ∂x = factor · (other − (other · u) u) / |x|.
    pub(crate) fn back(&self, other: &[f64], factor: f64, gradient: &mut [f32]) {
        let along = dot(&self.direction, other);
        for ((g, o), u) in gradient.iter_mut().zip(other).zip(&self.direction) {
            *g += (factor * (o - along * u) / self.length) as f32;
        }
    }
}

pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The lengths at which vectors are compared.
fn prefixes(options: &LossOptions, width: usize) -> Vec<usize> {
    let mut dimensions: Vec<usize> = options.dimensions.iter().copied().filter(|d| (1..width).contains(d)).collect();
    dimensions.insert(0, width);
    dimensions
}

/// The contrasts of all examples: each anchor against all positives and negatives.
fn contrasts(options: &LossOptions, examples: &[Rows], values: &[f32], width: usize, sum: &mut Loss) {
    let groups: Vec<&Vec<Range<usize>>> = examples.iter().filter(|(t, _)| *t == &Target::Contrast).map(|(_, r)| r).collect();
    let row = |r: usize| r * width..(r + 1) * width;
    let anchors: Vec<usize> = groups.iter().map(|g| g[0].start).collect();
    // positives first, in the order of their anchors; then negatives
    let mut candidates: Vec<usize> = groups.iter().map(|g| g[1].start).collect();
    candidates.extend(groups.iter().flat_map(|g| g[2..].iter().map(|r| r.start)));
    if groups.is_empty() {
        return;
    }
    let scale = f64::from(options.scale);
    for (round, d) in prefixes(options, width).into_iter().enumerate() {
        let unit = |&r: &usize| Unit::of(&values[row(r)][..d]);
        let (left, right): (Vec<Unit>, Vec<Unit>) = (anchors.iter().map(unit).collect(), candidates.iter().map(unit).collect());
        // ∂ loss / ∂ candidate direction, gathered before it is brought back through the norm
        let mut pulls = vec![vec![0.0; d]; candidates.len()];
        for (i, anchor) in left.iter().enumerate() {
            let logits: Vec<f64> = right.iter().map(|c| scale * dot(&anchor.direction, &c.direction)).collect();
            let (value, best, slope) = cross_entropy(&logits, i, f64::from(options.label_smoothing));
            sum.loss += value;
            sum.hits += f64::from(u8::from(round == 0 && best == i));
            let mut pull = vec![0.0; d];
            for (j, s) in slope.iter().enumerate() {
                for k in 0..d {
                    pull[k] += scale * s * right[j].direction[k];
                    pulls[j][k] += scale * s * anchor.direction[k];
                }
            }
            anchor.back(&pull, 1.0, &mut sum.gradient[row(anchors[i])]);
        }
        for ((candidate, pull), &r) in right.iter().zip(&pulls).zip(&candidates) {
            candidate.back(pull, 1.0, &mut sum.gradient[row(r)]);
        }
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)] // rows of one sequence are a list of one range
mod tests {
    use super::*;

    /// Every gradient against finite differences.
    #[test]
    fn gradients_equal_finite_differences() {
        let one = |r: usize| r..r + 1;
        let whole = LossOptions { label_smoothing: 0.1, class_weights: vec![0.5, 2.0, 1.0], ..Default::default() };
        let nested = LossOptions { scale: 5.0, dimensions: vec![2], ..Default::default() };
        let cases: Vec<(LossOptions, Vec<Rows>, usize, usize)> = vec![
            (whole.clone(), vec![(&Target::Class(1), vec![one(0)]), (&Target::Class(0), vec![one(1)])], 2, 3),
            (whole, vec![(const { &Target::Class(2) }, vec![one(0)])], 1, 3),
            (Default::default(), vec![(&Target::Value(0.3), vec![one(0)]), (&Target::Value(-1.0), vec![one(1)])], 2, 1),
            (Default::default(), vec![(&Target::Span { start: 1, end: 3 }, vec![0..4])], 4, 2),
            (Default::default(), vec![(&Target::Choice(2), vec![one(0), one(1), one(2)])], 3, 1),
            (nested.clone(), vec![(&Target::Similarity(0.4), vec![one(0), one(1)])], 2, 4),
            (nested, vec![(&Target::Contrast, vec![one(0), one(1), one(2)]), (&Target::Contrast, vec![one(3), one(4)])], 5, 4),
        ];
        let (labels, wanted) = (Target::Tokens(vec![0, 2, 1]), Target::Classes(vec![1.0, 0.0, 1.0]));
        let more: Vec<(LossOptions, Vec<Rows>, usize, usize)> =
            vec![(Default::default(), vec![(&labels, vec![0..3])], 3, 3), (Default::default(), vec![(&wanted, vec![one(0)])], 1, 3)];
        for (options, examples, rows, width) in cases.into_iter().chain(more) {
            let values: Vec<f32> = (0..rows * width).map(|i| ((i * 7 + 3) % 11) as f32 / 5.0 - 1.0).collect();
            let found = loss(&options, &examples, &values, width);
            for i in 0..values.len() {
                let at = |step: f32| {
                    let mut moved = values.clone();
                    moved[i] += step;
                    loss(&options, &examples, &moved, width).loss
                };
                let slope = (at(1e-3) - at(-1e-3)) / 2e-3;
                assert!((slope - f64::from(found.gradient[i])).abs() < 2e-3, "{examples:?} at {i}: {slope} and {}", found.gradient[i]);
            }
        }
    }

    #[test]
    fn a_class_loss_is_its_formula() {
        let found = loss(&LossOptions::default(), &[(&Target::Class(0), vec![0..1])], &[0.0, 0.0], 2);
        assert!((found.loss - 2f64.ln()).abs() < 1e-12);
        assert_eq!((found.hits, found.targets, found.units, &found.gradient[..]), (1.0, 1.0, 1.0, &[-0.5, 0.5][..]));
        // a weight changes the mean of the losses, not what was hit
        let weighted = LossOptions { class_weights: vec![0.25, 4.0], ..Default::default() };
        let tokens = Target::Tokens(vec![0, 1]);
        let found = loss(&weighted, &[(&tokens, vec![0..2])], &[1.0, 0.0, 1.0, 0.0], 2);
        assert_eq!((found.hits, found.targets, found.units), (1.0, 2.0, 4.25));
    }
}
