//! The ends of a mount, foreseen or not, and what is left; several mounts of one tree.

mod support;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use kernfs::{DirOptions, FileOptions, Mode, Tag, Tree};
use kernfs_fuse::{Mount, MountError, MountOptions};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount as mount_fs, unmount};
use rustix::process::Signal;
use support::client::{self, Client};
use support::drivers::{Events, Knob};
use support::{Limit, Mounted, PATIENCE, TestDir, can_mount, errno, eventually};

#[test]
fn client() {
    client::serve();
}

/// Returns the types of what is mounted at a path.
fn mounted_at(path: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let words = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    words.filter(|line| Path::new(line[1]) == path).map(|line| line[2].to_owned()).collect()
}

fn tree() -> Tree {
    let tree = Tree::new();
    tree.root().add_file("knob", Mode::RW, Knob::new("text")).unwrap().keep();
    tree.root().add_file("events", Mode::RO, Events::default()).unwrap().keep();
    tree
}

fn read(file: &File) -> Result<(), Errno> {
    let result = std::os::unix::fs::FileExt::read_at(file, &mut [0; 9], 0);
    result.map(drop).map_err(|error| Errno::from_io_error(&error).unwrap())
}

/// A reader that sleeps in the mount.
fn sleeper(mount: &Mounted) -> thread::JoinHandle<Errno> {
    let file = File::open(mount.at("events")).unwrap();
    let reader = thread::spawn(move || errno((&file).read(&mut [0; 9])));
    eventually("a parked read", || mount.stats().parked == 1);
    reader
}

#[test]
fn a_tree_that_is_removed_is_unmounted_when_that_returns() {
    let tree = tree();
    let Some(mount) = Mounted::new(&tree) else { return };
    let path = mount.path().to_owned();
    let knob = File::open(mount.at("knob")).unwrap();
    let sleeper = sleeper(&mount);
    tree.remove().unwrap();
    assert_eq!(sleeper.join().unwrap(), Errno::NODEV);
    assert_eq!(mounted_at(&path), [""; 0]);
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0, "the directory below");
    // Who is in it stays in it: nothing but dead files.
    assert_eq!(read(&knob), Err(Errno::NODEV));
    assert!(!mount.wait_timeout(Duration::ZERO));
    drop(knob);
    mount.wait();
}

#[test]
fn a_tree_that_is_dropped_is_unmounted() {
    let tree = tree();
    let Some(mut mount) = Mounted::new(&tree) else { return };
    let path = mount.path().to_owned();
    assert_eq!(fs::read(mount.at("knob")).unwrap(), b"text");
    drop(tree);
    assert!(mount.wait_timeout(PATIENCE));
    assert_eq!(mounted_at(&path), [""; 0]);
    mount.take().unmount().unwrap();
}

#[test]
fn a_mount_of_a_dropped_tree_that_is_still_in_use_can_be_dropped() {
    let tree = tree();
    let Some(mut mount) = Mounted::new(&tree) else { return };
    let knob = File::open(mount.at("knob")).unwrap();
    tree.remove().unwrap();
    mount.take().unmount().expect("it is what was asked for");
    assert_eq!(read(&knob), Err(Errno::NOTCONN));
}

#[test]
fn a_tree_can_follow_another_at_a_place_that_is_still_in_use() {
    let (first, second) = (tree(), tree());
    let Some(mut mount) = Mounted::new(&first) else { return };
    let path = mount.path().to_owned();
    let knob = File::open(mount.at("knob")).unwrap();
    first.remove().unwrap();
    let next = Mount::new(&second, &path).unwrap();
    mount.take().unmount().expect("it has gone with its tree");
    assert_eq!(read(&knob), Err(Errno::NOTCONN));
    assert_eq!(fs::read(path.join("knob")).unwrap(), b"text");
    next.unmount().unwrap();
}

#[test]
fn a_mount_is_dropped_while_it_is_in_use() {
    let tree = tree();
    let Some(mut mount) = Mounted::new(&tree) else { return };
    let path = mount.path().to_owned();
    let mut client = Client::start();
    client.call(format!("chdir {}", path.display())).unwrap();
    client.call("open f r knob").unwrap();
    let sleeper = sleeper(&mount);
    drop(mount.take());
    assert_eq!(mounted_at(&path), [""; 0]);
    assert!([Errno::NOTCONN, Errno::CONNABORTED].contains(&sleeper.join().unwrap()));
    assert_eq!(client.call("read f 9"), Err(Errno::NOTCONN));
    assert_eq!(client.call("poll f 2 -1"), Ok("8".into()));
    assert_eq!(client.call("ls ."), Err(Errno::NOTCONN));
    eventually("open files to be released", || tree.usage().open_files == 0);
    // The tree is as good as ever.
    let mount = Mount::new(&tree, &path).unwrap();
    assert_eq!(fs::read(path.join("knob")).unwrap(), b"text");
    mount.unmount().unwrap();
}

#[test]
fn readers_that_sleep_are_released_when_it_is_unmounted() {
    const READERS: usize = 50;
    let tree = Tree::new();
    let events = tree.root().add_file("events", Mode::RO, Events::default()).unwrap();
    let Some(mut mount) = Mounted::new(&tree) else { return };
    let read = |_| {
        let file = File::open(mount.at("events")).unwrap();
        thread::spawn(move || errno((&file).read(&mut [0; 9])))
    };
    let readers: Vec<_> = (0..READERS).map(read).collect();
    eventually("all to sleep", || mount.stats().parked == READERS);
    mount.take().unmount().unwrap();
    for reader in readers {
        assert!([Errno::NOTCONN, Errno::CONNABORTED].contains(&reader.join().unwrap()));
    }
    eventually("open files to be released", || tree.usage().open_files == 0);
    // Nobody is left who would take it.
    Events::push(&events, "x");
    assert_eq!(events.queue.lock().unwrap().len(), 1);
    assert_eq!(events.holders(), []);
    let _ = events.remove().unwrap();
}

#[test]
fn drivers_hear_of_a_connection_that_is_aborted() {
    let tree = Tree::new();
    let knob = tree.root().add_file("knob", Mode::RW, Knob::new("text")).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let file = File::open(mount.at("knob")).unwrap();
    assert_eq!(read(&file), Ok(()));
    let device = rustix::fs::minor(fs::metadata(mount.path()).unwrap().dev());
    let control = TestDir::new();
    mount_fs("none", control.path(), "fusectl", MountFlags::empty(), None).unwrap();
    fs::write(control.path().join(device.to_string()).join("abort"), "1").unwrap();
    unmount(control.path(), UnmountFlags::empty()).unwrap();
    // The mount is there, and the client has its descriptor: only the kernel has gone.
    eventually("the release", || knob.releases.load(Ordering::Relaxed) == 1);
    assert_eq!(read(&file), Err(Errno::NOTCONN));
    assert_eq!(tree.usage().open_files, 0);
    drop(file);
    mount.unmount_clean(&tree);
}

#[test]
fn somebody_else_unmounts() {
    let tree = tree();
    let Some(mut mount) = Mounted::new(&tree) else { return };
    let path = mount.path().to_owned();
    let mount = mount.take();
    assert!(!mount.wait_timeout(Duration::ZERO));
    assert!(path.join("knob").exists() && mount.stats().nodes == 1);
    unmount(&path, UnmountFlags::empty()).unwrap();
    mount.wait();
    assert_eq!(mount.stats().nodes, 0, "nothing is kept for a kernel that has gone");
    // The tree can be changed as before; nobody is told.
    let knob = tree.root().add_file("new", Mode::RW, Knob::default()).unwrap();
    let _ = knob.remove().unwrap();
    mount.unmount().unwrap();
    assert_eq!(tree.usage().open_files, 0);
}

#[test]
fn what_is_mounted_there_later_is_left_alone() {
    let tree = tree();
    for lazily in [false, true] {
        let Some(mut mount) = Mounted::new(&tree) else { return };
        let path = mount.path().to_owned();
        let knob = lazily.then(|| File::open(mount.at("knob")).unwrap());
        let flags = if lazily { UnmountFlags::DETACH } else { UnmountFlags::empty() };
        unmount(&path, flags).unwrap();
        mount_fs("later", &path, "tmpfs", MountFlags::empty(), None).unwrap();
        fs::write(path.join("file"), "kept").unwrap();
        drop(mount.take());
        let left = mounted_at(&path);
        let kept = fs::read(path.join("file"));
        unmount(&path, UnmountFlags::empty()).unwrap();
        assert_eq!(left, ["tmpfs"]);
        assert_eq!(kept.unwrap(), b"kept");
        drop(knob);
        eventually("open files to be released", || tree.usage().open_files == 0);
    }
}

#[test]
fn a_place_that_is_taken_or_none_is_refused() {
    let tree = tree();
    let Some(mount) = Mounted::new(&tree) else { return };
    let twice = Mount::new(&tree, mount.path());
    assert!(matches!(twice, Err(MountError::Mount(_))), "{twice:?}");
    assert!(Mount::new(&tree, mount.at("missing")).is_err());
    assert!(Mount::new(&tree, mount.at("knob")).is_err());
    // A failed mount leaves nothing registered: this waits for nobody.
    tree.remove().unwrap();
}

/// A process that has mounted a tree of its own.
fn daemon(kind: &str, dir: &TestDir) -> Client {
    let mut daemon = Client::start();
    daemon.call(format!("mount {kind} {}", dir.path().display())).unwrap();
    daemon
}

#[test]
fn clients_of_a_daemon_that_is_killed_are_let_go() {
    if !can_mount() {
        return;
    }
    let _limit = Limit::new();
    let dir = TestDir::new();
    let at = |name: &str| dir.path().join(name);
    let mut daemon = daemon("ours", &dir);
    let (knob, events) = (File::open(at("knob")).unwrap(), File::open(at("events")).unwrap());
    let mut poller = Client::start();
    poller.call(format!("open f r {}", at("knob").display())).unwrap();
    poller.call("read f 9").unwrap();
    poller.block("poll f 2 -1");
    let (sender, answer) = mpsc::channel();
    thread::spawn(move || sender.send(errno((&events).read(&mut [0; 9]))));
    daemon.signal(Signal::KILL);
    daemon.wait();
    let read_gave = answer.recv_timeout(PATIENCE).expect("it is let go");
    assert!([Errno::NOTCONN, Errno::CONNABORTED].contains(&read_gave));
    assert_eq!(poller.answer(), Ok("8".into()));
    assert_eq!(read(&knob), Err(Errno::NOTCONN));
    assert_eq!(errno(fs::metadata(dir.path())), Errno::NOTCONN);
    unmount(dir.path(), UnmountFlags::DETACH).unwrap();
}

/// Has a daemon killed, and starts again at the same directory.
fn recover(use_it: impl FnOnce(&Path)) {
    if !can_mount() {
        return;
    }
    let _limit = Limit::new();
    let dir = TestDir::new();
    let knob = dir.path().join("knob");
    let mut daemon = daemon("ours", &dir);
    use_it(&knob);
    daemon.signal(Signal::KILL);
    daemon.wait();
    let tree = tree();
    let mount = Mount::new(&tree, dir.path());
    if mount.is_err() {
        unmount(dir.path(), UnmountFlags::DETACH).unwrap();
    }
    let mount = mount.unwrap();
    assert!(mount.recovered());
    assert_eq!(mounted_at(dir.path()), ["fuse.kernfs"]);
    assert_eq!(fs::read(&knob).unwrap(), b"text");
    mount.unmount().unwrap();
    let mount = Mount::new(&tree, dir.path()).unwrap();
    assert!(!mount.recovered());
    mount.unmount().unwrap();
}

#[test]
fn a_new_start_recovers_a_dead_mount() {
    recover(|_| {});
}

#[test]
fn a_new_start_recovers_a_dead_mount_that_was_used() {
    recover(|knob| assert_eq!(fs::read(knob).unwrap(), b"text"));
}

#[test]
fn a_dead_mount_of_somebody_else_is_left_alone() {
    if !can_mount() {
        return;
    }
    let _limit = Limit::new();
    let dir = TestDir::new();
    let mut daemon = daemon("other", &dir);
    daemon.signal(Signal::KILL);
    daemon.wait();
    let refused = Mount::new(&tree(), dir.path());
    let left = mounted_at(dir.path());
    unmount(dir.path(), UnmountFlags::DETACH).unwrap();
    assert!(matches!(refused, Err(MountError::Mount(_))), "{refused:?}");
    assert_eq!(left, ["fuse.other"]);
}

#[test]
fn severing_reaches_all_mounts_of_a_tree() {
    let tree = Tree::new();
    let (Some(a), Some(b)) = (Mounted::new(&tree), Mounted::new(&tree)) else { return };
    for round in 0..100 {
        let dir = tree.root().add_dir("dir", Mode::DIR).unwrap();
        let knob = dir.add_file("knob", Mode::RW, Knob::new("text")).unwrap();
        let names = [a.at("dir/knob"), b.at("dir/knob")];
        let files = names.each_ref().map(|name| File::open(name).unwrap());
        // What a client changes in one is seen in the other.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600 + round % 2);
        fs::set_permissions(&names[0], mode).unwrap();
        let modes = names.each_ref().map(|name| fs::metadata(name).unwrap().permissions());
        assert_eq!(modes[0], modes[1]);
        knob.rename(&dir, "new").unwrap();
        for name in &names {
            assert_eq!(errno(fs::metadata(name)), Errno::NOENT);
            assert!(name.with_file_name("new").exists());
        }
        let _ = knob.remove().unwrap();
        for (name, file) in names.iter().zip(&files) {
            assert_eq!(read(file), Err(Errno::NODEV));
            assert_eq!(errno(fs::metadata(name.with_file_name("new"))), Errno::NOENT);
        }
        dir.remove().unwrap();
        assert!(!a.at("dir").exists() && !b.at("dir").exists());
    }
    a.unmount_clean(&tree);
    b.unmount_clean(&tree);
}

#[test]
fn a_mount_shows_one_namespace() {
    let tree = Tree::new();
    let net = tree.root().add_dir("net", DirOptions::new(Mode::DIR).tagged_children()).unwrap();
    let file = |name: &str, tag| {
        let options = FileOptions::new(Mode::RW).tag(Tag(tag));
        net.add_file(name, options, Knob::new(&format!("{name} of {tag}"))).unwrap()
    };
    let eth0 = file("eth0", 1);
    let _twin = file("eth0", 2);
    let _lo = file("lo", 2);
    let tagged = |tag| Mounted::with(&tree, |options: MountOptions| options.tag(Tag(tag)));
    let (Some(one), Some(two), Some(none)) = (tagged(1), tagged(2), Mounted::new(&tree)) else {
        return;
    };
    let list = |mount: &Mounted| {
        let entries = fs::read_dir(mount.at("net")).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(list(&one), ["eth0"]);
    assert_eq!(list(&two), ["eth0", "lo"]);
    assert_eq!(list(&none), [""; 0]);
    assert_eq!(fs::read(one.at("net/eth0")).unwrap(), b"eth0 of 1");
    assert_eq!(fs::read(two.at("net/eth0")).unwrap(), b"eth0 of 2");
    assert_eq!(errno(fs::metadata(none.at("net/eth0"))), Errno::NOENT);
    // A move to the other namespace: descriptors go on, names are elsewhere.
    let held = File::open(one.at("net/eth0")).unwrap();
    eth0.rename_in(&net, "eth1", Tag(2)).unwrap();
    assert_eq!(errno(fs::metadata(one.at("net/eth0"))), Errno::NOENT);
    assert_eq!(errno(fs::metadata(one.at("net/eth1"))), Errno::NOENT);
    assert_eq!(fs::read(two.at("net/eth1")).unwrap(), b"eth0 of 1");
    assert_eq!(read(&held), Ok(()));
    assert_eq!(list(&one), [""; 0]);
}

#[test]
fn a_watchdog_keeps_quiet_as_long_as_all_is_well() {
    let tree = tree();
    let patience = Duration::from_millis(200);
    let Some(mount) = Mounted::with(&tree, |options| options.watchdog(patience)) else { return };
    let until = Instant::now() + patience * 5;
    while Instant::now() < until {
        assert_eq!(fs::read(mount.at("knob")).unwrap(), b"text");
    }
    mount.unmount_clean(&tree);
}

#[test]
fn readers_of_one_descriptor_sleep_side_by_side() {
    let tree = Tree::new();
    let events = tree.root().add_file("events", Mode::RO, Events::default()).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    // With a position they would wait for each other, and whoever closes for both.
    let file = File::open(mount.at("events")).unwrap();
    let readers = [(); 2].map(|()| {
        let file = file.try_clone().unwrap();
        thread::spawn(move || {
            let mut buf = [0; 9];
            (&file).read(&mut buf).map(|len| buf[..len].to_vec()).unwrap()
        })
    });
    eventually("both to sleep", || mount.stats().parked == 2);
    drop(file);
    Events::push(&events, "a");
    Events::push(&events, "b");
    let mut got = readers.map(|reader| reader.join().unwrap());
    got.sort();
    assert_eq!(got, [b"a", b"b"]);
}
