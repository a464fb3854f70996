//! Model families: a configuration's blueprint, and the two-way table of tensor names.

pub mod albert;
pub mod bert;
pub mod distilbert;
pub mod electra;
pub mod ernie;
pub mod gte;
pub mod layout;
pub mod megatron_bert;
pub mod modernbert;
pub mod mpnet;
pub mod nomic_bert;
pub mod roberta;
pub mod roformer;
