//! What watchers hear of the owner's changes.

mod support;

use std::collections::HashMap;
use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, Once};
use std::thread;
use std::time::{Duration, Instant};

use kernfs::{Child, DirOps, DirOptions, Errno as Kernfs, Mode, Tag, Tree};
use kernfs_fuse::MountOptions;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use rustix::process::Signal;
use support::client::{self, Client};
use support::drivers::Knob;
use support::sys::{self, Stalled};
use support::{Limit, Mounted, PATIENCE, TestDir, can_mount, errno, eventually};
use tracing::field::Field;
use tracing::span;

#[test]
fn client() {
    client::serve();
}

/// Somebody who watches paths.
struct Watcher {
    fd: OwnedFd,
    /// What is watched, by watch.
    names: HashMap<i32, String>,
}

impl Watcher {
    fn new() -> Self {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap();
        Self { fd, names: HashMap::new() }
    }

    fn watching(paths: &[(&str, &Path)]) -> Self {
        let mut watcher = Self::new();
        paths.iter().for_each(|(name, path)| watcher.watch(name, path));
        watcher
    }

    /// Watches for everything but looks and the ends of descriptors.
    fn watch(&mut self, name: &str, path: &Path) {
        let all = WatchFlags::MODIFY
            | WatchFlags::ATTRIB
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE
            | WatchFlags::MOVE_SELF;
        let watch = inotify::add_watch(&self.fd, path, all | WatchFlags::DONT_FOLLOW).unwrap();
        self.names.insert(watch, name.into());
    }

    /// Returns what has been heard since the last time, and maybe nothing.
    fn heard(&self) -> Vec<String> {
        let mut buffer = [const { std::mem::MaybeUninit::uninit() }; 65536];
        let mut reader = inotify::Reader::new(&self.fd, &mut buffer);
        let mut heard = Vec::new();
        while let Ok(event) = reader.next() {
            let of = self.names.get(&event.wd()).map_or("?", String::as_str);
            let mut text = format!("{of}: {}", flags(event.events()));
            if let Some(name) = event.file_name() {
                text += &format!(" {}", name.to_str().unwrap());
            }
            if event.cookie() != 0 {
                text += " cookie";
            }
            heard.push(text);
        }
        heard
    }

    /// Waits until so much was heard, and returns it.
    #[track_caller]
    fn wait(&self, count: usize) -> Vec<String> {
        let mut heard = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while heard.len() < count {
            heard.extend(self.heard());
            assert!(Instant::now() < deadline, "{count} events, and not only {heard:?}");
            thread::sleep(Duration::from_millis(1));
        }
        heard
    }

    /// Waits for these events, in any order, since some are told at once and some as they may.
    #[track_caller]
    fn expect(&self, events: &[&str]) {
        let mut heard = self.wait(events.len());
        heard.sort();
        let mut events = events.to_vec();
        events.sort();
        assert_eq!(heard, events);
    }
}

fn flags(flags: ReadFlags) -> String {
    let names = [
        (ReadFlags::MODIFY, "MODIFY"),
        (ReadFlags::ATTRIB, "ATTRIB"),
        (ReadFlags::CREATE, "CREATE"),
        (ReadFlags::DELETE, "DELETE"),
        (ReadFlags::DELETE_SELF, "DELETE_SELF"),
        (ReadFlags::MOVED_FROM, "MOVED_FROM"),
        (ReadFlags::MOVED_TO, "MOVED_TO"),
        (ReadFlags::MOVE_SELF, "MOVE_SELF"),
        (ReadFlags::IGNORED, "IGNORED"),
        (ReadFlags::QUEUE_OVERFLOW, "OVERFLOW"),
        (ReadFlags::ISDIR, "DIR"),
    ];
    let set = names.iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, name)| *name);
    set.collect::<Vec<_>>().join("+")
}

/// A tree with `dir`, in which there are `knob` and `sub`.
fn tree() -> (Tree, kernfs::Dir, kernfs::File<Knob>, kernfs::Dir) {
    let tree = Tree::new();
    let dir = tree.root().add_dir("dir", Mode::DIR).unwrap();
    let knob = dir.add_file("knob", Mode::RW, Knob::new("text")).unwrap();
    let sub = dir.add_dir("sub", Mode::DIR).unwrap();
    (tree, dir, knob, sub)
}

#[test]
fn a_notification_is_a_modification_of_the_file_and_in_its_directory() {
    let (tree, _dir, knob, _sub) = tree();
    let Some(mount) = Mounted::new(&tree) else { return };
    let watcher = Watcher::watching(&[("file", &mount.at("dir/knob")), ("dir", &mount.at("dir"))]);
    let before = fs::metadata(mount.at("dir/knob")).unwrap();
    for _ in 0..10 {
        knob.notify();
        watcher.expect(&["file: MODIFY", "dir: MODIFY knob"]);
    }
    // Nothing happens to the file.
    let after = fs::metadata(mount.at("dir/knob")).unwrap();
    assert_eq!(after.modified().unwrap(), before.modified().unwrap());
    assert_eq!(knob.get(), b"text");
    assert!(knob.callers.lock().unwrap().is_empty(), "nobody opens it");
}

#[test]
fn hide_and_show_are_not_told() {
    let (tree, dir, knob, _sub) = tree();
    let other = dir.add_file("other", Mode::RW, Knob::new("text")).unwrap();
    let seen = dir.add_file("seen", Mode::RW, Knob::new("text")).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let watcher = Watcher::watching(&[("file", &mount.at("dir/knob")), ("dir", &mount.at("dir"))]);
    assert!(mount.at("dir/other").exists() && mount.at("dir/seen").exists());
    knob.hide().wait().unwrap();
    other.notify();
    watcher.expect(&["dir: MODIFY other"]);
    knob.show();
    for _ in 0..10 {
        knob.hide().wait().unwrap();
        knob.notify();
        knob.show();
    }
    other.notify();
    watcher.expect(&["dir: MODIFY other"]);
    // Not even when it is removed while nobody sees it.
    knob.hide().wait().unwrap();
    let _ = knob.remove().unwrap();
    other.notify();
    watcher.expect(&["dir: MODIFY other"]);
    // The end of what was shown again is.
    seen.hide().wait().unwrap();
    seen.show();
    let _ = seen.remove().unwrap();
    watcher.expect(&["dir: DELETE seen"]);
}

#[test]
fn what_comes_in_is_told_in_its_directory() {
    let (tree, dir, knob, sub) = tree();
    let Some(mount) = Mounted::new(&tree) else { return };
    let watcher = Watcher::watching(&[("dir", &mount.at("dir"))]);
    // Who has it open, or has listed it to its end, holds nothing up.
    let _held = File::open(mount.at("dir")).unwrap();
    let mut listing = fs::read_dir(mount.at("dir")).unwrap();
    assert_eq!(listing.by_ref().count(), 2);
    dir.add_file("file", Mode::RW, Knob::new("file")).unwrap().keep();
    watcher.expect(&["dir: CREATE file"]);
    dir.add_dir("new", Mode::DIR).unwrap().keep();
    watcher.expect(&["dir: CREATE+DIR new"]);
    dir.add_link("link", &knob).unwrap().keep();
    watcher.expect(&["dir: CREATE link"]);
    // What stood in for them is nowhere to be seen.
    assert_eq!(fs::read(mount.at("dir/file")).unwrap(), b"file");
    assert_eq!(fs::read(mount.at("dir/link")).unwrap(), b"text");
    assert_eq!(fs::read_dir(mount.at("dir/new")).unwrap().count(), 0);
    assert!(support::ino(&mount.at("dir/new")) < 100);
    // Below what nobody has looked at there is nobody who watches.
    sub.add_file("deep", Mode::RW, Knob::new("deep")).unwrap().keep();
    dir.add_file("last", Mode::RW, Knob::new("file")).unwrap().keep();
    watcher.expect(&["dir: CREATE last"]);
    mount.unmount_clean(&tree);
}

#[test]
fn what_goes_is_told_in_its_directory_and_to_who_watches_it() {
    let (tree, dir, knob, sub) = tree();
    let inner = sub.add_file("inner", Mode::RW, Knob::new("text")).unwrap();
    let deep = sub.add_dir("deep", Mode::DIR).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let watcher = Watcher::watching(&[
        ("dir", &mount.at("dir")),
        ("knob", &mount.at("dir/knob")),
        ("sub", &mount.at("dir/sub")),
        ("inner", &mount.at("dir/sub/inner")),
        ("deep", &mount.at("dir/sub/deep")),
    ]);
    let _ = knob.remove().unwrap();
    watcher.expect(&["dir: DELETE knob", "knob: DELETE_SELF", "knob: IGNORED"]);
    inner.keep();
    deep.keep();
    sub.remove().unwrap();
    watcher.expect(&[
        "dir: DELETE+DIR sub",
        "sub: DELETE_SELF",
        "sub: IGNORED",
        "inner: DELETE_SELF",
        "inner: IGNORED",
        "deep: DELETE_SELF",
        "deep: IGNORED",
    ]);
    assert_eq!(errno(fs::metadata(mount.at("dir/knob"))), Errno::NOENT);
    assert_eq!(errno(fs::metadata(mount.at("dir/sub"))), Errno::NOENT);
    dir.remove().unwrap();
    watcher.expect(&["dir: DELETE_SELF", "dir: IGNORED"]);
    mount.unmount_clean(&tree);
}

#[test]
fn what_was_only_listed_is_told_too_and_what_nobody_could_see_is_not() {
    let tree = Tree::new();
    let net = tree.root().add_dir("net", DirOptions::new(Mode::DIR).tagged_children()).unwrap();
    let add = |name: &str, tag| {
        let options = kernfs::FileOptions::new(Mode::RW).tag(Tag(tag));
        net.add_file(name, options, Knob::default()).unwrap()
    };
    let (ours, theirs) = (add("ours", 1), add("theirs", 2));
    let Some(mount) = Mounted::with(&tree, |options| options.tag(Tag(1))) else { return };
    let watcher = Watcher::watching(&[("net", &mount.at("net"))]);
    assert_eq!(fs::read_dir(mount.at("net")).unwrap().count(), 1);
    let _ = theirs.remove().unwrap();
    let _ = ours.remove().unwrap();
    watcher.expect(&["net: DELETE ours"]);
    add("theirs", 2).keep();
    let moving = add("ours", 1);
    watcher.expect(&["net: CREATE ours"]);
    // To another namespace: nobody hears of it.
    moving.rename_in(&net, "away", Tag(2)).unwrap();
    add("more", 1).keep();
    watcher.expect(&["net: CREATE more"]);
    // What nobody has seen before comes in, wherever it comes from.
    let stranger = add("stranger", 2);
    stranger.rename_in(&net, "guest", Tag(1)).unwrap();
    watcher.expect(&["net: CREATE guest"]);
}

#[test]
fn a_rename_is_told_as_one_move() {
    let (tree, dir, knob, sub) = tree();
    let Some(mount) = Mounted::new(&tree) else { return };
    let watcher = Watcher::watching(&[
        ("dir", &mount.at("dir")),
        ("sub", &mount.at("dir/sub")),
        ("knob", &mount.at("dir/knob")),
    ]);
    knob.rename(&dir, "new").unwrap();
    let moved = ["dir: MOVED_FROM knob cookie", "dir: MOVED_TO new cookie", "knob: MOVE_SELF"];
    assert_eq!(watcher.wait(3), moved, "in this order");
    let held = OpenOptions::new().write(true).open(mount.at("dir/new")).unwrap();
    knob.rename(&sub, "below").unwrap();
    // Where somebody could be writing to it, its own lock is let alone.
    watcher.expect(&["dir: MOVED_FROM new cookie", "sub: MOVED_TO below cookie"]);
    drop(held);
    let other = dir.add_dir("other", Mode::DIR).unwrap();
    watcher.expect(&["dir: CREATE+DIR other"]);
    other.rename(&sub, "inside").unwrap();
    watcher.expect(&["dir: MOVED_FROM+DIR other cookie", "sub: MOVED_TO+DIR inside cookie"]);
    assert_eq!(fs::read(mount.at("dir/sub/below")).unwrap(), b"text");
    assert!(mount.at("dir/sub/inside").is_dir());
    for name in ["dir/knob", "dir/new", "dir/other"] {
        assert_eq!(errno(fs::metadata(mount.at(name))), Errno::NOENT);
    }
    // The watch is on the node, wherever it is.
    knob.notify();
    watcher.expect(&["knob: MODIFY", "sub: MODIFY below"]);
    mount.unmount_clean(&tree);
}

#[test]
fn the_cookies_of_a_move_are_the_same() {
    let (tree, dir, knob, _sub) = tree();
    let Some(mount) = Mounted::new(&tree) else { return };
    let watcher = Watcher::watching(&[("dir", &mount.at("dir"))]);
    assert!(mount.at("dir/knob").exists());
    let mut cookies = Vec::new();
    for (n, name) in ["a", "b", "c"].iter().enumerate() {
        knob.rename(&dir, name).unwrap();
        eventually("both halves", || {
            let mut buffer = [const { std::mem::MaybeUninit::uninit() }; 4096];
            let mut reader = inotify::Reader::new(&watcher.fd, &mut buffer);
            while let Ok(event) = reader.next() {
                cookies.push(event.cookie());
            }
            cookies.len() == 2 * n + 2
        });
    }
    assert!(cookies.chunks(2).all(|pair| pair[0] == pair[1] && pair[0] != 0));
    cookies.dedup();
    assert_eq!(cookies.len(), 3);
}

/// An owner who lets clients make, remove and rename directories.
struct Lets;

impl DirOps for Lets {
    fn mkdir(
        &self,
        dir: &kernfs::Dir,
        name: &kernfs::Name,
        op: &kernfs::DirOp<'_>,
    ) -> Result<(), Kernfs> {
        let made = dir.add_dir(name, op.mode())?;
        made.add_file("inside", Mode::RW, Knob::default()).map_err(|error| error.errno())?.keep();
        made.add_dir("deep", Mode::DIR)?.keep();
        made.keep();
        Ok(())
    }

    fn rmdir(&self, child: &Child, _: &kernfs::DirOp<'_>) -> Result<kernfs::Draining, Kernfs> {
        Ok(child.sever())
    }

    fn rename(
        &self,
        child: &Child,
        to: &kernfs::Dir,
        name: &kernfs::Name,
        _: &kernfs::DirOp<'_>,
    ) -> Result<(), Kernfs> {
        child.rename(to, name)
    }
}

#[test]
fn what_a_client_does_is_told_once() {
    let tree = Tree::builder().dir_ops(Lets).build();
    let knob = tree.root().add_file("knob", Mode::RW, Knob::default()).unwrap();
    let (Some(mount), Some(other)) = (Mounted::new(&tree), Mounted::new(&tree)) else { return };
    let watchers = [&mount, &other].map(|mount| Watcher::watching(&[("root", mount.path())]));
    for mount in [&mount, &other] {
        assert!(mount.at("knob").exists());
    }
    let expect = |events: &[&str]| watchers.iter().for_each(|watcher| watcher.expect(events));
    for _ in 0..10 {
        fs::create_dir(mount.at("new")).unwrap();
        expect(&["root: CREATE+DIR new"]);
        fs::rename(mount.at("new"), mount.at("newer")).unwrap();
        expect(&["root: MOVED_FROM+DIR new cookie", "root: MOVED_TO+DIR newer cookie"]);
        fs::remove_dir(mount.at("newer")).unwrap();
        expect(&["root: DELETE+DIR newer"]);
        knob.notify();
        expect(&["root: MODIFY knob"]);
    }
}

#[test]
fn what_goes_with_a_directory_that_a_client_removes_is_told() {
    let tree = Tree::builder().dir_ops(Lets).build();
    let Some(mount) = Mounted::new(&tree) else { return };
    for _ in 0..10 {
        fs::create_dir(mount.at("new")).unwrap();
        let watcher = Watcher::watching(&[
            ("root", mount.path()),
            ("inside", &mount.at("new/inside")),
            ("deep", &mount.at("new/deep")),
        ]);
        fs::remove_dir(mount.at("new")).unwrap();
        watcher.expect(&[
            "root: DELETE+DIR new",
            "inside: DELETE_SELF",
            "inside: IGNORED",
            "deep: DELETE_SELF",
            "deep: IGNORED",
        ]);
    }
    mount.unmount_clean(&tree);
}

#[test]
fn a_burst_is_told_as_little_as_it_takes_and_holds_nobody_up() {
    let (tree, _dir, knob, _sub) = tree();
    let Some(mount) = Mounted::new(&tree) else { return };
    let watcher = Watcher::watching(&[("file", &mount.at("dir/knob"))]);
    let begun = Instant::now();
    for n in 0..1000 {
        knob.set(&n.to_string());
        knob.notify();
    }
    assert!(begun.elapsed() < PATIENCE);
    // The kernel makes one of the same that were not read, too.
    let heard = watcher.wait(1);
    assert!(heard.len() < 1000 && heard.iter().all(|text| text == "file: MODIFY"));
    assert_eq!(fs::read(mount.at("dir/knob")).unwrap(), b"999");
    eventually("quiet", || {
        thread::sleep(Duration::from_millis(20));
        watcher.heard().is_empty()
    });
    knob.notify();
    watcher.expect(&["file: MODIFY"]);
}

#[test]
fn a_name_that_comes_back_is_never_lost_and_never_told_as_deleted_at_last() {
    let (tree, dir, mut knob, _sub) = tree();
    let Some(mount) = Mounted::new(&tree) else { return };
    let path = mount.at("dir/knob");
    let watcher = Watcher::watching(&[("dir", &mount.at("dir"))]);
    for round in 0..300u32 {
        let old = File::open(&path).unwrap();
        let _ = knob.remove().unwrap();
        knob = dir.add_file("knob", Mode::RW, Knob::new(&round.to_string())).unwrap();
        if round % 3 == 0 {
            thread::yield_now();
        }
        // There from now on, whatever the herald is doing.
        let mut seen = None;
        for _ in 0..5 {
            let file = File::open(&path).unwrap();
            assert_eq!(fs::read(&path).unwrap(), round.to_string().as_bytes());
            let (ino, links) = rustix::fs::fstat(&file).map(|s| (s.st_ino, s.st_nlink)).unwrap();
            assert_eq!(links, 1);
            assert_eq!(*seen.get_or_insert(ino), ino);
            let place = fs::read_link(support::through(file.as_fd())).unwrap();
            assert_eq!(place, path);
        }
        assert_eq!(errno(std::os::unix::fs::FileExt::read_at(&old, &mut [0; 1], 0)), Errno::NODEV);
    }
    let mark = dir.add_file("mark", Mode::RW, Knob::default()).unwrap();
    let mut heard = Vec::new();
    eventually("the mark", || {
        heard.extend(watcher.heard());
        heard.iter().any(|text| text == "dir: CREATE mark")
    });
    // Some may be missing, where somebody was faster; what is told is told in order.
    let last = heard.iter().rfind(|text| text.ends_with(" knob"));
    let (deleted, created) = ["dir: DELETE knob", "dir: CREATE knob"]
        .map(|event| heard.iter().filter(|text| *text == event).count())
        .into();
    assert!(deleted <= 300 && created <= 300, "{deleted} {created}");
    if last.is_some_and(|last| last.starts_with("dir: DELETE")) {
        // Only because a client had found the new one before it was told.
        assert!(created < 300);
    }
    drop(mark);
    drop(knob);
}

#[test]
fn a_watch_of_a_dead_file_that_is_in_use_ends() {
    let (tree, _dir, knob, _sub) = tree();
    let Some(mount) = Mounted::new(&tree) else { return };
    let path = mount.at("dir/knob");
    let watcher = Watcher::watching(&[("knob", &path)]);
    let writer = OpenOptions::new().write(true).open(&path).unwrap();
    let _ = knob.remove().unwrap();
    watcher.expect(&["knob: DELETE_SELF", "knob: IGNORED"]);
    assert_eq!(errno(std::os::unix::fs::FileExt::write_at(&writer, b"x", 0)), Errno::NODEV);
    drop(writer);
    mount.unmount_clean(&tree);
}

#[test]
fn nothing_is_told_where_it_was_not_asked_for() {
    let (tree, dir, knob, _sub) = tree();
    let Some(mount) = Mounted::with(&tree, MountOptions::without_inotify) else { return };
    let watcher = Watcher::watching(&[("file", &mount.at("dir/knob")), ("dir", &mount.at("dir"))]);
    knob.notify();
    dir.add_dir("new", Mode::DIR).unwrap().keep();
    knob.rename(&dir, "newer").unwrap();
    let _ = knob.remove().unwrap();
    // What the client does is told as ever.
    fs::set_permissions(mount.at("dir/new"), std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .unwrap();
    let heard = watcher.wait(1);
    assert_eq!(heard.last().unwrap(), "dir: ATTRIB+DIR new");
    assert!(heard.iter().all(|text| text != "dir: DELETE newer" && !text.contains("MODIFY")));
}

/// Returns how often something was said of a mount.
fn complaints(path: &Path) -> usize {
    let path = path.display().to_string();
    SAID.lock()
        .unwrap()
        .iter()
        .filter(|text| text.contains("inotify") && text.contains(&path))
        .count()
}

/// What the crate says, as `tracing` has it.
static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Keeps what is said.
struct Ear;

impl tracing::Subscriber for Ear {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = String::new();
        let mut append = |field: &Field, value: &dyn Debug| text += &format!("{field}={value:?} ");
        event.record(&mut append);
        SAID.lock().unwrap().push(text);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

fn listen() {
    static LISTENS: Once = Once::new();
    LISTENS.call_once(|| tracing::subscriber::set_global_default(Ear).unwrap());
}

#[test]
fn where_nothing_can_be_told_that_is_said_once_and_everything_else_works() {
    listen();
    let (tree, dir, knob, _sub) = tree();
    let Some(mount) = Mounted::with(&tree, MountOptions::read_only) else { return };
    let path = mount.path().to_owned();
    let watcher = Watcher::watching(&[("dir", &mount.at("dir"))]);
    assert!(mount.at("dir/knob").exists());
    for _ in 0..20 {
        knob.notify();
        let new = dir.add_file("new", Mode::RO, Knob::new("new")).unwrap();
        assert_eq!(fs::read(mount.at("dir/new")).unwrap(), b"new");
        let _ = new.remove().unwrap();
        assert_eq!(errno(fs::metadata(mount.at("dir/new"))), Errno::NOENT);
        eventually("a word", || complaints(&path) > 0);
    }
    assert_eq!(watcher.heard(), [""; 0]);
    mount.unmount_clean(&tree);
    assert_eq!(complaints(&path), 1);
}

#[test]
fn a_mount_that_is_covered_is_told_of_when_it_is_in_reach_again() {
    use rustix::mount::{MountFlags, UnmountFlags};
    listen();
    let (tree, _dir, knob, _sub) = tree();
    let Some(mount) = Mounted::new(&tree) else { return };
    let path = mount.path().to_owned();
    let watcher = Watcher::watching(&[("file", &mount.at("dir/knob"))]);
    rustix::mount::mount("cover", &path, "tmpfs", MountFlags::empty(), None).unwrap();
    fs::create_dir(path.join("dir")).unwrap();
    fs::write(path.join("dir/knob"), "victim").unwrap();
    let before = fs::metadata(path.join("dir/knob")).unwrap().modified().unwrap();
    knob.notify();
    eventually("a word", || complaints(&path) > 0);
    let after = fs::metadata(path.join("dir/knob")).unwrap().modified().unwrap();
    rustix::mount::unmount(&path, UnmountFlags::empty()).unwrap();
    assert_eq!(after, before);
    knob.notify();
    watcher.expect(&["file: MODIFY"]);
    assert_eq!(complaints(&path), 1);
}

#[test]
fn what_others_have_mounted_in_the_mount_is_left_alone() {
    let (tree, dir, knob, _sub) = tree();
    let options = |options: MountOptions| options.uncached_names();
    let Some(mount) = Mounted::with(&tree, options) else { return };
    let path = mount.at("dir/sub");
    use rustix::mount::{MountFlags, UnmountFlags};
    rustix::mount::mount("inner", &path, "tmpfs", MountFlags::empty(), None).unwrap();
    fs::write(path.join("kept"), "kept").unwrap();
    let place = TestDir::new();
    let victim = place.path().join("victim");
    fs::write(&victim, "victim").unwrap();
    let before = fs::metadata(&victim).unwrap();
    rustix::mount::mount_bind(&victim, mount.at("dir/knob")).unwrap();
    let watcher = Watcher::watching(&[("dir", &mount.at("dir")), ("inner", &path)]);
    let sub = dir.add_dir("mark", Mode::DIR).unwrap();
    for _ in 0..10 {
        knob.notify();
    }
    // What is below a mount point cannot be reached, and its covers are not touched.
    eventually("the mark", || watcher.heard().contains(&"dir: CREATE+DIR mark".into()));
    let mark = dir.add_dir("mark2", Mode::DIR).unwrap();
    eventually("the mark", || watcher.heard().contains(&"dir: CREATE+DIR mark2".into()));
    let after = fs::metadata(&victim).unwrap();
    let kept = fs::read_to_string(path.join("kept"));
    rustix::mount::unmount(mount.at("dir/knob"), UnmountFlags::empty()).unwrap();
    rustix::mount::unmount(&path, UnmountFlags::empty()).unwrap();
    fs::remove_file(&victim).unwrap();
    assert_eq!(after.modified().unwrap(), before.modified().unwrap());
    assert_eq!(kept.unwrap(), "kept");
    drop((sub, mark));
}

/// Makes memory that stalls; `None`, with the reason printed, where that is not possible.
fn stalled() -> Option<Arc<Stalled>> {
    Stalled::new().map(Arc::new).map_err(|error| println!("skipped: no userfaultfd: {error}")).ok()
}

#[test]
fn a_lister_that_stalls_in_its_memory_holds_up_the_news_of_his_directory_and_nothing_else() {
    let (tree, dir, knob, sub) = tree();
    let _other = tree.root().add_file("other", Mode::RW, Knob::new("other")).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let Some(memory) = stalled() else { return };
    let watcher = Watcher::watching(&[
        ("root", mount.path()),
        ("dir", &mount.at("dir")),
        ("knob", &mount.at("dir/knob")),
        ("sub", &mount.at("dir/sub")),
    ]);
    let listing = File::open(mount.at("dir")).unwrap();
    let lister = thread::spawn({
        let memory = Arc::clone(&memory);
        move || sys::getdents(&listing, &memory)
    });
    memory.wait();
    let _ = knob.remove().unwrap();
    dir.add_file("new", Mode::RW, Knob::new("new")).unwrap().keep();
    sub.rename(&dir, "newer").unwrap();
    let root = tree.root().add_file("news", Mode::RW, Knob::new("news")).unwrap();
    // Of other directories there is news, and of that one what needs no lock of it.
    watcher.expect(&["knob: DELETE_SELF", "knob: IGNORED", "root: CREATE news"]);
    // And it can be used as if nothing were the matter.
    for _ in 0..10 {
        assert_eq!(fs::read(mount.at("dir/new")).unwrap(), b"new");
        assert_eq!(errno(fs::metadata(mount.at("dir/knob"))), Errno::NOENT);
        assert_eq!(errno(fs::metadata(mount.at("dir/sub"))), Errno::NOENT);
        assert_eq!(fs::read_dir(mount.at("dir/newer")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(mount.at("dir")).unwrap().count(), 2);
        assert_eq!(fs::read(mount.at("other")).unwrap(), b"other");
    }
    memory.fill();
    assert!(lister.join().unwrap().unwrap() > 0);
    // Where clients have found the new names there is no event.
    assert_eq!(watcher.wait(1)[0], "dir: DELETE knob");
    assert_eq!(fs::read(mount.at("news")).unwrap(), b"news");
    root.notify();
    eventually("news", || watcher.heard().contains(&"root: MODIFY news".into()));
}

#[test]
fn one_who_never_ends_listing_keeps_no_other_directory_from_being_told() {
    let (tree, dir, knob, _sub) = tree();
    let Some(mount) = Mounted::new(&tree) else { return };
    let watcher = Watcher::watching(&[("root", mount.path()), ("knob", &mount.at("dir/knob"))]);
    let mut listing = fs::read_dir(mount.at("dir")).unwrap();
    assert!(listing.next().is_some());
    // More than wait to be told.
    for n in 0..10_000 {
        dir.add_file(format!("new{n}"), Mode::RW, Knob::default()).unwrap().keep();
    }
    tree.root().add_dir("last", Mode::DIR).unwrap().keep();
    watcher.expect(&["root: CREATE+DIR last"]);
    knob.notify();
    watcher.expect(&["knob: MODIFY"]);
    drop(listing);
    mount.unmount_clean(&tree);
}

#[test]
fn a_writer_that_stalls_in_its_memory_does_not_keep_a_removal_from_being_told() {
    let (tree, dir, knob, _sub) = tree();
    let Some(mount) = Mounted::new(&tree) else { return };
    let Some(memory) = stalled() else { return };
    let watcher = Watcher::watching(&[("dir", &mount.at("dir")), ("knob", &mount.at("dir/knob"))]);
    let file = OpenOptions::new().write(true).open(mount.at("dir/knob")).unwrap();
    let writer = thread::spawn({
        let memory = Arc::clone(&memory);
        move || sys::write_from(&file, &memory)
    });
    memory.wait();
    let _ = knob.remove().unwrap();
    watcher.expect(&["dir: DELETE knob", "knob: DELETE_SELF", "knob: IGNORED"]);
    dir.add_file("new", Mode::RW, Knob::new("new")).unwrap().keep();
    watcher.expect(&["dir: CREATE new"]);
    memory.fill();
    assert_eq!(errno(writer.join().unwrap()), Errno::NODEV);
}

#[test]
fn a_herald_that_is_held_up_is_in_nobodys_way() {
    let (tree, dir, knob, _sub) = tree();
    let Some(mut mount) = Mounted::new(&tree) else { return };
    let Some(memory) = stalled() else { return };
    let file = OpenOptions::new().write(true).open(mount.at("dir/knob")).unwrap();
    let writer = thread::spawn({
        let memory = Arc::clone(&memory);
        move || sys::write_from(&file, &memory)
    });
    memory.wait();
    // Touching a file takes its lock, which the writer has.
    knob.notify();
    for n in 0..10_000 {
        let new = dir.add_file("new", Mode::RW, Knob::new(&n.to_string())).unwrap();
        if n % 100 == 0 {
            assert_eq!(fs::read(mount.at("dir/new")).unwrap(), n.to_string().as_bytes());
        }
        let _ = new.remove().unwrap();
        knob.notify();
    }
    // An end of the mount is an end for both.
    mount.take().unmount().unwrap();
    memory.fill();
    let _ = writer.join().unwrap();
    eventually("open files to go", || tree.usage().open_files == 0);
}

#[test]
fn clients_of_a_daemon_that_is_killed_while_its_herald_is_held_up_are_let_go() {
    if !can_mount() {
        return;
    }
    let Some(memory) = stalled() else { return };
    let _limit = Limit::new();
    let dir = TestDir::new();
    let at = |name: &str| dir.path().join(name);
    let mut daemon = Client::start();
    daemon.call(format!("mount ours {}", dir.path().display())).unwrap();
    let file = OpenOptions::new().write(true).open(at("knob")).unwrap();
    let other = File::open(at("knob")).unwrap();
    let writer = thread::spawn({
        let memory = Arc::clone(&memory);
        move || sys::write_from(&file, &memory)
    });
    memory.wait();
    daemon.call("notify knob").unwrap();
    eventually("the herald to be held up", || is_held_up(daemon.pid()));
    daemon.signal(Signal::KILL);
    let mut fds = [PollFd::from_borrowed_fd(other.as_fd(), PollFlags::empty())];
    rustix::event::poll(&mut fds, None).unwrap();
    // Though the writer still has the lock that the herald wants.
    let gave = errno(std::os::unix::fs::FileExt::read_at(&other, &mut [0; 9], 0));
    let root = errno(fs::metadata(dir.path()));
    rustix::mount::unmount(dir.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    memory.fill();
    assert!(writer.join().unwrap().is_err());
    assert_eq!((gave, root), (Errno::NOTCONN, Errno::NOTCONN));
    daemon.wait();
}

/// Tells whether the herald of a process waits for a lock.
fn is_held_up(pid: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks.filter_map(Result::ok).any(|task| {
        let read = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        read("comm") == "kernfs-herald\n" && read("stat").contains(") D ")
    })
}
