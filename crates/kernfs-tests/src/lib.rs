//! Proof of kernfs: the conformance cases, written once for every [`Subject`], and the instruments
//! of the property tests.
//!
//! A subject is anything that can be asked by system calls: the library in process
//! ([`InProcess`]), a mount of it, or the kernel's own cgroup2 and sysfs. [`run`] puts the cases
//! to a subject and returns a [`Report`].
#![allow(clippy::missing_errors_doc, reason = "errors are what is tested here")]
#![allow(clippy::must_use_candidate, reason = "not for publication")]

mod report;

mod subject;

mod cases;

mod in_process;

pub mod probe;

pub use cases::{Case, Env, all};
pub use in_process::InProcess;
pub use report::{Outcome, Report, run};
pub use subject::{
    Device, Dirent, Fd, How, Kind, Map, Needs, Stat, Subject, Sys, errno, flags, whence,
};
