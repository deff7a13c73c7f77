//! Replies: owned values that answer one request each, now or later, from any thread.
//!
//! A reply is answered at most once, because answering consumes it, and at
//! least once, because dropping it answers `EIO`. If the session has ended
//! meanwhile, the answer goes nowhere, quietly.

#![forbid(unsafe_code)]

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use zerocopy::IntoBytes;

use crate::abi;
use crate::attr::{Entry, FileAttr, OpenFlags, StatFs};
use crate::channel::Channel;
use crate::dir::{DirBuffer, DirPlusBuffer};
use crate::errno::Errno;
use crate::op::PollEvents;
use crate::requests::Requests;

/// Answer to one request; `K` says which answers fit.
#[must_use = "dropping a reply answers EIO"]
pub struct Reply<K> {
    ticket: Ticket,
    kind: PhantomData<fn() -> K>,
}

impl<K> Reply<K> {
    /// Answers with an error.
    pub fn error(self, errno: Errno) {
        self.ticket.answer(-errno.raw(), &[]);
    }

    /// Returns the number of the request, which stays the same while it is parked.
    #[must_use]
    pub fn unique(&self) -> u64 {
        self.ticket.unique
    }

    /// Returns whether the caller got a signal and wants to be let go.
    ///
    /// For handlers that work long: a parked reply learns it by callback.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        let Ticket { slot, unique, .. } = self.ticket;
        self.ticket.connection.requests.is_interrupted(slot, unique)
    }

    /// Puts the reply aside until somebody takes it, or until its caller gets a signal.
    ///
    /// Exactly one of the two gets the reply: [`Parked::take`], or
    /// `on_interrupt`, which usually answers [`EINTR`](Errno::EINTR). If the
    /// signal has come already, `on_interrupt` runs before this returns, on
    /// the calling thread; else on a thread of the session, outside all locks
    /// of the session. The kernel sends one interrupt per request, and the
    /// caller then sleeps uninterruptibly until it is answered, so `on_interrupt`
    /// should answer soon and not park again. Since it may run inside this call,
    /// hold no lock here that it takes.
    ///
    /// After the session has ended, parking is interrupted at once.
    pub fn park(self, on_interrupt: impl FnOnce(Self) + Send + 'static) -> Parked<K>
    where
        K: 'static,
    {
        let parked = self.ticket.park(Box::new(move |ticket| {
            on_interrupt(Self::new(ticket));
        }));
        Parked { parked, kind: PhantomData }
    }

    pub(crate) const fn new(ticket: Ticket) -> Self {
        Self { ticket, kind: PhantomData }
    }
}

impl<K> fmt::Debug for Reply<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("unique", &self.ticket.unique).finish_non_exhaustive()
    }
}

/// Reply that waits to be answered or interrupted.
///
/// Dropping it answers `EIO`, unless the interrupt came first.
#[must_use = "dropping a parked reply answers EIO"]
pub struct Parked<K> {
    parked: ParkedTicket,
    kind: PhantomData<fn() -> K>,
}

impl<K> Parked<K> {
    /// Takes the reply back, or returns `None` if an interrupt has taken it.
    #[must_use = "dropping a reply answers EIO"]
    pub fn take(self) -> Option<Reply<K>> {
        self.parked.take().map(Reply::new)
    }

    /// Returns the number of the request.
    #[must_use]
    pub fn unique(&self) -> u64 {
        self.parked.unique
    }
}

impl<K> fmt::Debug for Parked<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parked").field("unique", &self.parked.unique).finish_non_exhaustive()
    }
}

/// What a [`Reply`] can be answered with.
pub mod kind {
    macro_rules! kinds {
        ($($name:ident $text:literal,)*) => {
            $(#[doc = $text] #[derive(Debug)] pub enum $name {})*
        };
    }

    kinds! {
        Attr "Attributes.",
        Create "A new entry that is open at once.",
        Data "Bytes.",
        Directory "Directory entries.",
        DirectoryPlus "Directory entries with their nodes.",
        Empty "Success, and nothing else.",
        Entry "An entry, or the promise that there is none.",
        Ioctl "The result of an ioctl.",
        Lseek "An offset.",
        Open "A file handle.",
        Poll "A set of events.",
        StatFs "Figures about the filesystem.",
        Write "A number of bytes.",
        Xattr "An extended attribute, or its size.",
    }
}

/// Answers with attributes.
pub type ReplyAttr = Reply<kind::Attr>;
/// Answers with a new entry that is open at once.
pub type ReplyCreate = Reply<kind::Create>;
/// Answers with bytes.
pub type ReplyData = Reply<kind::Data>;
/// Answers with directory entries.
pub type ReplyDirectory = Reply<kind::Directory>;
/// Answers with directory entries and their nodes.
pub type ReplyDirectoryPlus = Reply<kind::DirectoryPlus>;
/// Answers with success.
pub type ReplyEmpty = Reply<kind::Empty>;
/// Answers with an entry.
pub type ReplyEntry = Reply<kind::Entry>;
/// Answers with the result of an ioctl.
pub type ReplyIoctl = Reply<kind::Ioctl>;
/// Answers with an offset.
pub type ReplyLseek = Reply<kind::Lseek>;
/// Answers with a file handle.
pub type ReplyOpen = Reply<kind::Open>;
/// Answers with events.
pub type ReplyPoll = Reply<kind::Poll>;
/// Answers with figures about the filesystem.
pub type ReplyStatFs = Reply<kind::StatFs>;
/// Answers with a number of bytes written.
pub type ReplyWrite = Reply<kind::Write>;
/// Answers with an extended attribute.
pub type ReplyXattr = Reply<kind::Xattr>;

impl ReplyAttr {
    /// Answers with attributes that may be cached for `ttl`.
    pub fn attr(self, ttl: Duration, attr: &FileAttr) {
        let raw = abi::fuse_attr_out {
            attr_valid: ttl.as_secs(),
            attr_valid_nsec: ttl.subsec_nanos(),
            dummy: 0,
            attr: attr.to_abi(),
        };
        self.ticket.answer(0, &[raw.as_bytes()]);
    }
}

impl ReplyCreate {
    /// Answers with a new entry, which counts as a lookup, and its open file.
    pub fn created(self, entry: &Entry, fh: u64, flags: OpenFlags) {
        let (entry, open) = (entry.to_abi(), open_out(fh, flags));
        self.ticket.answer(0, &[entry.as_bytes(), open.as_bytes()]);
    }
}

impl ReplyData {
    /// Answers with bytes, at most as many as were asked for.
    pub fn data(self, bytes: &[u8]) {
        self.ticket.answer(0, &[bytes]);
    }
}

impl ReplyDirectory {
    /// Answers with entries; none at all means the end of the directory.
    pub fn entries(self, buffer: &DirBuffer) {
        self.ticket.answer(0, &[buffer.as_bytes()]);
    }
}

impl ReplyDirectoryPlus {
    /// Answers with entries; none at all means the end of the directory.
    pub fn entries(self, buffer: &DirPlusBuffer) {
        self.ticket.answer(0, &[buffer.as_bytes()]);
    }
}

impl ReplyEmpty {
    /// Answers that it is done.
    pub fn ok(self) {
        self.ticket.answer(0, &[]);
    }
}

impl ReplyEntry {
    /// Answers with an entry, which counts as a lookup of its node.
    pub fn entry(self, entry: &Entry) {
        self.ticket.answer(0, &[entry.to_abi().as_bytes()]);
    }

    /// Answers that the name is not there and will not be for `ttl`.
    ///
    /// `error(Errno::ENOENT)` says the same without being cached.
    pub fn negative(self, ttl: Duration) {
        let raw = abi::fuse_entry_out {
            entry_valid: ttl.as_secs(),
            entry_valid_nsec: ttl.subsec_nanos(),
            ..Default::default()
        };
        self.ticket.answer(0, &[raw.as_bytes()]);
    }
}

impl ReplyIoctl {
    /// Answers with what ioctl(2) returns and what it writes to its argument.
    pub fn result(self, result: i32, output: &[u8]) {
        let raw = abi::fuse_ioctl_out { result, flags: 0, in_iovs: 0, out_iovs: 0 };
        self.ticket.answer(0, &[raw.as_bytes(), output]);
    }
}

impl ReplyLseek {
    /// Answers with the new offset.
    pub fn offset(self, offset: u64) {
        let raw = abi::fuse_lseek_out { offset };
        self.ticket.answer(0, &[raw.as_bytes()]);
    }
}

impl ReplyOpen {
    /// Answers with a handle, which comes back with each operation on this open file.
    pub fn opened(self, fh: u64, flags: OpenFlags) {
        self.ticket.answer(0, &[open_out(fh, flags).as_bytes()]);
    }
}

impl ReplyPoll {
    /// Answers with all that is ready now, asked for or not.
    pub fn ready(self, events: PollEvents) {
        let raw = abi::fuse_poll_out { revents: events.bits(), padding: 0 };
        self.ticket.answer(0, &[raw.as_bytes()]);
    }
}

impl ReplyStatFs {
    /// Answers with figures.
    pub fn statfs(self, figures: &StatFs) {
        let st = abi::fuse_kstatfs {
            blocks: figures.blocks,
            bfree: figures.blocks_free,
            bavail: figures.blocks_available,
            files: figures.files,
            ffree: figures.files_free,
            bsize: figures.block_size,
            namelen: figures.name_max,
            frsize: figures.fragment_size,
            padding: 0,
            spare: [0; 6],
        };
        let raw = abi::fuse_statfs_out { st };
        self.ticket.answer(0, &[raw.as_bytes()]);
    }
}

impl ReplyWrite {
    /// Answers with the number of bytes taken, at most as many as there were.
    pub fn written(self, size: u32) {
        let raw = abi::fuse_write_out { size, padding: 0 };
        self.ticket.answer(0, &[raw.as_bytes()]);
    }
}

impl ReplyXattr {
    /// Answers with a value, its size, or `ERANGE`, as the `room` in the request asks for.
    pub fn value(self, room: u32, value: &[u8]) {
        let Ok(size) = u32::try_from(value.len()) else {
            return self.error(Errno::E2BIG);
        };
        if room == 0 {
            let raw = abi::fuse_getxattr_out { size, padding: 0 };
            self.ticket.answer(0, &[raw.as_bytes()]);
        } else if size > room {
            self.error(Errno::ERANGE);
        } else {
            self.ticket.answer(0, &[value]);
        }
    }
}

const fn open_out(fh: u64, flags: OpenFlags) -> abi::fuse_open_out {
    abi::fuse_open_out { fh, open_flags: flags.bits(), backing_id: 0 }
}

/// What all replies of a session share.
pub(crate) struct Connection {
    pub(crate) channel: Arc<dyn Channel>,
    pub(crate) requests: Requests<OnInterrupt>,
}

/// What to do with a parked reply when its caller got a signal.
type OnInterrupt = Box<dyn FnOnce(Ticket) + Send>;

/// The duty to answer one request.
pub(crate) struct Ticket {
    connection: Arc<Connection>,
    unique: u64,
    /// Slot of the thread that received it.
    slot: usize,
    answered: bool,
}

impl Ticket {
    pub(crate) const fn new(connection: Arc<Connection>, slot: usize, unique: u64) -> Self {
        Self { connection, unique, slot, answered: false }
    }

    pub(crate) fn answer(mut self, error: i32, parts: &[&[u8]]) {
        self.send(error, parts);
    }

    /// Sends the answer; the only place that does.
    fn send(&mut self, error: i32, parts: &[&[u8]]) {
        self.answered = true;
        let Connection { channel, requests } = &*self.connection;
        // Before the write: once the caller is free, no interrupt may run a callback.
        requests.finish(self.slot, self.unique);
        match channel.answer(self.unique, error, parts) {
            Ok(()) => {}
            // The connection was aborted, so nobody waits for this any more.
            Err(Errno::ENOENT | Errno::ENODEV) => {}
            Err(errno) => {
                tracing::error!(unique = self.unique, %errno, "the kernel refused an answer");
                // If it was refused for its shape, the caller still waits.
                let _ = channel.answer(self.unique, -libc::EIO, &[]);
            }
        }
    }

    fn park(self, on_interrupt: OnInterrupt) -> ParkedTicket {
        let Self { slot, unique, ref connection, .. } = self;
        let mut parked =
            ParkedTicket { connection: Arc::clone(connection), unique, slot, parking: 0 };
        let (parking, moved, interrupted) = connection.requests.park(slot, unique, on_interrupt);
        if moved {
            connection.channel.left(unique);
        }
        match interrupted {
            Some(on_interrupt) => on_interrupt(self),
            // From here on the table holds the duty.
            None => self.disarm(),
        }
        parked.parking = parking;
        parked
    }

    fn disarm(mut self) {
        self.answered = true;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.answered {
            tracing::debug!(unique = self.unique, "a reply was dropped unanswered");
            self.send(-libc::EIO, &[]);
        }
    }
}

/// A [`Ticket`] whose duty is in the table.
struct ParkedTicket {
    connection: Arc<Connection>,
    unique: u64,
    slot: usize,
    parking: u64,
}

impl ParkedTicket {
    fn take(&self) -> Option<Ticket> {
        self.connection
            .requests
            .unpark(self.unique, self.parking)
            .then(|| Ticket::new(Arc::clone(&self.connection), self.slot, self.unique))
    }
}

impl Drop for ParkedTicket {
    fn drop(&mut self) {
        // The ticket, if it is still ours, answers EIO.
        drop(self.take());
    }
}
