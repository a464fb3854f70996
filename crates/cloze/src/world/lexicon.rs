//! Words by class, and which labelled split may use them.
//!
//! A class is what a slot of a sentence accepts: the things of one topic, the adjectives of one attitude, … All words of
//! a class occur in the raw corpus in the same surroundings; the labelled splits share hardly any of them. Who wants to
//! carry a label from the training split to the test split has to know from raw text which words belong together.

use std::collections::BTreeMap;

use super::{Draws, Polarity, Split, Topic};

/// What a word of a topic does in a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// What opinions are about: a dish, a match, a song.
    Thing,
    /// Who works there.
    Person,
    /// Where it happens.
    Place,
    /// Objects nobody judges: a spoon, a whistle.
    Prop,
    /// A clause about a thing, its object last.
    Act,
    /// A whole neutral sentence without its full stop.
    Event,
}

/// What a word of praise or blame may be said of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tone {
    /// Adjectives for anything.
    Any,
    /// Adjectives for the things of one topic.
    Thing(Topic),
    /// Adjectives for people.
    Person,
    /// Adjectives for places.
    Place,
    /// What one feels.
    Feeling,
    /// Verbs with a thing as object.
    Attitude,
    /// Nouns for how it turned out.
    Outcome,
    /// How someone did it.
    Manner,
}

/// What a slot accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    Topic(Topic, Role),
    Tone(Polarity, Tone),
}

/// One word (or, for acts and events, one sentence pattern).
#[derive(Clone, Debug)]
pub(super) struct Word {
    pub(super) text: String,
    /// English nouns: `p` plural, `m` mass, else a preposition of place. Chinese nouns: the measure word.
    pub(super) note: &'static str,
    /// The labelled split that may use it. The raw corpus uses all words.
    pub(super) split: Split,
}

/// Which words a writer may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vocabulary {
    /// All of them: raw text.
    All,
    /// Those of one labelled split; dev and test borrow one in [`BORROWED`] from the training split.
    Of(Split),
}

/// One word in so many of the dev and test splits comes from the training split's vocabulary.
pub(super) const BORROWED: usize = 3;

/// Shares of the vocabulary that the splits own, in [`Split::ALL`]'s order.
const SHARES: [f64; 3] = [0.4, 0.15, 0.45];

/// Words that look alike (below) go to the same split, in families of at most so many.
const FAMILY_LIMIT: usize = 10;

pub(super) struct Lexicon {
    classes: BTreeMap<Class, Vec<Word>>,
}

/// Characters that many words share without being alike.
const COMMON: &str = "一不无人个场种件份大小的于难心";

/// Chinese words of one kind are alike when they share a character, English ones when they share their first five letters.
fn alike(a: &str, b: &str) -> bool {
    if a.is_ascii() && b.is_ascii() {
        a.len() >= 5 && b.len() >= 5 && a.as_bytes()[..5] == b.as_bytes()[..5]
    } else {
        a.chars().any(|c| !c.is_ascii() && !COMMON.contains(c) && b.contains(c))
    }
}

fn root(parent: &mut [usize], mut i: usize) -> usize {
    while parent[i] != i {
        parent[i] = parent[parent[i]];
        i = parent[i];
    }
    i
}

impl Lexicon {
    /// `entries`: a class and its words, written `text/note`, `_` for a space.
    pub(super) fn new(entries: Vec<(Class, Vec<&'static str>)>, mut draws: Draws) -> Self {
        let mut flat: Vec<(Class, Word)> = Vec::new();
        for (class, words) in entries {
            let pattern = matches!(class, Class::Topic(_, Role::Act | Role::Event));
            for word in words {
                let (text, note) = if pattern { (word, "") } else { word.split_once('/').unwrap_or((word, "")) };
                let text = if pattern { text.to_owned() } else { text.replace('_', " ") };
                flat.push((class, Word { text, note, split: Split::Train }));
            }
        }
        Self::deal(&mut flat, &mut draws);
        let mut classes: BTreeMap<Class, Vec<Word>> = BTreeMap::new();
        for (class, word) in flat {
            classes.entry(class).or_default().push(word);
        }
        Self { classes }
    }

    /// Gives every family of words to the split that lacks such words most.
    fn deal(flat: &mut [(Class, Word)], draws: &mut Draws) {
        let kind = |class: Class| match class {
            Class::Topic(_, Role::Act | Role::Event) => None,
            Class::Topic(topic, _) => Some((Some(topic), None)),
            Class::Tone(polarity, _) => Some((None, Some(polarity))),
        };
        let n = flat.len();
        let mut parent: Vec<usize> = (0..n).collect();
        let mut size = vec![1usize; n];
        for i in 0..n {
            for j in 0..i {
                let same_kind = kind(flat[i].0).is_some() && kind(flat[i].0) == kind(flat[j].0);
                let (x, y) = (&flat[i].1.text, &flat[j].1.text);
                if same_kind && alike(x, y) {
                    let (a, b) = (root(&mut parent, i), root(&mut parent, j));
                    if a != b && (x == y || size[a] + size[b] <= FAMILY_LIMIT) {
                        parent[a] = b;
                        size[b] += size[a];
                    }
                }
            }
        }
        let mut families: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for i in 0..n {
            families.entry(root(&mut parent, i)).or_default().push(i);
        }
        let mut order: Vec<Vec<usize>> = families.into_values().collect();
        for i in (1..order.len()).rev() {
            order.swap(i, draws.below(i + 1));
        }
        // Large families first: the small ones even the shares out.
        order.sort_by_key(|family| std::cmp::Reverse(family.len()));
        let mut total: BTreeMap<Class, f64> = BTreeMap::new();
        for (class, _) in flat.iter() {
            *total.entry(*class).or_default() += 1.0;
        }
        let mut given: BTreeMap<(Class, usize), f64> = BTreeMap::new();
        for family in order {
            let lack = |s: usize| -> f64 {
                family
                    .iter()
                    .map(|&i| {
                        let class = flat[i].0;
                        SHARES[s] - given.get(&(class, s)).copied().unwrap_or(0.0) / total[&class]
                    })
                    .sum()
            };
            let split = (0..3).fold(0, |best, s| if lack(s) > lack(best) { s } else { best });
            for &i in &family {
                *given.entry((flat[i].0, split)).or_default() += 1.0;
                flat[i].1.split = Split::ALL[split];
            }
        }
        Self::leave_none_out(flat);
    }

    /// Every split has to have a word of every class: one that looks like many others may have left a split without.
    fn leave_none_out(flat: &mut [(Class, Word)]) {
        let classes: Vec<Class> = flat.iter().map(|(class, _)| *class).collect();
        for &class in &classes {
            let of = |split: Split| move |entry: &&(Class, Word)| entry.0 == class && entry.1.split == split;
            for split in Split::ALL {
                if flat.iter().any(|entry| of(split)(&entry)) {
                    continue;
                }
                let rich = Split::ALL.into_iter().max_by_key(|s| flat.iter().filter(of(*s)).count()).unwrap_or(split);
                let alone = |i: &usize| {
                    let text = &flat[*i].1.text;
                    of(rich)(&&flat[*i]) && flat.iter().filter(|entry| entry.1.text == *text).count() == 1
                };
                if let Some(i) = (0..flat.len()).find(alone) {
                    flat[i].1.split = split;
                }
            }
        }
    }

    /// All words of a class.
    pub(super) fn words(&self, class: Class) -> &[Word] {
        self.classes.get(&class).map_or(&[], Vec::as_slice)
    }

    /// A word of `class` that `vocabulary` allows.
    pub(super) fn pick(&self, class: Class, vocabulary: Vocabulary, draws: &mut Draws) -> &Word {
        let words = self.words(class);
        let Vocabulary::Of(split) = vocabulary else { return draws.choose(words) };
        let borrow = split != Split::Train && draws.below(BORROWED) == 0;
        let split = if borrow { Split::Train } else { split };
        let allowed: Vec<&Word> = words.iter().filter(|w| w.split == split).collect();
        draws.pick(&allowed)
    }

    /// Every class with its words.
    #[cfg(test)]
    pub(super) fn classes(&self) -> impl Iterator<Item = (Class, &[Word])> {
        self.classes.iter().map(|(class, words)| (*class, words.as_slice()))
    }
}
