//! Members of groups that do nothing but to be there: `kernfs member`.

use std::io::{self, Read};

use clap::Args;

/// Sleeps until its input ends; `kernfs drill` starts it.
#[derive(Args, Debug)]
pub(crate) struct MemberArgs {}

impl MemberArgs {
    /// Waits for the end of its input, which comes with that of its owner at the latest.
    pub(crate) fn run(&self) {
        // Only the end is waited for, and an error is one.
        let _ = io::stdin().lock().read_to_end(&mut Vec::new());
    }
}
