//! Mounts of those who are not root, or root of their own user namespace only.

mod support;

use std::path::Path;
use std::process::Command;
use std::{env, fs};

use rustix::io::Errno;
use support::client::{self, Client};
use support::{Limit, TestDir, sys};

#[test]
fn client() {
    client::serve();
}

/// Starts somebody whom `change` makes different, if such a one can be; prints why not.
fn start_as(change: impl Fn(&mut Command)) -> Option<Client> {
    let mut trial = Command::new("true");
    change(&mut trial);
    match trial.status() {
        Ok(_) => Some(Client::start_as(change)),
        Err(error) => {
            eprintln!("skipped: no such namespaces: {error}");
            None
        }
    }
}

/// Starts somebody in namespaces of his own, where he has this number, and has him mount.
fn isolated(dir: &TestDir, uid: u32) -> Option<Client> {
    if let Err(error) = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        eprintln!("skipped: /dev/fuse cannot be opened: {error}");
        return None;
    }
    let mut client = start_as(|command| sys::isolate(command, uid))?;
    client.call(format!("mount ours {}", dir.path().display())).unwrap();
    Some(client)
}

/// Returns whom stat(2) shows where there is no number for the owner.
fn nobody() -> String {
    let id = |kind| fs::read_to_string(format!("/proc/sys/kernel/overflow{kind}")).unwrap();
    format!("{}:{}", id("uid").trim(), id("gid").trim())
}

#[test]
fn root_of_a_namespace_mounts_there_without_help() {
    let _limit = Limit::new();
    let dir = TestDir::new();
    let Some(mut client) = isolated(&dir, 0) else { return };
    let at = |name: &str| dir.path().join(name).display().to_string();
    client.call(format!("open f b {}", at("knob"))).unwrap();
    assert_eq!(client.call("read f 9"), Ok("text".into()));
    assert_eq!(client.call("write f new"), Ok("3".into()));
    assert_eq!(client.call("pread f 9 0"), Ok("new".into()));
    assert_eq!(client.call(format!("owner {}", at("knob"))), Ok("0:0".into()));
    assert_eq!(client.call("callers"), Ok("0:0".into()));
    // Nobody outside sees it.
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn all_ids_are_those_of_the_mounting_namespace() {
    let _limit = Limit::new();
    let dir = TestDir::new();
    // Outside, it is another number.
    let Some(mut client) = isolated(&dir, 1000) else { return };
    let at = |name: &str| dir.path().join(name).display().to_string();
    // What the tree says is 1000 is its user; for what it says is 0 there is no number.
    assert_eq!(client.call(format!("owner {}", at("own"))), Ok("1000:1000".into()));
    assert_eq!(client.call(format!("owner {}", at("knob"))), Ok(nobody()));
    client.call(format!("open f b {}", at("own"))).unwrap();
    assert_eq!(client.call("write f new"), Ok("3".into()));
    // Nobody's files are as for all others, and not to be written to at all.
    client.call(format!("open g r {}", at("knob"))).unwrap();
    assert_eq!(client.call(format!("open g w {}", at("knob"))), Err(Errno::ACCESS));
    // So is the driver told.
    assert_eq!(client.call("callers"), Ok("1000:1000 1000:1000".into()));
}

#[test]
fn a_plain_user_mounts_by_fusermount() {
    let path = env::var_os("PATH").unwrap_or_default();
    if !env::split_paths(&path).any(|dir| dir.join("fusermount3").exists()) {
        return eprintln!("skipped: fusermount3 is not installed");
    }
    let _limit = Limit::new();
    let (dir, place) = (TestDir::new(), TestDir::new());
    if let Err(error) = std::os::unix::fs::chown(dir.path(), Some(1000), Some(1000)) {
        return eprintln!("skipped: only root can become a plain user: {error}");
    }
    // The device may be for root only here.
    let Some(mut client) = start_as(|command| sys::open_fuse_to_all(command, place.path())) else {
        return;
    };
    client.call("user 1000 1000").unwrap();
    client.call(format!("mount ours {}", dir.path().display())).unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    client.call(format!("open f b {}", at("own"))).unwrap();
    assert_eq!(client.call("write f new"), Ok("3".into()));
    assert_eq!(client.call(format!("owner {}", at("knob"))), Ok("0:0".into()));
    assert_eq!(client.call(format!("open g w {}", at("knob"))), Err(Errno::ACCESS));
    assert_eq!(client.call("callers"), Ok("1000:1000".into()));
    client.call("close f").unwrap();
    assert_eq!(client.call("unmount"), Ok(String::new()));
    assert_eq!(client.call(format!("stat {}", at("knob"))), Err(Errno::NOENT));
}

#[test]
fn who_may_not_mount_is_told_what_it_takes() {
    let _limit = Limit::new();
    let dir = TestDir::new();
    if !Path::new("/dev/fuse").exists() {
        return eprintln!("skipped: there is no /dev/fuse");
    }
    if let Err(error) = std::os::unix::fs::chown(dir.path(), Some(1000), Some(1000)) {
        return eprintln!("skipped: only root can become a plain user: {error}");
    }
    let mut client = Client::start_as(|command| _ = command.env("PATH", dir.path()));
    client.call("user 1000 1000").unwrap();
    let told = client.call(format!("refused {}", dir.path().display())).unwrap();
    let expected = [
        "and by fusermount3: fusermount3 cannot be started: No such file or directory",
        "it has to be in a directory of PATH, set-user-id root",
    ];
    assert!(expected.iter().all(|part| told.contains(part)), "{told}");
}
