//! The yardstick: the kernel's own cgroup2 and sysfs, where this process may use them.
//!
//! Everything that is made there has the id of this process in its name, and goes when the subject
//! is dropped, also by a panic.

mod cgroup2;

mod sysfs;

use std::path::PathBuf;
use std::process::Command;

pub use cgroup2::Cgroup2;
pub use sysfs::Sysfs;

use crate::subject::Sys;

/// Returns where a filesystem of a type is mounted for writing.
fn mounted(fs_type: &str) -> Result<PathBuf, String> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")
        .map_err(|error| format!("/proc/self/mounts cannot be read: {error}"))?;
    let place = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (path, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
        let is_it = kind == fs_type && options.split(',').any(|option| option == "rw");
        is_it.then(|| PathBuf::from(path))
    });
    place.ok_or_else(|| format!("no {fs_type} is mounted for writing"))
}

fn errno(error: &std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or(crate::errno::EINVAL)
}

/// Runs a program; what it says is the error.
fn run(program: &str, args: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(args).output();
    let output = output.map_err(|error| format!("`{program}` cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("`{program} {}` says: {}", args.join(" "), said.trim()))
}

/// The same, where it is known to work.
fn must_run(program: &str, args: &[&str]) -> Sys<String> {
    run(program, args).map_err(|said| {
        eprintln!("{said}");
        crate::errno::EINVAL
    })
}
