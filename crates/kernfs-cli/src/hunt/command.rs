//! The command line of `kernfs hunt`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Error, Result};
use clap::{Args, ValueHint};
use indicatif::{ProgressBar, ProgressStyle};
use kernfs_replay::{Image, Recorder};

use super::action::{Action, On};
use super::finding::{Finding, name};
use super::part::Part;
use super::report::{Heading, Report};
use super::trial::{PLACE, Subject};
use super::{Hunt, Options, Progress, shell};
use crate::FAILED;
use crate::printable::printable;
use crate::signals::Patience;
use crate::wrong_usage::WrongUsage;
use crate::{terminal, watchdog};

/// Pulls the plug under a command at each of its operations, and reports what breaks.
///
/// Runs COMMAND on a recorded tree, undisturbed and then once for each k: at its k-th operation on
/// PATH or below, that part of the tree is taken away, before the operation is answered. Reports
/// which runs crashed, hung, printed what they should not, or left files open.
#[derive(Args, Debug)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct HuntArgs {
    /// The recorded tree: what `kernfs record` made, or any tar archive
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath,
          required_unless_present = "from", conflicts_with = "from")]
    tree: Option<PathBuf>,

    /// A directory to record, such as /sys; it is only read
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    from: Option<PathBuf>,

    /// Serve only this directory of the tree
    #[arg(long, value_name = "PATH")]
    subdir: Option<String>,

    /// What is taken away: a path from the root of what is served, a pattern of such paths, each
    /// of which is taken away in turn, or '*' for each directory that looks like a device
    #[arg(long, value_name = "PATH")]
    sever: String,

    /// Which operations count
    #[arg(long, value_enum, value_name = "KIND", default_value_t, hide_possible_values = true)]
    on: On,

    /// What happens at the k-th
    #[arg(long, value_enum, value_name = "ACTION", default_value_t, hide_possible_values = true)]
    action: Action,

    /// Only at these operations, such as 17 or 3-5,9; shows what was printed
    #[arg(long, value_name = "K", value_delimiter = ',', value_parser = ks)]
    only: Vec<RangeInclusive<usize>>,

    /// Have the command see the tree at this directory, and nobody else
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    over: Option<PathBuf>,

    /// After so many seconds a run is a hang
    #[arg(long, value_name = "S", default_value = "10", value_parser = seconds)]
    timeout: Duration,

    /// How many runs there may be at once, each with a mount of its own
    #[arg(long, value_name = "N", default_value = "1")]
    jobs: NonZeroUsize,

    /// Write one JSON object to this file; `-` for stdout, instead of text
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    json: Option<PathBuf>,

    /// The command, with its arguments; {} stands for the directory with the tree
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

const AFTER_HELP: &str = "\
Examples:
  kernfs hunt --from /sys/devices/system/cpu --sever cpu0 -- ls -lR {}
  kernfs hunt --tree pc.tar.zst --sever 'devices/system/cpu/cpu[0-3]' \\
    --jobs 4 -- lscpu --sysroot {}
  kernfs hunt --tree pc.tar.zst --sever '*' --over /sys -- numactl --hardware
  kernfs hunt --from /sys --sever class/net/lo -- timeout 3 my-monitor {}
  The command has to end by itself; timeout(1) ends one that does not, and
  dies of the signals that its child dies of.

Operations:
  An operation is what the kernel asks the mount for on behalf of the command:
  lookup (of a name, once for each step of a path), getattr (stat, and the
  permissions of each step), readlink, open, opendir, read, readdir, write,
  poll, and rarer ones. Nothing is cached, so that the kernel asks each time.
  close is seen but does not count, and lseek and mmap are not seen. inotify
  tells nothing of what is taken away, for it tells late.
  Those count that are on the part or below it, and of the kind of --on:
  any (all of them), open (open, opendir), read, readdir.
  `--action torn` counts reads that get two bytes or more.

Actions:
  sever        the part is removed, and the links elsewhere that lead to it:
               what is open gives ENODEV, names are gone
  hide         the files of the part are hidden: what is open gives ENODEV,
               their names are gone; directories stay
  eio          from then on, opening, reading, writing and listing fail: EIO
  enodev-once  that operation fails with ENODEV, and nothing else happens
  torn         that read gets half of what is left; the next one the rest
  slow         that operation takes 2 s, or half of --timeout if that is less
  Each happens before the k-th operation is answered, and no other operation
  that counts comes between.

Outcomes:
  crash       killed by a signal, or a shell tells so of a child (status 128
              and SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP)
  hang        not done in time, and killed; with where it was
  silent      stdout is neither that of the undisturbed run nor that of a run
              without the part, and nothing on stderr tells of it
  failed      a status that it has neither undisturbed nor without the part;
              among them those of sanitizers, unless told to abort, and 101
              of a Rust program that panics
  told        stdout as in `silent`, but stderr is another one too
  without     as in a run in which the part was not there from the start
              (with hide and eio: hidden, or failing, from the start)
  with        as undisturbed
  uncompared  two undisturbed runs printed different things; this one ended
              as one of them, or as without the part
  leak        beside any of these: more files were open at the end than
              undisturbed, for the kernel to close (directories do not count)
  The first crash and hang of each kind is tried once more.

JSON:
  version      1; goes up when a field is taken away or changes its meaning
  clean        whether there was no crash and no hang
  command, tree, nodes, action, on, timeout_secs   what was asked for
  undisturbed  status, says (the last line on stderr, or null), operations
               (all, not only those that count), millis, same_output and
               same_operations (of two such runs)
  parts        path, links (that go with it), operations (that count,
               undisturbed), runs, diverged (runs that took another way before
               the action), without (how a run without the part ended)
    .groups    meaning (an outcome), says, leaks, ks, at (how many, by kind of
               operation), first (as below), again (whether it came again, or
               null), places (where threads hung), stdout and stderr (the end,
               with {} for the mount), reproduce (a command)
    .findings  k, operation, path, meaning, leaked (files), diverged (the
               first operation that was another one, or null),
               operations_after, millis
  untouched    parts that the command does nothing with
  Names are escaped where they could steer a terminal; stdout and stderr are
  as they came.

Signals:
  SIGINT and SIGTERM end the command and unmount; a second one kills at once.
  Whatever way it ends, the command ends too, and nothing is left mounted.

Exit status:
  0    no crash and no hang
  1    a crash or a hang
  2    wrong usage, a tree that cannot be read, or a command that does not end
       by itself undisturbed
  3    the hunt could not be finished
  130  stopped by SIGINT
  143  stopped by SIGTERM
";

/// The exit status when the hunt itself failed, which must not look like a bug that was found.
pub(crate) const UNFINISHED: u8 = 3;

/// A hunt takes as long as it takes: each run has its limit.
const FOREVER: Duration = Duration::MAX;

/// How long it may take to clear away: killing what runs, and unmounting.
const CLEAR_LIMIT: Duration = Duration::from_secs(10);

impl HuntArgs {
    pub(crate) fn run(self) -> Result<ExitCode> {
        self.check()?;
        let image = self.image()?;
        let parts = Part::choose(&image, self.wanted())?;
        let heading = Heading {
            command: self.command.iter().map(printable).collect(),
            tree: printable(self.source()),
            nodes: image.len(),
            action: self.action.name(),
            on: self.on.name(),
            timeout: self.timeout,
            is_of_few: !self.only.is_empty(),
        };
        let hunt = self.hunt(image, parts).map_err(unfinished)?;
        let report = Report::new(heading, &hunt, |part, k| self.reproduce(part, k));
        self.print(&report).map_err(unfinished)?;
        Ok(if report.clean { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
    }

    fn check(&self) -> Result<(), WrongUsage> {
        let mentions = |word: &OsString| {
            word.as_encoded_bytes().windows(PLACE.len()).any(|part| part == PLACE.as_bytes())
        };
        if self.over.is_none() && !self.command.iter().any(mentions) {
            return Err(WrongUsage::from_error(format!(
                "the command has no {PLACE}, where the directory with the tree goes; expected one, \
                 or --over"
            )));
        }
        if self.action == Action::Torn && !matches!(self.on, On::Any | On::Read) {
            return Err(WrongUsage::from_error("only reads can be torn; expected --on read"));
        }
        match &self.over {
            Some(dir) if !dir.is_dir() => Err(WrongUsage::from_error(format!(
                "cannot mount over {}; expected a directory",
                printable(dir)
            ))),
            _ => Ok(()),
        }
    }

    /// Returns where the tree comes from.
    fn source(&self) -> &Path {
        self.tree.as_deref().or(self.from.as_deref()).expect("clap wants one of them")
    }

    fn image(&self) -> Result<Arc<Image>> {
        let image = match (&self.tree, &self.from) {
            (Some(file), _) => Image::open(file).map_err(WrongUsage::from_error)?,
            (None, from) => {
                let bar = spinner("recording");
                let recorder = Recorder::new().on_progress(|_| bar.tick());
                let dir = from.as_ref().expect("clap wants one of them");
                let recording = recorder.record_root(dir).map_err(WrongUsage::from_error)?;
                bar.finish_and_clear();
                recording.image
            }
        };
        let Some(subdir) = &self.subdir else { return Ok(Arc::new(image)) };
        let image = image.subdir(subdir).ok_or_else(|| {
            let subdir = printable(subdir);
            WrongUsage::from_error(format!("{subdir} is no directory of the tree"))
        })?;
        Ok(Arc::new(image))
    }

    /// Returns what is to be taken away, as a path in the tree: it may be one in the directory that
    /// the tree comes from, or is seen at.
    fn wanted(&self) -> &str {
        let dirs = [&self.from, &self.over];
        let inner = dirs.into_iter().flatten().find_map(|dir| {
            let rest = self.sever.strip_prefix(dir.to_str()?.trim_end_matches('/'))?;
            rest.starts_with('/').then_some(rest)
        });
        inner.unwrap_or(&self.sever)
    }

    /// Hunts, and clears away, however it ends.
    fn hunt(&self, image: Arc<Image>, parts: Vec<Part>) -> Result<Hunt> {
        let stop = Arc::new(AtomicBool::new(false));
        let subject = Subject {
            image,
            command: self.command.clone(),
            over: self.over.clone(),
            limit: self.timeout,
            stop: Arc::clone(&stop),
        };
        let only: BTreeSet<_> = self.only.iter().cloned().flatten().collect();
        let options =
            Options { subject, parts, on: self.on, action: self.action, only, jobs: self.jobs };
        let (patience, bar) = (Patience::default(), Bar::new());
        let (alive, ended) = mpsc::channel::<()>();
        let hunt = watchdog::within(
            FOREVER,
            |tell| patience.listen(tell),
            move |stage| {
                // Dropped when all of it has been.
                let _alive = alive;
                super::run(&options, &bar, stage)
            },
        );
        if hunt.is_err() {
            stop.store(true, Ordering::Relaxed);
        }
        // What is not cleared away by then, sweepers clear away.
        let _ = ended.recv_timeout(CLEAR_LIMIT);
        patience.end();
        hunt
    }

    fn print(&self, report: &Report) -> Result<()> {
        match &self.json {
            Some(file) if file == Path::new("-") => return terminal::print(&report.to_json()?),
            Some(file) => fs::write(file, report.to_json()?)
                .with_context(|| format!("cannot write {}", printable(file)))?,
            None => {}
        }
        terminal::print(&report.to_text(terminal::width()))
    }

    /// Returns the command that comes to the same with one operation of one part.
    fn reproduce(&self, part: &[u8], k: usize) -> String {
        use std::os::unix::ffi::OsStringExt;
        let mut words: Vec<OsString> = shell::words(["kernfs", "hunt"]).into();
        let mut add = |name: &str, value: OsString| words.extend([name.into(), value]);
        let source = if self.tree.is_some() { "--tree" } else { "--from" };
        add(source, self.source().into());
        if let Some(subdir) = &self.subdir {
            add("--subdir", subdir.into());
        }
        add("--sever", OsString::from_vec(part.to_owned()));
        if self.on != On::default() {
            add("--on", self.on.name().into());
        }
        if self.action != Action::default() {
            add("--action", self.action.name().into());
        }
        if let Some(over) = &self.over {
            add("--over", over.into());
        }
        if self.timeout != Duration::from_secs(10) {
            add("--timeout", self.timeout.as_secs_f64().to_string().into());
        }
        add("--only", k.to_string().into());
        words.push("--".into());
        words.extend(self.command.iter().cloned());
        shell::line(words)
    }
}

/// Has an error that is not about usage end with its own status.
fn unfinished(error: Error) -> Error {
    if error.is::<WrongUsage>() || error.is::<crate::signals::Stopped>() {
        return error;
    }
    error.context(Unfinished)
}

/// The hunt itself failed.
#[derive(Debug, thiserror::Error)]
#[error("the hunt could not be finished")]
pub(crate) struct Unfinished;

/// Parses a number or a range of them.
fn ks(text: &str) -> Result<RangeInclusive<usize>, String> {
    let number = |text: &str| text.parse().ok().filter(|&k| (1..=KS_MAX).contains(&k));
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        _ => Err(format!("expected a number from 1 to {KS_MAX}, or two of them as in 3-5")),
    }
}

/// More than anybody waits for.
const KS_MAX: usize = 1_000_000;

fn seconds(text: &str) -> Result<Duration, String> {
    let secs = text.parse().ok().filter(|&secs: &f64| (0.01..=SECS_MAX).contains(&secs));
    secs.map(Duration::from_secs_f64)
        .ok_or_else(|| format!("expected seconds, from 0.01 to {SECS_MAX}"))
}

/// A day.
const SECS_MAX: f64 = 86_400.0;

/// Shows how far it is, on a terminal only.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        // Draws to stderr, and only where that is a terminal.
        Self(spinner("undisturbed"))
    }
}

impl Progress for Bar {
    fn part(&self, part: &Part, runs: usize) {
        let style = "{wide_msg} {bar:20} {pos}/{len} {eta:>4}";
        self.0.set_style(ProgressStyle::with_template(style).expect("it is well-formed"));
        self.0.set_message(part.name());
        self.0.set_length(runs as u64);
        self.0.reset();
    }

    fn run(&self, finding: &Finding) {
        if finding.meaning.is_bad() {
            let Finding { k, step, meaning, .. } = finding;
            self.0.println(format!("{} at {k}, {} of {}", meaning.name(), step.kind, name(step)));
        }
        self.0.inc(1);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn spinner(message: &'static str) -> ProgressBar {
    let bar = ProgressBar::no_length().with_message(message);
    bar.set_style(ProgressStyle::with_template("{spinner} {wide_msg}").expect("it is well-formed"));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_operations_are_understood() {
        assert_eq!(ks("17"), Ok(17..=17));
        assert_eq!(ks("3-5"), Ok(3..=5));
        for wrong in ["", "0", "5-3", "-1", "a", "1-", "99999999"] {
            assert!(ks(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn limits_are_understood() {
        assert_eq!(seconds("1.5"), Ok(Duration::from_millis(1500)));
        for wrong in ["0", "-1", "nan", "inf", "x", "1e9"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
