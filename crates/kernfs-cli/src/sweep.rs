//! A process that takes a temporary directory away when the one that made it is gone:
//! `kernfs sweep`.
//!
//! Whoever is killed can clear nothing away, and leaves a dead mount behind, or a group of cgroup2.
//! The sweeper waits for the end of a pipe that only the other process keeps open. The directory is
//! theirs alone, so that whatever is mounted there is the dead mount. Clients that it had under
//! watch end too.

use std::fs;
use std::io::{self, Read};
use std::os::unix::process::{CommandExt, parent_id};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use rustix::mount::{UnmountFlags, unmount};

use crate::client;

/// Waits for the end of its input, and takes a directory away that something may be mounted on;
/// `kernfs demo` starts it.
#[derive(Args, Debug)]
pub(crate) struct SweepArgs {
    /// The directory.
    dir: PathBuf,
}

/// The other process, as its owner sees it; dropping it lets it do its work and end.
pub(crate) struct Sweeper(Child);

impl Sweeper {
    /// Starts a process that takes a directory away when this process ends.
    ///
    /// # Errors
    ///
    /// It could not be started.
    pub(crate) fn start(dir: &Path) -> Result<Self> {
        let mut program = Command::new("/proc/self/exe");
        // Not in the group of the terminal, whose signals would end it first.
        program.arg("sweep").arg(dir).current_dir("/").process_group(0);
        program.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        program.spawn().map(Self).context("cannot start a process")
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // Reaps it; it takes its time only if there is something that cannot be taken away.
        let _ = self.0.wait();
    }
}

/// How long is tried: the owner may be on its way through mount(2).
const LIMIT: Duration = Duration::from_secs(5);

impl SweepArgs {
    /// Waits, sweeps, and tells whether the directory is gone.
    ///
    /// # Errors
    ///
    /// It is still there.
    pub(crate) fn run(&self) -> Result<()> {
        // Before it can have gone.
        let owner = parent_id();
        // Only the end is waited for, and an error is one.
        let _ = io::stdin().lock().read_to_end(&mut Vec::new());
        let until = Instant::now() + LIMIT;
        loop {
            client::kill_those_of(owner);
            self.unmount();
            match fs::remove_dir(&self.dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(_) if Instant::now() < until => thread::sleep(Duration::from_millis(10)),
                removed => return removed.context("cannot remove the directory"),
            }
        }
    }

    /// Unmounts, and has errors found out when the directory is removed.
    fn unmount(&self) {
        let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
        if unmount(&self.dir, flags) == Err(rustix::io::Errno::PERM) {
            let mut program = Command::new("fusermount3");
            program.arg("-uz").arg(&self.dir);
            let _ = program.stdin(Stdio::null()).stderr(Stdio::null()).status();
        }
    }
}
