//! From the owner's `notify` until epoll_wait(2) returns in another process, beside a pipe.

use std::cell::RefCell;
use std::thread;
use std::time::Duration;

use kernfs::Mode;
use kernfs_bench::measure::{Case, interleave};
use kernfs_bench::table::{Row, print_section};
use rustix::fs::{CWD, OFlags};

use crate::client::{Client, Held};
use crate::report::{Latencies, micros, now};
use crate::stage::{Stage, text};

/// How many wake-ups are in a sample.
const WAKES: u64 = 20;

/// Long enough for the client to fall asleep.
const ASLEEP: Duration = Duration::from_micros(300);

pub(crate) fn measure(stage: &Stage) {
    let file = stage.tree.root().add_file("news", Mode::RO, text()).expect("the name is free");
    let fifo = stage.temporary.file("fifo");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(CWD, fifo.as_str(), mode).expect("a new name");
    let mut client = Client::start();
    client.hold(Held::Pipe, &fifo, 1);
    client.hold(Held::News, &stage.at("news"), 1);
    // Does not wait for a reader, since that is there.
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let pipe = rustix::fs::open(fifo.as_str(), flags, rustix::fs::Mode::empty());
    let pipe = pipe.expect("somebody reads it");

    let client = RefCell::new(client);
    let singles = [RefCell::new(Vec::new()), RefCell::new(Vec::new())];
    let [pipes, news] = &singles;
    let wake = |held: Held, singles: &RefCell<Vec<u64>>, count: u64, wake: &dyn Fn()| {
        let mut client = client.borrow_mut();
        let mut total = Duration::ZERO;
        for _ in 0..count {
            client.begin_waiting(held);
            thread::sleep(ASLEEP);
            let start = now();
            wake();
            let took = client.woken().saturating_sub(start);
            singles.borrow_mut().push(took.as_nanos() as u64);
            total += took;
        }
        total
    };
    let write = || assert_eq!(rustix::io::write(&pipe, b"x"), Ok(1));
    let cases = vec![
        Case::timed("write to a pipe", |count| wake(Held::Pipe, pipes, count, &write)).count(WAKES),
        Case::timed("notify", |count| wake(Held::News, news, count, &|| file.notify()))
            .count(WAKES),
    ];
    let samples = interleave(stage.effort, cases);
    let rows = samples.iter().zip(&singles).map(|(case, singles)| {
        let Latencies { count, p50, p99, .. } = Latencies::of(singles.borrow().clone());
        let (p50, p99) = (micros(p50), micros(p99));
        let note = format!("p50 {p50} us, p99 {p99} us of {count}");
        Row::time(case).ratio(case.over(&samples[0]), "pipe").note(note)
    });
    print_section("owner to epoll_wait returning in a client process", &rows.collect::<Vec<_>>());
    file.remove().expect("not inside");
}
