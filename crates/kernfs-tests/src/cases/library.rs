//! G. Library level only: what no system call can show; these use kernfs directly.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Barrier, Mutex};
use std::task::{Context, Poll};
use std::thread;

use kernfs::{
    Caller, Client, DirOptions, Errno, Events, File, FileOps, Kind, MapOp, Mode, OpenFlags, OpenOp,
    Ops, ReadOp, Reply, Tag, Tree, Waiter, WriteOp, show,
};

use super::{Case, Env};
use crate::probe::{CountingWaker, Door, Log, OpenAtEnd, Sleeper, Watched, within};
use crate::subject::Needs;

const GROUP: &str = "G. Library level";

pub(super) const CASES: &[Case] = &[
    case("80", "removal waits for a callback inside, release comes after it", blocked_callback),
    case("81", "of two self-removals one wins, the other is answered at once", self_removal),
    case("82", "a deferred operation cannot reach its state after removal", deferred),
    case("83", "a failed open is not released", failed_open),
    case("84", "release comes once when close and remove race", close_and_remove),
    case("85", "mappings die, also those of other opens, and hiding kills them too", mappings),
    case("86", "no operation starts in a subtree once its removal was entered", subtree),
    case("87", "adding below what is being removed is ENOENT", add_below_removed),
    case("88", "tags must fit; one name with two tags coexists", tags),
    case("89", "notify from release and after removal does nothing", notify),
    case("90", "a waiter may leave after the owner has gone", late_waiter),
    case("91", "a file without release stays dead when shown again", without_release),
    case("92", "two mappings made at once both go", two_mappings),
];

const fn case(number: &'static str, title: &'static str, run: fn(&Env<'_>)) -> Case {
    Case { number, group: GROUP, title, needs: Needs::LIBRARY, run }
}

fn tree() -> (Tree, Client) {
    let tree = Tree::new();
    let client = tree.client(Caller::OWNER);
    (tree, client)
}

fn blocked_callback(_: &Env<'_>) {
    let (tree, client) = tree();
    let (log, door) = (Log::new(), Door::new());
    let _open = OpenAtEnd(Arc::clone(&door));
    let driver: Watched = Watched::with_door(&log, &door);
    let file = tree.root().add_file("f", Mode::RW, driver).unwrap();
    let held = client.open("/f", OpenFlags::READ).unwrap();
    let reader = Sleeper::spawn(move || held.read_at(&mut [0; 64], 0));
    door.until_inside(1);
    let draining = file.sever();
    let remover = Sleeper::spawn(move || drop(draining.wait().unwrap()));
    remover.until_asleep();
    assert!(remover.result_now().is_none());
    assert_eq!(log.released.load(SeqCst), 0);
    door.open();
    remover.join("the removal");
    assert_eq!(log.released.load(SeqCst), 1);
    assert_eq!(reader.join("the reader"), Ok(11));
    log.assert_ended(1);
}

/// Removes its own file at any write.
struct SelfRemover(Arc<Mutex<Option<File<Self>>>>, Arc<Barrier>);

impl FileOps for SelfRemover {
    type Open = ();

    fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
        Ok(())
    }

    fn write(&self, (): &mut (), op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        // Both are inside now.
        self.1.wait();
        let me = self.0.lock().unwrap().take().ok_or(Errno::ENODEV)?;
        op.answer_after(me.sever());
        Ok(op.data().len())
    }
}

fn self_removal(_: &Env<'_>) {
    let (tree, client) = tree();
    let me = Arc::default();
    let driver = SelfRemover(Arc::clone(&me), Arc::new(Barrier::new(2)));
    *me.lock().unwrap() = Some(tree.root().add_file("f", Mode::RW, driver).unwrap());
    let writers = [(); 2].map(|()| {
        let held = client.open("/f", OpenFlags::WRITE).unwrap();
        Sleeper::spawn(move || held.write_at(b"remove", 0))
    });
    let mut results =
        writers.map(|writer| writer.join("a writer that removes").map_err(Errno::raw));
    results.sort_unstable();
    assert_eq!(results, [Ok(6), Err(Errno::ENODEV.raw())]);
    assert_eq!(client.lookup("/f").unwrap_err(), Errno::ENOENT);
}

/// Takes the reply of each read along.
struct Defers(Arc<Mutex<Vec<Reply<Vec<u8>>>>>);

impl FileOps for Defers {
    type Open = Arc<()>;

    fn open(&self, _: &mut OpenOp<'_>) -> Result<Arc<()>, Errno> {
        Ok(Arc::default())
    }

    fn read(&self, _: &mut Arc<()>, op: &mut ReadOp<'_>) -> Result<(), Errno> {
        self.0.lock().unwrap().push(op.defer());
        Ok(())
    }
}

fn deferred(_: &Env<'_>) {
    let (tree, client) = tree();
    let replies = Arc::default();
    let file = tree.root().add_file("f", Mode::RO, Defers(Arc::clone(&replies))).unwrap();
    let held = client.open("/f", OpenFlags::READ).unwrap();
    let reader = Sleeper::spawn(move || held.read_at(&mut [0; 16], 0));
    crate::probe::eventually("the read is deferred", || replies.lock().unwrap().len() == 1);
    reader.until_asleep();
    let driver = file.remove().unwrap();
    assert_eq!(reader.join("a deferred read"), Err(Errno::ENODEV));
    let reply = driver.0.lock().unwrap().pop().unwrap();
    assert_eq!(reply.answer(Ok(vec![1])), Err(Ok(vec![1])));
}

fn failed_open(_: &Env<'_>) {
    struct Refuses(Arc<Log>);
    impl FileOps for Refuses {
        type Open = ();
        fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
            Err(Errno::EBUSY)
        }
        fn release(&self, (): ()) {
            self.0.blame("released though never opened");
        }
    }
    let (tree, client) = tree();
    let log = Log::new();
    let file = tree.root().add_file("f", Mode::RO, Refuses(Arc::clone(&log))).unwrap();
    assert_eq!(client.open("/f", OpenFlags::READ).unwrap_err(), Errno::EBUSY);
    drop(file.remove().unwrap());
    log.assert_clean();
}

fn close_and_remove(_: &Env<'_>) {
    let log = Log::new();
    for _ in 0..300 {
        let (tree, client) = tree();
        let driver: Watched = Watched::new(&log);
        let file = tree.root().add_file("f", Mode::RW, driver).unwrap();
        let held = client.open("/f", OpenFlags::READ).unwrap();
        let barrier = Barrier::new(2);
        thread::scope(|scope| {
            scope.spawn(|| {
                barrier.wait();
                drop(held);
            });
            barrier.wait();
            drop(file.remove().unwrap());
        });
    }
    log.assert_ended(300);
}

fn mappings(_: &Env<'_>) {
    for hide in [false, true] {
        let (tree, client) = tree();
        let log = Log::new();
        let driver: Watched<2> = Watched::new(&log);
        let file = tree.root().add_file("f", Mode::RW, driver).unwrap();
        let opens = [(); 2].map(|()| client.open("/f", OpenFlags::READ_WRITE).unwrap());
        let maps = opens.each_ref().map(|held| held.map(0, 8, true).unwrap());
        for map in &maps {
            assert_eq!(map.read_at(&mut [0; 8], 0), Ok(()));
            assert_eq!(map.read_at(&mut [0; 8], 1), Err(Errno::EFAULT), "beyond the mapping");
        }
        if hide {
            file.hide().wait().unwrap();
            file.show();
        } else {
            drop(file.remove().unwrap());
        }
        for map in &maps {
            assert_eq!(map.read_at(&mut [0; 8], 0), Err(Errno::ENODEV));
            assert_eq!(map.write_at(&[0; 8], 0), Err(Errno::ENODEV));
        }
        assert_eq!(opens[0].map(0, 8, true).unwrap_err(), Errno::ENODEV);
        log.assert_clean();
    }
}

fn subtree(_: &Env<'_>) {
    let (tree, client) = tree();
    let (log, door) = (Log::new(), Door::new());
    let _open = OpenAtEnd(Arc::clone(&door));
    let dir = tree.root().add_dir("d", Mode::DIR).unwrap();
    let deep = dir.add_dir("deep", Mode::DIR).unwrap();
    let slow: Watched = Watched::with_door(&log, &door);
    deep.add_file("slow", Mode::RW, slow).unwrap().keep();
    let quick: Watched = Watched::new(&log);
    let quick = dir.add_file("quick", Mode::RW, quick).unwrap();
    let idle = client.open("/d/quick", OpenFlags::READ_WRITE).unwrap();
    let (inode, deep_inode) = (idle.inode(), client.lookup("/d/deep").unwrap());
    let held = client.open("/d/deep/slow", OpenFlags::READ).unwrap();
    let reader = Sleeper::spawn(move || held.read_at(&mut [0; 64], 0));
    door.until_inside(1);
    let draining = dir.sever();
    assert!(!draining.is_done());
    let entered = log.entered.load(SeqCst);
    // The removal has been entered and waits for `slow`: everything else is dead already.
    assert_eq!(idle.read_at(&mut [0; 8], 0), Err(Errno::ENODEV));
    assert_eq!(inode.open(client.caller(), OpenFlags::READ).unwrap_err(), Errno::ENODEV);
    assert_eq!(deep_inode.lookup(client.caller(), "slow").unwrap_err(), Errno::ENOENT);
    assert_eq!(client.lookup("/d").unwrap_err(), Errno::ENOENT);
    assert_eq!(log.entered.load(SeqCst), entered);
    door.open();
    within("a removal of a subtree", || draining.wait()).unwrap();
    assert_eq!(reader.join("the one inside"), Ok(11));
    assert_eq!(log.dropped.load(SeqCst), 1, "the kept driver was dropped by the remover");
    drop(quick.into_inner().unwrap());
    log.assert_clean();
}

fn add_below_removed(_: &Env<'_>) {
    let (tree, _) = tree();
    let dir = tree.root().add_dir("d", Mode::DIR).unwrap();
    let sub = dir.add_dir("sub", Mode::DIR).unwrap();
    let other = tree.root().add_file("f", Mode::RO, show(|_| ())).unwrap();
    dir.remove().unwrap();
    assert!(sub.is_removed());
    assert_eq!(sub.add_dir("x", Mode::DIR).unwrap_err(), Errno::ENOENT);
    let refused = sub.add_file("x", Mode::RO, show(|_| ())).unwrap_err();
    assert_eq!(refused.errno(), Errno::ENOENT);
    assert_eq!(sub.add_link("x", &other).unwrap_err(), Errno::ENOENT);
    assert_eq!(sub.attach("x", &tree.detached_dir(Mode::DIR)).unwrap_err(), Errno::ENOENT);
    assert_eq!(other.rename(&sub, "x").unwrap_err(), Errno::ENOENT);
}

fn tags(_: &Env<'_>) {
    let tree = Tree::new();
    let class = DirOptions::new(Mode::DIR).tagged_children();
    let class = tree.root().add_dir("class", class).unwrap();
    let tagged = |tag| DirOptions::new(Mode::DIR).tag(Tag(tag));
    assert_eq!(
        class.add_dir("x", Mode::DIR).unwrap_err(),
        Errno::EINVAL,
        "no tag where one must be"
    );
    assert_eq!(tree.root().add_dir("x", tagged(1)).unwrap_err(), Errno::EINVAL, "a tag too many");
    let one = class.add_dir("x", tagged(1)).unwrap();
    let two = class.add_dir("x", tagged(2)).unwrap();
    assert_eq!(class.add_dir("x", tagged(1)).unwrap_err(), Errno::EEXIST);
    let ino = |tag| tree.client_in(Caller::OWNER, Tag(tag)).lookup("/class/x").map(|x| x.ino());
    assert_eq!((ino(1), ino(2)), (Ok(one.ino()), Ok(two.ino())));
    assert_eq!(ino(3), Err(Errno::ENOENT));
    let untagged = tree.client(Caller::OWNER);
    assert_eq!(untagged.lookup("/class/x").unwrap_err(), Errno::ENOENT);
}

fn notify(_: &Env<'_>) {
    struct NotifiesAtRelease(Mutex<Option<kernfs::Notifier>>);
    impl FileOps for NotifiesAtRelease {
        type Open = ();
        fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
            Ok(())
        }
        fn release(&self, (): ()) {
            self.0.lock().unwrap().as_ref().unwrap().notify();
        }
    }
    within("notify from release", || {
        let (tree, client) = tree();
        let driver = NotifiesAtRelease(Mutex::default());
        let file = tree.root().add_file("f", Mode::RO, driver).unwrap();
        *file.0.lock().unwrap() = Some(file.notifier());
        let opens = [(); 3].map(|()| client.open("/f", OpenFlags::READ).unwrap());
        let driver = file.remove().unwrap();
        driver.0.lock().unwrap().as_ref().unwrap().notify();
        for held in opens {
            assert_eq!(held.ready(Events::all()), Events::SEVERED);
        }
    });
}

fn late_waiter(_: &Env<'_>) {
    let (tree, client) = tree();
    let log = Log::new();
    let driver: Watched = Watched::new(&log);
    let file = tree.root().add_file("f", Mode::RW, driver).unwrap();
    let held = client.open("/f", OpenFlags::READ).unwrap();
    held.read_at(&mut [0; 64], 0).unwrap();
    let (woken, waker) = CountingWaker::new();
    let mut waiter = Waiter::new();
    let polled = held.poll_ready(&mut Context::from_waker(&waker), &mut waiter, Events::PRI);
    assert_eq!(polled, Poll::Pending);
    drop(file.remove().unwrap());
    assert_eq!(woken.count(), 1);
    drop((held, client, tree));
    assert_eq!(log.dropped.load(SeqCst), 1);
    drop(waiter);
    log.assert_ended(1);
}

fn without_release(_: &Env<'_>) {
    let (tree, client) = tree();
    // `show` makes drivers that have no release: mainline would bring such a file back to life.
    let file = tree.root().add_file("f", Mode::RO, show(|op| op.push(b"1\n"))).unwrap();
    let held = client.open("/f", OpenFlags::READ).unwrap();
    assert_eq!(held.read_to_vec().unwrap(), b"1\n");
    file.hide().wait().unwrap();
    file.show();
    assert_eq!(held.read_to_vec(), Err(Errno::ENODEV));
    assert_eq!(held.ready(Events::all()), Events::SEVERED);
}

/// A file of declared size whose mappings are agreed to at a barrier.
struct Mapped(Barrier);

impl FileOps for Mapped {
    type Open = ();
    const KIND: Kind = Kind::Binary;
    const OPS: Ops = Ops::all();

    fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
        Ok(())
    }

    fn read(&self, (): &mut (), op: &mut ReadOp<'_>) -> Result<(), Errno> {
        let len = op.max_len();
        op.push(&vec![7; len]);
        Ok(())
    }

    fn mmap(&self, (): &mut (), _: &MapOp<'_>) -> Result<(), Errno> {
        self.0.wait();
        Ok(())
    }
}

fn two_mappings(_: &Env<'_>) {
    let (tree, client) = tree();
    let file = tree.root().add_file("f", Mode::RW, Mapped(Barrier::new(2))).unwrap();
    let mappers = [(); 2].map(|()| {
        let held = client.open("/f", OpenFlags::READ).unwrap();
        Sleeper::spawn(move || held.map(0, 16, false))
    });
    let maps = mappers.map(|mapper| mapper.join("a mapping").unwrap());
    assert!(maps.iter().all(|map| map.read_at(&mut [0; 4], 0) == Ok(())));
    let _ = file.remove().unwrap();
    assert!(maps.iter().all(|map| map.read_at(&mut [0; 4], 0) == Err(Errno::ENODEV)));
}
