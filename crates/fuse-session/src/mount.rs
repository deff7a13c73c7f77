//! Mounts and unmounts, and never touches a mount that is not ours.

#![forbid(unsafe_code)]

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, open, statx};
use rustix::io::Errno as Os;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::channel::Device;
use crate::errno::Errno;
use crate::fusectl;
use crate::fusermount;
use crate::mountinfo::{MountEntry, mounted_at};
use crate::options::{MountMethod, MountOptions};

/// Why a filesystem could not be mounted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// The mount point cannot be used.
    #[error("cannot mount at {}: {source}", path.display())]
    MountPoint {
        /// The directory.
        path: PathBuf,
        /// What using it gave.
        source: io::Error,
    },
    /// A dead mount is in the way and was not recovered.
    #[error(
        "cannot mount at {}: a dead mount of type {found} is there \
         (only a dead {expected} is recovered, and only if asked for)",
        path.display()
    )]
    DeadMount {
        /// The directory.
        path: PathBuf,
        /// Type of the mount that is there.
        found: String,
        /// The type that could be recovered.
        expected: String,
    },
    /// A mount that works is in the way.
    #[error("cannot mount at {}: a filesystem of type {found} is mounted there", path.display())]
    Occupied {
        /// The directory.
        path: PathBuf,
        /// Type of the mount that is there.
        found: String,
    },
    /// `/dev/fuse` or mount(2) failed, and `fusermount3` too if it was tried.
    #[error(
        "cannot mount at {}: {step}: {source}{}",
        path.display(),
        fusermount.as_ref().map(|error| format!("; and by fusermount3: {error}")).unwrap_or_default()
    )]
    System {
        /// The directory.
        path: PathBuf,
        /// What failed.
        step: &'static str,
        /// How it failed.
        source: io::Error,
        /// How the fallback failed.
        fusermount: Option<io::Error>,
    },
    /// The kernel's FUSE is too old.
    #[error("the kernel has FUSE {major}.{minor}, at least 7.31 (Linux 5.4) is needed")]
    KernelTooOld {
        /// The kernel's major version.
        major: u32,
        /// The kernel's minor version.
        minor: u32,
    },
    /// The filesystem's `init` said no.
    #[error("the filesystem refused the mount: {0}")]
    Refused(Errno),
    /// The connection ended before it was set up.
    #[error("the mount at {} went away before it was set up", path.display())]
    Ended {
        /// The directory.
        path: PathBuf,
    },
    /// A thread or the watchdog could not be started.
    #[error("cannot start {what}: {source}")]
    Start {
        /// What did not start.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// Why a filesystem could not be unmounted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnmountError {
    /// What is at the path now is not this session's; it was left alone.
    ///
    /// The connection was aborted instead, so that nobody waits for it.
    #[error(
        "did not unmount {}: another filesystem is mounted there now, \
         the connection was aborted instead",
        path.display()
    )]
    NotOurs {
        /// Where this session was mounted.
        path: PathBuf,
    },
    /// The mount is out of the tree, but goes on for those who are in it.
    ///
    /// Only the control filesystem (`/sys/fs/fuse/connections`) could cut
    /// them off, and it is not mounted or not permitted. The threads of the session are
    /// left behind; they end with the last descriptor.
    #[error(
        "{} is unmounted, but still in use, and the connection cannot be aborted",
        path.display()
    )]
    StillInUse {
        /// Where this session was mounted.
        path: PathBuf,
    },
    /// The kernel refused.
    #[error("cannot unmount {}: {source}", path.display())]
    System {
        /// Where the session is mounted.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// A mount that this process has made.
#[derive(Clone, Debug)]
pub(crate) struct Mounted {
    path: PathBuf,
    fstype: String,
    /// Tells the filesystem from all others as long as the device is connected.
    device: (u32, u32),
}

/// What a successful mount gives.
pub(crate) struct NewMount {
    pub(crate) device: Device,
    pub(crate) mounted: Mounted,
    /// A dead mount was removed first.
    pub(crate) recovered: bool,
}

/// Mounts at a directory; the kernel's first message waits on the device then.
pub(crate) fn mount(dir: &Path, options: &MountOptions) -> Result<NewMount, MountError> {
    let path =
        resolve(dir).map_err(|source| MountError::MountPoint { path: dir.into(), source })?;
    let recovered = make_way(&path, options)?;
    check_directory(&path)
        .map_err(|source| MountError::MountPoint { path: path.clone(), source })?;
    let fd = match options.method {
        MountMethod::Direct => mount_directly(&path, options).map_err(|failed| failed.at(&path)),
        MountMethod::Fusermount => mount_by_program(&path, options),
        MountMethod::Auto => mount_either_way(&path, options),
    }?;
    // Asks no server, so that it works before the first message is answered.
    let device = device_at(&path).map_err(|errno| MountError::System {
        path: path.clone(),
        step: "looking at the new mount",
        source: errno.into(),
        fusermount: None,
    })?;
    Ok(NewMount {
        device: Device::new(fd),
        mounted: Mounted { path, fstype: fstype(options), device },
        recovered,
    })
}

impl Mounted {
    /// Returns where it is mounted, without symbolic links.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the major and minor device number of the filesystem.
    pub(crate) const fn device(&self) -> (u32, u32) {
        self.device
    }

    /// Unmounts, by force if somebody uses it: their descriptors give `ENOTCONN` then.
    pub(crate) fn unmount(&self, device: &Device) -> Result<(), UnmountError> {
        if !device.is_connected() {
            return self.clear_away();
        }
        match self.open_ours(device) {
            Ok(root) => drop(root),
            // Out of the tree already: detached, here or by somebody else.
            Err(_) if matches!(mounted_at(&self.path), Ok(None)) => return Ok(()),
            Err(error) => return Err(error),
        }
        let flags = UnmountFlags::NOFOLLOW;
        match rustix::mount::unmount(&self.path, flags) {
            Ok(()) => Ok(()),
            Err(Os::BUSY) => {
                let flags = UnmountFlags::FORCE | UnmountFlags::DETACH;
                self.unmount_opened(&self.open_ours(device)?, flags)
            }
            // Gone since we looked.
            Err(Os::INVAL | Os::NOENT) if !device.is_connected() => Ok(()),
            Err(Os::PERM) => fusermount::unmount(&self.path, false)
                .or_else(|_| fusermount::unmount(&self.path, true))
                .map_err(|source| self.error(source)),
            Err(errno) => Err(self.error(errno.into())),
        }
    }

    /// Takes the mount out of the tree; who is in it stays in it.
    pub(crate) fn detach(&self, device: &Device) -> Result<(), UnmountError> {
        if !device.is_connected() {
            return Ok(());
        }
        let root = self.open_ours(device)?;
        match self.unmount_opened(&root, UnmountFlags::DETACH) {
            Err(UnmountError::System { source, .. })
                if source.raw_os_error() == Some(libc::EPERM) =>
            {
                drop(root);
                fusermount::unmount(&self.path, true).map_err(|source| self.error(source))
            }
            result => result,
        }
    }

    /// Removes the mount if the connection was aborted and nobody has unmounted it.
    ///
    /// Its device number may have been given away, so that it has to be dead and
    /// of our type besides, as a mount that is recovered.
    fn clear_away(&self) -> Result<(), UnmountError> {
        let found = mounted_at(&self.path).map_err(|source| self.error(source))?;
        match found {
            Some(entry)
                if entry.device == self.device
                    && entry.fstype == self.fstype
                    && is_dead(&self.path) =>
            {
                remove_dead(&self.path, &entry).map_err(|source| self.error(source))
            }
            _ => Ok(()),
        }
    }

    /// Opens the root of the mount, once it is clear that it is ours.
    ///
    /// The open file pins the mount, so that nothing else can take its place.
    fn open_ours(&self, device: &Device) -> Result<OwnedFd, UnmountError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = open(&self.path, flags, Mode::empty());
        let found = root.as_ref().ok().and_then(|root| device_of(root).ok());
        // The number can have been given away only if the connection is gone.
        match root {
            Ok(root) if found == Some(self.device) && device.is_connected() => Ok(root),
            _ => Err(UnmountError::NotOurs { path: self.path.clone() }),
        }
    }

    /// Unmounts what an open root belongs to, whatever the path leads to by now.
    fn unmount_opened(&self, root: &OwnedFd, flags: UnmountFlags) -> Result<(), UnmountError> {
        let path = format!("/proc/self/fd/{}", root.as_raw_fd());
        rustix::mount::unmount(path, flags).map_err(|errno| self.error(errno.into()))
    }

    fn error(&self, source: io::Error) -> UnmountError {
        UnmountError::System { path: self.path.clone(), source }
    }
}

/// Resolves a path whose last part may be a dead mount.
fn resolve(dir: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(dir) {
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {
            let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = fs::canonicalize(parent.unwrap_or(Path::new(".")))?;
            Ok(parent.join(dir.file_name().ok_or(error)?))
        }
        result => result,
    }
}

/// Makes sure that nothing is mounted at the path; returns whether dead mounts were removed.
fn make_way(path: &Path, options: &MountOptions) -> Result<bool, MountError> {
    let expected = fstype(options);
    let mount_point = |source| MountError::MountPoint { path: path.into(), source };
    let mut recovered = false;
    let mut looks = 0;
    while let Some(entry) = mounted_at(path).map_err(mount_point)? {
        let is_dead = entry.fstype.starts_with("fuse") && is_dead(path);
        if !is_dead && options.over_mount {
            break;
        }
        if !is_dead {
            // A mount of our own type may be going at this moment: the server was killed, and the
            // connection is being torn down, or a watchdog is unmounting it.
            looks += 1;
            if entry.fstype == expected && options.recover && looks < LOOKS {
                thread::sleep(LOOK_AGAIN);
                continue;
            }
            return Err(MountError::Occupied { path: path.into(), found: entry.fstype });
        }
        if entry.fstype != expected || !options.recover {
            return Err(MountError::DeadMount { path: path.into(), found: entry.fstype, expected });
        }
        remove_dead(path, &entry).map_err(mount_point)?;
        tracing::warn!(path = %path.display(), fstype = expected, "a dead mount was removed");
        recovered = true;
    }
    Ok(recovered)
}

/// How often, and after what pause, a mount of our own type that seems alive is looked at: longer
/// than a killed server takes to be gone, shorter than a user takes to wonder.
const LOOKS: u32 = 20;
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Returns whether the mount at a path has lost its server.
///
/// The server is asked: what the kernel has cached outlives it.
fn is_dead(path: &Path) -> bool {
    let asked = statx(CWD, path, AtFlags::STATX_FORCE_SYNC, StatxFlags::TYPE);
    matches!(asked, Err(Os::NOTCONN))
}

/// Detaches a dead mount, if it is still the one that was looked at.
fn remove_dead(path: &Path, entry: &MountEntry) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = open(path, flags, Mode::empty())?;
    if device_of(&root)? != entry.device {
        return Err(io::Error::other("what is mounted there changes"));
    }
    let opened = format!("/proc/self/fd/{}", root.as_raw_fd());
    match rustix::mount::unmount(opened, UnmountFlags::DETACH) {
        Err(Os::PERM) => fusermount::unmount(path, true),
        result => Ok(result?),
    }
}

/// Names the type of the mount.
fn fstype(options: &MountOptions) -> String {
    format!("fuse.{}", options.subtype)
}

fn check_directory(path: &Path) -> io::Result<()> {
    if fs::metadata(path)?.is_dir() { Ok(()) } else { Err(Os::NOTDIR.into()) }
}

/// A step of mounting that failed.
struct Failed {
    step: &'static str,
    errno: Os,
}

impl Failed {
    fn at(self, path: &Path) -> MountError {
        MountError::System {
            path: path.into(),
            step: self.step,
            source: self.errno.into(),
            fusermount: None,
        }
    }
}

fn mount_directly(path: &Path, options: &MountOptions) -> Result<OwnedFd, Failed> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let fd = open("/dev/fuse", flags, Mode::empty())
        .map_err(|errno| Failed { step: "opening /dev/fuse", errno })?;
    let mounting = |errno| Failed { step: "mount(2)", errno };
    let data = CString::new(mount_data(&fd, options)).map_err(|_| mounting(Os::INVAL))?;
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    flags.set(MountFlags::RDONLY, options.read_only);
    flags.set(MountFlags::NOEXEC, options.no_exec);
    rustix::mount::mount(&*options.fsname, path, fstype(options), flags, &*data)
        .map_err(mounting)?;
    Ok(fd)
}

fn mount_data(fd: &OwnedFd, options: &MountOptions) -> String {
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={}",
        fd.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    if options.allow_other {
        data.push_str(",allow_other");
    }
    if options.default_permissions {
        data.push_str(",default_permissions");
    }
    if let Some(bytes) = options.max_read {
        data.push_str(&format!(",max_read={bytes}"));
    }
    data
}

fn mount_by_program(path: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    fusermount::mount(path, options).map_err(|source| MountError::System {
        path: path.into(),
        step: "fusermount3",
        source,
        fusermount: None,
    })
}

fn mount_either_way(path: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let failed = match mount_directly(path, options) {
        Ok(fd) => return Ok(fd),
        Err(failed) => failed,
    };
    if !matches!(failed.errno, Os::PERM | Os::ACCESS) {
        return Err(failed.at(path));
    }
    fusermount::mount(path, options).map_err(|fallback| MountError::System {
        path: path.into(),
        step: failed.step,
        source: failed.errno.into(),
        fusermount: Some(fallback),
    })
}

fn device_at(path: &Path) -> rustix::io::Result<(u32, u32)> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    device_of(&open(path, flags, Mode::empty())?)
}

/// Returns the device number of the filesystem of an open file, without asking its server.
fn device_of(file: &OwnedFd) -> rustix::io::Result<(u32, u32)> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let found = statx(file, "", flags, StatxFlags::TYPE)?;
    Ok((found.stx_dev_major, found.stx_dev_minor))
}

/// Opens the file that aborts the connection of a mount, if this process may.
pub(crate) fn abort_file(mounted: &Mounted) -> Option<OwnedFd> {
    fusectl::abort_file(mounted.device)
        .inspect_err(|error| tracing::debug!(%error, "no abort file for the connection"))
        .ok()
}
