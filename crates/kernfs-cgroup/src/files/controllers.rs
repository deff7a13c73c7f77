//! The files of the memory and the pids controller.

use std::fmt::Write as _;

use kernfs::{Draining, Errno};

use super::Asked;
use crate::memory::{Memory, MemoryEvent};
use crate::parse::{self, Limit};
use crate::process::Status;

pub(super) fn memory_current(asked: &Asked<'_>) -> Result<String, Errno> {
    Ok(format!("{}\n", asked.core.rules().memory_current(asked.id)))
}

pub(super) fn memory_limit(
    asked: &Asked<'_>,
    limit: fn(&Memory) -> Limit<u64>,
) -> Result<String, Errno> {
    let rules = asked.core.rules();
    let node = rules.get(asked.id).ok_or(Errno::ENODEV)?;
    Ok(format!("{}\n", limit(&node.memory)))
}

/// Limits are kept and shown; whether anything comes of them is up to the owner, who says what the
/// group uses.
pub(super) fn set_memory_limit(
    asked: &Asked<'_>,
    limit: fn(&mut Memory) -> &mut Limit<u64>,
) -> Result<Option<Draining>, Errno> {
    let value = parse::memory(asked.text)?;
    let set = asked.core.set(asked.id, |node| *limit(&mut node.memory) = value);
    set.map_err(|_| Errno::ENODEV)?;
    Ok(None)
}

pub(super) fn memory_events(
    asked: &Asked<'_>,
    counts: fn(&Memory) -> &[u64; MemoryEvent::ALL.len()],
) -> Result<String, Errno> {
    let rules = asked.core.rules();
    let node = rules.get(asked.id).ok_or(Errno::ENODEV)?;
    let mut text = String::new();
    for event in MemoryEvent::ALL {
        let _ = writeln!(text, "{event} {}", counts(&node.memory)[event.index()]);
    }
    Ok(text)
}

/// Counts threads, as the kernel does, of the processes here and below.
pub(super) fn pids_current(asked: &Asked<'_>) -> Result<String, Errno> {
    let members = asked.core.members_below(asked.id);
    let threads = members.into_iter().filter_map(Status::of).map(|status| status.threads());
    Ok(format!("{}\n", threads.sum::<u64>()))
}

pub(super) fn pids_max(asked: &Asked<'_>) -> Result<String, Errno> {
    let rules = asked.core.rules();
    let node = rules.get(asked.id).ok_or(Errno::ENODEV)?;
    Ok(format!("{}\n", node.pids_max))
}

/// The number of processes that Linux cannot exceed (`PIDS_MAX`).
const MOST_PIDS: i64 = (4 << 20) + 1;

/// The limit is kept and shown. It could only forbid fork(2), for moving is free of it.
pub(super) fn set_pids_max(asked: &Asked<'_>) -> Result<Option<Draining>, Errno> {
    let limit = match asked.text {
        b"max" => Limit::Max,
        text => match parse::long(text)? {
            limit @ 0..MOST_PIDS => Limit::At(limit),
            _ => return Err(Errno::EINVAL),
        },
    };
    let set = asked.core.set(asked.id, |node| node.pids_max = limit);
    set.map_err(|_| Errno::ENODEV)?;
    Ok(None)
}
