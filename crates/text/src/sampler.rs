//! Which text a batch holds: samples of a prepared corpus, visited in random order, masked anew each epoch.
//!
//! A sample is a run of consecutive sentences of one document. Order, pairs and masks are functions of
//! (seed, cursor): nothing is kept between batches, so resuming at a cursor is exact and costs nothing.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use cloze_tensor::random::{Key, Permutation, Stream};
use rayon::prelude::*;

use crate::batch::{Batch, Limits};
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::objective::{self, Draws, ObjectiveConfig, SentenceObjective, Vocabulary};
use crate::shard::{Shard, Tokens};

/// The shortest sequence that leaves room for text between the special tokens.
const SHORTEST: usize = 8;

/// Tokens of one sample inside its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    start: u32,
    length: u32,
}

/// All samples for one sequence length.
#[derive(Debug)]
struct SampleTable {
    runs: Vec<Vec<Run>>, // per shard
    first: Vec<u64>,     // number of each shard's first sample, with the total at the end
}

impl SampleTable {
    fn get(&self, sample: u64) -> (usize, Run) {
        let shard = self.first.partition_point(|&first| first <= sample) - 1;
        (shard, self.runs[shard][(sample - self.first[shard]) as usize])
    }

    fn total(&self) -> u64 {
        self.first[self.runs.len()]
    }
}

/// Tables that are kept: a run asks for its length and for the one before it; a length that grows step by step must not pile them up.
const TABLES: usize = 3;

/// Makes batches of a dataset.
#[derive(Debug)]
pub struct Sampler {
    dataset: Arc<Dataset>,
    config: ObjectiveConfig,
    vocabulary: Vocabulary,
    seed: u64,
    /// Of the sequence lengths asked for last, the latest at the end.
    tables: Mutex<Vec<(usize, Arc<SampleTable>)>>,
}

/// A sample before masking.
#[derive(Default)]
struct Draft {
    ids: Vec<u32>,
    types: Vec<u32>,
    words: Vec<Range<usize>>,
    label: Option<u32>,
}

impl Draft {
    fn clear(&mut self) {
        self.ids.clear();
        self.types.clear();
        self.words.clear();
        self.label = None;
    }

    fn frame(&mut self, id: u32, segment: u32) {
        self.ids.push(id);
        self.types.push(segment);
    }

    fn segment(&mut self, tokens: Tokens<'_>, range: Range<usize>, segment: u32, vocabulary: &Vocabulary) {
        let begin = self.words.len();
        for i in range {
            let (at, id) = (self.ids.len(), tokens.id(i));
            self.ids.push(id);
            self.types.push(segment);
            if id == vocabulary.cls || id == vocabulary.sep || id == vocabulary.mask {
                continue; // the text itself held a special token: it is never masked
            }
            match self.words[begin..].last_mut() {
                Some(word) if tokens.continues(i) && word.end == at => word.end = at + 1,
                _ => self.words.push(at..at + 1),
            }
        }
    }
}

impl Sampler {
    /// A sampler of `dataset` for the objective; `seed` decides order, pairs and masks.
    pub fn new(dataset: Arc<Dataset>, config: ObjectiveConfig, vocabulary: Vocabulary, seed: u64) -> Result<Self> {
        config.validate()?;
        vocabulary.validate()?;
        if dataset.vocab_size() != u64::from(vocabulary.size) {
            return Err(Error::VocabularyDiffers { corpus: dataset.vocab_size(), vocabulary: vocabulary.size.into() });
        }
        let (objective, needed) = match config.sentence_objective {
            SentenceObjective::NextSentence => ("next_sentence", 2),
            SentenceObjective::SentenceOrder => ("sentence_order", 1),
            SentenceObjective::None => ("masked_lm", 1),
        };
        let found = dataset.documents();
        if found < needed {
            return Err(Error::TooLittleData { objective, unit: "documents", needed, found });
        }
        Ok(Self { dataset, config, vocabulary, seed, tables: Mutex::new(Vec::new()) })
    }

    /// The dataset.
    pub fn dataset(&self) -> &Arc<Dataset> {
        &self.dataset
    }

    /// The objective.
    pub fn config(&self) -> &ObjectiveConfig {
        &self.config
    }

    /// The vocabulary.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// Samples of one epoch at this sequence length: cursors `0..samples` are the first epoch.
    pub fn samples(&self, sequence_length: usize) -> Result<u64> {
        Ok(self.table(sequence_length)?.total())
    }

    fn table(&self, sequence_length: usize) -> Result<Arc<SampleTable>> {
        if sequence_length < SHORTEST {
            return Err(Error::Setting { key: "sequence_length", found: sequence_length.to_string(), expected: "at least 8 tokens" });
        }
        // Held while building, so that concurrent callers wait for one table instead of building two.
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = tables.iter().position(|(length, _)| *length == sequence_length) {
            tables[at..].rotate_left(1);
            return Ok(Arc::clone(&tables[tables.len() - 1].1));
        }
        let room = sequence_length - self.config.frame();
        let pairs = self.config.sentence_objective != SentenceObjective::None;
        let runs: Vec<Vec<Run>> = self.dataset.shards().par_iter().map(|shard| runs_of(shard, room, pairs)).collect::<Result<_>>()?;
        let mut first = vec![0];
        for shard in &runs {
            first.push(first[first.len() - 1] + shard.len() as u64);
        }
        let table = Arc::new(SampleTable { runs, first });
        if table.total() == 0 {
            return Err(Error::TooLittleData { objective: "pre-training", unit: "samples", needed: 1, found: 0 });
        }
        if tables.len() == TABLES {
            tables.remove(0);
        }
        tables.push((sequence_length, Arc::clone(&table)));
        Ok(table)
    }

    /// The batch at `cursor` and the cursor after it: as many samples, in their random order, as `limits` allows.
    ///
    /// A cursor counts samples: `cursor / samples` is the epoch.
    pub fn batch(&self, cursor: u64, limits: Limits) -> Result<(Batch, u64)> {
        let table = self.table(limits.sequence_length)?;
        let total = table.total();
        let (mut batch, mut draft, mut next) = (Batch::default(), Draft::default(), cursor);
        let mut order: Option<(u64, Permutation)> = None;
        loop {
            let epoch = next / total;
            let permutation = match order {
                Some((of, permutation)) if of == epoch => permutation,
                _ => Permutation::new(Key::new(self.seed, Stream::Shuffle, epoch, 0), total),
            };
            order = Some((epoch, permutation));
            let sample = permutation.at(next % total);
            if !self.append(&table, epoch, sample, limits, &mut draft, &mut batch)? {
                return Ok((batch, next));
            }
            next += 1;
        }
    }

    /// The batch at `cursor` in reading order with fixed masks, for evaluation: each sample once; `None` at the end.
    pub fn sequential(&self, cursor: u64, limits: Limits) -> Result<Option<(Batch, u64)>> {
        let table = self.table(limits.sequence_length)?;
        let (mut batch, mut draft, mut next) = (Batch::default(), Draft::default(), cursor);
        while next < table.total() && self.append(&table, 0, next, limits, &mut draft, &mut batch)? {
            next += 1;
        }
        Ok((next > cursor).then_some((batch, next)))
    }

    /// All batches in reading order with fixed masks; see [`sequential`](Self::sequential).
    pub fn evaluation(&self, limits: Limits) -> impl Iterator<Item = Result<Batch>> + '_ {
        let mut cursor = Some(0);
        std::iter::from_fn(move || match self.sequential(cursor?, limits) {
            Ok(Some((batch, next))) => {
                cursor = Some(next);
                Some(Ok(batch))
            }
            Ok(None) => None,
            Err(e) => {
                cursor = None;
                Some(Err(e))
            }
        })
    }

    /// Append one sample unless it does not fit any more; the first always fits.
    fn append(&self, table: &SampleTable, epoch: u64, sample: u64, limits: Limits, draft: &mut Draft, batch: &mut Batch) -> Result<bool> {
        let (shard, run) = table.get(sample);
        let full = |tokens: usize| batch.sequences.count() > 0 && batch.tokens() + tokens > limits.tokens;
        if full(if self.config.sentence_objective == SentenceObjective::None { run.length as usize + 2 } else { 5 }) {
            return Ok(false);
        }
        let step = epoch.wrapping_mul(table.total()).wrapping_add(sample);
        draft.clear();
        self.draft(shard, run, limits.sequence_length, Key::new(self.seed, Stream::Sampling, step, 0), draft)?;
        if full(draft.ids.len()) {
            return Ok(false);
        }
        let key = Key::new(self.seed, Stream::Masking, step, 0);
        let base = batch.tokens();
        objective::mask(&self.config, &self.vocabulary, key, &draft.words, &mut draft.ids, base, batch);
        batch.push(&draft.ids, &draft.types);
        batch.sequence_labels.extend(draft.label);
        Ok(true)
    }

    fn draft(&self, shard_index: usize, run: Run, sequence_length: usize, key: Key, draft: &mut Draft) -> Result<()> {
        let shard = &self.dataset.shards()[shard_index];
        let tokens = shard.token_range(run.start..run.start + run.length)?;
        let v = &self.vocabulary;
        draft.frame(v.cls, 0);
        if self.config.sentence_objective == SentenceObjective::None {
            draft.segment(tokens, 0..tokens.len(), 0, v);
            draft.frame(v.sep, 0);
            return Ok(());
        }
        let mut draws = Draws::new(key);
        let middle = boundary(shard, run, tokens, &mut draws);
        let (first, second) = ((tokens, 0..middle), (tokens, middle..tokens.len()));
        let (first, second, label) = match self.config.sentence_objective {
            SentenceObjective::NextSentence if draws.uniform() < 0.5 => (first, second, 0),
            SentenceObjective::NextSentence => {
                let local = shard.document_starts().at_most((shard.sentence_starts().at_most(run.start) - 1) as u32) - 1;
                let document = self.dataset.first_document(shard_index) + local as u64;
                let room = sequence_length - self.config.frame() - middle;
                let (other, range) = objective::continuation_elsewhere(&self.dataset, document, room, &mut draws);
                let other = self.dataset.shards()[other].token_range(range)?;
                (first, (other, 0..other.len()), 1)
            }
            _ => objective::order(first, second, &mut draws),
        };
        draft.segment(first.0, first.1, 0, v);
        draft.frame(v.sep, 0);
        draft.segment(second.0, second.1, 1, v);
        draft.frame(v.sep, 1);
        draft.label = Some(label);
        Ok(())
    }
}

/// Where a pair is cut: at a random sentence end inside the run, or else at the word start nearest to its middle.
fn boundary(shard: &Shard, run: Run, tokens: Tokens<'_>, draws: &mut Draws) -> usize {
    let starts = shard.sentence_starts();
    // Sentence starts strictly inside the run.
    let (low, high) = (starts.at_most(run.start), starts.at_most(run.start + run.length - 1));
    if high > low {
        let at = low + draws.below((high - low) as u64) as usize;
        return (starts.get(at) - run.start) as usize;
    }
    let middle = tokens.len() / 2;
    let near = |i: &usize| i.abs_diff(middle);
    (1..tokens.len()).filter(|&i| !tokens.continues(i)).min_by_key(near).unwrap_or(middle)
}

/// Cut the documents of a shard into runs of at most `room` tokens, at sentence ends where possible.
fn runs_of(shard: &Shard, room: usize, pairs: bool) -> Result<Vec<Run>> {
    let (starts, documents) = (shard.sentence_starts(), shard.document_starts());
    let room = room as u32;
    let mut runs = Vec::new();
    for document in 0..shard.documents() as usize {
        let sentences = documents.get(document) as usize..documents.get(document + 1) as usize;
        let mut start = starts.get(sentences.start);
        let mut end = start;
        for sentence in sentences {
            let next = starts.get(sentence + 1);
            if next - start <= room {
                end = next;
                continue;
            }
            keep(shard, start, end, pairs, &mut runs)?;
            start = end;
            while next - start > room {
                let cut = word_start(shard, start, start + room)?;
                keep(shard, start, cut, pairs, &mut runs)?;
                start = cut;
            }
            end = next;
        }
        keep(shard, start, end, pairs, &mut runs)?;
    }
    Ok(runs)
}

fn keep(shard: &Shard, start: u32, end: u32, pairs: bool, runs: &mut Vec<Run>) -> Result<()> {
    if end == start {
        return Ok(());
    }
    // A pair needs two words.
    if pairs && end - start < 16 {
        let tokens = shard.token_range(start..end)?;
        if !(1..tokens.len()).any(|i| !tokens.continues(i)) {
            return Ok(());
        }
    }
    runs.push(Run { start, length: end - start });
    Ok(())
}

/// The last word start in the second half of `start..limit`, so that a long sentence is not cut inside a word.
fn word_start(shard: &Shard, start: u32, limit: u32) -> Result<u32> {
    let tokens = shard.token_range(start..limit + 1)?;
    let room = tokens.len() - 1;
    Ok((room / 2..=room).rev().find(|&i| i > 0 && !tokens.continues(i)).map_or(limit, |i| start + i as u32))
}
