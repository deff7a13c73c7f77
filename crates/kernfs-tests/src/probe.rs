//! Instruments for tests: doors that hold an operation inside, sleepers whose sleep can be seen,
//! wakers that count, and a driver that notices every call that must not be.
//!
//! Nothing here sleeps to synchronise: conditions are waited for, up to [`DEADLINE`].

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use kernfs::{Errno, FileOps, Kind, MapOp, OpenOp, Ops, ReadOp, ReadyBy, WriteOp};

/// How long a test waits for what must happen; long, for machines are busy.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Waits until a condition holds.
///
/// # Panics
///
/// When it does not within [`DEADLINE`].
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "did not happen in time: {what}");
        thread::sleep(Duration::from_micros(200));
    }
}

/// Runs `body` on another thread and returns what it returns.
///
/// # Panics
///
/// When it hangs for longer than [`DEADLINE`], or panics.
pub fn within<T: Send + 'static>(what: &str, body: impl FnOnce() -> T + Send + 'static) -> T {
    Sleeper::spawn(body).join(what)
}

/// A thread that is going to sleep in kernfs.
#[derive(Debug)]
pub struct Sleeper<T> {
    result: mpsc::Receiver<T>,
    /// Where the kernel tells the state of the thread.
    stat: Option<std::path::PathBuf>,
    asleep_at: Arc<AtomicBool>,
}

impl<T: Send + 'static> Sleeper<T> {
    /// Starts the thread.
    pub fn spawn(body: impl FnOnce() -> T + Send + 'static) -> Self {
        let (send, result) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        let asleep_at = Arc::new(AtomicBool::new(false));
        let started = Arc::clone(&asleep_at);
        thread::spawn(move || {
            let link = std::fs::read_link("/proc/thread-self").ok();
            let _ = tell.send(link.map(|link| std::path::Path::new("/proc").join(link)));
            started.store(true, Ordering::SeqCst);
            let _ = send.send(body());
        });
        let stat = told.recv().ok().flatten().map(|dir| dir.join("stat"));
        Self { result, stat, asleep_at }
    }

    /// Waits until the thread sleeps; where the state of threads is not told, until it runs.
    pub fn until_asleep(&self) {
        eventually("a thread goes to sleep", || {
            let Some(stat) = &self.stat else {
                return self.asleep_at.load(Ordering::SeqCst);
            };
            let Ok(text) = std::fs::read_to_string(stat) else {
                return true;
            };
            let state = text.rsplit(") ").next().and_then(|rest| rest.chars().next());
            self.asleep_at.load(Ordering::SeqCst) && state == Some('S')
        });
    }

    /// Tells whether the thread has nothing to show yet.
    pub fn result_now(&self) -> Option<T> {
        self.result.try_recv().ok()
    }

    /// Returns what the thread returns.
    ///
    /// # Panics
    ///
    /// When it hangs for longer than [`DEADLINE`], or panics.
    pub fn join(self, what: &str) -> T {
        match self.result.recv_timeout(DEADLINE) {
            Ok(value) => value,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("hangs: {what}"),
            Err(mpsc::RecvTimeoutError::Disconnected) => panic!("panicked: {what}"),
        }
    }
}

/// A door inside a callback, which holds whoever passes until it is opened.
#[derive(Debug, Default)]
pub struct Door {
    state: Mutex<DoorState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct DoorState {
    inside: usize,
    is_open: bool,
}

impl Door {
    /// Makes a closed door.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Holds the thread until the door is open.
    pub fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.inside += 1;
        self.changed.notify_all();
        while !state.is_open {
            state = self.changed.wait(state).unwrap();
        }
    }

    /// Waits until so many threads came to the door.
    ///
    /// # Panics
    ///
    /// When they do not within [`DEADLINE`].
    pub fn until_inside(&self, count: usize) {
        let state = self.state.lock().unwrap();
        let too_few = |state: &mut DoorState| state.inside < count;
        let (_state, late) = self.changed.wait_timeout_while(state, DEADLINE, too_few).unwrap();
        assert!(!late.timed_out(), "nobody came to the door");
    }

    /// Lets everybody through, now and in future.
    pub fn open(&self) {
        self.state.lock().unwrap().is_open = true;
        self.changed.notify_all();
    }
}

/// Opens a door when it is dropped, so that a failing test leaves nobody behind it.
#[derive(Debug)]
pub struct OpenAtEnd(pub Arc<Door>);

impl Drop for OpenAtEnd {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// A waker that only counts: what it wakes never runs.
#[derive(Debug, Default)]
pub struct CountingWaker(AtomicUsize);

impl CountingWaker {
    /// Makes the counter and a waker that counts on it.
    #[must_use]
    pub fn new() -> (Arc<Self>, Waker) {
        let counter = Arc::new(Self::default());
        let waker = Waker::from(Arc::clone(&counter));
        (counter, waker)
    }

    /// Returns how often it was woken.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Wake for CountingWaker {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A waker that runs a function.
pub struct CallingWaker<F>(pub F);

impl<F: Fn() + Send + Sync + 'static> Wake for CallingWaker<F> {
    fn wake(self: Arc<Self>) {
        (self.0)();
    }
}

impl<F> std::fmt::Debug for CallingWaker<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CallingWaker")
    }
}

/// Runs a future on this thread, parked in between: an executor of a dozen lines.
///
/// `asleep` is called after each poll that was not ready.
pub fn block_on<F: Future>(future: F, mut asleep: impl FnMut()) -> F::Output {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let mut future = std::pin::pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut cx = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
        asleep();
        thread::park();
    }
}

/// What a [`Watched`] driver has seen.
#[derive(Debug, Default)]
pub struct Log {
    /// Open files that the driver opened.
    pub opened: AtomicUsize,
    /// Open files that were released.
    pub released: AtomicUsize,
    /// Open files whose file lifetime ended.
    pub freed: AtomicUsize,
    /// Reads, writes and mappings that began.
    pub entered: AtomicUsize,
    /// Operations that are inside the driver now.
    pub inside: AtomicUsize,
    /// Drivers that were dropped.
    pub dropped: AtomicUsize,
    /// The owner has taken its driver back: nothing may call it any more.
    pub gone: AtomicBool,
    /// Everything that must not be.
    violations: Mutex<Vec<&'static str>>,
}

impl Log {
    /// Makes an empty log.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Returns one of the counters.
    #[must_use]
    pub fn count(counter: &AtomicUsize) -> usize {
        counter.load(Ordering::SeqCst)
    }

    /// Notes what must not be.
    pub fn blame(&self, what: &'static str) {
        self.violations.lock().unwrap().push(what);
    }

    /// Checks that nothing happened that must not be.
    ///
    /// # Panics
    ///
    /// If something did.
    pub fn assert_clean(&self) {
        let violations = self.violations.lock().unwrap();
        assert!(violations.is_empty(), "violations: {violations:?}");
    }

    /// Checks that so many open files were opened, released and freed, each once.
    ///
    /// # Panics
    ///
    /// If not.
    pub fn assert_ended(&self, opened: usize) {
        self.assert_clean();
        let counts = [&self.opened, &self.released, &self.freed].map(Self::count);
        assert_eq!(counts, [opened; 3], "opened, released, freed");
    }

    fn enter(&self) {
        self.entered.fetch_add(1, Ordering::SeqCst);
        self.inside.fetch_add(1, Ordering::SeqCst);
        if self.gone.load(Ordering::SeqCst) {
            self.blame("an operation began after the removal had returned");
        }
    }

    fn leave(&self) {
        if self.gone.load(Ordering::SeqCst) {
            self.blame("an operation was inside when the removal returned");
        }
        self.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A driver that notices overlapping operations, operations after release, a second release.
///
/// `KIND` is 0 for text, 1 for seq, 2 for binary, 3 for a stream. With `RELEASE` its release does
/// work, else it is as good as the default one.
#[derive(Debug)]
pub struct Watched<const KIND: u8 = 0, const RELEASE: bool = true> {
    /// What it has seen.
    pub log: Arc<Log>,
    /// Holds reads and writes inside, if there is one.
    pub door: Option<Arc<Door>>,
    /// Whether reads have nothing to tell (EAGAIN).
    pub is_empty: AtomicBool,
    /// Reads that found nothing.
    pub starved: AtomicUsize,
}

impl<const KIND: u8, const RELEASE: bool> Watched<KIND, RELEASE> {
    /// Makes a driver on a log.
    #[must_use]
    pub fn new(log: &Arc<Log>) -> Self {
        Self {
            log: Arc::clone(log),
            door: None,
            is_empty: AtomicBool::new(false),
            starved: AtomicUsize::new(0),
        }
    }

    /// Puts a door into reads and writes.
    #[must_use]
    pub fn with_door(log: &Arc<Log>, door: &Arc<Door>) -> Self {
        let mut driver = Self::new(log);
        driver.door = Some(Arc::clone(door));
        driver
    }

    fn pass_door(&self) {
        if let Some(door) = &self.door {
            door.pass();
        }
    }
}

impl<const KIND: u8, const RELEASE: bool> Drop for Watched<KIND, RELEASE> {
    fn drop(&mut self) {
        self.log.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

/// The state of one open file of a [`Watched`] driver.
#[derive(Debug)]
pub struct Ticket {
    log: Arc<Log>,
    is_busy: AtomicBool,
    is_released: AtomicBool,
    records: usize,
}

impl Ticket {
    fn run<R>(&mut self, body: impl FnOnce(&mut Self) -> R) -> R {
        self.log.enter();
        if self.is_released.load(Ordering::SeqCst) {
            self.log.blame("an operation after release");
        }
        if self.is_busy.swap(true, Ordering::SeqCst) {
            self.log.blame("two operations on one open file at once");
        }
        let result = body(self);
        self.is_busy.store(false, Ordering::SeqCst);
        self.log.leave();
        result
    }
}

impl<const KIND: u8, const RELEASE: bool> FileOps for Watched<KIND, RELEASE> {
    type Open = Ticket;
    const KIND: Kind = match KIND {
        0 => Kind::Text,
        1 => Kind::Seq,
        2 => Kind::Binary,
        _ => Kind::Stream,
    };
    const OPS: Ops = Ops::READ.union(Ops::WRITE).union(Ops::MMAP);
    const READY: ReadyBy = ReadyBy::Notify;

    fn open(&self, op: &mut OpenOp<'_>) -> Result<Ticket, Errno> {
        self.log.enter();
        self.log.opened.fetch_add(1, Ordering::SeqCst);
        let log = Arc::clone(&self.log);
        op.on_free(move || {
            let freed = log.freed.fetch_add(1, Ordering::SeqCst);
            if RELEASE && freed >= log.released.load(Ordering::SeqCst) {
                log.blame("free before release");
            }
        });
        self.log.leave();
        Ok(Ticket {
            log: Arc::clone(&self.log),
            is_busy: AtomicBool::new(false),
            is_released: AtomicBool::new(false),
            records: 0,
        })
    }

    fn read(&self, ticket: &mut Ticket, op: &mut ReadOp<'_>) -> Result<(), Errno> {
        ticket.run(|ticket| {
            self.pass_door();
            if self.is_empty.load(Ordering::SeqCst) {
                self.starved.fetch_add(1, Ordering::SeqCst);
                return Err(Errno::EAGAIN);
            }
            if op.is_from_start() {
                ticket.records = 0;
            }
            ticket.records += 1;
            if ticket.records == 1 || Self::KIND == Kind::Stream {
                op.push(b"0123456789\n");
            }
            Ok(())
        })
    }

    fn write(&self, ticket: &mut Ticket, op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        ticket.run(|_| {
            self.pass_door();
            Ok(op.data().len())
        })
    }

    fn mmap(&self, ticket: &mut Ticket, _: &MapOp<'_>) -> Result<(), Errno> {
        ticket.run(|_| {
            self.pass_door();
            Ok(())
        })
    }

    fn release(&self, ticket: Ticket) {
        if ticket.is_busy.load(Ordering::SeqCst) {
            self.log.blame("release while an operation is inside");
        }
        if ticket.is_released.swap(true, Ordering::SeqCst) {
            self.log.blame("released twice");
        }
        if self.log.gone.load(Ordering::SeqCst) {
            self.log.blame("release after the removal had returned");
        }
        if RELEASE {
            self.log.released.fetch_add(1, Ordering::SeqCst);
        }
    }
}
