//! Model families: a configuration's blueprint, and the two-way table of tensor names.

pub mod albert;
pub mod bert;
pub mod distilbert;
pub mod electra;
pub mod layout;
pub mod modernbert;
pub mod roberta;
