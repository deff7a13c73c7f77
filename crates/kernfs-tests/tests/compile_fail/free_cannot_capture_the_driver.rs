//! What ends the file lifetime runs after severing, so it must not reach the driver.
use kernfs::{Errno, FileOps, OpenOp};

struct Driver {
    opens: std::sync::atomic::AtomicUsize,
}

impl FileOps for Driver {
    type Open = ();
    fn open(&self, op: &mut OpenOp<'_>) -> Result<(), Errno> {
        op.on_free(|| {
            self.opens.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
        });
        Ok(())
    }
}

fn main() {}
