//! Mounting and unmounting, and the end of a server.

mod common;

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use common::*;
use fuse_session::{
    Errno, Filesystem, KernelConfig, MountError, MountMethod, MountOptions, ReplyAttr, ReplyEntry,
    Request, Session, UnmountError, op,
};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::Signal;

/// The server of the other tests; it does nothing unless started by one of them.
#[test]
fn daemon() {
    Daemon::run();
}

#[test]
fn unmount_ends_everything() {
    let Some(mut mount) = Mount::new() else {
        return;
    };
    assert_eq!(mounts_at(&mount.dir.0), ["fuse.sessiontest"]);
    let session = mount.session.take().unwrap();
    session.unmount().unwrap();
    assert_eq!(mount.state.destroyed.load(Ordering::SeqCst), 1);
    assert!(mounts_at(&mount.dir.0).is_empty());
}

#[test]
fn a_busy_mount_is_unmounted_and_its_descriptors_are_dead() {
    let Some(mut mount) = Mount::new() else {
        return;
    };
    let mut file = File::open(mount.path("data")).unwrap();
    let path = mount.path("blocked");
    let reader = thread::spawn(move || read_errno(&path));
    eventually("a parked read", || mount.stats().parked == 1);
    mount.session.take().unwrap().unmount().unwrap();
    assert_eq!(reader.join().unwrap(), Some(libc::ECONNABORTED));
    let error = file.read(&mut [0; 4]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN));
    assert!(mounts_at(&mount.dir.0).is_empty());
    assert_eq!(mount.state.destroyed.load(Ordering::SeqCst), 1);
}

#[test]
fn an_aborted_connection_is_dead_and_its_mount_goes_with_the_session() {
    let Some(mut mount) = Mount::new() else {
        return;
    };
    let path = mount.path("blocked");
    let reader = thread::spawn(move || read_errno(&path));
    eventually("a parked read", || mount.stats().parked == 1);
    mount.session().abort().unwrap();
    assert_eq!(reader.join().unwrap(), Some(libc::ECONNABORTED));
    assert_eq!(stat_errno(&mount.dir.0), Some(libc::ENOTCONN));
    mount.session().wait();
    mount.session().abort().unwrap();
    drop(mount.session.take());
    assert!(mounts_at(&mount.dir.0).is_empty());
}

#[test]
fn a_detached_mount_serves_until_its_last_descriptor_is_closed() {
    let Some(mut mount) = Mount::new() else {
        return;
    };
    fs::write(mount.path("data"), b"still here").unwrap();
    let mut file = File::open(mount.path("data")).unwrap();
    let session = mount.session.take().unwrap();
    session.detach().unwrap();
    assert!(mounts_at(&mount.dir.0).is_empty());
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "still here");
    assert!(!session.wait_timeout(Duration::ZERO));
    drop(file);
    session.wait();
    assert_eq!(mount.state.destroyed.load(Ordering::SeqCst), 1);
}

#[test]
fn a_copy_of_the_mount_in_another_namespace_does_not_hold_up_the_unmount() {
    let Some(mut mount) = Mount::new() else {
        return;
    };
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sleep", "600"]);
    let Ok(mut other) = command.spawn() else {
        return println!("skipped: there is no unshare(1)");
    };
    let name = || fs::read_to_string(format!("/proc/{}/comm", other.id())).unwrap();
    eventually("another mount namespace", || name().trim() == "sleep");
    mount.session.take().unwrap().unmount().unwrap();
    let copy = format!("/proc/{}/root{}", other.id(), mount.dir.0.display());
    assert_eq!(stat_errno(Path::new(&copy)), Some(libc::ENOTCONN));
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn dropping_a_session_that_was_unmounted_from_outside_leaves_what_is_there_now() {
    let Some(mut mount) = Mount::new() else {
        return;
    };
    unmount(&mount.dir.0, UnmountFlags::empty()).unwrap();
    mount_tmpfs(&mount.dir.0);
    let session = mount.session.take().unwrap();
    session.wait();
    drop(session);
    assert_eq!(mounts_at(&mount.dir.0), ["tmpfs"]);
    unmount(&mount.dir.0, UnmountFlags::empty()).unwrap();
}

#[test]
fn a_filesystem_that_covers_the_mount_is_left_alone() {
    let Some(mut mount) = Mount::new() else {
        return;
    };
    mount_tmpfs(&mount.dir.0);
    let result = mount.session.take().unwrap().unmount();
    assert!(matches!(result, Err(UnmountError::NotOurs { .. })));
    assert_eq!(
        mounts_at(&mount.dir.0),
        ["fuse.sessiontest", "tmpfs"],
        "the one below is dead, since its connection was aborted"
    );
    unmount(&mount.dir.0, UnmountFlags::empty()).unwrap();
    let error = fs::metadata(&mount.dir.0).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN));
    unmount(&mount.dir.0, UnmountFlags::empty()).unwrap();
}

#[test]
fn a_reply_that_outlives_the_session_goes_nowhere() {
    let Some(mut mount) = Mount::new() else {
        return;
    };
    let path = mount.path("blocked");
    let reader = thread::spawn(move || read_errno(&path));
    eventually("a parked read", || mount.stats().parked == 1);
    let notifier = mount.notifier();
    drop(mount.session.take());
    reader.join().unwrap();
    assert_eq!(mount.state.release_blocked(b"too late"), 0);
    let (done, completed) = fuse_session::completion();
    notifier.poll(1, done);
    assert_eq!(completed.wait(None), Err(Errno::ENOTCONN));
}

#[test]
fn a_mount_point_must_be_an_unused_directory() {
    let Some(mount) = Mount::new() else { return };
    let again = Session::mount(TestFs(Arc::default()), &mount.dir.0, &options());
    assert!(
        matches!(again, Err(MountError::Occupied { found, .. }) if found == "fuse.sessiontest")
    );
    let missing = mount.dir.0.with_extension("missing");
    let missing = Session::mount(TestFs(Arc::default()), missing, &options());
    assert!(matches!(missing, Err(MountError::MountPoint { .. })));
    let file = Session::mount(TestFs(Arc::default()), "/proc/version", &options());
    assert!(matches!(file, Err(MountError::MountPoint { source, .. })
        if source.raw_os_error() == Some(libc::ENOTDIR)));
}

#[test]
fn a_mount_over_another_one_must_be_asked_for() {
    if !can_mount() {
        return;
    }
    let dir = TempDir::new();
    mount_tmpfs(&dir.0);
    let session = Session::mount(TestFs(Arc::default()), &dir.0, &options().over_mount()).unwrap();
    assert_eq!(mounts_at(&dir.0), ["tmpfs", "fuse.sessiontest"]);
    drop(session);
    assert_eq!(mounts_at(&dir.0), ["tmpfs"]);
    unmount(&dir.0, UnmountFlags::empty()).unwrap();
}

#[test]
fn a_filesystem_may_refuse_the_mount() {
    struct Refuses;
    impl Filesystem for Refuses {
        fn init(&self, _: &mut KernelConfig) -> Result<(), Errno> {
            Err(Errno::EOPNOTSUPP)
        }
        fn lookup(&self, _: &Request, _: &std::ffi::OsStr, reply: ReplyEntry) {
            reply.error(Errno::ENOENT);
        }
        fn getattr(&self, _: &Request, _: op::GetAttr, reply: ReplyAttr) {
            reply.error(Errno::EIO);
        }
    }
    if !can_mount() {
        return;
    }
    let dir = TempDir::new();
    let result = Session::mount(Refuses, &dir.0, &options());
    assert!(matches!(result, Err(MountError::Refused(Errno::EOPNOTSUPP))));
    assert!(mounts_at(&dir.0).is_empty());
}

#[test]
fn a_killed_server_leaves_a_dead_mount_that_is_recovered() {
    if !can_mount() {
        return;
    }
    let dir = TempDir::new();
    let mut daemon = Daemon::start(&dir.0, None);
    fs::metadata(dir.0.join("data")).unwrap();
    kill(&mut daemon);
    eventually("a dead mount", || stat_errno(&dir.0) == Some(libc::ENOTCONN));

    let refused = Session::mount(TestFs(Arc::default()), &dir.0, &options());
    assert!(matches!(refused, Err(MountError::DeadMount { .. })));
    let other = MountOptions::new("other").recover();
    let refused = Session::mount(TestFs(Arc::default()), &dir.0, &other);
    assert!(
        matches!(refused, Err(MountError::DeadMount { found, .. }) if found == "fuse.sessiontest")
    );

    let session = Session::mount(TestFs(Arc::default()), &dir.0, &options().recover()).unwrap();
    assert!(session.recovered());
    fs::metadata(dir.0.join("data")).unwrap();
    drop(session);
    assert!(mounts_at(&dir.0).is_empty());
}

#[test]
fn a_living_mount_is_not_recovered() {
    if !can_mount() {
        return;
    }
    let dir = TempDir::new();
    mount_tmpfs(&dir.0);
    let refused = Session::mount(TestFs(Arc::default()), &dir.0, &options().recover());
    assert!(matches!(refused, Err(MountError::Occupied { found, .. }) if found == "tmpfs"));
    assert_eq!(mounts_at(&dir.0), ["tmpfs"]);
    unmount(&dir.0, UnmountFlags::empty()).unwrap();
}

#[test]
fn a_waiting_client_of_a_killed_server_is_let_go() {
    if !can_mount() {
        return;
    }
    let dir = TempDir::new();
    let mut daemon = Daemon::start(&dir.0, Some(PATIENCE));
    let path = dir.0.join("blocked");
    let file = File::open(dir.0.join("event")).unwrap();
    let reader = thread::spawn(move || read_errno(&path));
    kill(&mut daemon);
    assert!(matches!(reader.join().unwrap(), Some(libc::ECONNABORTED | libc::ENOTCONN)));
    let mut fds = [PollFd::from_borrowed_fd(file.as_fd(), PollFlags::IN)];
    poll(&mut fds, None).unwrap();
    assert_eq!(fds[0].revents(), PollFlags::ERR);
    drop(file);
    unmount(&dir.0, UnmountFlags::DETACH).unwrap();
}

#[test]
fn the_watchdog_aborts_the_connection_of_a_stopped_server() {
    if !can_mount() {
        return;
    }
    let dir = TempDir::new();
    let daemon = Daemon::start(&dir.0, Some(Duration::from_millis(500)));
    let path = dir.0.join("blocked");
    let reader = thread::spawn(move || read_errno(&path));
    fs::metadata(dir.0.join("data")).unwrap();
    signal(daemon.0.id(), Signal::STOP);
    // Its descriptor of /dev/fuse is still open, so that only an abort ends this.
    assert!(matches!(reader.join().unwrap(), Some(libc::ECONNABORTED | libc::ENOTCONN)));
    assert_eq!(stat_errno(&dir.0), Some(libc::ENOTCONN));
    drop(daemon);
    unmount(&dir.0, UnmountFlags::DETACH).unwrap();
}

#[test]
fn the_watchdog_aborts_when_no_thread_is_left_to_serve() {
    let options = options()
        .thread_cap(2.try_into().unwrap())
        .threads(2.try_into().unwrap())
        .watchdog(Duration::from_millis(500));
    let Some(mut mount) = Mount::with(&options) else {
        return;
    };
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let path = mount.path("slow");
            thread::spawn(move || read_errno(&path))
        })
        .collect();
    for reader in readers {
        assert_eq!(reader.join().unwrap(), Some(libc::ECONNABORTED));
    }
    mount.state.gate.open();
    let session = mount.session.take().unwrap();
    session.wait();
    assert_eq!(mounts_at(&mount.dir.0), ["fuse.sessiontest"]);
    session.unmount().unwrap();
    assert!(mounts_at(&mount.dir.0).is_empty());
}

#[test]
fn the_watchdog_of_a_living_server_keeps_quiet_and_leaves_with_it() {
    let options = options().watchdog(Duration::from_millis(400));
    let Some(mut mount) = Mount::with(&options) else {
        return;
    };
    let watchdogs = children_named("fuse-watchdog");
    assert!(!watchdogs.is_empty());
    for pid in &watchdogs {
        // Its end of the socket and the abort file, and nothing else.
        let open = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        assert!(open <= 2, "{open} descriptors are open");
    }
    thread::sleep(Duration::from_millis(1500));
    fs::metadata(mount.path("many")).unwrap();
    drop(mount.session.take());
    assert!(mounts_at(&mount.dir.0).is_empty());
    let left = children_named("fuse-watchdog");
    assert!(watchdogs.iter().any(|pid| !left.contains(pid)));
}

#[test]
fn fusermount_mounts_and_the_session_ends_as_usual() {
    if Command::new("fusermount3").arg("-V").output().is_err() {
        println!("skipped: there is no fusermount3");
        return;
    }
    let dir = TempDir::new();
    let options = options().method(MountMethod::Fusermount);
    let session = match Session::mount(TestFs(Arc::default()), &dir.0, &options) {
        Ok(session) => session,
        Err(error) => return println!("skipped: {error}"),
    };
    assert_eq!(mounts_at(&dir.0), ["fuse.sessiontest"]);
    fs::write(dir.0.join("data"), b"hello").unwrap();
    drop(session);
    assert!(mounts_at(&dir.0).is_empty());
}

#[test]
fn a_relative_path_and_a_symbolic_link_lead_to_the_mount_point() {
    if !can_mount() {
        return;
    }
    let dir = TempDir::new();
    let link = dir.0.with_extension("link");
    std::os::unix::fs::symlink(&dir.0, &link).unwrap();
    let session = Session::mount(TestFs(Arc::default()), &link, &options());
    fs::remove_file(&link).unwrap();
    let session = session.unwrap();
    assert_eq!(session.path(), dir.0);
    drop(session);
    assert!(mounts_at(&dir.0).is_empty());
}

fn mount_tmpfs(dir: &Path) {
    mount("other", dir, "tmpfs", MountFlags::empty(), None).unwrap();
}

fn stat_errno(path: &Path) -> Option<i32> {
    fs::metadata(path).err().and_then(|error| error.raw_os_error())
}

fn kill(daemon: &mut Daemon) {
    daemon.0.kill().unwrap();
    daemon.0.wait().unwrap();
}

/// Lists the children of this process by name.
fn children_named(name: &str) -> Vec<u32> {
    let own = std::process::id().to_string();
    let processes = fs::read_dir("/proc").unwrap();
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let Some((head, tail)) = stat.rsplit_once(')') else {
                return false;
            };
            head.ends_with(&format!("({name}")) && tail.split(' ').nth(2) == Some(&own)
        })
        .collect()
}
