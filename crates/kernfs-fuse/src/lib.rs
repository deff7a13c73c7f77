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
//!               pollers' wakers ---> the kernel, at once --------------------> poll(2) looks again
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
//! made inside an operation is known to the kernel when that operation is answered. Contents are
//! not, unless a file can be mapped: reads and writes reach the driver. Names that do not exist are
//! not. Where somebody [taps](Tap), nothing is.
//!
//! All names are dropped at once, when one is removed or renamed, since that takes no lock that a
//! client could hold. The kernel then detaches what others have mounted inside of the mount; see
//! [`MountOptions::uncached_names`].
//!
//! # Mappings
//!
//! Files whose driver has [`Ops::MMAP`](kernfs::Ops::MMAP) and a declared size go through the
//! kernel's page cache, so that they can be mapped; all others cannot be mapped shared (ENODEV).
//!
//! - FUSE does not tell of mmap(2). A driver is asked at each open, for the whole file and for all
//!   that the open file is open for; if it refuses, this open file cannot be mapped shared.
//! - A page is read when it is first touched, and kept. [`File::notify`](kernfs::File::notify) drops
//!   the pages; whoever polls the file is woken after that. Reads by read(2) are served from pages
//!   too: poll(2) calms down only by a read that reaches the driver.
//! - What is written to a shared mapping is written back page by page, at msync(2), when it is
//!   unmapped, when pages are dropped, or some time later; on behalf of who opened the file.
//!   A driver that hangs in such a write while pages are dropped holds up what others drop.
//! - A severing takes the pages from all mappings: the next touch is SIGBUS. What was not written
//!   back by then is dropped. Pages of private mappings that were written to are copies, and stay.
//!
//! # Watchers
//!
//! inotify tells what the owner does, as far as the kernel can be made to: a notification is
//! IN_MODIFY of the file and in its directory; what comes, goes or moves is IN_CREATE, IN_DELETE or
//! IN_MOVED_FROM and IN_MOVED_TO in its directory; watches of what goes get IN_DELETE_SELF and
//! IN_IGNORED. Hiding and showing is not told, and what a client does is told by the kernel itself.
//!
//! It is best effort: no change waits for it, and each of these may be missing.
//!
//! - A thread makes system calls on the mount for it, which may not be possible: the mount is
//!   read-only or out of reach, or this process may not write to the directory. This is said once.
//! - Where a client has found the name of what comes or moves before it is told, it is not told.
//! - Events in a directory wait for who is in the middle of listing it.
//! - A watch of a file that is hidden stays with what is dead, also when the file is shown again.
//! - Of more than 4,096 events that wait, the oldest are dropped.
//!
//! It costs an owner the waking of a thread, some microseconds, and the machine what the system
//! calls take, whether or not somebody watches: nobody can know that. What clients have not looked
//! up costs nothing. See [`MountOptions::without_inotify`].
//!
//! # Node ids and file handles
//!
//! The kernel knows nodes by ids that are inode numbers with the number of severings: a severing
//! ends the id, so that what the kernel keeps for old descriptors can never come back to life when
//! the node is shown again. What is opened through an old descriptor then can be read and written,
//! but not mapped. The inode number, which stat(2) tells, stays.
//!
//! File handles (name_to_handle_at(2)) have the same ids: one that the kernel has forgotten is
//! found again, and that of a node that was severed since is stale. While somebody has the node
//! open the kernel finds it without asking, and opening it gives ENODEV.
//!
//! # Callers
//!
//! All users and groups are those of the mounting process's user namespace: whom a driver sees
//! calling, and the owners that a tree gives its nodes, by which the kernel checks their modes. An
//! owner without a number in that namespace is nobody for clients (`overflowuid`, 65534 as a rule),
//! and nobody can write to what is his, whatever its mode.
//!
//! The process id is that of the calling *thread*, for that is what FUSE tells. Capabilities and
//! supplementary groups are looked up in `/proc` when a driver asks, which is right while an
//! operation runs. Of a caller that a driver has kept, they are those at the time of asking: none,
//! when the thread has gone or has become another user.
//!
//! # Mounting without being root
//!
//! mount(2) takes CAP_SYS_ADMIN in the user namespace and access to `/dev/fuse`: root of a namespace
//! of his own (`unshare --map-root-user --mount`) has that, and nobody outside of it sees the
//! mount. Where it is refused, the set-user-id program `fusermount3` is asked, which mounts for
//! everybody to see; by default its user alone can use it. Who mounts by it cannot unmount what is
//! in use for those who use it, see [`Mount::unmount`].

#![deny(unsafe_code)]

mod mount;

mod tap;

mod requests;

mod contents;

mod stand_ins;

mod front;

mod watchers;

mod herald;

mod event;

mod fs;

mod nodes;

mod handles;

mod pages;

mod news;

mod parked;

mod caller;

mod convert;

pub use mount::{Mount, MountError, MountOptions, Stats};
pub use tap::{Call, CallKind, Course, Tap};
