//! What the tests of the command share.

#![allow(dead_code, reason = "each test file uses a part")]

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// Prepares `kernfs demo`.
pub(crate) fn demo_command(args: &[&OsStr]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kernfs"));
    command.arg("demo").args(args).env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs `kernfs demo`.
pub(crate) fn demo(args: &[&OsStr]) -> Output {
    demo_command(args).output().unwrap()
}

/// Runs it, and takes its JSON, which must tell of no failure.
pub(crate) fn json_of(args: &[&OsStr]) -> Value {
    let output = demo(&[&["--json".as_ref()], args].concat());
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Returns all that was printed.
pub(crate) fn said(output: &Output) -> String {
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    format!("{out}{err}")
}

/// Makes a directory to copy.
pub(crate) fn small_dir() -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::write(dir.path().join("sub/value"), "1200 rpm\n").unwrap();
    symlink("sub/value", dir.path().join("link")).unwrap();
    symlink("/", dir.path().join("out")).unwrap();
    dir
}

/// Tells whether anything is mounted below a directory, by what the kernel lists.
pub(crate) fn is_mounted(dir: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let dir = dir.to_str().unwrap();
    mounts.lines().filter_map(|line| line.split(' ').nth(1)).any(|path| path.starts_with(dir))
}

/// Returns the processes that have a text in their command line.
pub(crate) fn processes_with(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(text) {
            found.push(format!("{} {line}", entry.file_name().to_string_lossy()));
        }
    }
    found
}

/// Waits until something is so.
pub(crate) fn eventually(mut is_true: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !is_true() {
        assert!(Instant::now() < until, "not in time");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A demo that stands still because everybody holds.
pub(crate) struct Paused(pub(crate) Child);

impl Paused {
    pub(crate) fn start(args: &[&OsStr]) -> Self {
        Self::start_in(&std::env::temp_dir(), args)
    }

    /// Starts one that makes its temporary directories in this one.
    pub(crate) fn start_in(temporary: &Path, args: &[&OsStr]) -> Self {
        let mut command = demo_command(&[args, &["--pause".as_ref()]].concat());
        let mut child = command.env("TMPDIR", temporary).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        assert_eq!(line, "paused\n");
        child.stderr = Some(stderr.into_inner());
        Self(child)
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }

    pub(crate) fn end_by(self, signal: Signal) -> Output {
        kill_process(self.pid(), signal).unwrap();
        self.0.wait_with_output().unwrap()
    }
}
