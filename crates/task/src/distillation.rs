//! Distillation: a model also learns what another one, its teacher, answers (Hinton et al. 2015, section 2).
//!
//! loss = (1 − w) · loss of the labels + w · soft loss. Of labels, of a token, a span or a choice the soft loss is
//! T² · KL(softmax(teacher / T) ‖ softmax(student / T)): the temperature T shows how likely the teacher takes what is wrong, and T² keeps
//! the gradients' size. Of labels that exclude nothing the same by σ, the mean over labels. Of a number the squared difference. Of vectors,
//! which need not be of one length, the squared difference of the cosines between an example's first sequence and its others
//! (relations instead of values: Park et al. 2019, section 3).

use crate::loss::{Loss, LossOptions, Rows, Target, Unit, dot};

/// How much of the loss is the teacher's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distillation {
    /// T.
    pub temperature: f32,
    /// w, from 0 to 1.
    pub weight: f32,
}

/// Mix the losses of examples, as [`crate::loss::loss`] gave them, with soft ones. `teacher` holds the outputs of its head for each
/// example, row after row; `values` are the student's `[rows, width]`.
pub fn distill(
    distillation: Distillation,
    options: &LossOptions,
    examples: &[Rows],
    teacher: &[&[f32]],
    values: &[f32],
    width: usize,
    sum: &mut Loss,
) {
    assert_eq!(examples.len(), teacher.len(), "distillation: an answer of the teacher for each example");
    let keep = 1.0 - distillation.weight;
    sum.loss *= f64::from(keep);
    sum.gradient.iter_mut().for_each(|g| *g *= keep);
    let mut soft = Soft { t: f64::from(distillation.temperature), share: f64::from(distillation.weight), width, values, sum };
    for ((target, ranges), teacher) in examples.iter().zip(teacher) {
        let first = ranges.first().map_or(0, |r| r.start);
        let row = |r: usize| (r * width..(r + 1) * width).collect::<Vec<_>>();
        match target {
            Target::Class(_) => soft.divergence(&row(first), teacher, options.units(target)),
            Target::Tokens(labels) => {
                for (i, (&label, teacher)) in labels.iter().zip(teacher.chunks_exact(width)).enumerate() {
                    soft.divergence(&row(first + i), teacher, options.units(&Target::Class(label)));
                }
            }
            Target::Classes(_) => soft.binary(&row(first), teacher),
            Target::Value(_) => soft.square(first * width, teacher[0]),
            Target::Span { .. } => {
                let rows = ranges[0].clone();
                for column in 0..2 {
                    let places: Vec<usize> = rows.clone().map(|r| r * width + column).collect();
                    let column: Vec<f32> = teacher.iter().skip(column).step_by(width).copied().collect();
                    soft.divergence(&places, &column, 0.5);
                }
            }
            Target::Choice(_) => {
                let places: Vec<usize> = ranges.iter().map(|r| r.start * width).collect();
                let scores: Vec<f32> = teacher.iter().step_by(width).copied().collect();
                soft.divergence(&places, &scores, 1.0);
            }
            Target::Contrast | Target::Similarity(_) => soft.relations(ranges.iter().map(|r| r.start), teacher),
        }
    }
}

/// Where soft losses are added up.
struct Soft<'a> {
    t: f64,
    share: f64,
    width: usize,
    values: &'a [f32],
    sum: &'a mut Loss,
}

impl Soft<'_> {
    fn add(&mut self, place: usize, gradient: f64) {
        self.sum.gradient[place] += (self.share * gradient) as f32;
    }

    /// weight · T² · KL over the logits at `places`: Σ p (ln p − ln q), whose gradient is T (q − p).
    fn divergence(&mut self, places: &[usize], teacher: &[f32], weight: f64) {
        let student: Vec<f64> = places.iter().map(|&p| f64::from(self.values[p]) / self.t).collect();
        let teacher: Vec<f64> = teacher.iter().map(|&l| f64::from(l) / self.t).collect();
        let (ln_q, ln_p) = (ln_softmax(&student), ln_softmax(&teacher));
        for ((&place, q), p) in places.iter().zip(ln_q).zip(ln_p) {
            self.sum.loss += self.share * weight * self.t * self.t * p.exp() * (p - q);
            self.add(place, weight * self.t * (q.exp() - p.exp()));
        }
    }

    /// The mean over labels of T² · KL between two coins.
    fn binary(&mut self, places: &[usize], teacher: &[f32]) {
        let n = places.len() as f64;
        for (&place, &teacher) in places.iter().zip(teacher) {
            let (z, y) = (f64::from(self.values[place]) / self.t, f64::from(teacher) / self.t);
            let ln = ln_sigmoid;
            let p = ln(y).exp();
            let divergence = p * (ln(y) - ln(z)) + (1.0 - p) * (ln(-y) - ln(-z));
            self.sum.loss += self.share * self.t * self.t * divergence / n;
            self.add(place, self.t * (ln(z).exp() - p) / n);
        }
    }

    fn square(&mut self, place: usize, teacher: f32) {
        let difference = f64::from(self.values[place]) - f64::from(teacher);
        self.sum.loss += self.share * difference * difference;
        self.add(place, 2.0 * difference);
    }

    /// The mean over the sequences behind the first of the squared difference of their cosines with it.
    fn relations(&mut self, rows: impl Iterator<Item = usize>, teacher: &[f32]) {
        let rows: Vec<usize> = rows.collect();
        let theirs: Vec<Unit> = teacher.chunks_exact((teacher.len() / rows.len().max(1)).max(1)).map(Unit::of).collect();
        let own: Vec<Unit> = rows.iter().map(|r| Unit::of(&self.values[r * self.width..][..self.width])).collect();
        let others = own.len().saturating_sub(1).max(1) as f64;
        for i in 1..own.len() {
            let difference = dot(&own[0].direction, &own[i].direction) - dot(&theirs[0].direction, &theirs[i].direction);
            self.sum.loss += self.share * difference * difference / others;
            let factor = self.share * 2.0 * difference / others;
            own[0].back(&own[i].direction, factor, &mut self.sum.gradient[rows[0] * self.width..][..self.width]);
            own[i].back(&own[0].direction, factor, &mut self.sum.gradient[rows[i] * self.width..][..self.width]);
        }
    }
}

/// ln σ(x) = −ln(1 + e^−x), without overflow.
pub(crate) fn ln_sigmoid(x: f64) -> f64 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

pub(crate) fn ln_softmax(logits: &[f64]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum = max + logits.iter().map(|l| (l - max).exp()).sum::<f64>().ln();
    logits.iter().map(|l| l - sum).collect()
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)] // rows of one sequence are a list of one range
mod tests {
    use super::*;
    use crate::loss::loss;

    fn mixed(
        distillation: Distillation,
        options: &LossOptions,
        examples: &[Rows],
        teacher: &[&[f32]],
        values: &[f32],
        width: usize,
    ) -> Loss {
        let mut sum = loss(options, examples, values, width);
        distill(distillation, options, examples, teacher, values, width, &mut sum);
        sum
    }

    #[test]
    fn gradients_equal_finite_differences() {
        let one = |r: usize| r..r + 1;
        let (tokens, classes) = (Target::Tokens(vec![0, 2]), Target::Classes(vec![1.0, 0.0, 1.0]));
        let weighted = LossOptions { class_weights: vec![0.5, 2.0, 1.0], ..LossOptions::default() };
        let plain = LossOptions::default();
        let cases: Vec<(&LossOptions, Rows, usize, usize)> = vec![
            (&weighted, (&Target::Class(1), vec![one(0)]), 1, 3),
            (&weighted, (&tokens, vec![0..2]), 2, 3),
            (&plain, (&classes, vec![one(0)]), 1, 3),
            (&plain, (&Target::Value(0.3), vec![one(0)]), 1, 1),
            (&plain, (&Target::Span { start: 1, end: 3 }, vec![0..4]), 4, 2),
            (&plain, (&Target::Choice(2), vec![one(0), one(1), one(2)]), 3, 1),
            (&plain, (&Target::Similarity(0.4), vec![one(0), one(1)]), 2, 4),
            (&plain, (&Target::Contrast, vec![one(0), one(1), one(2)]), 3, 4),
        ];
        for (options, example, rows, width) in cases {
            let numbers = |by: usize| (0..rows * width).map(|i| ((i * by + 3) % 11) as f32 / 5.0 - 1.0).collect::<Vec<_>>();
            let (values, teacher) = (numbers(7), numbers(5));
            let examples = [example];
            let at = |values: &[f32]| mixed(Distillation { temperature: 2.5, weight: 0.7 }, options, &examples, &[&teacher], values, width);
            let found = at(&values);
            for i in 0..values.len() {
                let moved = |step: f32| {
                    let mut values = values.clone();
                    values[i] += step;
                    at(&values).loss
                };
                let slope = (moved(1e-3) - moved(-1e-3)) / 2e-3;
                assert!((slope - f64::from(found.gradient[i])).abs() < 2e-3, "{examples:?} at {i}: {slope} and {}", found.gradient[i]);
            }
        }
    }

    #[test]
    fn a_teacher_of_no_weight_changes_nothing_and_an_equal_one_is_no_loss() {
        let example: [Rows; 1] = [(&Target::Class(1), vec![0..1])];
        let (values, options) = ([0.5, -1.0, 2.0], LossOptions::default());
        let hard = loss(&options, &example, &values, 3);
        assert_eq!(mixed(Distillation { temperature: 2.0, weight: 0.0 }, &options, &example, &[&[9.0, 0.0, 0.0]], &values, 3), hard);
        let same = mixed(Distillation { temperature: 2.0, weight: 1.0 }, &options, &example, &[&values], &values, 3);
        assert!(same.loss.abs() < 1e-12 && same.gradient.iter().all(|g| g.abs() < 1e-7), "{same:?}");
    }
}
