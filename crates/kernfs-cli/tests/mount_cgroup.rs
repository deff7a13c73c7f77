//! `kernfs mount cgroup` as its users run it.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

mod support;

use support::{eventually, is_mounted, processes_with, said};

/// Two directories to mount on.
struct Place {
    dir: TempDir,
}

impl Place {
    /// Makes them; says so where nothing can be mounted.
    fn new() -> Option<Self> {
        if rustix::fs::access("/dev/fuse", rustix::fs::Access::WRITE_OK).is_err() {
            eprintln!("skipped: /dev/fuse cannot be used");
            return None;
        }
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join("groups")).unwrap();
        fs::create_dir(dir.path().join("control")).unwrap();
        Some(Self { dir })
    }

    fn groups(&self, path: &str) -> PathBuf {
        self.dir.path().join("groups").join(path)
    }

    fn control(&self, path: &str) -> PathBuf {
        self.dir.path().join("control").join(path)
    }

    fn assert_left_as_it_was(&self) {
        assert!(!is_mounted(self.dir.path()), "still mounted");
        eventually(|| processes_with(self.dir.path().to_str().unwrap()).is_empty());
    }
}

impl Drop for Place {
    /// Leaves nothing behind when a test has failed.
    fn drop(&mut self) {
        for dir in [self.groups(""), self.control("")] {
            let _ = rustix::mount::unmount(dir, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

fn command(args: &[&Path]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kernfs"));
    command.args(["mount", "cgroup"]).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A mount that is ready, and the line that said so.
struct Mounted {
    child: Child,
    line: String,
}

impl Mounted {
    fn start(place: &Place) -> Self {
        let control = place.control("");
        let mut child =
            command(&[&place.groups(""), "--control".as_ref(), &control]).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        child.stdout = Some(stdout.into_inner());
        Self { child, line }
    }

    fn end_by(self, signal: Signal) -> Output {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        self.child.wait_with_output().unwrap()
    }
}

/// Writes as echo does.
fn write(path: &Path, text: &str) {
    OpenOptions::new().write(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

#[test]
fn pressure_and_vanishing_groups_are_rehearsed_by_writing_to_files() {
    let Some(place) = Place::new() else { return };
    let mounted = Mounted::start(&place);
    let wanted = format!(
        "a cgroup hierarchy is mounted at {}, its control tree is mounted at {}; \
         SIGINT or SIGTERM unmounts them\n",
        place.groups("").display(),
        place.control("").display()
    );
    assert_eq!(mounted.line, wanted);

    fs::create_dir(place.groups("web")).unwrap();
    write(&place.control("web/memory.stall"), "some 60% full 30%\n");
    let shown = fs::read_to_string(place.control("web/memory.stall")).unwrap();
    assert_eq!(shown, "some 60%\nfull 30%\n");
    let pressure = place.groups("web/memory.pressure");
    // It stalls from now on, so that the averages rise sooner or later.
    eventually(|| !fs::read_to_string(&pressure).unwrap().contains("some avg10=0.00"));

    let mut watched = OpenOptions::new().read(true).write(true).open(&pressure).unwrap();
    watched.write_all(b"some 200000 2000000").unwrap();
    assert_eq!(wait(&watched), PollFlags::PRI);
    write(&place.control("web/memory.stall"), "0");
    write(&place.control("web/sever"), "1\n");
    assert!(wait(&watched).contains(PollFlags::ERR));
    let errno = watched.read(&mut [0; 8]).unwrap_err().raw_os_error();
    assert_eq!(errno, Some(19), "not ENODEV");
    for dir in [place.groups("web"), place.control("web")] {
        eventually(|| !dir.exists());
    }
    let output = mounted.end_by(Signal::TERM);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(output.stderr.is_empty(), "{}", said(&output));
    place.assert_left_as_it_was();
}

fn wait(file: &File) -> PollFlags {
    let mut fds = [PollFd::new(file, PollFlags::PRI)];
    let limit = Timespec { tv_sec: 30, tv_nsec: 0 };
    assert_eq!(poll(&mut fds, Some(&limit)), Ok(1), "no event came");
    fds[0].revents()
}

#[test]
fn signals_unmount_also_what_is_in_use() {
    let Some(place) = Place::new() else { return };
    for signal in [Signal::INT, Signal::TERM] {
        let mounted = Mounted::start(&place);
        fs::create_dir(place.groups("a")).unwrap();
        let mut held = File::open(place.groups("a/cgroup.procs")).unwrap();
        let output = mounted.end_by(signal);
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        place.assert_left_as_it_was();
        assert!(held.read(&mut [0; 8]).is_err());
    }
}

#[test]
fn who_unmounts_ends_it() {
    let Some(place) = Place::new() else { return };
    let mounted = Mounted::start(&place);
    if rustix::mount::unmount(place.control(""), rustix::mount::UnmountFlags::empty()).is_err() {
        eprintln!("skipped: only root can unmount so");
        mounted.end_by(Signal::TERM);
        return;
    }
    let output = mounted.child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    place.assert_left_as_it_was();
}

#[test]
fn what_a_killed_one_leaves_is_cleared_away_by_the_next() {
    let Some(place) = Place::new() else { return };
    let output = Mounted::start(&place).end_by(Signal::KILL);
    assert_eq!(output.status.signal(), Some(Signal::KILL.as_raw()));
    // Whether the watchdog has done so, or it is done now.
    let again = Mounted::start(&place);
    assert!(again.line.contains("is mounted at "), "{}", again.line);
    fs::create_dir(place.groups("a")).unwrap();
    let output = again.end_by(Signal::TERM);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    place.assert_left_as_it_was();
}

#[test]
fn directories_that_cannot_be_mounted_on_are_refused_in_one_line() {
    let Some(place) = Place::new() else { return };
    let mounted = Mounted::start(&place);
    let (groups, control) = (place.groups(""), place.control(""));
    let (gone, other) = (place.dir.path().join("gone"), TempDir::new().unwrap());
    let inside = other.path().join("inside");
    fs::create_dir(&inside).unwrap();
    let option: &Path = "--control".as_ref();
    for (args, words) in [
        (&[&*gone][..], "(os error 2); expected an existing directory"),
        (&["/proc".as_ref()], "a filesystem of type proc is mounted there; expected"),
        (&[&*groups], "mounted there"),
        (&[other.path(), option, &*control], "mounted there"),
        (&[other.path(), option, other.path()], "; expected directories apart"),
        (&[other.path(), option, &*inside], "; expected directories apart"),
    ] {
        let output = command(args).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", said(&output));
        assert!(error.starts_with("kernfs: cannot mount at "), "{error}");
        assert!(error.contains(words), "{args:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(!is_mounted(other.path()), "still mounted");
    }
    let output = mounted.end_by(Signal::TERM);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    place.assert_left_as_it_was();
}

#[test]
fn groups_are_made_and_processes_put_in_by_who_mounts() {
    let Some(place) = Place::new() else { return };
    let mounted = Mounted::start(&place);
    fs::create_dir(place.groups("a")).unwrap();
    write(&place.groups("cgroup.subtree_control"), "+memory");
    write(&place.control("a/memory.current"), "64M\n");
    let current = fs::read_to_string(place.groups("a/memory.current")).unwrap();
    assert_eq!(current, "67108864\n");
    let mut sleeper = Command::new("sleep").arg("1000").spawn().unwrap();
    write(&place.groups("a/cgroup.procs"), &sleeper.id().to_string());
    assert!(fs::remove_dir(place.groups("a")).is_err(), "EBUSY is expected");
    // Files say that the group is killed, and the process notices nothing.
    write(&place.groups("a/cgroup.kill"), "1");
    assert!(sleeper.try_wait().unwrap().is_none());
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    fs::remove_dir(place.groups("a")).unwrap();
    eventually(|| !place.control("a").exists());
    let output = mounted.end_by(Signal::TERM);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    place.assert_left_as_it_was();
}
