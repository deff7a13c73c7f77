//! The hierarchy as a whole: made with its settings, and what clients may do to it.

use std::fmt;
use std::sync::{Arc, Weak};

use kernfs::{
    Child, Clock, Dir, DirOp, DirOps, Draining, Errno, Name, SystemClock, Timestamp, Tree,
};
use kernfs_psi::Engine;

use crate::controllers::Controllers;
use crate::core::{Core, Maker, Processes, ROOT_MODE, Removed};
use crate::group::{Group, Observer};

/// A hierarchy of groups, shaped like cgroup v2; dropping it severs all of it.
pub struct Hierarchy {
    tree: Arc<Tree>,
    core: Arc<Core>,
}

impl Hierarchy {
    /// Makes a hierarchy with the clock of the system and all controllers, which tracks processes.
    ///
    /// # Errors
    ///
    /// As for [`HierarchyBuilder::build`].
    pub fn new() -> Result<Self, Errno> {
        Self::builder().build()
    }

    /// Starts with the settings of [`Hierarchy::new`], to be changed.
    pub fn builder() -> HierarchyBuilder {
        HierarchyBuilder {
            clock: Arc::new(SystemClock),
            cpus: 1,
            controllers: Controllers::all(),
            processes: Processes::Track,
        }
    }

    /// Returns the tree, to be mounted or to be used in process.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Returns what accounts pressure. Triggers fire while somebody evaluates them:
    /// [`Engine::spawn`], for example.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.core.engine
    }

    /// Returns the root group.
    #[must_use]
    pub fn root(&self) -> Group {
        match self.group("") {
            Some(root) => root,
            None => unreachable!("the root is there as long as the hierarchy"),
        }
    }

    /// Returns the group at a path from the root.
    #[must_use]
    pub fn group(&self, path: impl AsRef<[u8]>) -> Option<Group> {
        let rules = self.core.rules();
        let node = rules.get(rules.find(path.as_ref())?)?;
        Some(Group::new(&self.core, &node.info))
    }

    /// Lets somebody follow which groups there are, until the hierarchy goes.
    ///
    /// # Errors
    ///
    /// EDEADLK: see [`Observer`].
    pub fn observe(&self, observer: Arc<dyn Observer>) -> Result<(), Errno> {
        self.core.observe(observer)
    }
}

impl Drop for Hierarchy {
    fn drop(&mut self) {
        self.core.end();
    }
}

impl fmt::Debug for Hierarchy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hierarchy").field("tree", &self.tree).finish_non_exhaustive()
    }
}

/// The settings of a hierarchy.
#[must_use = "a builder makes nothing until `build`"]
pub struct HierarchyBuilder {
    clock: Arc<dyn Clock>,
    cpus: usize,
    controllers: Controllers,
    processes: Processes,
}

impl HierarchyBuilder {
    /// Sets where the time comes from, for pressure, frozen times, and the times of files.
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Sets the number of cpus whose stalls are accounted apart; see
    /// [`EngineBuilder::cpus`](kernfs_psi::EngineBuilder::cpus).
    pub fn cpus(mut self, cpus: usize) -> Self {
        self.cpus = cpus;
        self
    }

    /// Sets which controllers the root has.
    pub fn controllers(mut self, offered: Controllers) -> Self {
        self.controllers = offered;
        self
    }

    /// Sets whether freezing and killing reach real processes.
    pub fn processes(mut self, processes: Processes) -> Self {
        self.processes = processes;
        self
    }

    /// Makes the hierarchy.
    ///
    /// # Errors
    ///
    /// EMFILE, ENFILE, ENOMEM: there are no descriptors for an epoll.
    pub fn build(self) -> Result<Hierarchy, Errno> {
        let engine = Engine::builder().clock(Shared(Arc::clone(&self.clock))).cpus(self.cpus);
        let clock = Arc::clone(&self.clock);
        let core = Core::new(engine.build(), clock, self.processes, self.controllers);
        let core = core.map_err(|error| {
            error.raw_os_error().and_then(Errno::from_raw).unwrap_or(Errno::EIO)
        })?;
        let core = Arc::new(core);
        let tree = Tree::builder().root_mode(ROOT_MODE).clock(Shared(self.clock));
        let tree = Arc::new(tree.dir_ops(Clients(Arc::downgrade(&core))).build());
        core.begin(&tree)?;
        Ok(Hierarchy { tree, core })
    }
}

impl fmt::Debug for HierarchyBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HierarchyBuilder")
            .field("cpus", &self.cpus)
            .field("controllers", &self.controllers)
            .field("processes", &self.processes)
            .finish_non_exhaustive()
    }
}

/// A clock that tree and engine have in common.
struct Shared(Arc<dyn Clock>);

impl Clock for Shared {
    fn now(&self) -> Timestamp {
        self.0.now()
    }

    fn monotonic(&self) -> std::time::Duration {
        self.0.monotonic()
    }
}

/// What clients may do to directories: make groups and remove them.
struct Clients(Weak<Core>);

impl DirOps for Clients {
    fn mkdir(&self, parent: &Dir, name: &Name, op: &DirOp<'_>) -> Result<(), Errno> {
        let core = self.0.upgrade().ok_or(Errno::ENODEV)?;
        let maker = Maker { mode: op.mode(), uid: op.caller().uid, gid: op.caller().gid };
        core.make(parent.ino(), name, maker).map(drop)
    }

    fn rmdir(&self, dir: &Child, _: &DirOp<'_>) -> Result<Draining, Errno> {
        let core = self.0.upgrade().ok_or(Errno::ENODEV)?;
        match core.remove(dir.ino(), Removed::Empty) {
            // Somebody else was faster; this one waits for the same drain (`cgroup_rmdir`).
            Err(Errno::ENODEV) => Ok(dir.sever()),
            result => result,
        }
    }
}
