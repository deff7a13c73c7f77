//! What the mount is compared with: servers of one file, in processes of their own.
//!
//! Both let the kernel keep names and attributes, answer reads directly, and have as many threads
//! as our mount has at rest.

use std::ffi::OsStr;
use std::num::NonZeroUsize;
use std::thread::available_parallelism;
use std::time::{Duration, UNIX_EPOCH};

use fuse_session::{Session, op};
use fuser::{FopenFlags, INodeNo};

use crate::process::{Process, answer, orders};
use crate::stage::{TEXT, Temporary};

/// A server, as the owner of the tree sees it; it unmounts and ends when dropped.
pub(crate) struct Server {
    process: Process,
    dir: String,
}

impl Server {
    /// Starts one of a role; the error is the reason why that is not possible.
    pub(crate) fn start(role: &str, temporary: &Temporary) -> Result<Self, String> {
        let dir = temporary.dir_to_mount(role)?;
        let process = Process::start(role, &[&dir])?;
        Ok(Self { process, dir })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(crate) fn file(&self) -> String {
        format!("{}/{NAME}", self.dir)
    }
}

/// The one file.
const NAME: &str = "value";

const ROOT: u64 = 1;
const FILE: u64 = 2;

/// How long the kernel may keep names and attributes.
const KEPT: Duration = Duration::from_secs(3600);

/// Is a server by `fuser`.
pub(crate) fn serve_fuser(dir: &OsStr) {
    let mut config = fuser::Config::default();
    config.mount_options = vec![
        fuser::MountOption::FSName("kernfs-bench".into()),
        fuser::MountOption::DefaultPermissions,
    ];
    config.n_threads = Some(threads());
    match fuser::spawn_mount(ByFuser, dir, &config) {
        Ok(session) => {
            answer("ready");
            orders().for_each(drop);
            let _ = session.umount_and_join();
        }
        Err(error) => answer(&format!("fuser cannot mount: {error}")),
    }
}

/// Is a server by our own session, without a tree behind it.
pub(crate) fn serve_session(dir: &OsStr) {
    let options = fuse_session::MountOptions::new("kernfs-bench").default_permissions();
    match Session::mount(BySession, dir, &options) {
        Ok(session) => {
            answer("ready");
            orders().for_each(drop);
            drop(session);
        }
        Err(error) => answer(&format!("the session cannot mount: {error}")),
    }
}

/// As many as a session has by itself.
fn threads() -> usize {
    available_parallelism().map_or(2, NonZeroUsize::get).max(2)
}

struct ByFuser;

impl ByFuser {
    fn attr(ino: u64) -> fuser::FileAttr {
        let is_root = ino == ROOT;
        fuser::FileAttr {
            ino: INodeNo(ino),
            size: 4096,
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_root { fuser::FileType::Directory } else { fuser::FileType::RegularFile },
            perm: if is_root { 0o755 } else { 0o444 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl fuser::Filesystem for ByFuser {
    fn lookup(&self, _: &fuser::Request, _: INodeNo, name: &OsStr, reply: fuser::ReplyEntry) {
        if name == NAME {
            reply.entry(&KEPT, &Self::attr(FILE), fuser::Generation(0));
        } else {
            reply.error(fuser::Errno::ENOENT);
        }
    }

    fn getattr(
        &self,
        _: &fuser::Request,
        ino: INodeNo,
        _: Option<fuser::FileHandle>,
        reply: fuser::ReplyAttr,
    ) {
        reply.attr(&KEPT, &Self::attr(ino.0));
    }

    fn open(&self, _: &fuser::Request, _: INodeNo, _: fuser::OpenFlags, reply: fuser::ReplyOpen) {
        let flags = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH;
        reply.opened(fuser::FileHandle(0), flags);
    }

    fn read(
        &self,
        _: &fuser::Request,
        _: INodeNo,
        _: fuser::FileHandle,
        offset: u64,
        _: u32,
        _: fuser::OpenFlags,
        _: Option<fuser::LockOwner>,
        reply: fuser::ReplyData,
    ) {
        reply.data(from(offset));
    }
}

struct BySession;

impl BySession {
    fn attr(ino: u64) -> fuse_session::FileAttr {
        let time = fuse_session::Timestamp { seconds: 0, nanoseconds: 0 };
        fuse_session::FileAttr {
            ino,
            size: 4096,
            blocks: 0,
            atime: time,
            mtime: time,
            ctime: time,
            mode: if ino == ROOT { 0o040_755 } else { 0o100_444 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
        }
    }
}

impl fuse_session::Filesystem for BySession {
    fn lookup(&self, _: &fuse_session::Request, name: &OsStr, reply: fuse_session::ReplyEntry) {
        if name == NAME {
            reply.entry(&fuse_session::Entry {
                nodeid: FILE,
                generation: 0,
                entry_ttl: KEPT,
                attr_ttl: KEPT,
                attr: Self::attr(FILE),
            });
        } else {
            reply.error(fuse_session::Errno::ENOENT);
        }
    }

    fn getattr(
        &self,
        request: &fuse_session::Request,
        _: op::GetAttr,
        reply: fuse_session::ReplyAttr,
    ) {
        reply.attr(KEPT, &Self::attr(request.nodeid));
    }

    fn open(&self, _: &fuse_session::Request, _: op::Open, reply: fuse_session::ReplyOpen) {
        reply.opened(0, fuse_session::OpenFlags::DIRECT_IO | fuse_session::OpenFlags::NOFLUSH);
    }

    fn read(&self, _: &fuse_session::Request, op: op::Read, reply: fuse_session::ReplyData) {
        reply.data(from(op.offset));
    }
}

fn from(offset: u64) -> &'static [u8] {
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    TEXT.get(offset..).unwrap_or(&[])
}
