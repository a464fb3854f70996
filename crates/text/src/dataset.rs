//! A prepared corpus, opened for reading.

use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::shard::{Shard, Tokens};

/// The file that makes a folder a prepared corpus; `prepare` writes it last.
pub const MANIFEST: &str = "manifest.json";

/// Version of the folder's layout.
pub(crate) const MANIFEST_VERSION: u32 = 1;

/// Which documents: those to train on, or those held out. No document is in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Trained on.
    Train,
    /// Never trained on; for evaluation.
    Heldout,
}

impl Split {
    /// `train` or `heldout`: the start of its shards' file names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Heldout => "heldout",
        }
    }
}

/// What a prepared corpus consists of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// Layout version.
    pub version: u32,
    /// Vocabulary size of the tokenizer that made the ids.
    pub vocab_size: u64,
    /// The shards, in reading order.
    pub shards: Vec<ShardEntry>,
}

/// One shard of a prepared corpus.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ShardEntry {
    /// File name inside the folder.
    pub file: String,
    /// Whose documents it holds.
    pub split: Split,
    /// Tokens.
    pub tokens: u64,
    /// Sentences.
    pub sentences: u64,
    /// Documents.
    pub documents: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

impl Manifest {
    /// Read the manifest of the corpus in `dir`.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(MANIFEST);
        let fail = |reason: String| Error::Manifest { path: path.clone(), reason };
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(fail("there is no manifest.json".into())),
            Err(e) => return Err(Error::io("read", &path)(e)),
        };
        let manifest: Self = serde_json::from_slice(&bytes).map_err(|e| fail(e.to_string()))?;
        if manifest.version != MANIFEST_VERSION {
            return Err(fail(format!("layout version {}, this program reads {MANIFEST_VERSION}", manifest.version)));
        }
        if let Some(entry) = manifest.shards.iter().find(|entry| !is_plain_name(&entry.file)) {
            return Err(fail(format!("shard {:?} is not a plain file name", entry.file)));
        }
        Ok(manifest)
    }
}

/// A name that stays in its folder.
fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', '\0', ':'])
}

/// The documents of one split of a prepared corpus.
#[derive(Debug)]
pub struct Dataset {
    shards: Vec<Shard>,
    /// Global number of each shard's first document, with the total at the end.
    first_document: Vec<u64>,
    vocab_size: u64,
}

impl Dataset {
    /// Open the corpus in `dir`. Headers, indexes and offsets are checked now, ids when first touched.
    pub fn open(dir: impl AsRef<Path>, split: Split) -> Result<Self> {
        let dir = dir.as_ref();
        let manifest = Manifest::read(dir)?;
        let mut shards = Vec::new();
        for entry in manifest.shards.iter().filter(|entry| entry.split == split) {
            let shard = Shard::open(&dir.join(&entry.file))?;
            let pairs = [
                ("vocabulary size", manifest.vocab_size, shard.vocab_size()),
                ("tokens", entry.tokens, shard.tokens()),
                ("sentences", entry.sentences, shard.sentences()),
                ("documents", entry.documents, shard.documents()),
            ];
            if let Some((what, expected, found)) = pairs.into_iter().find(|(_, expected, found)| expected != found) {
                let reason = format!("{}: the manifest says {expected} {what}, the shard {found}", entry.file);
                return Err(Error::Manifest { path: dir.join(MANIFEST), reason });
            }
            shards.push(shard);
        }
        let mut first_document = vec![0];
        for shard in &shards {
            first_document.push(first_document[first_document.len() - 1] + shard.documents());
        }
        Ok(Self { shards, first_document, vocab_size: manifest.vocab_size })
    }

    /// Check every block of every shard now, in parallel.
    pub fn verify(&self) -> Result<()> {
        self.shards.par_iter().map(Shard::verify).collect()
    }

    /// Vocabulary size of the tokenizer that made the ids.
    pub fn vocab_size(&self) -> u64 {
        self.vocab_size
    }

    /// How many documents.
    pub fn documents(&self) -> u64 {
        self.first_document[self.shards.len()]
    }

    /// How many sentences.
    pub fn sentence_count(&self) -> u64 {
        self.shards.iter().map(Shard::sentences).sum()
    }

    /// How many tokens, special tokens not counted.
    pub fn tokens(&self) -> u64 {
        self.shards.iter().map(Shard::tokens).sum()
    }

    /// The shards, in reading order.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The shard of `document` and its number in there.
    pub(crate) fn locate(&self, document: u64) -> (usize, usize) {
        assert!(document < self.documents(), "dataset: document {document} of {}", self.documents());
        let shard = self.first_document.partition_point(|&first| first <= document) - 1;
        (shard, (document - self.first_document[shard]) as usize)
    }

    /// Global number of the first document of shard `shard`.
    pub(crate) fn first_document(&self, shard: usize) -> u64 {
        self.first_document[shard]
    }

    /// The sentences of `document` (below [`documents`](Self::documents)), in order, read in place.
    pub fn sentences(&self, document: u64) -> Result<Vec<Tokens<'_>>> {
        let (shard, local) = self.locate(document);
        let shard = &self.shards[shard];
        let (starts, documents) = (shard.sentence_starts(), shard.document_starts());
        (documents.get(local)..documents.get(local + 1))
            .map(|s| shard.token_range(starts.get(s as usize)..starts.get(s as usize + 1)))
            .collect()
    }
}
