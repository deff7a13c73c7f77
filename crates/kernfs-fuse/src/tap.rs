//! Seeing what clients do before it is done, and interfering.
//!
//! Not for production: for those who look for bugs of clients. A mount that nobody taps does not
//! come by here.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use fuse_session::{
    Filesystem, KernelConfig, Notifier, Reply, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll,
    ReplyStatFs, ReplyWrite, ReplyXattr, Request, op,
};
use kernfs::{Caller, Errno, Inode};

use crate::requests::Requests;
use crate::{caller, convert};

/// Somebody who is asked before each call of a client is carried out.
///
/// On a mount that is tapped the kernel caches nothing, so that it passes on all that clients do;
/// only lseek(2) and mmap(2) it does by itself. Looking up a path is a [`CallKind::Lookup`] and,
/// for its permissions, a [`CallKind::GetAttr`] for each step.
pub trait Tap: Send + Sync + 'static {
    /// Decides on a call.
    ///
    /// Runs on the thread that serves the call, several at once, and may take its time: the pool of
    /// threads grows. It may change the tree, [`sever`](kernfs::Dir::sever) included: the call then
    /// meets what was changed. It must not *wait* for a removal, which may be waiting for this call,
    /// nor use the mount.
    fn before(&self, call: &Call<'_>) -> Course;
}

/// What a client wants done.
#[derive(Debug)]
#[non_exhaustive]
pub struct Call<'a> {
    /// What it is.
    pub kind: CallKind,
    /// What it is about: the directory, where it takes a name.
    pub inode: &'a Inode,
    /// The name in the directory.
    pub name: Option<&'a OsStr>,
    /// The number of the open file or directory that it is made on; never given again.
    pub open: Option<u64>,
    /// Where it begins, where bytes are read or written.
    pub offset: u64,
    /// Who calls; its process id is that of the calling thread, and 0 where nobody calls.
    pub caller: Caller,
}

impl Call<'_> {
    /// Returns the path of what it is about, the name included; of what was removed, the last one.
    #[must_use]
    pub fn path(&self) -> Vec<u8> {
        let mut path = self.inode.path();
        if let Some(name) = self.name {
            if !path.ends_with(b"/") {
                path.push(b'/');
            }
            path.extend_from_slice(name.as_bytes());
        }
        path
    }
}

/// What is to become of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Course {
    /// It is carried out.
    Proceed,
    /// The client gets an error instead.
    ///
    /// [`CallKind::Close`] cannot fail, and is carried out all the same.
    Fail(Errno),
    /// A read gets at most so many bytes, where 0 would be the end of the file; anything else is
    /// carried out.
    Shorten(u32),
}

/// A kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant is named after the operation of fuse.h")]
pub enum CallKind {
    Lookup,
    GetAttr,
    SetAttr,
    ReadLink,
    Open,
    OpenDir,
    Read,
    ReadDir,
    Write,
    Poll,
    Seek,
    Ioctl,
    Sync,
    Allocate,
    Copy,
    StatFs,
    GetXattr,
    SetXattr,
    ListXattr,
    RemoveXattr,
    Access,
    Symlink,
    Mknod,
    Create,
    Mkdir,
    Unlink,
    Rmdir,
    Rename,
    Link,
    /// A descriptor of a file is closed, by close(2) or by the end of its process.
    Close,
}

impl CallKind {
    /// Returns its name, in the manner of system calls.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Lookup => "lookup",
            Self::GetAttr => "getattr",
            Self::SetAttr => "setattr",
            Self::ReadLink => "readlink",
            Self::Open => "open",
            Self::OpenDir => "opendir",
            Self::Read => "read",
            Self::ReadDir => "readdir",
            Self::Write => "write",
            Self::Poll => "poll",
            Self::Seek => "lseek",
            Self::Ioctl => "ioctl",
            Self::Sync => "fsync",
            Self::Allocate => "fallocate",
            Self::Copy => "copy_file_range",
            Self::StatFs => "statfs",
            Self::GetXattr => "getxattr",
            Self::SetXattr => "setxattr",
            Self::ListXattr => "listxattr",
            Self::RemoveXattr => "removexattr",
            Self::Access => "access",
            Self::Symlink => "symlink",
            Self::Mknod => "mknod",
            Self::Create => "create",
            Self::Mkdir => "mkdir",
            Self::Unlink => "unlink",
            Self::Rmdir => "rmdir",
            Self::Rename => "rename",
            Self::Link => "link",
            Self::Close => "close",
        }
    }
}

impl fmt::Display for CallKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A tap as the options of a mount have it.
#[derive(Clone)]
pub(crate) struct SharedTap(pub(crate) Arc<dyn Tap>);

impl fmt::Debug for SharedTap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tap")
    }
}

/// What the session serves where somebody taps.
pub(crate) struct Tapped {
    pub(crate) served: Requests,
    pub(crate) tap: SharedTap,
}

/// What a call takes along besides its node.
#[derive(Clone, Copy, Default)]
struct Detail<'a> {
    name: Option<&'a OsStr>,
    open: Option<u64>,
    offset: u64,
}

impl<'a> Detail<'a> {
    fn name(name: &'a OsStr) -> Self {
        Self { name: Some(name), ..Self::default() }
    }

    fn open(open: u64) -> Self {
        Self { open: Some(open), ..Self::default() }
    }

    fn at(self, offset: u64) -> Self {
        Self { offset, ..self }
    }
}

impl Tapped {
    fn ask(&self, kind: CallKind, request: &Request, detail: Detail<'_>) -> Course {
        // No client makes the calls that tell watchers what the owner did.
        if self.served.is_of_herald(request) {
            return Course::Proceed;
        }
        // Of what is not known there is nothing to tell: the answer will be ESTALE.
        let Some(known) = self.served.fs.nodes.find(request.nodeid) else { return Course::Proceed };
        let Detail { name, open, offset } = detail;
        let caller = caller::of(request);
        self.tap.0.before(&Call { kind, inode: &known.inode, name, open, offset, caller })
    }

    /// Lets a call be carried out, or fails it.
    fn pass<K>(
        &self,
        kind: CallKind,
        request: &Request,
        detail: Detail<'_>,
        reply: Reply<K>,
        carry_out: impl FnOnce(&Requests, Reply<K>),
    ) {
        match self.ask(kind, request, detail) {
            Course::Fail(errno) => reply.error(convert::errno(errno)),
            Course::Proceed | Course::Shorten(_) => carry_out(&self.served, reply),
        }
    }
}

impl Filesystem for Tapped {
    fn init(&self, config: &mut KernelConfig) -> Result<(), fuse_session::Errno> {
        self.served.init(config)
    }

    fn mounted(&self, notifier: &Notifier) {
        self.served.mounted(notifier);
    }

    fn destroy(&self) {
        self.served.destroy();
    }

    fn forget(&self, nodeid: u64, count: u64) {
        self.served.forget(nodeid, count);
    }

    fn batch_forget(&self, forgets: op::Forgets<'_>) {
        self.served.batch_forget(forgets);
    }

    fn interrupt(&self, unique: u64) {
        self.served.interrupt(unique);
    }

    fn lookup(&self, request: &Request, name: &OsStr, reply: ReplyEntry) {
        self.pass(CallKind::Lookup, request, Detail::name(name), reply, |fs, reply| {
            fs.lookup(request, name, reply);
        });
    }

    fn getattr(&self, request: &Request, op: op::GetAttr, reply: ReplyAttr) {
        let detail = Detail { open: op.fh, ..Detail::default() };
        self.pass(CallKind::GetAttr, request, detail, reply, |fs, reply| {
            fs.getattr(request, op, reply);
        });
    }

    fn setattr(&self, request: &Request, op: op::SetAttr, reply: ReplyAttr) {
        let detail = Detail { open: op.fh, ..Detail::default() };
        self.pass(CallKind::SetAttr, request, detail, reply, |fs, reply| {
            fs.setattr(request, op, reply);
        });
    }

    fn readlink(&self, request: &Request, reply: ReplyData) {
        self.pass(CallKind::ReadLink, request, Detail::default(), reply, |fs, reply| {
            fs.readlink(request, reply);
        });
    }

    fn symlink(&self, request: &Request, op: op::Symlink<'_>, reply: ReplyEntry) {
        self.pass(CallKind::Symlink, request, Detail::name(op.name), reply, |fs, reply| {
            fs.symlink(request, op, reply);
        });
    }

    fn mknod(&self, request: &Request, op: op::Mknod<'_>, reply: ReplyEntry) {
        self.pass(CallKind::Mknod, request, Detail::name(op.name), reply, |fs, reply| {
            fs.mknod(request, op, reply);
        });
    }

    fn mkdir(&self, request: &Request, op: op::Mkdir<'_>, reply: ReplyEntry) {
        self.pass(CallKind::Mkdir, request, Detail::name(op.name), reply, |fs, reply| {
            fs.mkdir(request, op, reply);
        });
    }

    fn unlink(&self, request: &Request, name: &OsStr, reply: ReplyEmpty) {
        self.pass(CallKind::Unlink, request, Detail::name(name), reply, |fs, reply| {
            fs.unlink(request, name, reply);
        });
    }

    fn rmdir(&self, request: &Request, name: &OsStr, reply: ReplyEmpty) {
        self.pass(CallKind::Rmdir, request, Detail::name(name), reply, |fs, reply| {
            fs.rmdir(request, name, reply);
        });
    }

    fn rename(&self, request: &Request, op: op::Rename<'_>, reply: ReplyEmpty) {
        self.pass(CallKind::Rename, request, Detail::name(op.name), reply, |fs, reply| {
            fs.rename(request, op, reply);
        });
    }

    fn link(&self, request: &Request, op: op::Link<'_>, reply: ReplyEntry) {
        self.pass(CallKind::Link, request, Detail::name(op.name), reply, |fs, reply| {
            fs.link(request, op, reply);
        });
    }

    fn open(&self, request: &Request, op: op::Open, reply: ReplyOpen) {
        self.pass(CallKind::Open, request, Detail::default(), reply, |fs, reply| {
            fs.open(request, op, reply);
        });
    }

    fn create(&self, request: &Request, op: op::Create<'_>, reply: ReplyCreate) {
        self.pass(CallKind::Create, request, Detail::name(op.name), reply, |fs, reply| {
            fs.create(request, op, reply);
        });
    }

    fn tmpfile(&self, request: &Request, op: op::Create<'_>, reply: ReplyCreate) {
        self.pass(CallKind::Create, request, Detail::default(), reply, |fs, reply| {
            fs.tmpfile(request, op, reply);
        });
    }

    fn read(&self, request: &Request, op: op::Read, reply: ReplyData) {
        let detail = Detail::open(op.fh).at(op.offset);
        let size = match self.ask(CallKind::Read, request, detail) {
            Course::Proceed => op.size,
            Course::Fail(errno) => return reply.error(convert::errno(errno)),
            Course::Shorten(size) => op.size.min(size),
        };
        self.served.read(request, op::Read { size, ..op }, reply);
    }

    fn write(&self, request: &Request, op: op::Write<'_>, reply: ReplyWrite) {
        let detail = Detail::open(op.fh).at(op.offset);
        self.pass(CallKind::Write, request, detail, reply, |fs, reply| {
            fs.write(request, op, reply);
        });
    }

    fn flush(&self, request: &Request, op: op::Flush, reply: ReplyEmpty) {
        // Told, but not asked: POSIX lets nobody do anything about an error here.
        let _ = self.ask(CallKind::Close, request, Detail::open(op.fh));
        self.served.flush(request, op, reply);
    }

    fn release(&self, request: &Request, op: op::Release, reply: ReplyEmpty) {
        self.served.release(request, op, reply);
    }

    fn fsync(&self, request: &Request, op: op::Fsync, reply: ReplyEmpty) {
        self.pass(CallKind::Sync, request, Detail::open(op.fh), reply, |fs, reply| {
            fs.fsync(request, op, reply);
        });
    }

    fn opendir(&self, request: &Request, op: op::Open, reply: ReplyOpen) {
        self.pass(CallKind::OpenDir, request, Detail::default(), reply, |fs, reply| {
            fs.opendir(request, op, reply);
        });
    }

    fn readdir(&self, request: &Request, op: op::Read, reply: ReplyDirectory) {
        let detail = Detail::open(op.fh).at(op.offset);
        self.pass(CallKind::ReadDir, request, detail, reply, |fs, reply| {
            fs.readdir(request, op, reply);
        });
    }

    fn readdirplus(&self, request: &Request, op: op::Read, reply: ReplyDirectoryPlus) {
        let detail = Detail::open(op.fh).at(op.offset);
        self.pass(CallKind::ReadDir, request, detail, reply, |fs, reply| {
            fs.readdirplus(request, op, reply);
        });
    }

    fn releasedir(&self, request: &Request, op: op::Release, reply: ReplyEmpty) {
        self.served.releasedir(request, op, reply);
    }

    fn fsyncdir(&self, request: &Request, op: op::Fsync, reply: ReplyEmpty) {
        self.pass(CallKind::Sync, request, Detail::open(op.fh), reply, |fs, reply| {
            fs.fsyncdir(request, op, reply);
        });
    }

    fn statfs(&self, request: &Request, reply: ReplyStatFs) {
        self.pass(CallKind::StatFs, request, Detail::default(), reply, |fs, reply| {
            fs.statfs(request, reply);
        });
    }

    fn setxattr(&self, request: &Request, op: op::SetXattr<'_>, reply: ReplyEmpty) {
        self.pass(CallKind::SetXattr, request, Detail::default(), reply, |fs, reply| {
            fs.setxattr(request, op, reply);
        });
    }

    fn getxattr(&self, request: &Request, op: op::GetXattr<'_>, reply: ReplyXattr) {
        self.pass(CallKind::GetXattr, request, Detail::default(), reply, |fs, reply| {
            fs.getxattr(request, op, reply);
        });
    }

    fn listxattr(&self, request: &Request, op: op::ListXattr, reply: ReplyXattr) {
        self.pass(CallKind::ListXattr, request, Detail::default(), reply, |fs, reply| {
            fs.listxattr(request, op, reply);
        });
    }

    fn removexattr(&self, request: &Request, name: &OsStr, reply: ReplyEmpty) {
        self.pass(CallKind::RemoveXattr, request, Detail::default(), reply, |fs, reply| {
            fs.removexattr(request, name, reply);
        });
    }

    fn access(&self, request: &Request, op: op::Access, reply: ReplyEmpty) {
        self.pass(CallKind::Access, request, Detail::default(), reply, |fs, reply| {
            fs.access(request, op, reply);
        });
    }

    fn ioctl(&self, request: &Request, op: op::Ioctl<'_>, reply: ReplyIoctl) {
        self.pass(CallKind::Ioctl, request, Detail::open(op.fh), reply, |fs, reply| {
            fs.ioctl(request, op, reply);
        });
    }

    fn poll(&self, request: &Request, op: op::Poll, reply: ReplyPoll) {
        self.pass(CallKind::Poll, request, Detail::open(op.fh), reply, |fs, reply| {
            fs.poll(request, op, reply);
        });
    }

    fn lseek(&self, request: &Request, op: op::Lseek, reply: ReplyLseek) {
        let detail = Detail::open(op.fh).at(op.offset);
        self.pass(CallKind::Seek, request, detail, reply, |fs, reply| {
            fs.lseek(request, op, reply);
        });
    }

    fn fallocate(&self, request: &Request, op: op::Fallocate, reply: ReplyEmpty) {
        self.pass(CallKind::Allocate, request, Detail::open(op.fh), reply, |fs, reply| {
            fs.fallocate(request, op, reply);
        });
    }

    fn copy_file_range(&self, request: &Request, op: op::CopyFileRange, reply: ReplyWrite) {
        let detail = Detail::open(op.fh_in).at(op.offset_in);
        self.pass(CallKind::Copy, request, detail, reply, |fs, reply| {
            fs.copy_file_range(request, op, reply);
        });
    }

    fn syncfs(&self, request: &Request, reply: ReplyEmpty) {
        self.served.syncfs(request, reply);
    }
}
