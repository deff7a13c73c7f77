//! What every part of a tree knows of it: its settings, and how many of its files are open.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::errno::Errno;
use crate::meta::{Clock, Meta, Mode};
use crate::name::Name;
use crate::sync::atomic::AtomicUsize;
use crate::sync::atomic::Ordering::{AcqRel, Relaxed};

/// The size of a page in bytes: the most that sysfs reads or writes at once.
pub const PAGE_SIZE: usize = 4096;

/// Whose manners a tree follows where sysfs and cgroupfs differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manners {
    /// Text of any size; root opens what it likes; files have size 0 and take writes of up to a
    /// page at once (E2BIG beyond).
    Cgroup,
    /// Text is cut off below a page; opening for a direction that the mode or the driver lacks is
    /// EACCES even for root (`KERNFS_ROOT_EXTRA_OPEN_PERM_CHECK`); files have size 4096 and take
    /// the first page of a write.
    Sysfs,
}

/// Bounds on what a tree may grow to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest name in bytes; beyond: ENAMETOOLONG.
    pub name: usize,
    /// The most directories above a node; beyond: ENAMETOOLONG, as for a path over PATH_MAX.
    pub depth: usize,
    /// The longest text of a file in bytes; beyond: ENOMEM, as when `seq_file` finds no buffer.
    pub text: usize,
    /// The most open files at once; beyond: ENFILE.
    pub open_files: usize,
}

impl Limits {
    /// PATH_MAX less the slash for a name, half of PATH_MAX for the depth, since each level takes a
    /// slash and a byte; `KMALLOC_MAX_SIZE` for text; the usual `file-max` order for open files.
    pub const DEFAULT: Self = Self { name: 4095, depth: 2048, text: 4 << 20, open_files: 1 << 20 };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// How much one write(2) may bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteLimit {
    /// That many bytes arrive in one call; more is E2BIG and nothing happens
    /// (`atomic_write_len`).
    Atomic(usize),
    /// The first page arrives, and write(2) tells so (sysfs).
    Page,
}

impl WriteLimit {
    /// Returns how many bytes of a write are to be passed on.
    pub(crate) fn admit(self, len: usize) -> Result<usize, Errno> {
        match self {
            Self::Atomic(limit) if len > limit => Err(Errno::E2BIG),
            Self::Atomic(_) => Ok(len),
            Self::Page => Ok(len.min(PAGE_SIZE)),
        }
    }
}

/// The settings and counters of a tree.
pub(crate) struct Realm {
    pub(crate) manners: Manners,
    pub(crate) limits: Limits,
    pub(crate) user_xattrs: bool,
    pub(crate) clock: Arc<dyn Clock>,
    opens: AtomicUsize,
}

impl Realm {
    pub(crate) fn new(
        manners: Manners,
        limits: Limits,
        user_xattrs: bool,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { manners, limits, user_xattrs, clock, opens: AtomicUsize::new(0) }
    }

    /// Identifies the tree while anybody refers to it.
    #[inline]
    pub(crate) fn id(&self) -> usize {
        &raw const *self as usize
    }

    pub(crate) fn name(&self, name: &[u8]) -> Result<Name, Errno> {
        Name::new(name, self.limits.name)
    }

    /// Holds rendered text to the limits.
    #[inline]
    pub(crate) fn check_text(&self, text: &mut Vec<u8>) -> Result<(), Errno> {
        if self.manners == Manners::Sysfs {
            text.truncate(PAGE_SIZE - 1);
        } else if text.len() > self.limits.text {
            return Err(Errno::ENOMEM);
        }
        Ok(())
    }

    pub(crate) fn count_open(&self) -> Result<(), Errno> {
        if self.opens.fetch_add(1, AcqRel) >= self.limits.open_files {
            self.uncount_open();
            return Err(Errno::ENFILE);
        }
        Ok(())
    }

    pub(crate) fn uncount_open(&self) {
        self.opens.fetch_sub(1, AcqRel);
    }

    pub(crate) fn open_files(&self) -> usize {
        self.opens.load(Relaxed)
    }

    /// Makes the attributes of a node that is born now.
    pub(crate) fn meta(&self, mode: Mode, uid: u32, gid: u32) -> Meta {
        Meta { mode, uid, gid, born: self.clock.now(), rare: None }
    }
}
