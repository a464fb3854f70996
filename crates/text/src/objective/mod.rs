//! Pre-training objectives: which tokens are masked, what stands in their place, and which sentences meet.
//!
//! Masking is dynamic (Liu et al. 2019, section 4.1): a function of (seed, epoch, sample), so that every epoch masks
//! anew and a resumed run masks the same.

mod draws;
mod masked_lm;
mod next_sentence;
mod sentence_order;
mod span;
mod whole_word;

use std::ops::Range;

use cloze_tensor::random::Key;
use serde::{Deserialize, Serialize};

use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;
pub(crate) use draws::Draws;
pub(crate) use next_sentence::continuation_elsewhere;
pub(crate) use sentence_order::order;

/// What is predicted at token level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// Masked language modelling (Devlin et al. 2019, section 3.1).
    #[default]
    MaskedLm,
}

/// What is masked together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Masking {
    /// Single tokens.
    #[default]
    Token,
    /// All pieces of a word; in Chinese the characters of a segmented word (Cui et al. 2019).
    WholeWord,
    /// Runs of words (Joshi et al. 2020, SpanBERT, section 3.1).
    Span,
}

/// What is predicted about a pair of segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SentenceObjective {
    /// Nothing: one segment.
    #[default]
    None,
    /// Whether the second follows the first; label 0 = it does, 1 = it is from another document.
    NextSentence,
    /// Whether the two stand in their order; label 0 = they do, 1 = swapped (Lan et al. 2020, ALBERT, section 3.1).
    SentenceOrder,
}

/// The objective of a run, as its TOML writes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ObjectiveConfig {
    /// `masked_lm`.
    pub objective: Objective,
    /// `token`, `whole_word` or `span`.
    pub masking: Masking,
    /// Share of the tokens that are predicted. 0.15 in the paper.
    pub mask_probability: f32,
    /// Of those, the share replaced by `[MASK]`. 0.8 in the paper.
    pub mask_share: f32,
    /// Of those, the share replaced by a random token; the rest stays. 0.1 in the paper.
    pub random_share: f32,
    /// Span masking: parameter of the geometric distribution of a span's words. 0.2 in the paper.
    pub span_probability: f32,
    /// Span masking: most words of a span. 10 in the paper.
    pub span_longest: u32,
    /// `none`, `next_sentence` or `sentence_order`.
    pub sentence_objective: SentenceObjective,
}

impl Default for ObjectiveConfig {
    fn default() -> Self {
        Self {
            objective: Objective::MaskedLm,
            masking: Masking::Token,
            mask_probability: 0.15,
            mask_share: 0.8,
            random_share: 0.1,
            span_probability: 0.2,
            span_longest: 10,
            sentence_objective: SentenceObjective::None,
        }
    }
}

impl ObjectiveConfig {
    /// Refuse values out of their range.
    pub fn validate(&self) -> Result<()> {
        let check = |key, value: f32, ok: bool, expected| {
            if ok { Ok(()) } else { Err(Error::Setting { key, found: value.to_string(), expected }) }
        };
        let share = |x: f32| (0.0..=1.0).contains(&x);
        let p = self.mask_probability;
        check("mask_probability", p, p > 0.0 && p < 1.0, "a share above 0 and below 1")?;
        check("mask_share", self.mask_share, share(self.mask_share), "a share from 0 to 1")?;
        check("random_share", self.random_share, share(self.random_share), "a share from 0 to 1")?;
        let sum = self.mask_share + self.random_share;
        check("mask_share + random_share", sum, sum <= 1.0 + 1e-6, "at most 1")?;
        let p = self.span_probability;
        check("span_probability", p, p > 0.0 && p <= 1.0, "a probability above 0")?;
        check("span_longest", self.span_longest as f32, (1..=256).contains(&self.span_longest), "1 to 256 words")
    }

    /// Special tokens that frame a sample: `[CLS] A [SEP]` or `[CLS] A [SEP] B [SEP]`.
    pub(crate) fn frame(&self) -> usize {
        if self.sentence_objective == SentenceObjective::None { 2 } else { 3 }
    }
}

/// What the objectives need to know of a vocabulary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    /// The number of ids, V.
    pub size: u32,
    /// `[CLS]`.
    pub cls: u32,
    /// `[SEP]`.
    pub sep: u32,
    /// `[MASK]`.
    pub mask: u32,
    /// All ids that a random replacement never takes, ascending and distinct: the special tokens.
    pub special: Vec<u32>,
}

impl Vocabulary {
    /// The vocabulary of `tokenizer`. Besides its special tokens, names in brackets such as `[unused7]` are never drawn.
    pub fn of(tokenizer: &Tokenizer) -> Result<Self> {
        let special = tokenizer.special();
        let need = |id: Option<u32>, token| id.ok_or(Error::NoSpecialToken { token });
        let (cls, sep, mask) = (need(special.cls, "[CLS]")?, need(special.sep, "[SEP]")?, need(special.mask, "[MASK]")?);
        let size = tokenizer.vocab_size() as u32;
        let named = |id: &u32| {
            let token = tokenizer.id_to_token(*id).unwrap_or_default();
            let bracketed = |open, close| token.len() > 3 && token.starts_with(open) && token.ends_with(close);
            special.contains(*id) || bracketed('[', ']') || bracketed('<', '>')
        };
        Ok(Self { size, cls, sep, mask, special: (0..size).filter(named).collect() })
    }

    /// A random id that is no special token.
    fn random(&self, draws: &mut Draws) -> u32 {
        let mut id = draws.below(u64::from(self.size) - self.special.len() as u64) as u32;
        for &special in &self.special {
            id += u32::from(id >= special);
        }
        id
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let ascending = self.special.windows(2).all(|w| w[0] < w[1]);
        let inside = self.special.iter().chain([&self.cls, &self.sep, &self.mask]).all(|&id| id < self.size);
        if ascending && inside && self.special.len() < self.size as usize {
            return Ok(());
        }
        let found = format!("{:?} of {} ids", self.special, self.size);
        Err(Error::Setting { key: "special tokens", found, expected: "distinct ids inside the vocabulary, and others beside them" })
    }
}

/// Choose the masked positions of one sequence and write what stands in their place.
///
/// `words` are the token ranges that may be masked, ascending, one per word; `ids` is the sequence.
/// Positions come out ascending, with `base` (the sequence's first row in the batch) added.
pub(crate) fn mask(
    config: &ObjectiveConfig,
    vocabulary: &Vocabulary,
    key: Key,
    words: &[Range<usize>],
    ids: &mut [u32],
    base: usize,
    batch: &mut Batch,
) {
    let tokens: usize = words.iter().map(ExactSizeIterator::len).sum();
    if tokens == 0 {
        return;
    }
    let mut draws = Draws::new(key);
    // Rounded at random, so that the expected share is exact; at least one token, so that no sequence is idle.
    let wanted = f64::from(config.mask_probability) * tokens as f64;
    let budget = (wanted + f64::from(draws.uniform())).floor().max(1.0) as usize;
    let mut chosen = match config.masking {
        Masking::Token => masked_lm::choose(words, budget, &mut draws),
        Masking::WholeWord => whole_word::choose(words, budget, &mut draws),
        Masking::Span => span::choose(config, words, budget, &mut draws),
    };
    chosen.sort_unstable_by_key(|group| group.start);
    for group in chosen {
        // SpanBERT replaces a span as one; otherwise every token is on its own, as in BERT's code.
        let together = (config.masking == Masking::Span).then(|| draws.uniform());
        for position in group {
            let label = ids[position];
            let u = together.unwrap_or_else(|| draws.uniform());
            if u < config.mask_share {
                ids[position] = vocabulary.mask;
            } else if u < config.mask_share + config.random_share {
                ids[position] = vocabulary.random(&mut draws);
            }
            batch.masked_rows.push((base + position) as u32);
            batch.masked_labels.push(label);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_names_its_objective() {
        let text =
            r#"{"objective": "masked_lm", "masking": "whole_word", "mask_probability": 0.3, "sentence_objective": "sentence_order"}"#;
        let config: ObjectiveConfig = serde_json::from_str(text).unwrap();
        let expected = ObjectiveConfig {
            masking: Masking::WholeWord,
            mask_probability: 0.3,
            sentence_objective: SentenceObjective::SentenceOrder,
            ..ObjectiveConfig::default()
        };
        assert_eq!(config, expected);
        let unknown = serde_json::from_str::<ObjectiveConfig>(r#"{"mask_probabilty": 0.3}"#).unwrap_err().to_string();
        assert!(unknown.contains("mask_probabilty"), "{unknown}");
    }

    #[test]
    fn random_tokens_are_never_special() {
        let vocabulary = Vocabulary { size: 12, cls: 2, sep: 3, mask: 4, special: vec![0, 1, 2, 3, 4, 7, 11] };
        let mut draws = Draws::new(Key::new(1, cloze_tensor::random::Stream::Masking, 0, 0));
        let mut seen = [0u32; 12];
        for _ in 0..5000 {
            seen[vocabulary.random(&mut draws) as usize] += 1;
        }
        for (id, count) in seen.into_iter().enumerate() {
            let special = vocabulary.special.contains(&(id as u32));
            assert!(if special { count == 0 } else { (800..1200).contains(&count) }, "{id}: {count}");
        }
    }
}
