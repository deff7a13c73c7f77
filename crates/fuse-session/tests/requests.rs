//! Requests and replies: what a client sees of the filesystem.

mod common;

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::sync::atomic::Ordering;
use std::thread;

use common::*;

#[test]
fn a_file_is_written_and_read() {
    let Some(mount) = Mount::new() else { return };
    let path = mount.path("data");
    fs::write(&path, b"hello").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"hello");
    let file = OpenOptions::new().read(true).write(true).open(&path);
    let file = file.unwrap();
    file.write_all_at(b"J", 0).unwrap();
    let mut bytes = [0; 3];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"Jel");
    file.set_len(2).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"Je");
}

#[test]
fn a_write_of_a_megabyte_arrives_in_pieces() {
    let Some(mount) = Mount::new() else { return };
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    fs::write(mount.path("data"), &bytes).unwrap();
    assert_eq!(*mount.state.data.lock().unwrap(), bytes);
    assert_eq!(fs::read(mount.path("data")).unwrap(), bytes);
}

#[test]
fn attributes_and_links_are_shown() {
    let Some(mount) = Mount::new() else { return };
    let attr = fs::metadata(mount.path("many")).unwrap();
    assert!(attr.is_dir());
    assert_eq!(attr.permissions().mode() & 0o7777, 0o755);
    assert_eq!(attr.ino(), MANY_ID);
    assert_eq!(fs::read_link(mount.path("link")).unwrap().as_os_str(), "data");
    let missing = fs::metadata(mount.path("missing")).unwrap_err();
    assert_eq!(missing.raw_os_error(), Some(libc::ENOENT));
}

#[test]
fn every_entry_of_a_large_directory_is_listed_once() {
    let Some(mount) = Mount::new() else { return };
    for _ in 0..2 {
        let listed: Vec<_> = fs::read_dir(mount.path("many"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        let distinct: HashSet<_> = listed.iter().collect();
        assert_eq!(listed.len(), MANY as usize);
        assert_eq!(distinct.len(), MANY as usize);
    }
    // The entries of readdirplus serve stat as well.
    let attr = fs::metadata(mount.path("many/entry-4999")).unwrap();
    assert!(attr.is_file());
}

#[test]
fn a_reply_is_answered_by_another_thread() {
    let Some(mount) = Mount::new() else { return };
    let mut text = Vec::new();
    let mut file = File::open(mount.path("later")).unwrap();
    file.read_to_end(&mut text).unwrap();
    assert!(text.starts_with(LATER));
}

#[test]
fn a_parked_read_is_answered_later() {
    let Some(mount) = Mount::new() else { return };
    let path = mount.path("blocked");
    let reader = thread::spawn(move || {
        let mut bytes = [0; 16];
        let len = File::open(path).unwrap().read(&mut bytes).unwrap();
        bytes[..len].to_vec()
    });
    eventually("a parked read", || mount.stats().parked == 1);
    assert_eq!(mount.state.release_blocked(b"go"), 1);
    assert_eq!(reader.join().unwrap(), b"go");
    assert_eq!(mount.stats().parked, 0);
}

#[test]
fn a_thousand_reads_are_parked_without_a_thread_each() {
    let Some(mount) = Mount::new() else { return };
    let readers: Vec<_> = (0..1000)
        .map(|_| {
            let path = mount.path("blocked");
            thread::Builder::new()
                .stack_size(64 * 1024)
                .spawn(move || File::open(path).unwrap().read(&mut [0; 16]).unwrap())
                .unwrap()
        })
        .collect();
    eventually("parked reads", || mount.stats().parked == 1000);
    assert!(mount.stats().threads <= 64);
    fs::metadata(mount.path("many")).unwrap();
    eventually("answers", || {
        mount.state.release_blocked(b"go");
        readers.iter().all(thread::JoinHandle::is_finished)
    });
    assert!(readers.into_iter().all(|reader| reader.join().unwrap() == 2));
    assert_eq!(mount.stats().parked, 0);
}

#[test]
fn nonblocking_is_seen_by_each_read() {
    let Some(mount) = Mount::new() else { return };
    let file =
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(mount.path("blocked"));
    let error = file.unwrap().read(&mut [0; 4]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
}

#[test]
fn a_panic_is_answered_eio_and_the_mount_lives() {
    let Some(mount) = Mount::new() else { return };
    for round in 1..=8 {
        assert_eq!(read_errno(&mount.path("panic")), Some(libc::EIO));
        // The client has its answer before the panic is counted.
        eventually("a counted panic", || mount.stats().panics == round);
    }
    fs::write(mount.path("data"), b"alive").unwrap();
    assert_eq!(fs::read(mount.path("data")).unwrap(), b"alive");
}

#[test]
fn a_dropped_reply_is_answered_eio() {
    let Some(mount) = Mount::new() else { return };
    assert_eq!(read_errno(&mount.path("dropped")), Some(libc::EIO));
    let path = mount.path("blocked");
    let reader = thread::spawn(move || read_errno(&path));
    eventually("a parked read", || mount.stats().parked == 1);
    mount.state.blocked.lock().unwrap().clear();
    assert_eq!(reader.join().unwrap(), Some(libc::EIO));
}

#[test]
fn what_is_not_implemented_has_a_fitting_errno() {
    let Some(mount) = Mount::new() else { return };
    let errno = |result: std::io::Result<()>| result.unwrap_err().raw_os_error().unwrap();
    assert_eq!(errno(fs::create_dir(mount.path("new"))), libc::EPERM);
    assert_eq!(errno(fs::write(mount.path("new"), b"")), libc::EPERM);
    assert_eq!(errno(fs::remove_file(mount.path("data"))), libc::EPERM);
    assert_eq!(errno(fs::remove_dir(mount.path("many"))), libc::EPERM);
    let renamed = fs::rename(mount.path("data"), mount.path("other"));
    assert_eq!(errno(renamed), libc::EPERM);
    // What ENOSYS stands for is success.
    let mut file = OpenOptions::new().write(true).open(mount.path("data"));
    let file = file.as_mut().unwrap();
    file.write_all(b"x").unwrap();
    file.sync_all().unwrap();
    file.sync_data().unwrap();
    assert_eq!(rustix::fs::statvfs(&mount.dir.0).unwrap().f_namemax, 255);
}

#[test]
fn slow_handlers_do_not_keep_out_others_and_the_pool_shrinks_again() {
    let Some(mount) = Mount::new() else { return };
    let at_rest = mount.stats().threads;
    let slow = at_rest * 2 + 6;
    let readers: Vec<_> = (0..slow)
        .map(|_| {
            let path = mount.path("slow");
            thread::spawn(move || fs::read(path).unwrap())
        })
        .collect();
    eventually("slow handlers", || mount.state.gate.waiting() == slow);
    for number in 0..100 {
        fs::metadata(mount.path(&format!("many/entry-{number}"))).unwrap();
    }
    assert!(mount.stats().threads > slow);
    mount.state.gate.open();
    for reader in readers {
        assert!(reader.join().unwrap().is_empty());
    }
    let mut number = 100;
    eventually("fewer threads", || {
        number += 1;
        let _ = fs::metadata(mount.path(&format!("many/missing-{number}")));
        mount.stats().threads == at_rest
    });
}

#[test]
fn the_pool_stops_at_its_cap() {
    let options = options().thread_cap(4.try_into().unwrap());
    let Some(mount) = Mount::with(&options) else {
        return;
    };
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let path = mount.path("slow");
            thread::spawn(move || fs::read(path).unwrap())
        })
        .collect();
    eventually("slow handlers", || mount.state.gate.waiting() == 4);
    assert_eq!(mount.stats().threads, 4);
    mount.state.gate.open();
    for reader in readers {
        reader.join().unwrap();
    }
    assert_eq!(mount.state.destroyed.load(Ordering::SeqCst), 0);
}
