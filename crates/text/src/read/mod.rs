//! Inputs to documents and to rows: files, patterns, folders, standard input; plain, gzip or zstd.

/// What to do with bad content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnBad {
    /// Stop and say where.
    #[default]
    Fail,
    /// Leave it out and count it.
    SkipAndCount,
}
