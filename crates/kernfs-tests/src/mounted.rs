//! A mount of the same trees that the in-process subject has, used by real system calls.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use kernfs_fuse::{Mount, MountOptions};

use crate::fixture::{Devices, Groups};
use crate::subject::{Attribute, Device, Kind, Needs, Owner, Subject, Sys, errno, flags};
use crate::syscalls::{ABILITIES, Syscalls};

/// The owner's side of the mounts; dropping it unmounts.
#[allow(missing_debug_implementations, reason = "two trees")]
pub struct Mounted {
    // In the order in which they go.
    mounts: [Mount; 2],
    _dirs: TestDir,
    groups: Arc<Groups>,
    devices: Devices,
    can: Needs,
    count: AtomicUsize,
}

impl Mounted {
    /// Mounts both trees below a temporary directory.
    ///
    /// # Errors
    ///
    /// Tells why that is not possible here.
    pub fn subject() -> Result<Syscalls<Self>, String> {
        let dirs = TestDir::new().map_err(|error| format!("no directory to mount at: {error}"))?;
        let [cgroup, sys] = ["cgroup", "sys"].map(|name| dirs.0.join(name));
        let groups = Groups::new();
        let devices = Devices::new(&sys.display().to_string());
        let mount = |options: MountOptions, tree, dir| {
            options.mount(tree, dir).map_err(|error| format!("it cannot be mounted here: {error}"))
        };
        let mounts = [
            mount(MountOptions::new(), groups.tree(), &cgroup)?,
            mount(MountOptions::new().tag(Devices::HERE), devices.tree(), &sys)?,
        ];
        let can = ABILITIES
            | Needs::CGROUPS
            | Needs::MEMBERS
            | Needs::PRESSURE_FILES
            | Needs::DEVICES
            | Needs::NAMESPACES
            | Needs::HANDLES
            | Needs::ATTRIBUTES
            | Needs::LOAD
            | Needs::SYSTEM_PRESSURE;
        let count = AtomicUsize::new(0);
        let mut subject = Syscalls::new(Self { mounts, _dirs: dirs, groups, devices, can, count });
        subject.probe().map_err(|errno| format!("the mount does not work: errno {errno}"))?;
        Ok(subject)
    }

    /// Returns the path in the tree of groups of a path in the mount.
    fn in_tree<'a>(&self, path: &'a str) -> Sys<&'a str> {
        let root = self.mounts[0].path().to_str().ok_or(errno::EINVAL)?;
        path.strip_prefix(root).ok_or(errno::ENOENT)
    }
}

impl Syscalls<Mounted> {
    /// Finds out what this version of the mount can pass on.
    fn probe(&mut self) -> Sys<()> {
        let device = self.device()?;
        if let Some((name, len)) = &device.mapped {
            let fd = self.open(&format!("{}/{name}", device.dir), flags::O_RDONLY)?;
            let len = usize::try_from(*len).map_err(|_| errno::EINVAL)?;
            let mapped = self.mmap(fd, len).and_then(|map| self.munmap(map));
            self.owner.can.set(Needs::MAPPED_FILE, mapped.is_ok());
            self.close(fd)?;
        }
        self.probe_handles(&format!("{}/{}", device.dir, device.ro));
        self.unregister(&device)
    }
}

impl Owner for Mounted {
    fn name(&self) -> String {
        "kernfs mounted".into()
    }

    fn kind(&self) -> Kind {
        Kind::Mount
    }

    fn can(&self) -> Needs {
        self.can
    }

    fn why_not(&self, needs: Needs) -> Option<String> {
        (needs == Needs::MAPPED_FILE).then(|| "the mount refuses to map files".into())
    }

    fn cgroup(&self) -> Sys<String> {
        let name = format!("t{}", self.count.fetch_add(1, SeqCst));
        let path = self.mounts[0].path().join(name).display().to_string();
        let made = std::fs::create_dir(&path);
        made.map_err(|error| error.raw_os_error().unwrap_or(errno::EINVAL))?;
        Ok(path)
    }

    fn populate(&self, dir: &str, is_populated: bool) -> Sys<()> {
        self.groups.populate(self.in_tree(dir)?, is_populated)
    }

    fn load(&self, dir: &str, is_loaded: bool) -> Sys<()> {
        self.groups.load(self.in_tree(dir)?, is_loaded)
    }

    fn pass(&self, time: Duration) -> Sys<()> {
        self.groups.pass(time);
        Ok(())
    }

    fn time(&self) -> Sys<Duration> {
        Ok(self.groups.time())
    }

    fn triggers(&self) -> Option<usize> {
        Some(self.groups.triggers())
    }

    fn system(&self) -> Sys<String> {
        Ok(self.mounts[0].path().join(Groups::SYSTEM).display().to_string())
    }

    fn device(&self) -> Sys<Device> {
        self.devices.register()
    }

    fn set_value(&self, device: &Device, value: &str) -> Sys<()> {
        self.devices.set_value(device, value)
    }

    fn unregister(&self, device: &Device) -> Sys<()> {
        self.devices.unregister(device)
    }

    fn rename_device(&self, device: &Device, name: &str) -> Sys<Device> {
        self.devices.rename(device, name)
    }

    fn move_device(&self, device: &Device, is_away: bool) -> Sys<()> {
        self.devices.set_away(device, is_away)
    }

    fn attribute(&self) -> Sys<Attribute> {
        self.devices.attribute()
    }

    fn set_present(&self, attribute: &Attribute, is_present: bool) -> Sys<()> {
        self.devices.set_present(attribute, is_present)
    }
}

/// A directory with two to mount at; they go when it is dropped.
struct TestDir(PathBuf);

impl TestDir {
    fn new() -> std::io::Result<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, SeqCst);
        let name = format!("kernfs-tests-{}-{count}", std::process::id());
        let dir = Self(std::env::temp_dir().join(name));
        std::fs::create_dir(&dir.0)?;
        std::fs::create_dir(dir.0.join("cgroup"))?;
        std::fs::create_dir(dir.0.join("sys"))?;
        Ok(dir)
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        // Each is empty again, or something is wrong that must not be deleted.
        for dir in [self.0.join("cgroup"), self.0.join("sys"), self.0.clone()] {
            let _ = std::fs::remove_dir(dir);
        }
    }
}
