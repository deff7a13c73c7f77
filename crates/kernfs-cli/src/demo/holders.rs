//! Those who hold on to the tree, each on its own thread.
//!
//! The owner knows a holder as a line to talk on: what is at the other end may as well be a
//! process. A holder says that it [holds](Message::Holding), then what it [got](Message::Got) when
//! the tree was severed, and after that answers whenever it is asked to try
//! [again](Command::Again). It closes nothing before it is told to.

use std::fmt;
use std::fs;
use std::future::{Future, poll_fn};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::task::{Context, Poll, Wake};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use kernfs::{Client, Errno, Events, OpenFile, OpenFlags};

use crate::demo::device::{COPY, EVENTS, FIRST_EVENT, MEMORY, MEMORY_BYTES, SLOW, SLOW_ANSWER};
use crate::printable::printable;

/// A holder, as the owner sees it.
pub(crate) struct Holder {
    /// What it does.
    pub(crate) role: Role,
    /// The path that it holds, below the severed directory.
    pub(crate) holds: PathBuf,
    say: Sender<Command>,
    hear: Receiver<Message>,
    thread: JoinHandle<()>,
}

/// What a holder does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Has read one half of a text.
    HalfWayReader,
    /// Sleeps in a read of the event file.
    BlockedReader,
    /// Sleeps in a poll of the event file.
    Sleeper,
    /// Awaits the event file in a task of tokio.
    TokioTask,
    /// Awaits the event file on an executor made by hand.
    HandMadeTask,
    /// Has mapped memory.
    Mapper,
    /// Has listed one half of a directory.
    Lister,
    /// Is inside of the driver.
    InsideReader,
}

/// What a role knows about the tree.
#[derive(Clone)]
pub(crate) struct Ground {
    /// The view of the tree.
    pub(crate) client: Client,
    /// The path of the severed directory.
    pub(crate) device: PathBuf,
    /// The path in the copy of the text to be read by halves.
    pub(crate) text: PathBuf,
    /// How many bytes are the first half.
    pub(crate) half: usize,
}

/// What a holder says.
enum Message {
    /// It holds, or is about to fall asleep.
    Holding(Hold),
    /// It was let go, or told to look: what it got, and when.
    Got(Answer, Instant),
    /// What it got when it tried again.
    Again(Answer),
    /// It could not do its part.
    Failed(String),
}

/// How to know that a holder has taken hold.
enum Hold {
    /// It says so itself.
    Taken,
    /// It will sleep in the thread of this path below /proc.
    Asleep(PathBuf),
}

enum Command {
    /// The severing has begun: look what is left.
    Look,
    /// Try once more.
    Again,
}

impl Role {
    /// All of them, in the order of the table.
    pub(crate) const ALL: [Self; 8] = [
        Self::HalfWayReader,
        Self::BlockedReader,
        Self::Sleeper,
        Self::TokioTask,
        Self::HandMadeTask,
        Self::Mapper,
        Self::Lister,
        Self::InsideReader,
    ];

    /// Returns what the table calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::HalfWayReader => "half-way reader",
            Self::BlockedReader => "blocked reader",
            Self::Sleeper => "sleeper in poll",
            Self::TokioTask => "task of tokio",
            Self::HandMadeTask => "task by hand",
            Self::Mapper => "mapping",
            Self::Lister => "half-way lister",
            Self::InsideReader => "inside the read",
        }
    }

    /// Tells whether it sleeps until something happens to the file.
    pub(crate) fn sleeps(self) -> bool {
        use Role::{BlockedReader, HandMadeTask, Sleeper, TokioTask};
        matches!(self, BlockedReader | Sleeper | TokioTask | HandMadeTask)
    }

    /// Returns what it is to get, if `rest` bytes of the half-read text are left.
    pub(crate) fn expected(self, rest: usize) -> Answer {
        match self {
            Self::HalfWayReader => Answer::bytes_then(rest, Errno::ENODEV),
            Self::BlockedReader | Self::Mapper => Errno::ENODEV.into(),
            Self::Sleeper | Self::TokioTask | Self::HandMadeTask => Events::CHANGED.into(),
            Self::Lister => Answer::end_of_dir(),
            Self::InsideReader => Answer::bytes_then(SLOW_ANSWER.len(), Errno::ENODEV),
        }
    }

    /// Returns what it is to get whenever it tries again.
    pub(crate) fn expected_again(self) -> Answer {
        if self == Self::Lister { Answer::end_of_dir() } else { Errno::ENODEV.into() }
    }

    fn holds(self, ground: &Ground) -> PathBuf {
        match self {
            Self::HalfWayReader => Path::new(COPY).join(&ground.text),
            Self::BlockedReader | Self::Sleeper | Self::TokioTask | Self::HandMadeTask => {
                EVENTS.into()
            }
            Self::Mapper => MEMORY.into(),
            Self::Lister => COPY.into(),
            Self::InsideReader => SLOW.into(),
        }
    }

    fn play(self, stage: &Stage) -> Result<Again> {
        match self {
            Self::HalfWayReader => read_one_half(stage),
            Self::BlockedReader => block_in_read(stage),
            Self::Sleeper => sleep_in_poll(stage),
            Self::TokioTask => await_on_tokio(stage),
            Self::HandMadeTask => await_by_hand(stage),
            Self::Mapper => map_memory(stage),
            Self::Lister => list_one_half(stage),
            Self::InsideReader => go_inside(stage),
        }
    }
}

impl Holder {
    /// Starts a holder.
    ///
    /// # Errors
    ///
    /// There is no thread for it.
    pub(crate) fn start(role: Role, ground: &Ground) -> Result<Self> {
        let holds = role.holds(ground);
        let (say, hear_owner) = mpsc::channel();
        let (say_owner, hear) = mpsc::channel();
        let stage = Stage {
            ground: ground.clone(),
            holds: holds.clone(),
            say: say_owner,
            hear: hear_owner,
        };
        let thread = thread::Builder::new().name(role.name().into());
        let thread = thread.spawn(move || stage.perform(role)).context("cannot start a thread")?;
        Ok(Self { role, holds, say, hear, thread })
    }

    /// Waits until it holds.
    ///
    /// # Errors
    ///
    /// It could not take hold, or not in time.
    pub(crate) fn wait_until_it_holds(&self, limit: Duration) -> Result<()> {
        let until = Instant::now() + limit;
        let holds = match self.hear_until(until) {
            Some(Message::Holding(Hold::Taken)) => Ok(()),
            Some(Message::Holding(Hold::Asleep(thread))) => wait_until_asleep(&thread, until),
            Some(Message::Failed(why)) => Err(anyhow!(why)),
            Some(Message::Got(answer, _) | Message::Again(answer)) => {
                Err(anyhow!("was let go too early, with {answer}"))
            }
            None => Err(anyhow!("did not take hold in {} s", limit.as_secs_f32())),
        };
        holds.with_context(|| format!("{} of '{}'", self.role.name(), printable(&self.holds)))
    }

    /// Tells it that the severing has begun, which sleepers know by themselves.
    pub(crate) fn look(&self) {
        self.tell(Command::Look);
    }

    /// Waits for what it got, and when.
    pub(crate) fn got(&self, until: Instant) -> Option<(Answer, Instant)> {
        match self.hear_until(until)? {
            Message::Got(answer, at) => Some((answer, at)),
            _ => None,
        }
    }

    /// Asks it to try once more; it may have been let go or not.
    pub(crate) fn ask_again(&self) {
        self.tell(Command::Again);
    }

    /// Waits for what it got when it tried again.
    pub(crate) fn got_again(&self, until: Instant) -> Option<Answer> {
        match self.hear_until(until)? {
            Message::Again(answer) => Some(answer),
            _ => None,
        }
    }

    /// Lets it close what it holds, and waits until it has.
    ///
    /// One that was never let go is left behind.
    pub(crate) fn close(self, until: Instant) {
        let Self { say, hear, thread, .. } = self;
        drop(say);
        // A holder says no more when it has closed, and hangs up.
        while hear.recv_timeout(until.saturating_duration_since(Instant::now())).is_ok() {}
        if thread.is_finished() || Instant::now() < until {
            // A panic has been printed, and was found missing in what it got.
            let _ = thread.join();
        }
    }

    fn tell(&self, command: Command) {
        // One that has failed does not listen, and is found out by its silence.
        let _ = self.say.send(command);
    }

    fn hear_until(&self, until: Instant) -> Option<Message> {
        self.hear.recv_timeout(until.saturating_duration_since(Instant::now())).ok()
    }
}

/// Waits until a thread sleeps, by what /proc tells of it.
///
/// Twice in a row and without having run in between: it might have slept for a moment on its way.
fn wait_until_asleep(thread: &Path, until: Instant) -> Result<()> {
    let status = Path::new("/proc").join(thread).join("status");
    let mut before = None;
    while Instant::now() < until {
        let status = fs::read_to_string(&status).context("cannot see whether it sleeps")?;
        let asleep = status.lines().any(|line| line.starts_with("State:\tS"));
        let switches = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches:"));
        let switches = switches.filter(|_| asleep).map(str::to_owned);
        if switches.is_some() && switches == before {
            return Ok(());
        }
        before = switches;
        thread::sleep(Duration::from_micros(500));
    }
    bail!("did not fall asleep in time")
}

/// What a holder has to do its part.
struct Stage {
    ground: Ground,
    holds: PathBuf,
    say: Sender<Message>,
    hear: Receiver<Command>,
}

/// Tries once more what was severed; its end closes what is held.
type Again = Box<dyn FnMut() -> Answer>;

impl Stage {
    fn perform(&self, role: Role) {
        match role.play(self) {
            Ok(mut again) => self.answer(&mut again),
            Err(error) => self.say(Message::Failed(format!("{error:#}"))),
        }
    }

    fn answer(&self, again: &mut Again) {
        while let Ok(command) = self.hear.recv() {
            match command {
                Command::Look => {}
                Command::Again => self.say(Message::Again(again())),
            }
        }
    }

    fn open(&self, flags: OpenFlags) -> Result<OpenFile, Errno> {
        self.ground.client.open(self.path(), flags)
    }

    fn path(&self) -> Vec<u8> {
        self.ground.device.join(&self.holds).into_os_string().into_encoded_bytes()
    }

    fn holding(&self) {
        self.say(Message::Holding(Hold::Taken));
    }

    /// To be said right before going to sleep on this thread.
    fn falling_asleep(&self) -> Result<()> {
        let thread = fs::read_link("/proc/thread-self").context("cannot find itself in /proc")?;
        self.say(Message::Holding(Hold::Asleep(thread)));
        Ok(())
    }

    fn got(&self, answer: impl Into<Answer>) {
        let now = Instant::now();
        self.say(Message::Got(answer.into(), now));
    }

    fn wait_for_severing(&self) -> Result<()> {
        self.hear.recv().map(drop).context("the owner has gone")
    }

    fn say(&self, message: Message) {
        // The owner has gone: nobody wants to know.
        let _ = self.say.send(message);
    }
}

/// The largest text that is read.
const BUFFER: usize = 64 << 10;

fn read_one_half(stage: &Stage) -> Result<Again> {
    let file = stage.open(OpenFlags::READ)?;
    let mut buf = vec![0; BUFFER];
    let half = file.read(&mut buf[..stage.ground.half])?;
    ensure!(half > 0, "the text has become empty");
    stage.holding();
    stage.wait_for_severing()?;
    stage.got(read_to_the_error(&file));
    Ok(Box::new(move || read_to_the_error(&file)))
}

fn block_in_read(stage: &Stage) -> Result<Again> {
    let file = open_events(stage)?;
    let mut buf = [0; 64];
    stage.falling_asleep()?;
    let got = file.read(&mut buf);
    stage.got(got);
    Ok(Box::new(move || read_to_the_error(&file)))
}

fn sleep_in_poll(stage: &Stage) -> Result<Again> {
    let file = open_events(stage)?;
    stage.falling_asleep()?;
    let events = file.wait(Events::PRI);
    stage.got(events);
    Ok(Box::new(move || read_to_the_error(&file)))
}

fn await_on_tokio(stage: &Stage) -> Result<Again> {
    let file = open_events(stage)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let events = runtime.block_on(announce(stage, file.wait_async(Events::PRI)));
    stage.got(events);
    Ok(Box::new(move || read_to_the_error(&file)))
}

fn await_by_hand(stage: &Stage) -> Result<Again> {
    let file = open_events(stage)?;
    let events = run_by_hand(announce(stage, file.wait_async(Events::PRI)));
    stage.got(events);
    Ok(Box::new(move || read_to_the_error(&file)))
}

fn map_memory(stage: &Stage) -> Result<Again> {
    let file = stage.open(OpenFlags::READ_WRITE)?;
    let mapping = file.map(0, MEMORY_BYTES as u64, true)?;
    let mut buf = [0; 4];
    mapping.write_at(b"mine", 100)?;
    mapping.read_at(&mut buf, 100)?;
    ensure!(&buf == b"mine", "the mapping lost what was written");
    stage.holding();
    stage.wait_for_severing()?;
    let touch = move || {
        let mut buf = [0; 4];
        let read = mapping.read_at(&mut buf, 100);
        let written = mapping.write_at(b"gone", 100);
        // Both must be refused, and alike.
        let answer = if read == written { read } else { read.and(Err(Errno::EIO)) };
        answer.map(|()| buf.len()).into()
    };
    stage.got(touch());
    Ok(Box::new(touch))
}

fn list_one_half(stage: &Stage) -> Result<Again> {
    let dir = stage.ground.client.open_dir(stage.path())?;
    let all = dir.entries(0, usize::MAX)?;
    let half = dir.entries(0, all.len().div_ceil(2))?;
    let last = half.last().context("the directory lists not even itself")?;
    let (cursor, client) = (last.next, stage.ground.client.clone());
    let child = all.last().map(|entry| entry.name.clone()).unwrap_or_default();
    stage.holding();
    stage.wait_for_severing()?;
    let go_on = move || {
        let rest = match dir.entries(cursor, usize::MAX) {
            Ok(entries) => Part::Entries(entries.len()),
            Err(errno) => Part::Error(errno),
        };
        let child = dir.inode().lookup(client.caller(), &child);
        Answer([Some(rest), child.err().map(Part::Error)].into_iter().flatten().collect())
    };
    stage.got(go_on());
    Ok(Box::new(go_on))
}

fn go_inside(stage: &Stage) -> Result<Again> {
    let file = stage.open(OpenFlags::READ)?;
    // The owner knows from the driver when it is inside.
    stage.holding();
    let answer = read_to_the_error(&file);
    stage.got(answer);
    Ok(Box::new(move || read_to_the_error(&file)))
}

/// Opens the event file and takes the first event, so that there is nothing but to wait.
fn open_events(stage: &Stage) -> Result<OpenFile> {
    let file = stage.open(OpenFlags::READ)?;
    let mut buf = [0; 64];
    let len = file.read(&mut buf)?;
    ensure!(&buf[..len] == FIRST_EVENT, "the first event is not the one that was sent");
    Ok(file)
}

/// Reads on until nothing more is left, or an error.
fn read_to_the_error(file: &OpenFile) -> Answer {
    let mut buf = vec![0; BUFFER];
    let mut bytes = 0;
    loop {
        match file.read(&mut buf) {
            Ok(0) => return Answer::from(Ok(bytes)),
            Ok(len) => bytes += len,
            Err(errno) => return Answer::bytes_then(bytes, errno),
        }
    }
}

/// Runs a future, and says that it holds once it waits: then it has registered its waker.
async fn announce<F: Future>(stage: &Stage, future: F) -> F::Output {
    let mut future = pin!(future);
    let mut announced = false;
    poll_fn(|cx| {
        let polled = future.as_mut().poll(cx);
        if polled.is_pending() && !std::mem::replace(&mut announced, true) {
            stage.holding();
        }
        polled
    })
    .await
}

/// An executor for one future, on this thread: each wake-up is a message.
fn run_by_hand<F: Future>(future: F) -> F::Output {
    struct Mail(Sender<()>);

    impl Wake for Mail {
        fn wake(self: Arc<Self>) {
            // The future is done and needs no waking.
            let _ = self.0.send(());
        }
    }

    let (mail, mailbox) = mpsc::channel();
    let waker = Arc::new(Mail(mail)).into();
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
        // The waker above keeps the other end open.
        let _ = mailbox.recv();
    }
}

/// What a holder gets: one thing, or several in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer(Vec<Part>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Bytes(usize),
    Events(Events),
    Entries(usize),
    Error(Errno),
}

impl Answer {
    /// Returns the answer of so many bytes, if any, and an error after them.
    pub(crate) fn bytes_then(bytes: usize, errno: Errno) -> Self {
        let bytes = (bytes > 0).then_some(Part::Bytes(bytes));
        Self(bytes.into_iter().chain([Part::Error(errno)]).collect())
    }

    /// Returns what a directory answers that its owner removed: no more entries, no children.
    fn end_of_dir() -> Self {
        Self(vec![Part::Entries(0), Part::Error(Errno::ENOENT)])
    }
}

impl From<Events> for Answer {
    fn from(events: Events) -> Self {
        Self(vec![Part::Events(events)])
    }
}

impl From<Errno> for Answer {
    fn from(errno: Errno) -> Self {
        Self(vec![Part::Error(errno)])
    }
}

impl From<Result<usize, Errno>> for Answer {
    fn from(result: Result<usize, Errno>) -> Self {
        Self(vec![result.map_or_else(Part::Error, Part::Bytes)])
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, part) in self.0.iter().enumerate() {
            f.write_str(if n > 0 { ", " } else { "" })?;
            part.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(len) => write!(f, "{len} B"),
            Self::Events(events) => {
                let names: Vec<_> = events.iter_names().map(|(name, _)| name).collect();
                f.write_str(&names.join("|"))
            }
            Self::Entries(0) => f.write_str("end"),
            Self::Entries(count) => write!(f, "{count} entries"),
            Self::Error(errno) => write!(f, "{errno:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_in_few_words() {
        assert_eq!(Answer::bytes_then(9, Errno::ENODEV).to_string(), "9 B, ENODEV");
        assert_eq!(Answer::bytes_then(0, Errno::ENODEV).to_string(), "ENODEV");
        assert_eq!(Answer::from(Events::CHANGED).to_string(), "PRI|ERR");
        assert_eq!(Answer::end_of_dir().to_string(), "end, ENOENT");
        assert_eq!(Answer(vec![Part::Entries(3)]).to_string(), "3 entries");
    }

    #[test]
    fn the_executor_made_by_hand_waits_for_the_waker() {
        let mut polls = 0;
        let output = run_by_hand(poll_fn(|cx| {
            polls += 1;
            if polls == 3 {
                return Poll::Ready(polls);
            }
            let waker = cx.waker().clone();
            thread::spawn(move || waker.wake());
            Poll::Pending
        }));
        assert_eq!(output, 3);
    }

    #[test]
    fn a_thread_that_sleeps_is_known_to_sleep() {
        let (say, hear) = mpsc::channel();
        let (_awake, wake_up) = mpsc::channel::<()>();
        thread::spawn(move || {
            say.send(fs::read_link("/proc/thread-self").unwrap()).unwrap();
            let _ = wake_up.recv();
        });
        let thread = hear.recv().unwrap();
        wait_until_asleep(&thread, Instant::now() + Duration::from_secs(10)).unwrap();
    }
}
