//! `kernfs demo`: a tree is taken away from all who hold it, and the promise is held to account.

// In the order in which to read them.
pub(crate) mod source;

mod ledger;

mod device;

mod holders;

mod promise;

pub(crate) mod report;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kernfs::{Caller, Client, Draining, Errno, Mode, OpenFlags, Stuck, Tree};

use self::device::{DEVICE, Device, Drivers, EVENTS, Events, FIRST_EVENT};
use self::holders::{Answer, Ground, Holder, Role};
use self::ledger::{Balance, Ledger};
use self::report::Report;
use self::source::Source;
use crate::watchdog::Stage;

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
/// [`WrongInput`](source::WrongInput); or the demo could not be finished. That the promise did not
/// hold is no error but in the report.
pub(crate) fn run(from: Option<&Path>, stage: &Stage) -> Result<Report> {
    stage.enter("reading the directory");
    let source = match from {
        Some(dir) => Source::read(dir)?,
        None => Source::default_input(),
    };
    let copied = source.summary();
    let device = Device::serve(source).context("cannot serve the copy")?;

    stage.enter("waiting for holders to take hold");
    let client = device.tree.client(Caller::new(0, 0, std::process::id()));
    let ground = ground(&device, &client)?;
    let holders = take_hold(&device, &ground)?;

    stage.enter("waiting for the removal");
    let (removal, tree, events) = sever(device, &ground, &holders)?;

    stage.enter("asking the holders");
    let rows = ask(&holders, &removal);
    let dead_after = dead_descriptors(&holders);

    stage.enter("serving the same names again");
    let reuse = reuse_names(&tree, &client, events, &holders)?;

    stage.enter("closing what the holders hold");
    let until = Instant::now() + ANSWER_LIMIT;
    holders.into_iter().for_each(|holder| holder.close(until));
    let end = removal.ledger.balance();
    let left_open = tree.usage().open_files;
    Ok(Report::new(copied, rows, &Facts { removal, dead_after, reuse, end, left_open }))
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
    begun: Instant,
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
    /// The driver served new clients, and came back once more.
    served: bool,
    /// How many holders are still refused, though the names are back.
    dead: usize,
    /// A file that was hidden and shown again stayed dead for who had it open.
    dead_when_shown: bool,
}

/// A line of the table of holders.
pub(crate) struct Row {
    role: Role,
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
fn ground(device: &Device, client: &Client) -> Result<Ground> {
    let (text, len) = device.divisible_text().context("no text that can be read by halves")?;
    Ok(Ground { client: client.clone(), device: DEVICE.into(), text, half: len / 2 })
}

/// Lets everybody take hold, and returns when all have.
fn take_hold(device: &Device, ground: &Ground) -> Result<Vec<Holder>> {
    let holders = Role::ALL.into_iter().map(|role| Holder::start(role, ground));
    let holders = holders.collect::<Result<Vec<_>>>()?;
    for holder in &holders {
        holder.wait_until_it_holds(HOLD_LIMIT)?;
    }
    ensure!(device.slow().inside.wait(HOLD_LIMIT), "no reader came to the slow driver in time");
    Ok(holders)
}

/// Takes the device away from everybody; returns what is left with the owner.
fn sever(
    device: Device,
    ground: &Ground,
    holders: &[Holder],
) -> Result<(Removal, Tree, Option<Events>)> {
    let (ledger, slow) = (Arc::clone(&device.ledger), Arc::clone(device.slow()));
    let rest = device.rendered_len(&ground.text).saturating_sub(ground.half);
    let begun = Instant::now();
    let (tree, files, draining) = device.sever();
    let severed = begun.elapsed();

    let stuck_on = draining.stuck_on();
    slow.severing.open();
    holders.iter().for_each(Holder::look);
    drain(draining)?;
    let removed = begun.elapsed();
    let balance = ledger.balance();
    ledger.close();

    let held = tree.usage().open_files;
    let Drivers { events, back, all } = files.into_drivers();
    let removal = Removal {
        begun,
        severed,
        removed,
        driver_left: slow.left().map(|left| left.duration_since(begun)),
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
fn ask(holders: &[Holder], removal: &Removal) -> Vec<Row> {
    let until = Instant::now() + ANSWER_LIMIT;
    let row = |holder: &Holder| Row {
        role: holder.role,
        holds: holder.holds.clone(),
        expected: holder.role.expected(removal.rest),
        got: holder.got(until).map(|(answer, at)| (answer, at.duration_since(removal.begun))),
    };
    holders.iter().map(row).collect()
}

/// Lets everybody try again, and returns how many are refused as they ought to be.
fn dead_descriptors(holders: &[Holder]) -> usize {
    // All before the first answer, for one that sleeps on uses the time of all up.
    holders.iter().for_each(Holder::ask_again);
    let until = Instant::now() + ANSWER_LIMIT;
    let refused = |holder: &&Holder| {
        holder.got_again(until).is_some_and(|answer| answer == holder.role.expected_again())
    };
    holders.iter().filter(refused).count()
}

/// Lets the driver that came back serve its old name again, with books of its own.
fn reuse_names(
    tree: &Tree,
    client: &Client,
    events: Option<Events>,
    holders: &[Holder],
) -> Result<Reuse> {
    let Some(events) = events else {
        return Ok(Reuse { served: false, dead: 0, dead_when_shown: false });
    };
    let events = events.with_ledger(&Arc::default());
    let dir = tree.root().add_dir(DEVICE, Mode::DIR)?;
    let file = dir.add_file(EVENTS, Mode::RO, events)?;
    let path = format!("/{DEVICE}/{EVENTS}");
    let open = || client.open(&path, OpenFlags::READ);
    let reader = open()?;
    let served = reader.read_to_vec()? == FIRST_EVENT;
    let dead = dead_descriptors(holders);

    drain(file.hide())?;
    file.show();
    let dead_when_shown = reader.read_to_vec() == Err(Errno::ENODEV);
    let served_again = open()?.read_to_vec()? == FIRST_EVENT;
    let _events: Events = match file.sever().wait_timeout(REMOVE_LIMIT) {
        Ok(driver) => driver,
        Err(error) => bail!("the second removal did not come to its end: {error}"),
    };
    Ok(Reuse { served: served && served_again, dead, dead_when_shown })
}
