//! Open files, in the hands of clients: read, write, poll, map; blocking, async, or by polling.
//!
//! Everything that waits is one of three `poll_*` functions; the blocking and the async forms run
//! them with a parked thread or a task behind the waker.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::future::{Future, poll_fn};
use core::task::{Context, Poll};

use crate::errno::Errno;
use crate::meta::{Caller, OpenFlags};
use crate::node::{AnyOpen, Inner, Node, OpenCore, Record};
use crate::ops::{Ask, Kind, MapOp, Ops, Pending, ReadyBy, Slot};
use crate::realm::PAGE_SIZE;
use crate::request::{Chunk, InQueue, Outcome};
use crate::structure::Shared;
use crate::sync::atomic::AtomicU64;
use crate::sync::atomic::Ordering::Release;
use crate::wait::{Events, Ready};

/// An open file of a client; its clones are duplicates of one descriptor (dup(2)).
///
/// When the last clone is dropped, the file is closed. When the file is severed, every operation
/// answers ENODEV, for ever.
#[derive(Clone)]
pub struct OpenFile(pub(crate) Arc<Descriptor>);

/// What the duplicates share; its drop is the last close.
pub(crate) struct Descriptor {
    pub(crate) open: Arc<dyn AnyOpen>,
    pub(crate) tree: Arc<Shared>,
    pub(crate) position: AtomicU64,
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        let core = self.open.core();
        self.open.close(None);
        self.open.finish_close();
        if let Inner::File(file) = core.node.inner() {
            file.forget(core.key);
        }
        core.ready.kill();
        core.record.end();
        core.realm.uncount_open();
    }
}

impl OpenFile {
    /// Opens a file: puts an open file in the list of the node, then lets the driver open it.
    ///
    /// Whoever severs in between finds the open file in the list and closes its gate.
    pub(crate) fn open(
        tree: &Arc<Shared>,
        node: &Arc<Node>,
        caller: &Caller,
        flags: OpenFlags,
    ) -> Result<Self, Errno> {
        let file = node.file()?;
        tree.realm.count_open()?;
        let listed = file.insert(|driver, key| {
            Arc::clone(driver).prepare(OpenCore {
                realm: Arc::clone(&tree.realm),
                node: Arc::clone(node),
                ready: Arc::new(Ready::new()),
                record: Arc::new(Record::new()),
                opener: *caller,
                flags,
                key,
                kind: Kind::Text,
                ready_by: ReadyBy::Notify,
                ops: Ops::empty(),
            })
        });
        let opened = listed.and_then(|open| match open.open(&|| tree.notifier(node)) {
            Ok(()) => Ok(open),
            Err(errno) => {
                open.close(None);
                open.finish_close();
                file.forget(open.core().key);
                Err(errno)
            }
        });
        let open = opened.inspect_err(|_| tree.realm.uncount_open())?;
        let tree = Arc::clone(tree);
        Ok(Self(Arc::new(Descriptor { open, tree, position: AtomicU64::new(0) })))
    }

    /// Reads at an offset into `buf`, and returns how many bytes were read; 0 at the end.
    ///
    /// Text is rendered anew at offset 0, and at any offset that does not continue the last read.
    /// `buf` is touched only after the driver has been left: a reader that stalls in its own memory
    /// delays no removal.
    ///
    /// # Errors
    ///
    /// ENODEV: the file was severed. EBADF: not open for reading. EDEADLK: inside an operation on
    /// the same open file. EAGAIN: nothing to read yet, and opened with `NONBLOCK`. EIO: the driver
    /// panicked. Else what the driver answers.
    pub fn read_at_async<'a>(
        &'a self,
        buf: &'a mut [u8],
        offset: u64,
    ) -> impl Future<Output = Result<usize, Errno>> + Send + 'a {
        let mut waiter = Waiter::new();
        poll_fn(move |cx| self.poll_read_at(cx, &mut waiter, self.opener(), buf, offset))
    }

    /// Reads for a caller, or registers to be woken when it is worth to try again.
    ///
    /// # Errors
    ///
    /// As for [`read_at_async`](Self::read_at_async).
    pub fn poll_read_at(
        &self,
        cx: &mut Context<'_>,
        waiter: &mut Waiter,
        caller: &Caller,
        buf: &mut [u8],
        offset: u64,
    ) -> Poll<Result<usize, Errno>> {
        let mut chunk = Chunk::new();
        let ask = Ask { caller, offset, len: buf.len() };
        self.attempt_read(Some(cx), waiter, &ask, &mut chunk).map_ok(|_| chunk.copy_to(buf))
    }

    /// Does the same as [`poll_read_at`](Self::poll_read_at) and returns at most `len` bytes.
    ///
    /// # Errors
    ///
    /// As for [`read_at_async`](Self::read_at_async).
    pub fn poll_read_vec(
        &self,
        cx: &mut Context<'_>,
        waiter: &mut Waiter,
        caller: &Caller,
        len: usize,
        offset: u64,
    ) -> Poll<Result<Vec<u8>, Errno>> {
        let mut chunk = Chunk::new();
        let ask = Ask { caller, offset, len };
        match self.attempt_read(Some(cx), waiter, &ask, &mut chunk) {
            Poll::Ready(done) => Poll::Ready(done.map(|_| chunk.into_vec())),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Writes at an offset, and returns how many bytes were taken.
    ///
    /// `data` is copied before the driver is entered: a writer that stalls in its own memory delays
    /// no removal.
    ///
    /// # Errors
    ///
    /// E2BIG: more than the [limit](crate::WriteLimit) of the file, even if it was severed. Else as
    /// for [`read_at_async`](Self::read_at_async).
    pub fn write_at_async<'a>(
        &'a self,
        data: &'a [u8],
        offset: u64,
    ) -> impl Future<Output = Result<usize, Errno>> + Send + 'a {
        let mut waiter = Waiter::new();
        poll_fn(move |cx| self.poll_write_at(cx, &mut waiter, self.opener(), data, offset))
    }

    /// Writes for a caller, or registers to be woken when it is worth to try again.
    ///
    /// # Errors
    ///
    /// As for [`write_at_async`](Self::write_at_async).
    pub fn poll_write_at(
        &self,
        cx: &mut Context<'_>,
        waiter: &mut Waiter,
        caller: &Caller,
        data: &[u8],
        offset: u64,
    ) -> Poll<Result<usize, Errno>> {
        self.attempt_write(Some(cx), waiter, caller, data, offset)
    }

    /// Moves the position to an offset from the start (lseek(2), SEEK_SET).
    ///
    /// # Errors
    ///
    /// ENODEV: the file was severed.
    pub fn seek(&self, offset: u64) -> Result<(), Errno> {
        if self.is_severed() {
            return Err(Errno::ENODEV);
        }
        self.0.position.store(offset, Release);
        Ok(())
    }

    /// Returns which of the events are ready now (poll(2) with a timeout of 0); ERR is always asked
    /// for.
    ///
    /// Consumes what the driver announced [once](crate::Readiness::set_once), whether asked for or
    /// not.
    #[must_use]
    pub fn ready(&self, interest: Events) -> Events {
        self.look() & (interest | Events::ERR)
    }

    /// Waits until one of the events is ready (poll(2) without a timeout).
    ///
    /// Completes at once when the file is severed, with [`Events::SEVERED`].
    pub fn wait_async(&self, interest: Events) -> impl Future<Output = Events> + Send + '_ {
        let mut waiter = Waiter::new();
        poll_fn(move |cx| self.poll_ready(cx, &mut waiter, interest))
    }

    /// Returns what is ready, or registers to be woken when that may have changed.
    ///
    /// The waker is called once at most; a waiter that wants to hear more registers again.
    pub fn poll_ready(
        &self,
        cx: &mut Context<'_>,
        waiter: &mut Waiter,
        interest: Events,
    ) -> Poll<Events> {
        waiter.turn_to(&self.0.open);
        waiter.register(&self.0.open, cx);
        match self.ready(interest) {
            events if events.is_empty() => Poll::Pending,
            events => Poll::Ready(events),
        }
    }

    /// Maps a range of the file (mmap(2)); the mapping dies with the severing.
    ///
    /// Waits only for other operations on the same open file.
    ///
    /// # Errors
    ///
    /// ENODEV: the file cannot be mapped, or was severed. EACCES: not open for reading, or not for
    /// writing where `writable`. EINVAL: `len` is 0, or the range overflows. Else what the driver
    /// answers.
    pub async fn map_async(&self, offset: u64, len: u64, writable: bool) -> Result<Mapping, Errno> {
        let flags = self.flags();
        if !self.ops().contains(Ops::MMAP) {
            return Err(Errno::ENODEV);
        }
        if !flags.contains(OpenFlags::READ) || (writable && !flags.contains(OpenFlags::WRITE)) {
            return Err(Errno::EACCES);
        }
        if len == 0 || offset.checked_add(len).is_none() {
            return Err(Errno::EINVAL);
        }
        let op = MapOp { caller: self.opener(), offset, len, writable };
        let mut waiter = Waiter::new();
        poll_fn(|cx| {
            let queue = waiter.queue(&self.0.open, Some(cx));
            match self.0.open.mmap(queue, &op) {
                Outcome::Done(done) => Poll::Ready(done),
                Outcome::Busy => Poll::Pending,
                Outcome::Later(..) => Poll::Ready(Err(Errno::EIO)),
            }
        })
        .await?;
        Ok(Mapping { file: self.clone(), offset, len, writable })
    }

    /// Tells whether the open file was severed.
    #[must_use]
    pub fn is_severed(&self) -> bool {
        // The gate is closed before sleepers are woken: who was refused by the one must not be
        // told otherwise by the other.
        self.0.open.core().ready.is_dead() || self.0.open.is_closed()
    }

    /// Returns who opened the file.
    #[must_use]
    pub fn opener(&self) -> &Caller {
        &self.0.open.core().opener
    }

    /// Returns what the file was opened for.
    #[must_use]
    pub fn flags(&self) -> OpenFlags {
        self.0.open.core().flags
    }

    /// Returns the shape of the contents.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.open.core().kind
    }

    /// Returns what the driver implements.
    #[must_use]
    pub fn ops(&self) -> Ops {
        self.0.open.core().ops
    }

    /// Tries to read; the result says how many bytes are in the chunk.
    pub(crate) fn attempt_read(
        &self,
        mut cx: Option<&mut Context<'_>>,
        waiter: &mut Waiter,
        ask: &Ask<'_>,
        chunk: &mut Chunk,
    ) -> Poll<Result<usize, Errno>> {
        waiter.turn_to(&self.0.open);
        if let (true, Some(cx)) = (waiter.looked, cx.as_deref_mut()) {
            waiter.register(&self.0.open, cx);
        }
        let outcome = if waiter.later.is_some() || waiter.answer.is_some() {
            core::task::ready!(self.finish_deferred(cx.as_deref_mut(), waiter, ask, chunk))
        } else if !self.flags().contains(OpenFlags::READ) {
            Outcome::err(Errno::EBADF)
        } else if ask.len == 0 {
            Outcome::Done(Ok(0))
        } else {
            let queue = waiter.queue(&self.0.open, cx.as_deref_mut());
            self.0.open.read(queue, ask, chunk)
        };
        self.follow_up(outcome, cx, waiter, ask, chunk)
    }

    /// Takes the outcome of an attempt to its end, or registers for what it waits for.
    pub(crate) fn follow_up(
        &self,
        outcome: Outcome,
        cx: Option<&mut Context<'_>>,
        waiter: &mut Waiter,
        ask: &Ask<'_>,
        chunk: &mut Chunk,
    ) -> Poll<Result<usize, Errno>> {
        match outcome {
            Outcome::Busy => match cx {
                // Not queued yet: the next attempt is.
                Some(cx) if waiter.in_gate.is_none() => {
                    self.attempt_read(Some(cx), waiter, ask, chunk)
                }
                _ => Poll::Pending,
            },
            Outcome::Done(Err(Errno::EAGAIN)) if !ask.caller.nonblocking => {
                let Some(cx) = cx else { return Poll::Pending };
                // Registered first, then looked: else news in between would be lost.
                if core::mem::replace(&mut waiter.looked, true) {
                    return Poll::Pending;
                }
                self.attempt_read(Some(cx), waiter, ask, chunk)
            }
            Outcome::Done(done) => {
                waiter.looked = false;
                waiter.leave_gate();
                Poll::Ready(done)
            }
            Outcome::Later(pending, len) => {
                waiter.later = Some((pending, len));
                if ask.caller.nonblocking {
                    waiter.abandon();
                    return Poll::Ready(Err(Errno::EAGAIN));
                }
                match cx {
                    Some(cx) => self.attempt_read(Some(cx), waiter, ask, chunk),
                    None => Poll::Pending,
                }
            }
        }
    }

    /// Waits for a deferred answer, and reads it through the gate.
    fn finish_deferred(
        &self,
        mut cx: Option<&mut Context<'_>>,
        waiter: &mut Waiter,
        ask: &Ask<'_>,
        chunk: &mut Chunk,
    ) -> Poll<Outcome> {
        let open = &self.0.open;
        if waiter.later.is_some() {
            let answer = core::task::ready!(waiter.poll_later(open, cx.as_deref_mut()));
            // The answer may be older than the registration.
            waiter.looked = false;
            match answer {
                Ok(Answer::Bytes(bytes)) => waiter.answer = Some(bytes),
                Ok(Answer::Count(_)) => return Poll::Ready(Outcome::err(Errno::EIO)),
                Err(errno) => return Poll::Ready(Outcome::err(errno)),
            }
        }
        let mut answer = waiter.answer.take().unwrap_or_default();
        let queue = waiter.queue(open, cx);
        let outcome = open.finish_read(queue, ask, &mut answer, chunk);
        if matches!(outcome, Outcome::Busy) {
            waiter.answer = Some(answer);
        }
        Poll::Ready(outcome)
    }

    /// Copies the data, then writes, or says what is to be waited for.
    #[inline]
    pub(crate) fn write_in_queue(
        &self,
        queue: Option<InQueue<'_>>,
        caller: &Caller,
        data: &[u8],
        offset: u64,
    ) -> Outcome {
        let core = self.0.open.core();
        if !core.flags.contains(OpenFlags::WRITE) {
            return Outcome::err(Errno::EBADF);
        }
        match core.node.file().and_then(|file| file.write_limit.admit(data.len())) {
            Ok(len) => {
                let mut copied = Chunk::new();
                copied.set(&data[..len]);
                let ask = Ask { caller, offset, len };
                self.0.open.write(queue, &ask, copied.bytes())
            }
            Err(errno) => Outcome::err(errno),
        }
    }

    pub(crate) fn attempt_write(
        &self,
        mut cx: Option<&mut Context<'_>>,
        waiter: &mut Waiter,
        caller: &Caller,
        data: &[u8],
        offset: u64,
    ) -> Poll<Result<usize, Errno>> {
        let open = &self.0.open;
        waiter.turn_to(open);
        if waiter.later.is_none() {
            let queue = waiter.queue(open, cx.as_deref_mut());
            match self.write_in_queue(queue, caller, data, offset) {
                Outcome::Busy => return Poll::Pending,
                Outcome::Done(done) => {
                    waiter.leave_gate();
                    return Poll::Ready(done);
                }
                Outcome::Later(pending, len) => waiter.later = Some((pending, len)),
            }
        }
        waiter.poll_later(open, cx).map(|answer| match answer? {
            Answer::Count(count) => Ok(count.min(data.len())),
            Answer::Bytes(_) => Err(Errno::EIO),
        })
    }

    fn look(&self) -> Events {
        let core = self.0.open.core();
        if self.is_severed() {
            return Events::SEVERED;
        }
        let set = core.ready.take_set();
        let changed = core.ready_by == ReadyBy::Notify && core.ready.seen() != core.node.event();
        let base = match core.kind {
            Kind::Text | Kind::Seq | Kind::Binary if changed => {
                Events::DEFAULT.union(Events::CHANGED)
            }
            Kind::Text | Kind::Seq | Kind::Binary => Events::DEFAULT,
            Kind::Stream => {
                let mut base = Events::empty();
                base.set(Events::READABLE, changed);
                base.set(Events::WRITABLE, core.ops.contains(Ops::WRITE));
                base
            }
        };
        // Severed since: what was looked at is no longer true.
        if self.is_severed() { Events::SEVERED } else { base | set }
    }
}

impl fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenFile")
            .field("ino", &self.0.open.core().node.ino())
            .field("flags", &self.flags())
            .field("is_severed", &self.is_severed())
            .finish()
    }
}

/// What an operation that waits keeps from one poll to the next.
///
/// One waiter serves one operation at a time; dropping it gives the operation up. It touches only
/// memory of kernfs, however late it leaves (P5).
#[derive(Default)]
pub struct Waiter {
    /// What is waited on; set with the first key.
    open: Option<Arc<dyn AnyOpen>>,
    /// The place in the queue of the gate.
    in_gate: Option<u64>,
    /// The place in the queue for readiness.
    in_ready: Option<u64>,
    /// What the driver, or a removal, still owes, and what a write returns then.
    later: Option<(Box<Pending>, usize)>,
    in_later: Option<u64>,
    /// What a deferred read was answered, to be read through the gate.
    answer: Option<Vec<u8>>,
    /// Whether a read found nothing, so that from now on each attempt registers before it looks.
    looked: bool,
}

enum Answer {
    Bytes(Vec<u8>),
    Count(usize),
}

impl Waiter {
    /// Makes a waiter that waits for nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the place in the queue of the gate, if there is a waker to stand in it.
    fn queue<'a>(
        &'a mut self,
        open: &Arc<dyn AnyOpen>,
        cx: Option<&'a mut Context<'_>>,
    ) -> Option<InQueue<'a>> {
        let cx = cx?;
        self.open.get_or_insert_with(|| Arc::clone(open));
        Some((cx.waker(), &mut self.in_gate))
    }

    fn register(&mut self, open: &Arc<dyn AnyOpen>, cx: &Context<'_>) {
        self.open.get_or_insert_with(|| Arc::clone(open));
        open.core().ready.register(&mut self.in_ready, cx.waker());
    }

    /// Makes a waiter for what a write was told to wait for.
    #[cfg(any(feature = "std", loom, shuttle))]
    pub(crate) fn for_write(
        open: &Arc<dyn AnyOpen>,
        pending: Box<Pending>,
        written: usize,
    ) -> Self {
        let mut waiter = Self::new();
        waiter.open = Some(Arc::clone(open));
        waiter.later = Some((pending, written));
        waiter
    }

    /// Gives up what was waited for on another open file, where the places in queues are.
    fn turn_to(&mut self, open: &Arc<dyn AnyOpen>) {
        let elsewhere = |held: &Arc<_>| !core::ptr::addr_eq(Arc::as_ptr(held), Arc::as_ptr(open));
        if self.open.as_ref().is_some_and(elsewhere) {
            self.leave();
        }
    }

    /// Gives everything up.
    fn leave(&mut self) {
        self.abandon();
        self.leave_gate();
        if let (Some(open), Some(key)) = (&self.open, self.in_ready) {
            open.core().ready.deregister(key);
        }
        (self.open, self.in_ready, self.in_later) = (None, None, None);
        (self.answer, self.looked) = (None, false);
    }

    /// Leaves the queue of the gate, for an operation may end without its turn.
    fn leave_gate(&mut self) {
        if let (Some(open), Some(key)) = (&self.open, self.in_gate.take()) {
            open.give_up(key);
        }
    }

    /// Waits for an answer that was deferred, or for a removal.
    fn poll_later(
        &mut self,
        open: &Arc<dyn AnyOpen>,
        cx: Option<&mut Context<'_>>,
    ) -> Poll<Result<Answer, Errno>> {
        let Some(cx) = cx else {
            return Poll::Pending;
        };
        let Some((pending, len)) = &mut self.later else {
            return Poll::Ready(Err(Errno::EIO));
        };
        let len = *len;
        let key = &mut self.in_later;
        let answer = match &mut **pending {
            Pending::After(draining) => {
                // A removal is answered though it severs the very file that asked for it.
                core::task::ready!(core::pin::Pin::new(draining).poll(cx));
                Ok(Answer::Count(len))
            }
            Pending::Read(slot) => {
                let slot = Arc::clone(slot);
                slot.queue.register(key, cx.waker());
                self.register(open, cx);
                core::task::ready!(answer_of(&slot, open)).map(Answer::Bytes)
            }
            Pending::Write(slot) => {
                let slot = Arc::clone(slot);
                slot.queue.register(key, cx.waker());
                self.register(open, cx);
                core::task::ready!(answer_of(&slot, open)).map(Answer::Count)
            }
        };
        self.later = None;
        self.in_later = None;
        Poll::Ready(answer)
    }

    /// Lets go of a deferred answer: who gives it gets it back.
    fn abandon(&mut self) {
        if let Some((pending, _)) = self.later.take() {
            match *pending {
                Pending::Read(slot) => slot.abandon(),
                Pending::Write(slot) => slot.abandon(),
                Pending::After(draining) => drop(draining),
            }
        }
    }
}

/// Returns the answer if there is one; severing answers ENODEV.
fn answer_of<A>(slot: &Slot<A>, open: &Arc<dyn AnyOpen>) -> Poll<Result<A, Errno>> {
    if open.core().ready.is_dead() {
        slot.abandon();
        return Poll::Ready(Err(Errno::ENODEV));
    }
    slot.take().map_or(Poll::Pending, Poll::Ready)
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.leave();
    }
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiter")
            .field("in_gate", &self.in_gate)
            .field("in_ready", &self.in_ready)
            .field("is_deferred", &self.later.is_some())
            .finish_non_exhaustive()
    }
}

/// A mapping of a file that dies with the severing.
///
/// Accesses go through the gate, so that none can reach the driver afterwards; a `&[u8]` could not
/// be taken back. Pins the open file.
#[derive(Debug)]
pub struct Mapping {
    file: OpenFile,
    offset: u64,
    len: u64,
    writable: bool,
}

impl Mapping {
    /// Returns the length in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.len
    }

    /// Copies all of `buf` out of the mapping, from an offset within it.
    ///
    /// # Errors
    ///
    /// ENODEV: the file was severed. EFAULT: beyond the mapping or the end of the file, where a
    /// real mapping raises SIGBUS. Else what the driver answers.
    pub async fn read_at_async(&self, buf: &mut [u8], offset: u64) -> Result<(), Errno> {
        let start = self.check(offset, buf.len())?;
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at_async(&mut buf[done..], start + done as u64).await? {
                0 => return Err(Errno::EFAULT),
                len => done += len,
            }
        }
        Ok(())
    }

    /// Copies all of `data` into the mapping, at an offset within it.
    ///
    /// # Errors
    ///
    /// EACCES: the mapping is not writable. Else as for [`read_at_async`](Self::read_at_async).
    pub async fn write_at_async(&self, data: &[u8], offset: u64) -> Result<(), Errno> {
        if !self.writable {
            return Err(Errno::EACCES);
        }
        let start = self.check(offset, data.len())?;
        let mut done = 0;
        while done < data.len() {
            let page = &data[done..data.len().min(done + PAGE_SIZE)];
            match self.file.write_at_async(page, start + done as u64).await? {
                0 => return Err(Errno::EFAULT),
                len => done += len,
            }
        }
        Ok(())
    }

    fn check(&self, offset: u64, len: usize) -> Result<u64, Errno> {
        let end = offset.checked_add(len as u64).ok_or(Errno::EFAULT)?;
        if end > self.len {
            return Err(Errno::EFAULT);
        }
        Ok(self.offset + offset)
    }
}
