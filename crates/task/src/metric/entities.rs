//! Entities in tag sequences, and their precision, recall and F1, equal to seqeval's default mode (the rules of conlleval).

use std::collections::{BTreeMap, HashSet};

/// A run of tags of one type: (type, first, one past the last).
pub type Chunk = (String, usize, usize);

/// A tag as its mark (B, I, E, S, O) and its type. BILOU's L and U, and BMES's M, are read as E, S and I; a type without a
/// mark counts as I.
pub fn split_tag(tag: &str) -> (char, &str) {
    let mut parts = tag.splitn(2, ['-', '_']);
    match (parts.next(), parts.next()) {
        (Some(mark), Some(kind)) if mark.len() == 1 && "BIESLUM".contains(mark) => {
            let mark = match mark {
                "L" => 'E',
                "U" => 'S',
                "M" => 'I',
                other => other.chars().next().unwrap_or('I'),
            };
            (mark, kind)
        }
        _ if tag == "O" => ('O', ""),
        _ => ('I', tag),
    }
}

/// Whether tags are of entities: there is an O, or a mark on each.
pub fn is_scheme<S: AsRef<str>>(labels: &[S]) -> bool {
    let marked =
        |l: &S| l.as_ref().len() > 2 && matches!(l.as_ref().as_bytes(), [b'B' | b'I' | b'E' | b'S' | b'L' | b'U' | b'M', b'-' | b'_', ..]);
    labels.iter().any(|l| l.as_ref() == "O") || (!labels.is_empty() && labels.iter().all(marked))
}

/// The entities of a tag sequence.
pub fn chunks<S: AsRef<str>>(tags: &[S]) -> Vec<Chunk> {
    let mut found = Vec::new();
    let (mut before, mut kind_before) = ('O', "");
    let mut start = 0;
    for i in 0..=tags.len() {
        let (mark, kind) = tags.get(i).map_or(('O', ""), |t| split_tag(t.as_ref()));
        // a chunk ends behind an E or S, before a B, S or O, and where the type changes
        let ends = before != 'O' && (matches!(before, 'E' | 'S') || matches!(mark, 'B' | 'S' | 'O') || kind != kind_before);
        if ends {
            found.push((kind_before.to_owned(), start, i));
        }
        // and starts with a B or S, and with whatever follows an end or an O
        let starts = mark != 'O' && (matches!(mark, 'B' | 'S') || matches!(before, 'O' | 'E' | 'S') || kind != kind_before);
        if starts {
            start = i;
        }
        (before, kind_before) = (mark, kind);
    }
    found
}

/// Counts of one type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Found and right.
    pub hits: usize,
    /// Found.
    pub found: usize,
    /// In the gold data.
    pub gold: usize,
}

impl Counts {
    /// Of what was found, the share that is right; 0 without any.
    pub fn precision(&self) -> f64 {
        ratio(self.hits, self.found)
    }
    /// Of what is there, the share that was found; 0 without any.
    pub fn recall(&self) -> f64 {
        ratio(self.hits, self.gold)
    }
    /// Their harmonic mean; 0 where undefined.
    pub fn f1(&self) -> f64 {
        ratio(2 * self.hits, self.found + self.gold)
    }
}

fn ratio(a: usize, b: usize) -> f64 {
    if b > 0 { a as f64 / b as f64 } else { 0.0 }
}

/// Counts by type over many sequences.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entities {
    /// The counts of each type.
    pub types: BTreeMap<String, Counts>,
}

impl Entities {
    /// Take the entities of one sequence in.
    pub fn add(&mut self, gold: &[Chunk], found: &[Chunk]) {
        let (gold, found): (HashSet<&Chunk>, HashSet<&Chunk>) = (gold.iter().collect(), found.iter().collect());
        for chunk in &gold {
            let counts = self.types.entry(chunk.0.clone()).or_default();
            counts.gold += 1;
            counts.hits += usize::from(found.contains(chunk));
        }
        for chunk in &found {
            self.types.entry(chunk.0.clone()).or_default().found += 1;
        }
    }

    /// All types together.
    pub fn total(&self) -> Counts {
        self.types.values().fold(Counts::default(), |a, c| Counts {
            hits: a.hits + c.hits,
            found: a.found + c.found,
            gold: a.gold + c.gold,
        })
    }

    /// The figures by name.
    pub fn figures(&self) -> BTreeMap<String, f64> {
        let total = self.total();
        let macro_f1 = self.types.values().map(Counts::f1).sum::<f64>() / self.types.len().max(1) as f64;
        [("precision", total.precision()), ("recall", total.recall()), ("f1", total.f1()), ("macro_f1", macro_f1)]
            .map(|(k, v)| (k.to_owned(), v))
            .into()
    }

    /// A table for people.
    pub fn table(&self) -> String {
        use std::fmt::Write;
        let mut s = format!("{:<24}{:>10}{:>10}{:>10}{:>8}", "type", "precision", "recall", "F1", "gold");
        let mut line = |name: &str, c: &Counts| {
            let [p, r, f] = [c.precision(), c.recall(), c.f1()].map(|v| format!("{:.1}%", 100.0 * v));
            let _ = write!(s, "\n{name:<24}{p:>10}{r:>10}{f:>10}{:>8}", c.gold);
        };
        self.types.iter().for_each(|(name, counts)| line(name, counts));
        line("all", &self.total());
        s
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scheme_gives_the_same_entities() {
        let expected = vec![("PER".to_owned(), 0, 2), ("LOC".to_owned(), 3, 4), ("LOC".to_owned(), 4, 7)];
        for tags in [
            ["B-PER", "I-PER", "O", "B-LOC", "B-LOC", "I-LOC", "I-LOC"],
            ["B-PER", "E-PER", "O", "S-LOC", "B-LOC", "I-LOC", "E-LOC"],
            ["B-PER", "L-PER", "O", "U-LOC", "B-LOC", "I-LOC", "L-LOC"],
            ["B-PER", "E-PER", "O", "S-LOC", "B-LOC", "M-LOC", "E-LOC"],
            ["I-PER", "I-PER", "O", "I-LOC", "B-LOC", "I-LOC", "I-LOC"],
        ] {
            assert_eq!(chunks(&tags), expected, "{tags:?}");
        }
        assert!(is_scheme(&["O", "B-PER"]) && !is_scheme(&["NOUN", "VERB"]));
    }
}
