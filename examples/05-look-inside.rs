//! What happens to a word on its way through the layers: how its vector changes, and how close it stays to the same word in
//! another sentence.
//!
//! ```text
//! cargo run --release -p cloze --example 05-look-inside -- runs/quickstart/pretrained/model
//! cargo run --release -p cloze --example 05-look-inside -- MODEL "The cat sat on the mat." "The dog slept on the mat."
//! ```

use std::path::Path;

use cloze::train::run::Precision;
use cloze::{Device, DeviceChoice, Pipeline};

/// The cosine of the angle between two vectors: 1 for the same direction, 0 for nothing in common.
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(f32::MIN_POSITIVE)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let Some(folder) = arguments.next() else {
        println!("Give the folder of a model, and two texts. To get a model: cargo run --release -- quickstart");
        println!("Then: cargo run --release -p cloze --example 05-look-inside -- runs/quickstart/pretrained/model");
        return Ok(());
    };
    let first = arguments.next().unwrap_or_else(|| "The cat sat on the mat.".into());
    let second = arguments.next().unwrap_or_else(|| "The doctor sat on a chair.".into());

    let device = Device::open(DeviceChoice::Auto, None)?;
    let pipeline = Pipeline::load(&device, Path::new(&folder), Precision::F32, None)?;
    let hidden_size = pipeline.model().blueprint.hidden_size;

    // hidden[0] are the embeddings, hidden[l] the output of layer l. // (layers + 1) × [len, H]
    let (encoding, states) = pipeline.states(&first)?;
    let (other_encoding, other_states) = pipeline.states(&second)?;
    let row = |state: &[f32], token: usize| state[token * hidden_size..(token + 1) * hidden_size].to_vec();
    let piece = |id: u32| pipeline.tokenizer().id_to_token(id).unwrap_or_default();

    println!("{first}\nHow far each token has moved from its embedding (cosine), layer by layer:\n");
    print!("  {:<12}", "");
    (1..states.hidden.len()).for_each(|layer| print!("  layer {layer:<2}"));
    println!();
    for (t, &id) in encoding.ids.iter().enumerate() {
        print!("  {:<12}", piece(id));
        for state in &states.hidden[1..] {
            print!("  {:>8.3}", cosine(&row(&states.hidden[0], t), &row(state, t)));
        }
        println!();
    }

    println!("\n{second}\nThe same pieces in both texts: the context makes their vectors differ, layer by layer.\n");
    for (t, &id) in encoding.ids.iter().enumerate() {
        let Some(u) = other_encoding.ids.iter().position(|&other| other == id) else { continue };
        print!("  {:<12}", piece(id));
        for (a, b) in states.hidden.iter().zip(&other_states.hidden).skip(1) {
            print!("  {:>8.3}", cosine(&row(a, t), &row(b, u)));
        }
        println!();
    }
    Ok(())
}
