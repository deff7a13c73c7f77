//! What the answers are made of: attributes, entries, times.

#![forbid(unsafe_code)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bitflags::bitflags;

use crate::abi;

/// A name that resolves to a node.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Node id for further requests, not 0; 1 is the root.
    ///
    /// Each entry that the kernel accepts adds one to the node's lookup count,
    /// until forget takes it away.
    pub nodeid: u64,
    /// Tells apart two nodes that had the same node id; matters for NFS export only.
    pub generation: u64,
    /// How long the name may be cached.
    pub entry_ttl: Duration,
    /// How long the attributes may be cached.
    pub attr_ttl: Duration,
    /// The attributes.
    pub attr: FileAttr,
}

/// What stat(2) shows.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileAttr {
    /// `st_ino`; need not be the node id.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Size in blocks of 512 bytes.
    pub blocks: u64,
    /// Time of last access.
    pub atime: Timestamp,
    /// Time of last modification.
    pub mtime: Timestamp,
    /// Time of last change.
    pub ctime: Timestamp,
    /// File type and permissions, as in `st_mode`.
    pub mode: u32,
    /// Number of hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device file.
    pub rdev: u32,
    /// Preferred size of a transfer; 0 for the kernel's choice.
    pub blksize: u32,
}

impl FileAttr {
    /// Describes a directory of root's with these permissions.
    #[must_use]
    pub fn directory(ino: u64, permissions: u32) -> Self {
        Self { ino, mode: libc::S_IFDIR | permissions, nlink: 2, ..Self::default() }
    }

    /// Describes a regular file of root's with these permissions and this size in bytes.
    #[must_use]
    pub fn regular(ino: u64, permissions: u32, size: u64) -> Self {
        Self {
            ino,
            size,
            blocks: size.div_ceil(512),
            mode: libc::S_IFREG | permissions,
            nlink: 1,
            ..Self::default()
        }
    }

    /// Describes a symbolic link of root's whose target has `size` bytes.
    #[must_use]
    pub fn symlink(ino: u64, size: u64) -> Self {
        Self { ino, size, mode: libc::S_IFLNK | 0o777, nlink: 1, ..Self::default() }
    }

    /// Returns the type in [`mode`](Self::mode), which is what a directory entry shows.
    #[must_use]
    pub const fn kind(&self) -> FileKind {
        FileKind::from_mode(self.mode)
    }

    pub(crate) fn to_abi(self) -> abi::fuse_attr {
        abi::fuse_attr {
            ino: self.ino,
            size: self.size,
            blocks: self.blocks,
            // The kernel reads the seconds back as a signed number.
            atime: self.atime.seconds.cast_unsigned(),
            mtime: self.mtime.seconds.cast_unsigned(),
            ctime: self.ctime.seconds.cast_unsigned(),
            atimensec: self.atime.nanoseconds,
            mtimensec: self.mtime.nanoseconds,
            ctimensec: self.ctime.nanoseconds,
            mode: self.mode,
            nlink: self.nlink,
            uid: self.uid,
            gid: self.gid,
            rdev: self.rdev,
            blksize: self.blksize,
            flags: 0,
        }
    }
}

impl Entry {
    pub(crate) fn to_abi(self) -> abi::fuse_entry_out {
        abi::fuse_entry_out {
            nodeid: self.nodeid,
            generation: self.generation,
            entry_valid: self.entry_ttl.as_secs(),
            attr_valid: self.attr_ttl.as_secs(),
            entry_valid_nsec: self.entry_ttl.subsec_nanos(),
            attr_valid_nsec: self.attr_ttl.subsec_nanos(),
            attr: self.attr.to_abi(),
        }
    }
}

/// A point in time, relative to 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Whole seconds; negative before 1970.
    pub seconds: i64,
    /// Nanoseconds after the second, below 1,000,000,000.
    pub nanoseconds: u32,
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self {
                seconds: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
                nanoseconds: after.subsec_nanos(),
            },
            Err(before) => Self::before_epoch(before.duration()),
        }
    }
}

impl Timestamp {
    fn before_epoch(before: Duration) -> Self {
        let seconds = i64::try_from(before.as_secs()).map_or(i64::MIN, |whole| -whole);
        match before.subsec_nanos() {
            0 => Self { seconds, nanoseconds: 0 },
            part => Self { seconds: seconds.saturating_sub(1), nanoseconds: 1_000_000_000 - part },
        }
    }
}

/// Type of a file, as a directory entry shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// Block device.
    BlockDevice,
    /// Character device.
    CharDevice,
    /// Directory.
    Directory,
    /// Named pipe.
    Fifo,
    /// Regular file.
    Regular,
    /// Socket.
    Socket,
    /// Symbolic link.
    Symlink,
    /// Not known; a caller that cares asks with stat(2).
    Unknown,
}

impl FileKind {
    /// Reads the type out of an `st_mode`.
    #[must_use]
    pub const fn from_mode(mode: u32) -> Self {
        match mode & libc::S_IFMT {
            libc::S_IFBLK => Self::BlockDevice,
            libc::S_IFCHR => Self::CharDevice,
            libc::S_IFDIR => Self::Directory,
            libc::S_IFIFO => Self::Fifo,
            libc::S_IFREG => Self::Regular,
            libc::S_IFSOCK => Self::Socket,
            libc::S_IFLNK => Self::Symlink,
            _ => Self::Unknown,
        }
    }

    /// Returns the `d_type` of readdir(3).
    pub(crate) const fn to_dirent_type(self) -> u32 {
        (match self {
            Self::BlockDevice => libc::DT_BLK,
            Self::CharDevice => libc::DT_CHR,
            Self::Directory => libc::DT_DIR,
            Self::Fifo => libc::DT_FIFO,
            Self::Regular => libc::DT_REG,
            Self::Socket => libc::DT_SOCK,
            Self::Symlink => libc::DT_LNK,
            Self::Unknown => libc::DT_UNKNOWN,
        }) as u32
    }
}

/// What statfs(2) shows.
#[derive(Clone, Copy, Debug)]
pub struct StatFs {
    /// Size in units of [`fragment_size`](Self::fragment_size).
    pub blocks: u64,
    /// Free blocks.
    pub blocks_free: u64,
    /// Free blocks for users other than root.
    pub blocks_available: u64,
    /// Number of inodes.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
    /// Preferred size of a transfer in bytes.
    pub block_size: u32,
    /// Most bytes in a name.
    pub name_max: u32,
    /// Size of a block in bytes.
    pub fragment_size: u32,
}

impl Default for StatFs {
    /// Describes a filesystem without storage: no blocks, names of up to 255 bytes.
    fn default() -> Self {
        Self {
            blocks: 0,
            blocks_free: 0,
            blocks_available: 0,
            files: 0,
            files_free: 0,
            block_size: 4096,
            name_max: 255,
            fragment_size: 4096,
        }
    }
}

bitflags! {
    /// How the kernel is to treat an open file.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct OpenFlags: u32 {
        /// Every read and write reaches the server; the page cache is left out.
        const DIRECT_IO = abi::FOPEN_DIRECT_IO;
        /// Keep cached pages from before this open.
        const KEEP_CACHE = abi::FOPEN_KEEP_CACHE;
        /// lseek(2) gives ESPIPE.
        const NONSEEKABLE = abi::FOPEN_NONSEEKABLE;
        /// Cache the entries of this directory.
        const CACHE_DIR = abi::FOPEN_CACHE_DIR;
        /// There is no file position, so a blocked read does not hold its lock.
        const STREAM = abi::FOPEN_STREAM;
        /// close(2) asks nothing.
        const NOFLUSH = abi::FOPEN_NOFLUSH;
        /// Direct writes may run side by side.
        const PARALLEL_DIRECT_WRITES = abi::FOPEN_PARALLEL_DIRECT_WRITES;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_the_epoch_round_down() {
        let time = UNIX_EPOCH - Duration::from_millis(1_250);
        let expected = Timestamp { seconds: -2, nanoseconds: 750_000_000 };
        assert_eq!(Timestamp::from(time), expected);
    }

    #[test]
    fn the_kind_follows_the_mode() {
        assert_eq!(FileAttr::directory(1, 0o755).kind(), FileKind::Directory);
        assert_eq!(FileAttr::symlink(1, 3).kind(), FileKind::Symlink);
        assert_eq!(FileKind::from_mode(0), FileKind::Unknown);
    }
}
