//! What a server must survive: overload, hang-ups, slow and hostile clients, a worker that panics, an end under load.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::world::{NAN, PANIC, SLOW, World, brisk, head, read_answer, request, try_request};
use cloze::model::Heads;
use cloze_serve::Settings;
use serde_json::json;

fn one(settings: Settings) -> World {
    World::of(settings, &[("only", Heads::default())])
}

/// `{"inputs": "the the …"}` of exactly this many bytes.
fn body_of(bytes: usize) -> String {
    let frame = r#"{"inputs": ""}"#.len();
    let text: String = "the ".chars().cycle().take(bytes - frame).collect();
    format!(r#"{{"inputs": "{text}"}}"#)
}

#[test]
fn a_body_is_refused_one_byte_over_the_limit() {
    let world = one(Settings { payload_limit: 10_000, ..brisk() });
    assert_eq!(world.send("/embed", &body_of(10_000)).status, 200);
    assert_eq!(world.send("/embed", &body_of(10_001)).status, 413);
    let chunked = |bytes: usize, chunk: usize| {
        let mut stream = TcpStream::connect(world.address).unwrap();
        stream.write_all(&head("POST", "/embed", &[("transfer-encoding", "chunked")], None)).unwrap();
        for part in body_of(bytes).as_bytes().chunks(chunk) {
            let sent =
                write!(stream, "{:x}\r\n", part.len()).and_then(|()| stream.write_all(part)).and_then(|()| stream.write_all(b"\r\n"));
            if sent.is_err() {
                break; // refused before the end
            }
        }
        stream.write_all(b"0\r\n\r\n").ok();
        read_answer(&mut stream).map(|a| a.status)
    };
    assert_eq!(chunked(10_000, 999).unwrap(), 200);
    assert_eq!(chunked(10_001, 999).unwrap(), 413);
    // Three megabytes in the smallest of chunks. The refusal comes while they are sent, so it may be lost with the connection.
    assert!(chunked(3_000_000, 1).map_or(true, |status| status == 413));
    let oversized = request(world.address, "POST", "/v1/embeddings", &[], Some(body_of(10_001).as_bytes()));
    assert!(oversized.status == 413 && oversized.json()["error"]["message"].is_string());
    assert_eq!(world.get("/health").status, 200);
}

#[test]
fn slow_heads_and_bodies_are_cut_off() {
    let world = one(Settings { header_timeout: Duration::from_millis(300), body_timeout: Duration::from_millis(300), ..brisk() });
    let begin = Instant::now();
    let mut stream = TcpStream::connect(world.address).unwrap();
    stream.write_all(b"POST /embed HTTP/1.1\r\nhost: te").unwrap();
    assert_eq!(read_answer(&mut stream).unwrap().status, 408, "a head that does not come");
    let mut stream = TcpStream::connect(world.address).unwrap();
    stream.write_all(&head("POST", "/embed", &[], Some(100))).unwrap();
    stream.write_all(b"{\"inputs\": ").unwrap();
    assert_eq!(read_answer(&mut stream).unwrap().status, 408, "a body that does not come");
    let mut idle = TcpStream::connect(world.address).unwrap();
    idle.write_all(b"GET /health/live HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    let mut all = Vec::new();
    idle.read_to_end(&mut all).unwrap();
    let all = String::from_utf8(all).unwrap();
    assert!(all.starts_with("HTTP/1.1 200") && !all.contains("408"), "an idle connection is closed without a word: {all}");
    assert!(begin.elapsed() < Duration::from_secs(20));
    assert_eq!(world.get("/health").status, 200);
}

#[test]
fn deep_json_and_mutants_are_refused() {
    let world = one(brisk());
    for depth in [33, 1000, 100_000] {
        let body = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(world.send("/embed", &body).refused(422, "Validation").contains("levels"));
        let body = format!("{{\"inputs\": \"the\", \"x\": {}1{}}}", "{\"a\":".repeat(depth), "}".repeat(depth));
        world.send("/embed", &body).refused(422, "Validation");
    }
    // Good bodies with bytes changed at places that a formula chooses: any answer is right, a panic or a hang is not.
    let seeds = [
        ("/embed", r#"{"inputs": ["the cat", "猫"], "truncate": true, "dimensions": 4}"#),
        ("/tokenize", r#"{"inputs": "the cat", "add_special_tokens": false}"#),
        ("/decode", r#"{"ids": [[2, 5], [3]]}"#),
        ("/similarity", r#"{"inputs": {"source_sentence": "the", "sentences": ["cat"]}}"#),
        ("/v1/embeddings", r#"{"input": [5, 6], "encoding_format": "base64"}"#),
        ("/v1/rerank", r#"{"query": "the", "documents": [{"text": "cat"}]}"#),
    ];
    let mut state = 1u64;
    let mut draw = |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    for round in 0..100 {
        for (path, seed) in seeds {
            let mut bytes = seed.as_bytes().to_vec();
            for _ in 0..1 + round % 4 {
                let at = draw(bytes.len().max(1));
                match draw(4) {
                    0 if at < bytes.len() => bytes[at] = draw(256) as u8,
                    1 if at < bytes.len() => drop(bytes.remove(at)),
                    2 => bytes.insert(at, b"[]{}\",:0-9\\u"[draw(12)]),
                    _ => bytes.truncate(at.max(1)),
                }
            }
            let status = request(world.address, "POST", path, &[], Some(&bytes)).status;
            assert!([200, 400, 422, 424].contains(&status), "{path} {:?}: {status}", String::from_utf8_lossy(&bytes));
        }
    }
    world.post("/embed", &json!({"inputs": "the"})).good();
}

#[test]
fn overload_is_200_or_429_and_over_in_a_second() {
    let settings = Settings { max_concurrent_requests: 8, max_queue_tokens: 64, ..brisk() };
    let (world, _) = World::moody(settings, Duration::from_millis(20));
    let statuses: Vec<AtomicUsize> = [0; 3].map(AtomicUsize::new).into();
    let retries = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| {
                for _ in 0..10 {
                    let answer = world.post("/embed", &json!({"inputs": format!("the cat {SLOW}")}));
                    let place = match answer.status {
                        200 => 0,
                        429 => 1,
                        _ => 2,
                    };
                    statuses[place].fetch_add(1, Ordering::SeqCst);
                    retries.fetch_add(usize::from(answer.header("retry-after").is_some()), Ordering::SeqCst);
                }
            });
        }
    });
    let counts: Vec<usize> = statuses.iter().map(|s| s.load(Ordering::SeqCst)).collect();
    assert!(counts[0] > 0 && counts[1] > 0 && counts[2] == 0, "200, 429, others: {counts:?}");
    assert_eq!(retries.load(Ordering::SeqCst), counts[1], "every 429 says when to come again");
    let begin = Instant::now();
    world.post("/embed", &json!({"inputs": "the cat"})).good();
    // A second is the bar on a quiet machine; tests run beside each other.
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert_eq!(world.figure("te_queue_size"), 0.0);
}

#[test]
fn who_hangs_up_is_never_computed() {
    let (world, computed) = World::moody(brisk(), Duration::from_millis(1500));
    let address = world.address;
    // One slow request keeps the worker busy while the others queue up and go.
    let slow =
        std::thread::spawn(move || try_request(address, "POST", "/embed", &[], Some(format!("{{\"inputs\": \"{SLOW}\"}}").as_bytes())));
    while computed.load(Ordering::SeqCst) == 0 && world.figure("te_batch_next_size_count") == 0.0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let body = br#"{"inputs": "the cat sat"}"#;
    let clients: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(&head("POST", "/embed", &[], Some(body.len()))).unwrap();
            stream.write_all(body).unwrap();
            stream
        })
        .collect();
    let waited = Instant::now();
    while world.figure("te_queue_size") < 100.0 {
        assert!(waited.elapsed() < Duration::from_secs(20), "the requests are queued: {}", world.figure("te_queue_size"));
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(clients);
    assert_eq!(slow.join().unwrap().unwrap().status, 200);
    world.post("/embed", &json!({"inputs": "the"})).good();
    let waited = Instant::now();
    while world.figure("te_queue_size") > 0.0 {
        assert!(waited.elapsed() < Duration::from_secs(10), "the queue is empty again");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(computed.load(Ordering::SeqCst), 2, "the slow one and the last one, none that hung up");
    assert_eq!(world.figure("te_request_dropped_sequences"), 100.0);
}

#[test]
fn a_worker_that_panics_answers_424_and_recovers() {
    let (world, _) = World::moody(brisk(), Duration::ZERO);
    let why = world.post("/embed", &json!({"inputs": format!("the {PANIC}")})).refused(424, "Backend");
    assert!(why.contains("panicked"), "{why}");
    // Readiness looks whether the model is well again, and finds it is.
    assert_eq!(world.get("/health").status, 200);
    world.post("/embed", &json!({"inputs": "the cat"})).good();
    // A number that is none is the fault of one request, not of its neighbours.
    world.post("/embed", &json!({"inputs": NAN})).refused(424, "Backend");
    assert_eq!(world.get("/health").status, 200);
    assert_eq!(world.figure("te_request_failure{err=\"inference\"}"), 2.0);
}

#[test]
fn the_end_loses_no_accepted_request() {
    let settings = Settings { shutdown_delay: Duration::from_millis(300), ..Settings::default() };
    let (world, _) = World::moody(settings, Duration::from_millis(10));
    let (answered, lost, refused) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let unready = AtomicBool::new(false);
    let address = world.address;
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let body = format!("{{\"inputs\": \"the {SLOW}\"}}");
                loop {
                    // A connection that is refused was not accepted; one that is accepted must be answered.
                    let Ok(mut stream) = TcpStream::connect(address) else {
                        refused.fetch_add(1, Ordering::SeqCst);
                        return;
                    };
                    let sent =
                        stream.write_all(&head("POST", "/embed", &[], Some(body.len()))).and_then(|()| stream.write_all(body.as_bytes()));
                    match sent.and_then(|()| read_answer(&mut stream)) {
                        Ok(answer) if answer.status == 200 => answered.fetch_add(1, Ordering::SeqCst),
                        other => {
                            eprintln!("{other:?}");
                            lost.fetch_add(1, Ordering::SeqCst)
                        }
                    };
                }
            });
        }
        scope.spawn(|| {
            while let Ok(answer) = try_request(address, "GET", "/health/ready", &[], None) {
                unready.fetch_or(answer.status == 503, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        std::thread::sleep(Duration::from_millis(500));
        world.end().unwrap();
    });
    let counts = (answered.load(Ordering::SeqCst), lost.load(Ordering::SeqCst), refused.load(Ordering::SeqCst));
    assert!(counts.0 > 16 && counts.1 == 0 && counts.2 == 16, "answered, lost, refused: {counts:?}");
    assert!(unready.load(Ordering::SeqCst), "readiness said 503 first");
}

#[test]
fn a_request_that_waits_too_long_is_told_so() {
    let (world, _) = World::moody(Settings { request_timeout: Duration::from_millis(200), ..brisk() }, Duration::from_millis(800));
    let why = world.post("/embed", &json!({"inputs": SLOW})).refused(429, "Overloaded");
    assert!(why.contains("--request-timeout"), "{why}");
}

#[test]
fn tokenizing_counts_as_waiting() {
    let world = one(Settings { request_timeout: Duration::from_millis(1), ..brisk() });
    let why = world.send("/tokenize", &body_of(1_000_000)).refused(429, "Overloaded");
    assert!(why.contains("--request-timeout"), "{why}");
}

#[test]
fn a_look_inside_takes_turns() {
    let (world, _) = World::moody(Settings { request_timeout: Duration::from_millis(300), ..brisk() }, Duration::from_millis(1500));
    std::thread::scope(|scope| {
        let look = || world.post("/attention", &json!({"inputs": SLOW})).status;
        let looks = [scope.spawn(look), scope.spawn(look)];
        let mut statuses = looks.map(|l| l.join().unwrap());
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 429]);
    });
}

#[test]
fn texts_hold_their_memory_until_they_are_tokens() {
    let world = one(Settings { body_memory: 2_000_000, tokenization_workers: 1, ..brisk() });
    let body = body_of(1_900_000);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| world.send("/tokenize", &body).status);
        // It is counted when its body has been read.
        while world.figure("te_request_count{method=\"single\"}") == 0.0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let why = world.send("/tokenize", &body).refused(429, "Overloaded");
        assert!(why.contains("bytes of requests"), "{why}");
        assert_eq!(first.join().unwrap(), 200);
    });
    assert_eq!(world.send("/tokenize", &body).status, 200);
}

#[test]
fn an_answer_that_nobody_reads_is_dropped() {
    let settings = Settings { body_timeout: Duration::from_millis(1500), answer_memory: 1, max_client_batch_size: 2000, ..brisk() };
    let world = one(settings);
    let texts = |n: usize| json!({"inputs": vec!["the ".repeat(62); n]}).to_string();
    // Some tens of megabytes: more than the sockets' buffers take.
    let body = texts(1500);
    let mut stalled = TcpStream::connect(world.address).unwrap();
    stalled.write_all(&head("POST", "/embed_all", &[], Some(body.len()))).unwrap();
    stalled.write_all(body.as_bytes()).unwrap();
    let small = texts(10);
    let until = |status: u16, what: &str| {
        let begin = Instant::now();
        loop {
            let answer = world.send("/embed_all", &small);
            if answer.status == status {
                return answer;
            }
            assert!(begin.elapsed() < Duration::from_secs(60), "{what}: {}", answer.status);
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    assert!(until(429, "it holds the memory").refused(429, "Overloaded").contains("answers"));
    world.post("/embed", &json!({"inputs": "the"})).good();
    let whole = until(200, "it is cut");
    assert_eq!(whole.good().as_array().unwrap().len(), 10);
}

#[test]
fn the_end_computes_nothing_for_those_it_cuts() {
    let settings = Settings { max_batch_tokens: 3, shutdown_deadline: Duration::from_millis(200), ..brisk() };
    let (world, computed) = World::moody(settings, Duration::from_millis(700));
    let address = world.address;
    let body = format!("{{\"inputs\": \"{SLOW}\"}}");
    let clients: Vec<TcpStream> = (0..10)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(&head("POST", "/embed", &[], Some(body.len()))).unwrap();
            stream.write_all(body.as_bytes()).unwrap();
            stream
        })
        .collect();
    let waited = Instant::now();
    while world.figure("te_queue_size") < 8.0 {
        assert!(waited.elapsed() < Duration::from_secs(5), "the requests are queued");
        std::thread::sleep(Duration::from_millis(5));
    }
    let begin = Instant::now();
    assert!(matches!(world.end(), Err(cloze_serve::ServeError::Deadline { .. })));
    let computed = computed.load(Ordering::SeqCst);
    assert!(computed < 6 && begin.elapsed() < Duration::from_secs(5), "{computed} of 10 computed in {:?}", begin.elapsed());
    drop(clients);
}

#[test]
fn hostile_text_takes_linear_time() {
    let world = one(brisk());
    for unit in ["a", "\u{301}", "猫", " ", "[MASK]", "##"] {
        let time = |bytes: usize| {
            let body = json!({"inputs": unit.repeat(bytes / unit.len())}).to_string();
            let best = (0..3).map(|_| {
                let begin = Instant::now();
                assert_eq!(world.send("/embed", &body).status, 200, "{unit:?}");
                begin.elapsed()
            });
            best.min().unwrap()
        };
        time(1000);
        let (part, whole) = (time(100_000), time(800_000));
        // Eight times the text; quadratic time would be 64 times. The bar of 2.2 for twice the text is for a quiet machine.
        assert!(whole < part * 24 + Duration::from_millis(100), "{unit:?}: {part:?} for an eighth, {whole:?} for the whole");
    }
}
