//! Severing a file that is open very often, with a waiter on each open file.

use kernfs::Mode;
use kernfs_bench::measure::Samples;
use kernfs_bench::table::{Row, print_section};

use crate::client::{Client, Held};
use crate::report::{now, row_in};
use crate::stage::{Stage, text};

pub(crate) fn measure(stage: &Stage) {
    let mut rows = Vec::new();
    let mut rounds = stage.effort.rounds.div_ceil(3);
    for full in [1000, 10_000] {
        rows.extend(sever(stage, stage.effort.size(full), rounds));
        rounds = rounds.div_ceil(2).max(1);
    }
    print_section("severing what is open in a client process, per open file", &rows);
}

fn sever(stage: &Stage, opens: usize, rounds: usize) -> [Row; 2] {
    let named =
        |name: &str| Samples { name: format!("{opens} epoll waiters: {name}"), nanos: Vec::new() };
    let mut removed = named("until remove() returned");
    let mut woken = named("until the last one saw it");
    let mut client = Client::start();
    for _ in 0..rounds {
        let file = stage.tree.root().add_file("held", Mode::RO, text());
        let file = file.expect("the name is free");
        client.hold(Held::News, &stage.at("held"), opens);
        client.begin_waiting(Held::News);
        std::thread::sleep(std::time::Duration::from_millis(5));
        let start = now();
        file.remove().expect("not inside");
        let done = now();
        let last = client.woken();
        let each =
            |end: std::time::Duration| end.saturating_sub(start).as_nanos() as f64 / opens as f64;
        removed.nanos.push(each(done));
        woken.nanos.push(each(last));
        client.let_go(Held::News);
    }
    [&removed, &woken].map(|samples| {
        let whole = samples.figures().median * opens as f64 / 1e6;
        row_in("us", 1e3, samples).note(format!("{whole:.2} ms in all, {rounds} times"))
    })
}
