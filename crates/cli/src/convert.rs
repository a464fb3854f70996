//! `cloze convert`: a checkpoint of another program as a Hugging Face folder.

use std::path::PathBuf;

use cloze::convert::{ConvertOptions, convert};
use cloze::model::files::container::{Dtype, Origin};
use cloze::train::figures::grouped;

use crate::options::{Options, print_json, print_line};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A folder with pytorch_model.bin, bert_model.ckpt.* or safetensors; one weight file; the prefix of a
    /// TensorFlow checkpoint; a name on the hub; or an adapter's folder, which is merged into its base
    #[arg(long, alias = "model", value_name = "PATH")]
    from: PathBuf,
    /// The folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The type of the weights in the new file; as they are by default
    #[arg(long, value_enum)]
    dtype: Option<Kind>,
    /// For a TensorFlow checkpoint: write the tanh form of GELU that Google's code computes
    #[arg(long)]
    gelu_tanh: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Kind {
    F32,
    F16,
    Bf16,
}

pub(crate) fn run(args: Args, options: &Options) -> anyhow::Result<u8> {
    let dtype = args.dtype.map(|kind| match kind {
        Kind::F32 => Dtype::F32,
        Kind::F16 => Dtype::F16,
        Kind::Bf16 => Dtype::BF16,
    });
    let from = options.model(&args.from)?;
    let done = convert(&ConvertOptions { from, out: args.out.clone(), dtype, gelu_tanh: args.gelu_tanh })?;
    let origin = match done.origin {
        Origin::Safetensors => "safetensors",
        Origin::PyTorch => "PyTorch",
        Origin::TensorFlow => "TensorFlow",
    };
    for note in &done.notes {
        options.say(format_args!("note: {note}"));
    }
    if options.json {
        print_json(&serde_json::json!({
            "out": args.out, "origin": origin, "tensors": done.tensors, "values": done.values, "files": done.files, "notes": done.notes,
        }))?;
    } else {
        print_line(format_args!(
            "{}: {} tensors, {} values from {origin}; {}",
            args.out.display(),
            done.tensors,
            grouped(done.values as u64),
            done.files.join(", ")
        ))?;
    }
    Ok(0)
}
