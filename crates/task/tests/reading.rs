//! How tasks read what they are given: texts that look like lists, catalogues, masks that are not read, labels of a cell; and which
//! options figures leave aside.

use std::path::Path;
use std::sync::Arc;

use cloze_model::Problem;
use cloze_task::{Columns, Context, Options, Output, Row, Rows, Settings, Step, Task, Want, require};
use cloze_text::Tokenizer;
use cloze_text::tokenizer::WordPieceOptions;
use serde_json::{Value, json};

const WORDS: &str =
    "[PAD] [UNK] [CLS] [SEP] [MASK] . , ? ! - the a cat dog sat ran in on paris london good bad film is not 北 京 新 华 社 。 [ ]";

fn context(labels: &[&str], problem: Problem, max_length: usize) -> Arc<Context> {
    let tokenizer = Tokenizer::from_pieces(WORDS.split_whitespace().map(String::from).collect(), WordPieceOptions::default()).unwrap();
    let labels = labels.iter().map(|l| (*l).to_owned()).collect();
    Arc::new(Context { tokenizer, labels, problem, max_length, settings: Settings::default() })
}

fn task(name: &str) -> &'static dyn Task {
    require(name).unwrap()
}

/// The texts of the sequences that an input becomes.
fn texts(context: &Arc<Context>, name: &str, input: &Value) -> Vec<String> {
    let job = task(name).encode(context, input, &Options::default()).unwrap_or_else(|e| panic!("{name} {input}: {e}"));
    job.sequences.iter().map(|s| context.tokenizer.decode(&s.ids, true).unwrap()).collect()
}

#[test]
fn a_text_that_begins_with_a_bracket_is_a_text() {
    let context = context(&["other", "summary"], Problem::SingleLabel, 64);
    for text in ["[北京] 新华社。", "[the cat] sat", "[the cat, a dog]"] {
        let similar = texts(&context, "sentence-similarity", &json!({"source_sentence": "the cat", "sentences": text}));
        assert_eq!(similar.len(), 2, "{text}");
        let learning = task("sentence-embedding").learning().unwrap();
        let row = Row::new(json!({"text": "the cat", "pair": "a cat", "negatives": text}));
        assert_eq!(learning.examples(&context, &row).unwrap()[0].sequences.len(), 3, "{text}");
        assert_eq!(texts(&context, "extractive-summarization", &json!({ "text": text })).len(), 1, "{text}");
    }
    // A cell of a table holds a list as its JSON text.
    let similar = json!({"source_sentence": "the cat", "sentences": "[\"a dog\", \"in paris\"]"});
    assert_eq!(texts(&context, "sentence-similarity", &similar), ["the cat", "a dog", "in paris"]);
    let parts =
        task("extractive-summarization").encode(&context, &json!({"text": "[\"the cat\", \"a dog\"]"}), &Options::default()).unwrap();
    assert_eq!(parts.sequences[0].want, Want::Tokens { rows: vec![0, 4] });
}

fn joined(folder: &Path, catalogue: &str, rows: (&str, &str)) -> Result<Vec<Value>, String> {
    let (items, data) = (folder.join("items.csv"), folder.join(rows.0));
    std::fs::write(&items, catalogue).unwrap();
    std::fs::write(&data, rows.1).unwrap();
    let task = task("recommendation");
    let rows = Rows::read_all(&data, task.fields(), &Columns::default(), false).map_err(|e| e.to_string())?;
    Ok(task.joined(rows, &items).map_err(|e| e.to_string())?.into_iter().map(|r| r.value).collect())
}

#[test]
fn a_catalogue_gives_texts_wherever_its_ids_stand() {
    let folder = tempfile::tempdir().unwrap();
    let first = "item_id,title,genre\n7,Alien,horror\n8,Solaris,drama\n9,北京,纪录\n";
    let last = "title,genre,item_id\nAlien,horror,7\nSolaris,drama,8\n北京,纪录,9\n";
    let lines = "{\"history\": [7, 8], \"item\": 9, \"candidates\": [9, 7]}\n";
    let expected =
        json!({"history": ["Alien | horror", "Solaris | drama"], "item": "北京 | 纪录", "candidates": ["北京 | 纪录", "Alien | horror"]});
    for catalogue in [first, last] {
        assert_eq!(joined(folder.path(), catalogue, ("rows.jsonl", lines)).unwrap(), std::slice::from_ref(&expected));
        // In a table the ids stand in a cell.
        let table = "history\titem\tcandidates\n7 8\t9\t[9, 7]\n";
        assert_eq!(joined(folder.path(), catalogue, ("rows.tsv", table)).unwrap(), std::slice::from_ref(&expected));
    }
    let unknown = joined(folder.path(), first, ("rows.jsonl", "{\"history\": [7], \"item\": 8, \"candidates\": [5]}\n")).unwrap_err();
    assert!(unknown.contains("`candidates`"), "{unknown}");
}

#[test]
fn masks_that_are_not_read_are_told() {
    let context = context(&[], Problem::SingleLabel, 8);
    let refused = |text: &str| task("fill-mask").encode(&context, &json!({ "text": text }), &Options::default()).map(|job| job.cut);
    for (text, masks) in [("the cat sat on the [MASK] in paris [MASK]", 2), ("a dog sat on a cat in paris [MASK]", 1)] {
        let why = refused(text).unwrap_err().to_string();
        assert!(why.contains(&format!("of {masks} masks 1")) && why.contains("8 tokens"), "{why}");
    }
    assert!(refused("no mask, however long the cat sat in paris").unwrap_err().to_string().contains("put [MASK]"));
    assert!(refused("the [MASK] sat on the cat in paris").unwrap(), "the mask is read, the end is not");
    assert!(!refused("the [MASK] sat on a cat").unwrap(), "it fits exactly");
}

#[test]
fn a_text_that_fits_exactly_is_not_cut() {
    let context = context(&["bad", "good"], Problem::SingleLabel, 6);
    let cut = |input: Value| task("text-classification").encode(&context, &input, &Options::default()).unwrap().cut;
    assert!(!cut(json!("the cat sat on ")) && cut(json!("the cat sat on a")));
    assert!(!cut(json!({"text": "the cat", "pair": "sat"})) && cut(json!({"text": "the cat", "pair": "sat in"})));
}

#[test]
fn labels_of_a_cell_and_hypotheses_are_read_as_they_are_meant() {
    let context = context(&["contradiction", "entailment"], Problem::SingleLabel, 64);
    let labels = |labels: Value, options: &Options| {
        let job = task("zero-shot-classification").encode(&context, &json!({"text": "the film", "labels": labels}), options)?;
        let outputs = job.sequences.iter().map(|_| Output::Rows { width: 2, values: vec![0.0, 1.0] }).collect();
        let Step::Answer(answer) = (job.finish)(outputs)? else { panic!("one round") };
        Ok::<_, cloze_task::TaskError>(
            answer.as_array().unwrap().iter().map(|l| l["label"].as_str().unwrap().to_owned()).collect::<Vec<_>>(),
        )
    };
    let plain = Options::default();
    for (given, expected) in [
        (json!(["good film", "bad"]), ["good film", "bad"]),
        (json!("good film, bad"), ["good film", "bad"]),
        (json!("好，坏"), ["好", "坏"]),
        (json!("体育、财经"), ["体育", "财经"]),
        (json!("good bad"), ["good", "bad"]),
        (json!("[\"a, b\", \"c\"]"), ["a, b", "c"]),
    ] {
        assert_eq!(labels(given.clone(), &plain).unwrap(), expected, "{given}");
    }
    let same = Options { hypothesis: Some("This is good.".into()), ..Options::default() };
    let why = labels(json!(["a", "b"]), &same).unwrap_err().to_string();
    assert!(why.contains("{}") && why.contains("This is good."), "{why}");
}

/// What shortens an answer, or shows it another way, changes no figure.
#[test]
fn figures_are_about_whole_answers() {
    let short = Options { top_k: Some(1), raw_scores: Some(true), tokens: Some(true), threshold: Some(0.5), ..Options::default() };
    let kept = Options { threshold: Some(0.5), ..Options::default() };
    assert_eq!(task("text-classification").measured(&short), kept);
    assert_eq!(task("token-classification").measured(&short), kept);
    assert_eq!(task("extractive-summarization").measured(&short), short, "how long a summary is is a part of the question");
}

/// Masks that are filled together, and whole words, are measured as those that are filled alone.
#[test]
fn fillings_are_measured() {
    let context = context(&[], Problem::SingleLabel, 32);
    let filling = |words: [&str; 2]| json!({"score": 0.5, "tokens": [11, 14], "words": words, "sequence": ""});
    let candidate = |word: &str| json!({"score": 0.5, "token": 11, "token_str": word, "sequence": ""});
    let row = |label: Value| Row::new(json!({"text": "the [MASK] [MASK]", "label": label}));
    let figures = |label: Value, answer: Value| task("fill-mask").figures(&context, &[row(label)], &[answer]).unwrap().values;
    let together = json!([filling(["dog", "Sat"]), filling(["cat", "sat"])]);
    let found = figures(json!(["cat", "sat"]), together.clone());
    assert_eq!((found["accuracy"], found["hits@5"]), (0.5, 1.0));
    assert_eq!(figures(json!(["cat", "sat", "paris"]), together)["hits@5"], 2.0 / 3.0, "a word without a mask is missed");
    let alone = json!([[candidate("Ġcat")], [candidate("▁sat")]]);
    assert_eq!(figures(json!(["cat", "sat"]), alone)["accuracy"], 1.0);
}

#[test]
fn names_that_no_field_has_are_found() {
    let fields = task("fill-mask").fields();
    let unknown = |input: Value| cloze_task::rows::unknown(fields, &input).map(str::to_owned);
    assert_eq!(unknown(json!({"text": "a", "top_k": 3})).as_deref(), Some("top_k"));
    assert_eq!((unknown(json!({"text": "a", "label": "b"})), unknown(json!("a"))), (None, None));
}
