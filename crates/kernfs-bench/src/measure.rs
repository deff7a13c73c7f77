//! Samples that are taken in turns, and what is made of them.

use std::time::{Duration, Instant};

/// How much trouble is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// How often each case of a group is sampled.
    pub rounds: usize,
    /// How long one sample of repeated operations lasts; short ones escape other processes.
    pub sample: Duration,
    /// By what the sizes of trees and lists are divided.
    pub shrink: usize,
}

impl Effort {
    /// For figures that are published.
    pub const FULL: Self = Self { rounds: 1001, sample: Duration::from_micros(100), shrink: 1 };
    /// For a look while working.
    pub const QUICK: Self = Self { rounds: 201, sample: Duration::from_micros(50), shrink: 10 };
    /// Runs everything once, to see that it runs.
    pub const SMOKE: Self = Self { rounds: 1, sample: Duration::from_micros(1), shrink: 1000 };

    /// Makes a size smaller.
    #[must_use]
    pub fn size(&self, full: usize) -> usize {
        (full / self.shrink).max(8)
    }

    /// Takes fewer rounds, for samples that last long by themselves.
    #[must_use]
    pub fn fewer(self, divisor: usize) -> Self {
        Self { rounds: (self.rounds / divisor) | 1, ..self }
    }
}

/// Something to be timed: performs as many operations as it is told, and tells the time it took.
pub struct Case<'a> {
    name: String,
    run: Box<dyn FnMut(u64) -> Duration + 'a>,
    /// Operations per sample; 0 until it has been found out.
    count: u64,
}

impl<'a> Case<'a> {
    /// Takes an operation that is repeated back to back.
    pub fn new(name: impl Into<String>, mut operation: impl FnMut() + 'a) -> Self {
        Self::timed(name, move |count| {
            let start = Instant::now();
            for _ in 0..count {
                operation();
            }
            start.elapsed()
        })
    }

    /// Takes a function that times itself.
    pub fn timed(name: impl Into<String>, run: impl FnMut(u64) -> Duration + 'a) -> Self {
        Self { name: name.into(), run: Box::new(run), count: 0 }
    }

    /// Sets how many operations one sample has, where they cannot be repeated as often as one
    /// likes.
    #[must_use]
    pub fn count(mut self, count: u64) -> Self {
        self.count = count;
        self
    }

    /// Finds out how many operations last about as long as a sample shall.
    fn calibrate(&mut self, sample: Duration) {
        if self.count > 0 {
            (self.run)(self.count);
            return;
        }
        let mut count = 1;
        loop {
            // The best of three, for the first one runs cold.
            let took = (0..3).map(|_| (self.run)(count)).min().unwrap_or_default();
            if took >= sample || count >= 1 << 24 {
                break;
            }
            count *= 2;
        }
        self.count = count;
    }

    fn sample(&mut self) -> f64 {
        (self.run)(self.count).as_nanos() as f64 / self.count as f64
    }
}

impl std::fmt::Debug for Case<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Case").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The samples of one case, in nanoseconds per operation, one for each round.
#[derive(Clone, Debug)]
pub struct Samples {
    /// The name of the case.
    pub name: String,
    /// Its times.
    pub nanos: Vec<f64>,
}

impl Samples {
    /// Returns what the times come to.
    #[must_use]
    pub fn figures(&self) -> Figures {
        Figures::of(self.nanos.clone())
    }

    /// Returns how often `unit` fits in, round by round.
    #[must_use]
    pub fn over(&self, unit: &Self) -> Figures {
        Figures::of(self.nanos.iter().zip(&unit.nanos).map(|(a, b)| a / b).collect())
    }
}

/// Samples the cases in turns; each round begins with another one.
#[must_use]
pub fn interleave(effort: Effort, mut cases: Vec<Case<'_>>) -> Vec<Samples> {
    for case in &mut cases {
        case.calibrate(effort.sample);
    }
    let mut samples: Vec<_> =
        cases.iter().map(|case| Samples { name: case.name.clone(), nanos: Vec::new() }).collect();
    for round in 0..effort.rounds {
        for turn in 0..cases.len() {
            let at = (round + turn) % cases.len();
            samples[at].nanos.push(cases[at].sample());
        }
    }
    samples
}

/// A median, and between what the middle and all of the values lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// The median.
    pub median: f64,
    /// The lowest.
    pub min: f64,
    /// The highest.
    pub max: f64,
    /// How many there are.
    pub rounds: usize,
}

impl Figures {
    /// Takes the values in any order.
    ///
    /// # Panics
    ///
    /// If there are none.
    #[must_use]
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self {
            median: values[values.len() / 2],
            min: values[0],
            max: values[values.len() - 1],
            rounds: values.len(),
        }
    }

    /// Takes a value that was counted, not timed.
    #[must_use]
    pub fn exact(value: f64) -> Self {
        Self::of(vec![value])
    }
}
