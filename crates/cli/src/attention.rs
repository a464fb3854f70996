//! `cloze attention`: which token looks at which, as a heat map in the terminal or as JSON.

use std::io::IsTerminal;
use std::path::PathBuf;

use cloze::Pipeline;
use cloze::attention::{Attention, HeadSteps};
use cloze::train::run::Precision;

use crate::options::{Options, print_json, print_line};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The model's folder
    #[arg(long)]
    model: PathBuf,
    /// Only this layer, from 0; the last by default
    #[arg(long)]
    layer: Option<usize>,
    /// Only this head of the layer, from 0; by default the mean over its heads, and where each head looks most
    #[arg(long)]
    head: Option<usize>,
    /// Show how the head comes to its weights: q·k, scaled scores, softmax (needs --head)
    #[arg(long, requires = "head")]
    steps: bool,
    /// The text
    #[arg(default_value = "The cat sat on the mat")]
    text: String,
}

pub(crate) fn run(args: Args, options: &Options) -> anyhow::Result<u8> {
    let device = options.open()?;
    let pipeline = Pipeline::load(&device, &args.model, Precision::F32, None)?;
    let encoding = pipeline.tokenizer().encode_truncated(&args.text, pipeline.context().max_length)?;
    let seen = pipeline.attention(&encoding);
    let layer = args.layer.unwrap_or(seen.layers().saturating_sub(1));
    if layer >= seen.layers() {
        anyhow::bail!("--layer {layer}: the model has layers 0 to {}", seen.layers().saturating_sub(1));
    }
    let heads = seen.heads(layer);
    if let Some(head) = args.head.filter(|h| *h >= heads) {
        anyhow::bail!("--head {head}: layer {layer} has heads 0 to {}", heads.saturating_sub(1));
    }
    if options.json {
        let chosen = args.head.and_then(|h| seen.head(layer, h));
        let line = match chosen {
            Some(steps) => serde_json::json!({"tokens": seen.tokens, "head": steps}),
            None => serde_json::json!({"tokens": seen.tokens, "weights": seen.weights()}),
        };
        print_json(&line)?;
        return Ok(0);
    }
    match args.head.and_then(|h| seen.head(layer, h)) {
        Some(head) => one(&seen, &head, args.steps),
        None => whole(&seen, layer),
    }
}

/// The mean over a layer's heads, and what each head does with each token.
fn whole(seen: &Attention, layer: usize) -> anyhow::Result<u8> {
    let heads: Vec<HeadSteps> = (0..seen.heads(layer)).filter_map(|h| seen.head(layer, h)).collect();
    let n = seen.tokens.len();
    let mean: Vec<Vec<f64>> =
        (0..n).map(|i| (0..n).map(|j| heads.iter().map(|h| h.weights[i][j]).sum::<f64>() / heads.len().max(1) as f64).collect()).collect();
    print_line(format!(
        "layer {layer} of 0 to {}, mean over {} heads: each row is a token, its columns where it looks",
        seen.layers() - 1,
        heads.len()
    ))?;
    map(&seen.tokens, &mean)?;
    print_line("\nwhere each head looks most:")?;
    for head in &heads {
        let looks: Vec<String> = head.weights.iter().enumerate().map(|(i, row)| looks(&seen.tokens, i, row)).collect();
        print_line(format!("head {:>2}  {}", head.head, looks.join("  ")))?;
    }
    print_line("\n--head N shows one of them, --head N --steps the way to its weights")?;
    Ok(0)
}

/// One head, with its steps if wanted.
fn one(seen: &Attention, head: &HeadSteps, steps: bool) -> anyhow::Result<u8> {
    print_line(format!("layer {}, head {}: softmax(q·k · {:.4}), each row sums to 1", head.layer, head.head, head.scale))?;
    map(&seen.tokens, &head.weights)?;
    if steps {
        let d = head.q.first().map_or(0, Vec::len);
        print_line(format!("\nq·k (sums of {d} products)"))?;
        numbers(&seen.tokens, &head.products)?;
        print_line(format!("\nscores: q·k times {:.4}", head.scale))?;
        numbers(&seen.tokens, &head.scores)?;
        print_line("\nsoftmax: e to each score, over the sum of its row")?;
        numbers(&seen.tokens, &head.weights)?;
    }
    Ok(0)
}

fn looks(tokens: &[String], i: usize, row: &[f64]) -> String {
    let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(j, _)| j);
    format!("{}→{} {:.0}%", tokens[i], tokens[best], 100.0 * row.get(best).unwrap_or(&0.0))
}

/// Columns that a token takes in a terminal: Chinese characters take two.
fn width(text: &str) -> usize {
    text.chars().map(|c| if ('\u{1100}'..='\u{ffdc}').contains(&c) && c as u32 >= 0x2e80 { 2 } else { 1 }).sum()
}

fn padded(text: &str, to: usize) -> String {
    format!("{}{text}", " ".repeat(to.saturating_sub(width(text))))
}

/// Rows of tokens with their weights, darker where they are larger.
fn map(tokens: &[String], weights: &[Vec<f64>]) -> anyhow::Result<()> {
    let colour = std::io::stdout().is_terminal();
    let cell = tokens.iter().map(|t| width(t)).max().unwrap_or(0).max(4);
    print_line(format!("{} {}", " ".repeat(cell), tokens.iter().map(|t| padded(t, cell)).collect::<Vec<_>>().join(" ")))?;
    for (token, row) in tokens.iter().zip(weights) {
        let cells: Vec<String> = row
            .iter()
            .map(|w| {
                let text = padded(&format!("{:.0}%", 100.0 * w), cell);
                // Greys from the dark ground to white of the 256-colour table; black letters from the middle on.
                let shade = 234 + (21.0 * w.clamp(0.0, 1.0).sqrt()).round() as u32;
                let letters = if shade > 244 { 30 } else { 97 };
                if colour { format!("\u{1b}[{letters};48;5;{shade}m{text}\u{1b}[0m") } else { text }
            })
            .collect();
        print_line(format!("{} {}", padded(token, cell), cells.join(" ")))?;
    }
    Ok(())
}

/// The same rows as plain numbers.
fn numbers(tokens: &[String], rows: &[Vec<f64>]) -> anyhow::Result<()> {
    let cell = tokens.iter().map(|t| width(t)).max().unwrap_or(0).max(7);
    print_line(format!("{} {}", " ".repeat(cell), tokens.iter().map(|t| padded(t, cell)).collect::<Vec<_>>().join(" ")))?;
    for (token, row) in tokens.iter().zip(rows) {
        let cells: Vec<String> = row.iter().map(|x| format!("{x:>cell$.3}")).collect();
        print_line(format!("{} {}", padded(token, cell), cells.join(" ")))?;
    }
    Ok(())
}
