//! What the tests of the command share.

#![allow(dead_code, reason = "each test file uses a part")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};

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
