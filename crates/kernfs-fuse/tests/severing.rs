//! What is left of a file, and of a directory, once its owner has taken it back.

mod support;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kernfs::{Errno as Kernfs, FileOps, Kind, Mode, OpenOp, Ops, Tree, WriteOp};
use rustix::fs::{AtFlags, Mode as FileMode, OFlags, XattrFlags};
use rustix::io::Errno;
use support::client::{self, Client};
use support::drivers::{Events, Knob};
use support::{Mounted, errno, eventually, ino};

#[test]
fn client() {
    client::serve();
}

/// Asserts that a path leads nowhere, whoever asks.
#[track_caller]
fn assert_gone(path: &Path) {
    assert_eq!(errno(fs::symlink_metadata(path)), Errno::NOENT);
    assert_eq!(errno(File::open(path)), Errno::NOENT);
    assert_eq!(rustix::fs::access(path, rustix::fs::Access::EXISTS), Err(Errno::NOENT));
    let names = fs::read_dir(path.parent().unwrap()).unwrap();
    let name = path.file_name();
    assert!(names.into_iter().all(|entry| Some(&*entry.unwrap().file_name()) != name));
}

fn open(mount: &Mounted, name: &str) -> File {
    OpenOptions::new().read(true).write(true).open(mount.at(name)).unwrap()
}

#[test]
fn a_removed_name_is_gone_at_the_very_next_call() {
    let tree = Tree::new();
    let Some(mount) = Mounted::new(&tree) else { return };
    let path = mount.at("knob");
    type Ask = fn(&Path) -> Result<(), Errno>;
    let asks: [Ask; 4] = [
        |path| rustix::fs::lstat(path).map(drop),
        |path| rustix::fs::open(path, OFlags::RDONLY, FileMode::empty()).map(drop),
        |path| rustix::fs::access(path, rustix::fs::Access::EXISTS),
        |path| {
            let parent = fs::read_dir(path.parent().unwrap()).unwrap();
            let mut names = parent.map(|entry| entry.unwrap().path());
            names.any(|name| name == path).then_some(()).ok_or(Errno::NOENT)
        },
    ];
    let mut last = 0;
    for round in 0..200 {
        let knob = tree.root().add_file("knob", Mode::RW, Knob::new("text")).unwrap();
        let ask = asks[round % asks.len()];
        assert_eq!(ask(&path), Ok(()));
        let number = ino(&path);
        assert!(number > last, "inode numbers are never used again");
        last = number;
        let _ = knob.remove().unwrap();
        assert_eq!(ask(&path), Err(Errno::NOENT), "round {round}");
    }
    assert_gone(&path);
}

#[test]
fn descriptors_die_and_stay_dead_when_the_name_comes_back() {
    let tree = Tree::new();
    let knob = tree.root().add_file("knob", Mode::RW, Knob::new("text")).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let files: Vec<_> = (0..50).map(|_| open(&mount, "knob")).collect();
    let idle = File::open(mount.at("knob")).unwrap();
    let before = ino(&mount.at("knob"));
    let knob = knob.remove().unwrap();
    assert_eq!(knob.releases.into_inner(), 51);
    let _again = tree.root().add_file("knob", Mode::RW, Knob::new("new")).unwrap();
    assert_ne!(ino(&mount.at("knob")), before);
    assert_eq!(fs::read(mount.at("knob")).unwrap(), b"new");
    for mut file in files.iter().chain([&idle]) {
        assert_eq!(errno(file.read(&mut [0; 9])), Errno::NODEV);
        assert_eq!(errno(file.read_at(&mut [0; 9], 4)), Errno::NODEV);
        // No request for nothing: not even here.
        assert_eq!(file.read(&mut []).unwrap(), 0);
    }
    for mut file in &files {
        assert_eq!(errno(file.write(b"x")), Errno::NODEV);
        assert_eq!(errno(file.write_at(b"x", 3)), Errno::NODEV);
        // A difference to the kernel's own, where this is ENODEV.
        assert_eq!(file.write(b"").unwrap(), 0);
    }
    drop((files, idle));
    eventually("all to be closed", || tree.usage().open_files == 0);
    mount.unmount_clean(&tree);
}

#[test]
fn the_rest_of_a_text_that_was_begun_is_still_delivered() {
    let tree = Tree::new();
    let knob = tree.root().add_file("knob", Mode::RW, Knob::new("0123456789")).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let (mut begun, mut read) = (open(&mount, "knob"), open(&mount, "knob"));
    let mut buf = [0; 100];
    begun.read_exact(&mut buf[..4]).unwrap();
    assert_eq!(read.read(&mut buf).unwrap(), 10);
    let _ = knob.remove().unwrap();
    assert_eq!(begun.read(&mut buf).unwrap(), 6);
    assert_eq!(&buf[..6], b"456789");
    assert_eq!(errno(begun.read(&mut buf)), Errno::NODEV);
    assert_eq!(errno(begun.read_at(&mut buf, 0)), Errno::NODEV);
    assert_eq!(errno(read.read(&mut buf)), Errno::NODEV, "at the end");
}

#[test]
fn a_dead_descriptor_still_has_attributes() {
    let tree = Tree::new();
    let knob = tree.root().add_file("knob", Mode::RW, Knob::new("text")).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let file = open(&mount, "knob");
    let before = file.metadata().unwrap();
    assert_eq!(before.nlink(), 1);
    let _ = knob.remove().unwrap();
    let after = file.metadata().unwrap();
    assert_eq!((after.ino(), after.mode()), (before.ino(), before.mode()));
    assert_eq!(after.nlink(), 0);
    file.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o600);
    rustix::fs::fchown(&file, None, Some(rustix::process::Gid::from_raw(5))).unwrap();
    assert_eq!(file.metadata().unwrap().gid(), 5);
    rustix::fs::fsetxattr(&file, "user.note", b"kept", XattrFlags::CREATE).unwrap();
    let mut value = [0; 10];
    assert_eq!(rustix::fs::fgetxattr(&file, "user.note", &mut value), Ok(4));
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(file.metadata().unwrap().mtime(), 0);
    file.set_len(3).unwrap();
    file.sync_all().unwrap();
    file.lock().unwrap();
    file.unlock().unwrap();
    let twin = file.try_clone().unwrap();
    assert_eq!(errno((&twin).read(&mut [0; 9])), Errno::NODEV);
    rustix::fs::fcntl_setfl(&file, OFlags::NONBLOCK).unwrap();
    assert_eq!(errno(support::sys::tcgets(&file)), Errno::NOTTY);
    assert_eq!(support::map_shared(&file), Err(Errno::NODEV));
    support::sys::close(file).unwrap();
    support::sys::close(twin).unwrap();
}

#[test]
fn a_dead_file_cannot_be_opened_through_its_descriptors() {
    let tree = Tree::new();
    let knob = tree.root().add_file("knob", Mode::RW, Knob::new("text")).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let file = open(&mount, "knob");
    let path = rustix::fs::open(mount.at("knob"), OFlags::PATH, FileMode::empty()).unwrap();
    let _ = knob.remove().unwrap();
    for fd in [file.as_fd(), path.as_fd()] {
        assert_eq!(errno(File::open(support::through(fd))), Errno::NODEV);
    }
    assert_eq!(rustix::fs::statat(&path, "", AtFlags::EMPTY_PATH).unwrap().st_nlink, 0);
}

#[test]
fn a_hidden_file_dies_for_those_who_have_it_and_comes_back_for_others() {
    let tree = Tree::new();
    let knob = tree.root().add_file("knob", Mode::RW, Knob::new("text")).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let path = mount.at("knob");
    let old = open(&mount, "knob");
    rustix::fs::fsetxattr(&old, "user.note", b"kept", XattrFlags::CREATE).unwrap();
    let before = ino(&path);
    for round in 0..100 {
        let fresh = open(&mount, "knob");
        knob.hide().wait().unwrap();
        assert_eq!(errno(fs::symlink_metadata(&path)), Errno::NOENT, "round {round}");
        assert_eq!(errno((&fresh).read(&mut [0; 9])), Errno::NODEV);
        assert_eq!(errno(File::open(support::through(old.as_fd()))), Errno::NODEV);
        knob.show();
        assert_eq!(fs::read(&path).unwrap(), b"text");
        assert_eq!(ino(&path), before);
        for mut dead in [&old, &fresh] {
            assert_eq!(errno(dead.read(&mut [0; 9])), Errno::NODEV, "for ever");
            assert_eq!(errno(dead.write(b"x")), Errno::NODEV);
            assert_eq!(dead.metadata().unwrap().ino(), before);
        }
        let again = fs::read(support::through(old.as_fd())).unwrap();
        assert_eq!(again, b"text", "the file is there, only this open of it is not");
    }
    assert_eq!(rustix::fs::getxattr(&path, "user.note", &mut [0; 9]), Ok(4));
    assert_eq!(fs::metadata(&path).unwrap().nlink(), 1);
}

#[test]
fn attributes_of_a_node_are_the_same_through_old_and_new_descriptors() {
    let tree = Tree::new();
    let knob = tree.root().add_file("knob", Mode::RW, Knob::new("text")).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let old = open(&mount, "knob");
    knob.hide().wait().unwrap();
    knob.show();
    let new = open(&mount, "knob");
    for mode in [0o600, 0o640, 0o644, 0o660] {
        let _ = (old.metadata().unwrap(), new.metadata().unwrap());
        knob.set_attr(&kernfs::SetAttr { mode: Some(Mode::new(mode)), ..Default::default() });
        let modes = [&old, &new].map(|file| file.metadata().unwrap().mode() & 0o7777);
        assert_eq!(modes, [u32::from(mode); 2]);
    }
    for (change, look) in [(&old, &new), (&new, &old)] {
        change.set_permissions(fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(look.metadata().unwrap().mode() & 0o7777, 0o666);
        change.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(look.metadata().unwrap().mode() & 0o7777, 0o600);
    }
}

#[test]
fn a_removed_directory_has_no_way_down() {
    let tree = Tree::new();
    let dir = tree.root().add_dir("dir", Mode::DIR).unwrap();
    dir.add_file("knob", Mode::RW, Knob::new("text")).unwrap().keep();
    dir.add_dir("sub", Mode::DIR).unwrap().keep();
    let Some(mount) = Mounted::new(&tree) else { return };
    let mut client = Client::start();
    let path = mount.at("dir").display().to_string();
    client.call(format!("chdir {path}")).unwrap();
    client.call(format!("open d rd {path}")).unwrap();
    client.call("openat f d knob").unwrap();
    assert_eq!(client.call("ls ."), Ok("knob sub".into()));
    dir.remove().unwrap();
    assert_eq!(client.call("openat g d knob"), Err(Errno::NOENT));
    assert_eq!(client.call("openat g d sub"), Err(Errno::NOENT));
    assert_eq!(client.call("stat knob"), Err(Errno::NOENT));
    assert_eq!(client.call("ls ."), Ok(String::new()));
    assert_eq!(client.call("read f 9"), Err(Errno::NODEV));
    assert!(client.call("mkdir new").is_err());
    assert_eq!(client.call(format!("stat {path}")), Err(Errno::NOENT));
    // The kernel takes the name away when somebody looks it up, which was just now.
    assert_eq!(client.call("getcwd"), Err(Errno::NOENT));
    let root = mount.path().display().to_string();
    assert_eq!(client.call("stat .."), client.call(format!("stat {root}")));
    assert_eq!(client.call("chdir .."), Ok(String::new()));
    assert_eq!(client.call("getcwd"), Ok(root));
}

#[test]
fn a_live_directory_stays_where_it_is_when_something_else_goes() {
    let tree = Tree::new();
    let dir = tree.root().add_dir("dir", Mode::DIR).unwrap();
    let _sub = dir.add_dir("sub", Mode::DIR).unwrap();
    let other = tree.root().add_file("other", Mode::RW, Knob::new("text")).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let mut client = Client::start();
    let path = mount.at("dir/sub").display().to_string();
    client.call(format!("chdir {path}")).unwrap();
    assert!(mount.at("other").exists());
    let _ = other.remove().unwrap();
    assert_eq!(client.call("getcwd"), Ok(path.clone()));
    assert!(mount.at("dir/sub").exists());
    assert_eq!(client.call("getcwd"), Ok(path));
}

#[test]
fn a_subtree_goes_with_all_who_hold_on_to_it() {
    const DEVICES: usize = 20;
    let tree = Tree::new();
    let bus = tree.root().add_dir("bus", Mode::DIR).unwrap();
    for n in 0..DEVICES {
        let device = bus.add_dir(format!("dev{n}"), Mode::DIR).unwrap();
        device.add_file("knob", Mode::RW, Knob::new("text")).unwrap().keep();
        device.add_file("events", Mode::RO, Events::default()).unwrap().keep();
        device.keep();
    }
    let Some(mount) = Mounted::new(&tree) else { return };
    let files: Vec<_> =
        (0..DEVICES * 10).map(|n| open(&mount, &format!("bus/dev{}/knob", n % DEVICES))).collect();
    let (paths, stats) = (|n: usize| mount.at(&format!("bus/dev{n}/events")), || mount.stats());
    std::thread::scope(|scope| {
        let read = |n| {
            let path = paths(n);
            scope.spawn(move || errno((&File::open(path).unwrap()).read(&mut [0; 9])))
        };
        let readers: Vec<_> = (0..DEVICES).map(read).collect();
        eventually("all to sleep", || stats().parked == DEVICES);
        bus.remove().unwrap();
        assert_eq!(stats().parked, 0);
        for reader in readers {
            assert_eq!(reader.join().unwrap(), Errno::NODEV);
        }
    });
    for mut file in &files {
        assert_eq!(errno(file.read(&mut [0; 9])), Errno::NODEV);
    }
    for n in 0..DEVICES {
        assert_eq!(errno(File::open(mount.at(&format!("bus/dev{n}/knob")))), Errno::NOENT);
    }
    assert_gone(&mount.at("bus"));
    assert_eq!(tree.usage().nodes, 1);
    drop(files);
    mount.unmount_clean(&tree);
}

/// A file whose write takes its own directory away.
struct Remove {
    dir: std::sync::Mutex<Option<kernfs::Dir>>,
    left: Arc<AtomicBool>,
}

impl FileOps for Remove {
    type Open = ();
    const OPS: Ops = Ops::WRITE;
    const KIND: Kind = Kind::Text;

    fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Kernfs> {
        Ok(())
    }

    fn write(&self, (): &mut (), op: &mut WriteOp<'_>) -> Result<usize, Kernfs> {
        let dir = self.dir.lock().unwrap().take().ok_or(Kernfs::ENODEV)?;
        op.answer_after(dir.sever());
        self.left.store(true, Ordering::Release);
        Ok(op.data().len())
    }
}

#[test]
fn a_write_that_removes_its_own_device_is_answered_when_it_is_gone() {
    let tree = Tree::new();
    let Some(mount) = Mounted::new(&tree) else { return };
    for _ in 0..50 {
        let device = tree.root().add_dir("device", Mode::DIR).unwrap();
        device.add_file("knob", Mode::RW, Knob::new("text")).unwrap().keep();
        let left = Arc::new(AtomicBool::new(false));
        let remove = Remove { dir: std::sync::Mutex::new(None), left: Arc::clone(&left) };
        let file = device.add_file("remove", Mode::WO, remove).unwrap();
        let knob = open(&mount, "device/knob");
        *file.dir.lock().unwrap() = Some(device);
        file.keep();
        fs::write(mount.at("device/remove"), "1").unwrap();
        assert!(left.load(Ordering::Acquire));
        assert_eq!(errno(fs::symlink_metadata(mount.at("device"))), Errno::NOENT);
        assert_eq!(errno((&knob).read(&mut [0; 9])), Errno::NODEV);
    }
    assert_eq!(tree.usage().nodes, 1);
}

#[test]
fn two_removers_of_one_file_both_return_when_it_is_gone() {
    let tree = Tree::new();
    let Some(mount) = Mounted::new(&tree) else { return };
    for _ in 0..100 {
        let knob = tree.root().add_file("knob", Mode::RW, Knob::new("text")).unwrap();
        let file = open(&mount, "knob");
        let (file, path) = (&file, &mount.at("knob"));
        let check = move || {
            assert_eq!(errno((&*file).read(&mut [0; 9])), Errno::NODEV);
            assert_eq!(errno(fs::symlink_metadata(path)), Errno::NOENT);
        };
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let _ = knob.remove().unwrap();
                check();
            });
            if let Ok(removal) = tree.root().sever_child("knob") {
                removal.wait().unwrap();
                check();
            }
        });
    }
}
