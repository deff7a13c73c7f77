//! Puts the conformance cases to everything that can be asked here, and prints a table.
//!
//! With numbers of cases as arguments, only those.

use std::process::ExitCode;

use kernfs_tests::Matrix;

fn main() -> ExitCode {
    let only: Vec<String> = std::env::args().skip(1).collect();
    // What failed is told in the table; a panic says it a second time in the middle of it.
    std::panic::set_hook(Box::new(|_| {}));
    let matrix = Matrix::run(|case| only.is_empty() || only.iter().any(|one| one == case.number));
    println!("{matrix}");
    if matrix.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
