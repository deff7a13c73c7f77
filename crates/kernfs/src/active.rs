//! Operations of one open file, through its gate.
//!
//! Nothing here waits. An operation that must wait tells what for ([`Outcome`]), and whoever runs
//! it ([`OpenFile`](crate::OpenFile)) comes again.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::task::Poll;

use crate::drain::{Busy, Stuck, Token};
use crate::errno::Errno;
use crate::gate::{self, Gate, Pass, Refused, SharedPass};
use crate::inside::{self, Inside, Panicked, Place, contain};
use crate::meta::{Caller, Operation};
use crate::node::{AnyDriver, AnyOpen, OpenCore, Record};
use crate::ops::{
    Ask, FileOps, Kind, MapOp, Notifier, OpenOp, Ops, Pending, ReadOp, ReadShared, WriteOp,
};
use crate::request::{Chunk, InQueue, Outcome};
use crate::sync::assert_unlocked;

/// What has severing lifetime.
struct Live<T: FileOps> {
    driver: Arc<T>,
    /// `None` until the driver has opened.
    open: Option<T::Open>,
    record: Arc<Record>,
    /// The tree, for the detection of waits for oneself.
    tree: usize,
}

impl<T: FileOps> gate::Live for Live<T> {
    fn release(self) {
        // An operation like any other: who waits in it for a removal may be waiting for it.
        let inside = Inside::enter(Place { tree: self.tree, object: 0 });
        if let Some(open) = self.open {
            self.record.running.start(Operation::Release, &Caller::OWNER);
            let _ = contain(|| self.driver.release(open));
        }
        // The driver may be at its end here, if its owner has let go of it.
        let driver = self.driver;
        let _ = contain(|| drop(driver));
        self.record.end();
        drop(inside);
    }
}

/// The text that was rendered last, kept for the reads that follow.
#[derive(Default)]
struct Text {
    bytes: Vec<u8>,
    /// The offset of the first byte.
    base: u64,
    /// The offset at which a read continues; any other begins again.
    next: u64,
    /// Whether the driver has no more.
    ended: bool,
}

/// A buffer has at least this size, so that short texts of two open files, next to each other in
/// memory, are not in one cache line.
const MIN_CAPACITY: usize = 64;

/// A scratch buffer larger than this is given back after use.
const KEPT_CAPACITY: usize = 64 << 10;

impl Text {
    fn end(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }

    fn restart(&mut self) {
        self.bytes.clear();
        self.base = 0;
        self.next = 0;
        self.ended = false;
    }

    /// Puts what is there from `offset` on into the chunk.
    #[inline]
    fn deliver(&mut self, ask: &Ask<'_>, chunk: &mut Chunk) -> usize {
        let skip = ask.offset.saturating_sub(self.base);
        let skip = usize::try_from(skip).map_or(self.bytes.len(), |s| s.min(self.bytes.len()));
        let rest = &self.bytes[skip..];
        let len = chunk.set(&rest[..rest.len().min(ask.len)]);
        self.next = ask.offset + len as u64;
        len
    }
}

/// An open file of a driver `T`.
///
/// What each operation writes is in the middle, with a cache line on either side that is hardly
/// ever written: so it shares none with another open file's, and needs no alignment, which costs
/// memory and a slower way to allocate.
#[repr(C)]
pub(crate) struct OpenNode<T: FileOps> {
    core: OpenCore,
    gate: Gate<Live<T>, Text>,
}

impl<T: FileOps> OpenNode<T> {
    pub(crate) fn new(driver: Arc<T>, mut core: OpenCore) -> Self {
        core.kind = T::KIND;
        core.ready_by = T::READY;
        core.ops = T::OPS;
        let tree = core.realm.id();
        let live = Live { driver, open: None, record: Arc::clone(&core.record), tree };
        Self { core, gate: Gate::new(live, Text::default()) }
    }

    /// The identity of this open file for the detection of re-entry.
    #[inline]
    fn place(&self) -> Place {
        Place { tree: self.core.realm.id(), object: &raw const self.core as usize }
    }

    #[inline]
    fn enter(&self, queue: Option<InQueue<'_>>) -> Result<Pass<'_, Live<T>, Text>, Outcome> {
        match self.gate.enter() {
            Ok(pass) => Ok(pass),
            Err(refused) => self.stand_alone(refused, queue),
        }
    }

    #[cold]
    fn stand_alone(
        &self,
        refused: Refused,
        queue: Option<InQueue<'_>>,
    ) -> Result<Pass<'_, Live<T>, Text>, Outcome> {
        self.stand(refused, queue, |(waker, key)| self.gate.poll_enter(waker, key))
    }

    fn enter_shared(
        &self,
        queue: Option<InQueue<'_>>,
    ) -> Result<SharedPass<'_, Live<T>, Text>, Outcome> {
        match self.gate.enter_shared() {
            Ok(pass) => Ok(pass),
            Err(refused) => {
                self.stand(refused, queue, |(waker, key)| self.gate.poll_enter_shared(waker, key))
            }
        }
    }

    #[cold]
    fn stand<'a, P>(
        &self,
        refused: Refused,
        queue: Option<InQueue<'a>>,
        poll: impl FnOnce(InQueue<'a>) -> Poll<Result<P, Refused>>,
    ) -> Result<P, Outcome> {
        if refused == Refused::Closed {
            return Err(Outcome::err(Errno::ENODEV));
        }
        if inside::object(self.place().object) {
            return Err(Outcome::err(Errno::EDEADLK));
        }
        let Some(queue) = queue else {
            return Err(Outcome::Busy);
        };
        match poll(queue) {
            Poll::Ready(Ok(pass)) => Ok(pass),
            Poll::Ready(Err(_)) => Err(Outcome::err(Errno::ENODEV)),
            Poll::Pending => Err(Outcome::Busy),
        }
    }

    /// Runs an operation with the contents checked out; a panic is EIO and closes the open file.
    #[inline]
    fn run<R>(
        &self,
        mut pass: Pass<'_, Live<T>, Text>,
        operation: Operation,
        caller: &Caller,
        body: impl FnOnce(&T, &mut Option<T::Open>, &mut Text) -> Result<R, Errno>,
    ) -> Result<R, Errno> {
        pass.condemn();
        let (Some(live), Some(text)) = pass.get() else {
            return Err(Errno::ENODEV);
        };
        self.core.record.running.start(operation, caller);
        let inside = Inside::enter(self.place());
        assert_unlocked();
        let result = contain(|| body(&live.driver, &mut live.open, text));
        drop(inside);
        match result {
            Ok(result) => {
                pass.pardon();
                result
            }
            Err(Panicked) => {
                // What it had rendered so far is nobody's.
                if let (_, Some(text)) = pass.get() {
                    text.restart();
                }
                self.core.ready.kill();
                Err(Errno::EIO)
            }
        }
    }

    /// Renders text until it covers the offset that is asked for.
    #[inline]
    fn render(
        &self,
        driver: &T,
        open: &mut T::Open,
        text: &mut Text,
        ask: &Ask<'_>,
    ) -> Result<Option<Box<Pending>>, Errno> {
        let mut from_start = false;
        if ask.offset == 0 || ask.offset != text.next {
            text.restart();
            from_start = true;
        }
        while !text.ended && text.end() <= ask.offset {
            let event = self.core.node.event();
            text.base = text.end();
            text.bytes.clear();
            text.bytes.reserve(MIN_CAPACITY);
            let ask = Ask { offset: text.base, ..*ask };
            let mut op = ReadOp::new(ask, from_start, &mut text.bytes, &self.core.ready);
            from_start = false;
            let result = driver.read(open, &mut op);
            let pending = op.pending;
            if let Err(errno) = result {
                text.restart();
                return Err(errno);
            }
            if pending.is_some() {
                return if T::KIND == Kind::Text { Ok(pending) } else { Err(Errno::EINVAL) };
            }
            self.core.realm.check_text(&mut text.bytes).inspect_err(|_| text.restart())?;
            text.ended = T::KIND == Kind::Text || text.bytes.is_empty();
            self.core.ready.saw(event);
        }
        Ok(None)
    }

    #[inline]
    fn read_text(
        &self,
        pass: Pass<'_, Live<T>, Text>,
        ask: &Ask<'_>,
        chunk: &mut Chunk,
    ) -> Outcome {
        let done = self.run(pass, Operation::Read, ask.caller, |driver, open, text| {
            let open = open.as_mut().ok_or(Errno::ENODEV)?;
            Ok(match self.render(driver, open, text, ask)? {
                Some(pending) => Outcome::Later(pending, 0),
                None => Outcome::Done(Ok(text.deliver(ask, chunk))),
            })
        });
        done.unwrap_or_else(Outcome::err)
    }

    fn read_bytes(
        &self,
        pass: Pass<'_, Live<T>, Text>,
        ask: &Ask<'_>,
        chunk: &mut Chunk,
    ) -> Outcome {
        let done = self.run(pass, Operation::Read, ask.caller, |driver, open, text| {
            let open = open.as_mut().ok_or(Errno::ENODEV)?;
            let event = self.core.node.event();
            text.bytes.clear();
            let mut op = ReadOp::new(*ask, true, &mut text.bytes, &self.core.ready);
            let result = driver.read(open, &mut op);
            let pending = op.pending;
            // A stream that has nothing was looked at all the same: pollers sleep until news come.
            if result.is_ok() || result == Err(Errno::EAGAIN) {
                self.core.ready.saw(event);
            }
            result?;
            if let Some(pending) = pending {
                return Ok(Outcome::Later(pending, 0));
            }
            text.bytes.truncate(ask.len);
            let len = chunk.set(&text.bytes);
            text.bytes.clear();
            text.bytes.shrink_to(KEPT_CAPACITY);
            Ok(Outcome::Done(Ok(len)))
        });
        done.unwrap_or_else(Outcome::err)
    }

    #[allow(unsafe_code, reason = "shares the state of an open file that proves to be `Sync`")]
    fn read_shared(
        &self,
        pass: &SharedPass<'_, Live<T>, Text>,
        shared: &ReadShared<T>,
        ask: &Ask<'_>,
        chunk: &mut Chunk,
    ) -> Outcome {
        // SAFETY: a `ReadShared<T>` can only be made where `T::Open: Sync`; beside it only the
        // driver is touched, which is `Sync`.
        let live = unsafe { pass.get() };
        let Some(Live { driver, open: Some(open), .. }) = live else {
            return Outcome::err(Errno::ENODEV);
        };
        self.core.record.running.start(Operation::Read, ask.caller);
        let inside = Inside::enter(self.place());
        assert_unlocked();
        let mut bytes = Vec::new();
        let mut op = ReadOp::new(*ask, true, &mut bytes, &self.core.ready);
        let result = contain(|| shared.function()(driver, open, &mut op));
        let pending = op.pending;
        drop(inside);
        match (result, pending) {
            (Err(Panicked), _) => {
                pass.condemn();
                self.core.ready.kill();
                Outcome::err(Errno::EIO)
            }
            (Ok(Err(errno)), _) => Outcome::err(errno),
            (Ok(Ok(())), Some(pending)) => Outcome::Later(pending, 0),
            (Ok(Ok(())), None) => {
                bytes.truncate(ask.len);
                Outcome::Done(Ok(chunk.set(&bytes)))
            }
        }
    }

    /// Delivers what a partial read before the severing has left (P15).
    #[cold]
    fn read_remainder(&self, ask: &Ask<'_>, chunk: &mut Chunk) -> Outcome {
        let mut kept = self.gate.kept().lock();
        match kept.as_mut() {
            Some(text) if ask.offset == text.next && (1..text.end()).contains(&ask.offset) => {
                Outcome::Done(Ok(text.deliver(ask, chunk)))
            }
            _ => Outcome::err(Errno::ENODEV),
        }
    }

    /// Cuts a request to the declared size.
    fn within_size<'a>(&self, ask: &Ask<'a>) -> Ask<'a> {
        let size = self.core.node.size();
        let mut ask = *ask;
        if T::KIND == Kind::Binary && size > 0 {
            let rest = size.saturating_sub(ask.offset);
            ask.len = ask.len.min(usize::try_from(rest).unwrap_or(usize::MAX));
        }
        ask
    }
}

impl<T: FileOps> AnyOpen for OpenNode<T> {
    fn core(&self) -> &OpenCore {
        &self.core
    }

    fn open(&self, notifier: &dyn Fn() -> Notifier) -> Result<(), Errno> {
        let Ok(pass) = self.gate.enter() else {
            return Err(Errno::ENODEV);
        };
        let OpenCore { node, ready, record, opener, flags, .. } = &self.core;
        let free = &record.free;
        let (caller, ino) = (opener, node.ino());
        let mut op = OpenOp { caller, flags: *flags, ino, notifier, ready, free };
        self.run(pass, Operation::Open, opener, |driver, open, _| {
            *open = Some(driver.open(&mut op)?);
            Ok(())
        })
    }

    #[cfg(any(feature = "std", loom, shuttle))]
    fn read_now(&self, offset: u64, len: usize, chunk: &mut Chunk) -> Result<(), Outcome> {
        if !self.core.flags.contains(crate::meta::OpenFlags::READ) {
            return Err(Outcome::err(Errno::EBADF));
        }
        if len == 0 {
            return Ok(());
        }
        match self.read(None, &Ask { caller: &self.core.opener, offset, len }, chunk) {
            Outcome::Done(Ok(_)) => Ok(()),
            outcome => Err(outcome),
        }
    }

    #[inline]
    fn read(&self, queue: Option<InQueue<'_>>, ask: &Ask<'_>, chunk: &mut Chunk) -> Outcome {
        if !T::OPS.contains(Ops::READ) {
            let closed = self.gate.is_closed();
            return Outcome::err(if closed { Errno::ENODEV } else { Errno::EINVAL });
        }
        if matches!(T::KIND, Kind::Text | Kind::Seq) {
            // Not by `enter`: its result would go through memory, since the slow way is a call.
            let pass = match self.gate.enter() {
                Ok(pass) => pass,
                Err(refused) => match self.stand_alone(refused, queue) {
                    Ok(pass) => pass,
                    Err(Outcome::Done(Err(Errno::ENODEV))) => {
                        return self.read_remainder(ask, chunk);
                    }
                    Err(outcome) => return outcome,
                },
            };
            return self.read_text(pass, ask, chunk);
        }
        let ask = &self.within_size(ask);
        if ask.len == 0 && !self.gate.is_closed() {
            return Outcome::Done(Ok(0));
        }
        let read = match T::READ_SHARED {
            Some(shared) if T::KIND == Kind::Binary => {
                self.enter_shared(queue).map(|pass| self.read_shared(&pass, &shared, ask, chunk))
            }
            _ => self.enter(queue).map(|pass| self.read_bytes(pass, ask, chunk)),
        };
        read.unwrap_or_else(|outcome| outcome)
    }

    fn finish_read(
        &self,
        queue: Option<InQueue<'_>>,
        ask: &Ask<'_>,
        answer: &mut Vec<u8>,
        chunk: &mut Chunk,
    ) -> Outcome {
        let mut pass = match self.enter(queue) {
            Ok(pass) => pass,
            Err(outcome) => return outcome,
        };
        let (_, Some(text)) = pass.get() else {
            return Outcome::err(Errno::ENODEV);
        };
        let mut answer = core::mem::take(answer);
        Outcome::Done(if T::KIND == Kind::Text {
            self.core.realm.check_text(&mut answer).map(|()| {
                *text = Text { bytes: answer, ended: true, ..Text::default() };
                text.deliver(ask, chunk)
            })
        } else {
            answer.truncate(self.within_size(ask).len);
            Ok(chunk.set(&answer))
        })
    }

    fn write(&self, queue: Option<InQueue<'_>>, ask: &Ask<'_>, data: &[u8]) -> Outcome {
        let pass = match self.enter(queue) {
            Ok(pass) => pass,
            Err(outcome) => return outcome,
        };
        if !T::OPS.contains(Ops::WRITE) {
            return Outcome::err(Errno::EINVAL);
        }
        let done = self.run(pass, Operation::Write, ask.caller, |driver, open, _| {
            let open = open.as_mut().ok_or(Errno::ENODEV)?;
            let mut op = WriteOp::new(*ask, data, &self.core.ready);
            let written = driver.write(open, &mut op);
            let pending = op.pending;
            let written = written?.min(data.len());
            Ok(match pending {
                Some(pending) => Outcome::Later(pending, written),
                None => Outcome::Done(Ok(written)),
            })
        });
        done.unwrap_or_else(Outcome::err)
    }

    fn mmap(&self, queue: Option<InQueue<'_>>, op: &MapOp<'_>) -> Outcome {
        if !T::OPS.contains(Ops::MMAP) || T::KIND != Kind::Binary {
            return Outcome::err(Errno::ENODEV);
        }
        let pass = match self.enter(queue) {
            Ok(pass) => pass,
            Err(outcome) => return outcome,
        };
        Outcome::Done(self.run(pass, Operation::Mmap, op.caller(), |driver, open, _| {
            driver.mmap(open.as_mut().ok_or(Errno::ENODEV)?, op).map(|()| 0)
        }))
    }

    fn give_up(&self, key: u64) {
        self.gate.give_up(key);
    }

    fn close(&self, token: Option<Token>) -> bool {
        self.gate.close(token)
    }

    fn finish_close(&self) {
        self.gate.finish_close();
    }

    fn is_closed(&self) -> bool {
        self.gate.is_closed()
    }
}

impl<T: FileOps> AnyDriver for T {
    fn ops(&self) -> Ops {
        T::OPS
    }

    fn prepare<'a>(self: Arc<Self>, core: OpenCore) -> Arc<dyn AnyOpen + 'a>
    where
        Self: 'a,
    {
        Arc::new(OpenNode::new(self, core))
    }
}

impl<T: FileOps> Busy for OpenNode<T> {
    fn stuck(&self) -> Option<Stuck> {
        if !self.gate.is_occupied() {
            return None;
        }
        self.core.record.running.stuck(self.core.node.ino(), self.core.node.name())
    }
}
