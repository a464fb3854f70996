//! Memory of the host that the device reads and writes by itself, so that the host need not wait for a copy.
//!
//! What goes to the device is staged in two halves that take turns: while the device copies out of one, the host fills the other. A half
//! is filled again only when the device has passed the mark behind its last copy. What comes back lands in blocks of its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use cloze_tensor::Later;

use crate::backend::done;
use crate::queue::Queue;
use crate::{Cuda, CudaError, Driver};

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

/// Bytes of a half: the ids, starts, labels and plans of some micro-batches. What is larger (weights) is rare, and goes without.
pub(crate) const HALF: usize = 4 << 20;

/// Where a copy begins.
const ALIGNMENT: usize = 64;

/// The halves.
struct Stage {
    /// Where each is, and behind its last copy.
    halves: [(u64, Option<Mark>); 2],
    filling: usize,
    filled: usize,
}

impl Stage {
    fn new(driver: &Arc<dyn Driver>) -> Option<Self> {
        let [first, second] = [driver.pin(HALF)?, driver.pin(HALF)?];
        Some(Self { halves: [(first, None), (second, None)], filling: 0, filled: 0 })
    }

    /// Room for this many bytes, at most [`HALF`], that the device does not read any more.
    fn room(&mut self, driver: &Arc<dyn Driver>, bytes: usize) -> u64 {
        if self.filled + bytes > HALF {
            self.halves[self.filling].1 = Some(Mark::here(driver));
            (self.filling, self.filled) = (1 - self.filling, 0);
            if let Some(mark) = self.halves[self.filling].1.take() {
                mark.wait();
            }
        }
        let at = self.halves[self.filling].0 + self.filled as u64;
        self.filled += bytes.next_multiple_of(ALIGNMENT);
        at
    }
}

/// The pinned memory of a backend.
pub(crate) struct Pinned {
    queue: Arc<Queue>,
    /// Made at the first use; `None` within where there is no pinned memory.
    stage: Mutex<Option<Option<Stage>>>,
    /// Blocks that wait for what comes from the device, by size.
    landings: Mutex<BTreeMap<usize, Vec<u64>>>,
}

impl Pinned {
    pub(crate) fn new(queue: Arc<Queue>) -> Arc<Self> {
        Arc::new(Self { queue, stage: Mutex::default(), landings: Mutex::default() })
    }

    /// Values to an address; they may be used again at once.
    ///
    /// # Safety
    /// As at [`Driver`].
    pub(crate) unsafe fn upload(&self, address: u64, values: &[u8]) -> Result<(), CudaError> {
        self.queue.flush()?;
        let driver = self.queue.driver();
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        let stage = stage.get_or_insert_with(|| Stage::new(driver));
        let Some(stage) = stage.as_mut().filter(|_| values.len() <= HALF) else {
            // SAFETY: the caller's.
            return unsafe { driver.upload(address, values) };
        };
        let host = stage.room(driver, values.len());
        // SAFETY: the room is pinned memory of that size, which the device does not read at the moment; the device's side is the caller's.
        unsafe {
            std::ptr::copy_nonoverlapping(values.as_ptr(), host as *mut u8, values.len());
            driver.upload_pinned(address, host, values.len())
        }
    }

    /// A block of at least this many bytes; `None` on a device without pinned memory.
    fn landing(self: &Arc<Self>, bytes: usize) -> Option<Landing> {
        let size = bytes.next_power_of_two().max(256);
        let waiting = self.landings.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&size).and_then(Vec::pop);
        let host = waiting.or_else(|| self.queue.driver().pin(size))?;
        Some(Landing { pinned: Arc::clone(self), host, size })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let landings = std::mem::take(self.landings.get_mut().unwrap_or_else(PoisonError::into_inner));
        // SAFETY: nothing is read. What nobody wanted to know may still be on its way to a block.
        let _ = unsafe { self.queue.driver().download(0, &mut []) };
        let stage = self.stage.get_mut().unwrap_or_else(PoisonError::into_inner).take().flatten();
        let halves = stage.into_iter().flat_map(|s| s.halves).map(|(host, _)| host);
        for host in landings.into_values().flatten().chain(halves) {
            // SAFETY: the block is of `pin`, and the device is done.
            unsafe { self.queue.driver().unpin(host) };
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
        let Some(landing) = self.pinned().landing(bytes) else {
            let mut values = vec![0; bytes];
            self.download(address, &mut values);
            return Later::ready(values);
        };
        done(self.queue().flush());
        let driver = self.queue().driver();
        // SAFETY: callers hold a buffer of at least so many bytes; the block is that large, and ours until the mark is reached.
        done(unsafe { driver.download_pinned(address, landing.host, bytes) });
        let mark = Mark::here(driver);
        Later::new(move || {
            mark.wait();
            landing.read(bytes)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorder::{Asked, Recorder};

    #[test]
    fn a_half_is_filled_again_only_behind_its_mark() {
        let recorder = Arc::new(Recorder::default());
        let pinned = Pinned::new(Queue::new(Arc::clone(&recorder) as Arc<dyn Driver>));
        let piece = HALF / 3;
        let values: Vec<Vec<u8>> = (0..20u8).map(|i| vec![i; piece + usize::from(i)]).collect();
        for values in &values {
            // SAFETY: this device reads and writes nothing.
            unsafe { pinned.upload(512, values) }.unwrap();
        }
        // What is larger than a half goes past them.
        // SAFETY: as above.
        unsafe { pinned.upload(512, &vec![0; HALF + 1]) }.unwrap();
        drop(pinned);
        let asked = recorder.asked();
        let mut staged = 0;
        for (i, what) in asked.iter().enumerate() {
            let Asked::Staged { host, bytes } = what else { continue };
            assert_eq!(bytes, &values[staged]);
            staged += 1;
            let overlaps = |other: &Asked| matches!(other, Asked::Staged { host: h, bytes: b } if *h < host + bytes.len() as u64 && host < &(h + b.len() as u64));
            let Some(last) = asked[..i].iter().rposition(overlaps) else { continue };
            // Between the last copy out of this place and now somebody waited for a mark behind that copy.
            let waited = asked[last..i].iter().any(|a| matches!(a, Asked::Wait(mark) if *mark as usize > last));
            assert!(waited, "piece {staged} stands where piece {last} may not have been read");
        }
        assert_eq!(staged, 20);
        assert!(asked.contains(&Asked::Plain(HALF + 1)));
        let count = |f: fn(&Asked) -> bool| asked.iter().filter(|a| f(a)).count();
        assert_eq!(count(|a| matches!(a, Asked::Pinned(_))), 2);
        assert_eq!(count(|a| matches!(a, Asked::Unpinned(_))), 2);
    }
}
