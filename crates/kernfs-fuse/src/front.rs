//! Our part in a severing: taking from the kernel what it has cached.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fuse_session::{InvalRange, completion};
use kernfs::{Ack, Change, Entry, FrontEnd, ROOT_INO, Severed};

use crate::fs::Fs;

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
            handle.hold(&ack);
        }
        let Some(notifier) = self.fs.notifier() else { return };
        // The wakers of pollers have run, so that this is behind their notifications. Nobody has
        // the handle 0.
        notifier.poll(0, held(&ack));
        for id in self.fs.nodes.end(severed.inos()) {
            notifier.inval_inode(id, InvalRange::All, held(&ack));
        }
        self.drop_attr(top.parent, held(&ack));
        if self.fs.nodes.take_names_told() && self.fs.has_epoch() {
            notifier.inc_epoch(held(&ack));
        }
        if top.ino == ROOT_INO {
            (self.tree_gone)(ack);
        }
    }

    fn changed(&self, change: &Change) {
        match change {
            // Names that do not exist are not cached: only the directory's attributes change.
            Change::Added(entry) | Change::Shown(entry) => self.drop_attr_now(entry.parent),
            Change::Renamed { from, to } => self.renamed(from, to),
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
        if self.fs.nodes.take_names_told() && self.fs.has_epoch() {
            let (signal, completed) = completion();
            notifier.inc_epoch(signal);
            wait_shortly(&completed);
        }
    }

    /// Has the kernel drop the attributes of a node, if it has any.
    fn drop_attr(&self, ino: u64, done: impl fuse_session::Completion) {
        let id = self.fs.nodes.take_attr_told(ino);
        if let (Some(id), Some(notifier)) = (id, self.fs.notifier()) {
            notifier.inval_inode(id, InvalRange::Attributes, done);
        }
    }

    /// Does the same, and waits for it where that is allowed.
    fn drop_attr_now(&self, ino: u64) {
        let id = self.fs.nodes.take_attr_told(ino);
        if let (Some(id), Some(notifier)) = (id, self.fs.notifier()) {
            let (signal, completed) = completion();
            notifier.inval_inode(id, InvalRange::Attributes, signal);
            wait_shortly(&completed);
        }
    }
}

/// A completion that holds an acknowledgement until the kernel has taken the notification.
fn held(ack: &Arc<Ack>) -> impl FnOnce(Result<(), fuse_session::Errno>) + Send + 'static {
    let ack = Arc::clone(ack);
    move |_| drop(ack)
}

/// Waits for a notification that takes no lock in the kernel, and hence microseconds.
///
/// Not inside an operation, where waiting is refused: then the kernel hears of it right after.
fn wait_shortly(completed: &fuse_session::Completed) {
    let _ = completed.wait(Some(Instant::now() + PATIENCE));
}

/// Longer than any scheduling delay; a bound in case the connection is stuck.
const PATIENCE: Duration = Duration::from_secs(2);
