//! Interrupts: the first asks the run to save its state and end, the second ends it at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use anyhow::Context;
use cloze::train::observer::Control;
use signal_hook::consts::{SIGINT, SIGTERM};

/// Watches for interrupts.
pub(crate) struct Signals {
    received: Arc<AtomicI32>,
}

impl Signals {
    /// Pass interrupts on to `control`.
    pub(crate) fn watch(control: &Arc<Control>) -> anyhow::Result<Self> {
        let received = Arc::new(AtomicI32::new(0));
        let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM]).context("cannot watch for interrupts")?;
        let (control, seen) = (Arc::clone(control), Arc::clone(&received));
        let watch = move || {
            for signal in signals.forever() {
                if seen.swap(signal, Ordering::SeqCst) != 0 {
                    std::process::exit(128 + signal);
                }
                control.request_stop();
            }
        };
        std::thread::Builder::new().name("cloze-signals".into()).spawn(watch).context("cannot start a thread")?;
        Ok(Self { received })
    }

    /// The exit code of a run that was stopped: 128 + signal, as shells have it; 0 when it was a key of the dashboard.
    pub(crate) fn exit_code(&self) -> u8 {
        match self.received.load(Ordering::SeqCst) {
            0 => 0,
            signal => (128 + signal) as u8,
        }
    }
}
