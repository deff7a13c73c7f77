//! What the handles of an owner have in common: the power to change a node and to take it back.

use alloc::sync::Arc;

use crate::drain::Draining;
use crate::errno::Errno;
use crate::meta::{Meta, Tag};
use crate::node::{Inner, Node};
use crate::sever;
use crate::structure::Shared;

/// Owns a node: severs it when dropped, unless it was disarmed.
pub(crate) struct Owner {
    tree: Arc<Shared>,
    node: Arc<Node>,
    armed: bool,
}

impl Owner {
    pub(crate) fn new(tree: &Arc<Shared>, node: Arc<Node>) -> Self {
        Self { tree: Arc::clone(tree), node, armed: true }
    }

    /// A handle with an owner's powers that severs nothing when dropped.
    pub(crate) fn borrowed(tree: &Arc<Shared>, node: &Arc<Node>) -> Self {
        Self { tree: Arc::clone(tree), node: Arc::clone(node), armed: false }
    }

    pub(crate) fn tree(&self) -> &Arc<Shared> {
        &self.tree
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Adds a node to the directory.
    pub(crate) fn add(
        &self,
        name: &[u8],
        tag: Option<Tag>,
        meta: Meta,
        inner: Inner,
    ) -> Result<Self, Errno> {
        let node = self.tree.new_node(self.tree.realm.name(name)?, tag, meta, inner);
        self.tree.add(&self.node, &node)?;
        Ok(Self::new(&self.tree, node))
    }

    /// Returns the group of what is added to the directory: its own if it has the setgid bit.
    pub(crate) fn group_of_new(&self) -> u32 {
        let meta = self.node.meta.lock();
        if meta.mode.bits() & S_ISGID != 0 { meta.gid } else { 0 }
    }

    pub(crate) fn rename(&self, to: &Self, name: &[u8], tag: Option<Tag>) -> Result<(), Errno> {
        if !Arc::ptr_eq(&self.tree, &to.tree) {
            return Err(Errno::EXDEV);
        }
        self.tree.rename(&self.node, &to.node, self.tree.realm.name(name)?, tag)
    }

    /// Leaves the node to its parent directory.
    pub(crate) fn keep(mut self) {
        self.armed = false;
        if let Inner::File(file) = self.node.inner() {
            file.keep();
        }
    }

    pub(crate) fn sever(self) -> Draining {
        self.sever_with(Arc::new(()))
    }

    /// Severs the node, and returns the removal together with the owner's reference to the driver.
    pub(crate) fn sever_with<T>(mut self, driver: Arc<T>) -> Draining<T> {
        self.armed = false;
        let (drain, kept) = sever::remove(&self.tree, &self.node);
        Draining::new(Arc::clone(&self.tree.realm), drain, driver, kept)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if self.armed {
            drop(sever::remove(&self.tree, &self.node));
        }
    }
}

/// New nodes get the group of a parent with this bit, and directories the bit itself.
pub(crate) const S_ISGID: u16 = 0o2000;

/// What every owner's handle can do.
macro_rules! owner_methods {
    () => {
        /// Renames the node, or moves it to another directory of the same tree
        /// (`kernfs_rename_ns`). Open files stay as they are.
        ///
        /// # Errors
        ///
        /// ENOENT: the node or the directory was removed. EEXIST: the name is taken. EINVAL: a move
        /// below itself, or of a directory that is not attached. EXDEV: another tree. ENAMETOOLONG,
        /// EINVAL: the name is none.
        pub fn rename(&self, to: &Dir, name: impl AsRef<[u8]>) -> Result<(), Errno> {
            let tag = self.owner.node().place.lock().tag;
            self.owner.rename(&to.owner, name.as_ref(), tag)
        }

        /// Does the same between namespaces: the node gets another tag.
        ///
        /// # Errors
        ///
        /// As for `rename`; EINVAL also if the directory is not a tagged one.
        pub fn rename_in(&self, to: &Dir, name: impl AsRef<[u8]>, tag: Tag) -> Result<(), Errno> {
            self.owner.rename(&to.owner, name.as_ref(), Some(tag))
        }

        /// Changes mode, owner or times (`kernfs_setattr`).
        pub fn set_attr(&self, set: &SetAttr) {
            // The owner may do everything.
            let _ = self.owner.tree().set_attr(self.owner.node(), &Caller::OWNER, set);
        }

        /// Returns the inode number, which is never reused.
        #[must_use]
        pub fn ino(&self) -> u64 {
            self.owner.node().ino()
        }

        /// Returns the name.
        #[must_use]
        pub fn name(&self) -> Name {
            self.owner.node().name()
        }

        /// Returns the path from the root; of what was removed, the last one.
        #[must_use]
        pub fn path(&self) -> Vec<u8> {
            self.owner.tree().path(self.owner.node())
        }

        /// Tells whether the node was removed.
        #[must_use]
        pub fn is_removed(&self) -> bool {
            self.owner.node().has(REMOVED)
        }
    };
}

pub(crate) use owner_methods;
