//! What holders do, what they hold, and what they are to get.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use kernfs::{Errno, Events};
use rustix::fs::inotify::ReadFlags;
use signal_hook::consts::SIGBUS;

use crate::demo::answer::{Answer, Part};
use crate::demo::device::{COPY, EVENTS, FIRST_EVENT, MEMORY, SLOW, SLOW_ANSWER};

/// What a holder does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Has read one half of a text.
    HalfWayReader,
    /// Sleeps in a read of the event file.
    BlockedReader,
    /// Sleeps in a poll of the event file.
    Poller,
    /// Sleeps in a select of the event file, in all three sets.
    Selecter,
    /// Sleeps in an epoll of the event file, level-triggered.
    EpollLevel,
    /// Sleeps in an epoll of the event file, edge-triggered.
    EpollEdge,
    /// Awaits the event file in a task of tokio.
    TokioTask,
    /// Awaits the event file on an executor made by hand.
    HandMadeTask,
    /// Has mapped memory.
    Mapper,
    /// Has mapped memory in a process of its own, and touches it when the removal has returned.
    Toucher,
    /// Has listed one half of a directory; a process also has it as its working directory.
    Lister,
    /// Is inside of the driver.
    InsideReader,
    /// Watches a text by inotify, without having it open.
    Watcher,
    /// Knows the path of the event file, and comes again by it when the removal has returned.
    Latecomer,
}

/// The text of a group of cgroup2 that is worth to be half-way through.
pub(crate) const CGROUP_STAT: &str = "cgroup.stat";

/// Where a holder lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// On a thread of the owner's process, without a system call.
    Thread,
    /// In a process of its own, with real system calls.
    Process,
}

/// What a holder is asked after the severing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its names have gone.
    Gone,
    /// Its names lead to something new.
    Reused,
}

impl Role {
    /// Those who can hold a tree in process, in the order of the table.
    pub(crate) const IN_PROCESS: [(Self, Place); 9] = [
        (Self::HalfWayReader, Place::Thread),
        (Self::BlockedReader, Place::Thread),
        (Self::Poller, Place::Thread),
        (Self::TokioTask, Place::Thread),
        (Self::HandMadeTask, Place::Thread),
        (Self::Mapper, Place::Thread),
        (Self::Lister, Place::Thread),
        (Self::InsideReader, Place::Thread),
        (Self::Latecomer, Place::Thread),
    ];

    /// Those who hold a tree that is mounted, in the order of the table.
    pub(crate) const MOUNTED: [(Self, Place); 14] = [
        (Self::HalfWayReader, Place::Process),
        (Self::BlockedReader, Place::Process),
        (Self::Poller, Place::Process),
        (Self::Selecter, Place::Process),
        (Self::EpollLevel, Place::Process),
        (Self::EpollEdge, Place::Process),
        (Self::Lister, Place::Process),
        (Self::Watcher, Place::Process),
        (Self::InsideReader, Place::Process),
        (Self::Toucher, Place::Process),
        (Self::Latecomer, Place::Process),
        (Self::TokioTask, Place::Thread),
        (Self::HandMadeTask, Place::Thread),
        (Self::Mapper, Place::Thread),
    ];

    /// Returns what the table calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::HalfWayReader => "half-way reader",
            Self::BlockedReader => "blocked reader",
            Self::Poller => "in poll",
            Self::Selecter => "in select",
            Self::EpollLevel => "in epoll, level",
            Self::EpollEdge => "in epoll, edge",
            Self::TokioTask => "task of tokio",
            Self::HandMadeTask => "task by hand",
            Self::Mapper => "mapping",
            Self::Toucher => "mapped page",
            Self::Lister => "half-way lister",
            Self::InsideReader => "inside the read",
            Self::Watcher => "inotify watch",
            Self::Latecomer => "comes too late",
        }
    }

    /// Returns the path that it holds, below the severed directory.
    pub(crate) fn holds(self, text: &Path) -> PathBuf {
        match self {
            Self::HalfWayReader => Path::new(COPY).join(text),
            Self::Mapper | Self::Toucher => MEMORY.into(),
            Self::Lister => COPY.into(),
            Self::InsideReader => SLOW.into(),
            _ => EVENTS.into(),
        }
    }

    /// Returns the file that it holds of a group of cgroup2, or the group itself; else why there is
    /// none for it.
    pub(crate) fn holds_of_cgroup2(self) -> Result<&'static str, &'static str> {
        match self {
            Self::HalfWayReader => Ok(CGROUP_STAT),
            Self::Poller
            | Self::Selecter
            | Self::EpollLevel
            | Self::EpollEdge
            | Self::Watcher
            | Self::Latecomer => Ok("cgroup.events"),
            Self::Lister => Ok(""),
            Self::BlockedReader => Err("no file of cgroup2 lets a reader sleep"),
            Self::InsideReader => Err("no driver of cgroup2 takes its time"),
            Self::Mapper | Self::Toucher => Err("no file of cgroup2 can be mapped"),
            Self::TokioTask | Self::HandMadeTask => Err("tasks wait in epoll, as above"),
        }
    }

    /// Tells whether it sleeps until something happens to the file.
    pub(crate) fn sleeps(self) -> bool {
        use Role::{
            BlockedReader, EpollEdge, EpollLevel, HandMadeTask, Poller, Selecter, TokioTask,
            Watcher,
        };
        matches!(
            self,
            BlockedReader
                | Poller
                | Selecter
                | EpollLevel
                | EpollEdge
                | TokioTask
                | HandMadeTask
                | Watcher
        )
    }

    /// Tells whether it is told as well as can be, without a promise.
    pub(crate) fn is_best_effort(self) -> bool {
        self == Self::Watcher
    }

    /// Tells whether it knows a path only.
    pub(crate) fn comes_late(self) -> bool {
        self == Self::Latecomer
    }

    /// Tells whether it looks when the removal has returned: names are gone only then, pages as
    /// well, and who dies of a page closes its descriptors. Descriptors are dead from the beginning.
    pub(crate) fn looks_late(self) -> bool {
        matches!(self, Self::Lister | Self::Latecomer | Self::Toucher)
    }

    /// Returns what it is to get, if `rest` bytes of the half-read text are left.
    pub(crate) fn expected(self, rest: usize) -> Answer {
        match self {
            Self::HalfWayReader => Answer::bytes_then(rest, Errno::ENODEV),
            Self::InsideReader => Answer::bytes_then(SLOW_ANSWER.len(), Errno::ENODEV),
            Self::BlockedReader | Self::Mapper => Errno::ENODEV.into(),
            Self::Selecter => Answer::all_sets(),
            Self::Lister => Answer::end_of_dir(),
            Self::Toucher => Part::Signal(SIGBUS).into(),
            Self::Watcher => Part::Watched(ReadFlags::DELETE_SELF).into(),
            Self::Latecomer => Errno::ENOENT.into(),
            Self::Poller
            | Self::EpollLevel
            | Self::EpollEdge
            | Self::TokioTask
            | Self::HandMadeTask => Events::CHANGED.into(),
        }
    }

    /// Returns what it is to get whenever it tries again.
    pub(crate) fn expected_again(self, phase: Phase) -> Answer {
        match (self, phase) {
            (Self::Lister, _) => Answer::end_of_dir(),
            // Nothing more, ever.
            (Self::Watcher, _) => Errno::EAGAIN.into(),
            // It has ended.
            (Self::Toucher, _) => Part::Signal(SIGBUS).into(),
            (Self::Latecomer, Phase::Gone) => Errno::ENOENT.into(),
            (Self::Latecomer, Phase::Reused) => Part::Bytes(FIRST_EVENT.len()).into(),
            _ => Errno::ENODEV.into(),
        }
    }
}
