//! Sentences of English and Chinese text, mixed text too, and a guess at a text's language.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// The language of a text by its script.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// Latin letters, taken for English.
    En,
    /// Han characters without kana or hangul, taken for Chinese.
    Zh,
    /// Both, each more than a tenth.
    Mixed,
    /// Other scripts, or no letters.
    Other,
}

/// Whether `c` is a Han character (the blocks of unified and compatibility ideographs).
pub fn is_han(c: char) -> bool {
    matches!(u32::from(c),
        0x4E00..=0x9FFF | 0x3400..=0x4DBF | 0xF900..=0xFAFF | 0x20000..=0x2A6DF | 0x2A700..=0x2EBEF | 0x2F800..=0x2FA1F | 0x30000..=0x323AF)
}

/// Guess the language from the share of each script among the letters. A Han character counts as three letters,
/// about what a word of one character says.
pub fn language(text: &str) -> Language {
    let (mut latin, mut han, mut other) = (0u64, 0u64, 0u64);
    for c in text.chars() {
        if c.is_ascii_alphabetic() || matches!(u32::from(c), 0xC0..=0x24F) {
            latin += 1;
        } else if c.is_ascii() {
        } else if is_han(c) {
            han += 3;
        } else if c.is_alphabetic() {
            other += 1;
        }
    }
    let letters = latin + han + other;
    if letters == 0 || other * 2 > letters || other * 10 > letters && han > latin {
        return Language::Other;
    }
    match (latin * 10 > letters, han * 10 > letters) {
        (true, true) => Language::Mixed,
        (false, true) => Language::Zh,
        (true, false) => Language::En,
        (false, false) => Language::Other,
    }
}

/// Abbreviations that do not end a sentence, whatever follows; without their period, lower case.
const TITLES: [&str; 33] = [
    "mr", "mrs", "ms", "dr", "prof", "rev", "hon", "mt", "ft", "gen", "col", "capt", "lt", "sgt", "maj", "cmdr", "adm", "gov", "sen",
    "rep", "pres", "messrs", "mme", "mlle", "eds", "vs", "cf", "viz", "approx", "e.g", "i.e", "c.f", "ca",
];

/// Abbreviations only before a number: "No. 5", but "He said no. Five left."
const NUMBERED: [&str; 13] = ["no", "nos", "vol", "vols", "p", "pp", "fig", "figs", "eq", "sec", "ch", "art", "ed"];

/// Abbreviations that may also end a sentence: they do if a word follows that opens sentences.
const DOUBTFUL: [&str; 33] = [
    "inc", "ltd", "co", "corp", "jr", "sr", "bros", "etc", "esq", "ph.d", "m.d", "u.s", "u.k", "u.n", "e.u", "d.c", "a.m", "p.m", "b.c",
    "a.d", "jan", "feb", "aug", "sept", "oct", "nov", "dec", "ave", "blvd", "rd", "st", "al", "dept",
];

/// Words that open a sentence more often than they follow an abbreviation.
const OPENERS: [&str; 36] = [
    "the", "a", "an", "this", "that", "these", "those", "it", "he", "she", "they", "we", "i", "you", "his", "her", "their", "our", "my",
    "in", "on", "at", "but", "and", "however", "when", "while", "after", "before", "if", "as", "for", "there", "what", "who", "its",
];

fn is_closer(c: char) -> bool {
    matches!(c, '"' | '\'' | ')' | ']' | '}' | '”' | '’' | '»' | '」' | '』' | '）' | '】' | '》' | '〉' | '〕' | '］' | '｝' | '＂' | '＇')
}

fn is_opener(c: char) -> bool {
    matches!(
        c,
        '"' | '\''
            | '('
            | '['
            | '{'
            | '“'
            | '‘'
            | '«'
            | '「'
            | '『'
            | '（'
            | '【'
            | '《'
            | '〈'
            | '〔'
            | '［'
            | '-'
            | '–'
            | '—'
            | '*'
            | '¿'
            | '¡'
    )
}

fn is_wide_end(c: char) -> bool {
    matches!(c, '。' | '！' | '？' | '；' | '｡' | '…')
}

fn is_end(c: char) -> bool {
    is_wide_end(c) || matches!(c, '.' | '!' | '?' | '‽')
}

/// Split `text` into sentences: byte ranges, trimmed, in order, none empty. A line break always ends a sentence.
///
/// Nothing but white space lies between the ranges.
pub fn sentences(text: &str) -> Vec<Range<usize>> {
    let mut out = Vec::new();
    let mut line_start = 0;
    for line in text.split('\n') {
        split_line(line, line_start, &mut out);
        line_start += line.len() + 1;
    }
    out
}

fn push(line: &str, range: Range<usize>, base: usize, out: &mut Vec<Range<usize>>) {
    let part = &line[range.clone()];
    let trimmed = part.trim_start();
    let start = range.start + part.len() - trimmed.len();
    let end = start + trimmed.trim_end().len();
    if end > start {
        out.push(base + start..base + end);
    }
}

fn split_line(line: &str, base: usize, out: &mut Vec<Range<usize>>) {
    let bytes = line.as_bytes();
    let (mut start, mut at) = (0, 0);
    while at < bytes.len() {
        // All ends are ASCII punctuation or start with one of these lead bytes: skip everything else quickly.
        if !matches!(bytes[at], b'.' | b'!' | b'?' | 0xE2 | 0xE3 | 0xEF) {
            at += 1;
            continue;
        }
        let Some(c) = line[at..].chars().next() else { break };
        if !is_end(c) {
            at += c.len_utf8();
            continue;
        }
        let mark = at;
        let (after, wide) = end_of_marks(line, at);
        if ends_sentence(line, start, mark, after, wide) {
            push(line, start..after, base, out);
            start = after;
        }
        at = after;
    }
    push(line, start..line.len(), base, out);
}

/// Behind a run of sentence ends and the closing quotes and brackets after it; and whether a Chinese mark is among them.
fn end_of_marks(line: &str, at: usize) -> (usize, bool) {
    let (mut after, mut wide, mut closing) = (at, false, false);
    for c in line[at..].chars() {
        if is_end(c) && !closing {
            wide |= is_wide_end(c);
        } else if is_closer(c) {
            closing = true;
        } else {
            break;
        }
        after += c.len_utf8();
    }
    (after, wide)
}

fn ends_sentence(line: &str, start: usize, mark: usize, after: usize, wide: bool) -> bool {
    let rest = &line[after..];
    let Some(next) = rest.chars().next() else { return true };
    let marks = &line[mark..after];
    if wide {
        let dots = marks.chars().all(|c| matches!(c, '…' | '.') || is_closer(c));
        // An ellipsis goes on before a comma, and in English before a small letter.
        return !dots || !matches!(next, '，' | ',' | '、' | '：') && !rest.trim_start().starts_with(|c: char| c.is_lowercase());
    }
    let before = line[start..mark].chars().next_back();
    if !next.is_whitespace() {
        // ASCII marks inside Chinese text stand without a space: 很好!下次再来
        let strong = marks.starts_with(['!', '?']);
        return is_han(next) && (strong || before.is_some_and(is_han));
    }
    let rest = rest.trim_start();
    let Some(first) = rest.trim_start_matches(is_opener).trim_start().chars().next() else { return true };
    if first.is_lowercase() {
        return false;
    }
    if marks.starts_with(['!', '?']) || marks.starts_with("..") {
        return true;
    }
    // A lone period: an abbreviation, an initial, a list number?
    let word =
        line[start..mark].rsplit(|c: char| c.is_whitespace() || matches!(c, '(' | '[' | '"' | '“' | '‘' | '—' | '–')).next().unwrap_or("");
    let bare = word.trim_start_matches(is_opener);
    let lower = bare.to_lowercase();
    if TITLES.contains(&lower.as_str()) || first.is_numeric() && NUMBERED.contains(&lower.as_str()) {
        return false;
    }
    if DOUBTFUL.contains(&lower.as_str()) {
        return opens_sentence(rest);
    }
    let mut letters = bare.chars();
    match (letters.next(), letters.next()) {
        // An initial: "J. R. R. Tolkien"; "I." ends a sentence when one opens behind it.
        (Some(c), None) if c.is_uppercase() && c.is_ascii() => opens_sentence(rest),
        // A list number at the start of a sentence: "1. First".
        (Some(c), _) if c.is_ascii_digit() && bare.len() <= 3 && bare.bytes().all(|b| b.is_ascii_digit()) => {
            line[start..mark].trim() != bare
        }
        // Initials joined by periods: "J.R.", "U.S.A".
        _ if bare.len() >= 3 && bare.split('.').all(|part| part.chars().count() == 1) => opens_sentence(rest),
        _ => true,
    }
}

fn opens_sentence(rest: &str) -> bool {
    let rest = rest.trim_start_matches(is_opener);
    let end = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
    // "J. A. Smith": a letter with a period is another initial.
    let initial = end == 1 && rest[end..].starts_with('.');
    !initial && end < 16 && OPENERS.contains(&rest[..end].to_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<&str> {
        sentences(text).into_iter().map(|range| &text[range]).collect()
    }

    /// Each case is its sentences; joined by `|` where white space (or nothing) stands between them.
    #[test]
    fn english() {
        for case in [
            "It rains.| We stay.",
            "Mr. Smith met Dr. Jones at St. Mary's.| They talked.",
            "J. R. R. Tolkien wrote it.| He was a don.",
            "Pi is 3.14159 and e is 2.71828.| Both are irrational.",
            "He asked, \"Why?\"| She said nothing.",
            "\"Stop!\" he cried.| \"I can't.\"| They ran.",
            "“Stop!” he cried.| “I can’t.”| They ran.",
            "Use tools, e.g. Rust, i.e. something fast.| Then measure.",
            "She works at Acme Inc. in Ohio.| He does not.",
            "The U.S. Senate voted.| It passed.",
            "He moved to the U.S.| He likes it there.",
            "Wait... what?| Nothing.",
            "Well...| The end came.",
            "It ended at 5 p.m. Monday.| The rest went home.",
            "See Fig. 3 and Eq. 4.| They agree.",
            "Really?!| Yes.",
            "1. First do this.| 2. Then that.",
            "(It was late.)| They left.",
            "Visit www.example.com.| It is there.",
            "Version 2.0.1 is out.| Upgrade now.",
            "He said no.| Nobody moved.",
            "J. A. Smith and I. A. Jones left.| A. B. Miller stayed.",
            "No. 5 is alive.| See vol. 3, pp. 4-7.| Done.",
            "Prices rose 3.5 % vs. Japan's 2 %.| So what?",
        ] {
            let expected: Vec<&str> = case.split('|').map(str::trim).collect();
            assert_eq!(split(&case.replace('|', "")), expected);
        }
    }

    #[test]
    fn chinese_and_mixed() {
        for case in [
            "今天下雨。|我们在家。",
            "你好吗？|我很好！|谢谢。",
            "他说：“我不去。”|她走了。",
            "（他笑了。）|大家都笑了。",
            "等等……|我想想。",
            "等等……，我想想。",
            "第一；|第二；|第三。",
            "真的吗？！|是的。",
            "圆周率是3.14。|自然常数是2.718。",
            "我用Python 3.10写代码。|It works well.| 很好！",
            "很好!|下次再来。",
            "他用的是U.S. robots公司的产品。|不错。",
            "【注意。】|别走。",
            "「行。」|他答。",
            "我喜欢Rust.| Really?| 当然。",
        ] {
            let expected: Vec<&str> = case.split('|').map(str::trim).collect();
            assert_eq!(split(&case.replace('|', "")), expected);
        }
    }

    #[test]
    fn line_breaks_and_blanks() {
        assert_eq!(split("one\ntwo\n\n  \n three "), ["one", "two", "three"]);
        assert!(split("").is_empty());
        assert!(split(" \n\t").is_empty());
        assert_eq!(split("..."), ["..."]);
        assert_eq!(split("。"), ["。"]);
    }

    #[test]
    fn time_is_linear() {
        for piece in [". ", "a.", "1. ", "A. ", "“", "。”", "… ", "...\"", "U.S. ", "\u{301}", "。", "x"] {
            let time = |bytes: usize| {
                let text = piece.repeat(bytes / piece.len());
                let start = std::time::Instant::now();
                std::hint::black_box(sentences(&text));
                start.elapsed().as_secs_f64()
            };
            // Quadratic time would be 64 times. A busy machine may spoil a try, not all of them.
            let linear = (0..20).any(|_| time(1 << 20) < 24.0 * time(1 << 17));
            assert!(linear, "{piece:?}: eight times the text takes more than 24 times as long");
        }
    }

    #[test]
    fn languages() {
        assert_eq!(language("The cat sat on the mat."), Language::En);
        assert_eq!(language("今天天气很好，我们去公园。"), Language::Zh);
        assert_eq!(language("我们使用 TensorFlow 和 PyTorch 来训练模型，deep learning 很有趣"), Language::Mixed);
        assert_eq!(language("Быстрая лиса"), Language::Other);
        assert_eq!(language("今日はとてもいい天気ですね"), Language::Other);
        assert_eq!(language("123 456"), Language::Other);
    }
}
