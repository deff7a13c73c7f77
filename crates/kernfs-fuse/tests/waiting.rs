//! Sleeping in read, poll, select and epoll, and being woken.

mod support;

use kernfs::{Events as Ready, Mode, Tree};
use rustix::io::Errno;
use rustix::process::Signal;
use std::os::unix::process::ExitStatusExt;
use support::client::{self, Client};
use support::drivers::{Events, Knob, Slow, Triggered};
use support::{Mounted, eventually};

#[test]
fn client() {
    client::serve();
}

/// PRI, and with ERR what a change gives; all that a severed file gives.
const PRI: &str = "2";
const CHANGED: &str = "a";
/// IN, PRI, OUT, RDNORM, WRNORM.
const ALL: &str = "147";
const SEVERED: &str = "14f";
const ET_PRI: &str = "80000002";

#[test]
fn a_blocked_reader_is_woken_by_a_notification() {
    let tree = Tree::new();
    let events = tree.root().add_file("events", Mode::RO, Events::default()).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let mut client = Client::start();
    client.call(format!("open f r {}", mount.at("events").display())).unwrap();
    client.begin("read f 100");
    eventually("a parked read", || mount.stats().parked == 1);
    // Nothing new: it sleeps on.
    events.notify();
    Events::push(&events, "hello");
    assert_eq!(client.answer(), Ok("hello".into()));
    assert_eq!(mount.stats().parked, 0);
    client.call("close f").unwrap();
    mount.unmount_clean(&tree);
}

#[test]
fn a_blocked_reader_is_woken_by_removal_and_by_hiding() {
    let tree = Tree::new();
    let events = tree.root().add_file("events", Mode::RO, Events::default()).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let path = mount.at("events").display().to_string();
    let mut first = Client::start();
    let mut second = Client::start();
    first.call(format!("open f r {path}")).unwrap();
    first.begin("read f 100");
    eventually("a parked read", || mount.stats().parked == 1);
    events.hide().wait().unwrap();
    // Already, not eventually.
    assert_eq!(mount.stats().parked, 0);
    assert_eq!(first.answer(), Err(Errno::NODEV));
    events.show();
    second.call(format!("open f r {path}")).unwrap();
    second.begin("read f 100");
    eventually("a parked read", || mount.stats().parked == 1);
    let _ = events.remove().unwrap();
    assert_eq!(mount.stats().parked, 0);
    assert_eq!(second.answer(), Err(Errno::NODEV));
    assert_eq!(second.call("read f 100"), Err(Errno::NODEV));
    assert_eq!(first.call("read f 100"), Err(Errno::NODEV));
}

#[test]
fn a_signal_with_a_handler_ends_a_blocked_read() {
    let tree = Tree::new();
    let events = tree.root().add_file("events", Mode::RO, Events::default()).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let mut client = Client::start();
    client.call("handle").unwrap();
    client.call(format!("open f r {}", mount.at("events").display())).unwrap();
    let tid: i32 = client.call("tid").unwrap().parse().unwrap();
    for _ in 0..20 {
        client.begin("read f 100");
        eventually("a parked read", || mount.stats().parked == 1);
        client.signal_thread(tid, Signal::INT);
        assert_eq!(client.answer(), Err(Errno::INTR));
        assert_eq!(mount.stats().parked, 0);
    }
    // The next one is as good as new.
    client.begin("read f 100");
    eventually("a parked read", || mount.stats().parked == 1);
    Events::push(&events, "hello");
    assert_eq!(client.answer(), Ok("hello".into()));
}

#[test]
fn a_killed_reader_dies_at_once() {
    let tree = Tree::new();
    let events = tree.root().add_file("events", Mode::RO, Events::default()).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let mut client = Client::start();
    client.call(format!("open f r {}", mount.at("events").display())).unwrap();
    client.begin("read f 100");
    eventually("a parked read", || mount.stats().parked == 1);
    client.signal(Signal::KILL);
    assert_eq!(client.wait().signal(), Some(Signal::KILL.as_raw()));
    eventually("its read to go", || mount.stats().parked == 0);
    eventually("its file to go", || tree.usage().open_files == 0);
    // The event is for somebody else.
    Events::push(&events, "hello");
    assert_eq!(events.queue.lock().unwrap().len(), 1);
}

#[test]
fn a_signal_that_meets_a_driver_waits_for_what_it_has_to_give() {
    // As in the kernel, where a read that has its bytes returns them.
    for (event, expected) in [("taken", Ok("taken".into())), ("", Err(Errno::INTR))] {
        let tree = Tree::new();
        let slow = tree.root().add_file("slow", Mode::RO, Slow::default()).unwrap();
        let Some(mount) = Mounted::new(&tree) else { return };
        let mut client = Client::start();
        client.call("handle").unwrap();
        client.call(format!("open f r {}", mount.at("slow").display())).unwrap();
        let tid: i32 = client.call("tid").unwrap().parse().unwrap();
        client.begin("read f 100");
        eventually("a parked read", || mount.stats().parked == 1);
        slow.queue.lock().unwrap().push_back(event.into());
        slow.notify();
        eventually("the driver to take the event", || slow.door.waiting() == 1);
        client.signal_thread(tid, Signal::INT);
        eventually("the interrupt to arrive", || mount.stats().parked == 0);
        slow.door.open();
        assert_eq!(client.answer(), expected);
        slow.queue.lock().unwrap().push_back(b"later".into());
        assert_eq!(client.call("read f 100"), Ok("later".into()));
    }
}

#[test]
fn events_and_signals_that_meet_lose_nothing() {
    let tree = Tree::new();
    let events = tree.root().add_file("events", Mode::RO, Events::default()).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let mut client = Client::start();
    client.call("handle").unwrap();
    client.call(format!("open f r {}", mount.at("events").display())).unwrap();
    let tid: i32 = client.call("tid").unwrap().parse().unwrap();
    let mut interrupted = 0;
    for n in 0..500 {
        let event = n.to_string();
        client.begin("read f 100");
        eventually("a parked read", || mount.stats().parked == 1);
        std::thread::scope(|scope| {
            scope.spawn(|| Events::push(&events, &event));
            client.signal_thread(tid, Signal::INT);
        });
        let mut answer = client.answer();
        if answer == Err(Errno::INTR) {
            interrupted += 1;
            answer = client.call("read f 100");
        }
        assert_eq!(answer, Ok(event));
    }
    assert!(interrupted > 0);
}

#[test]
fn nonblocking_can_be_switched_on_later() {
    let tree = Tree::new();
    let _events = tree.root().add_file("events", Mode::RO, Events::default()).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let mut client = Client::start();
    client.call(format!("open f r {}", mount.at("events").display())).unwrap();
    client.call("nonblock f").unwrap();
    assert_eq!(client.call("read f 100"), Err(Errno::AGAIN));
    client.call(format!("open g rn {}", mount.at("events").display())).unwrap();
    assert_eq!(client.call("read g 100"), Err(Errno::AGAIN));
}

#[test]
fn a_fresh_descriptor_is_ready_until_it_is_read_from_the_start() {
    let tree = Tree::new();
    let knob = tree.root().add_file("knob", Mode::RW, Knob::new("text")).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let path = mount.at("knob").display().to_string();
    let mut client = Client::start();
    client.call(format!("open a r {path}")).unwrap();
    client.call(format!("open b r {path}")).unwrap();
    let changed = Ok(CHANGED.to_owned());
    let nothing = Ok("0".to_owned());
    let poll = |client: &mut Client, file| client.call(format!("poll {file} {PRI} 0"));
    assert_eq!(poll(&mut client, "a"), changed);
    assert_eq!(poll(&mut client, "a"), changed, "sticky");
    client.call("read a 100").unwrap();
    assert_eq!(poll(&mut client, "a"), nothing);
    assert_eq!(poll(&mut client, "b"), changed, "each for itself");
    client.call("read b 100").unwrap();
    knob.notify();
    assert_eq!(poll(&mut client, "a"), changed);
    assert_eq!(client.call("read a 100"), Ok(String::new()), "at the end");
    assert_eq!(poll(&mut client, "a"), changed, "a read at the end shows nothing new");
    client.call("pread a 100 0").unwrap();
    assert_eq!(poll(&mut client, "a"), nothing);
    client.call("close a").unwrap();
    assert_eq!(poll(&mut client, "b"), changed);
    // Always readable and writable, whatever changed.
    client.call("pread b 100 0").unwrap();
    assert_eq!(client.call(format!("poll b {ALL} 0")), Ok("145".into()));
}

/// What a client does to sleep, and what it gets when the value changes, and when it is severed.
struct Sleeper {
    prepare: &'static [&'static str],
    sleep: &'static str,
    changed: &'static str,
    severed: &'static str,
}

const SLEEPERS: [Sleeper; 4] = [
    Sleeper { prepare: &[], sleep: "poll f 2 -1", changed: CHANGED, severed: CHANGED },
    Sleeper { prepare: &["epoll e f 2"], sleep: "epwait e -1", changed: CHANGED, severed: CHANGED },
    Sleeper {
        prepare: &["epoll e f 80000002"],
        sleep: "epwait e -1",
        changed: CHANGED,
        severed: CHANGED,
    },
    Sleeper {
        prepare: &["epoll e f 40000002"],
        sleep: "epwait e -1",
        changed: CHANGED,
        severed: CHANGED,
    },
];

#[test]
fn sleepers_of_all_kinds_are_woken_by_notify_and_by_removal() {
    for sever in [false, true] {
        let tree = Tree::new();
        let knob = tree.root().add_file("knob", Mode::RW, Knob::new("text")).unwrap();
        let Some(mount) = Mounted::new(&tree) else { return };
        let mut clients: Vec<_> = SLEEPERS.iter().map(|_| Client::start()).collect();
        for (client, sleeper) in clients.iter_mut().zip(&SLEEPERS) {
            client.call(format!("open f r {}", mount.at("knob").display())).unwrap();
            client.call("read f 100").unwrap();
            for order in sleeper.prepare {
                client.call(order).unwrap();
            }
            client.block(sleeper.sleep);
        }
        if sever {
            let _ = knob.remove().unwrap();
        } else {
            knob.notify();
        }
        for (client, sleeper) in clients.iter_mut().zip(&SLEEPERS) {
            let expected = if sever { sleeper.severed } else { sleeper.changed };
            assert_eq!(client.answer(), Ok(expected.into()), "{}", sleeper.sleep);
        }
    }
}

#[test]
fn select_is_woken_through_all_three_sets() {
    let tree = Tree::new();
    let trigger = tree.root().add_file("trigger", Mode::RO, Triggered::default()).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let mut client = Client::start();
    client.call(format!("open f r {}", mount.at("trigger").display())).unwrap();
    client.block("select f -");
    trigger.0.lock().unwrap()[0].set(Ready::PRI);
    assert_eq!(client.answer(), Ok("false false true".into()));
    trigger.0.lock().unwrap()[0].clear(Ready::PRI);
    // A stream without a write that says so is writable as far as its driver can.
    client.block("select f -");
    let _ = trigger.remove().unwrap();
    assert_eq!(client.answer(), Ok("true true true".into()));
}

#[test]
fn readiness_of_one_open_file_wakes_nobody_else() {
    let tree = Tree::new();
    let trigger = tree.root().add_file("trigger", Mode::RO, Triggered::default()).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let path = mount.at("trigger").display().to_string();
    let mut a = Client::start();
    let mut b = Client::start();
    a.call(format!("open f r {path}")).unwrap();
    b.call(format!("open f r {path}")).unwrap();
    a.block("poll f 2 -1");
    b.block("poll f 2 -1");
    let ready = trigger.0.lock().unwrap().clone();
    ready[0].set_once(Ready::PRI);
    assert_eq!(a.answer(), Ok(PRI.into()));
    assert_eq!(a.call("poll f 2 0"), Ok("0".into()), "reported once");
    ready[0].set(Ready::PRI);
    assert_eq!(a.call("poll f 2 0"), Ok(PRI.into()));
    assert_eq!(a.call("poll f 2 0"), Ok(PRI.into()), "until it is cleared");
    ready[0].clear(Ready::PRI);
    assert_eq!(a.call("poll f 2 0"), Ok("0".into()));
    ready[1].set(Ready::PRI | Ready::IN);
    assert_eq!(b.answer(), Ok(PRI.into()), "only what was asked for");
}

#[test]
fn an_edge_is_seen_at_each_notification() {
    let tree = Tree::new();
    let knob = tree.root().add_file("knob", Mode::RW, Knob::new("text")).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let mut client = Client::start();
    client.call(format!("open f r {}", mount.at("knob").display())).unwrap();
    client.call(format!("epoll e f {ET_PRI}")).unwrap();
    assert_eq!(client.call("epwait e -1"), Ok(CHANGED.into()), "fresh");
    assert_eq!(client.call("epwait e 0"), Ok("none".into()));
    // Without a read in between.
    for _ in 0..50 {
        knob.notify();
        assert_eq!(client.call("epwait e -1"), Ok(CHANGED.into()));
        assert_eq!(client.call("epwait e 0"), Ok("none".into()));
    }
    let _ = knob.remove().unwrap();
    assert_eq!(client.call("epwait e -1"), Ok(CHANGED.into()));
}

#[test]
fn a_severed_descriptor_is_ready_for_everything_for_ever() {
    let tree = Tree::new();
    let knob = tree.root().add_file("knob", Mode::RW, Knob::new("text")).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let mut client = Client::start();
    client.call(format!("open f b {}", mount.at("knob").display())).unwrap();
    client.call("read f 100").unwrap();
    let _ = knob.remove().unwrap();
    for _ in 0..2 {
        assert_eq!(client.call(format!("poll f {ALL} -1")), Ok(SEVERED.into()));
        assert_eq!(client.call("poll f 0 -1"), Ok("8".into()));
        assert_eq!(client.call("select f -"), Ok("true true true".into()));
    }
    client.call(format!("epoll level f {PRI}")).unwrap();
    assert_eq!(client.call("epwait level -1"), Ok(CHANGED.into()));
    assert_eq!(client.call("epwait level -1"), Ok(CHANGED.into()));
    client.call(format!("epoll edge f {ET_PRI}")).unwrap();
    assert_eq!(client.call("epwait edge -1"), Ok(CHANGED.into()));
    assert_eq!(client.call("epwait edge 0"), Ok("none".into()), "an edge is reported once");
}

#[test]
fn a_notification_is_never_lost_between_looking_and_sleeping() {
    let tree = Tree::new();
    let knob = tree.root().add_file("knob", Mode::RW, Knob::new("text")).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let mut client = Client::start();
    client.call(format!("open f r {}", mount.at("knob").display())).unwrap();
    client.call("read f 100").unwrap();
    for _ in 0..500 {
        client.begin("poll f 2 20000");
        knob.notify();
        assert_eq!(client.answer(), Ok(CHANGED.into()));
        client.call("pread f 100 0").unwrap();
    }
}

#[test]
fn a_thousand_parked_readers_are_answered_at_removal() {
    const READERS: usize = 1000;
    let tree = Tree::new();
    let events = tree.root().add_file("events", Mode::RO, Events::default()).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let path = mount.at("events");
    let (path, stats) = (&path, || mount.stats());
    std::thread::scope(|scope| {
        let spawn = |_| {
            let builder = std::thread::Builder::new().stack_size(64 << 10);
            let read = move || {
                let file = std::fs::File::open(path).unwrap();
                support::errno(std::io::Read::read(&mut &file, &mut [0; 10]))
            };
            builder.spawn_scoped(scope, read).unwrap()
        };
        let readers: Vec<_> = (0..READERS).map(spawn).collect();
        eventually("all to sleep", || stats().parked == READERS);
        assert_eq!(stats().handles, READERS);
        assert!(stats().threads <= 64, "a parked read has no thread");
        // One event wakes one of them for good.
        let _ = events.remove().unwrap();
        assert_eq!(stats().parked, 0);
        for reader in readers {
            assert_eq!(reader.join().unwrap(), Errno::NODEV);
        }
    });
    eventually("all to be closed", || tree.usage().open_files == 0);
    mount.unmount_clean(&tree);
}
