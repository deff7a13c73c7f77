//! Pressure stall information (PSI) for user space, as the kernel accounts it.
//!
//! A program reports what its tasks do: they work, they wait for a processor, they stall on I/O
//! or on memory. From that come, per [`Group`] of tasks and all groups above it, the shares of time
//! in which *some* or *all* tasks were stalled: totals, averages over 10, 60 and 300 seconds, and
//! **triggers** that wake a poller when a stall exceeds a threshold within a window. Groups are
//! served as files in the kernel's format ([`pressure_file`]), so that what reads
//! `/proc/pressure/io` or `cpu.pressure` reads them.
//!
//! ```
//! use kernfs::{Caller, OpenFlags, Tree};
//! use kernfs_psi::{Engine, Resource, VirtualClock, pressure_file};
//! use std::time::Duration;
//!
//! let clock = VirtualClock::new();
//! let engine = Engine::builder().clock(clock.clone()).build();
//! let service = engine.root().child();
//!
//! let tree = Tree::new();
//! let file = pressure_file(&service, Resource::Io);
//! let _file = tree.root().add_file("io.pressure", file.options(), file)?;
//!
//! let stall = service.stall(Resource::Io); // a task that waits for I/O, until it is dropped
//! clock.run(&engine, Duration::from_micros(2_500_000));
//! drop(stall);
//!
//! let file = tree.client(Caller::OWNER).open("/io.pressure", OpenFlags::READ)?;
//! let some = "some avg10=18.11 avg60=3.27 avg300=0.68 total=2500000\n";
//! assert!(file.read_to_string()?.starts_with(some));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Who pins whom
//!
//! ```text
//! Task, child Group ----> Group ----> parent Group ----> ... ----> the engine's clock and agenda
//!                           ^                                                :
//! driver PressureFile ------+                                                : weak
//!    ^                      |                                                v
//!    |                   Trigger                                        watched groups
//!    +---- gate ----> open file's state ----> Readiness (belongs to kernfs)
//! ```
//!
//! - A *trigger* is part of the state of an open file ([`FileOps::Open`](kernfs::FileOps::Open)).
//!   It ends in the `release` of that open file, at last close or severing: nothing here wakes,
//!   frees or re-checks anything when a file is removed or hidden, and nothing waits for it.
//! - What pollers wait on is the open file's [`Readiness`](kernfs::Readiness). A trigger that fires
//!   while it is severed sets a bit that nobody looks at.
//!
//! # Time
//!
//! Time comes from the [`Clock`](kernfs::Clock) that the engine is given. **Averages need no
//! timer**: whoever changes or reads a group after the end of a period first accounts the periods
//! that are over, exactly, since nothing has changed in between. Only triggers are evaluated by
//! somebody who wakes: a thread ([`Engine::spawn`]), an async task ([`Engine::drive`]), or whoever
//! calls [`Engine::advance`]. It sleeps until a state that a trigger watches is entered.
//!
//! # Locks
//!
//! A change of a task takes the small lock of one *cpu* of each group from its own up to the root,
//! one at a time; tasks on different cpus never meet. Only the first change that enters a watched
//! state after a quiet time, and the first after the end of a period, take more. The order is: a
//! group's sums, then one of its cpus or the agenda. No lock is held while wakers run.

#![forbid(unsafe_code)]
#![warn(missing_debug_implementations)]

// In the order in which to read them, each using only those below it.
mod file;

mod clock;

mod engine;

mod group;

mod trigger;

mod agenda;

mod average;

mod state;

mod sync;

pub use average::{PERIOD, Pressure, PressureLine};
pub use clock::VirtualClock;
pub use engine::{Engine, EngineBuilder, Monitor};
pub use file::{PressureFile, PressureOpen, WriteManners, pressure_file};
pub use group::{Group, Task};
pub use state::{Resource, Share, Stall, TaskState};
pub use trigger::{Condition, Privilege, parse_trigger};
