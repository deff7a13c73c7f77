//! A recorded tree in memory: directories, files with what reading them gave, links.

use std::fmt;
use std::sync::Arc;

use kernfs::{Errno, Mode};

use crate::draft::Draft;

/// A recorded tree: small, never changed, to be shared by all that serve it.
///
/// Paths are bytes, relative to the root, without empty parts, `.` and `..`; the empty path is the
/// root. Equal contents are kept once.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    /// The root first; the children of a directory side by side, in the order of their names, and
    /// after their parent.
    nodes: Box<[Node]>,
    /// The bytes of all distinct contents.
    content_bytes: u64,
}

/// A node as it is kept.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) name: Box<[u8]>,
    pub(crate) parent: u32,
    pub(crate) mode: u16,
    pub(crate) what: What,
}

/// What a node is.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// The place and the number of its children.
    Dir {
        first: u32,
        len: u32,
    },
    File {
        size: u64,
        content: Content,
    },
    Link(Box<[u8]>),
}

/// What reading a file gave when it was recorded.
#[derive(Clone, PartialEq, Eq)]
pub enum Content {
    /// Everything up to the end.
    Bytes(Arc<[u8]>),
    /// Nothing: it would have waited, or gave no answer in time.
    Blocks,
    /// An error of open(2).
    OpenError(Errno),
    /// An error of read(2).
    ReadError(Errno),
    /// Nobody has looked, since its mode lets nobody read it; where it does, an unread file is one
    /// whose opening gave EACCES.
    Unread,
}

impl Content {
    /// Returns the bytes, of which there are none where there was anything else.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        if let Self::Bytes(bytes) = self { bytes } else { &[] }
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => {
                let shown = bytes[..bytes.len().min(SHOWN)].escape_ascii();
                write!(f, "Bytes({}, \"{shown}\")", bytes.len())
            }
            Self::Blocks => f.write_str("Blocks"),
            Self::OpenError(errno) => write!(f, "OpenError({errno:?})"),
            Self::ReadError(errno) => write!(f, "ReadError({errno:?})"),
            Self::Unread => f.write_str("Unread"),
        }
    }
}

/// Enough to tell contents apart.
const SHOWN: usize = 60;

/// The kind of an [`Entry`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory.
    Dir,
    /// A file.
    File,
    /// A symbolic link.
    Link,
}

/// A node of an image.
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    image: &'a Image,
    index: u32,
}

impl Image {
    pub(crate) fn from_nodes(nodes: Vec<Node>, content_bytes: u64) -> Self {
        Self { nodes: nodes.into(), content_bytes }
    }

    /// Returns the root directory.
    #[must_use]
    pub fn root(&self) -> Entry<'_> {
        Entry { image: self, index: 0 }
    }

    /// Finds a node by its path; does not follow links.
    #[must_use]
    pub fn find(&self, path: impl AsRef<[u8]>) -> Option<Entry<'_>> {
        parts(path.as_ref()).try_fold(self.root(), |at, part| at.child(part))
    }

    /// Finds where a path leads in this tree, through links in any part of it.
    ///
    /// An absolute link, and one that leads above the root, lead nowhere: what is there is not
    /// recorded, or at least not known to be.
    #[must_use]
    pub fn resolve(&self, path: impl AsRef<[u8]>) -> Option<Entry<'_>> {
        self.root().walk(path.as_ref())
    }

    /// Returns all nodes, the root first and parents before their children.
    #[must_use]
    pub fn entries(&self) -> impl ExactSizeIterator<Item = Entry<'_>> {
        (0..self.nodes.len()).map(|index| self.entry(index))
    }

    /// Returns how many nodes there are, the root included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Tells whether there is nothing but the root.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.len() == 1
    }

    /// Returns the number of bytes of all distinct contents.
    #[must_use]
    pub fn content_bytes(&self) -> u64 {
        self.content_bytes
    }

    /// Returns the part of the tree below a directory, which shares contents with this one.
    #[must_use]
    pub fn subdir(&self, path: impl AsRef<[u8]>) -> Option<Self> {
        let top = self.find(path)?;
        if top.kind() != EntryKind::Dir {
            return None;
        }
        let mut draft = Draft::new(top.mode());
        draft.copy(top);
        Some(draft.finish())
    }

    /// Returns the directories that stand for something which can be unplugged.
    ///
    /// Those are the ones with a `uevent` file or a `subsystem` link, and those that a link below
    /// a directory `class` or `bus` leads to.
    #[must_use]
    pub fn devices(&self) -> Vec<Entry<'_>> {
        let mut is_device = vec![false; self.nodes.len()];
        for entry in self.entries() {
            match entry.kind() {
                EntryKind::Dir if entry.looks_like_a_device() => is_device[entry.at()] = true,
                EntryKind::Link if entry.is_in_a_catalogue() => {
                    if let Some(target) = entry.target().filter(|it| it.kind() == EntryKind::Dir) {
                        is_device[target.at()] = true;
                    }
                }
                _ => {}
            }
        }
        self.entries().filter(|entry| entry.index != 0 && is_device[entry.at()]).collect()
    }

    pub(crate) fn entry(&self, index: usize) -> Entry<'_> {
        let index = u32::try_from(index).expect("an image has less than 2^32 nodes");
        assert!((index as usize) < self.nodes.len(), "no node {index}");
        Entry { image: self, index }
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image")
            .field("nodes", &self.nodes.len())
            .field("content_bytes", &self.content_bytes)
            .finish_non_exhaustive()
    }
}

/// The most links that are followed in one path, as in Linux.
const MAX_LINKS: usize = 40;

impl<'a> Entry<'a> {
    /// Returns the name; that of the root is empty.
    #[must_use]
    pub fn name(&self) -> &'a [u8] {
        &self.node().name
    }

    /// Returns the path from the root.
    #[must_use]
    pub fn path(&self) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = *self;
        while let Some(parent) = at.parent() {
            names.push(at.name());
            at = parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    /// Returns the kind.
    #[must_use]
    pub fn kind(&self) -> EntryKind {
        match self.node().what {
            What::Dir { .. } => EntryKind::Dir,
            What::File { .. } => EntryKind::File,
            What::Link(_) => EntryKind::Link,
        }
    }

    /// Returns the permission bits.
    #[must_use]
    pub fn mode(&self) -> Mode {
        Mode::new(self.node().mode)
    }

    /// Returns the size that stat(2) told, of files only: 0, or no less than the content has.
    #[must_use]
    pub fn size(&self) -> u64 {
        if let What::File { size, .. } = self.node().what { size } else { 0 }
    }

    /// Returns what reading gave, if it is a file.
    #[must_use]
    pub fn content(&self) -> Option<&'a Content> {
        if let What::File { content, .. } = &self.node().what { Some(content) } else { None }
    }

    /// Returns the text of a link.
    #[must_use]
    pub fn link_text(&self) -> Option<&'a [u8]> {
        if let What::Link(text) = &self.node().what { Some(text) } else { None }
    }

    /// Returns where a link leads in the end, if that is in this tree.
    #[must_use]
    pub fn target(&self) -> Option<Self> {
        self.link_text()?;
        self.parent()?.walk(self.name())
    }

    /// Returns the directory that it is in, unless it is the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let parent = self.node().parent;
        (self.index != 0).then_some(Self { image: self.image, index: parent })
    }

    /// Returns the children of a directory, in the order of their names.
    #[must_use]
    pub fn children(&self) -> impl DoubleEndedIterator<Item = Self> + ExactSizeIterator + use<'a> {
        let image = self.image;
        self.child_range().map(move |index| Self { image, index })
    }

    /// Finds a child by its name.
    #[must_use]
    pub fn child(&self, name: impl AsRef<[u8]>) -> Option<Self> {
        let range = self.child_range();
        let children = &self.image.nodes[range.start as usize..range.end as usize];
        let place = children.binary_search_by(|node| (*node.name).cmp(name.as_ref())).ok()?;
        let index = range.start + u32::try_from(place).ok()?;
        Some(Self { image: self.image, index })
    }

    /// Returns its number, in the order of [`Image::entries`].
    #[must_use]
    pub fn at(&self) -> usize {
        self.index as usize
    }

    fn node(&self) -> &'a Node {
        &self.image.nodes[self.at()]
    }

    fn child_range(&self) -> std::ops::Range<u32> {
        match self.node().what {
            What::Dir { first, len } => first..first + len,
            _ => 0..0,
        }
    }

    fn looks_like_a_device(&self) -> bool {
        let is = |name: &str, kind| self.child(name).is_some_and(|child| child.kind() == kind);
        is("uevent", EntryKind::File) || is("subsystem", EntryKind::Link)
    }

    /// Tells whether it is below a directory that lists devices.
    fn is_in_a_catalogue(&self) -> bool {
        let mut above = std::iter::successors(self.parent(), Self::parent);
        above.any(|dir| matches!(dir.name(), b"class" | b"bus"))
    }

    fn walk(self, path: &[u8]) -> Option<Self> {
        let mut at = self;
        let mut links = 0;
        let mut ahead: Vec<&[u8]> = parts(path).rev().collect();
        while let Some(part) = ahead.pop() {
            if part == b".." {
                at = at.parent()?;
                continue;
            }
            let next = at.child(part)?;
            let Some(text) = next.link_text() else {
                at = next;
                continue;
            };
            links += 1;
            if links > MAX_LINKS || text.starts_with(b"/") {
                return None;
            }
            ahead.extend(parts(text).rev());
        }
        Some(at)
    }
}

impl fmt::Debug for Entry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.kind(), self.path().escape_ascii())
    }
}

/// Returns the parts of a path that name something.
fn parts(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&b| b == b'/').filter(|part| !matches!(*part, b"" | b"."))
}
