//! A waiter can be used again, for another operation and for another file.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;

use kernfs::{
    Caller, Errno, Events, FileOps, FileOptions, Kind, Mode, OpenFlags, OpenOp, Ops, ReadOp, Tree,
    Waiter, show,
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
    go_on: std::sync::Mutex<Receiver<()>>,
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
    let slow = Slow { entered, go_on: std::sync::Mutex::new(go_on) };
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
