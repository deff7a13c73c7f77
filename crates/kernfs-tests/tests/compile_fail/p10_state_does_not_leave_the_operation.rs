//! P10: the state of an open file is lent to an operation and cannot be kept beyond it.
use std::sync::Mutex;

use kernfs::{Errno, FileOps, OpenOp, ReadOp};

struct Driver {
    kept: Mutex<Option<&'static mut Vec<u8>>>,
}

impl FileOps for Driver {
    type Open = Vec<u8>;
    fn open(&self, _: &mut OpenOp<'_>) -> Result<Vec<u8>, Errno> {
        Ok(Vec::new())
    }
    fn read(&self, open: &mut Vec<u8>, _: &mut ReadOp<'_>) -> Result<(), Errno> {
        *self.kept.lock().unwrap() = Some(open);
        Ok(())
    }
}

fn main() {}
