//! A manager of groups and a monitor of one, and the monitor's group vanishes under it.
//!
//! `cargo run -p kernfs-cgroup --example embed` runs in this process; `embed DIR` mounts the
//! hierarchy there as well, until Enter is pressed.

use std::error::Error;
use std::io::stdin;
use std::thread;
use std::time::Duration;

use kernfs::{Caller, Events, Mode, OpenFlags};
use kernfs_cgroup::{Controllers, Hierarchy, MemoryEvent};
use kernfs_fuse::Mount;
use kernfs_psi::{Resource, Share, Stall};

fn main() -> Result<(), Box<dyn Error>> {
    let hierarchy = Hierarchy::new()?;
    hierarchy.root().enable(Controllers::all())?;
    let _triggers = hierarchy.engine().spawn()?;
    let mount = std::env::args_os().nth(1).map(|dir| Mount::new(hierarchy.tree(), dir));
    let mount = mount.transpose()?;

    // The manager makes a group and moves itself into it, by the files.
    let manager = hierarchy.tree().client(Caller::OWNER);
    manager.mkdir("/web", Mode::DIR)?;
    manager.open("/web/memory.max", OpenFlags::WRITE)?.write(b"64M\n")?;
    manager.open("/web/cgroup.procs", OpenFlags::WRITE)?.write(b"0\n")?;

    // The monitor waits for half a second of memory stalls in two, as systemd or an OOM daemon does.
    let monitor = manager.open("/web/memory.pressure", OpenFlags::READ_WRITE)?;
    monitor.write(b"some 500000 2000000")?;
    let monitor = thread::spawn(move || {
        loop {
            let _ = monitor.wait(Events::PRI);
            match monitor.read_to_string() {
                Ok(text) => print!("monitor: pressure\n{text}"),
                Err(errno) => return println!("monitor: the group is gone: {errno}"),
            }
        }
    });

    // The owner lets it get tight.
    let web = hierarchy.group("web").ok_or("the group is there")?;
    web.set_memory_current(63 << 20)?;
    web.add_memory_events(MemoryEvent::High, 12)?;
    web.pressure().set_share(Resource::Memory, Stall::Some, Share::from_millionths(600_000));
    match mount {
        Some(_) => drop(stdin().read_line(&mut String::new())?),
        None => thread::sleep(Duration::from_millis(2500)),
    }
    println!("members: {:?}", web.members());
    web.sever()?.wait()?;
    monitor.join().map_err(|_| "the monitor has come to its end")?;
    Ok(())
}
