//! `kernfs mount replay`: a recorded tree.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use clap::Args;
use kernfs::{Manners, Tree};
use kernfs_fuse::MountOptions;
use kernfs_replay::{EntryKind, Image, ServeOptions, Unplug};

use super::{Place, serve};
use crate::printable::{plural, printable};
use crate::wrong_usage::WrongUsage;

/// Serves a recorded tree.
///
/// Reads the file into memory, and mounts what it has, with sysfs manners: text as recorded,
/// errors and files that block too. There, to remove a directory or a file is to pull the plug:
/// it is severed with all that is below it, whoever has it open gets ENODEV, and whoever sleeps on
/// it is woken.
#[derive(Args, Debug)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct ReplayArgs {
    /// What was recorded: an archive of `kernfs record`, any other tar archive, a record of
    /// umockdev, or a .ttar; plain, or compressed by gzip or zstd
    file: PathBuf,

    /// The directory to mount on
    dir: PathBuf,

    /// Take writes where modes allow them, and show them afterwards
    #[arg(long)]
    writable: bool,

    /// Serve only what is below this directory of the recorded tree
    #[arg(long, value_name = "PATH")]
    subdir: Option<PathBuf>,

    /// Do not let anybody pull the plug: rmdir and rm are not permitted, as in sysfs
    #[arg(long, visible_alias = "no-unplug")]
    keep: bool,
}

const AFTER_HELP: &str = "\
Examples:
  kernfs record /sys -o sys.tar.zst
  kernfs mount replay sys.tar.zst /mnt --subdir sys
  rmdir /mnt/class/net/eth0/       # the real directory: pulls the plug
  kernfs mount replay bug-report.umockdev /mnt

On the mount:
  Reads, stat and links give what was recorded. A file whose reading gave an
  error gives that error; one that blocked blocks, or gives EAGAIN to who does
  not wait. What was not read when it was recorded is EACCES.
  Opening a file for writing is EROFS, or EACCES where its mode does not allow
  it. With --writable, what is written replaces the text.
  Links have the text that was recorded, and lead where that leads: one to
  what was removed dangles.

Exit status:
  0    ended by SIGINT, SIGTERM or umount
  1    something failed
  2    wrong usage, a file that cannot be read, or a directory that cannot be
       mounted on
";

impl ReplayArgs {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let image = Image::open(&self.file).map_err(WrongUsage::from_error)?;
        let image = Arc::new(match &self.subdir {
            Some(path) => self.part(&image, path)?,
            None => image,
        });
        let builder = Tree::builder().manners(Manners::Sysfs);
        let tree = if self.keep { builder } else { builder.dir_ops(Unplug) }.build();
        // So that whoever mounts is who may write and remove.
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        let options = ServeOptions::new().owner(uid.as_raw(), gid.as_raw());
        let options = if self.writable { options.writable() } else { options };
        let served = image.serve(&tree, &options)?;
        let what = format!("{} ({})", printable(&self.file), census(&image));
        let options = MountOptions::new();
        serve(&[Place { tree: &tree, dir: &self.dir, options, what }])?;
        drop(served);
        Ok(ExitCode::SUCCESS)
    }

    /// Takes the part that is asked for.
    fn part(&self, image: &Image, path: &PathBuf) -> Result<Image, WrongUsage> {
        image.subdir(path.as_os_str().as_encoded_bytes()).ok_or_else(|| {
            let top = image.root().children().map(|entry| entry.name().escape_ascii().to_string());
            WrongUsage::from_error(format!(
                "cannot serve '{}' of '{}': there is no such directory; expected one below {}",
                printable(path),
                printable(&self.file),
                top.collect::<Vec<_>>().join(", "),
            ))
        })
    }
}

/// Counts what there is, by kind.
fn census(image: &Image) -> String {
    let count = |kind| image.entries().skip(1).filter(|entry| entry.kind() == kind).count();
    [
        plural(count(EntryKind::File), "file", "files"),
        plural(count(EntryKind::Dir), "directory", "directories"),
        plural(count(EntryKind::Link), "link", "links"),
    ]
    .join(", ")
}
