//! What operators rely on: health, figures, keys, the description of the routes, reloading.

use crate::world::{World, brisk, request, write_model};
use cloze::model::Heads;
use serde_json::{Value, json};

#[test]
fn info_health_and_metrics() {
    let world = World::usual(brisk());
    let info = world.get("/info").good();
    let keys = [
        "model_id",
        "model_sha",
        "model_dtype",
        "model_type",
        "max_concurrent_requests",
        "max_input_length",
        "max_batch_tokens",
        "max_client_batch_size",
        "auto_truncate",
        "version",
    ];
    assert!(keys.iter().all(|key| info.get(key).is_some()), "{info}");
    assert_eq!((&info["model_type"], &info["max_input_length"]), (&json!({"embedding": {"pooling": "mean"}}), &json!(64)));
    let mood = world.get("/info?model=mood").good();
    assert_eq!(mood["model_type"]["classifier"]["id2label"], json!({"0": "bad", "1": "good", "2": "mixed"}));
    assert!(world.get("/info?model=order").good()["model_type"].get("reranker").is_some());
    for path in ["/health", "/health/live", "/health/ready"] {
        assert_eq!(world.get(path).status, 200, "{path}");
    }
    world.post("/embed", &json!({"inputs": ["the cat", "a dog"]})).good();
    world.post("/embed", &json!({"inputs": "the cat"})).good();
    world.post("/embed", &json!({"inputs": []})).refused(400, "Empty");
    assert_eq!(world.figure("te_request_count{method=\"single\"}"), 1.0);
    assert_eq!(world.figure("te_request_success{method=\"batch\"}"), 1.0);
    assert_eq!(world.figure("te_request_failure{err=\"empty\"}"), 1.0);
    assert_eq!(world.figure("te_request_duration_count"), 2.0);
    assert_eq!(world.figure("te_request_input_length_sum"), 12.0);
    assert_eq!(world.figure("te_batch_next_tokens_sum"), 12.0);
    assert_eq!(world.figure("te_queue_size"), 0.0);
    let text = world.get("/metrics").text();
    for name in ["te_request_tokenization_duration", "te_request_queue_duration", "te_request_inference_duration", "te_batch_next_size"] {
        assert!(text.contains(&format!("# TYPE {name} histogram")), "{name} is missing in {text}");
    }
}

#[test]
fn every_route_wants_the_key() {
    let settings = cloze_serve::Settings { api_keys: vec!["open sesame".into(), "second".into()], ..brisk() };
    let world = World::of(settings, &[("only", Heads::default())]);
    let api = request(world.address, "GET", "/openapi.json", &[("authorization", "Bearer second")], None).good();
    let mut routes: Vec<(String, String)> = Vec::new();
    for (path, methods) in api["paths"].as_object().unwrap() {
        routes.extend(methods.as_object().unwrap().keys().map(|m| (m.to_uppercase(), path.replace("{name}", "only"))));
    }
    assert!(routes.len() > 15, "{routes:?}");
    routes.extend(
        [("GET", "/"), ("GET", "/nowhere"), ("OPTIONS", "/embed"), ("DELETE", "/embed"), ("HEAD", "/health")]
            .map(|(m, p)| (m.to_owned(), p.to_owned())),
    );
    for (method, path) in &routes {
        let spellings = [
            path.clone(),
            format!("/{path}"),
            format!("/.{path}"),
            path.replacen('/', "/%2e%2e/", 1),
            format!("{path}?a=//b"),
            path.replacen('e', "%65", 1),
            format!("http://test{path}"),
            format!("{path}/"),
        ];
        for spelling in spellings {
            let body = (method == "POST").then_some(&b"{\"inputs\": \"the\"}"[..]);
            let send = |headers: &[(&str, &str)]| request(world.address, method, &spelling, headers, body).status;
            assert_eq!(send(&[]), 401, "{method} {spelling} without a key");
            for wrong in
                ["Bearer open sesam", "Bearer open sesame ", "Bearer", "open sesame", "Basic b3Blbg==", "Bearer second, Bearer wrong"]
            {
                if wrong.trim_end() != "Bearer open sesame" {
                    assert_eq!(send(&[("authorization", wrong)]), 401, "{method} {spelling} with {wrong:?}");
                }
            }
            let two = [("authorization", "Bearer wrong"), ("authorization", "Bearer second")];
            assert_eq!(send(&two), 401, "two headers are none");
            assert_ne!(send(&[("authorization", "Bearer open sesame")]), 401, "{method} {spelling} with the key");
        }
    }
    let refused = request(world.address, "POST", "/v1/embeddings", &[], Some(b"{}"));
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (401, &json!("invalid_api_key")));
    assert!(refused.header("www-authenticate").is_some());
}

#[test]
fn the_description_lists_routes_that_answer_their_samples() {
    let world = World::usual(brisk());
    let api = world.get("/openapi.json").good();
    let schemas = api["components"]["schemas"].as_object().unwrap();
    let mut referred = Vec::new();
    references(&api, &mut referred);
    assert!(referred.len() > 20, "{referred:?}");
    for name in &referred {
        assert!(schemas.contains_key(name.trim_start_matches("#/components/schemas/")), "{name} is not described");
    }
    for (path, methods) in api["paths"].as_object().unwrap() {
        let Some(body) = methods.get("post").and_then(|o| o.get("requestBody")) else { continue };
        let body = &body["content"]["application/json"];
        let schema = &schemas[body["schema"]["$ref"].as_str().unwrap().rsplit('/').next().unwrap()];
        for key in body["example"].as_object().unwrap().keys() {
            assert!(schema["properties"].get(key).is_some(), "{path}: {key} is not described");
        }
        let answers: Vec<u16> = ["words", "mood", "order", "names", "gist", "spans", "choices", "logic"]
            .iter()
            .map(|m| world.post(&format!("{path}?model={m}"), &body["example"]).status)
            .collect();
        assert!(answers.contains(&200) && answers.iter().all(|s| [200, 422, 424].contains(s)), "{path}: {answers:?}");
    }
    let page = world.get("/docs");
    assert!(page.status == 200 && page.header("content-type").unwrap().starts_with("text/html"));
    assert!(!page.text().contains("http://") && !page.text().contains("https://"), "the page loads nothing from elsewhere");
}

fn references(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(name) if key == "$ref" => into.push(name.clone()),
                    _ => references(value, into),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|v| references(v, into)),
        _ => (),
    }
}

#[test]
fn a_model_is_loaded_anew_without_a_lost_request() {
    let world = World::usual(brisk());
    let before = world.post("/embed", &json!({"inputs": "the cat"})).good();
    let folder = world.folder.path().join("words");
    let stop = std::sync::atomic::AtomicBool::new(false);
    let answered = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut answered = 0;
                    while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                        world.post("/embed", &json!({"inputs": "the cat"})).good();
                        answered += 1;
                    }
                    answered
                })
            })
            .collect();
        for seed in [7, 8] {
            write_model(&folder, Heads::pretraining(false), seed);
            assert_eq!(world.post("/models/words/reload", &json!({})).good()["model"], "words");
        }
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
        clients.into_iter().map(|c| c.join().unwrap()).sum::<usize>()
    });
    let after = world.post("/embed", &json!({"inputs": "the cat"})).good();
    assert!(after != before && answered > 0);
    std::fs::remove_file(folder.join("model.safetensors")).unwrap();
    let why = world.post("/models/words/reload", &json!({})).refused(424, "Backend");
    assert!(why.contains("still answers"), "{why}");
    assert_eq!(world.post("/embed", &json!({"inputs": "the cat"})).good(), after, "the old model still answers");
    world.post("/models/nobody/reload", &json!({})).refused(404, "Validation");
}

#[test]
fn models_are_loaded_anew_one_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let started = std::sync::atomic::AtomicBool::new(false);
    let loader = move |path: &std::path::Path| {
        if started.swap(true, std::sync::atomic::Ordering::SeqCst) {
            std::thread::sleep(std::time::Duration::from_millis(1500));
        }
        crate::world::load(path)
    };
    let models = cloze_serve::Models::load(crate::world::folders(folder.path(), &[("only", Heads::default())]), Box::new(loader)).unwrap();
    let world = World::serving(brisk(), folder, models);
    let mut statuses = std::thread::scope(|scope| {
        let reloads: Vec<_> = (0..3).map(|_| scope.spawn(|| world.post("/models/only/reload", &json!({})).status)).collect();
        reloads.into_iter().map(|r| r.join().unwrap()).collect::<Vec<_>>()
    });
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 429, 429]);
    world.post("/models/only/reload", &json!({})).good();
}

#[test]
fn request_ids_and_origins() {
    let world = World::of(brisk(), &[("only", Heads::default())]);
    let id = |value: &str| {
        request(world.address, "GET", "/health/live", &[("x-request-id", value)], None).header("x-request-id").map(str::to_owned)
    };
    assert_eq!(id("abc-123").as_deref(), Some("abc-123"));
    assert_ne!(id("has space").as_deref(), Some("has space"));
    assert_ne!(id(&"x".repeat(200)).as_deref().map(str::len), Some(200));
    let origin = [("origin", "https://page.example")];
    let cors = |world: &World| {
        request(world.address, "GET", "/health/live", &origin, None).header("access-control-allow-origin").map(str::to_owned)
    };
    assert_eq!(cors(&world), None, "off by default");
    let settings = cloze_serve::Settings { cors_allow_origin: vec!["https://page.example".into()], ..brisk() };
    let world = World::of(settings, &[("only", Heads::default())]);
    assert_eq!(cors(&world).as_deref(), Some("https://page.example"));
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let models = || {
        cloze_serve::Models::load(crate::world::folders(folder.path(), &[("m", Heads::default())]), Box::new(crate::world::load)).unwrap()
    };
    let with = |settings| cloze_serve::App::new(settings, models()).err().expect("refused").to_string();
    assert!(with(cloze_serve::Settings { max_batch_tokens: 0, ..brisk() }).contains("--max-batch-tokens"));
    assert!(with(cloze_serve::Settings { api_keys: vec![" ".into()], ..brisk() }).contains("--api-key"));
    let load = |folders| cloze_serve::Models::load(folders, Box::new(crate::world::load)).err().expect("refused").to_string();
    assert!(load(vec![]).contains("--model"));
    assert!(load(vec![("m".into(), folder.path().join("m")), ("m".into(), folder.path().join("m"))]).contains("two models"));
    assert!(load(vec![("gone".into(), folder.path().join("gone"))]).contains("gone"));
}
