//! Building pieces by merging the most frequent pair of neighbours, again and again (byte-pair
//! encoding; Sennrich et al. 2016) over words whose later characters carry a mark (`##` in WordPiece, none in BPE).
//!
//! Pair counts are kept up to date from the words that change. The queue is lazy: an entry whose
//! count is out of date goes back with the right one.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

/// Stands where a character was left out of the alphabet: nothing merges across it.
const BREAK: u32 = u32::MAX;

/// Multiplicative hashing for keys that are two small numbers.
#[derive(Default)]
pub(super) struct PairHasher(u64);

impl Hasher for PairHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, key: u64) {
        let mixed = (self.0 ^ key).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = mixed ^ (mixed >> 29);
    }
}

type PairMap = HashMap<u64, u32, BuildHasherDefault<PairHasher>>;

fn key(first: u32, second: u32) -> u64 {
    u64::from(first) << 32 | u64::from(second)
}

struct Pair {
    count: i64,
    /// Words that may hold the pair; those that no longer do are found out when it is merged.
    words: Vec<u32>,
    /// The merge in which the pair last gained occurrences.
    gained_in: u32,
}

#[derive(Default)]
struct Pairs {
    places: PairMap,
    pairs: Vec<Pair>,
}

impl Pairs {
    fn get(&mut self, key: u64) -> usize {
        match self.places.entry(key) {
            Entry::Occupied(entry) => *entry.get() as usize,
            Entry::Vacant(entry) => {
                entry.insert(self.pairs.len() as u32);
                self.pairs.push(Pair { count: 0, words: Vec::new(), gained_in: u32::MAX });
                self.pairs.len() - 1
            }
        }
    }

    fn gain(&mut self, key: u64, word: u32, count: i64) -> usize {
        let place = self.get(key);
        let pair = &mut self.pairs[place];
        pair.count += count;
        if pair.words.last() != Some(&word) {
            pair.words.push(word);
        }
        place
    }

    fn lose(&mut self, key: u64, count: i64) {
        if let Some(&place) = self.places.get(&key) {
            self.pairs[place as usize].count -= count;
        }
    }
}

/// Words as runs of piece ids, all in one vector.
struct Words {
    symbols: Vec<u32>,
    /// Start, length and count of each word.
    runs: Vec<(usize, u32, i64)>,
}

/// The alphabet of a corpus within its limits.
pub(crate) struct Alphabet {
    /// Characters kept, by code point.
    pub(crate) kept: Vec<char>,
    /// How many were left out.
    pub(crate) dropped: usize,
    /// For each kept character whether it occurs after the start of a word.
    continues: Vec<bool>,
}

impl Alphabet {
    /// These characters, whatever the words hold.
    pub(crate) fn fixed(kept: Vec<char>) -> Self {
        Self { continues: vec![true; kept.len()], kept, dropped: 0 }
    }

    /// The most frequent characters of the words, at most `limit` of them and at most `room` pieces
    /// (a character that also continues words takes two). Of equally frequent ones the lower code point stays.
    pub(crate) fn new<'a>(words: impl Iterator<Item = (&'a str, u64)>, limit: usize, room: usize) -> Self {
        let mut counts: HashMap<char, (u64, bool)> = HashMap::new();
        for (word, count) in words {
            for (i, c) in word.chars().enumerate() {
                let seen = counts.entry(c).or_default();
                seen.0 += count;
                seen.1 |= i > 0;
            }
        }
        let mut all: Vec<(char, u64, bool)> = counts.into_iter().map(|(c, (count, later))| (c, count, later)).collect();
        all.sort_unstable_by_key(|&(c, count, _)| (Reverse(count), c));
        let mut used = 0;
        let fits = all
            .iter()
            .take(limit)
            .take_while(|(_, _, later)| {
                used += 1 + usize::from(*later);
                used <= room
            })
            .count();
        let dropped = all.len() - fits;
        all.truncate(fits);
        all.sort_unstable_by_key(|&(c, ..)| c);
        Self { kept: all.iter().map(|a| a.0).collect(), dropped, continues: all.iter().map(|a| a.2).collect() }
    }
}

/// The outcome of merging.
pub(crate) struct Merged {
    pub(crate) pieces: Vec<String>,
    /// Ids of the pairs, in the order in which they were merged.
    pub(crate) merges: Vec<(u32, u32)>,
    /// Occurrences of the last pair merged.
    pub(crate) least: u64,
}

/// `special` tokens, then the alphabet, then merges until there are `vocab_size` pieces or the best
/// pair is rarer than `min_frequency`. Equally frequent pairs: the one of lower ids first. Pieces that continue a word begin with `continuation`.
pub(crate) fn merge<'a>(
    words: impl Iterator<Item = (&'a str, u64)>,
    special: &[String],
    continuation: &str,
    alphabet: &Alphabet,
    vocab_size: usize,
    min_frequency: u64,
    mut progress: impl FnMut(usize),
) -> Merged {
    let mut pieces: Vec<String> = Vec::with_capacity(vocab_size);
    let mut ids: HashMap<String, u32> = HashMap::with_capacity(vocab_size);
    let mut id_of = |pieces: &mut Vec<String>, piece: String| match ids.entry(piece) {
        Entry::Occupied(entry) => *entry.get(),
        Entry::Vacant(entry) => {
            pieces.push(entry.key().clone());
            *entry.insert(pieces.len() as u32 - 1)
        }
    };
    for token in special {
        id_of(&mut pieces, token.clone());
    }
    let mut symbols: HashMap<char, (u32, u32)> = HashMap::with_capacity(alphabet.kept.len());
    for &c in &alphabet.kept {
        symbols.insert(c, (id_of(&mut pieces, c.to_string()), BREAK));
    }
    for (&c, _) in alphabet.kept.iter().zip(&alphabet.continues).filter(|(_, continues)| **continues) {
        let id = id_of(&mut pieces, format!("{continuation}{c}"));
        symbols.entry(c).and_modify(|ids| ids.1 = id);
    }

    let mut words = Words::new(words, &symbols);
    let mut pairs = words.pairs();
    let mut queue: BinaryHeap<(i64, Reverse<u64>)> =
        pairs.places.iter().map(|(&key, &place)| (pairs.pairs[place as usize].count, Reverse(key))).collect();
    let least_count = i64::try_from(min_frequency.max(1)).unwrap_or(i64::MAX);
    let (mut merges, mut least) = (Vec::new(), 0);
    let mut gained: Vec<(u64, usize)> = Vec::new();
    while pieces.len() < vocab_size {
        let Some((count, Reverse(pair))) = queue.pop() else { break };
        let place = pairs.get(pair);
        let current = pairs.pairs[place].count;
        if current != count {
            // A gain has put a newer entry into the queue already.
            if current > 0 && current < count {
                queue.push((current, Reverse(pair)));
            }
            continue;
        }
        if count < least_count {
            break;
        }
        let (first, second) = ((pair >> 32) as u32, pair as u32);
        let later = &pieces[second as usize];
        let later = later.strip_prefix(continuation).unwrap_or(later);
        let merged = format!("{}{later}", pieces[first as usize]);
        let merged = id_of(&mut pieces, merged);
        gained.clear();
        let round = merges.len() as u32;
        for word in std::mem::take(&mut pairs.pairs[place].words) {
            words.merge(word, (first, second, merged), round, &mut pairs, &mut gained);
        }
        pairs.pairs[place].count = 0;
        for &(key, place) in &gained {
            queue.push((pairs.pairs[place].count, Reverse(key)));
        }
        merges.push((first, second));
        least = count as u64;
        if merges.len() % 256 == 0 {
            progress(pieces.len());
        }
    }
    Merged { pieces, merges, least }
}

impl Words {
    fn new<'a>(words: impl Iterator<Item = (&'a str, u64)>, ids: &HashMap<char, (u32, u32)>) -> Self {
        let mut out = Self { symbols: Vec::new(), runs: Vec::new() };
        for (word, count) in words {
            let start = out.symbols.len();
            for (i, c) in word.chars().enumerate() {
                let symbol = ids.get(&c).map_or(BREAK, |ids| if i == 0 { ids.0 } else { ids.1 });
                out.symbols.push(symbol);
            }
            let length = out.symbols.len() - start;
            if length < 2 {
                out.symbols.truncate(start);
                continue;
            }
            out.runs.push((start, length as u32, i64::try_from(count).unwrap_or(i64::MAX)));
        }
        out
    }

    fn pairs(&self) -> Pairs {
        let mut pairs = Pairs::default();
        for (i, &(start, length, count)) in self.runs.iter().enumerate() {
            for pair in self.symbols[start..start + length as usize].windows(2) {
                if pair[0] != BREAK && pair[1] != BREAK {
                    pairs.gain(key(pair[0], pair[1]), i as u32, count);
                }
            }
        }
        pairs
    }

    /// Merges the pair throughout a word and corrects the counts of its neighbours.
    fn merge(
        &mut self,
        word: u32,
        (first, second, merged): (u32, u32, u32),
        round: u32,
        pairs: &mut Pairs,
        gained: &mut Vec<(u64, usize)>,
    ) {
        let (start, length, count) = self.runs[word as usize];
        let symbols = &mut self.symbols[start..start + length as usize];
        let mut gain = |pairs: &mut Pairs, key| {
            let place = pairs.gain(key, word, count);
            if pairs.pairs[place].gained_in != round {
                pairs.pairs[place].gained_in = round;
                gained.push((key, place));
            }
        };
        let (mut read, mut write) = (0, 0);
        while read < symbols.len() {
            if read + 1 < symbols.len() && symbols[read] == first && symbols[read + 1] == second {
                if write > 0 && symbols[write - 1] != BREAK {
                    let before = symbols[write - 1];
                    pairs.lose(key(before, first), count);
                    gain(pairs, key(before, merged));
                }
                if let Some(&after) = symbols.get(read + 2)
                    && after != BREAK
                {
                    pairs.lose(key(second, after), count);
                    gain(pairs, key(merged, after));
                }
                symbols[write] = merged;
                read += 2;
            } else {
                symbols[write] = symbols[read];
                read += 1;
            }
            write += 1;
        }
        self.runs[word as usize].1 = write as u32;
    }
}
