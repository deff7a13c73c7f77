//! Nothing that the command does may hang: it ends by a deadline, and says where it was.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::signals::Stopped;

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

/// What the work ends with, unless its time is over.
enum End<R> {
    Done(thread::Result<Result<R>>),
    Stopped(Stopped),
}

/// Takes note that the work shall be stopped.
pub(crate) type Stop = Box<dyn Fn(Stopped) + Send>;

/// Runs `work` on a thread, which is left behind when the deadline has passed, or when it is
/// stopped through what `listen` gets.
///
/// # Errors
///
/// Tells at which stage the work was when its time was over, or [`Stopped`]; else what the work
/// answers.
pub(crate) fn within<R: Send + 'static>(
    deadline: Duration,
    listen: impl FnOnce(Stop) -> Result<()>,
    work: impl FnOnce(&Stage) -> Result<R> + Send + 'static,
) -> Result<R> {
    let stage = Stage::default();
    let (end, ended) = mpsc::channel();
    let stop = end.clone();
    // Nobody listens any more once one end has come.
    listen(Box::new(move |stopped| drop(stop.send(End::Stopped(stopped)))))?;
    let worker = {
        let stage = stage.clone();
        thread::Builder::new().name("demo".into()).spawn(move || {
            // Nothing of what the work left broken is looked at.
            let result = catch_unwind(AssertUnwindSafe(|| work(&stage)));
            let _ = end.send(End::Done(result));
        })
    };
    worker.context("cannot start a thread")?;
    match ended.recv_timeout(deadline) {
        Ok(End::Done(Ok(result))) => result,
        Ok(End::Done(Err(_))) => bail!("a bug: panicked while {}", stage.current()),
        Ok(End::Stopped(stopped)) => {
            Err(stopped).with_context(|| format!("not done, still {}", stage.current()))
        }
        Err(_) => bail!("not done after {} s, still {}", deadline.as_secs_f32(), stage.current()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nobody(_: Stop) -> Result<()> {
        Ok(())
    }

    #[test]
    fn what_ends_in_time_gives_its_result() {
        assert_eq!(within(Duration::from_secs(10), nobody, |_| Ok(7)).unwrap(), 7);
    }

    #[test]
    fn what_hangs_is_left_behind_and_named() {
        let error = within(Duration::from_millis(100), nobody, |stage| -> Result<()> {
            stage.enter("waiting for ever");
            loop {
                thread::park();
            }
        });
        assert_eq!(error.unwrap_err().to_string(), "not done after 0.1 s, still waiting for ever");
    }

    #[test]
    fn what_panics_is_named() {
        let error = within(Duration::from_secs(10), nobody, |stage| -> Result<()> {
            stage.enter("counting");
            panic!("on purpose");
        });
        assert_eq!(error.unwrap_err().to_string(), "a bug: panicked while counting");
    }

    #[test]
    fn what_is_stopped_is_left_behind_and_named() {
        let at_once = |stop: Stop| {
            stop(Stopped::by(15));
            Ok(())
        };
        let error = within(Duration::from_secs(10), at_once, |_| -> Result<()> {
            loop {
                thread::park();
            }
        });
        let error = error.unwrap_err();
        assert_eq!(error.downcast_ref::<Stopped>().unwrap().exit_status(), 143);
        assert!(format!("{error:#}").ends_with("stopped by SIGTERM"), "{error:#}");
    }
}
