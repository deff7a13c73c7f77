//! `kernfs drill`: a scenario is played while a command runs against the mount.

// In the order in which to read them.
pub(crate) mod command;

mod scenario;

mod shipped;

mod ground;

mod crew;

pub(crate) mod member;

mod transcript;

mod report;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::Signal;

use self::ground::Ground;
use self::report::{Played, Report, Verdict};
use self::scenario::{Scenario, Step};
use self::transcript::Transcript;
use crate::belongings::Belongings;
use crate::client::{Client, Ended, Output};
use crate::hunt::over;
use crate::hunt::trial::fill_in;
use crate::watchdog::Stage;

/// What is to be rehearsed.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) scenario: Scenario,
    /// Where the hierarchy is to be mounted; in a directory of our own if nobody says.
    pub(crate) mount: Option<PathBuf>,
    /// Where the command is to see it besides.
    pub(crate) over: Option<PathBuf>,
    /// The command, which is never empty; `{}` stands for the mounted hierarchy.
    pub(crate) command: Vec<OsString>,
    /// Where its output goes.
    pub(crate) output: Output,
    /// How the command comes to its end.
    pub(crate) end: End,
    /// How long it may take for that after the last step.
    pub(crate) grace: Duration,
}

/// How a command comes to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// By itself.
    ByItself,
    /// By SIGTERM after the last step: it is a monitor that runs on.
    Stopped,
}

/// The variable that tells the command where the hierarchy is.
const MOUNT_VARIABLE: &str = "KERNFS_MOUNT";

/// Plays a scenario while a command runs, and reports what became of the command.
///
/// # Errors
///
/// The ground cannot be laid: [`WrongUsage`](crate::wrong_usage::WrongUsage) if the directory cannot
/// be mounted on. Or the command cannot be started.
pub(crate) fn run(
    options: &Options,
    transcript: &Transcript,
    belongings: &Belongings,
    stage: &Stage,
) -> Result<Report> {
    stage.enter("laying the ground");
    let mount = match &options.mount {
        Some(dir) => dir.clone(),
        None => belongings.temporary_dir()?,
    };
    let mut ground = Ground::lay(&mount, belongings)?;
    for actions in &options.scenario.start {
        let done = ground.perform(actions);
        done.with_context(|| format!("cannot begin with group {}", actions.group))?;
    }
    transcript.introduce(options);

    stage.enter("starting the command");
    let mut command = command_at(&mount, options);
    transcript.start();
    let client = Client::start_heard(&mut command, options.output, transcript.hear())?;
    let leash = client.leash();
    belongings.release_at_end(move || leash.kill());
    transcript.started(&client);

    stage.enter("playing the scenario");
    let mut play = Play { ground: &mut ground, transcript, client: &client, played: Vec::new() };
    play.steps(&options.scenario.steps)?;
    let last = options.scenario.length();
    let asked = options.end == End::Stopped && !play.has_ended_by(client.started() + last)?;
    if asked {
        transcript.stops();
        client.signal(Signal::TERM);
    }
    let until = if asked { Instant::now() } else { client.started() + last } + options.grace;
    let played = {
        play.has_ended_by(until)?;
        play.played
    };

    stage.enter("looking at the end of the command");
    let ended: Ended = client.wait_until(until)?;
    let verdict = Verdict::of(&ended.outcome, asked);
    let report = Report::new(options, &mount, played, ended, verdict);
    transcript.ends(&report);
    Ok(report)
}

fn command_at(mount: &Path, options: &Options) -> Command {
    let words: Vec<_> = options.command.iter().map(|word| fill_in(word, mount)).collect();
    let mut command = match &options.over {
        Some(over) => over::command(mount, over, &words),
        None => {
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]);
            command
        }
    };
    command.env(MOUNT_VARIABLE, mount);
    command
}

/// A scenario while it is played.
struct Play<'a> {
    ground: &'a mut Ground,
    transcript: &'a Transcript,
    client: &'a Client,
    played: Vec<Played>,
}

/// How often the dead are buried and the progress is painted while nothing happens.
const TICK: Duration = Duration::from_millis(50);

impl Play<'_> {
    /// Plays the steps that are due before the command ends.
    fn steps(&mut self, steps: &[Step]) -> Result<()> {
        let mut left: VecDeque<_> = steps.iter().enumerate().collect();
        while let Some((index, step)) = left.pop_front() {
            self.transcript.awaits(Some((index, step)));
            if self.has_ended_by(self.client.started() + step.at)? {
                break;
            }
            let held = self.ground.open_files();
            let begun = self.client.started().elapsed();
            let error = self.ground.perform(&step.actions).err();
            let took = self.client.started().elapsed() - begun;
            let error = error.map(|error| format!("{error:#}"));
            let played = Played::new(index, step, begun, took, held, error);
            self.transcript.step(&played);
            self.played.push(played);
        }
        self.transcript.awaits(None);
        Ok(())
    }

    /// Waits until the command has ended, or until then; tells whether it has.
    fn has_ended_by(&mut self, until: Instant) -> Result<bool> {
        loop {
            let tick = (Instant::now() + TICK).min(until);
            if self.client.has_ended_by(tick).context("cannot wait for the command")? {
                return Ok(true);
            }
            if Instant::now() >= until {
                return Ok(false);
            }
            self.ground.bury();
            self.transcript.tick();
        }
    }
}
