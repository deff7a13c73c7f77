//! Typed attributes as files, in sysfs manners: exposing a device takes a struct and a derive.
//!
//! ```
//! use kernfs::{Caller, Errno, OpenFlags, Tree};
//! use kernfs_attr::{Attr, Attributes, DirExt};
//!
//! #[derive(Attributes)]
//! struct Fan {
//!     /// How fast it shall be.
//!     #[attr(rw, range = 0..=5000, unit = "rpm")]
//!     target: Attr<u32>,
//!     #[attr(ro, show = |fan: &Fan| fan.target.get() / 60)]
//!     turns_per_second: (),
//! }
//!
//! let tree = Tree::new();
//! let fan = Fan { target: Attr::new(1200), turns_per_second: () };
//! let fan = tree.root().add_group("fan0", fan)?; // all files at once
//!
//! let target = tree.client(Caller::OWNER).open("/fan0/target", OpenFlags::READ_WRITE)?;
//! target.write(b"3000\n")?;
//! assert_eq!(target.write(b"9000\n"), Err(Errno::ERANGE));
//! fan.target.set(2400); // whoever polls the file wakes
//! let fan: Fan = fan.remove()?; // by value, though `target` is still open
//! assert_eq!(target.read_to_string(), Err(Errno::ENODEV));
//! # assert_eq!(fan.target.get(), 2400);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is a file
//!
//! | field | for |
//! |---|---|
//! | [`Attr<T>`](Attr) | a value that the owner sets and clients may set; [`set`](Attr::set) wakes pollers |
//! | any [`Shown`] value | a constant |
//! | [`Computed<T>`](Computed), or `show = Self::method` | a value that is computed at each read |
//! | [`Action<T>`](Action), or `wo, store = Self::method` | something that happens at a write |
//! | [`Binary`] | bytes at offsets |
//!
//! `T` is any [`Value`]: `bool`, integers, [`Hex`], strings, lists, [`BitList`] (`0-3,8`) and
//! [`BitMask`] (`ff,ffffffff`), enums with `#[derive(Choice)]` (`[always] madvise never`),
//! [`Text`] for whatever displays and parses, or a type of one's own.
//!
//! Devices with classes, links and events, on top of that, are in [`device`].
//!
//! # Manners
//!
//! Those of sysfs: a value is shown with a newline, in less than a page (`sysfs_emit`). What is
//! written ends at a NUL, may have one newline, and is taken as a whole or refused: EINVAL for what
//! is no such value, ERANGE for a number that does not fit, the type or the range; or whatever a
//! callback says. A file has no operation for what its mode allows nobody, not for root either.
//! The tree itself is best made with [`kernfs::Manners::Sysfs`].
//!
//! # Who pins whom
//!
//! ```text
//! owner: Exposed<S> ---> S <--- driver of each file <--- File, in the same handle
//!            |                                                  |
//!            +----> Dir of the group -------------------------> nodes
//! ```
//!
//! - The struct is shared by the drivers of its files, and by nobody else. When all of them have
//!   come to rest, the handle has the last reference: that is how [`Exposed::remove`] returns it.
//! - An [`Attr`] knows the notifier of its file, which pins neither.
//!
//! # Locks
//!
//! An [`Attr`] has a lock for the moment in which a value takes the place of another. No code of
//! users runs under it: values are shown, parsed, checked and dropped outside.

#![forbid(unsafe_code)]
#![warn(missing_debug_implementations)]

// In the order in which to read them.
pub mod device;

#[doc(hidden)]
pub mod derive;

mod exposed;

mod place;

mod scope;

mod driver;

mod declare;

mod contents;

mod binary;

mod attr;

mod choice;

mod bitmap;

mod value;

mod number;

// So that the derive macros work here, too.
extern crate self as kernfs_attr;

pub use attr::{Action, Attr, Attribute, Checked, Computed, Readable, Writable};
pub use binary::{Binary, Bytes, Memory};
pub use bitmap::{BitList, BitMask, Bitmap, MAX_BITS};
pub use choice::{Choice, ChoiceStyle};
pub use declare::{Attributes, Entry, Part, Subgroup, describe};
pub use exposed::{DirExt, Exposed, Removal, Unfinished};
pub use kernfs_attr_derive::{Attributes, Choice};
pub use scope::ScopeExt;
pub use value::{Hex, MAX_TEXT, Shown, Text, Value, Word, YesNo, emit, written};
