//! The exits of members, seen by one thread that sleeps in epoll until there is one.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use kernfs::Errno;
use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};

use crate::process::Process;

/// Looks out for the exits of processes; dropping it ends the thread.
pub(crate) struct Watch {
    fds: Arc<Fds>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Fds {
    epoll: OwnedFd,
    /// Ends the thread.
    stop: OwnedFd,
}

/// The token of `stop`; processes have others.
const STOP: u64 = 0;

/// How many exits are taken at once.
const BATCH: usize = 64;

impl Watch {
    /// Makes a watch; the thread begins with the first process.
    ///
    /// # Errors
    ///
    /// When no descriptors are to be had.
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
        let data = epoll::EventData::new_u64(STOP);
        epoll::add(&epoll, &stop, data, epoll::EventFlags::IN)?;
        Ok(Self { fds: Arc::new(Fds { epoll, stop }), thread: Mutex::default() })
    }

    /// Watches a process under a token that is not 0; `exited` is called with it, again and again
    /// until the process is [removed](Self::remove).
    ///
    /// # Errors
    ///
    /// ENOMEM, ENOSPC: the kernel has no room for it. EAGAIN: no thread could be started.
    pub(crate) fn add(
        &self,
        process: &Process,
        token: u64,
        exited: impl FnMut(u64) + Send + 'static,
    ) -> Result<(), Errno> {
        let mut thread = crate::lock(&self.thread);
        if thread.is_none() {
            let fds = Arc::clone(&self.fds);
            let spawned = thread::Builder::new().name("cgroup-exits".into());
            let spawned = spawned.spawn(move || fds.run(exited)).map_err(|_| Errno::EAGAIN)?;
            *thread = Some(spawned);
        }
        drop(thread);
        let data = epoll::EventData::new_u64(token);
        let added = epoll::add(&self.fds.epoll, process, data, epoll::EventFlags::IN);
        added.map_err(|error| Errno::from_raw(error.raw_os_error()).unwrap_or(Errno::EIO))
    }

    /// Stops watching a process.
    ///
    /// Closing its pidfd would not do: a process that was forked meanwhile may have a copy.
    pub(crate) fn remove(&self, process: &Process) {
        let _ = epoll::delete(&self.fds.epoll, process);
    }

    /// Returns the tokens of processes that have exited and are still watched, without waiting.
    ///
    /// What somebody waited for (wait(2)) before is among them: nobody has to wait for the thread.
    pub(crate) fn exited(&self) -> Vec<u64> {
        self.fds.wait(Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))
    }

    /// Ends the thread.
    pub(crate) fn stop(&self) {
        let _ = rustix::io::write(&self.fds.stop, &1u64.to_ne_bytes());
        if let Some(thread) = crate::lock(&self.thread).take()
            // Who drops the last reference may be told of an exit.
            && thread.thread().id() != thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Fds {
    fn run(&self, mut exited: impl FnMut(u64)) {
        loop {
            for token in self.wait(None) {
                if token == STOP {
                    return;
                }
                exited(token);
            }
        }
    }

    fn wait(&self, timeout: Option<&Timespec>) -> Vec<u64> {
        let mut events = Vec::with_capacity(BATCH);
        // Interrupted is as good as nothing: whoever waits, waits again.
        let _ = epoll::wait(&self.epoll, spare_capacity(&mut events), timeout);
        events.iter().map(|event: &epoll::Event| event.data.u64()).collect()
    }
}
