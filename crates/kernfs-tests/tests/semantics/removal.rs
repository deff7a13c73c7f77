//! Removal: who waits for what, who gets what back, and who may see whom.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use kernfs::{
    Caller, Child, Dir, DirOp, DirOps, Draining, Errno, File, FileOps, FileOptions, Holder, Kind,
    Mode, Name, OpenFlags, OpenOp, Operation, ReadOp, Tree, Waiter, WriteOp, show,
};
use kernfs_tests::probe::{Door, Log, OpenAtEnd, Sleeper, Watched, block_on, eventually, within};

/// Lets clients do what they like.
struct Allowed;

impl DirOps for Allowed {
    fn mkdir(&self, parent: &Dir, name: &Name, op: &DirOp<'_>) -> Result<(), Errno> {
        parent.add_dir(name, op.mode())?.keep();
        Ok(())
    }
    fn rmdir(&self, dir: &Child, _: &DirOp<'_>) -> Result<Draining, Errno> {
        if dir.as_dir().is_some_and(|dir| !dir.is_empty()) {
            return Err(Errno::EBUSY);
        }
        Ok(dir.sever())
    }
    fn unlink(&self, node: &Child, _: &DirOp<'_>) -> Result<Draining, Errno> {
        Ok(node.sever())
    }
    fn rename(&self, node: &Child, to: &Dir, name: &Name, _: &DirOp<'_>) -> Result<(), Errno> {
        node.rename(to, name)
    }
}

#[test]
fn clients_change_the_structure_as_the_owner_lets_them() {
    let tree = Tree::builder().dir_ops(Allowed).build();
    let client = tree.client(Caller::OWNER);
    client.mkdir("/a", Mode::new(0o700)).unwrap();
    client.mkdir("/a/b", Mode::DIR).unwrap();
    assert_eq!(client.lookup("/a").unwrap().attr().mode, Mode::new(0o700));
    assert_eq!(client.rmdir("/a").unwrap_err(), Errno::EBUSY);
    client.rename("/a/b", "/c").unwrap();
    assert_eq!(client.rename("/c", "/a"), Err(Errno::EEXIST));
    client.rmdir("/a/").unwrap().wait().unwrap();
    client.rmdir("/c").unwrap().wait().unwrap();
    let file = tree.root().add_file("f", Mode::RO, show(|op| op.push(b"1"))).unwrap();
    let held = client.open("/f", OpenFlags::READ).unwrap();
    client.unlink("/f").unwrap().wait().unwrap();
    assert_eq!(held.read_at(&mut [0; 1], 0), Err(Errno::ENODEV));
    assert!(file.is_removed());
    assert!(file.into_inner().is_ok(), "the driver is the owner's all the same");
    assert_eq!(tree.usage().nodes, 1);
}

#[test]
fn the_driver_comes_back_by_value_however_the_file_goes() {
    let tree = Tree::new();
    let log = Log::new();
    let add = |name: &str| -> File<Watched> {
        tree.root().add_file(name, Mode::RW, Watched::new(&log)).unwrap()
    };
    let client = tree.client(Caller::OWNER);
    let mut held = Vec::new();
    let file = add("removed");
    held.push(client.open("/removed", OpenFlags::READ).unwrap());
    let removed = file.remove().unwrap();
    let file = add("awaited");
    held.push(client.open("/awaited", OpenFlags::READ).unwrap());
    let awaited = block_on(file.sever(), || ());
    let file = add("by name");
    held.push(client.open("/by name", OpenFlags::READ).unwrap());
    let file = file.into_inner().unwrap_err();
    tree.root().sever_child("by name").unwrap().wait().unwrap();
    let by_name = file.into_inner().unwrap();
    let late = add("late");
    tree.root().sever_child("late").unwrap().wait().unwrap();
    let late = late.remove().unwrap();
    assert_eq!(log.dropped.load(SeqCst), 0);
    drop((removed, awaited, by_name, late));
    assert_eq!(log.dropped.load(SeqCst), 4);
    assert_eq!(tree.root().sever_child("late").unwrap_err(), Errno::ENOENT);
    drop(held);
    log.assert_ended(3);
}

#[test]
fn a_refused_driver_comes_back_untouched() {
    let tree = Tree::new();
    let log = Log::new();
    let first: File<Watched> = tree.root().add_file("f", Mode::RW, Watched::new(&log)).unwrap();
    let second: Watched = Watched::new(&log);
    let rejected = tree.root().add_file("f", Mode::RW, second).unwrap_err();
    assert_eq!(rejected.errno(), Errno::EEXIST);
    assert_eq!(log.dropped.load(SeqCst), 0);
    drop(rejected.into_inner());
    assert_eq!(log.dropped.load(SeqCst), 1);
    drop(first);
}

/// Notes on which thread, and whether inside an operation, it is dropped.
struct Kept {
    door: Option<Arc<Door>>,
    inside: Arc<AtomicBool>,
    dropped_by: Arc<Mutex<Option<(thread::ThreadId, bool)>>>,
}

impl FileOps for Kept {
    type Open = ();
    fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
        Ok(())
    }
    fn read(&self, (): &mut (), _: &mut ReadOp<'_>) -> Result<(), Errno> {
        self.inside.store(true, SeqCst);
        if let Some(door) = &self.door {
            door.pass();
        }
        self.inside.store(false, SeqCst);
        Ok(())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let was_inside = self.inside.load(SeqCst);
        *self.dropped_by.lock().unwrap() = Some((thread::current().id(), was_inside));
    }
}

#[test]
fn kept_drivers_are_dropped_by_the_remover_after_the_drain() {
    let tree = Tree::new();
    let door = Door::new();
    let _open = OpenAtEnd(Arc::clone(&door));
    let dir = tree.root().add_dir("d", Mode::DIR).unwrap();
    let dropped_by = Arc::default();
    let kept = Kept {
        door: Some(Arc::clone(&door)),
        inside: Arc::default(),
        dropped_by: Arc::clone(&dropped_by),
    };
    dir.add_file("f", Mode::RO, kept).unwrap().keep();
    let held = tree.client(Caller::OWNER).open("/d/f", OpenFlags::READ).unwrap();
    let reader = Sleeper::spawn(move || held.read_at(&mut [0; 4], 0));
    door.until_inside(1);
    let draining = dir.sever();
    assert_eq!(*dropped_by.lock().unwrap(), None);
    let remover = Sleeper::spawn(move || {
        draining.wait().unwrap();
        thread::current().id()
    });
    remover.until_asleep();
    door.open();
    let remover = remover.join("the remover");
    assert_eq!(*dropped_by.lock().unwrap(), Some((remover, false)));
    assert_eq!(reader.join("the reader"), Ok(0));
}

#[test]
fn a_removal_that_nobody_waits_for_drops_the_driver_with_the_last_operation() {
    let tree = Tree::new();
    let door = Door::new();
    let _open = OpenAtEnd(Arc::clone(&door));
    let dropped_by = Arc::default();
    let kept = Kept {
        door: Some(Arc::clone(&door)),
        inside: Arc::default(),
        dropped_by: Arc::clone(&dropped_by),
    };
    let file = tree.root().add_file("f", Mode::RO, kept).unwrap();
    let held = tree.client(Caller::OWNER).open("/f", OpenFlags::READ).unwrap();
    let reader = Sleeper::spawn(move || held.read_at(&mut [0; 4], 0));
    door.until_inside(1);
    drop(file.sever());
    assert_eq!(*dropped_by.lock().unwrap(), None);
    door.open();
    assert_eq!(reader.join("the reader"), Ok(0));
    eventually("the driver is dropped", || dropped_by.lock().unwrap().is_some());
    assert_eq!(dropped_by.lock().unwrap().map(|(_, inside)| inside), Some(false));
}

/// Lets clients unlink, all at the same moment.
struct UnlinkTogether(Arc<Barrier>);

impl DirOps for UnlinkTogether {
    fn unlink(&self, node: &Child, _: &DirOp<'_>) -> Result<Draining, Errno> {
        self.0.wait();
        Ok(node.sever())
    }
}

#[test]
fn concurrent_removers_all_return_after_the_drain() {
    for _ in 0..50 {
        let log = Log::new();
        let door = Door::new();
        let _open = OpenAtEnd(Arc::clone(&door));
        let barrier = Arc::new(Barrier::new(3));
        let tree = Tree::builder().dir_ops(UnlinkTogether(Arc::clone(&barrier))).build();
        let driver: Watched = Watched::with_door(&log, &door);
        let file = tree.root().add_file("f", Mode::RW, driver).unwrap();
        let client = tree.client(Caller::OWNER);
        let held = client.open("/f", OpenFlags::READ).unwrap();
        let reader = Sleeper::spawn(move || held.read_at(&mut [0; 64], 0));
        door.until_inside(1);
        let has_left = Arc::new(AtomicBool::new(false));
        let check = |body: Box<dyn FnOnce() + Send>| {
            let has_left = Arc::clone(&has_left);
            Sleeper::spawn(move || {
                body();
                assert!(has_left.load(SeqCst), "returned before the operation had left");
            })
        };
        let unlink = |client: kernfs::Client| move || client.unlink("/f").unwrap().wait().unwrap();
        let removers = [
            check(Box::new(unlink(client.clone()))),
            check(Box::new(unlink(client.clone()))),
            check(Box::new(move || {
                barrier.wait();
                drop(file.remove().unwrap());
            })),
        ];
        eventually("somebody has removed it", || client.lookup("/f").is_err());
        for remover in &removers {
            remover.until_asleep();
            assert!(remover.result_now().is_none());
        }
        has_left.store(true, SeqCst);
        door.open();
        for remover in removers {
            remover.join("one of the removers");
        }
        assert_eq!(reader.join("the reader"), Ok(11));
        log.assert_ended(1);
    }
}

/// A removal outlasts an earlier hiding of the same file: the operation that was inside then may
/// still be, and the driver cannot come back before it has left.
#[test]
fn a_removal_outlasts_an_earlier_hiding_that_is_not_done() {
    let log = Log::new();
    let door = Door::new();
    let _open = OpenAtEnd(Arc::clone(&door));
    let tree = Tree::new();
    let driver: Watched = Watched::with_door(&log, &door);
    let file = tree.root().add_file("f", Mode::RW, driver).unwrap();
    let held = tree.client(Caller::OWNER).open("/f", OpenFlags::READ).unwrap();
    let reader = Sleeper::spawn(move || held.read_at(&mut [0; 64], 0));
    door.until_inside(1);
    let hiding = file.hide();
    file.show();
    let again = file.hide();
    let removal = file.sever();
    let is_done_early = [hiding.is_done(), again.is_done(), removal.is_done()];
    assert_eq!(removal.stuck_on().len(), 1, "it tells what the earlier one is stuck on");
    door.open();
    drop(within("the removal", || removal.wait()).unwrap());
    within("the hidings", move || hiding.wait().and(again.wait())).unwrap();
    assert_eq!(reader.join("the reader"), Ok(11));
    assert_eq!(is_done_early, [false; 3]);
    log.assert_ended(1);
}

/// "Severs the directory and all below it and waits until all is at rest": also what had been
/// severed just before and is not at rest, as in the kernel, where it is linked until it is.
#[test]
fn removing_a_directory_outlasts_earlier_removals_below_it() {
    let log = Log::new();
    let door = Door::new();
    let _open = OpenAtEnd(Arc::clone(&door));
    let tree = Tree::new();
    let dir = tree.root().add_dir("d", Mode::DIR).unwrap();
    let driver: Watched = Watched::with_door(&log, &door);
    let file = dir.add_file("f", Mode::RW, driver).unwrap();
    let held = tree.client(Caller::OWNER).open("/d/f", OpenFlags::READ).unwrap();
    let reader = Sleeper::spawn(move || held.read_at(&mut [0; 64], 0));
    door.until_inside(1);
    drop(file);
    let draining = dir.sever();
    let is_done_early = draining.is_done();
    door.open();
    within("the removal", move || draining.wait()).unwrap();
    assert_eq!(reader.join("the reader"), Ok(11));
    assert!(!is_done_early, "an operation was still inside a file below");
}

/// What `into_inner` says must be true at every moment of a removal by somebody else: the handle
/// comes back, or the driver does.
#[test]
fn taking_the_driver_races_a_removal_by_somebody_else() {
    for round in 0..200 {
        let tree = Tree::new();
        let dir = tree.root().add_dir("d", Mode::DIR).unwrap();
        let files: Vec<_> = (0..64)
            .map(|at| dir.add_file(at.to_string(), Mode::RO, show(|_| ())).unwrap())
            .collect();
        let barrier = Arc::new(Barrier::new(2));
        let taker = {
            let barrier = Arc::clone(&barrier);
            Sleeper::spawn(move || {
                barrier.wait();
                for mut file in files {
                    // Spins until the removal has come to this file.
                    while let Err(back) = file.into_inner() {
                        file = back;
                    }
                }
            })
        };
        barrier.wait();
        dir.remove().unwrap();
        taker.join(&format!("taking drivers back, round {round}"));
    }
}

#[test]
fn a_file_tells_who_holds_it() {
    let tree = Tree::new();
    let file = tree.root().add_file("f", Mode::new(0o666), show(|_| ())).unwrap();
    assert_eq!(file.holders(), []);
    let one = tree.client(Caller::new(1, 2, 3)).open("/f", OpenFlags::READ).unwrap();
    let two = tree.client(Caller::new(4, 5, 6)).open("/f", OpenFlags::READ_WRITE).unwrap();
    let first = Holder { pid: 3, uid: 1, gid: 2, flags: OpenFlags::READ };
    let second = Holder { pid: 6, uid: 4, gid: 5, flags: OpenFlags::READ_WRITE };
    assert_eq!(file.holders(), [first, second.clone()]);
    let twin = one.clone();
    drop(one);
    assert_eq!(file.holders().len(), 2, "duplicates are one holder");
    drop(twin);
    assert_eq!(file.holders(), [second]);
    file.hide().wait().unwrap();
    assert_eq!(file.holders(), []);
    drop(two);
}

#[test]
fn every_operation_knows_its_caller() {
    /// User, group, process, and whether it may administer.
    type Asked = (u32, u32, u32, bool);
    struct Asks(Arc<Mutex<Vec<Asked>>>);
    impl Asks {
        fn note(&self, caller: &Caller) {
            let is_admin = caller.is_capable(kernfs::Capability::SYS_ADMIN);
            self.0.lock().unwrap().push((caller.uid, caller.gid, caller.pid, is_admin));
        }
    }
    impl FileOps for Asks {
        type Open = ();
        fn open(&self, op: &mut OpenOp<'_>) -> Result<(), Errno> {
            self.note(op.caller());
            Ok(())
        }
        fn read(&self, (): &mut (), op: &mut ReadOp<'_>) -> Result<(), Errno> {
            self.note(op.caller());
            Ok(())
        }
        fn write(&self, (): &mut (), op: &mut WriteOp<'_>) -> Result<usize, Errno> {
            self.note(op.caller());
            Ok(0)
        }
    }
    let asked = Arc::default();
    let tree = Tree::new();
    let _f = tree.root().add_file("f", Mode::new(0o666), Asks(Arc::clone(&asked))).unwrap();
    let caller = Caller::new(1, 2, 3).with_capable(|_, capability| capability.0 == 21);
    let held = tree.client(caller).open("/f", OpenFlags::READ_WRITE).unwrap();
    held.read_at(&mut [0; 4], 0).unwrap();
    // Somebody else may use the descriptor.
    let other = Caller::new(7, 8, 9);
    let mut cx = Context::from_waker(Waker::noop());
    let mut waiter = Waiter::new();
    assert!(held.poll_write_at(&mut cx, &mut waiter, &other, b"", 0).is_ready());
    assert_eq!(*asked.lock().unwrap(), [(1, 2, 3, true), (1, 2, 3, true), (7, 8, 9, false)]);
}

#[test]
fn a_scope_ends_what_it_exposed_even_on_panic_or_after_a_client_removed_it() {
    struct Counts<'a>(&'a AtomicU32);
    impl FileOps for Counts<'_> {
        type Open = ();
        fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
            Ok(())
        }
        fn read(&self, (): &mut (), op: &mut ReadOp<'_>) -> Result<(), Errno> {
            op.push(self.0.fetch_add(1, SeqCst).to_string().as_bytes());
            Ok(())
        }
        fn release(&self, (): ()) {
            self.0.fetch_add(100, SeqCst);
        }
    }
    let tree = Tree::builder().dir_ops(Allowed).build();
    let client = tree.client(Caller::OWNER);
    for (way, end) in ["returns", "panics", "was unlinked"].into_iter().enumerate() {
        let count = AtomicU32::new(0);
        let mut held = None;
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            tree.root().scope(|scope| {
                let notifier = scope.expose("n", Mode::RO, Counts(&count)).unwrap();
                let rejected = scope.expose("n", Mode::RO, Counts(&count)).unwrap_err();
                assert_eq!(rejected.errno(), Errno::EEXIST);
                notifier.notify();
                let open = client.open("/n", OpenFlags::READ).unwrap();
                assert_eq!(open.read_to_string().unwrap(), "0");
                held = Some(open);
                assert!(way != 1, "a body that panics");
                if way == 2 {
                    client.unlink("/n").unwrap().wait().unwrap();
                }
            })
        }));
        assert_eq!(result.is_err(), way == 1, "{end}");
        assert_eq!(count.load(SeqCst), 101, "{end}: read once, released once");
        assert_eq!(held.unwrap().read_at(&mut [0; 4], 0), Err(Errno::ENODEV), "{end}");
        assert_eq!(client.lookup("/n").unwrap_err(), Errno::ENOENT, "{end}");
    }
}

#[test]
fn a_scope_waits_for_an_operation_that_is_inside() {
    struct Slow<'a>(&'a Door, &'a AtomicUsize);
    impl FileOps for Slow<'_> {
        type Open = ();
        fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
            Ok(())
        }
        fn read(&self, (): &mut (), _: &mut ReadOp<'_>) -> Result<(), Errno> {
            self.0.pass();
            self.1.fetch_add(1, SeqCst);
            Ok(())
        }
    }
    within("a scope over a slow operation", || {
        let tree = Tree::new();
        let client = tree.client(Caller::OWNER);
        let door = Door::new();
        let done = AtomicUsize::new(0);
        let mut reader = None;
        tree.root()
            .scope(|scope| {
                scope.expose("slow", Mode::RO, Slow(&door, &done)).unwrap();
                let held = client.open("/slow", OpenFlags::READ).unwrap();
                reader = Some(Sleeper::spawn(move || held.read_at(&mut [0; 4], 0)));
                door.until_inside(1);
                let door = Arc::clone(&door);
                thread::spawn(move || {
                    // Opened while the scope is about to wait, or waits.
                    thread::yield_now();
                    door.open();
                });
            })
            .unwrap();
        assert_eq!(done.load(SeqCst), 1, "the scope ended after the operation had left");
        assert_eq!(reader.unwrap().join("the reader"), Ok(0));
    });
}

#[test]
fn dropping_the_tree_ends_everything_and_leaks_nothing() {
    let log = Log::new();
    let tree = Tree::new();
    let dir = tree.root().add_dir("d", Mode::DIR).unwrap();
    let sub = dir.add_dir("sub", Mode::DIR).unwrap();
    let driver: Watched = Watched::new(&log);
    sub.add_file("f", Mode::RW, driver).unwrap().keep();
    let client = tree.client(Caller::OWNER);
    let held = client.open("/d/sub/f", OpenFlags::READ).unwrap();
    sub.keep();
    dir.keep();
    tree.remove().unwrap();
    assert_eq!(log.dropped.load(SeqCst), 1);
    assert_eq!(client.lookup("/d").unwrap_err(), Errno::ENOENT);
    assert_eq!(client.root().attr().nlink, 0);
    drop(held);
    log.assert_ended(1);
}

/// A directory that is being renamed by a client is in use by that callback: removing it waits,
/// as it waits for mkdir and rmdir ("active ref on node and on new parent").
#[test]
fn removing_a_directory_waits_for_a_rename_of_it_that_is_inside() {
    struct SlowRename(Arc<Door>);
    impl DirOps for SlowRename {
        fn rename(&self, _: &Child, _: &Dir, _: &Name, _: &DirOp<'_>) -> Result<(), Errno> {
            self.0.pass();
            Ok(())
        }
    }
    let door = Door::new();
    let _open = OpenAtEnd(Arc::clone(&door));
    let tree = Tree::builder().dir_ops(SlowRename(Arc::clone(&door))).build();
    let from = tree.root().add_dir("from", Mode::DIR).unwrap();
    let _to = tree.root().add_dir("to", Mode::DIR).unwrap();
    let client = tree.client(Caller::OWNER);
    let renamer = Sleeper::spawn(move || client.rename("/from", "/to/x"));
    door.until_inside(1);
    let draining = from.sever();
    let is_done_early = draining.is_done();
    door.open();
    within("the removal", move || draining.wait()).unwrap();
    assert_eq!(renamer.join("the rename"), Ok(()));
    assert!(!is_done_early, "the callback was still inside");
}

/// What a removal is stuck on is the last operation, whoever did the same before.
#[test]
fn a_stuck_removal_names_who_is_inside_now() {
    struct StopsAtTheStart(Arc<Door>);
    impl FileOps for StopsAtTheStart {
        type Open = ();
        const KIND: Kind = Kind::Binary;
        fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
            Ok(())
        }
        fn read(&self, (): &mut (), op: &mut ReadOp<'_>) -> Result<(), Errno> {
            if op.offset() == 0 {
                self.0.pass();
            }
            op.push(b"1");
            Ok(())
        }
    }
    const PID: u32 = 7;
    let door = Door::new();
    let _open = OpenAtEnd(Arc::clone(&door));
    let tree = Tree::new();
    let driver = StopsAtTheStart(Arc::clone(&door));
    let file = tree.root().add_file("f", FileOptions::new(Mode::RO).size(8), driver).unwrap();
    let held = tree.client(Caller::OWNER).open("/f", OpenFlags::READ).unwrap();
    let read = |uid, offset| {
        let (mut waiter, caller) = (Waiter::new(), Caller::new(uid, 0, PID));
        let mut cx = Context::from_waker(Waker::noop());
        held.poll_read_at(&mut cx, &mut waiter, &caller, &mut [0], offset)
    };
    thread::scope(|scope| {
        // A process that changes its user.
        assert_eq!(read(1, 4), Poll::Ready(Ok(1)));
        let reader = scope.spawn(|| read(2, 0));
        door.until_inside(1);
        let draining = file.sever();
        let [stuck] = &draining.stuck_on()[..] else { panic!("one is inside") };
        assert_eq!((stuck.operation, stuck.pid, stuck.uid), (Operation::Read, PID, 2));
        assert_eq!((stuck.ino, stuck.name.as_bytes()), (held.inode().ino(), &b"f"[..]));
        let early = draining.wait_timeout(Duration::ZERO).map(drop).unwrap_err();
        let text = early.to_string();
        assert!(
            text.starts_with("removal not waited for: ") && text.contains("ETIMEDOUT"),
            "{text}"
        );
        assert!(text.ends_with("; read of f by process 7 is still inside"), "{text}");
        door.open();
        assert_eq!(reader.join().unwrap(), Poll::Ready(Ok(1)));
        early.into_draining().wait().unwrap();
    });
}

#[test]
fn joined_removals_are_done_when_both_are() {
    let tree = Tree::new();
    let log = Log::new();
    let doors = [Door::new(), Door::new()];
    let _open = doors.each_ref().map(|door| OpenAtEnd(Arc::clone(door)));
    let add = |name: &str, door: &Arc<Door>| {
        let driver: Watched = Watched::with_door(&log, door);
        tree.root().add_file(name, Mode::RO, driver).unwrap()
    };
    let files = [add("a", &doors[0]), add("b", &doors[1])];
    let held =
        ["/a", "/b"].map(|path| tree.client(Caller::OWNER).open(path, OpenFlags::READ).unwrap());
    let readers = held.each_ref().map(|held| {
        let held = held.clone();
        Sleeper::spawn(move || held.read_at(&mut [0; 4], 0).is_ok())
    });
    doors.iter().for_each(|door| door.until_inside(1));
    let [a, b] = files.map(File::sever);
    let both = a.and(b);
    assert_eq!(both.stuck_on().len(), 2);
    let [first, second] = readers;
    doors[1].open();
    second.join("the second reader");
    // Both are still open: what counts is who is inside.
    eventually("one to come to rest", || both.stuck_on().len() == 1);
    assert_eq!(both.stuck_on()[0].ino, held[0].inode().ino());
    assert!(!both.is_done(), "the other one is still inside");
    let remover = Sleeper::spawn(move || both.wait().unwrap());
    doors[0].open();
    first.join("the first reader");
    remover.join("the remover");
    let gone = tree.root().add_file("c", Mode::RO, show(|_| ())).unwrap().sever();
    assert!(gone.and(tree.root().add_dir("d", Mode::DIR).unwrap().sever()).is_done());
}
