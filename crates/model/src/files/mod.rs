//! Model files: Hugging Face folders, safetensors, adapters.

pub mod adapter;
pub mod card;
pub mod config;
pub mod container;
pub mod hub_folder;
pub mod join;
mod mapped;
pub mod quantized;
pub mod safetensors;
pub mod sentence;
