//! The engine: the tree of groups as a whole, and who evaluates triggers in time.

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::task::{Poll, Wake, Waker};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use kernfs::{Clock, SystemClock};

use crate::agenda::Core;
use crate::group::Group;

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
        EngineBuilder { clock: Arc::new(SystemClock), cpus: 1, is_off: false }
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
        f.debug_struct("Engine").field("cpus", &self.core.cpus()).finish_non_exhaustive()
    }
}

/// The settings of an engine.
#[must_use = "a builder makes nothing until `build`"]
pub struct EngineBuilder {
    clock: Arc<dyn Clock>,
    cpus: usize,
    is_off: bool,
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

    /// Accounts nothing at all (`psi=0`): pressure files can neither be read nor take triggers, and
    /// changes of tasks cost next to nothing.
    pub fn off(mut self) -> Self {
        self.is_off = true;
        self
    }

    /// Makes the engine.
    #[must_use]
    pub fn build(self) -> Engine {
        let core = Arc::new(Core::new(self.clock, self.cpus, self.is_off));
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
