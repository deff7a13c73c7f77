//! The owner's handles on directories and links, and the operations that clients get on them.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use crate::client::PATH_MAX;
use crate::drain::Draining;
#[cfg(any(feature = "std", loom, shuttle))]
use crate::drain::NotDrained;
use crate::errno::Errno;
use crate::meta::{Caller, Mode, SetAttr, Tag};
use crate::name::Name;
use crate::node::{DirNode, Inner, Node, REMOVED};
use crate::owner::{Owner, S_ISGID, owner_methods};
use crate::structure::{AnyDirOps, By};

/// A directory, in the hands of the owner.
///
/// Dropping it severs it and all below it, without waiting.
pub struct Dir {
    pub(crate) owner: Owner,
}

impl Dir {
    /// Adds a directory.
    ///
    /// # Errors
    ///
    /// As for [`add_file`](Self::add_file).
    pub fn add_dir(
        &self,
        name: impl AsRef<[u8]>,
        options: impl Into<DirOptions>,
    ) -> Result<Self, Errno> {
        let options = options.into();
        let setgid = self.owner.node().meta.lock().mode.bits() & S_ISGID;
        let mode = Mode::new(options.mode.bits() | setgid);
        let gid = options.gid.unwrap_or_else(|| self.owner.group_of_new());
        let meta = self.owner.tree().realm.meta(mode, options.uid, gid);
        let dir = Inner::Dir(DirNode::new(options.tagged_children));
        let owner = self.owner.add(name.as_ref(), options.tag, meta, dir)?;
        Ok(Self { owner })
    }

    /// Adds a symbolic link to a node; its text is computed at each readlink, so it follows
    /// renames (`kernfs_create_link`).
    ///
    /// The link has owner and tag of its target, and mode 0777. It does not keep the target.
    ///
    /// # Errors
    ///
    /// As for [`add_file`](Self::add_file); EXDEV: the target is in another tree.
    pub fn add_link(&self, name: impl AsRef<[u8]>, target: &impl Target) -> Result<Link, Errno> {
        let sealed::Handle(target) = target.handle();
        if !Arc::ptr_eq(target.tree(), self.owner.tree()) {
            return Err(Errno::EXDEV);
        }
        let node = target.node();
        let tagged = self.owner.node().dir()?.tagged;
        let tag = node.place.lock().tag.filter(|_| tagged);
        let (uid, gid) = {
            let meta = node.meta.lock();
            (meta.uid, meta.gid)
        };
        let meta = self.owner.tree().realm.meta(Mode::new(0o777), uid, gid);
        let link = Inner::Link(Arc::clone(node));
        let owner = self.owner.add(name.as_ref(), tag, meta, link)?;
        Ok(Link { owner })
    }

    /// Adds a symbolic link of fixed text, which may lead anywhere or nowhere (symlink(2)).
    ///
    /// What leads to a node of the tree is better a [link](Self::add_link), which follows renames.
    /// In process, an absolute text is taken from the root of the tree.
    ///
    /// # Errors
    ///
    /// As for [`add_file`](Self::add_file); also ENOENT: the text is empty. EINVAL: it has a NUL.
    /// ENAMETOOLONG: it exceeds [`PATH_MAX`](crate::PATH_MAX).
    pub fn add_symlink(
        &self,
        name: impl AsRef<[u8]>,
        text: impl AsRef<[u8]>,
    ) -> Result<Link, Errno> {
        let text = text.as_ref();
        if text.is_empty() {
            return Err(Errno::ENOENT);
        }
        if text.contains(&0) {
            return Err(Errno::EINVAL);
        }
        if text.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let gid = self.owner.group_of_new();
        let meta = self.owner.tree().realm.meta(Mode::new(0o777), 0, gid);
        let owner = self.owner.add(name.as_ref(), None, meta, Inner::Symlink(text.into()))?;
        Ok(Link { owner })
    }

    /// Makes a directory of the same tree that is in it once it is [attached](Self::attach), as
    /// [`Tree::detached_dir`](crate::Tree::detached_dir) does.
    #[must_use]
    pub fn detached(&self, mode: Mode) -> Self {
        let tree = self.owner.tree();
        let dir = Inner::Dir(DirNode::new(false));
        let node = tree.new_node(Name::none(), None, tree.realm.meta(mode, 0, 0), dir);
        tree.publish_id(&node);
        Self { owner: Owner::new(tree, node) }
    }

    /// Attaches a [detached directory](Self::detached) under a name, with all that is below it at
    /// once.
    ///
    /// # Errors
    ///
    /// As for [`add_file`](Self::add_file); EINVAL: it is attached already, or is above this
    /// directory. EXDEV: another tree.
    pub fn attach(&self, name: impl AsRef<[u8]>, dir: &Self) -> Result<(), Errno> {
        self.attach_tagged(name.as_ref(), dir, None)
    }

    /// Does the same in a directory of tagged children.
    ///
    /// # Errors
    ///
    /// As for [`attach`](Self::attach).
    pub fn attach_in(&self, name: impl AsRef<[u8]>, dir: &Self, tag: Tag) -> Result<(), Errno> {
        self.attach_tagged(name.as_ref(), dir, Some(tag))
    }

    /// Severs the child of a name, whatever it is, with all below it
    /// (`kernfs_remove_by_name_ns`); the owner's handle, if any, can take the driver out.
    ///
    /// # Errors
    ///
    /// ENOENT: there is none.
    pub fn sever_child(&self, name: impl AsRef<[u8]>) -> Result<Draining, Errno> {
        self.sever_tagged(name.as_ref(), None)
    }

    /// Does the same in a directory of tagged children.
    ///
    /// # Errors
    ///
    /// As for [`sever_child`](Self::sever_child).
    pub fn sever_child_in(&self, name: impl AsRef<[u8]>, tag: Tag) -> Result<Draining, Errno> {
        self.sever_tagged(name.as_ref(), Some(tag))
    }

    /// Severs the directory and all below it without waiting; may be called anywhere.
    pub fn sever(self) -> Draining {
        self.owner.sever()
    }

    /// Does the same through a handle that others share, which stays: a handle on what was removed.
    pub fn sever_shared(&self) -> Draining {
        Owner::borrowed(self.owner.tree(), self.owner.node()).sever()
    }

    /// Severs the directory and all below it and waits until all is at rest.
    ///
    /// # Errors
    ///
    /// EDEADLK inside an operation of the same tree; the removal goes on.
    #[cfg(any(feature = "std", loom, shuttle))]
    pub fn remove(self) -> Result<(), NotDrained<()>> {
        self.sever().wait()
    }

    /// Gives the handle to the parent directory: nothing is severed when it is dropped.
    pub fn keep(self) {
        self.owner.keep();
    }

    /// Tells whether the directory has no children, hidden ones included.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let dir = self.owner.node().dir();
        dir.is_ok_and(|dir| dir.children.read().is_empty())
    }

    owner_methods!();

    fn attach_tagged(&self, name: &[u8], dir: &Self, tag: Option<Tag>) -> Result<(), Errno> {
        let tree = self.owner.tree();
        if !Arc::ptr_eq(tree, dir.owner.tree()) {
            return Err(Errno::EXDEV);
        }
        tree.attach(self.owner.node(), tree.realm.name(name)?, tag, dir.owner.node())
    }

    fn sever_tagged(&self, name: &[u8], tag: Option<Tag>) -> Result<Draining, Errno> {
        let dir = self.owner.node().dir()?;
        let child = dir.children.read().find(tag, name).map(|child| Arc::clone(&child.node));
        let child = child.ok_or(Errno::ENOENT)?;
        Ok(Owner::borrowed(self.owner.tree(), &child).sever())
    }
}

impl fmt::Debug for Dir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dir").field("ino", &self.ino()).field("name", &self.name()).finish()
    }
}

/// What a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct DirOptions {
    mode: Mode,
    uid: u32,
    gid: Option<u32>,
    tag: Option<Tag>,
    tagged_children: bool,
}

impl DirOptions {
    /// Takes the mode; the rest is user 0, the group of a setgid parent or 0, and no tags.
    pub const fn new(mode: Mode) -> Self {
        Self { mode, uid: 0, gid: None, tag: None, tagged_children: false }
    }

    /// Sets user and group.
    pub const fn owner(mut self, uid: u32, gid: u32) -> Self {
        self.uid = uid;
        self.gid = Some(gid);
        self
    }

    /// Sets the namespace that sees the directory.
    pub const fn tag(mut self, tag: Tag) -> Self {
        self.tag = Some(tag);
        self
    }

    /// Makes every child carry a namespace tag (`kernfs_enable_ns`); else none may.
    pub const fn tagged_children(mut self) -> Self {
        self.tagged_children = true;
        self
    }
}

impl From<Mode> for DirOptions {
    fn from(mode: Mode) -> Self {
        Self::new(mode)
    }
}

/// A symbolic link, in the hands of the owner; dropping it removes the link.
pub struct Link {
    owner: Owner,
}

impl Link {
    /// Removes the link without waiting for front ends.
    pub fn sever(self) -> Draining {
        self.owner.sever()
    }

    /// Removes the link and waits until front ends have taken it away.
    ///
    /// # Errors
    ///
    /// EDEADLK inside an operation of the same tree; the removal goes on.
    #[cfg(any(feature = "std", loom, shuttle))]
    pub fn remove(self) -> Result<(), NotDrained<()>> {
        self.sever().wait()
    }

    /// Gives the handle to the parent directory: the link stays when it is dropped.
    pub fn keep(self) {
        self.owner.keep();
    }

    owner_methods!();
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("ino", &self.ino()).field("name", &self.name()).finish()
    }
}

/// A node that a link can lead to; implemented by the owner's handles.
pub trait Target: sealed::Sealed {}

impl<T: sealed::Sealed> Target for T {}

pub(crate) mod sealed {
    use crate::owner::Owner;

    #[expect(missing_debug_implementations, reason = "sealed")]
    pub struct Handle<'a>(pub(crate) &'a Owner);

    pub trait Sealed {
        fn handle(&self) -> Handle<'_>;
    }

    impl Sealed for super::Dir {
        fn handle(&self) -> Handle<'_> {
            Handle(&self.owner)
        }
    }

    impl Sealed for super::Link {
        fn handle(&self) -> Handle<'_> {
            Handle(&self.owner)
        }
    }
}

/// What clients may do to the structure of a tree (`kernfs_syscall_ops`); each default is EPERM.
///
/// What a callback adds is [kept](Dir::keep) by its directory. Callbacks run side by side, without
/// a kernfs lock; removing a directory waits for the callbacks that are inside of it.
pub trait DirOps: Send + Sync {
    /// Makes a directory, or whatever fits the name.
    ///
    /// # Errors
    ///
    /// Whatever mkdir(2) shall answer.
    fn mkdir(&self, parent: &Dir, name: &Name, op: &DirOp<'_>) -> Result<(), Errno> {
        let _ = (parent, name, op);
        Err(Errno::EPERM)
    }

    /// Removes a directory; the client is answered when the drain is done.
    ///
    /// # Errors
    ///
    /// Whatever rmdir(2) shall answer.
    fn rmdir(&self, dir: &Child, op: &DirOp<'_>) -> Result<Draining, Errno> {
        let _ = (dir, op);
        Err(Errno::EPERM)
    }

    /// Removes a file or link; the client is answered when the drain is done.
    ///
    /// Linux has no such callback; here it lets a client pull a plug.
    ///
    /// # Errors
    ///
    /// Whatever unlink(2) shall answer.
    fn unlink(&self, node: &Child, op: &DirOp<'_>) -> Result<Draining, Errno> {
        let _ = (node, op);
        Err(Errno::EPERM)
    }

    /// Renames or moves a node.
    ///
    /// # Errors
    ///
    /// Whatever rename(2) shall answer.
    fn rename(&self, node: &Child, to: &Dir, name: &Name, op: &DirOp<'_>) -> Result<(), Errno> {
        let _ = (node, to, name, op);
        Err(Errno::EPERM)
    }
}

/// A change of the structure that a client asks for.
#[derive(Clone, Copy, Debug)]
pub struct DirOp<'a> {
    caller: &'a Caller,
    mode: Mode,
}

impl<'a> DirOp<'a> {
    fn asked(by: By<'a>) -> Self {
        Self { caller: by.caller, mode: Mode::new(0) }
    }

    /// Returns who asks.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        self.caller
    }

    /// Returns the mode that mkdir(2) asked for, less the umask; else 0.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }
}

impl<D: DirOps> AnyDirOps for D {
    fn mkdir(&self, by: By<'_>, dir: &Arc<Node>, name: &Name, mode: Mode) -> Result<(), Errno> {
        let dir = Dir { owner: Owner::borrowed(by.tree, dir) };
        DirOps::mkdir(self, &dir, name, &DirOp { caller: by.caller, mode })
    }

    fn rmdir(&self, by: By<'_>, dir: &Arc<Node>) -> Result<Draining, Errno> {
        DirOps::rmdir(self, &Child::asked(by, dir), &DirOp::asked(by))
    }

    fn unlink(&self, by: By<'_>, node: &Arc<Node>) -> Result<Draining, Errno> {
        DirOps::unlink(self, &Child::asked(by, node), &DirOp::asked(by))
    }

    fn rename(
        &self,
        by: By<'_>,
        node: &Arc<Node>,
        to: &Arc<Node>,
        name: &Name,
    ) -> Result<(), Errno> {
        let to = Dir { owner: Owner::borrowed(by.tree, to) };
        DirOps::rename(self, &Child::asked(by, node), &to, name, &DirOp::asked(by))
    }
}

/// The node that a client's system call is about, with the powers that [`DirOps`] needs.
pub struct Child {
    owner: Owner,
}

impl Child {
    fn asked(by: By<'_>, node: &Arc<Node>) -> Self {
        Self { owner: Owner::borrowed(by.tree, node) }
    }

    /// Severs the node and all below it without waiting.
    pub fn sever(&self) -> Draining {
        Owner::borrowed(self.owner.tree(), self.owner.node()).sever()
    }

    /// Returns the node as a directory, if it is one; dropping that severs nothing.
    #[must_use]
    pub fn as_dir(&self) -> Option<Dir> {
        let owner = Owner::borrowed(self.owner.tree(), self.owner.node());
        self.owner.node().dir().ok().map(|_| Dir { owner })
    }

    owner_methods!();
}

impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Child").field(self.owner.node()).finish()
    }
}
