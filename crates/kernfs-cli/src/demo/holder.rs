//! A holder as the owner sees it: a line to talk on, and a thread or a process at its other end.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command as Program, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use clap::ValueEnum;

use crate::belongings::Belongings;
use crate::demo::answer::{Answer, Part};
use crate::demo::asleep::{Asleep, Sleep, wait_until_asleep};
use crate::demo::ground::Ground;
use crate::demo::in_process;
use crate::demo::line::{Command, Line, Message};
use crate::demo::moment::Moment;
use crate::demo::role::{Place, Role};
use crate::printable::printable;

/// A holder, as the owner sees it.
pub(crate) struct Holder {
    /// What it does.
    pub(crate) role: Role,
    /// The path that it holds, below the severed directory.
    pub(crate) holds: PathBuf,
    /// The process that it is, if it has one of its own.
    pub(crate) pid: Option<u32>,
    say: Say,
    hear: Receiver<Message>,
    /// How it was seen to sleep, if it does.
    asleep: Option<Asleep>,
    /// When the process was seen to have ended.
    ended: Arc<OnceLock<Moment>>,
    /// The thread that plays the part, or that listens to the process.
    thread: JoinHandle<()>,
}

/// The owner's end of the line.
enum Say {
    Thread(Sender<Command>),
    Process(ChildStdin),
}

impl Holder {
    /// Starts a holder; a process becomes one of the belongings.
    ///
    /// # Errors
    ///
    /// There is no thread or process for it.
    pub(crate) fn start(
        role: Role,
        place: Place,
        ground: &Ground,
        belongings: &Belongings,
    ) -> Result<Self> {
        match place {
            Place::Thread => Self::start_thread(role, ground),
            Place::Process => {
                let mount = ground.mount.as_ref().context("nothing is mounted")?;
                let holds = role.holds(&ground.text);
                Self::start_process(role, mount, holds, ground.half, belongings)
            }
        }
        .with_context(|| format!("cannot start '{}'", role.name()))
    }

    fn start_thread(role: Role, ground: &Ground) -> Result<Self> {
        let holds = role.holds(&ground.text);
        let (say, hear_owner) = mpsc::channel();
        let (say_owner, hear) = mpsc::channel();
        let (ground, path) = (ground.clone(), ground.device.join(&holds));
        let thread = thread::Builder::new().name(role.name().into()).spawn(move || {
            let line = Line {
                // The owner may have gone: nobody wants to know.
                say: Box::new(move |message| drop(say_owner.send(message))),
                hear: hear_owner,
                thread: std::fs::read_link("/proc/thread-self").unwrap_or_default(),
            };
            line.perform(|line| in_process::play(role, line, &ground, &path));
        })?;
        let (asleep, ended) = (None, Arc::default());
        Ok(Self { role, holds, pid: None, say: Say::Thread(say), hear, asleep, ended, thread })
    }

    /// Starts a holder that is a process, on a path below a directory.
    ///
    /// # Errors
    ///
    /// There is no process or thread for it.
    pub(crate) fn start_process(
        role: Role,
        dir: &Path,
        holds: PathBuf,
        half: usize,
        belongings: &Belongings,
    ) -> Result<Self> {
        let kind = role.to_possible_value().context("a role without a name")?;
        let mut program = Program::new("/proc/self/exe");
        program.arg("holder").arg(kind.get_name()).arg(dir.join(&holds));
        program.arg("--half").arg(half.to_string());
        program.stdin(Stdio::piped()).stdout(Stdio::piped());
        let (pid, stdin, stdout) = belongings.start(&mut program)?;
        let (say_owner, hear) = mpsc::channel();
        let ended = Arc::new(OnceLock::new());
        let has_ended = Arc::clone(&ended);
        let thread = thread::Builder::new().name(role.name().into()).spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let message = Message::from_wire(&line, pid);
                let message = message.unwrap_or_else(|error| Message::Failed(error.to_string()));
                // The owner may have given up: nobody wants to know.
                let _ = say_owner.send(message);
            }
            let _ = has_ended.set(Moment::now());
        })?;
        let (say, pid) = (Say::Process(stdin), Some(pid));
        Ok(Self { role, holds, pid, say, hear, asleep: None, ended, thread })
    }

    /// Waits until it holds.
    ///
    /// # Errors
    ///
    /// It could not take hold, or not in time.
    pub(crate) fn wait_until_it_holds(&mut self, limit: Duration) -> Result<()> {
        let until = Instant::now() + limit;
        // A read that blocks is a request that is not answered, which the mount counts.
        let how = if self.role == Role::BlockedReader { Sleep::Anyhow } else { Sleep::Itself };
        let holds = match self.hear_until(until) {
            Some(Message::Holding) => Ok(()),
            Some(Message::Asleep(thread)) => {
                wait_until_asleep(&thread, how, until).map(|asleep| self.asleep = Some(asleep))
            }
            Some(Message::Failed(why)) => Err(anyhow!(why)),
            Some(Message::Got(answer, _) | Message::Again(answer)) => {
                Err(anyhow!("was let go too early, with {answer}"))
            }
            None => Err(anyhow!("did not take hold in {} s", limit.as_secs_f32())),
        };
        holds.with_context(|| format!("{} of '{}'", self.role.name(), printable(&self.holds)))
    }

    /// Tells it to look what is left, which sleepers know by themselves.
    pub(crate) fn look(&mut self) {
        self.tell(Command::Look);
    }

    /// Waits for what it got, and when.
    pub(crate) fn got(&self, until: Instant, belongings: &Belongings) -> Option<(Answer, Moment)> {
        match self.hear_until(until) {
            Some(Message::Got(answer, at)) => Some((answer, at)),
            Some(_) => None,
            None => self.killed_by(until, belongings).zip(self.ended.get().copied()),
        }
    }

    /// Tells whether it has slept on ever since it held.
    pub(crate) fn sleeps_on(&self) -> bool {
        self.asleep.as_ref().is_some_and(Asleep::sleeps_on)
    }

    /// Asks it to try once more; it may have been let go or not.
    pub(crate) fn ask(&mut self, again: Command) {
        self.tell(again);
    }

    /// Waits for what it got when it tried again.
    pub(crate) fn got_again(&self, until: Instant, belongings: &Belongings) -> Option<Answer> {
        match self.hear_until(until) {
            Some(Message::Again(answer)) => Some(answer),
            Some(_) => None,
            None => self.killed_by(until, belongings),
        }
    }

    /// Lets it close what it holds, and waits until it has.
    ///
    /// One that was never let go is left behind; a process still belongs to the demo.
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

    /// Returns the signal that has ended the process, if one has.
    fn killed_by(&self, until: Instant, belongings: &Belongings) -> Option<Answer> {
        self.ended.get()?;
        belongings.killed_by(self.pid?, until).map(|signal| Part::Signal(signal).into())
    }

    fn tell(&mut self, command: Command) {
        // One that has failed does not listen, and is found out by its silence.
        match &mut self.say {
            Say::Thread(say) => drop(say.send(command)),
            Say::Process(say) => drop(writeln!(say, "{}", command.to_wire())),
        }
    }

    fn hear_until(&self, until: Instant) -> Option<Message> {
        self.hear.recv_timeout(until.saturating_duration_since(Instant::now())).ok()
    }
}
