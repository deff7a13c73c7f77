//! The owner's side of the trees that the subjects of this library show: control groups, and
//! devices of sysfs manners.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use kernfs::{
    Caller, Child, Client, Clock, Dir, DirOp, DirOps, DirOptions, Draining, Errno, File, FileOps,
    FileOptions, Kind as Shape, Link, Manners, Mode, Name, Notifier, OpenOp, Ops, ReadOp, Tag,
    Tree, WriteOp, show,
};
use kernfs_psi::{Engine, PressureFile, Task, VirtualClock, WriteManners, pressure_file};

use crate::group_tree::GroupTree;
use crate::subject::{Attribute, Device, Needs, Sys, errno};

/// What there are pressure files of.
const RESOURCES: [kernfs_psi::Resource; 3] =
    [kernfs_psi::Resource::Cpu, kernfs_psi::Resource::Io, kernfs_psi::Resource::Memory];

/// A tree whose directories have control files.
pub(crate) struct Groups {
    tree: OnceLock<Tree>,
    client: OnceLock<Client>,
    /// Groups by the inode number of their directory.
    all: Mutex<HashMap<u64, Arc<Group>>>,
    /// What is accounted of the groups, removed ones too.
    accounts: Mutex<Vec<kernfs_psi::Group>>,
    engine: Engine,
    /// Stands until the case lets time pass.
    clock: VirtualClock,
}

impl Groups {
    pub(crate) fn new() -> Arc<Self> {
        let clock = VirtualClock::new();
        let groups = Arc::new(Self {
            tree: OnceLock::new(),
            client: OnceLock::new(),
            all: Mutex::default(),
            accounts: Mutex::default(),
            engine: Engine::builder().clock(clock.clone()).build(),
            clock,
        });
        let tree = Tree::builder().dir_ops(GroupOps(Arc::downgrade(&groups))).build();
        let system = tree.root().add_dir(Self::SYSTEM, Mode::DIR).expect("a new name");
        for resource in RESOURCES {
            let file = pressure_file(groups.engine.root(), resource).manners(WriteManners::Proc);
            let added = system.add_file(resource.to_string(), file.options(), file);
            added.expect("a new name").keep();
        }
        system.keep();
        let _ = groups.client.set(tree.client(Caller::OWNER));
        let _ = groups.tree.set(tree);
        groups
    }

    /// The directory of the pressure files of the whole system.
    const SYSTEM: &str = "system";

    fn of(&self, path: &str) -> Sys<Arc<Group>> {
        let client = self.client.get().ok_or(errno::ENODEV)?;
        let ino = client.lookup(path).map_err(Errno::raw)?.ino();
        self.find(ino).ok_or(errno::ENOENT)
    }

    fn find(&self, ino: u64) -> Option<Arc<Group>> {
        self.all.lock().unwrap().get(&ino).cloned()
    }

    /// Refuses what a limit of a group above forbids (`cgroup_check_hierarchy_limits`).
    fn check_limits(&self, parent: Option<&Arc<Group>>) -> Result<(), Errno> {
        let mut above = parent.cloned();
        let mut depth = 1;
        while let Some(group) = above {
            let descendants = group.descendants.load(SeqCst);
            if depth > group.max_depth.load(SeqCst)
                || descendants >= group.max_descendants.load(SeqCst)
            {
                return Err(Errno::EAGAIN);
            }
            depth += 1;
            above = group.parent.clone();
        }
        Ok(())
    }

    /// Makes a directory with its files aside and attaches it at once.
    fn make(&self, parent: &Dir, name: &Name, mode: Mode) -> Result<(), Errno> {
        let above = self.find(parent.ino());
        self.check_limits(above.as_ref())?;
        let dir = self.tree.get().ok_or(Errno::ENODEV)?.detached_dir(mode);
        let account = above.as_ref().map_or(self.engine.root(), |above| &above.account).child();
        self.accounts.lock().unwrap().push(account.clone());
        let group = Arc::new(Group::new(above, account));
        for (file, mode, what) in What::ALL {
            let driver = Control { what, group: Arc::clone(&group) };
            let file = dir.add_file(file, mode, driver)?;
            if what == What::Events {
                let _ = group.events.set(file.notifier());
            }
            file.keep();
        }
        for resource in RESOURCES {
            let driver = pressure_file(&group.account, resource);
            let file = dir.add_file(format!("{resource}.pressure"), driver.options(), driver)?;
            group.stalls.lock().unwrap().push(file);
        }
        parent.attach(name, &dir)?;
        group.count(1);
        self.all.lock().unwrap().insert(dir.ino(), group);
        dir.keep();
        Ok(())
    }

    fn remove(&self, dir: &Child) -> Result<Draining, Errno> {
        let group = self.find(dir.ino()).ok_or(Errno::ENOENT)?;
        if group.is_populated.load(SeqCst) || group.descendants.load(SeqCst) > 0 {
            return Err(Errno::EBUSY);
        }
        self.all.lock().unwrap().remove(&dir.ino());
        group.count(-1);
        let draining = dir.sever();
        let stalls = std::mem::take(&mut *group.stalls.lock().unwrap());
        drop(stalls);
        Ok(draining)
    }
}

impl GroupTree for Arc<Groups> {
    fn name(&self) -> &'static str {
        "kernfs"
    }

    fn tree(&self) -> &Tree {
        self.tree.get().expect("set at once")
    }

    fn can(&self) -> Needs {
        Needs::SYSTEM_PRESSURE
    }

    fn populate(&self, path: &str, is_populated: bool) -> Sys<()> {
        let group = self.of(path)?;
        group.is_populated.store(is_populated, SeqCst);
        if let Some(events) = group.events.get() {
            events.notify();
        }
        Ok(())
    }

    fn load(&self, path: &str, is_loaded: bool) -> Sys<()> {
        let group = self.of(path)?;
        let mut load = group.load.lock().unwrap();
        load.clear();
        if is_loaded {
            load.push(group.account.work());
            load.extend((0..3).map(|_| group.account.stall(kernfs_psi::Resource::Cpu)));
        }
        Ok(())
    }

    fn pass(&self, time: Duration) {
        self.clock.run(&self.engine, time);
    }

    fn time(&self) -> Duration {
        self.clock.monotonic()
    }

    fn triggers(&self) -> usize {
        let below: usize =
            self.accounts.lock().unwrap().iter().map(kernfs_psi::Group::triggers).sum();
        self.engine.root().triggers() + below
    }

    fn system(&self) -> Sys<&'static str> {
        Ok(Groups::SYSTEM)
    }
}

/// What clients may do to the directories of [`Groups`].
struct GroupOps(Weak<Groups>);

impl DirOps for GroupOps {
    fn mkdir(&self, parent: &Dir, name: &Name, op: &DirOp<'_>) -> Result<(), Errno> {
        if name.contains(&b'\n') {
            return Err(Errno::EINVAL);
        }
        self.0.upgrade().ok_or(Errno::ENODEV)?.make(parent, name, op.mode())
    }

    fn rmdir(&self, dir: &Child, _: &DirOp<'_>) -> Result<Draining, Errno> {
        self.0.upgrade().ok_or(Errno::ENODEV)?.remove(dir)
    }
}

/// What the control files of one directory are about.
struct Group {
    parent: Option<Arc<Self>>,
    is_populated: AtomicBool,
    is_frozen: AtomicBool,
    accounts: AtomicBool,
    max_depth: AtomicUsize,
    max_descendants: AtomicUsize,
    descendants: AtomicUsize,
    events: OnceLock<Notifier>,
    /// The pressure files, which hide.
    stalls: Mutex<Vec<File<PressureFile>>>,
    account: kernfs_psi::Group,
    /// Tasks that contend for a processor.
    load: Mutex<Vec<Task>>,
}

impl Group {
    fn new(parent: Option<Arc<Self>>, account: kernfs_psi::Group) -> Self {
        Self {
            parent,
            is_populated: AtomicBool::new(false),
            is_frozen: AtomicBool::new(false),
            accounts: AtomicBool::new(true),
            max_depth: AtomicUsize::new(usize::MAX),
            max_descendants: AtomicUsize::new(usize::MAX),
            descendants: AtomicUsize::new(0),
            events: OnceLock::new(),
            stalls: Mutex::default(),
            account,
            load: Mutex::default(),
        }
    }

    /// Counts a child, made or removed, in all groups above.
    fn count(&self, change: isize) {
        let mut above = self.parent.as_ref();
        while let Some(group) = above {
            group.descendants.fetch_add(change as usize, SeqCst);
            above = group.parent.as_ref();
        }
    }

    /// Hides or shows the pressure files; a write is answered when they are at rest.
    fn account(&self, accounts: bool, op: &mut WriteOp<'_>) {
        if self.accounts.swap(accounts, SeqCst) == accounts {
            return;
        }
        if accounts {
            self.account.enable();
        } else {
            self.account.disable();
        }
        for file in &*self.stalls.lock().unwrap() {
            if accounts {
                file.show();
            } else {
                // The last one stands for all: operations on them do not take time here.
                op.answer_after(file.hide());
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Controllers,
    Events,
    Freeze,
    Kill,
    MaxDepth,
    MaxDescendants,
    Pressure,
    Stat,
}

impl What {
    const ALL: [(&str, Mode, Self); 8] = [
        ("cgroup.controllers", Mode::RO, Self::Controllers),
        ("cgroup.events", Mode::RO, Self::Events),
        ("cgroup.freeze", Mode::RW, Self::Freeze),
        ("cgroup.kill", Mode::WO, Self::Kill),
        ("cgroup.max.depth", Mode::RW, Self::MaxDepth),
        ("cgroup.max.descendants", Mode::RW, Self::MaxDescendants),
        ("cgroup.pressure", Mode::RW, Self::Pressure),
        ("cgroup.stat", Mode::RO, Self::Stat),
    ];
}

/// A control file.
struct Control {
    what: What,
    group: Arc<Group>,
}

impl FileOps for Control {
    type Open = ();

    fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
        Ok(())
    }

    fn read(&self, (): &mut (), op: &mut ReadOp<'_>) -> Result<(), Errno> {
        let group = &self.group;
        let bit = |bit: &AtomicBool| u8::from(bit.load(SeqCst));
        let limit = |limit: &AtomicUsize| match limit.load(SeqCst) {
            usize::MAX => "max\n".to_owned(),
            limit => format!("{limit}\n"),
        };
        let text = match self.what {
            What::Controllers => "cpu memory\n".to_owned(),
            What::Events => {
                format!(
                    "populated {}\nfrozen {}\n",
                    bit(&group.is_populated),
                    bit(&group.is_frozen)
                )
            }
            What::Freeze => format!("{}\n", bit(&group.is_frozen)),
            What::Kill => return Err(Errno::EINVAL),
            What::MaxDepth => limit(&group.max_depth),
            What::MaxDescendants => limit(&group.max_descendants),
            What::Pressure => format!("{}\n", bit(&group.accounts)),
            What::Stat => {
                let descendants = group.descendants.load(SeqCst);
                format!("nr_descendants {descendants}\nnr_dying_descendants 0\n")
            }
        };
        op.push(text.as_bytes());
        Ok(())
    }

    fn write(&self, (): &mut (), op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        let len = op.data().len();
        if len == 0 {
            return Ok(0);
        }
        let text = op.text()?;
        match self.what {
            What::Freeze => self.group.is_frozen.store(switch(text)?, SeqCst),
            What::Pressure => self.group.account(switch(text)?, op),
            What::MaxDepth => self.group.max_depth.store(limit(text)?, SeqCst),
            What::MaxDescendants => self.group.max_descendants.store(limit(text)?, SeqCst),
            What::Kill => drop(switch(text)?),
            What::Controllers | What::Events | What::Stat => return Err(Errno::EINVAL),
        }
        Ok(len)
    }
}

/// Parses an integer in any C notation (`kstrtoint` with base 0).
fn integer(text: &str) -> Result<i64, Errno> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = match digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        Some(rest) => (16, rest),
        None if digits.len() > 1 && digits.starts_with('0') => (8, &digits[1..]),
        None => (10, digits),
    };
    if digits.starts_with(['+', '-']) {
        return Err(Errno::EINVAL);
    }
    i64::from_str_radix(digits, radix).map(|value| sign * value).map_err(|_| Errno::EINVAL)
}

fn switch(text: &str) -> Result<bool, Errno> {
    match integer(text)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Errno::ERANGE),
    }
}

fn limit(text: &str) -> Result<usize, Errno> {
    match text {
        "max" => Ok(usize::MAX),
        text => usize::try_from(integer(text)?).map_err(|_| Errno::ERANGE),
    }
}

/// A tree of devices with sysfs manners, in a directory of two namespaces.
pub(crate) struct Devices {
    client: Client,
    class: Dir,
    links: Dir,
    all: Mutex<HashMap<String, OwnedDevice>>,
    count: AtomicUsize,
    /// The path under which clients find the root.
    root: String,
    /// Last, for it ends with everything in it.
    tree: Tree,
}

struct OwnedDevice {
    mtu: Option<File<Mtu>>,
    value: Arc<AtomicU64>,
    dir: Dir,
    _link: Link,
}

impl OwnedDevice {
    fn remove(self) {
        self.dir.remove().unwrap();
        // It has none while its attribute is removed by itself.
        let mtu = self.mtu.is_none_or(|mtu| mtu.into_inner().is_ok());
        assert!(mtu, "the driver of a removed device comes back");
    }
}

impl Devices {
    /// The namespace that clients see.
    pub(crate) const HERE: Tag = Tag(1);
    const ELSEWHERE: Tag = Tag(2);
    const MAPPED_SIZE: u64 = 8192;

    /// Makes a tree that clients find at `root`.
    pub(crate) fn new(root: &str) -> Self {
        let tree = Tree::builder().manners(Manners::Sysfs).build();
        let class = DirOptions::new(Mode::DIR).tagged_children();
        let class = tree.root().add_dir("class", class).unwrap();
        let links = tree.root().add_dir("links", Mode::DIR).unwrap();
        let client = tree.client_in(Caller::OWNER, Self::HERE);
        let (all, count) = (Mutex::default(), AtomicUsize::new(0));
        Self { client, class, links, all, count, root: root.to_owned(), tree }
    }

    pub(crate) fn tree(&self) -> &Tree {
        &self.tree
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    fn add_mtu(dir: &Dir, value: Arc<AtomicU64>) -> Result<File<Mtu>, Errno> {
        Ok(dir.add_file("mtu", Mode::RW, Mtu(value))?)
    }

    /// Makes a fresh device.
    pub(crate) fn register(&self) -> Sys<Device> {
        let name = format!("dev{}", self.count.fetch_add(1, SeqCst));
        self.add(&name).map_err(Errno::raw)
    }

    fn add(&self, name: &str) -> Result<Device, Errno> {
        let dir = self.class.add_dir(name, DirOptions::new(Mode::DIR).tag(Self::HERE))?;
        let value = Arc::new(AtomicU64::new(1500));
        let mtu = Self::add_mtu(&dir, Arc::clone(&value))?;
        dir.add_file("address", Mode::RO, show(|op| op.push(b"02:00:00:00:00:01\n")))?.keep();
        dir.add_file("reset", Mode::WO, Reset)?.keep();
        dir.add_file("secret", Mode::new(0), show(|op| op.push(b"1\n")))?.keep();
        let mapped = FileOptions::new(Mode::RO).size(Self::MAPPED_SIZE);
        dir.add_file("resource", mapped, Resource)?.keep();
        let link = self.links.add_link(name, &dir)?;
        let owned = OwnedDevice { mtu: Some(mtu), value, dir, _link: link };
        self.all.lock().unwrap().insert(name.into(), owned);
        Ok(Device {
            dir: format!("{}/class/{name}", self.root),
            rw: "mtu".into(),
            ro: "address".into(),
            wo: Some("reset".into()),
            secret: Some("secret".into()),
            mapped: Some(("resource".into(), Self::MAPPED_SIZE)),
            link: format!("{}/links/{name}", self.root),
        })
    }

    pub(crate) fn set_value(&self, device: &Device, value: &str) -> Sys<()> {
        let all = self.all.lock().unwrap();
        let owned = all.get(last(&device.dir)).ok_or(errno::ENOENT)?;
        owned.value.store(value.parse().map_err(|_| errno::EINVAL)?, SeqCst);
        Ok(())
    }

    pub(crate) fn unregister(&self, device: &Device) -> Sys<()> {
        let device = self.all.lock().unwrap().remove(last(&device.dir));
        device.ok_or(errno::ENOENT)?.remove();
        Ok(())
    }

    pub(crate) fn rename(&self, device: &Device, name: &str) -> Sys<Device> {
        let mut all = self.all.lock().unwrap();
        let owned = all.remove(last(&device.dir)).ok_or(errno::ENOENT)?;
        let renamed = owned.dir.rename(&self.class, name);
        let name = if renamed.is_ok() { name } else { last(&device.dir) };
        all.insert(name.into(), owned);
        renamed.map_err(Errno::raw)?;
        Ok(Device { dir: format!("{}/class/{name}", self.root), ..device.clone() })
    }

    /// Moves a device to the other namespace, or back.
    pub(crate) fn set_away(&self, device: &Device, is_away: bool) -> Sys<()> {
        let all = self.all.lock().unwrap();
        let owned = all.get(last(&device.dir)).ok_or(errno::ENOENT)?;
        let tag = if is_away { Self::ELSEWHERE } else { Self::HERE };
        owned.dir.rename_in(&self.class, last(&device.dir), tag).map_err(Errno::raw)
    }

    /// Makes a fresh file that can be removed by itself.
    pub(crate) fn attribute(&self) -> Sys<Attribute> {
        let device = self.register()?;
        Ok(Attribute { path: format!("{}/{}", device.dir, device.rw) })
    }

    /// Removes such a file, or adds it again.
    pub(crate) fn set_present(&self, attribute: &Attribute, is_present: bool) -> Sys<()> {
        let dir = attribute.path.rsplit_once('/').ok_or(errno::ENOENT)?.0;
        let mut all = self.all.lock().unwrap();
        let owned = all.get_mut(last(dir)).ok_or(errno::ENOENT)?;
        drop(owned.mtu.take().map(File::remove));
        if is_present {
            let mtu = Self::add_mtu(&owned.dir, Arc::clone(&owned.value));
            owned.mtu = Some(mtu.map_err(Errno::raw)?);
        }
        Ok(())
    }
}

fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// A number.
struct Mtu(Arc<AtomicU64>);

impl FileOps for Mtu {
    type Open = ();

    fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
        Ok(())
    }

    fn read(&self, (): &mut (), op: &mut ReadOp<'_>) -> Result<(), Errno> {
        op.push(format!("{}\n", self.0.load(SeqCst)).as_bytes());
        Ok(())
    }

    fn write(&self, (): &mut (), op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        let mtu = u64::try_from(integer(op.text()?)?).map_err(|_| Errno::EINVAL)?;
        self.0.store(mtu, SeqCst);
        Ok(op.data().len())
    }
}

/// A trigger that can only be written.
struct Reset;

impl FileOps for Reset {
    type Open = ();
    const OPS: Ops = Ops::WRITE;

    fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
        Ok(())
    }

    fn write(&self, (): &mut (), op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        Ok(op.data().len())
    }
}

/// Memory that can be mapped; byte `n` has the value `n mod 251`.
struct Resource;

impl FileOps for Resource {
    type Open = ();
    const KIND: Shape = Shape::Binary;
    const OPS: Ops = Ops::READ.union(Ops::MMAP);

    fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
        Ok(())
    }

    fn read(&self, (): &mut (), op: &mut ReadOp<'_>) -> Result<(), Errno> {
        let range = op.offset()..op.offset() + op.max_len() as u64;
        let bytes: Vec<u8> = range.map(|at| (at % 251) as u8).collect();
        op.push(&bytes);
        Ok(())
    }
}
