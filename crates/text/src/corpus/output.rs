//! Documents to the shards of their split.

use std::path::{Path, PathBuf};

use super::split_of;
use crate::dataset::{MANIFEST_VERSION, Manifest, ShardEntry, Split};
use crate::error::Result;
use crate::report::Report;
use crate::shard::{EncodedDocument, ShardWriter};

/// The shards of one split.
struct Shards {
    split: Split,
    writer: Option<(String, ShardWriter)>,
    entries: Vec<ShardEntry>,
    documents: u64,
    tokens: u64,
}

/// Writes documents to train or held-out shards.
pub(super) struct Output {
    folder: PathBuf,
    vocab_size: u64,
    holdout: f64,
    shard_tokens: u64,
    train: Shards,
    heldout: Shards,
    /// While all documents fell to one split: the one nearest to the other, kept back in case none ever falls there.
    kept_back: Option<(u128, Split, EncodedDocument)>,
}

impl Shards {
    fn new(split: Split) -> Self {
        Self { split, writer: None, entries: Vec::new(), documents: 0, tokens: 0 }
    }

    fn close(&mut self) -> Result<()> {
        if let Some((file, writer)) = self.writer.take() {
            let (tokens, sentences, documents, bytes) = writer.finish()?;
            self.entries.push(ShardEntry { file, split: self.split, tokens, sentences, documents, bytes });
        }
        Ok(())
    }
}

impl Output {
    pub(super) fn new(folder: &Path, vocab_size: u64, holdout: f64, shard_tokens: u64) -> Self {
        Self {
            folder: folder.to_path_buf(),
            vocab_size,
            holdout,
            shard_tokens,
            train: Shards::new(Split::Train),
            heldout: Shards::new(Split::Heldout),
            kept_back: None,
        }
    }

    pub(super) fn push(&mut self, hash: u128, document: EncodedDocument) -> Result<()> {
        let split = split_of(hash, self.holdout);
        if self.holdout == 0.0 || self.holdout == 1.0 || (self.train.documents > 0 && self.heldout.documents > 0) {
            return self.write(split, &document);
        }
        match self.kept_back.take() {
            None if self.train.documents + self.heldout.documents == 0 => self.kept_back = Some((hash, split, document)),
            None => self.write(split, &document)?,
            Some((_, kept_split, kept)) if kept_split != split => {
                // Both splits have a document now.
                self.write(kept_split, &kept)?;
                self.write(split, &document)?;
            }
            Some((kept_hash, _, kept)) => {
                let nearer = if split == Split::Train { hash < kept_hash } else { hash > kept_hash };
                let (back, now) = if nearer { ((hash, split, document), kept) } else { ((kept_hash, split, kept), document) };
                self.kept_back = Some(back);
                self.write(split, &now)?;
            }
        }
        Ok(())
    }

    fn write(&mut self, split: Split, document: &EncodedDocument) -> Result<()> {
        let (folder, vocab_size) = (&self.folder, self.vocab_size);
        let shards = if split == Split::Train { &mut self.train } else { &mut self.heldout };
        let full = |writer: &ShardWriter| writer.tokens() > 0 && writer.tokens() + document.ids.len() as u64 > self.shard_tokens;
        if shards.writer.as_ref().is_some_and(|(_, writer)| full(writer)) {
            shards.close()?;
        }
        if shards.writer.is_none() {
            let file = format!("{}-{:05}.shard", split.name(), shards.entries.len());
            let writer = ShardWriter::create(&folder.join(&file), vocab_size)?;
            shards.writer = Some((file, writer));
        }
        if let Some((_, writer)) = &mut shards.writer {
            writer.push(document)?;
            shards.documents += 1;
            shards.tokens += document.ids.len() as u64;
        }
        Ok(())
    }

    /// Close all shards. A document kept back goes to the split that has none, if there are two documents or more.
    pub(super) fn finish(mut self, report: &mut Report) -> Result<Manifest> {
        if let Some((_, split, document)) = self.kept_back.take() {
            let alone = self.train.documents + self.heldout.documents == 0;
            let other = if split == Split::Train { Split::Heldout } else { Split::Train };
            self.write(if alone { Split::Train } else { other }, &document)?;
        }
        self.train.close()?;
        self.heldout.close()?;
        report.heldout_documents = self.heldout.documents;
        report.heldout_tokens = self.heldout.tokens;
        let shards = self.train.entries.into_iter().chain(self.heldout.entries).collect();
        Ok(Manifest { version: MANIFEST_VERSION, vocab_size: self.vocab_size, shards })
    }
}
