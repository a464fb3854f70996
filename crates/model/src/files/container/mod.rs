//! Checkpoints as other programs wrote them, brought to one form: names, shapes and little-endian bytes, mapped and not copied.
//!
//! What is read: safetensors (single, sharded), PyTorch's `pytorch_model.bin` (zip and the older form, single, sharded) and TensorFlow's checkpoints
//! (`bert_model.ckpt.index` with its data files). `cloze convert` writes any of them as safetensors.

mod pickle;
mod table;
mod tensorflow;
mod torch;
mod zip;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use safetensors::Dtype;

use super::mapped::map;
use super::safetensors::{TensorFiles, f32_values, weight_map};
use crate::error::ModelError;

/// Which program wrote a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// safetensors.
    Safetensors,
    /// `torch.save`.
    PyTorch,
    /// TensorFlow's saver, as google-research/bert used it.
    TensorFlow,
}

/// A tensor of a container.
#[derive(Clone, Debug)]
struct Stored {
    shape: Vec<usize>,
    dtype: Dtype,
    file: usize,
    /// First byte.
    start: usize,
    /// Steps between neighbours along each dimension, in elements.
    strides: Vec<usize>,
}

impl Stored {
    fn len(&self) -> usize {
        self.shape.iter().product()
    }

    fn is_contiguous(&self) -> bool {
        let mut step = 1;
        for (&d, &s) in self.shape.iter().zip(&self.strides).rev() {
            if d != 1 && s != step {
                return false;
            }
            step *= d;
        }
        true
    }
}

/// The strides of a dense tensor.
fn dense(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i];
    }
    strides
}

/// Tensors of a checkpoint by name, mapped.
pub struct Container {
    origin: Origin,
    files: Vec<(PathBuf, memmap2::Mmap)>,
    tensors: BTreeMap<String, Stored>,
    notes: Vec<String>,
    /// What all tensors together may hold, in bytes: views of one storage under many names must not fill a disk.
    room: usize,
}

impl std::fmt::Debug for Container {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Container").field("origin", &self.origin).field("tensors", &self.tensors.len()).finish()
    }
}

impl Container {
    /// Open what `path` names: a folder that holds weights of one of the kinds, a `.safetensors`, `.bin`, `.pt` or `.pth` file, or a TensorFlow
    /// checkpoint by its prefix (`bert_model.ckpt`) or its `.index` file.
    ///
    /// # Errors
    /// Names the file and what is wrong in it.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        if path.is_dir() {
            return Self::of_folder(path);
        }
        let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        if let Some(prefix) = name.strip_suffix(".index") {
            return Self::tensorflow(&path.with_file_name(prefix));
        }
        if path.is_file() {
            return if name.ends_with(".safetensors") {
                Self::safetensors(TensorFiles::open(vec![path.to_owned()])?)
            } else {
                Self::torch(&[path.to_owned()])
            };
        }
        Self::tensorflow(path)
    }

    fn of_folder(folder: &Path) -> Result<Self, ModelError> {
        let there = |name: &str| folder.join(name).exists();
        if there("model.safetensors") || there("model.safetensors.index.json") {
            return Self::safetensors(TensorFiles::of_folder(folder)?);
        }
        if there("pytorch_model.bin") {
            return Self::torch(&[folder.join("pytorch_model.bin")]);
        }
        let index = folder.join("pytorch_model.bin.index.json");
        if index.exists() {
            let map = weight_map(folder, &index)?;
            let mut shards: Vec<PathBuf> = map.values().cloned().collect();
            shards.sort();
            shards.dedup();
            let all = Self::torch(&shards)?;
            if let Some((name, shard)) = map.iter().find(|(name, shard)| all.path_of(name) != Some(shard)) {
                return Err(ModelError::NotInShard { path: index, name: name.clone(), shard: shard.clone() });
            }
            return Ok(all);
        }
        match tensorflow::prefix_in(folder)? {
            Some(prefix) => Self::tensorflow(&prefix),
            None => {
                let missing = "model.safetensors, pytorch_model.bin or bert_model.ckpt.index";
                Err(ModelError::NotAModel { folder: folder.to_owned(), missing })
            }
        }
    }

    /// The safetensors of a folder, and nothing else: pickles are for conversions alone.
    ///
    /// # Errors
    /// As [`TensorFiles::of_folder`].
    pub fn of_safetensors(folder: &Path) -> Result<Self, ModelError> {
        Self::safetensors(TensorFiles::of_folder(folder)?)
    }

    fn new(origin: Origin) -> Self {
        Self { origin, files: Vec::new(), tensors: BTreeMap::new(), notes: Vec::new(), room: 0 }
    }

    fn safetensors(files: TensorFiles) -> Result<Self, ModelError> {
        let mut all = Self::new(Origin::Safetensors);
        let (mapped, places) = files.into_parts();
        for (path, file) in mapped {
            all.add_file(path, file);
        }
        for (name, (file, dtype, shape, start)) in places {
            let strides = dense(&shape);
            all.add(name, Stored { shape, dtype, file, start, strides })?;
        }
        Ok(all)
    }

    fn torch(paths: &[PathBuf]) -> Result<Self, ModelError> {
        let mut all = Self::new(Origin::PyTorch);
        for path in paths {
            let file = map(path).map_err(ModelError::io(path, "read"))?;
            let read = torch::tensors(path, &file)?;
            let index = all.add_file(path.clone(), file);
            all.notes.extend(read.notes);
            for (name, tensor) in read.tensors {
                all.add(name, Stored { file: index, ..tensor })?;
            }
        }
        if all.tensors.is_empty() {
            let path = paths.first().cloned().unwrap_or_default();
            return Err(ModelError::Container { path, format: "PyTorch checkpoint", fault: "it holds no tensors under names".into() });
        }
        Ok(all)
    }

    fn tensorflow(prefix: &Path) -> Result<Self, ModelError> {
        tensorflow::open(prefix)
    }

    fn add_file(&mut self, path: PathBuf, file: memmap2::Mmap) -> usize {
        // Tied weights are written twice by some; more than that is no checkpoint.
        self.room = self.room.saturating_add(file.len().saturating_mul(4));
        self.files.push((path, file));
        self.files.len() - 1
    }

    /// Add a tensor, once it is sure to lie within its file.
    fn add(&mut self, name: String, tensor: Stored) -> Result<(), ModelError> {
        let (path, file) = &self.files[tensor.file];
        let fault =
            |fault: String| ModelError::Container { path: path.clone(), format: "checkpoint", fault: format!("tensor `{name}`: {fault}") };
        let width = width(tensor.dtype);
        let len = tensor.shape.iter().try_fold(1usize, |a, &b| a.checked_mul(b));
        let last =
            tensor.shape.iter().zip(&tensor.strides).try_fold(0usize, |at, (&d, &s)| at.checked_add(d.saturating_sub(1).checked_mul(s)?));
        let end = match (len, last) {
            (Some(0), _) => Some(tensor.start),
            (Some(_), Some(last)) => last.checked_add(1).and_then(|n| n.checked_mul(width)).and_then(|n| n.checked_add(tensor.start)),
            _ => None,
        };
        if end.is_none_or(|end| end > file.len()) {
            return Err(fault(format!("shape {:?} reaches beyond the end of the file", tensor.shape)));
        }
        let bytes = len.and_then(|n| n.checked_mul(width)).unwrap_or(usize::MAX);
        if bytes > file.len() || bytes > self.room {
            return Err(fault(format!("shape {:?} repeats values until there are more than the file holds", tensor.shape)));
        }
        self.room -= bytes;
        self.tensors.insert(name, tensor);
        Ok(())
    }

    /// Which program wrote it.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// What a reader should know: entries that are no tensors, values that are skipped.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The file that holds a tensor.
    pub fn path_of(&self, name: &str) -> Option<&Path> {
        Some(&self.files[self.tensors.get(name)?.file].0)
    }

    /// Shape and element type of a tensor.
    pub fn describe(&self, name: &str) -> Option<(&[usize], Dtype)> {
        self.tensors.get(name).map(|t| (t.shape.as_slice(), t.dtype))
    }

    /// Names that are the same values in the same place as another: copies of tied weights, which every loader makes anew. Where a projection
    /// (`decoder`) shares with something else, the projection is the copy.
    pub fn copies(&self) -> Vec<String> {
        type Place<'a> = (usize, usize, &'a [usize], &'a [usize]); // file, start, shape, strides
        let mut by_place: BTreeMap<Place, Vec<&String>> = BTreeMap::new();
        for (name, t) in self.tensors.iter().filter(|(_, t)| t.len() > 0) {
            by_place.entry((t.file, t.start, &t.shape, &t.strides)).or_default().push(name);
        }
        let is_copy = |name: &str| name.split('.').any(|part| part == "decoder");
        let mut copies = Vec::new();
        for names in by_place.values().filter(|names| names.iter().any(|n| !is_copy(n))) {
            copies.extend(names.iter().filter(|n| is_copy(n)).map(|n| (*n).clone()));
        }
        copies.sort();
        copies
    }

    /// Give every tensor the name that `rename` gives it; those without one are left out.
    pub fn rename(&mut self, rename: impl Fn(&str) -> Option<String>) {
        let tensors = std::mem::take(&mut self.tensors);
        self.tensors = tensors.into_iter().filter_map(|(name, t)| Some((rename(&name)?, t))).collect();
    }

    /// Little-endian bytes of a tensor, row by row: as they lie in the file where they lie so.
    pub fn bytes(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let t = self.tensors.get(name)?;
        let file = &self.files[t.file].1;
        let width = width(t.dtype);
        if t.is_contiguous() {
            return Some(Cow::Borrowed(&file[t.start..t.start + t.len() * width]));
        }
        let mut out = Vec::with_capacity(t.len() * width);
        let mut place = vec![0usize; t.shape.len()];
        for _ in 0..t.len() {
            let at = t.start + width * place.iter().zip(&t.strides).map(|(p, s)| p * s).sum::<usize>();
            out.extend_from_slice(&file[at..at + width]);
            for i in (0..place.len()).rev() {
                place[i] += 1;
                if place[i] < t.shape[i] {
                    break;
                }
                place[i] = 0;
            }
        }
        Some(Cow::Owned(out))
    }

    /// A floating-point tensor as f32.
    pub fn f32(&self, name: &str) -> Option<Vec<f32>> {
        f32_values(self.tensors.get(name)?.dtype, &self.bytes(name)?)
    }

    /// Write all tensors as one safetensors file, through a temporary one, synced and renamed; floating-point ones as `dtype`, where it is given.
    /// Memory: one tensor at a time.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path, dtype: Option<Dtype>) -> Result<(), ModelError> {
        let views = self.tensors.keys().map(|name| (name.as_str(), Out { container: self, name, dtype }));
        super::safetensors::write_views(path, views, &[("format", "pt".into())])
    }
}

/// Bytes of an element.
fn width(dtype: Dtype) -> usize {
    dtype.bitsize().div_ceil(8)
}

fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16)
}

/// A tensor on its way into a file.
struct Out<'a> {
    container: &'a Container,
    name: &'a str,
    dtype: Option<Dtype>,
}

impl Out<'_> {
    fn stored(&self) -> &Stored {
        &self.container.tensors[self.name]
    }
}

impl safetensors::View for Out<'_> {
    fn dtype(&self) -> Dtype {
        let own = self.stored().dtype;
        self.dtype.filter(|_| is_float(own)).unwrap_or(own)
    }

    fn shape(&self) -> &[usize] {
        &self.stored().shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let bytes = self.container.bytes(self.name).unwrap_or_default();
        let to = safetensors::View::dtype(self);
        if to == self.stored().dtype {
            return bytes;
        }
        let values = f32_values(self.stored().dtype, &bytes).unwrap_or_default();
        Cow::Owned(match to {
            Dtype::F16 => values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
            Dtype::BF16 => values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        })
    }

    fn data_len(&self) -> usize {
        self.stored().len() * width(safetensors::View::dtype(self))
    }
}
