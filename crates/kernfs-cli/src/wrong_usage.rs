//! What was asked for, and cannot be.

use std::fmt::Display;

/// A mistake in what was asked for: the command ends with status 2.
///
/// Its text says what is wrong, where, and what was expected.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct WrongUsage(String);

impl WrongUsage {
    /// Takes an error whose text says all of it.
    pub(crate) fn from_error(error: impl Display) -> Self {
        Self(error.to_string())
    }
}
