//! A mounted filesystem that is being served.

#![forbid(unsafe_code)]

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use zerocopy::IntoBytes;

use crate::abi;
use crate::channel::{Channel, Device, Received};
use crate::dispatch::Dispatcher;
use crate::errno::Errno;
use crate::filesystem::Filesystem;
use crate::fusectl;
use crate::init::{KernelConfig, MINOR_MIN};
use crate::mount::{self, MountError, Mounted, NewMount, UnmountError};
use crate::notify::{Lanes, Notifier, Retrievals, may_wait};
use crate::op::{Init, Operation};
use crate::options::MountOptions;
use crate::pool::Pool;
use crate::reply::Connection;
use crate::requests::Requests;
use crate::watchdog::Watchdog;
use crate::wire;

/// A mounted filesystem; dropping it unmounts.
///
/// It ends when anybody unmounts it, when the connection is aborted, or when
/// it is dropped. What is mounted at the directory afterwards is left alone.
#[must_use = "dropping a session unmounts its filesystem"]
pub struct Session {
    pool: Arc<Pool>,
    lanes: Arc<Lanes>,
    mounted: Mounted,
    config: KernelConfig,
    recovered: bool,
    closed: bool,
}

impl Session {
    /// Mounts a filesystem at a directory and serves it on threads of its own.
    ///
    /// # Errors
    ///
    /// [`MountError`] says what was in the way; nothing is left mounted then.
    pub fn mount(
        fs: impl Filesystem,
        dir: impl AsRef<Path>,
        options: &MountOptions,
    ) -> Result<Self, MountError> {
        let NewMount { device, mounted, recovered } = mount::mount(dir.as_ref(), options)?;
        let device = Arc::new(device);
        let served = serve(Box::new(fs), &device, &mounted, options).inspect_err(|_| {
            if let Err(error) = mounted.unmount(&device) {
                tracing::error!(%error, "a mount that failed is left behind");
            }
        });
        let (pool, lanes, config) = served?;
        Ok(Self { pool, lanes, mounted, config, recovered, closed: false })
    }

    /// Returns a handle to send notifications with.
    #[must_use]
    pub fn notifier(&self) -> Notifier {
        Notifier::new(Arc::clone(&self.lanes))
    }

    /// Returns where it is mounted, without symbolic links.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.mounted.path()
    }

    /// Returns what was agreed on with the kernel.
    #[must_use]
    pub const fn config(&self) -> &KernelConfig {
        &self.config
    }

    /// Returns whether a dead mount was removed to make way for this one.
    #[must_use]
    pub const fn recovered(&self) -> bool {
        self.recovered
    }

    /// Returns what the session is doing.
    #[must_use]
    pub fn stats(&self) -> SessionStats {
        let pool = self.pool.stats();
        let dispatcher = self.pool.dispatcher();
        SessionStats {
            threads: pool.threads,
            idle_threads: pool.idle,
            parked: dispatcher.connection.requests.parked(),
            served: pool.served,
            interrupts: dispatcher.interrupts.load(Ordering::Relaxed),
            panics: dispatcher.panics.load(Ordering::Relaxed),
        }
    }

    /// Waits until the session has ended, whoever ended it.
    ///
    /// When it returns, no method of the filesystem runs any more.
    pub fn wait(&self) {
        self.pool.wait();
    }

    /// Waits as [`wait`](Self::wait), but not longer than this; returns whether it has ended.
    #[must_use]
    pub fn wait_timeout(&self, patience: Duration) -> bool {
        self.pool.wait_timeout(patience)
    }

    /// Takes the mount out of the tree, while those who use it go on.
    ///
    /// The session ends with their last descriptor; see [`wait`](Self::wait).
    ///
    /// # Errors
    ///
    /// [`UnmountError::NotOurs`] if something else is mounted there now, which is left
    /// alone; [`UnmountError::System`] with what the kernel gave.
    pub fn detach(&self) -> Result<(), UnmountError> {
        self.mounted.detach(self.device())
    }

    /// Aborts the connection: all requests and open descriptors fail from now on.
    ///
    /// Waiting callers get `ECONNABORTED`, later calls `ENOTCONN`. The dead mount
    /// goes when the session is dropped.
    ///
    /// # Errors
    ///
    /// What opening the `abort` file in the control filesystem gave: usually
    /// `ENOENT` when it is not mounted and may not be, or `EACCES`.
    pub fn abort(&self) -> io::Result<()> {
        if self.device().is_connected() {
            fusectl::abort(&fusectl::abort_file(self.mounted.device())?)?;
        }
        Ok(())
    }

    /// Unmounts, and waits for the threads of the session.
    ///
    /// If somebody uses the mount, it is unmounted all the same: their
    /// descriptors give `ENOTCONN` from then on. Handlers that are running are
    /// waited for. On a thread of the session itself, nothing is waited for.
    ///
    /// # Errors
    ///
    /// [`UnmountError::NotOurs`] if something else is mounted there now, which is left
    /// alone; [`UnmountError::StillInUse`] if those who use the mount could not be cut
    /// off; [`UnmountError::System`] with what the kernel gave.
    pub fn unmount(mut self) -> Result<(), UnmountError> {
        self.close()
    }

    fn close(&mut self) -> Result<(), UnmountError> {
        if std::mem::replace(&mut self.closed, true) {
            return Ok(());
        }
        // Opened first: it stays tied to this connection, whatever happens to its number.
        let abort = self.device().is_connected().then(|| mount::abort_file(&self.mounted));
        let result = self.mounted.unmount(self.device());
        if !may_wait() {
            return result;
        }
        // An unmount that worked is not the end if another mount namespace
        // has a copy of the mount, and one that failed is none at all.
        let grace = if result.is_ok() { UNMOUNT_GRACE } else { Duration::ZERO };
        if !self.pool.wait_timeout(grace)
            && let Some(Some(abort)) = abort
            && let Err(error) = fusectl::abort(&abort)
        {
            tracing::error!(%error, "cannot abort the connection");
        }
        if self.device().is_connected() {
            let path = self.path().into();
            return result.and(Err(UnmountError::StillInUse { path }));
        }
        self.pool.wait();
        self.pool.join();
        self.lanes.join(LANE_GRACE);
        result
    }

    fn device(&self) -> &Device {
        &self.pool.dispatcher().device
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "dropping the session");
        }
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("path", &self.mounted.path())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// What a session is doing, each figure taken at a slightly different moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionStats {
    /// Threads that serve requests.
    pub threads: usize,
    /// Those of them that wait for a request.
    pub idle_threads: usize,
    /// Replies that are parked.
    pub parked: usize,
    /// Messages served, forgets and interrupts included.
    pub served: u64,
    /// Interrupts that found their request.
    pub interrupts: u64,
    /// Methods and callbacks that panicked.
    pub panics: u64,
}

/// How long an unmounted connection may take to end before it is aborted. It
/// ends within the system call unless another mount namespace has a copy.
const UNMOUNT_GRACE: Duration = Duration::from_secs(1);

/// How long the end of a session waits for a notification that is being written.
/// One can be stuck for ever, see [`crate::notify`]; the others take microseconds.
const LANE_GRACE: Duration = Duration::from_secs(1);

/// Room for the headers of a write, as the kernel counts it.
const HEADER_ROOM: usize = 4096;

/// Serves a new mount.
fn serve(
    fs: Box<dyn Filesystem>,
    device: &Arc<Device>,
    mounted: &Mounted,
    options: &MountOptions,
) -> Result<(Arc<Pool>, Arc<Lanes>, KernelConfig), MountError> {
    let buffer_len = options.max_write as usize + HEADER_ROOM;
    let config = handshake(&*fs, device, mounted, options.max_write)?;
    let watchdog = start_watchdog(mounted, options)?;
    let size = options.pool_size();
    let channel: Arc<dyn Channel> = Arc::clone(device) as _;
    let connection = Arc::new(Connection { channel, requests: Requests::new(size.cap) });
    let retrievals = Arc::new(Retrievals::default());
    let lanes = Arc::new(Lanes::new(Arc::clone(device), config.minor(), Arc::clone(&retrievals)));
    let notifier = Notifier::new(Arc::clone(&lanes));
    catch_unwind(AssertUnwindSafe(|| fs.mounted(&notifier)))
        .map_err(|_| MountError::Refused(Errno::EIO))?;
    let dispatcher = Dispatcher {
        fs,
        device: Arc::clone(device),
        connection,
        retrievals,
        panics: AtomicU64::new(0),
        interrupts: AtomicU64::new(0),
    };
    let pool = Arc::new(Pool::new(dispatcher, Arc::clone(&lanes), size, buffer_len));
    pool.start(watchdog).map_err(|source| MountError::Start { what: "a thread", source })?;
    Ok((pool, lanes, config))
}

fn start_watchdog(
    mounted: &Mounted,
    options: &MountOptions,
) -> Result<Option<Watchdog>, MountError> {
    let Some(patience) = options.watchdog else {
        return Ok(None);
    };
    let abort = mount::abort_file(mounted);
    if abort.is_none() {
        tracing::warn!("no access to the control filesystem: only as root can the watchdog abort");
    }
    Watchdog::start(mounted, abort.as_ref(), patience)
        .map(Some)
        .map_err(|source| MountError::Start { what: "the watchdog", source })
}

/// Answers the kernel's first message.
fn handshake(
    fs: &dyn Filesystem,
    device: &Device,
    mounted: &Mounted,
    max_write: u32,
) -> Result<KernelConfig, MountError> {
    let mut buffer = vec![0; HEADER_ROOM * 2];
    loop {
        let (unique, init) = first_message(device, mounted, &mut buffer)?;
        if init.major > abi::FUSE_KERNEL_VERSION {
            // The kernel asks again, in our version.
            answer(device, unique, 0, offer_our_version().as_bytes());
            continue;
        }
        if init.major < abi::FUSE_KERNEL_VERSION || init.minor < MINOR_MIN {
            answer(device, unique, -libc::EPROTO, &[]);
            return Err(MountError::KernelTooOld { major: init.major, minor: init.minor });
        }
        let mut config = KernelConfig::new(&init, max_write);
        let choice = catch_unwind(AssertUnwindSafe(|| fs.init(&mut config)));
        if let Err(errno) = choice.unwrap_or(Err(Errno::EIO)) {
            answer(device, unique, -errno.raw(), &[]);
            return Err(MountError::Refused(errno));
        }
        answer(device, unique, 0, config.to_abi().as_bytes());
        tracing::debug!(?config, path = %mounted.path().display(), "mounted");
        return Ok(config);
    }
}

fn first_message(
    device: &Device,
    mounted: &Mounted,
    buffer: &mut [u8],
) -> Result<(u64, Init), MountError> {
    loop {
        match device.receive(buffer) {
            Received::Message(len) => match wire::parse(&buffer[..len]) {
                Ok((request, Operation::Init(init))) => return Ok((request.unique, init)),
                other => tracing::error!(?other, "not the first message of a connection"),
            },
            Received::Nothing => {}
            Received::Ended => {
                let path = mounted.path().into();
                return Err(MountError::Ended { path });
            }
        }
    }
}

fn offer_our_version() -> abi::fuse_init_out {
    abi::fuse_init_out {
        major: abi::FUSE_KERNEL_VERSION,
        minor: crate::init::MINOR_OURS,
        ..Default::default()
    }
}

/// Answers the first message; if that fails the connection ends, which is seen at the next read.
fn answer(device: &Device, unique: u64, error: i32, body: &[u8]) {
    if let Err(error) = device.answer(unique, error, &[body]) {
        tracing::error!(%error, "the kernel refused the first answer");
    }
}
