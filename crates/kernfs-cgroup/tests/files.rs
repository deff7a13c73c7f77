//! Each file of a group, in process.

mod support;

use std::time::Duration;

use kernfs::{Caller, Errno, Events, Mode, OpenFlags};
use kernfs_cgroup::{Controllers, Hierarchy, MemoryEvent, Processes};
use kernfs_psi::{Resource, Stall};
use support::{Fixture, Process, Sleeper, eventually};

/// The files of the root of a kernel without controllers of its own on cgroup v2.
const ROOT: [&str; 13] = [
    "cgroup.controllers",
    "cgroup.max.depth",
    "cgroup.max.descendants",
    "cgroup.pressure",
    "cgroup.procs",
    "cgroup.stat",
    "cgroup.subtree_control",
    "cgroup.threads",
    "cpu.pressure",
    "cpu.stat",
    "cpu.stat.local",
    "io.pressure",
    "memory.pressure",
];

/// What each group below has besides.
const BELOW: [&str; 5] =
    ["cgroup.events", "cgroup.freeze", "cgroup.kill", "cgroup.stat.local", "cgroup.type"];

const MEMORY: [&str; 7] = [
    "memory.current",
    "memory.events",
    "memory.events.local",
    "memory.high",
    "memory.low",
    "memory.max",
    "memory.min",
];

const PIDS: [&str; 2] = ["pids.current", "pids.max"];

fn sorted(lists: &[&[&str]]) -> Vec<String> {
    let mut all: Vec<String> = lists.concat().iter().map(ToString::to_string).collect();
    all.sort();
    all
}

#[test]
fn the_root_has_fewer_files_than_the_groups_below() {
    let fixture = Fixture::new();
    assert_eq!(fixture.list("/"), sorted(&[&ROOT]));
    fixture.make("/a");
    assert_eq!(fixture.list("/a"), sorted(&[&ROOT, &BELOW]));
    let mode = |path: &str| fixture.client.lookup(path).unwrap().attr().mode.bits();
    assert_eq!(mode("/"), 0o555);
    assert_eq!(mode("/a"), 0o755);
    for (name, expected) in [
        ("cgroup.controllers", 0o444),
        ("cgroup.events", 0o444),
        ("cgroup.freeze", 0o644),
        ("cgroup.kill", 0o200),
        ("cgroup.max.depth", 0o644),
        ("cgroup.max.descendants", 0o644),
        ("cgroup.pressure", 0o644),
        ("cgroup.procs", 0o644),
        ("cgroup.stat", 0o444),
        ("cgroup.stat.local", 0o444),
        ("cgroup.subtree_control", 0o644),
        ("cgroup.threads", 0o644),
        ("cgroup.type", 0o644),
        ("cpu.pressure", 0o644),
        ("cpu.stat", 0o444),
        ("cpu.stat.local", 0o444),
        ("io.pressure", 0o644),
        ("memory.pressure", 0o644),
    ] {
        assert_eq!(mode(&format!("/a/{name}")), expected, "{name}");
    }
}

#[test]
fn a_fresh_group_says_what_the_kernels_does() {
    let fixture = Fixture::new();
    fixture.make("/a");
    let zeros = "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n\
                 full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
    for (name, text) in [
        ("cgroup.controllers", ""),
        ("cgroup.events", "populated 0\nfrozen 0\n"),
        ("cgroup.freeze", "0\n"),
        ("cgroup.max.depth", "max\n"),
        ("cgroup.max.descendants", "max\n"),
        ("cgroup.pressure", "1\n"),
        ("cgroup.procs", ""),
        ("cgroup.stat.local", "frozen_usec 0\n"),
        ("cgroup.subtree_control", ""),
        ("cgroup.threads", ""),
        ("cgroup.type", "domain\n"),
        ("cpu.pressure", zeros),
        ("cpu.stat", "usage_usec 0\nuser_usec 0\nsystem_usec 0\nnice_usec 0\n"),
        ("cpu.stat.local", ""),
        ("io.pressure", zeros),
        ("memory.pressure", zeros),
    ] {
        assert_eq!(fixture.read(&format!("/a/{name}")).as_deref(), Ok(text), "{name}");
    }
    assert_eq!(fixture.read("/a/cgroup.kill"), Err(Errno::EINVAL));
    assert_eq!(fixture.write("/a/cgroup.events", "1"), Err(Errno::EINVAL));
    // A write of nothing is nothing, whatever the file.
    for name in ["cgroup.procs", "cgroup.events", "cgroup.subtree_control", "cgroup.kill"] {
        assert_eq!(fixture.write(&format!("/a/{name}"), ""), Ok(()), "{name}");
    }
}

#[test]
fn groups_come_and_go_by_mkdir_and_rmdir() {
    let fixture = Fixture::new();
    fixture.make("/a");
    let first = fixture.group("a").ino();
    assert_eq!(fixture.mkdir("/a"), Err(Errno::EEXIST));
    assert_eq!(fixture.mkdir("/a/cgroup.procs"), Err(Errno::EEXIST));
    assert_eq!(fixture.mkdir("/a/b\nc"), Err(Errno::EINVAL));
    fixture.make("/a/b");
    let nlink = |path: &str| fixture.client.lookup(path).unwrap().attr().nlink;
    assert_eq!((nlink("/a"), nlink("/a/b"), nlink("/a/cgroup.procs")), (3, 2, 1));
    assert_eq!(fixture.rmdir("/a"), Err(Errno::EBUSY));
    assert_eq!(fixture.rmdir("/a/b"), Ok(()));
    assert_eq!(nlink("/a"), 2);
    assert_eq!(fixture.rmdir("/a"), Ok(()));
    assert_eq!(fixture.rmdir("/a"), Err(Errno::ENOENT));
    assert_eq!(fixture.hierarchy.group("a"), None);
    fixture.make("/a");
    assert!(fixture.group("a").ino() > first, "numbers are not used again");
    assert_eq!(fixture.client.unlink("/a/cgroup.procs").unwrap_err(), Errno::EPERM);
    assert_eq!(fixture.client.rename("/a", "/b"), Err(Errno::EPERM));
}

#[test]
fn a_group_stays_known_when_another_of_its_name_is_refused() {
    let hierarchy = Hierarchy::new().unwrap();
    let first = hierarchy.root().make_child("a").unwrap();
    assert_eq!(hierarchy.root().make_child("a"), Err(Errno::EEXIST));
    assert_eq!(hierarchy.group("/a"), Some(first.clone()));
    assert_eq!(hierarchy.root().children(), std::slice::from_ref(&first));
    first.remove().unwrap().wait().unwrap();
    assert_eq!(hierarchy.root().children(), []);
}

#[test]
fn the_groups_files_belong_to_who_made_it() {
    let fixture = Fixture::new();
    fixture.make("/a");
    let chown = kernfs::SetAttr { uid: Some(5), gid: Some(77), ..Default::default() };
    let root = Caller::OWNER;
    fixture.client.lookup("/a").unwrap().set_attr(&root, &chown).unwrap();
    let user = fixture.hierarchy.tree().client(Caller::new(5, 6, 0));
    user.mkdir("/a/b", Mode::new(0o700)).unwrap();
    let attr = |path: &str| {
        let attr = fixture.client.lookup(path).unwrap().attr();
        (attr.uid, attr.gid, attr.mode.bits())
    };
    assert_eq!(attr("/a/b"), (5, 6, 0o700));
    assert_eq!(attr("/a/b/cgroup.procs"), (5, 6, 0o644));
    assert_eq!(attr("/a/b/cpu.pressure"), (5, 6, 0o644));
    // A directory with the setgid bit hands its group down.
    let setgid = kernfs::SetAttr { mode: Some(Mode::new(0o2777)), ..Default::default() };
    fixture.client.lookup("/a").unwrap().set_attr(&root, &setgid).unwrap();
    user.mkdir("/a/c", Mode::DIR).unwrap();
    assert_eq!(attr("/a/c"), (5, 77, 0o2755));
    assert_eq!(attr("/a/c/cgroup.procs"), (5, 77, 0o644));
    assert_eq!(user.mkdir("/d", Mode::DIR), Err(Errno::EACCES));
}

#[test]
fn limits_of_depth_and_number_are_eagain() {
    let fixture = Fixture::new();
    fixture.make("/a");
    for file in ["cgroup.max.depth", "cgroup.max.descendants"] {
        let path = format!("/a/{file}");
        assert_eq!(fixture.write(&path, "0"), Ok(()));
        assert_eq!(fixture.read(&path).as_deref(), Ok("0\n"));
        assert_eq!(fixture.mkdir("/a/b"), Err(Errno::EAGAIN), "{file}");
        assert_eq!(fixture.write(&path, "1"), Ok(()));
        fixture.make("/a/b");
        assert_eq!(fixture.mkdir("/a/b/c"), Err(Errno::EAGAIN), "{file}");
        assert_eq!(fixture.rmdir("/a/b"), Ok(()));
        assert_eq!(fixture.write(&path, "max\n"), Ok(()));
        assert_eq!(fixture.write(&path, "-1"), Err(Errno::ERANGE));
        assert_eq!(fixture.write(&path, "many"), Err(Errno::EINVAL));
        assert_eq!(fixture.read(&path).as_deref(), Ok("max\n"));
    }
    fixture.write("/cgroup.max.descendants", "2").unwrap();
    fixture.make("/a/b");
    assert_eq!(fixture.mkdir("/c"), Err(Errno::EAGAIN));
    assert_eq!(fixture.mkdir("/a/b/c"), Err(Errno::EAGAIN));
}

#[test]
fn members_join_move_and_leave_when_they_exit() {
    let fixture = Fixture::new();
    fixture.make("/a");
    fixture.make("/a/b");
    let (mut first, second) = (Process::new(), Process::new());
    for process in [&first, &second] {
        fixture.attach("/a/b", process.pid()).unwrap();
    }
    let procs = |path: &str| fixture.read(&format!("{path}/cgroup.procs")).unwrap();
    assert_eq!(procs("/a/b"), format!("{}\n{}\n", first.pid(), second.pid()));
    assert_eq!(procs("/a"), "");
    assert_eq!(fixture.read("/a/cgroup.events").as_deref(), Ok("populated 1\nfrozen 0\n"));
    assert_eq!(fixture.rmdir("/a/b"), Err(Errno::EBUSY));
    fixture.attach("/a", first.pid()).unwrap();
    assert_eq!(procs("/a"), format!("{}\n", first.pid()));
    assert_eq!(fixture.read("/a/cgroup.threads"), Ok(procs("/a")), "each has one thread");
    // Into the root, which is out of all others.
    fixture.attach("", second.pid()).unwrap();
    assert_eq!(fixture.group("a/b").members(), []);
    assert!(procs("").lines().any(|line| line == second.pid().to_string()));
    assert!(procs("").lines().all(|line| line != first.pid().to_string()));
    // Seen at once by whoever has waited for the process, and nobody has to.
    let events = fixture.open("/a/cgroup.events", OpenFlags::READ);
    assert_eq!(events.read_to_string().as_deref(), Ok("populated 1\nfrozen 0\n"));
    first.exit();
    assert_eq!(Sleeper::on(&events).join(), Events::PRI | Events::ERR);
    assert_eq!(events.read_to_string().as_deref(), Ok("populated 0\nfrozen 0\n"));
    // A zombie can be moved, which does nothing.
    assert_eq!(fixture.attach("/a", first.pid()), Ok(()));
    assert_eq!(procs("/a"), "");
    first.wait();
    assert_eq!(fixture.attach("/a", first.pid()), Err(Errno::ESRCH));
}

#[test]
fn who_has_waited_for_a_process_finds_its_group_empty() {
    let fixture = Fixture::new();
    for _ in 0..50 {
        fixture.make("/a");
        let mut process = Process::new();
        fixture.attach("/a", process.pid()).unwrap();
        process.wait();
        assert_eq!(fixture.rmdir("/a"), Ok(()));
    }
}

#[test]
fn procs_are_read_as_the_kernel_reads_them() {
    let fixture = Fixture::new();
    fixture.make("/a");
    let process = Process::new();
    let (pid, procs) = (process.pid(), "/a/cgroup.procs");
    for text in [format!("{pid}"), format!(" {pid} \n"), format!("{pid:#x}"), "0".into()] {
        assert_eq!(fixture.write(procs, &text), Ok(()), "{text:?}");
    }
    assert_eq!(fixture.group("a").members(), [pid, std::process::id()]);
    for text in ["-1", "abc", "1 2", "99999999999", "2147483648"] {
        assert_eq!(fixture.write(procs, text), Err(Errno::EINVAL), "{text:?}");
    }
    for text in ["2147483647", "4194305"] {
        assert_eq!(fixture.write(procs, text), Err(Errno::ESRCH), "{text:?}");
    }
    let threads = "/a/cgroup.threads";
    assert_eq!(fixture.write(threads, pid.to_string()), Ok(()), "where it is");
    assert_eq!(fixture.write(threads, "1"), Err(Errno::EOPNOTSUPP));
    assert_eq!(fixture.write(threads, "2147483647"), Err(Errno::ESRCH));
    assert_eq!(fixture.write(threads, "x"), Err(Errno::EINVAL));
}

#[test]
fn only_who_may_write_above_both_groups_moves_a_process() {
    let fixture = Fixture::new();
    let process = Process::new();
    for path in ["/a", "/a/b", "/a/c"] {
        fixture.make(path);
    }
    let user = Caller::new(5, 5, 0);
    let give = kernfs::SetAttr { uid: Some(5), ..Default::default() };
    for path in ["/a/b/cgroup.procs", "/a/c/cgroup.procs"] {
        fixture.client.lookup(path).unwrap().set_attr(&Caller::OWNER, &give).unwrap();
    }
    let client = fixture.hierarchy.tree().client(user);
    let attach = |path: &str| {
        client.open(path, OpenFlags::WRITE)?.write(process.pid().to_string().as_bytes())
    };
    assert_eq!(attach("/a/b/cgroup.procs"), Err(Errno::EACCES), "it is in the root");
    fixture.attach("/a/b", process.pid()).unwrap();
    assert_eq!(attach("/a/c/cgroup.procs"), Err(Errno::EACCES), "/a is not the user's");
    let procs = fixture.client.lookup("/a/cgroup.procs").unwrap();
    procs.set_attr(&Caller::OWNER, &give).unwrap();
    assert!(attach("/a/c/cgroup.procs").is_ok());
    assert_eq!(fixture.group("a/c").members(), [process.pid()]);
    // Who opened the file counts, not who writes.
    let held = fixture.open("/a/b/cgroup.procs", OpenFlags::WRITE);
    assert!(held.write(process.pid().to_string().as_bytes()).is_ok());
}

#[test]
fn controllers_are_passed_down_one_by_one() {
    let fixture = Fixture::new();
    fixture.make("/a");
    fixture.make("/a/b");
    let control =
        |path: &str, text: &str| fixture.write(&format!("{path}/cgroup.subtree_control"), text);
    assert_eq!(fixture.read("/cgroup.controllers").as_deref(), Ok("memory pids\n"));
    assert_eq!(control("/a", "+memory"), Err(Errno::ENOENT), "not its own");
    assert_eq!(control("", "+cpu"), Err(Errno::ENOENT), "not offered");
    assert_eq!(control("", "memory"), Err(Errno::EINVAL));
    assert_eq!(control("", "+nosuch"), Err(Errno::EINVAL));
    assert_eq!(control("", "+memory +pids"), Ok(()));
    assert_eq!(fixture.list("/a"), sorted(&[&ROOT, &BELOW, &MEMORY, &PIDS, &["b"]]));
    assert_eq!(fixture.list("/"), sorted(&[&ROOT, &["a"]]), "not in the root");
    assert_eq!(fixture.read("/a/cgroup.controllers").as_deref(), Ok("memory pids\n"));
    assert_eq!(control("/a", "+memory"), Ok(()));
    assert_eq!(fixture.read("/a/cgroup.subtree_control").as_deref(), Ok("memory\n"));
    assert_eq!(fixture.list("/a/b"), sorted(&[&ROOT, &BELOW, &MEMORY]));
    assert_eq!(control("", "-memory"), Err(Errno::EBUSY), "a child passes it on");
    let stat = "nr_descendants 1\nnr_subsys_memory 2\nnr_subsys_pids 1\nnr_dying_descendants 0\n\
                nr_dying_subsys_memory 0\nnr_dying_subsys_pids 0\n";
    assert_eq!(fixture.read("/a/cgroup.stat").as_deref(), Ok(stat));
    fixture.make("/a/c");
    assert_eq!(fixture.list("/a/c"), sorted(&[&ROOT, &BELOW, &MEMORY]));
    let held = fixture.open("/a/c/memory.max", OpenFlags::READ_WRITE);
    fixture.write("/a/c/memory.max", "1M").unwrap();
    assert_eq!(control("/a", "-memory"), Ok(()));
    assert_eq!(held.read_to_string(), Err(Errno::ENODEV));
    assert!(held.ready(Events::all()).contains(Events::PRI | Events::ERR));
    assert_eq!(fixture.list("/a/c"), sorted(&[&ROOT, &BELOW]));
    assert_eq!(control("/a", "+memory"), Ok(()));
    assert_eq!(held.read_to_string(), Err(Errno::ENODEV), "for ever");
    assert_eq!(fixture.read("/a/c/memory.max").as_deref(), Ok("max\n"), "begins anew");
}

#[test]
fn a_controller_whose_file_finds_its_name_taken_is_not_switched_on() {
    let fixture = Fixture::new();
    fixture.make("/a");
    fixture.make("/b");
    fixture.make("/b/memory.max");
    let control = "/cgroup.subtree_control";
    assert_eq!(fixture.write(control, "+memory"), Err(Errno::EEXIST));
    assert_eq!(fixture.read(control).as_deref(), Ok(""));
    assert_eq!(fixture.list("/a"), sorted(&[&ROOT, &BELOW]), "nothing is left behind");
    assert!(fixture.is_dir("/b/memory.max"));
    fixture.rmdir("/b/memory.max").unwrap();
    assert_eq!(fixture.write(control, "+memory"), Ok(()));
}

#[test]
fn only_leaves_have_members() {
    let fixture = Fixture::with_controllers();
    fixture.make("/a");
    fixture.make("/a/b");
    let process = Process::new();
    let control = |text: &str| fixture.write("/a/cgroup.subtree_control", text);
    fixture.attach("/a", process.pid()).unwrap();
    assert_eq!(control("+memory"), Err(Errno::EBUSY));
    fixture.attach("/a/b", process.pid()).unwrap();
    assert_eq!(control("+memory"), Ok(()));
    assert_eq!(fixture.attach("/a", process.pid()), Err(Errno::EBUSY));
    assert_eq!(control("-memory"), Ok(()));
    // A controller that can deal with threads makes a thread root of a group with members.
    fixture.attach("/a", process.pid()).unwrap();
    assert_eq!(fixture.read("/a/cgroup.type").as_deref(), Ok("domain\n"));
    assert_eq!(control("+pids"), Ok(()));
    assert_eq!(fixture.read("/a/cgroup.type").as_deref(), Ok("domain threaded\n"));
    assert_eq!(fixture.read("/a/b/cgroup.type").as_deref(), Ok("domain invalid\n"));
    assert_eq!(fixture.attach("/a/b", process.pid()), Err(Errno::EOPNOTSUPP));
    assert_eq!(control("+memory"), Err(Errno::EOPNOTSUPP));
    fixture.attach("", process.pid()).unwrap();
    assert_eq!(fixture.read("/a/b/cgroup.type").as_deref(), Ok("domain\n"));
    assert_eq!(fixture.write("/a/cgroup.type", "domain"), Err(Errno::EINVAL));
    assert_eq!(fixture.write("/a/cgroup.type", "threaded"), Err(Errno::EOPNOTSUPP));
}

#[test]
fn freezing_is_told_to_all_below() {
    let fixture = Fixture::new();
    fixture.make("/a");
    fixture.make("/a/b");
    let events = fixture.open("/a/b/cgroup.events", OpenFlags::READ);
    assert_eq!(events.read_to_string().as_deref(), Ok("populated 0\nfrozen 0\n"));
    assert!(!events.ready(Events::PRI).contains(Events::PRI));
    assert_eq!(fixture.write("/a/cgroup.freeze", "1"), Ok(()));
    assert!(events.ready(Events::PRI).contains(Events::PRI));
    assert_eq!(events.read_to_string().as_deref(), Ok("populated 0\nfrozen 1\n"));
    assert_eq!(fixture.read("/a/b/cgroup.freeze").as_deref(), Ok("0\n"), "not itself");
    assert_eq!(fixture.read("/a/cgroup.freeze").as_deref(), Ok("1\n"));
    fixture.make("/a/c");
    assert_eq!(fixture.read("/a/c/cgroup.events").as_deref(), Ok("populated 0\nfrozen 1\n"));
    fixture.clock.advance(Duration::from_micros(1500));
    // Frozen twice over, it stays so.
    fixture.write("/a/b/cgroup.freeze", "1").unwrap();
    assert!(!events.ready(Events::PRI).contains(Events::PRI));
    fixture.write("/a/cgroup.freeze", "0").unwrap();
    fixture.clock.advance(Duration::from_micros(500));
    assert_eq!(events.read_to_string().as_deref(), Ok("populated 0\nfrozen 1\n"));
    let frozen = |path: &str| fixture.read(&format!("{path}/cgroup.stat.local")).unwrap();
    assert_eq!(frozen("/a"), "frozen_usec 1500\n");
    assert_eq!(frozen("/a/b"), "frozen_usec 2000\n");
    for (text, errno) in [("2", Errno::ERANGE), ("-1", Errno::ERANGE), ("x", Errno::EINVAL)] {
        assert_eq!(fixture.write("/a/cgroup.freeze", text), Err(errno), "{text}");
    }
}

#[test]
fn tracked_processes_are_neither_stopped_nor_killed() {
    let fixture = Fixture::new();
    fixture.make("/a");
    fixture.make("/a/b");
    let process = Process::new();
    fixture.attach("/a/b", process.pid()).unwrap();
    fixture.write("/a/cgroup.freeze", "1").unwrap();
    assert_eq!(fixture.read("/a/b/cgroup.events").as_deref(), Ok("populated 1\nfrozen 1\n"));
    for text in ["2", "0", "-1"] {
        assert_eq!(fixture.write("/a/cgroup.kill", text), Err(Errno::ERANGE), "{text}");
    }
    assert_eq!(fixture.write("/a/cgroup.kill", "1"), Ok(()));
    assert_eq!(fixture.read("/a/cgroup.events").as_deref(), Ok("populated 0\nfrozen 1\n"));
    assert!(!matches!(process.state(), Some('T' | 'Z') | None));
}

#[test]
fn real_processes_are_stopped_and_killed_if_that_is_wanted() {
    let fixture = Fixture::with(|builder| builder.processes(Processes::Act));
    fixture.make("/a");
    fixture.make("/a/b");
    let (mut process, other) = (Process::new(), Process::new());
    let is_stopped = |process: &Process| process.state() == Some('T');
    fixture.attach("/a/b", process.pid()).unwrap();
    fixture.write("/a/cgroup.freeze", "1").unwrap();
    eventually("the member to stop", || is_stopped(&process));
    fixture.attach("/a", other.pid()).unwrap();
    eventually("the new member to stop", || is_stopped(&other));
    fixture.attach("", other.pid()).unwrap();
    eventually("who leaves to go on", || !is_stopped(&other));
    fixture.write("/a/cgroup.freeze", "0").unwrap();
    eventually("the member to go on", || !is_stopped(&process));
    fixture.write("/a/cgroup.kill", "1").unwrap();
    assert_eq!(process.ended_by(), Some(9));
    assert_eq!(fixture.read("/a/cgroup.events").as_deref(), Ok("populated 0\nfrozen 0\n"));
    // The one that serves is spared.
    fixture.write("/a/cgroup.procs", "0").unwrap();
    fixture.write("/a/cgroup.kill", "1").unwrap();
    assert_eq!(fixture.group("a").members(), [std::process::id()]);
}

#[test]
fn a_hierarchy_that_goes_leaves_nobody_frozen() {
    let fixture = Fixture::with(|builder| builder.processes(Processes::Act));
    let group = fixture.make("/a");
    let process = Process::new();
    fixture.attach("/a", process.pid()).unwrap();
    fixture.write("/a/cgroup.freeze", "1").unwrap();
    eventually("the member to stop", || process.state() == Some('T'));
    let held = fixture.open("/a/cgroup.events", OpenFlags::READ);
    drop(fixture);
    eventually("the member to go on", || process.state() != Some('T'));
    assert_eq!(held.read_to_string(), Err(Errno::ENODEV));
    assert!(group.is_removed());
    assert_eq!(group.make_child("b"), Err(Errno::ENODEV));
    assert_eq!(group.members(), []);
}

#[test]
fn pressure_files_hide_and_come_back() {
    let fixture = Fixture::new();
    let group = fixture.make("/a");
    fixture.make("/a/b");
    let held = fixture.open("/a/memory.pressure", OpenFlags::READ_WRITE);
    held.write(b"some 150000 2000000").unwrap();
    assert_eq!(group.pressure().triggers(), 1);
    group.pressure().feed(Resource::Memory, Stall::Some, Duration::from_millis(3));
    let before = fixture.read("/a/memory.pressure").unwrap();
    assert!(before.contains("total=3000"), "{before}");
    let ino = |path: &str| fixture.client.lookup(path).unwrap().ino();
    let number = ino("/a/memory.pressure");

    assert_eq!(fixture.write("/a/cgroup.pressure", " 0x0 "), Ok(()));
    assert_eq!(fixture.read("/a/cgroup.pressure").as_deref(), Ok("0\n"));
    for name in ["cpu", "memory", "io"] {
        assert!(!fixture.is_there(&format!("/a/{name}.pressure")), "{name}");
        assert!(fixture.is_there(&format!("/a/b/{name}.pressure")), "{name}");
    }
    assert_eq!(fixture.mkdir("/a/cpu.pressure"), Err(Errno::EEXIST), "the name is taken");
    assert_eq!(group.pressure().triggers(), 0);
    assert_eq!(held.read_to_string(), Err(Errno::ENODEV));
    assert!(held.ready(Events::all()).contains(Events::PRI | Events::ERR));
    group.pressure().feed(Resource::Memory, Stall::Some, Duration::from_millis(3));

    assert_eq!(fixture.write("/a/cgroup.pressure", "1\n"), Ok(()));
    assert_eq!(ino("/a/memory.pressure"), number);
    assert_eq!(fixture.read("/a/memory.pressure"), Ok(before), "not accounted meanwhile");
    assert_eq!(held.read_to_string(), Err(Errno::ENODEV), "for ever");
    assert_eq!(held.write(b"some 150000 2000000"), Err(Errno::ENODEV));
    for (text, errno) in [("2", Errno::ERANGE), ("on", Errno::EINVAL), ("1 1", Errno::EINVAL)] {
        assert_eq!(fixture.write("/a/cgroup.pressure", text), Err(errno), "{text}");
    }
    assert_eq!(fixture.write("/cgroup.pressure", "0"), Ok(()), "the root as well");
    assert!(!fixture.is_there("/cpu.pressure"));
}

#[test]
fn pressure_counts_above_until_the_group_is_gone() {
    let fixture = Fixture::new();
    let (a, b) = (fixture.make("/a"), fixture.make("/a/b"));
    let half = kernfs_psi::Share::from_millionths(500_000);
    b.pressure().set_share(Resource::Io, Stall::Some, half);
    fixture.clock.advance(Duration::from_secs(10));
    let total = |path: &str| {
        let text = fixture.read(&format!("{path}/io.pressure")).unwrap();
        let total = text.lines().next().unwrap().split("total=").nth(1).unwrap();
        total.parse::<u64>().unwrap()
    };
    assert_eq!((total("/a"), total("")), (5_000_000, 5_000_000));
    // The handle `b` is still held.
    b.sever().unwrap().wait().unwrap();
    fixture.clock.advance(Duration::from_secs(10));
    assert_eq!((total("/a"), total("")), (5_000_000, 5_000_000));
    drop(a);
}

#[test]
fn memory_is_what_the_owner_says() {
    let fixture = Fixture::with_controllers();
    let (a, b) = (fixture.make("/a"), fixture.make("/a/b"));
    fixture.write("/a/cgroup.subtree_control", "+memory").unwrap();
    a.set_memory_current(4096).unwrap();
    b.set_memory_current(4097).unwrap();
    let read = |name: &str| fixture.read(name).unwrap();
    assert_eq!(read("/a/b/memory.current"), "8192\n");
    assert_eq!(read("/a/memory.current"), "12288\n");
    assert_eq!(read("/a/memory.max"), "max\n");
    assert_eq!(read("/a/memory.high"), "max\n");
    assert_eq!((read("/a/memory.min"), read("/a/memory.low")), ("0\n".into(), "0\n".into()));
    assert_eq!(fixture.write("/a/memory.max", "1G\n"), Ok(()));
    assert_eq!(fixture.write("/a/memory.high", "10000"), Ok(()));
    assert_eq!(
        (read("/a/memory.max"), read("/a/memory.high")),
        ("1073741824\n".into(), "8192\n".into())
    );
    assert_eq!(fixture.write("/a/memory.max", "lots"), Err(Errno::EINVAL));

    let events = fixture.open("/a/memory.events", OpenFlags::READ);
    let local = fixture.open("/a/memory.events.local", OpenFlags::READ);
    let zeros = "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n";
    assert_eq!(events.read_to_string().as_deref(), Ok(zeros));
    assert_eq!(local.read_to_string().as_deref(), Ok(zeros));
    b.add_memory_events(MemoryEvent::OomKill, 2).unwrap();
    assert!(events.ready(Events::PRI).contains(Events::PRI), "also above");
    assert!(!local.ready(Events::PRI).contains(Events::PRI));
    assert_eq!(events.read_to_string(), Ok(zeros.replace("oom_kill 0", "oom_kill 2")));
    assert_eq!(local.read_to_string().as_deref(), Ok(zeros));
    b.set_memory_events(MemoryEvent::OomKill, 1).unwrap();
    a.add_memory_events(MemoryEvent::OomKill, 1).unwrap();
    assert_eq!(
        (a.memory_events(MemoryEvent::OomKill), b.memory_events(MemoryEvent::OomKill)),
        (2, 1)
    );
    b.sever().unwrap().wait().unwrap();
    assert_eq!(read("/a/memory.current"), "4096\n");
    assert_eq!(b.set_memory_current(1), Err(Errno::ENODEV));
    assert_eq!("oom_kill".parse(), Ok(MemoryEvent::OomKill));
    assert_eq!("oom kill".parse::<MemoryEvent>(), Err(Errno::EINVAL));
}

#[test]
fn pids_are_counted_and_moving_is_free_of_the_limit() {
    let fixture = Fixture::with_controllers();
    fixture.make("/a");
    let processes = [Process::new(), Process::new()];
    assert_eq!(fixture.write("/a/pids.max", "0"), Ok(()));
    for process in &processes {
        assert_eq!(fixture.attach("/a", process.pid()), Ok(()));
    }
    assert_eq!(fixture.read("/a/pids.current").as_deref(), Ok("2\n"));
    assert_eq!(fixture.read("/a/pids.max").as_deref(), Ok("0\n"));
    assert_eq!(fixture.write("/a/pids.max", "max"), Ok(()));
    for text in ["-1", "4194305", "x", ""] {
        let errno = if text.is_empty() { Ok(()) } else { Err(Errno::EINVAL) };
        assert_eq!(fixture.write("/a/pids.max", text), errno, "{text}");
    }
    assert_eq!(fixture.write("/a/pids.max", "99999999999999999999"), Err(Errno::ERANGE));
    assert_eq!(fixture.write("/a/pids.max", "4194304"), Ok(()));
    assert_eq!(fixture.read("/a/pids.max").as_deref(), Ok("4194304\n"));
    // This one has more than one thread.
    fixture.write("/a/cgroup.procs", "0").unwrap();
    let current: u64 = fixture.read("/a/pids.current").unwrap().trim().parse().unwrap();
    assert!(current > 3, "{current}");
}

#[test]
fn time_of_the_processor_is_that_of_members_and_stays_when_they_go() {
    let fixture = Fixture::new();
    fixture.make("/a");
    fixture.make("/a/b");
    let usage = |path: &str| {
        let text = fixture.read(&format!("{path}/cpu.stat")).unwrap();
        text.lines().next().unwrap().strip_prefix("usage_usec ").unwrap().parse::<u64>().unwrap()
    };
    fixture.write("/a/b/cgroup.procs", "0").unwrap();
    eventually("a tick or two of this process", || {
        std::hint::black_box((0..100_000).fold(0u64, |sum, number| sum ^ number));
        usage("/a/b") >= 20_000
    });
    assert!(usage("/a") >= 20_000);
    fixture.write("/cgroup.procs", "0").unwrap();
    let spent = usage("/a/b");
    assert_eq!(usage("/a/b"), spent, "spent elsewhere");
    fixture.rmdir("/a/b").unwrap();
    assert_eq!(usage("/a"), spent, "what is gone below counts on");
    assert!(usage("") > spent);
}

#[test]
fn a_severed_group_takes_everyone_along() {
    let fixture = Fixture::new();
    let a = fixture.make("/a");
    let b = fixture.make("/a/b");
    let process = Process::new();
    fixture.attach("/a/b", process.pid()).unwrap();
    let root = fixture.hierarchy.root();
    assert_eq!(root.sever().err(), Some(Errno::EBUSY));
    assert_eq!(a.remove().err(), Some(Errno::EBUSY));
    let held = [
        fixture.open("/a/b/cgroup.events", OpenFlags::READ),
        fixture.open("/a/b/cpu.pressure", OpenFlags::READ_WRITE),
        fixture.open("/a/cgroup.procs", OpenFlags::READ_WRITE),
    ];
    held[0].read_to_string().unwrap();
    held[1].write(b"some 1000000 2000000").unwrap();
    held[2].read_to_string().unwrap();
    let sleepers = held.each_ref().map(Sleeper::on);
    a.sever().unwrap().wait().unwrap();
    for sleeper in sleepers {
        assert!(sleeper.join().contains(Events::PRI | Events::ERR));
    }
    for file in &held {
        assert_eq!(file.read_at(&mut [0; 8], 0), Err(Errno::ENODEV));
    }
    assert_eq!(held[2].write(b"1"), Err(Errno::ENODEV));
    assert!(a.is_removed() && b.is_removed());
    assert_eq!(b.path(), b"/a/b");
    assert_eq!(b.parent(), Some(a.clone()));
    assert_eq!(a.sever().err(), Some(Errno::ENODEV));
    assert_eq!(b.make_child("c"), Err(Errno::ENODEV));
    assert_eq!(fixture.read("/cgroup.stat").unwrap().lines().next(), Some("nr_descendants 0"));
    assert!(root.members().contains(&process.pid()));
    fixture.make("/a");
    fixture.attach("/a", process.pid()).unwrap();
}

#[test]
fn observers_follow_the_groups() {
    use std::sync::{Arc, Mutex};

    use kernfs_cgroup::{Group, Observer};

    #[derive(Default)]
    struct Log(Mutex<Vec<String>>, Mutex<Vec<Errno>>);

    impl Log {
        fn note(&self, what: &str, group: &Group) {
            let path = String::from_utf8(group.path()).unwrap();
            self.0.lock().unwrap().push(format!("{what} {path}"));
            let changed = group.make_child("x").map(drop);
            self.1.lock().unwrap().extend(changed.err());
        }
    }

    impl Observer for Log {
        fn made(&self, group: &Group) {
            self.note("made", group);
        }

        fn removed(&self, group: &Group) {
            self.note("removed", group);
        }
    }

    let fixture = Fixture::new();
    fixture.make("/a");
    let log = Arc::new(Log::default());
    fixture.hierarchy.observe(Arc::clone(&log) as Arc<dyn Observer>).unwrap();
    fixture.make("/a/b");
    assert_eq!(fixture.mkdir("/a/b"), Err(Errno::EEXIST));
    fixture.group("a").sever().unwrap().wait().unwrap();
    let seen = log.0.lock().unwrap().clone();
    assert_eq!(seen, ["made /", "made /a", "made /a/b", "removed /a/b", "removed /a"]);
    let refused = log.1.lock().unwrap().clone();
    assert_eq!(refused, [Errno::EDEADLK; 5], "no waiting for oneself");
}

#[test]
fn what_is_offered_is_up_to_the_owner() {
    let hierarchy = Hierarchy::builder().controllers(Controllers::PIDS).build().unwrap();
    let client = hierarchy.tree().client(Caller::OWNER);
    let controllers = client.open("/cgroup.controllers", OpenFlags::READ).unwrap();
    assert_eq!(controllers.read_to_string().as_deref(), Ok("pids\n"));
    assert_eq!(hierarchy.root().enable(Controllers::MEMORY), Err(Errno::ENOENT));
    assert_eq!(hierarchy.root().controllers(), Controllers::PIDS);
}

#[test]
fn a_hierarchy_can_go_while_groups_are_made() {
    for _ in 0..20 {
        let hierarchy = Hierarchy::new().unwrap();
        let root = hierarchy.root();
        let maker = std::thread::spawn(move || {
            for number in 0.. {
                if let Err(errno) = root.make_child(number.to_string()) {
                    return (errno, root);
                }
            }
            unreachable!("there are not so many numbers")
        });
        let _ = hierarchy.root().make_child("own");
        drop(hierarchy);
        let (errno, root) = maker.join().unwrap();
        assert_eq!(errno, Errno::ENODEV);
        assert!(root.children().is_empty() && root.is_removed());
    }
}
