//! A process that clears away what the others have left, when the first one is gone.
//!
//! It hears of that by the end of a pipe, which comes with a return, a panic, a signal, SIGKILL
//! too. So there is one way out and no signal handler.

use std::cell::RefCell;
use std::fs;

use rustix::mount::{UnmountFlags, unmount};

use crate::process::{Process, answer, orders};

/// The janitor, as the first process sees it.
pub(crate) struct Janitor(RefCell<Process>);

impl Janitor {
    pub(crate) fn start() -> Result<Self, String> {
        Process::start("janitor", &[]).map(|process| Self(RefCell::new(process)))
    }

    /// Has an empty directory removed in the end.
    pub(crate) fn dir(&self, path: &str) {
        self.0.borrow_mut().tell(&format!("dir {path}"));
    }

    /// Has a file removed in the end.
    pub(crate) fn file(&self, path: &str) {
        self.0.borrow_mut().tell(&format!("file {path}"));
    }

    /// Has a directory unmounted and removed in the end.
    pub(crate) fn mount(&self, path: &str) {
        self.0.borrow_mut().tell(&format!("mount {path}"));
    }
}

/// Is the janitor.
pub(crate) fn serve() {
    answer("ready");
    let noted: Vec<_> = orders().collect();
    // Nobody is told how it went: usually there is nothing left to do.
    for order in noted.iter().rev() {
        match order.split_once(' ') {
            Some(("dir", path)) => drop(fs::remove_dir(path)),
            Some(("file", path)) => drop(fs::remove_file(path)),
            Some(("mount", path)) => {
                if is_fuse(path) {
                    let _ = unmount(path, UnmountFlags::DETACH | UnmountFlags::FORCE);
                }
                let _ = fs::remove_dir(path);
            }
            _ => eprintln!("janitor: {order}: not understood"),
        }
    }
}

fn is_fuse(path: &str) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|line| {
        let mut words = line.split(' ').skip(1);
        words.next() == Some(path) && words.next().is_some_and(|kind| kind.starts_with("fuse"))
    })
}
