//! Drivers that do next to nothing, so that what is around them is measured.

use std::io::Write;

use kernfs::{Caller, Client, Errno, FileOps, Kind, OpenOp, Ops, ReadOp, Tree, WriteOp};

/// The text of [`Constant`]: 18 bytes.
pub(crate) const TEXT: &[u8; 18] = b"12345678901234567\n";

/// The number that [`Number`] formats to the same text.
pub(crate) const NUMBER: u64 = 12_345_678_901_234_567;

/// A text of 18 bytes that is always the same.
pub(crate) struct Constant;

impl FileOps for Constant {
    type Open = ();

    fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
        Ok(())
    }

    #[inline]
    fn read(&self, (): &mut (), op: &mut ReadOp<'_>) -> Result<(), Errno> {
        op.push(TEXT);
        Ok(())
    }

    /// Takes a byte and does nothing: what is left is entering and leaving.
    #[inline]
    fn write(&self, (): &mut (), _: &mut WriteOp<'_>) -> Result<usize, Errno> {
        Ok(1)
    }
}

/// A text of 18 bytes that is formatted at each read.
pub(crate) struct Number(pub(crate) u64);

impl FileOps for Number {
    type Open = ();
    const OPS: Ops = Ops::READ;

    fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
        Ok(())
    }

    fn read(&self, (): &mut (), op: &mut ReadOp<'_>) -> Result<(), Errno> {
        let _ = writeln!(op.buffer(), "{}", self.0);
        Ok(())
    }
}

/// A binary file without contents: what is left of a read is entering and leaving.
pub(crate) struct Empty;

impl FileOps for Empty {
    type Open = ();
    const KIND: Kind = Kind::Binary;
    const OPS: Ops = Ops::READ;

    fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
        Ok(())
    }

    #[inline]
    fn read(&self, (): &mut (), _: &mut ReadOp<'_>) -> Result<(), Errno> {
        Ok(())
    }
}

/// The client of a tree that may do everything.
pub(crate) fn owner(tree: &Tree) -> Client {
    tree.client(Caller::OWNER)
}
