//! Open files and directories of the kernel, by file handle.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::task::{Context, Poll, Wake, Waker};

use fuse_session::Notifier;
use kernfs::{Ack, Events, OpenDir, OpenFile, OpenFlags, Waiter};

use crate::news;
use crate::pages::Pages;
use crate::parked::Turn;

/// What is open, by the handle that the kernel was given.
pub(crate) struct Handles {
    files: RwLock<Files>,
    dirs: RwLock<HashMap<u64, Arc<DirHandle>>>,
    next: AtomicU64,
}

impl Handles {
    pub(crate) fn new() -> Self {
        Self {
            files: RwLock::new(Files::default()),
            dirs: RwLock::new(HashMap::new()),
            next: AtomicU64::new(1),
        }
    }

    pub(crate) fn add_file(&self, file: FileHandle) -> u64 {
        let fh = self.next();
        let mut files = write(&self.files);
        files.by_ino.entry(file.ino).or_default().push(fh);
        files.by_fh.insert(fh, Arc::new(file));
        fh
    }

    pub(crate) fn add_dir(&self, dir: OpenDir) -> u64 {
        let fh = self.next();
        let handle = DirHandle { dir, is_listing: AtomicBool::new(false) };
        write(&self.dirs).insert(fh, Arc::new(handle));
        fh
    }

    pub(crate) fn file(&self, fh: u64) -> Option<Arc<FileHandle>> {
        read(&self.files).by_fh.get(&fh).cloned()
    }

    pub(crate) fn dir(&self, fh: u64) -> Option<Arc<DirHandle>> {
        read(&self.dirs).get(&fh).cloned()
    }

    /// Lets go of an open file; its driver hears of the last close here. Tells whether the file
    /// was severed.
    pub(crate) fn remove_file(&self, fh: u64) -> bool {
        let mut files = write(&self.files);
        let gone = files.by_fh.remove(&fh);
        if let Some(ino) = gone.as_ref().map(|gone| gone.ino)
            && let Some(fhs) = files.by_ino.get_mut(&ino)
        {
            fhs.retain(|&other| other != fh);
            if fhs.is_empty() {
                files.by_ino.remove(&ino);
            }
        }
        drop(files);
        gone.is_some_and(|gone| gone.file.is_severed())
    }

    /// Lets go of an open directory; tells whether somebody was in the middle of listing it.
    pub(crate) fn remove_dir(&self, fh: u64) -> bool {
        let gone = write(&self.dirs).remove(&fh);
        gone.is_some_and(|gone| gone.is_listing())
    }

    /// Tells whether somebody may be in the middle of writing to a file.
    pub(crate) fn can_write(&self, ino: u64) -> bool {
        let files = read(&self.files);
        let fhs = files.by_ino.get(&ino).into_iter().flatten();
        let mut handles = fhs.filter_map(|fh| files.by_fh.get(fh));
        handles.any(|handle| handle.file.flags().contains(OpenFlags::WRITE))
    }

    /// Tells whether somebody may be in the middle of listing a directory.
    pub(crate) fn are_listing(&self, ino: u64) -> bool {
        let dirs = read(&self.dirs);
        dirs.values().any(|handle| handle.is_listing() && handle.dir.inode().ino() == ino)
    }

    /// Returns the open files of nodes that were severed, to make their readers take part in it.
    pub(crate) fn severed(&self, inos: impl Iterator<Item = u64>) -> Vec<Arc<FileHandle>> {
        let files = read(&self.files);
        let fhs = inos.filter_map(|ino| files.by_ino.get(&ino)).flatten();
        let handles = fhs.filter_map(|fh| files.by_fh.get(fh));
        handles.filter(|handle| handle.file.is_severed()).cloned().collect()
    }

    pub(crate) fn count(&self) -> usize {
        read(&self.files).by_fh.len() + read(&self.dirs).len()
    }

    /// Closes everything: the kernel has gone.
    pub(crate) fn clear(&self) {
        let files = std::mem::take(&mut *write(&self.files));
        let dirs = std::mem::take(&mut *write(&self.dirs));
        drop((files, dirs));
    }

    fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

#[derive(Default)]
struct Files {
    by_fh: HashMap<u64, Arc<FileHandle>>,
    by_ino: HashMap<u64, Vec<u64>>,
}

/// An open directory of the kernel.
pub(crate) struct DirHandle {
    pub(crate) dir: OpenDir,
    is_listing: AtomicBool,
}

impl DirHandle {
    /// Notes whether a client is given entries, and will ask for more; tells whether he was.
    ///
    /// The kernel holds the directory's lock while it copies them to the client, who may take his
    /// time.
    pub(crate) fn set_listing(&self, is_listing: bool) -> bool {
        self.is_listing.swap(is_listing, Ordering::AcqRel)
    }

    pub(crate) fn is_listing(&self) -> bool {
        self.is_listing.load(Ordering::Acquire)
    }
}

/// An open file of the kernel.
pub(crate) struct FileHandle {
    ino: u64,
    pub(crate) file: OpenFile,
    /// The pages of the node id through which it was opened.
    pub(crate) pages: Arc<Pages>,
    /// Whether the kernel reads and writes through the page cache.
    pub(crate) is_cached: bool,
    poller: Arc<Poller>,
    waiter: Mutex<Waiter>,
    parked: Mutex<Parked>,
}

/// Reads that have not been answered, and who wants to know when all have been.
#[derive(Default)]
struct Parked {
    reads: Vec<Arc<Turn>>,
    acks: Vec<Arc<Ack>>,
}

impl FileHandle {
    pub(crate) fn new(
        file: OpenFile,
        notifier: Notifier,
        pages: Arc<Pages>,
        is_cached: bool,
    ) -> Self {
        let mapped = is_cached.then(|| Arc::clone(&pages));
        Self {
            ino: file.inode().ino(),
            file,
            pages,
            is_cached,
            poller: Arc::new(Poller { notifier, mapped, kh: AtomicU64::new(0) }),
            waiter: Mutex::new(Waiter::new()),
            parked: Mutex::new(Parked::default()),
        }
    }

    /// Returns what is ready, and has the kernel woken through `kh` when that may have changed.
    pub(crate) fn poll(&self, kh: u64, interest: Events) -> Events {
        // The same for all polls of an open file.
        self.poller.kh.store(kh, Ordering::Release);
        let waker = Waker::from(Arc::clone(&self.poller));
        let mut waiter = lock(&self.waiter);
        match self.file.poll_ready(&mut Context::from_waker(&waker), &mut waiter, interest) {
            Poll::Ready(events) => events,
            Poll::Pending => Events::empty(),
        }
    }

    /// Wakes who polls the file, once it was severed.
    pub(crate) fn wake_pollers(&self) {
        self.poller.look_again();
    }

    /// Tells whether what the page cache asks for is refused.
    pub(crate) fn refuses_pages(&self) -> bool {
        self.file.is_severed() || self.pages.have_ended()
    }

    /// Notes a read that is parked until the returned guard is dropped.
    pub(crate) fn park(self: &Arc<Self>) -> ParkedRead {
        let turn = Arc::new(Turn::default());
        lock(&self.parked).reads.push(Arc::clone(&turn));
        ParkedRead { handle: Arc::clone(self), turn }
    }

    /// Has the reads that are parked answered, after the file was severed, and holds an
    /// acknowledgement back until they are.
    ///
    /// They were woken, and the driver is out of their reach. The pool may be busy with drivers of
    /// other files, for which no removal is to wait.
    pub(crate) fn finish_reads(&self, ack: &Arc<Ack>) {
        let turns = {
            let mut parked = lock(&self.parked);
            if parked.reads.is_empty() {
                return;
            }
            parked.acks.push(Arc::clone(ack));
            parked.reads.clone()
        };
        news::apart(|| turns.iter().for_each(|turn| turn.take()));
    }
}

/// A read that is not answered yet.
pub(crate) struct ParkedRead {
    handle: Arc<FileHandle>,
    pub(crate) turn: Arc<Turn>,
}

impl Drop for ParkedRead {
    fn drop(&mut self) {
        let mut parked = lock(&self.handle.parked);
        parked.reads.retain(|turn| !Arc::ptr_eq(turn, &self.turn));
        if parked.reads.is_empty() {
            let acks = std::mem::take(&mut parked.acks);
            drop(parked);
            drop(acks);
        }
    }
}

/// Wakes those who poll an open file in the kernel, who then ask again.
struct Poller {
    notifier: Notifier,
    /// The pages of a file that may be mapped: who is woken finds the new contents in them.
    mapped: Option<Arc<Pages>>,
    kh: AtomicU64,
}

impl Poller {
    fn look_again(&self) {
        self.notifier.poll(self.kh.load(Ordering::Acquire), ());
    }
}

impl Wake for Poller {
    fn wake(self: Arc<Self>) {
        match &self.mapped {
            Some(pages) => {
                let poller = Arc::clone(&self);
                pages.drop_all(&self.notifier, move || poller.look_again());
            }
            None => self.look_again(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
