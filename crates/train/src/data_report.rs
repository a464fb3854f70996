//! What the data of a fine-tuning is like, told before training.

use std::collections::{BTreeMap, HashSet};

use cloze_task::task::{Example, Learning};
use cloze_task::{Row, Sequence, Task};
use serde::Serialize;

/// What the data is like.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DataReport {
    /// Rows to train on and dev rows.
    pub rows: (usize, usize),
    /// Sequences that the training rows give.
    pub sequences: usize,
    /// Training and dev occurrences of each label; empty where rows have none.
    pub labels: Vec<(String, usize, usize)>,
    /// Training examples that are cut to the longest length.
    pub truncated: usize,
    /// Tokens of the median and of the longest training sequence, as cut.
    pub tokens: (usize, usize),
    /// Dev rows whose input stands among the training rows, too.
    pub leaked: usize,
    /// Training rows that repeat another.
    pub repeated: usize,
    /// Training rows that nothing is learned from, such as a context that does not hold its answer, and the line of the first.
    pub unused: Option<(usize, u64)>,
}

impl DataReport {
    /// Look at rows and at what became of them.
    pub fn new(task: &dyn Task, learning: &dyn Learning, train: &[Row], dev: &[Row], examples: &[Example]) -> Self {
        let seen: HashSet<String> = train.iter().map(|r| r.fingerprint(task.fields())).collect();
        let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        for label in train.iter().flat_map(|r| learning.labels_of(r)) {
            counts.entry(label).or_default().0 += 1;
        }
        for label in dev.iter().flat_map(|r| learning.labels_of(r)) {
            counts.entry(label).or_default().1 += 1;
        }
        let mut lengths: Vec<usize> = examples.iter().flat_map(|e| &e.sequences).map(Sequence::len).collect();
        lengths.sort_unstable();
        Self {
            rows: (train.len(), dev.len()),
            sequences: lengths.len(),
            labels: counts.into_iter().map(|(label, (t, d))| (label, t, d)).collect(),
            truncated: examples.iter().filter(|e| e.cut).count(),
            tokens: (lengths.get(lengths.len() / 2).copied().unwrap_or(0), lengths.last().copied().unwrap_or(0)),
            leaked: dev.iter().filter(|r| seen.contains(&r.fingerprint(task.fields()))).count(),
            repeated: train.len() - seen.len(),
            unused: None,
        }
    }

    /// Count the rows that give no example; `row_of`: the row of each example, ascending.
    pub fn unused(&mut self, train: &[Row], row_of: &[u32]) {
        let used: HashSet<u32> = row_of.iter().copied().collect();
        let mut unused = (0u32..).zip(train).filter(|(at, _)| !used.contains(at));
        self.unused = unused.next().map(|(_, first)| (1 + unused.count(), first.line));
    }

    /// The report in lines for people.
    pub fn lines(&self) -> Vec<String> {
        let (train, dev) = self.rows;
        let sequences = if self.sequences == train { String::new() } else { format!(" ({} sequences)", self.sequences) };
        let cut = if self.truncated > 0 { format!(", {} cut", self.truncated) } else { String::new() };
        let (median, longest) = self.tokens;
        let mut lines =
            vec![format!("{train} rows to train on{sequences}, {dev} dev rows; median {median} tokens, longest {longest}{cut}")];
        let share = |n: usize, of: usize| 100.0 * n as f64 / of.max(1) as f64;
        let totals = self.labels.iter().fold((0, 0), |(t, d), l| (t + l.1, d + l.2));
        let numbers: Vec<f64> = self.labels.iter().filter_map(|l| l.0.parse().ok()).collect();
        if self.labels.len() > SHOWN && numbers.len() == self.labels.len() && numbers.iter().any(|n| n.fract() != 0.0) {
            let (least, most) = numbers.iter().fold((f64::MAX, f64::MIN), |(a, b), n| (a.min(*n), b.max(*n)));
            lines.push(format!("  numbers from {least} to {most}"));
            return lines.into_iter().chain(self.oddities()).collect();
        }
        for (label, in_train, in_dev) in self.labels.iter().take(SHOWN) {
            lines.push(format!("  {label}: {:.1}% of train, {:.1}% of dev", share(*in_train, totals.0), share(*in_dev, totals.1)));
        }
        if self.labels.len() > SHOWN {
            lines.push(format!("  … and {} labels more", self.labels.len() - SHOWN));
        }
        let unseen: Vec<&str> = self.labels.iter().filter(|l| l.1 == 0).map(|l| l.0.as_str()).collect();
        if !unseen.is_empty() {
            lines.push(format!("no training row has {}", unseen.join(", ")));
        }
        lines.extend(self.oddities());
        lines
    }

    /// What may be wrong with the rows.
    fn oddities(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some((rows, first)) = self.unused {
            lines.push(format!("{rows} training rows give nothing to learn from; the first is line {first}"));
        }
        if self.repeated > 0 {
            lines.push(format!("{} training rows repeat another", self.repeated));
        }
        if self.leaked > 0 {
            lines.push(format!("{} dev rows stand among the training rows, too: their figures flatter", self.leaked));
        }
        lines
    }
}

/// Labels told one by one.
const SHOWN: usize = 30;
