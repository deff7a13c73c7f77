//! Which node ids the kernel knows, and what it may have cached of them.
//!
//! A node id is the inode number with the count of the node's severings before it. So a severing
//! ends the id, and the id of a node that the kernel has forgotten can be told from a file handle.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kernfs::{Inode, ROOT_INO};

use crate::pages::Pages;

/// The node id of the root, given by the protocol, which is its inode number too.
pub(crate) const ROOT_ID: u64 = ROOT_INO;

/// How many bits of a node id are the inode number: enough for 2,000 years at 4,000 nodes a second.
const INO_BITS: u32 = 48;

/// What is noted for the next severing, if there is none for long.
const UNUSED_MAX: usize = 10_000;

/// Returns the inode number in a node id.
pub(crate) fn ino_of(id: u64) -> u64 {
    id & ((1 << INO_BITS) - 1)
}

/// Returns an id that belongs to no node, one of 65,535.
pub(crate) fn id_of_none(count: u64) -> u64 {
    (count % u64::from(u16::MAX) + 1) << INO_BITS
}

/// Nodes that the kernel has looked up and not forgotten.
pub(crate) struct Nodes {
    table: Mutex<Table>,
}

struct Table {
    by_id: HashMap<u64, Known>,
    /// Live nodes that were ever hidden.
    hidden: HashMap<u64, Hidden>,
    /// Live nodes whose names were told, by a lookup, in a listing or to watchers.
    shown: HashSet<u64>,
    /// Ids that have ended and were closed since the last time that these were taken.
    unused: Vec<u64>,
    /// The names that were told, of which the kernel drops all at once.
    names: Told,
    /// Counts what is told.
    time: u64,
}

/// When something was told to the kernel last, and up to when it has dropped it since.
///
/// What is being dropped counts as told until the kernel has done so: who changes something
/// meanwhile has to wait as well, and for a drop that begins after the change.
///
/// Times are those of the whole table: a drop may be done when its id was forgotten and is told
/// anew.
#[derive(Clone, Copy, Default)]
struct Told {
    last: u64,
    dropped: u64,
}

impl Told {
    fn tell(&mut self, time: &mut u64) {
        *time += 1;
        self.last = *time;
    }

    /// Returns up to when something is to be dropped, if there is anything.
    fn to_drop(self) -> Option<u64> {
        (self.last > self.dropped).then_some(self.last)
    }

    fn dropped(&mut self, up_to: u64) {
        self.dropped = self.dropped.max(up_to);
    }
}

/// A node that was hidden at least once.
#[derive(Default)]
struct Hidden {
    /// How often, as far as 16 bits count.
    severings: u16,
    is_hidden: bool,
}

/// What is known of a node id.
#[derive(Clone)]
pub(crate) struct Known {
    pub(crate) inode: Arc<Inode>,
    pub(crate) pages: Arc<Pages>,
    lookups: u64,
    /// The attributes that were told.
    attr: Told,
}

/// What a severing has ended.
pub(crate) struct Ended {
    /// The ids that the kernel knows, children before their parents.
    pub(crate) ids: Vec<EndedId>,
    /// Whether the topmost node could be seen, and was told to somebody.
    pub(crate) top_was_shown: bool,
}

/// A node id that has ended.
pub(crate) struct EndedId {
    pub(crate) id: u64,
    pub(crate) pages: Arc<Pages>,
}

impl Known {
    fn new(id: u64, inode: Inode) -> Self {
        Self {
            inode: Arc::new(inode),
            pages: Arc::new(Pages::new(id)),
            lookups: 0,
            attr: Told::default(),
        }
    }
}

impl Nodes {
    pub(crate) fn new(root: Inode) -> Self {
        let root = Known { lookups: 1, ..Known::new(ROOT_ID, root) };
        Self {
            table: Mutex::new(Table {
                by_id: HashMap::from([(ROOT_ID, root)]),
                hidden: HashMap::new(),
                shown: HashSet::new(),
                unused: Vec::new(),
                names: Told::default(),
                time: 0,
            }),
        }
    }

    /// Returns what is known of an id.
    pub(crate) fn find(&self, id: u64) -> Option<Known> {
        self.lock().by_id.get(&id).cloned()
    }

    /// Returns the id that a node has now.
    pub(crate) fn id_of(&self, ino: u64) -> u64 {
        self.lock().id_of(ino)
    }

    /// Returns the node of an id whose attributes are about to be told, and whether they may be
    /// kept.
    ///
    /// Noted before they are read, so that whoever changes them afterwards knows that the kernel
    /// has to be told. Of an id that has ended, nobody will tell it.
    pub(crate) fn find_to_tell(&self, id: u64) -> Option<(Arc<Inode>, bool)> {
        let mut table = self.lock();
        let Table { by_id, time, .. } = &mut *table;
        let known = by_id.get_mut(&id)?;
        known.attr.tell(time);
        Some((Arc::clone(&known.inode), !known.pages.have_ended()))
    }

    /// Notes that names are about to be told, before they are looked up: whoever changes them
    /// afterwards knows that the kernel has to be told.
    pub(crate) fn about_to_tell_names(&self) {
        let mut table = self.lock();
        let Table { names, time, .. } = &mut *table;
        names.tell(time);
    }

    /// Notes that the names of nodes are told.
    pub(crate) fn show(&self, inos: impl Iterator<Item = u64>) {
        self.lock().shown.extend(inos);
    }

    /// Counts a lookup of a node whose name and attributes are about to be told; returns its id,
    /// and whether the attributes may be kept.
    pub(crate) fn look_up(&self, inode: &Inode) -> (u64, bool) {
        let mut table = self.lock();
        let id = table.id_of(inode.ino());
        table.shown.insert(inode.ino());
        let Table { by_id, time, .. } = &mut *table;
        let known = by_id.entry(id).or_insert_with(|| {
            let known = Known::new(id, inode.clone());
            // Looked up in time, but severed since: nobody will tell of its end again.
            if inode.is_removed() {
                known.pages.end();
            }
            known
        });
        known.lookups += 1;
        known.attr.tell(time);
        (id, !known.pages.have_ended())
    }

    /// Counts one more lookup of an id that the kernel still knows; returns its node.
    pub(crate) fn look_up_again(&self, id: u64) -> Option<Arc<Inode>> {
        let mut table = self.lock();
        let known = table.by_id.get_mut(&id)?;
        known.lookups += 1;
        Some(Arc::clone(&known.inode))
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
        drop(table);
        drop(gone);
    }

    /// Ends the ids of nodes that are hidden, or removed, the topmost last.
    pub(crate) fn end(&self, inos: impl Iterator<Item = u64>, removed: bool) -> Ended {
        let mut table = self.lock();
        let mut ended = Ended { ids: Vec::new(), top_was_shown: false };
        for ino in inos.filter(|&ino| ino != ROOT_INO) {
            let id = table.id_of(ino);
            if let Some(known) = table.by_id.get(&id) {
                known.pages.end();
                ended.ids.push(EndedId { id, pages: Arc::clone(&known.pages) });
            }
            if removed {
                let was_hidden = table.hidden.remove(&ino).is_some_and(|hidden| hidden.is_hidden);
                ended.top_was_shown = table.shown.remove(&ino) && !was_hidden;
            } else {
                table.hide(ino);
            }
        }
        ended
    }

    /// Notes that a hidden node is shown.
    pub(crate) fn shown_again(&self, ino: u64) {
        if let Some(hidden) = self.lock().hidden.get_mut(&ino) {
            hidden.is_hidden = false;
        }
    }

    /// Returns the id of a node whose attributes the kernel may have, and up to when they are to
    /// be dropped.
    pub(crate) fn attr_to_drop(&self, ino: u64) -> Option<(u64, u64)> {
        let table = self.lock();
        let id = table.id_of(ino);
        Some((id, table.by_id.get(&id)?.attr.to_drop()?))
    }

    /// Notes that the kernel has dropped the attributes of an id.
    pub(crate) fn attr_dropped(&self, id: u64, up_to: u64) {
        if let Some(known) = self.lock().by_id.get_mut(&id) {
            known.attr.dropped(up_to);
        }
    }

    /// Tells whether the kernel knows an id, or is about to, that has not ended.
    pub(crate) fn knows(&self, id: u64) -> bool {
        self.lock().by_id.get(&id).is_some_and(|known| !known.pages.have_ended())
    }

    /// Returns what is known of a node, if the kernel knows it by the id that it has now.
    pub(crate) fn find_live(&self, ino: u64) -> Option<Known> {
        let table = self.lock();
        let known = table.by_id.get(&table.id_of(ino))?;
        (!known.pages.have_ended()).then(|| known.clone())
    }

    /// Tells whether the name of a live node was ever told.
    pub(crate) fn has_shown(&self, ino: u64) -> bool {
        self.lock().shown.contains(&ino)
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

    /// Tells whether the kernel may have names, and up to when they are to be dropped.
    pub(crate) fn names_to_drop(&self) -> Option<u64> {
        self.lock().names.to_drop()
    }

    /// Notes that the kernel has dropped all names.
    pub(crate) fn names_dropped(&self, up_to: u64) {
        self.lock().names.dropped(up_to);
    }

    /// Returns how many nodes the kernel knows besides the root, and by how many lookups.
    pub(crate) fn count(&self) -> (usize, u64) {
        let table = self.lock();
        let others = table.by_id.iter().filter(|(id, _)| **id != ROOT_ID);
        others.fold((0, 0), |(nodes, lookups), (_, known)| (nodes + 1, lookups + known.lookups))
    }

    /// Forgets everything: the kernel has gone.
    pub(crate) fn clear(&self) {
        let gone = std::mem::take(&mut self.lock().by_id);
        drop(gone);
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn id_of(&self, ino: u64) -> u64 {
        let severings = self.hidden.get(&ino).map_or(0, |hidden| hidden.severings);
        u64::from(severings) << INO_BITS | ino
    }

    /// Gives a node its next id, which the kernel must not know from before the count began anew.
    ///
    /// A node of which it knows all 65,536 is left with one that has ended: what has ended is
    /// served, but never cached.
    fn hide(&mut self, ino: u64) {
        self.hidden.entry(ino).or_default().is_hidden = true;
        for _ in 0..=u16::MAX {
            let hidden = self.hidden.entry(ino).or_default();
            hidden.severings = hidden.severings.wrapping_add(1);
            if !self.by_id.contains_key(&self.id_of(ino)) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernfs::{Caller, Mode, Tree, show};

    /// A tree with one file that the kernel has looked up.
    fn known() -> (Tree, Inode, Nodes) {
        let tree = Tree::new();
        tree.root().add_file("file", Mode::RO, show(|_| ())).unwrap().keep();
        let client = tree.client(Caller::OWNER);
        let (file, nodes) = (client.lookup("/file").unwrap(), Nodes::new(client.root()));
        (tree, file, nodes)
    }

    #[test]
    fn each_severing_ends_an_id_and_tells_the_number_all_the_same() {
        let (_tree, file, nodes) = known();
        let mut ids = HashSet::new();
        for _ in 0..1000 {
            let (id, kept) = nodes.look_up(&file);
            assert!(kept && ids.insert(id));
            assert_eq!(ino_of(id), file.ino());
            assert!(nodes.knows(id));
            let ended = nodes.end(std::iter::once(file.ino()), false);
            assert_eq!(ended.ids[0].id, id);
            assert!(!nodes.knows(id) && nodes.find(id).is_some());
            nodes.shown_again(file.ino());
        }
        assert_eq!(nodes.count(), (1000, 1000));
    }

    #[test]
    fn an_id_that_the_kernel_still_knows_is_not_given_again() {
        let (_tree, file, nodes) = known();
        let (first, _) = nodes.look_up(&file);
        for _ in 0..=u16::MAX {
            nodes.end(std::iter::once(file.ino()), false);
        }
        let (id, kept) = nodes.look_up(&file);
        assert!(id != first && kept);
        assert!(nodes.find(first).unwrap().pages.have_ended());
    }

    #[test]
    fn where_all_ids_are_known_the_last_is_not_cached() {
        let (_tree, file, nodes) = known();
        for _ in 0..=u16::MAX {
            assert!(nodes.look_up(&file).1);
            nodes.end(std::iter::once(file.ino()), false);
        }
        let (id, kept) = nodes.look_up(&file);
        assert!(!kept && !nodes.knows(id));
    }

    #[test]
    fn an_id_is_known_until_all_its_lookups_are_taken_back() {
        let (_tree, file, nodes) = known();
        let (id, _) = nodes.look_up(&file);
        assert_eq!(nodes.look_up_again(id).unwrap().ino(), file.ino());
        nodes.look_up(&file);
        assert_eq!(nodes.count(), (1, 3));
        nodes.forget(id, 2);
        assert_eq!(nodes.count(), (1, 1));
        nodes.forget(id, 1);
        assert!(nodes.count() == (0, 0) && nodes.look_up_again(id).is_none());
        nodes.forget(ROOT_ID, 9);
        assert!(nodes.find(ROOT_ID).is_some(), "the root is known as long as there is a mount");
    }

    #[test]
    fn what_the_kernel_has_dropped_is_not_dropped_again() {
        let (_tree, file, nodes) = known();
        assert_eq!(nodes.attr_to_drop(file.ino()), None, "never looked up");
        let (id, _) = nodes.look_up(&file);
        let (of, up_to) = nodes.attr_to_drop(file.ino()).unwrap();
        assert_eq!(of, id);
        // Told anew while the kernel drops what it had.
        nodes.find_to_tell(id).unwrap();
        nodes.attr_dropped(id, up_to);
        let (_, later) = nodes.attr_to_drop(file.ino()).unwrap();
        assert!(later > up_to);
        nodes.attr_dropped(id, later);
        // News of an earlier drop comes late, and changes nothing.
        nodes.attr_dropped(id, up_to);
        assert_eq!(nodes.attr_to_drop(file.ino()), None);

        assert_eq!(nodes.names_to_drop(), None, "none was told");
        nodes.about_to_tell_names();
        let up_to = nodes.names_to_drop().unwrap();
        nodes.about_to_tell_names();
        nodes.names_dropped(up_to);
        let later = nodes.names_to_drop().unwrap();
        assert!(later > up_to);
        nodes.names_dropped(later);
        assert_eq!(nodes.names_to_drop(), None);
        // Pages nobody has asked for.
        assert!(!nodes.find(id).unwrap().pages.take_any());
    }

    #[test]
    fn an_id_of_none_has_no_number() {
        let ids: Vec<_> = (0..100_000).map(id_of_none).collect();
        assert!(ids.iter().all(|&id| id != 0 && ino_of(id) == 0));
        assert_ne!(ids[0], ids[1]);
    }
}
