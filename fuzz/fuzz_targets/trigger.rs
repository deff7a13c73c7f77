//! Any bytes as a trigger, taken as by a plain model of the kernel's scanf.

#![no_main]

use kernfs_fuzz::{Trigger, model};
use kernfs_psi::{Privilege, Resource, Stall, parse_trigger};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    for resource in Resource::ALL {
        for privilege in [Privilege::Privileged, Privilege::Unprivileged] {
            let parsed = parse_trigger(text, resource, privilege);
            let taken = parsed.map(|condition| Trigger {
                is_full: condition.stall() == Stall::Full,
                threshold: condition.threshold().as_micros() as u64,
                window: condition.window().as_micros() as u64,
            });
            assert_eq!(taken.ok(), model(text, resource, privilege));
        }
    }
});
