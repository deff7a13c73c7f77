//! Images through a mount, as other programs see them; skipped where nothing can be mounted.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kernfs::{Errno, FileOps, Manners, Mode, OpenOp, Ops, ReadOp, Tree};
use kernfs_fuse::Mount;
use kernfs_replay::{Content, Draft, Image, Recorder, ServeOptions, Served, Unplug};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use tempfile::TempDir;

/// An image at a directory.
struct Mounted {
    // In the order in which to take it apart.
    mount: Mount,
    served: Served,
    _tree: Tree,
    dir: TempDir,
}

impl Mounted {
    /// Mounts; `None`, and a line that says why, where that cannot be done.
    fn new(image: &Arc<Image>) -> Option<Self> {
        let dir = TempDir::new().unwrap();
        let tree = Tree::builder().manners(Manners::Sysfs).dir_ops(Unplug).build();
        let options = ServeOptions::new()
            .owner(rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let served = image.serve(&tree, &options).unwrap();
        match Mount::new(&tree, dir.path()) {
            Ok(mount) => Some(Self { mount, served, _tree: tree, dir }),
            Err(error) => {
                eprintln!("skipped: {error}");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

#[test]
fn a_pulled_plug_reaches_whoever_holds_a_file() {
    let mut draft = Draft::new(Mode::DIR);
    let one = Content::Bytes((*b"1\n").into());
    draft.add_file(b"devices/fan0/rpm", Mode::RO, 4096, one.clone()).unwrap();
    draft.add_file(b"devices/fan0/events", Mode::RO, 4096, Content::Blocks).unwrap();
    draft.add_file(b"devices/fan1/rpm", Mode::RO, 4096, one).unwrap();
    draft.add_link(b"class/fan/fan0", b"../../devices/fan0").unwrap();
    let Some(mounted) = Mounted::new(&Arc::new(draft.finish())) else { return };
    let path = |name: &str| mounted.path().join(name);
    let mut held = File::open(path("class/fan/fan0/rpm")).unwrap();
    let mut events = File::open(path("devices/fan0/events")).unwrap();
    let sleeper = std::thread::spawn(move || events.read(&mut [0; 8]).unwrap_err().raw_os_error());
    fs::remove_dir(path("devices/fan0")).unwrap();
    assert_eq!(sleeper.join().unwrap(), Some(Errno::ENODEV.raw()));
    assert_eq!(held.read(&mut [0; 8]).unwrap_err().raw_os_error(), Some(Errno::ENODEV.raw()));
    assert_eq!(fs::read(path("class/fan/fan0/rpm")).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(fs::read_link(path("class/fan/fan0")).unwrap(), Path::new("../../devices/fan0"));
    assert_eq!(mounted.served.is_severed("devices/fan0/rpm"), Some(true));
    fs::remove_file(path("devices/fan1/rpm")).unwrap();
    assert_eq!(fs::read_dir(path("devices/fan1")).unwrap().count(), 0);
    mounted.mount.unmount().unwrap();
}

#[test]
fn a_mount_inside_is_left_out() {
    let Some(outer) = TempDir::new().ok() else { return };
    let inner = outer.path().join("inner");
    fs::create_dir(&inner).unwrap();
    let mut draft = Draft::new(Mode::DIR);
    draft.add_file(b"value", Mode::RO, 0, Content::Bytes((*b"1\n").into())).unwrap();
    let tree = Tree::new();
    let _served = Arc::new(draft.finish()).serve(&tree, &ServeOptions::new()).unwrap();
    let mount = match Mount::new(&tree, &inner) {
        Ok(mount) => mount,
        Err(error) => return eprintln!("skipped: {error}"),
    };
    let recording = Recorder::new().record_root(outer.path()).unwrap();
    assert_eq!(recording.report.mounts, 1);
    assert_eq!(recording.image.len(), 2);
    let both = Recorder::new().record([outer.path(), &inner]).unwrap();
    assert_eq!((both.report.files, both.report.mounts), (1, 1));
    mount.unmount().unwrap();
}

/// A driver that does not answer until it is let go, whether its caller may be kept waiting or not.
struct Hanging(Mutex<Receiver<()>>);

impl FileOps for Hanging {
    type Open = ();
    const OPS: Ops = Ops::READ;

    fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
        Ok(())
    }

    fn read(&self, (): &mut (), _: &mut ReadOp<'_>) -> Result<(), Errno> {
        // Ends with an error when the other side is dropped.
        let _ = self.0.lock().unwrap().recv();
        Ok(())
    }
}

#[test]
fn files_that_hang_are_given_up_and_named() {
    let dir = TempDir::new().unwrap();
    let tree = Tree::builder().manners(Manners::Sysfs).build();
    let mut lets_go = Vec::new();
    for name in ["a", "c"] {
        let (let_go, hangs) = mpsc::channel();
        lets_go.push(let_go);
        tree.root().add_file(name, Mode::RO, Hanging(Mutex::new(hangs))).unwrap().keep();
    }
    tree.root().add_file("b", Mode::RO, kernfs::show(|op| op.push(b"1\n"))).unwrap().keep();
    let mount = match Mount::new(&tree, dir.path()) {
        Ok(mount) => mount,
        Err(error) => return eprintln!("skipped: {error}"),
    };
    let recorder = Recorder::new().patience(Duration::from_millis(300));
    let recording = recorder.record_root(dir.path()).unwrap();
    let content = |name: &str| recording.image.find(name).unwrap().content().unwrap().clone();
    assert_eq!(content("a"), Content::Blocks);
    assert_eq!(content("c"), Content::Blocks);
    assert!(recording.report.hung.contains(&fs::canonicalize(dir.path()).unwrap().join("a")));
    // On a machine that has stopped for so long, the one in between is among them.
    if recording.report.hung.len() == 2 {
        assert_eq!(content("b").bytes(), b"1\n");
    }
    drop(lets_go);
    mount.unmount().unwrap();
}

/// Records a real directory, serves that, records what is served, and so on once more by way of an
/// archive.
fn assert_survives(image: Image) -> Result<(), TestCaseError> {
    let image = Arc::new(image);
    let Some(mounted) = Mounted::new(&image) else { return Ok(()) };
    let again = Image::record(mounted.path()).unwrap();
    for (one, two) in image.entries().zip(again.entries()) {
        prop_assert_eq!(one.path(), two.path());
        prop_assert_eq!((one.mode(), one.size()), (two.mode(), two.size()), "{:?}", one);
        prop_assert_eq!(one.content(), two.content(), "{:?}", one);
        prop_assert_eq!(one.link_text(), two.link_text(), "{:?}", one);
    }
    prop_assert_eq!(&*image, &again);
    let mut archive = Vec::new();
    again.write(&mut archive, kernfs_replay::Packing::Zstd).unwrap();
    prop_assert_eq!(&*image, &Image::read(&archive[..]).unwrap());
    mounted.mount.unmount().unwrap();
    Ok(())
}

#[test]
fn a_real_sys_is_recorded_again_as_it_was() {
    for dir in ["/sys", "/proc/sys"] {
        let recording = match Recorder::new().record_root(dir) {
            Ok(recording) => recording,
            Err(error) => {
                eprintln!("skipped: {error}");
                continue;
            }
        };
        assert_survives(recording.image).unwrap();
    }
}

/// A node to be added to a random tree.
#[derive(Clone, Debug)]
enum Node {
    Dir(Mode),
    File(Mode, u64, Content),
    Link(Vec<u8>),
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_filter("no part of a name", |byte| !matches!(byte, 0 | b'/'));
    // Few, so that they meet, and any.
    let few = select(vec![b"a".to_vec(), b"b".to_vec(), b"uevent".to_vec(), b"c d%\n".to_vec()]);
    prop_oneof![4 => few, 1 => vec(byte, 1..256)]
        .prop_filter("no name", |name| !matches!(&name[..], b"." | b".."))
}

fn content() -> impl Strategy<Value = Content> {
    let bytes = |bytes: Vec<u8>| Content::Bytes(bytes.into());
    // Those that a recorder takes as they are, and that the kernel takes from a FUSE server.
    let errno = (1..512)
        .prop_filter_map("is no answer", |number| {
            Errno::from_raw(number).filter(|errno| ![Errno::EAGAIN, Errno::EINTR].contains(errno))
        })
        .boxed();
    prop_oneof![
        6 => vec(any::<u8>(), 0..40).prop_map(bytes),
        1 => vec(any::<u8>(), 4090..4100).prop_map(bytes),
        1 => vec(any::<u8>(), 60_000..140_000).prop_map(bytes),
        1 => Just(Content::Blocks),
        1 => errno.clone().prop_map(Content::OpenError),
        1 => errno.prop_map(Content::ReadError),
    ]
}

fn node() -> impl Strategy<Value = Node> {
    let dir_mode = select(vec![0o755, 0o555, 0o700, 0o1777]).prop_map(Mode::new);
    let mode = select(vec![0o444, 0o644, 0o400, 0o600, 0o4755]).prop_map(Mode::new);
    let unreadable = select(vec![0o200, 0o000]).prop_map(Mode::new);
    let size = prop_oneof![Just(0), Just(4096), any::<u32>().prop_map(u64::from)];
    let link = vec(any::<u8>().prop_filter("ends a string", |byte| *byte != 0), 1..300);
    prop_oneof![
        2 => dir_mode.prop_map(Node::Dir),
        4 => (mode, size.clone(), content()).prop_map(|(mode, size, it)| Node::File(mode, size, it)),
        1 => (unreadable, size).prop_map(|(mode, size)| Node::File(mode, size, Content::Unread)),
        2 => link.prop_map(Node::Link),
    ]
}

fn tree() -> impl Strategy<Value = Image> {
    vec((vec(name(), 1..6), node()), 0..40).prop_map(|nodes| {
        let mut draft = Draft::new(Mode::DIR);
        for (path, node) in nodes {
            let path = path.join(&b'/');
            // Those that cannot be are not.
            let _ = match node {
                Node::Dir(mode) => draft.add_dir(&path, mode),
                Node::File(mode, size, content) => draft.add_file(&path, mode, size, content),
                Node::Link(text) => draft.add_link(&path, &text),
            };
        }
        draft.finish()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn trees_of_any_shape_survive(image in tree()) {
        assert_survives(image)?;
    }
}

/// Returns the directory of recorded trees beside the sources, or above them.
fn trees() -> Option<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().map(|above| above.join("shared/trees")).find(|dir| dir.is_dir())
}

#[test]
fn lscpu_prints_the_same_on_a_mount_as_on_an_unpacked_dump() {
    let Some(trees) = trees() else {
        return eprintln!("skipped: there is no directory shared/trees at or above the sources");
    };
    if Command::new("lscpu").arg("--version").output().is_err() {
        return eprintln!("skipped: there is no lscpu");
    }
    let mut compared = 0;
    for entry in fs::read_dir(trees).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap();
        let Some(name) = file.strip_suffix(".tar.gz") else { continue };
        let unpacked = TempDir::new().unwrap();
        let tar = Command::new("tar").arg("xzf").arg(&path).arg("-C").arg(unpacked.path()).status();
        assert!(tar.unwrap().success());
        let image = Image::open(&path).unwrap();
        let Some(mounted) = Mounted::new(&Arc::new(image)) else { return };
        for option in ["--hex", "--extended", "--parse", "--caches", "--json"] {
            let on = |root: &Path| lscpu(&root.join(name), option);
            let (expected, got) = (on(unpacked.path()), on(mounted.path()));
            assert!(!expected.0.is_empty(), "{name}: lscpu {option} prints nothing");
            assert_eq!(got, expected, "{name}: lscpu {option}");
            compared += 1;
        }
        mounted.mount.unmount().unwrap();
    }
    assert!(compared >= 5, "only {compared} outputs were compared");
}

/// Returns what lscpu prints, its errors apart from the name of the directory.
fn lscpu(root: &Path, option: &str) -> (Vec<u8>, String, Option<i32>) {
    let output = Command::new("lscpu").arg(option).arg("--sysroot").arg(root).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).replace(root.to_str().unwrap(), "ROOT");
    (output.stdout, errors, output.status.code())
}
