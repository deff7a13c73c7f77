//! Long lists as text, rendered record by record (`seq_file`).

use crate::errno::Errno;
use crate::ops::{FileOps, Kind, OpenOp, Ops, ReadOp};

/// A list that is shown record by record (`seq_operations`).
///
/// An `Item` is a place in the list, for example a reference to an element, or an index. It has
/// severing lifetime and lives across reads: a reader that comes back goes on where it stopped,
/// without looking the place up again.
pub trait SeqOps: Send + Sync {
    /// A place in the list.
    type Item: Send;

    /// Returns the first item, or `None` for an empty list.
    ///
    /// # Errors
    ///
    /// Whatever the client's read(2) shall answer.
    fn start(&self) -> Result<Option<Self::Item>, Errno>;

    /// Returns the item after one that was shown, or `None` at the end.
    ///
    /// # Errors
    ///
    /// Whatever the client's read(2) shall answer.
    fn next(&self, item: Self::Item) -> Result<Option<Self::Item>, Errno>;

    /// Appends the record of an item.
    ///
    /// # Errors
    ///
    /// Whatever the client's read(2) shall answer.
    fn show(&self, item: &Self::Item, op: &mut ReadOp<'_>) -> Result<(), Errno>;

    /// Ends a pass over the list: with the item where the reader stopped, if it was not the end.
    ///
    /// Called before each new start, and at release.
    fn stop(&self, item: Option<Self::Item>) {
        drop(item);
    }
}

/// The driver of a read-only text file that shows a list.
#[derive(Debug)]
pub struct Seq<S>(pub S);

/// Where a reader of a list is.
#[derive(Debug)]
pub struct SeqState<I> {
    /// The next item to be shown.
    next: Option<I>,
    /// Whether a pass is going on that `stop` has to end.
    started: bool,
}

impl<S: SeqOps> FileOps for Seq<S> {
    type Open = SeqState<S::Item>;
    const KIND: Kind = Kind::Seq;
    const OPS: Ops = Ops::READ;

    fn open(&self, _: &mut OpenOp<'_>) -> Result<Self::Open, Errno> {
        Ok(SeqState { next: None, started: false })
    }

    fn read(&self, open: &mut Self::Open, op: &mut ReadOp<'_>) -> Result<(), Errno> {
        if op.is_from_start() || !open.started {
            self.end(open);
            open.next = self.0.start()?;
            open.started = true;
        }
        // As many records as the reader takes, and at least one that is not empty.
        while op.buffer().is_empty() || op.buffer().len() < op.max_len() {
            let Some(item) = open.next.take() else { break };
            if let Err(errno) = self.0.show(&item, op) {
                open.next = Some(item);
                return Err(errno);
            }
            open.next = self.0.next(item)?;
        }
        Ok(())
    }

    fn release(&self, mut open: Self::Open) {
        self.end(&mut open);
    }
}

impl<S: SeqOps> Seq<S> {
    fn end(&self, open: &mut SeqState<S::Item>) {
        if core::mem::take(&mut open.started) {
            self.0.stop(open.next.take());
        }
    }
}
