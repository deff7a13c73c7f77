//! SIGINT and SIGTERM: the first asks for an orderly end, the second kills.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use signal_hook::low_level::signal_name;

use crate::watchdog::Stop;

/// A signal that asked for the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stopped by {}", signal_name(*.0).unwrap_or("a signal"))]
pub(crate) struct Stopped(i32);

impl Stopped {
    /// Takes the number of the signal.
    pub(crate) fn by(signal: i32) -> Self {
        Self(signal)
    }

    /// Returns the exit status that shells give to who was killed by the signal.
    pub(crate) fn exit_status(self) -> u8 {
        u8::try_from(128 + self.0).unwrap_or(u8::MAX)
    }
}

/// Whether the next signal kills.
#[derive(Clone, Debug, Default)]
pub(crate) struct Patience(Arc<AtomicBool>);

impl Patience {
    /// Has the first signal told, from a thread, and any other do what it does by default.
    ///
    /// # Errors
    ///
    /// The signals cannot be handled.
    pub(crate) fn listen(&self, tell: Stop) -> Result<()> {
        let context = "cannot handle signals";
        for signal in [SIGINT, SIGTERM] {
            // In this order: the second signal finds what the first has set.
            flag::register_conditional_default(signal, Arc::clone(&self.0)).context(context)?;
            flag::register(signal, Arc::clone(&self.0)).context(context)?;
        }
        let mut signals = Signals::new([SIGINT, SIGTERM]).context(context)?;
        let listener = thread::Builder::new().name("signals".into());
        let listener =
            listener.spawn(move || signals.forever().for_each(|it| tell(Stopped::by(it))));
        listener.context(context).map(drop)
    }

    /// Lets any signal kill from now on, for there is nothing to be done before.
    pub(crate) fn end(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
