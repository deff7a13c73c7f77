//! F. Pressure: files, triggers, and how they end.
//!
//! Windows are multiples of 2 s, so that the cases are the same for who lacks CAP_SYS_RESOURCE.
//! For ours, time passes on a virtual clock; for the kernel, it passes.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use super::notify::{DEFAULT, WAYS, told};
use super::{A_WHILE, ALL_EVENTS, Case, DEADLINE, ERR, Env, IN, PRI, ok, refused};
use crate::subject::inotify::IN_MODIFY;
use crate::subject::{Fd, How, Kind, Needs, errno, flags};

const GROUP: &str = "F. Pressure";
const FILES: [&str; 3] = ["cpu.pressure", "io.pressure", "memory.pressure"];
const TRIGGER: &[u8] = b"some 300000 2000000";
/// The window of it.
const WINDOW: Duration = Duration::from_secs(2);

pub(super) const CASES: &[Case] = &[
    case("66", "pressure files have the lines that they should have", format),
    case("67", "triggers are taken and refused row by row", syntax),
    case("68", "an open file takes one trigger, whatever is written next", one_trigger),
    Case {
        needs: Needs::SYSTEM_PRESSURE,
        ..case("69", "of a write to /proc/pressure the last of 32 bytes is lost", last_byte)
    },
    case("70", "a file is ready without a trigger, and not with one", readiness),
    loaded("71", "load fires a trigger, at most once per window, and no other", load),
    loaded("72", "an event is consumed by any poll of its open file", consumed),
    loaded("73", "an event outlives the load, and is delivered once", outlives),
    Case {
        needs: NEEDS.union(Needs::LOAD).union(Needs::INOTIFY),
        ..case("64", "inotify tells of the events of triggers", inotify)
    },
    case("74", "hiding and removal wake who waits for a trigger", severed),
    case("75", "removal with 50 triggers: quick with ours, 50 grace periods in Linux", removal),
    case("76", "the end of one trigger is no event of another", closed),
    case("77", "writing triggers while the file is hidden or removed", race),
    loaded("79", "totals never go back, and stay when accounting is switched", totals),
];

const NEEDS: Needs = Needs::CGROUPS.union(Needs::PRESSURE_FILES);

const fn case(number: &'static str, title: &'static str, run: fn(&Env<'_>)) -> Case {
    Case { number, group: GROUP, title, needs: NEEDS, run }
}

const fn loaded(number: &'static str, title: &'static str, run: fn(&Env<'_>)) -> Case {
    Case { needs: NEEDS.union(Needs::LOAD), ..case(number, title, run) }
}

/// Opens a pressure file and sets a trigger.
fn watch(env: &Env<'_>, path: &str) -> Fd {
    let fd = env.open(path, flags::O_RDWR);
    assert_eq!(env.s.write(fd, TRIGGER), Ok(TRIGGER.len()));
    fd
}

fn format(env: &Env<'_>) {
    let t = env.cgroup();
    for name in FILES {
        let text = env.contents(&format!("{t}/{name}"));
        let lines: Vec<_> = text.lines().map(numbers).collect();
        assert_eq!(lines.iter().map(|line| line.0).collect::<Vec<_>>(), ["some", "full"], "{text}");
        assert!(text.ends_with('\n'));
    }
    if env.s.can().contains(Needs::SYSTEM_PRESSURE) {
        let text = env.contents(&format!("{}/cpu", ok(env.s.system(), "the system")));
        assert!(text.ends_with("\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"), "{text}");
    }
}

/// Checks a line, and returns its first word and its total.
fn numbers(line: &str) -> (&str, u64) {
    let words: Vec<_> = line.split(' ').collect();
    let [which, averages @ .., total] = &words[..] else { panic!("{line}") };
    let names = ["avg10=", "avg60=", "avg300="];
    assert_eq!(averages.len(), names.len(), "{line}");
    for (average, name) in averages.iter().zip(names) {
        let number = average.strip_prefix(name).expect("a name");
        let (whole, hundredths) = number.split_once('.').expect("a point");
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        assert!(digits(whole) && !whole.is_empty() && hundredths.len() == 2, "{line}");
        assert!(digits(hundredths), "{line}");
    }
    (which, total.strip_prefix("total=").expect("a total").parse().expect("a number"))
}

fn total(env: &Env<'_>, path: &str) -> u64 {
    numbers(env.contents(path).lines().next().expect("a line")).1
}

fn syntax(env: &Env<'_>) {
    const TAKEN: [&[u8]; 15] = [
        b"some 150000 2000000",
        b"some 150000 2000000\n",
        b"some 150000 2000000\0",
        b"some150000 2000000",
        b"some   150000   2000000",
        b"some\t150000\t\t2000000",
        b"some 150000\n2000000",
        b"some 000150000 0002000000",
        b"some 150000 2000000 junk",
        b"some 150000 2000000junk",
        b"some 4294967297 2000000",
        b"some 2000000 2000000",
        b"some 1 2000000",
        b"some 1 10000000",
        b"full 150000 4000000",
    ];
    const REFUSED: [&[u8]; 22] = [
        b" some 150000 2000000",
        b"Some 150000 2000000",
        b"SOME 150000 2000000",
        b"some 150000",
        b"some",
        b"150000 2000000",
        b"some +5 2000000",
        b"some -1 2000000",
        b"some 0x10 2000000",
        b"some 1.5 2000000",
        b"some 150000,2000000",
        b"most 150000 2000000",
        b"garbage",
        b"\n",
        b"\0some 150000 2000000",
        b"some 150000\0 2000000",
        b"some 0 2000000",
        b"some 4294967296 2000000",
        b"some 2000001 2000000",
        b"some 150000 0",
        b"some 150000 10000001",
        b"some 150000 12000000",
    ];
    let t = env.cgroup();
    for path in FILES.map(|name| format!("{t}/{name}")) {
        for text in TAKEN {
            assert_eq!(env.put(&path, text), Ok(text.len()), "{}", text.escape_ascii());
        }
        for text in REFUSED {
            let shown = text.escape_ascii().to_string();
            refused(&env.put(&path, text), errno::EINVAL, &shown);
        }
        for text in [&b"some 150000 500000"[..], b"some 150000 3000000"] {
            let taken = if env.s.is_privileged() { Ok(text.len()) } else { Err(errno::EINVAL) };
            assert_eq!(env.put(&path, text), taken, "{}", text.escape_ascii());
        }
        assert_eq!(env.put(&path, b""), Ok(0));
        let mut page = b"some 150000 2000000".to_vec();
        page.resize(4096, b' ');
        assert_eq!(env.put(&path, &page), Ok(4096));
        page.push(b' ');
        refused(&env.put(&path, &page), errno::E2BIG, "more than a page");
    }
    until_none_is_set(env);
    ok(env.s.rmdir(&t), "rmdir");
}

fn one_trigger(env: &Env<'_>) {
    let t = env.cgroup();
    let path = format!("{t}/io.pressure");
    let fd = env.open(&path, flags::O_RDWR);
    refused(&env.s.write(fd, b"garbage"), errno::EINVAL, "a bad one first");
    assert_eq!(env.s.write(fd, TRIGGER), Ok(TRIGGER.len()), "a good one after it");
    refused(&env.s.write(fd, TRIGGER), errno::EBUSY, "a second one");
    refused(&env.s.write(fd, b"garbage"), errno::EBUSY, "garbage after it");
    refused(&env.s.write(fd, &[b' '; 4097]), errno::E2BIG, "too much after it");
    assert_eq!(env.s.write(fd, b""), Ok(0), "nothing after it");
    let dup = ok(env.s.dup(fd), "dup");
    ok(env.s.close(fd), "close");
    refused(&env.s.write(dup, TRIGGER), errno::EBUSY, "the duplicate");
    let read_only = env.open(&path, flags::O_RDONLY);
    refused(&env.s.write(read_only, TRIGGER), errno::EBADF, "open for reading");
    assert_eq!(env.s.poll(read_only, PRI), Ok(PRI | ERR));
    let write_only = env.open(&path, flags::O_WRONLY);
    assert_eq!(env.s.pwrite(write_only, TRIGGER, 7), Ok(TRIGGER.len()), "at an offset");
    assert_eq!(env.s.poll(write_only, ALL_EVENTS), Ok(DEFAULT));
    let many: Vec<_> = (0..50).map(|_| watch(env, &path)).collect();
    assert!(env.s.triggers().is_none_or(|triggers| triggers == 52));
    for fd in many.into_iter().chain([dup, read_only, write_only]) {
        ok(env.s.close(fd), "close");
    }
    until_none_is_set(env);
    ok(env.s.rmdir(&t), "rmdir");
}

/// Waits until no trigger is left; a mount hears of a close a little later.
fn until_none_is_set(env: &Env<'_>) {
    crate::probe::eventually("the triggers of closed files are gone", || {
        env.s.triggers().is_none_or(|triggers| triggers == 0)
    });
}

fn last_byte(env: &Env<'_>) {
    let path = format!("{}/io", ok(env.s.system(), "the system"));
    let first = env.put(&path, b"some 150000 2000000\n");
    if first == Err(errno::EPERM) {
        return env.cannot("this kernel lets only the privileged write to /proc/pressure");
    }
    assert_eq!(first, Ok(20));
    assert_eq!(env.put(&path, b"some 150000 2000000\0"), Ok(20));
    // What is left is a window of 200 ms, which is less than the threshold.
    refused(&env.put(&path, b"some 250000 2000000"), errno::EINVAL, "no byte to lose");
    let mut long = b"some 150000 2000000\n".to_vec();
    long.resize(5000, b'x');
    assert_eq!(env.put(&path, &long), Ok(5000), "only 32 bytes are looked at");
    let mut late = b"some 150000               2000000".to_vec();
    late.resize(5000, b' ');
    refused(&env.put(&path, &late), errno::EINVAL, "the window comes too late");
    let empty = env.put(&path, b"");
    if env.s.kind() == Kind::Mount {
        assert_eq!(empty, Ok(0));
        env.differs("FUSE answers an empty write itself, 0");
    } else {
        refused(&empty, errno::EINVAL, "an empty write");
    }
}

fn readiness(env: &Env<'_>) {
    let t = env.cgroup();
    for name in FILES {
        let fd = env.open(&format!("{t}/{name}"), flags::O_RDWR);
        for _ in 0..2 {
            assert_eq!(env.s.poll(fd, ALL_EVENTS), Ok(DEFAULT | PRI | ERR));
            for how in WAYS {
                let got = ok(env.s.wait(fd, PRI, how, DEADLINE), "wait");
                assert_eq!(got & PRI, PRI, "{how:?}: at once");
            }
            ok(env.s.pread(fd, 4096, 0), "a read changes nothing");
        }
        assert_eq!(env.s.write(fd, TRIGGER), Ok(TRIGGER.len()));
        assert_eq!(env.s.poll(fd, ALL_EVENTS), Ok(DEFAULT));
        assert_eq!(env.s.poll(fd, PRI), Ok(0));
        ok(env.s.close(fd), "close");
    }
    ok(env.s.rmdir(&t), "rmdir");
}

/// Lets time pass until a poll has an event, and returns when that was.
fn event(env: &Env<'_>, fd: Fd) -> Duration {
    let time = || ok(env.s.time(), "the time");
    let start = time();
    while env.s.poll(fd, PRI) != Ok(PRI) {
        assert!(time() < start + DEADLINE, "no event");
        ok(env.s.pass(Duration::from_millis(20)), "time passes");
    }
    time()
}

fn load(env: &Env<'_>) {
    let t = env.cgroup();
    let start = ok(env.s.time(), "the time");
    let [cpu, memory] = ["cpu", "memory"].map(|name| watch(env, &format!("{t}/{name}.pressure")));
    ok(env.s.load(&t, true), "load");
    let first = event(env, cpu);
    assert_eq!(env.s.poll(cpu, ALL_EVENTS), Ok(DEFAULT), "it was consumed");
    let second = event(env, cpu);
    // The first may be seen late, but comes after the start.
    assert!(second - start >= WINDOW, "two events in {:?}", second - start);
    if env.s.kind() != Kind::Kernel {
        // On a virtual clock, all of it is exact.
        let early = Duration::from_millis(2500);
        assert!(
            first - start <= early && second - first <= early,
            "{start:?} {first:?} {second:?}"
        );
    }
    assert_eq!(env.s.poll(memory, PRI), Ok(0), "load of the processor is none of memory");
    ok(env.s.load(&t, false), "rest");
    ok(env.s.close(cpu), "close");
    ok(env.s.close(memory), "close");
    ok(env.s.rmdir(&t), "rmdir");
}

fn consumed(env: &Env<'_>) {
    let t = env.cgroup();
    let path = format!("{t}/cpu.pressure");
    let [first, by_poll, by_dup, by_epoll, untouched] = [(); 5].map(|()| watch(env, &path));
    let twin = ok(env.s.dup(by_dup), "dup");
    ok(env.s.load(&t, true), "load");
    loop {
        let fired = event(env, first);
        // They all fire in one evaluation, which is done by then.
        ok(env.s.pass(Duration::from_millis(20)), "time passes");
        let thieves = [
            env.s.poll(by_poll, IN),
            env.s.poll(twin, PRI),
            env.s.wait(by_epoll, IN, How::Epoll, DEADLINE),
        ];
        let robbed = [by_poll, by_dup, by_epoll].map(|fd| env.s.poll(fd, PRI));
        let left = env.s.poll(untouched, PRI);
        // Else the next event may have come in between.
        if ok(env.s.time(), "the time") < fired + WINDOW {
            assert_eq!(thieves, [Ok(IN), Ok(PRI), Ok(IN)]);
            assert_eq!(robbed, [Ok(0); 3], "of poll for IN, of a duplicate, of an epoll for IN");
            assert_eq!(left, Ok(PRI), "another open file has its own");
            break;
        }
    }
    ok(env.s.load(&t, false), "rest");
    for fd in [first, by_poll, by_dup, twin, by_epoll, untouched] {
        ok(env.s.close(fd), "close");
    }
    ok(env.s.rmdir(&t), "rmdir");
}

fn outlives(env: &Env<'_>) {
    let t = env.cgroup();
    let path = format!("{t}/cpu.pressure");
    let [first, fd] = [(); 2].map(|()| watch(env, &path));
    ok(env.s.load(&t, true), "load");
    event(env, first);
    ok(env.s.load(&t, false), "rest");
    // A breach that was found in the quiet time is delivered after it: nothing is due after this.
    ok(env.s.pass(Duration::from_secs(5)), "time passes");
    assert_eq!(env.s.poll(fd, ALL_EVENTS), Ok(DEFAULT | PRI), "kept until now");
    assert_eq!(env.s.poll(fd, ALL_EVENTS), Ok(DEFAULT), "delivered once");
    ok(env.s.close(fd), "close");
    ok(env.s.close(first), "close");
    ok(env.s.rmdir(&t), "rmdir");
}

fn inotify(env: &Env<'_>) {
    let t = env.cgroup();
    let path = format!("{t}/cpu.pressure");
    let fd = watch(env, &path);
    let [file, parent] = [&path, &t].map(|path| ok(env.s.watch(path), "watch"));
    ok(env.s.load(&t, true), "load");
    event(env, fd);
    ok(env.s.load(&t, false), "rest");
    let timeout = if env.s.kind() == Kind::Mount { A_WHILE } else { DEADLINE };
    let on_file = told(env, file, IN_MODIFY, timeout);
    let on_parent = told(env, parent, IN_MODIFY, timeout);
    if env.s.kind() == Kind::Mount && on_file.is_empty() {
        assert_eq!(on_parent, []);
        env.differs("FUSE itself tells inotify of nothing that the owner does");
    } else {
        assert_eq!((on_file[0].events, on_file[0].name.as_str()), (IN_MODIFY, ""));
        assert!(!on_parent.is_empty());
    }
    ok(env.s.close(fd), "close");
    ok(env.s.rmdir(&t), "rmdir");
}

fn switch(env: &Env<'_>, t: &str, to: &str) {
    assert_eq!(env.put(&format!("{t}/cgroup.pressure"), to.as_bytes()), Ok(to.len()));
}

fn severed(env: &Env<'_>) {
    for is_hidden in [true, false] {
        for how in WAYS {
            let t = env.cgroup();
            let path = format!("{t}/memory.pressure");
            let [fd, idle] = [(); 2].map(|()| watch(env, &path));
            let end = || match is_hidden {
                true => switch(env, &t, "0"),
                false => ok(env.s.rmdir(&t), "rmdir"),
            };
            let got = ok(env.while_waiting(fd, PRI, how, DEADLINE, end), "wait");
            assert_eq!(got & PRI, PRI, "{how:?}, hidden: {is_hidden}");
            for fd in [fd, idle] {
                assert_eq!(env.s.poll(fd, PRI), Ok(PRI | ERR));
                refused(&env.s.write(fd, TRIGGER), errno::ENODEV, "a write to the severed");
            }
            assert!(env.s.triggers().is_none_or(|triggers| triggers == 0));
            if is_hidden {
                switch(env, &t, "1");
                assert_eq!(env.s.poll(fd, PRI), Ok(PRI | ERR), "shown again");
                ok(env.s.rmdir(&t), "rmdir");
            }
            ok(env.s.close(fd), "close");
            ok(env.s.close(idle), "close");
        }
    }
}

/// The time that a removal with 50 triggers takes.
fn removal(env: &Env<'_>) {
    const TRIGGERS: u32 = 50;
    // A grace period is several ticks; ours takes microseconds.
    const EACH: Duration = Duration::from_millis(1);
    let is_kernel = env.s.kind() == Kind::Kernel;
    let start = std::time::Instant::now();
    loop {
        let t = env.cgroup();
        let fds: Vec<_> = (0..TRIGGERS).map(|_| watch(env, &format!("{t}/io.pressure"))).collect();
        let begin = std::time::Instant::now();
        ok(env.s.rmdir(&t), "rmdir");
        let took = begin.elapsed();
        for fd in fds {
            assert_eq!(env.s.poll(fd, PRI), Ok(PRI | ERR));
            ok(env.s.close(fd), "close");
        }
        if is_kernel && took >= EACH * TRIGGERS {
            return env.differs("Linux waits for a grace period for each trigger");
        }
        assert!(!is_kernel || !super::linux_has_gaps(), "Linux took only {took:?}");
        if took < EACH * TRIGGERS {
            return;
        }
        // Somebody else had the processor.
        assert!(start.elapsed() < DEADLINE, "{took:?} for {TRIGGERS} triggers, and never less");
    }
}

fn closed(env: &Env<'_>) {
    let t = env.cgroup();
    let path = format!("{t}/io.pressure");
    let [fd, other] = [(); 2].map(|()| watch(env, &path));
    let close = || ok(env.s.close(other), "close");
    assert_eq!(
        env.while_waiting(fd, PRI, How::Epoll, A_WHILE, close),
        Ok(0),
        "a report of nothing"
    );
    assert_eq!(env.s.poll(fd, ALL_EVENTS), Ok(DEFAULT));
    ok(env.s.close(fd), "close");
    ok(env.s.rmdir(&t), "rmdir");
}

fn race(env: &Env<'_>) {
    const ROUNDS: usize = 40;
    let top = env.cgroup();
    let t = format!("{top}/t");
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for name in FILES {
            let (path, is_over) = (format!("{t}/{name}"), &is_over);
            scope.spawn(move || {
                while !is_over.load(SeqCst) {
                    write_in_race(env, &path);
                    thread::yield_now();
                }
            });
        }
        let ends = || {
            for _ in 0..ROUNDS {
                ok(env.s.mkdir(&t), "mkdir");
                for to in ["0", "1"] {
                    thread::yield_now();
                    switch(env, &t, to);
                }
                thread::yield_now();
                ok(env.s.rmdir(&t), "rmdir in a race");
            }
        };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(ends));
        is_over.store(true, SeqCst);
        result.unwrap();
    });
    assert!(env.s.triggers().is_none_or(|triggers| triggers == 0), "a trigger is left");
    ok(env.s.rmdir(&top), "rmdir");
}

/// Opens, and writes twice; nothing but the known answers is right.
fn write_in_race(env: &Env<'_>, path: &str) {
    let fd = match env.s.open(path, flags::O_RDWR) {
        Ok(fd) => fd,
        Err(number) => {
            return assert!([errno::ENOENT, errno::ENODEV].contains(&number), "{number}");
        }
    };
    let first = env.s.write(fd, TRIGGER);
    assert!([Ok(TRIGGER.len()), Err(errno::ENODEV)].contains(&first), "{first:?}");
    let second = env.s.write(fd, TRIGGER);
    assert!([Err(errno::EBUSY), Err(errno::ENODEV)].contains(&second), "{second:?}");
    assert!(first.is_ok() || second == Err(errno::ENODEV), "{first:?}, then {second:?}");
    ok(env.s.close(fd), "close");
}

fn totals(env: &Env<'_>) {
    let t = env.cgroup();
    let path = format!("{t}/cpu.pressure");
    ok(env.s.load(&t, true), "load");
    let mut last = 0;
    crate::probe::eventually("the total grows", || {
        ok(env.s.pass(Duration::from_millis(20)), "time passes");
        total(env, &path) > 0
    });
    for _ in 0..20 {
        let now = total(env, &path);
        assert!(now >= last, "{now} after {last}");
        last = now;
        ok(env.s.pass(Duration::from_millis(2)), "time passes");
    }
    ok(env.s.load(&t, false), "rest");
    let before = total(env, &path);
    assert!(before >= last);
    switch(env, &t, "0");
    ok(env.s.pass(Duration::from_millis(20)), "time passes");
    switch(env, &t, "1");
    assert_eq!(total(env, &path), before, "off and on");
    ok(env.s.rmdir(&t), "rmdir");
}
