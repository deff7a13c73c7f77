//! The books that drivers keep about their callbacks and open files, to hold the promise to them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kernfs::OpenOp;

/// What happened in the drivers of one tree; belongs to none of them.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    running: AtomicUsize,
    calls: AtomicUsize,
    over: AtomicBool,
    late: AtomicUsize,
    lives: Mutex<Vec<Life>>,
}

/// What became of one open file.
#[derive(Clone, Copy, Debug, Default)]
struct Life {
    releases: usize,
    frees: usize,
    freed_too_early: bool,
}

/// An open file in the ledger: the per-open state of the drivers.
#[derive(Debug)]
pub(crate) struct OpenId(usize);

/// A callback while it runs.
#[must_use = "the callback ends when it is dropped"]
pub(crate) struct Call<'a>(&'a Ledger);

impl Ledger {
    /// Notes that a callback has begun.
    pub(crate) fn enter(&self) -> Call<'_> {
        self.calls.fetch_add(1, SeqCst);
        self.running.fetch_add(1, SeqCst);
        if self.over.load(SeqCst) {
            self.late.fetch_add(1, SeqCst);
        }
        Call(self)
    }

    /// Notes an open file, and arranges that its end is noted.
    pub(crate) fn open(self: &Arc<Self>, op: &mut OpenOp<'_>) -> OpenId {
        let mut lives = self.lives();
        let id = lives.len();
        lives.push(Life::default());
        drop(lives);
        // Holds the ledger, for it could not hold the driver.
        let ledger = Arc::clone(self);
        op.on_free(move || ledger.free(id));
        OpenId(id)
    }

    /// Notes that an open file is released.
    #[expect(clippy::needless_pass_by_value, reason = "nobody shall have it any more")]
    pub(crate) fn release(&self, open: OpenId) {
        self.lives()[open.0].releases += 1;
    }

    fn free(&self, id: usize) {
        let life = &mut self.lives()[id];
        life.frees += 1;
        life.freed_too_early |= life.releases == 0;
    }

    /// Notes that the removal has returned: from now on no callback may run.
    pub(crate) fn close(&self) {
        self.over.store(true, SeqCst);
    }

    /// Returns how things stand.
    pub(crate) fn balance(&self) -> Balance {
        let lives = self.lives();
        let once = |ends: fn(&Life) -> usize| lives.iter().filter(|life| ends(life) == 1).count();
        Balance {
            calls: self.calls.load(SeqCst),
            running: self.running.load(SeqCst),
            late: self.late.load(SeqCst),
            opens: lives.len(),
            released_once: once(|life| life.releases),
            freed_once: once(|life| life.frees),
            freed_too_early: lives.iter().filter(|life| life.freed_too_early).count(),
        }
    }

    fn lives(&self) -> MutexGuard<'_, Vec<Life>> {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

/// How things stand in a ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Balance {
    /// Callbacks that began, ever.
    pub(crate) calls: usize,
    /// Callbacks that have not ended.
    pub(crate) running: usize,
    /// Callbacks that began after the removal had returned.
    pub(crate) late: usize,
    /// Open files, ever.
    pub(crate) opens: usize,
    /// Open files that were released exactly once.
    pub(crate) released_once: usize,
    /// Open files that were freed exactly once.
    pub(crate) freed_once: usize,
    /// Open files that were freed before they were released.
    pub(crate) freed_too_early: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callbacks_are_counted_while_they_run_and_when_they_come_late() {
        let ledger = Ledger::default();
        let call = ledger.enter();
        assert_eq!(ledger.balance(), Balance { calls: 1, running: 1, ..Balance::default() });
        drop(call);
        ledger.close();
        drop(ledger.enter());
        assert_eq!(ledger.balance(), Balance { calls: 2, late: 1, ..Balance::default() });
    }

    #[test]
    fn only_what_ends_once_and_in_order_is_in_order() {
        let ledger = Ledger::default();
        ledger.lives().extend([Life::default(); 3]);
        ledger.release(OpenId(0));
        ledger.free(0);
        ledger.release(OpenId(1));
        ledger.release(OpenId(1));
        ledger.free(2);
        let Balance { opens, released_once, freed_once, freed_too_early, .. } = ledger.balance();
        assert_eq!((opens, released_once, freed_once, freed_too_early), (3, 1, 2, 1));
    }
}
