//! C. Severing by removal: descriptors are open first, then the directory goes.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use super::{ALL_EVENTS, Case, ERR, Env, IN, OUT, PRI, Place, RDNORM, WRNORM, ok, refused};
use crate::subject::{Fd, How, Kind, Needs, errno, flags, whence};

const GROUP: &str = "C. Severing by removal";
const SEVERED: u32 = IN | PRI | OUT | ERR | RDNORM | WRNORM;

pub(super) const CASES: &[Case] = &[
    Case { needs: Needs::FILES, ..case("25", "reads and writes are ENODEV", reads_and_writes) },
    Case { needs: Needs::FILES, ..case("26", "a read of length 0 is 0", empty_read) },
    Case { needs: Needs::FILES, ..case("27", "a write of length 0 is ENODEV", empty_write) },
    Case {
        needs: Needs::FILES,
        ..case("28", "a write over the limit is E2BIG; with sysfs manners ENODEV", long_write)
    },
    Case { needs: Needs::FILES, ..case("29", "a read at the end is ENODEV, not 0", read_at_end) },
    Case {
        needs: Needs::FILES,
        ..case("30", "what a partial read left is delivered, then ENODEV", remainder)
    },
    Case { needs: Needs::FILES, ..case("31", "lseek is ENODEV", seeks) },
    Case {
        needs: Needs::FILES,
        ..case("32", "poll answers everything at once, select too", polls)
    },
    Case { needs: Needs::FILES, ..case("33", "epoll reports a dead descriptor", epoll) },
    Case { needs: Needs::FILES, ..case("34", "mmap is ENODEV", mmap) },
    Case {
        needs: Needs::DEVICES.union(Needs::MAPPED_FILE),
        ..case("34", "a mapping is gone, and the next touch SIGBUS", mapping)
    },
    Case { needs: Needs::FILES, ..case("35", "what concerns the inode still works", inode_calls) },
    Case {
        needs: Needs::FILES,
        ..case("36", "reopening by way of the descriptor is ENODEV", reopen)
    },
    case("37", "a new node of the same name does not revive the old descriptor", same_name),
    case("38", "a directory removed by rmdir is ENOENT to its descriptors", dead_directory),
    Case {
        needs: Needs::DEVICES,
        ..case("39", "a directory removed by its owner lists . and .. only", unregistered)
    },
    Case {
        needs: Needs::CGROUPS.union(Needs::HANDLES),
        ..case("40", "a handle is ESTALE though a descriptor is open", handle)
    },
    Case { needs: Needs::FILES, ..case("41", "rmdir with 50 idle descriptors returns", idle) },
    Case {
        needs: Needs::FILES.union(Needs::REAL_DESCRIPTORS),
        ..case("42", "a client that is stopped in its own memory delays no removal", stalled)
    },
    case("43", "a storm of operations, mkdir and rmdir gives only the known errors", storm),
    case("44", "of two rmdirs at once one succeeds, the other is ENOENT", two_rmdirs),
    Case {
        needs: Needs::DEVICES,
        ..case("45", "renaming a live directory keeps descriptors and moves links", rename)
    },
    Case {
        needs: Needs::DEVICES.union(Needs::NAMESPACES),
        ..case("46", "moving to another namespace keeps descriptors, hides the path", namespace)
    },
    Case {
        needs: Needs::ATTRIBUTES,
        ..case("47", "an attribute removed and added again does not revive descriptors", renew)
    },
];

const fn case(number: &'static str, title: &'static str, run: fn(&Env<'_>)) -> Case {
    Case { number, group: GROUP, title, needs: Needs::CGROUPS, run }
}

/// Opens the file to read and write of a fresh place, reads it, and removes the place.
fn severed(env: &Env<'_>) -> (Place, Fd) {
    let place = env.place();
    let fd = env.open(&place.rw, flags::O_RDWR);
    ok(env.s.pread(fd, 4096, 0), "read");
    env.sever(&place);
    (place, fd)
}

fn reads_and_writes(env: &Env<'_>) {
    let (_, fd) = severed(env);
    for _ in 0..3 {
        refused(&env.s.read(fd, 10), errno::ENODEV, "read");
        refused(&env.s.pread(fd, 10, 0), errno::ENODEV, "pread");
        refused(&env.s.write(fd, b"1"), errno::ENODEV, "write");
        refused(&env.s.pwrite(fd, b"1", 0), errno::ENODEV, "pwrite");
    }
    if env.s.can().contains(Needs::REAL_DESCRIPTORS) {
        refused(&env.s.splice_write(fd, b"1"), errno::ENODEV, "splice in");
        let out = [env.s.splice_read(fd, 10), env.s.sendfile(fd, 10)];
        if env.s.kind() == Kind::Mount {
            // It is not asked, as the file has size 0.
            assert_eq!(out, [Ok(vec![]), Ok(vec![])]);
            env.differs("FUSE splices nothing out of files of size 0");
        } else {
            assert_eq!(out, [Err(errno::ENODEV), Err(errno::ENODEV)]);
        }
    }
    ok(env.s.close(fd), "close");
}

fn empty_read(env: &Env<'_>) {
    let (_, fd) = severed(env);
    assert_eq!(env.s.read(fd, 0).as_deref(), Ok(&b""[..]));
    ok(env.s.close(fd), "close");
}

fn empty_write(env: &Env<'_>) {
    let (_, fd) = severed(env);
    match env.s.kind() {
        // An empty write never reaches a FUSE server.
        Kind::Mount => {
            assert_eq!(env.s.write(fd, b""), Ok(0));
            env.differs("FUSE answers an empty write itself, 0");
        }
        Kind::InProcess | Kind::Kernel => refused(&env.s.write(fd, b""), errno::ENODEV, "write"),
    }
    ok(env.s.close(fd), "close");
}

fn long_write(env: &Env<'_>) {
    let (place, fd) = severed(env);
    refused(&env.s.write(fd, &[b'1'; 4096]), errno::ENODEV, "4096 bytes");
    let limit = if place.device.is_none() { errno::E2BIG } else { errno::ENODEV };
    refused(&env.s.write(fd, &[b'1'; 4097]), limit, "4097 bytes");
    ok(env.s.close(fd), "close");
    if env.s.can().contains(Needs::DEVICES) {
        let device = ok(env.s.device(), "a device");
        let fd = env.open(&format!("{}/{}", device.dir, device.rw), flags::O_RDWR);
        ok(env.s.unregister(&device), "unregister");
        refused(&env.s.write(fd, &[b'1'; 4097]), errno::ENODEV, "4097 bytes in sysfs");
        ok(env.s.close(fd), "close");
    }
}

fn read_at_end(env: &Env<'_>) {
    let place = env.place();
    let fd = env.open(&place.text, flags::O_RDONLY);
    let text = ok(env.s.read(fd, 4096), "read");
    assert_eq!(env.s.read(fd, 10).as_deref(), Ok(&b""[..]), "at the end, alive");
    env.sever(&place);
    refused(&env.s.read(fd, 10), errno::ENODEV, "at the end, severed");
    refused(&env.s.pread(fd, 10, text.len() as u64), errno::ENODEV, "at the end, severed");
    ok(env.s.close(fd), "close");
}

fn remainder(env: &Env<'_>) {
    let place = env.place();
    let whole = env.contents(&place.text).into_bytes();
    let fd = env.open(&place.text, flags::O_RDONLY);
    let mut got = ok(env.s.read(fd, 5), "read");
    env.sever(&place);
    got.extend(ok(env.s.read(fd, 3), "the rest, in part"));
    got.extend(ok(env.s.read(fd, 4096), "the rest"));
    assert_eq!(got, whole);
    refused(&env.s.read(fd, 10), errno::ENODEV, "read after the rest");
    refused(&env.s.pread(fd, 10, 0), errno::ENODEV, "pread from the start");
    ok(env.s.close(fd), "close");
}

fn seeks(env: &Env<'_>) {
    let (_, fd) = severed(env);
    let seeks = [whence::SEEK_SET, whence::SEEK_CUR, whence::SEEK_END];
    let seeks = seeks.map(|from| env.s.lseek(fd, 0, from));
    match env.s.kind() {
        Kind::Mount => {
            // A FUSE server never hears of these; of SEEK_END it may, for the size.
            assert_eq!(seeks, [Ok(0), Ok(0), Ok(0)]);
            env.differs("FUSE seeks without asking");
        }
        Kind::InProcess | Kind::Kernel => assert_eq!(seeks, [Err(errno::ENODEV); 3]),
    }
    ok(env.s.close(fd), "close");
}

fn polls(env: &Env<'_>) {
    let (_, fd) = severed(env);
    for _ in 0..3 {
        assert_eq!(env.s.poll(fd, ALL_EVENTS), Ok(SEVERED));
        assert_eq!(env.s.poll(fd, 0), Ok(ERR));
        assert_eq!(env.s.poll(fd, PRI), Ok(PRI | ERR));
        assert_eq!(env.s.poll(fd, IN), Ok(IN | ERR));
    }
    let all = IN | OUT | PRI;
    assert_eq!(env.s.wait(fd, all, How::Select, super::DEADLINE), Ok(all), "all three sets");
    ok(env.s.close(fd), "close");
}

fn epoll(env: &Env<'_>) {
    let (_, fd) = severed(env);
    assert_eq!(env.s.wait(fd, PRI, How::Epoll, super::DEADLINE), Ok(PRI | ERR));
    if env.s.can().contains(Needs::EDGE_TRIGGERED_EPOLL) {
        let edge = ok(env.s.epoll_edge(fd, PRI), "an edge-triggered epoll");
        assert_eq!(env.s.epoll_wait(edge, super::DEADLINE), Ok(PRI | ERR));
        assert_eq!(env.s.epoll_wait(edge, Duration::ZERO), Ok(0), "it is reported once");
        ok(env.s.close(edge), "close");
    }
    ok(env.s.close(fd), "close");
}

fn mmap(env: &Env<'_>) {
    let (_, fd) = severed(env);
    refused(&env.s.mmap(fd, 4096), errno::ENODEV, "mmap of a severed control file");
    ok(env.s.close(fd), "close");
}

fn mapping(env: &Env<'_>) {
    let device = ok(env.s.device(), "a device");
    let (name, size) = device.mapped.clone().expect("a file to map");
    let fd = env.open(&format!("{}/{name}", device.dir), flags::O_RDONLY);
    let len = usize::try_from(size).unwrap();
    let map = ok(env.s.mmap(fd, len), "mmap");
    assert_eq!(env.s.map_read(map, 251, 3).as_deref(), Ok(&[0, 1, 2][..]));
    ok(env.s.unregister(&device), "unregister");
    refused(&env.s.map_read(map, 0, 1), errno::EFAULT, "a touch of the old mapping");
    match env.s.mmap(fd, len) {
        Ok(late) if env.s.kind() == Kind::Mount => {
            refused(&env.s.map_read(late, 0, 1), errno::EFAULT, "a touch of a late mapping");
            env.differs("FUSE maps what is severed, and a touch is SIGBUS");
        }
        late => refused(&late, errno::ENODEV, "another mmap"),
    }
    ok(env.s.munmap(map), "munmap");
    ok(env.s.close(fd), "close");
}

fn inode_calls(env: &Env<'_>) {
    let place = env.place();
    let before = ok(env.s.stat(&place.rw), "stat");
    let fd = env.open(&place.rw, flags::O_RDWR);
    env.sever(&place);
    let after = ok(env.s.fstat(fd), "fstat");
    assert_eq!((after.ino, after.size), (before.ino, before.size));
    assert!(after.nlink <= 1, "1 up to Linux 6.18, 0 from 7.1");
    ok(env.s.fchmod(fd, 0o600), "fchmod");
    assert_eq!(ok(env.s.fstat(fd), "fstat").mode & 0o7777, 0o600);
    if place.device.is_none() {
        ok(env.s.fsetxattr(fd, "user.late", b"1"), "fsetxattr");
    }
    let twin = ok(env.s.dup(fd), "dup");
    refused(&env.s.read(twin, 10), errno::ENODEV, "a read of the duplicate");
    ok(env.s.close(twin), "close");
    if env.s.can().contains(Needs::REAL_DESCRIPTORS) {
        ok(env.s.flock(fd), "flock");
        ok(env.s.fsync(fd), "fsync");
    }
    ok(env.s.close(fd), "close");
    refused(&env.s.close(fd), errno::EBADF, "a second close");
}

fn reopen(env: &Env<'_>) {
    let (_, fd) = severed(env);
    refused(&env.s.reopen(fd, flags::O_RDONLY), errno::ENODEV, "reopen");
    ok(env.s.close(fd), "close");
    if env.s.can().contains(Needs::REAL_DESCRIPTORS) {
        let place = env.place();
        let path = env.open(&place.rw, flags::O_PATH);
        env.sever(&place);
        refused(&env.s.reopen(path, flags::O_RDONLY), errno::ENODEV, "a reopen of O_PATH");
        ok(env.s.close(path), "close");
    }
}

fn same_name(env: &Env<'_>) {
    let t = env.cgroup();
    let fd = env.open(&format!("{t}/cgroup.freeze"), flags::O_RDWR);
    ok(env.s.rmdir(&t), "rmdir");
    let old = ok(env.s.fstat(fd), "fstat").ino;
    refused(&env.s.stat(&t), errno::ENOENT, "stat of the removed");
    ok(env.s.mkdir(&t), "mkdir");
    let path = format!("{t}/cgroup.freeze");
    assert_eq!(env.contents(&path), "0\n");
    assert_ne!(ok(env.s.stat(&path), "stat").ino, old);
    refused(&env.s.pread(fd, 10, 0), errno::ENODEV, "a read of the old");
    refused(&env.s.write(fd, b"1"), errno::ENODEV, "a write to the old");
    assert_eq!(env.contents(&path), "0\n");
    ok(env.s.close(fd), "close");
}

fn dead_directory(env: &Env<'_>) {
    let t = env.cgroup();
    let fd = env.open(&t, flags::O_DIRECTORY);
    ok(env.s.rmdir(&t), "rmdir");
    refused(&env.s.openat(fd, "cgroup.freeze", flags::O_RDONLY), errno::ENOENT, "openat");
    refused(&env.s.mkdirat(fd, "a"), errno::ENOENT, "mkdirat");
    refused(&env.s.getdents(fd, 10), errno::ENOENT, "getdents");
    ok(env.s.fstat(fd), "fstat");
    ok(env.s.close(fd), "close");
    if env.s.can().contains(Needs::REAL_DESCRIPTORS) {
        let t = env.cgroup();
        let cwd = env.s.cwd_of(&t, &mut || ok(env.s.rmdir(&t), "rmdir"));
        refused(&cwd, errno::ENOENT, "getcwd");
    }
}

fn unregistered(env: &Env<'_>) {
    let device = ok(env.s.device(), "a device");
    let fd = env.open(&device.dir, flags::O_DIRECTORY);
    ok(env.s.unregister(&device), "unregister");
    let names: Vec<_> = ok(env.s.getdents(fd, 64), "getdents");
    let names: Vec<_> = names.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, [".", ".."]);
    refused(&env.s.openat(fd, &device.rw, flags::O_RDONLY), errno::ENOENT, "openat");
    ok(env.s.close(fd), "close");
}

fn handle(env: &Env<'_>) {
    let t = env.cgroup();
    let path = format!("{t}/cgroup.freeze");
    let handle = ok(env.s.name_to_handle(&path), "name_to_handle_at");
    let fd = ok(env.s.open_by_handle(handle, flags::O_RDONLY), "open_by_handle_at");
    ok(env.s.rmdir(&t), "rmdir");
    let late = env.s.open_by_handle(handle, flags::O_RDONLY);
    if env.s.kind() == Kind::Mount {
        // The kernel finds the node, since it is open, and asks to open it.
        refused(&late, errno::ENODEV, "a late handle");
        env.differs("FUSE knows the node while it is open: ENODEV");
    } else {
        refused(&late, errno::ESTALE, "a late handle");
    }
    ok(env.s.fstat(fd), "fstat");
    ok(env.s.close(fd), "close");
}

fn idle(env: &Env<'_>) {
    let place = env.place();
    let fds: Vec<_> = (0..50).map(|_| env.open(&place.rw, flags::O_RDWR)).collect();
    // That it returns at all is what is asserted: the descriptors are held until after.
    env.sever(&place);
    for fd in fds {
        refused(&env.s.read(fd, 1), errno::ENODEV, "read");
        ok(env.s.close(fd), "close");
    }
}

fn stalled(env: &Env<'_>) {
    let place = env.place();
    let fd = env.open(&place.rw, flags::O_RDWR);
    let text = ok(env.s.pread(fd, 4096, 0), "read");
    ok(env.s.lseek(fd, 0, whence::SEEK_SET), "lseek");
    let other = env.open(&place.rw, flags::O_RDWR);
    let stalls = [env.s.stall(), env.s.stall()];
    let [Ok(read), Ok(write)] = stalls else {
        ok(env.s.close(fd), "close");
        return env.cannot("userfaultfd is not permitted");
    };
    thread::scope(|scope| {
        let reader = scope.spawn(|| read.read(fd, 100));
        let writer = scope.spawn(|| write.write(other, 1));
        read.until_stalled();
        write.until_stalled();
        // It returns, though they are inside of their system calls.
        env.sever(&place);
        assert!(!reader.is_finished() && !writer.is_finished());
        read.go_on();
        write.go_on();
        if env.s.kind() == Kind::Mount {
            // FUSE takes hold of the memory first: the read has not begun.
            assert_eq!(reader.join().unwrap(), Err(errno::ENODEV));
            env.differs("FUSE stops a reader before it has read, so that it gets ENODEV");
        } else {
            assert_eq!(reader.join().unwrap(), Ok(text.len()), "what was read is delivered");
        }
        assert_eq!(writer.join().unwrap(), Err(errno::ENODEV), "nothing was written yet");
    });
    ok(env.s.close(fd), "close");
    ok(env.s.close(other), "close");
}

fn storm(env: &Env<'_>) {
    let top = env.cgroup();
    let t = format!("{top}/t");
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for at in 0..6 {
            let (t, is_over) = (&t, &is_over);
            scope.spawn(move || {
                while !is_over.load(SeqCst) {
                    use_it(env, t, at);
                    thread::yield_now();
                }
            });
        }
        let removes = || {
            for round in 0..300 {
                ok(env.s.mkdir(&t), "mkdir");
                let _ = env.put(&format!("{t}/cgroup.freeze"), b"1");
                if round % 3 == 0 && env.s.can().contains(Needs::PRESSURE_FILES) {
                    ok(env.put(&format!("{t}/cgroup.pressure"), b"0"), "hide");
                    ok(env.put(&format!("{t}/cgroup.pressure"), b"1"), "show");
                }
                ok(env.s.rmdir(&t), "rmdir in a storm");
            }
        };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(removes));
        is_over.store(true, SeqCst);
        result.unwrap();
    });
    ok(env.s.rmdir(&top), "rmdir");
}

fn use_it(env: &Env<'_>, t: &str, at: usize) {
    let names = ["cgroup.events", "cgroup.freeze", "cgroup.stat", "cpu.pressure"];
    let fd = match env.s.open(&format!("{t}/{}", names[at % names.len()]), flags::O_RDWR) {
        Ok(fd) => fd,
        Err(number) => return known(number, "open"),
    };
    let _ = env.s.poll(fd, ALL_EVENTS).map_err(|number| known(number, "poll"));
    let _ = env.s.pread(fd, 4096, 0).map_err(|number| known(number, "pread"));
    let _ = env.s.write(fd, b"1").map_err(|number| known(number, "write"));
    let _ = env.s.wait(fd, IN, How::Poll, super::DEADLINE).map_err(|number| known(number, "wait"));
    let _ = env.s.stat(t).map_err(|number| known(number, "stat"));
    ok(env.s.close(fd), "close");
}

fn known(number: i32, what: &str) {
    let known = [errno::ENODEV, errno::ENOENT, errno::EINVAL, errno::EBUSY, errno::EBADF];
    assert!(known.contains(&number), "{what} in a storm: errno {number}");
}

fn two_rmdirs(env: &Env<'_>) {
    let t = format!("{}/t", env.cgroup());
    for _ in 0..300 {
        ok(env.s.mkdir(&t), "mkdir");
        let barrier = std::sync::Barrier::new(2);
        let mut results = thread::scope(|scope| {
            let racer = || {
                barrier.wait();
                env.s.rmdir(&t)
            };
            let other = scope.spawn(racer);
            [racer(), other.join().unwrap()]
        });
        results.sort_unstable();
        assert_eq!(results, [Ok(()), Err(errno::ENOENT)]);
    }
}

fn rename(env: &Env<'_>) {
    let device = ok(env.s.device(), "a device");
    let fd = env.open(&format!("{}/{}", device.dir, device.rw), flags::O_RDWR);
    let ino = ok(env.s.stat(&device.dir), "stat").ino;
    let new = format!("{}x", device.dir.rsplit('/').next().unwrap());
    let renamed = ok(env.s.rename_device(&device, &new), "rename");
    refused(&env.s.stat(&device.dir), errno::ENOENT, "stat of the old path");
    assert_eq!(ok(env.s.stat(&renamed.dir), "stat").ino, ino);
    ok(env.s.pread(fd, 16, 0), "the descriptor goes on");
    let text = ok(env.s.readlink(&renamed.link), "readlink");
    assert!(text.ends_with(&format!("/{new}")), "{text}");
    ok(env.s.unregister(&renamed), "unregister");
    refused(&env.s.pread(fd, 16, 0), errno::ENODEV, "read");
    ok(env.s.close(fd), "close");
}

fn namespace(env: &Env<'_>) {
    let device = ok(env.s.device(), "a device");
    let fd = env.open(&format!("{}/{}", device.dir, device.rw), flags::O_RDONLY);
    let dir = env.open(&device.dir, flags::O_DIRECTORY);
    let ino = ok(env.s.stat(&device.dir), "stat").ino;
    ok(env.s.move_device(&device, true), "move away");
    refused(&env.s.stat(&device.dir), errno::ENOENT, "stat of what is elsewhere");
    ok(env.s.pread(fd, 16, 0), "the descriptor goes on");
    let child = ok(env.s.openat(dir, &device.rw, flags::O_RDONLY), "openat");
    ok(env.s.close(child), "close");
    ok(env.s.move_device(&device, false), "move back");
    assert_eq!(ok(env.s.stat(&device.dir), "stat").ino, ino);
    ok(env.s.unregister(&device), "unregister");
    refused(&env.s.pread(fd, 16, 0), errno::ENODEV, "read");
    ok(env.s.close(fd), "close");
    ok(env.s.close(dir), "close");
}

fn renew(env: &Env<'_>) {
    let attribute = ok(env.s.attribute(), "an attribute");
    let path = &attribute.path;
    let fd = env.open(path, flags::O_RDONLY);
    let ino = ok(env.s.stat(path), "stat").ino;
    ok(env.s.set_present(&attribute, false), "remove");
    refused(&env.s.stat(path), errno::ENOENT, "stat of the removed");
    ok(env.s.set_present(&attribute, true), "add again");
    assert_ne!(ok(env.s.stat(path), "stat").ino, ino);
    for _ in 0..2 {
        refused(&env.s.pread(fd, 16, 0), errno::ENODEV, "a read of the old");
        assert_eq!(env.s.poll(fd, PRI), Ok(PRI | ERR));
        env.contents(path);
    }
    ok(env.s.close(fd), "close");
}
