//! The semantics of kernfs by area, beyond what the properties and the conformance cases show.

mod files;
mod fronts;
mod listing;
mod operations;
mod removal;
mod structure;
