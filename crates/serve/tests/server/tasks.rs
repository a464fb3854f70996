//! The routes of the registry's tasks, the look inside, and the page.

use crate::world::{DEVICE, World, brisk};
use serde_json::{Value, json};

#[test]
fn every_task_answers_as_the_library_does() {
    let world = World::usual(brisk());
    let cases = [
        ("words", "fill-mask", json!({"text": "the cat [MASK] on the [MASK]"})),
        ("mood", "classify", json!({"text": "the cat", "pair": "a dog"})),
        ("names", "tag", json!({"text": "the cat sat on 猫"})),
        ("spans", "answer", json!({"question": "the cat", "context": "a dog ran to sea , the cat sat on the mat"})),
    ];
    let mut seen = 0;
    for (model, route, input) in cases {
        let task = *cloze::task::TASKS.iter().find(|t| t.route() == route).expect("the registry has it");
        let folder = world.folder.path().join(model);
        let pipeline = cloze::Pipeline::load(&DEVICE, &folder, cloze::train::run::Precision::F32, None).unwrap();
        let expected = pipeline.answer(task, std::slice::from_ref(&input), &Default::default()).unwrap().remove(0);
        let path = format!("/{route}?model={model}");
        assert_eq!(world.post(&path, &input).good(), expected, "{route}");
        assert_eq!(world.post(&path, &json!({"inputs": input})).good(), expected, "{route} with inputs");
        assert_eq!(world.post(&path, &json!({"inputs": [input, input]})).good(), json!([expected, expected]), "{route} with a list");
        let why = world.post(&format!("/{route}?model=order"), &input);
        assert!(route == "classify" || why.refused(424, "Backend").contains("order"), "{route}");
        assert!(world.get(&format!("/info?model={model}")).good()["routes"].as_array().unwrap().contains(&json!(format!("/{route}"))));
        seen += 1;
    }
    assert_eq!(seen, 4);
}

#[test]
fn parameters_are_taken_within_bounds() {
    let world = World::usual(brisk());
    let fill = |parameters: Value| {
        world.post("/fill-mask", &json!({"inputs": {"text": "the [MASK] sat on the [MASK]"}, "parameters": parameters}))
    };
    let two = fill(json!({"top_k": 2})).good();
    assert_eq!(two.as_array().unwrap().iter().map(|m| m.as_array().unwrap().len()).collect::<Vec<_>>(), [2, 2]);
    // A beam takes several rounds through the queue.
    assert!(fill(json!({"joint": true, "top_k": 3})).good().as_array().is_some_and(|a| !a.is_empty()));
    for bad in [json!({"top_k": 0}), json!({"top_k": 100_000}), json!({"beams": 1_000_000}), json!({"nonsense": 1}), json!([])] {
        fill(bad).refused(422, "Validation");
    }
    // A beam is as wide as the answers that are wanted of it.
    for bad in [json!({"joint": true, "top_k": 1000}), json!({"word_tokens": 3, "top_k": 65})] {
        assert!(fill(bad).refused(422, "Validation").contains("from 1 to 64"));
    }
    let long = format!("{}{}", "[MASK] ".repeat(50), "the cat ".repeat(100_000));
    let why = world.post("/fill-mask", &json!({"inputs": long, "parameters": {"top_k": 1000}})).refused(422, "Validation");
    assert!(why.contains("top_k"), "{why}");
    world.post("/fill-mask", &json!({"text": "no mask here"})).refused(422, "Validation");
    world.post("/fill-mask", &json!({"inputs": []})).refused(400, "Empty");
    world.post("/fill-mask", &json!({"inputs": "the [MASK]", "other": 1})).refused(422, "Validation");
    world.post("/fill-mask", &json!({"words": "the [MASK]"})).refused(422, "Validation");
    world.post("/fill-mask", &json!({"inputs": 3})).refused(422, "Validation");
    assert!(world.post("/fill-mask", &json!({"inputs": "the [MASK]"})).good()[0]["sequence"].is_string());
}

/// A name that no field has is refused, not passed over: it may be a mistaken one, or an option in the wrong place. Nothing is queued for it.
#[test]
fn unknown_fields_of_our_own_routes_are_refused_before_anything_is_computed() {
    let world = World::usual(brisk());
    let cases = [
        ("/fill-mask", json!({"text": "the [MASK]", "top_k": 2}), "top_k"),
        ("/fill-mask", json!({"inputs": {"text": "the [MASK]", "txet": "a"}}), "txet"),
        ("/fill-mask", json!({"inputs": ["the [MASK]", {"text": "the [MASK]", "textt": "a"}]}), "textt"),
        ("/classify?model=mood", json!({"text": "the cat", "text_pair": "a dog"}), "text_pair"),
        ("/tag?model=names", json!({"text": "the cat", "aggregation": "simple"}), "aggregation"),
        ("/answer?model=spans", json!({"question": "the", "context": "a cat", "doc_stride": 9}), "doc_stride"),
        ("/choose?model=choices", json!({"question": "the", "choices": ["cat", "dog"], "\u{9009}\u{9879}": []}), "\u{9009}\u{9879}"),
        ("/attention", json!({"inputs": "the cat", "heads": 3}), "heads"),
        ("/ablation", json!({"inputs": "the cat", "of": [[0, 0]]}), "of"),
        ("/ablation", json!({"inputs": {"text": "the cat", "other": 1}, "task": "masked-lm-scoring"}), "other"),
        ("/ablation?model=words", json!({"inputs": ["the cat", "a dog"]}), "pair"),
    ];
    for (path, body, name) in cases {
        let answer = world.post(path, &body);
        assert_eq!(answer.header("x-compute-tokens"), None, "{path}");
        let why = answer.refused(422, "Validation");
        assert!(why.contains(&format!("\"{name}\"")) || why.contains(&format!("`{name}`")), "{path}: {why}");
    }
    assert_eq!(world.figure("te_request_input_length_count"), 0.0, "nothing was queued");
    // The dialects of others pass over what they do not know, as their servers do.
    world.post("/embed", &json!({"inputs": "the", "anything": 1})).good();
    world.post("/v1/embeddings", &json!({"input": "the", "anything": 1})).good();
    assert_eq!(world.figure("te_request_input_length_count"), 2.0);
}

/// A server that is told not to cut texts cuts none, whatever the route.
#[test]
fn long_inputs_are_cut_or_refused_as_the_server_is_told() {
    let of = |auto_truncate: bool| World::usual(cloze_serve::Settings { auto_truncate, ..brisk() });
    let (cutting, strict) = (of(true), of(false));
    let (fits, long) = ("the ".repeat(62), "the ".repeat(63));
    for (path, field) in [("/classify?model=mood", "text"), ("/score?model=words", "text"), ("/extract?model=gist", "text")] {
        cutting.post(path, &json!({field: long})).good();
        strict.post(path, &json!({field: "the cat"})).good();
        let why = strict.post(path, &json!({field: long})).refused(422, "Validation");
        assert!(why.contains("64 tokens") && why.contains("--auto-truncate"), "{path}: {why}");
    }
    strict.post("/classify?model=mood", &json!({"text": fits})).good();
    // What is read in windows is not cut.
    strict.post("/tag?model=names", &json!({"text": long})).good();
    strict.post("/answer?model=spans", &json!({"question": "the cat", "context": long})).good();
}

#[test]
fn attention_is_shown_in_numbers() {
    let world = World::usual(brisk());
    let seen = world.post("/attention", &json!({"inputs": "the cat sat", "layer": 1, "head": 2})).good();
    assert_eq!(seen["tokens"], json!(["[CLS]", "the", "cat", "sat", "[SEP]"]));
    let rows = |v: &Value| -> Vec<Vec<f64>> { serde_json::from_value(v.clone()).unwrap() };
    let (shown, steps) = (rows(&seen["weights"][1][2]), &seen["steps"]);
    let (q, k, products, scores, weights) =
        (rows(&steps["q"]), rows(&steps["k"]), rows(&steps["products"]), rows(&steps["scores"]), rows(&steps["weights"]));
    assert_eq!((seen["weights"].as_array().unwrap().len(), seen["weights"][0].as_array().unwrap().len(), q[0].len()), (2, 4, 8));
    for i in 0..5 {
        let sum: f64 = scores[i].iter().map(|s| s.exp()).sum();
        for j in 0..5 {
            let product: f64 = q[i].iter().zip(&k[j]).map(|(a, b)| a * b).sum();
            assert!((product - products[i][j]).abs() < 1e-3);
            assert!((scores[i][j] - products[i][j] / 8f64.sqrt()).abs() < 1e-4);
            assert!((weights[i][j] - scores[i][j].exp() / sum).abs() < 1e-4 && (shown[i][j] - weights[i][j]).abs() < 1e-4);
        }
    }
    let pair = world.post("/attention", &json!({"inputs": ["the cat", "a dog"]})).good();
    assert_eq!(pair["tokens"].as_array().unwrap().len(), 7);
    world.post("/attention", &json!({"inputs": "the", "layer": 9})).refused(422, "Validation");
    world.post("/attention", &json!({"inputs": ""})).refused(400, "Empty");
    world.post("/attention", &json!({"inputs": "the ".repeat(99)})).refused(422, "Validation");
}

#[test]
fn heads_are_switched_off_and_answers_change() {
    let world = World::usual(brisk());
    let whole = world.post("/attention", &json!({"inputs": "the cat sat"})).good();
    let without = world.post("/attention", &json!({"inputs": "the cat sat", "ablate": [[0, 1]]})).good();
    assert_eq!(whole["weights"][0], without["weights"][0], "the layer below sees the same");
    assert_ne!(whole["weights"][1], without["weights"][1], "the layer above does not");
    let masked = json!({"inputs": "the [MASK] sat", "ablate": [[0, 1], [0, 1], [1, 3]], "each": true});
    let found = world.post("/ablation?model=words", &masked).good();
    assert_eq!((&found["task"], &found["measure"], &found["off"]), (&json!("fill-mask"), &json!("loss"), &json!([[0, 1], [1, 3]])));
    assert_eq!((found["each"].as_array().unwrap().len(), found["each"][1].as_array().unwrap().len()), (2, 4));
    assert!(found["value"].is_number() && found["value"] != found["whole"] && found["answer"] != found["answer_without"]);
    assert_eq!(found["answer"], world.post("/fill-mask?model=words", &json!({"text": "the [MASK] sat"})).good());
    for (model, inputs, task, measure) in [
        ("words", json!("the cat"), "masked-lm-scoring", "loss"),
        ("mood", json!(["the cat", "a dog"]), "text-classification", "probability"),
        ("order", json!("the cat"), "text-classification", "number"),
        ("names", json!("the cat"), "token-classification", "probability"),
        ("spans", json!("the cat"), "sentence-embedding", "cosine"),
        ("spans", json!({"question": "the", "context": "a cat sat"}), "question-answering", "probability"),
    ] {
        let mut body = json!({"inputs": inputs, "ablate": [[1, 0]]});
        if task == "question-answering" {
            body["task"] = json!(task);
        }
        let found = world.post(&format!("/ablation?model={model}"), &body).good();
        assert_eq!((&found["task"], &found["measure"], &found["each"]), (&json!(task), &json!(measure), &json!([])), "{model}");
        assert!(found["value"].is_number());
    }
    let why = world.post("/ablation?model=words", &json!({"inputs": "the", "ablate": [[2, 0]]})).refused(422, "Validation");
    assert!(why.contains("2.0") && why.contains("2 layers of 4 heads"), "{why}");
    world.post("/attention", &json!({"inputs": "the", "ablate": [[0, 4]]})).refused(422, "Validation");
    world.post("/ablation", &json!({"inputs": ""})).refused(400, "Empty");
    world.post("/ablation", &json!({"inputs": "the", "task": "dance"})).refused(422, "Validation");
    world.post("/ablation?model=mood", &json!({"inputs": "the", "task": "fill-mask"})).refused(424, "Backend");
}

#[test]
fn the_page_and_the_curves_of_runs() {
    let runs = tempfile::tempdir().unwrap();
    std::fs::create_dir(runs.path().join("first")).unwrap();
    std::fs::create_dir(runs.path().join("no-log")).unwrap();
    std::fs::write(runs.path().join("first/log.jsonl"), "{\"event\":\"step\",\"step\":1,\"loss\":9.5}\n").unwrap();
    let settings = cloze_serve::Settings { runs: Some(runs.path().to_owned()), ..brisk() };
    let world = World::of(settings, &[("only", Default::default())]);
    let page = world.get("/");
    assert!(page.status == 200 && page.header("content-security-policy").is_some() && page.text().contains("</html>"));
    assert_eq!(world.get("/runs").good(), json!([{"name": "first"}]));
    let part = world.get("/runs/log?name=first&from=0").good();
    assert_eq!(part["events"][0]["loss"], 9.5);
    for outside in ["..", "../first", "no-log", "first/../first", "%2e%2e", "/etc", "first%00"] {
        world.get(&format!("/runs/log?name={outside}")).refused(422, "Validation");
    }
    world.get("/runs/log").refused(422, "Validation");
    let world = World::of(cloze_serve::Settings { playground: false, ..brisk() }, &[("only", Default::default())]);
    assert_eq!((world.get("/").status, world.get("/runs").status), (405, 404));
}
