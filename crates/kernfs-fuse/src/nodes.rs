//! Which node ids the kernel knows, and what it may have cached of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kernfs::{Inode, ROOT_INO};

/// The node id of the root, given by the protocol.
pub(crate) const ROOT_ID: u64 = 1;

/// Nodes that the kernel has looked up and not forgotten.
pub(crate) struct Nodes {
    table: Mutex<Table>,
}

struct Table {
    by_id: HashMap<u64, Known>,
    /// The id of each node that was not severed since it got it.
    by_ino: HashMap<u64, u64>,
    last_id: u64,
    /// Ids that have ended and were closed since the last time that these were taken.
    unused: Vec<u64>,
    /// Whether names were told since the last time that all were dropped.
    names_told: bool,
}

/// What is noted for the next severing, if there is none for long.
const UNUSED_MAX: usize = 10_000;

/// What is known of a node id.
#[derive(Clone)]
pub(crate) struct Known {
    pub(crate) inode: Arc<Inode>,
    lookups: u64,
    /// Whether the node was severed since: then the id is only good for what has it already.
    pub(crate) ended: bool,
    /// Whether attributes were told that the kernel may still have.
    attr_told: bool,
}

impl Nodes {
    pub(crate) fn new(root: Inode) -> Self {
        let root = Known { inode: Arc::new(root), lookups: 1, ended: false, attr_told: false };
        Self {
            table: Mutex::new(Table {
                by_id: HashMap::from([(ROOT_ID, root)]),
                by_ino: HashMap::from([(ROOT_INO, ROOT_ID)]),
                last_id: ROOT_ID,
                unused: Vec::new(),
                names_told: false,
            }),
        }
    }

    /// Returns the node of an id.
    pub(crate) fn find(&self, id: u64) -> Option<Known> {
        self.lock().by_id.get(&id).cloned()
    }

    /// Returns the node of an id whose attributes are about to be told, and whether they may be
    /// kept.
    ///
    /// Noted before they are read, so that whoever changes them afterwards knows that the kernel
    /// has to be told. Of an id that has ended, nobody will tell it.
    pub(crate) fn find_to_tell(&self, id: u64) -> Option<(Arc<Inode>, bool)> {
        let mut table = self.lock();
        let known = table.by_id.get_mut(&id)?;
        known.attr_told = true;
        Some((Arc::clone(&known.inode), !known.ended))
    }

    /// Notes that names are about to be told, before they are looked up: whoever changes them
    /// afterwards knows that the kernel has to be told.
    pub(crate) fn about_to_tell_names(&self) {
        self.lock().names_told = true;
    }

    /// Counts a lookup of a node whose name and attributes are about to be told; returns its id.
    pub(crate) fn look_up(&self, inode: &Inode) -> u64 {
        let mut table = self.lock();
        let id = match table.by_ino.get(&inode.ino()) {
            Some(&id) => id,
            None => {
                table.last_id += 1;
                let id = table.last_id;
                table.by_ino.insert(inode.ino(), id);
                id
            }
        };
        let known = table.by_id.entry(id).or_insert_with(|| Known {
            inode: Arc::new(inode.clone()),
            lookups: 0,
            ended: false,
            attr_told: false,
        });
        known.lookups += 1;
        known.attr_told = true;
        id
    }

    /// Takes lookups back; at 0 the kernel has forgotten the id.
    pub(crate) fn forget(&self, id: u64, lookups: u64) {
        let mut table = self.lock();
        let Some(known) = table.by_id.get_mut(&id) else { return };
        known.lookups = known.lookups.saturating_sub(lookups);
        if known.lookups > 0 || id == ROOT_ID {
            return;
        }
        let gone = table.by_id.remove(&id);
        if let Some(gone) = &gone
            && !gone.ended
        {
            table.by_ino.remove(&gone.inode.ino());
        }
        drop(table);
        drop(gone);
    }

    /// Ends the ids of nodes that are severed; returns those that the kernel knows.
    pub(crate) fn end(&self, inos: impl Iterator<Item = u64>) -> Vec<u64> {
        let mut table = self.lock();
        let mut ended = Vec::new();
        for ino in inos {
            if ino == ROOT_INO {
                continue;
            }
            if let Some(id) = table.by_ino.remove(&ino) {
                ended.push(id);
                if let Some(known) = table.by_id.get_mut(&id) {
                    known.ended = true;
                }
            }
        }
        ended
    }

    /// Returns the id of a node whose attributes the kernel may have, once.
    pub(crate) fn take_attr_told(&self, ino: u64) -> Option<u64> {
        let mut table = self.lock();
        let id = *table.by_ino.get(&ino)?;
        let known = table.by_id.get_mut(&id)?;
        std::mem::take(&mut known.attr_told).then_some(id)
    }

    /// Tells whether the kernel knows an id, or is about to, that has not ended.
    pub(crate) fn knows(&self, id: u64) -> bool {
        self.lock().by_id.get(&id).is_some_and(|known| !known.ended)
    }

    /// Notes that an open file of a severed node was closed: the kernel can soon forget the node.
    pub(crate) fn closed(&self, id: u64) {
        let mut table = self.lock();
        if table.unused.len() < UNUSED_MAX {
            table.unused.push(id);
        }
    }

    /// Takes the ids that were closed.
    pub(crate) fn take_unused(&self) -> Vec<u64> {
        std::mem::take(&mut self.lock().unused)
    }

    /// Tells whether the kernel may have names, once.
    pub(crate) fn take_names_told(&self) -> bool {
        std::mem::take(&mut self.lock().names_told)
    }

    /// Returns how many nodes the kernel knows besides the root, and by how many lookups.
    pub(crate) fn count(&self) -> (usize, u64) {
        let table = self.lock();
        let others = table.by_id.iter().filter(|(id, _)| **id != ROOT_ID);
        others.fold((0, 0), |(nodes, lookups), (_, known)| (nodes + 1, lookups + known.lookups))
    }

    /// Forgets everything: the kernel has gone.
    pub(crate) fn clear(&self) {
        let mut table = self.lock();
        let gone = std::mem::take(&mut table.by_id);
        table.by_ino.clear();
        drop(table);
        drop(gone);
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
