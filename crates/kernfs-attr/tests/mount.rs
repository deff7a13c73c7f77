//! Attributes through a mount: what a shell makes of them.

use std::process::{Command, Output};
use std::{env, fs, process};

use kernfs::{Manners, Tree};
use kernfs_attr::{Attr, Attributes, Binary, DirExt};
use kernfs_fuse::Mount;

#[derive(Attributes)]
struct Fan {
    #[attr(rw, range = 0..=5000)]
    target: Attr<u32>,
    #[attr(ro)]
    label: &'static str,
    #[attr(rw)]
    eeprom: Binary,
}

/// Runs a script in a shell, with `$0` as the directory of the fan.
fn shell(dir: &str, script: &str) -> Output {
    let shell = Command::new("timeout").args(["30", "sh", "-c", script, dir]).output();
    shell.expect("a shell")
}

#[test]
fn a_shell_reads_and_writes_attributes() {
    if let Err(error) = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        return eprintln!("skipped: /dev/fuse: {error}");
    }
    let dir = env::temp_dir().join(format!("kernfs-attr-{}", process::id()));
    fs::create_dir_all(&dir).unwrap();
    let tree = Tree::builder().manners(Manners::Sysfs).build();
    let mount = Mount::new(&tree, &dir).unwrap();
    let fan = Fan { target: 1200.into(), label: "intake", eeprom: Binary::new(vec![0u8; 8]) };
    let fan = tree.root().add_group("fan0", fan).unwrap();
    let at = dir.join("fan0").display().to_string();

    let output = shell(&at, "cat $0/label $0/target && echo 0x7d0 > $0/target && cat $0/target");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "intake\n1200\n2000\n");
    for (script, message) in
        [("echo 9000 > $0/target", "out of range"), ("echo fast > $0/target", "Invalid argument")]
    {
        let output = Command::new("timeout")
            .args(["30", "sh", "-c", &format!("LC_ALL=C /bin/{script}"), &at])
            .output()
            .unwrap();
        let printed = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && printed.contains(message), "{script}: {printed}");
    }
    assert_eq!(fan.target.get(), 2000);
    assert_eq!(fs::metadata(dir.join("fan0/eeprom")).unwrap().len(), 8);
    let script = "printf ab | dd of=$0/eeprom bs=1 seek=6 conv=notrunc 2>&1 && cat $0/eeprom";
    let output = shell(&at, script);
    assert!(output.stdout.ends_with(b"\0\0\0\0\0\0ab"), "{output:?}");

    let fan = fan.remove().unwrap();
    assert!(fan.eeprom.bytes().to_vec().ends_with(b"ab"));
    assert!(!shell(&at, "cat $0/label").status.success());
    mount.unmount().unwrap();
    fs::remove_dir(&dir).unwrap();
}
