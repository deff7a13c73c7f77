//! Buffers that hold directory entries in the kernel's layout.

#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use zerocopy::IntoBytes;

use crate::abi;
use crate::attr::{Entry, FileKind};

/// Answer to a readdir: entries until the buffer is full.
#[derive(Debug)]
pub struct DirBuffer(Buffer);

impl DirBuffer {
    /// Makes a buffer for the size that the request gives.
    #[must_use]
    pub fn new(size: u32) -> Self {
        Self(Buffer::new(size))
    }

    /// Adds an entry, or returns `false` when it does not fit.
    ///
    /// `next_offset` is what the kernel passes to go on *after* this entry.
    #[must_use = "an entry that did not fit must be given again at the next request"]
    pub fn push(&mut self, ino: u64, next_offset: u64, kind: FileKind, name: &OsStr) -> bool {
        self.0.push(&[], ino, next_offset, kind, name)
    }

    /// Returns whether there is no entry yet, which tells the kernel: end of directory.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.bytes.is_empty()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0.bytes
    }
}

/// Answer to a readdirplus: entries with their nodes.
#[derive(Debug)]
pub struct DirPlusBuffer(Buffer);

impl DirPlusBuffer {
    /// Makes a buffer for the size that the request gives.
    #[must_use]
    pub fn new(size: u32) -> Self {
        Self(Buffer::new(size))
    }

    /// Adds an entry with its node, or returns `false` when it does not fit.
    ///
    /// An entry that was added counts as a lookup of its node; `.` and `..` do not.
    #[must_use = "an entry that did not fit must be given again, and its node was not looked up"]
    pub fn push(&mut self, entry: &Entry, next_offset: u64, name: &OsStr) -> bool {
        let attr = &entry.attr;
        let head = entry.to_abi();
        self.0.push(head.as_bytes(), attr.ino, next_offset, attr.kind(), name)
    }

    /// Adds a name without a node, or returns `false` when it does not fit; no lookup is counted.
    #[must_use = "an entry that did not fit must be given again at the next request"]
    pub fn push_name(&mut self, ino: u64, next_offset: u64, kind: FileKind, name: &OsStr) -> bool {
        // A node id of 0 makes the kernel ignore the node.
        let head = abi::fuse_entry_out::default();
        self.0.push(head.as_bytes(), ino, next_offset, kind, name)
    }

    /// Returns whether there is no entry yet, which tells the kernel: end of directory.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.bytes.is_empty()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0.bytes
    }
}

/// Most bytes that a buffer grows to, so that a made-up size cannot ask for
/// gigabytes: the kernel asks for at most `max_pages`, 65,535 pages of 4 KiB.
const SIZE_MAX: usize = 65_535 * 4096;

/// Records are aligned to this, the kernel's `FUSE_DIRENT_ALIGN`.
const ALIGN: usize = 8;

#[derive(Debug)]
struct Buffer {
    bytes: Vec<u8>,
    limit: usize,
}

impl Buffer {
    fn new(size: u32) -> Self {
        Self { bytes: Vec::new(), limit: (size as usize).min(SIZE_MAX) }
    }

    fn push(&mut self, head: &[u8], ino: u64, off: u64, kind: FileKind, name: &OsStr) -> bool {
        let name = name.as_bytes();
        let unpadded = head.len() + abi::DIRENT_HEAD + name.len();
        let end = self.bytes.len() + unpadded.next_multiple_of(ALIGN);
        let Ok(namelen) = u32::try_from(name.len()) else {
            return false;
        };
        if end > self.limit {
            return false;
        }
        self.bytes.extend_from_slice(head);
        self.bytes.extend_from_slice(&ino.to_ne_bytes());
        self.bytes.extend_from_slice(&off.to_ne_bytes());
        self.bytes.extend_from_slice(&namelen.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_dirent_type().to_ne_bytes());
        self.bytes.extend_from_slice(name);
        self.bytes.resize(end, 0);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_padded_to_eight_bytes() {
        let mut buffer = DirBuffer::new(4096);
        assert!(buffer.push(5, 1, FileKind::Regular, OsStr::new("abc")));
        assert_eq!(buffer.as_bytes().len(), 32);
        assert_eq!(&buffer.as_bytes()[24..32], b"abc\0\0\0\0\0");
    }

    #[test]
    fn an_entry_that_does_not_fit_changes_nothing() {
        let mut buffer = DirBuffer::new(63);
        assert!(buffer.push(5, 1, FileKind::Regular, OsStr::new("abc")));
        assert!(!buffer.push(6, 2, FileKind::Regular, OsStr::new("abc")));
        assert_eq!(buffer.as_bytes().len(), 32);
    }

    #[test]
    fn a_plus_record_starts_with_the_entry() {
        let mut buffer = DirPlusBuffer::new(4096);
        assert!(buffer.push_name(5, 1, FileKind::Directory, OsStr::new(".")));
        let head = size_of::<abi::fuse_entry_out>();
        assert_eq!(buffer.as_bytes().len(), head + 32);
        assert_eq!(buffer.as_bytes()[head], 5);
    }
}
