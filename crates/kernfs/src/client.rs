//! What clients can do with a tree: look up, list, ask and set attributes, open; never remove,
//! unless the owner's [`DirOps`](crate::DirOps) do it for them.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use crate::drain::Draining;
use crate::errno::Errno;
use crate::inside::{Inside, Panicked, Place, contain};
use crate::meta::{
    Access, Attr, Caller, MAX_XATTR_VALUE, Mode, NodeKind, OpenFlags, Operation, SetAttr, Tag,
    XattrFlags, check_xattr,
};
use crate::name::relative;
use crate::node::{HIDDEN, Inner, Node, REMOVED, RMDIR};
use crate::open::OpenFile;
use crate::ops::Ops;
use crate::realm::Manners;
use crate::structure::{AnyDirOps, By, Shared};
use crate::sync::assert_unlocked;

/// A view of a tree: whose namespace, and with the powers of which caller.
///
/// Paths are absolute or taken from the root; links are followed.
#[derive(Clone)]
pub struct Client {
    tree: Arc<Shared>,
    caller: Caller,
    tag: Option<Tag>,
}

/// The most links that are followed in one path (`MAXSYMLINKS`); beyond: ELOOP.
pub const MAX_LINKS: usize = 40;

impl Client {
    pub(crate) fn new(tree: Arc<Shared>, caller: Caller, tag: Option<Tag>) -> Self {
        Self { tree, caller, tag }
    }

    /// Returns the caller.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Returns the same view for another caller.
    #[must_use]
    pub fn with_caller(&self, caller: Caller) -> Self {
        Self { caller, ..self.clone() }
    }

    /// Returns the root directory.
    #[must_use]
    pub fn root(&self) -> Inode {
        self.inode(Arc::clone(&self.tree.root))
    }

    /// Finds a node by its inode number, as a file handle does.
    ///
    /// # Errors
    ///
    /// ESTALE: it never was, was removed (though it may still be open), is hidden, is not attached.
    pub fn by_id(&self, ino: u64) -> Result<Inode, Errno> {
        self.tree.by_id(ino).map(|node| self.inode(node))
    }

    /// Finds a node, following links in the path and at its end.
    ///
    /// # Errors
    ///
    /// ENOENT: there is none. ENOTDIR: something on the way is no directory. EACCES: a directory
    /// must not be searched. ELOOP: too many links.
    pub fn lookup(&self, path: impl AsRef<[u8]>) -> Result<Inode, Errno> {
        self.walk(path.as_ref(), true)
    }

    /// Finds a node without following a link at the end of the path.
    ///
    /// # Errors
    ///
    /// As for [`lookup`](Self::lookup).
    pub fn lookup_link(&self, path: impl AsRef<[u8]>) -> Result<Inode, Errno> {
        self.walk(path.as_ref(), false)
    }

    /// Opens a file.
    ///
    /// # Errors
    ///
    /// As for [`lookup`](Self::lookup) and [`Inode::open`].
    pub fn open(&self, path: impl AsRef<[u8]>, flags: OpenFlags) -> Result<OpenFile, Errno> {
        self.lookup(path)?.open(&self.caller, flags)
    }

    /// Opens a directory.
    ///
    /// # Errors
    ///
    /// As for [`lookup`](Self::lookup) and [`Inode::open_dir`].
    pub fn open_dir(&self, path: impl AsRef<[u8]>) -> Result<OpenDir, Errno> {
        self.lookup(path)?.open_dir(&self.caller)
    }

    /// Makes a directory, if the owner lets clients do so.
    ///
    /// # Errors
    ///
    /// As for [`lookup`](Self::lookup) and [`Inode::mkdir`].
    pub fn mkdir(&self, path: impl AsRef<[u8]>, mode: Mode) -> Result<(), Errno> {
        let (parent, name) = self.split(path.as_ref(), Errno::EEXIST)?;
        parent.mkdir(&self.caller, name, mode)
    }

    /// Removes a directory, if the owner lets clients do so; wait for what is returned.
    ///
    /// # Errors
    ///
    /// As for [`lookup`](Self::lookup) and [`Inode::rmdir`].
    pub fn rmdir(&self, path: impl AsRef<[u8]>) -> Result<Draining, Errno> {
        let (parent, name) = self.split(path.as_ref(), Errno::EBUSY)?;
        parent.rmdir(&self.caller, name)
    }

    /// Removes a file or link, if the owner lets clients do so; wait for what is returned.
    ///
    /// # Errors
    ///
    /// As for [`lookup`](Self::lookup) and [`Inode::unlink`].
    pub fn unlink(&self, path: impl AsRef<[u8]>) -> Result<Draining, Errno> {
        let (parent, name) = self.split(path.as_ref(), Errno::EISDIR)?;
        parent.unlink(&self.caller, name)
    }

    /// Renames or moves a node, if the owner lets clients do so.
    ///
    /// # Errors
    ///
    /// As for [`lookup`](Self::lookup) and [`Inode::rename`].
    pub fn rename(&self, from: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Result<(), Errno> {
        let (parent, name) = self.split(from.as_ref(), Errno::EBUSY)?;
        let (to, new_name) = self.split(to.as_ref(), Errno::EBUSY)?;
        parent.rename(&self.caller, name, &to, new_name)
    }

    fn inode(&self, node: Arc<Node>) -> Inode {
        Inode { tree: Arc::clone(&self.tree), node, tag: self.tag }
    }

    fn walk(&self, path: &[u8], follow_last: bool) -> Result<Inode, Errno> {
        let mut at = self.root();
        let mut links = 0;
        // What is still to be walked, the next part last.
        let mut parts: Vec<Vec<u8>> = split_path(path).map(<[u8]>::to_vec).rev().collect();
        while let Some(part) = parts.pop() {
            let next = at.lookup(&self.caller, &part)?;
            if next.kind() != NodeKind::Link || (parts.is_empty() && !follow_last) {
                at = next;
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(Errno::ELOOP);
            }
            // The text is relative to where the link is, which is where the walk goes on; or to the
            // root, as in a tree that is a whole filesystem.
            let text = next.readlink()?;
            if text.starts_with(b"/") {
                at = self.root();
            }
            parts.extend(split_path(&text).map(<[u8]>::to_vec).rev());
        }
        Ok(at)
    }

    /// Splits off the last part of a path; a path without one is `or_else`.
    fn split<'a>(&self, path: &'a [u8], or_else: Errno) -> Result<(Inode, &'a [u8]), Errno> {
        let end = path.iter().rposition(|&b| b != b'/').ok_or(or_else)? + 1;
        let path = &path[..end];
        let start = path.iter().rposition(|&b| b == b'/').map_or(0, |slash| slash + 1);
        Ok((self.walk(&path[..start], true)?, &path[start..]))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("caller", &self.caller)
            .field("tag", &self.tag)
            .finish_non_exhaustive()
    }
}

fn split_path(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&b| b == b'/').filter(|part| !part.is_empty())
}

/// A node as clients see it: pins its memory and its identity, but not what the owner put there.
#[derive(Clone)]
pub struct Inode {
    tree: Arc<Shared>,
    node: Arc<Node>,
    tag: Option<Tag>,
}

impl OpenFile {
    /// Returns the node, whose attributes can be asked and set on severed files too.
    #[must_use]
    pub fn inode(&self) -> Inode {
        let node = Arc::clone(&self.0.open.core().node);
        let tag = node.place.lock().tag;
        Inode { tree: Arc::clone(&self.0.tree), node, tag }
    }
}

impl Inode {
    /// Returns the inode number.
    #[must_use]
    pub fn ino(&self) -> u64 {
        self.node.ino()
    }

    /// Returns the kind.
    #[must_use]
    pub fn kind(&self) -> NodeKind {
        self.node.kind()
    }

    /// Tells whether the node was removed.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.node.has(REMOVED)
    }

    /// Tells whether the node is a hidden file.
    #[must_use]
    pub fn is_hidden(&self) -> bool {
        self.node.has(HIDDEN)
    }

    /// Returns the path from the root; of what was removed, the last one.
    #[must_use]
    pub fn path(&self) -> Vec<u8> {
        self.tree.path(&self.node)
    }

    /// Finds a child; `.` is the directory itself, `..` its parent.
    ///
    /// # Errors
    ///
    /// ENOTDIR, EACCES as for path walks; ENOENT: there is none that this client sees, or the
    /// directory was removed; ENAMETOOLONG.
    pub fn lookup(&self, caller: &Caller, name: impl AsRef<[u8]>) -> Result<Self, Errno> {
        let name = name.as_ref();
        let dir = self.node.dir()?;
        self.check_access(caller, Access::EXEC)?;
        let node = match name {
            b"." => Some(Arc::clone(&self.node)),
            b".." => self.node.parent().or_else(|| Some(Arc::clone(&self.node))),
            _ if name.len() > self.tree.realm.limits.name => return Err(Errno::ENAMETOOLONG),
            _ => dir.lookup(self.tag, name),
        };
        node.map(|node| self.other(node)).ok_or(Errno::ENOENT)
    }

    /// Returns what stat(2) tells; works on severed nodes too.
    #[must_use]
    pub fn attr(&self) -> Attr {
        let node = &self.node;
        let removed = node.has(REMOVED);
        let (nlink, changed) = match node.inner() {
            Inner::Dir(dir) => {
                let children = dir.children.read();
                (2 + children.subdirs, children.changed)
            }
            _ => (1, None),
        };
        let size = match node.inner() {
            Inner::Link(_) => self.readlink().map_or(0, |text| text.len() as u64),
            Inner::Symlink(text) => text.len() as u64,
            _ => node.size(),
        };
        let meta = node.meta.lock();
        let rare = meta.rare.as_deref();
        let set_mtime = rare.and_then(|rare| rare.mtime);
        let mtime = changed.or(set_mtime).unwrap_or(meta.born);
        let set_ctime = rare.and_then(|rare| rare.ctime).unwrap_or(meta.born);
        Attr {
            ino: node.ino(),
            kind: node.kind(),
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            size,
            nlink: if removed { 0 } else { nlink },
            atime: rare.and_then(|rare| rare.atime).unwrap_or(meta.born),
            mtime,
            ctime: changed.map_or(set_ctime, |changed| changed.max(set_ctime)),
        }
    }

    /// Changes attributes; works on severed nodes too (`kernfs_iop_setattr`).
    ///
    /// # Errors
    ///
    /// EPERM: the caller does not own the node and has no capability for it.
    pub fn set_attr(&self, caller: &Caller, set: &SetAttr) -> Result<(), Errno> {
        self.tree.set_attr(&self.node, caller, set)
    }

    /// Checks an access against mode, owner and group (`inode_permission`).
    ///
    /// # Errors
    ///
    /// EACCES.
    pub fn check_access(&self, caller: &Caller, access: Access) -> Result<(), Errno> {
        let permitted = self.node.meta.lock().permits(caller, self.kind(), access);
        if permitted { Ok(()) } else { Err(Errno::EACCES) }
    }

    /// Returns the value of an extended attribute; works on severed nodes too.
    ///
    /// # Errors
    ///
    /// ENODATA: there is none. EOPNOTSUPP: no such namespace here. ERANGE: the name is too long.
    /// EACCES: the node must not be read.
    pub fn xattr(&self, caller: &Caller, name: &[u8]) -> Result<Vec<u8>, Errno> {
        self.check_xattr(caller, name, Access::READ)?;
        let meta = self.node.meta.lock();
        meta.xattrs().ok_or(Errno::ENODATA)?.get(name)
    }

    /// Returns the names of the extended attributes that the caller may know of.
    #[must_use]
    pub fn xattrs(&self, caller: &Caller) -> Vec<Vec<u8>> {
        let meta = self.node.meta.lock();
        let names = meta.xattrs().into_iter().flat_map(crate::meta::Xattrs::names);
        let admin = caller.is_capable(crate::meta::Capability::SYS_ADMIN);
        let visible = names.filter(|name| admin || !name.starts_with(b"trusted."));
        visible.map(<[u8]>::to_vec).collect()
    }

    /// Sets an extended attribute; works on severed nodes too.
    ///
    /// # Errors
    ///
    /// EEXIST, ENODATA: as the flags demand. ENOSPC: more than
    /// [`MAX_USER_XATTRS`](crate::MAX_USER_XATTRS) or
    /// [`MAX_USER_XATTR_BYTES`](crate::MAX_USER_XATTR_BYTES). E2BIG: more than
    /// [`MAX_XATTR_VALUE`]. EPERM, EACCES: not by this caller. EOPNOTSUPP, ERANGE: as for
    /// [`xattr`](Self::xattr).
    pub fn set_xattr(
        &self,
        caller: &Caller,
        name: &[u8],
        value: &[u8],
        flags: XattrFlags,
    ) -> Result<(), Errno> {
        if value.len() > MAX_XATTR_VALUE {
            return Err(Errno::E2BIG);
        }
        self.check_xattr(caller, name, Access::WRITE)?;
        self.node.meta.lock().xattrs_mut().set(name, value, flags)
    }

    /// Removes an extended attribute; works on severed nodes too.
    ///
    /// # Errors
    ///
    /// ENODATA: there is none; else as for [`set_xattr`](Self::set_xattr).
    pub fn remove_xattr(&self, caller: &Caller, name: &[u8]) -> Result<(), Errno> {
        self.check_xattr(caller, name, Access::WRITE)?;
        self.node.meta.lock().xattrs_mut().remove(name)
    }

    /// Returns the text of a link, which leads from the link's directory to its target, or is the
    /// one that a [symlink](crate::Dir::add_symlink) was made with.
    ///
    /// # Errors
    ///
    /// EINVAL: not a link, or one in the root to the root. ENOENT: the target is not in the tree.
    /// ENAMETOOLONG: the text would exceed PATH_MAX.
    pub fn readlink(&self) -> Result<Vec<u8>, Errno> {
        let target = match self.node.inner() {
            Inner::Link(target) => target,
            Inner::Symlink(text) => return Ok(text.to_vec()),
            _ => return Err(Errno::EINVAL),
        };
        let (link, target) = self.tree.locked(|| (self.node.names(), target.names()));
        if !Arc::ptr_eq(&link.0, &target.0) {
            return Err(Errno::ENOENT);
        }
        let mut from = link.1;
        from.pop();
        match relative(&from, &target.1) {
            text if text.is_empty() => Err(Errno::EINVAL),
            text if text.len() >= PATH_MAX => Err(Errno::ENAMETOOLONG),
            text => Ok(text),
        }
    }

    /// Opens a file (`kernfs_fop_open`).
    ///
    /// # Errors
    ///
    /// EISDIR, ELOOP: not a file. EACCES: the mode forbids it, or, with sysfs manners, mode or
    /// driver lack the direction. ENODEV: it was severed. ENFILE: too many open files. EINVAL: for
    /// neither reading nor writing. Else what the driver answers; EIO if it panics.
    pub fn open(&self, caller: &Caller, flags: OpenFlags) -> Result<OpenFile, Errno> {
        self.node.file()?;
        let mut access = Access::empty();
        access.set(Access::READ, flags.contains(OpenFlags::READ));
        access.set(Access::WRITE, flags.contains(OpenFlags::WRITE));
        if access.is_empty() {
            return Err(Errno::EINVAL);
        }
        self.check_access(caller, access)?;
        if self.tree.realm.manners == Manners::Sysfs {
            self.check_directions(access)?;
        }
        let caller = caller.nonblocking(flags.contains(OpenFlags::NONBLOCK));
        OpenFile::open(&self.tree, &self.node, &caller, flags)
    }

    /// Opens a directory for listing.
    ///
    /// # Errors
    ///
    /// ENOTDIR, EACCES.
    pub fn open_dir(&self, caller: &Caller) -> Result<OpenDir, Errno> {
        self.node.dir()?;
        self.check_access(caller, Access::READ)?;
        Ok(OpenDir { inode: self.clone() })
    }

    /// Makes a directory (`kernfs_iop_mkdir`).
    ///
    /// # Errors
    ///
    /// EEXIST: the name is taken. ENOENT: this directory was removed. EACCES. EPERM: the owner does
    /// not let clients do so. ENODEV: it is being removed. Else what the owner answers.
    pub fn mkdir(&self, caller: &Caller, name: impl AsRef<[u8]>, mode: Mode) -> Result<(), Errno> {
        let name = name.as_ref();
        let dir = self.node.dir()?;
        if self.is_removed() {
            return Err(Errno::ENOENT);
        }
        if matches!(name, b"." | b"..") || dir.lookup(self.tag, name).is_some() {
            return Err(Errno::EEXIST);
        }
        self.check_access(caller, Access::WRITE | Access::EXEC)?;
        let name = self.tree.realm.name(name)?;
        self.call(&[&self.node], Operation::Mkdir, caller, |ops, by| {
            ops.mkdir(by, &self.node, &name, mode)
        })
    }

    /// Removes a directory (`kernfs_iop_rmdir`); the client's answer is due when the removal that
    /// is returned is done.
    ///
    /// # Errors
    ///
    /// ENOENT, ENOTDIR, EACCES. EPERM: the owner does not let clients do so. ENODEV: it is being
    /// removed. Else what the owner answers, for example EBUSY.
    pub fn rmdir(&self, caller: &Caller, name: impl AsRef<[u8]>) -> Result<Draining, Errno> {
        let child = self.victim(caller, name.as_ref())?;
        child.dir()?;
        let draining =
            self.call(&[&child], Operation::Rmdir, caller, |ops, by| ops.rmdir(by, &child))?;
        if child.has(REMOVED) {
            child.raise(RMDIR);
        }
        Ok(draining)
    }

    /// Removes a file or a link, if the owner lets clients do so.
    ///
    /// # Errors
    ///
    /// As for [`rmdir`](Self::rmdir); EISDIR for a directory.
    pub fn unlink(&self, caller: &Caller, name: impl AsRef<[u8]>) -> Result<Draining, Errno> {
        let child = self.victim(caller, name.as_ref())?;
        if child.kind() == NodeKind::Dir {
            return Err(Errno::EISDIR);
        }
        self.call(&[&self.node], Operation::Unlink, caller, |ops, by| ops.unlink(by, &child))
    }

    /// Renames or moves a node (`kernfs_iop_rename`).
    ///
    /// # Errors
    ///
    /// ENOENT, ENOTDIR, EACCES, EXDEV. EPERM: the owner does not let clients do so. Else what the
    /// owner answers.
    pub fn rename(
        &self,
        caller: &Caller,
        name: impl AsRef<[u8]>,
        to: &Self,
        new_name: impl AsRef<[u8]>,
    ) -> Result<(), Errno> {
        let child = self.victim(caller, name.as_ref())?;
        if !Arc::ptr_eq(&self.tree, &to.tree) {
            return Err(Errno::EXDEV);
        }
        to.node.dir()?;
        to.check_access(caller, Access::WRITE | Access::EXEC)?;
        let new_name = self.tree.realm.name(new_name.as_ref())?;
        self.call(&[&to.node, &child], Operation::Rename, caller, |ops, by| {
            ops.rename(by, &child, &to.node, &new_name)
        })
    }

    fn other(&self, node: Arc<Node>) -> Self {
        Self { tree: Arc::clone(&self.tree), node, tag: self.tag }
    }

    fn check_directions(&self, access: Access) -> Result<(), Errno> {
        let mode = self.node.meta.lock().mode.bits();
        let ops = self.node.file()?.ops();
        let readable = mode & 0o444 != 0 && ops.contains(Ops::READ);
        let writable = mode & 0o222 != 0 && ops.contains(Ops::WRITE);
        if (access.contains(Access::READ) && !readable)
            || (access.contains(Access::WRITE) && !writable)
        {
            return Err(Errno::EACCES);
        }
        Ok(())
    }

    fn check_xattr(&self, caller: &Caller, name: &[u8], access: Access) -> Result<(), Errno> {
        check_xattr(caller, name, self.tree.realm.user_xattrs, access)?;
        if name.starts_with(b"user.") {
            self.check_access(caller, access)?;
        }
        Ok(())
    }

    /// Finds the node that a system call is about to take away.
    fn victim(&self, caller: &Caller, name: &[u8]) -> Result<Arc<Node>, Errno> {
        match name {
            b"." => return Err(Errno::EINVAL),
            b".." => return Err(Errno::ENOTEMPTY),
            _ => {}
        }
        let child = self.lookup(caller, name)?.node;
        self.check_access(caller, Access::WRITE | Access::EXEC)?;
        Ok(child)
    }

    /// Runs a callback of the owner inside the gates of those of the nodes that are directories.
    fn call<R>(
        &self,
        within: &[&Arc<Node>],
        operation: Operation,
        caller: &Caller,
        body: impl FnOnce(&dyn AnyDirOps, By<'_>) -> Result<R, Errno>,
    ) -> Result<R, Errno> {
        let ops = self.tree.dir_ops.lock().clone().ok_or(Errno::EPERM)?;
        let mut passes = Vec::new();
        let mut places = Vec::new();
        for node in within {
            let Ok(dir) = node.dir() else { continue };
            // Sharers never wait for each other, so that a refusal means that it is closed.
            passes.push(dir.gate.enter_shared().map_err(|_| Errno::ENODEV)?);
            dir.running.start(operation, caller);
            let object = Arc::as_ptr(node) as usize;
            places.push(Inside::enter(Place { tree: self.tree.realm.id(), object }));
        }
        assert_unlocked();
        let result = contain(|| body(&*ops, By { tree: &self.tree, caller }));
        // Before the gates are left, for the remover of the tree drops the last reference.
        drop(ops);
        // In the order of a stack.
        while places.pop().is_some() {}
        drop(passes);
        result.unwrap_or_else(|Panicked| Err(Errno::EIO))
    }
}

impl fmt::Debug for Inode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Inode").field(&self.node).finish()
    }
}

/// The longest path or link text in bytes, with its NUL.
pub const PATH_MAX: usize = 4096;

/// An open directory.
#[derive(Clone, Debug)]
pub struct OpenDir {
    inode: Inode,
}

impl OpenDir {
    /// Returns the directory.
    #[must_use]
    pub fn inode(&self) -> &Inode {
        &self.inode
    }

    /// Returns entries after a cursor, at most `max`; an empty list is the end.
    ///
    /// Cursor 0 begins with `.` and `..`. A cursor is the sequence number of the entry before it
    /// and stays good whatever comes and goes: what is present throughout is listed exactly once.
    /// Each entry tells the cursor to go on from ([`DirEntry::next`]).
    ///
    /// # Errors
    ///
    /// ENOENT: the directory was removed by rmdir of a client. One that its owner removed lists
    /// `.` and `..` only.
    pub fn entries(&self, cursor: u64, max: usize) -> Result<Vec<DirEntry>, Errno> {
        let inode = &self.inode;
        let dir = inode.node.dir()?;
        if inode.node.has(RMDIR) {
            return Err(Errno::ENOENT);
        }
        let mut entries = Vec::new();
        let parent = || inode.node.parent().unwrap_or_else(|| Arc::clone(&inode.node));
        for (next, name) in [(1, b"." as &[u8]), (2, b"..")] {
            if cursor < next && entries.len() < max {
                let node = if next == 1 { Arc::clone(&inode.node) } else { parent() };
                entries.push(DirEntry { name: name.to_vec(), inode: inode.other(node), next });
            }
        }
        let room = max - entries.len();
        if room > 0 && (inode.tag.is_some() || !dir.tagged) {
            let tag = inode.tag.filter(|_| dir.tagged);
            let page = dir.children.read().page(cursor.max(2), tag, room);
            entries.extend(page.into_iter().map(|(next, child)| DirEntry {
                name: child.name.to_vec(),
                inode: inode.other(child.node),
                next,
            }));
        }
        Ok(entries)
    }
}

/// An entry of a directory.
#[derive(Clone, Debug)]
pub struct DirEntry {
    /// The name.
    pub name: Vec<u8>,
    /// The node.
    pub inode: Inode,
    /// The cursor to go on from after this entry (`d_off`).
    pub next: u64,
}
