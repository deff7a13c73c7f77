//! A tree that is mounted, and what is around it.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};

use kernfs::{Dir, FileOps, Mode, Tree, show};
use kernfs_bench::Effort;
use kernfs_fuse::{Mount, Stats};

use crate::janitor::Janitor;

/// The text of the files that are read: 18 bytes.
pub(crate) const TEXT: &[u8; 18] = b"12345678901234567\n";

/// A mounted tree, with a directory for whatever else is needed.
pub(crate) struct Stage {
    pub(crate) effort: Effort,
    pub(crate) tree: Tree,
    mount: Mount,
    pub(crate) temporary: Temporary,
    epochs: Cell<u64>,
}

impl Stage {
    /// Mounts; the error is the reason why that is not possible here.
    pub(crate) fn set(effort: Effort) -> Result<Self, String> {
        let temporary = Temporary::new()?;
        let dir = temporary.dir_to_mount("kernfs")?;
        let tree = Tree::new();
        let mount = Mount::new(&tree, &dir).map_err(|error| format!("cannot mount: {error}"))?;
        Ok(Self { effort, tree, mount, temporary, epochs: Cell::new(0) })
    }

    /// Returns where something of the tree is to be found.
    pub(crate) fn at(&self, path: &str) -> String {
        self.mount.path().join(path).display().to_string()
    }

    pub(crate) fn stats(&self) -> Stats {
        self.mount.stats()
    }

    pub(crate) fn dir(&self, name: &str) -> Dir {
        self.tree.root().add_dir(name, Mode::DIR).expect("the name is free")
    }

    /// Severs something that nobody knows: all names that the kernel has have to be asked again.
    pub(crate) fn begin_epoch(&self) {
        let number = self.epochs.replace(self.epochs.get() + 1);
        let file = self.tree.root().add_file(format!("epoch-{number}"), Mode::RO, text());
        file.expect("the name is free").remove().expect("not inside");
    }
}

/// A driver with a text that is always the same.
pub(crate) fn text() -> impl FileOps + 'static {
    show(|op| op.push(TEXT))
}

/// A directory that goes, with all that was made in it.
pub(crate) struct Temporary {
    path: PathBuf,
    janitor: Janitor,
}

impl Temporary {
    fn new() -> Result<Self, String> {
        let janitor = Janitor::start()?;
        let path = std::env::temp_dir().join(format!("kernfs-bench-{}", std::process::id()));
        fs::create_dir(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let temporary = Self { path, janitor };
        temporary.janitor.dir(&text_of(&temporary.path));
        Ok(temporary)
    }

    /// Makes a directory that something will be mounted at.
    pub(crate) fn dir_to_mount(&self, name: &str) -> Result<String, String> {
        let path = self.path.join(name);
        fs::create_dir(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let path = text_of(&path);
        self.janitor.mount(&path);
        Ok(path)
    }

    /// Returns the path of a file that will be made.
    pub(crate) fn file(&self, name: &str) -> String {
        let path = text_of(&self.path.join(name));
        self.janitor.file(&path);
        path
    }

    /// Makes a group in the hierarchy of cgroup2; the error is the reason why that is not possible.
    pub(crate) fn cgroup(&self) -> Result<Cgroup, String> {
        let mounts = fs::read_to_string("/proc/self/mounts").map_err(|error| error.to_string())?;
        let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let root = mounts
            .find_map(|words| match words[..] {
                [_, path, "cgroup2", ..] => Some(path.to_owned()),
                _ => None,
            })
            .ok_or("cgroup2 is not mounted")?;
        let group = format!("{root}/kernfs-bench-{}", std::process::id());
        fs::create_dir(&group).map_err(|error| format!("{group}: {error}"))?;
        self.janitor.dir(&group);
        let group = Cgroup(group);
        self.janitor.dir(&group.child());
        Ok(group)
    }
}

/// A group without members, removed when dropped.
pub(crate) struct Cgroup(String);

impl Cgroup {
    /// Returns the path of a file that the kernel's own kernfs serves.
    pub(crate) fn file(&self) -> String {
        format!("{}/cgroup.max.depth", self.0)
    }

    /// Returns where a group below it can be made.
    pub(crate) fn child(&self) -> String {
        format!("{}/child", self.0)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

fn text_of(path: &Path) -> String {
    path.display().to_string()
}
