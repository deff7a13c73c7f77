//! Clients in processes of their own: this program again, which obeys orders line by line.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Instant;

use kernfs::{Caller, FileOptions, Mode as KernfsMode, Tree};
use kernfs_fuse::{Mount, MountOptions};
use rustix::event::{PollFd, PollFlags, Timespec, epoll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use super::drivers::{Events, Knob};
use super::{PATIENCE, eventually, sys};

/// Set in the environment of a client.
const ORDERS: &str = "KERNFS_FUSE_CLIENT";

/// A client; killed when dropped.
pub struct Client {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// What a client's system call gave: a text, or an error number.
pub type Answer = Result<String, Errno>;

impl Client {
    /// Starts a client. The test program has to call [`serve`] in a test named `client`.
    pub fn start() -> Self {
        Self::start_as(|_| ())
    }

    /// Starts a client that is not quite as this process.
    pub fn start_as(change: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        change(&mut command);
        command.args(["--exact", "client", "--nocapture", "--test-threads=1"]).env(ORDERS, "1");
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a client");
        let orders = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut client = Self { child, orders, answers };
        assert_eq!(client.answer(), Ok("ready".into()));
        client
    }

    /// Gives an order and waits for the answer.
    #[track_caller]
    pub fn call(&mut self, order: impl AsRef<str>) -> Answer {
        self.begin(order);
        self.answer()
    }

    /// Gives an order.
    pub fn begin(&mut self, order: impl AsRef<str>) {
        writeln!(self.orders, "{}", order.as_ref()).expect("it listens");
    }

    /// Waits for the answer.
    #[track_caller]
    pub fn answer(&mut self) -> Answer {
        let mut line = String::new();
        loop {
            line.clear();
            assert_ne!(self.answers.read_line(&mut line).unwrap(), 0, "the client has gone");
            // What the test harness prints stands before it.
            let Some((_, answer)) = line.trim_end_matches('\n').split_once('@') else { continue };
            return match answer.split_once(' ').expect("a word and the rest") {
                ("ok", text) => Ok(text.to_owned()),
                (_, number) => Err(Errno::from_raw_os_error(number.parse().unwrap())),
            };
        }
    }

    /// Gives an order that blocks, and waits until it sleeps in it.
    #[track_caller]
    pub fn block(&mut self, order: impl AsRef<str>) {
        self.begin(order);
        eventually("a client to sleep", || self.is_asleep());
    }

    /// Tells whether it sleeps in a system call other than reading its orders.
    fn is_asleep(&self) -> bool {
        let call = fs::read_to_string(format!("/proc/{0}/task/{0}/syscall", self.worker()));
        let call = call.unwrap_or_default();
        let mut words = call.split_whitespace();
        let number = words.next().and_then(|number| number.parse::<i64>().ok());
        let first = words.next();
        // Orders come through descriptor 0.
        number.is_some_and(|number| number != libc::SYS_read || first != Some("0x0"))
    }

    /// Returns the thread that obeys: the newest, for the harness runs a test in one of its own.
    pub fn worker(&self) -> u32 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let ids = tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok());
        ids.max().unwrap_or(self.pid())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Sends a signal to the thread that obeys: any other one would be free to take it.
    pub fn signal_thread(&self, tid: i32, signal: Signal) {
        sys::signal_thread(self.pid().cast_signed(), tid, signal);
    }

    /// Waits until it has ended.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "a client does not end");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        // Not waited for: where a test fails, it may be stuck in the mount.
        let _ = self.child.try_wait();
    }
}

/// Obeys orders if this process is a client; else returns.
pub fn serve() {
    if std::env::var_os(ORDERS).is_none() {
        return;
    }
    say(&Ok("ready".into()));
    let mut state = State::default();
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        say(&state.obey(&words));
    }
    std::process::exit(0);
}

fn say(answer: &Answer) {
    match answer {
        Ok(text) => println!("@ok {}", text.replace('\n', "\\n")),
        Err(errno) => println!("@err {}", errno.raw_os_error()),
    }
}

#[derive(Default)]
struct State {
    files: HashMap<String, OwnedFd>,
    epolls: HashMap<String, OwnedFd>,
    maps: HashMap<String, sys::Map>,
    mounts: Vec<(Tree, Mount)>,
    /// What is in the trees.
    knobs: Vec<kernfs::File<Knob>>,
}

impl State {
    fn obey(&mut self, words: &[&str]) -> Answer {
        let ok = |()| String::new();
        match *words {
            ["open", name, flags, path] => {
                let fd = rustix::fs::open(path, open_flags(flags), Mode::RUSR)?;
                self.files.insert(name.into(), fd);
                Ok(String::new())
            }
            ["openat", name, dir, path] => {
                let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                let fd = rustix::fs::openat(&self.files[dir], path, flags, Mode::empty())?;
                self.files.insert(name.into(), fd);
                Ok(String::new())
            }
            ["reopen", name] => {
                let path = format!("/proc/self/fd/{}", self.files[name].as_raw_fd());
                rustix::fs::open(path, OFlags::RDONLY, Mode::empty()).map(|_| String::new())
            }
            ["close", name] => {
                self.files.remove(name);
                Ok(String::new())
            }
            ["read", name, len] => {
                let mut buf = vec![0; len.parse().unwrap()];
                let len = rustix::io::read(&self.files[name], &mut buf)?;
                Ok(String::from_utf8_lossy(&buf[..len]).into_owned())
            }
            ["pread", name, len, offset] => {
                let mut buf = vec![0; len.parse().unwrap()];
                let offset = offset.parse().unwrap();
                let len = rustix::io::pread(&self.files[name], &mut buf, offset)?;
                Ok(String::from_utf8_lossy(&buf[..len]).into_owned())
            }
            ["write", name, text] => {
                Ok(rustix::io::write(&self.files[name], text.as_bytes())?.to_string())
            }
            ["map" | "peek" | "poke" | "sync" | "unmap" | "touch", ..] => self.obey_map(words),
            ["through", name, flags, file] => {
                let path = format!("/proc/self/fd/{}", self.files[file].as_raw_fd());
                let fd = rustix::fs::open(path, open_flags(flags), Mode::empty())?;
                self.files.insert(name.into(), fd);
                Ok(String::new())
            }
            ["pwrite", name, text, offset] => {
                let (text, offset) = (text.as_bytes(), offset.parse().unwrap());
                Ok(rustix::io::pwrite(&self.files[name], text, offset)?.to_string())
            }
            ["fsync", name] => rustix::fs::fsync(&self.files[name]).map(ok),
            ["nonblock", name] => {
                rustix::fs::fcntl_setfl(&self.files[name], OFlags::NONBLOCK).map(ok)
            }
            ["poll", name, events, timeout] => self.poll(name, events, timeout),
            ["select", name, timeout] => {
                let fd = self.files[name].as_raw_fd();
                let (read, write, except) = sys::select(fd, timeout.parse().ok())
                    .map_err(|error| Errno::from_io_error(&error).unwrap())?;
                Ok(format!("{read} {write} {except}"))
            }
            ["epoll", name, file, events] => self.epoll(name, file, events),
            ["epwait", name, timeout] => self.epoll_wait(name, timeout),
            ["fstat", name] => {
                let stat = rustix::fs::fstat(&self.files[name])?;
                Ok(format!("{} {:o} {}", stat.st_ino, stat.st_mode & 0o7777, stat.st_nlink))
            }
            ["chdir", path] => rustix::process::chdir(path).map(ok),
            ["getcwd"] => {
                let path = rustix::process::getcwd(Vec::new())?;
                Ok(path.to_string_lossy().into_owned())
            }
            ["ls", path] => {
                let list = fs::read_dir(path).map_err(|e| Errno::from_io_error(&e).unwrap())?;
                let mut names: Vec<_> =
                    list.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
                names.sort();
                Ok(names.join(" "))
            }
            ["stat", path] => {
                let stat = rustix::fs::lstat(path)?;
                Ok(format!("{} {:o} {}", stat.st_ino, stat.st_mode & 0o7777, stat.st_nlink))
            }
            ["access", path] => rustix::fs::access(path, rustix::fs::Access::READ_OK).map(ok),
            ["mkdir", path] => rustix::fs::mkdir(path, Mode::RWXU).map(ok),
            ["chmod", path, mode] => {
                let mode = Mode::from_raw_mode(u32::from_str_radix(mode, 8).unwrap());
                rustix::fs::chmod(path, mode).map(ok)
            }
            ["user", uid, gid] => {
                sys::become_user(uid.parse().unwrap(), gid.parse().unwrap());
                Ok(String::new())
            }
            ["member", uid, gid, group] => {
                let number = |text: &str| text.parse().unwrap();
                sys::become_member(number(uid), number(gid), number(group));
                Ok(String::new())
            }
            ["mount", kind, dir] => {
                let tree = Tree::new();
                let add = |name, uid| {
                    let options = FileOptions::new(KernfsMode::RW).owner(uid, uid);
                    tree.root().add_file(name, options, Knob::new("text")).unwrap()
                };
                self.knobs.extend([add("knob", 0), add("own", 1000)]);
                tree.root().add_file("events", KernfsMode::RO, Events::default()).unwrap().keep();
                let mut options = MountOptions::new();
                if kind == "other" {
                    options = options.session(|_| fuse_session::MountOptions::new("other"));
                }
                let mount = options.mount(&tree, dir).expect("mounts");
                self.mounts.push((tree, mount));
                Ok(String::new())
            }
            ["refused", dir] => {
                let error = MountOptions::new().mount(&Tree::new(), dir).expect_err("refused");
                Ok(error.to_string())
            }
            ["notify", "knob"] => {
                self.knobs[0].notify();
                Ok(String::new())
            }
            ["unmount"] => {
                let (_, mount) = self.mounts.pop().expect("mounted");
                mount.unmount().expect("unmounts");
                Ok(String::new())
            }
            ["callers"] => {
                let callers = |knob: &kernfs::File<Knob>| knob.callers.lock().unwrap().clone();
                let callers: Vec<_> = self.knobs.iter().flat_map(callers).collect();
                let text = |caller: &Caller| format!("{}:{}", caller.uid, caller.gid);
                Ok(callers.iter().map(text).collect::<Vec<_>>().join(" "))
            }
            ["owner", path] => {
                let stat = rustix::fs::lstat(path)?;
                Ok(format!("{}:{}", stat.st_uid, stat.st_gid))
            }
            ["tid"] => Ok(sys::tid().to_string()),
            ["handle"] => {
                sys::handle_sigint();
                Ok(String::new())
            }
            _ => panic!("no such order: {words:?}"),
        }
    }

    /// Maps files; how is `s` or `p` for shared or private, and `w` for to be written too.
    fn obey_map(&mut self, words: &[&str]) -> Answer {
        let errno = |error: std::io::Error| Errno::from_io_error(&error).unwrap();
        let number = |text: &str| text.parse::<usize>().unwrap();
        let text = match *words {
            ["map", name, file, pages, how] => {
                let file = fs::File::from(self.files[file].try_clone().unwrap());
                let (shared, writable) = (how.contains('s'), how.contains('w'));
                let map = sys::Map::new(&file, number(pages) * 4096, shared, writable);
                self.maps.insert(name.into(), map.map_err(errno)?);
                String::new()
            }
            ["peek", name, offset, len] => {
                let bytes = self.maps[name].peek(number(offset), number(len)).map_err(errno)?;
                String::from_utf8_lossy(&bytes).into_owned()
            }
            ["poke", name, offset, text] => {
                self.maps[name].poke(number(offset), text.as_bytes()).map_err(errno)?;
                String::new()
            }
            ["sync", name] => {
                self.maps[name].sync().map_err(errno)?;
                String::new()
            }
            ["unmap", name] => {
                self.maps.remove(name);
                String::new()
            }
            ["touch", name] => char::from(self.maps[name].touch(0)).into(),
            _ => panic!("no such order: {words:?}"),
        };
        Ok(text)
    }

    fn poll(&self, name: &str, events: &str, timeout: &str) -> Answer {
        let events = PollFlags::from_bits_retain(u16::from_str_radix(events, 16).unwrap());
        let mut fds = [PollFd::from_borrowed_fd(self.files[name].as_fd(), events)];
        rustix::event::poll(&mut fds, timespec(timeout).as_ref())?;
        Ok(format!("{:x}", fds[0].revents().bits()))
    }

    fn epoll(&mut self, name: &str, file: &str, events: &str) -> Answer {
        let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let events = epoll::EventFlags::from_bits_retain(u32::from_str_radix(events, 16).unwrap());
        epoll::add(&set, &self.files[file], epoll::EventData::new_u64(0), events)?;
        self.epolls.insert(name.into(), set);
        Ok(String::new())
    }

    fn epoll_wait(&self, name: &str, timeout: &str) -> Answer {
        let mut events = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        }; 1];
        let count = epoll::wait(&self.epolls[name], &mut events, timespec(timeout).as_ref())?;
        let [epoll::Event { flags, .. }] = events;
        Ok(if count == 0 { "none".into() } else { format!("{:x}", flags.bits()) })
    }
}

/// Takes milliseconds; -1 is for ever.
fn timespec(ms: &str) -> Option<Timespec> {
    let ms: i64 = ms.parse().unwrap();
    (ms >= 0).then(|| Timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 })
}

fn open_flags(flags: &str) -> OFlags {
    flags.chars().fold(OFlags::CLOEXEC, |all, flag| {
        all | match flag {
            'r' => OFlags::RDONLY,
            'w' => OFlags::WRONLY,
            'b' => OFlags::RDWR,
            'n' => OFlags::NONBLOCK,
            'd' => OFlags::DIRECTORY,
            'p' => OFlags::PATH,
            'c' => OFlags::CREATE,
            _ => panic!("no such flag: {flag}"),
        }
    })
}
