//! The memory of this process, as the operating system counts it.

/// Resident memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// Now.
    pub resident: u64,
    /// The most since the process began.
    pub peak: u64,
}

impl Memory {
    /// Asks the system; `None` where it does not tell (elsewhere than on Linux).
    pub fn now() -> Option<Self> {
        Self::read(&std::fs::read_to_string("/proc/self/status").ok()?)
    }

    fn read(status: &str) -> Option<Self> {
        let bytes = |key: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
        };
        Some(Self { resident: bytes("VmRSS:")?, peak: bytes("VmHWM:")? })
    }

    /// Resident memory in MB (10⁶ bytes).
    pub fn resident_mb(&self) -> f64 {
        self.resident as f64 / 1e6
    }

    /// The peak in MB (10⁶ bytes).
    pub fn peak_mb(&self) -> f64 {
        self.peak as f64 / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_two_lines() {
        let status = "Name:\tcloze\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\nThreads:\t2\n";
        assert_eq!(Memory::read(status), Some(Memory { resident: 1 << 20, peak: 2 << 20 }));
        assert_eq!(Memory::read("VmRSS:\tmuch kB\nVmHWM:\t1 kB\n"), None);
        assert_eq!(Memory::read(""), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_peak_sees_an_allocation() {
        let before = Memory::now().unwrap();
        let block = vec![1u8; 64 << 20];
        let after = Memory::now().unwrap();
        assert!(block.iter().map(|b| u64::from(*b)).sum::<u64>() == 64 << 20);
        assert!(after.peak >= before.resident + (48 << 20), "{before:?} {after:?}");
    }
}
