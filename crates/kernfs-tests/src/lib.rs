//! Proof of kernfs: the conformance cases, written once for every subject, and the instruments
//! of the property tests.
#![allow(clippy::missing_errors_doc, reason = "errors are what is tested here")]
#![allow(clippy::must_use_candidate, reason = "not for publication")]

pub mod probe;
