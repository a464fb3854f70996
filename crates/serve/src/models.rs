//! The loaded models by name. Reloading puts a new one in the place of the old; requests that are under way keep the one they
//! started with, so none is dropped.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::engine::Engine;
use crate::error::{ApiError, ServeError};

/// A model under its name.
pub struct Served {
    /// Its name.
    pub name: String,
    /// Where it was loaded from.
    pub folder: PathBuf,
    /// The model.
    pub engine: Arc<dyn Engine>,
    /// Seconds since 1970 when it was loaded.
    pub created: u64,
}

/// Loads the model of a folder.
pub type Loader = Box<dyn Fn(&std::path::Path) -> Result<Arc<dyn Engine>, cloze::Error> + Send + Sync>;

/// All models of a server.
pub struct Models {
    loader: Loader,
    served: RwLock<Vec<Arc<Served>>>,
    /// Whoever loads a model anew: an older folder must not take the place of a newer one because it took longer to load.
    reloading: Mutex<()>,
}

impl Models {
    /// Load models from their folders. The first is what requests get that name none.
    ///
    /// # Errors
    /// When there is none, a name stands twice, or a folder does not load.
    pub fn load(folders: Vec<(String, PathBuf)>, loader: Loader) -> Result<Self, ServeError> {
        let mut served: Vec<Arc<Served>> = Vec::new();
        for (name, folder) in folders {
            if served.iter().any(|s| s.name == name) {
                return Err(ServeError::Twice { name });
            }
            served.push(Arc::new(load(&loader, name, folder)?));
        }
        if served.is_empty() {
            return Err(ServeError::NoModel);
        }
        Ok(Self { loader, served: RwLock::new(served), reloading: Mutex::new(()) })
    }

    /// All models, in the order they were given.
    pub fn all(&self) -> Vec<Arc<Served>> {
        self.served.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The model of that name, or the first when none is named.
    pub fn get(&self, name: Option<&str>) -> Result<Arc<Served>, ApiError> {
        let served = self.served.read().unwrap_or_else(PoisonError::into_inner);
        let found = match name {
            None => served.first(),
            Some(name) => served.iter().find(|s| s.name == name),
        };
        found.cloned().ok_or_else(|| ApiError::NoModel {
            name: name.unwrap_or_default().to_owned(),
            known: served.iter().map(|s| s.name.clone()).collect(),
        })
    }

    /// Load a model's folder anew, one at a time. Blocks as long as that takes; until then, and if it fails, the old one answers.
    ///
    /// # Errors
    /// When there is no such model, or its folder does not load.
    pub fn reload(&self, name: &str) -> Result<Arc<Served>, ApiError> {
        let _one = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.get(Some(name))?;
        let new = load(&self.loader, old.name.clone(), old.folder.clone());
        let new = Arc::new(new.map_err(|e| ApiError::Backend { problem: format!("{e}; the model that was loaded before still answers") })?);
        let mut served = self.served.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = served.iter_mut().find(|s| s.name == name) {
            *place = Arc::clone(&new);
        }
        Ok(new)
    }
}

fn load(loader: &Loader, name: String, folder: PathBuf) -> Result<Served, ServeError> {
    let engine = loader(&folder).map_err(|source| ServeError::Model { name: name.clone(), source })?;
    let created = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    Ok(Served { name, folder, engine, created })
}
