//! What a run means, beside those that went undisturbed.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Serialize, Serializer};
use signal_hook::consts::{SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP};
use signal_hook::low_level::signal_name;

use super::trap::Step;
use super::trial::{Printed, Trial};
use crate::client::Outcome;
use crate::client::whereabouts::Whereabouts;
use crate::printable::printable;

/// A run in which the action happened.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    /// The number of the operation.
    pub(crate) k: usize,
    pub(crate) step: Step,
    pub(crate) meaning: Meaning,
    /// How many files more than undisturbed were left for the kernel to close.
    pub(crate) leaked: usize,
    /// The first operation that was another one in the undisturbed run.
    pub(crate) diverged: Option<usize>,
    /// How many operations there were after the action.
    pub(crate) since: u64,
    pub(crate) after: Duration,
    /// What was printed; kept of the first of its kind.
    pub(crate) printed: Option<Box<[Printed; 2]>>,
    /// Where all threads were, of a hang.
    pub(crate) places: Vec<String>,
}

/// What became of the command, the worst first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Meaning {
    /// Killed by a signal that it did not get from here.
    Crash {
        signal: String,
        /// A shell has told of it: its status is 128 and the signal.
        by_shell: bool,
    },
    /// Not done in time.
    Hang {
        /// Where it was, the same for all that hang there.
        place: String,
    },
    /// It printed what it prints neither with the part nor without, and said nothing on stderr.
    Silent,
    /// It ended with a status that it has neither with the part nor without.
    Failed { status: i32 },
    /// It printed something else, and said something on stderr.
    Told,
    /// All as if the part had not been there.
    Without,
    /// All as in the undisturbed run.
    With,
    /// It ended as it does with the part or without; what it prints is another thing each time.
    Uncompared,
}

/// What a run is held against.
pub(crate) struct Baselines<'a> {
    /// The undisturbed run.
    pub(crate) with: &'a Trial,
    /// The run without the part.
    pub(crate) without: &'a Trial,
    /// Whether two undisturbed runs printed the same.
    pub(crate) comparable: bool,
}

impl Finding {
    /// Takes what was found at the k-th operation; `None` if there was none.
    pub(crate) fn new(k: usize, trial: Trial, baselines: &Baselines<'_>) -> Option<Self> {
        let step = trial.seen.struck.clone()?;
        let meaning = baselines.meaning_of(&trial);
        let ended = matches!(trial.outcome, Outcome::Exit(_));
        let usual = baselines.with.seen.left_open;
        let leaked = if ended { trial.seen.left_open.saturating_sub(usual) } else { 0 };
        let places = match &trial.outcome {
            Outcome::Hang(places) => places.iter().map(ToString::to_string).collect(),
            _ => Vec::new(),
        };
        Some(Self {
            k,
            step,
            meaning,
            leaked,
            diverged: trial.seen.diverged,
            since: trial.seen.since,
            after: trial.after,
            printed: Some(Box::new([trial.stdout, trial.stderr])),
            places,
        })
    }

    /// Tells whether it is one of those that are put together in a report.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.meaning == other.meaning && (self.leaked > 0) == (other.leaked > 0)
    }
}

impl Meaning {
    /// Tells whether the exit status is to tell of it.
    pub(crate) fn is_bad(&self) -> bool {
        matches!(self, Self::Crash { .. } | Self::Hang { .. })
    }

    /// Returns its name, as in JSON.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Crash { .. } => "crash",
            Self::Hang { .. } => "hang",
            Self::Silent => "silent",
            Self::Failed { .. } => "failed",
            Self::Told => "told",
            Self::Without => "without",
            Self::With => "with",
            Self::Uncompared => "uncompared",
        }
    }
}

impl Serialize for Meaning {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl Baselines<'_> {
    fn meaning_of(&self, trial: &Trial) -> Meaning {
        let (with, without) = (self.with, self.without);
        let is_status = |base: &Trial| trial.outcome == base.outcome;
        let status = match &trial.outcome {
            Outcome::Signal { number, .. } => {
                return Meaning::Crash { signal: name_of(*number), by_shell: false };
            }
            Outcome::Hang(places) => return Meaning::Hang { place: place_of(trial, places) },
            Outcome::Exit(status) => *status,
        };
        if !is_status(with) && !is_status(without) {
            return match crash_told_by(status) {
                Some(signal) => Meaning::Crash { signal: name_of(signal), by_shell: true },
                None => Meaning::Failed { status },
            };
        }
        if !self.comparable {
            return Meaning::Uncompared;
        }
        let is = |base: &Trial| is_status(base) && trial.stdout == base.stdout;
        let complains = trial.stderr != with.stderr && trial.stderr != without.stderr;
        match () {
            () if is(with) => Meaning::With,
            () if is(without) => Meaning::Without,
            () if complains => Meaning::Told,
            () => Meaning::Silent,
        }
    }
}

/// The signals by which programs die of bugs.
const CRASHES: [i32; 7] = [SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP];

/// Returns the signal of which a shell tells that it has killed its child.
fn crash_told_by(status: i32) -> Option<i32> {
    CRASHES.into_iter().find(|signal| 128 + signal == status)
}

fn name_of(signal: i32) -> String {
    signal_name(signal).map_or_else(|| format!("signal {signal}"), str::to_owned)
}

/// From so many operations after the action on, who does not end goes round in circles.
const CIRCLES: u64 = 1000;

/// Says where a command hangs, the same for all that hang in the same place.
fn place_of(trial: &Trial, threads: &[Whereabouts]) -> String {
    if trial.seen.since >= CIRCLES
        && let Some(last) = &trial.seen.last
    {
        return format!("never done with {} of {}", last.kind, name(last));
    }
    // Numbers of processes are others each time.
    let places: BTreeSet<_> = threads.iter().map(place_of_thread).collect();
    let places: Vec<_> = places.into_iter().collect();
    if places.is_empty() { "nowhere to be seen".into() } else { places.join("; ") }
}

fn place_of_thread(thread: &Whereabouts) -> String {
    let does = match thread.state {
        'R' => "runs",
        'D' => "sleeps for good",
        'T' | 't' => "is stopped",
        _ => "sleeps",
    };
    let place = thread.call.as_ref().map(|call| format!(" in {call}"));
    format!("{} {does}{}", thread.comm, place.unwrap_or_default())
}

/// Returns what an operation is about as it can be printed.
pub(crate) fn name(step: &Step) -> String {
    use std::os::unix::ffi::OsStrExt;
    printable(std::ffi::OsStr::from_bytes(&step.path))
}
