//! Records a real tree such as `/sys` into a file, and serves it again as a kernfs tree.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use kernfs::{Manners, Tree};
//! use kernfs_replay::{Image, ServeOptions, Unplug};
//!
//! let image = Image::record("/sys/devices/system/cpu")?;
//! image.save("cpu.tar.zst")?;
//!
//! // On another machine:
//! let image = Arc::new(Image::open("cpu.tar.zst")?);
//! let tree = Tree::builder().manners(Manners::Sysfs).dir_ops(Unplug).build();
//! let served = image.serve(&tree, &ServeOptions::new())?;
//! // Clients use the tree, in this process or through a mount, until the plug is pulled:
//! served.sever("cpu1").expect("there is a second one").wait()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is recorded
//!
//! Of directories, files and links: the mode; of files also the size that stat(2) tells, and what
//! reading gave: all bytes, or an error, or nothing because it would have waited; of links the
//! text. Owners, times and extended attributes are not: they belong to the other machine.
//!
//! # What is read
//!
//! [`Image::open`] reads, whatever the name, the archives that [`Image::save`] makes (see
//! [`archive`]), any other tar archive of directories, files and links, such as the dumps that
//! util-linux is tested with, the device records of umockdev, and the `.ttar` files of
//! node_exporter; each of them plain, or compressed by gzip or zstd.
//!
//! Archives are hostile input. They are read into memory and never unpacked; nothing in them is
//! ever followed, made, or opened on this machine; whatever an image must not have is an error
//! that names the entry; and [`limits`] bound what can be taken.
//!
//! # What is served
//!
//! Text as recorded; recorded errors as answers; files that blocked block, and are woken by
//! severing like all others. Links are served with the text that was recorded: one to what was
//! severed dangles, as in sysfs.

#![forbid(unsafe_code)]
#![warn(missing_debug_implementations)]

// In the order in which to read them.
mod serve;

mod driver;

mod record;

mod walk;

mod reader;

pub mod archive;

mod tarball;

mod manifest;

mod umockdev;

mod ttar;

mod lines;

mod image;

mod draft;

pub mod limits;

pub use archive::{ArchiveError, Packing, SaveError};
pub use draft::{Draft, Refused};
pub use image::{Content, Entry, EntryKind, Image};
pub use record::{NOT_READ, Progress, RecordError, Recorder, Recording, Report, WrongPattern};
pub use serve::{ServeOptions, Served, Unplug};
