//! Replies that wait for something: parked as futures, never as threads.
//!
//! A future is polled once where it begins, and then by a pool whenever it is woken: wakers are
//! called by owners, who must not run drivers from there. The pool grows when drivers are slow.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use async_task::{Runnable, Task};
use fuse_session::{Errno, Parked, Reply};

/// Answers when `work` is done, or with EINTR when the caller gets a signal; then `work` is dropped.
///
/// A signal that comes while `work` is being polled waits for that: what a driver has handed out
/// is delivered, and not lost.
pub(crate) fn answer_when_done<K: 'static, T: Send + 'static>(
    reply: Reply<K>,
    turn: &Arc<Turn>,
    work: impl Future<Output = T> + Send + 'static,
    answer: impl FnOnce(Reply<K>, T) + Send + 'static,
) {
    let call = Arc::new(Call(Mutex::new(State { phase: Phase::Waiting, task: None })));
    let interrupted = Arc::clone(&call);
    let parked = reply.park(move |reply| interrupted.interrupt(reply));
    let finish = move |parked: Parked<K>, call: &Call<K>, value| {
        // Kept from the interrupt by the lock: one of the two finds what the other has left.
        let mut state = call.lock();
        let reply = match std::mem::replace(&mut state.phase, Phase::Ended) {
            Phase::Interrupted(reply) => Some(reply),
            _ => parked.take(),
        };
        match reply {
            Some(reply) => {
                drop(state);
                answer(reply, value);
            }
            // It is on its way with the reply.
            None => state.phase = Phase::Done(Box::new(move |reply| answer(reply, value))),
        }
    };
    let mut rest = Some((parked, finish));
    let mut work = Some(Box::pin(work));
    // Not kept by its own task: when the session ends, the interrupt is dropped, and all with it.
    let weak = Arc::downgrade(&call);
    let run = poll_fn(move |cx| {
        let Some(call) = weak.upgrade().filter(|call| call.begin()) else {
            return Poll::Ready(());
        };
        match poll(work.as_mut(), cx) {
            Poll::Ready(value) => {
                work = None;
                if let Some((parked, finish)) = rest.take() {
                    finish(parked, &call, value);
                }
                Poll::Ready(())
            }
            Poll::Pending => match call.pause() {
                None => Poll::Pending,
                Some(reply) => {
                    work = None;
                    rest = None;
                    reply.error(Errno::EINTR);
                    Poll::Ready(())
                }
            },
        }
    });
    let turn = Arc::clone(turn);
    let (runnable, task) = async_task::spawn(run, move |runnable| turn.give(runnable));
    call.started(task);
    drop(call);
    runnable.run();
}

/// Runs something to its end, whatever happens.
pub(crate) fn spawn(work: impl Future<Output = ()> + Send + 'static) {
    let turn = Arc::new(Turn::default());
    let (runnable, task) = async_task::spawn(work, move |runnable| turn.give(runnable));
    task.detach();
    runnable.run();
}

/// A reply that waits, as its interrupt sees it; kept by the interrupt alone.
struct Call<K>(Mutex<State<K>>);

struct State<K> {
    phase: Phase<K>,
    /// Cancelled when dropped.
    task: Option<Task<()>>,
}

enum Phase<K> {
    /// Nobody polls the work.
    Waiting,
    /// Somebody does.
    Polled,
    /// Somebody does, and has to answer this.
    Interrupted(Reply<K>),
    /// The work is done, and the interrupt has the reply.
    Done(Box<dyn FnOnce(Reply<K>) + Send>),
    /// Answered, or about to be.
    Ended,
}

impl<K: 'static> Call<K> {
    /// Keeps the task until this is interrupted or dropped.
    fn started(&self, task: Task<()>) {
        self.lock().task = Some(task);
    }

    /// Tells whether the work is still wanted, and holds interrupts off while it is polled.
    fn begin(&self) -> bool {
        let mut state = self.lock();
        let wanted = matches!(state.phase, Phase::Waiting);
        if wanted {
            state.phase = Phase::Polled;
        }
        wanted
    }

    /// Goes back to waiting, unless an interrupt has come: then the reply is the caller's.
    fn pause(&self) -> Option<Reply<K>> {
        let mut state = self.lock();
        match std::mem::replace(&mut state.phase, Phase::Waiting) {
            Phase::Interrupted(reply) => {
                state.phase = Phase::Ended;
                Some(reply)
            }
            _ => None,
        }
    }

    fn interrupt(&self, reply: Reply<K>) {
        let mut state = self.lock();
        match std::mem::replace(&mut state.phase, Phase::Ended) {
            Phase::Polled => state.phase = Phase::Interrupted(reply),
            Phase::Done(answer) => {
                drop(state);
                answer(reply);
            }
            _ => {
                let task = state.task.take();
                drop(state);
                drop(task);
                reply.error(Errno::EINTR);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn poll<F: Future>(work: Option<&mut Pin<Box<F>>>, cx: &mut Context<'_>) -> Poll<F::Output> {
    work.map_or(Poll::Pending, |work| work.as_mut().poll(cx))
}

/// The next poll of some work that was woken: for the pool, or for who cannot wait for the pool.
#[derive(Default)]
pub(crate) struct Turn(Mutex<Option<Runnable>>);

impl Turn {
    fn give(self: &Arc<Self>, runnable: Runnable) {
        let before = self.lock().replace(runnable);
        // There is one at a time: the task is woken anew only when it has run.
        debug_assert!(before.is_none());
        let turn = Arc::clone(self);
        blocking::unblock(move || turn.take()).detach();
    }

    /// Runs the work here and now, if it was woken and nobody has got to it.
    pub(crate) fn take(&self) {
        let runnable = self.lock().take();
        if let Some(runnable) = runnable {
            runnable.run();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Runnable>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
