//! Front ends and the change stream.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::Context;
use std::time::Duration;

use kernfs::{
    Ack, Caller, Change, Client, Errno, Events, FileOps, FrontEnd, Mode, Notifier, OpenFlags,
    OpenOp, ReadOp, SetAttr, Severed, Tree, Waiter, show,
};
use kernfs_tests::probe::{CountingWaker, Log, Sleeper, Watched, block_on, within};

fn file(dir: &kernfs::Dir, name: &str) -> kernfs::File<kernfs::Show<fn(&mut ReadOp<'_>)>> {
    dir.add_file(name, Mode::RO, show((|_| ()) as fn(&mut ReadOp<'_>))).unwrap()
}

/// A front end that keeps its acknowledgements, and looks at the tree when it is told.
#[derive(Default)]
struct Slow {
    acks: Mutex<Vec<Ack>>,
    client: Mutex<Option<Client>>,
    seen: Mutex<Vec<String>>,
}

impl FrontEnd for Slow {
    fn severed(&self, severed: &Severed<'_>, ack: Ack) {
        // No lock is held: it may look around.
        if let Some(client) = &*self.client.lock().unwrap() {
            assert_eq!(client.lookup("/f").unwrap_err(), Errno::ENOENT, "gone already");
        }
        self.seen.lock().unwrap().push(format!("severed {}", severed.inos().len()));
        self.acks.lock().unwrap().push(ack);
    }

    fn changed(&self, change: &Change) {
        let what = match change {
            Change::Added(entry) => format!("added {}", entry.name),
            Change::Renamed { from, to } => format!("renamed {} {}", from.name, to.name),
            Change::Shown(entry) => format!("shown {}", entry.name),
            Change::Notified { .. } => "notified".into(),
            Change::Attributes { .. } => "attributes".into(),
            other => format!("{other:?}"),
        };
        self.seen.lock().unwrap().push(what);
    }
}

#[test]
fn a_removal_is_done_when_each_front_end_has_acknowledged() {
    let tree = Tree::new();
    let fronts = [(); 2].map(|()| Arc::new(Slow::default()));
    let guards =
        fronts.each_ref().map(|front| tree.register(Arc::clone(front) as Arc<dyn FrontEnd>));
    *fronts[0].client.lock().unwrap() = Some(tree.client(Caller::OWNER));
    for hide in [true, false] {
        let f = file(tree.root(), "f");
        let (remover, draining) = if hide {
            let draining = f.hide();
            assert_eq!(draining.stuck_on(), [], "front ends are not operations");
            (None, draining)
        } else {
            (Some(()), f.sever().detach())
        };
        assert!(!draining.is_done());
        let early = draining.wait_timeout(Duration::from_millis(2)).unwrap_err();
        assert_eq!(early.errno(), Errno::ETIMEDOUT);
        let draining = early.into_draining();
        fronts[0].acks.lock().unwrap().clear();
        assert!(!draining.is_done(), "one of two");
        let waiter = Sleeper::spawn(move || draining.wait());
        waiter.until_asleep();
        fronts[1].acks.lock().unwrap().clear();
        waiter.join("a removal that was acknowledged").unwrap();
        assert_eq!(remover.is_some(), !hide);
    }
    drop(guards);
    // The handle of the hidden file was dropped: that severing was told as well. No more now.
    let f = file(tree.root(), "f");
    let before = fronts[0].seen.lock().unwrap().len();
    let _ = f.remove().unwrap();
    assert_eq!(fronts[0].seen.lock().unwrap().len(), before, "unregistered");
}

#[test]
fn front_ends_hear_of_changes_before_the_owners_call_returns() {
    let tree = Tree::new();
    let front = Arc::new(Slow::default());
    let _guard = tree.register(Arc::clone(&front) as Arc<dyn FrontEnd>);
    let f = file(tree.root(), "a");
    f.rename(tree.root(), "b").unwrap();
    f.notify();
    f.set_attr(&SetAttr { mode: Some(Mode::RW), ..SetAttr::default() });
    drop(f.hide());
    f.show();
    let expected = ["added a", "renamed a b", "notified", "attributes", "severed 1", "shown b"];
    assert_eq!(*front.seen.lock().unwrap(), expected);
}

#[test]
fn the_change_stream_tells_all_in_order_and_coalesces_notifications() {
    let tree = Tree::new();
    let mut changes = tree.changes(16);
    let f = file(tree.root(), "f");
    let g = file(tree.root(), "g");
    for _ in 0..100 {
        f.notify();
        g.notify();
    }
    assert!(matches!(changes.try_recv(), Some(Change::Added(entry)) if entry.name == "f"));
    assert!(matches!(changes.try_recv(), Some(Change::Added(entry)) if entry.name == "g"));
    assert_eq!(changes.try_recv(), Some(Change::Notified { ino: f.ino() }));
    f.notify();
    assert_eq!(changes.try_recv(), Some(Change::Notified { ino: g.ino() }));
    assert_eq!(
        changes.try_recv(),
        Some(Change::Notified { ino: f.ino() }),
        "news since it was read"
    );
    assert_eq!(changes.try_recv(), None);
    let reader = Sleeper::spawn(move || (changes.recv(), changes));
    reader.until_asleep();
    g.notify();
    let (change, mut changes) = reader.join("a reader of changes");
    assert_eq!(change, Some(Change::Notified { ino: g.ino() }));
    f.hide().wait().unwrap();
    f.notify();
    assert!(matches!(changes.try_recv(), Some(Change::Hidden(_))));
    assert_eq!(changes.try_recv(), None, "nobody sees a hidden file change");
    tree.client(Caller::OWNER)
        .lookup("/g")
        .unwrap()
        .set_attr(&Caller::OWNER, &SetAttr::default())
        .unwrap();
    assert_eq!(changes.try_recv(), Some(Change::Attributes { ino: g.ino() }));
}

/// Hiding what is hidden or removed, and showing what is not hidden, changes nothing, so that
/// nobody is told of it.
#[test]
fn hiding_and_showing_are_told_only_where_they_change_something() {
    let tree = Tree::new();
    let f = file(tree.root(), "f");
    let mut changes = tree.changes(16);
    let mut told = || std::iter::from_fn(|| changes.try_recv()).collect::<Vec<_>>();
    f.show();
    assert_eq!(told(), [], "it is not hidden");
    f.hide().wait().unwrap();
    assert!(matches!(told()[..], [Change::Hidden(_)]));
    f.hide().wait().unwrap();
    assert_eq!(told(), [], "it is hidden already");
    f.show();
    assert!(matches!(told()[..], [Change::Shown(_)]));
    f.show();
    assert_eq!(told(), [], "it is shown already");

    f.hide().wait().unwrap();
    let removal = tree.root().sever_child("f").unwrap();
    assert!(matches!(told()[..], [Change::Hidden(_), ..]));
    removal.wait().unwrap();
    f.show();
    f.hide().wait().unwrap();
    assert_eq!(told(), [], "it is removed");
}

/// A driver that keeps what it is given at open.
#[derive(Default)]
struct Announces(Mutex<Vec<Notifier>>);

impl FileOps for Announces {
    type Open = ();

    fn open(&self, op: &mut OpenOp<'_>) -> Result<(), Errno> {
        self.0.lock().unwrap().push(op.notifier());
        // Nobody is told of a file that is being opened, but nothing is wrong with it either.
        op.notifier().announce();
        Ok(())
    }

    fn read(&self, (): &mut (), _: &mut ReadOp<'_>) -> Result<(), Errno> {
        Ok(())
    }
}

#[test]
fn a_driver_tells_watchers_of_its_file_without_waking_pollers() {
    let tree = Tree::new();
    let f = tree.root().add_file("f", Mode::RO, Announces::default()).unwrap();
    let g = tree.root().add_file("g", Mode::RO, Announces::default()).unwrap();
    let mut changes = tree.changes(16);
    let client = tree.client(Caller::OWNER);
    let held = ["/f", "/f", "/g"].map(|path| client.open(path, OpenFlags::READ).unwrap());
    let notified = |ino| Some(Change::Notified { ino });
    assert_eq!([(); 2].map(|()| changes.try_recv()), [notified(f.ino()), notified(g.ino())]);
    let kept = f.0.lock().unwrap().clone();
    assert_eq!(kept[0], kept[1], "of the same file");
    assert_eq!(kept[0], f.notifier());
    assert_ne!(kept[0], g.notifier());

    held[0].read_to_string().unwrap();
    let (woken, waker) = CountingWaker::new();
    let (mut cx, mut waiter) = (Context::from_waker(&waker), Waiter::new());
    assert!(held[0].poll_ready(&mut cx, &mut waiter, Events::PRI).is_pending());
    kept[1].announce();
    assert_eq!((woken.count(), changes.try_recv()), (0, notified(f.ino())));
    assert_eq!(held[0].ready(Events::PRI), Events::empty());
    kept[1].notify();
    assert_eq!((woken.count(), changes.try_recv()), (1, notified(f.ino())));
    assert_eq!(held[0].ready(Events::PRI), Events::CHANGED);

    f.hide().wait().unwrap();
    assert!(matches!(changes.try_recv(), Some(Change::Hidden(_))));
    kept[0].announce();
    assert_eq!(changes.try_recv(), None, "nobody sees a hidden file change");
    f.show();
    assert!(matches!(changes.try_recv(), Some(Change::Shown(_))));
    kept[0].announce();
    assert_eq!(changes.try_recv(), notified(f.ino()), "the file is there again");
    drop(f.remove().unwrap());
    assert!(matches!(changes.try_recv(), Some(Change::Removed(_))));
    kept[0].announce();
    kept[0].notify();
    assert_eq!(changes.try_recv(), None);
}

#[test]
fn a_slow_reader_of_changes_delays_nobody_and_is_told_to_look_again() {
    let tree = Tree::new();
    let mut changes = tree.changes(4);
    let files: Vec<_> = (0..100).map(|at| file(tree.root(), &at.to_string())).collect();
    assert_eq!(changes.try_recv(), Some(Change::Resync));
    assert_eq!(changes.try_recv(), None, "one word for all that was lost");
    files[0].notify();
    assert_eq!(changes.try_recv(), Some(Change::Notified { ino: files[0].ino() }));
    let _more: Vec<_> = (100..104).map(|at| file(tree.root(), &at.to_string())).collect();
    for at in 100..104 {
        let change = changes.try_recv();
        let is_it = matches!(&change, Some(Change::Added(entry)) if *entry.name == *at.to_string().as_bytes());
        assert!(is_it, "as many as fit are kept: {change:?}");
    }
    drop(changes);
    files[0].notify();
}

#[test]
fn the_end_of_the_tree_ends_the_stream_for_every_reader() {
    let tree = Tree::new();
    let streams = [(); 3].map(|()| tree.changes(8));
    let [mut blocking, mut awaiting, mut polling] = streams;
    let blocked = Sleeper::spawn(move || (blocking.recv(), blocking.recv()));
    let awaited = Sleeper::spawn(move || {
        let first = block_on(awaiting.recv_async(), || ());
        (first, block_on(awaiting.recv_async(), || ()))
    });
    blocked.until_asleep();
    awaited.until_asleep();
    drop(tree);
    for sleeper in [blocked, awaited] {
        let (first, second) = sleeper.join("a reader of changes");
        assert!(matches!(first, Some(Change::Removed(_))), "{first:?}");
        assert_eq!(second, None);
    }
    assert!(matches!(polling.try_recv(), Some(Change::Removed(_))));
    assert_eq!(polling.try_recv(), None);
}

/// No client sees what is being built aside, so nobody is to be told of it: attaching is the news.
#[test]
fn a_subtree_that_is_built_aside_is_news_when_it_is_attached() {
    let tree = Tree::new();
    let mut changes = tree.changes(16);
    let device = tree.detached_dir(Mode::DIR);
    let sub = device.add_dir("sub", Mode::DIR).unwrap();
    let _f = file(&sub, "f");
    assert_eq!(changes.try_recv(), None);
    tree.root().attach("device", &device).unwrap();
    assert!(matches!(changes.try_recv(), Some(Change::Added(entry)) if entry.name == "device"));
    assert_eq!(changes.try_recv(), None);
}

#[test]
fn front_ends_come_and_go_while_files_are_removed() {
    struct Counts(AtomicUsize);
    impl FrontEnd for Counts {
        fn severed(&self, _: &Severed<'_>, ack: Ack) {
            self.0.fetch_add(1, SeqCst);
            drop(ack);
        }
    }
    let tree = Arc::new(Tree::new());
    let churn = {
        let tree = Arc::clone(&tree);
        Sleeper::spawn(move || {
            for _ in 0..500 {
                let front = Arc::new(Counts(AtomicUsize::new(0)));
                let guard = tree.register(Arc::clone(&front) as Arc<dyn FrontEnd>);
                let mut changes = tree.changes(2);
                let _ = changes.try_recv();
                drop(guard);
            }
        })
    };
    let log = Log::new();
    for at in 0..500 {
        let driver: Watched = Watched::new(&log);
        let f = tree.root().add_file("f", Mode::RW, driver).unwrap();
        let held = tree.client(Caller::OWNER).open("/f", OpenFlags::READ).unwrap();
        let what = format!("removal {at} beside front ends that come and go");
        drop(within(&what, move || f.remove()).unwrap());
        drop(held);
    }
    churn.join("front ends that come and go");
    log.assert_ended(500);
}
