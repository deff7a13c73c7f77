//! Running user code: which operations this thread is inside of, which turns self-deadlock into
//! EDEADLK, and panics, which end here.
//!
//! Without `std` there are no threads to ask about, nor blocking waits that could deadlock.

/// Identifies an operation: its tree, and the open file or directory that it works on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) tree: usize,
    pub(crate) object: usize,
}

#[cfg(any(feature = "std", loom, shuttle))]
mod imp {
    use alloc::vec::Vec;
    use core::cell::{Cell, RefCell};

    use super::Place;

    crate::sync::thread_local! {
        /// The innermost operation: all that the usual case touches.
        static INNERMOST: Cell<Place> = const { Cell::new(Place { tree: 0, object: 0 }) };
        /// The operations around it: a driver that is a client of another file.
        static OUTER: RefCell<Vec<Place>> = const { RefCell::new(Vec::new()) };
    }

    /// Marks this thread as inside an operation until dropped.
    pub(crate) struct Inside {
        outer: Place,
    }

    impl Inside {
        #[inline]
        pub(crate) fn enter(place: Place) -> Self {
            let outer = INNERMOST.with(|innermost| innermost.replace(place));
            if outer.tree != 0 {
                OUTER.with(|stack| stack.borrow_mut().push(outer));
            }
            Self { outer }
        }
    }

    impl Drop for Inside {
        #[inline]
        fn drop(&mut self) {
            INNERMOST.with(|innermost| innermost.set(self.outer));
            if self.outer.tree != 0 {
                OUTER.with(|stack| stack.borrow_mut().pop());
            }
        }
    }

    pub(crate) fn any(matches: impl Fn(Place) -> bool) -> bool {
        let innermost = INNERMOST.with(Cell::get);
        innermost.tree != 0
            && (matches(innermost)
                || OUTER.with(|stack| stack.borrow().iter().any(|&place| matches(place))))
    }
}

#[cfg(not(any(feature = "std", loom, shuttle)))]
mod imp {
    use super::Place;

    pub(crate) struct Inside;

    impl Inside {
        pub(crate) fn enter(_place: Place) -> Self {
            Self
        }
    }

    /// Marks nothing, but ends where the marks of threads end.
    impl Drop for Inside {
        fn drop(&mut self) {}
    }

    pub(crate) fn any(_matches: impl Fn(Place) -> bool) -> bool {
        false
    }
}

pub(crate) use imp::Inside;

/// Tells whether this thread is inside an operation of the tree.
#[cfg(any(feature = "std", loom, shuttle))]
pub(crate) fn tree(tree: usize) -> bool {
    imp::any(|place| place.tree == tree)
}

/// Tells whether this thread is inside an operation on the object.
pub(crate) fn object(object: usize) -> bool {
    imp::any(|place| place.object == object)
}

/// A panic that was caught; its message has been printed by the panic hook.
pub(crate) struct Panicked;

/// Runs user code; a panic in it ends here.
#[cfg(feature = "std")]
#[inline]
pub(crate) fn contain<R>(body: impl FnOnce() -> R) -> Result<R, Panicked> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).map_err(|_| Panicked)
}

/// Runs user code; without `std` a panic does not come back.
#[cfg(not(feature = "std"))]
#[inline]
pub(crate) fn contain<R>(body: impl FnOnce() -> R) -> Result<R, Panicked> {
    Ok(body())
}
