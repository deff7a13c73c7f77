//! What tasks do, the stall states that follow from it, and the time spent in each, per cpu.

use std::fmt;
use std::sync::{Mutex, MutexGuard};

use bitflags::bitflags;

use crate::sync::lock;

/// What tasks can stall on (`enum psi_res`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Resource {
    Io,
    Memory,
    Cpu,
    /// Time taken by interrupts; has no *some*.
    Irq,
}

impl Resource {
    /// All of them, in the kernel's order.
    pub const ALL: [Self; 4] = [Self::Io, Self::Memory, Self::Cpu, Self::Irq];
}

impl fmt::Display for Resource {
    /// Writes the name of the file in `/proc/pressure`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Io => "io",
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Irq => "irq",
        })
    }
}

/// How much of a group is stalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stall {
    /// At least one task is.
    Some,
    /// All tasks that are not idle are: nothing productive happens.
    Full,
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Some => "some",
            Self::Full => "full",
        })
    }
}

/// A share of the time, from 0 to all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share(u32);

impl Share {
    /// Never.
    pub const NONE: Self = Self(0);
    /// All the time.
    pub const ALL: Self = Self(1_000_000);

    /// Takes millionths; more than a million is all the time.
    #[must_use]
    pub const fn from_millionths(millionths: u32) -> Self {
        if millionths > Self::ALL.0 { Self::ALL } else { Self(millionths) }
    }

    /// Returns millionths.
    #[must_use]
    pub const fn millionths(self) -> u32 {
        self.0
    }
}

bitflags! {
    /// What a task does (`TSK_*`); nothing at all is to sleep, which no pressure comes from.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct TaskState: u8 {
        /// It waits for I/O (`TSK_IOWAIT`).
        const IOWAIT = 1;
        /// It stalls for lack of memory (`TSK_MEMSTALL`), working on that or asleep.
        const MEMSTALL = 2;
        /// It works, or could if it had a processor (`TSK_RUNNING`).
        const RUNNING = 4;
        /// It has a processor (`TSK_ONCPU`); what has one is running.
        const ONCPU = 8;
        /// It is held up by an interrupt (`psi_account_irqtime`).
        const IRQ = 16;
    }
}

impl TaskState {
    /// Works, on a processor.
    pub const WORKING: Self = Self::RUNNING.union(Self::ONCPU);

    /// Returns the state of a task that stalls on a resource.
    #[must_use]
    pub const fn stalled(resource: Resource) -> Self {
        match resource {
            Resource::Io => Self::IOWAIT,
            Resource::Memory => Self::MEMSTALL,
            Resource::Cpu => Self::RUNNING,
            Resource::Irq => Self::IRQ,
        }
    }

    /// Returns how the task is counted.
    const fn counted(self) -> [bool; COUNTS] {
        let oncpu = self.contains(Self::ONCPU);
        let running = oncpu || self.contains(Self::RUNNING);
        let memstall = self.contains(Self::MEMSTALL);
        let iowait = self.contains(Self::IOWAIT);
        let irq = self.contains(Self::IRQ);
        [iowait, memstall, running, memstall && running, oncpu, memstall && oncpu, irq]
    }
}

/// What is counted per cpu: see [`TaskState::counted`].
const COUNTS: usize = 7;

/// A change of the counts, made once and applied to a group and all above it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delta([i32; COUNTS]);

impl Delta {
    pub(crate) fn between(from: TaskState, to: TaskState) -> Self {
        let (from, to) = (from.counted(), to.counted());
        Self(std::array::from_fn(|i| i32::from(to[i]) - i32::from(from[i])))
    }
}

/// A stall state that time is accounted for, by its number (`enum psi_states`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State(u8);

impl State {
    /// How many states there are.
    pub(crate) const COUNT: usize = 7;

    /// All that are stalls.
    pub(crate) const ALL: [Self; Self::COUNT] = [
        Self::IO_SOME,
        Self::IO_FULL,
        Self::MEM_SOME,
        Self::MEM_FULL,
        Self::CPU_SOME,
        Self::CPU_FULL,
        Self::IRQ_FULL,
    ];

    const IO_SOME: Self = Self(0);
    const IO_FULL: Self = Self(1);
    const MEM_SOME: Self = Self(2);
    const MEM_FULL: Self = Self(3);
    const CPU_SOME: Self = Self(4);
    const CPU_FULL: Self = Self(5);
    const IRQ_FULL: Self = Self(6);
    /// Not a stall: the weight of a cpu in the sums of its group.
    const NONIDLE: Self = Self(7);

    /// Returns the state; there is no *some* of irq.
    pub(crate) const fn of(resource: Resource, stall: Stall) -> Option<Self> {
        Some(match (resource, stall) {
            (Resource::Io, Stall::Some) => Self::IO_SOME,
            (Resource::Io, Stall::Full) => Self::IO_FULL,
            (Resource::Memory, Stall::Some) => Self::MEM_SOME,
            (Resource::Memory, Stall::Full) => Self::MEM_FULL,
            (Resource::Cpu, Stall::Some) => Self::CPU_SOME,
            (Resource::Cpu, Stall::Full) => Self::CPU_FULL,
            (Resource::Irq, Stall::Full) => Self::IRQ_FULL,
            (Resource::Irq, Stall::Some) => return None,
        })
    }

    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }

    pub(crate) const fn mask(self) -> StateMask {
        StateMask(1 << self.0)
    }
}

/// A set of states.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StateMask(u8);

impl StateMask {
    pub(crate) const EMPTY: Self = Self(0);
    /// All that are stalls.
    pub(crate) const STALLS: Self = Self(State::NONIDLE.mask().0 - 1);

    pub(crate) const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(crate) const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// Times in nanoseconds per state, NONIDLE included.
pub(crate) type Times = [u64; State::COUNT + 1];

/// The part of a group on one cpu (`struct psi_group_cpu`).
///
/// On a cache line pair of its own, since cpus are there to keep threads apart.
#[repr(align(128))]
pub(crate) struct Cpu(Mutex<CpuState>);

/// Tasks and times; carries copies of what a change has to know of its group, so that a change
/// takes no other lock.
pub(crate) struct CpuState {
    counts: [u32; COUNTS],
    mask: StateMask,
    /// States whose entering is to be told, once: see [`Changed::Alarm`].
    watch: StateMask,
    /// States that are accounted: none while accounting is off, no full of cpu at the root.
    accounted: StateMask,
    /// Up to when the times are recorded.
    recorded: u64,
    /// When the period of the averages ends.
    period_end: u64,
    times: Times,
}

/// What a change of a cpu asks for.
pub(crate) enum Changed {
    Quiet,
    /// A watched state was entered; the watch is over.
    Alarm,
    /// Nothing was changed yet: the periods that are over come first.
    PeriodOver,
}

impl Cpu {
    pub(crate) fn new(now: u64, period_end: u64, accounted: StateMask) -> Self {
        Self(Mutex::new(CpuState {
            counts: [0; COUNTS],
            mask: StateMask::EMPTY,
            watch: StateMask::EMPTY,
            accounted,
            recorded: now,
            period_end,
            times: [0; State::COUNT + 1],
        }))
    }

    fn lock(&self) -> MutexGuard<'_, CpuState> {
        lock(&self.0)
    }

    /// Applies a change of tasks (`psi_group_change`).
    #[inline]
    pub(crate) fn change(&self, delta: &Delta, now: u64) -> Changed {
        let mut cpu = self.lock();
        if now >= cpu.period_end {
            return Changed::PeriodOver;
        }
        cpu.record(now);
        for (count, delta) in cpu.counts.iter_mut().zip(delta.0) {
            *count = count.wrapping_add_signed(delta);
        }
        cpu.mask = states(&cpu.counts).and(cpu.accounted);
        if cpu.mask.meets(cpu.watch) {
            cpu.watch = StateMask::EMPTY;
            return Changed::Alarm;
        }
        Changed::Quiet
    }

    /// Takes the times up to `now`, and returns the states that go on.
    pub(crate) fn collect(&self, now: u64, period_end: u64, times: &mut Times) -> StateMask {
        let mut cpu = self.lock();
        cpu.record(now);
        cpu.period_end = period_end;
        *times = std::mem::take(&mut cpu.times);
        cpu.mask
    }

    /// Asks to be told when one of the states is entered.
    pub(crate) fn watch(&self, states: StateMask) {
        self.lock().watch = states;
    }

    /// Sets what is accounted from `now` on; the counts go on either way (`psi_cgroup_restart`).
    pub(crate) fn account(&self, accounted: StateMask, now: u64) {
        let mut cpu = self.lock();
        cpu.record(now);
        cpu.accounted = accounted;
        cpu.mask = states(&cpu.counts).and(accounted);
    }
}

impl CpuState {
    /// Accounts the time since the last record to the states (`record_times`).
    ///
    /// Clocks are read before locks are taken: a time that is earlier than the last counts as that.
    #[inline]
    fn record(&mut self, now: u64) {
        let passed = now.saturating_sub(self.recorded);
        self.recorded += passed;
        for (state, time) in self.times.iter_mut().enumerate() {
            *time += passed * u64::from((self.mask.0 >> state) & 1);
        }
    }
}

/// Returns the states that follow from the counts (`test_state`).
///
/// In the kernel at most one task is on a cpu; here a cpu may stand for a pool of threads, so that
/// the flag is a count. With at most one, the states are the kernel's.
#[inline]
fn states(counts: &[u32; COUNTS]) -> StateMask {
    let [iowait, memstall, running, memstall_running, oncpu, memstall_oncpu, irq] = *counts;
    let mask = |state: State, is: bool| u8::from(is) << state.0;
    StateMask(
        mask(State::IO_SOME, iowait > 0)
            | mask(State::IO_FULL, iowait > 0 && running == 0)
            | mask(State::MEM_SOME, memstall > 0)
            // A cpu that is busy with getting memory could do nothing else even if there was.
            | mask(
                State::MEM_FULL,
                (memstall > 0 && running == memstall_running)
                    || (oncpu > 0 && oncpu == memstall_oncpu),
            )
            | mask(State::CPU_SOME, running > oncpu)
            | mask(State::CPU_FULL, running > 0 && oncpu == 0)
            | mask(State::IRQ_FULL, irq > 0)
            | mask(State::NONIDLE, iowait > 0 || memstall > 0 || running > 0 || irq > 0),
    )
}

/// What is accounted in a group.
pub(crate) const fn accounted(is_root: bool) -> StateMask {
    let all = StateMask(u8::MAX);
    // CPU full is undefined at the system level (`psi_show`).
    if is_root { all.without(State::CPU_FULL.mask()) } else { all }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAITS: TaskState = TaskState::IOWAIT;
    const STALLS: TaskState = TaskState::MEMSTALL;
    const READY: TaskState = TaskState::RUNNING;
    const WORKS: TaskState = TaskState::WORKING;

    fn states_of(tasks: &[TaskState]) -> Vec<&'static str> {
        let cpu = Cpu::new(0, u64::MAX, accounted(false));
        for &task in tasks {
            cpu.change(&Delta::between(TaskState::empty(), task), 0);
        }
        let mask = cpu.collect(0, u64::MAX, &mut Times::default());
        let names = [
            "io some", "io full", "mem some", "mem full", "cpu some", "cpu full", "irq full",
            "nonidle",
        ];
        (0..8).filter(|&bit| mask.0 & (1 << bit) != 0).map(|bit| names[bit]).collect()
    }

    #[test]
    fn states_follow_from_tasks_as_the_kernel_defines() {
        let table: &[(&[TaskState], &[&str])] = &[
            (&[], &[]),
            (&[TaskState::empty()], &[]),
            (&[WORKS], &["nonidle"]),
            (&[READY], &["cpu some", "cpu full", "nonidle"]),
            (&[WORKS, READY], &["cpu some", "nonidle"]),
            (&[WAITS], &["io some", "io full", "nonidle"]),
            (&[WAITS, WORKS], &["io some", "nonidle"]),
            (&[WAITS, READY], &["io some", "cpu some", "cpu full", "nonidle"]),
            (&[STALLS], &["mem some", "mem full", "nonidle"]),
            (&[STALLS, WORKS], &["mem some", "nonidle"]),
            (&[STALLS | WORKS], &["mem some", "mem full", "nonidle"]),
            (&[STALLS | WORKS, READY], &["mem some", "mem full", "cpu some", "nonidle"]),
            (&[STALLS | READY, WORKS], &["mem some", "cpu some", "nonidle"]),
            (&[STALLS | READY], &["mem some", "mem full", "cpu some", "cpu full", "nonidle"]),
            (&[WAITS | STALLS], &["io some", "io full", "mem some", "mem full", "nonidle"]),
            (&[WAITS, STALLS | WORKS], &["io some", "mem some", "mem full", "nonidle"]),
            (&[TaskState::IRQ], &["irq full", "nonidle"]),
            (&[TaskState::IRQ | WORKS], &["irq full", "nonidle"]),
            // A pool of two threads: one of them does something productive.
            (&[STALLS | WORKS, WORKS], &["mem some", "nonidle"]),
            (&[TaskState::ONCPU], &["nonidle"]),
        ];
        for (tasks, expected) in table {
            assert_eq!(states_of(tasks), *expected, "{tasks:?}");
        }
    }

    #[test]
    fn time_goes_to_the_states_that_it_was_spent_in() {
        let cpu = Cpu::new(100, u64::MAX, accounted(false));
        cpu.change(&Delta::between(TaskState::empty(), WAITS), 110);
        cpu.change(&Delta::between(TaskState::empty(), WORKS), 130);
        // A clock that was read before the last change, by a thread that was slower to the lock.
        cpu.change(&Delta::between(WORKS, TaskState::empty()), 120);
        let mut times = Times::default();
        cpu.collect(150, u64::MAX, &mut times);
        assert_eq!(times, [40, 40, 0, 0, 0, 0, 0, 40]);
        cpu.collect(150, u64::MAX, &mut times);
        assert_eq!(times, [0; 8]);
    }

    #[test]
    fn a_cpu_takes_one_pair_of_cache_lines() {
        assert_eq!(size_of::<Cpu>(), 128);
    }
}
