//! Drivers for the tests.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use kernfs::{
    Caller, Errno, File, FileOps, Kind, MapOp, OpenOp, Ops, ReadOp, Readiness, ReadyBy, WriteOp,
};

/// A text that clients read and replace.
#[derive(Default)]
pub struct Knob {
    pub value: Mutex<Vec<u8>>,
    pub callers: Mutex<Vec<Caller>>,
    pub releases: AtomicUsize,
}

impl Knob {
    pub fn new(value: &str) -> Self {
        Self { value: Mutex::new(value.into()), ..Self::default() }
    }

    pub fn set(&self, value: &str) {
        *self.value.lock().unwrap() = value.into();
    }

    pub fn get(&self) -> Vec<u8> {
        self.value.lock().unwrap().clone()
    }
}

impl FileOps for Knob {
    type Open = ();

    fn open(&self, op: &mut OpenOp<'_>) -> Result<(), Errno> {
        self.callers.lock().unwrap().push(*op.caller());
        Ok(())
    }

    fn read(&self, (): &mut (), op: &mut ReadOp<'_>) -> Result<(), Errno> {
        op.push(&self.value.lock().unwrap());
        Ok(())
    }

    fn write(&self, (): &mut (), op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        *self.value.lock().unwrap() = op.data().to_vec();
        Ok(op.data().len())
    }

    fn release(&self, (): ()) {
        self.releases.fetch_add(1, Ordering::Relaxed);
    }
}

/// Events, each delivered to one reader.
#[derive(Default)]
pub struct Events {
    pub queue: Mutex<VecDeque<Vec<u8>>>,
}

impl Events {
    /// Puts an event in and announces it.
    pub fn push(file: &File<Self>, event: &str) {
        file.queue.lock().unwrap().push_back(event.into());
        file.notify();
    }
}

impl FileOps for Events {
    type Open = ();
    const KIND: Kind = Kind::Stream;

    fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
        Ok(())
    }

    fn read(&self, (): &mut (), op: &mut ReadOp<'_>) -> Result<(), Errno> {
        let event = self.queue.lock().unwrap().pop_front().ok_or(Errno::EAGAIN)?;
        op.push(&event);
        Ok(())
    }
}

/// A file whose readiness is its driver's own.
#[derive(Default)]
pub struct Triggered(pub Mutex<Vec<Readiness>>);

impl FileOps for Triggered {
    type Open = ();
    const OPS: Ops = Ops::READ;
    const READY: ReadyBy = ReadyBy::Handle;
    const KIND: Kind = Kind::Stream;

    fn open(&self, op: &mut OpenOp<'_>) -> Result<(), Errno> {
        self.0.lock().unwrap().push(op.readiness());
        Ok(())
    }
}

/// A door that drivers wait at until a test opens it.
#[derive(Default)]
pub struct Door {
    /// Whether it is open, and how many stand before it.
    state: Mutex<(bool, usize)>,
    changed: Condvar,
}

impl Door {
    pub fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.1 += 1;
        while !state.0 {
            state = self.changed.wait(state).unwrap();
        }
        state.1 -= 1;
    }

    pub fn open(&self) {
        self.state.lock().unwrap().0 = true;
        self.changed.notify_all();
    }

    pub fn waiting(&self) -> usize {
        self.state.lock().unwrap().1
    }
}

/// A stream whose reads wait at a door, inside the driver, when there is something to deliver; an
/// empty event turns out to be none.
#[derive(Default)]
pub struct Slow {
    pub door: Arc<Door>,
    pub queue: Mutex<VecDeque<Vec<u8>>>,
}

impl FileOps for Slow {
    type Open = ();
    const KIND: Kind = Kind::Stream;

    fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
        Ok(())
    }

    fn read(&self, (): &mut (), op: &mut ReadOp<'_>) -> Result<(), Errno> {
        let event = self.queue.lock().unwrap().pop_front().ok_or(Errno::EAGAIN)?;
        self.door.pass();
        if event.is_empty() {
            return Err(Errno::EAGAIN);
        }
        op.push(&event);
        Ok(())
    }
}

/// Memory that clients map.
#[derive(Default)]
pub struct Memory {
    pub bytes: Mutex<Vec<u8>>,
    /// What mmap answers instead of agreeing.
    pub refuses: Mutex<Option<Errno>>,
    /// Where reads and writes wait, if anywhere.
    pub door: Mutex<Option<Arc<Door>>>,
    /// How often it was read.
    pub reads: AtomicUsize,
    /// How much is read or written at once at most, if not all that is asked for.
    pub at_once: Mutex<Option<usize>>,
    /// The lengths of all writes.
    pub writes: Mutex<Vec<usize>>,
}

impl Memory {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes: Mutex::new(bytes), ..Self::default() }
    }

    /// Sets all bytes.
    pub fn fill(&self, byte: u8) {
        self.bytes.lock().unwrap().fill(byte);
    }

    fn pass(&self) {
        let door = self.door.lock().unwrap().clone();
        if let Some(door) = door {
            door.pass();
        }
    }

    fn at_once(&self, len: usize) -> usize {
        self.at_once.lock().unwrap().map_or(len, |most| len.min(most))
    }
}

impl FileOps for Memory {
    type Open = ();
    const KIND: Kind = Kind::Binary;
    const OPS: Ops = Ops::all();

    fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
        Ok(())
    }

    fn read(&self, (): &mut (), op: &mut ReadOp<'_>) -> Result<(), Errno> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let bytes = self.bytes.lock().unwrap().clone();
        self.pass();
        let rest = bytes.get(op.offset() as usize..).unwrap_or_default();
        op.push(&rest[..self.at_once(rest.len().min(op.max_len()))]);
        Ok(())
    }

    fn write(&self, (): &mut (), op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        self.writes.lock().unwrap().push(op.data().len());
        self.pass();
        let data = &op.data()[..self.at_once(op.data().len())];
        let mut bytes = self.bytes.lock().unwrap();
        let offset = op.offset() as usize;
        let place = bytes.get_mut(offset..offset + data.len()).ok_or(Errno::ENOSPC)?;
        place.copy_from_slice(data);
        Ok(data.len())
    }

    fn mmap(&self, (): &mut (), _: &MapOp<'_>) -> Result<(), Errno> {
        self.refuses.lock().unwrap().map_or(Ok(()), Err)
    }
}
