//! Prints the figures of the mount: `cargo bench -p kernfs-bench --bench mount [-- --quick] [SECTION]`.
//!
//! The owner of the tree is this process, which serves the mount; clients are processes of their
//! own ([`client`]). What it is compared with is asked in the same rounds: the kernel's own kernfs,
//! and servers of one file ([`servers`]).
//!
//! Whatever ends it, nothing stays behind: see [`janitor`].
//!
//! Run by `cargo test`, which does not say `--bench`, it takes one short round of each.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use kernfs_bench::Effort;

use stage::Stage;

mod stage;

mod reads;

mod names;

mod wakes;

mod severing;

mod removal;

mod pressure;

mod slow;

mod report;

mod client;

mod servers;

mod process;

mod janitor;

/// What measures a section, and prints it.
type Measure = fn(&Stage);

/// What can be measured, by name, in the order in which it is printed.
const SECTIONS: &[(&str, Measure)] = &[
    ("reads", reads::measure),
    ("names", names::measure),
    ("wakes", wakes::measure),
    ("severing", severing::measure),
    ("removal", removal::measure),
    ("pressure", pressure::measure),
    ("slow", slow::measure),
];

/// Samples are long here: each is taken by another process, which has to wake up first.
const FULL: Effort = Effort { rounds: 15, sample: Duration::from_millis(100), shrink: 1 };
const QUICK: Effort = Effort { rounds: 5, sample: Duration::from_millis(40), shrink: 10 };
const SMOKE: Effort = Effort { rounds: 1, sample: Duration::from_millis(2), shrink: 500 };

/// Whoever has not ended by then hangs; a full run takes a few minutes.
const DEADLINE: Duration = Duration::from_secs(20 * 60);

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if let Some(role) = process::role() {
        return play(&role, &arguments);
    }
    let has = |wanted: &str| arguments.iter().any(|argument| argument == wanted);
    let effort = match (has("--quick"), has("--bench")) {
        (true, _) => QUICK,
        (false, true) => FULL,
        (false, false) => SMOKE,
    };
    // The rest are options of the test harness, which this is none of.
    let only: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let wanted = |name: &str| only.is_empty() || only.iter().any(|wanted| *wanted == name);
    let sections: Vec<_> = SECTIONS.iter().filter(|(name, _)| wanted(name)).collect();
    if has("--list") || sections.is_empty() {
        return ExitCode::SUCCESS;
    }

    end_at_deadline();
    let stage = match Stage::set(effort) {
        Ok(stage) => stage,
        Err(reason) => {
            println!("mount: skipped: {reason}");
            return ExitCode::SUCCESS;
        }
    };
    report::print_head(effort);
    for (_, measure) in sections {
        measure(&stage);
    }
    report::print_foot();
    ExitCode::SUCCESS
}

/// Is one of the other processes.
fn play(role: &str, arguments: &[String]) -> ExitCode {
    match (role, arguments) {
        ("janitor", []) => janitor::serve(),
        ("client", []) => client::serve(),
        ("fuser", [dir]) => servers::serve_fuser(dir.as_ref()),
        ("session", [dir]) => servers::serve_session(dir.as_ref()),
        _ => {
            eprintln!("mount: {role}: no such role");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn end_at_deadline() {
    thread::spawn(|| {
        thread::sleep(DEADLINE);
        eprintln!("mount: not done after {DEADLINE:?}, given up");
        std::process::exit(1);
    });
}
