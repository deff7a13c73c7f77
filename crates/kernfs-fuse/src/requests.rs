//! The requests of the kernel, each of them one call on the tree or on an open file.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use fuse_session::{
    DirBuffer, Errno, Filesystem, InitFlags, KernelConfig, Notifier, OpenFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen,
    ReplyPoll, ReplyStatFs, ReplyWrite, ReplyXattr, Request, StatFs, op,
};
use kernfs::{Caller, DirEntry, Draining, Inode, Mode, SetAttr};

use crate::event::{Place, Told};
use crate::fs::Fs;
use crate::handles::DirHandle;
use crate::parked::answer_when_done;
use crate::watchers::{Hand, Watchers};
use crate::{caller, contents, convert, news, nodes, stand_ins};

/// What the session serves: the filesystem, shared with the front end.
pub(crate) struct Requests {
    pub(crate) fs: Arc<Fs>,
    /// `None` where inotify is left alone.
    pub(crate) watchers: Option<Arc<Watchers>>,
}

/// How many directory entries are fetched at once.
const DIR_PAGE: usize = 128;

/// The kinds of lseek(2) that FUSE passes on.
const SEEK_DATA: u32 = 3;
const SEEK_HOLE: u32 = 4;

impl Filesystem for Requests {
    fn init(&self, config: &mut KernelConfig) -> Result<(), Errno> {
        // No readdirplus: the kernel enters the names of such an answer when it copies it to its
        // client, who may take his time, and takes them for fresh. A name that went meanwhile
        // would come back.
        config.limit_readahead(0);
        // Where it is not offered, there are no file handles.
        let _ = config.want(InitFlags::EXPORT_SUPPORT);
        self.fs.agreed(config);
        Ok(())
    }

    fn mounted(&self, notifier: &Notifier) {
        self.fs.mounted(notifier);
    }

    fn destroy(&self) {
        if let Some(watchers) = &self.watchers {
            watchers.stop();
        }
        self.fs.handles.clear();
        self.fs.nodes.clear();
    }

    fn lookup(&self, request: &Request, name: &OsStr, reply: ReplyEntry) {
        answer_entry(reply, self.look_up(request, name));
    }

    fn forget(&self, nodeid: u64, count: u64) {
        self.fs.nodes.forget(nodeid, count);
    }

    fn getattr(&self, request: &Request, _: op::GetAttr, reply: ReplyAttr) {
        self.fs.tell_attr(request.nodeid, reply);
    }

    fn setattr(&self, request: &Request, op: op::SetAttr, reply: ReplyAttr) {
        let (fs, id) = (Arc::clone(&self.fs), request.nodeid);
        match self.set_attr(request, &op) {
            Ok(()) => news::answer_after(reply, move |reply| fs.tell_attr(id, reply)),
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, request: &Request, reply: ReplyData) {
        let text = self.fs.inode(request.nodeid);
        match text.and_then(|inode| inode.readlink().map_err(convert::errno)) {
            Ok(text) => reply.data(&text),
            Err(errno) => reply.error(errno),
        }
    }

    fn symlink(&self, request: &Request, op: op::Symlink<'_>, reply: ReplyEntry) {
        match self.told_by(request) {
            Some(told) => {
                answer_entry(reply, stand_ins::create(&self.fs, &told, request, op.name));
            }
            None => reply.error(Errno::EPERM),
        }
    }

    fn mknod(&self, request: &Request, op: op::Mknod<'_>, reply: ReplyEntry) {
        if let Some(told) = self.told_by(request) {
            let made = stand_ins::create(&self.fs, &told, request, op.name);
            return answer_entry(reply, made);
        }
        // Without `create` in the directory's operations: EACCES; without `mknod`: EPERM.
        let regular = fuse_session::FileKind::from_mode(op.mode) == fuse_session::FileKind::Regular;
        reply.error(if regular { Errno::EACCES } else { Errno::EPERM });
    }

    fn create(&self, _: &Request, _: op::Create<'_>, reply: ReplyCreate) {
        reply.error(Errno::EACCES);
    }

    fn mkdir(&self, request: &Request, op: op::Mkdir<'_>, reply: ReplyEntry) {
        let hand = self.hand_at(request, &[(request.nodeid, op.name)]);
        let made = self.mkdir(request, &op);
        news::answer_after(reply, move |reply| {
            answer_entry(reply, made);
            drop(hand);
        });
    }

    fn unlink(&self, request: &Request, name: &OsStr, reply: ReplyEmpty) {
        self.remove(request, name, reply, |parent, caller| parent.unlink(caller, name.as_bytes()));
    }

    fn rmdir(&self, request: &Request, name: &OsStr, reply: ReplyEmpty) {
        self.remove(request, name, reply, |parent, caller| parent.rmdir(caller, name.as_bytes()));
    }

    fn rename(&self, request: &Request, op: op::Rename<'_>, reply: ReplyEmpty) {
        let hand =
            self.hand_at(request, &[(request.nodeid, op.name), (op.new_parent, op.new_name)]);
        let renamed = self.rename(request, &op);
        news::answer_after(reply, move |reply| {
            answer_empty(reply, renamed);
            drop(hand);
        });
    }

    fn open(&self, request: &Request, op: op::Open, reply: ReplyOpen) {
        let opened = contents::open(&self.fs, request, op.flags);
        news::answer_after(reply, move |reply| match opened {
            Ok((fh, flags)) => reply.opened(fh, flags),
            Err(errno) => reply.error(errno),
        });
    }

    fn read(&self, request: &Request, op: op::Read, reply: ReplyData) {
        contents::read(&self.fs, request, &op, reply);
    }

    fn write(&self, request: &Request, op: op::Write<'_>, reply: ReplyWrite) {
        contents::write(&self.fs, request, &op, reply);
    }

    fn release(&self, request: &Request, op: op::Release, reply: ReplyEmpty) {
        if self.fs.handles.remove_file(op.fh) {
            self.fs.nodes.closed(request.nodeid);
        }
        // Nobody waits for this answer.
        drop(news::take());
        reply.ok();
    }

    fn opendir(&self, request: &Request, _: op::Open, reply: ReplyOpen) {
        let dir = self
            .fs
            .inode(request.nodeid)
            .and_then(|inode| inode.open_dir(&caller::of(request)).map_err(convert::errno));
        match dir {
            Ok(dir) => reply.opened(self.fs.handles.add_dir(dir), OpenFlags::empty()),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(&self, _: &Request, op: op::Read, reply: ReplyDirectory) {
        let Some(handle) = self.fs.handles.dir(op.fh) else { return reply.error(Errno::EBADF) };
        let mut list = match self.list(&handle, &op) {
            Ok(list) => list,
            Err(errno) => return reply.error(errno),
        };
        // Before it is answered: then the kernel copies the entries to the client.
        let was_listing = handle.set_listing(true);
        let mut shown = Vec::new();
        let name_max = self.fs.name_max() as usize;
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
                shown.push(entry.inode.ino());
                cursor = entry.next;
            }
        }
        let is_end = shown.is_empty();
        self.fs.nodes.show(shown.into_iter());
        reply.entries(&buffer);
        if is_end {
            handle.set_listing(false);
            if was_listing {
                self.listed();
            }
        }
    }

    fn releasedir(&self, _: &Request, op: op::Release, reply: ReplyEmpty) {
        if self.fs.handles.remove_dir(op.fh) {
            self.listed();
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, reply: ReplyStatFs) {
        reply.statfs(&StatFs {
            block_size: convert::BLOCK_SIZE,
            fragment_size: convert::BLOCK_SIZE,
            name_max: self.fs.name_max(),
            ..StatFs::default()
        });
    }

    fn setxattr(&self, request: &Request, op: op::SetXattr<'_>, reply: ReplyEmpty) {
        let set = self.fs.inode(request.nodeid).and_then(|inode| {
            let flags = convert::xattr_flags(op.flags);
            inode
                .set_xattr(&caller::of(request), op.name.as_bytes(), op.value, flags)
                .map_err(convert::errno)
        });
        answer_empty(reply, set);
    }

    fn getxattr(&self, request: &Request, op: op::GetXattr<'_>, reply: ReplyXattr) {
        let value = self.fs.inode(request.nodeid).and_then(|inode| {
            inode.xattr(&caller::of(request), op.name.as_bytes()).map_err(convert::errno)
        });
        match value {
            Ok(value) => reply.value(op.size, &value),
            Err(errno) => reply.error(errno),
        }
    }

    fn listxattr(&self, request: &Request, op: op::ListXattr, reply: ReplyXattr) {
        match self.fs.inode(request.nodeid) {
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
        let removed = self.fs.inode(request.nodeid).and_then(|inode| {
            inode.remove_xattr(&caller::of(request), name.as_bytes()).map_err(convert::errno)
        });
        answer_empty(reply, removed);
    }

    fn poll(&self, _: &Request, op: op::Poll, reply: ReplyPoll) {
        let handle = match self.fs.file(op.fh) {
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
        match self.seek(&op) {
            Ok(offset) => reply.offset(offset),
            Err(errno) => reply.error(errno),
        }
    }
}

impl Requests {
    /// Tells whether it is not a client that asks, but the herald.
    pub(crate) fn is_of_herald(&self, request: &Request) -> bool {
        self.watchers.as_ref().is_some_and(|watchers| watchers.is_herald(request.pid))
    }

    /// Returns what the herald is telling, if it is the herald that asks.
    fn told_by(&self, request: &Request) -> Option<Arc<Told>> {
        self.watchers.as_ref()?.told_by(request.pid)
    }

    /// Notes what a client is about to change, of which the kernel tells watchers by itself.
    fn hand_at(&self, request: &Request, places: &[(u64, &OsStr)]) -> Option<Hand> {
        let watchers = self.watchers.as_ref().filter(|_| self.told_by(request).is_none())?;
        let place = |&(id, name): &(u64, &OsStr)| Place::new(nodes::ino_of(id), name.as_bytes());
        Some(watchers.hand_at(places.iter().map(place).collect()))
    }

    fn look_up(&self, request: &Request, name: &OsStr) -> Result<fuse_session::Entry, Errno> {
        if let Some(told) = self.told_by(request)
            && let Some(found) = stand_ins::look_up(&self.fs, &told, request, name)
        {
            self.fs.nodes.about_to_tell_names();
            return found;
        }
        if let Some(watchers) = &self.watchers {
            watchers.note_lookup(nodes::ino_of(request.nodeid), name.as_bytes());
        }
        if name == "." || name == ".." {
            return self.fs.look_up_by_handle(request.nodeid, name);
        }
        let parent = self.fs.inode(request.nodeid)?;
        let inode = self.fs.look_up(&parent, &caller::of(request), name)?;
        Ok(self.fs.entry(&inode))
    }

    fn set_attr(&self, request: &Request, op: &op::SetAttr) -> Result<(), Errno> {
        if let Some(told) = self.told_by(request) {
            return stand_ins::touch(&self.fs, &told, request);
        }
        let inode = self.fs.inode(request.nodeid)?;
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
        if let Some(told) = self.told_by(request) {
            return stand_ins::create(&self.fs, &told, request, op.name);
        }
        let parent = self.fs.inode(request.nodeid)?;
        let caller = caller::of(request);
        let mode = Mode::new((op.mode & 0o7777) as u16);
        parent.mkdir(&caller, op.name.as_bytes(), mode).map_err(convert::errno)?;
        let inode = self.fs.look_up(&parent, &caller, op.name)?;
        Ok(self.fs.entry(&inode))
    }

    /// Answers when a removal is done.
    fn remove(
        &self,
        request: &Request,
        name: &OsStr,
        reply: ReplyEmpty,
        remove: impl FnOnce(&Inode, &Caller) -> Result<Draining, kernfs::Errno>,
    ) {
        if let Some(told) = self.told_by(request) {
            return answer_empty(reply, stand_ins::delete(&self.fs, &told, request, name));
        }
        let hand = self.hand_at(request, &[(request.nodeid, name)]);
        let removal = self
            .fs
            .inode(request.nodeid)
            .and_then(|parent| remove(&parent, &caller::of(request)).map_err(convert::errno));
        let owed = news::take();
        match removal {
            Ok(draining) => {
                let work = async move {
                    draining.await;
                    news::taken(owed).await;
                };
                answer_when_done(reply, &Arc::default(), work, |reply, ()| {
                    reply.ok();
                    drop(hand);
                });
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn rename(&self, request: &Request, op: &op::Rename<'_>) -> Result<(), Errno> {
        if let Some(told) = self.told_by(request) {
            return stand_ins::rename(&self.fs, &told, request, op);
        }
        if !op.flags.is_empty() {
            return Err(Errno::EINVAL);
        }
        let from = self.fs.inode(request.nodeid)?;
        let to = self.fs.inode(op.new_parent)?;
        let caller = caller::of(request);
        from.rename(&caller, op.name.as_bytes(), &to, op.new_name.as_bytes())
            .map_err(convert::errno)
    }

    fn seek(&self, op: &op::Lseek) -> Result<u64, Errno> {
        let handle = self.fs.file(op.fh)?;
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

    /// Hears that somebody has ceased to list a directory.
    fn listed(&self) {
        if let Some(watchers) = &self.watchers {
            watchers.look_again();
        }
    }

    /// Returns entries from a directory handle, in portions.
    fn list(
        &self,
        handle: &Arc<DirHandle>,
        op: &op::Read,
    ) -> Result<impl FnMut(u64) -> Vec<DirEntry> + use<>, Errno> {
        let dir = Arc::clone(handle);
        self.fs.nodes.about_to_tell_names();
        // The first portion tells whether the directory can be listed at all.
        let mut first = Some(dir.dir.entries(op.offset, DIR_PAGE).map_err(convert::errno)?);
        Ok(move |cursor| {
            let next = || dir.dir.entries(cursor, DIR_PAGE).unwrap_or_default();
            first.take().unwrap_or_else(next)
        })
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
