//! P10: a reply that was taken along does not take the state of the open file along.
use kernfs::{Errno, FileOps, OpenOp, ReadOp};

struct Driver;

impl FileOps for Driver {
    type Open = Vec<u8>;
    fn open(&self, _: &mut OpenOp<'_>) -> Result<Vec<u8>, Errno> {
        Ok(Vec::new())
    }
    fn read(&self, open: &mut Vec<u8>, op: &mut ReadOp<'_>) -> Result<(), Errno> {
        let reply = op.defer();
        std::thread::spawn(move || reply.answer(Ok(open.clone())));
        Ok(())
    }
}

fn main() {}
