//! A mounted tree.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use fuse_session::{Session, UnmountError};
use kernfs::{Ack, Caller, FrontEndGuard, Tag, Tree};

use crate::front::Front;
use crate::fs::Fs;
use crate::requests::Requests;
use crate::tap::{SharedTap, Tap, Tapped};
use crate::watchers::Watchers;

/// A tree that is mounted at a directory; dropping it unmounts.
///
/// When the tree goes, it unmounts itself, and the owner's call returns after that.
#[must_use = "dropping a mount unmounts"]
pub struct Mount {
    // Dropped in this order: the front end hears of nothing any more when the session ends.
    guard: Option<FrontEndGuard>,
    reaper: Option<Reaper>,
    teller: Option<Teller>,
    /// `None` once unmounted.
    session: Option<Arc<Session>>,
    fs: Arc<Fs>,
    path: PathBuf,
    recovered: bool,
}

impl Mount {
    /// Mounts a tree at an existing directory, with the default options.
    ///
    /// # Errors
    ///
    /// [`MountError`] says what was in the way; nothing is left mounted then.
    pub fn new(tree: &Tree, dir: impl AsRef<Path>) -> Result<Self, MountError> {
        MountOptions::new().mount(tree, dir)
    }

    /// Returns where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tells whether a dead mount of ours had to be cleared away first.
    #[must_use]
    pub fn recovered(&self) -> bool {
        self.recovered
    }

    /// Waits until it was unmounted by somebody, or the tree has gone.
    pub fn wait(&self) {
        if let Some(session) = &self.session {
            session.wait();
        }
    }

    /// Waits at most `timeout`; tells whether it is unmounted.
    #[must_use]
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        self.session.as_ref().is_none_or(|session| session.wait_timeout(timeout))
    }

    /// Unmounts, also while it is in use: descriptors give ENOTCONN from then on.
    ///
    /// # Errors
    ///
    /// What kept it from being unmounted, for example something else that is mounted there now; or
    /// that it is unmounted, but nobody who uses it could be cut off, which takes root.
    pub fn unmount(mut self) -> Result<(), MountError> {
        self.close()
    }

    /// Returns what the mount is doing.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let session = self.session.as_ref().map(|session| session.stats());
        let (nodes, lookups) = self.fs.nodes.count();
        Stats {
            nodes,
            lookups,
            handles: self.fs.handles.count(),
            parked: session.as_ref().map_or(0, |stats| stats.parked),
            threads: session.as_ref().map_or(0, |stats| stats.threads),
            requests: session.as_ref().map_or(0, |stats| stats.served),
        }
    }

    fn close(&mut self) -> Result<(), MountError> {
        drop(self.guard.take());
        // Joined, so that they have no reference to session and filesystem any more.
        drop(self.teller.take());
        let detached = self.reaper.take().is_some_and(Reaper::stop);
        let session = self.session.take().and_then(Arc::into_inner);
        match session.map_or(Ok(()), Session::unmount) {
            // What is there now came after ours had gone with the tree.
            Err(UnmountError::NotOurs { .. }) if detached => Ok(()),
            result => Ok(result?),
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, path = %self.path.display(), "not unmounted");
        }
    }
}

impl fmt::Debug for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mount").field("path", &self.path).finish_non_exhaustive()
    }
}

/// What a mount is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Nodes that the kernel has looked up and not forgotten, besides the root.
    pub nodes: usize,
    /// The lookups that it owes for them.
    pub lookups: u64,
    /// Open files and directories.
    pub handles: usize,
    /// Requests that wait for something without a thread.
    pub parked: usize,
    /// Threads that serve requests.
    pub threads: usize,
    /// Requests served so far.
    pub requests: u64,
}

/// How a tree is mounted.
///
/// By default everybody on the machine who gets past the directory's permissions is let in if the
/// mounting user is root, permissions are enforced by mode, owner and group, and a dead mount of
/// ours at the same directory is cleared away.
#[derive(Clone, Debug)]
#[must_use]
pub struct MountOptions {
    session: fuse_session::MountOptions,
    tag: Option<Tag>,
    uncached_names: bool,
    tap: Option<SharedTap>,
    inotify: bool,
}

/// The type of the mount is `fuse.kernfs`.
const SUBTYPE: &str = "kernfs";

impl MountOptions {
    /// Starts with the defaults.
    pub fn new() -> Self {
        let session =
            fuse_session::MountOptions::new(SUBTYPE).default_permissions().no_exec().recover();
        Self { session, tag: None, uncached_names: false, tap: None, inotify: true }
    }

    /// Sets the source that `/proc/self/mounts` shows; `kernfs` at first.
    pub fn fsname(mut self, name: impl Into<String>) -> Self {
        self.session = self.session.fsname(name);
        self
    }

    /// Lets other users in; without it only the mounting user gets past the mount point.
    pub fn allow_other(mut self) -> Self {
        self.session = self.session.allow_other();
        self
    }

    /// Mounts read-only.
    pub fn read_only(mut self) -> Self {
        self.session = self.session.read_only();
        self
    }

    /// Shows the children of tagged directories that carry `tag`; without it none.
    pub fn tag(mut self, tag: Tag) -> Self {
        self.tag = Some(tag);
        self
    }

    /// Has the kernel ask for each name each time.
    ///
    /// For mounts in which others mount something: where names are cached, each removal makes the
    /// kernel look at all of them anew, and it then detaches what is mounted on them.
    pub fn uncached_names(mut self) -> Self {
        self.uncached_names = true;
        self
    }

    /// Leaves inotify to what clients do themselves.
    ///
    /// Otherwise a thread of this process makes system calls on the mount, so that the kernel tells
    /// watchers what the owner does. They lock the directory that the event is about, as those of
    /// clients who make directories do; who can list it could stand still in that very moment, on
    /// purpose, and keep others out of it.
    pub fn without_inotify(mut self) -> Self {
        self.inotify = false;
        self
    }

    /// Has somebody asked before each call of a client is carried out, to look for bugs of clients.
    ///
    /// The kernel then caches nothing, and files cannot be mapped shared.
    pub fn tap(mut self, tap: Arc<dyn Tap>) -> Self {
        self.tap = Some(SharedTap(tap));
        self
    }

    /// Starts a process that aborts the mount when this one is gone or stuck for so long.
    pub fn watchdog(mut self, patience: Duration) -> Self {
        self.session = self.session.watchdog(patience);
        self
    }

    /// Sets everything else that the session can do.
    pub fn session(
        mut self,
        change: impl FnOnce(fuse_session::MountOptions) -> fuse_session::MountOptions,
    ) -> Self {
        self.session = change(self.session);
        self
    }

    /// Mounts a tree at an existing directory.
    ///
    /// # Errors
    ///
    /// [`MountError`] says what was in the way; nothing is left mounted then.
    pub fn mount(&self, tree: &Tree, dir: impl AsRef<Path>) -> Result<Mount, MountError> {
        let client = match self.tag {
            Some(tag) => tree.client_in(Caller::OWNER, tag),
            None => tree.client(Caller::OWNER),
        };
        let fs = Arc::new(Fs::new(client, !self.uncached_names, self.tap.is_some()));
        let watchers = self.inotify.then(|| Arc::new(Watchers::new()));
        let session = Arc::new(OnceLock::new());
        let reaper = Reaper::start(Arc::clone(&session));
        let orders = Mutex::new(reaper.orders.clone());
        let front = Front {
            fs: Arc::clone(&fs),
            watchers: watchers.clone(),
            tree_gone: Box::new(move |ack| {
                let orders = orders.lock().unwrap_or_else(PoisonError::into_inner);
                // Without a reaper the mount is going anyway.
                let _ = orders.send(Order::Detach(ack));
            }),
        };
        // Before the kernel can know anything that it would have to be told of.
        let guard = tree.register(Arc::new(front));
        let served = Requests { fs: Arc::clone(&fs), watchers: watchers.clone() };
        let mounted = match self.tap.clone() {
            None => Session::mount(served, dir, &self.session)?,
            Some(tap) => Session::mount(Tapped { served, tap }, dir, &self.session)?,
        };
        let path = mounted.path().to_owned();
        let recovered = mounted.recovered();
        if recovered {
            tracing::warn!(path = %path.display(), "cleared away a dead mount of a former start");
        }
        let teller = watchers.and_then(|watchers| Teller::start(&watchers, &fs, &path));
        let mounted = Arc::new(mounted);
        let _ = session.set(Arc::downgrade(&mounted));
        Ok(Mount {
            guard: Some(guard),
            reaper: Some(reaper),
            teller,
            session: Some(mounted),
            fs,
            path,
            recovered,
        })
    }
}

impl Default for MountOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// Why a tree could not be mounted or unmounted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// It could not be mounted.
    #[error(transparent)]
    Mount(#[from] fuse_session::MountError),
    /// It could not be unmounted.
    #[error(transparent)]
    Unmount(#[from] UnmountError),
}

/// A thread that unmounts when the tree goes, since the owner's call must not.
struct Reaper {
    orders: Sender<Order>,
    /// Tells whether it has unmounted; `None` where it could not be started, or has been stopped.
    thread: Option<JoinHandle<bool>>,
}

enum Order {
    Detach(Arc<Ack>),
    Stop,
}

impl Reaper {
    fn start(session: Arc<OnceLock<Weak<Session>>>) -> Self {
        let (orders, received) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("kernfs-reaper".into())
            .spawn(move || reap(&received, &session))
            .inspect_err(|error| tracing::error!(%error, "no thread to unmount with"))
            .ok();
        Self { orders, thread }
    }

    /// Ends it, and tells whether it has unmounted.
    fn stop(mut self) -> bool {
        self.join()
    }

    fn join(&mut self) -> bool {
        let _ = self.orders.send(Order::Stop);
        let detached = self.thread.take().map(JoinHandle::join);
        matches!(detached, Some(Ok(true)))
    }
}

/// Serves orders; tells whether it has unmounted.
fn reap(orders: &Receiver<Order>, session: &OnceLock<Weak<Session>>) -> bool {
    let mut detached = false;
    while let Ok(Order::Detach(ack)) = orders.recv() {
        let session = session.get().and_then(Weak::upgrade);
        match session.map(|session| session.detach()) {
            Some(Ok(())) => detached = true,
            Some(Err(error)) => tracing::error!(%error, "not unmounted when its tree went"),
            None => {}
        }
        drop(ack);
    }
    detached
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.join();
    }
}

/// A thread that has watchers told what the owner does.
struct Teller {
    watchers: Arc<Watchers>,
    /// `None` once joined.
    thread: Option<JoinHandle<()>>,
}

impl Teller {
    fn start(watchers: &Arc<Watchers>, fs: &Arc<Fs>, path: &Path) -> Option<Self> {
        let started = watchers.start(fs, path).inspect_err(|error| {
            tracing::warn!(%error, path = %path.display(),
                "inotify will not tell what the owner does");
            watchers.stop();
        });
        Some(Self { watchers: Arc::clone(watchers), thread: Some(started.ok()?) })
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.watchers.stop();
        // A panic in it was told of when it happened.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
