//! What all handles of a tree share, and every change of its structure but removals.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use hashbrown::HashMap;

use crate::changes::{Change, Fronts};
use crate::drain::{Draining, Kept};
use crate::errno::Errno;
use crate::meta::{Caller, Meta, Mode, SetAttr, Tag};
use crate::name::{Name, absolute};
use crate::node::{DirNode, HIDDEN, Inner, Node, REMOVED};
use crate::ops::{Announce, Notifier};
use crate::realm::Realm;
use crate::sync::Mutex;
use crate::sync::atomic::AtomicU64;
use crate::sync::atomic::Ordering::Relaxed;

/// The inode number of the root directory, as in every kernfs.
pub const ROOT_INO: u64 = 1;

/// What all handles of a tree share.
pub(crate) struct Shared {
    pub(crate) realm: Arc<Realm>,
    pub(crate) root: Arc<Node>,
    /// The tree lock: held for each change of structure, and around at most one lock of a node;
    /// only a rename between directories locks two lists of children, which nobody else does.
    structure: Mutex<()>,
    /// Nodes by inode number, removed ones excluded.
    ids: Mutex<HashMap<u64, Weak<Node>>>,
    last_ino: AtomicU64,
    pub(crate) fronts: Arc<Fronts>,
    /// `None` once the root was removed, whoever still refers to the tree.
    pub(crate) dir_ops: Mutex<Option<Arc<dyn AnyDirOps>>>,
}

/// What lets clients change the structure: a [`DirOps`](crate::DirOps), which knows this module.
pub(crate) trait AnyDirOps: Kept {
    fn mkdir(&self, by: By<'_>, dir: &Arc<Node>, name: &Name, mode: Mode) -> Result<(), Errno>;
    fn rmdir(&self, by: By<'_>, dir: &Arc<Node>) -> Result<Draining, Errno>;
    fn unlink(&self, by: By<'_>, node: &Arc<Node>) -> Result<Draining, Errno>;
    fn rename(
        &self,
        by: By<'_>,
        node: &Arc<Node>,
        to: &Arc<Node>,
        name: &Name,
    ) -> Result<(), Errno>;
}

/// Who asks for a change, and in which tree.
#[derive(Clone, Copy)]
pub(crate) struct By<'a> {
    pub(crate) tree: &'a Arc<Shared>,
    pub(crate) caller: &'a Caller,
}

impl Shared {
    /// Makes a tree that has only its root.
    pub(crate) fn new(
        realm: Realm,
        root_mode: Mode,
        dir_ops: Option<Arc<dyn AnyDirOps>>,
    ) -> Arc<Self> {
        let meta = realm.meta(root_mode, 0, 0);
        let dir = Inner::Dir(DirNode::new(false));
        let root = Arc::new(Node::new(ROOT_INO, Name::none(), None, meta, dir));
        let tree = Arc::new(Self {
            realm: Arc::new(realm),
            root: Arc::clone(&root),
            structure: Mutex::default(),
            ids: Mutex::default(),
            last_ino: AtomicU64::new(ROOT_INO),
            fronts: Arc::new(Fronts::new()),
            dir_ops: Mutex::new(dir_ops),
        });
        tree.publish_id(&root);
        tree
    }

    /// Runs `change` under the tree lock.
    pub(crate) fn locked<R>(&self, change: impl FnOnce() -> R) -> R {
        let _structure = self.structure.lock();
        change()
    }

    pub(crate) fn new_node(
        &self,
        name: Name,
        tag: Option<Tag>,
        meta: Meta,
        inner: Inner,
    ) -> Arc<Node> {
        // Relaxed: a counter. 64 bits do not wrap.
        let ino = self.last_ino.fetch_add(1, Relaxed) + 1;
        Arc::new(Node::new(ino, name, tag, meta, inner))
    }

    /// Lets a node be found by its inode number, once nothing can go wrong with it any more.
    pub(crate) fn publish_id(&self, node: &Arc<Node>) {
        self.ids.lock().insert(node.ino(), Arc::downgrade(node));
    }

    pub(crate) fn forget_ids(&self, nodes: &[Arc<Node>]) {
        let mut ids = self.ids.lock();
        for node in nodes {
            ids.remove(&node.ino());
        }
    }

    /// Returns how many nodes there are.
    pub(crate) fn nodes(&self) -> usize {
        self.ids.lock().len()
    }

    /// Finds a node by inode number (`kernfs_find_and_get_node_by_id`).
    ///
    /// # Errors
    ///
    /// ESTALE if it never was, is gone, hidden, or not attached.
    pub(crate) fn by_id(&self, ino: u64) -> Result<Arc<Node>, Errno> {
        let node = self.ids.lock().get(&ino).and_then(Weak::upgrade);
        let node = node.filter(|node| !node.has(REMOVED | HIDDEN));
        let attached = |node: &Arc<Node>| self.locked(|| self.is_attached(node));
        node.filter(attached).ok_or(Errno::ESTALE)
    }

    /// To be called under the tree lock.
    pub(crate) fn is_attached(&self, node: &Arc<Node>) -> bool {
        let mut top = Arc::clone(node);
        while let Some(parent) = top.parent() {
            top = parent;
        }
        Arc::ptr_eq(&top, &self.root)
    }

    /// Records a change below `place` if somebody listens and can see it; under the tree lock.
    ///
    /// What happens in a directory that is not attached is nobody's business yet.
    pub(crate) fn record(
        &self,
        place: &Arc<Node>,
        change: impl FnOnce() -> Change,
    ) -> Option<Change> {
        if !self.fronts.are_listening() || !self.is_attached(place) {
            return None;
        }
        let change = change();
        self.fronts.record(&change);
        Some(change)
    }

    /// Tells what was recorded.
    pub(crate) fn tell(&self, change: Option<Change>) {
        if let Some(change) = change {
            self.fronts.tell(&change);
        }
    }

    /// Puts a new node into a directory (`kernfs_add_one`).
    ///
    /// # Errors
    ///
    /// EEXIST: the name is taken, by a hidden file too. ENOENT: the directory was removed.
    /// EINVAL: a tag where the directory has none, or the other way round. ENAMETOOLONG: too deep.
    pub(crate) fn add(&self, parent: &Arc<Node>, node: &Arc<Node>) -> Result<(), Errno> {
        let change = self.locked(|| {
            self.check_depth(parent, 0)?;
            self.enter(parent, node)?;
            self.publish_id(node);
            Ok::<_, Errno>(self.record(parent, || Change::added(parent, node)))
        })?;
        self.tell(change);
        Ok(())
    }

    /// Attaches a detached directory, with all that is below it (`kernfs_activate`).
    ///
    /// # Errors
    ///
    /// As [`Shared::add`]; and EINVAL if it is attached already, or the parent is below it.
    pub(crate) fn attach(
        &self,
        parent: &Arc<Node>,
        name: Name,
        tag: Option<Tag>,
        node: &Arc<Node>,
    ) -> Result<(), Errno> {
        let change = self.locked(|| {
            if node.parent().is_some() || Arc::ptr_eq(node, &self.root) {
                return Err(Errno::EINVAL);
            }
            if node.has(REMOVED) {
                return Err(Errno::ENOENT);
            }
            refuse_cycle(parent, node)?;
            self.check_depth(parent, height(node))?;
            let before = {
                let mut place = node.place.lock();
                place.tag = tag;
                core::mem::replace(&mut place.name, name)
            };
            self.enter(parent, node).inspect_err(|_| node.place.lock().name = before)?;
            Ok(self.record(parent, || Change::added(parent, node)))
        })?;
        self.tell(change);
        Ok(())
    }

    /// Renames or moves a node (`kernfs_rename_ns`).
    ///
    /// # Errors
    ///
    /// EINVAL: the root, a detached directory, a move below itself, or a tag where there must be
    /// none, or the other way round. ENOENT: the node was removed or is hidden, or the directory
    /// was removed. EEXIST: the name is taken. ENAMETOOLONG: too deep.
    pub(crate) fn rename(
        &self,
        node: &Arc<Node>,
        to: &Arc<Node>,
        name: Name,
        tag: Option<Tag>,
    ) -> Result<(), Errno> {
        let change = self.locked(|| {
            if node.has(REMOVED | HIDDEN) || to.has(REMOVED) {
                return Err(Errno::ENOENT);
            }
            let Some(from) = node.parent() else {
                return Err(Errno::EINVAL);
            };
            let dir = to.dir()?;
            if dir.tagged != tag.is_some() {
                return Err(Errno::EINVAL);
            }
            let (old_name, old_tag, old_seq) = {
                let place = node.place.lock();
                (place.name.clone(), place.tag, place.seq)
            };
            let same_dir = Arc::ptr_eq(&from, to);
            if same_dir && old_name == name && old_tag == tag {
                return Ok(None);
            }
            if !same_dir {
                refuse_cycle(to, node)?;
                self.check_depth(to, height(node))?;
            }
            let now = self.realm.clock.now();
            let from_dir = from.dir()?;
            let seq = if same_dir {
                let mut children = dir.children.write();
                children.check(tag, &name)?;
                children.remove(old_tag, &old_name, node, now);
                children.insert(name.clone(), tag, node, Some(old_seq), now)
            } else {
                // Both at once, so that a lookup finds the node in one of the two.
                let mut children = dir.children.write();
                children.check(tag, &name)?;
                let mut old = from_dir.children.write();
                old.remove(old_tag, &old_name, node, now);
                children.insert(name.clone(), tag, node, None, now)
            };
            let mut place = node.place.lock();
            place.parent = Some(Arc::clone(to));
            place.name = name.clone();
            place.tag = tag;
            place.seq = seq;
            drop(place);
            // News if either directory is in sight.
            let seen = if self.is_attached(&from) { &from } else { to };
            Ok(self.record(seen, || Change::renamed(node, &from, old_name, to, name)))
        })?;
        self.tell(change);
        Ok(())
    }

    /// Changes attributes (`__kernfs_setattr`).
    ///
    /// # Errors
    ///
    /// EPERM: not by this caller.
    pub(crate) fn set_attr(
        &self,
        node: &Arc<Node>,
        caller: &Caller,
        set: &SetAttr,
    ) -> Result<(), Errno> {
        let now = self.realm.clock.now();
        node.meta.lock().set(caller, set, now)?;
        if let (Some(_), Inner::Dir(dir)) = (set.mtime, node.inner()) {
            // What was set holds until the next change of the children.
            dir.children.write().changed = None;
        }
        self.fronts.announce(|| Change::Attributes { ino: node.ino() });
        Ok(())
    }

    /// Returns the path of a node from the root; of what was removed, the last one.
    pub(crate) fn path(&self, node: &Arc<Node>) -> Vec<u8> {
        let (_, names) = self.locked(|| node.names());
        absolute(&names)
    }

    /// Announces that the value of a file changed; does nothing once it was removed.
    pub(crate) fn notify(&self, node: &Node) {
        node.notify();
        self.announce(node);
    }

    /// Makes a handle that announces changes of a file.
    pub(crate) fn notifier(self: &Arc<Self>, node: &Arc<Node>) -> Notifier {
        Notifier(Arc::new(OfNode { tree: Arc::clone(self), node: Arc::clone(node) }))
    }

    /// Tells front ends that a file changed; does nothing once it was removed.
    fn announce(&self, node: &Node) {
        if !node.has(REMOVED | HIDDEN) {
            self.fronts.announce(|| Change::Notified { ino: node.ino() });
        }
    }

    /// Links a node into a directory under its own name and tag; under the tree lock.
    fn enter(&self, parent: &Arc<Node>, node: &Arc<Node>) -> Result<(), Errno> {
        let dir = parent.dir()?;
        let (name, tag) = {
            let place = node.place.lock();
            (place.name.clone(), place.tag)
        };
        if dir.tagged != tag.is_some() {
            return Err(Errno::EINVAL);
        }
        let seq = {
            let mut children = dir.children.write();
            children.check(tag, &name)?;
            children.insert(name, tag, node, None, self.realm.clock.now())
        };
        let mut place = node.place.lock();
        place.parent = Some(Arc::clone(parent));
        place.seq = seq;
        Ok(())
    }

    /// Refuses what would be too deep below `parent`; under the tree lock.
    fn check_depth(&self, parent: &Arc<Node>, height: usize) -> Result<(), Errno> {
        let mut depth = height + 1;
        let mut above = parent.parent();
        while let Some(node) = above {
            depth += 1;
            above = node.parent();
        }
        if depth > self.realm.limits.depth {
            return Err(Errno::ENAMETOOLONG);
        }
        Ok(())
    }
}

/// A file, as its notifiers know it.
struct OfNode {
    tree: Arc<Shared>,
    node: Arc<Node>,
}

impl Announce for OfNode {
    fn notify(&self) {
        self.tree.notify(&self.node);
    }

    fn announce(&self) {
        self.tree.announce(&self.node);
    }

    fn node(&self) -> *const () {
        Arc::as_ptr(&self.node).cast()
    }
}

/// Refuses a directory at or below `node`; under the tree lock.
fn refuse_cycle(dir: &Arc<Node>, node: &Arc<Node>) -> Result<(), Errno> {
    let mut above = Some(Arc::clone(dir));
    while let Some(dir) = above {
        if Arc::ptr_eq(&dir, node) {
            return Err(Errno::EINVAL);
        }
        above = dir.parent();
    }
    Ok(())
}

/// Returns how many levels are below a node; under the tree lock.
fn height(node: &Arc<Node>) -> usize {
    let mut level = alloc::vec![Arc::clone(node)];
    let mut height = 0;
    loop {
        let dirs = level.iter().filter_map(|node| node.dir().ok());
        let below: Vec<_> = dirs.flat_map(|dir| dir.children.read().nodes()).collect();
        if below.is_empty() {
            return height;
        }
        height += 1;
        level = below;
    }
}
