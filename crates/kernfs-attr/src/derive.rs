//! What the code of the derive macros calls.

pub use kernfs::Mode;
use kernfs::{Errno, ReadOp, WriteOp};

use crate::attr::{Attribute, Checked, Readable, Writable, store_with};
pub use crate::value::in_range;
use crate::value::{Shown, Value, emit};

/// Requires a field to be readable.
pub fn read_only<A: Readable>(attribute: &A) -> &dyn Attribute {
    attribute
}

/// Requires a field to be writable.
pub fn write_only<A: Writable>(attribute: &A) -> &dyn Attribute {
    attribute
}

/// Requires a field to be readable and writable.
pub fn read_write<A: Readable + Writable>(attribute: &A) -> &dyn Attribute {
    attribute
}

/// Answers a read with what a method has returned.
///
/// # Errors
///
/// That which the method has returned.
pub fn show(op: &mut ReadOp<'_>, answer: impl Answer) -> Result<(), Errno> {
    answer.answer(op)
}

/// What a method of `show` may return: a value, or a result.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be shown",
    note = "`show` wants a method that returns a value that implements `Shown`, or a \
            `Result` of one and an `Errno`"
)]
pub trait Answer {
    /// Answers a read.
    ///
    /// # Errors
    ///
    /// That of the result.
    fn answer(self, op: &mut ReadOp<'_>) -> Result<(), Errno>;
}

impl<T: Shown> Answer for T {
    fn answer(self, op: &mut ReadOp<'_>) -> Result<(), Errno> {
        emit(op, &self);
        Ok(())
    }
}

impl<T: Shown> Answer for Result<T, Errno> {
    fn answer(self, op: &mut ReadOp<'_>) -> Result<(), Errno> {
        self.map(|value| emit(op, &value))
    }
}

/// Hands what was written to a method.
///
/// # Errors
///
/// Those of the parser and of the method.
pub fn store<S, T: Value>(
    whole: &S,
    op: &WriteOp<'_>,
    check: impl FnOnce(&T) -> Result<(), Errno>,
    store: fn(&S, &T) -> Result<(), Errno>,
) -> Result<usize, Errno> {
    store_with(op, |value| {
        check(value)?;
        store(whole, value)
    })
}

/// Lets a field take what was written, if a check and a method agree.
///
/// # Errors
///
/// Those of the parser, the check and the method.
pub fn store_checked<S, A: Checked>(
    whole: &S,
    attribute: &A,
    op: &mut WriteOp<'_>,
    check: impl Fn(&A::Value) -> Result<(), Errno>,
    store: fn(&S, &A::Value) -> Result<(), Errno>,
) -> Result<usize, Errno> {
    attribute.store_checked(op, &|value| {
        check(value)?;
        store(whole, value)
    })
}
