//! A storm: client processes do everything at once, at random, to a mount whose owners do as they
//! like, and are killed while they do.
//!
//! It is over when its time is, and good if every operation got one of the answers that the table in
//! `operations.rs` allows it, nobody hung, and nothing is left over: as many releases and frees as
//! opens, no driver, no node, nothing that the kernel has looked up, no mount and no process.
//!
//! ```text
//! conductor   starts, kills and replaces clients; has a limit for everything
//! owners      threads of this process: add, hide, show, rename, notify, remove
//! clients     processes of this program, each with a second thread that sleeps in the kernel
//! ```

// In the order in which to read them.
mod client;

mod operations;

mod tally;

mod crew;

mod owner;

mod drivers;

mod ledger;

mod hang;

mod random;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use kernfs::Tree;
use kernfs_fuse::{Mount, MountOptions};

pub use self::client::client;

use self::crew::Crew;
use self::drivers::Free;
use self::hang::{LIMIT, Pulse, Watch};
use self::ledger::{Balance, Ledger};
use self::owner::{DIRS, FILES, Owner, Work};
use self::random::Random;
use self::tally::Tally;

/// How a storm is to be.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long the weather stays bad.
    pub duration: Duration,
    /// What the random numbers start from; owners and clients draw the same ones for the same seed,
    /// though not at the same times.
    pub seed: u64,
    /// How many processes there are at a time.
    pub clients: usize,
}

/// Owners at a time: two, so that they meet each other too.
const OWNERS: u64 = 2;

/// Raises a storm on a mount of its own, and tells what became of everything.
///
/// `program` starts a client: the path of an executable that calls [`client`] with the arguments
/// that it gets after these.
///
/// # Errors
///
/// Why there can be no storm here.
pub fn storm(options: Options, program: &[String]) -> Result<Aftermath, String> {
    let place = Place::new()?;
    let ledger = Arc::new(Ledger::default());
    let tree = Tree::builder().dir_ops(Free(Arc::clone(&ledger))).build();
    // The other process ends what this one cannot, if it is killed itself.
    let mounting = MountOptions::new().fsname("kernfs-storm").watchdog(LIMIT * 2);
    let mount = mounting.mount(&tree, &place.0);
    let mount = mount.map_err(|error| format!("it cannot be mounted here: {error}"))?;
    let watch = Watch::start(&place.0);
    let mut faults = Vec::new();

    let crew = Crew::new(program, &place.0, options, watch.crew());
    let over = AtomicBool::new(false);
    let (work, crew) = thread::scope(|scope| {
        let owners = (0..OWNERS).map(|n| {
            let random = Random::new(options.seed.wrapping_add(n));
            let owner = Owner::new(&tree, &ledger, random, watch.pulse(format!("owner {n}")));
            let over = &over;
            scope.spawn(move || owner.work_until(over))
        });
        let owners: Vec<_> = owners.collect();
        let crew = conduct(crew, options, &watch.pulse("conductor"));
        over.store(true, SeqCst);
        let owners = owners.into_iter().map(|owner| match owner.join() {
            Ok(work) => work,
            Err(_) => Work::panicked(),
        });
        (owners.fold(Work::default(), Work::and), crew)
    });
    let pulse = watch.pulse("what comes after the storm");
    let tally = settle(crew, &tree, &pulse, &mut faults);
    faults.extend(work.faults.iter().cloned());
    faults.extend(tally.faults.iter().cloned());
    look_for_names(&place.0, &mut faults);
    look_for_leftovers(&tree, &mount, &ledger, &pulse, &mut faults);
    if let Err(error) = mount.unmount() {
        faults.push(format!("not unmounted: {error}"));
    }
    drop(watch);
    faults.extend(place.leftovers());
    let balance = ledger.balance();
    if faults.is_empty() && (balance.opens == 0 || tally.killed == 0) {
        faults.push("this was no storm: nothing was opened, or nobody killed".into());
    }
    Ok(Aftermath { options, work, tally, balance, faults })
}

/// Starts everybody, and kills and replaces somebody now and then, until the time is over.
fn conduct(mut crew: Crew, options: Options, pulse: &Pulse) -> Crew {
    let mut random = Random::new(!options.seed);
    let until = Instant::now() + options.duration;
    crew.man();
    while Instant::now() < until && crew.is_well() {
        pulse.beat();
        thread::sleep(Duration::from_millis(random.between(5, 100)));
        crew.kill_one(&mut random);
        crew.man();
    }
    crew
}

/// Has clients end by themselves: whatever they sleep on is taken away.
fn settle(mut crew: Crew, tree: &Tree, pulse: &Pulse, faults: &mut Vec<String>) -> Tally {
    crew.end();
    let until = Instant::now() + LIMIT;
    while !crew.has_ended() && Instant::now() < until {
        pulse.beat();
        clear(tree, faults);
        thread::sleep(Duration::from_millis(5));
    }
    crew.tally()
}

/// Takes away all that is left of the tree, also what clients have made.
fn clear(tree: &Tree, faults: &mut Vec<String>) {
    for name in DIRS.into_iter().chain(FILES) {
        if let Ok(removal) = tree.root().sever_child(name)
            && let Err(error) = removal.wait_timeout(LIMIT)
        {
            faults.push(format!("the last removal of {name}: {error}"));
        }
    }
}

/// Looks for names that the kernel still has, though nothing is left in the tree.
fn look_for_names(root: &Path, faults: &mut Vec<String>) {
    let tops = DIRS.into_iter().chain(FILES).map(|top| root.join(top));
    let below = DIRS.into_iter().flat_map(|dir| FILES.map(|file| root.join(dir).join(file)));
    for path in tops.chain(below) {
        if path.symlink_metadata().is_ok() {
            faults.push(format!("{} is still found", path.display()));
        }
    }
    match fs::read_dir(root).map(Iterator::count) {
        Ok(0) => {}
        listed => faults.push(format!("the empty tree is listed as {listed:?}")),
    }
}

const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";

fn look_for_leftovers(
    tree: &Tree,
    mount: &Mount,
    ledger: &Ledger,
    pulse: &Pulse,
    faults: &mut Vec<String>,
) {
    let mut eventually = |what: &str, is_so: &mut dyn FnMut() -> bool| {
        let until = Instant::now() + LIMIT;
        while !is_so() {
            pulse.beat();
            if Instant::now() >= until {
                let (usage, stats) = (tree.usage(), mount.stats());
                let balance = ledger.balance();
                faults.push(format!("{what}: {usage:?}, {stats:?}, {balance:?}"));
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    };
    // The kernel tells of a last close some time after it.
    eventually("open files are left", &mut || {
        mount.stats().handles == 0 && tree.usage().open_files == 0
    });
    eventually("requests are left", &mut || mount.stats().parked == 0);
    eventually("not everything was released and freed", &mut || ledger.balance().is_even());
    eventually("nodes are left", &mut || tree.usage().nodes == 1);
    if let Err(error) = fs::write(DROP_CACHES, "2") {
        eprintln!("not looked at: what the kernel still knows of the tree; {DROP_CACHES}: {error}");
        return;
    }
    eventually("the kernel has not forgotten everything", &mut || {
        // Names and inodes; written again, for it drops only what nobody is just using.
        let _ = fs::write(DROP_CACHES, "2");
        mount.stats().nodes == 0 && mount.stats().lookups == 0
    });
}

/// What became of everything.
#[derive(Debug)]
pub struct Aftermath {
    options: Options,
    work: Work,
    tally: Tally,
    balance: Balance,
    faults: Vec<String>,
}

impl Aftermath {
    /// Tells whether all went as it ought to.
    pub fn is_good(&self) -> bool {
        self.faults.is_empty()
    }
}

impl fmt::Display for Aftermath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Options { duration, seed, clients } = self.options;
        let seconds = duration.as_secs();
        writeln!(f, "storm of {seconds} s, seed {seed}: {clients} clients, {OWNERS} owners")?;
        self.tally.fmt(f)?;
        self.work.fmt(f)?;
        self.balance.fmt(f)?;
        for fault in &self.faults {
            writeln!(f, "FAILED: {fault}")?;
        }
        match self.faults.len() {
            0 => write!(f, "no answer but the expected ones, no hang, nothing left over"),
            n => write!(f, "{n} failures; again with --seed {seed}"),
        }
    }
}

/// The directory to mount at.
struct Place(PathBuf);

impl Place {
    fn new() -> Result<Self, String> {
        let path = std::env::temp_dir().join(format!("kernfs-storm-{}", std::process::id()));
        let made = fs::create_dir(&path);
        made.map(|()| Self(path)).map_err(|error| format!("no directory to mount at: {error}"))
    }

    /// Returns what is left there, and whoever has it in the command line.
    fn leftovers(self) -> Vec<String> {
        let path = self.0.display().to_string();
        let mut found = Vec::new();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        if mounts.lines().any(|line| line.split(' ').nth(1) == Some(&path)) {
            found.push(format!("{path} is still mounted"));
        }
        let until = Instant::now() + LIMIT;
        // The process that watched over the mount ends some time after it.
        while let left @ [_, ..] = &processes_with(&self.0)[..] {
            if Instant::now() >= until {
                found.push(format!("processes are left: {}", left.join(", ")));
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
        if let Err(error) = fs::remove_dir(&self.0) {
            found.push(format!("{path} cannot be removed: {error}"));
        }
        found
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // In vain, where all went well.
        let _ = fs::remove_dir(&self.0);
    }
}

/// Returns the processes but this one that have a path in their command line.
fn processes_with(path: &Path) -> Vec<String> {
    let path = path.display().to_string();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let other = entries.filter(|it| it.file_name() != *std::process::id().to_string());
    let lines = other.map(|entry| (entry.file_name(), fs::read(entry.path().join("cmdline"))));
    let lines = lines.map(|(pid, line)| (pid, line.unwrap_or_default()));
    let lines = lines.map(|(pid, line)| (pid, String::from_utf8_lossy(&line).replace('\0', " ")));
    let found = lines.filter(|(_, line)| line.contains(&path));
    found.map(|(pid, line)| format!("{} {line}", pid.display())).collect()
}
