//! Serving an image as a part of a tree.

use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kernfs::{
    Child, Dir, DirOp, DirOps, DirOptions, Draining, Errno, File, FileOptions, Link, PAGE_SIZE,
    SetAttr, Tree,
};

use crate::driver::{Long, Part, Silent, Text};
use crate::image::{Content, Entry, EntryKind, Image};

/// How an image is served.
///
/// The tree should have [sysfs manners](kernfs::Manners::Sysfs), with which root, too, can open
/// files only for what their modes allow.
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub struct ServeOptions {
    writes: Writes,
    uid: u32,
    gid: u32,
}

/// What becomes of writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Writes {
    /// Opening for writing is EROFS where the mode allows it.
    #[default]
    Refused,
    /// What was written is read afterwards.
    Taken,
}

impl ServeOptions {
    /// Starts with files that cannot be written, and user and group 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// Has files take what is written to them, and show it afterwards.
    ///
    /// A write replaces the text, as in sysfs; a missing newline at its end is added if the
    /// recorded text had one. In a file of more than a page it goes where it is written to.
    pub fn writable(mut self) -> Self {
        self.writes = Writes::Taken;
        self
    }

    /// Sets to whom everything belongs; owners are not recorded.
    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        self.uid = uid;
        self.gid = gid;
        self
    }
}

impl Image {
    /// Serves the image in a tree that is empty so far: its root is that of the tree.
    ///
    /// Everything in a directory of the root becomes visible at once.
    ///
    /// # Errors
    ///
    /// EEXIST: a name is taken.
    pub fn serve(self: &Arc<Self>, tree: &Tree, options: &ServeOptions) -> Result<Served, Errno> {
        let root = tree.root();
        root.set_attr(&options.attributes(self.root()));
        let mut handles = vec![Handle::Gone];
        for entry in self.entries().skip(1) {
            let parent = entry.parent().expect("not the root");
            let handle = if parent.at() != 0 {
                options.add(self, handles[parent.at()].as_dir(), entry)?
            } else if entry.kind() == EntryKind::Dir {
                let dir = tree.detached_dir(entry.mode());
                dir.set_attr(&options.attributes(entry));
                Handle::Dir(dir)
            } else {
                options.add(self, root, entry)?
            };
            handles.push(handle);
        }
        for entry in self.root().children().filter(|entry| entry.kind() == EntryKind::Dir) {
            root.attach(entry.name(), handles[entry.at()].as_dir())?;
        }
        Ok(Served::new(self, handles))
    }

    /// Serves the image as a directory, which becomes visible at once.
    ///
    /// # Errors
    ///
    /// EEXIST: the name is taken. ENOENT: the directory was removed. EXDEV: it is in another tree.
    /// EINVAL: not a name.
    pub fn serve_in(
        self: &Arc<Self>,
        tree: &Tree,
        dir: &Dir,
        name: impl AsRef<[u8]>,
        options: &ServeOptions,
    ) -> Result<Served, Errno> {
        let top = tree.detached_dir(self.root().mode());
        top.set_attr(&options.attributes(self.root()));
        let mut handles = vec![Handle::Dir(top)];
        for entry in self.entries().skip(1) {
            let parent = entry.parent().expect("not the root");
            let handle = options.add(self, handles[parent.at()].as_dir(), entry)?;
            handles.push(handle);
        }
        dir.attach(name, handles[0].as_dir())?;
        Ok(Served::new(self, handles))
    }
}

impl ServeOptions {
    fn attributes(&self, entry: Entry<'_>) -> SetAttr {
        SetAttr {
            mode: Some(entry.mode()),
            uid: Some(self.uid),
            gid: Some(self.gid),
            ..SetAttr::default()
        }
    }

    fn add(&self, image: &Arc<Image>, dir: &Dir, entry: Entry<'_>) -> Result<Handle, Errno> {
        let name = entry.name();
        if let Some(text) = entry.link_text() {
            let link = dir.add_symlink(name, text)?;
            if (self.uid, self.gid) != (0, 0) {
                link.set_attr(&SetAttr { mode: None, ..self.attributes(entry) });
            }
            return Ok(Handle::Link(link));
        }
        let Some(content) = entry.content() else {
            let options = DirOptions::new(entry.mode()).owner(self.uid, self.gid);
            return Ok(Handle::Dir(dir.add_dir(name, options)?));
        };
        let options = FileOptions::new(entry.mode()).owner(self.uid, self.gid).size(entry.size());
        let part = Part::new(image, entry, self.writes);
        Ok(match content {
            Content::Blocks => Handle::Silent(dir.add_file(name, options, Silent(part))?),
            Content::Bytes(bytes) if bytes.len() >= PAGE_SIZE => {
                Handle::Long(dir.add_file(name, options, Long(part))?)
            }
            _ => Handle::Text(dir.add_file(name, options, Text(part))?),
        })
    }
}

/// An image that is being served, with the powers of its owner; dropping it severs all of it.
///
/// Paths are those of the image.
pub struct Served {
    image: Arc<Image>,
    /// By the number of the node, so that what is dropped first takes along what is below it.
    handles: Mutex<Vec<Handle>>,
}

/// What the owner holds of a node.
enum Handle {
    Dir(Dir),
    Link(Link),
    Text(File<Text>),
    Long(File<Long>),
    Silent(File<Silent>),
    /// Severed, or the root of the tree, which is somebody else's.
    Gone,
}

impl Served {
    fn new(image: &Arc<Image>, handles: Vec<Handle>) -> Self {
        Self { image: Arc::clone(image), handles: Mutex::new(handles) }
    }

    /// Returns what is served: paths, kinds, devices.
    #[must_use]
    pub fn image(&self) -> &Arc<Image> {
        &self.image
    }

    /// Severs a node and all below it without waiting.
    ///
    /// `None` if there is no such node, or if it was severed before by its path.
    pub fn sever(&self, path: impl AsRef<[u8]>) -> Option<Draining> {
        let entry = self.image.find(path)?;
        let handle = mem::replace(&mut self.lock()[entry.at()], Handle::Gone);
        // Not under the lock: drivers are released here.
        handle.sever()
    }

    /// Hides a file, or all files below a directory, and returns what is to be waited for.
    ///
    /// Names stay taken; what was open on them is dead for ever. Links and directories cannot be
    /// hidden.
    #[must_use = "what was hidden is at rest only when this has been waited for"]
    pub fn hide(&self, path: impl AsRef<[u8]>) -> Vec<Draining> {
        self.each_file(path.as_ref(), Handle::hide)
    }

    /// Makes visible again what was hidden: a file, or all files below a directory.
    pub fn show(&self, path: impl AsRef<[u8]>) {
        self.each_file(path.as_ref(), |handle| {
            handle.show();
            None::<()>
        });
    }

    /// Tells whether a node was severed, by whomever, itself or with something above it.
    ///
    /// `None` if there is no such node in the image.
    #[must_use]
    pub fn is_severed(&self, path: impl AsRef<[u8]>) -> Option<bool> {
        let entry = self.image.find(path)?;
        Some(entry.at() != 0 && self.lock()[entry.at()].is_removed())
    }

    fn each_file<R>(&self, path: &[u8], mut visit: impl FnMut(&Handle) -> Option<R>) -> Vec<R> {
        let mut results = Vec::new();
        let mut ahead: Vec<Entry<'_>> = self.image.find(path).into_iter().collect();
        let handles = self.lock();
        while let Some(entry) = ahead.pop() {
            results.extend(visit(&handles[entry.at()]));
            ahead.extend(entry.children());
        }
        results
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Handle>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served").field("nodes", &self.image.len()).finish_non_exhaustive()
    }
}

impl Handle {
    fn as_dir(&self) -> &Dir {
        let Self::Dir(dir) = self else { unreachable!("parents are directories") };
        dir
    }

    fn sever(self) -> Option<Draining> {
        Some(match self {
            Self::Dir(dir) => dir.sever(),
            Self::Link(link) => link.sever(),
            Self::Text(file) => file.sever().detach(),
            Self::Long(file) => file.sever().detach(),
            Self::Silent(file) => file.sever().detach(),
            Self::Gone => return None,
        })
    }

    fn hide(&self) -> Option<Draining> {
        Some(match self {
            Self::Text(file) => file.hide(),
            Self::Long(file) => file.hide(),
            Self::Silent(file) => file.hide(),
            Self::Dir(_) | Self::Link(_) | Self::Gone => return None,
        })
    }

    fn show(&self) {
        match self {
            Self::Text(file) => file.show(),
            Self::Long(file) => file.show(),
            Self::Silent(file) => file.show(),
            Self::Dir(_) | Self::Link(_) | Self::Gone => {}
        }
    }

    fn is_removed(&self) -> bool {
        match self {
            Self::Dir(dir) => dir.is_removed(),
            Self::Link(link) => link.is_removed(),
            Self::Text(file) => file.is_removed(),
            Self::Long(file) => file.is_removed(),
            Self::Silent(file) => file.is_removed(),
            Self::Gone => true,
        }
    }
}

/// Lets clients pull the plug: `rmdir` of a directory severs it with all that is below it, `rm` of
/// a file or link severs that.
///
/// To be given to [`TreeBuilder::dir_ops`](kernfs::TreeBuilder::dir_ops); without it both are
/// EPERM, as in sysfs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unplug;

impl DirOps for Unplug {
    fn rmdir(&self, dir: &Child, _: &DirOp<'_>) -> Result<Draining, Errno> {
        Ok(dir.sever())
    }

    fn unlink(&self, node: &Child, _: &DirOp<'_>) -> Result<Draining, Errno> {
        Ok(node.sever())
    }
}
