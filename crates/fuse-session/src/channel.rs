//! Carries messages to and from the kernel.
//!
//! Answers go through [`Channel`], so that a second transport can stand beside
//! [`Device`]. With FUSE over io_uring, each CPU has a queue whose entries hold
//! one request each; the answer goes back through the entry that brought the
//! request, and an entry whose answer is late is missing from its queue: with
//! none left, every further request of that CPU hangs. Such a channel keeps
//! a map from request number to entry, answers by committing that entry, and
//! registers a *replacement entry* on the same queue in [`Channel::left`],
//! which is called once, before anybody waits, for each request that leaves
//! its handler unanswered. Forgets, interrupts and notifications travel
//! through [`Device`] in either case.

#![forbid(unsafe_code)]

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{self, Errno as Os};
use zerocopy::IntoBytes;

use crate::abi::fuse_out_header;
use crate::errno::Errno;

/// Takes answers to the kernel.
pub(crate) trait Channel: Send + Sync {
    /// Writes the answer to a request: `error` is 0 or negative.
    fn answer(&self, unique: u64, error: i32, parts: &[&[u8]]) -> Result<(), Errno>;

    /// Learns that a request was parked, or that its handler returned without an answer.
    fn left(&self, unique: u64);
}

/// The file `/dev/fuse`, bound to one mount.
#[derive(Debug)]
pub(crate) struct Device(OwnedFd);

/// What reading the device gave.
#[derive(Debug)]
pub(crate) enum Received {
    /// A message of so many bytes.
    Message(usize),
    /// Nothing; read again.
    Nothing,
    /// The filesystem is unmounted, or the connection aborted.
    Ended,
}

impl Device {
    pub(crate) const fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Waits for a message.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> Received {
        match io::read(&self.0, buffer) {
            Ok(len) => Received::Message(len),
            // ENOENT: the request was interrupted before we got to read it.
            // EIO: it did not fit the buffer, and its caller has been told so.
            Err(Os::INTR | Os::AGAIN | Os::NOENT | Os::IO) => Received::Nothing,
            Err(Os::NODEV | Os::CONNABORTED) => Received::Ended,
            Err(error) => {
                tracing::error!(%error, "reading /dev/fuse failed, the session ends");
                Received::Ended
            }
        }
    }

    /// Writes a notification, which may wait for locks that clients hold.
    pub(crate) fn notify(&self, code: i32, parts: &[&[u8]]) -> Result<(), Errno> {
        self.write(0, code, parts)
    }

    /// Returns whether the kernel still has a filesystem behind this device.
    ///
    /// As long as it has, the device number of that filesystem cannot be given
    /// to another one.
    pub(crate) fn is_connected(&self) -> bool {
        let mut fds = [PollFd::new(&self.0, PollFlags::empty())];
        match poll(&mut fds, Some(&Timespec::default())) {
            Ok(_) => !fds[0].revents().contains(PollFlags::ERR),
            Err(_) => true,
        }
    }

    fn write(&self, unique: u64, error: i32, parts: &[&[u8]]) -> Result<(), Errno> {
        const PARTS_MAX: usize = 3;
        debug_assert!(parts.len() <= PARTS_MAX);
        let body: usize = parts.iter().map(|part| part.len()).sum();
        let Ok(len) = u32::try_from(size_of::<fuse_out_header>() + body) else {
            return Err(Errno::EFBIG);
        };
        let header = fuse_out_header { len, error, unique };
        let mut slices = [IoSlice::new(&[]); PARTS_MAX + 1];
        slices[0] = IoSlice::new(header.as_bytes());
        for (slice, part) in slices[1..].iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
        }
        io::retry_on_intr(|| io::writev(&self.0, &slices[..=parts.len()]))?;
        Ok(())
    }
}

impl Channel for Device {
    fn answer(&self, unique: u64, error: i32, parts: &[&[u8]]) -> Result<(), Errno> {
        self.write(unique, error, parts)
    }

    fn left(&self, _unique: u64) {
        // Each thread has its own buffer, so there is nothing to replace.
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
