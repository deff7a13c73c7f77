//! What clients got, counted.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use super::operations::OPERATIONS;

/// How often each operation got each answer: 0 is success, else an error number.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    counts: BTreeMap<(usize, i32), u64>,
    /// How many clients were killed.
    pub(super) killed: u64,
    pub(super) faults: Vec<String>,
}

impl Tally {
    /// Counts an answer to one of [`OPERATIONS`].
    pub(super) fn count(&mut self, operation: usize, errno: i32) {
        *self.counts.entry((operation, errno)).or_default() += 1;
    }

    /// Notes what must not have happened.
    pub(super) fn fault(&mut self, text: String) {
        // More of the same tells nothing new, and the first ones are what matters.
        if self.faults.len() < 20 {
            self.faults.push(text);
        }
    }

    /// Renders lines for another process, and starts again from nothing.
    pub(super) fn take_wire(&mut self) -> String {
        let mut text = String::from("alive\n");
        for ((operation, errno), count) in std::mem::take(&mut self.counts) {
            // Writing to a string does not fail.
            let _ = writeln!(text, "got {operation} {errno} {count}");
        }
        for fault in self.faults.drain(..) {
            let _ = writeln!(text, "fault {}", fault.replace('\n', " "));
        }
        text
    }

    /// Takes a line of [`take_wire`](Self::take_wire); one that is cut off, by a kill, is not
    /// counted.
    pub(super) fn add_wire(&mut self, line: &str) {
        if let Some(fault) = line.strip_prefix("fault ") {
            return self.fault(fault.into());
        }
        let mut numbers = line.split(' ').skip(1);
        let operation = numbers.next().and_then(|number| number.parse::<usize>().ok());
        let errno = numbers.next().and_then(|number| number.parse().ok());
        let count = numbers.next().and_then(|number| number.parse::<u64>().ok());
        if let (Some(operation @ 0..OPERATIONS_LEN), Some(errno), Some(count)) =
            (operation, errno, count)
        {
            *self.counts.entry((operation, errno)).or_default() += count;
        }
    }
}

const OPERATIONS_LEN: usize = OPERATIONS.len();

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: u64 = self.counts.values().sum();
        writeln!(f, "{all} operations by clients, {} of which were killed:", self.killed)?;
        for (n, operation) in OPERATIONS.iter().enumerate() {
            let count = |errno| self.counts.get(&(n, errno)).copied().unwrap_or(0);
            write!(f, "  {:>8}  {:<18}", count(0), operation.name)?;
            let errors = self.counts.range((n, 1)..=(n, i32::MAX));
            let errors = errors.map(|((_, errno), count)| format!("{} {count}", name(*errno)));
            writeln!(f, "{}", errors.collect::<Vec<_>>().join(", "))?;
        }
        Ok(())
    }
}

/// Returns the name of an error number.
pub(super) fn name(errno: i32) -> String {
    let known = kernfs::Errno::from_raw(errno).and_then(kernfs::Errno::name);
    known.map_or_else(|| format!("errno {errno}"), str::to_owned)
}
