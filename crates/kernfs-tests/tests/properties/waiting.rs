//! P1 to P5: who waits, and how severing ends it.

use std::pin::pin;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use kernfs::{
    Caller, Errno, Events, FileOps, Mode, OpenFile, OpenFlags, OpenOp, Readiness, Tree, Waiter,
};
use kernfs_tests::probe::{CountingWaker, Log, Sleeper, eventually, within};

use super::fixture::{ENDS, End, Got, Owner, WAITS, Wait, for_every_shape, race};

/// A driver that keeps the readiness of each open file, for good.
#[derive(Default)]
struct Keeper {
    kept: Arc<Mutex<Vec<Readiness>>>,
}

impl FileOps for Keeper {
    type Open = ();
    const READY: kernfs::ReadyBy = kernfs::ReadyBy::Handle;

    fn open(&self, op: &mut OpenOp<'_>) -> Result<(), Errno> {
        self.kept.lock().unwrap().push(op.readiness());
        Ok(())
    }
}

/// P1: what pollers wait on is made by kernfs at open, belongs to one open file, and outlives the
/// driver, which can only push readiness into it. (That none can be handed in: `compile_fail`.)
#[test]
fn p01_no_user_wait_object() {
    let tree = Tree::new();
    let kept = Arc::default();
    let file = tree.root().add_file("f", Mode::RW, Keeper { kept: Arc::clone(&kept) }).unwrap();
    let client = tree.client(Caller::OWNER);
    let [one, two] = [(); 2].map(|()| client.open("/f", OpenFlags::READ).unwrap());
    let [ready_one, ready_two] = <[Readiness; 2]>::try_from(kept.lock().unwrap().clone()).unwrap();

    ready_one.set(Events::PRI);
    assert_eq!(one.ready(Events::PRI), Events::PRI);
    assert_eq!(two.ready(Events::PRI), Events::empty(), "readiness is per open file");
    ready_one.clear(Events::PRI);
    assert_eq!(one.ready(Events::PRI), Events::empty());

    let sleeper = Sleeper::spawn({
        let one = one.clone();
        move || one.wait(Events::PRI)
    });
    sleeper.until_asleep();
    drop(file.remove().unwrap());
    assert_eq!(sleeper.join("a waiter whose driver is gone"), Events::PRI | Events::ERR);

    // The handles outlive the driver and change nothing any more.
    for ready in [&ready_one, &ready_two] {
        assert!(ready.is_dead());
        ready.set(Events::HUP);
        ready.set_once(Events::HUP);
        ready.clear(Events::all());
    }
    assert_eq!(one.ready(Events::all()), Events::SEVERED);
    drop((one, two, tree));
    ready_one.set(Events::IN);
}

/// P2: hiding or removing wakes everyone who sleeps on any open file, whatever the file is and
/// however they sleep, without the driver doing anything.
#[test]
fn p02_wake_on_sever() {
    for_every_shape!(every_sleeper_is_woken);
}

fn every_sleeper_is_woken<const K: u8, const R: bool>() {
    for end in ENDS {
        for (at, wait) in WAITS.into_iter().enumerate() {
            let is_notified = at % 2 == 0;
            let owner = Owner::<K, R>::new();
            if is_notified {
                owner.file.notify();
            }
            let held = owner.open_read();
            let bystander = owner.open_read();
            owner.file.is_empty.store(true, SeqCst);
            let sleeper = wait.sleep(held.clone());
            if wait.is_read() {
                let starved = &owner.file.starved;
                eventually("the reader finds nothing twice", || starved.load(SeqCst) >= 2);
            }
            assert_eq!(sleeper.result_now(), None, "{end:?} {wait:?}: nothing happened yet");
            let rest = end.apply(owner);
            let expected = if wait.is_read() {
                Got::Read(Err(Errno::ENODEV))
            } else {
                Got::Events(Events::PRI | Events::ERR)
            };
            let got = sleeper.join(&format!("{wait:?} over {end:?} of kind {K}, release {R}"));
            assert_eq!(got, expected, "{wait:?} over {end:?} of kind {K}, release {R}");
            assert_eq!(bystander.wait(Events::PRI), Events::PRI | Events::ERR);
            drop(rest);
        }
    }
}

/// P2: many waiters on many open files at once, each in its own way.
#[test]
fn p02_wake_on_sever_reaches_every_waiter_of_every_open_file() {
    let owner = Owner::<0, true>::new();
    let opens: Vec<OpenFile> = (0..8).map(|_| owner.open_read()).collect();
    owner.file.is_empty.store(true, SeqCst);
    let mut sleepers = Vec::new();
    for held in &opens {
        for wait in [Wait::Blocking, Wait::AsyncOwnExecutor, Wait::AsyncTokioCurrentThread] {
            sleepers.push(wait.sleep(held.clone()));
        }
    }
    drop(owner.file.remove().unwrap());
    for sleeper in sleepers {
        assert_eq!(sleeper.join("one of many"), Got::Events(Events::PRI | Events::ERR));
    }
}

/// P3: whoever registers while a severing runs either sees it or is woken by it.
#[test]
fn p03_no_lost_wake() {
    for end in ENDS {
        race(
            500,
            |_| {
                let owner = Owner::<0, true>::new();
                (owner.open_read(), owner)
            },
            move |owner| drop(end.apply(owner)),
            |held| assert_eq!(held.wait(Events::PRI), Events::PRI | Events::ERR),
        );
    }
}

/// P3: the same for a reader who waits for data.
#[test]
fn p03_no_lost_wake_of_a_blocked_reader() {
    for end in [End::Hide, End::Remove, End::ClientRmdir] {
        race(
            1000,
            |_| {
                let owner = Owner::<3, true>::new();
                owner.file.is_empty.store(true, SeqCst);
                (owner.open(), owner)
            },
            move |owner| drop(end.apply(owner)),
            |held| assert_eq!(held.read_at(&mut [0; 8], 0), Err(Errno::ENODEV)),
        );
    }
}

/// P3: the same for a notification, which is an event like severing.
#[test]
fn p03_no_lost_wake_by_notify() {
    race(
        3000,
        |_| {
            let owner = Owner::<0, true>::new();
            (owner.open_read(), owner)
        },
        |owner| {
            owner.file.notify();
            // The owner must live until the waiter is done: severing would wake it too.
            let (file, held) = (owner.file, owner.tree);
            std::mem::forget(file);
            std::mem::forget(held);
            std::mem::forget(owner.dir);
        },
        |held| assert_eq!(held.wait(Events::PRI), Events::PRI | Events::ERR),
    );
}

/// P3: a blocked reader and data that comes while it goes to sleep.
#[test]
fn p03_no_lost_wake_of_a_reader_by_news() {
    race(
        3000,
        |_| {
            let owner = Arc::new(Owner::<3, true>::new());
            owner.file.is_empty.store(true, SeqCst);
            ((owner.open(), Arc::clone(&owner)), owner)
        },
        |owner| {
            owner.file.is_empty.store(false, SeqCst);
            owner.file.notify();
        },
        |(held, _owner)| assert_eq!(held.read_at(&mut [0; 64], 0), Ok(11)),
    );
}

/// P4: after severing, polls are answered by kernfs alone, at once, for ever, and the driver is
/// never asked: here it has even been dropped.
#[test]
fn p04_no_poll_callback_after_sever() {
    for_every_shape!(polls_are_answered_without_the_driver);
}

fn polls_are_answered_without_the_driver<const K: u8, const R: bool>() {
    for end in ENDS {
        let owner = Owner::<K, R>::new();
        let log = Arc::clone(&owner.log);
        let held = owner.open_read();
        let rest = end.apply(owner);
        if end != End::DropTree && end != End::Hide {
            drop(rest);
            assert_eq!(log.dropped.load(SeqCst), 1, "{end:?}");
        }
        let entered = log.entered.load(SeqCst);
        for _ in 0..3 {
            for bit in Events::all().iter() {
                let expected = (bit & Events::SEVERED) | Events::ERR;
                assert_eq!(held.ready(bit), expected, "{end:?}");
                assert_eq!(held.wait(bit), expected, "{end:?}");
            }
            assert_eq!(held.ready(Events::empty()), Events::ERR);
            assert_eq!(held.ready(Events::all()), Events::SEVERED);
        }
        let (woken, waker) = CountingWaker::new();
        let mut wait = pin!(held.wait_async(Events::PRI));
        let polled = wait.as_mut().poll(&mut Context::from_waker(&waker));
        assert_eq!(polled, Poll::Ready(Events::PRI | Events::ERR));
        assert_eq!(woken.count(), 0);
        assert_eq!(log.entered.load(SeqCst), entered, "the driver was not asked");
        log.assert_clean();
    }
}

/// P5: a waiter that was woken may leave as late as it likes, when driver, file, tree and
/// descriptor are gone: it touches memory of kernfs only. (To be run under Miri as well.)
#[test]
fn p05_a_waiter_may_leave_late() {
    for end in ENDS {
        let owner = Owner::<0, true>::new();
        let log = Arc::clone(&owner.log);
        let held = owner.open_read();
        let (woken, waker) = CountingWaker::new();
        let mut cx = Context::from_waker(&waker);
        let mut late = Waiter::new();
        let mut later = Waiter::new();
        assert_eq!(held.poll_ready(&mut cx, &mut late, Events::PRI), Poll::Pending);
        assert_eq!(held.poll_ready(&mut cx, &mut later, Events::PRI), Poll::Pending);
        drop(end.apply(owner));
        assert_eq!(woken.count(), 2, "{end:?}");
        assert_eq!(log.dropped.load(SeqCst), 1, "{end:?}");
        // Between wake and leave: everything goes.
        let polled = held.poll_ready(&mut cx, &mut later, Events::PRI);
        assert_eq!(polled, Poll::Ready(Events::PRI | Events::ERR));
        drop(held);
        assert_eq!(log.freed.load(SeqCst), 1, "the descriptor is closed though waiters are left");
        within("a late waiter", move || drop((late, later)));
        log.assert_ended(1);
    }
}

/// P5: the same for waiters in the queue of an operation, and for futures that never finish.
#[test]
fn p05_an_operation_may_be_given_up_late() {
    let log = Log::new();
    let owner = Owner::<3, true>::with(kernfs_tests::probe::Watched::new(&log), Arc::clone(&log));
    owner.file.is_empty.store(true, SeqCst);
    let held = owner.open();
    let (woken, waker) = CountingWaker::new();
    let mut cx = Context::from_waker(&waker);
    let mut waiter = Waiter::new();
    let polled = held.poll_read_vec(&mut cx, &mut waiter, &Caller::OWNER, 16, 0);
    assert_eq!(polled, Poll::Pending);
    drop(owner.file.remove().unwrap());
    assert!(woken.count() >= 1);
    drop((held, owner.tree, owner.dir));
    within("a late reader", move || drop(waiter));
    log.assert_ended(1);
}
