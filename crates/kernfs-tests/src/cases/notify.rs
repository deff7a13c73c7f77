//! E. Poll and notify, on `cgroup.events`, whose `populated` changes from the owner's side.

use std::time::{Duration, Instant};

use super::{A_WHILE, Case, DEADLINE, ERR, Env, IN, OUT, PRI, RDNORM, WRNORM, ok};
use crate::subject::inotify::{IN_DELETE, IN_DELETE_SELF, IN_ISDIR, IN_MODIFY};
use crate::subject::{Fd, How, Kind, Needs, Watched, flags};

const GROUP: &str = "E. Poll and notify";
pub(super) const DEFAULT: u32 = IN | OUT | RDNORM | WRNORM;
pub(super) const WAYS: [How; 3] = [How::Poll, How::Select, How::Epoll];

pub(super) const CASES: &[Case] = &[
    Case {
        needs: Needs::FILES,
        ..case("57", "a fresh descriptor is ready before its first read", fresh)
    },
    case("58", "a change wakes a waiter with PRI and ERR", change),
    case("59", "readiness stays until a read from the start", sticky),
    case("60", "two descriptors are independent", independent),
    Case {
        needs: Needs::CGROUPS.union(Needs::MEMBERS).union(Needs::EDGE_TRIGGERED_EPOLL),
        ..case("61", "edge-triggered epoll fires at each notification", edge_triggered)
    },
    case("62", "removal wakes a waiter: ours does, the kernel's does not", removal),
    Case {
        needs: Needs::DEVICES,
        ..case("63", "removal of a device wakes a waiter: the same", unregister)
    },
    Case {
        needs: Needs::ATTRIBUTES,
        ..case("63", "removal of one file by its owner wakes a waiter: the same", attribute)
    },
    Case {
        needs: Needs::CGROUPS.union(Needs::MEMBERS).union(Needs::INOTIFY),
        ..case("64", "inotify tells of a change, and not of hiding", inotify_change)
    },
    Case {
        needs: Needs::CGROUPS.union(Needs::INOTIFY),
        ..case("65", "inotify tells of a removal on the parent", inotify_removal)
    },
];

const fn case(number: &'static str, title: &'static str, run: fn(&Env<'_>)) -> Case {
    let needs = Needs::CGROUPS.union(Needs::MEMBERS);
    Case { number, group: GROUP, title, needs, run }
}

/// Opens `cgroup.events` and reads it.
fn watch(env: &Env<'_>, t: &str) -> Fd {
    let fd = env.open(&format!("{t}/cgroup.events"), flags::O_RDONLY);
    ok(env.s.pread(fd, 4096, 0), "read");
    fd
}

fn populate(env: &Env<'_>, t: &str, is_populated: bool) {
    let probe = watch(env, t);
    ok(env.s.populate(t, is_populated), "populate");
    let told = format!("populated {}\n", u8::from(is_populated));
    assert!(env.contents(&format!("{t}/cgroup.events")).starts_with(&told));
    // The kernel notifies of a file at most once in 10 ms, and makes up for it later.
    crate::probe::eventually("the notification", || env.s.poll(probe, PRI) == Ok(PRI | ERR));
    ok(env.s.close(probe), "close");
}

fn fresh(env: &Env<'_>) {
    let fd = env.open(&env.place().text, flags::O_RDONLY);
    assert_eq!(env.s.poll(fd, super::ALL_EVENTS), Ok(DEFAULT | PRI | ERR));
    assert_eq!(env.s.poll(fd, PRI), Ok(PRI | ERR));
    ok(env.s.pread(fd, 4096, 0), "read");
    assert_eq!(env.s.poll(fd, super::ALL_EVENTS), Ok(DEFAULT));
    ok(env.s.close(fd), "close");
}

fn change(env: &Env<'_>) {
    for how in WAYS {
        let t = env.cgroup();
        let fd = watch(env, &t);
        assert_eq!(env.s.poll(fd, super::ALL_EVENTS), Ok(DEFAULT), "nothing new");
        let got = env.while_waiting(fd, PRI, how, DEADLINE, || populate(env, &t, true));
        assert_eq!(ok(got, "wait") & PRI, PRI, "{how:?}");
        assert_eq!(env.s.poll(fd, PRI), Ok(PRI | ERR));
        ok(env.s.close(fd), "close");
        populate(env, &t, false);
        ok(env.s.rmdir(&t), "rmdir");
    }
}

fn sticky(env: &Env<'_>) {
    let t = env.cgroup();
    let fd = watch(env, &t);
    populate(env, &t, true);
    for _ in 0..3 {
        assert_eq!(env.s.poll(fd, PRI), Ok(PRI | ERR), "polling does not clear it");
    }
    let fd_at_end = env.open(&format!("{t}/cgroup.events"), flags::O_RDONLY);
    ok(env.s.read(fd_at_end, 4096), "read");
    populate(env, &t, false);
    assert_eq!(env.s.read(fd_at_end, 10).as_deref(), Ok(&b""[..]));
    assert_eq!(env.s.poll(fd_at_end, PRI), Ok(PRI | ERR), "a read at the end does not clear it");
    ok(env.s.lseek(fd_at_end, 0, crate::whence::SEEK_SET), "lseek");
    assert_eq!(env.s.poll(fd_at_end, PRI), Ok(PRI | ERR), "lseek does not clear it");
    ok(env.s.pread(fd_at_end, 4096, 0), "pread");
    assert_eq!(env.s.poll(fd_at_end, PRI), Ok(0), "a read from the start clears it");
    ok(env.s.close(fd_at_end), "close");
    ok(env.s.close(fd), "close");
}

fn independent(env: &Env<'_>) {
    let t = env.cgroup();
    let [one, two] = [watch(env, &t), watch(env, &t)];
    populate(env, &t, true);
    ok(env.s.pread(one, 4096, 0), "read");
    assert_eq!(env.s.poll(one, PRI), Ok(0));
    assert_eq!(env.s.poll(two, PRI), Ok(PRI | ERR));
    ok(env.s.close(two), "close");
    assert_eq!(env.s.poll(one, PRI), Ok(0));
    let three = env.open(&format!("{t}/cgroup.events"), flags::O_RDONLY);
    assert_eq!(env.s.poll(one, PRI), Ok(0), "another open does not disturb");
    populate(env, &t, false);
    assert_eq!(env.s.poll(one, PRI), Ok(PRI | ERR));
    ok(env.s.close(three), "close");
    ok(env.s.close(one), "close");
}

fn edge_triggered(env: &Env<'_>) {
    let t = env.cgroup();
    let fd = watch(env, &t);
    let epoll = ok(env.s.epoll_edge(fd, PRI), "an edge-triggered epoll");
    assert_eq!(env.s.epoll_wait(epoll, Duration::ZERO), Ok(0));
    for round in 0..4 {
        populate(env, &t, round % 2 == 0);
        let got = env.s.epoll_wait(epoll, DEADLINE);
        assert_eq!(got, Ok(PRI | ERR), "round {round}, without a read in between");
        assert_eq!(env.s.epoll_wait(epoll, Duration::ZERO), Ok(0), "once for each notification");
    }
    ok(env.s.close(epoll), "close");
    ok(env.s.close(fd), "close");
}

/// What a waiter gets when its file is removed: the gap that is closed here.
fn assert_woken(env: &Env<'_>, fd: Fd, how: How, remove: impl FnOnce()) {
    let is_kernel = env.s.kind() == Kind::Kernel;
    let start = Instant::now();
    let timeout = if is_kernel { A_WHILE } else { DEADLINE };
    let got = ok(env.while_waiting(fd, PRI, how, timeout, remove), "wait");
    if is_kernel && start.elapsed() >= timeout {
        // poll and select look once more when the time is over; epoll does not even then.
        assert_eq!(got & PRI, if how == How::Epoll { 0 } else { PRI }, "{how:?}");
        return env.differs("the kernel wakes nobody");
    }
    assert_eq!(got & PRI, PRI, "{how:?}");
    assert!(!is_kernel || !super::linux_has_gaps(), "this kernel wakes: it has been fixed");
}

fn removal(env: &Env<'_>) {
    for how in WAYS {
        let t = env.cgroup();
        let fd = watch(env, &t);
        assert_woken(env, fd, how, || ok(env.s.rmdir(&t), "rmdir"));
        assert_eq!(env.s.poll(fd, PRI), Ok(PRI | ERR));
        ok(env.s.close(fd), "close");
    }
}

fn unregister(env: &Env<'_>) {
    for how in WAYS {
        let device = ok(env.s.device(), "a device");
        let fd = env.open(&format!("{}/{}", device.dir, device.ro), flags::O_RDONLY);
        ok(env.s.pread(fd, 4096, 0), "read");
        assert_woken(env, fd, how, || ok(env.s.unregister(&device), "unregister"));
        assert_eq!(env.s.poll(fd, PRI), Ok(PRI | ERR));
        ok(env.s.close(fd), "close");
    }
}

fn attribute(env: &Env<'_>) {
    for how in WAYS {
        let attribute = ok(env.s.attribute(), "an attribute");
        let fd = env.open(&attribute.path, flags::O_RDONLY);
        ok(env.s.pread(fd, 4096, 0), "read");
        assert_woken(env, fd, how, || ok(env.s.set_present(&attribute, false), "remove"));
        assert_eq!(env.s.poll(fd, PRI), Ok(PRI | ERR));
        ok(env.s.close(fd), "close");
    }
}

/// Waits until a watch has told of an event, and returns everything that it told until then.
pub(super) fn told(env: &Env<'_>, watch: Fd, event: u32, timeout: Duration) -> Vec<Watched> {
    let start = Instant::now();
    let mut all = Vec::new();
    while start.elapsed() < timeout && !all.iter().any(|one: &Watched| one.events & event != 0) {
        ok(env.s.wait(watch, IN, How::Poll, Duration::from_millis(50)), "wait");
        all.extend(ok(env.s.watched(watch), "inotify"));
    }
    all
}

fn inotify_change(env: &Env<'_>) {
    let t = env.cgroup();
    let file = ok(env.s.watch(&format!("{t}/cgroup.events")), "watch");
    let parent = ok(env.s.watch(&t), "watch");
    populate(env, &t, true);
    let on_file = told(env, file, IN_MODIFY, DEADLINE);
    let on_parent = told(env, parent, IN_MODIFY, DEADLINE);
    assert_eq!(on_file.first(), Some(&Watched { events: IN_MODIFY, name: String::new() }));
    let name = "cgroup.events".to_owned();
    assert!(on_parent.contains(&Watched { events: IN_MODIFY, name }), "{on_parent:?}");
    populate(env, &t, false);
    if env.s.can().contains(Needs::PRESSURE_FILES) {
        let hidden = ok(env.s.watch(&format!("{t}/cpu.pressure")), "watch");
        ok(env.put(&format!("{t}/cgroup.pressure"), b"0"), "hide");
        ok(env.put(&format!("{t}/cgroup.pressure"), b"1"), "show");
        // What hiding would tell would have come before what is written after it.
        let after = ok(env.s.watch(&format!("{t}/cgroup.freeze")), "watch");
        ok(env.put(&format!("{t}/cgroup.freeze"), b"1"), "write");
        assert_ne!(told(env, after, IN_MODIFY, DEADLINE), []);
        assert_eq!(env.s.watched(hidden), Ok(vec![]), "hiding is not told");
    }
}

fn inotify_removal(env: &Env<'_>) {
    let top = env.cgroup();
    let t = format!("{top}/t");
    ok(env.s.mkdir(&t), "mkdir");
    let parent = ok(env.s.watch(&top), "watch");
    let file = ok(env.s.watch(&format!("{t}/cgroup.events")), "watch");
    ok(env.s.rmdir(&t), "rmdir");
    let gone = Watched { events: IN_DELETE | IN_ISDIR, name: "t".into() };
    assert_eq!(told(env, parent, IN_DELETE, DEADLINE), [gone]);
    let timeout = if env.s.kind() == Kind::Kernel { A_WHILE } else { DEADLINE };
    let on_file = told(env, file, IN_DELETE_SELF, timeout);
    match env.s.kind() {
        Kind::Kernel if on_file.is_empty() => env.differs("the kernel tells nothing of the file"),
        Kind::Kernel => assert!(!super::linux_has_gaps(), "told of the file: {on_file:?}"),
        Kind::Mount | Kind::InProcess => {
            assert!(on_file.iter().any(|one| one.events & IN_DELETE_SELF != 0), "{on_file:?}");
        }
    }
}
