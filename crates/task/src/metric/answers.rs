//! Exact match and F1 of answers: SQuAD's formulas for words between spaces, CMRC's for Chinese.

use std::collections::HashMap;

use cloze_text::sentence::{Language, language};

/// SQuAD v1.1: lower case, without punctuation (ASCII's) and articles, single spaces.
pub fn normalized(text: &str) -> Vec<String> {
    let bare: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    // an article is a word of its own
    bare.split_whitespace().filter(|w| !matches!(*w, "a" | "an" | "the")).map(str::to_owned).collect()
}

/// SQuAD's exact match and F1 of an answer against one gold answer. Two empty answers match.
pub fn squad(gold: &str, found: &str) -> (f64, f64) {
    let (gold, found) = (normalized(gold), normalized(found));
    let exact = f64::from(u8::from(gold == found));
    if gold.is_empty() || found.is_empty() {
        return (exact, exact);
    }
    let mut left: HashMap<&str, usize> = HashMap::new();
    gold.iter().for_each(|w| *left.entry(w).or_default() += 1);
    let mut common = 0;
    for word in &found {
        if let Some(n) = left.get_mut(word.as_str()).filter(|n| **n > 0) {
            *n -= 1;
            common += 1;
        }
    }
    (exact, f1(common, found.len(), gold.len()))
}

fn f1(common: usize, found: usize, gold: usize) -> f64 {
    if common == 0 { 0.0 } else { 2.0 * common as f64 / (found + gold) as f64 }
}

/// The signs that CMRC 2018's script drops.
fn dropped(c: char) -> bool {
    matches!(
        c,
        '-' | ':'
            | '_'
            | '*'
            | '^'
            | '/'
            | '\\'
            | '~'
            | '`'
            | '+'
            | '='
            | '，'
            | '。'
            | '：'
            | '？'
            | '！'
            | '“'
            | '”'
            | '；'
            | '’'
            | '《'
            | '》'
            | '·'
            | '、'
            | '「'
            | '」'
            | '（'
            | '）'
            | '－'
            | '～'
            | '『'
            | '』'
    )
}

/// Chinese characters one by one, everything between them cut at spaces, lower case; dropped signs join what stands around.
fn segments(text: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut word = String::new();
    let bare = text.to_lowercase();
    for c in bare.trim().chars().filter(|c| !dropped(*c)) {
        let chinese = ('\u{4e00}'..='\u{9fa5}').contains(&c);
        if chinese || c.is_whitespace() {
            out.extend((!word.is_empty()).then(|| std::mem::take(&mut word)));
        }
        if chinese {
            out.push(c.to_string());
        } else if !c.is_whitespace() {
            word.push(c);
        }
    }
    out.extend((!word.is_empty()).then_some(word));
    out
}

/// CMRC's exact match (without signs and their case) and F1 (by the longest common run of segments).
pub fn cmrc(gold: &str, found: &str) -> (f64, f64) {
    let bare = |t: &str| t.to_lowercase().chars().filter(|c| !dropped(*c)).collect::<String>().trim().to_owned();
    let exact = f64::from(u8::from(bare(gold) == bare(found)));
    let (gold, found) = (segments(gold), segments(found));
    (exact, f1(longest_common_run(&gold, &found), found.len(), gold.len()))
}

/// The length of the longest run of equal elements in both.
fn longest_common_run(a: &[String], b: &[String]) -> usize {
    let mut row = vec![0; b.len() + 1];
    let mut longest = 0;
    for x in a {
        let mut diagonal = 0;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if x == y { diagonal + 1 } else { 0 };
            longest = longest.max(row[j + 1]);
            diagonal = above;
        }
    }
    longest
}

/// The best exact match and F1 over the gold answers, by the formula of their language; no gold answer: the empty one.
pub fn best(gold: &[String], found: &str) -> (f64, f64) {
    let none = [String::new()];
    let gold = if gold.is_empty() { &none[..] } else { gold };
    let chinese = gold.iter().any(|g| matches!(language(g), Language::Zh | Language::Mixed));
    let score = |g: &String| if chinese { cmrc(g, found) } else { squad(g, found) };
    gold.iter().map(score).fold((0.0, 0.0), |(e, f), (x, y)| (f64::max(e, x), f64::max(f, y)))
}
