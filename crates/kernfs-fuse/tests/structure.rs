//! What clients may do to the structure of a tree, and to its attributes.

mod support;

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use kernfs::{
    Child, Dir, DirOp, DirOps, Draining, Errno as Kernfs, MAX_USER_XATTR_BYTES, MAX_USER_XATTRS,
    MAX_XATTR_VALUE, Mode, Name, Tree,
};
use rustix::fs::{CWD, FileType, Mode as FileMode, OFlags, RenameFlags, XattrFlags};
use rustix::io::Errno;
use support::drivers::{Door, Events, Knob};
use support::{Mounted, errno, eventually, ino};

#[test]
fn changes_that_no_owner_allows_are_refused_with_the_errors_of_a_kernfs() {
    let tree = Tree::new();
    let _knob = tree.root().add_file("knob", Mode::RW, Knob::new("text")).unwrap();
    let dir = tree.root().add_dir("dir", Mode::DIR).unwrap();
    let _inner = dir.add_file("inner", Mode::RW, Knob::default()).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let (knob, dir, new) = (mount.at("knob"), mount.at("dir"), mount.at("new"));
    assert_eq!(errno(fs::remove_file(&knob)), Errno::PERM);
    assert_eq!(errno(fs::remove_file(&dir)), Errno::ISDIR);
    assert_eq!(errno(fs::remove_file(&new)), Errno::NOENT);
    assert_eq!(errno(symlink("knob", &new)), Errno::PERM);
    assert_eq!(errno(fs::hard_link(&knob, &new)), Errno::PERM);
    assert_eq!(errno(fs::create_dir(&new)), Errno::PERM);
    assert_eq!(errno(fs::create_dir(&knob)), Errno::EXIST);
    assert_eq!(errno(fs::remove_dir(&dir)), Errno::PERM);
    assert_eq!(errno(fs::remove_dir(&knob)), Errno::NOTDIR);
    assert_eq!(errno(fs::rename(&knob, &new)), Errno::PERM);
    assert_eq!(errno(fs::rename(&dir, &new)), Errno::PERM);
    assert_eq!(errno(fs::rename(&new, &knob)), Errno::NOENT);
    let swap =
        rustix::fs::renameat_with(CWD, &knob, CWD, mount.at("dir/inner"), RenameFlags::EXCHANGE);
    assert_eq!(swap, Err(Errno::INVAL));
    let node = |kind| rustix::fs::mknodat(CWD, &new, kind, FileMode::RUSR, 0);
    assert_eq!(node(FileType::RegularFile), Err(Errno::ACCESS));
    assert_eq!(node(FileType::Fifo), Err(Errno::PERM));
    assert_eq!(errno(File::create(&new)), Errno::ACCESS);
    assert_eq!(errno(OpenOptions::new().write(true).create_new(true).open(&knob)), Errno::EXIST);
    let tmpfile = rustix::fs::open(&dir, OFlags::TMPFILE | OFlags::WRONLY, FileMode::RUSR);
    assert_eq!(tmpfile.err(), Some(Errno::OPNOTSUPP));
    // What is there is opened, whoever would have made it.
    OpenOptions::new().write(true).create(true).truncate(false).open(&knob).unwrap();
    assert_eq!(fs::read(&knob).unwrap(), b"text");
    assert_eq!(errno(File::open(knob.join("below"))), Errno::NOTDIR);
    assert_eq!(errno(OpenOptions::new().write(true).open(&dir)), Errno::ISDIR);
}

/// Lets clients make, remove and rename what they like, but for what is called `busy`.
struct Free;

impl DirOps for Free {
    fn mkdir(&self, parent: &Dir, name: &Name, op: &DirOp<'_>) -> Result<(), Kernfs> {
        let dir = parent.add_dir(name, op.mode())?;
        dir.add_file("knob", Mode::RW, Knob::new("text"))?.keep();
        dir.add_file("events", Mode::RO, Events::default())?.keep();
        dir.keep();
        Ok(())
    }

    fn rmdir(&self, dir: &Child, _: &DirOp<'_>) -> Result<Draining, Kernfs> {
        if *dir.name() == *b"busy" { Err(Kernfs::EBUSY) } else { Ok(dir.sever()) }
    }

    fn unlink(&self, node: &Child, _: &DirOp<'_>) -> Result<Draining, Kernfs> {
        Ok(node.sever())
    }

    fn rename(&self, node: &Child, to: &Dir, name: &Name, _: &DirOp<'_>) -> Result<(), Kernfs> {
        node.rename(to, name)
    }
}

fn free() -> Tree {
    Tree::builder().dir_ops(Free).build()
}

#[test]
fn clients_make_and_remove_directories_where_their_owner_lets_them() {
    let tree = free();
    let Some(mount) = Mounted::new(&tree) else { return };
    let (job, busy) = (mount.at("job"), mount.at("busy"));
    for round in 0..50 {
        fs::DirBuilder::new().mode(0o750).create(&job).unwrap();
        assert_eq!(fs::metadata(&job).unwrap().mode() & 0o7777, 0o750);
        assert_eq!(errno(fs::create_dir(&job)), Errno::EXIST);
        assert_eq!(fs::metadata(mount.path()).unwrap().nlink(), 3);
        let file = File::open(job.join("knob")).unwrap();
        let dir = File::open(&job).unwrap();
        assert_eq!(fs::read(job.join("knob")).unwrap(), b"text", "round {round}");
        // Not empty, and gone all the same, as in cgroupfs.
        fs::remove_dir(&job).unwrap();
        assert_eq!(errno(fs::metadata(&job)), Errno::NOENT);
        assert_eq!(errno((&file).read(&mut [0; 9])), Errno::NODEV);
        let mut buffer = Vec::with_capacity(1024);
        let mut list = rustix::fs::RawDir::new(&dir, buffer.spare_capacity_mut());
        assert_eq!(list.next().unwrap().err(), Some(Errno::NOENT), "not even its dots");
        assert_eq!(errno(fs::remove_dir(&job)), Errno::NOENT);
        assert_eq!(fs::metadata(mount.path()).unwrap().nlink(), 2);
    }
    fs::create_dir(&busy).unwrap();
    assert_eq!(errno(fs::remove_dir(&busy)), Errno::BUSY);
    assert_eq!(errno(fs::create_dir(busy.join("knob"))), Errno::EXIST);
    assert!(busy.join("knob").exists());
}

#[test]
fn clients_rename_and_unlink_where_their_owner_lets_them() {
    let tree = free();
    let Some(mount) = Mounted::new(&tree) else { return };
    let (a, b) = (mount.at("a"), mount.at("b"));
    fs::create_dir(&a).unwrap();
    fs::create_dir(&b).unwrap();
    let number = ino(&a.join("knob"));
    let held = File::open(a.join("knob")).unwrap();
    for _ in 0..50 {
        fs::rename(a.join("knob"), a.join("other")).unwrap();
        assert_eq!(errno(fs::metadata(a.join("knob"))), Errno::NOENT);
        assert_eq!(ino(&a.join("other")), number);
        fs::rename(&a, b.join("below")).unwrap();
        assert_eq!(errno(fs::metadata(&a)), Errno::NOENT);
        assert_eq!(ino(&b.join("below/other")), number);
        fs::rename(b.join("below"), &a).unwrap();
        fs::rename(a.join("other"), a.join("knob")).unwrap();
    }
    assert_eq!(errno(fs::rename(a.join("knob"), b.join("knob"))), Errno::EXIST);
    assert_eq!(std::io::read_to_string(&held).unwrap(), "text");
    fs::remove_file(a.join("knob")).unwrap();
    assert_eq!(errno(fs::metadata(a.join("knob"))), Errno::NOENT);
    assert_eq!(errno((&held).read(&mut [0; 9])), Errno::NODEV);
    assert_eq!(held.metadata().unwrap().nlink(), 0);
}

#[test]
fn a_rmdir_is_answered_when_the_drivers_below_are_at_rest() {
    struct Waits(Arc<Door>);

    impl kernfs::FileOps for Waits {
        type Open = ();

        fn open(&self, _: &mut kernfs::OpenOp<'_>) -> Result<(), Kernfs> {
            Ok(())
        }

        fn read(&self, (): &mut (), _: &mut kernfs::ReadOp<'_>) -> Result<(), Kernfs> {
            self.0.pass();
            Ok(())
        }
    }

    let tree = free();
    let door = Arc::new(Door::default());
    let job = tree.root().add_dir("job", Mode::DIR).unwrap();
    job.add_file("slow", Mode::RO, Waits(Arc::clone(&door))).unwrap().keep();
    let events = job.add_file("events", Mode::RO, Events::default()).unwrap();
    job.keep();
    let Some(mount) = Mounted::new(&tree) else { return };
    let (slow, blocked, path) = (mount.at("job/slow"), mount.at("job/events"), mount.at("job"));
    let reader = thread::spawn(move || fs::read(slow));
    let sleeper = thread::spawn(move || fs::read(blocked));
    eventually("both to be at it", || door.waiting() == 1 && mount.stats().parked == 1);
    let remover = thread::spawn(move || fs::remove_dir(path));
    assert_eq!(errno(sleeper.join().unwrap()), Errno::NODEV);
    assert!(!remover.is_finished());
    eventually("it to be parked", || mount.stats().parked == 1);
    door.open();
    remover.join().unwrap().unwrap();
    let _ = reader.join().unwrap();
    assert!(events.is_removed());
    assert!(events.into_inner().is_ok());
}

#[test]
fn the_first_of_two_rmdirs_wins() {
    let tree = free();
    let Some(mount) = Mounted::new(&tree) else { return };
    let path = mount.at("job");
    for _ in 0..100 {
        fs::create_dir(&path).unwrap();
        let results: Vec<_> = thread::scope(|scope| {
            let removers = [(); 2].map(|()| scope.spawn(|| fs::remove_dir(&path)));
            removers.into_iter().map(|remover| remover.join().unwrap()).collect()
        });
        let lost: Vec<_> = results.into_iter().filter_map(Result::err).collect();
        assert_eq!(lost.len(), 1);
        assert_eq!(Errno::from_io_error(&lost[0]), Some(Errno::NOENT));
    }
}

#[test]
fn figures_of_the_filesystem_are_those_of_a_kernfs() {
    let tree = Tree::new();
    let Some(mount) = Mounted::new(&tree) else { return };
    let figures = rustix::fs::statvfs(mount.path()).unwrap();
    assert_eq!((figures.f_bsize, figures.f_blocks, figures.f_files), (4096, 0, 0));
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let ours = table.lines().find(|line| line.contains(mount.path().to_str().unwrap())).unwrap();
    assert!(ours.starts_with("kernfs ") && ours.contains(" fuse.kernfs "), "{ours}");
    assert!(["nosuid", "nodev", "noexec", "default_permissions"].iter().all(|o| ours.contains(o)));
    assert!(!ours.contains("allow_other"));
}

#[test]
fn a_mount_can_be_read_only() {
    let tree = free();
    let _knob = tree.root().add_file("knob", Mode::RW, Knob::new("text")).unwrap();
    let Some(mount) = Mounted::with(&tree, |options| options.read_only().fsname("mine")) else {
        return;
    };
    assert_eq!(fs::read(mount.at("knob")).unwrap(), b"text");
    assert_eq!(errno(fs::write(mount.at("knob"), "x")), Errno::ROFS);
    assert_eq!(errno(fs::create_dir(mount.at("new"))), Errno::ROFS);
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(table.lines().any(|line| line.starts_with("mine ")));
}

#[test]
fn mode_owner_and_times_can_be_set_and_stay() {
    let tree = Tree::new();
    let _knob = tree.root().add_file("knob", Mode::RW, Knob::new("text")).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let path = mount.at("knob");
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, "x").unwrap();
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before, "a write is no change");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(&path, Some(7), Some(8)).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000, 7);
    let times = fs::FileTimes::new().set_accessed(time).set_modified(time);
    OpenOptions::new().write(true).open(&path).unwrap().set_times(times).unwrap();
    fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
    let stat = fs::metadata(&path).unwrap();
    assert_eq!(stat.mode() & 0o7777, 0o640);
    assert_eq!((stat.uid(), stat.gid()), (7, 8));
    assert_eq!((stat.modified().unwrap(), stat.accessed().unwrap()), (time, time));
}

fn set(path: &Path, name: &str, value: &[u8], flags: XattrFlags) -> Result<(), Errno> {
    rustix::fs::setxattr(path, name, value, flags)
}

#[test]
fn extended_attributes_have_the_limits_of_a_kernfs() {
    let tree = Tree::new();
    let _knob = tree.root().add_file("knob", Mode::RW, Knob::new("text")).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let path = &mount.at("knob");
    let any = XattrFlags::empty();
    let mut buffer = vec![0; 1 << 17];
    assert_eq!(rustix::fs::getxattr(path, "user.a", &mut *buffer), Err(Errno::NODATA));
    assert_eq!(set(path, "user.a", b"1", XattrFlags::REPLACE), Err(Errno::NODATA));
    assert_eq!(set(path, "user.a", b"1", XattrFlags::CREATE), Ok(()));
    assert_eq!(set(path, "user.a", b"2", XattrFlags::CREATE), Err(Errno::EXIST));
    assert_eq!(set(path, "user.a", b"22", XattrFlags::REPLACE), Ok(()));
    assert_eq!(rustix::fs::getxattr(path, "user.a", &mut buffer[..1]), Err(Errno::RANGE));
    assert_eq!(rustix::fs::getxattr_query(path, "user.a"), Ok(2));
    assert_eq!(rustix::fs::getxattr(path, "user.a", &mut *buffer), Ok(2));
    assert_eq!(&buffer[..2], b"22");
    assert_eq!(set(path, "trusted.t", b"1", any), Ok(()));
    let len = rustix::fs::listxattr(path, &mut *buffer).unwrap();
    let list: Vec<_> = buffer[..len].split_inclusive(|&byte| byte == 0).collect();
    assert_eq!(list, [&b"trusted.t\0"[..], b"user.a\0"]);
    assert_eq!(set(path, "system.s", b"1", any), Err(Errno::OPNOTSUPP));
    assert_eq!(rustix::fs::removexattr(path, "user.a"), Ok(()));
    assert_eq!(rustix::fs::removexattr(path, "user.a"), Err(Errno::NODATA));
    // How many, and how much.
    for n in 0..MAX_USER_XATTRS {
        assert_eq!(set(path, &format!("user.{n}"), b"", any), Ok(()));
    }
    assert_eq!(set(path, "user.more", b"", any), Err(Errno::NOSPC));
    let large = vec![b'x'; MAX_XATTR_VALUE];
    for n in 0..MAX_USER_XATTR_BYTES / MAX_XATTR_VALUE {
        assert_eq!(set(path, &format!("user.{n}"), &large, any), Ok(()));
    }
    assert_eq!(set(path, "user.9", b"x", any), Err(Errno::NOSPC));
    assert_eq!((MAX_USER_XATTRS, MAX_USER_XATTR_BYTES, MAX_XATTR_VALUE), (128, 131_072, 65_536));
    // The others are not counted.
    for name in ["trusted.t", "security.s"] {
        assert_eq!(set(path, name, &large, any), Ok(()));
        assert_eq!(rustix::fs::getxattr(path, name, &mut *buffer), Ok(MAX_XATTR_VALUE));
    }
    assert_eq!(rustix::fs::getxattr(path, "user.0", &mut *buffer), Ok(MAX_XATTR_VALUE));
    let beyond = vec![b'x'; MAX_XATTR_VALUE + 1];
    assert_eq!(set(path, "user.0", &beyond, any), Err(Errno::TOOBIG));
}

#[test]
fn user_attributes_can_be_switched_off() {
    let tree = Tree::builder().user_xattrs(false).build();
    let Some(mount) = Mounted::new(&tree) else { return };
    let any = XattrFlags::empty();
    assert_eq!(set(mount.path(), "user.a", b"1", any), Err(Errno::OPNOTSUPP));
    assert_eq!(set(mount.path(), "trusted.a", b"1", any), Ok(()));
}
