//! What existing clients send, and what they must get: text-embeddings-inference's routes and OpenAI's.

use crate::world::{DEVICE, HIDDEN, LONGEST, World, brisk, folders, load};
use serde_json::{Value, json};

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number") as f32).collect()
}

fn length(vector: &[f32]) -> f32 {
    vector.iter().map(|x| x * x).sum::<f32>().sqrt()
}

#[test]
fn embeddings_have_their_shape_and_length() {
    let world = World::usual(brisk());
    let answer = world.post("/embed", &json!({"inputs": ["the cat sat", "猫坐在垫子上"]}));
    let vectors: Vec<Vec<f32>> = answer.good().as_array().unwrap().iter().map(floats).collect();
    assert_eq!(vectors.iter().map(Vec::len).collect::<Vec<_>>(), [HIDDEN, HIDDEN]);
    assert!(vectors.iter().all(|v| (length(v) - 1.0).abs() < 1e-5) && vectors[0] != vectors[1]);
    let expected =
        ["x-compute-type", "x-compute-time", "x-total-time", "x-tokenization-time", "x-queue-time", "x-inference-time", "x-request-id"];
    assert!(expected.iter().all(|name| answer.header(name).is_some()), "{:?}", answer.headers);
    assert_eq!((answer.header("x-compute-characters"), answer.header("x-compute-tokens")), (Some("17"), Some("13")));
    assert_eq!(answer.header("content-type"), Some("application/json"));

    let plain = floats(&world.post("/embed", &json!({"inputs": "the cat sat", "normalize": false})).good()[0]);
    assert!((length(&plain) - 1.0).abs() > 1e-3, "not normalised");
    let cosine: f32 = plain.iter().zip(&vectors[0]).map(|(a, b)| a * b).sum::<f32>() / length(&plain);
    assert!((cosine - 1.0).abs() < 1e-5, "the same direction");
    let short = floats(&world.post("/embed", &json!({"inputs": "the cat sat", "dimensions": 8})).good()[0]);
    assert!(short.len() == 8 && (length(&short) - 1.0).abs() < 1e-5, "cut, then brought to length 1");

    let all = world.post("/embed_all", &json!({"inputs": "the cat sat"})).good();
    let tokens: Vec<Vec<f32>> = all[0].as_array().unwrap().iter().map(floats).collect();
    assert_eq!(tokens.len(), 5, "[CLS] and [SEP] included");
    let mean: Vec<f32> = (0..HIDDEN).map(|c| tokens.iter().map(|t| t[c]).sum::<f32>() / 5.0).collect();
    assert!(mean.iter().zip(&plain).all(|(a, b)| (a - b).abs() < 1e-5), "the embedding is the mean over tokens");

    let ids: Vec<u32> = world.post("/tokenize", &json!({"inputs": "the cat sat"})).good()[0]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["id"].as_u64().unwrap() as u32)
        .collect();
    assert_eq!(floats(&world.post("/embed", &json!({"inputs": ids})).good()[0]), vectors[0], "token ids instead of a text");
    // What is not in the vocabulary, and a mask that stands in a text, are tokens as all others.
    for text in ["the 🦄 cat", "the [MASK] sat", &"the 🦄 ".repeat(LONGEST)] {
        let tokens = world.post("/tokenize", &json!({"inputs": text})).good();
        let ids: Vec<&Value> = tokens[0].as_array().unwrap().iter().map(|t| &t["id"]).collect();
        let of = |inputs: Value| world.post("/embed", &json!({"inputs": inputs})).good();
        assert_eq!(of(json!(ids)), of(json!(text)), "{text}");
    }
    let bare = world.post("/embed_all", &json!({"inputs": [5, 6]})).good();
    assert_eq!(bare[0].as_array().unwrap().len(), 2, "nothing is put around ids");
    assert!(world.post("/embed", &json!({"inputs": [5, 9999]})).refused(422, "Validation").contains("9999"));

    let near = world
        .post("/similarity", &json!({"inputs": {"source_sentence": "the cat sat", "sentences": ["the cat sat", "a dog ran to sea"]}}))
        .good();
    let near = floats(&near);
    assert!((near[0] - 1.0).abs() < 1e-5 && near[1] < 0.999, "{near:?}");
}

#[test]
fn an_answer_has_the_same_bits_whatever_its_neighbours() {
    let world = World::usual(brisk());
    let texts: Vec<String> =
        (1..=16).map(|n| ["the", "cat", "sat", "on", "猫"].iter().cycle().take(3 * n).copied().collect::<Vec<_>>().join(" ")).collect();
    let alone: Vec<Value> = texts.iter().map(|t| world.post("/embed", &json!({"inputs": t})).good()[0].clone()).collect();
    let together = world.post("/embed", &json!({"inputs": texts})).good();
    assert_eq!(together, json!(alone));
    let labels: Vec<Value> = texts.iter().map(|t| world.post("/predict?model=mood", &json!({"inputs": t})).good()).collect();
    let batch: Vec<[&String; 1]> = texts.iter().map(|t| [t]).collect();
    assert_eq!(world.post("/predict?model=mood", &json!({"inputs": batch})).good(), json!(labels));
    // Many clients at once share batches with each other and with other tasks.
    std::thread::scope(|scope| {
        for (text, alone) in texts.iter().zip(&alone) {
            let world = &world;
            scope.spawn(move || {
                for _ in 0..5 {
                    assert_eq!(world.post("/embed", &json!({"inputs": text})).good()[0], *alone);
                    world.post("/embed_all", &json!({"inputs": text})).good();
                }
            });
        }
    });
}

/// `/similarity` and the task of that name put the same before texts: the default prompt on both sides, as sentence-transformers does.
#[test]
fn both_doors_compare_alike() {
    let folder = tempfile::tempdir().unwrap();
    let models = folders(folder.path(), &[("near", Default::default())]);
    let path = models[0].1.clone();
    let prompts = cloze::task::Settings {
        task: Some("sentence-embedding".into()),
        default_prefix: "sea ran ".into(),
        query_prefix: "the dog ".into(),
        passage_prefix: "on mat ".into(),
        ..Default::default()
    };
    prompts.write(&path, HIDDEN).unwrap();
    let world = World::serving(brisk(), folder, cloze_serve::Models::load(models, Box::new(load)).unwrap());
    let input = json!({"source_sentence": "the cat sat", "sentences": ["a dog ran", "猫 坐"]});
    let pipeline = cloze::Pipeline::load(&DEVICE, &path, cloze::train::run::Precision::F32, None).unwrap();
    let task = cloze::task::require("sentence-similarity").unwrap();
    let expected = floats(&pipeline.answer(task, std::slice::from_ref(&input), &Default::default()).unwrap()[0]);
    let served = |body: Value| floats(&world.post("/similarity", &body).good());
    let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
    let found = served(json!({ "inputs": input }));
    assert!(found.len() == 2 && near(&found, &expected), "{found:?} and {expected:?}");
    let asked = served(json!({"inputs": input, "parameters": {"prompt_name": "query"}}));
    assert!(!near(&asked, &expected), "a prompt that is named stands before all texts instead");
}

/// Models have prompts for other uses, too, and empty ones that say that nothing stands before a text.
#[test]
fn prompts_of_any_name_are_known() {
    let folder = tempfile::tempdir().unwrap();
    let models = folders(folder.path(), &[("near", Default::default())]);
    let prompts = [("clustering", "sea ran "), ("query", "")].map(|(name, text)| (name.to_owned(), text.to_owned()));
    let settings = cloze::task::Settings { task: Some("sentence-embedding".into()), prompts: prompts.into(), ..Default::default() };
    settings.write(&models[0].1, HIDDEN).unwrap();
    // What stands in sentence-transformers' own file is enough.
    std::fs::remove_file(models[0].1.join(cloze::task::context::SETTINGS_FILE)).unwrap();
    let world = World::serving(brisk(), folder, cloze_serve::Models::load(models, Box::new(load)).unwrap());
    let embed = |body: Value| floats(&world.post("/embed", &body).good()[0]);
    let plain = embed(json!({"inputs": "the cat"}));
    assert_eq!(embed(json!({"inputs": "the cat", "prompt_name": "query"})), plain);
    assert_eq!(embed(json!({"inputs": "the cat", "prompt_name": "clustering"})), embed(json!({"inputs": "sea ran the cat"})));
    assert_ne!(embed(json!({"inputs": "the cat", "prompt_name": "clustering"})), plain);
    let why = world.post("/embed", &json!({"inputs": "the cat", "prompt_name": "sorting"})).refused(422, "Validation");
    assert!(why.contains("sorting") && why.contains("clustering"), "{why}");
}

#[test]
fn predictions_and_ranks() {
    let world = World::usual(brisk());
    let one = world.post("/predict?model=mood", &json!({"inputs": "the cat"})).good();
    let scores: Vec<f64> = one.as_array().unwrap().iter().map(|p| p["score"].as_f64().unwrap()).collect();
    assert!(scores.len() == 3 && scores.is_sorted_by(|a, b| a >= b) && (scores.iter().sum::<f64>() - 1.0).abs() < 1e-5, "{one}");
    let pair = world.post("/predict?model=mood", &json!({"inputs": ["the cat", "a dog"]})).good();
    let batch = world.post("/predict?model=mood", &json!({"inputs": [["the cat"], ["the cat", "a dog"]]})).good();
    assert_eq!(batch, json!([one, pair]), "a pair is one input; a batch nests");
    let raw = world.post("/predict?model=mood", &json!({"inputs": "the cat", "raw_scores": true})).good();
    assert_eq!(raw[0]["label"], one[0]["label"]);
    assert_ne!(raw[0]["score"], one[0]["score"]);

    let texts = ["the cat sat", "a dog ran", "猫 坐", "to sea"];
    let ranks = world.post("/rerank?model=order", &json!({"query": "the cat", "texts": texts, "return_text": true})).good();
    let ranks = ranks.as_array().unwrap();
    assert!(ranks.iter().map(|r| r["score"].as_f64().unwrap()).is_sorted_by(|a, b| a >= b) && ranks.len() == 4);
    assert!(ranks.iter().all(|r| r["text"] == texts[r["index"].as_u64().unwrap() as usize]));
    assert!(world.post("/rerank?model=order", &json!({"query": "the cat", "texts": texts})).good()[0].get("text").is_none());

    let why = world.post("/rerank?model=mood", &json!({"query": "the", "texts": ["cat"]})).refused(424, "Backend");
    assert!(why.contains("mood") && why.contains("one label"), "{why}");
    world.post("/predict", &json!({"inputs": "the"})).refused(424, "Backend");
}

#[test]
fn tokens_there_and_back() {
    let world = World::usual(brisk());
    let tokens = world.post("/tokenize", &json!({"inputs": ["Unaffable 猫!", "the"]})).good();
    let first = tokens[0].as_array().unwrap();
    let shown: Vec<_> = first.iter().map(|t| (t["text"].as_str().unwrap(), t["start"].as_u64(), t["stop"].as_u64())).collect();
    let expected = [
        ("[CLS]", None, None),
        ("Un", Some(0), Some(2)),
        ("aff", Some(2), Some(5)),
        ("able", Some(5), Some(9)),
        ("猫", Some(10), Some(11)),
        ("!", Some(11), Some(12)),
        ("[SEP]", None, None),
    ];
    assert_eq!(shown, expected, "offsets are in characters");
    assert_eq!(first[0]["special"], true);
    assert_eq!(
        world.post("/tokenize", &json!({"inputs": "the", "add_special_tokens": false})).good(),
        json!([[{"id": 5, "text": "the", "special": false, "start": 0, "stop": 3}]])
    );
    let ids: Vec<&Value> = first.iter().map(|t| &t["id"]).collect();
    assert_eq!(world.post("/decode", &json!({"ids": ids})).good(), json!(["unaffable 猫!"]));
    assert_eq!(
        world.post("/decode", &json!({"ids": [[5, 6], [2, 5, 3]], "skip_special_tokens": false})).good(),
        json!(["the cat", "[CLS] the [SEP]"])
    );
    let why = world.post("/decode", &json!({"ids": [9999]})).refused(422, "Validation");
    assert!(why.contains("9999"), "{why}");
}

#[test]
fn what_is_wrong_is_said_with_its_status() {
    let world = World::usual(brisk());
    world.post("/embed", &json!({"inputs": []})).refused(400, "Empty");
    world.post("/embed", &json!({"inputs": ""})).refused(400, "Empty");
    world.post("/rerank?model=order", &json!({"query": "the", "texts": []})).refused(400, "Empty");
    let why = world.post("/embed", &json!({"inputs": vec!["the"; 33]})).refused(422, "Validation");
    assert!(why.contains("33") && why.contains("32"), "{why}");
    let long = "the ".repeat(LONGEST);
    let why = world.post("/embed", &json!({"inputs": long, "truncate": false})).refused(422, "Validation");
    assert!(why.contains("66") && why.contains("64"), "{why}");
    let cut = world.post("/embed", &json!({"inputs": long})).good();
    assert_eq!(cut, world.post("/embed", &json!({"inputs": "the ".repeat(LONGEST - 2)})).good(), "cut to the longest input");
    let left = world.post("/embed", &json!({"inputs": format!("cat cat {long}"), "truncation_direction": "Left"})).good();
    assert_eq!(left, cut, "the beginning is cut");
    world.post("/embed", &json!({"inputs": "the", "dimensions": 0})).refused(422, "Validation");
    world.post("/embed", &json!({"inputs": "the", "dimensions": HIDDEN + 1})).refused(422, "Validation");
    world.post("/embed", &json!({"inputs": "the", "prompt_name": "query"})).refused(422, "Validation");
    world.post("/embed", &json!({"inputs": [99999]})).refused(422, "Validation");
    for body in ["", " ", "{", "[]", "null", "{\"inputs\": 3}", "{\"inputs\": {\"a\": 1}}", "\u{0}", "{\"inputs\": \"a\"} trailing"] {
        let why = world.send("/embed", body).refused(422, "Validation");
        assert!(why.contains("JSON"), "{why}");
    }
    world.post("/predict?model=mood", &json!({"inputs": [["the", "cat", "sat"]]})).refused(422, "Validation");
    let why = world.post("/embed?model=nobody", &json!({"inputs": "the"})).refused(404, "Validation");
    assert!(why.contains("words, mood, order, names, gist, spans"), "{why}");
    assert!(world.get("/embed").refused(405, "Validation").contains("GET"));
    assert!(world.get("/nowhere").refused(404, "Validation").contains("/docs"));
}

#[test]
fn openai_clients_are_answered() {
    let world = World::usual(brisk());
    let body = json!({"input": ["the cat sat", "a dog"], "model": "words", "user": "somebody"});
    let answer = world.post("/v1/embeddings", &body).good();
    assert_eq!((&answer["object"], &answer["model"]), (&json!("list"), &json!("words")));
    assert_eq!(answer["usage"], json!({"prompt_tokens": 9, "total_tokens": 9}));
    assert_eq!(answer["data"][1]["index"], 1);
    let first = floats(&answer["data"][0]["embedding"]);
    assert_eq!(first, floats(&world.post("/embed", &json!({"inputs": "the cat sat"})).good()[0]), "both dialects give the same bits");

    let coded = world.post("/v1/embeddings", &json!({"input": "the cat sat", "encoding_format": "base64"})).good();
    let coded = coded["data"][0]["embedding"].as_str().unwrap();
    assert_eq!(decode_base64(coded).chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect::<Vec<_>>(), first);
    let short = world.post("/v1/embeddings", &json!({"input": "the cat sat", "dimensions": 4})).good();
    assert_eq!(floats(&short["data"][0]["embedding"]).len(), 4);

    let models = world.get("/v1/models").good();
    let names: Vec<&str> = models["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(names, ["words", "mood", "order", "names", "gist", "spans", "choices", "logic"]);

    let documents = json!(["the cat", {"text": "a dog"}, "猫"]);
    let ranks = world.post("/v1/rerank", &json!({"model": "order", "query": "the", "documents": documents, "top_n": 2})).good();
    let results = ranks["results"].as_array().unwrap();
    assert!(results.len() == 2 && results[0]["relevance_score"].as_f64() >= results[1]["relevance_score"].as_f64());
    assert!(results[0]["document"]["text"].is_string() && ranks["id"].is_string() && ranks["usage"]["total_tokens"].as_u64() > Some(0));

    let nested = |answer: crate::world::Answer, status: u16, param: Value, code: Value| {
        assert_eq!(answer.status, status, "{}", answer.text());
        let error = answer.json()["error"].clone();
        assert!(error["message"].is_string() && error["type"].is_string(), "{error}");
        assert_eq!((&error["param"], &error["code"]), (&param, &code), "{error}");
    };
    nested(world.post("/v1/embeddings", &json!({"input": "the", "model": "gpt"})), 404, json!("model"), json!("model_not_found"));
    nested(world.post("/v1/embeddings", &json!({"input": []})), 400, json!("inputs"), Value::Null);
    nested(world.send("/v1/embeddings", "{"), 422, Value::Null, Value::Null);
    nested(world.post("/v1/rerank", &json!({"query": "the", "documents": ["cat"]})), 424, json!("model"), Value::Null);
    nested(world.get("/v1/nowhere"), 404, Value::Null, Value::Null);
}

#[test]
fn the_root_answers_as_the_model_is_for() {
    let world = World::usual(brisk());
    let same = |model: &str, route: &str, body: Value| {
        let expected = world.post(&format!("{route}?model={model}"), &body).good();
        assert_eq!(world.post(&format!("/?model={model}"), &body).good(), expected, "{route}");
    };
    same("words", "/embed", json!({"inputs": "the cat"}));
    same("words", "/similarity", json!({"inputs": {"source_sentence": "the", "sentences": ["cat"]}}));
    same("mood", "/predict", json!({"inputs": "the cat"}));
    same("order", "/rerank", json!({"query": "the", "texts": ["cat", "dog"]}));
}

#[test]
fn a_server_with_one_model_answers_whatever_model_is_named() {
    let world = World::of(brisk(), &[("only", Default::default())]);
    let answer = world.post("/v1/embeddings", &json!({"input": "the", "model": "text-embedding-3-small"})).good();
    assert_eq!(answer["model"], "only");
}

fn decode_base64(text: &str) -> Vec<u8> {
    let value = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u8> = text.bytes().filter(|&c| c != b'=').map(value).collect();
    let (mut bits, mut held, mut bytes) = (0u32, 0, Vec::new());
    for digit in digits {
        bits = bits << 6 | u32::from(digit);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    bytes
}
