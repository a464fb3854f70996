//! Extractive question answering: where in a context the answer to a question stands.

use std::ops::Range;
use std::sync::Arc;

use cloze_model::{Heads, Problem};
use cloze_text::Encoding;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::context::{Context, Options, Settings};
use crate::error::TaskError;
use crate::job::{Job, Output, Sequence, Step, Want};
use crate::loss::Target;
use crate::metric::answers::best;
use crate::paint::Paint;
use crate::rows::{self, Field, Needed, Row};
use crate::task::{Example, Figures, Head, Learning, Task};
use crate::text_classification::missing;

/// The task.
pub struct QuestionAnswering;

/// A span of the context.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// The text of the span; empty: no answer.
    pub answer: String,
    /// Its probability among the spans that were looked at.
    pub score: f32,
    /// Where it starts, in characters.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
}

/// The best span, and others where they were asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The best span.
    #[serde(flatten)]
    pub best: Span,
    /// Others, the likeliest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Span>,
}

/// The values of a row.
pub static FIELDS: [Field; 3] = [
    Field { name: "question", about: "the question", usual: &["query"], needed: Needed::Always },
    Field {
        name: "context",
        about: "the text that holds the answer",
        usual: &["passage", "paragraph", "document", "text"],
        needed: Needed::Always,
    },
    Field {
        name: "answers",
        about: "SQuAD's {text, answer_start} (a list of them, or of texts); empty: no answer",
        usual: &["answer"],
        needed: Needed::Gold,
    },
];

/// Tokens that two windows share.
const STRIDE: usize = 128;
/// Tokens of the longest answer.
const LONGEST: usize = 30;
/// Starts and ends that are combined, in each window.
const LOOKED_AT: usize = 20;

/// A part of a context that fits the model beside its question.
struct Window {
    encoding: Encoding,
    /// The byte of the context where the part begins.
    offset: usize,
}

impl Task for QuestionAnswering {
    fn name(&self) -> &'static str {
        "question-answering"
    }
    fn about(&self) -> &'static str {
        "where in a context the answer to a question stands"
    }
    fn route(&self) -> &'static str {
        "answer"
    }
    fn fields(&self) -> &'static [Field] {
        &FIELDS
    }
    fn head(&self) -> Head {
        Head::Span
    }
    fn sample(&self) -> Value {
        json!({"question": "Where was Marie Curie born?", "context": "Marie Curie was born in Warsaw in 1867."})
    }

    fn encode(&self, context: &Arc<Context>, input: &Value, options: &Options) -> Result<Job, TaskError> {
        let row = rows::input(self.name(), self.fields(), input)?;
        let text = |field: &'static str| row.value.get(field).and_then(Value::as_str).ok_or_else(|| missing(self.name(), field));
        let (question, passage) = (text("question")?, text("context")?.to_owned());
        let (windows, cut) = windows(context, question, &passage, options.stride.unwrap_or(STRIDE))?;
        let sequences = windows.iter().map(sequence).collect();
        let (options, no_answer) = (options.clone(), options.no_answer.unwrap_or(context.settings.no_answer));
        let mut job = Job::new(sequences, move |outputs| Step::answer(&decode(&windows, &passage, &outputs, &options, no_answer)));
        job.cut = cut;
        Ok(job)
    }

    fn text(&self, _: &Context, input: &Value, answer: &Value, paint: Paint) -> String {
        let text = |field: &str| input.get(field).and_then(Value::as_str).unwrap_or_default();
        let answer: Answer = serde_json::from_value(answer.clone()).unwrap_or_default();
        let best = &answer.best;
        let mut out = format!("{}\n  {:>5.1}%  ", text("question"), 100.0 * best.score);
        if best.answer.is_empty() {
            return out + &paint.faint("no answer");
        }
        // the answer where it stands, with some text around it
        let chars: Vec<char> = text("context").chars().collect();
        let (from, to) = (best.start.saturating_sub(60), (best.end + 60).min(chars.len()));
        let part = |r: Range<usize>| chars.get(r).unwrap_or_default().iter().collect::<String>().replace('\n', " ");
        out += &paint.colour(0, &best.answer);
        out += &format!("\n          {}{}", if from > 0 { "…" } else { "" }, part(from..best.start));
        out += &paint.mark(0, &part(best.start..best.end));
        out += &format!("{}{}", part(best.end..to), if to < chars.len() { "…" } else { "" });
        for other in &answer.others {
            let shown = if other.answer.is_empty() { "no answer" } else { &other.answer };
            out += &format!("\n  {:>5.1}%  {}", 100.0 * other.score, paint.faint(shown));
        }
        out
    }

    fn figures(&self, _: &Context, rows: &[Row], answers: &[Value]) -> Result<Figures, TaskError> {
        let (mut exact, mut f1, mut known) = (0.0, 0.0, Vec::new());
        for (row, answer) in rows.iter().zip(answers) {
            let gold: Vec<String> = golds(row)?.into_iter().map(|(text, _)| text).collect();
            let answer: Answer = serde_json::from_value(answer.clone()).unwrap_or_default();
            let (e, f) = best(&gold, &answer.best.answer);
            exact += e;
            f1 += f;
            if !gold.is_empty() {
                known.push(f);
            }
        }
        let n = rows.len().max(1) as f64;
        let mut figures =
            Figures { values: [("exact_match".to_owned(), exact / n), ("f1".to_owned(), f1 / n)].into(), ..Figures::default() };
        if known.len() < rows.len() && !known.is_empty() {
            figures.values.insert("answerable_f1".into(), known.iter().sum::<f64>() / known.len() as f64);
        }
        Ok(figures)
    }

    fn learning(&self) -> Option<&dyn Learning> {
        Some(self)
    }
}

impl Learning for QuestionAnswering {
    fn heads(&self, rows: &[Row], _: Option<Problem>, settings: &mut Settings) -> Result<Heads, TaskError> {
        let mut answered = false;
        for row in rows {
            settings.no_answer |= golds(row)?.is_empty();
            answered |= !golds(row)?.is_empty();
        }
        if !answered {
            let path = rows.first().map(|r| r.path.to_path_buf()).unwrap_or_default();
            return Err(TaskError::TooLittle {
                path,
                problem: "no question has an answer; name their column with --column answers=NAME".into(),
            });
        }
        Ok(Heads::question_answering())
    }

    fn examples(&self, context: &Context, row: &Row) -> Result<Vec<Example>, TaskError> {
        let passage = row.text("context")?;
        let gold = golds(row)?;
        // characters to bytes, and the first gold answer that stands where it says
        let span = gold.iter().find_map(|(text, start)| place(passage, text, *start));
        if span.is_none() && !gold.is_empty() {
            return Ok(Vec::new()); // the context does not hold its answer: nothing to learn from
        }
        let (windows, cut) = windows(context, row.text("question")?, passage, STRIDE.min(context.max_length / 3))?;
        let example = |w: &Window| {
            let place = span.as_ref().and_then(|s| rows_of(w, s));
            let (start, end) = place.unwrap_or((0, 0));
            Example { sequences: vec![sequence(w)], target: Target::Span { start, end }, cut }
        };
        Ok(windows.iter().map(example).collect())
    }

    fn told(&self, row: &Row) -> Option<String> {
        let texts: Vec<String> = golds(row).ok()?.into_iter().map(|(text, _)| text).collect();
        Some(if texts.is_empty() { "no answer".into() } else { texts.join(" or ") })
    }

    fn said(&self, _: &Context, answer: &Value) -> Option<String> {
        let text = answer.get("answer")?.as_str()?;
        Some(if text.is_empty() { "no answer".into() } else { text.to_owned() })
    }

    fn goal(&self, _: &Context, _: &[Row]) -> &'static str {
        "f1"
    }

    fn goals(&self) -> &'static [&'static str] {
        &["f1", "exact_match"]
    }
}

/// The gold answers of a row: text and first character, where given. Empty texts are no answers.
fn golds(row: &Row) -> Result<Vec<(String, Option<usize>)>, TaskError> {
    let expected = "SQuAD's {text, answer_start}, a list of them, or of texts";
    let value = match row.value.get("answers") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        // a table's cell: JSON, or the text itself
        Some(Value::String(s)) if s.trim_start().starts_with(['[', '{']) => {
            serde_json::from_str(s).map_err(|_| row.fault("answers", expected))?
        }
        Some(other) => other.clone(),
    };
    let start = |item: &Value| {
        let given = item.get("answer_start").or_else(|| item.get("start"));
        given.and_then(Value::as_u64).and_then(|s| usize::try_from(s).ok())
    };
    let one = |item: &Value| -> Option<(String, Option<usize>)> {
        match item {
            Value::String(text) => Some((text.clone(), None)),
            Value::Object(_) => Some((item.get("text")?.as_str()?.to_owned(), start(item))),
            _ => None,
        }
    };
    let found: Option<Vec<(String, Option<usize>)>> = match &value {
        Value::Array(items) => items.iter().map(one).collect(),
        // lists beside each other: {"text": […], "answer_start": […]}
        Value::Object(map) if map.get("text").is_some_and(Value::is_array) => {
            let texts = map["text"].as_array().cloned().unwrap_or_default();
            let starts = map.get("answer_start").and_then(Value::as_array).cloned().unwrap_or_default();
            let at = |i: usize| starts.get(i).and_then(Value::as_u64).and_then(|s| usize::try_from(s).ok());
            texts.iter().enumerate().map(|(i, t)| Some((t.as_str()?.to_owned(), at(i)))).collect()
        }
        single => one(single).map(|a| vec![a]),
    };
    let mut found = found.ok_or_else(|| row.fault("answers", expected))?;
    found.retain(|(text, _)| !text.trim().is_empty());
    Ok(found)
}

/// The bytes of an answer: where it says, else where it first stands.
fn place(passage: &str, answer: &str, start: Option<usize>) -> Option<Range<usize>> {
    let told = start.and_then(|s| if s == 0 { Some(0) } else { passage.char_indices().nth(s).map(|(b, _)| b) });
    let at = told.filter(|&b| passage[b..].starts_with(answer)).or_else(|| passage.find(answer))?;
    Some(at..at + answer.len())
}

fn sequence(window: &Window) -> Sequence {
    Sequence::new(&window.encoding, Want::Tokens { rows: (0..window.encoding.len() as u32).collect() })
}

/// Cut a context into windows that share `stride` tokens, and whether the question was cut: half of a window is the context's.
fn windows(context: &Context, question: &str, passage: &str, stride: usize) -> Result<(Vec<Window>, bool), TaskError> {
    let tokenizer = &context.tokenizer;
    let mut question = question;
    let asked = tokenizer.encode(question, false)?;
    let longest = context.max_length / 2;
    let cut = asked.len() > longest;
    if let Some(&(_, end)) = asked.offsets.get(longest.saturating_sub(1)).filter(|_| cut) {
        question = question.get(..end as usize).unwrap_or(question);
    }
    let around = tokenizer.encode_pair(question, "", None)?.len();
    let room = context.max_length.saturating_sub(around).max(1);
    let pieces = tokenizer.encode(passage, false)?;
    let encode = |part: &str| tokenizer.encode_pair(question, part, Some(context.max_length));
    if pieces.len() <= room {
        return Ok((vec![Window { encoding: encode(passage)?, offset: 0 }], cut));
    }
    let step = room.saturating_sub(stride.min(room / 2)).max(1);
    let mut windows = Vec::new();
    let mut first = 0;
    loop {
        // windows begin and end between words, where there are such places
        let begin = |mut at: usize| {
            let origin = at;
            while at > 0 && at < pieces.len() && origin - at < room / 4 && pieces.word_ids[at] == pieces.word_ids[at - 1] {
                at -= 1;
            }
            at
        };
        let start = begin(first);
        let end = begin((start + room).min(pieces.len())).max(start + 1);
        let (from, to) = (pieces.offsets[start].0 as usize, pieces.offsets[end - 1].1 as usize);
        let part = passage.get(from..to.max(from)).unwrap_or_default();
        windows.push(Window { encoding: encode(part)?, offset: from });
        if end >= pieces.len() {
            return Ok((windows, cut));
        }
        first = (start + step).min(end);
    }
}

/// The rows of a window that hold a span of the context.
fn rows_of(window: &Window, span: &Range<usize>) -> Option<(u32, u32)> {
    let own = window.encoding.parts[1].clone();
    let bytes = |t: usize| (window.encoding.offsets[t].0 as usize + window.offset, window.encoding.offsets[t].1 as usize + window.offset);
    let (first, last) = (own.start, own.end.checked_sub(1)?);
    if first > last || bytes(first).0 > span.start || bytes(last).1 < span.end {
        return None;
    }
    let start = own.clone().rfind(|&t| bytes(t).0 <= span.start)?;
    let end = own.clone().find(|&t| bytes(t).1 >= span.end)?;
    (start <= end).then_some((start as u32, end as u32))
}

/// The best spans of all windows.
fn decode(windows: &[Window], passage: &str, outputs: &[Output], options: &Options, no_answer: bool) -> Answer {
    let longest = options.max_answer_tokens.unwrap_or(LONGEST);
    let mut found: Vec<(f32, Range<usize>)> = Vec::new();
    let mut none = f32::INFINITY;
    for (window, output) in windows.iter().zip(outputs) {
        let rows: Vec<&[f32]> = output.rows().collect();
        let Some(null) = rows.first() else { continue };
        none = none.min(null[0] + null[1]);
        let own = window.encoding.parts[1].clone();
        let top = |column: usize| {
            let mut order: Vec<usize> = own.clone().collect();
            order.sort_by(|&a, &b| rows[b][column].total_cmp(&rows[a][column]));
            order.truncate(LOOKED_AT);
            order
        };
        let (starts, ends) = (top(0), top(1));
        for &start in &starts {
            for &end in ends.iter().filter(|&&e| e >= start && e - start < longest) {
                let bytes =
                    window.encoding.offsets[start].0 as usize + window.offset..window.encoding.offsets[end].1 as usize + window.offset;
                found.push((rows[start][0] + rows[end][1], bytes));
            }
        }
    }
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    // windows that overlap find the same span
    let mut distinct: Vec<(f32, Range<usize>)> = Vec::new();
    for candidate in found {
        if distinct.len() < LOOKED_AT && !distinct.iter().any(|d| d.1 == candidate.1) {
            distinct.push(candidate);
        }
    }
    if no_answer || distinct.is_empty() {
        let bias = options.threshold.unwrap_or(0.0);
        let at = distinct.partition_point(|d| d.0 + bias >= none);
        distinct.insert(at, (none, 0..0));
    }
    let max = distinct.iter().fold(f32::NEG_INFINITY, |m, d| m.max(d.0));
    let sum: f32 = distinct.iter().map(|d| (d.0 - max).exp()).sum();
    let span = |(score, bytes): &(f32, Range<usize>)| {
        let text = passage.get(bytes.clone()).unwrap_or_default();
        let start = passage.get(..bytes.start).map_or(0, |p| p.chars().count());
        let score = if sum > 0.0 && score.is_finite() { (score - max).exp() / sum } else { 0.0 };
        Span { answer: text.to_owned(), score, start, end: start + text.chars().count() }
    };
    let mut spans = distinct.iter().map(span);
    let best = spans.next().unwrap_or_default();
    Answer { best, others: spans.take(options.top_k.unwrap_or(1).saturating_sub(1)).collect() }
}
