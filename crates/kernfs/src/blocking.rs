//! The blocking forms of what clients do with open files, for threads.

use alloc::string::String;
use alloc::vec::Vec;
use core::pin::pin;
use core::time::Duration;

use crate::errno::Errno;
use crate::open::{Mapping, OpenFile, Waiter};
use crate::ops::{Ask, Kind};
use crate::realm::PAGE_SIZE;
use crate::request::{Chunk, Outcome};
use crate::sync::atomic::Ordering::{Acquire, Release};
use crate::wait::{Events, block_on, block_on_until};

impl OpenFile {
    /// Reads at an offset into `buf`, and returns how many bytes were read; 0 at the end.
    ///
    /// Text is rendered anew at offset 0, and at any offset that does not continue the last read.
    /// `buf` is touched only after the driver has been left: a reader that stalls in its own memory
    /// delays no removal.
    ///
    /// # Errors
    ///
    /// ENODEV: the file was severed. EBADF: not open for reading. EDEADLK: inside an operation on
    /// the same open file. EAGAIN: nothing to read yet, and opened with `NONBLOCK`. EIO: the driver
    /// panicked. Else what the driver answers.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, Errno> {
        let mut chunk = Chunk::new();
        if let Err(outcome) = self.0.open.read_now(offset, buf.len(), &mut chunk) {
            self.read_slowly(outcome, offset, buf.len(), &mut chunk)?;
        }
        Ok(chunk.copy_to(buf))
    }

    /// Waits for a read that could not be done at once.
    #[cold]
    fn read_slowly(
        &self,
        outcome: Outcome,
        offset: u64,
        len: usize,
        chunk: &mut Chunk,
    ) -> Result<usize, Errno> {
        let ask = &Ask { caller: self.opener(), offset, len };
        let mut waiter = Waiter::new();
        let mut outcome = Some(outcome);
        block_on(|cx| match outcome.take() {
            Some(outcome) => self.follow_up(outcome, Some(cx), &mut waiter, ask, chunk),
            None => self.attempt_read(Some(cx), &mut waiter, ask, chunk),
        })
    }

    /// Reads at the position of the open file, and moves it on (read(2)).
    ///
    /// # Errors
    ///
    /// As for [`read_at`](Self::read_at).
    pub fn read(&self, buf: &mut [u8]) -> Result<usize, Errno> {
        let position = self.0.position.load(Acquire);
        let len = self.read_at(buf, position)?;
        self.0.position.store(position + len as u64, Release);
        Ok(len)
    }

    /// Reads everything from the start.
    ///
    /// # Errors
    ///
    /// As for [`read_at`](Self::read_at).
    pub fn read_to_vec(&self) -> Result<Vec<u8>, Errno> {
        let mut contents = Vec::new();
        let mut page = [0; PAGE_SIZE];
        loop {
            let len = self.read_at(&mut page, contents.len() as u64)?;
            contents.extend_from_slice(&page[..len]);
            if len == 0 || self.0.open.core().kind == Kind::Stream {
                return Ok(contents);
            }
        }
    }

    /// Reads everything from the start as text.
    ///
    /// # Errors
    ///
    /// As for [`read_at`](Self::read_at); EINVAL: it is not UTF-8.
    pub fn read_to_string(&self) -> Result<String, Errno> {
        String::from_utf8(self.read_to_vec()?).map_err(|_| Errno::EINVAL)
    }

    /// Writes at an offset, and returns how many bytes were taken.
    ///
    /// `data` is copied before the driver is entered: a writer that stalls in its own memory delays
    /// no removal.
    ///
    /// # Errors
    ///
    /// E2BIG: more than the [limit](crate::WriteLimit) of the file, even if it was severed. Else as
    /// for [`read_at`](Self::read_at).
    pub fn write_at(&self, data: &[u8], offset: u64) -> Result<usize, Errno> {
        match self.write_in_queue(None, self.opener(), data, offset) {
            Outcome::Done(done) => done,
            outcome => self.write_slowly(outcome, data, offset),
        }
    }

    /// Waits for a write that could not be done at once.
    #[cold]
    fn write_slowly(&self, outcome: Outcome, data: &[u8], offset: u64) -> Result<usize, Errno> {
        let mut waiter = match outcome {
            Outcome::Later(pending, len) => Waiter::for_write(&self.0.open, pending, len),
            _ => Waiter::new(),
        };
        block_on(|cx| self.poll_write_at(cx, &mut waiter, self.opener(), data, offset))
    }

    /// Writes at the position of the open file, and moves it on (write(2)).
    ///
    /// # Errors
    ///
    /// As for [`write_at`](Self::write_at).
    pub fn write(&self, data: &[u8]) -> Result<usize, Errno> {
        let position = self.0.position.load(Acquire);
        let len = self.write_at(data, position)?;
        self.0.position.store(position + len as u64, Release);
        Ok(len)
    }

    /// Waits until one of the events is ready (poll(2) without a timeout).
    ///
    /// Returns at once when the file is severed, with [`Events::SEVERED`].
    #[must_use]
    pub fn wait(&self, interest: Events) -> Events {
        let mut waiter = Waiter::new();
        block_on(|cx| self.poll_ready(cx, &mut waiter, interest))
    }

    /// Waits at most `timeout`, by the monotonic clock of the tree; then returns no events.
    #[must_use]
    pub fn wait_timeout(&self, interest: Events, timeout: Duration) -> Events {
        let mut waiter = Waiter::new();
        let clock = &self.0.open.core().realm.clock;
        block_on_until(
            || clock.monotonic(),
            timeout,
            |cx| self.poll_ready(cx, &mut waiter, interest),
        )
        .unwrap_or(Events::empty())
    }

    /// Maps a range of the file, as [`map_async`](Self::map_async) does.
    ///
    /// # Errors
    ///
    /// As for `map_async`.
    pub fn map(&self, offset: u64, len: u64, writable: bool) -> Result<Mapping, Errno> {
        let mut map = pin!(self.map_async(offset, len, writable));
        block_on(|cx| map.as_mut().poll(cx))
    }
}

impl Mapping {
    /// Copies all of `buf` out of the mapping, from an offset within it.
    ///
    /// # Errors
    ///
    /// As for [`read_at_async`](Self::read_at_async).
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Errno> {
        let mut read = pin!(self.read_at_async(buf, offset));
        block_on(|cx| read.as_mut().poll(cx))
    }

    /// Copies all of `data` into the mapping, at an offset within it.
    ///
    /// # Errors
    ///
    /// As for [`write_at_async`](Self::write_at_async).
    pub fn write_at(&self, data: &[u8], offset: u64) -> Result<(), Errno> {
        let mut write = pin!(self.write_at_async(data, offset));
        block_on(|cx| write.as_mut().poll(cx))
    }
}
