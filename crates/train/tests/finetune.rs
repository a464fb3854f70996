//! Every task that is trained learns a small made-up world to near perfection in some seconds; what comes out is a folder that
//! carries its task; what cannot be trained is refused.

use std::path::{Path, PathBuf};

use cloze_cpu::{Cpu, CpuOptions};
use cloze_model::{Blueprint, Heads, Model};
use cloze_task::Settings;
use cloze_tensor::Dtype;
use cloze_tensor::random::{Key, Stream};
use cloze_text::Tokenizer;
use cloze_text::tokenizer::WordPieceOptions;
use cloze_train::TrainError;
use cloze_train::budget::Budget;
use cloze_train::finetune::{ClassWeights, FinetuneRun, Finetuned, finetune};
use cloze_train::fit::Every;
use cloze_train::observer::{Control, Observers};
use cloze_train::pretrain::Device;
use cloze_train::run::Precision;
use serde_json::{Value, json};

const ANIMALS: [&str; 4] = ["cat", "dog", "cow", "hen"];
const PLACES: [&str; 4] = ["paris", "london", "rome", "oslo"];
const OTHER: [&str; 8] = ["the", "a", "old", "young", "slept", "ran", "near", "again"];

/// A folder with a random model and its tokenizer.
fn model(folder: &Path) -> PathBuf {
    let pieces = "[PAD] [UNK] [CLS] [SEP] [MASK] . ? yes no where what and".split(' ').chain(ANIMALS).chain(PLACES).chain(OTHER);
    let tokenizer = Tokenizer::from_pieces(pieces.map(String::from).collect(), WordPieceOptions::default()).unwrap();
    let mut blueprint = Blueprint::bert(tokenizer.vocab_size(), 2, 32, 2, 64);
    blueprint.position = cloze_model::blueprint::Position::Learned { max: 64, offset: 0 };
    blueprint.hidden_dropout = 0.0;
    blueprint.attention_dropout = 0.0;
    blueprint.initializer_range = 0.1;
    let model = Model::new("bert", blueprint, Heads::pretraining(true));
    let path = folder.join("model");
    std::fs::create_dir(&path).unwrap();
    cloze_model::save(&path, &model, &model.table().init(3), &[]).unwrap();
    tokenizer.save(&path).unwrap();
    path
}

/// Draws of row `row`.
struct Draws(Key, u64);

impl Draws {
    fn new(row: u64) -> Self {
        Self(Key::new(11, Stream::World, row, 0), 0)
    }

    fn below(&mut self, n: usize) -> usize {
        self.1 += 1;
        self.0.below(self.1, n as u32) as usize
    }

    fn choose(&mut self, words: &[&'static str]) -> &'static str {
        words[self.below(words.len())]
    }

    /// Some words with `word` among them.
    fn around(&mut self, word: &str) -> String {
        let mut words: Vec<&str> = (0..4).map(|_| self.choose(&OTHER)).collect();
        words.insert(self.below(5), word);
        words.join(" ")
    }
}

fn write(folder: &Path, name: &str, from: u64, to: u64, row: &dyn Fn(&mut Draws) -> Value) -> PathBuf {
    let path = folder.join(name);
    let lines: String = (from..to).map(|i| format!("{}\n", row(&mut Draws::new(i)))).collect();
    std::fs::write(&path, lines).unwrap();
    path
}

fn run(task: &str, change: impl Fn(&mut FinetuneRun), row: &dyn Fn(&mut Draws) -> Value) -> Result<(Finetuned, Settings), TrainError> {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let (train, dev) = (write(at, "train.jsonl", 0, 240, row), write(at, "dev.jsonl", 1000, 1060, row));
    let mut run = FinetuneRun::new(task, model(at), train, dev, at.join("run"));
    run.budget = Budget::Epochs(8.0);
    run.evaluate = Every::Amount(Budget::Epochs(2.0));
    run.batch_size = 16;
    run.max_length = 48;
    run.micro_batch_tokens = 256;
    run.optimizer.lr = 3e-3;
    run.precision = Precision::F32;
    change(&mut run);
    let cpu = Cpu::new(CpuOptions { threads: Some(1), level: None });
    let device = Device { name: "test".into(), peak_flops: None, dtype: Dtype::F32 };
    let done = finetune(&cpu, &run, device, false, &mut Observers::new(), &Control::default())?;
    let saved = run.out.join("model");
    let loaded = cloze_model::load(&saved).unwrap();
    assert!(loaded.report.new.is_empty() && loaded.report.unused.is_empty(), "{:?}", loaded.report);
    assert_eq!(loaded.model.heads.labels, done.labels);
    let settings = Settings::read(&saved).unwrap();
    assert_eq!(settings.task.as_deref(), Some(task));
    Ok((done, settings))
}

#[track_caller]
fn learned(task: &str, figure: &str, bar: f64, row: &dyn Fn(&mut Draws) -> Value) {
    let (done, _) = run(task, |_| (), row).unwrap();
    let value = done.figures.values[figure];
    assert!(value > bar, "{task}: {figure} is {value}: {:?}", done.figures.values);
}

#[test]
fn labels_are_learned() {
    learned("text-classification", "accuracy", 0.97, &|d| {
        let animal = d.below(2) == 0;
        let word = if animal { d.choose(&ANIMALS) } else { d.choose(&PLACES) };
        json!({"text": d.around(word), "label": if animal { "animal" } else { "place" }})
    });
}

#[test]
fn several_labels_and_numbers_are_learned() {
    let several = |d: &mut Draws| {
        let (animal, place) = (d.below(2) == 0, d.below(2) == 0);
        let mut text = d.around("and");
        let mut labels = Vec::new();
        if animal {
            text += &format!(" {}", d.choose(&ANIMALS));
            labels.push("animal");
        }
        if place {
            text += &format!(" {}", d.choose(&PLACES));
            labels.push("place");
        }
        json!({"text": text, "label": labels})
    };
    learned("text-classification", "micro_f1", 0.95, &several);
    learned("text-classification", "pearson", 0.95, &|d| {
        let n = d.below(4);
        let word = ["no", "cat", "yes", "rome"][n];
        json!({"text": d.around(word), "label": n as f64 + 0.5})
    });
}

#[test]
fn entities_are_learned() {
    learned("token-classification", "f1", 0.97, &|d| {
        let (animal, place) = (d.choose(&ANIMALS), d.choose(&PLACES));
        json!({
            "tokens": ["the", animal, "ran", "near", "old", place, "."],
            "tags": ["O", "B-ANI", "O", "O", "B-LOC", "I-LOC", "O"],
        })
    });
}

#[test]
fn spans_are_learned_and_windows_too() {
    let (done, settings) = run(
        "question-answering",
        |r| {
            r.max_length = 20;
            r.options.stride = Some(4);
        },
        &|d| {
            let place = d.choose(&PLACES);
            let context = format!("{} {} . {}", d.around("cat"), d.around(place), d.around("dog"));
            let answerable = d.below(6) > 0;
            let context = if answerable { context } else { context.replace(place, "hen") };
            json!({"question": "where ?", "context": context, "answers": if answerable { json!([{"text": place}]) } else { json!([]) }})
        },
    )
    .unwrap();
    assert!(settings.no_answer);
    assert!(done.figures.values["f1"] > 0.9, "{:?}", done.figures.values);
}

#[test]
fn choices_are_learned() {
    // With two choices the gradient of the score's bias is exactly zero.
    for count in [2, 3] {
        learned("multiple-choice", "accuracy", 0.95, &|d| {
            let right = d.below(count);
            let choices: Vec<String> = (0..count).map(|i| d.around(if i == right { "yes" } else { "no" })).collect();
            json!({"context": d.around("cat"), "question": "what ?", "choices": choices, "label": right})
        });
    }
}

#[test]
fn vectors_of_one_animal_come_together() {
    let pair = |d: &mut Draws| {
        let animal = d.choose(&ANIMALS);
        json!({"text": d.around(animal), "pair": format!("{animal} {}", d.choose(&PLACES))})
    };
    let (done, settings) = run("sentence-embedding", |r| r.dimensions = vec![16], &pair).unwrap();
    // four animals and four places: the pair's animal is told by the text, its place is not
    assert!(done.figures.values["recall@10"] > 0.95 && done.figures.values["mrr@10"] > 0.4, "{:?}", done.figures.values);
    assert_eq!((settings.dimensions, settings.normalize), (vec![16], true));
    learned("sentence-embedding", "spearman", 0.7, &|d| {
        let (a, same) = (d.below(4), d.below(2) == 0);
        let b = if same { a } else { (a + 1 + d.below(3)) % 4 };
        json!({"text": d.around(ANIMALS[a]), "pair": d.around(ANIMALS[b]), "score": if same { 4.5 } else { 0.5 }})
    });
}

#[test]
fn rankings_summaries_and_recommendations_are_learned() {
    learned(
        "rerank",
        "mrr@10",
        0.95,
        &|d| json!({"query": d.around("where"), "texts": [d.around("yes")], "negatives": [d.around("no"), d.around("cat")]}),
    );
    let (done, _) = run("extractive-summarization", |r| r.options.top_k = Some(1), &|d| {
        let at = d.below(3);
        let parts: Vec<String> = (0..3).map(|i| d.around(if i == at { "yes" } else { "no" })).collect();
        let labels: Vec<u32> = (0..3).map(|i| u32::from(i == at)).collect();
        json!({"text": parts, "labels": labels, "summary": parts[at]})
    })
    .unwrap();
    assert!(done.figures.values["rouge1"] > 0.95, "{:?}", done.figures.values);
    learned("recommendation", "recall@1", 0.9, &|d| {
        let last = if d.below(2) == 0 { d.choose(&ANIMALS) } else { d.choose(&PLACES) };
        json!({"history": [last, last], "item": format!("{last} again")})
    });
}

/// A label of twenty rows is wrong: nearly all of them stand in the table, and hardly a right one does.
#[test]
fn wrong_labels_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let wrong = |row: u64| row % 20 == 7;
    let row = |flip: bool, d: &mut Draws| {
        let animal = d.below(2) == 0;
        let word = if animal { d.choose(&ANIMALS) } else { d.choose(&PLACES) };
        json!({"text": d.around(word), "label": if animal != flip { "animal" } else { "place" }})
    };
    let lines: String = (0..400).map(|i| format!("{}\n", row(wrong(i), &mut Draws::new(i)))).collect();
    std::fs::write(at.join("train.jsonl"), lines).unwrap();
    let dev = write(at, "dev.jsonl", 1000, 1060, &|d| row(false, d));
    let mut run = FinetuneRun::new("text-classification", model(at), at.join("train.jsonl"), dev, at.join("run"));
    run.budget = Budget::Epochs(6.0);
    run.batch_size = 16;
    run.max_length = 48;
    run.micro_batch_tokens = 256;
    run.optimizer.lr = 3e-3;
    run.precision = Precision::F32;
    let cpu = Cpu::new(CpuOptions { threads: Some(1), level: None });
    let tune = |run: &FinetuneRun, resume: bool| {
        let device = Device { name: "test".into(), peak_flops: None, dtype: Dtype::F32 };
        finetune(&cpu, run, device, resume, &mut Observers::new(), &Control::default()).unwrap()
    };
    let done = tune(&run, false);
    let found: Vec<bool> = done.suspects.iter().map(|s| wrong(s.row as u64)).collect();
    let among = |n: usize| found.iter().take(n).filter(|w| **w).count();
    assert!(among(20) >= 18, "of 20 wrong labels {} are among the first 20 of {}", among(20), found.len());
    assert!(found.len() < 40, "{} rows are doubted", found.len());
    let table = std::fs::read_to_string(run.out.join("label-errors.tsv")).unwrap();
    let mut rows = table.lines().map(|l| l.split('\t').collect::<Vec<_>>());
    assert_eq!(rows.next().unwrap(), ["line", "score", "label", "model", "text"]);
    let first = rows.next().unwrap();
    assert!(first[1].parse::<f64>().unwrap() < 0.0 && first[2] != first[3] && first[4].split(' ').count() == 5, "{first:?}");
    assert_eq!(table.lines().count(), found.len() + 1);
    // A finished run that is resumed sees no row, and leaves what was found.
    assert!(tune(&run, true).suspects.is_empty());
    assert_eq!(std::fs::read_to_string(run.out.join("label-errors.tsv")).unwrap(), table);

    run.label_errors = false;
    run.out = at.join("second");
    let plain = tune(&run, false);
    assert!(plain.suspects.is_empty() && !run.out.join("label-errors.tsv").exists());
    assert_eq!(plain.figures.values, done.figures.values, "to look does not change what is learned");
}

#[test]
fn without_dev_rows_every_tenth_row_is_held_out() {
    let row = |d: &mut Draws| {
        let animal = d.below(2) == 0;
        let word = if animal { d.choose(&ANIMALS) } else { d.choose(&PLACES) };
        json!({"text": d.around(word), "label": if animal { "animal" } else { "place" }})
    };
    let (done, _) = run("text-classification", |r| r.dev = PathBuf::new(), &row).unwrap();
    assert_eq!(done.data.rows, (216, 24));
    assert!(done.figures.values["accuracy"] > 0.9, "{:?}", done.figures.values);
}

/// A row of two labels; of every hundredth row the label is another.
fn animals(d: &mut Draws, seen: &std::cell::Cell<usize>) -> Value {
    let animal = d.below(2) == 0;
    let word = if animal { d.choose(&ANIMALS) } else { d.choose(&PLACES) };
    seen.set(seen.get() + 1);
    json!({"text": d.around(word), "label": if seen.get() == 10 { "rare" } else if animal { "animal" } else { "place" }})
}

#[test]
fn a_label_of_dev_rows_alone_is_known_or_told_before_training() {
    let seen = std::cell::Cell::new(0);
    let (done, _) = run("text-classification", |r| r.dev = PathBuf::new(), &|d| animals(d, &seen)).unwrap();
    assert_eq!(done.labels, ["animal", "place", "rare"], "the tenth row is held out");
    // the same row in a dev file: a thousand epochs would pass before the first evaluation
    let seen = std::cell::Cell::new(1_000 - 240);
    let late = |r: &mut FinetuneRun| {
        (r.budget, r.evaluate) = (Budget::Epochs(1000.0), Every::Amount(Budget::Epochs(1000.0)));
    };
    let error = run("text-classification", late, &|d| {
        seen.set(if seen.get() == 1_000 { 5 } else { seen.get() });
        animals(d, &seen)
    });
    let error = error.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.contains("dev.jsonl") && error.contains("line 5") && error.contains("rare"), "{error}");
}

#[test]
fn rows_without_anything_to_learn_are_counted() {
    let row = |d: &mut Draws| {
        let word = d.choose(&PLACES);
        let answer = if d.below(4) == 0 { "nowhere" } else { word };
        json!({"question": "where", "context": d.around(word), "answers": [answer]})
    };
    let (done, _) = run("question-answering", |r| r.budget = Budget::Epochs(1.0), &row).unwrap();
    let (count, line) = done.data.unused.unwrap();
    assert!((30..90).contains(&count) && line >= 1, "{count}");
    assert!(done.data.lines().iter().any(|l| l.contains("give nothing to learn from")));
}

/// A change of a run.
type Change = Box<dyn Fn(&mut FinetuneRun)>;

#[test]
fn what_cannot_be_trained_is_refused_with_the_reason() {
    let row = |d: &mut Draws| json!({"text": d.around("cat"), "label": if d.below(2) == 0 { "x" } else { "y" }});
    let weights = |w: &[(&str, f32)]| Some(ClassWeights::Of(w.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect()));
    let cases: Vec<(&str, Change, &str)> = vec![
        ("fill-mask", Box::new(|_| ()), "a task that is trained"),
        ("dance", Box::new(|_| ()), "there is no task"),
        ("text-classification", Box::new(|r| r.metric = Some("bleu".into())), "accuracy"),
        ("text-classification", Box::new(|r| r.metric = Some("pearson".into())), "a figure that these rows have: accuracy"),
        ("text-classification", Box::new(|r| r.problem = Some("guess".into())), "regression"),
        ("text-classification", Box::new(|r| r.problem = Some("regression".into())), "a number"),
        ("text-classification", Box::new(|r| r.max_length = 2000), "micro_batch_tokens"),
        ("text-classification", Box::new(move |r| r.class_weights = weights(&[("z", 1.0)])), "labels of the data: x, y"),
        (
            "text-classification",
            Box::new(|r| (r.class_weights, r.problem) = (Some(ClassWeights::Named("balanced".into())), Some("multi_label".into()))),
            "class_weights",
        ),
        ("text-classification", Box::new(|r| r.catalogue = Some("items.tsv".into())), "takes no catalogue"),
        ("token-classification", Box::new(|_| ()), "tags"),
        ("text-classification", Box::new(|r| r.pooling = Some("sum".into())), "mean"),
    ];
    for (task, change, says) in cases {
        let error = run(task, change, &row).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains(says), "{task}: {error:?} does not say {says:?}");
    }
    let (done, _) = run("text-classification", |r| r.class_weights = Some(ClassWeights::Named("balanced".into())), &row).unwrap();
    assert_eq!(done.labels, ["x", "y"]);
}
