//! Classes, buses and drivers: directories that devices are linked from.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use kernfs::{Dir, Errno, Mode};

use super::lock;
use super::stream::Hub;

/// What all devices of a sysfs share.
pub(crate) struct Core {
    pub(crate) class: Dir,
    pub(crate) bus: Dir,
    pub(crate) char_numbers: Dir,
    pub(crate) block_numbers: Dir,
    /// Holds the two before; kept only for that.
    pub(crate) _dev: Dir,
    pub(crate) virtual_classes: Glue,
    pub(crate) virtual_devices: Dir,
    pub(crate) devices: Arc<Dir>,
    pub(crate) hub: Arc<Hub>,
}

impl Drop for Core {
    fn drop(&mut self) {
        self.hub.end();
    }
}

/// Directories between a device and its children, one for each class (`class_dir`).
///
/// They go with the directory that they are in, not with the last child.
#[derive(Default)]
pub(crate) struct Glue(Mutex<BTreeMap<String, Arc<Dir>>>);

impl Glue {
    /// Returns the directory of a name, which is made if there is none.
    ///
    /// # Errors
    ///
    /// ENOENT: the parent was removed. EEXIST: something else has the name.
    pub(crate) fn dir(&self, parent: &Dir, name: &str) -> Result<Arc<Dir>, Errno> {
        let fresh = Arc::new(parent.detached(Mode::DIR));
        let dir = Arc::clone(lock(&self.0).entry(name.into()).or_insert(fresh));
        match parent.attach(name, &dir) {
            // EINVAL: it is attached already. Whoever made it may not have come to that yet.
            Ok(()) | Err(Errno::EINVAL) => Ok(dir),
            Err(errno) => {
                let gone = lock(&self.0).remove(name);
                drop(gone);
                Err(errno)
            }
        }
    }

    /// Removes the directory of a name.
    fn remove(&self, name: &str) {
        let gone = lock(&self.0).remove(name);
        drop(gone);
    }
}

/// A class or a bus.
pub(crate) struct Subsystem {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) dir: Dir,
    pub(crate) core: Arc<Core>,
}

/// What a subsystem is.
pub(crate) enum Kind {
    Class,
    Bus {
        /// `devices` in the directory of the bus.
        devices: Dir,
        /// `drivers` in the directory of the bus.
        drivers: Dir,
    },
}

impl Subsystem {
    pub(crate) fn is_class(&self) -> bool {
        matches!(self.kind, Kind::Class)
    }

    /// Returns the directory in which the devices are linked.
    pub(crate) fn links(&self) -> &Dir {
        match &self.kind {
            Kind::Class => &self.dir,
            Kind::Bus { devices, .. } => devices,
        }
    }
}

impl Drop for Subsystem {
    fn drop(&mut self) {
        if self.is_class() {
            self.core.virtual_classes.remove(&self.name);
        }
    }
}

/// A class of devices, for example `input`: `/class/input` with a link to each device.
///
/// Its clones are the same class, which goes when the last of them and the last device has gone.
#[derive(Clone)]
pub struct Class(pub(crate) Arc<Subsystem>);

impl Class {
    pub(crate) fn new(core: &Arc<Core>, name: &str) -> Result<Self, Errno> {
        let dir = core.class.add_dir(name, Mode::DIR)?;
        let core = Arc::clone(core);
        Ok(Self(Arc::new(Subsystem { name: name.into(), kind: Kind::Class, dir, core })))
    }

    /// Returns the directory, for attributes of the class.
    #[must_use]
    pub fn dir(&self) -> &Dir {
        &self.0.dir
    }
}

impl fmt::Debug for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Class").field(&self.0.name).finish()
    }
}

/// A bus, for example `usb`: `/bus/usb/devices` with a link to each device, and
/// `/bus/usb/drivers`.
///
/// Its clones are the same bus, which goes when the last of them, the last device and the last
/// driver has gone.
#[derive(Clone)]
pub struct Bus(pub(crate) Arc<Subsystem>);

impl Bus {
    pub(crate) fn new(core: &Arc<Core>, name: &str) -> Result<Self, Errno> {
        let dir = core.bus.detached(Mode::DIR);
        let devices = dir.add_dir("devices", Mode::DIR)?;
        let drivers = dir.add_dir("drivers", Mode::DIR)?;
        core.bus.attach(name, &dir)?;
        let core = Arc::clone(core);
        let kind = Kind::Bus { devices, drivers };
        Ok(Self(Arc::new(Subsystem { name: name.into(), kind, dir, core })))
    }

    /// Adds a driver: a directory in which the devices that are bound to it are linked.
    ///
    /// # Errors
    ///
    /// As for [`Dir::add_dir`].
    pub fn add_driver(&self, name: &str) -> Result<Driver, Errno> {
        let Kind::Bus { drivers, .. } = &self.0.kind else {
            return Err(Errno::EINVAL);
        };
        let dir = drivers.add_dir(name, Mode::DIR)?;
        Ok(Driver(Arc::new(DriverDir { dir, name: name.into(), bus: Arc::clone(&self.0) })))
    }

    /// Returns the directory, for attributes of the bus.
    #[must_use]
    pub fn dir(&self) -> &Dir {
        &self.0.dir
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bus").field(&self.0.name).finish()
    }
}

/// A driver of a bus, to which devices are [bound](super::Device::bind).
///
/// Its clones are the same driver, which goes when the last of them and the last bound device has
/// gone.
#[derive(Clone)]
pub struct Driver(pub(crate) Arc<DriverDir>);

pub(crate) struct DriverDir {
    // Before the bus, for it is dropped first.
    pub(crate) dir: Dir,
    pub(crate) name: String,
    pub(crate) bus: Arc<Subsystem>,
}

impl Driver {
    /// Returns the directory, for attributes of the driver.
    #[must_use]
    pub fn dir(&self) -> &Dir {
        &self.0.dir
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Driver").field(&self.0.name).finish()
    }
}
