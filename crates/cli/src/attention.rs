//! `cloze attention`: which token looks at which, as a heat map in the terminal, as JSON or as a page; and what the answer loses without
//! a head.

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::Context;
use cloze::Pipeline;
use cloze::attention::page::{Shown, page};
use cloze::attention::{Ablation, Attention, HeadPlace, HeadSteps};
use cloze::task::Options as TaskOptions;
use cloze::task::paint::Paint;
use cloze::train::run::Precision;
use serde_json::Value;

use crate::options::{Options, print_json, print_line};
use crate::tasks::task_names;

/// What is shown where no text is given: a sentence and its twin.
const TEXTS: [&str; 2] = ["The cat sat on the mat", "猫坐在垫子上"];

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
    /// What the model answers without these heads, as LAYER.HEAD,…, or, with all, without each of them alone, as a table
    #[arg(long, value_name = "HEADS", value_parser = parse_off)]
    ablate: Option<Off>,
    /// The task whose answer is looked at with --ablate; by default masks are filled, text without masks is scored word by word, and other
    /// models do what they are for
    #[arg(long, value_parser = task_names())]
    task: Option<String>,
    /// Write everything into this HTML file, which loads nothing from elsewhere: all heads, lines from token to token, one head's numbers,
    /// and what the answer loses without each head
    #[arg(long, value_name = "FILE", conflicts_with_all = ["layer", "head"])]
    html: Option<PathBuf>,
    /// The text; several with --html. By default a sentence in English, with --html also its Chinese twin
    text: Vec<String>,
}

/// The heads of --ablate.
#[derive(Clone, Debug, PartialEq)]
enum Off {
    Each,
    These(Vec<HeadPlace>),
}

fn parse_off(text: &str) -> Result<Off, cloze::attention::AblationError> {
    match text {
        "all" => Ok(Off::Each),
        list => list.split(',').map(str::parse).collect::<Result<_, _>>().map(Off::These),
    }
}

pub(crate) fn run(args: Args, options: &Options) -> anyhow::Result<u8> {
    let device = options.open()?;
    let pipeline = Pipeline::load(&device, &options.model(&args.model)?, Precision::F32, None)?;
    let texts: Vec<String> = match (&args.text[..], &args.html) {
        ([], None) => vec![TEXTS[0].to_owned()],
        ([], Some(_)) => TEXTS.map(str::to_owned).to_vec(),
        (given, _) => given.to_vec(),
    };
    if let Some(path) = &args.html {
        return write_page(&args, options, &pipeline, &texts, path);
    }
    let several = texts.len() > 1;
    for text in &texts {
        if several && !options.json {
            print_line(format!("{text}\n"))?;
        }
        match &args.ablate {
            Some(off) => ablation(&args, options, &pipeline, text, off)?,
            None => show(&args, options, &pipeline, text)?,
        }
    }
    Ok(0)
}

/// The file of --html.
fn write_page(args: &Args, options: &Options, pipeline: &Pipeline, texts: &[String], path: &std::path::Path) -> anyhow::Result<u8> {
    let mut seen = Vec::new();
    for text in texts {
        let encoding = pipeline.tokenizer().encode_truncated(text, pipeline.context().max_length)?;
        let off = match &args.ablate {
            Some(Off::These(off)) => off.clone(),
            _ => Vec::new(),
        };
        seen.push((pipeline.attention(&encoding)?, ablate(args, pipeline, text, &off, true)?));
    }
    let shown: Vec<Shown> =
        texts.iter().zip(&seen).map(|(text, (attention, ablation))| Shown { text, attention, ablation: Some(ablation) }).collect();
    std::fs::write(path, page(&name(&args.model), &shown)).with_context(|| format!("{}: cannot write", path.display()))?;
    options.say(format!("{}: open it in a browser", path.display()));
    Ok(0)
}

/// What a model is called: its folder's name, with that of the run where every run has a folder of that name.
fn name(model: &std::path::Path) -> String {
    let parts: Vec<_> = model.iter().map(|p| p.to_string_lossy()).collect();
    match &parts[..] {
        [.., run, last] if last == "model" => format!("{run}/{last}"),
        [.., last] => last.to_string(),
        [] => String::new(),
    }
}

/// What the model answers to a text with and without heads. A text that is a JSON object holds the values of the task.
fn ablate(args: &Args, pipeline: &Pipeline, text: &str, off: &[HeadPlace], each: bool) -> anyhow::Result<Ablation> {
    let task = match &args.task {
        Some(name) => pipeline.require(Some(name))?,
        None => pipeline.ablation_task(text).context("the model is for no task that is known; name one with --task")?,
    };
    let input = match serde_json::from_str(text) {
        Ok(object @ Value::Object(_)) => object,
        _ => Value::String(text.to_owned()),
    };
    Ok(pipeline.ablation(task, &input, &TaskOptions::default(), off, each)?)
}

/// The answer of --ablate for people or as JSON.
fn ablation(args: &Args, options: &Options, pipeline: &Pipeline, text: &str, off: &Off) -> anyhow::Result<()> {
    let found = match off {
        Off::Each => ablate(args, pipeline, text, &[], true)?,
        Off::These(off) => ablate(args, pipeline, text, off, false)?,
    };
    if options.json {
        return print_json(&found);
    }
    let task = pipeline.require(Some(found.task))?;
    let paint = Paint { colour: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() };
    let told = |answer: &Value| match found.measure {
        cloze::attention::Measure::Cosine => String::new(), // vectors say little to a reader
        _ => task.text(pipeline.context(), &Value::String(text.to_owned()), answer, paint),
    };
    print_line(format!("{}: {} {:.4} with all heads", found.task, found.measure.name(), found.whole))?;
    let whole = told(&found.answer);
    if !whole.is_empty() {
        print_line(whole)?;
    }
    if let (Some(value), Some(answer)) = (found.value, &found.answer_without) {
        let names: Vec<String> = found.off.iter().map(ToString::to_string).collect();
        print_line(format!("\nwithout {}: {value:.4} ({:+.4})", names.join(", "), value - found.whole))?;
        let without = told(answer);
        if !without.is_empty() {
            print_line(without)?;
        }
    }
    if !found.each.is_empty() {
        print_line("\nhow much worse without each head alone (layers down, heads across):")?;
        effects(&found)?;
        let most: Vec<String> = found.ranked().iter().take(5).map(|(place, harm)| format!("{place} {harm:+.4}")).collect();
        print_line(format!("\nthe heads that matter most: {}", most.join("  ")))?;
    }
    Ok(())
}

/// The harm of each head's absence; what harms most is brightest.
fn effects(found: &Ablation) -> anyhow::Result<()> {
    let harms: Vec<Vec<f64>> = found.each.iter().map(|row| row.iter().map(|v| found.measure.harm(found.whole, *v)).collect()).collect();
    let most = harms.iter().flatten().fold(f64::MIN_POSITIVE, |a, b| a.max(b.abs()));
    let heads = harms.first().map_or(0, Vec::len);
    print_line(format!("{:>5} {}", "", (0..heads).map(|h| format!("{h:>8}")).collect::<String>()))?;
    for (layer, row) in harms.iter().enumerate() {
        let cells: String = row.iter().map(|harm| shaded(&format!("{harm:>+8.4}"), harm.max(0.0) / most)).collect();
        print_line(format!("{layer:>5} {cells}"))?;
    }
    Ok(())
}

/// The heat map, or the numbers of one head.
fn show(args: &Args, options: &Options, pipeline: &Pipeline, text: &str) -> anyhow::Result<()> {
    let encoding = pipeline.tokenizer().encode_truncated(text, pipeline.context().max_length)?;
    let seen = pipeline.attention(&encoding)?;
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
        return print_json(&match chosen {
            Some(steps) => serde_json::json!({"tokens": seen.tokens, "head": steps}),
            None => serde_json::json!({"tokens": seen.tokens, "weights": seen.weights()}),
        });
    }
    match args.head.and_then(|h| seen.head(layer, h)) {
        Some(head) => one(&seen, &head, args.steps),
        None => whole(&seen, layer),
    }
}

/// The mean over a layer's heads, and what each head does with each token.
fn whole(seen: &Attention, layer: usize) -> anyhow::Result<()> {
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
    Ok(())
}

/// One head, with its steps if wanted.
fn one(seen: &Attention, head: &HeadSteps, steps: bool) -> anyhow::Result<()> {
    let bias = if head.bias.is_empty() { "" } else { " + bias" };
    print_line(format!("layer {}, head {}: softmax(q·k · {:.4}{bias}), each row sums to 1", head.layer, head.head, head.scale))?;
    map(&seen.tokens, &head.weights)?;
    if steps {
        let d = head.q.first().map_or(0, Vec::len);
        print_line(format!("\nq·k (sums of {d} products)"))?;
        numbers(&seen.tokens, &head.products)?;
        if !head.bias.is_empty() {
            print_line("\nbias: what the distance of the column's token from the row's adds")?;
            let n = seen.tokens.len();
            numbers(&seen.tokens, &(0..n).map(|i| head.bias[n - 1 - i..2 * n - 1 - i].to_vec()).collect::<Vec<_>>())?;
        }
        print_line(format!("\nscores: q·k times {:.4}{bias}", head.scale))?;
        numbers(&seen.tokens, &head.scores)?;
        print_line("\nsoftmax: e to each score, over the sum of its row")?;
        numbers(&seen.tokens, &head.weights)?;
    }
    Ok(())
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

/// A cell on a ground that is brighter the larger its `share` of 1 is; plain where nobody looks.
fn shaded(text: &str, share: f64) -> String {
    if !std::io::stdout().is_terminal() {
        return text.to_owned();
    }
    // Greys from the dark ground to white of the 256-colour table; black letters from the middle on.
    let shade = 234 + (21.0 * share.clamp(0.0, 1.0).sqrt()).round() as u32;
    let letters = if shade > 244 { 30 } else { 97 };
    format!("\u{1b}[{letters};48;5;{shade}m{text}\u{1b}[0m")
}

/// Rows of tokens with their weights, brighter where they are larger.
fn map(tokens: &[String], weights: &[Vec<f64>]) -> anyhow::Result<()> {
    let cell = tokens.iter().map(|t| width(t)).max().unwrap_or(0).max(4);
    print_line(format!("{} {}", " ".repeat(cell), tokens.iter().map(|t| padded(t, cell)).collect::<Vec<_>>().join(" ")))?;
    for (token, row) in tokens.iter().zip(weights) {
        let cells: Vec<String> = row.iter().map(|w| shaded(&padded(&format!("{:.0}%", 100.0 * w), cell), *w)).collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_to_switch_off_are_a_list_or_all() {
        assert_eq!(parse_off("all"), Ok(Off::Each));
        assert_eq!(parse_off("2.3,0.1"), Ok(Off::These(vec![HeadPlace { layer: 2, head: 3 }, HeadPlace { layer: 0, head: 1 }])));
        assert!(parse_off("2.3,").is_err() && parse_off("every").is_err());
    }
}
