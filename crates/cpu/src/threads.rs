//! The threads that a backend owns, and how work is split over them.
//!
//! Results never depend on the number of threads. Each output element is computed by one task in one order;
//! sums over many rows go over chunks of a fixed size ([`Threads::sum_chunks`]) that are combined in order.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::crew::Crew;

/// The thread that calls and some that help it. Cloning shares them.
#[derive(Clone, Debug)]
pub struct Threads {
    crew: Option<Arc<Crew>>, // none: everything runs on the calling thread
    count: usize,
}

impl Threads {
    /// `count` threads, the caller's among them; 0 means one per core. One thread, or a system that refuses to make
    /// more, means that work runs on the caller's thread.
    pub fn new(count: usize) -> Self {
        let cores = || std::thread::available_parallelism().map_or(1, |n| n.get());
        let count = if count == 0 { cores() } else { count };
        let crew = (count > 1).then(|| Crew::new(count - 1)).flatten();
        let count = if crew.is_some() { count } else { 1 };
        Self { crew: crew.map(Arc::new), count }
    }

    /// The number of threads.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Run `task(0)` … `task(tasks - 1)`, each once, in any order, and wait for all.
    /// Threads take the next task as they become free, so tasks may differ in length.
    pub fn for_each(&self, tasks: usize, task: impl Fn(usize) + Sync) {
        self.for_each_with(tasks, || (), |(), i| task(i));
    }

    /// [`Threads::for_each`] with one `state` per thread that takes part, for scratch memory.
    pub fn for_each_with<T>(&self, tasks: usize, state: impl Fn() -> T + Sync, task: impl Fn(&mut T, usize) + Sync) {
        match &self.crew {
            Some(crew) if tasks > 1 => {
                let next = AtomicUsize::new(0);
                crew.together(|| {
                    let mut first = next.fetch_add(1, Ordering::Relaxed);
                    if first < tasks {
                        let mut state = state();
                        while first < tasks {
                            task(&mut state, first);
                            first = next.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
            _ if tasks > 0 => {
                let mut state = state();
                (0..tasks).for_each(|i| task(&mut state, i));
            }
            _ => {}
        }
    }

    /// Run `task` on ranges that cover `0..n`, each at least `least` long where `n` allows it and a multiple of
    /// `step` except the last. Only for work whose elements do not depend on the ranges.
    pub fn for_ranges(&self, n: usize, least: usize, step: usize, task: impl Fn(Range<usize>) + Sync) {
        let step = step.max(1);
        // A few ranges per thread even out threads of different speed.
        let length = n.div_ceil(4 * self.count).max(least).max(1).next_multiple_of(step);
        let length = if self.count == 1 { n.max(1) } else { length };
        self.for_each(n.div_ceil(length), |i| task(i * length..n.min((i + 1) * length)));
    }

    /// Run `task(first_row, rows)` on blocks of whole rows of `data`, which holds rows of `width` elements.
    /// Blocks have at least `least` rows where there are as many.
    pub fn for_rows<T: Send>(&self, data: &mut [T], width: usize, least: usize, task: impl Fn(usize, &mut [T]) + Sync) {
        if width == 0 || data.is_empty() {
            return;
        }
        assert_eq!(data.len() % width, 0, "rows of {width} elements do not fill {} elements", data.len());
        let shared = SharedMut::new(data);
        self.for_ranges(shared.len() / width, least, 1, |rows| {
            // SAFETY: the ranges of rows do not overlap.
            let block = unsafe { shared.slice(rows.start * width..rows.end * width) };
            task(rows.start, block);
        });
    }

    /// Compute `partial(range)` for consecutive chunks of `chunk` elements of `0..n` in parallel, then fold the
    /// partial results in order: the result depends on `chunk`, never on the number of threads.
    pub fn sum_chunks<T: Send + Default + Clone>(
        &self,
        n: usize,
        chunk: usize,
        partial: impl Fn(Range<usize>) -> T + Sync,
        mut combine: impl FnMut(&mut T, T),
    ) -> T {
        let chunk = chunk.max(1);
        let mut partials = vec![T::default(); n.div_ceil(chunk)];
        let shared = SharedMut::new(&mut partials);
        self.for_each(n.div_ceil(chunk), |i| {
            // SAFETY: each task writes its own element.
            let slot = unsafe { shared.slice(i..i + 1) };
            slot[0] = partial(i * chunk..n.min((i + 1) * chunk));
        });
        let mut partials = partials.into_iter();
        let mut sum = partials.next().unwrap_or_default();
        partials.for_each(|p| combine(&mut sum, p));
        sum
    }
}

/// A mutable slice that tasks share, each taking ranges of its own.
#[derive(Debug)]
pub struct SharedMut<'a, T> {
    start: *mut T,
    len: usize,
    owner: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: access goes through `slice`, whose callers keep the ranges apart; then it is like splitting a `&mut [T]`.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    /// Share `data` for as long as it is borrowed.
    pub fn new(data: &'a mut [T]) -> Self {
        Self { start: data.as_mut_ptr(), len: data.len(), owner: std::marker::PhantomData }
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements of `range`.
    ///
    /// # Safety
    /// No two slices that live at the same time overlap.
    ///
    /// # Panics
    /// If the range reaches past the end.
    #[allow(clippy::mut_from_ref)] // the point of the type
    pub unsafe fn slice(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "range {range:?} of {} elements", self.len);
        // SAFETY: inside the borrowed slice; the caller keeps the ranges apart.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 3, 8] {
            let threads = Threads::new(threads);
            for tasks in [0, 1, 2, 7, 100] {
                let seen = Mutex::new(vec![0; tasks]);
                threads.for_each(tasks, |i| seen.lock().unwrap()[i] += 1);
                assert!(seen.into_inner().unwrap().iter().all(|&n| n == 1));
            }
        }
    }

    #[test]
    fn ranges_cover_everything_once() {
        for threads in [1, 2, 5] {
            let threads = Threads::new(threads);
            for n in [0usize, 1, 15, 16, 17, 1000] {
                let mut data = vec![0u32; n];
                let shared = SharedMut::new(&mut data);
                threads.for_ranges(n, 16, 16, |range| {
                    assert!(range.start % 16 == 0 && (range.end % 16 == 0 || range.end == n));
                    // SAFETY: ranges do not overlap, which the count below checks.
                    unsafe { shared.slice(range) }.iter_mut().for_each(|x| *x += 1);
                });
                assert!(data.iter().all(|&x| x == 1), "{n}");
                let mut rows = vec![0u32; n * 3];
                threads.for_rows(&mut rows, 3, 2, |first, block| {
                    block.chunks_mut(3).enumerate().for_each(|(i, row)| row.fill((first + i) as u32));
                });
                assert!(rows.iter().enumerate().all(|(i, &x)| x as usize == i / 3), "{n}");
            }
        }
    }

    #[test]
    fn sums_do_not_depend_on_the_threads() {
        let x: Vec<f32> = (0..10_007).map(|i| ((i * 7919) % 1013) as f32 * 0.37 - 80.0).collect();
        let sum = |threads: usize| Threads::new(threads).sum_chunks(x.len(), 64, |r| x[r].iter().sum::<f32>(), |a, b| *a += b);
        let one = sum(1);
        for threads in [2, 3, 7] {
            assert_eq!(sum(threads).to_bits(), one.to_bits());
        }
        assert_eq!(Threads::new(2).sum_chunks(0, 8, |_| 1.0, |a: &mut f64, b| *a += b), 0.0);
    }
}
