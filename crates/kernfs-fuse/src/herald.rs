//! The thread that makes system calls on our own mount, so that the kernel tells watchers of them.
//!
//! A client who holds a lock can hold it up in the kernel, where SIGKILL does not reach it. If the
//! process is killed then, whatever this thread has open stays open; with `/dev/fuse` the connection
//! would live on, and all clients wait for answers that nobody gives. So it has a table of file
//! descriptors of its own, with nothing in it but what one act needs. And it knows of nothing but
//! paths: what owns a descriptor must not be dropped here, since the number means another one.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::{io, thread};

use kernfs::NodeKind;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, ResolveFlags, StatxFlags, Timespec,
    Timestamps, UTIME_NOW, UTIME_OMIT,
};
use rustix::io::Errno;

/// What the thread is to do; paths are those in the mount.
pub(crate) enum Act {
    /// Touch a file.
    Touch(Vec<u8>),
    /// Make a node of a kind.
    Make(Spot, NodeKind),
    /// Take a node of a kind away.
    Take(Spot, NodeKind),
    /// Move a node.
    Move(Spot, Spot),
    /// Resolve a path.
    Look(Vec<u8>),
}

/// An entry of a directory, by the path of the directory.
pub(crate) struct Spot {
    pub(crate) dir: Vec<u8>,
    pub(crate) name: Vec<u8>,
}

/// The thread, from outside.
pub(crate) struct Herald(Arc<Shared>);

struct Shared {
    desk: Mutex<Desk>,
    changed: Condvar,
    /// The thread's id; 0 before it is ready, and once it has ended.
    thread: AtomicU32,
}

/// What passes between the thread and who gives it something to do.
#[derive(Default)]
struct Desk {
    act: Option<Act>,
    /// How the act went; before the first one, whether the thread is ready.
    outcome: Option<Result<(), Errno>>,
    stopped: bool,
}

impl Herald {
    /// Starts the thread, for the mount at a directory.
    pub(crate) fn start(dir: &Path) -> io::Result<Self> {
        let (desk, changed) = (Mutex::default(), Condvar::new());
        let herald = Self(Arc::new(Shared { desk, changed, thread: AtomicU32::new(0) }));
        let mount = MountPoint::find(dir)?;
        let shared = Arc::clone(&herald.0);
        let run = move || shared.run(&mount);
        // Not joined: it may be held up until the connection ends.
        thread::Builder::new().name("kernfs-herald".into()).spawn(run)?;
        herald.outcome().unwrap_or(Ok(()))?;
        Ok(herald)
    }

    /// Tells whether this is the thread's id.
    pub(crate) fn is(&self, thread: u32) -> bool {
        thread != 0 && thread == self.0.thread.load(Ordering::Acquire)
    }

    /// Has something done, and waits for its end; `None` when it is stopped.
    pub(crate) fn perform(&self, act: Act) -> Option<Result<(), Errno>> {
        self.0.lock().act = Some(act);
        self.0.changed.notify_all();
        self.outcome()
    }

    /// Ends it as soon as it is not held up.
    pub(crate) fn stop(&self) {
        self.0.lock().stopped = true;
        self.0.changed.notify_all();
    }

    fn outcome(&self) -> Option<Result<(), Errno>> {
        self.0.wait_for(|desk| desk.outcome.take())
    }
}

impl Shared {
    fn run(&self, mount: &MountPoint) {
        let ready = descriptors::leave_behind();
        if ready.is_ok() {
            let id = rustix::thread::gettid().as_raw_nonzero().get();
            self.thread.store(id.unsigned_abs(), Ordering::Release);
        }
        self.answer(ready);
        while let Some(act) = self.wait_for(|desk| desk.act.take()) {
            self.answer(mount.perform(&act));
        }
        // Somebody else may get the number.
        self.thread.store(0, Ordering::Release);
    }

    fn answer(&self, outcome: Result<(), Errno>) {
        self.lock().outcome = Some(outcome);
        self.changed.notify_all();
    }

    /// Waits for something on the desk; `None` when it is stopped.
    fn wait_for<T>(&self, mut take: impl FnMut(&mut Desk) -> Option<T>) -> Option<T> {
        let mut desk = self.lock();
        while !desk.stopped {
            if let Some(taken) = take(&mut desk) {
                return Some(taken);
            }
            desk = self.changed.wait(desk).unwrap_or_else(PoisonError::into_inner);
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the mount is, and how it is known from others.
struct MountPoint {
    dir: PathBuf,
    /// Its device number: whatever else is mounted there is left alone.
    device: (u32, u32),
}

impl MountPoint {
    fn find(dir: &Path) -> Result<Self, Errno> {
        Ok(Self { dir: dir.to_owned(), device: device_of(&open_dir(dir)?)? })
    }

    /// Does something, by paths alone: nothing is opened for reading or writing, so that no driver
    /// hears of it.
    fn perform(&self, act: &Act) -> Result<(), Errno> {
        match act {
            Act::Touch(path) => {
                let file = self.open(path)?;
                rustix::fs::utimensat(&file, "", &MODIFIED, AtFlags::EMPTY_PATH)
            }
            Act::Make(spot, kind) => {
                let (dir, name) = self.find_spot(spot)?;
                match kind {
                    NodeKind::Dir => rustix::fs::mkdirat(&dir, &*name, Mode::RWXU),
                    NodeKind::File => {
                        rustix::fs::mknodat(&dir, &*name, FileType::RegularFile, Mode::RUSR, 0)
                    }
                    NodeKind::Link => rustix::fs::symlinkat(c"kernfs", &dir, &*name),
                }
            }
            Act::Take(spot, kind) => {
                let (dir, name) = self.find_spot(spot)?;
                let is_dir = *kind == NodeKind::Dir;
                let flags = if is_dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
                rustix::fs::unlinkat(&dir, &*name, flags)
            }
            Act::Move(from, to) => {
                let (from, name) = self.find_spot(from)?;
                let (to, new_name) = self.find_spot(to)?;
                // What somebody has found at the new name must not be replaced.
                let flags = RenameFlags::NOREPLACE;
                rustix::fs::renameat_with(&from, &*name, &to, &*new_name, flags)
            }
            Act::Look(path) => self.open(path).map(drop),
        }
    }

    fn find_spot(&self, spot: &Spot) -> Result<(OwnedFd, CString), Errno> {
        let name = CString::new(&*spot.name).map_err(|_| Errno::INVAL)?;
        Ok((self.open(&spot.dir)?, name))
    }

    /// Finds something in our mount, if nothing else is mounted on the way.
    fn open(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let root = open_dir(&self.dir)?;
        if device_of(&root)? != self.device {
            return Err(Errno::NODEV);
        }
        let path = path.strip_prefix(b"/").unwrap_or(path);
        if path.is_empty() {
            return Ok(root);
        }
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat2(&root, path, flags, Mode::empty(), within)
    }
}

/// Only the time of modification: the kernel tells watchers IN_MODIFY of it.
const MODIFIED: Timestamps = Timestamps {
    last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
    last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
};

fn open_dir(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
}

/// Returns a device number without asking who serves it.
fn device_of(dir: &OwnedFd) -> Result<(u32, u32), Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let found = rustix::fs::statx(dir, "", flags, StatxFlags::TYPE)?;
    Ok((found.stx_dev_major, found.stx_dev_minor))
}

/// The file descriptors of a thread that has to be rid of those of its process.
#[allow(unsafe_code, reason = "a thread leaves the table of descriptors of its process")]
mod descriptors {
    use rustix::io::Errno;

    /// Gives this thread a table of its own, with nothing in it; takes Linux 5.9.
    pub(super) fn leave_behind() -> Result<(), Errno> {
        // SAFETY: no descriptor is closed for anybody else, for the table is this thread's alone
        // from here on. This thread has none in use, and none is ever handed to it: it uses those
        // that `MountPoint` opens, and ends them there.
        let result = unsafe {
            libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, libc::CLOSE_RANGE_UNSHARE)
        };
        if result == 0 {
            return Ok(());
        }
        let error = std::io::Error::last_os_error();
        Err(Errno::from_io_error(&error).unwrap_or(Errno::NOSYS))
    }
}
