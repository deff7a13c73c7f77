//! What of a group is in a directory: shown, hidden, taken back, without the types of its parts.

use kernfs::{Dir, Draining, Errno, File, Mode, Notifier};

/// The files of a group in a directory, and the groups in it.
#[derive(Default)]
pub(crate) struct Contents {
    files: Vec<Placed>,
    groups: Vec<Slot>,
}

/// A file with its visibility.
struct Placed {
    file: Box<dyn AnyFile>,
    is_visible: Visibility,
}

/// A group in a group, there or not.
struct Slot {
    name: &'static str,
    group: Box<dyn AnyGroup>,
    is_visible: Visibility,
    /// Its directory, while it is there.
    placed: Option<(Dir, Contents)>,
}

/// Tells whether something is to be there.
pub(crate) type Visibility = Box<dyn Fn() -> bool + Send + Sync>;

impl Contents {
    /// Takes a file that is in the directory, and hides it if it is not to be there.
    pub(crate) fn add_file(&mut self, file: Box<dyn AnyFile>, is_visible: Visibility) {
        if !is_visible() {
            // Nobody can have opened it where the directory is not attached yet.
            drop(file.hide());
        }
        self.files.push(Placed { file, is_visible });
    }

    /// Takes a group, and adds its directory if it is to be there.
    pub(crate) fn add_group(
        &mut self,
        dir: &Dir,
        name: &'static str,
        group: Box<dyn AnyGroup>,
        is_visible: Visibility,
    ) -> Result<(), Errno> {
        let mut slot = Slot { name, group, is_visible, placed: None };
        if slot.should_be_there() {
            slot.fill(dir)?;
        }
        self.groups.push(slot);
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

/// A file of a driver of any type, in the hands of the owner.
pub(crate) trait AnyFile: Send + Sync {
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
