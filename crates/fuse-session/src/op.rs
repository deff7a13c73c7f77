//! What the kernel asks: one type per operation, and the flags in them.

#![forbid(unsafe_code)]

use std::ffi::OsStr;

use bitflags::bitflags;

use crate::attr::Timestamp;

/// Who asks, and about which node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// Number of this request, never 0; an interrupt names it.
    pub unique: u64,
    /// Raw operation code, for logs.
    pub opcode: u32,
    /// Node that the operation is about: the parent directory where it takes a name.
    pub nodeid: u64,
    /// User id of the caller for filesystem checks.
    pub uid: u32,
    /// Group id of the caller for filesystem checks.
    pub gid: u32,
    /// *Thread* id of the caller, 0 when it has none in our pid namespace
    /// or when the kernel asks for itself.
    pub pid: u32,
}

/// One request, taken apart.
#[derive(Debug)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant is named after the operation of fuse.h")]
pub enum Operation<'a> {
    Lookup(&'a OsStr),
    Forget(Forgets<'a>),
    GetAttr(GetAttr),
    SetAttr(SetAttr),
    ReadLink,
    Symlink(Symlink<'a>),
    Mknod(Mknod<'a>),
    Mkdir(Mkdir<'a>),
    Unlink(&'a OsStr),
    Rmdir(&'a OsStr),
    Rename(Rename<'a>),
    Link(Link<'a>),
    Open(Open),
    Read(Read),
    Write(Write<'a>),
    StatFs,
    Release(Release),
    Fsync(Fsync),
    SetXattr(SetXattr<'a>),
    GetXattr(GetXattr<'a>),
    ListXattr(ListXattr),
    RemoveXattr(&'a OsStr),
    Flush(Flush),
    Init(Init),
    OpenDir(Open),
    ReadDir(Read),
    ReadDirPlus(Read),
    ReleaseDir(Release),
    FsyncDir(Fsync),
    Access(Access),
    Create(Create<'a>),
    Tmpfile(Create<'a>),
    Interrupt(Interrupt),
    Destroy,
    Ioctl(Ioctl<'a>),
    Poll(Poll),
    NotifyReply(NotifyReply<'a>),
    Fallocate(Fallocate),
    Lseek(Lseek),
    CopyFileRange(CopyFileRange),
    SyncFs,
}

/// Lookup counts that the kernel gives back, one item per node: `(node id, count)`.
#[derive(Clone, Debug)]
pub struct Forgets<'a> {
    pub(crate) single: Option<(u64, u64)>,
    pub(crate) batch: &'a [u8],
}

impl Iterator for Forgets<'_> {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(single) = self.single.take() {
            return Some(single);
        }
        let (nodeid, rest) = self.batch.split_first_chunk::<8>()?;
        let (count, rest) = rest.split_first_chunk::<8>()?;
        self.batch = rest;
        Some((u64::from_ne_bytes(*nodeid), u64::from_ne_bytes(*count)))
    }
}

/// A request for attributes.
#[derive(Clone, Copy, Debug)]
pub struct GetAttr {
    /// Open file that fstat(2) was called on.
    pub fh: Option<u64>,
}

/// A change of attributes; only the fields that are `Some` change.
#[derive(Clone, Copy, Debug)]
pub struct SetAttr {
    /// What the kernel marked as valid, as it came.
    pub valid: SetAttrValid,
    /// Open file that ftruncate(2) was called on.
    pub fh: Option<u64>,
    /// New permission bits; file type bits may be set too.
    pub mode: Option<u32>,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New size in bytes.
    pub size: Option<u64>,
    /// New time of last access.
    pub atime: Option<SetTime>,
    /// New time of last modification.
    pub mtime: Option<SetTime>,
    /// New time of last change, sent with a write-back cache only.
    pub ctime: Option<Timestamp>,
    /// Owner of the locks that the call respects.
    pub lock_owner: Option<u64>,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The server's present time.
    Now,
    /// This time.
    At(Timestamp),
}

/// A symbolic link to make.
#[derive(Clone, Copy, Debug)]
pub struct Symlink<'a> {
    /// Name of the link.
    pub name: &'a OsStr,
    /// What it points to.
    pub target: &'a OsStr,
}

/// A file, device, fifo or socket to make.
#[derive(Clone, Copy, Debug)]
pub struct Mknod<'a> {
    /// Its name.
    pub name: &'a OsStr,
    /// File type and permissions; the umask is applied already unless
    /// `DONT_MASK` was negotiated.
    pub mode: u32,
    /// The caller's umask.
    pub umask: u32,
    /// Device number.
    pub rdev: u32,
}

/// A directory to make.
#[derive(Clone, Copy, Debug)]
pub struct Mkdir<'a> {
    /// Its name.
    pub name: &'a OsStr,
    /// Permissions, as in [`Mknod::mode`].
    pub mode: u32,
    /// The caller's umask.
    pub umask: u32,
}

/// A rename.
#[derive(Clone, Copy, Debug)]
pub struct Rename<'a> {
    /// Old name in the request's node.
    pub name: &'a OsStr,
    /// Node id of the new parent.
    pub new_parent: u64,
    /// New name.
    pub new_name: &'a OsStr,
    /// Flags of renameat2(2).
    pub flags: RenameFlags,
}

/// A hard link to make in the request's node.
#[derive(Clone, Copy, Debug)]
pub struct Link<'a> {
    /// Node id of the existing file.
    pub nodeid: u64,
    /// New name.
    pub name: &'a OsStr,
}

/// An open(2) of a file or directory.
#[derive(Clone, Copy, Debug)]
pub struct Open {
    /// Flags of open(2), without `O_CREAT`, `O_EXCL` and `O_NOCTTY`.
    pub flags: FileFlags,
}

/// A read from a file or a directory.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    /// Handle from open.
    pub fh: u64,
    /// Byte offset in a file; in a directory 0 or the offset given with an entry.
    pub offset: u64,
    /// Most bytes to return.
    pub size: u32,
    /// Flags that the file has at this moment, `O_NONBLOCK` among them.
    pub flags: FileFlags,
    /// Owner of the locks that the call respects.
    pub lock_owner: Option<u64>,
}

/// A write to a file.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// Handle from open; unreliable when [`from_cache`](Self::from_cache) is set.
    pub fh: u64,
    /// Byte offset.
    pub offset: u64,
    /// What to write.
    pub data: &'a [u8],
    /// Flags that the file has at this moment.
    pub flags: FileFlags,
    /// Whether the page cache writes back, rather than a caller in write(2).
    pub from_cache: bool,
    /// Whether set-user-id and set-group-id bits are to be dropped.
    pub kill_privileges: bool,
    /// Owner of the locks that the call respects.
    pub lock_owner: Option<u64>,
}

/// The end of an open file: the last descriptor is gone.
#[derive(Clone, Copy, Debug)]
pub struct Release {
    /// Handle from open, never used again.
    pub fh: u64,
    /// Flags that the file had.
    pub flags: FileFlags,
    /// Whether a flush is asked for as well.
    pub flush: bool,
    /// Owner of the flock(2) to drop.
    pub flock_owner: Option<u64>,
}

/// A close(2) of one descriptor; it may come many times for an open file.
#[derive(Clone, Copy, Debug)]
pub struct Flush {
    /// Handle from open.
    pub fh: u64,
    /// Owner of the POSIX locks to drop.
    pub lock_owner: u64,
}

/// An fsync(2).
#[derive(Clone, Copy, Debug)]
pub struct Fsync {
    /// Handle from open.
    pub fh: u64,
    /// Whether it was fdatasync(2).
    pub data_only: bool,
}

/// An extended attribute to set.
#[derive(Clone, Copy, Debug)]
pub struct SetXattr<'a> {
    /// Its name with the namespace, such as `user.comment`.
    pub name: &'a OsStr,
    /// Its value.
    pub value: &'a [u8],
    /// `XATTR_CREATE`, `XATTR_REPLACE` or 0.
    pub flags: u32,
}

/// A question for an extended attribute.
#[derive(Clone, Copy, Debug)]
pub struct GetXattr<'a> {
    /// Its name with the namespace.
    pub name: &'a OsStr,
    /// Room for the value in bytes; 0 asks for its size.
    pub size: u32,
}

/// A question for the names of all extended attributes.
#[derive(Clone, Copy, Debug)]
pub struct ListXattr {
    /// Room for the list in bytes; 0 asks for its size.
    pub size: u32,
}

/// The kernel's side of the first exchange.
#[derive(Clone, Copy, Debug)]
pub struct Init {
    /// Major version, 7.
    pub major: u32,
    /// Minor version.
    pub minor: u32,
    /// Most bytes of read-ahead.
    pub max_readahead: u32,
    /// Everything the kernel offers, both words of it.
    pub flags: u64,
}

/// An access(2).
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// `R_OK`, `W_OK`, `X_OK` or 0.
    pub mask: u32,
}

/// A file to make and open at once.
#[derive(Clone, Copy, Debug)]
pub struct Create<'a> {
    /// Its name; the kernel's own choice for `O_TMPFILE`.
    pub name: &'a OsStr,
    /// Flags of open(2).
    pub flags: FileFlags,
    /// File type and permissions, as in [`Mknod::mode`].
    pub mode: u32,
    /// The caller's umask.
    pub umask: u32,
}

/// A request whose caller got a signal.
#[derive(Clone, Copy, Debug)]
pub struct Interrupt {
    /// Number of the request to give up.
    pub unique: u64,
}

/// An ioctl(2).
#[derive(Clone, Copy, Debug)]
pub struct Ioctl<'a> {
    /// Handle from open.
    pub fh: u64,
    /// The command.
    pub cmd: u32,
    /// The argument as the caller gave it: a number or an address of the caller's.
    pub arg: u64,
    /// What the command sends in.
    pub input: &'a [u8],
    /// Most bytes that it gets back.
    pub out_size: u32,
    /// How it was called.
    pub flags: IoctlFlags,
}

/// A poll(2), select(2) or epoll_wait(2) that wants the state of a file.
#[derive(Clone, Copy, Debug)]
pub struct Poll {
    /// Handle from open.
    pub fh: u64,
    /// What to pass to `Notifier::poll`; the same for every poll of an open file.
    pub kh: u64,
    /// Whether the caller sleeps and wants to be woken through [`kh`](Self::kh).
    pub wants_wakeup: bool,
    /// What it waits for; `ERR` and `HUP` are always there.
    pub events: PollEvents,
}

/// Pages that the kernel hands over for `Notifier::retrieve`.
#[derive(Clone, Copy, Debug)]
pub struct NotifyReply<'a> {
    /// Byte offset of the data.
    pub offset: u64,
    /// The data, shorter than asked for when not all was cached.
    pub data: &'a [u8],
}

/// A fallocate(2).
#[derive(Clone, Copy, Debug)]
pub struct Fallocate {
    /// Handle from open.
    pub fh: u64,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
    /// `FALLOC_FL_*` bits.
    pub mode: u32,
}

/// An lseek(2) to data, to a hole, or to the end.
#[derive(Clone, Copy, Debug)]
pub struct Lseek {
    /// Handle from open.
    pub fh: u64,
    /// Where to start.
    pub offset: u64,
    /// `SEEK_DATA` or `SEEK_HOLE`.
    pub whence: u32,
}

/// A copy_file_range(2) from the request's node.
#[derive(Clone, Copy, Debug)]
pub struct CopyFileRange {
    /// Handle of the source.
    pub fh_in: u64,
    /// Byte offset in the source.
    pub offset_in: u64,
    /// Node id of the destination.
    pub nodeid_out: u64,
    /// Handle of the destination.
    pub fh_out: u64,
    /// Byte offset in the destination.
    pub offset_out: u64,
    /// Number of bytes.
    pub length: u64,
}

/// How a file was opened to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessMode {
    /// `O_RDONLY`.
    Read,
    /// `O_WRONLY`.
    Write,
    /// `O_RDWR`.
    ReadWrite,
}

bitflags! {
    /// Flags of open(2), as a request carries them.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct FileFlags: u32 {
        /// Writes go to the end.
        const APPEND = libc::O_APPEND as u32;
        /// Nothing blocks: the answer is EAGAIN instead.
        const NONBLOCK = libc::O_NONBLOCK as u32;
        /// Truncate at open; seen with `ATOMIC_O_TRUNC` only.
        const TRUNC = libc::O_TRUNC as u32;
        /// The file must be new.
        const EXCL = libc::O_EXCL as u32;
        /// No page cache.
        const DIRECT = libc::O_DIRECT as u32;
        /// Data is on disk when write returns.
        const DSYNC = libc::O_DSYNC as u32;
        /// Opened to be executed (the kernel's own flag).
        const EXEC = 0x20;
        const _ = !0;
    }

    /// Which fields of a [`SetAttr`] are meant.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct SetAttrValid: u32 {
        /// The mode.
        const MODE = fuse_abi::linux::FATTR_MODE;
        /// The owner.
        const UID = fuse_abi::linux::FATTR_UID;
        /// The group.
        const GID = fuse_abi::linux::FATTR_GID;
        /// The size.
        const SIZE = fuse_abi::linux::FATTR_SIZE;
        /// The access time.
        const ATIME = fuse_abi::linux::FATTR_ATIME;
        /// The modification time.
        const MTIME = fuse_abi::linux::FATTR_MTIME;
        /// The file handle.
        const FH = fuse_abi::linux::FATTR_FH;
        /// The access time becomes the present.
        const ATIME_NOW = fuse_abi::linux::FATTR_ATIME_NOW;
        /// The modification time becomes the present.
        const MTIME_NOW = fuse_abi::linux::FATTR_MTIME_NOW;
        /// The lock owner.
        const LOCKOWNER = fuse_abi::linux::FATTR_LOCKOWNER;
        /// The change time.
        const CTIME = fuse_abi::linux::FATTR_CTIME;
        /// Set-user-id and set-group-id bits are to be dropped.
        const KILL_SUIDGID = fuse_abi::linux::FATTR_KILL_SUIDGID;
        const _ = !0;
    }

    /// Flags of renameat2(2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct RenameFlags: u32 {
        /// Fail with EEXIST when the new name is there.
        const NOREPLACE = libc::RENAME_NOREPLACE;
        /// Exchange the two.
        const EXCHANGE = libc::RENAME_EXCHANGE;
        /// Leave a whiteout behind.
        const WHITEOUT = libc::RENAME_WHITEOUT;
        const _ = !0;
    }

    /// How an ioctl(2) was called.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct IoctlFlags: u32 {
        /// By a 32-bit process on a 64-bit kernel.
        const COMPAT = fuse_abi::linux::FUSE_IOCTL_COMPAT;
        /// The command is not described by its number.
        const UNRESTRICTED = fuse_abi::linux::FUSE_IOCTL_UNRESTRICTED;
        /// By a 32-bit process.
        const IS_32BIT = fuse_abi::linux::FUSE_IOCTL_32BIT;
        /// On a directory.
        const DIR = fuse_abi::linux::FUSE_IOCTL_DIR;
        const _ = !0;
    }

    /// Readiness, as in poll(2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct PollEvents: u32 {
        /// There is something to read.
        const IN = libc::POLLIN as u32;
        /// Something exceptional, as a changed attribute in sysfs.
        const PRI = libc::POLLPRI as u32;
        /// A write would not block.
        const OUT = libc::POLLOUT as u32;
        /// An error.
        const ERR = libc::POLLERR as u32;
        /// The other side is gone.
        const HUP = libc::POLLHUP as u32;
        /// The same as `IN` for files.
        const RDNORM = libc::POLLRDNORM as u32;
        /// Priority data.
        const RDBAND = libc::POLLRDBAND as u32;
        /// The same as `OUT` for files.
        const WRNORM = libc::POLLWRNORM as u32;
        /// Room for priority data.
        const WRBAND = libc::POLLWRBAND as u32;
        /// The other side has stopped writing.
        const RDHUP = libc::POLLRDHUP as u32;
        const _ = !0;
    }
}

impl FileFlags {
    /// Returns whether the file was opened to read, to write, or both.
    #[must_use]
    pub const fn access_mode(self) -> AccessMode {
        match self.bits() as i32 & libc::O_ACCMODE {
            libc::O_WRONLY => AccessMode::Write,
            libc::O_RDWR => AccessMode::ReadWrite,
            _ => AccessMode::Read,
        }
    }
}

impl PollEvents {
    /// What a file without readiness of its own answers, the kernel's `DEFAULT_POLLMASK`.
    pub const ALWAYS_READY: Self =
        Self::IN.union(Self::OUT).union(Self::RDNORM).union(Self::WRNORM);
}
