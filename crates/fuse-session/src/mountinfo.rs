//! What is mounted where, from `/proc/self/mountinfo`.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MountEntry {
    /// Where it is mounted.
    pub(crate) path: PathBuf,
    /// Its type, such as `fuse.kernfs`.
    pub(crate) fstype: String,
    /// Major and minor number of its filesystem.
    pub(crate) device: (u32, u32),
}

/// Finds what is mounted exactly at a path, the topmost if there are several.
pub(crate) fn mounted_at(path: &Path) -> io::Result<Option<MountEntry>> {
    let table = fs::read("/proc/self/mountinfo")?;
    // A mount stands behind the one that it covers.
    Ok(table.split(|&byte| byte == b'\n').filter_map(parse_line).rfind(|entry| entry.path == path))
}

/// Reads a line: `ID PARENT MAJOR:MINOR ROOT PATH OPTIONS [TAGS...] - TYPE SOURCE OPTIONS`.
fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|&byte| byte == b' ');
    let device = std::str::from_utf8(fields.nth(2)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let path = unescape(fields.nth(1)?);
    fields.by_ref().find(|field| *field == b"-")?;
    let fstype = unescape(fields.next()?);
    Some(MountEntry {
        path: OsString::from_vec(path).into(),
        fstype: String::from_utf8_lossy(&fstype).into_owned(),
        device: (major.parse().ok()?, minor.parse().ok()?),
    })
}

/// Turns `\040` and its like, always three octal digits, into bytes.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail.get(..3).filter(|_| first == b'\\');
        let octal = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|octal| u8::from_str_radix(octal, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_tags_and_spaces_is_read() {
        let line =
            br"36 35 0:52 / /mnt/a\040b rw,noatime shared:1 master:2 - fuse.x src rw,user_id=0";
        let entry = parse_line(line).unwrap();
        assert_eq!(entry.path, Path::new("/mnt/a b"));
        assert_eq!(entry.fstype, "fuse.x");
        assert_eq!(entry.device, (0, 52));
    }

    #[test]
    fn broken_lines_are_passed_over() {
        for line in [&b""[..], b"1 2 3", b"1 2 0:1 / /x rw", b"1 2 a:b / /x rw - t s o"] {
            assert_eq!(parse_line(line), None);
        }
        assert_eq!(unescape(br"a\"), br"a\");
        assert_eq!(unescape(br"\777\04"), br"\777\04");
    }

    #[test]
    fn proc_is_mounted_at_proc() {
        let entry = mounted_at(Path::new("/proc")).unwrap().unwrap();
        assert_eq!(entry.fstype, "proc");
    }
}
