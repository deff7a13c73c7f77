//! System calls that `rustix` does not offer safely: the only file here with `unsafe`.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::ptr;

/// Gives SIGINT a handler that does nothing and lets no system call be restarted.
pub fn handle_sigint() {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: the action is valid, and its handler touches nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
        assert_eq!(libc::sigaction(libc::SIGINT, &raw const action, ptr::null_mut()), 0);
    }
}

/// Sends a signal to one thread.
pub fn signal_thread(pid: i32, tid: i32, signal: rustix::process::Signal) {
    // SAFETY: plain numbers.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, signal.as_raw()) };
    assert_eq!(result, 0);
}

/// Waits in select(2) for all three sets; tells which of them are ready.
pub fn select(fd: RawFd, timeout_ms: Option<u32>) -> io::Result<(bool, bool, bool)> {
    // SAFETY: the sets are valid, and the descriptor is below FD_SETSIZE in these tests.
    unsafe {
        let mut sets: [libc::fd_set; 3] = std::mem::zeroed();
        for set in &mut sets {
            libc::FD_SET(fd, set);
        }
        let mut timeout = timeout_ms.map(|ms| libc::timeval {
            tv_sec: (ms / 1000).into(),
            tv_usec: (ms % 1000 * 1000).into(),
        });
        let [read, write, except] = &mut sets;
        let timeout = timeout.as_mut().map_or(ptr::null_mut(), ptr::from_mut);
        if libc::select(fd + 1, read, write, except, timeout) < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((libc::FD_ISSET(fd, read), libc::FD_ISSET(fd, write), libc::FD_ISSET(fd, except)))
    }
}

/// Calls ioctl(2) with a command that wants a terminal.
pub fn tcgets(fd: &impl AsFd) -> io::Result<()> {
    // SAFETY: the place is large enough for a termios.
    let result = unsafe {
        let mut termios: libc::termios = std::mem::zeroed();
        libc::ioctl(fd.as_fd().as_raw_fd(), libc::TCGETS, &raw mut termios)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Calls getdents64(2) with an address of the caller's choice.
pub fn getdents(fd: &impl AsFd, memory: &Stalled) -> io::Result<usize> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the memory is writable for its whole length and outlives the call.
    let len = unsafe { libc::syscall(libc::SYS_getdents64, fd, memory.address, memory.len) };
    usize::try_from(len).map_err(|_| io::Error::last_os_error())
}

/// Calls write(2) with bytes from memory that nobody has filled yet.
pub fn write_from(fd: &impl AsFd, memory: &Stalled) -> io::Result<usize> {
    // SAFETY: the memory is readable for its whole length and outlives the call.
    let len = unsafe { libc::write(fd.as_fd().as_raw_fd(), memory.address, memory.len) };
    usize::try_from(len).map_err(|_| io::Error::last_os_error())
}

/// Calls read(2) into memory that stalls.
pub fn read_into(fd: &impl AsFd, memory: &Stalled) -> io::Result<usize> {
    // SAFETY: the memory is writable for its whole length and outlives the call.
    let len = unsafe { libc::read(fd.as_fd().as_raw_fd(), memory.address, memory.len) };
    usize::try_from(len).map_err(|_| io::Error::last_os_error())
}

/// A page of memory that stalls whoever touches it until it is filled.
pub struct Stalled {
    fault: OwnedFd,
    address: *mut c_void,
    len: usize,
}

// SAFETY: the address is only used as a number and by system calls.
unsafe impl Send for Stalled {}
// SAFETY: as above.
unsafe impl Sync for Stalled {}

impl Stalled {
    /// Makes one, if userfaultfd is to be had.
    pub fn new() -> io::Result<Self> {
        const PAGE: usize = 4096;
        // SAFETY: a new anonymous mapping, and ioctls on a new descriptor with structs of the
        // layout of linux/userfaultfd.h.
        unsafe {
            let fd = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC);
            let fd = RawFd::try_from(fd).unwrap_or(-1);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            let fault = <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd);
            let mut api = [UFFD_API, 0, 0];
            check(libc::ioctl(fd, UFFDIO_API, api.as_mut_ptr()))?;
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let address = libc::mmap(ptr::null_mut(), PAGE, protection, flags, -1, 0);
            if address == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            let mut register = [address as u64, PAGE as u64, UFFDIO_REGISTER_MODE_MISSING, 0];
            check(libc::ioctl(fd, UFFDIO_REGISTER, register.as_mut_ptr()))?;
            Ok(Self { fault, address, len: PAGE })
        }
    }

    /// Waits until somebody stalls in it.
    pub fn wait(&self) {
        let mut message = [0; 32];
        let mut fault = File::from(self.fault.try_clone().unwrap());
        assert_eq!(fault.read(&mut message).expect("a fault"), message.len());
    }

    /// Fills it, and lets everybody go on.
    pub fn fill(&self) {
        let page = vec![b'x'; self.len];
        let mut copy = [self.address as u64, page.as_ptr() as u64, self.len as u64, 0, 0];
        // SAFETY: source and destination are pages; the struct has its layout.
        unsafe { check(libc::ioctl(self.fault.as_raw_fd(), UFFDIO_COPY, copy.as_mut_ptr())) }
            .expect("filled");
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and nobody uses it any more.
        unsafe { libc::munmap(self.address, self.len) };
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

const UFFD_API: u64 = 0xaa;
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
const UFFDIO_COPY: libc::c_ulong = 0xc028_aa03;
const UFFDIO_REGISTER_MODE_MISSING: u64 = 1;

/// Sets user and group of this process for good, and drops all other groups.
pub fn become_user(uid: u32, gid: u32) {
    // SAFETY: plain numbers and an empty list.
    unsafe {
        assert_eq!(libc::setgroups(0, ptr::null()), 0);
        assert_eq!(libc::setresgid(gid, gid, gid), 0);
        assert_eq!(libc::setresuid(uid, uid, uid), 0);
    }
}

/// Does the same with supplementary groups.
pub fn become_member(uid: u32, gid: u32, group: u32) {
    // SAFETY: plain numbers and a list of one.
    unsafe {
        assert_eq!(libc::setgroups(1, &raw const group), 0);
        assert_eq!(libc::setresgid(gid, gid, gid), 0);
        assert_eq!(libc::setresuid(uid, uid, uid), 0);
    }
}

/// Returns the id of the calling thread.
pub fn tid() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

/// Maps a page of a file shared, and unmaps it again.
pub fn map_shared(file: &File) -> Result<(), rustix::io::Errno> {
    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
    // SAFETY: a new mapping at an address of the kernel's choice, which nobody touches.
    unsafe {
        let page = mmap(ptr::null_mut(), 4096, ProtFlags::READ, MapFlags::SHARED, file, 0)?;
        munmap(page, 4096)
    }
}

/// Calls truncate(2).
pub fn truncate(path: &Path, len: i64) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: a string that ends with NUL.
    check(unsafe { libc::truncate(path.as_ptr(), len) })
}

/// Calls close(2), and tells what it returns.
pub fn close(file: impl Into<OwnedFd>) -> io::Result<()> {
    let fd = std::os::fd::IntoRawFd::into_raw_fd(file.into());
    // SAFETY: nobody else has this descriptor.
    check(unsafe { libc::close(fd) })
}

/// A mapping of a file, which is looked at by system calls: those answer EFAULT where a program
/// would get SIGBUS.
pub struct Map {
    address: *mut c_void,
    len: usize,
}

// SAFETY: the address is only used as a number and by system calls, but for `touch`.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    /// Maps the beginning of a file: shared or private, to be written too or not.
    pub fn new(file: &File, len: usize, shared: bool, writable: bool) -> io::Result<Self> {
        let protection = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
        let flags = if shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address =
            unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, file.as_raw_fd(), 0) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { address, len })
    }

    /// Copies bytes out of it, at most 4,096.
    pub fn peek(&self, offset: usize, len: usize) -> io::Result<Vec<u8>> {
        assert!(offset + len <= self.len && len <= 4096);
        let (mut from, to) = io::pipe()?;
        // SAFETY: the range is within the mapping, which need not be readable for a system call.
        let copied = unsafe { libc::write(to.as_raw_fd(), self.address.byte_add(offset), len) };
        let copied = usize::try_from(copied).map_err(|_| io::Error::last_os_error())?;
        let mut bytes = vec![0; copied];
        from.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Copies bytes into it, at most 4,096.
    pub fn poke(&self, offset: usize, bytes: &[u8]) -> io::Result<()> {
        assert!(offset + bytes.len() <= self.len && bytes.len() <= 4096);
        let (from, mut to) = io::pipe()?;
        io::Write::write_all(&mut to, bytes)?;
        // SAFETY: the range is within the mapping, which belongs to nobody else.
        let copied =
            unsafe { libc::read(from.as_raw_fd(), self.address.byte_add(offset), bytes.len()) };
        if copied < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Reads a byte as a program does.
    pub fn touch(&self, offset: usize) -> u8 {
        assert!(offset < self.len);
        // SAFETY: within the mapping; where there is no page, the process ends.
        unsafe { self.address.cast::<u8>().add(offset).read_volatile() }
    }

    /// Has what was written to it written back (msync(2)).
    pub fn sync(&self) -> io::Result<()> {
        // SAFETY: the range is the mapping.
        check(unsafe { libc::msync(self.address, self.len, libc::MS_SYNC) })
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and nobody uses it any more.
        unsafe { libc::munmap(self.address, self.len) };
    }
}

/// A file handle (name_to_handle_at(2)): its type and its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Handle(i32, Vec<u8>);

/// The largest handle there is (`MAX_HANDLE_SZ`), with its head.
#[repr(C)]
struct RawHandle {
    len: u32,
    kind: i32,
    bytes: [u8; 128],
}

impl Handle {
    /// Asks for the handle of a path.
    pub fn of(path: &Path) -> io::Result<Self> {
        use std::os::unix::ffi::OsStrExt;
        let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
        let mut raw = RawHandle { len: 128, kind: 0, bytes: [0; 128] };
        let mut mount = 0;
        // SAFETY: the handle has room for as many bytes as it says.
        let result = unsafe {
            let (path, raw) = (path.as_ptr(), (&raw mut raw).cast());
            libc::name_to_handle_at(libc::AT_FDCWD, path, raw, &raw mut mount, 0)
        };
        check(result)?;
        Ok(Self(raw.kind, raw.bytes[..raw.len as usize].to_vec()))
    }

    /// Opens it in the filesystem of a descriptor.
    pub fn open(&self, mount: &impl AsFd, flags: i32) -> io::Result<OwnedFd> {
        let mut raw = RawHandle { len: self.1.len() as u32, kind: self.0, bytes: [0; 128] };
        raw.bytes[..self.1.len()].copy_from_slice(&self.1);
        // SAFETY: the handle has as many bytes as it says.
        let fd = unsafe {
            let raw = (&raw mut raw).cast();
            libc::open_by_handle_at(mount.as_fd().as_raw_fd(), raw, flags | libc::O_CLOEXEC)
        };
        check(fd)?;
        // SAFETY: a new descriptor.
        Ok(unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd) })
    }

    /// Returns one with other bytes.
    pub fn with(mut self, change: impl FnOnce(&mut [u8])) -> Self {
        change(&mut self.1);
        self
    }
}

/// Has a program run in user and mount namespaces of its own, as `unshare --user --mount` does:
/// its user is known by this number there, and nobody else is.
///
/// Whatever the number, it may mount.
pub fn isolate(command: &mut Command, uid: u32) {
    use rustix::thread::{CapabilitySet, CapabilitySets};
    let [users, groups] =
        [rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()]
            .map(|own| format!("{uid} {own} 1"));
    let enter = move || {
        unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS)?;
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", &users)?;
        fs::write("/proc/self/gid_map", &groups)?;
        // Who is not root there loses all of it at exec, but for what is handed down.
        let mount = CapabilitySet::SYS_ADMIN;
        let (effective, permitted) = (mount, mount);
        let sets = CapabilitySets { effective, permitted, inheritable: mount };
        rustix::thread::set_capabilities(None, sets)?;
        rustix::thread::configure_capability_in_ambient_set(mount, true)?;
        Ok(())
    };
    // SAFETY: between fork and exec, in a process of one thread: system calls, and for the paths
    // memory from the stack.
    unsafe { command.pre_exec(enter) };
}

/// Has a program run in a mount namespace of its own, where everybody may use `/dev/fuse`.
pub fn open_fuse_to_all(command: &mut Command, place: &Path) {
    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
    let (place, device) = (place.to_owned(), place.join("fuse"));
    let enter = move || {
        unshare(libc::CLONE_NEWNS)?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        mount("place", &place, "tmpfs", MountFlags::empty(), None)?;
        let kind = FileType::CharacterDevice;
        mknodat(CWD, &device, kind, Mode::empty(), makedev(10, 229))?;
        rustix::fs::chmod(&device, Mode::from_raw_mode(0o666))?;
        mount_bind(&device, "/dev/fuse")?;
        Ok(())
    };
    // SAFETY: as above.
    unsafe { command.pre_exec(enter) };
}

fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: plain numbers; the process has one thread.
    check(unsafe { libc::unshare(flags) })
}
