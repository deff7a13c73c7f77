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

/// The open files: two of one tree, and one of another.
const FIRST: usize = 0;
const SECOND: usize = 1;
const APART: usize = 2;

/// What each of the two threads reads in a turn, if anything.
type Turn = [Option<usize>; 2];

/// Each open file is read alone too, by the thread that reads it beside another: where in memory it
/// lies makes a difference of some percent.
const TURNS: [Turn; 5] = [
    [Some(FIRST), None],
    [None, Some(SECOND)],
    [None, Some(APART)],
    [Some(FIRST), Some(SECOND)],
    [Some(FIRST), Some(APART)],
];
const ONE_FILE: usize = 3;
const TWO_TREES: usize = 4;

/// The times of one thread, for each turn, in nanoseconds for each read.
type Times = [Vec<f64>; TURNS.len()];

pub(crate) fn measure(effort: Effort) -> Vec<Row> {
    let (tree, other) = (Tree::new(), Tree::new());
    for tree in [&tree, &other] {
        tree.root().add_file("value", Mode::RO, Constant).expect("the name is free").keep();
    }
    let open = |tree| owner(tree).open("/value", OpenFlags::READ).expect("it was added");
    let files = [open(&tree), open(&tree), open(&other)];

    let count = count_for(&files[FIRST], effort.sample);
    let meeting = Meeting::default();
    let rounds = effort.rounds;
    let times = std::thread::scope(|scope| {
        let threads = [0, 1].map(|thread| {
            let (meeting, files) = (&meeting, &files);
            scope.spawn(move || run(meeting, rounds, count, thread, files))
        });
        threads.map(|thread| thread.join().expect("readers do not panic"))
    });
    let kept = undisturbed(&times);
    let samples = |name: &str, thread: usize, turn: usize| Samples {
        name: name.into(),
        nanos: kept.iter().map(|&round| times[thread][turn][round]).collect(),
    };
    let first = samples("guarded read alone, first open", 0, 0);
    let second = samples("guarded read alone, second open of the file", 1, 1);
    let apart = samples("guarded read alone, in another tree", 1, 2);
    let beside = |name, thread, turn, alone| {
        let samples = samples(name, thread, turn);
        Row::time(&samples).ratio(samples.over(alone), "alone")
    };
    let disturbed = format!("({} of {rounds} rounds were disturbed)", rounds - kept.len());
    vec![
        Row::time(&first).note(disturbed),
        Row::time(&second),
        Row::time(&apart),
        beside("two threads, one file: first open", 0, ONE_FILE, &first).target(BESIDE),
        beside("two threads, one file: second open", 1, ONE_FILE, &second).target(BESIDE),
        beside("two threads, two trees: first", 0, TWO_TREES, &first),
        beside("two threads, two trees: second", 1, TWO_TREES, &apart),
    ]
}

/// Returns the rounds in which both threads took about as long: in others, one of them was off its
/// processor for a while, and the other one alone.
fn undisturbed(times: &[Times; 2]) -> Vec<usize> {
    let together = |turn: usize, round: usize| {
        let (a, b) = (times[0][turn][round], times[1][turn][round]);
        a.max(b) < 1.5 * a.min(b)
    };
    let all = 0..times[0][ONE_FILE].len();
    let both = |&round: &usize| together(ONE_FILE, round) && together(TWO_TREES, round);
    let kept: Vec<_> = all.clone().filter(both).collect();
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
    files: &[OpenFile; 3],
) -> Times {
    let mut times = [const { Vec::new() }; TURNS.len()];
    let mut buf = [0; 64];
    for round in 0..rounds {
        for (at, turn) in TURNS.into_iter().enumerate() {
            let number = round * TURNS.len() + at + 1;
            let file = turn[thread].map(|file| &files[file]);
            // Not in the ratio: who has slept finds its caches cold.
            for _ in 0..count / 8 {
                file.inspect(|file| read(file, &mut buf));
            }
            meeting.meet(number);
            if let Some(file) = file {
                let start = Instant::now();
                for _ in 0..count {
                    read(file, &mut buf);
                }
                times[at].push(start.elapsed().as_nanos() as f64 / f64::from(count));
            }
            meeting.timed.fetch_add(1, Ordering::AcqRel);
            while meeting.timed.load(Ordering::Acquire) < 2 * number {
                match file {
                    Some(file) => read(file, &mut buf),
                    None => std::thread::yield_now(),
                }
            }
        }
    }
    times
}
