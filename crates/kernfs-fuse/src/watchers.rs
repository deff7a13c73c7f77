//! What watchers of the mount (inotify) are told of the owner's changes.
//!
//! FUSE has no way to tell them. But what a process does to the mount is told, and a thread of this
//! process, the [herald](crate::herald), can do to it what the owner did to the tree: touch a file
//! that was notified, make what was added, take away what was removed, rename what was renamed. Its
//! requests are recognised by the thread that sends them, and nothing happens to the tree: nodes
//! that are none stand in for what the event is about (see [`stand_ins`](crate::stand_ins)).
//!
//! All of it is best effort and no change waits for it. What the herald does locks the directory
//! that the event is about, and a client can hold that lock while he is given entries: news of a
//! directory wait for those who are in the middle of listing it, so that nobody comes to wait for
//! the herald. Only the lock of a file that is touched can be held for long, by a client that stands
//! still in a write to it; this holds up all news.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fuse_session::Completed;
use kernfs::{Inode, NodeKind};
use rustix::io::Errno;

use crate::fs::Fs;
use crate::herald::{Herald, Scene, Spot};
use crate::nodes;

/// What happened to a tree, as far as watchers care.
pub(crate) enum News {
    /// The owner announced a new value.
    Modified { inode: Arc<Inode> },
    /// A node came in.
    Created { at: Place, ino: u64, kind: NodeKind },
    /// Nodes went, children before their parents.
    Gone { ids: Vec<u64> },
    /// A name went.
    Deleted { at: Place, kind: NodeKind },
    /// A node was renamed.
    Moved {
        from: Place,
        to: Place,
        ino: u64,
        kind: NodeKind,
        /// Whether a client has looked the new name up since.
        was_found: AtomicBool,
    },
    /// There is none: the herald is not to do anything.
    Nothing,
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The inode number of the directory.
    pub(crate) dir: u64,
    pub(crate) name: Vec<u8>,
}

impl Place {
    pub(crate) fn new(dir: u64, name: &[u8]) -> Self {
        Self { dir, name: name.to_vec() }
    }

    /// Returns where it is by now, if the directory is still there.
    fn spot(&self, fs: &Fs) -> Option<Spot> {
        let dir = fs.client.by_id(self.dir).ok()?.path();
        Some(Spot { dir, name: self.name.clone() })
    }
}

impl News {
    /// Returns the directories that are locked against those who list them.
    fn locks(&self) -> impl Iterator<Item = u64> + use<> {
        let dirs = match self {
            Self::Modified { .. } | Self::Gone { .. } | Self::Nothing => [None, None],
            Self::Created { at, .. } | Self::Deleted { at, .. } => [Some(at.dir), None],
            Self::Moved { from, to, .. } => [Some(from.dir), Some(to.dir)],
        };
        dirs.into_iter().flatten()
    }
}

/// What is being told at the moment.
pub(crate) struct Told {
    pub(crate) news: News,
    pub(crate) gone: Gone,
    /// The id of what stands in for the node that the news are about.
    pub(crate) stand_in: u64,
    /// Whether the kernel was given the stand-in: then it is the one that it acts upon.
    pub(crate) was_given: AtomicBool,
}

/// Nodes that went, as the herald looks at them.
///
/// Where it finds one, the kernel sees that it has no links any more; where it then finds it gone,
/// the kernel lets go of it. Both together it tells those who watch the node, at once or when it is
/// closed.
#[derive(Default)]
pub(crate) struct Gone {
    /// Those that the kernel still knows, by their last paths.
    known: Arc<HashMap<Vec<u8>, u64>>,
    /// The one that is not to be found any more.
    without: Option<Vec<u8>>,
}

impl Gone {
    /// Returns the node id of a path that is to be found.
    pub(crate) fn find(&self, path: &[u8]) -> Option<u64> {
        let is_found = self.without.as_deref() != Some(path);
        self.known.get(path).copied().filter(|_| is_found)
    }
}

/// The news, and who tells them.
pub(crate) struct Watchers {
    state: Mutex<State>,
    changed: Condvar,
    herald: OnceLock<Herald>,
    /// How many moves are not told yet.
    moves: AtomicUsize,
    /// How many have stood in so far.
    stand_ins: AtomicU64,
    /// What clients are changing by themselves, which their kernel tells watchers.
    hands: Mutex<Vec<Place>>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Item>,
    /// Files whose modification is queued.
    modified: HashSet<u64>,
    /// Stays when the herald is stopped in the middle of it.
    told: Option<Arc<Told>>,
    is_idle: bool,
    stopped: bool,
}

/// News, and what the kernel has to have taken before they are told.
struct Item {
    news: News,
    after: Option<Completed>,
}

/// News beyond that are dropped: somebody holds the herald up, or the owner is faster than it.
const QUEUE_MAX: usize = 4096;

/// How long the kernel is given to take what news are told after: mostly microseconds.
const KERNEL_TIME: Duration = Duration::from_millis(100);

impl Watchers {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            herald: OnceLock::new(),
            moves: AtomicUsize::new(0),
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
        let herald = Herald::start(mount)?;
        let _ = self.herald.set(herald);
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

    /// Queues news, unless there are too many; they are told after something that the kernel is
    /// about to take.
    pub(crate) fn tell(&self, news: News, after: Option<Completed>) {
        let mut state = self.lock();
        if state.stopped || state.queue.len() >= QUEUE_MAX {
            return;
        }
        if let News::Modified { inode } = &news
            && !state.modified.insert(inode.ino())
        {
            return;
        }
        if let News::Moved { .. } = news {
            self.moves.fetch_add(1, Ordering::AcqRel);
        }
        state.queue.push_back(Item { news, after });
        self.wake(state);
    }

    /// Notes that a client looks a name up, before it is looked up.
    pub(crate) fn look_up(&self, dir: u64, name: &[u8]) {
        if self.moves.load(Ordering::Acquire) == 0 {
            return;
        }
        let state = self.lock();
        let told = state.told.iter().map(|told| &told.news);
        for news in state.queue.iter().map(|item| &item.news).chain(told) {
            if let News::Moved { to, was_found, .. } = news
                && to.dir == dir
                && to.name == name
            {
                was_found.store(true, Ordering::Release);
            }
        }
    }

    /// Looks anew at what waits: somebody has ceased to list a directory.
    pub(crate) fn look_again(&self) {
        let state = self.lock();
        if !state.queue.is_empty() {
            self.wake(state);
        }
    }

    /// Returns what is being told, if a request comes from the herald.
    pub(crate) fn told_by(&self, thread: u32) -> Option<Arc<Told>> {
        if !self.herald.get().is_some_and(|herald| herald.is(thread)) {
            return None;
        }
        let told = self.lock().told.clone();
        Some(told.unwrap_or_else(|| Arc::new(self.prepare(News::Nothing))))
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
        while let Some(Item { news, after }) = self.next(fs) {
            if let Some(taken) = after {
                // Told all the same if it is not: then there may be no event.
                let _ = taken.wait(Some(Instant::now() + KERNEL_TIME));
            }
            let Some(played) = self.have_told(fs, news) else { return };
            if let Err(error) = played
                && is_lasting(error)
                && !std::mem::replace(&mut has_complained, true)
            {
                tracing::warn!(%error, mount = %mount.display(),
                    "inotify cannot tell all that the owner does");
            }
        }
    }

    /// Waits for news that can be told.
    fn next(&self, fs: &Fs) -> Option<Item> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return None;
            }
            let next = first_free(&state.queue, |dir| fs.handles.are_listing(dir));
            if let Some(item) = next.and_then(|at| state.queue.remove(at)) {
                if let News::Modified { inode } = &item.news {
                    state.modified.remove(&inode.ino());
                }
                return Some(item);
            }
            state.is_idle = true;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.is_idle = false;
        }
    }

    /// Has the herald tell news; `None` when it is stopped.
    fn have_told(&self, fs: &Fs, news: News) -> Option<Result<(), Errno>> {
        let is_move = matches!(news, News::Moved { .. });
        let played = match &news {
            News::Gone { ids } => self.have_looked_at(fs, ids)?,
            of_one => match scene(fs, of_one) {
                Some(scene) => self.play(self.prepare(news), scene)?,
                None => Ok(()),
            },
        };
        if is_move {
            self.moves.fetch_sub(1, Ordering::AcqRel);
        }
        Some(played)
    }

    /// Has the herald look at nodes that went, so that those who watch them are told.
    fn have_looked_at(&self, fs: &Fs, ids: &[u64]) -> Option<Result<(), Errno>> {
        let path = |&id: &u64| Some((fs.nodes.find(id)?.inode.path(), id));
        let paths: Vec<_> = ids.iter().filter_map(path).collect();
        let known = Arc::new(paths.iter().cloned().collect::<HashMap<_, _>>());
        for (path, _) in &paths {
            for without in [None, Some(path.clone())] {
                let gone = Gone { known: Arc::clone(&known), without };
                let told = Told { gone, ..self.prepare(News::Nothing) };
                // Not there is what it is meant to be.
                let _ = self.play(told, Scene::Look(path.clone()))?;
            }
        }
        Some(Ok(()))
    }

    fn play(&self, told: Told, scene: Scene) -> Option<Result<(), Errno>> {
        self.lock().told = Some(Arc::new(told));
        let played = self.herald.get()?.play(scene)?;
        self.lock().told = None;
        Some(played)
    }

    fn prepare(&self, news: News) -> Told {
        let stand_in = nodes::id_of_none(self.stand_ins.fetch_add(1, Ordering::Relaxed));
        Told { news, gone: Gone::default(), stand_in, was_given: AtomicBool::new(false) }
    }

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

/// Returns the first news whose directories nobody is listing, and no earlier news wait for.
fn first_free(queue: &VecDeque<Item>, is_listed: impl Fn(u64) -> bool) -> Option<usize> {
    let mut held = HashSet::new();
    queue.iter().position(|Item { news, .. }| {
        let is_free = news.locks().all(|dir| !held.contains(&dir) && !is_listed(dir));
        if !is_free {
            held.extend(news.locks());
        }
        is_free
    })
}

/// Returns what the herald is to do, if the directory is still there.
fn scene(fs: &Fs, news: &News) -> Option<Scene> {
    match news {
        News::Modified { inode } => Some(Scene::Touch(inode.path())),
        News::Created { at, kind, .. } => Some(Scene::Make(at.spot(fs)?, *kind)),
        News::Deleted { at, kind } => Some(Scene::Take(at.spot(fs)?, *kind)),
        News::Moved { from, to, .. } => Some(Scene::Move(from.spot(fs)?, to.spot(fs)?)),
        News::Gone { .. } | News::Nothing => None,
    }
}

/// Tells whether a scene will fail each time: the mount is read-only or out of reach.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn created(dir: u64) -> News {
        News::Created { at: Place::new(dir, b"new"), ino: 9, kind: NodeKind::File }
    }

    fn moved(from: u64, to: u64) -> News {
        let (from, to) = (Place::new(from, b"old"), Place::new(to, b"new"));
        let was_found = AtomicBool::new(false);
        News::Moved { from, to, ino: 9, kind: NodeKind::File, was_found }
    }

    #[test]
    fn news_wait_for_who_lists_their_directory_and_keep_their_order() {
        let queue = [created(1), moved(1, 2), created(2), created(3)];
        let queue = queue.map(|news| Item { news, after: None }).into();
        assert_eq!(first_free(&queue, |_| false), Some(0));
        // What is behind the move waits with it, also in the other directory.
        assert_eq!(first_free(&queue, |dir| dir == 1), Some(3));
        assert_eq!(first_free(&queue, |dir| dir == 2), Some(0));
        assert_eq!(first_free(&queue, |_| true), None);
    }

    #[test]
    fn the_queue_is_bounded_and_ends() {
        let watchers = Watchers::new();
        for _ in 0..QUEUE_MAX + 10 {
            watchers.tell(created(1), None);
        }
        assert_eq!(watchers.lock().queue.len(), QUEUE_MAX);
        watchers.stop();
        watchers.tell(created(1), None);
        assert_eq!(watchers.lock().queue.len(), 0);
    }
}
