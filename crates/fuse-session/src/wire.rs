//! Takes one message of the kernel apart.
//!
//! [`parse`] is a pure function, total on any bytes: it never panics, never
//! allocates and never looks behind the message.

#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use zerocopy::FromBytes;

use crate::abi::{self, fuse_opcode as code};
use crate::attr::Timestamp;
use crate::op::*;

/// Takes a message apart.
///
/// # Errors
///
/// [`ParseError`] says what is wrong; its [`unique`](ParseError::unique) is
/// there when the request can still be answered.
pub fn parse(message: &[u8]) -> Result<(Request, Operation<'_>), ParseError> {
    let (header, rest) = abi::fuse_in_header::read_from_prefix(message)
        .map_err(|_| ParseError::Header { len: message.len() })?;
    if header.len as usize != message.len() {
        return Err(ParseError::Length { claimed: header.len, len: message.len() });
    }
    if header.unique == 0 {
        return Err(ParseError::Unique);
    }
    let request = Request {
        unique: header.unique,
        opcode: header.opcode,
        nodeid: header.nodeid,
        uid: header.uid,
        gid: header.gid,
        pid: header.pid,
    };
    let malformed = ParseError::Body { unique: header.unique, opcode: header.opcode };
    // Extensions stand at the end, counted in units of eight bytes.
    let extensions = usize::from(header.total_extlen) * 8;
    let Some(end) = rest.len().checked_sub(extensions) else {
        return Err(malformed);
    };
    match operation(&request, Body(&rest[..end])) {
        Ok(operation) => Ok((request, operation)),
        Err(Reject::Malformed) => Err(malformed),
        Err(Reject::Unknown) => {
            Err(ParseError::Opcode { unique: header.unique, opcode: header.opcode })
        }
    }
}

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The message has no room for a header.
    #[error("message of {len} bytes is shorter than a request header")]
    Header {
        /// Length of the message.
        len: usize,
    },
    /// The header claims another length.
    #[error("request header claims {claimed} bytes, the message has {len}")]
    Length {
        /// What the header says.
        claimed: u32,
        /// Length of the message.
        len: usize,
    },
    /// The request has number 0, which belongs to notifications.
    #[error("request number 0")]
    Unique,
    /// The operation is not one of ours.
    #[error("request {unique} has the unknown operation {opcode}")]
    Opcode {
        /// Number of the request.
        unique: u64,
        /// The operation.
        opcode: u32,
    },
    /// The body does not fit its operation.
    #[error("request {unique} has a malformed body for operation {opcode}")]
    Body {
        /// Number of the request.
        unique: u64,
        /// The operation.
        opcode: u32,
    },
}

impl ParseError {
    /// Returns the number of the request, if it got that far.
    #[must_use]
    pub const fn unique(&self) -> Option<u64> {
        match *self {
            Self::Opcode { unique, .. } | Self::Body { unique, .. } => Some(unique),
            Self::Header { .. } | Self::Length { .. } | Self::Unique => None,
        }
    }
}

enum Reject {
    Malformed,
    Unknown,
}

type Parsed<T> = Result<T, Reject>;

/// Chooses the shape of the body by the operation.
fn operation<'a>(request: &Request, mut body: Body<'a>) -> Parsed<Operation<'a>> {
    let operation = match request.opcode {
        op if op == code::FUSE_LOOKUP as u32 => Operation::Lookup(body.name()?),
        op if op == code::FUSE_FORGET as u32 => forget(request, body)?,
        op if op == code::FUSE_BATCH_FORGET as u32 => batch_forget(body)?,
        op if op == code::FUSE_GETATTR as u32 => Operation::GetAttr(getattr(body)?),
        op if op == code::FUSE_SETATTR as u32 => Operation::SetAttr(setattr(body)?),
        op if op == code::FUSE_READLINK as u32 => Operation::ReadLink,
        op if op == code::FUSE_SYMLINK as u32 => Operation::Symlink(symlink(body)?),
        op if op == code::FUSE_MKNOD as u32 => Operation::Mknod(mknod(body)?),
        op if op == code::FUSE_MKDIR as u32 => Operation::Mkdir(mkdir(body)?),
        op if op == code::FUSE_UNLINK as u32 => Operation::Unlink(body.name()?),
        op if op == code::FUSE_RMDIR as u32 => Operation::Rmdir(body.name()?),
        op if op == code::FUSE_RENAME as u32 => Operation::Rename(rename(body)?),
        op if op == code::FUSE_RENAME2 as u32 => Operation::Rename(rename2(body)?),
        op if op == code::FUSE_LINK as u32 => Operation::Link(link(body)?),
        op if op == code::FUSE_OPEN as u32 => Operation::Open(open(body)?),
        op if op == code::FUSE_OPENDIR as u32 => Operation::OpenDir(open(body)?),
        op if op == code::FUSE_READ as u32 => Operation::Read(read(body)?),
        op if op == code::FUSE_READDIR as u32 => Operation::ReadDir(read(body)?),
        op if op == code::FUSE_READDIRPLUS as u32 => Operation::ReadDirPlus(read(body)?),
        op if op == code::FUSE_WRITE as u32 => Operation::Write(write(body)?),
        op if op == code::FUSE_STATFS as u32 => Operation::StatFs,
        op if op == code::FUSE_RELEASE as u32 => Operation::Release(release(body)?),
        op if op == code::FUSE_RELEASEDIR as u32 => Operation::ReleaseDir(release(body)?),
        op if op == code::FUSE_FSYNC as u32 => Operation::Fsync(fsync(body)?),
        op if op == code::FUSE_FSYNCDIR as u32 => Operation::FsyncDir(fsync(body)?),
        op if op == code::FUSE_SETXATTR as u32 => Operation::SetXattr(setxattr(body)?),
        op if op == code::FUSE_GETXATTR as u32 => Operation::GetXattr(getxattr(body)?),
        op if op == code::FUSE_LISTXATTR as u32 => Operation::ListXattr(listxattr(body)?),
        op if op == code::FUSE_REMOVEXATTR as u32 => Operation::RemoveXattr(body.text()?),
        op if op == code::FUSE_FLUSH as u32 => Operation::Flush(flush(body)?),
        op if op == code::FUSE_INIT as u32 => Operation::Init(init(body)?),
        op if op == code::FUSE_ACCESS as u32 => Operation::Access(access(body)?),
        op if op == code::FUSE_CREATE as u32 => Operation::Create(create(body, Body::name)?),
        op if op == code::FUSE_TMPFILE as u32 => Operation::Tmpfile(create(body, Body::text)?),
        op if op == code::FUSE_INTERRUPT as u32 => Operation::Interrupt(interrupt(body)?),
        op if op == code::FUSE_DESTROY as u32 => Operation::Destroy,
        op if op == code::FUSE_IOCTL as u32 => Operation::Ioctl(ioctl(body)?),
        op if op == code::FUSE_POLL as u32 => Operation::Poll(poll(body)?),
        op if op == code::FUSE_NOTIFY_REPLY as u32 => Operation::NotifyReply(retrieved(body)?),
        op if op == code::FUSE_FALLOCATE as u32 => Operation::Fallocate(fallocate(body)?),
        op if op == code::FUSE_LSEEK as u32 => Operation::Lseek(lseek(body)?),
        op if op == code::FUSE_COPY_FILE_RANGE as u32 => Operation::CopyFileRange(copy(body)?),
        op if op == code::FUSE_SYNCFS as u32 => Operation::SyncFs,
        _ => return Err(Reject::Unknown),
    };
    Ok(operation)
}

fn forget<'a>(request: &Request, mut body: Body<'a>) -> Parsed<Operation<'a>> {
    let raw: abi::fuse_forget_in = body.head()?;
    Ok(Operation::Forget(Forgets { single: Some((request.nodeid, raw.nlookup)), batch: &[] }))
}

fn batch_forget(mut body: Body<'_>) -> Parsed<Operation<'_>> {
    let raw: abi::fuse_batch_forget_in = body.head()?;
    let len = (raw.count as usize)
        .checked_mul(size_of::<abi::fuse_forget_one>())
        .ok_or(Reject::Malformed)?;
    Ok(Operation::Forget(Forgets { single: None, batch: body.bytes(len)? }))
}

fn getattr(mut body: Body<'_>) -> Parsed<GetAttr> {
    let raw: abi::fuse_getattr_in = body.head()?;
    let with_handle = raw.getattr_flags & abi::FUSE_GETATTR_FH != 0;
    Ok(GetAttr { fh: with_handle.then_some(raw.fh) })
}

fn setattr(mut body: Body<'_>) -> Parsed<SetAttr> {
    let raw: abi::fuse_setattr_in = body.head()?;
    let valid = SetAttrValid::from_bits_retain(raw.valid);
    let has = |field| valid.contains(field);
    let time = |set, now, seconds: u64, nanoseconds| {
        let at = SetTime::At(Timestamp { seconds: seconds.cast_signed(), nanoseconds });
        has(set).then_some(if has(now) { SetTime::Now } else { at })
    };
    Ok(SetAttr {
        valid,
        fh: has(SetAttrValid::FH).then_some(raw.fh),
        mode: has(SetAttrValid::MODE).then_some(raw.mode),
        uid: has(SetAttrValid::UID).then_some(raw.uid),
        gid: has(SetAttrValid::GID).then_some(raw.gid),
        size: has(SetAttrValid::SIZE).then_some(raw.size),
        atime: time(SetAttrValid::ATIME, SetAttrValid::ATIME_NOW, raw.atime, raw.atimensec),
        mtime: time(SetAttrValid::MTIME, SetAttrValid::MTIME_NOW, raw.mtime, raw.mtimensec),
        ctime: has(SetAttrValid::CTIME)
            .then_some(Timestamp { seconds: raw.ctime.cast_signed(), nanoseconds: raw.ctimensec }),
        lock_owner: has(SetAttrValid::LOCKOWNER).then_some(raw.lock_owner),
    })
}

fn symlink(mut body: Body<'_>) -> Parsed<Symlink<'_>> {
    Ok(Symlink { name: body.name()?, target: body.text()? })
}

fn mknod(mut body: Body<'_>) -> Parsed<Mknod<'_>> {
    let raw: abi::fuse_mknod_in = body.head()?;
    Ok(Mknod { name: body.name()?, mode: raw.mode, umask: raw.umask, rdev: raw.rdev })
}

fn mkdir(mut body: Body<'_>) -> Parsed<Mkdir<'_>> {
    let raw: abi::fuse_mkdir_in = body.head()?;
    Ok(Mkdir { name: body.name()?, mode: raw.mode, umask: raw.umask })
}

fn rename(mut body: Body<'_>) -> Parsed<Rename<'_>> {
    let raw: abi::fuse_rename_in = body.head()?;
    Ok(Rename {
        name: body.name()?,
        new_parent: raw.newdir,
        new_name: body.name()?,
        flags: RenameFlags::empty(),
    })
}

fn rename2(mut body: Body<'_>) -> Parsed<Rename<'_>> {
    let raw: abi::fuse_rename2_in = body.head()?;
    Ok(Rename {
        name: body.name()?,
        new_parent: raw.newdir,
        new_name: body.name()?,
        flags: RenameFlags::from_bits_retain(raw.flags),
    })
}

fn link(mut body: Body<'_>) -> Parsed<Link<'_>> {
    let raw: abi::fuse_link_in = body.head()?;
    Ok(Link { nodeid: raw.oldnodeid, name: body.name()? })
}

fn open(mut body: Body<'_>) -> Parsed<Open> {
    let raw: abi::fuse_open_in = body.head()?;
    Ok(Open { flags: FileFlags::from_bits_retain(raw.flags) })
}

fn read(mut body: Body<'_>) -> Parsed<Read> {
    let raw: abi::fuse_read_in = body.head()?;
    let owned = raw.read_flags & abi::FUSE_READ_LOCKOWNER != 0;
    Ok(Read {
        fh: raw.fh,
        offset: raw.offset,
        size: raw.size,
        flags: FileFlags::from_bits_retain(raw.flags),
        lock_owner: owned.then_some(raw.lock_owner),
    })
}

fn write(mut body: Body<'_>) -> Parsed<Write<'_>> {
    let raw: abi::fuse_write_in = body.head()?;
    let owned = raw.write_flags & abi::FUSE_WRITE_LOCKOWNER != 0;
    Ok(Write {
        fh: raw.fh,
        offset: raw.offset,
        data: body.bytes(raw.size as usize)?,
        flags: FileFlags::from_bits_retain(raw.flags),
        from_cache: raw.write_flags & abi::FUSE_WRITE_CACHE != 0,
        kill_privileges: raw.write_flags & abi::FUSE_WRITE_KILL_SUIDGID != 0,
        lock_owner: owned.then_some(raw.lock_owner),
    })
}

fn release(mut body: Body<'_>) -> Parsed<Release> {
    let raw: abi::fuse_release_in = body.head()?;
    let unlock = raw.release_flags & abi::FUSE_RELEASE_FLOCK_UNLOCK != 0;
    Ok(Release {
        fh: raw.fh,
        flags: FileFlags::from_bits_retain(raw.flags),
        flush: raw.release_flags & abi::FUSE_RELEASE_FLUSH != 0,
        flock_owner: unlock.then_some(raw.lock_owner),
    })
}

fn flush(mut body: Body<'_>) -> Parsed<Flush> {
    let raw: abi::fuse_flush_in = body.head()?;
    Ok(Flush { fh: raw.fh, lock_owner: raw.lock_owner })
}

fn fsync(mut body: Body<'_>) -> Parsed<Fsync> {
    let raw: abi::fuse_fsync_in = body.head()?;
    Ok(Fsync { fh: raw.fh, data_only: raw.fsync_flags & abi::FUSE_FSYNC_FDATASYNC != 0 })
}

fn setxattr(mut body: Body<'_>) -> Parsed<SetXattr<'_>> {
    // SETXATTR_EXT is never negotiated, so the short form comes: size and flags.
    let (size, flags) = (body.word()?, body.word()?);
    Ok(SetXattr { name: body.text()?, value: body.bytes(size as usize)?, flags })
}

fn getxattr(mut body: Body<'_>) -> Parsed<GetXattr<'_>> {
    let raw: abi::fuse_getxattr_in = body.head()?;
    Ok(GetXattr { name: body.text()?, size: raw.size })
}

fn listxattr(mut body: Body<'_>) -> Parsed<ListXattr> {
    let raw: abi::fuse_getxattr_in = body.head()?;
    Ok(ListXattr { size: raw.size })
}

fn init(mut body: Body<'_>) -> Parsed<Init> {
    let (major, minor) = (body.word()?, body.word()?);
    let (max_readahead, low) = (body.word()?, body.word()?);
    // The second word of flags came with 7.36.
    let high = body.word().unwrap_or(0);
    let extended = low & abi::FUSE_INIT_EXT != 0;
    Ok(Init {
        major,
        minor,
        max_readahead,
        flags: u64::from(low) | if extended { u64::from(high) << 32 } else { 0 },
    })
}

fn access(mut body: Body<'_>) -> Parsed<Access> {
    let raw: abi::fuse_access_in = body.head()?;
    Ok(Access { mask: raw.mask })
}

/// `O_TMPFILE` sends "/" for a name, hence two ways to take it.
fn create<'a>(
    mut body: Body<'a>,
    name: fn(&mut Body<'a>) -> Parsed<&'a OsStr>,
) -> Parsed<Create<'a>> {
    let raw: abi::fuse_create_in = body.head()?;
    Ok(Create {
        name: name(&mut body)?,
        flags: FileFlags::from_bits_retain(raw.flags),
        mode: raw.mode,
        umask: raw.umask,
    })
}

fn interrupt(mut body: Body<'_>) -> Parsed<Interrupt> {
    let raw: abi::fuse_interrupt_in = body.head()?;
    Ok(Interrupt { unique: raw.unique })
}

fn ioctl(mut body: Body<'_>) -> Parsed<Ioctl<'_>> {
    let raw: abi::fuse_ioctl_in = body.head()?;
    Ok(Ioctl {
        fh: raw.fh,
        cmd: raw.cmd,
        arg: raw.arg,
        input: body.bytes(raw.in_size as usize)?,
        out_size: raw.out_size,
        flags: IoctlFlags::from_bits_retain(raw.flags),
    })
}

fn poll(mut body: Body<'_>) -> Parsed<Poll> {
    let raw: abi::fuse_poll_in = body.head()?;
    Ok(Poll {
        fh: raw.fh,
        kh: raw.kh,
        wants_wakeup: raw.flags & abi::FUSE_POLL_SCHEDULE_NOTIFY != 0,
        events: PollEvents::from_bits_retain(raw.events),
    })
}

fn retrieved(mut body: Body<'_>) -> Parsed<NotifyReply<'_>> {
    let raw: abi::fuse_notify_retrieve_in = body.head()?;
    Ok(NotifyReply { offset: raw.offset, data: body.bytes(raw.size as usize)? })
}

fn fallocate(mut body: Body<'_>) -> Parsed<Fallocate> {
    let raw: abi::fuse_fallocate_in = body.head()?;
    Ok(Fallocate { fh: raw.fh, offset: raw.offset, length: raw.length, mode: raw.mode })
}

fn lseek(mut body: Body<'_>) -> Parsed<Lseek> {
    let raw: abi::fuse_lseek_in = body.head()?;
    Ok(Lseek { fh: raw.fh, offset: raw.offset, whence: raw.whence })
}

fn copy(mut body: Body<'_>) -> Parsed<CopyFileRange> {
    let raw: abi::fuse_copy_file_range_in = body.head()?;
    Ok(CopyFileRange {
        fh_in: raw.fh_in,
        offset_in: raw.off_in,
        nodeid_out: raw.nodeid_out,
        fh_out: raw.fh_out,
        offset_out: raw.off_out,
        length: raw.len,
    })
}

/// What is left of a message.
struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    /// Takes a struct of the ABI; the message need not be aligned for it.
    fn head<T: FromBytes>(&mut self) -> Parsed<T> {
        let (head, rest) = T::read_from_prefix(self.0).map_err(|_| Reject::Malformed)?;
        self.0 = rest;
        Ok(head)
    }

    fn word(&mut self) -> Parsed<u32> {
        let (word, rest) = self.0.split_first_chunk().ok_or(Reject::Malformed)?;
        self.0 = rest;
        Ok(u32::from_ne_bytes(*word))
    }

    fn bytes(&mut self, len: usize) -> Parsed<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(Reject::Malformed)?;
        self.0 = rest;
        Ok(bytes)
    }

    /// Takes text up to its NUL.
    fn text(&mut self) -> Parsed<&'a OsStr> {
        let end = self.0.iter().position(|&byte| byte == 0);
        let text = self.bytes(end.ok_or(Reject::Malformed)?)?;
        self.bytes(1)?;
        Ok(OsStr::from_bytes(text))
    }

    /// Takes the name of a directory entry: not empty, without a slash.
    fn name(&mut self) -> Parsed<&'a OsStr> {
        let name = self.text()?;
        let plain = !name.is_empty() && !name.as_bytes().contains(&b'/');
        if plain { Ok(name) } else { Err(Reject::Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use zerocopy::IntoBytes;

    fn message(opcode: code, body: &[u8]) -> Vec<u8> {
        raw_message(opcode as u32, 2, body)
    }

    fn raw_message(opcode: u32, unique: u64, body: &[u8]) -> Vec<u8> {
        let header = abi::fuse_in_header {
            len: u32::try_from(size_of::<abi::fuse_in_header>() + body.len()).unwrap(),
            opcode,
            unique,
            nodeid: 7,
            uid: 1,
            gid: 2,
            pid: 3,
            total_extlen: 0,
            padding: 0,
        };
        [header.as_bytes(), body].concat()
    }

    #[test]
    fn a_lookup_has_its_caller_and_name() {
        let bytes = message(code::FUSE_LOOKUP, b"rpm\0");
        let (request, operation) = parse(&bytes).unwrap();
        assert_eq!((request.unique, request.nodeid, request.pid), (2, 7, 3));
        assert!(matches!(operation, Operation::Lookup(name) if name == "rpm"));
    }

    #[test]
    fn a_rename_has_both_names() {
        let mut body = 9u64.to_ne_bytes().to_vec();
        body.extend_from_slice(b"old\0new\0");
        let bytes = message(code::FUSE_RENAME, &body);
        let Ok((_, Operation::Rename(rename))) = parse(&bytes) else {
            panic!("not a rename");
        };
        assert_eq!(rename.name, "old");
        assert_eq!(rename.new_name, "new");
        assert_eq!(rename.new_parent, 9);
    }

    #[test]
    fn a_write_whose_data_is_cut_off_is_malformed() {
        let head = abi::fuse_write_in { size: 5, ..Default::default() };
        let whole = [head.as_bytes(), b"hello"].concat();
        let bytes = message(code::FUSE_WRITE, &whole);
        assert!(matches!(
            parse(&bytes),
            Ok((_, Operation::Write(write))) if write.data == b"hello"
        ));
        let bytes = message(code::FUSE_WRITE, &whole[..whole.len() - 1]);
        assert_eq!(parse(&bytes).unwrap_err().unique(), Some(2));
    }

    #[test]
    fn a_batch_of_forgets_ends_with_its_count() {
        let head = abi::fuse_batch_forget_in { count: 2, dummy: 0 };
        let words: Vec<u8> =
            [5u64, 1, 6, 3, 99, 99].iter().flat_map(|word| word.to_ne_bytes()).collect();
        let bytes = message(code::FUSE_BATCH_FORGET, &[head.as_bytes(), &words].concat());
        let Ok((_, Operation::Forget(forgets))) = parse(&bytes) else {
            panic!("not a forget");
        };
        assert_eq!(forgets.collect::<Vec<_>>(), [(5, 1), (6, 3)]);
        let huge = abi::fuse_batch_forget_in { count: u32::MAX, dummy: 0 };
        let bytes = message(code::FUSE_BATCH_FORGET, huge.as_bytes());
        assert!(parse(&bytes).is_err());
    }

    #[test]
    fn names_that_are_no_entries_are_malformed() {
        for body in [&b"\0"[..], b"a/b\0", b"unended", b""] {
            assert!(parse(&message(code::FUSE_LOOKUP, body)).is_err());
        }
    }

    #[test]
    fn an_unknown_operation_can_still_be_answered() {
        let error = parse(&raw_message(4711, 8, b"")).unwrap_err();
        assert_eq!(error, ParseError::Opcode { unique: 8, opcode: 4711 });
    }

    #[test]
    fn number_zero_and_wrong_lengths_are_refused() {
        let zero = raw_message(code::FUSE_STATFS as u32, 0, b"");
        assert_eq!(parse(&zero).unwrap_err(), ParseError::Unique);
        let long = message(code::FUSE_STATFS, b"");
        assert!(matches!(parse(&long[..39]), Err(ParseError::Header { len: 39 })));
        let mut trailing = long;
        trailing.push(0);
        assert!(matches!(parse(&trailing), Err(ParseError::Length { .. })));
    }

    #[test]
    fn extensions_are_cut_off_and_cannot_underflow() {
        let mut bytes = message(code::FUSE_LOOKUP, b"a\0......12345678");
        bytes[36] = 1;
        assert!(parse(&bytes).is_ok());
        bytes[36] = 3;
        assert!(parse(&bytes).is_err());
    }

    #[test]
    fn a_time_can_be_now_or_given() {
        let raw = abi::fuse_setattr_in {
            valid: (SetAttrValid::ATIME | SetAttrValid::ATIME_NOW | SetAttrValid::MTIME).bits(),
            mtime: 12,
            ..Default::default()
        };
        let bytes = message(code::FUSE_SETATTR, raw.as_bytes());
        let Ok((_, Operation::SetAttr(set))) = parse(&bytes) else {
            panic!("not a setattr");
        };
        assert_eq!(set.atime, Some(SetTime::Now));
        let at = Timestamp { seconds: 12, nanoseconds: 0 };
        assert_eq!(set.mtime, Some(SetTime::At(at)));
        assert_eq!((set.mode, set.size, set.fh), (None, None, None));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_bytes_are_taken_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn any_body_of_any_operation_is_taken_or_refused(
            opcode in 0u32..60,
            body in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let bytes = raw_message(opcode, 2, &body);
            match parse(&bytes) {
                Ok((_, Operation::Forget(forgets))) => prop_assert!(forgets.count() <= 200),
                Ok((request, _)) => prop_assert_eq!(request.opcode, opcode),
                Err(error) => prop_assert_eq!(error.unique(), Some(2)),
            }
        }
    }
}
