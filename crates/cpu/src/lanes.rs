//! Loops over the vectors of a row.

use crate::simd::{Lane, Simd};

/// Run a body for each vector of `0..len`: `c` is its first element and `n` how many of its lanes are inside. The
/// body stands there twice, for whole vectors, where `n` is a constant and no access asks for the end, and for the rest.
macro_rules! for_lanes {
    ($S:ty, $len:expr, |$c:ident, $n:ident| $body:block) => {{
        let len: usize = $len;
        let whole = len - len % <$S>::LANES;
        let mut $c = 0;
        while $c < whole {
            let $n = <$S>::LANES;
            $body
            $c += <$S>::LANES;
        }
        if $c < len {
            let $n = len - $c;
            $body
        }
    }};
}
pub(crate) use for_lanes;

/// The `n` elements from `c` on; the other lanes are 0.
#[inline(always)]
pub(crate) fn take<S: Simd, T: Lane>(s: S, from: &[T], c: usize, n: usize) -> S::F {
    assert!(n <= S::LANES && c + n <= from.len(), "vector load past the end");
    // SAFETY: `n` elements are there from `c` on.
    unsafe {
        let p = from.as_ptr().add(c);
        if n == S::LANES { T::load(s, p) } else { T::load_partial(s, p, n) }
    }
}

/// Write the first `n` lanes to the elements from `c` on.
#[inline(always)]
pub(crate) fn put<S: Simd, T: Lane>(s: S, to: &mut [T], c: usize, n: usize, v: S::F) {
    assert!(n <= S::LANES && c + n <= to.len(), "vector store past the end");
    // SAFETY: `n` elements are there from `c` on.
    unsafe {
        let p = to.as_mut_ptr().add(c);
        if n == S::LANES { T::store(s, p, v) } else { T::store_partial(s, p, v, n) }
    }
}
