//! The trait that a filesystem implements.

#![forbid(unsafe_code)]

use std::ffi::OsStr;

use crate::attr::{OpenFlags, StatFs};
use crate::errno::Errno;
use crate::init::KernelConfig;
use crate::notify::Notifier;
use crate::op;
use crate::op::{PollEvents, Request};
use crate::reply::*;

/// A filesystem: one method per operation, each with the reply to answer it.
///
/// Methods run on the threads of the session, several at once. A reply may be
/// answered in the method, moved to another thread, or parked; a method that
/// returns without any of it, or panics, has answered `EIO`. A method may block,
/// since the pool grows, but only up to its cap: park the reply instead of
/// the thread wherever the wait is for somebody else.
///
/// Never wait in a method for a notification to be delivered, nor for a system
/// call on the own mount: both may need locks of the kernel which the caller
/// holds until it has its answer.
///
/// The defaults are a filesystem that can be looked at: opening works, what
/// would change the structure is `EPERM`, and `ENOSYS` is answered only where
/// the kernel has something better to do from then on, as each method says.
#[expect(unused_variables, reason = "defaults ignore what they do not need")]
pub trait Filesystem: Send + Sync + 'static {
    /// Chooses among what the kernel offers, before any other request.
    ///
    /// # Errors
    ///
    /// An error refuses the mount; `Session::mount` returns it.
    fn init(&self, config: &mut KernelConfig) -> Result<(), Errno> {
        Ok(())
    }

    /// Gets the means to send notifications, after `init` and before any other request.
    fn mounted(&self, notifier: &Notifier) {}

    /// Hears that the session has ended; no other method runs any more.
    fn destroy(&self) {}

    /// Resolves a name in the request's node.
    fn lookup(&self, request: &Request, name: &OsStr, reply: ReplyEntry);

    /// Takes back `count` lookups of a node; at zero the kernel has forgotten it.
    fn forget(&self, nodeid: u64, count: u64) {}

    /// Takes back the lookups of many nodes; the default calls [`forget`](Self::forget) for each.
    fn batch_forget(&self, forgets: op::Forgets<'_>) {
        for (nodeid, count) in forgets {
            self.forget(nodeid, count);
        }
    }

    /// Answers with attributes.
    fn getattr(&self, request: &Request, op: op::GetAttr, reply: ReplyAttr);

    /// Changes attributes, truncation included, and answers with all of them.
    fn setattr(&self, request: &Request, op: op::SetAttr, reply: ReplyAttr) {
        reply.error(Errno::EPERM);
    }

    /// Answers with the target of a symbolic link.
    fn readlink(&self, request: &Request, reply: ReplyData) {
        reply.error(Errno::EINVAL);
    }

    /// Makes a symbolic link.
    fn symlink(&self, request: &Request, op: op::Symlink<'_>, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
    }

    /// Makes a file, device, fifo or socket.
    fn mknod(&self, request: &Request, op: op::Mknod<'_>, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
    }

    /// Makes a directory.
    fn mkdir(&self, request: &Request, op: op::Mkdir<'_>, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
    }

    /// Removes a name that is not a directory.
    fn unlink(&self, request: &Request, name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EPERM);
    }

    /// Removes a directory.
    fn rmdir(&self, request: &Request, name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EPERM);
    }

    /// Moves a name.
    fn rename(&self, request: &Request, op: op::Rename<'_>, reply: ReplyEmpty) {
        reply.error(Errno::EPERM);
    }

    /// Makes a hard link.
    fn link(&self, request: &Request, op: op::Link<'_>, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
    }

    /// Opens a file.
    ///
    /// `ENOSYS` would mean success for this and all later opens of the mount.
    fn open(&self, request: &Request, op: op::Open, reply: ReplyOpen) {
        reply.opened(0, OpenFlags::empty());
    }

    /// Makes a file and opens it; the default lets the kernel use mknod and open.
    fn create(&self, request: &Request, op: op::Create<'_>, reply: ReplyCreate) {
        reply.error(Errno::ENOSYS);
    }

    /// Makes a file without a name (`O_TMPFILE`) and opens it.
    fn tmpfile(&self, request: &Request, op: op::Create<'_>, reply: ReplyCreate) {
        reply.error(Errno::EOPNOTSUPP);
    }

    /// Reads from a file.
    ///
    /// With `DIRECT_IO` a short answer is what read(2) returns; from the page
    /// cache, it is the end of the file.
    fn read(&self, request: &Request, op: op::Read, reply: ReplyData) {
        reply.error(Errno::EINVAL);
    }

    /// Writes to a file.
    fn write(&self, request: &Request, op: op::Write<'_>, reply: ReplyWrite) {
        reply.error(Errno::EINVAL);
    }

    /// Hears that one descriptor was closed; an error is what close(2) returns.
    fn flush(&self, request: &Request, op: op::Flush, reply: ReplyEmpty) {
        reply.ok();
    }

    /// Hears that an open file is gone; nobody waits for this answer.
    fn release(&self, request: &Request, op: op::Release, reply: ReplyEmpty) {
        reply.ok();
    }

    /// Writes a file to storage; after the default, the kernel knows that there is nothing to do.
    fn fsync(&self, request: &Request, op: op::Fsync, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    /// Opens a directory.
    fn opendir(&self, request: &Request, op: op::Open, reply: ReplyOpen) {
        reply.opened(0, OpenFlags::empty());
    }

    /// Lists a directory from an offset on.
    fn readdir(&self, request: &Request, op: op::Read, reply: ReplyDirectory) {
        reply.error(Errno::ENOTDIR);
    }

    /// Lists a directory with the nodes; used only if [`init`](Self::init) asks for it.
    fn readdirplus(&self, request: &Request, op: op::Read, reply: ReplyDirectoryPlus) {
        reply.error(Errno::ENOTDIR);
    }

    /// Hears that an open directory is gone; nobody waits for this answer.
    fn releasedir(&self, request: &Request, op: op::Release, reply: ReplyEmpty) {
        reply.ok();
    }

    /// Writes a directory to storage, as [`fsync`](Self::fsync).
    fn fsyncdir(&self, request: &Request, op: op::Fsync, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    /// Answers with figures about the filesystem.
    fn statfs(&self, request: &Request, reply: ReplyStatFs) {
        reply.statfs(&StatFs::default());
    }

    /// Sets an extended attribute; after the default, the kernel answers EOPNOTSUPP itself.
    fn setxattr(&self, request: &Request, op: op::SetXattr<'_>, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    /// Answers with an extended attribute; after the default, the kernel answers
    /// EOPNOTSUPP itself.
    fn getxattr(&self, request: &Request, op: op::GetXattr<'_>, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    /// Answers with the names of all extended attributes, each ended by NUL; after
    /// the default, the kernel answers EOPNOTSUPP itself.
    fn listxattr(&self, request: &Request, op: op::ListXattr, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    /// Removes an extended attribute; after the default, the kernel answers
    /// EOPNOTSUPP itself.
    fn removexattr(&self, request: &Request, name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    /// Checks access(2) without `default_permissions`; after the default, the
    /// kernel permits it without asking.
    fn access(&self, request: &Request, op: op::Access, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    /// Serves an ioctl(2) whose number describes its argument.
    fn ioctl(&self, request: &Request, op: op::Ioctl<'_>, reply: ReplyIoctl) {
        reply.error(Errno::ENOTTY);
    }

    /// Answers with what is ready now, and remembers the handle to wake the caller later.
    ///
    /// After `Notifier::poll` the kernel asks again. Never answer `ENOSYS`:
    /// from then on every file of the mount would always be ready, unasked.
    fn poll(&self, request: &Request, op: op::Poll, reply: ReplyPoll) {
        reply.ready(PollEvents::ALWAYS_READY);
    }

    /// Finds data or holes; after the default, the kernel takes the whole file as data.
    fn lseek(&self, request: &Request, op: op::Lseek, reply: ReplyLseek) {
        reply.error(Errno::ENOSYS);
    }

    /// Changes the storage of a file.
    fn fallocate(&self, request: &Request, op: op::Fallocate, reply: ReplyEmpty) {
        reply.error(Errno::EOPNOTSUPP);
    }

    /// Copies between two files; after the default, the kernel reads and writes.
    fn copy_file_range(&self, request: &Request, op: op::CopyFileRange, reply: ReplyWrite) {
        reply.error(Errno::ENOSYS);
    }

    /// Writes everything to storage.
    fn syncfs(&self, request: &Request, reply: ReplyEmpty) {
        reply.ok();
    }

    /// Hears that the caller of a request got a signal while its reply is not parked.
    ///
    /// The session remembers it: parking that reply runs its callback at once,
    /// and `Reply::is_interrupted` tells.
    fn interrupt(&self, unique: u64) {}
}
