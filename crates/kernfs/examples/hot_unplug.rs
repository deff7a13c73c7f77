//! Hot-unplug: a device is built aside, attached at once, and pulled while clients use it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use kernfs::{Caller, Dir, Errno, Events, Mode, OpenFlags, Tree, show};

/// Builds a sensor with three files; nobody sees it yet.
fn sensor(tree: &Tree) -> Result<Dir, Errno> {
    let device = tree.detached_dir(Mode::DIR);
    device.add_file("name", Mode::RO, show(|op| op.push(b"acme-42\n")))?.keep();
    device.add_file("temp1_label", Mode::RO, show(|op| op.push(b"intake\n")))?.keep();
    let reads = AtomicU32::new(0);
    let temperature = show(move |op| {
        let noise = reads.fetch_add(1, Ordering::Relaxed) % 3;
        op.push(format!("{}\n", 41_000 + noise).as_bytes());
    });
    device.add_file("temp1_input", Mode::RO, temperature)?.keep();
    Ok(device)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let tree = Arc::new(Tree::new());
    let hwmon = tree.root().add_dir("hwmon", Mode::DIR)?;
    let device = sensor(&tree)?;
    hwmon.attach("hwmon0", &device)?;

    let client = tree.client(Caller::OWNER);
    let input = client.open("/hwmon/hwmon0/temp1_input", OpenFlags::READ)?;
    println!("temperature: {}", input.read_to_string()?.trim());
    let watcher = {
        let input = input.clone();
        thread::spawn(move || input.wait(Events::PRI))
    };
    device.remove()?;

    println!("the watcher woke with {:?}", watcher.join().expect("the watcher does not panic"));
    println!("reading again: {:?}", input.read_to_string());
    println!("looking it up: {:?}", client.lookup("/hwmon/hwmon0").map(|_| ()));
    assert_eq!(input.read_to_string(), Err(Errno::ENODEV));
    assert_eq!(tree.usage().nodes, 2, "the root and hwmon are left");
    Ok(())
}
