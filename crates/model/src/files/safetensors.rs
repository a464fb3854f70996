//! safetensors files: read mapped, single or sharded; written whole or not at all.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

use cloze_tensor::Frozen;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::config::{brief, read_json};
use super::join::safe_join;
use super::mapped::{map, release};
use crate::error::ModelError;

/// A tensor on the host: its shape and its values.
pub type HostTensor = (Vec<usize>, Vec<f32>);

/// The tensors of one file or of all shards of an index.
pub struct TensorFiles {
    files: Vec<(PathBuf, memmap2::Mmap)>,
    places: HashMap<String, Place>,
    names: Vec<String>,
}

/// Where a tensor stands.
struct Place {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

impl TensorFiles {
    /// The weights of a model folder: `model.safetensors`, or the shards of `model.safetensors.index.json`.
    pub fn of_folder(folder: &Path) -> Result<Self, ModelError> {
        let single = folder.join("model.safetensors");
        let index = folder.join("model.safetensors.index.json");
        if single.exists() {
            Self::open(vec![single])
        } else if index.exists() {
            Self::sharded(folder, &index)
        } else if ["pytorch_model.bin", "pytorch_model.bin.index.json"].iter().any(|name| folder.join(name).exists()) {
            Err(ModelError::Unconverted { folder: folder.to_owned() })
        } else {
            Err(ModelError::NotAModel { folder: folder.to_owned(), missing: "model.safetensors" })
        }
    }

    /// These files together.
    pub fn open(paths: Vec<PathBuf>) -> Result<Self, ModelError> {
        let mut all = Self { files: Vec::new(), places: HashMap::new(), names: Vec::new() };
        for path in paths {
            let mapped = map(&path).map_err(ModelError::io(&path, "read"))?;
            let fault = |e: safetensors::SafeTensorError| ModelError::Tensors { path: path.clone(), fault: e.to_string() };
            let (header, metadata) = SafeTensors::read_metadata(&mapped).map_err(fault)?;
            let start = header + 8; // the length of the header stands before it, in 8 bytes
            for (name, info) in metadata.tensors() {
                let (from, to) = info.data_offsets;
                let place = Place { file: all.files.len(), dtype: info.dtype, shape: info.shape.clone(), bytes: start + from..start + to };
                if all.places.insert(name.clone(), place).is_some() {
                    let fault = format!("tensor `{name}` stands in another file of the model, too");
                    return Err(ModelError::Tensors { path, fault });
                }
                all.names.push(name);
            }
            all.files.push((path, mapped));
        }
        all.names.sort();
        Ok(all)
    }

    /// Give the memory of a tensor that was read back; the file stays mapped.
    pub fn release(&self, name: &str) {
        if let Some(place) = self.places.get(name) {
            release(&self.files[place.file].1, place.bytes.clone());
        }
    }

    /// The shards that an index names; each tensor must be where the index says.
    fn sharded(folder: &Path, index: &Path) -> Result<Self, ModelError> {
        let map = weight_map(folder, index)?;
        let mut shards: Vec<PathBuf> = map.values().cloned().collect();
        shards.sort();
        shards.dedup();
        let all = Self::open(shards)?;
        for (name, shard) in &map {
            if all.path_of(name) != Some(shard) {
                return Err(ModelError::NotInShard { path: index.to_owned(), name: name.clone(), shard: shard.clone() });
            }
        }
        Ok(all)
    }

    /// All tensor names, sorted.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The file that holds a tensor.
    pub fn path_of(&self, name: &str) -> Option<&Path> {
        Some(&self.files[self.places.get(name)?.file].0)
    }

    /// The shape and type name of a tensor.
    pub fn describe(&self, name: &str) -> Option<(Vec<usize>, String)> {
        let place = self.places.get(name)?;
        Some((place.shape.clone(), format!("{:?}", place.dtype)))
    }

    /// The mapped files, and for each tensor its file, element type, shape and first byte.
    #[allow(clippy::type_complexity)]
    pub(crate) fn into_parts(self) -> (Vec<(PathBuf, memmap2::Mmap)>, Vec<(String, (usize, Dtype, Vec<usize>, usize))>) {
        let places = self.places.into_iter().map(|(name, p)| (name, (p.file, p.dtype, p.shape, p.bytes.start))).collect();
        (self.files, places)
    }

    /// A tensor as it stands in its file: element type, shape, little-endian bytes.
    pub fn raw(&self, name: &str) -> Option<(Dtype, &[usize], &[u8])> {
        let place = self.places.get(name)?;
        Some((place.dtype, &place.shape, &self.files[place.file].1[place.bytes.clone()]))
    }

    /// A tensor as f32 values with its shape; `None` when there is none of that name.
    pub fn read(&self, name: &str) -> Result<Option<HostTensor>, ModelError> {
        let Some((dtype, shape, bytes)) = self.raw(name) else { return Ok(None) };
        let path = self.path_of(name).unwrap_or(Path::new("")).to_owned();
        let values =
            f32_values(dtype, bytes).ok_or_else(|| ModelError::TensorType { path, name: name.into(), found: format!("{dtype:?}") })?;
        Ok(Some((shape.to_vec(), values)))
    }

    /// The values of a tensor, lent from the file where they stand there as f32 or bf16; `None` when there is none of that name.
    pub fn values(&self, name: &str) -> Result<Option<Frozen<'_>>, ModelError> {
        let Some((dtype, _, bytes)) = self.raw(name) else { return Ok(None) };
        let lent = match dtype {
            _ if cfg!(target_endian = "big") => None,
            Dtype::F32 => bytemuck::try_cast_slice(bytes).ok().map(|v| Frozen::F32(Cow::Borrowed(v))),
            Dtype::BF16 => bytemuck::try_cast_slice(bytes).ok().map(|v| Frozen::Bf16(Cow::Borrowed(v))),
            _ => None,
        };
        match lent {
            Some(lent) => Ok(Some(lent)),
            // Of another type, or at an odd place.
            None => Ok(self.read(name)?.map(|(_, values)| Frozen::F32(values.into()))),
        }
    }

    /// A tensor of signed bytes, lent from the file; `None` when there is none of that name or it is none.
    pub fn bytes(&self, name: &str) -> Option<&[i8]> {
        let (dtype, _, bytes) = self.raw(name)?;
        (dtype == Dtype::I8).then(|| bytemuck::cast_slice(bytes))
    }

    /// A tensor of integers (indices, labels) as u32; `None` when there is none of that name or it is none.
    pub fn read_u32(&self, name: &str) -> Option<Vec<u32>> {
        let (dtype, _, bytes) = self.raw(name)?;
        match dtype {
            Dtype::I64 => each(bytes, |b| u32::try_from(i64::from_le_bytes(b)).ok()).collect(),
            Dtype::I32 => each(bytes, |b| u32::try_from(i32::from_le_bytes(b)).ok()).collect(),
            Dtype::U32 => each(bytes, |b| Some(u32::from_le_bytes(b))).collect(),
            _ => None,
        }
    }
}

/// Little-endian bytes of a floating-point type as f32; `None` for other types.
pub(crate) fn f32_values(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    Some(match dtype {
        Dtype::F32 => each(bytes, f32::from_le_bytes).collect(),
        Dtype::BF16 => each(bytes, |b| half::bf16::from_le_bytes(b).to_f32()).collect(),
        Dtype::F16 => each(bytes, |b| half::f16::from_le_bytes(b).to_f32()).collect(),
        Dtype::F64 => each(bytes, |b| f64::from_le_bytes(b) as f32).collect(),
        _ => return None,
    })
}

/// One value for every N bytes.
fn each<const N: usize, T>(bytes: &[u8], value: impl Fn([u8; N]) -> T) -> impl Iterator<Item = T> {
    bytes.as_chunks::<N>().0.iter().map(move |b| value(*b))
}

/// Tensor name → file, as a shard index has it; every file is inside the folder.
pub(crate) fn weight_map(folder: &Path, index: &Path) -> Result<BTreeMap<String, PathBuf>, ModelError> {
    let value = read_json(index)?;
    let bad = |found: String| ModelError::Key {
        path: index.to_owned(),
        key: "weight_map",
        expected: "an object of tensor names to file names",
        found,
    };
    let map = value.get("weight_map").and_then(|m| m.as_object()).ok_or_else(|| bad("no such object".into()))?;
    if map.is_empty() {
        return Err(bad("an empty object".into()));
    }
    let mut files = BTreeMap::new();
    for (name, target) in map {
        let target = target.as_str().ok_or_else(|| bad(brief(target)))?;
        files.insert(name.clone(), safe_join(folder, target, index, name)?);
    }
    Ok(files)
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
    write_views(path, views, metadata)
}

/// The same for whatever can be viewed as a tensor.
pub(crate) fn write_views<'a, V: safetensors::View>(
    path: &Path,
    views: impl IntoIterator<Item = (&'a str, V)>,
    metadata: &[(&str, String)],
) -> Result<(), ModelError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A file whose f32 tensor starts at an odd byte, as writers that do not sort by size make it.
    #[test]
    fn values_at_an_odd_place_are_copied_and_the_others_lent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let header = r#"{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[1],"data_offsets":[4,5]},"c":{"dtype":"F32","shape":[2],"data_offsets":[5,13]}}"#;
        let header = format!("{header:<0$}", header.len().next_multiple_of(8));
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.bytes());
        bytes.extend([1.5f32, -2.0].iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()));
        bytes.push(7);
        bytes.extend([0.25f32, 3.0].iter().flat_map(|v| v.to_le_bytes()));
        std::fs::write(&path, bytes).unwrap();
        let files = TensorFiles::open(vec![path]).unwrap();
        let halves = files.values("a").unwrap().unwrap();
        assert!(matches!(&halves, Frozen::Bf16(Cow::Borrowed(_))) && halves.values()[..] == [1.5, -2.0]);
        let odd = files.values("c").unwrap().unwrap();
        assert!(matches!(&odd, Frozen::F32(Cow::Owned(_))) && odd.values()[..] == [0.25, 3.0]);
        files.release("a");
        assert_eq!(files.values("a").unwrap().unwrap().values()[..], [1.5, -2.0], "pages come back");
        assert!(files.values("b").is_err() && files.values("d").unwrap().is_none() && files.bytes("b").is_none());
    }
}
