//! Colours of a terminal, or none.

/// Whether answers are coloured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paint {
    /// Colours are written.
    pub colour: bool,
}

/// Colours that are told apart on dark and on light ground.
const COLOURS: [u8; 6] = [36, 33, 35, 32, 34, 31];

impl Paint {
    /// Text in the `n`-th colour (they repeat).
    pub fn colour(self, n: usize, text: &str) -> String {
        if self.colour { format!("\u{1b}[1;{}m{text}\u{1b}[0m", COLOURS[n % COLOURS.len()]) } else { text.to_owned() }
    }

    /// A marked part of a text: coloured, or in brackets.
    pub fn mark(self, n: usize, text: &str) -> String {
        if self.colour { self.colour(n, text) } else { format!("[{text}]") }
    }

    /// Text that steps back.
    pub fn faint(self, text: &str) -> String {
        if self.colour { format!("\u{1b}[2m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}
