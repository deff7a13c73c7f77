//! Mounts a tree with a knob and a counter: `cargo run --example mount -- DIR`.
//!
//! Try `cat DIR/speed`, `echo 9 > DIR/speed`, then press Enter: the knob goes, whoever holds it.

use std::sync::atomic::{AtomicU64, Ordering};

use kernfs::{Errno, FileOps, Mode, OpenOp, ReadOp, Tree, WriteOp, show};
use kernfs_fuse::Mount;

struct Speed(AtomicU64);

impl FileOps for Speed {
    type Open = ();

    fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
        Ok(())
    }

    fn read(&self, (): &mut (), op: &mut ReadOp<'_>) -> Result<(), Errno> {
        op.push(format!("{}\n", self.0.load(Ordering::Relaxed)).as_bytes());
        Ok(())
    }

    fn write(&self, (): &mut (), op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        let speed = op.text()?.parse().map_err(|_| Errno::EINVAL)?;
        self.0.store(speed, Ordering::Relaxed);
        Ok(op.data().len())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).ok_or("usage: mount DIR")?;
    let tree = Tree::new();
    let mount = Mount::new(&tree, &dir)?;
    let speed = tree.root().add_file("speed", Mode::RW, Speed(AtomicU64::new(1)))?;
    let reads = AtomicU64::new(0);
    let counter = show(move |op| {
        let count = reads.fetch_add(1, Ordering::Relaxed) + 1;
        op.push(format!("{count}\n").as_bytes());
    });
    tree.root().add_file("reads", Mode::RO, counter)?.keep();

    println!("mounted at {}; Enter takes the knob away", mount.path().display());
    std::io::stdin().read_line(&mut String::new())?;
    let speed = speed.remove()?;
    println!("the knob is back, at {}; Enter unmounts", speed.0.into_inner());
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}
