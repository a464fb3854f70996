//! Rotary positions: the cosines and sines of every position, and turning rows by them.

use crate::simd::Simd;
use std::sync::{Arc, Mutex, PoisonError};

/// cos and sin of i · θ^(−2c/D). // [length, D/2] each
#[derive(Debug)]
pub(super) struct Turns {
    theta: f32,
    head_dim: usize,
    length: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

/// Tables that were needed before; a model has one or two kinds.
static TABLES: Mutex<Vec<Arc<Turns>>> = Mutex::new(Vec::new());

/// More kinds than this and the oldest is dropped.
const KEPT: usize = 8;

impl Turns {
    /// The table of base `theta` for positions below `length` at least; made once and kept.
    pub(super) fn of(theta: f32, head_dim: usize, length: usize) -> Arc<Self> {
        let mut tables = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |t: &Arc<Self>| t.theta.to_bits() == theta.to_bits() && t.head_dim == head_dim;
        if let Some(table) = tables.iter().find(|t| same(t) && t.length >= length) {
            return Arc::clone(table);
        }
        tables.retain(|t| !same(t));
        if tables.len() == KEPT {
            tables.remove(0);
        }
        let table = Arc::new(Self::new(theta, head_dim, length.next_power_of_two().max(512)));
        tables.push(Arc::clone(&table));
        table
    }

    fn new(theta: f32, head_dim: usize, length: usize) -> Self {
        let half = head_dim / 2;
        let frequency: Vec<f64> = (0..half).map(|c| f64::from(theta).powf(-2.0 * c as f64 / head_dim as f64)).collect();
        let (mut cos, mut sin) = (Vec::with_capacity(length * half), Vec::with_capacity(length * half));
        for i in 0..length {
            for f in &frequency {
                let (s, c) = (i as f64 * f).sin_cos();
                cos.push(c as f32);
                sin.push(s as f32);
            }
        }
        Self { theta, head_dim, length, cos, sin }
    }

    /// Turn the pairs (c, c + D/2) of `x` forward by `position`, or back.
    #[inline(always)]
    pub(super) fn turn<S: Simd>(&self, s: S, x: &mut [f32], position: usize, back: bool) {
        let half = self.head_dim / 2;
        let at = position * half..(position + 1) * half;
        let (cos, sin) = (&self.cos[at.clone()], &self.sin[at]);
        let (first, second) = x.split_at_mut(half);
        for c in (0..half).step_by(S::LANES) {
            let (a, b) = (s.load_at(first, c), s.load_at(&second[..half], c));
            let (cos, sin) = (s.load_at(cos, c), s.load_at(sin, c));
            let sin = if back { s.neg(sin) } else { sin };
            s.store_at(first, c, s.neg_mul_add(b, sin, s.mul(a, cos)));
            s.store_at(&mut second[..half], c, s.mul_add(a, sin, s.mul(b, cos)));
        }
    }
}
