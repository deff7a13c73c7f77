//! Clients that stand still in their own memory, and drivers that are slow or panic: nobody else
//! pays for them.

mod support;

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use kernfs::{Errno as Kernfs, FileOps, Mode, OpenOp, ReadOp, Tree, WriteOp, show};
use rustix::io::Errno;
use support::drivers::{Door, Events, Knob, Slow};
use support::sys::{self, Stalled};
use support::{Mounted, errno, eventually};

/// Makes memory that stalls; `None`, with the reason printed, where that is not possible.
fn stalled() -> Option<Arc<Stalled>> {
    match Stalled::new() {
        Ok(memory) => Some(Arc::new(memory)),
        Err(error) => {
            println!("skipped: no userfaultfd: {error}");
            None
        }
    }
}

/// Looks at everything that somebody could want of the rest of the tree, and of that directory.
fn assert_usable(mount: &Mounted, tree: &Tree, beside: &str) {
    assert_eq!(fs::read(mount.at("other")).unwrap(), b"other");
    assert!(mount.at(beside).exists());
    assert_eq!(fs::read(mount.at(beside)).unwrap(), b"beside");
    let parent = mount.at(beside);
    assert!(fs::read_dir(parent.parent().unwrap()).unwrap().count() > 0);
    let new = tree.root().add_file("new", Mode::RW, Knob::new("new")).unwrap();
    assert_eq!(fs::read(mount.at("new")).unwrap(), b"new");
    let _ = new.remove().unwrap();
    assert_eq!(errno(fs::metadata(mount.at("new"))), Errno::NOENT);
}

#[test]
fn a_writer_that_stalls_in_its_memory_delays_no_removal() {
    let tree = Tree::new();
    let knob = tree.root().add_file("knob", Mode::RW, Knob::new("text")).unwrap();
    let _other = tree.root().add_file("other", Mode::RO, Knob::new("other")).unwrap();
    let _beside = tree.root().add_file("beside", Mode::RO, Knob::new("beside")).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let Some(memory) = stalled() else { return };
    let file = OpenOptions::new().write(true).open(mount.at("knob")).unwrap();
    let bystander = File::open(mount.at("knob")).unwrap();
    let writer = thread::spawn({
        let memory = Arc::clone(&memory);
        move || sys::write_from(&file, &memory)
    });
    memory.wait();
    let knob = knob.remove().unwrap();
    assert_eq!(knob.get(), b"text");
    assert_eq!(errno(fs::metadata(mount.at("knob"))), Errno::NOENT);
    assert_eq!(errno((&bystander).read(&mut [0; 9])), Errno::NODEV);
    assert_usable(&mount, &tree, "beside");
    memory.fill();
    assert_eq!(errno(writer.join().unwrap()), Errno::NODEV);
}

#[test]
fn a_reader_that_stalls_in_its_memory_delays_no_removal() {
    let tree = Tree::new();
    let text = "x".repeat(4096);
    let knob = tree.root().add_file("knob", Mode::RW, Knob::new(&text)).unwrap();
    let _other = tree.root().add_file("other", Mode::RO, Knob::new("other")).unwrap();
    let _beside = tree.root().add_file("beside", Mode::RO, Knob::new("beside")).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let Some(memory) = stalled() else { return };
    let file = File::open(mount.at("knob")).unwrap();
    let reader = thread::spawn({
        let memory = Arc::clone(&memory);
        move || sys::read_into(&file, &memory)
    });
    memory.wait();
    let _ = knob.remove().unwrap();
    assert_eq!(errno(fs::metadata(mount.at("knob"))), Errno::NOENT);
    assert_usable(&mount, &tree, "beside");
    memory.fill();
    // The kernel pins the memory before it asks: so the read comes after the removal.
    match reader.join().unwrap() {
        Ok(len) => assert_eq!(len, 4096),
        Err(error) => assert_eq!(Errno::from_io_error(&error), Some(Errno::NODEV)),
    }
}

#[test]
fn a_lister_that_stalls_in_its_memory_delays_no_removal_and_brings_no_name_back() {
    let tree = Tree::new();
    let dir = tree.root().add_dir("dir", Mode::DIR).unwrap();
    let _other = tree.root().add_file("other", Mode::RO, Knob::new("other")).unwrap();
    let _beside = dir.add_file("beside", Mode::RO, Knob::new("beside")).unwrap();
    let knob = dir.add_file("knob", Mode::RW, Knob::new("text")).unwrap();
    let renamed = dir.add_file("old", Mode::RW, Knob::new("text")).unwrap();
    let sub = dir.add_dir("sub", Mode::DIR).unwrap();
    sub.add_file("knob", Mode::RW, Knob::new("text")).unwrap().keep();
    let Some(mount) = Mounted::new(&tree) else { return };
    let Some(memory) = stalled() else { return };
    let listing = File::open(mount.at("dir")).unwrap();
    let lister = thread::spawn({
        let memory = Arc::clone(&memory);
        move || sys::getdents(&listing, &memory)
    });
    memory.wait();
    let _ = knob.remove().unwrap();
    sub.remove().unwrap();
    renamed.rename(&dir, "new").unwrap();
    let gone = ["dir/knob", "dir/old", "dir/sub", "dir/sub/knob"].map(|name| mount.at(name));
    let assert_gone = |path: &Path| assert_eq!(errno(fs::metadata(path)), Errno::NOENT);
    gone.iter().for_each(|path| assert_gone(path));
    assert!(mount.at("dir/new").exists());
    assert_usable(&mount, &tree, "dir/beside");
    // So that the kernel has no reason to look anew at the directory.
    assert!(mount.at("dir/beside").exists());
    memory.fill();
    assert!(lister.join().unwrap().unwrap() > 0);
    // Though it has been told of them before they went.
    gone.iter().for_each(|path| assert_gone(path));
}

/// A file whose reads wait at a door.
struct Waits(Arc<Door>);

impl FileOps for Waits {
    type Open = ();

    fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Kernfs> {
        Ok(())
    }

    fn read(&self, (): &mut (), op: &mut ReadOp<'_>) -> Result<(), Kernfs> {
        self.0.pass();
        op.push(b"done");
        Ok(())
    }
}

#[test]
fn drivers_that_are_slow_hold_nobody_else_up() {
    const SLOW: usize = 8;
    let tree = Tree::new();
    let door = Arc::new(Door::default());
    for n in 0..SLOW {
        let slow = Waits(Arc::clone(&door));
        tree.root().add_file(format!("slow{n}"), Mode::RO, slow).unwrap().keep();
    }
    let _other = tree.root().add_file("other", Mode::RO, Knob::new("other")).unwrap();
    let _beside = tree.root().add_file("beside", Mode::RO, Knob::new("beside")).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let paths: Vec<_> = (0..SLOW).map(|n| mount.at(&format!("slow{n}"))).collect();
    let readers: Vec<_> =
        paths.into_iter().map(|path| thread::spawn(move || fs::read(path).unwrap())).collect();
    eventually("all drivers to be busy", || door.waiting() == SLOW);
    for _ in 0..100 {
        assert_usable(&mount, &tree, "beside");
    }
    door.open();
    for reader in readers {
        assert_eq!(reader.join().unwrap(), b"done");
    }
}

#[test]
fn a_removal_waits_for_the_driver_and_for_nothing_else() {
    let tree = Tree::new();
    let door = Arc::new(Door::default());
    let slow = tree.root().add_file("slow", Mode::RO, Waits(Arc::clone(&door))).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let path = mount.at("slow");
    let reader = thread::spawn(move || fs::read(path));
    eventually("the driver to be busy", || door.waiting() == 1);
    let draining = slow.sever();
    // The name and the descriptors are gone before the driver is free.
    eventually("the name to go", || !mount.at("slow").exists());
    assert!(!draining.is_done());
    let stuck = draining.stuck_on();
    assert_eq!(stuck.len(), 1);
    assert_eq!(stuck[0].operation, kernfs::Operation::Read);
    door.open();
    let _ = draining.wait().unwrap();
    // What the driver was asked before is answered.
    assert_eq!(errno(reader.join().unwrap()), Errno::NODEV, "the read after it, for the end");
}

/// A file whose driver panics.
struct Panics;

impl FileOps for Panics {
    type Open = ();

    fn open(&self, op: &mut OpenOp<'_>) -> Result<(), Kernfs> {
        assert!(!op.flags().contains(kernfs::OpenFlags::NONBLOCK), "on purpose");
        Ok(())
    }

    fn read(&self, (): &mut (), _: &mut ReadOp<'_>) -> Result<(), Kernfs> {
        panic!("on purpose");
    }

    fn write(&self, (): &mut (), _: &mut WriteOp<'_>) -> Result<usize, Kernfs> {
        panic!("on purpose");
    }
}

#[test]
fn a_driver_that_panics_costs_its_client_the_file_and_nobody_else_anything() {
    let tree = Tree::new();
    let panics = tree.root().add_file("panics", Mode::RW, Panics).unwrap();
    let _other = tree.root().add_file("other", Mode::RO, Knob::new("other")).unwrap();
    let _beside = tree.root().add_file("beside", Mode::RO, Knob::new("beside")).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    for _ in 0..10 {
        let file = File::open(mount.at("panics")).unwrap();
        assert_eq!(errno((&file).read(&mut [0; 9])), Errno::IO);
        assert_eq!(errno((&file).read(&mut [0; 9])), Errno::NODEV);
        assert_eq!(errno(fs::write(mount.at("panics"), "x")), Errno::IO);
    }
    use std::os::unix::fs::OpenOptionsExt;
    let mut nonblock = OpenOptions::new();
    nonblock.read(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
    assert_eq!(errno(nonblock.open(mount.at("panics"))), Errno::IO);
    assert_usable(&mount, &tree, "beside");
    let Panics = panics.remove().unwrap();
    mount.unmount_clean(&tree);
}

#[test]
fn readers_of_one_open_file_take_turns() {
    let tree = Tree::new();
    let inside = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&inside);
    let text = show(move |op: &mut ReadOp<'_>| {
        assert_eq!(count.fetch_add(1, Ordering::SeqCst), 0, "alone with its open file");
        thread::yield_now();
        op.push(b"text");
        count.fetch_sub(1, Ordering::SeqCst);
    });
    let _file = tree.root().add_file("file", Mode::RO, text).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let file = File::open(mount.at("file")).unwrap();
    thread::scope(|scope| {
        for _ in 0..8 {
            let file = &file;
            scope.spawn(move || {
                for _ in 0..300 {
                    let mut buf = [0; 9];
                    let len = std::os::unix::fs::FileExt::read_at(file, &mut buf, 0).unwrap();
                    assert_eq!(&buf[..len], b"text");
                }
            });
        }
    });
}

/// Set where the pool that wakes sleepers has one thread.
const ONE_THREAD: &str = "BLOCKING_MAX_THREADS";

#[test]
fn a_removal_does_not_wait_for_drivers_of_other_files() {
    if std::env::var_os(ONE_THREAD).is_none() {
        let name = "a_removal_does_not_wait_for_drivers_of_other_files";
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", name, "--nocapture"]).env(ONE_THREAD, "1");
        assert!(again.status().unwrap().success());
        return;
    }
    let tree = Tree::new();
    let slow = tree.root().add_file("slow", Mode::RO, Slow::default()).unwrap();
    let events = tree.root().add_file("events", Mode::RO, Events::default()).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let reader = |name| {
        let file = File::open(mount.at(name)).unwrap();
        thread::spawn(move || (&file).read(&mut [0; 9]))
    };
    let (busy, sleeper) = (reader("slow"), reader("events"));
    eventually("both to sleep", || mount.stats().parked == 2);
    // Another open file of the same node comes and goes.
    drop(File::open(mount.at("events")).unwrap());
    eventually("it to be closed", || mount.stats().handles == 2);
    slow.queue.lock().unwrap().push_back(b"x".into());
    slow.notify();
    eventually("the driver to have the thread", || slow.door.waiting() == 1);
    let remover = thread::spawn(move || events.remove().map(drop).map_err(|error| error.errno()));
    eventually("the removal", || remover.is_finished());
    assert_eq!(errno(sleeper.join().unwrap()), Errno::NODEV);
    slow.door.open();
    assert_eq!(busy.join().unwrap().unwrap(), 1);
    remover.join().unwrap().unwrap();
}
