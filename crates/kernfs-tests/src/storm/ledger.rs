//! The books of all drivers of a storm.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use kernfs::OpenOp;

/// What was opened, released and freed, and which drivers there are.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    opens: AtomicU64,
    releases: AtomicU64,
    frees: AtomicU64,
    frees_before_release: AtomicU64,
    drivers_made: AtomicU64,
    drivers_dropped: AtomicU64,
}

/// The per-open state of a driver.
#[derive(Debug)]
pub(super) struct OpenState {
    ledger: Arc<Ledger>,
    is_released: Arc<AtomicBool>,
}

/// What a driver has of the ledger.
#[derive(Debug)]
pub(super) struct Entry(Arc<Ledger>);

impl Entry {
    /// Notes a driver.
    pub(super) fn new(ledger: &Arc<Ledger>) -> Self {
        ledger.drivers_made.fetch_add(1, SeqCst);
        Self(Arc::clone(ledger))
    }

    /// Notes an open file, and arranges for its end to be noted.
    pub(super) fn open(&self, op: &mut OpenOp<'_>) -> OpenState {
        let (ledger, is_released) = (Arc::clone(&self.0), Arc::new(AtomicBool::new(false)));
        ledger.opens.fetch_add(1, SeqCst);
        let state =
            OpenState { ledger: Arc::clone(&ledger), is_released: Arc::clone(&is_released) };
        op.on_free(move || {
            ledger.frees.fetch_add(1, SeqCst);
            if !is_released.load(SeqCst) {
                ledger.frees_before_release.fetch_add(1, SeqCst);
            }
        });
        state
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.0.drivers_dropped.fetch_add(1, SeqCst);
    }
}

impl Drop for OpenState {
    /// Notes that it was released; the state goes by value, and so there is no second time.
    fn drop(&mut self) {
        self.is_released.store(true, SeqCst);
        self.ledger.releases.fetch_add(1, SeqCst);
    }
}

impl Ledger {
    /// Returns how things stand.
    pub(super) fn balance(&self) -> Balance {
        Balance {
            opens: self.opens.load(SeqCst),
            releases: self.releases.load(SeqCst),
            frees: self.frees.load(SeqCst),
            frees_before_release: self.frees_before_release.load(SeqCst),
            drivers_made: self.drivers_made.load(SeqCst),
            drivers_dropped: self.drivers_dropped.load(SeqCst),
        }
    }
}

/// How things stand in a ledger.
#[derive(Clone, Copy, Debug)]
pub(super) struct Balance {
    pub(super) opens: u64,
    releases: u64,
    frees: u64,
    frees_before_release: u64,
    drivers_made: u64,
    drivers_dropped: u64,
}

impl Balance {
    /// Tells whether everything that began has come to its end.
    pub(super) fn is_even(&self) -> bool {
        self.releases == self.opens
            && self.frees == self.opens
            && self.frees_before_release == 0
            && self.drivers_dropped == self.drivers_made
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { opens, releases, frees, drivers_made, drivers_dropped, .. } = self;
        writeln!(f, "{opens} opens, {releases} releases, {frees} frees")?;
        writeln!(f, "{drivers_made} drivers, {drivers_dropped} dropped")
    }
}
