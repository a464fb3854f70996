//! Which algorithm multiplies which kind of product: measured once on a device, and the same ever after.
//!
//! Algorithms differ in the order of their sums, so a choice that changed between two runs would change the bits of a run, and of one that is
//! resumed. Times vary, so a choice counts only when it is on disk: whoever is first keeps his, everybody after him takes it. A file
//! holds one choice, is whole or not there, and is no choice at all where anything in it is not as it was written.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use cloze_tensor::Dtype;
use sha2::{Digest, Sha256};

use crate::driver::{Epilogue, Matrix, Product};

/// An algorithm as cuBLASLt describes it to itself: plain words that may be kept and given to the same version again.
pub(crate) type Algorithm = [u64; 8];

/// The alignment of an address or of a pitch, in bytes; beyond 16 none counts.
pub(crate) fn alignment(bytes: u64) -> u32 {
    1 << bytes.trailing_zeros().min(4)
}

/// Sides that share a choice: multiples of 16, and from 256 on eight sizes for each doubling. Packed batches have another number of tokens each
/// time; what is best for one is good for its neighbours.
fn class(side: usize) -> usize {
    let step = (side.next_power_of_two() / 16).max(16);
    side.next_multiple_of(step)
}

/// The kind of a product that a choice is for, in words.
pub(crate) fn problem(p: &Product) -> String {
    let kind = |d: Dtype| if d == Dtype::F32 { "f32" } else { "bf16" };
    let turn = |m: &Matrix| if m.transposed { "t" } else { "n" };
    let (epilogue, vector) = match p.epilogue {
        Epilogue::None => ("none", 0),
        Epilogue::Bias(bias) => ("bias", bias),
        Epilogue::BiasGeluTanh { bias, pre } => ("bias+gelu", bias | pre),
        Epilogue::RowSums(sums) => ("row sums", sums),
    };
    let aligned = |m: &Matrix| alignment(m.address | (m.pitch * m.dtype.size()) as u64);
    format!(
        "{} · {} = {}, {}{}, {} x {} x {}, {}, {epilogue}, aligned {} {} {} {}",
        kind(p.a.dtype),
        kind(p.b.dtype),
        kind(p.c.dtype),
        turn(&p.a),
        turn(&p.b),
        class(p.c.rows),
        class(p.c.cols),
        class(p.a.shape().1),
        if p.beta == 0.0 { "over" } else { "add" },
        aligned(&p.a),
        aligned(&p.b),
        aligned(&p.c),
        alignment(vector),
    )
}

/// The fastest; the earlier of two that are equally fast. `None` is what did not run.
pub(crate) fn fastest(times: &[Option<f32>]) -> Option<usize> {
    let known = times.iter().enumerate().filter_map(|(i, t)| t.filter(|t| t.is_finite()).map(|t| (i, t)));
    known.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(i, _)| i)
}

/// The choices made for a device.
pub(crate) struct Choices {
    folder: Option<PathBuf>,
    /// Device and library, in words.
    device: String,
    known: HashMap<String, Algorithm>,
}

impl Choices {
    /// Kept in a folder; without one there are none.
    pub(crate) fn new(folder: Option<PathBuf>, device: &str, version: usize) -> Self {
        Self { folder, device: format!("{device}, cuBLASLt {version}"), known: HashMap::new() }
    }

    /// Whether a choice can be kept, and so made.
    pub(crate) fn can_keep(&self) -> bool {
        self.folder.is_some()
    }

    /// The choice for a problem.
    pub(crate) fn get(&mut self, problem: &str) -> Option<Algorithm> {
        if let Some(known) = self.known.get(problem) {
            return Some(*known);
        }
        let found = self.read(&self.place(problem)?, problem)?;
        self.known.insert(problem.to_owned(), found);
        Some(found)
    }

    /// Keep a choice. What counts is returned: this one, or that of whoever was first; `None` where nothing could be kept, and so nothing
    /// was chosen.
    pub(crate) fn keep(&mut self, problem: &str, algorithm: Algorithm) -> Option<Algorithm> {
        let place = self.place(problem)?;
        self.write(&place, problem, algorithm).ok()?;
        self.get(problem)
    }

    fn place(&self, problem: &str) -> Option<PathBuf> {
        let name = hex(&Sha256::digest(format!("{}\n{problem}", self.device)));
        self.folder.as_ref().map(|folder| folder.join(format!("product-{}.txt", &name[..32])))
    }

    fn text(&self, problem: &str, algorithm: Algorithm) -> String {
        let mut text = format!("cloze product 1\ndevice {}\nproblem {problem}\nalgorithm", self.device);
        for word in algorithm {
            let _ = write!(text, " {word:016x}");
        }
        let check = hex(&Sha256::digest(&text));
        text + "\ncheck " + &check[..16] + "\n"
    }

    /// The choice in a file, if it is all that it should be.
    fn read(&self, place: &Path, problem: &str) -> Option<Algorithm> {
        let text = std::fs::read_to_string(place).ok()?;
        let words = text.lines().nth(3)?.strip_prefix("algorithm ")?;
        let words: Vec<u64> = words.split(' ').map(|w| u64::from_str_radix(w, 16)).collect::<Result<_, _>>().ok()?;
        let algorithm = words.try_into().ok()?;
        (text == self.text(problem, algorithm)).then_some(algorithm)
    }

    /// Whole or not there, and never over another's choice.
    fn write(&self, place: &Path, problem: &str, algorithm: Algorithm) -> std::io::Result<()> {
        static WRITTEN: AtomicU64 = AtomicU64::new(0);
        std::fs::create_dir_all(place.parent().unwrap_or(Path::new(".")))?;
        let beside = place.with_extension(format!("{}-{}.tmp", std::process::id(), WRITTEN.fetch_add(1, Ordering::Relaxed)));
        std::fs::write(&beside, self.text(problem, algorithm))?;
        let kept = match std::fs::hard_link(&beside, place) {
            Ok(()) => Ok(()),
            // Somebody was first.
            Err(_) if self.read(place, problem).is_some() => Ok(()),
            // What is there is damaged, or this disk has no links.
            Err(_) => std::fs::rename(&beside, place),
        };
        let _ = std::fs::remove_file(&beside);
        kept
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product(rows: usize, epilogue: Epilogue) -> Product {
        let matrix = |address, dtype, rows, cols| Matrix::new(address, dtype, rows, cols);
        let (x, w) = (matrix(512, Dtype::Bf16, rows, 768), matrix(1024, Dtype::Bf16, 3072, 768).transposed());
        Product::new(x, w, matrix(2048, Dtype::Bf16, rows, 3072), 0.0).with(epilogue)
    }

    #[test]
    fn neighbours_share_a_problem_and_others_do_not() {
        let plain = problem(&product(60_000, Epilogue::None));
        assert_eq!(plain, "bf16 · bf16 = bf16, nt, 61440 x 3072 x 768, over, none, aligned 16 16 16 16");
        assert_eq!(problem(&product(60_001, Epilogue::None)), plain);
        let mut seen = vec![plain];
        let mut other = |p: Product| {
            let problem = problem(&p);
            assert!(!seen.contains(&problem), "{problem}");
            seen.push(problem);
        };
        let base = product(60_000, Epilogue::None);
        other(product(128, Epilogue::None));
        other(product(60_000, Epilogue::Bias(4096)));
        other(product(60_000, Epilogue::Bias(4098)));
        other(product(60_000, Epilogue::RowSums(4096)));
        other(product(60_000, Epilogue::BiasGeluTanh { bias: 4096, pre: 8192 }));
        other(Product { beta: 1.0, ..base });
        other(Product { c: Matrix { address: 2050, ..base.c }, ..base });
        other(Product { c: base.c.with_pitch(3076), ..base });
        let f32_result = Matrix { dtype: Dtype::F32, ..base.c };
        other(Product { c: f32_result, ..base });
        for side in [1, 16, 17, 255, 256, 257, 768, 3072, 30_522, 65_535, 65_536] {
            assert!(class(side) >= side && class(side) <= side + (side / 8).max(15), "{side}: {}", class(side));
            assert_eq!(class(class(side)), class(side));
        }
    }

    #[test]
    fn the_fastest_that_runs() {
        assert_eq!(fastest(&[None, Some(2.0), Some(1.0), Some(1.0), Some(f32::NAN)]), Some(2));
        assert_eq!(fastest(&[None, None]), None);
        assert_eq!(fastest(&[]), None);
    }

    #[test]
    fn the_first_choice_stays() {
        let folder = tempfile::tempdir().unwrap();
        let choices = |device: &str, version| Choices::new(Some(folder.path().join("cache")), device, version);
        let (a, b) = ([1, 2, 3, 4, 5, 6, 7, u64::MAX], [9; 8]);
        let mut first = choices("a device", 120_905);
        assert_eq!(first.get("p"), None);
        assert_eq!(first.keep("p", a), Some(a));
        // Another process that measured at the same time finds it, and so does every later one.
        assert_eq!(choices("a device", 120_905).keep("p", b), Some(a));
        assert_eq!(choices("a device", 120_905).get("p"), Some(a));
        // Another device, another library, another problem.
        assert_eq!(choices("another device", 120_905).get("p"), None);
        assert_eq!(choices("a device", 120_906).get("p"), None);
        assert_eq!(first.get("q"), None);
        let names = || std::fs::read_dir(folder.path().join("cache")).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>();
        assert_eq!(names().len(), 1, "{:?}", names());
    }

    #[test]
    fn a_damaged_choice_is_none_and_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let choices = || Choices::new(Some(folder.path().to_owned()), "a device", 1);
        let (a, b) = ([7; 8], [8; 8]);
        choices().keep("p", a);
        let place = choices().place("p").unwrap();
        let whole = std::fs::read(&place).unwrap();
        let mut damaged: Vec<Vec<u8>> = (0..whole.len()).map(|cut| whole[..cut].to_vec()).collect();
        damaged.extend((0..whole.len()).map(|at| {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            changed
        }));
        damaged.extend([[&whole[..], b"x"].concat(), vec![0xff; 100]]);
        for bytes in damaged {
            std::fs::write(&place, &bytes).unwrap();
            assert_eq!(choices().get("p"), None, "{}", String::from_utf8_lossy(&bytes));
        }
        assert_eq!(choices().keep("p", b), Some(b));
        assert_eq!(choices().get("p"), Some(b));
    }

    #[test]
    fn where_nothing_can_be_kept_nothing_is_chosen() {
        let mut none = Choices::new(None, "a device", 1);
        assert!(!none.can_keep());
        assert_eq!(none.keep("p", [1; 8]), None);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        // A folder that is a file.
        assert_eq!(Choices::new(Some(file), "a device", 1).keep("p", [1; 8]), None);
    }
}
