//! Holders that are processes of their own, with real system calls: `kernfs holder`.
//!
//! Such a process knows nothing but a path, and talks to the owner over its standard input and
//! output. When its input ends, because the owner has hung up or has gone, it ends at once,
//! whatever it is doing.

use std::env;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use kernfs::{Errno, Events};
use nix::sys::select::{FdSet, select};
use nix::sys::time::TimeVal;
use rustix::event::epoll;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{AtFlags, CWD, OFlags, RawDir, SeekFrom};
use rustix::process::{Resource, Rlimit, setrlimit};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

use crate::demo::answer::{Answer, Part, errno_of};
use crate::demo::device::MEMORY_BYTES;
use crate::demo::line::{Again, Command, Line, Message};
use crate::demo::role::Role;

/// Holds on to a path, and tells on its standard output what becomes of it; `kernfs demo` starts
/// it.
#[derive(Args, Debug)]
pub(crate) struct HolderArgs {
    /// What it does.
    kind: Role,
    /// What it holds.
    path: PathBuf,
    /// How many bytes of a text it reads before.
    #[arg(long, value_name = "BYTES", default_value_t = 1)]
    half: usize,
}

impl HolderArgs {
    /// Plays the part until the input ends.
    ///
    /// # Errors
    ///
    /// There is no thread to listen with.
    pub(crate) fn run(&self) -> Result<()> {
        let line = Line {
            say: Box::new(|message| say(&message)),
            hear: listen()?,
            thread: process::id().to_string().into(),
        };
        line.perform(|line| play(self.kind, line, &self.path, self.half));
        // What was said is heard before the owner hangs up.
        loop {
            thread::park();
        }
    }
}

fn say(message: &Message) {
    // An owner that has gone is noticed at the other pipe.
    let _ = writeln!(io::stdout().lock(), "{}", message.to_wire());
}

/// Listens on a thread of its own, for the first one may be blocked.
fn listen() -> Result<Receiver<Command>> {
    let (say, hear) = mpsc::channel();
    let listener = thread::Builder::new().name("listener".into()).spawn(move || {
        let lines = io::stdin().lock().lines().map_while(Result::ok);
        for command in lines.filter_map(|line| Command::from_wire(&line)) {
            // The first thread may have ended in a panic, which has been printed.
            let _ = say.send(command);
        }
        process::exit(0);
    });
    listener.context("cannot start a thread")?;
    Ok(hear)
}

fn play(role: Role, line: &Line, path: &Path, half: usize) -> Result<Again> {
    match role {
        Role::HalfWayReader => read_one_half(line, path, half),
        Role::BlockedReader => block_in_read(line, path),
        Role::Poller => sleep(line, path, in_poll),
        Role::Selecter => sleep(line, path, in_select),
        Role::EpollLevel => sleep(line, path, |file| in_epoll(file, epoll::EventFlags::PRI)),
        Role::EpollEdge => {
            let edge = epoll::EventFlags::PRI | epoll::EventFlags::ET;
            sleep(line, path, move |file| in_epoll(file, edge))
        }
        Role::Lister => list_one_half(line, path),
        Role::Watcher => watch(line, path),
        Role::InsideReader => go_inside(line, path),
        Role::Toucher => touch_what_was_mapped(line, path),
        Role::Latecomer => come_too_late(line, path),
        Role::TokioTask | Role::HandMadeTask | Role::Mapper => {
            bail!("lives in the owner's process")
        }
    }
}

/// The largest text that is read.
const BUFFER: usize = 64 << 10;

fn read_one_half(line: &Line, path: &Path, half: usize) -> Result<Again> {
    let mut file = File::open(path)?;
    let read = file.read(&mut vec![0; half])?;
    ensure!(read > 0, "the text has become empty");
    line.holding();
    line.wait_to_look()?;
    line.got(read_to_the_error(&file));
    Ok(Box::new(move |_| refused(&file)))
}

fn block_in_read(line: &Line, path: &Path) -> Result<Again> {
    let mut file = open_events(path)?;
    line.falling_asleep();
    let got = file.read(&mut [0; 64]);
    line.got(got.map_err(|error| errno_of(&error)));
    Ok(Box::new(move |_| refused(&file)))
}

/// Sleeps in a system call that waits for events.
fn sleep(
    line: &Line,
    path: &Path,
    asleep: impl FnOnce(&File) -> io::Result<Asleep>,
) -> Result<Again> {
    let file = open_events(path)?;
    let asleep = asleep(&file)?;
    line.falling_asleep();
    let got = asleep(&file);
    line.got(got.unwrap_or_else(|error| errno_of(&error).into()));
    Ok(Box::new(move |_| refused(&file)))
}

/// A system call that is all prepared.
type Asleep = Box<dyn FnOnce(&File) -> io::Result<Answer>>;

fn in_poll(_: &File) -> io::Result<Asleep> {
    Ok(Box::new(|file| {
        let mut fds = [PollFd::new(file, PollFlags::PRI)];
        poll(&mut fds, None)?;
        Ok(Events::from_bits_retain(fds[0].revents().bits().into()).into())
    }))
}

fn in_select(file: &File) -> io::Result<Asleep> {
    let all = Events::IN | Events::OUT | Events::PRI;
    // Linux's own files are in the first two at any time, and there is nothing to wait for.
    let wanted = all - select_in(file.as_fd(), all, Some(&mut TimeVal::new(0, 0)))?;
    Ok(Box::new(move |file| {
        let sets = select_in(file.as_fd(), wanted, None)?;
        Ok(Part::Sets(sets).into())
    }))
}

/// Waits for those of the three sets that are asked for; returns those that the descriptor is in.
fn select_in(
    file: BorrowedFd<'_>,
    wanted: Events,
    limit: Option<&mut TimeVal>,
) -> io::Result<Events> {
    let names = [Events::IN, Events::OUT, Events::PRI];
    let mut sets = [FdSet::new(), FdSet::new(), FdSet::new()];
    let asked = sets.iter_mut().zip(names).filter(|(_, name)| wanted.contains(*name));
    asked.for_each(|(set, _)| set.insert(file));
    let [read, write, except] = &mut sets;
    select(file.as_raw_fd() + 1, read, write, except, limit)?;
    Ok(sets.iter().zip(names).filter(|(set, _)| set.contains(file)).map(|(_, name)| name).collect())
}

fn in_epoll(file: &File, flags: epoll::EventFlags) -> io::Result<Asleep> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, file, epoll::EventData::new_u64(0), flags)?;
    Ok(Box::new(move |_| {
        let mut events = [MaybeUninit::uninit()];
        let (events, _) = epoll::wait(&epoll, &mut events, None)?;
        // Copied, for it is not aligned.
        let flags = events.first().map_or(epoll::EventFlags::empty(), |event| event.flags);
        Ok(Events::from_bits_retain(flags.bits()).into())
    }))
}

/// Sits in a directory that it has listed one half of.
fn list_one_half(line: &Line, path: &Path) -> Result<Again> {
    env::set_current_dir(path)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(".", flags, rustix::fs::Mode::empty())?;
    let all = list(&dir)?;
    let half = all.len().div_ceil(2);
    let (_, next) = all.get(half - 1).context("the directory lists not even itself")?;
    let (child, _) = all.last().cloned().unwrap_or_default();
    rustix::fs::seek(&dir, SeekFrom::Start(*next))?;
    line.holding();
    line.wait_to_look()?;
    let go_on = move || {
        let rest = match list(&dir) {
            Ok(entries) => Part::Entries(entries.len()),
            // As readdir(3) has it: a directory that was removed has no more entries.
            Err(rustix::io::Errno::NOENT) => Part::Entries(0),
            Err(errno) => Part::Error(errno_of(&errno.into())),
        };
        // From the working directory.
        let child = rustix::fs::statat(CWD, &child, AtFlags::SYMLINK_NOFOLLOW);
        let child = child.err().map(|errno| Part::Error(errno_of(&errno.into())));
        Answer::of([Some(rest), child].into_iter().flatten())
    };
    line.got(go_on());
    Ok(Box::new(move |_| go_on()))
}

/// Lists names from where the directory stands, with where it stands behind each.
fn list(dir: &OwnedFd) -> rustix::io::Result<Vec<(CString, u64)>> {
    let mut buf = [MaybeUninit::uninit(); BUFFER];
    let mut raw = RawDir::new(dir, &mut buf);
    let mut entries = Vec::new();
    while let Some(entry) = raw.next() {
        let entry = entry?;
        entries.push((entry.file_name().to_owned(), entry.next_entry_cookie()));
    }
    Ok(entries)
}

fn watch(line: &Line, path: &Path) -> Result<Again> {
    let watch = inotify::init(CreateFlags::CLOEXEC)?;
    inotify::add_watch(&watch, path, WatchFlags::MODIFY | WatchFlags::DELETE_SELF)?;
    line.falling_asleep();
    line.got(told(&watch));
    rustix::fs::fcntl_setfl(&watch, OFlags::NONBLOCK)?;
    Ok(Box::new(move |_| told(&watch)))
}

/// Waits for what inotify tells, to the end of the watch.
fn told(watch: &OwnedFd) -> Answer {
    let mut buf = [MaybeUninit::uninit(); BUFFER];
    let mut reader = inotify::Reader::new(watch, &mut buf);
    let mut told = ReadFlags::empty();
    loop {
        match reader.next().map(|event| event.events()) {
            Ok(events) if events.contains(ReadFlags::IGNORED) => {
                return Part::Watched(told).into();
            }
            Ok(events) => told |= events,
            Err(errno) => return errno_of(&errno.into()).into(),
        }
    }
}

fn go_inside(line: &Line, path: &Path) -> Result<Again> {
    let file = File::open(path)?;
    // The owner knows from the driver when it is inside.
    line.holding();
    let answer = read_to_the_error(&file);
    line.got(answer);
    Ok(Box::new(move |_| refused(&file)))
}

fn touch_what_was_mapped(line: &Line, path: &Path) -> Result<Again> {
    // It is to die by a signal, which is no reason to leave a core behind.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let pages = FileOffset::new(file.try_clone()?, 0);
    let pages = MmapRegion::<()>::from_file(pages, MEMORY_BYTES)?;
    let place = pages.get_ref::<u8>(100)?;
    place.store(b'm');
    ensure!(place.load() == b'm', "the mapping lost what was written");
    line.holding();
    line.wait_to_look()?;
    let refused_first = refused(&file);
    if refused_first == Errno::ENODEV.into() {
        // Here it ends, unless the page has outlived the file.
        let byte = place.load();
        line.got(Ok(usize::from(byte == b'm')));
    } else {
        line.got(refused_first);
    }
    Ok(Box::new(move |_| refused(&file)))
}

fn come_too_late(line: &Line, path: &Path) -> Result<Again> {
    // Now the kernel knows the name; nothing is held of the file.
    fs::metadata(path)?;
    line.holding();
    line.wait_to_look()?;
    let path = path.to_owned();
    let mut held: Option<File> = None;
    let mut come = move |command| {
        if held.is_none() || command == Command::Afresh {
            match File::open(&path) {
                Ok(file) => held = Some(file),
                Err(error) => return errno_of(&error).into(),
            }
        }
        let read = |file: &mut File| file.read(&mut [0; 64]).map_err(|error| errno_of(&error));
        held.as_mut().map_or(Err(Errno::EBADF), read).into()
    };
    line.got(come(Command::Afresh));
    Ok(Box::new(come))
}

/// Opens the event file and takes the first event, so that there is nothing but to wait.
fn open_events(path: &Path) -> Result<File> {
    let mut file = File::open(path)?;
    let mut buf = [0; 64];
    let len = file.read(&mut buf)?;
    ensure!(len > 0, "there is no first event");
    Ok(file)
}

/// Reads on until nothing more is left, or an error.
fn read_to_the_error(mut file: &File) -> Answer {
    let mut buf = vec![0; BUFFER];
    let mut bytes = 0;
    loop {
        match file.read(&mut buf) {
            Ok(0) => return Answer::from(Ok(bytes)),
            Ok(len) => bytes += len,
            Err(error) => return Answer::bytes_then(bytes, errno_of(&error)),
        }
    }
}

/// Reads, and if that is refused, opens what is held once more.
fn refused(file: &File) -> Answer {
    let read = read_to_the_error(file);
    let again = OpenOptions::new().read(true).open(format!("/proc/self/fd/{}", file.as_raw_fd()));
    match again {
        Ok(_) if read == Errno::ENODEV.into() => Part::Bytes(0).into(),
        Err(error) if read == Errno::ENODEV.into() => errno_of(&error).into(),
        _ => read,
    }
}
