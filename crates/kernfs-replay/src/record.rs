//! Recording a real tree.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::image::Image;
use crate::walk::Walk;

impl Image {
    /// Records a directory, which becomes the root, with the settings of [`Recorder::new`].
    ///
    /// # Errors
    ///
    /// As for [`Recorder::record_root`].
    pub fn record(dir: impl AsRef<Path>) -> Result<Self, RecordError> {
        Recorder::new().record_root(dir).map(|recording| recording.image)
    }
}

/// Records real trees, and only reads, whatever they are.
///
/// Every file is opened without blocking, for reading, and read on a thread that is given up when
/// it does not answer in time. Devices, pipes and sockets are not opened. Other filesystems, which
/// are mounted inside, are left out: name them if they are to be recorded.
pub struct Recorder<'a> {
    pub(crate) skip: Vec<String>,
    pub(crate) patience: Duration,
    pub(crate) progress: Option<Told<'a>>,
}

/// What hears of the progress of a recording.
type Told<'a> = Box<dyn FnMut(&Progress<'_>) + 'a>;

/// How long reading a file may take at first: sensors on slow buses convert for most of a second.
const PATIENCE: Duration = Duration::from_secs(2);

/// Files that are not read, since reading them does something, and recorded as if opening them had
/// given EACCES: patterns as for [`Recorder::skip`].
pub const NOT_READ: &[&str] = &[
    // Reads ports of devices.
    "/sys/devices/**/resource[0-9]*",
    "/sys/**/legacy_{io,mem}",
    // Hangs the machine on some devices, for seconds or for good.
    "/sys/devices/**/vpd",
    // What is read is gone.
    "/proc/kmsg",
    "/proc/acpi/event",
    "/sys/kernel/{debug/,}tracing/**/trace_pipe{,_raw}",
    // All memory of the machine, or of a process.
    "/proc/{kcore,vmcore}",
    "/proc/**/mem",
];

impl<'a> Recorder<'a> {
    /// Starts with nothing to skip, and two seconds for each file.
    #[must_use]
    pub fn new() -> Self {
        Self { skip: Vec::new(), patience: PATIENCE, progress: None }
    }

    /// Leaves out what a pattern matches, with all that is below it, as if it were not there.
    ///
    /// A pattern is a glob, in which `*` and `?` match no `/`, and `**` matches any number of
    /// directories. With a leading `/` it has to match the real path; without, the end of that: a
    /// name, or a name with those of the directories above it.
    ///
    /// # Errors
    ///
    /// [`WrongPattern`] says what is wrong in it.
    pub fn skip(mut self, pattern: impl Into<String>) -> Result<Self, WrongPattern> {
        let pattern = pattern.into();
        compile(&[&pattern])?;
        self.skip.push(pattern);
        Ok(self)
    }

    /// Sets how long reading one file may take before it is recorded as one that blocks.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Has a function called before each node is looked at.
    #[must_use]
    pub fn on_progress(mut self, progress: impl FnMut(&Progress<'_>) + 'a) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }

    /// Records directories, each at its real path: `/sys/class/net` is `sys/class/net` in the
    /// image.
    ///
    /// What is named twice, or is part of another, is recorded once.
    ///
    /// # Errors
    ///
    /// [`RecordError::Dir`]: one of them is no directory, or cannot be read. The others: as they
    /// say.
    pub fn record<D: AsRef<Path>>(
        self,
        dirs: impl IntoIterator<Item = D>,
    ) -> Result<Recording, RecordError> {
        let mut walk = Walk::new(self);
        for dir in dirs {
            let dir = dir.as_ref();
            let failed = |error| RecordError::dir(dir, error);
            let real = fs::canonicalize(dir).map_err(failed)?;
            walk.place(&real).map_err(failed)?;
            let at = real.as_os_str().as_bytes().strip_prefix(b"/").unwrap_or_default();
            walk.take(&real, at)?;
        }
        Ok(walk.finish())
    }

    /// Records one directory, which becomes the root of the image.
    ///
    /// # Errors
    ///
    /// As for [`record`](Self::record).
    pub fn record_root(self, dir: impl AsRef<Path>) -> Result<Recording, RecordError> {
        let dir = dir.as_ref();
        let real = fs::canonicalize(dir).map_err(|error| RecordError::dir(dir, error))?;
        let mut walk = Walk::new(self);
        walk.take(&real, b"")?;
        Ok(walk.finish())
    }
}

impl Default for Recorder<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Recorder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder")
            .field("skip", &self.skip)
            .field("patience", &self.patience)
            .finish_non_exhaustive()
    }
}

/// Where a recording is.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Progress<'a> {
    /// What is looked at next.
    pub path: &'a Path,
    /// What there was before.
    pub so_far: &'a Report,
}

/// What was recorded.
#[derive(Debug)]
#[non_exhaustive]
pub struct Recording {
    /// The tree.
    pub image: Image,
    /// What there is to be said of it.
    pub report: Report,
}

/// How many nodes were recorded, and what became of the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Directories.
    pub dirs: usize,
    /// Links.
    pub links: usize,
    /// Files, whatever reading them gave.
    pub files: usize,
    /// Bytes read.
    pub bytes: u64,
    /// Files whose error was recorded.
    pub errors: usize,
    /// Files that had nothing to read and said so.
    pub blocked: usize,
    /// Files that gave no answer in time; a thread hangs in each, or did for a while.
    pub hung: Vec<PathBuf>,
    /// Files that were not opened: their modes let nobody read them, or they are among
    /// [`NOT_READ`].
    pub unread: usize,
    /// Directories that could not be listed; they are recorded as empty.
    pub closed: usize,
    /// What was to be left out.
    pub skipped: usize,
    /// Devices, pipes and sockets, which are left out.
    pub special: usize,
    /// Directories that something is mounted on; they are recorded as empty.
    pub mounts: usize,
    /// What was gone before it could be looked at.
    pub vanished: usize,
    /// What was below too many directories, or had too long a path, and is left out.
    pub too_deep: usize,
}

/// Why nothing was recorded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The directory cannot be recorded.
    #[error("cannot record '{}': {}; expected a directory", path.display(), reason(error))]
    Dir {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// So many files hang that the rest would take for ever.
    #[error("too many files give no answer, the first is '{}'; expected at most {most}; skip them", first.display())]
    Hung {
        /// The first of them.
        first: PathBuf,
        /// How many there may be.
        most: usize,
    },
    /// The tree exceeds a limit.
    #[error("cannot record '{}': {why}", path.display())]
    TooMuch {
        /// Where it was exceeded.
        path: PathBuf,
        /// Which one.
        why: String,
    },
}

impl RecordError {
    pub(crate) fn dir(path: &Path, error: io::Error) -> Self {
        Self::Dir { path: path.to_path_buf(), error }
    }
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such directory".into(),
        io::ErrorKind::NotADirectory => "it is not a directory".into(),
        io::ErrorKind::PermissionDenied => "it must not be read".into(),
        _ => error.to_string(),
    }
}

/// A pattern that is none.
#[derive(Debug, thiserror::Error)]
#[error(
    "'{pattern}' is not a pattern: {why}; expected a glob such as 'sys/kernel/debug' or '*.bin'"
)]
pub struct WrongPattern {
    pattern: String,
    why: String,
}

/// Makes one matcher of patterns, for real paths.
pub(crate) fn compile<P: AsRef<str>>(patterns: &[P]) -> Result<GlobSet, WrongPattern> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let pattern = pattern.as_ref();
        let wrong = |why: String| WrongPattern { pattern: pattern.into(), why };
        if pattern.trim_matches('/').is_empty() {
            return Err(wrong("it names nothing".into()));
        }
        let anywhere = if pattern.starts_with('/') { "" } else { "**/" };
        let full = format!("{anywhere}{}", pattern.trim_end_matches('/'));
        let glob = GlobBuilder::new(&full).literal_separator(true).backslash_escape(true).build();
        set.add(glob.map_err(|error| wrong(error.kind().to_string()))?);
    }
    set.build().map_err(|error| WrongPattern {
        pattern: patterns.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" "),
        why: error.to_string(),
    })
}
