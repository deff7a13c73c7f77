//! Reading and writing: straight from and to the driver, or through the kernel's page cache.
//!
//! A file that can be mapped is opened for the page cache; then also read(2) and write(2) go through
//! it. Whatever the page cache asks for is counted as a transfer until it is answered, and refused
//! once the node id has ended: no page enters an old mapping again.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use fuse_session::op::{self, FileFlags};
use fuse_session::{Errno, OpenFlags, ReplyData, ReplyWrite, Request};
use kernfs::{Caller, Inode, Kind, OpenFile, Ops, PAGE_SIZE, Waiter};

use crate::fs::Fs;
use crate::handles::FileHandle;
use crate::pages::Transfer;
use crate::parked::answer_when_done;
use crate::{caller, convert, news};

/// Opens a file; returns its handle, and how the kernel is to treat it.
pub(crate) fn open(
    fs: &Fs,
    request: &Request,
    flags: FileFlags,
) -> Result<(u64, OpenFlags), Errno> {
    let known = fs.nodes.find(request.nodeid).ok_or(Errno::ESTALE)?;
    if flags.contains(FileFlags::DIRECT) {
        return Err(Errno::EINVAL);
    }
    let caller = caller::of(request);
    let file = known.inode.open(&caller, convert::open_flags(flags)).map_err(convert::errno)?;
    let notifier = fs.notifier().ok_or(Errno::EIO)?.clone();
    // What was opened through an old descriptor shares the page cache with old mappings.
    let is_cached =
        !fs.is_tapped && !known.pages.have_ended() && can_be_mapped(&file, &known.inode);
    let mut open = OpenFlags::empty();
    // A closing descriptor has nothing to tell, but to who taps.
    if !fs.is_tapped {
        open |= OpenFlags::NOFLUSH;
    }
    if !is_cached {
        open |= OpenFlags::DIRECT_IO;
    }
    if file.kind() == Kind::Stream {
        open |= OpenFlags::STREAM | OpenFlags::NONSEEKABLE;
    }
    let handle = FileHandle::new(file, notifier, known.pages, is_cached);
    Ok((fs.handles.add_file(handle), open))
}

/// Tells whether the kernel may map a file: FUSE does not tell of mappings, so that the driver is
/// asked when the file is opened, for all that this open file could map.
fn can_be_mapped(file: &OpenFile, inode: &Inode) -> bool {
    if !file.ops().contains(Ops::MMAP) {
        return false;
    }
    let writable = file.flags().contains(kernfs::OpenFlags::WRITE);
    let mapping = std::pin::pin!(file.map_async(0, inode.attr().size, writable));
    // Nobody else has the open file yet, so that there is nothing to wait for.
    matches!(mapping.poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(_)))
}

pub(crate) fn read(fs: &Fs, request: &Request, op: &op::Read, reply: ReplyData) {
    let handle = match fs.file(op.fh) {
        Ok(handle) => handle,
        Err(errno) => return reply.error(errno),
    };
    // Only the page cache asks on nobody's behalf: for a page of a private mapping, in a file that
    // is read directly.
    let for_pages = handle.is_cached || op.lock_owner.is_none();
    let transfer = match for_pages.then(|| begin_transfer(fs, &handle)).transpose() {
        Ok(transfer) => transfer,
        Err(errno) => return reply.error(errno),
    };
    let nonblocking = op.flags.contains(FileFlags::NONBLOCK);
    let caller = caller::of(request).nonblocking(nonblocking);
    let mut read = Reading::new(caller, op, for_pages);
    // Nearly always done at once; where it is not, it is tried again with a waker.
    let mut cx = Context::from_waker(Waker::noop());
    let answer = {
        let handle = Arc::clone(&handle);
        move |reply, done| answer_data(reply, pages_of(&handle, for_pages, done), transfer)
    };
    if let Poll::Ready(done) = read.poll(&mut cx, &handle.file) {
        return answer(reply, done);
    }
    let parked = handle.park();
    let turn = Arc::clone(&parked.turn);
    let work = poll_fn(move |cx| read.poll(cx, &handle.file));
    answer_when_done(reply, &turn, work, move |reply, done| {
        answer(reply, done);
        drop(parked);
    });
}

pub(crate) fn write(fs: &Fs, request: &Request, op: &op::Write<'_>, reply: ReplyWrite) {
    let handle = match fs.file(op.fh) {
        Ok(handle) => handle,
        Err(errno) => return reply.error(errno),
    };
    // What is written back comes by any handle of the node id, also by one that has not ended.
    let for_pages = handle.is_cached || op.from_cache;
    let transfer = match for_pages.then(|| begin_transfer(fs, &handle)).transpose() {
        Ok(transfer) => transfer,
        Err(errno) => return reply.error(errno),
    };
    let nonblocking = op.flags.contains(FileFlags::NONBLOCK);
    let caller = match op.from_cache {
        // Nobody calls: it is on behalf of who could map it.
        true => *handle.file.opener(),
        false => caller::of(request).nonblocking(nonblocking),
    };
    let mut write = Writing::new(caller, op);
    let mut cx = Context::from_waker(Waker::noop());
    if let Poll::Ready(done) = write.poll(&mut cx, &handle.file, op.data) {
        return answer_written(reply, done, transfer);
    }
    // Somebody else is inside, or the driver answers later.
    let data = op.data.to_vec();
    let work = poll_fn(move |cx| write.poll(cx, &handle.file, &data));
    answer_when_done(reply, &Arc::default(), work, move |reply, done| {
        answer_written(reply, done, transfer);
    });
}

/// Counts a request of the page cache, and only then looks whether it is still to be served:
/// whoever ends the node id drops its pages after what was counted.
fn begin_transfer(fs: &Fs, handle: &FileHandle) -> Result<Transfer, Errno> {
    let transfer = handle.pages.transfer(fs.notifier().ok_or(Errno::EIO)?);
    if handle.refuses_pages() { Err(Errno::ENODEV) } else { Ok(transfer) }
}

/// Keeps from the page cache what was read before a severing and comes after it.
fn pages_of(handle: &FileHandle, for_pages: bool, done: ReadDone) -> ReadDone {
    if for_pages && handle.refuses_pages() { Err(kernfs::Errno::ENODEV) } else { done }
}

type ReadDone = Result<Vec<u8>, kernfs::Errno>;

/// A read that is not done yet.
struct Reading {
    caller: Caller,
    len: usize,
    offset: u64,
    /// Whether it fills pages: there, a short answer would be the end of the file.
    fills: bool,
    bytes: Vec<u8>,
    waiter: Waiter,
}

impl Reading {
    fn new(caller: Caller, op: &op::Read, fills: bool) -> Self {
        let (len, offset) = (op.size as usize, op.offset);
        Self { caller, len, offset, fills, bytes: Vec::new(), waiter: Waiter::new() }
    }

    fn poll(&mut self, cx: &mut Context<'_>, file: &OpenFile) -> Poll<ReadDone> {
        loop {
            let (len, offset) =
                (self.len - self.bytes.len(), self.offset + self.bytes.len() as u64);
            let (waiter, caller) = (&mut self.waiter, &self.caller);
            let more = ready!(file.poll_read_vec(cx, waiter, caller, len, offset))?;
            if !self.fills {
                return Poll::Ready(Ok(more));
            }
            let is_end = more.is_empty();
            self.bytes.extend(more);
            if is_end || self.bytes.len() >= self.len {
                break;
            }
        }
        let rest = file.inode().attr().size.saturating_sub(self.offset);
        // What the driver leaves out of its declared size is zeros, as the kernel has it.
        let len = self.len.min(usize::try_from(rest).unwrap_or(usize::MAX));
        self.bytes.resize(self.bytes.len().max(len), 0);
        Poll::Ready(Ok(std::mem::take(&mut self.bytes)))
    }
}

/// A write that is not done yet.
struct Writing {
    caller: Caller,
    offset: u64,
    /// Whether it is written back, several pages at once: the driver gets them one by one, as its
    /// limit for one write demands.
    by_pages: bool,
    written: usize,
    waiter: Waiter,
}

impl Writing {
    fn new(caller: Caller, op: &op::Write<'_>) -> Self {
        let (offset, by_pages) = (op.offset, op.from_cache);
        Self { caller, offset, by_pages, written: 0, waiter: Waiter::new() }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        file: &OpenFile,
        data: &[u8],
    ) -> Poll<Result<usize, kernfs::Errno>> {
        loop {
            let rest = &data[self.written..];
            let part = if self.by_pages { &rest[..rest.len().min(PAGE_SIZE)] } else { rest };
            let (waiter, caller) = (&mut self.waiter, &self.caller);
            let offset = self.offset + self.written as u64;
            let taken = ready!(file.poll_write_at(cx, waiter, caller, part, offset))?;
            self.written += taken;
            if !self.by_pages || taken == 0 || self.written >= data.len() {
                return Poll::Ready(Ok(self.written));
            }
        }
    }
}

fn answer_data(reply: ReplyData, done: ReadDone, transfer: Option<Transfer>) {
    news::answer_after(reply, move |reply| {
        match done {
            Ok(bytes) => reply.data(&bytes),
            Err(errno) => reply.error(convert::errno(errno)),
        }
        drop(transfer);
    });
}

fn answer_written(
    reply: ReplyWrite,
    done: Result<usize, kernfs::Errno>,
    transfer: Option<Transfer>,
) {
    news::answer_after(reply, move |reply| {
        match done {
            Ok(len) => reply.written(u32::try_from(len).unwrap_or(u32::MAX)),
            Err(errno) => reply.error(convert::errno(errno)),
        }
        drop(transfer);
    });
}
