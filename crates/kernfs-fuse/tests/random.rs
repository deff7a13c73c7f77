//! Random requests in random order, against an owner who does as he likes: only errors that a
//! client has to expect, no hang, and nothing left over.

mod support;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use kernfs::{
    Child, Dir, DirOp, DirOps, Draining, Errno as Kernfs, File as Owned, Mode, Name, Tree,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, XattrFlags};
use rustix::io::Errno;
use support::drivers::{Events, Knob};
use support::{Mounted, eventually};

/// A generator that gives the same numbers for the same seed (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

const CLIENTS: u64 = 4;
const OPERATIONS: usize = 25_000;
const CHANGES: usize = 20_000;

const DIRS: [&str; 4] = ["d0", "d1", "d2", "d3"];
const FILES: [&str; 4] = ["knob", "events", "x", "y"];

/// Lets clients take part.
struct Free;

impl DirOps for Free {
    fn mkdir(&self, parent: &Dir, name: &Name, _: &DirOp<'_>) -> Result<(), Kernfs> {
        parent.add_dir(name, Mode::DIR).map(Dir::keep)
    }

    fn rmdir(&self, dir: &Child, _: &DirOp<'_>) -> Result<Draining, Kernfs> {
        Ok(dir.sever())
    }

    fn unlink(&self, node: &Child, _: &DirOp<'_>) -> Result<Draining, Kernfs> {
        Ok(node.sever())
    }

    fn rename(&self, node: &Child, to: &Dir, name: &Name, _: &DirOp<'_>) -> Result<(), Kernfs> {
        node.rename(to, name)
    }
}

/// A client with what it holds open.
struct Client {
    random: Random,
    root: PathBuf,
    open: Vec<File>,
}

/// What a file operation may answer while its file may go at any time.
const EXPECTED: &[Errno] = &[
    Errno::NOENT,
    Errno::NODEV,
    Errno::AGAIN,
    Errno::EXIST,
    Errno::NOTDIR,
    Errno::ISDIR,
    Errno::BADF,
    Errno::INVAL,
    Errno::NODATA,
    Errno::SPIPE,
    // rename(2) of a directory below itself, or over one.
    Errno::NOTEMPTY,
    // A directory that was removed while the kernel was on its way through it.
    Errno::STALE,
];

impl Client {
    fn run(&mut self) {
        let mut done = 0;
        for n in 0..OPERATIONS {
            let what = self.random.below(20);
            match self.step(what) {
                Ok(()) => done += 1,
                Err(error) => {
                    let errno = Errno::from_io_error(&error).unwrap();
                    assert!(EXPECTED.contains(&errno), "operation {what}, number {n}: {error}");
                }
            }
        }
        assert!(done > OPERATIONS / 10, "only {done} did anything");
    }

    fn path(&mut self) -> PathBuf {
        let dir = self.root.join(self.random.pick(&DIRS));
        if self.random.below(4) == 0 { dir } else { dir.join(self.random.pick(&FILES)) }
    }

    fn step(&mut self, what: usize) -> std::io::Result<()> {
        let path = self.path();
        match what {
            0..4 => self.open(&path),
            4 => {
                let at = self.random.below(self.open.len() + 1);
                if at < self.open.len() {
                    self.open.swap_remove(at);
                }
                Ok(())
            }
            5..12 => self.use_open(what),
            12 => fs::read_dir(&path)?.try_for_each(|entry| entry.map(drop)),
            13 => fs::symlink_metadata(&path).map(drop),
            14 => fs::set_permissions(&path, fs::Permissions::from_mode(0o755)),
            15 => fs::create_dir(&path),
            16 => fs::remove_dir(&path),
            17 => fs::remove_file(&path),
            18 => fs::rename(&path, self.path()),
            _ => Ok(rustix::fs::setxattr(&path, "user.x", b"x", XattrFlags::empty())?),
        }
    }

    fn open(&mut self, path: &Path) -> std::io::Result<()> {
        let mut options = OpenOptions::new();
        options.read(true).write(self.random.below(2) == 0);
        options.custom_flags(OFlags::NONBLOCK.bits().cast_signed());
        let file = options.open(path)?;
        if self.open.len() >= 20 {
            self.open.clear();
        }
        self.open.push(file);
        Ok(())
    }

    fn use_open(&mut self, what: usize) -> std::io::Result<()> {
        if self.open.is_empty() {
            return Ok(());
        }
        let at = self.random.below(self.open.len());
        let mut file = &self.open[at];
        let mut buf = [0; 100];
        match what {
            5 => file.read(&mut buf).map(drop),
            6 => file.read_at(&mut buf, self.random.next() % 10).map(drop),
            7 => file.write(b"text").map(drop),
            8 => file.metadata().map(drop),
            9 => file.set_len(3),
            10 => {
                let all = PollFlags::IN | PollFlags::PRI | PollFlags::OUT;
                let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
                poll(&mut [PollFd::new(file, all)], Some(&zero))?;
                Ok(())
            }
            _ => Ok(rustix::fs::fsetxattr(file, "user.y", b"y", XattrFlags::empty())?),
        }
    }
}

/// The owner's part: things that come and go.
struct Owner<'a> {
    tree: &'a Tree,
    random: Random,
    dirs: Vec<Dir>,
    knobs: Vec<Owned<Knob>>,
    events: Vec<Owned<Events>>,
}

impl Owner<'_> {
    fn run(&mut self) {
        for _ in 0..CHANGES {
            self.step();
        }
    }

    fn step(&mut self) {
        let name = *self.random.pick(&FILES);
        match self.random.below(12) {
            0 => {
                let name = *self.random.pick(&DIRS);
                self.dirs.extend(self.tree.root().add_dir(name, Mode::DIR));
            }
            1..4 => {
                let dir = take(&mut self.dirs, &mut self.random);
                if let Some(dir) = dir {
                    self.knobs.extend(dir.add_file(name, Mode::RW, Knob::new("text")));
                    self.events.extend(dir.add_file("events", Mode::RO, Events::default()));
                    self.dirs.push(dir);
                }
            }
            4 => {
                if let Some(knob) = take(&mut self.knobs, &mut self.random) {
                    let knob = knob.remove().expect("not inside an operation");
                    assert_eq!(Ok(0), knob.callers.lock().map(|_| 0).map_err(drop));
                }
            }
            5 => drop(take(&mut self.events, &mut self.random)),
            6 => {
                if self.random.below(4) == 0
                    && let Some(dir) = take(&mut self.dirs, &mut self.random)
                {
                    dir.remove().expect("not inside an operation");
                }
            }
            7 => self.hide_or_show(),
            8 => {
                if let (Some(knob), Some(dir)) = (self.knobs.first(), self.dirs.last()) {
                    // It may be gone, or the name taken.
                    let _ = knob.rename(dir, name);
                }
            }
            9 => self.knobs.iter().for_each(Owned::notify),
            10 => self.events.iter().for_each(|events| Events::push(events, "event")),
            _ => {
                let set = kernfs::SetAttr { mode: Some(Mode::new(0o666)), ..Default::default() };
                self.knobs.iter().for_each(|knob| knob.set_attr(&set));
            }
        }
    }

    fn hide_or_show(&mut self) {
        if let Some(knob) = take(&mut self.knobs, &mut self.random) {
            if knob.is_hidden() {
                knob.show();
            } else {
                knob.hide().wait().expect("not inside an operation");
            }
            self.knobs.push(knob);
        }
    }
}

fn take<T>(from: &mut Vec<T>, random: &mut Random) -> Option<T> {
    let at = random.below(from.len() + 1);
    (at < from.len()).then(|| from.swap_remove(at))
}

/// Reads events as they come, and sleeps in between.
fn sleep(dir: &Path, done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        let file = File::open(dir.join("events"));
        match file.and_then(|mut file| file.read(&mut [0; 100])) {
            Ok(_) => {}
            Err(error) => {
                let errno = Errno::from_io_error(&error).unwrap();
                assert!(EXPECTED.contains(&errno), "a sleeper got {error}");
            }
        }
    }
}

/// Takes away what is left, also what clients have made.
fn clear(tree: &Tree) {
    for name in DIRS.into_iter().chain(FILES) {
        if let Ok(removal) = tree.root().sever_child(name) {
            removal.wait().unwrap();
        }
    }
}

#[test]
fn random_requests_get_answers_that_make_sense_and_leave_nothing() {
    let seed = std::env::var("KERNFS_FUSE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or(20_230_627);
    println!("seed {seed}");
    let tree = Tree::builder().dir_ops(Free).build();
    let Some(mount) = Mounted::new(&tree) else { return };
    let root = mount.path().to_owned();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let sleepers = DIRS
            .map(|dir| (root.join(dir), &done))
            .map(|(dir, done)| scope.spawn(move || sleep(&dir, done)));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|n| {
                let root = root.clone();
                let mut client = Client { random: Random(seed + n), root, open: Vec::new() };
                scope.spawn(move || client.run())
            })
            .collect();
        let random = Random(seed + CLIENTS);
        let mut owner = Owner { tree: &tree, random, dirs: vec![], knobs: vec![], events: vec![] };
        owner.run();
        let clients: Vec<_> = clients.into_iter().map(thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        drop(owner);
        // Whatever they still sleep on goes.
        eventually("the sleepers to end", || {
            clear(&tree);
            sleepers.iter().all(thread::ScopedJoinHandle::is_finished)
        });
        assert!(clients.iter().all(Result::is_ok), "see above");
    });
    let closed = || mount.stats().handles == 0 && tree.usage().open_files == 0;
    eventually("all files to be closed", closed);
    assert_eq!(mount.stats().parked, 0);
    clear(&tree);
    assert_eq!(tree.usage().nodes, 1);
    eventually("the kernel to forget", || {
        fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
        mount.stats().nodes == 0
    });
    assert_eq!(mount.stats().lookups, 0);
    mount.unmount_clean(&tree);
}
