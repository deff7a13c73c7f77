//! What the groups of an engine share: the time, the numbers, and what is due when.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::Ordering::{AcqRel, Relaxed};
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, Weak};
use std::task::Waker;
use std::time::Duration;

use kernfs::Clock;

use crate::sync::lock;

/// What the groups of an engine share.
pub(crate) struct Core {
    clock: Arc<dyn Clock>,
    cpus: usize,
    /// Whether nothing is accounted at all.
    is_off: bool,
    ids: AtomicU64,
    /// Innermost of all locks.
    agenda: Mutex<Agenda>,
}

/// A group, as the agenda knows it.
pub(crate) trait Watched: Send + Sync {
    /// Names the group.
    fn id(&self) -> u64;

    /// Evaluates its triggers.
    fn evaluate(self: Arc<Self>, now: u64);
}

/// The groups whose triggers are to be evaluated, each once.
#[derive(Default)]
struct Agenda {
    /// By time in nanoseconds, then by group.
    by_due: BTreeSet<(u64, u64)>,
    groups: HashMap<u64, (u64, Weak<dyn Watched>)>,
    /// Of those who evaluate, to be told when something is due earlier than they know.
    drivers: Vec<Waker>,
}

impl Core {
    pub(crate) fn new(clock: Arc<dyn Clock>, cpus: usize, is_off: bool) -> Self {
        let (ids, agenda) = (AtomicU64::new(0), Mutex::default());
        Self { clock, cpus, is_off, ids, agenda }
    }

    /// Returns the time in nanoseconds.
    #[inline]
    pub(crate) fn now(&self) -> u64 {
        nanos(self.clock.monotonic())
    }

    pub(crate) fn cpus(&self) -> usize {
        self.cpus
    }

    #[inline]
    pub(crate) fn is_off(&self) -> bool {
        self.is_off
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Relaxed)
    }

    /// Returns the cpu of this thread: threads take them in turn.
    #[inline]
    pub(crate) fn cpu_of_thread(&self) -> usize {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static THREAD: Cell<Option<usize>> = const { Cell::new(None) };
        }
        if self.cpus == 1 {
            return 0;
        }
        let thread = THREAD.get().unwrap_or_else(|| {
            let thread = THREADS.fetch_add(1, AcqRel);
            THREAD.set(Some(thread));
            thread
        });
        thread % self.cpus
    }

    /// Lets the triggers of a group be evaluated at `due` or before.
    pub(crate) fn schedule(&self, group: &Arc<dyn Watched>, due: u64) {
        let mut agenda = lock(&self.agenda);
        let id = group.id();
        if let Some((before, _)) = agenda.groups.get(&id) {
            let before = *before;
            if before <= due {
                return;
            }
            agenda.by_due.remove(&(before, id));
        }
        agenda.groups.insert(id, (due, Arc::downgrade(group)));
        agenda.by_due.insert((due, id));
        if agenda.earliest() != Some(due) {
            return;
        }
        let drivers = std::mem::take(&mut agenda.drivers);
        drop(agenda);
        for driver in drivers {
            driver.wake();
        }
    }

    /// Forgets a group; it has no triggers any more.
    pub(crate) fn unschedule(&self, id: u64) {
        let mut agenda = lock(&self.agenda);
        if let Some((due, _)) = agenda.groups.remove(&id) {
            agenda.by_due.remove(&(due, id));
        }
    }

    /// Evaluates what is due, and returns when the next is.
    pub(crate) fn advance(&self) -> Option<u64> {
        let now = self.now();
        let due = lock(&self.agenda).take_due(now);
        for group in due {
            group.evaluate(now);
        }
        lock(&self.agenda).earliest()
    }

    pub(crate) fn until(&self, due: u64) -> Duration {
        Duration::from_nanos(due.saturating_sub(self.now()))
    }

    /// Registers who evaluates, and returns when the first group is due.
    pub(crate) fn register(&self, waker: &Waker) -> Option<u64> {
        let mut agenda = lock(&self.agenda);
        if !agenda.drivers.iter().any(|known| known.will_wake(waker)) {
            agenda.drivers.push(waker.clone());
        }
        agenda.earliest()
    }

    pub(crate) fn deregister(&self, waker: &Waker) {
        let mut agenda = lock(&self.agenda);
        let at = agenda.drivers.iter().position(|known| known.will_wake(waker));
        let gone = at.map(|at| agenda.drivers.swap_remove(at));
        drop(agenda);
        drop(gone);
    }
}

impl Agenda {
    fn earliest(&self) -> Option<u64> {
        self.by_due.first().map(|&(due, _)| due)
    }

    fn take_due(&mut self, now: u64) -> Vec<Arc<dyn Watched>> {
        let mut groups = Vec::new();
        while let Some(&(due, id)) = self.by_due.first().filter(|(due, _)| *due <= now) {
            self.by_due.remove(&(due, id));
            groups.extend(self.groups.remove(&id).and_then(|(_, group)| group.upgrade()));
        }
        groups
    }
}

/// Nanoseconds as everything here counts them; 64 bits are 584 years.
pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
