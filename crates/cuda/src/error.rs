//! Why a device cannot be used.

/// What went wrong between the backend and a device.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CudaError {
    /// A library of CUDA is not there.
    #[error(
        "{library} was not found; install the NVIDIA driver and the CUDA 12 libraries, or name the folders that hold them in \
         CLOZE_CUDA_LIBRARIES (separated by `:`)"
    )]
    Library {
        /// Which one.
        library: &'static str,
    },
    /// No device of that number.
    #[error("there is no CUDA device {index}; this machine has {count}")]
    NoDevice {
        /// What was asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// A device that cannot run the kernels.
    #[error("{name} has compute capability {major}.{minor}; bf16 on tensor cores needs 8.0")]
    TooOld {
        /// The device.
        name: String,
        /// Its compute capability.
        major: i32,
        /// The part after the point.
        minor: i32,
    },
    /// A kernel that NVRTC does not compile.
    #[error("{file} does not compile for {architecture}:\n{log}")]
    Compile {
        /// The file under `kernels/`.
        file: &'static str,
        /// What for.
        architecture: String,
        /// What the compiler says.
        log: String,
    },
    /// No memory left.
    #[error("the device has no {bytes} bytes left: {held} are in use here, {free} of {total} are free; a smaller batch needs less")]
    OutOfMemory {
        /// What was asked for.
        bytes: usize,
        /// What this process holds on the device.
        held: usize,
        /// What is free.
        free: usize,
        /// What the device has.
        total: usize,
    },
    /// A product that cuBLASLt has no algorithm for.
    #[error("cuBLASLt has no algorithm for {product}")]
    Product {
        /// Shapes and types.
        product: String,
    },
    /// A call that failed.
    #[error("{call}: {problem}")]
    Call {
        /// Which one.
        call: &'static str,
        /// What the driver says.
        problem: String,
    },
}
