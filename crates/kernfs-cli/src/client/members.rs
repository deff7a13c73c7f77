//! The processes of a client: its process group, and who has left that.

use std::fs;
use std::os::fd::OwnedFd;
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open, pidfd_send_signal,
};

use super::whereabouts::{self, Whereabouts};

/// The variable in the environment of a client by which all its processes are known, also those
/// that have left its group.
pub(crate) const MARK: &str = "KERNFS_CLIENT";

/// Returns a value of [`MARK`] that no other client has.
pub(crate) fn new_mark() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Kills the clients of a process that has gone and could not do it.
pub(crate) fn kill_those_of(pid: u32) {
    let mark = format!("{MARK}={pid}-").into_bytes();
    let found = within_limit(move |say| {
        for pid in all_pids().filter(|&pid| is_marked(pid, |it| it.starts_with(&mark))) {
            // Nobody hears who is told too late.
            let _ = say.send(pid);
        }
    });
    for pid in found {
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            // Fails if it has ended.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// All processes of a client.
#[derive(Clone, Debug)]
pub(crate) struct Members {
    group: Pid,
    /// As it stands in an environment.
    mark: Vec<u8>,
    /// Those that were killed: who ends loses its environment before its files.
    dying: Vec<(u32, Arc<OwnedFd>)>,
}

/// How long it is looked where they are: what /proc tells of a process may have to wait for it.
const LOOK_LIMIT: Duration = Duration::from_secs(2);

impl Members {
    pub(crate) fn new(group: Pid, mark: &str) -> Self {
        Self { group, mark: format!("{MARK}={mark}").into_bytes(), dying: Vec::new() }
    }

    /// Returns the process group.
    pub(crate) fn group(&self) -> Pid {
        self.group
    }

    /// Kills all; returns those that have not ended yet.
    ///
    /// Who has ended and was not waited for counts as gone.
    pub(crate) fn kill(&mut self) -> Vec<u32> {
        // Fails if they are gone.
        let _ = kill_process_group(self.group, Signal::KILL);
        // Before it is looked anew: who has ended since may have had children meanwhile.
        self.dying.retain(|(_, pidfd)| !has_ended(pidfd));
        let this = self.clone();
        let found = within_limit(move |say| {
            for pid in this.pids() {
                // Nobody hears who is told too late.
                let _ = say.send(pid);
            }
        });
        for pid in found {
            self.kill_one(pid);
        }
        self.dying.iter().map(|&(pid, _)| pid).collect()
    }

    fn kill_one(&mut self, pid: u32) {
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let Some(Ok(pidfd)) = number.map(|pid| pidfd_open(pid, PidfdFlags::empty())) else {
            return;
        };
        // Looked at once more, for now its number cannot become somebody else's.
        let is_new = self.dying.iter().all(|&(dying, _)| dying != pid);
        if is_new && self.has(pid) && pidfd_send_signal(&pidfd, Signal::KILL).is_ok() {
            self.dying.push((pid, Arc::new(pidfd)));
        }
    }

    /// Returns where the threads of all are.
    pub(crate) fn whereabouts(&self) -> Vec<Whereabouts> {
        let this = self.clone();
        within_limit(move |say| {
            for thread in this.pids().flat_map(whereabouts::of_process) {
                // Nobody hears who is told too late.
                let _ = say.send(thread);
            }
        })
    }

    fn pids(&self) -> impl Iterator<Item = u32> {
        all_pids().filter(|&pid| self.has(pid))
    }

    fn has(&self, pid: u32) -> bool {
        let Ok(stat) = fs::read(format!("/proc/{pid}/stat")) else {
            return false;
        };
        // The name before may contain anything, so what comes last is looked for.
        let Some(end) = stat.iter().rposition(|&byte| byte == b')') else {
            return false;
        };
        // State, parent, process group.
        let mut fields = stat[end + 1..].split(|&byte| byte == b' ').skip(1);
        let is_gone = fields.next().is_none_or(|state| matches!(state, b"Z" | b"X"));
        let group = fields.nth(1).and_then(|group| std::str::from_utf8(group).ok()?.parse().ok());
        if is_gone {
            return false;
        }
        group == Some(self.group.as_raw_nonzero().get()) || is_marked(pid, |it| it == self.mark)
    }
}

fn all_pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Tells whether a process has a variable in its environment.
fn is_marked(pid: u32, is_mark: impl Fn(&[u8]) -> bool) -> bool {
    let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environ.split(|&byte| byte == 0).any(is_mark)
}

fn has_ended(pidfd: &OwnedFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0)
}

/// Collects what is said on a thread, which is left behind if it takes too long.
fn within_limit<T: Send + 'static>(look: impl FnOnce(mpsc::Sender<T>) + Send + 'static) -> Vec<T> {
    let until = Instant::now() + LOOK_LIMIT;
    let (say, hear) = mpsc::channel();
    // Without a thread there is nothing to be said.
    let _ = thread::Builder::new().name("looker".into()).spawn(move || look(say));
    let next = || hear.recv_timeout(until.saturating_duration_since(Instant::now())).ok();
    std::iter::from_fn(next).collect()
}
