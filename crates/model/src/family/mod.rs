//! Model families: a configuration's blueprint, and the two-way table of tensor names.

pub mod bert;
pub mod modernbert;
