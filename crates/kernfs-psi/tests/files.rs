//! Pressure files: what they answer, poll masks, and what becomes of a trigger.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::thread;
use std::time::Duration;

use kernfs::{Caller, Change, Errno, Events, File, OpenFile, OpenFlags, Tree};
use kernfs_psi::{
    Engine, Group, PressureFile, Resource, Share, Stall, VirtualClock, WriteManners, pressure_file,
};

/// A tree with one pressure file of one group.
struct Fixture {
    clock: VirtualClock,
    engine: Engine,
    group: Group,
    tree: Tree,
    file: File<PressureFile>,
}

/// Root without CAP_SYS_RESOURCE, as in many a container.
const UNPRIVILEGED: Caller = Caller::OWNER.with_capable(|_, _| false);

const TRIGGER: &[u8] = b"some 150000 2000000\n";

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

impl Fixture {
    fn new(resource: Resource) -> Self {
        Self::with_manners(resource, WriteManners::Cgroup)
    }

    fn with_manners(resource: Resource, manners: WriteManners) -> Self {
        let clock = VirtualClock::new();
        let engine = Engine::builder().clock(clock.clone()).build();
        let group = engine.root().child();
        let tree = Tree::new();
        let driver = pressure_file(&group, resource).manners(manners);
        let file = tree.root().add_file("pressure", driver.options(), driver).unwrap();
        Self { clock, engine, group, tree, file }
    }

    fn open(&self, flags: OpenFlags) -> OpenFile {
        self.tree.client(Caller::OWNER).open("/pressure", flags).unwrap()
    }

    /// Opens and sets a trigger.
    fn watch(&self, trigger: &[u8]) -> OpenFile {
        let file = self.open(OpenFlags::READ_WRITE);
        assert_eq!(file.write(trigger), Ok(trigger.len()));
        file
    }

    fn run(&self, time: Duration) {
        self.clock.run(&self.engine, time);
    }
}

fn ready(file: &OpenFile) -> Events {
    file.ready(Events::all())
}

const QUIET: Events = Events::DEFAULT;
const FIRED: Events = Events::DEFAULT.union(Events::PRI);

#[test]
fn files_are_read_in_the_format_of_the_kernel() {
    for resource in Resource::ALL {
        let fixture = Fixture::new(resource);
        let text = fixture.open(OpenFlags::READ).read_to_string().unwrap();
        let line = "avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
        let some = if resource == Resource::Irq { String::new() } else { format!("some {line}") };
        assert_eq!(text, format!("{some}full {line}"));
    }
}

#[test]
fn an_open_file_takes_one_trigger() {
    let fixture = Fixture::new(Resource::Io);
    let file = fixture.open(OpenFlags::READ_WRITE);
    assert_eq!(file.write(b""), Ok(0));
    assert_eq!(file.write(b"garbage"), Err(Errno::EINVAL));
    assert_eq!(fixture.group.triggers(), 0);
    assert_eq!(ready(&file), Events::SEVERED, "no trigger: ERR and PRI at once");

    assert_eq!(file.write(TRIGGER), Ok(TRIGGER.len()));
    assert_eq!(fixture.group.triggers(), 1);
    assert_eq!(ready(&file), QUIET);

    assert_eq!(file.write(TRIGGER), Err(Errno::EBUSY));
    assert_eq!(file.write(b"garbage"), Err(Errno::EBUSY));
    assert_eq!(file.write(b""), Ok(0));
    assert_eq!(file.write(&[b' '; 4097]), Err(Errno::E2BIG));
    assert_eq!(ready(&file), QUIET);

    let again = fixture.watch(TRIGGER);
    assert_eq!(fixture.group.triggers(), 2);
    drop(again);
    let dup = file.clone();
    drop(file);
    assert_eq!(fixture.group.triggers(), 1);
    drop(dup);
    assert_eq!(fixture.group.triggers(), 0);
}

#[test]
fn offsets_and_access_modes_are_treated_as_by_the_kernel() {
    let fixture = Fixture::new(Resource::Memory);
    let read_only = fixture.open(OpenFlags::READ);
    assert_eq!(read_only.write(TRIGGER), Err(Errno::EBADF));
    assert_eq!(ready(&read_only), Events::SEVERED);
    let write_only = fixture.open(OpenFlags::WRITE);
    assert_eq!(write_only.write_at(TRIGGER, 7), Ok(TRIGGER.len()));
    assert_eq!(ready(&write_only), QUIET);
    let many: Vec<_> = (0..50).map(|_| fixture.watch(TRIGGER)).collect();
    assert_eq!(fixture.group.triggers(), 51);
    drop(many);
    assert_eq!(fixture.group.triggers(), 1);
}

#[test]
fn a_page_is_looked_at_as_a_whole() {
    let fixture = Fixture::new(Resource::Io);
    let mut text = b"some 150000 ".to_vec();
    text.resize(4096 - 7, b' ');
    text.extend_from_slice(b"2000000");
    assert_eq!(fixture.open(OpenFlags::WRITE).write(&text), Ok(4096));
}

#[test]
fn proc_manners_overwrite_the_last_of_32_bytes() {
    let fixture = Fixture::with_manners(Resource::Io, WriteManners::Proc);
    let write = |text: &[u8]| fixture.open(OpenFlags::WRITE).write(text);
    assert_eq!(write(b""), Err(Errno::EINVAL));
    assert_eq!(write(b"s"), Err(Errno::EINVAL));
    assert_eq!(write(b"some 150000 2000000\n"), Ok(20));
    assert_eq!(write(b"some 150000 2000000\0"), Ok(20));
    // The last digit is lost, and 200000 is no multiple of 2 s, but privileged; then it is too
    // short for the threshold.
    assert_eq!(write(b"some 150000 2000000"), Ok(19));
    assert_eq!(write(b"some 250000 2000000"), Err(Errno::EINVAL));
    let mut long = b"some 150000           2000000\n ".to_vec();
    long.resize(5000, b'x');
    assert_eq!(write(&long), Ok(5000));
    // What is beyond 31 bytes is not looked at.
    let mut late = b"some 150000               2000000".to_vec();
    late.resize(5000, b' ');
    assert_eq!(write(&late), Err(Errno::EINVAL));

    let file = fixture.watch(TRIGGER);
    assert_eq!(file.write(b"garbage"), Err(Errno::EBUSY));
    assert_eq!(file.write(b""), Err(Errno::EINVAL));
    assert_eq!(fixture.group.triggers(), 1);
}

#[test]
fn the_privilege_of_the_opener_counts() {
    let fixture = Fixture::new(Resource::Io);
    let short = b"some 50000 500000";
    let file = fixture.tree.client(UNPRIVILEGED).open("/pressure", OpenFlags::WRITE).unwrap();
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let mut write = |file: &OpenFile, caller: &Caller| {
        file.poll_write_at(&mut cx, &mut kernfs::Waiter::new(), caller, short, 0)
    };
    assert_eq!(write(&file, &Caller::OWNER), Err(Errno::EINVAL).into());
    // One with the capability may pass the file on to one without.
    assert_eq!(write(&fixture.open(OpenFlags::WRITE), &UNPRIVILEGED), Ok(short.len()).into());
    assert_eq!(file.write(b"some 50000 2000000"), Ok(18));
}

#[test]
fn a_stall_above_the_threshold_fires_once_per_window() {
    let fixture = Fixture::new(Resource::Cpu);
    let cpu = fixture.tree.client(UNPRIVILEGED).open("/pressure", OpenFlags::READ_WRITE).unwrap();
    cpu.write(b"some 300000 2000000").unwrap();
    let memory = pressure_file(&fixture.group, Resource::Memory);
    let _file = fixture.tree.root().add_file("memory", memory.options(), memory).unwrap();
    let memory = fixture.tree.client(Caller::OWNER).open("/memory", OpenFlags::WRITE).unwrap();
    memory.write(b"some 1 2000000").unwrap();

    // Four tasks on one cpu, for 13 s.
    fixture.run(Duration::from_millis(700));
    let mut tasks = vec![fixture.group.work()];
    tasks.extend((0..3).map(|_| fixture.group.stall(Resource::Cpu)));
    let mut events = Vec::new();
    for tick in 0..1300_u64 {
        fixture.run(Duration::from_millis(10));
        if ready(&cpu) == FIRED {
            events.push(tick * 10);
        }
        assert_eq!(ready(&cpu), QUIET);
        assert_eq!(ready(&memory), QUIET);
    }
    assert!(events[0] < 2500, "{events:?}");
    assert!((5..=7).contains(&events.len()), "{events:?}");
    assert!(events.windows(2).all(|pair| (1990..2100).contains(&(pair[1] - pair[0]))));
}

#[test]
fn a_privileged_trigger_fires_within_its_window() {
    let fixture = Fixture::new(Resource::Io);
    let file = fixture.watch(b"full 50000 500000");
    let whole = fixture.watch(b"full 500000 500000");
    fixture.run(Duration::from_secs(3));
    let stall = fixture.group.stall(Resource::Io);
    fixture.run(Duration::from_millis(49));
    assert_eq!(ready(&file), QUIET);
    fixture.run(Duration::from_millis(51));
    assert_eq!(ready(&file), FIRED);
    fixture.run(Duration::from_millis(399));
    assert_eq!((ready(&file), ready(&whole)), (QUIET, QUIET));
    fixture.run(Duration::from_millis(2));
    // A threshold of 100 % can be met.
    assert_eq!((ready(&file), ready(&whole)), (QUIET, FIRED));
    fixture.run(Duration::from_millis(100));
    assert_eq!(ready(&file), FIRED);
    drop(stall);
}

#[test]
fn a_breach_in_the_quiet_time_is_delivered_once_afterwards() {
    for (caller, window) in [(Caller::OWNER, 1_000_000), (UNPRIVILEGED, 2_000_000)] {
        let fixture = Fixture::new(Resource::Io);
        let client = fixture.tree.client(caller);
        let file = client.open("/pressure", OpenFlags::READ_WRITE).unwrap();
        file.write(format!("some 100000 {window}").as_bytes()).unwrap();
        let stall = fixture.group.stall(Resource::Io);
        let step = Duration::from_millis(1);
        while ready(&file) == QUIET {
            fixture.run(step);
        }
        // Until just after the next evaluation in the quiet time, if there is one.
        fixture.run(Duration::from_millis(150));
        drop(stall);
        let mut events = 0;
        for _ in 0..10_000 {
            fixture.run(step);
            events += u32::from(ready(&file) == FIRED);
        }
        assert_eq!(events, 1, "window {window}");
        assert_eq!(fixture.engine.advance(), None, "nothing is left to watch");
    }
}

#[test]
fn a_breach_is_delivered_though_nothing_else_is_to_be_evaluated() {
    let fixture = Fixture::new(Resource::Io);
    // Evaluations end with the shortest window.
    let (long, _short) =
        (fixture.watch(b"some 1000000 10000000"), fixture.watch(b"some 1000 100000"));
    let stall = fixture.group.stall(Resource::Io);
    fixture.run(Duration::from_millis(1050));
    assert_eq!(ready(&long), FIRED);
    fixture.run(Duration::from_millis(150));
    drop(stall);
    fixture.run(Duration::from_millis(9700));
    assert_eq!(ready(&long), QUIET);
    fixture.run(Duration::from_millis(200));
    assert_eq!(ready(&long), FIRED);
    assert_eq!(fixture.engine.advance(), None);
}

#[test]
fn stalls_that_are_less_than_a_window_apart_add_up() {
    let fixture = Fixture::new(Resource::Io);
    let file = fixture.watch(b"some 70000 500000");
    for _ in 0..2 {
        let stall = fixture.group.stall(Resource::Io);
        fixture.run(Duration::from_millis(40));
        drop(stall);
        assert_eq!(ready(&file), QUIET);
        fixture.run(Duration::from_millis(160));
    }
    assert_eq!(ready(&file), FIRED);
}

#[test]
fn a_short_window_is_evaluated_in_time_beside_a_long_one() {
    let fixture = Fixture::new(Resource::Io);
    let _long = fixture.watch(b"some 9000000 10000000");
    let _stall = fixture.group.stall(Resource::Io);
    assert_eq!(fixture.engine.advance(), Some(Duration::from_secs(1)));
    let short = fixture.watch(b"some 10000 100000");
    fixture.run(Duration::from_millis(20));
    assert_eq!(ready(&short), FIRED);
}

#[test]
fn an_event_waits_to_be_polled() {
    let fixture = Fixture::new(Resource::Io);
    let file = fixture.watch(TRIGGER);
    let stall = fixture.group.stall(Resource::Io);
    fixture.run(Duration::from_secs(1));
    drop(stall);
    fixture.run(Duration::from_secs(100));
    assert_eq!(ready(&file), FIRED);
    assert_eq!(ready(&file), QUIET);
}

#[test]
fn an_event_is_consumed_per_open_file() {
    let fixture = Fixture::new(Resource::Io);
    let (file, other) = (fixture.watch(TRIGGER), fixture.watch(TRIGGER));
    let dup = file.clone();
    let _stall = fixture.group.stall(Resource::Io);
    let expect = |thief: &dyn Fn() -> Events, stolen: Events| {
        fixture.run(Duration::from_millis(2300));
        assert_eq!(thief(), stolen);
        assert_eq!(ready(&file), QUIET, "stolen");
        assert_eq!(ready(&other), FIRED, "another open file has its own");
    };
    expect(&|| file.ready(Events::IN), Events::IN);
    expect(&|| ready(&dup), FIRED);
    expect(&|| file.wait(Events::IN), Events::IN);
}

#[test]
fn reading_neither_consumes_nor_fires() {
    let fixture = Fixture::new(Resource::Io);
    let file = fixture.watch(TRIGGER);
    let stall = fixture.group.stall(Resource::Io);
    fixture.clock.advance(Duration::from_secs(3));
    file.read_to_string().unwrap();
    assert_eq!(ready(&file), QUIET, "nobody evaluates");
    fixture.run(Duration::from_secs(1));
    file.read_to_string().unwrap();
    assert_eq!(ready(&file), FIRED);
    drop(stall);
}

#[test]
fn reading_at_the_end_of_a_period_puts_no_unprivileged_event_off() {
    let fixture = Fixture::new(Resource::Io);
    let file = fixture.tree.client(UNPRIVILEGED).open("/pressure", OpenFlags::READ_WRITE).unwrap();
    file.write(TRIGGER).unwrap();
    let _stall = fixture.group.stall(Resource::Io);
    fixture.engine.advance();
    fixture.clock.advance(kernfs_psi::PERIOD);
    file.read_to_string().unwrap();
    fixture.engine.advance();
    assert_eq!(ready(&file), FIRED);
}

#[test]
fn a_late_evaluation_shifts_no_unprivileged_event() {
    let fixture = Fixture::new(Resource::Io);
    let file = fixture.tree.client(UNPRIVILEGED).open("/pressure", OpenFlags::READ_WRITE).unwrap();
    file.write(TRIGGER).unwrap();
    let _stall = fixture.group.stall(Resource::Io);
    fixture.engine.advance();
    for late in [0, 300, 0, 900, 1, 0] {
        let late = Duration::from_millis(late);
        fixture.clock.advance(kernfs_psi::PERIOD + late);
        fixture.engine.advance();
        assert_eq!(ready(&file), FIRED);
        // Back to the grid.
        fixture.clock.advance(kernfs_psi::PERIOD - late);
        fixture.engine.advance();
        assert_eq!(ready(&file), FIRED);
    }
}

#[test]
fn a_stall_that_is_there_already_is_seen() {
    for trigger in [&b"some 100000 1000000"[..], b"full 100000 2000000"] {
        let fixture = Fixture::new(Resource::Memory);
        let _stall = fixture.group.stall(Resource::Memory);
        fixture.run(Duration::from_secs(20));
        let file = fixture.watch(trigger);
        fixture.run(Duration::from_secs(3));
        assert_eq!(ready(&file), FIRED);
    }
}

#[test]
fn fed_time_and_shares_fire_too() {
    let fixture = Fixture::new(Resource::Memory);
    let file = fixture.watch(b"some 200000 1000000");
    fixture.run(Duration::from_secs(5));
    let child = fixture.group.child();
    child.feed(Resource::Memory, Stall::Some, Duration::from_millis(250));
    fixture.run(Duration::from_millis(150));
    assert_eq!(ready(&file), FIRED);

    fixture.run(Duration::from_secs(5));
    let _ = ready(&file);
    child.set_share(Resource::Memory, Stall::Full, Share::from_millionths(180_000));
    fixture.run(Duration::from_secs(10));
    assert_eq!(ready(&file), QUIET);
    child.set_share(Resource::Memory, Stall::Full, Share::from_millionths(210_000));
    fixture.run(Duration::from_secs(10));
    assert_eq!(ready(&file), FIRED);
}

#[test]
fn a_group_that_is_off_fires_nothing_until_it_is_on() {
    let fixture = Fixture::new(Resource::Io);
    let file = fixture.watch(TRIGGER);
    fixture.group.disable();
    let _stall = fixture.group.stall(Resource::Io);
    fixture.run(Duration::from_secs(10));
    assert_eq!(ready(&file), QUIET);
    fixture.group.enable();
    fixture.run(Duration::from_secs(3));
    assert_eq!(ready(&file), FIRED);
}

#[test]
fn nothing_is_due_while_nothing_that_is_watched_goes_on() {
    let fixture = Fixture::new(Resource::Io);
    assert_eq!(fixture.engine.advance(), None);
    let _memory = fixture.group.stall(Resource::Memory);
    let _work = fixture.group.work();
    assert_eq!(fixture.engine.advance(), None, "no trigger");

    let file = fixture.watch(b"some 100000 1000000");
    assert_eq!(fixture.engine.advance(), None, "no stall on I/O");

    let stall = fixture.group.stall(Resource::Io);
    assert_eq!(fixture.engine.advance(), Some(Duration::from_millis(100)));
    drop(stall);
    fixture.run(Duration::from_millis(1500));
    assert_eq!(fixture.engine.advance(), None, "the stall has been over for a window");

    let _stall = fixture.group.stall(Resource::Io);
    assert!(fixture.engine.advance().is_some());
    drop(file);
    assert_eq!(fixture.engine.advance(), None, "no trigger");
}

#[test]
fn all_triggers_that_are_met_fire_in_the_same_evaluation() {
    let fixture = Fixture::new(Resource::Io);
    let met = [&b"some 1 2000000"[..], b"some 300000 2000000", b"full 1000000 2000000"];
    let met = met.map(|trigger| fixture.watch(trigger));
    let unmet = fixture.watch(b"some 4000000 4000000");
    let _stall = fixture.group.stall(Resource::Io);
    fixture.engine.advance();
    fixture.clock.advance(Duration::from_millis(1500));
    fixture.engine.advance();
    assert_eq!(met.each_ref().map(ready), [FIRED; 3]);
    assert_eq!(ready(&unmet), QUIET);
}

#[test]
fn full_of_cpu_is_accepted_for_the_system_and_never_fires() {
    let fixture = Fixture::new(Resource::Io);
    let system = pressure_file(fixture.engine.root(), Resource::Cpu);
    let _file = fixture.tree.root().add_file("cpu", system.options(), system).unwrap();
    let file = fixture.tree.client(Caller::OWNER).open("/cpu", OpenFlags::READ_WRITE).unwrap();
    file.write(b"full 1 2000000").unwrap();
    let _stall = fixture.group.stall(Resource::Cpu);
    fixture.run(Duration::from_secs(10));
    assert_eq!(ready(&file), QUIET);
    assert!(
        file.read_to_string()
            .unwrap()
            .ends_with("full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n")
    );
}

#[test]
fn irq_takes_full_only() {
    let fixture = Fixture::new(Resource::Irq);
    let file = fixture.open(OpenFlags::READ_WRITE);
    assert_eq!(file.write(b"some 150000 2000000"), Err(Errno::EINVAL));
    assert_eq!(file.write(b"full 150000 2000000"), Ok(19));
    let _stall = fixture.group.stall(Resource::Irq);
    fixture.run(Duration::from_secs(3));
    assert_eq!(ready(&file), FIRED);
}

#[test]
fn while_pressure_is_off_files_answer_eopnotsupp() {
    let clock = VirtualClock::new();
    let engine = Engine::builder().clock(clock.clone()).off().build();
    let group = engine.root().child();
    assert!(!group.is_supported() && !group.is_enabled());
    group.enable();
    let _stall = group.stall(Resource::Io);
    group.set_share(Resource::Io, Stall::Some, Share::ALL);
    group.feed(Resource::Io, Stall::Some, Duration::from_secs(1));
    clock.run(&engine, Duration::from_secs(10));
    assert_eq!(group.pressure(Resource::Io).full, kernfs_psi::PressureLine::default());
    assert_eq!(group.pressure(Resource::Io).some, Some(kernfs_psi::PressureLine::default()));

    let tree = Tree::new();
    for (manners, empty) in
        [(WriteManners::Cgroup, Ok(0)), (WriteManners::Proc, Err(Errno::EOPNOTSUPP))]
    {
        let driver = pressure_file(&group, Resource::Io).manners(manners);
        let file = tree.root().add_file("io", driver.options(), driver).unwrap();
        let open = tree.client(Caller::OWNER).open("/io", OpenFlags::READ_WRITE).unwrap();
        assert_eq!(open.read_to_string(), Err(Errno::EOPNOTSUPP));
        assert_eq!(open.write(TRIGGER), Err(Errno::EOPNOTSUPP));
        assert_eq!(open.write(b"garbage"), Err(Errno::EOPNOTSUPP));
        assert_eq!(open.write(b""), empty);
        assert_eq!(ready(&open), Events::SEVERED, "ERR and PRI at once");
        drop(file.remove().unwrap());
        assert_eq!(open.write(TRIGGER), Err(Errno::ENODEV));
    }
    assert_eq!(group.triggers(), 0);
}

/// As inotify tells it of the kernel's own: at each event that somebody is to poll, and at the
/// close of a trigger; once for all triggers of a file.
#[test]
fn watchers_of_the_file_hear_of_events() {
    let fixture = Fixture::new(Resource::Io);
    let (first, second) = (fixture.watch(TRIGGER), fixture.watch(b"some 1 2000000"));
    let idle = fixture.open(OpenFlags::READ);
    let ino = fixture.file.ino();
    let mut changes = fixture.tree.changes(16);
    let mut heard = || {
        let all: Vec<_> = std::iter::from_fn(|| changes.try_recv()).collect();
        assert!(all.iter().all(|change| *change == Change::Notified { ino }), "{all:?}");
        all.len()
    };
    fixture.run(Duration::from_secs(5));
    drop(idle);
    assert_eq!(heard(), 0);
    let stall = fixture.group.stall(Resource::Io);
    fixture.run(Duration::from_millis(2500));
    assert_eq!(heard(), 1, "once for both triggers");
    fixture.run(Duration::from_secs(2));
    assert_eq!(heard(), 0, "nobody has polled since");
    assert_eq!((ready(&first), ready(&second)), (FIRED, FIRED));
    fixture.run(Duration::from_millis(2500));
    assert_eq!(heard(), 1);
    drop(stall);
    drop(second);
    assert_eq!(heard(), 1, "the close of a trigger");
    fixture.file.hide().wait().unwrap();
    assert!(matches!(changes.try_recv(), Some(Change::Hidden(_))));
    assert_eq!(changes.try_recv(), None, "severing is told as severing");
}

/// Returns what a thread that waits for PRI on `file` sees, once `end` has been called.
fn waiting(file: OpenFile, end: impl FnOnce()) -> Events {
    let waiter = thread::spawn(move || file.wait_timeout(Events::PRI, PATIENCE));
    // Not needed for the outcome; lets the waiter be asleep for once.
    thread::sleep(Duration::from_millis(20));
    end();
    waiter.join().unwrap()
}

#[test]
fn severing_wakes_who_waits_for_a_trigger_and_detaches_it() {
    let fixture = Fixture::new(Resource::Io);
    let files: Vec<_> = (0..10).map(|_| fixture.watch(TRIGGER)).collect();
    let dead = Events::PRI | Events::ERR;
    assert_eq!(waiting(files[3].clone(), || fixture.file.hide().wait().unwrap()), dead);
    assert_eq!(fixture.group.triggers(), 0);
    fixture.file.show();
    for file in &files {
        assert_eq!(ready(file), Events::SEVERED);
        assert_eq!(file.write(TRIGGER), Err(Errno::ENODEV));
        assert_eq!(file.read_to_string(), Err(Errno::ENODEV));
    }
    let fresh = fixture.watch(TRIGGER);
    let (group, file) = (fixture.group.clone(), fixture.file);
    assert_eq!(waiting(fresh.clone(), || drop(file.remove().unwrap())), dead);
    assert_eq!(group.triggers(), 0);
    // Events that come later come to nothing.
    let _stall = group.stall(Resource::Io);
    fixture.clock.run(&fixture.engine, Duration::from_secs(10));
    assert_eq!(ready(&fresh), Events::SEVERED);
}

#[test]
fn closing_one_file_disturbs_no_other() {
    let fixture = Fixture::new(Resource::Io);
    let (file, other) = (fixture.watch(TRIGGER), fixture.watch(TRIGGER));
    let woken = waiting(file, || {
        drop(other);
        let _stall = fixture.group.stall(Resource::Io);
        fixture.run(Duration::from_secs(1));
    });
    assert_eq!(woken, Events::PRI);
}

#[test]
fn a_group_lives_as_long_as_its_files() {
    let fixture = Fixture::new(Resource::Io);
    let Fixture { clock, engine, group, tree, file } = fixture;
    drop(group);
    let held = tree.client(Caller::OWNER).open("/pressure", OpenFlags::READ_WRITE).unwrap();
    held.write(TRIGGER).unwrap();
    drop(engine);
    let group = file.group().clone();
    let _stall = group.stall(Resource::Io);
    clock.advance(Duration::from_secs(1));
    assert!(held.read_to_string().unwrap().ends_with("total=1000000\n"));
    drop(file.remove().unwrap());
    assert_eq!(group.triggers(), 0);
}

/// P11: a trigger that is attached while the file is severed is torn down, or refused.
#[test]
fn a_write_that_races_severing_attaches_or_fails() {
    for hides in [true, false] {
        for _ in 0..300 {
            let fixture = Fixture::new(Resource::Io);
            let group = fixture.group.clone();
            let files: Vec<_> = (0..3).map(|_| fixture.open(OpenFlags::READ_WRITE)).collect();
            thread::scope(|scope| {
                for file in &files {
                    scope.spawn(|| {
                        let written = file.write(TRIGGER);
                        let expected = [Ok(TRIGGER.len()), Err(Errno::ENODEV)];
                        assert!(expected.contains(&written), "{written:?}");
                    });
                }
                scope.spawn(|| {
                    if hides {
                        fixture.file.hide().wait().unwrap();
                    } else {
                        drop(fixture.file.remove().unwrap());
                    }
                });
            });
            assert_eq!(group.triggers(), 0, "a trigger is left");
            assert!(files.iter().all(|file| ready(file) == Events::SEVERED));
        }
    }
}

/// P12: triggers that fire while their files are severed are harmless.
#[test]
fn firing_that_races_severing_is_harmless() {
    let stop = Arc::new(AtomicBool::new(false));
    let clock = VirtualClock::new();
    let engine = Arc::new(Engine::builder().clock(clock.clone()).build());
    let group = engine.root().child();
    let producer = {
        let (stop, engine, group) = (Arc::clone(&stop), Arc::clone(&engine), group.clone());
        thread::spawn(move || {
            while !stop.load(Acquire) {
                let _stall = group.stall(Resource::Io);
                clock.run(&engine, Duration::from_millis(10));
            }
        })
    };
    let tree = Tree::new();
    for round in 0..500 {
        let driver = pressure_file(&group, Resource::Io);
        let file = tree.root().add_file("io.pressure", driver.options(), driver).unwrap();
        let client = tree.client(Caller::OWNER);
        let files: Vec<_> = (0..4)
            .map(|_| {
                let file = client.open("/io.pressure", OpenFlags::READ_WRITE).unwrap();
                file.write(b"some 1000 10000").unwrap();
                file
            })
            .collect();
        if round % 2 == 0 {
            assert_eq!(files[0].wait_timeout(Events::PRI, PATIENCE), Events::PRI);
        }
        drop(file.remove().unwrap());
        assert_eq!(group.triggers(), 0);
        assert!(files.iter().all(|file| ready(file) == Events::SEVERED));
    }
    stop.store(true, Release);
    producer.join().unwrap();
}

/// Triggers on the clock of the system, in time, evaluated by a thread or a task.
mod in_real_time {
    use super::*;

    fn fixture() -> (Engine, Tree, OpenFile) {
        let engine = Engine::new();
        let tree = Tree::new();
        let driver = pressure_file(engine.root(), Resource::Io);
        tree.root().add_file("io", driver.options(), driver).unwrap().keep();
        let file = tree.client(Caller::OWNER).open("/io", OpenFlags::READ_WRITE).unwrap();
        file.write(b"some 10000 50000").unwrap();
        (engine, tree, file)
    }

    #[test]
    fn a_monitor_evaluates_triggers_in_time() {
        let (engine, _tree, file) = fixture();
        let monitor = engine.spawn().unwrap();
        for _ in 0..3 {
            thread::sleep(Duration::from_millis(80));
            let _stall = engine.root().stall(Resource::Io);
            assert_eq!(file.wait_timeout(Events::PRI, PATIENCE), Events::PRI);
        }
        drop(monitor);
    }

    #[tokio::test]
    async fn a_task_evaluates_triggers_in_time() {
        let (engine, _tree, file) = fixture();
        let driver = tokio::spawn(engine.drive(tokio::time::sleep));
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(80)).await;
            let _stall = engine.root().stall(Resource::Io);
            let event = tokio::time::timeout(PATIENCE, file.wait_async(Events::PRI)).await;
            assert_eq!(event, Ok(Events::PRI));
        }
        driver.abort();
        assert!(driver.await.unwrap_err().is_cancelled());
    }
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// A timeline of stalls, in milliseconds of rest and stall in turn.
        #[test]
        fn events_are_justified_and_rare_and_none_is_missed(
            threshold in 1u64..=200,
            spans in proptest::collection::vec(1u64..700, 2..12),
        ) {
            const WINDOW: u64 = 200;
            let fixture = Fixture::new(Resource::Io);
            let file = fixture.watch(format!("some {threshold}000 {WINDOW}000").as_bytes());
            let mut stalled = vec![0];
            let mut events: Vec<usize> = Vec::new();
            let mut quiet_stall = 0;
            for (number, span) in spans.into_iter().enumerate() {
                let stall = (number % 2 == 1).then(|| fixture.group.stall(Resource::Io));
                for _ in 0..span {
                    fixture.run(Duration::from_millis(1));
                    stalled.push(stalled[stalled.len() - 1] + u64::from(stall.is_some()));
                    quiet_stall += u64::from(stall.is_some());
                    if ready(&file) == FIRED {
                        events.push(stalled.len() - 1);
                        quiet_stall = 0;
                    }
                    if stall.is_none() {
                        quiet_stall = 0;
                    }
                    // The worst case is a stall that the end of a window halves: each half is just
                    // below the threshold. Besides, it takes a tenth until it is looked at.
                    prop_assert!(quiet_stall <= WINDOW * 2 + WINDOW / 5);
                }
            }
            for pair in events.windows(2) {
                prop_assert!((pair[1] - pair[0]) as u64 >= WINDOW, "{events:?}");
            }
            for &event in &events {
                // Within the window, the one before that growth is carried over from, and one more
                // that the event may have been put off by.
                let since = event.saturating_sub(WINDOW as usize * 33 / 10);
                prop_assert!(stalled[event] - stalled[since] + 1 >= threshold, "{events:?}");
            }
        }
    }
}
