//! Values of kernfs as FUSE knows them, and back.

use std::time::Duration;

use fuse_session::op::PollEvents;
use fuse_session::{FileAttr, FileKind, op};
use kernfs::{Attr, Errno, Events, NodeKind, OpenFlags, Timestamp, XattrFlags};

/// How long the kernel may keep what it is told to drop: for ever, in effect.
pub(crate) const KEPT: Duration = Duration::from_secs(1 << 30);

pub(crate) fn errno(errno: Errno) -> fuse_session::Errno {
    fuse_session::Errno::from_raw(errno.raw())
}

pub(crate) fn attr(attr: &Attr) -> FileAttr {
    let kind = match attr.kind {
        NodeKind::Dir => S_IFDIR,
        NodeKind::File => S_IFREG,
        NodeKind::Link => S_IFLNK,
    };
    FileAttr {
        ino: attr.ino,
        size: attr.size,
        blocks: 0,
        atime: timestamp(attr.atime),
        mtime: timestamp(attr.mtime),
        ctime: timestamp(attr.ctime),
        mode: kind | u32::from(attr.mode.bits()),
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: BLOCK_SIZE,
    }
}

pub(crate) fn kind(kind: NodeKind) -> FileKind {
    match kind {
        NodeKind::Dir => FileKind::Directory,
        NodeKind::File => FileKind::Regular,
        NodeKind::Link => FileKind::Symlink,
    }
}

pub(crate) fn events(events: Events) -> PollEvents {
    // Both have the bits of Linux.
    PollEvents::from_bits_retain(events.bits())
}

pub(crate) fn interest(events: PollEvents) -> Events {
    Events::from_bits_retain(events.bits())
}

pub(crate) fn open_flags(flags: op::FileFlags) -> OpenFlags {
    let mut open = match flags.access_mode() {
        op::AccessMode::Read => OpenFlags::READ,
        op::AccessMode::Write => OpenFlags::WRITE,
        op::AccessMode::ReadWrite => OpenFlags::READ_WRITE,
    };
    open.set(OpenFlags::NONBLOCK, flags.contains(op::FileFlags::NONBLOCK));
    open
}

pub(crate) fn set_time(time: op::SetTime) -> Timestamp {
    let time = match time {
        op::SetTime::Now => std::time::SystemTime::now().into(),
        op::SetTime::At(time) => time,
    };
    Timestamp { secs: time.seconds, nanos: time.nanoseconds }
}

/// Takes the flags of setxattr(2).
pub(crate) fn xattr_flags(flags: u32) -> XattrFlags {
    match flags {
        1 => XattrFlags::Create,
        2 => XattrFlags::Replace,
        _ => XattrFlags::Any,
    }
}

fn timestamp(time: Timestamp) -> fuse_session::Timestamp {
    fuse_session::Timestamp { seconds: time.secs, nanoseconds: time.nanos }
}

const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;

/// The block size of every kernfs.
pub(crate) const BLOCK_SIZE: u32 = 4096;
