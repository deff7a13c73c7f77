//! Locks.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes a lock; no code of users runs under one, so that a poisoned one is as good as any other.
#[inline]
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
