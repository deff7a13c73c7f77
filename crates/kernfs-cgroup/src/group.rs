//! The owner's handle on a group.

use std::fmt;
use std::sync::Arc;

use kernfs::{Caller, Draining, Errno, Mode};

use crate::controllers::{Controllers, Switches};
use crate::core::{Core, Maker, Removed};
use crate::memory::{MemoryEvent, Usage};
use crate::process::Process;
use crate::rules::{Info, News, Node};

/// A group of the hierarchy; clones are the same group.
///
/// Dropping it does nothing: the group is there until it is removed, by clients or by the owner.
/// After that the handle still knows its name and its pressure, and changes answer ENODEV.
#[derive(Clone)]
pub struct Group {
    core: Arc<Core>,
    info: Arc<Info>,
}

impl Group {
    pub(crate) fn new(core: &Arc<Core>, info: &Arc<Info>) -> Self {
        Self { core: Arc::clone(core), info: Arc::clone(info) }
    }

    /// Returns the name, which is empty for the root.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        &self.info.name
    }

    /// Returns the path from the root of the hierarchy, `/` for the root itself; of a group that
    /// was removed, the last one.
    #[must_use]
    pub fn path(&self) -> Vec<u8> {
        let above = self.info.and_above().filter(|info| info.parent.is_some());
        let mut names: Vec<&[u8]> = above.map(|info| &*info.name).collect();
        names.push(b"");
        names.reverse();
        if names.len() == 1 { b"/".to_vec() } else { names.join(&b'/') }
    }

    /// Returns the inode number of its directory, which is never reused.
    #[must_use]
    pub fn ino(&self) -> u64 {
        self.info.id
    }

    /// Returns the group above; none for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        self.info.parent.as_ref().map(|parent| Self::new(&self.core, parent))
    }

    /// Returns the groups right below, by name.
    #[must_use]
    pub fn children(&self) -> Vec<Self> {
        let rules = self.core.rules();
        let children = rules.get(self.info.id).map(|node| node.children.values());
        let nodes = children.into_iter().flatten().filter_map(|id| rules.get(*id));
        nodes.map(|node| Self::new(&self.core, &node.info)).collect()
    }

    /// Tells whether the group was removed.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.core.rules().get(self.info.id).is_none()
    }

    /// Makes a group below, as mkdir(2) by root does.
    ///
    /// # Errors
    ///
    /// EEXIST: the name is taken. EAGAIN: `cgroup.max.depth` or `cgroup.max.descendants` here or
    /// above forbids it. EINVAL, ENOENT, ENAMETOOLONG: the name is none. ENODEV: the group was
    /// removed. EDEADLK: see [`Observer`].
    pub fn make_child(&self, name: impl AsRef<[u8]>) -> Result<Self, Errno> {
        let maker = Maker { mode: Mode::DIR, uid: 0, gid: 0 };
        let child = self.core.make(self.info.id, name.as_ref(), maker)?;
        Ok(Self::new(&self.core, &child))
    }

    /// Removes the group, as rmdir(2) does; everyone who slept on its files is awake.
    ///
    /// # Errors
    ///
    /// EBUSY: it has members or groups below, or is the root. ENODEV: it was removed already.
    /// EDEADLK: see [`Observer`].
    pub fn remove(&self) -> Result<Draining, Errno> {
        self.core.remove(self.info.id, Removed::Empty)
    }

    /// Lets the group and all below it vanish, as by a racing rmdir(2), members or not.
    ///
    /// Members are members of the root then. Everyone who slept on any of the files is awake, and
    /// their descriptors are dead, when this returns; [wait](Draining::wait) for the `Draining` to
    /// be sure that no operation is inside any more and no mount shows the group.
    ///
    /// # Errors
    ///
    /// EBUSY: it is the root. ENODEV: it was removed already. EDEADLK: see [`Observer`].
    pub fn sever(&self) -> Result<Draining, Errno> {
        self.core.remove(self.info.id, Removed::Whole)
    }
}

/// Members.
impl Group {
    /// Returns the processes of the group, in the order in which they joined; of the root, all that
    /// are in no other group.
    #[must_use]
    pub fn members(&self) -> Vec<u32> {
        self.core.members(self.info.id).unwrap_or_default()
    }

    /// Puts a process into the group, as a write to `cgroup.procs` by root does.
    ///
    /// # Errors
    ///
    /// ESRCH: there is no such process. EINVAL: it is a thread of the kernel that must stay. EBUSY:
    /// the group passes controllers on to groups below. EOPNOTSUPP: `cgroup.type` is
    /// `domain invalid`. ENODEV: the group was removed. EDEADLK: see [`Observer`].
    pub fn add_member(&self, pid: u32) -> Result<(), Errno> {
        self.core.attach(self.info.id, || Process::find(pid), &Caller::OWNER)
    }

    /// Tells whether the group or one below it has members.
    #[must_use]
    pub fn is_populated(&self) -> bool {
        self.core.settle();
        self.core.rules().get(self.info.id).is_some_and(Node::is_populated)
    }

    /// Freezes or thaws the group and all below it, as a write to `cgroup.freeze` does.
    ///
    /// # Errors
    ///
    /// ENOENT: it was removed. EBUSY: it is the root. EDEADLK: see [`Observer`].
    pub fn set_frozen(&self, freeze: bool) -> Result<(), Errno> {
        if self.info.parent.is_none() {
            return Err(Errno::EBUSY);
        }
        self.core.freeze(self.info.id, freeze)
    }

    /// Tells whether the group or one above it is frozen.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.core.rules().is_frozen(self.info.id)
    }
}

/// Resources.
impl Group {
    /// Returns the pressure of the group, to report stalls to; what happens here counts for all
    /// groups above.
    #[must_use]
    pub fn pressure(&self) -> &kernfs_psi::Group {
        &self.info.pressure
    }

    /// Switches controllers on for the groups below, as a write to `cgroup.subtree_control` does.
    ///
    /// # Errors
    ///
    /// ENOENT: the group does not have one of them itself. EBUSY: it has members. EOPNOTSUPP: its
    /// `cgroup.type` forbids it. EEXIST: a group below has a child that is named like a file of the
    /// controller. ENODEV: it was removed. EDEADLK: see [`Observer`].
    pub fn enable(&self, controllers: Controllers) -> Result<(), Errno> {
        let switches = Switches { on: controllers, ..Switches::default() };
        self.core.switch_controllers(self.info.id, switches, &Caller::OWNER).map(drop)
    }

    /// Switches controllers off for the groups below; their files are severed.
    ///
    /// # Errors
    ///
    /// EBUSY: a group below passes one on. ENODEV: it was removed. EDEADLK: see [`Observer`].
    pub fn disable(&self, controllers: Controllers) -> Result<(), Errno> {
        let switches = Switches { off: controllers, ..Switches::default() };
        self.core.switch_controllers(self.info.id, switches, &Caller::OWNER).map(drop)
    }

    /// Returns the controllers that the group has (`cgroup.controllers`).
    #[must_use]
    pub fn controllers(&self) -> Controllers {
        self.core.rules().controllers(self.info.id)
    }

    /// Returns what the group and all below it use, in bytes.
    #[must_use]
    pub fn memory_current(&self) -> u64 {
        self.core.rules().memory_current(self.info.id)
    }

    /// Says what the group uses itself, in bytes, for which whole pages are counted.
    ///
    /// It shows in `memory.current`, here and above, where the memory controller is on.
    ///
    /// # Errors
    ///
    /// ENODEV: it was removed.
    pub fn set_memory_current(&self, bytes: u64) -> Result<(), Errno> {
        self.core.rules().set_memory_usage(self.info.id, Usage::of(bytes))
    }

    /// Returns how often something happened here and below (`memory.events`).
    #[must_use]
    pub fn memory_events(&self, event: MemoryEvent) -> u64 {
        let rules = self.core.rules();
        rules.get(self.info.id).map_or(0, |node| node.memory.events[event.index()])
    }

    /// Lets something happen so many times in the group: it is counted here and above, and who
    /// polls `memory.events` is woken.
    ///
    /// # Errors
    ///
    /// ENODEV: it was removed.
    pub fn add_memory_events(&self, event: MemoryEvent, count: u64) -> Result<(), Errno> {
        self.count_memory_event(event, |before| before.saturating_add(count))
    }

    /// Sets how often something has happened in the group itself; above, the count changes by as
    /// much.
    ///
    /// # Errors
    ///
    /// ENODEV: it was removed.
    pub fn set_memory_events(&self, event: MemoryEvent, count: u64) -> Result<(), Errno> {
        self.count_memory_event(event, |_| count)
    }

    fn count_memory_event(
        &self,
        event: MemoryEvent,
        change: impl FnOnce(u64) -> u64,
    ) -> Result<(), Errno> {
        let mut news = News::default();
        let id = self.info.id;
        self.core.rules().count_memory_event(id, event.index(), change, &mut news)?;
        news.tell();
        Ok(())
    }
}

impl PartialEq for Group {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.info, &other.info)
    }
}

impl Eq for Group {}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path();
        f.debug_tuple("Group").field(&format_args!("{}", path.escape_ascii())).finish()
    }
}

/// Follows which groups there are.
///
/// Called while the hierarchy is held for the change, so that calls come one at a time and in
/// order. Whoever changes groups, controllers or members from within a call gets EDEADLK; so does a
/// waker that is run by a removal and does so at once, instead of having somebody else do it.
pub trait Observer: Send + Sync {
    /// Is told of a group that was made, parents before their children, and of all that there are
    /// when the observer [begins](crate::Hierarchy::observe), the root included.
    fn made(&self, group: &Group);

    /// Is told of a group that was removed, children before their parents.
    fn removed(&self, group: &Group);
}
