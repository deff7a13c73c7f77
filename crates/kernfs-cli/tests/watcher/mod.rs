//! Monitors of groups, well-behaved and not: the test program itself, told by its environment.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Resource, Rlimit};

/// Says how to behave; without it there is no monitor.
pub(crate) const BEHAVIOUR: &str = "KERNFS_WATCHER";

/// Behaves as told, and does not return; or returns at once.
pub(crate) fn as_told() {
    let Ok(behaviour) = std::env::var(BEHAVIOUR) else { return };
    // Who crashes on purpose leaves no core dump behind.
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(Resource::Core, none).unwrap();
    let mount = PathBuf::from(std::env::var_os("KERNFS_MOUNT").unwrap());
    process::exit(match &*behaviour {
        "trigger" => trigger(&mount.join("workload"), "some 300000 2000000"),
        "deaf-trigger" => trigger(&mount.join("workload"), "some 2000000 2000000"),
        "follow" => follow(&mount.join("service/job")),
        "trust" => trust(&mount.join("service/job")),
        "populated" => populated(&mount.join("pool")),
        "count" => count(&mount.join("pool")),
        "reload" => reload(),
        _ => 9,
    });
}

/// Waits for an event of a trigger.
fn trigger(group: &Path, trigger: &str) -> i32 {
    let file = set(group, trigger);
    println!("waits");
    if sleep(&file).contains(PollFlags::ERR) {
        return 3;
    }
    println!("pressure");
    0
}

fn set(group: &Path, trigger: &str) -> File {
    let pressure = group.join("memory.pressure");
    let mut file = OpenOptions::new().read(true).write(true).open(pressure).unwrap();
    file.write_all(trigger.as_bytes()).unwrap();
    file
}

/// Sleeps until there is something out of the ordinary.
fn sleep(file: &File) -> PollFlags {
    let mut fds = [PollFd::new(file, PollFlags::PRI)];
    poll(&mut fds, None).unwrap();
    fds[0].revents()
}

/// Follows a group until that vanishes, and knows that it can.
fn follow(group: &Path) -> i32 {
    let mut file = set(group, "some 2000000 2000000");
    println!("follows");
    let flags = sleep(&file);
    let gone = file.read_to_string(&mut String::new()).unwrap_err();
    let is_gone = flags.contains(PollFlags::ERR) && gone.raw_os_error() == Some(19);
    println!("gone: {is_gone}");
    i32::from(!is_gone)
}

/// Follows a group, and trusts that it stays.
fn trust(group: &Path) -> i32 {
    let mut file = File::open(group.join("memory.current")).unwrap();
    println!("trusts");
    loop {
        file.rewind().unwrap();
        let mut text = String::new();
        if file.read_to_string(&mut text).is_err() {
            process::abort();
        }
    }
}

/// Waits until a group is empty, as it is told.
fn populated(group: &Path) -> i32 {
    let mut file = File::open(group.join("cgroup.events")).unwrap();
    println!("waits");
    loop {
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        if text.contains("populated 0") {
            println!("empty");
            return 0;
        }
        sleep(&file);
    }
}

/// Counts the members of a group at first, and takes it for a mistake if there are fewer later.
fn count(group: &Path) -> i32 {
    let members = || fs::read_to_string(group.join("cgroup.procs")).unwrap().lines().count();
    let before = members();
    println!("counts {before}");
    while members() == before {}
    4
}

/// Sleeps until SIGTERM, and exits by it in order.
fn reload() -> i32 {
    let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGTERM]).unwrap();
    println!("runs");
    signals.forever().next();
    println!("bye");
    0
}
