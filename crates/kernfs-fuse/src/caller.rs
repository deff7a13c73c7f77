//! Who sent a request.
//!
//! The kernel tells user, group and thread. What else a driver asks for is read from `/proc` when
//! it asks: while an operation runs, the thread waits for its answer, so that it is there.

use std::fs;

use fuse_session::Request;
use kernfs::{Caller, Capability};

pub(crate) fn of(request: &Request) -> Caller {
    Caller::new(request.uid, request.gid, request.pid)
        .with_capable(is_capable)
        .with_groups(is_in_group)
}

/// Looks up the effective capabilities of the calling thread.
fn is_capable(caller: &Caller, capability: Capability) -> bool {
    let status = Status::of(caller);
    status.and_then(|status| status.effective()).is_some_and(|bits| bits >> capability.0 & 1 == 1)
}

/// Looks up the supplementary groups of the calling thread.
fn is_in_group(caller: &Caller, gid: u32) -> bool {
    Status::of(caller).is_some_and(|status| status.groups().any(|group| group == gid))
}

/// What `/proc/TID/status` tells of a thread.
struct Status(String);

impl Status {
    /// Returns it, if the thread is still there and has not become somebody else.
    ///
    /// A driver may keep a caller and ask later, when the number may have been given to another
    /// thread. One that is in another pid namespace (0) cannot be known.
    fn of(caller: &Caller) -> Option<Self> {
        let status = Self(fs::read_to_string(format!("/proc/{}/status", caller.pid)).ok()?);
        let is_same = status.fs_id("Uid:")? == caller.uid && status.fs_id("Gid:")? == caller.gid;
        is_same.then_some(status)
    }

    fn effective(&self) -> Option<u64> {
        u64::from_str_radix(self.line("CapEff:")?, 16).ok()
    }

    fn groups(&self) -> impl Iterator<Item = u32> + '_ {
        let words = self.line("Groups:").unwrap_or_default().split_whitespace();
        words.filter_map(|word| word.parse().ok())
    }

    /// Returns the last of real, effective, saved and filesystem id.
    fn fs_id(&self, name: &str) -> Option<u32> {
        self.line(name)?.split_whitespace().nth(3)?.parse().ok()
    }

    fn line(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_taken_apart() {
        let status = "Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t4 24 \n\
                      CapPrm:\t0000000000000000\nCapEff:\t0000000001000000\n";
        let status = Status(status.into());
        assert_eq!(status.effective(), Some(1 << Capability::SYS_RESOURCE.0));
        assert_eq!(status.groups().collect::<Vec<_>>(), [4, 24]);
        assert_eq!((status.fs_id("Uid:"), status.fs_id("Gid:")), (Some(4), Some(8)));
        assert_eq!(Status("Name:\tx\n".into()).effective(), None);
    }

    #[test]
    fn nobody_has_no_capabilities() {
        let nobody = Caller::new(0, 0, u32::MAX).with_capable(is_capable);
        assert!(!nobody.is_capable(Capability::SYS_ADMIN));
    }

    #[test]
    fn a_number_that_was_given_to_another_user_has_no_capabilities() {
        let own = std::process::id();
        let other = Caller::new(u32::MAX, u32::MAX, own).with_capable(is_capable);
        assert!(!other.is_capable(Capability::SYS_ADMIN));
        assert!(!other.with_groups(is_in_group).is_in_group(0));
    }
}
