//! What is served: a copy of the source, and three files that have something to hold on to.
//!
//! ```text
//! /device/files/...   the copy; read again from the real file at each read from offset 0
//! /device/events      a stream; the first event is there, the next one never comes
//! /device/memory      bytes that can be mapped
//! /device/slow        a text whose driver takes its time
//! ```

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use kernfs::{
    Dir, Draining, Errno, File, FileOps, FileOptions, Kind, Mode, OpenOp, Ops, ReadOp, Tree,
    WriteOp,
};

use crate::demo::ledger::{Ledger, OpenId};
use crate::demo::moment::Moment;
use crate::demo::source::{DIVISIBLE, Entry, Source, What, read_text};
use crate::printable::printable;

/// The name of the subtree that is severed.
pub(crate) const DEVICE: &str = "device";
/// The name of the copy in it.
pub(crate) const COPY: &str = "files";
/// The name of the file that can be mapped.
pub(crate) const MEMORY: &str = "memory";
/// The name of the file whose driver takes its time.
pub(crate) const SLOW: &str = "slow";
/// The name of the event file.
pub(crate) const EVENTS: &str = "events";
/// The event that every open file finds.
pub(crate) const FIRST_EVENT: &[u8] = b"add\n";
/// The size of the file that can be mapped, in bytes.
pub(crate) const MEMORY_BYTES: usize = 4096;

/// The served tree and all handles of its owner.
pub(crate) struct Device {
    pub(crate) tree: Tree,
    pub(crate) ledger: Arc<Ledger>,
    dir: Dir,
    files: Files,
}

/// The owner's handles on files.
pub(crate) struct Files {
    texts: BTreeMap<PathBuf, File<Text>>,
    events: File<Events>,
    memory: File<Memory>,
    slow: File<Slow>,
}

/// What the owner got back.
pub(crate) struct Drivers {
    /// The driver of the event file.
    pub(crate) events: Option<Events>,
    /// How many came back by value.
    pub(crate) back: usize,
    /// How many were handed in.
    pub(crate) all: usize,
}

impl Device {
    /// Builds a tree aside from what was read, and publishes it at once.
    ///
    /// # Errors
    ///
    /// What could not be added, and why.
    pub(crate) fn serve(source: Source) -> Result<Self> {
        let tree = Tree::new();
        let ledger = Arc::new(Ledger::default());
        let dir = tree.detached_dir(Mode::DIR);
        let copy = dir.add_dir(COPY, Mode::DIR)?;
        let texts = add_copy(copy, source.entries, &ledger)?;
        let events = dir.add_file(EVENTS, Mode::RO, Events::new(&ledger))?;
        let size = FileOptions::new(Mode::RW).size(MEMORY_BYTES as u64);
        let memory = dir.add_file(MEMORY, size, Memory::new(&ledger))?;
        let slow = dir.add_file(SLOW, Mode::RO, Slow::new(&ledger))?;
        tree.root().attach(DEVICE, &dir)?;
        Ok(Self { tree, ledger, dir, files: Files { texts, events, memory, slow } })
    }

    /// Returns the path in the copy of a text that is worth to be half-way through, and its length:
    /// the longest one, unless it is so long that the figures get out of hand.
    pub(crate) fn divisible_text(&self) -> Option<(PathBuf, usize)> {
        let texts = self.files.texts.iter().map(|(path, file)| (path, file.rendered().len()));
        let fits = |&(_, len): &(&PathBuf, usize)| (DIVISIBLE..10_000).contains(&len);
        let longest = texts.clone().filter(fits).max_by_key(|&(_, len)| len);
        let longest = longest.or_else(|| texts.max_by_key(|&(_, len)| len));
        longest.map(|(path, len)| (path.clone(), len)).filter(|&(_, len)| len >= DIVISIBLE)
    }

    /// Returns the length in bytes of a text as it was rendered last.
    pub(crate) fn rendered_len(&self, path: &Path) -> usize {
        self.files.texts.get(path).map_or(0, |file| file.rendered().len())
    }

    /// Returns the patience of the driver that takes its time.
    pub(crate) fn slow(&self) -> &Arc<Patience> {
        &self.files.slow.patience
    }

    /// Severs the subtree; what is left are the tree and the handles on dead files.
    pub(crate) fn sever(self) -> (Tree, Files, Draining) {
        let Self { tree, dir, files, .. } = self;
        (tree, files, dir.sever())
    }
}

impl Files {
    /// Takes all drivers out.
    pub(crate) fn into_drivers(self) -> Drivers {
        let Self { texts, events, memory, slow } = self;
        let all = texts.len() + 3;
        let texts = texts.into_values().filter_map(|file| file.into_inner().ok()).count();
        let memory = memory.into_inner().is_ok();
        let slow = slow.into_inner().is_ok();
        let events = events.into_inner().ok();
        let back = texts + usize::from(memory) + usize::from(slow) + usize::from(events.is_some());
        Drivers { events, back, all }
    }
}

/// Adds the copy; directories and links are left to the tree.
fn add_copy(
    copy: Dir,
    entries: Vec<Entry>,
    ledger: &Arc<Ledger>,
) -> Result<BTreeMap<PathBuf, File<Text>>> {
    let mut dirs = BTreeMap::from([(PathBuf::new(), copy)]);
    let mut texts = BTreeMap::new();
    for Entry { path, what } in entries {
        let parent = path.parent().and_then(|parent| dirs.get(parent));
        let parent = parent.with_context(|| format!("'{}' has no parent", printable(&path)))?;
        let name = path.file_name().unwrap_or_default().as_bytes();
        let refused = || format!("cannot add '{}'", printable(&path));
        match what {
            What::Dir => {
                let dir = parent.add_dir(name, Mode::DIR).with_context(refused)?;
                dirs.insert(path, dir);
            }
            What::Text { bytes, live } => {
                let text = Text::new(ledger, bytes, live);
                let file = parent.add_file(name, Mode::RO, text);
                let file = file.map_err(Errno::from).with_context(refused)?;
                texts.insert(path, file);
            }
            What::Link { to } => {
                let link = match (dirs.get(&to), texts.get(&to)) {
                    (Some(dir), _) => parent.add_link(name, dir),
                    (_, Some(file)) => parent.add_link(name, file),
                    (None, None) => Err(Errno::ENOENT),
                };
                link.with_context(refused)?.keep();
            }
        }
    }
    dirs.into_values().for_each(Dir::keep);
    Ok(texts)
}

/// The driver of a copied file.
pub(crate) struct Text {
    ledger: Arc<Ledger>,
    /// The real file.
    live: Option<PathBuf>,
    rendered: Mutex<Vec<u8>>,
}

impl Text {
    fn new(ledger: &Arc<Ledger>, bytes: Vec<u8>, live: Option<PathBuf>) -> Self {
        Self { ledger: Arc::clone(ledger), live, rendered: Mutex::new(bytes) }
    }

    fn rendered(&self) -> MutexGuard<'_, Vec<u8>> {
        lock(&self.rendered)
    }
}

impl FileOps for Text {
    type Open = OpenId;
    const OPS: Ops = Ops::READ;

    fn open(&self, op: &mut OpenOp<'_>) -> Result<OpenId, Errno> {
        let _call = self.ledger.enter();
        Ok(self.ledger.open(op))
    }

    fn read(&self, _: &mut OpenId, op: &mut ReadOp<'_>) -> Result<(), Errno> {
        let _call = self.ledger.enter();
        let fresh = self.live.as_deref().map(read_text);
        let mut rendered = self.rendered();
        // A real file that has gone, or gives no answer now, is served as it was.
        if let Some(Ok(fresh)) = fresh {
            *rendered = fresh;
        }
        op.push(&rendered);
        Ok(())
    }

    fn release(&self, open: OpenId) {
        let _call = self.ledger.enter();
        self.ledger.release(open);
    }
}

/// The driver of the event file.
pub(crate) struct Events {
    ledger: Arc<Ledger>,
}

/// An open event file, and whether its reader has had the first event.
pub(crate) struct EventReader {
    id: OpenId,
    has_first: bool,
}

impl Events {
    fn new(ledger: &Arc<Ledger>) -> Self {
        Self { ledger: Arc::clone(ledger) }
    }

    /// Puts the driver to another use, with another ledger: whoever has it by value may.
    pub(crate) fn with_ledger(self, ledger: &Arc<Ledger>) -> Self {
        Self { ledger: Arc::clone(ledger) }
    }
}

impl FileOps for Events {
    type Open = EventReader;
    const KIND: Kind = Kind::Stream;
    const OPS: Ops = Ops::READ;

    fn open(&self, op: &mut OpenOp<'_>) -> Result<EventReader, Errno> {
        let _call = self.ledger.enter();
        Ok(EventReader { id: self.ledger.open(op), has_first: false })
    }

    fn read(&self, open: &mut EventReader, op: &mut ReadOp<'_>) -> Result<(), Errno> {
        let _call = self.ledger.enter();
        if open.has_first {
            return Err(Errno::EAGAIN);
        }
        open.has_first = true;
        op.push(FIRST_EVENT);
        Ok(())
    }

    fn release(&self, open: EventReader) {
        let _call = self.ledger.enter();
        self.ledger.release(open.id);
    }
}

/// The driver of the file that can be mapped.
pub(crate) struct Memory {
    ledger: Arc<Ledger>,
    bytes: Mutex<Vec<u8>>,
}

impl Memory {
    fn new(ledger: &Arc<Ledger>) -> Self {
        Self { ledger: Arc::clone(ledger), bytes: Mutex::new(vec![0; MEMORY_BYTES]) }
    }
}

impl FileOps for Memory {
    type Open = OpenId;
    const KIND: Kind = Kind::Binary;
    const OPS: Ops = Ops::all();

    fn open(&self, op: &mut OpenOp<'_>) -> Result<OpenId, Errno> {
        let _call = self.ledger.enter();
        Ok(self.ledger.open(op))
    }

    fn read(&self, _: &mut OpenId, op: &mut ReadOp<'_>) -> Result<(), Errno> {
        let _call = self.ledger.enter();
        let bytes = lock(&self.bytes);
        let start = usize::try_from(op.offset()).unwrap_or(usize::MAX).min(bytes.len());
        op.push(&bytes[start..]);
        Ok(())
    }

    fn write(&self, _: &mut OpenId, op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        let _call = self.ledger.enter();
        let mut bytes = lock(&self.bytes);
        let start = usize::try_from(op.offset()).map_err(|_| Errno::EFBIG)?;
        let room = bytes.get_mut(start..).ok_or(Errno::EFBIG)?;
        let len = room.len().min(op.data().len());
        room[..len].copy_from_slice(&op.data()[..len]);
        Ok(len)
    }

    fn release(&self, open: OpenId) {
        let _call = self.ledger.enter();
        self.ledger.release(open);
    }
}

/// The driver that takes its time: it leaves `read` some time after the severing has begun.
pub(crate) struct Slow {
    ledger: Arc<Ledger>,
    patience: Arc<Patience>,
}

/// What the slow driver answers, when it does.
pub(crate) const SLOW_ANSWER: &[u8] = b"measured\n";

/// Where the slow driver is, and what keeps it there.
#[derive(Default)]
pub(crate) struct Patience {
    /// Opened by the driver once it is inside.
    pub(crate) inside: Latch,
    /// Opened by the owner once it has begun to sever.
    pub(crate) severing: Latch,
    left: OnceLock<Moment>,
}

impl Patience {
    /// How much longer the driver works, as if for its hardware.
    const WORK: Duration = Duration::from_millis(5);
    /// When the driver leaves by itself, lest it hold up a demo that has failed.
    const LIMIT: Duration = Duration::from_secs(20);

    /// Returns when the driver left.
    pub(crate) fn left(&self) -> Option<Moment> {
        self.left.get().copied()
    }
}

impl Slow {
    fn new(ledger: &Arc<Ledger>) -> Self {
        Self { ledger: Arc::clone(ledger), patience: Arc::default() }
    }
}

impl FileOps for Slow {
    type Open = OpenId;
    const OPS: Ops = Ops::READ;

    fn open(&self, op: &mut OpenOp<'_>) -> Result<OpenId, Errno> {
        let _call = self.ledger.enter();
        Ok(self.ledger.open(op))
    }

    /// Waits, which operations must not do; the demo shows what happens when one does.
    fn read(&self, _: &mut OpenId, op: &mut ReadOp<'_>) -> Result<(), Errno> {
        let _call = self.ledger.enter();
        self.patience.inside.open();
        if !self.patience.severing.wait(Patience::LIMIT) {
            return Err(Errno::ETIMEDOUT);
        }
        thread::sleep(Patience::WORK);
        op.push(SLOW_ANSWER);
        // Only the first read is looked at.
        let _ = self.patience.left.set(Moment::now());
        Ok(())
    }

    fn release(&self, open: OpenId) {
        let _call = self.ledger.enter();
        self.ledger.release(open);
    }
}

/// Something that is closed at first, and opened once.
#[derive(Default)]
pub(crate) struct Latch {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Latch {
    /// Opens it for all who wait, now and later.
    pub(crate) fn open(&self) {
        *lock(&self.open) = true;
        self.opened.notify_all();
    }

    /// Waits until it is open; tells whether it is, when the limit has passed.
    pub(crate) fn wait(&self, limit: Duration) -> bool {
        let open = lock(&self.open);
        let waited = self.opened.wait_timeout_while(open, limit, |open| !*open);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernfs::{Caller, OpenFlags};
    use std::fs;
    use tempfile::TempDir;

    fn serve(dir: &TempDir) -> Device {
        Device::serve(Source::read(dir.path()).unwrap()).unwrap()
    }

    #[test]
    fn the_copy_is_live_and_its_links_lead_within() {
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("a"), "old\n").unwrap();
        std::os::unix::fs::symlink("../a", dir.path().join("sub/link")).unwrap();
        let device = serve(&dir);
        let client = device.tree.client(Caller::OWNER);
        let file = client.open("/device/files/sub/link", OpenFlags::READ).unwrap();
        fs::write(dir.path().join("a"), "newer\n").unwrap();
        assert_eq!(file.read_to_string().unwrap(), "newer\n");
        assert_eq!(device.rendered_len(Path::new("a")), 6);
        fs::remove_file(dir.path().join("a")).unwrap();
        assert_eq!(file.read_to_string().unwrap(), "newer\n");
    }

    #[test]
    fn the_longest_text_is_divided() {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("short"), "ab").unwrap();
        fs::write(dir.path().join("longer"), "abc").unwrap();
        fs::write(dir.path().join("unwieldy"), [b'x'; 10_000]).unwrap();
        assert_eq!(serve(&dir).divisible_text(), Some(("longer".into(), 3)));
    }

    #[test]
    fn a_severed_device_gives_all_drivers_back() {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("a"), "text\n").unwrap();
        let (_tree, files, draining) = serve(&dir).sever();
        draining.wait().unwrap();
        let drivers = files.into_drivers();
        assert_eq!((drivers.back, drivers.all), (4, 4));
        assert!(drivers.events.is_some());
    }
}
