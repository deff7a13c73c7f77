//! Every interleaving of a few threads, by loom: gates, waiters, drains, and one file of a tree.
//!
//! `.ci/loom` runs them. What a test counts is a value without synchronization of its own
//! ([`Watched`]), so that it shows whether the code under test orders what it promises to order.

use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec::Vec;
use core::cell::Cell;
use core::task::{Context, Poll, Waker};
use std::sync::atomic::AtomicUsize as Counter;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Instant;

use loom::thread::{self, JoinHandle};

use crate::drain::{Drain, Draining, Token};
use crate::errno::Errno;
use crate::gate::{self, Gate, Refused};
use crate::sync::Mutex;
use crate::sync::atomic::AtomicUsize;
use crate::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use crate::wait::{Events, Ready, WaitQueue, block_on};
use crate::{
    Ack, Caller, Dir, File, FileOps, FrontEnd, Kind, Mode, OpenFile, OpenFlags, OpenOp, Ops,
    ReadOp, ReadShared, Readiness, ReadyBy, Reply, Severed, StoppedClock, Tree, WriteOp,
};

/// Tries all interleavings that preempt a thread at most `preemptions` times
/// (`LOOM_MAX_PREEMPTIONS` wins), and tells how many they were.
fn explore(preemptions: impl Into<Option<usize>>, scenario: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    FAILED.set(false);
    model.preemption_bound = model.preemption_bound.or(preemptions.into());
    model.max_branches = 20_000;
    let tried = Arc::new(Counter::new(0));
    let (start, count) = (Instant::now(), Arc::clone(&tried));
    model.check(move || {
        count.fetch_add(1, SeqCst);
        scenario();
        assert!(!FAILED.get(), "an expectation failed inside a driver");
    });
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    let bound = model.preemption_bound;
    let tried = tried.load(SeqCst);
    std::println!("{name}: {tried} interleavings, bound {bound:?}, {:.1?}", start.elapsed());
}

std::thread_local! {
    /// Whether an expectation failed in the scenario: drivers' panics are contained.
    static FAILED: Cell<bool> = const { Cell::new(false) };
}

#[track_caller]
fn expect(holds: bool, what: &str) {
    if !holds {
        FAILED.set(true);
        panic!("{what}");
    }
}

/// A value that nobody synchronizes: whoever touches it must do so alone and after all others.
///
/// Its accesses are relaxed, and loom answers each load with every value that the memory model
/// allows; so one that is not ordered after the last change gets a stale value some time.
struct Watched {
    changes: AtomicUsize,
    /// What `changes` is in truth.
    truth: Counter,
    over: std::sync::atomic::AtomicBool,
}

impl Watched {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            changes: AtomicUsize::new(0),
            truth: Counter::new(0),
            over: std::sync::atomic::AtomicBool::new(false),
        })
    }

    /// Uses the value beside others who do only that; returns how often it was changed.
    #[track_caller]
    fn look(&self) -> usize {
        let seen = self.changes.load(Relaxed);
        expect(!self.over.load(SeqCst), "used after its end");
        expect(seen == self.truth.load(SeqCst), "not ordered after the last change");
        seen
    }

    #[track_caller]
    fn change(&self) {
        let seen = self.look();
        self.changes.store(seen + 1, Relaxed);
        expect(self.truth.fetch_add(1, SeqCst) == seen, "two are inside");
        expect(!self.over.load(SeqCst), "used after its end");
    }

    /// Ends its use.
    #[track_caller]
    fn end(&self) {
        self.change();
        self.over.store(true, SeqCst);
    }
}

/// A waker that only counts.
#[derive(Default)]
struct Bell(Counter);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

fn bell() -> (Arc<Bell>, Waker) {
    let bell = Arc::new(Bell::default());
    (Arc::clone(&bell), Waker::from(bell))
}

fn both<A, B>(a: JoinHandle<A>, b: JoinHandle<B>) -> (A, B) {
    (a.join().unwrap(), b.join().unwrap())
}

// ---- gates

/// What stands behind the gates.
struct Contents {
    used: Arc<Watched>,
    released: Arc<Watched>,
}

impl gate::Live for Contents {
    fn release(self) {
        self.used.end();
        self.released.change();
    }
}

type TestGate = Arc<Gate<Contents, ()>>;

/// Makes a gate, and what counts the releases of its contents.
fn gate() -> (TestGate, Arc<Watched>) {
    let released = Watched::new();
    let contents = Contents { used: Watched::new(), released: Arc::clone(&released) };
    (Arc::new(Gate::new(contents, ())), released)
}

/// Works on the contents of a gate that was entered.
fn use_pass(mut pass: gate::Pass<'_, Contents, ()>) {
    let (live, _) = pass.get();
    live.as_ref().expect("entered after the release").used.change();
}

/// Enters, standing in the queue if need be.
fn queue_and_use(gate: &TestGate) -> Result<(), Refused> {
    let mut key = None;
    block_on(|cx| gate.poll_enter(cx.waker(), &mut key)).map(use_pass)
}

fn queue_and_share(gate: &TestGate) -> Result<(), Refused> {
    let mut key = None;
    block_on(|cx| gate.poll_enter_shared(cx.waker(), &mut key)).map(drop)
}

fn close(gate: &TestGate, token: Token) {
    gate.close(Some(token));
    gate.finish_close();
}

fn wait_for(drain: &Drain) {
    let mut key = None;
    block_on(|cx| drain.poll(cx, &mut key));
}

#[test]
fn an_entrant_against_a_closer() {
    explore(None, || {
        let (gate, ends) = gate();
        let entrant = thread::spawn({
            let gate = Arc::clone(&gate);
            move || gate.enter().map(use_pass)
        });
        let (drain, token) = Drain::start();
        close(&gate, token);
        wait_for(&drain);
        assert_eq!(ends.look(), 1, "given back before the release");
        assert_eq!(gate.enter().err(), Some(Refused::Closed));
        let entered = entrant.join().unwrap();
        assert!(matches!(entered, Ok(()) | Err(Refused::Closed)));
        assert_eq!(ends.look(), 1);
    });
}

#[test]
fn two_closers_and_an_entrant() {
    explore(3, || {
        let (gate, ends) = gate();
        let closer = || {
            let (gate, ends) = (Arc::clone(&gate), Arc::clone(&ends));
            thread::spawn(move || {
                let (drain, token) = Drain::start();
                close(&gate, token);
                wait_for(&drain);
                assert_eq!(ends.look(), 1, "each closer waits for the one release");
            })
        };
        let (a, b) = (closer(), closer());
        let _ = gate.enter().map(use_pass);
        both(a, b);
        assert_eq!(ends.look(), 1);
    });
}

#[test]
fn a_last_close_without_a_drain_against_a_closer_with_one() {
    explore(None, || {
        let (gate, ends) = gate();
        let last = thread::spawn({
            let gate = Arc::clone(&gate);
            move || {
                gate.close(None);
                gate.finish_close();
            }
        });
        let (drain, token) = Drain::start();
        close(&gate, token);
        wait_for(&drain);
        assert_eq!(ends.look(), 1);
        last.join().unwrap();
        assert_eq!(ends.look(), 1);
    });
}

#[test]
fn a_panicked_operation_against_a_closer() {
    explore(None, || {
        let (gate, ends) = gate();
        let condemned = thread::spawn({
            let gate = Arc::clone(&gate);
            move || {
                if let Ok(mut pass) = gate.enter() {
                    pass.condemn();
                    use_pass(pass);
                }
            }
        });
        let (drain, token) = Drain::start();
        close(&gate, token);
        wait_for(&drain);
        assert_eq!(ends.look(), 1);
        condemned.join().unwrap();
    });
}

#[test]
fn a_panicked_operation_closes_and_turns_the_queue_away() {
    explore(None, || {
        let (gate, released) = gate();
        let mut pass = gate.enter().unwrap();
        let entrant = thread::spawn({
            let gate = Arc::clone(&gate);
            move || queue_and_use(&gate)
        });
        pass.condemn();
        drop(pass);
        assert_eq!(released.look(), 1);
        assert_eq!(entrant.join().unwrap(), Err(Refused::Closed));
    });
}

#[test]
fn a_queued_entrant_is_let_in_or_turned_away() {
    explore(3, || {
        let (gate, ends) = gate();
        let pass = gate.enter().unwrap();
        let entrant = thread::spawn({
            let gate = Arc::clone(&gate);
            move || queue_and_use(&gate)
        });
        let closer = thread::spawn({
            let (gate, ends) = (Arc::clone(&gate), Arc::clone(&ends));
            move || {
                let (drain, token) = Drain::start();
                close(&gate, token);
                wait_for(&drain);
                assert_eq!(ends.look(), 1);
            }
        });
        use_pass(pass);
        let (entered, ()) = both(entrant, closer);
        assert!(matches!(entered, Ok(()) | Err(Refused::Closed)));
        assert_eq!(ends.look(), 1);
    });
}

#[test]
fn a_queued_entrant_hears_of_the_closing_while_somebody_stays_inside() {
    explore(3, || {
        let (gate, _) = gate();
        let pass = gate.enter().unwrap();
        let entrant = thread::spawn({
            let gate = Arc::clone(&gate);
            move || queue_and_use(&gate)
        });
        let (drain, token) = Drain::start();
        close(&gate, token);
        assert_eq!(entrant.join().unwrap(), Err(Refused::Closed));
        assert!(!drain.is_done());
        use_pass(pass);
        assert!(drain.is_done());
    });
}

#[test]
fn queued_entrants_go_in_the_order_of_their_coming() {
    explore(None, || {
        let (gate, _) = gate();
        let entered = Arc::new(std::sync::Mutex::new(Vec::new()));
        let pass = gate.enter().unwrap();
        let entrant = || {
            let (gate, entered) = (Arc::clone(&gate), Arc::clone(&entered));
            thread::spawn(move || {
                let (mut key, mut stood) = (None, None);
                let pass = block_on(|cx| {
                    let answer = gate.poll_enter(cx.waker(), &mut key);
                    stood = key.or(stood);
                    answer
                });
                entered.lock().unwrap().extend(stood);
                use_pass(pass.unwrap());
            })
        };
        let (a, b) = (entrant(), entrant());
        use_pass(pass);
        both(a, b);
        assert!(entered.lock().unwrap().is_sorted());
    });
}

#[test]
fn an_entrant_that_gives_up_passes_its_turn_on() {
    explore(3, || {
        let (gate, _) = gate();
        let pass = gate.enter().unwrap();
        let (_, waker) = bell();
        let mut key = None;
        assert!(gate.poll_enter(&waker, &mut key).is_pending());
        let next = thread::spawn({
            let gate = Arc::clone(&gate);
            move || queue_and_use(&gate)
        });
        let gives_up = thread::spawn({
            let gate = Arc::clone(&gate);
            move || gate.give_up(key.unwrap())
        });
        use_pass(pass);
        assert_eq!(both(next, gives_up).0, Ok(()));
        assert!(gate.enter().is_ok(), "the queue is empty and nobody is inside");
    });
}

#[test]
fn a_newcomer_does_not_overtake_who_was_woken() {
    explore(None, || {
        let (gate, _) = gate();
        let pass = gate.enter().unwrap();
        let (rings, waker) = bell();
        let (mut first, mut second) = (None, None);
        assert!(gate.poll_enter(&waker, &mut first).is_pending());
        let sharer = thread::spawn({
            let gate = Arc::clone(&gate);
            move || gate.enter_shared().map(drop)
        });
        use_pass(pass);
        assert_eq!(sharer.join().unwrap(), Err(Refused::Busy));
        assert_eq!(rings.0.load(SeqCst), 1);
        assert!(gate.poll_enter(&waker, &mut second).is_pending());
        assert!(gate.poll_enter(&waker, &mut first).is_ready());
    });
}

#[test]
fn a_newcomer_does_not_overtake_when_somebody_behind_gives_up() {
    explore(None, || {
        let (gate, _) = gate();
        let pass = gate.enter().unwrap();
        let (_, waker) = bell();
        let (mut first, mut second) = (None, None);
        assert!(gate.poll_enter(&waker, &mut first).is_pending());
        assert!(gate.poll_enter(&waker, &mut second).is_pending());
        let gives_up = thread::spawn({
            let gate = Arc::clone(&gate);
            move || gate.give_up(second.unwrap())
        });
        use_pass(pass);
        gives_up.join().unwrap();
        assert_eq!(gate.enter().err(), Some(Refused::Busy));
        assert!(gate.poll_enter(&waker, &mut first).is_ready());
    });
}

#[test]
fn sharers_against_a_closer() {
    explore(3, || {
        let (gate, ends) = gate();
        let sharer = || {
            let gate = Arc::clone(&gate);
            thread::spawn(move || gate.enter_shared().map(drop))
        };
        let (a, b) = (sharer(), sharer());
        let (drain, token) = Drain::start();
        close(&gate, token);
        wait_for(&drain);
        assert_eq!(ends.look(), 1);
        let (a, b) = both(a, b);
        assert!([a, b].iter().all(|entered| matches!(entered, Ok(()) | Err(Refused::Closed))));
    });
}

#[test]
fn a_sharer_against_one_that_is_alone() {
    explore(None, || {
        let (gate, _) = gate();
        let alone = thread::spawn({
            let gate = Arc::clone(&gate);
            move || gate.enter().map(use_pass)
        });
        // Loom watches the contents: reading them beside a writer fails.
        let shared = gate.enter_shared().map(drop);
        let answers = [shared, alone.join().unwrap()];
        assert!(answers.iter().all(|entered| matches!(entered, Ok(()) | Err(Refused::Busy))));
        assert!(answers.contains(&Ok(())));
    });
}

#[test]
fn sharers_against_an_exclusive_entrant() {
    explore(3, || {
        let (gate, _) = gate();
        let sharer = thread::spawn({
            let gate = Arc::clone(&gate);
            move || queue_and_share(&gate)
        });
        let exclusive = thread::spawn({
            let gate = Arc::clone(&gate);
            move || queue_and_use(&gate)
        });
        assert_eq!(queue_and_share(&gate), Ok(()));
        assert_eq!(both(sharer, exclusive), (Ok(()), Ok(())));
        assert!(gate.enter().is_ok());
    });
}

#[test]
fn queued_sharers_are_let_in_together() {
    explore(3, || {
        let (gate, _) = gate();
        let met = Arc::new((AtomicUsize::new(0), WaitQueue::new()));
        let pass = gate.enter().unwrap();
        let sharer = || {
            let (gate, met) = (Arc::clone(&gate), Arc::clone(&met));
            thread::spawn(move || {
                let (mut key, mut in_met) = (None, None);
                let pass = block_on(|cx| gate.poll_enter_shared(cx.waker(), &mut key)).unwrap();
                met.0.fetch_add(1, Release);
                met.1.wake_all();
                // Stays inside until the other has come in, too.
                block_on(|cx| {
                    met.1.register(&mut in_met, cx.waker());
                    if met.0.load(Acquire) == 2 { Poll::Ready(()) } else { Poll::Pending }
                });
                drop(pass);
            })
        };
        let (a, b) = (sharer(), sharer());
        use_pass(pass);
        both(a, b);
    });
}

// ---- waiters

/// Waits on `ready` until `news` is true or the open file is dead.
fn wait_until(ready: &Ready, news: impl Fn() -> bool) {
    let mut key = None;
    block_on(|cx| {
        ready.register(&mut key, cx.waker());
        if news() || ready.is_dead() { Poll::Ready(()) } else { Poll::Pending }
    });
}

#[test]
fn a_waiter_against_a_severing() {
    explore(None, || {
        let ready = Arc::new(Ready::new());
        let waiter = thread::spawn({
            let ready = Arc::clone(&ready);
            move || wait_until(&ready, || false)
        });
        ready.kill();
        waiter.join().unwrap();
    });
}

#[test]
fn a_waiter_against_a_notification_and_a_severing() {
    explore(None, || {
        let ready = Arc::new(Ready::new());
        let notifier = thread::spawn({
            let readiness = Readiness(Arc::clone(&ready));
            move || readiness.set(Events::PRI)
        });
        let killer = thread::spawn({
            let ready = Arc::clone(&ready);
            move || ready.kill()
        });
        // Deaf to the notification: what is swallowed by it must not be lost to the severing.
        wait_until(&ready, || false);
        both(notifier, killer);
    });
}

#[test]
fn two_notifications_and_a_waiter_for_both() {
    explore(3, || {
        let ready = Arc::new(Ready::new());
        let seen = Arc::new(AtomicUsize::new(0));
        let notifier = || {
            let (ready, seen) = (Arc::clone(&ready), Arc::clone(&seen));
            thread::spawn(move || {
                seen.fetch_add(1, Relaxed);
                // As `Node::notify` does: who has nobody to wake leaves the queue alone.
                if ready.is_awaited() {
                    ready.wake();
                }
            })
        };
        let (a, b) = (notifier(), notifier());
        wait_until(&ready, || seen.load(Acquire) == 2);
        both(a, b);
    });
}

#[test]
fn a_waiter_that_leaves_takes_no_wake_up_along() {
    explore(None, || {
        let ready = Arc::new(Ready::new());
        let news = Arc::new(AtomicUsize::new(0));
        let leaver = thread::spawn({
            let ready = Arc::clone(&ready);
            move || {
                let (_, waker) = bell();
                let mut key = None;
                ready.register(&mut key, &waker);
                ready.deregister(key.unwrap());
            }
        });
        let stayer = thread::spawn({
            let (ready, news) = (Arc::clone(&ready), Arc::clone(&news));
            move || wait_until(&ready, || news.load(Acquire) == 1)
        });
        news.store(1, Release);
        ready.wake();
        both(leaver, stayer);
    });
}

#[test]
fn what_is_announced_once_reaches_one_of_two_waiters() {
    explore(3, || {
        let ready = Arc::new(Ready::new());
        let waiter = || {
            let ready = Arc::clone(&ready);
            thread::spawn(move || {
                let (mut key, mut got) = (None, 0);
                block_on(|cx| {
                    ready.register(&mut key, cx.waker());
                    got += usize::from(!ready.take_set().is_empty());
                    if got == 1 || ready.is_dead() { Poll::Ready(()) } else { Poll::Pending }
                });
                got
            })
        };
        let (a, b) = (waiter(), waiter());
        Readiness(Arc::clone(&ready)).set_once(Events::PRI);
        ready.kill();
        let (a, b) = both(a, b);
        assert!(a + b <= 1);
    });
}

// ---- drains

#[test]
fn the_last_token_wakes_who_waits_for_the_drain() {
    explore(None, || {
        let (drain, token) = Drain::start();
        let ends = [Watched::new(), Watched::new()];
        let part = |ends: &Arc<Watched>| {
            let (ends, token) = (Arc::clone(ends), token.clone());
            thread::spawn(move || {
                ends.change();
                drop(token);
            })
        };
        let (a, b) = (part(&ends[0]), part(&ends[1]));
        drop(token);
        wait_for(&drain);
        assert_eq!(ends[0].look() + ends[1].look(), 2);
        both(a, b);
    });
}

#[test]
fn a_later_drain_outlasts_an_earlier_one() {
    explore(None, || {
        let (earlier, token) = Drain::start();
        let ends = Watched::new();
        let last_part = thread::spawn({
            let ends = Arc::clone(&ends);
            move || {
                ends.change();
                drop(token);
            }
        });
        let (later, token) = Drain::start();
        earlier.chain(&token);
        drop(token);
        wait_for(&later);
        assert!(earlier.is_done());
        assert_eq!(ends.look(), 1);
        last_part.join().unwrap();
    });
}

#[test]
fn drains_in_a_chain_end_one_after_the_other() {
    explore(None, || {
        let (first, first_token) = Drain::start();
        let ends = Watched::new();
        let last_part = thread::spawn({
            let ends = Arc::clone(&ends);
            move || {
                ends.change();
                drop(first_token);
            }
        });
        let (second, second_token) = Drain::start();
        let (third, third_token) = Drain::start();
        let middle = thread::spawn({
            let second = Arc::clone(&second);
            move || {
                second.chain(&third_token);
                drop(third_token);
            }
        });
        first.chain(&second_token);
        middle.join().unwrap();
        drop(second_token);
        wait_for(&third);
        assert!(first.is_done() && second.is_done());
        assert_eq!(ends.look(), 1);
        last_part.join().unwrap();
    });
}

#[test]
fn a_drain_is_waited_for_by_two() {
    explore(3, || {
        let (drain, token) = Drain::start();
        let ends = Watched::new();
        let waiter = thread::spawn({
            let (drain, ends) = (Arc::clone(&drain), Arc::clone(&ends));
            move || {
                wait_for(&drain);
                assert_eq!(ends.look(), 1);
            }
        });
        let last_part = thread::spawn({
            let ends = Arc::clone(&ends);
            move || {
                ends.change();
                drop(token);
            }
        });
        wait_for(&drain);
        assert_eq!(ends.look(), 1);
        both(waiter, last_part);
    });
}

// ---- one file of a tree

/// A driver whose every step is watched.
#[derive(Clone)]
struct Knob {
    /// Looked at by every operation, ended by who gets the driver back.
    driver: Arc<Watched>,
    released: Arc<Watched>,
    freed: Arc<Watched>,
}

impl FileOps for Knob {
    type Open = Arc<Watched>;
    const OPS: Ops = Ops::READ;

    fn open(&self, op: &mut OpenOp<'_>) -> Result<Arc<Watched>, Errno> {
        let (freed, released) = (Arc::clone(&self.freed), Arc::clone(&self.released));
        op.on_free(move || {
            expect(released.look() > freed.look(), "freed before the release");
            freed.change();
        });
        self.driver.look();
        Ok(Watched::new())
    }

    fn read(&self, open: &mut Arc<Watched>, op: &mut ReadOp<'_>) -> Result<(), Errno> {
        open.change();
        self.driver.look();
        op.push(b"1");
        Ok(())
    }

    fn release(&self, open: Arc<Watched>) {
        open.end();
        self.driver.look();
        self.released.change();
    }
}

impl Knob {
    fn new() -> Self {
        Self { driver: Watched::new(), released: Watched::new(), freed: Watched::new() }
    }
}

/// Makes a tree with one file `f`.
fn tree_of<T: FileOps + 'static>(driver: T) -> (Tree, File<T>) {
    let tree = Tree::builder().clock(StoppedClock).build();
    let file = tree.root().add_file("f", Mode::RW, driver).unwrap();
    (tree, file)
}

fn open(tree: &Tree) -> OpenFile {
    tree.client(Caller::OWNER).open("/f", OpenFlags::READ_WRITE).unwrap()
}

/// Asserts what holds once a knob is back in the hands of its owner.
fn at_rest(knob: &Knob, opened: usize) {
    knob.driver.end();
    assert_eq!(knob.released.look(), opened);
}

#[test]
fn an_open_against_a_removal() {
    explore(None, || {
        let (tree, file) = tree_of(Knob::new());
        let client = tree.client(Caller::OWNER);
        let opener = thread::spawn(move || client.open("/f", OpenFlags::READ));
        let knob = file.remove().unwrap();
        knob.driver.end();
        let held = opener.join().unwrap();
        match &held {
            Ok(held) => {
                assert_eq!(held.read_at(&mut [0; 4], 0), Err(Errno::ENODEV));
                assert_eq!(held.ready(Events::all()), Events::SEVERED);
            }
            Err(errno) => assert!(matches!(*errno, Errno::ENOENT | Errno::ENODEV)),
        }
        // Every open that ran is released, even if the client was told that it failed.
        assert!(knob.released.look() <= 1);
        assert!(held.is_err() || knob.released.look() == 1);
        let freed = usize::from(held.is_ok());
        drop(held);
        assert_eq!(knob.freed.look(), freed);
        assert_eq!(tree.usage().open_files, 0);
    });
}

#[test]
fn an_open_of_what_was_looked_up_before_against_a_hiding() {
    explore(None, || {
        let (tree, file) = tree_of(Knob::new());
        let inode = tree.client(Caller::OWNER).lookup("/f").unwrap();
        let opener = thread::spawn({
            let inode = inode.clone();
            move || inode.open(&Caller::OWNER, OpenFlags::READ)
        });
        file.hide().wait().unwrap();
        if let Ok(held) = opener.join().unwrap() {
            assert_eq!(file.released.look(), 1);
            assert_eq!(held.read_at(&mut [0; 4], 0), Err(Errno::ENODEV));
        }
        let hidden = inode.open(&Caller::OWNER, OpenFlags::READ);
        assert_eq!(hidden.unwrap_err(), Errno::ENODEV);
        file.show();
        let shown = inode.open(&Caller::OWNER, OpenFlags::READ).unwrap();
        assert_eq!(shown.read_at(&mut [0; 4], 0), Ok(1));
    });
}

#[test]
fn a_removal_of_a_directory_outlasts_one_that_began_below() {
    explore(3, || {
        let tree = Tree::builder().clock(StoppedClock).build();
        let dir = tree.root().add_dir("d", Mode::DIR).unwrap();
        let knob = Knob::new();
        let file = dir.add_file("f", Mode::RW, knob.clone()).unwrap();
        let held = tree.client(Caller::OWNER).open("/d/f", OpenFlags::READ).unwrap();
        let reader = thread::spawn(move || held.read_at(&mut [0; 4], 0));
        let dropper = thread::spawn(move || drop(file));
        dir.remove().unwrap();
        at_rest(&knob, 1);
        let (read, ()) = both(reader, dropper);
        assert!(matches!(read, Ok(1) | Err(Errno::ENODEV)));
    });
}

#[test]
fn a_last_close_against_a_removal() {
    explore(None, || {
        let (tree, file) = tree_of(Knob::new());
        let held = open(&tree);
        let last = thread::spawn(move || drop(held));
        let knob = file.remove().unwrap();
        at_rest(&knob, 1);
        last.join().unwrap();
        assert_eq!((knob.released.look(), knob.freed.look()), (1, 1));
        assert_eq!(tree.usage().open_files, 0);
    });
}

#[test]
fn a_reader_against_a_removal() {
    explore(None, || {
        let (tree, file) = tree_of(Knob::new());
        let held = open(&tree);
        let reader = thread::spawn({
            let held = held.clone();
            move || {
                let read = held.read_at(&mut [0; 4], 0);
                let severed = held.is_severed();
                assert!(read.is_ok() || severed, "dead to a reader and alive to a poller");
                read
            }
        });
        let knob = file.remove().unwrap();
        at_rest(&knob, 1);
        assert_eq!(held.read_at(&mut [0; 4], 0), Err(Errno::ENODEV));
        assert!(matches!(reader.join().unwrap(), Ok(1) | Err(Errno::ENODEV)));
        assert_eq!(knob.freed.look(), 0);
        drop(held);
        assert_eq!((knob.released.look(), knob.freed.look()), (1, 1));
    });
}

#[test]
fn a_sleeper_against_a_notification_and_a_removal() {
    explore(3, || {
        let (tree, file) = tree_of(Knob::new());
        let held = open(&tree);
        assert_eq!(held.read_at(&mut [0; 4], 0), Ok(1));
        let sleeper = thread::spawn({
            let held = held.clone();
            move || held.wait(Events::PRI)
        });
        let notifier = file.notifier();
        let notifier = thread::spawn(move || notifier.notify());
        let knob = file.remove().unwrap();
        at_rest(&knob, 1);
        assert_eq!(both(sleeper, notifier).0, Events::PRI | Events::ERR);
    });
}

#[test]
fn a_sleeper_that_only_a_notification_wakes() {
    explore(None, || {
        let (tree, file) = tree_of(Knob::new());
        let held = open(&tree);
        assert_eq!(held.read_at(&mut [0; 4], 0), Ok(1));
        let sleeper = thread::spawn({
            let held = held.clone();
            move || held.wait(Events::PRI)
        });
        file.notify();
        assert_eq!(sleeper.join().unwrap(), Events::PRI | Events::ERR);
    });
}

#[test]
fn a_notification_during_a_read_leaves_the_file_ready() {
    explore(None, || {
        let value = Arc::new(AtomicUsize::new(0));
        let render = Arc::clone(&value);
        let driver = crate::show(move |op| op.push(&[render.load(Acquire) as u8]));
        let (tree, file) = tree_of(driver);
        let held = tree.client(Caller::OWNER).open("/f", OpenFlags::READ).unwrap();
        let reader = thread::spawn({
            let held = held.clone();
            move || {
                let mut byte = [9];
                held.read_at(&mut byte, 0).unwrap();
                byte[0]
            }
        });
        value.store(1, Release);
        file.notify();
        let read = reader.join().unwrap();
        assert!(read == 1 || held.ready(Events::PRI).contains(Events::PRI), "stale and not ready");
    });
}

#[test]
fn removers_by_handle_and_by_name() {
    explore(3, || {
        let (tree, file) = tree_of(Knob::new());
        let tree = Arc::new(tree);
        let held = open(&tree);
        let by_name = thread::spawn({
            let tree = Arc::clone(&tree);
            move || tree.root().sever_child("f").map(|draining| draining.wait().unwrap())
        });
        let reader = thread::spawn({
            let held = held.clone();
            move || held.read_at(&mut [0; 4], 0)
        });
        let knob = file.remove().unwrap();
        at_rest(&knob, 1);
        let (by_name, read) = both(by_name, reader);
        assert!(matches!(by_name, Ok(()) | Err(Errno::ENOENT)));
        assert!(matches!(read, Ok(1) | Err(Errno::ENODEV)));
    });
}

#[test]
fn a_handle_yields_its_driver_only_after_the_drain_of_a_removal_by_name() {
    explore(None, || {
        let (tree, file) = tree_of(Knob::new());
        let held = open(&tree);
        let taker = thread::spawn(move || {
            let early = file.into_inner();
            if let Ok(knob) = &early {
                at_rest(knob, 1);
            }
            early
        });
        drop(tree.root().sever_child("f").unwrap());
        if let Err(file) = taker.join().unwrap() {
            at_rest(&file.into_inner().expect("drained"), 1);
        }
        drop(held);
    });
}

#[test]
fn a_hiding_against_a_removal_by_name() {
    explore(3, || {
        let (tree, file) = tree_of(Knob::new());
        let held = open(&tree);
        let reader = thread::spawn({
            let held = held.clone();
            move || held.read_at(&mut [0; 4], 0)
        });
        let hider = thread::spawn(move || {
            // Not waited for: the removal has to outlast it.
            drop(file.hide());
            file.show();
            file
        });
        let draining = tree.root().sever_child("f").unwrap();
        draining.wait().unwrap();
        let (read, file) = both(reader, hider);
        assert!(matches!(read, Ok(1) | Err(Errno::ENODEV)));
        at_rest(&file.into_inner().expect("drained"), 1);
    });
}

#[test]
fn a_removal_after_a_hiding_waits_for_the_reader_of_both() {
    explore(None, || {
        let (tree, file) = tree_of(Knob::new());
        let held = open(&tree);
        let reader = thread::spawn({
            let held = held.clone();
            move || held.read_at(&mut [0; 4], 0)
        });
        drop(file.hide());
        let knob = file.remove().unwrap();
        at_rest(&knob, 1);
        reader.join().unwrap().ok();
    });
}

#[test]
fn what_was_hidden_stays_dead_for_those_who_held_it() {
    explore(None, || {
        let (tree, file) = tree_of(Knob::new());
        let held = open(&tree);
        let reader = thread::spawn({
            let held = held.clone();
            move || held.read_at(&mut [0; 4], 0)
        });
        file.hide().wait().unwrap();
        assert_eq!(file.released.look(), 1);
        file.show();
        assert_eq!(held.read_at(&mut [0; 4], 0), Err(Errno::ENODEV));
        assert_eq!(open(&tree).read_at(&mut [0; 4], 0), Ok(1));
        reader.join().unwrap().ok();
    });
}

/// A front end that leaves its acknowledgement to somebody else.
struct Mount(Mutex<Option<Ack>>, WaitQueue);

impl FrontEnd for Mount {
    fn severed(&self, _: &Severed<'_>, ack: Ack) {
        *self.0.lock() = Some(ack);
        self.1.wake_all();
    }
}

#[test]
fn a_removal_waits_for_an_acknowledgement_from_another_thread() {
    explore(None, || {
        let (tree, file) = tree_of(Knob::new());
        let mount = Arc::new(Mount(Mutex::new(None), WaitQueue::new()));
        let _guard = tree.register(Arc::<Mount>::clone(&mount));
        let ends = Watched::new();
        let acknowledger = thread::spawn({
            let ends = Arc::clone(&ends);
            move || {
                let mut key = None;
                let ack = block_on(|cx| {
                    mount.1.register(&mut key, cx.waker());
                    mount.0.lock().take().map_or(Poll::Pending, Poll::Ready)
                });
                ends.change();
                drop(ack);
            }
        });
        let knob = file.remove().unwrap();
        assert_eq!(ends.look(), 1);
        at_rest(&knob, 0);
        acknowledger.join().unwrap();
    });
}

/// A driver that owes its answers.
#[derive(Clone, Default)]
struct Debtor(Arc<std::sync::Mutex<Option<Reply<Vec<u8>>>>>);

impl FileOps for Debtor {
    type Open = ();
    const OPS: Ops = Ops::READ;

    fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
        Ok(())
    }

    fn read(&self, (): &mut (), op: &mut ReadOp<'_>) -> Result<(), Errno> {
        *self.0.lock().unwrap() = Some(op.defer());
        Ok(())
    }
}

/// Begins a read on `held` that is deferred, and returns what will answer it.
fn begin_deferred(
    held: &OpenFile,
    owed: &Debtor,
) -> (JoinHandle<Result<usize, Errno>>, Reply<Vec<u8>>) {
    let mut waiter = crate::Waiter::new();
    let (_, waker) = bell();
    let mut cx = Context::from_waker(&waker);
    let mut buf = [0; 4];
    let begun = held.poll_read_at(&mut cx, &mut waiter, held.opener(), &mut buf, 0);
    assert!(begun.is_pending());
    let reply = owed.0.lock().unwrap().take().unwrap();
    let held = held.clone();
    let reader = thread::spawn(move || {
        let mut buf = [0; 4];
        block_on(|cx| held.poll_read_at(cx, &mut waiter, held.opener(), &mut buf, 0))
    });
    (reader, reply)
}

#[test]
fn a_deferred_answer_against_a_removal() {
    explore(3, || {
        let owed = Debtor::default();
        let (tree, file) = tree_of(owed.clone());
        let held = tree.client(Caller::OWNER).open("/f", OpenFlags::READ).unwrap();
        let (reader, reply) = begin_deferred(&held, &owed);
        let answerer = thread::spawn(move || reply.answer(Ok(b"12".to_vec())));
        drop(file.remove().unwrap());
        let (read, answered) = both(reader, answerer);
        match read {
            Ok(2) => assert!(answered.is_ok()),
            read => assert_eq!(read, Err(Errno::ENODEV)),
        }
    });
}

/// A pressure file in small: a write puts the open file on the list of those that events go to, its
/// release takes it off.
#[derive(Clone, Default)]
struct Triggers(Arc<Mutex<Vec<Readiness>>>);

impl FileOps for Triggers {
    type Open = Readiness;
    const READY: ReadyBy = ReadyBy::Handle;

    fn open(&self, op: &mut OpenOp<'_>) -> Result<Readiness, Errno> {
        Ok(op.readiness())
    }

    fn write(&self, open: &mut Readiness, op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        self.0.lock().push(open.clone());
        Ok(op.data().len())
    }

    fn release(&self, _: Readiness) {
        self.0.lock().clear();
    }
}

#[test]
fn a_trigger_that_is_being_set_against_a_removal() {
    explore(3, || {
        let triggers = Triggers::default();
        let (tree, file) = tree_of(triggers.clone());
        let held = open(&tree);
        let writer = thread::spawn(move || held.write_at(b"some", 0));
        drop(file.remove().unwrap());
        assert!(triggers.0.lock().is_empty(), "left behind");
        assert!(matches!(writer.join().unwrap(), Ok(4) | Err(Errno::ENODEV)));
        assert!(triggers.0.lock().is_empty(), "set after the removal");
    });
}

#[test]
fn a_trigger_that_is_being_set_against_a_hiding() {
    explore(3, || {
        let triggers = Triggers::default();
        let (tree, file) = tree_of(triggers.clone());
        let held = open(&tree);
        let writer = thread::spawn({
            let held = held.clone();
            move || held.write_at(b"some", 0)
        });
        file.hide().wait().unwrap();
        file.show();
        assert!(triggers.0.lock().is_empty(), "left behind");
        assert_eq!(held.write_at(b"some", 0), Err(Errno::ENODEV), "dead, though shown again");
        writer.join().unwrap().ok();
        assert!(triggers.0.lock().is_empty(), "set after the hiding");
    });
}

#[test]
fn a_trigger_that_fires_against_a_removal_and_a_sleeper() {
    explore(3, || {
        let triggers = Triggers::default();
        let (tree, file) = tree_of(triggers.clone());
        let held = open(&tree);
        assert_eq!(held.write_at(b"some", 0), Ok(4));
        let sleeper = thread::spawn({
            let held = held.clone();
            move || held.wait(Events::PRI)
        });
        let producer = thread::spawn(move || {
            let linked = triggers.0.lock().first().cloned();
            let is_news = linked.is_some_and(|trigger| trigger.set_once(Events::PRI));
            (is_news, triggers)
        });
        drop(file.remove().unwrap());
        let (woken, (_, triggers)) = both(sleeper, producer);
        assert!(woken == Events::PRI || woken == Events::PRI | Events::ERR, "{woken:?}");
        assert_eq!(held.ready(Events::all()), Events::SEVERED);
        assert!(triggers.0.lock().is_empty());
    });
}

#[test]
fn a_deferred_answer_reaches_its_reader() {
    explore(None, || {
        let owed = Debtor::default();
        let (tree, _file) = tree_of(owed.clone());
        let held = tree.client(Caller::OWNER).open("/f", OpenFlags::READ).unwrap();
        let (reader, reply) = begin_deferred(&held, &owed);
        reply.answer(Ok(b"12".to_vec())).unwrap();
        assert_eq!(reader.join().unwrap(), Ok(2));
    });
}

/// A driver of items, each of which is read once.
#[derive(Default)]
struct Items(Arc<AtomicUsize>);

impl FileOps for Items {
    type Open = ();
    const KIND: Kind = Kind::Stream;
    const OPS: Ops = Ops::READ;

    fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
        Ok(())
    }

    fn read(&self, (): &mut (), op: &mut ReadOp<'_>) -> Result<(), Errno> {
        match self.0.load(Acquire) {
            0 => Err(Errno::EAGAIN),
            items => {
                self.0.store(items - 1, Release);
                op.push(b"i");
                Ok(())
            }
        }
    }
}

#[test]
fn a_blocked_reader_gets_the_item_that_comes() {
    explore(None, || {
        let items = Arc::new(AtomicUsize::new(0));
        let (tree, file) = tree_of(Items(Arc::clone(&items)));
        let held = tree.client(Caller::OWNER).open("/f", OpenFlags::READ).unwrap();
        let reader = thread::spawn(move || held.read_at(&mut [0; 4], 0));
        items.store(1, Release);
        file.notify();
        assert_eq!(reader.join().unwrap(), Ok(1));
    });
}

#[test]
fn two_blocked_readers_of_one_descriptor_and_one_item() {
    explore(3, || {
        let items = Arc::new(AtomicUsize::new(0));
        let (tree, file) = tree_of(Items(Arc::clone(&items)));
        let held = tree.client(Caller::OWNER).open("/f", OpenFlags::READ).unwrap();
        let reader = || {
            let held = held.clone();
            thread::spawn(move || held.read_at(&mut [0; 4], 0))
        };
        let (a, b) = (reader(), reader());
        items.store(1, Release);
        file.notify();
        drop(file.remove().unwrap());
        let (a, b) = both(a, b);
        assert!([a, b].contains(&Err(Errno::ENODEV)), "one item was read twice");
    });
}

/// A driver whose reads may run side by side.
struct Shared(Knob);

impl FileOps for Shared {
    type Open = Arc<Watched>;
    const KIND: Kind = Kind::Binary;
    const OPS: Ops = Ops::READ;
    const READ_SHARED: Option<ReadShared<Self>> =
        Some(ReadShared::new(|driver, open: &Arc<Watched>, op| {
            open.look();
            driver.0.driver.look();
            op.push(b"1");
            Ok(())
        }));

    fn open(&self, op: &mut OpenOp<'_>) -> Result<Arc<Watched>, Errno> {
        self.0.open(op)
    }

    fn release(&self, open: Arc<Watched>) {
        self.0.release(open);
    }
}

#[test]
fn two_readers_side_by_side_against_a_removal() {
    explore(3, || {
        let (tree, file) = tree_of(Shared(Knob::new()));
        let held = tree.client(Caller::OWNER).open("/f", OpenFlags::READ).unwrap();
        let reader = || {
            let held = held.clone();
            thread::spawn(move || held.read_at(&mut [0; 4], 0))
        };
        let (a, b) = (reader(), reader());
        at_rest(&file.remove().unwrap().0, 1);
        let (a, b) = both(a, b);
        assert!([a, b].iter().all(|read| matches!(read, Ok(1) | Err(Errno::ENODEV))));
    });
}

/// A file that is removed by a write to it.
struct Suicide {
    me: Arc<std::sync::Mutex<Option<File<Self>>>>,
    knob: Knob,
}

impl FileOps for Suicide {
    type Open = Arc<Watched>;

    fn open(&self, op: &mut OpenOp<'_>) -> Result<Arc<Watched>, Errno> {
        self.knob.open(op)
    }

    fn write(&self, open: &mut Arc<Watched>, op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        let me = self.me.lock().unwrap().take().ok_or(Errno::EBUSY)?;
        let refused = me.remove().map(|_| ()).unwrap_err();
        assert_eq!(refused.errno(), Errno::EDEADLK);
        // Still inside: the state is ours until we return.
        open.change();
        self.knob.driver.look();
        op.answer_after(refused.into_draining());
        Ok(op.data().len())
    }

    fn release(&self, open: Arc<Watched>) {
        self.knob.release(open);
    }
}

#[test]
fn a_file_that_removes_itself_against_a_removal_by_name() {
    explore(3, || {
        let me = Arc::default();
        let knob = Knob::new();
        let released = Arc::clone(&knob.released);
        let (tree, file) = tree_of(Suicide { me: Arc::clone(&me), knob });
        *me.lock().unwrap() = Some(file);
        let held = open(&tree);
        let writer = thread::spawn(move || held.write_at(b"1", 0));
        let by_name = tree.root().sever_child("f").map(Draining::wait);
        let written = writer.join().unwrap();
        // One is told that there is nothing to remove, unless both came at once.
        assert!(written == Ok(1) || (written == Err(Errno::ENODEV) && by_name.is_ok()));
        assert_eq!(released.look(), 1);
        drop(me.lock().unwrap().take());
    });
}

#[test]
fn a_borrowed_driver_is_out_of_use_when_its_scope_ends() {
    explore(3, || {
        let tree = Arc::new(Tree::builder().clock(StoppedClock).build());
        let knob = Knob::new();
        let (reader, remover) = tree
            .root()
            .scope(|scope| {
                scope.expose("f", Mode::RW, &knob).unwrap();
                let held = open(&tree);
                let reader = thread::spawn(move || held.read_at(&mut [0; 4], 0));
                let tree = Arc::clone(&tree);
                let remover = thread::spawn(move || drop(tree.root().sever_child("f")));
                (reader, remover)
            })
            .unwrap();
        at_rest(&knob, 1);
        assert!(matches!(both(reader, remover).0, Ok(1) | Err(Errno::ENODEV)));
    });
}

/// Lets clients make directories, and watches who is inside.
struct Mkdir(Arc<Watched>);

impl crate::DirOps for Mkdir {
    fn mkdir(&self, parent: &Dir, name: &crate::Name, op: &crate::DirOp<'_>) -> Result<(), Errno> {
        self.0.change();
        parent.add_dir(name, op.mode()).map(Dir::keep)
    }
}

#[test]
fn a_client_that_makes_a_directory_in_one_that_is_removed() {
    explore(3, || {
        let inside = Watched::new();
        let tree = Tree::builder().clock(StoppedClock).dir_ops(Mkdir(Arc::clone(&inside))).build();
        let dir = tree.root().add_dir("d", Mode::DIR).unwrap();
        let client = tree.client(Caller::OWNER);
        let maker = thread::spawn(move || client.mkdir("/d/sub", Mode::DIR));
        dir.remove().unwrap();
        // The callback was waited for.
        inside.end();
        let made = maker.join().unwrap();
        assert!(matches!(made, Ok(()) | Err(Errno::ENOENT | Errno::ENODEV)));
        assert_eq!(tree.usage().nodes, 1);
    });
}

/// A waker whose drop is user code that needs the tree.
struct Bystander(Arc<Tree>);

impl Wake for Bystander {
    fn wake(self: Arc<Self>) {}
}

impl Drop for Bystander {
    fn drop(&mut self) {
        assert_eq!(self.0.client(Caller::OWNER).root().path(), b"/");
    }
}

#[test]
fn a_stream_that_goes_while_it_is_told_takes_no_waker_under_a_lock() {
    explore(3, || {
        let tree = Arc::new(Tree::builder().clock(StoppedClock).build());
        let mut changes = tree.changes(4);
        {
            let waker = Waker::from(Arc::new(Bystander(Arc::clone(&tree))));
            let mut next = core::pin::pin!(changes.recv_async());
            assert!(next.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
        let adder = thread::spawn({
            let tree = Arc::clone(&tree);
            move || tree.root().add_dir("d", Mode::DIR).map(Dir::keep).unwrap()
        });
        // Touches what the adder touches last, so that loom tries this in between.
        drop(changes.try_recv());
        drop(changes);
        adder.join().unwrap();
    });
}
