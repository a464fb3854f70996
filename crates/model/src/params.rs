//! The table of a model's parameters: where each stands in the flat buffers, how it starts, and how it is trained.

use cloze_tensor::Param;
use cloze_tensor::random::{Key, Stream};

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Normal with this standard deviation, cut at two deviations (as BERT's release does).
    Normal(f32),
    /// Uniform from −b to b (the first matrix of a low-rank update).
    Uniform(f32),
    /// Zeros (biases).
    Zeros,
    /// Ones (gains of norms).
    Ones,
}

/// What a parameter is to the optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A weight matrix inside the body: decayed, and Muon's business. `parts` matrices are stacked in it (fused q, k, v).
    Hidden {
        /// How many matrices stand on top of each other.
        parts: usize,
    },
    /// An embedding table or a head's matrix: decayed.
    Table,
    /// A bias or a norm's gain: not decayed.
    Vector,
}

/// One parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Its name inside Cloze, such as `layer.3.attention.qkv.weight`. Families translate it.
    pub name: String,
    /// Its place in the flat buffers.
    pub param: Param,
    /// How it starts.
    pub init: Init,
    /// What it is to the optimizer.
    pub role: Role,
}

impl Spec {
    /// (units, elements of a unit): the rows of a matrix, the single elements of a vector.
    pub fn units(&self) -> (usize, usize) {
        match self.role {
            Role::Vector => (self.param.len(), 1),
            _ => (self.param.rows, self.param.cols),
        }
    }
}

/// All parameters of a model in the order of the flat buffers.
///
/// Each starts at a multiple of 16 elements (a cache line); the gaps hold zeros and stay zero.
///
/// A table may have two parts. What is a model's own (heads, low-rank updates) stands first, the body that it was put on behind it:
/// gradients and moments of a frozen body take no memory when their buffers end with the first part, and models on the same body
/// can share the second.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ParamTable {
    specs: Vec<Spec>,
    /// Elements of the first part.
    len: usize,
    body: Option<Body>,
}

/// The second part of a table.
#[derive(Clone, Debug, PartialEq)]
struct Body {
    start: usize,
    len: usize,
    /// Whether parameters are added here at the moment.
    open: bool,
}

const ALIGN: usize = 16;

impl ParamTable {
    /// An empty table of two parts, of which the first has room for `own` elements.
    pub(crate) fn parted(own: usize) -> Self {
        Self { specs: Vec::new(), len: 0, body: Some(Body { start: own, len: 0, open: false }) }
    }

    /// Whether parameters are added to the second part from now on; whether they were before. A table of one part stays as it is.
    pub(crate) fn body_part(&mut self, open: bool) -> bool {
        self.body.as_mut().is_some_and(|body| std::mem::replace(&mut body.open, open))
    }

    /// Add a parameter `[rows, cols]` and return its handle.
    pub fn add(&mut self, name: impl Into<String>, rows: usize, cols: usize, init: Init, role: Role) -> Param {
        let (start, len) = match &mut self.body {
            Some(body) if body.open => (body.start, &mut body.len),
            _ => (0, &mut self.len),
        };
        let param = Param { offset: start + *len, rows, cols };
        *len = (*len + param.len()).next_multiple_of(ALIGN);
        self.specs.push(Spec { name: name.into(), param, init, role });
        param
    }

    /// Elements of the flat buffers, gaps included.
    pub fn flat_len(&self) -> usize {
        self.body.as_ref().map_or(self.len, |body| body.start + body.len)
    }

    /// Elements of the first part; all of them where there is one part.
    pub fn own_len(&self) -> usize {
        self.len
    }

    /// Whether a parameter stands in the first part.
    pub fn is_own(&self, param: Param) -> bool {
        param.offset < self.len
    }

    /// The number of trained values.
    pub fn count(&self) -> usize {
        self.specs.iter().map(|s| s.param.len()).sum()
    }

    /// All parameters.
    pub fn specs(&self) -> &[Spec] {
        &self.specs
    }

    /// The parameter of that name.
    pub fn get(&self, name: &str) -> Option<&Spec> {
        self.specs.iter().find(|s| s.name == name)
    }

    /// The name of the parameter that holds element `index` of the flat buffers.
    pub fn name_at(&self, index: usize) -> Option<&str> {
        self.specs.iter().find(|s| s.param.range().contains(&index)).map(|s| s.name.as_str())
    }

    /// Initial values of all parameters: a function of the seed alone. // `f32 [flat_len]`
    pub fn init(&self, seed: u64) -> Vec<f32> {
        let mut values = vec![0.0; self.flat_len()];
        for spec in &self.specs {
            self.init_one(spec, seed, &mut values);
        }
        values
    }

    /// Initial values of one parameter, written to its place in `values` (flat).
    pub fn init_one(&self, spec: &Spec, seed: u64, values: &mut [f32]) {
        values[spec.param.range()].copy_from_slice(&spec.initial(seed));
    }
}

impl Spec {
    /// Its initial values. // `[rows · cols]`
    pub fn initial(&self, seed: u64) -> Vec<f32> {
        let len = self.param.len();
        match self.init {
            Init::Zeros => vec![0.0; len],
            Init::Ones => vec![1.0; len],
            // Keyed by the name, so that adding a head does not change the body's start.
            Init::Normal(deviation) => {
                let key = Key::new(seed, Stream::Init, name_hash(&self.name), 0);
                (0..len as u64).map(|i| deviation * truncated_normal(&key, i)).collect()
            }
            Init::Uniform(bound) => {
                let key = Key::new(seed, Stream::Init, name_hash(&self.name), 0);
                (0..len as u64).map(|i| bound * (2.0 * key.uniform(i) - 1.0)).collect()
            }
        }
    }
}

/// Standard normal cut at ±2, by drawing again.
fn truncated_normal(key: &Key, index: u64) -> f32 {
    for attempt in 0..64u64 {
        let v = key.normal(index + (attempt << 40));
        if v.abs() <= 2.0 {
            return v;
        }
    }
    0.0
}

/// FNV-1a, 64 bits: a fixed function of the name.
fn name_hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_aligned_and_named() {
        let mut table = ParamTable::default();
        let a = table.add("a", 3, 5, Init::Normal(0.02), Role::Table);
        let b = table.add("b", 1, 5, Init::Ones, Role::Vector);
        assert_eq!((a.offset, b.offset, table.flat_len(), table.count()), (0, 16, 32, 20));
        let values = table.init(1);
        assert!(values[..15].iter().all(|v| *v != 0.0 && v.abs() <= 0.04));
        assert_eq!((values[15], &values[16..21], values[21]), (0.0, &[1.0; 5][..], 0.0));
        assert_eq!((table.name_at(17), table.name_at(15)), (Some("b"), None));
        assert_ne!(values, table.init(2));
    }

    #[test]
    fn what_is_own_stands_first() {
        let fill = |mut table: ParamTable| {
            table.body_part(true);
            table.add("body", 2, 20, Init::Uniform(0.5), Role::Table);
            table.body_part(false);
            table.add("head", 1, 3, Init::Ones, Role::Vector);
            table
        };
        let table = fill(ParamTable::parted(fill(ParamTable::parted(0)).own_len()));
        let offset = |name: &str| table.get(name).unwrap().param.offset;
        assert_eq!((offset("head"), offset("body"), table.own_len(), table.flat_len(), table.count()), (0, 16, 16, 64, 43));
        assert!(table.is_own(table.get("head").unwrap().param) && !table.is_own(table.get("body").unwrap().param));
        let values = table.init(4);
        assert!(values[16..56].iter().all(|v| v.abs() <= 0.5) && values[16..56].iter().any(|v| *v < 0.0));
        assert_eq!(fill(ParamTable::default()).own_len(), 64);
    }
}
