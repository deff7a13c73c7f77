//! The conformance cases, numbered as in the contract.

mod hide;
mod io;
mod library;
mod notify;
mod objects;
mod pressure;
mod severing;

use std::fmt::Debug;
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use crate::subject::{Device, Fd, How, Needs, Subject, Sys};

/// A conformance case.
#[derive(Clone, Copy)]
pub struct Case {
    /// The number in the contract.
    pub number: &'static str,
    /// The group in the contract.
    pub group: &'static str,
    /// What must hold.
    pub title: &'static str,
    /// What a subject must have to show it.
    pub needs: Needs,
    /// Panics if it does not hold.
    pub run: fn(&Env<'_>),
}

impl Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.number, self.title)
    }
}

/// Returns all cases in the order of their numbers.
pub fn all() -> Vec<Case> {
    let by_calls = [objects::CASES, io::CASES, severing::CASES, hide::CASES, notify::CASES];
    [&by_calls.concat()[..], pressure::CASES, library::CASES].concat()
}

/// What a case runs with: the subject, and ways to say what is expected.
#[allow(missing_debug_implementations, reason = "a borrowed subject")]
pub struct Env<'a> {
    /// The subject.
    pub s: &'a dyn Subject,
    differences: Mutex<Vec<String>>,
    skipped: Mutex<Option<String>>,
    known: Mutex<Option<String>>,
}

/// A fresh directory of files that can be taken away: a group where there are groups, else a device.
pub(crate) struct Place {
    pub(crate) dir: String,
    /// A file to read and write.
    pub(crate) rw: String,
    /// What can be written to it, and is not in it yet.
    pub(crate) value: &'static str,
    /// A file of some lines, or of one long one.
    pub(crate) text: String,
    /// The size that stat tells of the files.
    pub(crate) size: u64,
    pub(crate) device: Option<Device>,
}

/// All events that poll(2) can ask a kernfs file for.
pub(crate) const ALL_EVENTS: u32 = IN | PRI | OUT | ERR | RDNORM | WRNORM;
pub(crate) const IN: u32 = 1;
pub(crate) const PRI: u32 = 2;
pub(crate) const OUT: u32 = 4;
pub(crate) const ERR: u32 = 8;
pub(crate) const RDNORM: u32 = 0x40;
pub(crate) const WRNORM: u32 = 0x100;

/// The longest that anything may take that must happen.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// How long to watch that something does not happen, where the kernel is known not to do it.
pub(crate) const A_WHILE: Duration = Duration::from_secs(1);

impl<'a> Env<'a> {
    /// Takes the subject.
    pub fn new(s: &'a dyn Subject) -> Self {
        Self {
            s,
            differences: Mutex::default(),
            skipped: Mutex::default(),
            known: Mutex::default(),
        }
    }

    /// Notes that the subject differs, as it was just checked to do.
    pub(crate) fn differs(&self, how: &str) {
        let mut differences = self.differences.lock().unwrap();
        if !differences.iter().any(|known| known == how) {
            differences.push(how.to_owned());
        }
    }

    /// Notes that the case cannot be shown after all.
    pub(crate) fn cannot(&self, why: &str) {
        *self.skipped.lock().unwrap() = Some(why.to_owned());
    }

    /// Returns why the case could not be shown, if so.
    pub fn skipped(&self) -> Option<String> {
        self.skipped.lock().unwrap().clone()
    }

    /// Notes a defect of ours that is known, and not mended yet.
    pub(crate) fn known_failure(&self, what: &str) {
        *self.known.lock().unwrap() = Some(what.to_owned());
    }

    /// Returns the known defect that was seen, if there was one.
    pub fn failure(&self) -> Option<String> {
        self.known.lock().unwrap().clone()
    }

    /// Returns in what the subject was seen to differ, as it is expected to.
    pub fn differences(&self) -> Vec<String> {
        self.differences.lock().unwrap().clone()
    }

    /// Makes a fresh directory T.
    pub(crate) fn cgroup(&self) -> String {
        self.s.cgroup().expect("a fresh directory")
    }

    /// Makes a fresh place.
    pub(crate) fn place(&self) -> Place {
        if self.s.can().contains(Needs::CGROUPS) {
            let dir = self.cgroup();
            let [rw, text] = ["cgroup.freeze", "cgroup.stat"].map(|name| format!("{dir}/{name}"));
            return Place { dir, rw, value: "1", text, size: 0, device: None };
        }
        let device = self.s.device().expect("a fresh device");
        let [rw, text] = [&device.rw, &device.ro].map(|name| format!("{}/{name}", device.dir));
        let dir = device.dir.clone();
        Place { dir, rw, value: "1400", text, size: 4096, device: Some(device) }
    }

    /// Takes a place away, with everything in it.
    pub(crate) fn sever(&self, place: &Place) {
        match &place.device {
            Some(device) => ok(self.s.unregister(device), "unregister"),
            None => ok(self.s.rmdir(&place.dir), "rmdir"),
        }
    }

    pub(crate) fn open(&self, path: &str, flags: i32) -> Fd {
        self.s.open(path, flags).unwrap_or_else(|errno| panic!("open {path}: errno {errno}"))
    }

    /// Reads everything from the start.
    pub(crate) fn contents(&self, path: &str) -> String {
        let fd = self.open(path, crate::flags::O_RDONLY);
        let text = self.s.pread(fd, 4096, 0).expect("readable");
        self.s.close(fd).unwrap();
        String::from_utf8(text).expect("text")
    }

    /// Writes to a path in one write(2).
    pub(crate) fn put(&self, path: &str, data: &[u8]) -> Sys<usize> {
        let fd = self.s.open(path, crate::flags::O_WRONLY)?;
        let wrote = self.s.write(fd, data);
        self.s.close(fd).unwrap();
        wrote
    }

    /// Lists a directory in one go, without `.` and `..`.
    pub(crate) fn names(&self, path: &str) -> Vec<String> {
        let fd = self.open(path, crate::flags::O_DIRECTORY);
        let mut names = Vec::new();
        loop {
            let page = self.s.getdents(fd, 64).expect("listable");
            if page.is_empty() {
                break;
            }
            names.extend(page.into_iter().map(|entry| entry.name));
        }
        self.s.close(fd).unwrap();
        names.retain(|name| name != "." && name != "..");
        names
    }

    /// Waits on a descriptor in another thread while `body` runs; returns what the waiter got.
    pub(crate) fn while_waiting(
        &self,
        fd: Fd,
        events: u32,
        how: How,
        timeout: Duration,
        body: impl FnOnce(),
    ) -> Sys<u32> {
        std::thread::scope(|scope| {
            let (started, starting) = mpsc::channel();
            let waiter = scope.spawn(move || {
                started.send(asleep_path()).unwrap();
                self.s.wait(fd, events, how, timeout)
            });
            until_asleep(&starting.recv().unwrap(), || waiter.is_finished());
            body();
            waiter.join().unwrap()
        })
    }
}

/// Returns where the kernel tells the state of this thread.
fn asleep_path() -> Option<std::path::PathBuf> {
    let link = std::fs::read_link("/proc/thread-self").ok()?;
    Some(std::path::Path::new("/proc").join(link).join("stat"))
}

/// Waits until a thread sleeps, or is done.
fn until_asleep(stat: &Option<std::path::PathBuf>, is_finished: impl Fn() -> bool) {
    let Some(stat) = stat else { return };
    crate::probe::eventually("the waiter goes to sleep", || {
        let Ok(text) = std::fs::read_to_string(stat) else { return true };
        is_finished() || text.rsplit(") ").next().is_some_and(|rest| rest.starts_with('S'))
    });
}

/// Tells whether Linux is of this version, or a later one.
pub(crate) fn linux_is(major: u32, minor: u32) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(major), Some(minor))
}

/// Tells whether this Linux is known to have the gaps that are closed here; a later one may have
/// closed them as well.
pub(crate) fn linux_has_gaps() -> bool {
    !linux_is(6, 19)
}

/// Checks that a call was refused with an error number.
#[track_caller]
pub(crate) fn refused<T: Debug>(result: &Sys<T>, errno: i32, what: &str) {
    match result {
        Err(got) => assert_eq!(*got, errno, "errno of {what}"),
        Ok(value) => panic!("{what} succeeded with {value:?}, expected errno {errno}"),
    }
}

/// Checks that a call succeeded, and returns what it returned.
#[track_caller]
pub(crate) fn ok<T>(result: Sys<T>, what: &str) -> T {
    result.unwrap_or_else(|errno| panic!("{what}: errno {errno}"))
}
