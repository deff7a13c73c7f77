//! `kernfs demo` through a real mount: what holds, and what is left when it ends in any way.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

mod support;

use support::{
    Paused, demo, demo_command, eventually, is_mounted, json_of, processes_with, said, small_dir,
};

/// A mount point of its own, and what is copied.
struct Place {
    from: TempDir,
    on: TempDir,
}

impl Place {
    fn args(&self) -> [&OsStr; 4] {
        let (from, on) = (self.from.path().as_os_str(), self.on.path().as_os_str());
        ["--from".as_ref(), from, "--mount".as_ref(), on]
    }

    /// Checks that no mount, no process and no file is left.
    fn assert_left_as_it_was(&self) {
        let on = self.on.path();
        assert!(!is_mounted(on), "still mounted");
        assert_eq!(fs::read_dir(on).unwrap().count(), 0);
        // Those who were left alone find out by themselves.
        eventually(|| processes_with(on.to_str().unwrap()).is_empty());
    }
}

impl Drop for Place {
    /// Leaves nothing behind when a test has failed.
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.on.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

/// Returns a place to mount on; says so where nothing can be mounted.
fn place() -> Option<Place> {
    let json = json_of(&[]);
    if json["reach"]["mode"] == "mount" {
        return Some(Place { from: small_dir(), on: TempDir::new().unwrap() });
    }
    eprintln!("skipped: {}", json["reach"]["why"]);
    None
}

/// Tells whether a mount has lost its server; of what stat(2) tells, the kernel has a copy.
fn is_dead(on: &Path) -> bool {
    matches!(rustix::fs::statfs(on), Err(rustix::io::Errno::NOTCONN))
}

#[test]
fn processes_are_let_go_through_the_mount() {
    let Some(place) = place() else { return };
    let json = json_of(&place.args());
    assert_eq!(json["kept"], true);
    assert_eq!(json["reach"]["mode"], "mount");
    assert_eq!(json["reach"]["mounted_on"], place.on.path().to_str().unwrap());
    let holders = json["holders"].as_array().unwrap();
    let processes: Vec<_> = holders.iter().filter(|it| it["pid"].is_u64()).collect();
    assert_eq!((holders.len(), processes.len()), (14, 11));
    for holder in holders {
        assert_eq!(holder["as_expected"], true, "{holder}");
        assert!(holder["after_micros"].is_u64(), "{holder}");
    }
    let page = holders.iter().find(|it| it["who"] == "mapped page").unwrap();
    assert_eq!(page["got"], "SIGBUS");
    let inside = holders.iter().find(|it| it["who"] == "inside the read").unwrap();
    assert_eq!(json["owner"]["stuck_on"][0]["pid"], inside["pid"]);
    let owner = &json["owner"];
    assert_eq!((&owner["opens"], &owner["releases"]), (&11.into(), &11.into()));
    assert_eq!((&owner["frees"], &owner["frees_before_close"]), (&11.into(), &0.into()));
    place.assert_left_as_it_was();
}

#[test]
fn without_a_directory_it_makes_one_and_takes_it_away() {
    let Some(_) = place() else { return };
    let json = json_of(&[]);
    let on = Path::new(json["reach"]["mounted_on"].as_str().unwrap());
    assert!(!on.exists());
    assert!(!is_mounted(on));
    assert_eq!(json["reach"]["why"], "/dev/fuse can be used");
}

#[test]
fn sigint_and_sigterm_unmount_and_end_the_holders() {
    let Some(place) = place() else { return };
    for (signal, status, name) in [(Signal::INT, 130, "SIGINT"), (Signal::TERM, 143, "SIGTERM")] {
        let paused = Paused::start(&place.args());
        assert!(is_mounted(place.on.path()));
        let held = processes_with(place.on.path().to_str().unwrap());
        // The demo, the watchdog of its mount, and the holders.
        assert_eq!(held.len(), 2 + 11, "{held:#?}");
        let output = paused.end_by(signal);
        assert_eq!(output.status.code(), Some(status), "{}", said(&output));
        assert!(said(&output).ends_with(&format!("stopped by {name}\n")), "{}", said(&output));
        place.assert_left_as_it_was();
    }
}

#[test]
fn a_signal_at_any_time_leaves_nothing() {
    let Some(place) = place() else { return };
    for delay in (0..60).step_by(4).map(Duration::from_millis) {
        let child = demo_command(&place.args()).spawn().unwrap();
        thread::sleep(delay);
        // Fails if it has ended already.
        let _ = kill_process(Pid::from_child(&child), Signal::INT);
        let output = child.wait_with_output().unwrap();
        let died_early = output.status.signal() == Some(Signal::INT.as_raw());
        let status = output.status.code();
        assert!(died_early || matches!(status, Some(0 | 130)), "{status:?} {}", said(&output));
        place.assert_left_as_it_was();
    }
}

#[test]
fn a_second_signal_kills_at_once_and_leaves_nothing() {
    let Some(_) = place() else { return };
    let temporary = TempDir::new().unwrap();
    let mut killed = 0;
    for _ in 0..5 {
        let paused = Paused::start_in(temporary.path(), &[]);
        assert!(is_mounted(temporary.path()));
        // Both are there when it goes on, and any thread may take either.
        for signal in [Signal::STOP, Signal::INT, Signal::TERM, Signal::CONT] {
            kill_process(paused.pid(), signal).unwrap();
        }
        let status = paused.0.wait_with_output().unwrap().status;
        match status.signal() {
            Some(signal) => {
                assert!([Signal::INT, Signal::TERM].map(Signal::as_raw).contains(&signal));
            }
            // Two threads took them at the same time.
            None => assert!(matches!(status.code(), Some(130 | 143)), "{status:?}"),
        }
        killed += u32::from(status.signal().is_some());
        eventually(|| fs::read_dir(temporary.path()).unwrap().count() == 0);
    }
    assert!(killed > 0, "every second signal was taken for a first one");
}

#[test]
fn a_killed_demo_leaves_no_holders_and_its_mount_is_recovered() {
    let Some(place) = place() else { return };
    let output = Paused::start(&place.args()).end_by(Signal::KILL);
    assert_eq!(output.status.signal(), Some(Signal::KILL.as_raw()));
    eventually(|| processes_with(place.on.path().to_str().unwrap()).is_empty());
    // Dead, or gone by the hand of the watchdog.
    let on = place.on.path();
    eventually(|| !is_mounted(on) || is_dead(on));
    let was_left = is_mounted(on);
    let output = demo(&place.args());
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let told = said(&output).contains("a dead mount of a former run was cleared away");
    assert!(told || !was_left, "{}", said(&output));
    place.assert_left_as_it_was();
}

#[test]
fn a_killed_demo_leaves_nothing_in_a_directory_of_its_own() {
    let Some(_) = place() else { return };
    let temporary = TempDir::new().unwrap();
    let paused = Paused::start_in(temporary.path(), &[]);
    assert!(is_mounted(temporary.path()));
    paused.end_by(Signal::KILL);
    eventually(|| fs::read_dir(temporary.path()).unwrap().count() == 0);
    assert!(!is_mounted(temporary.path()));
    eventually(|| processes_with(temporary.path().to_str().unwrap()).is_empty());
}

#[test]
fn a_directory_that_cannot_be_mounted_on_is_refused() {
    let Some(place) = place() else { return };
    let (from, elsewhere) = (place.from.path(), small_dir());
    for (on, words) in [
        (from.join("gone"), "No such file or directory"),
        (elsewhere.path().join("sub/value"), "Not a directory"),
        (from.join("sub"), " is copied"),
        ("/proc".into(), "a filesystem of type proc is mounted there"),
    ] {
        let args = ["--from".as_ref(), from.as_os_str(), "--mount".as_ref(), on.as_os_str()];
        let output = demo(&args);
        let error = String::from_utf8(output.stderr.clone()).unwrap();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(output.stdout.is_empty());
        assert!(error.starts_with("kernfs: cannot mount at "), "{error}");
        assert!(error.contains(words), "{error}");
        assert!(error.contains("; expected an existing directory"), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn eight_demos_run_at_once() {
    let Some(_) = place() else { return };
    let running: Vec<_> =
        (0..8).map(|_| demo_command(&["--json".as_ref()]).spawn().unwrap()).collect();
    for child in running {
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(!Path::new(json["reach"]["mounted_on"].as_str().unwrap()).exists());
    }
}
