//! Listing directories, and giving back what was looked up.

mod support;

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use kernfs::{Mode, Tree};
use rustix::fs::{Mode as FileMode, OFlags, RawDir, SeekFrom};
use rustix::io::Errno;
use support::drivers::Knob;
use support::{Mounted, drop_caches, eventually};

const MANY: usize = 10_000;

fn name(n: usize) -> String {
    format!("child{n}")
}

fn names(path: &Path) -> Vec<OsString> {
    fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

fn open_dir(path: &Path) -> OwnedFd {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, FileMode::empty()).unwrap()
}

/// Reads entries with a buffer of some size: their names and cookies.
fn entries(dir: &OwnedFd, size: usize, max: usize) -> Vec<(String, u64)> {
    let mut buffer = Vec::with_capacity(size);
    let mut raw = RawDir::new(dir, buffer.spare_capacity_mut());
    let mut list = Vec::new();
    while list.len() < max
        && let Some(entry) = raw.next()
    {
        let entry = entry.unwrap();
        list.push((entry.file_name().to_str().unwrap().to_owned(), entry.next_entry_cookie()));
    }
    list
}

#[test]
fn a_listing_tells_names_kinds_and_numbers() {
    let tree = Tree::new();
    let _dir = tree.root().add_dir("dir", Mode::DIR).unwrap();
    let file = tree.root().add_file("file", Mode::RW, Knob::default()).unwrap();
    let _link = tree.root().add_link("link", &file).unwrap();
    let hidden = tree.root().add_file("hidden", Mode::RW, Knob::default()).unwrap();
    hidden.hide().wait().unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let mut seen = HashMap::new();
    for entry in fs::read_dir(mount.path()).unwrap() {
        let entry = entry.unwrap();
        let stat = entry.metadata().unwrap();
        assert_eq!(entry.ino(), stat.ino());
        assert_eq!(entry.file_type().unwrap(), stat.file_type());
        seen.insert(entry.file_name().into_string().unwrap(), stat.file_type());
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
    assert!(seen["dir"].is_dir() && seen["file"].is_file() && seen["link"].is_symlink());
    let all = entries(&open_dir(mount.path()), 4096, usize::MAX);
    assert_eq!(all[..2], [(".".into(), 1), ("..".into(), 2)]);
    assert!(all.is_sorted_by_key(|(_, cookie)| *cookie));
}

#[test]
fn every_child_that_stays_is_listed_once_while_others_come_and_go() {
    let tree = Tree::new();
    let dir = tree.root().add_dir("dir", Mode::DIR).unwrap();
    let mut kept = Vec::new();
    let mut victims = Vec::new();
    for n in 0..MANY {
        let child = dir.add_file(name(n), Mode::RW, Knob::default()).unwrap();
        if n % 2 == 0 { kept.push(child) } else { victims.push(child) }
    }
    let Some(mount) = Mounted::new(&tree) else { return };
    let path = mount.at("dir");
    let stayed: HashSet<OsString> = (0..MANY).step_by(2).map(|n| name(n).into()).collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let lister = |long: bool| {
            let (path, stayed, done) = (&path, &stayed, &done);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let mut seen = HashSet::new();
                    for entry in fs::read_dir(path).unwrap() {
                        let entry = entry.unwrap();
                        if long {
                            let _ = entry.metadata();
                        }
                        let name = entry.file_name();
                        assert!(seen.insert(name.clone()), "{name:?} is listed twice");
                    }
                    let missing = stayed.difference(&seen).next();
                    assert_eq!(missing, None);
                }
            })
        };
        let listers = [lister(false), lister(true)];
        for (n, victim) in victims.into_iter().enumerate() {
            drop(victim);
            let new = dir.add_file(format!("new{n}"), Mode::RW, Knob::default()).unwrap();
            if n % 3 == 0 {
                new.keep();
            }
        }
        done.store(true, Ordering::Relaxed);
        for lister in listers {
            lister.join().unwrap();
        }
    });
    let mut seen = HashSet::new();
    let listed = names(&path);
    assert_eq!(listed.len(), kept.len() + MANY / 2 / 3 + 1);
    assert!(listed.into_iter().all(|name| seen.insert(name)));
}

#[test]
fn a_listing_goes_on_from_any_cookie_whatever_has_gone() {
    let tree = Tree::new();
    let mut children: Vec<_> = (0..1000)
        .map(|n| Some(tree.root().add_file(name(n), Mode::RW, Knob::default()).unwrap()))
        .collect();
    let Some(mount) = Mounted::new(&tree) else { return };
    let dir = open_dir(mount.path());
    let all = entries(&dir, 512, usize::MAX);
    assert_eq!(all.len(), 1002);
    let again = open_dir(mount.path());
    assert_eq!(entries(&again, 1 << 16, usize::MAX), all, "the order does not change");
    for at in [0, 1, 2, 3, 500, 999, 1000] {
        let (_, cookie) = all[at];
        rustix::fs::seek(&dir, SeekFrom::Start(cookie)).unwrap();
        assert_eq!(entries(&dir, 300, 3), all[at + 1..(at + 4).min(1002)]);
    }
    // The one at the cookie goes, and the one after it.
    for at in [10, 500] {
        let (_, cookie) = all[at];
        drop((children[at - 2].take(), children[at - 1].take()));
        rustix::fs::seek(&dir, SeekFrom::Start(cookie)).unwrap();
        assert_eq!(entries(&dir, 300, 3), all[at + 2..at + 5]);
    }
    rustix::fs::seek(&dir, SeekFrom::Start(0)).unwrap();
    assert_eq!(entries(&dir, 4096, usize::MAX).len(), 1002 - 4);
}

#[test]
fn a_directory_that_its_owner_removed_lists_nothing_more() {
    let tree = Tree::new();
    let device = tree.root().add_dir("device", Mode::DIR).unwrap();
    for n in 0..1000 {
        device.add_file(name(n), Mode::RW, Knob::default()).unwrap().keep();
    }
    let Some(mount) = Mounted::new(&tree) else { return };
    let begun = open_dir(&mount.at("device"));
    let first = entries(&begun, 300, 4);
    let fresh = open_dir(&mount.at("device"));
    device.remove().unwrap();
    let rest = entries(&begun, 300, usize::MAX);
    assert!(rest.len() < 300, "what the kernel had fetched before, at most");
    assert_eq!(first.len(), 4);
    let names: Vec<_> = entries(&fresh, 300, 9).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, [".", ".."]);
}

#[test]
fn long_names_are_listed_as_far_as_they_can_be_looked_up() {
    let tree = Tree::new();
    let lengths = [255, 1000, 1024, 1025, 4000];
    for len in lengths {
        let name = "x".repeat(len);
        tree.root().add_file(name, Mode::RW, Knob::default()).unwrap().keep();
    }
    tree.root().add_file("last", Mode::RW, Knob::default()).unwrap().keep();
    let Some(mount) = Mounted::new(&tree) else { return };
    let listed: Vec<_> = names(mount.path()).into_iter().map(|name| name.len()).collect();
    let longest = if support::kernel_is(6, 14) { 4095 } else { 1024 };
    let as_listed = lengths.into_iter().filter(|len| *len <= longest).chain([4]);
    assert_eq!(listed, as_listed.collect::<Vec<_>>());
    let figures = rustix::fs::statvfs(mount.path()).unwrap();
    assert_eq!(figures.f_namemax, longest as u64);
    for len in lengths {
        let stat = rustix::fs::statat(
            open_dir(mount.path()),
            "x".repeat(len),
            rustix::fs::AtFlags::empty(),
        );
        let expected = if len <= longest { None } else { Some(Errno::NAMETOOLONG) };
        assert_eq!(stat.err(), expected, "{len}");
    }
}

#[test]
fn everything_that_was_looked_up_is_given_back() {
    let tree = Tree::new();
    let dir = tree.root().add_dir("dir", Mode::DIR).unwrap();
    for n in 0..1000 {
        dir.add_file(name(n), Mode::RW, Knob::default()).unwrap().keep();
    }
    let Some(mut mount) = Mounted::new(&tree) else { return };
    let path = mount.at("dir");
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let path = &path;
            scope.spawn(move || {
                for round in 0..5 {
                    for entry in fs::read_dir(path).unwrap() {
                        let _ = entry.unwrap().metadata().unwrap();
                    }
                    for n in 0..200 {
                        fs::read(path.join(name(n * (thread + 1)))).unwrap();
                    }
                    // While others look things up.
                    if thread == 0 && round % 2 == 0 {
                        drop_caches();
                    }
                }
            });
        }
    });
    let closed = || mount.stats().handles == 0 && tree.usage().open_files == 0;
    eventually("all to be closed", closed);
    drop_caches();
    eventually("the kernel to forget", || {
        drop_caches();
        mount.stats().nodes == 0
    });
    assert_eq!(mount.stats().lookups, 0);
    // Once more, and gone with the mount.
    assert!(path.join(name(1)).exists());
    assert_ne!(mount.stats().lookups, 0);
    let usage = tree.usage();
    assert_eq!(usage.open_files, 0);
    let mount = mount.take();
    mount.unmount().unwrap();
    assert_eq!(tree.usage(), usage);
}
