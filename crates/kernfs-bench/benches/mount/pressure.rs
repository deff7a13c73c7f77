//! Removing a group of pressure files while clients wait for triggers, beside the kernel's rmdir.

use std::cell::RefCell;
use std::fs;
use std::time::Duration;

use kernfs::{Dir, Mode};
use kernfs_bench::Effort;
use kernfs_bench::measure::{Case, Samples, interleave};
use kernfs_bench::table::{Row, print_section};
use kernfs_psi::{Engine, Group, Resource, pressure_file};

use crate::client::{Client, Held};
use crate::report::{median, now, row_in};
use crate::stage::{Cgroup, Stage};

/// Triggers on one file, each on an open file of its own, all in one epoll of another process.
const OURS: [usize; 5] = [0, 1, 10, 50, 1000];
/// In Linux, each takes as long as a grace period.
const LINUX: [usize; 4] = [0, 1, 10, 50];
/// A removal of ours is shorter than the turn of another process that may come in between: what
/// counts is the median of so many in each round. Linux waits for longer than that by itself.
const REMOVALS: usize = 9;
/// What a removal with 50 triggers may take of one with a single one.
const TARGET: f64 = 3.0;

pub(crate) fn measure(stage: &Stage) {
    let engine = Engine::new();
    let group = engine.root().child();
    let client = RefCell::new(Client::start());
    let (group, client) = (&group, &client);
    let cgroup = stage.temporary.cgroup();
    let ours = OURS.into_iter().map(|triggers| {
        // A smaller number is as good to see that it runs.
        let triggers = if triggers > 50 { stage.effort.size(triggers) } else { triggers };
        let name = format!("ours, mounted: {triggers:4} triggers");
        let usual =
            move || median((0..REMOVALS).map(|_| remove_mounted(stage, group, client, triggers)));
        Case::timed(name, move |_| usual()).count(1)
    });
    let mut cases: Vec<_> = ours.collect();
    match &cgroup {
        Ok(cgroup) => cases.extend(LINUX.into_iter().map(|triggers| {
            let name = format!("Linux cgroup2: {triggers:4} triggers");
            Case::timed(name, move |_| remove_cgroup(cgroup, client, triggers)).count(1)
        })),
        Err(reason) => println!("\nLinux's own removal with triggers: skipped: {reason}"),
    }
    let rounds = stage.effort.rounds;
    let samples = interleave(Effort { rounds, ..stage.effort }, cases);
    let (ours, linux) = samples.split_at(OURS.len());
    let rows: Vec<_> = rows(ours).into_iter().chain(rows(linux)).collect();
    let what = format!(
        "removal of a group until it and the last waiter have returned; ours, {REMOVALS} in a round"
    );
    print_section(&what, &rows);
}

fn rows(samples: &[Samples]) -> Vec<Row> {
    let Some(single) = samples.get(1) else { return Vec::new() };
    let rows = samples.iter().map(|case| {
        let row = row_in("ms", 1e6, case).ratio(case.over(single), "one trigger");
        let is_judged = case.name.starts_with("ours") && case.name.ends_with("  50 triggers");
        if is_judged { row.target(TARGET) } else { row }
    });
    rows.collect()
}

/// Makes a directory with the pressure files of a group.
fn plant(stage: &Stage, group: &Group) -> Dir {
    let dir = stage.tree.root().add_dir("pressure", Mode::DIR).expect("the name is free");
    for resource in [Resource::Cpu, Resource::Io, Resource::Memory] {
        let file = pressure_file(group, resource);
        let added = dir.add_file(format!("{resource}.pressure"), file.options(), file);
        added.expect("the name is free").keep();
    }
    dir
}

fn remove_mounted(
    stage: &Stage,
    group: &Group,
    client: &RefCell<Client>,
    triggers: usize,
) -> Duration {
    let dir = plant(stage, group);
    let took = until_woken(client, triggers, &stage.at("pressure/io.pressure"), || {
        dir.remove().expect("not inside");
    });
    assert_eq!(group.triggers(), 0);
    took
}

fn remove_cgroup(cgroup: &Cgroup, client: &RefCell<Client>, triggers: usize) -> Duration {
    let child = cgroup.child();
    fs::create_dir(&child).expect("the name is free");
    until_woken(client, triggers, &format!("{child}/io.pressure"), || {
        fs::remove_dir(&child).expect("it has no members");
    })
}

/// Has a client wait for so many triggers; returns how long a removal takes until it has returned,
/// and all that wait as well.
fn until_woken(
    client: &RefCell<Client>,
    triggers: usize,
    path: &str,
    remove: impl FnOnce(),
) -> Duration {
    let mut client = client.borrow_mut();
    if triggers > 0 {
        client.hold(Held::Triggers, path, triggers);
        client.begin_waiting(Held::Triggers);
        // Long enough for it to fall asleep.
        std::thread::sleep(Duration::from_millis(5));
    }
    let start = now();
    remove();
    let mut end = now();
    if triggers > 0 {
        end = end.max(client.woken());
        client.let_go(Held::Triggers);
    }
    end - start
}
