//! Averages in the kernel's fixed-point arithmetic, and how pressure is written.

use std::fmt;
use std::time::Duration;

use crate::state::State;

/// The length of a period of the averages: 2·HZ + 1 jiffies at HZ = 250 (`PSI_FREQ`).
///
/// A little more than 2 s, so that an unprivileged trigger, whose window is a multiple of 2 s, may
/// fire at each period.
pub const PERIOD: Duration = Duration::from_millis(2004);

/// The pressure of a group on one resource, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pressure {
    /// Time in which at least one task stalled; irq has none.
    pub some: Option<PressureLine>,
    /// Time in which all tasks stalled that were not idle.
    pub full: PressureLine,
}

impl fmt::Display for Pressure {
    /// Writes the text of a pressure file (`psi_show`).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(some) = self.some {
            writeln!(f, "some {some}")?;
        }
        writeln!(f, "full {}", self.full)
    }
}

/// Averages and the total of one stall state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PressureLine {
    avg: [u64; 3],
    total: Duration,
}

impl PressureLine {
    pub(crate) fn new(avg: [u64; 3], nanos: u64) -> Self {
        Self { avg, total: Duration::from_nanos(nanos) }
    }

    /// Returns the average over 10 s in hundredths of a percent, as printed.
    #[must_use]
    pub fn avg10(&self) -> u32 {
        hundredths(self.avg[0])
    }

    /// Returns the average over 60 s in hundredths of a percent, as printed.
    #[must_use]
    pub fn avg60(&self) -> u32 {
        hundredths(self.avg[1])
    }

    /// Returns the average over 300 s in hundredths of a percent, as printed.
    #[must_use]
    pub fn avg300(&self) -> u32 {
        hundredths(self.avg[2])
    }

    /// Returns the time spent in the state since the group was made; it never goes back.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.total
    }
}

impl fmt::Display for PressureLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, avg) in ["avg10", "avg60", "avg300"].into_iter().zip(self.avg) {
            let hundredths = hundredths(avg);
            write!(f, "{name}={}.{:02} ", hundredths / 100, hundredths % 100)?;
        }
        write!(f, "total={}", self.total.as_micros())
    }
}

/// The bits after the point (`FSHIFT`).
const FRACTION_BITS: u32 = 11;
/// One (`FIXED_1`).
const ONE: u64 = 1 << FRACTION_BITS;
/// What is left of an average after a period of 2 s: exp(-2/10), exp(-2/60), exp(-2/300)
/// (`EXP_10s`, `EXP_60s`, `EXP_300s`).
const DECAY: [u64; 3] = [1677, 1981, 2034];

/// A period in nanoseconds.
pub(crate) const PERIOD_NANOS: u64 = PERIOD.as_nanos() as u64;

/// Integer part and fraction, each truncated (`LOAD_INT`, `LOAD_FRAC`).
fn hundredths(avg: u64) -> u32 {
    let fraction = ((avg & (ONE - 1)) * 100) >> FRACTION_BITS;
    ((avg >> FRACTION_BITS) * 100 + fraction) as u32
}

/// The averages of a group.
#[derive(Debug, Default)]
pub(crate) struct Averages {
    avg: [[u64; 3]; State::COUNT],
    /// How much of the totals has been sampled, in nanoseconds; the rest is carried over.
    sampled: [u64; State::COUNT],
}

impl Averages {
    pub(crate) fn of(&self, state: State) -> [u64; 3] {
        self.avg[state.index()]
    }

    /// Samples one period, and returns the samples (`update_averages`).
    ///
    /// What exceeds a period is left for the next: no more than 100 % is ever reported, and nothing
    /// is lost.
    pub(crate) fn sample(&mut self, total: &[u64; State::COUNT]) -> [u64; State::COUNT] {
        std::array::from_fn(|state| {
            let sample = total[state].saturating_sub(self.sampled[state]).min(PERIOD_NANOS);
            self.sampled[state] += sample;
            add_sample(&mut self.avg[state], sample);
            sample
        })
    }

    /// Passes periods in which nothing stalled (`missed_periods`).
    pub(crate) fn pass_idle(&mut self, periods: u64) {
        for avg in &mut self.avg {
            decay(avg, periods);
        }
    }

    /// Passes periods of which each would bring the same samples and leave the averages as they
    /// are.
    pub(crate) fn pass_settled(&mut self, periods: u64, samples: &[u64; State::COUNT]) {
        for (sampled, sample) in self.sampled.iter_mut().zip(samples) {
            *sampled += sample * periods;
        }
    }

    /// Tells whether all of the totals has been sampled.
    pub(crate) fn are_level_with(&self, total: &[u64; State::COUNT]) -> bool {
        self.sampled == *total
    }

    /// Returns all values, to see whether they still change.
    pub(crate) fn values(&self) -> [[u64; 3]; State::COUNT] {
        self.avg
    }
}

/// Adds the sample of one period: a whole percentage, truncated (`calc_avgs`).
fn add_sample(avg: &mut [u64; 3], nanos: u64) {
    let percent = nanos * 100 / PERIOD_NANOS * ONE;
    for (avg, decay) in avg.iter_mut().zip(DECAY) {
        *avg = step(*avg, decay, percent);
    }
}

/// Rounds up while the value rises and down while it falls, so that it gets there (`calc_load`).
fn step(avg: u64, decay: u64, sample: u64) -> u64 {
    let round = if sample >= avg { ONE - 1 } else { 0 };
    (avg * decay + sample * (ONE - decay) + round) >> FRACTION_BITS
}

/// Lets averages decay over periods of nothing (`calc_load_n`).
fn decay(avg: &mut [u64; 3], periods: u64) {
    if periods > 0 {
        for (avg, decay) in avg.iter_mut().zip(DECAY) {
            *avg = step(*avg, power(decay, periods), 0);
        }
    }
}

/// Raises a fraction by squaring, rounding each product to the nearest (`fixed_power_int`).
fn power(mut base: u64, mut exponent: u64) -> u64 {
    let multiply = |a: u64, b: u64| (a * b + (ONE >> 1)) >> FRACTION_BITS;
    let mut result = ONE;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = multiply(result, base);
        }
        base = multiply(base, base);
        exponent >>= 1;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(avg: [u64; 3]) -> String {
        PressureLine::new(avg, 0).to_string().replace(" total=0", "")
    }

    fn after(periods: u32, percent: u64, mut avg: [u64; 3]) -> [u64; 3] {
        for _ in 0..periods {
            add_sample(&mut avg, PERIOD_NANOS * percent / 100);
        }
        avg
    }

    const FULL: [u64; 3] = [100 * ONE; 3];

    #[test]
    fn averages_of_a_constant_stall_are_the_kernels_to_the_digit() {
        for (periods, expected) in [
            (1, "avg10=18.11 avg60=3.27 avg300=0.68"),
            (2, "avg10=32.94 avg60=6.43 avg300=1.36"),
            (3, "avg10=45.09 avg60=9.49 avg300=2.03"),
            (5, "avg10=63.18 avg60=15.32 avg300=3.37"),
            (10, "avg10=86.44 avg60=28.29 avg300=6.63"),
            (30, "avg10=99.75 avg60=63.13 avg300=18.60"),
        ] {
            assert_eq!(printed(after(periods, 100, [0; 3])), expected, "{periods} periods");
        }
        assert_eq!(printed(after(1, 1, [0; 3])), "avg10=0.18 avg60=0.03 avg300=0.00");
        assert_eq!(printed(after(10, 1, [0; 3])), "avg10=0.86 avg60=0.28 avg300=0.06");
    }

    #[test]
    fn averages_reach_100_percent_after_as_many_periods_as_the_kernels() {
        for (which, periods) in [(0, 56), (1, 282), (2, 1140)] {
            assert!(hundredths(after(periods - 1, 100, [0; 3])[which]) < 10_000);
            assert_eq!(hundredths(after(periods, 100, [0; 3])[which]), 10_000);
        }
    }

    #[test]
    fn averages_decay_as_the_kernels_to_the_digit() {
        let expected = "avg10=81.88 avg60=96.72 avg300=99.31";
        assert_eq!(printed(after(1, 0, FULL)), expected);
        let expected = "avg10=13.55 avg60=71.70 avg300=93.36";
        assert_eq!(printed(after(10, 0, FULL)), expected);
    }

    #[test]
    fn missed_periods_decay_at_once_and_as_the_kernels_to_the_digit() {
        let mut avg = FULL;
        decay(&mut avg, 10);
        add_sample(&mut avg, 0);
        assert_eq!(printed(avg), "avg10=11.07 avg60=69.38 avg300=92.72");
    }

    #[test]
    fn a_sample_is_a_whole_percentage() {
        let mut avg = [0; 3];
        add_sample(&mut avg, PERIOD_NANOS / 100 - 1);
        assert_eq!(avg, [0; 3]);
    }

    #[test]
    fn what_exceeds_a_period_is_carried_to_the_next() {
        let mut averages = Averages::default();
        let mut total = [0; State::COUNT];
        total[0] = PERIOD_NANOS * 3 / 2;
        assert_eq!(averages.sample(&total)[0], PERIOD_NANOS);
        assert!(!averages.are_level_with(&total));
        assert_eq!(averages.sample(&total)[0], PERIOD_NANOS / 2);
        assert!(averages.are_level_with(&total));
    }
}
