//! `kernfs record` and `kernfs mount replay` as their users run them.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

mod support;

use support::{is_mounted, said};

fn kernfs(args: &[&str]) -> Output {
    kernfs_command(args).output().unwrap()
}

fn kernfs_command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kernfs"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A directory to record, a file to record into, and one to mount on.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let put = |path: &str, text: &str, mode: u32| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        put("sys/devices/fan0/rpm", "1200\n", 0o644);
        put("sys/devices/fan0/serial", "42\n", 0o444);
        put("sys/devices/fan1/rpm", "900\n", 0o644);
        put("sys/skipped/secret", "x", 0o644);
        fs::create_dir_all(dir.path().join("sys/class/fan")).unwrap();
        symlink("../../devices/fan0", dir.path().join("sys/class/fan/fan0")).unwrap();
        fs::create_dir(dir.path().join("mnt")).unwrap();
        Self { dir }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn text(&self, path: &str) -> String {
        self.path(path).to_str().unwrap().to_owned()
    }

    /// Where the recorded tree has the one that was recorded.
    fn subdir(&self) -> String {
        fs::canonicalize(self.path("sys")).unwrap().to_str().unwrap().to_owned()
    }

    fn record(&self) -> String {
        let (sys, file) = (self.text("sys"), self.text("a.tar.zst"));
        let output = kernfs(&["record", &sys, "-o", &file, "--skip", "skipped"]);
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        file
    }

    /// Mounts; `None`, and a line that says why, where that cannot be done.
    fn mount(&self, options: &[&str]) -> Option<Mounted> {
        let (file, mnt) = (self.record(), self.text("mnt"));
        let subdir = self.subdir();
        let args = ["mount", "replay", &file, &mnt, "--subdir", &subdir];
        let mut child = kernfs_command(&[&args, options].concat()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line.is_empty() {
            let output = child.wait_with_output().unwrap();
            assert!(said(&output).contains("cannot mount"), "{}", said(&output));
            eprintln!("skipped: {}", said(&output));
            return None;
        }
        let mounted = Mounted { child: Some(child), dir: self.path("mnt") };
        assert!(
            line.contains("a.tar.zst (3 files, 5 directories, 1 link) is mounted at"),
            "{line}"
        );
        Some(mounted)
    }
}

impl Drop for Place {
    /// Lets the directory be removed when a test has failed.
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.path("mnt"), rustix::mount::UnmountFlags::DETACH);
    }
}

struct Mounted {
    child: Option<Child>,
    dir: PathBuf,
}

impl Mounted {
    fn path(&self, path: &str) -> PathBuf {
        self.dir.join(path)
    }

    /// Ends it, and checks that it has ended well and left nothing.
    fn end(mut self, end: impl FnOnce(Pid, &Path)) {
        let mut child = self.child.take().unwrap();
        end(Pid::from_child(&child), &self.dir);
        let until = Instant::now() + Duration::from_secs(20);
        while child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < until, "does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        assert!(output.stderr.is_empty(), "{}", said(&output));
        assert!(!is_mounted(&self.dir));
    }
}

impl Drop for Mounted {
    /// Leaves no process behind when a test has failed.
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn by(signal: Signal) -> impl FnOnce(Pid, &Path) {
    move |pid, _| kill_process(pid, signal).unwrap()
}

fn errno(error: &std::io::Error) -> Option<i32> {
    error.raw_os_error()
}

#[test]
fn what_was_recorded_is_told() {
    let place = Place::new();
    let file = place.text("a.tar.gz");
    let output = kernfs(&["record", &place.text("sys"), "-o", &file, "--skip", "skipped"]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.starts_with(&format!("{file} (")), "{text}");
    assert!(text.contains("): 3 files, 6 directories, 1 link, 12 B of contents, in "), "{text}");
    assert!(text.contains("       1  left out as told\n"), "{text}");
    assert!(output.stderr.is_empty(), "a progress bar in a pipe: {text}");
}

#[test]
fn a_recorded_tree_is_served_and_its_plug_can_be_pulled() {
    let place = Place::new();
    let Some(mounted) = place.mount(&[]) else { return };
    let rpm = mounted.path("class/fan/fan0/rpm");
    assert_eq!(fs::read(&rpm).unwrap(), b"1200\n");
    let written = fs::write(&rpm, "1").unwrap_err();
    assert_eq!(errno(&written), Some(Errno::ROFS.raw_os_error()));
    assert!(!mounted.path("skipped").exists());
    let mut held = File::open(&rpm).unwrap();
    fs::remove_dir(mounted.path("devices/fan0")).unwrap();
    let read = held.read(&mut [0; 8]).unwrap_err();
    assert_eq!(errno(&read), Some(Errno::NODEV.raw_os_error()));
    assert_eq!(fs::read(&rpm).unwrap_err().kind(), ErrorKind::NotFound);
    fs::remove_file(mounted.path("devices/fan1/rpm")).unwrap();
    assert!(!mounted.path("devices/fan1/rpm").exists());
    mounted.end(by(Signal::TERM));
}

#[test]
fn with_keep_nobody_pulls_the_plug() {
    let place = Place::new();
    let Some(mounted) = place.mount(&["--keep"]) else { return };
    let removed = fs::remove_dir(mounted.path("devices/fan0")).unwrap_err();
    assert_eq!(errno(&removed), Some(Errno::PERM.raw_os_error()));
    let removed = fs::remove_file(mounted.path("devices/fan0/rpm")).unwrap_err();
    assert_eq!(errno(&removed), Some(Errno::PERM.raw_os_error()));
    mounted.end(by(Signal::INT));
}

#[test]
fn with_writable_what_was_written_is_read() {
    let place = Place::new();
    let Some(mounted) = place.mount(&["--writable"]) else { return };
    fs::write(mounted.path("devices/fan0/rpm"), "3").unwrap();
    assert_eq!(fs::read(mounted.path("class/fan/fan0/rpm")).unwrap(), b"3\n");
    assert_eq!(fs::read(mounted.path("devices/fan1/rpm")).unwrap(), b"900\n");
    let written = fs::write(mounted.path("devices/fan0/serial"), "1").unwrap_err();
    assert_eq!(written.kind(), ErrorKind::PermissionDenied);
    mounted.end(|_, dir| {
        // By somebody else, as umount(8) does.
        let flags = rustix::mount::UnmountFlags::DETACH;
        if rustix::mount::unmount(dir, flags).is_err() {
            assert!(Command::new("fusermount3").arg("-uz").arg(dir).status().unwrap().success());
        }
    });
}

/// Checks that a command ends with status 2 and one line, which has these words.
fn assert_refused(args: &[&str], words: &str) {
    let output = kernfs(args);
    let error = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(output.stdout.is_empty());
    assert!(error.starts_with("kernfs: ") && error.contains(words), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn what_cannot_be_done_is_said_in_one_line() {
    let place = Place::new();
    let (sys, file, mnt) = (place.text("sys"), place.record(), place.text("mnt"));
    assert_refused(&["record", &sys, "-o", "a.zip"], "expected a name in .tar.zst");
    assert_refused(
        &["record", &(sys.clone() + "/gone"), "-o", &file],
        "there is no such directory",
    );
    assert_refused(&["record", &sys, "-o", &file, "--skip", "a["], "'a[' is not a pattern: ");
    assert_refused(&["record", &sys, "-o", &file, "--timeout", "0"], "expected more than 0");
    assert_refused(&["mount", "replay", &(file.clone() + "x"), &mnt], "No such file");
    assert_refused(
        &["mount", "replay", &file, &(mnt.clone() + "/gone")],
        "expected an existing directory",
    );
    let wrong = ["mount", "replay", &file, &mnt, "--subdir", "none"];
    assert_refused(&wrong, "there is no such directory; expected one below ");
    fs::write(place.path("bad.tar"), &fs::read(&file).unwrap()[..100]).unwrap();
    let cut = place.text("bad.tar");
    assert_refused(&["mount", "replay", &cut, &mnt], "cannot read '");
}
