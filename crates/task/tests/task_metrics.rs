//! Metrics of tasks against the reference implementations (fixtures/task_metrics.json, made by task_metrics.py).

use cloze_task::metric::answers::{cmrc, squad};
use cloze_task::metric::classification::multi_label;
use cloze_task::metric::correlation::{pearson, spearman};
use cloze_task::metric::entities::{Entities, chunks};
use cloze_task::metric::ranking::{average_precision, figures, ndcg, of_queries, order, recall, reciprocal_rank};
use cloze_task::metric::rouge::{rouge_l, rouge_n, words};
use serde::de::DeserializeOwned;
use serde_json::Value;

fn golden(name: &str) -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/task_metrics.json");
    let all: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    match &all[name] {
        Value::Array(cases) => cases.clone(),
        single => vec![single.clone()],
    }
}

fn get<T: DeserializeOwned>(case: &Value, key: &str) -> T {
    serde_json::from_value(case[key].clone()).unwrap()
}

#[track_caller]
fn near(what: &str, ours: f64, case: &Value, key: &str) {
    let expected: f64 = get(case, key);
    assert!((ours - expected).abs() < 1e-9, "{what}: {key} is {ours}, the reference says {expected}: {case}");
}

#[test]
fn correlations_equal_scipy() {
    for case in golden("correlation") {
        let (a, b): (Vec<f64>, Vec<f64>) = (get(&case, "a"), get(&case, "b"));
        near("correlation", pearson(&a, &b), &case, "pearson");
        near("correlation", spearman(&a, &b), &case, "spearman");
    }
    assert_eq!(pearson(&[1.0, 1.0], &[0.0, 3.0]), 0.0);
}

#[test]
fn entities_equal_seqeval() {
    let cases = golden("entities");
    assert!(cases.len() >= 18);
    for case in cases {
        let (gold, found): (Vec<Vec<String>>, Vec<Vec<String>>) = (get(&case, "gold"), get(&case, "found"));
        let expected: Vec<Vec<(String, usize, usize)>> = get(&case, "chunks");
        let mut entities = Entities::default();
        for ((g, f), e) in gold.iter().zip(&found).zip(expected) {
            assert_eq!(chunks(g), e, "{g:?}");
            entities.add(&chunks(g), &chunks(f));
        }
        let figures = entities.figures();
        for key in ["precision", "recall", "f1", "macro_f1"] {
            near("entities", figures[key], &case, key);
        }
    }
}

#[test]
fn answers_equal_the_squad_and_cmrc_scripts() {
    for (name, score) in [("squad", squad as fn(&str, &str) -> (f64, f64)), ("cmrc", cmrc)] {
        for case in golden(name) {
            let (gold, found): (String, String) = (get(&case, "gold"), get(&case, "found"));
            let (exact, f1) = score(&gold, &found);
            near(name, exact, &case, "exact");
            near(name, f1, &case, "f1");
        }
    }
}

#[test]
fn several_labels_equal_scikit_learn() {
    let case = &golden("multi_label")[0];
    let rows: Vec<(Vec<bool>, Vec<bool>)> = get::<Vec<_>>(case, "gold").into_iter().zip(get::<Vec<_>>(case, "found")).collect();
    let figures = multi_label(&rows);
    for key in ["accuracy", "micro_f1", "macro_f1"] {
        near("multi-label", figures[key], case, key);
    }
}

#[test]
fn rankings_equal_scikit_learn() {
    for case in golden("ranking") {
        let (gains, scores): (Vec<f64>, Vec<f32>) = (get(&case, "gains"), get(&case, "scores"));
        let ranked: Vec<f64> = order(&scores).into_iter().map(|i| gains[i]).collect();
        let hits: Vec<bool> = ranked.iter().map(|g| *g > 0.0).collect();
        near("ranking", ndcg(&ranked, 10), &case, "ndcg@10");
        near("ranking", average_precision(&hits, hits.iter().filter(|h| **h).count()), &case, "map");
    }
    let hits = [false, false, true, true];
    assert_eq!((reciprocal_rank(&hits, 10), reciprocal_rank(&hits, 2), recall(&hits, 2, 3)), (1.0 / 3.0, 0.0, 0.5));
}

#[test]
fn rankings_made_one_by_one_give_the_same_figures() {
    let hits = |q: usize| (0..50).map(|c: usize| (c * 7 + q * 3).is_multiple_of(11)).collect::<Vec<bool>>();
    for count in [0, 1, 31, 200] {
        assert_eq!(of_queries(count, hits), figures(&(0..count).map(hits).collect::<Vec<_>>()));
    }
}

#[test]
fn rouge_is_its_formula() {
    let (reference, found) = (words("The cat sat on the mat."), words("the cat lay on a mat"));
    // 4 of 6 words each; of five pairs one; the longest common subsequence: the cat on mat
    assert!((rouge_n(&reference, &found, 1) - 4.0 / 6.0).abs() < 1e-12);
    assert!((rouge_n(&reference, &found, 2) - 1.0 / 5.0).abs() < 1e-12);
    assert!((rouge_l(&reference, &found) - 4.0 / 6.0).abs() < 1e-12);
    assert_eq!(words("用GPU训练"), ["用", "gpu", "训", "练"]);
}
