//! The tree as a whole: settings, limits, and every change of its structure.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use hashbrown::HashMap;

use crate::changes::{Change, Changes, FrontEnd, FrontEndGuard, Fronts};
use crate::client::Client;
use crate::dir::{Dir, DirOps};
use crate::drain::Draining;
#[cfg(any(feature = "std", loom, shuttle))]
use crate::drain::NotDrained;
use crate::errno::Errno;
use crate::meta::{Caller, Clock, Meta, Mode, SetAttr, Tag};
use crate::name::Name;
use crate::node::{DirNode, HIDDEN, Inner, Node, REMOVED};
use crate::realm::{Limits, Manners, Realm};
use crate::sever::Owner;
use crate::sync::Mutex;
use crate::sync::atomic::AtomicU64;
use crate::sync::atomic::Ordering::Relaxed;

/// A tree of nodes and the root of everything in it; dropping it severs all of it.
pub struct Tree {
    root: Dir,
}

impl Tree {
    /// Makes an empty tree with cgroup manners and the clock of the system.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Starts with the settings of [`Tree::new`], to be changed.
    pub fn builder() -> TreeBuilder {
        TreeBuilder {
            manners: Manners::Cgroup,
            limits: Limits::DEFAULT,
            user_xattrs: true,
            root_mode: Mode::DIR,
            clock: default_clock(),
            dir_ops: None,
        }
    }

    /// Returns the root directory.
    #[must_use]
    pub fn root(&self) -> &Dir {
        &self.root
    }

    /// Makes a directory that is in the tree once it is [attached](Dir::attach).
    ///
    /// What is added to it meanwhile becomes visible at once then, so that no client ever sees half
    /// a device (`KERNFS_ROOT_CREATE_DEACTIVATED`).
    #[must_use]
    pub fn detached_dir(&self, mode: Mode) -> Dir {
        let shared = self.shared();
        let dir = Inner::Dir(DirNode::new(false));
        let node = shared.new_node(Name::none(), None, shared.realm.meta(mode, 0, 0), dir);
        shared.publish_id(&node);
        Dir::from_owner(Owner::new(shared, node))
    }

    /// Returns a client of the tree: a view of it with the powers of a caller.
    #[must_use]
    pub fn client(&self, caller: Caller) -> Client {
        Client::new(Arc::clone(self.shared()), caller, None)
    }

    /// Returns a client that sees the children of tagged directories which carry `tag`.
    #[must_use]
    pub fn client_in(&self, caller: Caller, tag: Tag) -> Client {
        Client::new(Arc::clone(self.shared()), caller, Some(tag))
    }

    /// Registers a front end, which takes part in every severing until the guard is dropped.
    pub fn register(&self, front_end: Arc<dyn FrontEnd>) -> FrontEndGuard {
        self.shared().fronts.register(front_end)
    }

    /// Returns a stream of what happens to nodes, holding at most `capacity` changes.
    #[must_use]
    pub fn changes(&self, capacity: usize) -> Changes {
        self.shared().fronts.stream(capacity)
    }

    /// Returns how many nodes are in the tree and how many files are open.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            nodes: self.shared().ids.lock().len(),
            open_files: self.shared().realm.open_files(),
        }
    }

    /// Severs everything without waiting.
    pub fn sever(self) -> Draining {
        self.root.sever()
    }

    /// Severs everything and waits until it is at rest.
    ///
    /// # Errors
    ///
    /// EDEADLK inside an operation of this tree; the removal goes on.
    #[cfg(any(feature = "std", loom, shuttle))]
    pub fn remove(self) -> Result<(), NotDrained<()>> {
        self.sever().wait()
    }

    fn shared(&self) -> &Arc<Shared> {
        self.root.owner().tree()
    }
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

impl core::fmt::Debug for Tree {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Tree").field("usage", &self.usage()).finish_non_exhaustive()
    }
}

/// How much of a tree is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Nodes that were made and not removed, the root and detached ones included.
    pub nodes: usize,
    /// Open files whose last descriptor is not closed, severed or not.
    pub open_files: usize,
}

/// The settings of a tree.
#[must_use = "a builder makes nothing until `build`"]
pub struct TreeBuilder {
    manners: Manners,
    limits: Limits,
    user_xattrs: bool,
    root_mode: Mode,
    clock: Arc<dyn Clock>,
    dir_ops: Option<Arc<dyn DirOps>>,
}

impl TreeBuilder {
    /// Sets whose manners are followed where sysfs and cgroupfs differ.
    pub fn manners(mut self, manners: Manners) -> Self {
        self.manners = manners;
        self
    }

    /// Sets the limits.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets whether `user.*` extended attributes are allowed (`KERNFS_ROOT_SUPPORT_USER_XATTR`).
    pub fn user_xattrs(mut self, allowed: bool) -> Self {
        self.user_xattrs = allowed;
        self
    }

    /// Sets the mode of the root directory, 0755 otherwise.
    pub fn root_mode(mut self, mode: Mode) -> Self {
        self.root_mode = mode;
        self
    }

    /// Sets where the time comes from.
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Sets what lets clients change the structure; without it they get EPERM.
    pub fn dir_ops(mut self, dir_ops: impl DirOps + 'static) -> Self {
        self.dir_ops = Some(Arc::new(dir_ops));
        self
    }

    /// Makes the tree.
    #[must_use]
    pub fn build(self) -> Tree {
        let realm = Realm::new(self.manners, self.limits, self.user_xattrs, self.clock);
        let meta = realm.meta(self.root_mode, 0, 0);
        let root = Node::new(ROOT_INO, Name::none(), None, meta, Inner::Dir(DirNode::new(false)));
        let root = Arc::new(root);
        let shared = Arc::new(Shared {
            realm: Arc::new(realm),
            root: Arc::clone(&root),
            structure: Mutex::new(()),
            ids: Mutex::new(HashMap::from_iter([(ROOT_INO, Arc::downgrade(&root))])),
            last_ino: AtomicU64::new(ROOT_INO),
            fronts: Arc::new(Fronts::new()),
            dir_ops: Mutex::new(self.dir_ops),
        });
        Tree { root: Dir::from_owner(Owner::new(&shared, root)) }
    }
}

impl core::fmt::Debug for TreeBuilder {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("TreeBuilder")
            .field("manners", &self.manners)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

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
    dir_ops: Mutex<Option<Arc<dyn DirOps>>>,
}

impl Shared {
    pub(crate) fn dir_ops(&self) -> Option<Arc<dyn DirOps>> {
        self.dir_ops.lock().clone()
    }

    pub(crate) fn take_dir_ops(&self) -> Option<Arc<dyn DirOps>> {
        self.dir_ops.lock().take()
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

    /// Puts a new node into a directory (`kernfs_add_one`).
    ///
    /// # Errors
    ///
    /// EEXIST: the name is taken, by a hidden file too. ENOENT: the directory was removed.
    /// EINVAL: a tag where the directory has none, or the other way round. ENAMETOOLONG: too deep.
    pub(crate) fn add(&self, parent: &Arc<Node>, node: &Arc<Node>) -> Result<(), Errno> {
        self.locked(|| {
            self.check_depth(parent, 0)?;
            self.enter(parent, node)?;
            self.publish_id(node);
            Ok::<(), Errno>(())
        })?;
        self.fronts.tell(|| Change::added(parent, node));
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
        self.locked(|| {
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
            self.enter(parent, node).inspect_err(|_| node.place.lock().name = before)
        })?;
        self.fronts.tell(|| Change::added(parent, node));
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
            Ok(Some(Change::renamed(node, &from, old_name, to, name)))
        })?;
        if let Some(change) = change {
            self.fronts.tell(|| change);
        }
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
        self.fronts.tell(|| Change::Attributes { ino: node.ino() });
        Ok(())
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

#[cfg(feature = "std")]
fn default_clock() -> Arc<dyn Clock> {
    Arc::new(crate::meta::SystemClock)
}

#[cfg(not(feature = "std"))]
fn default_clock() -> Arc<dyn Clock> {
    Arc::new(crate::meta::StoppedClock)
}
