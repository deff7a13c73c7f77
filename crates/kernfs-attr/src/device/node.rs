//! A device without the type of what it exposes: where it is, what links to it, what is told of it.

use std::fmt::Write;
use std::sync::{Arc, Mutex, Weak};

use kernfs::{Dir, Draining, Errno, FileOps, Link, Mode, OpenOp, ReadOp, WriteOp, show};

use super::lock;
use super::stream::Wake;
use super::subsystem::{Core, DriverDir, Glue, Subsystem};
use super::uevent::{Environment, Synthetic, Uevent, UeventAction};

/// A device.
pub(crate) struct Node {
    pub(crate) core: Arc<Core>,
    pub(crate) name: String,
    pub(crate) devpath: String,
    pub(crate) subsystem: Option<Arc<Subsystem>>,
    pub(crate) parent: Option<Arc<Self>>,
    /// Major and minor number.
    pub(crate) number: Option<(u32, u32)>,
    pub(crate) dir: Arc<Dir>,
    pub(crate) glue: Glue,
    pub(crate) state: Mutex<State>,
}

pub(crate) struct State {
    phase: Phase,
    /// `MAJOR` to `DEVTYPE`, and what the owner has added.
    env: Environment,
    driver: Option<Bound>,
    /// Links that lead to the device from elsewhere.
    links: Vec<Link>,
    children: Vec<Weak<Node>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nobody was told of it.
    New,
    Announced,
    Gone,
}

struct Bound {
    driver: Arc<DriverDir>,
    links: [Link; 2],
}

impl State {
    pub(crate) fn new(env: Environment) -> Self {
        Self { phase: Phase::New, env, driver: None, links: Vec::new(), children: Vec::new() }
    }

    /// Returns what the `uevent` file shows (`dev_uevent`).
    fn device_env(&self) -> Result<Environment, Errno> {
        let mut env = self.env.clone();
        if let Some(bound) = &self.driver {
            env.set("DRIVER", bound.driver.name.as_str())?;
        }
        Ok(env)
    }
}

impl Node {
    /// Lets the parent know of the device, which then goes when the parent goes.
    ///
    /// # Errors
    ///
    /// ENOENT: the parent has gone.
    pub(crate) fn enter_parent(self: &Arc<Self>) -> Result<(), Errno> {
        let Some(parent) = &self.parent else {
            return Ok(());
        };
        let mut state = lock(&parent.state);
        if state.phase == Phase::Gone {
            return Err(Errno::ENOENT);
        }
        state.children.retain(|child| child.strong_count() > 0);
        state.children.push(Arc::downgrade(self));
        Ok(())
    }

    /// Adds the files and links that every device has in its directory.
    pub(crate) fn add_own_files(self: &Arc<Self>) -> Result<(), Errno> {
        self.dir.add_file("uevent", Mode::RW, UeventFile(Arc::downgrade(self)))?.keep();
        if let Some((major, minor)) = self.number {
            let text = format!("{major}:{minor}\n");
            let dev = show(move |op| op.push(text.as_bytes()));
            self.dir.add_file("dev", Mode::RO, dev)?.keep();
        }
        if let Some(subsystem) = &self.subsystem {
            self.dir.add_link("subsystem", &subsystem.dir)?.keep();
            if let Some(parent) = self.parent.as_ref().filter(|_| subsystem.is_class()) {
                self.dir.add_link("device", &*parent.dir)?.keep();
            }
        }
        Ok(())
    }

    /// Links the device from where it is looked for (`device_add_class_symlinks`,
    /// `device_create_sys_dev_entry`).
    pub(crate) fn link(&self) -> Result<(), Errno> {
        let mut links = Vec::new();
        if let Some(subsystem) = &self.subsystem {
            links.push(subsystem.links().add_link(&self.name, &*self.dir)?);
        }
        if let Some((major, minor)) = self.number {
            let is_block = self.subsystem.as_ref().is_some_and(|of| of.name == "block");
            let numbers = match is_block {
                true => &self.core.block_numbers,
                false => &self.core.char_numbers,
            };
            links.push(numbers.add_link(format!("{major}:{minor}"), &*self.dir)?);
        }
        let mut state = lock(&self.state);
        if state.phase == Phase::Gone {
            drop(state);
            return Err(Errno::ENOENT);
        }
        state.links = links;
        Ok(())
    }

    /// Tells that the device is there.
    ///
    /// # Errors
    ///
    /// ENOENT: it has gone meanwhile, with its parent. ENOMEM: its variables are too long.
    pub(crate) fn announce(&self) -> Result<(), Errno> {
        let wake = {
            let mut state = lock(&self.state);
            if state.phase == Phase::Gone {
                return Err(Errno::ENOENT);
            }
            let wake = self.push(&state, UeventAction::Add, &Environment::default())?;
            state.phase = Phase::Announced;
            wake
        };
        wake.into_iter().for_each(Wake::wake);
        Ok(())
    }

    /// Tells of something else (`kobject_uevent_env`); does nothing without a class or bus.
    ///
    /// # Errors
    ///
    /// ENODEV: the device has gone. ENOMEM: too many variables.
    pub(crate) fn tell(&self, action: UeventAction, env: &Environment) -> Result<(), Errno> {
        let wake = {
            let state = lock(&self.state);
            if state.phase != Phase::Announced {
                return Err(Errno::ENODEV);
            }
            self.push(&state, action, env)?
        };
        wake.into_iter().for_each(Wake::wake);
        Ok(())
    }

    pub(crate) fn env(&self) -> Result<Environment, Errno> {
        lock(&self.state).device_env()
    }

    /// Sets a variable, if all events to come have room for it.
    pub(crate) fn set_env(&self, key: &str, value: &str) -> Result<(), Errno> {
        let mut state = lock(&self.state);
        let mut env = state.device_env()?;
        env.set(key, value)?;
        self.check_room(&env)?;
        state.env.set(key, value)
    }

    /// Binds a driver of the bus that the device is on (`driver_bound`).
    pub(crate) fn bind(&self, driver: &Arc<DriverDir>) -> Result<(), Errno> {
        let is_ours = |subsystem: &Arc<Subsystem>| Arc::ptr_eq(subsystem, &driver.bus);
        if !self.subsystem.as_ref().is_some_and(is_ours) {
            return Err(Errno::EINVAL);
        }
        let taken = |errno| if errno == Errno::EEXIST { Errno::EBUSY } else { errno };
        let to_driver = self.dir.add_link("driver", &driver.dir).map_err(taken)?;
        let to_device = driver.dir.add_link(&self.name, &*self.dir).map_err(taken)?;
        let bound = Bound { driver: Arc::clone(driver), links: [to_device, to_driver] };
        let wake = {
            let mut state = lock(&self.state);
            if state.phase != Phase::Announced {
                // Before the links, whose drop removes them.
                drop(state);
                return Err(Errno::ENODEV);
            }
            state.driver = Some(bound);
            let told = self.push(&state, UeventAction::Bind, &Environment::default());
            match told {
                Ok(wake) => wake,
                Err(errno) => {
                    let bound = state.driver.take();
                    drop(state);
                    drop(bound);
                    return Err(errno);
                }
            }
        };
        wake.into_iter().for_each(Wake::wake);
        Ok(())
    }

    /// Lets go of the driver (`device_release_driver`).
    pub(crate) fn unbind(&self) -> Result<(), Errno> {
        let (bound, wake) = {
            let mut state = lock(&self.state);
            let bound = state.driver.take().ok_or(Errno::ENODEV)?;
            (bound, self.push(&state, UeventAction::Unbind, &Environment::default()))
        };
        drop(bound.links.map(Link::sever));
        wake?.into_iter().for_each(Wake::wake);
        Ok(())
    }

    /// Takes the device away, with all below it, if that was not done before.
    ///
    /// First the links, so that none of them leads nowhere; then everything at once; then all are
    /// told, the children first.
    pub(crate) fn sever(self: &Arc<Self>) -> Option<Draining> {
        let mut gone = Vec::new();
        self.retire(&mut gone);
        let mut links = Vec::new();
        for Retired { bound, links: own, .. } in &mut gone {
            links.append(own);
            links.extend(bound.take().into_iter().flat_map(|bound| bound.links));
        }
        let mut drainings: Vec<Draining> = links.into_iter().map(Link::sever).collect();
        if !gone.is_empty() {
            drainings.push(self.dir.sever_shared());
        }
        for retired in gone {
            retired.tell();
        }
        drainings.into_iter().reduce(Draining::and)
    }

    /// Marks the device, and those below it, as gone; children come first.
    fn retire(self: &Arc<Self>, gone: &mut Vec<Retired>) {
        let mut state = lock(&self.state);
        if state.phase == Phase::Gone {
            return;
        }
        let was_announced = state.phase == Phase::Announced;
        state.phase = Phase::Gone;
        let children = std::mem::take(&mut state.children);
        let links = std::mem::take(&mut state.links);
        let bound = state.driver.take();
        let was_bound = bound.is_some();
        drop(state);
        for child in children.iter().filter_map(Weak::upgrade) {
            child.retire(gone);
        }
        let node = Arc::clone(self);
        gone.push(Retired { node, was_announced, was_bound, bound, links });
    }

    /// Queues an event, of a device that has a class or bus; under its lock, which orders them.
    fn push(
        &self,
        state: &State,
        action: UeventAction,
        extra: &Environment,
    ) -> Result<Option<Wake>, Errno> {
        let Some(subsystem) = &self.subsystem else {
            return Ok(None);
        };
        let mut env = extra.clone();
        env.extend(&state.device_env()?)?;
        self.check_room(&env)?;
        let (devpath, subsystem) = (self.devpath.clone(), subsystem.name.clone());
        Ok(Some(self.core.hub.push(Uevent { seqnum: 0, action, devpath, subsystem, env })))
    }

    /// Checks that variables fit into any event of the device, with those that each has.
    fn check_room(&self, env: &Environment) -> Result<(), Errno> {
        let subsystem = self.subsystem.as_ref().map_or(0, |subsystem| subsystem.name.len());
        // With the longest action and the longest number.
        let besides = "ACTION=offline\0DEVPATH=\0SUBSYSTEM=\0SEQNUM=18446744073709551615\0".len();
        env.check_size(besides + self.devpath.len() + subsystem)
    }
}

/// A device that has gone, of which nobody was told yet.
struct Retired {
    node: Arc<Node>,
    was_announced: bool,
    was_bound: bool,
    bound: Option<Bound>,
    links: Vec<Link>,
}

impl Retired {
    fn tell(self) {
        if !self.was_announced {
            return;
        }
        let unbind = self.was_bound.then_some(UeventAction::Unbind);
        for action in unbind.into_iter().chain([UeventAction::Remove]) {
            let told = {
                let state = lock(&self.node.state);
                self.node.push(&state, action, &Environment::default())
            };
            // What was announced can be withdrawn: there is room for the variables in any event.
            if let Ok(wake) = told {
                wake.into_iter().for_each(Wake::wake);
            }
        }
    }
}

/// The `uevent` file of a device.
struct UeventFile(Weak<Node>);

impl UeventFile {
    fn node(&self) -> Result<Arc<Node>, Errno> {
        self.0.upgrade().ok_or(Errno::ENODEV)
    }
}

impl FileOps for UeventFile {
    type Open = ();

    fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
        Ok(())
    }

    /// Shows the variables of the device (`uevent_show`).
    fn read(&self, (): &mut (), op: &mut ReadOp<'_>) -> Result<(), Errno> {
        write!(op, "{}", self.node()?.env()?).map_err(|_| Errno::EIO)
    }

    /// Tells everyone what the writer wants to be told (`uevent_store`).
    fn write(&self, (): &mut (), op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        // A write of nothing does nothing, as in sysfs.
        if op.data().is_empty() {
            return Ok(0);
        }
        let Synthetic { action, env } = Synthetic::parse(op.data())?;
        self.node()?.tell(action, &env)?;
        Ok(op.data().len())
    }
}
