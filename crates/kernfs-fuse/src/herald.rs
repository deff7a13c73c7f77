//! The thread that makes system calls on our own mount, so that the kernel tells watchers of them.
//!
//! It has a table of file descriptors of its own, without `/dev/fuse`: if the process is killed while
//! a client holds it up inside the mount, the connection ends all the same. So nothing that may own
//! a descriptor is to be dropped here, and it knows of nothing but paths.

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
pub(crate) enum Scene {
    /// Touch a file.
    Touch(Vec<u8>),
    /// Make a node of a kind.
    Make(Spot, NodeKind),
    /// Take a node of a kind away.
    Take(Spot, NodeKind),
    /// Move a node.
    Move(Spot, Spot),
    /// Have a look at a node.
    Look(Vec<u8>),
}

/// An entry of a directory.
pub(crate) struct Spot {
    pub(crate) dir: Vec<u8>,
    pub(crate) name: Vec<u8>,
}

/// The thread, from outside.
pub(crate) struct Herald(Arc<Shared>);

/// Holds nothing that may own a descriptor.
struct Shared {
    script: Mutex<Script>,
    changed: Condvar,
    /// The thread's id; 0 before it has begun, and once it has ended.
    thread: AtomicU32,
}

#[derive(Default)]
struct Script {
    scene: Option<Scene>,
    played: Option<Result<(), Errno>>,
    stopped: bool,
}

impl Herald {
    /// Starts the thread, at the directory where the mount is.
    pub(crate) fn start(mount: &Path) -> io::Result<Self> {
        let (script, changed) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { script, changed, thread: AtomicU32::new(0) });
        // Here, so that the thread is not in the mount while others may want to unmount it.
        let stage = Stage { device: device_of(&open_dir(mount)?)?, mount: mount.to_owned() };
        let run = {
            let shared = Arc::clone(&shared);
            move || shared.run(&stage)
        };
        // Not joined: it may be held up until the connection ends.
        thread::Builder::new().name("kernfs-herald".into()).spawn(run)?;
        Ok(Self(shared))
    }

    /// Tells whether this is the thread's id.
    pub(crate) fn is(&self, thread: u32) -> bool {
        thread != 0 && thread == self.0.thread.load(Ordering::Acquire)
    }

    /// Has a scene played, and waits for its end; `None` when it is stopped.
    pub(crate) fn play(&self, scene: Scene) -> Option<Result<(), Errno>> {
        let mut script = self.0.lock();
        script.scene = Some(scene);
        self.0.changed.notify_all();
        loop {
            if script.stopped {
                return None;
            }
            if let Some(played) = script.played.take() {
                return Some(played);
            }
            script = self.0.changed.wait(script).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends it as soon as it is not held up.
    pub(crate) fn stop(&self) {
        self.0.lock().stopped = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn run(&self, stage: &Stage) {
        if let Err(errno) = descriptors::leave_behind() {
            self.lock().played = Some(Err(errno));
            return self.changed.notify_all();
        }
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        self.thread.store(thread.unsigned_abs(), Ordering::Release);
        let _end = End(&self.thread);
        while let Some(scene) = self.next() {
            let played = stage.play(&scene);
            self.lock().played = Some(played);
            self.changed.notify_all();
        }
    }

    fn next(&self) -> Option<Scene> {
        let mut script = self.lock();
        loop {
            if script.stopped {
                return None;
            }
            if let Some(scene) = script.scene.take() {
                return Some(scene);
            }
            script = self.changed.wait(script).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread's number is not ours any more when it has ended.
struct End<'a>(&'a AtomicU32);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Release);
    }
}

/// The mount, as the thread sees it.
struct Stage {
    mount: PathBuf,
    /// The device number of the mount: whatever else is mounted there is left alone.
    device: (u32, u32),
}

impl Stage {
    fn play(&self, scene: &Scene) -> Result<(), Errno> {
        match scene {
            Scene::Touch(path) => {
                let file = self.open(path)?;
                rustix::fs::utimensat(&file, "", &MODIFIED, AtFlags::EMPTY_PATH)
            }
            Scene::Make(spot, kind) => {
                let (dir, name) = self.find(spot)?;
                match kind {
                    NodeKind::Dir => rustix::fs::mkdirat(&dir, &*name, Mode::RWXU),
                    NodeKind::File => {
                        rustix::fs::mknodat(&dir, &*name, FileType::RegularFile, Mode::RUSR, 0)
                    }
                    NodeKind::Link => rustix::fs::symlinkat(c"kernfs", &dir, &*name),
                }
            }
            Scene::Take(spot, kind) => {
                let (dir, name) = self.find(spot)?;
                let is_dir = *kind == NodeKind::Dir;
                let flags = if is_dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
                rustix::fs::unlinkat(&dir, &*name, flags)
            }
            Scene::Move(from, to) => {
                let (from, name) = self.find(from)?;
                let (to, new_name) = self.find(to)?;
                // What somebody has found at the new name must not be replaced.
                let flags = RenameFlags::NOREPLACE;
                rustix::fs::renameat_with(&from, &*name, &to, &*new_name, flags)
            }
            Scene::Look(path) => self.open(path).map(drop),
        }
    }

    fn find(&self, spot: &Spot) -> Result<(OwnedFd, CString), Errno> {
        let name = CString::new(&*spot.name).map_err(|_| Errno::INVAL)?;
        Ok((self.open(&spot.dir)?, name))
    }

    /// Opens something in our mount, if nothing else is mounted on the way.
    fn open(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let root = open_dir(&self.mount)?;
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

/// Asks nobody: not the mount itself either.
fn device_of(dir: &OwnedFd) -> Result<(u32, u32), Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let found = rustix::fs::statx(dir, "", flags, StatxFlags::TYPE)?;
    Ok((found.stx_dev_major, found.stx_dev_minor))
}

/// The file descriptors of a thread that has to be rid of those of its process.
#[allow(unsafe_code, reason = "closes descriptors that others own, in a table of its own")]
mod descriptors {
    use std::os::fd::RawFd;

    use rustix::fs::{CWD, Dir, Mode, OFlags};
    use rustix::io::Errno;
    use rustix::thread::UnshareFlags;

    /// Gives this thread a table of its own, and closes everything in it but the standard ones.
    pub(super) fn leave_behind() -> Result<(), Errno> {
        // SAFETY: from here on this thread must not use descriptors that the process opened or will
        // open: it only uses those that it opens itself, in `Stage`.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FILES)? };
        for fd in open()? {
            // SAFETY: the table is this thread's alone, so that nobody's descriptor is closed; that
            // of the listing is closed already.
            unsafe { rustix::io::close(fd) };
        }
        Ok(())
    }

    /// Returns what is open and to be closed.
    fn open() -> Result<Vec<RawFd>, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let table = rustix::fs::openat(CWD, c"/proc/thread-self/fd", flags, Mode::empty())?;
        let mut open = Vec::new();
        for entry in Dir::read_from(&table)? {
            let name = entry?.file_name().to_owned();
            open.extend(name.to_str().ok().and_then(|name| name.parse::<RawFd>().ok()));
        }
        drop(table);
        // What the listing itself used is among them, and is closed by now.
        open.retain(|&fd| link_of(fd).is_some_and(|link| fd > STANDARD || link == b"/dev/fuse"));
        Ok(open)
    }

    /// The last of the standard descriptors, which stay for messages.
    const STANDARD: RawFd = 2;

    fn link_of(fd: RawFd) -> Option<Vec<u8>> {
        let path = format!("/proc/thread-self/fd/{fd}");
        rustix::fs::readlinkat(CWD, path, Vec::new()).ok().map(std::ffi::CString::into_bytes)
    }
}
