//! Who may do what, and what a driver knows of its callers.

mod support;

use std::fs;
use std::sync::Mutex;

use kernfs::{
    Capability, Errno as Kernfs, FileOps, FileOptions, Mode, OpenOp, ReadOp, Tree, WriteOp,
};
use kernfs_fuse::MountOptions;
use rustix::io::Errno;
use support::Mounted;
use support::client::{self, Client};
use support::drivers::Knob;

#[test]
fn client() {
    client::serve();
}

const NOBODY: &str = "user 65534 65534";

fn stranger() -> Client {
    let mut client = Client::start();
    client.call(NOBODY).unwrap();
    client
}

#[test]
fn modes_bind_other_users() {
    let tree = Tree::new();
    tree.root().add_file("public", Mode::RO, Knob::new("text")).unwrap().keep();
    tree.root().add_file("secret", Mode::new(0o600), Knob::new("text")).unwrap().keep();
    let own = FileOptions::new(Mode::new(0o600)).owner(65534, 65534);
    tree.root().add_file("own", own, Knob::new("text")).unwrap().keep();
    let closed = tree.root().add_dir("closed", Mode::new(0o700)).unwrap();
    closed.add_file("inner", Mode::RO, Knob::new("text")).unwrap().keep();
    let Some(mount) = Mounted::with(&tree, MountOptions::allow_other) else { return };
    let at = |name: &str| mount.at(name).display().to_string();
    let mut client = stranger();
    client.call(format!("open f r {}", at("public"))).unwrap();
    assert_eq!(client.call("read f 9"), Ok("text".into()));
    assert_eq!(client.call(format!("open g w {}", at("public"))), Err(Errno::ACCESS));
    assert_eq!(client.call(format!("open g r {}", at("secret"))), Err(Errno::ACCESS));
    assert_eq!(client.call(format!("access {}", at("secret"))), Err(Errno::ACCESS));
    assert_eq!(client.call(format!("open g b {}", at("own"))), Ok(String::new()));
    assert_eq!(client.call(format!("open g r {}", at("closed/inner"))), Err(Errno::ACCESS));
    assert_eq!(client.call(format!("chmod {} 666", at("public"))), Err(Errno::PERM));
    assert_eq!(client.call(format!("chmod {} 400", at("own"))), Ok(String::new()));
    assert_eq!(client.call(format!("mkdir {}", at("new"))), Err(Errno::ACCESS));
    assert_eq!(client.call(format!("open g cw {}", at("new"))), Err(Errno::ACCESS));
    // What was opened before stays open, as everywhere.
    tree.root().set_attr(&kernfs::SetAttr { mode: Some(Mode::new(0o700)), ..Default::default() });
    assert_eq!(client.call(format!("open h r {}", at("public"))), Err(Errno::ACCESS));
    assert_eq!(client.call("pread f 9 0"), Ok("text".into()));
    // Root is not bound.
    assert_eq!(fs::read(mount.at("secret")).unwrap(), b"text");
}

#[test]
fn other_users_stay_out_unless_they_are_let_in() {
    let tree = Tree::new();
    tree.root().add_file("public", Mode::RO, Knob::new("text")).unwrap().keep();
    let Some(mount) = Mounted::new(&tree) else { return };
    let mut client = stranger();
    let path = mount.at("public").display().to_string();
    assert_eq!(client.call(format!("open f r {path}")), Err(Errno::ACCESS));
    assert_eq!(client.call(format!("stat {path}")), Err(Errno::ACCESS));
    assert_eq!(client.call(format!("ls {}", mount.path().display())), Err(Errno::ACCESS));
}

/// A file that asks who calls.
#[derive(Default)]
struct Asks(Mutex<Vec<String>>);

impl FileOps for Asks {
    type Open = ();

    fn open(&self, op: &mut OpenOp<'_>) -> Result<(), Kernfs> {
        self.note(op.caller());
        Ok(())
    }

    fn read(&self, (): &mut (), op: &mut ReadOp<'_>) -> Result<(), Kernfs> {
        self.note(op.caller());
        Ok(())
    }

    fn write(&self, (): &mut (), op: &mut WriteOp<'_>) -> Result<usize, Kernfs> {
        self.note(op.caller());
        Ok(op.data().len())
    }
}

impl Asks {
    fn note(&self, caller: &kernfs::Caller) {
        let admin = caller.is_capable(Capability::SYS_ADMIN);
        let text = format!("{} {} {} {admin}", caller.pid, caller.uid, caller.gid);
        self.0.lock().unwrap().push(text);
    }
}

#[test]
fn a_driver_knows_who_calls_and_what_he_may() {
    let tree = Tree::new();
    let asks = tree.root().add_file("asks", Mode::new(0o666), Asks::default()).unwrap();
    let Some(mount) = Mounted::with(&tree, MountOptions::allow_other) else { return };
    let path = mount.at("asks").display().to_string();
    let mut client = Client::start();
    let tid = client.call("tid").unwrap();
    client.call(format!("open f b {path}")).unwrap();
    client.call("read f 9").unwrap();
    client.call("write f x").unwrap();
    let seen = std::mem::take(&mut *asks.0.lock().unwrap());
    let admin = effective_capabilities() >> Capability::SYS_ADMIN.0 & 1 == 1;
    assert_eq!(seen, [(); 3].map(|()| format!("{tid} 0 0 {admin}")));
    assert_eq!(asks.holders()[0].pid.to_string(), tid);
    // The same descriptor in other hands: the caller is who calls, not who opened.
    client.call("user 1234 4321").unwrap();
    client.call("read f 9").unwrap();
    assert_eq!(*asks.0.lock().unwrap(), [format!("{tid} 1234 4321 false")]);
    assert_eq!(asks.holders()[0].uid, 0);
}

#[test]
fn a_caller_that_a_driver_keeps_loses_his_powers_when_he_becomes_somebody_else() {
    /// A file that keeps its openers.
    #[derive(Default)]
    struct Keeps(Mutex<Vec<kernfs::Caller>>);

    impl FileOps for Keeps {
        type Open = ();

        fn open(&self, op: &mut OpenOp<'_>) -> Result<(), Kernfs> {
            self.0.lock().unwrap().push(*op.caller());
            Ok(())
        }
    }

    let tree = Tree::new();
    let keeps = tree.root().add_file("keeps", Mode::new(0o666), Keeps::default()).unwrap();
    let Some(mount) = Mounted::with(&tree, MountOptions::allow_other) else { return };
    let mut client = Client::start();
    client.call(format!("open f r {}", mount.at("keeps").display())).unwrap();
    let opener = keeps.0.lock().unwrap()[0];
    let admin = effective_capabilities() >> Capability::SYS_ADMIN.0 & 1 == 1;
    assert_eq!(opener.is_capable(Capability::SYS_ADMIN), admin, "as long as he is there");
    client.call("user 1234 4321").unwrap();
    assert!(!opener.is_capable(Capability::SYS_ADMIN));
    drop(client);
    assert!(!opener.is_in_group(4321));
}

fn effective_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

#[test]
fn members_of_a_group_are_let_in_by_it() {
    let tree = Tree::new();
    let options = FileOptions::new(Mode::new(0o640)).owner(0, 4);
    tree.root().add_file("log", options, Knob::new("text")).unwrap().keep();
    let Some(mount) = Mounted::with(&tree, MountOptions::allow_other) else { return };
    let open = format!("open f r {}", mount.at("log").display());
    let mut stranger = Client::start();
    stranger.call("member 1234 1234 5").unwrap();
    assert_eq!(stranger.call(&open), Err(Errno::ACCESS));
    let mut member = Client::start();
    member.call("member 1234 1234 4").unwrap();
    member.call(&open).unwrap();
    assert_eq!(member.call("read f 9"), Ok("text".into()));
}
