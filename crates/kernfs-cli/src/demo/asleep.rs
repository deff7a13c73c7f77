//! How to know that somebody sleeps, without sleeping until it is likely.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Waits until a thread sleeps, by what /proc tells of it: `thread` is its path there.
///
/// It has to be seen in the same system call twice, without having run in between, for it might
/// have slept for a moment on its way.
///
/// # Errors
///
/// It does not sleep in time, or has ended.
pub(crate) fn wait_until_asleep(thread: &Path, how: Sleep, until: Instant) -> Result<Asleep> {
    let thread = Path::new("/proc").join(thread);
    let mut before = None;
    while Instant::now() < until {
        let seen = Seen::look(&thread, how).context("cannot see whether it sleeps")?;
        match seen {
            Some(seen) if before.as_ref() == Some(&seen) => {
                return Ok(Asleep { thread, how, seen });
            }
            _ => before = seen,
        }
        thread::sleep(Duration::from_micros(500));
    }
    bail!("did not fall asleep in time")
}

/// A thread that was seen to sleep.
pub(crate) struct Asleep {
    thread: PathBuf,
    how: Sleep,
    seen: Seen,
}

impl Asleep {
    /// Tells whether it has slept on ever since, and was not woken for a moment either.
    pub(crate) fn sleeps_on(&self) -> bool {
        Seen::look(&self.thread, self.how).is_ok_and(|seen| seen.as_ref() == Some(&self.seen))
    }
}

/// Who lets somebody sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sleep {
    /// The system call itself: who waits for the answer of a FUSE server does not sleep yet.
    Itself,
    /// A FUSE server that does not answer, or anybody else.
    Anyhow,
}

/// A thread that sleeps.
#[derive(PartialEq, Eq)]
struct Seen {
    /// How often it has gone to sleep.
    switches: String,
    /// The system call, with its arguments; nothing where that is kept secret.
    call: Option<String>,
}

impl Seen {
    fn look(thread: &Path, how: Sleep) -> Result<Option<Self>> {
        let status = fs::read_to_string(thread.join("status"))?;
        let line = |start| status.lines().find(|line| line.starts_with(start)).map(str::to_owned);
        let asleep = line("State:").is_some_and(|state| state.contains("\tS"));
        let call = fs::read_to_string(thread.join("syscall")).ok();
        let running = call.as_ref().is_some_and(|call| call.starts_with("running"));
        // The kernel's function in which it sleeps; `0` where that is kept secret.
        let place = fs::read_to_string(thread.join("wchan")).unwrap_or_default();
        let asks = how == Sleep::Itself && place.starts_with(AWAITS_ANSWER);
        if !asleep || running || asks {
            return Ok(None);
        }
        Ok(line("voluntary_ctxt_switches:").map(|switches| Self { switches, call }))
    }
}

/// Where the kernel waits for the answer of a FUSE server.
const AWAITS_ANSWER: &str = "request_wait_answer";

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_thread_that_sleeps_is_known_to_sleep() {
        let (say, hear) = mpsc::channel();
        let (awake, wake_up) = mpsc::channel::<()>();
        thread::spawn(move || {
            say.send(fs::read_link("/proc/thread-self").unwrap()).unwrap();
            let _ = wake_up.recv();
        });
        let thread = hear.recv().unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        let asleep = wait_until_asleep(&thread, Sleep::Itself, until).unwrap();
        assert!(asleep.sleeps_on());
        drop(awake);
        while asleep.sleeps_on() {
            assert!(Instant::now() < until, "not woken in time");
        }
    }

    #[test]
    fn a_thread_that_runs_is_not_taken_for_a_sleeper() {
        let (say, hear) = mpsc::channel();
        let (stay, stop) = mpsc::channel::<()>();
        thread::spawn(move || {
            say.send(fs::read_link("/proc/thread-self").unwrap()).unwrap();
            while stop.try_recv() == Err(mpsc::TryRecvError::Empty) {}
        });
        let thread = hear.recv().unwrap();
        let asleep =
            wait_until_asleep(&thread, Sleep::Itself, Instant::now() + Duration::from_millis(50));
        assert!(asleep.is_err());
        drop(stay);
    }
}
