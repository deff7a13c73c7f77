//! An image in the making: nodes come in any order, and everything is checked as it comes.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use kernfs::{Errno, Mode};

use crate::image::{Content, Entry, EntryKind, Image, Node, What};
use crate::limits::{MAX_CONTENT, MAX_DEPTH, MAX_FILE, MAX_NAME, MAX_NODES, MAX_PATH};

/// Why something cannot be part of an image; its text says what is wrong and what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the texts are below each other")]
pub enum Refused {
    #[error("the path is absolute; expected one that is relative to the root of the tree")]
    Absolute,
    #[error("the path leads upwards; expected one without '..'")]
    Upwards,
    #[error("the name or path has a NUL byte")]
    Nul,
    #[error("the name has more than {MAX_NAME} bytes")]
    LongName,
    #[error("the path has more than {} bytes", MAX_PATH - 1)]
    LongPath,
    #[error("it is below more than {MAX_DEPTH} directories")]
    Deep,
    #[error("there is a node of this name already")]
    Duplicate,
    #[error("it is below '{0}', which is not a directory")]
    BelowFile(String),
    #[error("it is the root, which is a directory")]
    Root,
    #[error("the link has no text")]
    EmptyLink,
    #[error("the link's text has more than {} bytes", MAX_PATH - 1)]
    LongLink,
    #[error("the file has more than {MAX_FILE} bytes")]
    LargeFile,
    #[error("there are more than {MAX_NODES} nodes")]
    ManyNodes,
    #[error("the distinct contents have more than {MAX_CONTENT} bytes together")]
    MuchContent,
    #[error("there is no such file")]
    NoFile,
}

/// An image in the making, by hand or by whatever reads one.
///
/// ```
/// use kernfs::{Errno, Mode};
/// use kernfs_replay::{Content, Draft};
///
/// let mut draft = Draft::new(Mode::DIR);
/// draft.add_file(b"class/fan/fan0/rpm", Mode::RO, 4096, Content::Bytes((*b"1200\n").into()))?;
/// let image = draft.finish();
/// assert_eq!(image.find("class/fan").unwrap().children().len(), 1);
/// # Ok::<(), kernfs_replay::Refused>(())
/// ```
pub struct Draft {
    nodes: Vec<Sketch>,
    contents: HashSet<Arc<[u8]>>,
    content_bytes: u64,
}

impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draft").field("nodes", &self.nodes.len()).finish_non_exhaustive()
    }
}

struct Sketch {
    name: Box<[u8]>,
    mode: u16,
    what: SketchWhat,
}

enum SketchWhat {
    Dir {
        children: BTreeMap<Box<[u8]>, u32>,
        /// Whether it was put there, and not only implied by what is below it.
        explicit: bool,
    },
    File {
        size: u64,
        content: Content,
    },
    Link(Box<[u8]>),
}

/// Somebody's permission to read.
pub(crate) const READABLE: u16 = 0o444;

/// The mode of a directory of which nothing is known but what is in it.
const IMPLIED: u16 = 0o755;

impl Draft {
    /// Begins with the root.
    #[must_use]
    pub fn new(root_mode: Mode) -> Self {
        let root = SketchWhat::Dir { children: BTreeMap::new(), explicit: false };
        let root = Sketch { name: Box::default(), mode: root_mode.bits(), what: root };
        Self { nodes: vec![root], contents: HashSet::new(), content_bytes: 0 }
    }

    /// Puts a directory there; one that was implied so far gets its mode.
    ///
    /// Directories are implied by what is below them; they have mode 0755 then.
    ///
    /// # Errors
    ///
    /// What [`Refused`] says.
    pub fn add_dir(&mut self, path: &[u8], mode: Mode) -> Result<(), Refused> {
        let parts = checked(path)?;
        let at = match parts.split_last() {
            Some((name, above)) => {
                let parent = self.dir_at(above)?;
                match self.child(parent, name) {
                    Some(at) => at,
                    None => self.push(parent, name, IMPLIED, new_dir())?,
                }
            }
            None => 0,
        };
        let sketch = &mut self.nodes[at as usize];
        match &mut sketch.what {
            SketchWhat::Dir { explicit, .. } if !*explicit => *explicit = true,
            _ => return Err(Refused::Duplicate),
        }
        sketch.mode = mode.bits();
        Ok(())
    }

    /// Puts a file there.
    ///
    /// The size is what stat(2) tells; one that is less than the content has, and not 0, is
    /// corrected: the file grew while it was looked at. Of equal contents one is kept.
    ///
    /// # Errors
    ///
    /// What [`Refused`] says.
    pub fn add_file(
        &mut self,
        path: &[u8],
        mode: Mode,
        size: u64,
        content: Content,
    ) -> Result<(), Refused> {
        let parts = checked(path)?;
        let (name, above) = parts.split_last().ok_or(Refused::Root)?;
        let parent = self.dir_at(above)?;
        if self.child(parent, name).is_some() {
            return Err(Refused::Duplicate);
        }
        let content = self.share(settled_content(mode.bits(), content))?;
        let size = settled(size, &content);
        self.push(parent, name, mode.bits(), SketchWhat::File { size, content })?;
        Ok(())
    }

    /// Puts a link there.
    ///
    /// # Errors
    ///
    /// What [`Refused`] says.
    pub fn add_link(&mut self, path: &[u8], text: &[u8]) -> Result<(), Refused> {
        let parts = checked(path)?;
        let (name, above) = parts.split_last().ok_or(Refused::Root)?;
        if text.is_empty() {
            return Err(Refused::EmptyLink);
        }
        if text.contains(&0) {
            return Err(Refused::Nul);
        }
        if text.len() >= MAX_PATH {
            return Err(Refused::LongLink);
        }
        let parent = self.dir_at(above)?;
        self.push(parent, name, 0o777, SketchWhat::Link(text.into()))?;
        Ok(())
    }

    /// Returns what a file has.
    pub(crate) fn content(&self, path: &[u8]) -> Option<Content> {
        match &self.nodes[self.find(path)? as usize].what {
            SketchWhat::File { content, .. } => Some(content.clone()),
            _ => None,
        }
    }

    /// Changes what is known of a file.
    pub(crate) fn amend(
        &mut self,
        path: &[u8],
        amend: impl FnOnce(&mut u64, &mut Content),
    ) -> Result<(), Refused> {
        let at = self.find(path).ok_or(Refused::NoFile)?;
        let Sketch { mode, what: SketchWhat::File { size, content }, .. } =
            &mut self.nodes[at as usize]
        else {
            return Err(Refused::NoFile);
        };
        amend(size, content);
        *content = settled_content(*mode, content.clone());
        *size = settled(*size, content);
        Ok(())
    }

    /// Goes through all files that are there.
    pub(crate) fn amend_all(&mut self, mut amend: impl FnMut(&mut u64, &mut Content)) {
        for sketch in &mut self.nodes {
            if let SketchWhat::File { size, content } = &mut sketch.what {
                amend(size, content);
                *size = settled(*size, content);
            }
        }
    }

    /// Puts everything below a directory of another image there.
    pub(crate) fn copy(&mut self, top: Entry<'_>) {
        let mut ahead = VecDeque::from([(top, 0)]);
        while let Some((entry, at)) = ahead.pop_front() {
            for child in entry.children() {
                let what = match child.kind() {
                    EntryKind::Dir => SketchWhat::Dir { children: BTreeMap::new(), explicit: true },
                    EntryKind::File => {
                        let content = child.content().expect("a file has a content").clone();
                        let content = self.share(content).expect("it was in an image");
                        SketchWhat::File { size: child.size(), content }
                    }
                    EntryKind::Link => SketchWhat::Link(child.link_text().unwrap_or(b"").into()),
                };
                let pushed = self.push(at, child.name(), child.mode().bits(), what);
                let index = pushed.expect("a part of an image is within its limits");
                ahead.push_back((child, index));
            }
        }
    }

    /// Makes the image.
    ///
    /// # Panics
    ///
    /// Never: [limits](crate::limits) keep the number of nodes far below 2^32.
    #[must_use]
    pub fn finish(self) -> Image {
        let Self { nodes: mut sketches, content_bytes, .. } = self;
        // Level by level, so that the children of a directory are side by side.
        let mut order = vec![(0, 0)];
        let mut nodes: Vec<Node> = Vec::with_capacity(sketches.len());
        while nodes.len() < order.len() {
            let index = number(nodes.len());
            let (at, parent): (u32, u32) = order[nodes.len()];
            let sketch = &mut sketches[at as usize];
            let what = std::mem::replace(&mut sketch.what, SketchWhat::Link(Box::default()));
            let what = match what {
                SketchWhat::Dir { children, .. } => {
                    let first = number(order.len());
                    let len = number(children.len());
                    order.extend(children.into_values().map(|child| (child, index)));
                    What::Dir { first, len }
                }
                SketchWhat::File { size, content } => What::File { size, content },
                SketchWhat::Link(text) => What::Link(text),
            };
            let name = std::mem::take(&mut sketch.name);
            nodes.push(Node { name, parent, mode: sketch.mode, what });
        }
        Image::from_nodes(nodes, content_bytes)
    }

    fn find(&self, path: &[u8]) -> Option<u32> {
        let parts = checked(path).ok()?;
        parts.into_iter().try_fold(0, |at, part| self.child(at, part))
    }

    fn child(&self, at: u32, name: &[u8]) -> Option<u32> {
        match &self.nodes[at as usize].what {
            SketchWhat::Dir { children, .. } => children.get(name).copied(),
            _ => None,
        }
    }

    /// Finds a directory, or makes it and those above it.
    fn dir_at(&mut self, parts: &[&[u8]]) -> Result<u32, Refused> {
        let mut at = 0;
        for (depth, part) in parts.iter().enumerate() {
            at = match self.child(at, part) {
                Some(at) => at,
                None => self.push(at, part, IMPLIED, new_dir())?,
            };
            if !matches!(self.nodes[at as usize].what, SketchWhat::Dir { .. }) {
                let path = parts[..=depth].join(&b'/');
                return Err(Refused::BelowFile(path.escape_ascii().to_string()));
            }
        }
        Ok(at)
    }

    fn push(
        &mut self,
        parent: u32,
        name: &[u8],
        mode: u16,
        what: SketchWhat,
    ) -> Result<u32, Refused> {
        if self.nodes.len() >= MAX_NODES {
            return Err(Refused::ManyNodes);
        }
        let index = number(self.nodes.len());
        let SketchWhat::Dir { children, .. } = &mut self.nodes[parent as usize].what else {
            unreachable!("the parent is a directory");
        };
        if children.contains_key(name) {
            return Err(Refused::Duplicate);
        }
        children.insert(name.into(), index);
        self.nodes.push(Sketch { name: name.into(), mode: mode & 0o7777, what });
        Ok(index)
    }

    /// Keeps equal contents once.
    fn share(&mut self, content: Content) -> Result<Content, Refused> {
        let Content::Bytes(bytes) = content else {
            return Ok(content);
        };
        if bytes.len() > MAX_FILE {
            return Err(Refused::LargeFile);
        }
        if let Some(same) = self.contents.get(&bytes) {
            return Ok(Content::Bytes(Arc::clone(same)));
        }
        self.content_bytes += bytes.len() as u64;
        if self.content_bytes > MAX_CONTENT {
            return Err(Refused::MuchContent);
        }
        self.contents.insert(Arc::clone(&bytes));
        Ok(Content::Bytes(bytes))
    }
}

fn new_dir() -> SketchWhat {
    SketchWhat::Dir { children: BTreeMap::new(), explicit: false }
}

fn number(index: usize) -> u32 {
    u32::try_from(index).expect("an image has less than 2^32 nodes")
}

/// What nobody has looked at, although its mode would allow it, is served like what must not be
/// opened, and so is recorded again like that.
fn settled_content(mode: u16, content: Content) -> Content {
    if content == Content::Unread && mode & READABLE != 0 {
        return Content::OpenError(Errno::EACCES);
    }
    content
}

/// A size of 0 is no size, as in procfs; any other covers the content.
fn settled(size: u64, content: &Content) -> u64 {
    match content {
        Content::Bytes(bytes) if size != 0 => size.max(bytes.len() as u64),
        _ => size,
    }
}

/// Splits a path into its parts, and checks each.
fn checked(path: &[u8]) -> Result<Vec<&[u8]>, Refused> {
    if path.starts_with(b"/") {
        return Err(Refused::Absolute);
    }
    if path.len() >= MAX_PATH {
        return Err(Refused::LongPath);
    }
    if path.contains(&0) {
        return Err(Refused::Nul);
    }
    let parts = path.split(|&b| b == b'/').filter(|part| !matches!(*part, b"" | b"."));
    let parts: Vec<&[u8]> = parts.collect();
    if parts.contains(&&b".."[..]) {
        return Err(Refused::Upwards);
    }
    if parts.iter().any(|part| part.len() > MAX_NAME) {
        return Err(Refused::LongName);
    }
    if parts.len() > MAX_DEPTH + 1 {
        return Err(Refused::Deep);
    }
    Ok(parts)
}
