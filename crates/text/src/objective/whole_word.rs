//! Masking whole words: all pieces of a word, all characters of a Chinese word (Cui et al. 2019).

use std::ops::Range;

use super::Draws;

/// Words in random order until `budget` tokens are reached.
///
/// The word that would pass the budget is taken with the probability that keeps the expected share exact: skipping
/// it always, as BERT's code does, would mask long words too rarely.
pub(super) fn choose(words: &[Range<usize>], budget: usize, draws: &mut Draws) -> Vec<Range<usize>> {
    let mut order: Vec<usize> = (0..words.len()).collect();
    let (mut chosen, mut tokens) = (Vec::new(), 0);
    for done in 0..words.len() {
        let word = &words[draws.deal(&mut order, done)];
        let room = budget - tokens;
        if word.len() > room {
            let take = (draws.uniform() * (word.len() as f32)) < room as f32;
            if take || chosen.is_empty() {
                chosen.push(word.clone());
            }
            break;
        }
        chosen.push(word.clone());
        tokens += word.len();
        if tokens == budget {
            break;
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use cloze_tensor::random::{Key, Stream};

    use super::*;

    #[test]
    fn long_words_are_masked_as_often_as_short_ones() {
        // Words of 1, 2, 3, 4 tokens in turn, 100 tokens.
        let mut words = Vec::new();
        let mut at = 0;
        for i in 0..40 {
            let length = 1 + i % 4;
            words.push(at..at + length);
            at += length;
        }
        let (mut hits, rounds) = ([0u32; 4], 4000);
        for round in 0..rounds {
            let mut draws = Draws::new(Key::new(1, Stream::Masking, round, 0));
            for word in choose(&words, 15, &mut draws) {
                hits[word.len() - 1] += 1;
            }
        }
        for (i, hits) in hits.into_iter().enumerate() {
            let share = f64::from(hits) / (10 * rounds) as f64;
            assert!((share - 0.15).abs() < 0.025, "words of {} tokens: {share}", i + 1);
        }
    }
}
