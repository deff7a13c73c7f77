//! The control files: which there are, and how they are read and written (`struct cftype`).

mod base;

mod controllers;

use std::sync::Arc;

use kernfs::{Caller, Draining, Errno, FileOps, Mode, OpenOp, ReadOp, WriteOp};

use crate::controllers::Controllers;
use crate::core::Core;
use crate::parse;
use crate::rules::{Id, Info};

/// The control files of all groups.
pub(crate) static FILES: &[ControlType] = &[
    ControlType::everywhere("cgroup.procs").read(base::procs).write(base::attach_process),
    ControlType::everywhere("cgroup.threads").read(base::threads).write(base::attach_thread),
    ControlType::everywhere("cgroup.controllers").read(base::controllers),
    ControlType::everywhere("cgroup.subtree_control")
        .read(base::subtree_control)
        .write(base::set_subtree_control),
    ControlType::everywhere("cgroup.max.depth").read(base::max_depth).write(base::set_max_depth),
    ControlType::everywhere("cgroup.max.descendants")
        .read(base::max_descendants)
        .write(base::set_max_descendants),
    ControlType::everywhere("cgroup.stat").read(base::stat),
    ControlType::everywhere("cgroup.pressure").read(base::pressure).write(base::set_pressure),
    ControlType::everywhere("cpu.stat").read(base::cpu_stat),
    // What the cpu controller knows of a group, which is not offered.
    ControlType::everywhere("cpu.stat.local").read(|_| Ok(String::new())),
    ControlType::below_root("cgroup.type").read(base::kind).write(base::set_kind),
    ControlType::below_root("cgroup.events").read(base::events),
    ControlType::below_root("cgroup.stat.local").read(base::stat_local),
    ControlType::below_root("cgroup.freeze").read(base::freeze).write(base::set_freeze),
    ControlType::below_root("cgroup.kill").write(base::kill),
    ControlType::of(Controllers::MEMORY, "memory.current").read(controllers::memory_current),
    ControlType::of(Controllers::MEMORY, "memory.min")
        .read(|asked| controllers::memory_limit(asked, |memory| memory.min))
        .write(|asked| controllers::set_memory_limit(asked, |memory| &mut memory.min)),
    ControlType::of(Controllers::MEMORY, "memory.low")
        .read(|asked| controllers::memory_limit(asked, |memory| memory.low))
        .write(|asked| controllers::set_memory_limit(asked, |memory| &mut memory.low)),
    ControlType::of(Controllers::MEMORY, "memory.high")
        .read(|asked| controllers::memory_limit(asked, |memory| memory.high))
        .write(|asked| controllers::set_memory_limit(asked, |memory| &mut memory.high)),
    ControlType::of(Controllers::MEMORY, "memory.max")
        .read(|asked| controllers::memory_limit(asked, |memory| memory.max))
        .write(|asked| controllers::set_memory_limit(asked, |memory| &mut memory.max)),
    ControlType::of(Controllers::MEMORY, "memory.events")
        .read(|asked| controllers::memory_events(asked, |memory| &memory.events)),
    ControlType::of(Controllers::MEMORY, "memory.events.local")
        .read(|asked| controllers::memory_events(asked, |memory| &memory.local_events)),
    ControlType::of(Controllers::PIDS, "pids.current").read(controllers::pids_current),
    ControlType::of(Controllers::PIDS, "pids.max")
        .read(controllers::pids_max)
        .write(controllers::set_pids_max),
];

type Read = fn(&Asked<'_>) -> Result<String, Errno>;
type Write = fn(&Asked<'_>) -> Result<Option<Draining>, Errno>;

/// What a control file is.
pub(crate) struct ControlType {
    pub(crate) name: &'static str,
    is_in_root: bool,
    controller: Controllers,
    read: Option<Read>,
    write: Option<Write>,
}

impl ControlType {
    const fn everywhere(name: &'static str) -> Self {
        Self { name, is_in_root: true, controller: Controllers::empty(), read: None, write: None }
    }

    /// (`CFTYPE_NOT_ON_ROOT`)
    const fn below_root(name: &'static str) -> Self {
        Self { is_in_root: false, ..Self::everywhere(name) }
    }

    const fn of(controller: Controllers, name: &'static str) -> Self {
        Self { controller, ..Self::below_root(name) }
    }

    const fn read(self, read: Read) -> Self {
        Self { read: Some(read), ..self }
    }

    const fn write(self, write: Write) -> Self {
        Self { write: Some(write), ..self }
    }

    /// Tells whether a group has the file for a controller, or for none.
    pub(crate) fn is_in(&self, is_root: bool, controller: Controllers) -> bool {
        self.controller == controller && (self.is_in_root || !is_root)
    }

    /// (`cgroup_file_mode`)
    pub(crate) fn mode(&self) -> Mode {
        match (self.read, self.write) {
            (Some(_), Some(_)) => Mode::RW,
            (Some(_), None) => Mode::RO,
            (None, _) => Mode::WO,
        }
    }
}

/// What is asked of a file.
pub(crate) struct Asked<'a> {
    core: &'a Arc<Core>,
    id: Id,
    /// Who opened the file.
    opener: &'a Caller,
    /// Who reads or writes it.
    caller: &'a Caller,
    /// What is written, without surrounding blanks; nothing in a read.
    text: &'a [u8],
}

/// The driver of a control file.
pub(crate) struct ControlFile {
    core: Arc<Core>,
    group: Arc<Info>,
    kind: &'static ControlType,
}

impl ControlFile {
    pub(crate) fn new(core: &Arc<Core>, group: &Arc<Info>, kind: &'static ControlType) -> Self {
        Self { core: Arc::clone(core), group: Arc::clone(group), kind }
    }

    fn asked<'a>(&'a self, opener: &'a Caller, caller: &'a Caller, text: &'a [u8]) -> Asked<'a> {
        Asked { core: &self.core, id: self.group.id, opener, caller, text }
    }
}

impl FileOps for ControlFile {
    /// Who opened the file: it is he who may or may not move processes.
    type Open = Caller;

    fn open(&self, op: &mut OpenOp<'_>) -> Result<Caller, Errno> {
        Ok(*op.caller())
    }

    fn read(&self, opener: &mut Caller, op: &mut ReadOp<'_>) -> Result<(), Errno> {
        let read = self.kind.read.ok_or(Errno::EINVAL)?;
        let text = read(&self.asked(opener, op.caller(), b""))?;
        op.push(text.as_bytes());
        Ok(())
    }

    fn write(&self, opener: &mut Caller, op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        // Before anything else is looked at, as `cgroup_file_write` does.
        if op.data().is_empty() {
            return Ok(0);
        }
        let write = self.kind.write.ok_or(Errno::EINVAL)?;
        let text = parse::strip(op.data());
        let draining = write(&self.asked(opener, op.caller(), text))?;
        if let Some(draining) = draining {
            op.answer_after(draining);
        }
        Ok(op.data().len())
    }
}
