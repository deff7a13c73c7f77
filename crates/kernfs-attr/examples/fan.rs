//! A fan as a directory of files, by a struct and a derive: `cargo run --example fan`.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use kernfs::{Caller, Errno, OpenFlags, Tree};
use kernfs_attr::{Attr, Attributes, Choice, DirExt};

#[derive(Choice, Clone, Copy, Debug, PartialEq)]
enum Profile {
    Quiet,
    Performance,
}

#[derive(Attributes)]
struct Fan {
    /// How fast the fan shall be.
    #[attr(rw, range = 0..=5000, unit = "rpm", store = Self::spin_up)]
    target: Attr<u32>,
    #[attr(ro, show = Self::speed, unit = "rpm")]
    speed: AtomicU32,
    #[attr(rw)]
    profile: Attr<Profile>,
}

impl Fan {
    fn spin_up(&self, target: &u32) -> Result<(), Errno> {
        self.speed.store(target - target % 100, Relaxed);
        Ok(())
    }

    fn speed(&self) -> u32 {
        self.speed.load(Relaxed)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let tree = Tree::new();
    let fan = Fan { target: 1200.into(), speed: 1200.into(), profile: Profile::Performance.into() };
    let fan = tree.root().add_group("fan0", fan)?;
    let client = tree.client(Caller::OWNER);
    client.open("/fan0/target", OpenFlags::WRITE)?.write(b"0x7ff\n")?;
    client.open("/fan0/profile", OpenFlags::WRITE)?.write(b"quiet")?;
    for file in ["/fan0/target", "/fan0/speed", "/fan0/profile"] {
        print!("{file}: {}", client.open(file, OpenFlags::READ)?.read_to_string()?);
    }
    let fan: Fan = fan.remove()?;
    println!("the owner has its fan back: {:?}, {} rpm", fan.profile.get(), fan.speed());
    Ok(())
}
