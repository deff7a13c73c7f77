//! Triggers that are set, polled and fired while their files are hidden, shown and removed.

use std::time::Duration;

use kernfs_tests::probe::eventually;
use kernfs_tests::{Fd, How, InProcess, Mounted, Subject, errno, flags};

use super::{Thread, steps, storm};

const PRI: u32 = 2;
const ERR: u32 = 8;
const TRIGGER: &[u8] = b"some 300000 2000000";
const WAYS: [How; 3] = [How::Poll, How::Select, How::Epoll];

/// Longer than it takes an owner to come round.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn triggers_in_process() {
    blow("triggers, in process", &InProcess::new());
}

#[test]
fn triggers_of_cgroups_in_process() {
    match InProcess::cgroups() {
        Ok(subject) => blow("triggers, cgroups in process", &subject),
        Err(reason) => eprintln!("skipped: {reason}"),
    }
}

#[test]
fn triggers_through_a_mount() {
    match Mounted::subject() {
        Ok(subject) => blow("triggers, mounted", &subject),
        Err(reason) => eprintln!("skipped: {reason}"),
    }
}

#[test]
fn triggers_of_cgroups_through_a_mount() {
    match Mounted::cgroups() {
        Ok(subject) => blow("triggers, cgroups mounted", &subject),
        Err(reason) => eprintln!("skipped: {reason}"),
    }
}

fn blow(name: &'static str, subject: &dyn Subject) {
    storm(name, threads(subject, &top(subject)));
    settle(subject);
}

fn top(subject: &dyn Subject) -> String {
    let top = subject.cgroup().unwrap();
    subject.mkdir(&format!("{top}/t")).unwrap();
    top
}

fn settle(subject: &dyn Subject) {
    // A mount hears of a close a little later.
    eventually("no trigger is left", || subject.triggers() == Some(0));
}

fn threads<'a>(subject: &'a dyn Subject, top: &str) -> Vec<Thread<'a>> {
    let t = format!("{top}/t");
    let mut threads = vec![steps({
        let t = t.clone();
        move |dice| own(subject, &t, dice)
    })];
    for _ in 0..2 {
        let t = t.clone();
        threads.push(steps(move |dice| set(subject, &t, dice)));
    }
    threads.push(steps(move |dice| wait(subject, &t, dice)));
    threads
}

/// Makes and removes the group, hides and shows its files, and lets it have pressure.
fn own(s: &dyn Subject, t: &str, dice: &mut fastrand::Rng) {
    let switch = |to: &[u8]| {
        let fd = s.open(&format!("{t}/cgroup.pressure"), flags::O_WRONLY).unwrap();
        assert_eq!(s.write(fd, to), Ok(1));
        s.close(fd).unwrap();
    };
    match dice.u32(0..6) {
        0 | 1 => {
            s.rmdir(t).unwrap();
            s.mkdir(t).unwrap();
        }
        2 | 3 => {
            switch(b"0");
            switch(b"1");
        }
        4 => {
            s.load(t, true).unwrap();
            s.pass(Duration::from_millis(dice.u64(1..3000))).unwrap();
            s.load(t, false).unwrap();
        }
        _ => s.pass(Duration::from_millis(dice.u64(1..3000))).unwrap(),
    }
    // Clients shall find something, now and then.
    std::thread::sleep(Duration::from_micros(dice.u64(0..300)));
}

fn open(s: &dyn Subject, path: &str) -> Option<Fd> {
    match s.open(path, flags::O_RDWR) {
        Ok(fd) => Some(fd),
        Err(number) => {
            assert!([errno::ENOENT, errno::ENODEV].contains(&number), "open: errno {number}");
            None
        }
    }
}

/// Sets triggers, and looks for their events a little.
fn set(s: &dyn Subject, t: &str, dice: &mut fastrand::Rng) {
    let is_loaded = dice.bool();
    let name = if is_loaded { "cpu" } else { "memory" };
    let Some(fd) = open(s, &format!("{t}/{name}.pressure")) else { return };
    let first = s.write(fd, TRIGGER);
    assert!([Ok(TRIGGER.len()), Err(errno::ENODEV)].contains(&first), "{first:?}");
    let twin = s.dup(fd).unwrap();
    for _ in 0..dice.u32(0..4) {
        match dice.u32(0..4) {
            0 => {
                let again = s.write(twin, TRIGGER);
                assert!([Err(errno::EBUSY), Err(errno::ENODEV)].contains(&again), "{again:?}");
            }
            1 => {
                let read = s.pread(fd, 512, 0);
                let right = |read: &Vec<u8>| read.starts_with(b"some avg10=");
                assert!(read.as_ref().map_or_else(|number| *number == errno::ENODEV, right));
            }
            2 => check(s.poll(twin, PRI), is_loaded),
            _ => {
                let how = WAYS[dice.usize(0..3)];
                let timeout = Duration::from_micros(dice.u64(0..2000));
                let got = s.wait(fd, PRI, how, timeout);
                // select does not tell of errors.
                check(got, is_loaded || how == How::Select);
            }
        }
    }
    s.close(twin).unwrap();
    s.close(fd).unwrap();
}

/// Checks that an event is only reported where there was one, or the file is dead.
fn check(events: Result<u32, i32>, may_fire: bool) {
    let events = events.unwrap();
    assert!([0, PRI, PRI | ERR].contains(&events), "{events:#x}");
    assert!(may_fire || events != PRI, "an event of nothing");
}

/// Sleeps on a trigger that never fires, until the file is hidden or removed; it stays dead.
fn wait(s: &dyn Subject, t: &str, dice: &mut fastrand::Rng) {
    let Some(fd) = open(s, &format!("{t}/memory.pressure")) else { return };
    if s.write(fd, TRIGGER).is_ok() {
        let how = WAYS[dice.usize(0..3)];
        assert_ne!(s.wait(fd, PRI, how, PATIENCE), Ok(0), "asleep on a dead file, {how:?}");
    }
    for _ in 0..3 {
        assert_eq!(s.poll(fd, PRI), Ok(PRI | ERR));
        assert_eq!(s.pread(fd, 16, 0), Err(errno::ENODEV), "dead, though shown again");
        assert_eq!(s.write(fd, TRIGGER), Err(errno::ENODEV));
    }
    s.close(fd).unwrap();
}
