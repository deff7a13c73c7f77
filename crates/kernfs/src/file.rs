//! The owner's handle on a file.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Deref;

use crate::changes::Change;
use crate::dir::{Dir, sealed};
use crate::drain::Draining;
#[cfg(any(feature = "std", loom, shuttle))]
use crate::drain::NotDrained;
use crate::errno::{Errno, Rejected};
use crate::meta::{Caller, Mode, OpenFlags, SetAttr, Tag};
use crate::name::Name;
use crate::node::{AnyDriver, FileNode, HIDDEN, Inner, REMOVED};
use crate::ops::{FileOps, Notifier};
use crate::owner::{Owner, owner_methods};
use crate::realm::{Manners, PAGE_SIZE, WriteLimit};
use crate::sever;

impl Dir {
    /// Adds a file, whose driver is handed in and comes back when the file is removed.
    ///
    /// # Errors
    ///
    /// EEXIST: the name is taken. ENOENT: this directory was removed, or the name is empty.
    /// ENAMETOOLONG: the name or the path is too long. EINVAL: not a name, or a tag where there
    /// must be none, or the other way round. The error gives the driver back.
    pub fn add_file<T: FileOps + 'static>(
        &self,
        name: impl AsRef<[u8]>,
        options: impl Into<FileOptions>,
        driver: T,
    ) -> Result<File<T>, Rejected<T>> {
        let (owner, driver) =
            add(&self.owner, name.as_ref(), options.into(), driver, |driver| driver)?;
        Ok(File { owner, driver })
    }
}

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
        owner.sever_with(driver)
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
        let tree = self.owner.tree();
        let drain = sever::hide(tree, self.owner.node());
        Draining::new(Arc::clone(&tree.realm), drain, Arc::new(()), Vec::new())
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
        self.owner.tree().notify(self.owner.node());
    }

    /// Returns a handle that can only notify, to be kept where the file cannot be.
    #[must_use]
    pub fn notifier(&self) -> Notifier {
        self.owner.tree().notifier(self.owner.node())
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
        self.owner.tree().fronts.announce(|| Change::Attributes { ino });
    }
}

impl<T> File<T> {
    owner_methods!();
}

impl<T> sealed::Sealed for File<T> {
    fn handle(&self) -> sealed::Handle<'_> {
        sealed::Handle(&self.owner)
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
    mode: Mode,
    uid: u32,
    gid: Option<u32>,
    size: Option<u64>,
    write_limit: Option<WriteLimit>,
    tag: Option<Tag>,
}

impl FileOptions {
    /// Takes the mode; the rest is user 0, the group of the parent or 0, and the manners' own.
    pub const fn new(mode: Mode) -> Self {
        Self { mode, uid: 0, gid: None, size: None, write_limit: None, tag: None }
    }

    /// Sets the mode.
    pub const fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
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

/// Adds a file, whose node knows the driver by a reference without its type.
pub(crate) fn add<T>(
    dir: &Owner,
    name: &[u8],
    options: FileOptions,
    driver: T,
    erase: impl FnOnce(Arc<T>) -> Arc<dyn AnyDriver>,
) -> Result<(Owner, Arc<T>), Rejected<T>> {
    let driver = Arc::new(driver);
    let realm = &dir.tree().realm;
    let sysfs = realm.manners == Manners::Sysfs;
    let size = options.size.unwrap_or(if sysfs { PAGE_SIZE as u64 } else { 0 });
    let manners_own = if sysfs { WriteLimit::Page } else { WriteLimit::Atomic(PAGE_SIZE) };
    let limit = options.write_limit.unwrap_or(manners_own);
    let gid = options.gid.unwrap_or_else(|| dir.group_of_new());
    let meta = realm.meta(options.mode, options.uid, gid);
    let file = Inner::File(FileNode::new(erase(Arc::clone(&driver)), size, limit));
    match dir.add(name, options.tag, meta, file) {
        Ok(owner) => Ok((owner, driver)),
        Err(errno) => match Arc::into_inner(driver) {
            Some(driver) => Err(Rejected::new(errno, driver)),
            None => unreachable!("a file that was not added has no users"),
        },
    }
}
