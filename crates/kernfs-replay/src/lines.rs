//! Lines of text formats, none of which is taken without a bound.

use std::io::{BufRead, Read};

use crate::archive::Wrong;
use crate::limits::MAX_LINE;

/// A text, line by line.
pub(crate) struct Lines<R> {
    input: R,
    number: usize,
    line: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, number: 0, line: Vec::new() }
    }

    /// Returns the next line without its end.
    pub(crate) fn next(&mut self) -> Result<Option<&[u8]>, Wrong> {
        self.number += 1;
        self.line.clear();
        let mut limited = self.input.by_ref().take(MAX_LINE as u64);
        limited.read_until(b'\n', &mut self.line).map_err(|error| self.at(error.into()))?;
        if self.line.is_empty() {
            return Ok(None);
        }
        if self.line.last() == Some(&b'\n') {
            self.line.pop();
        } else if self.line.len() == MAX_LINE {
            return Err(self.at(Wrong::new(format!("it has more than {MAX_LINE} bytes"))));
        }
        Ok(Some(&self.line))
    }

    /// Names the line, unless an entry was named.
    pub(crate) fn at(&self, wrong: Wrong) -> Wrong {
        wrong.at_line(self.number)
    }
}

/// Splits a line into its keyword and the rest, which a colon and a blank are between.
pub(crate) fn keyword(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = line.windows(2).position(|pair| pair == b": ")?;
    Some((&line[..at], &line[at + 2..]))
}

/// Splits a field into its name and its value.
pub(crate) fn assignment(field: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = field.iter().position(|&byte| byte == b'=')?;
    (at > 0).then(|| (&field[..at], &field[at + 1..]))
}

/// Shows a line in a message: what it begins with.
pub(crate) fn excerpt(line: &[u8]) -> String {
    let shown = line[..line.len().min(SHOWN)].escape_ascii();
    let rest = if line.len() > SHOWN { "..." } else { "" };
    format!("{shown}{rest}")
}

/// Enough to find a line by.
const SHOWN: usize = 40;
