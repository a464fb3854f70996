//! Bodies of requests, sent to a server of this process with a tiny model: the first byte chooses the route, the rest is the body. A panic
//! anywhere in the server ends the process, because libFuzzer's hook does.

#![no_main]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex};

use cloze::train::run::Precision;
use cloze::{Device, DeviceChoice};
use cloze_serve::{App, Engine, Models, PipelineEngine, Server, Settings};

static DEVICE: LazyLock<Device> = LazyLock::new(|| Device::open(DeviceChoice::Cpu, Some(1)).expect("the processor"));

static SERVER: LazyLock<SocketAddr> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/bert-tiny");
    let loader = |path: &Path| Ok(Arc::new(PipelineEngine::load(&DEVICE, path, Precision::F32, None)?) as Arc<dyn Engine>);
    let models = Models::load(vec![("tiny".into(), folder)], Box::new(loader)).expect("a model");
    let app = App::new(Settings::default(), models).expect("a server");
    let server = Server::start(app, SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    let address = server.address();
    std::mem::forget(server); // it serves until the process ends
    address
});

/// One connection for all requests; an answer that closes it is followed by a new one.
static CONNECTION: Mutex<Option<BufReader<TcpStream>>> = Mutex::new(None);

const ROUTES: [&str; 14] = [
    "/", "/embed", "/embed_all", "/predict", "/rerank", "/similarity", "/tokenize", "/decode", "/v1/embeddings", "/v1/rerank",
    "/fill-mask", "/attention", "/ablation", "/text-classification",
];

fn ask(connection: &mut BufReader<TcpStream>, route: &str, body: &[u8]) -> std::io::Result<(u16, bool)> {
    let head = format!("POST {route} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
    connection.get_mut().write_all(&[head.as_bytes(), body].concat())?;
    let (mut status, mut length, mut close) = (0, 0, false);
    loop {
        let mut line = String::new();
        if connection.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end().to_ascii_lowercase();
        match line.split_once(": ") {
            _ if line.is_empty() => break,
            Some(("content-length", n)) => length = n.parse().expect("a length"),
            Some(("connection", how)) => close = how == "close",
            None if line.starts_with("http/1.1 ") => status = line[9..12].parse().expect("a status"),
            _ => {}
        }
    }
    connection.read_exact(&mut vec![0; length])?;
    Ok((status, close))
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((&route, body)) = bytes.split_first() else { return };
    let route = ROUTES[usize::from(route) % ROUTES.len()];
    let mut connection = CONNECTION.lock().expect("one thread");
    let open = || BufReader::new(TcpStream::connect(*SERVER).expect("the server stands"));
    let (status, close) = ask(connection.get_or_insert_with(open), route, body).unwrap_or_else(|e| panic!("{route}: {e}"));
    assert!(status != 0 && status < 500, "{route}: {status}");
    if close {
        *connection = None;
    }
});
