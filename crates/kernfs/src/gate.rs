//! The gate of one open file: operations check its contents out and back in, closing never waits.
//!
//! One state machine does the work of four mechanisms of Linux: the open-file mutex, the active
//! reference, `release` exactly once, and breaking active protection.
//!
//! ```text
//!           enter                     close
//!   idle ----------> out ---------------------> closing
//!    ^  <----------   |  second entrant           | leave: the leaver dismantles
//!    |     leave      v                           v
//!    +----------- awaited        close          closed  <---- close (from idle: the closer)
//! ```
//!
//! Whoever finds the gate closed and nobody inside dismantles: it takes what has severing
//! lifetime out, releases it, and tells the drains. A closed gate never opens again.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use core::task::{Poll, Waker};

use crate::drain::Token;
use crate::sync::atomic::AtomicU32;
use crate::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release as Publish};
use crate::sync::{Mutex, UnsafeCell, assert_unlocked};

/// One operation has the contents to itself.
const OUT: u32 = 1;
/// Entrants stand in the queue.
const AWAITED: u32 = 2;
/// Closed for good.
const CLOSED: u32 = 4;
/// Drains wait for the gate to be dismantled.
const DRAINED: u32 = 8;
/// One of the operations that share the contents; the count is above this bit.
const SHARER: u32 = 16;

/// Tells whether any of these bits is set.
const fn has(word: u32, bits: u32) -> bool {
    word & bits != 0
}

const fn is_occupied(word: u32) -> bool {
    has(word, OUT) || word >= SHARER
}

/// What has severing lifetime: it ends once, at the earlier of last close and severing.
pub(crate) trait Live {
    /// Ends it; the only user code that a gate runs. Must not unwind.
    fn release(self);
}

/// Why an operation may not enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The gate was closed: ENODEV.
    Closed,
    /// Somebody is inside.
    Busy,
}

/// How an operation wants to enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Exclusive,
    Shared,
}

/// A gate before `S`, of severing lifetime, and `K`, which survives the closing in [`Gate::kept`].
///
/// What each passage writes comes first, then more than a cache line that is hardly ever written.
#[repr(C)]
pub(crate) struct Gate<S, K> {
    word: AtomicU32,
    contents: UnsafeCell<Contents<S, K>>,
    queue: Mutex<Queue>,
    drains: Mutex<Drains>,
    /// What is left of `K` once the gate is dismantled.
    kept: Mutex<Option<K>>,
}

struct Contents<S, K> {
    live: Option<S>,
    kept: Option<K>,
}

/// Tokens of the drains that wait for a gate: hardly ever more than one, which takes no allocation.
#[derive(Default)]
struct Drains {
    token: Option<Token>,
    more: Option<Box<Self>>,
}

impl Drains {
    fn put(&mut self, token: Token) {
        if let Some(earlier) = self.token.replace(token) {
            let more = Self { token: Some(earlier), more: self.more.take() };
            self.more = Some(Box::new(more));
        }
    }
}

#[derive(Default)]
struct Queue {
    next_key: u64,
    entrants: VecDeque<(u64, Waker)>,
}

// SAFETY: `contents` is the only part that is not `Sync` by itself. The word admits either one
// exclusive entrant, or sharers, or one dismantler at a time (model-checked by loom), so that
// `S` and `K` only ever move between threads, except for sharers, whose creation demands `S: Sync`
// (`SharedPass::get` is unsafe and says so).
unsafe impl<S: Send, K: Send> Sync for Gate<S, K> {}

impl<S: Live, K> Gate<S, K> {
    pub(crate) fn new(live: S, kept: K) -> Self {
        Self {
            word: AtomicU32::new(0),
            contents: UnsafeCell::new(Contents { live: Some(live), kept: Some(kept) }),
            queue: Mutex::default(),
            drains: Mutex::default(),
            kept: Mutex::default(),
        }
    }

    /// Enters alone if nobody is inside and nobody waits.
    #[inline]
    pub(crate) fn enter(&self) -> Result<Pass<'_, S, K>, Refused> {
        match self.word.compare_exchange(0, OUT, Acquire, Relaxed) {
            Ok(_) => Ok(Pass::new(self)),
            Err(word) => Err(refusal(word)),
        }
    }

    /// Enters beside other sharers if nobody is inside alone and nobody waits.
    #[inline]
    pub(crate) fn enter_shared(&self) -> Result<SharedPass<'_, S, K>, Refused> {
        let mut word = self.word.load(Relaxed);
        loop {
            if has(word, OUT | AWAITED | CLOSED) {
                return Err(refusal(word));
            }
            match self.word.compare_exchange_weak(word, word + SHARER, Acquire, Relaxed) {
                Ok(_) => return Ok(SharedPass { gate: self }),
                Err(current) => word = current,
            }
        }
    }

    /// Enters alone, or stands in the queue under `key` until it is this entrant's turn.
    pub(crate) fn poll_enter(
        &self,
        waker: &Waker,
        key: &mut Option<u64>,
    ) -> Poll<Result<Pass<'_, S, K>, Refused>> {
        self.poll_queue(waker, key, Entry::Exclusive).map_ok(|()| Pass::new(self))
    }

    /// Enters beside other sharers, or stands in the queue like [`Gate::poll_enter`].
    pub(crate) fn poll_enter_shared(
        &self,
        waker: &Waker,
        key: &mut Option<u64>,
    ) -> Poll<Result<SharedPass<'_, S, K>, Refused>> {
        self.poll_queue(waker, key, Entry::Shared).map_ok(|()| SharedPass { gate: self })
    }

    fn poll_queue(
        &self,
        waker: &Waker,
        key: &mut Option<u64>,
        entry: Entry,
    ) -> Poll<Result<(), Refused>> {
        let mut queue = self.queue.lock();
        let mine = *key.get_or_insert_with(|| queue.ticket());
        let replaced = queue.stand(mine, waker);
        self.word.fetch_or(AWAITED, AcqRel);
        let mut word = self.word.load(Acquire);
        let answer = loop {
            if has(word, CLOSED) {
                break Poll::Ready(Err(Refused::Closed));
            }
            let blocked = match entry {
                Entry::Exclusive => is_occupied(word),
                Entry::Shared => has(word, OUT),
            };
            if blocked || !queue.is_head(mine) {
                break Poll::Pending;
            }
            let awaited = if queue.entrants.len() > 1 { AWAITED } else { 0 };
            let inside = match entry {
                Entry::Exclusive => OUT,
                Entry::Shared => (word & !AWAITED) + SHARER,
            };
            match self.word.compare_exchange(word, inside | awaited, AcqRel, Acquire) {
                Ok(_) => break Poll::Ready(Ok(())),
                Err(current) => word = current,
            }
        };
        let mut gone = None;
        let mut next = None;
        if answer.is_ready() {
            *key = None;
            gone = queue.quit(mine);
            if entry == Entry::Shared {
                next = queue.head_waker();
            }
        }
        drop(queue);
        drop((replaced, gone));
        if let Some(next) = next {
            next.wake();
        }
        answer
    }

    /// Gives up a place in the queue.
    pub(crate) fn give_up(&self, key: u64) {
        let mut queue = self.queue.lock();
        let gone = queue.quit(key);
        if queue.entrants.is_empty() {
            self.word.fetch_and(!AWAITED, AcqRel);
        }
        // It may have been this entrant's turn.
        let next = queue.head_waker();
        drop(queue);
        drop(gone);
        if let Some(next) = next {
            next.wake();
        }
    }

    /// Closes for good, without waiting and without running user code; tells if somebody is inside.
    ///
    /// The token is dropped when the contents have been released. To be followed by
    /// [`Gate::finish_close`]; in between everybody who waits can be woken.
    pub(crate) fn close(&self, token: Option<Token>) -> bool {
        let before = match token {
            None => self.word.fetch_or(CLOSED, AcqRel),
            Some(token) => {
                let mut drains = self.drains.lock();
                drains.put(token);
                self.word.fetch_or(CLOSED | DRAINED, AcqRel)
            }
        };
        is_occupied(before)
    }

    /// Releases the contents of a closed gate if nobody is inside; else the last inside does it,
    /// and who stands in the queue is turned away at once.
    pub(crate) fn finish_close(&self) {
        let mut word = self.word.load(Acquire);
        while !is_occupied(word) {
            match self.word.compare_exchange(word, word | OUT, AcqRel, Acquire) {
                Ok(_) => return self.dismantle(),
                Err(current) => word = current,
            }
        }
        self.wake_queue();
    }

    pub(crate) fn is_closed(&self) -> bool {
        has(self.word.load(Acquire), CLOSED)
    }

    /// Tells whether an operation, or the release, is going on inside.
    pub(crate) fn is_occupied(&self) -> bool {
        is_occupied(self.word.load(Acquire))
    }

    /// Returns what survives the closing; `None` until the contents are being released.
    pub(crate) fn kept(&self) -> &Mutex<Option<K>> {
        &self.kept
    }

    #[inline]
    fn leave(&self, condemned: bool) {
        if condemned || self.word.compare_exchange(OUT, 0, Publish, Relaxed).is_err() {
            self.leave_slowly(condemned);
        }
    }

    #[cold]
    fn leave_slowly(&self, condemned: bool) {
        if condemned {
            self.word.fetch_or(CLOSED, AcqRel);
        }
        let mut word = self.word.load(Acquire);
        while !has(word, CLOSED) {
            match self.word.compare_exchange(word, word & !OUT, AcqRel, Acquire) {
                Ok(_) => return self.wake_head(),
                Err(current) => word = current,
            }
        }
        self.dismantle();
    }

    fn leave_shared(&self) {
        let word = self.word.fetch_sub(SHARER, AcqRel) - SHARER;
        if is_occupied(word) {
            return;
        }
        if has(word, CLOSED) {
            self.finish_close();
        } else if has(word, AWAITED) {
            self.wake_head();
        }
    }

    /// Ends the severing lifetime; the caller holds `OUT` of a closed gate.
    fn dismantle(&self) {
        // SAFETY: `OUT` is held, so nobody else touches the contents.
        let contents = unsafe { &mut *self.contents.write() };
        if let Some(kept) = contents.kept.take() {
            *self.kept.lock() = Some(kept);
        }
        if let Some(live) = contents.live.take() {
            assert_unlocked();
            live.release();
        }
        // The other bits may stay: who closes it once more looks at lists that are empty.
        let before = self.word.fetch_and(!OUT, AcqRel);
        if has(before, AWAITED) {
            self.wake_queue();
        }
        if has(before, DRAINED) {
            let drains = core::mem::take(&mut *self.drains.lock());
            drop(drains);
        }
    }

    fn wake_head(&self) {
        let head = self.queue.lock().head_waker();
        if let Some(head) = head {
            head.wake();
        }
    }

    fn wake_queue(&self) {
        let entrants = core::mem::take(&mut self.queue.lock().entrants);
        for (_, waker) in entrants {
            waker.wake();
        }
    }
}

fn refusal(word: u32) -> Refused {
    if has(word, CLOSED) { Refused::Closed } else { Refused::Busy }
}

impl Queue {
    fn ticket(&mut self) -> u64 {
        let key = self.next_key;
        self.next_key += 1;
        key
    }

    /// Joins the queue, or renews the waker; returns the old one, to be dropped outside the lock.
    fn stand(&mut self, key: u64, waker: &Waker) -> Option<Waker> {
        match self.entrants.iter_mut().find(|(k, _)| *k == key) {
            Some((_, old)) => Some(core::mem::replace(old, waker.clone())),
            None => {
                self.entrants.push_back((key, waker.clone()));
                None
            }
        }
    }

    fn quit(&mut self, key: u64) -> Option<(u64, Waker)> {
        let at = self.entrants.iter().position(|(k, _)| *k == key)?;
        self.entrants.remove(at)
    }

    fn is_head(&self, key: u64) -> bool {
        self.entrants.front().is_some_and(|(k, _)| *k == key)
    }

    fn head_waker(&self) -> Option<Waker> {
        self.entrants.front().map(|(_, waker)| waker.clone())
    }
}

/// The contents of a gate, checked out alone; checked in when dropped.
pub(crate) struct Pass<'a, S: Live, K> {
    gate: &'a Gate<S, K>,
    condemned: bool,
}

impl<'a, S: Live, K> Pass<'a, S, K> {
    #[inline]
    fn new(gate: &'a Gate<S, K>) -> Self {
        Self { gate, condemned: false }
    }

    /// Returns both parts.
    #[inline]
    pub(crate) fn get(&mut self) -> (&mut Option<S>, &mut Option<K>) {
        // SAFETY: this pass holds `OUT`, and borrows itself for as long as the parts are used.
        let contents = unsafe { &mut *self.gate.contents.write() };
        (&mut contents.live, &mut contents.kept)
    }

    /// Closes the gate when the pass is dropped, until it is pardoned; covers unwinding.
    #[inline]
    pub(crate) fn condemn(&mut self) {
        self.condemned = true;
    }

    #[inline]
    pub(crate) fn pardon(&mut self) {
        self.condemned = false;
    }
}

impl<S: Live, K> Drop for Pass<'_, S, K> {
    #[inline]
    fn drop(&mut self) {
        // Lets loom check that the last use is ordered before the next entrant's first.
        #[cfg(loom)]
        self.gate.contents.write();
        self.gate.leave(self.condemned);
    }
}

/// The contents of a gate, checked out beside others.
pub(crate) struct SharedPass<'a, S: Live, K> {
    gate: &'a Gate<S, K>,
}

impl<S: Live, K> SharedPass<'_, S, K> {
    /// Returns what has severing lifetime.
    ///
    /// # Safety
    ///
    /// What the caller touches of `S` must be `Sync`.
    #[inline]
    pub(crate) unsafe fn get(&self) -> Option<&S> {
        // SAFETY: sharers exclude `OUT`, so that nobody has a unique reference.
        unsafe { (*self.gate.contents.read()).live.as_ref() }
    }

    /// Closes the gate: the operation panicked.
    pub(crate) fn condemn(&self) {
        self.gate.close(None);
    }
}

impl<S: Live, K> Drop for SharedPass<'_, S, K> {
    fn drop(&mut self) {
        #[cfg(loom)]
        self.gate.contents.read();
        self.gate.leave_shared();
    }
}
