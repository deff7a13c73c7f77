//! A hierarchy shaped like the kernel's cgroup v2, for user space.
//!
//! [`Hierarchy`] owns a [`kernfs::Tree`] of groups. Clients make and remove groups with mkdir and
//! rmdir, put processes into them, limit, freeze and kill them, and wait for what happens, in the
//! kernel's own formats and with its errors; in process, or through a mount (`kernfs-fuse`). The
//! owner has a [`Group`] for each: reports pressure to it, says what memory it uses, and can
//! let it vanish at any moment, members or not.
//!
//! ```
//! use kernfs::{Caller, Errno, Mode, OpenFlags};
//! use kernfs_cgroup::{Controllers, Hierarchy, MemoryEvent};
//!
//! let hierarchy = Hierarchy::new()?;
//! hierarchy.root().enable(Controllers::MEMORY)?;
//!
//! // A client, in this process or, through a mount, any other.
//! let client = hierarchy.tree().client(Caller::OWNER);
//! client.mkdir("/web", Mode::DIR)?;
//! let procs = client.open("/web/cgroup.procs", OpenFlags::READ_WRITE)?;
//! procs.write(b"0\n")?; // the writer itself
//! let events = client.open("/web/memory.events", OpenFlags::READ)?;
//!
//! // The owner.
//! let web = hierarchy.group("web").ok_or(Errno::ENOENT)?;
//! assert_eq!(web.members(), [std::process::id()]);
//! web.set_memory_current(64 << 20)?;
//! web.add_memory_events(MemoryEvent::High, 1)?;
//! assert!(events.read_to_string()?.starts_with("low 0\nhigh 1\n"));
//!
//! // rmdir(2) would be EBUSY; this is not.
//! web.sever()?.wait()?;
//! assert_eq!(events.read_to_string(), Err(Errno::ENODEV));
//! # Ok::<(), Errno>(())
//! ```
//!
//! # What is real, and what is rehearsed
//!
//! - **Members** are real processes. They leave when they exit, which is seen through pidfds. fork(2)
//!   is not seen: the child of a member begins in the root.
//! - **Pressure** comes from what the owner reports to [`Group::pressure`]; triggers, averages and
//!   formats are those of `kernfs-psi`.
//! - [`rehearsal`] has files that bring about stalls, memory and vanishing groups.
//! - **Memory** is what the owner says; limits are kept and shown, nothing is enforced. What
//!   `pids.max` could forbid is fork(2).
//! - **Freezing and killing** reach processes with [`Processes::Act`] only. A frozen group says so
//!   at once, before the last thread has stopped.
//! - `cpu.stat` adds up the time of members as `/proc` tells it, in ticks.
//! - Threads stay with their process: `threaded` is refused in `cgroup.type` with EOPNOTSUPP.
//!
//! # Who pins whom
//!
//! ```text
//! Hierarchy ----> Tree ----> nodes ----> drivers of files ----+
//!     |             ^                                         v
//!     +----------------------------------------------------> Core ----> groups that are alive ----> Dir
//!                   : weak                                    ^
//!                   +.........................................+---- Group (the owner's handle)
//! ```
//!
//! The core holds the directories of its groups and their drivers hold the core; dropping the
//! hierarchy severs the tree and takes all groups out of the core, which ends both.
//!
//! # Locks
//!
//! As in the kernel, one lock (`cgroup_mutex`) is held by whoever changes groups, controllers or
//! members. Files are severed under it; nobody waits for a drain, a client or a process under it.
//! Whoever would have to wait for himself gets EDEADLK; see [`Observer`].
//!
//! What the rules are (limits, types, the rule that only leaves have members) is in one place that
//! knows neither files nor processes nor time, under a lock of its own that is held for a look or a
//! change, never while wakers run.

#![forbid(unsafe_code)]
#![warn(missing_debug_implementations)]

// In the order in which to read them.
mod hierarchy;

mod group;

pub mod rehearsal;

mod core;

mod files;

mod rules;

mod memory;

mod controllers;

mod process;

mod watch;

mod parse;

pub use crate::core::Processes;
pub use controllers::Controllers;
pub use group::{Group, Observer};
pub use hierarchy::{Hierarchy, HierarchyBuilder};
pub use memory::MemoryEvent;

/// Takes a lock; no code of users panics under one, so that a poisoned one is as good as any other.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
