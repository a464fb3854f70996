//! Tasks without a device: chosen logits in, answers out; places, orders, and what is refused.

use std::sync::Arc;

use cloze_model::Problem;
use cloze_task::{Context, Options, Output, Row, Runner, Sequence, Settings, TASKS, TaskError, Want, answers, require};
use cloze_text::Tokenizer;
use cloze_text::tokenizer::WordPieceOptions;
use serde_json::{Value, json};

const WORDS: &str = "[PAD] [UNK] [CLS] [SEP] [MASK] . , ? ! - the a cat dog sat ran in on paris london marie curie was born where who when \
                     good bad film is not 1867 ##s ##ing play 北 京 大 学 在 中 国 张 三 去 了 。 ， 谁 哪 里";

fn context(labels: &[&str], problem: Problem, max_length: usize) -> Arc<Context> {
    let pieces = WORDS.split_whitespace().map(String::from).collect();
    let tokenizer = Tokenizer::from_pieces(pieces, WordPieceOptions::default()).unwrap();
    let labels = labels.iter().map(|l| (*l).to_owned()).collect();
    Arc::new(Context { tokenizer, labels, problem, max_length, settings: Settings::default() })
}

/// A model whose outputs are a function of the sequence.
struct Chosen<F: Fn(&Sequence) -> Output>(F);

impl<F: Fn(&Sequence) -> Output> Runner for Chosen<F> {
    fn run(&self, sequences: &[&Sequence]) -> Result<Vec<Output>, TaskError> {
        Ok(sequences.iter().map(|s| (self.0)(s)).collect())
    }
}

fn ask(name: &str, context: &Arc<Context>, input: Value, options: &Options, model: impl Fn(&Sequence) -> Output) -> Value {
    let task = require(name).unwrap();
    let job = task.encode(context, &input, options).unwrap();
    answers(&Chosen(model), vec![job]).unwrap().remove(0)
}

fn rows(width: usize, values: Vec<f32>) -> Output {
    Output::Rows { width, values }
}

fn close(value: &Value, expected: f64) -> bool {
    (value.as_f64().unwrap() - expected).abs() < 1e-4
}

#[test]
fn every_task_is_listed_once_and_takes_its_own_sample() {
    let mut names: Vec<&str> = TASKS.iter().map(|t| t.name()).collect();
    let mut routes: Vec<&str> = TASKS.iter().map(|t| t.route()).collect();
    names.sort_unstable();
    routes.sort_unstable();
    names.dedup();
    routes.dedup();
    assert_eq!((names.len(), routes.len()), (TASKS.len(), TASKS.len()));
    for task in TASKS {
        let labels: &[&str] = match task.name() {
            "zero-shot-classification" => &["contradiction", "entailment"],
            _ => &["other", "summary"],
        };
        let mut sample = task.sample();
        if task.name() == "fill-mask" {
            sample = json!({"text": "the [MASK] sat"});
        }
        let job = task.encode(&context(labels, Problem::SingleLabel, 64), &sample, &Options::default()).unwrap();
        assert!(!job.sequences.is_empty(), "{}", task.name());
        for bad in [json!(3), json!([1]), json!({}), json!({"text": 7}), Value::Null] {
            let refused = task.encode(&context(labels, Problem::SingleLabel, 64), &bad, &Options::default());
            assert!(refused.is_err(), "{} took {bad}", task.name());
        }
    }
    assert!(require("dance").err().unwrap().to_string().contains("fill-mask"));
}

#[test]
fn labels_come_with_probabilities_the_likeliest_first() {
    let two = context(&["bad", "good"], Problem::SingleLabel, 32);
    let logits = |_: &Sequence| rows(2, vec![0.0, 3f32.ln()]);
    let answer = ask("text-classification", &two, json!("good film"), &Options::default(), logits);
    assert_eq!(answer[0]["label"], "good");
    assert!(close(&answer[0]["score"], 0.75) && close(&answer[1]["score"], 0.25), "{answer}");
    let raw = Options { raw_scores: Some(true), top_k: Some(1), ..Options::default() };
    let answer = ask("text-classification", &two, json!({"text": "good", "pair": "film"}), &raw, logits);
    assert_eq!(answer.as_array().unwrap().len(), 1);
    assert!(close(&answer[0]["score"], 3f64.ln()));

    let many = context(&["a", "b"], Problem::MultiLabel, 32);
    let answer = ask("text-classification", &many, json!("x"), &Options::default(), |_| rows(2, vec![0.0, 20.0]));
    assert_eq!(answer[0]["label"], "b");
    assert!(close(&answer[1]["score"], 0.5));
    let shown = |context: &Context, answer: Value| {
        let task = require("text-classification").unwrap();
        task.text(context, &json!("x"), &answer, cloze_task::paint::Paint::default())
    };
    let scored = |label: &str, score: f64| json!({"label": label, "score": score});
    // whatever is likely, or nothing; a number is no probability, small as it may be; some of many labels, where asked for
    assert_eq!(shown(&many, json!([scored("b", 0.9), scored("a", 0.6)])), "b              90.0%  a              60.0%  x");
    assert_eq!(shown(&many, json!([scored("b", 0.4), scored("a", 0.1)])), "no label              x");
    assert_eq!(shown(&two, json!([scored("good", 0.75), scored("bad", 0.25)])), "good           75.0%  x");
    let three = context(&["a", "b", "c"], Problem::SingleLabel, 32);
    assert_eq!(shown(&three, json!([scored("c", 0.75), scored("a", 0.2)])), "x\n  c              75.0%\n  a              20.0%");
    let number = context(&["score"], Problem::Regression, 32);
    assert_eq!(shown(&number, json!([scored("score", 0.292)])), "score          0.292  x");
    let number = context(&["score"], Problem::Regression, 32);
    let answer = ask("text-classification", &number, json!("x"), &Options::default(), |_| rows(1, vec![3.5]));
    assert!(close(&answer[0]["score"], 3.5));
}

/// A text whose vector is asked for alone gets the default prefix, as sentence-transformers' `encode` has it; in pairs the first is a query.
#[test]
fn prefixes_of_embeddings_stand_before_what_they_are_for() {
    let pieces = WORDS.split_whitespace().map(String::from).collect();
    let tokenizer = Tokenizer::from_pieces(pieces, WordPieceOptions::default()).unwrap();
    let settings = Settings { query_prefix: "where ".into(), passage_prefix: "in ".into(), ..Settings::default() };
    let with = |default: &str| {
        let settings = Settings { default_prefix: default.into(), ..settings.clone() };
        Arc::new(Context { tokenizer: tokenizer.clone(), labels: vec![], problem: Problem::SingleLabel, max_length: 16, settings })
    };
    let texts = |context: &Arc<Context>, input: Value| {
        let job = require("sentence-embedding").unwrap().encode(context, &input, &Options::default()).unwrap();
        job.sequences.iter().map(|s| context.tokenizer.decode(&s.ids, true).unwrap()).collect::<Vec<_>>()
    };
    let pair = json!({"text": "the cat", "pair": "paris"});
    assert_eq!(texts(&with(""), json!("the cat")), ["the cat"]);
    assert_eq!(texts(&with("who "), json!("the cat")), ["who the cat"]);
    assert_eq!(texts(&with("who "), pair), ["where the cat", "in paris"]);
    // A comparison has no query: sentence-transformers compares what `encode` makes of both sides.
    let compared = |default: &str| {
        let (context, input) = (with(default), json!({"source_sentence": "the cat", "sentences": ["paris", "the dog"]}));
        let job = require("sentence-similarity").unwrap().encode(&context, &input, &Options::default()).unwrap();
        job.sequences.iter().map(|s| context.tokenizer.decode(&s.ids, true).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(compared(""), ["the cat", "paris", "the dog"]);
    assert_eq!(compared("who "), ["who the cat", "who paris", "who the dog"]);

    // written and read by sentence-transformers' files
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        ("", "where ", Value::Null),
        ("in ", "where ", json!("document")),
        ("who ", "where ", json!("default")),
        ("who ", "", json!("default")),
    ];
    for (default, query, name) in cases {
        let task = Some("sentence-embedding".into());
        let settings = Settings { task, default_prefix: default.into(), query_prefix: query.into(), ..settings.clone() };
        settings.write(folder.path(), 8).unwrap();
        assert_eq!(Settings::read(folder.path()).unwrap(), settings);
        std::fs::remove_file(folder.path().join("cloze_task.json")).unwrap();
        std::fs::write(folder.path().join("config.json"), r#"{"hidden_size": 8}"#).unwrap();
        assert_eq!(Settings::read(folder.path()).unwrap(), settings);
        let general = std::fs::read(folder.path().join("config_sentence_transformers.json")).unwrap();
        let general: Value = serde_json::from_slice(&general).unwrap();
        assert_eq!(general["default_prompt_name"], name);
    }
}

/// Logits that name the label of each asked row by its token id.
fn tagger(labels: usize, of: impl Fn(u32) -> usize) -> impl Fn(&Sequence) -> Output {
    move |s| {
        let Want::Tokens { rows: asked } = &s.want else { panic!("{:?}", s.want) };
        let row = |&r: &u32| (0..labels).map(|l| if l == of(s.ids[r as usize]) { 9.0 } else { 0.0 }).collect::<Vec<f32>>();
        rows(labels, asked.iter().flat_map(row).collect())
    }
}

fn id(context: &Context, piece: &str) -> u32 {
    context.tokenizer.token_to_id(piece).unwrap()
}

#[test]
fn entities_stand_where_they_are_in_both_languages() {
    let context = context(&["O", "B-LOC", "B-PER", "I-LOC", "I-PER"], Problem::SingleLabel, 12);
    let ids = |words: &[&str]| words.iter().map(|w| id(&context, w)).collect::<Vec<u32>>();
    let (per_b, per_i) = (ids(&["marie", "张"]), ids(&["curie", "三"]));
    let (loc_b, loc_i) = (ids(&["paris", "北"]), ids(&["京"]));
    let of = move |id: u32| match id {
        id if per_b.contains(&id) => 2,
        id if per_i.contains(&id) => 4,
        id if loc_b.contains(&id) => 1,
        id if loc_i.contains(&id) => 3,
        _ => 0,
    };
    // longer than a window, so that entities are put together from several
    let text = "😀 Marie  Curie was born in Paris. 张三去了北京大学。 The cat sat in Paris, the dog ran.";
    let answer = ask("token-classification", &context, json!({ "text": text }), &Options::default(), tagger(5, &of));
    let chars: Vec<char> = text.chars().collect();
    let found: Vec<(String, String)> = answer
        .as_array()
        .unwrap()
        .iter()
        .map(|e| {
            let (start, end) = (e["start"].as_u64().unwrap() as usize, e["end"].as_u64().unwrap() as usize);
            assert_eq!(chars[start..end].iter().collect::<String>(), e["word"].as_str().unwrap());
            (e["entity_group"].as_str().unwrap().to_owned(), e["word"].as_str().unwrap().to_owned())
        })
        .collect();
    let expected = [("PER", "Marie  Curie"), ("LOC", "Paris"), ("PER", "张三"), ("LOC", "北京"), ("LOC", "Paris")];
    assert_eq!(found, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));

    let task = require("token-classification").unwrap();
    let shown = task.text(&context, &json!({ "text": text }), &answer, cloze_task::paint::Paint::default());
    assert!(shown.contains("[Marie  Curie]/PER was born in [Paris]/LOC. [张三]/PER去了[北京]/LOC大学。"), "{shown}");

    // words with tags: gold entities and found ones meet
    let row = json!({"tokens": ["Marie", "Curie", "ran", "."], "tags": ["B-PER", "I-PER", "O", "O"]});
    let answer = ask("token-classification", &context, row.clone(), &Options::default(), tagger(5, &of));
    let figures = task.figures(&context, &[Row::new(row)], &[answer]).unwrap();
    assert_eq!(figures.values["f1"], 1.0);
    let row = json!({"text": "Paris is good", "entities": [{"start": 0, "end": 5, "label": "LOC"}]});
    let answer = ask("token-classification", &context, row.clone(), &Options::default(), tagger(5, &of));
    let figures = task.figures(&context, &[Row::new(row)], &[answer]).unwrap();
    assert_eq!(figures.values["f1"], 1.0);
}

#[test]
fn training_rows_of_entities_label_the_pieces_that_begin_words() {
    let context = context(&["O", "B-LOC", "I-LOC"], Problem::SingleLabel, 32);
    let learning = require("token-classification").unwrap().learning().unwrap();
    // `-` is a word of its own to the tokenizer: in a text it goes on with the entity, in a given word the first piece speaks for
    // all; Chinese characters speak for themselves
    let rows = [
        (json!({"tokens": ["the", "Paris-London", "cats"], "tags": ["O", "B-LOC", "O"]}), vec![0, 1, 0], vec![1, 2, 5]),
        (json!({"tokens": ["去", "北京", "了"], "tags": ["O", "B-LOC", "O"]}), vec![0, 1, 2, 0], vec![1, 2, 3, 4]),
        (
            json!({"text": "the Paris-London cats", "entities": [{"start": 4, "end": 16, "label": "LOC"}]}),
            vec![0, 1, 2, 2, 0],
            vec![1, 2, 3, 4, 5],
        ),
    ];
    for (row, labels, places) in rows {
        let example = learning.examples(&context, &Row::new(row.clone())).unwrap().remove(0);
        assert_eq!(example.target, cloze_task::loss::Target::Tokens(labels), "{row}");
        let Want::Tokens { rows } = &example.sequences[0].want else { panic!() };
        assert_eq!(rows, &places, "[CLS] the paris - london cat ##s [SEP], [CLS] 去 北 京 了 [SEP]");
        assert_eq!(example.sequences[0].ids.len(), if row["tokens"][0] == "去" { 6 } else { 8 });
    }
    let bad = Row::new(json!({"tokens": ["a", "b"], "tags": ["O"]}));
    assert!(learning.examples(&context, &bad).unwrap_err().to_string().contains("tags"));
}

#[test]
fn entities_of_the_io_scheme_are_told_by_the_labels_of_the_model() {
    let context = context(&["LOC", "O", "PER"], Problem::SingleLabel, 32);
    let row = json!({"tokens": ["marie", "curie"], "tags": ["PER", "PER"]}); // without an O
    let answer = ask("token-classification", &context, row.clone(), &Options::default(), tagger(3, |_| 2));
    assert_eq!((&answer[0]["word"], answer.as_array().unwrap().len()), (&json!("marie curie"), 1), "{answer}");
    let figures = require("token-classification").unwrap().figures(&context, &[Row::new(row)], &[answer]).unwrap();
    assert_eq!(figures.values["f1"], 1.0, "one entity, as seqeval has it");
}

/// Start and end logits at the tokens with these ids.
fn reader(start: u32, end: u32) -> impl Fn(&Sequence) -> Output {
    move |s| {
        let first = s.segments.iter().position(|&x| x == 1).unwrap_or(s.ids.len());
        let logit = |t: usize, wanted: u32| {
            if t >= first && s.ids[t] == wanted {
                8.0
            } else if t == 0 {
                1.0
            } else {
                0.0
            }
        };
        rows(2, (0..s.ids.len()).flat_map(|t| [logit(t, start), logit(t, end)]).collect())
    }
}

#[test]
fn answers_are_found_in_long_contexts() {
    let context = context(&[], Problem::SingleLabel, 24);
    let passage = format!("{}😀 Marie Curie was born in Paris. {}", "the cat sat on the dog. ".repeat(6), "The dog ran. ".repeat(9));
    let model = reader(id(&context, "marie"), id(&context, "curie"));
    let input = json!({"question": "who was born?", "context": passage});
    let job = require("question-answering").unwrap().encode(&context, &input, &Options::default()).unwrap();
    assert!(job.sequences.len() > 2 && job.sequences.iter().all(|s| s.ids.len() <= 24), "{}", job.sequences.len());
    let answer =
        ask("question-answering", &context, input.clone(), &Options { top_k: Some(3), stride: Some(6), ..Options::default() }, &model);
    assert_eq!(answer["answer"], "Marie Curie");
    let (start, end) = (answer["start"].as_u64().unwrap() as usize, answer["end"].as_u64().unwrap() as usize);
    assert_eq!(passage.chars().skip(start).take(end - start).collect::<String>(), "Marie Curie");
    assert_eq!(answer["others"].as_array().unwrap().len(), 2);
    assert!(answer["score"].as_f64().unwrap() > 0.9);
    let shown = require("question-answering").unwrap().text(&context, &input, &answer, cloze_task::paint::Paint::default());
    assert!(shown.contains("[Marie Curie] was born"), "{shown}");

    // a question without an answer, where that may be said
    let none = Options { no_answer: Some(true), ..Options::default() };
    let answer = ask("question-answering", &context, json!({"question": "who?", "context": "the cat sat."}), &none, &model);
    assert_eq!((&answer["answer"], &answer["start"]), (&json!(""), &json!(0)));
    let figures = require("question-answering").unwrap();
    let row = Row::new(json!({"question": "who?", "context": "the cat sat.", "answers": []}));
    assert_eq!(figures.figures(&context, &[row], &[answer]).unwrap().values["exact_match"], 1.0);
}

#[test]
fn training_spans_are_the_tokens_of_the_answer() {
    let context = context(&[], Problem::SingleLabel, 32);
    let learning = require("question-answering").unwrap().learning().unwrap();
    for answers in [
        json!([{"text": "北京大学", "answer_start": 5}]),
        json!({"text": ["北京大学"], "answer_start": [5]}),
        json!(["北京大学"]),
        json!([{"text": "北京大学", "start": 5}]),
        json!("北京大学"),
    ] {
        let row = Row::new(json!({"question": "张三去了哪里?", "context": "张三去了：北京大学。", "answers": answers}));
        let example = learning.examples(&context, &row).unwrap().remove(0);
        let cloze_task::loss::Target::Span { start, end } = example.target else { panic!() };
        let pieces: Vec<String> =
            example.sequences[0].ids[start as usize..=end as usize].iter().map(|&i| context.tokenizer.id_to_token(i).unwrap()).collect();
        assert_eq!(pieces.concat(), "北京大学", "{answers}");
    }
    // in several windows those without the answer point at the first token
    let row = Row::new(
        json!({"question": "who?", "context": format!("{} Marie sat. {}", "the cat ran. ".repeat(9), "a dog. ".repeat(9)), "answers": ["Marie"]}),
    );
    let examples = learning.examples(&context, &row).unwrap();
    let spans: Vec<bool> = examples.iter().map(|e| e.target != cloze_task::loss::Target::Span { start: 0, end: 0 }).collect();
    assert!(spans.len() > 2 && spans.contains(&true) && spans.contains(&false), "{spans:?}");
}

#[test]
fn a_question_is_read_to_half_of_the_models_length() {
    let context = context(&[], Problem::SingleLabel, 160);
    let task = require("question-answering").unwrap();
    let job = |cats: usize| {
        let input = json!({"question": "cat ".repeat(cats), "context": "the dog ran. ".repeat(40)});
        task.encode(&context, &input, &Options::default()).unwrap()
    };
    let cat = context.tokenizer.encode("cat", false).unwrap().ids[0];
    let (whole, cut) = (job(80), job(81));
    assert_eq!((whole.cut, cut.cut), (false, true));
    for sequence in whole.sequences.iter().chain(&cut.sequences) {
        assert_eq!(sequence.ids.iter().filter(|&&i| i == cat).count(), 80);
        assert!(sequence.len() <= 160);
    }
}

#[test]
fn texts_are_ranked_and_keep_their_places() {
    let context = context(&["relevant"], Problem::MultiLabel, 32);
    let length = |s: &Sequence| rows(1, vec![s.ids.len() as f32]);
    let input = json!({"query": "who", "texts": ["a cat", "the cat sat on the dog", "the"]});
    let answer = ask("rerank", &context, input, &Options { raw_scores: Some(true), ..Options::default() }, length);
    let order: Vec<u64> = answer.as_array().unwrap().iter().map(|r| r["index"].as_u64().unwrap()).collect();
    assert_eq!(order, [1, 0, 2]);
    let row = json!({"query": "who", "texts": ["the cat sat"], "negatives": ["a", "the dog"]});
    let answer = ask("rerank", &context, row.clone(), &Options::default(), length);
    let figures = require("rerank").unwrap().figures(&context, &[Row::new(row)], &[answer]).unwrap();
    assert_eq!(figures.values["mrr@10"], 1.0);
}

#[test]
fn choices_and_labels_given_with_the_text() {
    let none = context(&[], Problem::SingleLabel, 32);
    let longest = |s: &Sequence| rows(1, vec![s.ids.len() as f32]);
    let input = json!({"context": "the cat ran", "question": "where?", "choices": ["in", "in the paris"], "label": "B"});
    let answer = ask("multiple-choice", &none, input.clone(), &Options::default(), longest);
    assert_eq!(answer[0]["label"], "in the paris");
    let figures = require("multiple-choice").unwrap().figures(&none, &[Row::new(input)], &[answer]).unwrap();
    assert_eq!(figures.values["accuracy"], 1.0);
    // a number is a place, even among choices that are numbers; a text is first of all a choice
    let learning = require("multiple-choice").unwrap().learning().unwrap();
    for (label, right) in [(json!(0), 0), (json!("0"), 1), (json!("2"), 0), (json!("C"), 2)] {
        let row = Row::new(json!({"question": "where?", "choices": ["2", "0", "1"], "label": label}));
        let target = learning.examples(&none, &row).unwrap().remove(0).target;
        assert_eq!(target, cloze_task::loss::Target::Choice(right), "{label}");
    }

    let nli = context(&["contradiction", "entailment", "neutral"], Problem::SingleLabel, 32);
    let dog = id(&nli, "dog");
    let model = move |s: &Sequence| rows(3, if s.ids.contains(&dog) { vec![0.0, 4.0, 0.0] } else { vec![4.0, 0.0, 0.0] });
    let input = json!({"text": "it ran", "labels": ["cat", "dog"]});
    let answer = ask("zero-shot-classification", &nli, input.clone(), &Options::default(), model);
    assert_eq!(answer[0]["label"], "dog");
    let alone = Options { multi_label: Some(true), ..Options::default() };
    let answer = ask("zero-shot-classification", &nli, input, &alone, model);
    assert!(close(&answer[0]["score"], 1.0 / (1.0 + (-4f64).exp())), "{answer}");
    let wrong = require("zero-shot-classification").unwrap().encode(&none, &json!({"text": "a", "labels": ["b"]}), &Options::default());
    assert!(wrong.unwrap_err().to_string().contains("entailment"));
}

#[test]
fn masks_are_filled_alone_together_and_by_whole_words() {
    let context = context(&[], Problem::SingleLabel, 32);
    let (cat, dog, play, ing, s) =
        (id(&context, "cat"), id(&context, "dog"), id(&context, "play"), id(&context, "##ing"), id(&context, "##s"));
    let vocabulary = context.tokenizer.vocab_size();
    // p(token) falls with the id's distance from a favourite; behind `cat` the favourite is `sat`
    let sat = id(&context, "sat");
    let favourite = move |ids: &[u32], row: usize| match ids[row - 1] {
        before if before == cat => sat,
        before if before == play => ing,
        _ => cat,
    };
    let score = move |ids: &[u32], row: usize, token: u32| -(f64::from(token) - f64::from(favourite(ids, row))).abs() as f32;
    let model = move |q: &Sequence| match &q.want {
        Want::Candidates { rows, top, only } => Output::Candidates(
            rows.iter()
                .map(|&r| {
                    let mut all: Vec<(u32, f32)> = (0..vocabulary as u32)
                        .filter(|t| only.is_empty() || only.contains(t))
                        .map(|t| (t, score(&q.ids, r as usize, t)))
                        .collect();
                    all.sort_by(|a, b| b.1.total_cmp(&a.1));
                    all.truncate(*top);
                    all
                })
                .collect(),
        ),
        Want::Likelihoods { rows, ids } => Output::Likelihoods(rows.iter().zip(ids).map(|(&r, &t)| score(&q.ids, r as usize, t)).collect()),
        other => panic!("{other:?}"),
    };
    let one = ask("fill-mask", &context, json!("the [MASK] ran"), &Options { top_k: Some(2), ..Options::default() }, model);
    assert_eq!((one[0]["token"].as_u64(), &one[0]["sequence"]), (Some(u64::from(cat)), &json!("the cat ran")));
    assert_eq!(one.as_array().unwrap().len(), 2);
    let two = ask("fill-mask", &context, json!("the [MASK] [MASK] ."), &Options::default(), model);
    assert_eq!((two.as_array().unwrap().len(), &two[1][0]["token_str"]), (2, &json!("cat")), "each on its own");
    let joint = Options { joint: Some(true), top_k: Some(2), beams: Some(4), ..Options::default() };
    let both = ask("fill-mask", &context, json!("the [MASK] [MASK] ."), &joint, model);
    assert_eq!(both[0]["words"], json!(["cat", "sat"]), "{both}");
    assert_eq!(both[0]["sequence"], "the cat sat .");
    let targets = Options { targets: Some(vec!["playing".into(), "dogs".into()]), ..Options::default() };
    let words = ask("fill-mask", &context, json!("the [MASK] ran"), &targets, model);
    assert_eq!(words.as_array().unwrap().len(), 2);
    assert!([json!([play, ing]), json!([dog, s])].contains(&words[0]["tokens"]), "{words}");
    let whole = Options { word_tokens: Some(2), top_k: Some(70), beams: Some(70), ..Options::default() };
    let words = ask("fill-mask", &context, json!("the [MASK] ran"), &whole, model);
    assert_eq!(words[0]["words"], json!(["cat"]));
    assert!(words.as_array().unwrap().iter().any(|w| w["tokens"].as_array().unwrap().len() == 2), "{words}");
    let refused = require("fill-mask").unwrap().encode(&context, &json!("no mask"), &Options::default()).unwrap_err();
    assert!(refused.to_string().contains("[MASK]"));
}

#[test]
fn a_text_is_as_likely_as_its_tokens() {
    let context = context(&[], Problem::SingleLabel, 32);
    let bad = id(&context, "bad");
    let model = move |q: &Sequence| {
        let Want::Likelihoods { ids, .. } = &q.want else { panic!() };
        Output::Likelihoods(vec![if ids[0] == bad { -5.0 } else { -1.0 }])
    };
    let one = ask("masked-lm-scoring", &context, json!("the cat sat"), &Options::default(), model);
    assert!(close(&one["score"], -3.0) && one["tokens"] == 3 && close(&one["perplexity"], 1f64.exp()), "{one}");
    let row = json!({"text": "the good cat", "bad": "the bad cat", "paradigm": "p"});
    let pair = ask("masked-lm-scoring", &context, row.clone(), &Options::default(), model);
    assert_eq!(pair["better"], "good");
    let figures = require("masked-lm-scoring").unwrap().figures(&context, &[Row::new(row)], &[pair]).unwrap();
    assert_eq!((figures.values["accuracy"], figures.values["p"]), (1.0, 1.0));
}

#[test]
fn vectors_are_cut_normalised_and_compared() {
    let context = context(&[], Problem::SingleLabel, 32);
    let model = |s: &Sequence| rows(3, vec![s.ids.len() as f32, 4.0, 100.0]);
    let options = Options { dimensions: Some(2), ..Options::default() };
    let vector = ask("sentence-embedding", &context, json!("cat"), &options, model);
    assert!(close(&vector[0], 0.6) && close(&vector[1], 0.8), "{vector}");
    let raw = Options { normalize: Some(false), ..Options::default() };
    assert_eq!(ask("sentence-embedding", &context, json!("cat"), &raw, model), json!([3.0, 4.0, 100.0]));
    let near =
        ask("sentence-similarity", &context, json!({"source_sentence": "cat", "sentences": ["dog", "the dog ran in"]}), &options, model);
    assert!(close(&near[0], 1.0) && near[1].as_f64().unwrap() < 0.999, "{near}");
    let picked = ask("recommendation", &context, json!({"history": ["cat"], "candidates": ["the dog ran in", "dog"]}), &options, model);
    assert_eq!(picked[0]["index"], 1);
    // rows with candidates of their own are evaluated among these
    let row = |item: &str| json!({"history": ["cat"], "item": item, "candidates": ["the dog ran in", "dog"]});
    let ranks = |item: &str| {
        let answer = ask("recommendation", &context, row(item), &options, model);
        require("recommendation").unwrap().figures(&context, &[Row::new(row(item))], &[answer]).unwrap().values
    };
    assert_eq!((ranks("dog")["recall@1"], ranks("dog")["candidates"]), (1.0, 2.0));
    assert_eq!((ranks("the dog ran in")["recall@1"], ranks("the dog ran in")["recall@10"]), (0.0, 1.0));
}

#[test]
fn scores_are_shares_of_their_scale() {
    let learning = require("sentence-embedding").unwrap().learning().unwrap();
    let row = |score: f64| Row::new(json!({"text": "cat", "pair": "dog", "score": score}));
    let targets = |scores: &[f64]| {
        let rows: Vec<Row> = scores.iter().map(|s| row(*s)).collect();
        let mut settings = Settings::default();
        learning.heads(&rows, None, &mut settings)?;
        let context = Context { settings, ..Arc::into_inner(context(&[], Problem::SingleLabel, 32)).unwrap() };
        let of = |r: &Row| match learning.examples(&context, r).unwrap().remove(0).target {
            cloze_task::loss::Target::Similarity(score) => score,
            other => panic!("{other:?}"),
        };
        Ok::<_, TaskError>(rows.iter().map(of).collect::<Vec<f32>>())
    };
    assert_eq!(targets(&[5.0, 1.0, 0.4, 2.5]).unwrap(), [1.0, 0.2, 0.08, 0.5], "one scale for all rows");
    assert_eq!(targets(&[1.0, 0.0, 0.4]).unwrap(), [1.0, 0.0, 0.4]);
    assert_eq!(targets(&[8.0, 1.0]).unwrap(), [0.8, 0.1]);
    assert!(targets(&[1.0, 101.0]).unwrap_err().to_string().contains("scale"));
}

#[test]
fn sentences_are_chosen_and_given_in_their_order() {
    let context = context(&["other", "summary"], Problem::SingleLabel, 16);
    let text = "The cat sat. A dog ran in Paris. Who was born? Marie Curie was good. The film is bad.";
    let cls = id(&context, "[CLS]");
    let (dog, marie) = (id(&context, "dog"), id(&context, "marie"));
    let model = move |s: &Sequence| {
        let Want::Tokens { rows: asked } = &s.want else { panic!() };
        let logits = |(i, &r): (usize, &u32)| {
            assert_eq!(s.ids[r as usize], cls);
            let end = asked.get(i + 1).map_or(s.ids.len(), |&e| e as usize);
            let told = s.ids[r as usize..end].iter().any(|t| *t == dog || *t == marie);
            [0.0, if told { 5.0 } else { -5.0 }]
        };
        rows(2, asked.iter().enumerate().flat_map(logits).collect())
    };
    let answer =
        ask("extractive-summarization", &context, json!({ "text": text }), &Options { top_k: Some(2), ..Options::default() }, model);
    assert_eq!(answer["summary"], "A dog ran in Paris. Marie Curie was good.");
    let learning = require("extractive-summarization").unwrap().learning().unwrap();
    let row = Row::new(json!({"text": text, "summary": "a dog ran; marie was good"}));
    let chosen: Vec<u32> = learning
        .examples(&context, &row)
        .unwrap()
        .into_iter()
        .flat_map(|e| match e.target {
            cloze_task::loss::Target::Tokens(labels) => labels,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(chosen, [0, 1, 0, 1, 0]);
}

#[test]
fn what_would_fill_the_memory_is_refused() {
    let context = context(&["contradiction", "entailment"], Problem::SingleLabel, 32);
    let refused = |task: &str, input: Value, options: Options| {
        let error = require(task).unwrap().encode(&context, &input, &options).map(|_| ()).unwrap_err();
        assert!(matches!(error, TaskError::Input { .. }), "{error}");
        error.to_string()
    };
    // every candidate of every mask carries the whole text
    let long = format!("{}{}", "[MASK] ".repeat(20), "the cat ".repeat(100_000));
    let why = refused("fill-mask", json!(long), Options { top_k: Some(40), ..Options::default() });
    assert!(why.contains("top_k") && why.contains("20 × 40"), "{why}");
    require("fill-mask").unwrap().encode(&context, &json!(long), &Options { top_k: Some(1), ..Options::default() }).unwrap();
    let one = format!("[MASK] {}", "the cat ".repeat(100_000));
    refused("fill-mask", json!(one), Options { joint: Some(true), top_k: Some(1000), ..Options::default() });
    // each place of each target is a sequence of its own
    let targets = Some(vec!["cat ".repeat(25); 10_000]);
    let why = refused("fill-mask", json!("the [MASK] ran"), Options { targets, ..Options::default() });
    assert!(why.contains("targets"), "{why}");
    // the whole text is cut into tokens once for each label or choice, and a template may hold a label often
    let labels: Vec<String> = (0..1000).map(|i| i.to_string()).collect();
    let why = refused("zero-shot-classification", json!({"text": "cat ".repeat(10_000), "labels": labels}), Options::default());
    assert!(why.contains("1000 labels"), "{why}");
    let hypothesis = Some("{}".repeat(5000));
    let input = json!({"text": "cat", "labels": ["a".repeat(5000)]});
    refused("zero-shot-classification", input, Options { hypothesis, ..Options::default() });
    let question = "cat ".repeat(10_000);
    let why = refused("multiple-choice", json!({"question": question, "choices": labels}), Options::default());
    assert!(why.contains("1000 choices"), "{why}");
    refused("multiple-choice", json!({"question": "which?", "choices": vec!["a"; 20_000]}), Options::default());
}

#[test]
fn a_beam_keeps_the_best_in_their_order() {
    let context = context(&[], Problem::SingleLabel, 32);
    let [cat, dog, the, a] = ["cat", "dog", "the", "a"].map(|w| id(&context, w));
    // The first place has two equals; the second is told by the first.
    let model = move |s: &Sequence| match &s.want {
        Want::Candidates { rows, .. } if rows == &[1] => Output::Candidates(vec![vec![(cat, -1.0), (dog, -1.0), (the, -3.0)]]),
        Want::Candidates { .. } => Output::Candidates(vec![match s.ids[1] {
            id if id == cat => vec![(a, -2.0), (the, -2.5)],
            id if id == dog => vec![(the, -0.5), (a, -2.0)],
            _ => vec![(a, 0.0)],
        }]),
        Want::Likelihoods { .. } => Output::Likelihoods(vec![-0.5]),
        other => panic!("{other:?}"),
    };
    let joint = Options { joint: Some(true), beams: Some(3), top_k: Some(3), ..Options::default() };
    let answer = ask("fill-mask", &context, json!("[MASK] [MASK]"), &joint, model);
    let words: Vec<&Value> = answer.as_array().unwrap().iter().map(|f| &f["words"]).collect();
    assert_eq!(words, [&json!(["dog", "the"]), &json!(["cat", "a"]), &json!(["dog", "a"])]);
}
