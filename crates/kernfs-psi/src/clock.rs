//! A clock for tests and simulations.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire};
use std::time::Duration;

use kernfs::{Clock, Timestamp};

use crate::agenda::nanos;
use crate::engine::Engine;

/// A clock that stands until it is moved; its clones are the same clock.
#[derive(Clone, Debug, Default)]
pub struct VirtualClock(Arc<AtomicU64>);

impl VirtualClock {
    /// Makes a clock that stands at 0.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves the clock; nothing is evaluated.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(nanos(by), AcqRel);
    }

    /// Moves the clock and stops on the way wherever triggers are due, to evaluate them on time.
    pub fn run(&self, engine: &Engine, by: Duration) {
        let end = self.monotonic() + by;
        let mut next = engine.advance();
        while let Some(wait) = next.filter(|&wait| self.monotonic() + wait <= end) {
            self.advance(wait);
            next = engine.advance();
        }
        self.advance(end.saturating_sub(self.monotonic()));
        engine.advance();
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        let time = self.monotonic();
        Timestamp { secs: time.as_secs() as i64, nanos: time.subsec_nanos() }
    }

    fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.0.load(Acquire))
    }
}
