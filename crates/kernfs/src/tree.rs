//! The tree as a whole: made with its settings, removed with all that is in it.

use alloc::sync::Arc;

use crate::changes::{Changes, FrontEnd, FrontEndGuard};
use crate::client::Client;
use crate::dir::{Dir, DirOps};
use crate::drain::Draining;
#[cfg(any(feature = "std", loom, shuttle))]
use crate::drain::NotDrained;
use crate::meta::{Caller, Clock, Mode, Tag};
use crate::owner::Owner;
use crate::realm::{Limits, Manners, Realm};
use crate::structure::{AnyDirOps, Shared};

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
        self.root.detached(mode)
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
        Usage { nodes: self.shared().nodes(), open_files: self.shared().realm.open_files() }
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
        self.root.owner.tree()
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
    dir_ops: Option<Arc<dyn AnyDirOps>>,
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
        let shared = Shared::new(realm, self.root_mode, self.dir_ops);
        let root = Arc::clone(&shared.root);
        Tree { root: Dir { owner: Owner::new(&shared, root) } }
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

#[cfg(feature = "std")]
fn default_clock() -> Arc<dyn Clock> {
    Arc::new(crate::meta::SystemClock)
}

#[cfg(not(feature = "std"))]
fn default_clock() -> Arc<dyn Clock> {
    Arc::new(crate::meta::StoppedClock)
}
