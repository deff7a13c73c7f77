//! A walk through a real tree, by descriptors of its directories: what is moved or replaced
//! meanwhile leads nowhere else.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use globset::GlobSet;
use kernfs::Mode;
use rustix::fs::{AtFlags, CWD, Dir, FileType, OFlags, Stat, fstat, openat, readlinkat, statat};

use crate::draft::{Draft, READABLE, Refused};
use crate::image::Content;
use crate::limits::MAX_NODES;
use crate::reader::{Answer, Reader};
use crate::record::{NOT_READ, Progress, RecordError, Recorder, Recording, Report, compile};

pub(crate) struct Walk<'a> {
    recorder: Recorder<'a>,
    skip: GlobSet,
    not_read: GlobSet,
    reader: Reader,
    draft: Draft,
    report: Report,
    /// The directories that were to be recorded, with their filesystems.
    taken: Vec<(PathBuf, u64)>,
}

/// A directory that the walk is in.
struct Level {
    fd: OwnedFd,
    path: PathBuf,
    at: Vec<u8>,
    /// What is still to be visited, the next one last.
    names: Vec<CString>,
}

/// How many files may hang before a recording is given up: a thread hangs in each.
const MAX_HUNG: usize = 64;

impl<'a> Walk<'a> {
    pub(crate) fn new(recorder: Recorder<'a>) -> Self {
        let known = "the patterns were looked at when they came";
        Self {
            skip: compile(&recorder.skip).expect(known),
            not_read: compile(NOT_READ).expect(known),
            reader: Reader::new(recorder.patience),
            recorder,
            draft: Draft::new(Mode::DIR),
            report: Report::default(),
            taken: Vec::new(),
        }
    }

    /// Puts the directories above a real path into the image.
    pub(crate) fn place(&mut self, real: &Path) -> io::Result<()> {
        let mut above: Vec<&Path> = real.ancestors().skip(1).collect();
        above.reverse();
        for dir in above {
            let at = dir.as_os_str().as_bytes().strip_prefix(b"/").unwrap_or_default();
            let stat = statat(CWD, dir, AtFlags::SYMLINK_NOFOLLOW)?;
            // In the way of something else, too.
            let _ = self.draft.add_dir(at, mode_of(&stat));
        }
        Ok(())
    }

    /// Records a directory at a path of the image.
    pub(crate) fn take(&mut self, real: &Path, at: &[u8]) -> Result<(), RecordError> {
        let failed = |error: rustix::io::Errno| RecordError::dir(real, error.into());
        let fd = openat(CWD, real, DIR_FLAGS, rustix::fs::Mode::empty()).map_err(failed)?;
        let stat = fstat(&fd).map_err(failed)?;
        let covers = |(dir, dev): &(PathBuf, u64)| real.starts_with(dir) && *dev == stat.st_dev;
        if self.taken.iter().any(covers) {
            return Ok(());
        }
        self.taken.push((real.to_path_buf(), stat.st_dev));
        let names = list(&fd).map_err(failed)?;
        match self.draft.add_dir(at, mode_of(&stat)) {
            // It was above or below another one.
            Ok(()) | Err(Refused::Duplicate) => {}
            Err(refused) => return Err(too_much(real, &refused)),
        }
        self.report.dirs += 1;
        let mut levels = vec![Level { fd, path: real.to_path_buf(), at: at.to_vec(), names }];
        while let Some(level) = levels.last_mut() {
            match level.names.pop() {
                None => drop(levels.pop()),
                Some(name) => {
                    let below = self.visit(level, &name, stat.st_dev)?;
                    levels.extend(below);
                }
            }
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> Recording {
        Recording { image: self.draft.finish(), report: self.report }
    }

    /// Records a node, and returns it if it is a directory to go into.
    fn visit(
        &mut self,
        dir: &Level,
        name: &CStr,
        device: u64,
    ) -> Result<Option<Level>, RecordError> {
        let path = dir.path.join(OsStr::from_bytes(name.to_bytes()));
        if let Some(progress) = &mut self.recorder.progress {
            progress(&Progress { path: &path, so_far: &self.report });
        }
        if self.skip.is_match(&path) {
            self.report.skipped += 1;
            return Ok(None);
        }
        let Ok(stat) = statat(&dir.fd, name, AtFlags::SYMLINK_NOFOLLOW) else {
            self.report.vanished += 1;
            return Ok(None);
        };
        let mut at = dir.at.clone();
        if !at.is_empty() {
            at.push(b'/');
        }
        at.extend_from_slice(name.to_bytes());
        let visited = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => return self.enter(dir, name, path, at, device),
            FileType::RegularFile => self.file(dir, name, &path, &at),
            FileType::Symlink => self.link(dir, name, &at),
            _ => {
                self.report.special += 1;
                Ok(())
            }
        };
        self.put(visited, &path)?;
        Ok(None)
    }

    fn enter(
        &mut self,
        dir: &Level,
        name: &CStr,
        path: PathBuf,
        at: Vec<u8>,
        device: u64,
    ) -> Result<Option<Level>, RecordError> {
        // Not opened for reading: that could wait for what is mounted there.
        let found = openat(&dir.fd, name, PATH_FLAGS, rustix::fs::Mode::empty())
            .and_then(|node| fstat(&node).map(|stat| (node, stat)));
        let Ok((node, stat)) = found else {
            self.report.vanished += 1;
            return Ok(None);
        };
        let added = self.draft.add_dir(&at, mode_of(&stat));
        if !self.put(added, &path)? {
            return Ok(None);
        }
        self.report.dirs += 1;
        if stat.st_dev != device {
            self.report.mounts += 1;
            return Ok(None);
        }
        let opened = openat(&node, c".", DIR_FLAGS, rustix::fs::Mode::empty());
        let Ok((fd, names)) = opened.and_then(|fd| list(&fd).map(|names| (fd, names))) else {
            self.report.closed += 1;
            return Ok(None);
        };
        Ok(Some(Level { fd, path, at, names }))
    }

    fn link(&mut self, dir: &Level, name: &CStr, at: &[u8]) -> Result<(), Refused> {
        let Ok(text) = readlinkat(&dir.fd, name, Vec::new()) else {
            self.report.vanished += 1;
            return Ok(());
        };
        self.draft.add_link(at, text.to_bytes())?;
        self.report.links += 1;
        Ok(())
    }

    fn file(&mut self, dir: &Level, name: &CStr, path: &Path, at: &[u8]) -> Result<(), Refused> {
        // Not opened yet, so that it is what it was: opening a pipe or a device does something.
        let found = openat(&dir.fd, name, PATH_FLAGS, rustix::fs::Mode::empty())
            .and_then(|node| fstat(&node).map(|stat| (node, stat)));
        let Ok((node, stat)) = found else {
            self.report.vanished += 1;
            return Ok(());
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            self.report.special += 1;
            return Ok(());
        }
        let mode = mode_of(&stat);
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        let content = if mode.bits() & READABLE == 0 || self.not_read.is_match(path) {
            self.report.unread += 1;
            Content::Unread
        } else {
            self.read(node, path)
        };
        self.draft.add_file(at, mode, size, content)?;
        self.report.files += 1;
        Ok(())
    }

    fn read(&mut self, node: OwnedFd, path: &Path) -> Content {
        match self.reader.read(node) {
            Answer::Bytes(bytes) => {
                self.report.bytes += bytes.len() as u64;
                Content::Bytes(bytes.into())
            }
            Answer::NothingYet => {
                self.report.blocked += 1;
                Content::Blocks
            }
            Answer::OpenError(errno) => {
                self.report.errors += 1;
                Content::OpenError(errno)
            }
            Answer::ReadError(errno) => {
                self.report.errors += 1;
                Content::ReadError(errno)
            }
            Answer::TooSlow => {
                self.report.hung.push(path.to_path_buf());
                Content::Blocks
            }
        }
    }

    /// Tells whether a node is in the image.
    ///
    /// # Errors
    ///
    /// It must not be, for a limit that holds for the others, too.
    fn put(&mut self, added: Result<(), Refused>, path: &Path) -> Result<bool, RecordError> {
        if self.report.hung.len() > MAX_HUNG {
            let first = self.report.hung.swap_remove(0);
            return Err(RecordError::Hung { first, most: MAX_HUNG });
        }
        match added {
            Ok(()) => Ok(true),
            Err(Refused::Deep | Refused::LongPath) => {
                self.report.too_deep += 1;
                Ok(false)
            }
            // Another directory that was to be recorded has it.
            Err(Refused::Duplicate) => Ok(true),
            Err(refused) => Err(too_much(path, &refused)),
        }
    }
}

const DIR_FLAGS: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const PATH_FLAGS: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn mode_of(stat: &Stat) -> Mode {
    Mode::new(u16::try_from(stat.st_mode & 0o7777).unwrap_or_default())
}

/// Lists a directory, the first name last.
fn list(dir: impl AsFd) -> rustix::io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name);
        }
        if names.len() > MAX_NODES {
            break;
        }
    }
    names.sort_unstable();
    names.reverse();
    Ok(names)
}

fn too_much(path: &Path, refused: &Refused) -> RecordError {
    RecordError::TooMuch { path: path.to_path_buf(), why: refused.to_string() }
}
