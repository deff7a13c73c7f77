//! What became of the command, and when that was.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use anstyle::Style;
use anyhow::Result;
use serde::Serialize;

use crate::client::whereabouts::Whereabouts;
use crate::client::{Ended, Outcome};
use crate::drill::Options;
use crate::drill::scenario::Step;
use crate::printable::printable;

/// What happened in a drill; its JSON is described in `kernfs drill --help`.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    version: u32,
    /// Whether the command did.
    pub(crate) ended_well: bool,
    scenario: Named,
    mount: String,
    command: Vec<String>,
    end: EndOf,
    steps: Vec<Played>,
    /// How many there were to play.
    steps_in_all: usize,
    stdout: String,
    stderr: String,
    left: Vec<u32>,
}

#[derive(Debug, Serialize)]
struct Named {
    name: String,
    about: Option<String>,
}

/// How the command ended.
#[derive(Debug, Serialize)]
struct EndOf {
    #[serde(flatten)]
    how: How,
    /// Whether it was asked to, by SIGTERM after the last step.
    asked: bool,
    after_micros: u64,
    /// The last step before.
    after_step: Option<usize>,
    micros_after_step: Option<u64>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "how", rename_all = "kebab-case")]
enum How {
    Exit { status: i32 },
    Signal { signal: i32, core_dump: bool },
    Hang { threads: Vec<Whereabouts> },
}

/// A step that was played.
#[derive(Debug, Serialize)]
pub(crate) struct Played {
    /// Its number, from 1 on.
    pub(crate) step: usize,
    /// When it began.
    pub(crate) at_micros: u64,
    took_micros: u64,
    pub(crate) group: String,
    /// What it does.
    pub(crate) does: String,
    /// How many files of the mount were open before.
    pub(crate) held: usize,
    /// What could not be done, and why.
    pub(crate) error: Option<String>,
}

impl Played {
    pub(crate) fn new(
        index: usize,
        step: &Step,
        at: Duration,
        took: Duration,
        held: usize,
        error: Option<String>,
    ) -> Self {
        Self {
            step: index + 1,
            at_micros: micros(at),
            took_micros: micros(took),
            group: printable(&step.actions.group),
            does: step.actions.to_string(),
            held,
            error: error.map(printable),
        }
    }
}

/// What the end of the command is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    ended_well: bool,
    asked: bool,
}

impl Verdict {
    /// Takes the outcome, and whether it was brought about by SIGTERM, of which to die then is as
    /// good as to exit.
    pub(crate) fn of(outcome: &Outcome, asked: bool) -> Self {
        let term = Outcome::Signal { number: SIGTERM, dumped: false };
        let by_term = *outcome == term || *outcome == Outcome::Exit(128 + SIGTERM);
        Self { ended_well: outcome.is_success() || (asked && by_term), asked }
    }
}

const SIGTERM: i32 = signal_hook::consts::SIGTERM;

impl Report {
    pub(crate) fn new(
        options: &Options,
        mount: &Path,
        steps: Vec<Played>,
        ended: Ended,
        verdict: Verdict,
    ) -> Self {
        let after_micros = micros(ended.after);
        // It may have ended while a step was being played.
        let last = steps.iter().rfind(|played| played.at_micros <= after_micros);
        let end = EndOf {
            asked: verdict.asked,
            after_micros,
            after_step: last.map(|played| played.step),
            micros_after_step: last.map(|played| after_micros - played.at_micros),
            how: match ended.outcome {
                Outcome::Exit(status) => How::Exit { status },
                Outcome::Signal { number, dumped } => {
                    How::Signal { signal: number, core_dump: dumped }
                }
                Outcome::Hang(threads) => How::Hang { threads },
            },
        };
        let scenario = &options.scenario;
        Self {
            version: 1,
            ended_well: verdict.ended_well,
            scenario: Named { name: printable(&scenario.name), about: scenario.about.clone() },
            mount: printable(mount),
            command: options.command.iter().map(printable).collect(),
            end,
            steps_in_all: scenario.steps.len(),
            steps,
            stdout: ended.stdout.text(),
            stderr: ended.stderr.text(),
            left: ended.left,
        }
    }

    /// Renders the JSON.
    ///
    /// # Errors
    ///
    /// None that is known.
    pub(crate) fn to_json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// Renders the last lines of the transcript, the verdict in a style of its own.
    pub(crate) fn to_lines(&self, style: Style) -> String {
        let mut text = String::new();
        let verdict = if self.ended_well { "ended well" } else { "did not end well" };
        // Writing to a string does not fail.
        let _ = write!(text, "{style}The command {verdict}{style:#}: {}.", self.end.says());
        let skipped = self.steps_in_all - self.steps.len();
        if skipped > 0 {
            let _ = write!(text, "\n{skipped} of {} steps were not played.", self.steps_in_all);
        }
        let failed = self.steps.iter().filter(|played| played.error.is_some()).count();
        if failed > 0 {
            let _ = write!(text, "\nOf {failed} steps not all could be done.");
        }
        if let How::Hang { threads } = &self.end.how {
            for thread in threads {
                let _ = write!(text, "\n  {thread}");
            }
        }
        for pid in &self.left {
            let _ = write!(text, "\nProcess {pid} was killed, but does not end.");
        }
        text
    }
}

impl EndOf {
    fn says(&self) -> String {
        let after = seconds(Duration::from_micros(self.after_micros));
        let asked = if self.asked { " when it got SIGTERM" } else { "" };
        let how = match &self.how {
            How::Exit { status } => format!("{}{asked}, after {after}", Outcome::Exit(*status)),
            How::Signal { signal, core_dump } => {
                let outcome = Outcome::Signal { number: *signal, dumped: *core_dump };
                format!("{outcome}{asked}, after {after}")
            }
            How::Hang { .. } if self.asked => {
                format!("it runs on after SIGTERM, given up after {after}")
            }
            How::Hang { .. } => format!("it hangs or runs on, given up after {after}"),
        };
        match self.after_step.zip(self.micros_after_step) {
            Some((step, micros)) => {
                format!("{how}, {} after step {step}", seconds(Duration::from_micros(micros)))
            }
            None => format!("{how}, before step 1"),
        }
    }
}

/// Renders a time.
pub(crate) fn seconds(time: Duration) -> String {
    format!("{:.3} s", time.as_secs_f64())
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn to_end_by_the_signal_that_was_sent_is_well() {
        let term = Outcome::Signal { number: 15, dumped: false };
        for (outcome, asked, ended_well) in [
            (Outcome::Exit(0), false, true),
            (Outcome::Exit(0), true, true),
            (Outcome::Exit(1), true, false),
            (Outcome::Exit(143), true, true),
            (Outcome::Exit(143), false, false),
            (term.clone(), true, true),
            (term, false, false),
            (Outcome::Signal { number: 11, dumped: true }, true, false),
            (Outcome::Hang(Vec::new()), true, false),
        ] {
            assert_eq!(Verdict::of(&outcome, asked).ended_well, ended_well, "{outcome} {asked}");
        }
    }
}
