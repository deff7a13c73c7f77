//! Who waits on an open file, and what for: readiness is pushed here, and severing ends it.
//!
//! A [`Ready`] has file lifetime and belongs to kernfs alone; no driver can supply one (P1).
//! The order that loses no wake-up (P3): waiters *register, then look*; events and severing
//! *change the state, then wake*.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::task::Waker;

use bitflags::bitflags;

use crate::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use crate::sync::{Mutex, assert_unlocked};

bitflags! {
    /// What poll(2) asks for and answers, with the bits of Linux.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Events: u32 {
        /// Data can be read.
        const IN = 0x1;
        /// Something exceptional happened; for kernfs files: the value changed.
        const PRI = 0x2;
        /// Data can be written.
        const OUT = 0x4;
        /// An error condition; reported whether asked for or not.
        const ERR = 0x8;
        /// The peer hung up; kernfs never reports it.
        const HUP = 0x10;
        /// The same as `IN`.
        const RDNORM = 0x40;
        /// The same as `OUT`.
        const WRNORM = 0x100;
    }
}

impl Events {
    /// What a file answers that is always readable and writable: `DEFAULT_POLLMASK` of Linux.
    pub const DEFAULT: Self = Self::IN.union(Self::OUT).union(Self::RDNORM).union(Self::WRNORM);

    /// What changed in a file since it was read: `kernfs_generic_poll`.
    pub const CHANGED: Self = Self::ERR.union(Self::PRI);

    /// What a stream answers that has something to read.
    pub(crate) const READABLE: Self = Self::IN.union(Self::RDNORM).union(Self::PRI);

    /// What a stream answers that takes what is written.
    pub(crate) const WRITABLE: Self = Self::OUT.union(Self::WRNORM);

    /// What a severed open file answers for ever.
    pub const SEVERED: Self = Self::DEFAULT.union(Self::CHANGED);
}

/// Readiness of one open file, in the hands of its driver.
///
/// Comes from [`OpenOp::readiness`](crate::OpenOp::readiness), may be kept as long as one likes
/// and used from anywhere: also from `release`, and after severing, when it does nothing.
/// Belongs to kernfs and cannot be made or replaced by a driver (P1).
#[derive(Clone, Debug)]
pub struct Readiness(pub(crate) Arc<Ready>);

impl Readiness {
    /// Makes `events` ready until they are cleared, and wakes who waits on this open file.
    pub fn set(&self, events: Events) {
        self.0.level.fetch_or(events.bits(), AcqRel);
        self.0.wake();
    }

    /// Takes `events` back.
    pub fn clear(&self, events: Events) {
        self.0.level.fetch_and(!events.bits(), AcqRel);
    }

    /// Makes `events` ready until the next poll has reported them, whoever polls, and wakes.
    ///
    /// This is how a pressure trigger fires (`psi_trigger_poll` tests and clears its event).
    /// Tells whether any of them is news: no poll is still to report it, and the open file lives.
    #[expect(clippy::must_use_candidate, reason = "called for its effect")]
    pub fn set_once(&self, events: Events) -> bool {
        let before = self.0.once.fetch_or(events.bits(), AcqRel);
        self.0.wake();
        events.bits() & !before != 0 && !self.is_dead()
    }

    /// Tells whether the open file was severed or closed.
    ///
    /// True at the latest when the call that does so has returned; clients may see it earlier.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.0.is_dead()
    }
}

/// The state that pollers of one open file look at, and the queue that they wait in.
///
/// Reads write it only after a notification: it may share a cache line with another open file's.
#[derive(Debug)]
pub(crate) struct Ready {
    dead: AtomicBool,
    /// The event count of the node when this open file was last read.
    seen: AtomicU64,
    level: AtomicU32,
    once: AtomicU32,
    queue: WaitQueue,
}

impl Ready {
    pub(crate) fn new() -> Self {
        Self {
            dead: AtomicBool::new(false),
            seen: AtomicU64::new(0),
            level: AtomicU32::new(0),
            once: AtomicU32::new(0),
            queue: WaitQueue::new(),
        }
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Acquire)
    }

    pub(crate) fn seen(&self) -> u64 {
        self.seen.load(Acquire)
    }

    #[inline]
    pub(crate) fn saw(&self, event: u64) {
        // Usually nothing has happened since: then nothing is written either.
        if self.seen.load(Acquire) != event {
            self.seen.store(event, Release);
        }
    }

    /// Returns what the driver set, and consumes what was to be reported once.
    pub(crate) fn take_set(&self) -> Events {
        let mut set = self.level.load(Acquire);
        if self.once.load(Acquire) != 0 {
            set |= self.once.swap(0, AcqRel);
        }
        Events::from_bits_retain(set)
    }

    /// Tells whether somebody may wait, for callers that have changed the state before.
    pub(crate) fn is_awaited(&self) -> bool {
        self.queue.is_occupied()
    }

    /// Wakes everyone, to look again.
    pub(crate) fn wake(&self) {
        self.queue.wake_all();
    }

    /// Ends all waiting, now and in future.
    pub(crate) fn kill(&self) {
        self.dead.store(true, Release);
        self.queue.wake_all();
    }

    pub(crate) fn register(&self, key: &mut Option<u64>, waker: &Waker) {
        self.queue.register(key, waker);
    }

    pub(crate) fn deregister(&self, key: u64) {
        self.queue.deregister(key);
    }
}

/// Wakers in the order in which they came.
///
/// A woken waiter is out of the queue; it registers again if it wants to wait on.
#[derive(Debug)]
pub(crate) struct WaitQueue {
    waiters: Mutex<Waiters>,
    /// Whether the queue may have waiters: lets `wake_all` skip the lock.
    occupied: AtomicBool,
}

#[derive(Debug, Default)]
struct Waiters {
    next_key: u64,
    list: Vec<(u64, Waker)>,
}

impl WaitQueue {
    pub(crate) fn new() -> Self {
        Self { waiters: Mutex::default(), occupied: AtomicBool::new(false) }
    }

    /// Puts a waiter in, or renews its waker if it still waits under `key`.
    pub(crate) fn register(&self, key: &mut Option<u64>, waker: &Waker) {
        let mut replaced = None;
        let mut waiters = self.waiters.lock();
        let held = key.and_then(|key| waiters.list.iter_mut().find(|(k, _)| *k == key));
        match held {
            Some((_, old)) if old.will_wake(waker) => {}
            Some((_, old)) => replaced = Some(core::mem::replace(old, waker.clone())),
            None => {
                let fresh = waiters.next_key;
                waiters.next_key += 1;
                waiters.list.push((fresh, waker.clone()));
                *key = Some(fresh);
            }
        }
        // A read-modify-write: whoever swaps `occupied` after it sees the waiter, and whatever
        // was changed before a swap that came earlier is seen by the look that follows.
        self.occupied.swap(true, AcqRel);
        drop(waiters);
        drop(replaced);
    }

    pub(crate) fn deregister(&self, key: u64) {
        let mut waiters = self.waiters.lock();
        let at = waiters.list.iter().position(|(k, _)| *k == key);
        let gone = at.map(|at| waiters.list.remove(at));
        drop(waiters);
        drop(gone);
    }

    /// Tells whether the queue may have waiters.
    fn is_occupied(&self) -> bool {
        // A read-modify-write, for the same reason as in `register`.
        self.occupied.fetch_or(false, AcqRel)
    }

    /// Wakes everyone; costs one read-modify-write where nobody waits.
    pub(crate) fn wake_all(&self) {
        if !self.occupied.swap(false, AcqRel) {
            return;
        }
        let woken = core::mem::take(&mut self.waiters.lock().list);
        assert_unlocked();
        for (_, waker) in woken {
            waker.wake();
        }
    }
}

#[cfg(any(feature = "std", loom, shuttle))]
pub(crate) use block::{block_on, block_on_until};

/// Blocking waits, for threads.
#[cfg(any(feature = "std", loom, shuttle))]
mod block {
    use alloc::sync::Arc;
    use alloc::task::Wake;
    use core::task::{Context, Poll, Waker};
    use core::time::Duration;

    use crate::sync::Parker;

    struct Parked(Parker);

    impl Wake for Parked {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    /// Polls on this thread until it is ready, sleeping in between.
    pub(crate) fn block_on<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
        let parked = Arc::new(Parked(Parker::of_this_thread()));
        let waker = Waker::from(Arc::clone(&parked));
        let mut cx = Context::from_waker(&waker);
        loop {
            if let Poll::Ready(value) = poll(&mut cx) {
                return value;
            }
            parked.0.park();
        }
    }

    /// Does the same until `timeout` has passed by the clock `now`; then returns `None`.
    pub(crate) fn block_on_until<T>(
        now: impl Fn() -> Duration,
        timeout: Duration,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Option<T> {
        let parked = Arc::new(Parked(Parker::of_this_thread()));
        let waker = Waker::from(Arc::clone(&parked));
        let mut cx = Context::from_waker(&waker);
        let start = now();
        loop {
            if let Poll::Ready(value) = poll(&mut cx) {
                return Some(value);
            }
            while !parked.0.was_unparked() {
                let passed = now().saturating_sub(start);
                if passed >= timeout {
                    return None;
                }
                parked.0.doze(timeout - passed);
            }
        }
    }
}
