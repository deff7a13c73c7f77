//! Threads that read requests and serve them.
//!
//! A round trip costs least when a pool has as many threads as there are cores:
//! the kernel wakes readers in turn, so that each one more only cools the
//! caches. But a handler that sleeps takes its thread away. So a monitor
//! looks, and only while no thread is left reading: a thread that has been at
//! the same message for a whole tick is slow, and is replaced. When the
//! handlers are fast again, the surplus threads leave as requests come by.

#![forbid(unsafe_code)]

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use crate::channel::Received;
use crate::dispatch::Dispatcher;
use crate::notify::{Lanes, forbid_waiting};
use crate::options::PoolSize;
use crate::watchdog::Watchdog;

/// The threads of one session.
pub(crate) struct Pool {
    dispatcher: Dispatcher,
    lanes: Arc<Lanes>,
    size: PoolSize,
    buffer_len: usize,
    started: Instant,
    /// Threads that wait in a read.
    idle: AtomicUsize,
    /// Threads that have not left.
    live: AtomicUsize,
    /// Messages begun and ended, by slot: odd while one is being served.
    work: Box<[Work]>,
    /// Milliseconds after `started` at which the pool grew last.
    grown_at: AtomicU64,
    roster: Mutex<Roster>,
    /// The monitor is looking, or has been told to.
    alert: AtomicBool,
    monitor: OnceLock<Thread>,
    /// The last thread has left.
    finishing: AtomicBool,
    ended: Mutex<bool>,
    end: Condvar,
}

/// What a pool is doing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolStats {
    pub(crate) threads: usize,
    pub(crate) idle: usize,
    pub(crate) served: u64,
}

impl Pool {
    pub(crate) fn new(
        dispatcher: Dispatcher,
        lanes: Arc<Lanes>,
        size: PoolSize,
        buffer_len: usize,
    ) -> Self {
        Self {
            dispatcher,
            lanes,
            size,
            buffer_len,
            started: Instant::now(),
            idle: AtomicUsize::new(0),
            live: AtomicUsize::new(0),
            work: (0..size.cap).map(|_| Work::default()).collect(),
            grown_at: AtomicU64::new(0),
            roster: Mutex::new(Roster { handles: Vec::new(), free: (0..size.cap).rev().collect() }),
            alert: AtomicBool::new(false),
            monitor: OnceLock::new(),
            finishing: AtomicBool::new(false),
            ended: Mutex::new(false),
            end: Condvar::new(),
        }
    }

    /// Starts the threads; the pool ends by itself when the connection does.
    ///
    /// If it fails, what has started ends with the connection too.
    pub(crate) fn start(self: &Arc<Self>, watchdog: Option<Watchdog>) -> io::Result<()> {
        let pool = Arc::clone(self);
        let monitor = thread::Builder::new()
            .name("fuse-monitor".into())
            .spawn(move || pool.watch(watchdog))?;
        let _ = self.monitor.set(monitor.thread().clone());
        self.roster().handles.push(monitor);
        for _ in 0..self.size.base {
            self.add_thread()?;
        }
        Ok(())
    }

    /// Waits until the connection has ended and no handler runs any more.
    pub(crate) fn wait(&self) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        while !*ended {
            ended = (self.end.wait(ended)).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits as [`wait`](Self::wait) does, but not longer than this; returns whether it has ended.
    pub(crate) fn wait_timeout(&self, patience: Duration) -> bool {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        match (self.end).wait_timeout_while(ended, patience, |ended| !*ended) {
            Ok((ended, _)) => *ended,
            Err(poisoned) => *poisoned.into_inner().0,
        }
    }

    /// Returns whether [`wait`](Self::wait) would return at once.
    pub(crate) fn has_ended(&self) -> bool {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for all threads.
    pub(crate) fn join(&self) {
        let handles = std::mem::take(&mut self.roster().handles);
        for handle in handles {
            let _ = handle.join();
        }
    }

    pub(crate) fn stats(&self) -> PoolStats {
        let begun_and_ended = (self.work.iter()).map(|work| work.count.load(Ordering::Relaxed));
        PoolStats {
            threads: self.live.load(Ordering::Relaxed),
            idle: self.idle.load(Ordering::Relaxed),
            served: begun_and_ended.map(|count| count / 2).sum(),
        }
    }

    pub(crate) const fn dispatcher(&self) -> &Dispatcher {
        &self.dispatcher
    }

    /// Adds a thread, unless the cap is reached.
    fn add_thread(self: &Arc<Self>) -> io::Result<()> {
        let mut roster = self.roster();
        roster.handles.retain(|handle| !handle.is_finished());
        let Some(slot) = roster.free.pop() else {
            return Ok(());
        };
        // Counted before it runs, so that the last to leave knows that it is the last.
        self.live.fetch_add(1, Ordering::SeqCst);
        let pool = Arc::clone(self);
        let spawned =
            thread::Builder::new().name(format!("fuse-{slot}")).spawn(move || pool.run(slot));
        match spawned {
            Ok(handle) => {
                roster.handles.push(handle);
                Ok(())
            }
            Err(error) => {
                roster.free.push(slot);
                drop(roster);
                self.leave();
                Err(error)
            }
        }
    }

    /// Serves messages until the connection ends or the thread is surplus.
    fn run(&self, slot: usize) {
        forbid_waiting();
        let mut buffer = vec![0; self.buffer_len];
        let work = &self.work[slot];
        while let Some(len) = self.receive(&mut buffer) {
            work.step();
            self.dispatcher.serve(slot, &buffer[..len]);
            work.step();
            if self.is_surplus() {
                self.roster().free.push(slot);
                return;
            }
        }
        self.roster().free.push(slot);
        self.leave();
    }

    /// Waits for a message; `None` is the end of the connection.
    fn receive(&self, buffer: &mut [u8]) -> Option<usize> {
        self.idle.fetch_add(1, Ordering::SeqCst);
        let received = loop {
            match self.dispatcher.device.receive(buffer) {
                Received::Nothing => {}
                Received::Message(len) => break Some(len),
                Received::Ended => break None,
            }
        };
        let was_last = self.idle.fetch_sub(1, Ordering::SeqCst) == 1;
        if was_last && !self.alert.load(Ordering::SeqCst) {
            self.call_monitor();
        }
        received
    }

    fn call_monitor(&self) {
        self.alert.store(true, Ordering::SeqCst);
        if let Some(monitor) = self.monitor.get() {
            monitor.unpark();
        }
    }

    /// Decides whether the calling thread leaves; it is no longer counted then.
    fn is_surplus(&self) -> bool {
        let live = self.live.load(Ordering::Relaxed);
        live > self.size.base
            && self.idle.load(Ordering::Relaxed) >= self.size.base
            && self.uptime_ms() > self.grown_at.load(Ordering::Relaxed) + SHRINK_AFTER_MS
            && (self.live)
                .compare_exchange(live, live - 1, Ordering::SeqCst, Ordering::Relaxed)
                .is_ok()
    }

    /// Counts a thread out; the last one ends the session.
    fn leave(&self) {
        // A thread that the monitor adds meanwhile finds the connection ended and
        // may be the last one as well.
        if self.live.fetch_sub(1, Ordering::SeqCst) == 1
            && !self.finishing.swap(true, Ordering::SeqCst)
        {
            self.finish();
        }
    }

    fn finish(&self) {
        let Dispatcher { fs, connection, .. } = &self.dispatcher;
        self.dispatcher.guard("interrupt callback", || connection.requests.close());
        self.lanes.close();
        self.dispatcher.guard("destroy", || fs.destroy());
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.end.notify_all();
        self.call_monitor();
        tracing::debug!("the session has ended");
    }

    /// Is the monitor: makes the pool grow, and keeps the watchdog quiet.
    fn watch(self: &Arc<Self>, mut watchdog: Option<Watchdog>) {
        let mut seen = vec![0; self.size.cap];
        let mut served = u64::MAX;
        loop {
            let beat = watchdog.as_ref().map(Watchdog::interval);
            match (self.alert.load(Ordering::SeqCst), beat) {
                (true, _) => thread::park_timeout(self.tick()),
                (false, Some(interval)) => thread::park_timeout(interval),
                (false, None) => thread::park(),
            }
            if self.has_ended() {
                break;
            }
            if self.alert.load(Ordering::SeqCst) {
                self.look(&mut seen);
            }
            let due = watchdog.as_mut().filter(|watchdog| watchdog.is_due());
            if let Some(due) = due
                && self.is_healthy(&mut served)
                && !due.beat()
            {
                tracing::warn!("the watchdog process is gone, nothing guards the mount now");
                watchdog = None;
            }
        }
    }

    /// Replaces slow threads; goes off alert once somebody is reading.
    fn look(self: &Arc<Self>, seen: &mut [u64]) {
        if self.idle.load(Ordering::SeqCst) > 0 {
            self.alert.store(false, Ordering::SeqCst);
            // The last reader may have left before it could see that.
            if self.idle.load(Ordering::SeqCst) > 0 {
                return;
            }
            self.alert.store(true, Ordering::SeqCst);
        }
        let mut slow = 0;
        for (work, seen) in self.work.iter().zip(seen) {
            let count = work.count.load(Ordering::Relaxed);
            slow += usize::from(count % 2 == 1 && count == *seen);
            *seen = count;
        }
        if slow == 0 {
            return;
        }
        // Twice the slow ones, so that a burst is met in a few ticks.
        let wanted = (self.size.base + 2 * slow).min(self.size.cap);
        let live = self.live.load(Ordering::SeqCst);
        for _ in live..wanted {
            if let Err(error) = self.add_thread() {
                tracing::warn!(%error, "no further thread can be started");
                break;
            }
        }
        if live < wanted {
            tracing::debug!(slow, threads = wanted, "handlers are slow, the pool grows");
            self.grown_at.store(self.uptime_ms(), Ordering::Relaxed);
        }
    }

    /// Returns whether somebody is reading, can be made to, or has been since the last call.
    fn is_healthy(&self, served: &mut u64) -> bool {
        let stats = self.stats();
        let before = std::mem::replace(served, stats.served);
        stats.idle > 0 || stats.threads < self.size.cap || stats.served != before
    }

    fn tick(&self) -> Duration {
        if self.live.load(Ordering::Relaxed) < self.size.cap { TICK } else { TICK_AT_CAP }
    }

    fn uptime_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn roster(&self) -> MutexGuard<'_, Roster> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a thread may be at one message before it counts as slow. A round
/// trip takes 5 to 20 us; what takes milliseconds on a busy machine is that the
/// thread is not scheduled, which more threads would make worse. A client that
/// finds all threads asleep waits for one or two of these.
const TICK: Duration = Duration::from_millis(3);

/// The same when there is nothing left to add, to look for a reader again.
const TICK_AT_CAP: Duration = Duration::from_millis(100);

/// Milliseconds after the last growth before a thread may leave, so that
/// a steady mix of slow and fast handlers does not start and end threads.
const SHRINK_AFTER_MS: u64 = 1000;

struct Roster {
    handles: Vec<JoinHandle<()>>,
    /// Slots that no thread has.
    free: Vec<usize>,
}

/// Progress of one thread, aligned as the slots in `requests` are.
#[derive(Default)]
#[repr(align(128))]
struct Work {
    count: AtomicU64,
}

impl Work {
    /// Counts a begin or an end; only the owner of the slot does.
    fn step(&self) {
        let count = self.count.load(Ordering::Relaxed);
        self.count.store(count + 1, Ordering::Relaxed);
    }
}
