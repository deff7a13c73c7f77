//! What an attempt at an operation takes along, and what became of it.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::task::Waker;

use crate::errno::Errno;
use crate::ops::Pending;

/// Where an operation stands in the queue of a gate, if it may queue at all.
pub(crate) type InQueue<'a> = (&'a Waker, &'a mut Option<u64>);

/// What became of an attempt.
pub(crate) enum Outcome {
    /// It is done, with this many bytes.
    Done(Result<usize, Errno>),
    /// Somebody else is inside; queued if a queue was given.
    Busy,
    /// The driver answers later; the number is what a write returns then.
    Later(Box<Pending>, usize),
}

impl Outcome {
    pub(crate) fn err(errno: Errno) -> Self {
        Self::Done(Err(errno))
    }
}

/// Bytes on their way to a client: client memory is touched only after the gate was left.
pub(crate) struct Chunk {
    inline: [u8; INLINE],
    /// What is longer than that.
    heap: Option<Box<[u8]>>,
    len: usize,
}

/// Values of most attributes fit, any number among them, so that reading them allocates nothing.
const INLINE: usize = 32;

impl Chunk {
    #[inline]
    pub(crate) fn new() -> Self {
        Self { inline: [0; INLINE], heap: None, len: 0 }
    }

    /// Puts bytes in, once.
    #[inline]
    pub(crate) fn set(&mut self, bytes: &[u8]) -> usize {
        self.len = bytes.len();
        match self.inline.get_mut(..bytes.len()) {
            Some(inline) => copy_short(inline, bytes),
            None => self.heap = Some(bytes.into()),
        }
        self.len
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.heap {
            None => &self.inline[..self.len],
            Some(heap) => heap,
        }
    }

    pub(crate) fn copy_to(&self, buf: &mut [u8]) -> usize {
        let bytes = self.bytes();
        buf[..bytes.len()].copy_from_slice(bytes);
        bytes.len()
    }

    pub(crate) fn into_vec(self) -> Vec<u8> {
        self.heap.map_or_else(|| self.inline[..self.len].to_vec(), Vec::from)
    }
}

/// Copies a few bytes to a place as long as they are, without a call.
#[inline]
fn copy_short(mut to: &mut [u8], mut from: &[u8]) {
    #[inline]
    fn step<const N: usize>(to: &mut &mut [u8], from: &mut &[u8]) -> bool {
        let (Some(source), Some(target)) = (from.split_off(..N), to.split_off_mut(..N)) else {
            return false;
        };
        target.copy_from_slice(source);
        true
    }
    while step::<16>(&mut to, &mut from) {}
    let _ = step::<8>(&mut to, &mut from);
    let _ = step::<4>(&mut to, &mut from);
    let _ = step::<2>(&mut to, &mut from);
    let _ = step::<1>(&mut to, &mut from);
}
