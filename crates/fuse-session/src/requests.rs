//! Knows where each unanswered request is, so that an interrupt finds it.
//!
//! A request is in one of two places. While its handler runs, it is in the
//! *slot* of its thread: a store and a compare-exchange per request, on
//! a cache line of its own. If it is parked, or its handler returns without an
//! answer, it moves to the *table*, under the table's lock. Whoever answers
//! takes it out of the slot by compare-exchange; if that fails, it is in the
//! table, or the move is under way and ends before the lock is free.
//!
//! An interrupt that finds the request in a slot leaves a mark there, which
//! the move takes along. So no interrupt is lost between the start of a handler
//! and the parking of its reply.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// All unanswered requests of a session; `C` is what is to be done with a parked reply when its
/// caller got a signal.
pub(crate) struct Requests<C> {
    slots: Box<[Slot]>,
    /// Held for a few instructions, never while user code runs.
    table: Mutex<Table<C>>,
}

/// What an interrupt found.
pub(crate) enum Interrupted<C> {
    /// A parked reply; the caller runs this, outside all locks.
    Parked(C),
    /// A handler that still runs, or an unparked reply; it can see the mark.
    Marked,
    /// Nothing: answered already, or not read from the device yet.
    Unknown,
}

impl<C> Requests<C> {
    /// Makes room for this many threads.
    pub(crate) fn new(slots: usize) -> Self {
        Self {
            slots: (0..slots).map(|_| Slot::default()).collect(),
            table: Mutex::new(Table { away: HashMap::new(), parkings: 0, closed: false }),
        }
    }

    /// Puts a request into the slot of the calling thread.
    pub(crate) fn begin(&self, slot: usize, unique: u64) {
        self.slots[slot].current.store(unique, Ordering::Release);
    }

    /// Clears the slot; returns `true` if the request had to move to the table.
    pub(crate) fn end(&self, slot: usize, unique: u64) -> bool {
        // Only an answer or a park can change it, and both leave 0.
        if self.slots[slot].current.load(Ordering::Acquire) != unique {
            return false;
        }
        let mut table = self.lock();
        self.leave_slot(&mut table, slot, unique)
    }

    /// Takes a request out, because it is being answered.
    pub(crate) fn finish(&self, slot: usize, unique: u64) {
        if !self.slots[slot].clear(unique) {
            let entry = self.lock().away.remove(&unique);
            // The callback may own anything, so it is dropped without the lock.
            drop(entry);
        }
    }

    /// Parks a request; returns the number of this parking.
    ///
    /// Gives the callback back if the interrupt has come already, or the session
    /// has ended. The flag tells whether the request left its slot just now.
    pub(crate) fn park(&self, slot: usize, unique: u64, on_interrupt: C) -> (u64, bool, Option<C>) {
        let mut table = self.lock();
        let moved = self.leave_slot(&mut table, slot, unique);
        table.parkings += 1;
        let parking = table.parkings;
        if table.closed {
            return (parking, moved, Some(on_interrupt));
        }
        let entry = table.away.entry(unique).or_insert(Away { interrupted: false, parked: None });
        if entry.interrupted {
            // Taken by this interrupt; a later parking waits for the next.
            entry.interrupted = false;
            return (parking, moved, Some(on_interrupt));
        }
        entry.parked = Some((parking, on_interrupt));
        (parking, moved, None)
    }

    /// Ends a parking; returns `false` if an interrupt did so before.
    pub(crate) fn unpark(&self, unique: u64, parking: u64) -> bool {
        let mut table = self.lock();
        let ours = table.away.get_mut(&unique).and_then(|entry| {
            entry
                .parked
                .take_if(|(number, _)| *number == parking)
                .map(|(_, on_interrupt)| on_interrupt)
        });
        drop(table);
        ours.is_some()
    }

    /// Looks for the request that an interrupt names.
    pub(crate) fn interrupt(&self, unique: u64) -> Interrupted<C> {
        let mut table = self.lock();
        if let Some(entry) = table.away.get_mut(&unique) {
            if let Some((_, on_interrupt)) = entry.parked.take() {
                return Interrupted::Parked(on_interrupt);
            }
            entry.interrupted = true;
            return Interrupted::Marked;
        }
        // A request cannot move to the table meanwhile: we hold its lock.
        for slot in &self.slots {
            if unique != 0 && slot.current.load(Ordering::Acquire) == unique {
                slot.interrupted.store(unique, Ordering::Release);
                return Interrupted::Marked;
            }
        }
        Interrupted::Unknown
    }

    /// Returns whether an interrupt for this unparked request has come.
    pub(crate) fn is_interrupted(&self, slot: usize, unique: u64) -> bool {
        let slot = &self.slots[slot];
        if slot.current.load(Ordering::Acquire) == unique {
            return slot.interrupted.load(Ordering::Acquire) == unique;
        }
        let table = self.lock();
        table.away.get(&unique).is_some_and(|entry| entry.interrupted)
    }

    /// Returns the number of parked requests.
    pub(crate) fn parked(&self) -> usize {
        let table = self.lock();
        table.away.values().filter(|entry| entry.parked.is_some()).count()
    }

    /// Drops all callbacks, at the end of the session, and takes no more.
    ///
    /// A callback may own what owns its parked reply, which owns this table.
    pub(crate) fn close(&self) {
        let mut table = self.lock();
        table.closed = true;
        let away = std::mem::take(&mut table.away);
        drop(table);
        drop(away);
    }

    /// Moves a request from its slot to the table, with its mark.
    fn leave_slot(&self, table: &mut Table<C>, slot: usize, unique: u64) -> bool {
        let slot = &self.slots[slot];
        if !slot.clear(unique) {
            return false;
        }
        let entry =
            Away { interrupted: slot.interrupted.load(Ordering::Acquire) == unique, parked: None };
        table.away.insert(unique, entry);
        true
    }

    fn lock(&self) -> MutexGuard<'_, Table<C>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The request whose handler a thread runs.
///
/// Aligned so that no two threads write to one pair of cache lines.
#[derive(Default)]
#[repr(align(128))]
struct Slot {
    /// Number of the request; 0 when there is none, or it was answered or moved.
    current: AtomicU64,
    /// Number of the last request here that was interrupted. Written with the
    /// table locked; a stale one is harmless, since numbers do not come back.
    interrupted: AtomicU64,
}

impl Slot {
    fn clear(&self, unique: u64) -> bool {
        self.current.compare_exchange(unique, 0, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

struct Table<C> {
    away: HashMap<u64, Away<C>>,
    /// Number of the last parking, so that a stale handle cannot end a later one.
    parkings: u64,
    closed: bool,
}

struct Away<C> {
    interrupted: bool,
    parked: Option<(u64, C)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answered_request_is_unknown() {
        let requests = Requests::<()>::new(2);
        requests.begin(1, 4);
        requests.finish(1, 4);
        assert!(!requests.end(1, 4));
        assert!(matches!(requests.interrupt(4), Interrupted::Unknown));
    }

    #[test]
    fn an_interrupt_during_the_handler_meets_the_parking() {
        let requests = Requests::<()>::new(2);
        requests.begin(0, 4);
        assert!(matches!(requests.interrupt(4), Interrupted::Marked));
        assert!(requests.is_interrupted(0, 4));
        let (_, moved, callback) = requests.park(0, 4, ());
        assert!(moved && callback.is_some());
        assert_eq!(requests.parked(), 0);
    }

    #[test]
    fn an_interrupt_finds_a_reply_that_outlived_its_handler() {
        let requests = Requests::<()>::new(1);
        requests.begin(0, 4);
        assert!(requests.end(0, 4));
        requests.begin(0, 6);
        assert!(matches!(requests.interrupt(4), Interrupted::Marked));
        assert!(requests.is_interrupted(0, 4));
        assert!(!requests.is_interrupted(0, 6));
        let (_, moved, callback) = requests.park(0, 4, ());
        assert!(!moved && callback.is_some());
    }

    #[test]
    fn a_parked_reply_is_taken_once() {
        let requests = Requests::<()>::new(1);
        requests.begin(0, 4);
        let (parking, ..) = requests.park(0, 4, ());
        assert_eq!(requests.parked(), 1);
        assert!(matches!(requests.interrupt(4), Interrupted::Parked(_)));
        assert!(!requests.unpark(4, parking));
        requests.finish(0, 4);
        assert!(matches!(requests.interrupt(4), Interrupted::Unknown));
    }

    #[test]
    fn a_stale_handle_does_not_end_a_later_parking() {
        let requests = Requests::<()>::new(1);
        requests.begin(0, 4);
        let (first, ..) = requests.park(0, 4, ());
        assert!(matches!(requests.interrupt(4), Interrupted::Parked(_)));
        let (second, ..) = requests.park(0, 4, ());
        assert!(!requests.unpark(4, first));
        assert!(requests.unpark(4, second));
    }

    #[test]
    fn nothing_is_parked_after_the_end() {
        let requests = Requests::<()>::new(1);
        requests.begin(0, 4);
        let (parking, ..) = requests.park(0, 4, ());
        requests.close();
        assert!(!requests.unpark(4, parking));
        assert!(requests.park(0, 4, ()).2.is_some());
        assert_eq!(requests.parked(), 0);
    }

    #[test]
    fn number_zero_never_matches_an_empty_slot() {
        let requests = Requests::<()>::new(1);
        assert!(matches!(requests.interrupt(0), Interrupted::Unknown));
    }
}
