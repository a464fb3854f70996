//! The workers behind [`crate::Threads`]: they wait awake for a moment after each job, because the next op of a
//! model follows within microseconds and waking a sleeping thread takes longer than a small op.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How long a thread waits awake. Longer than the gap between two ops, short against what a person notices.
const AWAKE: Duration = Duration::from_micros(100);

/// Threads that run one job at a time together with the thread that posts it.
pub(crate) struct Crew {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared {
    /// Counts the jobs; a change is the call to work.
    posted: AtomicU64,
    job: UnsafeCell<Job>,
    /// Workers that have not finished the job.
    running: AtomicUsize,
    /// Held by the poster from before a job is written until all have finished it.
    posting: Mutex<()>,
    /// Whether the poster sleeps, and who it is.
    poster_sleeps: AtomicBool,
    poster: Mutex<Option<Thread>>,
    /// Workers that sleep.
    sleepers: AtomicUsize,
    asleep: Mutex<()>,
    call: Condvar,
    stop: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is written only under `posting` while no worker runs, and read only between `posted` and `running`.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer in a job is used only while its poster waits.
unsafe impl Send for Shared {}

#[derive(Clone, Copy)]
struct Job {
    work: *const (),
    run: unsafe fn(*const ()),
}

unsafe fn nothing(_: *const ()) {}

/// Look at `ready` for a moment; whether it came true.
fn awake_until(ready: impl Fn() -> bool) -> bool {
    let mut end = None;
    loop {
        for _ in 0..64 {
            if ready() {
                return true;
            }
            std::hint::spin_loop();
        }
        let now = Instant::now();
        if now >= *end.get_or_insert(now + AWAKE) {
            return false;
        }
    }
}

impl Crew {
    /// `workers` threads; `None` if the system refuses to make them.
    pub(crate) fn new(workers: usize) -> Option<Self> {
        let shared = Arc::new(Shared {
            posted: AtomicU64::new(0),
            job: UnsafeCell::new(Job { work: std::ptr::null(), run: nothing }),
            running: AtomicUsize::new(0),
            posting: Mutex::new(()),
            poster_sleeps: AtomicBool::new(false),
            poster: Mutex::new(None),
            sleepers: AtomicUsize::new(0),
            asleep: Mutex::new(()),
            call: Condvar::new(),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let mut crew = Self { shared, workers: Vec::with_capacity(workers) };
        for i in 0..workers {
            let shared = Arc::clone(&crew.shared);
            let worker = thread::Builder::new().name(format!("cloze-{}", i + 1)).spawn(move || shared.work()).ok()?;
            crew.workers.push(worker); // dropping an incomplete crew ends those that were made
        }
        Some(crew)
    }

    /// Run `work` once on the calling thread and once on every worker, and wait for all. If the crew is at another
    /// job (posted by another thread, or by the one that this call is part of), the caller works alone.
    pub(crate) fn together(&self, work: impl Fn() + Sync) {
        unsafe fn call<W: Fn()>(work: *const ()) {
            // SAFETY: `work` is the closure below, alive while its poster waits.
            unsafe { (*work.cast::<W>())() }
        }
        fn entrance<W: Fn()>(_: &W) -> unsafe fn(*const ()) {
            call::<W>
        }
        let shared = &*self.shared;
        let Ok(posting) = shared.posting.try_lock() else { return work() };
        // SAFETY: no worker runs: the last job's poster waited for all before it released the lock.
        unsafe { *shared.job.get() = Job { work: std::ptr::from_ref(&work).cast(), run: entrance(&work) } };
        shared.running.store(self.workers.len(), Ordering::SeqCst);
        shared.posted.fetch_add(1, Ordering::SeqCst);
        if shared.sleepers.load(Ordering::SeqCst) > 0 {
            drop(shared.asleep.lock().unwrap_or_else(PoisonError::into_inner)); // whoever is about to sleep now does
            shared.call.notify_all();
        }
        let own = catch_unwind(AssertUnwindSafe(&work));
        let done = || shared.running.load(Ordering::SeqCst) == 0;
        if !awake_until(done) {
            *shared.poster.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread::current());
            shared.poster_sleeps.store(true, Ordering::SeqCst);
            while !done() {
                thread::park();
            }
            shared.poster_sleeps.store(false, Ordering::SeqCst);
        }
        let panic = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(posting);
        if let Some(panic) = own.err().or(panic) {
            resume_unwind(panic);
        }
    }
}

impl Shared {
    fn work(&self) {
        let mut seen = 0;
        loop {
            let called = || self.posted.load(Ordering::SeqCst) != seen;
            if !awake_until(called) {
                let mut guard = self.asleep.lock().unwrap_or_else(PoisonError::into_inner);
                self.sleepers.fetch_add(1, Ordering::SeqCst);
                while !called() {
                    guard = self.call.wait(guard).unwrap_or_else(PoisonError::into_inner);
                }
                self.sleepers.fetch_sub(1, Ordering::SeqCst);
            }
            seen = self.posted.load(Ordering::SeqCst);
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            // SAFETY: written before `posted` changed, and left alone until `running` is 0.
            let job = unsafe { *self.job.get() };
            // SAFETY: the poster keeps the closure alive until `running` is 0.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| unsafe { (job.run)(job.work) })) {
                *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
            }
            if self.running.fetch_sub(1, Ordering::SeqCst) == 1
                && self.poster_sleeps.load(Ordering::SeqCst)
                && let Some(poster) = self.poster.lock().unwrap_or_else(PoisonError::into_inner).as_ref()
            {
                poster.unpark(); // should it be another job's poster by now, it looks again and sleeps on
            }
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.posted.fetch_add(1, Ordering::SeqCst);
        drop(self.shared.asleep.lock().unwrap_or_else(PoisonError::into_inner));
        self.shared.call.notify_all();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

impl std::fmt::Debug for Crew {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Crew").field("workers", &self.workers.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_take_part_in_every_job() {
        let crew = Crew::new(3).unwrap();
        for round in 0..2000 {
            let count = AtomicUsize::new(0);
            crew.together(|| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.into_inner(), 4);
            if round % 500 == 0 {
                thread::sleep(4 * AWAKE); // until the workers are asleep
            }
        }
    }

    #[test]
    fn a_sleeping_poster_is_woken() {
        let crew = Crew::new(1).unwrap();
        let poster = thread::current().id();
        for _ in 0..20 {
            crew.together(|| {
                if thread::current().id() != poster {
                    thread::sleep(3 * AWAKE);
                }
            });
        }
    }

    #[test]
    fn a_job_within_a_job_and_jobs_of_two_threads_run() {
        let crew = Arc::new(Crew::new(2).unwrap());
        let count = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        crew.together(|| crew.together(|| _ = count.fetch_add(1, Ordering::Relaxed)));
                    }
                });
            }
        });
        assert!(count.into_inner() >= 600);
    }

    #[test]
    fn a_panic_reaches_the_poster_and_the_crew_goes_on() {
        let crew = Crew::new(2).unwrap();
        let poster = thread::current().id();
        for here in [true, false] {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                crew.together(|| assert!((thread::current().id() == poster) != here, "as wished"));
            }));
            assert!(caught.is_err());
            let count = AtomicUsize::new(0);
            crew.together(|| _ = count.fetch_add(1, Ordering::Relaxed));
            assert_eq!(count.into_inner(), 3);
        }
    }
}
