//! File handles (name_to_handle_at(2)): numbers for nodes that outlive what the kernel remembers.

mod support;

use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;

use kernfs::{DirOptions, FileOptions, Mode, Tag, Tree};
use kernfs_fuse::MountOptions;
use rustix::fs::AtFlags;
use rustix::io::Errno;
use support::drivers::Knob;
use support::sys::Handle;
use support::{Mounted, drop_caches, errno, eventually, forget_all, ino};

/// A mount with `dir/sub/knob`, and its root.
fn mounted(tree: &Tree) -> Option<(Mounted, File)> {
    let dir = tree.root().add_dir("dir", Mode::DIR).unwrap();
    let sub = dir.add_dir("sub", Mode::DIR).unwrap();
    sub.add_file("knob", Mode::RW, Knob::new("text")).unwrap().keep();
    sub.keep();
    dir.keep();
    let mount = Mounted::new(tree)?;
    let root = File::open(mount.path()).unwrap();
    Some((mount, root))
}

fn open(handle: &Handle, root: &File) -> std::io::Result<File> {
    handle.open(root, libc::O_RDONLY).map(File::from)
}

fn read(handle: &Handle, root: &File) -> String {
    let mut text = String::new();
    open(handle, root).unwrap().read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_handle_leads_to_its_node_as_long_as_that_is_there() {
    let tree = Tree::new();
    let Some((mount, root)) = mounted(&tree) else { return };
    let paths = ["", "dir", "dir/sub", "dir/sub/knob"].map(|name| mount.at(name));
    let handles = paths.each_ref().map(|path| Handle::of(path).unwrap());
    for _ in 0..2 {
        for (handle, path) in handles.iter().zip(&paths) {
            let found = open(handle, &root).unwrap();
            let stat = rustix::fs::fstat(&found).unwrap();
            assert_eq!(stat.st_ino, ino(path));
            assert_eq!(Handle::of(path).unwrap(), *handle, "the same each time");
        }
        assert_eq!(read(&handles[3], &root), "text");
        // Also of what the kernel has forgotten.
        forget_all(&mount);
    }
    assert_eq!(read(&handles[3], &root), "text");
    // A directory is found with its place in the tree.
    forget_all(&mount);
    let sub = open(&handles[2], &root).unwrap();
    let place = fs::read_link(support::through(std::os::fd::AsFd::as_fd(&sub))).unwrap();
    assert_eq!(place, paths[2]);
    drop((sub, root));
    mount.unmount_clean(&tree);
}

#[test]
fn a_handle_follows_a_rename() {
    let tree = Tree::new();
    let Some((mount, root)) = mounted(&tree) else { return };
    let new = tree.root().add_file("old", Mode::RW, Knob::new("moved")).unwrap();
    let handle = Handle::of(&mount.at("old")).unwrap();
    new.rename(tree.root(), "new").unwrap();
    forget_all(&mount);
    assert_eq!(read(&handle, &root), "moved");
    assert_eq!(Handle::of(&mount.at("new")).unwrap(), handle);
}

#[test]
fn a_handle_of_a_removed_node_is_stale_for_ever() {
    let tree = Tree::new();
    let Some((mount, root)) = mounted(&tree) else { return };
    let knob = tree.root().add_file("knob", Mode::RW, Knob::new("text")).unwrap();
    let dir = tree.root().add_dir("gone", Mode::DIR).unwrap();
    let handles = ["knob", "gone"].map(|name| Handle::of(&mount.at(name)).unwrap());
    let _ = knob.remove().unwrap();
    dir.remove().unwrap();
    let is_stale = |handle| errno(open(handle, &root)) == Errno::STALE;
    // The kernel is asked to forget what nobody uses, and does not keep us waiting for it.
    eventually("the handles to be stale", || {
        drop_caches();
        handles.iter().all(is_stale)
    });
    let _knob = tree.root().add_file("knob", Mode::RW, Knob::new("again")).unwrap();
    let again = Handle::of(&mount.at("knob")).unwrap();
    assert!(is_stale(&handles[0]), "another node, whatever its name");
    assert_eq!(read(&again, &root), "again");
}

#[test]
fn a_handle_of_a_removed_file_that_is_open_opens_nothing() {
    let tree = Tree::new();
    let Some((mount, root)) = mounted(&tree) else { return };
    let knob = tree.root().add_file("knob", Mode::RW, Knob::new("text")).unwrap();
    let handle = Handle::of(&mount.at("knob")).unwrap();
    let held = File::open(mount.at("knob")).unwrap();
    let _ = knob.remove().unwrap();
    // A difference to the kernel's own, which says ESTALE: as long as somebody has the file open,
    // FUSE finds it without asking, and opening it is then as through the descriptor.
    assert_eq!(errno(open(&handle, &root)), Errno::NODEV);
    let found = handle.open(&root, libc::O_PATH).unwrap();
    assert_eq!(rustix::fs::statat(&found, "", AtFlags::EMPTY_PATH).unwrap().st_nlink, 0);
    drop((held, found));
    eventually("the handle to be stale", || {
        drop_caches();
        errno(open(&handle, &root)) == Errno::STALE
    });
}

#[test]
fn a_handle_ends_when_its_file_is_hidden() {
    let tree = Tree::new();
    let Some((mount, root)) = mounted(&tree) else { return };
    let knob = tree.root().add_file("knob", Mode::RW, Knob::new("text")).unwrap();
    let before = Handle::of(&mount.at("knob")).unwrap();
    knob.hide().wait().unwrap();
    eventually("the handle to be stale", || {
        drop_caches();
        errno(open(&before, &root)) == Errno::STALE
    });
    knob.show();
    // A difference to the kernel's own, where it works again: a severing ends the node's id here,
    // and the handle has nothing else.
    assert_eq!(errno(open(&before, &root)), Errno::STALE);
    let after = Handle::of(&mount.at("knob")).unwrap();
    assert_ne!(after, before);
    assert_eq!(read(&after, &root), "text");
    forget_all(&mount);
    assert_eq!(read(&after, &root), "text");
    assert_eq!(errno(open(&before, &root)), Errno::STALE);
    let _ = knob.remove().unwrap();
    eventually("the handle to be stale", || {
        drop_caches();
        errno(open(&after, &root)) == Errno::STALE
    });
}

#[test]
fn a_handle_that_was_made_up_leads_nowhere() {
    let tree = Tree::new();
    let Some((mount, root)) = mounted(&tree) else { return };
    let handle = Handle::of(&mount.at("dir/sub/knob")).unwrap();
    forget_all(&mount);
    for byte in 0..8 {
        for bit in 0..8 {
            let forged = handle.clone().with(|bytes| bytes[byte] ^= 1 << bit);
            // Some number of another node may be among them.
            if let Err(error) = open(&forged, &root) {
                assert_eq!(Errno::from_io_error(&error), Some(Errno::STALE));
            }
        }
    }
    // Neither does the right number with a severing that never was.
    let forged = handle.clone().with(|bytes| bytes[..8].rotate_left(4));
    assert_eq!(errno(open(&forged, &root)), Errno::STALE);
    assert_eq!(read(&handle, &root), "text");
}

#[test]
fn a_handle_does_not_lead_to_another_namespace() {
    let tree = Tree::new();
    let net = tree.root().add_dir("net", DirOptions::new(Mode::DIR).tagged_children()).unwrap();
    let options = FileOptions::new(Mode::RW).tag(Tag(1));
    let file = net.add_file("eth0", options, Knob::new("text")).unwrap();
    let tagged = |tag| Mounted::with(&tree, |options: MountOptions| options.tag(Tag(tag)));
    let (Some(one), Some(two)) = (tagged(1), tagged(2)) else { return };
    let roots: [(&Mounted, PathBuf); 2] =
        [(&one, one.path().to_owned()), (&two, two.path().to_owned())];
    let [first, second] = roots.map(|(_, path)| File::open(path).unwrap());
    let handle = Handle::of(&one.at("net/eth0")).unwrap();
    assert_eq!(read(&handle, &first), "text");
    assert_eq!(errno(open(&handle, &second)), Errno::STALE);
    file.rename_in(&net, "eth0", Tag(2)).unwrap();
    forget_all(&one);
    assert_eq!(errno(open(&handle, &first)), Errno::STALE);
    assert_eq!(read(&handle, &second), "text");
}
