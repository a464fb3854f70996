//! The hub's client against a small server that speaks the hub's routes.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use cloze::hub::{Hub, HubError, Name};
use sha1::{Digest, Sha1};
use sha2::Sha256;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// How the server misbehaves.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Fault {
    #[default]
    None,
    /// Stops in the middle of the weights, once.
    BreaksOff,
    /// Sends other bytes than it said.
    Lies,
    /// Wants a token.
    Gated,
    /// Knows no ranges, and breaks off once.
    NoRanges,
    /// Lists a file outside of the folder.
    Escapes,
    /// Answers with what is no JSON.
    Garbage,
}

struct Server {
    address: String,
    /// Requests: method, path, range.
    #[allow(clippy::type_complexity)] // method, path, range of each request
    seen: Arc<Mutex<Vec<(String, String, Option<String>)>>>,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn git_blob(bytes: &[u8]) -> String {
    let mut sha = Sha1::new();
    sha.update(format!("blob {}\0", bytes.len()).as_bytes());
    sha.update(bytes);
    hex(&sha.finalize())
}

impl Server {
    fn start(fault: Fault) -> Self {
        Self::with(fault, &[])
    }

    /// With more files than those of the small model.
    fn with(fault: Fault, more: &[(&str, &[u8])]) -> Self {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/bert-tiny");
        let mut files = HashMap::new();
        for name in ["config.json", "model.safetensors", "vocab.txt", "tokenizer.json", "tokenizer_config.json"] {
            files.insert(name.to_owned(), std::fs::read(fixture.join(name)).unwrap());
        }
        files.insert("modeling_evil.py".into(), b"import os".to_vec());
        files.extend(more.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        std::thread::spawn(move || {
            let mut broke = false;
            for stream in listener.incoming().flatten() {
                answer(stream, &files, fault, &mut broke, &log);
            }
        });
        Self { address, seen }
    }

    fn hub(&self, cache: &Path) -> Hub {
        Hub { cache: cache.to_owned(), endpoint: self.address.clone(), offline: false, token: None }
    }
}

fn answer(
    mut stream: TcpStream,
    files: &HashMap<String, Vec<u8>>,
    fault: Fault,
    broke: &mut bool,
    log: &Mutex<Vec<(String, String, Option<String>)>>,
) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    if reader.read_line(&mut line).unwrap_or(0) == 0 {
        return;
    }
    let mut parts = line.split(' ');
    let (method, path) = (parts.next().unwrap_or("").to_owned(), parts.next().unwrap_or("").to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let Some((key, value)) = line.trim().split_once(':') else { break };
        headers.insert(key.to_ascii_lowercase(), value.trim().to_owned());
    }
    let range = headers.get("range").cloned();
    log.lock().unwrap().push((method.clone(), path.clone(), range.clone()));
    let plain = |stream: &mut TcpStream, status: &str, body: &[u8]| {
        let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
        let _ = stream.write_all(body);
    };
    if fault == Fault::Gated && headers.get("authorization").map(String::as_str) != Some("Bearer secret") {
        return plain(&mut stream, "401 Unauthorized", b"");
    }
    if let Some(revision) = path.strip_prefix("/api/models/org/tiny/revision/") {
        if fault == Fault::Garbage {
            return plain(&mut stream, "200 OK", b"<html>");
        }
        if !["main", "v1", COMMIT].contains(&revision) {
            return plain(&mut stream, "404 Not Found", b"");
        }
        let mut names: Vec<String> = files.keys().map(|name| format!("{{\"rfilename\": \"{name}\"}}")).collect();
        if fault == Fault::Escapes {
            names.push(r#"{"rfilename": "model-..\\..\\x.safetensors"}"#.into());
        }
        return plain(&mut stream, "200 OK", format!("{{\"sha\": \"{COMMIT}\", \"siblings\": [{}]}}", names.join(",")).as_bytes());
    }
    // An old name leads to the new one, on the hub itself.
    if path.contains("tiny-old") {
        let to = path.replace("/api/models/tiny-old", "/api/models/org/tiny").replace("/tiny-old/", "/org/tiny/");
        let _ = write!(stream, "HTTP/1.1 307 Temporary Redirect\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        return;
    }
    let Some(bytes) = path.strip_prefix(&format!("/org/tiny/resolve/{COMMIT}/")).and_then(|name| files.get(name)) else {
        return plain(&mut stream, "404 Not Found", b"");
    };
    let large = path.ends_with(".safetensors");
    let etag = if large { hex(&Sha256::digest(bytes)) } else { git_blob(bytes) };
    if method == "HEAD" {
        // Large files lie elsewhere, as on the hub.
        let (status, more) = if large {
            ("302 Found", format!("x-linked-etag: \"{etag}\"\r\nx-linked-size: {}\r\nlocation: /elsewhere\r\n", bytes.len()))
        } else {
            ("200 OK", format!("etag: \"{etag}\"\r\n"))
        };
        let len = if large { 0 } else { bytes.len() };
        let _ = write!(stream, "HTTP/1.1 {status}\r\n{more}content-length: {len}\r\nconnection: close\r\n\r\n");
        return;
    }
    let from = range
        .as_ref()
        .filter(|_| fault != Fault::NoRanges)
        .and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let body = &bytes[from.unwrap_or(0)..];
    let status = if from.is_some() { "206 Partial Content" } else { "200 OK" };
    let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    if large && matches!(fault, Fault::BreaksOff | Fault::NoRanges) && !*broke {
        *broke = true;
        let _ = stream.write_all(&body[..body.len() / 2]);
        return;
    }
    let mut body = body.to_vec();
    if large && fault == Fault::Lies {
        body[100] ^= 1;
    }
    let _ = stream.write_all(&body);
}

fn name() -> Name {
    Name::parse("org/tiny").unwrap()
}

#[test]
fn a_model_is_fetched_once_and_then_read_from_the_cache() {
    let server = Server::start(Fault::None);
    let cache = tempfile::tempdir().unwrap();
    let hub = server.hub(cache.path());
    let folder = hub.folder(&name(), &mut |_| ()).unwrap();
    assert_eq!(folder, cache.path().join("models--org--tiny/snapshots").join(COMMIT));
    assert!(cloze::model::load(&folder).is_ok() && cloze::text::Tokenizer::load(&folder).is_ok());
    assert!(!folder.join("modeling_evil.py").exists(), "code is not fetched");
    assert_eq!(std::fs::read_to_string(cache.path().join("models--org--tiny/refs/main")).unwrap(), COMMIT);
    let requests = server.seen.lock().unwrap().len();
    // again, by its commit, and offline: nothing is asked
    let offline = Hub { offline: true, endpoint: "http://127.0.0.1:1".into(), ..hub.clone() };
    assert_eq!(hub.folder(&name(), &mut |_| ()).unwrap(), folder);
    assert_eq!(offline.folder(&name(), &mut |_| ()).unwrap(), folder);
    assert_eq!(offline.folder(&Name::parse(&format!("org/tiny@{COMMIT}")).unwrap(), &mut |_| ()).unwrap(), folder);
    assert_eq!(server.seen.lock().unwrap().len(), requests);
    // another name for the same commit: the listing and nothing else
    assert_eq!(hub.folder(&Name::parse("org/tiny@v1").unwrap(), &mut |_| ()).unwrap(), folder);
    assert_eq!(server.seen.lock().unwrap().len(), requests + 1);
}

#[test]
fn a_broken_download_goes_on_where_it_stopped() {
    for fault in [Fault::BreaksOff, Fault::NoRanges] {
        let server = Server::start(fault);
        let cache = tempfile::tempdir().unwrap();
        let hub = server.hub(cache.path());
        let error = hub.folder(&name(), &mut |_| ()).unwrap_err();
        assert!(matches!(error, HubError::Broken { .. }), "{error}");
        assert!(hub.cached(&name()).is_none(), "half a model is none");
        let folder = hub.folder(&name(), &mut |_| ()).unwrap();
        assert!(cloze::model::load(&folder).is_ok());
        let seen = server.seen.lock().unwrap();
        let ranges: Vec<&String> = seen.iter().filter_map(|(_, _, range)| range.as_ref()).collect();
        let half = std::fs::metadata(folder.join("model.safetensors")).unwrap().len() / 2;
        assert_eq!(ranges, [&format!("bytes={half}-")]);
    }
}

#[test]
fn what_goes_wrong_is_said() {
    let cache = tempfile::tempdir().unwrap();
    let said = |hub: &Hub, name: &str| hub.folder(&Name::parse(name).unwrap(), &mut |_| ()).unwrap_err().to_string();

    let error = said(&Server::start(Fault::Lies).hub(cache.path()), "org/tiny");
    assert!(error.contains("the hash") && error.contains("model.safetensors"), "{error}");
    let error = said(&Server::start(Fault::Gated).hub(cache.path()), "org/tiny");
    assert!(error.contains("HF_TOKEN") && error.contains("401"), "{error}");
    let error = said(&Server::start(Fault::None).hub(cache.path()), "org/tiny@v9");
    assert!(error.contains("org/tiny@v9") && error.contains("not found"), "{error}");
    let error = said(&Server::start(Fault::None).hub(cache.path()), "org/other");
    assert!(error.contains("org/other"), "{error}");
    let error = said(&Server::start(Fault::Garbage).hub(cache.path()), "org/tiny");
    assert!(error.contains("not JSON"), "{error}");
    let error = said(&Server::start(Fault::Escapes).hub(cache.path()), "org/tiny");
    assert!(error.contains("outside of the folder"), "{error}");
    let nobody = Hub { endpoint: "http://127.0.0.1:1".into(), ..Server::start(Fault::None).hub(cache.path()) };
    let error = said(&nobody, "org/nowhere");
    assert!(error.contains("cannot be reached") && error.contains("127.0.0.1:1"), "{error}");
    let offline = Hub { offline: true, ..nobody.clone() };
    let error = said(&offline, "org/nowhere");
    assert!(error.contains("HF_HUB_OFFLINE") && error.contains("org/nowhere"), "{error}");
    if cfg!(not(feature = "hub")) {
        let tls = Hub { endpoint: "https://127.0.0.1:1".into(), ..nobody };
        assert!(said(&tls, "org/nowhere").contains("--features hub"));
    }
}

#[test]
fn a_token_opens_what_is_gated() {
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub { token: Some("secret".into()), ..Server::start(Fault::Gated).hub(cache.path()) };
    assert!(hub.folder(&name(), &mut |_| ()).is_ok());
}

#[test]
fn an_old_name_leads_to_the_new_one() {
    let server = Server::start(Fault::None);
    let cache = tempfile::tempdir().unwrap();
    let folder = server.hub(cache.path()).folder(&Name::parse("tiny-old").unwrap(), &mut |_| ()).unwrap();
    assert_eq!(folder, cache.path().join("models--tiny-old/snapshots").join(COMMIT));
    assert!(cloze::model::load(&folder).is_ok());
}

/// Other programs fetch a file when they need it: what they left out would change the answers without a word.
#[test]
fn what_another_program_began_is_completed_at_its_own_commit() {
    let more: [(&str, &[u8]); 4] = [
        ("modules.json", b"[]"),
        ("1_Pooling/config.json", b"{}"),
        ("2_Dense/config.json", b"{}"),
        ("2_Dense/pytorch_model.bin", b"weights"),
    ];
    let server = Server::with(Fault::None, &more);
    let cache = tempfile::tempdir().unwrap();
    let hub = server.hub(cache.path());
    let folder = hub.folder(&name(), &mut |_| ()).unwrap();
    assert!(
        more.iter().all(|(name, bytes)| std::fs::read(folder.join(name)).unwrap() == *bytes),
        "each folder has weights of its own kind"
    );
    let by_commit = Name::parse(&format!("org/tiny@{COMMIT}")).unwrap();
    let offline = Hub { offline: true, ..hub.clone() };
    let away = Hub { endpoint: "http://127.0.0.1:1".into(), ..hub.clone() };
    for (model, lost) in [(&name(), vec!["modules.json", "1_Pooling/config.json"]), (&by_commit, vec!["tokenizer.json", "vocab.txt"])] {
        std::fs::remove_file(folder.join(".cloze_complete")).unwrap();
        lost.iter().for_each(|file| std::fs::remove_file(folder.join(file)).unwrap());
        // without the network what is there is taken, if it is enough for an answer
        let enough = !lost.contains(&"vocab.txt");
        for hub in [&offline, &away] {
            let found = hub.folder(model, &mut |_| ());
            assert_eq!((found.is_ok(), hub.cached(model).is_some()), (enough, enough), "{found:?}");
        }
        server.seen.lock().unwrap().clear();
        assert_eq!(hub.folder(model, &mut |_| ()).unwrap(), folder);
        let seen: Vec<String> = std::mem::take(&mut *server.seen.lock().unwrap()).into_iter().map(|(_, path, _)| path).collect();
        assert_eq!(seen[0], format!("/api/models/org/tiny/revision/{COMMIT}"), "its own commit, wherever the branch is by now");
        assert!(seen[1..].iter().all(|path| lost.iter().any(|file| path.ends_with(file))), "only what is missing is fetched: {seen:?}");
        assert!(lost.iter().all(|file| folder.join(file).exists()));
        hub.folder(model, &mut |_| ()).unwrap();
        assert!(server.seen.lock().unwrap().is_empty(), "now it is complete");
    }
}

#[cfg(unix)]
#[test]
fn a_removed_blob_is_fetched_again() {
    let server = Server::start(Fault::None);
    let cache = tempfile::tempdir().unwrap();
    let hub = server.hub(cache.path());
    let folder = hub.folder(&name(), &mut |_| ()).unwrap();
    std::fs::remove_dir_all(cache.path().join("models--org--tiny/blobs")).unwrap();
    assert!(hub.cached(&name()).is_none());
    assert_eq!(hub.folder(&name(), &mut |_| ()).unwrap(), folder);
    assert!(cloze::model::load(&folder).is_ok());
}

#[test]
fn two_programs_fetch_a_model_once() {
    let server = Server::start(Fault::None);
    let cache = tempfile::tempdir().unwrap();
    let folders: Vec<PathBuf> = std::thread::scope(|scope| {
        let fetch = || server.hub(cache.path()).folder(&name(), &mut |_| ());
        let running: Vec<_> = (0..4).map(|_| scope.spawn(fetch)).collect();
        running.into_iter().map(|r| r.join().unwrap().unwrap()).collect()
    });
    assert!(folders.iter().all(|f| *f == folders[0]) && cloze::model::load(&folders[0]).is_ok());
}
