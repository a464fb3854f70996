//! What a server must hold at scale, tried on the program itself: it takes minutes, so it runs when it is asked for.
//!
//! ```text
//! cargo test -p cloze-cli --test reliability -- --ignored --nocapture --test-threads=1
//! ```
//!
//! Each test prints its figures in one line. Clients and server share the machine, over loopback.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cloze::model::blueprint::Position;
use cloze::model::{Blueprint, Heads, Model};
use cloze::text::Tokenizer;

const WORDS: &str = "the cat sat on mat dog ran to sea a old young house boat river near under with and again";

/// The program serving a random model that takes some milliseconds for a long text.
struct Server {
    child: Child,
    address: String,
    _folder: tempfile::TempDir,
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pieces = "[PAD] [UNK] [CLS] [SEP] [MASK]".split(' ').chain(WORDS.split(' ')).map(String::from).collect();
        let tokenizer = Tokenizer::from_pieces(pieces, Default::default()).unwrap();
        let blueprint =
            Blueprint { position: Position::Learned { max: 512, offset: 0 }, ..Blueprint::bert(tokenizer.vocab_size(), 4, 256, 4, 1024) };
        let model = Model::new("bert", blueprint, Heads::default());
        cloze::model::save(folder.path(), &model, &model.table().init(1), &[("pad_token_id", 0)]).unwrap();
        tokenizer.save(folder.path()).unwrap();
        let mut program = Command::new(env!("CARGO_BIN_EXE_cloze"));
        program.args(["serve", "--port", "0", "--log", "off", "--model"]).arg(folder.path()).args(arguments);
        program.env_remove("CLOZE_API_KEY").env_remove("CLOZE_CONFIG");
        let mut child = program.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://").unwrap_or_else(|| panic!("{line:?}")).to_owned();
        Self { child, address, _folder: folder }
    }

    fn open(&self) -> std::io::Result<TcpStream> {
        let stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(stream)
    }

    /// The status of a request on a connection of its own, and the whole answer.
    fn ask(&self, method: &str, path: &str, body: &[u8]) -> std::io::Result<(u16, String)> {
        let mut stream = self.open()?;
        stream.write_all(head(method, path, body.len()).as_bytes())?;
        // It may be refused by its head alone.
        let sent = stream.write_all(body);
        answer(&mut stream).or_else(|e| sent.and(Err(e)))
    }

    fn figure(&self, name: &str) -> f64 {
        let (_, text) = self.ask("GET", "/metrics", b"").unwrap();
        let line = text.lines().find(|l| l.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
        line.and_then(|l| l.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
    }

    /// Resident memory in MB.
    fn memory(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap_or("0 0");
        line.split_whitespace().nth(1).and_then(|kb| kb.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
    }

    fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap().success());
    }

    fn alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok(); // it may have ended
        self.child.wait().ok();
    }
}

fn head(method: &str, path: &str, length: usize) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    )
}

fn answer(stream: &mut TcpStream) -> std::io::Result<(u16, String)> {
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    match text.split(' ').nth(1).and_then(|s| s.parse().ok()) {
        Some(status) => Ok((status, text)),
        None => Err(read.err().unwrap_or_else(|| std::io::ErrorKind::UnexpectedEof.into())),
    }
}

/// A request for the vector of a text of this many words.
fn text(words: usize) -> Vec<u8> {
    let known: Vec<&str> = WORDS.split(' ').collect();
    let text: Vec<&str> = (0..words).map(|i| known[i * 7 % known.len()]).collect();
    format!("{{\"inputs\": \"{}\"}}", text.join(" ")).into_bytes()
}

/// Seconds of the overload: a minute, or what RELIABILITY_SECONDS says.
fn seconds() -> Duration {
    Duration::from_secs(std::env::var("RELIABILITY_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(60))
}

#[test]
#[ignore = "a minute of overload"]
fn overload_of_twenty_times_the_capacity() {
    let mut server = Server::start(&["--max-concurrent-requests", "16"]);
    let body = text(480);
    // What it can do: as many clients as are let in, each waiting for its answer.
    let done = AtomicUsize::new(0);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                while begin.elapsed() < Duration::from_secs(5) {
                    let (status, _) = server.ask("POST", "/embed", &body).unwrap();
                    assert_eq!(status, 200);
                    done.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    });
    let capacity = done.load(Ordering::SeqCst) as f64 / begin.elapsed().as_secs_f64();

    // Twenty times that, whatever the answers: every client sends at its own beat.
    let clients = 96;
    let beat = Duration::from_secs_f64(f64::from(clients) / (20.0 * capacity));
    let statuses: Mutex<BTreeMap<u16, usize>> = Mutex::default();
    let (sent, failed, slowest) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(Duration::ZERO));
    let mut memory = Vec::new();
    let (begin, length) = (Instant::now(), seconds());
    std::thread::scope(|scope| {
        for client in 0..clients {
            let (server, statuses, sent, failed, slowest, body) = (&server, &statuses, &sent, &failed, &slowest, &body);
            scope.spawn(move || {
                let mut next = begin + beat.mul_f64(f64::from(client) / f64::from(clients));
                while begin.elapsed() < length {
                    std::thread::sleep(next.saturating_duration_since(Instant::now()));
                    next += beat; // who waited for an answer catches up
                    sent.fetch_add(1, Ordering::SeqCst);
                    let asked = Instant::now();
                    match server.ask("POST", "/embed", body) {
                        Ok((status, _)) => *statuses.lock().unwrap().entry(status).or_default() += 1,
                        Err(_) => {
                            failed.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                    let mut slowest = slowest.lock().unwrap();
                    *slowest = asked.elapsed().max(*slowest);
                }
            });
        }
        while begin.elapsed() < length {
            std::thread::sleep(Duration::from_secs(1));
            memory.push(server.memory());
        }
    });
    let rate = sent.load(Ordering::SeqCst) as f64 / begin.elapsed().as_secs_f64();
    let after = Instant::now();
    assert_eq!(server.ask("POST", "/embed", &text(3)).unwrap().0, 200);
    assert_eq!(server.ask("GET", "/health/ready", b"").unwrap().0, 200);
    let healthy = after.elapsed();
    let statuses = statuses.into_inner().unwrap();
    // From the fifth second on: connections and batches have had their first memory by then.
    let (early, late) = (memory.get(4).copied().unwrap_or(memory[0]), memory.iter().copied().fold(0.0, f64::max));
    println!(
        "overload: capacity {capacity:.0} a second, {rate:.0} a second sent for {length:?}, answers {statuses:?}, {} without one, slowest {:?}; memory {early:.0} MB after 5 s, {late:.0} MB at most; healthy {healthy:?} after the end",
        failed.load(Ordering::SeqCst),
        slowest.into_inner().unwrap()
    );
    assert!(statuses.keys().all(|s| [200, 429].contains(s)) && failed.load(Ordering::SeqCst) == 0, "only 200 and 429");
    assert!(statuses.contains_key(&200) && statuses.contains_key(&429));
    assert!(late < 1.2 * early + 16.0, "memory is flat: {memory:?}");
    assert!(healthy < Duration::from_secs(1), "healthy in a second");
    assert_eq!(server.figure("te_queue_size"), 0.0);
    assert!(server.alive());
}

#[test]
#[ignore = "a thousand connections"]
fn a_thousand_clients_hang_up() {
    // Batches of one long text each, so that no short one slips in beside it.
    let server =
        Server::start(&["--max-concurrent-requests", "2000", "--threads", "1", "--max-batch-tokens", "512", "--batch-target-ms", "0"]);
    // Long requests that keep the compute thread busy for some seconds, while the others queue up and go.
    let long = {
        let one = String::from_utf8(text(510)).unwrap();
        let one = one.trim_start_matches("{\"inputs\": ").trim_end_matches('}').to_owned();
        format!("{{\"inputs\": [{}]}}", vec![one; 32].join(", ")).into_bytes()
    };
    std::thread::scope(|scope| {
        let busy: Vec<_> = (0..16).map(|_| scope.spawn(|| server.ask("POST", "/embed", &long).unwrap().0)).collect();
        while server.figure("te_batch_next_size_count") == 0.0 {
            std::thread::sleep(Duration::from_millis(2));
        }
        let body = text(3);
        let mut clients = Vec::new();
        for _ in 0..1000 {
            let mut stream = server.open().unwrap();
            stream.write_all(head("POST", "/embed", body.len()).as_bytes()).unwrap();
            stream.write_all(&body).unwrap();
            clients.push(stream);
        }
        let arrived = |n: f64| server.figure("te_request_count{method=\"single\"}") >= n;
        let waited = Instant::now();
        while !arrived(1000.0) {
            assert!(waited.elapsed() < Duration::from_secs(60), "all requests have come");
            std::thread::sleep(Duration::from_millis(2));
        }
        let (gone, waiting) = (Instant::now(), server.figure("te_queue_size"));
        drop(clients);
        println!("{waiting} sequences wait when 1000 clients hang up");
        assert!(busy.into_iter().all(|b| b.join().unwrap() == 200));
        while server.figure("te_queue_size") > 0.0 {
            assert!(gone.elapsed() < Duration::from_secs(120), "the queue is empty again");
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    // A last request, so that the thread has looked at everything.
    assert_eq!(server.ask("POST", "/embed", &text(3)).unwrap().0, 200);
    let dropped = server.figure("te_request_dropped_sequences");
    let answered = server.figure("te_request_success{method=\"single\"}") - 1.0;
    println!(
        "hang-ups: of 1000 requests {dropped} were dropped before compute, {answered} were answered; the queue's gauge is {}",
        server.figure("te_queue_size")
    );
    assert!(dropped >= 990.0, "at least 99 % are never computed");
    assert_eq!(server.figure("te_queue_size"), 0.0);
}

#[test]
#[ignore = "a real signal under load"]
fn sigterm_under_load_loses_nothing() {
    let mut server = Server::start(&[]);
    let body = text(60);
    let (answered, lost, refused, unready) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..48 {
            scope.spawn(|| {
                loop {
                    // A connection that is refused was not accepted; one that is must be answered.
                    let Ok(mut stream) = server.open() else {
                        refused.fetch_add(1, Ordering::SeqCst);
                        return;
                    };
                    let sent = stream.write_all(head("POST", "/embed", body.len()).as_bytes()).and_then(|()| stream.write_all(&body));
                    match sent.and_then(|()| answer(&mut stream)) {
                        Ok((200, _)) => answered.fetch_add(1, Ordering::SeqCst),
                        other => {
                            println!("lost: {other:?}");
                            lost.fetch_add(1, Ordering::SeqCst)
                        }
                    };
                }
            });
        }
        scope.spawn(|| {
            while let Ok((status, _)) = server.ask("GET", "/health/ready", b"") {
                unready.fetch_or(status == 503, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        std::thread::sleep(Duration::from_secs(5));
        server.signal("-TERM");
    });
    let code = server.child.wait().unwrap().code();
    let (answered, lost) = (answered.load(Ordering::SeqCst), lost.load(Ordering::SeqCst));
    println!("SIGTERM under load: {answered} requests answered, {lost} lost, 48 clients refused at the end; exit code {code:?}");
    assert!(answered > 48 && lost == 0 && code == Some(0) && unready.load(Ordering::SeqCst));
}

#[test]
#[ignore = "ten thousand bodies"]
fn ten_thousand_fuzzed_bodies() {
    let mut server = Server::start(&[]);
    let seeds: [(&str, &str); 12] = [
        ("/embed", r#"{"inputs": ["the cat", "猫"], "truncate": true, "dimensions": 4, "normalize": false}"#),
        ("/embed_all", r#"{"inputs": "the cat", "truncation_direction": "Left"}"#),
        ("/predict", r#"{"inputs": [["the", "cat"], ["a"]], "raw_scores": true}"#),
        ("/rerank", r#"{"query": "the", "texts": ["cat", "dog"], "return_text": true}"#),
        ("/similarity", r#"{"inputs": {"source_sentence": "the", "sentences": ["cat"]}}"#),
        ("/tokenize", r#"{"inputs": "the cat", "add_special_tokens": false}"#),
        ("/decode", r#"{"ids": [[2, 5], [3]], "skip_special_tokens": false}"#),
        ("/v1/embeddings", r#"{"input": [5, 6], "encoding_format": "base64", "model": "x"}"#),
        ("/v1/rerank", r#"{"query": "the", "documents": [{"text": "cat"}], "top_n": 1}"#),
        ("/fill-mask", r#"{"inputs": "the [MASK]", "parameters": {"top_k": 2}}"#),
        ("/attention", r#"{"inputs": ["the", "cat"], "layer": 1, "head": 2, "ablate": [[0, 1]]}"#),
        ("/ablation", r#"{"inputs": "the cat", "ablate": [[0, 1]], "each": false}"#),
    ];
    let mut state = 0x9e37_79b9u64;
    let mut draw = |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below.max(1)
    };
    let mut statuses: BTreeMap<u16, usize> = BTreeMap::new();
    for round in 0..10_000 {
        let (path, seed) = seeds[draw(seeds.len())];
        let mut bytes = seed.as_bytes().to_vec();
        for _ in 0..1 + draw(6) {
            let at = draw(bytes.len());
            match draw(6) {
                0 if at < bytes.len() => bytes[at] = draw(256) as u8,
                1 if at < bytes.len() => drop(bytes.remove(at)),
                2 => bytes.insert(at, b"[]{}\",:0-9\\ueE+.ntf"[draw(19)]),
                3 => bytes.truncate(at.max(1)),
                4 => {
                    let other = seeds[draw(seeds.len())].1.as_bytes();
                    bytes.splice(at..at, other[draw(other.len())..].iter().copied());
                }
                _ => {
                    let end = (at + draw(16)).min(bytes.len());
                    let again = bytes[at.min(end)..end].to_vec();
                    bytes.extend(again);
                }
            }
        }
        let found = server.ask("POST", path, &bytes);
        let shown = || String::from_utf8_lossy(&bytes).into_owned();
        let (status, _) = found.unwrap_or_else(|e| panic!("round {round}: {path} {}: {e}", shown()));
        assert!([200, 400, 404, 422, 424].contains(&status), "round {round}: {path} {}: {status}", shown());
        *statuses.entry(status).or_default() += 1;
    }
    println!("fuzzed bodies: {statuses:?}");
    assert_eq!(server.figure("te_request_failure{err=\"inference\"}"), 0.0, "nothing panicked");
    assert_eq!(server.ask("POST", "/embed", &text(3)).unwrap().0, 200);
    assert!(server.alive());
}

#[test]
#[ignore = "slow clients take their time"]
fn slow_clients_tiny_chunks_and_deep_json() {
    let mut server = Server::start(&["--header-timeout", "2", "--body-timeout", "2"]);
    let before = server.memory();
    let (begin, statuses) = (Instant::now(), Mutex::new(BTreeMap::<&str, BTreeMap<u16, usize>>::new()));
    let count = |what: &'static str, found: std::io::Result<(u16, String)>| {
        // A refusal that comes while the client still sends may be lost with the connection: 0.
        let status = found.map_or(0, |f| f.0);
        *statuses.lock().unwrap().entry(what).or_default().entry(status).or_default() += 1;
    };
    std::thread::scope(|scope| {
        for _ in 0..200 {
            scope.spawn(|| {
                let mut stream = server.open().unwrap();
                for byte in "POST /embed HTTP/1.1\r\nhost: a-host-that-takes-long\r\n".bytes() {
                    if stream.write_all(&[byte]).is_err() {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
                count("slow heads", answer(&mut stream));
            });
            scope.spawn(|| {
                let mut stream = server.open().unwrap();
                stream.write_all(head("POST", "/embed", 10_000).as_bytes()).unwrap();
                for _ in 0..40 {
                    if stream.write_all(b" ").is_err() {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
                count("slow bodies", answer(&mut stream));
            });
        }
        // Others are served meanwhile.
        let mut slowest = Duration::ZERO;
        while begin.elapsed() < Duration::from_secs(3) {
            let asked = Instant::now();
            assert_eq!(server.ask("POST", "/embed", &text(3)).unwrap().0, 200);
            slowest = slowest.max(asked.elapsed());
        }
        println!("beside 400 slow clients the slowest of the others took {slowest:?}");
    });
    for _ in 0..4 {
        let mut stream = server.open().unwrap();
        stream.write_all(b"POST /embed HTTP/1.1\r\nhost: t\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
        let mut sent = Ok(());
        for _ in 0..3_000_000 / 1000 {
            sent = stream.write_all(b"1\r\na\r\n".repeat(1000).as_slice());
            if sent.is_err() {
                break;
            }
        }
        if sent.is_ok() {
            stream.write_all(b"0\r\n\r\n").ok();
        }
        count("3 MB in chunks of a byte", answer(&mut stream));
    }
    for depth in [33, 1_000, 100_000, 900_000] {
        count("deep JSON", server.ask("POST", "/embed", format!("{{\"inputs\": {}1{}}}", "[".repeat(depth), "]".repeat(depth)).as_bytes()));
        count("deep JSON", server.ask("POST", "/embed", "{\"a\":".repeat(depth).as_bytes()));
    }
    let limit = 2_000_000;
    let of = |bytes: usize| format!("{{\"inputs\": \"{}\"}}", "the ".chars().cycle().take(bytes - 14).collect::<String>()).into_bytes();
    count("a body of the limit", server.ask("POST", "/embed", &of(limit)));
    count("a byte more", server.ask("POST", "/embed", &of(limit + 1)));
    let statuses = statuses.into_inner().unwrap();
    println!(
        "hostile clients (0: the refusal was lost with the connection): {statuses:?}; memory {before:.0} MB before, {:.0} MB after",
        server.memory()
    );
    let only = |what: &str, allowed: &[u16]| assert!(statuses[what].keys().all(|s| allowed.contains(s)), "{what}: {:?}", statuses[what]);
    only("slow heads", &[408]);
    only("slow bodies", &[408]);
    only("3 MB in chunks of a byte", &[413, 0]);
    only("deep JSON", &[422, 413]);
    only("a body of the limit", &[200]);
    only("a byte more", &[413]);
    assert_eq!(server.ask("GET", "/health/ready", b"").unwrap().0, 200);
    assert!(server.alive());
}
