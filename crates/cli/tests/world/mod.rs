//! A folder with a small text, and the program run in it.
#![allow(dead_code, unreachable_pub)] // each test uses its part

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use cloze::tensor::random::{Key, Stream};

const WORDS: &str = "the a old young sailor farmer child dog cat house boat river walked slept saw found near under with and quietly again";

pub struct World {
    folder: tempfile::TempDir,
}

/// What a run of the program gave.
pub struct Done {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("the program writes UTF-8");
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Done {
    /// It did what it was asked.
    #[track_caller]
    pub fn well(self) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.err);
        self
    }

    /// It ended with this code, and its errors say this.
    #[track_caller]
    pub fn fails(self, code: i32, says: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{}{}", self.out, self.err);
        for part in says {
            assert!(self.err.contains(part), "\"{part}\" is not said in: {}", self.err);
        }
        assert!(!self.err.contains("panicked"), "{}", self.err);
        self
    }

    /// Standard output as JSON lines.
    #[track_caller]
    pub fn json(&self) -> Vec<serde_json::Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
    }
}

impl World {
    /// A folder with `text.txt`.
    pub fn new() -> Self {
        let words: Vec<&str> = WORDS.split(' ').collect();
        let mut text = String::new();
        for document in 0..100 {
            let key = Key::new(9, Stream::World, document, 0);
            for sentence in 0..6 {
                let drawn: Vec<&str> = (0..7).map(|word| words[key.below(7 * sentence + word, words.len() as u32) as usize]).collect();
                text.push_str(&drawn.join(" "));
                text.push_str(".\n");
            }
            text.push('\n');
        }
        let world = Self { folder: tempfile::tempdir().unwrap() };
        world.write("text.txt", &text);
        world
    }

    /// With a vocabulary in `vocabulary` and a corpus in `corpus`, made by the program.
    pub fn prepared() -> Self {
        let world = Self::new();
        world.run("tokenizer train --input text.txt --vocab-size 120 --out vocabulary").well();
        world.run("prepare --input text.txt --tokenizer vocabulary --out corpus --quiet").well();
        world
    }

    /// A recipe `recipe.toml` for a very small model.
    pub fn recipe(&self, steps: u64) {
        let recipe = format!(
            r#"
            out = "run"
            seed = 4
            data.dir = "corpus"
            [model]
            num_hidden_layers = 2
            hidden_size = 32
            num_attention_heads = 2
            intermediate_size = 64
            max_position_embeddings = 64
            [objective]
            sentence_objective = "sentence_order"
            [train]
            budget = "{steps} steps"
            batch_tokens = {{ from = 150, to = 400, until = 0.7 }}
            micro_batch_tokens = 256
            sequence_length = [[0.0, 16], [0.4, 32]]
            precision = "f32"
            [optimizer]
            ema = 0.95
            [evaluation]
            every = "25%"
            tokens = 200
            [checkpoint]
            every = "3 steps"
            "#
        );
        self.write("recipe.toml", &recipe);
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// The program with these arguments, cut at spaces, in the folder.
    pub fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cloze"));
        command.args(arguments.split_whitespace()).current_dir(self.folder.path()).stdin(Stdio::null());
        for variable in ["CLOZE_DEVICE", "CLOZE_THREADS", "CLOZE_LOG", "NO_COLOR"] {
            command.env_remove(variable);
        }
        command
    }

    pub fn run(&self, arguments: &str) -> Done {
        self.command(arguments).output().unwrap().into()
    }
}

/// Each step's figures in a run's log, bit for bit, and its evaluations; without the clock.
pub fn trace(out: &Path) -> Vec<String> {
    use cloze::train::observer::Event;
    let events = cloze::train::log::read_log(&out.join("log.jsonl")).unwrap();
    let line = |event: &Event| match event {
        Event::Step(r) => {
            let figures = [r.loss, r.grad_norm, r.learning_rate, r.epoch].map(f64::to_bits);
            Some(format!("step {} {figures:x?} {:?} {}", r.step, r.parts, r.tokens))
        }
        Event::Eval(e) => Some(format!("evaluation {} {:?}", e.step, e.metrics)),
        _ => None,
    };
    events.iter().filter_map(line).collect()
}
