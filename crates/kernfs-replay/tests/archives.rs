//! Archives: those of others, and hostile ones.

use std::io::Write;
use std::process::Command;

use kernfs::{Errno, Mode};
use kernfs_replay::archive::Packing;
use kernfs_replay::{Content, Draft, Image, limits};
use tar::{EntryType, Header};

const PACKINGS: [Packing; 3] = [Packing::None, Packing::Gzip, Packing::Zstd];

fn bytes(bytes: &[u8]) -> Content {
    Content::Bytes(bytes.into())
}

/// A tree with something of everything.
fn image() -> Image {
    let mut draft = Draft::new(Mode::new(0o555));
    let long = [&[b'n'; 200][..], b"/", &[b'm'; 120]].concat();
    draft.add_dir(b"devices/fan0", Mode::DIR).unwrap();
    draft.add_dir(b"empty", Mode::new(0o700)).unwrap();
    draft.add_file(b"devices/fan0/rpm", Mode::RW, 4096, bytes(b"1200\n")).unwrap();
    draft.add_file(b"devices/fan0/name", Mode::RO, 4096, bytes(b"1200\n")).unwrap();
    draft.add_file(b"devices/fan0/rom", Mode::RO, 600, bytes(&[7; 600])).unwrap();
    draft.add_file(b"devices/fan0/no size", Mode::RO, 0, bytes(b"x")).unwrap();
    draft.add_file(b"devices/fan0/\xff%41\n", Mode::RO, 4096, Content::Blocks).unwrap();
    draft.add_file(b"devices/fan0/io", Mode::RO, 1, Content::ReadError(Errno::EIO)).unwrap();
    let odd = Errno::from_raw(524).unwrap();
    draft.add_file(b"devices/fan0/odd", Mode::RO, 4096, Content::OpenError(odd)).unwrap();
    draft.add_file(b"devices/fan0/reset", Mode::WO, 4096, Content::Unread).unwrap();
    draft.add_file(&long, Mode::RO, 4096, bytes(b"")).unwrap();
    draft.add_link(b"out", b"/etc/passwd").unwrap();
    draft.add_link(b"up", b"../../../..//x/./").unwrap();
    draft.add_link(b"far", &[b'f'; 300]).unwrap();
    draft.finish()
}

fn packed(image: &Image, packing: Packing) -> Vec<u8> {
    let mut archive = Vec::new();
    image.write(&mut archive, packing).unwrap();
    archive
}

#[test]
fn our_own_archives_are_read_as_they_were_written() {
    for packing in PACKINGS {
        let archive = packed(&image(), packing);
        assert_eq!(Image::read(&archive[..]).unwrap(), image(), "{packing:?}");
        assert_eq!(archive, packed(&image(), packing), "equal trees make equal archives");
    }
    let mut draft = Draft::new(Mode::DIR);
    let longest = vec![&[b'n'; limits::MAX_NAME][..]; limits::MAX_PATH / 256].join(&b'/');
    assert_eq!(longest.len(), limits::MAX_PATH - 1);
    draft.add_dir(&longest, Mode::DIR).unwrap();
    let image = draft.finish();
    assert_eq!(Image::read(&packed(&image, Packing::None)[..]).unwrap(), image);
    let empty = Draft::new(Mode::DIR).finish();
    assert_eq!(Image::read(&packed(&empty, Packing::None)[..]).unwrap(), empty);
}

#[test]
fn a_cut_archive_is_refused_wherever_it_is_cut() {
    for packing in PACKINGS {
        let archive = packed(&image(), packing);
        // Of the mark of the end, half is as good.
        let needed = if packing == Packing::None { archive.len() - 1024 } else { archive.len() };
        for len in (0..needed).step_by(if packing == Packing::None { 61 } else { 1 }) {
            let error = Image::read(&archive[..len]).expect_err("cut").to_string();
            assert!(error.starts_with("cannot read 'the archive': "), "{error}");
        }
    }
}

#[test]
fn a_flipped_bit_is_found_or_changes_nothing() {
    for packing in PACKINGS {
        let archive = packed(&image(), packing);
        let step = if packing == Packing::None { 3 } else { 1 };
        for at in (0..archive.len()).step_by(step) {
            let mut flipped = archive.clone();
            flipped[at] ^= 1 << (at % 8);
            if let Ok(read) = Image::read(&flipped[..]) {
                assert_eq!(read, image(), "{packing:?}: byte {at}");
            }
        }
    }
}

/// A tar archive by hand, in which anything can be said.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn entry(mut self, kind: EntryType, path: &[u8], link: &[u8], content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        let gnu = header.as_gnu_mut().unwrap();
        gnu.name[..path.len()].copy_from_slice(path);
        gnu.linkname[..link.len()].copy_from_slice(link);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, path: &str, content: &[u8]) -> Self {
        self.entry(EntryType::Regular, path.as_bytes(), b"", content)
    }

    fn read(&self) -> Result<Image, String> {
        Image::read(&self.0[..]).map_err(|error| error.to_string())
    }

    /// Checks that it is refused for an entry, with these words.
    fn assert_refused(&self, entry: &str, words: &str) {
        let error = self.read().expect_err("hostile");
        let start = format!("cannot read 'the archive': entry '{entry}': ");
        assert!(error.starts_with(&start), "{error}");
        assert!(error.contains(words), "{error}");
    }
}

const MANIFEST: &str = "kernfs-replay.manifest";

fn tar() -> Tar {
    Tar::default()
}

#[test]
fn archives_of_others_are_read() {
    let image = tar()
        .entry(EntryType::Directory, b"./box/", b"", b"")
        .file("./box/sys/value", b"1\n")
        .entry(EntryType::Symlink, b"box/link", b"sys/value", b"")
        .entry(EntryType::Link, b"box/same", b"box/sys/value", b"")
        .file("MANIFEST", b"not ours\n")
        .read()
        .unwrap();
    assert_eq!(image.len(), 7);
    let same = image.find("box/same").unwrap();
    assert_eq!((same.content(), same.size()), (Some(&bytes(b"1\n")), 2));
    assert_eq!(image.resolve("box/link").unwrap().path(), b"box/sys/value");
    assert_eq!(image.find("box").unwrap().mode().bits(), 0o644, "as it says");
    assert_eq!(image.find("box/sys").unwrap().mode().bits(), 0o755, "implied");
    assert_eq!(tar().entry(EntryType::Directory, b"./", b"", b"").read().unwrap().len(), 1);
    assert!(Image::read(&[0; 1024][..]).unwrap().is_empty());
}

#[test]
fn long_names_and_pax_headers_are_understood() {
    let long = [b'x'; 200];
    let image = tar()
        .entry(EntryType::GNULongName, b"././@LongLink", b"", &[&long[..], b"\0"].concat())
        .file("short", b"1")
        .entry(EntryType::XGlobalHeader, b"pax", b"", b"17 comment=words\n")
        .entry(EntryType::XHeader, b"pax", b"", b"15 path=a/path\n17 linkpath=../b\n")
        .entry(EntryType::Symlink, b"short", b"c", b"")
        .read()
        .unwrap();
    assert!(image.find(long).is_some());
    assert_eq!(image.find("a/path").unwrap().link_text(), Some(&b"../b"[..]));
    let sizes = tar()
        .entry(EntryType::XHeader, b"pax", b"", b"12 size=77\n\n".strip_suffix(b"\n").unwrap())
        .file("lies", b"1");
    let error = sizes.read().unwrap_err();
    assert!(error.contains("lies") || error.contains("extension"), "{error}");
}

#[test]
fn hostile_names_are_refused() {
    tar().file("a/../../etc/passwd", b"").assert_refused("a/../../etc/passwd", "leads upwards");
    tar().file("..", b"").assert_refused("..", "leads upwards");
    tar().file("/etc/passwd", b"").assert_refused("/etc/passwd", "absolute");
    tar().file("a", b"").file("./a", b"").assert_refused("./a", "already");
    tar().file("a", b"").file("a/b", b"").assert_refused("a/b", "below 'a'");
    tar()
        .entry(EntryType::Symlink, b"a", b"/etc", b"")
        .file("a/passwd", b"")
        .assert_refused("a/passwd", "below 'a', which is not a directory");
    let two = tar().entry(EntryType::Directory, b"d", b"", b"");
    two.entry(EntryType::Directory, b"d/", b"", b"").assert_refused("d/", "already");
    tar().file(".", b"").assert_refused(".", "the root");
    tar().entry(EntryType::Symlink, b"l", b"", b"").assert_refused("l", "no text");
    tar()
        .entry(EntryType::Link, b"l", b"/etc/passwd", b"")
        .assert_refused("l", "hard link to what is not a file before it");
    let deep = "d/".repeat(45) + "f";
    let deeper = [b"d/".repeat(limits::MAX_DEPTH + 1), b"f\0".to_vec()].concat();
    assert!(tar().file(&deep, b"").read().is_ok());
    let named = tar().entry(EntryType::GNULongName, b"././@LongLink", b"", &deeper);
    let error = named.file("f", b"").read().unwrap_err();
    assert!(error.contains("below more than 200 directories"), "{error}");
    let wide = tar().entry(EntryType::GNULongName, b"././@LongLink", b"", &[b'w'; 256]);
    let error = wide.file("f", b"").read().unwrap_err();
    assert!(error.contains("more than 255 bytes"), "{error}");
    let longer = tar().entry(EntryType::GNULongName, b"././@LongLink", b"", &[b'w'; 5000]);
    longer.file("f", b"").assert_refused("././@LongLink", "it has 5000 bytes; expected 4101");
}

#[test]
fn what_is_not_file_directory_or_link_is_refused() {
    for kind in [EntryType::Block, EntryType::Char, EntryType::Fifo] {
        tar().entry(kind, b"dev/sda", b"", b"").assert_refused("dev/sda", "a device or a pipe");
    }
    tar().entry(EntryType::GNUSparse, b"s", b"", b"").assert_refused("s", "its type is 'S'");
    tar().entry(EntryType::new(b'\xff'), b"s", b"", b"").assert_refused("s", "its type is");
}

#[test]
fn gigantic_sizes_are_refused_before_anything_is_read() {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_path("huge").unwrap();
    header.set_mode(0o644);
    for size in [limits::MAX_FILE as u64 + 1, 1 << 40, u64::MAX] {
        header.set_size(size);
        header.set_cksum();
        let archive = Tar(header.as_bytes().to_vec());
        let error = archive.read().unwrap_err();
        let named = error.contains("entry 'huge'") && error.contains("bytes");
        assert!(named || error.contains("size overflow"), "{error}");
    }
    // Announced, and not there.
    header.set_size(1 << 20);
    header.set_cksum();
    Tar(header.as_bytes().to_vec())
        .assert_refused("huge", "the archive ends after 0 of its 1048576");
}

#[test]
fn bombs_do_not_go_off() {
    // A stream that never ends, in a few kilobytes: after the end of an archive.
    let mut bomb = Vec::new();
    let mut encoder = zstd::Encoder::new(&mut bomb, 1).unwrap();
    encoder.write_all(&packed(&image(), Packing::None)).unwrap();
    let zeros = vec![0; 16 << 20];
    for _ in 0..=limits::MAX_UNPACKED / zeros.len() as u64 {
        encoder.write_all(&zeros).unwrap();
    }
    encoder.finish().unwrap();
    assert!(bomb.len() < 1 << 20, "{} bytes", bomb.len());
    let error = Image::read(&bomb[..]).unwrap_err().to_string();
    assert!(error.contains("more than 2147483648 bytes when decompressed"), "{error}");
}

#[test]
fn a_manifest_that_lies_is_refused() {
    let amended = |from: &str, to: &str| {
        let archive = packed(&image(), Packing::None);
        let at = archive.windows(from.len()).position(|part| part == from.as_bytes());
        let mut archive = archive;
        archive[at.unwrap()..][..to.len()].copy_from_slice(to.as_bytes());
        Image::read(&archive[..]).expect_err(to).to_string()
    };
    assert!(amended("kernfs-replay 1", "kernfs-replay 2").contains("its version is 2; expected 1"));
    assert!(amended("nodes 1", "nodes 9").contains("its manifest tells of 9"));
    assert!(amended("size 4", "size x").contains("is no number"));
    assert!(amended("crc32 ", "crc23 ").contains("expected 'crc32 ...'"));
    assert!(amended("read=5", "read=6").contains("checksum"));
    assert!(amended("kernfs-replay 1", "kernfs-rep1ay 1").contains("expected 'kernfs-replay ...'"));
    // The checksum of the lines is right in these.
    let said = |lines: &str, words: &str| {
        let mut crc = flate2::Crc::new();
        crc.update(b"\0a\x001\n");
        crc.update(lines.as_bytes());
        let head = format!("kernfs-replay 1\nnodes 2\nsize content\ncrc32 {:08x}\n", crc.sum());
        let archive = tar()
            .file(MANIFEST, (head + lines).as_bytes())
            .entry(EntryType::Directory, b"tree/", b"", b"")
            .file("tree/a", b"1\n");
        let error = archive.read().expect_err(lines);
        assert!(error.contains(words), "{error}");
    };
    let head = b"kernfs-replay 1\nnodes 1\nsize content\ncrc32 0\n";
    let besides = tar().file(MANIFEST, head).file("twig/up", b"");
    besides.assert_refused("twig/up", "it is not below 'tree/'");
    said("b size=1\n", "entry 'b': there is no such file");
    said("../a size=1\n", "there is no such file");
    said("a blocks\n", "it has a content, although it could not be read");
    said("a size=1 size=2\n", "entry 'a': 'size=2' says nothing");
    said("a read=0\n", "'read=0' says nothing");
    said("a\n\n", "there is no such file");
    said("a%4 size=1\n", "is not escaped as a path is");
    said("a%zz size=1\n", "is not escaped");
    said("a%é size=1\n", "is not escaped");
}

#[test]
fn what_is_no_archive_is_refused() {
    for not in
        [&b""[..], b"hello\n", b"\x1f\x8b\x08 nonsense", b"\x28\xb5\x2f\xfd nonsense", &[7; 600]]
    {
        let error = Image::read(not).unwrap_err().to_string();
        assert!(error.starts_with("cannot read 'the archive': "), "{error}");
    }
    let error = Image::read(&b"hello"[..]).unwrap_err();
    assert_eq!(error.entry(), None);
    assert!(error.why().contains("expected a tar archive, a record of umockdev, or a .ttar"));
    let error = Image::open("/nonexistent\n").unwrap_err().to_string();
    assert!(error.starts_with("cannot read '/nonexistent\\n': No such file"), "{error}");
}

const TTAR: &str = "\
# Archive created by ttar -c -f fixtures.ttar sys
Directory: sys
Mode: 755
# ttar - - - - -
Directory: sys/class/net
Mode: 775
Path: sys/class/net/mtu
Lines: 1
1500
Mode: 444
# ttar - - - - -
Path: sys/class/net/raw
Lines: 2
aNULLBYTEb\\EOF
Path: endEOF
Mode: 600
Path: sys/class/net/none
Lines: 0
Mode: 644
Path: sys/class/net/device
SymlinkTo: ../../devices/a b
";

#[test]
fn ttar_archives_are_read() {
    let image = Image::read(TTAR.as_bytes()).unwrap();
    let content = |path: &str| image.find(path).unwrap().content().unwrap().bytes();
    let mode = |path: &str| image.find(path).unwrap().mode().bits();
    assert_eq!(content("sys/class/net/mtu"), b"1500\n");
    assert_eq!(content("sys/class/net/raw"), b"a\0bEOF\nPath: end");
    assert_eq!(content("sys/class/net/none"), b"");
    assert_eq!((mode("sys/class/net"), mode("sys/class/net/raw")), (0o775, 0o600));
    let link = image.find("sys/class/net/device").unwrap();
    assert_eq!(link.link_text(), Some(&b"../../devices/a b"[..]));
    assert_eq!(image.len(), 8);
}

#[test]
fn hostile_ttar_archives_are_refused() {
    let said = |lines: &str, words: &str| {
        let text = format!("Directory: sys\n{lines}");
        let error = Image::read(text.as_bytes()).expect_err(lines).to_string();
        assert!(error.contains(words), "{error}");
    };
    said("Path: ../a\nLines: 0\nMode: 644\n", "entry '../a': the path leads upwards");
    said("Path: /a\nSymlinkTo: b\n", "entry '/a': the path is absolute");
    said("Path: a\nPath: b\n", "entry 'a': it has neither Lines nor SymlinkTo");
    said("Path: a\nLines: 2\nx\n", "entry 'a': the archive ends after 1 of its 2 lines");
    said("Path: a\nLines: 18446744073709551616\n", "line 3: '18446744073709551616' is no number");
    said("Path: a\nLines: 18446744073709551615\n", "ends after 0 of its");
    said("Path: a\nLines: 0\nMode: 9\n", "line 4: '9' is no mode");
    said("Mode: 755\nMode: 755\n", "line 3: a mode of nothing");
    said("Lines: 1\nx\n", "line 2: lines of nothing");
    said("SymlinkTo: x\n", "line 2: a link without a name");
    said("nonsense\n", "line 2: 'nonsense' is not understood; expected Directory, Path");
    said("Mode: 755\nDirectory: sys\n", "entry 'sys': there is a node of this name already");
}

const UMOCKDEV: &str = "\
P: /devices/pci0000:00/usb1
N: bus/usb/001/001=12010002
E: DEVNAME=/dev/bus/usb/001/001
E: DEVTYPE=usb_device
E: SUBSYSTEM=usb
A: dev=189:0\\n
A: power/control=auto\\n
A: product=Gr\\303\\266\\303\\237e \\\"1\\\"
H: descriptors=1201000Aff
L: driver=../../../bus/usb/drivers/usb


P: /devices/pci0000:00/usb1/net/eth0
U: net
S: ignored/too
E: SUBSYSTEM=net
A: mtu=1500\\n
";

#[test]
fn records_of_umockdev_are_read() {
    let image = Image::read(UMOCKDEV.as_bytes()).unwrap();
    let usb = "sys/devices/pci0000:00/usb1";
    let content = |path: &str| image.resolve(path).unwrap().content().unwrap().bytes();
    assert_eq!(content(&format!("{usb}/power/control")), b"auto\n");
    assert_eq!(content(&format!("{usb}/product")), "Größe \"1\"".as_bytes());
    assert_eq!(content(&format!("{usb}/descriptors")), [0x12, 1, 0, 10, 255]);
    let uevent = b"DEVNAME=bus/usb/001/001\nDEVTYPE=usb_device\nSUBSYSTEM=usb\n";
    assert_eq!(content(&format!("{usb}/uevent")), uevent);
    assert_eq!(content("dev/bus/usb/001/001"), [0x12, 1, 0, 2]);
    // The links of sysfs, there and back.
    assert_eq!(image.resolve(format!("{usb}/subsystem")).unwrap().path(), b"sys/bus/usb");
    assert_eq!(content("sys/bus/usb/devices/usb1/power/control"), b"auto\n");
    assert_eq!(content("sys/class/net/eth0/mtu"), b"1500\n");
    assert_eq!(content("sys/class/net/eth0/subsystem/eth0/mtu"), b"1500\n");
    assert_eq!(content("sys/dev/char/189:0/product"), "Größe \"1\"".as_bytes());
    let devices: Vec<_> = image.devices().iter().map(kernfs_replay::Entry::path).collect();
    assert_eq!(devices, [usb.as_bytes(), format!("{usb}/net/eth0").as_bytes()]);
}

#[test]
fn a_record_that_umockdev_makes_here_is_read() {
    let device = "/sys/devices/system/cpu/cpu0";
    let Ok(output) = Command::new("umockdev-record").arg(device).output() else {
        return eprintln!("skipped: there is no umockdev-record");
    };
    if !output.status.success() {
        return eprintln!("skipped: {}", String::from_utf8_lossy(&output.stderr));
    }
    let image = Image::read(&output.stdout[..]).unwrap();
    let cpu = image.resolve("sys/bus/cpu/devices/cpu0").unwrap();
    assert_eq!(cpu.path(), device.trim_start_matches('/').as_bytes());
    for attribute in ["topology/core_id", "topology/physical_package_id"] {
        let real = std::fs::read(format!("{device}/{attribute}")).unwrap();
        let read = image.find([&cpu.path()[..], b"/", attribute.as_bytes()].concat()).unwrap();
        assert_eq!(read.content(), Some(&bytes(&real)), "{attribute}");
    }
}

#[test]
fn hostile_records_of_umockdev_are_refused() {
    let said = |lines: &str, words: &str| {
        let text = format!("P: /devices/a\n{lines}");
        let error = Image::read(text.as_bytes()).expect_err(lines).to_string();
        assert!(error.contains(words), "{error}");
    };
    said("A: x=1\n", "entry 'sys/devices/a': it has no property SUBSYSTEM");
    said("E: SUBSYSTEM=usb\nE: SUBSYSTEM=net\n", "it has two properties SUBSYSTEM");
    said("E: SUBSYSTEM=../..\n", "the path leads upwards");
    said("A: ../../../etc/passwd=1\n", "entry 'sys/devices/a/../../../etc/passwd': the path leads");
    said("A: x=1\nA: x=2\n", "entry 'sys/devices/a/x': there is a node of this name already");
    said("A: x=1\nA: x/y=2\n", "it is below 'sys/devices/a/x', which is not a directory");
    said("H: x=1\n", "line 2: '1' is not hexadecimal");
    said("A: x\n", "line 2: 'A: x' is not understood");
    said("nonsense\n", "line 2: 'nonsense' is not understood");
    said("P: /devices/b\n", "line 2: a device begins within another");
    said("E: SUBSYSTEM=x\n\nA: x=1\n", "line 4: 'A: x=1' begins no device");
    said("E: SUBSYSTEM=x\n\nP: /devices/a\nE: SUBSYSTEM=x\n", "already");
    said("E: SUBSYSTEM=x\n\nP: /devices/../../b\nE: SUBSYSTEM=x\n", "the path leads upwards");
    said("L: x=\nE: SUBSYSTEM=x\n", "the link has no text");
    said("N: ../b=00\n", "entry 'dev/../b': the path leads upwards");
}
