//! Sentence-order prediction (Lan et al. 2020, ALBERT, section 3.1): were the two segments swapped?

use super::Draws;

/// The two segments, swapped in half of the cases, and the label: 0 in order, 1 swapped.
pub(crate) fn order<T>(first: T, second: T, draws: &mut Draws) -> (T, T, u32) {
    if draws.uniform() < 0.5 { (first, second, 0) } else { (second, first, 1) }
}
