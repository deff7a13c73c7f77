//! What a client prints: all of it is read, the end of it is kept.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{PipeWriter, Read, pipe};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How many bytes are kept: what a program says last is what explains its end.
pub(crate) const KEPT: usize = 64 << 10;

/// The output of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Captured {
    /// The last bytes of it.
    pub(crate) bytes: Vec<u8>,
    /// How many there were.
    pub(crate) total: u64,
}

impl Captured {
    /// Returns what is kept as text, as it came; mind where it is printed.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// Hears what a client says, as it comes.
pub(crate) type Hear = Box<dyn FnMut(&[u8]) + Send>;

/// A thread that reads from a pipe, so that nobody blocks who writes to it.
#[derive(Debug)]
pub(crate) struct Collector {
    kept: Arc<Mutex<Kept>>,
    /// Its end tells the thread that nobody writes any more.
    stop: PipeWriter,
    thread: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Kept {
    bytes: VecDeque<u8>,
    total: u64,
}

impl Collector {
    /// Starts to read.
    ///
    /// # Errors
    ///
    /// There is no thread to be had, or no descriptor.
    pub(crate) fn start(from: OwnedFd, mut hear: Hear) -> Result<Self> {
        let (stopped, stop) = pipe().context("cannot make a pipe")?;
        let kept = Arc::<Mutex<Kept>>::default();
        let thread = {
            let kept = Arc::clone(&kept);
            let thread = thread::Builder::new().name("output".into());
            thread.spawn(move || {
                collect(from.into(), &stopped.into(), |bytes| {
                    lock(&kept).push(bytes);
                    hear(bytes);
                });
            })
        };
        Ok(Self { kept, stop, thread: thread.context("cannot start a thread")? })
    }

    /// Returns what has come; the writers have been killed.
    ///
    /// Does not wait for one that could not be: what is in the pipe is read, and no more.
    pub(crate) fn finish(self) -> Captured {
        drop(self.stop);
        // It does not panic; what it has read would be good even so.
        let _ = self.thread.join();
        let kept = std::mem::take(&mut *lock(&self.kept));
        Captured { bytes: kept.bytes.into(), total: kept.total }
    }

    /// Returns what has come until now.
    #[cfg(test)]
    pub(crate) fn so_far(&self) -> Vec<u8> {
        lock(&self.kept).bytes.iter().copied().collect()
    }
}

/// How many buffers are read when all is over: more than a pipe holds.
const LAST_READS: usize = 64;

fn collect(mut from: File, stopped: &OwnedFd, mut take: impl FnMut(&[u8])) {
    let mut buf = vec![0; 32 << 10];
    let mut last_reads = None;
    while last_reads != Some(0) {
        let mut fds = [PollFd::new(&from, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
        // Once stopped, only what is there is taken.
        let timeout = last_reads.map(|_| Timespec { tv_sec: 0, tv_nsec: 0 });
        match poll(&mut fds, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return,
            Ok(_) => {}
        }
        let (is_ready, is_stopped) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
        if is_ready {
            match from.read(&mut buf) {
                Ok(0) | Err(_) => return,
                Ok(len) => take(&buf[..len]),
            }
        } else if last_reads.is_some() {
            return;
        }
        last_reads = match last_reads {
            None => is_stopped.then_some(LAST_READS),
            Some(left) => Some(left - 1),
        };
    }
}

impl Kept {
    fn push(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        self.bytes.extend(bytes);
        let beyond = self.bytes.len().saturating_sub(KEPT);
        self.bytes.drain(..beyond);
    }
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}
