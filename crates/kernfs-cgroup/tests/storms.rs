//! Races, by threads that do everything at once for a while: 2 s, or `STORM_SECONDS`.

mod support;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use kernfs::{Errno, Events, Mode, OpenFlags};
use kernfs_cgroup::{Controllers, Group, Hierarchy};
use kernfs_fuse::Mount;
use kernfs_psi::{Resource, Stall};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use support::{Fixture, PATIENCE, Process, skip};

/// A storm, which ends by itself.
struct Storm {
    end: Instant,
    rounds: AtomicUsize,
    has_failed: AtomicBool,
}

impl Storm {
    fn new() -> Self {
        let seconds = std::env::var("STORM_SECONDS").ok();
        let seconds = seconds.map_or(2, |text| text.parse().expect("a number of seconds"));
        let end = Instant::now() + Duration::from_secs(seconds);
        Self { end, rounds: AtomicUsize::new(0), has_failed: AtomicBool::new(false) }
    }

    fn goes_on(&self) -> bool {
        Instant::now() < self.end && !self.has_failed.load(SeqCst)
    }

    /// Repeats something on a thread of its own.
    fn blow<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        mut round: impl FnMut() + Send + 'scope,
    ) {
        scope.spawn(move || {
            struct Failed<'a>(&'a AtomicBool);
            impl Drop for Failed<'_> {
                fn drop(&mut self) {
                    // Else the others would go on for nothing.
                    if thread::panicking() {
                        self.0.store(true, SeqCst);
                    }
                }
            }
            let _failed = Failed(&self.has_failed);
            while self.goes_on() {
                round();
                self.rounds.fetch_add(1, SeqCst);
            }
        });
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        eprintln!("{} rounds", self.rounds.load(SeqCst));
    }
}

/// Asserts that an error is one of those that a race may end in.
#[track_caller]
fn only<T>(result: Result<T, Errno>, allowed: &[Errno]) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(errno) if allowed.contains(&errno) => None,
        Err(errno) => panic!("{errno}"),
    }
}

const GONE: [Errno; 2] = [Errno::ENOENT, Errno::ENODEV];

/// CONTRACT 77, 3.8-2, 3.8-3, P11.
#[test]
fn triggers_are_set_while_files_are_hidden_and_groups_removed() {
    let fixture = Fixture::new();
    let storm = Storm::new();
    let groups = std::sync::Mutex::new(Vec::<Group>::new());
    thread::scope(|scope| {
        for name in ["cpu", "memory", "io"] {
            let path = format!("/a/{name}.pressure");
            let fixture = &fixture;
            storm.blow(scope, move || {
                let opened = fixture.client.open(&path, OpenFlags::READ_WRITE);
                let Some(file) = only(opened, &GONE) else { return };
                for _ in 0..4 {
                    only(file.write(b"some 150000 2000000"), &[Errno::EBUSY, Errno::ENODEV]);
                    only(file.read_to_string(), &[Errno::ENODEV]);
                }
                // Held over the removal now and then: dropped by the next round.
                let _ = file.ready(Events::all());
            });
        }
        storm.blow(scope, || {
            for text in ["0", "1"] {
                only(fixture.write("/a/cgroup.pressure", text), &GONE);
            }
        });
        storm.blow(scope, || {
            let group = fixture.hierarchy.root().make_child("a").unwrap();
            thread::yield_now();
            groups.lock().unwrap().push(group.clone());
            group.sever().unwrap().wait().unwrap();
            assert_eq!(group.pressure().triggers(), 0, "a trigger has outlived its file");
        });
    });
    let groups = groups.into_inner().unwrap();
    assert!(!groups.is_empty());
    assert!(groups.iter().all(|group| group.pressure().triggers() == 0));
    assert_eq!(fixture.hierarchy.tree().usage().open_files, 0);
}

/// CONTRACT 76.
#[test]
fn a_trigger_that_is_closed_disturbs_no_other() {
    let fixture = Fixture::new();
    let group = fixture.make("/a");
    let held = fixture.open("/a/io.pressure", OpenFlags::READ_WRITE);
    held.write(b"some 1000000 2000000").unwrap();
    let storm = Storm::new();
    thread::scope(|scope| {
        for _ in 0..2 {
            let fixture = &fixture;
            storm.blow(scope, move || {
                let file = fixture.open("/a/io.pressure", OpenFlags::READ_WRITE);
                file.write(b"some 1 2000000").unwrap();
                drop(file);
            });
        }
        storm.blow(scope, || {
            let events = held.ready(Events::PRI | Events::ERR);
            assert!(events.is_empty(), "a report for nothing: {events:?}");
        });
        // What is too little for the one that waits.
        storm.blow(scope, || {
            group.pressure().feed(Resource::Io, Stall::Some, Duration::from_nanos(1));
            fixture.hierarchy.engine().advance();
        });
    });
    assert_eq!(group.pressure().triggers(), 1);
}

/// CONTRACT 43, 44, 3.8: everything at once.
#[test]
fn groups_members_controllers_and_files_change_at_once() {
    let fixture = Fixture::with_controllers();
    let processes = [Process::new(), Process::new(), Process::new()];
    let storm = Storm::new();
    let busy = [Errno::ENOENT, Errno::ENODEV, Errno::EBUSY, Errno::EEXIST, Errno::EOPNOTSUPP];
    thread::scope(|scope| {
        let fixture = &fixture;
        for (name, process) in ["a", "b", "c"].into_iter().zip(&processes) {
            let (group, child) = (format!("/{name}"), format!("/{name}/x"));
            storm.blow(scope, move || {
                only(fixture.mkdir(&group), &busy);
                only(fixture.mkdir(&child), &busy);
                only(fixture.attach(&child, process.pid()), &busy);
                only(fixture.rmdir(&group), &busy);
                only(fixture.attach(&group, process.pid()), &busy);
                only(fixture.rmdir(&child), &busy);
                only(fixture.attach("", process.pid()), &busy);
                only(fixture.rmdir(&child), &busy);
                only(fixture.rmdir(&group), &busy);
            });
        }
        storm.blow(scope, || {
            for name in ["a", "b/x", "c"] {
                if let Some(group) = fixture.hierarchy.group(name) {
                    only(group.sever().and_then(|draining| Ok(draining.wait()?)), &busy);
                }
            }
            thread::sleep(Duration::from_micros(300));
        });
        storm.blow(scope, || {
            for text in ["+memory", "+pids", "-memory -pids"] {
                for path in ["/a", "/b", "/c"] {
                    only(fixture.write(&format!("{path}/cgroup.subtree_control"), text), &busy);
                }
            }
            for text in ["1", "0"] {
                only(fixture.write("/b/cgroup.freeze", text), &GONE);
                only(fixture.write("/c/cgroup.pressure", text), &GONE);
            }
        });
        storm.blow(scope, || {
            let root = fixture.client.open_dir("/").unwrap();
            for entry in root.entries(0, 100).unwrap() {
                let name = String::from_utf8(entry.name.to_vec()).unwrap();
                for file in ["cgroup.events", "cgroup.procs", "memory.current", "cgroup.stat"] {
                    let read = fixture.read(&format!("/{name}/{file}"));
                    only(read, &[Errno::ENOENT, Errno::ENODEV, Errno::ENOTDIR]);
                }
            }
        });
    });
    at_rest(&fixture);
}

/// What has to be so when nothing happens any more.
fn at_rest(fixture: &Fixture) {
    let root = fixture.hierarchy.root();
    for group in root.children() {
        let below = group.children();
        let stat = fixture.read(&format!("/{}/cgroup.stat", String::from_utf8_lossy(group.name())));
        let count = format!("nr_descendants {}", below.len());
        assert_eq!(stat.unwrap().lines().next(), Some(&*count));
        let has_members = |group: &Group| !group.members().is_empty();
        let is_populated = has_members(&group) || below.iter().any(has_members);
        assert_eq!(group.is_populated(), is_populated, "{group:?}");
    }
    for group in root.children() {
        group.sever().unwrap().wait().unwrap();
    }
    assert_eq!(root.children(), []);
    assert_eq!(fixture.read("/cgroup.stat").unwrap().lines().next(), Some("nr_descendants 0"));
    assert_eq!(fixture.hierarchy.tree().usage().open_files, 0);
    assert_eq!(fixture.list("/").len(), 13);
}

#[test]
fn members_die_while_they_are_moved_and_groups_vanish() {
    let fixture = Fixture::new();
    let storm = Storm::new();
    thread::scope(|scope| {
        let fixture = &fixture;
        for name in ["a", "b"] {
            storm.blow(scope, move || {
                let group = fixture.hierarchy.root().make_child(name).unwrap();
                let other = group.make_child("other").unwrap();
                let mut process = Process::new();
                let pid = process.pid();
                group.add_member(pid).unwrap();
                thread::scope(|scope| {
                    scope.spawn(|| process.wait());
                    for _ in 0..3 {
                        only(other.add_member(pid), &[Errno::ESRCH]);
                        only(group.add_member(pid), &[Errno::ESRCH]);
                    }
                });
                assert_eq!(group.members(), [], "waited for, and a member");
                only(other.remove(), &[]).unwrap().wait().unwrap();
                group.sever().unwrap().wait().unwrap();
            });
        }
    });
    at_rest(&fixture);
}

/// CONTRACT 74, 3.8-1, through a mount: whoever sleeps is woken, whatever else goes on.
#[test]
fn sleepers_wake_through_a_mount_while_groups_vanish() {
    let hierarchy = Hierarchy::new().unwrap();
    hierarchy.root().enable(Controllers::all()).unwrap();
    let Some(mounted) = Mounted::new(&hierarchy) else { return };
    let storm = Storm::new();
    thread::scope(|scope| {
        for name in ["a", "b"] {
            let (dir, root) = (mounted.dir.join(name), hierarchy.root());
            storm.blow(scope, move || {
                let group = root.make_child(name).unwrap();
                let sleepers: Vec<_> = ["cgroup.events", "memory.pressure", "memory.events"]
                    .into_iter()
                    .map(|file| {
                        let file = File::options().read(true).write(true).open(dir.join(file));
                        let file = file.unwrap();
                        let _ = rustix::io::pread(&file, &mut [0; 256], 0).unwrap();
                        thread::spawn(move || {
                            let _ = rustix::io::write(&file, b"some 1000000 2000000");
                            sleep_on(&file)
                        })
                    })
                    .collect();
                let path = dir.clone();
                let toggle = thread::spawn(move || {
                    for text in ["0", "1"] {
                        let _ = std::fs::write(path.join("cgroup.pressure"), text);
                    }
                    let _ = std::fs::create_dir(path.join("x"));
                });
                group.sever().unwrap().wait().unwrap();
                for sleeper in sleepers {
                    assert!(sleeper.join().unwrap(), "nobody woke a sleeper");
                }
                toggle.join().unwrap();
            });
        }
    });
    assert_eq!(hierarchy.root().children(), []);
}

/// Sleeps until the file has news or is dead; tells whether it was woken.
fn sleep_on(file: &File) -> bool {
    let mut fds = [PollFd::new(file, PollFlags::PRI)];
    let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    matches!(poll(&mut fds, Some(&patience)), Ok(1))
}

/// CONTRACT 43 and 44 through a mount, with the errors that system calls may end in.
#[test]
fn system_calls_race_rmdir_through_a_mount() {
    let hierarchy = Hierarchy::new().unwrap();
    let Some(mounted) = Mounted::new(&hierarchy) else { return };
    let process = Process::new();
    let storm = Storm::new();
    let check = |result: io::Result<()>| {
        if let Err(error) = result {
            let errno = Errno::from_raw(error.raw_os_error().unwrap()).unwrap();
            let allowed = [Errno::ENOENT, Errno::ENODEV, Errno::EBUSY, Errno::EEXIST];
            assert!(allowed.contains(&errno), "{errno}");
        }
    };
    thread::scope(|scope| {
        let dir = mounted.dir.join("a");
        let check = &check;
        let write = move |path: PathBuf, text: &str| check(std::fs::write(path, text));
        for _ in 0..2 {
            let dir = dir.clone();
            storm.blow(scope, move || {
                check(std::fs::create_dir(&dir));
                check(std::fs::create_dir(dir.join("b")));
                check(std::fs::remove_dir(dir.join("b")));
                check(std::fs::remove_dir(&dir));
            });
        }
        let attached = dir.clone();
        let pid = process.pid().to_string();
        let home = mounted.dir.join("cgroup.procs");
        storm.blow(scope, move || {
            write(attached.join("cgroup.procs"), &pid);
            write(home.clone(), &pid);
        });
        storm.blow(scope, move || {
            let file = File::options().read(true).write(true).open(dir.join("io.pressure"));
            let Ok(file) = file else { return };
            for _ in 0..3 {
                let written = rustix::io::write(&file, b"some 150000 2000000");
                check(written.map(drop).map_err(io::Error::from));
                write(dir.join("cgroup.pressure"), "0");
                write(dir.join("cgroup.pressure"), "1");
            }
        });
    });
    let _ = hierarchy.group("a").map(|group| group.sever().unwrap().wait());
    assert_eq!(hierarchy.root().children(), []);
    assert_eq!(hierarchy.tree().client(kernfs::Caller::OWNER).mkdir("/a", Mode::DIR), Ok(()));
}

/// A mount of a hierarchy at a directory that goes with it.
struct Mounted {
    dir: PathBuf,
    mount: Option<Mount>,
}

impl Mounted {
    fn new(hierarchy: &Hierarchy) -> Option<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("kernfs-storms-{}-{}", std::process::id(), COUNT.fetch_add(1, SeqCst));
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir(&dir).expect("a new directory");
        match Mount::new(hierarchy.tree(), &dir) {
            Ok(mount) => Some(Self { dir, mount: Some(mount) }),
            Err(error) => {
                let _ = std::fs::remove_dir(&dir);
                skip(format_args!("nothing can be mounted: {error}"));
                None
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(self.mount.take());
        let _ = std::fs::remove_dir(&self.dir);
    }
}

#[test]
fn of_two_that_make_the_same_group_one_does() {
    let fixture = Fixture::new();
    let root = fixture.hierarchy.root();
    let storm = Storm::new();
    while storm.goes_on() {
        let made = [(); 2].map(|()| root.clone()).map(|root| {
            thread::spawn(move || only(root.make_child("a").map(drop), &[Errno::EEXIST]).is_some())
        });
        let made = made.map(|made| made.join().unwrap());
        assert!(made[0] != made[1], "one group of that name");
        assert_eq!(root.children().len(), 1);
        fixture.group("a").sever().unwrap().wait().unwrap();
        assert!(!fixture.is_there("/a"));
        storm.rounds.fetch_add(1, SeqCst);
    }
    at_rest(&fixture);
}
