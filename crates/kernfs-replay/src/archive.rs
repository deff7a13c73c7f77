//! Archives: what they are in, how they are told apart, and the format of our own.
//!
//! # The format
//!
//! A tar archive (GNU, with `L` and `K` entries for long names), compressed by zstd (`.tar.zst`,
//! `.tzst`), gzip (`.tar.gz`, `.tgz`) or not at all (`.tar`). The first member is the file
//! `kernfs-replay.manifest`; all others are the recorded tree, below `tree/`, parents before their children.
//! `tar xf` unpacks it into plain files.
//!
//! The manifest tells what tar cannot. It is text, in lines of fields that are separated by blanks:
//!
//! ```text
//! kernfs-replay 1
//! nodes 4
//! size 4096
//! crc32 7d3a96c1
//! proc/sys/kernel/random/uuid size=0
//! sys/devices/platform/adc/in0 read=110
//! sys/devices/platform/adc/events blocks
//! ```
//!
//! - `kernfs-replay 1`: the name of the format and its version, always first.
//! - `nodes N`: how many members are below `tree/`, itself included.
//! - `size N` or `size content`: what stat(2) told of the size of each file below that is not
//!   named, or that it was as many bytes as it has. A file that had more told so.
//! - `crc32 X`: the checksum, in hexadecimal, of each member in turn (its path from `tree/`, a NUL,
//!   and its content or the text of the link), followed by the lines below.
//! - Then a line for each file of which there is more to be said: its path from `tree/`, with
//!   blanks, controls, bytes beyond ASCII, and `%` as `%` and two hexadecimal digits; and some of
//!   `size=N`, what stat(2) told; `blocks`: reading it waited; `open=N`, `read=N`: the error
//!   number that open(2) or read(2) gave; `unread`: nobody has tried. All but the first exclude
//!   each other, and the member is empty then.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;

use crate::draft::Refused;
use crate::image::Image;
use crate::limits::{MAX_UNPACKED, MAX_WINDOW_LOG};
use crate::{tarball, ttar, umockdev};

impl Image {
    /// Reads an archive of any kind that is known.
    ///
    /// # Errors
    ///
    /// [`ArchiveError`] says what is wrong with which entry.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ArchiveError> {
        let path = path.as_ref();
        File::open(path)
            .map_err(Wrong::from)
            .and_then(|file| read(BufReader::new(file)))
            .map_err(|wrong| wrong.of(path.display().to_string()))
    }

    /// Reads an archive of any kind that is known from a stream, up to its end.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open).
    pub fn read(input: impl Read) -> Result<Self, ArchiveError> {
        read(BufReader::new(input)).map_err(|wrong| wrong.of("the archive".into()))
    }

    /// Writes an archive, compressed as the name of the file says.
    ///
    /// # Errors
    ///
    /// [`SaveError`]: the name says nothing that is known, or the file cannot be written; then it
    /// is removed.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), SaveError> {
        let path = path.as_ref();
        let packing = Packing::of(path)?;
        let failed = |error| SaveError::Io { path: path.to_path_buf(), error };
        let file = File::create(path).map_err(failed)?;
        self.write(BufWriter::new(file), packing).map_err(|error| {
            // Half an archive is worth nothing; that it cannot be removed adds nothing to it.
            let _ = fs::remove_file(path);
            failed(error)
        })
    }

    /// Writes an archive to a stream.
    ///
    /// # Errors
    ///
    /// What writing gave.
    pub fn write(&self, output: impl Write, packing: Packing) -> io::Result<()> {
        match packing {
            Packing::None => tarball::write(self, output)?.flush(),
            Packing::Gzip => {
                let output = GzEncoder::new(output, flate2::Compression::default());
                tarball::write(self, output)?.finish()?.flush()
            }
            Packing::Zstd => {
                let mut output = zstd::Encoder::new(output, ZSTD_LEVEL)?;
                output.include_checksum(true)?;
                tarball::write(self, output)?.finish()?.flush()
            }
        }
    }
}

/// Few recordings are large, and all are read more often than they are made.
const ZSTD_LEVEL: i32 = 12;

/// How an archive is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Not at all: `.tar`.
    None,
    /// By gzip: `.tar.gz`, `.tgz`.
    Gzip,
    /// By zstd: `.tar.zst`, `.tzst`.
    Zstd,
}

impl Packing {
    /// Returns what the name of a file says.
    ///
    /// # Errors
    ///
    /// [`SaveError::Name`]: nothing that is known.
    pub fn of(path: &Path) -> Result<Self, SaveError> {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        let ends = |with: &[&str]| with.iter().any(|end| name.ends_with(end.as_bytes()));
        if ends(&[".tar.zst", ".tzst"]) {
            Ok(Self::Zstd)
        } else if ends(&[".tar.gz", ".tgz"]) {
            Ok(Self::Gzip)
        } else if ends(&[".tar"]) {
            Ok(Self::None)
        } else {
            Err(SaveError::Name(path.to_path_buf()))
        }
    }
}

/// Why an archive could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SaveError {
    /// The name says nothing about the format.
    #[error(
        "cannot tell from '{}' what to write; expected a name in .tar.zst, .tzst, .tar.gz, .tgz or \
         .tar",
        .0.display()
    )]
    Name(PathBuf),
    /// The file could not be written.
    #[error("cannot write '{}': {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// Why an archive could not be read: which one, which entry of it, what is wrong there.
#[derive(Debug)]
pub struct ArchiveError {
    archive: String,
    wrong: Wrong,
}

impl ArchiveError {
    /// Returns the entry in which reading ended, escaped where it is not ASCII; of text formats
    /// also the line.
    #[must_use]
    pub fn entry(&self) -> Option<&str> {
        self.wrong.entry.as_deref()
    }

    /// Returns what is wrong, and what was expected instead.
    #[must_use]
    pub fn why(&self) -> &str {
        &self.wrong.why
    }
}

impl fmt::Display for ArchiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot read '{}'", self.archive.escape_debug())?;
        if let Some(entry) = self.entry() {
            write!(f, ": {entry}")?;
        }
        write!(f, ": {}", self.why())
    }
}

impl std::error::Error for ArchiveError {}

/// What is wrong in an archive.
#[derive(Debug)]
pub(crate) struct Wrong {
    entry: Option<String>,
    why: String,
}

impl Wrong {
    pub(crate) fn new(why: impl Into<String>) -> Self {
        Self { entry: None, why: why.into() }
    }

    /// Names the entry, unless what is in it was named.
    pub(crate) fn at(mut self, path: &[u8]) -> Self {
        self.entry.get_or_insert_with(|| format!("entry '{}'", path.escape_ascii()));
        self
    }

    /// Names the line, unless an entry was named.
    pub(crate) fn at_line(mut self, number: usize) -> Self {
        self.entry.get_or_insert_with(|| format!("line {number}"));
        self
    }

    pub(crate) fn why(&self) -> &str {
        &self.why
    }

    fn of(self, archive: String) -> ArchiveError {
        ArchiveError { archive, wrong: self }
    }
}

impl From<Refused> for Wrong {
    fn from(refused: Refused) -> Self {
        Self::new(refused.to_string())
    }
}

impl From<io::Error> for Wrong {
    /// Takes what a library says, which may quote what is in the archive.
    fn from(error: io::Error) -> Self {
        let is_plain = |c: char| c == ' ' || c.is_ascii_graphic();
        let escape =
            |c: char| if is_plain(c) { c.to_string() } else { c.escape_default().to_string() };
        Self::new(error.to_string().chars().map(escape).collect::<String>())
    }
}

/// Decompresses, and reads whatever it is.
fn read(mut input: impl BufRead) -> Result<Image, Wrong> {
    let start = input.fill_buf()?;
    if start.starts_with(&GZIP_MAGIC) {
        read_unpacked(MultiGzDecoder::new(input))
    } else if start.starts_with(&ZSTD_MAGIC) {
        let mut decoder = zstd::Decoder::with_buffer(input)?;
        decoder.window_log_max(MAX_WINDOW_LOG)?;
        read_unpacked(decoder)
    } else {
        read_unpacked(input)
    }
}

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

fn read_unpacked(input: impl Read) -> Result<Image, Wrong> {
    let mut input = BufReader::with_capacity(BUFFER, Bounded { input, left: MAX_UNPACKED });
    // A buffer is filled by one read, which may give less than a header.
    let mut start = Vec::new();
    input.by_ref().take(SNIFFED).read_to_end(&mut start)?;
    let is_tar = tarball::is_tar(&start);
    let line = first_line(&start);
    let (is_ttar, is_umockdev) = (ttar::is_one(line), umockdev::is_one(line));
    let mut input = io::Cursor::new(start).chain(input);
    let image = if is_tar {
        tarball::read(&mut input)?
    } else if is_umockdev {
        umockdev::read(&mut input)?
    } else if is_ttar {
        ttar::read(&mut input)?
    } else {
        return Err(Wrong::new(UNKNOWN));
    };
    // The checksum of the compressed stream is behind all that it has.
    io::copy(&mut input, &mut io::sink())?;
    Ok(image)
}

/// Returns the first line that is no comment of somebody's own.
fn first_line(start: &[u8]) -> &[u8] {
    let mut lines = start.split(|&byte| byte == b'\n');
    let says = |line: &&[u8]| !line.is_empty() && (!line.starts_with(b"#") || ttar::is_one(line));
    lines.find(says).unwrap_or_default()
}

/// A header of tar, or a few lines.
const SNIFFED: u64 = 512;
const UNKNOWN: &str = "it is no archive that is known; expected a tar archive, a record of \
                       umockdev, or a .ttar";

/// A few headers of tar at once.
const BUFFER: usize = 64 << 10;

/// A stream that must not have more than a number of bytes.
struct Bounded<R> {
    input: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.input.read(buf)?;
        self.left = self.left.checked_sub(len as u64).ok_or_else(|| {
            io::Error::other(format!("it has more than {MAX_UNPACKED} bytes when decompressed"))
        })?;
        Ok(len)
    }
}
