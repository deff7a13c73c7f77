//! How a filesystem is mounted.

#![forbid(unsafe_code)]

use std::num::NonZeroUsize;
use std::thread;
use std::time::Duration;

/// How a filesystem is mounted and served.
///
/// Set-user-id programs and device files have no effect in the mount.
#[derive(Clone, Debug)]
#[must_use]
pub struct MountOptions {
    pub(crate) fsname: String,
    pub(crate) subtype: String,
    pub(crate) read_only: bool,
    pub(crate) no_exec: bool,
    pub(crate) allow_other: bool,
    pub(crate) default_permissions: bool,
    pub(crate) max_read: Option<u32>,
    pub(crate) max_write: u32,
    pub(crate) threads: Option<NonZeroUsize>,
    pub(crate) thread_cap: NonZeroUsize,
    pub(crate) watchdog: Option<Duration>,
    pub(crate) recover: bool,
    pub(crate) over_mount: bool,
    pub(crate) method: MountMethod,
}

/// How to get at the mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountMethod {
    /// mount(2), and `fusermount3` if that is not permitted.
    Auto,
    /// mount(2) only.
    Direct,
    /// `fusermount3` only, found through `PATH`.
    Fusermount,
}

impl MountOptions {
    /// Starts with the name of the filesystem's type: the mount is of type `fuse.SUBTYPE`.
    ///
    /// A dead mount is recovered only if it has the same subtype.
    pub fn new(subtype: impl Into<String>) -> Self {
        let subtype = subtype.into();
        Self {
            fsname: subtype.clone(),
            subtype,
            read_only: false,
            no_exec: false,
            allow_other: false,
            default_permissions: false,
            max_read: None,
            max_write: MAX_WRITE,
            threads: None,
            thread_cap: THREAD_CAP,
            watchdog: None,
            recover: false,
            over_mount: false,
            method: MountMethod::Auto,
        }
    }

    /// Sets the source that `/proc/self/mounts` shows; the subtype at first.
    pub fn fsname(mut self, name: impl Into<String>) -> Self {
        self.fsname = name.into();
        self
    }

    /// Mounts read-only.
    pub const fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Forbids to execute files of the mount.
    pub const fn no_exec(mut self) -> Self {
        self.no_exec = true;
        self
    }

    /// Lets all users in; without it, only the mounting user gets past the mount point.
    pub const fn allow_other(mut self) -> Self {
        self.allow_other = true;
        self
    }

    /// Has the kernel check permissions by mode, owner and group.
    ///
    /// Without it, whoever gets in may do what the filesystem's methods let him.
    pub const fn default_permissions(mut self) -> Self {
        self.default_permissions = true;
        self
    }

    /// Limits one read to so many bytes.
    pub const fn max_read(mut self, bytes: u32) -> Self {
        self.max_read = Some(bytes);
        self
    }

    /// Limits one write to so many bytes, 4 KiB to 1 MiB; 128 KiB at first.
    ///
    /// Each thread has a buffer of this size and a page more.
    pub fn max_write(mut self, bytes: u32) -> Self {
        self.max_write = bytes.clamp(MAX_WRITE_FLOOR, MAX_WRITE_CEILING);
        self
    }

    /// Sets the number of threads at rest; one per core at first.
    ///
    /// There are at least two, since a notification may have to wait for
    /// a request of its own, such as the write of a dirty page.
    pub const fn threads(mut self, threads: NonZeroUsize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Limits the number of threads while handlers are slow; 64 at first.
    pub const fn thread_cap(mut self, threads: NonZeroUsize) -> Self {
        self.thread_cap = threads;
        self
    }

    /// Starts a watchdog: a process that aborts the connection when this one is gone or stuck.
    ///
    /// Stuck means: stopped, or all threads up to the cap busy with the same
    /// requests, for all of `patience` (at least 100 ms). A debugger that
    /// stops the process for longer loses the mount as well. Aborting takes
    /// access to the control filesystem (`/sys/fs/fuse/connections`) or root.
    ///
    /// The watchdog is a fork of this process, which sends no `SIGCHLD` and which
    /// wait(2) for any child does not see. It keeps the memory as it was at the
    /// mount: what is overwritten later is there twice, so mount early.
    pub fn watchdog(mut self, patience: Duration) -> Self {
        self.watchdog = Some(patience.max(WATCHDOG_PATIENCE_MIN));
        self
    }

    /// Replaces a dead mount of the same subtype at the same directory.
    ///
    /// Dead means that its server is gone, so that stat(2) gives `ENOTCONN`.
    pub const fn recover(mut self) -> Self {
        self.recover = true;
        self
    }

    /// Mounts even where something else is mounted, which then is out of sight.
    ///
    /// Without it that is refused, since it is nearly always a mistake.
    pub const fn over_mount(mut self) -> Self {
        self.over_mount = true;
        self
    }

    /// Chooses between mount(2) and `fusermount3`.
    pub const fn method(mut self, method: MountMethod) -> Self {
        self.method = method;
        self
    }

    pub(crate) fn pool_size(&self) -> PoolSize {
        let cores = || thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let base = self.threads.map_or_else(cores, NonZeroUsize::get);
        let base = base.clamp(THREADS_MIN, THREADS_MAX);
        PoolSize { base, cap: self.thread_cap.get().clamp(base, THREADS_MAX) }
    }
}

/// How many threads there are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolSize {
    /// At rest.
    pub(crate) base: usize,
    /// At most, at least `base`.
    pub(crate) cap: usize,
}

/// Enough for a write of 32 pages, the most that kernels without `MAX_PAGES` send.
const MAX_WRITE: u32 = 128 * 1024;

/// The kernel takes no less.
const MAX_WRITE_FLOOR: u32 = 4096;

/// The kernel's own limit of 256 pages, unless root raised `fs.fuse.max_pages_limit`.
const MAX_WRITE_CEILING: u32 = 1024 * 1024;

/// Handlers that sleep are an exception; 64 at once, at about 40 KB touched
/// memory each, are more than the requests a slow driver should be left with.
const THREAD_CAP: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// One to be in a handler, one to serve what that waits for.
const THREADS_MIN: usize = 2;

/// A bound for made-up numbers, far above any use.
const THREADS_MAX: usize = 4096;

/// Below this, a busy machine would look like a stuck process.
const WATCHDOG_PATIENCE_MIN: Duration = Duration::from_millis(100);
