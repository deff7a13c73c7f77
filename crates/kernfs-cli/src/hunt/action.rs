//! What is done to the part, and before which operations.

use clap::ValueEnum;
use kernfs::Errno;
use kernfs_fuse::CallKind;
use serde::Serialize;

/// What is done at the k-th operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Action {
    /// The part is removed, with the links that lead to it: open files answer ENODEV from then on,
    /// and names are gone
    #[default]
    Sever,
    /// The files of the part are hidden: open files answer ENODEV, and names are gone, but
    /// directories and links stay
    Hide,
    /// From then on, opening, reading, writing and listing in the part fail with EIO
    Eio,
    /// That operation fails with ENODEV, and nothing else happens
    EnodevOnce,
    /// That read gets half of what is left; the next one goes on there
    Torn,
    /// That operation takes two seconds, or half of --timeout if that is less
    Slow,
}

impl Action {
    /// Returns the name that it has on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sever => "sever",
            Self::Hide => "hide",
            Self::Eio => "eio",
            Self::EnodevOnce => "enodev-once",
            Self::Torn => "torn",
            Self::Slow => "slow",
        }
    }

    /// Returns what an operation gets once the action has happened, if the action goes on.
    pub(crate) fn lasting_error(self, kind: CallKind) -> Option<Errno> {
        use CallKind::{Create, Open, OpenDir, Read, ReadDir, Write};
        let fails = matches!(kind, Create | Open | OpenDir | Read | ReadDir | Write);
        (self == Self::Eio && fails).then_some(Errno::EIO)
    }
}

/// Which operations are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum On {
    /// Opening files and directories
    Open,
    /// Reading from files
    Read,
    /// Listing directories
    Readdir,
    /// All but closing
    #[default]
    Any,
}

impl On {
    /// Returns the name that it has on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Read => "read",
            Self::Readdir => "readdir",
            Self::Any => "any",
        }
    }

    /// Tells whether an operation is counted.
    pub(crate) fn counts(self, kind: CallKind) -> bool {
        match self {
            Self::Open => matches!(kind, CallKind::Open | CallKind::OpenDir | CallKind::Create),
            Self::Read => kind == CallKind::Read,
            Self::Readdir => kind == CallKind::ReadDir,
            Self::Any => kind != CallKind::Close,
        }
    }
}
