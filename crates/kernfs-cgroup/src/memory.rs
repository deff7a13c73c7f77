//! What the memory controller keeps of a group: nothing is enforced, the owner says what happens.

use std::fmt;
use std::str::FromStr;

use kernfs::Errno;

use crate::parse::{Limit, PAGE};

/// What `memory.events` counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemoryEvent {
    /// The group was reclaimed from although it uses less than `memory.low`.
    Low,
    /// It used more than `memory.high` and was throttled.
    High,
    /// It was about to use more than `memory.max`.
    Max,
    /// It could not get below `memory.max`.
    Oom,
    /// A process of it was killed for that.
    OomKill,
    /// All of it was.
    OomGroupKill,
}

impl MemoryEvent {
    /// All events, in the order of the file.
    pub const ALL: [Self; 6] =
        [Self::Low, Self::High, Self::Max, Self::Oom, Self::OomKill, Self::OomGroupKill];

    /// Returns the name in the file, for example `oom_kill`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::High => "high",
            Self::Max => "max",
            Self::Oom => "oom",
            Self::OomKill => "oom_kill",
            Self::OomGroupKill => "oom_group_kill",
        }
    }

    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for MemoryEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for MemoryEvent {
    type Err = Errno;

    /// Takes the name in the file.
    ///
    /// # Errors
    ///
    /// EINVAL: there is no such event.
    fn from_str(name: &str) -> Result<Self, Errno> {
        Self::ALL.into_iter().find(|event| event.name() == name).ok_or(Errno::EINVAL)
    }
}

/// The memory of a group (`struct mem_cgroup`).
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) usage: Usage,
    pub(crate) min: Limit<u64>,
    pub(crate) low: Limit<u64>,
    pub(crate) high: Limit<u64>,
    pub(crate) max: Limit<u64>,
    /// Here and below.
    pub(crate) events: [u64; MemoryEvent::ALL.len()],
    /// Here.
    pub(crate) local_events: [u64; MemoryEvent::ALL.len()],
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            usage: Usage::default(),
            min: Limit::At(0),
            low: Limit::At(0),
            high: Limit::Max,
            max: Limit::Max,
            events: Default::default(),
            local_events: Default::default(),
        }
    }
}

impl Memory {
    /// Forgets limits and events, as when the controller is switched off; what is used stays used.
    pub(crate) fn reset(&mut self) {
        *self = Self { usage: self.usage, ..Self::default() };
    }
}

/// Memory that a group uses, in whole pages.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pages: u64,
}

impl Usage {
    /// Takes bytes, for which whole pages are used.
    pub(crate) fn of(bytes: u64) -> Self {
        Self { pages: bytes.div_ceil(PAGE) }
    }

    pub(crate) fn bytes(self) -> u64 {
        self.pages.saturating_mul(PAGE)
    }
}
