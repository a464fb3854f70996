//! Encoders that several loaded models have in common, kept once: heads that were trained on one frozen encoder, and adapters over one base.
//!
//! Whether two encoders are equal is told by the SHA-256 of their tensors, as they are read, and of the form that they are multiplied in; where
//! they were loaded from does not matter.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use cloze_model::ModelError;
use cloze_model::files::adapter::Beside;
use cloze_model::params::Spec;
use cloze_tensor::{Backend, Frozen, Operands, Weights};
use sha2::{Digest, Sha256};

/// The hash of an encoder.
pub(crate) type Key = [u8; 32];

/// The encoders of a process by their hashes. An encoder lives as long as a model that uses it.
#[derive(Default)]
pub struct Encoders {
    kept: Mutex<HashMap<Key, Weak<dyn Any + Send + Sync>>>,
}

impl Encoders {
    /// How many encoders are in use.
    pub fn count(&self) -> usize {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.values().filter(|encoder| encoder.strong_count() > 0).count()
    }

    /// The encoder of a model, and its hash: one that is there already, or one that is made now.
    pub(crate) fn of<B: Backend>(
        &self,
        backend: &B,
        beside: &Beside,
        operands: impl Fn(&Spec) -> Operands,
    ) -> Result<(Arc<Weights<B>>, Key), ModelError> {
        let key = hash(beside, &operands)?;
        // Held while an encoder is made, so that two that are loaded at once are one.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, encoder| encoder.strong_count() > 0);
        if let Some(encoder) = kept.get(&key).and_then(Weak::upgrade).and_then(|e| e.downcast::<Weights<B>>().ok()) {
            return Ok((encoder, key));
        }
        let encoder = Arc::new(beside.model.freeze_body(backend, operands, |spec, take| beside.lend(spec, take))?);
        let any: Arc<dyn Any + Send + Sync> = encoder.clone();
        kept.insert(key, Arc::downgrade(&any));
        Ok((encoder, key))
    }
}

impl std::fmt::Debug for Encoders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoders").field("count", &self.count()).finish_non_exhaustive()
    }
}

/// The hash of a body: names, shapes, forms and values of its parameters, in their order.
fn hash(beside: &Beside, operands: impl Fn(&Spec) -> Operands) -> Result<Key, ModelError> {
    let mut hash = Sha256::new();
    for spec in beside.model.body_specs() {
        let form = operands(spec).name();
        hash.update(format!("{}\0{}\0{}\0{form}\0", spec.name, spec.param.rows, spec.param.cols));
        beside.lend(spec, &mut |held| match held {
            Frozen::Int8 { values, scales } => {
                hash.update(values.iter().map(|v| v.cast_unsigned()).collect::<Vec<u8>>());
                numbers(&mut hash, scales);
            }
            // the same values in another type are the same values
            Frozen::F32(_) | Frozen::Bf16(_) => numbers(&mut hash, &held.values()),
        })?;
    }
    Ok(hash.finalize().into())
}

fn numbers(hash: &mut Sha256, values: &[f32]) {
    for values in values.chunks(1 << 14) {
        hash.update(values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
    }
}
