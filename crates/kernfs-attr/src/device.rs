//! Devices, classes and buses as directories with the links between them, and their events: what
//! `/sys` is to those who look for devices (`drivers/base`).
//!
//! ```
//! use kernfs::{Manners, Tree};
//! use kernfs_attr::device::{Announcement, Sysfs};
//! use kernfs_attr::{Attr, Attributes};
//!
//! #[derive(Attributes)]
//! struct Led {
//!     #[attr(rw, range = 0..=255)]
//!     brightness: Attr<u8>,
//! }
//!
//! let tree = Tree::builder().manners(Manners::Sysfs).build();
//! let sys = Sysfs::new(tree.root())?;
//! let mut events = sys.uevents(64);
//! let leds = sys.add_class("leds")?;
//! let led = sys.device("power").class(&leds).register(Led { brightness: Attr::new(0) })?;
//! assert_eq!(led.devpath(), "/devices/virtual/leds/power"); // and /class/leds/power leads there
//! let Some(Announcement::Uevent(event)) = events.recv() else { panic!() };
//! assert_eq!(event.to_string(), "add@/devices/virtual/leds/power");
//! let led: Led = led.remove()?; // directory, links and children go; then `remove` is told
//! # assert_eq!(led.brightness.get(), 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Where a device is
//!
//! | class or bus | parent | directory |
//! |---|---|---|
//! | class | none | `/devices/virtual/CLASS/NAME` |
//! | class | a device of a class | `PARENT/NAME` |
//! | class | another device | `PARENT/CLASS/NAME` |
//! | bus, or neither | a device | `PARENT/NAME` |
//! | bus, or neither | none | `/devices/NAME` |
//!
//! That is `get_device_parent`. The directory has the files of the struct, `uevent`, and where they
//! apply `dev` and the links `subsystem`, `device` (to the parent) and `driver`.
//! To it lead `/class/CLASS/NAME` or `/bus/BUS/devices/NAME`, and `/dev/char/MAJOR:MINOR`.
//!
//! # Order
//!
//! A device is built aside. Its directory comes at once with all files, then the links, then `add`
//! is told. When it is removed, the links go, then the directory at once with all that is below it,
//! then `remove` is told, of children first. Events of one device come in the order in which things
//! happened to it, and all streams have one order.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kernfs::{Dir, Errno, Mode, Rejected};

use crate::contents::AnyGroup;
use crate::declare::Attributes;
use crate::exposed::{Exposed, Removal, Unfinished};

use node::{Node, State};
use subsystem::{Core, Glue, Subsystem};

// In the order in which to read them.
mod node;

mod subsystem;

mod stream;

mod uevent;

pub use stream::{Announcement, Uevents};
pub use subsystem::{Bus, Class, Driver};
pub use uevent::{Environment, MAX_VARIABLE_BYTES, MAX_VARIABLES, Uevent, UeventAction};

/// A directory with devices, classes and buses in it.
///
/// Its clones are the same; it goes when the last of them, of its classes and buses and of its
/// devices has gone.
#[derive(Clone)]
pub struct Sysfs(Arc<Core>);

impl Sysfs {
    /// Adds `devices`, `class`, `bus` and `dev` to a directory.
    ///
    /// # Errors
    ///
    /// As for [`Dir::add_dir`].
    pub fn new(root: &Dir) -> Result<Self, Errno> {
        let devices = root.add_dir("devices", Mode::DIR)?;
        let virtual_devices = devices.add_dir("virtual", Mode::DIR)?;
        let dev = root.add_dir("dev", Mode::DIR)?;
        Ok(Self(Arc::new(Core {
            class: root.add_dir("class", Mode::DIR)?,
            bus: root.add_dir("bus", Mode::DIR)?,
            char_numbers: dev.add_dir("char", Mode::DIR)?,
            block_numbers: dev.add_dir("block", Mode::DIR)?,
            _dev: dev,
            virtual_classes: Glue::default(),
            virtual_devices,
            devices: Arc::new(devices),
            hub: Arc::default(),
        })))
    }

    /// Adds a class.
    ///
    /// # Errors
    ///
    /// As for [`Dir::add_dir`].
    pub fn add_class(&self, name: &str) -> Result<Class, Errno> {
        Class::new(&self.0, name)
    }

    /// Adds a bus.
    ///
    /// # Errors
    ///
    /// As for [`Dir::add_dir`].
    pub fn add_bus(&self, name: &str) -> Result<Bus, Errno> {
        Bus::new(&self.0, name)
    }

    /// Starts a device with a name, in which a slash becomes `!` (`kobject_set_name`).
    pub fn device(&self, name: &str) -> DeviceBuilder {
        DeviceBuilder {
            core: Arc::clone(&self.0),
            name: name.replace('/', "!"),
            subsystem: None,
            parent: None,
            number: None,
            devname: None,
            devtype: None,
            env: Vec::new(),
        }
    }

    /// Returns a stream of the events of all devices from now on, holding at most `capacity`.
    #[must_use]
    pub fn uevents(&self, capacity: usize) -> Uevents {
        self.0.hub.stream(capacity)
    }

    /// Returns the number of the last event (`/sys/kernel/uevent_seqnum`).
    #[must_use]
    pub fn uevent_seqnum(&self) -> u64 {
        self.0.hub.seqnum()
    }
}

impl fmt::Debug for Sysfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sysfs").field("uevent_seqnum", &self.uevent_seqnum()).finish()
    }
}

/// A device in the making.
#[must_use = "a builder makes nothing until `register`"]
pub struct DeviceBuilder {
    core: Arc<Core>,
    name: String,
    subsystem: Option<Arc<Subsystem>>,
    parent: Option<Arc<Node>>,
    number: Option<(u32, u32)>,
    devname: Option<String>,
    devtype: Option<String>,
    env: Vec<(String, String)>,
}

impl DeviceBuilder {
    /// Makes it a device of a class, instead of another class or bus.
    pub fn class(mut self, class: &Class) -> Self {
        self.subsystem = Some(Arc::clone(&class.0));
        self
    }

    /// Puts it on a bus, instead of another class or bus.
    pub fn bus(mut self, bus: &Bus) -> Self {
        self.subsystem = Some(Arc::clone(&bus.0));
        self
    }

    /// Makes it a child, which goes when its parent goes.
    pub fn parent<P>(mut self, parent: &Device<P>) -> Self {
        self.parent = Some(Arc::clone(&parent.node.0));
        self
    }

    /// Gives it a device number, and by that `MAJOR`, `MINOR` and `DEVNAME`.
    pub fn number(mut self, major: u32, minor: u32) -> Self {
        self.number = Some((major, minor));
        self
    }

    /// Sets `DEVNAME`, the path below `/dev`, otherwise the name with `!` for a slash.
    pub fn devname(mut self, devname: &str) -> Self {
        self.devname = Some(devname.into());
        self
    }

    /// Sets `DEVTYPE`.
    pub fn devtype(mut self, devtype: &str) -> Self {
        self.devtype = Some(devtype.into());
        self
    }

    /// Adds a variable to its `uevent` file and all its events.
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    /// Adds the device with what it exposes, `()` for nothing, and tells everyone
    /// (`device_register`).
    ///
    /// # Errors
    ///
    /// EEXIST: the name is taken, here or in the class or bus. ENOENT: the parent has gone, or the
    /// tree. EINVAL, ENOMEM: variables as [`Environment::set`] does not take them, or of another
    /// sysfs. Else as for [`Dir::add_file`]. Nothing was added then, and the error gives the object
    /// back.
    pub fn register<S: Attributes>(self, object: S) -> Result<Device<S>, Rejected<S>> {
        let (node, container) = match self.node() {
            Ok(made) => made,
            Err(errno) => return Err(Rejected::new(errno, object)),
        };
        let exposed = Exposed::build(object, AnyGroup::unbind, |part, contents| {
            node.add_own_files()?;
            contents.place(part, &node.dir)?;
            container.attach(&node.name, &node.dir)?;
            let published = node.enter_parent().and_then(|()| node.link());
            // Whatever is there by now goes, also where the parent has taken it meanwhile.
            published.and_then(|()| node.announce()).inspect_err(|_| drop(node.sever()))?;
            Ok(Some(Arc::clone(&node.dir)))
        })?;
        Ok(Device { node: Armed(node), exposed })
    }

    /// Makes the device with its directory, which is not attached yet to the one that is returned.
    fn node(self) -> Result<(Arc<Node>, Arc<Dir>), Errno> {
        let of = self.subsystem.iter().map(|subsystem| &subsystem.core);
        let mut below = of.chain(self.parent.iter().map(|parent| &parent.core));
        if !below.all(|core| Arc::ptr_eq(core, &self.core)) {
            return Err(Errno::EINVAL);
        }
        let state = Mutex::new(State::new(self.environment()?));
        let (container, path) = self.container()?;
        let dir = Arc::new(container.detached(Mode::DIR));
        let devpath = format!("{path}/{}", self.name);
        let Self { core, name, subsystem, parent, number, .. } = self;
        let glue = Glue::default();
        let node = Node { core, name, devpath, subsystem, parent, number, dir, glue, state };
        Ok((Arc::new(node), container))
    }

    /// Returns the directory for the device, with its path (`get_device_parent`).
    fn container(&self) -> Result<(Arc<Dir>, String), Errno> {
        let class = self.subsystem.as_ref().filter(|subsystem| subsystem.is_class());
        match (class, &self.parent) {
            (Some(class), None) => {
                let dir = self.core.virtual_classes.dir(&self.core.virtual_devices, &class.name)?;
                Ok((dir, format!("/devices/virtual/{}", class.name)))
            }
            (Some(class), Some(parent)) => {
                if parent.subsystem.as_ref().is_some_and(|subsystem| subsystem.is_class()) {
                    return Ok((Arc::clone(&parent.dir), parent.devpath.clone()));
                }
                let dir = parent.glue.dir(&parent.dir, &class.name)?;
                Ok((dir, format!("{}/{}", parent.devpath, class.name)))
            }
            (None, Some(parent)) => Ok((Arc::clone(&parent.dir), parent.devpath.clone())),
            (None, None) => Ok((Arc::clone(&self.core.devices), "/devices".into())),
        }
    }

    /// Returns the variables of the device, but for its driver (`dev_uevent`).
    fn environment(&self) -> Result<Environment, Errno> {
        let mut env = Environment::default();
        if let Some((major, minor)) = self.number {
            env.set("MAJOR", major.to_string())?;
            env.set("MINOR", minor.to_string())?;
            let devname = self.devname.clone().unwrap_or_else(|| self.name.replace('!', "/"));
            env.set("DEVNAME", devname)?;
        }
        if let Some(devtype) = &self.devtype {
            env.set("DEVTYPE", devtype)?;
        }
        for (key, value) in &self.env {
            env.set(key, value)?;
        }
        Ok(env)
    }
}

impl fmt::Debug for DeviceBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceBuilder").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A device, in the hands of its owner, with what it exposes.
///
/// Derefs to that. Dropping it takes the device away without waiting.
pub struct Device<S> {
    // Before the files, for it is dropped first: links go before what they lead to.
    node: Armed,
    exposed: Exposed<S>,
}

/// Takes a device away when dropped.
struct Armed(Arc<Node>);

impl Drop for Armed {
    fn drop(&mut self) {
        drop(self.0.sever());
    }
}

impl<S: Attributes> Device<S> {
    /// Takes the device away, with its links and all below it, without waiting; then tells.
    ///
    /// May be called anywhere, also inside an operation on one of its files.
    pub fn sever(self) -> Removal<S> {
        let Self { node, exposed } = self;
        let links = node.0.sever();
        exposed.sever().and(links)
    }

    /// Takes the device away, with its links and all below it, waits until it is at rest, and
    /// returns what it exposed.
    ///
    /// A device that has gone with its parent is only waited for. What children exposed comes back
    /// by their own handles.
    ///
    /// # Errors
    ///
    /// EDEADLK inside an operation of the same tree; the removal goes on, and the error gives it
    /// back.
    pub fn remove(self) -> Result<S, Unfinished<S>> {
        self.sever().wait()
    }

    /// Looks anew at what is to be visible, as [`Exposed::update`] does.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn update(&mut self) -> Result<(), Errno> {
        self.exposed.update()
    }
}

impl<S> Device<S> {
    /// Returns the directory, for more attributes.
    #[must_use]
    pub fn dir(&self) -> &Dir {
        &self.node.0.dir
    }

    /// Returns the path below the root of the sysfs.
    #[must_use]
    pub fn devpath(&self) -> &str {
        &self.node.0.devpath
    }

    /// Returns the variables that the `uevent` file shows.
    ///
    /// # Errors
    ///
    /// ENOMEM: too many.
    pub fn env(&self) -> Result<Environment, Errno> {
        self.node.0.env()
    }

    /// Sets a variable of the `uevent` file and of all events to come; tells nobody.
    ///
    /// # Errors
    ///
    /// As for [`Environment::set`].
    pub fn set_env(&self, key: &str, value: &str) -> Result<(), Errno> {
        self.node.0.set_env(key, value)
    }

    /// Tells everyone that the device has changed, with variables of this event
    /// (`kobject_uevent_env`).
    ///
    /// # Errors
    ///
    /// As for [`tell`](Self::tell).
    pub fn changed(&self, env: &Environment) -> Result<(), Errno> {
        self.tell(UeventAction::Change, env)
    }

    /// Tells everyone something of the device; a device without a class or bus has nobody to tell.
    ///
    /// # Errors
    ///
    /// ENODEV: the device has gone. ENOMEM: too many variables, with those of the device.
    pub fn tell(&self, action: UeventAction, env: &Environment) -> Result<(), Errno> {
        self.node.0.tell(action, env)
    }

    /// Binds the device to a driver of its bus: links both, and tells.
    ///
    /// # Errors
    ///
    /// EBUSY: it is bound. EINVAL: the driver is of another bus. ENODEV: the device has gone.
    pub fn bind(&self, driver: &Driver) -> Result<(), Errno> {
        self.node.0.bind(&driver.0)
    }

    /// Lets go of the driver, and tells.
    ///
    /// # Errors
    ///
    /// ENODEV: there is none.
    pub fn unbind(&self) -> Result<(), Errno> {
        self.node.0.unbind()
    }
}

impl<S> Deref for Device<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.exposed
    }
}

impl<S> fmt::Debug for Device<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Device").field(&self.node.0.devpath).finish()
    }
}

/// Takes a lock; no code of users runs under one, so that a poisoned one is as good as any other.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
