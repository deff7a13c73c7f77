//! Bytes at offsets (`BIN_ATTR`).

use std::sync::{Mutex, MutexGuard, PoisonError};

use kernfs::{Errno, Notifier, Ops, ReadOp, WriteOp};

use crate::attr::{Attribute, Readable, Writable};

/// Bytes that can be read and written at offsets, of a size that does not change.
pub trait Bytes: Send + Sync {
    /// Returns the size in bytes.
    fn size(&self) -> u64;

    /// Copies bytes from an offset on into `out`; the range is below the size.
    ///
    /// # Errors
    ///
    /// Whatever the client's read(2) shall answer.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), Errno>;

    /// Takes bytes at an offset; the range is below the size.
    ///
    /// # Errors
    ///
    /// Whatever the client's write(2) shall answer; EINVAL by default.
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let _ = (offset, data);
        Err(Errno::EINVAL)
    }
}

/// A binary attribute: [`Memory`], or other [`Bytes`].
///
/// Reads and writes end at the size (`sysfs_kf_bin_read`, `sysfs_kf_bin_write`).
#[derive(Debug, Default)]
pub struct Binary<B = Memory> {
    bytes: B,
    notifier: Mutex<Option<Notifier>>,
}

impl<B: Bytes> Binary<B> {
    /// Takes the bytes.
    #[must_use]
    pub fn new(bytes: impl Into<B>) -> Self {
        Self { bytes: bytes.into(), notifier: Mutex::default() }
    }

    /// Returns the bytes.
    pub fn bytes(&self) -> &B {
        &self.bytes
    }

    /// Returns the bytes in the end.
    #[must_use]
    pub fn into_inner(self) -> B {
        self.bytes
    }

    /// Announces that the contents changed (`sysfs_notify`).
    pub fn notify(&self) {
        let notifier = self.notifier.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(notifier) = notifier {
            notifier.notify();
        }
    }

    /// Returns how many of `len` bytes at an offset are below the size.
    fn below(&self, offset: u64, len: usize) -> usize {
        let rest = self.bytes.size().saturating_sub(offset);
        len.min(usize::try_from(rest).unwrap_or(usize::MAX))
    }
}

impl<B: Bytes> Attribute for Binary<B> {
    fn ops(&self) -> Ops {
        Ops::READ | Ops::WRITE
    }

    fn size(&self) -> Option<u64> {
        Some(self.bytes.size())
    }

    fn show(&self, op: &mut ReadOp<'_>) -> Result<(), Errno> {
        let (offset, len) = (op.offset(), self.below(op.offset(), op.max_len()));
        let start = op.buffer().len();
        op.buffer().resize(start + len, 0);
        self.bytes.read_at(offset, &mut op.buffer()[start..])
    }

    fn store(&self, op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        let len = self.below(op.offset(), op.data().len());
        if len > 0 {
            self.bytes.write_at(op.offset(), &op.data()[..len])?;
        }
        Ok(len)
    }

    fn bind(&self, notifier: Option<Notifier>) {
        let mut bound = self.notifier.lock().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *bound, notifier);
        drop(bound);
        drop(old);
    }
}

impl<B: Bytes> Readable for Binary<B> {}

impl<B: Bytes> Writable for Binary<B> {}

/// Bytes in memory; the owner changes them by [`Bytes::write_at`].
#[derive(Debug, Default)]
pub struct Memory(Mutex<Box<[u8]>>);

impl Memory {
    /// Copies all bytes; what a client writes meanwhile is in the copy as a whole or not at all.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.lock().to_vec()
    }

    /// No code of users runs under the lock, so that a poisoned one is as good as any other.
    fn lock(&self) -> MutexGuard<'_, Box<[u8]>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Vec<u8>> for Memory {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Mutex::new(bytes.into()))
    }
}

impl Bytes for Memory {
    fn size(&self) -> u64 {
        self.lock().len() as u64
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), Errno> {
        let bytes = self.lock();
        let start = usize::try_from(offset).map_err(|_| Errno::EINVAL)?;
        let found =
            bytes.get(start..).and_then(|rest| rest.get(..out.len())).ok_or(Errno::EINVAL)?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let mut bytes = self.lock();
        let start = usize::try_from(offset).map_err(|_| Errno::EINVAL)?;
        let found = bytes
            .get_mut(start..)
            .and_then(|rest| rest.get_mut(..data.len()))
            .ok_or(Errno::EINVAL)?;
        found.copy_from_slice(data);
        Ok(())
    }
}
