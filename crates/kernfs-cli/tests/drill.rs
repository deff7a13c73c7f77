//! `kernfs drill` as its users run it.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

mod support;
mod watcher;

use support::{eventually, is_mounted, processes_with, said};

/// Not a test: the monitor of those that are.
#[test]
fn monitor() {
    watcher::as_told();
}

/// Where a drill mounts; `None`, and says why, where it cannot.
fn place() -> Option<TempDir> {
    if rustix::fs::access("/dev/fuse", rustix::fs::Access::WRITE_OK).is_err() {
        eprintln!("skipped: /dev/fuse cannot be used");
        return None;
    }
    Some(TempDir::new().unwrap())
}

fn kernfs(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kernfs"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn drill_command(scenario: &str, on: &Path, options: &[&str], command: &[&str]) -> Command {
    let head = ["drill", scenario, "--mount", on.to_str().unwrap()];
    kernfs(&[&head, options, &["--"], command].concat())
}

/// Runs a drill, and makes sure that it leaves nothing.
fn drill(scenario: &str, on: &Path, options: &[&str], command: &[&str]) -> Output {
    let output = drill_command(scenario, on, options, command).output().unwrap();
    assert!(!is_mounted(on), "still mounted");
    let left = processes_with(on.to_str().unwrap());
    assert!(left.is_empty(), "{left:#?}");
    output
}

/// Lets a monitor run through a scenario; returns the JSON and the exit status.
fn watch(scenario: &str, on: &Path, options: &[&str], behaviour: &str) -> (Value, Option<i32>) {
    let own = std::env::current_exe().unwrap();
    let client = [own.to_str().unwrap(), "monitor", "--exact", "--nocapture", "--quiet"];
    let mut command = drill_command(scenario, on, &[&["--json"], options].concat(), &client);
    let output = command.env(watcher::BEHAVIOUR, behaviour).output().unwrap();
    assert!(!is_mounted(on), "still mounted");
    assert!(output.stderr.is_empty(), "{}", said(&output));
    (serde_json::from_slice(&output.stdout).unwrap(), output.status.code())
}

/// Checks that the command did not end before a step; on a busy machine it may be later.
fn assert_ended_after(json: &Value, step: u64) {
    assert!(json["end"]["after_step"].as_u64() >= Some(step), "{json:#}");
}

#[test]
fn pressure_rises_until_a_trigger_fires() {
    let Some(on) = place() else { return };
    let (json, status) = watch("pressure-rises", on.path(), &[], "trigger");
    assert_eq!(status, Some(0), "{json:#}");
    assert_eq!(json["ended_well"], true);
    assert_eq!(json["end"]["how"], "exit");
    // At 10 % it may not fire; at 40 % it does.
    assert_ended_after(&json, 3);
    assert!(json["stdout"].as_str().unwrap().contains("waits\npressure\n"), "{json:#}");
    assert_eq!(
        json["steps"][2]["does"].as_str().unwrap().split(',').next(),
        Some("memory stalls some 40% full 25%")
    );
    assert_eq!(json["steps"][0]["held"], 1, "{json:#}");
}

#[test]
fn a_monitor_that_waits_for_what_never_comes_is_told_with_its_place() {
    let Some(on) = place() else { return };
    let (json, status) = watch("pressure-rises", on.path(), &["--grace", "500ms"], "deaf-trigger");
    assert_eq!(status, Some(1), "{json:#}");
    assert_eq!(json["ended_well"], false);
    let end = &json["end"];
    assert_eq!((&end["how"], &end["after_step"]), (&"hang".into(), &4.into()), "{json:#}");
    let wanted = on.path().join("workload/memory.pressure");
    let in_poll = |thread: &&Value| thread["call"]["on"][0] == wanted.to_str().unwrap();
    let thread = end["threads"].as_array().unwrap().iter().find(in_poll);
    assert!(thread.is_some_and(|thread| thread["state"] == "S"), "{json:#}");
    assert_eq!(json["left"].as_array().unwrap().len(), 0);
}

#[test]
fn a_group_vanishes_under_a_monitor_that_expects_it() {
    let Some(on) = place() else { return };
    let (json, status) = watch("group-vanishes", on.path(), &[], "follow");
    assert_eq!(status, Some(0), "{json:#}");
    assert!(json["stdout"].as_str().unwrap().contains("gone: true\n"), "{json:#}");
    assert_eq!(json["steps_in_all"], 4);
    assert_ended_after(&json, 2);
}

#[test]
fn a_group_vanishes_under_a_monitor_that_trusts_in_it() {
    let Some(on) = place() else { return };
    let (json, status) = watch("group-vanishes", on.path(), &[], "trust");
    assert_eq!(status, Some(1), "{json:#}");
    let end = &json["end"];
    assert_eq!((&end["how"], &end["signal"]), (&"signal".into(), &6.into()), "{json:#}");
    assert_eq!(end["core_dump"], false);
    assert_ended_after(&json, 2);
}

#[test]
fn members_die_until_the_group_is_empty() {
    let Some(on) = place() else { return };
    let (json, status) = watch("members-die", on.path(), &[], "populated");
    assert_eq!(status, Some(0), "{json:#}");
    assert!(json["stdout"].as_str().unwrap().contains("waits\nempty\n"), "{json:#}");
    assert_ended_after(&json, 3);
}

#[test]
fn members_die_and_a_monitor_takes_it_for_a_mistake() {
    let Some(on) = place() else { return };
    let (json, status) = watch("members-die", on.path(), &[], "count");
    assert_eq!(status, Some(1), "{json:#}");
    let end = &json["end"];
    assert_eq!((&end["how"], &end["status"]), (&"exit".into(), &4.into()), "{json:#}");
    assert!(json["stdout"].as_str().unwrap().contains("counts 8\n"), "{json:#}");
    assert_ended_after(&json, 2);
}

#[test]
fn a_monitor_that_runs_on_is_stopped_after_the_last_step() {
    let Some(on) = place() else { return };
    let (json, status) = watch("group-vanishes", on.path(), &["--stop"], "reload");
    assert_eq!(status, Some(0), "{json:#}");
    assert!(json["stdout"].as_str().unwrap().contains("runs\nbye\n"), "{json:#}");
    assert_eq!((&json["end"]["asked"], &json["end"]["after_step"]), (&true.into(), &4.into()));
    assert_eq!(json["steps"].as_array().unwrap().len(), 4);
}

/// A scenario in which everything happens at once.
const SHORT: &str = r#"
about = "all at once"
grace = "300ms"

[[group]]
path = "a"
members = 3
memory = "8K"

[[step]]
at = "100ms"
group = "a"
write."memory.max" = "1M"
kill = 1
events = { oom_kill = 1 }

[[step]]
at = "200ms"
group = "a"
do = "remove"
"#;

#[test]
fn what_happens_is_told_line_by_line() {
    let Some(on) = place() else { return };
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("short.toml");
    fs::write(&file, SHORT).unwrap();
    // Waits until the second step is over.
    let script = "cd $KERNFS_MOUNT; wc -l <a/cgroup.procs; echo 'x\x1b[2J' >&2; sleep 0.4; \
                  cat a/memory.max; wc -l <a/cgroup.procs; grep oom_kill a/memory.events";
    let json = dir.path().join("out.json");
    let option = format!("--json={}", json.display());
    let options = [&*option, "--grace", "20s"];
    let output = drill(file.to_str().unwrap(), on.path(), &options, &["sh", "-c", script]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    for wanted in [
        "short.toml: all at once\n   before  a: made, 3 members come, uses 8K of memory\n",
        "s  | 3\n",
        "s  ! x\\u{1b}[2J\n",
        "step 1: a: \"1M\" written to memory.max, oom_kill 1, 1 member dies\n",
        "step 2: a: removed\n",
        // There were members left.
        "step 2: not done: removed: ",
        "s  | 1048576\n",
        "s  | 2\n",
        "s  | oom_kill 1\n",
        "The command ended well: exited with 0, after ",
        " after step 2.\nOf 1 steps not all could be done.\n",
    ] {
        assert!(text.contains(wanted), "{wanted:?} is not in:\n{text}");
    }
    assert!(!text.contains('\x1b'), "coloured in a pipe: {text}");
    let json: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    assert_eq!((&json["version"], &json["ended_well"]), (&1.into(), &true.into()));
    assert_eq!(json["command"][0], "sh");
    assert_eq!(json["mount"], on.path().to_str().unwrap());
    let error = json["steps"][1]["error"].as_str().unwrap();
    assert!(error.starts_with("not done: removed: "), "{error}");
    assert_eq!(json["steps"][0]["error"], Value::Null);
    assert_eq!(json["stderr"], "x\x1b[2J\n");
}

#[test]
fn mistakes_are_told_in_one_line_with_status_2() {
    let dir = TempDir::new().unwrap();
    let (on, wrong) = (dir.path().join("on"), dir.path().join("wrong.toml"));
    fs::create_dir(&on).unwrap();
    fs::write(&wrong, SHORT.replace("kill = 1\n", "kill = \"most\"\n")).unwrap();
    let [on, wrong] = [&on, &wrong].map(|path| path.to_str().unwrap());
    let gone = format!("{on}/gone");
    for (args, words) in [
        (&["nothing", "--mount", on, "--", "true"][..], "cannot read nothing: No such file"),
        (
            &["nothing", "--mount", on, "--", "true"],
            "; expected a file of TOML, or one of pressure-rises, group-",
        ),
        (
            &[wrong, "--mount", on, "--", "true"],
            "wrong.toml:14:8: expected a number of members, or `\"all\"`",
        ),
        (
            &["members-die", "--mount", &gone, "--", "true"],
            "; expected an existing directory with nothing mounted",
        ),
        (
            &["members-die", "--mount", "/proc", "--", "true"],
            "a filesystem of type proc is mounted there; expected",
        ),
    ] {
        let output = kernfs(&[&["drill"], args].concat()).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", said(&output));
        assert!(error.starts_with("kernfs: ") && error.contains(words), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    for args in [&["pressure-rises"][..], &["--mount", on, "--", "true"], &["x", "--mount", on]] {
        // No command, no scenario, no command.
        let output = kernfs(&[&["drill"], args].concat()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    }
}

#[test]
fn a_command_that_cannot_be_started_leaves_nothing() {
    let Some(on) = place() else { return };
    let output = drill("members-die", on.path(), &[], &["/no/such/program"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.starts_with("kernfs: cannot start /no/such/program: No such file"), "{error}");
}

#[test]
fn without_a_directory_it_makes_one_and_takes_it_away() {
    let Some(temporary) = place() else { return };
    let script = "test -d {}/pool && test $KERNFS_MOUNT = {} && ls -d {}/..";
    let mut command = kernfs(&["drill", "members-die", "--json", "--", "sh", "-c", script]);
    let output = command.env("TMPDIR", temporary.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mount = Path::new(json["mount"].as_str().unwrap());
    assert!(mount.starts_with(temporary.path()), "{json:#}");
    assert_eq!(json["stdout"], format!("{}/..\n", mount.display()));
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
}

#[test]
fn raw_output_is_let_through_as_it_is() {
    let Some(on) = place() else { return };
    let output = drill("members-die", on.path(), &["--raw"], &["printf", "a\\033[1mb"]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("a\x1b[1mb") && !text.contains("s  | "), "{text}");
}

#[test]
fn what_is_killed_leaves_neither_members_nor_the_command_in_a_directory_of_its_own() {
    let Some(dir) = place() else { return };
    let (temporary, started) = (dir.path().join("tmp"), dir.path().join("started"));
    fs::create_dir(&temporary).unwrap();
    let script = format!("touch {}; sleep 1000; true", started.display());
    let mut command = kernfs(&["drill", "members-die", "--", "sh", "-c", &script]);
    let mut drill = command.env("TMPDIR", &temporary).spawn().unwrap();
    eventually(|| started.exists());
    assert!(is_mounted(&temporary));
    kill_process(Pid::from_child(&drill), Signal::KILL).unwrap();
    drill.wait().unwrap();
    eventually(|| fs::read_dir(&temporary).unwrap().count() == 0);
    eventually(|| processes_with(started.to_str().unwrap()).is_empty());
}

#[test]
fn the_command_alone_sees_the_hierarchy_in_another_place() {
    let Some(dir) = place() else { return };
    let over = dir.path().to_str().unwrap();
    let script = format!("cat {over}/pool/pids.current");
    let output = kernfs(&["drill", "members-die", "--over", over, "--", "sh", "-c", &script])
        .output()
        .unwrap();
    let text = said(&output);
    if text.contains("cannot have a mount namespace") {
        eprintln!("skipped: {text}");
        return;
    }
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("s  | 8\n"), "{text}");
    assert_eq!(fs::read_dir(over).unwrap().count(), 0);
}

#[test]
fn scenarios_are_listed_and_shown() {
    let list = kernfs(&["drill", "--list"]).output().unwrap();
    assert_eq!(list.status.code(), Some(0), "{}", said(&list));
    let list = String::from_utf8(list.stdout).unwrap();
    let names: Vec<_> = list.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names, ["pressure-rises", "group-vanishes", "members-die"]);
    for name in names {
        let shown = kernfs(&["drill", name, "--show"]).output().unwrap();
        assert_eq!(shown.status.code(), Some(0), "{}", said(&shown));
        assert!(said(&shown).contains("\n[[step]]\n"), "{}", said(&shown));
    }
}

/// Waits until a drill has come to its first step.
fn start(on: &Path) -> Child {
    let script = ["sh", "-c", "touch $1/../started; sleep 1000; true", "sh", on.to_str().unwrap()];
    let child = drill_command("members-die", on, &[], &script).spawn().unwrap();
    let started = on.parent().unwrap().join("started");
    eventually(|| started.exists());
    child
}

#[test]
fn signals_end_the_command_and_the_members_and_unmount() {
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let Some(dir) = place() else { return };
        let on = dir.path().join("on");
        fs::create_dir(&on).unwrap();
        let drill = start(&on);
        assert!(is_mounted(&on));
        kill_process(Pid::from_child(&drill), signal).unwrap();
        let output = drill.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{}", said(&output));
        assert!(!is_mounted(&on));
        let left = processes_with(on.to_str().unwrap());
        assert!(left.is_empty(), "{left:#?}");
    }
}
