//! What is hard to bring about for real, at the stroke of a pen: pressure, memory, vanishing groups.
//!
//! A [`ControlTree`] has a directory for each group of a hierarchy, which comes and goes with it. In
//! it are files that say what happens to the group:
//!
//! | file | written | read |
//! |---|---|---|
//! | `cpu.stall`, `memory.stall`, `io.stall` | `some 30%`, `full 12.5%`, both, or `0`: the share of the time for which the group stalls from now on | what is set |
//! | `memory.current` | bytes that the group itself uses, also as `64M` | what it and all below it use |
//! | `memory.events` | `oom_kill 3`, one or more lines: how often that has happened in the group itself | all counts, of what is below too |
//! | `sever` | 1: the group vanishes with all below, as by a racing rmdir, members or not; answered when nothing is inside any more | not to be read |
//!
//! The root has the stall files only: nothing else can happen to it.
//!
//! ```
//! use kernfs::{Caller, Errno, OpenFlags};
//! use kernfs_cgroup::Hierarchy;
//! use kernfs_cgroup::rehearsal::ControlTree;
//!
//! let hierarchy = Hierarchy::new()?;
//! let control = ControlTree::new(&hierarchy)?;
//! hierarchy.root().make_child("web")?;
//! let client = control.tree().client(Caller::OWNER);
//!
//! let stall = client.open("/web/memory.stall", OpenFlags::READ_WRITE)?;
//! stall.write(b"some 30%\n")?;
//! assert_eq!(stall.read_to_string()?, "some 30%\nfull 0%\n");
//!
//! client.open("/web/sever", OpenFlags::WRITE)?.write(b"1\n")?;
//! assert!(hierarchy.group("/web").is_none());
//! assert_eq!(stall.write(b"0\n"), Err(Errno::ENODEV));
//! # Ok::<(), Errno>(())
//! ```

mod files;

mod stall;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, Weak};

use kernfs::{Caller, Client, Dir, Errno, FileOptions, Mode, SetAttr, Tree};
use kernfs_psi::Resource;

use self::files::ControlFile;
pub use self::stall::StallShares;
use crate::group::{Group, Observer};
use crate::hierarchy::Hierarchy;
use crate::lock;

/// A tree in which the groups of a hierarchy are directories, with files that say what happens to
/// them.
///
/// It can be mounted, or used in process. Dropping it severs it; the hierarchy stays, and so does
/// what was set.
#[derive(Debug)]
pub struct ControlTree {
    tree: Arc<Tree>,
    followed: Arc<Followed>,
}

impl ControlTree {
    /// Makes the control tree of a hierarchy.
    ///
    /// Directories and files have the owner that the group's directory has when they are made.
    ///
    /// # Errors
    ///
    /// EDEADLK: see [`Observer`].
    pub fn new(hierarchy: &Hierarchy) -> Result<Self, Errno> {
        let tree = Arc::new(Tree::new());
        let groups = hierarchy.tree().client(Caller::OWNER);
        let dirs = Mutex::default();
        let followed = Arc::new(Followed { tree: Arc::downgrade(&tree), groups, dirs });
        hierarchy.observe(Arc::<Followed>::clone(&followed))?;
        Ok(Self { tree, followed })
    }

    /// Returns the tree.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.tree
    }
}

impl Drop for ControlTree {
    fn drop(&mut self) {
        // The tree and what is left of its handles end together; nobody adds any more.
        let dirs = std::mem::take(&mut *lock(&self.followed.dirs));
        drop(dirs);
    }
}

/// The groups that have come and not gone.
struct Followed {
    /// Gone when the owner has dropped the control tree.
    tree: Weak<Tree>,
    /// Of the hierarchy.
    groups: Client,
    /// The directories of all groups but the root, by the inode number of the group.
    dirs: Mutex<HashMap<u64, Dir>>,
}

/// The resources that a group can be made to stall for.
const RESOURCES: [(&str, Resource); 3] =
    [("cpu.stall", Resource::Cpu), ("memory.stall", Resource::Memory), ("io.stall", Resource::Io)];

impl Followed {
    fn show(&self, group: &Group) -> Result<(), Errno> {
        let Some(tree) = self.tree.upgrade() else { return Ok(()) };
        let attr = self.groups.by_id(group.ino())?.attr();
        let owner = SetAttr { uid: Some(attr.uid), gid: Some(attr.gid), ..SetAttr::default() };
        let options = |mode| FileOptions::new(mode).owner(attr.uid, attr.gid);
        let add_stalls = |dir: &Dir| {
            dir.set_attr(&owner);
            RESOURCES.into_iter().try_for_each(|(name, resource)| {
                let file = ControlFile::stall(group.clone(), resource);
                dir.add_file(name, options(Mode::RW), file)?.keep();
                Ok::<_, Errno>(())
            })
        };
        let Some(parent) = group.parent() else {
            return add_stalls(tree.root());
        };
        // Built aside, so that nobody ever sees half of it.
        let dir = tree.detached_dir(Mode::DIR);
        add_stalls(&dir)?;
        for (name, mode, file) in [
            ("memory.current", Mode::RW, ControlFile::Memory(group.clone())),
            ("memory.events", Mode::RW, ControlFile::Events(group.clone())),
            ("sever", Mode::WO, ControlFile::Sever(group.clone())),
        ] {
            dir.add_file(name, options(mode), file)?.keep();
        }
        let mut dirs = lock(&self.dirs);
        dirs.get(&parent.ino()).unwrap_or(tree.root()).attach(group.name(), &dir)?;
        dirs.insert(group.ino(), dir);
        Ok(())
    }
}

impl Observer for Followed {
    fn made(&self, group: &Group) {
        if let Err(error) = self.show(group) {
            tracing::error!(?group, %error, "not in the control tree");
        }
    }

    fn removed(&self, group: &Group) {
        let dir = lock(&self.dirs).remove(&group.ino());
        // Severed without waiting: whoever removes the group may be inside one of its files.
        drop(dir);
    }
}

impl fmt::Debug for Followed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Followed").field("dirs", &lock(&self.dirs).len()).finish_non_exhaustive()
    }
}
