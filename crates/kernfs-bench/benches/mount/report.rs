//! Figures, and what is printed around the tables.

use std::fs;
use std::time::Duration;

use kernfs_bench::Effort;
use kernfs_bench::measure::{Figures, Samples};
use kernfs_bench::table::{self, Row};
use rustix::time::{ClockId, clock_gettime};

/// How long single operations took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Latencies {
    pub(crate) count: u64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) max: Duration,
}

impl Latencies {
    /// Takes nanoseconds.
    pub(crate) fn of(mut nanos: Vec<u64>) -> Self {
        nanos.sort_unstable();
        let at = |percent: usize| {
            let at = (nanos.len() * percent / 100).min(nanos.len().saturating_sub(1));
            Duration::from_nanos(nanos.get(at).copied().unwrap_or(0))
        };
        Self { count: nanos.len() as u64, p50: at(50), p99: at(99), max: at(100) }
    }

    /// Returns them as they are sent to another process.
    pub(crate) fn to_numbers(self) -> [u64; 4] {
        let nanos = |time: Duration| time.as_nanos() as u64;
        [self.count, nanos(self.p50), nanos(self.p99), nanos(self.max)]
    }

    pub(crate) fn from_numbers(numbers: &[u64]) -> Self {
        let time = |at: usize| Duration::from_nanos(numbers[at]);
        Self { count: numbers[0], p50: time(1), p99: time(2), max: time(3) }
    }
}

/// Returns the clock that all processes share.
pub(crate) fn now() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32)
}

/// Makes a row of samples in another unit than nanoseconds.
pub(crate) fn row_in(unit: &'static str, nanos: f64, samples: &Samples) -> Row {
    let scaled = samples.nanos.iter().map(|value| value / nanos).collect();
    Row { figures: Figures::of(scaled), unit, ..Row::time(samples) }
}

/// Returns microseconds, with as many digits as count.
pub(crate) fn micros(time: Duration) -> String {
    let micros = time.as_secs_f64() * 1e6;
    if micros < 10.0 { format!("{micros:.2}") } else { format!("{micros:.0}") }
}

/// Returns the medians of what several rounds gave.
pub(crate) fn median(values: impl Iterator<Item = Duration>) -> Duration {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Prints what everything is measured on.
pub(crate) fn print_head(effort: Effort) {
    let kernel = read("/proc/sys/kernel/osrelease");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!("The mount: Linux {kernel}, {cores} processors, load average {}.", load());
    println!(
        "Clients are processes of their own; the owner serves the mount with its pool of threads."
    );
    println!(
        "Cases of a section take turns, {} rounds of {:?} each; a ratio is the median of the rounds'",
        effort.rounds, effort.sample
    );
    println!(
        "ratios. How many processes run beside this one decides what the absolute figures are."
    );
    table::print_head();
}

/// Prints how busy the machine was meanwhile.
pub(crate) fn print_foot() {
    println!("\nLoad average at the end: {}.", load());
}

/// Returns how many processes wanted to run in the last 1, 5 and 15 minutes.
fn load() -> String {
    read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}
