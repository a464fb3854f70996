//! Aligned memory that is kept between products.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// One cache line.
#[derive(Clone, Copy, Debug, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u32; 16]);

/// Words that start on a cache line.
#[derive(Clone, Debug, Default)]
pub(super) struct Buffer {
    lines: Vec<Line>,
}

impl Buffer {
    /// Make room for `words`. What was there may be lost.
    pub(super) fn reserve(&mut self, words: usize) {
        let lines = words.div_ceil(16);
        if lines > self.lines.len() {
            // The system's own zeros: pages come when they are written, by the threads that write them.
            self.lines = bytemuck::allocation::zeroed_vec(lines);
            huge_pages(&mut self.lines);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.lines.len() * 16
    }

    pub(super) fn words(&self) -> &[u32] {
        // SAFETY: a line is exactly sixteen words, without padding.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len()) }
    }

    pub(super) fn words_mut(&mut self) -> &mut [u32] {
        // SAFETY: as in `words`.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len()) }
    }
}

/// Ask for huge pages for memory that is about to be written: packed weights are read from end to end, and small pages cost
/// a product of few rows a miss of the address cache every 4 KiB.
fn huge_pages(memory: &mut [Line]) {
    #[cfg(target_os = "linux")]
    {
        const HUGE: usize = 2 << 20;
        let range = memory.as_mut_ptr_range();
        let (start, end) = (range.start as usize, range.end as usize);
        let (first, last) = (start.next_multiple_of(HUGE), end / HUGE * HUGE);
        if first < last {
            // SAFETY: the range lies inside memory that is ours; the call is a hint that changes no contents.
            unsafe { libc::madvise(range.start.wrapping_byte_add(first - start).cast(), last - first, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = memory;
}

/// Buffers that wait for their next use: small ones of the threads, large ones for packed operands.
#[derive(Debug, Default)]
pub(super) struct Pool {
    tasks: Mutex<Vec<Scratch>>,
    packed: Mutex<Vec<Buffer>>,
}

/// What a task needs: a packed block of A, and sums that C cannot hold. Of bytes: a panel of rows before it is turned,
/// and the scales of the rows.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) rows: Buffer,
    pub(super) sums: Buffer,
    pub(super) stage: Buffer,
    pub(super) scales: Buffer,
}

impl Pool {
    /// Scratch for one thread, given back when dropped.
    pub(super) fn lease(&self) -> Lease<'_> {
        Lease::take(&self.tasks)
    }

    /// A buffer for a packed operand, given back when dropped.
    pub(super) fn lease_packed(&self) -> Lease<'_, Buffer> {
        Lease::take(&self.packed)
    }
}

/// A borrowed buffer that returns to its pool.
#[derive(Debug)]
pub(super) struct Lease<'a, T: Default = Scratch> {
    value: T,
    home: &'a Mutex<Vec<T>>,
}

impl<'a, T: Default> Lease<'a, T> {
    fn take(home: &'a Mutex<Vec<T>>) -> Self {
        let value = home.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        Self { value, home }
    }
}

impl<T: Default> Deref for Lease<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Default> DerefMut for Lease<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T: Default> Drop for Lease<'_, T> {
    fn drop(&mut self) {
        self.home.lock().unwrap_or_else(PoisonError::into_inner).push(std::mem::take(&mut self.value));
    }
}
