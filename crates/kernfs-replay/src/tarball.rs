//! Tar archives: our own, and those of others.

use std::borrow::Cow;
use std::io::{self, Read, Write};

use kernfs::Mode;
use tar::{Archive, EntryType, Header, PaxExtensions};

use crate::archive::Wrong;
use crate::draft::Draft;
use crate::image::{Content, Entry, EntryKind, Image};
use crate::limits::{MAX_FILE, MAX_MANIFEST, MAX_PATH};
use crate::manifest::{self, Manifest};

/// The member that tells what tar cannot.
const MANIFEST: &[u8] = b"kernfs-replay.manifest";
/// The directory that has the recorded tree.
const TREE: &[u8] = b"tree";
/// The longest name that a header has room for, in bytes; longer ones get an entry of their own.
const HEADER_NAME: usize = 100;
/// The name of entries that have the name of the next one.
const LONG_LINK: &[u8] = b"././@LongLink";
/// The most bytes of an extended header: a path, a link, and what else tar may want to say.
const MAX_EXTENSIONS: usize = 64 << 10;

/// Writes an image as an archive of our own, and returns the stream.
pub(crate) fn write<W: Write>(image: &Image, mut output: W) -> io::Result<W> {
    let manifest = manifest::render(image);
    append(&mut output, EntryType::Regular, MANIFEST, 0o644, &[], &manifest)?;
    for entry in image.entries() {
        let mut path = TREE.to_vec();
        if entry.parent().is_some() {
            path.push(b'/');
            path.extend(entry.path());
        }
        append_entry(&mut output, entry, &path)?;
    }
    // The end of an archive.
    output.write_all(&[0; 2 * BLOCK])?;
    Ok(output)
}

const BLOCK: usize = 512;

fn append_entry(output: &mut impl Write, entry: Entry<'_>, path: &[u8]) -> io::Result<()> {
    let mode = u32::from(entry.mode().bits());
    match entry.kind() {
        EntryKind::Dir => append(output, EntryType::Directory, path, mode, &[], &[]),
        EntryKind::File => {
            let content = entry.content().map_or(&[][..], Content::bytes);
            append(output, EntryType::Regular, path, mode, &[], content)
        }
        EntryKind::Link => {
            let text = entry.link_text().unwrap_or_default();
            append(output, EntryType::Symlink, path, mode, text, &[])
        }
    }
}

fn append(
    output: &mut impl Write,
    kind: EntryType,
    path: &[u8],
    mode: u32,
    link: &[u8],
    content: &[u8],
) -> io::Result<()> {
    for (kind, long) in [(EntryType::GNULongName, path), (EntryType::GNULongLink, link)] {
        if long.len() > HEADER_NAME {
            let long = [long, b"\0"].concat();
            append_block(output, kind, LONG_LINK, 0, &[], &long)?;
        }
    }
    append_block(output, kind, path, mode, link, content)
}

fn append_block(
    output: &mut impl Write,
    kind: EntryType,
    path: &[u8],
    mode: u32,
    link: &[u8],
    content: &[u8],
) -> io::Result<()> {
    // Owner 0 and time 0: equal trees make equal archives.
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(content.len() as u64);
    if let Some(gnu) = header.as_gnu_mut() {
        fill(&mut gnu.name, path);
        fill(&mut gnu.linkname, link);
    }
    header.set_cksum();
    output.write_all(header.as_bytes())?;
    output.write_all(content)?;
    let padding = content.len().next_multiple_of(BLOCK) - content.len();
    output.write_all(&[0; BLOCK][..padding])
}

fn fill(field: &mut [u8; HEADER_NAME], text: &[u8]) {
    let len = text.len().min(HEADER_NAME);
    field[..len].copy_from_slice(&text[..len]);
}

/// Tells whether a stream that begins with these bytes is a tar archive.
pub(crate) fn is_tar(start: &[u8]) -> bool {
    let Some(block) = start.first_chunk::<BLOCK>() else {
        return false;
    };
    // Nothing but the end is an archive, too.
    if block.iter().all(|&byte| byte == 0) {
        return true;
    }
    let header = Header::from_byte_slice(block);
    // The checksum counts its own field as blanks.
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    let own: u32 = block[148..156].iter().map(|&byte| u32::from(byte)).sum();
    header.cksum().is_ok_and(|cksum| cksum == sum - own + 8 * u32::from(b' '))
}

/// Reads an archive.
pub(crate) fn read(input: impl Read) -> Result<Image, Wrong> {
    let mut archive = Archive::new(input);
    let mut reading = Reading {
        draft: Draft::new(Mode::DIR),
        manifest: None,
        members: 0,
        ahead: Ahead::default(),
        last: Vec::new(),
    };
    // Raw: what extends headers comes as entries, so that nothing is taken without a bound.
    let entries = archive.entries()?.raw(true);
    for entry in entries {
        let after = |wrong: Wrong, last: &[u8]| match last {
            [] => wrong,
            last => Wrong::new(format!("{} (after this entry)", wrong.why())).at(last),
        };
        let mut entry = entry.map_err(|error| after(error.into(), &reading.last))?;
        reading.take(&mut entry)?;
    }
    reading.finish()
}

/// An archive that is being read.
struct Reading {
    draft: Draft,
    /// Present if it is an archive of our own.
    manifest: Option<Manifest>,
    members: usize,
    ahead: Ahead,
    /// The path of the last entry.
    last: Vec<u8>,
}

/// What was said about the next entry.
#[derive(Default)]
struct Ahead {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Reading {
    fn take<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<(), Wrong> {
        let kind = entry.header().entry_type();
        match kind {
            EntryType::XHeader => return self.take_extensions(entry),
            // Says things about all that follows, none of which matter here.
            EntryType::XGlobalHeader => {
                return contents(entry, MAX_EXTENSIONS, b"global header").map(drop);
            }
            EntryType::GNULongName => {
                self.ahead.path = Some(long_name(entry)?);
                return Ok(());
            }
            EntryType::GNULongLink => {
                self.ahead.link = Some(long_name(entry)?);
                return Ok(());
            }
            _ => {}
        }
        let ahead = std::mem::take(&mut self.ahead);
        let path = ahead.path.unwrap_or_else(|| entry.path_bytes().into_owned());
        self.last.clone_from(&path);
        let link = ahead.link.or_else(|| entry.link_name_bytes().map(Cow::into_owned));
        let size = entry.header().entry_size().map_err(|error| Wrong::from(error).at(&path))?;
        if ahead.size.is_some_and(|said| said != size) {
            return Err(Wrong::new("its headers tell two different sizes").at(&path));
        }
        let member = Member { path, link: link.unwrap_or_default(), size };
        self.members += 1;
        self.put(entry, kind, &member).map_err(|wrong| wrong.at(&member.path))
    }

    fn put<R: Read>(
        &mut self,
        entry: &mut tar::Entry<'_, R>,
        kind: EntryType,
        member: &Member,
    ) -> Result<(), Wrong> {
        let mode = entry.header().mode()?;
        let mode = Mode::new(u16::try_from(mode & 0o7777).unwrap_or_default());
        if self.members == 1 && kind.is_file() && member.path == MANIFEST {
            self.manifest = Some(Manifest::parse(contents(entry, MAX_MANIFEST, MANIFEST)?)?);
            self.members = 0;
            return Ok(());
        }
        let path = self.place(&member.path)?;
        match kind {
            EntryType::Directory => {
                self.check(path, b"");
                self.draft.add_dir(path, mode)?;
            }
            EntryType::Regular | EntryType::Continuous => {
                let bytes = contents(entry, MAX_FILE, &member.path)?;
                self.check(path, &bytes);
                self.draft.add_file(path, mode, member.size, Content::Bytes(bytes.into()))?;
            }
            EntryType::Symlink => {
                self.check(path, &member.link);
                self.draft.add_link(path, &member.link)?;
            }
            EntryType::Link => {
                let target = self.place(&member.link)?;
                let content = self.draft.content(target).ok_or_else(|| {
                    Wrong::new("it is a hard link to what is not a file before it")
                })?;
                let size = content.bytes().len() as u64;
                self.draft.add_file(path, mode, size, content)?;
            }
            EntryType::Block | EntryType::Char | EntryType::Fifo => {
                return Err(Wrong::new("it is a device or a pipe; expected no such thing"));
            }
            other => {
                let kind = (other.as_byte() as char).escape_default();
                return Err(Wrong::new(format!(
                    "its type is '{kind}'; expected a directory, a file or a link"
                )));
            }
        }
        Ok(())
    }

    fn check(&mut self, path: &[u8], payload: &[u8]) {
        if let Some(manifest) = &mut self.manifest {
            manifest.check(path, payload);
        }
    }

    /// Returns where a member is in the image.
    fn place<'p>(&self, path: &'p [u8]) -> Result<&'p [u8], Wrong> {
        if self.manifest.is_none() {
            return Ok(path);
        }
        let below = path.strip_prefix(TREE);
        let below = below
            .and_then(|rest| if rest.is_empty() { Some(rest) } else { rest.strip_prefix(b"/") });
        below.ok_or_else(|| Wrong::new("it is not below 'tree/', where its manifest has it"))
    }

    fn take_extensions<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<(), Wrong> {
        let bytes = contents(entry, MAX_EXTENSIONS, b"extended header")?;
        for extension in PaxExtensions::new(&bytes) {
            let extension = extension?;
            let value = extension.value_bytes().to_vec();
            match extension.key_bytes() {
                b"path" => self.ahead.path = Some(value),
                b"linkpath" => self.ahead.link = Some(value),
                b"size" => {
                    let size = std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok());
                    let wrong = || Wrong::new("an extended header tells a size that is no number");
                    self.ahead.size = Some(size.ok_or_else(wrong)?);
                }
                key if key.starts_with(b"GNU.sparse") => {
                    return Err(Wrong::new("it has sparse files, which are not supported"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Image, Wrong> {
        let Self { mut draft, manifest, members, .. } = self;
        if let Some(manifest) = manifest {
            manifest.apply(&mut draft, members)?;
        }
        Ok(draft.finish())
    }
}

/// What the headers tell of a member.
struct Member {
    path: Vec<u8>,
    link: Vec<u8>,
    size: u64,
}

/// Reads the contents of an entry, all of them or none.
fn contents<R: Read>(
    entry: &mut tar::Entry<'_, R>,
    most: usize,
    path: &[u8],
) -> Result<Vec<u8>, Wrong> {
    let size = entry.header().entry_size().map_err(|error| Wrong::from(error).at(path))?;
    if size > most as u64 {
        return Err(Wrong::new(format!("it has {size} bytes; expected {most} at most")).at(path));
    }
    let mut bytes = Vec::new();
    // No room for what is only announced.
    entry.read_to_end(&mut bytes).map_err(|error| Wrong::from(error).at(path))?;
    if bytes.len() as u64 != size {
        let why = format!("the archive ends after {} of its {size} bytes", bytes.len());
        return Err(Wrong::new(why).at(path));
    }
    Ok(bytes)
}

fn long_name<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<Vec<u8>, Wrong> {
    // With a NUL, as all of them; what is ours is below a directory.
    let mut name = contents(entry, MAX_PATH + TREE.len() + 1, LONG_LINK)?;
    if name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}
