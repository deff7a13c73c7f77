//! The files of a group in the control tree.

use std::fmt::Write;
use std::sync::Mutex;

use kernfs::{Draining, Errno, FileOps, OpenFlags, OpenOp, ReadOp, WriteOp};
use kernfs_psi::{Resource, Stall};

use super::StallShares;
use crate::group::Group;
use crate::lock;
use crate::memory::MemoryEvent;
use crate::parse::{self, Limit, strip};

/// The driver of a file in the control tree.
pub(super) enum ControlFile {
    /// `memory.stall` and the like.
    Stall(StallFile),
    /// `memory.current`
    Memory(Group),
    /// `memory.events`
    Events(Group),
    /// `sever`
    Sever(Group),
}

impl ControlFile {
    pub(super) fn stall(group: Group, resource: Resource) -> Self {
        Self::Stall(StallFile { group, resource, set: Mutex::default() })
    }

    fn show(&self, text: &mut String) {
        // Writing to a string does not fail.
        let _ = match self {
            Self::Stall(file) => write!(text, "{}", *lock(&file.set)),
            Self::Memory(group) => writeln!(text, "{}", group.memory_current()),
            Self::Events(group) => MemoryEvent::ALL
                .into_iter()
                .try_for_each(|event| writeln!(text, "{event} {}", group.memory_events(event))),
            Self::Sever(_) => Ok(()),
        };
    }

    /// Takes what was written; the answer may have to wait for a removal.
    fn store(&self, text: &[u8]) -> Result<Option<Draining>, Errno> {
        match self {
            Self::Stall(file) => file.change(text)?,
            Self::Memory(group) => match parse::memory(strip(text))? {
                Limit::At(bytes) => group.set_memory_current(bytes)?,
                Limit::Max => return Err(Errno::ERANGE),
            },
            Self::Events(group) => {
                for (event, count) in parse_events(text)? {
                    group.set_memory_events(event, count)?;
                }
            }
            Self::Sever(group) => {
                return parse::switch(strip(text))?.then(|| group.sever()).transpose();
            }
        }
        Ok(None)
    }
}

impl FileOps for ControlFile {
    type Open = ();

    fn open(&self, op: &mut OpenOp<'_>) -> Result<(), Errno> {
        let is_read = op.flags().contains(OpenFlags::READ);
        // Root may open what has no read permission.
        if is_read && matches!(self, Self::Sever(_)) { Err(Errno::EACCES) } else { Ok(()) }
    }

    fn read(&self, (): &mut (), op: &mut ReadOp<'_>) -> Result<(), Errno> {
        let mut text = String::new();
        self.show(&mut text);
        op.push(text.as_bytes());
        Ok(())
    }

    fn write(&self, (): &mut (), op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        let len = op.data().len();
        // As in sysfs, nothing is not stored.
        if len > 0
            && let Some(draining) = self.store(op.data())?
        {
            op.answer_after(draining);
        }
        Ok(len)
    }
}

/// The driver of `memory.stall` and the like.
pub(super) struct StallFile {
    group: Group,
    resource: Resource,
    /// What was written last; not held while pollers are woken.
    set: Mutex<StallShares>,
}

impl StallFile {
    fn change(&self, text: &[u8]) -> Result<(), Errno> {
        let mut shares = {
            let mut set = lock(&self.set);
            *set = set.changed_by(text)?;
            *set
        };
        loop {
            for stall in [Stall::Some, Stall::Full] {
                self.group.pressure().set_share(self.resource, stall, shares.of(stall));
            }
            // Somebody may have written meanwhile, and set his before this was.
            let set = *lock(&self.set);
            if set == shares {
                return Ok(());
            }
            shares = set;
        }
    }
}

/// Reads `oom_kill 3`, one or more of that.
fn parse_events(text: &[u8]) -> Result<Vec<(MemoryEvent, u64)>, Errno> {
    let text = std::str::from_utf8(strip(text)).map_err(|_| Errno::EINVAL)?;
    let mut words = text.split_ascii_whitespace();
    let mut events = Vec::new();
    while let Some(name) = words.next() {
        let count = parse::long(words.next().ok_or(Errno::EINVAL)?.as_bytes())?;
        events.push((name.parse()?, u64::try_from(count).map_err(|_| Errno::ERANGE)?));
    }
    if events.is_empty() { Err(Errno::EINVAL) } else { Ok(events) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_names_with_counts() {
        assert_eq!(parse_events(b"oom_kill 3\n"), Ok(vec![(MemoryEvent::OomKill, 3)]));
        let two = Ok(vec![(MemoryEvent::Low, 0), (MemoryEvent::Max, 16)]);
        assert_eq!(parse_events(b" low 0\nmax 0x10\n"), two);
        for text in ["", "\n", "oom", "oom x", "OOM 1", "1 oom", "oom 1 2", "oom 1, max 2"] {
            assert_eq!(parse_events(text.as_bytes()), Err(Errno::EINVAL), "{text:?}");
        }
        for text in ["oom -1", "oom 99999999999999999999"] {
            assert_eq!(parse_events(text.as_bytes()), Err(Errno::ERANGE), "{text:?}");
        }
    }
}
