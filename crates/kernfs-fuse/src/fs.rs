//! The requests of the kernel, each of them one call on the tree or on an open file.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fuse_session::{
    DirBuffer, Errno, Filesystem, InitFlags, KernelConfig, Notifier, OpenFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen,
    ReplyPoll, ReplyStatFs, ReplyWrite, ReplyXattr, Request, StatFs, op,
};
use kernfs::{Caller, Client, DirEntry, Draining, Inode, Mode, NodeKind, SetAttr};

use crate::caller;
use crate::convert::{self, KEPT};
use crate::handles::{FileHandle, Handles};
use crate::nodes::Nodes;
use crate::parked::answer_when_done;
use crate::{contents, news, nodes};

/// A tree as the kernel sees it.
pub(crate) struct Fs {
    pub(crate) nodes: Nodes,
    pub(crate) handles: Handles,
    notifier: OnceLock<Notifier>,
    client: Client,
    caches_names: bool,
    /// Whether somebody wants to see all that clients do, so that nothing is cached.
    pub(crate) is_tapped: bool,
    /// The minor version of the ABI that was agreed on; 0 before.
    minor: OnceLock<u32>,
}

/// The longest name that FUSE passes on (`FUSE_NAME_MAX`): before Linux 6.14, and since.
const NAME_MAX: u32 = 1024;
const LONG_NAME_MAX: u32 = 4095;

/// The ABI of Linux 6.14.
const MINOR_WITH_LONG_NAMES: u32 = 42;

/// The ABI with INC_EPOCH.
const MINOR_WITH_EPOCH: u32 = 44;

/// How many directory entries are fetched at once.
const DIR_PAGE: usize = 128;

/// The kinds of lseek(2) that FUSE passes on.
const SEEK_DATA: u32 = 3;
const SEEK_HOLE: u32 = 4;

impl Fs {
    pub(crate) fn new(client: Client, caches_names: bool, is_tapped: bool) -> Self {
        Self {
            caches_names: caches_names && !is_tapped,
            is_tapped,
            nodes: Nodes::new(client.root()),
            client,
            handles: Handles::new(),
            notifier: OnceLock::new(),
            minor: OnceLock::new(),
        }
    }

    /// Returns what notifications are sent with, once mounted.
    pub(crate) fn notifier(&self) -> Option<&Notifier> {
        self.notifier.get()
    }

    /// Tells whether names are cached: only where all of them can be dropped at once.
    pub(crate) fn caches_names(&self) -> bool {
        self.caches_names && self.minor() >= MINOR_WITH_EPOCH
    }

    fn minor(&self) -> u32 {
        self.minor.get().copied().unwrap_or(0)
    }

    /// Returns the longest name that the kernel takes; a longer one would spoil the whole listing.
    fn name_max(&self) -> u32 {
        if self.minor() >= MINOR_WITH_LONG_NAMES { LONG_NAME_MAX } else { NAME_MAX }
    }

    fn inode(&self, id: u64) -> Result<Arc<Inode>, Errno> {
        self.nodes.find(id).map(|known| known.inode).ok_or(Errno::ESTALE)
    }

    pub(crate) fn file(&self, fh: u64) -> Result<Arc<FileHandle>, Errno> {
        self.handles.file(fh).ok_or(Errno::EBADF)
    }

    fn entry_ttl(&self) -> Duration {
        if self.caches_names() { KEPT } else { Duration::ZERO }
    }

    /// Returns how long attributes may be kept.
    ///
    /// Not those of a link: its size is that of its text, which changes with its target's path.
    fn attr_ttl(&self, inode: &Inode) -> Duration {
        if self.is_tapped || inode.kind() == NodeKind::Link { Duration::ZERO } else { KEPT }
    }

    /// Counts a lookup and describes its node.
    fn entry(&self, inode: &Inode) -> fuse_session::Entry {
        let (nodeid, kept) = self.nodes.look_up(inode);
        fuse_session::Entry {
            nodeid,
            generation: 0,
            entry_ttl: self.entry_ttl(),
            attr_ttl: if kept { self.attr_ttl(inode) } else { Duration::ZERO },
            attr: convert::attr(&inode.attr()),
        }
    }

    fn tell_attr(&self, id: u64, reply: ReplyAttr) {
        match self.nodes.find_to_tell(id) {
            Some((inode, kept)) => {
                let ttl = if kept { self.attr_ttl(&inode) } else { Duration::ZERO };
                reply.attr(ttl, &convert::attr(&inode.attr()));
            }
            None => reply.error(Errno::ESTALE),
        }
    }

    /// Finds the node of a file handle that the kernel does not know, or does not know any more.
    ///
    /// All of the id has to be right: that of a node which was severed since is stale, though the
    /// node may be there again.
    fn find_by_handle(&self, id: u64) -> Result<Inode, Errno> {
        let ino = nodes::ino_of(id);
        let inode = self.client.by_id(ino).map_err(convert::errno)?;
        if self.nodes.id_of(ino) != id || !self.can_see(&inode) {
            return Err(Errno::ESTALE);
        }
        Ok(inode)
    }

    /// Tells whether a node is in what the mount shows, and not in another namespace.
    fn can_see(&self, inode: &Inode) -> bool {
        let mut path = inode.path();
        loop {
            if self.client.lookup_link(&path).is_ok_and(|found| found.ino() == inode.ino()) {
                return true;
            }
            // Renamed between the two.
            match inode.path() {
                now if now == path => return false,
                now => path = now,
            }
        }
    }

    /// Resolves the names that the kernel asks for when it resolves a file handle, and only then.
    fn look_up_by_handle(&self, id: u64, name: &OsStr) -> Result<fuse_session::Entry, Errno> {
        self.nodes.about_to_tell_names();
        let inode = self.find_by_handle(id)?;
        if name == "." {
            return Ok(self.entry(&inode));
        }
        let parent = inode.lookup(&Caller::OWNER, "..").map_err(convert::errno)?;
        Ok(self.entry(&parent))
    }

    fn look_up(&self, parent: &Inode, caller: &Caller, name: &OsStr) -> Result<Inode, Errno> {
        self.nodes.about_to_tell_names();
        parent.lookup(caller, name.as_bytes()).map_err(convert::errno)
    }

    fn look_up_for(&self, request: &Request, name: &OsStr) -> Result<fuse_session::Entry, Errno> {
        if name == "." || name == ".." {
            return self.look_up_by_handle(request.nodeid, name);
        }
        let parent = self.inode(request.nodeid)?;
        let inode = self.look_up(&parent, &caller::of(request), name)?;
        Ok(self.entry(&inode))
    }

    fn set_attr(&self, request: &Request, op: &op::SetAttr) -> Result<(), Errno> {
        let inode = self.inode(request.nodeid)?;
        let mode = op.mode.map(|mode| Mode::new((mode & 0o7777) as u16));
        let set = SetAttr {
            mode,
            uid: op.uid,
            gid: op.gid,
            atime: op.atime.map(convert::set_time),
            mtime: op.mtime.map(convert::set_time),
        };
        // Truncation is a successful no-op.
        if set == SetAttr::default() {
            return Ok(());
        }
        inode.set_attr(&caller::of(request), &set).map_err(convert::errno)
    }

    fn mkdir(&self, request: &Request, op: &op::Mkdir<'_>) -> Result<fuse_session::Entry, Errno> {
        let parent = self.inode(request.nodeid)?;
        let caller = caller::of(request);
        let mode = Mode::new((op.mode & 0o7777) as u16);
        parent.mkdir(&caller, op.name.as_bytes(), mode).map_err(convert::errno)?;
        let inode = self.look_up(&parent, &caller, op.name)?;
        Ok(self.entry(&inode))
    }

    /// Answers when a removal is done.
    fn remove(
        &self,
        request: &Request,
        reply: ReplyEmpty,
        remove: impl FnOnce(&Inode, &Caller) -> Result<Draining, kernfs::Errno>,
    ) {
        let removal = self
            .inode(request.nodeid)
            .and_then(|parent| remove(&parent, &caller::of(request)).map_err(convert::errno));
        let owed = news::take();
        match removal {
            Ok(draining) => {
                let work = async move {
                    draining.await;
                    news::taken(owed).await;
                };
                answer_when_done(reply, &Arc::default(), work, |reply, ()| reply.ok());
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn rename(&self, request: &Request, op: &op::Rename<'_>) -> Result<(), Errno> {
        if !op.flags.is_empty() {
            return Err(Errno::EINVAL);
        }
        let from = self.inode(request.nodeid)?;
        let to = self.inode(op.new_parent)?;
        let caller = caller::of(request);
        from.rename(&caller, op.name.as_bytes(), &to, op.new_name.as_bytes())
            .map_err(convert::errno)
    }

    fn seek(&self, op: &op::Lseek) -> Result<u64, Errno> {
        let handle = self.file(op.fh)?;
        if handle.file.is_severed() {
            return Err(Errno::ENODEV);
        }
        let size = handle.file.inode().attr().size;
        match op.whence {
            SEEK_DATA | SEEK_HOLE if op.offset >= size => Err(Errno::ENXIO),
            SEEK_DATA => Ok(op.offset),
            SEEK_HOLE => Ok(size),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Returns entries from a directory handle, in portions.
    fn list(&self, op: &op::Read) -> Result<impl FnMut(u64) -> Vec<DirEntry> + use<>, Errno> {
        let dir = self.handles.dir(op.fh).ok_or(Errno::EBADF)?;
        self.nodes.about_to_tell_names();
        // The first portion tells whether the directory can be listed at all.
        let mut first = Some(dir.dir.entries(op.offset, DIR_PAGE).map_err(convert::errno)?);
        Ok(move |cursor| {
            let next = || dir.dir.entries(cursor, DIR_PAGE).unwrap_or_default();
            first.take().unwrap_or_else(next)
        })
    }
}

/// What the session serves: the filesystem, shared with the front end.
pub(crate) struct Served(pub(crate) Arc<Fs>);

impl Filesystem for Served {
    fn init(&self, config: &mut KernelConfig) -> Result<(), Errno> {
        // No readdirplus: the kernel enters the names of such an answer when it copies it to its
        // client, who may take his time, and takes them for fresh. A name that went meanwhile
        // would come back.
        config.limit_readahead(0);
        // Where it is not offered, there are no file handles.
        let _ = config.want(InitFlags::EXPORT_SUPPORT);
        let _ = self.0.minor.set(config.minor());
        Ok(())
    }

    fn mounted(&self, notifier: &Notifier) {
        let _ = self.0.notifier.set(notifier.clone());
    }

    fn destroy(&self) {
        self.0.handles.clear();
        self.0.nodes.clear();
    }

    fn lookup(&self, request: &Request, name: &OsStr, reply: ReplyEntry) {
        answer_entry(reply, self.0.look_up_for(request, name));
    }

    fn forget(&self, nodeid: u64, count: u64) {
        self.0.nodes.forget(nodeid, count);
    }

    fn getattr(&self, request: &Request, _: op::GetAttr, reply: ReplyAttr) {
        self.0.tell_attr(request.nodeid, reply);
    }

    fn setattr(&self, request: &Request, op: op::SetAttr, reply: ReplyAttr) {
        let (fs, id) = (Arc::clone(&self.0), request.nodeid);
        match self.0.set_attr(request, &op) {
            Ok(()) => news::answer_after(reply, move |reply| fs.tell_attr(id, reply)),
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, request: &Request, reply: ReplyData) {
        let text = self.0.inode(request.nodeid);
        match text.and_then(|inode| inode.readlink().map_err(convert::errno)) {
            Ok(text) => reply.data(&text),
            Err(errno) => reply.error(errno),
        }
    }

    fn mknod(&self, _: &Request, op: op::Mknod<'_>, reply: ReplyEntry) {
        // Without `create` in the directory's operations: EACCES; without `mknod`: EPERM.
        let regular = fuse_session::FileKind::from_mode(op.mode) == fuse_session::FileKind::Regular;
        reply.error(if regular { Errno::EACCES } else { Errno::EPERM });
    }

    fn create(&self, _: &Request, _: op::Create<'_>, reply: ReplyCreate) {
        reply.error(Errno::EACCES);
    }

    fn mkdir(&self, request: &Request, op: op::Mkdir<'_>, reply: ReplyEntry) {
        let made = self.0.mkdir(request, &op);
        news::answer_after(reply, move |reply| answer_entry(reply, made));
    }

    fn unlink(&self, request: &Request, name: &OsStr, reply: ReplyEmpty) {
        self.0.remove(request, reply, |parent, caller| parent.unlink(caller, name.as_bytes()));
    }

    fn rmdir(&self, request: &Request, name: &OsStr, reply: ReplyEmpty) {
        self.0.remove(request, reply, |parent, caller| parent.rmdir(caller, name.as_bytes()));
    }

    fn rename(&self, request: &Request, op: op::Rename<'_>, reply: ReplyEmpty) {
        let renamed = self.0.rename(request, &op);
        news::answer_after(reply, move |reply| answer_empty(reply, renamed));
    }

    fn open(&self, request: &Request, op: op::Open, reply: ReplyOpen) {
        let opened = contents::open(&self.0, request, op.flags);
        news::answer_after(reply, move |reply| match opened {
            Ok((fh, flags)) => reply.opened(fh, flags),
            Err(errno) => reply.error(errno),
        });
    }

    fn read(&self, request: &Request, op: op::Read, reply: ReplyData) {
        contents::read(&self.0, request, &op, reply);
    }

    fn write(&self, request: &Request, op: op::Write<'_>, reply: ReplyWrite) {
        contents::write(&self.0, request, &op, reply);
    }

    fn release(&self, request: &Request, op: op::Release, reply: ReplyEmpty) {
        if self.0.handles.remove_file(op.fh) {
            self.0.nodes.closed(request.nodeid);
        }
        // Nobody waits for this answer.
        drop(news::take());
        reply.ok();
    }

    fn opendir(&self, request: &Request, _: op::Open, reply: ReplyOpen) {
        let dir = self
            .0
            .inode(request.nodeid)
            .and_then(|inode| inode.open_dir(&caller::of(request)).map_err(convert::errno));
        match dir {
            Ok(dir) => reply.opened(self.0.handles.add_dir(dir), OpenFlags::empty()),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(&self, _: &Request, op: op::Read, reply: ReplyDirectory) {
        let mut list = match self.0.list(&op) {
            Ok(list) => list,
            Err(errno) => return reply.error(errno),
        };
        let name_max = self.0.name_max() as usize;
        let mut buffer = DirBuffer::new(op.size);
        let mut cursor = op.offset;
        'full: loop {
            let entries = list(cursor);
            if entries.is_empty() {
                break;
            }
            for entry in entries {
                if entry.name.len() > name_max {
                    cursor = entry.next;
                    continue;
                }
                let kind = convert::kind(entry.inode.kind());
                let name = OsStr::from_bytes(&entry.name);
                if !buffer.push(entry.inode.ino(), entry.next, kind, name) {
                    break 'full;
                }
                cursor = entry.next;
            }
        }
        reply.entries(&buffer);
    }

    fn releasedir(&self, _: &Request, op: op::Release, reply: ReplyEmpty) {
        self.0.handles.remove_dir(op.fh);
        reply.ok();
    }

    fn statfs(&self, _: &Request, reply: ReplyStatFs) {
        reply.statfs(&StatFs {
            block_size: convert::BLOCK_SIZE,
            fragment_size: convert::BLOCK_SIZE,
            name_max: self.0.name_max(),
            ..StatFs::default()
        });
    }

    fn setxattr(&self, request: &Request, op: op::SetXattr<'_>, reply: ReplyEmpty) {
        let set = self.0.inode(request.nodeid).and_then(|inode| {
            let flags = convert::xattr_flags(op.flags);
            inode
                .set_xattr(&caller::of(request), op.name.as_bytes(), op.value, flags)
                .map_err(convert::errno)
        });
        answer_empty(reply, set);
    }

    fn getxattr(&self, request: &Request, op: op::GetXattr<'_>, reply: ReplyXattr) {
        let value = self.0.inode(request.nodeid).and_then(|inode| {
            inode.xattr(&caller::of(request), op.name.as_bytes()).map_err(convert::errno)
        });
        match value {
            Ok(value) => reply.value(op.size, &value),
            Err(errno) => reply.error(errno),
        }
    }

    fn listxattr(&self, request: &Request, op: op::ListXattr, reply: ReplyXattr) {
        match self.0.inode(request.nodeid) {
            Ok(inode) => {
                let names = inode.xattrs(&caller::of(request));
                let list: Vec<u8> =
                    names.into_iter().flat_map(|name| name.into_iter().chain([0])).collect();
                reply.value(op.size, &list);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn removexattr(&self, request: &Request, name: &OsStr, reply: ReplyEmpty) {
        let removed = self.0.inode(request.nodeid).and_then(|inode| {
            inode.remove_xattr(&caller::of(request), name.as_bytes()).map_err(convert::errno)
        });
        answer_empty(reply, removed);
    }

    fn poll(&self, _: &Request, op: op::Poll, reply: ReplyPoll) {
        let handle = match self.0.file(op.fh) {
            Ok(handle) => handle,
            Err(errno) => return reply.error(errno),
        };
        let interest = convert::interest(op.events);
        let events = if op.wants_wakeup {
            handle.poll(op.kh, interest)
        } else {
            handle.file.ready(interest)
        };
        reply.ready(convert::events(events));
    }

    fn lseek(&self, _: &Request, op: op::Lseek, reply: ReplyLseek) {
        match self.0.seek(&op) {
            Ok(offset) => reply.offset(offset),
            Err(errno) => reply.error(errno),
        }
    }
}

fn answer_entry(reply: ReplyEntry, done: Result<fuse_session::Entry, Errno>) {
    match done {
        Ok(entry) => reply.entry(&entry),
        Err(errno) => reply.error(errno),
    }
}

fn answer_empty(reply: ReplyEmpty, done: Result<(), Errno>) {
    match done {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}
