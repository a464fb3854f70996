//! Fine-tuning by low-rank updates (Hu et al. 2021): the body is frozen, thin matrices beside its own are trained with the head.

use std::path::Path;

use cloze_model::adaptation::{Adaptation, Rank};
use cloze_model::files::adapter::{AdapterCard, save_adapter};
use cloze_model::{Model, ModelError};
use serde::{Deserialize, Serialize};

use crate::error::TrainError;
use crate::figures::grouped;
use crate::finetune::FinetuneRun;

/// What becomes of the updates at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// They are added to the matrices: an ordinary model folder.
    #[default]
    Merged,
    /// They are written as PEFT writes them, with the head; the base stays where it is.
    Adapter,
}

/// The `[lora]` table of a fine-tuning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// r: columns of B, rows of A.
    pub rank: usize,
    /// The product is multiplied by alpha / rank.
    pub alpha: f32,
    /// The updated matrices: ends of their modules' names (`query`, `attention.output.dense`), or `all-linear`.
    pub targets: Vec<String>,
    /// Dropout of what the updates read.
    pub dropout: f32,
    /// `merged` or `adapter`.
    pub keep: Keep,
    /// What a kept adapter calls its base (a name on the hub, or a folder); the model as it was given by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self { rank: 8, alpha: 16.0, targets: vec!["all-linear".into()], dropout: 0.0, keep: Keep::Merged, base: None }
    }
}

impl LoraConfig {
    /// Refuse what cannot be trained.
    pub(crate) fn check(&self, run: &FinetuneRun) -> Result<(), TrainError> {
        let refuse = |key, found: String, expected: &str| Err(TrainError::Value { key, found, expected: expected.into() });
        match self {
            c if !(1..=1 << 14).contains(&c.rank) => refuse("lora.rank", c.rank.to_string(), "1 to 16384"),
            c if !(c.alpha.is_finite() && c.alpha > 0.0) => refuse("lora.alpha", c.alpha.to_string(), "a number above 0"),
            c if !(0.0..1.0).contains(&c.dropout) => refuse("lora.dropout", c.dropout.to_string(), "a number from 0 to below 1"),
            c if c.targets.is_empty() => {
                refuse("lora.targets", "[]".into(), "names of matrices such as [\"query\", \"value\"], or [\"all-linear\"]")
            }
            _ if run.optimizer.ema > 0.0 => refuse("optimizer.ema", run.optimizer.ema.to_string(), "0 with [lora]"),
            _ if run.from_scratch => refuse("lora", "a frozen body".into(), "no from_scratch: a random body would stay random"),
            _ if run.optimizer.freeze_layers > 0 => {
                refuse("optimizer.freeze_layers", run.optimizer.freeze_layers.to_string(), "0 with [lora], whose body is frozen")
            }
            _ => Ok(()),
        }
    }

    /// The model with its updates, and its values: the body's own, and the updates' first ones, which change nothing.
    pub(crate) fn adapted(&self, model: &Model, values: &[f32], seed: u64) -> Result<(Model, Vec<f32>), TrainError> {
        let rank = Rank { rank: self.rank, scale: self.alpha / self.rank as f32 };
        let adaptation = Adaptation::new(model, &self.targets, rank, self.dropout)?;
        let adapted = Model::adapted(model.family, model.blueprint.clone(), model.heads.clone(), &adaptation);
        let mut moved = model.moved(values, &adapted);
        for spec in adapted.table().specs().iter().filter(|s| model.table().get(&s.name).is_none()) {
            adapted.table().init_one(spec, seed, &mut moved);
        }
        Ok((adapted, moved))
    }

    /// What is trained, in a line.
    pub(crate) fn line(&self, model: &Model) -> String {
        let own = model.table().specs().iter().filter(|s| model.table().is_own(s.param)).map(|s| s.param.len() as u64).sum();
        let (matrices, all) = (model.updates().len(), model.table().count() as u64);
        format!(
            "LoRA of rank {} on {matrices} matrices: {} of {} parameters are trained, head included",
            self.rank,
            grouped(own),
            grouped(all)
        )
    }

    /// What the adapter calls its base: as the recipe says, else the model's folder.
    pub(crate) fn base_of(&self, model: &Path) -> String {
        self.base.clone().unwrap_or_else(|| model.canonicalize().unwrap_or_else(|_| model.to_owned()).display().to_string())
    }

    /// Write the updates as an adapter.
    pub(crate) fn save(&self, folder: &Path, model: &Model, values: &[f32], base: &str, ids: &[(&str, u32)]) -> Result<(), ModelError> {
        let card = AdapterCard { base, rank: self.rank, alpha: self.alpha, dropout: self.dropout, targets: &self.targets };
        save_adapter(folder, model, values, &card, ids)
    }
}
