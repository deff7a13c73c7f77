//! A tree as the kernel sees it: what is known of it there, and how it is described.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fuse_session::{Errno, KernelConfig, Notifier, ReplyAttr};
use kernfs::{Caller, Client, Inode, NodeKind};

use crate::convert::{self, KEPT};
use crate::handles::{FileHandle, Handles};
use crate::nodes::{self, Nodes};

/// A tree as the kernel sees it.
pub(crate) struct Fs {
    pub(crate) nodes: Nodes,
    pub(crate) handles: Handles,
    notifier: OnceLock<Notifier>,
    pub(crate) client: Client,
    caches_names: bool,
    /// Whether somebody wants to see all that clients do, so that nothing is cached.
    pub(crate) is_tapped: bool,
    /// The minor version of the ABI that was agreed on; 0 before.
    minor: OnceLock<u32>,
}

/// The longest name that FUSE passes on (`FUSE_NAME_MAX`): before Linux 6.14, and since.
const NAME_MAX: u32 = 1024;
const LONG_NAME_MAX: u32 = 4095;

/// The ABI of Linux 6.14.
const MINOR_WITH_LONG_NAMES: u32 = 42;

/// The ABI with INC_EPOCH.
const MINOR_WITH_EPOCH: u32 = 44;

impl Fs {
    pub(crate) fn new(client: Client, caches_names: bool, is_tapped: bool) -> Self {
        Self {
            caches_names: caches_names && !is_tapped,
            is_tapped,
            nodes: Nodes::new(client.root()),
            client,
            handles: Handles::new(),
            notifier: OnceLock::new(),
            minor: OnceLock::new(),
        }
    }

    /// Notes what was agreed on with the kernel.
    pub(crate) fn agreed(&self, config: &KernelConfig) {
        let _ = self.minor.set(config.minor());
    }

    /// Notes what notifications are sent with.
    pub(crate) fn mounted(&self, notifier: &Notifier) {
        let _ = self.notifier.set(notifier.clone());
    }

    /// Returns what notifications are sent with, once mounted.
    pub(crate) fn notifier(&self) -> Option<&Notifier> {
        self.notifier.get()
    }

    /// Tells whether names are cached: only where all of them can be dropped at once.
    pub(crate) fn caches_names(&self) -> bool {
        self.caches_names && self.minor() >= MINOR_WITH_EPOCH
    }

    fn minor(&self) -> u32 {
        self.minor.get().copied().unwrap_or(0)
    }

    /// Returns the longest name that the kernel takes; a longer one would spoil the whole listing.
    pub(crate) fn name_max(&self) -> u32 {
        if self.minor() >= MINOR_WITH_LONG_NAMES { LONG_NAME_MAX } else { NAME_MAX }
    }

    pub(crate) fn inode(&self, id: u64) -> Result<Arc<Inode>, Errno> {
        self.nodes.find(id).map(|known| known.inode).ok_or(Errno::ESTALE)
    }

    pub(crate) fn file(&self, fh: u64) -> Result<Arc<FileHandle>, Errno> {
        self.handles.file(fh).ok_or(Errno::EBADF)
    }

    fn entry_ttl(&self) -> Duration {
        if self.caches_names() { KEPT } else { Duration::ZERO }
    }

    /// Returns how long attributes may be kept.
    ///
    /// Not those of a link: its size is that of its text, which changes with its target's path.
    fn attr_ttl(&self, inode: &Inode) -> Duration {
        if self.is_tapped || inode.kind() == NodeKind::Link { Duration::ZERO } else { KEPT }
    }

    /// Counts a lookup and describes its node.
    pub(crate) fn entry(&self, inode: &Inode) -> fuse_session::Entry {
        let (nodeid, kept) = self.nodes.look_up(inode);
        fuse_session::Entry {
            nodeid,
            generation: 0,
            entry_ttl: self.entry_ttl(),
            attr_ttl: if kept { self.attr_ttl(inode) } else { Duration::ZERO },
            attr: convert::attr(&inode.attr()),
        }
    }

    pub(crate) fn tell_attr(&self, id: u64, reply: ReplyAttr) {
        match self.nodes.find_to_tell(id) {
            Some((inode, kept)) => {
                let ttl = if kept { self.attr_ttl(&inode) } else { Duration::ZERO };
                reply.attr(ttl, &convert::attr(&inode.attr()));
            }
            None => reply.error(Errno::ESTALE),
        }
    }

    /// Finds the node of a file handle that the kernel does not know, or does not know any more.
    ///
    /// All of the id has to be right: that of a node which was severed since is stale, though the
    /// node may be there again.
    fn find_by_handle(&self, id: u64) -> Result<Inode, Errno> {
        let ino = nodes::ino_of(id);
        let inode = self.client.by_id(ino).map_err(convert::errno)?;
        if self.nodes.id_of(ino) != id || !self.can_see(&inode) {
            return Err(Errno::ESTALE);
        }
        Ok(inode)
    }

    /// Tells whether a node is in what the mount shows, and not in another namespace.
    fn can_see(&self, inode: &Inode) -> bool {
        let mut path = inode.path();
        loop {
            if self.client.lookup_link(&path).is_ok_and(|found| found.ino() == inode.ino()) {
                return true;
            }
            // Renamed between the two.
            match inode.path() {
                now if now == path => return false,
                now => path = now,
            }
        }
    }

    /// Resolves the names that the kernel asks for when it resolves a file handle, and only then.
    pub(crate) fn look_up_by_handle(
        &self,
        id: u64,
        name: &OsStr,
    ) -> Result<fuse_session::Entry, Errno> {
        self.nodes.about_to_tell_names();
        let inode = self.find_by_handle(id)?;
        if name == "." {
            return Ok(self.entry(&inode));
        }
        let parent = inode.lookup(&Caller::OWNER, "..").map_err(convert::errno)?;
        Ok(self.entry(&parent))
    }

    pub(crate) fn look_up(
        &self,
        parent: &Inode,
        caller: &Caller,
        name: &OsStr,
    ) -> Result<Inode, Errno> {
        self.nodes.about_to_tell_names();
        parent.lookup(caller, name.as_bytes()).map_err(convert::errno)
    }
}
