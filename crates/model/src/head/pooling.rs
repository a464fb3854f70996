//! Sentence embeddings: one row a sequence straight from the hidden states (Reimers and Gurevych 2019), without a map.

use cloze_tensor::ops::pool::Pool;
use cloze_tensor::{Backend, Packed, Tape, Var};

/// How the tokens of a sequence become its embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// The first token's row.
    Cls,
    /// The mean over the tokens.
    Mean,
    /// The maximum over the tokens, by component.
    Max,
    /// The last token's row.
    Last,
}

impl Pooling {
    /// All of them, for lists.
    pub const ALL: [Pooling; 4] = [Pooling::Cls, Pooling::Mean, Pooling::Max, Pooling::Last];

    /// Its name in sentence-transformers' `pooling_mode`.
    pub fn name(self) -> &'static str {
        match self {
            Pooling::Cls => "cls",
            Pooling::Mean => "mean",
            Pooling::Max => "max",
            Pooling::Last => "lasttoken",
        }
    }

    /// The pooling of that name; `last` and `first` are understood, too.
    pub fn of_name(name: &str) -> Option<Self> {
        match name {
            "first" => Some(Pooling::Cls),
            "last" => Some(Pooling::Last),
            _ => Self::ALL.into_iter().find(|p| p.name() == name),
        }
    }

    /// One row for each sequence; an empty one pools to zeros, save for the last token, which it must have. // [T, H] → [S, H]
    pub fn rows<B: Backend>(self, tape: &mut Tape<'_, B>, hidden: &Var<B>, layout: &Packed<B>) -> Var<B> {
        let op = match self {
            Pooling::Cls => Pool::First,
            Pooling::Mean => Pool::Mean,
            Pooling::Max => Pool::Max,
            Pooling::Last => {
                let last: Vec<u32> = layout.sequences.starts()[1..].iter().map(|end| end - 1).collect();
                let rows = tape.backend().indices(&last);
                return tape.gather(hidden, &rows, last.len());
            }
        };
        tape.pool(hidden, layout, op)
    }
}

/// What a norm is raised to at least, as torch's `normalize` has it.
const SMALLEST: f32 = 1e-12;

/// Divide each row by its Euclidean length. // [S, width], in place
pub fn normalize(rows: &mut [f32], width: usize) {
    for row in rows.chunks_exact_mut(width) {
        let length = length(row);
        row.iter_mut().for_each(|v| *v /= length);
    }
}

/// The gradient by rows before [`normalize`], given those rows and the gradient by the normalised ones:
/// dx = (dy − y (y · dy)) / ‖x‖. // [S, width] each
pub fn normalize_backward(rows: &[f32], dy: &[f32], width: usize) -> Vec<f32> {
    assert_eq!(rows.len(), dy.len(), "normalize: rows and gradient disagree");
    let mut dx = Vec::with_capacity(rows.len());
    for (row, dy) in rows.chunks_exact(width).zip(dy.chunks_exact(width)) {
        let length = length(row);
        let along = row.iter().zip(dy).map(|(x, d)| f64::from(*x) * f64::from(*d)).sum::<f64>() as f32 / (length * length);
        dx.extend(row.iter().zip(dy).map(|(x, d)| (d - x * along) / length));
    }
    dx
}

fn length(row: &[f32]) -> f32 {
    (row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt() as f32).max(SMALLEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_unit_vectors_and_their_gradient_agrees_with_differences() {
        let rows = [3.0, 4.0, 0.0, -1.0, 2.0, 2.0, 0.0, 0.0, 0.0];
        let mut unit = rows;
        normalize(&mut unit, 3);
        assert_eq!(unit, [0.6, 0.8, 0.0, -1.0 / 3.0, 2.0 / 3.0, 2.0 / 3.0, 0.0, 0.0, 0.0]);
        let dy = [0.5, -1.0, 2.0, 1.0, 0.25, -0.75];
        let dx = normalize_backward(&rows[..6], &dy, 3);
        for i in 0..6 {
            let at = |step: f32| {
                let mut moved = rows;
                moved[i] += step;
                normalize(&mut moved, 3);
                moved[..6].iter().zip(dy).map(|(y, d)| f64::from(y * d)).sum::<f64>()
            };
            let difference = (at(1e-2) - at(-1e-2)) / 2e-2;
            assert!((difference - f64::from(dx[i])).abs() < 1e-3, "{i}: {difference} against {}", dx[i]);
        }
    }

    #[test]
    fn names_go_both_ways() {
        for pooling in Pooling::ALL {
            assert_eq!(Pooling::of_name(pooling.name()), Some(pooling));
        }
        assert_eq!(Pooling::of_name("weightedmean"), None);
    }
}
