//! `kernfs mount`: trees at directories, in the foreground, until a signal comes.

// In the order in which to read them.
mod replay;

mod cgroup;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use kernfs::{Caller, Mode, SetAttr, Tree};
use kernfs_fuse::{Mount, MountOptions};

use self::cgroup::CgroupArgs;
use self::replay::ReplayArgs;
use crate::printable::printable;
use crate::signals::Patience;
use crate::terminal;
use crate::wrong_usage::WrongUsage;

/// Mounts a tree at a directory until it is told to stop.
#[derive(Args, Debug)]
pub(crate) struct MountArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Replay(ReplayArgs),
    Cgroup(CgroupArgs),
}

impl MountArgs {
    pub(crate) fn run(self) -> Result<ExitCode> {
        match self.what {
            What::Replay(args) => args.run(),
            What::Cgroup(args) => args.run(),
        }
    }
}

/// A tree, and where it is to be mounted.
pub(crate) struct Place<'a> {
    pub(crate) tree: &'a Tree,
    pub(crate) dir: &'a Path,
    pub(crate) options: MountOptions,
    /// What it is, to be said when it is mounted.
    pub(crate) what: String,
}

/// How often it is looked whether somebody has unmounted; signals are heard at once.
const LOOK: Duration = Duration::from_millis(200);

/// Mounts trees, says so in one line, and serves them until SIGINT or SIGTERM comes, or somebody
/// unmounts one of them; then unmounts all. A second signal kills.
///
/// # Errors
///
/// [`WrongUsage`] if a directory cannot be mounted on; nothing is left mounted then. Or one cannot
/// be unmounted; the others are.
pub(crate) fn serve(places: &[Place<'_>]) -> Result<()> {
    let (told, stopped) = mpsc::channel();
    let patience = Patience::default();
    // Before there is anything to clear away.
    patience.listen(Box::new(move |signal| {
        // Nobody listens any more once it has ended.
        let _ = told.send(signal);
    }))?;
    check_apart(places)?;
    let mount = |place: &Place<'_>| place.options.mount(place.tree, place.dir).map_err(wrong_place);
    let mounts = places.iter().map(mount).collect::<Result<Vec<_>>>()?;
    terminal::print(&ready(places, &mounts))?;
    let is_gone = |mount: &Mount| mount.wait_timeout(Duration::ZERO);
    while stopped.recv_timeout(LOOK).is_err() && !mounts.iter().any(is_gone) {}
    let unmounted: Vec<_> = mounts.into_iter().map(Mount::unmount).collect();
    patience.end();
    unmounted.into_iter().collect::<Result<(), _>>().context("still mounted")
}

/// What a directory to be mounted on has to be.
const EXPECTED: &str =
    "an existing directory with nothing mounted on it, and a /dev/fuse that can be used";

/// Turns the error of a mount that was asked for into one that says what was expected.
pub(crate) fn wrong_place(error: impl Into<anyhow::Error>) -> anyhow::Error {
    let error = error.into();
    // A stop must not look like a wrong directory.
    match error.downcast::<kernfs_fuse::MountError>() {
        Ok(error) => {
            let why = printable(error.to_string());
            WrongUsage::from_error(format!("{why}; expected {EXPECTED}")).into()
        }
        Err(error) => error,
    }
}

/// Makes sure that no mount hides another.
fn check_apart(places: &[Place<'_>]) -> Result<(), WrongUsage> {
    // What does not exist is found out when it is mounted on.
    let real = |place: &Place<'_>| fs::canonicalize(place.dir).ok();
    let real: Vec<PathBuf> = places.iter().filter_map(real).collect();
    for (index, one) in real.iter().enumerate() {
        let hides = |other: &&PathBuf| one.starts_with(other) || other.starts_with(one);
        if let Some(other) = real[..index].iter().find(hides) {
            let (one, other) = (printable(one), printable(other));
            let says = format!("cannot mount at {other} and at {one}; expected directories apart");
            return Err(WrongUsage::from_error(says));
        }
    }
    Ok(())
}

fn ready(places: &[Place<'_>], mounts: &[Mount]) -> String {
    let one = |place: &Place<'_>| format!("{} is mounted at {}", place.what, printable(place.dir));
    let all = places.iter().map(one).collect::<Vec<_>>().join(", ");
    let recovered = mounts.iter().any(Mount::recovered);
    let cleared = if recovered { " (a dead mount was cleared away)" } else { "" };
    let it = if places.len() == 1 { "it" } else { "them" };
    format!("{all}{cleared}; SIGINT or SIGTERM unmounts {it}\n")
}

/// Returns the user of this command as one who uses a tree.
pub(crate) fn caller() -> Caller {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    Caller::new(uid.as_raw(), gid.as_raw(), std::process::id())
}

/// Gives the root of a tree, and the files that are in it, to whoever mounts it: else only root
/// could make anything there.
pub(crate) fn own(tree: &Tree) {
    let caller = caller();
    let set = SetAttr { uid: Some(caller.uid), gid: Some(caller.gid), ..SetAttr::default() };
    tree.root().set_attr(&SetAttr { mode: Some(Mode::DIR), ..set });
    let client = tree.client(Caller::OWNER);
    let entries = client.open_dir("/").and_then(|dir| dir.entries(0, usize::MAX));
    for entry in entries.unwrap_or_default() {
        // What has just gone belongs to nobody.
        let _ = client.lookup(&entry.name).and_then(|node| node.set_attr(&Caller::OWNER, &set));
    }
}
