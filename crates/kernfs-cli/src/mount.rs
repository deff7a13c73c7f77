//! `kernfs mount`: a tree at a directory, in the foreground, until a signal comes.

mod replay;

use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Subcommand};
use kernfs::Tree;
use kernfs_fuse::MountOptions;

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
}

impl MountArgs {
    pub(crate) fn run(self) -> Result<ExitCode> {
        match self.what {
            What::Replay(args) => args.run(),
        }
    }
}

/// How often it is looked at whether somebody has unmounted it; signals are heard at once.
const LOOK: Duration = Duration::from_millis(200);

/// Mounts a tree, says so in one line, and serves it until SIGINT or SIGTERM comes, or somebody
/// unmounts it.
///
/// # Errors
///
/// [`WrongUsage`] if the directory cannot be mounted on; or it cannot be unmounted.
pub(crate) fn serve(tree: &Tree, dir: &Path, options: &MountOptions, what: &str) -> Result<()> {
    let (told, stopped) = mpsc::channel();
    let patience = Patience::default();
    // Before there is anything to clear away.
    patience.listen(Box::new(move |signal| {
        // Nobody listens any more once it has ended.
        let _ = told.send(signal);
    }))?;
    let mount = options.mount(tree, dir).map_err(|error| {
        let error = printable(error.to_string());
        WrongUsage::from_error(format!("{error}; expected an existing directory to mount on"))
    })?;
    let dir = printable(dir);
    terminal::print(&format!("{what} is mounted at {dir}; SIGINT or SIGTERM unmounts it\n"))?;
    while stopped.recv_timeout(LOOK).is_err() {
        if mount.wait_timeout(Duration::ZERO) {
            break;
        }
    }
    mount.unmount()?;
    patience.end();
    Ok(())
}
