//! A client that misbehaves on purpose when its device goes: the test program itself, told by its
//! environment.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Resource, Rlimit};

/// Says how to behave; without it there is no client.
pub(crate) const BEHAVIOUR: &str = "KERNFS_BEHAVIOUR";

/// Says where the tree is.
pub(crate) const DIR: &str = "KERNFS_DIR";

/// Behaves as told, and does not return; or returns at once.
pub(crate) fn as_told() {
    let (Ok(behaviour), Some(dir)) = (std::env::var(BEHAVIOUR), std::env::var_os(DIR)) else {
        return;
    };
    // Who crashes on purpose leaves no core dump behind.
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(Resource::Core, none).unwrap();
    let client = Client { device: path(&dir, "device/value"), other: path(&dir, "other/value") };
    let (behaviour, argument) = behaviour.split_once(':').unwrap_or((&behaviour, ""));
    if behaviour == "waver" {
        client.waver(Path::new(argument));
    }
    let value = match File::open(&client.device) {
        Ok(file) => client.read(file, behaviour),
        Err(_) => None,
    };
    match value {
        Some(value) => println!("{} rpm", value.trim_end()),
        None => println!("no device"),
    }
    process::exit(0);
}

fn path(dir: &OsString, path: &str) -> PathBuf {
    Path::new(dir).join(path)
}

struct Client {
    device: PathBuf,
    other: PathBuf,
}

impl Client {
    /// Reads the value by system calls that can be counted: one read, and more only if it is short.
    fn read(&self, mut file: File, behaviour: &str) -> Option<String> {
        let mut bytes = [0; 100];
        let mut len = 0;
        loop {
            match file.read(&mut bytes[len..]) {
                Ok(0) if behaviour == "spin" => {}
                Ok(0) => return None,
                Ok(read) => len += read,
                Err(error) if self.goes_on(&error, &file, behaviour) => {}
                Err(_) if behaviour == "stale" => return Some("0".into()),
                Err(_) if behaviour == "leak" => {
                    std::mem::forget(file);
                    return None;
                }
                Err(_) => return None,
            }
            let is_whole = bytes[..len].ends_with(b"\n") || behaviour == "once";
            if len > 0 && is_whole {
                return Some(String::from_utf8(bytes[..len].to_vec()).unwrap());
            }
        }
    }

    /// Does something silly about an error; tells whether it wants to read on.
    fn goes_on(&self, error: &io::Error, _: &File, behaviour: &str) -> bool {
        match behaviour {
            "crash" => {
                eprintln!("the device answered {}", name(error));
                process::abort();
            }
            "poll" => {
                // Waits for something that never comes.
                let other = File::open(&self.other).unwrap();
                let _ = (&other).read(&mut [0; 100]);
                let _ = poll(&mut [PollFd::new(&other, PollFlags::PRI)], None);
                true
            }
            "status" => {
                eprintln!("the device answered {}", name(error));
                process::exit(7);
            }
            "spin" => true,
            _ => false,
        }
    }

    /// Does the same each time, but looks first at what it looks at last the other time.
    fn waver(&self, count: &Path) -> ! {
        let so_far = fs::read(count).map_or(0, |text| text.len());
        fs::write(count, vec![b'.'; so_far + 1]).unwrap();
        if so_far.is_multiple_of(2) {
            let _ = fs::metadata(&self.device);
            let _ = File::open(&self.device);
        } else {
            let _ = File::open(&self.device);
            let _ = fs::metadata(&self.device);
        }
        println!("done");
        process::exit(0);
    }
}

fn name(error: &io::Error) -> &'static str {
    match rustix::io::Errno::from_io_error(error) {
        Some(rustix::io::Errno::NODEV) => "ENODEV",
        _ => "something else",
    }
}
