//! Where a thread is, by what /proc tells of it.

use std::collections::BTreeSet;
use std::fmt::{self, Display, Formatter};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use syscalls::Sysno;

use crate::printable::printable;

/// A thread, and what it is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Whereabouts {
    /// Its process.
    pub(crate) pid: u32,
    /// Itself.
    pub(crate) tid: u32,
    /// Its name, as far as it can be printed.
    pub(crate) comm: String,
    /// Its state, as in /proc: `R` runs, `S` sleeps, `D` sleeps and no signal wakes it, `T` is
    /// stopped.
    pub(crate) state: char,
    /// The system call that it is in; nothing where it runs, or that is kept secret.
    pub(crate) call: Option<Call>,
    /// The kernel's function in which it sleeps, where that is told.
    pub(crate) wchan: Option<String>,
    /// The kernel's functions that it is in, the innermost first, where that is told.
    pub(crate) stack: Vec<String>,
}

/// A system call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Call {
    /// Its number.
    pub(crate) number: i64,
    /// Its name; that of the number where there is none.
    pub(crate) name: String,
    /// The paths of what it is about, as far as they can be found out: of the descriptors that it
    /// got or waits for, or the path that it got.
    pub(crate) on: Vec<String>,
}

/// Returns where the threads of a process are; nothing if it is gone.
pub(crate) fn of_process(pid: u32) -> Vec<Whereabouts> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let tasks = fs::read_dir(process.join("task")).into_iter().flatten().flatten();
    let mut tids: Vec<u32> =
        tasks.filter_map(|task| task.file_name().to_str()?.parse().ok()).collect();
    tids.sort_unstable();
    let of_thread = |tid| Whereabouts::look(&process, pid, tid);
    tids.into_iter().filter_map(of_thread).collect()
}

impl Whereabouts {
    fn look(process: &Path, pid: u32, tid: u32) -> Option<Self> {
        let task = process.join(format!("task/{tid}"));
        let status = fs::read_to_string(task.join("status")).ok()?;
        let state = status.lines().find_map(|line| line.strip_prefix("State:"))?;
        let comm = fs::read(task.join("comm")).ok()?;
        let comm = comm.strip_suffix(b"\n").unwrap_or(&comm);
        let call = fs::read_to_string(task.join("syscall")).ok();
        let wchan = fs::read_to_string(task.join("wchan")).ok();
        let stack = fs::read_to_string(task.join("stack")).unwrap_or_default();
        Some(Self {
            pid,
            tid,
            comm: printable(std::ffi::OsStr::from_bytes(comm)),
            state: state.trim_start().chars().next()?,
            call: call.and_then(|call| Call::parse(&call, process)),
            wchan: wchan.filter(|place| !place.is_empty() && place != "0"),
            stack: stack.lines().map(function_in).collect(),
        })
    }

    /// Says what it does, without saying who it is.
    fn doing(&self) -> &'static str {
        match self.state {
            'R' => "runs",
            'S' => "sleeps",
            'D' => "sleeps, not to be woken,",
            'T' => "is stopped",
            't' => "is traced",
            _ => "ends",
        }
    }
}

impl Display for Whereabouts {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}", self.comm, self.pid)?;
        if self.tid != self.pid {
            write!(f, ", thread {}", self.tid)?;
        }
        write!(f, "] {}", self.doing())?;
        if let Some(call) = &self.call {
            write!(f, " in {call}")?;
        }
        match &self.wchan {
            Some(place) => write!(f, " ({place})"),
            None => Ok(()),
        }
    }
}

impl Display for Call {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        for (index, path) in self.on.iter().enumerate() {
            write!(f, "{} {path}", if index == 0 { " of" } else { "," })?;
        }
        Ok(())
    }
}

/// Takes the name out of a line like `[<0>] do_sys_poll+0x4a1/0x5d0`.
fn function_in(line: &str) -> String {
    let name = line.split_once("] ").map_or(line, |(_, name)| name);
    name.split('+').next().unwrap_or(name).to_owned()
}

impl Call {
    /// Parses the line of /proc/PID/syscall: number, six arguments, stack pointer, program counter.
    fn parse(line: &str, process: &Path) -> Option<Self> {
        let mut fields = line.split_whitespace();
        // `running`, or -1 outside of any.
        let number: i64 = fields.next()?.parse().ok().filter(|&number| number >= 0)?;
        let hex = |field: &str| u64::from_str_radix(field.strip_prefix("0x")?, 16).ok();
        let args: Vec<u64> = fields.map_while(hex).collect();
        let call = usize::try_from(number).ok().and_then(Sysno::new);
        let on = match (call, args.first_chunk()) {
            (Some(call), Some(args)) => Process(process).paths_of(call.name(), args),
            _ => Vec::new(),
        };
        let name = call.map_or_else(|| number.to_string(), |call| call.name().to_owned());
        Some(Self { number, name, on: on.iter().map(printable).collect() })
    }
}

/// The largest number of descriptors of a call that are looked up; those that hang wait for few.
const MAX_FDS: usize = 64;
/// The longest path that the kernel takes.
const PATH_MAX: usize = 4096;

/// The directory of a process in /proc.
struct Process<'a>(&'a Path);

impl Process<'_> {
    /// Returns what a system call is about.
    fn paths_of(&self, call: &str, args: &[u64; 6]) -> Vec<PathBuf> {
        match call {
            "poll" | "ppoll" => self.polled(args[0], args[1]),
            "select" | "pselect6" | "_newselect" => self.selected(args),
            "epoll_wait" | "epoll_pwait" | "epoll_pwait2" => self.in_epoll(args[0]),
            "open" | "stat" | "lstat" | "access" | "readlink" | "rmdir" | "mkdir" | "chdir"
            | "execve" | "unlink" | "creat" | "statfs" | "truncate" | "chmod" | "chown" => {
                self.path_at(args[0]).into_iter().collect()
            }
            "openat" | "openat2" | "newfstatat" | "fstatat64" | "statx" | "faccessat"
            | "faccessat2" | "readlinkat" | "mkdirat" | "unlinkat" | "name_to_handle_at"
            | "inotify_add_watch" | "execveat" => self.path_below(args[0], args[1]),
            "sendfile" | "sendfile64" => [args[1], args[0]].map(|fd| self.fd(fd)).concat(),
            "splice" => [args[0], args[2]].map(|fd| self.fd(fd)).concat(),
            "read" | "write" | "pread64" | "pwrite64" | "readv" | "writev" | "preadv"
            | "pwritev" | "preadv2" | "pwritev2" | "lseek" | "ioctl" | "fcntl" | "fstat"
            | "fstatfs" | "getdents" | "getdents64" | "close" | "fsync" | "fdatasync"
            | "ftruncate" | "flock" | "fchdir" | "fchmod" | "fchown" | "accept" | "accept4"
            | "connect" | "recvfrom" | "recvmsg" | "sendto" | "sendmsg" | "tee" | "vmsplice"
            | "copy_file_range" | "fgetxattr" | "fsetxattr" | "readahead" | "syncfs" => {
                self.fd(args[0])
            }
            _ => Vec::new(),
        }
    }

    /// Returns where a descriptor leads.
    fn fd(&self, fd: u64) -> Vec<PathBuf> {
        // An int, with whatever in the rest of the register.
        let fd = fd as i32;
        fs::read_link(self.0.join(format!("fd/{fd}"))).into_iter().collect()
    }

    /// Reads the descriptors out of an array of `struct pollfd`.
    fn polled(&self, array: u64, count: u64) -> Vec<PathBuf> {
        let count = usize::try_from(count).unwrap_or(MAX_FDS).min(MAX_FDS);
        let memory = self.memory_at(array, count * POLLFD);
        let fds = memory.chunks_exact(POLLFD).filter_map(|entry| entry.first_chunk());
        fds.flat_map(|&fd| self.fd(u64::from(u32::from_ne_bytes(fd)))).collect()
    }

    /// Reads the descriptors out of up to three `fd_set`.
    fn selected(&self, args: &[u64; 6]) -> Vec<PathBuf> {
        let count = usize::try_from(args[0]).unwrap_or(FD_SETSIZE).min(FD_SETSIZE);
        let mut fds = BTreeSet::new();
        for &set in args[1..4].iter().filter(|&&set| set != 0) {
            let memory = self.memory_at(set, FD_SETSIZE / 8);
            // Bit by bit in bytes, as little-endian machines have it.
            let is_set =
                |&fd: &usize| memory.get(fd / 8).is_some_and(|byte| byte >> (fd % 8) & 1 == 1);
            fds.extend((0..count).filter(is_set).take(MAX_FDS));
        }
        fds.into_iter().flat_map(|fd| self.fd(fd as u64)).collect()
    }

    /// Returns what an epoll descriptor watches.
    fn in_epoll(&self, epoll: u64) -> Vec<PathBuf> {
        let info = fs::read_to_string(self.0.join(format!("fdinfo/{}", epoll as i32)));
        let info = info.unwrap_or_default();
        let watched = info.lines().filter_map(|line| {
            line.strip_prefix("tfd:")?.split_whitespace().next()?.parse::<u64>().ok()
        });
        watched.take(MAX_FDS).flat_map(|fd| self.fd(fd)).collect()
    }

    /// Returns a path that starts from a directory, which may be no descriptor but AT_FDCWD.
    fn path_below(&self, dir: u64, path: u64) -> Vec<PathBuf> {
        match (self.path_at(path), self.fd(dir).pop()) {
            (Some(path), Some(dir)) => vec![dir.join(path)],
            (Some(path), None) => vec![path],
            (None, dir) => dir.into_iter().collect(),
        }
    }

    /// Reads a path out of the memory of the process.
    fn path_at(&self, address: u64) -> Option<PathBuf> {
        let memory = self.memory_at(address, PATH_MAX);
        let path = memory.split(|&byte| byte == 0).next().filter(|path| !path.is_empty())?;
        Some(PathBuf::from(std::ffi::OsStr::from_bytes(path)))
    }

    /// Returns what can be read of the memory of the process.
    fn memory_at(&self, address: u64, len: usize) -> Vec<u8> {
        let mut memory = vec![0; len];
        let read = File::open(self.0.join("mem")).and_then(|mem| mem.read_at(&mut memory, address));
        memory.truncate(read.unwrap_or(0));
        memory
    }
}

/// The size of a `struct pollfd`: an int and two shorts.
const POLLFD: usize = 8;
/// How many descriptors an `fd_set` holds.
const FD_SETSIZE: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, epoll, poll};
    use std::os::fd::AsFd;
    use std::sync::mpsc;
    use std::thread;
    use std::time::{Duration, Instant};

    /// Has a thread sleep in a call until a pipe ends; returns where it was seen in the call.
    fn seen_in(names: &[&str], sleep: impl FnOnce(&File) + Send + 'static) -> Whereabouts {
        let (reader, writer) = std::io::pipe().unwrap();
        let (say, hear) = mpsc::channel();
        let sleeper = thread::spawn(move || {
            say.send(rustix::thread::gettid().as_raw_nonzero().get() as u32).unwrap();
            sleep(&std::os::fd::OwnedFd::from(reader).into());
        });
        let tid = hear.recv().unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        let in_call = |it: &Whereabouts| {
            let call = it.call.as_ref();
            it.tid == tid && call.is_some_and(|call| names.contains(&&*call.name))
        };
        let seen = loop {
            let all = of_process(std::process::id());
            if let Some(seen) = all.iter().find(|it| in_call(it)) {
                break seen.clone();
            }
            assert!(Instant::now() < until, "{all:?}");
        };
        drop(writer);
        sleeper.join().unwrap();
        seen
    }

    fn is_a_pipe(seen: &Whereabouts) -> bool {
        matches!(&*seen.call.as_ref().unwrap().on, [path] if path.starts_with("pipe:["))
    }

    #[test]
    fn a_read_is_told_with_its_file() {
        let seen = seen_in(&["read"], |mut file| {
            assert_eq!(std::io::Read::read(&mut file, &mut [0; 8]).unwrap(), 0);
        });
        assert!(is_a_pipe(&seen), "{seen}");
    }

    #[test]
    fn a_poll_is_told_with_what_it_waits_for() {
        let seen = seen_in(&["poll", "ppoll"], |file| {
            poll(&mut [PollFd::new(file, PollFlags::IN)], None).unwrap();
        });
        assert!(is_a_pipe(&seen), "{seen}");
    }

    #[test]
    fn an_epoll_is_told_with_what_it_watches() {
        let seen = seen_in(&["epoll_wait", "epoll_pwait", "epoll_pwait2"], |file| {
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
            let data = epoll::EventData::new_u64(0);
            epoll::add(&epoll, file, data, epoll::EventFlags::IN).unwrap();
            let mut events = [std::mem::MaybeUninit::uninit()];
            epoll::wait(&epoll, &mut events, None).unwrap();
        });
        assert!(is_a_pipe(&seen), "{seen}");
    }

    #[test]
    fn a_select_is_told_with_what_it_waits_for() {
        let seen = seen_in(&["select", "pselect6", "_newselect"], |file| {
            let mut set = nix::sys::select::FdSet::new();
            set.insert(file.as_fd());
            nix::sys::select::select(None, Some(&mut set), None, None, None).unwrap();
        });
        assert!(is_a_pipe(&seen), "{seen}");
    }

    #[test]
    fn an_open_is_told_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        let path = fifo.clone();
        let opener = thread::spawn(move || drop(File::open(path)));
        let until = Instant::now() + Duration::from_secs(20);
        let wanted = fifo.display().to_string();
        let opens = |it: &Whereabouts| it.call.as_ref().is_some_and(|call| call.on == [&*wanted]);
        while !of_process(std::process::id()).iter().any(opens) {
            assert!(Instant::now() < until, "{:?}", of_process(std::process::id()));
        }
        drop(fs::OpenOptions::new().write(true).open(&fifo).unwrap());
        opener.join().unwrap();
    }

    #[test]
    fn what_runs_is_in_no_call() {
        assert_eq!(Call::parse("running\n", Path::new("/proc/self")), None);
        assert_eq!(Call::parse("-1 0x7ffc 0x7f11\n", Path::new("/proc/self")), None);
        let unknown =
            Call::parse("999999 0x0 0x0 0x0 0x0 0x0 0x0 0x1 0x2", Path::new("/proc/self"));
        assert_eq!(unknown.unwrap().to_string(), "999999");
    }

    #[test]
    fn functions_are_told_without_offsets() {
        assert_eq!(function_in("[<0>] do_sys_poll+0x4a1/0x5d0"), "do_sys_poll");
    }
}
