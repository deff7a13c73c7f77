//! Files that clients map, and what is left of the mappings once the owner has taken the file back.
//!
//! All mappings are those of other processes: one that serves a file must not map it, for whoever
//! changes the process's memory and whoever waits for a page in it exclude each other.

mod support;

use std::cell::RefCell;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use kernfs::{Errno as Kernfs, FileOptions, Manners, Mode, Tree};
use rustix::io::Errno;
use rustix::process::Signal;
use support::client::{self, Answer, Client};
use support::drivers::{Door, Knob, Memory};
use support::sys::Map;
use support::{Mounted, errno, eventually, through};

/// Set in the environment of a process that [attacks](attack) this path.
const ATTACK: &str = "KERNFS_FUSE_ATTACK";

#[test]
fn client() {
    if let Some(path) = std::env::var_os(ATTACK) {
        attack(path.as_ref());
    }
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

/// A process that maps files.
struct Mapper(RefCell<Client>);

impl Mapper {
    fn start() -> Self {
        Self(RefCell::new(Client::start()))
    }

    #[track_caller]
    fn call(&self, order: impl AsRef<str>) -> Answer {
        self.0.borrow_mut().call(order)
    }

    /// Opens a file for reading and writing.
    #[track_caller]
    fn open(&self, file: &str, path: &Path) {
        self.call(format!("open {file} b {}", path.display())).unwrap();
    }

    #[track_caller]
    fn map(&self, map: &str, file: &str, pages: usize, how: &str) {
        self.call(format!("map {map} {file} {pages} {how}")).unwrap();
    }

    fn peek(&self, map: &str, offset: usize, len: usize) -> Answer {
        self.call(format!("peek {map} {offset} {len}"))
    }

    #[track_caller]
    fn poke(&self, map: &str, offset: usize, text: &str) {
        self.call(format!("poke {map} {offset} {text}")).unwrap();
    }

    /// Asserts that a mapping is dead: what would be SIGBUS for a program is EFAULT for a system
    /// call.
    #[track_caller]
    fn assert_dead(&self, map: &str, offset: usize) {
        assert_eq!(self.peek(map, offset, 1), Err(Errno::FAULT), "{map}");
    }

    #[track_caller]
    fn assert_alive(&self, map: &str, offset: usize, text: &str) {
        assert_eq!(self.peek(map, offset, text.len()), Ok(text.into()), "{map}");
    }
}

#[test]
fn a_mapping_shows_what_the_driver_has() {
    let (tree, memory) = tree(3);
    let Some(mount) = Mounted::new(&tree) else { return };
    let (mapper, path) = (Mapper::start(), mount.at("memory"));
    mapper.open("f", &path);
    for how in ["s", "p"] {
        mapper.map("m", "f", 4, how);
        mapper.assert_alive("m", 2, "aaa");
        mapper.assert_alive("m", 2 * PAGE - 1, "bc");
        // A page stays until something drops it.
        let reads = memory.reads.load(Ordering::Relaxed);
        for _ in 0..100 {
            mapper.assert_alive("m", 2 * PAGE - 1, "bc");
        }
        assert_eq!(memory.reads.load(Ordering::Relaxed), reads);
        // Beyond the declared size there is no page.
        mapper.assert_dead("m", 3 * PAGE);
    }
    // read(2) sees the same; what the driver leaves out of the declared size is zeros.
    assert_eq!(fs::read(&path).unwrap().len(), 3 * PAGE);
    memory.bytes.lock().unwrap().truncate(PAGE + 10);
    let mut buf = [1; 20];
    File::open(&path).unwrap().read_exact_at(&mut buf, PAGE as u64).unwrap();
    assert_eq!(buf, [[b'b'; 10], [0; 10]].concat()[..]);
    mapper.open("g", &path);
    mapper.map("n", "g", 3, "s");
    mapper.assert_alive("n", 3 * PAGE - 1, "\0");
    assert_eq!(fs::metadata(&path).unwrap().len(), 3 * PAGE as u64);
    drop(mapper);
    mount.unmount_clean(&tree);
}

#[test]
fn what_is_written_to_a_shared_mapping_reaches_the_driver_page_by_page() {
    for manners in [Manners::Cgroup, Manners::Sysfs] {
        let tree = Tree::builder().manners(manners).build();
        let memory = add(&tree, "memory", 8);
        let Some(mount) = Mounted::new(&tree) else { return };
        let mapper = Mapper::start();
        mapper.open("f", &mount.at("memory"));
        mapper.map("m", "f", 8, "sw");
        mapper.map("copy", "f", 8, "pw");
        // Private changes are private.
        mapper.poke("copy", 7, "P");
        for page in 0..8 {
            mapper.poke("m", page * PAGE + 5, "XYZ");
        }
        mapper.call("sync m").unwrap();
        let seen = |offset: usize| memory.bytes.lock().unwrap()[offset..offset + 5].to_vec();
        assert_eq!(seen(4), b"aXYZa");
        assert_eq!(seen(7 * PAGE + 4), b"hXYZh");
        assert!(memory.writes.lock().unwrap().iter().all(|&len| len == PAGE), "no more, no less");
        // The last unmapping writes back too, and readers of the file see it.
        mapper.poke("m", 0, "0");
        mapper.call("unmap m").unwrap();
        assert_eq!(seen(0), b"0aaaa");
        assert_eq!(&fs::read(mount.at("memory")).unwrap()[..2], b"0a");
        mapper.assert_alive("copy", 7, "P");
        // write(2) and mappings see each other.
        mapper.map("m", "f", 1, "sw");
        mapper.assert_alive("m", 1, "a");
        mapper.call("pwrite f w 1").unwrap();
        mapper.assert_alive("m", 1, "w");
        assert_eq!(seen(1), b"waaaX");
    }
}

/// As the kernel's own readers of pages do, for there a short answer would be the end of the file.
#[test]
fn a_driver_is_asked_again_until_a_page_is_whole() {
    let (tree, memory) = tree(2);
    let Some(mount) = Mounted::new(&tree) else { return };
    let mapper = Mapper::start();
    mapper.open("f", &mount.at("memory"));
    *memory.at_once.lock().unwrap() = Some(1000);
    mapper.map("m", "f", 2, "sw");
    for page in 0..2 {
        let letter = char::from(b'a' + page as u8).to_string();
        mapper.assert_alive("m", page * PAGE, &letter.repeat(PAGE));
    }
    mapper.poke("m", 0, &"X".repeat(PAGE));
    mapper.call("sync m").unwrap();
    assert_eq!(memory.bytes.lock().unwrap()[..PAGE], [b'X'; PAGE]);
    assert_eq!(*memory.writes.lock().unwrap(), [4096, 3096, 2096, 1096, 96]);
}

#[test]
fn what_cannot_be_mapped_is_refused_and_can_be_read() {
    let (tree, memory) = tree(1);
    let _text = tree.root().add_file("text", Mode::RW, Knob::new("text")).unwrap();
    let sizeless = Memory::new(vec![b's'; PAGE]);
    let _sizeless = tree.root().add_file("sizeless", Mode::RW, sizeless).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let mapper = Mapper::start();
    *memory.refuses.lock().unwrap() = Some(Kernfs::EPERM);
    for name in ["text", "sizeless", "memory"] {
        mapper.open("f", &mount.at(name));
        assert_eq!(mapper.call("map m f 1 s"), Err(Errno::NODEV), "{name}");
        assert_eq!(mapper.call("pread f 4 0").unwrap().len(), 4);
    }
    // The driver is asked anew at each open, for FUSE does not tell of mappings.
    *memory.refuses.lock().unwrap() = None;
    mapper.open("f", &mount.at("memory"));
    mapper.map("m", "f", 1, "sw");
    mapper.assert_alive("m", 0, "a");
}

#[test]
fn a_notification_shows_mappings_the_new_contents() {
    let (tree, memory) = tree(2);
    let Some(mount) = Mounted::new(&tree) else { return };
    let mapper = Mapper::start();
    for (file, map, how) in [("f", "m", "sw"), ("g", "n", "p")] {
        mapper.open(file, &mount.at("memory"));
        mapper.map(map, file, 2, how);
    }
    for byte in b'A'..=b'Z' {
        memory.fill(byte);
        memory.notify();
        let new = Ok(char::from(byte).to_string());
        eventually("new contents", || mapper.peek("m", PAGE, 1) == new);
        eventually("new contents", || mapper.peek("n", PAGE, 1) == new);
    }
}

#[test]
fn who_is_woken_by_a_notification_finds_the_new_contents() {
    let (tree, memory) = tree(1);
    let Some(mount) = Mounted::new(&tree) else { return };
    let mapper = Mapper::start();
    mapper.open("f", &mount.at("memory"));
    mapper.map("m", "f", 1, "s");
    // Edges of PRI.
    mapper.call("epoll e f 80000002").unwrap();
    mapper.call("epwait e -1").unwrap();
    for round in 0..300u32 {
        let byte = b'A' + (round % 26) as u8;
        memory.fill(byte);
        memory.notify();
        mapper.call("epwait e -1").unwrap();
        mapper.assert_alive("m", 0, &char::from(byte).to_string());
    }
    mapper.0.borrow_mut().begin("poll f 0 -1");
    let _ = memory.remove().unwrap();
    assert_eq!(mapper.0.borrow_mut().answer(), Ok("8".into()));
}

#[test]
fn all_mappings_die_when_the_file_is_removed() {
    let (tree, memory) = tree(3);
    let Some(mount) = Mounted::new(&tree) else { return };
    let mapper = Mapper::start();
    mapper.open("f", &mount.at("memory"));
    mapper.open("g", &mount.at("memory"));
    let maps = [("a", "f", "sw"), ("b", "f", "pw"), ("c", "g", "s"), ("d", "g", "p")];
    for (map, file, how) in maps.into_iter().chain([("copy", "g", "pw")]) {
        mapper.map(map, file, 3, how);
        // The second page is never touched while the file is there.
        mapper.assert_alive(map, 0, "a");
    }
    mapper.poke("copy", 0, "P");
    // Descriptors need not be open for a mapping to be taken away.
    mapper.call("close g").unwrap();
    let memory = memory.remove().unwrap();
    for (map, _, _) in maps {
        mapper.assert_dead(map, 0);
        mapper.assert_dead(map, PAGE);
    }
    assert_eq!(mapper.call("poke a 0 x"), Err(Errno::FAULT));
    // A difference to the kernel's own, which takes private copies too.
    mapper.assert_alive("copy", 0, "Pa");
    mapper.assert_dead("copy", PAGE);
    assert_eq!(memory.bytes.into_inner().unwrap()[..PAGE], [b'a'; PAGE]);
    assert_eq!(mapper.call("pread f 9 0"), Err(Errno::NODEV));
    // Differences to the kernel's own: at the end of the file, the kernel does not ask.
    assert_eq!(mapper.call(format!("pread f 9 {}", 3 * PAGE)), Ok(String::new()));
    // A dead file can be mapped, but there is nothing in it.
    for how in ["s", "p"] {
        mapper.map("late", "f", 1, how);
        mapper.assert_dead("late", 0);
    }
}

#[test]
fn a_program_that_touches_a_dead_mapping_gets_sigbus() {
    let (tree, memory) = tree(1);
    let Some(mount) = Mounted::new(&tree) else { return };
    let mapper = Mapper::start();
    mapper.open("f", &mount.at("memory"));
    mapper.map("m", "f", 1, "s");
    assert_eq!(mapper.call("touch m"), Ok("a".into()));
    let _ = memory.remove().unwrap();
    let mut client = mapper.0.into_inner();
    client.begin("touch m");
    assert_eq!(client.wait().signal(), Some(Signal::BUS.as_raw()));
}

#[test]
fn dirty_pages_are_dropped_by_a_severing() {
    let (tree, memory) = tree(1);
    let Some(mount) = Mounted::new(&tree) else { return };
    let mapper = Mapper::start();
    mapper.open("f", &mount.at("memory"));
    mapper.map("m", "f", 1, "sw");
    mapper.poke("m", 0, "dirty");
    memory.hide().wait().unwrap();
    memory.show();
    // Through the old node, which is what dirty pages belong to.
    mapper.call("through again b f").unwrap();
    // Whether or not the kernel remembers that it could not write them.
    let _ = mapper.call("sync m");
    let _ = mapper.call("fsync again");
    mapper.call("unmap m").unwrap();
    assert_eq!(memory.bytes.lock().unwrap()[..5], *b"aaaaa");
    assert_eq!(mapper.call("pread again 5 0"), Ok("aaaaa".into()));
    mapper.open("new", &mount.at("memory"));
    mapper.map("m", "new", 1, "sw");
    mapper.assert_alive("m", 0, "aaaaa");
    mapper.poke("m", 0, "dirty");
    let memory = memory.remove().unwrap();
    assert_eq!(memory.bytes.into_inner().unwrap()[..5], *b"aaaaa");
}

#[test]
fn mappings_of_a_hidden_file_stay_dead_when_it_is_shown() {
    let (tree, memory) = tree(1);
    let Some(mount) = Mounted::new(&tree) else { return };
    let mapper = Mapper::start();
    mapper.open("f", &mount.at("memory"));
    mapper.map("m", "f", 1, "sw");
    mapper.map("copy", "f", 1, "pw");
    mapper.assert_alive("m", 0, "a");
    for _ in 0..50 {
        memory.hide().wait().unwrap();
        mapper.assert_dead("m", 0);
        memory.show();
        mapper.assert_dead("m", 0);
        mapper.assert_dead("copy", 0);
        // By its name it is there and can be mapped.
        mapper.open("fresh", &mount.at("memory"));
        mapper.map("new", "fresh", 1, "sw");
        mapper.assert_alive("new", 0, "a");
        // Through the old descriptor it can be read and written, but not mapped: its pages would
        // be those of the old mappings.
        mapper.call("through again b f").unwrap();
        assert_eq!(mapper.call("pread again 1 0"), Ok("a".into()));
        assert_eq!(mapper.call("pwrite again a 0"), Ok("1".into()));
        assert_eq!(mapper.call("map none again 1 s"), Err(Errno::NODEV));
        mapper.map("late", "again", 1, "p");
        mapper.assert_dead("late", 0);
        mapper.assert_dead("m", 0);
        mapper.assert_dead("copy", 0);
    }
    assert_eq!(mapper.call("pread f 1 0"), Err(Errno::NODEV));
}

/// Pages are locked while they are filled, and while what is written to them is on its way.
#[test]
fn a_page_that_is_on_its_way_at_a_severing_does_not_arrive() {
    let (read, write) = (("peek m 0 1", Err(Errno::FAULT)), ("pwrite f w 1", Ok("1".into())));
    for (hidden, (order, expected)) in
        [(false, read.clone()), (true, read), (false, write.clone()), (true, write)]
    {
        let (tree, memory) = tree(1);
        let other = tree.root().add_file("other", Mode::RW, Knob::new("other")).unwrap();
        let Some(mount) = Mounted::new(&tree) else { return };
        let door = Arc::new(Door::default());
        let (mapper, sleeper) = (Mapper::start(), Mapper::start());
        mapper.open("f", &mount.at("memory"));
        mapper.map("m", "f", 1, "sw");
        sleeper.open("g", &mount.at("memory"));
        // Edges of PRI.
        sleeper.call("epoll e g 80000002").unwrap();
        sleeper.call("epwait e -1").unwrap();
        sleeper.0.borrow_mut().block("epwait e -1");
        assert_eq!(fs::read(mount.at("other")).unwrap(), b"other");
        *memory.door.lock().unwrap() = Some(Arc::clone(&door));
        mapper.0.borrow_mut().begin(order);
        eventually("the driver to be asked", || door.waiting() == 1);
        thread::scope(|scope| {
            let severing = scope.spawn(|| {
                match hidden {
                    true => memory.hide().wait().unwrap(),
                    false => tree.root().sever_child("memory").unwrap().wait().unwrap(),
                };
            });
            eventually("the name to go", || !mount.at("memory").exists());
            // A page that is locked holds up nobody else.
            let _ = other.remove().unwrap();
            assert_eq!(sleeper.0.borrow_mut().answer(), Ok("a".into()), "PRI and ERR");
            assert!(!severing.is_finished());
            door.open();
            assert_eq!(mapper.0.borrow_mut().answer(), expected);
            severing.join().unwrap();
        });
        mapper.assert_dead("m", 0);
        memory.show();
        mapper.assert_dead("m", 0);
    }
}

#[test]
fn a_notification_while_a_page_is_on_its_way_comes_after_it() {
    let (tree, memory) = tree(1);
    let Some(mount) = Mounted::new(&tree) else { return };
    let door = Arc::new(Door::default());
    let mapper = Mapper::start();
    mapper.open("f", &mount.at("memory"));
    mapper.map("m", "f", 1, "sw");
    *memory.door.lock().unwrap() = Some(Arc::clone(&door));
    // The driver has taken the old value, and takes its time.
    mapper.0.borrow_mut().begin("peek m 0 1");
    eventually("the driver to be asked", || door.waiting() == 1);
    memory.fill(b'N');
    memory.notify();
    for _ in 0..20 {
        let other = tree.root().add_file("new", Mode::RW, Knob::new("new")).unwrap();
        assert_eq!(fs::read(mount.at("new")).unwrap(), b"new");
        let _ = other.remove().unwrap();
    }
    door.open();
    // The page can be dropped before the client has got at it: then it is filled anew.
    let answer = mapper.0.borrow_mut().answer().unwrap();
    assert!(answer == "a" || answer == "N", "{answer}");
    eventually("the new contents", || mapper.peek("m", 0, 1) == Ok("N".into()));
}

/// Maps a file that comes and goes, all the time; what was mapped before must never come back.
fn attack(path: &Path) -> ! {
    // Not longer than the test, however that ends.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
    let mut old: Vec<(File, Map)> = Vec::new();
    let mut mapped = 0u64;
    loop {
        for (file, map) in &old {
            assert_eq!(errno(map.peek(0, 1)), Errno::FAULT);
            // May read, and must not bring pages in.
            if let Ok(again) = File::open(through(file.as_fd())) {
                assert_eq!(errno(Map::new(&again, PAGE, true, false)), Errno::NODEV);
                if let Ok(map) = Map::new(&again, PAGE, false, false) {
                    assert_eq!(errno(map.peek(0, 1)), Errno::FAULT);
                }
            }
        }
        let Ok(file) = File::open(path) else { continue };
        // What was opened while the file went is direct, and cannot be mapped.
        let Ok(map) = Map::new(&file, PAGE, true, false) else { continue };
        while map.peek(0, 1).is_ok() {
            thread::yield_now();
        }
        old.push((file, map));
        if old.len() > 4 {
            old.remove(0);
        }
        mapped += 1;
        if mapped == 100 {
            std::process::exit(0);
        }
    }
}

#[test]
fn no_mapping_comes_back_while_the_file_comes_and_goes() {
    let (tree, memory) = tree(1);
    let Some(mount) = Mounted::new(&tree) else { return };
    let mut attackers: Vec<_> = (0..3)
        .map(|_| {
            let mut command = std::process::Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "client"]).env(ATTACK, mount.at("memory"));
            command.spawn().unwrap()
        })
        .collect();
    let until = Instant::now() + support::PATIENCE;
    while !attackers.is_empty() {
        memory.hide().wait().unwrap();
        memory.show();
        thread::sleep(Duration::from_micros(200));
        attackers.retain_mut(|attacker| match attacker.try_wait().unwrap() {
            Some(status) => {
                assert!(status.success(), "{status}");
                false
            }
            None => true,
        });
        assert!(Instant::now() < until, "they get at nothing");
    }
    mount.unmount_clean(&tree);
}

#[test]
fn a_driver_that_takes_nothing_fails_who_writes_through_the_page_cache() {
    let (tree, memory) = tree(1);
    let Some(mount) = Mounted::new(&tree) else { return };
    let mapper = Mapper::start();
    mapper.open("f", &mount.at("memory"));
    *memory.at_once.lock().unwrap() = Some(0);
    assert_eq!(mapper.call("pwrite f w 1"), Err(Errno::IO));
    *memory.refuses.lock().unwrap() = Some(Kernfs::EPERM);
    mapper.open("direct", &mount.at("memory"));
    assert_eq!(mapper.call("pwrite direct w 1"), Ok("0".into()));
}
