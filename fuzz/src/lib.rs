//! Fuzzing of every parser of bytes from outside; see README.md.

pub mod parsers;
