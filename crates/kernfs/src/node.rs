//! Nodes: what is in the tree, with the locks of each.
//!
//! A node's memory is pinned by its parent's list, its children, its open files and whoever looked
//! it up; none of these pins the driver, which the node lets go of when it is severed.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::drain::{Busy, Drain, Kept, Running, Stuck, Token};
use crate::errno::Errno;
use crate::gate::{Gate, Live};
use crate::inside::contain;
use crate::meta::{Caller, Meta, NodeKind, OpenFlags, Tag, Timestamp};
use crate::name::Name;
use crate::ops::{Ask, Free, Kind, MapOp, Notifier, Ops, ReadyBy};
use crate::realm::{Realm, WriteLimit};
use crate::request::{Chunk, InQueue, Outcome};
use crate::sync::atomic::Ordering::{AcqRel, Acquire};
use crate::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};
use crate::sync::{Mutex, RwLock, assert_unlocked};
use crate::wait::Ready;

/// The node was removed; it never comes back (`KERNFS_REMOVING`).
pub(crate) const REMOVED: u32 = 1;
/// The file is hidden until it is shown (`KERNFS_HIDDEN`).
pub(crate) const HIDDEN: u32 = 2;
/// The directory was removed by rmdir(2) of a client, which marks it dead for getdents(2).
pub(crate) const RMDIR: u32 = 4;

/// A directory, a file or a link.
pub(crate) struct Node {
    ino: u64,
    /// Changed under the tree lock; read without any.
    flags: AtomicU32,
    pub(crate) place: Mutex<Place>,
    pub(crate) meta: Mutex<Meta>,
    inner: Inner,
}

/// Where a node is in the tree.
pub(crate) struct Place {
    /// `None` for a root, and for a directory that is not attached.
    pub(crate) parent: Option<Arc<Node>>,
    pub(crate) name: Name,
    pub(crate) tag: Option<Tag>,
    /// The cursor of readdir at the node.
    pub(crate) seq: u64,
    /// The last severing of the node, by hiding or removal; it outlasts all earlier ones.
    pub(crate) drain: Option<Arc<Drain>>,
}

pub(crate) enum Inner {
    /// Boxed, for it is larger than what most nodes are, files.
    Dir(Box<DirNode>),
    File(FileNode),
    /// The target; pinned, but not kept from being severed.
    Link(Arc<Node>),
    /// A link of fixed text, which leads wherever that leads.
    Symlink(Box<[u8]>),
}

impl Node {
    pub(crate) fn new(ino: u64, name: Name, tag: Option<Tag>, meta: Meta, inner: Inner) -> Self {
        Self {
            ino,
            flags: AtomicU32::new(0),
            place: Mutex::new(Place { parent: None, name, tag, seq: 0, drain: None }),
            meta: Mutex::new(meta),
            inner,
        }
    }

    pub(crate) fn ino(&self) -> u64 {
        self.ino
    }

    pub(crate) fn kind(&self) -> NodeKind {
        match self.inner {
            Inner::Dir(_) => NodeKind::Dir,
            Inner::File(_) => NodeKind::File,
            Inner::Link(_) | Inner::Symlink(_) => NodeKind::Link,
        }
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }

    pub(crate) fn dir(&self) -> Result<&DirNode, Errno> {
        match &self.inner {
            Inner::Dir(dir) => Ok(dir),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// Returns the file part.
    ///
    /// # Errors
    ///
    /// EISDIR for a directory, ELOOP for a link, as open(2) answers.
    pub(crate) fn file(&self) -> Result<&FileNode, Errno> {
        match &self.inner {
            Inner::File(file) => Ok(file),
            Inner::Dir(_) => Err(Errno::EISDIR),
            Inner::Link(_) | Inner::Symlink(_) => Err(Errno::ELOOP),
        }
    }

    pub(crate) fn name(&self) -> Name {
        self.place.lock().name.clone()
    }

    pub(crate) fn parent(&self) -> Option<Arc<Self>> {
        self.place.lock().parent.clone()
    }

    pub(crate) fn has(&self, flag: u32) -> bool {
        self.flags.load(Acquire) & flag != 0
    }

    pub(crate) fn raise(&self, flag: u32) {
        self.flags.fetch_or(flag, AcqRel);
    }

    pub(crate) fn lower(&self, flag: u32) {
        self.flags.fetch_and(!flag, AcqRel);
    }

    /// Returns the event count; 0 for what has none.
    #[inline]
    pub(crate) fn event(&self) -> u64 {
        match &self.inner {
            Inner::File(file) => file.event.load(Acquire),
            _ => 0,
        }
    }

    /// Returns the declared size of a file in bytes.
    #[inline]
    pub(crate) fn size(&self) -> u64 {
        match &self.inner {
            Inner::File(file) => file.size.load(Acquire),
            _ => 0,
        }
    }

    /// Returns the names from below the root down to this node, and the topmost node.
    ///
    /// To be called under the tree lock, so that no rename comes in between.
    pub(crate) fn names(self: &Arc<Self>) -> (Arc<Self>, Vec<Name>) {
        let mut names = Vec::new();
        let mut node = Arc::clone(self);
        loop {
            let (parent, name) = {
                let place = node.place.lock();
                (place.parent.clone(), place.name.clone())
            };
            let Some(parent) = parent else { break };
            names.push(name);
            node = parent;
        }
        names.reverse();
        (node, names)
    }

    /// Counts an event and wakes who waits for it (`kernfs_notify`); nothing once removed.
    pub(crate) fn notify(&self) {
        let Inner::File(file) = &self.inner else {
            return;
        };
        file.event.fetch_add(1, AcqRel);
        let mut next = 0;
        while let Some((key, ready)) = file.ready_from(next) {
            ready.wake();
            next = key + 1;
        }
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.kind(), self.ino())
    }
}

impl Busy for Node {
    fn stuck(&self) -> Option<Stuck> {
        let dir = self.dir().ok()?;
        if !dir.gate.is_occupied() {
            return None;
        }
        dir.running.stuck(self.ino, self.name())
    }
}

/// The part of a node that a file has.
pub(crate) struct FileNode {
    slot: Mutex<FileSlot>,
    /// Counts notifications; starts at 1, so that a fresh open file, which saw 0, is ready.
    event: AtomicU64,
    size: AtomicU64,
    pub(crate) write_limit: WriteLimit,
    ops: Ops,
}

pub(crate) struct FileSlot {
    /// `None` once severed for good.
    driver: Option<Arc<dyn AnyDriver>>,
    /// Whether the directory keeps the driver; else its owner holds a handle with another
    /// reference.
    kept: bool,
    hidden: bool,
    opens: Opens,
    next_key: u64,
}

/// The open files of a node in the order of opening.
pub(crate) type Opens = BTreeMap<u64, Arc<dyn AnyOpen>>;

impl FileNode {
    pub(crate) fn new(driver: Arc<dyn AnyDriver>, size: u64, write_limit: WriteLimit) -> Self {
        let ops = driver.ops();
        Self {
            slot: Mutex::new(FileSlot {
                driver: Some(driver),
                kept: false,
                hidden: false,
                opens: Opens::new(),
                next_key: 0,
            }),
            event: AtomicU64::new(1),
            size: AtomicU64::new(size),
            write_limit,
            ops,
        }
    }

    /// Returns what the driver implements.
    pub(crate) fn ops(&self) -> Ops {
        self.ops
    }

    pub(crate) fn set_size(&self, size: u64) {
        self.size.store(size, crate::sync::atomic::Ordering::Release);
    }

    /// Gives the driver to the parent directory.
    pub(crate) fn keep(&self) {
        self.slot.lock().kept = true;
    }

    /// Makes an open file and lists it in one step, so that a severing misses no reference.
    pub(crate) fn insert(
        &self,
        prepare: impl FnOnce(&Arc<dyn AnyDriver>, u64) -> Arc<dyn AnyOpen>,
    ) -> Result<Arc<dyn AnyOpen>, Errno> {
        let mut slot = self.slot.lock();
        let key = slot.next_key;
        let open = match &slot.driver {
            Some(driver) if !slot.hidden => prepare(driver, key),
            _ => return Err(Errno::ENODEV),
        };
        slot.next_key += 1;
        slot.opens.insert(key, Arc::clone(&open));
        Ok(open)
    }

    pub(crate) fn forget(&self, key: u64) {
        let open = self.slot.lock().opens.remove(&key);
        drop(open);
    }

    fn ready_from(&self, key: u64) -> Option<(u64, Arc<Ready>)> {
        let slot = self.slot.lock();
        let (key, open) =
            slot.opens.range(key..).find(|(_, open)| open.core().ready.is_awaited())?;
        Some((*key, Arc::clone(&open.core().ready)))
    }

    /// Returns who holds the file open, and what for.
    pub(crate) fn openers(&self) -> Vec<(Caller, OpenFlags)> {
        let slot = self.slot.lock();
        let opener = |open: &Arc<dyn AnyOpen>| (open.core().opener, open.core().flags);
        slot.opens.values().map(opener).collect()
    }

    /// Refuses new open files until [`FileNode::show`], and returns those that are open.
    pub(crate) fn hide(&self) -> Opens {
        let mut slot = self.slot.lock();
        slot.hidden = true;
        core::mem::take(&mut slot.opens)
    }

    pub(crate) fn show(&self) {
        self.slot.lock().hidden = false;
    }

    /// Lets go of the driver for ever; returns those open and the driver, if it was kept.
    pub(crate) fn sever(&self) -> (Opens, Option<Arc<dyn AnyDriver>>) {
        let mut slot = self.slot.lock();
        let driver = slot.driver.take();
        let opens = core::mem::take(&mut slot.opens);
        let kept = slot.kept;
        drop(slot);
        // Not kept: the owner's handle has a reference, and must be left with the last one.
        (opens, driver.filter(|_| kept))
    }
}

/// A driver without its type: what a node holds.
pub(crate) trait AnyDriver: Kept {
    fn ops(&self) -> Ops;

    /// Makes an open file on the driver, which is not opened yet.
    fn prepare<'a>(self: Arc<Self>, core: OpenCore) -> Arc<dyn AnyOpen + 'a>
    where
        Self: 'a;
}

/// An open file without the type of its driver.
pub(crate) trait AnyOpen: Busy {
    fn core(&self) -> &OpenCore;

    /// Runs the driver's `open`, once, before anybody else can know the open file.
    fn open(&self, notifier: &dyn Fn() -> Notifier) -> Result<(), Errno>;

    /// Reads into `chunk` for the opener, if that can be done at once: the usual case in one call.
    ///
    /// # Errors
    ///
    /// Whatever else became of it.
    #[cfg(any(feature = "std", loom, shuttle))]
    fn read_now(&self, offset: u64, len: usize, chunk: &mut Chunk) -> Result<(), Outcome>;

    /// Reads into `chunk`, or says what is to be waited for.
    fn read(&self, queue: Option<InQueue<'_>>, ask: &Ask<'_>, chunk: &mut Chunk) -> Outcome;

    /// Finishes a read that was deferred, with what the driver answered.
    fn finish_read(
        &self,
        queue: Option<InQueue<'_>>,
        ask: &Ask<'_>,
        answer: &mut Vec<u8>,
        chunk: &mut Chunk,
    ) -> Outcome;

    fn write(&self, queue: Option<InQueue<'_>>, ask: &Ask<'_>, data: &[u8]) -> Outcome;

    fn mmap(&self, queue: Option<InQueue<'_>>, op: &MapOp<'_>) -> Outcome;

    /// Gives up a place in the queue of the gate.
    fn give_up(&self, key: u64);

    /// Closes the gate; tells whether somebody is inside. See [`Gate::close`].
    fn close(&self, token: Option<Token>) -> bool;

    /// Releases unless somebody is inside. See [`Gate::finish_close`].
    fn finish_close(&self);

    fn is_closed(&self) -> bool;
}

/// What an open file is, apart from its driver; has file lifetime.
pub(crate) struct OpenCore {
    pub(crate) realm: Arc<Realm>,
    pub(crate) node: Arc<Node>,
    pub(crate) ready: Arc<Ready>,
    pub(crate) record: Arc<Record>,
    pub(crate) opener: Caller,
    pub(crate) flags: OpenFlags,
    /// The key in the node's list of open files.
    pub(crate) key: u64,
    pub(crate) kind: Kind,
    pub(crate) ready_by: ReadyBy,
    pub(crate) ops: Ops,
}

/// What is known about an open file while it runs, and what ends its file lifetime.
///
/// Operations of one caller write it once: it may share a cache line with another open file's.
pub(crate) struct Record {
    pub(crate) running: Running,
    /// How many of the two ends, last close and release, are still to come.
    ends: AtomicU8,
    pub(crate) free: Mutex<Vec<Free>>,
}

impl Record {
    pub(crate) fn new() -> Self {
        Self { running: Running::new(), ends: AtomicU8::new(2), free: Mutex::default() }
    }

    /// Marks one of the ends; after the second, `free` runs.
    pub(crate) fn end(&self) {
        if self.ends.fetch_sub(1, AcqRel) == 1 {
            let free = core::mem::take(&mut *self.free.lock());
            assert_unlocked();
            for free in free {
                let _ = contain(free);
            }
        }
    }
}

/// The part of a node that a directory has.
pub(crate) struct DirNode {
    pub(crate) children: RwLock<Children>,
    /// Admits callbacks of [`DirOps`](crate::DirOps), side by side.
    pub(crate) gate: Gate<Nothing, ()>,
    pub(crate) running: Running,
    /// Removals of children that may not be at rest.
    pub(crate) leaving: Mutex<Leaving>,
    /// Whether each child carries a namespace tag; else none does.
    pub(crate) tagged: bool,
}

/// Drains that began below a directory; those that are done are dropped now and then.
#[derive(Default)]
pub(crate) struct Leaving {
    /// Not weak: that one has gone would be seen without seeing what came before.
    drains: Vec<Arc<Drain>>,
    /// How many there may be before those that are done are dropped.
    room: usize,
}

impl Leaving {
    pub(crate) fn note(&mut self, drain: &Arc<Drain>) {
        if self.drains.len() >= self.room {
            self.drains.retain(|drain| !drain.is_done());
            self.room = 2 * self.drains.len() + Self::ROOM;
        }
        self.drains.push(Arc::clone(drain));
    }

    pub(crate) fn take(&mut self) -> Vec<Arc<Drain>> {
        core::mem::take(&mut self.drains)
    }

    /// So few that looking through them costs nothing to speak of.
    const ROOM: usize = 8;
}

/// A directory has no state of severing lifetime.
pub(crate) struct Nothing;

impl Live for Nothing {
    fn release(self) {}
}

impl DirNode {
    pub(crate) fn new(tagged: bool) -> Box<Self> {
        Box::new(Self {
            children: RwLock::new(Children::default()),
            gate: Gate::new(Nothing, ()),
            running: Running::new(),
            leaving: Mutex::default(),
            tagged,
        })
    }

    /// Finds a child that a client of namespace `tag` can see.
    pub(crate) fn lookup(&self, tag: Option<Tag>, name: &[u8]) -> Option<Arc<Node>> {
        let tag = if self.tagged { Some(tag?) } else { None };
        let node = self.children.read().find(tag, name).map(|child| Arc::clone(&child.node))?;
        (!node.has(HIDDEN)).then_some(node)
    }
}

/// The children of a directory, by name and in the order of their coming.
#[derive(Default)]
pub(crate) struct Children {
    hasher: DefaultHashBuilder,
    by_name: HashTable<Child>,
    /// Names only, to be looked up in turn: half the room in a tree that grows at its end is empty.
    by_seq: BTreeMap<u64, Name>,
    /// The sequence number given last.
    last_seq: u64,
    pub(crate) subdirs: u32,
    /// When a child came or went last.
    pub(crate) changed: Option<Timestamp>,
    /// The directory was removed: no child comes in again.
    closed: bool,
}

/// An entry of a directory.
#[derive(Clone)]
pub(crate) struct Child {
    pub(crate) name: Name,
    pub(crate) tag: Option<Tag>,
    pub(crate) node: Arc<Node>,
    seq: u64,
}

/// Cursors below are those of `.` and `..`.
pub(crate) const FIRST_SEQ: u64 = 3;

impl Children {
    pub(crate) fn find(&self, tag: Option<Tag>, name: &[u8]) -> Option<&Child> {
        let hash = self.hasher.hash_one((tag, name));
        self.by_name.find(hash, |child| child.tag == tag && *child.name == *name)
    }

    /// Tells whether a child could come in under the name (`kernfs_add_one`).
    pub(crate) fn check(&self, tag: Option<Tag>, name: &[u8]) -> Result<(), Errno> {
        if self.closed {
            return Err(Errno::ENOENT);
        }
        match self.find(tag, name) {
            Some(_) => Err(Errno::EEXIST),
            None => Ok(()),
        }
    }

    /// Puts a child in, at `seq` if it had a place in this directory; returns its place.
    pub(crate) fn insert(
        &mut self,
        name: Name,
        tag: Option<Tag>,
        node: &Arc<Node>,
        seq: Option<u64>,
        now: Timestamp,
    ) -> u64 {
        let seq = seq.unwrap_or_else(|| {
            self.last_seq = (self.last_seq + 1).max(FIRST_SEQ);
            self.last_seq
        });
        self.subdirs += u32::from(node.kind() == NodeKind::Dir);
        self.changed = Some(now);
        let child = Child { name: name.clone(), tag, node: Arc::clone(node), seq };
        let hash = self.hasher.hash_one((child.tag, &*child.name));
        let Self { hasher, by_name, .. } = self;
        by_name.insert_unique(hash, child, |child| hasher.hash_one((child.tag, &*child.name)));
        self.by_seq.insert(seq, name);
        seq
    }

    /// Takes a child out if it is the given node.
    pub(crate) fn remove(&mut self, tag: Option<Tag>, name: &[u8], node: &Node, now: Timestamp) {
        let hash = self.hasher.hash_one((tag, name));
        let is_it =
            |child: &Child| child.tag == tag && *child.name == *name && child.node.ino == node.ino;
        let Ok(entry) = self.by_name.find_entry(hash, is_it) else {
            return;
        };
        let (child, _) = entry.remove();
        self.by_seq.remove(&child.seq);
        self.subdirs -= u32::from(node.kind() == NodeKind::Dir);
        self.changed = Some(now);
    }

    /// Takes all children out and lets none come in again.
    pub(crate) fn close(&mut self) -> impl Iterator<Item = Arc<Node>> + use<> {
        self.closed = true;
        self.by_seq = BTreeMap::new();
        self.subdirs = 0;
        let mut children = Vec::from_iter(core::mem::take(&mut self.by_name));
        children.sort_unstable_by_key(|child| child.seq);
        children.into_iter().map(|child| child.node)
    }

    /// Returns entries after a cursor, at most `max`, skipping what `tag` does not see.
    pub(crate) fn page(&self, after: u64, tag: Option<Tag>, max: usize) -> Vec<(u64, Child)> {
        let rest = self.by_seq.range(after + 1..);
        // Under the same name there may be a child of another tag.
        rest.filter_map(|(&seq, name)| self.find(tag, name).filter(|child| child.seq == seq))
            .filter(|child| !child.node.has(HIDDEN))
            .take(max)
            .map(|child| (child.seq, child.clone()))
            .collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_seq.is_empty()
    }

    pub(crate) fn nodes(&self) -> Vec<Arc<Node>> {
        self.by_name.iter().map(|child| Arc::clone(&child.node)).collect()
    }
}
