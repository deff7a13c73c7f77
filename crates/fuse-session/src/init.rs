//! The first exchange with the kernel: versions, flags and limits.

#![forbid(unsafe_code)]

use bitflags::bitflags;

use crate::abi;
use crate::op::Init;

/// What the kernel offers, and what the filesystem makes of it.
#[derive(Clone, Debug)]
pub struct KernelConfig {
    minor: u32,
    offered: InitFlags,
    wanted: InitFlags,
    max_readahead: u32,
    max_background: u16,
    max_write: u32,
}

impl KernelConfig {
    /// Returns the minor version of the kernel's FUSE ABI; the major one is 7.
    #[must_use]
    pub const fn minor(&self) -> u32 {
        self.minor
    }

    /// Returns what the kernel offers and this library can serve.
    #[must_use]
    pub const fn offered(&self) -> InitFlags {
        self.offered
    }

    /// Returns what will be asked for, [`InitFlags::DEFAULT`] at first.
    #[must_use]
    pub const fn wanted(&self) -> InitFlags {
        self.wanted
    }

    /// Asks for more; returns what of it the kernel does not offer.
    pub fn want(&mut self, flags: InitFlags) -> InitFlags {
        self.wanted |= flags & self.offered;
        flags - self.offered
    }

    /// Takes a wish back, a default one too.
    pub fn refuse(&mut self, flags: InitFlags) {
        self.wanted -= flags;
    }

    /// Limits read-ahead to so many bytes; 0 turns it off.
    pub fn limit_readahead(&mut self, bytes: u32) {
        self.max_readahead = self.max_readahead.min(bytes);
    }

    /// Sets how many requests nobody waits for may be under way, read-ahead among them.
    pub const fn set_max_background(&mut self, requests: u16) {
        self.max_background = requests;
    }

    /// Returns the most bytes that one write carries.
    #[must_use]
    pub const fn max_write(&self) -> u32 {
        self.max_write
    }

    /// Returns whether the kernel can let all cached names expire at once.
    #[must_use]
    pub const fn has_inc_epoch(&self) -> bool {
        self.minor >= abi::MINOR_INC_EPOCH
    }

    /// Returns whether the kernel can be asked to forget unused inodes.
    #[must_use]
    pub const fn has_prune(&self) -> bool {
        self.minor >= abi::MINOR_PRUNE
    }

    pub(crate) fn new(init: &Init, max_write: u32) -> Self {
        let offered = InitFlags::from_bits_truncate(init.flags);
        Self {
            minor: init.minor.min(MINOR_OURS),
            offered,
            wanted: InitFlags::DEFAULT & offered,
            max_readahead: init.max_readahead,
            max_background: MAX_BACKGROUND,
            max_write,
        }
    }

    /// Puts the choice into the kernel's words.
    pub(crate) fn to_abi(&self) -> abi::fuse_init_out {
        let mut bits = self.wanted.bits();
        if bits >> 32 != 0 {
            // Without this marker the kernel ignores the second word.
            bits |= u64::from(abi::FUSE_INIT_EXT);
        }
        let pages = self.max_write.div_ceil(PAGE_SIZE);
        abi::fuse_init_out {
            major: abi::FUSE_KERNEL_VERSION,
            minor: self.minor,
            max_readahead: self.max_readahead,
            // The two halves of a u64.
            flags: (bits & u64::from(u32::MAX)) as u32,
            flags2: (bits >> 32) as u32,
            max_background: self.max_background,
            // The kernel's own proportion.
            congestion_threshold: self.max_background / 4 * 3,
            max_write: self.max_write,
            // Times are kept to the nanosecond.
            time_gran: 1,
            max_pages: u16::try_from(pages).unwrap_or(u16::MAX),
            ..Default::default()
        }
    }
}

/// The minor version that this library knows; a newer kernel falls back to it.
pub(crate) const MINOR_OURS: u32 = 45;

/// The oldest minor version that is served, Linux 5.4: from it on the layouts
/// of all structs used here are the same.
pub(crate) const MINOR_MIN: u32 = 31;

/// The kernel's own default for the requests that nobody waits for.
const MAX_BACKGROUND: u16 = 12;

/// The unit of `max_pages`; larger pages only make the limit roomier.
const PAGE_SIZE: u32 = 4096;

bitflags! {
    /// Abilities that kernel and server agree on.
    ///
    /// Those that would need more than this library serves are left out.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct InitFlags: u64 {
        /// Several reads of one open file may be under way.
        const ASYNC_READ = abi::FUSE_ASYNC_READ as u64;
        /// open(2) truncates, without a setattr.
        const ATOMIC_O_TRUNC = abi::FUSE_ATOMIC_O_TRUNC as u64;
        /// lookup answers for `.` and `..`, so that NFS can export the mount.
        const EXPORT_SUPPORT = abi::FUSE_EXPORT_SUPPORT as u64;
        /// Writes may be larger than a page.
        const BIG_WRITES = abi::FUSE_BIG_WRITES as u64;
        /// The server applies the umask.
        const DONT_MASK = abi::FUSE_DONT_MASK as u64;
        /// ioctl(2) works on directories.
        const HAS_IOCTL_DIR = abi::FUSE_HAS_IOCTL_DIR as u64;
        /// Cached pages go when size or modification time change.
        const AUTO_INVAL_DATA = abi::FUSE_AUTO_INVAL_DATA as u64;
        /// The kernel may send readdirplus.
        const DO_READDIRPLUS = abi::FUSE_DO_READDIRPLUS as u64;
        /// The kernel sends readdirplus only where it seems to pay.
        const READDIRPLUS_AUTO = abi::FUSE_READDIRPLUS_AUTO as u64;
        /// Asynchronous direct I/O is sent as such.
        const ASYNC_DIO = abi::FUSE_ASYNC_DIO as u64;
        /// Writes end in the page cache.
        const WRITEBACK_CACHE = abi::FUSE_WRITEBACK_CACHE as u64;
        /// open may be answered `ENOSYS`.
        const NO_OPEN_SUPPORT = abi::FUSE_NO_OPEN_SUPPORT as u64;
        /// lookup and readdir of one directory run side by side.
        const PARALLEL_DIROPS = abi::FUSE_PARALLEL_DIROPS as u64;
        /// Requests may have more than 32 pages.
        const MAX_PAGES = abi::FUSE_MAX_PAGES as u64;
        /// Targets of symbolic links are cached.
        const CACHE_SYMLINKS = abi::FUSE_CACHE_SYMLINKS as u64;
        /// opendir may be answered `ENOSYS`.
        const NO_OPENDIR_SUPPORT = abi::FUSE_NO_OPENDIR_SUPPORT as u64;
        /// Cached pages go only when told so.
        const EXPLICIT_INVAL_DATA = abi::FUSE_EXPLICIT_INVAL_DATA as u64;
        /// Names can be made to expire without being dropped.
        const HAS_EXPIRE_ONLY = abi::FUSE_HAS_EXPIRE_ONLY;
        /// Files with `DIRECT_IO` can be mapped shared.
        const DIRECT_IO_ALLOW_MMAP = abi::FUSE_DIRECT_IO_ALLOW_MMAP;
        /// NFS cannot export the mount.
        const NO_EXPORT_SUPPORT = abi::FUSE_NO_EXPORT_SUPPORT;
    }
}

impl InitFlags {
    /// What is asked for unless the filesystem refuses it: it only makes things faster.
    pub const DEFAULT: Self = Self::ASYNC_READ
        .union(Self::BIG_WRITES)
        .union(Self::PARALLEL_DIROPS)
        .union(Self::MAX_PAGES);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(flags: u64) -> KernelConfig {
        let init = Init { major: 7, minor: 99, max_readahead: 4096, flags };
        KernelConfig::new(&init, 131_072)
    }

    #[test]
    fn only_what_both_have_is_asked_for() {
        let mut config = offer(InitFlags::BIG_WRITES.bits() | u64::from(abi::FUSE_POSIX_LOCKS));
        assert_eq!(config.minor(), MINOR_OURS);
        assert_eq!(config.wanted(), InitFlags::BIG_WRITES);
        let missing = config.want(InitFlags::DIRECT_IO_ALLOW_MMAP);
        assert_eq!(missing, InitFlags::DIRECT_IO_ALLOW_MMAP);
        assert_eq!(config.to_abi().flags, abi::FUSE_BIG_WRITES);
        assert_eq!(config.to_abi().flags2, 0);
    }

    #[test]
    fn a_flag_of_the_second_word_brings_its_marker() {
        let mut config = offer(u64::MAX);
        assert!(config.want(InitFlags::DIRECT_IO_ALLOW_MMAP).is_empty());
        let out = config.to_abi();
        assert_ne!(out.flags & abi::FUSE_INIT_EXT, 0);
        assert_eq!(u64::from(out.flags2) << 32, abi::FUSE_DIRECT_IO_ALLOW_MMAP);
        assert_eq!(out.max_pages, 32);
    }
}
