//! Notifications: what the server tells the kernel unasked.
//!
//! Writing a notification may wait for locks that a client holds while it
//! waits for an answer, or while it stands still in its own memory. So none of
//! these is ever written by a thread that serves requests, nor by the caller:
//! each kind has a *lane*, a queue with a thread of its own that starts with
//! the first notification. What is stuck holds up its own lane and nothing
//! else. A lane keeps the order.
//!
//! Only the wake of a poll waits for nothing (`fuse_notify_poll_wakeup`), and
//! the caller writes it: many at once cost no change of threads for each.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::future::Future;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use zerocopy::IntoBytes;

use crate::abi::{self, fuse_notify_code as code};
use crate::channel::Device;
use crate::errno::Errno;

/// Sends notifications; clones share the lanes of one session.
///
/// Each kind of notification but [`poll`](Self::poll) has a lane, a queue with a thread of its own:
///
/// | lane | may wait for |
/// |---|---|
/// | inc_epoch | nothing |
/// | inval_inode | writes of dirty pages of that inode |
/// | store, retrieve | pages that are being read or written |
/// | inval_entry, delete | the lock of the parent directory, which a client that is stopped in its own memory can hold for ever |
/// | prune | what dropping an inode waits for |
///
/// No method waits or fails: how it went is told to the [`Completion`] once
/// the kernel has taken the notification, on the thread of the lane, or for a
/// poll before the method returns. `()` does
/// not want to know, a closure is called, and [`completion`] makes a pair to
/// wait with. The errors are
///
/// - `ENOENT` when the kernel does not know the inode or name: there was nothing to do,
/// - `ENOTCONN` when the session has ended,
/// - `ENOBUFS` when a million notifications wait in the lane already,
/// - `EOPNOTSUPP` when the kernel is too old for this kind,
/// - and what the kernel gives besides.
#[derive(Clone)]
pub struct Notifier {
    lanes: Arc<Lanes>,
}

impl Notifier {
    /// Wakes whoever polls the open file with this handle, from `op::Poll::kh`.
    ///
    /// The kernel then asks for the events again. A handle that is gone is no error. It has been
    /// told when this returns.
    pub fn poll(&self, kh: u64, done: impl Completion) {
        let message = abi::fuse_notify_poll_wakeup_out { kh };
        self.lanes.wake_pollers(Job::new(Message::new(message.as_bytes()), done));
    }

    /// Drops the cached attributes of a node, and the pages of a range of bytes.
    ///
    /// Mappings of the pages go too; what is dirty is written back first.
    pub fn inval_inode(&self, nodeid: u64, range: InvalRange, done: impl Completion) {
        let (off, len) = range.to_abi();
        let message = abi::fuse_notify_inval_inode_out { ino: nodeid, off, len };
        self.send(Kind::InvalInode, Message::new(message.as_bytes()), done);
    }

    /// Drops a cached name, so that its next use asks again.
    pub fn inval_entry(&self, parent: u64, name: &OsStr, done: impl Completion) {
        self.entry(parent, name, 0, done);
    }

    /// Lets a cached name expire without taking it from those who are in it.
    pub fn expire_entry(&self, parent: u64, name: &OsStr, done: impl Completion) {
        self.entry(parent, name, abi::FUSE_EXPIRE_ONLY, done);
    }

    /// Tells that a name is gone: watchers of the child hear of its deletion.
    pub fn delete(&self, parent: u64, child: u64, name: &OsStr, done: impl Completion) {
        let Ok(namelen) = u32::try_from(name.len()) else {
            return done.complete(Err(Errno::ENAMETOOLONG));
        };
        let message = abi::fuse_notify_delete_out { parent, child, namelen, padding: 0 };
        self.send(Kind::Delete, Message::named(message.as_bytes(), name), done);
    }

    /// Puts bytes into the page cache of a node; the file may grow by it, but never shrinks.
    pub fn store(&self, nodeid: u64, offset: u64, data: &[u8], done: impl Completion) {
        let Ok(size) = u32::try_from(data.len()) else {
            return done.complete(Err(Errno::EFBIG));
        };
        let message = abi::fuse_notify_store_out { nodeid, offset, size, padding: 0 };
        let message = Message::new(message.as_bytes()).followed_by(data);
        self.send(Kind::Store, message, done);
    }

    /// Asks for bytes out of the page cache of a node.
    ///
    /// `on_data` gets their offset and as many as were cached, on a thread of
    /// the session, or is dropped unrun if the kernel has nothing.
    pub fn retrieve(
        &self,
        nodeid: u64,
        offset: u64,
        size: u32,
        on_data: impl FnOnce(u64, &[u8]) + Send + 'static,
    ) {
        let retrievals = Arc::clone(&self.lanes.retrievals);
        let notify_unique = retrievals.register(Box::new(on_data));
        let message =
            abi::fuse_notify_retrieve_out { notify_unique, nodeid, offset, size, padding: 0 };
        let message = Message::new(message.as_bytes());
        self.send(Kind::Retrieve, message, move |sent: Result<(), Errno>| {
            if sent.is_err() {
                retrievals.forget(notify_unique);
            }
        });
    }

    /// Lets all cached names expire at once; takes no lock of the kernel.
    pub fn inc_epoch(&self, done: impl Completion) {
        if self.lanes.minor < abi::MINOR_INC_EPOCH {
            return done.complete(Err(Errno::EOPNOTSUPP));
        }
        self.send(Kind::IncEpoch, Message::new(&[]), done);
    }

    /// Asks the kernel to forget these nodes, as far as nothing uses them.
    pub fn prune(&self, nodeids: &[u64], done: impl Completion) {
        if self.lanes.minor < abi::MINOR_PRUNE {
            return done.complete(Err(Errno::EOPNOTSUPP));
        }
        let Ok(count) = u32::try_from(nodeids.len()) else {
            return done.complete(Err(Errno::E2BIG));
        };
        let message = abi::fuse_notify_prune_out { count, ..Default::default() };
        let message = Message::new(message.as_bytes()).followed_by(nodeids.as_bytes());
        self.send(Kind::Prune, message, done);
    }

    pub(crate) const fn new(lanes: Arc<Lanes>) -> Self {
        Self { lanes }
    }

    fn entry(&self, parent: u64, name: &OsStr, flags: u32, done: impl Completion) {
        let Ok(namelen) = u32::try_from(name.len()) else {
            return done.complete(Err(Errno::ENAMETOOLONG));
        };
        let message = abi::fuse_notify_inval_entry_out { parent, namelen, flags };
        let message = Message::named(message.as_bytes(), name);
        self.send(Kind::InvalEntry, message, done);
    }

    fn send(&self, kind: Kind, message: Message, done: impl Completion) {
        if let Err((job, errno)) = self.lanes.push(kind, Job::new(message, done)) {
            job.complete(Err(errno));
        }
    }
}

impl std::fmt::Debug for Notifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notifier").finish_non_exhaustive()
    }
}

/// Which cached pages [`Notifier::inval_inode`] drops, besides the attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalRange {
    /// None: the attributes only.
    Attributes,
    /// All of them.
    All,
    /// Those with any of these bytes.
    Bytes {
        /// First byte.
        offset: u64,
        /// Number of bytes, not 0.
        length: u64,
    },
}

impl InvalRange {
    fn to_abi(self) -> (i64, i64) {
        let clamp = |value| i64::try_from(value).unwrap_or(i64::MAX);
        match self {
            Self::Attributes => (-1, 0),
            Self::All => (0, 0),
            // A length of 0 would mean everything from the offset on.
            Self::Bytes { length: 0, .. } => (-1, 0),
            Self::Bytes { offset, length } => (clamp(offset), clamp(length)),
        }
    }
}

/// Somebody who is told how a notification went, once.
pub trait Completion: Send + 'static {
    /// Hears the result, on the thread of the lane or in [`Notifier::poll`]: be short, and do not
    /// wait.
    fn complete(self, result: Result<(), Errno>);
}

impl Completion for () {
    fn complete(self, _: Result<(), Errno>) {}
}

impl<F: FnOnce(Result<(), Errno>) + Send + 'static> Completion for F {
    fn complete(self, result: Result<(), Errno>) {
        self(result);
    }
}

/// Makes a completion to hand over, and what it completes to wait for.
#[must_use]
pub fn completion() -> (Signal, Completed) {
    let shared = Arc::new(Shared::default());
    (Signal(Arc::clone(&shared)), Completed(shared))
}

/// Sending half of [`completion`]; dropped unused, it tells `ECANCELED`.
#[derive(Debug)]
pub struct Signal(Arc<Shared>);

impl Completion for Signal {
    fn complete(self, result: Result<(), Errno>) {
        self.0.set(result);
    }
}

impl Drop for Signal {
    fn drop(&mut self) {
        self.0.set(Err(Errno::ECANCELED));
    }
}

/// Waiting half of [`completion`]: a future, or [`wait`](Self::wait).
#[derive(Debug)]
pub struct Completed(Arc<Shared>);

impl Completed {
    /// Waits until the kernel has taken the notification, or until the deadline.
    ///
    /// # Errors
    ///
    /// What [`Notifier`] lists; `ETIMEDOUT` at the deadline; `EDEADLK` at once on a
    /// thread that serves requests or carries notifications, which must not wait.
    pub fn wait(&self, deadline: Option<Instant>) -> Result<(), Errno> {
        if !may_wait() {
            return Err(Errno::EDEADLK);
        }
        let mut state = self.0.lock();
        loop {
            if let Some(result) = state.result {
                return result;
            }
            state = match deadline.map(|at| at.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => return Err(Errno::ETIMEDOUT),
                Some(left) => match self.0.changed.wait_timeout(state, left) {
                    Ok((state, _)) => state,
                    Err(poisoned) => poisoned.into_inner().0,
                },
                None => (self.0.changed.wait(state)).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

impl Future for Completed {
    type Output = Result<(), Errno>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.0.lock();
        if let Some(result) = state.result {
            return Poll::Ready(result);
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

/// Marks the calling thread as one that others wait for.
pub(crate) fn forbid_waiting() {
    MUST_NOT_WAIT.set(true);
}

/// Returns whether the calling thread may wait for the session.
pub(crate) fn may_wait() -> bool {
    !MUST_NOT_WAIT.get()
}

thread_local! {
    static MUST_NOT_WAIT: Cell<bool> = const { Cell::new(false) };
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    result: Option<Result<(), Errno>>,
    waker: Option<Waker>,
}

impl Shared {
    fn set(&self, result: Result<(), Errno>) {
        let mut state = self.lock();
        state.result.get_or_insert(result);
        let waker = state.waker.take();
        drop(state);
        self.changed.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All lanes of a session.
pub(crate) struct Lanes {
    device: Arc<Device>,
    /// Minor version of the ABI, which says what the kernel has.
    minor: u32,
    retrievals: Arc<Retrievals>,
    lanes: [Lane; Kind::COUNT],
    closed: AtomicBool,
}

impl Lanes {
    pub(crate) fn new(device: Arc<Device>, minor: u32, retrievals: Arc<Retrievals>) -> Self {
        let closed = AtomicBool::new(false);
        Self { device, minor, retrievals, lanes: Default::default(), closed }
    }

    /// Ends all lanes; what waits in them completes with `ENOTCONN`.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        for lane in &self.lanes {
            for job in lane.close() {
                job.complete(Err(Errno::ENOTCONN));
            }
        }
        self.retrievals.clear();
    }

    /// Waits for the threads of closed lanes, but not for one that is stuck in the kernel.
    pub(crate) fn join(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        for (lane, name) in self.lanes.iter().zip(Kind::NAMES) {
            if !lane.join(deadline) {
                tracing::warn!(
                    lane = name,
                    "a notification is stuck in the kernel, its thread is left behind"
                );
            }
        }
    }

    fn push(self: &Arc<Self>, kind: Kind, job: Job) -> Result<(), (Job, Errno)> {
        let lane = &self.lanes[kind as usize];
        let mut queue = lane.lock();
        if queue.closed {
            return Err((job, Errno::ENOTCONN));
        }
        if queue.jobs.len() >= LANE_CAPACITY {
            return Err((job, Errno::ENOBUFS));
        }
        if queue.thread.is_none() {
            let lanes = Arc::clone(self);
            let started = thread::Builder::new()
                .name(Kind::NAMES[kind as usize].into())
                .spawn(move || lanes.run(kind));
            match started {
                Ok(thread) => queue.thread = Some(thread),
                Err(error) => return Err((job, error.into())),
            }
        }
        queue.jobs.push_back(job);
        drop(queue);
        lane.changed.notify_all();
        Ok(())
    }

    /// Carries the notifications of one lane until it is closed.
    fn run(&self, kind: Kind) {
        forbid_waiting();
        let lane = &self.lanes[kind as usize];
        while let Some(job) = lane.pop() {
            self.write(kind.code(), job);
        }
        lane.lock().done = true;
        lane.changed.notify_all();
    }

    /// Writes at once what waits for nothing.
    fn wake_pollers(&self, job: Job) {
        if self.closed.load(Ordering::Acquire) {
            return job.complete(Err(Errno::ENOTCONN));
        }
        self.write(code::FUSE_NOTIFY_POLL as i32, job);
    }

    fn write(&self, code: i32, job: Job) {
        let (head, tail) = job.message.parts();
        let result = self.device.notify(code, &[head, tail]);
        job.complete(result.map_err(|errno| match errno {
            Errno::ENODEV => Errno::ENOTCONN,
            other => other,
        }));
    }
}

/// Most notifications that wait in one lane. A lane drains a million in about
/// a second, so that only a stuck one fills up; it then holds about 100 MB.
const LANE_CAPACITY: usize = 1 << 20;

#[derive(Clone, Copy)]
enum Kind {
    InvalInode,
    InvalEntry,
    Delete,
    Store,
    Retrieve,
    IncEpoch,
    Prune,
}

impl Kind {
    const COUNT: usize = 7;

    /// Names of the threads, at most 15 bytes each.
    const NAMES: [&str; Self::COUNT] = [
        "fuse-inode",
        "fuse-entry",
        "fuse-delete",
        "fuse-store",
        "fuse-retrieve",
        "fuse-epoch",
        "fuse-prune",
    ];

    const fn code(self) -> i32 {
        match self {
            Self::InvalInode => code::FUSE_NOTIFY_INVAL_INODE as i32,
            Self::InvalEntry => code::FUSE_NOTIFY_INVAL_ENTRY as i32,
            Self::Delete => code::FUSE_NOTIFY_DELETE as i32,
            Self::Store => code::FUSE_NOTIFY_STORE as i32,
            Self::Retrieve => code::FUSE_NOTIFY_RETRIEVE as i32,
            Self::IncEpoch => abi::FUSE_NOTIFY_INC_EPOCH,
            Self::Prune => abi::FUSE_NOTIFY_PRUNE,
        }
    }
}

#[derive(Default)]
struct Lane {
    /// Held for a few instructions, never while a completion runs.
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    thread: Option<JoinHandle<()>>,
    closed: bool,
    /// The thread has left its loop.
    done: bool,
}

impl Lane {
    fn pop(&self) -> Option<Job> {
        let mut queue = self.lock();
        loop {
            if queue.closed {
                return None;
            }
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            queue = (self.changed.wait(queue)).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn close(&self) -> VecDeque<Job> {
        let mut queue = self.lock();
        queue.closed = true;
        let left = std::mem::take(&mut queue.jobs);
        drop(queue);
        self.changed.notify_all();
        left
    }

    /// Joins the thread if it ends before the deadline.
    fn join(&self, deadline: Instant) -> bool {
        let mut queue = self.lock();
        let Some(thread) = queue.thread.take() else {
            return true;
        };
        while !queue.done {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            queue = match self.changed.wait_timeout(queue, left) {
                Ok((queue, _)) => queue,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        drop(queue);
        thread.join().is_ok()
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Job {
    message: Message,
    done: Box<dyn FnOnce(Result<(), Errno>) + Send>,
}

impl Job {
    fn new(message: Message, done: impl Completion) -> Self {
        Self { message, done: Box::new(|result| done.complete(result)) }
    }

    fn complete(self, result: Result<(), Errno>) {
        if catch_unwind(AssertUnwindSafe(|| (self.done)(result))).is_err() {
            tracing::error!("the completion of a notification panicked");
        }
    }
}

/// A notification without its header.
struct Message {
    head: [u8; HEAD_MAX],
    head_len: usize,
    tail: Vec<u8>,
}

/// Size of the largest head, `fuse_notify_retrieve_out`.
const HEAD_MAX: usize = size_of::<abi::fuse_notify_retrieve_out>();

impl Message {
    fn new(bytes: &[u8]) -> Self {
        let mut head = [0; HEAD_MAX];
        head[..bytes.len()].copy_from_slice(bytes);
        Self { head, head_len: bytes.len(), tail: Vec::new() }
    }

    fn named(bytes: &[u8], name: &OsStr) -> Self {
        let mut message = Self::new(bytes).followed_by(name.as_bytes());
        message.tail.push(0);
        message
    }

    fn followed_by(mut self, bytes: &[u8]) -> Self {
        self.tail = bytes.to_vec();
        self
    }

    fn parts(&self) -> (&[u8], &[u8]) {
        (&self.head[..self.head_len], &self.tail)
    }
}

/// What to do with retrieved data.
type OnData = Box<dyn FnOnce(u64, &[u8]) + Send>;

/// Retrievals whose data has not come yet.
#[derive(Default)]
pub(crate) struct Retrievals {
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, OnData>>,
}

impl Retrievals {
    fn register(&self, on_data: OnData) -> u64 {
        // The kernel echoes this number as that of a request, so it is not 0.
        let unique = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        self.lock().insert(unique, on_data);
        unique
    }

    fn forget(&self, unique: u64) {
        let on_data = self.lock().remove(&unique);
        drop(on_data);
    }

    pub(crate) fn complete(&self, unique: u64, offset: u64, data: &[u8]) {
        let on_data = self.lock().remove(&unique);
        if let Some(on_data) = on_data {
            on_data(offset, data);
        }
    }

    fn clear(&self) {
        let waiting = std::mem::take(&mut *self.lock());
        drop(waiting);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, OnData>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_signal_cancels() {
        let (signal, completed) = completion();
        drop(signal);
        assert_eq!(completed.wait(None), Err(Errno::ECANCELED));
    }

    #[test]
    fn the_first_result_stays() {
        let (signal, completed) = completion();
        signal.complete(Ok(()));
        assert_eq!(completed.wait(None), Ok(()));
    }

    #[test]
    fn a_deadline_ends_the_wait() {
        let (signal, completed) = completion();
        assert_eq!(completed.wait(Some(Instant::now())), Err(Errno::ETIMEDOUT));
        drop(signal);
    }

    #[test]
    fn a_thread_that_serves_must_not_wait() {
        let (_signal, completed) = completion();
        let result = thread::spawn(move || {
            forbid_waiting();
            completed.wait(None)
        });
        assert_eq!(result.join().unwrap(), Err(Errno::EDEADLK));
    }

    #[test]
    fn an_empty_range_drops_no_pages() {
        let empty = InvalRange::Bytes { offset: 5, length: 0 };
        assert_eq!(empty.to_abi(), InvalRange::Attributes.to_abi());
    }
}
