//! `kernfs record`: a real tree into a file.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use kernfs_replay::{Packing, Progress, RecordError, Recorder, Recording, Report};

use crate::printable::{plural, printable};
use crate::terminal;
use crate::wrong_usage::WrongUsage;

/// Records real directories, such as /sys, into a file.
///
/// Of all that is below them: modes, sizes, links, and what reading each file gives, be it an
/// error, or nothing within a time limit. Never writes, and opens no device or pipe.
#[derive(Args, Debug)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct RecordArgs {
    /// The directories to record, each at its full path
    #[arg(required = true, value_name = "DIR")]
    dirs: Vec<PathBuf>,

    /// The file to write: .tar.zst, .tzst, .tar.gz, .tgz or .tar
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    /// Leave out what matches, with all below it; may be given more than once
    #[arg(long, value_name = "PATTERN")]
    skip: Vec<String>,

    /// How long reading one file may take
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    timeout: f32,
}

const AFTER_HELP: &str = "\
Examples:
  kernfs record /sys /proc/sys -o machine.tar.zst
  kernfs record /sys -o sys.tar.gz --skip /sys/kernel/slab --skip '*.bin'
  kernfs mount replay machine.tar.zst /mnt

Patterns:
  Globs, in which * and ? match no slash and ** any number of directories.
  With a slash at the beginning they match real paths; without, the end of
  them: `power` matches every node of that name.

What is read:
  Some files do something when they are read. Those that are known to (ports
  of PCI devices, vital product data, trace pipes, the memory of the machine)
  are recorded, but not read. Name others by --skip.
  Other filesystems inside of a directory are left out; name them as well.
  A thread hangs in each file that gives no answer in time; they are listed.

The file:
  A tar archive with the tree below `tree/`, and a text of what tar cannot
  tell, `kernfs-replay.manifest`. `tar xf` unpacks it.

Exit status:
  0    recorded
  1    something failed
  2    wrong usage, or a directory that cannot be recorded
";

impl RecordArgs {
    pub(crate) fn run(self) -> Result<ExitCode> {
        // What cannot be written should not be recorded first.
        Packing::of(&self.output).map_err(WrongUsage::from_error)?;
        let patience = Duration::try_from_secs_f32(self.timeout).unwrap_or_default();
        ensure!(
            !patience.is_zero(),
            WrongUsage::from_error(format!(
                "a timeout of {} s; expected more than 0",
                self.timeout
            ))
        );
        let bar = Bar::new();
        let mut recorder =
            Recorder::new().patience(patience).on_progress(|progress| bar.show(progress));
        for pattern in self.skip {
            recorder = recorder.skip(pattern).map_err(WrongUsage::from_error)?;
        }
        let begun = Instant::now();
        let recording = recorder.record(&self.dirs).map_err(|error| classify(&error))?;
        bar.writing();
        recording.image.save(&self.output)?;
        bar.clear();
        let size = std::fs::metadata(&self.output).context("the file has gone")?.len();
        let head = format!("{} ({})", printable(&self.output), HumanBytes(size));
        terminal::print(&describe(&head, &recording, begun.elapsed(), patience))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn classify(error: &RecordError) -> anyhow::Error {
    match error {
        RecordError::Dir { .. } => WrongUsage::from_error(printable(error.to_string())).into(),
        _ => anyhow::anyhow!(printable(error.to_string())),
    }
}

/// Tells what was recorded, and what was not.
fn describe(head: &str, recording: &Recording, took: Duration, patience: Duration) -> String {
    let Report { files, dirs, links, bytes, .. } = recording.report;
    let mut text = format!(
        "{head}: {}, {}, {}, {} of contents, in {:.1} s\n",
        plural(files, "file", "files"),
        plural(dirs, "directory", "directories"),
        plural(links, "link", "links"),
        HumanBytes(bytes),
        took.as_secs_f32(),
    );
    let report = &recording.report;
    let counts = [
        (report.errors, "recorded with the error that reading gives"),
        (report.blocked, "recorded as having nothing to read"),
        (report.unread, "recorded but not read"),
        (report.closed, "recorded as empty: cannot be listed"),
        (report.mounts, "recorded as empty: another filesystem"),
        (report.skipped, "left out as told"),
        (report.special, "left out: a device, pipe or socket"),
        (report.too_deep, "left out: too deep"),
        (report.vanished, "gone before it was looked at"),
    ];
    for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{count:>8}  {what}");
    }
    for path in &report.hung {
        let (path, patience) = (printable(path), patience.as_secs_f32());
        let _ = writeln!(text, "   hangs  {path}: no answer within {patience} s");
    }
    text
}

/// A line on the terminal, if stderr is one, that tells where the recording is.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        let style = ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}");
        // The template is right, and the default would do.
        let style = style.unwrap_or_else(|_| ProgressStyle::default_spinner());
        Self(ProgressBar::new_spinner().with_style(style))
    }

    fn show(&self, progress: &Progress<'_>) {
        // Most of them would never be seen.
        self.0.inc(1);
        if !self.0.is_hidden() && self.0.position() % SHOWN_EVERY == 1 {
            let Report { files, .. } = progress.so_far;
            self.0.set_message(format!("{files} files, {}", printable(progress.path)));
        }
    }

    fn writing(&self) {
        self.0.set_message("writing");
    }

    fn clear(&self) {
        self.0.finish_and_clear();
    }
}

/// Of so many nodes one is shown; a slow one may be none of them.
const SHOWN_EVERY: u64 = 16;
