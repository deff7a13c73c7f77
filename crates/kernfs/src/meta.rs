//! Who asks for what, and what a node tells about itself: callers, modes, times, extended
//! attributes.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use bitflags::bitflags;

use crate::errno::Errno;

/// A task on whose behalf an operation runs.
#[derive(Clone, Copy)]
pub struct Caller {
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// The process id; 0 for the owner's own process.
    pub pid: u32,
    /// Whether the operation must not wait (`O_NONBLOCK`).
    pub nonblocking: bool,
    capable: fn(&Self, Capability) -> bool,
    in_group: fn(&Self, u32) -> bool,
}

impl Caller {
    /// The owner's own process, which may do everything.
    pub const OWNER: Self = Self::new(0, 0, 0);

    /// Takes the ids of a task that has all capabilities if it is user 0, else none.
    #[must_use]
    pub const fn new(uid: u32, gid: u32, pid: u32) -> Self {
        Self {
            uid,
            gid,
            pid,
            nonblocking: false,
            capable: |caller, _| caller.uid == 0,
            in_group: |_, _| false,
        }
    }

    /// Sets how capabilities are looked up; asked only when an answer depends on it.
    #[must_use]
    pub const fn with_capable(mut self, capable: fn(&Self, Capability) -> bool) -> Self {
        self.capable = capable;
        self
    }

    /// Sets how supplementary groups are looked up; asked only when an answer depends on it.
    #[must_use]
    pub const fn with_groups(mut self, in_group: fn(&Self, u32) -> bool) -> Self {
        self.in_group = in_group;
        self
    }

    /// Sets whether operations must not wait.
    #[must_use]
    pub const fn nonblocking(mut self, nonblocking: bool) -> Self {
        self.nonblocking = nonblocking;
        self
    }

    /// Tells whether the task is in a group (`in_group_p`).
    #[must_use]
    pub fn is_in_group(&self, gid: u32) -> bool {
        self.gid == gid || (self.in_group)(self, gid)
    }

    /// Tells whether the task has a capability (`capable`).
    #[must_use]
    pub fn is_capable(&self, capability: Capability) -> bool {
        (self.capable)(self, capability)
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("uid", &self.uid)
            .field("gid", &self.gid)
            .field("pid", &self.pid)
            .field("nonblocking", &self.nonblocking)
            .finish_non_exhaustive()
    }
}

/// A capability, by its number in Linux (capabilities(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Capability(pub u8);

impl Capability {
    /// May change owners.
    pub const CHOWN: Self = Self(0);
    /// Is not bound by modes.
    pub const DAC_OVERRIDE: Self = Self(1);
    /// May act as the owner of any file.
    pub const FOWNER: Self = Self(3);
    /// May administer, for example `trusted.*` attributes.
    pub const SYS_ADMIN: Self = Self(21);
    /// May exceed limits, for example set pressure windows of any length.
    pub const SYS_RESOURCE: Self = Self(24);
}

/// Permission bits of a node, 12 bits as in chmod(2).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mode(u16);

impl Mode {
    /// Readable by everyone: 0444.
    pub const RO: Self = Self(0o444);
    /// Readable by everyone, writable by the owner: 0644.
    pub const RW: Self = Self(0o644);
    /// Writable by the owner: 0200.
    pub const WO: Self = Self(0o200);
    /// A directory: 0755.
    pub const DIR: Self = Self(0o755);

    /// Takes the lower 12 bits.
    #[must_use]
    pub const fn new(bits: u16) -> Self {
        Self(bits & 0o7777)
    }

    /// Returns the 12 bits.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }
}

impl fmt::Debug for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mode(0{:o})", self.0)
    }
}

bitflags! {
    /// What an open file is for, and how.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct OpenFlags: u8 {
        /// It will be read.
        const READ = 1;
        /// It will be written.
        const WRITE = 2;
        /// It will be read and written.
        const READ_WRITE = 3;
        /// Operations must not wait (`O_NONBLOCK`).
        const NONBLOCK = 4;
    }
}

/// What is being done to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names of system calls")]
pub enum Operation {
    Open = 1,
    Read,
    Write,
    Mmap,
    Release,
    Mkdir,
    Rmdir,
    Rename,
    Unlink,
}

impl Operation {
    const ALL: [Self; 9] = [
        Self::Open,
        Self::Read,
        Self::Write,
        Self::Mmap,
        Self::Release,
        Self::Mkdir,
        Self::Rmdir,
        Self::Rename,
        Self::Unlink,
    ];

    pub(crate) fn from_raw(raw: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|&operation| operation as u8 == raw)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Read => "read",
            Self::Write => "write",
            Self::Mmap => "mmap",
            Self::Release => "release",
            Self::Mkdir => "mkdir",
            Self::Rmdir => "rmdir",
            Self::Rename => "rename",
            Self::Unlink => "unlink",
        })
    }
}

/// A time since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Seconds.
    pub secs: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nanos: u32,
}

/// Where a tree takes the time from; kernfs itself reads no clock.
pub trait Clock: Send + Sync {
    /// Returns the time of day, for the times of nodes.
    fn now(&self) -> Timestamp;

    /// Returns a time that never goes backwards, for deadlines.
    fn monotonic(&self) -> Duration;
}

/// The clock of the operating system.
#[cfg(feature = "std")]
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

#[cfg(feature = "std")]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        Timestamp {
            secs: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanos: since.subsec_nanos(),
        }
    }

    fn monotonic(&self) -> Duration {
        static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        START.get_or_init(std::time::Instant::now).elapsed()
    }
}

/// A clock that stands still at the epoch: the default without `std`.
#[derive(Clone, Copy, Debug, Default)]
pub struct StoppedClock;

impl Clock for StoppedClock {
    fn now(&self) -> Timestamp {
        Timestamp::default()
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}

/// The kind of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NodeKind {
    /// A directory.
    Dir,
    /// A file.
    File,
    /// A symbolic link.
    Link,
}

/// What stat(2) tells of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attr {
    /// The inode number, never reused within a tree.
    pub ino: u64,
    /// The kind.
    pub kind: NodeKind,
    /// The permission bits.
    pub mode: Mode,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The size in bytes: of links the length of the text, of files what was declared.
    pub size: u64,
    /// 2 and the number of subdirectories for a directory, else 1; 0 once removed.
    pub nlink: u32,
    /// The time of last access, as set by utimensat(2).
    pub atime: Timestamp,
    /// The time of the last change of a directory's children; of a file, as set.
    pub mtime: Timestamp,
    /// The time of the last change of the attributes.
    pub ctime: Timestamp,
}

/// A change of attributes; `None` leaves a value as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// chmod(2)
    pub mode: Option<Mode>,
    /// chown(2), the user
    pub uid: Option<u32>,
    /// chown(2), the group
    pub gid: Option<u32>,
    /// utimensat(2), the time of access
    pub atime: Option<Timestamp>,
    /// utimensat(2), the time of modification
    pub mtime: Option<Timestamp>,
}

/// What setxattr(2) demands of an attribute that may exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrFlags {
    /// It may exist or not.
    Any,
    /// It must not exist: else EEXIST.
    Create,
    /// It must exist: else ENODATA.
    Replace,
}

/// The most `user.*` attributes of a node (`KERNFS_MAX_USER_XATTRS`).
pub const MAX_USER_XATTRS: usize = 128;
/// The most bytes that values of `user.*` attributes of a node have in total
/// (`KERNFS_USER_XATTR_SIZE_LIMIT`).
pub const MAX_USER_XATTR_BYTES: usize = 128 << 10;
/// The most bytes of one value (`XATTR_SIZE_MAX`).
pub const MAX_XATTR_VALUE: usize = 64 << 10;
/// The most bytes of the name of an extended attribute (`XATTR_NAME_MAX`).
pub const MAX_XATTR_NAME: usize = 255;

/// The attributes of a node that can change; lives on the node, so it survives severing.
#[derive(Debug)]
pub(crate) struct Meta {
    pub(crate) mode: Mode,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) born: Timestamp,
    /// What is rarely set: times and extended attributes (`kernfs_iattrs`).
    pub(crate) rare: Option<Box<Rare>>,
}

#[derive(Debug, Default)]
pub(crate) struct Rare {
    pub(crate) atime: Option<Timestamp>,
    pub(crate) mtime: Option<Timestamp>,
    pub(crate) ctime: Option<Timestamp>,
    xattrs: Xattrs,
}

impl Meta {
    pub(crate) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Checks the classes of owner, group and others (`generic_permission`).
    pub(crate) fn permits(&self, caller: &Caller, kind: NodeKind, access: Access) -> bool {
        let shift = if caller.uid == self.uid {
            6
        } else if caller.is_in_group(self.gid) {
            3
        } else {
            0
        };
        let granted = (self.mode.bits() >> shift) & 7;
        let wanted = u16::from(access.bits());
        if granted & wanted == wanted {
            return true;
        }
        // The override does not make files executable that nobody may execute.
        let executable = kind == NodeKind::Dir || self.mode.bits() & 0o111 != 0;
        (!access.contains(Access::EXEC) || executable)
            && caller.is_capable(Capability::DAC_OVERRIDE)
    }

    /// Applies a change if the caller may (`setattr_prepare`).
    pub(crate) fn set(
        &mut self,
        caller: &Caller,
        set: &SetAttr,
        now: Timestamp,
    ) -> Result<(), Errno> {
        let owns = caller.uid == self.uid || caller.is_capable(Capability::FOWNER);
        let to_own_group = set.gid.is_none_or(|gid| gid == self.gid || caller.is_in_group(gid));
        let keeps_user = set.uid.is_none_or(|uid| uid == self.uid);
        let changes_owner = set.uid.is_some() || set.gid.is_some();
        let may_chown = keeps_user && to_own_group && caller.uid == self.uid;
        if changes_owner && !may_chown && !caller.is_capable(Capability::CHOWN) {
            return Err(Errno::EPERM);
        }
        let changes_rest = set.mode.is_some() || set.atime.is_some() || set.mtime.is_some();
        if changes_rest && !owns {
            return Err(Errno::EPERM);
        }
        self.mode = set.mode.unwrap_or(self.mode);
        self.uid = set.uid.unwrap_or(self.uid);
        self.gid = set.gid.unwrap_or(self.gid);
        let rare = self.rare();
        rare.atime = set.atime.or(rare.atime);
        rare.mtime = set.mtime.or(rare.mtime);
        rare.ctime = Some(now);
        Ok(())
    }

    pub(crate) fn xattrs(&self) -> Option<&Xattrs> {
        self.rare.as_ref().map(|rare| &rare.xattrs)
    }

    pub(crate) fn xattrs_mut(&mut self) -> &mut Xattrs {
        &mut self.rare().xattrs
    }
}

bitflags! {
    /// What an access check asks for, with the bits of access(2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Access: u8 {
        /// To execute, or to search a directory.
        const EXEC = 1;
        /// To write.
        const WRITE = 2;
        /// To read.
        const READ = 4;
    }
}

/// Extended attributes of one node.
#[derive(Debug, Default)]
pub(crate) struct Xattrs(BTreeMap<Box<[u8]>, Box<[u8]>>);

const USER: &[u8] = b"user.";

impl Xattrs {
    pub(crate) fn get(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        self.0.get(name).map(|value| value.to_vec()).ok_or(Errno::ENODATA)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.0.keys().map(|name| &**name)
    }

    pub(crate) fn set(
        &mut self,
        name: &[u8],
        value: &[u8],
        flags: XattrFlags,
    ) -> Result<(), Errno> {
        match (flags, self.0.get(name)) {
            (XattrFlags::Create, Some(_)) => return Err(Errno::EEXIST),
            (XattrFlags::Replace, None) => return Err(Errno::ENODATA),
            _ => {}
        }
        if name.starts_with(USER) {
            let others = self.0.iter().filter(|(n, _)| n.starts_with(USER) && &***n != name);
            let (count, bytes) = others.fold((0, 0), |(n, sum), (_, v)| (n + 1, sum + v.len()));
            if count + 1 > MAX_USER_XATTRS || bytes + value.len() > MAX_USER_XATTR_BYTES {
                return Err(Errno::ENOSPC);
            }
        }
        self.0.insert(name.into(), value.into());
        Ok(())
    }

    pub(crate) fn remove(&mut self, name: &[u8]) -> Result<(), Errno> {
        self.0.remove(name).map(drop).ok_or(Errno::ENODATA)
    }
}

/// Checks name and caller before an extended attribute is touched (`xattr_permission`).
///
/// `user.*` is permitted by the mode of the node, which the caller of this function checks.
pub(crate) fn check_xattr(
    caller: &Caller,
    name: &[u8],
    user_xattrs: bool,
    access: Access,
) -> Result<(), Errno> {
    if name.is_empty() || name.len() > MAX_XATTR_NAME {
        return Err(Errno::ERANGE);
    }
    if name.starts_with(USER) && name.len() > USER.len() {
        return if user_xattrs { Ok(()) } else { Err(Errno::EOPNOTSUPP) };
    }
    let trusted = name.starts_with(b"trusted.");
    if !trusted && !name.starts_with(b"security.") {
        return Err(Errno::EOPNOTSUPP);
    }
    if caller.is_capable(Capability::SYS_ADMIN) || (!trusted && access == Access::READ) {
        return Ok(());
    }
    // The kernel hides trusted attributes from those who may not have them.
    Err(if access == Access::READ { Errno::ENODATA } else { Errno::EPERM })
}

/// A namespace tag: children of a tagged directory are seen by clients of the same tag only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(pub u64);
