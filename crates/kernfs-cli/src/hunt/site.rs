//! Where a worker mounts: one directory, one tree at a time.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use kernfs::{Manners, Tree};
use kernfs_fuse::{Mount, MountOptions, Tap};
use rustix::process::geteuid;

use crate::sweep::Sweeper;

/// A directory to mount on; it goes when this is dropped, or the process.
pub(crate) struct Site {
    path: PathBuf,
    /// Takes the directory away, and what is mounted there, when this process has gone.
    sweeper: Option<Sweeper>,
}

/// How long a mount may be stuck: as long as it takes to be sure.
const PATIENCE: Duration = Duration::from_secs(20);

impl Site {
    /// Makes a directory that only this user can enter.
    ///
    /// # Errors
    ///
    /// There is no place for one, or nobody to sweep it.
    pub(crate) fn new() -> Result<Self> {
        // Not removed by its own drop, which would go into what is mounted there. All have paths
        // of one length, so that outputs with paths in them have one length too.
        let dir = tempfile::Builder::new().prefix("kernfs-hunt-").tempdir();
        let path = dir.context("cannot make a directory to mount on")?.keep();
        // The sweeper works elsewhere.
        let path = fs::canonicalize(path)?;
        let mut site = Self { path, sweeper: None };
        site.sweeper = Some(Sweeper::start(&site.path)?);
        Ok(site)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Mounts a tree, and lets all that is done there be seen.
    ///
    /// # Errors
    ///
    /// It cannot be mounted.
    pub(crate) fn mount(&self, tree: &Tree, tap: Arc<dyn Tap>) -> Result<Mount> {
        let options = MountOptions::new().fsname("kernfs-hunt").watchdog(PATIENCE).tap(tap);
        // Watchers are told some time after the action: no run would be like another.
        let options = options.without_inotify();
        // For commands that give up being root; others get no further than to the directory.
        let is_root = geteuid().is_root();
        let options = if is_root { options.allow_other() } else { options };
        options.mount(tree, &self.path).context("cannot mount the tree")
    }
}

/// Makes a tree in which the recorded one can be served as it was.
pub(crate) fn tree() -> Tree {
    Tree::builder().manners(Manners::Sysfs).build()
}

impl Drop for Site {
    fn drop(&mut self) {
        // The sweeper tries for longer, and unmounts whatever is in its way.
        let _ = fs::remove_dir(&self.path);
        drop(self.sweeper.take());
    }
}
