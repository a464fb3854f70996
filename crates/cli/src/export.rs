//! `cloze export`: a model for other runtimes.

use std::path::PathBuf;

use cloze::model::files::sentence::SentenceModel;
use cloze::model::{load, onnx};
use cloze::train::figures::format_bytes;

use crate::options::{Options, print_json, print_line};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The model's folder, or its name on the hub
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The ONNX file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The weights in a file of their own beside it, whatever their size (above 1.5 GB they always are)
    #[arg(long)]
    external: bool,
}

pub(crate) fn run(args: Args, options: &Options) -> anyhow::Result<u8> {
    let model = options.model(&args.model)?;
    let sentence = SentenceModel::read(&model)?;
    let folder = sentence.as_ref().map_or(&model, |s| &s.encoder);
    let loaded = load(folder)?;
    if !loaded.report.new.is_empty() {
        options.say(format_args!("note: in no file, so exported as they start: {}", loaded.report.new.join(", ")));
    }
    let sentence = sentence.as_ref().map(|s| &s.model);
    let done = onnx::export(&args.out, &loaded.model, &loaded.values, sentence, args.external)?;
    if options.json {
        print_json(&serde_json::json!({
            "out": args.out, "outputs": done.outputs, "nodes": done.nodes, "bytes": done.bytes, "external": done.external,
        }))?;
    } else {
        let beside = done.external.map_or_else(String::new, |name| format!(", weights in {name}"));
        print_line(format_args!(
            "{}: {} nodes, {} of weights{beside}; outputs {}",
            args.out.display(),
            done.nodes,
            format_bytes(done.bytes as u64),
            done.outputs.join(", ")
        ))?;
    }
    Ok(0)
}
