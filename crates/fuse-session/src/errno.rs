//! The error that a request is answered with.

#![forbid(unsafe_code)]

use std::fmt;
use std::io;

/// A Linux error number, always positive.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i32);

impl Errno {
    /// Makes an error number from its raw value; what is out of range becomes `EIO`.
    ///
    /// The kernel takes 1 to 511 from a FUSE server and drops a reply with
    /// anything else, which would leave the client waiting.
    #[must_use]
    pub const fn from_raw(raw: i32) -> Self {
        if raw > 0 && raw <= MAX_ERRNO { Self(raw) } else { Self::EIO }
    }

    /// Returns the raw, positive value.
    #[must_use]
    pub const fn raw(self) -> i32 {
        self.0
    }
}

/// The largest errno that the kernel accepts in a reply: it wants `-512 < error`.
const MAX_ERRNO: i32 = 511;

macro_rules! errnos {
    ($($name:ident $text:literal,)*) => {
        impl Errno {
            $(#[doc = $text] pub const $name: Self = Self(libc::$name);)*

            /// Returns the symbolic name, where this list has it.
            const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $(libc::$name => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

errnos! {
    E2BIG "Argument list too long.",
    EACCES "Permission denied.",
    EAGAIN "Try again.",
    EBADF "Bad file number.",
    EBUSY "Device or resource busy.",
    ECANCELED "Operation canceled.",
    ECONNABORTED "Connection aborted.",
    EDEADLK "A wait would never end.",
    EEXIST "File exists.",
    EFAULT "Bad address.",
    EFBIG "File too large.",
    EINTR "Interrupted by a signal.",
    EINVAL "Invalid argument.",
    EIO "I/O error.",
    EISDIR "Is a directory.",
    ELOOP "Too many symbolic links.",
    EMFILE "Too many open files in the process.",
    EMLINK "Too many links.",
    ENAMETOOLONG "Name too long.",
    ENFILE "Too many open files in the system.",
    ENOBUFS "No room left in a queue.",
    ENODATA "No data, or no such extended attribute.",
    ENODEV "No such device.",
    ENOENT "No such file or directory.",
    ENOMEM "Out of memory.",
    ENOSPC "No space left.",
    ENOSYS "Operation not there; the kernel remembers it and stops asking.",
    ENOTCONN "Not connected.",
    ENOTDIR "Not a directory.",
    ENOTEMPTY "Directory not empty.",
    ENOTTY "Not an ioctl of this file.",
    ENXIO "No such address.",
    EOPNOTSUPP "Operation not supported.",
    EOVERFLOW "Value too large.",
    EPERM "Operation not permitted.",
    EPIPE "Broken pipe.",
    EPROTO "Protocol error.",
    ERANGE "Result too large for the buffer.",
    EROFS "Read-only filesystem.",
    ESPIPE "Not seekable.",
    ESTALE "Stale file handle.",
    ETIMEDOUT "Timed out.",
    ETXTBSY "Text file busy.",
    EXDEV "Link across filesystems.",
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "Errno({})", self.0),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&io::Error::from_raw_os_error(self.0), f)
    }
}

impl std::error::Error for Errno {}

impl From<rustix::io::Errno> for Errno {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::from_raw(errno.raw_os_error())
    }
}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> Self {
        Self::from_raw_os_error(errno.0)
    }
}

impl From<io::Error> for Errno {
    fn from(error: io::Error) -> Self {
        error.raw_os_error().map_or(Self::EIO, Self::from_raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_the_kernel_would_drop_become_eio() {
        for raw in [i32::MIN, -5, 0, 512, i32::MAX] {
            assert_eq!(Errno::from_raw(raw), Errno::EIO);
        }
        assert_eq!(Errno::from_raw(libc::ENODEV), Errno::ENODEV);
    }

    #[test]
    fn debug_names_what_it_knows() {
        assert_eq!(format!("{:?}", Errno::ENODEV), "ENODEV");
        assert_eq!(format!("{:?}", Errno::from_raw(500)), "Errno(500)");
    }
}
