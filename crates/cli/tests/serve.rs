//! `cloze serve` as people start and end it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/bert-tiny");

fn start(arguments: &[&str]) -> (Child, String) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_cloze"));
    program.args(["serve", "--port", "0", "--threads", "2"]).args(arguments).env_remove("CLOZE_API_KEY");
    let mut child = program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on http://").unwrap_or_else(|| panic!("it says where it listens: {line:?}"));
    (child, address.to_owned())
}

fn ask(address: &str, request: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "{request} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn it_serves_reloads_and_ends_when_it_is_told_to() {
    let (mut child, address) = start(&["--model", &format!("tiny={MODEL}"), "--log", "json"]);
    assert!(ask(&address, "GET /health/ready", "").starts_with("HTTP/1.1 200"));
    let answer = ask(&address, "POST /embed", r#"{"inputs": "the cat"}"#);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for (route, body) in [("/fill-mask", r#"{"text": "a secret"}"#), ("/embed", r#"{"inputs": {"a secret": 1}}"#)] {
        assert!(ask(&address, &format!("POST {route}"), body).starts_with("HTTP/1.1 422"));
    }
    signal(&child, "-HUP");
    assert!(ask(&address, "GET /v1/models", "").contains("\"tiny\""));
    signal(&child, "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    let line = log.lines().find(|l| l.contains("/embed")).unwrap_or_else(|| panic!("a line for the request: {log}"));
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert!(line["status"] == 200 && line["request_id"].is_string() && line["tokens"].as_u64() > Some(2), "{line}");
    assert!(!log.contains("the cat") && !log.contains("secret"), "texts are not logged, nor by what is wrong with them: {log}");
    assert!(log.contains("tiny: loaded anew"), "{log}");
}

/// A model that takes its time to load does not keep the server from ending.
#[test]
fn it_ends_while_it_reloads() {
    let folder = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(MODEL).unwrap().map(Result::unwrap).filter(|f| f.path().is_file()) {
        std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    let (mut child, address) = start(&["--model", folder.path().to_str().unwrap(), "--log", "off"]);
    // A pipe that nobody writes to: whoever opens it to read waits.
    let config = folder.path().join("config.json");
    std::fs::remove_file(&config).unwrap();
    assert!(Command::new("mkfifo").arg(&config).status().unwrap().success());
    signal(&child, "-HUP");
    std::thread::sleep(Duration::from_millis(300));
    assert!(ask(&address, "GET /health/ready", "").starts_with("HTTP/1.1 200"));
    signal(&child, "-TERM");
    let begin = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begin.elapsed() > Duration::from_secs(20) {
            child.kill().unwrap();
            panic!("it does not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// Flags override variables, variables the file, and the file the defaults.
#[test]
fn options_come_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("serve.toml");
    let text = format!("model = [\"tiny={MODEL}\"]\nmax_client_batch_size = 3\nmax_batch_tokens = 512\nmax_length = 32\nlog = \"off\"\n");
    std::fs::write(&file, text).unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_cloze"));
    program.args(["serve", "--port", "0", "--threads", "2", "--max-length", "16", "--config"]).arg(&file);
    program.env("CLOZE_MAX_BATCH_TOKENS", "1024").env_remove("CLOZE_API_KEY").env_remove("CLOZE_MODEL");
    let mut child = program.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on http://").unwrap_or_else(|| panic!("it says where it listens: {line:?}"));
    let info = ask(address, "GET /info", "");
    let info: serde_json::Value = serde_json::from_str(info.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(info["model_id"], "tiny");
    assert_eq!([&info["max_client_batch_size"], &info["max_batch_tokens"], &info["max_input_length"]], [3, 1024, 16]);
    signal(&child, "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(0));

    std::fs::write(&file, "port = 3000\nmax_batch_tokns = 512\n").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_cloze")).args(["serve", "--config"]).arg(&file).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(error.contains("serve.toml: line 2: ") && error.contains("max_batch_tokns") && error.contains("max_batch_tokens"), "{error}");
}

#[test]
fn what_cannot_be_served_is_said() {
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_cloze")).arg("serve").args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, error) = run(&["--model", "/nowhere/at/all"]);
    assert!(code == Some(1) && error.contains("/nowhere/at/all"), "{error}");
    let (code, error) = run(&["--model", MODEL, "--max-batch-tokens", "0"]);
    assert!(code == Some(1) && error.contains("--max-batch-tokens"), "{error}");
    let (code, error) = run(&["--model", MODEL, "--log", "loud"]);
    assert!(code == Some(2) && error.contains("json, text or off"), "{error}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, error) = run(&["--model", MODEL, "--port", &port]);
    assert!(code == Some(1) && error.contains("--port"), "{error}");
}
