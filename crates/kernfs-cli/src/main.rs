//! The `kernfs` command.

#![forbid(unsafe_code)]

// In the order in which to read them.
mod demo;

mod mount;

mod record;

mod hunt;

mod drill;

mod client;

mod wrong_usage;

mod terminal;

mod belongings;

mod sweep;

mod watchdog;

mod signals;

mod printable;

use std::process::ExitCode;

use anyhow::{Error, Result};
use clap::{Parser, Subcommand};

use crate::demo::command::DemoArgs;
use crate::demo::process::HolderArgs;
use crate::drill::command::DrillArgs;
use crate::drill::member::MemberArgs;
use crate::hunt::command::{HuntArgs, UNFINISHED, Unfinished};
use crate::hunt::over::OverArgs;
use crate::mount::MountArgs;
use crate::record::RecordArgs;
use crate::signals::Stopped;
use crate::sweep::SweepArgs;
use crate::wrong_usage::WrongUsage;

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
    Record(RecordArgs),
    Mount(MountArgs),
    Hunt(HuntArgs),
    Drill(DrillArgs),
    #[command(hide = true)]
    Holder(HolderArgs),
    #[command(hide = true)]
    Over(OverArgs),
    #[command(hide = true)]
    Member(MemberArgs),
    #[command(hide = true)]
    Sweep(SweepArgs),
}

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("kernfs: {error:#}");
            failure(&error)
        }
    }
}

/// The exit status when something else is wrong than what was asked for.
const FAILED: u8 = 1;
/// The exit status when what was asked for cannot be.
const USAGE: u8 = 2;

fn failure(error: &Error) -> ExitCode {
    if let Some(stopped) = error.downcast_ref::<Stopped>() {
        return ExitCode::from(stopped.exit_status());
    }
    ExitCode::from(match error {
        _ if error.is::<WrongUsage>() => USAGE,
        _ if error.is::<Unfinished>() => UNFINISHED,
        _ => FAILED,
    })
}

impl Cli {
    fn run(self) -> Result<ExitCode> {
        match self.command {
            Command::Demo(args) => args.run(),
            Command::Record(args) => args.run(),
            Command::Mount(args) => args.run(),
            Command::Hunt(args) => args.run(),
            Command::Drill(args) => args.run(),
            Command::Member(args) => {
                args.run();
                Ok(ExitCode::SUCCESS)
            }
            Command::Holder(args) => args.run().map(|()| ExitCode::SUCCESS),
            Command::Over(args) => args.run(),
            Command::Sweep(args) => args.run().map(|()| ExitCode::SUCCESS),
        }
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
