//! P11 to P13: what is attached to open files, and events that come at the worst moment.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use kernfs::{
    Caller, Errno, Events, File, FileOps, Kind, Mode, Notifier, OpenFile, OpenFlags, OpenOp, Ops,
    ReadOp, Readiness, ReadyBy, Reply, Tree, Waiter, WriteOp,
};
use kernfs_psi::{Engine, Group, PressureFile, Resource, VirtualClock, pressure_file};
use kernfs_tests::probe::{CallingWaker, CountingWaker, Log, Sleeper, eventually, within};

use super::fixture::{ENDS, End, Owner, race};

/// A pressure file in small: a write attaches a trigger to the open file, release detaches it.
#[derive(Default)]
struct Triggers {
    next: AtomicUsize,
    /// What the event producer sees; outlives the driver here, to see what is left.
    linked: Arc<Mutex<Vec<(usize, Readiness)>>>,
}

struct Trigger {
    ready: Readiness,
    number: Option<usize>,
}

impl FileOps for Triggers {
    type Open = Trigger;
    const READY: ReadyBy = ReadyBy::Handle;

    fn open(&self, op: &mut OpenOp<'_>) -> Result<Trigger, Errno> {
        Ok(Trigger { ready: op.readiness(), number: None })
    }

    fn write(&self, trigger: &mut Trigger, op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        if trigger.number.is_some() {
            return Err(Errno::EBUSY);
        }
        let number = self.next.fetch_add(1, SeqCst);
        self.linked.lock().unwrap().push((number, trigger.ready.clone()));
        trigger.number = Some(number);
        Ok(op.data().len())
    }

    fn release(&self, trigger: Trigger) {
        if let Some(number) = trigger.number {
            self.linked.lock().unwrap().retain(|(linked, _)| *linked != number);
        }
    }
}

/// P11: a trigger that is being attached while its file is severed is either attached, and torn
/// down by the severing, or refused with ENODEV; none is ever left linked.
#[test]
fn p11_publish_or_fail() {
    for hide in [false, true] {
        race(
            2000,
            |_| {
                let tree = Tree::new();
                let driver = Triggers::default();
                let linked = Arc::clone(&driver.linked);
                let file = tree.root().add_file("f", Mode::RW, driver).unwrap();
                let held = tree.client(Caller::OWNER).open("/f", OpenFlags::READ_WRITE).unwrap();
                (held, (tree, file, linked))
            },
            move |(_tree, file, linked)| {
                if hide {
                    file.hide().wait().unwrap();
                } else {
                    drop(file.remove().unwrap());
                }
                assert_eq!(linked.lock().unwrap().len(), 0, "left linked");
            },
            |held| {
                let attached = held.write_at(b"some 150000 1000000", 0);
                assert!(matches!(attached, Ok(19) | Err(Errno::ENODEV)), "{attached:?}");
            },
        );
    }
}

/// A pressure file, as it is, whose time stands until somebody lets it pass.
struct Pressure {
    clock: VirtualClock,
    engine: Arc<Engine>,
    group: Group,
    tree: Tree,
    file: File<PressureFile>,
}

impl Pressure {
    fn new() -> Self {
        let clock = VirtualClock::new();
        let engine = Arc::new(Engine::builder().clock(clock.clone()).build());
        let group = engine.root().child();
        let tree = Tree::new();
        let driver = pressure_file(&group, Resource::Io);
        let file = tree.root().add_file("io.pressure", driver.options(), driver).unwrap();
        Self { clock, engine, group, tree, file }
    }

    fn open(&self) -> OpenFile {
        self.tree.client(Caller::OWNER).open("/io.pressure", OpenFlags::READ_WRITE).unwrap()
    }

    /// Hides the file, or removes it, and returns what else there is.
    fn end(self, end: End) -> (Arc<Engine>, Group, Tree) {
        if end == End::Hide {
            self.file.hide().wait().unwrap();
        } else {
            drop(self.file.remove().unwrap());
        }
        assert_eq!(self.group.triggers(), 0, "left set");
        (self.engine, self.group, self.tree)
    }
}

const TRIGGER: &[u8] = b"some 1000 10000";

/// P11: the same for the triggers of `kernfs-psi`.
#[test]
fn p11_publish_or_fail_of_a_pressure_trigger() {
    for end in [End::Hide, End::Remove] {
        race(
            2000,
            |_| {
                let pressure = Pressure::new();
                (pressure.open(), pressure)
            },
            move |pressure| {
                let (_, group, _tree) = pressure.end(end);
                // A write that was late finds nothing to be set on.
                assert_eq!(group.triggers(), 0);
            },
            |held| {
                let set = held.write(TRIGGER);
                assert!([Ok(TRIGGER.len()), Err(Errno::ENODEV)].contains(&set), "{set:?}");
                let again = held.write(TRIGGER);
                assert!([Err(Errno::EBUSY), Err(Errno::ENODEV)].contains(&again), "{again:?}");
            },
        );
    }
}

/// A driver whose operations take their replies along.
#[derive(Default)]
struct Defers {
    reads: Arc<Mutex<Vec<Reply<Vec<u8>>>>>,
    writes: Arc<Mutex<Vec<Reply<usize>>>>,
}

impl FileOps for Defers {
    type Open = ();

    fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
        Ok(())
    }

    fn read(&self, (): &mut (), op: &mut ReadOp<'_>) -> Result<(), Errno> {
        self.reads.lock().unwrap().push(op.defer());
        Ok(())
    }

    fn write(&self, (): &mut (), op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        self.writes.lock().unwrap().push(op.defer());
        Ok(0)
    }
}

/// P11: the same for an operation that leaves its reply behind: it is answered ENODEV by the
/// severing, or never gets inside; nobody waits for ever.
#[test]
fn p11_publish_or_fail_of_a_deferred_reply() {
    race(
        2000,
        |_| {
            let tree = Tree::new();
            let driver = Defers::default();
            let writes = Arc::clone(&driver.writes);
            let file = tree.root().add_file("f", Mode::RW, driver).unwrap();
            let held = tree.client(Caller::OWNER).open("/f", OpenFlags::READ_WRITE).unwrap();
            (held, (tree, file, writes))
        },
        |(_tree, file, writes)| {
            drop(file.remove().unwrap());
            // Whatever got inside before has published its reply by now, and none comes later.
            assert!(writes.lock().unwrap().len() <= 1);
        },
        |held| assert_eq!(held.write_at(b"1", 0), Err(Errno::ENODEV)),
    );
}

/// P11, P12: after severing, an answer is given back to who gives it: it is not lost unnoticed,
/// even if the client has not run since.
#[test]
fn p11_an_answer_after_severing_is_given_back() {
    let tree = Tree::new();
    let driver = Defers::default();
    let reads = Arc::clone(&driver.reads);
    let file = tree.root().add_file("f", Mode::RW, driver).unwrap();
    let held = tree.client(Caller::OWNER).open("/f", OpenFlags::READ).unwrap();
    let mut waiter = Waiter::new();
    let mut cx = Context::from_waker(Waker::noop());
    let polled = held.poll_read_vec(&mut cx, &mut waiter, &Caller::OWNER, 16, 0);
    assert_eq!(polled, Poll::Pending);
    drop(file.remove().unwrap());
    let reply = reads.lock().unwrap().pop().unwrap();
    assert_eq!(reply.answer(Ok(b"late".to_vec())), Err(Ok(b"late".to_vec())));
    let polled = held.poll_read_vec(&mut cx, &mut waiter, &Caller::OWNER, 16, 0);
    assert_eq!(polled, Poll::Ready(Err(Errno::ENODEV)));
}

/// P12: kernfs detaches by itself: producers that fire while the file is severed, and long after,
/// do no harm, and pollers get what severing answers.
#[test]
fn p12_detach_is_automatic() {
    for end in [End::Hide, End::Remove] {
        race(
            1000,
            |_| {
                let tree = Tree::new();
                let driver = Triggers::default();
                let linked = Arc::clone(&driver.linked);
                let file = tree.root().add_file("f", Mode::RW, driver).unwrap();
                let held = tree.client(Caller::OWNER).open("/f", OpenFlags::READ_WRITE).unwrap();
                assert_eq!(held.write_at(b"some", 0), Ok(4));
                let (_, fired) = linked.lock().unwrap()[0].clone();
                ((held.clone(), fired), (tree, file, held))
            },
            move |(_tree, file, held)| {
                if end == End::Hide {
                    file.hide().wait().unwrap();
                } else {
                    drop(file.remove().unwrap());
                }
                assert_eq!(held.ready(Events::all()), Events::SEVERED);
                assert_eq!(held.ready(Events::PRI), Events::PRI | Events::ERR);
            },
            |(held, fired)| {
                for _ in 0..50 {
                    fired.set_once(Events::PRI);
                    fired.set(Events::IN);
                    fired.clear(Events::IN);
                }
                assert_eq!(held.wait(Events::ERR), Events::ERR, "woken by severing alone");
                fired.set_once(Events::HUP);
                // The client can be told in the middle of the severing.
                eventually("the driver's side to be told", || fired.is_dead());
                assert_eq!(held.ready(Events::all()), Events::SEVERED);
            },
        );
    }
}

/// P12: the same for the triggers of `kernfs-psi`, which fire while their file is severed.
#[test]
fn p12_detach_is_automatic_for_pressure_triggers() {
    for end in [End::Hide, End::Remove] {
        race(
            500,
            |_| {
                let pressure = Pressure::new();
                let held = [(); 3].map(|()| pressure.open());
                assert!(held.iter().all(|held| held.write(TRIGGER) == Ok(TRIGGER.len())));
                let stall = pressure.group.stall(Resource::Io);
                let (clock, engine) = (pressure.clock.clone(), Arc::clone(&pressure.engine));
                ((clock, engine, stall, held.clone()), (pressure, held))
            },
            move |(pressure, held)| {
                let rest = pressure.end(end);
                let dead = |held: &OpenFile| held.ready(Events::all()) == Events::SEVERED;
                assert!(held.iter().all(dead));
                drop(rest);
            },
            |(clock, engine, stall, held)| {
                // Each of them is enough for an event.
                for _ in 0..20 {
                    clock.run(&engine, Duration::from_millis(10));
                }
                drop(stall);
                let woken = held.each_ref().map(|held| held.wait(Events::PRI));
                let right = |woken: &Events| Events::CHANGED.contains(*woken) && !woken.is_empty();
                assert!(woken.iter().all(right), "{woken:?}");
            },
        );
    }
}

/// P12: an answer that races the severing reaches the client or comes back, one of the two.
#[test]
fn p12_detach_is_automatic_for_replies() {
    race(
        1000,
        |_| {
            let tree = Tree::new();
            let driver = Defers::default();
            let writes = Arc::clone(&driver.writes);
            let file = tree.root().add_file("f", Mode::RW, driver).unwrap();
            let held = tree.client(Caller::OWNER).open("/f", OpenFlags::READ_WRITE).unwrap();
            let writer = Sleeper::spawn(move || held.write_at(b"123", 0));
            writer.until_asleep();
            let reply = writes.lock().unwrap().pop();
            (reply, (tree, file, writer))
        },
        |(_tree, file, writer)| {
            drop(file.remove().unwrap());
            let wrote = writer.join("a deferred write");
            assert!(matches!(wrote, Ok(3) | Err(Errno::ENODEV)), "{wrote:?}");
        },
        |reply| {
            let _ = reply.map(|reply| reply.answer(Ok(3)));
        },
    );
}

/// A driver that announces changes of others wherever it can.
struct Announcer {
    others: Arc<OnceLock<Notifier>>,
    is_noisy: bool,
}

impl Announcer {
    fn announce(&self) {
        if let Some(other) = self.others.get().filter(|_| self.is_noisy) {
            other.notify();
        }
    }
}

impl FileOps for Announcer {
    type Open = ();
    const KIND: Kind = Kind::Text;
    const OPS: Ops = Ops::all();

    fn open(&self, op: &mut OpenOp<'_>) -> Result<(), Errno> {
        let others = Arc::clone(&self.others);
        op.on_free(move || others.get().unwrap().notify());
        self.announce();
        Ok(())
    }
    fn read(&self, (): &mut (), op: &mut ReadOp<'_>) -> Result<(), Errno> {
        self.announce();
        op.push(b"x");
        Ok(())
    }
    fn write(&self, (): &mut (), op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        self.announce();
        Ok(op.data().len())
    }
    fn release(&self, (): ()) {
        self.announce();
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        self.announce();
    }
}

/// P13: notify may be called from release, from callbacks of the same and of other nodes, from a
/// waker, from `free`, from the drop of a driver, and after removal, when it does nothing.
#[test]
fn p13_notify_is_safe_from_any_context() {
    within("notifications from everywhere", || {
        for is_own in [true, false] {
            let tree = Tree::new();
            let others = Arc::new(OnceLock::new());
            let noisy = Announcer { others: Arc::clone(&others), is_noisy: true };
            let noisy = tree.root().add_file("noisy", Mode::RW, noisy).unwrap();
            let quiet = Announcer { others: Arc::clone(&others), is_noisy: false };
            let quiet = tree.root().add_file("quiet", Mode::RW, quiet).unwrap();
            let notified = if is_own { noisy.notifier() } else { quiet.notifier() };
            others.set(notified.clone()).unwrap();

            let client = tree.client(Caller::OWNER);
            let heard = client.open(if is_own { "/noisy" } else { "/quiet" }, OpenFlags::READ);
            let heard = heard.unwrap();
            let hears = |what: &str| {
                assert_eq!(heard.ready(Events::PRI), Events::PRI | Events::ERR, "{what}");
                let _ = heard.read_at(&mut [0; 4], 0);
                assert_eq!(heard.ready(Events::PRI).is_empty(), !is_own, "{what}: read");
            };
            let held = client.open("/noisy", OpenFlags::READ_WRITE).unwrap();
            hears("from open");
            held.read_at(&mut [0; 4], 0).unwrap();
            hears("from read");
            held.write_at(b"1", 0).unwrap();
            hears("from write");
            drop(held);
            hears("from release and free");

            // A waker that notifies the very file whose waiters are being woken.
            let waker = Waker::from(Arc::new(CallingWaker({
                let notified = notified.clone();
                move || notified.notify()
            })));
            let mut waiter = Waiter::new();
            let mut cx = Context::from_waker(&waker);
            let _ = heard.poll_ready(&mut cx, &mut waiter, Events::HUP);
            notified.notify();
            hears("from a waker");

            let held = client.open("/noisy", OpenFlags::READ).unwrap();
            drop(noisy.remove().unwrap());
            drop(held);
            notified.notify();
            drop(quiet.remove().unwrap());
            notified.notify();
            assert_eq!(heard.ready(Events::all()), Events::SEVERED);
            drop(tree);
            notified.notify();
        }
    });
}

/// P13: nor does it wait for whoever is inside the node, or severs it.
#[test]
fn p13_notify_never_waits() {
    for end in ENDS {
        let owner = Owner::<0, true>::new();
        let notifier = owner.file.notifier();
        let rest = Sleeper::spawn({
            let notifier = notifier.clone();
            move || (0..10_000).for_each(|_| notifier.notify())
        });
        let held = owner.open();
        for _ in 0..100 {
            let _ = held.read_at(&mut [0; 4], 0);
        }
        let kept = end.apply(owner);
        notifier.notify();
        rest.join("a notifier beside a severing");
        assert_eq!(held.ready(Events::all()), Events::SEVERED, "{end:?}");
        drop(kept);
    }
}

/// P13: a notification while a hidden file has no open files is not lost on later ones, and does
/// not bring back old ones.
#[test]
fn p13_notify_of_a_hidden_file() {
    let log = Log::new();
    let owner = Owner::<0, true>::with(kernfs_tests::probe::Watched::new(&log), Arc::clone(&log));
    let old = owner.open_read();
    owner.file.hide().wait().unwrap();
    let (woken, waker) = CountingWaker::new();
    let mut waiter = Waiter::new();
    let polled = old.poll_ready(&mut Context::from_waker(&waker), &mut waiter, Events::PRI);
    assert_eq!(polled, Poll::Ready(Events::PRI | Events::ERR));
    owner.file.notify();
    owner.file.show();
    assert!(woken.count() <= 1);
    assert_eq!(owner.open().ready(Events::PRI), Events::PRI | Events::ERR);
    assert_eq!(old.read_at(&mut [0; 4], 0), Err(Errno::ENODEV));
}
