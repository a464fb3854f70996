//! The backend itself: level, threads, memory, and how the host reaches its buffers.

use std::ops::Range;
use std::sync::Arc;

use cloze_tensor::{Dtype, Frozen, Operands, Param, Storage, View, ViewMut, Weights, Write};

use crate::gemm::{Gemm, Matrix, Precision};
use crate::level::Level;
use crate::memory::{Buffer, Memory, MemoryStats};
use crate::packed::PackedWeights;
use crate::simd::{Lane, Simd};
use crate::threads::Threads;

/// Run a body with `T` as the element type of a dtype.
macro_rules! by_dtype {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            cloze_tensor::Dtype::F32 => {
                type $t = f32;
                $body
            }
            cloze_tensor::Dtype::Bf16 => {
                type $t = half::bf16;
                $body
            }
        }
    };
}
pub(crate) use by_dtype;

/// Elements that are worth a task of their own.
pub(crate) const TASK: usize = 1 << 14;

/// What a [`Cpu`] is made with; what is `None` is found out.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuOptions {
    /// How many threads; one per core by default.
    pub threads: Option<usize>,
    /// Which instructions; the best of the machine by default.
    pub level: Option<Level>,
}

/// The CPU backend. Results depend on the level only, never on the number of threads.
#[derive(Debug)]
pub struct Cpu {
    level: Level,
    threads: Threads,
    memory: Memory,
    gemm: Gemm,
}

impl Cpu {
    /// A backend with its own threads and memory.
    ///
    /// # Panics
    /// If a level is asked for that the machine lacks; see [`Level::is_available`].
    pub fn new(options: CpuOptions) -> Self {
        let level = options.level.unwrap_or_else(Level::detected).checked();
        let threads = Threads::new(options.threads.unwrap_or(0));
        let gemm = Gemm::new(level, threads.clone());
        Self { level, threads, memory: Memory::default(), gemm }
    }

    /// The instructions in use.
    pub fn level(&self) -> Level {
        self.level
    }

    /// The threads.
    pub fn threads(&self) -> &Threads {
        &self.threads
    }

    /// The matrix products, on the same level and threads.
    pub fn gemm(&self) -> &Gemm {
        &self.gemm
    }

    /// The memory that buffers come from; also for an op's own scratch.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Bytes used and held by buffers.
    pub fn memory_stats(&self) -> MemoryStats {
        self.memory.stats()
    }

    /// Give memory that waits to be used again back to the system.
    pub fn trim_memory(&self) {
        self.memory.trim();
    }
}

impl Default for Cpu {
    fn default() -> Self {
        Self::new(CpuOptions::default())
    }
}

impl Storage for Cpu {
    type Buffer = Buffer;
    type Indices = Arc<[u32]>;
    type Packed = PackedWeights;

    fn alloc(&self, dtype: Dtype, len: usize) -> Buffer {
        self.memory.buffer(dtype, len)
    }

    fn zeros(&self, dtype: Dtype, len: usize) -> Buffer {
        let mut buffer = self.alloc(dtype, len);
        self.clear(&mut buffer, 0..len);
        buffer
    }

    fn clear(&self, buffer: &mut Buffer, range: Range<usize>) {
        by_dtype!(buffer.dtype(), T => {
            self.threads.for_rows(&mut buffer.of_mut::<T>()[range], 1, TASK, |_, piece| piece.fill(T::default()));
        });
    }

    fn write(&self, buffer: &mut Buffer, offset: usize, values: &[f32]) {
        buffer.about_to_write(offset..offset + values.len());
        by_dtype!(buffer.dtype(), T => {
            let to = &mut buffer.of_mut::<T>()[offset..offset + values.len()];
            self.threads.for_rows(to, 1, TASK, |first, to| {
                for (to, from) in to.iter_mut().zip(&values[first..]) {
                    *to = T::from_f32(*from);
                }
            });
        });
    }

    fn read(&self, buffer: &Buffer, range: Range<usize>) -> Vec<f32> {
        by_dtype!(buffer.dtype(), T => buffer.of::<T>()[range].iter().map(|v| v.to_f32()).collect())
    }

    fn indices(&self, values: &[u32]) -> Arc<[u32]> {
        values.into()
    }

    fn leaves_out_frozen(&self) -> bool {
        true
    }

    fn reserve(&self, len: usize) -> Buffer {
        self.memory.reserve(len)
    }

    fn freeze(&self, weights: &mut Weights<Self>, param: Param, matrix: &Frozen<'_>, operands: Operands) {
        assert_eq!(matrix.len(), param.len(), "freeze: {} elements are not [{}, {}]", matrix.len(), param.rows, param.cols);
        let precision = match operands {
            Operands::F32 => Precision::F32,
            Operands::Bf16 => Precision::Bf16,
            Operands::Int8 => Precision::Int8,
        };
        let form = match matrix {
            Frozen::Int8 { values, scales } if precision == Precision::Int8 => self.gemm.pack_quantized(values, scales, param.cols),
            Frozen::Bf16(values) if precision != Precision::Int8 => {
                self.gemm.pack(Matrix::bf16(values, param.rows, param.cols).transposed(), precision)
            }
            _ => self.gemm.pack(Matrix::f32(&matrix.values(), param.rows, param.cols).transposed(), precision),
        };
        weights.packed.insert(param, form);
    }
}

/// The elements of a tensor.
pub(crate) fn elements<'a, T: Lane>(view: View<'a, Cpu>) -> &'a [T] {
    &view.buffer.of()[..view.rows * view.cols]
}

/// The elements of a tensor, to write.
pub(crate) fn elements_mut<'a, T: Lane>(view: &'a mut ViewMut<'_, Cpu>) -> &'a mut [T] {
    &mut view.buffer.of_mut()[..view.rows * view.cols]
}

/// Overwrite or add to `to[i..]`.
#[inline(always)]
pub(crate) fn produce<S: Simd, T: Lane>(s: S, write: Write, to: &mut [T], i: usize, v: S::F) {
    let v = if write == Write::Add { s.add(s.load_at(to, i), v) } else { v };
    s.store_at(to, i, v);
}

/// The elements of a parameter.
pub(crate) fn weights_of(weights: &Weights<Cpu>, param: Param) -> &[f32] {
    let (weights, param) = weights.place(param);
    &weights.flat().f32()[param.range()]
}

/// The gradients of several parameters at once; empty for those that are not there, or frozen (behind the buffer's end).
///
/// # Panics
/// If two of them overlap.
pub(crate) fn gradients_of<const N: usize>(gradients: &mut Buffer, params: [Option<Param>; N]) -> [&mut [f32]; N] {
    let len = gradients.len();
    let ranges = params.map(|p| p.map(|p| p.range()).filter(|r| r.end <= len).unwrap_or(0..0));
    gradients.f32_mut().get_disjoint_mut(ranges).unwrap_or_else(|e| panic!("gradients of {params:?}: {e}"))
}
