//! Reads that run side by side share the state of the open file, which must allow it.
use std::cell::Cell;

use kernfs::{Errno, FileOps, OpenOp, ReadShared};

struct Driver;

impl FileOps for Driver {
    type Open = Cell<u32>;
    const READ_SHARED: Option<ReadShared<Self>> = Some(ReadShared::new(|_, _, _| Ok(())));
    fn open(&self, _: &mut OpenOp<'_>) -> Result<Cell<u32>, Errno> {
        Ok(Cell::new(0))
    }
}

fn main() {}
