//! Ten seconds of the storm, as its command raises it.

use std::process::Command;

#[test]
fn ten_seconds_of_storm_are_weathered() {
    let seed = std::env::var("KERNFS_STORM_SEED").unwrap_or("20230627".into());
    let mut storm = Command::new(env!("CARGO_BIN_EXE_storm"));
    let output = storm.args(["--seconds", "10", "--seed", &seed]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(2) {
        eprintln!("skipped: {said}");
        return;
    }
    println!("{said}");
    assert!(output.status.success(), "{}\n{said}", output.status);
}
