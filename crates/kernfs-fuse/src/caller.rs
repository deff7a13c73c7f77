//! Who sent a request.

use std::fs;

use fuse_session::Request;
use kernfs::{Caller, Capability};

pub(crate) fn of(request: &Request) -> Caller {
    Caller::new(request.uid, request.gid, request.pid).with_capable(is_capable)
}

/// Looks up the effective capabilities of the calling thread.
fn is_capable(caller: &Caller, capability: Capability) -> bool {
    // A thread that is gone, or in another pid namespace (0), has none that could be known.
    let status = fs::read_to_string(format!("/proc/{}/status", caller.pid)).unwrap_or_default();
    effective(&status).is_some_and(|bits| (bits >> capability.0) & 1 == 1)
}

fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_set_is_read_from_the_status() {
        let status = "Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t0000000001000000\n";
        assert_eq!(effective(status), Some(1 << Capability::SYS_RESOURCE.0));
        assert_eq!(effective("Name:\tx\n"), None);
    }

    #[test]
    fn nobody_has_no_capabilities() {
        let nobody = Caller::new(0, 0, u32::MAX).with_capable(is_capable);
        assert!(!nobody.is_capable(Capability::SYS_ADMIN));
    }
}
