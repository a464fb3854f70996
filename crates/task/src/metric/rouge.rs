//! ROUGE (Lin 2004): overlap of words, word pairs and the longest common subsequence, equal to `rouge_score` without stemming.

use std::collections::HashMap;

use cloze_text::sentence::is_han;

/// Words: runs of ASCII letters and digits in lower case; Chinese characters one by one.
pub fn words(text: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut word = String::new();
    for c in text.chars().flat_map(char::to_lowercase) {
        if c.is_ascii_alphanumeric() {
            word.push(c);
            continue;
        }
        out.extend((!word.is_empty()).then(|| std::mem::take(&mut word)));
        out.extend(is_han(c).then(|| c.to_string()));
    }
    out.extend((!word.is_empty()).then_some(word));
    out
}

fn f1(common: usize, reference: usize, found: usize) -> f64 {
    if common == 0 { 0.0 } else { 2.0 * common as f64 / (reference + found) as f64 }
}

/// F1 of the n-grams that both have.
pub fn rouge_n(reference: &[String], found: &[String], n: usize) -> f64 {
    let mut left: HashMap<&[String], usize> = HashMap::new();
    reference.windows(n).for_each(|g| *left.entry(g).or_default() += 1);
    let mut common = 0;
    for gram in found.windows(n) {
        if let Some(count) = left.get_mut(gram).filter(|c| **c > 0) {
            *count -= 1;
            common += 1;
        }
    }
    f1(common, (reference.len() + 1).saturating_sub(n), (found.len() + 1).saturating_sub(n))
}

/// F1 of the longest common subsequence.
pub fn rouge_l(reference: &[String], found: &[String]) -> f64 {
    let mut row = vec![0; found.len() + 1];
    for x in reference {
        let mut diagonal = 0;
        for (j, y) in found.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if x == y { diagonal + 1 } else { above.max(row[j]) };
            diagonal = above;
        }
    }
    f1(row[found.len()], reference.len(), found.len())
}
