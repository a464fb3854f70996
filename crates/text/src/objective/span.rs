//! Masking spans of words (Joshi et al. 2020, SpanBERT, section 3.1).

use std::ops::Range;

use super::{Draws, ObjectiveConfig};

/// Spans of geometric length in words, at word starts, until `budget` tokens are reached; spans do not overlap.
pub(super) fn choose(config: &ObjectiveConfig, words: &[Range<usize>], budget: usize, draws: &mut Draws) -> Vec<Range<usize>> {
    let mut taken = vec![false; words.len()];
    let (mut spans, mut tokens) = (Vec::new(), 0);
    // Tries are bounded: a crowded sequence ends a little under its budget instead of searching on.
    for _ in 0..8 * words.len().max(4) {
        if tokens >= budget {
            break;
        }
        let length = geometric(config, draws);
        let first = draws.below(words.len() as u64) as usize;
        let mut end = first;
        // A span ends at a taken word, at the frame between two segments, and where the budget is full.
        let mut size = 0;
        while end < words.len() && end - first < length && !taken[end] {
            let touches = end == first || words[end].start == words[end - 1].end;
            let fits = tokens + size + words[end].len() <= budget || (tokens == 0 && size == 0);
            if !touches || !fits {
                break;
            }
            size += words[end].len();
            end += 1;
        }
        if end > first {
            taken[first..end].fill(true);
            spans.push(words[first].start..words[end - 1].end);
            tokens += size;
        }
    }
    spans
}

/// A length from the geometric distribution, cut off at `span_longest` and renormalised:
/// the inverse of F(k) = (1 − (1−p)^k) / (1 − (1−p)^longest).
fn geometric(config: &ObjectiveConfig, draws: &mut Draws) -> usize {
    let q = 1.0 - f64::from(config.span_probability);
    let longest = config.span_longest;
    if q <= 0.0 {
        return 1;
    }
    let u = f64::from(draws.uniform()) * (1.0 - q.powi(longest as i32));
    let k = ((1.0 - u).ln() / q.ln()).floor() as u32 + 1;
    k.min(longest) as usize
}

#[cfg(test)]
mod tests {
    use cloze_tensor::random::{Key, Stream};

    use super::*;

    #[test]
    fn mean_length_is_that_of_the_paper() {
        let config = ObjectiveConfig::default();
        let mut draws = Draws::new(Key::new(5, Stream::Masking, 0, 0));
        let n = 100_000;
        let lengths: Vec<usize> = (0..n).map(|_| geometric(&config, &mut draws)).collect();
        let mean = lengths.iter().sum::<usize>() as f64 / n as f64;
        assert!((mean - 3.8).abs() < 0.05, "mean span length {mean}, the paper says 3.8");
        assert!(lengths.iter().all(|&l| (1..=10).contains(&l)));
    }
}
