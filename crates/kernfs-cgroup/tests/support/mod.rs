//! What the tests of a hierarchy share.

#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]

use std::io::{self, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use kernfs::{Caller, Client, Errno, Events, Mode, NodeKind, OpenFile, OpenFlags};
use kernfs_cgroup::{Controllers, Group, Hierarchy, HierarchyBuilder};
use kernfs_psi::VirtualClock;

/// Longer than anything here takes on the busiest machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A hierarchy in this process, with a clock that stands, and a client of it.
pub struct Fixture {
    pub clock: VirtualClock,
    pub hierarchy: Hierarchy,
    pub client: Client,
}

impl Fixture {
    pub fn new() -> Self {
        Self::with(|builder| builder)
    }

    pub fn with(change: impl FnOnce(HierarchyBuilder) -> HierarchyBuilder) -> Self {
        let clock = VirtualClock::new();
        let hierarchy = change(Hierarchy::builder().clock(clock.clone())).build().unwrap();
        let client = hierarchy.tree().client(Caller::OWNER);
        Self { clock, hierarchy, client }
    }

    /// Does the same, with all controllers on for the groups below the root.
    pub fn with_controllers() -> Self {
        let fixture = Self::new();
        fixture.hierarchy.root().enable(Controllers::all()).unwrap();
        fixture
    }

    pub fn group(&self, path: &str) -> Group {
        self.hierarchy.group(path).unwrap_or_else(|| panic!("no group {path}"))
    }

    pub fn mkdir(&self, path: &str) -> Result<(), Errno> {
        self.client.mkdir(path, Mode::DIR)
    }

    /// Makes a group that must be allowed.
    #[track_caller]
    pub fn make(&self, path: &str) -> Group {
        self.mkdir(path).unwrap_or_else(|errno| panic!("{path}: {errno}"));
        self.group(path)
    }

    pub fn rmdir(&self, path: &str) -> Result<(), Errno> {
        self.client.rmdir(path)?.wait().map_err(Errno::from)
    }

    pub fn open(&self, path: &str, flags: OpenFlags) -> OpenFile {
        self.client.open(path, flags).unwrap_or_else(|errno| panic!("{path}: {errno}"))
    }

    pub fn read(&self, path: &str) -> Result<String, Errno> {
        self.client.open(path, OpenFlags::READ)?.read_to_string()
    }

    /// Writes all of it, and tells how the kernel answers.
    pub fn write(&self, path: &str, text: impl AsRef<[u8]>) -> Result<(), Errno> {
        let text = text.as_ref();
        let written = self.client.open(path, OpenFlags::WRITE)?.write(text)?;
        assert_eq!(written, text.len(), "{path}: a part was written");
        Ok(())
    }

    /// Returns the names in a directory, in order.
    pub fn list(&self, path: &str) -> Vec<String> {
        let dir = self.client.open_dir(path).unwrap();
        let entries = dir.entries(0, 1000).unwrap();
        let mut names: Vec<_> =
            entries.iter().map(|entry| String::from_utf8_lossy(&entry.name).into_owned()).collect();
        names.retain(|name| name != "." && name != "..");
        names.sort();
        names
    }

    pub fn is_there(&self, path: &str) -> bool {
        self.client.lookup(path).is_ok()
    }

    pub fn is_dir(&self, path: &str) -> bool {
        self.client.lookup(path).is_ok_and(|inode| inode.kind() == NodeKind::Dir)
    }

    /// Puts a process into a group by its file.
    pub fn attach(&self, path: &str, pid: u32) -> Result<(), Errno> {
        self.write(&format!("{path}/cgroup.procs"), pid.to_string())
    }
}

/// A thread that sleeps until something happens to a file.
pub struct Sleeper(Receiver<Events>);

impl Sleeper {
    pub fn on(file: &OpenFile) -> Self {
        let (sender, events) = mpsc::channel();
        let file = file.clone();
        // Who is not woken is left behind; the test has failed then.
        thread::spawn(move || sender.send(file.wait(Events::PRI)));
        Self(events)
    }

    /// Returns what it was woken by.
    #[track_caller]
    pub fn join(self) -> Events {
        self.0.recv_timeout(PATIENCE).expect("the sleeper is woken")
    }
}

/// A process that waits until it is told to exit, or until this one ends.
pub struct Process(Child);

impl Process {
    pub fn new() -> Self {
        let child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        Self(child.expect("cat can be run"))
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Lets it exit, and does not wait for it: it is a zombie then.
    pub fn exit(&mut self) {
        drop(self.0.stdin.take());
        eventually("the process to exit", || self.state() == Some('Z'));
    }

    pub fn wait(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }

    /// Returns the signal that ended it.
    pub fn ended_by(&mut self) -> Option<i32> {
        use std::os::unix::process::ExitStatusExt;
        self.0.wait().unwrap().signal()
    }

    /// Returns its state, as proc_pid_stat(5) has it.
    pub fn state(&self) -> Option<char> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).ok()?;
        stat.rsplit(')').next()?.trim().chars().next()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until something is so.
#[track_caller]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Says why a test is skipped.
pub fn skip(reason: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "skipped: {reason}");
}
