//! The library in this process as a subject: a tree of groups and one of devices, and just
//! enough of a VFS to turn system calls into calls of clients.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use kernfs::{
    Caller, Capability, Client, Errno, Events, Inode, Mapping, Mode, OpenDir, OpenFile, OpenFlags,
    SetAttr, Timestamp, Waiter, XattrFlags,
};

use crate::cgroups::Cgroups;
use crate::fixture::{Devices, Groups};
use crate::group_tree::{self, GroupTree};
use crate::subject::{
    Attribute, Device, Dirent, Fd, How, Kind, Map, Needs, Owner, Stat, Subject, Sys, errno, flags,
    whence,
};

/// Who calls: may do everything but set triggers with any window, as root in many a container.
const CLIENT: Caller = Caller::OWNER.with_capable(|_, asked| asked != Capability::SYS_RESOURCE);

/// The in-process subject.
pub struct InProcess {
    groups: Box<dyn GroupTree>,
    client: Client,
    devices: Option<Devices>,
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
    /// Makes a tree of groups and one of devices, with drivers of the tests' own.
    pub fn new() -> Self {
        Self::with(Groups::new(), Some(Devices::new("/sys")))
    }

    /// Makes the hierarchy of `kernfs-cgroup`.
    ///
    /// # Errors
    ///
    /// Tells why that is not possible here.
    pub fn cgroups() -> Result<Self, String> {
        let groups =
            Cgroups::new().map_err(|errno| format!("no hierarchy can be made: {errno}"))?;
        Ok(Self::with(groups, None))
    }

    fn with(groups: impl GroupTree + 'static, devices: Option<Devices>) -> Self {
        Self {
            client: groups.tree().client(CLIENT),
            groups: Box::new(groups),
            devices,
            names: Mutex::new(()),
            fds: Mutex::default(),
            maps: Mutex::default(),
            next: AtomicI32::new(3),
        }
    }

    fn devices(&self) -> Sys<&Devices> {
        self.devices.as_ref().ok_or(errno::ENOSYS)
    }

    /// Splits a path into the view of its tree and the path there.
    fn route<'a>(&self, path: &'a str) -> Sys<(&Client, &'a str)> {
        if let Some(rest) = path.strip_prefix("/cgroup") {
            Ok((&self.client, rest))
        } else if let Some(rest) = path.strip_prefix("/sys") {
            Ok((self.devices()?.client(), rest))
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
            let dir = raw(inode.open_dir(&CLIENT))?;
            return Ok(self.install(Handle::Dir { dir, cursor: Arc::default() }));
        }
        let mut access = match open & 3 {
            flags::O_RDONLY => OpenFlags::READ,
            flags::O_WRONLY => OpenFlags::WRITE,
            _ => OpenFlags::READ_WRITE,
        };
        access.set(OpenFlags::NONBLOCK, open & flags::O_NONBLOCK != 0);
        let is_append = open & flags::O_APPEND != 0;
        let open = raw(inode.open(&CLIENT, access))?;
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

impl Owner for InProcess {
    fn name(&self) -> String {
        format!("{} in process", self.groups.name())
    }

    fn kind(&self) -> Kind {
        Kind::InProcess
    }

    fn can(&self) -> Needs {
        let with_devices = Needs::DEVICES
            | Needs::NAMESPACES
            | Needs::MAPPED_FILE
            | Needs::LIBRARY
            | Needs::ATTRIBUTES;
        let devices = self.devices.as_ref().map_or(Needs::empty(), |_| with_devices);
        group_tree::NEEDS | Needs::FILES | self.groups.can() | devices
    }

    fn cgroup(&self) -> Sys<String> {
        let path = format!("/cgroup/t{}", self.next.fetch_add(1, SeqCst));
        self.mkdir(&path).map(|()| path)
    }

    fn populate(&self, dir: &str, is_populated: bool) -> Sys<()> {
        self.groups.populate(self.route(dir)?.1, is_populated)
    }

    fn load(&self, dir: &str, is_loaded: bool) -> Sys<()> {
        self.groups.load(self.route(dir)?.1, is_loaded)
    }

    fn pass(&self, time: Duration) -> Sys<()> {
        self.groups.pass(time);
        Ok(())
    }

    fn time(&self) -> Sys<Duration> {
        Ok(self.groups.time())
    }

    fn triggers(&self) -> Option<usize> {
        Some(self.groups.triggers())
    }

    fn system(&self) -> Sys<String> {
        Ok(format!("/cgroup/{}", self.groups.system()?))
    }

    fn device(&self) -> Sys<Device> {
        self.devices()?.register()
    }

    fn set_value(&self, device: &Device, value: &str) -> Sys<()> {
        self.devices()?.set_value(device, value)
    }

    fn unregister(&self, device: &Device) -> Sys<()> {
        self.devices()?.unregister(device)
    }

    fn rename_device(&self, device: &Device, name: &str) -> Sys<Device> {
        self.devices()?.rename(device, name)
    }

    fn move_device(&self, device: &Device, is_away: bool) -> Sys<()> {
        self.devices()?.set_away(device, is_away)
    }

    fn attribute(&self) -> Sys<Attribute> {
        match &self.devices {
            Some(devices) => devices.attribute(),
            None => {
                let Attribute { path } = self.groups.attribute()?;
                Ok(Attribute { path: format!("/cgroup{path}") })
            }
        }
    }

    fn set_present(&self, attribute: &Attribute, is_present: bool) -> Sys<()> {
        match &self.devices {
            Some(devices) => devices.set_present(attribute, is_present),
            None => {
                let path = self.route(&attribute.path)?.1.to_owned();
                self.groups.set_present(&Attribute { path }, is_present)
            }
        }
    }
}

impl Subject for InProcess {
    fn mkdir(&self, path: &str) -> Sys<()> {
        let _names = self.names.lock().unwrap();
        let (client, path) = self.route(path)?;
        raw(client.mkdir(path, Mode::DIR))
    }

    fn mkdirat(&self, dir: Fd, name: &str) -> Sys<()> {
        let _names = self.names.lock().unwrap();
        raw(self.inode_of(dir)?.mkdir(&CLIENT, name, Mode::DIR))
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
        raw(self.inode(path)?.set_attr(&CLIENT, &set))
    }

    fn utime(&self, path: &str, (secs, nanos): (i64, u32)) -> Sys<()> {
        let set = SetAttr { mtime: Some(Timestamp { secs, nanos }), ..SetAttr::default() };
        raw(self.inode(path)?.set_attr(&CLIENT, &set))
    }

    fn setxattr(&self, path: &str, name: &str, value: &[u8], how: i32) -> Sys<()> {
        let how = match how {
            flags::XATTR_CREATE => XattrFlags::Create,
            flags::XATTR_REPLACE => XattrFlags::Replace,
            _ => XattrFlags::Any,
        };
        raw(self.inode(path)?.set_xattr(&CLIENT, name.as_bytes(), value, how))
    }

    fn getxattr(&self, path: &str, name: &str) -> Sys<Vec<u8>> {
        raw(self.inode(path)?.xattr(&CLIENT, name.as_bytes()))
    }

    fn removexattr(&self, path: &str, name: &str) -> Sys<()> {
        raw(self.inode(path)?.remove_xattr(&CLIENT, name.as_bytes()))
    }

    fn open(&self, path: &str, flags: i32) -> Sys<Fd> {
        self.open_inode(&self.inode(path)?, flags)
    }

    fn openat(&self, dir: Fd, name: &str, flags: i32) -> Sys<Fd> {
        let inode = raw(self.inode_of(dir)?.lookup(&CLIENT, name))?;
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
            whence::SEEK_CUR if self.file(fd)?.0.is_severed() => return Err(errno::ENODEV),
            // The position is not told.
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
        raw(inode.set_xattr(&CLIENT, name.as_bytes(), value, XattrFlags::Any))
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
        let events = wait(&self.file(fd)?.0, interest, timeout);
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
        let inode = raw(self.client.by_id(handle))?;
        self.open_inode(&inode, flags)
    }
}

/// Waits as a system call does, by the time that everybody has: that of the tree may stand.
fn wait(file: &OpenFile, interest: Events, timeout: Duration) -> Events {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let (mut cx, mut waiter) = (Context::from_waker(&waker), Waiter::new());
    let start = Instant::now();
    loop {
        match file.poll_ready(&mut cx, &mut waiter, interest) {
            Poll::Ready(events) => return events,
            Poll::Pending if start.elapsed() >= timeout => return Events::empty(),
            Poll::Pending => thread::park_timeout(timeout.saturating_sub(start.elapsed())),
        }
    }
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
    raw(inode.set_attr(&CLIENT, &SetAttr { mode: Some(mode), ..SetAttr::default() }))
}
