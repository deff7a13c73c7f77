//! The set-user-id program `fusermount3`, for users who may not mount.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
    recvmsg, socketpair,
};

use crate::options::MountOptions;

const PROGRAM: &str = "fusermount3";

/// Mounts at the directory, and returns the device.
pub(crate) fn mount(dir: &Path, options: &MountOptions) -> io::Result<OwnedFd> {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let mut command = Command::new(PROGRAM);
    command
        .arg("-o")
        .arg(mount_options(options))
        .arg("--")
        .arg(dir)
        // The program takes any descriptor. Standard input is the one that can
        // be handed over without it leaking into other children meanwhile.
        .env("_FUSE_COMMFD", "0")
        .stdin(theirs);
    let child = start(command)?;
    let received = receive_fd(&ours);
    finish(child)?;
    received?.ok_or_else(|| io::Error::other("fusermount3 sent no descriptor"))
}

/// Unmounts the directory, at once or when nobody uses it any more.
pub(crate) fn unmount(dir: &Path, lazy: bool) -> io::Result<()> {
    let mut command = Command::new(PROGRAM);
    command.arg("-u");
    if lazy {
        command.arg("-z");
    }
    command.arg("--").arg(dir).stdin(Stdio::null());
    finish(start(command)?)
}

fn mount_options(options: &MountOptions) -> OsString {
    let mut text = format!(
        "fsname={},subtype={},nosuid,nodev",
        escape(&options.fsname),
        escape(&options.subtype)
    );
    let flags = [
        (options.read_only, ",ro"),
        (options.no_exec, ",noexec"),
        (options.allow_other, ",allow_other"),
        (options.default_permissions, ",default_permissions"),
    ];
    for (_, flag) in flags.iter().filter(|(wanted, _)| *wanted) {
        text.push_str(flag);
    }
    if let Some(bytes) = options.max_read {
        text.push_str(&format!(",max_read={bytes}"));
    }
    text.into()
}

/// Escapes what separates options.
fn escape(value: &str) -> String {
    value.replace('\\', r"\\").replace(',', r"\,")
}

/// Starts the program, of which nothing is known but what it complains about.
fn start(mut command: Command) -> io::Result<Child> {
    let started = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    started.map_err(|error| {
        let expected = "it has to be in a directory of PATH, set-user-id root (package fuse3)";
        io::Error::new(error.kind(), format!("{PROGRAM} cannot be started: {error}; {expected}"))
    })
}

/// Receives one descriptor; `None` if the other side closed without sending it.
fn receive_fd(socket: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut data = [IoSliceMut::new(&mut byte)];
    rustix::io::retry_on_intr(|| {
        recvmsg(socket, &mut data, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    Ok(control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    }))
}

/// Reaps the program; what it complained about becomes the error.
fn finish(mut child: Child) -> io::Result<()> {
    let mut complaint = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_string(&mut complaint)?;
    }
    let status = child.wait()?;
    if status.success() {
        Ok(())
    } else {
        let complaint = complaint.trim();
        Err(io::Error::other(format!("{PROGRAM}: {status}: {complaint}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_escaped_and_complete() {
        let options = MountOptions::new("x,suid").fsname(r"a\b").allow_other();
        assert_eq!(
            mount_options(&options),
            r"fsname=a\\b,subtype=x\,suid,nosuid,nodev,allow_other"
        );
    }
}
