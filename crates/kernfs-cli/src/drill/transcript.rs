//! What happens, as it happens: lines on stdout, and the progress where stderr is a terminal.

use std::ffi::OsStr;
use std::io::{IsTerminal, stderr, stdout};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anstyle::{AnsiColor, Style};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::client::{Client, Hear, Output};
use crate::drill::Options;
use crate::drill::report::{Played, Report, seconds};
use crate::drill::scenario::Step;
use crate::printable::printable;
use crate::terminal;

/// Writes down what happens; clones write to the same.
#[derive(Clone)]
pub(crate) struct Transcript(Arc<Mutex<Inner>>);

struct Inner {
    volume: Volume,
    started: Instant,
    bar: ProgressBar,
    /// What the progress says besides the time: which step comes when.
    next: Option<(String, Duration)>,
}

/// Whether lines are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Volume {
    /// They are.
    Lines,
    /// They are not: something else is printed in the end.
    Silent,
}

impl Transcript {
    /// Begins a transcript; what a command prints by itself is not to meet the progress.
    pub(crate) fn new(volume: Volume, output: Output) -> Self {
        let target = if stderr().is_terminal() && output == Output::Captured {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        let inner = Inner { volume, started: Instant::now(), bar, next: None };
        Self(Arc::new(Mutex::new(inner)))
    }

    /// Says what is to be rehearsed, and what there is at the beginning.
    pub(crate) fn introduce(&self, options: &Options) {
        let inner = self.lock();
        let scenario = &options.scenario;
        let about = scenario.about.as_deref().map(|about| format!(": {about}"));
        let name = printable(&scenario.name);
        inner.print(&format!("{BOLD}{name}{BOLD:#}{}", printable(about.unwrap_or_default())));
        for actions in &scenario.start {
            inner.print(&format!("   before  {}: {actions}", printable(&actions.group)));
        }
        let length = u64::try_from(scenario.length().as_millis()).unwrap_or(u64::MAX);
        inner.bar.set_length(length.max(1));
        if let Ok(style) = ProgressStyle::with_template("{bar:24} {wide_msg}") {
            inner.bar.set_style(style);
        }
    }

    /// Starts the clock.
    pub(crate) fn start(&self) {
        self.lock().started = Instant::now();
    }

    /// Says that the command has been started.
    pub(crate) fn started(&self, client: &Client) {
        let mut inner = self.lock();
        inner.started = client.started();
        inner.event(&format!("start: process {}", client.pid()));
    }

    /// Returns what hears the stdout and stderr of the command.
    pub(crate) fn hear(&self) -> [Hear; 2] {
        [self.lines_of("|"), self.lines_of("!")]
    }

    /// Says which step comes next.
    pub(crate) fn awaits(&self, step: Option<(usize, &Step)>) {
        let next = step.map(|(index, step)| (format!("step {}", index + 1), step.at));
        self.lock().next = next;
    }

    /// Paints the progress.
    pub(crate) fn tick(&self) {
        let inner = self.lock();
        let passed = inner.started.elapsed();
        inner.bar.set_position(u64::try_from(passed.as_millis()).unwrap_or(u64::MAX));
        let message = match &inner.next {
            Some((step, at)) => {
                format!("{}, {step} in {}", seconds(passed), seconds(at.saturating_sub(passed)))
            }
            None => format!("{}, waiting for the command to end", seconds(passed)),
        };
        inner.bar.set_message(message);
    }

    /// Says that a step was played.
    pub(crate) fn step(&self, played: &Played) {
        let inner = self.lock();
        let at = Duration::from_micros(played.at_micros);
        let held = match played.held {
            0 => String::new(),
            1 => " (1 file is held open)".into(),
            held => format!(" ({held} files are held open)"),
        };
        inner.event_at(
            at,
            &format!("{BOLD}step {}{BOLD:#}: {}: {}{held}", played.step, played.group, played.does),
        );
        if let Some(error) = &played.error {
            inner.event_at(at, &format!("{BAD}step {}{BAD:#}: {error}", played.step));
        }
    }

    /// Says that the command is asked to end.
    pub(crate) fn stops(&self) {
        self.lock().event("the command gets SIGTERM");
    }

    /// Says how it ended.
    pub(crate) fn ends(&self, report: &Report) {
        let inner = self.lock();
        inner.bar.finish_and_clear();
        let style = if report.ended_well { GOOD } else { BAD };
        inner.print(&report.to_lines(style));
    }

    /// Takes the progress away, however it ended.
    pub(crate) fn clear(&self) {
        self.lock().bar.finish_and_clear();
    }

    fn lines_of(&self, sign: &'static str) -> Hear {
        let this = self.clone();
        let mut lines = Lines::default();
        Box::new(move |bytes| {
            lines.take(bytes, |line| {
                let line = printable(OsStr::from_bytes(line));
                this.lock().event(&format!("{FAINT}{sign}{FAINT:#} {line}"));
            });
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const BOLD: Style = Style::new().bold();
const FAINT: Style = Style::new().dimmed();
const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();

impl Inner {
    fn event(&self, says: &str) {
        self.event_at(self.started.elapsed(), says);
    }

    fn event_at(&self, at: Duration, says: &str) {
        self.print(&format!("{:>9}  {says}", seconds(at)));
    }

    fn print(&self, line: &str) {
        if self.volume == Volume::Lines {
            let line = if stdout().is_terminal() { wrapped(line) } else { line.to_owned() };
            // Who cannot be told is told in the end, where an error is one.
            self.bar.suspend(|| drop(terminal::print(&format!("{line}\n"))));
        }
    }
}

/// Breaks lines for the terminal, below what they say and not below the time.
fn wrapped(text: &str) -> String {
    let options = textwrap::Options::new(terminal::width()).subsequent_indent("           ");
    let lines = text.lines().flat_map(|line| textwrap::wrap(line, &options));
    lines.collect::<Vec<_>>().join("\n")
}

/// The longest line that is waited for; a longer one is taken in pieces.
const LONGEST_LINE: usize = 4096;

/// Puts lines together from what comes in pieces.
///
/// What comes without an end of line at last is said when it goes.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn take(&mut self, bytes: &[u8], mut say: impl FnMut(&[u8])) {
        self.0.extend(bytes);
        let mut rest = &self.0[..];
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            say(&rest[..end]);
            rest = &rest[end + 1..];
        }
        while rest.len() >= LONGEST_LINE {
            say(&rest[..LONGEST_LINE]);
            rest = &rest[LONGEST_LINE..];
        }
        self.0 = rest.to_vec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let (mut lines, mut said) = (Lines::default(), Vec::new());
        for piece in pieces {
            lines.take(piece, |line| said.push(line.to_vec()));
        }
        said
    }

    #[test]
    fn lines_are_put_together() {
        assert_eq!(lines(&[b"a\nb", b"c\n\nd"]), [&b"a"[..], b"bc", b""]);
        assert_eq!(lines(&[&[b'x'; 10_000], b"\n"]).len(), 3);
    }
}
