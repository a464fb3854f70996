//! Losses of tasks, of labels, of teachers and of two runs, against PyTorch's (fixtures/losses.py): values and gradients.

use std::path::Path;

use cloze_task::agreement::agree;
use cloze_task::distillation::{Distillation, distill};
use cloze_task::loss::{LossOptions, Target, loss};
use serde::Deserialize;
use serde_json::Value;

/// A target with the outputs that it is about.
type Aimed = (Target, Vec<std::ops::Range<usize>>);

/// One case of the fixture.
#[derive(Deserialize)]
struct Case {
    kind: String,
    logits: Value,
    loss: f64,
    gradient: Value,
    #[serde(default)]
    labels: Value,
    #[serde(default)]
    starts: Vec<u32>,
    #[serde(default)]
    ends: Vec<u32>,
    #[serde(default)]
    label_smoothing: f32,
    #[serde(default)]
    class_weights: Vec<f32>,
    #[serde(default)]
    r_drop: f32,
    #[serde(default)]
    teacher: Value,
    #[serde(default)]
    temperature: f32,
    #[serde(default)]
    weight: f32,
}

/// All numbers of nested lists, in order.
fn flat(value: &Value, into: &mut Vec<f64>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| flat(item, into)),
        number => into.extend(number.as_f64()),
    }
}

fn numbers(value: &Value) -> Vec<f32> {
    let mut all = Vec::new();
    flat(value, &mut all);
    all.into_iter().map(|v| v as f32).collect()
}

/// The lengths of nested lists.
fn shape(value: &Value) -> Vec<usize> {
    match value.as_array() {
        Some(items) => std::iter::once(items.len()).chain(items.first().map(shape).unwrap_or_default()).collect(),
        None => Vec::new(),
    }
}

/// Loss and gradient of a case: the mean over units.
fn run(case: &Case) -> (f64, Vec<f32>) {
    let (values, shape) = (numbers(&case.logits), shape(&case.logits));
    let labels = numbers(&case.labels);
    let options =
        LossOptions { label_smoothing: case.label_smoothing, class_weights: case.class_weights.clone(), ..LossOptions::default() };
    // Targets with their rows; the rows of an example's teacher stand in its answers.
    let (width, targets): (usize, Vec<Aimed>) = match case.kind.as_str() {
        "class" => (shape[1], labels.iter().enumerate().map(|(i, l)| (Target::Class(*l as u32), one(i, i + 1))).collect()),
        "tokens" if case.r_drop > 0.0 => {
            let of = |i: usize| Target::Tokens(labels[i * shape[1]..(i + 1) * shape[1]].iter().map(|l| *l as u32).collect());
            (shape[2], (0..shape[0]).map(|i| (of(i), one(i * shape[1], (i + 1) * shape[1]))).collect())
        }
        "tokens" => (shape[1], vec![(Target::Tokens(labels.iter().map(|l| *l as u32).collect()), one(0, shape[0]))]),
        "classes" => (shape[1], labels.chunks(shape[1]).enumerate().map(|(i, l)| (Target::Classes(l.to_vec()), one(i, i + 1))).collect()),
        "value" => (1, labels.iter().enumerate().map(|(i, v)| (Target::Value(*v), one(i, i + 1))).collect()),
        "span" => {
            let spans = case.starts.iter().zip(&case.ends).enumerate();
            let rows = |i: usize| one(i * shape[1], (i + 1) * shape[1]);
            (2, spans.map(|(i, (&start, &end))| (Target::Span { start, end }, rows(i))).collect())
        }
        "choice" => {
            let of = |i: usize| (0..shape[1]).map(|j| i * shape[1] + j..i * shape[1] + j + 1).collect();
            (1, labels.iter().enumerate().map(|(i, l)| (Target::Choice(*l as u32), of(i))).collect())
        }
        "similarity" => {
            let of = |i: usize| vec![2 * i..2 * i + 1, 2 * i + 1..2 * i + 2];
            (shape[2], labels.iter().enumerate().map(|(i, v)| (Target::Similarity(*v), of(i))).collect())
        }
        other => panic!("{other}"),
    };
    let examples: Vec<_> = targets.iter().map(|(target, rows)| (target, rows.clone())).collect();
    let mut found = loss(&options, &examples, &values, width);
    let teacher = numbers(&case.teacher);
    if !teacher.is_empty() {
        let answers: Vec<&[f32]> = teacher.chunks_exact(teacher.len() / examples.len()).collect();
        let how = Distillation { temperature: case.temperature, weight: case.weight };
        distill(how, &options, &examples, &answers, &values, width, &mut found);
    }
    if case.r_drop > 0.0 {
        agree(case.r_drop, &options, &examples, &values, width, &mut found);
    }
    let gradient = found.gradient.iter().map(|g| (f64::from(*g) / found.units) as f32).collect();
    (found.loss / found.units, gradient)
}

#[allow(clippy::single_range_in_vec_init)] // rows of one sequence are a list of one range
fn one(from: usize, to: usize) -> Vec<std::ops::Range<usize>> {
    vec![from..to]
}

fn cases() -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/losses.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// What is wrong with a case.
fn wrong(case: &Case) -> Option<String> {
    let (value, gradient) = run(case);
    let expected = numbers(&case.gradient);
    let what = format!("{} with teacher {}", case.kind, !case.teacher.is_null());
    if (value - case.loss).abs() > 1e-6 * (1.0 + case.loss.abs()) {
        return Some(format!("{what}: {value} instead of {}", case.loss));
    }
    let place = gradient.iter().zip(&expected).position(|(a, b)| (a - b).abs() > 1e-6);
    place.map(|i| format!("{what}: gradient {i} is {} instead of {}", gradient[i], expected[i]))
}

#[test]
fn losses_and_gradients_are_pytorchs() {
    let cases = cases();
    let faults: Vec<String> = cases.iter().filter_map(wrong).collect();
    assert!(cases.len() >= 44 && faults.is_empty(), "{} cases\n{}", cases.len(), faults.join("\n"));
}

#[test]
fn a_wrong_loss_is_seen() {
    for mut case in cases() {
        if case.teacher.is_null() {
            // other numbers in the place of the logits
            let mut logits = numbers(&case.logits);
            logits.iter_mut().enumerate().for_each(|(i, logit)| *logit += 0.1 * (i + 1) as f32);
            let shape = shape(&case.logits);
            case.logits = nested(&logits, &shape);
        } else {
            case.temperature *= 1.5;
            case.weight = 1.0 - 0.5 * case.weight;
        }
        assert!(wrong(&case).is_some(), "{} with teacher {}", case.kind, !case.teacher.is_null());
    }
}

/// Numbers as nested lists of these lengths.
fn nested(values: &[f32], shape: &[usize]) -> Value {
    match shape {
        [] => serde_json::json!(values[0]),
        [n, rest @ ..] => values.chunks(values.len() / n).map(|part| nested(part, rest)).collect(),
    }
}
