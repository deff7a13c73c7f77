//! A subject of real system calls, on whatever directories its owner's side makes.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, epoll};
use rustix::fs::{
    AtFlags, CWD, FlockOperation, Gid, Mode, OFlags, RawDir, SeekFrom, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, pipe, splice};

use crate::cases::{IN, OUT, PRI};
use crate::raw::{self, Handle, Mapped, Stalled};
use crate::subject::{
    Attribute, Device, Dirent, Fd, How, Kind, Map, Needs, Owner, Stall, Stat, Subject, Sys,
    Watched, errno, whence,
};

/// The needs that any subject of system calls meets, where it is permitted.
pub(crate) const ABILITIES: Needs = Needs::FILES
    .union(Needs::INODE_CACHE)
    .union(Needs::REAL_DESCRIPTORS)
    .union(Needs::EDGE_TRIGGERED_EPOLL)
    .union(Needs::INOTIFY);

/// System calls on the files of an owner.
#[allow(missing_debug_implementations, reason = "a table of descriptors")]
pub struct Syscalls<O> {
    pub(crate) owner: O,
    /// By numbers of its own, which are not used again: a closed one is EBADF for ever.
    fds: Mutex<HashMap<i32, Arc<OwnedFd>>>,
    handles: Mutex<Vec<(Arc<OwnedFd>, Handle)>>,
    maps: Mutex<HashMap<i32, Arc<Mapped>>>,
    next: AtomicI32,
    /// What this process may not do.
    forbidden: Needs,
}

const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";

impl<O: Owner> Syscalls<O> {
    pub(crate) fn new(owner: O) -> Self {
        let may_drop = std::fs::OpenOptions::new().write(true).open(DROP_CACHES).is_ok();
        let forbidden = if may_drop { Needs::empty() } else { Needs::INODE_CACHE };
        Self {
            owner,
            fds: Mutex::default(),
            handles: Mutex::default(),
            maps: Mutex::default(),
            next: AtomicI32::new(3),
            forbidden,
        }
    }

    /// Finds out whether what a path leads to can be opened by file handle.
    pub(crate) fn probe_handles(&mut self, path: &str) {
        let handle = self.name_to_handle(path);
        let opened = handle.and_then(|handle| self.open_by_handle(handle, 0));
        self.forbidden.set(Needs::HANDLES, opened.and_then(|fd| self.close(fd)).is_err());
    }

    fn number(&self) -> i32 {
        self.next.fetch_add(1, SeqCst)
    }

    fn install(&self, fd: OwnedFd) -> Fd {
        let number = self.number();
        self.fds.lock().unwrap().insert(number, Arc::new(fd));
        Fd(number)
    }

    fn fd(&self, fd: Fd) -> Sys<Arc<OwnedFd>> {
        self.fds.lock().unwrap().get(&fd.0).cloned().ok_or(errno::EBADF)
    }
}

fn raw<T>(result: Result<T, Errno>) -> Sys<T> {
    result.map_err(Errno::raw_os_error)
}

/// The owner's side is its owner's.
impl<O: Owner> Owner for Syscalls<O> {
    fn name(&self) -> String {
        self.owner.name()
    }

    fn kind(&self) -> Kind {
        self.owner.kind()
    }

    fn can(&self) -> Needs {
        self.owner.can().difference(self.forbidden)
    }

    fn why_not(&self, needs: Needs) -> Option<String> {
        match needs {
            Needs::INODE_CACHE => Some("this user may not drop caches".into()),
            Needs::HANDLES if self.owner.can().contains(needs) => {
                Some("this user may open nothing by file handle".into())
            }
            _ => self.owner.why_not(needs),
        }
    }

    fn cgroup(&self) -> Sys<String> {
        self.owner.cgroup()
    }

    fn populate(&self, dir: &str, is_populated: bool) -> Sys<()> {
        self.owner.populate(dir, is_populated)
    }

    fn load(&self, dir: &str, is_loaded: bool) -> Sys<()> {
        self.owner.load(dir, is_loaded)
    }

    fn pass(&self, time: Duration) -> Sys<()> {
        self.owner.pass(time)
    }

    fn time(&self) -> Sys<Duration> {
        self.owner.time()
    }

    fn triggers(&self) -> Option<usize> {
        self.owner.triggers()
    }

    fn system(&self) -> Sys<String> {
        self.owner.system()
    }

    /// As this process is, for it is the client.
    fn is_privileged(&self) -> bool {
        use rustix::thread::{CapabilitySet, capabilities};
        let effective = capabilities(None).map(|sets| sets.effective);
        effective.is_ok_and(|set| set.contains(CapabilitySet::SYS_RESOURCE))
    }

    fn device(&self) -> Sys<Device> {
        self.owner.device()
    }

    fn set_value(&self, device: &Device, value: &str) -> Sys<()> {
        self.owner.set_value(device, value)
    }

    fn unregister(&self, device: &Device) -> Sys<()> {
        self.owner.unregister(device)
    }

    fn rename_device(&self, device: &Device, name: &str) -> Sys<Device> {
        self.owner.rename_device(device, name)
    }

    fn move_device(&self, device: &Device, is_away: bool) -> Sys<()> {
        self.owner.move_device(device, is_away)
    }

    fn attribute(&self) -> Sys<Attribute> {
        self.owner.attribute()
    }

    fn set_present(&self, attribute: &Attribute, is_present: bool) -> Sys<()> {
        self.owner.set_present(attribute, is_present)
    }
}

impl<O: Owner> Subject for Syscalls<O> {
    fn drop_caches(&self) -> Sys<()> {
        // Names and inodes only.
        let result = std::fs::write(DROP_CACHES, "2");
        result.map_err(|error| error.raw_os_error().unwrap_or(errno::EINVAL))
    }

    fn mkdir(&self, path: &str) -> Sys<()> {
        raw(rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)))
    }

    fn mkdirat(&self, dir: Fd, name: &str) -> Sys<()> {
        raw(rustix::fs::mkdirat(self.fd(dir)?, name, Mode::from_raw_mode(0o755)))
    }

    fn rmdir(&self, path: &str) -> Sys<()> {
        raw(rustix::fs::rmdir(path))
    }

    fn unlink(&self, path: &str) -> Sys<()> {
        raw(rustix::fs::unlink(path))
    }

    fn rename(&self, from: &str, to: &str) -> Sys<()> {
        raw(rustix::fs::rename(from, to))
    }

    fn stat(&self, path: &str) -> Sys<Stat> {
        raw(rustix::fs::stat(path)).map(stat)
    }

    fn readlink(&self, path: &str) -> Sys<String> {
        let text = raw(rustix::fs::readlink(path, Vec::new()))?;
        text.into_string().map_err(|_| errno::EINVAL)
    }

    fn chmod(&self, path: &str, mode: u32) -> Sys<()> {
        raw(rustix::fs::chmod(path, Mode::from_raw_mode(mode)))
    }

    fn chown(&self, path: &str, uid: u32, gid: u32) -> Sys<()> {
        raw(rustix::fs::chown(path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))))
    }

    fn utime(&self, path: &str, (secs, nanos): (i64, u32)) -> Sys<()> {
        let time = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
        let omit = time(0, rustix::fs::UTIME_OMIT);
        let times = Timestamps { last_access: omit, last_modification: time(secs, nanos.into()) };
        raw(rustix::fs::utimensat(CWD, path, &times, AtFlags::empty()))
    }

    fn setxattr(&self, path: &str, name: &str, value: &[u8], how: i32) -> Sys<()> {
        raw(rustix::fs::setxattr(
            path,
            name,
            value,
            XattrFlags::from_bits_retain(how.cast_unsigned()),
        ))
    }

    fn getxattr(&self, path: &str, name: &str) -> Sys<Vec<u8>> {
        let mut value = vec![0; 65_536];
        let len = raw(rustix::fs::getxattr(path, name, &mut value))?;
        value.truncate(len);
        Ok(value)
    }

    fn removexattr(&self, path: &str, name: &str) -> Sys<()> {
        raw(rustix::fs::removexattr(path, name))
    }

    fn symlink(&self, target: &str, path: &str) -> Sys<()> {
        raw(rustix::fs::symlink(target, path))
    }

    fn link(&self, from: &str, to: &str) -> Sys<()> {
        raw(rustix::fs::link(from, to))
    }

    fn mknod(&self, path: &str) -> Sys<()> {
        let (file, mode) = (rustix::fs::FileType::RegularFile, Mode::from_raw_mode(0o644));
        raw(rustix::fs::mknodat(CWD, path, file, mode, 0))
    }

    fn truncate(&self, path: &str, len: u64) -> Sys<()> {
        raw::truncate(path, len)
    }

    fn open(&self, path: &str, flags: i32) -> Sys<Fd> {
        Ok(self.install(raw(rustix::fs::open(path, oflags(flags), Mode::from_raw_mode(0o644)))?))
    }

    fn openat(&self, dir: Fd, name: &str, flags: i32) -> Sys<Fd> {
        let dir = self.fd(dir)?;
        let fd = rustix::fs::openat(dir, name, oflags(flags), Mode::from_raw_mode(0o644));
        Ok(self.install(raw(fd)?))
    }

    fn reopen(&self, fd: Fd, flags: i32) -> Sys<Fd> {
        let fd = self.fd(fd)?;
        self.open(&format!("/proc/self/fd/{}", fd.as_raw_fd()), flags)
    }

    fn close(&self, fd: Fd) -> Sys<()> {
        let fd = self.fds.lock().unwrap().remove(&fd.0).ok_or(errno::EBADF)?;
        // A thread that is inside a call with it closes it after that.
        Arc::into_inner(fd).map_or(Ok(()), raw::close)
    }

    fn dup(&self, fd: Fd) -> Sys<Fd> {
        Ok(self.install(raw(rustix::io::fcntl_dupfd_cloexec(self.fd(fd)?, 3))?))
    }

    fn read(&self, fd: Fd, len: usize) -> Sys<Vec<u8>> {
        let mut buf = vec![0; len];
        let len = raw(rustix::io::read(self.fd(fd)?, &mut buf[..]))?;
        buf.truncate(len);
        Ok(buf)
    }

    fn pread(&self, fd: Fd, len: usize, offset: u64) -> Sys<Vec<u8>> {
        let mut buf = vec![0; len];
        let len = raw(rustix::io::pread(self.fd(fd)?, &mut buf[..], offset))?;
        buf.truncate(len);
        Ok(buf)
    }

    fn write(&self, fd: Fd, data: &[u8]) -> Sys<usize> {
        raw(rustix::io::write(self.fd(fd)?, data))
    }

    fn pwrite(&self, fd: Fd, data: &[u8], offset: u64) -> Sys<usize> {
        raw(rustix::io::pwrite(self.fd(fd)?, data, offset))
    }

    fn lseek(&self, fd: Fd, offset: i64, from: i32) -> Sys<u64> {
        let to = match from {
            // A negative offset goes to the kernel as it is.
            whence::SEEK_SET => SeekFrom::Start(offset.cast_unsigned()),
            whence::SEEK_CUR => SeekFrom::Current(offset),
            whence::SEEK_END => SeekFrom::End(offset),
            whence::SEEK_DATA => SeekFrom::Data(offset.cast_unsigned()),
            _ => return Err(errno::EINVAL),
        };
        raw(rustix::fs::seek(self.fd(fd)?, to))
    }

    fn fstat(&self, fd: Fd) -> Sys<Stat> {
        raw(rustix::fs::fstat(self.fd(fd)?)).map(stat)
    }

    fn fchmod(&self, fd: Fd, mode: u32) -> Sys<()> {
        raw(rustix::fs::fchmod(self.fd(fd)?, Mode::from_raw_mode(mode)))
    }

    fn fsetxattr(&self, fd: Fd, name: &str, value: &[u8]) -> Sys<()> {
        raw(rustix::fs::fsetxattr(self.fd(fd)?, name, value, XattrFlags::empty()))
    }

    /// One system call, which has room for `max` of the shortest entries, or for one longer one.
    fn getdents(&self, fd: Fd, max: usize) -> Sys<Vec<Dirent>> {
        const SHORTEST: usize = 24;
        const LONGEST: usize = 8192;
        let fd = self.fd(fd)?;
        let mut room = SHORTEST * max;
        loop {
            match entries(fd.as_fd(), room) {
                // There is no room for the next entry.
                Err(errno::EINVAL) if room < LONGEST => room += 8,
                result => return result,
            }
        }
    }

    fn poll(&self, fd: Fd, events: u32) -> Sys<u32> {
        poll(&*self.fd(fd)?, events, Duration::ZERO)
    }

    fn wait(&self, fd: Fd, events: u32, how: How, timeout: Duration) -> Sys<u32> {
        let fd = self.fd(fd)?;
        match how {
            How::Poll => poll(&fd, events, timeout),
            How::Select => {
                let sets = [IN, OUT, PRI].map(|event| events & event != 0);
                let ready = raw::select(fd.as_fd(), sets, timeout)?;
                let bits = [IN, OUT, PRI].into_iter().zip(ready);
                Ok(bits.filter(|(_, is_ready)| *is_ready).fold(0, |all, (event, _)| all | event))
            }
            How::Epoll => {
                let flags = epoll::EventFlags::from_bits_retain(events);
                epoll_wait(&new_epoll(&fd, flags)?, timeout)
            }
        }
    }

    fn epoll_edge(&self, fd: Fd, events: u32) -> Sys<Fd> {
        let flags = epoll::EventFlags::from_bits_retain(events) | epoll::EventFlags::ET;
        Ok(self.install(new_epoll(&*self.fd(fd)?, flags)?))
    }

    fn epoll_wait(&self, epoll: Fd, timeout: Duration) -> Sys<u32> {
        epoll_wait(&*self.fd(epoll)?, timeout)
    }

    fn watch(&self, path: &str) -> Sys<Fd> {
        use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
        let fd = raw(init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC))?;
        let what = WatchFlags::MODIFY
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVE
            | WatchFlags::DELETE_SELF;
        raw(add_watch(&fd, path, what))?;
        Ok(self.install(fd))
    }

    fn watched(&self, watch: Fd) -> Sys<Vec<Watched>> {
        let fd = self.fd(watch)?;
        let mut memory = [MaybeUninit::uninit(); 4096];
        let mut reader = rustix::fs::inotify::Reader::new(fd, &mut memory);
        let mut all = Vec::new();
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| name.to_string_lossy().into_owned());
                    let events = event.events().bits();
                    all.push(Watched { events, name: name.unwrap_or_default() });
                }
                Err(Errno::AGAIN) => return Ok(all),
                Err(error) => return Err(error.raw_os_error()),
            }
        }
    }

    fn mmap(&self, fd: Fd, len: usize) -> Sys<Map> {
        let map = Mapped::new(self.fd(fd)?.as_fd(), len)?;
        let number = self.number();
        self.maps.lock().unwrap().insert(number, Arc::new(map));
        Ok(Map(number))
    }

    fn map_read(&self, map: Map, offset: usize, len: usize) -> Sys<Vec<u8>> {
        let map = self.maps.lock().unwrap().get(&map.0).cloned().ok_or(errno::EFAULT)?;
        let (reader, writer) = raw(pipe())?;
        let len = map.write_to(writer.as_fd(), offset, len)?;
        read_all(&reader, len)
    }

    fn munmap(&self, map: Map) -> Sys<()> {
        self.maps.lock().unwrap().remove(&map.0).map(drop).ok_or(errno::EINVAL)
    }

    fn name_to_handle(&self, path: &str) -> Sys<u64> {
        let handle = raw::name_to_handle(path)?;
        let dir = path.rsplit_once('/').map_or(".", |(dir, _)| dir);
        // Held above what the cases remove.
        let dir = dir.rsplit_once('/').map_or(".", |(dir, _)| dir);
        let at = raw(rustix::fs::open(dir, OFlags::CLOEXEC, Mode::empty()))?;
        let mut handles = self.handles.lock().unwrap();
        handles.push((Arc::new(at), handle));
        Ok(handles.len() as u64 - 1)
    }

    fn open_by_handle(&self, handle: u64, flags: i32) -> Sys<Fd> {
        let handles = self.handles.lock().unwrap();
        let handle = usize::try_from(handle).ok().and_then(|at| handles.get(at).cloned());
        let (at, handle) = handle.ok_or(errno::EINVAL)?;
        Ok(self.install(raw::open_by_handle(at.as_fd(), &handle, flags)?))
    }

    fn ftruncate(&self, fd: Fd, len: u64) -> Sys<()> {
        raw(rustix::fs::ftruncate(self.fd(fd)?, len))
    }

    fn splice_read(&self, fd: Fd, len: usize) -> Sys<Vec<u8>> {
        let (reader, writer) = raw(pipe())?;
        let none = SpliceFlags::empty();
        let len = raw(splice(self.fd(fd)?, None, writer, None, len, none))?;
        read_all(&reader, len)
    }

    fn splice_write(&self, fd: Fd, data: &[u8]) -> Sys<usize> {
        let (reader, writer) = raw(pipe())?;
        raw(rustix::io::write(writer, data))?;
        raw(splice(reader, None, self.fd(fd)?, None, data.len(), SpliceFlags::empty()))
    }

    fn sendfile(&self, fd: Fd, len: usize) -> Sys<Vec<u8>> {
        let (reader, writer) = raw(pipe())?;
        let len = raw(rustix::fs::sendfile(writer, self.fd(fd)?, None, len))?;
        read_all(&reader, len)
    }

    fn ioctl_tcgets(&self, fd: Fd) -> Sys<()> {
        raw(rustix::termios::tcgetattr(self.fd(fd)?)).map(drop)
    }

    fn fsync(&self, fd: Fd) -> Sys<()> {
        raw(rustix::fs::fsync(self.fd(fd)?))
    }

    fn flock(&self, fd: Fd) -> Sys<()> {
        raw(rustix::fs::flock(self.fd(fd)?, FlockOperation::LockExclusive))
    }

    fn write_bad_pointer(&self, fd: Fd) -> Sys<usize> {
        raw::write_bad_pointer(self.fd(fd)?.as_fd())
    }

    fn stall(&self) -> Sys<Box<dyn Stall + '_>> {
        Ok(Box::new((self, Stalled::new()?)))
    }

    fn cwd_of(&self, dir: &str, body: &mut (dyn FnMut() + Send)) -> Sys<()> {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                raw::unshare_cwd()?;
                raw(rustix::process::chdir(dir))?;
                body();
                raw(rustix::process::getcwd(Vec::new())).map(drop)
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl<O: Owner> Stall for (&Syscalls<O>, Stalled) {
    fn read(&self, fd: Fd, len: usize) -> Sys<usize> {
        self.1.read_from(self.0.fd(fd)?.as_fd(), len)
    }

    fn write(&self, fd: Fd, len: usize) -> Sys<usize> {
        self.1.write_to(self.0.fd(fd)?.as_fd(), len)
    }

    fn until_stalled(&self) {
        self.1.wait();
    }

    fn go_on(&self) {
        self.1.fill();
    }
}

fn oflags(flags: i32) -> OFlags {
    OFlags::from_bits_retain(flags.cast_unsigned()) | OFlags::CLOEXEC
}

fn stat(stat: rustix::fs::Stat) -> Stat {
    Stat {
        ino: stat.st_ino,
        mode: stat.st_mode,
        nlink: stat.st_nlink as _,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: stat.st_size.cast_unsigned(),
        mtime: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(u32::MAX)),
    }
}

/// Calls getdents64(2) once.
fn entries(fd: BorrowedFd<'_>, room: usize) -> Sys<Vec<Dirent>> {
    let mut memory = vec![MaybeUninit::uninit(); room];
    let mut dir = RawDir::new(fd, &mut memory);
    let mut all = Vec::new();
    // The first call of `next` fills the memory; another call would list further.
    while all.is_empty() || !dir.is_buffer_empty() {
        let Some(entry) = dir.next() else { break };
        let entry = raw(entry)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        all.push(Dirent { name, ino: entry.ino(), off: entry.next_entry_cookie() });
    }
    Ok(all)
}

fn timespec(timeout: Duration) -> Timespec {
    Timespec::try_from(timeout).expect("not for ever")
}

fn poll(fd: &OwnedFd, events: u32, timeout: Duration) -> Sys<u32> {
    let events = PollFlags::from_bits_retain(u16::try_from(events).expect("events of poll"));
    let mut fds = [PollFd::new(fd, events)];
    raw(rustix::event::poll(&mut fds, Some(&timespec(timeout))))?;
    Ok(fds[0].revents().bits().into())
}

fn new_epoll(fd: &OwnedFd, events: epoll::EventFlags) -> Sys<OwnedFd> {
    let epoll = raw(epoll::create(epoll::CreateFlags::CLOEXEC))?;
    raw(epoll::add(&epoll, fd, epoll::EventData::new_u64(0), events))?;
    Ok(epoll)
}

fn epoll_wait(epoll: &OwnedFd, timeout: Duration) -> Sys<u32> {
    let mut events =
        [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }];
    let count = raw(epoll::wait(epoll, &mut events[..], Some(&timespec(timeout))))?;
    let flags = events[0].flags;
    Ok(if count == 0 { 0 } else { flags.bits() })
}

fn read_all(pipe: &OwnedFd, len: usize) -> Sys<Vec<u8>> {
    let mut buf = vec![0; len];
    let got = raw(rustix::io::read(pipe, &mut buf[..]))?;
    buf.truncate(got);
    Ok(buf)
}
