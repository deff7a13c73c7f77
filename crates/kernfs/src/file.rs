//! The owner's handle on a file.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Deref;

use crate::changes::Change;
use crate::dir::Dir;
use crate::drain::Draining;
#[cfg(any(feature = "std", loom, shuttle))]
use crate::drain::NotDrained;
use crate::errno::{Errno, Rejected};
use crate::meta::{Caller, Mode, OpenFlags, SetAttr, Tag};
use crate::name::Name;
use crate::node::{HIDDEN, Inner, Node, REMOVED};
use crate::ops::FileOps;
use crate::realm::{Manners, PAGE_SIZE, WriteLimit};
use crate::sever::{self, Owner};
use crate::tree::Shared;

/// A file and its driver `T`, in the hands of the owner.
///
/// Derefs to the driver. Dropping it severs the file without waiting: the driver is dropped when
/// the last operation has left it. [`remove`](Self::remove) waits and gives the driver back.
pub struct File<T> {
    // Before the driver, for it is dropped first: severing lets go of the other references.
    owner: Owner,
    driver: Arc<T>,
}

impl<T> File<T> {
    /// Severs the file and waits until it is at rest, then returns the driver.
    ///
    /// After that no callback of the file is running or will ever run, every descriptor that was
    /// open on it is dead, everyone who slept on it is awake, every open file was released, and
    /// front ends have taken it away. It waits for the owner's own callbacks and for nobody else.
    /// A file that was removed by somebody else is only waited for.
    ///
    /// # Errors
    ///
    /// EDEADLK inside an operation of the same tree; the removal goes on, and the error gives it
    /// back.
    #[cfg(any(feature = "std", loom, shuttle))]
    pub fn remove(self) -> Result<T, NotDrained<T>> {
        self.sever().wait()
    }

    /// Severs the file without waiting; may be called anywhere, also inside its own operations.
    ///
    /// Open files that nobody is inside of are released here, on this thread: hold no lock that
    /// `release` takes.
    pub fn sever(self) -> Draining<T> {
        let Self { owner, driver } = self;
        owner.sever(driver)
    }

    /// Returns the driver of a file that was removed by somebody else and is at rest.
    ///
    /// # Errors
    ///
    /// Gives the handle back while the file is alive, or operations are still inside.
    pub fn into_inner(self) -> Result<T, Self> {
        let node = self.owner.node();
        let drained = || node.place.lock().drain.as_ref().is_none_or(|drain| drain.is_done());
        if !node.has(REMOVED) || !drained() {
            return Err(self);
        }
        let Self { owner, driver } = self;
        match Arc::into_inner(driver) {
            Some(driver) => Ok(driver),
            None => unreachable!("{:?} is drained and yet in use", owner.node()),
        }
    }

    /// Gives the handle to the parent directory: the driver goes when the file is removed.
    ///
    /// It is dropped by the remover, outside every lock, after the drain.
    pub fn keep(self) {
        self.owner.keep();
    }

    /// Severs all open files and refuses new ones until the file is [shown](Self::show)
    /// (`kernfs_show(kn, false)`).
    ///
    /// The driver stays, the name stays taken. The removal that is returned waits for the gates
    /// that were closed.
    pub fn hide(&self) -> Draining {
        let (drain, kept) = sever::hide(self.owner.tree(), self.owner.node());
        Draining::new(Arc::clone(&self.owner.tree().realm), drain, Arc::new(()), kept)
    }

    /// Makes a hidden file visible again (`kernfs_show(kn, true)`); what was open stays dead.
    pub fn show(&self) {
        sever::show(self.owner.tree(), self.owner.node());
    }

    /// Tells whether the file is hidden.
    #[must_use]
    pub fn is_hidden(&self) -> bool {
        self.owner.node().has(HIDDEN)
    }

    /// Announces that the value changed: pollers wake, blocked readers try again
    /// (`kernfs_notify`).
    ///
    /// May be called anywhere, also in `release` and after removal, when it does nothing.
    pub fn notify(&self) {
        notify(self.owner.tree(), self.owner.node());
    }

    /// Returns a handle that can only notify, to be kept where the file cannot be.
    #[must_use]
    pub fn notifier(&self) -> Notifier {
        Notifier { tree: Arc::clone(self.owner.tree()), node: Arc::clone(self.owner.node()) }
    }

    /// Returns who holds the file open, in the order of opening.
    #[must_use]
    pub fn holders(&self) -> Vec<Holder> {
        let Inner::File(file) = self.owner.node().inner() else {
            return Vec::new();
        };
        let holder = |(caller, flags): (Caller, OpenFlags)| Holder {
            pid: caller.pid,
            uid: caller.uid,
            gid: caller.gid,
            flags,
        };
        file.openers().into_iter().map(holder).collect()
    }

    /// Sets the declared size in bytes.
    pub fn set_size(&self, size: u64) {
        if let Inner::File(file) = self.owner.node().inner() {
            file.set_size(size);
        }
        let ino = self.ino();
        self.owner.tree().fronts.tell(|| Change::Attributes { ino });
    }
}

/// What every owner's handle can do.
macro_rules! owner_methods {
    () => {
        /// Renames the node, or moves it to another directory of the same tree
        /// (`kernfs_rename_ns`). Open files stay as they are.
        ///
        /// # Errors
        ///
        /// ENOENT: the node or the directory was removed. EEXIST: the name is taken. EINVAL: a move
        /// below itself, or of a directory that is not attached. EXDEV: another tree. ENAMETOOLONG,
        /// EINVAL: the name is none.
        pub fn rename(&self, to: &Dir, name: impl AsRef<[u8]>) -> Result<(), Errno> {
            let tag = self.owner.node().place.lock().tag;
            rename(&self.owner, to, name.as_ref(), tag)
        }

        /// Does the same between namespaces: the node gets another tag.
        ///
        /// # Errors
        ///
        /// As for `rename`; EINVAL also if the directory is not a tagged one.
        pub fn rename_in(&self, to: &Dir, name: impl AsRef<[u8]>, tag: Tag) -> Result<(), Errno> {
            rename(&self.owner, to, name.as_ref(), Some(tag))
        }

        /// Changes mode, owner or times (`kernfs_setattr`).
        pub fn set_attr(&self, set: &SetAttr) {
            set_attr(&self.owner, set);
        }

        /// Returns the inode number, which is never reused.
        #[must_use]
        pub fn ino(&self) -> u64 {
            self.owner.node().ino()
        }

        /// Returns the name.
        #[must_use]
        pub fn name(&self) -> Name {
            self.owner.node().name()
        }

        /// Returns the path from the root; of what was removed, the last one.
        #[must_use]
        pub fn path(&self) -> Vec<u8> {
            path(&self.owner)
        }

        /// Tells whether the node was removed.
        #[must_use]
        pub fn is_removed(&self) -> bool {
            self.owner.node().has(REMOVED)
        }
    };
}

pub(crate) use owner_methods;

impl<T> File<T> {
    owner_methods!();

    pub(crate) fn owner(&self) -> &Owner {
        &self.owner
    }
}

impl<T: FileOps + 'static> File<T> {
    pub(crate) fn add(
        dir: &Owner,
        name: &[u8],
        options: FileOptions,
        driver: T,
    ) -> Result<Self, Rejected<T>> {
        let driver = Arc::new(driver);
        match add(dir, name, options, Arc::clone(&driver) as Arc<_>) {
            Ok(owner) => Ok(Self { owner, driver }),
            Err(errno) => match Arc::into_inner(driver) {
                Some(driver) => Err(Rejected::new(errno, driver)),
                None => unreachable!("a file that was not added has no users"),
            },
        }
    }
}

impl<T> Deref for File<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.driver
    }
}

impl<T> fmt::Debug for File<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File").field("ino", &self.ino()).field("name", &self.name()).finish()
    }
}

/// A handle that can only [notify](File::notify); pins neither the file nor its driver.
#[derive(Clone)]
pub struct Notifier {
    tree: Arc<Shared>,
    node: Arc<Node>,
}

impl Notifier {
    #[cfg(any(feature = "std", loom, shuttle))]
    pub(crate) fn new(owner: &Owner) -> Self {
        Self { tree: Arc::clone(owner.tree()), node: Arc::clone(owner.node()) }
    }

    /// Announces that the value changed; does nothing once the file was removed.
    pub fn notify(&self) {
        notify(&self.tree, &self.node);
    }
}

impl fmt::Debug for Notifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Notifier").field(&self.node).finish()
    }
}

/// Who holds a file open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The process that opened it; 0 for the owner's own.
    pub pid: u32,
    /// The user that opened it.
    pub uid: u32,
    /// The group that opened it.
    pub gid: u32,
    /// What for.
    pub flags: OpenFlags,
}

/// What a file is, apart from its driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct FileOptions {
    pub(crate) mode: Mode,
    pub(crate) uid: u32,
    pub(crate) gid: Option<u32>,
    pub(crate) size: Option<u64>,
    pub(crate) write_limit: Option<WriteLimit>,
    pub(crate) tag: Option<Tag>,
}

impl FileOptions {
    /// Takes the mode; the rest is user 0, the group of the parent or 0, and the manners' own.
    pub const fn new(mode: Mode) -> Self {
        Self { mode, uid: 0, gid: None, size: None, write_limit: None, tag: None }
    }

    /// Sets user and group.
    pub const fn owner(mut self, uid: u32, gid: u32) -> Self {
        self.uid = uid;
        self.gid = Some(gid);
        self
    }

    /// Declares the size in bytes that stat(2) tells; reads of a binary file end there.
    pub const fn size(mut self, bytes: u64) -> Self {
        self.size = Some(bytes);
        self
    }

    /// Sets how much one write may bring.
    pub const fn write_limit(mut self, limit: WriteLimit) -> Self {
        self.write_limit = Some(limit);
        self
    }

    /// Sets the namespace that sees the file.
    pub const fn tag(mut self, tag: Tag) -> Self {
        self.tag = Some(tag);
        self
    }
}

impl From<Mode> for FileOptions {
    fn from(mode: Mode) -> Self {
        Self::new(mode)
    }
}

/// Adds a file without knowing the type of its driver.
pub(crate) fn add(
    dir: &Owner,
    name: &[u8],
    options: FileOptions,
    driver: Arc<dyn crate::node::AnyDriver>,
) -> Result<Owner, Errno> {
    let tree = dir.tree();
    let name = Name::new(name, tree.realm.limits.name)?;
    let sysfs = tree.realm.manners == Manners::Sysfs;
    let size = options.size.unwrap_or(if sysfs { PAGE_SIZE as u64 } else { 0 });
    let limit = options.write_limit.unwrap_or(if sysfs {
        WriteLimit::Page
    } else {
        WriteLimit::Atomic(PAGE_SIZE)
    });
    let gid = options.gid.unwrap_or_else(|| crate::dir::inherited_gid(dir.node()));
    let meta = tree.realm.meta(options.mode, options.uid, gid);
    let file = Inner::File(crate::node::FileNode::new(driver, size, limit));
    crate::dir::add_node(dir, name, options.tag, meta, file)
}

pub(crate) fn notify(tree: &Shared, node: &Node) {
    node.notify();
    if !node.has(REMOVED | HIDDEN) {
        tree.fronts.tell(|| Change::Notified { ino: node.ino() });
    }
}

pub(crate) fn rename(owner: &Owner, to: &Dir, name: &[u8], tag: Option<Tag>) -> Result<(), Errno> {
    let tree = owner.tree();
    if !Arc::ptr_eq(tree, to.owner().tree()) {
        return Err(Errno::EXDEV);
    }
    tree.rename(owner.node(), to.owner().node(), Name::new(name, tree.realm.limits.name)?, tag)
}

pub(crate) fn set_attr(owner: &Owner, set: &SetAttr) {
    // The owner may do everything.
    let _ = owner.tree().set_attr(owner.node(), &Caller::OWNER, set);
}

pub(crate) fn path(owner: &Owner) -> Vec<u8> {
    let (_, names) = owner.tree().locked(|| owner.node().names());
    crate::name::absolute(&names)
}
