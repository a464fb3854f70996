//! The starts of packed sequences on one token axis.

/// Where each sequence of a packed batch starts: `starts[s]..starts[s + 1]` are the tokens of sequence `s`.
///
/// There is no padding anywhere in Cloze: this is all that attention, positions, pooling and losses need.
/// Sequences may be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequences {
    starts: Vec<u32>, // [S + 1]
}

impl Sequences {
    /// Sequences of the given lengths, one after the other.
    pub fn from_lengths(lengths: impl IntoIterator<Item = usize>) -> Self {
        let mut sequences = Self { starts: vec![0] };
        for length in lengths {
            sequences.push(length);
        }
        sequences
    }

    /// Append a sequence of `length` tokens.
    pub fn push(&mut self, length: usize) {
        let end = self.tokens() + length;
        self.starts.push(u32::try_from(end).expect("a packed batch holds fewer than 2^32 tokens"));
    }

    /// The number of sequences, S.
    pub fn count(&self) -> usize {
        self.starts.len() - 1
    }

    /// The number of tokens, T.
    pub fn tokens(&self) -> usize {
        self.starts[self.starts.len() - 1] as usize
    }

    /// The starts, with T as their last element. // [S + 1]
    pub fn starts(&self) -> &[u32] {
        &self.starts
    }

    /// The token range of sequence `s`.
    pub fn range(&self, s: usize) -> std::ops::Range<usize> {
        self.starts[s] as usize..self.starts[s + 1] as usize
    }

    /// The token ranges of all sequences, in order.
    pub fn ranges(&self) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
        self.starts.windows(2).map(|w| w[0] as usize..w[1] as usize)
    }

    /// The length of the longest sequence; 0 without any.
    pub fn longest(&self) -> usize {
        self.ranges().map(|r| r.len()).max().unwrap_or(0)
    }
}

impl Default for Sequences {
    fn default() -> Self {
        Self { starts: vec![0] }
    }
}
