//! An emulated device: memory is the host's, kernels are compiled by a C++ compiler with emulate.h, products are plain loops.

use std::alloc::Layout;
use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use cloze_cuda::compile::{HEADERS, KERNELS, definitions};
use cloze_cuda::driver::{Epilogue, Launch, Matrix, Product, Variant};
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
}

impl Default for Options {
    fn default() -> Self {
        Self { reversed: false, epilogues: true, shared_limit: 227 << 10 }
    }
}

pub(crate) fn with(options: Options) -> Option<Cuda> {
    if compiler().is_none() {
        println!("skipped: no C++ compiler");
        return None;
    }
    Some(Cuda::with_driver(Arc::new(Emulated { options, blocks: Mutex::default() })))
}

/// The C++ compiler of this machine.
fn compiler() -> Option<&'static str> {
    static FOUND: OnceLock<Option<String>> = OnceLock::new();
    let runs = |name: &String| Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success());
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
        let mut command = Command::new(compiler);
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
        if let Some(block) = self.blocks().remove(&address) {
            // SAFETY: allocated above with this layout.
            unsafe { std::alloc::dealloc(address as *mut u8, layout(block.size)) };
        }
    }

    unsafe fn renew(&self, address: u64, bytes: usize) {
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

    unsafe fn clear(&self, address: u64, bytes: usize) -> Result<(), CudaError> {
        // SAFETY: the caller's.
        unsafe { std::ptr::write_bytes(address as *mut u8, 0, bytes) };
        Ok(())
    }

    unsafe fn upload(&self, address: u64, from: &[u8]) -> Result<(), CudaError> {
        // SAFETY: the caller's.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), address as *mut u8, from.len()) };
        Ok(())
    }

    unsafe fn download(&self, address: u64, to: &mut [u8]) -> Result<(), CudaError> {
        if !to.is_empty() {
            // SAFETY: the caller's.
            unsafe { std::ptr::copy_nonoverlapping(address as *const u8, to.as_mut_ptr(), to.len()) };
        }
        Ok(())
    }

    unsafe fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<(), CudaError> {
        // SAFETY: the caller's.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, bytes) };
        Ok(())
    }

    unsafe fn launch(&self, launch: &Launch) -> Result<(), CudaError> {
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
            let start: Symbol<Start> = library.get("emulate_launch").unwrap();
            let (grid, reversed) = (launch.grid.as_ptr(), i32::from(self.options.reversed));
            let failure = start(*run, launch.parameters.as_ptr(), grid, launch.threads, launch.shared, reversed);
            (!failure.is_null()).then(|| std::ffi::CStr::from_ptr(failure).to_string_lossy().into_owned())
        };
        self.check(kernel.name);
        failure.map_or(Ok(()), |problem| Err(CudaError::Call { call: kernel.name, problem }))
    }

    fn supports(&self, product: &Product) -> bool {
        // cuBLASLt wants the rows of the kept sums at multiples of eight elements.
        let aligned = !matches!(product.epilogue, Epilogue::BiasGeluTanh { .. }) || product.c.pitch.is_multiple_of(8);
        product.epilogue == Epilogue::None || (self.options.epilogues && aligned)
    }

    unsafe fn multiply(&self, product: &Product) -> Result<(), CudaError> {
        assert!(self.supports(product));
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
        Ok(())
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
