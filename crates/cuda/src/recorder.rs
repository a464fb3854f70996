//! For tests: a device that does nothing but remember what it was asked for.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::driver::{Command, Launch, Product};
use crate::{CudaError, Driver};

#[derive(Default)]
pub(crate) struct Recorder {
    asked: Mutex<Vec<Asked>>,
    graphs: Mutex<HashMap<u64, Vec<Command>>>,
    /// It makes no graphs.
    refuses: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Asked {
    Pinned(u64),
    Unpinned(u64),
    /// Ordinary memory of the host, so many bytes.
    Plain(usize),
    Staged {
        host: u64,
        bytes: Vec<u8>,
    },
    Mark(u64),
    Wait(u64),
    Run(Command),
    Captured(u64),
    /// A graph with so many changes, and its commands after them.
    Replayed(u64, usize, Vec<Command>),
    Forgotten(u64),
}

impl Recorder {
    /// A device that makes no graphs.
    pub(crate) fn without_graphs() -> Self {
        Self { refuses: true, ..Self::default() }
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn ask(&self, what: Asked) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }
}

impl Driver for Recorder {
    fn name(&self) -> String {
        "recorder".into()
    }

    fn memory(&self) -> Result<(usize, usize), CudaError> {
        Ok((0, 0))
    }

    fn shared_limit(&self) -> usize {
        0
    }

    fn allocate(&self, _: usize) -> Result<u64, CudaError> {
        Ok(512)
    }

    unsafe fn release(&self, _: u64) {}

    unsafe fn run(&self, command: &Command) -> Result<(), CudaError> {
        self.ask(Asked::Run(command.clone()));
        Ok(())
    }

    fn capture(&self, commands: &[Command]) -> Result<Option<u64>, CudaError> {
        if self.refuses {
            return Ok(None);
        }
        let mut graphs = self.graphs.lock().unwrap_or_else(PoisonError::into_inner);
        let number = self.asked().iter().filter(|a| matches!(a, Asked::Captured(_))).count() as u64;
        graphs.insert(number, commands.to_vec());
        self.ask(Asked::Captured(number));
        Ok(Some(number))
    }

    unsafe fn replay(&self, graph: u64, changes: &[(usize, &Launch)]) -> Result<(), CudaError> {
        let mut graphs = self.graphs.lock().unwrap_or_else(PoisonError::into_inner);
        let commands = graphs.get_mut(&graph).expect("a graph that is held");
        for (at, launch) in changes {
            commands[*at] = Command::Launch((*launch).clone());
        }
        self.ask(Asked::Replayed(graph, changes.len(), commands.clone()));
        Ok(())
    }

    unsafe fn forget(&self, graph: u64) {
        self.graphs.lock().unwrap_or_else(PoisonError::into_inner).remove(&graph).expect("a graph is given back once");
        self.ask(Asked::Forgotten(graph));
    }

    unsafe fn upload(&self, _: u64, from: &[u8]) -> Result<(), CudaError> {
        self.ask(Asked::Plain(from.len()));
        Ok(())
    }

    unsafe fn download(&self, _: u64, _: &mut [u8]) -> Result<(), CudaError> {
        Ok(())
    }

    /// Memory that stays until the process ends: tests are short.
    fn pin(&self, bytes: usize) -> Option<u64> {
        let host = Box::leak(vec![0u8; bytes].into_boxed_slice()).as_mut_ptr() as u64;
        self.ask(Asked::Pinned(host));
        Some(host)
    }

    unsafe fn unpin(&self, host: u64) {
        self.ask(Asked::Unpinned(host));
    }

    unsafe fn upload_pinned(&self, _: u64, host: u64, bytes: usize) -> Result<(), CudaError> {
        // SAFETY: the caller's: pinned memory of at least so many bytes, which it has written.
        let bytes = unsafe { std::slice::from_raw_parts(host as *const u8, bytes) }.to_vec();
        self.ask(Asked::Staged { host, bytes });
        Ok(())
    }

    unsafe fn download_pinned(&self, _: u64, _: u64, _: usize) -> Result<(), CudaError> {
        Ok(())
    }

    fn mark(&self) -> Result<u64, CudaError> {
        let at = self.asked().len() as u64;
        self.ask(Asked::Mark(at));
        Ok(at)
    }

    unsafe fn wait(&self, mark: u64) -> Result<(), CudaError> {
        self.ask(Asked::Wait(mark));
        Ok(())
    }

    unsafe fn unmark(&self, _: u64) {}

    fn supports(&self, _: &Product) -> bool {
        true
    }
}
