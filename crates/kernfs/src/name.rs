//! Names of nodes: bytes, as everywhere in Linux.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::borrow::Borrow;
use core::fmt;
use core::ops::Deref;

use crate::errno::Errno;

/// A name that a node can have: at least one byte, no `/`, no NUL, neither `.` nor `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<[u8]>);

impl Name {
    /// Checks a name against the rules and against a limit in bytes.
    pub(crate) fn new(name: &[u8], limit: usize) -> Result<Self, Errno> {
        if name.len() > limit {
            return Err(Errno::ENAMETOOLONG);
        }
        if name.is_empty() {
            return Err(Errno::ENOENT);
        }
        if name == b"." || name == b".." || name.iter().any(|&b| b == b'/' || b == 0) {
            return Err(Errno::EINVAL);
        }
        Ok(Self(name.into()))
    }

    /// The name of a root and of a directory that is not attached.
    pub(crate) fn none() -> Self {
        Self(Arc::from([]))
    }

    /// Returns the bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Deref for Name {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Name {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq<str> for Name {
    fn eq(&self, other: &str) -> bool {
        *self.0 == *other.as_bytes()
    }
}

impl PartialEq<&str> for Name {
    fn eq(&self, other: &&str) -> bool {
        *self == **other
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.escape_ascii(), f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Joins the names from the top down to an absolute path; no names give `/`.
pub(crate) fn absolute<'a>(names: impl IntoIterator<Item = &'a Name>) -> Vec<u8> {
    let mut path = Vec::new();
    for name in names {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    if path.is_empty() {
        path.push(b'/');
    }
    path
}

/// Renders the relative path from a directory to a node, both given as names from the root down
/// (`kernfs_get_target_path`).
///
/// It ends with the name of the node, also where that is above the directory: `../../input5`.
pub(crate) fn relative(from: &[Name], to: &[Name]) -> Vec<u8> {
    let above = &to[..to.len().saturating_sub(1)];
    let common = from.iter().zip(above).take_while(|(a, b)| a == b).count();
    let ups = core::iter::repeat_n(&b".."[..], from.len() - common);
    let downs = to[common..].iter().map(Name::as_bytes);
    let parts: Vec<&[u8]> = ups.chain(downs).collect();
    parts.join(&b'/')
}
