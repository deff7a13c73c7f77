//! Monitors of pressure that nobody here wrote, in a drill: they take the hierarchy for the
//! kernel's.
//!
//! - psi-top, of Debian's package nohang, reads the pressure files of all groups;
//! - oomd, of Debian's package of that name, reads pressure and memory, and kills members;
//! - resource-pressure, of PyPI, sets triggers and polls them.
//!
//! `.ci/run packages` installs them; what is missing is skipped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

mod support;

use support::said;

/// Where `.ci/run packages` puts what is from PyPI.
const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/python");

/// Tells whether a program says so, and a tree can be mounted; prints why not.
fn can_run(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).env("PYTHONPATH", PYTHON).stdin(Stdio::null());
    match command.output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let why = said(&output);
            eprintln!("skipped: {program} {args:?} gives: {}", why.lines().last().unwrap_or(""));
            return false;
        }
        Err(error) => {
            eprintln!("skipped: cannot run {program}: {error}");
            return false;
        }
    }
    let fuse = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
    fuse.inspect_err(|error| eprintln!("skipped: cannot open /dev/fuse: {error}")).is_ok()
}

/// Returns where the kernel's own hierarchy is, which programs take for the only one; prints why
/// not.
fn cgroup2() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    let dir = line.and_then(|line| line.split(' ').nth(1));
    if dir.is_none() {
        eprintln!("skipped: no cgroup2 is mounted here, where these programs look for it");
    }
    dir.map(PathBuf::from)
}

/// Runs a script in a drill; it ends by itself, long before the only step.
fn drill(scenario: &str, options: &[&str], script: &str) -> Option<(Value, Output)> {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("scenario.toml");
    fs::write(&file, scenario).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_kernfs"));
    command.arg("drill").arg(&file).args(options).args(["--json", "--", "sh", "-c", script]);
    command.env("SCRATCH", dir.path()).env("PYTHONPATH", PYTHON).stdin(Stdio::null());
    let output = command.output().unwrap();
    let json: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", said(&output)));
    let stderr = json["stderr"].as_str().unwrap();
    if stderr.contains("cannot have a mount namespace") || stderr.contains("cannot mount over") {
        eprintln!("skipped: {}", stderr.trim_end());
        return None;
    }
    Some((json, output))
}

/// Much pressure from the beginning, and far away a step that no test waits for.
const PRESSURE: &str = r#"
grace = "0s"

[[group]]
path = "workload"
members = 3
memory = "500M"
stall.memory = "some 95% full 90%"

[[group]]
path = "idle"

[[step]]
at = "50s"
group = "workload"
do = "sever"
"#;

#[test]
fn psi_top_shows_the_pressure_of_groups() {
    let Some(over) = cgroup2() else { return };
    if !can_run("psi-top", &["-m", "memory"]) {
        return;
    }
    // Rises above 10 % with the end of the first period.
    let script = "until psi-top -m memory | grep -E '[1-9][0-9]\\.[0-9]{2} .*/workload'; do \
                  sleep 0.2; done; psi-top -m memory";
    let Some((json, output)) = drill(PRESSURE, &["--over", path(&over)], script) else { return };
    assert_eq!(output.status.code(), Some(0), "{json:#}");
    let idle = json["stdout"].as_str().unwrap().lines().find(|line| line.ends_with("/idle"));
    assert!(idle.is_some_and(|line| line.trim_start().starts_with("0.00 ")), "{json:#}");
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Kills what is under more than 5 % of pressure.
const RULES: &str = r#"{ "rulesets": [ {
    "name": "protect", "silence-logs": "engine",
    "detectors": [ [ "pressure", { "name": "pressure_above", "args": {
        "cgroup": "workload", "resource": "memory", "threshold": "5", "duration": "0" } } ] ],
    "actions": [ { "name": "kill_by_pressure", "args": {
        "cgroup": "workload", "resource": "memory", "post_action_delay": "1" } } ]
} ] }"#;

#[test]
fn oomd_kills_the_members_of_a_group_under_pressure() {
    let Some(over) = cgroup2() else { return };
    if !can_run("oomd", &["--version"]) {
        return;
    }
    let script = format!(
        "cd $SCRATCH; touch kmsg; cat >rules.json <<'END'\n{RULES}\nEND\n\
         oomd -f {over} -C rules.json -i 1 -D $SCRATCH/run --kmsg-override $SCRATCH/kmsg & \
         while test -n \"$(cat {over}/workload/cgroup.procs)\"; do sleep 0.1; done; \
         cat {over}/workload/cgroup.events; sleep 0.2; kill $!",
        over = over.display()
    );
    let Some((json, output)) = drill(PRESSURE, &["--over", path(&over)], &script) else { return };
    assert_eq!(output.status.code(), Some(0), "{json:#}");
    assert_eq!(json["stdout"], "populated 0\nfrozen 0\n", "{json:#}");
    let log = json["stderr"].as_str().unwrap();
    for wanted in
        ["is over the threshold of 5", "mem=500MB", "Picked \"workload\" (500MB)", "] Killed 3: "]
    {
        assert!(log.contains(wanted), "{wanted:?} is not in:\n{log}");
    }
}

/// Tells on stdout of each change that the triggers show, and ends when the file goes.
const WATCH: &str = "python3 -m resource_pressure watch --psi-path";

#[test]
fn a_trigger_of_resource_pressure_fires() {
    if !can_run("python3", &["-m", "resource_pressure", "--help"]) {
        return;
    }
    let script = format!(
        "{WATCH} {{}}/workload/memory.pressure >$SCRATCH/log & \
         until grep 'kernel full-stall trigger' $SCRATCH/log; do sleep 0.1; done; kill $!"
    );
    let Some((json, output)) = drill(PRESSURE, &[], &script) else { return };
    assert_eq!(output.status.code(), Some(0), "{json:#}");
    assert!(json["stdout"].as_str().unwrap().contains("\"CRITICAL\""), "{json:#}");
}

#[test]
fn resource_pressure_notices_that_its_group_vanishes() {
    if !can_run("python3", &["-m", "resource_pressure", "--help"]) {
        return;
    }
    // Its triggers are set when it says so; the step comes after that, or later.
    let scenario = PRESSURE.replace("50s", "5s").replace("grace = \"0s\"", "grace = \"30s\"");
    let script = format!("exec {WATCH} {{}}/workload/memory.pressure");
    let Some((json, output)) = drill(&scenario, &[], &script) else { return };
    assert_eq!(output.status.code(), Some(1), "{json:#}");
    let end = &json["end"];
    assert_eq!((&end["how"], &end["status"]), (&"exit".into(), &2.into()), "{json:#}");
    assert_eq!(end["after_step"], 1, "{json:#}");
    let complaint = json["stderr"].as_str().unwrap();
    assert!(complaint.contains("PSI source disappeared or failed"), "{complaint}");
}
