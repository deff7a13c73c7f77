//! Real processes: found by their number, held by a pidfd, looked at in `/proc`.

use std::fs;
use std::ops::AddAssign;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use kernfs::Errno;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A process, which cannot become another one while this is held.
pub(crate) struct Process {
    pid: u32,
    pidfd: OwnedFd,
}

impl Process {
    /// Finds a process by the number of any of its threads (`cgroup_procs_write_start`).
    ///
    /// # Errors
    ///
    /// ESRCH: there is none. EINVAL: a thread of the kernel that must stay where it is. EMFILE and
    /// ENFILE: too many descriptors are open.
    pub(crate) fn find(tid: u32) -> Result<Self, Errno> {
        let process = match open(tid) {
            Ok(pidfd) => Self { pid: tid, pidfd },
            Err(rustix::io::Errno::SRCH) => return Err(Errno::ESRCH),
            // Of a thread that does not lead its process, the one or the other by version.
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::INVAL) => {
                let pid = leader(tid).ok_or(Errno::ESRCH)?;
                Self { pid, pidfd: open(pid).map_err(errno)? }
            }
            Err(error) => return Err(errno(error)),
        };
        if Status::of(process.pid).is_some_and(|status| status.is_bound()) {
            return Err(Errno::EINVAL);
        }
        Ok(process)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Tells whether all its threads have exited, whether somebody has waited for it or not.
    pub(crate) fn has_exited(&self) -> bool {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(poll(&mut fds, Some(&now)), Ok(1..))
    }

    /// Sends a signal, unless it is to this very process, which has clients to serve.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.pid == std::process::id() {
            tracing::warn!(?signal, "not sent to the process that serves the hierarchy");
            return;
        }
        match pidfd_send_signal(&self.pidfd, signal) {
            // It is gone: nothing is left to be stopped or killed.
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => tracing::warn!(%error, pid = self.pid, ?signal, "not sent"),
        }
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

fn open(tid: u32) -> Result<OwnedFd, rustix::io::Errno> {
    let pid = i32::try_from(tid).ok().and_then(Pid::from_raw).ok_or(rustix::io::Errno::SRCH)?;
    pidfd_open(pid, PidfdFlags::empty())
}

fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error()).unwrap_or(Errno::EIO)
}

/// Returns the process that a thread belongs to.
fn leader(tid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

/// Returns the threads of a process, in their order; none if it is gone.
pub(crate) fn threads(pid: u32) -> Vec<u32> {
    numbers(&format!("/proc/{pid}/task"))
}

/// Returns all processes that have not exited, in their order.
pub(crate) fn all() -> Vec<u32> {
    let mut all = numbers("/proc");
    all.retain(|&pid| Status::of(pid).is_some_and(|status| !status.is_dead()));
    all
}

fn numbers(dir: &str) -> Vec<u32> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut numbers: Vec<u32> =
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

/// What `/proc/PID/stat` tells of a process.
pub(crate) struct Status {
    text: String,
    /// Where the name of the program ends, which can have blanks and parentheses in it.
    fields: usize,
}

impl Status {
    pub(crate) fn of(pid: u32) -> Option<Self> {
        Self::new(fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn new(text: String) -> Option<Self> {
        let fields = text.rfind(')')? + 1;
        Some(Self { text, fields })
    }

    /// Returns a field by its number in proc_pid_stat(5), from 3 on.
    fn field(&self, number: usize) -> Option<&str> {
        self.text[self.fields..].split_ascii_whitespace().nth(number.checked_sub(3)?)
    }

    fn number(&self, number: usize) -> u64 {
        self.field(number).and_then(|field| field.parse().ok()).unwrap_or(0)
    }

    fn is_dead(&self) -> bool {
        // A leader that exited before its other threads is a zombie in a process that lives.
        matches!(self.field(3), Some("Z" | "X")) && self.threads() <= 1
    }

    pub(crate) fn threads(&self) -> u64 {
        self.number(20)
    }

    /// Tells whether it is a thread of the kernel that cannot be moved: one that is bound to its
    /// processors, or the one that makes the others.
    fn is_bound(&self) -> bool {
        const PF_KTHREAD: u64 = 0x0020_0000;
        const PF_NO_SETAFFINITY: u64 = 0x0400_0000;
        let (flags, parent) = (self.number(9), self.number(4));
        flags & PF_KTHREAD != 0 && (flags & PF_NO_SETAFFINITY != 0 || parent == 0)
    }

    pub(crate) fn time(&self) -> CpuTime {
        let (user, system) = (ticks(self.number(14)), ticks(self.number(15)));
        let is_nice =
            self.field(19).is_some_and(|nice| nice.parse().is_ok_and(|nice: i32| nice > 0));
        CpuTime { user, system, nice: if is_nice { user } else { Duration::ZERO } }
    }
}

fn ticks(ticks: u64) -> Duration {
    let per_second = rustix::param::clock_ticks_per_second();
    Duration::from_micros(ticks.saturating_mul(1_000_000) / per_second.max(1))
}

/// Time of the processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CpuTime {
    pub(crate) user: Duration,
    pub(crate) system: Duration,
    /// The part of `user` that was spent with a nice value above 0.
    pub(crate) nice: Duration,
}

impl CpuTime {
    /// Returns that of a process so far; none if it is gone.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        Some(Status::of(pid)?.time())
    }

    /// Returns that of everything (`root_cgroup_cputime`).
    pub(crate) fn of_all() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
        let fields: Vec<u64> =
            line.split_ascii_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
        let field = |index: usize| fields.get(index).copied().unwrap_or(0);
        let (user, nice) = (field(0), field(1));
        // System, interrupts, and what a hypervisor took.
        let system = field(2) + field(5) + field(6) + field(7);
        Self { user: ticks(user + nice), system: ticks(system), nice: ticks(nice) }
    }

    /// Returns what was spent since an earlier time.
    pub(crate) fn since(self, earlier: Self) -> Self {
        let user = self.user.saturating_sub(earlier.user);
        Self {
            user,
            system: self.system.saturating_sub(earlier.system),
            // One that has become nice meanwhile has its whole time under `nice`.
            nice: self.nice.saturating_sub(earlier.nice).min(user),
        }
    }
}

impl AddAssign for CpuTime {
    fn add_assign(&mut self, other: Self) {
        self.user += other.user;
        self.system += other.system;
        self.nice += other.nice;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_taken_apart_whatever_the_program_is_called() {
        let mut fields = vec!["0"; 50];
        fields[0] = "R";
        fields[9 - 3] = "2097152";
        fields[14 - 3] = "150";
        fields[15 - 3] = "50";
        fields[19 - 3] = "5";
        fields[20 - 3] = "7";
        let status = Status::new(format!("12 (a) b (c) {}", fields.join(" "))).unwrap();
        assert_eq!(status.threads(), 7);
        assert!(!status.is_dead());
        assert!(status.is_bound(), "kthreadd");
        let time = status.time();
        assert_eq!(time.user, time.nice);
        assert_eq!(time.user, 3 * time.system);
    }

    #[test]
    fn processes_are_found_by_any_of_their_threads() {
        let own = Process::find(std::process::id()).unwrap();
        assert_eq!(own.pid(), std::process::id());
        assert!(!own.has_exited());
        let tid = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        assert_eq!(Process::find(tid).unwrap().pid(), std::process::id());
        assert!(threads(std::process::id()).contains(&tid));
        assert!(all().contains(&std::process::id()));
        assert_eq!(Process::find(i32::MAX as u32).err(), Some(Errno::ESRCH));
        assert_eq!(Process::find(u32::MAX).err(), Some(Errno::ESRCH));
        assert_eq!(Process::find(0).err(), Some(Errno::ESRCH));
    }
}
