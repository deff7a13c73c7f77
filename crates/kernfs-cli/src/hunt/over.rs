//! A command that sees a directory in another place, and nobody else does: `kernfs over`.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Error, Result};
use clap::Args;
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use rustix::process::{getgid, getuid};

use crate::printable::printable;

/// Runs a command that sees a directory in another place; `kernfs hunt` starts it.
#[derive(Args, Debug)]
pub(crate) struct OverArgs {
    /// The directory.
    from: PathBuf,
    /// The place.
    dir: PathBuf,
    /// The command, with its arguments.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// The exit status when there is no such place to be had, or no such command, as that of env(1).
pub(crate) const FAILED: u8 = 125;

/// Prepares a command so that it sees `from` at `dir`.
pub(crate) fn command(from: &Path, dir: &Path, command: &[OsString]) -> Command {
    let mut program = Command::new("/proc/self/exe");
    program.arg("over").arg(from).arg(dir).arg("--").args(command);
    program
}

impl OverArgs {
    /// Becomes the command, or says why not.
    ///
    /// # Errors
    ///
    /// None.
    pub(crate) fn run(self) -> Result<ExitCode> {
        let Err(error) = self.become_command();
        eprintln!("kernfs: {error:#}");
        Ok(ExitCode::from(FAILED))
    }

    fn become_command(self) -> Result<Infallible> {
        leave()?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .context("cannot keep mounts to ourselves")?;
        mount_bind(&self.from, &self.dir)
            .with_context(|| format!("cannot mount over {}", printable(&self.dir)))?;
        let [program, args @ ..] = &self.command[..] else { unreachable!("clap wants one") };
        let error = Command::new(program).args(args).exec();
        Err(Error::from(error).context(format!("cannot start {}", printable(program))))
    }
}

/// Leaves the mount namespace; who may not do so becomes the master of a user namespace first.
fn leave() -> Result<()> {
    let context = "cannot have a mount namespace";
    match unshare(CloneFlags::CLONE_NEWNS) {
        Err(Errno::EPERM) => {}
        left => return left.context(context),
    }
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).context(context)?;
    // Where groups cannot be given up they cannot be mapped.
    fs::write("/proc/self/setgroups", "deny").context(context)?;
    fs::write("/proc/self/uid_map", format!("{uid} {uid} 1")).context(context)?;
    fs::write("/proc/self/gid_map", format!("{gid} {gid} 1")).context(context)
}
