//! Matrix products by cuBLASLt. It thinks in columns: a row-major matrix is its transpose there, so C = A·B is asked for as Cᵀ = Bᵀ·Aᵀ.
//!
//! An algorithm is chosen once for each kind of product (shapes, types, pitches, alignments, epilogue), by cuBLASLt's heuristic. Split-K
//! with a sum in place is excluded: it adds in the order in which blocks end.

use std::collections::HashMap;
use std::ffi::c_void;

use cloze_tensor::Dtype;
use cudarc::cublaslt::{result as lt, sys};

use crate::CudaError;
use crate::driver::{Epilogue, Matrix, Product};

/// Bytes of scratch that algorithms may use.
pub(crate) const WORKSPACE: usize = 32 << 20;

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
        let alignment = |address: u64| 1 << address.trailing_zeros().min(4);
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
    plans: HashMap<Key, Option<Plan>>,
}

// SAFETY: handles and descriptors of cuBLASLt are not bound to a thread, and a `Products` is used behind a mutex.
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
    /// On the current context; `workspace`: [`WORKSPACE`] bytes at a multiple of 256.
    pub(crate) fn new(workspace: u64) -> Result<Self, CudaError> {
        let handle = lt::create_handle().map_err(failed("cublasLtCreate"))?;
        Ok(Self { handle, workspace, plans: HashMap::new() })
    }

    fn plan(&mut self, p: &Product) -> Option<&Plan> {
        let (handle, key) = (self.handle, Key::of(p));
        self.plans.entry(key).or_insert_with(|| plan(handle, p, &key).ok()).as_ref()
    }

    /// Whether there is an algorithm.
    pub(crate) fn supports(&mut self, p: &Product) -> bool {
        self.plan(p).is_some()
    }

    /// Multiply on a stream.
    ///
    /// # Safety
    /// The addresses are of live memory on the device of the current context, as large as the product says.
    pub(crate) unsafe fn multiply(&mut self, p: &Product, stream: sys::cudaStream_t) -> Result<(), CudaError> {
        let (handle, workspace) = (self.handle, self.workspace);
        let Some(plan) = self.plan(p) else { return Err(CudaError::Product { product: format!("{p:?}") }) };
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
                stream,
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

fn plan(handle: sys::cublasLtHandle_t, p: &Product, key: &Key) -> Result<Plan, CudaError> {
    use sys::cublasLtEpilogue_t as E;
    use sys::cublasLtMatmulDescAttributes_t as D;
    use sys::cublasLtMatmulPreferenceAttributes_t as P;
    let layout = |m: &Matrix| {
        lt::create_matrix_layout(kind(m.dtype), m.cols as u64, m.rows as u64, m.pitch as i64).map_err(failed("cublasLtMatrixLayoutCreate"))
    };
    // cublasOperation_t: CUBLAS_OP_N is 0, CUBLAS_OP_T is 1.
    let turn = |m: &Matrix| i32::from(m.transposed);
    let operation = lt::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, sys::cudaDataType::CUDA_R_32F)
        .map_err(failed("cublasLtMatmulDescCreate"))?;
    // From here on the plan owns what is made.
    let algorithm = sys::cublasLtMatmulAlgo_t { data: [0; 8] };
    let mut plan = Plan { operation, layouts: [layout(&p.b)?, layout(&p.a)?, layout(&p.c)?], algorithm };
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
        let preference = lt::create_matmul_pref().map_err(failed("cublasLtMatmulPreferenceCreate"))?;
        let prefer = |attribute, value: &[u8]| {
            lt::set_matmul_pref_attribute(preference, attribute, value.as_ptr().cast(), value.len())
                .map_err(failed("cublasLtMatmulPreferenceSetAttribute"))
        };
        let reductions = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32
            | sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE as u32;
        let [a, b, c, _] = key.alignments;
        let found = prefer(P::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &WORKSPACE.to_ne_bytes())
            .and_then(|()| prefer(P::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions.to_ne_bytes()))
            .and_then(|()| prefer(P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &b.to_ne_bytes()))
            .and_then(|()| prefer(P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &a.to_ne_bytes()))
            .and_then(|()| prefer(P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &c.to_ne_bytes()))
            .and_then(|()| prefer(P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &c.to_ne_bytes()))
            .and_then(|()| {
                let [b, a, c] = plan.layouts;
                lt::get_matmul_algo_heuristic(handle, operation, b, a, c, c, preference).map_err(failed("cublasLtMatmulAlgoGetHeuristic"))
            });
        let _ = lt::destroy_matmul_pref(preference);
        plan.algorithm = found?.algo;
    }
    Ok(plan)
}
