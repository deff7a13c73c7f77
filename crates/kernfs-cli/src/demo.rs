//! `kernfs demo`: a tree is taken away from all who hold it, and the promise is held to account.

// In the order in which to read them.
pub(crate) mod command;

mod source;

mod moment;

mod ledger;

mod device;

mod role;

mod answer;

mod line;

mod ground;

mod in_process;

pub(crate) mod process;

mod asleep;

mod holder;

mod linux;

mod reach;

mod promise;

mod report;

pub(crate) mod table;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kernfs::{Caller, Draining, Errno, Mode, Stuck, Tree};

use self::answer::Answer;
use self::device::{DEVICE, Device, Drivers, EVENTS, Events};
use self::ground::Ground;
use self::holder::Holder;
use self::ledger::{Balance, Ledger};
use self::line::Command;
use self::linux::Linux;
use self::moment::Moment;
use self::reach::{Reach, Wanted};
use self::report::Report;
use self::role::{Phase, Role};
use self::source::Source;
use crate::belongings::Belongings;
use crate::watchdog::Stage;
use crate::wrong_usage::WrongUsage;

/// What to demonstrate.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The directory to copy.
    pub(crate) from: Option<PathBuf>,
    /// How holders are to reach the copy.
    pub(crate) wanted: Wanted,
    /// Have the same holders meet a removal by Linux's own kernfs.
    pub(crate) beside_linux: bool,
    /// Stop when everybody holds, until a signal comes; for tests.
    pub(crate) pause: bool,
}

/// How long everybody may take to take hold.
const HOLD_LIMIT: Duration = Duration::from_secs(10);
/// How long a holder may take to answer once the tree was severed; one that takes longer was not
/// let go.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// How long a removal may take: far more than the one driver that takes its time.
const REMOVE_LIMIT: Duration = Duration::from_secs(10);

/// Serves a copy of a directory, severs it while it is held, and reports what happened.
///
/// # Errors
///
/// [`WrongUsage`] if the directories cannot be used, or Linux's own kernfs; or the demo could not
/// be finished. That the promise did not hold is no error but in the report.
pub(crate) fn run(options: &Options, belongings: &Belongings, stage: &Stage) -> Result<Report> {
    stage.enter("reading the directory");
    let source = match &options.from {
        Some(dir) => Source::read(dir).map_err(WrongUsage::from_error)?,
        None => Source::default_input(),
    };
    let (copied, root) = (source.summary(), source.root.clone());
    let device = Device::serve(source).context("cannot serve the copy")?;

    let slow = Arc::clone(device.slow());
    belongings.release_at_end(move || slow.severing.open());

    let mut linux = options.beside_linux.then(|| Linux::open(belongings)).transpose()?;
    stage.enter("mounting");
    let reach = Reach::open(&device.tree, &options.wanted, root.as_deref(), belongings)?;

    stage.enter("waiting for holders to take hold");
    let ground = ground(&device, &reach)?;
    let mut holders = take_hold(&device, &ground, &reach, belongings)?;
    if let Some(linux) = &mut linux {
        linux.take_hold(reach.roles(), HOLD_LIMIT, belongings)?;
    }
    if options.pause {
        stage.enter("pausing");
        pause();
    }

    stage.enter("waiting for the removal");
    let (removal, tree, events) = sever(device, &ground, &mut holders)?;

    stage.enter("asking the holders");
    let rows = ask(&holders, &removal, belongings);
    let dead_after = dead(&mut holders, Phase::Gone, belongings).len();

    stage.enter("serving the same names again");
    let reuse = reuse_names(&tree, events, &mut holders, belongings)?;

    stage.enter("closing what the holders hold");
    let until = Instant::now() + ANSWER_LIMIT;
    holders.into_iter().for_each(|holder| holder.close(until));
    let (end, left_open) = balance_once_closed(&tree, &removal.ledger, until);
    let facts = Facts { removal, dead_after, reuse, end, left_open };

    stage.enter("waiting for Linux's own removal");
    let linux = linux.map(|linux| linux.remove(belongings)).transpose()?;
    Ok(Report::new(copied, reach, rows, &facts, linux))
}

/// All that was observed, to be held against the promise.
pub(crate) struct Facts {
    removal: Removal,
    /// How many holders are still refused after the removal.
    dead_after: usize,
    reuse: Reuse,
    /// The ledger after everything was closed.
    end: Balance,
    /// Open files of the tree after everything was closed.
    left_open: usize,
}

/// A removal and the state of affairs at the moment when it returned.
pub(crate) struct Removal {
    begun: Moment,
    /// How long `sever` took.
    severed: Duration,
    /// How long all of it took.
    removed: Duration,
    /// How long after its begin the driver that was inside left.
    driver_left: Option<Duration>,
    /// What it waited for.
    stuck_on: Vec<Stuck>,
    /// The bytes that were left of the half-read text.
    rest: usize,
    /// Open files that nobody had closed.
    held: usize,
    ledger: Arc<Ledger>,
    balance: Balance,
    drivers_back: usize,
    drivers: usize,
}

/// What became of old descriptors when their names lived again.
pub(crate) struct Reuse {
    /// The driver served who came by its name, and came back once more.
    served: bool,
    /// How many of the others are still refused, though the names are back.
    dead: usize,
    /// A file that was hidden and shown again stayed dead for who had it open.
    dead_when_shown: bool,
}

/// A line of the table of holders.
pub(crate) struct Row {
    role: Role,
    pid: Option<u32>,
    holds: PathBuf,
    expected: Answer,
    /// What it got, and how long after the removal had begun.
    got: Option<(Answer, Duration)>,
}

impl Row {
    fn is_as_expected(&self) -> bool {
        self.got.as_ref().is_some_and(|(got, _)| *got == self.expected)
    }
}

/// Chooses what is held: of one text, the first half is read.
fn ground(device: &Device, reach: &Reach) -> Result<Ground> {
    let (text, len) = device.divisible_text().context("no text that can be read by halves")?;
    Ok(Ground {
        client: device.tree.client(Caller::new(0, 0, std::process::id())),
        device: DEVICE.into(),
        mount: reach.mounted_on.as_ref().map(|dir| dir.join(DEVICE)),
        text,
        half: len / 2,
    })
}

/// Lets everybody take hold, and returns when all have.
fn take_hold(
    device: &Device,
    ground: &Ground,
    reach: &Reach,
    belongings: &Belongings,
) -> Result<Vec<Holder>> {
    let roles = reach.roles().iter();
    let holders = roles.map(|&(role, place)| Holder::start(role, place, ground, belongings));
    let mut holders = holders.collect::<Result<Vec<_>>>()?;
    for holder in &mut holders {
        holder.wait_until_it_holds(HOLD_LIMIT)?;
    }
    ensure!(device.slow().inside.wait(HOLD_LIMIT), "no reader came to the slow driver in time");
    if reach.mounted_on.is_some() {
        let blocked = eventually(HOLD_LIMIT, || belongings.parked_requests() > 0);
        ensure!(blocked, "no read was blocked in the mount in time");
    }
    Ok(holders)
}

/// Waits for what nobody tells of; says whether it came true in time.
fn eventually(limit: Duration, mut is_true: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + limit;
    loop {
        if is_true() {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        thread::sleep(Duration::from_micros(500));
    }
}

/// Says so, and waits for a signal, or for the deadline of all.
fn pause() {
    eprintln!("paused");
    loop {
        thread::park();
    }
}

/// Takes the device away from everybody; returns what is left with the owner.
fn sever(
    device: Device,
    ground: &Ground,
    holders: &mut [Holder],
) -> Result<(Removal, Tree, Option<Events>)> {
    let (ledger, slow) = (Arc::clone(&device.ledger), Arc::clone(device.slow()));
    let rest = device.rendered_len(&ground.text).saturating_sub(ground.half);
    let begun = Moment::now();
    let (tree, files, draining) = device.sever();
    let severed = Moment::now().since(begun);

    let stuck_on = draining.stuck_on();
    slow.severing.open();
    let (mut late, mut there): (Vec<_>, Vec<_>) =
        holders.iter_mut().partition(|holder| holder.role.looks_late());
    there.iter_mut().for_each(|holder| holder.look());
    drain(draining)?;
    let removed = Moment::now().since(begun);
    let balance = ledger.balance();
    let held = tree.usage().open_files;
    ledger.close();
    late.iter_mut().for_each(|holder| holder.look());

    let Drivers { events, back, all } = files.into_drivers();
    let removal = Removal {
        begun,
        severed,
        removed,
        driver_left: slow.left().map(|left| left.since(begun)),
        stuck_on,
        rest,
        held,
        ledger,
        balance,
        drivers_back: back,
        drivers: all,
    };
    Ok((removal, tree, events))
}

/// Waits for a removal; one that waits for ever says what for.
fn drain(draining: Draining) -> Result<()> {
    draining.wait_timeout(REMOVE_LIMIT).context("the removal did not come to its end")
}

/// Asks everybody what they got.
fn ask(holders: &[Holder], removal: &Removal, belongings: &Belongings) -> Vec<Row> {
    let until = Instant::now() + ANSWER_LIMIT;
    let row = |holder: &Holder| Row {
        role: holder.role,
        pid: holder.pid,
        holds: holder.holds.clone(),
        expected: holder.role.expected(removal.rest),
        got: holder.got(until, belongings).map(|(answer, at)| (answer, at.since(removal.begun))),
    };
    holders.iter().map(row).collect()
}

/// Lets everybody try again to whom something is promised, and returns those who got what they
/// ought to: as a rule, nothing.
fn dead(holders: &mut [Holder], phase: Phase, belongings: &Belongings) -> Vec<Role> {
    // All before the first answer, for one that sleeps on uses the time of all up.
    holders.iter_mut().for_each(|holder| holder.ask(Command::Afresh));
    let until = Instant::now() + ANSWER_LIMIT;
    let as_expected = |holder: &&Holder| {
        holder.got_again(until, belongings) == Some(holder.role.expected_again(phase))
    };
    let promised = holders.iter().filter(|holder| !holder.role.is_best_effort());
    promised.filter(as_expected).map(|holder| holder.role).collect()
}

/// Lets the driver that came back serve its old name again, with books of its own.
fn reuse_names(
    tree: &Tree,
    events: Option<Events>,
    holders: &mut [Holder],
    belongings: &Belongings,
) -> Result<Reuse> {
    let Some(events) = events else {
        return Ok(Reuse { served: false, dead: 0, dead_when_shown: false });
    };
    let events = events.with_ledger(&Arc::default());
    let dir = tree.root().add_dir(DEVICE, Mode::DIR)?;
    let file = dir.add_file(EVENTS, Mode::RO, events)?;
    let (served, dead): (Vec<_>, Vec<_>) =
        dead(holders, Phase::Reused, belongings).into_iter().partition(|role| role.comes_late());

    // Who came late has it open now.
    let refused: Answer = Errno::ENODEV.into();
    drain(file.hide())?;
    let mut ask_latecomer = |command| ask_latecomer(holders, command, belongings);
    let dead_when_hidden = ask_latecomer(Command::Again).as_ref() == Some(&refused);
    file.show();
    let dead_when_shown = ask_latecomer(Command::Again).as_ref() == Some(&refused);
    let opened_again = ask_latecomer(Command::Afresh);
    let served_again = opened_again == Some(Role::Latecomer.expected_again(Phase::Reused));
    let _events: Events = match file.sever().wait_timeout(REMOVE_LIMIT) {
        Ok(driver) => driver,
        Err(error) => bail!("the second removal did not come to its end: {error}"),
    };
    Ok(Reuse {
        served: !served.is_empty() && served_again,
        dead: dead.len(),
        dead_when_shown: dead_when_hidden && dead_when_shown,
    })
}

fn ask_latecomer(
    holders: &mut [Holder],
    command: Command,
    belongings: &Belongings,
) -> Option<Answer> {
    let latecomer = holders.iter_mut().find(|holder| holder.role.comes_late())?;
    latecomer.ask(command);
    latecomer.got_again(Instant::now() + ANSWER_LIMIT, belongings)
}

/// Returns how things stand when all is closed, and how many files are still open.
///
/// The kernel tells of a last close some time after it.
fn balance_once_closed(tree: &Tree, ledger: &Ledger, until: Instant) -> (Balance, usize) {
    let is_closed = || {
        let balance = ledger.balance();
        tree.usage().open_files == 0 && balance.freed_once == balance.opens
    };
    eventually(until.saturating_duration_since(Instant::now()), is_closed);
    (ledger.balance(), tree.usage().open_files)
}
