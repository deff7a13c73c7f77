//! The second phase of a removal: waiting until everything that was severed has come to rest.
//!
//! A [`Drain`] counts tokens: one for the remover itself while it severs, one for each gate that
//! it closes, one for each front end, and one for each earlier drain that it must outlast.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use crate::errno::Errno;
#[cfg(any(feature = "std", loom, shuttle))]
use crate::inside;
use crate::meta::{Caller, Operation};
use crate::name::Name;
use crate::realm::Realm;
use crate::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use crate::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize};
use crate::sync::{Mutex, assert_unlocked};
use crate::wait::WaitQueue;

/// A removal that has been decided and is waited for; gives the driver back when it is done.
///
/// What was severed is dead already: no new operation starts, and everyone who slept is awake.
/// What remains are operations that are still inside their driver, and front ends that have not
/// acknowledged.
/// [`wait`](Self::wait) for it, `.await` it, or drop it: then whoever leaves last drops the driver.
#[must_use = "what was severed is at rest only when this has been waited for"]
pub struct Draining<T = ()> {
    /// `None` where nothing was to be waited for.
    drain: Option<Arc<Drain>>,
    realm: Arc<Realm>,
    /// The owner's driver: the last reference once the drain is done. `None` when it was taken.
    driver: Option<Arc<T>>,
    /// Drivers that were kept by their directories; dropped by the waiter, after the drain.
    kept: Vec<Arc<dyn Kept>>,
    key: Option<u64>,
}

/// Anything that is only to be dropped.
pub(crate) trait Kept: Send + Sync {}

impl<T: Send + Sync> Kept for T {}

impl<T> Draining<T> {
    pub(crate) fn new(
        realm: Arc<Realm>,
        drain: Option<Arc<Drain>>,
        driver: Arc<T>,
        kept: Vec<Arc<dyn Kept>>,
    ) -> Self {
        Self { drain, realm, driver: Some(driver), kept, key: None }
    }

    /// Tells whether everything has come to rest.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.drain.as_ref().is_none_or(|drain| drain.is_done())
    }

    /// Waits until everything has come to rest, and returns the driver.
    ///
    /// Takes the time that the owner's own callbacks take, and waits for no holder of a
    /// descriptor, no waiter and no client's memory (`kernfs_drain`).
    ///
    /// # Errors
    ///
    /// EDEADLK inside an operation of the same tree, which might be waiting for itself.
    /// The error gives the `Draining` back, to be handed to
    /// [`WriteOp::answer_after`](crate::WriteOp::answer_after).
    #[cfg(any(feature = "std", loom, shuttle))]
    pub fn wait(mut self) -> Result<T, NotDrained<T>> {
        if !self.is_done() {
            if inside::tree(self.realm.id()) {
                return Err(NotDrained::new(Errno::EDEADLK, self));
            }
            crate::wait::block_on(|cx| self.poll_done(cx));
        }
        Ok(self.finish())
    }

    /// Waits at most `timeout`, by the monotonic clock of the tree.
    ///
    /// # Errors
    ///
    /// ETIMEDOUT when the time is over, EDEADLK as for [`wait`](Self::wait).
    /// The error gives the `Draining` back: ask it [what it is stuck on](Self::stuck_on), or wait
    /// again.
    #[cfg(any(feature = "std", loom, shuttle))]
    pub fn wait_timeout(mut self, timeout: core::time::Duration) -> Result<T, NotDrained<T>> {
        if !self.is_done() {
            if inside::tree(self.realm.id()) {
                return Err(NotDrained::new(Errno::EDEADLK, self));
            }
            let clock = Arc::clone(&self.realm.clock);
            let now = || clock.monotonic();
            if crate::wait::block_on_until(now, timeout, |cx| self.poll_done(cx)).is_none() {
                return Err(NotDrained::new(Errno::ETIMEDOUT, self));
            }
        }
        Ok(self.finish())
    }

    /// Returns the operations that are still inside their driver, and whose they are.
    ///
    /// Empty when the drain is done, and when it waits only for front ends.
    #[must_use]
    pub fn stuck_on(&self) -> Vec<Stuck> {
        self.drain.as_ref().map_or_else(Vec::new, |drain| drain.stuck_on())
    }

    /// Returns the same removal without its driver, which is dropped when the drain is done.
    pub fn detach(mut self) -> Draining<()>
    where
        T: Send + Sync + 'static,
    {
        let mut kept = core::mem::take(&mut self.kept);
        kept.extend(self.driver.take().map(|driver| driver as Arc<dyn Kept>));
        Draining::new(Arc::clone(&self.realm), self.drain.clone(), Arc::new(()), kept)
    }

    /// Joins two removals into one that is done when both are; drivers are dropped then.
    ///
    /// For a write that severs several files: it can be
    /// [answered after](crate::WriteOp::answer_after) all of them. The removals are of one tree.
    pub fn and<U>(self, other: Draining<U>) -> Draining<()>
    where
        T: Send + Sync + 'static,
        U: Send + Sync + 'static,
    {
        let (mut this, mut other) = (self.detach(), other.detach());
        let (drain, token) = Drain::start();
        for part in [&this.drain, &other.drain].into_iter().flatten() {
            part.chain(&token);
        }
        drop(token);
        let mut kept = core::mem::take(&mut this.kept);
        kept.append(&mut other.kept);
        Draining::new(Arc::clone(&this.realm), Some(drain), Arc::new(()), kept)
    }

    /// Waits even inside an operation, for the end of a scope, which was not begun inside of one.
    #[cfg(any(feature = "std", loom, shuttle))]
    pub(crate) fn wait_anywhere(&mut self) {
        crate::wait::block_on(|cx| self.poll_done(cx));
    }

    fn poll_done(&mut self, cx: &Context<'_>) -> Poll<()> {
        match &self.drain {
            Some(drain) => drain.poll(cx, &mut self.key),
            None => Poll::Ready(()),
        }
    }

    fn finish(&mut self) -> T {
        assert_unlocked();
        self.kept.clear();
        let driver = self.driver.take().and_then(Arc::into_inner);
        driver.expect("polled after completion, or a drained driver is still in use")
    }
}

impl<T> Future for Draining<T> {
    type Output = T;

    /// Completes with the driver when everything has come to rest.
    ///
    /// # Panics
    ///
    /// When polled again after it has completed.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        self.poll_done(cx).map(|()| self.finish())
    }
}

impl<T> Drop for Draining<T> {
    fn drop(&mut self) {
        if let (Some(drain), Some(key)) = (&self.drain, self.key) {
            drain.waiters.deregister(key);
        }
    }
}

impl<T> fmt::Debug for Draining<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draining")
            .field("is_done", &self.is_done())
            .field("stuck_on", &self.stuck_on())
            .finish_non_exhaustive()
    }
}

/// An operation that a removal waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// The inode number of the node that was severed.
    pub ino: u64,
    /// Its name.
    pub name: Name,
    /// What is being done.
    pub operation: Operation,
    /// The process that does it; 0 for the owner's own.
    pub pid: u32,
    /// The user that does it.
    pub uid: u32,
}

/// A wait for a removal that ended too early; the removal itself goes on.
pub struct NotDrained<T> {
    errno: Errno,
    draining: Draining<T>,
}

impl<T> NotDrained<T> {
    #[cfg(any(feature = "std", loom, shuttle))]
    pub(crate) fn new(errno: Errno, draining: Draining<T>) -> Self {
        Self { errno, draining }
    }

    /// Returns EDEADLK or ETIMEDOUT.
    #[must_use]
    pub fn errno(&self) -> Errno {
        self.errno
    }

    /// Returns the removal, to be waited for elsewhere or later.
    pub fn into_draining(self) -> Draining<T> {
        self.draining
    }
}

impl<T> From<NotDrained<T>> for Errno {
    fn from(error: NotDrained<T>) -> Self {
        error.errno
    }
}

impl<T> fmt::Debug for NotDrained<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NotDrained")
            .field("errno", &self.errno)
            .field("draining", &self.draining)
            .finish()
    }
}

impl<T> fmt::Display for NotDrained<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "removal not waited for: {}", self.errno)?;
        for stuck in self.draining.stuck_on() {
            let Stuck { name, operation, pid, .. } = stuck;
            write!(f, "; {operation} of {name} by process {pid} is still inside")?;
        }
        Ok(())
    }
}

impl<T> core::error::Error for NotDrained<T> {}

/// The count of what a removal waits for.
pub(crate) struct Drain {
    pending: AtomicUsize,
    /// Tokens of later drains that must not be done before this one.
    then: Mutex<Vec<Token>>,
    /// What was occupied when it was closed.
    busy: Mutex<Vec<Weak<dyn Busy>>>,
    waiters: WaitQueue,
}

/// Something that an operation may be inside of.
pub(crate) trait Busy: Send + Sync {
    /// Returns the operation, if there is one.
    fn stuck(&self) -> Option<Stuck>;
}

/// The operation that is inside something, and whose it is; only to explain a stuck removal.
#[derive(Debug)]
pub(crate) struct Running {
    /// The process id above the lowest byte, which is the operation, or 0.
    what: AtomicU64,
    uid: AtomicU32,
}

impl Running {
    pub(crate) fn new() -> Self {
        Self { what: AtomicU64::new(0), uid: AtomicU32::new(0) }
    }

    #[inline]
    pub(crate) fn start(&self, operation: Operation, caller: &Caller) {
        // Relaxed: nothing is decided by it. Looked at first, for it is usually the same as before,
        // and each store delays the atomic operation that follows. It is not taken back: the gate
        // tells whether something is inside at all.
        let what = (u64::from(caller.pid) << 8) | u64::from(operation as u8);
        if self.what.load(Relaxed) != what || self.uid.load(Relaxed) != caller.uid {
            self.what.store(what, Relaxed);
            self.uid.store(caller.uid, Relaxed);
        }
    }

    pub(crate) fn stuck(&self, ino: u64, name: Name) -> Option<Stuck> {
        let what = self.what.load(Relaxed);
        Some(Stuck {
            ino,
            name,
            operation: Operation::from_raw((what & 0xff) as u8)?,
            pid: (what >> 8) as u32,
            uid: self.uid.load(Relaxed),
        })
    }
}

impl Drain {
    /// Makes a drain and its first token.
    pub(crate) fn start() -> (Arc<Self>, Token) {
        let drain = Arc::new(Self {
            pending: AtomicUsize::new(1),
            then: Mutex::default(),
            busy: Mutex::default(),
            waiters: WaitQueue::new(),
        });
        let first = Token(Some(Arc::clone(&drain)));
        (drain, first)
    }

    pub(crate) fn is_done(&self) -> bool {
        self.pending.load(Acquire) == 0
    }

    /// Makes the drain of `token` outlast this one.
    pub(crate) fn chain(&self, token: &Token) {
        let mut then = self.then.lock();
        // Whoever completes this drain takes `then` under its lock, after `pending` became 0.
        if !self.is_done() {
            then.push(token.clone());
            drop(then);
            let busy = self.busy.lock().clone();
            if let Some(later) = &token.0 {
                later.busy.lock().extend(busy);
            }
        }
    }

    pub(crate) fn note_busy(&self, busy: Weak<dyn Busy>) {
        self.busy.lock().push(busy);
    }

    pub(crate) fn poll(&self, cx: &Context<'_>, key: &mut Option<u64>) -> Poll<()> {
        if self.is_done() {
            return Poll::Ready(());
        }
        self.waiters.register(key, cx.waker());
        if self.is_done() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn stuck_on(&self) -> Vec<Stuck> {
        let busy = self.busy.lock().clone();
        busy.iter().filter_map(Weak::upgrade).filter_map(|busy| busy.stuck()).collect()
    }

    /// Gives one token back; tells whether it was the last.
    fn put(&self) -> bool {
        self.pending.fetch_sub(1, AcqRel) == 1
    }
}

/// A part of a removal that is not at rest yet; dropping it is the part's coming to rest.
///
/// `None` only while it is being given back.
pub(crate) struct Token(Option<Arc<Drain>>);

impl Token {
    pub(crate) fn drain(&self) -> Option<Arc<Drain>> {
        self.0.clone()
    }
}

impl Clone for Token {
    fn clone(&self) -> Self {
        if let Some(drain) = &self.0 {
            // Relaxed: whoever clones holds a token, so that the count cannot be at 0.
            drain.pending.fetch_add(1, Relaxed);
        }
        Self(self.0.clone())
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        // Usually it is not the last.
        let last = |drain: &Arc<Drain>| drain.put();
        let Some(drain) = self.0.take().filter(last) else {
            return;
        };
        // A loop instead of nested drops, for a chain of drains may be long.
        let mut done = alloc::vec![drain];
        while let Some(drain) = done.pop() {
            let then = core::mem::take(&mut *drain.then.lock());
            done.extend(then.into_iter().filter_map(|mut token| token.0.take()).filter(last));
            drain.waiters.wake_all();
        }
    }
}
