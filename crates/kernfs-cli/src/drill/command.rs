//! The command line of `kernfs drill`.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use super::report::Report;
use super::scenario::Scenario;
use super::shipped;
use super::transcript::{Transcript, Volume};
use super::{End, Options};
use crate::FAILED;
use crate::belongings::Belongings;
use crate::client::Output;
use crate::printable::printable;
use crate::signals::Patience;
use crate::wrong_usage::WrongUsage;
use crate::{terminal, watchdog};

/// Plays a scenario of pressure and vanishing groups while a command runs.
///
/// Mounts a hierarchy that looks like cgroup v2, starts the command, lets happen to the groups what
/// the scenario says, when it says so, and reports what became of the command: how it ended, when,
/// after which step, and where it hung.
#[derive(Args, Debug)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct DrillArgs {
    /// The file of a scenario, or the name of one that comes along
    #[arg(required_unless_present = "list")]
    scenario: Option<PathBuf>,

    /// The directory to mount on [default: a new one, which only this user can enter]
    #[arg(long, value_name = "DIR")]
    mount: Option<PathBuf>,

    /// Let the command, and nobody else, see the hierarchy at this directory too
    #[arg(long, value_name = "DIR")]
    over: Option<PathBuf>,

    /// The command is a monitor that runs on: ends it by SIGTERM after the last step
    #[arg(long)]
    stop: bool,

    /// How long the command may take to end after the last step [default: what the scenario says,
    /// else 10s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    grace: Option<Duration>,

    /// Print a JSON object instead of lines, or write it to a file beside them
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    json: Option<Option<PathBuf>>,

    /// Let what the command prints through as it is, instead of showing it line by line
    #[arg(long)]
    raw: bool,

    /// List the scenarios that come along
    #[arg(long, conflicts_with_all = ["scenario", "command"])]
    list: bool,

    /// Print the scenario instead of playing it, to make another from it
    #[arg(long, conflicts_with = "command")]
    show: bool,

    /// The command and its arguments, in which `{}` is the directory of the mount; KERNFS_MOUNT in
    /// its environment is too
    #[arg(last = true, required_unless_present_any = ["list", "show"])]
    command: Vec<OsString>,
}

const AFTER_HELP: &str = "\
Examples:
  kernfs drill --list
  kernfs drill pressure-rises --mount /mnt -- monitor /mnt/workload
  kernfs drill group-vanishes --stop -- daemon --cgroups {}
  kernfs drill group-vanishes --stop --over /sys/fs/cgroup -- daemon
  kernfs drill members-die --show >my.toml

A scenario:
  about = \"a sentence\"             # may be left out, as may all but `path`,
  grace = \"5s\"                     # `at`, `group` and one thing to do

  [[group]]                        # what there is when the command starts
  path = \"service/job\"             # groups above come first
  members = 2                      # processes that sleep, in cgroup.procs
  memory = \"64M\"                   # memory.current; K, M, G or bytes
  stall.memory = \"some 10%\"        # as in a step
  events.oom = 1                   # as in a step
  write.\"memory.max\" = \"1G\"        # as in a step

  [[step]]                         # in the order of time
  at = \"1s 500ms\"                  # since the start of the command
  group = \"service/job\"
  add = 1                          # members come
  write.\"cgroup.freeze\" = \"1\"      # written to a file of the group
  stall.cpu = \"some 30% full 5%\"   # from now on; also stall.memory, stall.io;
                                   # \"0\" ends it
  memory = \"128M\"
  events.oom_kill = 2              # memory.events: low, high, max, oom,
                                   # oom_kill, oom_group_kill
  kill = 1                         # members die; or \"all\"
  do = \"sever\"                     # make: the group comes (first of all);
                                   # remove: as by rmdir, last of all;
                                   # sever: vanishes, members or not, last
  What a step does is done in this order. A mistake is told with file, line,
  column, and what was expected.

Processes:
  The command runs in a process group of its own, with nothing on stdin; what
  it prints is shown line by line, `|` from stdout, `!` from stderr. What it
  leaves behind is killed. cgroup.freeze and cgroup.kill reach the members, and
  whatever processes the command itself puts into groups.

JSON:
  version     1; goes up when a field is taken away or changes its meaning
  ended_well  whether the exit status is 0
  scenario    name, about (or null); mount, command
  end         how: `exit` with status, `signal` with signal and core_dump, or
              `hang` with threads (pid, tid, comm, state, call with number,
              name and what it is on, wchan, stack); asked: whether it got
              SIGTERM for --stop; after_micros; after_step (or null) and
              micros_after_step: the last step before
  steps       those that were played: step, at_micros, took_micros, group,
              does, held (files of the mount that were open before), error
              (or null); steps_in_all
  stdout, stderr: the last 64 KiB of each, with --raw nothing; left: processes
              that do not end

Exit status:
  0    the command ended well: it exited with 0, or, with --stop, was there
       until it got SIGTERM and ended by that or with 0 or 143
  1    it exited with another status, crashed, or did not end in time; or the
       drill itself failed
  2    wrong usage, a mistake in the scenario, or a directory that cannot be
       mounted on
  130  stopped by SIGINT
  143  stopped by SIGTERM
";

/// How long the command may take after the last step, where nobody says.
const GRACE: Duration = Duration::from_secs(10);
/// How long everything else may take, for which seconds are plenty.
const MARGIN: Duration = Duration::from_secs(60);

impl DrillArgs {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let Self { scenario, mount, over, stop, grace, json, raw, list, show, command } = self;
        if list {
            terminal::print(&shipped::list())?;
            return Ok(ExitCode::SUCCESS);
        }
        let (name, text) = read(&scenario.unwrap_or_default())?;
        if show {
            terminal::print(&text)?;
            return Ok(ExitCode::SUCCESS);
        }
        let scenario = Scenario::parse(&name, &text)?;
        let grace = grace.or(scenario.grace).unwrap_or(GRACE);
        let end = if stop { End::Stopped } else { End::ByItself };
        let output = if raw { Output::Passed } else { Output::Captured };
        let options = Options { scenario, mount, over, command, output, end, grace };
        let volume = if json == Some(None) { Volume::Silent } else { Volume::Lines };
        let transcript = Transcript::new(volume, output);
        let report = rehearse(options, &transcript);
        transcript.clear();
        let report = report?;
        match json {
            None => {}
            Some(None) => terminal::print(&report.to_json()?)?,
            Some(Some(file)) => fs::write(&file, report.to_json()?)
                .with_context(|| format!("cannot write {}", printable(&file)))?,
        }
        Ok(if report.ended_well { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
    }
}

/// Reads a scenario, from a file or from those that come along; returns its name too.
fn read(scenario: &Path) -> Result<(String, String), WrongUsage> {
    let name = scenario.to_string_lossy().into_owned();
    // A file of the same name is meant by who made it.
    if let Some(shipped) = shipped::named(&name).filter(|_| !scenario.exists()) {
        return Ok((name, shipped.text.to_owned()));
    }
    match fs::read_to_string(scenario) {
        Ok(text) => Ok((name, text)),
        Err(error) => {
            let names = shipped::SHIPPED.map(|shipped| shipped.name).join(", ");
            Err(WrongUsage::from_error(format!(
                "cannot read {}: {error}; expected a file of TOML, or one of {names}",
                printable(scenario)
            )))
        }
    }
}

/// Plays the scenario, and clears away what belongs to it, however it ended.
fn rehearse(options: Options, transcript: &Transcript) -> Result<Report> {
    let (belongings, patience) = (Arc::new(Belongings::default()), Patience::default());
    let deadline = options.scenario.length() + options.grace + MARGIN;
    let report = {
        let (belongings, transcript) = (Arc::clone(&belongings), transcript.clone());
        watchdog::within(
            deadline,
            |stop| patience.listen(stop),
            move |stage| super::run(&options, &transcript, &belongings, stage),
        )
    };
    let cleared = belongings.clear();
    patience.end();
    match (report, cleared) {
        (Ok(report), Ok(())) => Ok(report),
        (Ok(_), Err(error)) | (Err(error), Ok(())) => Err(error),
        (Err(error), Err(left)) => {
            eprintln!("kernfs: {left:#}");
            Err(error)
        }
    }
}
