//! What a client can do, and what it may get.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::drivers::{LONGEST, MEMORY};
use super::hang::name_thread;
use super::owner::{DIRS, FILES};
use super::random::Random;
use super::tally::{Tally, name};
use crate::cases::{ERR, IN, OUT, PRI};
use crate::subject::errno::{
    EACCES, EAGAIN, EBADF, EEXIST, EFAULT, EINVAL, EISDIR, ENODATA, ENODEV, ENOENT, ENOSPC,
    ENOTDIR, EPERM, ESTALE,
};
use crate::subject::{Fd, How, Kind, Map, Needs, Owner, Subject, Sys, flags, inotify, whence};
use crate::syscalls::{ABILITIES, Syscalls};

/// Something that a client does, and what it may get.
pub(super) struct Operation {
    pub(super) name: &'static str,
    /// How often it is done compared to others.
    weight: usize,
    /// The errors that it may get; any other is a failure of the storm.
    may_get: &'static [i32],
    /// Does it; `None` if the client holds nothing to do it to.
    run: fn(&mut Client) -> Option<Sys<()>>,
}

const fn operation(
    name: &'static str,
    weight: usize,
    may_get: &'static [i32],
    run: fn(&mut Client) -> Option<Sys<()>>,
) -> Operation {
    Operation { name, weight, may_get, run }
}

/// Which operation may get which error, and why: files and directories go at any time, names lead
/// to something of another kind, and descriptors are of any kind and opened in any way.
///
/// - ENOENT: the name is gone, or a directory on the way; for listing: the directory.
/// - ENODEV: what is open, or was just looked up, has been severed; for mmap also a text.
/// - ESTALE: what a name or a file handle has led to is gone for good.
/// - ENOTDIR, EISDIR: it has become, or is, of another kind.
/// - EBADF: the descriptor is not open for that, for example by O_PATH; EACCES for mmap.
/// - EAGAIN: there is no event.
/// - EINVAL: the driver or the kernel has no such operation for what it is, or a directory would get
///   below itself.
/// - ESPIPE: events have no offsets.
/// - ENOSPC: there is no more room in memory.
/// - EEXIST, ENOTEMPTY: the name is taken.
pub(super) const OPERATIONS: [Operation; 47] = [
    operation("open", 14, &[ENOENT, ENODEV, ENOTDIR, EISDIR, ESTALE], Client::open),
    operation("open O_PATH", 2, &[ENOENT, ENOTDIR, ESTALE], Client::open_path),
    operation("open O_TRUNC", 1, &[ENOENT, ENODEV, ENOTDIR, EISDIR, ESTALE], Client::open_trunc),
    operation("open a directory", 4, &[ENOENT, ENODEV, ENOTDIR, ESTALE], Client::open_dir),
    operation("openat", 4, &[ENOENT, ENODEV, ESTALE], Client::openat),
    // Not by a name: what was opened may have been renamed, hidden, shown or removed since.
    operation("reopen", 6, &[ENODEV, EISDIR], Client::reopen),
    operation("dup", 1, &[], Client::dup),
    operation("close", 8, &[], Client::close),
    operation("read", 10, &[ENODEV, EAGAIN, EBADF, EISDIR], Client::read),
    operation("pread", 5, &[ENODEV, EBADF, EISDIR, ESPIPE], Client::pread),
    operation("write", 6, &[ENODEV, EBADF, EINVAL, ENOSPC], Client::write),
    operation("pwrite", 3, &[ENODEV, EBADF, ESPIPE], Client::pwrite),
    operation("lseek", 2, &[EBADF, ESPIPE], Client::lseek),
    operation("splice out", 1, &[ENODEV, EBADF, EINVAL], Client::splice_out),
    operation("splice in", 1, &[ENODEV, EBADF, EINVAL, ENOSPC], Client::splice_in),
    operation("sendfile", 1, &[ENODEV, EBADF, EINVAL], Client::sendfile),
    operation("fsync", 1, &[EBADF], Client::fsync),
    operation("ftruncate", 1, &[EBADF, EINVAL], Client::ftruncate),
    operation("truncate", 1, &[ENOENT, ENOTDIR, EISDIR, ESTALE], Client::truncate),
    operation("poll", 5, &[], Client::poll),
    operation("wait in poll", 3, &[], |client| client.wait(How::Poll)),
    operation("wait in select", 3, &[], |client| client.wait(How::Select)),
    // EPERM: directories cannot be waited for by epoll.
    operation("wait in epoll", 3, &[EBADF, EPERM], |client| client.wait(How::Epoll)),
    operation("add to epoll", 3, &[EBADF, EPERM], Client::add_to_epoll),
    operation("wait for epoll", 5, &[], Client::wait_for_epoll),
    operation("list", 6, &[ENOENT], Client::list),
    operation("rewind a list", 1, &[], Client::rewind),
    operation("stat", 6, &[ENOENT, ENOTDIR, ESTALE], Client::stat),
    operation("fstat", 2, &[], Client::fstat),
    operation("look up in vain", 3, &[ENOENT, ENOTDIR, ESTALE], Client::look_up_in_vain),
    operation("mmap", 5, &[ENODEV, EACCES, EBADF], Client::mmap),
    // EFAULT is what a system call gets that touches a page which is SIGBUS for a program.
    operation("touch a page", 8, &[EFAULT], Client::touch),
    operation("munmap", 2, &[], Client::munmap),
    operation("watch", 3, &[ENOENT, ENOTDIR, ESTALE], Client::watch),
    operation("read a watch", 4, &[], Client::read_watch),
    operation("mkdir", 3, &[EEXIST, ENOENT, ENODEV, ENOTDIR, ESTALE], Client::mkdir),
    operation("rmdir", 1, &[ENOENT, ENODEV, ENOTDIR, ESTALE], Client::rmdir),
    operation("unlink", 1, &[ENOENT, ENODEV, EISDIR, ENOTDIR, ESTALE], Client::unlink),
    operation(
        "rename",
        3,
        &[ENOENT, ENODEV, EEXIST, EINVAL, ENOTDIR, EISDIR, ENOTEMPTY, ESTALE],
        Client::rename,
    ),
    operation("chmod", 2, &[ENOENT, ENOTDIR, ESTALE], Client::chmod),
    operation("fchmod", 1, &[EBADF], Client::fchmod),
    operation("setxattr", 2, &[ENOENT, ENOTDIR, ESTALE], Client::setxattr),
    operation("getxattr", 2, &[ENOENT, ENODATA, ENOTDIR, ESTALE], Client::getxattr),
    operation("fsetxattr", 1, &[EBADF], Client::fsetxattr),
    // EPERM: this user may not open anything by file handle.
    operation("open by handle", 2, &[ENOENT, ENOTDIR, ESTALE, EPERM], Client::by_handle),
    operation("sleep in read", 0, &[ENOENT, ENOTDIR, EISDIR, ENODEV, ESTALE], no_step),
    operation("sleep for events", 0, &[ENOENT, ENOTDIR, ENODEV, ESTALE], no_step),
];

/// A directory is not empty.
const ENOTEMPTY: i32 = 39;

/// A stream has no offsets.
const ESPIPE: i32 = 29;

/// The last two operations are those of the second thread.
pub(super) const SLEEP_IN_READ: usize = OPERATIONS.len() - 2;
pub(super) const SLEEP_FOR_EVENTS: usize = OPERATIONS.len() - 1;

fn no_step(_: &mut Client) -> Option<Sys<()>> {
    None
}

/// A client has nothing of an owner.
pub(super) struct Nobody;

impl Owner for Nobody {
    fn name(&self) -> String {
        "a client".into()
    }

    fn kind(&self) -> Kind {
        Kind::Mount
    }

    fn can(&self) -> Needs {
        ABILITIES
    }
}

/// A client with what it holds; all of it is closed with its system calls.
pub(super) struct Client {
    root: String,
    random: Random,
    sys: Syscalls<Nobody>,
    files: Vec<Fd>,
    dirs: Vec<Fd>,
    epolls: Vec<Fd>,
    watches: Vec<Fd>,
    maps: Vec<Map>,
    /// What has answered ENODEV, and so is dead for ever, with the bytes that it gave since: a rest
    /// of what was rendered before.
    dead: HashMap<Fd, usize>,
    /// The pages that have gone, and so never come back.
    dead_pages: HashSet<(Map, usize)>,
    /// What it has seen and must not have.
    fault: Option<String>,
}

/// The most descriptors of a kind, below what a process may have.
const MOST: usize = 24;

/// The size of a page.
const PAGE: usize = 4096;

/// The longest wait, in microseconds: mostly for something that does not come.
const WAIT_MICROS: u64 = 3000;

impl Client {
    pub(super) fn new(root: &str, random: Random) -> Self {
        Self {
            root: root.to_owned(),
            random,
            sys: Syscalls::new(Nobody),
            files: Vec::new(),
            dirs: Vec::new(),
            epolls: Vec::new(),
            watches: Vec::new(),
            maps: Vec::new(),
            dead: HashMap::new(),
            dead_pages: HashSet::new(),
            fault: None,
        }
    }

    pub(super) fn step(&mut self, tally: &Mutex<Tally>) {
        let all: usize = OPERATIONS.iter().map(|operation| operation.weight).sum();
        let mut at = self.random.below(all);
        let chosen = OPERATIONS.iter().enumerate().find(|(_, operation)| {
            let is_it = at < operation.weight;
            at = at.wrapping_sub(operation.weight);
            is_it
        });
        let (n, operation) = chosen.expect("below the sum");
        // So that it can be seen from outside in what it hangs.
        name_thread(operation.name);
        let Some(result) = (operation.run)(self) else { return };
        count(tally, n, result);
        if let Some(fault) = self.fault.take() {
            tally
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .fault(format!("{}: {fault}", operation.name));
        }
    }

    /// A path of a directory at the top, or of something in one.
    fn path(&mut self) -> String {
        path(&self.root, &mut self.random)
    }

    fn file(&mut self) -> Option<Fd> {
        pick(&self.files, &mut self.random)
    }

    fn dir(&mut self) -> Option<Fd> {
        pick(&self.dirs, &mut self.random)
    }

    fn hold(&mut self, opened: Sys<Fd>) -> Sys<()> {
        hold(&self.sys, &mut self.files, opened)
    }

    fn how_to_open(&mut self) -> i32 {
        // Without O_NONBLOCK, a read of events sleeps until there is one: the second thread's part.
        self.random.pick(&[flags::O_RDONLY, flags::O_RDWR, flags::O_WRONLY]) | flags::O_NONBLOCK
    }

    fn open(&mut self) -> Option<Sys<()>> {
        let (path, how) = (path_of_file(&self.root, &mut self.random), self.how_to_open());
        let opened = self.sys.open(&path, how);
        Some(self.hold(opened))
    }

    fn open_path(&mut self) -> Option<Sys<()>> {
        let path = self.path();
        let opened = self.sys.open(&path, flags::O_PATH);
        Some(self.hold(opened))
    }

    fn open_trunc(&mut self) -> Option<Sys<()>> {
        let path = self.path();
        let how = flags::O_RDWR | flags::O_TRUNC | flags::O_NONBLOCK;
        let opened = self.sys.open(&path, how);
        Some(self.hold(opened))
    }

    fn open_dir(&mut self) -> Option<Sys<()>> {
        let path = if self.random.one_in(4) { self.root.clone() } else { self.path() };
        let opened = self.sys.open(&path, flags::O_DIRECTORY);
        Some(hold(&self.sys, &mut self.dirs, opened))
    }

    fn openat(&mut self) -> Option<Sys<()>> {
        let (dir, name) = (self.dir()?, self.random.pick(&FILES));
        let opened = self.sys.openat(dir, name, flags::O_RDONLY | flags::O_NONBLOCK);
        Some(self.hold(opened))
    }

    fn reopen(&mut self) -> Option<Sys<()>> {
        let (fd, how) = (self.file()?, self.how_to_open());
        let opened = self.sys.reopen(fd, how);
        Some(self.hold(opened))
    }

    fn dup(&mut self) -> Option<Sys<()>> {
        let fd = self.file()?;
        let opened = self.sys.dup(fd);
        Some(self.hold(opened))
    }

    fn close(&mut self) -> Option<Sys<()>> {
        let kind = match self.random.below(8) {
            0 => &mut self.dirs,
            1 => &mut self.epolls,
            2 => &mut self.watches,
            _ => &mut self.files,
        };
        let fd = self.random.take(kind)?;
        Some(self.sys.close(fd))
    }

    /// Notes a descriptor that is dead: it has answered ENODEV.
    fn bury<T>(&mut self, fd: Fd, result: &Sys<T>) {
        if matches!(result, Err(ENODEV)) {
            self.dead.entry(fd).or_default();
        }
    }

    /// Notes a dead descriptor that was written to.
    fn check_written(&mut self, fd: Fd, written: Sys<usize>) -> Sys<()> {
        self.bury(fd, &written);
        if written.is_ok() && self.dead.contains_key(&fd) {
            self.fault = Some("a dead descriptor has come back to life".into());
        }
        written.map(drop)
    }

    /// Notes a dead descriptor from which more was read than was left in it, or anything of memory,
    /// where nothing is left.
    fn check_rest(&mut self, fd: Fd, data: &[u8]) -> Sys<()> {
        let Some(rest) = self.dead.get_mut(&fd) else { return Ok(()) };
        *rest += data.len();
        if *rest > LONGEST || !data.is_empty() && self.sys.fstat(fd)?.size > 0 {
            self.fault = Some(format!("a dead descriptor has given {rest} bytes"));
        }
        Ok(())
    }

    /// Notes a text that nobody wrote: each that somebody did has one letter only.
    fn check(&mut self, fd: Fd, read: Sys<Vec<u8>>) -> Sys<()> {
        self.bury(fd, &read);
        let data = read?;
        self.check_rest(fd, &data)?;
        let is_mixed = data.iter().any(|byte| *byte != data[0]);
        // Memory, which has a size, is written in parts; events are in capitals.
        if is_mixed && data[0].is_ascii_lowercase() && self.sys.fstat(fd)?.size == 0 {
            let text = String::from_utf8_lossy(&data[..data.len().min(2 * LONGEST)]);
            self.fault = Some(format!("torn: {}", text.escape_debug()));
        }
        Ok(())
    }

    fn read(&mut self) -> Option<Sys<()>> {
        let (fd, len) = (self.file()?, self.random.pick(&[1, 5, LONGEST, 5000]));
        let read = self.sys.read(fd, len);
        Some(self.check(fd, read))
    }

    fn pread(&mut self) -> Option<Sys<()>> {
        let (fd, offset) = (self.file()?, self.random.pick(&[0, 0, 3, 4096, 9000]));
        let read = self.sys.pread(fd, LONGEST, offset);
        Some(self.check(fd, read))
    }

    fn text(&mut self) -> Vec<u8> {
        vec![b'a' + self.random.below(26) as u8; 1 + self.random.below(LONGEST)]
    }

    fn write(&mut self) -> Option<Sys<()>> {
        let (fd, text) = (self.file()?, self.text());
        let written = self.sys.write(fd, &text);
        Some(self.check_written(fd, written))
    }

    fn pwrite(&mut self) -> Option<Sys<()>> {
        let (fd, text) = (self.file()?, self.text());
        let offset = self.random.pick(&[0, 7, 4090]);
        let written = self.sys.pwrite(fd, &text, offset);
        Some(self.check_written(fd, written))
    }

    fn lseek(&mut self) -> Option<Sys<()>> {
        let (fd, from) = (self.file()?, [whence::SEEK_SET, whence::SEEK_CUR, whence::SEEK_END]);
        let from = self.random.pick(&from);
        Some(self.sys.lseek(fd, 0, from).map(drop))
    }

    fn splice_out(&mut self) -> Option<Sys<()>> {
        let fd = self.file()?;
        Some(self.sys.splice_read(fd, LONGEST).map(drop))
    }

    fn splice_in(&mut self) -> Option<Sys<()>> {
        let (fd, text) = (self.file()?, self.text());
        Some(self.sys.splice_write(fd, &text).map(drop))
    }

    fn sendfile(&mut self) -> Option<Sys<()>> {
        let fd = self.file()?;
        Some(self.sys.sendfile(fd, LONGEST).map(drop))
    }

    fn fsync(&mut self) -> Option<Sys<()>> {
        let fd = self.file()?;
        Some(self.sys.fsync(fd))
    }

    fn ftruncate(&mut self) -> Option<Sys<()>> {
        let fd = self.file()?;
        Some(self.sys.ftruncate(fd, 3))
    }

    fn truncate(&mut self) -> Option<Sys<()>> {
        let path = self.path();
        Some(self.sys.truncate(&path, 3))
    }

    fn poll(&mut self) -> Option<Sys<()>> {
        let fd = self.file()?;
        let events = self.sys.poll(fd, IN | OUT | PRI);
        if self.dead.contains_key(&fd) && events.is_ok_and(|events| events & ERR == 0) {
            self.fault = Some(format!("a dead descriptor has the events {events:?}"));
        }
        Some(events.map(drop))
    }

    fn wait(&mut self, how: How) -> Option<Sys<()>> {
        let (fd, events) = (self.file()?, self.random.pick(&[PRI, IN | PRI, OUT]));
        let timeout = Duration::from_micros(self.random.between(0, WAIT_MICROS));
        Some(self.sys.wait(fd, events, how, timeout).map(drop))
    }

    fn add_to_epoll(&mut self) -> Option<Sys<()>> {
        let fd = self.file()?;
        let epoll = self.sys.epoll_edge(fd, PRI);
        Some(hold(&self.sys, &mut self.epolls, epoll))
    }

    fn wait_for_epoll(&mut self) -> Option<Sys<()>> {
        let epoll = pick(&self.epolls, &mut self.random)?;
        let timeout = Duration::from_micros(self.random.between(0, WAIT_MICROS));
        Some(self.sys.epoll_wait(epoll, timeout).map(drop))
    }

    fn list(&mut self) -> Option<Sys<()>> {
        let (dir, max) = (self.dir()?, self.random.pick(&[1, 3, 100]));
        let listed = self.sys.getdents(dir, max);
        if let Ok(entries) = &listed {
            let mut names: Vec<_> = entries.iter().map(|entry| &entry.name).collect();
            names.sort();
            if names.windows(2).any(|two| two[0] == two[1]) {
                self.fault = Some(format!("a name is listed twice: {names:?}"));
            }
            if !entries.is_sorted_by(|one, next| one.off < next.off) {
                self.fault = Some(format!("cursors do not increase: {entries:?}"));
            }
        }
        Some(listed.map(drop))
    }

    fn rewind(&mut self) -> Option<Sys<()>> {
        let dir = self.dir()?;
        Some(self.sys.lseek(dir, 0, whence::SEEK_SET).map(drop))
    }

    fn stat(&mut self) -> Option<Sys<()>> {
        let path = self.path();
        Some(self.sys.stat(&path).map(drop))
    }

    fn fstat(&mut self) -> Option<Sys<()>> {
        let fd = self.file()?;
        Some(self.sys.fstat(fd).map(drop))
    }

    fn look_up_in_vain(&mut self) -> Option<Sys<()>> {
        let path = format!("{}/nothing", self.path());
        let found = self.sys.stat(&path);
        if found.is_ok() {
            self.fault = Some(format!("{path} is there"));
        }
        Some(found.map(drop))
    }

    fn mmap(&mut self) -> Option<Sys<()>> {
        let fd = self.file()?;
        let mapped = self.sys.mmap(fd, MEMORY);
        Some(mapped.and_then(|map| {
            self.maps.push(map);
            if self.maps.len() > MOST { self.sys.munmap(self.maps.remove(0)) } else { Ok(()) }
        }))
    }

    fn touch(&mut self) -> Option<Sys<()>> {
        let map = pick(&self.maps, &mut self.random)?;
        let offset = self.random.pick(&[0, 4095, 4096, MEMORY - 1]);
        let touched = self.sys.map_read(map, offset, 1);
        let page = (map, offset / PAGE);
        match &touched {
            Err(EFAULT) => drop(self.dead_pages.insert(page)),
            _ if self.dead_pages.contains(&page) => {
                self.fault = Some("a page that had gone is there again".into());
            }
            _ => {}
        }
        Some(touched.map(drop))
    }

    fn munmap(&mut self) -> Option<Sys<()>> {
        let map = self.random.take(&mut self.maps)?;
        Some(self.sys.munmap(map))
    }

    fn watch(&mut self) -> Option<Sys<()>> {
        let path = self.path();
        let watch = self.sys.watch(&path);
        Some(hold(&self.sys, &mut self.watches, watch))
    }

    /// What it is told is checked elsewhere; here are only events that there are.
    fn read_watch(&mut self) -> Option<Sys<()>> {
        let watch = pick(&self.watches, &mut self.random)?;
        let told = self.sys.watched(watch);
        let after_the_end = told.iter().flatten().skip_while(|it| it.events & GONE == 0).skip(1);
        if let Some(event) = after_the_end.last() {
            self.fault = Some(format!("told after the end of the watch: {event:?}"));
        }
        Some(told.map(drop))
    }

    fn mkdir(&mut self) -> Option<Sys<()>> {
        let path = self.path();
        Some(self.sys.mkdir(&path))
    }

    fn rmdir(&mut self) -> Option<Sys<()>> {
        let path = self.path();
        Some(self.sys.rmdir(&path))
    }

    fn unlink(&mut self) -> Option<Sys<()>> {
        let path = self.path();
        Some(self.sys.unlink(&path))
    }

    fn rename(&mut self) -> Option<Sys<()>> {
        let (from, to) = (self.path(), self.path());
        Some(self.sys.rename(&from, &to))
    }

    fn chmod(&mut self) -> Option<Sys<()>> {
        let path = self.path();
        Some(self.sys.chmod(&path, 0o755))
    }

    fn fchmod(&mut self) -> Option<Sys<()>> {
        let fd = self.file()?;
        Some(self.sys.fchmod(fd, 0o640))
    }

    fn setxattr(&mut self) -> Option<Sys<()>> {
        let path = self.path();
        Some(self.sys.setxattr(&path, "user.x", b"x", flags::XATTR_ANY))
    }

    fn getxattr(&mut self) -> Option<Sys<()>> {
        let path = self.path();
        Some(self.sys.getxattr(&path, "user.x").map(drop))
    }

    fn fsetxattr(&mut self) -> Option<Sys<()>> {
        let fd = self.file()?;
        Some(self.sys.fsetxattr(fd, "user.y", b"y"))
    }

    fn by_handle(&mut self) -> Option<Sys<()>> {
        let path = self.path();
        let opened = self.sys.name_to_handle(&path);
        let opened = opened.and_then(|handle| self.sys.open_by_handle(handle, flags::O_PATH));
        Some(self.hold(opened))
    }
}

/// The event after which a watch tells nothing more.
const GONE: u32 = inotify::IN_IGNORED;

fn path(root: &str, random: &mut Random) -> String {
    let dir = random.pick(&DIRS);
    if random.one_in(6) { format!("{root}/{dir}") } else { path_of_file(root, random) }
}

pub(super) fn path_of_file(root: &str, random: &mut Random) -> String {
    format!("{root}/{}/{}", random.pick(&DIRS), random.pick(&FILES))
}

fn pick<T: Copy>(from: &[T], random: &mut Random) -> Option<T> {
    (!from.is_empty()).then(|| random.pick(from))
}

fn hold(sys: &Syscalls<Nobody>, among: &mut Vec<Fd>, opened: Sys<Fd>) -> Sys<()> {
    among.push(opened?);
    if among.len() > MOST { sys.close(among.remove(0)) } else { Ok(()) }
}

/// Counts an answer, and notes one that is not allowed.
pub(super) fn count(tally: &Mutex<Tally>, n: usize, result: Sys<()>) {
    let Operation { name: what, may_get, .. } = &OPERATIONS[n];
    let errno = result.err().unwrap_or(0);
    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    tally.count(n, errno);
    if errno != 0 && !may_get.contains(&errno) {
        tally.fault(format!("{what} got {}", name(errno)));
    }
}
