//! Measurements of kernfs beside what it is compared with, in one process.
//!
//! `cargo bench -p kernfs-bench --bench core` prints all of them.
//!
//! Absolute times on a shared machine say little. So the cases of a group take turns in short
//! samples ([`measure::interleave`]), hundreds of rounds long, and what is compared is compared
//! round by round: a ratio is the median of the rounds' ratios.
//!
//! The unit is one uncontended atomic read-modify-write of the same round, `rmw`: an operation
//! through a gate cannot cost less than two, one to enter and one to leave.

#![deny(unsafe_code)]

pub mod measure;

pub mod table;

mod drivers;

mod read;

mod threads;

mod lookup;

mod change;

mod wake;

mod memory;

mod replay;

#[allow(unsafe_code, reason = "a global allocator that counts")]
mod counting;

pub use measure::Effort;
pub use replay::{MOST_BYTES, bytes_of_a_served_file};

use table::Row;

/// What measures a section.
pub type Measure = fn(Effort) -> Vec<Row>;

/// What can be measured, by name, in the order in which it is printed.
pub const SECTIONS: &[(&str, Measure)] = &[
    ("read", read::measure),
    ("threads", threads::measure),
    ("lookup", lookup::measure),
    ("change", change::measure),
    ("notify", wake::measure_notify),
    ("sever", wake::measure_sever),
    ("memory", memory::measure),
    ("replay", replay::measure),
];

#[cfg(test)]
mod tests {
    use super::{Effort, SECTIONS};

    #[test]
    fn every_section_runs() {
        for (name, measure) in SECTIONS {
            let rows = measure(Effort::SMOKE);
            assert!(!rows.is_empty(), "{name} measures nothing");
            for row in rows {
                assert!(row.figures.median > 0.0, "{name}: {} took no time", row.what);
            }
        }
    }
}
