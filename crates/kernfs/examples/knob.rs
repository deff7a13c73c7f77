//! A tuning knob: clients read and write it, until its owner takes it back.

use std::sync::atomic::{AtomicU32, Ordering};

use kernfs::{Caller, Errno, FileOps, Mode, OpenFlags, OpenOp, ReadOp, Tree, WriteOp};

/// The driver: the fan of a machine.
struct Fan {
    rpm: AtomicU32,
}

impl FileOps for Fan {
    type Open = ();

    fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
        Ok(())
    }

    fn read(&self, (): &mut (), op: &mut ReadOp<'_>) -> Result<(), Errno> {
        op.push(format!("{}\n", self.rpm.load(Ordering::Relaxed)).as_bytes());
        Ok(())
    }

    fn write(&self, (): &mut (), op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        match op.text()?.parse() {
            Ok(rpm @ 0..=5000) => self.rpm.store(rpm, Ordering::Relaxed),
            Ok(_) => return Err(Errno::ERANGE),
            Err(_) => return Err(Errno::EINVAL),
        }
        Ok(op.data().len())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let tree = Tree::new();
    let fan = tree.root().add_file("rpm", Mode::RW, Fan { rpm: AtomicU32::new(1200) })?;

    let held = tree.client(Caller::OWNER).open("/rpm", OpenFlags::READ_WRITE)?;
    held.write_at(b"3000\n", 0)?;
    println!("the client reads {:?}", held.read_to_string()?);
    println!("a fan that fast: {:?}", held.write_at(b"9000\n", 0));

    // The owner sees the driver through the handle, and gets it back though the client holds on.
    assert_eq!(fan.rpm.load(Ordering::Relaxed), 3000);
    let fan: Fan = fan.remove()?;
    println!("the owner has its fan back, at {} rpm", fan.rpm.into_inner());
    println!("the client reads {:?}", held.read_to_string());
    assert_eq!(held.read_to_string(), Err(Errno::ENODEV));
    Ok(())
}
