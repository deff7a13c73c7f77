//! Our part in a severing: taking from the kernel what it has cached.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use fuse_session::{Completed, Completion, Errno, InvalRange, Notifier, Signal, completion};
use kernfs::{Ack, Change, Entry, FrontEnd, ROOT_INO, Severed};

use crate::event::{Event, Place};
use crate::fs::Fs;
use crate::news::{self, PATIENCE};
use crate::nodes::Ended;
use crate::watchers::Watchers;

/// A mount's ear at the tree.
pub(crate) struct Front {
    pub(crate) fs: Arc<Fs>,
    /// `None` where inotify is left alone.
    pub(crate) watchers: Option<Arc<Watchers>>,
    /// Runs when the tree has gone, to unmount.
    pub(crate) tree_gone: Box<dyn Fn(Arc<Ack>) + Send + Sync>,
}

impl FrontEnd for Front {
    fn severed(&self, severed: &Severed<'_>, ack: Ack) {
        let ack = Arc::new(ack);
        let (Change::Removed(top) | Change::Hidden(top)) = severed.change else { return };
        for handle in self.fs.handles.severed(severed.inos()) {
            handle.finish_reads(&ack);
            if handle.is_cached {
                handle.wake_pollers();
            }
        }
        let Some(notifier) = self.fs.notifier() else { return };
        let removed = matches!(severed.change, Change::Removed(_));
        let ended = self.fs.nodes.end(severed.inos(), removed);
        let (signal, taken) = completion();
        // Completes when the kernel has taken all that it holds.
        let signal = Arc::new(signal);
        for ended in &ended.ids {
            let held = (Arc::clone(&ack), Arc::clone(&signal));
            ended.pages.drop_all(notifier, move || drop(held));
        }
        if removed {
            self.drop_attr(top.parent, held(&ack));
        }
        let names = (Arc::clone(&ack), Arc::clone(&signal));
        self.drop_names(notifier, move |_| drop(names));
        self.prune(&ended, &signal);
        drop(signal);
        if removed && top.ino != ROOT_INO {
            self.tell_removed(top, &ended, taken);
        }
        if top.ino == ROOT_INO {
            (self.tree_gone)(ack);
        }
    }

    fn changed(&self, change: &Change) {
        match change {
            // Names that do not exist are not cached: only the directory's attributes change.
            Change::Added(entry) => {
                self.drop_attr_now(entry.parent);
                self.tell_added(entry);
            }
            // Its directory stays as it is, and its name was not cached meanwhile.
            Change::Shown(entry) => self.fs.nodes.shown_again(entry.ino),
            Change::Renamed { from, to } => self.renamed(from, to),
            Change::Notified { ino } => self.notified(*ino),
            Change::Attributes { ino } => self.drop_attr_now(*ino),
            _ => {}
        }
    }
}

impl Front {
    fn renamed(&self, from: &Entry, to: &Entry) {
        self.drop_attr_now(from.parent);
        self.drop_attr_now(to.parent);
        let Some(notifier) = self.fs.notifier() else { return };
        let (signal, completed) = completion();
        let (watchers_signal, watchers_completed) = completion();
        let is_told = self.drop_names(notifier, move |result| {
            signal.complete(result);
            watchers_signal.complete(result);
        });
        if is_told {
            news::wait(completed);
        }
        self.tell_renamed(from, to, is_told.then_some(watchers_completed));
    }

    /// Has mappings see the new contents; nobody waits, for what is dirty is written back first.
    fn notified(&self, ino: u64) {
        let Some(known) = self.fs.nodes.find_live(ino) else { return };
        if let Some(watchers) = &self.watchers {
            watchers.tell(Event::Modified { inode: known.inode }, None);
        }
        if let Some(notifier) = self.fs.notifier()
            && known.pages.take_any()
        {
            known.pages.drop_all(notifier, || ());
        }
    }

    /// Has the kernel forget what has gone, as far as nobody uses it.
    ///
    /// Best effort, so that it does not fill memory, here and in the kernel.
    fn prune(&self, ended: &Ended, signal: &Arc<Signal>) {
        let Some(notifier) = self.fs.notifier() else { return };
        let unused = self.fs.nodes.take_unused();
        let ids: Vec<_> = ended.ids.iter().map(|ended| ended.id).chain(unused).collect();
        for ids in ids.chunks(PRUNED_AT_ONCE) {
            let signal = Arc::clone(signal);
            notifier.prune(ids, move |_| drop(signal));
        }
    }

    fn tell_added(&self, entry: &Entry) {
        let Some(watchers) = &self.watchers else { return };
        let at = place(entry);
        // Nobody watches a directory that the kernel does not know.
        if self.fs.nodes.find_live(entry.parent).is_some() && !watchers.has_hand_at(&at) {
            watchers.tell(Event::Created { at, ino: entry.ino, kind: entry.kind }, None);
        }
    }

    fn tell_removed(&self, top: &Entry, ended: &Ended, taken: Completed) {
        let Some(watchers) = &self.watchers else { return };
        let ids: Vec<_> = ended.ids.iter().map(|ended| ended.id).collect();
        if !ids.is_empty() {
            watchers.tell(Event::Gone { ids }, Some(taken));
        }
        let at = place(top);
        if ended.top_was_shown && !watchers.has_hand_at(&at) {
            watchers.tell(Event::Deleted { at, kind: top.kind }, None);
        }
    }

    fn tell_renamed(&self, from: &Entry, to: &Entry, after: Option<Completed>) {
        let Some(watchers) = &self.watchers else { return };
        let (old, new) = (place(from), place(to));
        if watchers.has_hand_at(&old) {
            return;
        }
        let (ino, kind) = (to.ino, to.kind);
        if self.fs.nodes.has_shown(ino) {
            let was_found = AtomicBool::new(false);
            watchers.tell(Event::Moved { from: old, to: new, ino, kind, was_found }, after);
        } else if self.fs.nodes.find_live(to.parent).is_some() {
            // Nobody has seen it before: it may come from another namespace.
            watchers.tell(Event::Created { at: new, ino, kind }, after);
        }
    }

    /// Has the kernel drop all names, if it has any; tells whether it has to.
    fn drop_names(
        &self,
        notifier: &Notifier,
        done: impl FnOnce(Result<(), Errno>) + Send + 'static,
    ) -> bool {
        let up_to = self.fs.nodes.names_to_drop().filter(|_| self.fs.caches_names());
        let Some(up_to) = up_to else { return false };
        let fs = Arc::clone(&self.fs);
        notifier.inc_epoch(move |result| {
            fs.nodes.names_dropped(up_to);
            done(result);
        });
        true
    }

    /// Has the kernel drop the attributes of a node, if it has any; tells whether it has to.
    fn drop_attr(&self, ino: u64, done: impl Completion) -> bool {
        let Some((id, up_to)) = self.fs.nodes.attr_to_drop(ino) else { return false };
        let told = ToldAttr { id, up_to, until: Instant::now() + PATIENCE };
        drop_attr_of(&self.fs, told, Box::new(|result| done.complete(result)));
        true
    }

    /// Does the same, and has the owner's call return after it.
    fn drop_attr_now(&self, ino: u64) {
        let (signal, completed) = completion();
        if self.drop_attr(ino, signal) {
            news::wait(completed);
        }
    }
}

fn place(entry: &Entry) -> Place {
    Place::new(entry.parent, entry.name.as_bytes())
}

type Done = Box<dyn FnOnce(Result<(), Errno>) + Send>;

/// Attributes of a node id that are to be dropped.
#[derive(Clone, Copy)]
struct ToldAttr {
    id: u64,
    up_to: u64,
    /// Nobody waits for it longer.
    until: Instant,
}

/// Has the kernel drop the attributes that it has for a node id.
///
/// Where they are on their way in the answer to a lookup, the kernel does not know the node yet:
/// then it is told again until it does, or has forgotten the node.
fn drop_attr_of(fs: &Arc<Fs>, told: ToldAttr, done: Done) {
    let Some(notifier) = fs.notifier() else { return };
    let fs = Arc::clone(fs);
    notifier.inval_inode(told.id, InvalRange::Attributes, move |result| {
        let on_its_way = result == Err(Errno::ENOENT) && fs.nodes.knows(told.id);
        if on_its_way && Instant::now() < told.until {
            return drop_attr_of(&fs, told, done);
        }
        if !on_its_way {
            fs.nodes.attr_dropped(told.id, told.up_to);
        }
        done(result);
        if on_its_way {
            // The client does not get to run. What he is given stays wrong until it is dropped.
            thread::sleep(OVERDUE_PAUSE);
            drop_attr_of(&fs, told, Box::new(|_| ()));
        }
    });
}

/// Leaves the processor to a client who is late, and holds up other notifications little.
const OVERDUE_PAUSE: Duration = Duration::from_millis(1);

/// A completion that holds an acknowledgement until the kernel has taken the notification.
fn held(ack: &Arc<Ack>) -> impl FnOnce(Result<(), Errno>) + Send + 'static {
    let ack = Arc::clone(ack);
    move |_| drop(ack)
}

/// Keeps one message to a page.
const PRUNED_AT_ONCE: usize = 500;
