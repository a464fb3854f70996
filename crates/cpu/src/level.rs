//! Which vector instructions the kernels may use.

use std::sync::OnceLock;

/// A set of vector instructions with kernels of its own.
///
/// Chosen once per backend: [`Level::detected`] gives the best of this machine, [`Level::available`] all that
/// it has, so that one process can check each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Plain Rust, four lanes that the compiler may vectorise. On every machine.
    Scalar,
    /// 64-bit ARM, four lanes.
    Neon,
    /// AVX2 and FMA, eight lanes.
    Avx2,
    /// AVX-512 F, BW, DQ and VL, sixteen lanes.
    Avx512,
    /// [`Level::Avx512`] with dot products and conversions of bfloat16, and dot products of bytes (VNNI), which every
    /// processor with the former has.
    Avx512Bf16,
}

impl Level {
    /// Every level there is, slowest first.
    pub const ALL: [Level; 5] = [Level::Scalar, Level::Neon, Level::Avx2, Level::Avx512, Level::Avx512Bf16];

    /// The best level of this machine.
    pub fn detected() -> Self {
        static DETECTED: OnceLock<Level> = OnceLock::new();
        *DETECTED.get_or_init(|| *Self::available().last().unwrap_or(&Level::Scalar))
    }

    /// All levels that this machine can run, slowest first.
    pub fn available() -> Vec<Self> {
        Self::ALL.into_iter().filter(|level| level.is_available()).collect()
    }

    /// Whether the level has instructions for products of bf16, so that they are faster than those of f32.
    pub fn multiplies_bf16(self) -> bool {
        self == Level::Avx512Bf16
    }

    /// Whether this machine can run the level.
    pub fn is_available(self) -> bool {
        match self {
            Level::Scalar => true,
            #[cfg(target_arch = "aarch64")]
            Level::Neon => true, // part of the base architecture
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => {
                Level::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 => {
                Level::Avx512.is_available() && is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512vnni")
            }
            #[allow(unreachable_patterns)] // the levels of other architectures
            _ => false,
        }
    }

    /// The name as people write it: `avx512-bf16`.
    pub fn name(self) -> &'static str {
        match self {
            Level::Scalar => "scalar",
            Level::Neon => "neon",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
            Level::Avx512Bf16 => "avx512-bf16",
        }
    }

    /// The level, or a panic if the machine lacks it: what makes the safe entrance of a kernel sound.
    #[inline]
    pub(crate) fn checked(self) -> Self {
        // `detected` is at least every level below it on the same architecture, so one comparison is enough
        // for all but a level forced from another architecture.
        assert!(self <= Self::detected() && self.is_native(), "level {} is not available on this machine", self.name());
        self
    }

    #[inline]
    fn is_native(self) -> bool {
        match self {
            Level::Scalar => true,
            Level::Neon => cfg!(target_arch = "aarch64"),
            _ => cfg!(target_arch = "x86_64"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_consistent() {
        let available = Level::available();
        assert_eq!(available[0], Level::Scalar);
        assert_eq!(available.last(), Some(&Level::detected()));
        for level in Level::ALL {
            let usable = std::panic::catch_unwind(|| level.checked()).is_ok();
            assert_eq!(usable, level.is_available(), "{}", level.name());
        }
    }
}
