//! Accuracy, F1, Matthews' correlation and the confusion matrix, equal to scikit-learn's.

use serde::Serialize;

/// Counts of (label, prediction).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Confusion {
    /// `counts[label][prediction]`.
    pub counts: Vec<Vec<u64>>,
}

impl Confusion {
    /// An empty matrix of `classes`.
    pub fn new(classes: usize) -> Self {
        Self { counts: vec![vec![0; classes]; classes] }
    }

    /// Count one row.
    pub fn add(&mut self, label: usize, prediction: usize) {
        self.counts[label][prediction] += 1;
    }

    fn classes(&self) -> usize {
        self.counts.len()
    }

    /// Rows counted.
    pub fn total(&self) -> u64 {
        self.counts.iter().flatten().sum()
    }

    fn hits(&self) -> u64 {
        (0..self.classes()).map(|c| self.counts[c][c]).sum()
    }

    /// Rows labelled `c`.
    pub fn support(&self, c: usize) -> u64 {
        self.counts[c].iter().sum()
    }

    fn predicted(&self, c: usize) -> u64 {
        self.counts.iter().map(|row| row[c]).sum()
    }

    /// Share of rows whose prediction is their label; 0 without rows.
    pub fn accuracy(&self) -> f64 {
        ratio(self.hits() as f64, self.total() as f64)
    }

    /// Of the rows predicted as `c`, the share that is; 0 without any.
    pub fn precision(&self, c: usize) -> f64 {
        ratio(self.counts[c][c] as f64, self.predicted(c) as f64)
    }

    /// Of the rows labelled `c`, the share that is found; 0 without any.
    pub fn recall(&self, c: usize) -> f64 {
        ratio(self.counts[c][c] as f64, self.support(c) as f64)
    }

    /// The harmonic mean of precision and recall of `c`; 0 where undefined.
    pub fn f1(&self, c: usize) -> f64 {
        ratio(2.0 * self.counts[c][c] as f64, (self.support(c) + self.predicted(c)) as f64)
    }

    /// The mean F1 of the classes that occur among labels or predictions (scikit-learn's `average="macro"`).
    pub fn macro_f1(&self) -> f64 {
        let present: Vec<usize> = (0..self.classes()).filter(|&c| self.support(c) + self.predicted(c) > 0).collect();
        ratio(present.iter().map(|&c| self.f1(c)).sum(), present.len() as f64)
    }

    /// F1 of all decisions together: with one label a row it equals the accuracy.
    pub fn micro_f1(&self) -> f64 {
        self.accuracy()
    }

    /// Matthews' correlation for any number of classes (Gorodkin 2004); 0 where undefined.
    pub fn mcc(&self) -> f64 {
        let (n, hits) = (self.total() as f64, self.hits() as f64);
        let sum = |f: &dyn Fn(usize) -> f64| (0..self.classes()).map(f).sum::<f64>();
        let cross = sum(&|c| self.support(c) as f64 * self.predicted(c) as f64);
        let predicted = sum(&|c| (self.predicted(c) as f64).powi(2));
        let support = sum(&|c| (self.support(c) as f64).powi(2));
        ratio(hits * n - cross, ((n * n - predicted) * (n * n - support)).sqrt())
    }
}

fn ratio(a: f64, b: f64) -> f64 {
    if b > 0.0 { a / b } else { 0.0 }
}
