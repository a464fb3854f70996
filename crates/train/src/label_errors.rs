//! Training rows whose label the model did not come to believe: likely label errors.
//!
//! Every step knows its rows' logits, so the margin of each row's own label costs nothing: m = z_given − max z_other. Its mean over the
//! epochs (the area under the margin; Pleiss et al. 2020, "Identifying mislabeled data using the area under the margin ranking", section
//! 3.1) is low where the rows around a row pull the model away from its label, even when that label is learnt by heart in the end.

use std::cell::RefCell;
use std::ops::Range;
use std::path::Path;

use cloze_task::loss::Target;
use cloze_task::rows::Needed;
use cloze_task::{Context, Row, Task};
use serde_json::Value;

use crate::files::{self, FileError};

/// The table of a run's folder.
pub const FILE: &str = "label-errors.tsv";
/// Rows that are listed at most.
const LISTED: usize = 10_000;
/// Characters of a cell.
const CELL: usize = 400;

/// A training row whose label is doubtful.
#[derive(Clone, Debug, PartialEq)]
pub struct Suspect {
    /// Its place among the training rows, from 0.
    pub row: usize,
    /// Its mean margin over the epochs: the lower, the likelier an error.
    pub score: f64,
}

/// What one label of some logits lacks to be the largest: z_given − max z_other.
fn margin(logits: impl Iterator<Item = f32>, given: usize) -> f64 {
    let (mut own, mut other) = (f64::NEG_INFINITY, f64::NEG_INFINITY);
    for (i, z) in logits.enumerate() {
        let place = if i == given { &mut own } else { &mut other };
        *place = place.max(f64::from(z));
    }
    own - other
}

/// The margin of an example; of several labels the least one. Numbers have −(error)². `None` where labels have no margin.
fn margin_of(target: &Target, ranges: &[Range<usize>], values: &[f32], width: usize) -> Option<f64> {
    let row = |r: usize| values[r * width..(r + 1) * width].iter().copied();
    let first = ranges.first()?.start;
    let square = |found: f64, wanted: f32| -(found - f64::from(wanted)).powi(2);
    let found = match target {
        Target::Class(class) => margin(row(first), *class as usize),
        Target::Tokens(labels) => labels.iter().enumerate().map(|(i, &l)| margin(row(first + i), l as usize)).fold(f64::INFINITY, f64::min),
        Target::Classes(wanted) => {
            row(first).zip(wanted).map(|(z, y)| f64::from(z) * if *y > 0.5 { 1.0 } else { -1.0 }).fold(f64::INFINITY, f64::min)
        }
        Target::Value(wanted) => square(f64::from(values[first * width]), *wanted),
        Target::Span { start, end } => {
            let rows = ranges[0].clone();
            let column = |c: usize| rows.clone().map(move |r| values[r * width + c]);
            margin(column(0), *start as usize).min(margin(column(1), *end as usize))
        }
        Target::Choice(right) => margin(ranges.iter().map(|r| values[r.start * width]), *right as usize),
        Target::Contrast | Target::Similarity(_) => return None,
    };
    found.is_finite().then_some(found)
}

/// What training has seen of every row.
pub(crate) struct History {
    /// The row of each example.
    row_of: Vec<u32>,
    /// Σ margin and how often it was seen, by row.
    seen: RefCell<Vec<(f64, u32)>>,
    /// Whether scores are squared errors, which have no natural bound.
    errors: bool,
}

impl History {
    /// `row_of`: the training row of each example; `rows`: how many rows there are.
    pub(crate) fn new(row_of: Vec<u32>, rows: usize, errors: bool) -> Self {
        Self { row_of, seen: RefCell::new(vec![(0.0, 0); rows]), errors }
    }

    /// A step has the outputs of an example. // values: `[rows, width]`
    pub(crate) fn see(&self, example: usize, target: &Target, ranges: &[Range<usize>], values: &[f32], width: usize) {
        let Some(margin) = margin_of(target, ranges, values, width) else { return };
        let (sum, count) = &mut self.seen.borrow_mut()[self.row_of[example] as usize];
        *sum += margin;
        *count += 1;
    }

    /// Whether any row was seen: none is where no step was left to take, or where labels have no margin.
    pub(crate) fn has_seen(&self) -> bool {
        self.seen.borrow().iter().any(|(_, count)| *count > 0)
    }

    /// The doubtful rows, the worst first: a mean margin below 0, or an error three times the usual one.
    pub(crate) fn suspects(&self) -> Vec<Suspect> {
        let seen = self.seen.borrow();
        let scored = seen.iter().enumerate().filter(|(_, (_, n))| *n > 0);
        let all: Vec<Suspect> = scored.map(|(row, (sum, n))| Suspect { row, score: sum / f64::from(*n) }).collect();
        let mean = all.iter().map(|s| s.score).sum::<f64>() / all.len().max(1) as f64;
        let bound = if self.errors { 9.0 * mean } else { 0.0 };
        let mut found: Vec<Suspect> = all.into_iter().filter(|s| s.score < bound).collect();
        found.sort_by(|a, b| a.score.total_cmp(&b.score).then(a.row.cmp(&b.row)));
        found.truncate(LISTED);
        found
    }
}

/// One line of a table: no tab, no end of line, not too long.
fn cell(text: &str) -> String {
    let flat: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(CELL).collect();
    if text.chars().nth(CELL).is_some() { flat + "…" } else { flat }
}

/// A value as it reads: texts as they are, lists with spaces between.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

/// The values of a row that are given to a model, or that are wanted of it.
fn values(task: &dyn Task, row: &Row, labels: bool) -> String {
    let fields = task.fields().iter().filter(|f| matches!(f.needed, Needed::Labelled | Needed::Gold) == labels);
    fields.filter_map(|f| row.get(f.name)).map(shown).collect::<Vec<_>>().join(" | ")
}

/// What a row's label says.
fn told(task: &dyn Task, row: &Row) -> String {
    task.learning().and_then(|l| l.told(row)).unwrap_or_else(|| values(task, row, true))
}

/// What a model answers, in few words.
fn said(task: &dyn Task, context: &Context, answer: &Value) -> String {
    task.learning().and_then(|l| l.said(context, answer)).unwrap_or_else(|| answer.to_string())
}

/// The first suspect in words.
pub(crate) fn line(
    task: &dyn Task,
    context: &Context,
    rows: &[Row],
    suspects: &[Suspect],
    answers: &[Value],
    path: &Path,
) -> Option<String> {
    let (first, answer) = (suspects.first()?, answers.first()?);
    let row = rows.get(first.row)?;
    let short = |text: String| if text.chars().count() > 40 { text.chars().take(39).collect::<String>() + "…" } else { text };
    Some(format!(
        "labels in doubt: {} of {} training rows; the likeliest error is line {}, {:?}, labelled {}, where the model says {}; all in {}",
        suspects.len(),
        rows.len(),
        row.line,
        short(values(task, row, false)),
        short(told(task, row)),
        short(said(task, context, answer)),
        path.display()
    ))
}

/// Write the table: line of the training file, score, given label, what the model says, text.
pub(crate) fn write(
    path: &Path,
    task: &dyn Task,
    context: &Context,
    rows: &[Row],
    suspects: &[Suspect],
    answers: &[Value],
) -> Result<(), FileError> {
    let mut table = String::from("line\tscore\tlabel\tmodel\ttext\n");
    for (suspect, answer) in suspects.iter().zip(answers) {
        let row = &rows[suspect.row];
        let cells = [row.line.to_string(), format!("{:.4}", suspect.score)];
        let texts = [told(task, row), said(task, context, answer), values(task, row, false)].map(|t| cell(&t));
        table += &(cells.join("\t") + "\t" + &texts.join("\t") + "\n");
    }
    files::replace_file(path, |file| file.write_all(table.as_bytes()))
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)] // rows of one sequence are a list of one range
mod tests {
    use super::*;

    #[test]
    fn margins_are_their_formula() {
        let of = |target: Target, ranges: &[Range<usize>], values: &[f32], width| margin_of(&target, ranges, values, width).unwrap();
        assert_eq!(of(Target::Class(1), &[0..1], &[3.0, 1.0, 2.0], 3), -2.0);
        assert_eq!(of(Target::Class(0), &[1..2], &[9.0, 9.0, 3.0, 1.0], 2), 2.0);
        assert_eq!(of(Target::Tokens(vec![0, 0]), &[0..2], &[3.0, 1.0, 0.0, 1.0], 2), -1.0);
        assert_eq!(of(Target::Classes(vec![1.0, 0.0]), &[0..1], &[2.0, 0.5], 2), -0.5);
        assert_eq!(of(Target::Value(1.0), &[0..1], &[3.0], 1), -4.0);
        assert_eq!(of(Target::Span { start: 0, end: 1 }, &[0..2], &[5.0, 1.0, 2.0, 2.0], 2), 1.0);
        assert_eq!(of(Target::Choice(1), &[0..1, 1..2], &[1.0, 4.0], 1), 3.0);
        assert_eq!(margin_of(&Target::Contrast, &[0..1, 1..2], &[1.0, 4.0], 1), None);
    }

    #[test]
    fn suspects_are_the_rows_below_zero_in_order() {
        let history = History::new(vec![0, 1, 1, 2], 3, false);
        let see = |example, own: f32| history.see(example, &Target::Class(0), &[0..1], &[own, 0.0], 2);
        [(0, 1.0), (1, -3.0), (2, 1.0), (3, -2.0)].into_iter().for_each(|(e, z)| see(e, z));
        assert_eq!(history.suspects(), [Suspect { row: 2, score: -2.0 }, Suspect { row: 1, score: -1.0 }]);
    }

    #[test]
    fn cells_stay_in_their_column() {
        assert_eq!(cell("a\tb\nc"), "a b c");
        assert_eq!(cell(&"猫".repeat(500)).chars().count(), CELL + 1);
    }
}
