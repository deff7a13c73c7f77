//! Clients, in processes of their own; each call is an order of one line, answered by numbers.

use std::collections::HashMap;
use std::fs;
use std::hint::black_box;
use std::os::fd::OwnedFd;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::io::pread;
use rustix::process::{Resource, Rlimit, Signal};

use crate::process::{Process, answer, orders};
use crate::report::{Latencies, now};

/// A client, as the owner sees it; it ends when dropped.
pub(crate) struct Client(Process);

impl Client {
    pub(crate) fn start() -> Self {
        Self(Process::start("client", &[]).expect("this very program starts"))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// Does something over and over for so long, on some threads; then for half as long with a look
    /// at the clock for each.
    pub(crate) fn repeat(
        &mut self,
        op: Op,
        path: &str,
        threads: usize,
        time: Duration,
    ) -> Repeated {
        let order = format!("repeat {} {threads} {} {path}", op.name(), time.as_nanos());
        let numbers = self.call(&order);
        let (count, time) = (numbers[0], Duration::from_nanos(numbers[1]));
        Repeated { count, time, latencies: Latencies::from_numbers(&numbers[2..]) }
    }

    /// Does something about once in a millisecond, for so long.
    pub(crate) fn sample(&mut self, op: Op, path: &str, time: Duration) -> Latencies {
        Latencies::from_numbers(&self.call(&format!(
            "sample {} {} {path}",
            op.name(),
            time.as_nanos()
        )))
    }

    /// Does something once.
    pub(crate) fn once(&mut self, op: Op, path: &str) -> Duration {
        Duration::from_nanos(self.call(&format!("once {} {path}", op.name()))[0])
    }

    /// Does something for ever, starting now.
    pub(crate) fn go_on(&mut self, op: Op, path: &str) {
        self.call(&format!("go-on {} {path}", op.name()));
    }

    /// Finds and asks everything below a directory; returns how much there is.
    pub(crate) fn find(&mut self, path: &str) -> u64 {
        self.call(&format!("find {path}"))[0]
    }

    /// Opens a file so many times, reads, and waits for news of each open file in one epoll.
    pub(crate) fn hold(&mut self, what: Held, path: &str, opens: usize) {
        self.call(&format!("hold {} {opens} {path}", what.name()));
    }

    /// Has it wait until it has heard of all that it holds.
    pub(crate) fn begin_waiting(&mut self, what: Held) {
        self.call(&format!("wait {}", what.name()));
    }

    /// Returns when it had heard of all, by the clock that all processes have.
    pub(crate) fn woken(&mut self) -> Duration {
        Duration::from_nanos(self.numbers()[0])
    }

    /// Has it close what it holds.
    pub(crate) fn let_go(&mut self, what: Held) {
        self.call(&format!("let-go {}", what.name()));
    }

    fn call(&mut self, order: &str) -> Vec<u64> {
        self.0.tell(order);
        self.numbers()
    }

    fn numbers(&mut self) -> Vec<u64> {
        let line = self.0.hear();
        let words = line.strip_prefix("ok").unwrap_or_else(|| panic!("a client: {line}"));
        words.split_whitespace().map(|word| word.parse().expect("a number")).collect()
    }
}

/// What a client has done over and over.
pub(crate) struct Repeated {
    pub(crate) count: u64,
    pub(crate) time: Duration,
    pub(crate) latencies: Latencies,
}

/// What a client does with a path.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    /// pread(2) of 4096 bytes at 0, of a file that is open.
    Read,
    /// The same with open(2) before and close(2) after it.
    OpenReadClose,
    /// stat(2).
    Stat,
    /// statx(2) that has the server asked.
    StatServer,
    /// Reads a directory to its end.
    List,
}

impl Op {
    const ALL: [Self; 5] =
        [Self::Read, Self::OpenReadClose, Self::Stat, Self::StatServer, Self::List];

    const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::OpenReadClose => "open-read-close",
            Self::Stat => "stat",
            Self::StatServer => "stat-server",
            Self::List => "list",
        }
    }
}

/// What a client can wait for at a time.
#[derive(Clone, Copy)]
pub(crate) enum Held {
    /// News of a file of the mount.
    News,
    /// A byte in a named pipe.
    Pipe,
    /// An event of a trigger, set on each open file of a pressure file.
    Triggers,
}

impl Held {
    const fn name(self) -> &'static str {
        match self {
            Self::News => "news",
            Self::Pipe => "pipe",
            Self::Triggers => "triggers",
        }
    }
}

/// Is a client.
pub(crate) fn serve() {
    // It may sleep where no end of orders reaches it.
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    raise_open_files();
    answer("ready");
    let mut held = HashMap::new();
    for order in orders() {
        let words: Vec<_> = order.split(' ').collect();
        match obey(&words, &mut held) {
            Ok(numbers) => {
                let numbers: String = numbers.iter().map(|number| format!(" {number}")).collect();
                answer(&format!("ok{numbers}"));
            }
            Err(error) => answer(&format!("{order}: {error}")),
        }
    }
}

/// Lets this process open as many files as it may.
fn raise_open_files() {
    let Rlimit { maximum, .. } = rustix::process::getrlimit(Resource::Nofile);
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

type Answer = std::io::Result<Vec<u64>>;

fn obey(words: &[&str], held: &mut HashMap<String, Epoll>) -> Answer {
    let op = |name: &str| {
        Op::ALL.into_iter().find(|op| op.name() == name).ok_or(std::io::ErrorKind::InvalidInput)
    };
    let number = |word: &str| word.parse::<u64>().map_err(std::io::Error::other);
    match words {
        ["repeat", what, threads, nanos, path] => {
            let time = Duration::from_nanos(number(nanos)?);
            repeat(op(what)?, path, number(threads)? as usize, time)
        }
        ["sample", what, nanos, path] => {
            let until = Instant::now() + Duration::from_nanos(number(nanos)?);
            sample(op(what)?, path, until)
        }
        ["once", what, path] => {
            let mut task = Task::new(op(what)?, path)?;
            Ok(vec![nanos(task.timed()?)])
        }
        ["go-on", what, path] => {
            let mut task = Task::new(op(what)?, path)?;
            thread::spawn(move || while task.run().is_ok() {});
            Ok(vec![])
        }
        ["find", path] => Ok(vec![find(path.as_ref())?]),
        ["hold", what, opens, path] => {
            let opens = number(opens)? as usize;
            let epoll = match *what {
                "pipe" => Epoll::new(path, epoll::EventFlags::IN, opens, None)?,
                "triggers" => Epoll::new(path, epoll::EventFlags::PRI, opens, Some(TRIGGER))?,
                _ => Epoll::new(path, epoll::EventFlags::PRI, opens, None)?,
            };
            held.insert((*what).into(), epoll);
            Ok(vec![])
        }
        ["wait", what] => {
            let epoll = held.get_mut(*what).ok_or(std::io::ErrorKind::NotFound)?;
            answer("ok");
            let woken = epoll.wait_for_all()?;
            Ok(vec![nanos(woken)])
        }
        ["let-go", what] => {
            held.remove(*what);
            Ok(vec![])
        }
        _ => Err(std::io::ErrorKind::InvalidInput.into()),
    }
}

/// An operation, with what it takes.
struct Task {
    op: Op,
    path: String,
    /// Open already, if that is not part of it.
    file: Option<OwnedFd>,
    buf: Box<[u8; 4096]>,
}

impl Task {
    fn new(op: Op, path: &str) -> std::io::Result<Self> {
        let file = if op == Op::Read { Some(open(path, OFlags::RDONLY)?) } else { None };
        Ok(Self { op, path: path.to_owned(), file, buf: Box::new([0; 4096]) })
    }

    #[inline]
    fn run(&mut self) -> std::io::Result<()> {
        match self.op {
            Op::Read => {
                let file = self.file.as_ref().expect("opened above");
                black_box(pread(file, &mut self.buf[..], 0)?);
            }
            Op::OpenReadClose => {
                let file = open(&self.path, OFlags::RDONLY)?;
                black_box(pread(&file, &mut self.buf[..], 0)?);
            }
            Op::Stat => {
                black_box(rustix::fs::stat(self.path.as_str())?);
            }
            Op::StatServer => {
                let flags = AtFlags::STATX_FORCE_SYNC;
                black_box(rustix::fs::statx(
                    CWD,
                    self.path.as_str(),
                    flags,
                    StatxFlags::BASIC_STATS,
                )?);
            }
            Op::List => {
                black_box(fs::read_dir(&self.path)?.count());
            }
        }
        Ok(())
    }

    fn timed(&mut self) -> std::io::Result<Duration> {
        let start = Instant::now();
        self.run()?;
        Ok(start.elapsed())
    }
}

fn open(path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())
}

/// How many operations are done between two looks at the clock.
const BATCH: u64 = 16;

fn repeat(op: Op, path: &str, threads: usize, time: Duration) -> Answer {
    let mut tasks = Vec::new();
    for _ in 0..threads {
        tasks.push(Task::new(op, path)?);
    }
    let together = Barrier::new(threads);
    let results: Vec<_> = thread::scope(|scope| {
        let run = |task| scope.spawn(|| repeat_alone(task, &together, time));
        let running: Vec<_> = tasks.into_iter().map(run).collect();
        running.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
    });
    let (mut count, mut took, mut latencies) = (0, Duration::ZERO, Vec::new());
    for result in results {
        let (its_count, its_time, its_latencies) = result?;
        count += its_count;
        took = took.max(its_time);
        latencies.extend(its_latencies);
    }
    let mut numbers = vec![count, nanos(took)];
    numbers.extend(Latencies::of(latencies).to_numbers());
    Ok(numbers)
}

type Alone = (u64, Duration, Vec<u64>);

fn repeat_alone(mut task: Task, together: &Barrier, time: Duration) -> std::io::Result<Alone> {
    together.wait();
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < time {
        for _ in 0..BATCH {
            task.run()?;
        }
        count += BATCH;
    }
    let took = start.elapsed();
    let mut latencies = Vec::new();
    let start = Instant::now();
    while start.elapsed() < time / 2 {
        latencies.push(nanos(task.timed()?));
    }
    Ok((count, took, latencies))
}

fn sample(op: Op, path: &str, until: Instant) -> Answer {
    let mut task = Task::new(op, path)?;
    let mut latencies = Vec::new();
    while Instant::now() < until {
        latencies.push(nanos(task.timed()?));
        thread::sleep(Duration::from_millis(1));
    }
    Ok(Latencies::of(latencies).to_numbers().into())
}

fn find(dir: &std::path::Path) -> std::io::Result<u64> {
    let mut count = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        count += 1;
        if entry.metadata()?.is_dir() {
            count += find(&entry.path())?;
        }
    }
    Ok(count)
}

/// A condition that is never met here; the window is one that anybody may set.
const TRIGGER: &[u8] = b"some 2000000 2000000";

/// Open files that are waited for.
struct Epoll {
    epoll: OwnedFd,
    files: Vec<OwnedFd>,
    events: epoll::EventFlags,
}

impl Epoll {
    /// Opens a file so many times, and writes `trigger` to each open file.
    fn new(
        path: &str,
        events: epoll::EventFlags,
        opens: usize,
        trigger: Option<&[u8]>,
    ) -> std::io::Result<Self> {
        let access = if trigger.is_some() { OFlags::RDWR } else { OFlags::RDONLY };
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut files = Vec::new();
        let mut buf = [0; 64];
        for number in 0..opens {
            let file = open(path, access | OFlags::NONBLOCK)?;
            match trigger {
                Some(trigger) => drop(rustix::io::write(&file, trigger)?),
                // So that what is read already is no news; a pipe has nothing yet.
                None => drop(rustix::io::read(&file, &mut buf)),
            }
            // Told once for each.
            let events = events | epoll::EventFlags::ONESHOT;
            epoll::add(&epoll, &file, epoll::EventData::new_u64(number as u64), events)?;
            files.push(file);
        }
        Ok(Self { epoll, files, events })
    }

    /// Waits until all have had an event; returns when that was so.
    ///
    /// If there is one alone, it can be waited for again.
    fn wait_for_all(&mut self) -> std::io::Result<Duration> {
        let mut events = Vec::with_capacity(1024);
        let mut missing = self.files.len();
        let mut woken = now();
        while missing > 0 {
            epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None)?;
            woken = now();
            missing -= events.len();
            events.clear();
        }
        if let [file] = &self.files[..] {
            let mut buf = [0; 64];
            let _ = match self.events {
                epoll::EventFlags::PRI => pread(file, &mut buf, 0),
                _ => rustix::io::read(file, &mut buf),
            };
            let events = self.events | epoll::EventFlags::ONESHOT;
            epoll::modify(&self.epoll, file, epoll::EventData::new_u64(0), events)?;
        }
        Ok(woken)
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
