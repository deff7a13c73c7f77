//! What a driver implements: [`FileOps`], and what it is told about each operation.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use bitflags::bitflags;

use crate::drain::Draining;
use crate::errno::Errno;
use crate::meta::{Caller, OpenFlags};
use crate::sync::Mutex;
use crate::wait::{Readiness, Ready, WaitQueue};

/// The operations of a file, implemented by its driver (`kernfs_ops`).
///
/// Operations do not wait. What cannot be answered yet is answered `EAGAIN` and announced by a
/// notification later, or deferred ([`ReadOp::defer`], [`WriteOp::defer`]), or answered when a
/// removal is done ([`WriteOp::answer_after`]).
/// Operations on one open file come one at a time, in the order of their arrival; operations on
/// different open files of one node run side by side.
/// An operation that panics answers EIO and closes its open file; nobody else notices.
pub trait FileOps: Send + Sync {
    /// State of one open file, of severing lifetime: it goes to [`release`](Self::release) at the
    /// last close or at severing, whichever is first, and is out of reach from then on.
    type Open: Send;

    /// The shape of the contents.
    const KIND: Kind = Kind::Text;

    /// The operations that are implemented; others are refused without asking.
    ///
    /// `read` and `write` of what is missing answer EINVAL, `mmap` ENODEV; a tree of sysfs manners
    /// refuses the open with EACCES.
    const OPS: Ops = Ops::READ.union(Ops::WRITE);

    /// Where readiness comes from.
    const READY: ReadyBy = ReadyBy::Notify;

    /// Lets reads of one open file run side by side, if set.
    const READ_SHARED: Option<ReadShared<Self>> = None;

    /// Makes the state of an open file that a client opens.
    ///
    /// # Errors
    ///
    /// Whatever the client's open(2) shall answer; nothing is released then.
    fn open(&self, op: &mut OpenOp<'_>) -> Result<Self::Open, Errno>;

    /// Renders the contents, or the requested part of them; see [`Kind`].
    ///
    /// # Errors
    ///
    /// EAGAIN where there is nothing yet: a caller who may block waits for the next notification.
    /// Anything else is the client's answer.
    fn read(&self, open: &mut Self::Open, op: &mut ReadOp<'_>) -> Result<(), Errno> {
        let _ = (open, op);
        Err(Errno::EINVAL)
    }

    /// Takes what a client wrote, and returns how many bytes of it were used.
    ///
    /// # Errors
    ///
    /// Whatever the client's write(2) shall answer; EAGAIN is passed on, since writes never wait.
    fn write(&self, open: &mut Self::Open, op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        let _ = (open, op);
        Err(Errno::EINVAL)
    }

    /// Agrees to a mapping of the contents; accesses come as reads and writes at exact offsets.
    ///
    /// # Errors
    ///
    /// Whatever the client's mmap(2) shall answer.
    fn mmap(&self, open: &mut Self::Open, op: &MapOp<'_>) -> Result<(), Errno> {
        let _ = (open, op);
        Ok(())
    }

    /// Ends the severing lifetime of an open file, exactly once, after all its other operations.
    ///
    /// Runs on the thread of who closed last, severed, or was inside last; kernfs holds no lock.
    fn release(&self, open: Self::Open) {
        drop(open);
    }
}

/// The shape of a file's contents: how offsets are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text that is rendered whole at each read from offset 0 and kept for the reads that follow,
    /// so that no reader sees a torn value (`seq_file`, single record).
    Text,
    /// Text that is rendered record by record as a reader gets there (`seq_file`); each call of
    /// `read` appends at least one record, none at the end. See [`Seq`](crate::Seq).
    Seq,
    /// Bytes at exact offsets, up to the declared size (sysfs binary attributes).
    Binary,
    /// Bytes without offsets, each delivered once, for example events.
    Stream,
}

bitflags! {
    /// The operations that a driver implements.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Ops: u8 {
        /// read(2)
        const READ = 1;
        /// write(2)
        const WRITE = 2;
        /// mmap(2)
        const MMAP = 4;
    }
}

/// Where the readiness of open files comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadyBy {
    /// From the node's event count: a fresh open file is ready, a read at offset 0 makes it
    /// unready, each `notify` makes it ready again (`kernfs_generic_poll`).
    Notify,
    /// From the [`Readiness`] of each open file alone.
    Handle,
}

/// A read that may run beside others on the same open file, made from a function.
pub struct ReadShared<T: FileOps + ?Sized>(SharedRead<T>);

type SharedRead<T> = fn(&T, &<T as FileOps>::Open, &mut ReadOp<'_>) -> Result<(), Errno>;

impl<T: FileOps> ReadShared<T>
where
    T::Open: Sync,
{
    /// Takes the function; that this can be called at all proves that `T::Open` may be shared.
    pub const fn new(read: SharedRead<T>) -> Self {
        Self(read)
    }
}

impl<T: FileOps> fmt::Debug for ReadShared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReadShared")
    }
}

impl<T: FileOps> ReadShared<T> {
    pub(crate) fn function(&self) -> SharedRead<T> {
        self.0
    }
}

/// An open(2) of a client.
pub struct OpenOp<'a> {
    pub(crate) caller: &'a Caller,
    pub(crate) flags: OpenFlags,
    pub(crate) ino: u64,
    pub(crate) notifier: &'a dyn Fn() -> Notifier,
    pub(crate) ready: &'a Arc<Ready>,
    pub(crate) free: &'a Mutex<Vec<Free>>,
}

/// What runs at the last close of an open file.
pub(crate) type Free = Box<dyn FnOnce() + Send>;

impl OpenOp<'_> {
    /// Returns who opens.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        self.caller
    }

    /// Returns what the open file is for.
    #[must_use]
    pub fn flags(&self) -> OpenFlags {
        self.flags
    }

    /// Returns the inode number of the file.
    #[must_use]
    pub fn ino(&self) -> u64 {
        self.ino
    }

    /// Returns the readiness of the open file, to keep.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        Readiness(Arc::clone(self.ready))
    }

    /// Returns a handle that announces changes of the file, to keep.
    #[must_use]
    pub fn notifier(&self) -> Notifier {
        (self.notifier)()
    }

    /// Registers what ends the *file lifetime*: runs once, at the last close, after `release`.
    ///
    /// It is `'static` and the driver's own lifetime ends at severing, so it cannot reach the
    /// driver (this is what `kernfs_ops.free` was proposed for). Does not run if the open fails.
    pub fn on_free(&mut self, free: impl FnOnce() + Send + 'static) {
        self.free.lock().push(Box::new(free));
    }
}

impl fmt::Debug for OpenOp<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenOp")
            .field("caller", self.caller())
            .field("flags", &self.flags())
            .field("ino", &self.ino())
            .finish()
    }
}

/// A handle that can only announce that a file changed; pins neither the file nor its driver.
///
/// Comes from [`File::notifier`](crate::File::notifier) or [`OpenOp::notifier`], may be kept as
/// long as one likes and used from anywhere: also from `release`, and after the removal, when it
/// does nothing. Handles of the same file are equal.
#[derive(Clone)]
pub struct Notifier(pub(crate) Arc<dyn Announce>);

impl Notifier {
    /// Announces that the value changed: makes open files ready whose driver says
    /// [`ReadyBy::Notify`], wakes who waits on any, and tells who watches the file
    /// (`kernfs_notify`).
    pub fn notify(&self) {
        self.0.notify();
    }

    /// Tells who watches the file (front ends, and through them inotify) that it changed, and wakes
    /// nobody: for drivers that say by [`Readiness`] whom it concerns.
    pub fn announce(&self) {
        self.0.announce();
    }
}

impl PartialEq for Notifier {
    fn eq(&self, other: &Self) -> bool {
        self.0.node() == other.0.node()
    }
}

impl Eq for Notifier {}

impl fmt::Debug for Notifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Notifier").field(&self.0.node()).finish()
    }
}

/// A file of a tree, as its notifiers know it.
pub(crate) trait Announce: Send + Sync {
    fn notify(&self);

    fn announce(&self);

    /// Returns where the node is, which tells it from all others.
    fn node(&self) -> *const ();
}

/// Who asks, and for what range.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) caller: &'a Caller,
    pub(crate) offset: u64,
    pub(crate) len: usize,
}

/// A read(2) of a client.
#[derive(Debug)]
pub struct ReadOp<'a> {
    ask: Ask<'a>,
    from_start: bool,
    out: &'a mut Vec<u8>,
    ready: &'a Arc<Ready>,
    pub(crate) pending: Option<Box<Pending>>,
}

impl<'a> ReadOp<'a> {
    #[inline]
    pub(crate) fn new(
        ask: Ask<'a>,
        from_start: bool,
        out: &'a mut Vec<u8>,
        ready: &'a Arc<Ready>,
    ) -> Self {
        Self { ask, from_start, out, ready, pending: None }
    }

    /// Returns who reads.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        self.ask.caller
    }

    /// Returns the offset in bytes that the reader wants; text may ignore it.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.ask.offset
    }

    /// Returns how many bytes the reader can take; what is beyond is cut off in a binary file or a
    /// stream.
    #[must_use]
    pub fn max_len(&self) -> usize {
        self.ask.len
    }

    /// Tells whether a [`Kind::Seq`] file is to begin with its first record.
    #[must_use]
    pub fn is_from_start(&self) -> bool {
        self.from_start
    }

    /// Appends bytes to the answer.
    #[inline]
    pub fn push(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Returns the answer so far, to append to.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        self.out
    }

    /// Takes the reply along: `read` shall return `Ok(())`, and the answer is given later.
    ///
    /// The open file is free for other operations meanwhile. Severing answers ENODEV by itself.
    /// A caller who does not block gets EAGAIN.
    pub fn defer(&mut self) -> Reply<Vec<u8>> {
        let slot = Arc::new(Slot::new(self.ready));
        self.pending = Some(Box::new(Pending::Read(Arc::clone(&slot))));
        Reply(Some(slot))
    }
}

impl fmt::Write for ReadOp<'_> {
    #[inline]
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}

/// A write(2) of a client.
#[derive(Debug)]
pub struct WriteOp<'a> {
    ask: Ask<'a>,
    data: &'a [u8],
    ready: &'a Arc<Ready>,
    pub(crate) pending: Option<Box<Pending>>,
}

impl<'a> WriteOp<'a> {
    pub(crate) fn new(ask: Ask<'a>, data: &'a [u8], ready: &'a Arc<Ready>) -> Self {
        Self { ask, data, ready, pending: None }
    }

    /// Returns who writes.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        self.ask.caller
    }

    /// Returns the offset in bytes; text usually ignores it.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.ask.offset
    }

    /// Returns what was written.
    #[must_use]
    pub fn data(&self) -> &'a [u8] {
        self.data
    }

    /// Returns what was written as text, without surrounding white space.
    ///
    /// # Errors
    ///
    /// EINVAL if it is not UTF-8.
    pub fn text(&self) -> Result<&'a str, Errno> {
        let text = core::str::from_utf8(self.data).map_err(|_| Errno::EINVAL)?;
        Ok(text.trim())
    }

    /// Takes the reply along: what `write` returns is ignored, and the answer is given later.
    ///
    /// The open file is free for other operations meanwhile. Severing answers ENODEV by itself.
    pub fn defer(&mut self) -> Reply<usize> {
        let slot = Arc::new(Slot::new(self.ready));
        self.pending = Some(Box::new(Pending::Write(Arc::clone(&slot))));
        Reply(Some(slot))
    }

    /// Gives the answer that `write` returns only when the removal is done.
    ///
    /// This is how a file removes its own device: sever inside the operation, and let the writer
    /// wait for the drain (`sysfs_remove_file_self`).
    pub fn answer_after<T: Send + Sync + 'static>(&mut self, draining: Draining<T>) {
        self.pending = Some(Box::new(Pending::After(draining.detach())));
    }
}

/// An mmap(2) of a client.
#[derive(Debug)]
pub struct MapOp<'a> {
    pub(crate) caller: &'a Caller,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) writable: bool,
}

impl MapOp<'_> {
    /// Returns who maps.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        self.caller
    }

    /// Returns the offset of the mapping in bytes.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns the length of the mapping in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.len
    }

    /// Tells whether the mapping can be written through.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.writable
    }
}

/// The reply of a deferred operation.
///
/// Dropped without an answer it answers EIO.
#[must_use = "dropping the reply answers EIO"]
pub struct Reply<A>(Option<Arc<Slot<A>>>);

impl<A> Reply<A> {
    /// Gives the answer: the bytes read, or how many were written.
    ///
    /// # Errors
    ///
    /// Gives the answer back if nobody waits for it any more: the file was severed, or the client
    /// was interrupted.
    pub fn answer(mut self, answer: Result<A, Errno>) -> Result<(), Result<A, Errno>> {
        match self.0.take() {
            Some(slot) => slot.put(answer),
            None => Err(answer),
        }
    }
}

impl<A> Drop for Reply<A> {
    fn drop(&mut self) {
        if let Some(slot) = self.0.take() {
            let _ = slot.put(Err(Errno::EIO));
        }
    }
}

impl<A> fmt::Debug for Reply<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").finish_non_exhaustive()
    }
}

/// What an operation left behind that the caller has to wait for.
#[derive(Debug)]
pub(crate) enum Pending {
    Read(Arc<Slot<Vec<u8>>>),
    Write(Arc<Slot<usize>>),
    After(Draining<()>),
}

/// Where a deferred answer is put, and waited for.
#[derive(Debug)]
pub(crate) struct Slot<A> {
    state: Mutex<SlotState<A>>,
    /// The open file that was asked: once it is dead, nobody takes an answer.
    ready: Arc<Ready>,
    pub(crate) queue: WaitQueue,
}

#[derive(Debug)]
enum SlotState<A> {
    Waiting,
    Answered(Result<A, Errno>),
    /// Taken, or nobody waits any more.
    Gone,
}

impl<A> Slot<A> {
    fn new(ready: &Arc<Ready>) -> Self {
        Self {
            state: Mutex::new(SlotState::Waiting),
            ready: Arc::clone(ready),
            queue: WaitQueue::new(),
        }
    }

    fn put(&self, answer: Result<A, Errno>) -> Result<(), Result<A, Errno>> {
        let mut state = self.state.lock();
        if !matches!(*state, SlotState::Waiting) || self.ready.is_dead() {
            return Err(answer);
        }
        *state = SlotState::Answered(answer);
        drop(state);
        self.queue.wake_all();
        Ok(())
    }

    pub(crate) fn take(&self) -> Option<Result<A, Errno>> {
        let mut state = self.state.lock();
        match core::mem::replace(&mut *state, SlotState::Gone) {
            SlotState::Answered(answer) => Some(answer),
            SlotState::Waiting => {
                *state = SlotState::Waiting;
                None
            }
            SlotState::Gone => None,
        }
    }

    /// Stops waiting; an answer that comes later is given back to who gives it.
    pub(crate) fn abandon(&self) {
        let gone = core::mem::replace(&mut *self.state.lock(), SlotState::Gone);
        drop(gone);
    }
}

impl<T: FileOps + ?Sized> FileOps for &T {
    type Open = T::Open;
    const KIND: Kind = T::KIND;
    const OPS: Ops = T::OPS;
    const READY: ReadyBy = T::READY;

    fn open(&self, op: &mut OpenOp<'_>) -> Result<T::Open, Errno> {
        (**self).open(op)
    }

    fn read(&self, open: &mut T::Open, op: &mut ReadOp<'_>) -> Result<(), Errno> {
        (**self).read(open, op)
    }

    fn write(&self, open: &mut T::Open, op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        (**self).write(open, op)
    }

    fn mmap(&self, open: &mut T::Open, op: &MapOp<'_>) -> Result<(), Errno> {
        (**self).mmap(open, op)
    }

    fn release(&self, open: T::Open) {
        (**self).release(open);
    }
}

/// Makes a driver of a read-only text file from a function that renders it.
///
/// # Examples
///
/// ```
/// use kernfs::{Caller, Mode, OpenFlags, Tree, show};
///
/// let tree = Tree::new();
/// let _answer = tree.root().add_file("answer", Mode::RO, show(|op| op.push(b"42\n")))?;
/// let file = tree.client(Caller::OWNER).open("/answer", OpenFlags::READ)?;
/// assert_eq!(file.read_to_vec()?, b"42\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn show<F>(render: F) -> Show<F>
where
    F: Fn(&mut ReadOp<'_>) + Send + Sync,
{
    Show(render)
}

/// The driver that [`show`] makes.
#[derive(Clone, Copy, Debug)]
pub struct Show<F>(F);

impl<F: Fn(&mut ReadOp<'_>) + Send + Sync> FileOps for Show<F> {
    type Open = ();
    const OPS: Ops = Ops::READ;

    fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
        Ok(())
    }

    fn read(&self, (): &mut (), op: &mut ReadOp<'_>) -> Result<(), Errno> {
        (self.0)(op);
        Ok(())
    }
}
