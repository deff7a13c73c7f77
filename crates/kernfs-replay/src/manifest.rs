//! The manifest of an archive of our own; its format is told in [`archive`](crate::archive).

use std::collections::HashMap;
use std::fmt::Write;

use flate2::Crc;
use kernfs::Errno;

use crate::archive::Wrong;
use crate::draft::Draft;
use crate::image::{Content, Entry, Image};

const NAME: &str = "kernfs-replay";
const VERSION: u32 = 1;

/// What most files told as their size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Size {
    /// As many bytes as they have.
    Content,
    Bytes(u64),
}

impl Size {
    fn of(self, content: &Content) -> u64 {
        let len = content.bytes().len() as u64;
        match self {
            Self::Content => len,
            // A size of 0 is none.
            Self::Bytes(0) => 0,
            Self::Bytes(size) => size.max(len),
        }
    }
}

/// Tells what tar cannot.
pub(crate) fn render(image: &Image) -> Vec<u8> {
    let size = most_common_size(image);
    let mut lines = String::new();
    let mut crc = Crc::new();
    for entry in image.entries() {
        let link = entry.link_text().unwrap_or_default();
        let Some(content) = entry.content() else {
            note(&mut crc, &entry.path(), link);
            continue;
        };
        note(&mut crc, &entry.path(), content.bytes());
        let mut fields = String::new();
        if entry.size() != size.of(content) {
            let _ = write!(fields, " size={}", entry.size());
        }
        let _ = match content {
            Content::Bytes(_) => Ok(()),
            Content::Blocks => write!(fields, " blocks"),
            Content::OpenError(errno) => write!(fields, " open={}", errno.raw()),
            Content::ReadError(errno) => write!(fields, " read={}", errno.raw()),
            Content::Unread => write!(fields, " unread"),
        };
        if !fields.is_empty() {
            lines.push_str(&escape(&entry.path()));
            lines.push_str(&fields);
            lines.push('\n');
        }
    }
    crc.update(lines.as_bytes());
    let size = match size {
        Size::Content => "content".into(),
        Size::Bytes(size) => size.to_string(),
    };
    let (nodes, sum) = (image.len(), crc.sum());
    let head = format!("{NAME} {VERSION}\nnodes {nodes}\nsize {size}\ncrc32 {sum:08x}\n");
    (head + &lines).into_bytes()
}

/// Adds a member to the checksum.
fn note(crc: &mut Crc, path: &[u8], payload: &[u8]) {
    for part in [path, b"\0", payload] {
        crc.update(part);
    }
}

fn most_common_size(image: &Image) -> Size {
    let mut counts: HashMap<Size, usize> = HashMap::new();
    let sizes = image.entries().filter_map(|entry: Entry<'_>| {
        let len = entry.content()?.bytes().len() as u64;
        Some(if entry.size() == len { Size::Content } else { Size::Bytes(entry.size()) })
    });
    for size in sizes {
        *counts.entry(size).or_default() += 1;
    }
    // Of two that are as common, always the same.
    let key = |&(size, count): &(Size, usize)| match size {
        Size::Content => (count, 0, 0),
        Size::Bytes(bytes) => (count, 1, bytes),
    };
    counts.into_iter().max_by_key(key).map_or(Size::Content, |(size, _)| size)
}

/// A manifest whose archive is being read.
pub(crate) struct Manifest {
    nodes: usize,
    size: Size,
    crc32: u32,
    /// Of what was read so far.
    seen: Crc,
    text: String,
    /// Where the lines of files begin.
    lines_at: usize,
}

/// How many lines come before those of files.
const HEAD_LINES: usize = 4;

impl Manifest {
    pub(crate) fn parse(text: Vec<u8>) -> Result<Self, Wrong> {
        let text = String::from_utf8(text).map_err(|_| Wrong::new("it is not text"))?;
        let lines_at = text.match_indices('\n').nth(HEAD_LINES - 1);
        let lines_at = lines_at.ok_or_else(|| Wrong::new("it ends in its head"))?.0 + 1;
        let mut head = text[..lines_at].lines();
        let mut field = |name: &str| {
            let line = head.next().unwrap_or_default();
            let value = line.strip_prefix(name).and_then(|rest| rest.strip_prefix(' '));
            value.ok_or_else(|| {
                let line = line.escape_default();
                Wrong::new(format!("it says '{line}'; expected '{name} ...'"))
            })
        };
        let version = field(NAME)?;
        if version != VERSION.to_string() {
            let version = version.escape_default();
            return Err(Wrong::new(format!("its version is {version}; expected {VERSION}")));
        }
        let number = |text: &str| {
            let wrong = || Wrong::new(format!("'{}' is no number", text.escape_default()));
            text.parse::<u64>().map_err(|_| wrong())
        };
        let nodes = usize::try_from(number(field("nodes")?)?).unwrap_or(usize::MAX);
        let size = match field("size")? {
            "content" => Size::Content,
            bytes => Size::Bytes(number(bytes)?),
        };
        let crc32 = u32::from_str_radix(field("crc32")?, 16)
            .map_err(|_| Wrong::new("its checksum is no number"))?;
        Ok(Self { nodes, size, crc32, seen: Crc::new(), lines_at, text })
    }

    /// Takes note of a member, in the order of the archive: what it has, or where it leads.
    pub(crate) fn check(&mut self, path: &[u8], payload: &[u8]) {
        let path = path.strip_suffix(b"/").unwrap_or(path);
        note(&mut self.seen, path, payload);
    }

    /// Puts what it says into the image, and checks that the archive is complete.
    pub(crate) fn apply(mut self, draft: &mut Draft, members: usize) -> Result<(), Wrong> {
        let lines = &self.text[self.lines_at..];
        self.seen.update(lines.as_bytes());
        if members != self.nodes {
            let nodes = self.nodes;
            let why = format!("the archive has {members} nodes; its manifest tells of {nodes}");
            return Err(Wrong::new(why));
        }
        if self.seen.sum() != self.crc32 {
            return Err(Wrong::new(
                "the contents do not have the checksum that its manifest tells",
            ));
        }
        let size = self.size;
        draft.amend_all(|told, content| *told = size.of(content));
        lines.lines().try_for_each(|line| apply_line(draft, line))
    }
}

fn apply_line(draft: &mut Draft, line: &str) -> Result<(), Wrong> {
    let mut fields = line.split(' ');
    let path = unescape(fields.next().unwrap_or_default())?;
    let wrong =
        |field: &str| Wrong::new(format!("'{}' says nothing", field.escape_default())).at(&path);
    let mut size = None;
    let mut outcome = None;
    for field in fields {
        let (key, value) = field.split_once('=').unwrap_or((field, ""));
        let errno = || value.parse().ok().and_then(Errno::from_raw).ok_or_else(|| wrong(field));
        let twice = match key {
            "size" => size.replace(value.parse().map_err(|_| wrong(field))?).is_some(),
            "blocks" => outcome.replace(Content::Blocks).is_some(),
            "open" => outcome.replace(Content::OpenError(errno()?)).is_some(),
            "read" => outcome.replace(Content::ReadError(errno()?)).is_some(),
            "unread" => outcome.replace(Content::Unread).is_some(),
            _ => return Err(wrong(field)),
        };
        if twice {
            return Err(wrong(field));
        }
    }
    let mut both = false;
    let amended = draft.amend(&path, |told, content| {
        both = outcome.is_some() && !content.bytes().is_empty();
        *told = size.unwrap_or(*told);
        if let Some(outcome) = outcome {
            *content = outcome;
        }
    });
    amended.map_err(|refused| Wrong::from(refused).at(&path))?;
    if both {
        return Err(Wrong::new("it has a content, although it could not be read").at(&path));
    }
    Ok(())
}

/// Renders a path so that it is one field.
fn escape(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for &byte in path {
        if byte.is_ascii_graphic() && byte != b'%' {
            text.push(byte.into());
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

fn unescape(text: &str) -> Result<Vec<u8>, Wrong> {
    let mut parts = text.split('%');
    let mut path = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let byte = part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let byte = byte.ok_or_else(|| {
            Wrong::new(format!("'{}' is not escaped as a path is", text.escape_default()))
        })?;
        path.push(byte);
        path.extend_from_slice(&part.as_bytes()[2..]);
    }
    Ok(path)
}
