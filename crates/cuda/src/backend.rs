//! The backend itself: a device, its memory, and how the host reaches its buffers.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytemuck::{Pod, Zeroable};
use cloze_tensor::{Dropout, Dtype, Frozen, Later, Operands, Packed, Param, Storage, View, ViewMut, Weights, Write};
use half::bf16;

use crate::device::Gpu;
use crate::driver::{Command, Kernel, Launch, Matrix, Product, Variant};
use crate::memory::{Buffer, Memory, MemoryStats};
use crate::optimizer::Pieces;
use crate::pinned::Pinned;
use crate::queue::Queue;
use crate::{CudaError, Driver};

/// Threads of a block in kernels that take eight elements, or one, a thread.
pub(crate) const THREADS: usize = 256;

/// The f32 logits of the vocabulary projection that are held at once: 256 MiB.
const LOGITS: usize = 64 << 20;

/// Tables of rotary positions, by (bits of θ, D): how many positions each holds, and their cosines and sines.
pub(crate) type Turns = HashMap<(u32, usize), (usize, Arc<Buffer>)>;

/// The CUDA backend.
///
/// # Panics
/// Ops panic when the device fails: no memory left, a launch that the driver refuses. Their message is a [`CudaError`].
pub struct Cuda {
    queue: Arc<Queue>,
    memory: Arc<Memory>,
    pinned: Arc<Pinned>,
    turns: Mutex<Turns>,
    /// The pieces of the optimizer's groups; the groups are the same in every step.
    pieces: Mutex<Option<Arc<Pieces>>>,
    logits: usize,
}

/// What a device's call gave.
pub(crate) fn done<T>(result: Result<T, CudaError>) -> T {
    result.unwrap_or_else(|e| panic!("{e}"))
}

/// The draws of a dropout as kernels take them; see `Draws` in kernels/device.cuh.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct Draws {
    key: [u32; 2],
    high: [u32; 2],
    threshold: u32,
    scale: f32,
}

impl Draws {
    /// Of a dropout; a threshold of 0 where there is none.
    pub(crate) fn of(dropout: Option<Dropout>) -> Self {
        let Some(d) = dropout else { return Self::default() };
        let (key, high) = d.key.parts();
        Self { key, high, threshold: d.threshold(), scale: d.scale() }
    }
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Convert {
    from: u64,
    to: u64,
    n: u64,
}

impl Cuda {
    /// Open device `index` of this machine.
    pub fn open(index: usize) -> Result<Self, CudaError> {
        Ok(Self::with_driver(Arc::new(Gpu::open(index)?)))
    }

    /// How many devices this machine has; 0 without a driver.
    pub fn count() -> usize {
        Gpu::count()
    }

    /// A backend on any driver.
    pub fn with_driver(driver: Arc<dyn Driver>) -> Self {
        let queue = Queue::new(driver);
        let memory = Memory::new(Arc::clone(&queue));
        let pinned = Pinned::new(Arc::clone(&queue));
        Self { queue, memory, pinned, turns: Mutex::default(), pieces: Mutex::default(), logits: LOGITS }
    }

    /// With room for this many logits of the vocabulary projection at once (at least one row's).
    #[must_use]
    pub fn with_logits(self, logits: usize) -> Self {
        Self { logits, ..self }
    }

    /// What the device is, for people.
    pub fn name(&self) -> String {
        self.queue.driver().name()
    }

    /// Bytes of the device that are free and in all.
    pub fn device_memory(&self) -> Result<(usize, usize), CudaError> {
        self.queue.driver().memory()
    }

    /// Bytes used and held by buffers.
    pub fn memory_stats(&self) -> MemoryStats {
        self.memory.stats()
    }

    /// Give memory that waits to be used again back to the device, and what is kept from one step to the next.
    pub fn trim_memory(&self) {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.memory.trim();
    }

    /// Wait until all work is done.
    pub fn synchronize(&self) {
        self.download(0, &mut []);
    }

    /// The peak of products in `dtype`, FLOP/s: measured on a large square product, in about a tenth of a second.
    pub fn peak_flops(&self, dtype: Dtype) -> f64 {
        const SIDE: usize = 8192;
        const RUNS: u32 = if cfg!(debug_assertions) { 2 } else { 8 };
        let [a, b, c] = [0, 1, 2].map(|_| self.zeros(dtype, SIDE * SIDE));
        let of = |buffer: &Buffer| Matrix::new(buffer.address(), dtype, SIDE, SIDE);
        let product = Product::new(of(&a), of(&b).transposed(), of(&c), 0.0);
        self.multiply(&product);
        self.synchronize();
        let begin = std::time::Instant::now();
        for _ in 0..RUNS {
            self.multiply(&product);
        }
        self.synchronize();
        2.0 * (SIDE as f64).powi(3) * f64::from(RUNS) / begin.elapsed().as_secs_f64()
    }

    pub(crate) fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// Wait for what stands at an address, in a buffer that the caller holds.
    pub(crate) fn download(&self, address: u64, to: &mut [u8]) {
        // SAFETY: callers hold a buffer of at least so many bytes, or read nothing.
        done(self.queue.flush().and_then(|()| unsafe { self.queue.driver().download(address, to) }));
    }

    /// Ask the device for something.
    ///
    /// Addresses are in buffers that the caller has borrowed, as the op's contract says: what is written is borrowed mutably.
    fn ask(&self, command: Command) {
        // SAFETY: buffers are handed on to who asks later.
        done(unsafe { self.queue.ask(command) });
    }

    pub(crate) fn pinned(&self) -> &Arc<Pinned> {
        &self.pinned
    }

    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Room for this many logits.
    pub(crate) fn logits(&self) -> usize {
        self.logits
    }

    pub(crate) fn turns(&self) -> &Mutex<Turns> {
        &self.turns
    }

    pub(crate) fn pieces(&self) -> &Mutex<Option<Arc<Pieces>>> {
        &self.pieces
    }

    pub(crate) fn shared_limit(&self) -> usize {
        self.queue.driver().shared_limit()
    }

    /// Run a kernel of a file in its form for `dtype`; nothing on an empty grid.
    ///
    /// The parameters name buffers that the caller has borrowed, as the op's contract says: what is written is borrowed mutably.
    pub(crate) fn launch<P: Pod>(
        &self,
        file: &'static str,
        name: &'static str,
        variant: impl Into<Variant>,
        grid: [usize; 3],
        threads: usize,
        shared: usize,
        parameters: &P,
    ) {
        if grid.contains(&0) {
            return;
        }
        let kernel = Kernel { file, name, variant: variant.into() };
        let number = |n: usize| u32::try_from(n).unwrap_or_else(|_| panic!("{name}: a grid of {grid:?}"));
        assert!(grid[1] <= 65_535 && grid[2] <= 65_535, "{name}: a grid of {grid:?}");
        let launch = Launch {
            kernel,
            grid: grid.map(number),
            threads: number(threads),
            shared: number(shared),
            parameters: bytemuck::bytes_of(parameters).to_vec(),
        };
        self.ask(Command::Launch(launch));
    }

    /// A kernel that takes `each` of `n` elements a thread.
    pub(crate) fn launch_over<P: Pod>(&self, file: &'static str, name: &'static str, dtype: Dtype, n: usize, each: usize, parameters: &P) {
        self.launch(file, name, dtype, [n.div_ceil(each * THREADS), 1, 1], THREADS, 0, parameters);
    }

    pub(crate) fn supports(&self, product: &Product) -> bool {
        self.queue.driver().supports(product)
    }

    /// Multiply; an empty result is nothing, and an empty sum leaves zeros or what was there.
    pub(crate) fn multiply(&self, product: &Product) {
        let (m, n) = product.c.shape();
        if m == 0 || n == 0 {
            return;
        }
        self.ask(Command::Multiply(*product));
    }

    pub(crate) fn copy(&self, from: u64, to: u64, bytes: usize) {
        self.ask(Command::Copy { from, to, bytes });
    }

    /// Plain numbers on the device.
    pub(crate) fn upload(&self, values: &[u8]) -> Buffer {
        let buffer = self.memory.buffer(Dtype::F32, values.len().div_ceil(4));
        if !values.is_empty() {
            // SAFETY: the buffer is new and large enough.
            done(unsafe { self.pinned.upload(buffer.address(), values) });
        }
        buffer
    }

    /// The operands of products with a parameter: the master weights in f32, or their bf16 shadow. // (address of its first element)
    pub(crate) fn operand(&self, weights: &Weights<Self>, param: Param, dtype: Dtype) -> u64 {
        match dtype {
            Dtype::F32 => weights.flat().at(param.offset),
            Dtype::Bf16 => self.shadow(weights).at(param.offset),
        }
    }

    /// All weights in bf16, made at the first use after they changed.
    fn shadow(&self, weights: &Weights<Self>) -> Arc<Buffer> {
        let mut shadow = weights.packed.0.lock().unwrap_or_else(PoisonError::into_inner);
        let shadow = shadow.get_or_insert_with(|| {
            let buffer = self.memory.buffer(Dtype::Bf16, weights.len());
            let convert = Convert { from: weights.flat().address(), to: buffer.address(), n: weights.len() as u64 };
            self.launch_over("elementwise", "convert", Dtype::Bf16, weights.len(), 8, &convert);
            Arc::new(buffer)
        });
        Arc::clone(shadow)
    }
}

impl std::fmt::Debug for Cuda {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cuda").field("device", &self.name()).field("memory", &self.memory_stats()).finish_non_exhaustive()
    }
}

impl From<Dtype> for Variant {
    fn from(dtype: Dtype) -> Self {
        Variant { dtype, head_dim: 0, biased: false }
    }
}

/// The weights as the operands of bf16 products; empty until such a product reads them.
#[derive(Default)]
pub struct Shadow(Mutex<Option<Arc<Buffer>>>);

/// Indices on the device, and on the host: what is sorted by them is sorted there.
#[derive(Clone)]
pub struct Indices(Arc<Inner>);

struct Inner {
    host: Vec<u32>,
    device: Buffer,
    tiles: OnceLock<(Buffer, usize)>,
}

impl Indices {
    /// On the host.
    pub(crate) fn host(&self) -> &[u32] {
        &self.0.host
    }

    /// On the device.
    pub(crate) fn address(&self) -> u64 {
        self.0.device.address()
    }

    /// Of the starts of sequences: their tiles of `rows` rows, (sequence, first row), and how many there are. Made once for all layers.
    pub(crate) fn tiles(&self, cuda: &Cuda, rows: usize) -> (u64, usize) {
        let (buffer, count) = self.0.tiles.get_or_init(|| {
            let lengths = self.host().windows(2).map(|w| w[1] - w[0]).enumerate();
            let tiles: Vec<[u32; 2]> = lengths.flat_map(|(s, n)| (0..n).step_by(rows).map(move |first| [s as u32, first])).collect();
            (cuda.upload(bytemuck::cast_slice(&tiles)), tiles.len())
        });
        (buffer.address(), *count)
    }
}

impl Storage for Cuda {
    type Buffer = Buffer;
    type Indices = Indices;
    type Packed = Shadow;

    fn alloc(&self, dtype: Dtype, len: usize) -> Buffer {
        self.memory.buffer(dtype, len)
    }

    fn zeros(&self, dtype: Dtype, len: usize) -> Buffer {
        let mut buffer = self.alloc(dtype, len);
        self.clear(&mut buffer, 0..len);
        buffer
    }

    fn clear(&self, buffer: &mut Buffer, range: Range<usize>) {
        assert!(range.end <= buffer.len(), "clear: {range:?} of {} elements", buffer.len());
        if !range.is_empty() {
            // Zeros of all element kinds are zero bytes.
            self.ask(Command::Clear { address: buffer.at(range.start), bytes: range.len() * buffer.dtype().size() });
        }
    }

    fn write(&self, buffer: &mut Buffer, offset: usize, values: &[f32]) {
        assert!(offset + values.len() <= buffer.len(), "write: {} values at {offset} of {} elements", values.len(), buffer.len());
        if values.is_empty() {
            return;
        }
        let rounded: Vec<bf16>;
        let bytes: &[u8] = match buffer.dtype() {
            Dtype::F32 => bytemuck::cast_slice(values),
            Dtype::Bf16 => {
                rounded = values.iter().map(|&v| bf16::from_f32(v)).collect();
                bytemuck::cast_slice(&rounded)
            }
        };
        // SAFETY: the range lies within the buffer, which is borrowed mutably.
        done(unsafe { self.pinned.upload(buffer.at(offset), bytes) });
    }

    fn read(&self, buffer: &Buffer, range: Range<usize>) -> Vec<f32> {
        assert!(range.end <= buffer.len(), "read: {range:?} of {} elements", buffer.len());
        let mut values = vec![0.0f32; range.len()];
        if range.is_empty() {
            return values;
        }
        match buffer.dtype() {
            Dtype::F32 => self.download(buffer.at(range.start), bytemuck::cast_slice_mut(&mut values)),
            Dtype::Bf16 => {
                let mut rounded = vec![bf16::ZERO; range.len()];
                self.download(buffer.at(range.start), bytemuck::cast_slice_mut(&mut rounded));
                for (to, from) in values.iter_mut().zip(rounded) {
                    *to = from.to_f32();
                }
            }
        }
        values
    }

    fn read_later(&self, buffer: &Buffer, range: Range<usize>) -> Later<Vec<f32>> {
        assert!(range.end <= buffer.len(), "read: {range:?} of {} elements", buffer.len());
        let (size, dtype) = (buffer.dtype().size(), buffer.dtype());
        self.bytes_later(buffer.at(range.start), range.len() * size).map(move |bytes| match dtype {
            Dtype::F32 => bytemuck::pod_collect_to_vec(&bytes),
            Dtype::Bf16 => bytemuck::pod_collect_to_vec::<u8, bf16>(&bytes).into_iter().map(bf16::to_f32).collect(),
        })
    }

    fn indices(&self, values: &[u32]) -> Indices {
        let device = self.upload(bytemuck::cast_slice(values));
        Indices(Arc::new(Inner { host: values.to_vec(), device, tiles: OnceLock::new() }))
    }

    fn freeze(&self, weights: &mut Weights<Self>, param: Param, matrix: &Frozen<'_>, _: Operands) {
        assert_eq!(matrix.len(), param.len(), "freeze: {} elements are not [{}, {}]", matrix.len(), param.rows, param.cols);
        weights.packed = Shadow::default();
        weights.set(self, param.offset, &matrix.values());
    }
}

/// A number read back.
pub(crate) fn read_f64(cuda: &Cuda, buffer: &Buffer) -> f64 {
    let mut value = [0.0f64];
    cuda.download(buffer.address(), bytemuck::cast_slice_mut(&mut value));
    value[0]
}

/// A tensor as an operand of products.
pub(crate) fn matrix(view: &View<'_, Cuda>) -> Matrix {
    Matrix::new(view.buffer.address(), view.dtype, view.rows, view.cols)
}

/// A tensor as the result of a product.
pub(crate) fn matrix_mut(view: &ViewMut<'_, Cuda>) -> Matrix {
    Matrix::new(view.buffer.address(), view.dtype, view.rows, view.cols)
}

/// What stood at the target counts this much.
pub(crate) fn beta(write: Write) -> f32 {
    if write == Write::Add { 1.0 } else { 0.0 }
}

/// The address of a tensor, 0 without one.
pub(crate) fn address(view: Option<&View<'_, Cuda>>) -> u64 {
    view.map_or(0, |v| v.buffer.address())
}

/// The address of a tensor to write, 0 without one.
pub(crate) fn address_mut(view: Option<&ViewMut<'_, Cuda>>) -> u64 {
    view.map_or(0, |v| v.buffer.address())
}

/// The address of a parameter's master weights, 0 without one.
pub(crate) fn master(weights: &Weights<Cuda>, param: Option<Param>) -> u64 {
    param.map_or(0, |p| weights.flat().at(p.offset))
}

/// The device's starts of a packed batch.
pub(crate) fn starts(layout: &Packed<Cuda>) -> u64 {
    layout.starts.address()
}
