//! Weights for inference of which a body is kept once for several models: heads that were trained on one frozen encoder, and adapters over one
//! base. Such a model's table has two parts ([`Model::adapted`]): the first is its own, the second is shared.

use std::collections::HashSet;
use std::sync::Arc;

use cloze_tensor::{Backend, Frozen, Operands, Param, Weights};

use crate::model::Model;
use crate::params::Spec;

impl Model {
    /// The parameters of the body, at the second part of the table.
    pub fn body_specs(&self) -> impl Iterator<Item = &Spec> {
        self.table().specs().iter().filter(|spec| !self.table().is_own(spec.param))
    }

    /// The weights of the body alone, to be shared; see [`Model::freeze`].
    ///
    /// # Errors
    /// What `lend` says.
    pub fn freeze_body<B: Backend, E>(
        &self,
        backend: &B,
        operands: impl Fn(&Spec) -> Operands,
        mut lend: impl FnMut(&Spec, &mut dyn FnMut(&Frozen<'_>)) -> Result<(), E>,
    ) -> Result<Weights<B>, E> {
        let own = self.table().own_len();
        let mut weights = Weights::reserved(backend, self.table().flat_len() - own);
        let multiplied: HashSet<Param> = self.body().matrices().into_iter().collect();
        for spec in self.body_specs() {
            let place = Param { offset: spec.param.offset - own, ..spec.param };
            lend(spec, &mut |matrix| {
                assert_eq!(matrix.len(), spec.param.len(), "{} is [{}, {}]", spec.name, spec.param.rows, spec.param.cols);
                if multiplied.contains(&spec.param) {
                    backend.freeze(&mut weights, place, matrix, operands(spec));
                } else {
                    weights.set(backend, place.offset, &matrix.values());
                }
            })?;
        }
        Ok(weights)
    }

    /// The weights of the model on a shared body: heads and low-rank updates, and the form of the embedding table that a prediction head
    /// multiplies by.
    ///
    /// # Errors
    /// What `lend` says.
    pub fn freeze_own<B: Backend, E>(
        &self,
        backend: &B,
        operands: impl Fn(&Spec) -> Operands,
        mut lend: impl FnMut(&Spec, &mut dyn FnMut(&Frozen<'_>)) -> Result<(), E>,
        body: Arc<Weights<B>>,
    ) -> Result<Weights<B>, E> {
        assert_eq!(self.table().own_len() + body.len(), self.table().flat_len(), "the body of another model");
        let mut weights = Weights::reserved(backend, self.table().own_len());
        let multiplied: HashSet<Param> = self.masked_lm().into_iter().flat_map(|head| head.matrices()).collect();
        for spec in self.table().specs() {
            let (own, packed) = (self.table().is_own(spec.param), multiplied.contains(&spec.param));
            if !own && !packed {
                continue;
            }
            lend(spec, &mut |matrix| {
                assert_eq!(matrix.len(), spec.param.len(), "{} is [{}, {}]", spec.name, spec.param.rows, spec.param.cols);
                if packed {
                    backend.freeze(&mut weights, spec.param, matrix, operands(spec));
                } else {
                    weights.set(backend, spec.param.offset, &matrix.values());
                }
            })?;
        }
        Ok(weights.with_shared(body))
    }
}
