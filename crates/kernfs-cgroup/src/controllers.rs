//! The controllers, and what `cgroup.subtree_control` says of them.

use std::fmt;

use bitflags::bitflags;
use kernfs::Errno;

bitflags! {
    /// Controllers that a hierarchy can offer.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Controllers: u8 {
        /// `memory.current`, `memory.max`, `memory.events` and so on.
        const MEMORY = 1;
        /// `pids.current` and `pids.max`.
        const PIDS = 2;
    }
}

impl Controllers {
    /// Those that can work inside of a threaded subtree (`cgrp_dfl_threaded_ss_mask`).
    pub(crate) const THREADED: Self = Self::PIDS;

    /// Every controller that a kernel may have on its cgroup v2, in the order in which it lists
    /// them; a name that is none of these is EINVAL, one that is not offered ENOENT.
    const NAMES: [(&str, Self); 9] = [
        ("cpuset", Self::empty()),
        ("cpu", Self::empty()),
        ("io", Self::empty()),
        ("memory", Self::MEMORY),
        ("perf_event", Self::empty()),
        ("hugetlb", Self::empty()),
        ("pids", Self::PIDS),
        ("rdma", Self::empty()),
        ("misc", Self::empty()),
    ];

    /// Returns the names, in the kernel's order.
    pub(crate) fn names(self) -> impl Iterator<Item = (&'static str, Self)> {
        Self::NAMES.into_iter().filter(move |&(_, one)| !one.is_empty() && self.contains(one))
    }
}

impl fmt::Display for Controllers {
    /// Lists the names as `cgroup.controllers` does, with a space between.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, _)) in self.names().enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(f, "{space}{name}")?;
        }
        Ok(())
    }
}

/// What is to be switched on and off; of one controller, what was said last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Switches {
    pub(crate) on: Controllers,
    pub(crate) off: Controllers,
    /// Whether one is to be switched on that no hierarchy here offers.
    pub(crate) wants_unknown: bool,
}

impl Switches {
    /// Reads `+memory -pids` (`cgroup_subtree_control_write`).
    ///
    /// # Errors
    ///
    /// EINVAL: a name without a sign, or of no controller.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, Errno> {
        let mut switches = Self::default();
        let mut unknown_on = Vec::new();
        // Only blanks separate: a tab belongs to a name.
        for token in text.split(|&byte| byte == b' ').filter(|token| !token.is_empty()) {
            let (sign, name) = token.split_first().ok_or(Errno::EINVAL)?;
            let known = Controllers::NAMES.iter().find(|known| known.0.as_bytes() == name);
            let &(name, one) = known.ok_or(Errno::EINVAL)?;
            unknown_on.retain(|unknown| *unknown != name);
            match sign {
                b'+' => {
                    switches.on |= one;
                    switches.off -= one;
                    unknown_on.extend(one.is_empty().then_some(name));
                }
                b'-' => {
                    switches.off |= one;
                    switches.on -= one;
                }
                _ => return Err(Errno::EINVAL),
            }
        }
        switches.wants_unknown = !unknown_on.is_empty();
        Ok(switches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_are_listed_in_the_order_of_the_kernel() {
        assert_eq!(Controllers::all().to_string(), "memory pids");
        assert_eq!(Controllers::empty().to_string(), "");
    }

    #[test]
    fn of_one_controller_the_last_word_counts() {
        let parse = |text: &str| Switches::parse(text.as_bytes());
        let both = parse("+memory  -pids").unwrap();
        assert_eq!((both.on, both.off), (Controllers::MEMORY, Controllers::PIDS));
        let last = parse("-memory +memory").unwrap();
        assert_eq!((last.on, last.off), (Controllers::MEMORY, Controllers::empty()));
        assert!(parse("+cpu").unwrap().wants_unknown);
        assert!(!parse("+cpu -cpu").unwrap().wants_unknown);
        assert!(!parse("-cpu").unwrap().wants_unknown);
        assert_eq!(parse("").unwrap(), Switches::default());
        for text in ["memory", "*memory", "+nosuch", "+", "-", "+memory\t-memory", "+memory,-pids"]
        {
            assert_eq!(parse(text), Err(Errno::EINVAL), "{text:?}");
        }
    }
}
