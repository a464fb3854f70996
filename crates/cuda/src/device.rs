//! The real device: the CUDA driver through cudarc, loaded when it is asked for.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cudarc::driver::{result, sys};

use crate::compile::{self, Compiler};
use crate::driver::{Command, Kernel, Launch, Product, Variant};
use crate::graph::Graph;
use crate::products::{self, Products, WORKSPACE};
use crate::{CudaError, Driver};

/// A GPU with one stream.
pub struct Gpu {
    device: sys::CUdevice,
    context: sys::CUcontext,
    pub(crate) stream: sys::CUstream,
    name: String,
    shared_limit: usize,
    compiler: Compiler,
    loaded: Mutex<Loaded>,
    /// `None` only while the device is dropped.
    products: Mutex<Option<Products>>,
    workspace: u64,
    /// Events that mark nothing at the moment.
    events: Mutex<Vec<sys::CUevent>>,
    graphs: Mutex<Graphs>,
}

// SAFETY: contexts, streams and modules may be used from any thread on which the context is current; every method makes it so first.
unsafe impl Send for Gpu {}
// SAFETY: as above; what changes is behind mutexes, and the driver's own calls are thread-safe.
unsafe impl Sync for Gpu {}

/// What has been compiled and loaded.
#[derive(Default)]
struct Loaded {
    modules: HashMap<(&'static str, Variant), sys::CUmodule>,
    /// Each with the dynamic shared memory that it may have.
    functions: HashMap<Kernel, (sys::CUfunction, u32)>,
}

/// Graphs by number.
#[derive(Default)]
struct Graphs {
    held: HashMap<u64, Graph>,
    next: u64,
}

/// Shared memory that a kernel has without being allowed more.
const SHARED: u32 = 48 << 10;

pub(crate) fn failed(call: &'static str) -> impl Fn(result::DriverError) -> CudaError {
    move |e| CudaError::Call { call, problem: format!("{e:?}") }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gpu {
    /// How many devices there are; 0 where there is no driver.
    pub fn count() -> usize {
        // SAFETY: loading the driver's library runs nothing but its initialisers.
        if !unsafe { sys::is_culib_present() } || result::init().is_err() {
            return 0;
        }
        result::device::get_count().map_or(0, |n| usize::try_from(n).unwrap_or(0))
    }

    /// Open device `index`.
    ///
    /// # Errors
    /// When a library, the device or what it must be able to do is missing.
    pub fn open(index: usize) -> Result<Self, CudaError> {
        compile::load_libraries();
        // SAFETY: as in `count`.
        if !unsafe { sys::is_culib_present() } {
            return Err(CudaError::Library { library: "libcuda (the NVIDIA driver)" });
        }
        let count = Self::count();
        if index >= count {
            return Err(CudaError::NoDevice { index, count });
        }
        if !products::is_present() {
            return Err(CudaError::Library { library: "libcublasLt" });
        }
        let device = result::device::get(i32::try_from(index).unwrap_or(i32::MAX)).map_err(failed("cuDeviceGet"))?;
        let name = result::device::get_name(device).map_err(failed("cuDeviceGetName"))?;
        use sys::CUdevice_attribute_enum as A;
        // SAFETY: the device is one of the driver's.
        let attribute = |a| unsafe { result::device::get_attribute(device, a) }.map_err(failed("cuDeviceGetAttribute"));
        let major = attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let shared = attribute(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        if major < 8 {
            return Err(CudaError::TooOld { name, major, minor });
        }
        let suffix = if (major, minor) == (9, 0) { "a" } else { "" };
        let compiler = Compiler::new(format!("sm_{major}{minor}{suffix}"))?;
        // SAFETY: the primary context is retained here and released when the device is dropped.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(failed("cuDevicePrimaryCtxRetain"))?;
        // SAFETY: the context was just retained.
        unsafe { result::ctx::set_current(context) }.map_err(failed("cuCtxSetCurrent"))?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking).map_err(failed("cuStreamCreate"))?;
        // SAFETY: the memory is used by cuBLASLt alone, which does not read what it has not written.
        let workspace = unsafe { result::malloc_sync(WORKSPACE) }.map_err(failed("cuMemAlloc"))?;
        let products = Mutex::new(Some(Products::new(workspace, stream, &name, compile::cache())?));
        let shared_limit = usize::try_from(shared).unwrap_or(SHARED as usize);
        Ok(Self {
            device,
            context,
            stream,
            name,
            shared_limit,
            compiler,
            loaded: Mutex::default(),
            products,
            workspace,
            events: Mutex::default(),
            graphs: Mutex::default(),
        })
    }

    /// Make the context that of this thread.
    fn enter(&self) -> Result<(), CudaError> {
        // SAFETY: the context lives as long as `self`.
        unsafe { result::ctx::set_current(self.context) }.map_err(failed("cuCtxSetCurrent"))
    }

    pub(crate) fn function(&self, launch: &Launch) -> Result<sys::CUfunction, CudaError> {
        let kernel = launch.kernel;
        let mut loaded = lock(&self.loaded);
        let (function, mut allowed) = match loaded.functions.get(&kernel) {
            Some(known) => *known,
            None => {
                let key = (kernel.file, kernel.variant);
                let module = match loaded.modules.get(&key) {
                    Some(module) => *module,
                    None => {
                        let cubin = self.compiler.cubin(kernel.file, kernel.variant)?;
                        // SAFETY: a whole cubin for this architecture; the driver checks and copies it.
                        let module = unsafe { result::module::load_data(cubin.as_ptr().cast()) }.map_err(failed("cuModuleLoadData"))?;
                        loaded.modules.insert(key, module);
                        module
                    }
                };
                let name = CString::new(kernel.name).unwrap_or_default();
                // SAFETY: modules stay loaded as long as `self`.
                let function = unsafe { result::module::get_function(module, name) }.map_err(failed("cuModuleGetFunction"))?;
                (function, SHARED)
            }
        };
        if launch.shared > allowed {
            let most = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function exists.
            unsafe { result::function::set_function_attribute(function, most, i32::try_from(launch.shared).unwrap_or(i32::MAX)) }
                .map_err(failed("cuFuncSetAttribute"))?;
            allowed = launch.shared;
        }
        loaded.functions.insert(kernel, (function, allowed));
        Ok(function)
    }

    /// # Safety
    /// As at [`Driver::run`].
    unsafe fn launch(&self, launch: &Launch) -> Result<(), CudaError> {
        let function = self.function(launch)?;
        let [x, y, z] = launch.grid;
        let mut parameters = [launch.parameters.as_ptr().cast_mut().cast::<c_void>()];
        // SAFETY: the caller's; the driver reads the parameters before the call returns.
        unsafe { result::launch_kernel(function, (x, y, z), (launch.threads, 1, 1), launch.shared, self.stream, &mut parameters) }
            .map_err(failed(launch.kernel.name))
    }

    /// # Safety
    /// As at [`Driver::run`].
    unsafe fn multiply(&self, product: &Product) -> Result<(), CudaError> {
        let mut products = lock(&self.products);
        let Some(products) = products.as_mut() else { return Err(CudaError::Library { library: "libcublasLt" }) };
        // SAFETY: the caller's.
        unsafe { products.multiply(product) }
    }

    /// Whether the algorithm of a product is known.
    pub(crate) fn is_planned(&self, product: &Product) -> bool {
        lock(&self.products).as_ref().is_some_and(|p| p.is_planned(product))
    }

    /// Do a command, or have it captured.
    ///
    /// # Safety
    /// As at [`Driver::run`]; the context is that of this thread.
    pub(crate) unsafe fn perform(&self, command: &Command) -> Result<(), CudaError> {
        // SAFETY: the caller's.
        unsafe {
            match *command {
                Command::Renew { .. } => Ok(()),
                Command::Clear { address, bytes } => {
                    result::memset_d8_async(address, 0, bytes, self.stream).map_err(failed("cuMemsetD8Async"))
                }
                Command::Copy { from, to, bytes } => {
                    result::memcpy_dtod_async(to, from, bytes, self.stream).map_err(failed("cuMemcpyDtoDAsync"))
                }
                Command::Launch(ref launch) => self.launch(launch),
                Command::Multiply(ref product) => self.multiply(product),
            }
        }
    }
}

impl Driver for Gpu {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn memory(&self) -> Result<(usize, usize), CudaError> {
        self.enter()?;
        result::mem_get_info().map_err(failed("cuMemGetInfo"))
    }

    fn shared_limit(&self) -> usize {
        self.shared_limit
    }

    fn allocate(&self, bytes: usize) -> Result<u64, CudaError> {
        self.enter()?;
        // SAFETY: memory without contents; who takes it writes before reading.
        unsafe { result::malloc_sync(bytes) }.map_err(|e| match e.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                let (free, total) = result::mem_get_info().unwrap_or_default();
                CudaError::OutOfMemory { bytes, held: 0, free, total }
            }
            _ => failed("cuMemAlloc")(e),
        })
    }

    unsafe fn release(&self, address: u64) {
        if self.enter().is_ok() {
            // SAFETY: the caller's; the driver waits for work that is under way.
            let _ = unsafe { result::free_sync(address) };
        }
    }

    unsafe fn run(&self, command: &Command) -> Result<(), CudaError> {
        self.enter()?;
        // SAFETY: the caller's.
        unsafe { self.perform(command) }
    }

    fn capture(&self, commands: &[Command]) -> Result<Option<u64>, CudaError> {
        self.enter()?;
        let Some(graph) = self.captured(commands)? else { return Ok(None) };
        let mut graphs = lock(&self.graphs);
        graphs.next += 1;
        let number = graphs.next;
        graphs.held.insert(number, graph);
        Ok(Some(number))
    }

    unsafe fn replay(&self, graph: u64, changes: &[(usize, &Launch)]) -> Result<(), CudaError> {
        self.enter()?;
        let graphs = lock(&self.graphs);
        let Some(graph) = graphs.held.get(&graph) else {
            return Err(CudaError::Call { call: "cuGraphLaunch", problem: "a graph that was given back".into() });
        };
        // SAFETY: the caller's.
        unsafe { self.restart(graph, changes) }
    }

    unsafe fn forget(&self, graph: u64) {
        if self.enter().is_ok() {
            // SAFETY: the stream lives as long as `self`. The graph may still run.
            let _ = unsafe { result::stream::synchronize(self.stream) };
            lock(&self.graphs).held.remove(&graph);
        }
    }

    unsafe fn upload(&self, address: u64, from: &[u8]) -> Result<(), CudaError> {
        self.enter()?;
        // SAFETY: the caller's. From memory that is not pinned the driver has taken its copy when the call returns.
        unsafe { result::memcpy_htod_async(address, from, self.stream) }.map_err(failed("cuMemcpyHtoDAsync"))
    }

    unsafe fn download(&self, address: u64, to: &mut [u8]) -> Result<(), CudaError> {
        self.enter()?;
        if !to.is_empty() {
            // SAFETY: the caller's; `to` is borrowed until the stream has come here.
            unsafe { result::memcpy_dtoh_async(to, address, self.stream) }.map_err(failed("cuMemcpyDtoHAsync"))?;
        }
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::synchronize(self.stream) }.map_err(failed("cuStreamSynchronize"))
    }

    fn pin(&self, bytes: usize) -> Option<u64> {
        self.enter().ok()?;
        // SAFETY: memory without contents; who takes it writes before reading.
        unsafe { result::malloc_host(bytes, 0) }.ok().map(|host| host as u64)
    }

    unsafe fn unpin(&self, host: u64) {
        if self.enter().is_ok() {
            // SAFETY: the caller's.
            let _ = unsafe { result::free_host(host as *mut c_void) };
        }
    }

    unsafe fn upload_pinned(&self, address: u64, host: u64, bytes: usize) -> Result<(), CudaError> {
        self.enter()?;
        // SAFETY: the caller's: nobody writes this memory until a later mark is reached.
        unsafe { result::memcpy_htod_async(address, std::slice::from_raw_parts(host as *const u8, bytes), self.stream) }
            .map_err(failed("cuMemcpyHtoDAsync"))
    }

    unsafe fn download_pinned(&self, address: u64, host: u64, bytes: usize) -> Result<(), CudaError> {
        self.enter()?;
        // SAFETY: the caller's: nobody else has this memory until a later mark is reached.
        unsafe { result::memcpy_dtoh_async(std::slice::from_raw_parts_mut(host as *mut u8, bytes), address, self.stream) }
            .map_err(failed("cuMemcpyDtoHAsync"))
    }

    fn mark(&self) -> Result<u64, CudaError> {
        self.enter()?;
        let waiting = lock(&self.events).pop();
        let new = || result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).map_err(failed("cuEventCreate"));
        let event = waiting.map_or_else(new, Ok)?;
        // SAFETY: event and stream live as long as `self`.
        unsafe { result::event::record(event, self.stream) }.map_err(failed("cuEventRecord"))?;
        Ok(event as u64)
    }

    unsafe fn wait(&self, mark: u64) -> Result<(), CudaError> {
        self.enter()?;
        // SAFETY: the caller's: an event of `mark`.
        unsafe { result::event::synchronize(mark as sys::CUevent) }.map_err(failed("cuEventSynchronize"))
    }

    unsafe fn unmark(&self, mark: u64) {
        lock(&self.events).push(mark as sys::CUevent);
    }

    fn supports(&self, product: &Product) -> bool {
        self.enter().is_ok() && lock(&self.products).as_mut().is_some_and(|p| p.supports(product))
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        if self.enter().is_err() {
            return;
        }
        // SAFETY: all of these were made by `self`, and nothing of it is used after this.
        unsafe {
            let _ = result::stream::synchronize(self.stream);
            lock(&self.graphs).held.clear();
            drop(lock(&self.products).take());
            for (_, module) in lock(&self.loaded).modules.drain() {
                let _ = result::module::unload(module);
            }
            for event in lock(&self.events).drain(..) {
                let _ = result::event::destroy(event);
            }
            let _ = result::free_sync(self.workspace);
            let _ = result::stream::destroy(self.stream);
            let _ = result::primary_ctx::release(self.device);
        }
    }
}
