//! Metrics against scikit-learn (fixtures/metrics.json).

use cloze_task::metric::classification::Confusion;
use serde_json::Value;

#[test]
fn classification_equals_scikit_learn() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/metrics.json");
    let cases: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let cases = cases.as_object().unwrap();
    assert!(cases.len() >= 5);
    for (name, case) in cases {
        let list = |key: &str| -> Vec<usize> { case[key].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as usize).collect() };
        let mut confusion = Confusion::new(case["classes"].as_u64().unwrap() as usize);
        for (prediction, label) in list("predictions").into_iter().zip(list("labels")) {
            confusion.add(label, prediction);
        }
        for (key, ours) in [
            ("accuracy", confusion.accuracy()),
            ("macro_f1_present", confusion.macro_f1()),
            ("micro_f1", confusion.micro_f1()),
            ("mcc", confusion.mcc()),
        ] {
            let expected = case[key].as_f64().unwrap();
            assert!((ours - expected).abs() < 1e-12, "{name}: {key} is {ours}, scikit-learn says {expected}");
        }
        let matrix: Vec<Vec<u64>> = serde_json::from_value(case["confusion_matrix"].clone()).unwrap();
        assert_eq!(confusion.counts, matrix, "{name}");
        for c in 0..matrix.len() {
            for (key, ours) in [("precision", confusion.precision(c)), ("recall", confusion.recall(c)), ("f1", confusion.f1(c))] {
                assert!((ours - case[key][c].as_f64().unwrap()).abs() < 1e-12, "{name}: {key} of class {c}");
            }
        }
    }
}
