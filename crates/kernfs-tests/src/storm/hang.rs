//! What hangs is found, told of, and ended.

use std::ffi::CString;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take: far more than it needs on the busiest machine.
pub(super) const LIMIT: Duration = Duration::from_secs(30);

/// The exit status of a storm in which something hung.
const HUNG: i32 = 3;

/// The processes of clients.
pub(super) type Pids = Arc<Mutex<Vec<u32>>>;

/// A thread that ends this process if anybody stops giving signs of life.
pub(super) struct Watch {
    beats: Arc<Mutex<Vec<Arc<Mutex<Beat>>>>>,
    crew: Pids,
    over: Arc<AtomicBool>,
}

/// The last sign of life of somebody; nobody looks for another one after the end.
struct Beat {
    who: String,
    what: &'static str,
    at: Option<Instant>,
}

/// Somebody who gives signs of life; ends when it is dropped.
pub(super) struct Pulse(Arc<Mutex<Beat>>);

impl Watch {
    pub(super) fn start(mounted_on: &Path) -> Self {
        let watch = Self {
            beats: Arc::default(),
            crew: Arc::default(),
            over: Arc::new(AtomicBool::new(false)),
        };
        let (beats, crew) = (Arc::clone(&watch.beats), Arc::clone(&watch.crew));
        let (over, place) = (Arc::clone(&watch.over), mounted_on.to_owned());
        thread::spawn(move || {
            while !over.load(SeqCst) {
                thread::sleep(Duration::from_millis(100));
                // A removal that does not end is told of by who waits for it, and this much later.
                if let Some(who) = lock(&beats).iter().find_map(|beat| lock(beat).is_late()) {
                    end(&who, &lock(&crew), &place);
                }
            }
        });
        watch
    }

    /// Returns where clients are entered, to be reported and ended with the rest.
    pub(super) fn crew(&self) -> Pids {
        Arc::clone(&self.crew)
    }

    /// Watches over somebody else.
    pub(super) fn pulse(&self, who: impl Into<String>) -> Pulse {
        let beat = Beat { who: who.into(), what: "begins", at: Some(Instant::now()) };
        let beat = Arc::new(Mutex::new(beat));
        lock(&self.beats).push(Arc::clone(&beat));
        Pulse(beat)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, SeqCst);
    }
}

impl Beat {
    fn is_late(&self) -> Option<String> {
        let late = self.at.filter(|at| at.elapsed() > LIMIT + LIMIT / 2);
        late.map(|at| format!("{} ({}, since {:.0?})", self.who, self.what, at.elapsed()))
    }
}

impl Pulse {
    /// Gives a sign of life.
    pub(super) fn beat(&self) {
        lock(&self.0).at = Some(Instant::now());
    }

    /// Tells what is done from now on.
    pub(super) fn begin(&self, what: &'static str) {
        let mut beat = lock(&self.0);
        (beat.what, beat.at) = (what, Some(Instant::now()));
    }

    /// Tells that no further sign is to be expected.
    pub(super) fn end(&self) {
        lock(&self.0).at = None;
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.end();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Names this thread after what it does, for [`report`].
pub(super) fn name_thread(what: &str) {
    // The name is only for whoever looks.
    let _ = CString::new(what).map(|name| rustix::thread::set_name(&name));
}

/// Tells what everybody is at, and ends them all.
fn end(who: &str, crew: &[u32], mounted_on: &PathBuf) {
    eprintln!("HUNG: {who}");
    for pid in [&[std::process::id()], crew].concat() {
        eprint!("{}", report(pid));
    }
    let pids = crew.iter().filter_map(|pid| Pid::from_raw(pid.cast_signed()));
    for pid in pids {
        let _ = kill_process(pid, Signal::KILL);
    }
    // The mount dies with this process, and so does whoever waits in it.
    let _ = unmount(mounted_on, UnmountFlags::DETACH);
    let _ = fs::remove_dir(mounted_on);
    std::process::exit(HUNG);
}

/// Tells where each thread of a process is: what it does, its system call, and where in the kernel.
pub(super) fn report(pid: u32) -> String {
    let mut text = format!("process {pid}\n");
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    for task in tasks {
        let read = |file| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let status = read("status");
        let state = status.lines().find_map(|line| line.strip_prefix("State:\t")).unwrap_or("?");
        let (name, call, place) = (read("comm"), read("syscall"), read("wchan"));
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "  {}: {}, {state}, in {place}, system call {}",
            task.file_name().display(),
            name.trim_end(),
            call.trim_end()
        );
        for line in read("stack").lines().take(6) {
            let _ = writeln!(text, "      {line}");
        }
    }
    text
}
