//! `kernfs demo --kernel`: what Linux's own kernfs gives to the same holders, and what is left.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

mod support;

use support::{Paused, demo, demo_command, eventually, processes_with, said, small_dir};

/// A run beside Linux's own, or the reason why there can be none.
fn run(args: &[&OsStr]) -> Option<Value> {
    let output = demo(&[&["--json".as_ref(), "--kernel".as_ref()], args].concat());
    if output.status.code() == Some(2) {
        eprintln!("skipped: {}", said(&output));
        return None;
    }
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

/// Returns where a run has made its group.
fn group(json: &Value) -> PathBuf {
    json["linux"]["group"].as_str().unwrap().into()
}

/// Returns the groups of a demo: each has a child that is to take it away.
fn groups_of(demo: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{demo}/task")).unwrap().flatten();
    let children = tasks.map(|task| fs::read_to_string(task.path().join("children")).unwrap());
    let children = children.collect::<Vec<_>>().join(" ");
    let lines = children.split_whitespace().map(|pid| fs::read(format!("/proc/{pid}/cmdline")));
    let lines = lines.map(|line| String::from_utf8(line.unwrap()).unwrap());
    let dirs = lines
        .filter_map(|line| Some(line.split_once("\0sweep\0")?.1.trim_end_matches('\0').to_owned()));
    dirs.filter(|dir| Path::new(dir).join("cgroup.procs").exists()).collect()
}

#[test]
fn who_sleeps_on_linux_is_measured_to_sleep_on() {
    let dir = small_dir();
    let Some(json) = run(&["--from".as_ref(), dir.path().as_os_str()]) else { return };
    assert_eq!(json["kept"], true);
    assert!(json["linux"]["remove_micros"].is_u64());
    assert!(!group(&json).exists());
    for holder in json["holders"].as_array().unwrap() {
        let linux = &holder["linux"];
        assert!(linux.is_object(), "{holder}");
        let fates = [linux["got"].is_string(), linux["still_asleep"] == true];
        let fates = fates.into_iter().chain([linux["why_not"].is_string()]);
        assert_eq!(fates.filter(|it| *it).count(), 1, "{holder}");
        // Measured, and not merely said.
        if linux["still_asleep"] == true {
            assert!(linux["after_micros"].as_u64().unwrap() >= 1_000_000, "{holder}");
        }
        match holder["who"].as_str().unwrap() {
            "half-way reader" => {
                assert!(linux["got"].as_str().unwrap().ends_with(" B, ENODEV"), "{holder}");
            }
            "half-way lister" => {
                assert_eq!(linux["got"], "end, ENOENT");
                assert_eq!(linux["holds"], ".");
            }
            "comes too late" => assert_eq!(linux["got"], "ENOENT"),
            "mapping" | "mapped page" | "blocked reader" | "inside the read" => {
                assert!(linux["why_not"].is_string(), "{holder}");
            }
            who if who.starts_with("in ") => assert_eq!(linux["holds"], "cgroup.events"),
            _ => {}
        }
    }
}

#[test]
fn the_table_has_a_column_of_linux() {
    if run(&[]).is_none() {
        return;
    }
    let output = demo(&["--kernel".as_ref()]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let heading = text.lines().find(|line| line.starts_with("HOLDER ")).unwrap();
    assert!(heading.contains(" GOT ") && heading.ends_with("AFTER"), "{text}");
    assert!(heading.contains(" LINUX "), "{text}");
    assert!(text.contains("\nLINUX "), "{text}");
}

#[test]
fn however_it_ends_the_group_goes_and_so_do_the_holders() {
    if run(&[]).is_none() {
        return;
    }
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        let temporary = TempDir::new().unwrap();
        let paused = Paused::start_in(temporary.path(), &["--kernel".as_ref()]);
        let groups = groups_of(paused.0.id());
        assert_eq!(groups.len(), 1, "{groups:?}");
        assert!(!processes_with(&groups[0]).is_empty());
        let status = paused.end_by(signal).status;
        let expected = if signal == Signal::KILL { None } else { Some(128 + signal.as_raw()) };
        assert_eq!((status.code(), status.signal().is_some()), (expected, expected.is_none()));
        // The sweeper does it where the demo could not.
        eventually(|| !Path::new(&groups[0]).exists());
        eventually(|| processes_with(&groups[0]).is_empty());
        eventually(|| fs::read_dir(temporary.path()).unwrap().count() == 0);
    }
}

#[test]
fn without_a_cgroup2_it_says_so_in_one_line() {
    // In a namespace where none is mounted, or where it is read-only.
    let own = |change: &str| {
        let program = demo_command(&["--kernel".as_ref()]);
        let script = format!("{change} && exec \"$0\" demo --kernel");
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script]).arg(program.get_program());
        command.output()
    };
    match own("true") {
        Ok(output) if matches!(output.status.code(), Some(0 | 2)) => {}
        other => {
            eprintln!("skipped: no mount namespace can be made: {other:?}");
            return;
        }
    }
    let each = "for dir in $(awk '$3 == \"cgroup2\" { print $2 }' /proc/self/mounts); do";
    for change in ["umount -l", "mount -o remount,bind,ro"] {
        let output = own(&format!("{each} {change} $dir; done")).unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        let error = String::from_utf8(output.stderr.clone()).unwrap();
        assert!(output.stdout.is_empty(), "{}", said(&output));
        let words = "kernfs: --kernel needs a cgroup2 where groups can be made; ";
        assert!(error.starts_with(words), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn it_takes_processes() {
    let output = demo(&["--kernel".as_ref(), "--in-process".as_ref()]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
}
