//! Names and attributes are cached, and never stale: whoever looks right after the owner's call
//! returned sees the change.

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kernfs::{FileOps, Mode, OpenOp, Ops, SetAttr, Timestamp, Tree, WriteOp};
use kernfs_fuse::MountOptions;
use rustix::io::Errno;
use support::drivers::Knob;
use support::{Mounted, errno, eventually, ino};

const ROUNDS: u32 = 300;

fn is_there(path: &Path) -> bool {
    match fs::symlink_metadata(path) {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(Errno::from_io_error(&error), Some(Errno::NOENT));
            false
        }
    }
}

fn mode(bits: u16) -> SetAttr {
    SetAttr { mode: Some(Mode::new(bits)), ..SetAttr::default() }
}

/// Held by others while they look.
type Looking = RwLock<()>;

/// Tells whether attributes are right.
///
/// Where they are not, once more while nobody else is looking: while the kernel takes in the answer
/// to somebody else, it calls the attributes valid some instructions before it has written them
/// (`fuse_change_attributes_common`). A processor that stands still there makes that long. What is
/// stale in the cache is so all the same.
fn settled(others: &Looking, path: &Path, is_right: impl Fn(&fs::Metadata) -> bool) -> bool {
    let look = || is_right(&fs::symlink_metadata(path).unwrap());
    look() || {
        let _nobody = others.write().unwrap();
        look()
    }
}

/// Mounts a tree where nobody looks but the test: whoever tells watchers does so, too.
fn undisturbed(tree: &Tree) -> Option<Mounted> {
    Mounted::with(tree, MountOptions::without_inotify)
}

/// Runs `body` while other threads look at the paths all the time.
fn watched(paths: &[PathBuf], body: impl FnOnce(&Looking)) {
    let (done, looking) = (AtomicBool::new(false), Looking::default());
    std::thread::scope(|scope| {
        for path in paths {
            let (done, looking) = (&done, &looking);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let _looking = looking.read();
                    let _ = fs::symlink_metadata(path);
                }
            });
        }
        // Also when it panics: else the others never end.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| body(&looking)));
        done.store(true, Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

#[test]
fn names_are_answered_from_the_cache() {
    let tree = Tree::new();
    let _dir = tree.root().add_dir("dir", Mode::DIR).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let path = mount.at("dir");
    assert!(is_there(&path));
    let before = mount.stats().requests;
    for _ in 0..100 {
        assert!(is_there(&path));
    }
    let asked = mount.stats().requests - before;
    assert!(asked < 10, "{asked} requests for a name and attributes that did not change");
}

#[test]
fn a_new_name_follows_a_failed_lookup_and_goes_again() {
    let tree = Tree::new();
    let Some(mount) = Mounted::new(&tree) else { return };
    let path = mount.at("knob");
    watched(std::slice::from_ref(&path), |_| {
        for _ in 0..ROUNDS {
            assert!(!is_there(&path));
            let knob = tree.root().add_file("knob", Mode::RW, Knob::default()).unwrap();
            assert!(is_there(&path));
            let _ = knob.remove().unwrap();
        }
    });
}

#[test]
fn a_rename_by_the_owner_is_seen_at_once() {
    let tree = Tree::new();
    let dirs = ["a", "b"].map(|name| tree.root().add_dir(name, Mode::DIR).unwrap());
    let knob = dirs[0].add_file("x", Mode::RW, Knob::new("text")).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let file = fs::File::open(mount.at("a/x")).unwrap();
    let number = ino(&mount.at("a/x"));
    let places = ["a/x", "a/y", "b/x"].map(|name| mount.at(name));
    watched(&places, |_| {
        let mut at = 0;
        for round in 0..ROUNDS {
            let to = (at + 1) % 3;
            let (dir, name) = [(0, "x"), (0, "y"), (1, "x")][to];
            knob.rename(&dirs[dir], name).unwrap();
            assert!(!is_there(&places[at]), "round {round}");
            assert_eq!(ino(&places[to]), number, "round {round}");
            at = to;
        }
    });
    assert_eq!(std::io::read_to_string(&file).unwrap(), "text");
}

#[test]
fn a_renamed_directory_takes_what_is_in_it_along() {
    let tree = Tree::new();
    let dir = tree.root().add_dir("old", Mode::DIR).unwrap();
    let _knob = dir.add_file("knob", Mode::RW, Knob::new("text")).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let held = fs::File::open(mount.at("old/knob")).unwrap();
    let number = ino(&mount.at("old/knob"));
    for round in 0..ROUNDS {
        let (from, to) = if round % 2 == 0 { ("old", "new") } else { ("new", "old") };
        dir.rename(tree.root(), to).unwrap();
        assert!(!is_there(&mount.at(from).join("knob")));
        assert_eq!(ino(&mount.at(to).join("knob")), number);
    }
    assert_eq!(std::io::read_to_string(&held).unwrap(), "text");
}

#[test]
fn a_name_that_changes_hands_leads_to_the_new_node() {
    let tree = Tree::new();
    let Some(mount) = Mounted::new(&tree) else { return };
    let path = mount.at("knob");
    let mut last = 0;
    for round in 0..ROUNDS {
        let value = round.to_string();
        let knob = tree.root().add_file("knob", Mode::RW, Knob::new(&value)).unwrap();
        assert_ne!(std::mem::replace(&mut last, ino(&path)), ino(&path));
        assert_eq!(fs::read_to_string(&path).unwrap(), value);
        let _ = knob.remove().unwrap();
    }
}

#[test]
fn attributes_that_the_owner_sets_are_seen_at_once() {
    let tree = Tree::new();
    let knob = tree.root().add_file("knob", Mode::RW, Knob::default()).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let path = mount.at("knob");
    watched(std::slice::from_ref(&path), |others| {
        for round in 0..ROUNDS {
            let bits = if round % 2 == 0 { 0o600 } else { 0o644 };
            let mtime = Timestamp { secs: round.into(), nanos: 7 };
            knob.set_attr(&SetAttr {
                uid: Some(round),
                gid: Some(round + 1),
                mtime: Some(mtime),
                ..mode(bits)
            });
            knob.set_size(u64::from(round) + 100);
            let is_right = |stat: &fs::Metadata| {
                stat.mode() & 0o7777 == u32::from(bits)
                    && (stat.uid(), stat.gid()) == (round, round + 1)
                    && stat.mtime() == i64::from(round)
                    && stat.len() == u64::from(round) + 100
            };
            assert!(settled(others, &path, is_right), "round {round}: {:?}", fs::metadata(&path));
        }
    });
}

#[test]
fn attributes_are_right_however_a_first_lookup_runs_into_their_change() {
    let tree = Tree::new();
    let Some(mount) = Mounted::new(&tree) else { return };
    let round = AtomicU64::new(0);
    let (done, looking) = (AtomicBool::new(false), Looking::default());
    let path = |round: u64| mount.at(&format!("knob{round}"));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let (round, done, looking, path) = (&round, &done, &looking, &path);
            scope.spawn(move || {
                while !done.load(Ordering::Acquire) {
                    let _looking = looking.read();
                    let _ = fs::metadata(path(round.load(Ordering::Acquire)));
                }
            });
        }
        let mut wrong = Vec::new();
        for n in 1..=3000 {
            let knob = tree.root().add_file(format!("knob{n}"), Mode::RW, Knob::default()).unwrap();
            round.store(n, Ordering::Release);
            // Somewhere in the middle of the others' lookup.
            for _ in 0..n % 100 * 20 {
                std::hint::spin_loop();
            }
            for bits in [0o600, 0o640] {
                knob.set_attr(&mode(bits));
                let is_right = |stat: &fs::Metadata| stat.mode() & 0o7777 == u32::from(bits);
                if !settled(&looking, &path(n), is_right) {
                    wrong.push((n, bits));
                }
            }
            drop(knob);
        }
        done.store(true, Ordering::Release);
        assert_eq!(wrong, [], "round and mode");
    });
}

#[test]
fn a_directory_shows_what_comes_and_goes_in_its_attributes() {
    let tree = Tree::new();
    let dir = tree.root().add_dir("dir", Mode::DIR).unwrap();
    let Some(mount) = undisturbed(&tree) else { return };
    let path = mount.at("dir");
    // A descriptor and the root are looked at without a lookup, which would bring new attributes.
    let (held, root) = (fs::File::open(&path).unwrap(), fs::File::open(mount.path()).unwrap());
    let stat = || {
        let stats = [held.metadata(), fs::metadata(&path)].map(Result::unwrap);
        assert_eq!(stats[0].nlink(), stats[1].nlink());
        assert_eq!(stats[0].modified().unwrap(), stats[1].modified().unwrap());
        stats.into_iter().next().unwrap()
    };
    for _ in 0..ROUNDS {
        let before = stat();
        assert_eq!(before.nlink(), 2);
        let sub = dir.add_dir("sub", Mode::DIR).unwrap();
        let with = stat();
        assert_eq!(with.nlink(), 3);
        assert!(with.modified().unwrap() > before.modified().unwrap());
        sub.remove().unwrap();
        let after = stat();
        assert_eq!(after.nlink(), 2);
        assert!(after.modified().unwrap() > with.modified().unwrap());

        assert_eq!(root.metadata().unwrap().nlink(), 3);
        let other = tree.root().add_dir("other", Mode::DIR).unwrap();
        assert_eq!(root.metadata().unwrap().nlink(), 4);
        other.remove().unwrap();
    }
}

#[test]
fn a_move_changes_both_directories() {
    let tree = Tree::new();
    let dirs = ["a", "b"].map(|name| tree.root().add_dir(name, Mode::DIR).unwrap());
    let sub = dirs[0].add_dir("sub", Mode::DIR).unwrap();
    let Some(mount) = undisturbed(&tree) else { return };
    let held = ["a", "b"].map(|name| fs::File::open(mount.at(name)).unwrap());
    let links = || {
        let by_name = ["a", "b"].map(|name| fs::metadata(mount.at(name)).unwrap().nlink());
        assert_eq!(held.each_ref().map(|dir| dir.metadata().unwrap().nlink()), by_name);
        by_name
    };
    for _ in 0..ROUNDS {
        assert_eq!(links(), [3, 2]);
        sub.rename(&dirs[1], "sub").unwrap();
        assert_eq!(links(), [2, 3]);
        sub.rename(&dirs[0], "sub").unwrap();
    }
}

#[test]
fn the_text_of_a_link_follows_its_target() {
    let tree = Tree::new();
    let dirs = ["a", "bbbb"].map(|name| tree.root().add_dir(name, Mode::DIR).unwrap());
    let target = dirs[0].add_file("x", Mode::RW, Knob::new("text")).unwrap();
    let link = tree.root().add_link("link", &target).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let path = mount.at("link");
    for round in 0..ROUNDS {
        let (dir, name, text) =
            [(0, "x", "a/x"), (1, "x", "bbbb/x"), (1, "longer", "bbbb/longer")][round as usize % 3];
        target.rename(&dirs[dir], name).unwrap();
        assert_eq!(fs::read_link(&path).unwrap(), Path::new(text));
        let stat = fs::symlink_metadata(&path).unwrap();
        assert_eq!(stat.len(), text.len() as u64, "the size is that of the text");
        assert_eq!(fs::read(&path).unwrap(), b"text");
    }
    let _ = target.remove().unwrap();
    assert_eq!(errno(fs::read(&path)), Errno::NOENT);
    assert!(is_there(&path), "a link outlives its target");
    link.remove().unwrap();
    assert!(!is_there(&path));
}

#[test]
fn a_subtree_is_seen_whole_or_not_at_all() {
    let tree = Tree::new();
    let Some(mount) = Mounted::new(&tree) else { return };
    let paths = ["device", "device/sub/last"].map(|name| mount.at(name));
    watched(&paths, |_| {
        for _ in 0..ROUNDS {
            let device = tree.detached_dir(Mode::DIR);
            let sub = device.add_dir("sub", Mode::DIR).unwrap();
            sub.add_file("last", Mode::RW, Knob::default()).unwrap().keep();
            sub.keep();
            assert!(!is_there(&paths[0]));
            tree.root().attach("device", &device).unwrap();
            assert!(is_there(&paths[1]));
            device.remove().unwrap();
            assert!(!is_there(&paths[1]));
            assert!(!is_there(&paths[0]));
        }
    });
}

/// A file whose write renames another one.
struct Rename {
    knob: kernfs::File<Knob>,
    to: kernfs::Dir,
}

impl FileOps for Rename {
    type Open = ();
    const OPS: Ops = Ops::WRITE;

    fn open(&self, _: &mut OpenOp<'_>) -> Result<(), kernfs::Errno> {
        Ok(())
    }

    fn write(&self, (): &mut (), op: &mut WriteOp<'_>) -> Result<usize, kernfs::Errno> {
        self.knob.rename(&self.to, op.text()?)?;
        self.knob.set_attr(&mode(0o600 | u16::from(op.text()? == "x")));
        Ok(op.data().len())
    }
}

#[test]
fn what_a_write_changes_is_seen_when_it_returns() {
    let tree = Tree::new();
    let dir = tree.root().add_dir("dir", Mode::DIR).unwrap();
    let knob = dir.add_file("y", Mode::RW, Knob::default()).unwrap();
    let driver = Rename { knob, to: dir };
    let _rename = tree.root().add_file("rename", Mode::WO, driver).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let places = ["x", "y"].map(|name| mount.at("dir").join(name));
    for round in 0..ROUNDS as usize {
        let _ = (is_there(&places[0]), is_there(&places[1]));
        fs::write(mount.at("rename"), ["x", "y"][round % 2]).unwrap();
        assert!(!is_there(&places[(round + 1) % 2]), "round {round}");
        let stat = fs::metadata(&places[round % 2]).unwrap();
        assert_eq!(stat.mode() & 1, u32::from(round % 2 == 0), "round {round}");
    }
}

#[test]
fn what_is_removed_does_not_stay_in_the_cache() {
    let tree = Tree::new();
    // What watchers are told would have the kernel forget, too.
    let Some(mount) = undisturbed(&tree) else { return };
    for n in 0..2000 {
        let name = format!("job{n}");
        let job = tree.root().add_dir(&name, Mode::DIR).unwrap();
        job.add_file("knob", Mode::RW, Knob::new("text")).unwrap().keep();
        // Every other one is still open when it goes.
        let file = fs::File::open(mount.at(&name).join("knob")).unwrap();
        let file = (n % 2 == 0).then_some(file);
        job.remove().unwrap();
        drop(file);
    }
    if !support::kernel_is(6, 18) {
        println!("skipped: only Linux 6.18 can be asked to forget");
        return;
    }
    eventually("the kernel to forget", || mount.stats().nodes < 100);
}

#[test]
fn links_of_clients_elsewhere_lead_in_and_out() {
    let tree = Tree::new();
    let knob = tree.root().add_file("knob", Mode::RW, Knob::new("text")).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let dir = support::TestDir::new();
    let link = dir.path().join("link");
    symlink(mount.at("knob"), &link).unwrap();
    assert_eq!(fs::read(&link).unwrap(), b"text");
    let _ = knob.remove().unwrap();
    assert_eq!(errno(fs::read(&link)), Errno::NOENT);
    fs::remove_file(link).unwrap();
}

#[test]
fn what_is_mounted_inside_stays_where_names_are_not_cached() {
    use rustix::mount::{MountFlags, UnmountFlags, mount as mount_fs, unmount};

    let tree = Tree::new();
    let dir = tree.root().add_dir("dir", Mode::DIR).unwrap();
    let Some(mount) = Mounted::with(&tree, MountOptions::uncached_names) else { return };
    let (inside, file) = (mount.at("dir"), mount.at("dir/file"));
    mount_fs("inside", &inside, "tmpfs", MountFlags::empty(), None).unwrap();
    fs::write(&file, "kept").unwrap();
    for _ in 0..20 {
        let other = tree.root().add_file("other", Mode::RW, Knob::default()).unwrap();
        assert!(is_there(&mount.at("other")));
        let _ = other.remove().unwrap();
        assert!(!is_there(&mount.at("other")));
        assert_eq!(fs::read(&file).unwrap(), b"kept");
    }
    dir.rename(tree.root(), "new").unwrap();
    assert_eq!(fs::read(mount.at("new/file")).unwrap(), b"kept");
    unmount(mount.at("new"), UnmountFlags::empty()).unwrap();
}

#[test]
fn names_are_gone_though_others_are_removed_at_the_same_time() {
    let tree = Tree::new();
    let Some(mount) = Mounted::new(&tree) else { return };
    std::thread::scope(|scope| {
        for name in ["a", "b", "c"] {
            let (root, path) = (tree.root(), mount.at(name));
            scope.spawn(move || {
                for round in 0..10 * ROUNDS {
                    let file = root.add_file(name, Mode::RW, Knob::default()).unwrap();
                    assert!(is_there(&path), "round {round}");
                    let _ = file.remove().unwrap();
                    assert!(!is_there(&path), "round {round}");
                }
            });
        }
    });
}

/// Where others look all the time, a look can meet the kernel between two instructions: it marks
/// attributes as valid shortly before it writes them (`fuse_change_attributes_common`). That makes
/// none to three looks of 3,000 wrong; a change that returned too early made 500 or more.
const MET_BETWEEN: u32 = ROUNDS / 10;

#[test]
fn attributes_are_fresh_though_others_change_them_at_the_same_time() {
    let tree = Tree::new();
    let file = tree.root().add_file("file", Mode::RW, Knob::default()).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let (file, path) = (&file, mount.at("file"));
    let path = &path;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut wrong = 0;
            for uid in 0..10 * ROUNDS {
                file.set_attr(&SetAttr { uid: Some(uid), ..SetAttr::default() });
                wrong += u32::from(fs::metadata(path).unwrap().uid() != uid);
            }
            assert!(wrong <= MET_BETWEEN, "{wrong} looks");
        });
        for _ in 0..2 {
            scope.spawn(|| {
                for gid in 0..10 * ROUNDS {
                    file.set_attr(&SetAttr { gid: Some(gid), ..SetAttr::default() });
                    let _ = fs::metadata(path).unwrap();
                }
            });
        }
    });
}
