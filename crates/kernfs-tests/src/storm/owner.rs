//! The owners' part: things come, change and go.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use kernfs::{Dir, Draining, File, Mode, SetAttr, Tree};

use super::drivers::{Events, Knob, Memory};
use super::hang::{LIMIT, Pulse};
use super::ledger::Ledger;
use super::random::Random;

/// The names of directories at the top, so few that everybody meets.
pub(super) const DIRS: [&str; 4] = ["d0", "d1", "d2", "d3"];
/// The names of files, and of directories that clients make.
pub(super) const FILES: [&str; 5] = ["knob", "events", "memory", "x", "y"];

/// What somebody does, and how often compared to the rest.
type Change<O> = (&'static str, usize, fn(&mut O));

/// An owner, and the handles that it has.
pub(super) struct Owner<'a> {
    tree: &'a Tree,
    ledger: &'a Arc<Ledger>,
    random: Random,
    pulse: Pulse,
    dirs: Vec<Dir>,
    knobs: Vec<File<Knob>>,
    events: Vec<File<Events>>,
    memories: Vec<File<Memory>>,
    work: Work,
}

/// The most that an owner lets live between two changes: long enough for clients to get hold.
const PAUSE_MICROS: u64 = 1500;

/// The most handles of a kind; more than there are names for cannot be alive.
const MOST: usize = 30;

impl<'a> Owner<'a> {
    /// What an owner does, and how often compared to the rest.
    const CHANGES: [Change<Self>; 14] = [
        ("add a directory", 4, Self::add_dir),
        ("publish a directory with files", 2, Self::publish),
        ("add files", 8, Self::add_files),
        ("remove a text", 4, Self::remove_knob),
        ("remove events", 2, Self::remove_events),
        ("remove memory", 2, Self::remove_memory),
        ("remove a directory", 1, Self::remove_dir),
        ("remove by name", 1, Self::remove_by_name),
        ("hide or show", 6, Self::hide_or_show),
        ("rename a file", 3, Self::rename_file),
        ("rename a directory", 1, Self::rename_dir),
        ("notify", 6, Self::notify),
        ("tell an event", 8, Self::tell),
        ("change attributes", 3, Self::set_attr),
    ];

    pub(super) fn new(
        tree: &'a Tree,
        ledger: &'a Arc<Ledger>,
        random: Random,
        pulse: Pulse,
    ) -> Self {
        let (dirs, knobs, events, memories) = Default::default();
        let work = Work::default();
        Self { tree, ledger, random, pulse, dirs, knobs, events, memories, work }
    }

    /// Works until it is over; then all that it still has goes.
    pub(super) fn work_until(mut self, over: &AtomicBool) -> Work {
        let all: usize = Self::CHANGES.iter().map(|(_, weight, _)| weight).sum();
        while !over.load(SeqCst) {
            let mut at = self.random.below(all);
            let chosen = Self::CHANGES.iter().find(|(_, weight, _)| {
                let is_it = at < *weight;
                at = at.wrapping_sub(*weight);
                is_it
            });
            let (name, _, change) = chosen.expect("below the sum");
            self.pulse.begin(name);
            change(&mut self);
            *self.work.changes.entry(name).or_default() += 1;
            self.forget_the_dead();
            thread::sleep(Duration::from_micros(self.random.between(0, PAUSE_MICROS)));
        }
        self.pulse.begin("drop all handles");
        let Self { dirs, knobs, events, memories, work, pulse, .. } = self;
        drop((dirs, knobs, events, memories));
        pulse.end();
        work
    }

    /// Drops handles on what clients have removed, and some if there are too many.
    fn forget_the_dead(&mut self) {
        self.dirs.retain(|dir| !dir.is_removed());
        self.knobs.retain(|file| !file.is_removed());
        self.events.retain(|file| !file.is_removed());
        self.memories.retain(|file| !file.is_removed());
        self.knobs.truncate(MOST);
        self.events.truncate(MOST);
        self.memories.truncate(MOST);
    }

    /// Waits for a removal, and notes how long it took.
    fn drain<T>(&mut self, begun: Instant, draining: Draining<T>) -> Option<T> {
        let drained = draining.wait_timeout(LIMIT);
        self.work.longest = self.work.longest.max(begun.elapsed());
        match drained {
            Ok(driver) => Some(driver),
            Err(error) => {
                self.work.faults.push(format!("in {} s, {error}", LIMIT.as_secs()));
                None
            }
        }
    }

    fn add_dir(&mut self) {
        // The name may be taken.
        self.dirs.extend(self.tree.root().add_dir(self.random.pick(&DIRS), Mode::DIR));
    }

    fn publish(&mut self) {
        let dir = self.tree.detached_dir(Mode::DIR);
        self.fill(&dir);
        if self.tree.root().attach(self.random.pick(&DIRS), &dir).is_ok() {
            self.dirs.push(dir);
        }
    }

    fn add_files(&mut self) {
        if let Some(dir) = self.random.take(&mut self.dirs) {
            self.fill(&dir);
            self.dirs.push(dir);
        }
    }

    fn fill(&mut self, dir: &Dir) {
        let (knob, other) = (self.random.pick(&FILES), self.random.pick(&FILES));
        self.knobs.extend(Knob::add(dir, knob, self.ledger));
        self.events.extend(Events::add(dir, "events", self.ledger));
        self.memories.extend(Memory::add(dir, "memory", self.ledger));
        self.memories.extend(Memory::add(dir, other, self.ledger));
    }

    fn remove_knob(&mut self) {
        if let Some(knob) = self.random.take(&mut self.knobs) {
            // The driver comes back by value, and so nobody else has it.
            self.drain(Instant::now(), knob.sever());
        }
    }

    fn remove_events(&mut self) {
        if let Some(events) = self.random.take(&mut self.events) {
            self.drain(Instant::now(), events.sever());
        }
    }

    fn remove_memory(&mut self) {
        if let Some(memory) = self.random.take(&mut self.memories) {
            self.drain(Instant::now(), memory.sever());
        }
    }

    fn remove_dir(&mut self) {
        if let Some(dir) = self.random.take(&mut self.dirs) {
            self.drain(Instant::now(), dir.sever());
        }
    }

    fn remove_by_name(&mut self) {
        let name =
            if self.random.one_in(2) { self.random.pick(&DIRS) } else { self.random.pick(&FILES) };
        let begun = Instant::now();
        if let Ok(removal) = self.tree.root().sever_child(name) {
            self.drain(begun, removal);
        }
    }

    fn hide_or_show(&mut self) {
        if let Some(knob) = self.random.take(&mut self.knobs) {
            self.toggle(&knob);
            self.knobs.push(knob);
        }
        if let Some(memory) = self.random.take(&mut self.memories) {
            self.toggle(&memory);
            self.memories.push(memory);
        }
    }

    fn toggle<T>(&mut self, file: &File<T>) {
        if file.is_hidden() {
            file.show();
        } else {
            self.drain(Instant::now(), file.hide());
        }
    }

    fn rename_file(&mut self) {
        let name = self.random.pick(&FILES);
        if let (Some(knob), Some(dir)) = (self.knobs.first(), self.dirs.last()) {
            // It may be gone, or the name taken.
            let _ = knob.rename(dir, name);
        }
    }

    fn rename_dir(&mut self) {
        let name = self.random.pick(&DIRS);
        if let Some(dir) = self.dirs.first() {
            let _ = dir.rename(self.tree.root(), name);
        }
    }

    fn notify(&mut self) {
        self.knobs.iter().for_each(File::notify);
        let digit = b'0' + self.random.below(10) as u8;
        self.memories.iter().for_each(|memory| Memory::fill(memory, digit));
    }

    fn tell(&mut self) {
        self.events.iter().for_each(Events::push);
    }

    fn set_attr(&mut self) {
        let mode = self.random.pick(&[0o666, 0o644, 0o600]);
        let set = SetAttr { mode: Some(Mode::new(mode)), ..Default::default() };
        self.knobs.iter().for_each(|knob| knob.set_attr(&set));
    }
}

/// What owners have done.
#[derive(Debug, Default)]
pub(super) struct Work {
    changes: BTreeMap<&'static str, u64>,
    /// The time that the slowest removal took.
    longest: Duration,
    pub(super) faults: Vec<String>,
}

impl Work {
    /// Returns the work of an owner that did not get through.
    pub(super) fn panicked() -> Self {
        Self { faults: vec!["an owner panicked, see above".into()], ..Self::default() }
    }

    /// Puts the work of two together.
    pub(super) fn and(mut self, other: Self) -> Self {
        for (name, count) in other.changes {
            *self.changes.entry(name).or_default() += count;
        }
        self.longest = self.longest.max(other.longest);
        self.faults.extend(other.faults);
        self
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: u64 = self.changes.values().sum();
        writeln!(f, "{all} changes by owners:")?;
        for (name, count) in &self.changes {
            writeln!(f, "  {count:>8}  {name}")?;
        }
        writeln!(f, "the longest removal took {:.1} ms", self.longest.as_secs_f64() * 1e3)
    }
}
