//! Text, vocabulary, corpus, recipe, model: the whole of pre-training from Rust, in seconds, on a text made on the spot.
//!
//! ```text
//! cargo run --release -p cloze --example 04-pretrain-from-code
//! cargo run --release -p cloze --example 04-pretrain-from-code -- FOLDER
//! ```
//!
//! FOLDER is where everything is written; it must not hold such a run already.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use cloze::text::learn::{LearnOptions, learn};
use cloze::text::{PrepareOptions, prepare};
use cloze::train::files::FileError;
use cloze::train::observer::{Control, Event, Observer, Observers};
use cloze::train::pretrain::PretrainRun;
use cloze::train::run::Precision;
use cloze::{Device, DeviceChoice, Pipeline};

/// Documents about who eats what: a small world with rules that a model can find.
fn documents() -> Vec<String> {
    let animals = ["cat", "cow", "horse", "panda", "monkey", "rabbit", "squirrel", "bear"];
    let foods = ["fish", "grass", "hay", "bamboo", "bananas", "carrots", "nuts", "honey"];
    let places = ["in the garden", "by the river", "behind the house", "under the tree", "on the hill"];
    let mut documents = Vec::new();
    for round in 0..60 {
        for (i, animal) in animals.iter().enumerate() {
            let (food, place) = (foods[i], places[(round + i) % places.len()]);
            let mut sentences =
                [format!("The {animal} eats {food}."), format!("The {animal} sleeps {place}."), format!("The {animal} likes {food}.")];
            // In a fixed order the model would learn which word stands at which place instead of who eats what.
            sentences.rotate_left(round % 3);
            documents.push(sentences[..1 + round / 3 % 3].join(" "));
        }
    }
    documents
}

/// A display that prints the evaluations.
struct Evaluations;

impl Observer for Evaluations {
    fn event(&mut self, event: &Event) -> Result<(), FileError> {
        if let Event::Eval(eval) = event {
            let of = |name| eval.metrics.get(name).copied().unwrap_or(f64::NAN);
            println!("step {:>4}: {:.1}% of the masked words found, loss {:.3}", eval.step, 100.0 * of("mlm_accuracy"), of("mlm_loss"));
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder: PathBuf = std::env::args().nth(1).map_or_else(|| PathBuf::from("runs/example-04"), PathBuf::from);
    std::fs::create_dir_all(&folder)?;

    // 1. Text: documents with a blank line between them.
    let text = folder.join("text.txt");
    std::fs::write(&text, documents().join("\n\n"))?;

    // 2. Vocabulary.
    let options = LearnOptions { vocab_size: 256, ..LearnOptions::default() };
    let tokenizer = learn(documents().into_iter(), &options, |_| ())?.tokenizer()?;

    // 3. Corpus: shards of token ids with the boundaries of words, sentences and documents. Some documents are held out.
    let corpus = folder.join("corpus");
    let options = PrepareOptions {
        inputs: vec![text.display().to_string()],
        out: corpus.clone(),
        holdout: 0.05,
        overwrite: true,
        ..PrepareOptions::default()
    };
    let report = prepare(&options, &tokenizer, &mut |_| ControlFlow::Continue(()))?;
    println!("{} documents, {} tokens, {} documents held out", report.documents, report.tokens, report.heldout_documents);

    // 4. The run: what stands in a recipe's TOML file.
    let run: PretrainRun = cloze::train::run::parse(&format!(
        r#"
        out = {out:?}
        [data]
        dir = {corpus:?}
        [model]
        family = "modernbert"
        num_hidden_layers = 2
        hidden_size = 64
        num_attention_heads = 2
        intermediate_size = 192
        max_position_embeddings = 64
        [train]
        budget = "400 steps"
        batch_tokens = 1024
        micro_batch_tokens = 1024
        sequence_length = 32
        [optimizer]
        rule = "muon"
        lr = 5e-3
        [evaluation]
        every = "20%"
        "#,
        out = folder.join("run")
    ))?;

    // 5. Train. Everything that happens is an event that displays take. `Control::request_stop` from another thread would
    //    save the state and end the run, to be resumed later.
    let device = Device::open(DeviceChoice::Auto, None)?;
    let mut observers = Observers::new();
    observers.add(Evaluations);
    cloze::pretrain(&device, &run, false, &mut observers, &Control::default())?;

    // 6. Ask it.
    let model = run.out.join("model");
    let pipeline = Pipeline::load(&device, Path::new(&model), Precision::F32, None)?;
    for text in ["The panda eats [MASK].", "The monkey eats [MASK].", "The cow eats [MASK]."] {
        if let Some(best) = pipeline.fill_mask(text, 1)?.first().and_then(|candidates| candidates.first()) {
            println!("{text}  →  {} ({:.0}%)", best.token_str, 100.0 * best.score);
        }
    }
    println!("the model: {}", model.display());
    Ok(())
}
