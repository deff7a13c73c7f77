//! `kernfs hunt` as its users run it, on programs that misbehave on purpose and on some that do not.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

mod misbehave;
mod support;

use support::{processes_with, said};

/// Long enough for the busiest machine; a test that works never waits for it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Not a test, unless it is told to be a client: then it is one.
#[test]
fn misbehave() {
    misbehave::as_told();
}

/// Makes a tree with a device that is listed in a class, and something beside it.
fn tree() -> TempDir {
    let dir = TempDir::new().unwrap();
    let at = |path: &str| dir.path().join(path);
    for path in ["device", "class", "other"] {
        fs::create_dir(at(path)).unwrap();
    }
    fs::write(at("device/uevent"), "").unwrap();
    fs::write(at("device/value"), "1200\n").unwrap();
    fs::write(at("other/value"), "1\n").unwrap();
    std::os::unix::fs::symlink("../device", at("class/one")).unwrap();
    dir
}

/// Prepares a hunt.
fn hunt_command<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kernfs"));
    command.arg("hunt").args(args).env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn hunt<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Output {
    hunt_command(args).output().unwrap()
}

/// The arguments for a hunt on a tree, with this program as the client.
fn args_for(tree: &Path, options: &[&str], behaviour: &str) -> Vec<String> {
    let tree = tree.to_str().unwrap();
    let own = std::env::current_exe().unwrap().to_str().unwrap().to_owned();
    let mut args: Vec<String> = vec!["--from".into(), tree.into()];
    args.extend(options.iter().map(ToString::to_string));
    args.extend(["--".into(), "env".into()]);
    args.push(format!("{}={behaviour}", misbehave::BEHAVIOUR));
    args.push(format!("{}={{}}", misbehave::DIR));
    args.extend([own, "--exact".into(), "misbehave".into(), "--nocapture".into()]);
    args
}

/// Hunts this program for its device, and takes the JSON with the exit status; `None`, with the
/// reason printed, where there can be no mount.
fn hunted(options: &[&str], behaviour: &str) -> Option<(Value, i32)> {
    let tree = tree();
    let options = [&["--sever", "device", "--json", "-"], options].concat();
    json_of(hunt(args_for(tree.path(), &options, behaviour)))
}

#[expect(clippy::needless_pass_by_value, reason = "it is done with")]
fn json_of(output: Output) -> Option<(Value, i32)> {
    let status = output.status.code().unwrap();
    if status == 3 && said(&output).contains("cannot mount the tree") && !can_mount() {
        eprintln!("skipped: {}", said(&output).trim_end());
        return None;
    }
    assert!(status < 2, "{}", said(&output));
    assert!(output.stderr.is_empty(), "{}", said(&output));
    Some((serde_json::from_slice(&output.stdout).unwrap(), status))
}

fn can_mount() -> bool {
    fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").is_ok()
}

/// Returns the group with this meaning.
#[track_caller]
fn group<'a>(json: &'a Value, meaning: &str) -> &'a Value {
    let groups = json["parts"][0]["groups"].as_array().unwrap();
    let found: Vec<_> = groups.iter().filter(|group| group["meaning"] == meaning).collect();
    assert_eq!(found.len(), 1, "{json:#}");
    found[0]
}

/// Returns the operations at which runs came to this.
fn operations(json: &Value, meaning: &str) -> Vec<String> {
    let findings = json["parts"][0]["findings"].as_array().unwrap();
    let found = findings.iter().filter(|finding| finding["meaning"] == meaning);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    found.map(|it| format!("{} {}", text(&it["operation"]), text(&it["path"]))).collect()
}

#[test]
fn a_crash_on_enodev_is_found_at_its_read() {
    let Some((json, status)) = hunted(&[], "crash") else { return };
    assert_eq!(status, 1);
    assert_eq!(json["clean"], false);
    assert_eq!(operations(&json, "crash"), ["read device/value"]);
    let crash = group(&json, "crash");
    assert_eq!(crash["says"], "killed by SIGABRT");
    assert_eq!(crash["again"], true);
    assert_eq!(crash["at"]["read"], 1);
    // At every other operation it finds no device, or has it read already.
    let findings = json["parts"][0]["findings"].as_array().unwrap();
    let k = usize::try_from(crash["first"]["k"].as_u64().unwrap()).unwrap();
    for (at, finding) in findings.iter().enumerate() {
        let meaning = match (at + 1).cmp(&k) {
            std::cmp::Ordering::Less => "without",
            std::cmp::Ordering::Equal => "crash",
            std::cmp::Ordering::Greater => "with",
        };
        assert_eq!(finding["meaning"], meaning, "{finding}");
        assert_eq!(finding["k"], at + 1);
        assert_eq!(finding["diverged"], Value::Null);
    }
    assert!(k > 3 && findings.len() >= k, "{json:#}");
}

#[test]
fn the_command_that_it_prints_comes_to_the_same() {
    let tree = tree();
    let options = ["--sever", "device", "--json", "-"];
    let output = hunt(args_for(tree.path(), &options, "crash"));
    let Some((json, _)) = json_of(output) else { return };
    let line = group(&json, "crash")["reproduce"].as_str().unwrap();
    let rest = line.strip_prefix("kernfs ").unwrap();
    let script = format!("exec {} {rest}", env!("CARGO_BIN_EXE_kernfs"));
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("  crash          1  killed by SIGABRT\n"), "{text}");
    assert!(text.contains("1 crash, 0 hangs in 1 run.\n"), "{text}");
    assert!(text.contains("the device answered ENODEV"), "no stderr: {text}");
}

#[test]
fn a_spin_is_found_with_what_goes_round() {
    let Some((json, status)) = hunted(&["--on", "read", "--timeout", "4"], "spin") else { return };
    assert_eq!(status, 1);
    assert_eq!(operations(&json, "hang"), ["read device/value"]);
    let hang = group(&json, "hang");
    assert_eq!(hang["says"], "never done with read of device/value");
    assert_eq!(hang["again"], true);
    assert!(hang["first"]["operations_after"].as_u64().unwrap() > 1000, "{hang:#}");
}

#[test]
fn a_hang_in_poll_is_found_with_its_file() {
    let Some((json, status)) = hunted(&["--on", "read", "--timeout", "4"], "poll") else { return };
    assert_eq!(status, 1);
    assert_eq!(operations(&json, "hang"), ["read device/value"]);
    let says = group(&json, "hang")["says"].as_str().unwrap();
    assert!(says.contains("poll of {}/other/value"), "{says}");
}

#[test]
fn a_descriptor_that_is_leaked_is_found() {
    let Some((json, status)) = hunted(&[], "leak") else { return };
    assert_eq!(status, 0, "a leak is reported, and no more: {json:#}");
    let findings = json["parts"][0]["findings"].as_array().unwrap();
    let leaks = findings.iter().filter(|finding| finding["leaked"] != 0);
    let leaks: Vec<_> = leaks.collect();
    assert_eq!(leaks.len(), 1, "{json:#}");
    assert_eq!(leaks[0]["leaked"], 1);
    assert_eq!(leaks[0]["operation"], "read");
    assert_eq!(leaks[0]["path"], "device/value");
}

#[test]
fn an_output_that_was_never_right_is_found() {
    let Some((json, status)) = hunted(&[], "stale") else { return };
    assert_eq!(status, 0);
    assert_eq!(operations(&json, "silent"), ["read device/value"]);
    let text = group(&json, "silent")["stdout"].as_str().unwrap();
    assert!(text.ends_with("0 rpm\n"), "{text}");
}

#[test]
fn an_error_that_is_reported_is_no_crash() {
    let Some((json, status)) = hunted(&[], "status") else { return };
    assert_eq!(status, 0);
    assert_eq!(json["clean"], true);
    assert_eq!(operations(&json, "failed"), ["read device/value"]);
    let failed = group(&json, "failed");
    assert_eq!(failed["says"], "ended with status 7");
    assert_eq!(failed["again"], Value::Null);
}

#[test]
fn a_shell_that_tells_of_a_crash_is_understood() {
    let tree = tree();
    let script = "cat {}/device/value >/dev/null 2>&1; ec=$?; [ -d {}/device ] || [ $ec = 0 ] || \
                  kill -SEGV $$; :";
    let args = ["--sever", "device", "--json", "-", "--from", tree.path().to_str().unwrap(), "--"];
    let inner = format!("ulimit -c 0; sh -c '{script}'; exit $?");
    let Some((json, status)) = json_of(hunt([&args[..], &["sh", "-c", &inner]].concat())) else {
        return;
    };
    // Without the device it always crashes, so that this is what it does without.
    assert_eq!((status, json["parts"][0]["without"].as_str().unwrap()), (0, "exited with 139"));
    let args = [&args[..args.len() - 1], &["--action", "enodev-once", "--on", "read", "--"]];
    let script = "cat {}/device/value >/dev/null 2>&1 || [ ! -d {}/device ] || kill -SEGV $$; :";
    let inner = format!("ulimit -c 0; sh -c '{script}'; exit $?");
    let args = [&args.concat()[..], &["sh", "-c", &inner]].concat();
    let Some((json, status)) = json_of(hunt(args)) else { return };
    assert_eq!(status, 1);
    let crash = group(&json, "crash");
    assert_eq!(crash["says"], "a shell tells of SIGSEGV");
    assert_eq!(crash["first"]["operation"], "read");
}

#[test]
fn nothing_is_reported_of_a_program_that_behaves() {
    for action in ["sever", "hide", "eio", "enodev-once", "torn", "slow"] {
        // So that what is slow takes no longer than it must.
        let limit: &[&str] = if action == "slow" { &["--on", "read"] } else { &[] };
        let options = [&["--action", action], limit].concat();
        let Some((json, status)) = hunted(&options, "behave") else { return };
        assert_eq!(status, 0, "{action}: {json:#}");
        assert_eq!(json["clean"], true);
        assert_eq!((&json["action"], &json["version"]), (&action.into(), &1.into()));
        let part = &json["parts"][0];
        assert!(part["runs"].as_u64().unwrap() > 0, "{action}: {json:#}");
        assert_eq!(part["runs"], part["operations"], "{action}: {json:#}");
        assert_eq!(part["diverged"], 0);
        for finding in part["findings"].as_array().unwrap() {
            let meaning = finding["meaning"].as_str().unwrap();
            assert!(matches!(meaning, "with" | "without"), "{action}: {finding}");
            assert_eq!(finding["leaked"], 0, "{action}: {finding}");
        }
        if action == "slow" {
            assert!(part["findings"][0]["millis"].as_u64().unwrap() >= 2000, "{json:#}");
        }
    }
}

#[test]
fn a_read_that_is_torn_is_found_where_nobody_goes_on_reading() {
    let Some((json, status)) = hunted(&["--action", "torn"], "once") else { return };
    assert_eq!(status, 0);
    assert_eq!(operations(&json, "silent"), ["read device/value"]);
    let text = group(&json, "silent")["stdout"].as_str().unwrap();
    assert!(text.ends_with("12 rpm\n"), "{text}");
}

#[test]
fn a_program_that_goes_another_way_each_time_is_told_of() {
    let count = TempDir::new().unwrap();
    let path = count.path().join("count");
    let behaviour = format!("waver:{}", path.display());
    let Some((json, _)) = hunted(&[], &behaviour) else { return };
    assert_eq!(json["undisturbed"]["same_operations"], false);
    assert_eq!(json["undisturbed"]["same_output"], true);
    let part = &json["parts"][0];
    let diverged = part["diverged"].as_u64().unwrap();
    assert!(diverged > 0 && diverged < part["runs"].as_u64().unwrap(), "{json:#}");
}

#[test]
fn links_go_with_what_they_lead_to() {
    let tree = tree();
    let script = "cat {}/class/one/value && cat {}/other/value";
    let from = ["--from", tree.path().to_str().unwrap(), "--json", "-"];
    let rest = ["--only", "1", "--", "sh", "-c", script];
    for path in ["device", "/device/", "class/one", "dev*"] {
        let args = [&from[..], &["--sever", path], &rest].concat();
        let Some((json, _)) = json_of(hunt(args)) else { return };
        assert_eq!(json["parts"][0]["path"], "device");
        assert_eq!(json["parts"][0]["links"], serde_json::json!(["class/one"]));
    }
}

#[test]
fn each_device_is_taken_away_in_turn_and_those_not_touched_are_named() {
    let tree = tree();
    fs::create_dir(tree.path().join("second")).unwrap();
    fs::write(tree.path().join("second/uevent"), "").unwrap();
    let args = ["--from", tree.path().to_str().unwrap(), "--json", "-", "--sever", "*"];
    let command = ["--", "cat", "{}/device/value"];
    let Some((json, _)) = json_of(hunt([&args[..], &command].concat())) else { return };
    let paths: Vec<_> =
        json["parts"].as_array().unwrap().iter().map(|part| &part["path"]).collect();
    assert_eq!(paths, ["device"]);
    assert_eq!(json["untouched"], serde_json::json!(["second"]));
}

#[test]
fn several_at_once_find_the_same() {
    let findings = |jobs: &str| {
        let (mut json, _) = hunted(&["--jobs", jobs], "stale")?;
        let mut findings = json["parts"][0]["findings"].take();
        for finding in findings.as_array_mut().unwrap() {
            finding.as_object_mut().unwrap().remove("millis");
        }
        Some(findings)
    };
    let Some(one) = findings("1") else { return };
    assert_eq!(findings("3"), Some(one));
}

#[test]
fn a_command_with_fixed_paths_sees_the_tree_and_nobody_else_does() {
    let (tree, place) = (tree(), TempDir::new().unwrap());
    let from = ["--from", tree.path().to_str().unwrap(), "--json", "-", "--on", "read"];
    let place = place.path().to_str().unwrap();
    let value = format!("{place}/device/value");
    let sever = format!("{place}/device");
    let rest = ["--sever", &sever, "--over", place, "--", "cat", &value];
    let output = hunt([&from[..], &rest].concat());
    if output.status.code() == Some(2) && said(&output).contains("mount namespace") {
        eprintln!("skipped: {}", said(&output).trim_end());
        return;
    }
    let Some((json, _)) = json_of(output) else { return };
    assert_eq!(json["parts"][0]["path"], "device");
    assert_eq!(operations(&json, "failed"), [""; 0]);
    // Severed before its first read it says what cat says of any error; later it is done.
    assert_eq!(json["parts"][0]["findings"].as_array().unwrap().len(), 2, "{json:#}");
    assert_eq!(fs::read_dir(place).unwrap().count(), 0);
}

#[test]
fn nothing_is_left_however_it_ends() {
    for signal in [Signal::INT, Signal::KILL] {
        let tree = tree();
        let options = ["--sever", "device", "--on", "read", "--timeout", "600"];
        let marker = format!("spin-{}-{}", std::process::id(), signal.as_raw());
        let mut args = args_for(tree.path(), &options, "spin");
        args.push(marker.clone());
        let mut command = hunt_command(args);
        command.env("TMPDIR", tree.path());
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let runs = || processes_with(&marker).iter().any(|it| it.contains("--exact"));
        let (own, mut child) = (child.id(), child);
        // The third run is the one that hangs: with the two before it ends at once.
        if !can_mount() {
            eprintln!("skipped: /dev/fuse cannot be used");
            let _ = child.wait();
            return;
        }
        wait_for("a client that hangs", || {
            let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
            mounts.contains(tree.path().to_str().unwrap()) && runs() && spins(&marker)
        });
        kill_process(Pid::from_raw(own.cast_signed()).unwrap(), signal).unwrap();
        let status = child.wait().unwrap();
        let expected = if signal == Signal::INT { Some(130) } else { None };
        assert_eq!(status.code(), expected);
        wait_for("the client to end", || !runs());
        wait_for("the directory to go", || {
            let names = fs::read_dir(tree.path()).unwrap().flatten();
            { names }.all(|it| !it.file_name().to_str().unwrap().starts_with("kernfs-hunt-"))
        });
        assert!(!support::is_mounted(tree.path()));
    }
}

/// Tells whether a client has run for so long that it must be the one that hangs.
fn spins(marker: &str) -> bool {
    let busy = |line: &String| {
        let pid = line.split(' ').next().unwrap();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields: Vec<_> =
            stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        // User and system time, in ticks of 10 ms.
        let ticks = |at: usize| fields.get(at).and_then(|it| it.parse::<u64>().ok()).unwrap_or(0);
        ticks(11) + ticks(12) > 20
    };
    processes_with(marker).iter().filter(|it| it.contains("--exact")).any(busy)
}

#[track_caller]
fn wait_for(what: &str, mut is_true: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_true() {
        assert!(Instant::now() < until, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn what_cannot_be_is_refused_in_one_line() {
    let tree = tree();
    let from = ["--from", tree.path().to_str().unwrap()];
    let refused = |args: &[&str], words: &str| {
        let output = hunt([&from[..], args].concat());
        let error = said(&output);
        if error.contains("cannot mount the tree") && !can_mount() {
            eprintln!("skipped: {}", error.trim_end());
            return;
        }
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.starts_with("kernfs: ") && error.contains(words), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    };
    refused(&["--sever", "device", "--", "true"], "has no {}");
    refused(&["--sever", "gone", "--", "ls", "{}"], "nothing of that name");
    refused(&["--sever", "/", "--", "ls", "{}"], "the whole tree");
    refused(&["--sever", "a[", "--", "ls", "{}"], "cannot take 'a[' away");
    refused(&["--sever", "device", "--", "/no/such/program", "{}"], "cannot start");
    refused(&["--sever", "device", "--subdir", "gone", "--", "ls", "{}"], "no directory");
    refused(&["--sever", "device", "--over", "/no/such", "--", "ls"], "cannot mount over");
    let torn = ["--action", "torn", "--on", "open"];
    refused(&[&["--sever", "device"], &torn[..], &["--", "ls", "{}"]].concat(), "only reads");
    let hangs = ["--sever", "device", "--timeout", "0.2", "--", "sh", "-c", "sleep 60; : {}"];
    refused(&hangs, "did not end in 0.2 s");
    refused(
        &["--sever", "device", "--", "sh", "-c", "ulimit -c 0; kill -SEGV $$; : {}"],
        "killed by SIGSEGV",
    );
}

#[test]
fn wrong_usage_is_refused() {
    for args in [
        &["--sever", "x", "--", "ls", "{}"][..],
        &["--from", "/sys", "--tree", "x", "--sever", "x", "--", "ls", "{}"],
        &["--from", "/sys", "--", "ls", "{}"],
        &["--from", "/sys", "--sever", "x"],
        &["--from", "/sys", "--sever", "x", "--only", "0", "--", "ls", "{}"],
        &["--from", "/sys", "--sever", "x", "--action", "explode", "--", "ls", "{}"],
        &["--tree", "/no/such/file", "--sever", "x", "--", "ls", "{}"],
    ] {
        let output = hunt(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", said(&output));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn help_explains_with_examples() {
    let output = hunt(["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let text = said(&output);
    for part in ["Examples:", "Operations:", "Actions:", "Outcomes:", "JSON:", "Exit status:"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

#[test]
fn a_command_that_cannot_do_without_the_part_is_told_of() {
    let tree = tree();
    let from = ["--from", tree.path().to_str().unwrap(), "--sever", "device", "--only", "1"];
    let script = "ulimit -c 0; test -d {}/device || kill -ABRT $$";
    let output = hunt([&from[..], &["--", "sh", "-c", script]].concat());
    if !can_mount() {
        eprintln!("skipped: /dev/fuse cannot be used");
        return;
    }
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let line = "  Without it from the start, the command was killed by SIGABRT (6)";
    assert!(text.contains(line), "{text}");
}

#[test]
fn the_text_fits_and_says_how_to_come_back() {
    let tree = tree();
    let output = hunt(args_for(tree.path(), &["--sever", "device"], "crash"));
    if !can_mount() {
        eprintln!("skipped: /dev/fuse cannot be used");
        return;
    }
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(output.stderr.is_empty(), "{}", said(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains('\x1b'), "coloured in a pipe: {text}");
    assert!(text.contains("  crash          1  killed by SIGABRT\n"), "{text}");
    assert!(text.contains("first before read of device/value\n"), "{text}");
    let is_to_be_pasted = |line: &&str| line.trim_start().starts_with("$ kernfs hunt --from ");
    assert_eq!(text.lines().filter(is_to_be_pasted).count(), 1, "{text}");
    let long = text.lines().skip(2).filter(|line| !is_to_be_pasted(line));
    assert!({ long }.all(|line| line.chars().count() <= 80), "{text}");
    assert!(text.ends_with("1 crash, 0 hangs in 6 runs.\n"), "{text}");
}
