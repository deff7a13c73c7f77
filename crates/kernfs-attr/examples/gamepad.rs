//! A virtual gamepad that libudev sees: `cargo run --example gamepad -- DIR` mounts a sysfs.
//!
//! Then look at it with `SYSTEMD_DEVICE_VERIFY_SYSFS=0 unshare -m sh -c 'mount --bind DIR /sys &&
//! udevadm info -a -p /class/input/event5'`, and press Enter to unplug it.

use kernfs::{Manners, Tree};
use kernfs_attr::device::{Announcement, Sysfs};
use kernfs_attr::{Attr, Attributes};
use kernfs_fuse::Mount;

/// `struct input_dev`, as far as programs look.
#[derive(Attributes)]
struct Pad {
    #[attr(ro)]
    name: String,
    #[attr(ro)]
    phys: &'static str,
    #[attr(ro)]
    uniq: &'static str,
    #[attr(rw)]
    inhibited: Attr<bool>,
    #[group]
    id: Ids,
    #[group]
    capabilities: Capabilities,
}

#[derive(Attributes)]
struct Ids {
    #[attr(ro)]
    bustype: &'static str,
    #[attr(ro)]
    vendor: &'static str,
    #[attr(ro)]
    product: &'static str,
    #[attr(ro)]
    version: &'static str,
}

/// Bits by type of event: words of 64 in hexadecimal, the highest first.
#[derive(Attributes)]
struct Capabilities {
    #[attr(ro)]
    ev: &'static str,
    #[attr(ro)]
    key: &'static str,
    #[attr(ro)]
    abs: &'static str,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).ok_or("usage: gamepad DIR")?;
    let tree = Tree::builder().manners(Manners::Sysfs).build();
    let sys = Sysfs::new(tree.root())?;
    let mut events = sys.uevents(64);
    let mount = Mount::new(&tree, &dir)?;

    let input = sys.add_class("input")?;
    let pad = Pad {
        name: "Virtual Gamepad".into(),
        phys: "virtual/input0",
        uniq: "",
        inhibited: Attr::new(false),
        id: Ids { bustype: "0003", vendor: "045e", product: "028e", version: "0110" },
        capabilities: Capabilities { ev: "b", key: "7cdb000000000000 0 0 0 0", abs: "3003f" },
    };
    let pad = sys.device("input5").class(&input).env("PRODUCT", "3/45e/28e/110").register(pad)?;
    let event5 = sys.device("event5").class(&input).parent(&pad).number(13, 69);
    let event5 = event5.devname("input/event5").register(())?;

    println!("{}{} is plugged in; Enter unplugs it", mount.path().display(), event5.devpath());
    std::io::stdin().read_line(&mut String::new())?;
    let pad: Pad = pad.remove()?; // and event5 with it, whoever holds files of them
    while let Some(Announcement::Uevent(event)) = events.try_recv() {
        println!("{event}");
    }
    println!("{} is back with its owner", pad.name);
    Ok(())
}
