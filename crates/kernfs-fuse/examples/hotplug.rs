//! Plugs a device in and pulls it out while somebody uses it: `cargo run --example hotplug -- DIR`.
//!
//! The somebody is this program again. It reads what it can get and tells how that ended.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use kernfs::{Dir, Mode, Tree, show};
use kernfs_fuse::Mount;

/// Attaches a device with all its files at once: nobody sees half of it.
fn plug(tree: &Tree, round: u32) -> Result<Dir, Box<dyn std::error::Error>> {
    let device = tree.detached_dir(Mode::DIR);
    let serial = show(move |op| op.push(format!("{round}\n").as_bytes()));
    device.add_file("serial", Mode::RO, serial)?.keep();
    device.add_file("status", Mode::RO, show(|op| op.push(b"ok\n")))?.keep();
    tree.root().attach("device", &device)?;
    Ok(device)
}

/// Holds the device's files open and reads them for as long as they let it.
fn hold(device: &Path) -> std::io::Result<()> {
    let mut files = [File::open(device.join("serial"))?, File::open(device.join("status"))?];
    let mut serial = String::new();
    files[0].read_to_string(&mut serial)?;
    for reads in 0_u64.. {
        let status = std::os::unix::fs::FileExt::read_at(&files[1], &mut [0; 16], 0);
        if let Err(error) = status {
            println!("device {} after {reads} reads: {error}", serial.trim());
            break;
        }
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = env::args().nth(1).ok_or("usage: hotplug DIR")?;
    let path = Path::new(&dir).join("device");
    if env::args().nth(2).is_some() {
        return Ok(hold(&path)?);
    }
    let tree = Tree::new();
    let _mount = Mount::new(&tree, &dir)?;
    for round in 1..=5 {
        let device = plug(&tree, round)?;
        let mut holder = Command::new(env::current_exe()?).args([&dir, "hold"]).spawn()?;
        thread::sleep(Duration::from_millis(300));
        let start = Instant::now();
        device.remove()?;
        println!("pulled in {:?}, name is gone: {}", start.elapsed(), fs::metadata(&path).is_err());
        holder.wait()?;
    }
    Ok(())
}
