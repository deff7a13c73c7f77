//! Groups in directories: built aside, attached at once, shown and hidden, taken back.

use kernfs::{Dir, Draining, Errno, File, FileOps, FileOptions, Mode, Notifier, ReadOp, WriteOp};

use crate::declare::{Attributes, Calls, Entry, EntryKind, Part};
use crate::driver::{Install, Serve, Shape, allowed, install};

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

/// Adds a file of a group to a directory.
///
/// # Errors
///
/// As for [`install`].
fn add_driver<S: Send + Sync + 'static>(
    part: &Part<S>,
    dir: &Dir,
    name: &str,
    mode: Mode,
    calls: Calls<S>,
) -> Result<Box<dyn AnyFile>, Errno> {
    let shape =
        Shape { mode, ops: calls.ops(part.held()) & allowed(mode), size: calls.size(part.held()) };
    install(shape, Field { part: part.clone(), calls }, InDir { dir, name })
}

/// A file of a group, as something that can be read and written.
struct Field<S: 'static> {
    part: Part<S>,
    calls: Calls<S>,
}

impl<S: Send + Sync> Serve for Field<S> {
    fn show(&self, op: &mut ReadOp<'_>) -> Result<(), Errno> {
        self.calls.show(self.part.held(), op)
    }

    fn store(&self, op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        self.calls.store(self.part.held(), op)
    }
}

struct InDir<'a> {
    dir: &'a Dir,
    name: &'a str,
}

impl Install<'static> for InDir<'_> {
    type Installed = Box<dyn AnyFile>;

    fn install<T: FileOps + 'static>(
        self,
        options: FileOptions,
        driver: T,
    ) -> Result<Box<dyn AnyFile>, Errno> {
        Ok(Box::new(self.dir.add_file(self.name, options, driver)?))
    }
}
