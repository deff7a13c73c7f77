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

use crate::fs::Fs;
use crate::parked::answer_when_done;
use crate::{caller, contents, convert, news};

/// What the session serves: the filesystem, shared with the front end.
pub(crate) struct Requests(pub(crate) Arc<Fs>);

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
        self.0.agreed(config);
        Ok(())
    }

    fn mounted(&self, notifier: &Notifier) {
        self.0.mounted(notifier);
    }

    fn destroy(&self) {
        self.0.handles.clear();
        self.0.nodes.clear();
    }

    fn lookup(&self, request: &Request, name: &OsStr, reply: ReplyEntry) {
        answer_entry(reply, self.look_up(request, name));
    }

    fn forget(&self, nodeid: u64, count: u64) {
        self.0.nodes.forget(nodeid, count);
    }

    fn getattr(&self, request: &Request, _: op::GetAttr, reply: ReplyAttr) {
        self.0.tell_attr(request.nodeid, reply);
    }

    fn setattr(&self, request: &Request, op: op::SetAttr, reply: ReplyAttr) {
        let (fs, id) = (Arc::clone(&self.0), request.nodeid);
        match self.set_attr(request, &op) {
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

    fn symlink(&self, _: &Request, _: op::Symlink<'_>, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
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
        let made = self.mkdir(request, &op);
        news::answer_after(reply, move |reply| answer_entry(reply, made));
    }

    fn unlink(&self, request: &Request, name: &OsStr, reply: ReplyEmpty) {
        self.remove(request, reply, |parent, caller| parent.unlink(caller, name.as_bytes()));
    }

    fn rmdir(&self, request: &Request, name: &OsStr, reply: ReplyEmpty) {
        self.remove(request, reply, |parent, caller| parent.rmdir(caller, name.as_bytes()));
    }

    fn rename(&self, request: &Request, op: op::Rename<'_>, reply: ReplyEmpty) {
        let renamed = self.rename(request, &op);
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
        let mut list = match self.list(&op) {
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
        match self.seek(&op) {
            Ok(offset) => reply.offset(offset),
            Err(errno) => reply.error(errno),
        }
    }
}

impl Requests {
    fn look_up(&self, request: &Request, name: &OsStr) -> Result<fuse_session::Entry, Errno> {
        if name == "." || name == ".." {
            return self.0.look_up_by_handle(request.nodeid, name);
        }
        let parent = self.0.inode(request.nodeid)?;
        let inode = self.0.look_up(&parent, &caller::of(request), name)?;
        Ok(self.0.entry(&inode))
    }

    fn set_attr(&self, request: &Request, op: &op::SetAttr) -> Result<(), Errno> {
        let inode = self.0.inode(request.nodeid)?;
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
        let parent = self.0.inode(request.nodeid)?;
        let caller = caller::of(request);
        let mode = Mode::new((op.mode & 0o7777) as u16);
        parent.mkdir(&caller, op.name.as_bytes(), mode).map_err(convert::errno)?;
        let inode = self.0.look_up(&parent, &caller, op.name)?;
        Ok(self.0.entry(&inode))
    }

    /// Answers when a removal is done.
    fn remove(
        &self,
        request: &Request,
        reply: ReplyEmpty,
        remove: impl FnOnce(&Inode, &Caller) -> Result<Draining, kernfs::Errno>,
    ) {
        let removal = self
            .0
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
        let from = self.0.inode(request.nodeid)?;
        let to = self.0.inode(op.new_parent)?;
        let caller = caller::of(request);
        from.rename(&caller, op.name.as_bytes(), &to, op.new_name.as_bytes())
            .map_err(convert::errno)
    }

    fn seek(&self, op: &op::Lseek) -> Result<u64, Errno> {
        let handle = self.0.file(op.fh)?;
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
        let dir = self.0.handles.dir(op.fh).ok_or(Errno::EBADF)?;
        self.0.nodes.about_to_tell_names();
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
