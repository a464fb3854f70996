//! A small generated world, in English and Chinese: raw documents, labelled sentences and masked questions.
//!
//! The world is made so that reading helps. Documents keep one topic and one attitude over several sentences, so that raw
//! text tells which words belong together. The labelled sentences come from the same grammar, but each split has words of
//! its own: whoever has only seen the training labels meets mostly unknown words in the test split, whoever has read the
//! documents knows them. A few dozen stable facts ("The capital of France is Paris.") give masked questions with one right
//! answer.
//!
//! Everything is a function of the seed: the same seed gives the same bytes, on every machine.
//!
//! ```
//! use cloze::world::{Split, Task, World};
//!
//! let world = World::new(1);
//! let documents: Vec<_> = world.documents(0.5, 10_000).collect();
//! let train = world.labelled(Task::Sentiment, 100, Split::Train);
//! assert_eq!(train.len(), 100);
//! assert!(documents.iter().map(|d| d.text.len()).sum::<usize>() >= 10_000);
//! ```

mod facts;
mod grammar_en;
mod grammar_zh;
mod inflection_en;
mod labels;
mod lexicon;
mod lexicon_en;
mod lexicon_zh;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use cloze_tensor::random::{Key, Stream};

use lexicon::{Lexicon, Vocabulary};

/// The language of a document or a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Language {
    /// English.
    English,
    /// Chinese (simplified characters).
    Chinese,
}

impl Language {
    /// The ISO 639-1 code.
    pub fn code(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::Chinese => "zh",
        }
    }
}

/// What a document or a sentence is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// Dishes, cooks, restaurants.
    Food,
    /// Sights, guides, hotels.
    Travel,
    /// Matches, players, stadiums.
    Sport,
    /// Devices, programs, the people who make them.
    Technology,
    /// Rain, wind, seasons.
    Weather,
    /// Songs, players, concert halls.
    Music,
}

impl Topic {
    /// All topics, in the order of their labels.
    pub const ALL: [Self; 6] = [Self::Food, Self::Travel, Self::Sport, Self::Technology, Self::Weather, Self::Music];

    /// The label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Food => "food",
            Self::Travel => "travel",
            Self::Sport => "sport",
            Self::Technology => "technology",
            Self::Weather => "weather",
            Self::Music => "music",
        }
    }
}

/// Praise or blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Polarity {
    /// Praise.
    Positive,
    /// Blame.
    Negative,
}

impl Polarity {
    /// Both, in the order of their labels.
    pub const ALL: [Self; 2] = [Self::Positive, Self::Negative];

    /// The label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Positive => "positive",
            Self::Negative => "negative",
        }
    }

    /// The other one.
    #[must_use]
    pub fn opposite(self) -> Self {
        match self {
            Self::Positive => Self::Negative,
            Self::Negative => Self::Positive,
        }
    }
}

/// What the labels of a data set say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Task {
    /// [`Polarity`].
    Sentiment,
    /// [`Topic`].
    Topic,
}

impl Task {
    /// Both tasks.
    pub const ALL: [Self; 2] = [Self::Sentiment, Self::Topic];

    /// The name, as in the files that [`World::write`] makes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sentiment => "sentiment",
            Self::Topic => "topic",
        }
    }

    /// All labels of the task.
    pub fn labels(self) -> Vec<&'static str> {
        match self {
            Self::Sentiment => Polarity::ALL.iter().map(|p| p.name()).collect(),
            Self::Topic => Topic::ALL.iter().map(|t| t.name()).collect(),
        }
    }
}

/// Part of a labelled data set. Each has words of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Split {
    /// For learning.
    Train,
    /// For choosing the best epoch.
    Dev,
    /// For the final figure.
    Test,
}

impl Split {
    /// All splits.
    pub const ALL: [Self; 3] = [Self::Train, Self::Dev, Self::Test];

    /// The name, as in the files that [`World::write`] makes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Dev => "dev",
            Self::Test => "test",
        }
    }
}

/// A raw document: 4 to 12 sentences on one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The text, without line breaks.
    pub text: String,
    /// Its language.
    pub language: Language,
}

/// A sentence with its label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labelled {
    /// The sentence.
    pub text: String,
    /// One of [`Task::labels`].
    pub label: &'static str,
    /// Its language.
    pub language: Language,
}

/// A question with one `[MASK]` and its right answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The sentence with `[MASK]` in it.
    pub text: String,
    /// The word (English) or character (Chinese) under the mask.
    pub answer: String,
    /// Its language.
    pub language: Language,
}

/// How much [`World::write`] writes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sizes {
    /// Bytes of raw text, at least.
    pub corpus_bytes: u64,
    /// Share of these bytes that is English, 0 to 1.
    pub english_share: f64,
    /// Labelled sentences per task for learning.
    pub train: usize,
    /// Labelled sentences per task for choosing the best epoch.
    pub dev: usize,
    /// Labelled sentences per task for the final figure.
    pub test: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { corpus_bytes: 4_000_000, english_share: 0.5, train: 400, dev: 200, test: 1000 }
    }
}

/// The files that [`World::write`] made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// Raw documents with a blank line between them.
    pub corpus: PathBuf,
    /// Sentiment data in [`Split::ALL`]'s order; a header line `text<TAB>label`.
    pub sentiment: [PathBuf; 3],
    /// Topic data, likewise.
    pub topic: [PathBuf; 3],
    /// One JSON object per line with `text`, `answer`, `language`.
    pub probes: PathBuf,
}

/// Why a world could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// The file could not be made or filled.
    #[error("cannot write {path}: {source}; choose a folder that can be written and has room")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What a stream of draws is for; part of its key.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
enum Purpose {
    Lexicon = 0,
    Document = 1,
    Labels = 2,
    Order = 3,
}

/// The generated world of one seed.
pub struct World {
    seed: u64,
    english: Lexicon,
    chinese: Lexicon,
}

impl World {
    /// The world of `seed`.
    pub fn new(seed: u64) -> Self {
        let draws = |language: u64| Draws::new(seed, Purpose::Lexicon, language, 0);
        Self { seed, english: Lexicon::new(lexicon_en::entries(), draws(0)), chinese: Lexicon::new(lexicon_zh::entries(), draws(1)) }
    }

    /// Raw documents until `target_bytes` of text are reached. `english_share` of the bytes (0 to 1) are English; the
    /// languages alternate by document. One document in three or four states facts, the others tell a story.
    pub fn documents(&self, english_share: f64, target_bytes: u64) -> impl Iterator<Item = Document> + '_ {
        let mut bytes = [0u64; 2];
        let mut index = 0u64;
        std::iter::from_fn(move || {
            let total = bytes[0] + bytes[1];
            if total >= target_bytes {
                return None;
            }
            let english = english_share > 0.0 && bytes[0] as f64 <= english_share * total as f64;
            let language = if english { Language::English } else { Language::Chinese };
            let text = self.document(language, Draws::new(self.seed, Purpose::Document, index, 0));
            bytes[usize::from(!english)] += text.len() as u64;
            index += 1;
            Some(Document { text, language })
        })
    }

    fn document(&self, language: Language, mut draws: Draws) -> String {
        if draws.below(100) < 28 {
            return facts::document(language, &mut draws);
        }
        match language {
            Language::English => grammar_en::Writer::new(&self.english, draws, Vocabulary::All).document(),
            Language::Chinese => grammar_zh::Writer::new(&self.chinese, draws, Vocabulary::All).document(),
        }
    }

    /// Questions about the facts of the world, each with one `[MASK]`.
    pub fn fill_mask_probes(&self) -> Vec<Probe> {
        facts::probes()
    }

    /// Writes the corpus, the labelled data of both tasks and the masked questions into the folder `dir`, which must
    /// exist: `corpus.txt`, `sentiment.{train,dev,test}.tsv`, `topic.{train,dev,test}.tsv`, `probes.jsonl`.
    pub fn write(&self, dir: &Path, sizes: &Sizes) -> Result<Files, WorldError> {
        let corpus = dir.join("corpus.txt");
        write_file(&corpus, |out| {
            for (i, document) in self.documents(sizes.english_share, sizes.corpus_bytes).enumerate() {
                let gap = if i == 0 { "" } else { "\n" };
                writeln!(out, "{gap}{}", document.text)?;
            }
            Ok(())
        })?;
        let table = |task: Task, split: Split| {
            let path = dir.join(format!("{}.{}.tsv", task.name(), split.name()));
            let n = [sizes.train, sizes.dev, sizes.test][split as usize];
            write_file(&path, |out| {
                writeln!(out, "text\tlabel")?;
                self.labelled(task, n, split).iter().try_for_each(|row| writeln!(out, "{}\t{}", row.text, row.label))
            })?;
            Ok(path)
        };
        let tables = |task: Task| -> Result<[PathBuf; 3], WorldError> {
            Ok([table(task, Split::Train)?, table(task, Split::Dev)?, table(task, Split::Test)?])
        };
        let probes = dir.join("probes.jsonl");
        write_file(&probes, |out| {
            for probe in self.fill_mask_probes() {
                let row = serde_json::json!({
                    "text": probe.text, "answer": probe.answer, "language": probe.language.code(),
                });
                writeln!(out, "{row}")?;
            }
            Ok(())
        })?;
        Ok(Files { corpus, sentiment: tables(Task::Sentiment)?, topic: tables(Task::Topic)?, probes })
    }
}

fn write_file(path: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<(), WorldError> {
    let filled = File::create(path).and_then(|file| {
        let mut out = BufWriter::new(file);
        fill(&mut out)?;
        out.flush()
    });
    filled.map_err(|source| WorldError::Write { path: path.to_owned(), source })
}

/// The draws of one key, in order.
struct Draws {
    key: Key,
    next: u64,
}

impl Draws {
    fn new(seed: u64, purpose: Purpose, step: u64, place: u32) -> Self {
        Self { key: Key::new(seed, Stream::World, step << 8 | purpose as u64, place), next: 0 }
    }

    /// Uniform in `0..n`.
    fn below(&mut self, n: usize) -> usize {
        self.next += 1;
        self.key.below(self.next - 1, n as u32) as usize
    }

    /// True `percent` times in a hundred.
    fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of `items`, which must not be empty.
    fn pick<'a, T: ?Sized>(&mut self, items: &[&'a T]) -> &'a T {
        items[self.below(items.len())]
    }

    /// One of `items`, which must not be empty.
    fn choose<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// The index of one of `weights`, drawn in proportion.
    fn weighted(&mut self, weights: impl Iterator<Item = usize> + Clone) -> usize {
        let mut left = self.below(weights.clone().sum());
        weights
            .enumerate()
            .find_map(|(i, w)| {
                if left < w {
                    return Some(i);
                }
                left -= w;
                None
            })
            .unwrap_or(0)
    }
}
