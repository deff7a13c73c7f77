//! Groups of files: at once, typed, visible or not, and back by value.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use kernfs::{Caller, Client, Errno, Events, Manners, Mode, OpenFlags, Tree};
use kernfs_attr::{
    Action, Attr, Attributes, Binary, BitList, Bitmap, Bytes, Choice, DirExt, Exposed, Hex, Memory,
    Removal, ScopeExt, Subgroup, Value,
};

const LONG: Duration = Duration::from_secs(30);

#[derive(Choice, Clone, Copy, Debug, PartialEq)]
enum Policy {
    Always,
    Madvise,
    #[choice(name = "never")]
    Off,
}

#[derive(Choice, Clone, Copy, Debug, PartialEq)]
#[choice(plain)]
enum State {
    Up,
    PoweredDown,
}

#[derive(Attributes)]
struct Ids {
    #[attr(ro)]
    vendor: Hex<u16, 4>,
    #[attr(ro)]
    product: Hex<u16, 4>,
}

#[derive(Attributes)]
#[attributes(visible = |limits: &Self| limits.are_known.load(Ordering::SeqCst))]
struct Limits {
    are_known: AtomicBool,
    #[attr(rw, name = "limit_max", range = ..100)]
    max: Attr<i32>,
}

#[derive(Attributes)]
struct Device {
    /// The name.
    #[attr(ro)]
    name: String,
    /// How many there may be;
    /// at most five.
    #[attr(rw, range = 0..=5, store = Self::agree, unit = "pieces")]
    count: Attr<u32>,
    #[attr(rw)]
    policy: Attr<Policy>,
    #[attr(ro)]
    state: Attr<State>,
    #[attr(ro, show = Self::doubled)]
    doubled: (),
    #[attr(wo, store = Self::kick)]
    kick: AtomicU32,
    #[attr(mode = 0o600, show = Self::secret, store = Self::set_secret)]
    secret: AtomicU32,
    #[attr(rw)]
    cpus: Attr<BitList>,
    #[attr(rw)]
    eeprom: Binary,
    #[attr(ro, visible = Self::has_extra)]
    extra: bool,
    #[group(name = "id")]
    ids: Ids,
    #[group]
    limits: Limits,
    #[group(flat)]
    more: More,
    refused: u32,
}

#[derive(Attributes)]
struct More {
    #[attr(ro)]
    flat: &'static str,
}

impl Device {
    fn new() -> Self {
        Self {
            name: "gpu".into(),
            count: 1.into(),
            policy: Policy::Madvise.into(),
            state: State::Up.into(),
            doubled: (),
            kick: 0.into(),
            secret: 0.into(),
            cpus: BitList(Bitmap::of(8, 0..4)).into(),
            eeprom: Binary::new(vec![0u8; 16]),
            extra: true,
            ids: Ids { vendor: Hex(0x45e), product: Hex(0x28e) },
            limits: Limits { are_known: true.into(), max: 7.into() },
            more: More { flat: "yes" },
            refused: 4,
        }
    }

    fn agree(&self, count: &u32) -> Result<(), Errno> {
        if *count == self.refused { Err(Errno::EBUSY) } else { Ok(()) }
    }

    fn doubled(&self) -> Result<u32, Errno> {
        self.count.get().checked_mul(2).ok_or(Errno::EOVERFLOW)
    }

    fn kick(&self, times: &u32) -> Result<(), Errno> {
        self.kick.fetch_add(*times, Ordering::SeqCst);
        Ok(())
    }

    fn secret(&self) -> Hex<u32> {
        Hex(self.secret.load(Ordering::SeqCst))
    }

    fn set_secret(&self, secret: &Hex<u32>) -> Result<(), Errno> {
        self.secret.store(secret.0, Ordering::SeqCst);
        Ok(())
    }

    fn has_extra(&self) -> bool {
        self.extra
    }
}

fn sysfs() -> Tree {
    Tree::builder().manners(Manners::Sysfs).build()
}

fn read(client: &Client, path: &str) -> Result<String, Errno> {
    client.open(path, OpenFlags::READ)?.read_to_string()
}

fn write(client: &Client, path: &str, text: &str) -> Result<usize, Errno> {
    client.open(path, OpenFlags::WRITE)?.write(text.as_bytes())
}

fn names(client: &Client, path: &str) -> Vec<String> {
    let dir = client.open_dir(path).unwrap();
    let entries = dir.entries(0, usize::MAX).unwrap();
    let mut names: Vec<String> =
        entries.iter().map(|entry| String::from_utf8_lossy(&entry.name).into_owned()).collect();
    names.retain(|name| name != "." && name != "..");
    names.sort();
    names
}

#[test]
fn a_struct_is_a_directory_and_comes_back() {
    let tree = sysfs();
    let device = tree.root().add_group("dev0", Device::new()).unwrap();
    let client = tree.client(Caller::OWNER);
    assert_eq!(
        names(&client, "/dev0"),
        [
            "count", "cpus", "doubled", "eeprom", "extra", "flat", "id", "kick", "limits", "name",
            "policy", "secret", "state"
        ]
    );
    assert_eq!(read(&client, "/dev0/name").unwrap(), "gpu\n");
    assert_eq!(read(&client, "/dev0/policy").unwrap(), "always [madvise] never\n");
    assert_eq!(read(&client, "/dev0/state").unwrap(), "up\n");
    assert_eq!(read(&client, "/dev0/id/vendor").unwrap(), "0x045e\n");
    assert_eq!(read(&client, "/dev0/cpus").unwrap(), "0-3\n");
    assert_eq!(read(&client, "/dev0/limits/limit_max").unwrap(), "7\n");
    assert_eq!(write(&client, "/dev0/policy", "never\n"), Ok(6));
    assert_eq!(write(&client, "/dev0/policy", "[never]"), Err(Errno::EINVAL));
    assert_eq!(write(&client, "/dev0/policy", "nev"), Err(Errno::EINVAL));
    assert_eq!(write(&client, "/dev0/cpus", "6-N"), Ok(3));
    assert_eq!(write(&client, "/dev0/cpus", "8"), Err(Errno::ERANGE));
    assert_eq!(write(&client, "/dev0/secret", "0xff"), Ok(4));
    assert_eq!(read(&client, "/dev0/secret").unwrap(), "0xff\n");
    device.state.set(State::PoweredDown);
    assert_eq!(read(&client, "/dev0/state").unwrap(), "powered_down\n");
    let held = client.open("/dev0/count", OpenFlags::READ).unwrap();
    let device: Device = device.remove().unwrap();
    assert_eq!(device.policy.into_inner(), Policy::Off);
    assert_eq!(device.cpus.into_inner().iter().collect::<Vec<_>>(), [6, 7]);
    assert_eq!(held.read_to_string(), Err(Errno::ENODEV));
    assert_eq!(names(&client, "/"), [""; 0]);
    drop(held);
    assert_eq!(tree.usage().nodes, 1);
}

#[test]
fn stores_are_checked_by_type_range_and_owner() {
    let tree = sysfs();
    let device = tree.root().add_group("dev0", Device::new()).unwrap();
    let client = tree.client(Caller::OWNER);
    assert_eq!(write(&client, "/dev0/count", "5\n"), Ok(2));
    assert_eq!(write(&client, "/dev0/count", "6\n"), Err(Errno::ERANGE));
    assert_eq!(write(&client, "/dev0/count", "4\n"), Err(Errno::EBUSY));
    assert_eq!(write(&client, "/dev0/count", "-1\n"), Err(Errno::EINVAL));
    assert_eq!(write(&client, "/dev0/count", "99999999999\n"), Err(Errno::ERANGE));
    assert_eq!(write(&client, "/dev0/count", "\n"), Err(Errno::EINVAL));
    assert_eq!(write(&client, "/dev0/count", ""), Ok(0));
    assert_eq!(device.count.get(), 5);
    assert_eq!(read(&client, "/dev0/doubled").unwrap(), "10\n");
    assert_eq!(write(&client, "/dev0/limits/limit_max", "100"), Err(Errno::ERANGE));
    assert_eq!(write(&client, "/dev0/limits/limit_max", "-5"), Ok(2));
    assert_eq!(device.limits.max.get(), -5);
    assert_eq!(write(&client, "/dev0/kick", "3"), Ok(1));
    assert_eq!(device.kick.load(Ordering::SeqCst), 3);
    assert_eq!(read(&client, "/dev0/kick"), Err(Errno::EACCES));
    assert_eq!(write(&client, "/dev0/name", "x"), Err(Errno::EACCES));
    device.count.set(u32::MAX);
    assert_eq!(read(&client, "/dev0/doubled"), Err(Errno::EOVERFLOW));
}

#[test]
fn what_the_mode_does_not_allow_is_not_there_for_root_either() {
    // With cgroup manners root opens what it likes.
    let tree = Tree::new();
    let state = tree.root().add_attr("state", Mode::RO, Attr::new(1u8)).unwrap();
    let client = tree.client(Caller::OWNER);
    assert_eq!(write(&client, "/state", "2"), Err(Errno::EINVAL));
    assert_eq!(state.remove().unwrap().into_inner(), 1);
    let rejected = tree.root().add_attr("x", Mode::RO, Action::new(|_: &bool| Ok(()))).unwrap_err();
    assert_eq!(rejected.errno(), Errno::EINVAL);
}

#[test]
fn bytes_end_at_their_size() {
    let tree = sysfs();
    let device = tree.root().add_group("dev0", Device::new()).unwrap();
    let client = tree.client(Caller::OWNER);
    assert_eq!(client.lookup("/dev0/eeprom").unwrap().attr().size, 16);
    let file = client.open("/dev0/eeprom", OpenFlags::READ_WRITE).unwrap();
    assert_eq!(file.write_at(b"abc", 14), Ok(2));
    assert_eq!(file.write_at(b"abc", 16), Ok(0));
    assert_eq!(file.write_at(b"abc", u64::MAX), Ok(0));
    let mut buf = [0xff; 8];
    assert_eq!(file.read_at(&mut buf, 12), Ok(4));
    assert_eq!(&buf[..5], b"\0\0ab\xff");
    assert_eq!(file.read_at(&mut buf, 16), Ok(0));
    device.eeprom.bytes().write_at(0, b"owner").unwrap();
    assert_eq!(file.read_at(&mut buf, 0), Ok(8));
    assert_eq!(&buf, b"owner\0\0\0");
    let memory: Memory = device.remove().unwrap().eeprom.into_inner();
    assert!(memory.to_vec().starts_with(b"owner"));
    assert_eq!(memory.write_at(15, b"ab"), Err(Errno::EINVAL));
    assert_eq!(memory.read_at(u64::MAX, &mut buf), Err(Errno::EINVAL));
}

#[test]
fn set_wakes_who_polls_and_a_client_does_not() {
    let tree = sysfs();
    let count = tree.root().add_attr("count", Mode::RW, Attr::new(1u32)).unwrap();
    let client = tree.client(Caller::OWNER);
    let held = client.open("/count", OpenFlags::READ_WRITE).unwrap();
    assert_eq!(held.read_to_string().unwrap(), "1\n");
    assert_eq!(held.ready(Events::PRI), Events::empty());
    held.write(b"2").unwrap();
    assert_eq!(held.ready(Events::PRI), Events::empty());
    let sleeper = {
        let held = held.clone();
        thread::spawn(move || held.wait_timeout(Events::PRI, LONG))
    };
    count.set(3);
    assert!(sleeper.join().unwrap().contains(Events::PRI));
    assert_eq!(held.read_to_string().unwrap(), "3\n");
    assert_eq!(held.ready(Events::PRI), Events::empty());
    count.update(|count| count + 1);
    assert!(held.ready(Events::PRI).contains(Events::PRI));
    assert_eq!(held.read_to_string().unwrap(), "4\n");
    let count = count.remove().unwrap();
    count.set(5);
}

#[test]
fn visibility_is_looked_at_again_on_demand() {
    let tree = sysfs();
    let mut device = Device::new();
    device.extra = false;
    device.limits.are_known = false.into();
    let mut device = tree.root().add_group("dev0", device).unwrap();
    let client = tree.client(Caller::OWNER);
    assert!(client.lookup("/dev0/extra").is_err());
    assert!(client.lookup("/dev0/limits").is_err());
    device.update().unwrap();
    assert!(client.lookup("/dev0/limits").is_err());
    device.limits.are_known.store(true, Ordering::SeqCst);
    device.update().unwrap();
    let held = client.open("/dev0/limits/limit_max", OpenFlags::READ).unwrap();
    assert_eq!(held.read_to_string().unwrap(), "7\n");
    device.limits.max.set(8);
    assert!(held.ready(Events::PRI).contains(Events::PRI), "bound though it came later");
    device.limits.are_known.store(false, Ordering::SeqCst);
    device.update().unwrap();
    assert_eq!(held.read_to_string(), Err(Errno::ENODEV));
    assert!(client.lookup("/dev0/limits").is_err());
    assert!(!device.remove().unwrap().extra);
}

/// A switch decides whether a file is there; no derive, the table is written by hand.
struct Switch {
    is_on: AtomicBool,
    level: Attr<u8>,
    inner: Ids,
}

impl Attributes for Switch {
    const ENTRIES: &'static [kernfs_attr::Entry<Self>] = &[
        kernfs_attr::Entry::file("level", Mode::RW)
            .attribute(|switch: &Self| &switch.level)
            .visible(|switch| switch.is_on.load(Ordering::SeqCst)),
        kernfs_attr::Entry::group::<Ids>("ids", |outer| {
            Subgroup::new(outer, |switch| &switch.inner)
        }),
    ];
}

#[test]
fn a_hidden_file_comes_back_and_old_descriptors_stay_dead() {
    let tree = sysfs();
    let switch = Switch {
        is_on: true.into(),
        level: 1.into(),
        inner: Ids { vendor: Hex(1), product: Hex(2) },
    };
    let mut switch = tree.root().add_attributes(switch).unwrap();
    let client = tree.client(Caller::OWNER);
    let held = client.open("/level", OpenFlags::READ).unwrap();
    let ino = client.lookup("/level").unwrap().ino();
    switch.is_on.store(false, Ordering::SeqCst);
    switch.update().unwrap();
    assert_eq!(held.read_to_string(), Err(Errno::ENODEV));
    assert_eq!(client.open("/level", OpenFlags::READ).unwrap_err(), Errno::ENOENT);
    switch.is_on.store(true, Ordering::SeqCst);
    switch.update().unwrap();
    assert_eq!(held.read_to_string(), Err(Errno::ENODEV));
    assert_eq!(client.lookup("/level").unwrap().ino(), ino);
    assert_eq!(read(&client, "/level").unwrap(), "1\n");
    assert_eq!(read(&client, "/ids/vendor").unwrap(), "0x0001\n");
    switch.remove().unwrap();
    assert_eq!(names(&client, "/"), [""; 0]);
}

#[test]
fn what_cannot_be_added_comes_back_and_leaves_nothing() {
    let tree = sysfs();
    let taken = tree.root().add_dir("dev0", Mode::DIR).unwrap();
    let rejected = tree.root().add_group("dev0", Device::new()).unwrap_err();
    assert_eq!(rejected.errno(), Errno::EEXIST);
    let device = rejected.into_inner();
    // Without a name: the last of its files is in the way.
    let flat = taken.add_dir("flat", Mode::DIR).unwrap();
    let rejected = taken.add_attributes(device).unwrap_err();
    assert_eq!(rejected.errno(), Errno::EEXIST);
    assert_eq!(names(&tree.client(Caller::OWNER), "/dev0"), ["flat"]);
    flat.remove().unwrap();
    let device = taken.add_attributes(rejected.into_inner()).unwrap();
    assert_eq!(device.remove().unwrap().name, "gpu");
}

#[test]
fn a_group_that_is_dropped_is_gone() {
    let tree = sysfs();
    let device = tree.root().add_group("dev0", Device::new()).unwrap();
    let held = tree.client(Caller::OWNER).open("/dev0/name", OpenFlags::READ).unwrap();
    drop(device);
    assert_eq!(held.read_to_string(), Err(Errno::ENODEV));
    assert_eq!(tree.usage().nodes, 1);
}

#[test]
fn a_group_whose_parent_was_removed_comes_back() {
    let tree = sysfs();
    let parent = tree.root().add_dir("parent", Mode::DIR).unwrap();
    let device = parent.add_group("dev0", Device::new()).unwrap();
    parent.remove().unwrap();
    assert_eq!(device.remove().unwrap().name, "gpu");
}

/// A group of any value; the derive takes generics and bounds as they are.
#[derive(Attributes)]
struct Gauge<T: Value + Clone + Send + Sync + 'static> {
    #[attr(rw)]
    value: Attr<T>,
    #[attr(ro, show = Self::copy)]
    r#type: (),
}

impl<T: Value + Clone + Send + Sync + 'static> Gauge<T> {
    fn copy(&self) -> T {
        self.value.get()
    }
}

#[test]
fn a_generic_struct_is_a_group_too() {
    let tree = sysfs();
    let gauge = Gauge { value: Attr::new(vec![1u8, 2]), r#type: () };
    let gauge = tree.root().add_group("gauge", gauge).unwrap();
    let client = tree.client(Caller::OWNER);
    assert_eq!(write(&client, "/gauge/value", "3 4 5"), Ok(5));
    assert_eq!(read(&client, "/gauge/type").unwrap(), "3 4 5\n");
    assert_eq!(gauge.remove().unwrap().value.into_inner(), [3, 4, 5]);
}

#[test]
fn a_borrowed_attribute_is_exposed_for_a_scope() {
    let tree = sysfs();
    let client = tree.client(Caller::OWNER);
    let level = Attr::new(1u8);
    let held = tree.root().scope(|scope| {
        scope.expose_attr("level", Mode::RO, &level).unwrap();
        assert_eq!(write(&client, "/level", "2"), Err(Errno::EACCES));
        let held = client.open("/level", OpenFlags::READ).unwrap();
        assert_eq!(held.read_to_string().unwrap(), "1\n");
        level.set(2);
        assert!(held.ready(Events::PRI).contains(Events::PRI));
        held
    });
    assert_eq!(held.unwrap().read_to_string(), Err(Errno::ENODEV));
    level.set(3);
    assert_eq!(level.into_inner(), 3);
}

/// A device that a client can unplug by a write to one of its own files.
#[derive(Attributes)]
struct Suicidal {
    #[attr(wo, store = Self::unplug)]
    unplug: (),
    #[attr(ro)]
    name: &'static str,
}

/// Where it is kept, for nobody can hold a handle on what holds the handle.
static PLUGGED: Mutex<Option<Exposed<Suicidal>>> = Mutex::new(None);
static UNPLUGGED: Mutex<Option<Removal<Suicidal>>> = Mutex::new(None);

impl Suicidal {
    fn unplug(&self, _: &bool) -> Result<(), Errno> {
        let plugged = PLUGGED.lock().unwrap().take().ok_or(Errno::ENODEV)?;
        let unfinished = plugged.remove().err().unwrap();
        assert_eq!(unfinished.errno(), Errno::EDEADLK, "it would wait for itself");
        *UNPLUGGED.lock().unwrap() = Some(unfinished.into_removal());
        Ok(())
    }
}

#[test]
fn a_device_can_be_severed_inside_its_own_store_and_waited_for_outside() {
    let tree = sysfs();
    let device = Suicidal { unplug: (), name: "plug" };
    let device = tree.root().add_group("dev0", device).unwrap();
    let client = tree.client(Caller::OWNER);
    let held = client.open("/dev0/name", OpenFlags::READ).unwrap();
    *PLUGGED.lock().unwrap() = Some(device);
    assert_eq!(write(&client, "/dev0/unplug", "1"), Ok(1));
    assert_eq!(held.read_to_string(), Err(Errno::ENODEV));
    let removal = UNPLUGGED.lock().unwrap().take().unwrap();
    assert_eq!(removal.wait().unwrap().name, "plug");
}

/// Lets a test see that an operation is inside, and hold it there.
#[derive(Default)]
struct Gate {
    state: Mutex<(bool, bool)>,
    changed: Condvar,
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.0 = true;
        self.changed.notify_all();
        let closed = |state: &mut (bool, bool)| !state.1;
        let (_state, timeout) = self.changed.wait_timeout_while(state, LONG, closed).unwrap();
        assert!(!timeout.timed_out());
    }

    fn wait_for_someone(&self) {
        let empty = |state: &mut (bool, bool)| !state.0;
        let state = self.state.lock().unwrap();
        let (_state, timeout) = self.changed.wait_timeout_while(state, LONG, empty).unwrap();
        assert!(!timeout.timed_out());
    }

    fn open(&self) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

#[test]
fn a_removal_waits_for_a_store_that_is_inside() {
    let tree = sysfs();
    let gate = Arc::new(Gate::default());
    let count = {
        let gate = Arc::clone(&gate);
        Attr::new(1u32).on_store(move |_| {
            gate.pass();
            Ok(())
        })
    };
    let count = tree.root().add_attr("count", Mode::RW, count).unwrap();
    let client = tree.client(Caller::OWNER);
    let writer = thread::spawn(move || write(&client, "/count", "2"));
    gate.wait_for_someone();
    let unfinished = count.sever().wait_timeout(Duration::ZERO).unwrap_err();
    assert_eq!(unfinished.errno(), Errno::ETIMEDOUT);
    let removal = unfinished.into_removal();
    assert!(!removal.is_done());
    assert_eq!(removal.stuck_on().len(), 1);
    gate.open();
    let count = removal.wait().unwrap();
    // The store was inside before the removal: it went through, and its writer was told so.
    assert_eq!(count.get(), 2);
    assert_eq!(writer.join().unwrap(), Ok(1));
}

#[test]
fn a_removal_can_be_awaited() {
    let tree = sysfs();
    let device = tree.root().add_group("dev0", Device::new()).unwrap();
    let device = pollster::block_on(device.sever());
    assert_eq!(device.name, "gpu");
}

#[test]
fn readers_see_one_value_or_the_next() {
    let tree = sysfs();
    let list = tree.root().add_attr("list", Mode::RW, Attr::new(vec![0u64; 64])).unwrap();
    let client = tree.client(Caller::OWNER);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let file = client.open("/list", OpenFlags::READ).unwrap();
                    let mut seen = 0;
                    while !done.load(Ordering::SeqCst) || seen == 0 {
                        let text = file.read_to_string().unwrap();
                        let words: Vec<&str> = text.split_whitespace().collect();
                        assert_eq!(words.len(), 64);
                        assert!(words.iter().all(|word| *word == words[0]), "torn: {text}");
                        seen += 1;
                    }
                })
            })
            .collect();
        let writer = scope.spawn(|| {
            for value in 0..500 {
                let text = format!("{value} ").repeat(64);
                write(&client, "/list", &text).unwrap();
            }
        });
        for value in 500..1000 {
            list.set(vec![value; 64]);
        }
        for _ in 0..500 {
            list.update(|list| list.iter().map(|value| value + 1).collect());
        }
        writer.join().unwrap();
        done.store(true, Ordering::SeqCst);
        for reader in readers {
            reader.join().unwrap();
        }
    });
}

#[test]
fn no_update_is_lost() {
    let counter = Attr::new(0u32);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..1000).for_each(|_| counter.update(|count| count + 1)));
        }
    });
    // And one that comes in between for certain.
    let mut calls = 0;
    counter.update(|count| {
        calls += 1;
        if calls == 1 {
            counter.set(10_000);
        }
        count + 1
    });
    assert_eq!((calls, counter.into_inner()), (2, 10_001));
}

#[test]
fn removals_and_stores_meet_without_harm() {
    for round in 0..50 {
        let tree = sysfs();
        let device = tree.root().add_group("dev0", Device::new()).unwrap();
        let client = tree.client(Caller::OWNER);
        let stores = thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let Ok(file) = client.open("/dev0/count", OpenFlags::WRITE) else {
                    return 0;
                };
                let mut stores = 0;
                loop {
                    match file.write_at(b"3", 0) {
                        Ok(_) => stores += 1,
                        Err(errno) => {
                            assert_eq!(errno, Errno::ENODEV);
                            return stores;
                        }
                    }
                }
            });
            for _ in 0..round {
                thread::yield_now();
            }
            let device = device.remove().unwrap();
            let stores = writer.join().unwrap();
            (stores, device.count.get())
        });
        match stores {
            (0, count) => assert_eq!(count, 1),
            (_, count) => assert_eq!(count, 3),
        }
        assert_eq!(tree.usage().nodes, 1);
    }
}
