//! A small filesystem in memory, and what the tests need around it.

#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of this module")]

use std::collections::{HashMap, HashSet};
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fuse_session::op::PollEvents;
use fuse_session::*;
use rustix::mount::UnmountFlags;

/// Subtype of all test mounts.
pub const SUBTYPE: &str = "sessiontest";

/// Long enough for the busiest machine; a test that works never waits for it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Entries in the directory `many`.
pub const MANY: u64 = 5000;

/// Text of the file `later`.
pub const LATER: &[u8] = b"answered by another thread\n";

/// Written to `data`, it makes the server drop that name.
pub const INVALIDATE: &[u8] = b"invalidate";

pub const ROOT: u64 = 1;
pub const DATA: u64 = 2;
pub const BLOCKED: u64 = 3;
pub const LATER_ID: u64 = 4;
pub const PANIC: u64 = 5;
pub const SLOW: u64 = 6;
pub const EVENT: u64 = 7;
pub const DROPPED: u64 = 8;
pub const MANY_ID: u64 = 9;
pub const LINK: u64 = 10;
pub const CACHED: u64 = 11;
const MANY_FIRST: u64 = 1000;

const FILES: &[(&str, u64)] = &[
    ("data", DATA),
    ("blocked", BLOCKED),
    ("later", LATER_ID),
    ("panic", PANIC),
    ("slow", SLOW),
    ("event", EVENT),
    ("dropped", DROPPED),
    ("many", MANY_ID),
    ("link", LINK),
    ("cached", CACHED),
];

/// What the filesystem and its test share.
#[derive(Default)]
pub struct State {
    pub data: Mutex<Vec<u8>>,
    /// Content of `cached`.
    pub cached: Mutex<Vec<u8>>,
    pub cached_reads: AtomicU64,
    /// Reads of `blocked` that wait.
    pub blocked: Mutex<HashMap<u64, Parked<kind::Data>>>,
    /// Handlers of `slow` wait until it is open.
    pub gate: Gate,
    pub events: AtomicU32,
    pub poll_handles: Mutex<HashSet<u64>>,
    /// Names that are gone.
    pub removed: Mutex<HashSet<String>>,
    pub lookups: AtomicU64,
    pub interrupts: AtomicU64,
    pub destroyed: AtomicU64,
    pub notifier: OnceLock<Notifier>,
    /// Whether `read` of `slow` looks for interrupts.
    pub slow_gives_up: AtomicU64,
}

impl State {
    /// Answers all blocked reads.
    pub fn release_blocked(&self, text: &[u8]) -> usize {
        let blocked = std::mem::take(&mut *self.blocked.lock().unwrap());
        let replies: Vec<_> = blocked.into_values().filter_map(Parked::take).collect();
        let count = replies.len();
        replies.into_iter().for_each(|reply| reply.data(text));
        count
    }
}

/// A door that handlers wait at.
#[derive(Default)]
pub struct Gate {
    /// Whether it is open, and how many wait.
    state: Mutex<(bool, usize)>,
    changed: Condvar,
}

impl Gate {
    pub fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.1 += 1;
        while !state.0 {
            state = self.changed.wait(state).unwrap();
        }
        state.1 -= 1;
    }

    pub fn open(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = true;
        self.changed.notify_all();
    }

    pub fn waiting(&self) -> usize {
        self.state.lock().unwrap().1
    }
}

/// The filesystem.
pub struct TestFs(pub Arc<State>);

impl TestFs {
    fn entry(nodeid: u64, attr: FileAttr) -> Entry {
        Entry {
            nodeid,
            generation: 0,
            entry_ttl: Duration::from_secs(3600),
            attr_ttl: Duration::from_secs(3600),
            attr,
        }
    }

    fn attr(&self, nodeid: u64) -> FileAttr {
        match nodeid {
            ROOT | MANY_ID => FileAttr::directory(nodeid, 0o755),
            LINK => FileAttr::symlink(nodeid, 4),
            DATA => FileAttr::regular(nodeid, 0o644, self.0.data.lock().unwrap().len() as u64),
            CACHED => FileAttr::regular(nodeid, 0o644, self.0.cached.lock().unwrap().len() as u64),
            _ => FileAttr::regular(nodeid, 0o644, 4096),
        }
    }

    fn find(&self, parent: u64, name: &str) -> Option<u64> {
        if self.0.removed.lock().unwrap().contains(name) {
            return None;
        }
        match parent {
            ROOT => FILES.iter().find(|file| file.0 == name).map(|file| file.1),
            MANY_ID => {
                let number: u64 = name.strip_prefix("entry-")?.parse().ok()?;
                (number < MANY).then_some(MANY_FIRST + number)
            }
            _ => None,
        }
    }

    /// Gives the entries of a directory from an offset on: node, next offset, name.
    fn entries(&self, nodeid: u64, offset: u64) -> Box<dyn Iterator<Item = (u64, u64, String)>> {
        if nodeid == MANY_ID {
            return Box::new(
                (offset..MANY)
                    .map(|number| (MANY_FIRST + number, number + 1, format!("entry-{number}"))),
            );
        }
        let files = FILES.iter().zip(1..).skip(offset as usize);
        Box::new(files.map(|((name, nodeid), next)| (*nodeid, next, (*name).to_string())))
    }
}

fn slice(bytes: &[u8], op: &op::Read) -> Vec<u8> {
    let start = bytes.len().min(op.offset as usize);
    let end = bytes.len().min(start + op.size as usize);
    bytes[start..end].to_vec()
}

impl Filesystem for TestFs {
    fn init(&self, config: &mut KernelConfig) -> Result<(), Errno> {
        config.want(InitFlags::DO_READDIRPLUS | InitFlags::READDIRPLUS_AUTO);
        Ok(())
    }

    fn mounted(&self, notifier: &Notifier) {
        let _ = self.0.notifier.set(notifier.clone());
    }

    fn destroy(&self) {
        self.0.destroyed.fetch_add(1, Ordering::SeqCst);
    }

    fn lookup(&self, request: &Request, name: &OsStr, reply: ReplyEntry) {
        self.0.lookups.fetch_add(1, Ordering::SeqCst);
        match self.find(request.nodeid, &name.to_string_lossy()) {
            Some(nodeid) => reply.entry(&Self::entry(nodeid, self.attr(nodeid))),
            None => reply.negative(Duration::ZERO),
        }
    }

    fn getattr(&self, request: &Request, _: op::GetAttr, reply: ReplyAttr) {
        reply.attr(Duration::from_secs(3600), &self.attr(request.nodeid));
    }

    fn setattr(&self, request: &Request, op: op::SetAttr, reply: ReplyAttr) {
        if let (DATA, Some(size)) = (request.nodeid, op.size) {
            self.0.data.lock().unwrap().resize(size as usize, 0);
        }
        reply.attr(Duration::from_secs(3600), &self.attr(request.nodeid));
    }

    fn readlink(&self, _: &Request, reply: ReplyData) {
        reply.data(b"data");
    }

    fn open(&self, request: &Request, _: op::Open, reply: ReplyOpen) {
        let flags = match request.nodeid {
            CACHED => OpenFlags::KEEP_CACHE,
            BLOCKED | EVENT => OpenFlags::DIRECT_IO | OpenFlags::STREAM,
            _ => OpenFlags::DIRECT_IO,
        };
        reply.opened(request.unique, flags);
    }

    fn read(&self, request: &Request, op: op::Read, reply: ReplyData) {
        match request.nodeid {
            DATA => reply.data(&slice(&self.0.data.lock().unwrap(), &op)),
            CACHED => {
                self.0.cached_reads.fetch_add(1, Ordering::SeqCst);
                reply.data(&slice(&self.0.cached.lock().unwrap(), &op));
            }
            BLOCKED if op.flags.contains(op::FileFlags::NONBLOCK) => reply.error(Errno::EAGAIN),
            BLOCKED => self.block(reply),
            LATER_ID => {
                thread::spawn(move || {
                    thread::sleep(Duration::from_millis(20));
                    reply.data(&slice(LATER, &op));
                });
            }
            PANIC => panic!("as the test wants it"),
            SLOW if self.0.slow_gives_up.load(Ordering::SeqCst) == 1 => {
                while !reply.is_interrupted() {
                    thread::sleep(Duration::from_millis(1));
                }
                reply.error(Errno::EINTR);
            }
            SLOW => {
                self.0.gate.pass();
                reply.data(b"");
            }
            EVENT => reply.data(&slice(b"event\n", &op)),
            _ => drop(reply),
        }
    }

    fn write(&self, request: &Request, op: op::Write<'_>, reply: ReplyWrite) {
        if request.nodeid != DATA {
            return reply.error(Errno::EINVAL);
        }
        if op.data == INVALIDATE {
            let notifier = self.0.notifier.get().unwrap();
            notifier.inval_entry(ROOT, OsStr::new("data"), ());
        }
        let mut data = self.0.data.lock().unwrap();
        let end = op.offset as usize + op.data.len();
        if data.len() < end {
            data.resize(end, 0);
        }
        data[op.offset as usize..end].copy_from_slice(op.data);
        reply.written(op.data.len() as u32);
    }

    fn readdir(&self, request: &Request, op: op::Read, reply: ReplyDirectory) {
        let mut buffer = DirBuffer::new(op.size);
        for (nodeid, next, name) in self.entries(request.nodeid, op.offset) {
            let kind = self.attr(nodeid).kind();
            if !buffer.push(nodeid, next, kind, name.as_ref()) {
                break;
            }
        }
        reply.entries(&buffer);
    }

    fn readdirplus(&self, request: &Request, op: op::Read, reply: ReplyDirectoryPlus) {
        let mut buffer = DirPlusBuffer::new(op.size);
        for (nodeid, next, name) in self.entries(request.nodeid, op.offset) {
            let entry = Self::entry(nodeid, self.attr(nodeid));
            if !buffer.push(&entry, next, name.as_ref()) {
                break;
            }
        }
        reply.entries(&buffer);
    }

    fn poll(&self, request: &Request, op: op::Poll, reply: ReplyPoll) {
        if request.nodeid != EVENT {
            return reply.ready(PollEvents::ALWAYS_READY);
        }
        if op.wants_wakeup {
            self.0.poll_handles.lock().unwrap().insert(op.kh);
        }
        let events = self.0.events.load(Ordering::SeqCst);
        reply.ready(PollEvents::from_bits_retain(events));
    }

    fn interrupt(&self, _: u64) {
        self.0.interrupts.fetch_add(1, Ordering::SeqCst);
    }
}

impl TestFs {
    fn block(&self, reply: ReplyData) {
        let unique = reply.unique();
        let state = Arc::clone(&self.0);
        let mut blocked = self.0.blocked.lock().unwrap();
        let parked = reply.park(move |reply| {
            state.interrupts.fetch_add(1, Ordering::SeqCst);
            reply.error(Errno::EINTR);
        });
        blocked.insert(unique, parked);
    }
}

/// A mount for one test; ends the test program if the test hangs.
pub struct Mount {
    pub state: Arc<State>,
    pub session: Option<Session>,
    pub dir: TempDir,
    _deadline: Deadline,
}

impl Mount {
    /// Mounts, or returns `None` with a printed reason.
    pub fn new() -> Option<Self> {
        Self::with(&options())
    }

    pub fn with(options: &MountOptions) -> Option<Self> {
        if !can_mount() {
            return None;
        }
        let dir = TempDir::new();
        let state = Arc::new(State::default());
        let session = Session::mount(TestFs(Arc::clone(&state)), &dir.0, options).unwrap();
        Some(Self {
            _deadline: Deadline::start(session.path()),
            state,
            session: Some(session),
            dir,
        })
    }

    pub fn session(&self) -> &Session {
        self.session.as_ref().unwrap()
    }

    pub fn notifier(&self) -> Notifier {
        self.session().notifier()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.0.join(name)
    }

    pub fn stats(&self) -> SessionStats {
        self.session().stats()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // A handler that waits at the gate would hold up the unmount.
        self.state.gate.open();
        self.session.take();
    }
}

pub fn options() -> MountOptions {
    MountOptions::new(SUBTYPE)
}

/// Returns whether this process may mount by itself; prints why not.
pub fn can_mount() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| {
        let dir = TempDir::new();
        let state = Arc::new(State::default());
        let options = options().method(MountMethod::Direct);
        match Session::mount(TestFs(state), &dir.0, &options) {
            Ok(_) => true,
            Err(error) => {
                println!("skipped: {error}");
                false
            }
        }
    })
}

/// An empty directory that goes with its owner.
pub struct TempDir(pub PathBuf);

impl TempDir {
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("fuse-session-{}-{number}", std::process::id());
        let path = fs::canonicalize(env::temp_dir()).unwrap().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // Never recursive: something may still be mounted here.
        let _ = fs::remove_dir(&self.0);
    }
}

/// Ends the whole test program when a test hangs.
struct Deadline(Arc<Gate>);

impl Deadline {
    fn start(mounted: &Path) -> Self {
        let mounted = mounted.to_path_buf();
        let gate = Arc::new(Gate::default());
        let watched = Arc::clone(&gate);
        let test = thread::current().name().unwrap_or("?").to_string();
        thread::spawn(move || {
            let state = watched.state.lock().unwrap();
            let result = watched.changed.wait_timeout_while(state, PATIENCE * 3, |state| !state.0);
            if result.is_ok_and(|(_, timeout)| timeout.timed_out()) {
                eprintln!("test {test} hangs");
                // A thread that waits for an answer outlives even an abort of
                // the process, and keeps it and the mount alive.
                let flags = UnmountFlags::FORCE | UnmountFlags::DETACH;
                let _ = rustix::mount::unmount(&mounted, flags);
                std::process::abort();
            }
        });
        Self(gate)
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// Waits until something is so.
#[track_caller]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never came: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Waits for a process to end.
#[track_caller]
pub fn wait_for(child: &mut Child) -> std::process::ExitStatus {
    let mut status = None;
    eventually("the end of the process", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

pub fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// Returns the errno that reading the whole file ends with.
pub fn read_errno(path: &Path) -> Option<i32> {
    fs::read(path).err().and_then(|error| error.raw_os_error())
}

/// Returns what is mounted at a path, the topmost last.
pub fn mounts_at(path: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    table
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .filter(|fields| Path::new(fields[1]) == path)
        .map(|fields| fields[2].to_string())
        .collect()
}

/// A server in a process of its own: the same test program, told by its environment.
pub struct Daemon(pub Child);

const DAEMON_DIR: &str = "FUSE_SESSION_TEST_DIR";
const DAEMON_PATIENCE: &str = "FUSE_SESSION_TEST_PATIENCE_MS";

impl Daemon {
    /// Starts it, and waits until it has mounted.
    pub fn start(dir: &Path, watchdog: Option<Duration>) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command
            .args(["--exact", "daemon", "--nocapture"])
            .env(DAEMON_DIR, dir)
            .stdout(Stdio::piped());
        if let Some(patience) = watchdog {
            command.env(DAEMON_PATIENCE, patience.as_millis().to_string());
        }
        let mut daemon = Self(command.spawn().unwrap());
        let stdout = BufReader::new(daemon.0.stdout.take().unwrap());
        let mounted = stdout.lines().any(|line| line.unwrap().ends_with("mounted"));
        assert!(mounted, "the daemon did not mount");
        daemon
    }

    /// Is the daemon, if the environment says so; call it from a test named `daemon`.
    pub fn run() {
        let Some(dir) = env::var_os(DAEMON_DIR) else {
            return;
        };
        let mut options = options();
        if let Ok(patience) = env::var(DAEMON_PATIENCE) {
            options = options.watchdog(Duration::from_millis(patience.parse().unwrap()));
        }
        let session = Session::mount(TestFs(Arc::default()), dir, &options).unwrap();
        println!("mounted");
        session.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
