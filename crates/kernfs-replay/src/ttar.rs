//! The text archives of node_exporter and others: `.ttar`.
//!
//! ```text
//! # a comment
//! Directory: sys/class
//! Mode: 755
//! Path: sys/class/net/eth0/mtu
//! Lines: 1
//! 1500
//! Mode: 444
//! Path: sys/class/net/eth0/device
//! SymlinkTo: ../../../devices/pci0000:00
//! ```
//!
//! In the lines of a file `NULLBYTE` is a NUL, `EOF` says that the line has no newline, and a
//! backslash before either takes that away.

use std::io::BufRead;

use kernfs::Mode;

use crate::archive::Wrong;
use crate::draft::Draft;
use crate::image::{Content, Image};
use crate::limits::MAX_FILE;
use crate::lines::{Lines, excerpt, keyword};

/// Tells whether a text begins like one.
pub(crate) fn is_one(first_line: &[u8]) -> bool {
    [&b"Directory: "[..], b"Path: ", b"# Archive created by ttar"]
        .iter()
        .any(|start| first_line.starts_with(start))
}

/// Reads an archive.
pub(crate) fn read(input: impl BufRead) -> Result<Image, Wrong> {
    let mut lines = Lines::new(input);
    let mut reading = Reading { draft: Draft::new(Mode::DIR), begun: Begun::Nothing };
    while let Some(line) = lines.next()? {
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let line = line.to_vec();
        let (keyword, value) = keyword(&line).unwrap_or((&line, b""));
        let taken = match keyword {
            b"Lines" => count(value).and_then(|count| reading.take_lines(&mut lines, count)),
            b"Directory" => reading.begin(Begun::Dir(value.into())),
            b"Path" => reading.begin(Begun::Path(value.into())),
            b"Mode" => mode(value).and_then(|mode| reading.take_mode(mode)),
            b"SymlinkTo" => reading.take_link(value),
            _ => Err(Wrong::new(format!(
                "'{}' is not understood; expected Directory, Path, Lines, Mode or SymlinkTo",
                excerpt(&line)
            ))),
        };
        taken.map_err(|wrong| lines.at(wrong))?;
    }
    reading.begin(Begun::Nothing).map_err(|wrong| lines.at(wrong))?;
    Ok(reading.draft.finish())
}

struct Reading {
    draft: Draft,
    begun: Begun,
}

/// An entry of which not all was said.
enum Begun {
    Nothing,
    Dir(Vec<u8>),
    Path(Vec<u8>),
    File(Vec<u8>, Vec<u8>),
}

/// The modes of what none is told of.
const FILE_MODE: Mode = Mode::RW;
const DIR_MODE: Mode = Mode::DIR;

impl Reading {
    /// Ends the entry before, and begins another.
    fn begin(&mut self, next: Begun) -> Result<(), Wrong> {
        match std::mem::replace(&mut self.begun, next) {
            Begun::Nothing => Ok(()),
            Begun::Dir(path) => self.put_dir(&path, DIR_MODE),
            Begun::File(path, bytes) => self.put_file(&path, bytes, FILE_MODE),
            Begun::Path(path) => Err(Wrong::new("it has neither Lines nor SymlinkTo").at(&path)),
        }
    }

    fn take_mode(&mut self, mode: Mode) -> Result<(), Wrong> {
        match std::mem::replace(&mut self.begun, Begun::Nothing) {
            Begun::Dir(path) => self.put_dir(&path, mode),
            Begun::File(path, bytes) => self.put_file(&path, bytes, mode),
            Begun::Nothing | Begun::Path(_) => {
                Err(Wrong::new("a mode of nothing; expected it after Directory or Lines"))
            }
        }
    }

    fn take_link(&mut self, text: &[u8]) -> Result<(), Wrong> {
        let Begun::Path(path) = std::mem::replace(&mut self.begun, Begun::Nothing) else {
            return Err(Wrong::new("a link without a name; expected it after Path"));
        };
        self.draft.add_link(&path, text).map_err(|refused| Wrong::from(refused).at(&path))
    }

    fn take_lines<R: BufRead>(&mut self, lines: &mut Lines<R>, count: u64) -> Result<(), Wrong> {
        let Begun::Path(path) = std::mem::replace(&mut self.begun, Begun::Nothing) else {
            return Err(Wrong::new("lines of nothing; expected them after Path"));
        };
        let mut bytes = Vec::new();
        for number in 0..count {
            let Some(line) = lines.next()? else {
                let why = format!("the archive ends after {number} of its {count} lines");
                return Err(Wrong::new(why).at(&path));
            };
            decode(line, &mut bytes);
            if bytes.len() > MAX_FILE {
                return Err(Wrong::new(format!("it has more than {MAX_FILE} bytes")).at(&path));
            }
        }
        self.begun = Begun::File(path, bytes);
        Ok(())
    }

    fn put_dir(&mut self, path: &[u8], mode: Mode) -> Result<(), Wrong> {
        self.draft.add_dir(path, mode).map_err(|refused| Wrong::from(refused).at(path))
    }

    fn put_file(&mut self, path: &[u8], bytes: Vec<u8>, mode: Mode) -> Result<(), Wrong> {
        let size = bytes.len() as u64;
        let added = self.draft.add_file(path, mode, size, Content::Bytes(bytes.into()));
        added.map_err(|refused| Wrong::from(refused).at(path))
    }
}

/// Appends what a line stands for.
fn decode(mut line: &[u8], bytes: &mut Vec<u8>) {
    let mut newline = true;
    while let Some((&byte, rest)) = line.split_first() {
        let (put, after): (&[u8], &[u8]) = if let Some(rest) = line.strip_prefix(b"NULLBYTE") {
            (b"\0", rest)
        } else if let Some(rest) = line.strip_prefix(b"\\NULLBYTE") {
            (b"NULLBYTE", rest)
        } else if let Some(rest) = line.strip_prefix(b"EOF") {
            newline = false;
            (b"", rest)
        } else if let Some(rest) = line.strip_prefix(b"\\EOF") {
            (b"EOF", rest)
        } else {
            (&[byte], rest)
        };
        bytes.extend_from_slice(put);
        line = after;
    }
    if newline {
        bytes.push(b'\n');
    }
}

fn count(value: &[u8]) -> Result<u64, Wrong> {
    let count = std::str::from_utf8(value).ok().and_then(|text| text.trim().parse().ok());
    count.ok_or_else(|| Wrong::new(format!("'{}' is no number of lines", excerpt(value))))
}

fn mode(value: &[u8]) -> Result<Mode, Wrong> {
    let text = std::str::from_utf8(value).ok();
    let bits = text.and_then(|text| u16::from_str_radix(text.trim(), 8).ok());
    let bits = bits.filter(|&bits| bits <= 0o7777);
    let wrong = || Wrong::new(format!("'{}' is no mode; expected one such as 644", excerpt(value)));
    bits.map(Mode::new).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(line: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        decode(line.as_bytes(), &mut bytes);
        bytes
    }

    #[test]
    fn lines_are_decoded_as_they_were_encoded() {
        assert_eq!(decoded("1500"), b"1500\n");
        assert_eq!(decoded("1500EOF"), b"1500");
        assert_eq!(decoded("aNULLBYTENULLBYTEb"), b"a\0\0b\n");
        assert_eq!(decoded("NULLBYTEEOF"), b"\0");
        assert_eq!(decoded(r"\EOF and \NULLBYTE"), b"EOF and NULLBYTE\n");
        assert_eq!(decoded(r"\EOFEOF"), b"EOF");
        assert_eq!(decoded(r"a\b\\"), br"a\b\\".iter().chain(b"\n").copied().collect::<Vec<_>>());
        assert_eq!(decoded(""), b"\n");
    }
}
