//! What happened to a tree, as far as watchers care; the queue of what they are not told yet.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fuse_session::Completed;
use kernfs::{Inode, NodeKind};

/// What watchers are to be told.
pub(crate) enum Event {
    /// The owner announced a new value.
    Modified { inode: Arc<Inode> },
    /// A node came in.
    Created { at: Place, ino: u64, kind: NodeKind },
    /// Nodes went, children before their parents; these are their ids.
    Gone { ids: Vec<u64> },
    /// A name went.
    Deleted { at: Place, kind: NodeKind },
    /// A node was renamed.
    Moved {
        from: Place,
        to: Place,
        ino: u64,
        kind: NodeKind,
        /// Whether a client has looked the new name up since.
        was_found: AtomicBool,
    },
}

/// An entry of a directory, by the inode number of the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) dir: u64,
    pub(crate) name: Vec<u8>,
}

impl Place {
    pub(crate) fn new(dir: u64, name: &[u8]) -> Self {
        Self { dir, name: name.to_vec() }
    }
}

impl Event {
    /// Returns the directories that are locked when it is told, against those who list them.
    fn locks(&self) -> impl Iterator<Item = u64> + use<> {
        let dirs = match self {
            Self::Modified { .. } | Self::Gone { .. } => [None; 3],
            Self::Created { at, .. } | Self::Deleted { at, .. } => [Some(at.dir), None, None],
            Self::Moved { from, to, ino, .. } => [Some(from.dir), Some(to.dir), Some(*ino)],
        };
        dirs.into_iter().flatten()
    }

    /// Notes that a client looks a name up.
    pub(crate) fn note_lookup(&self, dir: u64, name: &[u8]) {
        if let Self::Moved { to, was_found, .. } = self
            && to.dir == dir
            && to.name == name
        {
            was_found.store(true, Ordering::Release);
        }
    }
}

/// What the herald is busy with.
pub(crate) enum What {
    /// It does what was done to the tree.
    Event(Event),
    /// It looks at what went.
    Gone(Gone),
    /// It is not to do anything.
    Nothing,
}

/// What is being told at the moment, for those who answer the herald.
pub(crate) struct Told {
    pub(crate) what: What,
    /// The id of what stands in for the node that the event is about.
    pub(crate) stand_in: u64,
    /// Whether the kernel was given the stand-in: then it is the one that it acts upon.
    pub(crate) was_given: AtomicBool,
}

/// A node that went, as the herald looks at it.
///
/// Where it finds the node, the kernel sees that it has no links any more; where it then finds it
/// gone, the kernel lets go of it. Both together it tells those who watch the node, at once or when
/// it is closed.
pub(crate) struct Gone {
    /// All that went with it, by the last paths, so that it is found below its directories.
    pub(crate) known: Arc<HashMap<Vec<u8>, u64>>,
    /// Where the herald looks.
    pub(crate) path: Vec<u8>,
    /// The node's id while it is to be found there.
    pub(crate) id: Option<u64>,
}

impl Gone {
    /// Returns the node id of a path that is to be found.
    pub(crate) fn find(&self, path: &[u8]) -> Option<u64> {
        if path == self.path { self.id } else { self.known.get(path).copied() }
    }
}

/// Events in their order.
#[derive(Default)]
pub(crate) struct Queue {
    items: VecDeque<Item>,
    /// Files whose modification is among them.
    modified: HashSet<u64>,
    /// How many moves are among them.
    moves: usize,
}

/// An event, and what the kernel has to have taken before it is told.
pub(crate) struct Item {
    pub(crate) event: Event,
    pub(crate) after: Option<Completed>,
}

/// Events that may wait: of more, somebody holds up the telling, or the owner is faster than it.
pub(crate) const QUEUE_MAX: usize = 4096;

impl Queue {
    /// Appends an event, unless it tells no more than one that is there already.
    ///
    /// Where there are too many, the oldest gives way and is returned: the last change is the one
    /// that watchers must not miss.
    pub(crate) fn push(&mut self, item: Item) -> Option<Item> {
        match &item.event {
            Event::Modified { inode } if !self.modified.insert(inode.ino()) => return Some(item),
            Event::Moved { .. } => self.moves += 1,
            _ => {}
        }
        self.items.push_back(item);
        if self.items.len() > QUEUE_MAX { self.remove(0) } else { None }
    }

    /// Takes the first event whose directories nobody is listing, and that no earlier one of the
    /// same directories waits before.
    pub(crate) fn take_free(&mut self, is_listed: impl Fn(u64) -> bool) -> Option<Item> {
        let mut held = HashSet::new();
        let at = self.items.iter().position(|Item { event, .. }| {
            let is_free = event.locks().all(|dir| !held.contains(&dir) && !is_listed(dir));
            if !is_free {
                held.extend(event.locks());
            }
            is_free
        })?;
        self.remove(at)
    }

    /// Notes that a client looks a name up.
    pub(crate) fn note_lookup(&self, dir: u64, name: &[u8]) {
        if self.moves > 0 {
            self.items.iter().for_each(|item| item.event.note_lookup(dir, name));
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    fn remove(&mut self, at: usize) -> Option<Item> {
        let item = self.items.remove(at)?;
        match &item.event {
            Event::Modified { inode } => drop(self.modified.remove(&inode.ino())),
            Event::Moved { .. } => self.moves -= 1,
            _ => {}
        }
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn created(dir: u64) -> Item {
        let event = Event::Created { at: Place::new(dir, b"new"), ino: 9, kind: NodeKind::File };
        Item { event, after: None }
    }

    fn moved(from: u64, to: u64) -> Item {
        let (from, to) = (Place::new(from, b"old"), Place::new(to, b"new"));
        let (kind, was_found) = (NodeKind::File, AtomicBool::new(false));
        Item { event: Event::Moved { from, to, ino: 9, kind, was_found }, after: None }
    }

    fn queue(items: impl IntoIterator<Item = Item>) -> Queue {
        let mut queue = Queue::default();
        items.into_iter().for_each(|item| assert!(queue.push(item).is_none()));
        queue
    }

    /// Takes what is free while these directories are listed.
    fn taken(queue: &mut Queue, listed: &[u64]) -> Vec<Vec<u64>> {
        let next = || queue.take_free(|dir| listed.contains(&dir));
        std::iter::from_fn(next).map(|item| item.event.locks().collect()).collect()
    }

    #[test]
    fn events_wait_for_who_lists_their_directory_and_keep_their_order() {
        let mut queue = queue([created(1), moved(1, 2), created(2), created(3)]);
        assert_eq!(taken(&mut queue, &[1, 2, 3]), [[0; 0]; 0]);
        // What is behind the move waits with it, also in the other directory.
        assert_eq!(taken(&mut queue, &[1]), [[3]]);
        assert_eq!(taken(&mut queue, &[2]), [[1]]);
        assert_eq!(taken(&mut queue, &[]), [vec![1, 2, 9], vec![2]]);
        assert!(queue.is_empty());
    }

    #[test]
    fn too_many_events_of_one_directory_do_not_keep_the_last_from_being_told() {
        let mut queue = queue((0..QUEUE_MAX).map(|_| created(1)));
        assert!(queue.push(created(2)).is_some());
        assert_eq!(taken(&mut queue, &[1]), [[2]]);
        assert_eq!(taken(&mut queue, &[]).len(), QUEUE_MAX - 1);
    }

    #[test]
    fn only_a_lookup_of_the_new_name_finds_what_moved() {
        let queue = queue([moved(1, 2)]);
        let was_found = || match &queue.items[0].event {
            Event::Moved { was_found, .. } => was_found.load(Ordering::Acquire),
            _ => unreachable!(),
        };
        queue.note_lookup(1, b"old");
        queue.note_lookup(2, b"old");
        assert!(!was_found());
        queue.note_lookup(2, b"new");
        assert!(was_found());
    }
}
