//! D. Hide and show, by way of `cgroup.pressure`.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use super::{ALL_EVENTS, Case, ERR, Env, IN, OUT, PRI, RDNORM, WRNORM, ok, refused};
use crate::subject::{How, Kind, Needs, errno, flags, whence};

const GROUP: &str = "D. Hide and show";
const HIDEABLE: [&str; 3] = ["cpu.pressure", "io.pressure", "memory.pressure"];

pub(super) const CASES: &[Case] = &[
    case("48", "hidden files are gone from listing and lookup", gone),
    case("49", "old descriptors are dead while the file is hidden", dead_while_hidden),
    case("50", "shown files have the same inode, mode and xattrs", same_node),
    case("51", "old descriptors stay dead when the file is shown again", stay_dead),
    case("52", "a reopen by way of the old descriptor works when shown", reopen),
    case("53", "a hidden name is missing and yet taken", taken),
    case("54", "the switch takes 0 and 1 in any notation", notations),
    case("55", "children are not affected", children),
    case("56", "a thousand fast toggles revive nobody", toggles),
];

const fn case(number: &'static str, title: &'static str, run: fn(&Env<'_>)) -> Case {
    let needs = Needs::CGROUPS.union(Needs::PRESSURE_FILES);
    Case { number, group: GROUP, title, needs, run }
}

fn switch(env: &Env<'_>, t: &str, to: &str) {
    let wrote = env.put(&format!("{t}/cgroup.pressure"), to.as_bytes());
    assert_eq!(wrote, Ok(to.len()), "write {to:?} to cgroup.pressure");
}

fn gone(env: &Env<'_>) {
    let t = env.cgroup();
    let before = env.names(&t);
    assert!(HIDEABLE.iter().all(|name| before.iter().any(|other| other == name)));
    switch(env, &t, "0");
    let after = env.names(&t);
    let pressure = before.iter().filter(|name| name.ends_with(".pressure")).count();
    assert_eq!(after.len() + pressure - 1, before.len(), "all but cgroup.pressure");
    for name in HIDEABLE {
        assert!(!after.iter().any(|other| other == name));
        refused(&env.s.stat(&format!("{t}/{name}")), errno::ENOENT, "stat of the hidden");
    }
    assert_eq!(env.contents(&format!("{t}/cgroup.pressure")), "0\n");
    switch(env, &t, "1");
    assert_eq!(env.names(&t), before, "as before, in the same order");
}

fn assert_dead(env: &Env<'_>, fd: crate::Fd) {
    refused(&env.s.read(fd, 10), errno::ENODEV, "read");
    refused(&env.s.pread(fd, 10, 0), errno::ENODEV, "pread");
    refused(&env.s.write(fd, b"some 150000 2000000"), errno::ENODEV, "write");
    let sought = env.s.lseek(fd, 0, whence::SEEK_SET);
    if env.s.kind() == Kind::Mount {
        assert_eq!(sought, Ok(0));
        env.differs("FUSE seeks without asking");
    } else {
        refused(&sought, errno::ENODEV, "lseek");
    }
    assert_eq!(env.s.poll(fd, ALL_EVENTS), Ok(IN | PRI | OUT | ERR | RDNORM | WRNORM));
    assert_eq!(env.s.poll(fd, 0), Ok(ERR));
}

fn dead_while_hidden(env: &Env<'_>) {
    let t = env.cgroup();
    let fd = env.open(&format!("{t}/cpu.pressure"), flags::O_RDWR);
    switch(env, &t, "0");
    assert_dead(env, fd);
    ok(env.s.fstat(fd), "fstat");
    refused(&env.s.reopen(fd, flags::O_RDONLY), errno::ENODEV, "a reopen of the hidden");
    ok(env.s.close(fd), "close");
}

fn same_node(env: &Env<'_>) {
    let t = env.cgroup();
    let path = format!("{t}/cpu.pressure");
    ok(env.s.chmod(&path, 0o640), "chmod");
    ok(env.s.setxattr(&path, "user.mine", b"1", flags::XATTR_ANY), "setxattr");
    let before = ok(env.s.stat(&path), "stat");
    switch(env, &t, "0");
    switch(env, &t, "1");
    let after = ok(env.s.stat(&path), "stat");
    assert_eq!((after.ino, after.mode), (before.ino, before.mode));
    assert_eq!(env.s.getxattr(&path, "user.mine").as_deref(), Ok(&b"1"[..]));
    assert!(env.contents(&path).starts_with("some avg10="));
}

fn stay_dead(env: &Env<'_>) {
    let t = env.cgroup();
    let old = env.open(&format!("{t}/cpu.pressure"), flags::O_RDWR);
    for _ in 0..3 {
        switch(env, &t, "0");
        switch(env, &t, "1");
        assert_dead(env, old);
        let fresh = env.open(&format!("{t}/cpu.pressure"), flags::O_RDWR);
        ok(env.s.pread(fresh, 10, 0), "a read of the fresh");
        ok(env.s.close(fresh), "close");
    }
    ok(env.s.close(old), "close");
}

fn reopen(env: &Env<'_>) {
    let t = env.cgroup();
    let old = env.open(&format!("{t}/cpu.pressure"), flags::O_RDWR);
    switch(env, &t, "0");
    switch(env, &t, "1");
    let fresh = ok(env.s.reopen(old, flags::O_RDONLY), "reopen");
    ok(env.s.read(fresh, 10), "read");
    assert_dead(env, old);
    ok(env.s.close(fresh), "close");
    ok(env.s.close(old), "close");
    if env.s.can().contains(Needs::REAL_DESCRIPTORS) {
        let path = env.open(&format!("{t}/cpu.pressure"), flags::O_PATH);
        switch(env, &t, "0");
        refused(&env.s.reopen(path, flags::O_RDONLY), errno::ENODEV, "O_PATH while hidden");
        switch(env, &t, "1");
        let fresh = ok(env.s.reopen(path, flags::O_RDONLY), "a reopen of O_PATH");
        ok(env.s.read(fresh, 10), "read");
        ok(env.s.close(fresh), "close");
        ok(env.s.close(path), "close");
    }
}

fn taken(env: &Env<'_>) {
    let t = env.cgroup();
    let path = format!("{t}/cpu.pressure");
    let handle = env.s.can().contains(Needs::HANDLES).then(|| env.s.name_to_handle(&path));
    switch(env, &t, "0");
    refused(&env.s.stat(&path), errno::ENOENT, "stat");
    refused(&env.s.mkdir(&path), errno::EEXIST, "mkdir");
    if let Some(handle) = handle {
        let handle = ok(handle, "name_to_handle_at");
        refused(&env.s.open_by_handle(handle, flags::O_RDONLY), errno::ESTALE, "a handle");
        switch(env, &t, "1");
        let shown = env.s.open_by_handle(handle, flags::O_RDONLY);
        if env.s.kind() == Kind::Mount {
            // What FUSE calls a handle is the node id, which ends with each severing.
            refused(&shown, errno::ESTALE, "a handle when shown");
            env.differs("a FUSE handle dies by hiding");
        } else {
            ok(env.s.close(ok(shown, "a handle when shown")), "close");
        }
        switch(env, &t, "0");
    }
    if env.s.can().contains(Needs::REAL_DESCRIPTORS) {
        refused(&env.s.open(&path, flags::O_CREAT | flags::O_RDWR), errno::EACCES, "O_CREAT");
    }
    refused(&env.s.stat(&path), errno::ENOENT, "stat");
    ok(env.s.rmdir(&t), "rmdir with hidden files");
}

fn notations(env: &Env<'_>) {
    let t = env.cgroup();
    let path = format!("{t}/cgroup.pressure");
    for (text, value) in [("0", "0\n"), (" 1 ", "1\n"), ("0x0\n", "0\n"), ("01", "1\n")] {
        switch(env, &t, text);
        assert_eq!(env.contents(&path), value, "{text:?}");
    }
    for text in ["2", "-1", "0x10"] {
        refused(&env.put(&path, text.as_bytes()), errno::ERANGE, text);
    }
    for text in ["x", "1 0", "1,"] {
        refused(&env.put(&path, text.as_bytes()), errno::EINVAL, text);
    }
    assert_eq!(env.put(&path, b""), Ok(0));
    assert_eq!(env.contents(&path), "1\n");
    let held = env.open(&format!("{t}/cpu.pressure"), flags::O_RDONLY);
    switch(env, &t, "1");
    ok(env.s.read(held, 10), "the same value again does nothing");
    ok(env.s.close(held), "close");
}

fn children(env: &Env<'_>) {
    let t = env.cgroup();
    ok(env.s.mkdir(&format!("{t}/old")), "mkdir");
    let held = env.open(&format!("{t}/old/cpu.pressure"), flags::O_RDONLY);
    switch(env, &t, "0");
    ok(env.s.mkdir(&format!("{t}/new")), "mkdir");
    for child in ["old", "new"] {
        assert_eq!(env.contents(&format!("{t}/{child}/cgroup.pressure")), "1\n");
        ok(env.s.stat(&format!("{t}/{child}/cpu.pressure")), "stat");
    }
    ok(env.s.pread(held, 10, 0), "read");
    ok(env.s.close(held), "close");
}

fn toggles(env: &Env<'_>) {
    let t = env.cgroup();
    let path = format!("{t}/cpu.pressure");
    let old = env.open(&path, flags::O_RDWR);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(SeqCst) {
                // Ready always: before, as nothing was read; after, as it is dead.
                assert_eq!(env.s.wait(old, PRI, How::Epoll, super::DEADLINE), Ok(PRI | ERR));
                if let Ok(fresh) = env.s.open(&path, flags::O_RDWR) {
                    ok(env.s.wait(fresh, PRI, How::Epoll, super::DEADLINE), "wait");
                    ok(env.s.close(fresh), "close");
                }
                thread::yield_now();
            }
        });
        let toggle = || {
            for _ in 0..1000 {
                switch(env, &t, "0");
                switch(env, &t, "1");
                refused(&env.s.pread(old, 10, 0), errno::ENODEV, "the old descriptor");
            }
        };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(toggle));
        is_over.store(true, SeqCst);
        result.unwrap();
    });
    ok(env.s.close(old), "close");
    ok(env.s.rmdir(&t), "rmdir");
}
