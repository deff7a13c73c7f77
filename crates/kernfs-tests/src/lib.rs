//! Proof of kernfs: the conformance cases, written once for every [`Subject`], and the instruments
//! of the property tests.
//!
//! A subject is anything that can be asked by system calls: the library in process
//! ([`InProcess`]), a mount of it ([`Mounted`]), both of them with drivers of the tests' own or with
//! the hierarchy of `kernfs-cgroup`, or the kernel's own [`Cgroup2`] and [`Sysfs`].
//! [`run`] puts the cases to a subject and returns a [`Report`]; a [`Matrix`] has all subjects
//! beside each other.
//!
//! Where a subject is meant to differ, or cannot but differ, the case asserts that it does, and the
//! outcome is [`Outcome::Differs`].
#![allow(clippy::missing_errors_doc, reason = "errors are what is tested here")]
#![allow(clippy::must_use_candidate, reason = "not for publication")]

mod report;

mod subject;

mod cases;

mod fixture;

mod cgroups;

mod group_tree;

mod member;

mod in_process;

mod syscalls;

mod raw;

mod mounted;

mod kernel;

mod matrix;

pub mod probe;

pub mod storm;

pub use cases::{Case, Env, all};
pub use in_process::InProcess;
pub use kernel::{Cgroup2, Sysfs};
pub use matrix::Matrix;
pub use mounted::Mounted;
pub use report::{Outcome, Report, run};
pub use subject::{
    Attribute, Device, Dirent, Fd, How, Kind, Map, Needs, Owner, Stall, Stat, Subject, Sys,
    Watched, errno, flags, inotify, whence,
};
pub use syscalls::Syscalls;
