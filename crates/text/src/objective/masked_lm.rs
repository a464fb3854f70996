//! Masking single tokens (Devlin et al. 2019, section 3.1).

use std::ops::Range;

use super::Draws;

/// `budget` distinct tokens, each as likely as any other.
pub(super) fn choose(words: &[Range<usize>], budget: usize, draws: &mut Draws) -> Vec<Range<usize>> {
    let mut tokens: Vec<usize> = words.iter().cloned().flatten().collect();
    (0..budget.min(tokens.len())).map(|done| draws.deal(&mut tokens, done)).map(|t| t..t + 1).collect()
}
