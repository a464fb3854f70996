//! Spans as a collector on this machine gets them.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use cloze::model::Heads;
use cloze_serve::Settings;
use prost::Message;
use serde_json::json;

use crate::world::{World, brisk, request};

// The parts of opentelemetry-proto's messages that are looked at.
#[derive(Clone, PartialEq, Message)]
struct Export {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(fixed64, tag = "7")]
    start: u64,
    #[prost(fixed64, tag = "8")]
    end: u64,
}

/// A collector: every body that is posted to /v1/traces.
fn collector() -> (String, Arc<Mutex<Vec<Span>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let spans = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&spans);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut bytes = Vec::new();
            let mut part = [0; 4096];
            loop {
                if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                    let head = String::from_utf8_lossy(&bytes[..at]).to_lowercase();
                    assert!(head.starts_with("post /v1/traces ") && head.contains("application/x-protobuf"), "{head}");
                    let length: usize = head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap().parse().unwrap();
                    if bytes.len() >= at + 4 + length {
                        let export = Export::decode(&bytes[at + 4..at + 4 + length]).unwrap();
                        let found = export.resources.into_iter().flat_map(|r| r.scopes).flat_map(|s| s.spans);
                        kept.lock().unwrap().extend(found);
                        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
                        break;
                    }
                }
                match stream.read(&mut part).unwrap() {
                    0 => break,
                    n => bytes.extend_from_slice(&part[..n]),
                }
            }
        }
    });
    (address, spans)
}

#[test]
fn a_request_is_a_span_with_its_parts() {
    let (address, spans) = collector();
    let world = World::of(Settings { otlp_endpoint: Some(address), ..brisk() }, &[("only", Heads::default())]);
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let body = json!({"inputs": "the cat sat"}).to_string();
    assert_eq!(request(world.address, "POST", "/embed", &[("traceparent", parent)], Some(body.as_bytes())).status, 200);
    assert_eq!(request(world.address, "POST", "/embed", &[("traceparent", "nonsense")], Some(b"{")).status, 422);
    world.end().unwrap();
    let spans = spans.lock().unwrap().clone();
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let roots: Vec<&Span> = spans.iter().filter(|s| s.name == "POST /embed").collect();
    assert_eq!(roots.len(), 2, "{spans:?}");
    let root = roots.iter().find(|s| hex(&s.trace) == "0af7651916cd43dd8448eb211c80319c").expect("the client's trace goes on");
    assert_eq!(hex(&root.parent), "b7ad6b7169203331");
    let parts: Vec<&Span> = spans.iter().filter(|s| s.parent == root.id).collect();
    let mut names: Vec<&str> = parts.iter().map(|s| s.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["compute", "queue", "tokenize"]);
    let of = |name: &str| parts.iter().find(|s| s.name == name).unwrap();
    for part in &parts {
        assert!(part.trace == root.trace && part.start <= part.end, "{part:?}");
        // clocks are read apart
        assert!(part.start + 2_000_000 >= root.start && part.end <= root.end + 2_000_000, "{part:?} in {root:?}");
    }
    assert!(of("tokenize").start <= of("queue").start && of("queue").start <= of("compute").start);
    let other = roots.iter().find(|s| s.id != root.id).unwrap();
    assert!(other.parent.is_empty() && other.trace != root.trace, "what is no traceparent is no parent");
}

#[test]
fn an_endpoint_that_makes_no_sense_is_refused() {
    use cloze_serve::{App, Models};
    let folder = tempfile::tempdir().unwrap();
    for found in ["https://collector:4318", "collector", "http://"] {
        let models = crate::world::folders(folder.path(), &[("only", Heads::default())]);
        let models = Models::load(models, Box::new(|path: &std::path::Path| crate::world::load(path))).unwrap();
        let error = App::new(Settings { otlp_endpoint: Some(found.into()), ..brisk() }, models).err().unwrap().to_string();
        assert!(error.contains("--otlp-endpoint") && error.contains(found), "{error}");
    }
}
