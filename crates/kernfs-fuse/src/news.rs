//! News for the kernel that an operation makes: its answer comes after them.
//!
//! An owner who changes something is held up until the kernel knows. Inside an operation nobody
//! may wait, for the kernel may be waiting for the answer: there it is the answer that waits.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use fuse_session::{Completed, Errno, Reply};

use crate::parked;

thread_local! {
    /// What the operation that runs on this thread still owes.
    static OWED: RefCell<Vec<Completed>> = const { RefCell::new(Vec::new()) };
}

/// Longer than any scheduling delay; a bound in case the connection is stuck.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// Waits for a notification that takes no lock in the kernel, and hence microseconds; inside an
/// operation, leaves that to its answer.
pub(crate) fn wait(completed: Completed) {
    if completed.wait(Some(Instant::now() + PATIENCE)) == Err(Errno::EDEADLK) {
        OWED.with_borrow_mut(|owed| owed.push(completed));
    }
}

/// Takes what the operation on this thread owes.
pub(crate) fn take() -> Vec<Completed> {
    OWED.take()
}

/// Runs what belongs to other operations than the one on this thread, if there is one.
pub(crate) fn apart(others: impl FnOnce()) {
    let owed = take();
    others();
    OWED.set(owed);
}

/// Answers when the kernel has all that it is owed.
pub(crate) fn answer_after<K: 'static>(
    reply: Reply<K>,
    answer: impl FnOnce(Reply<K>) + Send + 'static,
) {
    let owed = take();
    if owed.is_empty() {
        return answer(reply);
    }
    // Not parked: what was done is done, and a signal does not undo it.
    parked::spawn(async move {
        taken(owed).await;
        answer(reply);
    });
}

/// Waits until the kernel has taken everything.
pub(crate) async fn taken(owed: Vec<Completed>) {
    for completed in owed {
        // An error is the end of the session, or nothing to do.
        let _ = completed.await;
    }
}
