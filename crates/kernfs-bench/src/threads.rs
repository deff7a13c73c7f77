//! Two threads on two opens of one file, beside two threads that have nothing in common.

use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kernfs::{Mode, OpenFile, OpenFlags, Tree};

use crate::drivers::{Constant, owner};
use crate::measure::{Effort, Samples};
use crate::table::Row;

/// What an operation shall cost at most beside another thread, in those of a thread alone.
const BESIDE: f64 = 1.2;

/// Who reads in a turn.
#[derive(Clone, Copy)]
enum Turn {
    Alone,
    OneFile,
    TwoTrees,
}

const TURNS: [Turn; 3] = [Turn::Alone, Turn::OneFile, Turn::TwoTrees];

pub(crate) fn measure(effort: Effort) -> Vec<Row> {
    let (tree, other) = (Tree::new(), Tree::new());
    for tree in [&tree, &other] {
        tree.root().add_file("value", Mode::RO, Constant).expect("the name is free").keep();
    }
    let open = |tree| owner(tree).open("/value", OpenFlags::READ).expect("it was added");
    let (first, second) = (open(&tree), open(&tree));
    let apart = open(&other);

    let count = count_for(&first, effort.sample);
    let meeting = Meeting::default();
    let rounds = effort.rounds;
    let (mine, theirs) = std::thread::scope(|scope| {
        let one = scope.spawn(|| run(&meeting, rounds, count, 0, [&first, &first, &first]));
        let two = scope.spawn(|| run(&meeting, rounds, count, 1, [&second, &second, &apart]));
        (one.join().expect("readers do not panic"), two.join().expect("readers do not panic"))
    });
    let kept = undisturbed(&mine, &theirs);
    let named = |name: String, nanos: &[f64]| Samples {
        name,
        nanos: kept.iter().map(|&round| nanos[round]).collect(),
    };
    let alone = named("guarded read, a thread alone".into(), &mine[0]);
    let both = |turn: usize, what: &str| {
        let pairs = || mine[turn].iter().zip(&theirs[turn]);
        let mean: Vec<_> = pairs().map(|(a, b)| a.midpoint(*b)).collect();
        let worse: Vec<_> = pairs().map(|(a, b)| a.max(*b)).collect();
        (
            named(format!("two threads, {what}: mean of both"), &mean),
            named(format!("two threads, {what}: slower one"), &worse),
        )
    };
    let (one_file, one_file_worse) = both(1, "two opens of one file");
    let (two_trees, two_trees_worse) = both(2, "two trees");
    let row = |samples: &Samples| Row::time(samples).ratio(samples.over(&alone), "alone");
    vec![
        row(&alone),
        row(&one_file).target(BESIDE).ratio(one_file.over(&two_trees), "two trees"),
        row(&one_file_worse).ratio(one_file_worse.over(&two_trees_worse), "two trees"),
        row(&two_trees)
            .note(format!("({} of {rounds} rounds were disturbed)", rounds - kept.len())),
        row(&two_trees_worse),
    ]
}

/// Returns the rounds in which both threads took about as long: in others, one of them was off its
/// processor for a while, and the other one alone.
fn undisturbed(mine: &[Vec<f64>; 3], theirs: &[Vec<f64>; 3]) -> Vec<usize> {
    let together = |turn: usize, round: usize| {
        let (a, b) = (mine[turn][round], theirs[turn][round]);
        a.max(b) < 1.5 * a.min(b)
    };
    let all = 0..mine[0].len();
    let kept: Vec<_> = all.clone().filter(|&at| together(1, at) && together(2, at)).collect();
    if kept.is_empty() { all.collect() } else { kept }
}

fn read(file: &OpenFile, buf: &mut [u8; 64]) {
    let _ = black_box(file.read_at(black_box(buf), 0));
}

/// Finds out how many reads last as long as a sample.
fn count_for(file: &OpenFile, sample: Duration) -> u32 {
    let mut buf = [0; 64];
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < sample.max(Duration::from_micros(5)) {
        read(file, &mut buf);
        count += 1;
    }
    // The clock was asked for each of them, which takes about as long as a read.
    count * 2
}

/// Where two threads wait for each other, spinning: sleeping would cost more than a sample.
#[derive(Default)]
struct Meeting {
    arrived: AtomicUsize,
    timed: AtomicUsize,
}

impl Meeting {
    fn meet(&self, number: usize) {
        self.arrived.fetch_add(1, Ordering::AcqRel);
        let mut spins = 0_u32;
        while self.arrived.load(Ordering::Acquire) < 2 * number {
            spins += 1;
            if spins.is_multiple_of(10_000) {
                // The other one may need this very processor.
                std::thread::yield_now();
            }
            spin_loop();
        }
    }
}

/// Reads in turns; what is timed always has the other thread beside it, for whoever is done reads
/// on until both are.
fn run(
    meeting: &Meeting,
    rounds: usize,
    count: u32,
    thread: usize,
    files: [&OpenFile; 3],
) -> [Vec<f64>; 3] {
    let mut nanos = [const { Vec::new() }; 3];
    let mut buf = [0; 64];
    for round in 0..rounds {
        for (at, turn) in TURNS.into_iter().enumerate() {
            let number = round * TURNS.len() + at + 1;
            let file = files[at];
            // Not in the ratio: who has slept finds its caches cold.
            for _ in 0..count / 8 {
                read(file, &mut buf);
            }
            meeting.meet(number);
            if thread == 0 || !matches!(turn, Turn::Alone) {
                let start = Instant::now();
                for _ in 0..count {
                    read(file, &mut buf);
                }
                nanos[at].push(start.elapsed().as_nanos() as f64 / f64::from(count));
            }
            meeting.timed.fetch_add(1, Ordering::AcqRel);
            while meeting.timed.load(Ordering::Acquire) < 2 * number {
                match turn {
                    Turn::Alone => std::thread::yield_now(),
                    Turn::OneFile | Turn::TwoTrees => read(file, &mut buf),
                }
            }
        }
    }
    nanos
}
