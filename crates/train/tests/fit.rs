//! The loop of a run on a course whose figures are told beforehand: what is evaluated and saved when, and which weights are the result.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use cloze_cpu::{Cpu, CpuOptions};
use cloze_model::{Blueprint, Heads, Input, Model};
use cloze_tensor::{Backend, Dtype, Tape, Weights};
use cloze_text::Batch;
use cloze_train::TrainError;
use cloze_train::checkpoint::latest_complete;
use cloze_train::course::{Course, Cursor, Found, Losses, Pass};
use cloze_train::files::FileError;
use cloze_train::fit::{Outcome, Plan, fit};
use cloze_train::observer::{Control, Event, Observer, Observers};
use cloze_train::optimizer::OptimizerConfig;
use cloze_train::pretrain::MaskedLmLosses;
use cloze_train::schedule::Schedule;
use cloze_train::step::Trainer;

/// The same batch at each step; `scores[n]` is the figure after `n` steps.
struct Told {
    scores: &'static [f64],
    steps: u64,
}

impl Losses for Told {
    fn losses<'a, B: Backend>(&self, model: &Model, tape: &mut Tape<'a, B>, input: &Input<B>, batch: &Batch, pass: Pass) -> Found<B> {
        MaskedLmLosses.losses(model, tape, input, batch, pass)
    }
}

impl Course for Told {
    fn next(&mut self, _: f64) -> Result<Vec<Batch>, TrainError> {
        self.steps += 1;
        let mut batch = Batch { masked_rows: vec![1, 4], masked_labels: vec![5, 6], ..Batch::default() };
        batch.push(&[1, 2, 3], &[0, 1, 1]);
        batch.push(&[4, 2, 7], &[0, 0, 1]);
        Ok(vec![batch])
    }

    fn cursor(&self) -> Cursor {
        Cursor { samples: self.steps, stretch: None }
    }

    fn seek(&mut self, cursor: Cursor) {
        self.steps = cursor.samples;
    }

    fn epochs(&self) -> f64 {
        self.steps as f64
    }

    fn evaluate<B: Backend>(&self, _: &B, _: &Model, _: &Weights<B>, _: Dtype) -> Result<BTreeMap<String, f64>, TrainError> {
        Ok([("score".to_owned(), self.scores.get(self.steps as usize).copied().unwrap_or(0.0))].into())
    }

    fn goal(&self) -> (&str, bool) {
        ("score", true)
    }
}

fn plan(budget: &str, evaluate: &str, checkpoint: &str, keep_best: bool) -> Plan {
    Plan {
        title: "test".into(),
        kind: "test",
        budget: budget.parse().unwrap(),
        schedule: Schedule::default(),
        lr: 1e-2,
        evaluate: evaluate.parse().unwrap(),
        checkpoint: checkpoint.parse().unwrap(),
        keep: 1,
        patience: 0,
        keep_best,
        device: "test".into(),
        peak_flops: None,
        config: serde_json::Value::Null,
    }
}

/// The steps at which a run was evaluated, and those at which it was saved.
#[derive(Default)]
struct Milestones(Mutex<[Vec<u64>; 2]>);

struct Watch(Arc<Milestones>);

impl Observer for Watch {
    fn event(&mut self, event: &Event) -> Result<(), FileError> {
        let mut seen = self.0.0.lock().unwrap();
        match event {
            Event::Eval(eval) => seen[0].push(eval.step),
            Event::Checkpoint(saved) => seen[1].push(saved.step),
            _ => {}
        }
        Ok(())
    }
}

fn run(folder: &Path, plan: &Plan, resume: bool, scores: &'static [f64]) -> (Outcome, [Vec<u64>; 2]) {
    let cpu = Cpu::new(CpuOptions { threads: Some(1), level: None });
    let model = Model::new("bert", Blueprint::bert(8, 1, 16, 1, 16), Heads::pretraining(false));
    let values = model.table().init(1);
    let mut trainer = Trainer::new(&cpu, model, &values, OptimizerConfig::default(), Dtype::F32, 1, false);
    let (mut observers, milestones) = (Observers::new(), Arc::new(Milestones::default()));
    observers.add(Watch(Arc::clone(&milestones)));
    let mut course = Told { scores, steps: 0 };
    let outcome = fit(&mut trainer, &mut course, plan, folder, resume, &mut observers, &Control::default()).unwrap();
    let seen = std::mem::take(&mut *milestones.0.lock().unwrap());
    (outcome, seen)
}

#[test]
fn a_larger_budget_has_its_own_shares() {
    let folder = tempfile::tempdir().unwrap();
    let plan = |budget| plan(budget, "20%", "25%", false);
    let (_, seen) = run(folder.path(), &plan("8 steps"), false, &[]);
    assert_eq!(seen, [vec![2, 4, 5, 7, 8], vec![2, 4, 6, 8]]);
    let (_, seen) = run(folder.path(), &plan("20 steps"), true, &[]);
    assert_eq!(seen, [vec![12, 16, 20], vec![10, 15, 20]]);
}

#[test]
fn a_run_is_saved_at_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let (_, seen) = run(folder.path(), &plan("4 steps", "2 steps", "3 steps", false), false, &[]);
    assert_eq!(seen, [vec![2, 4], vec![3, 4]]);
    assert_eq!(latest_complete(&folder.path().join("checkpoints")).unwrap().checkpoint.unwrap().step(), 4);
}

#[test]
fn the_evaluation_at_the_end_may_be_the_best() {
    let folder = tempfile::tempdir().unwrap();
    let scores = &[0.0, 0.0, 0.5, 0.9, 0.1, 0.1, 0.1];
    let plan = |budget| plan(budget, "2 steps", "2 steps", true);
    let (first, seen) = run(folder.path(), &plan("3 steps"), false, scores);
    assert_eq!(seen, [vec![2, 3], vec![2, 3]]);
    assert_eq!(first.metrics["score"], 0.9);
    assert_eq!(std::fs::read_to_string(folder.path().join("checkpoints/best.json")).unwrap(), r#"{"step":3}"#);
    // what comes after is worse: the checkpoint of the third step must still be there
    let (second, seen) = run(folder.path(), &plan("6 steps"), true, scores);
    assert_eq!(seen, [vec![4, 6], vec![4, 6]]);
    assert_eq!(second.metrics["score"], 0.9);
    assert!(second.values == first.values);
}

/// Whatever its milestones are, and whether its budget or its patience is at its end: what was found stays, and nothing is done.
#[test]
fn a_run_that_is_over_does_nothing_more() {
    let scores = &[0.0, 0.1, 0.2, 0.3, 0.2, 0.2, 0.2];
    for (evaluate, checkpoint, keep_best, patience, last) in
        [("2 steps", "2 steps", true, 0, 6), ("4 steps", "5 steps", false, 0, 6), ("1 steps", "1 steps", true, 2, 5)]
    {
        let folder = tempfile::tempdir().unwrap();
        let plan = Plan { patience, ..plan("6 steps", evaluate, checkpoint, keep_best) };
        let (first, seen) = run(folder.path(), &plan, false, scores);
        assert_eq!((first.spent.steps, *seen[0].last().unwrap(), *seen[1].last().unwrap()), (last, last, last));
        for _ in 0..2 {
            let (again, seen) = run(folder.path(), &plan, true, scores);
            assert!(seen.iter().all(Vec::is_empty), "{evaluate}: {seen:?}");
            assert_eq!((again.reason, again.spent.steps, &again.metrics), (first.reason, last, &first.metrics));
            assert!(again.values == first.values);
        }
        // With more to spend, or more patience, it goes on.
        let larger = Plan { patience: 0, ..self::plan("8 steps", evaluate, checkpoint, keep_best) };
        let (_, seen) = run(folder.path(), &larger, true, scores);
        assert_eq!(seen[0].last(), Some(&8));
    }
}

/// A first figure that is no number is worse than all that follow.
#[test]
fn what_is_no_number_is_never_the_best() {
    let folder = tempfile::tempdir().unwrap();
    let scores = &[0.0, f64::NAN, 0.5, 0.4, 0.3];
    let (first, _) = run(folder.path(), &plan("1 steps", "1 steps", "1 steps", true), false, scores);
    assert!(first.metrics["score"].is_nan());
    let (second, _) = run(folder.path(), &plan("4 steps", "1 steps", "1 steps", true), true, scores);
    assert_eq!(second.metrics["score"], 0.5);
}

/// Killed between a checkpoint and its mark, a run still knows its best.
#[test]
fn the_best_is_marked_when_a_run_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let scores = &[0.0, 0.0, 0.5, 0.0, 0.9, 0.0, 0.1, 0.0, 0.1];
    let plan = |budget| plan(budget, "2 steps", "2 steps", true);
    let (first, _) = run(folder.path(), &plan("4 steps"), false, scores);
    let mark = folder.path().join("checkpoints/best.json");
    assert_eq!(std::fs::read_to_string(&mark).unwrap(), r#"{"step":4}"#);
    std::fs::write(&mark, r#"{"step":2}"#).unwrap();
    let (second, _) = run(folder.path(), &plan("8 steps"), true, scores);
    assert_eq!(second.metrics["score"], 0.9);
    assert!(second.values == first.values);
}
