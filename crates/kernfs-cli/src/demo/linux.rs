//! Linux's own kernfs beside ours: the same holders meet the rmdir(2) of a group of cgroup2.
//!
//! The group is a directory that nobody is a member of, so that only its files are held. What its
//! files cannot offer to a holder is not made up.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::belongings::Belongings;
use crate::demo::answer::Answer;
use crate::demo::holder::Holder;
use crate::demo::moment::Moment;
use crate::demo::role::{CGROUP_STAT, Place, Role};
use crate::printable::printable;
use crate::wrong_usage::WrongUsage;

/// A group of cgroup2, and who holds it.
pub(crate) struct Linux {
    group: PathBuf,
    holders: Vec<(Role, Result<Holder, &'static str>)>,
}

/// What Linux gave.
pub(crate) struct Comparison {
    /// The version of the kernel.
    pub(crate) release: String,
    /// The group that was removed.
    pub(crate) group: PathBuf,
    /// How long rmdir(2) took.
    pub(crate) removed: Duration,
    /// What became of each holder of the table.
    pub(crate) fates: Vec<(Role, Fate)>,
}

/// What became of a holder.
pub(crate) enum Fate {
    /// It was let go with an answer, so long after rmdir(2) began.
    Got(PathBuf, Answer, Duration),
    /// So long after rmdir(2) began, it had not been woken.
    StillAsleep(PathBuf, Duration),
    /// It gave no answer, but was not asleep either.
    Silent(PathBuf),
    /// There is nothing like it, and why.
    NotOffered(&'static str),
}

/// How long who is asleep is given to wake: thousands of times as long as those need who do.
const PATIENCE: Duration = Duration::from_secs(1);

impl Linux {
    /// Makes a group; it becomes one of the belongings.
    ///
    /// # Errors
    ///
    /// [`WrongUsage`] where there can be none.
    pub(crate) fn open(belongings: &Belongings) -> Result<Self> {
        let mounts = fs::read("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
        let own = fs::read("/proc/self/cgroup").unwrap_or_default();
        let mut refused = None;
        for parent in parents(&mounts, &own) {
            match belongings.group(&parent) {
                Ok(group) => return Ok(Self { group, holders: Vec::new() }),
                Err(error) => {
                    // A stop must not look like a machine without cgroup2.
                    let refusal = error.downcast::<io::Error>()?;
                    refused.get_or_insert((parent, refusal));
                }
            }
        }
        let why = refused.map_or("/proc/self/mounts has none".into(), |(parent, error)| {
            // The message names what was to be made.
            printable(format!("in {}: {}", parent.display(), reason(&error)))
        });
        let missing = "--kernel needs a cgroup2 where groups can be made";
        Err(WrongUsage::from_error(format!("{missing}; {why}")).into())
    }

    /// Lets everybody take hold of whom cgroup2 has something for, and returns when all have.
    ///
    /// # Errors
    ///
    /// Somebody could not.
    pub(crate) fn take_hold(
        &mut self,
        roles: &[(Role, Place)],
        limit: Duration,
        belongings: &Belongings,
    ) -> Result<()> {
        let text = fs::read(self.group.join(CGROUP_STAT)).context("cannot read a group")?;
        for &(role, _) in roles {
            let start = |holds: &'static str| {
                let (dir, half) = (&self.group, text.len() / 2);
                Holder::start_process(role, dir, holds.into(), half, belongings)
            };
            let holder = match role.holds_of_cgroup2() {
                Ok(holds) => Ok(start(holds)?),
                Err(why) => Err(why),
            };
            self.holders.push((role, holder));
        }
        let mut holders = self.holders.iter_mut().filter_map(|(_, holder)| holder.as_mut().ok());
        holders.try_for_each(|holder| holder.wait_until_it_holds(limit))
    }

    /// Removes the group, and ends those whom that has not woken.
    ///
    /// # Errors
    ///
    /// It cannot be removed.
    pub(crate) fn remove(mut self, belongings: &Belongings) -> Result<Comparison> {
        let (begun, until) = (Moment::now(), Instant::now() + PATIENCE);
        fs::remove_dir(&self.group).context("cannot remove the group of cgroup2")?;
        let removed = Moment::now().since(begun);
        let holders = self.holders.iter_mut().filter_map(|(_, holder)| holder.as_mut().ok());
        holders.for_each(Holder::look);

        let fate = |(role, holder): &(Role, Result<Holder, &'static str>)| match holder {
            Ok(holder) => (*role, fate(holder, begun, until, belongings)),
            Err(why) => (*role, Fate::NotOffered(why)),
        };
        let fates = self.holders.iter().map(fate).collect();
        let end = Instant::now() + PATIENCE;
        let holders = self.holders.into_iter().filter_map(|(_, holder)| holder.ok());
        holders.for_each(|holder| holder.close(end));
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        Ok(Comparison { release, group: self.group, removed, fates })
    }
}

fn fate(holder: &Holder, begun: Moment, until: Instant, belongings: &Belongings) -> Fate {
    let holds = holder.holds.clone();
    match holder.got(until, belongings) {
        Some((answer, at)) => Fate::Got(holds, answer, at.since(begun)),
        None if holder.sleeps_on() => Fate::StillAsleep(holds, Moment::now().since(begun)),
        None => Fate::Silent(holds),
    }
}

/// Returns the directories of cgroup2 where this process may be allowed to make a group: below its
/// own one, or else below the top of what it sees.
fn parents(mounts: &[u8], own: &[u8]) -> Vec<PathBuf> {
    let own = own.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"0::/"));
    let own = own.map(|path| PathBuf::from(OsString::from_vec(path.to_vec())));
    let mut parents = Vec::new();
    for line in mounts.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b' ').skip(1);
        let (Some(path), Some(kind), Some(options)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let is_writable = options.split(|byte| *byte == b',').any(|option| option == b"rw");
        if kind == b"cgroup2" && is_writable {
            let top = PathBuf::from(OsString::from_vec(unescaped(path)));
            parents.extend(own.as_ref().map(|own| top.join(own)));
            parents.push(top);
        }
    }
    parents.dedup_by(|one, other| Path::new(one).components().eq(other.components()));
    parents
}

/// Returns a path of /proc/self/mounts, where blanks and the like are three octal digits.
fn unescaped(path: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut rest = path;
    while let [first, behind @ ..] = rest {
        let digits = behind.get(..3).and_then(|digits| str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        (rest, _) = match (first, byte) {
            (b'\\', Some(byte)) => (&behind[3..], plain.push(byte)),
            _ => (behind, plain.push(*first)),
        };
    }
    plain
}

/// Returns what the system says, without the path that was tried.
fn reason(error: &io::Error) -> String {
    io::Error::from(error.kind()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parents_of(mounts: &str, own: &str) -> Vec<String> {
        let parents = parents(mounts.as_bytes(), own.as_bytes());
        parents.into_iter().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn groups_are_made_below_the_own_one_or_at_the_top() {
        let mounts = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,relatime 0 0\n";
        let own = "8:pids:/\n0::/user.slice/a\n";
        assert_eq!(parents_of(mounts, own), ["/sys/fs/cgroup/user.slice/a", "/sys/fs/cgroup"]);
        assert_eq!(parents_of(mounts, "0::/\n"), ["/sys/fs/cgroup/"]);
        assert_eq!(parents_of(mounts, ""), ["/sys/fs/cgroup"]);
    }

    #[test]
    fn what_is_read_only_or_not_cgroup2_is_passed_over() {
        let mounts = "cgroup2 /a cgroup2 ro 0 0\ncgroup /b cgroup rw 0 0\nbroken\n";
        assert!(parents_of(mounts, "0::/\n").is_empty());
    }

    #[test]
    fn blanks_in_paths_are_understood() {
        assert_eq!(unescaped(br"/a\040b\134c\9\0"), br"/a b\c\9\0");
        let mounts = "cgroup2 /with\\040blank cgroup2 rw 0 0\n";
        assert_eq!(parents_of(mounts, ""), ["/with blank"]);
    }
}
