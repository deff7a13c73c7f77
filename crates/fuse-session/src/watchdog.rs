//! A process that aborts the connection when its parent is gone or stuck.
//!
//! It cannot be a thread: when the parent is killed, a thread of it that hangs
//! in the kernel keeps `/dev/fuse` open, and the clients hang with it. It
//! is a fork that runs async-signal-safe code only, since any lock of the
//! parent may be held for ever in it. It holds two descriptors: its end of
//! a socket pair, and the `abort` file of the connection in the control
//! filesystem, which the parent opened: the kernel unties that from the
//! connection when it ends, so that a late write can hit no other one.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno as Os;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::mount::Mounted;

/// The parent's side of its watchdog; dropping it sends the watchdog away and reaps it.
#[derive(Debug)]
pub(crate) struct Watchdog {
    socket: OwnedFd,
    child: libc::pid_t,
    interval: Duration,
    last_beat: Instant,
}

impl Watchdog {
    /// Starts a watchdog for a mount.
    pub(crate) fn start(
        mounted: &Mounted,
        abort: Option<&OwnedFd>,
        patience: Duration,
    ) -> io::Result<Self> {
        let (socket, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let orders = Orders {
            socket: theirs.as_raw_fd(),
            abort: abort.map_or(-1, AsRawFd::as_raw_fd),
            slice_ms: i32::try_from(patience.as_millis() / u128::from(SLICES)).unwrap_or(i32::MAX),
            path: CString::new(mounted.path().as_os_str().as_encoded_bytes())?,
            device: mounted.device(),
        };
        let child = fork_into(&orders)?;
        drop(theirs);
        let watchdog = Self {
            socket,
            child,
            interval: patience / BEATS_PER_PATIENCE,
            last_beat: Instant::now(),
        };
        watchdog.wait_until_ready()?;
        Ok(watchdog)
    }

    /// Returns the time between two beats.
    pub(crate) const fn interval(&self) -> Duration {
        self.interval
    }

    /// Returns whether it is time for a beat.
    pub(crate) fn is_due(&self) -> bool {
        self.last_beat.elapsed() >= self.interval * 9 / 10
    }

    /// Tells the watchdog that all is well; returns `false` if it is gone.
    pub(crate) fn beat(&mut self) -> bool {
        self.last_beat = Instant::now();
        self.tell(BEAT)
    }

    fn tell(&self, what: u8) -> bool {
        // NOSIGNAL: a watchdog that is gone must not kill us with SIGPIPE.
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        // AGAIN: the queue is full of beats that a stopped watchdog did not read.
        matches!(rustix::net::send(&self.socket, &[what], flags), Ok(_) | Err(Os::AGAIN))
    }

    /// Waits until the child has closed what it inherited.
    fn wait_until_ready(&self) -> io::Result<()> {
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        let timeout = Timespec { tv_sec: READY_SECONDS, tv_nsec: 0 };
        rustix::io::retry_on_intr(|| poll(&mut fds, Some(&timeout)))?;
        let mut byte = [0];
        let (len, _) = rustix::net::recv(&self.socket, &mut byte, RecvFlags::DONTWAIT)?;
        if len == 1 {
            Ok(())
        } else {
            Err(io::Error::other("the watchdog process could not start"))
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.tell(LEAVE);
        let mut status = 0;
        // SAFETY: `status` is a valid place for an int. `__WALL` is needed
        // because the child has no exit signal.
        while unsafe { libc::waitpid(self.child, &raw mut status, libc::__WALL) } == -1
            && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
        {}
    }
}

/// Beats in the time that the watchdog waits: some may be late on a busy machine.
const BEATS_PER_PATIENCE: u32 = 8;

/// The watchdog waits in this many parts. If the whole machine or a control
/// group stands still, at most one of them passes unseen.
const SLICES: u32 = 4;

/// How long a new process may take to get going.
const READY_SECONDS: i64 = 10;

const READY: u8 = b'r';
const BEAT: u8 = b'b';
const LEAVE: u8 = b'l';

/// All that the child uses, made before the fork.
struct Orders {
    socket: RawFd,
    /// The `abort` file of the connection, or -1.
    abort: RawFd,
    slice_ms: i32,
    /// Where to unmount by force when there is no `abort` file.
    path: CString,
    /// Major and minor number of the filesystem that may be unmounted there.
    device: (u32, u32),
}

/// Starts the child; returns in the parent only.
fn fork_into(orders: &Orders) -> io::Result<libc::pid_t> {
    let all = all_signals();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // The parent's handlers must not run in the child, so no signal may be
    // open when it begins.
    // SAFETY: both sets are valid; `before` is written before it is read.
    let before = unsafe {
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, before.as_mut_ptr());
        before.assume_init()
    };
    // A clone without an exit signal: the parent gets no SIGCHLD and its
    // wait(2) calls do not see the child.
    // SAFETY: with all arguments 0 this is fork(2) but for the signal. The child
    // calls only `watch`, which is async-signal-safe and does not return.
    let pid = unsafe { libc::syscall(libc::SYS_clone, NONE, NONE, NONE, NONE, NONE) };
    if pid == 0 {
        watch(orders);
    }
    let error = io::Error::last_os_error();
    // SAFETY: `before` is the valid mask from above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut()) };
    match libc::pid_t::try_from(pid) {
        Ok(pid) if pid > 0 => Ok(pid),
        _ => Err(error),
    }
}

/// An empty argument of a system call, as wide as the register.
const NONE: libc::c_long = 0;

fn all_signals() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigfillset writes the whole set.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        set.assume_init()
    }
}

/// Is the child. From here on: system calls only, no allocation, no lock, no panic.
fn watch(orders: &Orders) -> ! {
    // SAFETY: plain system calls on valid arguments. A new session keeps the
    // signals of a terminal away; the root directory pins no mount.
    unsafe {
        libc::setsid();
        libc::chdir(c"/".as_ptr());
        libc::prctl(libc::PR_SET_NAME, c"fuse-watchdog".as_ptr(), 0, 0, 0);
    }
    if !close_all_but(orders.socket, orders.abort) {
        exit(1);
    }
    send_byte(orders.socket, READY);
    let mut silent = 0;
    while silent < SLICES {
        match listen(orders.socket, orders.slice_ms) {
            Heard::Beat => silent = 0,
            Heard::Silence => silent += 1,
            Heard::Leave => exit(0),
            Heard::Gone => break,
        }
    }
    if !abort(orders.abort) {
        unmount(&orders.path, orders.device);
    }
    exit(2)
}

/// Closes every descriptor but two, since `/dev/fuse` among them would keep
/// the connection alive.
fn close_all_but(one: RawFd, other: RawFd) -> bool {
    let (low, high) = if one < other { (one, other) } else { (other, one) };
    close_between(-1, low) && close_between(low, high) && close_between(high, RawFd::MAX)
}

/// Closes the descriptors between two others; -1 stands for the one before 0.
fn close_between(after: RawFd, before: RawFd) -> bool {
    let (first, last) = (after.wrapping_add(1), before.wrapping_sub(1));
    if before < 0 || first > last {
        return true;
    }
    // SAFETY: closing descriptors is harmless here, since nothing in this
    // process uses them any more.
    if unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } == 0 {
        return true;
    }
    // Before Linux 5.9, or forbidden by a filter: one by one, up to the limit
    // that the kernel has for a table unless root raised it.
    for fd in first..=last.min(CLOSE_MAX) {
        // SAFETY: as above.
        unsafe { libc::close(fd) };
    }
    true
}

/// Default of `fs.nr_open`.
const CLOSE_MAX: RawFd = 1 << 20;

enum Heard {
    Beat,
    Leave,
    Silence,
    /// The other end is closed.
    Gone,
}

fn listen(socket: RawFd, timeout_ms: i32) -> Heard {
    let mut fd = libc::pollfd { fd: socket, events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd.
    if unsafe { libc::poll(&raw mut fd, 1, timeout_ms) } == 0 {
        return Heard::Silence;
    }
    let mut byte = 0_u8;
    // SAFETY: `byte` has room for one byte.
    let len = unsafe { libc::recv(socket, (&raw mut byte).cast(), 1, libc::MSG_DONTWAIT) };
    match (len, byte) {
        (1, LEAVE) => Heard::Leave,
        (1, _) => Heard::Beat,
        _ => Heard::Gone,
    }
}

fn send_byte(socket: RawFd, byte: u8) {
    // SAFETY: one readable byte.
    unsafe { libc::send(socket, (&raw const byte).cast(), 1, libc::MSG_NOSIGNAL) };
}

/// Aborts the connection through the control filesystem.
fn abort(file: RawFd) -> bool {
    // SAFETY: one readable byte; a bad descriptor gives an error.
    file >= 0 && unsafe { libc::write(file, c"1".as_ptr().cast(), 1) } == 1
}

/// Unmounts by force, which aborts too, if the filesystem at the path is still the one.
fn unmount(path: &CStr, device: (u32, u32)) {
    let flags = libc::AT_STATX_DONT_SYNC | libc::AT_NO_AUTOMOUNT | libc::AT_SYMLINK_NOFOLLOW;
    let mut found = MaybeUninit::<libc::statx>::uninit();
    // SAFETY: `path` ends with NUL; `found` is read only after success, when
    // the kernel has written all of it. Without a sync, no server is asked.
    let found = unsafe {
        let mask = libc::STATX_TYPE;
        if libc::statx(libc::AT_FDCWD, path.as_ptr(), flags, mask, found.as_mut_ptr()) != 0 {
            return;
        }
        found.assume_init()
    };
    if (found.stx_dev_major, found.stx_dev_minor) == device {
        let flags = libc::MNT_FORCE | libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW;
        // SAFETY: `path` ends with NUL.
        unsafe { libc::umount2(path.as_ptr(), flags) };
    }
}

fn exit(status: i32) -> ! {
    // SAFETY: ends this process without running anything of the parent's.
    unsafe { libc::_exit(status) }
}
