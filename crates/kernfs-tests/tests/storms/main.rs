//! Storms on real threads: the races that kernfs and the pressure code of Linux had bugs in.
//!
//! Each storm goes on for a moment in the tests. For longer, and with another seed:
//!
//! ```sh
//! STORM_SECONDS=10 STORM_SEED=7 cargo test -p kernfs-tests --test storms -- --nocapture
//! ```
//!
//! The seed decides what each thread does; when it does it, the machine decides.

mod ends;
mod fronts;
mod mappings;
mod triggers;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

/// How long a storm goes on unless `STORM_SECONDS` says so.
const A_MOMENT: Duration = Duration::from_millis(400);

/// What goes on for so much longer than it should hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A thread of a storm: takes one step, by the dice.
type Thread<'a> = Box<dyn FnMut(&mut fastrand::Rng) + Send + 'a>;

/// Lets threads take steps, all at once, until the time is over.
///
/// The first is the owner, who goes on until all others have ended: nobody waits in vain for what
/// it does.
fn storm(name: &'static str, threads: Vec<Thread<'_>>) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("STORM_SEED").unwrap_or(1);
    let time = number("STORM_SECONDS").map_or(A_MOMENT, Duration::from_secs);
    let start = Instant::now();
    let is_done = AtomicBool::new(false);
    let others = AtomicUsize::new(threads.len() - 1);
    let failed = AtomicBool::new(false);
    let taken = AtomicU64::new(0);
    let run = |(at, mut step): (usize, Thread<'_>)| {
        let mut dice = fastrand::Rng::with_seed(seed.wrapping_mul(1000) + at as u64);
        let goes_on = || match at {
            0 => others.load(SeqCst) > 0,
            _ => start.elapsed() < time && !failed.load(SeqCst),
        };
        let result = catch_unwind(AssertUnwindSafe(|| {
            while goes_on() {
                step(&mut dice);
                taken.fetch_add(1, SeqCst);
            }
        }));
        failed.fetch_or(result.is_err(), SeqCst);
        if at > 0 {
            others.fetch_sub(1, SeqCst);
        }
        result
    };
    let run = &run;
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(SeqCst) {
                thread::park_timeout(Duration::from_millis(20));
                if start.elapsed() > time + PATIENCE {
                    eprintln!("storm {name} hangs, seed {seed}");
                    std::process::abort();
                }
            }
        });
        let threads = threads.into_iter().enumerate();
        let running: Vec<_> = threads.map(|thread| scope.spawn(move || run(thread))).collect();
        let results: Vec<_> = running.into_iter().map(thread::ScopedJoinHandle::join).collect();
        is_done.store(true, SeqCst);
        for result in results {
            if let Err(panic) = result.and_then(|result| result) {
                eprintln!("storm {name}: seed {seed}");
                resume_unwind(panic);
            }
        }
    });
    let (taken, time) = (taken.load(SeqCst), start.elapsed());
    println!("storm {name}: {taken} steps in {time:.1?}, seed {seed}");
}

/// Makes a thread of a storm.
fn steps<'a>(step: impl FnMut(&mut fastrand::Rng) + Send + 'a) -> Thread<'a> {
    Box::new(step)
}
