//! Any bytes written to any control file of a group: nothing panics, errors are those that are
//! documented, what was accepted is shown in a form that is accepted again, and the hierarchy is
//! whole afterwards.

#![no_main]

use arbitrary::Arbitrary;
use kernfs::{Caller, Client, Errno, Mode, OpenFlags};
use kernfs_cgroup::{Controllers, Hierarchy};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|steps: Vec<Step>| {
    let hierarchy = Hierarchy::new().expect("descriptors are to be had");
    hierarchy.root().enable(Controllers::all()).expect("the root has them");
    let client = hierarchy.tree().client(Caller::OWNER);
    for step in steps {
        take(&hierarchy, &client, &step);
    }
    check(&hierarchy, &client);
});

#[derive(Arbitrary, Debug)]
enum Step {
    Write {
        group: u8,
        file: u8,
        data: Vec<u8>,
    },
    /// What files take, so that not everything is refused.
    Say {
        group: u8,
        file: u8,
        word: u8,
    },
    Make {
        group: u8,
        name: u8,
    },
    Remove {
        group: u8,
    },
    Sever {
        group: u8,
    },
}

/// Few, so that they meet; one is named like a file.
const GROUPS: [&str; 6] = ["", "/a", "/b", "/a/c", "/a/c/d", "/a/memory.max"];
const NAMES: [&str; 4] = ["a", "b", "c", "memory.max"];

/// The files, with the errors of a write besides ENOENT and ENODEV for what is not there, EINVAL
/// for what is nonsense, and E2BIG for what is too long.
const FILES: [(&str, &[Errno]); 22] = [
    ("cgroup.procs", &[Errno::ESRCH, Errno::EBUSY, Errno::EOPNOTSUPP]),
    ("cgroup.threads", &[Errno::ESRCH, Errno::EBUSY, Errno::EOPNOTSUPP]),
    ("cgroup.subtree_control", &[Errno::EBUSY, Errno::EOPNOTSUPP, Errno::EEXIST]),
    ("cgroup.max.depth", &[Errno::ERANGE]),
    ("cgroup.max.descendants", &[Errno::ERANGE]),
    ("cgroup.freeze", &[Errno::ERANGE]),
    ("cgroup.kill", &[Errno::ERANGE, Errno::EOPNOTSUPP]),
    ("cgroup.pressure", &[Errno::ERANGE]),
    ("cgroup.type", &[Errno::EOPNOTSUPP]),
    ("memory.min", &[]),
    ("memory.low", &[]),
    ("memory.high", &[]),
    // A group can have this name.
    ("memory.max", &[Errno::EISDIR]),
    ("pids.max", &[Errno::ERANGE]),
    ("cpu.pressure", &[]),
    ("memory.pressure", &[]),
    ("io.pressure", &[]),
    ("cgroup.controllers", &[]),
    ("cgroup.events", &[]),
    ("cgroup.stat", &[]),
    ("memory.current", &[]),
    ("pids.current", &[]),
];

const WORDS: [&str; 14] = [
    "0",
    "1",
    "2",
    "max",
    "+memory",
    "-memory",
    "+pids",
    "-pids",
    "+memory -pids",
    "threaded",
    "some 1 2000000",
    "full 2000000 2000000",
    "1G",
    "0x10",
];

fn pick<'a, T: ?Sized>(list: &[&'a T], index: u8) -> &'a T {
    list[usize::from(index) % list.len()]
}

fn take(hierarchy: &Hierarchy, client: &Client, step: &Step) {
    match step {
        Step::Write { group, file, data } => write(client, pick(&GROUPS, *group), *file, data),
        Step::Say { group, file, word } => {
            write(client, pick(&GROUPS, *group), *file, pick(&WORDS, *word).as_bytes());
        }
        Step::Make { group, name } => {
            let path = format!("{}/{}", pick(&GROUPS, *group), pick(&NAMES, *name));
            let allowed = [Errno::ENOENT, Errno::EEXIST, Errno::EAGAIN, Errno::ENOTDIR];
            only(client.mkdir(&path, Mode::DIR), &allowed, "mkdir");
        }
        Step::Remove { group } => {
            let path = pick(&GROUPS, *group);
            // The root is none that could be removed by its name.
            if !path.is_empty() {
                let allowed = [Errno::ENOENT, Errno::EBUSY, Errno::ENOTDIR];
                let removed = client.rmdir(path).map(|draining| draining.wait().is_ok());
                only(removed, &allowed, "rmdir");
            }
        }
        Step::Sever { group } => {
            if let Some(group) = hierarchy.group(pick(&GROUPS, *group)) {
                only(group.sever().map(drop), &[Errno::EBUSY], "sever");
            }
        }
    }
}

fn write(client: &Client, group: &str, file: u8, data: &[u8]) {
    let (name, errors) = FILES[usize::from(file) % FILES.len()];
    let path = format!("{group}/{name}");
    let common = [Errno::ENOENT, Errno::ENODEV, Errno::EINVAL, Errno::E2BIG, Errno::ENOTDIR];
    let allowed = [&common, errors].concat();
    let written = client.open(&path, OpenFlags::WRITE).and_then(|open| open.write(data));
    let Some(len) = only(written, &allowed, &path) else { return };
    assert_eq!(len, data.len(), "{path}");
    if data.is_empty() || matches!(name, "cgroup.procs" | "cgroup.threads" | "cgroup.kill") {
        return;
    }
    let read =
        |path: &str| client.open(path, OpenFlags::READ).and_then(|open| open.read_to_string());
    let Ok(text) = read(&path) else { return };
    if name.ends_with(".pressure") && name != "cgroup.pressure" || name == "cgroup.subtree_control"
    {
        return;
    }
    let open = client.open(&path, OpenFlags::WRITE).expect("it was just there");
    assert_eq!(open.write(text.as_bytes()), Ok(text.len()), "{path} does not take what it says");
    assert_eq!(read(&path), Ok(text), "{path}");
}

/// What has to be so whatever was written.
fn check(hierarchy: &Hierarchy, client: &Client) {
    let mut left = vec![hierarchy.root()];
    let mut count = 0;
    while let Some(group) = left.pop() {
        count += 1;
        let path = String::from_utf8(group.path()).expect("made of our names");
        let read = |name: &str| {
            let path = format!("{}/{name}", path.trim_end_matches('/'));
            client.open(path, OpenFlags::READ).and_then(|open| open.read_to_string())
        };
        assert!(read("cgroup.stat").is_ok());
        let children = group.children();
        if group.parent().is_some() {
            let populated = format!("populated {}\n", u8::from(group.is_populated()));
            assert!(read("cgroup.events").is_ok_and(|text| text.starts_with(&populated)));
            // Only leaves have members, but for controllers that can deal with threads.
            let control = read("cgroup.subtree_control").expect("it is there");
            assert!(group.members().is_empty() || !control.contains("memory"), "{path}");
        }
        left.extend(children);
    }
    let root = client.open("/cgroup.stat", OpenFlags::READ).and_then(|open| open.read_to_string());
    let first = format!("nr_descendants {}", count - 1);
    assert_eq!(root.expect("the root is there").lines().next(), Some(&*first));
}

#[track_caller]
fn only<T>(result: Result<T, Errno>, allowed: &[Errno], what: &str) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(errno) if allowed.contains(&errno) => None,
        Err(errno) => panic!("{what}: {errno}"),
    }
}
