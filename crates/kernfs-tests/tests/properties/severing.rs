//! P6 to P10: what severing does to open files, to operations inside, and to what is attached.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use kernfs::{
    Caller, Dir, DirOp, DirOps, Errno, Events, File, FileOps, Kind, MapOp, Mode, Name, OpenFile,
    OpenFlags, OpenOp, Operation, Ops, ReadOp, ReadShared, Stuck, Tree, Waiter, WriteOp,
};
use kernfs_tests::probe::{
    CountingWaker, Door, Log, OpenAtEnd, Sleeper, Watched, eventually, within,
};

use super::fixture::{ENDS, End, Owner, for_every_shape, race};

/// P6: what was severed stays dead for every operation when the node is shown again or its name
/// comes back, whatever callbacks the driver has; mappings too.
#[test]
fn p06_stay_dead() {
    for_every_shape!(severed_open_files_stay_dead);
}

fn severed_open_files_stay_dead<const K: u8, const R: bool>() {
    let owner = Owner::<K, R>::new();
    let client = owner.client();
    let held = owner.open();
    let mapping = (K == 2).then(|| held.map(0, 8, true).unwrap());
    let ino = held.inode().ino();

    for round in 0..3 {
        owner.file.hide().wait().unwrap();
        assert_dead(&held, mapping.as_ref());
        assert_eq!(client.open("/d/f", OpenFlags::READ).unwrap_err(), Errno::ENOENT);
        assert_eq!(held.inode().open(client.caller(), OpenFlags::READ).unwrap_err(), Errno::ENODEV);
        owner.file.show();
        owner.file.notify();
        assert_dead(&held, mapping.as_ref());
        let fresh = owner.open();
        assert_eq!(fresh.inode().ino(), ino, "round {round}: the node is the same");
        assert_eq!(fresh.read_at(&mut [0; 4], 0), Ok(4));
        // A reopen by way of the old descriptor is an open like any other.
        held.inode().open(client.caller(), OpenFlags::READ).unwrap();
        assert_dead(&held, mapping.as_ref());
    }

    let Owner { dir, file, log, tree } = owner;
    drop(file.remove().unwrap());
    let again = dir.add_file("f", Mode::RW, Watched::<K, R>::new(&log)).unwrap();
    again.notify();
    let fresh = client.open("/d/f", OpenFlags::READ_WRITE).unwrap();
    assert_ne!(fresh.inode().ino(), ino);
    assert_eq!(fresh.read_at(&mut [0; 4], 0), Ok(4));
    assert_dead(&held, mapping.as_ref());
    drop((fresh, held, mapping, tree));
    log.assert_clean();
}

fn assert_dead(held: &OpenFile, mapping: Option<&kernfs::Mapping>) {
    assert!(held.is_severed());
    assert_eq!(held.read_at(&mut [0; 4], 0), Err(Errno::ENODEV));
    assert_eq!(held.write_at(b"1", 0), Err(Errno::ENODEV));
    assert_eq!(held.write_at(b"", 0), Err(Errno::ENODEV));
    assert_eq!(held.seek(0), Err(Errno::ENODEV));
    assert_eq!(held.map(0, 1, false).unwrap_err(), Errno::ENODEV);
    assert_eq!(held.ready(Events::all()), Events::SEVERED);
    if let Some(mapping) = mapping {
        assert_eq!(mapping.read_at(&mut [0; 4], 0), Err(Errno::ENODEV));
        assert_eq!(mapping.write_at(&[0; 4], 0), Err(Errno::ENODEV));
    }
}

/// P7: release comes exactly once, at the earlier of last close and severing, when they race.
#[test]
fn p07_release_exactly_once() {
    for end in ENDS {
        let log = Log::new();
        let seen = Arc::clone(&log);
        race(
            500,
            move |_| {
                let owner = Owner::<0, true>::with(Watched::new(&seen), Arc::clone(&seen));
                seen.gone.store(false, SeqCst);
                (owner.open(), owner)
            },
            move |owner| drop(end.apply(owner)),
            drop,
        );
        log.assert_ended(500);
    }
}

/// P7: nor does it matter how many operations and duplicates are about when it is severed.
#[test]
fn p07_release_exactly_once_under_a_storm_of_operations() {
    for round in 0..24 {
        let owner = Owner::<2, true>::new();
        let stop = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..3).map(|at| spawn_client(&owner, at, &stop)).collect();
        for _ in 0..20 {
            owner.file.hide().wait().unwrap();
            owner.file.show();
            thread::yield_now();
        }
        let log = Arc::clone(&owner.log);
        let rest = ENDS[round % 7].apply(owner);
        stop.store(true, SeqCst);
        for client in clients {
            client.join("a client in a storm");
        }
        drop(rest);
        log.assert_ended(log.opened.load(SeqCst));
    }
}

/// Opens, uses and closes the file until it is told to stop; counts nothing but on the log.
fn spawn_client<const K: u8, const R: bool>(
    owner: &Owner<K, R>,
    at: usize,
    stop: &Arc<AtomicBool>,
) -> Sleeper<()> {
    let client = owner.client();
    let stop = Arc::clone(stop);
    Sleeper::spawn(move || {
        while !stop.load(SeqCst) {
            let held = match client.open("/d/f", OpenFlags::READ_WRITE) {
                Ok(held) => held,
                Err(errno) => {
                    assert!(matches!(errno, Errno::ENODEV | Errno::ENOENT), "{errno:?}");
                    thread::yield_now();
                    continue;
                }
            };
            let twin = held.clone();
            let other = thread::spawn(move || {
                let read = twin.read_at(&mut [0; 8], 0);
                assert!(matches!(read, Ok(_) | Err(Errno::ENODEV)), "{read:?}");
                twin
            });
            for _ in 0..at + 1 {
                let wrote = held.write_at(b"12", 0);
                assert!(matches!(wrote, Ok(2) | Err(Errno::ENODEV)), "{wrote:?}");
                let mapped = held.map(0, 4, true).map(drop);
                assert!(matches!(mapped, Ok(()) | Err(Errno::ENODEV)), "{mapped:?}");
            }
            drop(held);
            drop(other.join().unwrap());
        }
    })
}

/// P7: a failed open is not released; neither is one that panics.
#[test]
fn p07_release_follows_only_a_successful_open() {
    struct Refuses(Arc<Log>);
    impl FileOps for Refuses {
        type Open = ();
        fn open(&self, op: &mut OpenOp<'_>) -> Result<(), Errno> {
            let log = Arc::clone(&self.0);
            op.on_free(move || log.blame("free of an open that failed"));
            match op.caller().uid {
                0 => Err(Errno::EBUSY),
                _ => panic!("no state for this one"),
            }
        }
        fn release(&self, (): ()) {
            self.0.blame("release of an open that failed");
        }
    }
    let log = Log::new();
    let tree = Tree::new();
    let file = tree.root().add_file("f", Mode::RO, Refuses(Arc::clone(&log))).unwrap();
    for (uid, errno) in [(0, Errno::EBUSY), (1, Errno::EIO)] {
        let client = tree.client(Caller::new(uid, 0, 1));
        assert_eq!(client.open("/f", OpenFlags::READ).unwrap_err(), errno);
    }
    assert_eq!(file.holders(), []);
    assert_eq!(tree.usage().open_files, 0);
    drop(file.remove().unwrap());
    log.assert_clean();
}

/// P8: after release no callback of that open file runs, after the removal has returned none of
/// the node, and the owner may drop everything: here it does.
#[test]
fn p08_nothing_after_release() {
    for round in 0..14 {
        let end = ENDS[round % 7];
        let owner = Owner::<0, true>::new();
        let log = Arc::clone(&owner.log);
        let stop = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..3).map(|at| spawn_client(&owner, at, &stop)).collect();
        eventually("the storm has begun", || log.entered.load(SeqCst) > 50);
        let rest = end.apply(owner);
        // Those ends that wait have set `gone`: whatever the driver notices now is a violation.
        if !matches!(end, End::Hide | End::DropHandle | End::DropTree) {
            assert_eq!(log.inside.load(SeqCst), 0, "{end:?}");
            drop(rest);
            assert_eq!(log.dropped.load(SeqCst), 1, "{end:?}");
        } else if end == End::Hide {
            assert_eq!(log.inside.load(SeqCst), 0, "nobody can be inside while it is hidden");
        }
        let entered = log.entered.load(SeqCst);
        for _ in 0..20 {
            thread::yield_now();
        }
        if !matches!(end, End::DropHandle | End::DropTree) {
            assert_eq!(log.entered.load(SeqCst), entered, "{end:?}");
        }
        stop.store(true, SeqCst);
        for client in clients {
            client.join("a client after the removal");
        }
        log.assert_clean();
    }
}

/// A driver that is held at a door inside one operation, and notes the order of things.
#[derive(Debug)]
struct Slow {
    at: Operation,
    door: Arc<Door>,
    order: Arc<Mutex<Vec<&'static str>>>,
}

impl Slow {
    fn pass(&self, operation: Operation) {
        if operation == self.at {
            self.door.pass();
            self.order.lock().unwrap().push("left");
        }
    }
}

impl FileOps for Slow {
    type Open = ();
    const KIND: Kind = Kind::Binary;
    const OPS: Ops = Ops::all();

    fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
        self.pass(Operation::Open);
        Ok(())
    }
    fn read(&self, (): &mut (), op: &mut ReadOp<'_>) -> Result<(), Errno> {
        self.pass(Operation::Read);
        op.push(b"data");
        Ok(())
    }
    fn write(&self, (): &mut (), op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        self.pass(Operation::Write);
        Ok(op.data().len())
    }
    fn mmap(&self, (): &mut (), _: &MapOp<'_>) -> Result<(), Errno> {
        self.pass(Operation::Mmap);
        Ok(())
    }
    fn release(&self, (): ()) {
        self.pass(Operation::Release);
        self.order.lock().unwrap().push("released");
    }
}

/// P9: removal waits for the operation that is inside, tells which it is and whose, and returns
/// only after it has left; a wait with a deadline gives up and gives the removal back.
#[test]
fn p09_synchronous_and_finite() {
    use Operation::{Mmap, Open, Read, Release, Write};
    for at in [Open, Read, Write, Mmap, Release] {
        let door = Door::new();
        let _open = OpenAtEnd(Arc::clone(&door));
        let order = Arc::default();
        let slow = Slow { at, door: Arc::clone(&door), order: Arc::clone(&order) };
        let tree = Tree::new();
        let file = tree.root().add_file("slow", Mode::new(0o666), slow).unwrap();
        let ino = file.ino();
        let client = tree.client(Caller::new(1000, 1000, 4242));
        let inside = Sleeper::spawn(move || operate(&client, at));
        door.until_inside(1);

        let draining = file.sever();
        assert!(!draining.is_done(), "{at:?}");
        let name = tree.root().add_dir("slow", Mode::DIR).unwrap().name();
        let (pid, uid) = if at == Release { (0, 0) } else { (4242, 1000) };
        let stuck = Stuck { ino, name, operation: at, pid, uid };
        assert_eq!(draining.stuck_on(), [stuck]);
        let early = draining.wait_timeout(Duration::from_millis(5)).unwrap_err();
        assert_eq!(early.errno(), Errno::ETIMEDOUT);
        let told = early.to_string();
        assert!(told.contains(&format!("{at} of slow by process {pid}")), "{told}");

        let remover = Sleeper::spawn(move || early.into_draining().wait().map(drop));
        remover.until_asleep();
        assert!(remover.result_now().is_none(), "{at:?} is still inside");
        assert_eq!(*order.lock().unwrap(), [] as [&str; 0]);
        door.open();
        remover.join("a removal whose operation has left").unwrap();
        assert_eq!(*order.lock().unwrap(), ["left", "released"], "{at:?}");
        // The operation was inside before the severing, so its answer stands.
        assert_eq!(inside.join("the operation"), Ok(()), "{at:?}");
    }
}

/// Opens a file and runs one operation on it.
fn operate(client: &kernfs::Client, operation: Operation) -> Result<(), Errno> {
    let held = client.open("/slow", OpenFlags::READ_WRITE)?;
    match operation {
        Operation::Read => held.read_at(&mut [0; 8], 0).map(drop),
        Operation::Write => held.write_at(b"data", 0).map(drop),
        Operation::Mmap => held.map(0, 8, true).map(drop),
        _ => Ok(()),
    }
}

/// P9: the same for reads that share an open file, all of which are waited for.
#[test]
fn p09_synchronous_and_finite_with_shared_reads() {
    #[derive(Debug)]
    struct Shared(Arc<Door>);
    impl FileOps for Shared {
        type Open = u32;
        const KIND: Kind = Kind::Binary;
        const OPS: Ops = Ops::READ;
        const READ_SHARED: Option<ReadShared<Self>> = Some(ReadShared::new(|shared, _, op| {
            shared.0.pass();
            op.push(b"data");
            Ok(())
        }));
        fn open(&self, _: &mut OpenOp<'_>) -> Result<u32, Errno> {
            Ok(7)
        }
    }
    let door = Door::new();
    let _open = OpenAtEnd(Arc::clone(&door));
    let tree = Tree::new();
    let file = tree.root().add_file("f", Mode::RO, Shared(Arc::clone(&door))).unwrap();
    let held = tree.client(Caller::OWNER).open("/f", OpenFlags::READ).unwrap();
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let held = held.clone();
            Sleeper::spawn(move || held.read_at(&mut [0; 8], 0))
        })
        .collect();
    door.until_inside(3);
    let draining = file.sever();
    assert_eq!(draining.stuck_on().len(), 1, "one open file, whatever the number of readers");
    let early = draining.wait_timeout(Duration::from_millis(5)).unwrap_err();
    assert_eq!(held.read_at(&mut [0; 8], 0), Err(Errno::ENODEV), "no fourth one enters");
    door.open();
    within("a removal after shared reads", || early.into_draining().wait().map(drop)).unwrap();
    for reader in readers {
        assert_eq!(reader.join("a shared read"), Ok(4));
    }
}

/// P9: and for the callback of a directory.
#[test]
fn p09_synchronous_and_finite_with_a_callback_of_a_directory() {
    struct SlowMkdir(Arc<Door>);
    impl DirOps for SlowMkdir {
        fn mkdir(&self, parent: &Dir, name: &Name, _: &DirOp<'_>) -> Result<(), Errno> {
            self.0.pass();
            parent.add_dir(name, Mode::DIR)?.keep();
            Ok(())
        }
    }
    let door = Door::new();
    let _open = OpenAtEnd(Arc::clone(&door));
    let tree = Tree::builder().dir_ops(SlowMkdir(Arc::clone(&door))).build();
    let dir = tree.root().add_dir("d", Mode::DIR).unwrap();
    let client = tree.client(Caller::new(0, 0, 31));
    let maker = Sleeper::spawn(move || client.mkdir("/d/new", Mode::DIR));
    door.until_inside(1);
    let draining = dir.sever();
    let stuck = draining.stuck_on();
    assert_eq!(stuck.len(), 1);
    assert_eq!((stuck[0].operation, stuck[0].pid), (Operation::Mkdir, 31));
    let early = draining.wait_timeout(Duration::from_millis(5)).unwrap_err();
    door.open();
    within("a removal after mkdir", || early.into_draining().wait()).unwrap();
    // Nothing can be added below what is being removed.
    assert_eq!(maker.join("mkdir"), Err(Errno::ENOENT));
    assert_eq!(tree.usage().nodes, 1);
}

/// P9: idle descriptors, sleepers that never run again, entrants that queue, replies that nobody
/// gives and data that a client has not copied yet delay nothing: the removal is done at once.
#[test]
fn p09_finite_whoever_holds_on() {
    struct Defers;
    impl FileOps for Defers {
        type Open = ();
        fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
            Ok(())
        }
        fn write(&self, (): &mut (), op: &mut WriteOp<'_>) -> Result<usize, Errno> {
            std::mem::forget(op.defer());
            Ok(0)
        }
    }
    let tree = Tree::new();
    let file = tree.root().add_file("f", Mode::RW, Defers).unwrap();
    let client = tree.client(Caller::OWNER);
    let (_, waker) = CountingWaker::new();
    let mut cx = Context::from_waker(&waker);
    let mut held = Vec::new();
    for _ in 0..100 {
        let open = client.open("/f", OpenFlags::READ_WRITE).unwrap();
        let mut write = Waiter::new();
        let polled = open.poll_write_at(&mut cx, &mut write, &Caller::OWNER, b"1", 0);
        assert_eq!(polled, Poll::Pending);
        let mut ready = Waiter::new();
        let _ = open.poll_ready(&mut cx, &mut ready, Events::HUP);
        held.push((open, write, ready));
    }
    let draining = file.sever();
    assert!(draining.is_done());
    assert_eq!(draining.stuck_on(), []);
    let _ = draining.wait().unwrap();
    for (open, mut write, _ready) in held {
        let polled = open.poll_write_at(&mut cx, &mut write, &Caller::OWNER, b"1", 0);
        assert_eq!(polled, Poll::Ready(Err(Errno::ENODEV)));
    }
}

/// P9: an entrant that queues behind the operation inside is let go, and is not waited for.
#[test]
fn p09_finite_with_a_queue_of_entrants() {
    let log = Log::new();
    let door = Door::new();
    let _open = OpenAtEnd(Arc::clone(&door));
    let owner = Owner::<0, true>::with(Watched::with_door(&log, &door), Arc::clone(&log));
    let held = owner.open();
    let inside = Sleeper::spawn({
        let held = held.clone();
        move || held.read_at(&mut [0; 64], 0)
    });
    door.until_inside(1);
    let queued: Vec<_> = (0..3)
        .map(|_| {
            let held = held.clone();
            let sleeper = Sleeper::spawn(move || held.write_at(b"1", 0));
            sleeper.until_asleep();
            sleeper
        })
        .collect();
    let (_, waker) = CountingWaker::new();
    let mut never_again = Waiter::new();
    let polled = held.poll_write_at(
        &mut Context::from_waker(&waker),
        &mut never_again,
        &Caller::OWNER,
        b"1",
        0,
    );
    assert_eq!(polled, Poll::Pending);
    let draining = owner.file.sever();
    door.open();
    drop(within("a removal with a queue", || draining.wait()).unwrap());
    assert_eq!(inside.join("the one inside"), Ok(11));
    for sleeper in queued {
        assert_eq!(sleeper.join("one in the queue"), Err(Errno::ENODEV));
    }
    assert_eq!(log.entered.load(SeqCst), 2, "open and read: nobody from the queue came in");
}

/// A driver that removes its own file when it is told to.
struct SelfRemover {
    me: Arc<Mutex<Option<File<Self>>>>,
    /// Another descriptor of the same open file.
    twin: Arc<Mutex<Option<OpenFile>>>,
    log: Arc<Log>,
}

impl FileOps for SelfRemover {
    type Open = String;

    fn open(&self, _: &mut OpenOp<'_>) -> Result<String, Errno> {
        Ok("mine".into())
    }

    fn read(&self, _: &mut String, op: &mut ReadOp<'_>) -> Result<(), Errno> {
        op.push(b"alive");
        Ok(())
    }

    fn write(&self, mine: &mut String, op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        let me = self.me.lock().unwrap().take().ok_or(Errno::ENODEV)?;
        let twin = self.twin.lock().unwrap().clone().unwrap();
        if op.text()? == "hide and show" {
            drop(me.hide());
            me.show();
            self.expect_no_way_in(&twin);
            *self.me.lock().unwrap() = Some(me);
        } else {
            let draining = me.sever();
            self.expect_no_way_in(&twin);
            assert!(!draining.is_done(), "this operation is still inside");
            op.answer_after(draining);
        }
        // What this operation has checked out is still its own.
        mine.push_str(" still");
        assert_eq!(self.log.released.load(SeqCst), 0);
        Ok(op.data().len())
    }

    fn release(&self, mine: String) {
        assert_eq!(mine, "mine still");
        self.log.released.fetch_add(1, SeqCst);
    }
}

impl SelfRemover {
    /// Once severed, not even the operation inside finds a second way to its state.
    fn expect_no_way_in(&self, twin: &OpenFile) {
        assert_eq!(twin.read_at(&mut [0; 8], 0), Err(Errno::ENODEV));
        assert_eq!(twin.write_at(b"again", 0), Err(Errno::ENODEV));
        assert_eq!(twin.ready(Events::all()), Events::SEVERED);
    }
}

impl Drop for SelfRemover {
    fn drop(&mut self) {
        self.log.dropped.fetch_add(1, SeqCst);
    }
}

/// P10: an operation that severs its own open file keeps what it checked out until it returns,
/// then loses it for ever: the next access fails although the node may be alive again.
#[test]
fn p10_revalidation_is_forced() {
    for command in ["hide and show", "remove"] {
        let log = Log::new();
        let me = Arc::default();
        let twin = Arc::default();
        let driver =
            SelfRemover { me: Arc::clone(&me), twin: Arc::clone(&twin), log: Arc::clone(&log) };
        let tree = Tree::new();
        *me.lock().unwrap() = Some(tree.root().add_file("f", Mode::RW, driver).unwrap());
        let client = tree.client(Caller::OWNER);
        let held = client.open("/f", OpenFlags::READ_WRITE).unwrap();
        *twin.lock().unwrap() = Some(held.clone());
        let writer = held.clone();
        let wrote =
            within("a write that severs itself", move || writer.write_at(command.as_bytes(), 0));
        assert_eq!(wrote, Ok(command.len()), "{command}: it was answered, after the removal");
        assert_eq!(log.released.load(SeqCst), 1, "{command}: released when it left");
        assert_eq!(held.read_at(&mut [0; 8], 0), Err(Errno::ENODEV), "{command}");
        let reopened = client.open("/f", OpenFlags::READ);
        if command == "remove" {
            assert_eq!(reopened.unwrap_err(), Errno::ENOENT);
            assert_eq!(log.dropped.load(SeqCst), 1, "the writer dropped the driver it removed");
        } else {
            assert_eq!(reopened.unwrap().read_to_string().unwrap(), "alive");
            *twin.lock().unwrap() = None;
            drop(me.lock().unwrap().take().unwrap());
        }
    }
}
