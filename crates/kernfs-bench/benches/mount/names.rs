//! What the kernel keeps: attributes, names, directories; and what it costs when it does not.

use std::cell::RefCell;
use std::time::Duration;

use kernfs::Mode;
use kernfs_bench::measure::{Case, interleave};
use kernfs_bench::table::{Row, print_section};

use crate::client::{Client, Op};
use crate::stage::{Stage, text};

/// How many children the directory has that is listed.
const CHILDREN: usize = 1000;

/// How often a sample is repeated that needs a new epoch each time.
const EPOCHS: u64 = 10;

pub(crate) fn measure(stage: &Stage) {
    let children = stage.effort.size(CHILDREN);
    let top = stage.dir("names");
    top.add_file("value", Mode::RO, text()).expect("the name is free").keep();
    let deeper = top.add_dir("deeper", Mode::DIR).expect("the name is free");
    deeper.add_file("value", Mode::RO, text()).expect("the name is free").keep();
    let many = top.add_dir("many", Mode::DIR).expect("the name is free");
    for number in 0..children {
        let name = format!("device-{number:08}");
        many.add_file(name, Mode::RO, text()).expect("the name is free").keep();
    }
    deeper.keep();
    many.keep();

    let client = RefCell::new(Client::start());
    let kept = |name: &str, op: Op, path: String| {
        let client = &client;
        let timed = move |_| {
            let done = client.borrow_mut().repeat(op, &path, 1, stage.effort.sample);
            done.time.mul_f64(1000.0 / done.count as f64)
        };
        Case::timed(name, timed).count(1000)
    };
    let asked = |name: &str, op: Op, path: String| {
        let client = &client;
        let timed = move |count| {
            let mut total = Duration::ZERO;
            for _ in 0..count {
                stage.begin_epoch();
                total += client.borrow_mut().once(op, &path);
            }
            total
        };
        Case::timed(name, timed).count(EPOCHS)
    };
    let cgroup = stage.temporary.cgroup();
    let mut cases = Vec::new();
    if let Ok(cgroup) = &cgroup {
        cases.push(kept("stat, the kernel's cgroup.max.depth", Op::Stat, cgroup.file()));
    }
    let deep = || stage.at("names/deeper/value");
    let many = || stage.at("names/many");
    let list = format!("list {children} children");
    cases.extend([
        kept("stat, 3 deep, names and attributes kept", Op::Stat, deep()),
        kept("statx, 3 deep, the server asked (1 request)", Op::StatServer, deep()),
        asked("stat, 3 deep, first in a new epoch", Op::Stat, deep()),
        kept(&list, Op::List, many()),
        asked(&format!("{list}, first in a new epoch"), Op::List, many()),
    ]);
    let samples = interleave(stage.effort, cases);
    let first = &samples[0];
    let unit = if cgroup.is_ok() { "kernel" } else { "stat" };
    let rows = samples.iter().map(|case| Row::time(case).ratio(case.over(first), unit));
    print_section("names and attributes, 1 client thread", &rows.collect::<Vec<_>>());
    if let Err(reason) = cgroup {
        println!("  the kernel's cgroup.max.depth: skipped: {reason}");
    }
    let requests = |op, path: &str| {
        stage.begin_epoch();
        let before = stage.stats().requests;
        client.borrow_mut().once(op, path);
        stage.stats().requests - before
    };
    println!("  requests in a new epoch: {} for the stat", requests(Op::Stat, &deep()));
    println!("  requests in a new epoch: {} for the list", requests(Op::List, &many()));
    top.remove().expect("not inside");
}
