//! System calls that no library offers safely: the only file here with `unsafe`.

#![allow(unsafe_code)]

use std::ffi::{CString, c_int, c_void};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

use crate::subject::{Sys, errno};

fn last_errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(errno::EINVAL)
}

fn check(result: impl TryInto<usize>) -> Sys<usize> {
    result.try_into().map_err(|_| last_errno())
}

fn c_string(path: &str) -> Sys<CString> {
    CString::new(path).map_err(|_| errno::EINVAL)
}

/// Calls close(2), and tells what it returns.
pub(crate) fn close(fd: OwnedFd) -> Sys<()> {
    // SAFETY: nobody else has this descriptor any more.
    check(unsafe { libc::close(fd.into_raw_fd()) }).map(drop)
}

/// Calls truncate(2).
pub(crate) fn truncate(path: &str, len: u64) -> Sys<()> {
    let path = c_string(path)?;
    let len = i64::try_from(len).map_err(|_| errno::EINVAL)?;
    // SAFETY: a string that ends with NUL.
    check(unsafe { libc::truncate(path.as_ptr(), len) }).map(drop)
}

/// Writes from an address that nothing is at.
pub(crate) fn write_bad_pointer(fd: BorrowedFd<'_>) -> Sys<usize> {
    // SAFETY: the kernel finds out by itself that the address is not one.
    check(unsafe { libc::write(fd.as_raw_fd(), ptr::without_provenance(8), 1) })
}

/// Waits in select(2) for those of the three sets that are asked for; tells which are ready.
pub(crate) fn select(fd: BorrowedFd<'_>, wanted: [bool; 3], timeout: Duration) -> Sys<[bool; 3]> {
    let fd = fd.as_raw_fd();
    if !(0..c_int::try_from(libc::FD_SETSIZE).unwrap_or(c_int::MAX)).contains(&fd) {
        return Err(errno::EINVAL);
    }
    // SAFETY: the sets are valid, and the descriptor fits into them.
    unsafe {
        let mut sets: [libc::fd_set; 3] = std::mem::zeroed();
        for (set, _) in sets.iter_mut().zip(wanted).filter(|(_, is_wanted)| *is_wanted) {
            libc::FD_SET(fd, set);
        }
        let mut timeout = libc::timeval {
            tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
            tv_usec: timeout.subsec_micros().into(),
        };
        let [read, write, except] = &mut sets;
        check(libc::select(fd + 1, read, write, except, &raw mut timeout))?;
        Ok(sets.each_ref().map(|set| libc::FD_ISSET(fd, set)))
    }
}

/// Leaves the network namespace of the process, for this thread only.
pub(crate) fn unshare_network() -> Sys<()> {
    // SAFETY: no descriptors and no memory are concerned.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) }).map(drop)
}

/// Gives this thread a working directory of its own.
pub(crate) fn unshare_cwd() -> Sys<()> {
    // SAFETY: no descriptors and no memory are concerned.
    check(unsafe { libc::unshare(libc::CLONE_FS) }).map(drop)
}

/// What name_to_handle_at(2) gives; `struct file_handle` with its largest payload.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Handle {
    len: u32,
    kind: i32,
    bytes: [u8; libc::MAX_HANDLE_SZ as usize],
}

/// Calls name_to_handle_at(2).
pub(crate) fn name_to_handle(path: &str) -> Sys<Handle> {
    let path = c_string(path)?;
    let bytes = [0; libc::MAX_HANDLE_SZ as usize];
    let mut handle = Handle { len: bytes.len() as u32, kind: 0, bytes };
    let mut mount = 0;
    let place = (&raw mut handle).cast();
    // SAFETY: the handle has its layout, and tells how much room it has.
    check(unsafe {
        libc::name_to_handle_at(libc::AT_FDCWD, path.as_ptr(), place, &raw mut mount, 0)
    })?;
    Ok(handle)
}

/// Calls open_by_handle_at(2) with something of the same filesystem.
pub(crate) fn open_by_handle(at: BorrowedFd<'_>, handle: &Handle, flags: i32) -> Sys<OwnedFd> {
    let mut handle = *handle;
    let place = (&raw mut handle).cast();
    // SAFETY: the handle has its layout; what is returned is a new descriptor.
    unsafe {
        let fd = libc::open_by_handle_at(at.as_raw_fd(), place, flags | libc::O_CLOEXEC);
        check(fd)?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// A shared mapping for reading, which is never touched but by system calls.
pub(crate) struct Mapped {
    address: *mut c_void,
    len: usize,
}

// SAFETY: the address is only given to system calls.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    pub(crate) fn new(fd: BorrowedFd<'_>, len: usize) -> Sys<Self> {
        let (how, shared) = (libc::PROT_READ, libc::MAP_SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe { libc::mmap(ptr::null_mut(), len, how, shared, fd.as_raw_fd(), 0) };
        if address == libc::MAP_FAILED { Err(last_errno()) } else { Ok(Self { address, len }) }
    }

    /// Has the kernel write a part of it to a pipe: EFAULT, where a touch would be SIGBUS.
    pub(crate) fn write_to(&self, pipe: BorrowedFd<'_>, offset: usize, len: usize) -> Sys<usize> {
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(errno::EFAULT);
        }
        // SAFETY: the range is inside the mapping, and the kernel copes with pages that are gone.
        check(unsafe { libc::write(pipe.as_raw_fd(), self.address.byte_add(offset), len) })
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and nobody else knows the address.
        unsafe { libc::munmap(self.address, self.len) };
    }
}

/// A page of memory that stalls whoever touches it until it is filled.
pub(crate) struct Stalled {
    fault: OwnedFd,
    address: *mut c_void,
}

const PAGE: usize = 4096;

// SAFETY: the address is only given to system calls.
unsafe impl Send for Stalled {}
// SAFETY: as above.
unsafe impl Sync for Stalled {}

impl Stalled {
    /// Makes one, if userfaultfd(2) is to be had.
    pub(crate) fn new() -> Sys<Self> {
        // SAFETY: a new anonymous mapping, and ioctls on a new descriptor with structs of the
        // layout of linux/userfaultfd.h.
        unsafe {
            let fd = check(libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC))?;
            let fault = OwnedFd::from_raw_fd(fd as c_int);
            let mut api = [UFFD_API, 0, 0];
            check(libc::ioctl(fault.as_raw_fd(), UFFDIO_API, api.as_mut_ptr()))?;
            let how = libc::PROT_READ | libc::PROT_WRITE;
            let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let address = libc::mmap(ptr::null_mut(), PAGE, how, private, -1, 0);
            if address == libc::MAP_FAILED {
                return Err(last_errno());
            }
            let stalled = Self { fault, address };
            let mut register =
                [address.addr() as u64, PAGE as u64, UFFDIO_REGISTER_MODE_MISSING, 0];
            let fd = stalled.fault.as_raw_fd();
            check(libc::ioctl(fd, UFFDIO_REGISTER, register.as_mut_ptr()))?;
            Ok(stalled)
        }
    }

    /// Waits until somebody stalls in it.
    pub(crate) fn wait(&self) {
        let mut message = [0; 32];
        let mut fault = File::from(self.fault.try_clone().expect("a descriptor"));
        assert_eq!(fault.read(&mut message).expect("a fault"), message.len());
    }

    /// Fills it, and lets everybody go on.
    pub(crate) fn fill(&self) {
        let page = [b'1'; PAGE];
        let mut copy = [self.address.addr() as u64, page.as_ptr().addr() as u64, PAGE as u64, 0, 0];
        // SAFETY: source and destination are pages; the struct has its layout.
        check(unsafe { libc::ioctl(self.fault.as_raw_fd(), UFFDIO_COPY, copy.as_mut_ptr()) })
            .expect("filled");
    }

    /// Calls read(2) into it.
    pub(crate) fn read_from(&self, fd: BorrowedFd<'_>, len: usize) -> Sys<usize> {
        assert!(len <= PAGE, "a part of the page");
        // SAFETY: the memory is writable for this length and outlives the call.
        check(unsafe { libc::read(fd.as_raw_fd(), self.address, len) })
    }

    /// Calls write(2) from it.
    pub(crate) fn write_to(&self, fd: BorrowedFd<'_>, len: usize) -> Sys<usize> {
        assert!(len <= PAGE, "a part of the page");
        // SAFETY: the memory is readable for this length and outlives the call.
        check(unsafe { libc::write(fd.as_raw_fd(), self.address, len) })
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and nobody uses it any more.
        unsafe { libc::munmap(self.address, PAGE) };
    }
}

const UFFD_API: u64 = 0xaa;
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
const UFFDIO_COPY: libc::c_ulong = 0xc028_aa03;
const UFFDIO_REGISTER_MODE_MISSING: u64 = 1;
