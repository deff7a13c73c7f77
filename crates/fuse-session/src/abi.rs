//! What the kernel's ABI 7.41 to 7.45 has and the `fuse-abi` crate (7.40) has not.

#![forbid(unsafe_code)]

pub(crate) use fuse_abi::linux::*;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Invalidates every cached name at its next use (7.44).
pub(crate) const FUSE_NOTIFY_INC_EPOCH: i32 = 8;
/// Asks the kernel to forget inodes that nothing uses (7.45).
pub(crate) const FUSE_NOTIFY_PRUNE: i32 = 9;

/// The minor version that brought [`FUSE_NOTIFY_INC_EPOCH`].
pub(crate) const MINOR_INC_EPOCH: u32 = 44;
/// The minor version that brought [`FUSE_NOTIFY_PRUNE`].
pub(crate) const MINOR_PRUNE: u32 = 45;

/// Head of a [`FUSE_NOTIFY_PRUNE`] message; `count` node ids follow it.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy, KnownLayout, Immutable, FromBytes, IntoBytes)]
pub(crate) struct fuse_notify_prune_out {
    pub(crate) count: u32,
    pub(crate) padding: u32,
    pub(crate) spare: u64,
}

/// Bytes of `struct fuse_dirent` before the name, which ends unaligned.
pub(crate) const DIRENT_HEAD: usize = 24;
const _: () = assert!(size_of::<fuse_dirent>() == DIRENT_HEAD);
