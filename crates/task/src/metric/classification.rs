//! Accuracy, F1, Matthews' correlation and the confusion matrix, equal to scikit-learn's.

use std::collections::BTreeMap;

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

impl Confusion {
    /// The figures by name; with two labels also the F1 of the second one (scikit-learn's `average="binary"`).
    pub fn figures(&self) -> BTreeMap<String, f64> {
        let mut figures: BTreeMap<String, f64> =
            [("accuracy", self.accuracy()), ("macro_f1", self.macro_f1()), ("micro_f1", self.micro_f1()), ("mcc", self.mcc())]
                .map(|(k, v)| (k.to_owned(), v))
                .into();
        if self.classes() == 2 {
            figures.insert("f1".into(), self.f1(1));
        }
        figures
    }

    /// Figures, classes and confusion as a person reads them.
    pub fn table(&self, labels: &[String]) -> String {
        use std::fmt::Write;
        let mut s = String::new();
        let name = |l: &str| if l.chars().count() > 16 { l.chars().take(15).chain(['…']).collect() } else { l.to_owned() };
        let _ = writeln!(
            s,
            "accuracy {:.2}%   macro F1 {:.2}%   MCC {:.3}   ({} rows)",
            100.0 * self.accuracy(),
            100.0 * self.macro_f1(),
            self.mcc(),
            self.total()
        );
        let _ = writeln!(s, "\n{:<18}{:>10}{:>10}{:>10}{:>8}", "label", "precision", "recall", "F1", "rows");
        for (i, label) in labels.iter().enumerate() {
            let [p, r, f] = [self.precision(i), self.recall(i), self.f1(i)].map(|v| format!("{:.1}%", 100.0 * v));
            let _ = writeln!(s, "{:<18}{p:>10}{r:>10}{f:>10}{:>8}", name(label), self.support(i));
        }
        if labels.len() <= 8 {
            let _ = writeln!(s, "\nrows: true label, columns: predicted");
            let width = labels.iter().map(|l| name(l).chars().count() + 2).max().unwrap_or(0).max(10);
            let _ = write!(s, "{:<18}", "");
            for label in labels {
                let _ = write!(s, "{:>width$}", name(label));
            }
            for (i, label) in labels.iter().enumerate() {
                let _ = write!(s, "\n{:<18}", name(label));
                for count in &self.counts[i] {
                    let _ = write!(s, "{count:>width$}");
                }
            }
            s.push('\n');
        }
        s.trim_end().to_owned()
    }
}

/// Figures of rows with any number of labels: (right, found) of each label, for each row. `accuracy` is the share of rows
/// with every label right; F1s are scikit-learn's with `zero_division=0`.
pub fn multi_label(rows: &[(Vec<bool>, Vec<bool>)]) -> BTreeMap<String, f64> {
    let labels = rows.first().map_or(0, |(gold, _)| gold.len());
    let count = |test: &dyn Fn(bool, bool) -> bool, l: usize| rows.iter().filter(|(g, f)| test(g[l], f[l])).count() as f64;
    let (mut hits, mut gold, mut found, mut macro_f1) = (0.0, 0.0, 0.0, 0.0);
    for l in 0..labels {
        let (h, g, f) = (count(&|g, f| g && f, l), count(&|g, _| g, l), count(&|_, f| f, l));
        macro_f1 += ratio(2.0 * h, g + f) / labels as f64;
        (hits, gold, found) = (hits + h, gold + g, found + f);
    }
    let whole = rows.iter().filter(|(g, f)| g == f).count() as f64;
    [
        ("accuracy", ratio(whole, rows.len() as f64)),
        ("macro_f1", macro_f1),
        ("micro_f1", ratio(2.0 * hits, gold + found)),
        ("micro_precision", ratio(hits, found)),
        ("micro_recall", ratio(hits, gold)),
    ]
    .map(|(k, v)| (k.to_owned(), v))
    .into()
}
