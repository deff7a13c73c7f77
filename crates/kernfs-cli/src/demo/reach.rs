//! How holders reach the tree: through a mount where there can be one, else in process.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use kernfs::Tree;
use kernfs_fuse::{MountError, MountOptions};
use serde::{Serialize, Serializer};

use crate::belongings::Belongings;
use crate::demo::role::{Place, Role};
use crate::printable::printable;
use crate::wrong_usage::WrongUsage;

/// What was asked for.
#[derive(Clone, Debug)]
pub(crate) enum Wanted {
    /// A mount on a directory of our own if possible.
    MountIfPossible,
    /// A mount on this directory.
    MountOn(PathBuf),
    /// No mount.
    InProcess,
}

/// How holders reach the tree, and why so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Reach {
    /// The way.
    pub(crate) mode: Mode,
    /// Why it was chosen.
    pub(crate) why: String,
    /// Where the tree is mounted.
    #[serde(serialize_with = "escaped")]
    pub(crate) mounted_on: Option<PathBuf>,
    /// Whether a dead mount of a former run was cleared away first.
    pub(crate) recovered: bool,
}

/// A way to reach the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    /// Through a mount, from other processes.
    Mount,
    /// Through the library, from threads.
    InProcess,
}

/// What a directory to be mounted on has to be.
const EXPECTED: &str = "an existing directory apart from the one that is copied, with nothing \
                        mounted on it, and a /dev/fuse that can be used";

/// How long a demo that is stopped, or stuck, keeps its mount; it is done in far less.
const PATIENCE: Duration = Duration::from_secs(20);

impl Reach {
    /// Makes the tree reachable; a mount becomes one of the belongings.
    ///
    /// # Errors
    ///
    /// [`WrongUsage`] if the directory that was asked for cannot be mounted on.
    pub(crate) fn open(
        tree: &Tree,
        wanted: &Wanted,
        copied: Option<&Path>,
        belongings: &Belongings,
    ) -> Result<Self> {
        match wanted {
            Wanted::InProcess => Ok(Self::in_process("--in-process was given".into())),
            Wanted::MountOn(dir) => {
                check_apart(dir, copied)?;
                let recovered = mount(tree, dir, belongings)
                    .map_err(|error| wrong(&printable(error.to_string())))?;
                Ok(Self {
                    mode: Mode::Mount,
                    why: "--mount was given".into(),
                    mounted_on: Some(dir.clone()),
                    recovered,
                })
            }
            Wanted::MountIfPossible => Self::mount_if_possible(tree, belongings),
        }
    }

    /// Returns who can hold the tree, and where they live.
    pub(crate) fn roles(&self) -> &'static [(Role, Place)] {
        match self.mode {
            Mode::Mount => &Role::MOUNTED,
            Mode::InProcess => &Role::IN_PROCESS,
        }
    }

    fn mount_if_possible(tree: &Tree, belongings: &Belongings) -> Result<Self> {
        let dir = match belongings.temporary_dir() {
            Ok(dir) => dir,
            Err(error) => return Ok(Self::in_process(printable(format!("{error:#}")))),
        };
        match mount(tree, &dir, belongings) {
            Ok(recovered) => Ok(Self {
                mode: Mode::Mount,
                why: "/dev/fuse can be used".into(),
                mounted_on: Some(dir),
                recovered,
            }),
            Err(error) => {
                belongings.remove_dir();
                // A stop must not look like a machine without FUSE.
                error
                    .downcast::<MountError>()
                    .map(|error| Self::in_process(printable(error.to_string())))
            }
        }
    }

    fn in_process(why: String) -> Self {
        Self { mode: Mode::InProcess, why, mounted_on: None, recovered: false }
    }
}

/// Serializes a path, which may be any bytes.
#[expect(clippy::ref_option, reason = "serde gives it")]
fn escaped<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    path.as_ref().map(printable).serialize(serializer)
}

/// Mounts; tells whether a dead mount was cleared away.
fn mount(tree: &Tree, dir: &Path, belongings: &Belongings) -> Result<bool> {
    belongings
        .mount(|| MountOptions::new().fsname("kernfs-demo").watchdog(PATIENCE).mount(tree, dir))
}

/// Makes sure that the copied files are not hidden by the mount that reads them.
fn check_apart(dir: &Path, copied: Option<&Path>) -> Result<(), WrongUsage> {
    let (Some(copied), Ok(dir)) = (copied, fs::canonicalize(dir)) else {
        return Ok(());
    };
    if dir.starts_with(copied) || copied.starts_with(&dir) {
        let (dir, copied) = (printable(dir), printable(copied));
        return Err(wrong(&format!("cannot mount at {dir}: {copied} is copied")));
    }
    Ok(())
}

fn wrong(why: &str) -> WrongUsage {
    WrongUsage::from_error(format!("{why}; expected {EXPECTED}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    #[test]
    fn a_mount_never_hides_what_it_copies() {
        let dir = TempDir::new().unwrap();
        let copied = fs::canonicalize(dir.path()).unwrap();
        let inner = copied.join("inner");
        fs::create_dir(&inner).unwrap();
        assert!(check_apart(&inner, Some(&copied)).is_err());
        assert!(check_apart(&copied, Some(&inner)).is_err());
        assert!(check_apart(&copied, Some(&copied)).is_err());
        assert!(check_apart(&copied, None).is_ok());
        let other = TempDir::new().unwrap();
        let error = check_apart(other.path(), Some(&copied));
        assert!(error.is_ok());
    }

    #[test]
    fn without_a_mount_it_says_why() {
        let tree = Tree::new();
        let reach = Reach::open(&tree, &Wanted::InProcess, None, &Belongings::default()).unwrap();
        assert_eq!((reach.mode, &*reach.why), (Mode::InProcess, "--in-process was given"));
        assert_eq!(reach.roles().len(), Role::IN_PROCESS.len());
    }

    #[test]
    fn a_directory_that_does_not_exist_is_refused() {
        let gone = TempDir::new().unwrap().path().join("gone\n");
        let wanted = Wanted::MountOn(gone);
        let error = Reach::open(&Tree::new(), &wanted, None, &Belongings::default()).unwrap_err();
        let error = error.to_string();
        assert!(error.starts_with("cannot mount at /"), "{error}");
        assert!(error.contains("gone\\n: ") && error.contains("; expected an existing"), "{error}");
    }
}
