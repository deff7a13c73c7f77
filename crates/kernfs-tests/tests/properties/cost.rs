//! P14 to P16: what severing costs, what it leaves, and who hears of it.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use kernfs::{
    Ack, Caller, Change, Errno, Events, FrontEnd, Mode, NodeKind, OpenFlags, Severed, Tree, Waiter,
    show,
};
use kernfs_tests::probe::{CountingWaker, Log, Watched, block_on};

use super::fixture::{End, Owner};

/// P14: severing N open files with waiters does N wake-ups and N releases, and is done without any
/// waiter having run; the work is counted, not timed.
#[test]
fn p14_bounded_cost() {
    for count in [1, 10, 1000] {
        for end in [End::Remove, End::Hide, End::Subtree] {
            let log = Log::new();
            let owner = Owner::<0, true>::with(Watched::new(&log), Arc::clone(&log));
            let opens: Vec<_> = (0..count).map(|_| owner.open_read()).collect();
            let (woken, waker) = CountingWaker::new();
            let mut cx = Context::from_waker(&waker);
            let mut waiters = Vec::new();
            for held in &opens {
                let mut waiter = Waiter::new();
                assert_eq!(held.poll_ready(&mut cx, &mut waiter, Events::PRI), Poll::Pending);
                waiters.push(waiter);
            }
            let entered = log.entered.load(SeqCst);
            // `apply` waits for the drain, on this thread: nobody else is there to help.
            let rest = end.apply(owner);
            assert_eq!(woken.count(), count, "each waiter is woken once");
            assert_eq!(log.released.load(SeqCst), count, "each open file is released once");
            assert_eq!(log.entered.load(SeqCst), entered, "no other callback was needed");
            drop((waiters, opens, rest));
            log.assert_ended(count);
        }
    }
}

/// P14: a notification wakes those who wait, once each, and nobody else.
#[test]
fn p14_bounded_cost_of_notify() {
    let owner = Owner::<0, true>::new();
    let opens: Vec<_> = (0..100).map(|_| owner.open_read()).collect();
    let (woken, waker) = CountingWaker::new();
    let mut cx = Context::from_waker(&waker);
    let mut waiters: Vec<_> = opens.iter().map(|_| Waiter::new()).collect();
    for (held, waiter) in opens.iter().zip(&mut waiters).step_by(2) {
        assert_eq!(held.poll_ready(&mut cx, waiter, Events::PRI), Poll::Pending);
    }
    for _ in 0..10 {
        owner.file.notify();
    }
    assert_eq!(woken.count(), 50);
}

/// P15: what a partial read had already formatted is still delivered after severing, once, in
/// order, then ENODEV; nothing new is rendered.
#[test]
fn p15_partial_state() {
    for end in [End::Remove, End::Hide, End::DropHandle, End::Subtree] {
        let owner = Owner::<0, true>::new();
        let log = Arc::clone(&owner.log);
        let [held, other, unread] = [(); 3].map(|()| owner.open());
        let mut buf = [0; 64];
        assert_eq!(held.read(&mut buf[..5]), Ok(5));
        assert_eq!(other.read(&mut buf[..5]), Ok(5));
        let rest = end.apply(owner);
        let entered = log.entered.load(SeqCst);

        assert_eq!(held.read(&mut buf[5..8]), Ok(3), "{end:?}");
        assert_eq!(held.read(&mut buf[8..]), Ok(3), "{end:?}");
        assert_eq!(&buf[..11], b"0123456789\n");
        assert_eq!(held.read(&mut buf), Err(Errno::ENODEV), "at the end: ENODEV, not 0");
        assert_eq!(held.read_at(&mut buf, 5), Err(Errno::ENODEV), "delivered once");

        // Any other offset is a new read.
        assert_eq!(other.read_at(&mut buf, 0), Err(Errno::ENODEV));
        assert_eq!(other.read_at(&mut buf, 6), Err(Errno::ENODEV));
        assert_eq!(other.read_at(&mut buf, 5), Ok(6), "{end:?}: the rest is still there");
        assert_eq!(unread.read(&mut buf), Err(Errno::ENODEV));
        assert_eq!(log.entered.load(SeqCst), entered, "nothing was rendered");
        drop(rest);
    }
}

/// P15: for records as for text; binary files and streams keep nothing.
#[test]
fn p15_partial_state_of_other_shapes() {
    let mut buf = [0; 64];
    let owner = Owner::<1, true>::new();
    let held = owner.open();
    assert_eq!(held.read(&mut buf[..5]), Ok(5));
    drop(owner.file.remove().unwrap());
    assert_eq!(held.read(&mut buf), Ok(6));
    assert_eq!(held.read(&mut buf), Err(Errno::ENODEV));

    let owner = Owner::<2, true>::new();
    let held = owner.open();
    assert_eq!(held.read(&mut buf[..5]), Ok(5));
    drop(owner.file.remove().unwrap());
    assert_eq!(held.read(&mut buf), Err(Errno::ENODEV));

    let owner = Owner::<3, true>::new();
    let held = owner.open();
    assert_eq!(held.read(&mut buf[..5]), Ok(5));
    drop(owner.file.remove().unwrap());
    assert_eq!(held.read(&mut buf), Err(Errno::ENODEV));
}

/// What a front end was told of severings.
#[derive(Default)]
struct Watcher {
    severed: Mutex<Vec<(Change, Vec<u64>)>>,
}

impl FrontEnd for Watcher {
    fn severed(&self, severed: &Severed<'_>, ack: Ack) {
        let inos = severed.inos().collect();
        self.severed.lock().unwrap().push((severed.change.clone(), inos));
        drop(ack);
    }
}

/// P16: watchers get a terminal event: one for a removed subtree, with name and parent, and at the
/// very end of the tree the end of the stream; front ends hear of each node.
#[test]
fn p16_observability() {
    let tree = Tree::new();
    let dir = tree.root().add_dir("d", Mode::DIR).unwrap();
    let sub = dir.add_dir("sub", Mode::DIR).unwrap();
    let file = sub.add_file("f", Mode::RO, show(|op| op.push(b"1"))).unwrap();
    let lone = tree.root().add_file("lone", Mode::RO, show(|op| op.push(b"2"))).unwrap();
    let inos = [file.ino(), sub.ino(), dir.ino()];
    let held = tree.client(Caller::OWNER).open("/d/sub/f", OpenFlags::READ).unwrap();
    let mut changes = tree.changes(16);
    let watcher = Arc::new(Watcher::default());
    let _guard = tree.register(Arc::clone(&watcher) as Arc<dyn FrontEnd>);

    lone.hide().wait().unwrap();
    let hidden = changes.recv();
    assert!(matches!(&hidden, Some(Change::Hidden(entry)) if entry.name == "lone"), "{hidden:?}");
    lone.show();
    assert!(matches!(changes.recv(), Some(Change::Shown(entry)) if entry.name == "lone"));
    let lone_ino = lone.ino();
    let _ = lone.remove().unwrap();
    let Some(Change::Removed(entry)) = changes.recv() else { panic!("no terminal event") };
    assert_eq!((entry.ino, entry.kind, entry.parent), (lone_ino, NodeKind::File, 1));

    drop(sub);
    let Some(Change::Removed(entry)) = changes.recv() else { panic!("no terminal event") };
    assert_eq!((entry.ino, entry.parent), (inos[1], inos[2]));
    assert_eq!(entry.name, "sub");
    assert_eq!(held.read_at(&mut [0; 4], 0), Err(Errno::ENODEV));
    dir.remove().unwrap();
    let Some(Change::Removed(entry)) = changes.recv() else { panic!("no terminal event") };
    assert_eq!((entry.ino, entry.parent), (inos[2], 1));
    assert_eq!(
        changes.try_recv(),
        None,
        "one event for a subtree, none for what it has lost before"
    );

    {
        let severed = watcher.severed.lock().unwrap();
        let told: Vec<&[u64]> = severed.iter().map(|(_, inos)| &inos[..]).collect();
        assert_eq!(told, [&[lone_ino][..], &[lone_ino], &inos[..2], &inos[2..]]);
        assert!(matches!(severed[0].0, Change::Hidden(_)));
        assert!(severed[1..].iter().all(|(change, _)| matches!(change, Change::Removed(_))));
    }
    drop(file);
    tree.remove().unwrap();
    assert!(matches!(changes.recv(), Some(Change::Removed(entry)) if entry.ino == 1));
    assert_eq!(changes.recv(), None);
    assert_eq!(block_on(changes.recv_async(), || ()), None);
}

/// P16: every descriptor hears of it as well, by poll and by the link count.
#[test]
fn p16_observability_on_the_descriptor() {
    let owner = Owner::<0, true>::new();
    let held = owner.open_read();
    assert_eq!(held.inode().attr().nlink, 1);
    owner.file.hide().wait().unwrap();
    assert_eq!(held.inode().attr().nlink, 1, "hidden is not removed");
    assert_eq!(held.ready(Events::PRI), Events::PRI | Events::ERR);
    drop(owner.file.remove().unwrap());
    assert_eq!(held.inode().attr().nlink, 0);
    assert!(held.inode().is_removed());
}
