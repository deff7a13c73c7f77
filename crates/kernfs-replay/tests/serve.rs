//! An image in a tree, as its clients see it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::Arc;
use std::thread;

use kernfs::{Caller, Client, Errno, Events, Manners, Mode, OpenFlags, Tree};
use kernfs_replay::{Content, Draft, Image, ServeOptions, Served, Unplug};
use tempfile::TempDir;

/// A directory as sysfs might have it, with a device and a class.
fn real_tree() -> TempDir {
    let dir = TempDir::new().unwrap();
    let put = |path: &str, text: &[u8], mode: u32| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    put("devices/fan0/uevent", b"DRIVER=fan\n", 0o644);
    put("devices/fan0/rpm", b"1200\n", 0o644);
    put("devices/fan0/serial", b"42\n", 0o444);
    put("devices/fan0/reset", b"", 0o200);
    put("devices/fan0/table", &[7; 10_000], 0o444);
    put("devices/plain/value", b"1\n", 0o644);
    fs::create_dir_all(dir.path().join("class/fan")).unwrap();
    let link = |text: &str, path: &str| symlink(text, dir.path().join(path)).unwrap();
    link("../../devices/fan0", "class/fan/fan0");
    link("../../devices/plain", "class/fan/plain");
    link(".", "devices/plain/self");
    link("/etc/passwd", "devices/plain/out");
    link("../../../../..", "devices/plain/up");
    dir
}

struct Setup {
    tree: Tree,
    served: Served,
}

impl Setup {
    fn new(image: Image, options: &ServeOptions) -> Self {
        let tree = Tree::builder().manners(Manners::Sysfs).dir_ops(Unplug).build();
        let served = Arc::new(image).serve(&tree, options).unwrap();
        Self { tree, served }
    }

    fn client(&self) -> Client {
        self.tree.client(Caller::OWNER)
    }

    fn read(&self, path: &str) -> Result<Vec<u8>, Errno> {
        self.client().open(path, OpenFlags::READ)?.read_to_vec()
    }

    fn write(&self, path: &str, data: &[u8]) -> Result<usize, Errno> {
        self.client().open(path, OpenFlags::WRITE)?.write_at(data, 0)
    }
}

fn recorded() -> Image {
    Image::record(real_tree().path()).unwrap()
}

#[test]
fn what_was_recorded_is_read() {
    let setup = Setup::new(recorded(), &ServeOptions::new());
    assert_eq!(setup.read("/devices/fan0/rpm").unwrap(), b"1200\n");
    assert_eq!(setup.read("/devices/fan0/table").unwrap(), [7; 10_000]);
    let rpm = setup.client().lookup("/devices/fan0/rpm").unwrap().attr();
    assert_eq!((rpm.mode.bits(), rpm.size), (0o644, 5));
    assert_eq!(setup.read("/devices/fan0/reset"), Err(Errno::EACCES));
}

#[test]
fn links_lead_where_they_led() {
    let setup = Setup::new(recorded(), &ServeOptions::new());
    assert_eq!(setup.read("/class/fan/fan0/rpm").unwrap(), b"1200\n");
    assert_eq!(setup.read("/devices/plain/self/self/value").unwrap(), b"1\n");
    let text = |path: &str| setup.client().lookup_link(path).unwrap().readlink().unwrap();
    assert_eq!(text("/class/fan/fan0"), b"../../devices/fan0");
    assert_eq!(text("/devices/plain/self"), b".");
    // Ours, not the machine's.
    assert_eq!(setup.read("/devices/plain/out"), Err(Errno::ENOENT));
    assert_eq!(text("/devices/plain/out"), b"/etc/passwd");
}

#[test]
fn a_severed_device_takes_all_along_and_leaves_links_dangling() {
    let setup = Setup::new(recorded(), &ServeOptions::new());
    let held = setup.client().open("/devices/fan0/rpm", OpenFlags::READ).unwrap();
    assert_eq!(setup.served.is_severed("devices/fan0/rpm"), Some(false));
    setup.served.sever("devices/fan0").unwrap().wait().unwrap();
    assert_eq!(held.read_to_vec(), Err(Errno::ENODEV));
    assert_eq!(setup.served.is_severed("devices/fan0/rpm"), Some(true));
    assert_eq!(setup.served.is_severed("devices/plain/value"), Some(false));
    assert_eq!(setup.read("/class/fan/fan0/rpm"), Err(Errno::ENOENT));
    let link = setup.client().lookup_link("/class/fan/fan0").unwrap();
    assert_eq!(link.readlink().unwrap(), b"../../devices/fan0");
    assert!(setup.served.sever("devices/fan0").is_none());
    assert!(setup.served.sever("devices/none").is_none());
}

#[test]
fn what_is_hidden_comes_back_and_its_descriptors_do_not() {
    let setup = Setup::new(recorded(), &ServeOptions::new());
    let held = setup.client().open("/devices/fan0/rpm", OpenFlags::READ).unwrap();
    let hidden = setup.served.hide("devices/fan0");
    assert_eq!(hidden.len(), 5);
    hidden.into_iter().for_each(|draining| draining.wait().unwrap());
    assert_eq!(setup.read("/devices/fan0/rpm"), Err(Errno::ENOENT));
    assert_eq!(setup.read("/devices/plain/value").unwrap(), b"1\n");
    setup.served.show("devices/fan0");
    assert_eq!(setup.read("/devices/fan0/rpm").unwrap(), b"1200\n");
    assert_eq!(held.read_to_vec(), Err(Errno::ENODEV));
}

#[test]
fn clients_pull_the_plug() {
    let setup = Setup::new(recorded(), &ServeOptions::new());
    setup.client().unlink("/devices/plain/value").unwrap().wait().unwrap();
    setup.client().rmdir("/devices/fan0").unwrap().wait().unwrap();
    assert_eq!(setup.served.is_severed("devices/plain/value"), Some(true));
    assert_eq!(setup.served.is_severed("devices/fan0/rpm"), Some(true));
    assert_eq!(setup.read("/devices/fan0/rpm"), Err(Errno::ENOENT));
}

#[test]
fn writes_are_refused_unless_asked_for() {
    let setup = Setup::new(recorded(), &ServeOptions::new());
    assert_eq!(setup.write("/devices/fan0/rpm", b"1\n"), Err(Errno::EROFS));
    assert_eq!(setup.write("/devices/fan0/serial", b"1\n"), Err(Errno::EACCES));
}

#[test]
fn writes_are_shown_afterwards() {
    let setup = Setup::new(recorded(), &ServeOptions::new().writable());
    assert_eq!(setup.write("/devices/fan0/rpm", b"900"), Ok(3));
    assert_eq!(setup.read("/devices/fan0/rpm").unwrap(), b"900\n");
    assert_eq!(setup.write("/devices/fan0/reset", b"1"), Ok(1));
    assert_eq!(setup.write("/devices/fan0/serial", b"1\n"), Err(Errno::EACCES));
    // As `sysfs_kf_write`: a page at most.
    assert_eq!(setup.write("/devices/fan0/rpm", &[b'x'; 5000]), Ok(4096));
    assert_eq!(setup.read("/devices/fan0/rpm").unwrap().len(), 4095);
    assert_eq!(
        setup.served.image().find("devices/fan0/rpm").unwrap().content().unwrap().bytes(),
        b"1200\n"
    );
}

/// A device of which all that can go wrong did.
fn troubled() -> Image {
    let mut draft = Draft::new(Mode::DIR);
    let mut put = |name: &str, content| {
        draft.add_file(name.as_bytes(), Mode::RW, 4096, content).unwrap();
    };
    put("open", Content::OpenError(Errno::EIO));
    put("read", Content::ReadError(Errno::ENODATA));
    put("events", Content::Blocks);
    put("unread", Content::Unread);
    draft.finish()
}

#[test]
fn recorded_errors_are_answered() {
    let setup = Setup::new(troubled(), &ServeOptions::new().writable());
    let open = |path| setup.client().open(path, OpenFlags::READ).map(drop);
    assert_eq!(open("/open"), Err(Errno::EIO));
    assert_eq!(open("/unread"), Err(Errno::EACCES));
    assert_eq!(open("/read"), Ok(()));
    assert_eq!(setup.read("/read"), Err(Errno::ENODATA));
    assert_eq!(setup.client().lookup("/read").unwrap().attr().size, 4096);
    // What could not be read may be written all the same.
    assert_eq!(setup.write("/open", b"1"), Ok(1));
    assert_eq!(setup.write("/read", b"1"), Ok(1));
    assert_eq!(setup.read("/read").unwrap(), b"1");
}

#[test]
fn what_blocked_blocks_until_it_is_severed() {
    let setup = Setup::new(troubled(), &ServeOptions::new());
    let flags = OpenFlags::READ | OpenFlags::NONBLOCK;
    let nonblocking = setup.client().open("/events", flags).unwrap();
    assert_eq!(nonblocking.read_to_vec(), Err(Errno::EAGAIN));
    assert_eq!(nonblocking.ready(Events::IN), Events::empty());
    let blocking = setup.client().open("/events", OpenFlags::READ).unwrap();
    thread::scope(|scope| {
        let reader = scope.spawn(|| blocking.read_to_vec());
        let poller = scope.spawn(|| nonblocking.wait(Events::IN));
        setup.served.sever("events").unwrap().wait().unwrap();
        assert_eq!(reader.join().unwrap(), Err(Errno::ENODEV));
        assert!(poller.join().unwrap().contains(Events::ERR));
    });
}

#[test]
fn devices_are_found_by_uevent_subsystem_and_catalogue() {
    let image = recorded();
    let devices: Vec<_> =
        image.devices().iter().map(|it| String::from_utf8(it.path()).unwrap()).collect();
    assert_eq!(devices, ["devices/fan0", "devices/plain"]);
}

#[test]
fn a_part_can_be_served() {
    let image = recorded().subdir("devices/fan0").unwrap();
    assert!(recorded().subdir("devices/fan0/rpm").is_none());
    let setup = Setup::new(image, &ServeOptions::new());
    assert_eq!(setup.read("/rpm").unwrap(), b"1200\n");
    assert_eq!(setup.read("/devices/fan0/rpm"), Err(Errno::ENOENT));
}

#[test]
fn an_image_can_be_a_directory_of_a_tree() {
    let tree = Tree::builder().manners(Manners::Sysfs).build();
    let image = Arc::new(recorded());
    let served = image.serve_in(&tree, tree.root(), "sys", &ServeOptions::new()).unwrap();
    let taken = image.serve_in(&tree, tree.root(), "sys", &ServeOptions::new());
    assert_eq!(taken.unwrap_err(), Errno::EEXIST);
    let client = tree.client(Caller::OWNER);
    let held = client.open("/sys/class/fan/fan0/rpm", OpenFlags::READ).unwrap();
    assert_eq!(held.read_to_vec().unwrap(), b"1200\n");
    drop(served);
    assert_eq!(held.read_to_vec(), Err(Errno::ENODEV));
    assert_eq!(tree.usage().nodes, 1);
}

const NAMES: [&str; 5] = ["a.tar", "a.tar.gz", "a.tgz", "a.tar.zst", "a.tzst"];

#[test]
fn archives_are_read_as_they_were_written() {
    let dir = TempDir::new().unwrap();
    for (image, name) in [recorded(), troubled()]
        .iter()
        .flat_map(|image| NAMES.iter().map(move |name| (image, name)))
    {
        let path = dir.path().join(name);
        image.save(&path).unwrap();
        assert_eq!(Image::open(&path).unwrap(), *image, "{name}");
    }
    let error = recorded().save(dir.path().join("a.zip")).unwrap_err().to_string();
    assert!(error.contains("a.zip' what to write; expected a name in .tar.zst"), "{error}");
}
