//! Memory of a device: blocks that are kept and handed out again.
//!
//! A training step asks for the same blocks as the one before it. Since all work is in one stream, a block that is given back can be
//! handed out at once: whoever gets it comes later in the stream. Of the blocks that wait the one with the lowest address is handed out, so
//! that the same requests get the same addresses whenever the same blocks wait: graphs of commands live on that ([`crate::queue`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cloze_tensor::Dtype;

use crate::CudaError;
use crate::driver::Command;
use crate::queue::Queue;

/// Bytes of device memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// In use by buffers.
    pub current: usize,
    /// Asked of the driver and not given back.
    pub held: usize,
    /// The most that was ever held.
    pub peak: usize,
}

#[derive(Default)]
struct Blocks {
    /// Addresses of blocks that wait, by size.
    free: BTreeMap<usize, BTreeSet<u64>>,
    stats: MemoryStats,
}

/// The memory of a backend.
pub(crate) struct Memory {
    queue: Arc<Queue>,
    blocks: Mutex<Blocks>,
}

/// Sizes of blocks: multiples of 512 bytes, and from 4 KiB on eight sizes for each doubling, so that batches of similar size share blocks.
fn size_class(bytes: usize) -> usize {
    let bytes = bytes.max(1).next_multiple_of(512);
    if bytes <= 4096 {
        return bytes;
    }
    let step = (bytes.next_power_of_two() / 16).max(512);
    bytes.next_multiple_of(step)
}

impl Memory {
    pub(crate) fn new(queue: Arc<Queue>) -> Arc<Self> {
        Arc::new(Self { queue, blocks: Mutex::default() })
    }

    fn blocks(&self) -> MutexGuard<'_, Blocks> {
        // A panic elsewhere leaves the lists as they are: every change is one step.
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `len` elements with unspecified contents.
    ///
    /// # Panics
    /// When the device has no memory left.
    pub(crate) fn buffer(self: &Arc<Self>, dtype: Dtype, len: usize) -> Buffer {
        let size = size_class(len * dtype.size());
        let address = self.take(size).unwrap_or_else(|e| panic!("{e}"));
        // SAFETY: the block is ours, at least as long as the elements need, and no buffer has it yet.
        let renewed = unsafe { self.queue.ask(Command::Renew { address, bytes: len * dtype.size() }) };
        renewed.unwrap_or_else(|e| panic!("{e}"));
        Buffer { memory: Arc::clone(self), address, size, dtype, len }
    }

    fn take(&self, size: usize) -> Result<u64, CudaError> {
        let mut blocks = self.blocks();
        let waiting = blocks.free.get_mut(&size).and_then(BTreeSet::pop_first);
        let address = match waiting {
            Some(address) => address,
            None => {
                let address = self.queue.driver().allocate(size).or_else(|e| {
                    // What waits in other sizes may be what is missing.
                    self.release(&mut blocks);
                    self.queue.driver().allocate(size).map_err(|_| match e {
                        CudaError::OutOfMemory { bytes, free, total, .. } => {
                            CudaError::OutOfMemory { bytes, held: blocks.stats.held, free, total }
                        }
                        other => other,
                    })
                })?;
                blocks.stats.held += size;
                blocks.stats.peak = blocks.stats.peak.max(blocks.stats.held);
                address
            }
        };
        blocks.stats.current += size;
        Ok(address)
    }

    fn release(&self, blocks: &mut Blocks) {
        // What was asked for may use them. Where that fails the device is lost, and its memory with it.
        let _ = self.queue.flush();
        for (size, addresses) in std::mem::take(&mut blocks.free) {
            for address in addresses {
                blocks.stats.held -= size;
                // SAFETY: the block waits, no buffer has it; the driver ends what still uses it first.
                unsafe { self.queue.driver().release(address) };
            }
        }
    }

    /// Give blocks that wait back to the device.
    pub(crate) fn trim(&self) {
        self.release(&mut self.blocks());
    }

    pub(crate) fn stats(&self) -> MemoryStats {
        self.blocks().stats
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.trim();
    }
}

/// A run of elements on the device.
pub struct Buffer {
    memory: Arc<Memory>,
    address: u64,
    size: usize,
    dtype: Dtype,
    len: usize,
}

impl Buffer {
    /// Where it starts.
    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    /// Where element `i` is.
    pub(crate) fn at(&self, i: usize) -> u64 {
        debug_assert!(i <= self.len, "element {i} of {}", self.len);
        self.address + (i * self.dtype.size()) as u64
    }

    /// The element kind.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut blocks = self.memory.blocks();
        blocks.stats.current -= self.size;
        blocks.free.entry(self.size).or_default().insert(self.address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rehearsal;

    fn memory() -> Arc<Memory> {
        Memory::new(Queue::new(Arc::new(Rehearsal::default())))
    }

    #[test]
    fn sizes_waste_little_and_are_few() {
        for bytes in [0, 1, 512, 513, 4096, 4097, 100_000, 1 << 20, (1 << 20) + 1, 123_456_789] {
            let size = size_class(bytes);
            assert!(size >= bytes.max(1) && size.is_multiple_of(512), "{bytes}: {size}");
            assert!(size <= bytes + (bytes / 8).max(512), "{bytes}: {size}");
            assert_eq!(size_class(size), size);
        }
    }

    #[test]
    fn blocks_are_handed_out_again() {
        let memory = memory();
        let first = memory.buffer(Dtype::F32, 1000);
        let address = first.address();
        drop(first);
        let second = memory.buffer(Dtype::Bf16, 2000);
        assert_eq!(second.address(), address);
        let third = memory.buffer(Dtype::F32, 1000);
        assert_ne!(third.address(), address);
        assert_eq!(memory.stats(), MemoryStats { current: 8192, held: 8192, peak: 8192 });
        drop((second, third));
        memory.trim();
        assert_eq!(memory.stats(), MemoryStats { current: 0, held: 0, peak: 8192 });
    }
    /// Whatever order blocks are given back in, the same requests get the same blocks.
    #[test]
    fn the_same_requests_get_the_same_addresses() {
        let memory = memory();
        let ask = || [10, 1000, 1000, 10, 50_000, 1000].map(|len| memory.buffer(Dtype::F32, len));
        let addresses = |buffers: &[Buffer; 6]| buffers.each_ref().map(Buffer::address);
        let mut buffers = ask();
        let first = addresses(&buffers);
        buffers.reverse();
        drop(buffers);
        let second = ask();
        assert_eq!(addresses(&second), first);
        let [a, b, c, d, e, f] = second;
        drop((c, e, b, f, a, d));
        assert_eq!(addresses(&ask()), first);
    }
}
