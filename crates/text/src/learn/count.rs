//! Counting words on all cores in bounded memory.

use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

use crate::tokenizer::{Scratch, Splitter, TokenizerError};

const SHARDS: usize = 16;
/// Texts are cut into tasks of about this many bytes, at line ends.
const TASK: usize = 256 << 10;

#[derive(Clone, Copy)]
struct Entry {
    hash: u64,
    start: usize,
    length: u32,
    count: u64,
}

/// Words and how often they were seen: open addressing over an arena of bytes.
#[derive(Default)]
pub(crate) struct WordTable {
    /// Entry number + 1 beside the upper half of its hash; 0 is free.
    slots: Vec<(u32, u32)>,
    entries: Vec<Entry>,
    arena: Vec<u8>,
}

impl WordTable {
    fn add(&mut self, word: &[u8], hash: u64, count: u64) {
        if self.entries.len() * 2 >= self.slots.len() {
            self.grow();
        }
        let mask = self.slots.len() - 1;
        let tag = (hash >> 32) as u32;
        let mut at = hash as usize & mask;
        loop {
            let (number, slot_tag) = self.slots[at];
            if number == 0 {
                let start = self.arena.len();
                self.arena.extend_from_slice(word);
                self.entries.push(Entry { hash, start, length: word.len() as u32, count });
                self.slots[at] = (self.entries.len() as u32, tag);
                return;
            }
            if slot_tag == tag {
                let entry = &mut self.entries[number as usize - 1];
                if entry.hash == hash && &self.arena[entry.start..entry.start + entry.length as usize] == word {
                    entry.count += count;
                    return;
                }
            }
            at = (at + 1) & mask;
        }
    }

    fn grow(&mut self) {
        let size = (self.slots.len() * 2).max(1024);
        self.slots.clear();
        self.slots.resize(size, (0, 0));
        for (i, entry) in self.entries.iter().enumerate() {
            let mut at = entry.hash as usize & (size - 1);
            while self.slots[at].0 != 0 {
                at = (at + 1) & (size - 1);
            }
            self.slots[at] = (i as u32 + 1, (entry.hash >> 32) as u32);
        }
    }

    fn iter(&self) -> impl Iterator<Item = (&[u8], u64, u64)> {
        self.entries.iter().map(|e| (&self.arena[e.start..e.start + e.length as usize], e.hash, e.count))
    }

    /// Drops the words seen at most `count` times.
    fn drop_rare(&mut self, count: u64) {
        let mut kept = Self::default();
        for (word, hash, n) in self.iter().filter(|&(_, _, n)| n > count) {
            kept.add(word, hash, n);
        }
        *self = kept;
    }
}

/// What one thread saw of one batch.
struct Local {
    shards: [WordTable; SHARDS],
    words: u64,
    overlong: u64,
}

/// How texts are split into what is counted.
pub(crate) trait Words: Send + Sync {
    /// Gives every word of the text to `sink`; the answer is how many were left out for their length.
    fn each(&self, text: &str, sink: &mut dyn FnMut(&[u8])) -> Result<u64, TokenizerError>;
}

impl Words for Splitter {
    fn each(&self, text: &str, sink: &mut dyn FnMut(&[u8])) -> Result<u64, TokenizerError> {
        let mut overlong = 0;
        self.words(text, 0, text.len(), &mut Scratch::default(), |word| {
            if word.overlong {
                overlong += 1;
            } else {
                sink(word.bytes);
            }
        });
        Ok(overlong)
    }
}

/// The words of all batches so far.
pub(crate) struct WordCounts {
    shards: Vec<WordTable>,
    splitter: Box<dyn Words>,
    max_words: usize,
    /// Words seen.
    pub(crate) words: u64,
    /// Words left out because they are longer than any that is ever split into pieces.
    pub(crate) overlong: u64,
    /// Distinct words, and their occurrences, that were forgotten to stay within `max_words`.
    pub(crate) pruned: (u64, u64),
}

impl WordCounts {
    pub(crate) fn new(splitter: Box<dyn Words>, max_words: usize) -> Self {
        Self { shards: (0..SHARDS).map(|_| WordTable::default()).collect(), splitter, max_words, words: 0, overlong: 0, pruned: (0, 0) }
    }

    pub(crate) fn distinct(&self) -> usize {
        self.shards.iter().map(|shard| shard.entries.len()).sum()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], u64)> {
        self.shards.iter().flat_map(|shard| shard.iter().map(|(word, _, count)| (word, count)))
    }

    /// Counts the words of a batch. Sums do not depend on how the batch is shared out.
    pub(crate) fn add(&mut self, texts: &[String]) -> Result<(), TokenizerError> {
        let tasks: Vec<&str> = texts.iter().flat_map(|text| Pieces { rest: text }).collect();
        let share = tasks.len().div_ceil(rayon::current_num_threads()).max(1);
        let splitter = &*self.splitter;
        let locals = tasks.par_chunks(share).map(|tasks| count(splitter, tasks)).collect::<Result<Vec<Local>, _>>()?;
        self.words += locals.iter().map(|local| local.words).sum::<u64>();
        self.overlong += locals.iter().map(|local| local.overlong).sum::<u64>();
        self.shards.par_iter_mut().enumerate().for_each(|(i, shard)| {
            for local in &locals {
                for (word, hash, count) in local.shards[i].iter() {
                    shard.add(word, hash, count);
                }
            }
        });
        if self.distinct() > self.max_words {
            self.prune();
        }
        Ok(())
    }

    /// Forgets the rarest words, all of one frequency together, until a quarter of the table is free.
    fn prune(&mut self) {
        let mut counts: Vec<u64> = self.iter().map(|(_, count)| count).collect();
        let keep = self.max_words / 4 * 3;
        let place = counts.len() - keep.min(counts.len());
        let place = place.saturating_sub(1);
        let (_, &mut threshold, _) = counts.select_nth_unstable(place);
        for count in counts.into_iter().filter(|&count| count <= threshold) {
            self.pruned.0 += 1;
            self.pruned.1 += count;
        }
        self.shards.par_iter_mut().for_each(|shard| shard.drop_rare(threshold));
    }
}

fn count(splitter: &dyn Words, tasks: &[&str]) -> Result<Local, TokenizerError> {
    let mut local = Local { shards: Default::default(), words: 0, overlong: 0 };
    for task in tasks {
        let (shards, words) = (&mut local.shards, &mut local.words);
        let overlong = splitter.each(task, &mut |word| {
            *words += 1;
            let hash = xxh3_64(word);
            shards[(hash >> 60) as usize].add(word, hash, 1);
        })?;
        local.words += overlong;
        local.overlong += overlong;
    }
    Ok(local)
}

/// A text in parts of about [`TASK`] bytes that end with a line.
struct Pieces<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        if self.rest.is_empty() {
            return None;
        }
        let bytes = self.rest.as_bytes();
        let end = match bytes.get(TASK..).and_then(|tail| memchr::memchr(b'\n', tail)) {
            Some(at) => TASK + at + 1,
            None => bytes.len(),
        };
        let (part, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(part)
    }
}
