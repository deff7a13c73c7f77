//! The files that every group has, whatever its controllers (`cgroup_base_files`).

use std::fmt::Write as _;

use kernfs::{Draining, Errno};

use super::Asked;
use crate::controllers::{Controllers, Switches};
use crate::parse;
use crate::process::{self, Process};
use crate::rules::Node;

/// One number a line.
fn lines(numbers: &[u32]) -> String {
    numbers.iter().fold(String::with_capacity(numbers.len() * 8), |mut text, number| {
        let _ = writeln!(text, "{number}");
        text
    })
}

impl Asked<'_> {
    /// Looks at the group.
    ///
    /// # Errors
    ///
    /// ENODEV: it is gone.
    fn look<T>(&self, look: impl FnOnce(&Node) -> T) -> Result<T, Errno> {
        self.core.rules().get(self.id).map(look).ok_or(Errno::ENODEV)
    }

    /// Returns the thread that is written; 0 is the writer.
    fn thread(&self) -> Result<u32, Errno> {
        // What does not fit is EINVAL here, and ERANGE elsewhere, in the kernel.
        let number = parse::int(self.text).map_err(|_| Errno::EINVAL)?;
        match u32::try_from(number).map_err(|_| Errno::EINVAL)? {
            // Of the owner's own process, nothing else is known.
            0 if self.caller.pid == 0 => Ok(std::process::id()),
            0 => Ok(self.caller.pid),
            number => Ok(number),
        }
    }
}

pub(super) fn procs(asked: &Asked<'_>) -> Result<String, Errno> {
    Ok(lines(&asked.core.members(asked.id)?))
}

pub(super) fn attach_process(asked: &Asked<'_>) -> Result<Option<Draining>, Errno> {
    let find = || Process::find(asked.thread()?);
    asked.core.attach(asked.id, find, asked.opener)?;
    Ok(None)
}

pub(super) fn threads(asked: &Asked<'_>) -> Result<String, Errno> {
    let members = asked.core.members(asked.id)?;
    let threads: Vec<u32> = members.into_iter().flat_map(process::threads).collect();
    Ok(lines(&threads))
}

/// A thread cannot leave its process: none of the groups is a threaded one.
pub(super) fn attach_thread(asked: &Asked<'_>) -> Result<Option<Draining>, Errno> {
    asked.look(|_| ())?;
    let process = Process::find(asked.thread()?)?;
    asked.core.settle();
    if asked.core.rules().group_of(process.pid()) == asked.id {
        return Ok(None);
    }
    asked.core.rules().vet_join(asked.id)?;
    Err(Errno::EOPNOTSUPP)
}

/// A list of controllers; nothing at all when there are none (`cgroup_print_ss_mask`).
fn list(controllers: Controllers) -> String {
    if controllers.is_empty() { String::new() } else { format!("{controllers}\n") }
}

pub(super) fn controllers(asked: &Asked<'_>) -> Result<String, Errno> {
    Ok(list(asked.core.rules().controllers(asked.id)))
}

pub(super) fn subtree_control(asked: &Asked<'_>) -> Result<String, Errno> {
    asked.look(|node| list(node.subtree_control))
}

pub(super) fn set_subtree_control(asked: &Asked<'_>) -> Result<Option<Draining>, Errno> {
    let switches = Switches::parse(asked.text)?;
    asked.core.switch_controllers(asked.id, switches, asked.caller)
}

pub(super) fn max_depth(asked: &Asked<'_>) -> Result<String, Errno> {
    asked.look(|node| format!("{}\n", node.max_depth))
}

pub(super) fn set_max_depth(asked: &Asked<'_>) -> Result<Option<Draining>, Errno> {
    let limit = parse::count(asked.text)?;
    asked.core.set(asked.id, |node| node.max_depth = limit)?;
    Ok(None)
}

pub(super) fn max_descendants(asked: &Asked<'_>) -> Result<String, Errno> {
    asked.look(|node| format!("{}\n", node.max_descendants))
}

pub(super) fn set_max_descendants(asked: &Asked<'_>) -> Result<Option<Draining>, Errno> {
    let limit = parse::count(asked.text)?;
    asked.core.set(asked.id, |node| node.max_descendants = limit)?;
    Ok(None)
}

/// (`cgroup_stat_show`)
///
/// Groups that are gone do not linger on here, so that none is dying.
pub(super) fn stat(asked: &Asked<'_>) -> Result<String, Errno> {
    let rules = asked.core.rules();
    let node = rules.get(asked.id).ok_or(Errno::ENODEV)?;
    let mut text = format!("nr_descendants {}\n", node.descendants());
    for (name, one) in rules.offered.names() {
        let count = rules.count_with(asked.id, one);
        let _ = writeln!(text, "nr_subsys_{name} {count}");
    }
    text.push_str("nr_dying_descendants 0\n");
    for (name, _) in rules.offered.names() {
        let _ = writeln!(text, "nr_dying_subsys_{name} 0");
    }
    Ok(text)
}

pub(super) fn pressure(asked: &Asked<'_>) -> Result<String, Errno> {
    asked.look(|node| format!("{}\n", u8::from(node.is_accounted)))
}

pub(super) fn set_pressure(asked: &Asked<'_>) -> Result<Option<Draining>, Errno> {
    let on = parse::switch(asked.text)?;
    asked.core.switch_pressure(asked.id, on)
}

/// (`cgroup_base_stat_cputime_show`)
pub(super) fn cpu_stat(asked: &Asked<'_>) -> Result<String, Errno> {
    let time = asked.core.time(asked.id)?;
    Ok(format!(
        "usage_usec {}\nuser_usec {}\nsystem_usec {}\nnice_usec {}\n",
        (time.user + time.system).as_micros(),
        time.user.as_micros(),
        time.system.as_micros(),
        time.nice.as_micros(),
    ))
}

pub(super) fn kind(asked: &Asked<'_>) -> Result<String, Errno> {
    asked.core.settle();
    Ok(format!("{}\n", asked.core.rules().type_of(asked.id).ok_or(Errno::ENODEV)?))
}

/// Only `threaded` can be asked for, and there are no threaded groups.
pub(super) fn set_kind(asked: &Asked<'_>) -> Result<Option<Draining>, Errno> {
    if asked.text != b"threaded" {
        return Err(Errno::EINVAL);
    }
    asked.look(|_| ()).map_err(|_| Errno::ENOENT)?;
    Err(Errno::EOPNOTSUPP)
}

pub(super) fn events(asked: &Asked<'_>) -> Result<String, Errno> {
    asked.core.settle();
    let populated = asked.look(Node::is_populated)?;
    let frozen = asked.core.rules().is_frozen(asked.id);
    Ok(format!("populated {}\nfrozen {}\n", u8::from(populated), u8::from(frozen)))
}

/// (`cgroup_core_local_stat_show`)
pub(super) fn stat_local(asked: &Asked<'_>) -> Result<String, Errno> {
    let now = asked.core.now();
    let frozen = asked.core.rules().frozen_for(asked.id, now);
    Ok(format!("frozen_usec {}\n", frozen.as_micros()))
}

pub(super) fn freeze(asked: &Asked<'_>) -> Result<String, Errno> {
    asked.look(|node| format!("{}\n", u8::from(node.freeze)))
}

pub(super) fn set_freeze(asked: &Asked<'_>) -> Result<Option<Draining>, Errno> {
    let freeze = parse::switch(asked.text)?;
    asked.core.freeze(asked.id, freeze)?;
    Ok(None)
}

pub(super) fn kill(asked: &Asked<'_>) -> Result<Option<Draining>, Errno> {
    // 0 is out of range, too.
    if !parse::switch(asked.text)? {
        return Err(Errno::ERANGE);
    }
    asked.core.kill(asked.id)?;
    Ok(None)
}
