//! Reading and writing.

mod support;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::Ordering;

use kernfs::{Errno as Kernfs, FileOptions, Kind, Manners, Mode, OpenOp, ReadOp, Tree, show};
use rustix::fs::OFlags;
use rustix::io::Errno;
use support::drivers::{Events, Knob};
use support::{Mounted, errno, eventually};

fn read_write(mount: &Mounted, name: &str) -> File {
    OpenOptions::new().read(true).write(true).open(mount.at(name)).unwrap()
}

#[test]
fn a_value_is_read_and_written() {
    let tree = Tree::new();
    let knob = tree.root().add_file("knob", Mode::RW, Knob::new("one\n")).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    assert_eq!(fs::read(mount.at("knob")).unwrap(), b"one\n");
    fs::write(mount.at("knob"), "two\n").unwrap();
    assert_eq!(knob.get(), b"two\n");
    assert_eq!(fs::read(mount.at("knob")).unwrap(), b"two\n");
    eventually("each open file to be released", || knob.releases.load(Ordering::Relaxed) == 3);
    mount.unmount_clean(&tree);
}

#[test]
fn partial_reads_are_of_one_text() {
    let tree = Tree::new();
    let knob = tree.root().add_file("knob", Mode::RW, Knob::new("0123456789")).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let mut file = read_write(&mount, "knob");
    let mut half = [0; 5];
    file.read_exact(&mut half).unwrap();
    assert_eq!(&half, b"01234");
    knob.set("abcdefghij");
    file.read_exact(&mut half).unwrap();
    assert_eq!(&half, b"56789", "the rest of the text that was begun");
    assert_eq!(file.read(&mut half).unwrap(), 0);
    assert_eq!(file.read_at(&mut half, 2).unwrap(), 5);
    assert_eq!(&half, b"cdefg", "any other offset begins again");
    assert_eq!(file.read_at(&mut half, 10).unwrap(), 0);
    assert_eq!(file.read_at(&mut half, 1 << 30).unwrap(), 0);
}

#[test]
fn a_long_text_comes_in_pieces() {
    let tree = Tree::new();
    let text: String = (0..60_000).map(|n| format!("{n}\n")).collect();
    let long = text.clone();
    let file = show(move |op: &mut ReadOp<'_>| op.push(long.as_bytes()));
    let _long = tree.root().add_file("long", Mode::RO, file).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    assert_eq!(fs::read_to_string(mount.at("long")).unwrap(), text);
}

#[test]
fn a_write_over_a_page_is_refused_whole() {
    let tree = Tree::new();
    let knob = tree.root().add_file("knob", Mode::RW, Knob::new("old")).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let mut file = read_write(&mount, "knob");
    assert_eq!(errno(file.write(&[b'x'; 4097])), Errno::TOOBIG);
    assert_eq!(knob.get(), b"old");
    assert_eq!(file.write(&[b'x'; 4096]).unwrap(), 4096);
    assert_eq!(knob.get(), [b'x'; 4096]);
    // Severed: the size is looked at first.
    let _ = knob.remove().unwrap();
    assert_eq!(errno(file.write(&[b'x'; 4097])), Errno::TOOBIG);
    assert_eq!(errno(file.write(b"x")), Errno::NODEV);
}

#[test]
fn sysfs_takes_the_first_page_of_a_write() {
    let tree = Tree::builder().manners(Manners::Sysfs).build();
    let knob = tree.root().add_file("knob", Mode::RW, Knob::new("old")).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let mut file = read_write(&mount, "knob");
    assert_eq!(file.write(&[b'x'; 5000]).unwrap(), 4096);
    assert_eq!(knob.get(), [b'x'; 4096]);
    assert_eq!(fs::metadata(mount.at("knob")).unwrap().len(), 4096);
    // Even for root: the mode has no bit for writing.
    let fixed = show(|op: &mut ReadOp<'_>| op.push(b"fixed"));
    let _fixed = tree.root().add_file("fixed", Mode::RO, fixed).unwrap();
    let write = OpenOptions::new().write(true).open(mount.at("fixed"));
    assert_eq!(errno(write), Errno::ACCESS);
}

#[test]
fn offsets_of_a_text_are_ignored_by_writes() {
    let tree = Tree::new();
    let knob = tree.root().add_file("knob", Mode::RW, Knob::new("")).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let file = read_write(&mount, "knob");
    assert_eq!(file.write_at(b"five", 5).unwrap(), 4);
    assert_eq!(knob.get(), b"five");
    let mut append = OpenOptions::new().append(true).open(mount.at("knob")).unwrap();
    append.write_all(b"more").unwrap();
    assert_eq!(knob.get(), b"more");
    assert_eq!(fs::metadata(mount.at("knob")).unwrap().len(), 0);
    // It never gets as far as us.
    assert_eq!(append.write(b"").unwrap(), 0);
}

#[test]
fn truncation_succeeds_and_changes_nothing() {
    for manners in [Manners::Cgroup, Manners::Sysfs] {
        let tree = Tree::builder().manners(manners).build();
        let knob = tree.root().add_file("knob", Mode::RW, Knob::new("kept")).unwrap();
        let Some(mount) = Mounted::new(&tree) else { return };
        let before = fs::metadata(mount.at("knob")).unwrap();
        let file = OpenOptions::new().write(true).truncate(true).open(mount.at("knob")).unwrap();
        file.set_len(0).unwrap();
        file.set_len(9).unwrap();
        support::sys::truncate(&mount.at("knob"), 3).unwrap();
        let after = fs::metadata(mount.at("knob")).unwrap();
        assert_eq!(before.len(), after.len());
        assert_eq!(before.modified().unwrap(), after.modified().unwrap());
        assert_eq!(fs::read(mount.at("knob")).unwrap(), b"kept");
        drop(knob);
    }
}

#[test]
fn a_binary_file_is_read_and_written_at_offsets() {
    struct Memory(std::sync::Mutex<[u8; 16]>);

    impl kernfs::FileOps for Memory {
        type Open = ();
        const KIND: Kind = Kind::Binary;

        fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Kernfs> {
            Ok(())
        }

        fn read(&self, (): &mut (), op: &mut ReadOp<'_>) -> Result<(), Kernfs> {
            let at = usize::try_from(op.offset()).unwrap();
            let bytes = *self.0.lock().unwrap();
            op.push(&bytes[at..16.min(at + op.max_len())]);
            Ok(())
        }

        fn write(&self, (): &mut (), op: &mut kernfs::WriteOp<'_>) -> Result<usize, Kernfs> {
            let at = usize::try_from(op.offset()).unwrap();
            let end = at + op.data().len();
            let mut bytes = self.0.lock().unwrap();
            bytes.get_mut(at..end).ok_or(Kernfs::EFBIG)?.copy_from_slice(op.data());
            Ok(op.data().len())
        }
    }

    let tree = Tree::new();
    let options = FileOptions::new(Mode::RW).size(16);
    let memory = Memory((*b"0123456789abcdef").into());
    let _memory = tree.root().add_file("memory", options, memory).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let file = read_write(&mount, "memory");
    let mut four = [0; 4];
    assert_eq!(file.read_at(&mut four, 14).unwrap(), 2);
    assert_eq!(&four[..2], b"ef");
    assert_eq!(file.write_at(b"XY", 4).unwrap(), 2);
    file.read_exact_at(&mut four, 3).unwrap();
    assert_eq!(&four, b"3XY6");
    assert_eq!(file.read_at(&mut four, 16).unwrap(), 0);
    assert_eq!(errno(file.write_at(b"x", 16)), Errno::FBIG);
    assert_eq!(fs::metadata(mount.at("memory")).unwrap().len(), 16);
}

#[test]
fn a_stream_delivers_each_event_once() {
    let tree = Tree::new();
    let events = tree.root().add_file("events", Mode::RO, Events::default()).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let nonblocking = |file: &mut OpenOptions| {
        file.custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    };
    let mut options = OpenOptions::new();
    nonblocking(options.read(true));
    let mut file = options.open(mount.at("events")).unwrap();
    let mut buf = [0; 64];
    assert_eq!(errno(file.read(&mut buf)), Errno::AGAIN);
    Events::push(&events, "a");
    Events::push(&events, "b");
    assert_eq!(file.read(&mut buf).unwrap(), 1);
    assert_eq!(buf[0], b'a');
    assert_eq!(file.read(&mut buf).unwrap(), 1);
    assert_eq!(buf[0], b'b');
    assert_eq!(errno(file.read(&mut buf)), Errno::AGAIN);
    assert_eq!(errno(file.seek(SeekFrom::Start(0))), Errno::SPIPE);
}

#[test]
fn the_end_is_sought_without_data_or_holes() {
    let tree = Tree::new();
    let knob = tree.root().add_file("knob", Mode::RW, Knob::new("text")).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let mut file = read_write(&mount, "knob");
    assert_eq!(file.seek(SeekFrom::End(0)).unwrap(), 0);
    assert_eq!(errno(file.seek(SeekFrom::End(-1))), Errno::INVAL);
    let seek = |from| rustix::fs::seek(&file, from);
    assert_eq!(seek(rustix::fs::SeekFrom::Data(0)), Err(Errno::NXIO));
    assert_eq!(seek(rustix::fs::SeekFrom::Hole(0)), Err(Errno::NXIO));
    knob.set_size(10);
    assert_eq!(seek(rustix::fs::SeekFrom::End(0)), Ok(10));
    assert_eq!(seek(rustix::fs::SeekFrom::Data(3)), Ok(3));
    assert_eq!(seek(rustix::fs::SeekFrom::Hole(3)), Ok(10));
    let _ = knob.remove().unwrap();
    assert_eq!(seek(rustix::fs::SeekFrom::Data(0)), Err(Errno::NODEV));
    // The kernel does not ask us: the differences to a kernfs of its own.
    assert_eq!(seek(rustix::fs::SeekFrom::Start(0)), Ok(0));
    assert_eq!(seek(rustix::fs::SeekFrom::End(0)), Ok(10));
}

#[test]
fn what_makes_no_sense_here_is_refused_as_by_the_kernel() {
    let tree = Tree::new();
    let _knob = tree.root().add_file("knob", Mode::RW, Knob::new("text")).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let file = read_write(&mount, "knob");
    assert_eq!(errno(support::sys::tcgets(&file)), Errno::NOTTY);
    file.sync_all().unwrap();
    file.sync_data().unwrap();
    let mut direct = OpenOptions::new();
    direct.read(true).custom_flags(OFlags::DIRECT.bits().cast_signed());
    assert_eq!(errno(direct.open(mount.at("knob"))), Errno::INVAL);
    let write_only = show(|op: &mut ReadOp<'_>| op.push(b"x"));
    let _read_only = tree.root().add_file("ro", Mode::RW, write_only).unwrap();
    let mut file = read_write(&mount, "ro");
    assert_eq!(errno(file.write(b"x")), Errno::INVAL, "the driver has no write");
    let shared = support::map_shared(&file);
    assert_eq!(shared, Err(Errno::NODEV));
}

#[test]
fn open_files_end_at_the_limit_of_the_tree() {
    const LIMIT: usize = 100;
    let limits = kernfs::Limits { open_files: LIMIT, ..kernfs::Limits::DEFAULT };
    let tree = Tree::builder().limits(limits).build();
    let _knob = tree.root().add_file("knob", Mode::RW, Knob::new("text")).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let mut files: Vec<_> = (0..LIMIT).map(|_| read_write(&mount, "knob")).collect();
    assert_eq!(errno(File::open(mount.at("knob"))), Errno::NFILE);
    assert_eq!(mount.stats().handles, LIMIT);
    files.pop();
    eventually("a file to be closed", || tree.usage().open_files < LIMIT);
    files.push(read_write(&mount, "knob"));
    drop(files);
    eventually("all to be closed", || tree.usage().open_files == 0);
    assert_eq!(mount.stats().handles, 0);
}

#[test]
fn an_open_file_costs_no_more_than_what_is_asked_of_it() {
    const ROUNDS: u64 = 100;
    let tree = Tree::new();
    let _knob = tree.root().add_file("knob", Mode::RW, Knob::new("text")).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    drop(read_write(&mount, "knob"));
    eventually("the first to be closed", || mount.stats().handles == 0);
    let before = mount.stats().requests;
    for _ in 0..ROUNDS {
        let mut file = read_write(&mount, "knob");
        assert_eq!(file.read(&mut [0; 9]).unwrap(), 4);
    }
    eventually("all to be closed", || mount.stats().handles == 0);
    let asked = mount.stats().requests - before;
    // OPEN, READ and RELEASE; the last may not be counted yet.
    assert!(asked < 3 * ROUNDS + ROUNDS / 2, "{asked} requests");
}

#[test]
fn splice_writes_as_write_does_and_reads_by_way_of_pages() {
    let tree = Tree::new();
    let _from = tree.root().add_file("from", Mode::RW, Knob::new("text")).unwrap();
    let sized = FileOptions::new(Mode::RW).size(4096);
    let sized = tree.root().add_file("sized", sized, Knob::new("text")).unwrap();
    let to = tree.root().add_file("to", Mode::RW, Knob::new("")).unwrap();
    let Some(mount) = Mounted::new(&tree) else { return };
    let (read, write) = rustix::pipe::pipe().unwrap();
    let flags = rustix::pipe::SpliceFlags::empty();
    let splice_out =
        |file: &File| rustix::pipe::splice(file, None, &write, None, 4096, flags).map(drop);
    // A difference to the kernel's own: there are no pages below a size of 0.
    let from = read_write(&mount, "from");
    assert_eq!(rustix::pipe::splice(&from, None, &write, None, 4096, flags), Ok(0));
    let file = read_write(&mount, "sized");
    splice_out(&file).unwrap();
    let into = read_write(&mount, "to");
    assert_eq!(rustix::pipe::splice(&read, None, &into, None, 4, flags), Ok(4));
    assert_eq!(to.get(), b"text");
    // The pages go with the file.
    let _ = sized.remove().unwrap();
    let mut again = &file;
    again.rewind().unwrap();
    assert_eq!(splice_out(&file), Err(Errno::NODEV));
    let _ = to.remove().unwrap();
    rustix::io::write(&write, b"text").unwrap();
    assert_eq!(rustix::pipe::splice(&read, None, &into, None, 4, flags), Err(Errno::NODEV));
}
