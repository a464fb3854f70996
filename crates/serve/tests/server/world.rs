//! A real server on a free port of this machine, with a tiny model made here, and a client of a few lines.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use cloze::attention::{Attention, HeadPlace};
use cloze::model::{Blueprint, Heads, Model};
use cloze::task::{Context, Output, Sequence, Task};
use cloze::text::{Encoding, Tokenizer};
use cloze::train::run::Precision;
use cloze::{Device, DeviceChoice};
use cloze_serve::{App, Card, Engine, Models, PipelineEngine, Server, Settings, Stopper};
use serde_json::Value;

pub(crate) static DEVICE: LazyLock<Device> = LazyLock::new(|| Device::open(DeviceChoice::Cpu, Some(2)).unwrap());

/// H of the tiny models.
pub(crate) const HIDDEN: usize = 32;
/// Their longest input.
pub(crate) const LONGEST: usize = 64;

const PIECES: &str = "[PAD] [UNK] [CLS] [SEP] [MASK] the cat sat on mat dog ran to sea a ##s ##ing un ##aff ##able 猫 坐 在 垫 子 上 . , !";

/// Write a tiny model with these heads into `folder`.
pub(crate) fn write_model(folder: &Path, heads: Heads, seed: u64) {
    std::fs::create_dir_all(folder).unwrap();
    let tokenizer = Tokenizer::from_pieces(PIECES.split(' ').map(String::from).collect(), Default::default()).unwrap();
    let blueprint = Blueprint {
        position: cloze::model::blueprint::Position::Learned { max: LONGEST, offset: 0 },
        initializer_range: 0.3, // large enough that inputs are told apart
        ..Blueprint::bert(tokenizer.vocab_size(), 2, HIDDEN, 4, 64)
    };
    let model = Model::new("bert", blueprint, heads);
    cloze::model::save(folder, &model, &model.table().init(seed), &[("pad_token_id", 0)]).unwrap();
    tokenizer.save(folder).unwrap();
}

pub(crate) fn classifier(labels: &[&str]) -> Heads {
    Heads::classification(labels.iter().map(|l| (*l).to_owned()).collect())
}

/// Loads a model as the program does.
pub(crate) fn load(folder: &Path) -> Result<Arc<dyn Engine>, cloze::Error> {
    Ok(Arc::new(PipelineEngine::load(&DEVICE, folder, Precision::F32, None)?))
}

/// A word of the vocabulary that makes [`Moody`] engines panic, and one that makes them slow or not a number.
pub(crate) const PANIC: &str = "sea";
pub(crate) const SLOW: &str = "ran";
pub(crate) const NAN: &str = "dog";

/// An engine whose mood is in its input.
pub(crate) struct Moody {
    inner: PipelineEngine,
    words: [u32; 3],
    pause: Duration,
    /// Sequences that were computed.
    pub(crate) computed: Arc<std::sync::atomic::AtomicUsize>,
}

impl Moody {
    pub(crate) fn load(
        folder: &Path,
        pause: Duration,
        computed: Arc<std::sync::atomic::AtomicUsize>,
    ) -> Result<Arc<dyn Engine>, cloze::Error> {
        let inner = PipelineEngine::load(&DEVICE, folder, Precision::F32, None)?;
        let words = [PANIC, SLOW, NAN].map(|word| inner.context().tokenizer.token_to_id(word).unwrap());
        Ok(Arc::new(Self { inner, words, pause, computed }))
    }
}

impl Engine for Moody {
    fn card(&self) -> &Card {
        self.inner.card()
    }

    fn context(&self) -> &Arc<Context> {
        self.inner.context()
    }

    fn serves(&self, task: &dyn Task) -> bool {
        self.inner.serves(task)
    }

    fn attention(&self, encoding: &Encoding, off: &[HeadPlace]) -> Option<Result<Attention, cloze::Error>> {
        if encoding.ids.contains(&self.words[1]) {
            std::thread::sleep(self.pause);
        }
        self.inner.attention(encoding, off)
    }

    fn run(&self, sequences: &[&Sequence]) -> Result<Vec<Output>, String> {
        let holds = |word: u32| sequences.iter().any(|s| s.ids.contains(&word));
        assert!(!holds(self.words[0]), "the input asked for it");
        if holds(self.words[1]) {
            std::thread::sleep(self.pause);
        }
        self.computed.fetch_add(sequences.len(), std::sync::atomic::Ordering::SeqCst);
        let mut outputs = self.inner.run(sequences)?;
        for (output, sequence) in outputs.iter_mut().zip(sequences) {
            if let Output::Rows { values, .. } = output
                && sequence.ids.contains(&self.words[2])
            {
                values[0] = f32::NAN;
            }
        }
        Ok(outputs)
    }
}

pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) address: SocketAddr,
    pub(crate) stopper: Stopper,
    server: Option<Server>,
}

/// Names and folders of models for a server.
pub(crate) fn folders(folder: &Path, models: &[(&str, Heads)]) -> Vec<(String, PathBuf)> {
    let write = |(i, (name, heads)): (usize, &(&str, Heads))| {
        let path = folder.join(name);
        write_model(&path, heads.clone(), i as u64);
        ((*name).to_owned(), path)
    };
    models.iter().enumerate().map(write).collect()
}

impl World {
    /// Serve these models.
    pub(crate) fn of(settings: Settings, models: &[(&str, Heads)]) -> Self {
        Self::with(settings, models, Box::new(|path: &Path| load(path)))
    }

    /// Serve one model whose mood is in its input.
    pub(crate) fn moody(settings: Settings, pause: Duration) -> (Self, Arc<std::sync::atomic::AtomicUsize>) {
        let computed = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counter = Arc::clone(&computed);
        let loader = move |path: &Path| Moody::load(path, pause, Arc::clone(&counter));
        (Self::with(settings, &[("moody", Heads::default())], Box::new(loader)), computed)
    }

    fn with(settings: Settings, models: &[(&str, Heads)], loader: cloze_serve::Loader) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let models = Models::load(folders(folder.path(), models), loader).unwrap();
        Self::serving(settings, folder, models)
    }

    /// Serve models that are loaded.
    pub(crate) fn serving(settings: Settings, folder: tempfile::TempDir, models: Models) -> Self {
        let app = App::new(settings, models).unwrap();
        let server = Server::start(app, SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        Self { folder, address: server.address(), stopper: server.stopper(), server: Some(server) }
    }

    /// The usual: a masked-LM model, a classifier, a re-ranker, a tagger and a reader.
    pub(crate) fn usual(settings: Settings) -> Self {
        let models = [
            ("words", Heads::pretraining(false)),
            ("mood", classifier(&["bad", "good", "mixed"])),
            ("order", classifier(&["fit"])),
            ("names", Heads::token_classification(["O", "B-PER", "I-PER"].map(str::to_owned).into())),
            ("gist", Heads::token_classification(["other", "summary"].map(str::to_owned).into())),
            ("spans", Heads::question_answering()),
            ("choices", Heads::multiple_choice()),
            ("logic", classifier(&["contradiction", "neutral", "entailment"])),
        ];
        Self::of(settings, &models)
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        request(self.address, "GET", path, &[], None)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(path, &body.to_string())
    }

    pub(crate) fn send(&self, path: &str, body: &str) -> Answer {
        request(self.address, "POST", path, &[], Some(body.as_bytes()))
    }

    /// A figure of /metrics; 0 when it is not there.
    pub(crate) fn figure(&self, name: &str) -> f64 {
        let text = self.get("/metrics").text();
        let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
    }

    /// End the server and say how it ended.
    pub(crate) fn end(mut self) -> Result<(), cloze_serve::ServeError> {
        self.stopper.stop();
        self.server.take().unwrap().join()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stopper.stop();
    }
}

/// Settings that end at once.
pub(crate) fn brisk() -> Settings {
    Settings { shutdown_delay: Duration::from_millis(50), ..Settings::default() }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("answers are UTF-8")
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// The JSON of an answer with status 200.
    #[track_caller]
    pub(crate) fn good(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        self.json()
    }

    /// A refusal in the plain dialect.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16, error_type: &str) -> String {
        assert_eq!(self.status, status, "{}", self.text());
        let body = self.json();
        assert_eq!(body["error_type"], error_type, "{body}");
        body["error"].as_str().expect("an error says why").to_owned()
    }
}

/// Send one request on a connection of its own.
pub(crate) fn request(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&[u8]>) -> Answer {
    try_request(address, method, path, headers, body).expect("the server answers")
}

pub(crate) fn try_request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&[u8]>,
) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(&head(method, path, headers, body.map(<[u8]>::len)))?;
    // The server may refuse by the head alone, and close.
    let sent = stream.write_all(body.unwrap_or_default());
    read_answer(&mut stream).or_else(|e| sent.and(Err(e)))
}

pub(crate) fn head(method: &str, path: &str, headers: &[(&str, &str)], length: Option<usize>) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n");
    if let Some(length) = length {
        head.push_str(&format!("content-length: {length}\r\ncontent-type: application/json\r\n"));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// Read what a connection holds until its end, as one answer.
pub(crate) fn read_answer(stream: &mut TcpStream) -> std::io::Result<Answer> {
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
        read?;
        return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "no answer"));
    };
    let head = String::from_utf8_lossy(&bytes[..at]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|l| l.split(' ').nth(1)?.parse().ok()).expect("a status");
    let headers = lines.filter_map(|l| l.split_once(": ")).map(|(n, v)| (n.to_ascii_lowercase(), v.to_owned())).collect();
    Ok(Answer { status, headers, body: bytes[at + 4..].to_vec() })
}
