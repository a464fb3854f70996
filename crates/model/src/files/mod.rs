//! Model files: Hugging Face folders, safetensors.

pub mod card;
pub mod config;
pub mod hub_folder;
mod mapped;
pub mod quantized;
pub mod safetensors;
