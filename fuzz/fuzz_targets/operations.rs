//! Any sequence of operations on a tree: whatever is done in whatever order, the promise holds.

#![no_main]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arbitrary::Arbitrary;
use kernfs::{
    Caller, Client, Dir, Draining, Errno, Events, File, FileOps, Mode, OpenDir, OpenFile, OpenFlags,
    OpenOp, ReadOp, Tree, WriteOp,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|steps: Vec<Step>| {
    let mut world = World::new();
    for step in steps {
        world.take(step);
    }
    world.end();
});

#[derive(Arbitrary, Debug)]
enum Step {
    AddFile { dir: u8, name: u8 },
    AddDir { dir: u8, name: u8 },
    AddLink { dir: u8, name: u8, file: u8 },
    Attach { dir: u8, name: u8, fresh: u8 },
    Rename { file: u8, dir: u8, name: u8 },
    Move { from: u8, to: u8, name: u8 },
    Hide { file: u8 },
    Show { file: u8 },
    Notify { file: u8 },
    Remove { file: u8 },
    Drop { file: u8 },
    Keep { file: u8 },
    RemoveDir { dir: u8 },
    SeverByName { dir: u8, name: u8 },
    Open { path: [u8; 3] },
    OpenById { ino: u8 },
    Read { open: u8, offset: u8, len: u8 },
    Write { open: u8, len: u16 },
    Poll { open: u8 },
    Close { open: u8 },
    List { path: [u8; 2], cursor: u8, max: u8 },
    ReadLink { path: [u8; 3] },
}

/// Few names, so that they meet.
const NAMES: [&str; 5] = ["a", "b", "c", "..", "d/"];

#[derive(Default)]
struct Counts {
    alive: AtomicUsize,
    opened: AtomicUsize,
    released: AtomicUsize,
    freed: AtomicUsize,
}

struct Driver(Arc<Counts>);

impl Driver {
    fn new(counts: &Arc<Counts>) -> Self {
        counts.alive.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(counts))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

impl FileOps for Driver {
    type Open = ();

    fn open(&self, op: &mut OpenOp<'_>) -> Result<(), Errno> {
        self.0.opened.fetch_add(1, Ordering::Relaxed);
        let counts = Arc::clone(&self.0);
        op.on_free(move || {
            counts.freed.fetch_add(1, Ordering::Relaxed);
        });
        Ok(())
    }

    fn read(&self, (): &mut (), op: &mut ReadOp<'_>) -> Result<(), Errno> {
        op.push(b"0123456789");
        Ok(())
    }

    fn write(&self, (): &mut (), op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        Ok(op.data().len())
    }

    fn release(&self, (): ()) {
        self.0.released.fetch_add(1, Ordering::Relaxed);
    }
}

struct World {
    tree: Tree,
    client: Client,
    counts: Arc<Counts>,
    dirs: Vec<Dir>,
    files: Vec<File<Driver>>,
    opens: Vec<OpenFile>,
    lists: Vec<OpenDir>,
}

impl World {
    fn new() -> Self {
        let tree = Tree::new();
        let client = tree.client(Caller::OWNER);
        Self {
            tree,
            client,
            counts: Arc::default(),
            dirs: Vec::new(),
            files: Vec::new(),
            opens: Vec::new(),
            lists: Vec::new(),
        }
    }

    fn dir(&self, at: u8) -> &Dir {
        let at = usize::from(at) % (self.dirs.len() + 1);
        self.dirs.get(at).unwrap_or_else(|| self.tree.root())
    }

    fn file(&self, at: u8) -> Option<&File<Driver>> {
        self.files.get(usize::from(at).checked_rem(self.files.len())?)
    }

    fn take_file(&mut self, at: u8) -> Option<File<Driver>> {
        let at = usize::from(at).checked_rem(self.files.len())?;
        Some(self.files.swap_remove(at))
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::AddFile { dir, name } => {
                let driver = Driver::new(&self.counts);
                let added = self.dir(dir).add_file(self::name(name), Mode::RW, driver);
                self.files.extend(added.ok());
            }
            Step::AddDir { dir, name } => {
                let added = self.dir(dir).add_dir(self::name(name), Mode::DIR);
                self.dirs.extend(added.ok());
            }
            Step::AddLink { dir, name, file } => {
                if let Some(file) = self.file(file) {
                    let _ = self.dir(dir).add_link(self::name(name), file).map(kernfs::Link::keep);
                }
            }
            Step::Attach { dir, name, fresh } => {
                let detached = self.tree.detached_dir(Mode::DIR);
                let driver = Driver::new(&self.counts);
                let file = detached.add_file(self::name(fresh), Mode::RW, driver).ok();
                // What stays detached would outlive the tree with all that is moved into it.
                if self.dir(dir).attach(self::name(name), &detached).is_ok() {
                    self.files.extend(file);
                    self.dirs.push(detached);
                }
            }
            Step::Rename { file, dir, name } => {
                if let Some(file) = self.file(file) {
                    let _ = file.rename(self.dir(dir), self::name(name));
                }
            }
            Step::Move { from, to, name } => {
                let _ = self.dir(from).rename(self.dir(to), self::name(name));
            }
            Step::Hide { file } => {
                if let Some(draining) = self.file(file).map(File::hide) {
                    draining.wait().expect("nobody is inside");
                }
            }
            Step::Show { file } => drop(self.file(file).map(File::show)),
            Step::Notify { file } => drop(self.file(file).map(File::notify)),
            Step::Remove { file } => {
                if let Some(file) = self.take_file(file) {
                    drop(file.remove().expect("nobody is inside"));
                }
            }
            Step::Drop { file } => drop(self.take_file(file)),
            Step::Keep { file } => drop(self.take_file(file).map(File::keep)),
            Step::RemoveDir { dir } => {
                if let Some(at) = usize::from(dir).checked_rem(self.dirs.len()) {
                    self.dirs.swap_remove(at).remove().expect("nobody is inside");
                }
            }
            Step::SeverByName { dir, name } => {
                let _ = self.dir(dir).sever_child(self::name(name)).map(Draining::wait);
            }
            Step::Open { path } => {
                self.opens.extend(self.client.open(self::path(&path), OpenFlags::READ_WRITE).ok());
            }
            Step::OpenById { ino } => {
                let found = self.client.by_id(u64::from(ino));
                let opened = found.and_then(|inode| inode.open(&Caller::OWNER, OpenFlags::READ));
                self.opens.extend(opened.ok());
            }
            Step::Read { open, offset, len } => {
                if let Some(open) = self.open(open) {
                    let mut buf = vec![0; usize::from(len)];
                    let done = open.read_at(&mut buf, u64::from(offset));
                    assert!(matches!(done, Ok(_) | Err(Errno::ENODEV)), "{done:?}");
                }
            }
            Step::Write { open, len } => {
                if let Some(open) = self.open(open) {
                    let done = open.write_at(&vec![b'x'; usize::from(len)], 0);
                    match done {
                        Ok(written) => assert_eq!(written, usize::from(len)),
                        Err(errno) => assert!(
                            [Errno::ENODEV, Errno::E2BIG, Errno::EBADF].contains(&errno),
                            "{errno:?}"
                        ),
                    }
                }
            }
            Step::Poll { open } => {
                if let Some(open) = self.open(open) {
                    let events = open.ready(Events::all());
                    assert_eq!(open.is_severed(), events == Events::SEVERED && is_dead(open));
                }
            }
            Step::Close { open } => {
                if let Some(at) = usize::from(open).checked_rem(self.opens.len()) {
                    drop(self.opens.swap_remove(at));
                }
            }
            Step::List { path, cursor, max } => {
                self.lists.extend(self.client.open_dir(self::path(&path)).ok());
                for list in &self.lists {
                    let entries = list.entries(u64::from(cursor), usize::from(max));
                    let entries = entries.unwrap_or_default();
                    assert!(entries.len() <= usize::from(max));
                    assert!(entries.iter().all(|entry| entry.next > u64::from(cursor)));
                }
            }
            Step::ReadLink { path } => {
                let _ = self.client.lookup_link(self::path(&path)).map(|inode| inode.readlink());
            }
        }
    }

    fn open(&self, at: u8) -> Option<&OpenFile> {
        self.opens.get(usize::from(at).checked_rem(self.opens.len())?)
    }

    /// The tree goes; what was attached to it was released once, and freed at the last close.
    fn end(self) {
        let Self { tree, counts, dirs, files, opens, lists, .. } = self;
        tree.remove().expect("nobody is inside");
        let opened = counts.opened.load(Ordering::Relaxed);
        assert!(opens.iter().all(is_dead), "an open file outlived its tree");
        assert_eq!(counts.released.load(Ordering::Relaxed), opened);
        drop((dirs, files, lists));
        assert_eq!(counts.alive.load(Ordering::Relaxed), 0, "a driver is left");
        drop(opens);
        assert_eq!(counts.freed.load(Ordering::Relaxed), opened);
    }
}

fn is_dead(open: &OpenFile) -> bool {
    open.read_at(&mut [0], 0) == Err(Errno::ENODEV)
}

fn name(at: u8) -> &'static str {
    NAMES[usize::from(at) % NAMES.len()]
}

fn path(parts: &[u8]) -> String {
    parts.iter().fold(String::new(), |path, &part| path + "/" + name(part))
}
