//! Token classification: a label for each word (parts of speech), or the entities that labels mark out (names).

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use cloze_model::{Heads, Problem};
use cloze_text::sentence::is_han;
use cloze_text::{Encoding, Tokenizer};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::context::{Context, Options, Settings};
use crate::error::TaskError;
use crate::job::{Job, Output, Sequence, Step, Want};
use crate::loss::Target;
use crate::metric::entities::{Chunk, Entities, chunks, is_scheme, split_tag};
use crate::paint::Paint;
use crate::rows::{self, Field, Needed, Row};
use crate::task::{Example, Figures, Head, Learning, Task};
use crate::text_classification::{label_id, missing, softmax};

/// The task.
pub struct TokenClassification;

/// A marked part of the text: an entity, or a word with its label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tagged {
    /// Its type.
    pub entity_group: String,
    /// Its probability: the mean over its words.
    pub score: f32,
    /// What stands there.
    pub word: String,
    /// Where it starts, in characters.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
}

/// The entities in their order; of a model without entities (parts of speech), every word.
pub type Answer = Vec<Tagged>;

/// The values of a row: either words with their tags, or a text with spans.
pub static FIELDS: [Field; 4] = [
    Field { name: "text", about: "the text", usual: &["sentence", "content", "query"], needed: Needed::Optional },
    Field { name: "tokens", about: "its words, where it is cut already", usual: &["words"], needed: Needed::Optional },
    Field {
        name: "tags",
        about: "a tag for each word: BIO, BIOES, BILOU, IOB, or plain labels",
        usual: &["ner_tags", "upos", "pos_tags", "xpos", "labels", "column4", "column3", "column2", "label"],
        needed: Needed::Gold,
    },
    Field {
        name: "entities",
        about: "spans of the text: {start, end, label}, in characters",
        usual: &["spans", "entity_list"],
        needed: Needed::Gold,
    },
];

/// A text as words in pieces.
struct Words {
    text: String,
    /// Bytes of each word in `text`.
    bytes: Vec<Range<usize>>,
    /// Token ids of each word's pieces, and which of them start a piece that is predicted on its own.
    pieces: Vec<Vec<u32>>,
    /// Of each word, the pieces that get a label: the first, and every Chinese character, which is a word of its own in a plain text.
    starts: Vec<Vec<usize>>,
}

impl Task for TokenClassification {
    fn name(&self) -> &'static str {
        "token-classification"
    }
    fn about(&self) -> &'static str {
        "names in a text with their places, or a label for each word"
    }
    fn route(&self) -> &'static str {
        "tag"
    }
    fn fields(&self) -> &'static [Field] {
        &FIELDS
    }
    fn head(&self) -> Head {
        Head::Tokens
    }
    fn sample(&self) -> Value {
        json!({"text": "Marie Curie was born in Warsaw."})
    }

    fn encode(&self, context: &Arc<Context>, input: &Value, options: &Options) -> Result<Job, TaskError> {
        let row = rows::input(self.name(), self.fields(), input)?;
        let words = words(&context.tokenizer, &row)?;
        let windows = windows(context, &words, true)?;
        let places: Vec<Vec<(usize, usize)>> = windows.iter().map(|w| w.rows.clone()).collect();
        let sequences = windows.into_iter().map(|w| w.sequence).collect();
        let (context, every) = (Arc::clone(context), options.tokens == Some(true));
        Ok(Job::new(sequences, move |outputs| Step::answer(&decode(&context, &words, &places, &outputs, every))))
    }

    fn text(&self, _: &Context, input: &Value, answer: &Value, paint: Paint) -> String {
        let Ok(row) = rows::input(self.name(), self.fields(), input) else { return String::new() };
        let (text, _) = text_of(&row).unwrap_or_default();
        let answer: Answer = serde_json::from_value(answer.clone()).unwrap_or_default();
        let mut kinds: Vec<&str> = Vec::new();
        let places: Vec<usize> = text.char_indices().map(|(b, _)| b).chain([text.len()]).collect();
        let (mut out, mut at) = (String::new(), 0);
        for tagged in &answer {
            let (Some(&start), Some(&end)) = (places.get(tagged.start), places.get(tagged.end)) else { continue };
            if start < at {
                continue;
            }
            let kind = kinds.iter().position(|k| *k == tagged.entity_group).unwrap_or_else(|| {
                kinds.push(&tagged.entity_group);
                kinds.len() - 1
            });
            out += &text[at..start];
            out += &paint.mark(kind, &text[start..end]);
            out += &paint.faint(&format!("/{}", tagged.entity_group));
            at = end;
        }
        out + &text[at..]
    }

    fn figures(&self, context: &Context, rows: &[Row], answers: &[Value]) -> Result<Figures, TaskError> {
        let scheme = is_scheme(&context.labels);
        let (mut entities, mut right, mut total) = (Entities::default(), 0usize, 0usize);
        for (row, answer) in rows.iter().zip(answers) {
            let answer: Answer = serde_json::from_value(answer.clone()).unwrap_or_default();
            let gold = gold(row, Some(scheme))?;
            if scheme {
                let found: Vec<Chunk> = answer.into_iter().map(|t| (t.entity_group, t.start, t.end)).collect();
                entities.add(&gold, &found);
            } else {
                total += gold.len();
                right += gold.iter().zip(&answer).filter(|(g, a)| g.0 == a.entity_group).count();
            }
        }
        if scheme {
            return Ok(Figures { values: entities.figures(), table: entities.table(), ..Figures::default() });
        }
        let accuracy = right as f64 / total.max(1) as f64;
        Ok(Figures { values: [("accuracy".to_owned(), accuracy)].into(), ..Figures::default() })
    }

    fn learning(&self) -> Option<&dyn Learning> {
        Some(self)
    }
}

impl Learning for TokenClassification {
    fn heads(&self, rows: &[Row], _: Option<Problem>, _: &mut Settings) -> Result<Heads, TaskError> {
        let mut seen: HashSet<String> = HashSet::new();
        for row in rows {
            if row.get("tags").is_some() {
                seen.extend(row.list("tags")?);
            } else {
                seen.extend(spans(row)?.into_iter().map(|(kind, _, _)| format!("B-{kind}")));
                seen.insert("O".into());
            }
        }
        let mut labels: Vec<String> = seen.into_iter().collect();
        // what follows a first word must be sayable, even where no training row does
        let inside: Vec<String> = labels.iter().filter_map(|l| l.strip_prefix("B-").map(|kind| format!("I-{kind}"))).collect();
        labels.extend(inside);
        labels.sort_by_key(|l| (l != "O", l.clone()));
        labels.dedup();
        if labels.len() < 2 {
            let path = rows.first().map(|r| r.path.to_path_buf()).unwrap_or_default();
            return Err(TaskError::TooLittle { path, problem: "fewer than two tags; nothing can be told apart".into() });
        }
        Ok(Heads::token_classification(labels))
    }

    fn examples(&self, context: &Context, row: &Row) -> Result<Vec<Example>, TaskError> {
        let words = words(&context.tokenizer, row)?;
        let tags = tags(row, &words)?;
        let mut examples = Vec::new();
        for window in windows(context, &words, false)? {
            let label = |&(word, piece): &(usize, usize)| -> Result<u32, TaskError> {
                let tag = &tags[word];
                // a later part of a word goes on with its entity
                let inside = tag.strip_prefix("B-").filter(|_| piece > 0).map(|kind| format!("I-{kind}"));
                label_id(row, inside.as_deref().unwrap_or(tag), &context.labels)
            };
            let labels: Vec<u32> = window.rows.iter().map(label).collect::<Result<_, _>>()?;
            if !labels.is_empty() {
                examples.push(Example { sequences: vec![window.sequence], target: Target::Tokens(labels), cut: false });
            }
        }
        Ok(examples)
    }

    fn labels_of(&self, row: &Row) -> Vec<String> {
        if row.get("tags").is_some() {
            return row.list("tags").unwrap_or_default();
        }
        spans(row).unwrap_or_default().into_iter().map(|(kind, _, _)| format!("B-{kind}")).collect()
    }

    fn told(&self, row: &Row) -> Option<String> {
        let (text, _) = text_of(row).ok()?;
        let chars: Vec<char> = text.chars().collect();
        let word = |(kind, start, end): Chunk| Some((chars.get(start..end)?.iter().collect(), kind));
        Some(in_words(gold(row, None).ok()?.into_iter().filter_map(word)))
    }

    fn said(&self, _: &Context, answer: &Value) -> Option<String> {
        let answer: Answer = serde_json::from_value(answer.clone()).ok()?;
        Some(in_words(answer.into_iter().map(|t| (t.word, t.entity_group))))
    }

    fn goal(&self, context: &Context, _: &[Row]) -> &'static str {
        if is_scheme(&context.labels) { "f1" } else { "accuracy" }
    }

    fn goals(&self) -> &'static [&'static str] {
        &["f1", "macro_f1", "precision", "recall", "accuracy"]
    }
}

/// Marked parts in a line: `Marie Curie/person, Warsaw/place`.
fn in_words(parts: impl Iterator<Item = (String, String)>) -> String {
    let parts: Vec<String> = parts.map(|(word, kind)| format!("{word}/{kind}")).collect();
    if parts.is_empty() { "nothing".into() } else { parts.join(", ") }
}

/// A text, and where its words stand when they were given.
type CutText = (String, Option<Vec<Range<usize>>>);

/// The text of a row and the bytes of its words, where it is cut already. Words are joined by spaces; in Chinese by nothing.
fn text_of(row: &Row) -> Result<CutText, TaskError> {
    if row.get("tokens").is_none() {
        let text = row.value.get("text").and_then(Value::as_str).ok_or_else(|| missing("token-classification", "text"))?;
        return Ok((text.to_owned(), None));
    }
    let tokens = row.list("tokens")?;
    let (han, all) = tokens.iter().flat_map(|t| t.chars()).fold((0, 0), |(h, n), c| (h + usize::from(is_han(c)), n + 1));
    let between = if 3 * han > all { "" } else { " " };
    let mut text = String::new();
    let mut bytes = Vec::new();
    for token in &tokens {
        if !text.is_empty() {
            text += between;
        }
        bytes.push(text.len()..text.len() + token.len());
        text += token;
    }
    Ok((text, Some(bytes)))
}

/// Cut a row into words and these into pieces.
fn words(tokenizer: &Tokenizer, row: &Row) -> Result<Words, TaskError> {
    let (text, given) = text_of(row)?;
    let (mut pieces, mut starts) = (Vec::new(), Vec::new());
    match given {
        // WordPiece reads each word on its own, so that no two are taken for one
        Some(bytes) if tokenizer.wordpiece().is_some() => {
            for range in &bytes {
                let word = &text[range.clone()];
                let encoding = tokenizer.encode(word, false)?;
                let inner = |i: &usize| *i == 0 || starts_han(word, encoding.offsets[*i].0);
                starts.push((0..encoding.len()).filter(inner).collect());
                pieces.push(encoding.ids);
            }
            Ok(Words { text, bytes, pieces, starts })
        }
        given => {
            let encoding = tokenizer.encode(&text, false)?;
            let bytes = given.unwrap_or_else(|| own_words(&encoding));
            let mut next = 0;
            for range in &bytes {
                let (mut ids, mut own) = (Vec::new(), Vec::new());
                while next < encoding.len() && (encoding.offsets[next].0 as usize) < range.end {
                    if ids.is_empty() || starts_han(&text, encoding.offsets[next].0) {
                        own.push(ids.len());
                    }
                    ids.push(encoding.ids[next]);
                    next += 1;
                }
                pieces.push(ids);
                starts.push(own);
            }
            Ok(Words { text, bytes, pieces, starts })
        }
    }
}

/// Whether a Chinese character stands at this byte.
fn starts_han(text: &str, at: u32) -> bool {
    text.get(at as usize..).and_then(|rest| rest.chars().next()).is_some_and(is_han)
}

/// The bytes of the words that the tokenizer sees.
fn own_words(encoding: &Encoding) -> Vec<Range<usize>> {
    let mut bytes: Vec<Range<usize>> = Vec::new();
    for (i, &(start, end)) in encoding.offsets.iter().enumerate() {
        let (start, end) = (start as usize, end as usize);
        match bytes.last_mut() {
            Some(last) if i > 0 && encoding.word_ids[i] == encoding.word_ids[i - 1] => last.end = last.end.max(end),
            _ => bytes.push(start..end),
        }
    }
    bytes
}

/// A part of a text that fits the model.
struct Window {
    sequence: Sequence,
    /// The labelled rows: (word, place among its labelled pieces), in the order of the want's rows.
    rows: Vec<(usize, usize)>,
}

/// Cut words into windows that fit; with `overlap` each begins a quarter of a window before the end of the one before.
fn windows(context: &Context, words: &Words, overlap: bool) -> Result<Vec<Window>, TaskError> {
    let around = context.tokenizer.encode("", true)?;
    let (before, after) = around.ids.split_at(around.len().div_ceil(2));
    let room = context.max_length.saturating_sub(around.len()).max(1);
    let mut windows = Vec::new();
    let mut first = 0;
    while first < words.pieces.len() {
        let (mut ids, mut rows, mut places) = (before.to_vec(), Vec::new(), Vec::new());
        let mut word = first;
        let mut used = 0;
        while word < words.pieces.len() {
            let pieces = &words.pieces[word];
            // a word that no window can hold is cut
            let fits = pieces.len().min(room);
            if used + fits > room {
                break;
            }
            for (i, &start) in words.starts[word].iter().enumerate().filter(|(_, s)| **s < fits) {
                rows.push((word, i));
                places.push((ids.len() + start) as u32);
            }
            ids.extend(&pieces[..fits]);
            used += fits;
            word += 1;
        }
        ids.extend(after);
        let segments = vec![0; ids.len()];
        windows.push(Window { sequence: Sequence { ids, segments, want: Want::Tokens { rows: places } }, rows });
        if word >= words.pieces.len() {
            break;
        }
        let mut back = word;
        if overlap {
            let mut shared = 0;
            while back > first + 1 && shared + words.pieces[back - 1].len() <= room / 4 {
                back -= 1;
                shared += words.pieces[back].len();
            }
        }
        first = back;
    }
    Ok(windows)
}

/// The tag of each word.
fn tags(row: &Row, words: &Words) -> Result<Vec<String>, TaskError> {
    if row.get("tags").is_some() {
        let tags = row.list("tags")?;
        return if tags.len() == words.bytes.len() { Ok(tags) } else { Err(row.fault("tags", "as many tags as words")) };
    }
    let spans = spans(row)?;
    let chars = char_places(&words.text, &words.bytes);
    let mut tags = vec!["O".to_owned(); words.bytes.len()];
    for (kind, start, end) in &spans {
        let mut first = true;
        for (tag, place) in tags.iter_mut().zip(&chars) {
            if place.start < *end && place.end > *start {
                *tag = format!("{}-{kind}", if first { "B" } else { "I" });
                first = false;
            }
        }
    }
    Ok(tags)
}

/// The entities of a row as (type, start, end) in characters; of plain tags one for each word. `scheme`: whether tags are a scheme's, as the
/// model's labels say; one row's own may not tell (without an `O`, tags of the IO scheme look plain).
fn gold(row: &Row, scheme: Option<bool>) -> Result<Vec<Chunk>, TaskError> {
    if row.get("tags").is_none() {
        return spans(row);
    }
    let (text, bytes) = text_of(row)?;
    let tags = row.list("tags")?;
    let Some(bytes) = bytes.filter(|b| b.len() == tags.len()) else { return Err(row.fault("tags", "as many tags as tokens")) };
    let places = char_places(&text, &bytes);
    if !scheme.unwrap_or_else(|| is_scheme(&tags) || tags.iter().all(|t| t == "O")) {
        return Ok(tags.into_iter().zip(places).map(|(t, p)| (t, p.start, p.end)).collect());
    }
    Ok(chunks(&tags).into_iter().map(|(kind, a, b)| (kind, places[a].start, places[b - 1].end)).collect())
}

/// The spans of a row: (type, start, end) in characters.
fn spans(row: &Row) -> Result<Vec<Chunk>, TaskError> {
    let expected = "a list of spans {start, end, label}, in characters";
    let parsed = match row.get("entities") {
        Some(Value::String(text)) => serde_json::from_str(text).map_err(|_| row.fault("entities", expected))?,
        Some(value) => value.clone(),
        None => return Err(row.fault("tags", "a tag for each token, or `entities` with spans of `text`")),
    };
    let items = parsed.as_array().cloned().ok_or_else(|| row.fault("entities", expected))?;
    let span = |item: &Value| -> Option<Chunk> {
        let place = |key: &str| item.get(key).and_then(Value::as_u64).and_then(|v| usize::try_from(v).ok());
        let kind = ["label", "entity_group", "type", "entity"].iter().find_map(|k| item.get(*k)).and_then(Value::as_str)?;
        Some((kind.to_owned(), place("start")?, place("end")?)).filter(|(_, start, end)| start < end)
    };
    let spans: Vec<Chunk> = items.iter().map(|i| span(i).ok_or_else(|| row.fault("entities", expected))).collect::<Result<_, _>>()?;
    let end = spans.iter().map(|s| s.2).max().unwrap_or(0);
    let inside = end == 0 || text_of(row)?.0.chars().nth(end - 1).is_some();
    if inside { Ok(spans) } else { Err(row.fault("entities", "spans inside the text, in characters")) }
}

/// Byte ranges as ranges of characters.
fn char_places(text: &str, bytes: &[Range<usize>]) -> Vec<Range<usize>> {
    let (mut byte, mut chars) = (0, 0);
    let mut seek = |to: usize| {
        if to < byte {
            (byte, chars) = (0, 0);
        }
        chars += text.get(byte..to).map_or(0, |part| part.chars().count());
        byte = to;
        chars
    };
    bytes.iter().map(|r| seek(r.start)..seek(r.end)).collect()
}

/// Logits of all windows to entities, or to words.
fn decode(context: &Context, words: &Words, windows: &[Vec<(usize, usize)>], outputs: &[Output], every: bool) -> Answer {
    // (distance to the nearer edge of its window, label, probability) of each word
    let mut best: Vec<Option<(usize, usize, f32)>> = vec![None; words.bytes.len()];
    for (rows, output) in windows.iter().zip(outputs) {
        for (i, (&(word, piece), logits)) in rows.iter().zip(output.rows()).enumerate() {
            let depth = i.min(rows.len() - 1 - i);
            if piece > 0 || best[word].is_some_and(|(d, _, _)| d >= depth) {
                continue;
            }
            let probabilities = softmax(logits);
            let label = (0..probabilities.len()).fold(0, |b, l| if probabilities[l] > probabilities[b] { l } else { b });
            best[word] = Some((depth, label, probabilities[label]));
        }
    }
    let outside = context.labels.iter().position(|l| l == "O");
    let found: Vec<(&str, f32)> = best
        .iter()
        .map(|b| match (b, outside) {
            (Some((_, label, score)), _) => (context.labels.get(*label).map_or("O", String::as_str), *score),
            (None, _) => ("O", 0.0), // a word without pieces
        })
        .collect();
    let places = char_places(&words.text, &words.bytes);
    let tagged = |kind: &str, first: usize, end: usize| Tagged {
        entity_group: kind.to_owned(),
        score: found[first..end].iter().map(|f| f.1).sum::<f32>() / (end - first) as f32,
        word: words.text[words.bytes[first].start..words.bytes[end - 1].end].to_owned(),
        start: places[first].start,
        end: places[end - 1].end,
    };
    if every || !is_scheme(&context.labels) {
        return found.iter().enumerate().map(|(i, (label, _))| tagged(label, i, i + 1)).collect();
    }
    let tags: Vec<&str> = found.iter().map(|f| f.0).collect();
    // without a word cut beforehand, what the tokenizer splits (a hyphen, a point) stays in one entity
    chunks(&tags).into_iter().filter(|(_, a, _)| split_tag(tags[*a]).0 != 'O').map(|(kind, a, b)| tagged(&kind, a, b)).collect()
}
