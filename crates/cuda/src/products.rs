//! Matrix products by cuBLASLt. It thinks in columns: a row-major matrix is its transpose there, so C = A·B is asked for as Cᵀ = Bᵀ·Aᵀ.
//!
//! cuBLASLt proposes algorithms, its favourite first. Where a choice can be kept on disk ([`Choices`]) they are timed on the device, with
//! results that go to scratch, and the fastest is taken; else the first proposal. Split-K with a sum in place is excluded: it adds in
//! the order in which blocks end.

use std::collections::HashMap;
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::path::PathBuf;

use cloze_tensor::Dtype;
use cudarc::cublaslt::{result as lt, sys};
use cudarc::driver::{result, sys as cu};

use crate::CudaError;
use crate::choices::{Choices, alignment, fastest, problem};
use crate::driver::{Epilogue, Matrix, Product};

/// Bytes of scratch that algorithms may use.
pub(crate) const WORKSPACE: usize = 32 << 20;

/// How many proposals are timed.
const PROPOSALS: usize = 16;

/// Products that are timed together, and how often; the shortest counts, and one before them warms up.
const RUNS: (u32, u32) = (4, 3);

/// What a plan depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    matrices: [(Dtype, usize, usize, usize, bool); 3],
    /// Of a, b, c, and of the epilogue's vectors; at most 16.
    alignments: [u32; 4],
    reads: bool,
    epilogue: u8,
}

impl Key {
    fn of(p: &Product) -> Self {
        let matrix = |m: &Matrix| (m.dtype, m.rows, m.cols, m.pitch, m.transposed);
        let (epilogue, vector) = match p.epilogue {
            Epilogue::None => (0, 0),
            Epilogue::Bias(bias) => (1, bias),
            Epilogue::BiasGeluTanh { bias, pre } => (2, bias | pre),
            Epilogue::RowSums(sums) => (3, sums),
        };
        let addresses = [p.a.address, p.b.address, p.c.address, vector];
        let alignments = addresses.map(alignment);
        Self { matrices: [&p.a, &p.b, &p.c].map(matrix), alignments, reads: p.beta != 0.0, epilogue }
    }
}

/// How a kind of product is asked for.
struct Plan {
    operation: sys::cublasLtMatmulDesc_t,
    /// Of b, a, c as cuBLASLt sees them.
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    algorithm: sys::cublasLtMatmulAlgo_t,
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: made by `plan`, destroyed once.
        unsafe {
            for layout in self.layouts {
                let _ = lt::destroy_matrix_layout(layout);
            }
            let _ = lt::destroy_matmul_desc(self.operation);
        }
    }
}

/// cuBLASLt on one device, with the plans made so far; `None` where it has no algorithm.
pub(crate) struct Products {
    handle: sys::cublasLtHandle_t,
    workspace: u64,
    stream: cu::CUstream,
    choices: Choices,
    plans: HashMap<Key, Option<Plan>>,
}

// SAFETY: streams, handles and descriptors of cuBLASLt are not bound to a thread, and a `Products` is used behind a mutex.
unsafe impl Send for Products {}

fn failed(call: &'static str) -> impl Fn(lt::CublasError) -> CudaError {
    move |e| CudaError::Call { call, problem: format!("{e:?}") }
}

fn kind(dtype: Dtype) -> sys::cudaDataType {
    match dtype {
        Dtype::F32 => sys::cudaDataType::CUDA_R_32F,
        Dtype::Bf16 => sys::cudaDataType::CUDA_R_16BF,
    }
}

/// Is the library there?
pub(crate) fn is_present() -> bool {
    // SAFETY: loading cuBLASLt runs nothing but its initialisers.
    unsafe { sys::is_culib_present() }
}

impl Products {
    /// On the current context; `workspace`: [`WORKSPACE`] bytes at a multiple of 256. Choices for `device` are kept in `folder`.
    pub(crate) fn new(workspace: u64, stream: cu::CUstream, device: &str, folder: Option<PathBuf>) -> Result<Self, CudaError> {
        let handle = lt::create_handle().map_err(failed("cublasLtCreate"))?;
        // SAFETY: a number of the library, which is loaded.
        let version = unsafe { sys::cublasLtGetVersion() };
        Ok(Self { handle, workspace, stream, choices: Choices::new(folder, device, version), plans: HashMap::new() })
    }

    fn plan(&mut self, p: &Product) -> Option<&Plan> {
        let key = Key::of(p);
        if !self.plans.contains_key(&key) {
            let made = self.make(p, &key).ok();
            self.plans.insert(key, made);
        }
        self.plans.get(&key)?.as_ref()
    }

    /// Whether the algorithm is known already: nothing is measured, and nothing but the product asked of the device.
    pub(crate) fn is_planned(&self, p: &Product) -> bool {
        self.plans.contains_key(&Key::of(p))
    }

    /// A plan with the algorithm that was chosen before, or is chosen now.
    fn make(&mut self, p: &Product, key: &Key) -> Result<Plan, CudaError> {
        let mut plan = describe(p)?;
        let problem = problem(p);
        if let Some(kept) = self.choices.get(&problem) {
            // Chosen for a neighbour, perhaps: what does not fit this very product is not taken for it, today or later.
            plan.algorithm.data = kept;
            if self.fits(&plan) {
                return Ok(plan);
            }
        }
        let proposals = proposals(self.handle, &plan, key)?;
        if self.choices.can_keep() && self.choices.get(&problem).is_none() {
            let best = self.measured(&mut plan, p, &proposals).unwrap_or(proposals[0]);
            // Another process may have been faster, and have chosen otherwise.
            plan.algorithm.data = self.choices.keep(&problem, best.data).unwrap_or(proposals[0].data);
            if self.fits(&plan) {
                return Ok(plan);
            }
        }
        plan.algorithm = proposals[0];
        Ok(plan)
    }

    /// Whether cuBLASLt takes a plan's algorithm for its product, within the workspace.
    fn fits(&self, plan: &Plan) -> bool {
        let [b, a, c] = plan.layouts;
        let mut found = MaybeUninit::<sys::cublasLtMatmulHeuristicResult_t>::zeroed();
        // SAFETY: the descriptors live as long as the plan; the result is a place for one, whose zeros are a value of it.
        unsafe {
            sys::cublasLtMatmulAlgoCheck(self.handle, plan.operation, b, a, c, c, &raw const plan.algorithm, found.as_mut_ptr())
                .result()
                .is_ok()
                && found.assume_init().workspaceSize <= WORKSPACE
        }
    }

    /// The fastest of some algorithms. Results go to scratch, so that what stands at the product's own is not disturbed; `None` where there is
    /// no memory for that.
    fn measured(&self, plan: &mut Plan, p: &Product, proposals: &[sys::cublasLtMatmulAlgo_t]) -> Option<sys::cublasLtMatmulAlgo_t> {
        let c = Scratch::new(p.c.rows * p.c.pitch * p.c.dtype.size())?;
        let beside = match p.epilogue {
            Epilogue::None | Epilogue::Bias(_) => 0,
            Epilogue::RowSums(_) => p.c.rows * size_of::<f32>(),
            Epilogue::BiasGeluTanh { .. } => p.c.rows * p.c.pitch * p.c.dtype.size(),
        };
        let beside = Scratch::new(beside)?;
        let epilogue = match p.epilogue {
            Epilogue::RowSums(_) => Epilogue::RowSums(beside.0),
            Epilogue::BiasGeluTanh { bias, .. } => Epilogue::BiasGeluTanh { bias, pre: beside.0 },
            other => other,
        };
        let scratched = Product { c: Matrix { address: c.0, ..p.c }, epilogue, ..*p };
        let times: Vec<Option<f32>> = proposals
            .iter()
            .map(|algorithm| {
                plan.algorithm = *algorithm;
                // SAFETY: operands are the caller's; what is written is scratch that lives until the work is done.
                unsafe { self.time(plan, &scratched) }.ok()
            })
            .collect();
        fastest(&times).map(|i| proposals[i])
    }

    /// Milliseconds of a product.
    ///
    /// # Safety
    /// As at [`Products::multiply`].
    unsafe fn time(&self, plan: &Plan, p: &Product) -> Result<f32, CudaError> {
        let driver = |e: result::DriverError| CudaError::Call { call: "timing a product", problem: format!("{e:?}") };
        let event = || result::event::create(cu::CUevent_flags::CU_EVENT_DEFAULT).map_err(driver);
        let (begin, end) = (event()?, event()?);
        let mut shortest = f32::INFINITY;
        // SAFETY: the caller's; the events are made above and given back below.
        let result = unsafe {
            (|| {
                self.run(plan, p)?;
                for _ in 0..RUNS.1 {
                    result::event::record(begin, self.stream).map_err(driver)?;
                    for _ in 0..RUNS.0 {
                        self.run(plan, p)?;
                    }
                    result::event::record(end, self.stream).map_err(driver)?;
                    result::event::synchronize(end).map_err(driver)?;
                    shortest = shortest.min(result::event::elapsed(begin, end).map_err(driver)?);
                }
                Ok(shortest)
            })()
        };
        // SAFETY: made above, given back once.
        unsafe {
            let _ = result::event::destroy(begin);
            let _ = result::event::destroy(end);
        }
        result
    }

    /// Whether there is an algorithm.
    pub(crate) fn supports(&mut self, p: &Product) -> bool {
        self.plan(p).is_some()
    }

    /// Multiply on the stream.
    ///
    /// # Safety
    /// The addresses are of live memory on the device of the current context, as large as the product says.
    pub(crate) unsafe fn multiply(&mut self, p: &Product) -> Result<(), CudaError> {
        if self.plan(p).is_none() {
            return Err(CudaError::Product { product: format!("{p:?}") });
        }
        let Some(Some(plan)) = self.plans.get(&Key::of(p)) else { return Ok(()) };
        // SAFETY: the caller's.
        unsafe { self.run(plan, p) }
    }

    /// # Safety
    /// As at [`Products::multiply`].
    unsafe fn run(&self, plan: &Plan, p: &Product) -> Result<(), CudaError> {
        let (handle, workspace) = (self.handle, self.workspace);
        let (one, pointer) = (1.0f32, |address: u64| address as *mut c_void);
        // SAFETY: the caller vouches for the addresses; numbers are read before the calls return.
        unsafe {
            use sys::cublasLtMatmulDescAttributes_t as Attribute;
            match p.epilogue {
                Epilogue::None => {}
                Epilogue::Bias(vector) | Epilogue::RowSums(vector) => {
                    set(plan.operation, Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &vector)?;
                }
                Epilogue::BiasGeluTanh { bias, pre } => {
                    set(plan.operation, Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias)?;
                    set(plan.operation, Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &pre)?;
                }
            }
            let [b, a, c] = plan.layouts;
            lt::matmul(
                handle,
                plan.operation,
                (&raw const one).cast(),
                (&raw const p.beta).cast(),
                pointer(p.b.address),
                b,
                pointer(p.a.address),
                a,
                pointer(p.c.address),
                c,
                pointer(p.c.address),
                c,
                &raw const plan.algorithm,
                pointer(workspace),
                WORKSPACE,
                self.stream.cast(),
            )
            .map_err(failed("cublasLtMatmul"))
        }
    }
}

impl Drop for Products {
    fn drop(&mut self) {
        self.plans.clear();
        // SAFETY: made in `new`, destroyed once.
        let _ = unsafe { lt::destroy_handle(self.handle) };
    }
}

/// Set an attribute of an operation.
///
/// # Safety
/// The attribute's type is `V`.
unsafe fn set<V>(operation: sys::cublasLtMatmulDesc_t, attribute: sys::cublasLtMatmulDescAttributes_t, value: &V) -> Result<(), CudaError> {
    // SAFETY: the value is copied before the call returns.
    unsafe { lt::set_matmul_desc_attribute(operation, attribute, std::ptr::from_ref(value).cast(), size_of::<V>()) }
        .map_err(failed("cublasLtMatmulDescSetAttribute"))
}

/// Memory for the results of products that are timed.
struct Scratch(u64);

impl Scratch {
    fn new(bytes: usize) -> Option<Self> {
        // SAFETY: memory without contents; products may read it, and what they make of it is not used.
        unsafe { result::malloc_sync(bytes.max(256)) }.ok().map(Self)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: made in `new`, given back once; the driver waits for work that is under way.
        let _ = unsafe { result::free_sync(self.0) };
    }
}

/// A product's descriptors, without an algorithm.
fn describe(p: &Product) -> Result<Plan, CudaError> {
    use sys::cublasLtEpilogue_t as E;
    use sys::cublasLtMatmulDescAttributes_t as D;
    let layout = |m: &Matrix| {
        lt::create_matrix_layout(kind(m.dtype), m.cols as u64, m.rows as u64, m.pitch as i64).map_err(failed("cublasLtMatrixLayoutCreate"))
    };
    // cublasOperation_t: CUBLAS_OP_N is 0, CUBLAS_OP_T is 1.
    let turn = |m: &Matrix| i32::from(m.transposed);
    let operation = lt::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, sys::cudaDataType::CUDA_R_32F)
        .map_err(failed("cublasLtMatmulDescCreate"))?;
    // From here on the plan owns what is made.
    let algorithm = sys::cublasLtMatmulAlgo_t { data: [0; 8] };
    let plan = Plan { operation, layouts: [layout(&p.b)?, layout(&p.a)?, layout(&p.c)?], algorithm };
    // SAFETY: every attribute is set with the type that cuBLASLt documents for it; descriptors live as long as the plan.
    unsafe {
        set(operation, D::CUBLASLT_MATMUL_DESC_TRANSA, &turn(&p.b))?;
        set(operation, D::CUBLASLT_MATMUL_DESC_TRANSB, &turn(&p.a))?;
        // The bias runs along our columns, which are cuBLASLt's rows; the sums along our rows, its columns: operand B's bias gradient.
        let epilogue = match p.epilogue {
            Epilogue::None => E::CUBLASLT_EPILOGUE_DEFAULT,
            Epilogue::Bias(_) => E::CUBLASLT_EPILOGUE_BIAS,
            Epilogue::BiasGeluTanh { .. } => E::CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
            Epilogue::RowSums(_) => E::CUBLASLT_EPILOGUE_BGRADB,
        };
        set(operation, D::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
        // The heuristic looks at pointers, too: their alignment counts.
        match p.epilogue {
            Epilogue::None => {}
            Epilogue::Bias(vector) | Epilogue::RowSums(vector) => {
                set(operation, D::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &vector)?;
                set(operation, D::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &kind(p.c.dtype))?;
            }
            Epilogue::BiasGeluTanh { bias, pre } => {
                set(operation, D::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias)?;
                set(operation, D::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &kind(p.c.dtype))?;
                set(operation, D::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &pre)?;
                set(operation, D::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &(p.c.pitch as i64))?;
            }
        }
    }
    Ok(plan)
}

/// What cuBLASLt proposes for a plan, its favourite first; at least one.
fn proposals(handle: sys::cublasLtHandle_t, plan: &Plan, key: &Key) -> Result<Vec<sys::cublasLtMatmulAlgo_t>, CudaError> {
    use sys::cublasLtMatmulPreferenceAttributes_t as P;
    let preference = lt::create_matmul_pref().map_err(failed("cublasLtMatmulPreferenceCreate"))?;
    let prefer = |attribute, value: &[u8]| {
        // SAFETY: every attribute is set with the type that cuBLASLt documents for it, and the value is copied before the call returns.
        unsafe { lt::set_matmul_pref_attribute(preference, attribute, value.as_ptr().cast(), value.len()) }
            .map_err(failed("cublasLtMatmulPreferenceSetAttribute"))
    };
    let reductions = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32
        | sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE as u32;
    let [a, b, c, _] = key.alignments;
    let mut found = [MaybeUninit::<sys::cublasLtMatmulHeuristicResult_t>::zeroed(); PROPOSALS];
    let mut count = 0;
    let asked = prefer(P::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &WORKSPACE.to_ne_bytes())
        .and_then(|()| prefer(P::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions.to_ne_bytes()))
        .and_then(|()| prefer(P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &b.to_ne_bytes()))
        .and_then(|()| prefer(P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &a.to_ne_bytes()))
        .and_then(|()| prefer(P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &c.to_ne_bytes()))
        .and_then(|()| prefer(P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &c.to_ne_bytes()))
        .and_then(|()| {
            let [b, a, c] = plan.layouts;
            let (places, most) = (found.as_mut_ptr().cast(), PROPOSALS as i32);
            // SAFETY: the descriptors live as long as the plan; there are places for as many as are asked for.
            unsafe { sys::cublasLtMatmulAlgoGetHeuristic(handle, plan.operation, b, a, c, c, preference, most, places, &raw mut count) }
                .result()
                .map_err(failed("cublasLtMatmulAlgoGetHeuristic"))
        });
    // SAFETY: made above, given back once.
    let _ = unsafe { lt::destroy_matmul_pref(preference) };
    asked?;
    // SAFETY: zeros are a value of this plain struct, and cuBLASLt has written the first `count`.
    let found = found.iter().take(usize::try_from(count).unwrap_or(0)).map(|f| unsafe { f.assume_init() });
    let fit: Vec<_> = found.filter(|f| f.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS).map(|f| f.algo).collect();
    if fit.is_empty() {
        return Err(CudaError::Call { call: "cublasLtMatmulAlgoGetHeuristic", problem: "no algorithm".into() });
    }
    Ok(fit)
}
