//! The FUSE control filesystem, through which a connection is aborted.

#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, open, openat};
use rustix::io;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// Opens the file that aborts the connection of a filesystem when `1` is written to it.
///
/// The file stays tied to that one connection. If the control filesystem is
/// not mounted where it belongs, a detached mount of it is used, which nobody
/// else sees.
pub(crate) fn abort_file((major, minor): (u32, u32)) -> io::Result<OwnedFd> {
    // The kernel names the connection after its internal device number.
    let name = (major << 20) | minor;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let path = format!("/sys/fs/fuse/connections/{name}/abort");
    open(path, flags, Mode::empty()).or_else(|first| {
        let root = detached_mount().map_err(|_| first)?;
        openat(root, format!("{name}/abort"), flags, Mode::empty())
    })
}

/// Aborts the connection that the file belongs to.
pub(crate) fn abort(file: &OwnedFd) -> io::Result<()> {
    io::retry_on_intr(|| io::write(file, b"1")).map(|_| ())
}

fn detached_mount() -> io::Result<OwnedFd> {
    let context = fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}
