//! Nothing that the command does may hang: it ends by a deadline, and says where it was.

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// What is being done at the moment, to be told if it does not end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stage(Arc<Mutex<String>>);

impl Stage {
    /// Tells what is done from now on.
    pub(crate) fn enter(&self, what: impl Into<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = what.into();
    }

    fn current(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Runs `work` on a thread, which is left behind when the deadline has passed.
///
/// # Errors
///
/// Tells at which stage the work was when its time was over; else what the work answers.
pub(crate) fn within<R: Send + 'static>(
    deadline: Duration,
    work: impl FnOnce(&Stage) -> Result<R> + Send + 'static,
) -> Result<R> {
    let stage = Stage::default();
    let (done, result) = mpsc::channel();
    let worker = {
        let stage = stage.clone();
        thread::Builder::new().name("demo".into()).spawn(move || {
            // Nobody listens any more once the deadline has passed.
            let _ = done.send(work(&stage));
        })
    };
    worker.context("cannot start a thread")?;
    match result.recv_timeout(deadline) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => {
            bail!("not done after {} s, still {}", deadline.as_secs_f32(), stage.current())
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            bail!("a bug: panicked while {}", stage.current())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_in_time_gives_its_result() {
        assert_eq!(within(Duration::from_secs(10), |_| Ok(7)).unwrap(), 7);
    }

    #[test]
    fn what_hangs_is_left_behind_and_named() {
        let error = within(Duration::from_millis(100), |stage| -> Result<()> {
            stage.enter("waiting for ever");
            loop {
                thread::park();
            }
        });
        assert_eq!(error.unwrap_err().to_string(), "not done after 0.1 s, still waiting for ever");
    }

    #[test]
    fn what_panics_is_named() {
        let error = within(Duration::from_secs(10), |stage| -> Result<()> {
            stage.enter("counting");
            panic!("on purpose");
        });
        assert_eq!(error.unwrap_err().to_string(), "a bug: panicked while counting");
    }
}
