//! Memory of the host that the device reads and writes by itself, so that the host need not wait for a copy.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use cloze_tensor::Later;

use crate::backend::done;
use crate::{Cuda, Driver};

/// A place in the order of a device's work.
pub(crate) struct Mark {
    driver: Arc<dyn Driver>,
    mark: u64,
}

impl Mark {
    /// Behind all that the device was asked for so far.
    pub(crate) fn here(driver: &Arc<dyn Driver>) -> Self {
        Self { driver: Arc::clone(driver), mark: done(driver.mark()) }
    }

    /// Wait until the device has come here.
    pub(crate) fn wait(&self) {
        // SAFETY: the mark is the driver's, and given back in `drop`.
        done(unsafe { self.driver.wait(self.mark) });
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        // SAFETY: made in `here`, given back once.
        unsafe { self.driver.unmark(self.mark) };
    }
}

/// The pinned memory of a backend.
pub(crate) struct Pinned {
    driver: Arc<dyn Driver>,
    /// Blocks that wait for what comes from the device, by size.
    landings: Mutex<BTreeMap<usize, Vec<u64>>>,
}

impl Pinned {
    pub(crate) fn new(driver: Arc<dyn Driver>) -> Arc<Self> {
        Arc::new(Self { driver, landings: Mutex::default() })
    }

    /// A block of at least this many bytes; `None` on a device without pinned memory.
    fn landing(self: &Arc<Self>, bytes: usize) -> Option<Landing> {
        let size = bytes.next_power_of_two().max(256);
        let waiting = self.landings.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&size).and_then(Vec::pop);
        let host = waiting.or_else(|| self.driver.pin(size))?;
        Some(Landing { pinned: Arc::clone(self), host, size })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let landings = std::mem::take(self.landings.get_mut().unwrap_or_else(PoisonError::into_inner));
        // SAFETY: nothing is read. What nobody wanted to know may still be on its way to a block.
        let _ = unsafe { self.driver.download(0, &mut []) };
        for host in landings.into_values().flatten() {
            // SAFETY: the block is of `pin`, and the device is done.
            unsafe { self.driver.unpin(host) };
        }
    }
}

/// A block on the host for what comes from the device. Once it is given back the next copy into it comes later in the stream.
struct Landing {
    pinned: Arc<Pinned>,
    host: u64,
    size: usize,
}

impl Landing {
    /// What the device has written there; callers have waited for that.
    fn read(&self, bytes: usize) -> Vec<u8> {
        assert!(bytes <= self.size, "{bytes} bytes of a block of {}", self.size);
        // SAFETY: the block is that large, and the device knows of nothing else to write there as long as it is not given back.
        unsafe { std::slice::from_raw_parts(self.host as *const u8, bytes) }.to_vec()
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.pinned.landings.lock().unwrap_or_else(PoisonError::into_inner).entry(self.size).or_default().push(self.host);
    }
}

impl Cuda {
    /// What stands at an address now, without waiting for it.
    pub(crate) fn bytes_later(&self, address: u64, bytes: usize) -> Later<Vec<u8>> {
        let driver = self.driver();
        let Some(landing) = self.pinned().landing(bytes) else {
            let mut values = vec![0; bytes];
            // SAFETY: callers hold a buffer of at least so many bytes.
            done(unsafe { driver.download(address, &mut values) });
            return Later::ready(values);
        };
        // SAFETY: as above; the block is that large, and ours until the mark is reached.
        done(unsafe { driver.download_pinned(address, landing.host, bytes) });
        let mark = Mark::here(driver);
        Later::new(move || {
            mark.wait();
            landing.read(bytes)
        })
    }
}
