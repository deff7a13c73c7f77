//! Telling watchers of the mount (inotify) what the owner does.
//!
//! FUSE has no message for it. But what a process does to the mount is told, and a thread of this
//! process, the [herald](crate::herald), can do to the mount what the owner did to the tree: touch
//! a file that was notified, make what was added, take away what was removed, rename what was
//! renamed. Its requests are known by the thread that sends them, and nothing happens to the tree:
//! they are answered so that the event comes of it, and mostly about nodes that are none (see
//! [`stand_ins`](crate::stand_ins)).
//!
//! ```text
//! owner ---> Front ---> queue ---> thread "kernfs-news" ---> herald ---> kernel ---> watchers
//!                                                              ^            |
//!                                                              |         requests
//!                                                           answers <--- stand_ins
//! ```
//!
//! All of it is best effort, and no change waits for it. What the herald does locks the directory
//! that the event is about, and a client can hold that lock while he is given entries. Others would
//! come to wait behind the herald then; so what is to be told of a directory waits for those who
//! are in the middle of listing it. Only the lock of a file that is touched can be held for long, by
//! a client that stands still in a write to it; this holds up all telling, and nothing else.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fuse_session::Completed;
use rustix::io::Errno;

use crate::event::{Event, Gone, Item, Place, Queue, Told, What};
use crate::fs::Fs;
use crate::herald::{Act, Herald, Spot};
use crate::nodes;

/// What is to be told, and who tells it.
pub(crate) struct Watchers {
    state: Mutex<State>,
    changed: Condvar,
    herald: OnceLock<Herald>,
    /// How many nodes have stood in so far.
    stand_ins: AtomicU64,
    /// What clients are changing by themselves, which their kernel tells watchers.
    hands: Mutex<Vec<Place>>,
}

#[derive(Default)]
struct State {
    queue: Queue,
    /// Stays when the herald is stopped in the middle of it.
    told: Option<Arc<Told>>,
    is_idle: bool,
    stopped: bool,
}

/// Where the herald finds what it cannot find at its own path.
const NOWHERE: &[u8] = b"/.kernfs-gone";

/// How long the kernel is given to take what an event is told after: mostly microseconds.
const KERNEL_TIME: Duration = Duration::from_millis(100);

impl Watchers {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            herald: OnceLock::new(),
            stand_ins: AtomicU64::new(0),
            hands: Mutex::default(),
        }
    }

    /// Starts to tell, at the directory where the mount is, until it is [stopped](Self::stop); says
    /// once what is in the way.
    pub(crate) fn start(
        self: &Arc<Self>,
        fs: &Arc<Fs>,
        mount: &Path,
    ) -> io::Result<JoinHandle<()>> {
        let _ = self.herald.set(Herald::start(mount)?);
        let (watchers, fs, mount) = (Arc::clone(self), Arc::clone(fs), mount.to_owned());
        let run = move || watchers.run(&fs, &mount);
        thread::Builder::new().name("kernfs-news".into()).spawn(run).inspect_err(|_| self.stop())
    }

    /// Ends it, whether or not the herald is held up.
    pub(crate) fn stop(&self) {
        let mut state = self.lock();
        state.stopped = true;
        let dropped = std::mem::take(&mut state.queue);
        drop(state);
        drop(dropped);
        self.changed.notify_all();
        if let Some(herald) = self.herald.get() {
            herald.stop();
        }
    }

    /// Queues an event; it is told after something that the kernel is about to take.
    pub(crate) fn tell(&self, event: Event, after: Option<Completed>) {
        let mut state = self.lock();
        if state.stopped {
            return;
        }
        let dropped = state.queue.push(Item { event, after });
        self.wake(state);
        drop(dropped);
    }

    /// Notes that a client looks a name up, before it is looked up.
    pub(crate) fn note_lookup(&self, dir: u64, name: &[u8]) {
        let state = self.lock();
        state.queue.note_lookup(dir, name);
        if let Some(What::Event(event)) = state.told.as_ref().map(|told| &told.what) {
            event.note_lookup(dir, name);
        }
    }

    /// Looks anew at what waits: somebody has ceased to list a directory.
    pub(crate) fn look_again(&self) {
        let state = self.lock();
        if !state.queue.is_empty() {
            self.wake(state);
        }
    }

    /// Tells whether this is the herald's thread.
    pub(crate) fn is_herald(&self, thread: u32) -> bool {
        self.herald.get().is_some_and(|herald| herald.is(thread))
    }

    /// Returns what is being told, if a request comes from the herald.
    pub(crate) fn told_by(&self, thread: u32) -> Option<Arc<Told>> {
        if !self.is_herald(thread) {
            return None;
        }
        let told = self.lock().told.clone();
        Some(told.unwrap_or_else(|| Arc::new(self.prepare(What::Nothing))))
    }

    /// Notes what a client changes by himself, until what is returned is dropped.
    pub(crate) fn hand_at(self: &Arc<Self>, places: Vec<Place>) -> Hand {
        lock(&self.hands).extend(places.iter().cloned());
        Hand { watchers: Arc::clone(self), places }
    }

    /// Tells whether a client is changing this himself.
    pub(crate) fn has_hand_at(&self, place: &Place) -> bool {
        lock(&self.hands).contains(place)
    }

    fn run(&self, fs: &Fs, mount: &Path) {
        let mut has_complained = false;
        while let Some(Item { event, after }) = self.next(fs) {
            if let Some(taken) = after {
                // Told all the same if it is not: then there may be no inotify event.
                let _ = taken.wait(Some(Instant::now() + KERNEL_TIME));
            }
            let Some(outcome) = self.have_told(fs, event) else { return };
            if let Err(error) = outcome
                && is_lasting(error)
                && !std::mem::replace(&mut has_complained, true)
            {
                tracing::warn!(%error, mount = %mount.display(),
                    "inotify cannot tell all that the owner does");
            }
        }
    }

    /// Waits for an event that can be told.
    fn next(&self, fs: &Fs) -> Option<Item> {
        let mut state = self.lock();
        while !state.stopped {
            if let Some(item) = state.queue.take_free(|dir| fs.handles.are_listing(dir)) {
                return Some(item);
            }
            state.is_idle = true;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.is_idle = false;
        }
        None
    }

    /// Has the herald tell an event; `None` when it is stopped.
    fn have_told(&self, fs: &Fs, event: Event) -> Option<Result<(), Errno>> {
        let act = match &event {
            Event::Gone { ids } => return self.have_looked_at(fs, ids),
            Event::Modified { inode } => Some(Act::Touch(inode.path())),
            Event::Created { at, kind, .. } => spot(fs, at).map(|spot| Act::Make(spot, *kind)),
            Event::Deleted { at, kind } => spot(fs, at).map(|spot| Act::Take(spot, *kind)),
            Event::Moved { from, to, .. } => {
                spot(fs, from).zip(spot(fs, to)).map(|(from, to)| Act::Move(from, to))
            }
        };
        // Without its directory there is nobody to tell.
        let Some(act) = act else { return Some(Ok(())) };
        self.perform(What::Event(event), act)
    }

    /// Has the herald look at nodes that went, so that those who watch them are told.
    fn have_looked_at(&self, fs: &Fs, ids: &[u64]) -> Option<Result<(), Errno>> {
        let path = |&id: &u64| Some((fs.nodes.find(id)?.inode.path(), id));
        let paths: Vec<_> = ids.iter().filter_map(path).collect();
        let known = Arc::new(paths.iter().cloned().collect::<HashMap<_, _>>());
        let look = |path: &[u8], id| {
            let gone = Gone { known: Arc::clone(&known), path: path.to_vec(), id };
            self.perform(What::Gone(gone), Act::Look(path.to_vec()))
        };
        for (path, id) in &paths {
            // In a directory that a client has removed, the kernel resolves nothing any more.
            for path in [path, NOWHERE] {
                if look(path, Some(*id))?.is_ok() {
                    // Not there is what it is meant to be.
                    let _ = look(path, None)?;
                    break;
                }
            }
        }
        Some(Ok(()))
    }

    fn perform(&self, what: What, act: Act) -> Option<Result<(), Errno>> {
        self.lock().told = Some(Arc::new(self.prepare(what)));
        let outcome = self.herald.get()?.perform(act)?;
        let told = self.lock().told.take();
        drop(told);
        Some(outcome)
    }

    fn prepare(&self, what: What) -> Told {
        let stand_in = nodes::id_of_none(self.stand_ins.fetch_add(1, Ordering::Relaxed));
        Told { what, stand_in, was_given: AtomicBool::new(false) }
    }

    /// Wakes who tells, if it waits.
    fn wake(&self, state: MutexGuard<'_, State>) {
        let is_idle = state.is_idle;
        drop(state);
        if is_idle {
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// Returns where a place is by now, if its directory is still there.
fn spot(fs: &Fs, place: &Place) -> Option<Spot> {
    let dir = fs.client.by_id(place.dir).ok()?.path();
    Some(Spot { dir, name: place.name.clone() })
}

/// Tells whether an act will fail each time: the mount is read-only or out of reach.
fn is_lasting(error: Errno) -> bool {
    matches!(error, Errno::ROFS | Errno::ACCESS | Errno::PERM | Errno::NODEV)
}

/// A change that a client is making.
pub(crate) struct Hand {
    watchers: Arc<Watchers>,
    places: Vec<Place>,
}

impl Drop for Hand {
    fn drop(&mut self) {
        let mut hands = lock(&self.watchers.hands);
        for place in &self.places {
            if let Some(at) = hands.iter().position(|other| other == place) {
                hands.swap_remove(at);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
