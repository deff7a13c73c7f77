//! Puts the conformance cases to everything that can be asked here.
use kernfs_tests::{Mounted, run};
fn main() {
    let only: Vec<String> = std::env::args().skip(1).collect();
    let s = Mounted::subject().unwrap();
    println!("{}", run(&s, |case| only.is_empty() || only.iter().any(|n| n == case.number)));
}
