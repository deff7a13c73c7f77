//! A pseudo-filesystem midlayer whose owners can take their files back at any time.
//!
//! A program fills a [`Tree`] with files whose contents come from its own objects, the drivers.
//! Clients open, read, write, wait and map them. At any moment the owner says "I am done": the
//! file is **severed**, its open files are shut down as by a forced close, and the driver comes
//! back by value. This is what kernfs, the layer under sysfs and cgroupfs, does in Linux.
//!
//! After [`File::remove`] returns:
//!
//! 1. no callback of that node is running, and none will ever run again;
//! 2. every descriptor that was open on it answers ENODEV, for ever;
//! 3. everyone who slept on it is awake;
//! 4. what was attached to each open file has been released, exactly once;
//! 5. the owner has its driver back, by value;
//! 6. and it waited for nothing but the owner's own callbacks.
//!
//! ```
//! use kernfs::{Caller, Errno, FileOps, Mode, OpenFlags, OpenOp, ReadOp, Tree};
//!
//! struct Engine { rpm: u32 }
//!
//! impl FileOps for Engine {
//!     type Open = ();
//!     fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> { Ok(()) }
//!     fn read(&self, _: &mut (), op: &mut ReadOp<'_>) -> Result<(), Errno> {
//!         op.push(format!("{}\n", self.rpm).as_bytes());
//!         Ok(())
//!     }
//! }
//!
//! let tree = Tree::new();
//! let rpm = tree.root().add_file("rpm", Mode::RO, Engine { rpm: 1200 })?;
//! let held = tree.client(Caller::OWNER).open("/rpm", OpenFlags::READ)?;
//! assert_eq!(held.read_to_string()?, "1200\n");
//! let engine: Engine = rpm.remove()?; // by value, though `held` is still open
//! assert_eq!(held.read_to_string(), Err(Errno::ENODEV));
//! # assert_eq!(engine.rpm, 1200);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Who pins whom
//!
//! ```text
//! owner:  File<T> ----> driver T <---- Node <---- Dir's children     client: Inode ----> Node
//!                          ^                                                 OpenFile
//!                          |                                                    |
//!                          +------ gate (severing lifetime) <---- open file ----+----> Node
//! ```
//!
//! - A *node* lives as long as anybody refers to it. It refers to its driver until it is severed.
//! - An *open file* refers to the driver through its gate only, until the gate is dismantled, at
//!   the earlier of last close and severing. When all gates are dismantled, the handle of the owner
//!   has the last reference: that is how [`File::remove`] can return it.
//! - What pollers wait on belongs to the open file, never to a driver.
//!
//! # Two lifetimes
//!
//! *Severing lifetime* ends with [`FileOps::release`], which may reach the driver. *File lifetime*
//! ends at the last close with [`OpenOp::on_free`], which cannot.
//!
//! # Locks
//!
//! No lock is held while user code runs: an operation, a drop of user data, a waker. The tree lock
//! may be held around one lock of a node; otherwise one lock of a node is held at a time.
//! (A rename between directories locks both lists of children, under the tree lock.)
//!
//! # Without `std`
//!
//! Without default features the crate needs `alloc` only; waits are futures then, panics are not
//! contained, and self-deadlock is not detected.

#![cfg_attr(not(any(feature = "std", loom, shuttle)), no_std)]
#![deny(unsafe_code)]
#![warn(missing_debug_implementations)]

extern crate alloc;

// In the order in which to read them: each uses only those below it.
mod tree;

#[cfg(any(feature = "std", loom, shuttle))]
#[allow(unsafe_code, reason = "the lifetime of a borrowed driver is erased")]
mod scope;

mod file;

mod dir;

mod client;

#[cfg(any(feature = "std", loom, shuttle))]
mod blocking;

mod open;

mod owner;

mod sever;

mod structure;

mod changes;

mod active;

mod node;

mod request;

mod seq;

mod ops;

#[allow(unsafe_code, reason = "contents behind a protocol of atomics, checked by loom")]
mod gate;

mod drain;

mod realm;

mod wait;

mod meta;

mod name;

mod inside;

mod errno;

mod sync;

#[cfg(all(test, loom))]
mod loom_tests;

pub use changes::{Ack, Change, Changes, Entry, FrontEnd, FrontEndGuard, Severed};
pub use client::{Client, DirEntry, Inode, MAX_LINKS, OpenDir, PATH_MAX};
pub use dir::{Child, Dir, DirOp, DirOps, DirOptions, Link, Target};
pub use drain::{Draining, NotDrained, Stuck};
pub use errno::{Errno, Rejected};
pub use file::{File, FileOptions, Holder};
#[cfg(feature = "std")]
pub use meta::SystemClock;
pub use meta::{
    Access, Attr, Caller, Capability, Clock, MAX_USER_XATTR_BYTES, MAX_USER_XATTRS, MAX_XATTR_NAME,
    MAX_XATTR_VALUE, Mode, NodeKind, OpenFlags, Operation, SetAttr, StoppedClock, Tag, Timestamp,
    XattrFlags,
};
pub use name::Name;
pub use open::{Mapping, OpenFile, Waiter};
pub use ops::{
    FileOps, Kind, MapOp, Notifier, OpenOp, Ops, ReadOp, ReadShared, ReadyBy, Reply, Show, WriteOp,
    show,
};
pub use realm::{Limits, Manners, PAGE_SIZE, WriteLimit};
#[cfg(any(feature = "std", loom, shuttle))]
pub use scope::Scope;
pub use seq::{Seq, SeqOps, SeqState};
pub use structure::ROOT_INO;
pub use tree::{Tree, TreeBuilder, Usage};
pub use wait::{Events, Readiness};
