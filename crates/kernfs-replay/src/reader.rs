//! Reading files that may never answer, on a thread that can be given up.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use kernfs::Errno;
use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::limits::MAX_FILE;

/// What reading a file gave.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Everything up to the end.
    Bytes(Vec<u8>),
    /// It would have waited.
    NothingYet,
    OpenError(Errno),
    ReadError(Errno),
    /// No answer in time.
    TooSlow,
}

/// Reads files, one at a time.
pub(crate) struct Reader {
    patience: Duration,
    /// `None` before the first file, and when the last thread was given up.
    worker: Option<Worker>,
}

/// A thread that reads; it ends when nobody wants its answers any more.
struct Worker {
    orders: Sender<OwnedFd>,
    answers: Receiver<Answer>,
}

impl Reader {
    pub(crate) fn new(patience: Duration) -> Self {
        Self { patience, worker: None }
    }

    /// Reads a file that was opened as a mere path.
    pub(crate) fn read(&mut self, node: OwnedFd) -> Answer {
        let patience = self.patience;
        self.ask(|| Worker::start(read), node, patience)
    }

    fn ask(
        &mut self,
        start: impl FnOnce() -> io::Result<Worker>,
        node: OwnedFd,
        patience: Duration,
    ) -> Answer {
        let worker = match self.worker.take().map_or_else(start, Ok) {
            Ok(worker) => worker,
            // Without a thread it is not read at all: it could hang.
            Err(error) => return Answer::OpenError(errno_of(&error)),
        };
        if worker.orders.send(node).is_err() {
            return Answer::ReadError(Errno::EIO);
        }
        match worker.answers.recv_timeout(patience) {
            Ok(answer) => {
                self.worker = Some(worker);
                answer
            }
            Err(RecvTimeoutError::Timeout) => Answer::TooSlow,
            Err(RecvTimeoutError::Disconnected) => Answer::ReadError(Errno::EIO),
        }
    }
}

impl Worker {
    fn start(read: fn(&OwnedFd) -> Answer) -> io::Result<Self> {
        let (orders, ordered) = mpsc::channel::<OwnedFd>();
        let (answer, answers) = mpsc::channel();
        let reads = move || {
            while let Ok(node) = ordered.recv() {
                if answer.send(read(&node)).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().name("reader".into()).spawn(reads)?;
        Ok(Self { orders, answers })
    }
}

fn read(node: &OwnedFd) -> Answer {
    // What the descriptor stands for, whatever has its name by now.
    let path = format!("/proc/self/fd/{}", node.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = openat(CWD, path, flags, Mode::empty());
    let mut file = match opened {
        Ok(file) => File::from(file),
        Err(error) => return Answer::OpenError(errno_of(&error.into())),
    };
    let mut bytes = Vec::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Answer::Bytes(bytes),
            Ok(len) => bytes.extend_from_slice(&chunk[..len]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Answer::NothingYet,
            Err(error) => return Answer::ReadError(errno_of(&error)),
        }
        if bytes.len() > MAX_FILE {
            return Answer::ReadError(Errno::EFBIG);
        }
    }
}

/// What most files have, many times over.
const CHUNK: usize = 64 << 10;

fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().and_then(Errno::from_raw).unwrap_or(Errno::EIO)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn null() -> OwnedFd {
        openat(CWD, "/dev/null", OFlags::PATH, Mode::empty()).unwrap()
    }

    #[test]
    fn what_never_answers_is_given_up_and_the_next_is_read() {
        let mut reader = Reader::new(Duration::from_secs(30));
        let never = || {
            Worker::start(|_| {
                loop {
                    thread::park();
                }
            })
        };
        let answer = reader.ask(never, null(), Duration::from_millis(20));
        assert_eq!(answer, Answer::TooSlow);
        assert!(reader.worker.is_none());
        assert_eq!(reader.read(null()), Answer::Bytes(Vec::new()));
        assert!(reader.worker.is_some());
    }

    #[test]
    fn what_is_without_end_is_too_large() {
        let zeros = openat(CWD, "/dev/zero", OFlags::PATH, Mode::empty()).unwrap();
        let mut reader = Reader::new(Duration::from_secs(30));
        assert_eq!(reader.read(zeros), Answer::ReadError(Errno::EFBIG));
    }

    #[test]
    fn an_error_is_an_answer() {
        let memory = openat(CWD, "/proc/self/mem", OFlags::PATH, Mode::empty()).unwrap();
        let mut reader = Reader::new(Duration::from_secs(30));
        assert_eq!(reader.read(memory), Answer::ReadError(Errno::EIO));
    }
}
