//! The control tree: it follows the groups, and what is written to it happens to them.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use kernfs::{Caller, Client, Errno, Events, Mode, OpenFile, OpenFlags, SetAttr};
use kernfs_cgroup::rehearsal::ControlTree;
use kernfs_cgroup::{Controllers, Hierarchy, MemoryEvent};
use kernfs_psi::{Resource, VirtualClock};

struct Stage {
    clock: VirtualClock,
    hierarchy: Hierarchy,
    control: ControlTree,
}

impl Stage {
    fn new() -> Self {
        let clock = VirtualClock::new();
        let hierarchy = Hierarchy::builder().clock(clock.clone()).build().unwrap();
        hierarchy.root().enable(Controllers::MEMORY).unwrap();
        let control = ControlTree::new(&hierarchy).unwrap();
        Self { clock, hierarchy, control }
    }

    fn groups(&self) -> Client {
        self.hierarchy.tree().client(Caller::OWNER)
    }

    fn control(&self) -> Client {
        self.control.tree().client(Caller::OWNER)
    }

    fn mkdir(&self, path: &str) {
        self.groups().mkdir(path, Mode::DIR).unwrap();
    }

    fn open(&self, path: &str) -> OpenFile {
        self.control().open(path, OpenFlags::READ_WRITE).unwrap()
    }

    fn open_to_write(&self, path: &str) -> OpenFile {
        self.control().open(path, OpenFlags::WRITE).unwrap()
    }

    fn write(&self, path: &str, text: &str) -> Result<usize, Errno> {
        self.control().open(path, OpenFlags::WRITE)?.write(text.as_bytes())
    }

    fn run(&self, seconds: u64) {
        self.clock.run(self.hierarchy.engine(), Duration::from_secs(seconds));
    }

    /// Returns for how many milliseconds a group has stalled on memory, in part and as a whole.
    fn stalled(&self, path: &str) -> (u128, u128) {
        let group = self.hierarchy.group(path).unwrap();
        let pressure = group.pressure().pressure(Resource::Memory);
        (pressure.some.unwrap().total().as_millis(), pressure.full.total().as_millis())
    }
}

fn names(client: &Client, path: &str) -> Vec<String> {
    let entries = client.open_dir(path).unwrap().entries(0, 100).unwrap();
    let names = entries.iter().map(|entry| String::from_utf8_lossy(&entry.name).into_owned());
    let mut names: Vec<String> = names.filter(|name| name != "." && name != "..").collect();
    names.sort_unstable();
    names
}

const FILES: [&str; 6] =
    ["cpu.stall", "io.stall", "memory.current", "memory.events", "memory.stall", "sever"];

#[test]
fn groups_come_and_go_with_those_of_the_hierarchy() {
    let stage = Stage::new();
    let control = stage.control();
    assert_eq!(names(&control, "/"), ["cpu.stall", "io.stall", "memory.stall"]);
    stage.mkdir("/a");
    stage.mkdir("/a/b");
    assert_eq!(names(&control, "/a/b"), FILES);
    let held = stage.open("/a/b/memory.stall");
    stage.groups().rmdir("/a/b").unwrap().wait().unwrap();
    assert_eq!(names(&control, "/a"), FILES);
    assert_eq!(held.write(b"0"), Err(Errno::ENODEV));
    assert_eq!(control.lookup("/a/b").unwrap_err(), Errno::ENOENT);
    stage.mkdir("/a/b");
    assert_eq!(stage.open("/a/b/memory.stall").read_to_string().unwrap(), "some 0%\nfull 0%\n");
    assert_eq!(held.read_to_string(), Err(Errno::ENODEV));
}

#[test]
fn groups_that_are_there_already_are_shown_too() {
    let hierarchy = Hierarchy::new().unwrap();
    hierarchy.root().make_child("a").unwrap().make_child("b").unwrap();
    let control = ControlTree::new(&hierarchy).unwrap();
    assert_eq!(names(&control.tree().client(Caller::OWNER), "/a/b"), FILES);
    // The hierarchy goes on without it.
    drop(control);
    hierarchy.root().make_child("c").unwrap();
    hierarchy.group("/a").unwrap().sever().unwrap().wait().unwrap();
}

#[test]
fn who_makes_a_group_owns_its_controls() {
    let stage = Stage::new();
    let open = SetAttr { mode: Some(Mode::new(0o777)), ..SetAttr::default() };
    stage.hierarchy.tree().root().set_attr(&open);
    let user = stage.hierarchy.tree().client(Caller::new(1000, 100, 1));
    user.mkdir("/a", Mode::DIR).unwrap();
    for (path, mode) in [("/a", 0o755), ("/a/memory.stall", 0o644), ("/a/sever", 0o200)] {
        let attr = stage.control().lookup(path).unwrap().attr();
        assert_eq!((attr.uid, attr.gid, attr.mode.bits()), (1000, 100, mode), "{path}");
    }
    assert_eq!(stage.control().lookup("/memory.stall").unwrap().attr().uid, 0);
}

#[test]
fn clients_change_nothing_but_values() {
    let stage = Stage::new();
    stage.mkdir("/a");
    let control = stage.control();
    assert_eq!(control.mkdir("/b", Mode::DIR), Err(Errno::EPERM));
    assert_eq!(control.rmdir("/a").map(drop), Err(Errno::EPERM));
    assert_eq!(control.unlink("/a/sever").map(drop), Err(Errno::EPERM));
    assert_eq!(control.open("/a/sever", OpenFlags::READ).map(drop), Err(Errno::EACCES));
}

#[test]
fn a_stall_goes_on_until_it_is_told_to_stop() {
    let stage = Stage::new();
    stage.mkdir("/a");
    stage.mkdir("/a/b");
    let stall = stage.open("/a/b/memory.stall");
    stall.write(b"some 30% full 12.5%\n").unwrap();
    assert_eq!(stall.read_to_string().unwrap(), "some 30%\nfull 12.5%\n");
    stage.run(10);
    for group in ["", "/a", "/a/b"] {
        assert_eq!(stage.stalled(group), (3000, 1250), "{group}");
    }
    stall.write(b"some 10%").unwrap();
    stage.run(10);
    // A full stall is one of some too.
    assert_eq!(stage.stalled("/a"), (3000 + 1250, 2500));
    stall.write(b"0").unwrap();
    stage.run(10);
    assert_eq!(stage.stalled("/a"), (4250, 2500));
    assert_eq!(stall.write(b"some 200%"), Err(Errno::ERANGE));
    assert_eq!(stall.write(b"much"), Err(Errno::EINVAL));
    assert_eq!(stall.read_to_string().unwrap(), "some 0%\nfull 0%\n");
}

#[test]
fn a_group_that_goes_takes_its_stall_along() {
    let stage = Stage::new();
    stage.mkdir("/a");
    // A handle that outlives the group.
    let group = stage.hierarchy.group("/a").unwrap();
    stage.write("/a/memory.stall", "full 50%").unwrap();
    stage.run(2);
    stage.write("/a/sever", "1").unwrap();
    assert!(group.is_removed());
    stage.run(10);
    assert_eq!(stage.stalled(""), (1000, 1000));
}

#[test]
fn a_stall_fires_the_trigger_of_a_client() {
    let stage = Stage::new();
    stage.mkdir("/a");
    let pressure = stage.groups().open("/a/memory.pressure", OpenFlags::READ_WRITE).unwrap();
    pressure.write(b"some 200000 1000000\0").unwrap();
    stage.write("/a/memory.stall", "some 15%").unwrap();
    stage.run(5);
    assert_eq!(pressure.ready(Events::PRI), Events::empty());
    stage.write("/a/memory.stall", "some 25%").unwrap();
    stage.run(5);
    assert_eq!(pressure.ready(Events::PRI), Events::PRI);
}

#[test]
fn memory_is_what_it_is_said_to_be() {
    let stage = Stage::new();
    stage.mkdir("/a");
    let shown = stage.groups().open("/a/memory.current", OpenFlags::READ).unwrap();
    let memory = stage.open("/a/memory.current");
    for (text, bytes) in [("64M\n", 64 << 20), ("8192", 8192), ("0", 0)] {
        memory.write(text.as_bytes()).unwrap();
        assert_eq!(memory.read_to_string().unwrap(), format!("{bytes}\n"));
        assert_eq!(shown.read_to_string().unwrap(), format!("{bytes}\n"));
    }
    for (text, errno) in [("max", Errno::ERANGE), ("-1", Errno::EINVAL), ("1 2", Errno::EINVAL)] {
        assert_eq!(memory.write(text.as_bytes()), Err(errno), "{text}");
    }
}

#[test]
fn memory_events_are_counted_up_the_tree() {
    let stage = Stage::new();
    stage.mkdir("/a");
    let events = stage.groups().open("/a/memory.events", OpenFlags::READ).unwrap();
    events.read_to_string().unwrap();
    let control = stage.open("/a/memory.events");
    control.write(b"oom 2\noom_kill 1\n").unwrap();
    let counts = "low 0\nhigh 0\nmax 0\noom 2\noom_kill 1\noom_group_kill 0\n";
    assert_eq!(control.read_to_string().unwrap(), counts);
    assert!(events.ready(Events::PRI).contains(Events::PRI), "nobody was told");
    assert_eq!(events.read_to_string().unwrap(), counts);
    assert_eq!(stage.hierarchy.root().memory_events(MemoryEvent::Oom), 2);
    // All of it or nothing.
    assert_eq!(control.write(b"oom 5 oops 1"), Err(Errno::EINVAL));
    assert_eq!(control.read_to_string().unwrap(), counts);
}

#[test]
fn a_severed_group_vanishes_with_its_members_and_wakes_who_slept() {
    let stage = Stage::new();
    stage.mkdir("/a");
    stage.mkdir("/a/b");
    let procs = stage.groups().open("/a/cgroup.procs", OpenFlags::READ_WRITE).unwrap();
    procs.write(std::process::id().to_string().as_bytes()).unwrap();
    let pressure = stage.groups().open("/a/b/memory.pressure", OpenFlags::READ_WRITE).unwrap();
    pressure.write(b"some 200000 1000000").unwrap();
    let (say, hear) = mpsc::channel();
    let sleeper = thread::spawn(move || {
        say.send(()).unwrap();
        pressure.wait(Events::PRI)
    });
    hear.recv().unwrap();
    let sever = stage.open_to_write("/a/sever");
    assert_eq!(sever.write(b"0\n"), Ok(2));
    assert_eq!(sever.write(b"2"), Err(Errno::ERANGE));
    assert_eq!(sever.write(b"yes"), Err(Errno::EINVAL));
    assert_eq!(sever.write(b"1\n"), Ok(2));
    assert!(sleeper.join().unwrap().contains(Events::ERR));
    assert_eq!(procs.read_to_string(), Err(Errno::ENODEV));
    assert_eq!(sever.write(b"1"), Err(Errno::ENODEV));
    assert!(stage.hierarchy.group("/a").is_none());
    assert_eq!(stage.control().lookup("/a").unwrap_err(), Errno::ENOENT);
    assert_eq!(stage.control().open("/sever", OpenFlags::WRITE).map(drop), Err(Errno::ENOENT));
}

#[test]
fn groups_are_made_severed_and_controlled_at_the_same_time() {
    let stage = Stage::new();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..300 {
                    // Each may be late for what the other does.
                    let _ = stage.groups().mkdir("/a", Mode::DIR);
                    let _ = stage.groups().mkdir("/a/b", Mode::DIR);
                    let _ = stage.write("/a/b/memory.stall", "some 10% full 5%");
                    let _ = stage.write("/a/sever", "1");
                }
            });
        }
    });
    stage.mkdir("/b");
    let _ = stage.hierarchy.group("/a").map(|group| group.sever().unwrap().wait().unwrap());
    assert_eq!(names(&stage.control(), "/"), ["b", "cpu.stall", "io.stall", "memory.stall"]);
    let before = stage.stalled("");
    stage.run(10);
    assert_eq!(stage.stalled(""), before, "somebody stalls on");
}
