//! `kernfs demo` as its users run it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

use serde_json::Value;
use tempfile::TempDir;

mod support;

use support::{demo, demo_command, json_of, said, small_dir};

fn demo_from(dir: &Path) -> Output {
    demo(&["--from".as_ref(), dir.as_os_str()])
}

/// Runs the demo in process, which is the same on every machine.
fn json_from(dir: &Path) -> Value {
    json_of(&["--in-process".as_ref(), "--from".as_ref(), dir.as_os_str()])
}

/// Checks that a directory is refused in one line, which has these words.
fn assert_refused(dir: &Path, words: &str) {
    let output = demo_from(dir);
    let error = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(output.stdout.is_empty());
    assert!(error.starts_with("kernfs: cannot serve '"), "{error}");
    assert!(error.contains(words), "{error}");
    assert!(error.contains("; expected a directory"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn the_promise_holds_on_the_default_input() {
    let output = demo(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(output.stderr.is_empty(), "{}", said(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.ends_with("All six points of the promise held.\n"), "{text}");
    assert!(!text.contains('\x1b'), "coloured in a pipe: {text}");
    assert_eq!(text.matches("  ok  ").count(), 6, "{text}");
}

#[test]
fn the_promise_holds_on_its_own_source() {
    let json = json_from(Path::new(env!("CARGO_MANIFEST_DIR")));
    assert_eq!(json["kept"], true);
    assert!(json["source"]["files"].as_u64().unwrap() > 10);
}

#[test]
fn the_json_tells_everything_that_help_documents() {
    let dir = small_dir();
    let json = json_from(dir.path());
    assert_eq!(json["version"], 1);
    assert_eq!(json["source"]["from"], dir.path().to_str().unwrap());
    assert_eq!((&json["source"]["files"], &json["source"]["links"]), (&1.into(), &1.into()));
    assert_eq!(json["source"]["skipped"]["leading_out"], 1);
    assert_eq!(json["source"]["stopped"], Value::Null);
    let holders = json["holders"].as_array().unwrap();
    assert_eq!(holders.len(), 9);
    assert_eq!(json["reach"]["mode"], "in-process");
    assert_eq!(json["reach"]["why"], "--in-process was given");
    assert_eq!(json["reach"]["mounted_on"], Value::Null);
    assert_eq!(json["reach"]["recovered"], false);
    for holder in holders {
        assert_eq!(holder["pid"], Value::Null, "{holder}");
        assert_eq!(holder["as_expected"], true, "{holder}");
        assert_eq!(holder["got"], holder["expected"], "{holder}");
        assert!(holder["after_micros"].is_u64(), "{holder}");
    }
    assert_eq!(holders[0]["holds"], "files/sub/value");
    assert_eq!(holders[0]["got"], "5 B, ENODEV");
    let owner = &json["owner"];
    assert_eq!((&owner["drivers"], &owner["drivers_back"]), (&4.into(), &4.into()));
    assert_eq!((&owner["opens"], &owner["releases"]), (&7.into(), &7.into()));
    assert_eq!((&owner["frees"], &owner["frees_before_close"]), (&7.into(), &0.into()));
    assert!(owner["remove_micros"].as_u64() >= owner["driver_micros"].as_u64());
    assert_eq!(owner["stuck_on"][0]["operation"], "read");
    assert_eq!(owner["stuck_on"][0]["name"], "slow");
    let points: Vec<_> = json["promise"].as_array().unwrap().iter().collect();
    let numbers: Vec<_> = points.iter().map(|point| point["point"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
    assert!(points.iter().all(|point| point["held"] == true));
}

#[test]
fn everyone_is_let_go_in_good_time() {
    let json = json_from(small_dir().path());
    let left = json["owner"]["driver_micros"].as_u64().unwrap();
    for holder in json["holders"].as_array().unwrap() {
        let after = holder["after_micros"].as_u64().unwrap();
        // The second is for busy machines.
        assert!(after < left + 1_000_000, "{holder}");
    }
}

#[test]
fn the_source_is_left_as_it_is() {
    let dir = small_dir();
    let value = dir.path().join("sub/value");
    let before = fs::metadata(&value).unwrap().modified().unwrap();
    json_from(dir.path());
    assert_eq!(fs::read(&value).unwrap(), b"1200 rpm\n");
    assert_eq!(fs::metadata(&value).unwrap().modified().unwrap(), before);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
}

#[test]
fn hostile_names_reach_the_terminal_escaped() {
    let parent = TempDir::new().unwrap();
    let dir = parent.path().join(OsStr::from_bytes(b"a\x1b[31m\nb\xff"));
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join(OsStr::from_bytes(b"v\x1b]0;title\x07\n")), "text\n").unwrap();
    let output = demo_from(&dir);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let first = text.lines().next().unwrap();
    assert!(first.contains("a\\u{1b}[31m\\nb\\xff: a live copy"), "{text}");
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
}

#[test]
fn a_directory_that_does_not_exist_is_refused() {
    assert_refused(&small_dir().path().join("gone"), "there is no such directory");
}

#[test]
fn a_file_is_refused() {
    assert_refused(&small_dir().path().join("sub/value"), "it is not a directory");
}

#[test]
fn an_empty_directory_is_refused() {
    assert_refused(TempDir::new().unwrap().path(), "it is empty");
}

#[test]
fn a_directory_without_text_is_refused() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("nothing"), "").unwrap();
    assert_refused(dir.path(), "it has nothing that can be served");
}

#[test]
fn a_directory_that_must_not_be_read_is_refused() {
    let dir = small_dir();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read_dir(dir.path()).is_ok() {
        eprintln!("skipped: modes do not bind this user");
        return;
    }
    assert_refused(dir.path(), "it must not be read");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn wrong_usage_is_refused() {
    assert_eq!(demo(&["--form".as_ref()]).status.code(), Some(2));
    assert_eq!(demo(&["--from".as_ref()]).status.code(), Some(2));
    let both = demo(&["--in-process".as_ref(), "--mount".as_ref(), "/mnt".as_ref()]);
    assert_eq!(both.status.code(), Some(2));
    assert!(said(&both).contains("cannot be used with"), "{}", said(&both));
}

#[test]
fn help_explains_with_examples() {
    let output = demo(&["--help".as_ref()]);
    assert_eq!(output.status.code(), Some(0));
    let text = said(&output);
    for part in ["Examples:", "kernfs demo --from", "--mount", "JSON:", "Signals:", "Exit status:"]
    {
        assert!(text.contains(part), "{text}");
    }
    for hidden in ["--pause", "holder KIND", "sweep"] {
        assert!(!text.contains(hidden), "{text}");
    }
}

#[test]
fn a_reader_that_closes_the_pipe_is_no_failure() {
    let mut child = demo_command(&[]).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(output.stderr.is_empty(), "{}", said(&output));
}
