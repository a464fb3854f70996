//! A client of `cloze serve` with nothing but the standard library.
//!
//! ```sh
//! cloze serve --model DIR
//! cargo run -p cloze --example 06-client -- 127.0.0.1:3000
//! ```

use std::io::{Read, Write};
use std::net::TcpStream;

fn post(at: &str, path: &str, body: &serde_json::Value) -> Result<serde_json::Value, Box<dyn std::error::Error>> {
    let body = body.to_string();
    let mut stream = TcpStream::connect(at)?;
    let length = body.len();
    write!(stream, "POST {path} HTTP/1.1\r\nhost: {at}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(format!("{}: {body}", head.lines().next().unwrap_or_default()).into());
    }
    Ok(serde_json::from_str(body)?)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let at = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:3000".into());
    let sentences = ["A cat sits on a rug", "It will rain tomorrow", "猫坐在垫子上"];
    let inputs = serde_json::json!({"inputs": {"source_sentence": "The cat sat on the mat", "sentences": sentences}});
    let cosines = post(&at, "/similarity", &inputs)?;
    for (sentence, cosine) in sentences.iter().zip(cosines.as_array().into_iter().flatten()) {
        println!("{:.3}  {sentence}", cosine.as_f64().unwrap_or_default());
    }
    Ok(())
}
