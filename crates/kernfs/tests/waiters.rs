//! Waiters can be used again, for another operation and for another file, and leave nothing behind.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use kernfs::{
    Caller, Clock, Errno, Events, FileOps, FileOptions, Kind, Mode, OpenFlags, OpenOp, Ops, ReadOp,
    Readiness, Timestamp, Tree, Waiter, show,
};

/// A waker that counts.
#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn bell() -> (Arc<Bell>, Waker) {
    let bell = Arc::new(Bell::default());
    (Arc::clone(&bell), Waker::from(bell))
}

#[test]
fn a_waiter_that_turns_to_another_file_takes_nobody_elses_place() {
    let tree = Tree::new();
    let files = ["a", "b"].map(|name| {
        tree.root().add_file(name, Mode::RO, show(|op: &mut ReadOp<'_>| op.push(b"1"))).unwrap()
    });
    let client = tree.client(Caller::OWNER);
    let [a, b] = ["/a", "/b"].map(|path| client.open(path, OpenFlags::READ).unwrap());
    assert_eq!((a.read_to_vec().unwrap(), b.read_to_vec().unwrap()), (b"1".into(), b"1".into()));
    let (rings, waker) = bell();
    let mut faithful = Waiter::new();
    let poll = b.poll_ready(&mut Context::from_waker(&waker), &mut faithful, Events::PRI);
    assert!(poll.is_pending());
    let (turned, waker) = bell();
    let mut cx = Context::from_waker(&waker);
    let mut turning = Waiter::new();
    assert!(a.poll_ready(&mut cx, &mut turning, Events::PRI).is_pending());
    assert!(b.poll_ready(&mut cx, &mut turning, Events::PRI).is_pending());
    files[0].notify();
    assert_eq!(turned.0.load(Ordering::SeqCst), 0, "still waits on the file that it left");
    files[1].notify();
    assert_eq!(turned.0.load(Ordering::SeqCst), 1);
    assert_eq!(rings.0.load(Ordering::SeqCst), 1, "its place was taken");
}

/// Reads that stop inside until they are told to go on.
struct Slow {
    entered: Sender<()>,
    go_on: Mutex<Receiver<()>>,
}

impl FileOps for Slow {
    type Open = ();
    const KIND: Kind = Kind::Binary;
    const OPS: Ops = Ops::READ;

    fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
        Ok(())
    }

    fn read(&self, (): &mut (), op: &mut ReadOp<'_>) -> Result<(), Errno> {
        if op.offset() == 0 {
            self.entered.send(()).unwrap();
            self.go_on.lock().unwrap().recv().unwrap();
        }
        op.push(b"1");
        Ok(())
    }
}

#[test]
fn an_operation_that_ends_while_it_is_queued_leaves_the_queue() {
    let ((entered, has_entered), (let_go, go_on)) = (channel(), channel());
    let tree = Tree::new();
    let slow = Slow { entered, go_on: Mutex::new(go_on) };
    let file = tree.root().add_file("slow", FileOptions::new(Mode::RO).size(8), slow).unwrap();
    let held = tree.client(Caller::OWNER).open("/slow", OpenFlags::READ).unwrap();
    thread::scope(|scope| {
        let slow = scope.spawn(|| held.read_at(&mut [0], 0));
        has_entered.recv().unwrap();
        let (_, waker) = bell();
        let mut cx = Context::from_waker(&waker);
        let (mut waiter, mut buf) = (Waiter::new(), [0]);
        let queued = held.poll_read_at(&mut cx, &mut waiter, held.opener(), &mut buf, 4);
        assert!(queued.is_pending());
        file.set_size(4);
        let beyond = held.poll_read_at(&mut cx, &mut waiter, held.opener(), &mut buf, 4);
        assert_eq!(beyond, Poll::Ready(Ok(0)));
        let_go.send(()).unwrap();
        assert_eq!(slow.join().unwrap(), Ok(1));
        let mut buf = [0];
        let mut next = pin!(held.read_at_async(&mut buf, 1));
        assert_eq!(next.as_mut().poll(&mut cx), Poll::Ready(Ok(1)), "nobody else is there");
        drop(waiter);
    });
}

#[test]
fn who_leaves_is_woken_no_more_and_leaves_nothing_behind() {
    let ((entered, has_entered), (let_go, go_on)) = (channel(), channel());
    let tree = Tree::new();
    let slow = Slow { entered, go_on: Mutex::new(go_on) };
    let file = tree.root().add_file("slow", FileOptions::new(Mode::RO).size(8), slow).unwrap();
    let held = tree.client(Caller::OWNER).open("/slow", OpenFlags::READ).unwrap();
    held.read_at(&mut [0], 4).unwrap();
    let (rings, waker) = bell();
    let mut cx = Context::from_waker(&waker);
    let mut waiter = Waiter::new();
    assert!(held.poll_ready(&mut cx, &mut waiter, Events::PRI).is_pending());
    assert_eq!(Arc::strong_count(&rings), 3, "the test's, the waker and its clone");
    drop(waiter);
    assert_eq!(Arc::strong_count(&rings), 2);
    file.notify();
    // The same of who waits for a removal.
    thread::scope(|scope| {
        let reader = scope.spawn(|| held.read_at(&mut [0], 0));
        has_entered.recv().unwrap();
        let mut draining = file.sever();
        assert!(Pin::new(&mut draining).poll(&mut cx).is_pending());
        assert_eq!(Arc::strong_count(&rings), 3);
        drop(draining);
        assert_eq!(Arc::strong_count(&rings), 2);
        let_go.send(()).unwrap();
        assert_eq!(reader.join().unwrap(), Ok(1));
    });
    assert_eq!(rings.0.load(Ordering::SeqCst), 0);
}

/// A clock that a test sets, in milliseconds, and how often it was looked at.
#[derive(Clone, Default)]
struct SetClock(Arc<(AtomicU64, AtomicUsize)>);

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp::default()
    }

    fn monotonic(&self) -> Duration {
        let now = Duration::from_millis(self.0.0.load(Ordering::SeqCst));
        self.0.1.fetch_add(1, Ordering::SeqCst);
        now
    }
}

/// A stream whose driver keeps its readiness.
struct Linked(Arc<Mutex<Option<Readiness>>>);

impl FileOps for Linked {
    type Open = ();
    const KIND: Kind = Kind::Stream;
    const OPS: Ops = Ops::READ;

    fn open(&self, op: &mut OpenOp<'_>) -> Result<(), Errno> {
        *self.0.lock().unwrap() = Some(op.readiness());
        Ok(())
    }

    fn read(&self, (): &mut (), _: &mut ReadOp<'_>) -> Result<(), Errno> {
        Ok(())
    }
}

#[test]
fn who_is_woken_for_nothing_waits_for_the_rest_of_its_time() {
    const HOUR: Duration = Duration::from_secs(3600);
    let (clock, ready) = (SetClock::default(), Arc::new(Mutex::new(None)));
    let tree = Tree::builder().clock(clock.clone()).build();
    let _file = tree.root().add_file("f", Mode::RO, Linked(Arc::clone(&ready))).unwrap();
    let held = tree.client(Caller::OWNER).open("/f", OpenFlags::READ).unwrap();
    held.read_at(&mut [0], 0).unwrap();
    let looks = || clock.0.1.load(Ordering::SeqCst);
    let before = looks();
    let (answer, answered) = channel();
    thread::spawn(move || answer.send(held.wait_timeout(Events::PRI, HOUR)).unwrap());
    // Once when it begins, and once before it sleeps.
    while looks() < before + 2 {
        thread::yield_now();
    }
    clock.0.0.store(3_599_990, Ordering::SeqCst);
    let ready = ready.lock().unwrap().take().unwrap();
    ready.set(Events::HUP);
    while looks() < before + 3 {
        thread::yield_now();
    }
    clock.0.0.store(3_600_000, Ordering::SeqCst);
    let answer = answered.recv_timeout(Duration::from_secs(60));
    assert_eq!(answer, Ok(Events::empty()), "its time is over");
}
