//! Pieces with probabilities, learned from words and how often they occur (Kudo 2018, section 3.2, and the trainer of google/sentencepiece).
//!
//! Many pieces to begin with (frequent substrings); then, again and again, their probabilities by expectation-maximisation, and away with the
//! quarter whose loss costs the text least probability, until few enough are left. A word's probability is the sum over all its segmentations,
//!
//! ```text
//! P(word) = Σ over segmentations x₁…xₙ of  Π P(xᵢ)        expected count of x = Σ over words  count · P(x in a segmentation | word)
//! ```
//!
//! Written anew because the trainer of the `tokenizers` crate looks for frequent substrings among *distinct* words: a word that is common but part
//! of no other one never becomes a piece there. Sums go over parts of fixed size in order, so threads have no influence.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use rayon::prelude::*;

use super::merge::PairHasher;

/// Longest piece, in characters; as in SentencePiece.
const LONGEST: usize = 16;
/// Most pieces to begin with.
const SEEDS: usize = 1_000_000;
/// Rounds of expectation-maximisation between prunings.
const ROUNDS: usize = 2;
/// Share of the pieces that a pruning leaves.
const SHRINK: f64 = 0.75;
/// Pieces expected less often than this are dropped at once.
const LEAST_EXPECTED: f64 = 0.5;
/// Parts in which words are summed up.
const PARTS: usize = 16;

type Fast<K, V> = HashMap<K, V, BuildHasherDefault<PairHasher>>;

/// A word and its occurrences.
pub(crate) struct Word {
    characters: Vec<u32>,
    count: f64,
}

impl Word {
    pub(crate) fn new(word: &str, count: u64) -> Self {
        Self { characters: word.chars().map(u32::from).collect(), count: count as f64 }
    }
}

/// A piece and the logarithm of its probability.
struct Piece {
    characters: Vec<u32>,
    score: f64,
}

/// Pieces by their characters.
struct Trie {
    /// (node, character) → node; 0 is the root.
    edges: Fast<u64, u32>,
    /// The piece that ends at a node, + 1.
    ends: Vec<u32>,
}

impl Trie {
    fn new(pieces: &[Piece]) -> Self {
        let mut trie = Self { edges: Fast::default(), ends: vec![0] };
        for (i, piece) in pieces.iter().enumerate() {
            let mut node = 0;
            for &c in &piece.characters {
                let next = trie.ends.len() as u32;
                node = *trie.edges.entry(u64::from(node) << 32 | u64::from(c)).or_insert(next);
                if node == next {
                    trie.ends.push(0);
                }
            }
            trie.ends[node as usize] = i as u32 + 1;
        }
        trie
    }

    /// Calls `found(length, piece)` for every piece that these characters begin with.
    fn matches(&self, characters: &[u32], mut found: impl FnMut(usize, usize)) {
        let mut node = 0;
        for (i, &c) in characters.iter().take(LONGEST).enumerate() {
            match self.edges.get(&(u64::from(node) << 32 | u64::from(c))) {
                Some(&next) => node = next,
                None => return,
            }
            if let Some(piece) = self.ends[node as usize].checked_sub(1) {
                found(i + 1, piece as usize);
            }
        }
    }
}

/// ln(eᵃ + eᵇ)
fn add_logs(a: f64, b: f64) -> f64 {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY { high } else { high + (low - high).exp().ln_1p() }
}

/// The derivative of ln Γ: recurrence up to 7, then the asymptotic series (Abramowitz and Stegun 6.3.18).
fn digamma(mut x: f64) -> f64 {
    let mut below = 0.0;
    while x < 7.0 {
        below -= 1.0 / x;
        x += 1.0;
    }
    let square = 1.0 / (x * x);
    below + x.ln() - 0.5 / x - square * (1.0 / 12.0 - square * (1.0 / 120.0 - square * (1.0 / 252.0 - square / 240.0)))
}

/// Substrings of the words that occur at least twice, and all characters; the most telling (occurrences × length) first.
fn seeds(words: &[Word]) -> Vec<Piece> {
    // A substring is no more frequent than what it begins and ends with: lengths go up, and only what can still be frequent is counted.
    let mut found: Vec<(Vec<u32>, f64)> = Vec::new();
    let mut singles: Fast<u64, f64> = Fast::default();
    for word in words {
        for &c in &word.characters {
            *singles.entry(u64::from(c)).or_default() += word.count;
        }
    }
    found.extend(singles.iter().map(|(&c, &count)| (vec![c as u32], count)));
    // For each place of a word the number of the substring that starts there, those of one length numbered from 0 (single characters by their
    // code); MAX where it is rare. A substring of the next length is a pair: the number of its beginning, and its last character.
    let mut places: Vec<Vec<u32>> = words.iter().map(|word| word.characters.clone()).collect();
    for length in 2..=LONGEST {
        let mut counts: Fast<u64, (f64, u32, u32)> = Fast::default();
        for (i, (word, places)) in words.iter().zip(&places).enumerate() {
            for at in 0..(word.characters.len() + 1).saturating_sub(length) {
                let (before, after) = (places[at], places[at + 1]);
                if before != u32::MAX && after != u32::MAX {
                    let entry = counts
                        .entry(u64::from(before) << 32 | u64::from(word.characters[at + length - 1]))
                        .or_insert((0.0, i as u32, at as u32));
                    entry.0 += word.count;
                }
            }
        }
        let mut kept: Vec<(u64, (f64, u32, u32))> = counts.into_iter().filter(|(_, (count, ..))| *count >= 2.0).collect();
        kept.sort_unstable_by_key(|&(_, (_, word, at))| (word, at));
        if kept.is_empty() {
            break;
        }
        let mut numbers: Fast<u64, u32> = Fast::default();
        for (number, &(key, (count, word, at))) in kept.iter().enumerate() {
            numbers.insert(key, number as u32);
            found.push((words[word as usize].characters[at as usize..at as usize + length].to_vec(), count));
        }
        for (word, places) in words.iter().zip(&mut places) {
            for at in 0..places.len() {
                let key = places[at];
                places[at] = match word.characters.get(at + length - 1) {
                    Some(&last) if key != u32::MAX => numbers.get(&(u64::from(key) << 32 | u64::from(last))).copied().unwrap_or(u32::MAX),
                    _ => u32::MAX,
                };
            }
        }
    }
    found.sort_by(|a, b| {
        let weight = |(characters, count): &(Vec<u32>, f64)| count * characters.len() as f64;
        let rank = |p: &(Vec<u32>, f64)| p.0.len() > 1;
        rank(a).cmp(&rank(b)).then(weight(b).total_cmp(&weight(a))).then_with(|| a.0.cmp(&b.0))
    });
    found.truncate(SEEDS.max(singles.len()));
    let total: f64 = found.iter().map(|(characters, count)| count * characters.len() as f64).sum();
    found.into_iter().map(|(characters, count)| Piece { score: (count * characters.len() as f64 / total).ln(), characters }).collect()
}

/// How often each piece is expected in the words.
fn expected(words: &[Word], pieces: &[Piece]) -> Vec<f64> {
    let trie = Trie::new(pieces);
    let part = words.len().div_ceil(PARTS).max(1);
    let sums: Vec<Vec<f64>> = words
        .par_chunks(part)
        .map(|words| {
            let mut sums = vec![0.0; pieces.len()];
            let (mut before, mut after) = (Vec::new(), Vec::new());
            for word in words {
                let n = word.characters.len();
                // before[i], after[i]: logarithms of the probabilities of all that stands before, and from, character i
                before.clear();
                before.resize(n + 1, f64::NEG_INFINITY);
                after.clear();
                after.resize(n + 1, f64::NEG_INFINITY);
                (before[0], after[n]) = (0.0, 0.0);
                for i in 0..n {
                    trie.matches(&word.characters[i..], |length, piece| {
                        before[i + length] = add_logs(before[i + length], before[i] + pieces[piece].score);
                    });
                }
                for i in (0..n).rev() {
                    trie.matches(&word.characters[i..], |length, piece| {
                        after[i] = add_logs(after[i], after[i + length] + pieces[piece].score);
                    });
                }
                for i in 0..n {
                    trie.matches(&word.characters[i..], |length, piece| {
                        sums[piece] += word.count * (before[i] + pieces[piece].score + after[i + length] - after[0]).exp();
                    });
                }
            }
            sums
        })
        .collect();
    let mut total = vec![0.0; pieces.len()];
    for sums in sums {
        total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
    }
    total
}

/// The most probable segmentation, without the piece `except`; nothing if there is none.
fn best(characters: &[u32], pieces: &[Piece], trie: &Trie, except: Option<usize>) -> Vec<usize> {
    let n = characters.len();
    let mut ways: Vec<(f64, usize, usize)> = vec![(f64::NEG_INFINITY, 0, 0); n + 1];
    ways[0].0 = 0.0;
    for i in 0..n {
        let here = ways[i].0;
        if here > f64::NEG_INFINITY {
            trie.matches(&characters[i..], |length, piece| {
                let score = here + pieces[piece].score;
                if Some(piece) != except && score > ways[i + length].0 {
                    ways[i + length] = (score, i, piece);
                }
            });
        }
    }
    let mut found = Vec::new();
    let mut at = n;
    while at > 0 && ways[at].0 > f64::NEG_INFINITY {
        found.push(ways[at].2);
        at = ways[at].1;
    }
    found.reverse();
    found
}

/// Leaves the `keep` pieces without which the words would lose most of their probability, and all single characters.
fn prune(words: &[Word], pieces: Vec<Piece>, keep: usize) -> Vec<Piece> {
    let trie = Trie::new(&pieces);
    let part = words.len().div_ceil(PARTS).max(1);
    let counts: Vec<Vec<f64>> = words
        .par_chunks(part)
        .map(|words| {
            let mut counts = vec![0.0; pieces.len()];
            for word in words {
                best(&word.characters, &pieces, &trie, None).into_iter().for_each(|piece| counts[piece] += word.count);
            }
            counts
        })
        .collect();
    let mut used = vec![0.0; pieces.len()];
    for counts in counts {
        used.iter_mut().zip(counts).for_each(|(used, count)| *used += count);
    }
    let total: f64 = used.iter().sum();
    let losses: Vec<f64> = pieces
        .par_iter()
        .enumerate()
        .map(|(i, piece)| {
            if piece.characters.len() == 1 {
                return f64::INFINITY;
            }
            // What never wins is not missed.
            let instead = best(&piece.characters, &pieces, &trie, Some(i));
            if used[i] == 0.0 || instead.is_empty() {
                return 0.0;
            }
            // Without the piece, each of the others is as frequent as both: logarithms of the shares with it and without.
            let total_instead = (total + used[i] * (instead.len() as f64 - 1.0)).ln();
            let with = used[i].ln() - total.ln();
            let without: f64 = instead.iter().map(|&other| (used[other] + used[i]).ln() - total_instead).sum();
            used[i] / total * (with - without)
        })
        .collect();
    let mut order: Vec<usize> = (0..pieces.len()).collect();
    order.sort_by(|&a, &b| losses[b].total_cmp(&losses[a]).then(a.cmp(&b)));
    let mut kept = vec![false; pieces.len()];
    let singles = losses.iter().filter(|loss| loss.is_infinite()).count();
    order.iter().take(keep.max(singles)).filter(|&&i| losses[i] > 0.0).for_each(|&i| kept[i] = true);
    pieces.into_iter().zip(kept).filter_map(|(piece, kept)| kept.then_some(piece)).collect()
}

/// The pieces that make these words most probable, at most `size` with all single characters among them, and the logarithms of their
/// probabilities; the likeliest first. `progress` is told how many are left.
pub(crate) fn pieces(words: &[Word], size: usize, mut progress: impl FnMut(usize)) -> Vec<(String, f64)> {
    let mut pieces = seeds(words);
    // A tenth more than wanted, from which the likeliest are taken.
    let wanted = size + size / 10;
    loop {
        for _ in 0..ROUNDS {
            let expected = expected(words, &pieces);
            let keeps = |piece: &Piece, count: f64| count >= LEAST_EXPECTED || piece.characters.len() == 1;
            let total: f64 = pieces.iter().zip(&expected).filter(|(piece, count)| keeps(piece, **count)).map(|(_, &count)| count).sum();
            let norm = digamma(total);
            pieces = pieces
                .into_iter()
                .zip(expected)
                .filter(|(piece, count)| keeps(piece, *count))
                // digamma instead of ln: a prior that favours few pieces (Liang and Klein 2007)
                .map(|(piece, count)| Piece { score: digamma(count.max(LEAST_EXPECTED)) - norm, ..piece })
                .collect();
        }
        progress(pieces.len());
        if pieces.len() <= wanted {
            break;
        }
        let before = pieces.len();
        let keep = wanted.max((before as f64 * SHRINK) as usize);
        pieces = prune(words, pieces, keep);
        if pieces.len() == before {
            break; // nothing but single characters
        }
    }
    let by_score = |a: &Piece, b: &Piece| b.score.total_cmp(&a.score).then_with(|| a.characters.cmp(&b.characters));
    pieces.sort_by(|a, b| (a.characters.len() > 1).cmp(&(b.characters.len() > 1)).then_with(|| by_score(a, b)));
    pieces.truncate(size);
    pieces.sort_by(by_score);
    let text = |characters: &[u32]| characters.iter().filter_map(|&c| char::from_u32(c)).collect::<String>();
    pieces.iter().map(|piece| (text(&piece.characters), piece.score)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(of: &[(&str, u64)]) -> Vec<Word> {
        of.iter().map(|(word, count)| Word::new(word, *count)).collect()
    }

    #[test]
    fn a_common_word_that_is_part_of_no_other_becomes_a_piece() {
        let found = pieces(&words(&[("喜欢", 500), ("喜", 20), ("欢", 20), ("abc", 1), ("b", 3)]), 6, |_| {});
        assert!(found.iter().any(|(piece, _)| piece == "喜欢"), "{found:?}");
        assert!(["喜", "欢", "a", "b", "c"].iter().all(|c| found.iter().any(|(piece, _)| piece == c)), "{found:?}");
        assert_eq!(found.len(), 6);
    }

    #[test]
    fn substrings_are_counted_with_their_words_occurrences() {
        let found = seeds(&words(&[("abab", 3), ("bab", 2), ("x", 1)]));
        let weight = |of: &str| found.iter().find(|p| p.characters == Word::new(of, 1).characters).map(|p| p.score.exp());
        let (ab, bab, abab) = (weight("ab").unwrap(), weight("bab").unwrap(), weight("abab").unwrap());
        // ab: twice in each abab, once in each bab: 8 × 2; bab: 5 × 3; abab: 3 × 4
        assert!((ab / bab - 16.0 / 15.0).abs() < 1e-12 && (abab / bab - 12.0 / 15.0).abs() < 1e-12, "{ab} {bab} {abab}");
        assert!(weight("aba").is_some() && weight("bb").is_none() && weight("ababx").is_none());
    }

    /// Against every segmentation, one by one.
    #[test]
    fn expected_counts_are_those_of_all_segmentations() {
        let pieces: Vec<Piece> = [("a", 0.2), ("b", 0.3), ("ab", 0.35), ("ba", 0.15)]
            .iter()
            .map(|(piece, p): &(&str, f64)| Piece { characters: Word::new(piece, 1).characters, score: p.ln() })
            .collect();
        let found = expected(&words(&[("aba", 2)]), &pieces);
        // a|b|a  ab|a  a|ba
        let (one, two, three) = (0.2 * 0.3 * 0.2, 0.35 * 0.2, 0.2 * 0.15);
        let all = one + two + three;
        let right = [2.0 * (2.0 * one + two + three) / all, 2.0 * one / all, 2.0 * two / all, 2.0 * three / all];
        assert!(found.iter().zip(right).all(|(f, r)| (f - r).abs() < 1e-12), "{found:?} {right:?}");
    }

    #[test]
    fn digamma_has_its_known_values() {
        // ψ(1) = −γ, ψ(1/2) = −γ − 2 ln 2
        let gamma = 0.577_215_664_901_532_9;
        assert!((digamma(1.0) + gamma).abs() < 1e-9);
        assert!((digamma(0.5) + gamma + 2.0 * 2f64.ln()).abs() < 1e-9);
    }
}
