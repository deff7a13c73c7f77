//! The members of groups: processes of our own, which can die.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};

/// All members; clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Crew(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    has_ended: bool,
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    group: String,
    child: Child,
}

impl Crew {
    /// Starts a member of a group, and lets it be put there.
    ///
    /// # Errors
    ///
    /// It cannot be started, or not be put there, or all has ended.
    pub(crate) fn hire(&self, group: &str, put: impl FnOnce(u32) -> Result<()>) -> Result<()> {
        let mut inner = self.lock();
        anyhow::ensure!(!inner.has_ended, "too late: all is being cleared away");
        let mut program = Command::new(own_program());
        // Out of reach of the terminal's signals. It ends with its input.
        program.arg("member").process_group(0);
        program.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = program.spawn().context("cannot start a member")?;
        let pid = child.id();
        inner.members.push(Member { group: group.to_owned(), child });
        drop(inner);
        put(pid)
    }

    /// Kills so many members of a group, the oldest first, or all; returns how many.
    pub(crate) fn kill(&self, group: &str, count: Option<u32>) -> usize {
        let mut inner = self.lock();
        inner.bury();
        let count = count.map_or(usize::MAX, |count| count as usize);
        let mut victims = Vec::new();
        let mut survivors = Vec::new();
        for member in inner.members.drain(..) {
            let is_one = member.group == group && victims.len() < count;
            (if is_one { &mut victims } else { &mut survivors }).push(member);
        }
        inner.members = survivors;
        // All at once, as a burst is.
        end(&mut victims);
        victims.len()
    }

    /// Lets the members of a group that has gone, and of those below, be nobody's.
    pub(crate) fn disband(&self, group: &str) {
        let below = format!("{group}/");
        for member in &mut self.lock().members {
            if member.group == group || member.group.starts_with(&below) {
                member.group.clear();
            }
        }
    }

    /// Waits for members that somebody else has killed: else they would be zombies.
    pub(crate) fn bury(&self) {
        self.lock().bury();
    }

    /// Ends all members, and lets none come any more.
    pub(crate) fn end(&self) {
        let mut inner = self.lock();
        inner.has_ended = true;
        end(&mut inner.members);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn bury(&mut self) {
        self.members.retain_mut(|member| matches!(member.child.try_wait(), Ok(None)));
    }
}

/// Returns the path of this program by its own name, which is that of the members then, if it is
/// still there.
fn own_program() -> PathBuf {
    let link = Path::new("/proc/self/exe");
    fs::read_link(link).ok().filter(|path| path.exists()).unwrap_or_else(|| link.into())
}

fn end(members: &mut [Member]) {
    for member in &mut *members {
        // Fails for those that have ended.
        let _ = member.child.kill();
    }
    for member in members {
        // They hold nothing that could hold them up.
        let _ = member.child.wait();
    }
}
