//! Names, places, attributes, access, ids.

use kernfs::{
    Access, Caller, Clock, Dir, DirOptions, Errno, File, FileOptions, Limits, Manners, Mode,
    NodeKind, OpenFlags, ROOT_INO, ReadOp, SetAttr, Show, Tag, Timestamp, Tree, XattrFlags, show,
};

type Plain = Show<fn(&mut ReadOp<'_>)>;

fn plain() -> Plain {
    show(|op| op.push(b"1\n"))
}

fn add(dir: &Dir, name: &str) -> File<Plain> {
    dir.add_file(name, Mode::RO, plain()).unwrap()
}

#[test]
fn names_are_checked_and_taken_once() {
    let tree = Tree::new();
    let root = tree.root();
    let _a = add(root, "a");
    let refusal = |name: &[u8]| root.add_file(name, Mode::RO, plain()).unwrap_err().errno();
    assert_eq!(refusal(b"a"), Errno::EEXIST);
    assert_eq!(refusal(b""), Errno::ENOENT);
    for bad in [&b"."[..], b"..", b"x/y", b"x\0y"] {
        assert_eq!(refusal(bad), Errno::EINVAL);
    }
    assert_eq!(refusal(&[b'n'; 4096]), Errno::ENAMETOOLONG);
    let _long = add(root, &"n".repeat(4095));
    let _bytes = root.add_file([0xff, b'\n'], Mode::RO, plain()).unwrap();
    assert_eq!(root.add_dir("a", Mode::DIR).unwrap_err(), Errno::EEXIST);
}

#[test]
fn a_hidden_name_stays_taken_and_a_removed_one_is_free_at_once() {
    let tree = Tree::new();
    let a = add(tree.root(), "a");
    a.hide().wait().unwrap();
    assert_eq!(tree.root().add_dir("a", Mode::DIR).unwrap_err(), Errno::EEXIST);
    let draining = a.sever();
    let again = add(tree.root(), "a");
    let _ = draining.wait().unwrap();
    assert!(!again.is_removed());
}

#[test]
fn rename_gives_the_errors_of_the_kernel() {
    let tree = Tree::new();
    let root = tree.root();
    let a = add(root, "a");
    let _b = add(root, "b");
    let dir = root.add_dir("dir", Mode::DIR).unwrap();
    let below = dir.add_dir("below", Mode::DIR).unwrap();
    assert_eq!(a.rename(root, "a"), Ok(()), "the same place is fine");
    assert_eq!(a.rename(root, "b"), Err(Errno::EEXIST));
    assert_eq!(root.rename(&dir, "x"), Err(Errno::EINVAL), "the root");
    assert_eq!(dir.rename(&below, "x"), Err(Errno::EINVAL), "below itself");
    assert_eq!(dir.rename(&dir, "x"), Err(Errno::EINVAL), "into itself");
    assert_eq!(tree.detached_dir(Mode::DIR).rename(root, "x"), Err(Errno::EINVAL), "detached");
    assert_eq!(a.rename_in(root, "x", Tag(1)), Err(Errno::EINVAL), "a tag too many");
    assert_eq!(a.rename(Tree::new().root(), "x"), Err(Errno::EXDEV));
    for (name, errno) in [("", Errno::ENOENT), ("x/y", Errno::EINVAL), ("..", Errno::EINVAL)] {
        assert_eq!(a.rename(root, name), Err(errno), "{name:?}");
    }
    below.remove().unwrap();
    let dead = dir.add_dir("dead", Mode::DIR).unwrap();
    let dead_too = dir.add_dir("dead too", Mode::DIR).unwrap();
    dir.sever_child("dead").unwrap().wait().unwrap();
    assert_eq!(a.rename(&dead, "x"), Err(Errno::ENOENT), "into what was removed");
    assert_eq!(dead.rename(&dead_too, "x"), Err(Errno::ENOENT), "what was removed");
    assert_eq!(a.path(), b"/a", "no failure has moved it");
}

#[test]
fn a_move_keeps_the_inode_the_open_files_and_the_readers_place() {
    let tree = Tree::new();
    let client = tree.client(Caller::OWNER);
    let dir = tree.root().add_dir("dir", Mode::DIR).unwrap();
    let a = add(tree.root(), "a");
    let link = tree.root().add_link("link", &a).unwrap();
    let held = client.open("/a", OpenFlags::READ).unwrap();
    assert_eq!(held.read(&mut [0; 1]), Ok(1));
    a.rename(&dir, "b").unwrap();
    assert_eq!(client.lookup("/a").unwrap_err(), Errno::ENOENT);
    assert_eq!(client.lookup("/dir/b").unwrap().ino(), a.ino());
    assert_eq!((a.name().as_bytes(), &a.path()[..]), (&b"b"[..], &b"/dir/b"[..]));
    assert_eq!(held.read(&mut [0; 4]), Ok(1));
    assert_eq!(client.lookup_link("/link").unwrap().readlink().unwrap(), b"dir/b");
    assert_eq!(client.lookup("/link").unwrap().ino(), a.ino());
    link.rename(&dir, "link").unwrap();
    assert_eq!(client.lookup_link("/dir/link").unwrap().readlink().unwrap(), b"b");
    assert_eq!(client.lookup("/").unwrap().attr().nlink, 3);
    dir.rename(tree.root(), "moved").unwrap();
    assert_eq!(a.path(), b"/moved/b");
}

#[test]
fn a_link_outlives_its_target_and_leads_nowhere() {
    let tree = Tree::new();
    let client = tree.client(Caller::OWNER);
    let a = tree.root().add_file("a", FileOptions::new(Mode::RO).owner(7, 8), plain()).unwrap();
    let link = tree.root().add_link("link", &a).unwrap();
    let attr = client.lookup_link("/link").unwrap().attr();
    assert_eq!(
        (attr.kind, attr.mode, attr.uid, attr.gid),
        (NodeKind::Link, Mode::new(0o777), 7, 8)
    );
    assert_eq!(attr.size, 1);
    let inode = client.lookup_link("/link").unwrap();
    assert_eq!(inode.open(&Caller::OWNER, OpenFlags::READ).unwrap_err(), Errno::ELOOP);
    let _ = a.remove().unwrap();
    assert_eq!(client.lookup("/link").unwrap_err(), Errno::ENOENT);
    assert!(client.lookup_link("/link").is_ok());
    link.remove().unwrap();
    assert_eq!(client.lookup_link("/link").unwrap_err(), Errno::ENOENT);
    // Links that lead in a circle cannot be made, but long ways can.
    let mut target = tree.root().add_link("l0", tree.root()).unwrap();
    let mut links = Vec::new();
    for at in 1..=kernfs::MAX_LINKS {
        let link = tree.root().add_link(format!("l{at}"), &target).unwrap();
        links.push(std::mem::replace(&mut target, link));
    }
    assert_eq!(client.lookup("/l40").unwrap_err(), Errno::ELOOP);
}

#[test]
fn a_link_to_a_directory_above_it_ends_with_its_name() {
    let tree = Tree::new();
    let client = tree.client(Caller::OWNER);
    let hub = tree.root().add_dir("hub", Mode::DIR).unwrap();
    let block = hub.add_dir("block", Mode::DIR).unwrap();
    let disk = block.add_dir("disk", Mode::DIR).unwrap();
    // As of a disk of virtio: `device -> ../../../virtio1`.
    for (name, target, text) in [
        ("device", &hub, "../../../hub"),
        ("parent", &block, "../../block"),
        ("self", &disk, "../disk"),
        ("root", tree.root(), "../../.."),
    ] {
        let link = disk.add_link(name, target).unwrap();
        let path = format!("/hub/block/disk/{name}");
        assert_eq!(client.lookup_link(&path).unwrap().readlink().unwrap(), text.as_bytes());
        assert_eq!(client.lookup(&path).unwrap().ino(), target.ino());
        link.remove().unwrap();
    }
    let link = tree.root().add_link("root", tree.root()).unwrap();
    assert_eq!(client.lookup_link("/root").unwrap().readlink(), Err(Errno::EINVAL));
    link.remove().unwrap();
}

#[test]
fn directories_are_made_beside_a_directory_and_severed_through_a_shared_handle() {
    let tree = Tree::new();
    let client = tree.client(Caller::OWNER);
    let dir = std::sync::Arc::new(tree.root().detached(Mode::DIR));
    let a = add(&dir, "a");
    assert_eq!(client.lookup("/dir").unwrap_err(), Errno::ENOENT);
    tree.root().attach("dir", &dir).unwrap();
    let held = client.open("/dir/a", OpenFlags::READ).unwrap();
    dir.sever_shared().wait().unwrap();
    assert_eq!(held.read(&mut [0; 1]), Err(Errno::ENODEV));
    assert!(dir.is_removed());
    assert_eq!(dir.add_dir("late", Mode::DIR).unwrap_err(), Errno::ENOENT);
    dir.sever_shared().wait().unwrap();
    let _ = a.remove().unwrap();
    drop(dir);
    assert_eq!(tree.usage().nodes, 1);
}

#[test]
fn a_symlink_says_what_it_was_made_with_and_leads_anywhere() {
    let tree = Tree::new();
    let client = tree.client(Caller::OWNER);
    let dir = tree.root().add_dir("dir", Mode::DIR).unwrap();
    let a = add(&dir, "a");
    let text_of = |path: &str| client.lookup_link(path).unwrap().readlink().unwrap();
    for (name, text) in [("same", "./a"), ("up", "../dir//a"), ("top", "/dir/a"), ("self", ".")] {
        dir.add_symlink(name, text).unwrap().keep();
        assert_eq!(text_of(&format!("/dir/{name}")), text.as_bytes());
        let attr = client.lookup_link(format!("/dir/{name}")).unwrap().attr();
        assert_eq!((attr.kind, attr.size), (NodeKind::Link, text.len() as u64));
    }
    for path in ["/dir/same", "/dir/up", "/dir/top", "/dir/self/self/a"] {
        assert_eq!(client.lookup(path).unwrap().ino(), a.ino(), "{path}");
    }
    let round = tree.root().add_symlink("round", "round").unwrap();
    assert_eq!(client.lookup("/round").unwrap_err(), Errno::ELOOP);
    assert_eq!(tree.root().add_symlink("round", "x").unwrap_err(), Errno::EEXIST);
    round.remove().unwrap();
    assert_eq!(tree.root().add_symlink("x", "").unwrap_err(), Errno::ENOENT);
    assert_eq!(tree.root().add_symlink("x", "a\0b").unwrap_err(), Errno::EINVAL);
    assert_eq!(tree.root().add_symlink("x", [b'x'; 4096]).unwrap_err(), Errno::ENAMETOOLONG);
    let _ = a.remove().unwrap();
    assert_eq!(client.lookup("/dir/same").unwrap_err(), Errno::ENOENT);
    assert_eq!(text_of("/dir/same"), b"./a");
    dir.remove().unwrap();
    assert_eq!(tree.usage().nodes, 1, "symlinks went with their directory");
}

#[test]
fn a_subtree_is_attached_at_once_with_all_that_is_in_it() {
    let tree = Tree::new();
    let client = tree.client(Caller::OWNER);
    let device = tree.detached_dir(Mode::DIR);
    let sub = device.add_dir("sub", Mode::DIR).unwrap();
    let f = add(&sub, "f");
    assert_eq!(client.by_id(f.ino()).unwrap_err(), Errno::ESTALE, "not attached yet");
    assert_eq!(client.lookup("/device").unwrap_err(), Errno::ENOENT);
    tree.root().attach("device", &device).unwrap();
    assert_eq!(client.lookup("/device/sub/f").unwrap().ino(), f.ino());
    assert_eq!(client.by_id(f.ino()).unwrap().path(), b"/device/sub/f");
    assert_eq!(tree.root().attach("again", &device), Err(Errno::EINVAL), "attached already");

    let other = tree.detached_dir(Mode::DIR);
    let inner = other.add_dir("inner", Mode::DIR).unwrap();
    assert_eq!(tree.root().attach("device", &other), Err(Errno::EEXIST));
    assert_eq!(inner.attach("x", &other), Err(Errno::EINVAL), "below itself");
    assert_eq!(tree.root().attach_in("x", &other, Tag(1)), Err(Errno::EINVAL));
    assert_eq!(Tree::new().root().attach("x", &other), Err(Errno::EXDEV));
    tree.root().attach("other", &other).unwrap();
    assert_eq!(tree.usage().nodes, 6);
    drop(device);
    assert_eq!(tree.usage().nodes, 3);
    drop((other, inner));
    assert_eq!(tree.usage().nodes, 1);
}

#[test]
fn clients_never_see_half_a_device() {
    let tree = std::sync::Arc::new(Tree::new());
    let client = tree.client(Caller::OWNER);
    let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let watch = {
        let over = std::sync::Arc::clone(&over);
        kernfs_tests::probe::Sleeper::spawn(move || {
            let mut seen = 0;
            while !over.load(std::sync::atomic::Ordering::SeqCst) || seen == 0 {
                let Ok(device) = client.lookup("/device") else { continue };
                let names = device.open_dir(client.caller()).unwrap().entries(2, 9).unwrap();
                // Whole, or removed meanwhile.
                assert!(names.len() == 4 || device.is_removed(), "{} of 4", names.len());
                seen += 1;
            }
        })
    };
    for _ in 0..500 {
        let device = tree.detached_dir(Mode::DIR);
        for name in ["a", "b", "c", "d"] {
            add(&device, name).keep();
        }
        tree.root().attach("device", &device).unwrap();
        std::thread::yield_now();
        device.remove().unwrap();
    }
    let last = tree.detached_dir(Mode::DIR);
    for name in ["a", "b", "c", "d"] {
        add(&last, name).keep();
    }
    tree.root().attach("device", &last).unwrap();
    over.store(true, std::sync::atomic::Ordering::SeqCst);
    watch.join("a client that looks at devices");
}

#[test]
fn inode_numbers_are_never_reused_and_stale_ones_are_estale() {
    let tree = Tree::new();
    let client = tree.client(Caller::OWNER);
    assert_eq!(client.root().ino(), ROOT_INO);
    let mut last = ROOT_INO;
    for _ in 0..100 {
        let a = add(tree.root(), "a");
        assert!(a.ino() > last);
        last = a.ino();
        assert_eq!(client.by_id(last).unwrap().ino(), last);
        let held = client.open("/a", OpenFlags::READ).unwrap();
        a.hide().wait().unwrap();
        assert_eq!(client.by_id(last).unwrap_err(), Errno::ESTALE, "hidden");
        a.show();
        assert!(client.by_id(last).is_ok());
        let _ = a.remove().unwrap();
        assert_eq!(client.by_id(last).unwrap_err(), Errno::ESTALE, "removed, though open");
        assert_eq!(held.inode().ino(), last);
    }
    assert_eq!(client.by_id(last + 1).unwrap_err(), Errno::ESTALE, "never was");
    assert_eq!(client.by_id(0).unwrap_err(), Errno::ESTALE);
}

#[test]
fn access_follows_the_class_of_the_caller() {
    let tree = Tree::new();
    let options = FileOptions::new(Mode::new(0o640)).owner(10, 20);
    let _f = tree.root().add_file("f", options, plain()).unwrap();
    let inode = tree.client(Caller::OWNER).lookup("/f").unwrap();
    let can = |uid, gid, access| inode.check_access(&Caller::new(uid, gid, 1), access).is_ok();
    assert!(can(10, 99, Access::READ | Access::WRITE));
    assert!(can(11, 20, Access::READ) && !can(11, 20, Access::WRITE));
    assert!(!can(11, 21, Access::READ));
    assert!(can(0, 0, Access::READ | Access::WRITE), "root overrides");
    assert!(!can(0, 0, Access::EXEC), "but does not execute what nobody may");
    let powerless = Caller::new(0, 0, 1).with_capable(|_, _| false);
    assert_eq!(inode.check_access(&powerless, Access::READ), Err(Errno::EACCES));
    let open = |uid, flags| inode.open(&Caller::new(uid, 0, 1), flags).map(drop);
    assert_eq!(open(11, OpenFlags::READ), Err(Errno::EACCES));
    assert_eq!(open(10, OpenFlags::READ_WRITE), Ok(()));
    assert_eq!(open(10, OpenFlags::empty()), Err(Errno::EINVAL));
}

#[test]
fn directories_that_must_not_be_searched_or_listed_are_not() {
    let tree = Tree::new();
    let dir = tree.root().add_dir("dir", Mode::new(0o711)).unwrap();
    let _f = add(&dir, "f");
    let client = tree.client(Caller::new(5, 5, 1));
    assert!(client.lookup("/dir/f").is_ok());
    assert_eq!(client.open_dir("/dir").unwrap_err(), Errno::EACCES);
    dir.set_attr(&SetAttr { mode: Some(Mode::new(0o744)), ..SetAttr::default() });
    assert!(client.open_dir("/dir").is_ok());
    assert_eq!(client.lookup("/dir/f").unwrap_err(), Errno::EACCES);
    assert_eq!(client.lookup("/dir/f/x").unwrap_err(), Errno::EACCES);
    assert_eq!(tree.client(Caller::OWNER).lookup("/dir/f/x").unwrap_err(), Errno::ENOTDIR);
    assert_eq!(client.open_dir("/none").unwrap_err(), Errno::ENOENT);
}

#[test]
fn attributes_are_changed_by_their_owner_only_and_outlive_severing() {
    struct Fixed;
    impl Clock for Fixed {
        fn now(&self) -> Timestamp {
            Timestamp { secs: 1000, nanos: 5 }
        }
        fn monotonic(&self) -> std::time::Duration {
            std::time::Duration::ZERO
        }
    }
    let tree = Tree::builder().clock(Fixed).build();
    let options = FileOptions::new(Mode::RW).owner(10, 20).size(77);
    let f = tree.root().add_file("f", options, plain()).unwrap();
    let inode = tree.client(Caller::OWNER).lookup("/f").unwrap();
    let born = Timestamp { secs: 1000, nanos: 5 };
    let attr = inode.attr();
    assert_eq!((attr.size, attr.nlink, attr.uid, attr.gid), (77, 1, 10, 20));
    assert_eq!((attr.atime, attr.mtime, attr.ctime), (born, born, born));

    let mode = |mode| SetAttr { mode: Some(Mode::new(mode)), ..SetAttr::default() };
    let uid = |uid| SetAttr { uid: Some(uid), ..SetAttr::default() };
    let gid = |gid| SetAttr { gid: Some(gid), ..SetAttr::default() };
    let mine = Caller::new(10, 30, 1);
    let other = Caller::new(11, 20, 1);
    assert_eq!(inode.set_attr(&other, &mode(0o777)), Err(Errno::EPERM));
    assert_eq!(inode.set_attr(&mine, &mode(0o600)), Ok(()));
    assert_eq!(inode.set_attr(&mine, &uid(11)), Err(Errno::EPERM), "no giving away");
    assert_eq!(inode.set_attr(&mine, &gid(30)), Ok(()), "to a group of one's own");
    assert_eq!(inode.set_attr(&mine, &gid(31)), Err(Errno::EPERM));
    assert_eq!(inode.set_attr(&Caller::OWNER, &uid(12)), Ok(()));
    let stamp = Timestamp { secs: 5, nanos: 6 };
    let times = SetAttr { atime: Some(stamp), mtime: Some(stamp), ..SetAttr::default() };
    assert_eq!(inode.set_attr(&Caller::OWNER, &times), Ok(()));

    let ino = f.ino();
    f.set_size(78);
    let _ = f.remove().unwrap();
    let attr = inode.attr();
    assert_eq!((attr.ino, attr.size, attr.nlink), (ino, 78, 0));
    assert_eq!((attr.mode, attr.uid, attr.gid), (Mode::new(0o600), 12, 30));
    assert_eq!(attr.atime, stamp);
    assert_eq!(inode.set_attr(&Caller::OWNER, &mode(0o400)), Ok(()), "on the severed too");
    assert_eq!(inode.attr().mode, Mode::new(0o400));
}

#[test]
fn new_nodes_inherit_the_group_of_a_setgid_parent() {
    let tree = Tree::new();
    let options = DirOptions::new(Mode::new(0o2755)).owner(1, 42);
    let dir = tree.root().add_dir("dir", options).unwrap();
    let sub = dir.add_dir("sub", Mode::DIR).unwrap();
    let _f = add(&sub, "f");
    let client = tree.client(Caller::OWNER);
    let attr = |path: &str| client.lookup(path).unwrap().attr();
    assert_eq!((attr("/dir/sub").gid, attr("/dir/sub").mode), (42, Mode::new(0o2755)));
    assert_eq!((attr("/dir/sub/f").gid, attr("/dir/sub/f").mode), (42, Mode::RO));
}

#[test]
fn limits_answer_with_the_errors_of_the_kernel() {
    let limits = Limits { name: 8, depth: 3, text: 16, open_files: 2 };
    let tree = Tree::builder().limits(limits).build();
    let root = tree.root();
    assert_eq!(root.add_dir("123456789", Mode::DIR).unwrap_err(), Errno::ENAMETOOLONG);
    let client = tree.client(Caller::OWNER);
    assert_eq!(client.lookup("/123456789").unwrap_err(), Errno::ENAMETOOLONG);
    let one = root.add_dir("1", Mode::DIR).unwrap();
    let two = one.add_dir("2", Mode::DIR).unwrap();
    let three = two.add_dir("3", Mode::DIR).unwrap();
    assert_eq!(three.add_dir("4", Mode::DIR).unwrap_err(), Errno::ENAMETOOLONG);
    let aside = tree.detached_dir(Mode::DIR);
    let _below = aside.add_dir("below", Mode::DIR).unwrap();
    assert_eq!(two.attach("x", &aside), Err(Errno::ENAMETOOLONG), "its height counts");
    root.attach("x", &aside).unwrap();
    assert_eq!(aside.rename(&two, "x"), Err(Errno::ENAMETOOLONG));

    let long = root.add_file("long", Mode::RO, show(|op| op.push(&[b'x'; 17]))).unwrap();
    let held = client.open("/long", OpenFlags::READ).unwrap();
    assert_eq!(held.read_to_vec(), Err(Errno::ENOMEM));
    let second = client.open("/long", OpenFlags::READ).unwrap();
    assert_eq!(client.open("/long", OpenFlags::READ).unwrap_err(), Errno::ENFILE);
    assert_eq!(tree.usage().open_files, 2);
    let _ = long.remove().unwrap();
    let _other = add(root, "other");
    assert_eq!(client.open("/other", OpenFlags::READ).unwrap_err(), Errno::ENFILE);
    drop((held, second));
    assert!(client.open("/other", OpenFlags::READ).is_ok(), "severed ones count until closed");
}

#[test]
fn extended_attributes_are_permitted_and_limited() {
    let tree = Tree::new();
    let options = FileOptions::new(Mode::new(0o644)).owner(10, 10);
    let f = tree.root().add_file("f", options, plain()).unwrap();
    let inode = tree.client(Caller::OWNER).lookup("/f").unwrap();
    let root = Caller::OWNER;
    let mine = Caller::new(10, 10, 1);
    let other = Caller::new(11, 11, 1);
    let any = XattrFlags::Any;
    assert_eq!(inode.set_xattr(&mine, b"user.a", b"1", any), Ok(()));
    assert_eq!(inode.set_xattr(&other, b"user.a", b"2", any), Err(Errno::EACCES));
    assert_eq!(inode.xattr(&other, b"user.a").as_deref(), Ok(&b"1"[..]));
    assert_eq!(inode.set_xattr(&mine, b"trusted.a", b"1", any), Err(Errno::EPERM));
    assert_eq!(inode.set_xattr(&root, b"trusted.a", b"1", any), Ok(()));
    assert_eq!(inode.xattr(&mine, b"trusted.a"), Err(Errno::ENODATA), "hidden from others");
    assert_eq!(inode.set_xattr(&mine, b"security.a", b"1", any), Err(Errno::EPERM));
    assert_eq!(inode.set_xattr(&root, b"security.a", b"1", any), Ok(()));
    assert_eq!(inode.xattrs(&mine), [b"security.a".to_vec(), b"user.a".to_vec()]);
    assert_eq!(inode.xattrs(&root).len(), 3);
    assert_eq!(inode.set_xattr(&root, b"user.", b"", any), Err(Errno::EOPNOTSUPP));
    assert_eq!(inode.set_xattr(&root, b"plain", b"", any), Err(Errno::EOPNOTSUPP));
    let long = [b"user.".as_slice(), &[b'n'; 251]].concat();
    assert_eq!(inode.set_xattr(&root, &long, b"", any), Err(Errno::ERANGE));
    assert_eq!(inode.set_xattr(&root, &long[..255], b"", any), Ok(()));
    let big = vec![0; kernfs::MAX_XATTR_VALUE + 1];
    assert_eq!(inode.set_xattr(&root, b"trusted.big", &big, any), Err(Errno::E2BIG));
    for at in 0..300 {
        let name = format!("trusted.{at}");
        assert_eq!(inode.set_xattr(&root, name.as_bytes(), &[0; 1000], any), Ok(()), "no quota");
    }
    let _ = f.remove().unwrap();
    assert_eq!(inode.xattr(&root, b"user.a").as_deref(), Ok(&b"1"[..]), "on the severed too");
    assert_eq!(inode.remove_xattr(&root, b"user.a"), Ok(()));
    assert_eq!(inode.remove_xattr(&root, b"user.a"), Err(Errno::ENODATA));

    let tree = Tree::builder().manners(Manners::Sysfs).user_xattrs(false).build();
    let inode = tree.client(Caller::OWNER).root();
    assert_eq!(inode.set_xattr(&root, b"user.a", b"1", any), Err(Errno::EOPNOTSUPP));
    assert_eq!(inode.set_xattr(&root, b"security.a", b"1", any), Ok(()));
}

/// The kernel: "node or new parent inactive: ENOENT", and a hidden node is inactive.
#[test]
fn a_hidden_file_cannot_be_renamed() {
    let tree = Tree::new();
    let a = add(tree.root(), "a");
    a.hide().wait().unwrap();
    assert_eq!(a.rename(tree.root(), "b"), Err(Errno::ENOENT));
}
