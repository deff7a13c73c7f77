//! What an owner holds of what is exposed: it derefs to it, and takes it back by value.

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use kernfs::{Dir, Draining, Errno, Mode, NotDrained, Rejected, Stuck};

use crate::attr::Attribute;
use crate::contents::{AnyGroup, Contents};
use crate::declare::{Attributes, Calls, Part, Whole};

/// Adds attributes to directories.
pub trait DirExt: sealed::Sealed {
    /// Adds one file.
    ///
    /// Clients can do what the mode allows and the attribute knows; for anything else the file has
    /// no operation, whoever they are (`DEVICE_ATTR_RO` and the like).
    ///
    /// # Errors
    ///
    /// EINVAL: the mode allows nothing that the attribute knows. Else as for [`Dir::add_file`]. The
    /// error gives the attribute back.
    fn add_attr<A: Attribute + 'static>(
        &self,
        name: impl AsRef<str>,
        mode: Mode,
        attr: A,
    ) -> Result<Exposed<A>, Rejected<A>>;

    /// Adds a directory with the files of a group, at once: it is built aside
    /// (`sysfs_create_group`).
    ///
    /// # Errors
    ///
    /// As for [`Dir::add_file`]; nothing was added then, and the error gives the group back.
    fn add_group<S: Attributes>(
        &self,
        name: impl AsRef<str>,
        group: S,
    ) -> Result<Exposed<S>, Rejected<S>>;

    /// Adds the files of a group to this directory (a group without a name).
    ///
    /// They come one by one, since the directory is there already, unless it is
    /// [detached](Dir::detached).
    ///
    /// # Errors
    ///
    /// As for [`Dir::add_file`]; what was added so far has gone then, and the error gives the group
    /// back.
    fn add_attributes<S: Attributes>(&self, group: S) -> Result<Exposed<S>, Rejected<S>>;
}

impl DirExt for Dir {
    fn add_attr<A: Attribute + 'static>(
        &self,
        name: impl AsRef<str>,
        mode: Mode,
        attr: A,
    ) -> Result<Exposed<A>, Rejected<A>> {
        let unbind = |attr: &Part<A>| attr.held().bind(None);
        Exposed::build(attr, unbind, |part, contents| {
            let calls = Calls::of(|attr: &A| attr);
            let always = Box::new(|| true);
            contents.place_file(part, self, name.as_ref(), mode, calls, always)?;
            Ok(None)
        })
    }

    fn add_group<S: Attributes>(
        &self,
        name: impl AsRef<str>,
        group: S,
    ) -> Result<Exposed<S>, Rejected<S>> {
        Exposed::build(group, AnyGroup::unbind, |part, contents| {
            let dir = self.detached(Mode::DIR);
            contents.place(part, &dir)?;
            self.attach(name.as_ref(), &dir)?;
            Ok(Some(Arc::new(dir)))
        })
    }

    fn add_attributes<S: Attributes>(&self, group: S) -> Result<Exposed<S>, Rejected<S>> {
        Exposed::build(group, AnyGroup::unbind, |part, contents| {
            contents.place(part, self)?;
            Ok(None)
        })
    }
}

mod sealed {
    pub trait Sealed {}

    impl Sealed for kernfs::Dir {}
}

/// A group, or a single attribute, whose files are in a tree.
///
/// Derefs to it. Dropping it severs the files without waiting; [`remove`](Self::remove) waits and
/// gives it back.
pub struct Exposed<S> {
    /// Before the rest, for it is dropped first.
    dir: Option<Arc<Dir>>,
    contents: Contents,
    whole: Arc<Whole<S>>,
    unbind: fn(&Part<S>),
}

impl<S: Send + Sync + 'static> Exposed<S> {
    /// Shares the whole with the files that `place` adds; returns it if that fails.
    pub(crate) fn build(
        whole: S,
        unbind: fn(&Part<S>),
        place: impl FnOnce(&Part<S>, &mut Contents) -> Result<Option<Arc<Dir>>, Errno>,
    ) -> Result<Self, Rejected<S>> {
        let whole = Arc::new(Whole(whole));
        let mut exposed = Self { dir: None, contents: Contents::default(), whole, unbind };
        let part = Part::whole(&exposed.whole);
        match place(&part, &mut exposed.contents) {
            Ok(dir) => {
                exposed.dir = dir;
                Ok(exposed)
            }
            Err(errno) => {
                drop(part);
                // Also inside an operation: it is not one on the files that were added just now.
                Err(Rejected::new(errno, pollster::block_on(exposed.sever())))
            }
        }
    }

    /// Severs all files without waiting; may be called anywhere, also inside their operations.
    pub fn sever(self) -> Removal<S> {
        let Self { dir, contents, whole, unbind } = self;
        let draining = match dir {
            // All at once; then the handles on files, which have been severed by that.
            Some(dir) => {
                let draining = dir.sever_shared();
                drop(contents);
                Some(draining)
            }
            None => contents.sever().into_iter().reduce(Draining::and),
        };
        Removal { draining, whole: Some(whole), unbind }
    }

    /// Severs all files and waits until they are at rest, then returns what was exposed.
    ///
    /// What [`File::remove`](kernfs::File::remove) promises holds for each of them.
    ///
    /// # Errors
    ///
    /// EDEADLK inside an operation of the same tree; the removal goes on, and the error gives it
    /// back.
    pub fn remove(self) -> Result<S, Unfinished<S>> {
        self.sever().wait()
    }
}

impl<S: Attributes> Exposed<S> {
    /// Looks anew at what is to be visible: files are hidden and shown, groups go and come
    /// (`sysfs_update_group`).
    ///
    /// Open files of what goes are dead when this returns, and at rest. Of a group without a
    /// directory of its own ([`DirExt::add_attributes`]), the groups in it stay as they are, as
    /// groups without a name do everywhere.
    ///
    /// # Errors
    ///
    /// EDEADLK inside an operation of the same tree, in which what was hidden is not waited for.
    /// ENOENT: the directory was removed. EEXIST: a name is taken.
    pub fn update(&mut self) -> Result<(), Errno> {
        let mut drainings = Vec::new();
        let mut result = self.contents.update(self.dir.as_deref(), &mut drainings);
        for draining in drainings {
            // Each is tried, so that all of them have been waited for where that is possible.
            result = result.and(draining.wait().map_err(Errno::from));
        }
        result
    }
}

impl<S> Exposed<S> {
    /// Returns the directory, of a group that has one of its own.
    #[must_use]
    pub fn dir(&self) -> Option<&Dir> {
        self.dir.as_deref()
    }
}

impl<S> Deref for Exposed<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.whole.0
    }
}

impl<S> fmt::Debug for Exposed<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exposed").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// The removal of what was exposed; gives it back when it is done.
///
/// [`wait`](Self::wait) for it, `.await` it, or drop it: then whoever leaves last drops what was
/// exposed.
#[must_use = "what was severed is at rest only when this has been waited for"]
pub struct Removal<S> {
    /// `None` where nothing is to be waited for.
    draining: Option<Draining>,
    /// `None` once it was given back.
    whole: Option<Arc<Whole<S>>>,
    unbind: fn(&Part<S>),
}

impl<S: Send + Sync + 'static> Removal<S> {
    /// Tells whether everything has come to rest.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.draining.as_ref().is_none_or(Draining::is_done)
    }

    /// Returns the operations that are still inside, and whose they are.
    #[must_use]
    pub fn stuck_on(&self) -> Vec<Stuck> {
        self.draining.as_ref().map_or_else(Vec::new, Draining::stuck_on)
    }

    /// Waits until everything has come to rest, and returns what was exposed.
    ///
    /// # Errors
    ///
    /// EDEADLK inside an operation of the same tree; the error gives the removal back.
    pub fn wait(self) -> Result<S, Unfinished<S>> {
        self.wait_by(Draining::wait)
    }

    /// Waits at most `timeout`, by the monotonic clock of the tree.
    ///
    /// # Errors
    ///
    /// ETIMEDOUT when the time is over, EDEADLK as for [`wait`](Self::wait).
    pub fn wait_timeout(self, timeout: Duration) -> Result<S, Unfinished<S>> {
        self.wait_by(|draining| draining.wait_timeout(timeout))
    }

    /// Returns the removal without what was exposed, which is dropped when all is at rest.
    ///
    /// `None` where nothing is to be waited for. This is what a file that unplugs its own device
    /// hands to [`WriteOp::answer_after`](kernfs::WriteOp::answer_after).
    #[must_use = "dropping it drops what was exposed, when all is at rest"]
    pub fn detach(mut self) -> Option<Draining> {
        self.draining.take()
    }

    /// Makes it wait for another removal too.
    pub(crate) fn and(mut self, other: Option<Draining>) -> Self {
        let drainings = self.draining.take().into_iter().chain(other);
        self.draining = drainings.reduce(Draining::and);
        self
    }

    fn wait_by(
        mut self,
        wait: impl Fn(Draining) -> Result<(), NotDrained<()>>,
    ) -> Result<S, Unfinished<S>> {
        if let Some(Err(error)) = self.draining.take().map(wait) {
            let errno = error.errno();
            self.draining = Some(error.into_draining());
            return Err(Unfinished { errno, removal: self });
        }
        Ok(self.finish())
    }

    fn finish(&mut self) -> S {
        let whole = self.whole.take().expect("polled after completion");
        (self.unbind)(&Part::whole(&whole));
        match Arc::into_inner(whole) {
            Some(whole) => whole.0,
            None => unreachable!("drained files do not refer to what they showed"),
        }
    }
}

impl<S: Send + Sync + 'static> Future for Removal<S> {
    type Output = S;

    /// Completes with what was exposed when everything has come to rest.
    ///
    /// # Panics
    ///
    /// When polled again after it has completed.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<S> {
        if let Some(draining) = &mut self.draining {
            ready!(Pin::new(draining).poll(cx));
            self.draining = None;
        }
        Poll::Ready(self.finish())
    }
}

impl<S> fmt::Debug for Removal<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Removal").field("draining", &self.draining).finish_non_exhaustive()
    }
}

/// A wait for a removal that ended too early; the removal itself goes on.
#[derive(thiserror::Error)]
#[error("removal not waited for: {errno}")]
pub struct Unfinished<S> {
    errno: Errno,
    removal: Removal<S>,
}

impl<S> Unfinished<S> {
    /// Returns EDEADLK or ETIMEDOUT.
    #[must_use]
    pub fn errno(&self) -> Errno {
        self.errno
    }

    /// Returns the removal, to be waited for elsewhere or later.
    pub fn into_removal(self) -> Removal<S> {
        self.removal
    }
}

impl<S> From<Unfinished<S>> for Errno {
    fn from(error: Unfinished<S>) -> Self {
        error.errno
    }
}

impl<S> fmt::Debug for Unfinished<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unfinished").field("errno", &self.errno).finish_non_exhaustive()
    }
}
