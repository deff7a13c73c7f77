//! What the cases are put to, in terms of system calls.

use std::time::Duration;

use bitflags::bitflags;

/// The answer of a system call; errors are numbers of [`errno`].
pub type Sys<T> = Result<T, i32>;

/// What kind of thing a subject is; a few answers are meant to differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The library in this process.
    InProcess,
    /// A mount of the library.
    Mount,
    /// The kernel's own cgroup2 and sysfs.
    Kernel,
}

bitflags! {
    /// What a case needs and a subject may have.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Needs: u32 {
        /// Directories with control files, made by mkdir ([`Subject::cgroup`]).
        const CGROUPS = 1;
        /// Members can be put into a directory ([`Subject::populate`]).
        const MEMBERS = 2;
        /// `cgroup.pressure` hides and shows the pressure files.
        const PRESSURE_FILES = 4;
        /// Devices of sysfs manners ([`Subject::device`]).
        const DEVICES = 8;
        /// Devices can be moved between namespaces.
        const NAMESPACES = 16;
        /// A device has a file that can be mapped.
        const MAPPED_FILE = 32;
        /// Caches of inodes, which can be dropped.
        const INODE_CACHE = 64;
        /// Descriptors of the operating system: splice, ioctl, flock, O_CREAT, bad pointers.
        const REAL_DESCRIPTORS = 128;
        /// Edge-triggered epoll.
        const EDGE_TRIGGERED_EPOLL = 256;
        /// The owner's side is this library: drivers of the case's own.
        const LIBRARY = 512;
        /// File handles.
        const HANDLES = 1024;
        /// Files that can be taken away: those of control groups, or else of devices.
        const FILES = 2048;
        /// A single file that the owner can remove and add again ([`Owner::attribute`]).
        const ATTRIBUTES = 4096;
        /// inotify.
        const INOTIFY = 8192;
        /// Members of a directory can be made to contend for a processor ([`Owner::load`]).
        const LOAD = 16384;
        /// Pressure files of the whole system, with the manners of procfs ([`Owner::system`]).
        const SYSTEM_PRESSURE = 32768;
    }
}

/// A descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fd(pub i32);

/// A mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Map(pub i32);

/// What stat(2) tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names of struct stat")]
pub struct Stat {
    pub ino: u64,
    pub mode: u32,
    pub nlink: u64,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
}

/// What getdents(2) tells.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names of struct dirent")]
pub struct Dirent {
    pub name: String,
    pub ino: u64,
    /// The cursor after this entry.
    pub off: u64,
}

/// A device of sysfs manners: a directory with attributes.
#[derive(Clone, Debug)]
pub struct Device {
    /// The path of its directory.
    pub dir: String,
    /// A readable and writable attribute that takes integers.
    pub rw: String,
    /// A readable one.
    pub ro: String,
    /// A writable one, if there is.
    pub wo: Option<String>,
    /// One of mode 000, if there is.
    pub secret: Option<String>,
    /// One of declared size that can be mapped, if there is, and the size.
    pub mapped: Option<(String, u64)>,
    /// A symbolic link that leads to the directory.
    pub link: String,
}

/// A file that its owner can remove and add again.
#[derive(Clone, Debug)]
pub struct Attribute {
    /// Its path.
    pub path: String,
}

/// What inotify tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// The bits of [`inotify`].
    pub events: u32,
    /// The name of a child, when a directory is watched.
    pub name: String,
}

/// How to wait for events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names of system calls")]
pub enum How {
    Poll,
    Select,
    Epoll,
}

/// The owner's side of a subject: what it is, and what is done to its files from inside.
///
/// A directory T as [`cgroup`](Self::cgroup) makes it has the control files `cgroup.events` (tells
/// changes of `populated` by notification), `cgroup.freeze` (takes 0 and 1), `cgroup.kill`
/// (write-only), `cgroup.controllers` (read-only), `cgroup.stat`, `cgroup.max.depth`,
/// `cgroup.max.descendants`, and with [`Needs::PRESSURE_FILES`] `cgroup.pressure` and
/// `{cpu,io,memory}.pressure`. What a subject lacks it need not implement.
#[allow(unused_variables, reason = "the defaults refuse")]
pub trait Owner: Sync {
    /// Returns what it is, for the report.
    fn name(&self) -> String;

    /// Returns what kind of thing it is.
    fn kind(&self) -> Kind;

    /// Returns which needs it meets.
    fn can(&self) -> Needs;

    /// Tells why it does not meet one of these needs, where that is more than that it lacks them.
    fn why_not(&self, needs: Needs) -> Option<String> {
        None
    }

    /// Makes a fresh directory with control files, and returns its path.
    fn cgroup(&self) -> Sys<String> {
        Err(errno::ENOSYS)
    }

    /// Puts a member into a directory, or takes it out, from the owner's side.
    fn populate(&self, dir: &str, is_populated: bool) -> Sys<()> {
        Err(errno::ENOSYS)
    }

    /// Lets members of a directory contend for a processor from now on, or no longer.
    fn load(&self, dir: &str, is_loaded: bool) -> Sys<()> {
        Err(errno::ENOSYS)
    }

    /// Lets time pass for whatever makes pressure of load: at least so much.
    fn pass(&self, time: Duration) -> Sys<()> {
        Err(errno::ENOSYS)
    }

    /// Returns the time of the clock that pressure is accounted by.
    fn time(&self) -> Sys<Duration> {
        Err(errno::ENOSYS)
    }

    /// Returns how many triggers are set on all groups there ever were, where that can be told.
    fn triggers(&self) -> Option<usize> {
        None
    }

    /// Returns the directory of the pressure files of the whole system: `cpu`, `io`, `memory`.
    fn system(&self) -> Sys<String> {
        Err(errno::ENOSYS)
    }

    /// Tells whether clients have CAP_SYS_RESOURCE, with which a trigger may have any window.
    fn is_privileged(&self) -> bool {
        false
    }

    /// Makes a fresh device.
    fn device(&self) -> Sys<Device> {
        Err(errno::ENOSYS)
    }

    /// Changes the value of [`Device::rw`] from the owner's side.
    fn set_value(&self, device: &Device, value: &str) -> Sys<()> {
        Err(errno::ENOSYS)
    }

    /// Removes a device from the owner's side, and returns when it is gone.
    fn unregister(&self, device: &Device) -> Sys<()> {
        Err(errno::ENOSYS)
    }

    /// Renames the directory of a device from the owner's side.
    fn rename_device(&self, device: &Device, name: &str) -> Sys<Device> {
        Err(errno::ENOSYS)
    }

    /// Moves a device to another namespace, or back.
    fn move_device(&self, device: &Device, is_away: bool) -> Sys<()> {
        Err(errno::ENOSYS)
    }

    /// Makes a fresh file that can be removed by itself.
    fn attribute(&self) -> Sys<Attribute> {
        Err(errno::ENOSYS)
    }

    /// Removes such a file from the owner's side, or adds it again.
    fn set_present(&self, attribute: &Attribute, is_present: bool) -> Sys<()> {
        Err(errno::ENOSYS)
    }
}

/// A place where kernfs files can be used by system calls.
#[allow(missing_docs, reason = "most methods are system calls")]
#[allow(unused_variables, reason = "the defaults refuse")]
pub trait Subject: Owner {
    /// Drops what the system has cached of inodes and names.
    fn drop_caches(&self) -> Sys<()> {
        Err(errno::ENOSYS)
    }

    fn mkdir(&self, path: &str) -> Sys<()>;
    fn mkdirat(&self, dir: Fd, name: &str) -> Sys<()>;
    fn rmdir(&self, path: &str) -> Sys<()>;
    fn unlink(&self, path: &str) -> Sys<()>;
    fn rename(&self, from: &str, to: &str) -> Sys<()>;
    fn stat(&self, path: &str) -> Sys<Stat>;
    fn readlink(&self, path: &str) -> Sys<String>;
    fn chmod(&self, path: &str, mode: u32) -> Sys<()>;
    fn chown(&self, path: &str, uid: u32, gid: u32) -> Sys<()>;
    fn utime(&self, path: &str, mtime: (i64, u32)) -> Sys<()>;
    fn setxattr(&self, path: &str, name: &str, value: &[u8], how: i32) -> Sys<()>;
    fn getxattr(&self, path: &str, name: &str) -> Sys<Vec<u8>>;
    fn removexattr(&self, path: &str, name: &str) -> Sys<()>;

    fn symlink(&self, target: &str, path: &str) -> Sys<()> {
        Err(errno::ENOSYS)
    }
    fn link(&self, from: &str, to: &str) -> Sys<()> {
        Err(errno::ENOSYS)
    }
    fn mknod(&self, path: &str) -> Sys<()> {
        Err(errno::ENOSYS)
    }
    fn truncate(&self, path: &str, len: u64) -> Sys<()> {
        Err(errno::ENOSYS)
    }

    fn open(&self, path: &str, flags: i32) -> Sys<Fd>;
    fn openat(&self, dir: Fd, name: &str, flags: i32) -> Sys<Fd>;
    /// Opens anew what a descriptor is open on, as by way of `/proc/self/fd`.
    fn reopen(&self, fd: Fd, flags: i32) -> Sys<Fd>;
    fn close(&self, fd: Fd) -> Sys<()>;
    fn dup(&self, fd: Fd) -> Sys<Fd>;
    fn read(&self, fd: Fd, len: usize) -> Sys<Vec<u8>>;
    fn pread(&self, fd: Fd, len: usize, offset: u64) -> Sys<Vec<u8>>;
    fn write(&self, fd: Fd, data: &[u8]) -> Sys<usize>;
    fn pwrite(&self, fd: Fd, data: &[u8], offset: u64) -> Sys<usize>;
    fn lseek(&self, fd: Fd, offset: i64, whence: i32) -> Sys<u64>;
    fn fstat(&self, fd: Fd) -> Sys<Stat>;
    fn fchmod(&self, fd: Fd, mode: u32) -> Sys<()>;
    fn fsetxattr(&self, fd: Fd, name: &str, value: &[u8]) -> Sys<()>;
    /// Lists at most `max` entries, from the position on.
    fn getdents(&self, fd: Fd, max: usize) -> Sys<Vec<Dirent>>;
    /// Scans once (poll(2) with timeout 0), and returns the events.
    fn poll(&self, fd: Fd, events: u32) -> Sys<u32>;
    /// Waits for events, and returns them, or 0 when the time is over.
    fn wait(&self, fd: Fd, events: u32, how: How, timeout: Duration) -> Sys<u32>;

    /// Puts a descriptor into an edge-triggered epoll of its own.
    fn epoll_edge(&self, fd: Fd, events: u32) -> Sys<Fd> {
        Err(errno::ENOSYS)
    }
    /// Waits for an epoll, and returns the events, or 0 when the time is over.
    fn epoll_wait(&self, epoll: Fd, timeout: Duration) -> Sys<u32> {
        Err(errno::ENOSYS)
    }

    /// Watches a path by inotify.
    fn watch(&self, path: &str) -> Sys<Fd> {
        Err(errno::ENOSYS)
    }
    /// Returns what a watch has seen, without waiting.
    fn watched(&self, watch: Fd) -> Sys<Vec<Watched>> {
        Err(errno::ENOSYS)
    }

    fn mmap(&self, fd: Fd, len: usize) -> Sys<Map>;
    /// Reads from a mapping; EFAULT stands for SIGBUS.
    fn map_read(&self, map: Map, offset: usize, len: usize) -> Sys<Vec<u8>>;
    fn munmap(&self, map: Map) -> Sys<()>;

    /// Returns the file handle of a path.
    fn name_to_handle(&self, path: &str) -> Sys<u64> {
        Err(errno::ENOSYS)
    }
    fn open_by_handle(&self, handle: u64, flags: i32) -> Sys<Fd> {
        Err(errno::ENOSYS)
    }

    fn ftruncate(&self, fd: Fd, len: u64) -> Sys<()> {
        Err(errno::ENOSYS)
    }
    fn splice_read(&self, fd: Fd, len: usize) -> Sys<Vec<u8>> {
        Err(errno::ENOSYS)
    }
    fn splice_write(&self, fd: Fd, data: &[u8]) -> Sys<usize> {
        Err(errno::ENOSYS)
    }
    fn sendfile(&self, fd: Fd, len: usize) -> Sys<Vec<u8>> {
        Err(errno::ENOSYS)
    }
    fn ioctl_tcgets(&self, fd: Fd) -> Sys<()> {
        Err(errno::ENOSYS)
    }
    fn fsync(&self, fd: Fd) -> Sys<()> {
        Err(errno::ENOSYS)
    }
    fn flock(&self, fd: Fd) -> Sys<()> {
        Err(errno::ENOSYS)
    }
    /// Writes from an address that nothing is at.
    fn write_bad_pointer(&self, fd: Fd) -> Sys<usize> {
        Err(errno::ENOSYS)
    }
    /// Makes memory that stalls whoever touches it.
    fn stall(&self) -> Sys<Box<dyn Stall + '_>> {
        Err(errno::ENOSYS)
    }
    /// Sits in a directory while `body` runs, and asks for the path of it then.
    fn cwd_of(&self, dir: &str, body: &mut (dyn FnMut() + Send)) -> Sys<()> {
        Err(errno::ENOSYS)
    }
}

/// Memory that stalls whoever touches it, once, until it is told to go on.
pub trait Stall: Send + Sync {
    /// Reads into it.
    fn read(&self, fd: Fd, len: usize) -> Sys<usize>;
    /// Writes from it; it is filled with the digit one.
    fn write(&self, fd: Fd, len: usize) -> Sys<usize>;
    /// Waits until somebody stalls.
    fn until_stalled(&self);
    /// Lets everybody go on.
    fn go_on(&self);
}

/// Error numbers.
#[allow(missing_docs, reason = "the names of errno(3)")]
pub mod errno {
    pub const EPERM: i32 = 1;
    pub const ENOENT: i32 = 2;
    pub const EIO: i32 = 5;
    pub const E2BIG: i32 = 7;
    pub const EBADF: i32 = 9;
    pub const EAGAIN: i32 = 11;
    pub const EACCES: i32 = 13;
    pub const EFAULT: i32 = 14;
    pub const EBUSY: i32 = 16;
    pub const EEXIST: i32 = 17;
    pub const ENODEV: i32 = 19;
    pub const ENOTDIR: i32 = 20;
    pub const EISDIR: i32 = 21;
    pub const EINVAL: i32 = 22;
    pub const ENOTTY: i32 = 25;
    pub const ENOSPC: i32 = 28;
    pub const ERANGE: i32 = 34;
    pub const ENAMETOOLONG: i32 = 36;
    pub const ENOSYS: i32 = 38;
    pub const ENXIO: i32 = 6;
    pub const ENODATA: i32 = 61;
    pub const EOPNOTSUPP: i32 = 95;
    pub const ESTALE: i32 = 116;
}

/// Flags of open(2), and of setxattr(2).
#[allow(missing_docs, reason = "the names of open(2)")]
pub mod flags {
    pub const O_RDONLY: i32 = 0;
    pub const O_WRONLY: i32 = 1;
    pub const O_RDWR: i32 = 2;
    pub const O_CREAT: i32 = 0o100;
    pub const O_EXCL: i32 = 0o200;
    pub const O_TRUNC: i32 = 0o1000;
    pub const O_APPEND: i32 = 0o2000;
    pub const O_NONBLOCK: i32 = 0o4000;
    pub const O_DIRECT: i32 = 0o40_000;
    pub const O_DIRECTORY: i32 = 0o200_000;
    pub const O_PATH: i32 = 0o10_000_000;
    pub const XATTR_ANY: i32 = 0;
    pub const XATTR_CREATE: i32 = 1;
    pub const XATTR_REPLACE: i32 = 2;
}

/// What inotify tells of.
#[allow(missing_docs, reason = "the names of inotify(7)")]
pub mod inotify {
    pub const IN_MODIFY: u32 = 2;
    pub const IN_DELETE: u32 = 0x200;
    pub const IN_CREATE: u32 = 0x100;
    pub const IN_DELETE_SELF: u32 = 0x400;
    pub const IN_IGNORED: u32 = 0x8000;
    pub const IN_ISDIR: u32 = 0x4000_0000;
}

/// Where lseek(2) counts from.
#[allow(missing_docs, reason = "the names of lseek(2)")]
pub mod whence {
    pub const SEEK_SET: i32 = 0;
    pub const SEEK_CUR: i32 = 1;
    pub const SEEK_END: i32 = 2;
    pub const SEEK_DATA: i32 = 3;
}
