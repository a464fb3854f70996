//! The choice of the device, made once.

use std::str::FromStr;

use cloze_cpu::{Cpu, CpuOptions};
use cloze_cuda::Cuda;
use cloze_tensor::{Dtype, Operands};
use cloze_train::pretrain;
use cloze_train::run::Precision;

use crate::Error;

/// What a user asks for: `auto`, `cpu`, `cuda`, `cuda:1`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The processor: a GPU is used when it is asked for, as long as the backend has not been seen to run on one.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// The GPU of that number.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "auto" => return Ok(DeviceChoice::Auto),
            "cpu" => return Ok(DeviceChoice::Cpu),
            "cuda" => return Ok(DeviceChoice::Cuda(0)),
            _ => {}
        }
        let index = text.strip_prefix("cuda:").and_then(|i| i.parse().ok());
        index.map(DeviceChoice::Cuda).ok_or_else(|| Error::Device { found: text.into() })
    }
}

/// An open device.
#[derive(Debug)]
pub enum Device {
    /// The processor.
    Cpu(Box<Cpu>),
    /// A GPU.
    Cuda(Box<Cuda>),
}

/// Run a body with the backend of a device, whichever it is.
macro_rules! on {
    ($device:expr, $backend:ident => $body:expr) => {
        match $device {
            $crate::Device::Cpu(backend) => {
                let $backend: &cloze_cpu::Cpu = backend;
                $body
            }
            $crate::Device::Cuda(backend) => {
                let $backend: &cloze_cuda::Cuda = backend;
                $body
            }
        }
    };
}
pub(crate) use on;

impl Device {
    /// Open the device; `threads`: of the processor, one a core when `None`.
    ///
    /// # Errors
    /// When a GPU is asked for that cannot be used.
    pub fn open(choice: DeviceChoice, threads: Option<usize>) -> Result<Self, Error> {
        let cpu = || Device::Cpu(Box::new(Cpu::new(CpuOptions { threads, level: None })));
        match choice {
            DeviceChoice::Auto | DeviceChoice::Cpu => Ok(cpu()),
            DeviceChoice::Cuda(index) => Ok(Device::Cuda(Box::new(Cuda::open(index)?))),
        }
    }

    /// What it is, for people.
    pub fn name(&self) -> String {
        match self {
            Device::Cpu(cpu) => {
                let threads = cpu.threads().count();
                format!("cpu, {:?}, {threads} thread{}", cpu.level(), if threads == 1 { "" } else { "s" })
            }
            Device::Cuda(cuda) => format!("cuda, {}", cuda.name()),
        }
    }

    /// Whether products of bf16 are faster than those of f32 here.
    fn multiplies_bf16(&self) -> bool {
        match self {
            Device::Cpu(cpu) => cpu.level().multiplies_bf16(),
            Device::Cuda(_) => true,
        }
    }

    /// The element kind that a precision means here.
    pub fn dtype(&self, precision: Precision) -> Dtype {
        match precision {
            Precision::F32 => Dtype::F32,
            Precision::Bf16 => Dtype::Bf16,
            Precision::Auto if self.multiplies_bf16() => Dtype::Bf16,
            Precision::Auto => Dtype::F32,
        }
    }

    /// The element kind of activations between products of these operands.
    pub fn activations(&self, operands: Operands) -> Dtype {
        match operands {
            Operands::F32 => Dtype::F32,
            Operands::Bf16 => Dtype::Bf16,
            Operands::Int8 if self.multiplies_bf16() => Dtype::Bf16,
            Operands::Int8 => Dtype::F32,
        }
    }

    /// Peak of the products in `dtype`, FLOP/s: measured in a tenth of a second, on registers alone or on a large product.
    pub fn peak_flops(&self, dtype: Dtype) -> f64 {
        on!(self, backend => backend.peak_flops(dtype))
    }

    /// Whether the processor has other threads to share work with.
    pub(crate) fn several_threads(&self) -> bool {
        match self {
            Device::Cpu(cpu) => cpu.threads().count() > 1,
            Device::Cuda(_) => true,
        }
    }

    /// Tokens that one forward pass of a pipeline holds: on the processor few enough that the activations of a layer stay in the
    /// caches, on a GPU enough to fill it.
    pub(crate) fn batch_tokens(&self) -> usize {
        match self {
            Device::Cpu(_) => 1024,
            Device::Cuda(_) => 16 << 10,
        }
    }

    /// The device as a run records it.
    pub fn for_run(&self, precision: Precision) -> pretrain::Device {
        let dtype = self.dtype(precision);
        let kind = if dtype == Dtype::Bf16 { "bf16" } else { "f32" };
        pretrain::Device { name: format!("{}, {kind}", self.name()), peak_flops: Some(self.peak_flops(dtype)), dtype }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_names() {
        for (text, choice) in [("auto", DeviceChoice::Auto), ("cpu", DeviceChoice::Cpu), ("cuda", DeviceChoice::Cuda(0))] {
            assert_eq!(text.parse::<DeviceChoice>().unwrap(), choice);
        }
        assert_eq!("cuda:3".parse::<DeviceChoice>().unwrap(), DeviceChoice::Cuda(3));
        for text in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "CUDA"] {
            assert!(text.parse::<DeviceChoice>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_gpu_that_is_not_there_is_an_error_and_auto_is_the_processor() {
        if Cuda::count() == 0 {
            let error = Device::open(DeviceChoice::Cuda(0), None).unwrap_err().to_string();
            assert!(error.contains("NVIDIA driver") || error.contains("no CUDA device"), "{error}");
        }
        assert!(matches!(Device::open(DeviceChoice::Auto, Some(1)), Ok(Device::Cpu(_))));
        assert!(Device::open(DeviceChoice::Cuda(4096), None).is_err());
    }
}
