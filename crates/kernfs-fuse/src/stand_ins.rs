//! What the herald is answered: so that an event comes of what it does, and nothing else.
//!
//! Its calls are about nodes that are none: a *stand-in* is found at a name that went, and taken
//! away there; one is made where a node came in. The kernel drops it at once, and asks for what is
//! really there. So an event cannot take anything from those who have the real node in use, nor
//! wait for the lock of a file that they hold.
//!
//! Where clients have got to a name first there is no event: the kernel has their node there, and
//! must keep it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fuse_session::{Entry, Errno, FileAttr, Request, op};
use kernfs::{Caller, Inode, NodeKind};

use crate::convert;
use crate::fs::Fs;
use crate::watchers::{News, Place, Told};

/// Resolves a name; `None` is as for everybody.
pub(crate) fn look_up(
    fs: &Fs,
    told: &Told,
    request: &Request,
    name: &OsStr,
) -> Option<Result<Entry, Errno>> {
    let parent = fs.inode(request.nodeid).ok()?;
    let is = |place: &Place| *place == Place::new(parent.ino(), name.as_bytes());
    match &told.news {
        News::Nothing if !is_found(fs, &parent, name) => {
            let mut path = parent.path();
            path.extend(if path.ends_with(b"/") { &b""[..] } else { b"/" });
            path.extend(name.as_bytes());
            let id = told.gone.find(&path)?;
            Some(fs.nodes.look_up_again(id).ok_or(Errno::ENOENT).map(|inode| gone(id, &inode)))
        }
        News::Deleted { at, kind } if is(at) && !is_found(fs, &parent, name) => {
            Some(Ok(stand_in(told, request, *kind)))
        }
        News::Moved { from, kind, .. } if is(from) && !is_found(fs, &parent, name) => {
            Some(Ok(stand_in(told, request, *kind)))
        }
        News::Created { at, .. } if is(at) && !is_found(fs, &parent, name) => {
            Some(Err(Errno::ENOENT))
        }
        News::Moved { to, was_found, .. } if is(to) && !was_found.load(Ordering::Acquire) => {
            Some(Err(Errno::ENOENT))
        }
        _ => None,
    }
}

/// Makes what was added, if it is still there.
pub(crate) fn create(
    fs: &Fs,
    told: &Told,
    request: &Request,
    name: &OsStr,
) -> Result<Entry, Errno> {
    let parent = fs.inode(request.nodeid)?;
    match &told.news {
        News::Created { at, ino, kind }
            if *at == Place::new(parent.ino(), name.as_bytes())
                && live(&parent, name).is_some_and(|inode| inode.ino() == *ino) =>
        {
            fs.nodes.show(std::iter::once(*ino));
            Ok(stand_in(told, request, *kind))
        }
        _ => Err(Errno::ENOENT),
    }
}

/// Takes away what stood in for what was removed.
pub(crate) fn delete(fs: &Fs, told: &Told, request: &Request, name: &OsStr) -> Result<(), Errno> {
    let parent = fs.inode(request.nodeid)?;
    match &told.news {
        News::Deleted { at, .. } if *at == Place::new(parent.ino(), name.as_bytes()) => given(told),
        _ => Err(Errno::EBUSY),
    }
}

/// Renames what stood in for what was renamed, if that is still so.
pub(crate) fn rename(
    fs: &Fs,
    told: &Told,
    request: &Request,
    op: &op::Rename<'_>,
) -> Result<(), Errno> {
    let (source, target) = (fs.inode(request.nodeid)?, fs.inode(op.new_parent)?);
    match &told.news {
        News::Moved { from, to, ino, .. }
            if *from == Place::new(source.ino(), op.name.as_bytes())
                && *to == Place::new(target.ino(), op.new_name.as_bytes())
                && live(&target, op.new_name).is_some_and(|inode| inode.ino() == *ino) =>
        {
            given(told)
        }
        _ => Err(Errno::EBUSY),
    }
}

/// Touches the file that was notified, and no other.
pub(crate) fn touch(fs: &Fs, told: &Told, request: &Request) -> Result<(), Errno> {
    let touched = fs.inode(request.nodeid)?;
    match &told.news {
        News::Modified { inode } if inode.ino() == touched.ino() => Ok(()),
        _ => Err(Errno::ESTALE),
    }
}

/// Tells whether the kernel may have a live node of this name: that is not to be deleted.
fn is_found(fs: &Fs, parent: &Inode, name: &OsStr) -> bool {
    live(parent, name).is_some_and(|inode| fs.nodes.find_live(inode.ino()).is_some())
}

fn live(parent: &Inode, name: &OsStr) -> Option<Inode> {
    parent.lookup(&Caller::OWNER, name.as_bytes()).ok()
}

/// Tells whether the kernel acts upon the stand-in, and not upon what it has cached.
fn given(told: &Told) -> Result<(), Errno> {
    if told.was_given.load(Ordering::Acquire) { Ok(()) } else { Err(Errno::EBUSY) }
}

/// A node that is none, and belongs to who asks.
fn stand_in(told: &Told, request: &Request, kind: NodeKind) -> Entry {
    told.was_given.store(true, Ordering::Release);
    let attr = match kind {
        NodeKind::Dir => FileAttr::directory(told.stand_in, 0o700),
        NodeKind::File => FileAttr::regular(told.stand_in, 0o600, 0),
        NodeKind::Link => FileAttr::symlink(told.stand_in, 0),
    };
    Entry {
        nodeid: told.stand_in,
        generation: 0,
        entry_ttl: Duration::ZERO,
        attr_ttl: convert::KEPT,
        attr: FileAttr { uid: request.uid, gid: request.gid, ..attr },
    }
}

/// A node that went: the kernel finds that it has no links, and tells who watches it.
fn gone(id: u64, inode: &Arc<Inode>) -> Entry {
    Entry {
        nodeid: id,
        generation: 0,
        entry_ttl: Duration::ZERO,
        attr_ttl: Duration::ZERO,
        attr: convert::attr(&inode.attr()),
    }
}
