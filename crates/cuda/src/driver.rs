//! What the backend asks of a device: memory, copies, launches, matrix products.

use std::hash::{Hash, Hasher};

use cloze_tensor::Dtype;

use crate::CudaError;

/// Which compilation of a kernel file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The element kind of activations.
    pub dtype: Dtype,
    /// The head dimension that attention's tiles are made for; 0 in other files.
    pub head_dim: usize,
    /// Whether attention's scores have a bias by distance.
    pub biased: bool,
}

/// A kernel by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// Its file under `kernels/`, without `.cu`.
    pub file: &'static str,
    /// The function.
    pub name: &'static str,
    /// The compilation.
    pub variant: Variant,
}

/// A kernel over a grid.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// Which kernel.
    pub kernel: Kernel,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory of a block.
    pub shared: u32,
    /// The one parameter, by value.
    pub parameters: Vec<u8>,
}

impl Launch {
    /// All but the values of its parameters.
    fn shape(&self) -> (Kernel, [u32; 3], u32, u32, usize) {
        (self.kernel, self.grid, self.threads, self.shared, self.parameters.len())
    }
}

/// A row-major matrix on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Matrix {
    /// Its first element.
    pub address: u64,
    /// Element kind.
    pub dtype: Dtype,
    /// Rows as it stands in memory.
    pub rows: usize,
    /// Columns as it stands in memory.
    pub cols: usize,
    /// Elements from one row to the next.
    pub pitch: usize,
    /// Whether the product takes its transpose.
    pub transposed: bool,
}

impl Matrix {
    /// A dense matrix as it stands.
    pub fn new(address: u64, dtype: Dtype, rows: usize, cols: usize) -> Self {
        Self { address, dtype, rows, cols, pitch: cols, transposed: false }
    }

    /// The same memory, taken as its transpose.
    pub fn transposed(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    /// The same with rows further apart.
    pub fn with_pitch(self, pitch: usize) -> Self {
        Self { pitch, ..self }
    }

    /// Rows and columns as the product sees them.
    pub fn shape(&self) -> (usize, usize) {
        if self.transposed { (self.cols, self.rows) } else { (self.rows, self.cols) }
    }
}

/// What a product does besides multiplying. Addresses are of dense vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Epilogue {
    /// Nothing.
    None,
    /// Adds a row to every row of the result; elements of the result's kind. // `[cols]`
    Bias(u64),
    /// Adds a row, keeps that sum in `pre` (the result's shape, kind and pitch), and applies GELU in its tanh form.
    BiasGeluTanh {
        /// // `[cols]`, elements of the result's kind
        bias: u64,
        /// Receives the sum.
        pre: u64,
    },
    /// Also writes the sums of op(a)'s rows over the inner dimension, as f32: of dW = dzᵀ·x the gradient of the bias. // `[rows]`
    RowSums(u64),
}

/// c = a·b + beta·c, summed in f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Product {
    /// Left operand.
    pub a: Matrix,
    /// Right operand, of the same kind.
    pub b: Matrix,
    /// The result, as it stands.
    pub c: Matrix,
    /// What was there counts this much; with 0 it is not read.
    pub beta: f32,
    /// What else is done.
    pub epilogue: Epilogue,
}

impl Product {
    /// c = a·b + beta·c.
    ///
    /// # Panics
    /// If the shapes disagree.
    pub fn new(a: Matrix, b: Matrix, c: Matrix, beta: f32) -> Self {
        let (m, k, n) = (a.shape().0, a.shape().1, b.shape().1);
        assert!(b.shape().0 == k && c.shape() == (m, n), "product: {:?} · {:?} is not {:?}", a.shape(), b.shape(), c.shape());
        assert!(a.dtype == b.dtype && !c.transposed, "product: operands of {:?} and {:?}", a.dtype, b.dtype);
        Self { a, b, c, beta, epilogue: Epilogue::None }
    }

    /// With an epilogue.
    pub fn with(self, epilogue: Epilogue) -> Self {
        Self { epilogue, ..self }
    }
}

/// Work of a device, by value.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Memory is handed out for a use of so many bytes, contents unspecified. A driver for tests fills it, others have nothing to do.
    Renew {
        /// Where.
        address: u64,
        /// How many.
        bytes: usize,
    },
    /// Zeros.
    Clear {
        /// Where.
        address: u64,
        /// How many.
        bytes: usize,
    },
    /// From one place to another; they do not overlap.
    Copy {
        /// From here.
        from: u64,
        /// To there.
        to: u64,
        /// How many.
        bytes: usize,
    },
    /// A kernel.
    Launch(Launch),
    /// A matrix product.
    Multiply(Product),
}

impl Command {
    /// The launch, if it is one.
    pub fn launch(&self) -> Option<&Launch> {
        if let Command::Launch(launch) = self { Some(launch) } else { None }
    }

    /// Whether a device has something to do.
    pub fn is_work(&self) -> bool {
        !matches!(self, Command::Renew { .. })
    }

    /// Whether the two differ in nothing but the parameters of a kernel.
    pub fn has_shape_of(&self, other: &Command) -> bool {
        match (self, other) {
            (Command::Launch(a), Command::Launch(b)) => a.shape() == b.shape(),
            _ => self == other,
        }
    }

    /// Take the command in without the parameters of its kernel.
    pub fn hash_shape(&self, hasher: &mut impl Hasher) {
        std::mem::discriminant(self).hash(hasher);
        match self {
            Command::Renew { address, bytes } | Command::Clear { address, bytes } => (address, bytes).hash(hasher),
            Command::Copy { from, to, bytes } => (from, to, bytes).hash(hasher),
            Command::Launch(launch) => launch.shape().hash(hasher),
            Command::Multiply(Product { a, b, c, beta, epilogue }) => {
                (a, b, c, beta.to_bits(), epilogue).hash(hasher);
            }
        }
    }
}

/// A device. All work is done in the order of the calls; calls return before it is done, [`Driver::download`] after.
///
/// # Safety of the calls
/// Addresses are plain numbers. A caller vouches that they point into memory that this driver has handed out, that it is not given back,
/// that it is as large as the call takes it to be, and that what it writes is borrowed by nobody else. The backend's
/// buffers and their borrows see to that.
pub trait Driver: Send + Sync {
    /// What it is, for people.
    fn name(&self) -> String;

    /// Bytes free and in all.
    fn memory(&self) -> Result<(usize, usize), CudaError>;

    /// The most dynamic shared memory that a block may have, in bytes.
    fn shared_limit(&self) -> usize;

    /// Memory at a multiple of 256 bytes; [`CudaError::OutOfMemory`] when there is none.
    fn allocate(&self, bytes: usize) -> Result<u64, CudaError>;

    /// Give memory back.
    ///
    /// # Safety
    /// `address` is of [`Driver::allocate`], and nothing uses it any more.
    unsafe fn release(&self, address: u64);

    /// Do something.
    ///
    /// # Safety
    /// As at [`Driver`], for all addresses of the command; the parameters of a launch are those of its kernel.
    unsafe fn run(&self, command: &Command) -> Result<(), CudaError>;

    /// Make one piece of work of some commands, without doing them; `None` where that cannot be.
    fn capture(&self, commands: &[Command]) -> Result<Option<u64>, CudaError> {
        let _ = commands;
        Ok(None)
    }

    /// Do what was captured, with other parameters in some launches from now on: (which command, what it is).
    ///
    /// # Safety
    /// As at [`Driver::run`], for all commands; `graph` is of [`Driver::capture`] and was not given back. A change is in nothing but parameters.
    unsafe fn replay(&self, graph: u64, changes: &[(usize, &Launch)]) -> Result<(), CudaError> {
        let _ = (graph, changes);
        Ok(())
    }

    /// Give a graph back.
    ///
    /// # Safety
    /// As at [`Driver::replay`].
    unsafe fn forget(&self, graph: u64) {
        let _ = graph;
    }

    /// From the host's ordinary memory; `from` may be used again at once. The device may be waited for.
    ///
    /// # Safety
    /// As at [`Driver`].
    unsafe fn upload(&self, address: u64, from: &[u8]) -> Result<(), CudaError>;

    /// To the host, after all work before it.
    ///
    /// # Safety
    /// As at [`Driver`].
    unsafe fn download(&self, address: u64, to: &mut [u8]) -> Result<(), CudaError>;

    /// Memory of the host that the device copies from and to by itself; `None` where there is none.
    fn pin(&self, bytes: usize) -> Option<u64> {
        let _ = bytes;
        None
    }

    /// Give pinned memory back.
    ///
    /// # Safety
    /// `host` is of [`Driver::pin`], and neither the device nor the host uses it any more.
    unsafe fn unpin(&self, host: u64) {
        let _ = host;
    }

    /// From pinned memory to the device.
    ///
    /// # Safety
    /// As at [`Driver`]; `host` is pinned memory of at least `bytes`, which nobody writes until a later mark is reached.
    unsafe fn upload_pinned(&self, address: u64, host: u64, bytes: usize) -> Result<(), CudaError>;

    /// From the device to pinned memory, which holds the bytes once a later mark is reached.
    ///
    /// # Safety
    /// As at [`Driver`]; `host` is pinned memory of at least `bytes`, which nobody reads or writes until then.
    unsafe fn download_pinned(&self, address: u64, host: u64, bytes: usize) -> Result<(), CudaError>;

    /// A place in the order of the calls: behind all that came so far.
    fn mark(&self) -> Result<u64, CudaError>;

    /// Wait until the device has come to a place.
    ///
    /// # Safety
    /// `mark` is of [`Driver::mark`] and was not given back.
    unsafe fn wait(&self, mark: u64) -> Result<(), CudaError>;

    /// Give a place back.
    ///
    /// # Safety
    /// As at [`Driver::wait`].
    unsafe fn unmark(&self, mark: u64);

    /// Whether a product with this epilogue can be done in one call.
    fn supports(&self, product: &Product) -> bool;
}
