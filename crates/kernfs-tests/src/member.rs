//! Processes that are members of groups.

use std::process::{Child, Command, Stdio};

use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::subject::{Sys, errno};

/// A process that ends when this one does, and when it is dropped.
#[derive(Debug)]
pub(crate) struct Member(Child);

impl Member {
    /// Starts one that only waits; its input ends with this process.
    pub(crate) fn new() -> Sys<Self> {
        let child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        child.map(Self).map_err(|error| error.raw_os_error().unwrap_or(errno::EINVAL))
    }

    /// Starts one that keeps a processor busy, the same for all of them, as long as this process
    /// lives.
    pub(crate) fn spinning() -> Sys<Self> {
        const LOOP: &str = "while kill -0 $PPID; do \
            i=0; while [ $i -lt 10000 ]; do i=$((i+1)); done; done 2>/dev/null";
        let child = Command::new("sh").args(["-c", LOOP]).stdin(Stdio::null()).spawn();
        let child = child.map_err(|error| error.raw_os_error().unwrap_or(errno::EINVAL))?;
        let spinner = Self(child);
        let pinned = sched_getaffinity(None).and_then(|allowed| {
            let first = (0..CpuSet::MAX_CPU).find(|&cpu| allowed.is_set(cpu));
            let mut one = CpuSet::new();
            one.set(first.ok_or(Errno::INVAL)?);
            sched_setaffinity(Some(Pid::from_child(&spinner.0)), &one)
        });
        pinned.map(|()| spinner).map_err(Errno::raw_os_error)
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
