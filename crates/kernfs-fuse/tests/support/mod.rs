//! What the tests of a mount share: a mount to try, clients in processes of their own, drivers.

#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]

pub mod client;
pub mod drivers;
pub mod sys;

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use kernfs::Tree;
use kernfs_fuse::{Mount, MountOptions};
use rustix::io::Errno;

/// Long enough for the busiest machine; a test that works never waits for it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A test that takes longer hangs, and is ended.
const TEST_LIMIT: Duration = Duration::from_secs(80);

/// A mount at a directory of its own, which goes with it.
pub struct Mounted {
    mount: Option<Mount>,
    dir: TestDir,
    _limit: Limit,
}

impl Mounted {
    /// Mounts a tree; `None`, with the reason printed, where that is not possible.
    pub fn new(tree: &Tree) -> Option<Self> {
        Self::with(tree, |options| options)
    }

    /// Does the same with other options.
    pub fn with(tree: &Tree, change: impl FnOnce(MountOptions) -> MountOptions) -> Option<Self> {
        if !can_mount() {
            return None;
        }
        let dir = TestDir::new();
        let mount = change(MountOptions::new()).mount(tree, dir.path()).expect("mounts");
        Some(Self { mount: Some(mount), dir, _limit: Limit::new() })
    }

    /// Returns the path of something in the mount.
    pub fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Takes the mount out, to unmount or drop it; the directory stays.
    pub fn take(&mut self) -> Mount {
        self.mount.take().expect("not taken yet")
    }

    /// Unmounts, and asserts that nothing of the tree is in use any more.
    pub fn unmount_clean(mut self, tree: &Tree) {
        self.take().unmount().expect("unmounts");
        eventually("open files to go", || tree.usage().open_files == 0);
    }
}

impl Deref for Mounted {
    type Target = Mount;

    fn deref(&self) -> &Mount {
        self.mount.as_ref().expect("not taken")
    }
}

/// Tells whether a mount can be made here; prints why not.
pub fn can_mount() -> bool {
    let device = rustix::fs::open(
        "/dev/fuse",
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    );
    match device {
        Ok(_) if rustix::process::geteuid().is_root() => true,
        Ok(_) => {
            println!("skipped: only root can mount");
            false
        }
        Err(error) => {
            println!("skipped: /dev/fuse cannot be opened: {error}");
            false
        }
    }
}

/// A directory that is removed when dropped.
pub struct TestDir(PathBuf);

impl TestDir {
    pub fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("kernfs-fuse-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a new directory");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Ends a test program that hangs: its mounts die with it, and so does whoever waits in them.
pub struct Limit(#[expect(dead_code, reason = "its drop is the end of the test")] Sender<()>);

impl Limit {
    pub fn new() -> Self {
        let (alive, ended) = mpsc::channel::<()>();
        let test = thread::current().name().unwrap_or("?").to_owned();
        thread::spawn(move || {
            if ended.recv_timeout(TEST_LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{test} hangs");
                abort_connections();
                std::process::abort();
            }
        });
        Self(alive)
    }
}

/// Ends the connections of our mounts, as far as fusectl is mounted: a thread that waits in one of
/// them cannot be killed, and would keep the process and with it the mount.
fn abort_connections() {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let ours = format!("/kernfs-fuse-{}-", std::process::id());
    for line in table.lines().filter(|line| line.contains(&ours)) {
        // "36 35 0:41 / /tmp/...": the device is 0:41, and 41 the connection.
        let minor = line.split([' ', ':']).nth(3).unwrap_or_default();
        let _ = fs::write(format!("/sys/fs/fuse/connections/{minor}/abort"), "1");
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

/// Returns the error number of a result that must be an error.
#[track_caller]
pub fn errno<T>(result: std::io::Result<T>) -> Errno {
    match result {
        Ok(_) => panic!("not refused"),
        Err(error) => Errno::from_io_error(&error).expect("an error of the system"),
    }
}

/// Returns the inode number of a path.
pub fn ino(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::symlink_metadata(path).expect("it is there").ino()
}

/// Maps a page of a file shared, and unmaps it.
pub fn map_shared(file: &fs::File) -> Result<(), Errno> {
    sys::map_shared(file)
}

/// Returns the path through which a descriptor's file is opened again.
pub fn through(fd: std::os::fd::BorrowedFd<'_>) -> PathBuf {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

/// Tells whether the kernel is of this version of Linux, or a later one.
pub fn kernel_is(major: u32, minor: u32) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(major), Some(minor))
}

/// Has the kernel drop the names and inodes that nobody uses.
pub fn drop_caches() {
    fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
}

/// Waits until the kernel has forgotten all nodes of a mount.
#[track_caller]
pub fn forget_all(mount: &Mount) {
    eventually("the kernel to forget", || {
        drop_caches();
        mount.stats().nodes == 0
    });
}
