//! Memory of a thread, kept from one call to the next.

use std::cell::RefCell;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u32; 16]);

/// Cache lines that only ever grow in number.
#[derive(Default)]
pub(super) struct Scratch {
    lines: Vec<Line>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Scratch {
    /// Run `work` with the memory of this thread.
    pub(super) fn with<R>(work: impl FnOnce(&mut Scratch) -> R) -> R {
        SCRATCH.with_borrow_mut(work)
    }

    /// Pieces of so many words, each on cache lines of its own. Their contents are unspecified.
    pub(super) fn pieces<const N: usize>(&mut self, words: [usize; N]) -> [*mut u32; N] {
        let needed = words.iter().map(|w| w.div_ceil(16)).sum();
        if self.lines.len() < needed {
            self.lines.clear();
            self.lines.resize(needed, Line([0; 16]));
        }
        let mut next = self.lines.as_mut_ptr();
        words.map(|w| {
            let piece = next;
            next = piece.wrapping_add(w.div_ceil(16));
            piece.cast()
        })
    }
}
