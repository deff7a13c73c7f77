//! The library in this process as a subject: a tree of control groups and one of devices, and just
//! enough of a VFS to turn system calls into calls of clients.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use kernfs::{
    Caller, Child, Client, Dir, DirOp, DirOps, DirOptions, Draining, Errno, Events, File, FileOps,
    FileOptions, Inode, Kind as Shape, Link, Manners, Mapping, Mode, Name, Notifier, OpenDir,
    OpenFile, OpenFlags, OpenOp, Ops, ReadOp, SetAttr, Tag, Timestamp, Tree, WriteOp, XattrFlags,
    show,
};

use crate::subject::{
    Device, Dirent, Fd, How, Kind, Map, Needs, Stat, Subject, Sys, errno, flags, whence,
};

/// The in-process subject.
pub struct InProcess {
    groups: Arc<Groups>,
    devices: Devices,
    /// What an inode lock does in a VFS: changes of names come one at a time.
    names: Mutex<()>,
    fds: Mutex<HashMap<i32, Handle>>,
    maps: Mutex<HashMap<i32, Arc<Mapping>>>,
    next: AtomicI32,
}

#[derive(Clone)]
enum Handle {
    File { open: OpenFile, is_append: bool },
    Dir { dir: OpenDir, cursor: Arc<AtomicU64> },
}

impl InProcess {
    /// Makes both trees.
    pub fn new() -> Self {
        Self {
            groups: Groups::new(),
            devices: Devices::new(),
            names: Mutex::new(()),
            fds: Mutex::default(),
            maps: Mutex::default(),
            next: AtomicI32::new(3),
        }
    }

    /// Splits a path into the view of its tree and the path there.
    fn route<'a>(&self, path: &'a str) -> Sys<(&Client, &'a str)> {
        if let Some(rest) = path.strip_prefix("/cgroup") {
            Ok((self.groups.client(), rest))
        } else if let Some(rest) = path.strip_prefix("/sys") {
            Ok((&self.devices.client, rest))
        } else {
            Err(errno::ENOENT)
        }
    }

    fn inode(&self, path: &str) -> Sys<Inode> {
        let (client, path) = self.route(path)?;
        raw(client.lookup(path))
    }

    fn install(&self, handle: Handle) -> Fd {
        let number = self.next.fetch_add(1, SeqCst);
        self.fds.lock().unwrap().insert(number, handle);
        Fd(number)
    }

    fn open_inode(&self, inode: &Inode, open: i32) -> Sys<Fd> {
        if inode.kind() == kernfs::NodeKind::Dir {
            let dir = raw(inode.open_dir(&Caller::OWNER))?;
            return Ok(self.install(Handle::Dir { dir, cursor: Arc::default() }));
        }
        let mut access = match open & 3 {
            flags::O_RDONLY => OpenFlags::READ,
            flags::O_WRONLY => OpenFlags::WRITE,
            _ => OpenFlags::READ_WRITE,
        };
        access.set(OpenFlags::NONBLOCK, open & flags::O_NONBLOCK != 0);
        let is_append = open & flags::O_APPEND != 0;
        let open = raw(inode.open(&Caller::OWNER, access))?;
        Ok(self.install(Handle::File { open, is_append }))
    }

    fn handle(&self, fd: Fd) -> Sys<Handle> {
        self.fds.lock().unwrap().get(&fd.0).cloned().ok_or(errno::EBADF)
    }

    fn file(&self, fd: Fd) -> Sys<(OpenFile, bool)> {
        match self.handle(fd)? {
            Handle::File { open, is_append } => Ok((open, is_append)),
            Handle::Dir { .. } => Err(errno::EISDIR),
        }
    }

    fn inode_of(&self, fd: Fd) -> Sys<Inode> {
        Ok(match self.handle(fd)? {
            Handle::File { open, .. } => open.inode(),
            Handle::Dir { dir, .. } => dir.inode().clone(),
        })
    }
}

impl Default for InProcess {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for InProcess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InProcess").finish_non_exhaustive()
    }
}

fn raw<T>(result: Result<T, Errno>) -> Sys<T> {
    result.map_err(Errno::raw)
}

impl Subject for InProcess {
    fn name(&self) -> String {
        "kernfs in process".into()
    }

    fn kind(&self) -> Kind {
        Kind::InProcess
    }

    fn can(&self) -> Needs {
        Needs::CGROUPS
            | Needs::MEMBERS
            | Needs::PRESSURE_FILES
            | Needs::DEVICES
            | Needs::NAMESPACES
            | Needs::MAPPED_FILE
            | Needs::HANDLES
            | Needs::LIBRARY
    }

    fn cgroup(&self) -> Sys<String> {
        let path = format!("/cgroup/t{}", self.next.fetch_add(1, SeqCst));
        self.mkdir(&path).map(|()| path)
    }

    fn populate(&self, dir: &str, is_populated: bool) -> Sys<()> {
        let ino = self.inode(dir)?.ino();
        let group = self.groups.find(ino).ok_or(errno::ENOENT)?;
        group.is_populated.store(is_populated, SeqCst);
        if let Some(events) = group.events.get() {
            events.notify();
        }
        Ok(())
    }

    fn device(&self) -> Sys<Device> {
        let name = format!("dev{}", self.next.fetch_add(1, SeqCst));
        raw(self.devices.register(&name))
    }

    fn unregister(&self, device: &Device) -> Sys<()> {
        let device = self.devices.all.lock().unwrap().remove(last(&device.dir));
        device.ok_or(errno::ENOENT)?.remove();
        Ok(())
    }

    fn rename_device(&self, device: &Device, name: &str) -> Sys<Device> {
        let mut all = self.devices.all.lock().unwrap();
        let owned = all.remove(last(&device.dir)).ok_or(errno::ENOENT)?;
        let renamed = owned.dir.rename(&self.devices.class, name);
        let name = if renamed.is_ok() { name } else { last(&device.dir) };
        all.insert(name.into(), owned);
        raw(renamed)?;
        Ok(Device { dir: format!("/sys/class/{name}"), ..device.clone() })
    }

    fn move_device(&self, device: &Device, is_away: bool) -> Sys<()> {
        let all = self.devices.all.lock().unwrap();
        let owned = all.get(last(&device.dir)).ok_or(errno::ENOENT)?;
        let tag = if is_away { Devices::ELSEWHERE } else { Devices::HERE };
        raw(owned.dir.rename_in(&self.devices.class, last(&device.dir), tag))
    }

    fn renew_attribute(&self, device: &Device, name: &str) -> Sys<()> {
        let mut all = self.devices.all.lock().unwrap();
        let owned = all.get_mut(last(&device.dir)).ok_or(errno::ENOENT)?;
        assert_eq!(name, "mtu", "the attribute that can be renewed here");
        drop(owned.mtu.take().map(File::remove));
        owned.mtu = Some(raw(Devices::add_mtu(&owned.dir))?);
        Ok(())
    }

    fn mkdir(&self, path: &str) -> Sys<()> {
        let _names = self.names.lock().unwrap();
        let (client, path) = self.route(path)?;
        raw(client.mkdir(path, Mode::DIR))
    }

    fn mkdirat(&self, dir: Fd, name: &str) -> Sys<()> {
        let _names = self.names.lock().unwrap();
        raw(self.inode_of(dir)?.mkdir(&Caller::OWNER, name, Mode::DIR))
    }

    fn rmdir(&self, path: &str) -> Sys<()> {
        let _names = self.names.lock().unwrap();
        let (client, path) = self.route(path)?;
        raw(raw(client.rmdir(path))?.wait().map_err(Errno::from))
    }

    fn unlink(&self, path: &str) -> Sys<()> {
        let _names = self.names.lock().unwrap();
        let (client, path) = self.route(path)?;
        raw(raw(client.unlink(path))?.wait().map_err(Errno::from))
    }

    fn rename(&self, from: &str, to: &str) -> Sys<()> {
        let _names = self.names.lock().unwrap();
        let (client, from) = self.route(from)?;
        let (_, to) = self.route(to)?;
        raw(client.rename(from, to))
    }

    fn stat(&self, path: &str) -> Sys<Stat> {
        Ok(stat(&self.inode(path)?))
    }

    fn readlink(&self, path: &str) -> Sys<String> {
        let (client, path) = self.route(path)?;
        let text = raw(raw(client.lookup_link(path))?.readlink())?;
        Ok(String::from_utf8(text).unwrap())
    }

    fn chmod(&self, path: &str, mode: u32) -> Sys<()> {
        chmod(&self.inode(path)?, mode)
    }

    fn chown(&self, path: &str, uid: u32, gid: u32) -> Sys<()> {
        let set = SetAttr { uid: Some(uid), gid: Some(gid), ..SetAttr::default() };
        raw(self.inode(path)?.set_attr(&Caller::OWNER, &set))
    }

    fn utime(&self, path: &str, (secs, nanos): (i64, u32)) -> Sys<()> {
        let set = SetAttr { mtime: Some(Timestamp { secs, nanos }), ..SetAttr::default() };
        raw(self.inode(path)?.set_attr(&Caller::OWNER, &set))
    }

    fn setxattr(&self, path: &str, name: &str, value: &[u8], how: i32) -> Sys<()> {
        let how = match how {
            flags::XATTR_CREATE => XattrFlags::Create,
            flags::XATTR_REPLACE => XattrFlags::Replace,
            _ => XattrFlags::Any,
        };
        raw(self.inode(path)?.set_xattr(&Caller::OWNER, name.as_bytes(), value, how))
    }

    fn getxattr(&self, path: &str, name: &str) -> Sys<Vec<u8>> {
        raw(self.inode(path)?.xattr(&Caller::OWNER, name.as_bytes()))
    }

    fn removexattr(&self, path: &str, name: &str) -> Sys<()> {
        raw(self.inode(path)?.remove_xattr(&Caller::OWNER, name.as_bytes()))
    }

    fn open(&self, path: &str, flags: i32) -> Sys<Fd> {
        self.open_inode(&self.inode(path)?, flags)
    }

    fn openat(&self, dir: Fd, name: &str, flags: i32) -> Sys<Fd> {
        let inode = raw(self.inode_of(dir)?.lookup(&Caller::OWNER, name))?;
        self.open_inode(&inode, flags)
    }

    fn reopen(&self, fd: Fd, flags: i32) -> Sys<Fd> {
        self.open_inode(&self.inode_of(fd)?, flags)
    }

    fn close(&self, fd: Fd) -> Sys<()> {
        let handle = self.fds.lock().unwrap().remove(&fd.0);
        handle.map(drop).ok_or(errno::EBADF)
    }

    fn dup(&self, fd: Fd) -> Sys<Fd> {
        Ok(self.install(self.handle(fd)?))
    }

    fn read(&self, fd: Fd, len: usize) -> Sys<Vec<u8>> {
        let mut buf = vec![0; len];
        let len = raw(self.file(fd)?.0.read(&mut buf))?;
        buf.truncate(len);
        Ok(buf)
    }

    fn pread(&self, fd: Fd, len: usize, offset: u64) -> Sys<Vec<u8>> {
        let mut buf = vec![0; len];
        let len = raw(self.file(fd)?.0.read_at(&mut buf, offset))?;
        buf.truncate(len);
        Ok(buf)
    }

    fn write(&self, fd: Fd, data: &[u8]) -> Sys<usize> {
        match self.file(fd)? {
            // Control files have size 0, so that appending is writing at 0.
            (open, true) => raw(open.write_at(data, open.inode().attr().size)),
            (open, false) => raw(open.write(data)),
        }
    }

    fn pwrite(&self, fd: Fd, data: &[u8], offset: u64) -> Sys<usize> {
        raw(self.file(fd)?.0.write_at(data, offset))
    }

    fn lseek(&self, fd: Fd, offset: i64, from: i32) -> Sys<u64> {
        let base = match from {
            whence::SEEK_SET => 0,
            whence::SEEK_END => i64::try_from(self.fstat(fd)?.size).unwrap(),
            whence::SEEK_DATA => return Err(errno::ENXIO),
            _ => return Err(errno::ENOSYS),
        };
        let to = u64::try_from(base + offset).map_err(|_| errno::EINVAL)?;
        match self.handle(fd)? {
            Handle::File { open, .. } => raw(open.seek(to))?,
            Handle::Dir { cursor, .. } => cursor.store(to, SeqCst),
        }
        Ok(to)
    }

    fn fstat(&self, fd: Fd) -> Sys<Stat> {
        Ok(stat(&self.inode_of(fd)?))
    }

    fn fchmod(&self, fd: Fd, mode: u32) -> Sys<()> {
        chmod(&self.inode_of(fd)?, mode)
    }

    fn fsetxattr(&self, fd: Fd, name: &str, value: &[u8]) -> Sys<()> {
        let inode = self.inode_of(fd)?;
        raw(inode.set_xattr(&Caller::OWNER, name.as_bytes(), value, XattrFlags::Any))
    }

    fn getdents(&self, fd: Fd, max: usize) -> Sys<Vec<Dirent>> {
        let Handle::Dir { dir, cursor } = self.handle(fd)? else {
            return Err(errno::ENOTDIR);
        };
        let entries = raw(dir.entries(cursor.load(SeqCst), max))?;
        if let Some(entry) = entries.last() {
            cursor.store(entry.next, SeqCst);
        }
        let dirent = |entry: kernfs::DirEntry| Dirent {
            name: String::from_utf8(entry.name).unwrap(),
            ino: entry.inode.ino(),
            off: entry.next,
        };
        Ok(entries.into_iter().map(dirent).collect())
    }

    fn poll(&self, fd: Fd, events: u32) -> Sys<u32> {
        Ok(self.file(fd)?.0.ready(Events::from_bits_retain(events)).bits())
    }

    fn wait(&self, fd: Fd, events: u32, how: How, timeout: Duration) -> Sys<u32> {
        // select has no mask: what it reports is what was asked for.
        let interest = Events::from_bits_retain(events);
        let events = self.file(fd)?.0.wait_timeout(interest, timeout);
        Ok(if how == How::Select { events & interest } else { events }.bits())
    }

    fn mmap(&self, fd: Fd, len: usize) -> Sys<Map> {
        let map = raw(self.file(fd)?.0.map(0, len as u64, false))?;
        let number = self.next.fetch_add(1, SeqCst);
        self.maps.lock().unwrap().insert(number, Arc::new(map));
        Ok(Map(number))
    }

    fn map_read(&self, map: Map, offset: usize, len: usize) -> Sys<Vec<u8>> {
        let map = self.maps.lock().unwrap().get(&map.0).cloned().ok_or(errno::EFAULT)?;
        let mut buf = vec![0; len];
        // What is ENODEV here is SIGBUS in a real mapping.
        map.read_at(&mut buf, offset as u64).map_err(|_| errno::EFAULT)?;
        Ok(buf)
    }

    fn munmap(&self, map: Map) -> Sys<()> {
        let map = self.maps.lock().unwrap().remove(&map.0);
        map.map(drop).ok_or(errno::EINVAL)
    }

    fn name_to_handle(&self, path: &str) -> Sys<u64> {
        Ok(self.inode(path)?.ino())
    }

    fn open_by_handle(&self, handle: u64, flags: i32) -> Sys<Fd> {
        let inode = raw(self.groups.client().by_id(handle))?;
        self.open_inode(&inode, flags)
    }
}

fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn stat(inode: &Inode) -> Stat {
    let attr = inode.attr();
    Stat {
        ino: attr.ino,
        mode: attr.mode.bits().into(),
        nlink: attr.nlink.into(),
        uid: attr.uid,
        gid: attr.gid,
        size: attr.size,
        mtime: (attr.mtime.secs, attr.mtime.nanos),
    }
}

fn chmod(inode: &Inode, mode: u32) -> Sys<()> {
    let mode = Mode::new(u16::try_from(mode & 0o7777).unwrap());
    raw(inode.set_attr(&Caller::OWNER, &SetAttr { mode: Some(mode), ..SetAttr::default() }))
}

/// A tree whose directories have control files.
struct Groups {
    tree: OnceLock<Tree>,
    client: OnceLock<Client>,
    /// Groups by the inode number of their directory.
    all: Mutex<HashMap<u64, Arc<Group>>>,
}

impl Groups {
    fn new() -> Arc<Self> {
        let groups = Arc::new(Self {
            tree: OnceLock::new(),
            client: OnceLock::new(),
            all: Mutex::default(),
        });
        let tree = Tree::builder().dir_ops(GroupOps(Arc::downgrade(&groups))).build();
        let _ = groups.client.set(tree.client(Caller::OWNER));
        let _ = groups.tree.set(tree);
        groups
    }

    fn client(&self) -> &Client {
        self.client.get().expect("set at once")
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
        let group = Arc::new(Group::new(above));
        for (file, mode, what) in What::ALL {
            let driver = Control { what, group: Arc::clone(&group) };
            let file = dir.add_file(file, mode, driver)?;
            match what {
                What::Events => drop(group.events.set(file.notifier())),
                What::Stall => {
                    group.stalls.lock().unwrap().push(file);
                    continue;
                }
                _ => {}
            }
            file.keep();
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
    stalls: Mutex<Vec<File<Control>>>,
}

impl Group {
    fn new(parent: Option<Arc<Self>>) -> Self {
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
    Stall,
    Stat,
}

impl What {
    const ALL: [(&str, Mode, Self); 11] = [
        ("cgroup.controllers", Mode::RO, Self::Controllers),
        ("cgroup.events", Mode::RO, Self::Events),
        ("cgroup.freeze", Mode::RW, Self::Freeze),
        ("cgroup.kill", Mode::WO, Self::Kill),
        ("cgroup.max.depth", Mode::RW, Self::MaxDepth),
        ("cgroup.max.descendants", Mode::RW, Self::MaxDescendants),
        ("cgroup.pressure", Mode::RW, Self::Pressure),
        ("cgroup.stat", Mode::RO, Self::Stat),
        ("cpu.pressure", Mode::RW, Self::Stall),
        ("io.pressure", Mode::RW, Self::Stall),
        ("memory.pressure", Mode::RW, Self::Stall),
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
            What::Stall => "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n\
                            full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
                .to_owned(),
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
            What::Stall => {}
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
struct Devices {
    client: Client,
    class: Dir,
    links: Dir,
    all: Mutex<HashMap<String, OwnedDevice>>,
    /// Last, for it ends with everything in it.
    _tree: Tree,
}

struct OwnedDevice {
    mtu: Option<File<Mtu>>,
    dir: Dir,
    _link: Link,
}

impl OwnedDevice {
    fn remove(self) {
        self.dir.remove().unwrap();
        let mtu = self.mtu.map(|mtu| mtu.into_inner().is_ok());
        assert_eq!(mtu, Some(true), "the driver of a removed device comes back");
    }
}

impl Devices {
    const HERE: Tag = Tag(1);
    const ELSEWHERE: Tag = Tag(2);
    const MAPPED_SIZE: u64 = 8192;

    fn new() -> Self {
        let tree = Tree::builder().manners(Manners::Sysfs).build();
        let class = DirOptions::new(Mode::DIR).tagged_children();
        let class = tree.root().add_dir("class", class).unwrap();
        let links = tree.root().add_dir("links", Mode::DIR).unwrap();
        let client = tree.client_in(Caller::OWNER, Self::HERE);
        Self { client, class, links, all: Mutex::default(), _tree: tree }
    }

    fn add_mtu(dir: &Dir) -> Result<File<Mtu>, Errno> {
        Ok(dir.add_file("mtu", Mode::RW, Mtu(AtomicU64::new(1500)))?)
    }

    fn register(&self, name: &str) -> Result<Device, Errno> {
        let dir = self.class.add_dir(name, DirOptions::new(Mode::DIR).tag(Self::HERE))?;
        let mtu = Self::add_mtu(&dir)?;
        dir.add_file("address", Mode::RO, show(|op| op.push(b"02:00:00:00:00:01\n")))?.keep();
        dir.add_file("reset", Mode::WO, Reset)?.keep();
        dir.add_file("secret", Mode::new(0), show(|op| op.push(b"1\n")))?.keep();
        let mapped = FileOptions::new(Mode::RO).size(Self::MAPPED_SIZE);
        dir.add_file("resource", mapped, Resource)?.keep();
        let link = self.links.add_link(name, &dir)?;
        let owned = OwnedDevice { mtu: Some(mtu), dir, _link: link };
        self.all.lock().unwrap().insert(name.into(), owned);
        Ok(Device {
            dir: format!("/sys/class/{name}"),
            rw: "mtu".into(),
            ro: "address".into(),
            wo: Some("reset".into()),
            secret: Some("secret".into()),
            mapped: Some(("resource".into(), Self::MAPPED_SIZE)),
            link: format!("/sys/links/{name}"),
        })
    }
}

/// A number.
struct Mtu(AtomicU64);

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
