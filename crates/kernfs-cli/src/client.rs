//! A command under watch: what it did, when, and where it hung; nothing of it is left behind.
//!
//! ```text
//! let client = Client::start(Command::new("monitor").arg(dir), Output::Captured)?;
//! let ended = client.wait_until(client.started() + limit)?;
//! match ended.outcome {
//!     Outcome::Exit(0) => ...,
//!     Outcome::Exit(status) => ...,
//!     Outcome::Signal { .. } => ...,
//!     Outcome::Hang(places) => ...,
//! }
//! ```

// In the order in which to read them.
mod output;

pub(crate) mod whereabouts;

mod members;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use signal_hook::low_level::signal_name;

use self::members::Members;
pub(crate) use self::members::kill_those_of;
use self::output::Collector;
pub(crate) use self::output::{Captured, Hear};
use self::whereabouts::Whereabouts;

/// Where the output of a client goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Into buffers, of which the end is kept.
    Captured,
    /// To where that of this process goes.
    Passed,
}

/// A command that runs, in a process group of its own, with nothing to read on stdin.
///
/// Dropping it kills all of it.
#[derive(Debug)]
pub(crate) struct Client {
    child: Child,
    /// Becomes readable when the first process has ended.
    pidfd: OwnedFd,
    members: Members,
    started: Instant,
    output: Option<[Collector; 2]>,
    /// The first process has been waited for: its number may be somebody else's. Held while it is
    /// killed and waited for.
    is_reaped: Arc<Mutex<bool>>,
}

/// What became of a client.
#[derive(Debug)]
pub(crate) struct Ended {
    /// How it ended.
    pub(crate) outcome: Outcome,
    /// When, as time since its start; of a hang, when it was given up.
    pub(crate) after: Duration,
    /// What it printed; nothing if that was passed on.
    pub(crate) stdout: Captured,
    /// What it complained of; nothing if that was passed on.
    pub(crate) stderr: Captured,
    /// Processes that were killed and have not ended: the kernel holds on to them.
    pub(crate) left: Vec<u32>,
}

/// How a client ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// By itself, with this status.
    Exit(i32),
    /// By a signal that it did not get from here.
    Signal {
        /// The number of the signal.
        number: i32,
        /// Whether the kernel made a core dump.
        dumped: bool,
    },
    /// Not in time, so that it was killed; before, its threads were here.
    Hang(Vec<Whereabouts>),
}

impl Client {
    /// Starts a command; its stdin, stdout, stderr and process group are set here.
    ///
    /// One more variable of its environment, [`members::MARK`], tells its processes from others.
    ///
    /// # Errors
    ///
    /// It cannot be started; the text names the program and says why.
    pub(crate) fn start(command: &mut Command, output: Output) -> Result<Self> {
        Self::start_heard(command, output, [Box::new(|_| {}), Box::new(|_| {})])
    }

    /// Does the same, and lets somebody hear at once what comes on stdout and stderr, if that is
    /// captured.
    ///
    /// # Errors
    ///
    /// As for [`start`](Self::start).
    pub(crate) fn start_heard(
        command: &mut Command,
        output: Output,
        [hear_stdout, hear_stderr]: [Hear; 2],
    ) -> Result<Self> {
        let mark = members::new_mark();
        let pipe = || match output {
            Output::Captured => Stdio::piped(),
            Output::Passed => Stdio::inherit(),
        };
        command.stdin(Stdio::null()).stdout(pipe()).stderr(pipe());
        command.process_group(0).env(members::MARK, &mark);
        let started = Instant::now();
        let mut child = command.spawn().with_context(|| {
            format!("cannot start {}", crate::printable::printable(command.get_program()))
        })?;
        // From here on it is killed if anything fails.
        let group = Pid::from_child(&child);
        let guard = KillOnDrop(group);
        let output = match (child.stdout.take(), child.stderr.take()) {
            (Some(stdout), Some(stderr)) => {
                let stdout = Collector::start(stdout.into(), hear_stdout)?;
                Some([stdout, Collector::start(stderr.into(), hear_stderr)?])
            }
            _ => None,
        };
        let pidfd = pidfd_open(group, PidfdFlags::empty()).context("cannot watch a process")?;
        std::mem::forget(guard);
        let members = Members::new(group, &mark);
        Ok(Self { child, pidfd, members, started, output, is_reaped: Arc::default() })
    }

    /// Returns when it was started.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// Returns the number of its first process, which is that of its process group too.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the first process has ended, but no longer than until then; tells whether it
    /// has.
    ///
    /// # Errors
    ///
    /// Waiting is not possible.
    pub(crate) fn has_ended_by(&self, until: Instant) -> io::Result<bool> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).ok();
            let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
            match poll(&mut fds, timeout.as_ref()) {
                Ok(0) if left.is_zero() => return Ok(false),
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(true),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Returns where its threads are at the moment.
    pub(crate) fn whereabouts(&self) -> Vec<Whereabouts> {
        self.members.whereabouts()
    }

    /// Sends a signal to its process group; does nothing where that has ended.
    pub(crate) fn signal(&self, signal: Signal) {
        if !*lock(&self.is_reaped) {
            let _ = kill_process_group(self.members.group(), signal);
        }
    }

    /// Returns what kills it from elsewhere.
    pub(crate) fn leash(&self) -> Leash {
        Leash { members: self.members.clone(), is_reaped: Arc::clone(&self.is_reaped) }
    }

    /// Waits until its first process ends, or until then; kills what is left of it.
    ///
    /// # Errors
    ///
    /// Waiting is not possible; it is killed then too.
    pub(crate) fn wait_until(mut self, until: Instant) -> Result<Ended> {
        let has_ended = self.has_ended_by(until).context("cannot wait for a process")?;
        let after = self.started.elapsed();
        let places = if has_ended { Vec::new() } else { self.whereabouts() };
        // It may have ended while it was looked at; but not in time.
        let (status, left) = self.end();
        let outcome = match status {
            Some(status) if has_ended => Outcome::of(status),
            _ => Outcome::Hang(places),
        };
        let [stdout, stderr] = match self.output.take() {
            Some(collectors) => collectors.map(Collector::finish),
            None => Default::default(),
        };
        Ok(Ended { outcome, after, stdout, stderr, left })
    }

    /// Kills all that belongs to it and waits for the end of that, but not for ever.
    ///
    /// Returns the status of the first process, and who does not end.
    fn end(&mut self) -> (Option<ExitStatus>, Vec<u32>) {
        let is_reaped = Arc::clone(&self.is_reaped);
        let mut is_reaped = lock(&is_reaped);
        let until = Instant::now() + END_LIMIT;
        // Who has ended is not waited for before all are killed: as long as the first process is a
        // zombie, the number of the group is nobody else's.
        loop {
            let left = self.members.kill();
            // Of its threads, the first may have ended before the others.
            let status = if left.is_empty() { self.child.try_wait().ok().flatten() } else { None };
            if status.is_some() || Instant::now() >= until {
                *is_reaped = true;
                return (status, left);
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if !*lock(&self.is_reaped) {
            // There is nobody to be told who does not end.
            let _ = self.end();
        }
    }
}

/// Kills a client from elsewhere.
#[derive(Debug)]
pub(crate) struct Leash {
    members: Members,
    is_reaped: Arc<Mutex<bool>>,
}

impl Leash {
    /// Kills all of it, and waits for the end of that, but not for ever.
    pub(crate) fn kill(mut self) {
        let is_reaped = lock(&self.is_reaped);
        let until = Instant::now() + END_LIMIT;
        while !*is_reaped && !self.members.kill().is_empty() && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

fn lock(is_reaped: &Mutex<bool>) -> MutexGuard<'_, bool> {
    is_reaped.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long killed processes may take to end: they have nothing to do but to close their files.
const END_LIMIT: Duration = Duration::from_secs(2);

/// Kills a process group that nobody looks after yet.
struct KillOnDrop(Pid);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = kill_process_group(self.0, Signal::KILL);
        let _ = rustix::process::waitpid(Some(self.0), rustix::process::WaitOptions::empty());
    }
}

impl Outcome {
    fn of(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Exit(code),
            (None, Some(number)) => Self::Signal { number, dumped: status.core_dumped() },
            // Only who is stopped has neither, and who is stopped has not ended.
            (None, None) => Self::Hang(Vec::new()),
        }
    }

    /// Tells whether it ended by itself and was content.
    pub(crate) fn is_success(&self) -> bool {
        *self == Self::Exit(0)
    }
}

impl std::fmt::Display for Outcome {
    /// Says it in a few words; where it hung is left out.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exit(status) => write!(f, "exited with {status}"),
            Self::Signal { number, dumped } => {
                let name = signal_name(*number).unwrap_or("an unnamed signal");
                let core = if *dumped { ", with a core dump" } else { "" };
                write!(f, "was killed by {name} ({number}){core}")
            }
            Self::Hang(_) => f.write_str("hung"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longer than anything here takes.
    const LONG: Duration = Duration::from_secs(30);

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.arg("-c").arg(script);
        command
    }

    fn run(script: &str) -> Ended {
        let client = Client::start(&mut sh(script), Output::Captured).unwrap();
        let until = client.started() + LONG;
        client.wait_until(until).unwrap()
    }

    /// Waits until a client has said something.
    fn await_output(client: &Client, wanted: &[u8]) {
        let until = Instant::now() + LONG;
        while !client.output.as_ref().unwrap()[0].so_far().ends_with(wanted) {
            assert!(Instant::now() < until, "nothing was said");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn exists(pid: &str) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Zombies are nobody's concern but their parent's.
        !status.is_empty() && !status.contains(") Z ")
    }

    #[test]
    fn who_exits_is_told_with_status_time_and_output() {
        let ended = run("echo out; echo err >&2; exit 7");
        assert_eq!(ended.outcome, Outcome::Exit(7));
        assert_eq!(ended.outcome.to_string(), "exited with 7");
        assert!(!ended.outcome.is_success());
        assert!(ended.after > Duration::ZERO && ended.after < LONG);
        assert_eq!((ended.stdout.text(), ended.stderr.text()), ("out\n".into(), "err\n".into()));
        assert!(ended.left.is_empty());
        assert!(run("true").outcome.is_success());
    }

    #[test]
    fn who_is_killed_is_told_with_the_signal() {
        let outcome = run("ulimit -c 0; kill -SEGV $$").outcome;
        assert_eq!(outcome, Outcome::Signal { number: 11, dumped: false });
        assert_eq!(outcome.to_string(), "was killed by SIGSEGV (11)");
    }

    #[test]
    fn stdin_is_empty() {
        assert_eq!(run("cat; echo done").stdout.text(), "done\n");
    }

    #[test]
    fn who_hangs_is_told_with_its_place_and_killed() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        // A writer is there, so that the open returns and the read waits.
        let script = format!("mkfifo {0}; echo $$; exec cat {0} 3<>{0}", fifo.display());
        let client = Client::start(&mut sh(&script), Output::Captured).unwrap();
        let pid = client.pid();
        let until = Instant::now() + LONG;
        let reads = |it: &Whereabouts| it.call.as_ref().is_some_and(|call| call.name == "read");
        while !client.whereabouts().iter().any(|it| it.comm == "cat" && reads(it)) {
            assert!(Instant::now() < until, "{:?}", client.whereabouts());
            thread::sleep(Duration::from_millis(1));
        }
        let ended = client.wait_until(Instant::now()).unwrap();
        let Outcome::Hang(places) = &ended.outcome else { panic!("{ended:?}") };
        assert_eq!(places.len(), 1, "{places:?}");
        let place = &places[0];
        assert_eq!((place.pid, place.tid, place.state), (pid, pid, 'S'));
        assert_eq!(place.call.as_ref().unwrap().on, [fifo.display().to_string()]);
        let said = place.to_string();
        assert!(said.contains(&format!("sleeps in read of {}", fifo.display())), "{said}");
        assert_eq!(ended.stdout.text(), format!("{pid}\n"));
        assert!(!exists(&pid.to_string()));
        assert!(ended.left.is_empty());
    }

    #[test]
    fn threads_are_told_one_by_one() {
        let this = std::process::id();
        let (say, hear) = std::sync::mpsc::channel();
        let (_awake, wake_up) = std::sync::mpsc::channel::<()>();
        thread::spawn(move || {
            say.send(rustix::thread::gettid()).unwrap();
            let _ = wake_up.recv();
        });
        let sleeper = hear.recv().unwrap().as_raw_nonzero().get() as u32;
        let members = Members::new(rustix::process::getpgrp(), "none");
        let until = Instant::now() + LONG;
        let sleeps = |it: &Whereabouts| (it.pid, it.tid, it.state) == (this, sleeper, 'S');
        while !members.whereabouts().iter().any(sleeps) {
            assert!(Instant::now() < until, "{:?}", members.whereabouts());
        }
    }

    #[test]
    fn who_stays_in_the_background_is_killed_with_the_first() {
        let ended = run("sleep 1000 & echo $!");
        assert_eq!(ended.outcome, Outcome::Exit(0));
        let pid = ended.stdout.text();
        assert!(pid.trim().parse::<u32>().is_ok(), "{pid:?}");
        assert!(!exists(pid.trim()));
    }

    #[test]
    fn who_leaves_the_group_is_found_and_killed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let ended = run(&format!(
            "setsid sh -c 'echo $$ > {0}; exec sleep 1000' & until test -s {0}; do :; done; cat {0}",
            file.display()
        ));
        assert_eq!(ended.outcome, Outcome::Exit(0));
        let pid = ended.stdout.text();
        assert!(pid.trim().parse::<u32>().is_ok(), "{pid:?}");
        assert!(!exists(pid.trim()));
    }

    #[test]
    fn who_is_dropped_is_killed() {
        let client = Client::start(&mut sh("echo ready; sleep 1000"), Output::Captured).unwrap();
        await_output(&client, b"ready\n");
        let pid = client.pid().to_string();
        assert!(exists(&pid));
        drop(client);
        assert!(!exists(&pid));
    }

    #[test]
    fn who_is_on_a_leash_can_be_killed_from_elsewhere() {
        let client = Client::start(&mut sh("sleep 1000; true"), Output::Captured).unwrap();
        let leash = client.leash();
        let killer = thread::spawn(move || leash.kill());
        let until = client.started() + LONG;
        let ended = client.wait_until(until).unwrap();
        assert_eq!(ended.outcome, Outcome::Signal { number: 9, dumped: false });
        killer.join().unwrap();
        let client = Client::start(&mut Command::new("true"), Output::Captured).unwrap();
        let leash = client.leash();
        let until = client.started() + LONG;
        assert!(client.wait_until(until).unwrap().outcome.is_success());
        leash.kill();
    }

    #[test]
    fn a_signal_reaches_all_of_the_group() {
        let client = Client::start(&mut sh("sleep 1000; true"), Output::Captured).unwrap();
        client.signal(Signal::TERM);
        let until = client.started() + LONG;
        let ended = client.wait_until(until).unwrap();
        assert_eq!(ended.outcome, Outcome::Signal { number: 15, dumped: false });
    }

    #[test]
    fn what_is_said_is_heard_at_once() {
        let (say, hear) = std::sync::mpsc::channel();
        let to = |say: std::sync::mpsc::Sender<Vec<u8>>| -> Hear {
            Box::new(move |bytes| say.send(bytes.to_vec()).unwrap())
        };
        let mut command = sh("echo out; sleep 1000");
        let heard = [to(say), Box::new(|_: &[u8]| {}) as Hear];
        let client = Client::start_heard(&mut command, Output::Captured, heard).unwrap();
        assert_eq!(hear.recv_timeout(LONG).unwrap(), b"out\n");
        drop(client);
    }

    #[test]
    fn who_says_much_is_neither_blocked_nor_kept_whole() {
        let ended = run("yes | head -c 10000000; echo end");
        assert_eq!(ended.outcome, Outcome::Exit(0));
        assert_eq!(ended.stdout.total, 10_000_004);
        assert!(ended.stdout.bytes.len() <= output::KEPT);
        assert!(ended.stdout.text().ends_with("y\ny\nend\n"));
    }

    #[test]
    fn who_cannot_be_started_is_named() {
        let error = Client::start(&mut Command::new("/no/such\nprogram"), Output::Captured);
        let error = format!("{:#}", error.unwrap_err());
        assert!(error.starts_with("cannot start /no/such\\nprogram: No such file"), "{error}");
    }

    #[test]
    fn the_end_is_not_waited_for_where_it_is_only_asked() {
        let client = Client::start(&mut sh("exec sleep 1000"), Output::Captured).unwrap();
        assert!(!client.has_ended_by(Instant::now()).unwrap());
        let client = Client::start(&mut Command::new("true"), Output::Captured).unwrap();
        assert!(client.has_ended_by(Instant::now() + LONG).unwrap());
    }
}
