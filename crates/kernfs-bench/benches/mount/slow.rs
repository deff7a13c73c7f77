//! Drivers that sleep in `read`: what others notice of them.

use std::thread;
use std::time::Duration;

use kernfs::{Mode, show};

use crate::client::{Client, Op};
use crate::report::{Latencies, micros};
use crate::stage::{Stage, TEXT, text};

/// How many drivers sleep.
const SLEEPERS: usize = 4;

/// What others shall notice at most, on a machine that has nothing else to do.
const TARGET: Duration = Duration::from_millis(10);

pub(crate) fn measure(stage: &Stage) {
    // A short look needs no long sleep.
    let (sleep, time) = match stage.effort.shrink {
        1 => (Duration::from_secs(1), Duration::from_secs(4)),
        10 => (Duration::from_secs(1), Duration::from_secs(2)),
        _ => (Duration::from_millis(20), Duration::from_millis(40)),
    };
    let top = stage.dir("slow");
    for number in 0..SLEEPERS {
        let slow = show(move |op| {
            thread::sleep(sleep);
            op.push(TEXT);
        });
        top.add_file(format!("sleeper-{number}"), Mode::RO, slow).expect("free").keep();
    }
    top.add_file("other", Mode::RO, text()).expect("the name is free").keep();

    println!("\n{SLEEPERS} drivers that sleep {sleep:?} in read, a client process in each");
    println!("  What others notice, asked about once in a millisecond for {time:?} each:");
    let mut client = Client::start();
    let other = stage.at("slow/other");
    let mut alone = Vec::new();
    let mut ask = |whose: &str, judge: bool| {
        let asked = [
            ("stat of another file, attributes kept", Op::Stat),
            ("stat of another file, the server asked", Op::StatServer),
            ("read of another file", Op::Read),
            ("open, read, close of another file", Op::OpenReadClose),
        ];
        for (at, (what, op)) in asked.into_iter().enumerate() {
            let Latencies { count, p50, p99, max } = client.sample(op, &other, time);
            let verdict = if !judge {
                alone.push(p99);
                String::new()
            } else if p99 < TARGET {
                format!(" target p99 < {TARGET:?}: met")
            } else if alone[at] < TARGET / 2 {
                format!(" target p99 < {TARGET:?}: MISSED")
            } else {
                format!(" target p99 < {TARGET:?}: MISSED, alone too: the machine is not idle")
            };
            println!(
                "  {:<46} p50 {:>6} us, p99 {:>6} us, max {:>6} us, of {count}{verdict}",
                format!("{whose}: {what}"),
                micros(p50),
                micros(p99),
                micros(max),
            );
        }
    };
    ask("alone", false);
    let sleepers: Vec<_> = (0..SLEEPERS)
        .map(|number| {
            let mut client = Client::start();
            client.go_on(Op::OpenReadClose, &stage.at(&format!("slow/sleeper-{number}")));
            client
        })
        .collect();
    thread::sleep(sleep / 4);
    ask("beside", true);
    println!("  (the pool had {} threads)", stage.stats().threads);
    drop(sleepers);
    top.remove().expect("not inside");
}
