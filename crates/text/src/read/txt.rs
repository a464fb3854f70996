//! Plain text: blank lines between documents, one paragraph a line.

use super::lines::Lines;
use super::{Document, Found, ReadOptions};

pub(crate) struct Paragraphs {
    lines: Lines,
    per_line: bool,
    limit: usize,
    document: Option<Document>,
}

impl Paragraphs {
    pub(crate) fn new(lines: Lines, options: &ReadOptions) -> Self {
        Self { lines, per_line: options.document_per_line, limit: options.line_limit, document: None }
    }
}

impl Iterator for Paragraphs {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        loop {
            let (number, line) = match self.lines.next() {
                None => return self.document.take().map(Ok),
                // A bad line ends nothing: its document goes on without it.
                Some(Err(fault)) => return Some(Err(fault)),
                Some(Ok(line)) => line,
            };
            if line.trim().is_empty() {
                if let Some(document) = self.document.take() {
                    return Some(Ok(document));
                }
            } else if self.per_line {
                return Some(Ok(Document { line: number, text: line.to_owned() }));
            } else if let Some(document) = &mut self.document {
                if document.text.len() + 1 + line.len() > self.limit {
                    let next = Document { line: number, text: line.to_owned() };
                    return self.document.replace(next).map(Ok);
                }
                document.text.push('\n');
                document.text.push_str(line);
            } else {
                self.document = Some(Document { line: number, text: line.to_owned() });
            }
        }
    }
}
