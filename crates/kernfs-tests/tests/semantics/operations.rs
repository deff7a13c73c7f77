//! Operations that call back into the tree, panic, or wait where they must not.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use kernfs::{
    Caller, Child, Client, Dir, DirOp, DirOps, Draining, Errno, Events, File, FileOps, Kind, Mode,
    Name, OpenFile, OpenFlags, OpenOp, Operation, ReadOp, ReadShared, Tree, WriteOp, show,
};
use kernfs_tests::probe::{Log, Sleeper, Watched, within};

type Body = Box<dyn Fn(Operation) -> Result<(), Errno> + Send + Sync>;

/// A driver that runs a function in each operation.
struct Runs(Arc<Mutex<Option<Arc<Body>>>>);

impl Runs {
    fn run(&self, operation: Operation) -> Result<(), Errno> {
        let body = self.0.lock().unwrap().clone();
        body.map_or(Ok(()), |body| body(operation))
    }
}

impl FileOps for Runs {
    type Open = ();

    fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
        self.run(Operation::Open)
    }
    fn read(&self, (): &mut (), op: &mut ReadOp<'_>) -> Result<(), Errno> {
        op.push(b"text");
        self.run(Operation::Read)
    }
    fn write(&self, (): &mut (), op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        self.run(Operation::Write).map(|()| op.data().len())
    }
    fn release(&self, (): ()) {
        let _ = self.run(Operation::Release);
    }
}

struct Fixture {
    tree: Tree,
    client: Client,
    file: File<Runs>,
    body: Arc<Mutex<Option<Arc<Body>>>>,
}

impl Fixture {
    fn new() -> Self {
        let tree = Tree::new();
        let client = tree.client(Caller::OWNER);
        let body = Arc::default();
        let file = tree.root().add_file("f", Mode::RW, Runs(Arc::clone(&body))).unwrap();
        Self { tree, client, file, body }
    }

    fn open(&self) -> OpenFile {
        self.client.open("/f", OpenFlags::READ_WRITE).unwrap()
    }

    fn during(&self, body: impl Fn(Operation) -> Result<(), Errno> + Send + Sync + 'static) {
        let old = self.body.lock().unwrap().replace(Arc::new(Box::new(body)));
        drop(old);
    }
}

/// Takes the function out; what it holds is closed outside of the lock that `release` takes.
fn calm(body: &Mutex<Option<Arc<Body>>>) {
    let old = body.lock().unwrap().take();
    drop(old);
}

#[test]
fn reentry_into_the_same_open_file_is_edeadlk_and_into_another_is_fine() {
    let fixture = Fixture::new();
    let held = fixture.open();
    let other = fixture.open();
    let (twin, sibling) = (held.clone(), other.clone());
    let log = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&log);
    fixture.during(move |operation| {
        // Once only: the sibling runs this body as well.
        if operation == Operation::Write {
            let mut seen = seen.lock().unwrap();
            seen.push(twin.read_at(&mut [0; 4], 0));
            seen.push(twin.write_at(b"1", 0));
            seen.push(sibling.read_at(&mut [0; 4], 0));
        }
        Ok(())
    });
    let wrote = within("a write that re-enters", move || held.write_at(b"1", 0));
    assert_eq!(wrote, Ok(1));
    assert_eq!(*log.lock().unwrap(), [Err(Errno::EDEADLK), Err(Errno::EDEADLK), Ok(4)]);
    calm(&fixture.body);
}

#[test]
fn an_operation_may_close_its_own_open_file() {
    let log = Log::new();
    let fixture = Fixture::new();
    let slot = Arc::new(Mutex::new(Some(fixture.open())));
    let mine = Arc::clone(&slot);
    let seen = Arc::clone(&log);
    fixture.during(move |operation| {
        match operation {
            Operation::Write => drop(mine.lock().unwrap().take()),
            Operation::Release => {
                seen.released.fetch_add(1, SeqCst);
            }
            _ => {}
        }
        Ok(())
    });
    let held = slot.lock().unwrap().clone().unwrap();
    // The last descriptor but the one that the operation itself uses.
    assert_eq!(held.write_at(b"1", 0), Ok(1));
    assert_eq!(log.released.load(SeqCst), 0);
    drop(held);
    assert_eq!(log.released.load(SeqCst), 1);
    calm(&fixture.body);
}

#[test]
fn waiting_for_a_removal_inside_an_operation_gives_it_back() {
    let Fixture { tree, client, file, body } = Fixture::new();
    let log = Log::new();
    let door = kernfs_tests::probe::Door::new();
    let _open = kernfs_tests::probe::OpenAtEnd(Arc::clone(&door));
    let busy: Watched = Watched::with_door(&log, &door);
    let busy = tree.root().add_file("busy", Mode::RW, busy).unwrap();
    let reader = {
        let held = client.open("/busy", OpenFlags::READ).unwrap();
        Sleeper::spawn(move || held.read_at(&mut [0; 64], 0))
    };
    door.until_inside(1);
    let busy = Mutex::new(Some(busy));
    let back = Arc::new(Mutex::new(None));
    let given = Arc::clone(&back);
    *body.lock().unwrap() = Some(Arc::new(Box::new(move |operation| {
        if operation == Operation::Write {
            let error = busy.lock().unwrap().take().unwrap().remove().unwrap_err();
            assert_eq!(error.errno(), Errno::EDEADLK);
            let draining = error.into_draining();
            let error = draining.wait_timeout(std::time::Duration::from_secs(9)).unwrap_err();
            assert_eq!(error.errno(), Errno::EDEADLK, "nor with a deadline");
            *given.lock().unwrap() = Some(error.into_draining());
        }
        Ok(())
    })));
    let held = client.open("/f", OpenFlags::WRITE).unwrap();
    assert_eq!(within("a write that removes", move || held.write_at(b"1", 0)), Ok(1));
    let draining = back.lock().unwrap().take().unwrap();
    assert!(!draining.is_done());
    door.open();
    drop(within("the removal, outside", || draining.wait()).unwrap());
    assert_eq!(reader.join("the reader"), Ok(11));
    calm(&body);
    drop(file);
}

#[test]
fn a_removal_that_is_done_at_once_is_no_deadlock_even_inside_an_operation() {
    let Fixture { tree, client, file, body } = Fixture::new();
    let idle = tree.root().add_file("idle", Mode::RO, show(|_| ())).unwrap();
    let idle = Mutex::new(Some(idle));
    *body.lock().unwrap() = Some(Arc::new(Box::new(move |_| {
        if let Some(idle) = idle.lock().unwrap().take() {
            let _ = idle.remove().unwrap();
        }
        Ok(())
    })));
    let held = client.open("/f", OpenFlags::WRITE).unwrap();
    assert_eq!(held.write_at(b"1", 0), Ok(1));
    assert_eq!(client.lookup("/idle").unwrap_err(), Errno::ENOENT);
    calm(&body);
    drop(file);
}

#[test]
fn a_removal_in_another_tree_can_be_waited_for_inside_an_operation() {
    let Fixture { tree: _tree, client, file, body } = Fixture::new();
    let other = Tree::new();
    let there = other.root().add_file("there", Mode::RO, show(|_| ())).unwrap();
    let held_there = other.client(Caller::OWNER).open("/there", OpenFlags::READ).unwrap();
    let there = Mutex::new(Some(there));
    *body.lock().unwrap() = Some(Arc::new(Box::new(move |_| {
        if let Some(there) = there.lock().unwrap().take() {
            let _ = there.remove().unwrap();
        }
        Ok(())
    })));
    assert_eq!(client.open("/f", OpenFlags::WRITE).unwrap().write_at(b"1", 0), Ok(1));
    assert!(held_there.is_severed());
    calm(&body);
    drop(file);
}

#[test]
fn a_scope_inside_an_operation_is_edeadlk() {
    let Fixture { tree, client, file, body } = Fixture::new();
    let tree = Arc::new(tree);
    let inner = Arc::clone(&tree);
    *body.lock().unwrap() = Some(Arc::new(Box::new(move |_| inner.root().scope(|_| ()))));
    let opened = client.open("/f", OpenFlags::WRITE).map(drop);
    assert_eq!(opened, Err(Errno::EDEADLK));
    assert_eq!(tree.root().scope(|_| 7), Ok(7));
    calm(&body);
    drop(file);
}

/// Release is an operation like any other: who waits in it for the removal that it is part of
/// would wait for itself.
#[test]
fn waiting_in_release_for_its_own_removal_is_edeadlk() {
    let Fixture { tree: _tree, client, file, body } = Fixture::new();
    let held = client.open("/f", OpenFlags::READ).unwrap();
    let draining: Arc<Mutex<Option<Draining<Runs>>>> = Arc::default();
    let slot = Arc::new(Mutex::new(Some(file)));
    let (to_remove, result) = (Arc::clone(&slot), Arc::clone(&draining));
    let outcome = Arc::new(Mutex::new(None));
    let told = Arc::clone(&outcome);
    *body.lock().unwrap() = Some(Arc::new(Box::new(move |operation| {
        if operation == Operation::Release {
            // The close below runs this while the removal is under way from in here.
            if let Some(file) = to_remove.lock().unwrap().take() {
                match file.remove() {
                    Ok(_) => *told.lock().unwrap() = Some(Ok(())),
                    Err(error) => {
                        *told.lock().unwrap() = Some(Err(error.errno()));
                        *result.lock().unwrap() = Some(error.into_draining());
                    }
                }
            }
        }
        Ok(())
    })));
    within("a release that waits for itself", move || drop(held));
    assert_eq!(*outcome.lock().unwrap(), Some(Err(Errno::EDEADLK)));
    let draining = draining.lock().unwrap().take().unwrap();
    drop(within("the removal, outside", || draining.wait()).unwrap());
    calm(&body);
}

#[test]
fn a_panic_in_an_operation_is_eio_and_closes_that_open_file_only() {
    for at in [Operation::Read, Operation::Write] {
        let fixture = Fixture::new();
        let (held, bystander) = (fixture.open(), fixture.open());
        let _ = held.read_at(&mut [0; 8], 0);
        let sleeper = Sleeper::spawn({
            let held = held.clone();
            move || held.wait(Events::PRI)
        });
        sleeper.until_asleep();
        fixture.during(move |operation| {
            assert_ne!(operation, at, "a driver that panics");
            Ok(())
        });
        let result = match at {
            Operation::Read => held.read_at(&mut [0; 8], 0),
            _ => held.write_at(b"1", 0),
        };
        assert_eq!(result, Err(Errno::EIO));
        assert_eq!(held.read_at(&mut [0; 8], 0), Err(Errno::ENODEV));
        assert_eq!(held.ready(Events::all()), Events::SEVERED);
        assert_eq!(sleeper.join("a waiter"), Events::PRI | Events::ERR);
        fixture.during(|_| Ok(()));
        assert_eq!(bystander.read_at(&mut [0; 8], 0), Ok(4), "nobody else notices");
        assert!(fixture.client.open("/f", OpenFlags::READ).is_ok());
        within("the removal", move || fixture.file.remove().map(drop)).unwrap();
    }
}

#[test]
fn a_panic_in_a_shared_read_closes_that_open_file_only() {
    struct Shared(AtomicBool);
    impl FileOps for Shared {
        type Open = ();
        const KIND: Kind = Kind::Binary;
        const READ_SHARED: Option<ReadShared<Self>> = Some(ReadShared::new(|shared, (), op| {
            assert!(!shared.0.load(SeqCst), "a driver that panics");
            op.push(b"data");
            Ok(())
        }));
        fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
            Ok(())
        }
    }
    let tree = Tree::new();
    let file = tree.root().add_file("f", Mode::RO, Shared(AtomicBool::new(true))).unwrap();
    let open = || tree.client(Caller::OWNER).open("/f", OpenFlags::READ).unwrap();
    let (held, bystander) = (open(), open());
    assert_eq!(held.read_at(&mut [0; 8], 0), Err(Errno::EIO));
    file.0.store(false, SeqCst);
    assert_eq!(held.read_at(&mut [0; 8], 0), Err(Errno::ENODEV));
    assert_eq!(held.ready(Events::all()), Events::SEVERED);
    assert_eq!(bystander.read_at(&mut [0; 8], 0), Ok(4), "nobody else notices");
    within("the removal", move || file.remove().map(drop)).unwrap();
}

#[test]
fn a_panic_in_open_or_release_harms_nobody() {
    let fixture = Fixture::new();
    let held = fixture.open();
    fixture.during(|operation| {
        assert_ne!(operation, Operation::Open, "a driver that panics");
        assert_ne!(operation, Operation::Release, "a driver that panics");
        Ok(())
    });
    assert_eq!(fixture.client.open("/f", OpenFlags::READ).unwrap_err(), Errno::EIO);
    assert_eq!(fixture.tree.usage().open_files, 1);
    let log = Log::new();
    let file = fixture.file;
    within("the removal", move || file.remove().map(drop)).unwrap();
    assert!(held.is_severed());
    drop(held);
    assert_eq!(fixture.tree.usage().open_files, 0);
    log.assert_clean();
}

#[test]
fn a_panic_in_free_harms_nobody() {
    struct Frees(Arc<Log>);
    impl FileOps for Frees {
        type Open = ();
        fn open(&self, op: &mut OpenOp<'_>) -> Result<(), Errno> {
            let log = Arc::clone(&self.0);
            op.on_free(|| panic!("a free that panics"));
            op.on_free(move || {
                log.freed.fetch_add(1, SeqCst);
            });
            Ok(())
        }
    }
    let tree = Tree::new();
    let log = Log::new();
    let file = tree.root().add_file("f", Mode::RO, Frees(Arc::clone(&log))).unwrap();
    drop(tree.client(Caller::OWNER).open("/f", OpenFlags::READ).unwrap());
    assert_eq!(log.freed.load(SeqCst), 1, "the others run all the same");
    drop(file.remove().unwrap());
}

/// Panics wherever a client asks for a change of structure.
struct PanickingDirOps;

impl DirOps for PanickingDirOps {
    fn mkdir(&self, _: &Dir, _: &Name, _: &DirOp<'_>) -> Result<(), Errno> {
        panic!("mkdir that panics")
    }
    fn rmdir(&self, _: &Child, _: &DirOp<'_>) -> Result<Draining, Errno> {
        panic!("rmdir that panics")
    }
    fn unlink(&self, _: &Child, _: &DirOp<'_>) -> Result<Draining, Errno> {
        panic!("unlink that panics")
    }
    fn rename(&self, _: &Child, _: &Dir, _: &Name, _: &DirOp<'_>) -> Result<(), Errno> {
        panic!("rename that panics")
    }
}

#[test]
fn a_panic_in_a_change_of_structure_is_eio_and_leaves_the_directory_alive() {
    let tree = Tree::builder().dir_ops(PanickingDirOps).build();
    let dir = tree.root().add_dir("d", Mode::DIR).unwrap();
    let sub = dir.add_dir("sub", Mode::DIR).unwrap();
    let _f = dir.add_file("f", Mode::RO, show(|_| ())).unwrap();
    let client = tree.client(Caller::OWNER);
    for _ in 0..2 {
        assert_eq!(client.mkdir("/d/x", Mode::DIR), Err(Errno::EIO));
        assert_eq!(client.rmdir("/d/sub").unwrap_err(), Errno::EIO);
        assert_eq!(client.unlink("/d/f").unwrap_err(), Errno::EIO);
        assert_eq!(client.rename("/d/sub", "/d/y"), Err(Errno::EIO));
    }
    assert!(!sub.is_removed());
    within("the removal", move || dir.remove()).unwrap();
}

#[test]
fn clients_change_nothing_unless_the_owner_lets_them() {
    struct Nothing;
    impl DirOps for Nothing {}
    for tree in [Tree::new(), Tree::builder().dir_ops(Nothing).build()] {
        let dir = tree.root().add_dir("d", Mode::DIR).unwrap();
        let _f = dir.add_file("f", Mode::RO, show(|_| ())).unwrap();
        let client = tree.client(Caller::OWNER);
        assert_eq!(client.mkdir("/d/x", Mode::DIR), Err(Errno::EPERM));
        assert_eq!(client.rmdir("/d").unwrap_err(), Errno::EPERM);
        assert_eq!(client.unlink("/d/f").unwrap_err(), Errno::EPERM);
        assert_eq!(client.rename("/d/f", "/f"), Err(Errno::EPERM));
        let stranger = tree.client(Caller::new(5, 5, 5));
        assert_eq!(stranger.mkdir("/d/x", Mode::DIR), Err(Errno::EACCES), "the mode is first");
        assert_eq!(stranger.rmdir("/d").unwrap_err(), Errno::EACCES);
        assert_eq!(client.rmdir("/").unwrap_err(), Errno::EBUSY);
        assert_eq!(client.rmdir("/d/.").unwrap_err(), Errno::EINVAL);
        assert_eq!(client.rmdir("/d/..").unwrap_err(), Errno::ENOTEMPTY);
        assert_eq!(client.mkdir("/d", Mode::DIR), Err(Errno::EEXIST));
        assert_eq!(client.mkdir("/", Mode::DIR), Err(Errno::EEXIST));
        assert_eq!(client.unlink("/d").unwrap_err(), Errno::EISDIR);
    }
}
