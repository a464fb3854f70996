//! Models: parameters, layers, blueprints, heads, families, and checkpoint files.
//!
//! A model is data: a [`blueprint::Blueprint`] read from `config.json`, run by one [`transformer::Transformer`].
//! Layers ask the blueprint, never the family's name. Values live in one flat buffer laid out by
//! [`params::ParamTable`]; gradients and optimizer moments share the layout.

pub mod adaptation;
mod block;
pub mod blueprint;
mod error;
pub mod family;
pub mod files;
mod frozen;
pub mod head;
mod model;
pub mod onnx;
pub mod params;
pub mod registry;
pub mod relative;
mod shared;
pub mod transformer;

pub use adaptation::Adaptation;
pub use blueprint::Blueprint;
pub use error::ModelError;
pub use files::hub_folder::{LoadReport, Loaded, Opened, load, load_with, open, save};
pub use model::{Heads, Model, Output, Problem};
pub use transformer::Input;
