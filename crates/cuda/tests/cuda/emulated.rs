//! An emulated device: memory is the host's, kernels are compiled by a C++ compiler with emulate.h, products are plain loops.
//!
//! What it is asked for it does when somebody waits for it, not before: who reads or changes pinned memory too early, sees it.

use std::alloc::Layout;
use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::process;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use cloze_cuda::compile::{HEADERS, KERNELS, definitions};
use cloze_cuda::driver::{Command, Epilogue, Launch, Matrix, Product, Variant};
use cloze_cuda::{Cuda, CudaError, Driver};
use cloze_tensor::Dtype;
use half::bf16;
use libloading::{Library, Symbol};
use sha2::{Digest, Sha256};

const EMULATE: &str = include_str!("emulate.h");

/// A backend on an emulated device.
pub(crate) fn open() -> Option<Cuda> {
    with(Options::default())
}

/// How the emulation goes about it; results must not depend on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Threads and blocks in reverse order.
    pub(crate) reversed: bool,
    /// Products have epilogues.
    pub(crate) epilogues: bool,
    /// Bytes of shared memory that a block may have.
    pub(crate) shared_limit: usize,
    /// Stretches of commands are captured and replayed.
    pub(crate) graphs: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { reversed: false, epilogues: true, shared_limit: 227 << 10, graphs: true }
    }
}

pub(crate) fn with(options: Options) -> Option<Cuda> {
    device(options).map(|device| Cuda::with_driver(device))
}

/// The device itself.
pub(crate) fn device(options: Options) -> Option<Arc<Emulated>> {
    if compiler().is_none() {
        println!("skipped: no C++ compiler");
        return None;
    }
    Some(Arc::new(Emulated::new(options)))
}

/// The C++ compiler of this machine.
fn compiler() -> Option<&'static str> {
    static FOUND: OnceLock<Option<String>> = OnceLock::new();
    let runs = |name: &String| process::Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success());
    FOUND.get_or_init(|| std::env::var("CXX").into_iter().chain(["g++", "clang++"].map(String::from)).find(runs)).as_deref()
}

type Libraries = HashMap<(&'static str, Variant), Library>;

/// The kernels compiled so far. A library's state is global, so launches of all devices take turns.
fn libraries() -> MutexGuard<'static, Libraries> {
    static LIBRARIES: OnceLock<Mutex<Libraries>> = OnceLock::new();
    LIBRARIES.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

/// Compile a kernel file, or find it compiled: the folder's name is the hash of all that goes in.
fn compile(file: &'static str, variant: Variant) -> Library {
    let compiler = compiler().expect("asked for before");
    // Rounding as written: no contraction to fused multiply-adds. No C++ headers are needed, and without them it is quick.
    let mut flags: Vec<String> =
        "-std=c++17 -O1 -w -fPIC -shared -nostdinc++ -ffp-contract=off -fno-stack-protector -U_FORTIFY_SOURCE -DCLOZE_EMULATED"
            .split(' ')
            .map(String::from)
            .collect();
    flags.extend(definitions(variant));
    let mut hash = Sha256::new();
    for text in KERNELS.iter().chain(HEADERS).map(|(_, text)| *text).chain([EMULATE, compiler]).chain(flags.iter().map(String::as_str)) {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    let name: String = hash.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect();
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("cuda").join(name);
    let library = folder.join(format!("{file}.so"));
    if !library.exists() {
        std::fs::create_dir_all(&folder).unwrap();
        for (name, text) in KERNELS.iter().chain(HEADERS).chain(&[("emulate.h", EMULATE)]) {
            std::fs::write(folder.join(name), text).unwrap();
        }
        let beside = folder.join(format!("{file}.{}", std::process::id()));
        let mut command = process::Command::new(compiler);
        command.args(&flags).arg("-x").arg("c++").arg(folder.join(format!("{file}.cu"))).arg("-o").arg(&beside);
        let output = command.arg("-lm").output().unwrap();
        assert!(output.status.success(), "{file}.cu, {variant:?}:\n{}", String::from_utf8_lossy(&output.stderr));
        std::fs::rename(beside, &library).unwrap();
    }
    // SAFETY: compiled from our own text, without initialisers.
    unsafe { Library::new(library).unwrap() }
}

/// A device on the host.
pub(crate) struct Emulated {
    options: Options,
    blocks: Mutex<HashMap<u64, Block>>,
    /// Pinned memory and its size.
    pinned: Mutex<HashMap<u64, usize>>,
    queue: Mutex<Queue>,
    graphs: Mutex<Graphs>,
}

/// What was captured, and how often it came back.
#[derive(Default)]
struct Graphs {
    held: HashMap<u64, Vec<Command>>,
    captured: u64,
    replayed: u64,
    /// Launches with other parameters.
    changed: u64,
}

/// What waits to be done, and how much was done before.
#[derive(Default)]
struct Queue {
    waiting: VecDeque<Work>,
    done: u64,
}

/// What the device was asked for.
#[derive(Clone)]
enum Work {
    Command(Command),
    Upload(u64, Vec<u8>),
    UploadPinned { address: u64, host: u64, bytes: usize },
    DownloadPinned { address: u64, host: u64, bytes: usize },
}

#[derive(Clone, Copy)]
struct Block {
    size: usize,
    /// What is in use of it; what follows must stay as it is.
    used: usize,
}

/// Bytes after a block, and what stands in all that is not in use.
const BEYOND: usize = 256;
const UNTOUCHED: u8 = 0xa5;

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size + BEYOND, 512).unwrap()
}

impl Emulated {
    fn new(options: Options) -> Self {
        let (blocks, pinned, queue, graphs) = (Mutex::default(), Mutex::default(), Mutex::default(), Mutex::default());
        Self { options, blocks, pinned, queue, graphs }
    }

    /// Graphs that are held, that were captured and replayed, and launches that were changed.
    pub(crate) fn graphs(&self) -> [u64; 4] {
        let graphs = self.graphs.lock().unwrap_or_else(PoisonError::into_inner);
        [graphs.held.len() as u64, graphs.captured, graphs.replayed, graphs.changed]
    }

    fn ask(&self, work: Work) -> Result<(), CudaError> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).waiting.push_back(work);
        Ok(())
    }

    /// Do what was asked for, up to a mark.
    fn come_to(&self, mark: u64) -> Result<(), CudaError> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        while queue.done < mark
            && let Some(work) = queue.waiting.pop_front()
        {
            queue.done += 1;
            // SAFETY: who asked for it vouched for its addresses, and whoever got them later asked later.
            unsafe { self.work(&work) }?;
        }
        Ok(())
    }

    unsafe fn work(&self, work: &Work) -> Result<(), CudaError> {
        // SAFETY: the caller's.
        unsafe {
            match work {
                Work::Command(command) => return self.perform(command),
                Work::Upload(address, from) => std::ptr::copy_nonoverlapping(from.as_ptr(), *address as *mut u8, from.len()),
                Work::UploadPinned { address, host, bytes } => {
                    assert!(self.is_pinned(*host, *bytes), "a copy from memory that is not pinned");
                    std::ptr::copy_nonoverlapping(*host as *const u8, *address as *mut u8, *bytes);
                }
                Work::DownloadPinned { address, host, bytes } => {
                    assert!(self.is_pinned(*host, *bytes), "a copy to memory that is not pinned");
                    std::ptr::copy_nonoverlapping(*address as *const u8, *host as *mut u8, *bytes);
                }
            }
        }
        Ok(())
    }

    unsafe fn perform(&self, command: &Command) -> Result<(), CudaError> {
        // SAFETY: the caller's.
        unsafe {
            match *command {
                Command::Renew { address, bytes } => self.fill(address, bytes),
                Command::Clear { address, bytes } => std::ptr::write_bytes(address as *mut u8, 0, bytes),
                Command::Copy { from, to, bytes } => std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, bytes),
                Command::Launch(ref launch) => return self.start(launch),
                Command::Multiply(ref product) => self.product(product),
            }
        }
        Ok(())
    }

    fn is_pinned(&self, host: u64, bytes: usize) -> bool {
        let pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        pinned.iter().any(|(&start, &size)| host >= start && host + bytes as u64 <= start + size as u64)
    }

    fn blocks(&self) -> MutexGuard<'_, HashMap<u64, Block>> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Panics if anything was written beyond a buffer.
    fn check(&self, what: &str) {
        for (&address, block) in self.blocks().iter() {
            // SAFETY: the block and the bytes after it are allocated.
            let rest = unsafe { std::slice::from_raw_parts((address as *const u8).add(block.used), block.size + BEYOND - block.used) };
            assert!(rest.iter().all(|&b| b == UNTOUCHED), "{what} wrote beyond a buffer of {} bytes", block.used);
        }
    }

    unsafe fn fill(&self, address: u64, bytes: usize) {
        let mut blocks = self.blocks();
        let block = blocks.get_mut(&address).expect("a block of this device");
        assert!(bytes <= block.size, "{bytes} bytes of a block of {}", block.size);
        block.used = bytes;
        // SAFETY: the block is that large. Its contents are NaN in every element kind: whoever reads what nobody wrote, sees it.
        unsafe {
            std::ptr::write_bytes(address as *mut u8, 0xff, bytes);
            std::ptr::write_bytes((address as *mut u8).add(bytes), UNTOUCHED, block.size + BEYOND - bytes);
        }
    }

    unsafe fn start(&self, launch: &Launch) -> Result<(), CudaError> {
        let (kernel, mut libraries) = (launch.kernel, libraries());
        let library = libraries.entry((kernel.file, kernel.variant)).or_insert_with(|| compile(kernel.file, kernel.variant));
        type Run = unsafe extern "C" fn(*const u8);
        type Start = unsafe extern "C" fn(Run, *const u8, *const u32, u32, u32, i32) -> *const std::ffi::c_char;
        // SAFETY: the symbols are those that KERNEL in emulate.h makes; the parameters are of the size that the kernel's struct has.
        let failure = unsafe {
            let size: Symbol<*const u32> = library.get(format!("{}_size", kernel.name)).unwrap();
            let threads: Symbol<*const u32> = library.get(format!("{}_threads", kernel.name)).unwrap();
            assert_eq!(launch.parameters.len(), **size as usize, "{}: the parameters differ from the kernel's", kernel.name);
            assert!(launch.threads <= **threads && launch.threads.is_multiple_of(32), "{}: {} threads", kernel.name, launch.threads);
            assert!(launch.shared as usize <= self.options.shared_limit, "{}: {} bytes of shared memory", kernel.name, launch.shared);
            let run: Symbol<Run> = library.get(format!("{}_run", kernel.name)).unwrap();
            let begin: Symbol<Start> = library.get("emulate_launch").unwrap();
            let (grid, reversed) = (launch.grid.as_ptr(), i32::from(self.options.reversed));
            let failure = begin(*run, launch.parameters.as_ptr(), grid, launch.threads, launch.shared, reversed);
            (!failure.is_null()).then(|| std::ffi::CStr::from_ptr(failure).to_string_lossy().into_owned())
        };
        self.check(kernel.name);
        failure.map_or(Ok(()), |problem| Err(CudaError::Call { call: kernel.name, problem }))
    }

    unsafe fn product(&self, product: &Product) {
        let (c, k) = (&product.c, product.a.shape().1);
        let (a, b) = (Self::operand(&product.a), Self::operand(&product.b.transposed()));
        for r in 0..c.rows {
            let row = &a[r * k..(r + 1) * k];
            for (j, col) in b.chunks_exact(k.max(1)).enumerate() {
                let at = r * c.pitch + j;
                let mut z: f32 = row.iter().zip(col).map(|(x, y)| x * y).sum();
                if product.beta != 0.0 {
                    z += product.beta * get(c.address, c.dtype, at);
                }
                match product.epilogue {
                    Epilogue::Bias(bias) => z += get(bias, c.dtype, j),
                    Epilogue::BiasGeluTanh { bias, pre } => {
                        z += get(bias, c.dtype, j);
                        put(pre, c.dtype, at, z);
                        z = 0.5 * z * (1.0 + (0.797_884_6 * (z + 0.044715 * z * z * z)).tanh());
                    }
                    Epilogue::None | Epilogue::RowSums(_) => {}
                }
                put(c.address, c.dtype, at, z);
            }
            if let Epilogue::RowSums(sums) = product.epilogue {
                put(sums, Dtype::F32, r, row.iter().sum());
            }
        }
        self.check("a product");
    }

    /// The matrix as the product sees it, row by row.
    fn operand(m: &Matrix) -> Vec<f32> {
        let (rows, cols) = m.shape();
        let at = |r: usize, c: usize| if m.transposed { c * m.pitch + r } else { r * m.pitch + c };
        (0..rows * cols).map(|i| get(m.address, m.dtype, at(i / cols, i % cols))).collect()
    }
}

fn get(address: u64, dtype: Dtype, i: usize) -> f32 {
    // SAFETY: the backend hands out addresses of live buffers, as large as the product says.
    unsafe {
        match dtype {
            Dtype::F32 => *(address as *const f32).add(i),
            Dtype::Bf16 => (*(address as *const bf16).add(i)).to_f32(),
        }
    }
}

fn put(address: u64, dtype: Dtype, i: usize, value: f32) {
    // SAFETY: as in `get`; what is written is borrowed by the caller alone.
    unsafe {
        match dtype {
            Dtype::F32 => *(address as *mut f32).add(i) = value,
            Dtype::Bf16 => *(address as *mut bf16).add(i) = bf16::from_f32(value),
        }
    }
}

impl Driver for Emulated {
    fn name(&self) -> String {
        format!("emulated, {:?}", self.options)
    }

    fn memory(&self) -> Result<(usize, usize), CudaError> {
        Ok((1 << 30, 1 << 30))
    }

    fn shared_limit(&self) -> usize {
        self.options.shared_limit
    }

    fn allocate(&self, bytes: usize) -> Result<u64, CudaError> {
        // SAFETY: the size is not 0.
        let address = unsafe { std::alloc::alloc(layout(bytes)) } as u64;
        self.blocks().insert(address, Block { size: bytes, used: 0 });
        // SAFETY: just allocated, with BEYOND bytes more.
        unsafe { std::ptr::write_bytes(address as *mut u8, UNTOUCHED, bytes + BEYOND) };
        Ok(address)
    }

    unsafe fn release(&self, address: u64) {
        let _ = self.come_to(u64::MAX);
        if let Some(block) = self.blocks().remove(&address) {
            // SAFETY: allocated above with this layout.
            unsafe { std::alloc::dealloc(address as *mut u8, layout(block.size)) };
        }
    }

    unsafe fn run(&self, command: &Command) -> Result<(), CudaError> {
        if let Command::Multiply(product) = command {
            assert!(self.supports(product));
        }
        self.ask(Work::Command(command.clone()))
    }

    fn capture(&self, commands: &[Command]) -> Result<Option<u64>, CudaError> {
        if !self.options.graphs {
            return Ok(None);
        }
        let mut graphs = self.graphs.lock().unwrap_or_else(PoisonError::into_inner);
        graphs.captured += 1;
        let number = graphs.captured;
        graphs.held.insert(number, commands.to_vec());
        Ok(Some(number))
    }

    unsafe fn replay(&self, graph: u64, changes: &[(usize, &Launch)]) -> Result<(), CudaError> {
        let mut graphs = self.graphs.lock().unwrap_or_else(PoisonError::into_inner);
        graphs.replayed += 1;
        graphs.changed += changes.len() as u64;
        let commands = graphs.held.get_mut(&graph).expect("a graph that was not given back");
        for (at, launch) in changes {
            let changed = Command::Launch((*launch).clone());
            assert!(commands[*at].has_shape_of(&changed), "a change of more than parameters");
            commands[*at] = changed;
        }
        commands.iter().try_for_each(|c| self.ask(Work::Command(c.clone())))
    }

    unsafe fn forget(&self, graph: u64) {
        self.graphs.lock().unwrap_or_else(PoisonError::into_inner).held.remove(&graph).expect("a graph is given back once");
    }

    unsafe fn upload(&self, address: u64, from: &[u8]) -> Result<(), CudaError> {
        self.ask(Work::Upload(address, from.to_vec()))
    }

    unsafe fn download(&self, address: u64, to: &mut [u8]) -> Result<(), CudaError> {
        self.come_to(u64::MAX)?;
        if !to.is_empty() {
            // SAFETY: the caller's.
            unsafe { std::ptr::copy_nonoverlapping(address as *const u8, to.as_mut_ptr(), to.len()) };
        }
        Ok(())
    }

    fn pin(&self, bytes: usize) -> Option<u64> {
        // SAFETY: the size is not 0.
        let host = unsafe { std::alloc::alloc(layout(bytes)) } as u64;
        // SAFETY: just allocated.
        unsafe { std::ptr::write_bytes(host as *mut u8, 0xff, bytes) };
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner).insert(host, bytes);
        Some(host)
    }

    unsafe fn unpin(&self, host: u64) {
        if let Some(size) = self.pinned.lock().unwrap_or_else(PoisonError::into_inner).remove(&host) {
            // SAFETY: allocated in `pin` with this layout.
            unsafe { std::alloc::dealloc(host as *mut u8, layout(size)) };
        }
    }

    unsafe fn upload_pinned(&self, address: u64, host: u64, bytes: usize) -> Result<(), CudaError> {
        self.ask(Work::UploadPinned { address, host, bytes })
    }

    unsafe fn download_pinned(&self, address: u64, host: u64, bytes: usize) -> Result<(), CudaError> {
        self.ask(Work::DownloadPinned { address, host, bytes })
    }

    fn mark(&self) -> Result<u64, CudaError> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(queue.done + queue.waiting.len() as u64)
    }

    unsafe fn wait(&self, mark: u64) -> Result<(), CudaError> {
        self.come_to(mark)
    }

    unsafe fn unmark(&self, _: u64) {}

    fn supports(&self, product: &Product) -> bool {
        // cuBLASLt wants the rows of the kept sums at multiples of eight elements.
        let aligned = !matches!(product.epilogue, Epilogue::BiasGeluTanh { .. }) || product.c.pitch.is_multiple_of(8);
        product.epilogue == Epilogue::None || (self.options.epilogues && aligned)
    }
}

impl Drop for Emulated {
    fn drop(&mut self) {
        for (address, block) in self.blocks().drain() {
            // SAFETY: allocated in `allocate` with this layout.
            unsafe { std::alloc::dealloc(address as *mut u8, layout(block.size)) };
        }
    }
}
