//! What the kernel has in its page cache of a node id, and taking it away.
//!
//! While the kernel fills or writes a page it holds the page's lock, and whoever drops pages waits
//! for that. All nodes share the lane that drops pages, so that nothing is sent there which would
//! wait for a driver: pages go when no transfer of theirs is under way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuse_session::{InvalRange, Notifier};

/// The pages of a node id.
pub(crate) struct Pages {
    id: u64,
    /// Set before the pages are dropped for good.
    ended: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Whether there may be any.
    any: bool,
    /// Requests of the page cache that are not answered yet.
    transfers: usize,
    /// Who wants the pages dropped after that.
    wanted: Vec<Done>,
}

type Done = Box<dyn FnOnce() + Send>;

impl Pages {
    pub(crate) fn new(id: u64) -> Self {
        Self { id, ended: AtomicBool::new(false), state: Mutex::default() }
    }

    /// Ends the id: nothing is to enter the page cache any more.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// Tells whether the node was severed since it got the id: then the id is only good for what
    /// has it already.
    pub(crate) fn have_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Counts a request of the page cache until what is returned is dropped, after its answer.
    pub(crate) fn transfer(self: &Arc<Self>, notifier: &Notifier) -> Transfer {
        let mut state = self.lock();
        state.any = true;
        state.transfers += 1;
        drop(state);
        Transfer { pages: Arc::clone(self), notifier: notifier.clone() }
    }

    /// Tells whether there may be pages that nobody has asked to drop since.
    pub(crate) fn take_any(&self) -> bool {
        std::mem::take(&mut self.lock().any)
    }

    /// Drops all pages, with the attributes, and runs `done` when the kernel has.
    pub(crate) fn drop_all(&self, notifier: &Notifier, done: impl FnOnce() + Send + 'static) {
        let mut state = self.lock();
        if state.transfers > 0 {
            state.wanted.push(Box::new(done));
            return;
        }
        drop(state);
        notifier.inval_inode(self.id, InvalRange::All, move |_| done());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request of the page cache that is not answered yet.
pub(crate) struct Transfer {
    pages: Arc<Pages>,
    notifier: Notifier,
}

impl Drop for Transfer {
    fn drop(&mut self) {
        let mut state = self.pages.lock();
        state.transfers -= 1;
        if state.transfers > 0 || state.wanted.is_empty() {
            return;
        }
        let wanted = std::mem::take(&mut state.wanted);
        drop(state);
        let done = move || wanted.into_iter().for_each(|done| done());
        self.pages.drop_all(&self.notifier, done);
    }
}
