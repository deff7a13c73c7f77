//! Turns a message into a call of the filesystem.

#![forbid(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::channel::{Channel, Device};
use crate::errno::Errno;
use crate::filesystem::Filesystem;
use crate::notify::Retrievals;
use crate::op::{Interrupt, Operation, Request};
use crate::reply::{Connection, Reply, Ticket};
use crate::requests::Interrupted;
use crate::wire::{self, ParseError};

/// The filesystem, and what it takes to answer for it.
pub(crate) struct Dispatcher {
    pub(crate) fs: Box<dyn Filesystem>,
    /// Where requests come from, and where what is no answer goes.
    pub(crate) device: Arc<Device>,
    pub(crate) connection: Arc<Connection>,
    pub(crate) retrievals: Arc<Retrievals>,
    pub(crate) panics: AtomicU64,
    pub(crate) interrupts: AtomicU64,
}

impl Dispatcher {
    /// Serves one message on the thread that owns `slot`.
    pub(crate) fn serve(&self, slot: usize, message: &[u8]) {
        match wire::parse(message) {
            Ok((request, operation)) => self.dispatch(slot, &request, operation),
            Err(error) => self.refuse(error),
        }
    }

    /// Runs code of the filesystem's author, and survives its panic.
    pub(crate) fn guard(&self, what: &'static str, code: impl FnOnce()) {
        // Unwind safety: a filesystem that panicked is shared by many threads
        // in any case, so that it has to guard its own invariants.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(code)) {
            self.panics.fetch_add(1, Ordering::Relaxed);
            let message = panic
                .downcast_ref::<&str>()
                .copied()
                .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
                .unwrap_or("not a string");
            tracing::error!(what, message, "code of the filesystem panicked");
        }
    }

    fn dispatch(&self, slot: usize, request: &Request, operation: Operation<'_>) {
        match operation {
            Operation::Forget(forgets) => {
                self.guard("forget", || self.fs.batch_forget(forgets));
            }
            Operation::Interrupt(op) => self.interrupt(slot, request, op),
            Operation::NotifyReply(op) => self.guard("retrieve callback", || {
                self.retrievals.complete(request.unique, op.offset, op.data);
            }),
            operation => self.call(slot, request, operation),
        }
    }

    /// Calls a method that gets a reply.
    fn call(&self, slot: usize, request: &Request, operation: Operation<'_>) {
        let Connection { requests, channel } = &*self.connection;
        let unique = request.unique;
        requests.begin(slot, unique);
        let ticket = Ticket::new(Arc::clone(&self.connection), slot, unique);
        // A panic drops the reply, which answers EIO.
        self.guard("handler", || {
            method(&*self.fs, request, operation, ticket);
        });
        if requests.end(slot, unique) {
            channel.left(unique);
        }
    }

    /// Takes an interrupt to its request; there is no answer unless that is unknown.
    fn interrupt(&self, slot: usize, request: &Request, op: Interrupt) {
        match self.connection.requests.interrupt(op.unique) {
            Interrupted::Parked(on_interrupt) => {
                self.interrupts.fetch_add(1, Ordering::Relaxed);
                let ticket = Ticket::new(Arc::clone(&self.connection), slot, op.unique);
                self.guard("interrupt callback", || on_interrupt(ticket));
            }
            Interrupted::Marked => {
                self.interrupts.fetch_add(1, Ordering::Relaxed);
                self.guard("interrupt", || self.fs.interrupt(op.unique));
            }
            // Not read yet, or just answered. EAGAIN has the kernel send it
            // again as long as the request is there; ENOSYS would turn interrupts
            // off, and silence would lose this one, for good in both cases.
            Interrupted::Unknown => self.answer(request.unique, Errno::EAGAIN),
        }
    }

    fn refuse(&self, error: ParseError) {
        match error {
            ParseError::Opcode { unique, .. } => {
                tracing::debug!(%error, "refused");
                self.answer(unique, Errno::ENOSYS);
            }
            ParseError::Body { unique, .. } => {
                tracing::warn!(%error, "refused");
                self.answer(unique, Errno::EINVAL);
            }
            _ => tracing::error!(%error, "dropped"),
        }
    }

    fn answer(&self, unique: u64, errno: Errno) {
        if let Err(error) = self.device.answer(unique, -errno.raw(), &[]) {
            tracing::trace!(unique, %error, "nobody waits for this answer");
        }
    }
}

/// Names the method for each operation.
#[expect(clippy::needless_pass_by_value, reason = "each operation goes to its method by value")]
fn method(fs: &dyn Filesystem, request: &Request, operation: Operation<'_>, ticket: Ticket) {
    use Operation as Op;
    match operation {
        Op::Lookup(name) => fs.lookup(request, name, Reply::new(ticket)),
        Op::GetAttr(op) => fs.getattr(request, op, Reply::new(ticket)),
        Op::SetAttr(op) => fs.setattr(request, op, Reply::new(ticket)),
        Op::ReadLink => fs.readlink(request, Reply::new(ticket)),
        Op::Symlink(op) => fs.symlink(request, op, Reply::new(ticket)),
        Op::Mknod(op) => fs.mknod(request, op, Reply::new(ticket)),
        Op::Mkdir(op) => fs.mkdir(request, op, Reply::new(ticket)),
        Op::Unlink(name) => fs.unlink(request, name, Reply::new(ticket)),
        Op::Rmdir(name) => fs.rmdir(request, name, Reply::new(ticket)),
        Op::Rename(op) => fs.rename(request, op, Reply::new(ticket)),
        Op::Link(op) => fs.link(request, op, Reply::new(ticket)),
        Op::Open(op) => fs.open(request, op, Reply::new(ticket)),
        Op::Create(op) => fs.create(request, op, Reply::new(ticket)),
        Op::Tmpfile(op) => fs.tmpfile(request, op, Reply::new(ticket)),
        Op::Read(op) => fs.read(request, op, Reply::new(ticket)),
        Op::Write(op) => fs.write(request, op, Reply::new(ticket)),
        Op::Flush(op) => fs.flush(request, op, Reply::new(ticket)),
        Op::Release(op) => fs.release(request, op, Reply::new(ticket)),
        Op::Fsync(op) => fs.fsync(request, op, Reply::new(ticket)),
        Op::OpenDir(op) => fs.opendir(request, op, Reply::new(ticket)),
        Op::ReadDir(op) => fs.readdir(request, op, Reply::new(ticket)),
        Op::ReadDirPlus(op) => fs.readdirplus(request, op, Reply::new(ticket)),
        Op::ReleaseDir(op) => fs.releasedir(request, op, Reply::new(ticket)),
        Op::FsyncDir(op) => fs.fsyncdir(request, op, Reply::new(ticket)),
        Op::StatFs => fs.statfs(request, Reply::new(ticket)),
        Op::SetXattr(op) => fs.setxattr(request, op, Reply::new(ticket)),
        Op::GetXattr(op) => fs.getxattr(request, op, Reply::new(ticket)),
        Op::ListXattr(op) => fs.listxattr(request, op, Reply::new(ticket)),
        Op::RemoveXattr(name) => fs.removexattr(request, name, Reply::new(ticket)),
        Op::Access(op) => fs.access(request, op, Reply::new(ticket)),
        Op::Ioctl(op) => fs.ioctl(request, op, Reply::new(ticket)),
        Op::Poll(op) => fs.poll(request, op, Reply::new(ticket)),
        Op::Lseek(op) => fs.lseek(request, op, Reply::new(ticket)),
        Op::Fallocate(op) => fs.fallocate(request, op, Reply::new(ticket)),
        Op::CopyFileRange(op) => fs.copy_file_range(request, op, Reply::new(ticket)),
        Op::SyncFs => fs.syncfs(request, Reply::new(ticket)),
        // Sent at unmount by block device filesystems only; the end of the
        // session is what `destroy` hears of.
        Op::Destroy => ticket.answer(0, &[]),
        // Sent once, before the pool starts.
        Op::Init(_) => ticket.answer(-Errno::EIO.raw(), &[]),
        // Served without a ticket by `dispatch`.
        Op::Forget(_) | Op::Interrupt(_) | Op::NotifyReply(_) => {}
    }
}
