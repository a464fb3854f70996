//! Looking at what an objective masks.

use std::fmt::Write;

use serde::Serialize;

use crate::batch::Limits;
use crate::error::Result;
use crate::objective::SentenceObjective;
use crate::sampler::Sampler;
use crate::tokenizer::Tokenizer;

/// What stands at a masked position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Replacement {
    /// `[MASK]`.
    Mask,
    /// A random token.
    Random,
    /// The token itself.
    Kept,
}

/// One token of an example.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MaskedPiece {
    /// The token the model sees.
    pub shown: String,
    /// For predicted tokens: the token that is to be found, and what was put in its place.
    pub predicted: Option<(String, Replacement)>,
    /// Segment: 0 or 1.
    pub segment: u32,
}

/// One sample as the model gets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MaskedExample {
    /// Its tokens, special ones included.
    pub pieces: Vec<MaskedPiece>,
    /// The sentence objective's label in words.
    pub sentence_label: Option<&'static str>,
}

/// The first `count` samples of the first epoch, masked as training would see them.
pub fn show_masks(sampler: &Sampler, tokenizer: &Tokenizer, sequence_length: usize, count: usize) -> Result<Vec<MaskedExample>> {
    let count = count.min(usize::try_from(sampler.samples(sequence_length)?).unwrap_or(usize::MAX));
    let token = |id: u32| tokenizer.readable(id).unwrap_or_else(|| format!("<{id}>"));
    let mut examples = Vec::with_capacity(count);
    for cursor in 0..count as u64 {
        // A budget of one token takes exactly one sample.
        let (batch, _) = sampler.batch(cursor, Limits { tokens: 1, sequence_length })?;
        let mut pieces: Vec<MaskedPiece> = batch
            .input_ids
            .iter()
            .zip(&batch.token_type_ids)
            .map(|(&id, &segment)| MaskedPiece { shown: token(id), predicted: None, segment })
            .collect();
        for (&row, &label) in batch.masked_rows.iter().zip(&batch.masked_labels) {
            let shown = batch.input_ids[row as usize];
            let replacement = if shown == label {
                Replacement::Kept
            } else if shown == sampler.vocabulary().mask {
                Replacement::Mask
            } else {
                Replacement::Random
            };
            pieces[row as usize].predicted = Some((token(label), replacement));
        }
        let sentence_label = batch.sequence_labels.first().map(|label| match (sampler.config().sentence_objective, label) {
            (SentenceObjective::SentenceOrder, 0) => "in order",
            (SentenceObjective::SentenceOrder, _) => "swapped",
            (_, 0) => "the second segment follows",
            (_, _) => "the second segment is from another document",
        });
        examples.push(MaskedExample { pieces, sentence_label });
    }
    Ok(examples)
}

const RED: &str = "\x1b[1;31m";
const YELLOW: &str = "\x1b[1;33m";
const CYAN: &str = "\x1b[1;36m";
const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

fn is_wide(c: char) -> bool {
    matches!(u32::from(c), 0x1100..=0x115F | 0x2E80..=0xA4CF | 0xAC00..=0xD7A3 | 0xF900..=0xFAFF | 0xFE30..=0xFE6F | 0xFF00..=0xFF60 | 0xFFE0..=0xFFE6 | 0x1F300..=0x1FAFF | 0x20000..=0x3FFFD)
}

/// The columns that text takes in a terminal.
fn columns(text: &str) -> usize {
    text.chars().map(|c| 1 + usize::from(is_wide(c))).sum()
}

impl MaskedExample {
    /// The example as lines of at most about `width` columns. A predicted token stands as `[MASK]→word`; one replaced
    /// at random as `wrong→word`, one kept as `=word`. With `color`, ANSI colours mark the three kinds.
    pub fn render(&self, width: usize, color: bool) -> String {
        let paint = |code: &'static str| if color { code } else { "" };
        let (mut out, mut column) = (String::new(), 0);
        let mut before_wide = false;
        for piece in &self.pieces {
            let bare = piece.shown.strip_prefix("##");
            let (plain, painted) = match &piece.predicted {
                None => {
                    let special = piece.shown.starts_with('[') && piece.shown.ends_with(']') && piece.shown.len() > 2;
                    let text = bare.unwrap_or(&piece.shown).to_owned();
                    let painted = if special { format!("{}{text}{}", paint(DIM), paint(PLAIN)) } else { text.clone() };
                    (text, painted)
                }
                Some((label, replacement)) => {
                    let (code, left) = match replacement {
                        Replacement::Mask => (RED, piece.shown.as_str()),
                        Replacement::Random => (YELLOW, piece.shown.as_str()),
                        Replacement::Kept => (CYAN, ""),
                    };
                    let arrow = if left.is_empty() { "=" } else { "→" };
                    let text = format!("{left}{arrow}{label}");
                    (text.clone(), format!("{}{text}{}", paint(code), paint(PLAIN)))
                }
            };
            let wide = piece.predicted.is_none() && piece.shown.chars().all(is_wide);
            let joined = (bare.is_some() && piece.predicted.is_none()) || (wide && before_wide);
            before_wide = wide;
            let size = columns(&plain);
            if column > 0 && !joined {
                if column + 1 + size > width {
                    out.push('\n');
                    column = 0;
                } else {
                    out.push(' ');
                    column += 1;
                }
            } else if column + size > width && column > 0 && wide {
                out.push('\n');
                column = 0;
            }
            out.push_str(&painted);
            column += size;
        }
        out.push('\n');
        let predicted = self.pieces.iter().filter(|piece| piece.predicted.is_some()).count();
        let _ = write!(out, "{}{predicted} of {} tokens are predicted", paint(DIM), self.pieces.len());
        if let Some(label) = self.sentence_label {
            let _ = write!(out, "; {label}");
        }
        let _ = writeln!(out, "{}", paint(PLAIN));
        out
    }
}
