//! The `kernfs` command.

#![forbid(unsafe_code)]

// In the order in which to read them.
mod demo;

mod printable;

mod watchdog;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::demo::report::Report;
use crate::demo::source::WrongInput;

/// Serves trees of files, and takes them back while others hold them.
#[derive(Debug, Parser)]
#[command(name = "kernfs", version, disable_help_subcommand = true, max_term_width = 80)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(DemoArgs),
}

/// Takes a live copy of a directory away from all who hold it.
///
/// Serves a copy of a real directory, with an event file and a mappable file beside it, to
/// holders that read, sleep, map and list. Severs all of it while they hold on, and shows what
/// each of them got, when, what the owner got back, and whether the promise held.
#[derive(Args, Debug)]
#[command(after_long_help = AFTER_HELP)]
struct DemoArgs {
    /// The directory to copy; it is only read [default: a part of /sys that can be read, else
    /// /proc/sys, else the program's own source]
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,

    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
}

const AFTER_HELP: &str = "\
Examples:
  kernfs demo
  kernfs demo --from /sys/class
  kernfs demo --json | jq '.promise[] | select(.held | not)'

Output:
  The first table has a line for each holder: what it held, what it was to
  get, what it got, and how long after the call of `sever` began. Events are
  those of poll(2). `9 B, ENODEV` are 9 bytes that had been rendered before,
  and then the error; `end, ENOENT` is the end of a listing, and what looking
  up a child gives.

JSON:
  version   1; goes up when a field is taken away or changes its meaning
  kept      whether every point of the promise held
  source    from, files, dirs, links, bytes; skipped: how many entries, by
            reason; stopped: why reading ended early, or null
  holders   who, holds, expected, got (null: nothing), as_expected,
            after_micros
  owner     drivers, drivers_back; opens, releases, frees,
            frees_before_close; sever_micros, remove_micros, driver_micros
            (when the driver left that was inside); stuck_on: what the
            removal waited for (operation, name, pid)
  promise   point (1 to 6), says, held, seen
  Names are escaped where they could steer a terminal.

Exit status:
  0  every point of the promise held
  1  some point did not hold, or the demo could not be finished
  2  wrong usage, or a directory that cannot be served
";

/// How long a demo may take; usually it takes less than a second.
const DEADLINE: Duration = Duration::from_secs(40);

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("kernfs: {error:#}");
            let usage = error.is::<WrongInput>();
            ExitCode::from(if usage { USAGE } else { FAILED })
        }
    }
}

const FAILED: u8 = 1;
const USAGE: u8 = 2;

impl Cli {
    fn run(self) -> Result<ExitCode> {
        match self.command {
            Command::Demo(args) => args.run(),
        }
    }
}

impl DemoArgs {
    fn run(self) -> Result<ExitCode> {
        let Self { from, json } = self;
        let report = watchdog::within(DEADLINE, move |stage| demo::run(from.as_deref(), stage))?;
        print(&if json { report.to_json()? } else { report.to_tables() })?;
        Ok(exit_code(&report))
    }
}

fn exit_code(report: &Report) -> ExitCode {
    if report.kept { ExitCode::SUCCESS } else { ExitCode::from(FAILED) }
}

/// Prints to stdout, in colour only if that is a terminal which wants it.
fn print(text: &str) -> Result<()> {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever read has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => Ok(printed?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
