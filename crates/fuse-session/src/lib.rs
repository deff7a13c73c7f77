//! A FUSE session: mounts a filesystem, serves its requests, takes it down.
//!
//! The filesystem implements [`Filesystem`], one method per operation. Each
//! method gets a [`Reply`] of the type that fits, which it answers at once,
//! moves to another thread, or parks until something happens or the
//! caller gets a signal. [`Session::mount`] does the rest.
//!
//! ```no_run
//! use fuse_session::{Filesystem, MountOptions, Session};
//! # use fuse_session::{op, Errno, Request, ReplyAttr, ReplyEntry};
//! # struct Hello;
//! # impl Filesystem for Hello {
//! #     fn lookup(&self, _: &Request, _: &std::ffi::OsStr, reply: ReplyEntry) { reply.error(Errno::ENOENT) }
//! #     fn getattr(&self, _: &Request, _: op::GetAttr, reply: ReplyAttr) { reply.error(Errno::EIO) }
//! # }
//! # fn main() -> Result<(), fuse_session::MountError> {
//! let session = Session::mount(Hello, "/mnt/hello", &MountOptions::new("hello"))?;
//! session.wait();
//! # Ok(())
//! # }
//! ```
//!
//! # How it works
//!
//! ```text
//! kernel                                         filesystem
//! ------                                         ----------
//! /dev/fuse    --> pool --> wire --> dispatch --> Filesystem method
//!                                       |              |
//!                                    requests      Reply, now or later
//!                                  (interrupts)        |
//! /dev/fuse    <-- channel <---------------------------+
//! /dev/fuse    <-- lanes, one thread per kind <--- Notifier
//! fusectl      <-- watchdog process
//! ```
//!
//! **Who keeps whom.** A [`Session`] owns the threads and the mount. Replies,
//! parked ones too, and [`Notifier`]s keep `/dev/fuse` open, but not the session
//! alive: after it has ended, answers go nowhere and notifications complete
//! with `ENOTCONN`. The filesystem lives until the session is dropped.
//!
//! **Locks.** Each is held for a few instructions and never while code of
//! the filesystem runs: no method, no callback, no completion, no drop. No two are
//! held at a time.
//!
//! **What cannot happen**, and what sees to it:
//!
//! - A request that is never answered: a reply answers `EIO` when it is dropped,
//!   in a panic too.
//! - A request that is answered twice: answering consumes the reply, and of
//!   [`Parked::take`] and the interrupt only one gets it.
//! - A caller that cannot be killed: an interrupt finds its request wherever it
//!   is, or is sent again. (A method that blocks without looking at
//!   [`Reply::is_interrupted`] still keeps its caller waiting.)
//! - A notification that waits for the handler that sent it: notifications are written
//!   by threads of their own, and waiting for one in a handler gives `EDEADLK`.
//! - Slow handlers that keep out fast ones: the pool grows up to its cap.
//! - An unmount that hits another filesystem: the device number is compared
//!   while the connection is known to be alive, so that it cannot have been
//!   given away.
//! - Clients that hang because the server does: the watchdog aborts the
//!   connection ([`MountOptions::watchdog`]).
//!
//! Two things keep `/dev/fuse` open after the death of the server, so that its
//! clients wait until the watchdog ends it: a child that was forked without
//! exec, and a thread of the server itself that is stuck in the kernel. The
//! latter happens to a server that uses its own mount, when it is killed
//! while a thread waits for an answer, and to a notification as in [`Notifier`].
//!
//! `unsafe` is in one file, `watchdog.rs`.

mod session;

mod filesystem;
pub mod op;

mod attr;
mod dir;
mod errno;
mod reply;

mod init;
mod options;

mod notify;

pub mod wire;

mod channel;
mod dispatch;
mod pool;
mod requests;

mod fusectl;
mod fusermount;
mod mount;
mod mountinfo;
mod watchdog;

mod abi;

pub use attr::{Entry, FileAttr, FileKind, OpenFlags, StatFs, Timestamp};
pub use dir::{DirBuffer, DirPlusBuffer};
pub use errno::Errno;
pub use filesystem::Filesystem;
pub use init::{InitFlags, KernelConfig};
pub use mount::{MountError, UnmountError};
pub use notify::{Completed, Completion, InvalRange, Notifier, Signal, completion};
pub use op::Request;
pub use options::{MountMethod, MountOptions};
pub use reply::{
    Parked, Reply, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatFs, ReplyWrite,
    ReplyXattr, kind,
};
pub use session::{Session, SessionStats};
