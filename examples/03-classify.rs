//! Texts to labels, many at once.
//!
//! ```text
//! cargo run --release -p cloze --example 03-classify -- runs/quickstart/sentiment/model "The soup was cold." "这首歌太动人了。"
//! ```

use std::path::Path;

use cloze::task::text_classification::TextInput;
use cloze::train::run::Precision;
use cloze::{Device, DeviceChoice, Pipeline};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let Some(folder) = arguments.next() else {
        println!("Give the folder of a classifier, and texts. To get a classifier: cargo run --release -- quickstart");
        println!("Then: cargo run --release -p cloze --example 03-classify -- runs/quickstart/sentiment/model");
        return Ok(());
    };
    let mut texts: Vec<String> = arguments.collect();
    if texts.is_empty() {
        texts = vec!["The soup was cold, but the waiter was wonderful.".into(), "这首歌太动人了。".into()];
    }

    let device = Device::open(DeviceChoice::Auto, None)?;
    let pipeline = Pipeline::load(&device, Path::new(&folder), Precision::F32, None)?;

    // All texts go through the model together, packed on one axis without padding; answers come in the order of the texts.
    // `second` is the other text of a pair, for models that were fine-tuned on pairs.
    let inputs: Vec<TextInput> = texts.into_iter().map(|first| TextInput { first, second: None }).collect();
    for (input, answer) in inputs.iter().zip(pipeline.classify(&inputs)?) {
        println!("{}", input.first);
        for scored in &answer {
            println!("  {:>5.1}%  {}", 100.0 * scored.score, scored.label);
        }
    }
    Ok(())
}
