//! What the terminal is like, and how to print to it.

use std::io::{self, Write};

use anyhow::Result;

/// Returns the width of the terminal in columns; that of most, if stdout is none.
pub(crate) fn width() -> usize {
    let size = rustix::termios::tcgetwinsize(io::stdout());
    size.map_or(0, |size| size.ws_col.into()).max(NARROWEST)
}

/// The tables are laid out for terminals of this width at least.
const NARROWEST: usize = 80;

/// Prints to stdout, in colour only if that is a terminal which wants it.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever read has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => Ok(printed?),
    }
}
