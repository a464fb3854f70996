//! The likeliest words for each [MASK] of a text.
//!
//! ```text
//! cargo run --release -p cloze --example 02-fill-mask -- runs/quickstart/pretrained/model "The capital of France is [MASK]."
//! ```

use std::path::Path;

use cloze::train::run::Precision;
use cloze::{Device, DeviceChoice, Pipeline};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let Some(folder) = arguments.next() else {
        println!("Give the folder of a pre-trained model, and texts with [MASK]. To get a model: cargo run --release -- quickstart");
        println!("Then: cargo run --release -p cloze --example 02-fill-mask -- runs/quickstart/pretrained/model");
        return Ok(());
    };
    let mut texts: Vec<String> = arguments.collect();
    if texts.is_empty() {
        texts = vec!["The capital of France is [MASK].".into(), "The cat sat on the [MASK].".into(), "鸭子高兴的时候嘎嘎地[MASK]。".into()];
    }

    // The device is opened once: it owns the threads and the memory. The pipeline is the model with its tokenizer on it.
    let device = Device::open(DeviceChoice::Auto, None)?;
    let pipeline = Pipeline::load(&device, Path::new(&folder), Precision::F32, None)?;

    for text in &texts {
        println!("{text}");
        // One list of candidates for each [MASK] of the text, the likeliest first.
        for candidates in pipeline.fill_mask(text, 3)? {
            for candidate in candidates {
                println!("  {:>5.1}%  {}", 100.0 * candidate.score, candidate.sequence);
            }
        }
    }
    Ok(())
}
