//! The ground of a drill: a hierarchy with a control tree, mounted, and the members of its groups.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kernfs::{Client, Draining, Errno, Mode, OpenFlags};
use kernfs_cgroup::rehearsal::ControlTree;
use kernfs_cgroup::{Controllers, Group, Hierarchy, Processes};
use kernfs_fuse::MountOptions;
use kernfs_psi::Monitor;

use crate::belongings::Belongings;
use crate::drill::crew::Crew;
use crate::drill::scenario::{Action, Actions, name_of};
use crate::mount::{own, wrong_place};

/// Where a scenario takes place.
pub(crate) struct Ground {
    crew: Crew,
    control: ControlTree,
    hierarchy: Hierarchy,
    /// Fires triggers.
    _monitor: Monitor,
}

/// How long a drill that is stuck keeps its mount.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a removal may take: it waits for nobody but operations that are just inside.
const REMOVE_LIMIT: Duration = Duration::from_secs(10);

impl Ground {
    /// Makes a hierarchy, and mounts it.
    ///
    /// # Errors
    ///
    /// [`WrongUsage`](crate::wrong_usage::WrongUsage) if the directory cannot be mounted on.
    pub(crate) fn lay(dir: &Path, belongings: &Belongings) -> Result<Self> {
        // Members are ours, or were put in by the command: what happens to groups happens to them.
        let hierarchy = Hierarchy::builder().processes(Processes::Act).build();
        let hierarchy = hierarchy.context("cannot make a hierarchy")?;
        own(hierarchy.tree());
        let _monitor = hierarchy.engine().spawn().context("cannot watch the pressure")?;
        let control = ControlTree::new(&hierarchy).context("cannot make a control tree")?;
        hierarchy.root().enable(Controllers::all()).context("cannot enable controllers")?;
        let crew = Crew::default();
        let members = crew.clone();
        belongings.release_at_end(move || members.end());
        let options = MountOptions::new().fsname("kernfs-drill").watchdog(PATIENCE);
        belongings.mount(|| options.mount(hierarchy.tree(), dir)).map_err(wrong_place)?;
        Ok(Self { crew, control, hierarchy, _monitor })
    }

    /// Lets something happen to a group.
    ///
    /// # Errors
    ///
    /// What could not happen, and why: the command may have been there before. What comes after it
    /// is tried all the same.
    pub(crate) fn perform(&mut self, actions: &Actions) -> Result<()> {
        let mut first = Ok(());
        for action in &actions.actions {
            let done = self.perform_one(&actions.group, action);
            first = first.and(done.with_context(|| format!("not done: {action}")));
        }
        first
    }

    /// Waits for members that somebody else has killed.
    pub(crate) fn bury(&self) {
        self.crew.bury();
    }

    /// Returns how many files of the hierarchy are open.
    pub(crate) fn open_files(&self) -> usize {
        self.hierarchy.tree().usage().open_files
    }

    fn perform_one(&self, path: &str, action: &Action) -> Result<()> {
        match action {
            Action::Make => self.make(path),
            Action::Add(count) => {
                let group = self.group(path)?;
                (0..*count).try_for_each(|_| self.crew.hire(path, |pid| Ok(group.add_member(pid)?)))
            }
            Action::Write(file, text) => {
                write(&client(self.hierarchy.tree()), &format!("/{path}/{file}"), text)
            }
            Action::Stall(resource, shares) => {
                let file = format!("/{path}/{}.stall", name_of(*resource));
                write(&client(self.control.tree()), &file, shares)
            }
            Action::Memory(bytes) => Ok(self.group(path)?.set_memory_current(*bytes)?),
            Action::Event(event, count) => {
                Ok(self.group(path)?.set_memory_events(*event, *count)?)
            }
            Action::Kill(count) => {
                let died = self.crew.kill(path, *count);
                match count {
                    Some(count) if died < *count as usize => bail!("only {died} were left"),
                    _ => Ok(()),
                }
            }
            Action::Remove => self.end(path, Group::remove),
            Action::Sever => self.end(path, Group::sever),
        }
    }

    fn make(&self, path: &str) -> Result<()> {
        let above = path.rsplit_once('/').map_or("", |(above, _)| above);
        // So that what happens to memory shows; a group with members passes nothing on.
        match self.group(above)?.enable(Controllers::all()) {
            Ok(()) | Err(Errno::EBUSY | Errno::ENOENT) => {}
            Err(errno) => bail!("cannot enable controllers: {errno}"),
        }
        Ok(client(self.hierarchy.tree()).mkdir(format!("/{path}"), Mode::DIR)?)
    }

    fn end(&self, path: &str, end: fn(&Group) -> Result<Draining, Errno>) -> Result<()> {
        let draining = end(&self.group(path)?)?;
        self.crew.disband(path);
        draining.wait_timeout(REMOVE_LIMIT).context("the removal did not come to its end")
    }

    fn group(&self, path: &str) -> Result<Group> {
        self.hierarchy.group(path).context("there is no such group")
    }
}

/// Acts for whoever runs the drill.
fn client(tree: &kernfs::Tree) -> Client {
    tree.client(crate::mount::caller())
}

fn write(client: &Client, path: &str, text: &str) -> Result<()> {
    client.open(path, OpenFlags::WRITE)?.write(text.as_bytes())?;
    Ok(())
}
