//! Memory of the backend: aligned blocks that are kept and handed out again.
//!
//! A training step asks for the same sizes over and over. A freed block waits in a free list of its size class, so a
//! steady step makes no system call and touches no fresh page. What is held in all, in use or waiting, stays below
//! 5/4 of the largest use plus a little: beyond it, waiting blocks go back to the system before a new one comes.

use std::alloc::{self, Layout};
use std::collections::BTreeMap;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cloze_tensor::Dtype;
use half::bf16;

use crate::simd::Lane;

/// Blocks of at least this size ask for huge pages and start on one.
const HUGE_PAGE: usize = 2 << 20;
/// Every block starts on a cache line.
const LINE: usize = 64;
/// What may wait beyond a quarter of the peak.
const SLACK: usize = 32 << 20;

/// Bytes of a backend's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// In use now.
    pub current: usize,
    /// The largest use since the start or since [`Memory::reset_peak`].
    pub peak: usize,
    /// Taken from the system: in use, or waiting to be used again.
    pub held: usize,
}

/// The blocks of a backend. Cloning shares them.
#[derive(Clone, Default)]
pub struct Memory {
    pool: Arc<Mutex<Pool>>,
}

#[derive(Default)]
struct Pool {
    free: BTreeMap<usize, Vec<Block>>, // by size
    stats: MemoryStats,
}

/// A block of memory. All its bytes are initialised.
struct Block {
    start: NonNull<u8>,
    bytes: usize,
    /// Zeros whose pages come when they are written; not handed out again.
    sparse: bool,
}

// SAFETY: a block owns its memory; who has the block has the memory.
unsafe impl Send for Block {}
// SAFETY: shared access to a block only reads its address.
unsafe impl Sync for Block {}

impl Block {
    fn layout(bytes: usize) -> Layout {
        let align = if bytes >= HUGE_PAGE { HUGE_PAGE } else { LINE };
        Layout::from_size_align(bytes, align).expect("a block is smaller than the address space")
    }

    fn new(bytes: usize) -> Self {
        let layout = Self::layout(bytes);
        // SAFETY: sizes are never zero (`size_class`).
        let start = NonNull::new(unsafe { alloc::alloc(layout) }).unwrap_or_else(|| alloc::handle_alloc_error(layout));
        #[cfg(target_os = "linux")]
        if bytes >= HUGE_PAGE {
            // SAFETY: the range is ours and page-aligned; the call is a hint that changes no contents.
            unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
        }
        // SAFETY: `bytes` bytes were just allocated.
        unsafe { start.as_ptr().write_bytes(0, bytes) };
        Self { start, bytes, sparse: false }
    }

    /// Zeros. On Linux a page is taken when it is written first.
    fn sparse(bytes: usize) -> Self {
        #[cfg(target_os = "linux")]
        {
            let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
            // SAFETY: a new mapping touches nothing that exists.
            let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, kind, -1, 0) };
            if start != libc::MAP_FAILED
                && let Some(start) = NonNull::new(start.cast())
            {
                return Self { start, bytes, sparse: true };
            }
        }
        Self::new(bytes)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        #[cfg(target_os = "linux")]
        if self.sparse {
            // SAFETY: mapped with this size in `sparse`.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
            return;
        }
        // SAFETY: allocated with this layout in `new`.
        unsafe { alloc::dealloc(self.start.as_ptr(), Self::layout(self.bytes)) };
    }
}

/// Sixteen sizes between powers of two, from one cache line on.
fn size_class(bytes: usize) -> usize {
    let bytes = bytes.max(LINE);
    let step = (bytes.next_power_of_two() / 32).max(LINE);
    bytes.next_multiple_of(step)
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A buffer of `len` elements with unspecified contents; NaN in debug builds, so that whoever reads what it did
    /// not write sees it.
    pub fn buffer(&self, dtype: Dtype, len: usize) -> Buffer {
        let bytes = size_class(len * dtype.size());
        // A somewhat larger block that waits is better than a new one.
        let mut pool = self.lock();
        let fitting = pool.free.range(bytes..=bytes + bytes / 4).next().map(|(&size, _)| size);
        let waiting = fitting.and_then(|size| pool.take(size));
        let mut surplus = Vec::new();
        let block = waiting.unwrap_or_else(|| {
            surplus = pool.make_room(bytes);
            pool.stats.held += bytes;
            Block::new(bytes)
        });
        pool.stats.current += block.bytes;
        pool.stats.peak = pool.stats.peak.max(pool.stats.current);
        drop(pool);
        drop(surplus);
        #[allow(unused_mut)]
        let mut buffer = Buffer { block: Some(block), len, dtype, home: Some(self.clone()) };
        #[cfg(debug_assertions)]
        match dtype {
            Dtype::F32 => buffer.f32_mut().fill(f32::NAN),
            Dtype::Bf16 => buffer.bf16_mut().fill(bf16::NAN),
        }
        buffer
    }

    /// `len` f32 zeros for a long life; parts that are never written take no memory where the system can do so. They do
    /// not count in the statistics.
    pub fn reserve(&self, len: usize) -> Buffer {
        let bytes = (len * Dtype::F32.size()).next_multiple_of(HUGE_PAGE).max(HUGE_PAGE);
        Buffer { block: Some(Block::sparse(bytes)), len, dtype: Dtype::F32, home: None }
    }

    /// What is used and held.
    pub fn stats(&self) -> MemoryStats {
        self.lock().stats
    }

    /// Measure the peak from here on.
    pub fn reset_peak(&self) {
        let mut pool = self.lock();
        pool.stats.peak = pool.stats.current;
    }

    /// Give all waiting blocks back to the system.
    pub fn trim(&self) {
        let mut pool = self.lock();
        let free = std::mem::take(&mut pool.free);
        pool.stats.held = pool.stats.current;
        drop(pool);
        drop(free);
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.stats().fmt(f)
    }
}

impl Pool {
    fn take(&mut self, size: usize) -> Option<Block> {
        let blocks = self.free.get_mut(&size)?;
        let block = blocks.pop();
        if blocks.is_empty() {
            self.free.remove(&size);
        }
        block
    }

    /// Take waiting blocks out, largest first, until `bytes` more keep the bound on what is held.
    fn make_room(&mut self, bytes: usize) -> Vec<Block> {
        let peak = self.stats.peak.max(self.stats.current + bytes);
        let bound = peak + peak / 4 + SLACK;
        let mut surplus = Vec::new();
        while self.stats.held + bytes > bound {
            let Some(size) = self.free.keys().next_back().copied() else { break };
            let Some(block) = self.take(size) else { break };
            self.stats.held -= block.bytes;
            surplus.push(block);
        }
        surplus
    }
}

/// A run of f32 or bf16 elements that starts on a cache line. Dropping it makes the memory available again.
pub struct Buffer {
    block: Option<Block>, // none only while dropping
    len: usize,
    dtype: Dtype,
    /// None: the system's.
    home: Option<Memory>,
}

impl Buffer {
    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The element kind.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The elements of an f32 buffer.
    ///
    /// # Panics
    /// If the buffer is of another dtype.
    pub fn f32(&self) -> &[f32] {
        self.of()
    }

    /// The elements of an f32 buffer, to change.
    ///
    /// # Panics
    /// If the buffer is of another dtype.
    pub fn f32_mut(&mut self) -> &mut [f32] {
        self.of_mut()
    }

    /// The elements of a bf16 buffer.
    ///
    /// # Panics
    /// If the buffer is of another dtype.
    pub fn bf16(&self) -> &[bf16] {
        self.of()
    }

    /// The elements of a bf16 buffer, to change.
    ///
    /// # Panics
    /// If the buffer is of another dtype.
    pub fn bf16_mut(&mut self) -> &mut [bf16] {
        self.of_mut()
    }

    /// The elements, in a kernel that is generic over their type.
    ///
    /// # Panics
    /// If the buffer is of another dtype.
    pub fn of<T: Lane>(&self) -> &[T] {
        // SAFETY: the block has room for `len` elements of `T` (`start` compares the dtypes), all initialised.
        unsafe { std::slice::from_raw_parts(self.start::<T>(), self.len) }
    }

    /// The elements, to change, in a kernel that is generic over their type.
    ///
    /// # Panics
    /// If the buffer is of another dtype.
    pub fn of_mut<T: Lane>(&mut self) -> &mut [T] {
        // SAFETY: as in `of`, and the buffer is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start::<T>(), self.len) }
    }

    /// Elements `range` of f32 zeros that were only reserved are about to be written: a large table (an embedding) in large
    /// pages, of which the system hands out fewer.
    pub(crate) fn about_to_write(&mut self, range: Range<usize>) {
        #[cfg(target_os = "linux")]
        if let Some(block) = self.block.as_ref().filter(|b| b.sparse) {
            let size = self.dtype.size();
            let (first, last) = (range.start * size, range.end * size);
            let start = block.start.as_ptr().wrapping_add(first);
            let skip = start.align_offset(HUGE_PAGE);
            let pages = (last - first).saturating_sub(skip) / HUGE_PAGE;
            if pages >= 2 && last <= block.bytes {
                // SAFETY: the range lies inside the block and starts on a page; the call is a hint that changes no contents.
                unsafe { libc::madvise(start.wrapping_add(skip).cast(), pages * HUGE_PAGE, libc::MADV_HUGEPAGE) };
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = range;
    }

    fn start<T: Lane>(&self) -> *mut T {
        let asked = if T::IS_F32 { Dtype::F32 } else { Dtype::Bf16 };
        assert!(self.dtype == asked, "a buffer of {} {:?} elements is read as {asked:?}", self.len, self.dtype);
        self.block.as_ref().expect("there until dropped").start.as_ptr().cast()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let (Some(block), Some(home)) = (self.block.take(), &self.home) {
            let mut pool = home.lock();
            pool.stats.current -= block.bytes;
            pool.free.entry(block.bytes).or_default().push(block);
        }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffer").field("dtype", &self.dtype).field("len", &self.len).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_waste_little() {
        for bytes in [0, 1, 64, 65, 1000, 4096, 100_000, 3 << 20, (64 << 20) + 1] {
            let class = size_class(bytes);
            assert!(class >= bytes.max(LINE) && class.is_multiple_of(LINE));
            assert!(class <= bytes + bytes / 16 + LINE, "{bytes} bytes take {class}");
            assert_eq!(size_class(class), class);
        }
    }

    #[test]
    fn freed_blocks_are_used_again() {
        let memory = Memory::default();
        let a = memory.buffer(Dtype::F32, 1000);
        let start = a.f32().as_ptr();
        assert_eq!(start as usize % LINE, 0);
        drop(a);
        let held = memory.stats().held;
        let b = memory.buffer(Dtype::Bf16, 2000);
        assert_eq!(b.bf16().as_ptr().cast(), start);
        assert_eq!(memory.stats(), MemoryStats { current: held, peak: held, held });
        drop(b);
        assert_eq!(memory.stats().current, 0);
        memory.trim();
        assert_eq!(memory.stats().held, 0);
    }

    #[test]
    fn reserved_memory_is_zero_and_stays_out_of_the_count() {
        let memory = Memory::default();
        let mut room = memory.reserve(3_000_000);
        assert_eq!(memory.stats(), MemoryStats::default());
        room.f32_mut()[2_999_999] = 1.0;
        assert!(room.f32()[..2_999_999].iter().all(|&x| x == 0.0));
        drop(room);
        assert_eq!(memory.stats(), MemoryStats::default());
    }

    #[test]
    fn what_waits_is_bounded() {
        let memory = Memory::default();
        let mut size = 1 << 20;
        while size < 32 << 20 {
            drop(memory.buffer(Dtype::F32, size));
            size += size / 2;
            let stats = memory.stats();
            assert!(stats.held <= stats.peak + stats.peak / 4 + SLACK, "{stats:?}");
        }
        assert!(memory.stats().peak >= 4 * (size / 3 * 2));
    }

    #[test]
    #[should_panic(expected = "is read as Bf16")]
    fn the_wrong_dtype_is_named() {
        Memory::default().buffer(Dtype::F32, 3).bf16();
    }
}
