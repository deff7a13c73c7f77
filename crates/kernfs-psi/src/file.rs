//! Pressure files: the kernel's text, and one trigger per open file.

use std::fmt::{self, Write as _};

use kernfs::{
    Caller, Capability, Errno, Events, FileOps, FileOptions, Mode, OpenOp, ReadOp, ReadyBy,
    WriteLimit, WriteOp,
};

use crate::group::{Group, Trigger};
use crate::state::Resource;
use crate::trigger::{Listener, Privilege, parse_trigger};

/// Makes the driver of a pressure file, with the manners of cgroup files.
///
/// Reading gives two lines, `some` and `full` (irq only `full`). Writing `some 150000 1000000` sets
/// a trigger, from when on the file polls PRI once per event, at most one per window; see
/// [`parse_trigger`]. Without a trigger it polls ERR and PRI at once.
#[must_use]
pub fn pressure_file(group: &Group, resource: Resource) -> PressureFile {
    PressureFile { group: group.clone(), resource, manners: WriteManners::Cgroup }
}

/// The driver of a pressure file (`cgroup_pressure_write`, `psi_write`).
///
/// Writes answer EBUSY where a trigger is set, whatever is written, and EINVAL for what
/// [`parse_trigger`] refuses. While the engine is [off](crate::EngineBuilder::off), reads and
/// writes answer EOPNOTSUPP.
#[derive(Clone, Debug)]
pub struct PressureFile {
    group: Group,
    resource: Resource,
    manners: WriteManners,
}

impl PressureFile {
    /// Sets how writes are taken.
    #[must_use]
    pub fn manners(mut self, manners: WriteManners) -> Self {
        self.manners = manners;
        self
    }

    /// Returns the options to add the file with, mode 0644.
    pub fn options(&self) -> FileOptions {
        FileOptions::new(Mode::RW).write_limit(match self.manners {
            WriteManners::Cgroup => WriteLimit::Atomic(kernfs::PAGE_SIZE),
            WriteManners::Proc => WriteLimit::Atomic(usize::MAX),
        })
    }

    /// Returns the group.
    #[must_use]
    pub fn group(&self) -> &Group {
        &self.group
    }
}

/// How writes to a pressure file are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteManners {
    /// As in cgroupfs: an empty write is 0 and does nothing; more than a page is E2BIG.
    Cgroup,
    /// As in `/proc/pressure`: an empty write is EINVAL; of any length, the first 32 bytes are
    /// looked at, of which the last is taken for a NUL, whatever it was.
    Proc,
}

/// How much `/proc/pressure` looks at, in bytes (`psi_write`).
const PROC_LIMIT: usize = 32;

impl WriteManners {
    /// Returns the text of a write; `None` for an empty one that does nothing.
    fn text(self, data: &[u8], is_supported: bool) -> Result<Option<&[u8]>, Errno> {
        match (self, data) {
            (Self::Cgroup, []) => Ok(None),
            _ if !is_supported => Err(Errno::EOPNOTSUPP),
            (Self::Cgroup, data) => Ok(Some(data)),
            (Self::Proc, []) => Err(Errno::EINVAL),
            (Self::Proc, data) => Ok(Some(&data[..data.len().min(PROC_LIMIT) - 1])),
        }
    }
}

/// The state of an open pressure file, of severing lifetime: its trigger ends with it.
pub struct PressureOpen {
    opener: Caller,
    listener: Listener,
    trigger: Option<Trigger>,
}

impl fmt::Debug for PressureOpen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PressureOpen")
            .field("opener", &self.opener)
            .field("has_trigger", &self.trigger.is_some())
            .finish_non_exhaustive()
    }
}

impl FileOps for PressureFile {
    type Open = PressureOpen;
    const READY: ReadyBy = ReadyBy::Handle;

    fn open(&self, op: &mut OpenOp<'_>) -> Result<PressureOpen, Errno> {
        let listener = Listener { readiness: op.readiness(), notifier: op.notifier() };
        listener.readiness.set(Events::CHANGED);
        Ok(PressureOpen { opener: *op.caller(), listener, trigger: None })
    }

    fn read(&self, _: &mut PressureOpen, op: &mut ReadOp<'_>) -> Result<(), Errno> {
        if !self.group.is_supported() {
            return Err(Errno::EOPNOTSUPP);
        }
        write!(op, "{}", self.group.pressure(self.resource)).map_err(|_| Errno::EIO)
    }

    fn write(&self, open: &mut PressureOpen, op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        let is_supported = self.group.is_supported();
        let Some(text) = self.manners.text(op.data(), is_supported)? else {
            return Ok(0);
        };
        // One trigger per open file: a poller waits for one condition, and never for another
        // than that which was there when it began.
        if open.trigger.is_some() {
            return Err(Errno::EBUSY);
        }
        // The opener's, so that who may set triggers can pass the file on to who may not.
        let privilege = match open.opener.is_capable(Capability::SYS_RESOURCE) {
            true => Privilege::Privileged,
            false => Privilege::Unprivileged,
        };
        let condition = parse_trigger(text, self.resource, privilege)?;
        let listener = open.listener.clone();
        let trigger = self.group.attach(self.resource, condition, privilege, listener);
        open.trigger = Some(trigger.ok_or(Errno::EINVAL)?);
        open.listener.readiness.clear(Events::CHANGED);
        Ok(op.data().len())
    }
}
