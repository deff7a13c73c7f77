//! Programs that nobody here wrote, on trees that are served: they cannot tell the difference, and
//! the plug can be pulled under them.
//!
//! They run where they are installed, on the machine's own /sys; and on recorded trees of other
//! machines, where such are found.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use kernfs::{Manners, Tree};
use kernfs_fuse::MountOptions;
use kernfs_replay::{Image, ServeOptions};
use serde_json::Value;
use tempfile::TempDir;

mod support;

use support::said;

/// Names the directory with recorded trees; else it is looked for beside the repository.
const TREES: &str = "KERNFS_TREES";

/// Returns the recorded trees of other machines: archives of the test data of util-linux.
fn recorded_trees() -> Vec<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/trees");
    let dir = std::env::var_os(TREES).map_or(beside, PathBuf::from);
    let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
    let mut trees: Vec<_> = entries.map(|entry| entry.path()).collect();
    trees.retain(|path| path.extension() == Some("gz".as_ref()));
    trees.sort();
    if trees.is_empty() {
        eprintln!("skipped: there are no recorded trees in {}", dir.display());
    }
    trees
}

/// Tells whether a program is installed, and a tree can be mounted; prints why not.
fn can_run(program: &str) -> bool {
    let mut version = Command::new(program);
    let version = version.arg("--version").stdin(Stdio::null()).output();
    if let Err(error) = version {
        eprintln!("skipped: cannot run {program}: {error}");
        return false;
    }
    if let Err(error) = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        eprintln!("skipped: cannot open /dev/fuse: {error}");
        return false;
    }
    true
}

/// Hunts a program with few runs; `None`, with the reason printed, where that cannot be.
fn hunt<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Option<Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kernfs"));
    command.args(["hunt", "--json", "-", "--only", "1-4", "--timeout", "60"]).args(args);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let status = output.status.code();
    if status == Some(2) && said(&output).contains("cannot have a mount namespace") {
        eprintln!("skipped: {}", said(&output).trim_end());
        return None;
    }
    assert!(matches!(status, Some(0 | 1)), "{}", said(&output));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["clean"], status == Some(0));
    Some(json)
}

/// Checks that a program has used the tree, was disturbed in its use of the part, and, where it
/// could not find the part from the start, did what it does without.
#[track_caller]
fn assert_disturbed(json: &Value, least: u64) {
    let undisturbed = &json["undisturbed"];
    assert_eq!(undisturbed["status"], 0, "{json:#}");
    assert!(undisturbed["operations"].as_u64().unwrap() >= least, "{json:#}");
    assert_eq!(json["untouched"], serde_json::json!([]), "{json:#}");
    let findings = json["parts"][0]["findings"].as_array().unwrap();
    assert_eq!(findings.len(), 4, "{json:#}");
    let known = ["crash", "hang", "silent", "failed", "told", "without", "with", "uncompared"];
    for finding in findings {
        assert!(known.contains(&finding["meaning"].as_str().unwrap()), "{finding}");
    }
}

/// Tells whether the first run, whose part was gone before it was looked for, went as without it.
fn first_is_without(json: &Value) -> bool {
    json["parts"][0]["findings"][0]["meaning"] == "without"
}

const CPUS: &str = "/sys/devices/system";

/// Returns a CPU of this machine other than the first, which the kernel treats in its own way.
fn second_cpu() -> Option<&'static str> {
    let cpu = "cpu/cpu1";
    if Path::new(CPUS).join(cpu).join("topology").exists() {
        return Some(cpu);
    }
    eprintln!("skipped: this machine has one CPU only");
    None
}

#[test]
fn lscpu_prints_the_same_on_the_mount_as_on_the_files() {
    if !can_run("lscpu") || !can_run("tar") {
        return;
    }
    for archive in recorded_trees() {
        let (unpacked, place) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let mut tar = Command::new("tar");
        let tar = tar.arg("xzf").arg(&archive).arg("-C").arg(unpacked.path()).status().unwrap();
        assert!(tar.success());
        let image = Arc::new(Image::open(&archive).unwrap());
        let tree = Tree::builder().manners(Manners::Sysfs).build();
        let served = image.serve(&tree, &ServeOptions::new()).unwrap();
        let mount = MountOptions::new().mount(&tree, place.path()).unwrap();
        let name = image.root().children().next().unwrap().name().to_owned();
        let name = String::from_utf8(name).unwrap();
        for options in [&[][..], &["--json"], &["--all", "--extended"], &["--caches"]] {
            let lscpu = |dir: &Path| {
                let mut command = Command::new("lscpu");
                command.arg("--sysroot").arg(dir.join(&name)).args(options).env("LC_ALL", "C");
                let output = command.output().unwrap();
                assert!(output.status.success(), "{}: {}", archive.display(), said(&output));
                output
            };
            let (files, mounted) = (lscpu(unpacked.path()), lscpu(place.path()));
            assert!(!files.stdout.is_empty());
            assert_eq!(said(&files), said(&mounted), "{} {options:?}", archive.display());
        }
        mount.unmount().unwrap();
        drop(served);
    }
}

#[test]
fn lscpu_can_be_hunted_on_recorded_trees() {
    if !can_run("lscpu") {
        return;
    }
    for archive in recorded_trees() {
        let image = Image::open(&archive).unwrap();
        let name = image.root().children().next().unwrap().name().to_owned();
        let name = String::from_utf8(name).unwrap();
        let (sever, root) = (format!("{name}/sys/devices/system/cpu/cpu1"), format!("{{}}/{name}"));
        let tree = ["--tree", archive.to_str().unwrap(), "--sever", &sever];
        let command = ["--", "lscpu", "--sysroot", &root];
        let Some(json) = hunt([&tree[..], &command].concat()) else { return };
        assert_disturbed(&json, 100);
    }
}

#[test]
fn lscpu_can_be_hunted() {
    let (true, Some(cpu)) = (can_run("lscpu"), second_cpu()) else { return };
    let Some(json) = hunt(["--from", CPUS, "--over", CPUS, "--sever", cpu, "--", "lscpu"]) else {
        return;
    };
    assert_disturbed(&json, 100);
    assert!(first_is_without(&json), "{json:#}");
}

#[test]
fn hwloc_can_be_hunted() {
    let (true, Some(cpu)) = (can_run("hwloc-ls"), second_cpu()) else { return };
    // It has /proc from there too, which is not recorded: then it looks at what is in sysfs only.
    let args = ["--from", CPUS, "--over", CPUS, "--sever", cpu];
    let command = ["--", "hwloc-ls", "--of", "console", "--no-io"];
    let Some(json) = hunt([&args[..], &command].concat()) else { return };
    assert_disturbed(&json, 100);
    assert!(first_is_without(&json), "{json:#}");
}

#[test]
fn hwloc_can_be_hunted_on_recorded_trees() {
    if !can_run("hwloc-ls") {
        return;
    }
    for archive in recorded_trees() {
        let image = Image::open(&archive).unwrap();
        let name = image.root().children().next().unwrap().name().to_owned();
        let name = String::from_utf8(name).unwrap();
        let sever = format!("{name}/sys/devices/system/cpu/cpu1");
        let root = format!("HWLOC_FSROOT={{}}/{name}");
        let tree = ["--tree", archive.to_str().unwrap(), "--sever", &sever];
        let command = ["--", "env", &root, "hwloc-ls", "--of", "console", "--no-io"];
        let Some(json) = hunt([&tree[..], &command].concat()) else { return };
        assert_disturbed(&json, 20);
    }
}

#[test]
fn lspci_can_be_hunted() {
    if !can_run("lspci") {
        return;
    }
    let devices = fs::read_dir("/sys/bus/pci/devices").into_iter().flatten().flatten();
    let Some(device) = { devices }.map(|it| it.file_name().into_string().unwrap()).max() else {
        eprintln!("skipped: this machine has no PCI device");
        return;
    };
    let sever = format!("bus/pci/devices/{device}");
    let path = "sysfs.path={}/bus/pci";
    let args = ["--from", "/sys", "--sever", &sever];
    let command = ["--", "lspci", "-A", "linux-sysfs", "-O", path];
    let Some(json) = hunt([&args[..], &command].concat()) else { return };
    assert_disturbed(&json, 20);
}

#[test]
fn lsmem_can_be_hunted() {
    if !can_run("lsmem") {
        return;
    }
    let blocks = fs::read_dir(format!("{CPUS}/memory")).into_iter().flatten().flatten();
    let names = blocks.filter_map(|entry| entry.file_name().into_string().ok());
    let is_block = |name: &String| {
        name.strip_prefix("memory").is_some_and(|number| number.parse::<u32>().is_ok())
    };
    let Some(block) = names.filter(is_block).max() else {
        eprintln!("skipped: this machine tells of no memory blocks");
        return;
    };
    // The tree stands where it does below a root: `--sysroot` wants sys/devices/system/memory.
    let root = TempDir::new().unwrap();
    fs::create_dir_all(root.path().join("sys/devices/system")).unwrap();
    let place = root.path().join("sys/devices/system");
    let place = place.to_str().unwrap();
    let sever = format!("memory/{block}");
    let args = ["--from", CPUS, "--over", place, "--sever", &sever, "--", "lsmem", "--sysroot"];
    let Some(json) = hunt([&args[..], &[root.path().to_str().unwrap()]].concat()) else { return };
    assert_disturbed(&json, 20);
}

#[test]
fn udevadm_can_be_hunted() {
    if !can_run("udevadm") {
        return;
    }
    let args = ["--from", "/sys", "--over", "/sys", "--sever", "class/net/lo", "--"];
    // It wants the very sysfs, unless it is told otherwise.
    let env = ["env", "SYSTEMD_DEVICE_VERIFY_SYSFS=0"];
    let command = ["udevadm", "info", "--attribute-walk", "--path", "/class/net/lo"];
    let Some(json) = hunt([&args[..], &env, &command].concat()) else { return };
    assert_disturbed(&json, 20);
    assert!(first_is_without(&json), "{json:#}");
}

#[test]
fn numactl_can_be_hunted() {
    if !can_run("numactl") {
        return;
    }
    if !Path::new(CPUS).join("node/node0").exists() {
        eprintln!("skipped: this kernel tells of no memory nodes");
        return;
    }
    let args = ["--from", CPUS, "--over", CPUS, "--sever", "node/node0"];
    let Some(json) = hunt([&args[..], &["--", "numactl", "--hardware"]].concat()) else { return };
    assert_disturbed(&json, 20);
}

#[test]
fn cpupower_can_be_hunted() {
    let (true, Some(cpu)) = (can_run("cpupower"), second_cpu()) else { return };
    let args = ["--from", CPUS, "--over", CPUS, "--sever", cpu];
    let command = ["--", "cpupower", "-c", "all", "idle-info"];
    let Some(json) = hunt([&args[..], &command].concat()) else { return };
    assert_disturbed(&json, 20);
    assert!(first_is_without(&json), "{json:#}");
}

#[test]
fn node_exporter_can_be_hunted() {
    let name = "prometheus-node-exporter";
    if !can_run(name) || !can_run("curl") {
        return;
    }
    // A server: it is asked once, and ended then.
    let script =
        "prometheus-node-exporter --path.sysfs=\"$1\" --web.listen-address=127.0.0.1:19100 \
                  --collector.disable-defaults --collector.netclass --web.disable-exporter-metrics \
                  >/dev/null 2>&1 & pid=$!
                  curl --silent --retry 50 --retry-delay 1 --retry-connrefused \
                  http://127.0.0.1:19100/metrics | grep -v scrape_collector_duration
                  kill $pid; wait $pid; [ $? = 143 ]";
    let args = ["--from", "/sys", "--sever", "class/net/lo", "--", "sh", "-c", script, "sh", "{}"];
    let Some(json) = hunt(args) else { return };
    assert_disturbed(&json, 20);
}
