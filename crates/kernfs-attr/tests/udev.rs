//! The gamepad of the example, as libudev sees it: mounted over `/sys` in a namespace of its own.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The running example; ended when dropped.
struct Gamepad {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
    dir: PathBuf,
}

impl Gamepad {
    fn plug(example: &Path) -> Self {
        let dir = std::env::temp_dir().join(format!("kernfs-gamepad-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let mut child = Command::new("timeout")
            .arg("120")
            .arg(example)
            .arg(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output, dir }
    }

    /// Runs `udevadm` with the mount in the place of `/sys`, and returns what it prints.
    fn udevadm(&self, arguments: &str) -> String {
        let script = format!("mount --bind {} /sys && udevadm {arguments}", self.dir.display());
        let output = Command::new("timeout")
            .args(["60", "unshare", "-m", "sh", "-c", &script])
            // What is not the kernel's own sysfs is not looked at otherwise.
            .env("SYSTEMD_DEVICE_VERIFY_SYSFS", "0")
            .output()
            .unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{arguments}: {printed}{output:?}");
        printed
    }

    /// Presses Enter, and returns what is printed until the end.
    fn unplug(&mut self) -> String {
        self.child.stdin.take().unwrap().write_all(b"\n").unwrap();
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        assert!(self.child.wait().unwrap().success());
        rest
    }
}

impl Drop for Gamepad {
    fn drop(&mut self) {
        // Ends the input, and by that the example.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
        let _ = fs::remove_dir(&self.dir);
    }
}

/// Returns the example, or what is missing for the test.
fn example() -> Result<PathBuf, String> {
    if fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").is_err() {
        return Err("/dev/fuse cannot be used".into());
    }
    let script = "command -v udevadm && command -v timeout && unshare -m true";
    let found = Command::new("sh").args(["-c", script]).output();
    if !found.is_ok_and(|output| output.status.success()) {
        return Err("no udevadm (package udev), or no mount namespaces for us".into());
    }
    // Beside the directory of the tests.
    let test = std::env::current_exe().map_err(|error| error.to_string())?;
    let example = test.ancestors().nth(2).map(|target| target.join("examples/gamepad"));
    example.filter(|example| example.exists()).ok_or("the examples are not built".into())
}

#[test]
fn libudev_sees_the_gamepad() {
    let example = match example() {
        Ok(example) => example,
        Err(reason) => return eprintln!("skipped: {reason}"),
    };
    let mut pad = Gamepad::plug(&example);
    let mut line = String::new();
    pad.output.read_line(&mut line).unwrap();
    assert!(line.contains("/devices/virtual/input/input5/event5 is plugged in"), "{line}");

    let info = pad.udevadm("info -q all -p /class/input/event5");
    for expected in [
        "P: /devices/virtual/input/input5/event5\n",
        "N: input/event5\n",
        "E: SUBSYSTEM=input\n",
        "E: DEVNAME=/dev/input/event5\n",
        "E: MAJOR=13\n",
        "E: MINOR=69\n",
    ] {
        assert!(info.contains(expected), "{expected} is not in\n{info}");
    }
    let walk = pad.udevadm("info -a -p /devices/virtual/input/input5/event5");
    for expected in [
        "looking at parent device '/devices/virtual/input/input5'",
        "ATTRS{name}==\"Virtual Gamepad\"",
        "ATTRS{id/vendor}==\"045e\"",
        "ATTRS{inhibited}==\"0\"",
    ] {
        assert!(walk.contains(expected), "{expected} is not in\n{walk}");
    }
    let found = pad.udevadm("trigger --dry-run --verbose --subsystem-match=input");
    let expected = "/sys/devices/virtual/input/input5\n/sys/devices/virtual/input/input5/event5\n";
    assert_eq!(found, expected, "found by enumeration");
    let kind = pad.udevadm("test-builtin input_id /devices/virtual/input/input5/event5");
    assert!(kind.contains("ID_INPUT_JOYSTICK=1"), "{kind}");

    let rest = pad.unplug();
    let expected = "remove@/devices/virtual/input/input5/event5\n\
        remove@/devices/virtual/input/input5\nVirtual Gamepad is back with its owner\n";
    assert!(rest.ends_with(expected), "{rest}");
}
