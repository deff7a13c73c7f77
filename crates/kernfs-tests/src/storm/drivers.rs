//! The drivers of a storm, and what clients may change.
//!
//! Values of texts are one small letter again and again, so that a client can see whether what it
//! reads was ever written.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kernfs::{
    Child, Dir, DirOp, DirOps, Draining, Errno, File, FileOps, FileOptions, Kind, Mode, Name,
    OpenOp, Ops, ReadOp, WriteOp,
};

use super::ledger::{Entry, Ledger, OpenState};

/// A text that clients read and replace.
pub(super) struct Knob {
    entry: Entry,
    value: Mutex<Vec<u8>>,
}

/// The longest value of a text, in bytes.
pub(super) const LONGEST: usize = 100;

impl Knob {
    pub(super) fn add(dir: &Dir, name: &str, ledger: &Arc<Ledger>) -> Result<File<Self>, Errno> {
        let driver = Self { entry: Entry::new(ledger), value: Mutex::new(vec![b'a'; 10]) };
        dir.add_file(name, Mode::RW, driver).map_err(Errno::from)
    }
}

impl FileOps for Knob {
    type Open = OpenState;

    fn open(&self, op: &mut OpenOp<'_>) -> Result<OpenState, Errno> {
        Ok(self.entry.open(op))
    }

    fn read(&self, _: &mut OpenState, op: &mut ReadOp<'_>) -> Result<(), Errno> {
        op.push(&lock(&self.value));
        Ok(())
    }

    fn write(&self, _: &mut OpenState, op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        *lock(&self.value) = op.data().to_vec();
        Ok(op.data().len())
    }
}

/// Events, each delivered to one reader.
pub(super) struct Events {
    entry: Entry,
    queue: Mutex<VecDeque<&'static [u8]>>,
}

impl Events {
    pub(super) fn add(dir: &Dir, name: &str, ledger: &Arc<Ledger>) -> Result<File<Self>, Errno> {
        let driver = Self { entry: Entry::new(ledger), queue: Mutex::default() };
        dir.add_file(name, Mode::RO, driver).map_err(Errno::from)
    }

    /// Puts an event in and announces it.
    pub(super) fn push(file: &File<Self>) {
        lock(&file.queue).push_back(b"EVENT\n");
        file.notify();
    }
}

impl FileOps for Events {
    type Open = OpenState;
    const KIND: Kind = Kind::Stream;
    const OPS: Ops = Ops::READ;

    fn open(&self, op: &mut OpenOp<'_>) -> Result<OpenState, Errno> {
        Ok(self.entry.open(op))
    }

    fn read(&self, _: &mut OpenState, op: &mut ReadOp<'_>) -> Result<(), Errno> {
        op.push(lock(&self.queue).pop_front().ok_or(Errno::EAGAIN)?);
        Ok(())
    }
}

/// Memory that clients map.
pub(super) struct Memory {
    entry: Entry,
    bytes: Mutex<Vec<u8>>,
}

/// The size of what can be mapped, in bytes: two pages.
pub(super) const MEMORY: usize = 8192;

impl Memory {
    pub(super) fn add(dir: &Dir, name: &str, ledger: &Arc<Ledger>) -> Result<File<Self>, Errno> {
        let driver = Self { entry: Entry::new(ledger), bytes: Mutex::new(vec![b'0'; MEMORY]) };
        let options = FileOptions::new(Mode::RW).size(MEMORY as u64);
        dir.add_file(name, options, driver).map_err(Errno::from)
    }

    /// Changes all of it and announces that.
    pub(super) fn fill(file: &File<Self>, digit: u8) {
        lock(&file.bytes).fill(digit);
        file.notify();
    }
}

impl FileOps for Memory {
    type Open = OpenState;
    const KIND: Kind = Kind::Binary;
    const OPS: Ops = Ops::all();

    fn open(&self, op: &mut OpenOp<'_>) -> Result<OpenState, Errno> {
        Ok(self.entry.open(op))
    }

    fn read(&self, _: &mut OpenState, op: &mut ReadOp<'_>) -> Result<(), Errno> {
        let bytes = lock(&self.bytes);
        let start = usize::try_from(op.offset()).unwrap_or(MEMORY).min(MEMORY);
        let end = start.saturating_add(op.max_len()).min(MEMORY);
        op.push(&bytes[start..end]);
        Ok(())
    }

    fn write(&self, _: &mut OpenState, op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        let mut bytes = lock(&self.bytes);
        let start = usize::try_from(op.offset()).unwrap_or(MEMORY).min(MEMORY);
        let len = op.data().len().min(MEMORY - start);
        bytes[start..start + len].copy_from_slice(&op.data()[..len]);
        if len > 0 { Ok(len) } else { Err(Errno::ENOSPC) }
    }
}

/// Lets clients change everything.
pub(super) struct Free(pub(super) Arc<Ledger>);

impl DirOps for Free {
    /// A directory of a client has something in it, too, which goes with it.
    fn mkdir(&self, parent: &Dir, name: &Name, _: &DirOp<'_>) -> Result<(), Errno> {
        let dir = parent.add_dir(name, Mode::DIR)?;
        // It may be gone already.
        let _ = Knob::add(&dir, "knob", &self.0).map(File::keep);
        dir.keep();
        Ok(())
    }

    fn rmdir(&self, dir: &Child, _: &DirOp<'_>) -> Result<Draining, Errno> {
        Ok(dir.sever())
    }

    fn unlink(&self, node: &Child, _: &DirOp<'_>) -> Result<Draining, Errno> {
        Ok(node.sever())
    }

    fn rename(&self, node: &Child, to: &Dir, name: &Name, _: &DirOp<'_>) -> Result<(), Errno> {
        node.rename(to, name)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
