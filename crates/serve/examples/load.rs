//! Load on a server that answers `/embed`: our own, text-embeddings-inference, or whatever speaks its dialect.
//!
//! ```text
//! cargo run --release -p cloze-serve --example load -- 127.0.0.1:3000 --mix lognormal --clients 64 --seconds 30
//! cargo run --release -p cloze-serve --example load -- 127.0.0.1:3002 --openai NAME --path /embeddings  # OpenAI's dialect
//! cargo run --release -p cloze-serve --example load -- --texts 4096 --mix lognormal > texts.jsonl      # the texts alone
//! ```
//!
//! Every client is a thread with one connection that sends a text, waits for the answer, and sends the next, as a caller without a
//! pool does. One line of JSON at the end: requests a second, the median and the 99th percentile, statuses. The load itself must cost
//! little where it shares the machine with the server, so it parses no answer: it counts its bytes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Words that every English vocabulary has as one piece.
const WORDS: [&str; 24] = [
    "the", "a", "old", "young", "sailor", "farmer", "child", "dog", "cat", "house", "boat", "river", "walked", "slept", "saw", "found",
    "near", "under", "with", "and", "quietly", "again", "green", "stone",
];

/// xorshift64*: the same texts in every run.
struct Draw(u64);

impl Draw {
    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Box and Muller 1958.
    fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.unit()).ln()).sqrt() * (2.0 * std::f64::consts::PI * self.unit()).cos()
    }
}

/// `short`: 8 words; `lognormal`: median 30, at most 380.
fn texts(mix: &str, count: usize) -> Vec<String> {
    let mut draw = Draw(0x9e37_79b9_7f4a_7c15);
    let text = |_| {
        let words = if mix == "short" { 8 } else { (3.4 + 0.85 * draw.normal()).exp().round().clamp(2.0, 380.0) as usize };
        (0..words).map(|_| WORDS[(draw.unit() * WORDS.len() as f64) as usize]).collect::<Vec<_>>().join(" ")
    };
    (0..count).map(text).collect()
}

/// What one client saw.
#[derive(Default)]
struct Seen {
    times: Vec<Duration>,
    statuses: BTreeMap<u16, usize>,
    bytes: usize,
}

struct Client {
    to: TcpStream,
    from: BufReader<TcpStream>,
}

impl Client {
    fn connect(host: &str) -> std::io::Result<Self> {
        let to = TcpStream::connect(host)?;
        to.set_nodelay(true)?;
        to.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Self { from: BufReader::with_capacity(1 << 16, to.try_clone()?), to })
    }

    /// Send a request; its status, seconds to wait if the server says so, and the size of the answer.
    fn post(&mut self, host: &str, path: &str, body: &str) -> std::io::Result<(u16, Option<f64>, usize)> {
        let length = body.len();
        let head = format!("POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n");
        self.to.write_all((head + body).as_bytes())?;
        let broken = |what: &str| std::io::Error::other(format!("an answer without {what}"));
        let (mut line, mut status, mut length, mut wait) = (String::new(), 0, None, None);
        loop {
            line.clear();
            if self.from.read_line(&mut line)? == 0 {
                return Err(broken("an end of its head"));
            }
            let text = line.trim_end();
            if text.is_empty() {
                break;
            }
            if status == 0 {
                status = text.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(|| broken("a status"))?;
            } else if let Some((name, value)) = text.split_once(':') {
                match name.to_ascii_lowercase().as_str() {
                    "content-length" => length = value.trim().parse::<usize>().ok(),
                    "retry-after" => wait = value.trim().parse().ok(),
                    _ => {}
                }
            }
        }
        let length = length.ok_or_else(|| broken("content-length"))?;
        std::io::copy(&mut (&mut self.from).take(length as u64), &mut std::io::sink())?;
        Ok((status, wait, length))
    }
}

fn run(host: &str, path: &str, bodies: &[String], clients: usize, seconds: f64) -> std::io::Result<(Seen, f64)> {
    let (next, all) = (AtomicUsize::new(0), Mutex::new(Seen::default()));
    let begin = Instant::now();
    let until = begin + Duration::from_secs_f64(seconds);
    let one = || -> std::io::Result<()> {
        let (mut client, mut seen) = (Client::connect(host)?, Seen::default());
        while Instant::now() < until {
            let body = &bodies[next.fetch_add(1, Ordering::Relaxed) % bodies.len()];
            let sent = Instant::now();
            let (status, wait, bytes) = client.post(host, path, body)?;
            *seen.statuses.entry(status).or_default() += 1;
            seen.bytes += bytes;
            match status {
                200 => seen.times.push(sent.elapsed()),
                429 => std::thread::sleep(Duration::from_secs_f64(wait.unwrap_or(1.0).clamp(0.01, 10.0))),
                _ => {}
            }
        }
        let mut all = all.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        all.times.extend(seen.times);
        all.bytes += seen.bytes;
        for (status, count) in seen.statuses {
            *all.statuses.entry(status).or_default() += count;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..clients).map(|_| scope.spawn(one)).collect();
        running.into_iter().try_for_each(|client| client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    let took = begin.elapsed().as_secs_f64();
    Ok((all.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner), took))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (mut host, mut mix, mut clients, mut seconds, mut alone) = (None, "lognormal".to_owned(), 64, 30.0, None);
    let (mut path, mut openai) = ("/embed".to_owned(), None);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--mix" => mix = value()?,
            "--clients" => clients = value()?.parse()?,
            "--seconds" => seconds = value()?.parse()?,
            "--path" => path = value()?,
            "--openai" => openai = Some(value()?),
            "--texts" => alone = Some(value()?.parse()?),
            _ => host = Some(word.trim_start_matches("http://").trim_end_matches('/').to_owned()),
        }
    }
    if !["short", "lognormal"].contains(&mix.as_str()) || !(1..=1024).contains(&clients) || !(0.1..=600.0).contains(&seconds) {
        return Err("--mix short|lognormal, --clients 1 to 1024, --seconds 0.1 to 600".into());
    }
    let quoted = |text: &String| format!("{text:?}"); // plain words: Rust quotes them as JSON does
    if let Some(count) = alone {
        texts(&mix, count).iter().for_each(|text| println!("{{\"text\": {}}}", quoted(text)));
        return Ok(());
    }
    let host = host.ok_or("where to: 127.0.0.1:3000")?;
    let body = |text: &String| match &openai {
        Some(model) => format!("{{\"model\": {model:?}, \"input\": {}}}", quoted(text)),
        None => format!("{{\"inputs\": {}, \"truncate\": true}}", quoted(text)),
    };
    let bodies: Vec<String> = texts(&mix, 4096).iter().map(body).collect();
    run(&host, &path, &bodies, clients, 2.0_f64.min(seconds))?; // warm
    let (mut seen, took) = run(&host, &path, &bodies, clients, seconds)?;
    seen.times.sort();
    let at = |share: f64| seen.times.get(((seen.times.len() as f64 * share) as usize).min(seen.times.len().saturating_sub(1)));
    let milliseconds = |share| at(share).map_or(f64::NAN, |t| 1000.0 * t.as_secs_f64());
    println!(
        "{{\"host\": {host:?}, \"mix\": {mix:?}, \"clients\": {clients}, \"requests_per_second\": {:.1}, \"p50_ms\": {:.3}, \"p99_ms\": {:.3}, \
         \"bytes\": {}, \"statuses\": {:?}}}",
        seen.times.len() as f64 / took,
        milliseconds(0.5),
        milliseconds(0.99),
        seen.bytes,
        seen.statuses
    );
    Ok(())
}
