//! R-Drop: an example is run twice under two draws of dropout, and the two answers are to agree (Liang et al. 2021, "R-Drop: regularized
//! dropout for neural networks", equation 4).
//!
//! With the answers P and Q of an example, loss = −ln P(label) − ln Q(label) + α · ½ (KL(P ‖ Q) + KL(Q ‖ P)). Of labels that exclude
//! nothing the divergence of two coins, the mean over labels; of a number the squared difference.

use crate::distillation::{ln_sigmoid, ln_softmax};
use crate::loss::{Loss, LossOptions, Rows, Target};

/// Whether answers to such a target can be asked to agree: vectors have none, and an example's double would be a negative of its own.
pub fn can_agree(target: &Target) -> bool {
    !matches!(target, Target::Contrast | Target::Similarity(_))
}

/// Add the disagreement of examples that stand twice, one behind the other, to their losses as [`crate::loss::loss`] gave them.
/// // values: `[rows, width]`
///
/// # Panics
/// If the examples are not pairs.
pub fn agree(alpha: f32, options: &LossOptions, examples: &[Rows], values: &[f32], width: usize, sum: &mut Loss) {
    let mut apart = Apart { alpha: f64::from(alpha), values, sum };
    for pair in examples.chunks(2) {
        let [(target, first), (same, second)] = pair else { panic!("agreement: an example without its double") };
        assert_eq!(target, same, "agreement: doubles stand side by side");
        let (a, b) = (first.first().map_or(0, |r| r.start), second.first().map_or(0, |r| r.start));
        let row = |r: usize| (r * width..(r + 1) * width).collect::<Vec<_>>();
        match target {
            Target::Class(_) => apart.divergence(&row(a), &row(b), options.units(target)),
            Target::Tokens(labels) => {
                for (i, &label) in labels.iter().enumerate() {
                    apart.divergence(&row(a + i), &row(b + i), options.units(&Target::Class(label)));
                }
            }
            Target::Classes(_) => apart.binary(&row(a), &row(b)),
            Target::Value(_) => apart.square(a * width, b * width),
            Target::Span { .. } => {
                for column in 0..2 {
                    let places = |from: usize| (0..first[0].len()).map(|r| (from + r) * width + column).collect::<Vec<_>>();
                    apart.divergence(&places(a), &places(b), 0.5);
                }
            }
            Target::Choice(_) => {
                let places = |ranges: &[std::ops::Range<usize>]| ranges.iter().map(|r| r.start * width).collect::<Vec<_>>();
                apart.divergence(&places(first), &places(second), 1.0);
            }
            Target::Contrast | Target::Similarity(_) => {}
        }
    }
}

/// Where disagreements are added up.
struct Apart<'a> {
    alpha: f64,
    values: &'a [f32],
    sum: &'a mut Loss,
}

impl Apart<'_> {
    fn at(&self, place: usize) -> f64 {
        f64::from(self.values[place])
    }

    fn add(&mut self, place: usize, gradient: f64) {
        self.sum.gradient[place] += gradient as f32;
    }

    /// weight · α · ½ (KL(P ‖ Q) + KL(Q ‖ P)) of the logits at two lists of places.
    ///
    /// With d = ln p − ln q the two are Σ p d and −Σ q d; the gradient of the first by the logits of P is p (d − Σ p d), by those of Q
    /// q − p, and the second's are the same with P and Q in each other's place.
    fn divergence(&mut self, first: &[usize], second: &[usize], weight: f64) {
        let logs = |places: &[usize]| ln_softmax(&places.iter().map(|&p| self.at(p)).collect::<Vec<_>>());
        let (ln_p, ln_q) = (logs(first), logs(second));
        let one = |x: &[f64], y: &[f64]| -> f64 { x.iter().zip(y).map(|(x, y)| x.exp() * (x - y)).sum() };
        let (there, back) = (one(&ln_p, &ln_q), one(&ln_q, &ln_p));
        let share = weight * self.alpha * 0.5;
        self.sum.loss += share * (there + back);
        for (i, (ln_p, ln_q)) in ln_p.iter().zip(&ln_q).enumerate() {
            let (p, q, d) = (ln_p.exp(), ln_q.exp(), ln_p - ln_q);
            self.add(first[i], share * (p * (d - there) + p - q));
            self.add(second[i], share * (q * (-d - back) + q - p));
        }
    }

    /// The mean over labels of the same of two coins; KL(P ‖ Q) + KL(Q ‖ P) = (p − q)(y − z) there, with y and z their logits.
    fn binary(&mut self, first: &[usize], second: &[usize]) {
        let share = self.alpha * 0.5 / first.len() as f64;
        for (&a, &b) in first.iter().zip(second) {
            let (y, z) = (self.at(a), self.at(b));
            let (p, q) = (ln_sigmoid(y).exp(), ln_sigmoid(z).exp());
            self.sum.loss += share * (p - q) * (y - z);
            self.add(a, share * (p * (1.0 - p) * (y - z) + p - q));
            self.add(b, share * (q * (1.0 - q) * (z - y) + q - p));
        }
    }

    fn square(&mut self, a: usize, b: usize) {
        let difference = self.at(a) - self.at(b);
        self.sum.loss += self.alpha * difference * difference;
        self.add(a, 2.0 * self.alpha * difference);
        self.add(b, -2.0 * self.alpha * difference);
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)] // rows of one sequence are a list of one range
mod tests {
    use super::*;
    use crate::loss::loss;

    /// Options, the row's target, the rows of both its answers, rows in all and their width.
    type Case<'a> = (&'a LossOptions, Target, [Vec<std::ops::Range<usize>>; 2], usize, usize);

    fn both(alpha: f32, options: &LossOptions, examples: &[Rows], values: &[f32], width: usize) -> Loss {
        let mut sum = loss(options, examples, values, width);
        agree(alpha, options, examples, values, width, &mut sum);
        sum
    }

    #[test]
    fn gradients_equal_finite_differences() {
        let (tokens, classes) = (Target::Tokens(vec![0, 2]), Target::Classes(vec![1.0, 0.0, 1.0]));
        let weighted = LossOptions { class_weights: vec![0.5, 2.0, 1.0], ..LossOptions::default() };
        let plain = LossOptions::default();
        let one = |r: usize| r..r + 1;
        let cases: Vec<Case> = vec![
            (&weighted, Target::Class(1), [vec![one(0)], vec![one(1)]], 2, 3),
            (&weighted, tokens, [vec![0..2], vec![2..4]], 4, 3),
            (&plain, classes, [vec![one(0)], vec![one(1)]], 2, 3),
            (&plain, Target::Value(0.3), [vec![one(0)], vec![one(1)]], 2, 1),
            (&plain, Target::Span { start: 1, end: 3 }, [vec![0..4], vec![4..8]], 8, 2),
            (&plain, Target::Choice(2), [vec![one(0), one(1), one(2)], vec![one(3), one(4), one(5)]], 6, 1),
        ];
        for (options, target, [first, second], rows, width) in cases {
            let values: Vec<f32> = (0..rows * width).map(|i| ((i * i * 7 + 3) % 13) as f32 / 5.0 - 1.0).collect();
            let examples = [(&target, first), (&target, second)];
            let at = |values: &[f32]| both(3.0, options, &examples, values, width);
            let found = at(&values);
            assert!(found.loss > loss(options, &examples, &values, width).loss, "{target:?}: two answers, and no disagreement");
            for i in 0..values.len() {
                let moved = |step: f32| {
                    let mut values = values.clone();
                    values[i] += step;
                    at(&values).loss
                };
                let slope = (moved(1e-3) - moved(-1e-3)) / 2e-3;
                assert!((slope - f64::from(found.gradient[i])).abs() < 4e-3, "{target:?} at {i}: {slope} and {}", found.gradient[i]);
            }
        }
    }

    #[test]
    fn equal_answers_agree() {
        let target = Target::Class(1);
        let (examples, values) = ([(&target, vec![0..1]), (&target, vec![1..2])], [0.5, -1.0, 2.0, 0.5, -1.0, 2.0]);
        let options = LossOptions::default();
        let (with, without) = (both(5.0, &options, &examples, &values, 3), loss(&options, &examples, &values, 3));
        assert!((with.loss - without.loss).abs() < 1e-12);
        assert!(with.gradient.iter().zip(&without.gradient).all(|(a, b)| (a - b).abs() < 1e-7));
    }
}
