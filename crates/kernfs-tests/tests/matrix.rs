//! Puts the conformance cases to all subjects, as the command `matrix` does.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use kernfs_tests::Matrix;

/// It takes three quarters of a minute on an idle machine, in most of which Linux lets time pass for
/// triggers; what takes so long hangs.
const LIMIT: Duration = Duration::from_secs(600);

#[test]
fn all_subjects_behave_as_expected_of_them() {
    let (_alive, ended) = mpsc::channel::<()>();
    thread::spawn(move || {
        if ended.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
            eprintln!("the matrix hangs");
            // Mounts die with the process, and so does whoever waits in them.
            std::process::abort();
        }
    });
    let matrix = Matrix::run(|_| true);
    println!("{matrix}");
    assert!(matrix.is_good(), "\n{matrix}");
    for (subject, shown) in matrix.shown() {
        // All or nothing: a subject that is to be had at all has not lost its abilities.
        assert!(shown == 0 || shown >= 25, "{subject} shows only {shown} cases");
    }
}

#[test]
fn a_case_is_put_to_all_subjects_or_skipped_with_a_reason() {
    let matrix = Matrix::run(|case| case.number == "23").to_string();
    let summary = matrix.lines().rev().take(4).collect::<Vec<_>>();
    assert!(summary[0].starts_with("FAILED: in process 0, mount 0"), "{matrix}");
    assert!(matrix.contains("\ncgroup2\n  skip: "), "{matrix}");
}
