//! Storms of a whole tree, under the schedulers of shuttle.
//!
//! Owners add, hide, show, rename, attach, notify and sever by all ways, while clients open, read,
//! write, poll, wait, defer, give up and close. What the drivers see is checked at each step, and
//! everything that was ever made is accounted for at the end.
//!
//! `.ci/shuttle` runs this in a minute or two. For a night:
//!
//! ```sh
//! STORMS=1000000 RUSTFLAGS="--cfg shuttle" CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=true \
//!     cargo test -p kernfs --test shuttle --release
//! ```
//!
//! A storm that fails prints its schedule; put that into `shuttle::replay` to see it again.
#![cfg(shuttle)]

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use kernfs::{
    Ack, Caller, Child, Client, Clock, Dir, DirOp, DirOps, Draining, Errno, Events, File, FileOps,
    FrontEnd, Kind, Mode, Name, Notifier, OpenFile, OpenFlags, OpenOp, ReadOp, ReadShared,
    Readiness, ReadyBy, Reply, Severed, Timestamp, Tree, Waiter, WriteOp,
};
use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::sync::mpsc::{Sender, channel};
use shuttle::{Config, Runner, thread};

/// Storms per scheduler and test, unless `STORMS` says how many.
const STORMS: usize = 100_000;

/// Memory for the stack of each thread.
const STACK: usize = 256 << 10;

fn storm(scheduler: impl Scheduler + 'static, scenario: impl Fn() + Send + Sync + 'static) {
    let mut config = Config::new();
    config.stack_size = STACK;
    Runner::new(scheduler, config).run(scenario);
}

fn storms(share: usize) -> usize {
    let all = std::env::var("STORMS").ok().and_then(|storms| storms.parse().ok());
    all.unwrap_or(STORMS) / share
}

#[test]
fn storm_of_two_owners_and_three_clients_in_random_order() {
    storm(RandomScheduler::new(storms(1)), || blow(2, 3, 8));
}

#[test]
fn storm_of_two_owners_and_three_clients_with_few_preemptions() {
    for depth in [2, 3, 5] {
        storm(PctScheduler::new(depth, storms(3)), || blow(2, 3, 8));
    }
}

#[test]
fn short_storm_of_one_owner_and_two_clients() {
    storm(RandomScheduler::new(storms(1)), || blow(1, 2, 4));
    storm(PctScheduler::new(3, storms(1)), || blow(1, 2, 4));
}

#[test]
fn storm_of_triggers() {
    storm(RandomScheduler::new(storms(2)), pressure);
    storm(PctScheduler::new(3, storms(2)), pressure);
}

/// A pressure file in small, among clients who set triggers, somebody who fires them, and an owner
/// who hides and shows the file and at last removes it: each trigger ends with its open file.
fn pressure() {
    let tree = Arc::new(Tree::builder().clock(Ticks::default()).build());
    let linked: Linked = Arc::default();
    let driver = Triggers { linked: Arc::clone(&linked), next: AtomicU64::new(0) };
    let file = tree.root().add_file("f", Mode::RW, driver).unwrap();
    let clients = (0..2).map(|_| {
        let client = tree.client(Caller::OWNER);
        thread::spawn(move || (0..3).for_each(|_| set_and_wait(&client)))
    });
    let clients: Vec<_> = clients.collect();
    let producer = thread::spawn({
        let linked = Arc::clone(&linked);
        move || {
            for _ in 0..4 {
                let all: Vec<_> = linked.lock().unwrap().values().cloned().collect();
                for trigger in all {
                    trigger.set_once(Events::PRI);
                }
            }
        }
    });
    for _ in 0..2 {
        file.hide().wait().unwrap();
        assert!(linked.lock().unwrap().is_empty(), "a trigger outlived its open file");
        file.show();
    }
    drop(file.remove().unwrap());
    assert!(linked.lock().unwrap().is_empty(), "a trigger outlived its open file");
    clients.into_iter().for_each(|client| client.join().unwrap());
    producer.join().unwrap();
    assert!(linked.lock().unwrap().is_empty());
    assert_eq!(tree.usage().open_files, 0);
}

fn set_and_wait(client: &Client) {
    let Ok(held) = client.open("/f", OpenFlags::READ_WRITE) else { return };
    let first = held.write_at(b"some", 0);
    assert!(matches!(first, Ok(4) | Err(Errno::ENODEV)), "{first:?}");
    let second = held.write_at(b"some", 0);
    assert!(matches!(second, Err(Errno::EBUSY | Errno::ENODEV)), "{second:?}");
    if thread_rng().gen_range(0..2) == 0 {
        let woken = held.wait(Events::PRI);
        assert!(woken == Events::PRI || woken == Events::PRI | Events::ERR, "{woken:?}");
    }
}

type Linked = Arc<shuttle::sync::Mutex<BTreeMap<u64, Readiness>>>;

struct Triggers {
    linked: Linked,
    next: AtomicU64,
}

impl FileOps for Triggers {
    type Open = (Readiness, Option<u64>);
    const READY: ReadyBy = ReadyBy::Handle;

    fn open(&self, op: &mut OpenOp<'_>) -> Result<Self::Open, Errno> {
        Ok((op.readiness(), None))
    }

    fn write(&self, open: &mut Self::Open, op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        if open.1.is_some() {
            return Err(Errno::EBUSY);
        }
        let number = self.next.fetch_add(1, SeqCst);
        self.linked.lock().unwrap().insert(number, open.0.clone());
        open.1 = Some(number);
        Ok(op.data().len())
    }

    fn release(&self, open: Self::Open) {
        if let Some(number) = open.1 {
            self.linked.lock().unwrap().remove(&number);
        }
    }
}

/// Lets owners and clients loose on a tree, severs what is left, and counts.
fn blow(owners: usize, clients: usize, steps: usize) {
    let world = Arc::new(World::default());
    let builder = Tree::builder().clock(Ticks::default());
    let tree = Arc::new(builder.dir_ops(ByClients(Arc::clone(&world))).build());
    let (send, acks) = channel();
    let mount = Arc::new(Mount { acks: shuttle::sync::Mutex::new(send) });
    let guard = tree.register(mount);
    let acknowledger = thread::spawn(move || while acks.recv().is_ok() {});

    let owners = (0..owners).map(|_| {
        let (world, tree) = (Arc::clone(&world), Arc::clone(&tree));
        thread::spawn(move || (0..steps).for_each(|_| own(&world, &tree)))
    });
    let owners: Vec<_> = owners.collect();
    let clients = (0..clients).map(|_| {
        let (world, client) = (Arc::clone(&world), tree.client(Caller::OWNER));
        thread::spawn(move || be_client(&world, &client, steps))
    });
    let clients: Vec<_> = clients.collect();

    owners.into_iter().for_each(|owner| owner.join().unwrap());
    // Clients may be asleep on files that nobody will ever write; this has to wake them.
    let Ok(tree) = Arc::try_unwrap(tree) else { unreachable!("owners hold it, and are done") };
    let stream = tree.changes(4);
    tree.remove().unwrap();
    drop(stream);
    clients.into_iter().for_each(|client| client.join().unwrap());
    drop(std::mem::take(&mut *world.passed.lock().unwrap()));
    world.take_handles().into_iter().for_each(Handle::must_be_drained);
    drop(guard);
    acknowledger.join().unwrap();
    world.settle();
}

// ---- what is watched

/// What all threads of a storm share; its locks are never held across a step of the scheduler.
#[derive(Default)]
struct World {
    failed: AtomicBool,
    files: Mutex<Vec<Arc<FileWatch>>>,
    handles: Mutex<Vec<Handle>>,
    owed: Mutex<Vec<Owed>>,
    ready: Mutex<Vec<Readiness>>,
    notifiers: Mutex<Vec<Notifier>>,
    /// Duplicates of descriptors, on their way from one client to another.
    passed: Mutex<Vec<OpenFile>>,
}

enum Owed {
    Read(Reply<Vec<u8>>),
    Write(Reply<usize>),
}

/// The life of a driver.
#[derive(Default)]
struct FileWatch {
    inside: AtomicUsize,
    opened: AtomicUsize,
    released: AtomicUsize,
    freed: AtomicUsize,
    /// The owner has it back, or it was dropped.
    over: AtomicBool,
}

/// The life of an open file.
#[derive(Default)]
struct OpenWatch {
    exclusive: AtomicUsize,
    shared: AtomicUsize,
    released: AtomicBool,
}

impl World {
    /// Asserts inside a driver, where panics are contained.
    #[track_caller]
    fn check(&self, holds: bool, what: &str) {
        if !holds {
            self.failed.store(true, SeqCst);
            panic!("{what}");
        }
    }

    fn take_handles(&self) -> Vec<Handle> {
        std::mem::take(&mut *self.handles.lock().unwrap())
    }

    /// Takes one of a list out, if there is one.
    fn pick<T>(list: &Mutex<Vec<T>>) -> Option<T> {
        let len = list.lock().unwrap().len();
        if len == 0 {
            return None;
        }
        let at = thread_rng().gen_range(0..len);
        let mut list = list.lock().unwrap();
        (at < list.len()).then(|| list.swap_remove(at))
    }

    /// Checks that everything that began has ended.
    fn settle(&self) {
        assert!(!self.failed.load(SeqCst), "a check failed inside a driver");
        drop(std::mem::take(&mut *self.owed.lock().unwrap()));
        for file in self.files.lock().unwrap().iter() {
            let opened = file.opened.load(SeqCst);
            assert!(file.over.load(SeqCst), "a driver was never given back");
            assert_eq!(file.inside.load(SeqCst), 0);
            assert_eq!(file.released.load(SeqCst), opened, "released once each");
            assert_eq!(file.freed.load(SeqCst), opened, "freed once each");
        }
        for readiness in self.ready.lock().unwrap().iter() {
            assert!(readiness.is_dead());
            readiness.set(Events::PRI);
        }
        // They know the tree, which knows this world.
        let notifiers = std::mem::take(&mut *self.notifiers.lock().unwrap());
        notifiers.iter().for_each(Notifier::notify);
    }
}

/// A clock that moves at each look.
#[derive(Default)]
struct Ticks(AtomicU64);

impl Clock for Ticks {
    fn now(&self) -> Timestamp {
        Timestamp::default()
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.0.fetch_add(1, SeqCst))
    }
}

/// A front end whose acknowledgements are given by another thread.
struct Mount {
    acks: shuttle::sync::Mutex<Sender<Ack>>,
}

impl FrontEnd for Mount {
    fn severed(&self, severed: &Severed<'_>, ack: Ack) {
        assert_ne!(severed.inos().len(), 0);
        // Where nobody listens any more, dropping it acknowledges.
        let _ = self.acks.lock().unwrap().send(ack);
    }
}

// ---- drivers

const TEXT: u8 = 0;
const STREAM: u8 = 1;
const BINARY: u8 = 2;

/// A driver that does something else each time.
struct Fickle<const KIND: u8> {
    world: Arc<World>,
    watch: Arc<FileWatch>,
    items: AtomicUsize,
}

impl<const KIND: u8> Fickle<KIND> {
    fn new(world: &Arc<World>) -> Self {
        let watch = Arc::new(FileWatch::default());
        world.files.lock().unwrap().push(Arc::clone(&watch));
        Self { world: Arc::clone(world), watch, items: AtomicUsize::new(1) }
    }

    /// Runs an operation, during which others come by.
    fn inside<R>(&self, run: impl FnOnce() -> R) -> R {
        self.watch.inside.fetch_add(1, SeqCst);
        self.world.check(!self.watch.over.load(SeqCst), "called after its owner took it back");
        if thread_rng().gen_bool(0.5) {
            thread::yield_now();
        }
        let result = run();
        self.world.check(!self.watch.over.load(SeqCst), "taken back while in use");
        self.watch.inside.fetch_sub(1, SeqCst);
        result
    }

    /// Does the same with the state of an open file to itself.
    fn alone<R>(&self, open: &OpenWatch, run: impl FnOnce() -> R) -> R {
        let world = &self.world;
        world.check(open.exclusive.fetch_add(1, SeqCst) == 0, "two are inside of one open file");
        world.check(open.shared.load(SeqCst) == 0, "alone beside readers");
        let result = self.inside(run);
        world.check(!open.released.load(SeqCst), "released under an operation");
        open.exclusive.fetch_sub(1, SeqCst);
        result
    }

    /// Severs something from inside an operation, where nothing may be waited for.
    fn sever_inside(&self, op: &mut WriteOp<'_>) {
        let Some(handle) = World::pick(&self.world.handles) else { return };
        match handle.owned.remove() {
            Ok(()) => {}
            Err(draining) => op.answer_after(draining),
        }
    }
}

impl<const KIND: u8> Drop for Fickle<KIND> {
    fn drop(&mut self) {
        let watch = &self.watch;
        let held = watch.opened.load(SeqCst) - watch.released.load(SeqCst);
        self.world.check(held == 0, "given back before everything was released");
        self.world.check(watch.inside.load(SeqCst) == 0, "given back while in use");
        self.world.check(!watch.over.swap(true, SeqCst), "given back twice");
    }
}

impl<const KIND: u8> FileOps for Fickle<KIND> {
    type Open = Arc<OpenWatch>;
    const KIND: Kind = match KIND {
        TEXT => Kind::Text,
        STREAM => Kind::Stream,
        _ => Kind::Binary,
    };
    const READ_SHARED: Option<ReadShared<Self>> = if KIND == BINARY {
        Some(ReadShared::new(|driver: &Self, open: &Arc<OpenWatch>, op| {
            open.shared.fetch_add(1, SeqCst);
            driver.world.check(open.exclusive.load(SeqCst) == 0, "beside one that is alone");
            driver.inside(|| op.push(b"b"));
            driver.world.check(!open.released.load(SeqCst), "released under a reader");
            open.shared.fetch_sub(1, SeqCst);
            Ok(())
        }))
    } else {
        None
    };

    fn open(&self, op: &mut OpenOp<'_>) -> Result<Arc<OpenWatch>, Errno> {
        self.inside(|| {
            if thread_rng().gen_bool(0.1) {
                return Err(Errno::EBUSY);
            }
            let open = Arc::new(OpenWatch::default());
            let (world, watch) = (Arc::clone(&self.world), Arc::clone(&self.watch));
            let opened = Arc::clone(&open);
            op.on_free(move || {
                world.check(opened.released.load(SeqCst), "freed before it was released");
                watch.freed.fetch_add(1, SeqCst);
            });
            if thread_rng().gen_bool(0.2) {
                self.world.ready.lock().unwrap().push(op.readiness());
            }
            self.watch.opened.fetch_add(1, SeqCst);
            Ok(open)
        })
    }

    fn read(&self, open: &mut Arc<OpenWatch>, op: &mut ReadOp<'_>) -> Result<(), Errno> {
        self.alone(open, || {
            if thread_rng().gen_bool(0.2) && !op.caller().nonblocking {
                self.world.owed.lock().unwrap().push(Owed::Read(op.defer()));
                return Ok(());
            }
            if KIND == STREAM {
                let take = |items: usize| items.checked_sub(1);
                self.items.fetch_update(SeqCst, SeqCst, take).map_err(|_| Errno::EAGAIN)?;
            }
            op.push(b"one line\n");
            Ok(())
        })
    }

    fn write(&self, open: &mut Arc<OpenWatch>, op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        self.alone(open, || {
            match thread_rng().gen_range(0..4) {
                0 => self.world.owed.lock().unwrap().push(Owed::Write(op.defer())),
                1 => self.sever_inside(op),
                2 => {
                    self.items.fetch_add(1, SeqCst);
                    let notifier = World::pick(&self.world.notifiers);
                    notifier.into_iter().for_each(|notifier| notifier.notify());
                }
                _ => {}
            }
            Ok(op.data().len())
        })
    }

    fn release(&self, open: Arc<OpenWatch>) {
        self.inside(|| {
            let world = &self.world;
            world.check(open.exclusive.load(SeqCst) == 0, "released under an operation");
            world.check(open.shared.load(SeqCst) == 0, "released under a reader");
            world.check(!open.released.swap(true, SeqCst), "released twice");
            let notifier = World::pick(&world.notifiers);
            notifier.into_iter().for_each(|notifier| notifier.notify());
        });
        self.watch.released.fetch_add(1, SeqCst);
    }
}

/// Lets clients make and remove directories.
struct ByClients(Arc<World>);

impl DirOps for ByClients {
    fn mkdir(&self, parent: &Dir, name: &Name, op: &DirOp<'_>) -> Result<(), Errno> {
        let dir = parent.add_dir(name, op.mode())?;
        thread::yield_now();
        let kept = Fickle::<TEXT>::new(&self.0);
        // The directory may be gone again: then so is the driver.
        if let Ok(file) = dir.add_file("kept", Mode::RW, kept) {
            file.keep();
        }
        dir.keep();
        Ok(())
    }

    fn rmdir(&self, dir: &Child, _: &DirOp<'_>) -> Result<Draining, Errno> {
        Ok(dir.sever())
    }

    fn unlink(&self, node: &Child, _: &DirOp<'_>) -> Result<Draining, Errno> {
        Ok(node.sever())
    }
}

// ---- owners

/// A file of any kind, in the hands of an owner.
trait Owned: Send {
    fn watch(&self) -> &Arc<FileWatch>;
    /// Removes it, or gives the removal back if that must not be waited for here.
    fn remove(self: Box<Self>) -> Result<(), Draining>;
    fn sever(self: Box<Self>) -> Draining;
    fn into_inner(self: Box<Self>) -> Option<Box<dyn Owned>>;
    fn change(&self, root: &Dir);
}

struct Handle {
    owned: Box<dyn Owned>,
}

impl Handle {
    /// Everything was severed and waited for: no driver may be in use.
    fn must_be_drained(self) {
        let watch = Arc::clone(self.owned.watch());
        assert!(self.owned.into_inner().is_none(), "not at rest");
        assert!(watch.over.load(SeqCst));
    }
}

impl<const KIND: u8> Owned for File<Fickle<KIND>> {
    fn watch(&self) -> &Arc<FileWatch> {
        &self.watch
    }

    fn remove(self: Box<Self>) -> Result<(), Draining> {
        match (*self).remove() {
            Ok(driver) => {
                drop(driver);
                Ok(())
            }
            Err(error) => {
                assert_eq!(error.errno(), Errno::EDEADLK);
                Err(error.into_draining().detach())
            }
        }
    }

    fn sever(self: Box<Self>) -> Draining {
        (*self).sever().detach()
    }

    fn into_inner(self: Box<Self>) -> Option<Box<dyn Owned>> {
        match (*self).into_inner() {
            Ok(driver) => {
                drop(driver);
                None
            }
            Err(handle) => Some(Box::new(handle)),
        }
    }

    fn change(&self, root: &Dir) {
        match thread_rng().gen_range(0..6) {
            0 => self.hide().wait().unwrap(),
            1 => drop(self.hide()),
            2 => self.show(),
            3 => drop(self.rename(root, NAMES[thread_rng().gen_range(0..NAMES.len())])),
            4 => {
                self.items.fetch_add(1, SeqCst);
                self.notify();
            }
            _ => assert!(self.holders().len() <= 8),
        }
    }
}

const NAMES: [&str; 3] = ["a", "b", "c"];
const PATHS: [&str; 6] = ["/a", "/b", "/c", "/d/a", "/d/b", "/made/kept"];

/// Takes one step of an owner.
fn own(world: &Arc<World>, tree: &Tree) {
    let name = NAMES[thread_rng().gen_range(0..NAMES.len())];
    match thread_rng().gen_range(0..14) {
        0..4 => add_some(world, tree.root(), name),
        4 => attach(world, tree),
        5 => {
            if let Some(handle) = World::pick(&world.handles) {
                handle.owned.remove().expect("outside of all operations");
            }
        }
        6 => sever(world, thread_rng().gen_range(0..4)),
        7 => {
            if let Ok(draining) = tree.root().sever_child(name) {
                draining.wait().unwrap();
            }
        }
        8 => drop(tree.root().sever_child("d").map(shuttle::future::block_on)),
        9 => {
            if let Some(handle) = World::pick(&world.handles) {
                let alive = handle.owned.into_inner().map(|owned| Handle { owned });
                world.handles.lock().unwrap().extend(alive);
            }
        }
        10 => answer(world),
        11 => {
            let readiness = world.ready.lock().unwrap().last().cloned();
            if let Some(readiness) = readiness {
                readiness.set_once(Events::PRI);
            }
        }
        _ => {
            if let Some(handle) = World::pick(&world.handles) {
                handle.owned.change(tree.root());
                world.handles.lock().unwrap().push(handle);
            }
        }
    }
}

fn add_some(world: &Arc<World>, dir: &Dir, name: &str) {
    match thread_rng().gen_range(0..3) {
        0 => add::<TEXT>(world, dir, name),
        1 => add::<STREAM>(world, dir, name),
        _ => add::<BINARY>(world, dir, name),
    }
}

fn add<const KIND: u8>(world: &Arc<World>, dir: &Dir, name: &str) {
    let Ok(file) = dir.add_file(name, Mode::RW, Fickle::<KIND>::new(world)) else { return };
    world.notifiers.lock().unwrap().push(file.notifier());
    world.handles.lock().unwrap().push(Handle { owned: Box::new(file) });
}

/// Builds a directory aside and attaches it, to stay until somebody takes it away.
fn attach(world: &Arc<World>, tree: &Tree) {
    let dir = tree.detached_dir(Mode::DIR);
    add_some(world, &dir, "a");
    add_some(world, &dir, "b");
    if tree.root().attach("d", &dir).is_ok() {
        dir.keep();
    }
}

/// Severs a file in one of the ways that do not wait at once.
fn sever(world: &Arc<World>, way: usize) {
    let Some(handle) = World::pick(&world.handles) else { return };
    let watch = Arc::clone(handle.owned.watch());
    let draining = match way {
        0 => return drop(handle),
        _ => handle.owned.sever(),
    };
    match way {
        1 => drop(draining),
        2 => shuttle::future::block_on(draining),
        _ => match draining.wait_timeout(Duration::from_secs(3)) {
            Ok(()) => {}
            Err(error) => {
                assert_eq!(error.errno(), Errno::ETIMEDOUT);
                let draining = error.into_draining();
                let _ = draining.stuck_on();
                draining.wait().unwrap();
            }
        },
    }
    assert!(way == 1 || watch.over.load(SeqCst), "waited for, and still in use");
}

fn answer(world: &World) {
    match World::pick(&world.owed) {
        Some(Owed::Read(reply)) => drop(reply.answer(Ok(b"late".to_vec()))),
        // Dropped: the client gets EIO.
        Some(Owed::Write(reply)) if thread_rng().gen_bool(0.3) => drop(reply),
        Some(Owed::Write(reply)) => drop(reply.answer(Ok(1))),
        None => {}
    }
}

// ---- clients

/// An open file, and whether it was found dead.
struct Held {
    file: OpenFile,
    dead: bool,
}

impl Held {
    /// Holds an answer against what was answered before: dead is dead for ever.
    fn hears<T>(&mut self, answer: &Result<T, Errno>) {
        let dead = matches!(answer, Err(Errno::ENODEV));
        assert!(dead || !self.dead, "came back to life");
        self.dead |= dead;
    }
}

fn be_client(world: &World, client: &Client, steps: usize) {
    let mut held: Vec<Held> = Vec::new();
    for _ in 0..steps {
        let passed = World::pick(&world.passed);
        held.extend(passed.map(|file| Held { file, dead: false }));
        if held.is_empty() || (held.len() < 3 && thread_rng().gen_bool(0.3)) {
            let path = PATHS[thread_rng().gen_range(0..PATHS.len())];
            let mut flags = OpenFlags::READ_WRITE;
            flags.set(OpenFlags::NONBLOCK, thread_rng().gen_bool(0.3));
            match client.open(path, flags) {
                Ok(file) => held.push(Held { file, dead: false }),
                Err(errno) => {
                    let known = [Errno::ENOENT, Errno::ENODEV, Errno::EBUSY, Errno::ENOTDIR];
                    assert!(known.contains(&errno), "{errno:?}");
                }
            }
            continue;
        }
        let at = thread_rng().gen_range(0..held.len());
        match thread_rng().gen_range(0..10) {
            0 => drop(held.swap_remove(at)),
            1 => give_up(&mut held[at]),
            2 => make_and_remove(client),
            3 => answer(world),
            4 => world.passed.lock().unwrap().push(held[at].file.clone()),
            _ => use_it(&mut held[at]),
        }
    }
    // A second descriptor, and the last close from two threads.
    if let Some(Held { file, .. }) = held.pop() {
        let duplicate = file.clone();
        let closer = thread::spawn(move || drop(duplicate));
        drop(file);
        closer.join().unwrap();
    }
}

/// Takes one operation to its end, however long that takes.
fn use_it(held: &mut Held) {
    let mut buf = [0; 16];
    match thread_rng().gen_range(0..6) {
        0 | 1 => {
            let read = held.file.read_at(&mut buf, 0);
            held.hears(&read);
            if let Err(errno) = read {
                let known = [Errno::ENODEV, Errno::EAGAIN, Errno::EIO];
                assert!(known.contains(&errno), "{errno:?}");
            }
        }
        2 => {
            let read = shuttle::future::block_on(held.file.read_at_async(&mut buf, 0));
            held.hears(&read);
        }
        3 => {
            let written = held.file.write_at(b"1", 0);
            // A write that was answered by a removal is answered although the file died of it.
            if written != Ok(1) || held.dead {
                held.hears(&written);
            }
        }
        4 => {
            let events = held.file.wait(Events::PRI);
            assert_ne!(events, Events::empty());
        }
        _ => {
            let events = held.file.ready(Events::all());
            assert!(!held.dead || events == Events::SEVERED);
            held.dead |= held.file.is_severed();
        }
    }
}

struct Deaf;

impl Wake for Deaf {
    fn wake(self: Arc<Self>) {}
}

/// Begins an operation and gives it up.
fn give_up(held: &mut Held) {
    let waker = Waker::from(Arc::new(Deaf));
    let mut cx = Context::from_waker(&waker);
    let mut waiter = Waiter::new();
    let file = &held.file;
    let begun = match thread_rng().gen_range(0..3) {
        0 => file.poll_read_at(&mut cx, &mut waiter, file.opener(), &mut [0; 16], 0).map(drop),
        1 => file.poll_write_at(&mut cx, &mut waiter, file.opener(), b"1", 0).map(drop),
        _ => file.poll_ready(&mut cx, &mut waiter, Events::PRI).map(drop),
    };
    if begun == Poll::Pending {
        thread::yield_now();
    }
}

fn make_and_remove(client: &Client) {
    let known = [Errno::EEXIST, Errno::ENOENT, Errno::ENODEV, Errno::EPERM];
    if thread_rng().gen_bool(0.6) {
        let made = client.mkdir("/made", Mode::DIR);
        assert!(made.is_ok() || made.is_err_and(|errno| known.contains(&errno)), "{made:?}");
    } else {
        match client.rmdir("/made") {
            Ok(draining) => draining.wait().unwrap(),
            Err(errno) => assert!(known.contains(&errno), "{errno:?}"),
        }
    }
}
