//! A mount of the same trees that the in-process subject has, used by real system calls.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use kernfs::Tree;
use kernfs_fuse::{Mount, MountOptions};

use crate::cgroups::Cgroups;
use crate::fixture::{Devices, Groups};
use crate::group_tree::{self, GroupTree};
use crate::subject::{Attribute, Device, Kind, Needs, Owner, Subject, Sys, errno, flags};
use crate::syscalls::{ABILITIES, Syscalls};

/// The owner's side of the mounts; dropping it unmounts.
#[allow(missing_debug_implementations, reason = "two trees")]
pub struct Mounted {
    // In the order in which they go.
    groups_at: Mount,
    _devices_at: Option<Mount>,
    _dirs: TestDir,
    groups: Box<dyn GroupTree>,
    devices: Option<Devices>,
    can: Needs,
    count: AtomicUsize,
}

impl Mounted {
    /// Mounts a tree of groups and one of devices, with drivers of the tests' own, below a temporary
    /// directory.
    ///
    /// # Errors
    ///
    /// Tells why that is not possible here.
    pub fn subject() -> Result<Syscalls<Self>, String> {
        Self::mount(Groups::new(), |sys| Some(Devices::new(sys)))
    }

    /// Mounts the hierarchy of `kernfs-cgroup`.
    ///
    /// # Errors
    ///
    /// Tells why that is not possible here.
    pub fn cgroups() -> Result<Syscalls<Self>, String> {
        let groups =
            Cgroups::new().map_err(|errno| format!("no hierarchy can be made: {errno}"))?;
        Self::mount(groups, |_| None)
    }

    fn mount(
        groups: impl GroupTree + 'static,
        devices: impl FnOnce(&str) -> Option<Devices>,
    ) -> Result<Syscalls<Self>, String> {
        let dirs = TestDir::new().map_err(|error| format!("no directory to mount at: {error}"))?;
        let [cgroup, sys] = ["cgroup", "sys"].map(|name| dirs.0.join(name));
        let devices = devices(&sys.display().to_string());
        let groups_at = mount(&MountOptions::new(), groups.tree(), &cgroup)?;
        let options = MountOptions::new().tag(Devices::HERE);
        let devices_at = devices.as_ref().map(|devices| mount(&options, devices.tree(), &sys));
        let devices_at = devices_at.transpose()?;
        let mut can = ABILITIES | group_tree::NEEDS | groups.can();
        if devices.is_some() {
            can |= Needs::DEVICES | Needs::NAMESPACES | Needs::ATTRIBUTES;
        }
        let (groups, count) = (Box::new(groups), AtomicUsize::new(0));
        let owner =
            Self { groups_at, _devices_at: devices_at, _dirs: dirs, groups, devices, can, count };
        let mut subject = Syscalls::new(owner);
        subject.probe().map_err(|errno| format!("the mount does not work: errno {errno}"))?;
        Ok(subject)
    }

    fn devices(&self) -> Sys<&Devices> {
        self.devices.as_ref().ok_or(errno::ENOSYS)
    }

    /// Returns the path in the tree of groups of a path in the mount.
    fn in_tree<'a>(&self, path: &'a str) -> Sys<&'a str> {
        let root = self.groups_at.path().to_str().ok_or(errno::EINVAL)?;
        path.strip_prefix(root).ok_or(errno::ENOENT)
    }
}

impl Syscalls<Mounted> {
    /// Finds out what this version of the mount can pass on.
    fn probe(&mut self) -> Sys<()> {
        if self.owner.devices.is_none() {
            let group = self.cgroup()?;
            self.probe_handles(&format!("{group}/cgroup.stat"));
            self.rmdir(&group)?;
            return Ok(());
        }
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
        format!("{} mounted", self.groups.name())
    }

    fn kind(&self) -> Kind {
        Kind::Mount
    }

    fn can(&self) -> Needs {
        self.can
    }

    fn why_not(&self, needs: Needs) -> Option<String> {
        let is_refused = needs == Needs::MAPPED_FILE && self.devices.is_some();
        is_refused.then(|| "the mount refuses to map files".into())
    }

    fn cgroup(&self) -> Sys<String> {
        let name = format!("t{}", self.count.fetch_add(1, SeqCst));
        let path = self.groups_at.path().join(name).display().to_string();
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
        Ok(self.groups_at.path().join(self.groups.system()?).display().to_string())
    }

    fn device(&self) -> Sys<Device> {
        self.devices()?.register()
    }

    fn set_value(&self, device: &Device, value: &str) -> Sys<()> {
        self.devices()?.set_value(device, value)
    }

    fn unregister(&self, device: &Device) -> Sys<()> {
        self.devices()?.unregister(device)
    }

    fn rename_device(&self, device: &Device, name: &str) -> Sys<Device> {
        self.devices()?.rename(device, name)
    }

    fn move_device(&self, device: &Device, is_away: bool) -> Sys<()> {
        self.devices()?.set_away(device, is_away)
    }

    fn attribute(&self) -> Sys<Attribute> {
        match &self.devices {
            Some(devices) => devices.attribute(),
            None => {
                let Attribute { path } = self.groups.attribute()?;
                Ok(Attribute { path: format!("{}{path}", self.groups_at.path().display()) })
            }
        }
    }

    fn set_present(&self, attribute: &Attribute, is_present: bool) -> Sys<()> {
        match &self.devices {
            Some(devices) => devices.set_present(attribute, is_present),
            None => {
                let path = self.in_tree(&attribute.path)?.to_owned();
                self.groups.set_present(&Attribute { path }, is_present)
            }
        }
    }
}

fn mount(options: &MountOptions, tree: &Tree, dir: &Path) -> Result<Mount, String> {
    options.mount(tree, dir).map_err(|error| format!("it cannot be mounted here: {error}"))
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
