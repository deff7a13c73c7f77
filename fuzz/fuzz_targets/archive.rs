//! Any bytes as an archive: read, or refused; what is read can be served, and written and read
//! again.
//!
//! Besides the bytes as they come, which may be compressed, they are taken as a description of a
//! tar archive whose checksums are right, as the lines of a manifest, and as texts of both kinds.

#![no_main]

use std::sync::Arc;

use arbitrary::{Arbitrary, Unstructured};
use kernfs::{Manners, Tree};
use kernfs_replay::{EntryKind, Image, Packing, ServeOptions, limits};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: Input<'_>| {
    match input {
        Input::AsItIs(bytes) => read(bytes),
        Input::Tar(members) => read(&tar(&members)),
        Input::Manifest(head, lines) => read(&ours(&head, lines)),
        Input::Umockdev(text) => read(&[b"P: /devices/", text].concat()),
        Input::Ttar(text) => read(&[b"Directory: d\n", text].concat()),
    }
});

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    AsItIs(&'a [u8]),
    Tar(Vec<Member<'a>>),
    Manifest(Head, &'a [u8]),
    Umockdev(&'a [u8]),
    Ttar(&'a [u8]),
}

/// A member of a tar archive.
#[derive(Debug)]
struct Member<'a> {
    kind: u8,
    mode: u16,
    name: &'a [u8],
    link: &'a [u8],
    content: &'a [u8],
    /// Told instead of the length of the content, if it is set.
    size: Option<u64>,
}

impl<'a> Arbitrary<'a> for Member<'a> {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let kind = *u.choose(b"0000055555222221LKLKxxg346S\0")?;
        let mode = u.arbitrary()?;
        let name: &[u8] = match u.int_in_range(0..=7)? {
            0 => b"a",
            1 => b"a/b",
            2 => b"b/c/d",
            3 => b"kernfs-replay.manifest",
            4 => b"tree/a",
            5 => b"..",
            _ => u.arbitrary()?,
        };
        let link: &[u8] = if u.ratio(1, 2)? { b"a" } else { u.arbitrary()? };
        let content = u.arbitrary()?;
        let size = if u.ratio(1, 16)? { Some(u.arbitrary()?) } else { None };
        Ok(Self { kind, mode, name, link, content, size })
    }
}

/// What a manifest begins with.
#[derive(Arbitrary, Debug)]
struct Head {
    nodes: u8,
    size: Option<u16>,
}

const BLOCK: usize = 512;

fn tar(members: &[Member<'_>]) -> Vec<u8> {
    let mut archive = Vec::new();
    for member in members {
        put(&mut archive, member);
    }
    archive
}

fn put(archive: &mut Vec<u8>, member: &Member<'_>) {
    let mut block = [0; BLOCK];
    let fill = |field: &mut [u8], text: &[u8]| {
        let len = text.len().min(field.len());
        field[..len].copy_from_slice(&text[..len]);
    };
    fill(&mut block[..100], member.name);
    fill(&mut block[100..108], format!("{:07o}\0", member.mode).as_bytes());
    let size = member.size.unwrap_or(member.content.len() as u64);
    fill(&mut block[124..136], format!("{:011o}\0", size % (1 << 33)).as_bytes());
    block[148..156].fill(b' ');
    block[156] = member.kind;
    fill(&mut block[157..257], member.link);
    fill(&mut block[257..265], b"ustar  \0");
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    fill(&mut block[148..156], format!("{sum:06o}\0 ").as_bytes());
    archive.extend_from_slice(&block);
    archive.extend_from_slice(member.content);
    archive.resize(archive.len().next_multiple_of(BLOCK), 0);
}

/// An archive of our own, whose checksum is right, with three files.
fn ours(head: &Head, lines: &[u8]) -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    for part in [&b"\0"[..], b"a\x001\n", b"b\0", b"c/d\0\0\0", lines] {
        crc.update(part);
    }
    let size = head.size.map_or("content".into(), |size| size.to_string());
    let nodes = if head.nodes < 128 { 4 } else { u32::from(head.nodes) };
    let sum = crc.sum();
    let head = format!("kernfs-replay 1\nnodes {nodes}\nsize {size}\ncrc32 {sum:08x}\n");
    let manifest = [head.as_bytes(), lines].concat();
    let mut archive = Vec::new();
    let mut add = |kind, name: &[u8], content: &[u8]| {
        let member = Member { kind, mode: 0o644, name, link: b"", content, size: None };
        put(&mut archive, &member);
    };
    add(b'0', b"kernfs-replay.manifest", &manifest);
    add(b'5', b"tree/", b"");
    add(b'0', b"tree/a", b"1\n");
    add(b'0', b"tree/b", b"");
    add(b'0', b"tree/c/d", b"\0\0");
    archive
}

/// Reads, and looks at everything that was found.
fn read(bytes: &[u8]) {
    let image = match Image::read(bytes) {
        Ok(image) => image,
        Err(error) => {
            let text = error.to_string();
            assert!(text.starts_with("cannot read ") && text.is_ascii(), "{text}");
            return;
        }
    };
    assert!(image.len() <= limits::MAX_NODES && image.content_bytes() <= limits::MAX_CONTENT);
    for entry in image.entries() {
        let path = entry.path();
        assert!(path.len() < limits::MAX_PATH && !path.starts_with(b"/"));
        assert!(path.split(|&byte| byte == b'/').all(|part| part != b".." && part != b"."));
        assert_eq!(image.find(&path).map(|found| found.at()), Some(entry.at()));
        let _ = (entry.target(), entry.kind() == EntryKind::Dir);
    }
    let _ = image.devices();
    let mut archive = Vec::new();
    image.write(&mut archive, Packing::None).expect("memory takes all");
    assert_eq!(Image::read(&archive[..]).expect("it is ours"), image);
    let tree = Tree::builder().manners(Manners::Sysfs).build();
    let image = Arc::new(image);
    let served = image.serve(&tree, &ServeOptions::new()).expect("an image can be served");
    assert_eq!(tree.usage().nodes, image.len());
    drop(served);
    assert_eq!(tree.usage().nodes, 1);
}
