//! What `prepare` did, for people and for programs.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::sentence::Language;

/// What was dropped and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Documents whose normalised text had come before.
    pub duplicate: u64,
    /// Documents without text.
    pub empty: u64,
    /// Documents of fewer tokens than asked for.
    pub too_short: u64,
    /// Lines or rows that could not be read.
    pub bad: u64,
}

impl Dropped {
    /// Everything that was dropped.
    pub fn total(&self) -> u64 {
        self.duplicate + self.empty + self.too_short + self.bad
    }
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} duplicate, {} empty, {} too short, {} bad", self.duplicate, self.empty, self.too_short, self.bad)
    }
}

/// One input file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileReport {
    /// As given, or as found in a folder.
    pub path: String,
    /// Documents kept.
    pub documents: u64,
    /// Characters of the documents kept.
    pub characters: u64,
    /// Tokens of the documents kept.
    pub tokens: u64,
    /// What was dropped of this file.
    pub dropped: Dropped,
}

/// Documents of at most `up_to` tokens, and more than the bin before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LengthBin {
    /// Most tokens of a document in this bin.
    pub up_to: u64,
    /// How many documents.
    pub documents: u64,
}

/// The report of a prepared corpus. Equal inputs give equal reports: times are not part of the saved file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Documents kept, held-out ones included.
    pub documents: u64,
    /// Of those, held out.
    pub heldout_documents: u64,
    /// Sentences.
    pub sentences: u64,
    /// Tokens, special tokens not counted.
    pub tokens: u64,
    /// Of those, in held-out documents.
    pub heldout_tokens: u64,
    /// Characters.
    pub characters: u64,
    /// Bytes of normalised text.
    pub bytes: u64,
    /// Tokens that stand for something the vocabulary cannot write.
    pub unknown_tokens: u64,
    /// Documents by language.
    pub languages: BTreeMap<Language, u64>,
    /// Documents by length.
    pub lengths: Vec<LengthBin>,
    /// What was dropped and why.
    pub dropped: Dropped,
    /// Bad places by kind.
    pub bad_kinds: BTreeMap<String, u64>,
    /// The first bad places, word for word.
    pub bad_places: Vec<String>,
    /// Each input file.
    pub files: Vec<FileReport>,
    /// Seconds it took.
    #[serde(skip)]
    pub seconds: f64,
}

impl Report {
    /// Share of unknown tokens.
    pub fn unknown_rate(&self) -> f64 {
        if self.tokens == 0 { 0.0 } else { self.unknown_tokens as f64 / self.tokens as f64 }
    }

    pub(crate) fn count_length(&mut self, tokens: u64) {
        let bin = tokens.max(8).next_power_of_two();
        let index = (bin.trailing_zeros() - 3) as usize;
        while self.lengths.len() <= index {
            self.lengths.push(LengthBin { up_to: 8 << self.lengths.len(), documents: 0 });
        }
        self.lengths[index].documents += 1;
    }
}

/// 1234567 as 1,234,567.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |f: &mut fmt::Formatter<'_>, name: &str, value: String| writeln!(f, "  {name:<14}{value}");
        writeln!(f, "prepared corpus")?;
        row(f, "documents", format!("{} ({} held out)", grouped(self.documents), grouped(self.heldout_documents)))?;
        row(f, "sentences", grouped(self.sentences))?;
        row(f, "tokens", format!("{} ({} held out)", grouped(self.tokens), grouped(self.heldout_tokens)))?;
        let per_token = self.characters as f64 / self.tokens.max(1) as f64;
        row(f, "characters", format!("{} ({per_token:.2} a token)", grouped(self.characters)))?;
        row(f, "unknown", format!("{:.3} % of the tokens", 100.0 * self.unknown_rate()))?;
        let languages: Vec<String> = self.languages.iter().map(|(l, n)| format!("{} {}", language_name(*l), grouped(*n))).collect();
        row(f, "languages", languages.join(", "))?;
        row(f, "dropped", self.dropped.to_string())?;
        if self.seconds > 0.0 {
            let speed = self.bytes as f64 / 1e6 / self.seconds;
            row(f, "time", format!("{:.1} s, {speed:.1} MB/s of text", self.seconds))?;
        }
        writeln!(f, "  tokens a document")?;
        let most = self.lengths.iter().map(|bin| bin.documents).max().unwrap_or(0).max(1);
        for bin in &self.lengths {
            let bar = "#".repeat((bin.documents * 40).div_ceil(most) as usize);
            writeln!(f, "    up to {:>9} {:>11} {bar}", grouped(bin.up_to), grouped(bin.documents))?;
        }
        for file in &self.files {
            write!(f, "  {}: {} documents, {} tokens", file.path, grouped(file.documents), grouped(file.tokens))?;
            if file.dropped.total() > 0 {
                write!(f, "; dropped: {}", file.dropped)?;
            }
            writeln!(f)?;
        }
        for place in &self.bad_places {
            writeln!(f, "  skipped {place}")?;
        }
        Ok(())
    }
}

fn language_name(language: Language) -> &'static str {
    match language {
        Language::En => "English",
        Language::Zh => "Chinese",
        Language::Mixed => "mixed English and Chinese",
        Language::Other => "other",
    }
}
