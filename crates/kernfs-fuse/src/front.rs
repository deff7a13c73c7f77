//! Our part in a severing: taking from the kernel what it has cached.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use fuse_session::{Completion, Errno, InvalRange, completion};
use kernfs::{Ack, Change, Entry, FrontEnd, ROOT_INO, Severed};

use crate::fs::Fs;
use crate::news::{self, PATIENCE};
use crate::nodes::Ended;

/// A mount's ear at the tree.
pub(crate) struct Front {
    pub(crate) fs: Arc<Fs>,
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
        // The wakers of pollers have run, so that this is behind their notifications. Nobody has
        // the handle 0.
        notifier.poll(0, held(&ack));
        let removed = matches!(severed.change, Change::Removed(_));
        let ended = self.fs.nodes.end(severed.inos(), removed);
        for ended in &ended.ids {
            let ack = Arc::clone(&ack);
            ended.pages.drop_all(notifier, move || drop(ack));
        }
        self.drop_attr(top.parent, held(&ack));
        if self.fs.nodes.take_names_told() && self.fs.caches_names() {
            notifier.inc_epoch(held(&ack));
        }
        self.prune(&ended);
        if top.ino == ROOT_INO {
            (self.tree_gone)(ack);
        }
    }

    fn changed(&self, change: &Change) {
        match change {
            // Names that do not exist are not cached: only the directory's attributes change.
            Change::Added(entry) => self.drop_attr_now(entry.parent),
            Change::Shown(entry) => {
                self.fs.nodes.shown_again(entry.ino);
                self.drop_attr_now(entry.parent);
            }
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
        if self.fs.nodes.take_names_told() && self.fs.caches_names() {
            let (signal, completed) = completion();
            notifier.inc_epoch(signal);
            news::wait(completed);
        }
    }

    /// Has mappings see the new contents; nobody waits, for what is dirty is written back first.
    fn notified(&self, ino: u64) {
        let Some(known) = self.fs.nodes.find_live(ino) else { return };
        if let Some(notifier) = self.fs.notifier()
            && known.pages.take_any()
        {
            known.pages.drop_all(notifier, || ());
        }
    }

    /// Has the kernel forget what has gone, as far as nobody uses it.
    ///
    /// Best effort, so that it does not fill memory, here and in the kernel.
    fn prune(&self, ended: &Ended) {
        let Some(notifier) = self.fs.notifier() else { return };
        let unused = self.fs.nodes.take_unused();
        let ids: Vec<_> = ended.ids.iter().map(|ended| ended.id).chain(unused).collect();
        for ids in ids.chunks(PRUNED_AT_ONCE) {
            notifier.prune(ids, ());
        }
    }

    /// Has the kernel drop the attributes of a node, if it has any.
    fn drop_attr(&self, ino: u64, done: impl Completion) {
        if let Some(id) = self.fs.nodes.take_attr_told(ino) {
            drop_attr_of(
                &self.fs,
                id,
                Instant::now() + PATIENCE,
                Box::new(|result| done.complete(result)),
            );
        }
    }

    /// Does the same, and has the owner's call return after it.
    fn drop_attr_now(&self, ino: u64) {
        let (signal, completed) = completion();
        let signal = move |result| signal.complete(result);
        if let Some(id) = self.fs.nodes.take_attr_told(ino) {
            drop_attr_of(&self.fs, id, Instant::now() + PATIENCE, Box::new(signal));
            news::wait(completed);
        }
    }
}

type Done = Box<dyn FnOnce(Result<(), Errno>) + Send>;

/// Has the kernel drop the attributes that it has for a node id.
///
/// Where they are on their way in the answer to a lookup, the kernel does not know the node yet:
/// then it is told again until it does, or has forgotten the node. Nobody waits for that longer
/// than `until`.
fn drop_attr_of(fs: &Arc<Fs>, id: u64, until: Instant, done: Done) {
    let Some(notifier) = fs.notifier() else { return };
    let fs = Arc::clone(fs);
    notifier.inval_inode(id, InvalRange::Attributes, move |result| {
        let on_its_way = result == Err(Errno::ENOENT) && fs.nodes.knows(id);
        if on_its_way && Instant::now() < until {
            return drop_attr_of(&fs, id, until, done);
        }
        done(result);
        if on_its_way {
            // The client does not get to run. What he is given stays wrong until it is dropped.
            thread::sleep(OVERDUE_PAUSE);
            drop_attr_of(&fs, id, until, Box::new(|_| ()));
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
