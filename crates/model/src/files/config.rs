//! Typed reading of config.json: every fault names the file and the key.

use std::path::{Path, PathBuf};

use cloze_tensor::ops::activation::Activation;
use serde_json::Value;

use crate::error::ModelError;

/// A parsed config.json.
#[derive(Clone, Debug)]
pub struct Config {
    path: PathBuf,
    value: Value,
}

/// The longest JSON file that is read. The index of a model of a thousand layers has a few megabytes.
const JSON_LIMIT: u64 = 64 << 20;

/// Read a JSON file.
///
/// # Errors
/// When it cannot be read, is longer than 64 MiB, or is no JSON.
pub fn read_json(path: &Path) -> Result<Value, ModelError> {
    let size = std::fs::metadata(path).map_err(ModelError::io(path, "read"))?.len();
    if size > JSON_LIMIT {
        return Err(ModelError::TooLarge { path: path.to_owned(), bytes: size, limit: JSON_LIMIT });
    }
    let bytes = std::fs::read(path).map_err(ModelError::io(path, "read"))?;
    serde_json::from_slice(&bytes).map_err(|e| ModelError::Json {
        path: path.to_owned(),
        line: e.line(),
        column: e.column(),
        problem: e.to_string(),
    })
}

/// The name that Hugging Face gives an activation.
pub fn act_name(activation: Activation) -> &'static str {
    match activation {
        Activation::Gelu => "gelu",
        Activation::GeluTanh => "gelu_new",
        Activation::Relu => "relu",
        Activation::Silu => "silu",
        Activation::Tanh => "tanh",
    }
}

/// The activation of that name.
pub fn act_of(name: &str) -> Option<Activation> {
    Some(match name {
        "gelu" | "gelu_python" => Activation::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" | "gelu_tanh" => Activation::GeluTanh,
        "relu" => Activation::Relu,
        "silu" | "swish" => Activation::Silu,
        "tanh" => Activation::Tanh,
        _ => return None,
    })
}

impl Config {
    /// Read config.json.
    pub fn read(path: &Path) -> Result<Self, ModelError> {
        let value = read_json(path)?;
        if !value.is_object() {
            return Err(ModelError::Key { path: path.to_owned(), key: "(top)", expected: "an object", found: brief(&value) });
        }
        Ok(Self { path: path.to_owned(), value })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The value of a key; null counts as absent.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.value.get(key).filter(|v| !v.is_null())
    }

    fn fault(&self, key: &'static str, expected: &'static str) -> ModelError {
        let found = self.get(key).map_or("nothing".into(), brief);
        ModelError::Key { path: self.path.clone(), key, expected, found }
    }

    /// A string that must be there.
    pub fn text(&self, key: &'static str) -> Result<&str, ModelError> {
        self.get(key).and_then(Value::as_str).ok_or_else(|| self.fault(key, "a string"))
    }

    /// A size that must be there.
    pub fn size(&self, key: &'static str) -> Result<usize, ModelError> {
        let size = self.get(key).and_then(Value::as_u64).and_then(|v| usize::try_from(v).ok());
        size.filter(|v| *v < 1 << 40).ok_or_else(|| self.fault(key, "a whole number of at least 0"))
    }

    /// A size, or what the family takes without one.
    pub fn size_or(&self, key: &'static str, default: usize) -> Result<usize, ModelError> {
        self.get(key).map_or(Ok(default), |_| self.size(key))
    }

    /// A number, or what the family takes without one.
    pub fn number_or(&self, key: &'static str, default: f32) -> Result<f32, ModelError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_f64().map(|v| v as f32).filter(|v| v.is_finite() && *v >= 0.0).ok_or_else(|| self.fault(key, "a number of at least 0"))
    }

    /// A number in [0, 1), or what the family takes without one.
    pub fn share_or(&self, key: &'static str, default: f32) -> Result<f32, ModelError> {
        let share = self.number_or(key, default)?;
        if share < 1.0 { Ok(share) } else { Err(self.fault(key, "a number from 0 to below 1")) }
    }

    /// A flag, or what the family takes without one.
    pub fn flag_or(&self, key: &'static str, default: bool) -> Result<bool, ModelError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.fault(key, "true or false"))
    }

    /// An activation by name, or the family's own.
    pub fn activation_or(&self, key: &'static str, default: &str) -> Result<Activation, ModelError> {
        let name = match self.get(key) {
            Some(_) => self.text(key)?,
            None => default,
        };
        act_of(name).ok_or_else(|| self.unknown(key, name, "gelu, gelu_new, relu, silu, tanh"))
    }

    /// The `architectures` entry, if any.
    pub fn architecture(&self) -> Option<&str> {
        self.get("architectures")?.as_array()?.first()?.as_str()
    }

    /// The labels of `id2label`, in the order of their ids.
    pub fn labels(&self) -> Result<Vec<String>, ModelError> {
        let Some(map) = self.get("id2label") else { return Ok(vec![]) };
        let bad = || self.fault("id2label", "an object of ids 0, 1, … to names");
        let map = map.as_object().ok_or_else(bad)?;
        let label = |i: usize| map.get(&i.to_string()).and_then(Value::as_str).map(str::to_owned).ok_or_else(bad);
        (0..map.len()).map(label).collect()
    }

    /// An error that says which values would do.
    pub fn unknown(&self, key: &'static str, found: &str, known: &str) -> ModelError {
        ModelError::Unknown { path: self.path.clone(), key, found: found.into(), known: known.into() }
    }

    /// Refuse a string that changes the model in a way Cloze does not have.
    pub fn refuse_unless(&self, key: &'static str, only: &'static str) -> Result<(), ModelError> {
        match self.get(key) {
            Some(v) if v.as_str() != Some(only) => Err(self.unknown(key, brief(v).trim_matches('"'), only)),
            _ => Ok(()),
        }
    }

    /// The same for a size.
    pub fn refuse_unless_size(&self, key: &'static str, only: usize) -> Result<(), ModelError> {
        match self.get(key) {
            Some(v) if v.as_u64() != Some(only as u64) => Err(self.unknown(key, &brief(v), &only.to_string())),
            _ => Ok(()),
        }
    }

    /// The same for a flag.
    pub fn refuse_unless_flag(&self, key: &'static str, only: bool) -> Result<(), ModelError> {
        match self.get(key) {
            Some(v) if v.as_bool() != Some(only) => Err(self.unknown(key, &brief(v), if only { "true" } else { "false" })),
            _ => Ok(()),
        }
    }
}

/// A value in at most 60 characters.
pub(crate) fn brief(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
