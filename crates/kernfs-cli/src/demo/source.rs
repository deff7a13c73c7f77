//! The real directory that is copied: read with care, for it may be a part of /sys.
//!
//! Files there may block, answer errors, or never end. Each is opened without blocking, read up to
//! a limit, and given up after a time. Nothing is ever written.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use serde::Serialize;

use crate::printable::{plural, printable};

/// The most entries of a copy: a few times what the largest part of /sys worth looking at has.
const MAX_ENTRIES: usize = 4096;
/// The most directories above an entry.
const MAX_DEPTH: usize = 16;
/// The longest text in bytes: attributes of /sys have a page at most.
const MAX_TEXT: usize = 64 << 10;
/// The most bytes of all texts together.
const MAX_BYTES: usize = 16 << 20;
/// How long one file may take; those that wait for hardware answer in milliseconds, and the thread
/// that reads may have to wait for a processor.
const READ_LIMIT: Duration = Duration::from_secs(1);
/// How long all of it may take.
const LIMIT: Duration = Duration::from_secs(5);
/// The least bytes of a text that somebody can be half-way through.
pub(crate) const DIVISIBLE: usize = 2;

/// What is served if no directory is named, in the order of preference.
const DEFAULTS: [&str; 6] = [
    "/sys/devices/system/cpu",
    "/sys/devices/system",
    "/sys/class",
    "/sys/kernel",
    "/sys/module",
    "/proc/sys",
];

/// The program's own source, which is always at hand.
const OWN_SOURCE: [(&str, &str); 24] = [
    ("main.rs", include_str!("../main.rs")),
    ("belongings.rs", include_str!("../belongings.rs")),
    ("printable.rs", include_str!("../printable.rs")),
    ("signals.rs", include_str!("../signals.rs")),
    ("sweep.rs", include_str!("../sweep.rs")),
    ("watchdog.rs", include_str!("../watchdog.rs")),
    ("demo.rs", include_str!("../demo.rs")),
    ("demo/source.rs", include_str!("source.rs")),
    ("demo/moment.rs", include_str!("moment.rs")),
    ("demo/ledger.rs", include_str!("ledger.rs")),
    ("demo/device.rs", include_str!("device.rs")),
    ("demo/role.rs", include_str!("role.rs")),
    ("demo/answer.rs", include_str!("answer.rs")),
    ("demo/line.rs", include_str!("line.rs")),
    ("demo/ground.rs", include_str!("ground.rs")),
    ("demo/in_process.rs", include_str!("in_process.rs")),
    ("demo/process.rs", include_str!("process.rs")),
    ("demo/asleep.rs", include_str!("asleep.rs")),
    ("demo/holder.rs", include_str!("holder.rs")),
    ("demo/linux.rs", include_str!("linux.rs")),
    ("demo/reach.rs", include_str!("reach.rs")),
    ("demo/promise.rs", include_str!("promise.rs")),
    ("demo/report.rs", include_str!("report.rs")),
    ("demo/table.rs", include_str!("table.rs")),
];

/// A directory that cannot be served: what, where, and what was expected.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve '{}': {why}; expected {EXPECTED}", printable(.dir))]
pub(crate) struct WrongInput {
    dir: PathBuf,
    why: String,
}

const EXPECTED: &str = "a directory with at least one readable file of 2 to 65536 bytes";

/// What was read from a directory.
#[derive(Debug)]
pub(crate) struct Source {
    /// Where it comes from, as it may be printed.
    pub(crate) from: String,
    /// The directory itself, if it is one.
    pub(crate) root: Option<PathBuf>,
    /// What is to be served, parents before their children, links last.
    pub(crate) entries: Vec<Entry>,
    /// What is not served.
    pub(crate) skipped: Skipped,
    /// Why reading ended before everything was seen.
    pub(crate) stopped: Option<&'static str>,
}

/// Something below the directory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The path from the directory.
    pub(crate) path: PathBuf,
    /// What it is.
    pub(crate) what: What,
}

/// What an entry is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A directory.
    Dir,
    /// A file with its contents, and where these can be read again.
    Text { bytes: Vec<u8>, live: Option<PathBuf> },
    /// A link, and the path from the directory to where it leads.
    Link { to: PathBuf },
}

/// How many entries are not served, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Skipped {
    /// Opening or reading gave an error.
    pub(crate) unreadable: usize,
    /// Gave no answer in time.
    pub(crate) too_slow: usize,
    /// Longer than a text may be.
    pub(crate) too_large: usize,
    /// Below too many directories.
    pub(crate) too_deep: usize,
    /// Neither file nor directory nor link.
    pub(crate) special: usize,
    /// The root of another filesystem.
    pub(crate) other_filesystem: usize,
    /// A link to somewhere outside.
    pub(crate) leading_out: usize,
    /// A link to nothing, in a circle, or to what was skipped.
    pub(crate) leading_nowhere: usize,
}

impl Skipped {
    /// Tells the reasons in words, with their numbers; nothing if nothing was skipped.
    pub(crate) fn in_words(&self) -> String {
        let counts = [
            (self.unreadable, "unreadable", "unreadable"),
            (self.too_slow, "too slow", "too slow"),
            (self.too_large, "too large", "too large"),
            (self.too_deep, "too deep", "too deep"),
            (self.special, "special", "special"),
            (self.other_filesystem, "on another filesystem", "on other filesystems"),
            (self.leading_out, "link leading out", "links leading out"),
            (self.leading_nowhere, "link leading nowhere", "links leading nowhere"),
        ];
        let counts = counts.into_iter().filter(|(count, ..)| *count > 0);
        let words = counts.map(|(count, one, many)| plural(count, one, many));
        words.collect::<Vec<_>>().join(", ")
    }

    fn count(&mut self, refusal: Refusal) {
        *match refusal {
            Refusal::Unreadable => &mut self.unreadable,
            Refusal::TooSlow => &mut self.too_slow,
            Refusal::TooLarge => &mut self.too_large,
            Refusal::Special => &mut self.special,
        } += 1;
    }
}

impl Source {
    /// Reads a directory.
    ///
    /// # Errors
    ///
    /// [`WrongInput`] if it is none, cannot be read, or has nothing that can be served.
    pub(crate) fn read(dir: &Path) -> Result<Self, WrongInput> {
        let wrong = |why: String| WrongInput { dir: dir.to_path_buf(), why };
        let refused = |error: io::Error| wrong(reason(&error));
        let root = fs::canonicalize(dir).map_err(refused)?;
        let meta = fs::metadata(&root).map_err(refused)?;
        if !meta.is_dir() {
            return Err(wrong("it is not a directory".into()));
        }
        if fs::read_dir(&root).map_err(refused)?.next().is_none() {
            return Err(wrong("it is empty".into()));
        }
        let source = Walk::new(root, &meta).finish(printable(dir));
        if !source.has_text() {
            let skipped = Some(source.skipped.in_words()).filter(|words| !words.is_empty());
            let skipped = skipped.map_or(String::new(), |words| format!(" ({words})"));
            return Err(wrong(format!("it has nothing that can be served{skipped}")));
        }
        Ok(source)
    }

    /// Reads the first of the default directories that can be served, else the own source.
    pub(crate) fn default_input() -> Self {
        Self::first_of(DEFAULTS.iter().map(Path::new))
    }

    fn first_of<'a>(candidates: impl IntoIterator<Item = &'a Path>) -> Self {
        let mut sources = candidates.into_iter().filter_map(|dir| Self::read(dir).ok());
        sources.next().unwrap_or_else(Self::own)
    }

    /// Returns the program's own source, as it was built.
    fn own() -> Self {
        let mut entries = vec![Entry { path: "demo".into(), what: What::Dir }];
        entries.extend(OWN_SOURCE.iter().map(|(path, text)| Entry {
            path: path.into(),
            what: What::Text { bytes: text.as_bytes().to_vec(), live: None },
        }));
        let from = "the program's own source".into();
        Self { from, root: None, entries, skipped: Skipped::default(), stopped: None }
    }

    fn has_text(&self) -> bool {
        self.entries.iter().any(
            |entry| matches!(&entry.what, What::Text { bytes, .. } if bytes.len() >= DIVISIBLE),
        )
    }
}

/// Says why the system refused, without its error number.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such directory".into(),
        io::ErrorKind::PermissionDenied => "it must not be read".into(),
        _ => error.to_string(),
    }
}

/// A walk through a directory, level by level, so that a limit cuts off what is deepest.
struct Walk {
    root: PathBuf,
    device: u64,
    begun: Instant,
    /// Directories that were seen but not read: the path from the root, and the depth of what is
    /// in it.
    ahead: VecDeque<(PathBuf, usize)>,
    links: Vec<PathBuf>,
    bytes: usize,
    entries: Vec<Entry>,
    skipped: Skipped,
    stopped: Option<&'static str>,
}

impl Walk {
    fn new(root: PathBuf, meta: &Metadata) -> Self {
        Self {
            root,
            device: meta.dev(),
            begun: Instant::now(),
            ahead: VecDeque::from([(PathBuf::new(), 0)]),
            links: Vec::new(),
            bytes: 0,
            entries: Vec::new(),
            skipped: Skipped::default(),
            stopped: None,
        }
    }

    fn finish(mut self, from: String) -> Source {
        while let Some((dir, depth)) = self.ahead.pop_front() {
            for name in self.names(&dir) {
                if self.stopped.is_none() {
                    self.stopped = self.limit_reached();
                }
                if self.stopped.is_some() {
                    break;
                }
                self.visit(dir.join(name), depth);
            }
        }
        self.resolve_links();
        let Self { root, entries, skipped, stopped, .. } = self;
        Source { from, root: Some(root), entries, skipped, stopped }
    }

    fn limit_reached(&self) -> Option<&'static str> {
        if self.entries.len() + self.links.len() >= MAX_ENTRIES {
            Some("4096 entries are the most")
        } else if self.bytes >= MAX_BYTES {
            Some("16 MiB are the most")
        } else if self.begun.elapsed() >= LIMIT {
            Some("5 s are the longest")
        } else {
            None
        }
    }

    /// Lists a directory in the order of names, up to the limit of entries.
    fn names(&mut self, dir: &Path) -> Vec<OsString> {
        if self.stopped.is_some() {
            return Vec::new();
        }
        let Ok(listing) = fs::read_dir(self.root.join(dir)) else {
            self.skipped.unreadable += 1;
            return Vec::new();
        };
        let listing = listing.map_while(Result::ok).take(MAX_ENTRIES + 1);
        let mut names: Vec<_> = listing.map(|entry| entry.file_name()).collect();
        names.sort_unstable();
        names
    }

    fn visit(&mut self, path: PathBuf, depth: usize) {
        let real = self.root.join(&path);
        let Ok(meta) = fs::symlink_metadata(&real) else {
            self.skipped.unreadable += 1;
            return;
        };
        let kind = meta.file_type();
        if kind.is_symlink() {
            self.links.push(path);
        } else if kind.is_file() {
            self.take_text(path, real);
        } else if !kind.is_dir() {
            self.skipped.special += 1;
        } else if meta.dev() != self.device {
            self.skipped.other_filesystem += 1;
        } else if depth >= MAX_DEPTH {
            self.skipped.too_deep += 1;
        } else {
            self.ahead.push_back((path.clone(), depth + 1));
            self.entries.push(Entry { path, what: What::Dir });
        }
    }

    fn take_text(&mut self, path: PathBuf, real: PathBuf) {
        match read_text(&real) {
            Ok(bytes) => {
                self.bytes += bytes.len();
                self.entries.push(Entry { path, what: What::Text { bytes, live: Some(real) } });
            }
            Err(refusal) => self.skipped.count(refusal),
        }
    }

    /// Keeps the links that lead to something which is served.
    fn resolve_links(&mut self) {
        let mut served: BTreeSet<_> = self.entries.iter().map(|entry| entry.path.clone()).collect();
        served.insert(PathBuf::new());
        for path in std::mem::take(&mut self.links) {
            // Fails for links that lead to nothing, or in a circle.
            let target = fs::canonicalize(self.root.join(&path));
            let inside = target.as_ref().map(|target| target.strip_prefix(&self.root));
            match inside {
                // A link to its own directory would have an empty text, which kernfs refuses.
                Ok(Ok(to)) if served.contains(to) && path.parent() != Some(to) => {
                    let what = What::Link { to: to.to_path_buf() };
                    self.entries.push(Entry { path, what });
                }
                Ok(Err(_)) => self.skipped.leading_out += 1,
                _ => self.skipped.leading_nowhere += 1,
            }
        }
    }
}

/// Why a file cannot be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Opening or reading gave an error.
    Unreadable,
    /// Gave no answer in time.
    TooSlow,
    /// Longer than [`MAX_TEXT`].
    TooLarge,
    /// No regular file.
    Special,
}

/// Reads a text within the limits.
///
/// # Errors
///
/// Why it cannot be served.
pub(crate) fn read_text(path: &Path) -> Result<Vec<u8>, Refusal> {
    let path = path.to_path_buf();
    within(READ_LIMIT, move || read_now(&path))
}

/// Runs a read on a thread of its own: there is no other way to give up what the kernel does not
/// answer. Such a thread is left behind.
fn within(
    limit: Duration,
    read: impl FnOnce() -> Result<Vec<u8>, Refusal> + Send + 'static,
) -> Result<Vec<u8>, Refusal> {
    let (done, answer) = mpsc::channel();
    let reader = thread::Builder::new().name("source".into()).spawn(move || {
        // Nobody listens any more once the limit has passed.
        let _ = done.send(read());
    });
    reader.map_err(|_| Refusal::Unreadable)?;
    answer.recv_timeout(limit).unwrap_or(Err(Refusal::TooSlow))
}

fn read_now(path: &Path) -> Result<Vec<u8>, Refusal> {
    // Neither waits for the other end of a FIFO, nor follows what has become a link meanwhile.
    let flags =
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|_| Refusal::Unreadable)?;
    let file = File::from(file);
    if !file.metadata().map_err(|_| Refusal::Unreadable)?.is_file() {
        return Err(Refusal::Special);
    }
    let mut text = Vec::new();
    // One byte more, to tell whether there is more; sizes of files in /sys tell nothing.
    let read = file.take(MAX_TEXT as u64 + 1).read_to_end(&mut text);
    read.map_err(|_| Refusal::Unreadable)?;
    if text.len() > MAX_TEXT { Err(Refusal::TooLarge) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType};
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use tempfile::TempDir;

    fn dir_with_a_file() -> TempDir {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("a"), "text\n").unwrap();
        dir
    }

    fn paths(source: &Source) -> Vec<&OsStr> {
        source.entries.iter().map(|entry| entry.path.as_os_str()).collect()
    }

    #[test]
    fn files_directories_and_links_are_read_level_by_level() {
        let dir = dir_with_a_file();
        fs::create_dir_all(dir.path().join("sub/deeper")).unwrap();
        fs::write(dir.path().join("sub/b"), "").unwrap();
        symlink("../a", dir.path().join("sub/link")).unwrap();
        symlink("..", dir.path().join("sub/up")).unwrap();
        let source = Source::read(dir.path()).unwrap();
        assert_eq!(paths(&source), ["a", "sub", "sub/b", "sub/deeper", "sub/link", "sub/up"]);
        assert_eq!(source.entries[4].what, What::Link { to: "a".into() });
        assert_eq!(source.entries[5].what, What::Link { to: "".into() });
        assert_eq!(source.skipped, Skipped::default());
        assert_eq!(source.stopped, None);
    }

    #[test]
    fn links_that_cannot_be_served_are_counted() {
        let dir = dir_with_a_file();
        for (link, to) in [("out", "/"), ("nothing", "gone"), ("x", "y"), ("y", "x"), ("own", ".")]
        {
            symlink(to, dir.path().join(link)).unwrap();
        }
        let source = Source::read(dir.path()).unwrap();
        assert_eq!(paths(&source), ["a"]);
        let skipped = Skipped { leading_out: 1, leading_nowhere: 4, ..Skipped::default() };
        assert_eq!(source.skipped, skipped);
    }

    #[test]
    fn a_fifo_does_not_block() {
        let dir = dir_with_a_file();
        let fifo = dir.path().join("fifo");
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, mode, 0).unwrap();
        let source = Source::read(dir.path()).unwrap();
        assert_eq!(paths(&source), ["a"]);
        assert_eq!(source.skipped.special, 1);
        assert_eq!(read_text(&fifo), Err(Refusal::Special));
    }

    #[test]
    fn what_never_answers_is_given_up() {
        let never = || loop {
            thread::park();
        };
        assert_eq!(within(Duration::from_millis(20), never), Err(Refusal::TooSlow));
    }

    #[test]
    fn a_huge_file_is_skipped() {
        let dir = dir_with_a_file();
        File::create(dir.path().join("huge")).unwrap().set_len(1 << 40).unwrap();
        fs::write(dir.path().join("largest"), vec![b'x'; MAX_TEXT]).unwrap();
        let source = Source::read(dir.path()).unwrap();
        assert_eq!(paths(&source), ["a", "largest"]);
        assert_eq!(source.skipped.too_large, 1);
    }

    #[test]
    fn deep_nesting_is_cut_off() {
        let dir = dir_with_a_file();
        let deep: PathBuf = std::iter::repeat_n("d", MAX_DEPTH + 5).collect();
        fs::create_dir_all(dir.path().join(deep)).unwrap();
        let source = Source::read(dir.path()).unwrap();
        assert_eq!(source.entries.len(), 1 + MAX_DEPTH);
        assert_eq!(source.skipped.too_deep, 1);
    }

    #[test]
    fn many_entries_are_cut_off() {
        let dir = dir_with_a_file();
        for n in 0..MAX_ENTRIES {
            symlink("a", dir.path().join(format!("link{n}"))).unwrap();
        }
        let source = Source::read(dir.path()).unwrap();
        assert_eq!(source.entries.len(), MAX_ENTRIES);
        assert!(source.stopped.is_some());
    }

    #[test]
    fn names_may_be_any_bytes() {
        let dir = dir_with_a_file();
        let name = OsStr::from_bytes(b"line\nbreak\x1b[31m\xff");
        fs::write(dir.path().join(name), "x").unwrap();
        assert_eq!(paths(&Source::read(dir.path()).unwrap()), [OsStr::new("a"), name]);
    }

    #[test]
    fn what_must_not_be_read_is_counted() {
        let dir = dir_with_a_file();
        let locked = dir.path().join("locked");
        fs::write(&locked, "secret").unwrap();
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o000)).unwrap();
        if File::open(&locked).is_ok() {
            eprintln!("skipped: modes do not bind this user");
            return;
        }
        let source = Source::read(dir.path()).unwrap();
        assert_eq!(paths(&source), ["a"]);
        assert_eq!(source.skipped.unreadable, 1);
    }

    #[test]
    fn wrong_input_says_what_where_and_what_was_expected() {
        let dir = TempDir::new().unwrap();
        let said = |path: &Path| Source::read(path).unwrap_err().to_string();
        assert!(said(dir.path()).contains("it is empty; expected a directory with"));
        assert!(said(&dir.path().join("gone\n")).contains("gone\\n': there is no such directory"));
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(said(&file).contains("file': it is not a directory"));
        assert!(said(dir.path()).contains("it has nothing that can be served"));
    }

    #[test]
    fn without_any_directory_the_own_source_is_served() {
        let source = Source::first_of([Path::new("/nonexistent")]);
        assert!(source.has_text());
        assert_eq!(source.entries.len(), 1 + OWN_SOURCE.len());
    }
}
