//! A filesystem with one file: `hello DIRECTORY` serves it until it is unmounted.

use std::error::Error;
use std::ffi::OsStr;
use std::time::Duration;

use fuse_session::{
    DirBuffer, Entry, Errno, FileAttr, FileKind, Filesystem, MountOptions, ReplyAttr, ReplyData,
    ReplyDirectory, ReplyEntry, Request, Session, op,
};

const TTL: Duration = Duration::from_secs(1);
const ROOT: u64 = 1;
const FILE: u64 = 2;
const TEXT: &[u8] = b"Hello, world!\n";

struct Hello;

fn attr(nodeid: u64) -> FileAttr {
    match nodeid {
        ROOT => FileAttr::directory(ROOT, 0o755),
        _ => FileAttr::regular(FILE, 0o444, TEXT.len() as u64),
    }
}

impl Filesystem for Hello {
    fn lookup(&self, _: &Request, name: &OsStr, reply: ReplyEntry) {
        if name != "hello" {
            return reply.error(Errno::ENOENT);
        }
        reply.entry(&Entry {
            nodeid: FILE,
            generation: 0,
            entry_ttl: TTL,
            attr_ttl: TTL,
            attr: attr(FILE),
        });
    }

    fn getattr(&self, request: &Request, _: op::GetAttr, reply: ReplyAttr) {
        reply.attr(TTL, &attr(request.nodeid));
    }

    fn read(&self, _: &Request, op: op::Read, reply: ReplyData) {
        let start = TEXT.len().min(op.offset as usize);
        let end = TEXT.len().min(start + op.size as usize);
        reply.data(&TEXT[start..end]);
    }

    fn readdir(&self, _: &Request, op: op::Read, reply: ReplyDirectory) {
        let entries = [
            (ROOT, FileKind::Directory, "."),
            (ROOT, FileKind::Directory, ".."),
            (FILE, FileKind::Regular, "hello"),
        ];
        let mut buffer = DirBuffer::new(op.size);
        for (offset, (ino, kind, name)) in (1..).zip(entries).skip(op.offset as usize) {
            if !buffer.push(ino, offset, kind, name.as_ref()) {
                break;
            }
        }
        reply.entries(&buffer);
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args_os().nth(1).ok_or("usage: hello DIRECTORY")?;
    Session::mount(Hello, dir, &MountOptions::new("hello"))?.wait();
    Ok(())
}
