//! Who sits in the mount, counts what the command does, and strikes at the k-th operation.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use kernfs::{Draining, Errno};
use kernfs_fuse::{Call, CallKind, Course, Tap};
use kernfs_replay::{Content, Served};

use super::action::{Action, On};
use super::part::Part;

/// An operation of the command.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// What it is.
    pub(crate) kind: CallKind,
    /// What it is about, from the root of the tree.
    pub(crate) path: Arc<[u8]>,
    /// How many bytes are left to a read.
    rest: usize,
}

impl Step {
    /// Tells whether it is the same operation on the same thing.
    pub(crate) fn is(&self, other: &Self) -> bool {
        (self.kind, &self.path) == (other.kind, &other.path)
    }
}

/// What is to be done, and when.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) part: Arc<Part>,
    pub(crate) on: On,
    pub(crate) action: Action,
    /// How long it takes what is slow.
    pub(crate) delay: Duration,
    pub(crate) at: At,
}

/// When the action happens.
#[derive(Clone, Debug)]
pub(crate) enum At {
    /// Before the command starts.
    Start,
    /// Before this operation of those that count is answered.
    Operation {
        /// Its number; that of the first is 1.
        k: usize,
        /// What the undisturbed run did that counts.
        expected: Arc<[Step]>,
    },
}

impl Plan {
    /// Tells whether an operation is one of those that are counted.
    pub(crate) fn counts(&self, step: &Step) -> bool {
        let can = self.action != Action::Torn || step.rest >= 2;
        can && self.on.counts(step.kind) && self.part.has(&step.path)
    }
}

/// What came of a plan, or of having none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// The operations, as far as they are kept; only where there was no plan.
    pub(crate) steps: Vec<Step>,
    /// How many operations there were at all.
    pub(crate) total: u64,
    /// The operation at which the action happened.
    pub(crate) struck: Option<Step>,
    /// How many operations there were after it.
    pub(crate) since: u64,
    /// The last operation of all.
    pub(crate) last: Option<Step>,
    /// The number of the first operation of those that count, up to the action, that was another
    /// one in the undisturbed run.
    pub(crate) diverged: Option<usize>,
    /// How many open files the end of a process has closed.
    pub(crate) left_open: usize,
}

/// How many operations of an undisturbed run are kept: some 30 MB.
const STEPS_MAX: usize = 1_000_000;

/// The tap of a mount for one run.
pub(crate) struct Trap {
    served: Served,
    plan: Option<Plan>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    seen: Seen,
    /// Operations so far that count.
    counted: usize,
    /// Each path that was seen, once.
    paths: HashMap<Vec<u8>, Arc<[u8]>>,
    /// Open files whose last close so far was by the end of a process.
    left_open: HashSet<u64>,
    /// What is to be waited for, elsewhere.
    removals: Vec<Draining>,
}

impl Trap {
    /// Sits down in a tree; what is to be done at the start is done now.
    pub(crate) fn new(served: Served, plan: Option<Plan>) -> Self {
        let trap = Self { served, plan, state: Mutex::default() };
        if let Some(plan) = trap.plan.as_ref().filter(|plan| matches!(plan.at, At::Start)) {
            trap.strike(&mut trap.lock(), plan);
        }
        trap
    }

    /// Takes what was seen; the run is over.
    pub(crate) fn take_seen(&self) -> Seen {
        let mut state = self.lock();
        let left_open = state.left_open.len();
        Seen { left_open, ..std::mem::take(&mut state.seen) }
    }

    /// Takes what is to be waited for.
    pub(crate) fn take_removals(&self) -> Vec<Draining> {
        std::mem::take(&mut self.lock().removals)
    }

    /// Decides what becomes of an operation, and how long that takes.
    ///
    /// All under the lock, so that no other operation that counts comes between this one and the
    /// action.
    fn decide(&self, kind: CallKind, path: &[u8], rest: usize) -> (Course, Duration) {
        let mut state = self.lock();
        let step = state.step(kind, path, rest);
        state.seen.total += 1;
        state.seen.last = Some(step.clone());
        let Some(plan) = &self.plan else {
            if state.seen.steps.len() < STEPS_MAX {
                state.seen.steps.push(step);
            }
            return (Course::Proceed, Duration::ZERO);
        };
        match &plan.at {
            At::Operation { k, expected } if state.seen.struck.is_none() => {
                if !plan.counts(&step) || !state.is_due(&step, *k, expected) {
                    return (Course::Proceed, Duration::ZERO);
                }
                state.seen.struck = Some(step.clone());
                self.strike(&mut state, plan);
                plan.meet(&step)
            }
            At::Start | At::Operation { .. } => {
                state.seen.since += 1;
                (plan.after(&step), Duration::ZERO)
            }
        }
    }

    /// Does to the tree what is to be done; waits for nothing.
    fn strike(&self, state: &mut State, plan: &Plan) {
        let part = &plan.part;
        match (plan.action, &plan.at) {
            (Action::Hide, _) => state.removals.extend(self.served.hide(&part.path)),
            // In the kernel's order: who still finds a link finds the device.
            (Action::Sever, _)
            // Without the part: how it goes when it cannot be disturbed.
            | (Action::EnodevOnce | Action::Torn | Action::Slow, At::Start) => {
                let paths = part.links.iter().chain([&part.path]);
                state.removals.extend(paths.filter_map(|path| self.served.sever(path)));
            }
            (Action::Eio | Action::EnodevOnce | Action::Torn | Action::Slow, _) => {}
        }
    }

    /// Returns how many bytes a read can get.
    fn rest(&self, path: &[u8], offset: u64) -> usize {
        let entry = self.served.image().find(path);
        let Some(Content::Bytes(bytes)) = entry.and_then(|entry| entry.content()) else { return 0 };
        bytes.len().saturating_sub(usize::try_from(offset).unwrap_or(usize::MAX))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tap for Trap {
    fn before(&self, call: &Call<'_>) -> Course {
        if call.kind == CallKind::Close {
            if let Some(open) = call.open {
                let by_end = is_ending(call.caller.pid);
                let mut state = self.lock();
                if by_end {
                    state.left_open.insert(open)
                } else {
                    state.left_open.remove(&open)
                };
            }
            return Course::Proceed;
        }
        let path = call.path();
        let path = path.strip_prefix(b"/").unwrap_or(&path);
        let rest = if call.kind == CallKind::Read { self.rest(path, call.offset) } else { 0 };
        let (course, delay) = self.decide(call.kind, path, rest);
        // Holds up nobody else: the lock is free, and the pool has other threads.
        thread::sleep(delay);
        course
    }
}

impl Plan {
    /// Returns what the very operation gets, and how long that takes.
    fn meet(&self, step: &Step) -> (Course, Duration) {
        match self.action {
            Action::Sever | Action::Hide => (Course::Proceed, Duration::ZERO),
            Action::Slow => (Course::Proceed, self.delay),
            Action::Eio => (self.after(step), Duration::ZERO),
            Action::EnodevOnce => (Course::Fail(Errno::ENODEV), Duration::ZERO),
            Action::Torn => {
                let half = u32::try_from(step.rest / 2).unwrap_or(u32::MAX);
                (Course::Shorten(half), Duration::ZERO)
            }
        }
    }

    /// Returns what an operation gets when the action has happened.
    fn after(&self, step: &Step) -> Course {
        let error = self.action.lasting_error(step.kind);
        error.filter(|_| self.part.has(&step.path)).map_or(Course::Proceed, Course::Fail)
    }
}

impl State {
    fn step(&mut self, kind: CallKind, path: &[u8], rest: usize) -> Step {
        let path = match self.paths.get(path) {
            Some(path) => Arc::clone(path),
            None => {
                let shared: Arc<[u8]> = path.into();
                if self.paths.len() < STEPS_MAX {
                    self.paths.insert(path.to_owned(), Arc::clone(&shared));
                }
                shared
            }
        };
        Step { kind, path, rest }
    }

    /// Counts an operation; tells whether it is the k-th.
    fn is_due(&mut self, step: &Step, k: usize, expected: &[Step]) -> bool {
        self.counted += 1;
        let is_expected = expected.get(self.counted - 1).is_some_and(|it| it.is(step));
        if !is_expected && self.seen.diverged.is_none() {
            self.seen.diverged = Some(self.counted);
        }
        self.counted == k
    }
}

/// In the flags of a thread: it is on its way out (`PF_EXITING`).
const ENDING: u64 = 4;

/// Tells whether a thread closes its files because it ends; it waits for the answer meanwhile.
fn is_ending(tid: u32) -> bool {
    let stat = fs::read(format!("/proc/{tid}/stat")).unwrap_or_default();
    // The name before may contain anything. State, parent, group, session, terminal, its group.
    let behind = stat.iter().rposition(|&byte| byte == b')').map_or(&[][..], |end| &stat[end..]);
    let flags = behind.split(|&byte| byte == b' ').nth(7);
    let flags = flags.and_then(|flags| std::str::from_utf8(flags).ok()?.parse::<u64>().ok());
    flags.is_some_and(|flags| flags & ENDING != 0)
}
