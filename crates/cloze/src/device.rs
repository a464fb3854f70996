//! The choice of the device, made once.

use std::str::FromStr;

use cloze_cpu::{Cpu, CpuOptions};
use cloze_tensor::{Dtype, Operands};
use cloze_train::pretrain;
use cloze_train::run::Precision;

use crate::Error;

/// What a user asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The best there is.
    #[default]
    Auto,
    /// The processor.
    Cpu,
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "auto" => Ok(DeviceChoice::Auto),
            "cpu" => Ok(DeviceChoice::Cpu),
            other => Err(Error::Device { found: other.into() }),
        }
    }
}

/// An open device.
#[derive(Debug)]
pub enum Device {
    /// The processor.
    Cpu(Box<Cpu>),
}

impl Device {
    /// Open the device; `threads`: one a core when `None`.
    pub fn open(choice: DeviceChoice, threads: Option<usize>) -> Self {
        match choice {
            DeviceChoice::Auto | DeviceChoice::Cpu => Device::Cpu(Box::new(Cpu::new(CpuOptions { threads, level: None }))),
        }
    }

    /// What it is, for people.
    pub fn name(&self) -> String {
        match self {
            Device::Cpu(cpu) => {
                let threads = cpu.threads().count();
                format!("cpu, {:?}, {threads} thread{}", cpu.level(), if threads == 1 { "" } else { "s" })
            }
        }
    }

    /// The element kind that a precision means here.
    pub fn dtype(&self, precision: Precision) -> Dtype {
        let Device::Cpu(cpu) = self;
        match precision {
            Precision::F32 => Dtype::F32,
            Precision::Bf16 => Dtype::Bf16,
            Precision::Auto if cpu.level().multiplies_bf16() => Dtype::Bf16,
            Precision::Auto => Dtype::F32,
        }
    }

    /// The element kind of activations between products of these operands.
    pub fn activations(&self, operands: Operands) -> Dtype {
        let Device::Cpu(cpu) = self;
        match operands {
            Operands::F32 => Dtype::F32,
            Operands::Bf16 => Dtype::Bf16,
            Operands::Int8 if cpu.level().multiplies_bf16() => Dtype::Bf16,
            Operands::Int8 => Dtype::F32,
        }
    }

    /// Peak of the products in `dtype`, FLOP/s: measured in a tenth of a second on registers alone.
    pub fn peak_flops(&self, dtype: Dtype) -> f64 {
        let Device::Cpu(cpu) = self;
        cpu.peak_flops(dtype)
    }

    /// The device as a run records it.
    pub fn for_run(&self, precision: Precision) -> pretrain::Device {
        let dtype = self.dtype(precision);
        let kind = if dtype == Dtype::Bf16 { "bf16" } else { "f32" };
        pretrain::Device { name: format!("{}, {kind}", self.name()), peak_flops: Some(self.peak_flops(dtype)), dtype }
    }
}
