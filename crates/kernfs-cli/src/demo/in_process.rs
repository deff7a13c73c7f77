//! Holders in the owner's process, each on its own thread, without a system call on the tree.

use std::future::{Future, poll_fn};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::task::{Context, Poll, Wake};

use anyhow::{Context as _, Result, bail, ensure};
use kernfs::{Errno, Events, OpenFile, OpenFlags};

use crate::demo::answer::{Answer, Part};
use crate::demo::device::{FIRST_EVENT, MEMORY_BYTES};
use crate::demo::ground::Ground;
use crate::demo::line::{Again, Command, Line};
use crate::demo::role::Role;

/// Takes hold of a path of the tree, and tells what becomes of it.
///
/// # Errors
///
/// It could not take hold.
pub(crate) fn play(role: Role, line: &Line, ground: &Ground, path: &Path) -> Result<Again> {
    let at = At { line, ground, path: path.as_os_str().as_bytes() };
    match role {
        Role::HalfWayReader => read_one_half(&at),
        Role::BlockedReader => block_in_read(&at),
        Role::Poller => sleep_in_poll(&at),
        Role::TokioTask => await_on_tokio(&at),
        Role::HandMadeTask => await_by_hand(&at),
        Role::Mapper => map_memory(&at),
        Role::Lister => list_one_half(&at),
        Role::InsideReader => go_inside(&at),
        Role::Latecomer => come_too_late(&at),
        Role::Selecter | Role::EpollLevel | Role::EpollEdge | Role::Watcher | Role::Toucher => {
            bail!("takes a system call, and so a mount")
        }
    }
}

/// What is to be held, and who wants to know of it.
struct At<'a> {
    line: &'a Line,
    ground: &'a Ground,
    path: &'a [u8],
}

impl At<'_> {
    fn open(&self, flags: OpenFlags) -> Result<OpenFile, Errno> {
        self.ground.client.open(self.path, flags)
    }
}

/// The largest text that is read.
const BUFFER: usize = 64 << 10;

fn read_one_half(at: &At<'_>) -> Result<Again> {
    let file = at.open(OpenFlags::READ)?;
    let mut buf = vec![0; BUFFER];
    let half = file.read(&mut buf[..at.ground.half])?;
    ensure!(half > 0, "the text has become empty");
    at.line.holding();
    at.line.wait_to_look()?;
    at.line.got(read_to_the_error(&file));
    Ok(Box::new(move |_| read_to_the_error(&file)))
}

fn block_in_read(at: &At<'_>) -> Result<Again> {
    let file = open_events(at)?;
    let mut buf = [0; 64];
    at.line.falling_asleep();
    let got = file.read(&mut buf);
    at.line.got(got);
    Ok(Box::new(move |_| read_to_the_error(&file)))
}

fn sleep_in_poll(at: &At<'_>) -> Result<Again> {
    let file = open_events(at)?;
    at.line.falling_asleep();
    let events = file.wait(Events::PRI);
    at.line.got(events);
    Ok(Box::new(move |_| read_to_the_error(&file)))
}

fn await_on_tokio(at: &At<'_>) -> Result<Again> {
    let file = open_events(at)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let events = runtime.block_on(announce(at.line, file.wait_async(Events::PRI)));
    at.line.got(events);
    Ok(Box::new(move |_| read_to_the_error(&file)))
}

fn await_by_hand(at: &At<'_>) -> Result<Again> {
    let file = open_events(at)?;
    let events = run_by_hand(announce(at.line, file.wait_async(Events::PRI)));
    at.line.got(events);
    Ok(Box::new(move |_| read_to_the_error(&file)))
}

fn map_memory(at: &At<'_>) -> Result<Again> {
    let file = at.open(OpenFlags::READ_WRITE)?;
    let mapping = file.map(0, MEMORY_BYTES as u64, true)?;
    let mut buf = [0; 4];
    mapping.write_at(b"mine", 100)?;
    mapping.read_at(&mut buf, 100)?;
    ensure!(&buf == b"mine", "the mapping lost what was written");
    at.line.holding();
    at.line.wait_to_look()?;
    let touch = move || {
        let mut buf = [0; 4];
        let read = mapping.read_at(&mut buf, 100);
        let written = mapping.write_at(b"gone", 100);
        // Both must be refused, and alike.
        let answer = if read == written { read } else { read.and(Err(Errno::EIO)) };
        answer.map(|()| buf.len()).into()
    };
    at.line.got(touch());
    Ok(Box::new(move |_| touch()))
}

fn list_one_half(at: &At<'_>) -> Result<Again> {
    let dir = at.ground.client.open_dir(at.path)?;
    let all = dir.entries(0, usize::MAX)?;
    let half = dir.entries(0, all.len().div_ceil(2))?;
    let last = half.last().context("the directory lists not even itself")?;
    let (cursor, client) = (last.next, at.ground.client.clone());
    let child = all.last().map(|entry| entry.name.clone()).unwrap_or_default();
    at.line.holding();
    at.line.wait_to_look()?;
    let go_on = move || {
        let rest = match dir.entries(cursor, usize::MAX) {
            Ok(entries) => Part::Entries(entries.len()),
            Err(errno) => Part::Error(errno),
        };
        let child = dir.inode().lookup(client.caller(), &child);
        Answer::of([Some(rest), child.err().map(Part::Error)].into_iter().flatten())
    };
    at.line.got(go_on());
    Ok(Box::new(move |_| go_on()))
}

fn go_inside(at: &At<'_>) -> Result<Again> {
    let file = at.open(OpenFlags::READ)?;
    // The owner knows from the driver when it is inside.
    at.line.holding();
    let answer = read_to_the_error(&file);
    at.line.got(answer);
    Ok(Box::new(move |_| read_to_the_error(&file)))
}

fn come_too_late(at: &At<'_>) -> Result<Again> {
    at.ground.client.lookup(at.path)?;
    at.line.holding();
    at.line.wait_to_look()?;
    let (client, path) = (at.ground.client.clone(), at.path.to_vec());
    let mut held: Option<OpenFile> = None;
    let mut come = move |command| {
        if held.is_none() || command == Command::Afresh {
            match client.open(&path, OpenFlags::READ) {
                Ok(file) => held = Some(file),
                Err(errno) => return errno.into(),
            }
        }
        let read = |file: &OpenFile| file.read(&mut [0; 64]);
        held.as_ref().map_or(Err(Errno::EBADF), read).into()
    };
    at.line.got(come(Command::Afresh));
    Ok(Box::new(come))
}

/// Opens the event file and takes the first event, so that there is nothing but to wait.
fn open_events(at: &At<'_>) -> Result<OpenFile> {
    let file = at.open(OpenFlags::READ)?;
    let mut buf = [0; 64];
    let len = file.read(&mut buf)?;
    ensure!(&buf[..len] == FIRST_EVENT, "the first event is not the one that was sent");
    Ok(file)
}

/// Reads on until nothing more is left, or an error.
fn read_to_the_error(file: &OpenFile) -> Answer {
    let mut buf = vec![0; BUFFER];
    let mut bytes = 0;
    loop {
        match file.read(&mut buf) {
            Ok(0) => return Answer::from(Ok(bytes)),
            Ok(len) => bytes += len,
            Err(errno) => return Answer::bytes_then(bytes, errno),
        }
    }
}

/// Runs a future, and says that it holds once it waits: then it has registered its waker.
async fn announce<F: Future>(line: &Line, future: F) -> F::Output {
    let mut future = pin!(future);
    let mut announced = false;
    poll_fn(|cx| {
        let polled = future.as_mut().poll(cx);
        if polled.is_pending() && !std::mem::replace(&mut announced, true) {
            line.holding();
        }
        polled
    })
    .await
}

/// An executor for one future, on this thread: each wake-up is a message.
fn run_by_hand<F: Future>(future: F) -> F::Output {
    struct Mail(Sender<()>);

    impl Wake for Mail {
        fn wake(self: Arc<Self>) {
            // The future is done and needs no waking.
            let _ = self.0.send(());
        }
    }

    let (mail, mailbox) = mpsc::channel();
    let waker = Arc::new(Mail(mail)).into();
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
        // The waker above keeps the other end open.
        let _ = mailbox.recv();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn the_executor_made_by_hand_waits_for_the_waker() {
        let mut polls = 0;
        let output = run_by_hand(poll_fn(|cx| {
            polls += 1;
            if polls == 3 {
                return Poll::Ready(polls);
            }
            let waker = cx.waker().clone();
            thread::spawn(move || waker.wake());
            Poll::Pending
        }));
        assert_eq!(output, 3);
    }
}
