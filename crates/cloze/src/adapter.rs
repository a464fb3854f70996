//! What a path that is given as a model means: a folder or a model of the hub, an adapter with the base that it names, or a base with an
//! adapter put on it.

use std::path::{Path, PathBuf};

use cloze_model::ModelError;
use cloze_model::files::adapter::{ADAPTER_CONFIG, Adapted, Adapter, is_adapter};
use cloze_model::files::card::Card;
use cloze_model::files::sentence::SentenceModel;
use cloze_task::Settings;
use cloze_task::context::SETTINGS_FILE;
use cloze_text::{Tokenizer, TokenizerError};
use cloze_train::pretrain::save_model;

use crate::{Error, hub};

/// A model, with the adapter on it where there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The model's folder, or that of the base.
    pub base: PathBuf,
    /// The adapter's folder.
    pub adapter: Option<PathBuf>,
}

/// What a source holds, opened.
pub(crate) struct Parts {
    /// Its weights.
    pub(crate) adapted: Adapted,
    /// Its tokenizer, which may be read on another thread than its weights.
    pub(crate) words: Words,
    /// What its task must know.
    pub(crate) settings: Settings,
}

/// Where a tokenizer stands: in the adapter's folder where that has one, else beside the encoder.
pub(crate) struct Words {
    adapter: Option<PathBuf>,
    encoder: PathBuf,
}

impl Words {
    pub(crate) fn load(&self) -> Result<Tokenizer, TokenizerError> {
        match self.adapter.as_ref().map(Tokenizer::load) {
            None | Some(Err(TokenizerError::NoTokenizer { .. })) => Tokenizer::load(&self.encoder),
            Some(own) => own,
        }
    }
}

impl Source {
    /// A model's folder or its name on the hub. An adapter's leads to its base: the folder that its `base_model_name_or_path` names, or the
    /// model of that name in the hub's cache. A base is not fetched because an adapter names it.
    ///
    /// # Errors
    /// When a name is not to be had, or an adapter names no base or one that is not here.
    pub fn of(model: &Path) -> Result<Self, Error> {
        let folder = hub::model_folder(model, &mut |_| ())?;
        if !is_adapter(&folder) {
            return Ok(Self { base: folder, adapter: None });
        }
        let base = Adapter::read(&folder)?.base()?;
        let base = hub::model_named_in(&folder.join(ADAPTER_CONFIG), &base)?;
        if is_adapter(&base) {
            return Err(ModelError::IsAdapter { folder: base, file: ADAPTER_CONFIG }.into());
        }
        Ok(Self { base, adapter: Some(folder) })
    }

    /// An adapter on a base of one's choice.
    ///
    /// # Errors
    /// When a name is not to be had.
    pub fn with(base: &Path, adapter: &Path) -> Result<Self, Error> {
        let folder = |path| hub::model_folder(path, &mut |_| ());
        Ok(Self { base: folder(base)?, adapter: Some(folder(adapter)?) })
    }

    /// Look through its files.
    pub(crate) fn open(&self) -> Result<Parts, Error> {
        // Some folders of sentence-transformers hold the encoder one level deeper.
        let encoder = SentenceModel::read(&self.base)?.map_or_else(|| self.base.clone(), |s| s.encoder);
        let Some(folder) = &self.adapter else {
            let adapted = Adapted::open(&encoder, None, None, 0)?;
            return Ok(Parts { adapted, words: Words { adapter: None, encoder }, settings: Settings::read(&self.base)? });
        };
        let adapted = Adapted::open(&encoder, Some(Adapter::read(folder)?), None, 0)?;
        let mut settings = Settings::read(if folder.join(SETTINGS_FILE).exists() { folder } else { &self.base })?;
        if !folder.join(SETTINGS_FILE).exists() && adapted.model.heads.output != cloze_model::Output::None {
            settings.task = None; // the base's task is not that of the head which came with the adapter
        }
        Ok(Parts { adapted, words: Words { adapter: Some(folder.clone()), encoder }, settings })
    }

    /// Write the folder of one ordinary model: the adapter's products added to the base's matrices, its heads in their place. How many
    /// parameters it has, and how many values.
    ///
    /// # Errors
    /// When something cannot be read or written.
    pub fn merge(&self, out: &Path) -> Result<(usize, usize), Error> {
        let parts = self.open()?;
        let (model, values) = (&parts.adapted.model, parts.adapted.values()?);
        let name = |path: &Path| path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        let adapter = self.adapter.as_deref().map(name).unwrap_or_default();
        let card = Card {
            title: name(out),
            pipeline: parts.settings.task.clone().unwrap_or_else(|| "feature-extraction".into()),
            summary: format!("The adapter {adapter} merged into {} with Cloze.", name(&self.base)),
            usage: vec!["cloze predict --model . \"a text\"".into()],
            ..Card::default()
        };
        save_model(out, model, &values, &parts.words.load()?, &card, Some(&parts.settings))?;
        Ok((model.table().specs().len(), model.table().count()))
    }
}
