//! Raises a storm on a mount, and tells whether it was weathered.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Parser, Subcommand};
use kernfs_tests::storm::{Options, client, storm};

/// Raises a storm on a mount, and tells whether it was weathered.
///
/// Processes do everything at once, at random, while owners do as they like and clients are killed.
/// Exits with 0 if there were no answers but the expected ones, no hang, and nothing left over;
/// with 1 if there were; with 2 if there can be no storm here; with 3 if something hung, after
/// telling where.
#[derive(Debug, Parser)]
struct Cli {
    /// How long the weather stays bad
    #[arg(long, default_value_t = 60)]
    seconds: u64,

    /// What the random numbers start from [default: the time]
    #[arg(long)]
    seed: Option<u64>,

    /// How many processes there are at a time
    #[arg(long, default_value_t = 8)]
    clients: usize,

    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Plays one of the clients
    #[command(hide = true)]
    Client {
        /// The mount, and a seed
        args: Vec<String>,
    },
}

fn main() -> ExitCode {
    let Cli { seconds, seed, clients, part } = Cli::parse();
    if let Some(Part::Client { args }) = part {
        return match client(&args) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => refuse(&error),
        };
    }
    let program = std::env::current_exe().map(PathBuf::into_os_string);
    let Ok(Ok(program)) = program.map(std::ffi::OsString::into_string) else {
        return refuse("the path of this program is not to be had");
    };
    let seed = seed.unwrap_or_else(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    });
    let options = Options { duration: Duration::from_secs(seconds), seed, clients };
    match storm(options, &[program, "client".into()]) {
        Ok(aftermath) => {
            println!("{aftermath}");
            if aftermath.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(why) => refuse(&why),
    }
}

fn refuse(why: &str) -> ExitCode {
    eprintln!("no storm: {why}");
    ExitCode::from(2)
}
