//! The engine: where the time comes from, and what is due when.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::fmt;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Poll, Wake, Waker};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use kernfs::{Clock, SystemClock};

use crate::clock::nanos;
use crate::group::{Group, Inner};

/// Accounts the pressure of a tree of groups.
///
/// Averages and totals are right whenever they are looked at. Triggers fire only if somebody
/// evaluates them: [`spawn`](Self::spawn), [`drive`](Self::drive) or [`advance`](Self::advance).
pub struct Engine {
    core: Arc<Core>,
    root: Group,
}

impl Engine {
    /// Makes an engine with the clock of the system and one cpu.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Starts with the settings of [`Engine::new`], to be changed.
    pub fn builder() -> EngineBuilder {
        EngineBuilder { clock: Arc::new(SystemClock), cpus: 1 }
    }

    /// Returns the group of everything (`psi_system`), where full of cpu is undefined and always 0.
    #[must_use]
    pub fn root(&self) -> &Group {
        &self.root
    }

    /// Evaluates the triggers that are due by the clock, and returns how long until the next are.
    ///
    /// `None` means that nothing goes on that a trigger watches.
    #[expect(clippy::must_use_candidate, reason = "called for its effect")]
    pub fn advance(&self) -> Option<Duration> {
        let due = self.core.advance()?;
        Some(self.core.until(due))
    }

    /// Evaluates triggers in time, for ever, as a task of any async runtime; `sleep` is its timer.
    ///
    /// Wakes only while something goes on that a trigger watches.
    ///
    /// ```no_run
    /// # async fn example(engine: kernfs_psi::Engine) {
    /// engine.drive(tokio::time::sleep).await;
    /// # }
    /// ```
    pub fn drive<S, F>(&self, sleep: S) -> impl Future<Output = Infallible> + use<S, F>
    where
        S: Fn(Duration) -> F,
        F: Future<Output = ()>,
    {
        let core = Arc::clone(&self.core);
        async move {
            loop {
                let due = core.advance();
                let mut timer = pin!(async {
                    match due {
                        Some(due) => sleep(core.until(due)).await,
                        None => pending().await,
                    }
                });
                poll_fn(|cx| {
                    // Registered first, then looked: else what is scheduled in between is missed.
                    let earliest = core.register(cx.waker());
                    let is_earlier = earliest.is_some_and(|e| due.is_none_or(|due| e < due));
                    if is_earlier || timer.as_mut().poll(cx).is_ready() {
                        core.deregister(cx.waker());
                        return Poll::Ready(());
                    }
                    Poll::Pending
                })
                .await;
            }
        }
    }

    /// Evaluates triggers in time on a thread of its own (`psimon`), until the monitor is dropped.
    ///
    /// One thread serves all triggers of all groups, and wakes only while something goes on that
    /// one of them watches.
    ///
    /// # Errors
    ///
    /// When no thread can be started.
    pub fn spawn(&self) -> io::Result<Monitor> {
        let core = Arc::clone(&self.core);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name("psimon".into());
        let thread = thread.spawn(move || monitor(&core, &stopped))?;
        Ok(Monitor { stop, thread: Some(thread) })
    }
}

impl Default for Engine {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("cpus", &self.core.cpus).finish_non_exhaustive()
    }
}

/// The settings of an engine.
#[must_use = "a builder makes nothing until `build`"]
pub struct EngineBuilder {
    clock: Arc<dyn Clock>,
    cpus: usize,
}

impl EngineBuilder {
    /// Sets where the time comes from: [`Clock::monotonic`] is read at each change of a task.
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Sets the number of cpus, at least 1: the places that tasks work at, whose stalls are
    /// accounted apart and then averaged.
    ///
    /// With one, *full* means that nobody in the group does anything productive. With more, a group
    /// is half full if all is stalled on one of two cpus that are not idle. Threads are spread over
    /// the cpus, and changes on different cpus never meet.
    pub fn cpus(mut self, cpus: usize) -> Self {
        self.cpus = cpus.max(1);
        self
    }

    /// Makes the engine.
    #[must_use]
    pub fn build(self) -> Engine {
        let core = Arc::new(Core {
            clock: self.clock,
            cpus: self.cpus,
            ids: AtomicU64::new(0),
            agenda: Mutex::new(Agenda::default()),
        });
        Engine { root: Group::root(Arc::clone(&core)), core }
    }
}

impl fmt::Debug for EngineBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineBuilder").field("cpus", &self.cpus).finish_non_exhaustive()
    }
}

/// A thread that evaluates triggers; dropping it ends the thread.
#[must_use = "a monitor that is dropped ends"]
pub struct Monitor {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.stop.store(true, Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A waker that drops the monitor runs on its very thread.
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Monitor").finish_non_exhaustive()
    }
}

fn monitor(core: &Core, stop: &AtomicBool) {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    while !stop.load(Acquire) {
        core.deregister(&waker);
        core.advance();
        match core.register(&waker) {
            Some(due) => thread::park_timeout(core.until(due)),
            None => thread::park(),
        }
    }
    core.deregister(&waker);
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// What the groups of an engine share.
pub(crate) struct Core {
    clock: Arc<dyn Clock>,
    cpus: usize,
    ids: AtomicU64,
    /// Innermost of all locks.
    agenda: Mutex<Agenda>,
}

/// The groups whose triggers are to be evaluated, each once.
#[derive(Default)]
struct Agenda {
    /// By time in nanoseconds, then by group.
    by_due: BTreeSet<(u64, u64)>,
    groups: HashMap<u64, (u64, Weak<Inner>)>,
    /// Of those who evaluate, to be told when something is due earlier than they know.
    drivers: Vec<Waker>,
}

impl Core {
    /// Returns the time in nanoseconds.
    #[inline]
    pub(crate) fn now(&self) -> u64 {
        nanos(self.clock.monotonic())
    }

    pub(crate) fn cpus(&self) -> usize {
        self.cpus
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
    pub(crate) fn schedule(&self, group: &Arc<Inner>, due: u64) {
        let mut agenda = crate::lock(&self.agenda);
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
        let mut agenda = crate::lock(&self.agenda);
        if let Some((due, _)) = agenda.groups.remove(&id) {
            agenda.by_due.remove(&(due, id));
        }
    }

    /// Evaluates what is due, and returns when the next is.
    fn advance(&self) -> Option<u64> {
        let now = self.now();
        let due = crate::lock(&self.agenda).take_due(now);
        for group in due {
            group.evaluate(now);
        }
        crate::lock(&self.agenda).earliest()
    }

    fn until(&self, due: u64) -> Duration {
        Duration::from_nanos(due.saturating_sub(self.now()))
    }

    /// Registers who evaluates, and returns when the first group is due.
    fn register(&self, waker: &Waker) -> Option<u64> {
        let mut agenda = crate::lock(&self.agenda);
        if !agenda.drivers.iter().any(|known| known.will_wake(waker)) {
            agenda.drivers.push(waker.clone());
        }
        agenda.earliest()
    }

    fn deregister(&self, waker: &Waker) {
        let mut agenda = crate::lock(&self.agenda);
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

    fn take_due(&mut self, now: u64) -> Vec<Arc<Inner>> {
        let mut groups = Vec::new();
        while let Some(&(due, id)) = self.by_due.first().filter(|(due, _)| *due <= now) {
            self.by_due.remove(&(due, id));
            groups.extend(self.groups.remove(&id).and_then(|(_, group)| group.upgrade()));
        }
        groups
    }
}
