//! `pytorch_model.bin`: what `torch.save` writes of a state dictionary. Since PyTorch 1.6 a zip archive with a pickle (`data.pkl`) and one stored
//! entry for each storage; before, four pickles and then the storages, one after another.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use super::pickle::{Fault, Id, Node, Pickle, Tensor};
use super::{Stored, width, zip};
use crate::error::ModelError;

const FORMAT: &str = "PyTorch checkpoint";
/// The longest description that is read; that of a model of a thousand layers has a few megabytes.
const PICKLE_LIMIT: usize = 64 << 20;
/// Tensors of a model, and bytes of a tensor's name.
const TENSOR_LIMIT: usize = 1 << 17;
const NAME_LIMIT: usize = 1024;
/// What the first pickle of the old form says: 0x1950a86a20f9469cfc6c.
const OLD_MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

pub(super) struct Read {
    pub(super) tensors: Vec<(String, Stored)>,
    pub(super) notes: Vec<String>,
}

fn damaged(path: &Path, fault: impl Into<String>) -> ModelError {
    ModelError::Container { path: path.to_owned(), format: FORMAT, fault: fault.into() }
}

fn told(path: &Path, fault: Fault) -> ModelError {
    match fault {
        Fault::Damaged(fault) => damaged(path, fault),
        Fault::Refused(what) => ModelError::Refused { path: path.to_owned(), what },
    }
}

/// The tensors of a file.
pub(super) fn tensors(path: &Path, file: &[u8]) -> Result<Read, ModelError> {
    if file.starts_with(b"PK") {
        archive(path, file)
    } else if file.first() == Some(&0x80) {
        old(path, file)
    } else {
        let pointer = file.starts_with(b"version https://git-lfs");
        Err(damaged(
            path,
            if pointer {
                "it is a pointer of git-lfs, not the file: fetch it"
            } else {
                "it begins neither like a zip archive nor like a pickle"
            },
        ))
    }
}

fn archive(path: &Path, file: &[u8]) -> Result<Read, ModelError> {
    let directory = zip::entries(file).map_err(|fault| damaged(path, fault))?;
    let entries: HashMap<String, Range<usize>> = directory.iter().map(|(name, entry)| (name.clone(), entry.bytes.clone())).collect();
    let mut pickles: Vec<&String> = entries.keys().filter(|n| *n == "data.pkl" || n.ends_with("/data.pkl")).collect();
    pickles.sort_by_key(|n| n.len());
    let name = pickles.first().ok_or_else(|| damaged(path, "the archive has no data.pkl: it was not written by torch.save"))?;
    let prefix = name.strip_suffix("data.pkl").unwrap_or("");
    if let Some(order) = entries.get(&format!("{prefix}byteorder"))
        && &file[order.clone()] != b"little"
    {
        return Err(damaged(path, "its numbers are big-endian; save it on a little-endian machine"));
    }
    let pickle = read_pickle(path, &file[entries[*name].clone()])?;
    let mut places = HashMap::new();
    for storage in pickle.storages() {
        let entry = format!("{prefix}data/{}", storage.key);
        let range = entries.get(&entry).ok_or_else(|| damaged(path, format!("the archive has no \"{entry}\", which tensors lie in")))?;
        places.insert(storage.key.clone(), range.clone());
    }
    let mut read = collect(path, &pickle, &places)?;
    // PyTorch can be told to leave the checksums out, so that a wrong one is no proof of damage.
    let mut wrong: Vec<&String> =
        directory.iter().filter(|(_, e)| crc32fast::hash(&file[e.bytes.clone()]) != e.crc).map(|(name, _)| name).collect();
    wrong.sort();
    if let Some(first) = wrong.first() {
        read.notes.push(format!(
            "{}: {} entries do not match their checksums, {first} the first: the file may be damaged",
            path.display(),
            wrong.len()
        ));
    }
    Ok(read)
}

fn read_pickle(path: &Path, bytes: &[u8]) -> Result<Pickle, ModelError> {
    if bytes.len() > PICKLE_LIMIT {
        return Err(ModelError::TooLarge { path: path.to_owned(), bytes: bytes.len() as u64, limit: PICKLE_LIMIT as u64 });
    }
    Pickle::read(bytes).map_err(|fault| told(path, fault))
}

fn old(path: &Path, file: &[u8]) -> Result<Read, ModelError> {
    let mut at = 0;
    let mut next = || {
        // The description stands before the storages: more than the limit is never looked at.
        let pickle = Pickle::read(&file[at..file.len().min(at + PICKLE_LIMIT)]).map_err(|fault| told(path, fault))?;
        at += pickle.end;
        Ok::<(Pickle, usize), ModelError>((pickle, at))
    };
    let (magic, _) = next()?;
    if !matches!(magic.node(magic.root), Node::Long(bytes) if *bytes == OLD_MAGIC) {
        return Err(damaged(path, "a pickle, but not one of torch.save"));
    }
    let (version, _) = next()?;
    if !matches!(version.node(version.root), Node::Int(1001)) {
        return Err(damaged(path, "the old form of torch.save in a version other than 1001"));
    }
    let (system, _) = next()?;
    if let Node::Dict(entries) = system.node(system.root) {
        let little = entries.iter().find(|(key, _)| system.text(*key) == Some("little_endian"));
        if little.is_some_and(|(_, value)| matches!(system.node(*value), Node::Bool(false))) {
            return Err(damaged(path, "its numbers are big-endian; save it on a little-endian machine"));
        }
    }
    let (pickle, _) = next()?;
    let (keys, mut at) = next()?;
    let Node::List(order) = keys.node(keys.root) else { return Err(damaged(path, "no list of storages after the description")) };
    let widths: HashMap<&str, usize> = pickle.storages().map(|s| (s.key.as_str(), width(s.dtype))).collect();
    let mut places = HashMap::new();
    for &key in order {
        let key = keys.text(key).ok_or_else(|| damaged(path, "a storage whose key is no text"))?;
        let width = *widths.get(key).ok_or_else(|| damaged(path, format!("storage \"{key}\" belongs to no tensor")))?;
        let cut = || damaged(path, format!("it ends within storage \"{key}\": the file is cut off"));
        let count = file.get(at..at + 8).and_then(|b| b.first_chunk::<8>()).map(|b| i64::from_le_bytes(*b)).ok_or_else(cut)?;
        let bytes = usize::try_from(count).ok().and_then(|n| n.checked_mul(width)).ok_or_else(cut)?;
        let end = (at + 8).checked_add(bytes).filter(|end| *end <= file.len()).ok_or_else(cut)?;
        places.insert(key.to_owned(), at + 8..end);
        at = end;
    }
    collect(path, &pickle, &places)
}

/// The tensors of the description, each at its place in the file.
fn collect(path: &Path, pickle: &Pickle, places: &HashMap<String, Range<usize>>) -> Result<Read, ModelError> {
    let mut read = Read { tensors: Vec::new(), notes: Vec::new() };
    let Some(entries) = state(pickle, pickle.root, 0) else { return Ok(read) };
    let mut others = 0;
    for &(key, value) in entries {
        let (Some(name), Node::Tensor(tensor)) = (pickle.text(key), pickle.node(value)) else {
            others += 1;
            continue;
        };
        if name.len() > NAME_LIMIT || read.tensors.len() >= TENSOR_LIMIT {
            return Err(damaged(path, format!("more than {TENSOR_LIMIT} tensors, or a name of more than {NAME_LIMIT} bytes")));
        }
        read.tensors.push((name.to_owned(), stored(path, name, tensor, places)?));
    }
    if others > 0 {
        read.notes.push(format!("{}: {others} entries are no tensors and were left out", path.display()));
    }
    Ok(read)
}

/// The dictionary of tensors: the whole, or what a training loop put it under.
fn state(pickle: &Pickle, id: Id, depth: usize) -> Option<&Vec<(Id, Id)>> {
    let Node::Dict(entries) = pickle.node(id) else { return None };
    if entries.iter().any(|(_, value)| matches!(pickle.node(*value), Node::Tensor(_))) {
        return Some(entries);
    }
    if depth == 3 {
        return None;
    }
    let under = ["state_dict", "model_state_dict", "model", "module"];
    let inner = under.iter().find_map(|name| entries.iter().find(|(key, _)| pickle.text(*key) == Some(name)));
    inner.and_then(|(_, value)| state(pickle, *value, depth + 1))
}

fn stored(path: &Path, name: &str, tensor: &Tensor, places: &HashMap<String, Range<usize>>) -> Result<Stored, ModelError> {
    let beyond = || damaged(path, format!("tensor `{name}` reaches beyond its storage \"{}\"", tensor.storage.key));
    let place = places.get(&tensor.storage.key).ok_or_else(beyond)?;
    let width = width(tensor.storage.dtype);
    let room = place.len() / width;
    if tensor.storage.len > room {
        return Err(damaged(
            path,
            format!("storage \"{}\" should hold {} values and holds {room}", tensor.storage.key, tensor.storage.len),
        ));
    }
    let last = tensor
        .shape
        .iter()
        .zip(&tensor.strides)
        .try_fold(tensor.offset, |at, (&d, &s)| at.checked_add(d.saturating_sub(1).checked_mul(s)?));
    let empty = tensor.shape.contains(&0);
    if !empty && last.is_none_or(|last| last >= tensor.storage.len) {
        return Err(beyond());
    }
    let start = if empty { place.start } else { place.start + tensor.offset * width };
    Ok(Stored { shape: tensor.shape.clone(), dtype: tensor.storage.dtype, file: 0, start, strides: tensor.strides.clone() })
}
