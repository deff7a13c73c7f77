//! Locks, atomics and thread facilities, in one place so that loom and shuttle can take them over.
//!
//! Every lock counts its depth in debug builds: user code must never run with one held
//! ([`assert_unlocked`]).

#[cfg(all(feature = "std", not(loom), not(shuttle)))]
mod imp {
    pub(crate) use core::sync::atomic;
    pub(crate) use std::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
    pub(crate) use std::thread_local;
}

#[cfg(loom)]
mod imp {
    pub(crate) use loom::sync::{
        Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic,
    };

    /// Takes the constant initializers of `std`, which loom does not know.
    macro_rules! loom_thread_local {
        ($($(#[$attr:meta])* static $name:ident: $type:ty = const { $init:expr };)*) => {
            loom::thread_local! { $($(#[$attr])* static $name: $type = $init;)* }
        };
    }
    pub(crate) use loom_thread_local as thread_local;
}

#[cfg(all(shuttle, not(loom)))]
mod imp {
    pub(crate) use shuttle::sync::{
        Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic,
    };
    pub(crate) use shuttle::thread_local;
}

#[cfg(all(not(feature = "std"), not(loom), not(shuttle)))]
mod imp {
    pub(crate) use core::sync::atomic;
    pub(crate) use spin::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
}

pub(crate) use imp::atomic;
#[cfg(any(feature = "std", loom, shuttle))]
pub(crate) use imp::thread_local;
#[cfg(any(feature = "std", loom, shuttle))]
pub(crate) use parker::Parker;

use core::ops::{Deref, DerefMut};

/// How one thread sleeps until others wake it.
#[cfg(all(any(feature = "std", shuttle), not(loom)))]
mod parker {
    use core::time::Duration;

    #[cfg(shuttle)]
    use shuttle::thread::{self, Thread};
    #[cfg(not(shuttle))]
    use std::thread::{self, Thread};

    use super::atomic::AtomicBool;
    use super::atomic::Ordering::{AcqRel, Release};

    pub(crate) struct Parker {
        thread: Thread,
        unparked: AtomicBool,
    }

    impl Parker {
        pub(crate) fn of_this_thread() -> Self {
            Self { thread: thread::current(), unparked: AtomicBool::new(false) }
        }

        pub(crate) fn unpark(&self) {
            self.unparked.store(true, Release);
            self.thread.unpark();
        }

        /// Sleeps until it is unparked, if it was not before.
        pub(crate) fn park(&self) {
            while !self.was_unparked() {
                thread::park();
            }
        }

        /// Tells whether it was unparked since this was asked last.
        pub(crate) fn was_unparked(&self) -> bool {
            self.unparked.swap(false, AcqRel)
        }

        /// Sleeps until it is unparked, or the time is over, or for no reason.
        pub(crate) fn doze(&self, timeout: Duration) {
            #[cfg(not(shuttle))]
            thread::park_timeout(timeout);
            // Shuttle has no time: its clocks move at each look instead.
            #[cfg(shuttle)]
            let _ = (timeout, thread::yield_now());
        }
    }
}

/// The same for loom, where `park` forgets a wake-up that comes while it waits for a lock.
#[cfg(loom)]
mod parker {
    use core::time::Duration;

    pub(crate) struct Parker {
        unparked: loom::sync::Mutex<bool>,
        condvar: loom::sync::Condvar,
    }

    impl Parker {
        pub(crate) fn of_this_thread() -> Self {
            Self { unparked: loom::sync::Mutex::new(false), condvar: loom::sync::Condvar::new() }
        }

        pub(crate) fn unpark(&self) {
            *self.unparked.lock().unwrap() = true;
            self.condvar.notify_one();
        }

        pub(crate) fn park(&self) {
            let mut unparked = self.unparked.lock().unwrap();
            while !core::mem::take(&mut *unparked) {
                unparked = self.condvar.wait(unparked).unwrap();
            }
        }

        pub(crate) fn was_unparked(&self) -> bool {
            core::mem::take(&mut *self.unparked.lock().unwrap())
        }

        /// Loom has no time: its clocks move at each look instead.
        pub(crate) fn doze(&self, _timeout: Duration) {
            loom::thread::yield_now();
        }
    }
}

/// Takes what a `std` lock answers: a poisoned lock is as good as any other here, since no user
/// code runs under one.
#[cfg(any(feature = "std", loom, shuttle))]
macro_rules! acquire {
    ($lock:expr) => {
        $lock.unwrap_or_else(|poisoned| poisoned.into_inner())
    };
}

#[cfg(not(any(feature = "std", loom, shuttle)))]
macro_rules! acquire {
    ($lock:expr) => {
        $lock
    };
}

/// A mutual exclusion lock that is never poisoned.
#[derive(Debug)]
pub(crate) struct Mutex<T>(imp::Mutex<T>);

impl<T> Mutex<T> {
    #[cfg(not(any(loom, shuttle)))]
    pub(crate) const fn new(value: T) -> Self {
        Self(imp::Mutex::new(value))
    }

    #[cfg(any(loom, shuttle))]
    pub(crate) fn new(value: T) -> Self {
        Self(imp::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> Guard<imp::MutexGuard<'_, T>> {
        Guard::new(acquire!(self.0.lock()))
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

/// A lock with many readers or one writer that is never poisoned.
#[derive(Debug)]
pub(crate) struct RwLock<T>(imp::RwLock<T>);

impl<T> RwLock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(imp::RwLock::new(value))
    }

    pub(crate) fn read(&self) -> Guard<imp::RwLockReadGuard<'_, T>> {
        Guard::new(acquire!(self.0.read()))
    }

    pub(crate) fn write(&self) -> Guard<imp::RwLockWriteGuard<'_, T>> {
        Guard::new(acquire!(self.0.write()))
    }
}

/// A held lock, counted in debug builds.
pub(crate) struct Guard<G> {
    guard: G,
    _depth: depth::Held,
}

impl<G> Guard<G> {
    fn new(guard: G) -> Self {
        Self { guard, _depth: depth::Held::new() }
    }
}

impl<G: Deref> Deref for Guard<G> {
    type Target = G::Target;

    fn deref(&self) -> &G::Target {
        &self.guard
    }
}

impl<G: DerefMut> DerefMut for Guard<G> {
    fn deref_mut(&mut self) -> &mut G::Target {
        &mut self.guard
    }
}

/// Asserts in debug builds that this thread holds no kernfs lock: user code is about to run.
pub(crate) fn assert_unlocked() {
    debug_assert_eq!(depth::current(), 0, "user code would run with a kernfs lock held");
}

/// The number of kernfs locks that a thread holds.
#[cfg(all(debug_assertions, any(feature = "std", loom, shuttle)))]
mod depth {
    use core::cell::Cell;

    super::thread_local! {
        static DEPTH: Cell<u32> = const { Cell::new(0) };
    }

    pub(super) struct Held;

    impl Held {
        pub(super) fn new() -> Self {
            DEPTH.with(|depth| depth.set(depth.get() + 1));
            Self
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            DEPTH.with(|depth| depth.set(depth.get() - 1));
        }
    }

    pub(super) fn current() -> u32 {
        DEPTH.with(Cell::get)
    }
}

#[cfg(not(all(debug_assertions, any(feature = "std", loom, shuttle))))]
mod depth {
    pub(super) struct Held;

    impl Held {
        pub(super) fn new() -> Self {
            Self
        }
    }

    pub(super) fn current() -> u32 {
        0
    }
}

/// A cell whose contents are guarded by a protocol of atomics instead of a lock.
#[derive(Debug)]
#[cfg(not(loom))]
pub(crate) struct UnsafeCell<T>(core::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(core::cell::UnsafeCell::new(value))
    }

    /// Returns the pointer of a reader, to be dereferenced while no writer can be.
    pub(crate) fn read(&self) -> *const T {
        self.0.get()
    }

    /// Returns the pointer of the one writer, to be dereferenced while nobody else can be.
    pub(crate) fn write(&self) -> *mut T {
        self.0.get()
    }
}

/// The same under loom, which checks at each call that the access is ordered after all others.
#[derive(Debug)]
#[cfg(loom)]
pub(crate) struct UnsafeCell<T>(loom::cell::UnsafeCell<T>);

#[cfg(loom)]
impl<T> UnsafeCell<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(loom::cell::UnsafeCell::new(value))
    }

    pub(crate) fn read(&self) -> *const T {
        self.0.with(|pointer| pointer)
    }

    pub(crate) fn write(&self) -> *mut T {
        self.0.with_mut(|pointer| pointer)
    }
}
