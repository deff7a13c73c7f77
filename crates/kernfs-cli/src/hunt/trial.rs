//! One run of the command.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kernfs_replay::{Image, ServeOptions};

use super::over;
use super::site::{Site, tree};
use super::trap::{Plan, Seen, Trap};
use crate::client::whereabouts::Whereabouts;
use crate::client::{Captured, Client, Outcome, Output};
use crate::printable::printable;
use crate::wrong_usage::WrongUsage;

/// The command, and the tree that it is let loose on.
pub(crate) struct Subject {
    pub(crate) image: Arc<Image>,
    /// The program with its arguments; `{}` stands for the mounted tree.
    pub(crate) command: Vec<OsString>,
    /// Where the tree is to be seen besides.
    pub(crate) over: Option<PathBuf>,
    /// How long a run may take.
    pub(crate) limit: Duration,
    /// Set when all is to end.
    pub(crate) stop: Arc<AtomicBool>,
}

/// What one run came to.
#[derive(Clone, Debug)]
pub(crate) struct Trial {
    pub(crate) outcome: Outcome,
    pub(crate) after: Duration,
    pub(crate) stdout: Printed,
    pub(crate) stderr: Printed,
    pub(crate) seen: Seen,
}

/// An output, in which `{}` stands for the directory of the mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Printed {
    /// The last bytes of it.
    pub(crate) bytes: Vec<u8>,
    /// How many there were.
    pub(crate) total: u64,
}

/// How long a removal may take once its clients have gone.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// How often it is looked whether all is to end.
const GLANCE: Duration = Duration::from_millis(100);

impl Subject {
    /// Runs the command on a tree that is like new, with a plan or undisturbed.
    ///
    /// # Errors
    ///
    /// It cannot be started, or mounted; or all is to end.
    pub(crate) fn run(&self, site: &Site, plan: Option<Plan>) -> Result<Trial> {
        let tree = tree();
        let options = ServeOptions::new().writable();
        let served = self.image.serve(&tree, &options).context("cannot serve the tree")?;
        let trap = Arc::new(Trap::new(served, plan));
        let mount = site.mount(&tree, trap.clone())?;
        let ended = self.run_at(site.path());
        // Whatever the command has left there is cut off.
        mount.unmount().context("cannot unmount the tree")?;
        for removal in trap.take_removals() {
            if removal.wait_timeout(DRAIN_LIMIT).is_err() {
                bail!("a bug: what was taken away did not come to rest");
            }
        }
        let (mut outcome, after, stdout, stderr) = ended?;
        let dir = site.path();
        if let Outcome::Hang(threads) = &mut outcome {
            threads.iter_mut().for_each(|thread| without_dir(thread, dir));
        }
        let (stdout, stderr) = (Printed::new(&stdout, dir), Printed::new(&stderr, dir));
        Ok(Trial { outcome, after, stdout, stderr, seen: trap.take_seen() })
    }

    fn run_at(&self, dir: &Path) -> Result<(Outcome, Duration, Captured, Captured)> {
        let client = Client::start(&mut self.command_at(dir), Output::Captured)
            .map_err(|error| WrongUsage::from_error(format!("{error:#}")))?;
        let until = client.started() + self.limit;
        loop {
            if self.stop.load(Ordering::Relaxed) {
                // Dropping the client kills it.
                bail!("all is to end");
            }
            let now = Instant::now();
            if now >= until || client.has_ended_by(until.min(now + GLANCE))? {
                break;
            }
        }
        let ended = client.wait_until(until)?;
        if let Some(pid) = ended.left.first() {
            bail!("process {pid} of the command cannot be killed");
        }
        Ok((ended.outcome, ended.after, ended.stdout, ended.stderr))
    }

    fn command_at(&self, dir: &Path) -> Command {
        let words: Vec<_> = self.command.iter().map(|word| fill_in(word, dir)).collect();
        if let Some(over) = &self.over {
            return over::command(dir, over, &words);
        }
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command
    }
}

/// Stands for the mounted tree in a command.
pub(crate) const PLACE: &str = "{}";

/// Puts a directory in the place of each [`PLACE`].
pub(crate) fn fill_in(word: &OsStr, dir: &Path) -> OsString {
    let filled = replaced(word.as_bytes(), PLACE.as_bytes(), dir.as_os_str().as_bytes());
    OsString::from_vec(filled)
}

/// Puts one text in the place of another, wherever it stands.
fn replaced(text: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        if let Some(behind) = rest.strip_prefix(from) {
            out.extend_from_slice(to);
            rest = behind;
        } else {
            out.push(rest[0]);
            rest = &rest[1..];
        }
    }
    out
}

/// Has the paths of a thread the same wherever the tree is mounted.
fn without_dir(thread: &mut Whereabouts, dir: &Path) {
    for path in thread.call.iter_mut().flat_map(|call| &mut call.on) {
        *path = path.replace(&printable(dir), PLACE);
    }
}

impl Printed {
    fn new(captured: &Captured, dir: &Path) -> Self {
        let bytes = replaced(&captured.bytes, dir.as_os_str().as_bytes(), PLACE.as_bytes());
        Self { bytes, total: captured.total }
    }

    /// Returns what is kept as text, as it came; mind where it is printed.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_is_filled_in() {
        let filled = |word: &str| fill_in(word.as_ref(), Path::new("/m"));
        assert_eq!(filled("a"), "a");
        assert_eq!(filled("--sys={}/sys:{}"), "--sys=/m/sys:/m");
        assert_eq!(filled("{}"), "/m");
        assert_eq!(filled("{"), "{");
    }
}
