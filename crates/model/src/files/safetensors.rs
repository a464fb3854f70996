//! safetensors files: read mapped, single or sharded; written whole or not at all.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::config::read_json;
use super::mapped::{map, release};
use crate::error::ModelError;

/// A tensor on the host: its shape and its values.
pub type HostTensor = (Vec<usize>, Vec<f32>);

/// The tensors of one file or of all shards of an index.
pub struct TensorFiles {
    files: Vec<(PathBuf, memmap2::Mmap)>,
    /// Tensor name → file.
    places: HashMap<String, usize>,
    names: Vec<String>,
}

impl TensorFiles {
    /// The weights of a model folder: `model.safetensors`, or the shards of `model.safetensors.index.json`.
    pub fn of_folder(folder: &Path) -> Result<Self, ModelError> {
        let single = folder.join("model.safetensors");
        let index = folder.join("model.safetensors.index.json");
        if single.exists() {
            Self::open(vec![single])
        } else if index.exists() {
            Self::open(shards(folder, &index)?)
        } else {
            Err(ModelError::NotAModel { folder: folder.to_owned(), missing: "model.safetensors" })
        }
    }

    /// These files together.
    pub fn open(paths: Vec<PathBuf>) -> Result<Self, ModelError> {
        let mut all = Self { files: Vec::new(), places: HashMap::new(), names: Vec::new() };
        for path in paths {
            let mapped = map(&path).map_err(ModelError::io(&path, "read"))?;
            let names: Vec<String> = parse(&path, &mapped)?.names().into_iter().map(str::to_owned).collect();
            for name in names {
                all.places.insert(name.clone(), all.files.len());
                all.names.push(name);
            }
            all.files.push((path, mapped));
        }
        all.names.sort();
        Ok(all)
    }

    /// Give the memory of what was read so far back; the files stay mapped.
    pub fn release(&self) {
        self.files.iter().for_each(|(_, mapped)| release(mapped));
    }

    /// All tensor names, sorted.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The file that holds a tensor.
    pub fn path_of(&self, name: &str) -> Option<&Path> {
        Some(&self.files[*self.places.get(name)?].0)
    }

    /// The shape and type name of a tensor.
    pub fn describe(&self, name: &str) -> Option<(Vec<usize>, String)> {
        let (path, mapped) = &self.files[*self.places.get(name)?];
        let file = parse(path, mapped).ok()?;
        let view = file.tensor(name).ok()?;
        Some((view.shape().to_vec(), format!("{:?}", view.dtype())))
    }

    /// A tensor as f32 values with its shape; `None` when there is none of that name.
    pub fn read(&self, name: &str) -> Result<Option<HostTensor>, ModelError> {
        let Some(&place) = self.places.get(name) else { return Ok(None) };
        let (path, mapped) = &self.files[place];
        let file = parse(path, mapped)?;
        let view = file.tensor(name).map_err(|e| ModelError::Tensors { path: path.clone(), fault: e.to_string() })?;
        let values = match view.dtype() {
            Dtype::F32 => view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            Dtype::BF16 => view.data().chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            Dtype::F16 => view.data().chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            other => {
                return Err(ModelError::TensorType { path: path.clone(), name: name.into(), found: format!("{other:?}") });
            }
        };
        Ok(Some((view.shape().to_vec(), values)))
    }

    /// A tensor of signed bytes; `None` when there is none of that name or it is none.
    pub fn read_i8(&self, name: &str) -> Option<Vec<i8>> {
        let (path, mapped) = &self.files[*self.places.get(name)?];
        let file = parse(path, mapped).ok()?;
        let view = file.tensor(name).ok()?;
        (view.dtype() == Dtype::I8).then(|| bytemuck::cast_slice(view.data()).to_vec())
    }

    /// A tensor of integers (indices, labels) as u32; `None` when there is none of that name or it is none.
    pub fn read_u32(&self, name: &str) -> Option<Vec<u32>> {
        let (path, mapped) = &self.files[*self.places.get(name)?];
        let file = parse(path, mapped).ok()?;
        let view = file.tensor(name).ok()?;
        match view.dtype() {
            Dtype::I64 => view
                .data()
                .chunks_exact(8)
                .map(|b| u32::try_from(i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])).ok())
                .collect(),
            Dtype::I32 => view.data().chunks_exact(4).map(|b| u32::try_from(i32::from_le_bytes([b[0], b[1], b[2], b[3]])).ok()).collect(),
            Dtype::U32 => view.data().chunks_exact(4).map(|b| Some(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect(),
            _ => None,
        }
    }
}

fn parse<'a>(path: &Path, mapped: &'a memmap2::Mmap) -> Result<SafeTensors<'a>, ModelError> {
    SafeTensors::deserialize(mapped).map_err(|e| ModelError::Tensors { path: path.to_owned(), fault: e.to_string() })
}

/// The shard files that an index names, each inside the folder.
fn shards(folder: &Path, index: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let value = read_json(index)?;
    let bad = |found: String| ModelError::Key {
        path: index.to_owned(),
        key: "weight_map",
        expected: "an object of tensor names to file names",
        found,
    };
    let map = value.get("weight_map").and_then(|m| m.as_object()).ok_or_else(|| bad("no such object".into()))?;
    let mut files = BTreeMap::new();
    for (name, target) in map {
        let target = target.as_str().ok_or_else(|| bad(target.to_string()))?;
        // A shard is a plain file name of this folder, whatever an index says.
        if target.is_empty() || target.starts_with('.') || target.contains(['/', '\\', '\0', ':']) {
            return Err(ModelError::Escapes { path: index.to_owned(), name: name.clone(), target: target.into() });
        }
        files.insert(target.to_owned(), folder.join(target));
    }
    Ok(files.into_values().collect())
}

/// A tensor to write.
pub struct OutTensor<'a> {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values.
    pub values: OutValues<'a>,
}

/// Values to write.
#[derive(Clone, Copy, Debug)]
pub enum OutValues<'a> {
    /// Weights, activations.
    F32(&'a [f32]),
    /// Weights in half the size.
    Bf16(&'a [half::bf16]),
    /// Quantised weights.
    I8(&'a [i8]),
    /// Ids.
    I64(&'a [i64]),
}

/// Write tensors, through a temporary file, synced and renamed.
pub fn write(path: &Path, tensors: &[OutTensor], metadata: &[(&str, String)]) -> Result<(), ModelError> {
    let mut views = Vec::with_capacity(tensors.len());
    for t in tensors {
        let (dtype, bytes) = match t.values {
            OutValues::F32(values) => (Dtype::F32, bytemuck::cast_slice(values)),
            OutValues::Bf16(values) => (Dtype::BF16, bytemuck::cast_slice(values)),
            OutValues::I8(values) => (Dtype::I8, bytemuck::cast_slice(values)),
            OutValues::I64(values) => (Dtype::I64, bytemuck::cast_slice(values)),
        };
        let view = TensorView::new(dtype, t.shape.clone(), bytes)
            .map_err(|e| ModelError::Tensors { path: path.to_owned(), fault: format!("{}: {e}", t.name) })?;
        views.push((t.name.as_str(), view));
    }
    let metadata = metadata.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
    let temporary = path.with_extension("safetensors.part");
    safetensors::serialize_to_file(views, Some(metadata), &temporary).map_err(|e| {
        let _ = std::fs::remove_file(&temporary);
        ModelError::Io { path: path.to_owned(), action: "write", cause: std::io::Error::other(e.to_string()) }
    })?;
    let sync = || std::fs::File::open(&temporary)?.sync_all();
    sync().map_err(ModelError::io(&temporary, "sync"))?;
    std::fs::rename(&temporary, path).map_err(ModelError::io(path, "rename into"))
}
