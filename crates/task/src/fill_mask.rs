//! Fill-mask: the likeliest words for each `[MASK]` of a text; several masks each on its own or together.

use std::collections::BTreeMap;
use std::sync::Arc;

use cloze_text::{Encoding, Tokenizer};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::context::{Context, Options};
use crate::error::TaskError;
use crate::job::{Job, Output, Sequence, Step, Want};
use crate::paint::Paint;
use crate::rows::{self, Field, Needed, Row};
use crate::task::{Figures, Head, Task};
use crate::text_classification::{is_cut, missing};

/// The task.
pub struct FillMask;

/// One candidate for a mask.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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

/// The candidates of each mask, in the order of the masks; the likeliest first. In JSON a single mask's are a flat list.
pub type Answer = Vec<Vec<Candidate>>;

/// All masks filled together, or one mask by a word of several tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Filling {
    /// The product of each filled token's probability given all others (its pseudo-likelihood).
    pub score: f32,
    /// The ids in the places of the masks.
    pub tokens: Vec<u32>,
    /// What stands in the places of the masks.
    pub words: Vec<String>,
    /// The whole text.
    pub sequence: String,
}

/// The values of a row.
pub static FIELDS: [Field; 2] = [
    Field { name: "text", about: "a text with masks", usual: &["sentence", "content"], needed: Needed::Always },
    Field {
        name: "label",
        about: "the word in the place of the mask; several as a list",
        usual: &["answer", "labels", "word", "target"],
        needed: Needed::Labelled,
    },
];

/// Bytes of the texts of one answer: each candidate carries its whole text, so that a short request could ask for gigabytes.
const ANSWER_BYTES: usize = 32 << 20;
/// Tokens of the last round of a beam, where each filled place is a sequence of its own.
const BEAM_TOKENS: usize = 4 << 20;

impl Task for FillMask {
    fn name(&self) -> &'static str {
        "fill-mask"
    }
    fn about(&self) -> &'static str {
        "the likeliest words for each [MASK]"
    }
    fn route(&self) -> &'static str {
        "fill-mask"
    }
    fn fields(&self) -> &'static [Field] {
        &FIELDS
    }
    fn head(&self) -> Head {
        Head::MaskedLm
    }
    fn sample(&self) -> Value {
        json!({"text": "The capital of France is [MASK]."})
    }

    fn encode(&self, context: &Arc<Context>, input: &Value, options: &Options) -> Result<Job, TaskError> {
        let row = rows::input(self.name(), self.fields(), input)?;
        let text = row.value.get("text").and_then(Value::as_str).ok_or_else(|| missing(self.name(), "text"))?.to_owned();
        let tokenizer = &context.tokenizer;
        let mask = tokenizer.special().mask;
        let encoding = tokenizer.encode_truncated(&text, context.max_length)?;
        let masks: Vec<u32> = (0..encoding.len()).filter(|&t| Some(encoding.ids[t]) == mask).map(|t| t as u32).collect();
        // A text that is too long may have masks in the part that is not read.
        let cut = encoding.len() >= context.max_length && is_cut(&encoding, [&text, ""]);
        if cut && mask.is_some() {
            let all = tokenizer.encode(&text, true)?.ids.iter().filter(|&&id| Some(id) == mask).count();
            if all > masks.len() {
                return refuse(format!(
                    "of {all} masks {} stand outside the {} tokens that are read of a text; shorten the text around them",
                    all - masks.len(),
                    context.max_length
                ));
            }
        }
        let Some(mask) = mask.filter(|_| !masks.is_empty()) else {
            let mask = mask.and_then(|id| tokenizer.id_to_token(id)).unwrap_or_else(|| "[MASK]".into());
            return Err(TaskError::NoMask { text, mask });
        };
        let top = options.top_k.unwrap_or(5);
        let words = options.word_tokens.filter(|n| *n > 1);
        if options.joint == Some(true) || words.is_some() || options.targets.is_some() {
            affordable(1, top, &text)?;
            return jointly(context, text, &encoding, &masks, mask, top, options);
        }
        affordable(masks.len(), top.min(tokenizer.vocab_size()), &text)?;
        let want = Want::Candidates { rows: masks.clone(), top, only: Vec::new() };
        let sequence = Sequence::new(&encoding, want);
        let context = Arc::clone(context);
        let mut job = Job::new(vec![sequence], move |outputs| {
            let mut answer = decode(&context.tokenizer, &text, &encoding, &masks, &outputs[0]);
            if answer.len() == 1 { Step::answer(&answer.remove(0)) } else { Step::answer(&answer) }
        });
        job.cut = cut;
        Ok(job)
    }

    fn text(&self, _: &Context, input: &Value, answer: &Value, paint: Paint) -> String {
        let text = input.as_str().or_else(|| input.get("text").and_then(Value::as_str)).unwrap_or_default();
        let mut out = text.to_owned();
        if let Ok(fillings) = serde_json::from_value::<Vec<Filling>>(answer.clone()) {
            for filling in fillings {
                let words = filling.words.join(" … ");
                out += &format!("\n  {:>6.1}%  {} {}", 100.0 * filling.score, paint.colour(0, &format!("{words:<14}")), filling.sequence);
            }
            return out;
        }
        let answer = answers(answer);
        for (i, candidates) in answer.iter().enumerate() {
            if answer.len() > 1 {
                out += &format!("\n  mask {}:", i + 1);
            }
            for c in candidates {
                out += &format!("\n  {:>6.1}%  {} {}", 100.0 * c.score, paint.colour(0, &format!("{:<14}", c.token_str)), c.sequence);
            }
        }
        out
    }

    fn figures(&self, _: &Context, rows: &[Row], given: &[Value]) -> Result<Figures, TaskError> {
        let (mut total, mut first, mut five) = (0usize, 0usize, 0usize);
        for (row, answer) in rows.iter().zip(given) {
            let gold = match row.get("label") {
                Some(Value::Array(_)) => row.list("label")?,
                _ => vec![row.written("label")?],
            };
            let found = words(answer);
            for (mask, word) in gold.iter().enumerate() {
                let at = found.get(mask).and_then(|found| found.iter().position(|f| f.to_lowercase() == word.to_lowercase()));
                total += 1;
                first += usize::from(at == Some(0));
                five += usize::from(at.is_some_and(|a| a < 5));
            }
        }
        let share = |n: usize| n as f64 / total.max(1) as f64;
        Ok(Figures { values: [("accuracy".to_owned(), share(first)), ("hits@5".to_owned(), share(five))].into(), ..Figures::default() })
    }
}

fn refuse<T>(problem: String) -> Result<T, TaskError> {
    Err(TaskError::Input { task: "fill-mask", problem })
}

/// Refuse an answer whose texts would fill the memory.
fn affordable(masks: usize, top: usize, text: &str) -> Result<(), TaskError> {
    if masks.saturating_mul(top).saturating_mul(text.len()) <= ANSWER_BYTES {
        return Ok(());
    }
    refuse(format!(
        "{masks} × {top} candidates, each with the whole text of {} bytes, are more than {} MB; shorten the text, or lower `top_k`",
        text.len(),
        ANSWER_BYTES >> 20
    ))
}

/// The candidates of each mask out of a JSON answer, flat or not.
pub fn answers(answer: &Value) -> Answer {
    serde_json::from_value::<Answer>(answer.clone())
        .or_else(|_| serde_json::from_value::<Vec<Candidate>>(answer.clone()).map(|flat| vec![flat]))
        .unwrap_or_default()
}

/// What is found for each mask, the likeliest first; of masks that were filled together, in the order of the fillings.
fn words(answer: &Value) -> Vec<Vec<String>> {
    match serde_json::from_value::<Vec<Filling>>(answer.clone()) {
        Ok(fillings) => {
            let masks = fillings.first().map_or(0, |f| f.words.len());
            (0..masks).map(|mask| fillings.iter().filter_map(|f| f.words.get(mask).cloned()).collect()).collect()
        }
        Err(_) => {
            let word = |c: &Candidate| c.token_str.trim_start_matches(['Ġ', '▁']).to_owned();
            answers(answer).iter().map(|all| all.iter().map(word).collect()).collect()
        }
    }
}

fn decode(tokenizer: &Tokenizer, text: &str, encoding: &Encoding, masks: &[u32], output: &Output) -> Answer {
    let candidates = |(found, &at): (&Vec<(u32, f32)>, &u32)| {
        let (start, end) = encoding.offsets[at as usize];
        let candidate = |&(token, log_p): &(u32, f32)| {
            let token_str = tokenizer.readable(token).unwrap_or_default();
            let sequence = format!("{}{}{}", &text[..start as usize], bare(&token_str), &text[end as usize..]);
            Candidate { score: log_p.exp(), token, token_str, sequence }
        };
        found.iter().map(candidate).collect()
    };
    output.candidates().iter().zip(masks).map(candidates).collect()
}

/// A piece as it stands in a text: without the mark of a continuation or of a space before it.
fn bare(piece: &str) -> &str {
    let piece = piece.strip_prefix("##").unwrap_or(piece);
    piece.strip_prefix(['Ġ', '▁']).unwrap_or(piece)
}

/// A way to fill the masks, on its way.
#[derive(Clone)]
struct Hypothesis {
    ids: Vec<u32>,
    segments: Vec<u32>,
    /// Places to fill, in order, and whether each goes on with the word before.
    places: Vec<(u32, bool)>,
    filled: usize,
    score: f32,
}

/// A hypothesis with one place more, before it is known whether it stays.
struct Longer<'a> {
    from: &'a Hypothesis,
    id: u32,
    score: f32,
}

impl Longer<'_> {
    fn hypothesis(&self) -> Hypothesis {
        let mut longer = self.from.clone();
        longer.ids[longer.places[longer.filled].0 as usize] = self.id;
        longer.filled += 1;
        longer.score = self.score;
        longer
    }
}

/// What the rounds of a beam share.
struct Beam {
    context: Arc<Context>,
    text: String,
    /// Bytes of each mask in the text.
    masks: Vec<(usize, usize)>,
    width: usize,
    top: usize,
    mask: u32,
    /// Pieces that go on with a word, and those that begin one.
    continuing: Vec<u32>,
    beginning: Vec<u32>,
}

fn jointly(
    context: &Arc<Context>,
    text: String,
    encoding: &Encoding,
    masks: &[u32],
    mask: u32,
    top: usize,
    options: &Options,
) -> Result<Job, TaskError> {
    let tokenizer = &context.tokenizer;
    let at = masks[0] as usize;
    // one mask in the place of `at`, replaced by the given pieces
    let widened = |pieces: &[u32]| {
        let (mut ids, mut segments) = (encoding.ids.clone(), encoding.token_type_ids.clone());
        ids.splice(at..at + 1, pieces.iter().copied());
        segments.splice(at..at + 1, vec![encoding.token_type_ids[at]; pieces.len()]);
        let places = (0..pieces.len()).map(|i| ((at + i) as u32, i > 0)).collect();
        Hypothesis { ids, segments, places, filled: 0, score: 0.0 }
    };
    let hypotheses: Vec<Hypothesis> = match (&options.targets, options.word_tokens) {
        (Some(_), _) | (_, Some(2..)) if masks.len() > 1 => {
            return refuse("whole words are found for one mask; this text has several".into());
        }
        (Some(targets), _) => {
            let mut all = Vec::new();
            for target in targets {
                let pieces = tokenizer.encode(target, false)?.ids;
                if pieces.is_empty() || encoding.len() + pieces.len() > context.max_length + 1 {
                    return refuse("a target has no tokens, or too many for the model".into());
                }
                let mut hypothesis = widened(&pieces);
                hypothesis.filled = pieces.len();
                all.push(hypothesis);
            }
            all
        }
        (None, Some(longest @ 2..)) => {
            let longest = longest.min(8).min(context.max_length.saturating_sub(encoding.len()) + 1);
            (1..=longest).map(|n| widened(&vec![mask; n])).collect()
        }
        _ => {
            let places = masks.iter().map(|&m| (m, false)).collect();
            vec![Hypothesis { ids: encoding.ids.clone(), segments: encoding.token_type_ids.clone(), places, filled: 0, score: 0.0 }]
        }
    };
    let whole_words = options.word_tokens.is_some_and(|n| n > 1) && options.targets.is_none();
    let known = tokenizer.special();
    let special = [known.pad, known.unk, known.cls, known.sep, known.mask];
    let (continuing, beginning) = if whole_words {
        (0..tokenizer.vocab_size() as u32).filter(|id| !special.contains(&Some(*id))).partition(|&id| tokenizer.is_continuation(id))
    } else {
        (Vec::new(), Vec::new())
    };
    let bytes = masks.iter().map(|&m| encoding.offsets[m as usize]).map(|(a, b)| (a as usize, b as usize)).collect();
    let width = options.beams.unwrap_or(10).clamp(1, 100).max(top);
    let each = if options.targets.is_some() { 1 } else { width };
    let tokens = hypotheses.iter().map(|h| h.places.len().saturating_mul(h.ids.len())).sum::<usize>().saturating_mul(each);
    if tokens > BEAM_TOKENS {
        return refuse(format!(
            "filling these places together takes {tokens} tokens, more than {BEAM_TOKENS}; give fewer masks or targets, or lower `beams` and `top_k`"
        ));
    }
    let beam = Beam { context: Arc::clone(context), text, masks: bytes, width, top, mask, continuing, beginning };
    Ok(round(beam, hypotheses))
}

/// The next round: fill one more place of each hypothesis; when all are full, look at each filled place once more.
fn round(beam: Beam, hypotheses: Vec<Hypothesis>) -> Job {
    if hypotheses.iter().all(|h| h.filled == h.places.len()) {
        return last_round(beam, hypotheses);
    }
    let (open, full): (Vec<Hypothesis>, Vec<Hypothesis>) = hypotheses.into_iter().partition(|h| h.filled < h.places.len());
    let sequence = |h: &Hypothesis| {
        let (place, continues) = h.places[h.filled];
        let only = if continues { beam.continuing.clone() } else { beam.beginning.clone() };
        let want = Want::Candidates { rows: vec![place], top: beam.width, only };
        Sequence { ids: h.ids.clone(), segments: h.segments.clone(), want }
    };
    let sequences = open.iter().map(sequence).collect();
    Job::new(sequences, move |outputs| {
        // hypotheses of one length compete with each other
        let mut next: BTreeMap<usize, Vec<Longer>> = BTreeMap::new();
        for (hypothesis, output) in open.iter().zip(&outputs) {
            let group = next.entry(hypothesis.places.len()).or_default();
            let longer = |&(id, log_p): &(u32, f32)| Longer { from: hypothesis, id, score: hypothesis.score + log_p };
            group.extend(output.candidates().iter().flatten().map(longer));
            // Cut as they come: width × width candidates are never held at once. The sort is stable, so equals stay in their order.
            group.sort_by(|a, b| b.score.total_cmp(&a.score));
            group.truncate(beam.width);
        }
        let hypotheses = full.into_iter().chain(next.values().flatten().map(Longer::hypothesis)).collect();
        Ok(Step::Again(round(beam, hypotheses)))
    })
}

/// ln p of each filled token with all others in place.
fn last_round(beam: Beam, hypotheses: Vec<Hypothesis>) -> Job {
    let mut sequences = Vec::new();
    for h in &hypotheses {
        for &(place, _) in &h.places {
            let mut ids = h.ids.clone();
            let id = std::mem::replace(&mut ids[place as usize], beam.mask);
            let want = Want::Likelihoods { rows: vec![place], ids: vec![id] };
            sequences.push(Sequence { ids, segments: h.segments.clone(), want });
        }
    }
    Job::new(sequences, move |outputs| {
        let mut outputs = outputs.iter();
        let mut scored: Vec<(f32, &Hypothesis)> = hypotheses
            .iter()
            .map(|h| {
                let score = h.places.iter().map(|_| outputs.next().and_then(|o| o.values().first()).copied().unwrap_or(0.0)).sum::<f32>();
                (score.exp(), h)
            })
            .collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0));
        // Each filling carries the whole text: only those that are given are written out.
        let fillings: Vec<Filling> = scored.iter().take(beam.top).map(|(score, h)| filling(&beam, h, *score)).collect();
        Step::answer(&fillings)
    })
}

fn filling(beam: &Beam, h: &Hypothesis, score: f32) -> Filling {
    let piece = |at: u32| beam.context.tokenizer.readable(h.ids[at as usize]).unwrap_or_default();
    let tokens: Vec<u32> = h.places.iter().map(|&(at, _)| h.ids[at as usize]).collect();
    let mut words: Vec<String> = Vec::new();
    if beam.masks.len() == 1 {
        words.push(h.places.iter().map(|&(at, _)| bare(&piece(at)).to_owned()).collect());
    } else {
        words.extend(h.places.iter().map(|&(at, _)| bare(&piece(at)).to_owned()));
    }
    let mut sequence = String::new();
    let mut at = 0;
    for (&(start, end), word) in beam.masks.iter().zip(&words) {
        sequence += &beam.text[at..start];
        sequence += word;
        at = end;
    }
    sequence += &beam.text[at..];
    Filling { score, tokens, words, sequence }
}
