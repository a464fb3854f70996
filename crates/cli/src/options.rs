//! Options that all commands share.

use std::io::Write;
use std::path::{Path, PathBuf};

use cloze::train::observer::{Event, Observer};
use cloze::{Device, DeviceChoice, hub};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Options that all commands share.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// Where to compute: cpu, cuda, cuda:<number>, or auto (the processor)
    #[arg(long, global = true, default_value = "auto", env = "CLOZE_DEVICE", value_parser = parse_device)]
    pub(crate) device: DeviceChoice,
    /// Threads; one a core by default
    #[arg(long, global = true, env = "CLOZE_THREADS", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: Option<u16>,
    /// Results as JSON lines on standard output
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// No progress, only results and errors
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
}

fn parse_device(text: &str) -> Result<DeviceChoice, cloze::Error> {
    text.parse()
}

impl Options {
    /// Open the device.
    pub(crate) fn open(&self) -> Result<Device, cloze::Error> {
        Device::open(self.device, self.threads())
    }

    /// The number of threads, where given.
    pub(crate) fn threads(&self) -> Option<usize> {
        self.threads.map(usize::from)
    }

    /// The folder that a model's path or its name on the hub (`org/name[@revision]`) means; fetched into the hub's cache where it is not there yet.
    pub(crate) fn model(&self, path: &Path) -> anyhow::Result<PathBuf> {
        let bar = ProgressBar::hidden();
        let mut shown = false;
        let folder = hub::model_folder(path, &mut |progress| match progress {
            hub::Progress::File { name, have, size } => {
                if !self.quiet && !shown {
                    shown = true;
                    bar.set_draw_target(ProgressDrawTarget::stderr());
                    bar.set_style(
                        ProgressStyle::with_template("{msg} {bytes} of {total_bytes} {bar:30} {bytes_per_sec}")
                            .unwrap_or_else(|_| ProgressStyle::default_bar()),
                    );
                }
                bar.set_message(name.to_owned());
                bar.set_length(size.unwrap_or(0));
                bar.set_position(have);
            }
            hub::Progress::Bytes(n) => bar.set_position(n),
        })?;
        bar.finish_and_clear();
        Ok(folder)
    }

    /// A line for people on standard error, unless they asked for quiet.
    pub(crate) fn say(&self, line: impl std::fmt::Display) {
        if !self.quiet {
            eprintln!("{line}");
        }
    }
}

/// Print a line of results. A closed pipe is an error like any other, never a panic.
pub(crate) fn print_line(line: impl std::fmt::Display) -> anyhow::Result<()> {
    writeln!(std::io::stdout().lock(), "{line}")?;
    Ok(())
}

/// Print a value as one JSON line.
pub(crate) fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    out.write_all(b"\n")?;
    Ok(())
}

/// Events as JSON lines on standard output.
pub(crate) struct JsonEvents;

impl Observer for JsonEvents {
    fn event(&mut self, event: &Event) -> Result<(), cloze::train::files::FileError> {
        print_json(event).map_err(|e| {
            let error = std::io::Error::other(e.to_string());
            cloze::train::files::FileError::io(cloze::train::files::Operation::Write, "standard output", error)
        })
    }
}
