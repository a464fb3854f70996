//! From the text of a kernel file to a cubin for a device, by NVRTC, kept on disk.
//!
//! The text is part of the program and includes nothing but the other files of `kernels/`. A cubin's file name is the hash of everything
//! that it was made from: text, options, version of the compiler. So a cache never has to be emptied to be right.
//!
//! Libraries are looked for where the loader looks, and in the folders of `CLOZE_CUDA_LIBRARIES`. The cache is `CLOZE_CUDA_CACHE`, or
//! `cloze/cuda` in `XDG_CACHE_HOME` or `~/.cache`; empty, it is off.

use std::ffi::{CStr, CString, c_char};
use std::path::{Path, PathBuf};
use std::sync::Once;

use cloze_tensor::Dtype;
use cudarc::nvrtc::{result as nvrtc, sys};
use sha2::{Digest, Sha256};

use crate::CudaError;
use crate::driver::Variant;

macro_rules! texts {
    ($($file:literal),*) => { &[$(($file, include_str!(concat!("../kernels/", $file)))),*] };
}

/// The files that kernels are in: name and text.
pub const KERNELS: &[(&str, &str)] = texts![
    "attention.cu",
    "attention_plain.cu",
    "cross_entropy.cu",
    "elementwise.cu",
    "embedding.cu",
    "gated.cu",
    "linear.cu",
    "norm.cu",
    "optimizer.cu",
    "pool.cu",
    "rotary.cu",
    "rows.cu",
    "sums.cu"
];

/// The files that kernels include.
pub const HEADERS: &[(&str, &str)] = texts!["device.cuh", "attention.cuh"];

/// The text of `<file>.cu`.
///
/// # Panics
/// If there is no such file.
pub fn text(file: &str) -> &'static str {
    let name = format!("{file}.cu");
    KERNELS.iter().find(|(n, _)| *n == name).unwrap_or_else(|| panic!("no kernel file {name}")).1
}

/// What a compilation defines.
pub fn definitions(variant: Variant) -> Vec<String> {
    let mut definitions = vec![format!("-DHEAD_DIM={}", variant.head_dim)];
    if variant.dtype == Dtype::Bf16 {
        definitions.push("-DELEMENT_BF16".into());
    }
    if variant.biased {
        definitions.push("-DBIASED".into());
    }
    definitions
}

/// Bring in libraries from the folders of `CLOZE_CUDA_LIBRARIES`: what is loaded already is found by its name later on.
pub fn load_libraries() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let folders = std::env::var_os("CLOZE_CUDA_LIBRARIES").unwrap_or_default();
        for folder in std::env::split_paths(&folders) {
            for name in ["libnvrtc-builtins.so", "libnvrtc.so", "libcublasLt.so"] {
                for path in versions(&folder, name) {
                    // SAFETY: the user names these folders as those of NVIDIA's libraries, whose initialisers are harmless.
                    if let Ok(library) = unsafe { libloading::Library::new(&path) } {
                        std::mem::forget(library); // stays for good: cudarc looks it up by its name
                        break;
                    }
                }
            }
        }
    });
}

/// Files of a folder that are `name` or `name.<version>`, the plain name first.
fn versions(folder: &Path, name: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let is_version = |file: &str| file.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    let mut found: Vec<PathBuf> = entries.filter(|e| e.file_name().to_str().is_some_and(is_version)).map(|e| e.path()).collect();
    found.sort();
    found
}

/// Whether NVRTC can be loaded.
pub fn is_present() -> bool {
    load_libraries();
    // SAFETY: loading NVRTC runs nothing but its initialisers.
    unsafe { sys::is_culib_present() }
}

/// The version of NVRTC.
fn version() -> (i32, i32) {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: both are valid places for a number.
    unsafe { sys::nvrtcVersion(&mut major, &mut minor) };
    (major, minor)
}

/// A compiler for one architecture, such as `sm_90a`.
#[derive(Clone, Debug)]
pub struct Compiler {
    architecture: String,
    cache: Option<PathBuf>,
}

impl Compiler {
    /// With the cache of this user.
    ///
    /// # Errors
    /// When NVRTC is not there.
    pub fn new(architecture: impl Into<String>) -> Result<Self, CudaError> {
        Self::with_cache(architecture, cache())
    }

    /// With a cache of one's own, or none.
    ///
    /// # Errors
    /// When NVRTC is not there.
    pub fn with_cache(architecture: impl Into<String>, cache: Option<PathBuf>) -> Result<Self, CudaError> {
        if !is_present() {
            return Err(CudaError::Library { library: "libnvrtc" });
        }
        Ok(Self { architecture: architecture.into(), cache })
    }

    fn options(&self, variant: Variant) -> Vec<String> {
        let mut options = vec![format!("--gpu-architecture={}", self.architecture), "--std=c++17".into()];
        options.extend(definitions(variant));
        options
    }

    /// Where the cubin of a file is kept.
    fn place(&self, file: &str, variant: Variant) -> Option<PathBuf> {
        let mut hash = Sha256::new();
        let mut take = |text: &str| {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        };
        take(text(file));
        HEADERS.iter().for_each(|(_, text)| take(text));
        self.options(variant).iter().for_each(|o| take(o));
        take(&format!("{:?}", version()));
        let name: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        self.cache.as_ref().map(|folder| folder.join(format!("{file}-{}.cubin", &name[..32])))
    }

    /// The cubin of a file for this architecture: from the cache, or made now and kept there.
    ///
    /// # Errors
    /// With the compiler's log when the text does not compile.
    pub fn cubin(&self, file: &'static str, variant: Variant) -> Result<Vec<u8>, CudaError> {
        let place = self.place(file, variant);
        if let Some(found) = place.as_ref().and_then(|p| std::fs::read(p).ok()).filter(|c| c.starts_with(b"\x7fELF")) {
            return Ok(found);
        }
        let cubin = self.compile(file, variant)?;
        if let Some(place) = place {
            // A cache that cannot be written costs time, not the run.
            let _ = keep(&place, &cubin);
        }
        Ok(cubin)
    }

    fn compile(&self, file: &'static str, variant: Variant) -> Result<Vec<u8>, CudaError> {
        let string = |text: &str| CString::new(text).unwrap_or_default();
        let (source, name) = (string(text(file)), string(&format!("{file}.cu")));
        let (texts, names): (Vec<CString>, Vec<CString>) = HEADERS.iter().map(|(n, t)| (string(t), string(n))).unzip();
        let pointers = |strings: &[CString]| strings.iter().map(|s| s.as_ptr()).collect::<Vec<*const c_char>>();
        let (texts_at, names_at) = (pointers(&texts), pointers(&names));
        let failed = |call| move |e: nvrtc::NvrtcError| CudaError::Call { call, problem: format!("{e:?}") };
        let mut program = std::ptr::null_mut();
        // SAFETY: all strings end in NUL and live until the program is destroyed; the two lists are equally long.
        unsafe {
            let headers = HEADERS.len() as i32;
            sys::nvrtcCreateProgram(&mut program, source.as_ptr(), name.as_ptr(), headers, texts_at.as_ptr(), names_at.as_ptr())
                .result()
                .map_err(failed("nvrtcCreateProgram"))?;
        }
        // SAFETY: the program was made above and is destroyed below, once, whatever happens in between.
        let cubin = unsafe { nvrtc::compile_program(program, &self.options(variant)) }
            .map_err(|_| {
                // SAFETY: as above; the log ends in NUL.
                let log = unsafe { nvrtc::get_program_log(program) }.unwrap_or_default();
                let log: Vec<u8> = log.iter().map(|&c| c as u8).collect();
                let log = CStr::from_bytes_until_nul(&log).map_or_else(|_| String::new(), |l| l.to_string_lossy().into_owned());
                CudaError::Compile { file, architecture: self.architecture.clone(), log }
            })
            .and_then(|()| {
                let mut size = 0;
                // SAFETY: `size` is a place for a number; the vector has that many bytes.
                unsafe {
                    sys::nvrtcGetCUBINSize(program, &mut size).result().map_err(failed("nvrtcGetCUBINSize"))?;
                    let mut cubin = vec![0u8; size];
                    sys::nvrtcGetCUBIN(program, cubin.as_mut_ptr().cast()).result().map_err(failed("nvrtcGetCUBIN"))?;
                    Ok(cubin)
                }
            });
        // SAFETY: the program was made above and is not used after this.
        let _ = unsafe { nvrtc::destroy_program(program) };
        cubin
    }
}

/// Whole or not there: written beside its place and renamed.
fn keep(place: &Path, cubin: &[u8]) -> std::io::Result<()> {
    let folder = place.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let beside = place.with_extension(format!("{}.tmp", std::process::id()));
    std::fs::write(&beside, cubin)?;
    std::fs::rename(&beside, place)
}

/// Where cubins and choices of this user are kept; `None` where the cache is off.
pub(crate) fn cache() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("CLOZE_CUDA_CACHE") {
        return (!folder.is_empty()).then(|| folder.into());
    }
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    base.map(|b| b.join("cloze").join("cuda"))
}
