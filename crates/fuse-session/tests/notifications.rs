//! Notifications, and that none of them can hold up what it should not.

mod common;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use fuse_session::op::PollEvents;
use fuse_session::{Completed, Errno, InvalRange, completion};
use rustix::event::{PollFd, PollFlags, epoll, poll};
use rustix::mm::{MapFlags, ProtFlags};

/// The server of another test; it does nothing unless started by that.
#[test]
fn daemon() {
    Daemon::run();
}

/// Waits for a notification, but not for ever.
fn wait(completed: &Completed) -> Result<(), Errno> {
    completed.wait(Some(Instant::now() + PATIENCE))
}

#[test]
fn a_sleeper_in_poll_is_woken() {
    let Some(mount) = Mount::new() else { return };
    let file = File::open(mount.path("event")).unwrap();
    let sleeper = thread::spawn(move || {
        let mut fds = [PollFd::from_borrowed_fd(file.as_fd(), PollFlags::PRI)];
        poll(&mut fds, None).unwrap();
        fds[0].revents()
    });
    eventually("a poll handle", || !mount.state.poll_handles.lock().unwrap().is_empty());
    let ready = PollEvents::PRI | PollEvents::ERR;
    mount.state.events.store(ready.bits(), Ordering::SeqCst);
    for &kh in &*mount.state.poll_handles.lock().unwrap() {
        mount.notifier().poll(kh, ());
    }
    assert_eq!(sleeper.join().unwrap(), PollFlags::PRI | PollFlags::ERR);
}

#[test]
fn an_edge_triggered_epoll_is_woken_by_each_notification() {
    let Some(mount) = Mount::new() else { return };
    let file = File::open(mount.path("event")).unwrap();
    let set = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let wanted = epoll::EventFlags::PRI | epoll::EventFlags::ET;
    epoll::add(&set, &file, epoll::EventData::new_u64(1), wanted).unwrap();
    let ready = PollEvents::PRI | PollEvents::ERR;
    mount.state.events.store(ready.bits(), Ordering::SeqCst);
    for _ in 0..3 {
        for &kh in &*mount.state.poll_handles.lock().unwrap() {
            mount.notifier().poll(kh, ());
        }
        let mut events = Vec::with_capacity(4);
        epoll::wait(&set, rustix::buffer::spare_capacity(&mut events), None).unwrap();
        assert_eq!(events.len(), 1);
    }
}

#[test]
fn a_poll_handle_that_is_gone_is_no_error() {
    let Some(mount) = Mount::new() else { return };
    let (done, completed) = completion();
    mount.notifier().poll(12345, done);
    assert_eq!(wait(&completed), Ok(()));
}

#[test]
fn cached_pages_are_dropped() {
    let Some(mount) = Mount::new() else { return };
    *mount.state.cached.lock().unwrap() = b"old".to_vec();
    let file = File::open(mount.path("cached")).unwrap();
    let read = || {
        let mut bytes = [0; 3];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    };
    assert_eq!(&read(), b"old");
    *mount.state.cached.lock().unwrap() = b"new".to_vec();
    assert_eq!(&read(), b"old");
    let (done, completed) = completion();
    mount.notifier().inval_inode(CACHED, InvalRange::All, done);
    assert_eq!(wait(&completed), Ok(()));
    assert_eq!(&read(), b"new");
}

#[test]
fn bytes_are_stored_in_and_retrieved_from_the_page_cache() {
    let Some(mount) = Mount::new() else { return };
    *mount.state.cached.lock().unwrap() = b"old".to_vec();
    let file = File::open(mount.path("cached")).unwrap();
    let mut bytes = [0; 3];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let reads = mount.state.cached_reads.load(Ordering::SeqCst);
    let (done, completed) = completion();
    mount.notifier().store(CACHED, 0, b"new", done);
    assert_eq!(wait(&completed), Ok(()));
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"new");
    assert_eq!(mount.state.cached_reads.load(Ordering::SeqCst), reads);

    let (sender, receiver) = mpsc::channel();
    mount.notifier().retrieve(CACHED, 0, 3, move |offset, data| {
        sender.send((offset, data.to_vec())).unwrap();
    });
    let retrieved = receiver.recv_timeout(PATIENCE).unwrap();
    assert_eq!(retrieved, (0, b"new".to_vec()));
}

#[test]
fn data_that_is_not_there_is_never_retrieved() {
    let Some(mount) = Mount::new() else { return };
    let (sender, receiver) = mpsc::channel::<()>();
    mount.notifier().retrieve(999_999, 0, 3, move |_, _| {
        sender.send(()).unwrap();
    });
    // The callback is dropped, and with it the sender.
    assert_eq!(receiver.recv_timeout(PATIENCE), Err(mpsc::RecvTimeoutError::Disconnected));
}

/// Removes the name `data` on the server's side, tells by `tell`, and looks for it.
fn removal(tell: impl FnOnce(&Mount, fuse_session::Signal)) {
    let Some(mount) = Mount::new() else { return };
    let path = mount.path("data");
    fs::metadata(&path).unwrap();
    mount.state.removed.lock().unwrap().insert("data".into());
    fs::metadata(&path).expect("the name is cached");
    let (done, completed) = completion();
    tell(&mount, done);
    match wait(&completed) {
        Err(Errno::EOPNOTSUPP) => println!("skipped: the kernel is too old"),
        result => {
            assert_eq!(result, Ok(()));
            let error = fs::metadata(&path).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
        }
    }
}

#[test]
fn a_name_is_dropped() {
    removal(|mount, done| mount.notifier().inval_entry(ROOT, OsStr::new("data"), done));
}

#[test]
fn a_name_expires() {
    removal(|mount, done| mount.notifier().expire_entry(ROOT, OsStr::new("data"), done));
}

#[test]
fn a_name_is_deleted() {
    removal(|mount, done| mount.notifier().delete(ROOT, DATA, OsStr::new("data"), done));
}

#[test]
fn all_names_expire_with_the_epoch() {
    removal(|mount, done| mount.notifier().inc_epoch(done));
}

#[test]
fn unknown_inodes_and_names_are_enoent() {
    let Some(mount) = Mount::new() else { return };
    let notifier = mount.notifier();
    let sent: [Box<dyn Fn(fuse_session::Signal)>; 3] = [
        Box::new(|done| notifier.inval_inode(999, InvalRange::All, done)),
        Box::new(|done| notifier.inval_entry(ROOT, OsStr::new("unseen"), done)),
        Box::new(|done| notifier.store(999, 0, b"x", done)),
    ];
    for send in sent {
        let (done, completed) = completion();
        send(done);
        assert_eq!(wait(&completed), Err(Errno::ENOENT));
    }
}

#[test]
fn unused_inodes_are_pruned() {
    let Some(mount) = Mount::new() else { return };
    fs::metadata(mount.path("data")).unwrap();
    let (done, completed) = completion();
    mount.notifier().prune(&[DATA, LATER_ID], done);
    match wait(&completed) {
        Err(Errno::EOPNOTSUPP) => println!("skipped: the kernel is too old"),
        result => assert_eq!(result, Ok(())),
    }
}

#[test]
fn a_lane_keeps_the_order() {
    let Some(mount) = Mount::new() else { return };
    fs::metadata(mount.path("data")).unwrap();
    let (sender, receiver) = mpsc::channel();
    for number in 0..1000 {
        let sender = sender.clone();
        let done = move |result: Result<(), Errno>| sender.send((number, result)).unwrap();
        mount.notifier().inval_inode(DATA, InvalRange::Attributes, done);
    }
    for number in 0..1000 {
        assert_eq!(receiver.recv_timeout(PATIENCE), Ok((number, Ok(()))));
    }
}

#[test]
fn a_completion_that_panics_does_not_end_its_lane() {
    let Some(mount) = Mount::new() else { return };
    fs::metadata(mount.path("data")).unwrap();
    mount.notifier().inval_inode(DATA, InvalRange::Attributes, |_| panic!("as the test wants it"));
    let (done, completed) = completion();
    mount.notifier().inval_inode(DATA, InvalRange::Attributes, done);
    assert_eq!(wait(&completed), Ok(()));
    // Nor does it come out where there is no lane.
    mount.notifier().poll(1, |_| panic!("as the test wants it"));
}

/// Stops a client inside getdents(2), with the lock of the directory held: its
/// buffer is a mapping of `blocked`, whose page does not come.
#[test]
fn a_client_that_is_stopped_in_its_own_memory_holds_up_one_lane_only() {
    let Some(mut mount) = Mount::new() else { return };
    fs::metadata(mount.path("data")).unwrap();
    let directory = File::open(&mount.dir.0).unwrap();
    let memory = File::open(mount.path("blocked")).unwrap();
    let client = thread::spawn(move || list_into_mapping(&directory, &memory));
    eventually("a parked read", || mount.stats().parked == 1);

    let notifier = mount.notifier();
    let (done, stuck) = completion();
    notifier.inval_entry(ROOT, OsStr::new("data"), done);
    let (done, deleted) = completion();
    notifier.delete(ROOT, LATER_ID, OsStr::new("later"), done);

    // What a removal has to wait for is on other lanes.
    let (done, completed) = completion();
    notifier.inval_inode(DATA, InvalRange::All, done);
    assert_eq!(wait(&completed), Ok(()));
    let (done, completed) = completion();
    notifier.poll(1, done);
    assert_eq!(wait(&completed), Ok(()));
    let (done, completed) = completion();
    notifier.inc_epoch(done);
    assert!(matches!(wait(&completed), Ok(()) | Err(Errno::EOPNOTSUPP)));
    assert_eq!(stuck.wait(Some(Instant::now())), Err(Errno::ETIMEDOUT));

    assert_eq!(mount.state.release_blocked(&[0; 4096]), 1);
    assert!(client.join().unwrap() > 0);
    assert_eq!(wait(&stuck), Ok(()));
    assert!(matches!(wait(&deleted), Ok(()) | Err(Errno::ENOENT)));
    mount.session.take().unwrap().unmount().unwrap();
}

/// Unmounts while a notification is stuck.
#[test]
fn a_stuck_notification_does_not_hold_up_the_unmount() {
    let Some(mut mount) = Mount::new() else { return };
    fs::metadata(mount.path("data")).unwrap();
    let directory = File::open(&mount.dir.0).unwrap();
    let memory = File::open(mount.path("blocked")).unwrap();
    let client = thread::spawn(move || list_into_mapping(&directory, &memory));
    eventually("a parked read", || mount.stats().parked == 1);
    let (done, stuck) = completion();
    mount.notifier().inval_entry(ROOT, OsStr::new("data"), done);
    mount.session.take().unwrap().unmount().unwrap();
    assert!(wait(&stuck).is_ok() || wait(&stuck) == Err(Errno::ENOTCONN));
    // The abort ended the read, so that the client got EFAULT.
    assert_eq!(client.join().unwrap(), -1);
}

/// Kills a server whose lane is stuck: that thread keeps `/dev/fuse` open, so
/// that only the watchdog can end what waits for what.
#[test]
fn the_watchdog_frees_the_clients_of_a_killed_server_with_a_stuck_notification() {
    if !can_mount() {
        return;
    }
    let dir = TempDir::new();
    let mut daemon = Daemon::start(&dir.0, Some(Duration::from_millis(500)));
    let data = File::options().write(true).open(dir.0.join("data")).unwrap();
    let directory = File::open(&dir.0).unwrap();
    let memory = File::open(dir.0.join("blocked")).unwrap();
    let client = thread::spawn(move || list_into_mapping(&directory, &memory));
    let read_is_parked = || fs::read_to_string(waiting_file(&dir.0)).unwrap().trim() != "0";
    match fs::exists(waiting_file(&dir.0)) {
        Ok(true) => eventually("a waiting read", read_is_parked),
        // Without the control filesystem, nothing shows it from outside.
        _ => thread::sleep(Duration::from_millis(200)),
    }
    data.write_at(INVALIDATE, 0).unwrap();
    eventually("a stuck notification", || {
        let tasks = fs::read_dir(format!("/proc/{}/task", daemon.0.id())).unwrap();
        tasks.flatten().any(|task| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.contains("(fuse-entry) D")
        })
    });
    daemon.0.kill().unwrap();
    assert_eq!(client.join().unwrap(), -1);
    wait_for(&mut daemon.0);
    drop(data);
    let errno = fs::metadata(&dir.0).unwrap_err().raw_os_error();
    assert_eq!(errno, Some(libc::ENOTCONN));
    rustix::mount::unmount(&dir.0, rustix::mount::UnmountFlags::DETACH).unwrap();
}

/// Names the file that counts the requests of the mount at a path.
fn waiting_file(path: &Path) -> String {
    let flags = rustix::fs::AtFlags::STATX_DONT_SYNC;
    let mask = rustix::fs::StatxFlags::TYPE;
    let found = rustix::fs::statx(rustix::fs::CWD, path, flags, mask).unwrap();
    let number = found.stx_dev_minor;
    format!("/sys/fs/fuse/connections/{number}/waiting")
}

/// Lists a directory into a private mapping of a file; returns what getdents64 does.
fn list_into_mapping(directory: &File, memory: &File) -> libc::c_long {
    const LEN: usize = 4096;
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice, which
    // nothing in this process points to.
    let mapping = unsafe {
        rustix::mm::mmap(std::ptr::null_mut(), LEN, protection, MapFlags::PRIVATE, memory, 0)
    };
    let mapping = mapping.unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(directory);
    // SAFETY: the mapping has LEN bytes and is not used otherwise. Only the
    // kernel touches it, so that a page that cannot be had is EFAULT, not SIGBUS.
    unsafe {
        let listed = libc::syscall(libc::SYS_getdents64, fd, mapping, LEN);
        rustix::mm::munmap(mapping, LEN).unwrap();
        listed
    }
}

#[test]
fn reading_after_many_notifications_still_works() {
    let Some(mount) = Mount::new() else { return };
    *mount.state.cached.lock().unwrap() = b"text".to_vec();
    let mut file = File::open(mount.path("cached")).unwrap();
    for _ in 0..10_000 {
        mount.notifier().inval_inode(CACHED, InvalRange::All, ());
        mount.notifier().inval_inode(CACHED, InvalRange::Attributes, ());
    }
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "text");
}
