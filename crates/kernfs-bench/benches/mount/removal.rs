//! Removing a large subtree while it is mounted.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use kernfs::{Dir, Mode, Tree};
use kernfs_bench::Effort;
use kernfs_bench::measure::{Case, interleave};
use kernfs_bench::table::print_section;

use crate::client::Client;
use crate::report::row_in;
use crate::stage::{Stage, text};

const DIRS: usize = 100;
const FILES: usize = 1000;

pub(crate) fn measure(stage: &Stage) {
    let (dirs, files) = (stage.effort.size(DIRS), stage.effort.size(FILES));
    let plant = |tree: &Tree| {
        let top = tree.root().add_dir("large", Mode::DIR).expect("the name is free");
        for number in 0..dirs {
            let dir = top.add_dir(format!("{number}"), Mode::DIR).expect("the name is free");
            for number in 0..files {
                let file = dir.add_file(format!("file-{number}"), Mode::RO, text());
                file.expect("the name is free").keep();
            }
            dir.keep();
        }
        top
    };
    let remove = |top: Dir| {
        let start = Instant::now();
        top.remove().expect("not inside");
        start.elapsed()
    };
    let alone = Tree::new();
    let client = RefCell::new(Client::start());
    let (known, left) = (Cell::new(0), Cell::new(0));
    let found = |_| {
        let top = plant(&stage.tree);
        client.borrow_mut().find(&stage.at("large"));
        known.set(stage.stats().nodes);
        let took = remove(top);
        std::thread::sleep(PRUNING);
        left.set(stage.stats().nodes);
        took
    };
    let cases = vec![
        Case::timed("without a mount", |_| remove(plant(&alone))).count(1),
        Case::timed("mounted, the kernel knows no name", |_| remove(plant(&stage.tree))).count(1),
        Case::timed("mounted, after `find`", found).count(1),
    ];
    let rounds = stage.effort.rounds.div_ceil(3);
    let samples = interleave(Effort { rounds, ..stage.effort }, cases);
    let rows = samples.iter().map(|case| {
        let row = row_in("ms", 1e6, case).ratio(case.over(&samples[0]), "no mount");
        if case.name.ends_with("`find`") {
            let (known, left) = (known.get(), left.get());
            let waited = PRUNING.as_millis();
            return row.note(format!("(the kernel knew {known}, and {left} after {waited} ms)"));
        }
        row
    });
    let nodes = 1 + dirs + dirs * files;
    print_section(&format!("removing a subtree of {nodes} nodes"), &rows.collect::<Vec<_>>());
}

/// Enough for the kernel to forget what it was told to.
const PRUNING: Duration = Duration::from_millis(200);
