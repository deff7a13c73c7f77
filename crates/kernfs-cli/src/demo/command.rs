//! The command line of `kernfs demo`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::Options;
use super::reach::Wanted;
use super::report::Report;
use crate::FAILED;
use crate::belongings::Belongings;
use crate::signals::Patience;
use crate::{terminal, watchdog};

/// Takes a live copy of a directory away from all who hold it.
///
/// Mounts a copy of a real directory, with an event file and a mappable file beside it, for
/// processes that read, sleep and list. Severs all of it while they hold on, and shows what each
/// of them got, when, what the owner got back, and whether the promise held. Where nothing can be
/// mounted, the holders are threads of the one process.
#[derive(Args, Debug)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct DemoArgs {
    /// The directory to copy; it is only read [default: a part of /sys that can be read, else
    /// /proc/sys, else the program's own source]
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,

    /// The directory to mount on [default: a new one, which only this user can enter]
    #[arg(long, value_name = "DIR", conflicts_with = "in_process")]
    mount: Option<PathBuf>,

    /// Mount nothing, and start no processes
    #[arg(long)]
    in_process: bool,

    /// Let the same holders meet a removal by Linux's own kernfs, a rmdir of cgroup2, and show what
    /// that gives them
    #[arg(long, conflicts_with = "in_process")]
    kernel: bool,

    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,

    /// Stop when everybody holds, until a signal comes; for tests of what signals do
    #[arg(long, hide = true)]
    pause: bool,
}

const AFTER_HELP: &str = "\
Examples:
  kernfs demo
  kernfs demo --from /sys/class --mount /mnt
  kernfs demo --kernel
  kernfs demo --json | jq '.promise[] | select(.held | not)'

Output:
  The first lines say what was copied, and how the holders reach it: through a
  mount, or in process, and why.
  The first table has a line for each holder: its process if it has one of its
  own, what it held, what it was to get, what it got, and how long after the
  call of `sever` began. Events are those of poll(2), rd+wr+ex the three sets
  of select(2). `9 B, ENODEV` are 9 bytes that had been rendered before, and
  then the error; `end, ENOENT` is the end of a listing, and what looking up a
  child gives. Who comes too late tries the path when the removal has returned;
  who has mapped a page touches it then, and SIGBUS ends the process.
  DELETE_SELF is what inotify tells, and that its watch is over; it is told as
  well as can be, and not a part of the promise.
  With --kernel, LINUX is what the same holder got from a rmdir of a group of
  cgroup2, with the nearest file that there is: `still asleep` is a process
  that was not woken, so long after the rmdir began; it is ended then. `-` is
  a holder that cgroup2 has no file for; lines below the table say why.

JSON:
  version   1; goes up when a field is taken away or changes its meaning
  kept      whether every point of the promise held
  source    from, files, dirs, links, bytes; skipped: how many entries, by
            reason; stopped: why reading ended early, or null
  reach     mode (`mount` or `in-process`), why; mounted_on (or null);
            recovered: whether a dead mount was cleared away there
  holders   who, pid (or null), holds, expected, got (null: nothing),
            as_expected, after_micros; linux (null without --kernel): holds
            (`.` is the group itself), got, after_micros, still_asleep,
            why_not: why there is nothing like it, and null else
  owner     drivers, drivers_back; opens, releases, frees,
            frees_before_close; sever_micros, remove_micros, driver_micros
            (when the driver left that was inside); stuck_on: what the
            removal waited for (operation, name, pid)
  promise   point (1 to 6), says, held, seen
  linux     null without --kernel; release, group, remove_micros
  Names are escaped where they could steer a terminal.

Signals:
  SIGINT and SIGTERM end the holders, unmount, and remove the group of cgroup2;
  a second one kills at once.
  Whatever way it ends, holders end too, and nothing is left in a directory of
  its own. A dead mount on the directory of --mount is cleared away when that
  is used again.

Exit status:
  0    every point of the promise held
  1    some point did not hold, or the demo could not be finished
  2    wrong usage, a directory that cannot be served or mounted on, or no
       cgroup2 for --kernel
  130  stopped by SIGINT
  143  stopped by SIGTERM
";

/// How long a demo may take; usually it takes less than a second.
const DEADLINE: Duration = Duration::from_secs(40);

impl DemoArgs {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let Self { from, mount, in_process, kernel, json, pause } = self;
        let wanted = match mount {
            Some(dir) => Wanted::MountOn(dir),
            None if in_process => Wanted::InProcess,
            None => Wanted::MountIfPossible,
        };
        let options = Options { from, wanted, beside_linux: kernel, pause };
        let report = demonstrate(options)?;
        terminal::print(&if json {
            report.to_json()?
        } else {
            report.to_tables(terminal::width())
        })?;
        Ok(exit_code(&report))
    }
}

/// Runs the demo, and clears away what belongs to it, however it ended.
fn demonstrate(options: Options) -> Result<Report> {
    let (belongings, patience) = (Arc::new(Belongings::default()), Patience::default());
    let report = {
        let belongings = Arc::clone(&belongings);
        watchdog::within(
            DEADLINE,
            |stop| patience.listen(stop),
            move |stage| super::run(&options, &belongings, stage),
        )
    };
    let cleared = belongings.clear();
    patience.end();
    match (report, cleared) {
        (Ok(report), Ok(())) => Ok(report),
        (Ok(_), Err(error)) => Err(error),
        (Err(error), Ok(())) => Err(error),
        (Err(error), Err(left)) => {
            eprintln!("kernfs: {left:#}");
            Err(error)
        }
    }
}

fn exit_code(report: &Report) -> ExitCode {
    if report.kept { ExitCode::SUCCESS } else { ExitCode::from(FAILED) }
}
