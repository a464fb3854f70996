//! Fill-mask: the likeliest tokens for each `[MASK]` of a text.

use cloze_model::{Input, Model};
use cloze_tensor::{Backend, Dtype, Sequences, Tape, Weights};
use cloze_text::Tokenizer;
use serde::Serialize;

use crate::error::TaskError;
use crate::text_classification::softmax;

/// One candidate for a mask.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Candidate {
    /// Its probability.
    pub score: f32,
    /// Its token id.
    pub token: u32,
    /// The token as text.
    pub token_str: String,
    /// The text with the token in the mask's place (other masks stay).
    pub sequence: String,
}

/// The candidates of each mask, in the order of the masks; the likeliest first.
pub type Answer = Vec<Vec<Candidate>>;

/// Find the `top_k` likeliest tokens for each mask of `text`, each mask on its own.
pub fn fill<B: Backend>(
    backend: &B,
    model: &Model,
    weights: &Weights<B>,
    dtype: Dtype,
    tokenizer: &Tokenizer,
    text: &str,
    top_k: usize,
) -> Result<Answer, TaskError> {
    let mask = tokenizer.special().mask;
    let mask_token = mask.and_then(|id| tokenizer.id_to_token(id)).unwrap_or_else(|| "[MASK]".into());
    let no_mask = || TaskError::NoMask { text: text.to_owned(), mask: mask_token.clone() };
    let encoding = tokenizer.encode_truncated(text, model.blueprint.position.longest())?;
    let masks: Vec<u32> = (0..encoding.len()).filter(|&t| Some(encoding.ids[t]) == mask).map(|t| t as u32).collect();
    let Some(head) = model.masked_lm().filter(|_| !masks.is_empty()) else { return Err(no_mask()) };
    let sequences = Sequences::from_lengths([encoding.len()]);
    let input = Input::new(backend, &encoding.ids, &encoding.token_type_ids, sequences);
    let mut tape = Tape::inference(backend, weights, dtype);
    let hidden = model.hidden(&mut tape, &input, false);
    let rows = tape.gather(&hidden, &backend.indices(&masks), masks.len());
    let logits = head.logits(&mut tape, &rows);
    let host = logits.to_host(backend);
    let answer = |(row, &at): (&[f32], &u32)| {
        let probabilities = softmax(row);
        let mut order: Vec<u32> = (0..row.len() as u32).collect();
        order.sort_by(|a, b| probabilities[*b as usize].total_cmp(&probabilities[*a as usize]).then(a.cmp(b)));
        let (start, end) = encoding.offsets[at as usize];
        let candidate = |&token: &u32| {
            let token_str = tokenizer.id_to_token(token).unwrap_or_default();
            let piece = token_str.strip_prefix("##").unwrap_or(&token_str);
            let sequence = format!("{}{piece}{}", &text[..start as usize], &text[end as usize..]);
            Candidate { score: probabilities[token as usize], token, token_str: token_str.clone(), sequence }
        };
        order.iter().take(top_k).map(candidate).collect()
    };
    Ok(host.chunks_exact(logits.cols()).zip(&masks).map(answer).collect())
}
