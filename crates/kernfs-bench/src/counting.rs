//! An allocator that counts what is allocated and not given back.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering::Relaxed};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Whether to count: the measurements of time must not pay for it.
static ON: AtomicBool = AtomicBool::new(false);
static BYTES: AtomicIsize = AtomicIsize::new(0);
static BLOCKS: AtomicIsize = AtomicIsize::new(0);
static ROUNDED: AtomicIsize = AtomicIsize::new(0);

/// What a piece of code has allocated and not given back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allocated {
    /// Bytes that were asked for.
    pub(crate) bytes: isize,
    pub(crate) blocks: isize,
    /// Bytes as glibc on 64 bits takes them: 8 more for each block, in steps of 16, 32 at least.
    pub(crate) rounded: isize,
}

/// Counts what `body` allocates; nothing else may allocate meanwhile.
pub(crate) fn count<R>(body: impl FnOnce() -> R) -> (R, Allocated) {
    let counters = || Allocated {
        bytes: BYTES.load(Relaxed),
        blocks: BLOCKS.load(Relaxed),
        rounded: ROUNDED.load(Relaxed),
    };
    let before = counters();
    ON.store(true, Relaxed);
    let result = body();
    ON.store(false, Relaxed);
    let after = counters();
    let allocated = Allocated {
        bytes: after.bytes - before.bytes,
        blocks: after.blocks - before.blocks,
        rounded: after.rounded - before.rounded,
    };
    (result, allocated)
}

struct Counting;

impl Counting {
    #[inline]
    fn note(layout: Layout, sign: isize) {
        if ON.load(Relaxed) {
            let size = layout.size();
            BYTES.fetch_add(sign * size.cast_signed(), Relaxed);
            BLOCKS.fetch_add(sign, Relaxed);
            let rounded = (size + 8).next_multiple_of(16).max(32);
            ROUNDED.fetch_add(sign * rounded.cast_signed(), Relaxed);
        }
    }
}

// SAFETY: every call goes to the allocator of the system as it came, so that its guarantees hold;
// the counters do not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::note(layout, 1);
        // SAFETY: the caller keeps the contract, which is that of the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        Self::note(layout, -1);
        // SAFETY: the block came from the system's allocator with this layout; the caller says so.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::note(layout, 1);
        // SAFETY: as for `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::note(layout, -1);
        if let Ok(after) = Layout::from_size_align(size, layout.align()) {
            Self::note(after, 1);
        }
        // SAFETY: as for `dealloc`; the caller vouches for the new size too.
        unsafe { System.realloc(block, layout, size) }
    }
}
