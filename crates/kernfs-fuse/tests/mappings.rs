//! Files that clients map, and what is left of the mappings once the owner has taken the file back.

mod support;

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kernfs::{Errno as Kernfs, FileOptions, Manners, Mode, Tree};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::Signal;
use support::client::{self, Client};
use support::drivers::{Door, Knob, Memory};
use support::sys::Map;
use support::{Mounted, errno, eventually, through};

#[test]
fn client() {
    client::serve();
}

const PAGE: usize = 4096;

type Shared = kernfs::File<Memory>;

/// A tree with a file of so many pages, of which each is filled with a letter of its own.
fn tree(pages: u8) -> (Tree, Shared) {
    let tree = Tree::new();
    let memory = add(&tree, "memory", pages);
    (tree, memory)
}

fn add(tree: &Tree, name: &str, pages: u8) -> Shared {
    let bytes: Vec<u8> = (0..pages).flat_map(|page| [b'a' + page; PAGE]).collect();
    let options = FileOptions::new(Mode::RW).size(bytes.len() as u64);
    tree.root().add_file(name, options, Memory::new(bytes)).unwrap()
}

fn open(mount: &Mounted, name: &str) -> File {
    OpenOptions::new().read(true).write(true).open(mount.at(name)).unwrap()
}

fn shared(file: &File, pages: usize) -> Map {
    Map::new(file, pages * PAGE, true, true).expect("maps")
}

fn private(file: &File, pages: usize) -> Map {
    Map::new(file, pages * PAGE, false, true).expect("maps")
}

/// Asserts that a mapping is dead: what would be SIGBUS for a program is EFAULT for a system call.
#[track_caller]
fn assert_dead(map: &Map, offset: usize) {
    assert_eq!(errno(map.peek(offset, 1)), Errno::FAULT);
}

#[test]
fn a_mapping_shows_what_the_driver_has() {
    let (tree, memory) = tree(3);
    let Some(mount) = Mounted::new(&tree) else { return };
    let file = File::open(mount.at("memory")).unwrap();
    let maps = [true, false].map(|shared| Map::new(&file, 4 * PAGE, shared, false).unwrap());
    for map in &maps {
        assert_eq!(map.peek(2, 3).unwrap(), b"aaa");
        assert_eq!(map.peek(2 * PAGE - 1, 2).unwrap(), b"bc");
        // Beyond the declared size there is no page.
        assert_dead(map, 3 * PAGE);
    }
    // read(2) sees the same; what the driver leaves out of the declared size is zeros.
    assert_eq!(fs::read(mount.at("memory")).unwrap().len(), 3 * PAGE);
    memory.bytes.lock().unwrap().truncate(PAGE + 10);
    let fresh = File::open(mount.at("memory")).unwrap();
    let mut buf = [1; 20];
    fresh.read_exact_at(&mut buf, PAGE as u64).unwrap();
    assert_eq!(buf, [[b'b'; 10], [0; 10]].concat()[..]);
    assert_eq!(shared(&open(&mount, "memory"), 3).peek(3 * PAGE - 1, 1).unwrap(), [0]);
    assert_eq!(fs::metadata(mount.at("memory")).unwrap().len(), 3 * PAGE as u64);
    drop((maps, file, fresh));
    mount.unmount_clean(&tree);
}

#[test]
fn what_is_written_to_a_shared_mapping_reaches_the_driver_page_by_page() {
    for manners in [Manners::Cgroup, Manners::Sysfs] {
        let tree = Tree::builder().manners(manners).build();
        let memory = add(&tree, "memory", 8);
        let Some(mount) = Mounted::new(&tree) else { return };
        let file = open(&mount, "memory");
        let (map, copy) = (shared(&file, 8), private(&file, 8));
        // Private changes are private.
        copy.poke(7, b"P").unwrap();
        for page in 0..8 {
            map.poke(page * PAGE + 5, b"XYZ").unwrap();
        }
        map.sync().unwrap();
        let seen = |offset: usize| memory.bytes.lock().unwrap()[offset..offset + 5].to_vec();
        assert_eq!(seen(4), b"aXYZa");
        assert_eq!(seen(7 * PAGE + 4), b"hXYZh");
        assert_eq!(memory.longest.load(Ordering::Relaxed), PAGE);
        // The last unmapping writes back too, and readers of the file see it.
        map.poke(0, b"0").unwrap();
        drop(map);
        assert_eq!(seen(0), b"0aaaa");
        assert_eq!(&fs::read(mount.at("memory")).unwrap()[..2], b"0a");
        assert_eq!(copy.peek(7, 1).unwrap(), b"P");
        // write(2) and mappings see each other.
        let map = shared(&file, 1);
        assert_eq!(map.peek(1, 1).unwrap(), b"a");
        file.write_all_at(b"w", 1).unwrap();
        assert_eq!(map.peek(1, 1).unwrap(), b"w");
        assert_eq!(seen(1), b"waaaX");
    }
}

#[test]
fn what_cannot_be_mapped_is_refused_and_can_be_read() {
    let (tree, memory) = tree(1);
    let _text = tree.root().add_file("text", Mode::RW, Knob::new("text")).unwrap();
    let sizeless = Memory::new(vec![b's'; PAGE]);
    let _sizeless = tree.root().add_file("sizeless", Mode::RW, sizeless).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    *memory.refuses.lock().unwrap() = Some(Kernfs::EPERM);
    for name in ["text", "sizeless", "memory"] {
        let file = open(&mount, name);
        let map = Map::new(&file, PAGE, true, false);
        assert_eq!(errno(map), Errno::NODEV, "{name}");
        assert!(file.read_at(&mut [0; 4], 0).unwrap() == 4);
    }
    // The driver is asked anew at each open, for FUSE does not tell of mappings.
    *memory.refuses.lock().unwrap() = None;
    assert_eq!(shared(&open(&mount, "memory"), 1).peek(0, 1).unwrap(), b"a");
}

#[test]
fn a_notification_shows_mappings_the_new_contents() {
    let (tree, memory) = tree(2);
    let Some(mount) = Mounted::new(&tree) else { return };
    let file = open(&mount, "memory");
    let (one, two) = (shared(&file, 2), private(&open(&mount, "memory"), 2));
    for byte in b'A'..=b'Z' {
        memory.fill(byte);
        memory.notify();
        for map in [&one, &two] {
            eventually("the new contents", || map.peek(PAGE, 1).unwrap() == [byte]);
        }
    }
}

#[test]
fn who_is_woken_by_a_notification_finds_the_new_contents() {
    let (tree, memory) = tree(1);
    let Some(mount) = Mounted::new(&tree) else { return };
    let file = File::open(mount.at("memory")).unwrap();
    let map = Map::new(&file, PAGE, true, false).unwrap();
    let set = rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).unwrap();
    let events = rustix::event::epoll::EventFlags::PRI | rustix::event::epoll::EventFlags::ET;
    let data = rustix::event::epoll::EventData::new_u64(0);
    rustix::event::epoll::add(&set, &file, data, events).unwrap();
    let wait = || {
        let mut found = Vec::with_capacity(1);
        let spare = rustix::buffer::spare_capacity(&mut found);
        rustix::event::epoll::wait(&set, spare, None).unwrap()
    };
    assert_eq!(wait(), 1, "fresh");
    for round in 0..300u32 {
        let byte = b'A' + (round % 26) as u8;
        memory.fill(byte);
        memory.notify();
        assert_eq!(wait(), 1);
        assert_eq!(map.peek(0, 1).unwrap(), [byte], "round {round}");
    }
    let mut fds = [PollFd::from_borrowed_fd(file.as_fd(), PollFlags::PRI)];
    let _ = memory.remove().unwrap();
    rustix::event::poll(&mut fds, None).unwrap();
    assert!(fds[0].revents().contains(PollFlags::ERR));
}

#[test]
fn all_mappings_die_when_the_file_is_removed() {
    let (tree, memory) = tree(3);
    let Some(mount) = Mounted::new(&tree) else { return };
    let (first, second) = (open(&mount, "memory"), File::open(mount.at("memory")).unwrap());
    let maps = [
        shared(&first, 3),
        private(&first, 3),
        Map::new(&second, 3 * PAGE, true, false).unwrap(),
        Map::new(&second, 3 * PAGE, false, false).unwrap(),
    ];
    let copy = private(&second, 3);
    for map in maps.iter().chain([&copy]) {
        // The second page is never touched while the file is there.
        assert_eq!(map.peek(0, 1).unwrap(), b"a");
    }
    copy.poke(0, b"P").unwrap();
    // Descriptors need not be open for a mapping to be taken away.
    drop(second);
    let memory = memory.remove().unwrap();
    for map in &maps {
        assert_dead(map, 0);
        assert_dead(map, PAGE);
    }
    assert_eq!(errno(maps[0].poke(0, b"x")), Errno::FAULT);
    // A difference to the kernel's own, which takes private copies too.
    assert_eq!(copy.peek(0, 2).unwrap(), b"Pa");
    assert_dead(&copy, PAGE);
    assert_eq!(memory.bytes.into_inner().unwrap()[..PAGE], [b'a'; PAGE]);
    // Differences to the kernel's own: a dead file can be mapped, but there is nothing in it.
    assert_eq!(errno(first.read_at(&mut [0; 9], 0)), Errno::NODEV);
    assert_dead(&private(&first, 1), 0);
    assert_dead(&shared(&first, 1), 0);
}

#[test]
fn a_program_that_touches_a_dead_mapping_gets_sigbus() {
    let (tree, memory) = tree(1);
    let Some(mount) = Mounted::new(&tree) else { return };
    let mut client = Client::start();
    client.call(format!("open f r {}", mount.at("memory").display())).unwrap();
    client.call("map m f").unwrap();
    assert_eq!(client.call("touch m"), Ok("a".into()));
    let _ = memory.remove().unwrap();
    client.begin("touch m");
    assert_eq!(client.wait().signal(), Some(Signal::BUS.as_raw()));
}

#[test]
fn dirty_pages_are_dropped_by_a_severing() {
    let (tree, memory) = tree(1);
    let Some(mount) = Mounted::new(&tree) else { return };
    let file = open(&mount, "memory");
    let map = shared(&file, 1);
    map.poke(0, b"dirty").unwrap();
    memory.hide().wait().unwrap();
    memory.show();
    // Through the old node, which is what dirty pages belong to.
    let again = OpenOptions::new().read(true).write(true).open(through(file.as_fd())).unwrap();
    // Whether or not the kernel remembers that it could not write them.
    let _ = map.sync();
    let _ = again.sync_all();
    drop(map);
    assert_eq!(memory.bytes.lock().unwrap()[..5], *b"aaaaa");
    let mut buf = [0; 5];
    again.read_exact_at(&mut buf, 0).unwrap();
    assert_eq!(&buf, b"aaaaa");
    let map = shared(&open(&mount, "memory"), 1);
    assert_eq!(map.peek(0, 5).unwrap(), b"aaaaa");
    map.poke(0, b"dirty").unwrap();
    let memory = memory.remove().unwrap();
    assert_eq!(memory.bytes.into_inner().unwrap()[..5], *b"aaaaa");
}

#[test]
fn mappings_of_a_hidden_file_stay_dead_when_it_is_shown() {
    let (tree, memory) = tree(1);
    let Some(mount) = Mounted::new(&tree) else { return };
    let file = open(&mount, "memory");
    let (map, copy) = (shared(&file, 1), private(&file, 1));
    assert_eq!(map.peek(0, 1).unwrap(), b"a");
    for _ in 0..50 {
        memory.hide().wait().unwrap();
        assert_dead(&map, 0);
        memory.show();
        assert_dead(&map, 0);
        assert_dead(&copy, 0);
        // By its name it is there and can be mapped.
        let fresh = shared(&open(&mount, "memory"), 1);
        assert_eq!(fresh.peek(0, 1).unwrap(), b"a");
        // Through the old descriptor it can be read and written, but not mapped: its pages would
        // be those of the old mappings.
        let through = through(file.as_fd());
        let again = OpenOptions::new().read(true).write(true).open(through).unwrap();
        let mut buf = [0; 1];
        again.read_exact_at(&mut buf, 0).unwrap();
        again.write_all_at(b"a", 0).unwrap();
        assert_eq!(&buf, b"a");
        assert_eq!(errno(Map::new(&again, PAGE, true, false)), Errno::NODEV);
        assert_dead(&private(&again, 1), 0);
        assert_dead(&map, 0);
        assert_dead(&copy, 0);
    }
    assert_eq!(errno(file.read_at(&mut [0; 1], 0)), Errno::NODEV);
}

#[test]
fn a_page_that_is_on_its_way_at_a_severing_does_not_arrive() {
    for hidden in [false, true] {
        let (tree, memory) = tree(1);
        let other = tree.root().add_file("other", Mode::RW, Knob::new("other")).unwrap();
        let Some(mount) = Mounted::new(&tree) else { return };
        let door = Arc::new(Door::default());
        let file = open(&mount, "memory");
        let map = shared(&file, 1);
        assert_eq!(fs::read(mount.at("other")).unwrap(), b"other");
        *memory.door.lock().unwrap() = Some(Arc::clone(&door));
        thread::scope(|scope| {
            let fault = scope.spawn(|| map.peek(0, 1));
            eventually("the driver to be asked", || door.waiting() == 1);
            let severing = scope.spawn(|| {
                match hidden {
                    true => memory.hide().wait().unwrap(),
                    false => tree.root().sever_child("memory").unwrap().wait().unwrap(),
                };
            });
            eventually("the name to go", || !mount.at("memory").exists());
            // A page that is locked holds up nobody else.
            let _ = other.remove().unwrap();
            assert!(!severing.is_finished());
            door.open();
            assert_eq!(errno(fault.join().unwrap()), Errno::FAULT);
            severing.join().unwrap();
        });
        assert_dead(&map, 0);
        memory.show();
        assert_dead(&map, 0);
    }
}

#[test]
fn a_notification_while_a_page_is_on_its_way_comes_after_it() {
    let (tree, memory) = tree(1);
    let _other = tree.root().add_file("other", Mode::RW, Knob::new("other")).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let door = Arc::new(Door::default());
    let map = shared(&open(&mount, "memory"), 1);
    *memory.door.lock().unwrap() = Some(Arc::clone(&door));
    thread::scope(|scope| {
        // The driver has taken the old value, and takes its time.
        let fault = scope.spawn(|| map.peek(0, 1));
        eventually("the driver to be asked", || door.waiting() == 1);
        memory.fill(b'N');
        memory.notify();
        let mut other = tree.root().add_file("new", Mode::RW, Knob::new("new")).unwrap();
        for _ in 0..20 {
            assert_eq!(fs::read(mount.at("new")).unwrap(), b"new");
            let _ = other.remove().unwrap();
            other = tree.root().add_file("new", Mode::RW, Knob::new("new")).unwrap();
        }
        door.open();
        assert_eq!(fault.join().unwrap().unwrap(), b"a");
    });
    eventually("the new contents", || map.peek(0, 1).unwrap() == b"N");
}

#[test]
fn no_mapping_comes_back_while_the_file_comes_and_goes() {
    let (tree, memory) = tree(1);
    let Some(mount) = Mounted::new(&tree) else { return };
    let (stop, mapped) = (AtomicBool::new(false), AtomicUsize::new(0));
    let attack = || {
        let mut old: Vec<(File, Map)> = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            for (file, map) in &old {
                assert_dead(map, 0);
                // May read, and must not bring pages in.
                if let Ok(again) = File::open(through(file.as_fd())) {
                    assert_eq!(errno(Map::new(&again, PAGE, true, false)), Errno::NODEV);
                    if let Ok(map) = Map::new(&again, PAGE, false, false) {
                        assert_dead(&map, 0);
                    }
                }
            }
            let Ok(file) = File::open(mount.at("memory")) else { continue };
            // What was opened while the file went is direct, and cannot be mapped.
            let Ok(map) = Map::new(&file, PAGE, true, false) else { continue };
            while !stop.load(Ordering::Relaxed) && map.peek(0, 1).is_ok() {
                thread::yield_now();
            }
            mapped.fetch_add(1, Ordering::Relaxed);
            old.push((file, map));
            if old.len() > 4 {
                old.remove(0);
            }
        }
    };
    let until = Instant::now() + Duration::from_secs(2);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(attack);
        }
        while Instant::now() < until {
            memory.hide().wait().unwrap();
            memory.show();
            thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(mapped.load(Ordering::Relaxed) > 0);
    mount.unmount_clean(&tree);
}
