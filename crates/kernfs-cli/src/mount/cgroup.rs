//! `kernfs mount cgroup`: a hierarchy that looks like cgroup v2.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use kernfs_cgroup::rehearsal::ControlTree;
use kernfs_cgroup::{Hierarchy, Processes};

use kernfs_fuse::MountOptions;

use super::{Place, own, serve};

/// Serves a hierarchy that looks and behaves like cgroup v2.
///
/// Groups are made and removed with mkdir and rmdir, processes are put in by writing to
/// cgroup.procs, pressure and memory are what is written in the control tree.
#[derive(Args, Debug)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct CgroupArgs {
    /// The directory to mount the hierarchy on
    dir: PathBuf,

    /// The directory to mount the control tree on
    #[arg(long, value_name = "DIR")]
    control: Option<PathBuf>,

    /// What cgroup.freeze and cgroup.kill do to the processes in a group
    #[arg(long, value_enum, default_value_t = Reach::Track)]
    processes: Reach,
}

/// Whether real processes are reached.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Reach {
    /// Nothing: files say so, and processes notice nothing
    Track,
    /// Stop, continue and kill them
    Act,
}

const AFTER_HELP: &str = "\
Examples:
  kernfs mount cgroup /mnt/groups --control /mnt/control
  mkdir /mnt/groups/web
  echo 'some 30% full 10%' >/mnt/control/web/memory.stall
  cat /mnt/groups/web/memory.pressure
  echo 1 >/mnt/control/web/sever

The control tree:
  The same groups as directories, which come and go with them, and in each:
  cpu.stall, memory.stall, io.stall
                  `some 30%`, `full 12.5%`, both, or `0`: for this share of the
                  time the group stalls from now on; reads as what is set
  memory.current  what the group itself uses, in bytes, also as `64M`
  memory.events   `oom_kill 3`: how often that has happened in the group itself
  sever           1: the group vanishes with all below it, members or not
  memory.current and memory.events show in the hierarchy where the memory
  controller is on: echo +memory >/mnt/groups/cgroup.subtree_control

Signals:
  SIGINT and SIGTERM unmount; a second one kills at once. Whatever way it
  ends, a dead mount on the same directory is cleared away when that is used
  again.

Exit status:
  0    unmounted, by a signal or by somebody
  1    something else went wrong, for example a mount that is still there
  2    wrong usage, or a directory that cannot be mounted on
";

/// How long the mounts are kept while their server is stopped or stuck: a shell that has it
/// suspended may want it back.
const PATIENCE: Duration = Duration::from_secs(60);

impl CgroupArgs {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let Self { dir, control, processes } = self;
        let processes = match processes {
            Reach::Track => Processes::Track,
            Reach::Act => Processes::Act,
        };
        let hierarchy = Hierarchy::builder().processes(processes).build();
        let hierarchy = hierarchy.context("cannot make a hierarchy")?;
        own(hierarchy.tree());
        let _monitor = hierarchy.engine().spawn().context("cannot watch the pressure")?;
        let controls = ControlTree::new(&hierarchy).context("cannot make a control tree")?;
        let options = || MountOptions::new().watchdog(PATIENCE);
        let mut places = vec![Place {
            tree: hierarchy.tree(),
            dir: &dir,
            options: options().fsname("kernfs-cgroup"),
            what: "a cgroup hierarchy".into(),
        }];
        places.extend(control.as_ref().map(|dir| Place {
            tree: controls.tree(),
            dir,
            options: options().fsname("kernfs-control"),
            what: "its control tree".into(),
        }));
        serve(&places)?;
        Ok(ExitCode::SUCCESS)
    }
}
