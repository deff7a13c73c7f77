//! Mounts a [`kernfs::Tree`] by FUSE: any program can read, write, poll, block on and list it, and
//! severing reaches all of them.
//!
//! ```no_run
//! use kernfs::{Mode, Tree, show};
//! use kernfs_fuse::Mount;
//!
//! let tree = Tree::new();
//! let mount = Mount::new(&tree, "/mnt/engine")?;
//! let rpm = tree.root().add_file("rpm", Mode::RO, show(|op| op.push(b"1200\n")))?;
//! // Now anybody can `cat /mnt/engine/rpm`, until:
//! rpm.remove()?;
//! # drop(mount);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # How a severing reaches a process
//!
//! ```text
//! owner                kernfs                    here                         kernel
//! remove() ---> gates closed, waiters woken
//!               blocked reads come to their end ---> replies: ENODEV -------> read(2) returns
//!               pollers' wakers ---> lane of polls -------------------------> poll(2) looks again
//!               FrontEnd::severed ---> lane of inodes: pages, attributes ---> mappings: SIGBUS
//!                                 ---> lane of the epoch: all names --------> path: ENOENT
//!          <--- drained <--- acknowledged, when the kernel has taken all of these
//! ```
//!
//! Everything that is waited for takes no lock that a client could hold. What a client that is
//! stopped in its own memory could hold up is sent best effort, on lanes of its own.
//!
//! # What is cached
//!
//! Names and attributes are, until they change: the kernel is told, and what it was told before a
//! change is known, so that a change of what nobody has looked at costs nothing. A change that is
//! made inside an operation is known to the kernel when that operation is answered. Contents are not:
//! reads and writes reach the driver. Names that do not exist are not.
//!
//! All names are dropped at once, when one is removed or renamed, since that takes no lock that a
//! client could hold. The kernel then detaches what others have mounted inside of the mount; see
//! [`MountOptions::uncached_names`].
//!
//! # Node ids
//!
//! The kernel knows nodes by ids that are *not* inode numbers: a severing ends the id, so that what
//! the kernel keeps for old descriptors can never come back to life when the node is shown again.
//! The inode number, which stat(2) tells, stays.
//!
//! # Callers
//!
//! A driver sees user and group as the mounting process's user namespace counts them. The process
//! id is that of the calling *thread*, for that is what FUSE tells. Capabilities are looked up in
//! `/proc` when a driver asks.

#![forbid(unsafe_code)]

mod mount;

mod fs;

mod front;

mod news;

mod nodes;

mod handles;

mod parked;

mod caller;

mod convert;

pub use mount::{Mount, MountError, MountOptions, Stats};
