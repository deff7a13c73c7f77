//! What a command must not leave behind, however it ends: processes, a mount, directories.
//!
//! They are cleared away on each way out that a process can take by itself. For those that it
//! cannot, [`sweep`](crate::sweep) is another process, and holders end by themselves.

use std::fs;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kernfs_fuse::Mount;

use crate::sweep::Sweeper;

/// All that belongs to the command; what is added after the end is refused.
#[derive(Default)]
pub(crate) struct Belongings(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    ended: bool,
    releases: Vec<Box<dyn FnOnce() + Send>>,
    processes: Vec<Child>,
    mount: Option<Mount>,
    dir: Option<TemporaryDir>,
    group: Option<TemporaryDir>,
}

/// A directory of our own; taken away by whoever is left.
struct TemporaryDir {
    path: PathBuf,
    /// Takes the directory away, and what is mounted there, when this process has gone.
    sweeper: Sweeper,
}

impl Belongings {
    /// Starts a process that talks over pipes, and is out of reach of the terminal's signals.
    ///
    /// # Errors
    ///
    /// It could not be started, or all has ended.
    pub(crate) fn start(&self, program: &mut Command) -> Result<(u32, ChildStdin, ChildStdout)> {
        let mut inner = self.open()?;
        let mut child = program.process_group(0).spawn().context("cannot start a process")?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let pid = child.id();
        inner.processes.push(child);
        let (stdin, stdout) = pipes.context("a process without pipes")?;
        Ok((pid, stdin, stdout))
    }

    /// Makes a directory that only this user can enter.
    ///
    /// # Errors
    ///
    /// There is no place for one, or all has ended.
    pub(crate) fn temporary_dir(&self) -> Result<PathBuf> {
        let mut inner = self.open()?;
        let dir = TemporaryDir::new_in(&std::env::temp_dir());
        let dir = dir.context("cannot make a directory to mount on")?;
        let path = dir.path.clone();
        inner.dir = Some(dir);
        Ok(path)
    }

    /// Makes a group of cgroup2 in another one: a directory there.
    ///
    /// # Errors
    ///
    /// It cannot be made there, or all has ended.
    pub(crate) fn group(&self, parent: &Path) -> Result<PathBuf> {
        let mut inner = self.open()?;
        let group = TemporaryDir::new_in(parent)?;
        let path = group.path.clone();
        inner.group = Some(group);
        Ok(path)
    }

    /// Takes a mount as soon as it is made.
    ///
    /// # Errors
    ///
    /// What making it gave, or all has ended.
    pub(crate) fn mount<E>(&self, make: impl FnOnce() -> Result<Mount, E>) -> Result<bool>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        let mut inner = self.open()?;
        let mount = make()?;
        let recovered = mount.recovered();
        inner.mount = Some(mount);
        Ok(recovered)
    }

    /// Has something done before all else at the end: what lets drivers go that wait.
    ///
    /// A mount is not unmounted before they have left.
    pub(crate) fn release_at_end(&self, release: impl FnOnce() + Send + 'static) {
        self.lock().releases.push(Box::new(release));
    }

    /// Returns how many requests the mount has that are not answered yet.
    pub(crate) fn parked_requests(&self) -> usize {
        self.lock().mount.as_ref().map_or(0, |mount| mount.stats().parked)
    }

    /// Waits for the end of a process; returns the signal that killed it, if one did.
    pub(crate) fn killed_by(&self, pid: u32, until: Instant) -> Option<i32> {
        loop {
            let mut inner = self.lock();
            let process = inner.processes.iter_mut().find(|process| process.id() == pid)?;
            if let Ok(Some(status)) = process.try_wait() {
                return status.signal();
            }
            drop(inner);
            if Instant::now() >= until {
                return None;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Removes a directory that was made in vain.
    pub(crate) fn remove_dir(&self) {
        if let Some(dir) = self.lock().dir.take() {
            // There is nobody to be told, and the sweeper tries again.
            let _ = dir.remove();
        }
    }

    /// Clears everything away, and lets nothing be added any more.
    ///
    /// # Errors
    ///
    /// What could not be cleared away; the rest is.
    pub(crate) fn clear(&self) -> Result<()> {
        let mut inner = self.lock();
        inner.ended = true;
        inner.releases.drain(..).for_each(|release| release());
        let mut processes = std::mem::take(&mut inner.processes);
        // So that nobody is inside when it is unmounted.
        end(&mut processes);
        let unmounted = inner.mount.take().map_or(Ok(()), Mount::unmount);
        // Those that were stuck in the mount.
        end(&mut processes);
        let removed = inner.dir.take().map_or(Ok(()), TemporaryDir::remove);
        let group_removed = inner.group.take().map_or(Ok(()), TemporaryDir::remove);
        unmounted?;
        removed.context("cannot remove the directory that was mounted on")?;
        group_removed.context("cannot remove the group of cgroup2")
    }

    fn open(&self) -> Result<MutexGuard<'_, Inner>> {
        let inner = self.lock();
        ensure!(!inner.ended, "too late: all is being cleared away");
        Ok(inner)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Belongings {
    fn drop(&mut self) {
        // Who wanted to know has called it before.
        let _ = self.clear();
    }
}

impl TemporaryDir {
    fn new_in(parent: &Path) -> Result<Self> {
        // Mode 0700. Not removed by its own drop, which would go into what is mounted there.
        let path = tempfile::Builder::new().prefix("kernfs-demo-").tempdir_in(parent)?.keep();
        // The sweeper works elsewhere.
        let path = fs::canonicalize(path)?;
        let sweeper = Sweeper::start(&path).inspect_err(|_| drop(fs::remove_dir(&path)))?;
        Ok(Self { path, sweeper })
    }

    fn remove(self) -> io::Result<()> {
        let removed = fs::remove_dir(&self.path);
        // Tries for longer, and unmounts whatever is in its way.
        drop(self.sweeper);
        if self.path.symlink_metadata().is_ok() { removed } else { Ok(()) }
    }
}

/// How long a killed process may take to end: it has nothing to do but to close its files.
const END_LIMIT: Duration = Duration::from_secs(2);

/// Kills processes, and waits for those that do end.
fn end(processes: &mut Vec<Child>) {
    for process in &mut *processes {
        // Fails for those that have ended.
        let _ = process.kill();
    }
    let until = Instant::now() + END_LIMIT;
    while !processes.is_empty() && Instant::now() < until {
        processes.retain_mut(|process| matches!(process.try_wait(), Ok(None)));
        if !processes.is_empty() {
            thread::sleep(Duration::from_millis(1));
        }
    }
}
