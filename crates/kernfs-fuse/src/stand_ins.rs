//! What the herald is answered: so that an event comes of what it does, and nothing else.
//!
//! Its calls are about nodes that are none: a *stand-in* is found at a name that went, and taken
//! away there; one is made where a node came in. The kernel drops it at once, and asks for what is
//! really there. So an event cannot take anything from those who have the real node in use, nor
//! wait for the lock of a file that they hold. Only what moves is the node itself, for what others
//! have mounted there moves with it, unless it is a file that somebody could be writing to.
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
use crate::event::{Event, Gone, Place, Told, What};
use crate::fs::Fs;

/// Resolves a name; `None` is as for everybody.
pub(crate) fn look_up(
    fs: &Fs,
    told: &Told,
    request: &Request,
    name: &OsStr,
) -> Option<Result<Entry, Errno>> {
    let parent = fs.inode(request.nodeid).ok()?;
    let is = |place: &Place| *place == Place::new(parent.ino(), name.as_bytes());
    match &told.what {
        // What the kernel has a live node for is left alone in all these cases.
        What::Gone(gone) if !is_found(fs, &parent, name) => {
            found_gone(fs, gone, &path_of(&parent, name))
        }
        What::Event(Event::Deleted { at, kind }) if is(at) && !is_found(fs, &parent, name) => {
            Some(Ok(stand_in(told, request, *kind)))
        }
        What::Event(Event::Created { at, .. }) if is(at) && !is_found(fs, &parent, name) => {
            Some(Err(Errno::ENOENT))
        }
        What::Event(Event::Moved { from, to, ino, kind, was_found })
            if !was_found.load(Ordering::Acquire) =>
        {
            if is(to) {
                Some(Err(Errno::ENOENT))
            } else if !is(from) || live(&parent, name).is_some() {
                None
            } else if fs.handles.can_write(*ino) {
                // Renaming takes the lock of a file, which a writer could hold.
                Some(Ok(stand_in(told, request, *kind)))
            } else {
                Some(moved(fs, told, *ino))
            }
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
    match &told.what {
        What::Event(Event::Created { at, ino, kind })
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
    match &told.what {
        What::Event(Event::Deleted { at, .. })
            if *at == Place::new(parent.ino(), name.as_bytes()) =>
        {
            given(told)
        }
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
    match &told.what {
        What::Event(Event::Moved { from, to, ino, .. })
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
    match &told.what {
        What::Event(Event::Modified { inode }) if inode.ino() == touched.ino() => Ok(()),
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

/// A node where it was before; the kernel moves it to where it is.
fn moved(fs: &Fs, told: &Told, ino: u64) -> Result<Entry, Errno> {
    let inode = fs.client.by_id(ino).map_err(|_| Errno::ENOENT)?;
    told.was_given.store(true, Ordering::Release);
    Ok(Entry { entry_ttl: Duration::ZERO, ..fs.entry(&inode) })
}

/// A node that went, at its last path: the kernel finds that it has no links any more, and tells
/// who watches it.
fn found_gone(fs: &Fs, gone: &Gone, path: &[u8]) -> Option<Result<Entry, Errno>> {
    let id = gone.find(path)?;
    let entry = |inode: Arc<Inode>| Entry {
        nodeid: id,
        generation: 0,
        entry_ttl: Duration::ZERO,
        attr_ttl: Duration::ZERO,
        attr: convert::attr(&inode.attr()),
    };
    Some(fs.nodes.look_up_again(id).map(entry).ok_or(Errno::ENOENT))
}

fn path_of(parent: &Inode, name: &OsStr) -> Vec<u8> {
    let mut path = parent.path();
    if !path.ends_with(b"/") {
        path.push(b'/');
    }
    path.extend(name.as_bytes());
    path
}
