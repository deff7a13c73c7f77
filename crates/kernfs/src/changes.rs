//! How front ends take part: they acknowledge severings, and hear of everything else.
//!
//! Memory and caches outside the process live on after a flag is set here. So a front end takes
//! part in each removal ([`FrontEnd::severed`]), which is done when it has acknowledged. What is
//! only news goes through a bounded [stream](Changes) that never blocks the owner.

use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::future::poll_fn;
use core::task::{Context, Poll};

use hashbrown::HashSet;

use crate::drain::Token;
use crate::meta::NodeKind;
use crate::name::Name;
use crate::node::Node;
use crate::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use crate::sync::atomic::{AtomicBool, AtomicUsize};
use crate::sync::{Mutex, assert_unlocked};
use crate::wait::WaitQueue;

/// Something that shows a tree to others, for example a mount.
///
/// Called on the thread of whoever changes the tree, which may be inside an operation; must not
/// block. Kernfs holds no lock meanwhile.
pub trait FrontEnd: Send + Sync {
    /// Takes part in a severing: gates are closed already, waiters are awake.
    ///
    /// Replies that are parked have been woken and will answer ENODEV. What remains is to take
    /// names and pages away from those who have them cached, then to drop `ack`, here or anywhere
    /// else; the removal is not done before.
    fn severed(&self, severed: &Severed<'_>, ack: Ack);

    /// Hears of any other change before the owner's call returns.
    fn changed(&self, change: &Change) {
        let _ = change;
    }
}

/// What is being severed.
#[derive(Debug)]
#[non_exhaustive]
pub struct Severed<'a> {
    /// [`Change::Removed`] or [`Change::Hidden`], of the topmost node.
    pub change: &'a Change,
    nodes: &'a [Arc<Node>],
}

impl<'a> Severed<'a> {
    pub(crate) fn removed(change: &'a Change, nodes: &'a [Arc<Node>]) -> Self {
        Self { change, nodes }
    }

    pub(crate) fn hidden(change: &'a Change, node: &'a Arc<Node>) -> Self {
        Self { change, nodes: core::slice::from_ref(node) }
    }

    /// Returns the inode numbers of all severed nodes, children before their parents.
    #[must_use]
    pub fn inos(&self) -> impl ExactSizeIterator<Item = u64> + '_ {
        self.nodes.iter().map(|node| node.ino())
    }
}

/// An acknowledgement that is owed for a severing; dropping it gives it.
#[must_use = "dropping it acknowledges"]
pub struct Ack(#[expect(dead_code, reason = "held only to be dropped")] Token);

impl core::fmt::Debug for Ack {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Ack")
    }
}

/// A change in a tree.
///
/// A change of a directory stands for all that is below it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// A node came in, or a detached directory was attached.
    Added(Entry),
    /// A node was removed.
    Removed(Entry),
    /// A file was hidden.
    Hidden(Entry),
    /// A hidden file was shown again.
    Shown(Entry),
    /// A node was renamed or moved.
    Renamed {
        /// Where it was.
        from: Entry,
        /// Where it is.
        to: Entry,
    },
    /// The owner announced that a file's value changed.
    Notified {
        /// The inode number of the file.
        ino: u64,
    },
    /// The owner changed attributes of a node.
    Attributes {
        /// The inode number of the node.
        ino: u64,
    },
    /// Changes were lost because the reader of the stream was too slow: look at everything again.
    Resync,
}

/// An entry of a directory, as a [`Change`] tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The inode number of the node.
    pub ino: u64,
    /// The kind of the node.
    pub kind: NodeKind,
    /// The inode number of the directory; 0 for what is in none.
    pub parent: u64,
    /// The name in the directory.
    pub name: Name,
}

impl Change {
    pub(crate) fn added(parent: &Node, node: &Node) -> Self {
        Self::Added(Entry::new(node, parent.ino(), node.name()))
    }

    pub(crate) fn removed(node: &Node) -> Self {
        Self::Removed(Entry::of(node))
    }

    pub(crate) fn hidden(node: &Node) -> Self {
        Self::Hidden(Entry::of(node))
    }

    pub(crate) fn shown(node: &Node) -> Self {
        Self::Shown(Entry::of(node))
    }

    pub(crate) fn renamed(node: &Node, from: &Node, old: Name, to: &Node, new: Name) -> Self {
        Self::Renamed {
            from: Entry::new(node, from.ino(), old),
            to: Entry::new(node, to.ino(), new),
        }
    }
}

impl Entry {
    fn new(node: &Node, parent: u64, name: Name) -> Self {
        Self { ino: node.ino(), kind: node.kind(), parent, name }
    }

    fn of(node: &Node) -> Self {
        let parent = node.parent().map_or(0, |parent| parent.ino());
        Self::new(node, parent, node.name())
    }
}

/// The registration of a front end, which ends when this is dropped.
#[must_use = "dropping it ends the registration"]
pub struct FrontEndGuard {
    fronts: Arc<Fronts>,
    key: u64,
}

impl Drop for FrontEndGuard {
    fn drop(&mut self) {
        let mut listeners = self.fronts.listeners.lock();
        let front_ends = &mut listeners.front_ends;
        let at = front_ends.iter().position(|(key, _)| *key == self.key);
        let gone = at.map(|at| front_ends.remove(at));
        drop(listeners);
        if gone.is_some() {
            self.fronts.count.fetch_sub(1, AcqRel);
        }
    }
}

impl core::fmt::Debug for FrontEndGuard {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("FrontEndGuard").finish_non_exhaustive()
    }
}

/// Everyone who hears of changes.
pub(crate) struct Fronts {
    /// How many there are: a tree with none pays one load for a change.
    count: AtomicUsize,
    listeners: Mutex<Listeners>,
}

#[derive(Default)]
struct Listeners {
    next_key: u64,
    front_ends: Vec<(u64, Arc<dyn FrontEnd>)>,
    streams: Vec<Weak<Stream>>,
}

impl Fronts {
    pub(crate) fn new() -> Self {
        Self { count: AtomicUsize::new(0), listeners: Mutex::default() }
    }

    pub(crate) fn register(self: &Arc<Self>, front_end: Arc<dyn FrontEnd>) -> FrontEndGuard {
        self.count.fetch_add(1, AcqRel);
        let mut listeners = self.listeners.lock();
        let key = listeners.next_key;
        listeners.next_key += 1;
        listeners.front_ends.push((key, front_end));
        FrontEndGuard { fronts: Arc::clone(self), key }
    }

    pub(crate) fn stream(self: &Arc<Self>, capacity: usize) -> Changes {
        let stream = Arc::new(Stream {
            capacity: capacity.max(1),
            state: Mutex::default(),
            queue: WaitQueue::new(),
            ended: AtomicBool::new(false),
        });
        self.count.fetch_add(1, AcqRel);
        self.listeners.lock().streams.push(Arc::downgrade(&stream));
        Changes { fronts: Arc::clone(self), stream }
    }

    /// Gives each front end its part of a severing.
    pub(crate) fn severed(&self, severed: &Severed<'_>, token: &Token) {
        for front_end in self.front_ends() {
            front_end.severed(severed, Ack(token.clone()));
        }
    }

    /// Tells whether anybody listens.
    pub(crate) fn are_listening(&self) -> bool {
        self.count.load(Acquire) != 0
    }

    /// Puts a change of structure into the streams; under the tree lock, so that they have all
    /// changes in their order. To be followed by [`Fronts::tell`] once it is free.
    pub(crate) fn record(&self, change: &Change) {
        for stream in self.streams() {
            stream.push(change.clone());
        }
    }

    /// Lets everyone know of a change that was recorded.
    pub(crate) fn tell(&self, change: &Change) {
        if !self.are_listening() {
            return;
        }
        if !matches!(change, Change::Removed(_) | Change::Hidden(_)) {
            for front_end in self.front_ends() {
                front_end.changed(change);
            }
        }
        for stream in self.streams() {
            stream.queue.wake_all();
        }
    }

    /// Records and tells a change of something else, which is made only if somebody listens.
    pub(crate) fn announce(&self, change: impl FnOnce() -> Change) {
        if self.are_listening() {
            let change = change();
            self.record(&change);
            self.tell(&change);
        }
    }

    fn streams(&self) -> Vec<Arc<Stream>> {
        if !self.are_listening() {
            return Vec::new();
        }
        self.listeners.lock().streams.iter().filter_map(Weak::upgrade).collect()
    }

    /// Ends all streams: the tree has gone.
    pub(crate) fn end(&self) {
        let streams = core::mem::take(&mut self.listeners.lock().streams);
        for stream in streams.iter().filter_map(Weak::upgrade) {
            stream.ended.store(true, Release);
            stream.queue.wake_all();
        }
    }

    fn front_ends(&self) -> Vec<Arc<dyn FrontEnd>> {
        if !self.are_listening() {
            return Vec::new();
        }
        let listeners = self.listeners.lock();
        let front_ends = listeners.front_ends.iter().map(|(_, front_end)| Arc::clone(front_end));
        let front_ends = front_ends.collect();
        drop(listeners);
        assert_unlocked();
        front_ends
    }
}

/// The changes of a tree in their order, read by one who may be slow.
///
/// When more than its capacity wait to be read, all of them give way to one [`Change::Resync`].
/// Notifications of one file that were not read yet are one.
pub struct Changes {
    fronts: Arc<Fronts>,
    stream: Arc<Stream>,
}

impl Changes {
    /// Waits for the next change; `None` when the tree has gone.
    #[cfg(any(feature = "std", loom, shuttle))]
    pub fn recv(&mut self) -> Option<Change> {
        let mut key = None;
        crate::wait::block_on(|cx| self.poll_next(cx, &mut key))
    }

    /// Returns a future of the next change; `None` when the tree has gone.
    pub fn recv_async(&mut self) -> impl Future<Output = Option<Change>> + Send + '_ {
        let mut key = None;
        poll_fn(move |cx| self.poll_next(cx, &mut key))
    }

    /// Returns the next change if there is one.
    pub fn try_recv(&mut self) -> Option<Change> {
        self.stream.pop()
    }

    fn poll_next(&self, cx: &Context<'_>, key: &mut Option<u64>) -> Poll<Option<Change>> {
        self.stream.queue.register(key, cx.waker());
        let ended = self.stream.ended.load(Acquire);
        match self.stream.pop() {
            Some(change) => Poll::Ready(Some(change)),
            None if ended => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        let mut listeners = self.fronts.listeners.lock();
        let this = Arc::as_ptr(&self.stream);
        listeners.streams.retain(|stream| stream.as_ptr() != this);
        drop(listeners);
        self.fronts.count.fetch_sub(1, AcqRel);
        // Wakers are dropped here: whoever tells of a change may be the last to know the stream,
        // and hold the tree lock.
        self.stream.queue.wake_all();
    }
}

impl core::fmt::Debug for Changes {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Changes").field("capacity", &self.stream.capacity).finish_non_exhaustive()
    }
}

struct Stream {
    capacity: usize,
    state: Mutex<Queued>,
    queue: WaitQueue,
    ended: AtomicBool,
}

#[derive(Default)]
struct Queued {
    changes: VecDeque<Change>,
    /// Files whose notification is queued.
    notified: HashSet<u64>,
}

impl Stream {
    /// Queues a change; who waits is woken by [`Fronts::tell`].
    fn push(&self, change: Change) {
        let mut queued = self.state.lock();
        if let Change::Notified { ino } = change
            && !queued.notified.insert(ino)
        {
            return;
        }
        if queued.changes.len() == self.capacity {
            queued.changes.clear();
            queued.notified.clear();
            queued.changes.push_back(Change::Resync);
        } else if queued.changes.front() != Some(&Change::Resync) {
            queued.changes.push_back(change);
        }
    }

    fn pop(&self) -> Option<Change> {
        let mut queued = self.state.lock();
        let change = queued.changes.pop_front()?;
        match change {
            Change::Notified { ino } => drop(queued.notified.remove(&ino)),
            Change::Resync => queued.notified.clear(),
            _ => {}
        }
        Some(change)
    }
}
