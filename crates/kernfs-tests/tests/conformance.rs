//! Puts the conformance cases to the library in this process.

use kernfs_tests::{InProcess, Outcome, run};

#[test]
fn the_library_conforms() {
    let subject = InProcess::new();
    let report = run(&subject, |_| true);
    println!("{report}");
    assert!(report.is_good(), "\n{report}");
    let passed = report.lines().iter().filter(|(_, outcome)| *outcome == Outcome::Passed).count();
    assert!(passed >= 60, "only {passed} cases ran: the subject has lost an ability");
}

#[test]
fn a_skipped_case_tells_why() {
    let report = run(&InProcess::new(), |case| case.number == "20");
    assert!(report.is_good());
    let table = report.to_string();
    assert!(table.contains("skipped  this subject has no real descriptors"), "{table}");
    assert!(table.ends_with("0 passed, 0 differ as expected, 1 skipped, 0 failed"), "{table}");
}
