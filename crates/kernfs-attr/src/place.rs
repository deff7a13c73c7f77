//! Puts groups into directories: built aside, attached at once.

use kernfs::{Dir, Errno, FileOps, FileOptions, Mode, ReadOp, WriteOp};

use crate::contents::{AnyFile, AnyGroup, Contents, Visibility};
use crate::declare::{Attributes, Calls, Entry, EntryKind, Part};
use crate::driver::{Install, Serve, Shape, allowed, install};

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
                    if visibility(entry, part)() && group.is_visible() {
                        group.place(dir, self)?;
                    }
                }
                EntryKind::Group { part: group, .. } => {
                    let is_visible = visibility(entry, part);
                    self.add_group(dir, entry.name, group(part).0, is_visible)?;
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
        is_visible: Visibility,
    ) -> Result<(), Errno> {
        let file = add_driver(part, dir, name, mode, calls)?;
        calls.bind(part.held(), Some(file.notifier()));
        self.add_file(file, is_visible);
        Ok(())
    }
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

fn visibility<S: Send + Sync + 'static>(entry: &Entry<S>, part: &Part<S>) -> Visibility {
    match entry.is_visible {
        None => Box::new(|| true),
        Some(is_visible) => {
            let part = part.clone();
            Box::new(move || is_visible(part.held()))
        }
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
