//! Groups in directories: built aside, attached at once, shown and hidden, taken back.

use kernfs::{
    Dir, Draining, Errno, File, FileOps, FileOptions, Kind, Mode, Notifier, OpenOp, Ops, ReadOp,
    WriteOp,
};

use crate::declare::{Attributes, Calls, Entry, EntryKind, Part};

/// The files of a group in a directory, and the groups in it.
#[derive(Default)]
pub(crate) struct Contents {
    files: Vec<Placed>,
    groups: Vec<Slot>,
}

/// A file with its visibility.
struct Placed {
    file: Box<dyn AnyFile>,
    is_visible: Box<dyn Fn() -> bool + Send + Sync>,
}

/// A group in a group, there or not.
struct Slot {
    name: &'static str,
    group: Box<dyn AnyGroup>,
    is_visible: Box<dyn Fn() -> bool + Send + Sync>,
    /// Its directory, while it is there.
    placed: Option<(Dir, Contents)>,
}

impl Contents {
    /// Puts the files of a group into a directory, in which its own groups get directories.
    pub(crate) fn place<S: Attributes>(&mut self, part: &Part<S>, dir: &Dir) -> Result<(), Errno> {
        for entry in S::ENTRIES {
            match &entry.kind {
                EntryKind::File(file) => {
                    let is_visible = visibility(entry, part);
                    self.place_file(part, dir, entry.name, file.mode, file.calls, is_visible)?;
                }
                EntryKind::Group { part: group, flat: true, .. } => {
                    let group = group(part).0;
                    if is_visible(entry, part) && group.is_visible() {
                        group.place(dir, self)?;
                    }
                }
                EntryKind::Group { part: group, .. } => {
                    let is_visible = visibility(entry, part);
                    let group = group(part).0;
                    let mut slot = Slot { name: entry.name, group, is_visible, placed: None };
                    if slot.should_be_there() {
                        slot.fill(dir)?;
                    }
                    self.groups.push(slot);
                }
            }
        }
        Ok(())
    }

    pub(crate) fn place_file<S: Send + Sync + 'static>(
        &mut self,
        part: &Part<S>,
        dir: &Dir,
        name: &str,
        mode: Mode,
        calls: Calls<S>,
        is_visible: Box<dyn Fn() -> bool + Send + Sync>,
    ) -> Result<(), Errno> {
        let file = add_driver(part, dir, name, mode, calls)?;
        if !is_visible() {
            // Nobody can have opened it where the directory is not attached yet.
            drop(file.hide());
        }
        calls.bind(part.held(), Some(file.notifier()));
        self.files.push(Placed { file, is_visible });
        Ok(())
    }

    /// Shows and hides what has become visible or invisible (`sysfs_update_group`), groups only
    /// where the directory is known; adds what is still to come to rest.
    pub(crate) fn update(
        &mut self,
        dir: Option<&Dir>,
        drainings: &mut Vec<Draining>,
    ) -> Result<(), Errno> {
        for Placed { file, is_visible } in &self.files {
            match (is_visible(), file.is_hidden()) {
                (true, true) => file.show(),
                (false, false) => drainings.push(file.hide()),
                _ => {}
            }
        }
        let Some(dir) = dir else {
            return Ok(());
        };
        for slot in &mut self.groups {
            match (slot.should_be_there(), &mut slot.placed) {
                (true, Some((own, contents))) => contents.update(Some(own), drainings)?,
                (true, None) => slot.fill(dir)?,
                (false, placed) => {
                    let gone = placed.take().map(|(own, _contents)| own.sever());
                    drainings.extend(gone);
                }
            }
        }
        Ok(())
    }

    /// Severs file by file, where there is no directory of one's own to sever.
    pub(crate) fn sever(self) -> Vec<Draining> {
        let groups = self.groups.into_iter().filter_map(|slot| slot.placed);
        let groups = groups.map(|(dir, _contents)| dir.sever());
        let files = self.files.into_iter().map(|placed| placed.file.sever());
        files.chain(groups).collect()
    }
}

impl Slot {
    fn should_be_there(&self) -> bool {
        (self.is_visible)() && self.group.is_visible()
    }

    /// Builds the group aside, and attaches it at once.
    fn fill(&mut self, dir: &Dir) -> Result<(), Errno> {
        let own = dir.detached(Mode::DIR);
        let mut contents = Contents::default();
        self.group.place(&own, &mut contents)?;
        dir.attach(self.name, &own)?;
        self.placed = Some((own, contents));
        Ok(())
    }
}

/// A group whose type is not known.
pub(crate) trait AnyGroup: Send + Sync {
    /// Tells whether it is to be there.
    fn is_visible(&self) -> bool;

    /// Puts its files into a directory.
    fn place(&self, dir: &Dir, contents: &mut Contents) -> Result<(), Errno>;

    /// Takes the notifiers away.
    fn unbind(&self);
}

impl<S: Attributes> AnyGroup for Part<S> {
    fn is_visible(&self) -> bool {
        self.held().is_visible()
    }

    fn place(&self, dir: &Dir, contents: &mut Contents) -> Result<(), Errno> {
        contents.place(self, dir)
    }

    fn unbind(&self) {
        for entry in S::ENTRIES {
            match &entry.kind {
                EntryKind::File(file) => file.calls.bind(self.held(), None),
                EntryKind::Group { part, .. } => part(self).0.unbind(),
            }
        }
    }
}

fn is_visible<S>(entry: &Entry<S>, part: &Part<S>) -> bool {
    entry.is_visible.is_none_or(|is_visible| is_visible(part.held()))
}

fn visibility<S: Send + Sync + 'static>(
    entry: &Entry<S>,
    part: &Part<S>,
) -> Box<dyn Fn() -> bool + Send + Sync> {
    match entry.is_visible {
        None => Box::new(|| true),
        Some(is_visible) => {
            let part = part.clone();
            Box::new(move || is_visible(part.held()))
        }
    }
}

/// A file of a driver of any type, in the hands of the owner.
trait AnyFile: Send + Sync {
    fn notifier(&self) -> Notifier;
    fn is_hidden(&self) -> bool;
    fn hide(&self) -> Draining;
    fn show(&self);
    fn sever(self: Box<Self>) -> Draining;
}

impl<T: Send + Sync + 'static> AnyFile for File<T> {
    fn notifier(&self) -> Notifier {
        self.notifier()
    }

    fn is_hidden(&self) -> bool {
        self.is_hidden()
    }

    fn hide(&self) -> Draining {
        self.hide()
    }

    fn show(&self) {
        self.show();
    }

    fn sever(self: Box<Self>) -> Draining {
        (*self).sever().detach()
    }
}

const READ: u8 = Ops::READ.bits();
const WRITE: u8 = Ops::WRITE.bits();
const READ_WRITE: u8 = READ | WRITE;

/// Adds a file whose driver says, by its type, what it implements.
///
/// # Errors
///
/// EINVAL: it can be neither read nor written. Else as for [`Dir::add_file`].
fn add_driver<S: Send + Sync + 'static>(
    part: &Part<S>,
    dir: &Dir,
    name: &str,
    mode: Mode,
    calls: Calls<S>,
) -> Result<Box<dyn AnyFile>, Errno> {
    let size = calls.size(part.held());
    let options = size.into_iter().fold(FileOptions::new(mode), FileOptions::size);
    let part = part.clone();
    match (calls.ops(part.held(), mode).bits(), size.is_some()) {
        (READ, false) => add::<S, READ, false>(dir, name, options, part, calls),
        (WRITE, false) => add::<S, WRITE, false>(dir, name, options, part, calls),
        (READ_WRITE, false) => add::<S, READ_WRITE, false>(dir, name, options, part, calls),
        (READ, true) => add::<S, READ, true>(dir, name, options, part, calls),
        (WRITE, true) => add::<S, WRITE, true>(dir, name, options, part, calls),
        (READ_WRITE, true) => add::<S, READ_WRITE, true>(dir, name, options, part, calls),
        _ => Err(Errno::EINVAL),
    }
}

fn add<S: Send + Sync + 'static, const OPS: u8, const BINARY: bool>(
    dir: &Dir,
    name: &str,
    options: FileOptions,
    part: Part<S>,
    calls: Calls<S>,
) -> Result<Box<dyn AnyFile>, Errno> {
    let driver = Driver::<S, OPS, BINARY> { part, calls };
    Ok(Box::new(dir.add_file(name, options, driver)?))
}

/// The driver of a file of a group.
struct Driver<S: 'static, const OPS: u8, const BINARY: bool> {
    part: Part<S>,
    calls: Calls<S>,
}

impl<S: Send + Sync, const OPS: u8, const BINARY: bool> FileOps for Driver<S, OPS, BINARY> {
    type Open = ();
    const KIND: Kind = if BINARY { Kind::Binary } else { Kind::Text };
    const OPS: Ops = Ops::from_bits_truncate(OPS);

    fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
        Ok(())
    }

    fn read(&self, (): &mut (), op: &mut ReadOp<'_>) -> Result<(), Errno> {
        self.calls.show(self.part.held(), op)
    }

    fn write(&self, (): &mut (), op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        self.calls.store(self.part.held(), op)
    }
}
