//! A text becomes token ids and comes back.
//!
//! ```text
//! cargo run --release -p cloze --example 01-tokenize
//! cargo run --release -p cloze --example 01-tokenize -- FOLDER "your text"
//! ```
//!
//! FOLDER is any folder with a tokenizer.json or a vocab.txt. Without one a small vocabulary is trained on the spot.

use cloze::text::Tokenizer;
use cloze::text::learn::{LearnOptions, learn};

/// Enough to learn from: what occurs often becomes a piece, what occurs rarely is put together from pieces.
const TEXTS: [&str; 4] = [
    "The cat sat on the mat. The cat saw the rat. The rat sat on the cat's mat.",
    "Cats and rats: a cat chases rats, and rats chase nobody. Chasing is tiring.",
    "猫坐在垫子上。老鼠看见了猫。猫和老鼠都喜欢垫子。",
    "The mat is the cat's. The seat is the rat's. 垫子是猫的。",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let tokenizer = match arguments.next() {
        Some(folder) => Tokenizer::load(folder)?,
        None => {
            let options = LearnOptions { vocab_size: 120, ..LearnOptions::default() };
            let learned = learn(TEXTS.into_iter().map(String::from), &options, |_| ())?;
            println!("learned {} pieces from {} words\n", learned.report.pieces, learned.report.words);
            learned.tokenizer()?
        }
    };
    let mut texts: Vec<String> = arguments.collect();
    if texts.is_empty() {
        texts = vec!["The cats chased the rats.".into(), "The mat 是猫的。".into()];
    }
    for text in &texts {
        // `true`: with the tokens that frame a text, [CLS] before and [SEP] after.
        let encoding = tokenizer.encode(text, true)?;
        println!("{text}");
        for (&id, &(start, end)) in encoding.ids.iter().zip(&encoding.offsets) {
            let piece = tokenizer.id_to_token(id).unwrap_or_default();
            // Offsets are bytes of the text as it was given, before lower-casing: they point at the original.
            println!("  {id:>5}  {piece:<10} ← {:?}", &text[start as usize..end as usize]);
        }
        println!("  back: {}\n", tokenizer.decode(&encoding.ids, true)?);
    }
    Ok(())
}
