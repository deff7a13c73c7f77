//! P1, P4: there is no poll callback through which a driver could hand in another wait object.
use kernfs::{Errno, FileOps, OpenOp};

struct Driver;

impl FileOps for Driver {
    type Open = ();
    fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
        Ok(())
    }
    fn poll(&self, _: &mut ()) {}
}

fn main() {}
