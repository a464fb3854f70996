//! BERT's normalisation and word splitting in one pass over the text.
//!
//! What Hugging Face does in five passes over a string with alignments (clean, space out CJK
//! characters, NFD, drop marks, lowercase; then split at white space and around punctuation) is a
//! function of single characters, up to canonical reordering. So every character has a precomputed
//! [`Fate`] for the options in force, and only reordered marks that survive need a look around.
//!
//! The Unicode tables are those the `tokenizers` crate uses, so that ids are equal on every input.

use std::sync::OnceLock;

use unicode_categories::UnicodeCategories;
use unicode_normalization_alignments::char::{canonical_combining_class, decompose_canonical};

/// How BERT cleans a text before it splits it into words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Normalization {
    /// Drop control characters, turn all white space into spaces.
    pub clean_text: bool,
    /// Make each CJK ideograph a word of its own.
    pub split_cjk: bool,
    /// Decompose (NFD) and drop nonspacing marks; `None` does as `lowercase` does.
    pub strip_accents: Option<bool>,
    /// Lowercase, character by character.
    pub lowercase: bool,
}

impl Default for Normalization {
    /// As in BERT's uncased models.
    fn default() -> Self {
        Self { clean_text: true, split_cjk: true, strip_accents: None, lowercase: true }
    }
}

impl Normalization {
    /// As in BERT's cased models: accents and case are kept.
    pub fn cased() -> Self {
        Self { lowercase: false, ..Self::default() }
    }

    fn strips_accents(&self) -> bool {
        self.strip_accents.unwrap_or(self.lowercase)
    }

    fn index(&self) -> usize {
        usize::from(self.clean_text)
            | usize::from(self.split_cjk) << 1
            | usize::from(self.strips_accents()) << 2
            | usize::from(self.lowercase) << 3
    }
}

/// What becomes of a character.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    /// Part of a word, as this character.
    Plain(char),
    /// Ends a word.
    Space,
    /// A word of its own: punctuation, or an ideograph.
    Alone(char),
    /// Vanishes; the word goes on.
    Drop,
    /// Becomes several characters, each with a fate of its own.
    Several(Vec<char>),
    /// A combining character that survives, so canonical order has to be looked at.
    Reordered,
}

// A table entry: the kind in the upper bits, a character or an index in the lower.
const KIND: u32 = 0x7 << 24;
const PAYLOAD: u32 = 0x00ff_ffff;
const PLAIN: u32 = 0;
const SPACE: u32 = 1 << 24;
const ALONE: u32 = 2 << 24;
const DROP: u32 = 3 << 24;
const SEVERAL: u32 = 4 << 24;
const REORDERED: u32 = 5 << 24;
/// Leading byte of a character beyond ASCII (only in the byte table).
const WIDE: u32 = 6 << 24;

fn is_space(c: char) -> bool {
    c.is_whitespace()
}

fn is_removed(c: char) -> bool {
    c == '\0' || c == '\u{fffd}' || (!matches!(c, '\t' | '\n' | '\r') && c.is_other())
}

fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation() || c.is_punctuation()
}

/// The CJK ideograph blocks as BERT lists them (one block starts at 2B920, not at 2B820, as there).
pub fn is_cjk_ideograph(c: char) -> bool {
    matches!(u32::from(c),
        0x4E00..=0x9FFF | 0x3400..=0x4DBF | 0x20000..=0x2A6DF | 0x2A700..=0x2B73F
        | 0x2B740..=0x2B81F | 0x2B920..=0x2CEAF | 0xF900..=0xFAFF | 0x2F800..=0x2FA1F)
}

fn fate(c: char, options: &Normalization) -> Fate {
    if options.clean_text {
        if is_removed(c) {
            return Fate::Drop;
        }
        if is_space(c) {
            return Fate::Space;
        }
    }
    let ideograph = options.split_cjk && is_cjk_ideograph(c);
    let mut chars = Vec::new();
    if options.strips_accents() {
        let mut reordered = false;
        decompose_canonical(c, |d| {
            if !d.is_mark_nonspacing() {
                reordered |= canonical_combining_class(d) != 0;
                chars.push(d);
            }
        });
        if reordered {
            return Fate::Reordered;
        }
    } else {
        chars.push(c);
    }
    if options.lowercase {
        chars = chars.into_iter().flat_map(char::to_lowercase).collect();
    }
    match chars[..] {
        [] => Fate::Drop,
        [c] if ideograph => Fate::Alone(c),
        [c] if is_space(c) => Fate::Space,
        [c] if is_punctuation(c) => Fate::Alone(c),
        [c] => Fate::Plain(c),
        _ => {
            if ideograph {
                chars.insert(0, ' ');
                chars.push(' ');
            }
            Fate::Several(chars)
        }
    }
}

/// The fates of all characters of the basic plane; the others are worked out when met.
struct Table {
    bytes: [u32; 256],
    plane: Vec<u32>,
    several: Vec<Vec<char>>,
}

impl Table {
    fn of(options: &Normalization) -> &'static Table {
        static TABLES: [OnceLock<Table>; 16] = [const { OnceLock::new() }; 16];
        TABLES[options.index()].get_or_init(|| Table::new(options))
    }

    fn new(options: &Normalization) -> Self {
        let mut several = Vec::new();
        let mut plane: Vec<u32> = Vec::with_capacity(0x10000);
        for code in 0..0x10000 {
            // The gap of the surrogates is never looked up.
            let fate = char::from_u32(code).map_or(Fate::Drop, |c| fate(c, options));
            plane.push(match fate {
                Fate::Plain(c) => PLAIN | u32::from(c),
                Fate::Space => SPACE,
                Fate::Alone(c) => ALONE | u32::from(c),
                Fate::Drop => DROP,
                Fate::Reordered => REORDERED,
                Fate::Several(chars) => {
                    several.push(chars);
                    SEVERAL | (several.len() - 1) as u32
                }
            });
        }
        let mut bytes = [WIDE; 256];
        bytes[..128].copy_from_slice(&plane[..128]);
        Self { bytes, plane, several }
    }
}

/// One word of a text, normalised.
pub(crate) struct Word<'a> {
    /// The normalised bytes; cut off when `overlong`.
    pub(crate) bytes: &'a [u8],
    /// Bytes of the text from which the word came.
    pub(crate) start: u32,
    pub(crate) end: u32,
    /// Whether the word has more characters than the splitter's limit.
    pub(crate) overlong: bool,
    /// For each normalised byte the source bytes of its character; `None` when byte `i` came from `start + i`.
    spans: Option<&'a [(u32, u32)]>,
}

impl Word<'_> {
    /// Source bytes of the normalised bytes `from..to` (not empty, at character boundaries).
    #[inline(always)]
    pub(crate) fn source(&self, from: usize, to: usize) -> (u32, u32) {
        match self.spans {
            None => (self.start + from as u32, self.start + to as u32),
            Some(spans) => (spans[from].0, spans[to - 1].1),
        }
    }
}

/// The word being put together; reused from word to word and from text to text.
#[derive(Default)]
pub(crate) struct Scratch {
    bytes: Vec<u8>,
    spans: Vec<(u32, u32)>,
    start: u32,
    end: u32,
    chars: usize,
    open: bool,
    shifted: bool,
}

impl Scratch {
    #[inline(always)]
    fn push(&mut self, c: char, start: u32, end: u32, limit: usize) {
        if !self.open {
            self.open = true;
            self.start = start;
        }
        self.chars += 1;
        let before = self.end;
        self.end = end;
        if self.chars > limit {
            return;
        }
        let length = c.len_utf8();
        let in_step = start == before || self.chars == 1;
        let same_length = (end - start) as usize == length;
        if !(self.shifted || in_step && same_length) {
            self.shift();
        }
        if length == 1 {
            self.bytes.push(c as u8);
        } else {
            self.bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
        if self.shifted {
            self.spans.resize(self.bytes.len(), (start, end));
        }
    }

    /// From here on normalised and source bytes are no longer in step.
    #[cold]
    fn shift(&mut self) {
        self.shifted = true;
        self.spans.clear();
        let mut at = 0;
        while at < self.bytes.len() {
            let mut next = at + 1;
            while next < self.bytes.len() && (self.bytes[next] as i8) < -0x40 {
                next += 1;
            }
            let span = (self.start + at as u32, self.start + next as u32);
            self.spans.resize(next, span);
            at = next;
        }
    }

    #[inline(always)]
    fn flush(&mut self, limit: usize, sink: &mut impl FnMut(Word<'_>)) {
        if self.open {
            sink(Word {
                bytes: &self.bytes,
                start: self.start,
                end: self.end,
                overlong: self.chars > limit,
                spans: self.shifted.then_some(self.spans.as_slice()),
            });
            self.reset();
        }
    }

    fn reset(&mut self) {
        self.bytes.clear();
        self.spans.clear();
        self.chars = 0;
        self.open = false;
        self.shifted = false;
    }
}

/// Splits texts into normalised words.
#[derive(Clone, Copy)]
pub(crate) struct Splitter {
    options: Normalization,
    table: &'static Table,
    /// Words of more characters are reported as overlong, without their rest.
    limit: usize,
}

impl Splitter {
    pub(crate) fn new(options: Normalization, limit: usize) -> Self {
        Self { options, table: Table::of(&options), limit }
    }

    /// Hands every word of `text[from..to]` to `sink`, in order.
    #[inline(always)]
    pub(crate) fn words(&self, text: &str, from: usize, to: usize, scratch: &mut Scratch, mut sink: impl FnMut(Word<'_>)) {
        scratch.reset();
        let bytes = &text.as_bytes()[..to];
        let table = self.table;
        let mut at = from;
        while at < bytes.len() {
            let mut entry = table.bytes[usize::from(bytes[at])];
            if entry == u32::from(bytes[at]) && !scratch.open {
                // A run of bytes that stay as they are: often the whole word.
                let start = at;
                at += 1;
                while at < bytes.len() && table.bytes[usize::from(bytes[at])] == u32::from(bytes[at]) {
                    at += 1;
                }
                let ended = at == bytes.len() || matches!(table.bytes[usize::from(bytes[at])] & KIND, SPACE | ALONE);
                if ended {
                    sink(Word {
                        bytes: &bytes[start..at],
                        start: start as u32,
                        end: at as u32,
                        overlong: at - start > self.limit,
                        spans: None,
                    });
                    continue;
                }
                let kept = (at - start).min(self.limit);
                scratch.bytes.extend_from_slice(&bytes[start..start + kept]);
                scratch.open = true;
                scratch.start = start as u32;
                scratch.end = at as u32;
                scratch.chars = at - start;
                entry = table.bytes[usize::from(bytes[at])];
            }
            let start = at as u32;
            if entry & KIND != WIDE {
                at += 1;
                match entry & KIND {
                    PLAIN => scratch.push(char::from(entry as u8), start, at as u32, self.limit),
                    SPACE => scratch.flush(self.limit, &mut sink),
                    ALONE => {
                        scratch.flush(self.limit, &mut sink);
                        self.alone(char::from(entry as u8), start, at as u32, &mut sink);
                    }
                    _ => {}
                }
                continue;
            }
            let Some(c) = text[at..].chars().next() else { break };
            at += c.len_utf8();
            self.wide(c, start, at as u32, scratch, &mut sink, || self.reordered(text, from, to, start as usize, &mut at));
        }
        scratch.flush(self.limit, &mut sink);
    }

    /// A character beyond ASCII.
    #[inline(always)]
    fn wide(
        &self,
        c: char,
        start: u32,
        end: u32,
        scratch: &mut Scratch,
        sink: &mut impl FnMut(Word<'_>),
        reordered: impl FnOnce() -> Vec<(char, u32, u32)>,
    ) {
        let entry = match self.table.plane.get(c as usize) {
            Some(&entry) => entry,
            None => match fate(c, &self.options) {
                Fate::Plain(c) => PLAIN | u32::from(c),
                Fate::Space => SPACE,
                Fate::Alone(c) => ALONE | u32::from(c),
                Fate::Drop => DROP,
                Fate::Reordered => REORDERED,
                Fate::Several(chars) => {
                    for c in chars {
                        self.settle(c, start, end, scratch, sink);
                    }
                    return;
                }
            },
        };
        let payload = || char::from_u32(entry & PAYLOAD).unwrap_or(c);
        match entry & KIND {
            PLAIN => scratch.push(payload(), start, end, self.limit),
            SPACE => scratch.flush(self.limit, sink),
            ALONE => {
                scratch.flush(self.limit, sink);
                self.alone(payload(), start, end, sink);
            }
            SEVERAL => {
                for &c in &self.table.several[(entry & PAYLOAD) as usize] {
                    self.settle(c, start, end, scratch, sink);
                }
            }
            REORDERED => {
                for (c, start, end) in reordered() {
                    self.settle(c, start, end, scratch, sink);
                }
            }
            _ => {}
        }
    }

    #[inline(always)]
    fn alone(&self, c: char, start: u32, end: u32, sink: &mut impl FnMut(Word<'_>)) {
        let mut buffer = [0; 4];
        let bytes = c.encode_utf8(&mut buffer).as_bytes();
        let spans = [(start, end); 4];
        let in_step = bytes.len() == (end - start) as usize;
        sink(Word { bytes, start, end, overlong: self.limit == 0, spans: (!in_step).then_some(&spans[..bytes.len()]) });
    }

    /// A character that is already normalised goes to its word.
    fn settle(&self, c: char, start: u32, end: u32, scratch: &mut Scratch, sink: &mut impl FnMut(Word<'_>)) {
        if is_space(c) {
            scratch.flush(self.limit, sink);
        } else if is_punctuation(c) {
            scratch.flush(self.limit, sink);
            self.alone(c, start, end, sink);
        } else {
            scratch.push(c, start, end, self.limit);
        }
    }

    /// The surviving combining characters of the run of marks around the character at `met`, in
    /// canonical order and with the source bytes that Hugging Face's alignment gives them: the n-th
    /// character that is not an addition of a decomposition takes the n-th source character,
    /// whatever the order. Moves `at` behind the run.
    #[cold]
    fn reordered(&self, text: &str, from: usize, to: usize, met: usize, at: &mut usize) -> Vec<(char, u32, u32)> {
        let cleaned = |c: char| self.options.clean_text && is_removed(c);
        let mut begin = from;
        for (i, c) in text[from..*at].char_indices().rev() {
            if !cleaned(c) && leads_with_starter(c) {
                begin = from + i;
                break;
            }
        }
        let mut out = Vec::new();
        let mut sources = Vec::new();
        let mut marks: Vec<(u8, char, bool)> = Vec::new();
        let mut current = (begin as u32, begin as u32);
        let mut end = to;
        for (i, c) in text[begin..to].char_indices() {
            let place = begin + i;
            let span = (place as u32, (place + c.len_utf8()) as u32);
            if cleaned(c) {
                continue;
            }
            if leads_with_starter(c) {
                if place > met {
                    end = place;
                    break;
                }
                current = span;
                // An ideograph is followed by a space of its own, a starter without marks.
                if self.options.split_cjk && is_cjk_ideograph(c) {
                    continue;
                }
            } else {
                sources.push(span);
            }
            let mut addition = false;
            decompose_canonical(c, |d| {
                match canonical_combining_class(d) {
                    // A starter before `met` has gone to its word long since.
                    0 if place == met => out.push((d, span.0, span.1)),
                    0 => {}
                    class => marks.push((class, d, addition)),
                }
                addition = true;
            });
        }
        *at = end;
        marks.sort_by_key(|mark| mark.0);
        let mut sources = sources.into_iter();
        for (_, c, addition) in marks {
            if !addition {
                current = sources.next().unwrap_or(current);
            }
            out.push((c, current.0, current.1));
        }
        out.retain(|(c, ..)| !c.is_mark_nonspacing());
        if self.options.lowercase {
            out = out.iter().flat_map(|&(c, start, end)| c.to_lowercase().map(move |c| (c, start, end))).collect();
        }
        out
    }
}

/// Whether the canonical decomposition starts with a character of combining class 0.
fn leads_with_starter(c: char) -> bool {
    let mut first = None;
    decompose_canonical(c, |d| {
        first.get_or_insert(d);
    });
    first.is_none_or(|d| canonical_combining_class(d) == 0)
}
