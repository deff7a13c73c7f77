//! E. Poll and notify, on `cgroup.events`, whose `populated` changes from the owner's side.

use super::{A_WHILE, Case, DEADLINE, ERR, Env, IN, OUT, PRI, RDNORM, WRNORM, ok};
use crate::subject::{Fd, How, Kind, Needs, flags};

const GROUP: &str = "E. Poll and notify";
const DEFAULT: u32 = IN | OUT | RDNORM | WRNORM;
const WAYS: [How; 3] = [How::Poll, How::Select, How::Epoll];

pub(super) const CASES: &[Case] = &[
    case("57", "a fresh descriptor is ready before its first read", fresh),
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
        ..case("63", "removal from the owner's side wakes a waiter: the same", unregister)
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
    ok(env.s.populate(t, is_populated), "populate");
    let told = format!("populated {}\n", u8::from(is_populated));
    assert!(env.contents(&format!("{t}/cgroup.events")).starts_with(&told));
}

fn fresh(env: &Env<'_>) {
    let t = env.cgroup();
    let fd = env.open(&format!("{t}/cgroup.events"), flags::O_RDONLY);
    assert_eq!(env.s.poll(fd, super::ALL_EVENTS), Ok(DEFAULT | PRI | ERR));
    assert_eq!(env.s.poll(fd, PRI), Ok(PRI | ERR));
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
    for round in 0..4 {
        let is_populated = round % 2 == 0;
        let got = env.while_waiting(fd, PRI, How::Epoll, DEADLINE, || {
            ok(env.s.populate(&t, is_populated), "populate");
        });
        assert_eq!(ok(got, "wait") & PRI, PRI, "round {round}, without a read in between");
    }
    ok(env.s.close(fd), "close");
}

/// What a waiter gets when its file is removed: the gap that is closed here.
fn assert_woken(env: &Env<'_>, fd: Fd, how: How, remove: impl FnOnce()) {
    match env.s.kind() {
        Kind::Kernel => {
            let got = env.while_waiting(fd, PRI, How::Epoll, A_WHILE, remove);
            assert_eq!(got, Ok(0), "this kernel wakes: it has been fixed");
        }
        Kind::InProcess | Kind::Mount => {
            let got = env.while_waiting(fd, PRI, how, DEADLINE, remove);
            assert_eq!(ok(got, "wait") & PRI, PRI, "{how:?}");
        }
    }
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
