//! Labelled sentences: balanced, half English and half Chinese, with words of the split's own.

use std::collections::HashSet;

use cloze_tensor::random::Permutation;

use super::lexicon::{Class, Role, Vocabulary, Word};
use super::{Draws, Key, Labelled, Language, Polarity, Purpose, Split, Stream, Task, Topic, World};
use super::{grammar_en, grammar_zh};

/// Sentences tried per row before the row is given up.
const ATTEMPTS: u32 = 200;

/// A labelled sentence and the words of the lexicon in it.
pub(super) struct Written {
    pub(super) row: Labelled,
    pub(super) used: Vec<(Class, Word)>,
}

/// Whether a word carries the label of the task.
pub(super) fn carries(task: Task, class: Class) -> bool {
    match (task, class) {
        (Task::Sentiment, Class::Tone(..)) => true,
        (Task::Topic, Class::Topic(_, role)) => !matches!(role, Role::Act | Role::Event),
        _ => false,
    }
}

impl World {
    /// `n` different sentences with their labels, in an order that tells nothing. Labels and languages are balanced: their
    /// counts differ by one at most. Every sentence has a word that carries its label and that no other split owns; the dev
    /// and test splits borrow one word in three from the training split, which in turn never uses theirs. No sentence is
    /// in two splits. (The world does not run out of sentences in practice; if it did, fewer than `n` would come.)
    pub fn labelled(&self, task: Task, n: usize, split: Split) -> Vec<Labelled> {
        self.written(task, n, split).into_iter().map(|written| written.row).collect()
    }

    pub(super) fn written(&self, task: Task, n: usize, split: Split) -> Vec<Written> {
        let place = 8 * (task as u32) + split as u32;
        let mut seen = HashSet::new();
        let mut rows: Vec<Option<Written>> = Vec::with_capacity(n);
        for i in 0..n {
            for attempt in 0..ATTEMPTS {
                let draws = Draws::new(self.seed, Purpose::Labels, i as u64, place | attempt << 8);
                let written = self.sentence(task, i, split, draws);
                let own = written.used.iter().any(|(class, word)| carries(task, *class) && word.split == split);
                if own && seen.insert(written.row.text.clone()) {
                    rows.push(Some(written));
                    break;
                }
            }
        }
        let key = Key::new(self.seed, Stream::World, Purpose::Order as u64, place);
        let order = Permutation::new(key, rows.len().max(1) as u64);
        (0..rows.len()).filter_map(|i| rows[order.at(i as u64) as usize].take()).collect()
    }

    /// Row `i` before shuffling: labels take turns, and languages after each round of labels.
    fn sentence(&self, task: Task, i: usize, split: Split, mut draws: Draws) -> Written {
        let labels = task.labels();
        let (turn, round) = (i % labels.len(), i / labels.len());
        let language = if round % 2 == 0 { Language::English } else { Language::Chinese };
        let topic = if task == Task::Topic { Topic::ALL[turn] } else { *draws.choose(&Topic::ALL) };
        let polarity = Polarity::ALL[turn % 2];
        let vocabulary = Vocabulary::Of(split);
        let (text, used) = match language {
            Language::English => {
                let mut writer = grammar_en::Writer::new(&self.english, draws, vocabulary);
                let text = match task {
                    Task::Sentiment => writer.opinion(topic, polarity),
                    Task::Topic => writer.topical(topic),
                };
                (text, writer.used)
            }
            Language::Chinese => {
                let mut writer = grammar_zh::Writer::new(&self.chinese, draws, vocabulary);
                let text = match task {
                    Task::Sentiment => writer.opinion(topic, polarity),
                    Task::Topic => writer.topical(topic),
                };
                (text, writer.used)
            }
        };
        Written { row: Labelled { text, label: labels[turn], language }, used }
    }
}
